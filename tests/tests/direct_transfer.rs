//! Direct transfer against the real binary, with a reader and a writer of packs that share nothing with the engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use reprise_tests::{
    client::{
        Refs, Repository, Request, Response, Value, clone, ids::sha256_hex, ls_remote, mpack, push, push::candidates,
    },
    fixtures, seeds,
    server_process::{DataDir, ServerProcess},
    wire_rig::{Hub, check_refusal},
};
use sha2::{Digest, Sha256};

/// The most memory that the server may ever hold (README, "figures").
const RSS_KIB_MAX: u64 = 160 << 10;

fn etude() -> (DataDir, ServerProcess, Repository) {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    data.create_repo("alice/etude", &[]);
    let mut local = fixtures::etude();
    local.remote("origin", &server.url("alice/etude"), Some(&data.token("alice")));
    for branch in ["main", "variation", "feature/long-name"] {
        push(&mut local, "origin", branch).unwrap();
    }
    (data, server, local)
}

fn wanting<'a>(want: impl IntoIterator<Item = &'a String>, have: impl IntoIterator<Item = &'a String>) -> Vec<u8> {
    Value::map([("want", Value::strs(want)), ("have", Value::strs(have))]).encode()
}

fn fetch_pack(url: &str, want: &[&String], have: &[&String]) -> mpack::Pack {
    let body = wanting(want.iter().copied(), have.iter().copied());
    let answer = Request::post(format!("{url}/fetch/mpack"), None, &body).send().unwrap();
    assert_eq!(answer.code, 200, "{}", answer.text());
    mpack::read(&answer.body)
}

#[test]
fn the_fixture_clones_by_pack_byte_for_byte_and_field_for_field() {
    let (_data, server, local) = etude();
    let url = server.url("alice/etude");
    let heads: Vec<&String> = local.heads.values().collect();
    let pack = fetch_pack(&url, &heads, &[]);
    let mut cloned = Repository::init();
    mpack::apply(&mut cloned, &pack).unwrap();
    // Nobody asks for it, and nobody sends it.
    cloned.add_object(b"");
    for (id, content) in &local.objects {
        assert_eq!(cloned.objects.get(id), Some(content), "{id}");
    }
    for (records, known) in [(&cloned.commits, &local.commits), (&cloned.snapshots, &local.snapshots)] {
        assert!(records.keys().eq(known.keys()));
        for (id, record) in records {
            assert_eq!(mpack::json_of(record), mpack::json_of(&known[id]), "{id}");
        }
    }
    for head in local.heads.values() {
        assert_eq!(cloned.materialise(head), local.materialise(head));
    }
    // And the stock client's clone has nothing else.
    let stock = clone(&url).unwrap();
    assert!(stock.commits.keys().eq(cloned.commits.keys()) && stock.snapshots.keys().eq(cloned.snapshots.keys()));
}

#[test]
fn every_increment_of_the_fixture_completes_a_clone_that_has_the_rest() {
    let (_data, server, local) = etude();
    let url = server.url("alice/etude");
    let head = local.head("main").to_owned();
    let history = local.walk(&head, &Default::default());
    for have in history.iter().step_by(5) {
        let mut cloned = Repository::init();
        mpack::apply(&mut cloned, &fetch_pack(&url, &[have], &[])).unwrap();
        cloned.check_complete(have).unwrap();
        let increment = fetch_pack(&url, &[&head], &[have]);
        assert!(increment.entries.iter().all(|entry| entry.kind != 2 || !cloned.commits.contains_key(&entry.id)));
        mpack::apply(&mut cloned, &increment).unwrap();
        cloned.check_complete(&head).unwrap();
    }
}

