//! The projections three ways: served, folded from the log, folded from the packs. Equal where all is well; where it is not, the
//! difference is found and named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{fs, path::Path, sync::Arc};

use rand::{RngExt, rngs::StdRng};
use reprise_engine::{
    clock::{ManualClock, SeededRandom},
    disk::real::RealDisk,
    engine::{Engine, Options, Outcome, Parts, Proposal},
    event::{EventBody, ObjectsReceived},
    id::{Position, PushId},
    store::{StoreKey, directory::DirectoryStore},
};
use reprise_tests::{
    client::{Merge, Repository, clone, push},
    effort::Effort,
    fixtures,
    hub_in_process::HubInProcess,
    seeds,
    server_process::{DataDir, ServerProcess},
};
use serde_json::{Value, json};

fn serve(data: &DataDir) -> ServerProcess {
    let server = data.serve();
    server.wait_ready();
    server
}

fn check_equal(data: &DataDir) {
    let compared = data.json(&["digest", "--three-ways"]);
    assert_eq!((&compared["ok"], &compared["found"]), (&json!(true), &json!([])), "{compared}");
    let overall = data.json(&["digest"])["digest"].clone();
    assert_eq!(compared["digests"], json!({"live": overall, "log": overall, "packs": overall}), "{compared}");
    assert_ne!(compared["packs_read"], 0, "{compared}");
}

/// Pushes, merges, repositories that are deleted, and made again under their names with what others have too.
fn random_history(data: &DataDir, random: &mut StdRng) {
    let server = serve(data);
    let mut locals: Vec<(String, Repository)> = Vec::new();
    for step in 0..24 {
        match random.random_range(0..8) {
            _ if locals.is_empty() => locals.push(create(data, &server, &format!("alice/r{step}"))),
            0 => locals.push(create(data, &server, &format!("alice/r{step}"))),
            1 => {
                let (name, _) = locals.swap_remove(random.random_range(0..locals.len()));
                data.json(&["repo", "delete", &name]);
                if random.random_bool(0.7) {
                    locals.push(create(data, &server, &name));
                }
            }
            2 => {
                let (_, local) = pick(random, &mut locals);
                local.commit("side", "side", &[("side.txt", Some(format!("side {step}").as_bytes()))]);
                push(local, "origin", "side").unwrap();
                let side = local.head("side").to_owned();
                if matches!(local.merge("main", &side), Merge::Conflict(_)) {
                    continue;
                }
                push(local, "origin", "main").unwrap();
            }
            _ => {
                let (_, local) = pick(random, &mut locals);
                let len = [10, 5_000, 2 << 20][random.random_range(0..3)];
                let content = seeds::bytes(random, len);
                let path = format!("d{}/f{}.bin", random.random_range(0..3), random.random_range(0..9));
                local.commit("main", &format!("step {step}"), &[(&path, Some(&content)), ("same.txt", Some(b"same"))]);
                push(local, "origin", "main").unwrap();
            }
        }
    }
    server.stop();
}

fn create(data: &DataDir, server: &ServerProcess, name: &str) -> (String, Repository) {
    data.create_repo(name, &[]);
    let mut local = Repository::init();
    local.remote("origin", &server.url(name), Some(&data.token("alice")));
    local.commit("main", "first", &[("a.txt", Some(b"a".as_slice()))]);
    push(&mut local, "origin", "main").unwrap();
    let main = local.head("main").to_owned();
    local.set_branch("side", &main);
    (name.to_owned(), local)
}

fn pick<'a>(random: &mut StdRng, locals: &'a mut [(String, Repository)]) -> &'a mut (String, Repository) {
    let at = random.random_range(0..locals.len());
    &mut locals[at]
}

#[test]
fn what_is_served_what_the_log_says_and_what_the_packs_say_are_the_same_rows() {
    for seed in Effort::of("three ways", 3) {
        let data = DataDir::new();
        random_history(&data, &mut seeds::random(seed, 0x3357));
        check_equal(&data);
        let server = serve(&data);
        check_equal(&data);
        server.stop();
    }
}

