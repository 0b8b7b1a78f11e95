//! Uploaded packs that are stored as they came, in process: what becomes of them when their push does not go through.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use bytes::Bytes;
use reprise_engine::{
    Result,
    id::{ObjectId, PackId, PushId},
    store::{Created, ObjectStore, Staged, StoreKey},
};
use tokio::runtime::Handle;
use tower::ServiceExt;

use super::{
    mwp_tests::{History, Rig, sha, two_commits},
    upload_tests::{PUSH, pack_of},
};
use crate::hub::{
    Caller, Limits,
    delivery::{Delivery, Packs},
    mpack::upload::Upload,
    push::{Asked, Ident, PushAnswer},
    repos::RepoName,
};

/// An upload; before it gets its name in the store, somebody else pushes.
struct Overtaken {
    upload: Box<dyn Staged>,
    push: Box<dyn FnOnce() + Send>,
}

impl Staged for Overtaken {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.upload.write(bytes)
    }

    fn read_back(&self, offset: u64, len: u64) -> Result<Bytes> {
        self.upload.read_back(offset, len)
    }

    fn commit(self: Box<Self>, key: &StoreKey) -> Result<Created> {
        (self.push)();
        self.upload.commit(key)
    }
}

/// Pushes `history` to main in one pack that is adopted, while another push moves `other_branch`. The answer, and the pack.
async fn overtaken(rig: &Rig, history: &History, other_branch: &str) -> (PushAnswer, StoreKey) {
    let mut other = History::default();
    other.commit(&[], &[("x", b"x")], "meanwhile");
    let objects = rig.post("/alice/a/push/objects", other.objects_body()).await;
    assert_eq!(objects.status, StatusCode::OK, "{}", objects.text());
    let request = Request::post("/alice/a/push")
        .header("content-type", "application/x-msgpack")
        .header("authorization", "Bearer operator")
        .body(Body::from(other.push_body(other_branch, false)))
        .unwrap();
    let (handle, router) = (Handle::current(), rig.router.clone());
    let push = move || {
        let reply = handle.block_on(router.oneshot(request)).unwrap();
        assert_eq!(reply.status(), StatusCode::OK);
    };
    let pack = pack_of(history, rig.repo_id("a").await, PUSH);
    let id = PackId(sha(&pack).parse::<ObjectId>().unwrap().0);
    let mut upload = rig.store.stage().unwrap();
    upload.write(&pack).unwrap();
    let staged = Box::new(Overtaken { upload, push: Box::new(push) });
    let upload = Upload::new(id, pack.len() as u64, staged, Arc::clone(rig.hub.engine.store()));
    let tip = history.commits.last().unwrap()["commit_id"].as_str().unwrap().parse().unwrap();
    let delivery = Delivery::Packs(Packs::open(&rig.hub, vec![Arc::new(upload)]).unwrap());
    let asked = Asked { branch: "main".to_owned(), tip: Some(tip), force: false, delivery };
    let ident = Ident { chosen: Some(PUSH.to_owned()), random: PushId([9; 16]), body: [1; 32] };
    let name = RepoName { owner: "alice".to_owned(), slug: "a".to_owned() };
    let answer = rig.hub.decide_push(&Caller::Operator, &name, Arc::new(asked), &ident).await.unwrap();
    assert_eq!(rig.store.read(&StoreKey::pack(id), 0, pack.len() as u64).unwrap(), pack, "the pack is there");
    (answer, StoreKey::pack(id))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_was_overtaken_after_its_pack_was_adopted_is_decided_again_without_another_upload() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, second) = two_commits();
    let (answer, adopted) = overtaken(&rig, &history, "other").await;
    assert!(answer.ok, "{answer:?}");
    history.check_complete(&rig.fetch("a", &[&second], &[]).await.fetched());
    // Nothing is read from the adopted pack: what the log names was packed anew.
    rig.store.delete(&adopted).unwrap();
    history.check_complete(&rig.fetch("a", &[&second], &[]).await.fetched());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pack_of_a_refused_push_stays_if_another_server_could_adopt_it() {
    let rig = Rig::new(Limits::default()).await;
    let (history, ..) = two_commits();
    let (answer, adopted) = overtaken(&rig, &history, "main/clashes").await;
    assert!(!answer.ok, "{answer:?}");
    // What the server wrote itself is taken back as ever: one pack of blobs and one of records are the other push's.
    let packs = rig.packs();
    assert!(packs.len() == 3 && packs.contains(&adopted), "{packs:?}");
}
