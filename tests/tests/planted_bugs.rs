//! The incident's two bugs, planted: the tests that exist to find them must fail on them (T9).
#![cfg(feature = "planted-bugs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{panic, path::Path};

use reprise_engine::planted::{PlantedBug, turn};
use reprise_tests::{
    client::{clone, push, push::objects_body},
    fixtures,
    hub_in_process::HubInProcess,
};

/// Incident (a): the same content pushed to two repositories must clone completely from both.
fn same_content_twice(data: &Path) {
    let hub = HubInProcess::open(data, 1);
    for repo in ["alice/one", "bob/two"] {
        hub.create_repo(repo);
        push_and_check(&hub, repo);
    }
}

/// Incident (b): a repository is deleted, recreated, and gets the same content again, while a mirror of it stays.
fn deleted_and_recreated(data: &Path) {
    let hub = HubInProcess::open(data, 2);
    for repo in ["alice/etude", "bob/mirror"] {
        hub.create_repo(repo);
        push_and_check(&hub, repo);
    }
    hub.delete_repo("alice/etude");
    hub.create_repo("alice/etude");
    push_and_check(&hub, "alice/etude");
}

fn push_and_check(hub: &HubInProcess, repo: &str) {
    let (token, _) = hub.token(repo.split('/').next().unwrap());
    let mut local = fixtures::etude();
    local.remotes.insert("origin".to_owned(), hub.remote(repo, &token));
    for branch in ["main", "variation", "feature/long-name"] {
        push(&mut local, "origin", branch).unwrap_or_else(|error| panic!("{repo} {branch}: {error:?}"));
    }
    let cloned = clone(&hub.url(repo)).unwrap_or_else(|error| panic!("{repo}: {error:?}"));
    for head in local.heads.values() {
        cloned.check_complete(head).unwrap_or_else(|error| panic!("{repo}: {error}"));
    }
}

/// A client goes away at any moment of its upload: the same push afterwards is taken, and the clone is whole.
fn gone_at_any_moment(data: &Path) {
    let hub = HubInProcess::open(data, 3);
    let local = fixtures::etude();
    let all: Vec<String> = local.objects.keys().cloned().collect();
    for polls in 1..64 {
        let repo = format!("alice/r{polls}");
        hub.create_repo(&repo);
        let body = objects_body(&local.objects, &all);
        let answered = hub.post_and_go_away(&format!("{repo}/push/objects"), body, polls);
        push_and_check(&hub, &repo);
        if answered {
            return;
        }
    }
    panic!("64 polls, and no answer");
}

/// `test` passes without the bug and fails with it.
fn check_found(bug: PlantedBug, test: fn(&Path)) {
    let turn = turn();
    let fresh = || tempfile::tempdir().unwrap();
    test(fresh().path());
    let dir = fresh();
    let guard = turn.plant(bug);
    let result = panic::catch_unwind(|| test(dir.path()));
    drop(guard);
    assert!(result.is_err(), "{bug:?} was not found");
}

#[test]
fn planted_rows_only_for_objects_new_to_the_hub_are_found_by_the_same_content_twice() {
    check_found(PlantedBug::RowsOnlyForObjectsNewToHub, same_content_twice);
}

#[test]
fn planted_rows_only_for_objects_new_to_the_hub_are_found_by_delete_and_recreate() {
    check_found(PlantedBug::RowsOnlyForObjectsNewToHub, deleted_and_recreated);
}

#[test]
fn planted_a_fold_that_forgets_object_refs_is_found_by_the_same_content_twice() {
    check_found(PlantedBug::FoldForgetsObjectRefs, same_content_twice);
}

#[test]
fn planted_a_fold_that_forgets_object_refs_is_found_by_delete_and_recreate() {
    check_found(PlantedBug::FoldForgetsObjectRefs, deleted_and_recreated);
}

#[test]
fn planted_giving_up_an_append_when_its_caller_goes_away_is_found() {
    check_found(PlantedBug::DropOnCancel, gone_at_any_moment);
}
