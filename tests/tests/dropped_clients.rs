//! A client that goes away over a real socket, after any byte of its request or before its answer: what it sent is wholly
//! there or not at all, and the same push id gets the same answer as if nothing had happened (T18, F12).
//!
//! The drops at each await are in `server/src/http/interrupted_tests.rs`; here the connection is cut.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt, rngs::StdRng};
use reprise_tests::{
    client::{
        Failure, Refs, Repository, Request, Value, clone,
        http::connect,
        push::{bundle_body, candidates, objects_body},
    },
    effort::Effort,
    seeds,
    server_process::{DataDir, ServerProcess},
};
use rustix::net::sockopt::set_socket_linger;

const REPO: &str = "alice/etude";
/// Of so many drops one comes after the whole request was sent.
const WHOLE_EVERY: u64 = 4;

/// One branch with one commit, and the two requests that bring it there.
struct Story {
    branch: String,
    head: String,
    objects: Vec<u8>,
    push: Vec<u8>,
    key: String,
}

impl Story {
    fn new(number: u64, random: &mut StdRng) -> Story {
        let (branch, mut local) = (format!("b{number}"), Repository::init());
        let content: Vec<Vec<u8>> = (0..3).map(|_| seeds::bytes(random, 700)).collect();
        let paths = ["a", "b", "c"];
        let changes: Vec<(&str, Option<&[u8]>)> =
            paths.iter().zip(&content).map(|(path, content)| (*path, Some(content.as_slice()))).collect();
        let head = local.commit(&branch, &branch, &changes);
        let commits = [head.clone()];
        let objects = objects_body(&local.objects, &candidates(&local, &commits));
        let push = bundle_body(&local, &commits, &branch, false).encode();
        Story { key: format!("key of {branch}"), branch, head, objects, push }
    }

    fn upload<'a>(&'a self, url: &str, token: &str) -> Request<'a> {
        Request::post(format!("{url}/push/objects"), Some(token), &self.objects)
    }

    fn push<'a>(&'a self, url: &str, token: &str) -> Request<'a> {
        Request::post(format!("{url}/push"), Some(token), &self.push).header("Idempotency-Key", &self.key)
    }
}

/// Sends the first `length` bytes of a request and goes away: with a FIN, or with a reset.
fn drop_after(request: &Request<'_>, length: usize, reset: bool) {
    let mut stream = connect(request.host()).unwrap();
    stream.write_all(&request.bytes()[..length]).unwrap();
    if reset {
        set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    }
}

/// How much of a request a drop lets through: growing over the drops, with both ends and everything between.
fn cut(request: &Request<'_>, number: u64, gate: u64, random: &mut StdRng) -> usize {
    let whole = request.bytes().len();
    match number {
        number if number % WHOLE_EVERY == 0 => whole,
        number if number < gate => whole * usize::try_from(number).unwrap() / usize::try_from(gate).unwrap(),
        _ => random.random_range(0..whole),
    }
}

/// The same again: the answer of a push that nobody interrupted.
fn check_repeat(story: &Story, url: &str, token: &str) {
    let uploaded = story.upload(url, token).value().unwrap();
    let (stored, skipped) = (uploaded.get("stored").unwrap(), uploaded.get("skipped").unwrap());
    assert_eq!(stored.as_int().unwrap() + skipped.as_int().unwrap(), 3, "{uploaded:?}");
    let answer = story.push(url, token).value().unwrap();
    assert_eq!(answer.get("ok"), Some(&Value::Bool(true)), "{answer:?}");
    assert_eq!(answer.text("remote_head"), story.head);
    let again = story.push(url, token).value().unwrap();
    assert_eq!((again.get("ok"), again.text("remote_head")), (answer.get("ok"), answer.text("remote_head")));
}

/// Every file below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Bodies that a server holds in its spool: their files have no names, so that only its descriptors tell.
fn bodies_in_the_spool(server: &ServerProcess) -> usize {
    let held = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    // A descriptor that is closed meanwhile is none.
    let held = held.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    held.filter(|file| file.to_string_lossy().contains("/data/spool/")).count()
}

