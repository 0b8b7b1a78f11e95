//! A directory is handed over to a bucket, or filled from one, by nobody but its holder, and a wrong bucket changes neither of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    fs,
    process::{Child, Output},
    thread,
    time::{Duration, Instant},
};

use reprise_engine::store::StoreKey;
use reprise_tests::{
    bucket::{
        Bucket, Faults,
        machine::{URL, machine, until},
    },
    client::{Repository, clone, push},
    fixtures,
    server_process::{DataDir, ServerProcess},
};

/// A machine that keeps its packs for itself, with what was pushed to it.
fn without_bucket(bucket: &Bucket) -> (DataDir, ServerProcess, Repository) {
    let data = machine(bucket);
    let server = served(&data, &[]);
    data.create_repo("alice/etude", &[]);
    let mut local = fixtures::etude();
    local.remote("origin", &server.url("alice/etude"), Some(&data.token("alice")));
    push(&mut local, "origin", "main").unwrap();
    (data, server, local)
}

fn served(data: &DataDir, arguments: &[&str]) -> ServerProcess {
    let server = data.serve_with(arguments);
    server.wait_ready();
    server
}

fn check_clone(server: &ServerProcess, local: &Repository) {
    let cloned = clone(&server.url("alice/etude")).unwrap_or_else(|error| panic!("{error:?}"));
    cloned.check_complete(local.head("main")).unwrap();
}

/// What a start says that ends by itself.
fn refused(mut start: Child) -> Output {
    let deadline = Instant::now() + Duration::from_secs(60);
    while start.try_wait().unwrap().is_none() && Instant::now() < deadline {
        // The pace of a poll that has a deadline.
        thread::sleep(Duration::from_millis(20));
    }
    // Nothing is left of one that does not.
    drop(start.kill());
    start.wait_with_output().unwrap()
}

#[test]
fn a_restore_into_a_directory_that_holds_a_log_changes_neither_it_nor_the_bucket() {
    let bucket = Bucket::start();
    let (data, server, mut local) = without_bucket(&bucket);
    let refused_by = |holder: &str| {
        let output = data.run(&["restore", "--bucket", URL]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(3) && text.contains(holder), "{text}");
        assert_eq!(bucket.objects.keys(), Vec::<String>::new());
        assert!(!data.path().join("bucket.json").exists());
    };
    refused_by("held by reprise serve");
    // What is pushed after it is found by the next start.
    local.commit("main", "more", &[("more", Some(b"more"))]);
    push(&mut local, "origin", "main").unwrap();
    server.stop();
    refused_by("holds a log already");
    check_clone(&served(&data, &[]), &local);
}

#[test]
fn a_restore_from_a_bucket_without_a_log_leaves_no_trace_of_itself() {
    let bucket = Bucket::start();
    let (data, server, local) = without_bucket(&bucket);
    server.stop();
    // Packs are here, the log is not: a bucket that has no log either gets none of them.
    fs::remove_dir_all(data.path().join("log")).unwrap();
    let output = data.run(&["restore", "--bucket", URL]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && text.contains("the bucket holds no log"), "{text}");
    assert_eq!(bucket.objects.keys(), Vec::<String>::new());
    assert!(!data.path().join("bucket.json").exists());
    let status = data.run(&["status"]);
    let text = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(status.status.code() == Some(3) && text.contains("no data directory"), "{text}");
    // Nor in an empty directory: what is left of that hub can be recovered there.
    let empty = machine(&bucket);
    assert_eq!(empty.run(&["restore", "--bucket", URL]).status.code(), Some(3));
    fs::rename(data.path().join("objects"), empty.path().join("objects")).unwrap();
    let marked = empty.run(&["restore", "--from-packs"]);
    let text = String::from_utf8_lossy(&marked.stderr).into_owned();
    let log = text.split_once("--replace-log ").unwrap_or_else(|| panic!("{text}")).1[..36].to_owned();
    let report = empty.json(&["restore", "--from-packs", "--replace-log", &log]);
    assert_eq!(report["repositories"].as_array().unwrap().len(), 1, "{report}");
    drop(local);
}

#[test]
fn a_directory_whose_packs_are_being_brought_into_a_bucket_is_held() {
    let bucket = Bucket::start();
    let (data, server, local) = without_bucket(&bucket);
    server.stop();
    // A bringing that takes its time.
    bucket.objects.set_faults(Faults { latency: Duration::from_millis(500), ..Faults::default() });
    thread::scope(|scope| {
        let first = scope.spawn(|| served(&data, &["--bucket", URL]));
        until("a pack is in the bucket", || bucket.objects.keys().iter().any(|key| key.contains("/packs/")));
        assert!(!data.path().join("bucket.json").exists());
        let second = refused(data.spawn());
        let text = String::from_utf8_lossy(&second.stderr).into_owned();
        bucket.objects.set_faults(Faults::default());
        let server = first.join().unwrap();
        assert!(second.status.code() == Some(3) && text.contains("held by reprise serve"), "{text}");
        check_clone(&server, &local);
    });
}

#[test]
fn no_pack_is_sent_into_a_bucket_of_another_hub() {
    let bucket = Bucket::start();
    let (data, server, local) = without_bucket(&bucket);
    server.stop();
    let mark = format!("hub/{}", StoreKey::mark());
    bucket.objects.overwrite(&mark, b"00000000000000000000000000000001\n"[..].into());
    let start = data.run(&["serve", "--listen", "127.0.0.1:0", "--bucket", URL]);
    let text = String::from_utf8_lossy(&start.stderr).into_owned();
    assert!(start.status.code() == Some(3) && text.contains("another hub's packs"), "{text}");
    assert_eq!(bucket.objects.keys(), [mark]);
    check_clone(&served(&data, &[]), &local);
}
