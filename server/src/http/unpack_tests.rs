//! How much is unpacked at a time, in process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use axum::http::StatusCode;
use reprise_engine::store::ObjectStore;
use serde_json::json;

use super::{
    mwp_tests::{History, Rig},
    transfer_tests::noise,
    upload_tests::{PUSH, pack_of},
};
use crate::hub::Limits;

#[tokio::test(flavor = "multi_thread")]
async fn an_unpack_has_room_on_the_disk_before_its_first_byte_is_copied_there() {
    let waiting_time_max = Duration::from_millis(50);
    let rig = Rig::new(Limits { unpack_bytes_max: 6 << 20, waiting_time_max, ..Limits::default() }).await;
    let mut history = History::default();
    let head = history.commit(&[], &[("noise", &noise(7, 5 << 20))], "large");
    let pack = pack_of(&history, rig.repo_id("a").await, PUSH);
    assert!(((5 << 20)..(6 << 20)).contains(&pack.len()), "{} bytes", pack.len());
    let upload = rig.upload("a", &pack).await;
    let taken = rig.hub.room_for_bytes(1 << 20).await.unwrap();
    let reply = rig.unpack("a", &[&upload], &head, json!({}), Some(PUSH)).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.text());
    assert_eq!((rig.packs().len(), rig.store.list("quarantine").unwrap().len()), (0, 1), "it waits as it did");
    drop(taken);
    let answer = rig.unpack("a", &[&upload], &head, json!({}), Some(PUSH)).await.map();
    assert_eq!(answer["ok"], json!(true), "{answer}");
    let small = Rig::new(Limits { unpack_bytes_max: 1 << 20, ..Limits::default() }).await;
    let upload = small.upload("a", &pack).await;
    let reply = small.unpack("a", &[&upload], &head, json!({}), Some(PUSH)).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(reply.text().contains("limit is 1048576"), "{}", reply.text());
}