#[test]
fn a_clone_far_over_the_stock_clients_limit_streams_in_bounded_memory_and_goes_on_where_it_broke_off() {
    let hub = Hub::start();
    let mut local = Repository::init();
    local.remote("origin", &hub.url, Some(&hub.token));
    let mut random = seeds::random(1, 0);
    let sizes = std::iter::repeat_n(24 << 20, 9).chain(std::iter::repeat_n(30_000, 300));
    let files: Vec<(String, Vec<u8>)> =
        sizes.enumerate().map(|(number, len)| (format!("file-{number}"), seeds::bytes(&mut random, len))).collect();
    for some in files.chunks(31) {
        let changes: Vec<(&str, Option<&[u8]>)> =
            some.iter().map(|(path, content)| (path.as_str(), Some(content.as_slice()))).collect();
        local.commit("main", "more", &changes);
        push(&mut local, "origin", "main").unwrap();
    }
    let head = local.head("main").to_owned();
    let body = wanting([&head], []);
    let whole = stream(&hub.url, &body, &[], u64::MAX, Sha256::new());
    assert_eq!(whole.code, 200);
    let len: u64 = whole.header("content-length").parse().unwrap();
    assert!(len > 200 << 20 && whole.bytes == len, "{len} bytes announced, {} came", whole.bytes);
    // Broken off after a third, taken up again.
    let broken = stream(&hub.url, &body, &[], len / 3, Sha256::new());
    let etag = broken.header("etag").to_owned();
    assert_eq!(etag, whole.header("etag"));
    let range = format!("bytes={}-", len / 3);
    let rest = stream(&hub.url, &body, &[("Range", &range), ("If-Range", &etag)], u64::MAX, broken.hash);
    assert_eq!((rest.code, rest.bytes), (206, len - len / 3));
    assert_eq!(rest.hash.finalize(), whole.hash.finalize(), "both parts are the whole");
    let peak = hub.server.peak_rss_kib();
    assert!(peak <= RSS_KIB_MAX, "{peak} KiB at most, more than {RSS_KIB_MAX}");
}

/// What came of an answer that is not kept.
struct Streamed {
    code: u16,
    headers: Vec<(String, String)>,
    bytes: u64,
    /// Of all that came, after what was hashed before.
    hash: Sha256,
}

impl Streamed {
    fn header(&self, name: &str) -> &str {
        &self.headers.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}")).1
    }
}

/// Posts to `fetch/mpack` and reads up to `max` bytes of the answer, none of which is kept.
fn stream(url: &str, body: &[u8], more: &[(&str, &str)], max: u64, hash: Sha256) -> Streamed {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut socket = TcpStream::connect(host).unwrap();
    let mut head = format!(
        "POST /{path}/fetch/mpack HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-msgpack\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in more {
        head += &format!("{name}: {value}\r\n");
    }
    socket.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    socket.write_all(body).unwrap();
    let mut reader = BufReader::with_capacity(1 << 20, socket);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    let code = line()[9..12].parse().unwrap();
    let mut headers = Vec::new();
    loop {
        match line().split_once(':') {
            None => break,
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
        }
    }
    let mut streamed = Streamed { code, headers, bytes: 0, hash };
    let wanted = streamed.header("content-length").parse::<u64>().unwrap().min(max);
    let mut body = reader.take(wanted);
    loop {
        let bytes = body.fill_buf().unwrap();
        if bytes.is_empty() {
            return streamed;
        }
        let taken = bytes.len();
        streamed.hash.update(bytes);
        streamed.bytes += taken as u64;
        body.consume(taken);
    }
}

const PUSH: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";

/// Announces and uploads a pack; its name.
fn upload(hub: &Hub, pack: &[u8]) -> String {
    let announced = announce(hub, pack);
    let url = format!("{}/{}", hub.url, announced.text("url"));
    let answer = Request::put(url, pack).send().unwrap();
    assert_eq!(answer.code, 204, "{}", answer.text());
    announced.text("upload").to_owned()
}

fn announce(hub: &Hub, pack: &[u8]) -> Value {
    let bytes = i128::try_from(pack.len()).unwrap();
    let body = Value::map([("bytes", Value::Int(bytes)), ("sha256", Value::str(sha256_hex(pack)))]);
    hub.post("push/mpack-presign", &body).decode().unwrap()
}

