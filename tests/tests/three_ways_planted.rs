//! The projections three ways, with a fold that forgets rows: the difference is found and named.
//!
//! Run with `--features planted-bugs`; without the feature there is nothing to plant and nothing here.
#![cfg(feature = "planted-bugs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use reprise_engine::planted::{PlantedBug, turn};
use reprise_tests::{
    client::{Request, push::push_objects},
    fixtures,
    hub_in_process::HubInProcess,
};
use serde_json::{Value, json};

#[test]
fn a_fold_that_forgot_rows_is_named_by_projection_and_repository() {
    let turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let hub = HubInProcess::open(dir.path(), 7);
    hub.create_repo("alice/etude");
    let local = fixtures::etude();
    let remote = hub.remote("alice/etude", &hub.token("alice").0);
    let ids: Vec<String> = local.objects.keys().cloned().collect();
    let planted = turn.plant(PlantedBug::FoldForgetsObjectRefs);
    push_objects(&local.objects, &remote, &ids).unwrap();
    drop(planted);
    let url = hub.url("api/v1/projections/compare");
    let answer = Request::post_json(url, Some("operator-of-the-tests"), b"").send().unwrap();
    let lines: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<&Value> = lines.iter().filter_map(|line| line.get("difference")).collect();
    assert!(!found.is_empty(), "{lines:?}");
    for one in found {
        assert_eq!((&one["projection"], &one["repository"]), (&json!("object_refs"), &json!("alice/etude")), "{one}");
    }
    let result = &lines.last().unwrap()["result"];
    assert_eq!((&result["ok"], &result["projections"]["mpack_index"]["equal"]), (&json!(false), &json!(true)));
    hub.close();
}
