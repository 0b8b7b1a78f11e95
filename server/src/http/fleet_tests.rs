//! Servers of one bucket, in process: what one has acknowledged the other answers with, though it has not looked for it yet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use axum::http::{Request, StatusCode};
use bytes::Bytes;
use reprise_engine::{
    Error, ErrorKind, Result,
    id::LogId,
    store::{ObjectStore, Staged, StoreKey, memory::MemoryStore},
};
use reprise_projections::View;
use serde_json::{Value, json};

use super::mwp_tests::{Reply, Rig, two_commits};
use crate::hub::{Caller, Hub, HubError, repos::NewRepo};

/// A bucket in memory that may be out of reach, and counts what it is asked.
#[derive(Default)]
pub(super) struct Bucket {
    store: MemoryStore,
    pub(super) is_down: AtomicBool,
    pub(super) asked: AtomicU64,
}

impl Bucket {
    fn reached(&self) -> Result<&MemoryStore> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.is_down.load(Ordering::SeqCst) {
            true => Err(Error::new(ErrorKind::Unavailable, "the bucket is out of reach")),
            false => Ok(&self.store),
        }
    }
}

impl ObjectStore for Bucket {
    fn stage(&self) -> Result<Box<dyn Staged>> {
        self.reached()?.stage()
    }

    fn read(&self, key: &StoreKey, offset: u64, len: u64) -> Result<Bytes> {
        self.reached()?.read(key, offset, len)
    }

    fn read_tail(&self, key: &StoreKey, len: u64) -> Result<(Bytes, u64)> {
        self.reached()?.read_tail(key, len)
    }

    fn size(&self, key: &StoreKey) -> Result<u64> {
        self.reached()?.size(key)
    }

    fn create(&self, key: &StoreKey, bytes: &[u8]) -> Result<bool> {
        self.reached()?.create(key, bytes)
    }

    fn delete(&self, key: &StoreKey) -> Result<()> {
        self.reached()?.delete(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<StoreKey>> {
        self.reached()?.list(prefix)
    }

    fn uri(&self, key: &StoreKey) -> String {
        self.store.uri(key)
    }

    fn sweep_staged(&self) -> Result<usize> {
        self.store.sweep_staged()
    }

    fn claim(&self, log: LogId, fresh: bool) -> Result<()> {
        self.reached()?.claim(log, fresh)
    }
}

impl Rig {
    async fn asked(&self, endpoint: &str, body: &Value) -> Reply {
        let request = Request::post(format!("/alice/etude/{endpoint}"))
            .header("content-type", "application/json")
            .header("authorization", "Bearer operator");
        self.send(request.body(body.to_string().into()).unwrap()).await
    }

    async fn seen(&self) -> View {
        self.hub.readable(&Caller::Operator, "alice", "etude").await.unwrap().1
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_acknowledged_any_other_sends_as_packs_at_once() {
    let [one, other] = Rig::two_of_a_bucket();
    one.hub.create_repo(&Caller::Operator, NewRepo::named("alice", "etude")).await.unwrap();
    other.seen().await;
    let (mut history, _, mut head) = two_commits();
    for (number, endpoint) in ["fetch/mpack", "fetch/presign"].into_iter().enumerate() {
        for body in [json!({"want": [head]}), json!({"branch": "main"})] {
            head = history.commit(&[&head], &[("more", body.to_string().as_bytes())], &format!("number {number}"));
            let body = match body["branch"].is_null() {
                true => json!({"want": [head]}),
                false => body,
            };
            assert_eq!(one.push_all("etude", &history, "main").await["ok"], json!(true));
            let reply = other.asked(endpoint, &body).await;
            assert_eq!(reply.status, StatusCode::OK, "{endpoint} {body}: {}", reply.text());
            let told = reply.headers.get("x-reprise-head").map(|head| head.to_str().unwrap());
            assert_eq!(told, (!body["branch"].is_null()).then_some(head.as_str()), "{endpoint} {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_view_denies_is_asked_of_a_newer_one_though_somebody_looked_in_between() {
    let [one, other] = Rig::two_of_a_bucket();
    one.hub.create_repo(&Caller::Operator, NewRepo::named("alice", "etude")).await.unwrap();
    let old = other.seen().await;
    assert!(!other.hub.is_behind(&old).await.unwrap());
    let (history, _, _) = two_commits();
    assert_eq!(one.push_all("etude", &history, "main").await["ok"], json!(true));
    // By another request, while this one waited for a place.
    let end = other.hub.look().await.unwrap();
    assert!(other.hub.is_behind(&old).await.unwrap());
    let decide = move |_: &Hub, view: &View| match view.checkpoint().position >= end {
        true => Ok(()),
        false => Err(HubError::NotFound("not here".to_owned())),
    };
    let other = Arc::clone(&other.hub);
    other.decided(old, decide).await.unwrap();
}