fn unpack(hub: &Hub, uploads: &[&str], branch: &str, tip: &str) -> Response {
    let body = Value::map([
        ("uploads", Value::strs(uploads.iter().copied())),
        ("branch", Value::str(branch)),
        ("tip", Value::str(tip)),
    ]);
    let bytes = body.encode();
    let request = Request::post(format!("{}/push/unpack-mpack", hub.url), Some(&hub.token), &bytes);
    request.header("Idempotency-Key", PUSH).send().unwrap()
}

/// Everything of a branch in one pack, made without the engine.
fn pack_of(hub: &Hub, local: &Repository, branch: &str) -> Vec<u8> {
    let commits = local.walk(local.head(branch), &BTreeSet::new());
    let blobs = candidates(local, &commits);
    let repo = Refs::get(&hub.url, None).unwrap().repo_id;
    mpack::write(&repo, PUSH, 7, &mpack::objects_of(local, &commits, &blobs))
}

/// Files below the packs' directory.
fn files(hub: &Hub, below: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![hub.data.path().join("objects").join(below)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found
}

#[test]
fn the_fixture_pushed_as_a_pack_is_stored_as_it_came_and_clones_back() {
    let hub = Hub::start();
    let local = fixtures::etude();
    let pack = pack_of(&hub, &local, "main");
    let name = upload(&hub, &pack);
    let answer = unpack(&hub, &[&name], "main", local.head("main")).decode().unwrap();
    assert_eq!(answer.get("ok"), Some(&Value::Bool(true)), "{answer:?}");
    let stored = files(&hub, "packs");
    assert_eq!(stored.len(), 1);
    assert!(std::fs::read(&stored[0]).unwrap() == pack, "byte for byte");
    assert!(files(&hub, "staging").is_empty() && files(&hub, "quarantine").is_empty());
    let cloned = clone(&hub.url).unwrap();
    cloned.check_complete(local.head("main")).unwrap();
    let mut expected = local.materialise(local.head("main"));
    expected.retain(|_, content| !content.is_empty());
    assert_eq!(cloned.materialise(local.head("main")), expected);
    // The other branches share most of it: what is new is packed anew.
    for branch in ["variation", "feature/long-name"] {
        let name = upload(&hub, &pack_of(&hub, &local, branch));
        let body = Value::map([
            ("uploads", Value::strs([name.as_str()])),
            ("branch", Value::str(branch)),
            ("tip", Value::str(local.head(branch))),
        ]);
        assert_eq!(hub.post("push/unpack-mpack", &body).decode().unwrap().get("ok"), Some(&Value::Bool(true)));
        fetch_pack(&hub.url, &[&local.heads[branch]], &[]);
    }
    let verified = hub.data.json_lines(&["verify", "--deep"]);
    assert_eq!(verified.last().unwrap()["ok"], true, "{verified:?}");
}

#[test]
fn a_kill_between_announcement_upload_and_unpack_forgets_nothing() {
    let hub = Hub::start();
    let local = fixtures::etude();
    let (head, pack) = (local.head("main"), pack_of(&hub, &local, "main"));
    let uploaded = upload(&hub, &pack);
    let side = pack_of(&hub, &local, "variation");
    let announced = announce(&hub, &side);
    assert_eq!((files(&hub, "quarantine").len(), files(&hub, "packs").len()), (1, 0));
    let Hub { data, server, token, .. } = hub;
    server.kill();
    let server = data.serve();
    server.wait_ready();
    let hub = Hub { url: server.url("alice/demo"), data, server, token };
    assert!(files(&hub, "staging").is_empty() && files(&hub, "packs").is_empty());
    assert!(ls_remote(&hub.url).unwrap().is_empty(), "nobody sees what was not unpacked");
    assert_eq!(unpack(&hub, &[&uploaded], "main", head).code, 200);
    clone(&hub.url).unwrap().check_complete(head).unwrap();
    // The ticket that the server before gave is good.
    let url = format!("{}/{}", hub.url, announced.text("url"));
    assert_eq!(Request::put(url, &side).send().unwrap().code, 204);
    let body = Value::map([
        ("uploads", Value::strs([announced.text("upload")])),
        ("branch", Value::str("variation")),
        ("tip", Value::str(local.head("variation"))),
    ]);
    assert_eq!(hub.post("push/unpack-mpack", &body).decode().unwrap().get("ok"), Some(&Value::Bool(true)));
    clone(&hub.url).unwrap().check_complete(local.head("variation")).unwrap();
}

#[test]
fn an_upload_that_nobody_unpacks_is_removed_when_its_time_is_over() {
    // Whole seconds: at least two of them for the upload.
    let hub = Hub::start_with(&["--limit", "upload_time_max=3"]);
    let name = upload(&hub, b"any bytes");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !files(&hub, "quarantine").is_empty() {
        assert!(Instant::now() < deadline, "it stays");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(unpack(&hub, &[&name], "main", &sha256_hex(b"any")).code, 404);
}

#[test]
fn a_refused_upload_leaves_no_file_and_no_ticket_is_ever_logged() {
    let hub = Hub::start();
    let pack = pack_of(&hub, &fixtures::etude(), "main");
    let announced = announce(&hub, &pack);
    let url = format!("{}/{}", hub.url, announced.text("url"));
    for wrong in [&pack[1..], b"", &[&pack[..], b"x"].concat()] {
        let answer = Request::put(&url, wrong).send().unwrap();
        check_refusal(&answer, &[422]);
        assert!(files(&hub, "staging").is_empty() && files(&hub, "quarantine").is_empty());
    }
    assert_eq!(Request::put(&url, &pack).send().unwrap().code, 204);
    assert_eq!(Request::put(&url, &pack).send().unwrap().code, 412, "it is here");
    let ticket = url.rsplit('=').next().unwrap();
    // The last refusal's line, and with it all before it.
    let printed = hub.server.until_printed("status=412");
    assert!(printed.contains("/alice/demo/mpack/"), "the requests themselves are");
    assert!(ticket.len() == 96 && !printed.contains(ticket));
}

#[test]
fn a_large_blob_comes_by_its_own_address_and_the_stock_push_goes_on_without_it() {
    // The address that clients would use; here its path is asked for where the server really is.
    let hub = Hub::start_with(&["--presign-uploads", "https://hub.example"]);
    let mut local = Repository::init();
    local.remote("origin", &hub.url, Some(&hub.token));
    let large = b"a long line of text, ".repeat(40_000);
    local.commit("main", "large", &[("large", Some(&large)), ("small", Some(b"small"))]);
    let id = sha256_hex(&large);
    let asked = Value::map([("object_ids", Value::strs([&id])), ("direction", Value::str("put"))]);
    let answer = hub.post("presign", &asked).decode().unwrap();
    let addresses = answer.str_map("presigned");
    assert!(addresses.len() == 1 && addresses[0].0 == id && answer.items("inline").is_empty(), "{answer:?}");
    let path = addresses[0].1.strip_prefix("https://hub.example/").unwrap();
    check_refusal(&Request::put(hub.server.url(path), b"other bytes").send().unwrap(), &[422]);
    assert_eq!(Request::put(hub.server.url(path), &large).send().unwrap().code, 204);
    assert_eq!(Request::put(hub.server.url(path), &large).send().unwrap().code, 204, "a push that is repeated goes on");
    assert_eq!((files(&hub, "quarantine").len(), files(&hub, "packs").len()), (1, 0));
    let printed = hub.server.until_printed("status=422");
    assert!(!printed.contains(path.rsplit('=').next().unwrap()), "no ticket in the log");
    let commits = local.walk(local.head("main"), &BTreeSet::new());
    let rest = [sha256_hex(b"small")];
    push::push_objects(&local.objects, &local.remotes["origin"], &rest).unwrap();
    let body = push::bundle_body(&local, &commits, "main", false);
    assert_eq!(hub.post("push", &body).decode().unwrap().get("ok"), Some(&Value::Bool(true)));
    let head = local.head("main");
    assert_eq!(clone(&hub.url).unwrap().materialise(head), local.materialise(head));
    assert!(files(&hub, "quarantine").is_empty(), "taken in");
}