/// Waits until a server holds so many.
fn wait_for_bodies(server: &ServerProcess, wanted: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while bodies_in_the_spool(server) != wanted {
        assert!(Instant::now() < deadline, "{} bodies in the spool, not {wanted}", bodies_in_the_spool(server));
        thread::yield_now();
    }
}

/// No file but the packs that the log names, and none in the spool.
fn check_nothing_is_left(data: &DataDir) {
    assert_eq!(files(&data.path().join("spool")), Vec::<PathBuf>::new());
    let left = files(&data.path().join("objects"));
    let named: BTreeSet<String> =
        data.json_lines(&["log"]).iter().filter_map(|event| Some(event["pack"].as_str()?.to_owned())).collect();
    // Beside them stands the mark that says what the directory is.
    for file in left.iter().filter(|file| !file.ends_with("STORE")) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(named.contains(&name), "no event names {}", file.display());
    }
}

#[test]
fn a_push_whose_client_is_cut_off_anywhere_is_answered_as_if_nothing_had_happened_when_it_is_sent_again() {
    const GATE: u64 = 200;
    let mut random = seeds::random(seeds::seed("dropped clients"), 0);
    let data = DataDir::new();
    // Bodies go to the spool at once, so that what a cut leaves there is seen in the server's descriptors.
    let server = data.serve_with(&["--limit", "spool_threshold_bytes=1000"]);
    server.wait_ready();
    data.create_repo(REPO, &[]);
    let (url, token) = (server.url(REPO), data.token("alice"));
    let mut heads = BTreeSet::new();
    for number in Effort::of("T18 dropped clients", GATE) {
        let story = Story::new(number, &mut random);
        let reset = random.random();
        if number % 2 == 0 {
            let upload = story.upload(&url, &token);
            drop_after(&upload, cut(&upload, number / 2, GATE / 2, &mut random), reset);
        } else {
            story.upload(&url, &token).value().unwrap();
            let push = story.push(&url, &token);
            drop_after(&push, cut(&push, number / 2, GATE / 2, &mut random), reset);
        }
        let refs = Refs::get(&url, None).unwrap();
        assert!(refs.head(&story.branch).is_none_or(|head| head == story.head), "half a push: {refs:?}");
        check_repeat(&story, &url, &token);
        heads.insert((story.branch, story.head));
    }
    let cloned = clone(&url).unwrap();
    assert_eq!(cloned.heads.clone().into_iter().collect::<BTreeSet<_>>(), heads);
    heads.iter().for_each(|(_, head)| cloned.check_complete(head).unwrap());
    wait_for_bodies(&server, 0);
    // Before the next opening, which would sweep.
    check_nothing_is_left(&data);
    assert!(data.run(&["verify", "--deep"]).status.success());
    server.stop();
}

#[test]
fn a_server_that_is_killed_with_half_a_body_in_its_spool_leaves_nothing_of_it() {
    let mut random = seeds::random(seeds::seed("half a body"), 0);
    let data = DataDir::new();
    let server = data.serve_with(&["--limit", "spool_threshold_bytes=1000"]);
    server.wait_ready();
    data.create_repo(REPO, &[]);
    let (url, token) = (server.url(REPO), data.token("alice"));
    let story = Story::new(0, &mut random);
    let upload = story.upload(&url, &token);
    let mut stream = connect(upload.host()).unwrap();
    stream.write_all(&upload.bytes()[..2_000]).unwrap();
    wait_for_bodies(&server, 1);
    server.kill();
    assert_eq!(files(&data.path().join("spool")), Vec::<PathBuf>::new());
    let failed = story.upload(&url, &token).value().unwrap_err();
    assert!(matches!(failed, Failure::Transport(_)), "nobody is there: {failed}");
    let server = data.serve();
    server.wait_ready();
    check_nothing_is_left(&data);
    check_repeat(&story, &server.url(REPO), &token);
    server.stop();
}
