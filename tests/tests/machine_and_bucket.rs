//! One machine and a bucket, and many machines and a bucket: real servers, a real S3 endpoint, disks that are lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::{Shutdown, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reprise_engine::{id::Position, store::StoreKey};
use reprise_tests::{
    bucket::{
        Bucket, Fault, Faults,
        machine::{URL, machine, until},
    },
    client::{Repository, Request, Value, clone, http::read_response, ls_remote, push},
    fixtures,
    server_process::{DataDir, ServerProcess},
};
use sha2::{Digest, Sha256};

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
    let restored = second.json(&["restore", "--bucket", URL]);
    assert_eq!((&restored["missing_packs"], &restored["repositories"]), (&0.into(), &1.into()), "{restored}");
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
    let server = serve(&data, &["--log", "bucket", "--bucket-for-clients", "no"]);
    data.create_repo("alice/etude", &[]);
    let token = data.token("alice");
    bucket.objects.set_faults(Faults { down: true, ..Faults::default() });
    let mut local = fixtures::etude();
    local.remote("origin", &server.url("alice/etude"), Some(&token));
    assert_eq!(push(&mut local, "origin", "main").unwrap_err().code(), Some(503));
    bucket.objects.set_faults(Faults::default());
    push(&mut local, "origin", "main").unwrap();
    let cloned = clone(&server.url("alice/etude")).unwrap();
    assert_eq!(cloned.head("main"), local.head("main"));
}

/// A machine that has kept its packs for itself so far, and what was pushed to it.
fn without_bucket(bucket: &Bucket) -> (DataDir, Repository) {
    let data = machine(bucket);
    let server = data.serve();
    server.wait_ready();
    data.create_repo("alice/etude", &[]);
    let local = pushed(&server, &data.token("alice"));
    server.stop();
    (data, local)
}

#[test]
fn a_directory_that_had_its_packs_for_itself_brings_them_when_it_gets_a_bucket_and_keeps_to_it() {
    let bucket = Bucket::start();
    let (data, local) = without_bucket(&bucket);
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

fn copies(data: &DataDir) -> Vec<PathBuf> {
    let dirs = fs::read_dir(data.path().join("copies/packs")).unwrap();
    dirs.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap()).map(|file| file.unwrap().path()).collect()
}

/// Every byte of every copy is another one.
fn spoil(copies: &[PathBuf]) {
    for path in copies {
        let bytes: Vec<u8> = fs::read(path).unwrap().iter().map(|byte| byte ^ 0x55).collect();
        fs::write(path, bytes).unwrap();
    }
}

fn is_its_name(path: &Path) -> bool {
    let hash = fs::read(path).map(|bytes| hex::encode(Sha256::digest(bytes)));
    hash.is_ok_and(|hash| path.file_stem().is_some_and(|stem| stem.to_string_lossy() == hash))
}

#[test]
fn nobody_notices_that_local_copies_were_damaged_and_nothing_is_condemned_for_it() {
    let bucket = Bucket::start();
    let data = machine(&bucket);
    let server = serve(&data, &[]);
    data.create_repo("alice/etude", &[]);
    let mut local = pushed(&server, &data.token("alice"));
    // Stored as it is, and sent piece by piece: its first pieces are gone before the last one is read.
    let mut random = StdRng::seed_from_u64(11);
    let large: Vec<u8> = (0..9 << 20).map(|_| random.random()).collect();
    local.commit("main", "a large one", &[("large.bin", Some(&large))]);
    push(&mut local, "origin", "main").unwrap();
    check_clone(&server, &local);
    let before = copies(&data);
    assert!(before.len() >= 4, "{before:?}");
    spoil(&before);
    check_clone(&server, &local);
    until("the copies are back", || before.iter().all(|path| is_its_name(path)));
    check_clone(&server, &local);
    server.stop();
    spoil(&before);
    let server = serve(&data, &[]);
    check_clone(&server, &local);
    until("the copies are back", || before.iter().all(|path| is_its_name(path)));
    let condemned = data.json_lines(&["log"]).into_iter().filter(|event| event["kind"] == "rows_condemned").count();
    assert_eq!(condemned, 0);
    assert_eq!(data.json(&["verify", "--deep"])["damaged"], 0);
}

