//! One fixed history, every projection's logical rows after it: the same folded live, rebuilt, refolded after the index was
//! deleted, and as a copy in memory, byte for byte.
//!
//! The clock stands still and randomness is seeded, so nothing is normalised. The golden files are in `snapshots/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{fs, path::Path};

use reprise_tests::{
    client::{Remote, Repository, Request, Value, push, push::push_force, release},
    fixtures,
    hub_in_process::HubInProcess,
    rows::{self, PROJECTIONS},
    server_process::DataDir,
};

/// The fixtures; two repositories that share all content, one of them deleted and recreated; a force push, a merge, tags,
/// a release, a revoked token.
fn fixed_history(data: &Path) {
    let hub = HubInProcess::open(data, 20_260_316);
    let (alice, _) = hub.token("alice");
    let (bob, bobs_token) = hub.token("bob");
    hub.create_repo("alice/etude");
    let mut etude = fixtures::etude();
    push_branches(&mut etude, hub.remote("alice/etude", &alice), &["main", "variation", "feature/long-name"]);

    hub.create_repo("alice/made");
    hub.create_repo("bob/mirror");
    let mut made = made();
    push_branches(&mut made.clone(), hub.remote("alice/made", &alice), &["main", "side"]);
    push_branches(&mut made.clone(), hub.remote("bob/mirror", &bob), &["main", "side"]);
    hub.delete_repo("alice/made");
    hub.create_repo("alice/made");
    push_branches(&mut made, hub.remote("alice/made", &alice), &["main", "side"]);

    let side = made.head("side").to_owned();
    made.merge("main", &side);
    push(&mut made, "origin", "main").unwrap();
    made.set_branch("side", &made.parents(&side)[0].clone());
    made.commit("side", "rewritten", &[("s", Some(b"rewritten\n"))]);
    push_force(&mut made, "origin", "side").unwrap();

    let remote = made.remotes["origin"].clone();
    post_tags(&remote, &made);
    release::push(&remote, &release::record(&made, "v1.0.0", "main", "stable", false)).unwrap();
    release::push(&remote, &release::record(&made, "v1.1.0-rc.1", "main", "beta", true)).unwrap();
    release::push(&remote, &release::record(&made, "v0.9.0", "side", "alpha", false)).unwrap();
    release::delete(&remote, "v0.9.0").unwrap();
    hub.revoke(&bobs_token);
    hub.close();
}

fn made() -> Repository {
    let mut made = Repository::init();
    made.commit(
        "main",
        "root: ünïcode ✓",
        &[("a.txt", Some(b"a\n")), ("dir/b.txt", Some(b"b\n")), ("empty", Some(b""))],
    );
    let second = made.commit("main", "second\n\nwith a body", &[("a.txt", Some(b"a again\n"))]);
    made.set_branch("side", &second);
    made.commit("side", "side", &[("s", Some(b"side\n"))]);
    made.commit("main", "third", &[("dir/b.txt", None), ("c.txt", Some(&[b'c'; 5_000]))]);
    made
}

fn push_branches(local: &mut Repository, remote: Remote, branches: &[&str]) {
    local.remotes.insert("origin".to_owned(), remote);
    for branch in branches {
        push(local, "origin", branch).unwrap_or_else(|error| panic!("{branch}: {error:?}"));
    }
}

fn post_tags(remote: &Remote, made: &Repository) {
    let tag = |label: &str, number: u32| {
        Value::map([
            ("tag_id", Value::str(format!("00000000-0000-4000-8000-{number:012}"))),
            ("repo_id", Value::str(&made.repo_id)),
            ("commit_id", Value::str(made.head("main"))),
            ("tag", Value::str(label)),
            ("created_at", Value::str("2026-03-16T12:00:00+00:00")),
        ])
    };
    let body = Value::map([("tags", Value::Array(vec![tag("emotion:joyful", 1), tag("take:1", 2)]))]).encode();
    Request::post(format!("{}/tags", remote.url), remote.token.as_deref(), &body).value().unwrap();
}

fn all_rows(data: &DataDir, more: &[&str]) -> Vec<(&'static str, String)> {
    let dump = |name| {
        let rows = data.json_lines(&[&["projection", "dump", name], more].concat());
        (name, rows.iter().map(|row| format!("{row}\n")).collect())
    };
    PROJECTIONS.map(dump).into()
}

fn check_same(what: &str, left: &[(&str, String)], right: &[(&str, String)]) {
    for ((name, left), (_, right)) in left.iter().zip(right) {
        assert!(left == right, "{name}: {what}\n--- live\n{left}\n--- other\n{right}");
    }
}

#[test]
fn every_projection_is_what_the_golden_files_say_however_it_was_folded() {
    let data = DataDir::new();
    fs::create_dir_all(data.path()).unwrap();
    fixed_history(&data.path());
    let live = all_rows(&data, &[]);
    for (name, rows) in &live {
        insta::with_settings!({ snapshot_path => "../../snapshots", prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(format!("projection_{name}"), rows);
        });
    }
    let digest = data.json(&["digest"]);

    data.json(&["rebuild"]);
    check_same("rebuilt beside the live one", &live, &all_rows(&data, &[]));
    assert_eq!(data.json(&["digest"]), digest);

    fs::remove_dir_all(data.path().join("index")).unwrap();
    check_same("folded again from a log that was closed and reopened", &live, &all_rows(&data, &[]));
    assert_eq!(data.json(&["digest"]), digest);

    let last = data.json_lines(&["log"]).last().unwrap()["position"].as_u64().unwrap().to_string();
    check_same("a copy in memory", &live, &all_rows(&data, &["--at", &last]));
}

#[test]
fn a_copy_at_an_earlier_position_shows_what_was_then() {
    let data = DataDir::new();
    fs::create_dir_all(data.path()).unwrap();
    fixed_history(&data.path());
    let events = data.json_lines(&["log"]);
    let deleted = events.iter().find(|event| event["kind"] == "repo_deleted").expect("a deletion");
    let before = (deleted["position"].as_u64().unwrap() - 1).to_string();
    let at = data.json_lines(&["projection", "dump", "repos", "--at", &before]);
    assert_eq!(at.len(), 3, "{at:?}");
    assert!(rows::dump(&data, "releases").len() == 2);
    assert!(data.json_lines(&["projection", "dump", "releases", "--at", &before]).is_empty());
}
