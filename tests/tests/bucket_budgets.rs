//! What an operation may ask of a bucket, counted where the requests arrive: real servers, a real S3 endpoint.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::BTreeMap;

use reprise_tests::{
    bucket::{
        Bucket,
        machine::{URL, machine, until},
    },
    client::{
        Remote, Repository, Request, Value, clone, ls_remote, push,
        push::{bundle_body, objects_body},
    },
    fixtures, seeds,
    server_process::{DataDir, ServerProcess},
};

/// A server that has done what it does once after its start: it looks for uploads that nobody took in.
fn serve(bucket: &Bucket, data: &DataDir) -> ServerProcess {
    let lists = || count(&bucket.objects.counts(), "list");
    let before = lists();
    let server = data.serve_with(&["--bucket", URL, "--log", "bucket"]);
    server.wait_ready();
    until("something is listed after the start", || lists() > before);
    server
}

/// A server with an empty repository, and a client of it that has nothing either.
struct Rig {
    bucket: Bucket,
    server: ServerProcess,
    remote: Remote,
    local: Repository,
    data: DataDir,
}

impl Rig {
    fn new() -> Rig {
        let bucket = Bucket::start();
        let data = machine(&bucket);
        let server = serve(&bucket, &data);
        data.create_repo("ada/one", &[]);
        let remote = server.remote("ada/one", Some(&data.token("ada")));
        let mut local = Repository::init();
        local.remotes.insert("origin".to_owned(), remote.clone());
        Rig { bucket, server, remote, local, data }
    }
}

fn post(remote: &Remote, endpoint: &str, body: &Value) -> Vec<u8> {
    let answer = Request::post(format!("{}/{endpoint}", remote.url), remote.token.as_deref(), &body.encode()).send();
    let answer = answer.unwrap();
    assert_eq!(answer.code, 200, "{endpoint}: {}", answer.text());
    answer.body
}

/// Requests of `doing` by operation. Polls of the log in between are a look each: at most two reads every half second.
fn asked<T>(bucket: &Bucket, doing: impl FnOnce() -> T) -> (BTreeMap<&'static str, u64>, T) {
    bucket.objects.take_counts();
    let done = doing();
    (bucket.objects.take_counts(), done)
}

fn count(counts: &BTreeMap<&'static str, u64>, operation: &str) -> u64 {
    counts.get(operation).copied().unwrap_or(0)
}

/// Nothing is listed or asked for its size.
fn check_hot(counts: &BTreeMap<&'static str, u64>) {
    assert_eq!((count(counts, "list"), count(counts, "head")), (0, 0), "{counts:?}");
}

/// Reads of packs by key since this was last asked.
fn pack_reads(bucket: &Bucket) -> BTreeMap<String, u64> {
    let mut reads = BTreeMap::new();
    for key in bucket.objects.take_reads().into_iter().filter(|key| key.contains("/packs/")) {
        *reads.entry(key).or_default() += 1;
    }
    reads
}

#[test]
fn a_push_puts_its_pack_and_its_slot_and_nothing_else() {
    let Rig { bucket, server: _server, remote, mut local, data: _data } = Rig::new();
    local.commit("main", "first", &[("a", Some(b"content"))]);
    push(&mut local, "origin", "main").unwrap();
    // The objects are there already.
    let commit = local.commit("main", "moved", &[("a", None), ("b", Some(b"content"))]);
    let body = bundle_body(&local, &[commit], "main", false);
    let (counts, _) = asked(&bucket, || post(&remote, "push", &body));
    assert_eq!(count(&counts, "put"), 2, "{counts:?}");
    // One read of the floor; a look of the polling may come between.
    assert!(count(&counts, "get") <= 3 && counts.len() <= 2, "{counts:?}");
    check_hot(&counts);
    // Objects beforehand are one pack and one slot more.
    local.commit("main", "more", &[("c", Some(b"other")), ("d", Some(b"others"))]);
    let (counts, pushed) = asked(&bucket, || push(&mut local, "origin", "main"));
    pushed.unwrap();
    assert_eq!(count(&counts, "put"), 4, "{counts:?}");
    check_hot(&counts);
}

