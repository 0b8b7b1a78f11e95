//! One machine and a bucket, and many machines and a bucket: real servers, a real S3 endpoint, disks that are lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    fs,
    time::{Duration, Instant},
};

use reprise_engine::{id::Position, store::StoreKey};
use reprise_tests::{
    bucket::{Bucket, Faults},
    client::{Repository, clone, ls_remote, push},
    fixtures,
    server_process::{DataDir, ServerProcess},
};

const URL: &str = "s3://reprise/hub";

fn machine(bucket: &Bucket) -> DataDir {
    bucket.environment().iter().fold(DataDir::new(), |data, (name, value)| data.env(name, value))
}

fn serve(data: &DataDir, more: &[&str]) -> ServerProcess {
    let server = data.serve_with(&[&["--bucket", URL], more].concat());
    server.wait_ready();
    server
}

fn pushed(server: &ServerProcess, token: &str) -> Repository {
    let mut local = fixtures::etude();
    local.remote("origin", &server.url("alice/etude"), Some(token));
    for branch in BRANCHES {
        push(&mut local, "origin", branch).unwrap_or_else(|error| panic!("{branch}: {error:?}"));
    }
    local
}

fn check_clone(server: &ServerProcess, local: &Repository) {
    let cloned = clone(&server.url("alice/etude")).unwrap_or_else(|error| panic!("{error:?}"));
    for branch in BRANCHES {
        assert_eq!(cloned.head(branch), local.head(branch), "{branch}");
        cloned.check_complete(cloned.head(branch)).unwrap();
        assert_eq!(cloned.tree(cloned.head(branch)), local.tree(local.head(branch)), "{branch}");
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_a_machine_archived_is_all_there_on_an_empty_one() {
    let bucket = Bucket::start();
    let first = machine(&bucket);
    let server = serve(&first, &[]);
    first.create_repo("alice/etude", &[]);
    let local = pushed(&server, &first.token("alice"));
    check_clone(&server, &local);
    // The end of a shutdown brings the rest.
    server.stop();
    drop(first);
    let second = machine(&bucket);
    let restored = second.json(&["restore", "--bucket", URL]);
    assert_eq!(restored["missing_packs"], 0, "{restored}");
    assert_eq!(restored["repositories"], 1, "{restored}");
    let server = serve(&second, &[]);
    check_clone(&server, &local);
}

#[test]
fn a_machine_that_is_lost_costs_at_most_what_was_not_archived() {
    let bucket = Bucket::start();
    let first = machine(&bucket);
    let server = serve(&first, &[]);
    first.create_repo("alice/etude", &[]);
    let local = pushed(&server, &first.token("alice"));
    let archived = || first.json(&["status"])["archived"].as_u64().unwrap();
    let end = first.json(&["status"])["durable"].as_u64().unwrap();
    until("the log is archived within its 30 seconds", || archived() >= end);
    first.create_repo("alice/late", &[]);
    server.kill();
    drop(first);
    let second = machine(&bucket);
    let restored = second.json(&["restore", "--bucket", URL]);
    assert!(restored["archived"].as_u64().unwrap() >= end, "{restored}");
    let server = serve(&second, &[]);
    check_clone(&server, &local);
}

#[test]
fn durability_bucket_loses_nothing_with_the_machine() {
    let bucket = Bucket::start();
    let first = machine(&bucket);
    let server = serve(&first, &["--durability", "bucket"]);
    first.create_repo("alice/etude", &[]);
    let local = pushed(&server, &first.token("alice"));
    server.kill();
    drop(first);
    let second = machine(&bucket);
    let server = serve(&second, &["--log", "bucket"]);
    check_clone(&server, &local);
}

#[test]
fn three_servers_on_one_bucket_serve_each_other_and_any_of_them_may_be_replaced_by_an_empty_one() {
    let bucket = Bucket::start();
    let mut machines: Vec<DataDir> = (0..3).map(|_| machine(&bucket)).collect();
    let mut servers: Vec<ServerProcess> = machines.iter().map(|data| serve(data, &["--log", "bucket"])).collect();
    machines[0].create_repo("alice/etude", &[]);
    // Issued by one server, taken by another at once.
    let token = machines[1].token("alice");
    let mut local = fixtures::etude();
    for (branch, server) in BRANCHES.iter().zip(&servers) {
        local.remote("origin", &server.url("alice/etude"), Some(&token));
        push(&mut local, "origin", branch).unwrap_or_else(|error| panic!("{branch}: {error:?}"));
    }
    for server in &servers {
        let refs = ls_remote(&server.url("alice/etude")).unwrap();
        assert_eq!(refs.len(), 3, "who pushed by one server reads it by any other");
        check_clone(server, &local);
    }
    for at in 0..3 {
        servers.remove(at).kill();
        machines[at] = machine(&bucket);
        servers.insert(at, serve(&machines[at], &["--log", "bucket"]));
        check_clone(&servers[at], &local);
    }
    let digests: Vec<_> = machines.iter().map(|data| data.json(&["digest"])["digest"].clone()).collect();
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}

#[test]
fn a_fleet_that_is_idle_asks_the_bucket_for_almost_nothing() {
    let bucket = Bucket::start();
    let machines: Vec<DataDir> = (0..2).map(|_| machine(&bucket)).collect();
    let servers: Vec<ServerProcess> = machines.iter().map(|data| serve(data, &["--log", "bucket"])).collect();
    machines[0].create_repo("alice/etude", &[]);
    // Polling ends five seconds after the last request.
    std::thread::sleep(Duration::from_secs(7));
    bucket.objects.take_counts();
    std::thread::sleep(Duration::from_secs(10));
    let counts = bucket.objects.take_counts();
    let requests: u64 = counts.values().sum();
    assert!(requests <= 2, "two idle servers, ten seconds: {counts:?}");
    drop(servers);
}

#[test]
fn a_bucket_that_is_down_refuses_pushes_and_loses_none() {
    let bucket = Bucket::start();
    let data = machine(&bucket);
    let server = serve(&data, &["--log", "bucket"]);
    data.create_repo("alice/etude", &[]);
    let token = data.token("alice");
    bucket.objects.set_faults(Faults { down: true, ..Faults::default() });
    let mut local = fixtures::etude();
    local.remote("origin", &server.url("alice/etude"), Some(&token));
    push(&mut local, "origin", "main").unwrap_err();
    bucket.objects.set_faults(Faults::default());
    push(&mut local, "origin", "main").unwrap();
    let cloned = clone(&server.url("alice/etude")).unwrap();
    assert_eq!(cloned.head("main"), local.head("main"));
}

#[test]
fn a_directory_that_had_its_packs_for_itself_brings_them_when_it_gets_a_bucket_and_keeps_to_it() {
    let bucket = Bucket::start();
    let data = machine(&bucket);
    let server = data.serve();
    server.wait_ready();
    data.create_repo("alice/etude", &[]);
    let local = pushed(&server, &data.token("alice"));
    server.stop();
    let server = serve(&data, &[]);
    check_clone(&server, &local);
    server.stop();
    fs::remove_dir_all(data.path().join("objects")).unwrap();
    // Without the argument it is where it was.
    let server = data.serve();
    server.wait_ready();
    check_clone(&server, &local);
    server.stop();
    let elsewhere = data.run(&["serve", "--bucket", "s3://reprise/other", "--listen", "127.0.0.1:0"]);
    assert!(!elsewhere.status.success());
    let text = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert!(text.contains("s3://reprise/hub"), "{text}");
    // Its log, archived at the stop, becomes one that servers share.
    let server = serve(&data, &["--log", "bucket"]);
    check_clone(&server, &local);
    let other = machine(&bucket);
    check_clone(&serve(&other, &["--log", "bucket"]), &local);
    assert!(bucket.objects.keys().contains(&format!("hub/{}", StoreKey::segment(Position(1)))));
}

const BRANCHES: [&str; 3] = ["main", "variation", "feature/long-name"];
