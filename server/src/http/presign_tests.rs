//! What `fetch/presign` says of packs that it cannot list, in process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;

use axum::{
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
async fn a_pack_that_is_gone_is_named_when_it_is_listed_and_the_next_push_heals_all_of_it() {
    let rig = Rig::new(Limits::default()).await;
    let (history, ids) = story(4);
    rig.push_all("a", &history, "main").await;
    let wanted = json!({"want": [ids[3]]});
    for key in rig.store.list("packs").unwrap() {
        rig.store.delete(&key).unwrap();
        let reply = listed(&rig, &wanted).await;
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
        let pack = key.as_pack().unwrap().to_string();
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