/// Tags on the head of main: events that need no pack. The answer's status.
fn tagged(server: &ServerProcess, token: &str, local: &Repository, round: usize) -> u16 {
    let tag = |number: usize| {
        Value::map([
            ("tag_id", Value::str(format!("00000000-0000-4000-8000-{:012}", round * 100 + number))),
            ("repo_id", Value::str(&local.repo_id)),
            ("commit_id", Value::str(local.head("main"))),
            ("tag", Value::str(format!("round:{round}.{number}"))),
            ("created_at", Value::str("2026-03-20T10:00:00+00:00")),
        ])
    };
    let body = Value::map([("tags", Value::Array((0..50).map(tag).collect()))]).encode();
    Request::post(server.url("alice/etude/tags"), Some(token), &body).send().unwrap().code
}

#[test]
fn what_the_bucket_does_not_take_of_a_log_is_told_early_and_stops_pushes_at_its_limit_until_it_is_taken() {
    let bucket = Bucket::start();
    let data = machine(&bucket);
    let limit = 100_000;
    let server = serve(&data, &["--limit", &format!("unarchived_bytes_max={limit}")]);
    data.create_repo("alice/etude", &[]);
    let token = data.token("alice");
    let mut local = pushed(&server, &token);
    bucket.objects.set_faults(Faults { down: true, ..Faults::default() });
    let health = || Request::get(server.url("health"), None).send().unwrap();
    let (mut rounds, mut early) = (0, 0);
    while health().code == 200 {
        assert!(rounds < 100, "no end: {}", health().text());
        let told: serde_json::Value = serde_json::from_str(&health().text()).unwrap();
        let said = told["degraded"].as_str().unwrap_or_default();
        early +=
            usize::from(said.contains("bytes of the log") && said.contains("at 100000 bytes nothing more is taken"));
        match tagged(&server, &token, &local, rounds) {
            200 => rounds += 1,
            // A segment that was ended meanwhile counts too.
            code => assert_eq!((code, health().code), (503, 503)),
        }
    }
    assert!(early > 1, "told only {early} times in {rounds} rounds");
    assert!(health().text().contains("the limit unarchived_bytes_max is 100000"), "{}", health().text());
    let status = data.run(&["--json", "status"]);
    assert_eq!(status.status.code(), Some(1));
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(status["unarchived"]["bytes"].as_u64() > Some(limit), "{status}");
    assert!(status["unarchived"]["events"].as_u64() >= Some(rounds as u64), "{status}");
    let metrics = Request::get(server.url("metrics"), None).send().unwrap().text();
    let bytes = metrics.lines().find_map(|line| line.strip_prefix("reprise_log_unarchived_bytes ")).unwrap();
    assert!(bytes.parse::<f64>().unwrap() > limit as f64, "{bytes}");

    // Refused before the body is read: what is announced here is never sent.
    let mut socket = TcpStream::connect(server.host()).unwrap();
    let head = format!(
        "POST /alice/etude/push HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nContent-Length: 99\r\n\r\n",
        server.host()
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let refused = read_response(&socket).unwrap();
    assert!(refused.code == 503 && refused.header("retry-after").is_some(), "{refused:?}");
    assert!(refused.text().contains("unarchived_bytes_max"), "{}", refused.text());
    local.commit("main", "more", &[("more", Some(b"more"))]);
    assert_eq!(push(&mut local, "origin", "main").unwrap_err().code(), Some(503));
    assert_eq!(tagged(&server, &token, &local, rounds), 503);
    assert_eq!(ls_remote(&server.url("alice/etude")).unwrap().len(), 3, "reads go on");

    bucket.objects.set_faults(Faults::default());
    until("the bucket has taken it", || health().code == 200);
    push(&mut local, "origin", "main").unwrap();
    check_clone(&server, &local);
    let set: usize = data.json_lines(&["log"]).iter().map(|event| event["tags"].as_array().map_or(0, Vec::len)).sum();
    assert_eq!(set, rounds * 50, "what was acknowledged is there");
}

fn address(data: &DataDir, local: &Repository) -> String {
    let located = data.json(&["locate", "alice/etude", local.head("main")]);
    located["found"][0]["uri"].as_str().unwrap_or_else(|| panic!("{located}")).to_owned()
}

#[test]
fn a_pack_is_found_where_its_store_is_before_and_after_it_is_brought_and_in_a_copy_of_the_bucket_under_another_name() {
    let bucket = Bucket::start();
    let data = machine(&bucket);
    let server = data.serve();
    server.wait_ready();
    data.create_repo("alice/etude", &[]);
    let token = data.token("alice");
    let local = pushed(&server, &token);
    let kept = address(&data, &local);
    let key = kept.strip_prefix("file:").unwrap_or_else(|| panic!("{kept}")).to_owned();
    let digest = data.json(&["digest"])["digest"].clone();
    server.stop();
    let server = serve(&data, &[]);
    assert_eq!(address(&data, &local), format!("{URL}/{key}"));
    assert_eq!(data.json(&["digest"])["digest"], digest, "rows do not say where the store is");
    // Whoever may read the repository, and no more, learns the key.
    let path = format!("api/v1/repos/alice/etude/locate/{}", local.head("main"));
    let told = Request::get(server.url(&path), Some(&token)).send().unwrap().text();
    assert!(told.contains(&key) && !told.contains("s3://"), "{told}");
    server.stop();
    for name in bucket.objects.keys() {
        let copy = name.replacen("hub/", "mirror/two/", 1);
        bucket.objects.overwrite(&copy, bucket.objects.bytes(&name).unwrap());
        bucket.objects.remove(&name);
    }
    let second = machine(&bucket);
    let restored = second.json(&["restore", "--bucket", "s3://reprise/mirror/two"]);
    assert_eq!((&restored["missing_packs"], &restored["digest"]), (&0.into(), &digest), "{restored}");
    let server = second.serve();
    server.wait_ready();
    check_clone(&server, &local);
    assert_eq!(address(&second, &local), format!("s3://reprise/mirror/two/{key}"));
}

/// Whatever interrupts the bringing, and whatever the bucket makes of it: the note, after which originals may go, is written
/// only when the bucket gives every pack back.
#[test]
fn packs_are_brought_only_when_the_bucket_gives_them_back_as_they_were() {
    let bucket = Bucket::start();
    let (data, local) = without_bucket(&bucket);
    let noted = || data.path().join("bucket.json").exists();
    let refused = || {
        let output = data.run(&["serve", "--listen", "127.0.0.1:0", "--bucket", URL]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(!noted());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    // Of two packs the second is not taken, time and again.
    let planned = BTreeMap::from([("put", [vec![Fault::Slow(1); 3], vec![Fault::ErrorBefore; 40]].concat())]);
    bucket.objects.set_faults(Faults { planned, ..Faults::default() });
    refused();
    bucket.objects.set_faults(Faults::default());
    let there: Vec<String> = bucket.objects.keys().into_iter().filter(|key| key.contains("/packs/")).collect();
    assert_eq!(there.len(), 1, "{there:?}");
    // The one that it took is not what was sent.
    let mut spoilt = bucket.objects.bytes(&there[0]).unwrap().to_vec();
    spoilt[200] ^= 1;
    bucket.objects.overwrite(&there[0], spoilt.into());
    let text = refused();
    assert!(text.contains(&there[0]) && text.contains("other bytes"), "{text}");
    bucket.objects.remove(&there[0]);
    let server = serve(&data, &[]);
    assert!(noted());
    fs::remove_dir_all(data.path().join("objects")).unwrap();
    fs::remove_dir_all(data.path().join("copies")).unwrap();
    check_clone(&server, &local);
    server.stop();
    check_clone(&serve(&data, &[]), &local);
}

const BRANCHES: [&str; 3] = ["main", "variation", "feature/long-name"];