#[test]
fn a_clone_by_a_server_that_has_nothing_near_reads_every_pack_once() {
    let bucket = Bucket::start();
    let data = machine(&bucket);
    let server = serve(&bucket, &data);
    data.create_repo("ada/one", &[]);
    let mut local = fixtures::etude();
    local.remote("origin", &server.url("ada/one"), Some(&data.token("ada")));
    for branch in ["main", "variation", "feature/long-name"] {
        push(&mut local, "origin", branch).unwrap();
    }
    let other = machine(&bucket);
    let empty = serve(&bucket, &other);
    bucket.objects.take_reads();
    let (counts, cloned) = asked(&bucket, || clone(&empty.url("ada/one")).unwrap());
    cloned.check_complete(cloned.head("main")).unwrap();
    let reads = pack_reads(&bucket);
    assert!(reads.len() >= 3 && reads.values().all(|count| *count == 1), "{reads:?}");
    assert_eq!(count(&counts, "put"), 0, "{counts:?}");
    check_hot(&counts);
    // What is asked for again is a copy from then on.
    clone(&empty.url("ada/one")).unwrap();
    assert_eq!(pack_reads(&bucket), reads);
    clone(&empty.url("ada/one")).unwrap();
    assert_eq!(pack_reads(&bucket), BTreeMap::new());
}

#[test]
fn the_addresses_of_packs_are_told_without_a_look_at_them() {
    let Rig { bucket, server: _server, remote: _remote, mut local, data } = Rig::new();
    for number in 0..5 {
        let content = format!("content {number}");
        local.commit("main", &content, &[("a", Some(content.as_bytes()))]);
        push(&mut local, "origin", "main").unwrap();
    }
    let other = machine(&bucket);
    let empty = serve(&bucket, &other);
    let remote = empty.remote("ada/one", Some(&data.token("ada")));
    // It reads the log first.
    ls_remote(&remote.url).unwrap();
    bucket.objects.take_reads();
    let want = Value::map([("want", Value::strs([local.head("main")]))]);
    let (counts, listed) = asked(&bucket, || post(&remote, "fetch/presign", &want));
    assert!(String::from_utf8_lossy(&listed).matches("X-Amz-Signature").count() >= 5);
    assert_eq!(pack_reads(&bucket), BTreeMap::new());
    check_hot(&counts);
}

#[test]
fn a_fetch_of_a_few_objects_of_a_large_pack_reads_a_range_of_it() {
    let Rig { bucket, server: _server, remote, mut local, data: _data } = Rig::new();
    let mut random = seeds::random(7, 7);
    let large: Vec<(String, Vec<u8>)> =
        (0..20).map(|n| (format!("large-{n}"), seeds::bytes(&mut random, 200_000))).collect();
    let first = local.commit("main", "first", &changes(&large));
    let small: Vec<(String, Vec<u8>)> = (0..9).map(|n| (format!("s-{n}"), seeds::bytes(&mut random, 500))).collect();
    let second = local.commit("main", "second", &changes(&small));
    // One pack with the objects of both.
    let mut ids: Vec<String> = local.tree(&first).into_values().collect();
    ids.extend(local.tree(&second).into_values().filter(|id| !ids.contains(id)).collect::<Vec<_>>());
    assert_eq!(ids.len(), 29);
    let body = objects_body(&local.objects, &ids);
    let answer = Request::post(format!("{}/push/objects", remote.url), remote.token.as_deref(), &body).send();
    assert_eq!(answer.unwrap().code, 200);
    for commit in [&first, &second] {
        post(&remote, "push", &bundle_body(&local, std::slice::from_ref(commit), "main", false));
    }
    let other = machine(&bucket);
    let empty = serve(&bucket, &other);
    ls_remote(&empty.url("ada/one")).unwrap();
    bucket.objects.take_reads();
    let body = Value::map([("want", Value::strs([&second])), ("have", Value::strs([&first]))]);
    let answer = post(&empty.remote("ada/one", None), "fetch", &body);
    assert!(answer.len() < 100_000, "{} bytes", answer.len());
    let reads = pack_reads(&bucket);
    assert_eq!(reads.len(), 2, "the small ones' pack, and that of the second commit: {reads:?}");
    assert!(reads.values().all(|count| *count == 1), "{reads:?}");
}

fn changes(files: &[(String, Vec<u8>)]) -> Vec<(&str, Option<&[u8]>)> {
    files.iter().map(|(path, content)| (path.as_str(), Some(content.as_slice()))).collect()
}
