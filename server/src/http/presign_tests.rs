//! What `fetch/presign` and its addresses say where a pack is gone, or not enough, in process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;

use axum::{
    body::Body,
    http::{Request, StatusCode},
    response::IntoResponse,
};
use reprise_engine::{
    id::{Kind, ObjectId},
    store::ObjectStore,
};
use serde_json::{Value, json};

use super::{
    mwp_tests::{Reply, Rig},
    transfer_tests::story,
};
use crate::hub::{
    Caller, Limits,
    mpack::{
        fetch::Planned,
        plan::{Entry, TransferPlan},
    },
};

async fn listed(rig: &Rig, body: &Value) -> Reply {
    let request = Request::post("/alice/a/fetch/presign").header("content-type", "application/json");
    rig.send(request.body(body.to_string().into()).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_gone_is_met_by_its_address_named_by_a_fetch_and_healed_by_the_next_push() {
    let rig = Rig::new(Limits::default()).await;
    let (history, ids) = story(4);
    rig.push_all("a", &history, "main").await;
    let wanted = json!({"want": [ids[3]]});
    for key in rig.store.list("packs").unwrap() {
        rig.store.delete(&key).unwrap();
        let pack = key.as_pack().unwrap().to_string();
        let reply = listed(&rig, &wanted).await;
        assert_eq!(reply.status, StatusCode::OK, "nothing is looked at: {}", reply.text());
        let ticket = reply.text().split_once(&format!("mpack/{pack}?ticket=")).unwrap().1.to_owned();
        let ticket: String = ticket.chars().take_while(char::is_ascii_alphanumeric).collect();
        let address = format!("/alice/a/mpack/{pack}?ticket={ticket}");
        let reply = rig.send(Request::get(address).body(Body::empty()).unwrap()).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND);
        assert!(reply.text().contains(&pack) && reply.text().contains("fetch/mpack"), "{}", reply.text());
        let request = Request::post("/alice/a/fetch/mpack").header("content-type", "application/json");
        let reply = rig.send(request.body(wanted.to_string().into()).unwrap()).await;
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(reply.text().contains(&pack) && reply.text().contains("push it again"), "{}", reply.text());
        rig.push_all("a", &history, "main").await;
        let reply = listed(&rig, &wanted).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        history.check_complete(&rig.fetch("a", &[&ids[3]], &[]).await.fetched());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_pack_alone_cannot_give_is_refused_with_the_way_that_can() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _) = story(2);
    rig.push_all("a", &history, "main").await;
    let (repo, view) = rig.hub.readable(&Caller::Operator, "alice", "a").await.unwrap();
    let id: ObjectId = history.snapshots.keys().next().unwrap().parse().unwrap();
    let at = view.locate(repo.scope, Kind::Snapshot, id).unwrap().unwrap();
    // A plan that no push of today leads to: its base is not the repository's.
    let entry = Entry {
        id,
        offset: at.offset,
        stored_len: u32::try_from(at.stored_len).unwrap(),
        real_len: u32::try_from(at.real_len).unwrap(),
        pack: 0,
        kind: Kind::Snapshot,
        codec: at.codec,
        whole: true,
    };
    let plan = TransferPlan { packs: vec![at.pack], entries: vec![entry], bases: HashMap::new() };
    let refused = rig.hub.list_packs(Planned { repo, view, plan, head: None, direct: false }).await.err().unwrap();
    assert!(refused.to_string().contains("use fetch/mpack"), "{refused}");
    assert_eq!(refused.into_response().status(), StatusCode::CONFLICT);
}