#[test]
fn an_object_that_was_damaged_and_came_again_is_no_difference_and_one_that_is_damaged_is_named() {
    let data = DataDir::new();
    let server = serve(&data);
    data.create_repo("alice/etude", &[]);
    let mut local = fixtures::etude();
    local.remote("origin", &server.url("alice/etude"), Some(&data.token("alice")));
    push(&mut local, "origin", "main").unwrap();
    let blob = local.tree(local.head("main")).into_values().find(|id| !local.objects[id].is_empty()).unwrap();
    let found = data.json(&["locate", "alice/etude", &blob])["found"][0].clone();
    let pack = found["pack"].as_str().unwrap();
    server.stop();
    flip(
        &data.path().join("objects").join(StoreKey::pack(pack.parse().unwrap()).as_str()),
        found["offset"].as_u64().unwrap(),
    );
    let output = data.run(&["digest", "--three-ways", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let compared: Value = serde_json::from_slice(&output.stdout).unwrap();
    let damaged = &compared["found"][0]["damaged"];
    assert_eq!((&damaged["object"], &damaged["pack"]), (&json!(blob), &json!(pack)), "{compared}");
    assert_eq!((&damaged["repository"], &compared["differing"]), (&json!("alice/etude"), &json!(0)), "{compared}");
    // A clone meets it, so that it is condemned; the next push of it heals it.
    let server = serve(&data);
    clone(&server.url("alice/etude")).unwrap_err();
    local.forget_tracking();
    local.remote("origin", &server.url("alice/etude"), Some(&data.token("alice")));
    local.commit("main", "more", &[("more.txt", Some(b"more".as_slice()))]);
    push(&mut local, "origin", "main").unwrap();
    clone(&server.url("alice/etude")).unwrap();
    check_equal(&data);
    server.stop();
}

/// A hub in this process with the etude in it, and what comparing it says.
fn etude(data: &Path) -> HubInProcess {
    let hub = HubInProcess::open(data, 7);
    hub.create_repo("alice/etude");
    pushed(&hub);
    hub
}

fn pushed(hub: &HubInProcess) {
    let mut local = fixtures::etude();
    local.remotes.insert("origin".to_owned(), hub.remote("alice/etude", &hub.token("alice").0));
    push(&mut local, "origin", "main").unwrap();
}

fn compared(hub: &HubInProcess) -> Vec<Value> {
    let url = hub.url("api/v1/projections/compare");
    let answer = reprise_tests::client::Request::post_json(url, Some("operator-of-the-tests"), b"").send().unwrap();
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn differences(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter_map(|line| line.get("difference")).collect()
}

/// Appends a delivery of the etude once more, changed by `change`: that of its commits, or one of blobs alone.
fn tell_otherwise(data: &Path, commits: bool, change: impl FnOnce(&mut ObjectsReceived)) -> ObjectsReceived {
    let random = Arc::new(SeededRandom::new(8));
    let store = DirectoryStore::new(Arc::new(RealDisk::new(data.join("objects"))), random.clone());
    let disk = Arc::new(RealDisk::new(data.to_path_buf()));
    let parts = Parts { disk, store: Arc::new(store), clock: Arc::new(ManualClock::new(1)), random };
    let (engine, _) = Engine::open(parts, Options::new("a test")).unwrap();
    let mut reader = engine.read_segment(Position(1)).unwrap();
    let mut received = None;
    while let Some(group) = reader.next_group().unwrap() {
        let wanted = |body: &EventBody| match body {
            EventBody::ObjectsReceived(received) if received.commits.is_empty() != commits => Some(received.clone()),
            _ => None,
        };
        received = received.or(group.events.iter().find_map(|event| wanted(&event.body)));
    }
    let mut received = received.expect("such a delivery");
    change(&mut received);
    let events = vec![EventBody::ObjectsReceived(received.clone())];
    let (push, conditions) = (PushId([9; 16]), Vec::new());
    let proposal = Proposal { push, fingerprint: 0, actor: "a test".to_owned(), conditions, events };
    assert!(matches!(engine.propose_and_wait(proposal), Outcome::Done { .. }));
    engine.shutdown().unwrap();
    received
}

fn check_told(commits: bool, change: impl FnOnce(&mut ObjectsReceived), projections: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    etude(dir.path()).close();
    let received = tell_otherwise(dir.path(), commits, change);
    let hub = HubInProcess::open(dir.path(), 9);
    let lines = compared(&hub);
    assert_eq!(lines.last().unwrap()["result"]["ok"], false, "{lines:?}");
    let found = differences(&lines);
    let named: Vec<_> = found.iter().map(|one| one["projection"].as_str().unwrap()).collect();
    assert_eq!(named, projections, "{lines:?}");
    for one in found {
        assert_eq!((&one["pack"], &one["repository"]), (&json!(received.pack.to_string()), &json!("alice/etude")));
    }
    let unequal = |name: &&str| lines.last().unwrap()["result"]["projections"][*name]["equal"] == false;
    assert!(projections.iter().filter(|name| **name != "storage_uri").all(unequal), "{lines:?}");
    hub.close();
}

#[test]
fn an_event_that_says_of_a_commit_what_its_pack_does_not_is_named_by_projection_repository_and_pack() {
    let adding = |received: &mut ObjectsReceived| {
        let commit = received.commits.iter_mut().find(|commit| commit.adds.len() > 1).unwrap();
        commit.adds.truncate(1);
    };
    check_told(true, adding, &["commits"]);
    check_told(true, |received| received.commits[1].author.push('x'), &["commits"]);
    check_told(true, |received| received.snapshots[0].wire_len += 1, &["snapshots"]);
}

#[test]
fn an_event_that_says_of_a_row_what_its_pack_does_not_is_named_by_projection_repository_and_pack() {
    check_told(true, |received| received.rows[0].offset += 1, &["mpack_index"]);
    check_told(false, |received| received.rows.truncate(received.rows.len() - 1), &["object_refs", "mpack_index"]);
}

fn flip(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(offset).unwrap()] ^= 1;
    fs::write(path, bytes).unwrap();
}
