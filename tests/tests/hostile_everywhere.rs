//! Every attack on every endpoint that reads a body (F12, F13): lengths that lie, nesting, wrong types, too many of anything,
//! compression, bodies and heads that break off or crawl. Each is refused by a 4xx that says why, stores nothing, and the
//! memory of the real server stays under its ceiling.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use reprise_tests::{
    client::{Response, Value, http::read_response, ids::sha256_hex, ls_remote},
    hostile::{ENDPOINTS, Endpoint, Type, name_of, replaced},
    wire_rig::{Hub, check_refusal, object, objects},
};

/// The most memory that the server may ever hold (README, "figures").
const RSS_KIB_MAX: u64 = 160 << 10;

fn admin_of(hub: &Hub) -> String {
    hub.data.token_with("alice", &["--scope", "admin"]).0
}

fn check_refused(endpoint: &Endpoint, answer: &Response, what: &str, says: &str) {
    let text = check_refusal(answer, &[400, 413, 422]);
    assert!(text.contains(says), "{} {}, {what}: {says:?} is not in {text:?}", endpoint.method, endpoint.path);
}

/// Where the log ends.
fn log_end(hub: &Hub) -> u64 {
    hub.data.asked(&hub.server, "status")[0]["durable"].as_u64().unwrap()
}

/// What was refused left nothing: whatever is stored (a branch, a release, a tag, a repository, a token) is an event, and no
/// object is there that no event names yet.
fn check_nothing_stored(hub: &Hub, end: u64) {
    assert_eq!(log_end(hub), end, "something was stored");
    assert!(ls_remote(&hub.url).unwrap().is_empty());
    let missing = hub.post("filter-objects", &Value::map([("object_ids", Value::strs([sha256_hex(b"content")]))]));
    assert_eq!(missing.decode().unwrap().items("missing").len(), 1);
    let releases = reprise_tests::client::Request::get(format!("{}/releases", hub.url), Some(&hub.token));
    assert!(releases.value().unwrap().items("releases").is_empty());
}

/// A map of one pair.
fn pair(key: &str, value: &[u8]) -> Vec<u8> {
    [&[0x81][..], &Value::str(key).encode(), value].concat()
}

/// Values that announce four gigabytes.
const LIES: [(&str, &[u8]); 5] = [
    ("str 32", b"\xdb\xff\xff\xff\xff"),
    ("bin 32", b"\xc6\xff\xff\xff\xff"),
    ("array 32", b"\xdd\xff\xff\xff\xff"),
    ("map 32", b"\xdf\xff\xff\xff\xff"),
    ("ext 32", b"\xc9\xff\xff\xff\xff\x01"),
];

#[test]
fn a_length_that_lies_is_refused_wherever_it_stands() {
    let hub = Hub::start();
    let end = log_end(&hub);
    for endpoint in ENDPOINTS.iter().filter(|endpoint| !endpoint.json) {
        for (what, lie) in LIES {
            let send = |body: &[u8]| endpoint.send(&hub, &hub.token, body);
            check_refused(endpoint, &send(lie), what, "body");
            check_refused(endpoint, &send(&pair("nobody_knows", lie)), what, "nobody_knows");
            for (field, _) in endpoint.fields.iter().filter(|(field, _)| !field.contains('.')) {
                check_refused(endpoint, &send(&pair(field, lie)), what, field);
            }
        }
    }
    check_nothing_stored(&hub, end);
}

#[test]
fn nesting_is_refused_wherever_it_stands() {
    let hub = Hub::start();
    let admin = admin_of(&hub);
    let end = log_end(&hub);
    for endpoint in &ENDPOINTS {
        let deep = |open: u8, innermost: u8| [vec![open; 50_000], vec![innermost]].concat();
        let bodies = match endpoint.json {
            true => [[&b"{\"nobody_knows\":"[..], &deep(b'[', b'1')].concat(), deep(b'[', b'1')],
            false => [pair("nobody_knows", &deep(0x91, 0xc0)), deep(0x91, 0xc0)],
        };
        for body in &bodies {
            let text = check_refusal(&endpoint.send(&hub, &admin, body), &[400, 413, 422]);
            let says = ["nested deeper than", "recursion limit", "map", "unknown field", "sequence"];
            assert!(says.iter().any(|says| text.contains(says)), "{}: {text}", endpoint.path);
        }
    }
    check_nothing_stored(&hub, end);
}

#[test]
fn a_value_of_the_wrong_type_is_refused_by_the_name_of_its_field() {
    let hub = Hub::start();
    let admin = admin_of(&hub);
    let end = log_end(&hub);
    for endpoint in &ENDPOINTS {
        for (field, right) in endpoint.fields {
            let wrong =
                Type::EVERY.into_iter().filter(|kind| !right.contains(kind) && (kind.is_json() || !endpoint.json));
            for kind in wrong {
                let body = endpoint.encode(&replaced(&(endpoint.body)(), field, kind.value()));
                let what = format!("{field} as {kind:?}");
                let answer = endpoint.send(&hub, &admin, &body);
                // The admin API's bodies say line and column where a type is wrong, and the name where a word is.
                let by_place = endpoint.path.starts_with("api/") && answer.text().contains("line 1 column");
                check_refused(endpoint, &answer, &what, if by_place { "" } else { name_of(field) });
            }
        }
    }
    check_nothing_stored(&hub, end);
    // All of that was refused for what it was changed to, and for nothing else.
    for endpoint in &ENDPOINTS {
        let answer = endpoint.send(&hub, &admin, &endpoint.encode(&(endpoint.body)()));
        let text = answer.text();
        assert!((200..300).contains(&answer.code), "{} {}: {} {text}", endpoint.method, endpoint.path, answer.code);
    }
}

#[test]
fn one_element_too_many_is_refused_with_the_limit_and_a_million_ids_are_answered() {
    let hub = Hub::start();
    let end = log_end(&hub);
    let id = Value::str(sha256_hex(b"one")).encode();
    let list = |count: u32, each: &[u8]| [&[0xdd][..], &count.to_be_bytes(), &each.repeat(count as usize)].concat();
    let refused = |endpoint: &str, body: &[u8], limit: &str| {
        let text = check_refusal(&hub.post_bytes(endpoint, body), &[413]);
        assert!(text.contains(limit), "{endpoint}: {limit} is not in {text:?}");
    };
    let million = pair("object_ids", &list(1_000_000, &id));
    assert_eq!(hub.post_bytes("filter-objects", &million).code, 200);
    for endpoint in ["filter-objects", "presign"] {
        refused(endpoint, &pair("object_ids", &list(1_000_001, &id)), "1000000");
    }
    refused("fetch", &pair("want", &list(65_537, &id)), "65536");
    refused("fetch", &pair("have", &list(2_000_001, &id)), "2000000");
    for field in ["want", "have"] {
        refused("negotiate", &pair(field, &list(4_097, &id)), "4096");
    }
    refused("negotiate", &vec![0xc0; (1 << 20) + 1], "1048576");
    refused("push/objects", &pair("objects", &list(10_001, b"\x80")), "10000");
    for (field, limit) in [("commits", 200_000_u32), ("snapshots", 200_000), ("objects", 10_000)] {
        let bundle = pair(field, &list(limit + 1, b"\x80"));
        refused("push", &pair("bundle", &bundle), &limit.to_string());
    }
    refused("tags", &pair("tags", &list(10_001, b"\x80")), "10000");
    refused("tags", &vec![0xc0; (4 << 20) + 1], "4194304");
    let release =
        [&[0x82][..], &pair("tag", &Value::str("v1").encode())[1..], &pair("changelog", &list(5_001, b"\x80"))[1..]];
    refused("releases", &release.concat(), "5000");
    check_nothing_stored(&hub, end);
    let admin = admin_of(&hub);
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.path.starts_with("api/")) {
        let answer = endpoint.send(&hub, &admin, &vec![b' '; (64 << 10) + 1]);
        check_refused(endpoint, &answer, "too long", "65536");
    }
}

#[test]
fn a_compressed_body_is_refused_by_the_name_of_its_coding_and_nothing_is_unpacked() {
    let hub = Hub::start();
    let admin = admin_of(&hub);
    let end = log_end(&hub);
    for endpoint in &ENDPOINTS {
        let body = endpoint.encode(&(endpoint.body)());
        for coding in ["gzip", "zstd", "br", "deflate", "identity, gzip"] {
            let answer = endpoint.request(&hub, &admin, &body).header("Content-Encoding", coding).send().unwrap();
            let text = check_refusal(&answer, &[415]);
            assert!(text.contains(coding), "{text}");
        }
    }
    check_nothing_stored(&hub, end);
    // As a blob, a bomb is bytes like any others.
    let bomb = zstd_bomb(2_048);
    let id = sha256_hex(&bomb);
    let stored = hub.post("push/objects", &objects(vec![object(&id, &bomb)])).decode().unwrap();
    assert_eq!(stored.get("stored").and_then(Value::as_int), Some(1));
    let read =
        reprise_tests::client::Request::get(format!("{}/objects/{id}", hub.url), Some(&hub.token)).send().unwrap();
    assert_eq!(read.body, bomb);
    check_memory(&hub);
}

/// A zstd frame of so many blocks that each stand for 128 KiB in four bytes.
fn zstd_bomb(blocks: usize) -> Vec<u8> {
    let mut frame = b"\x28\xb5\x2f\xfd\x00\x38".to_vec();
    for block in 0..blocks {
        let header: u32 = u32::from(block + 1 == blocks) | 1 << 1 | (128 << 10) << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(b'a');
    }
    frame
}

fn connect(hub: &Hub) -> TcpStream {
    let stream = TcpStream::connect(hub.server.host()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn head_of(endpoint: &Endpoint, token: &str, length: usize) -> String {
    let kind = if endpoint.json { "application/json" } else { "application/x-msgpack" };
    format!(
        "{} /{} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n",
        endpoint.method, endpoint.path
    )
}

#[test]
fn half_a_request_leaves_nothing_on_any_endpoint() {
    let hub = Hub::start();
    let admin = admin_of(&hub);
    let end = log_end(&hub);
    for endpoint in &ENDPOINTS {
        let body = endpoint.encode(&(endpoint.body)());
        for sent in [0, 1, body.len() / 2, body.len()] {
            let mut stream = connect(&hub);
            stream.write_all(head_of(endpoint, &admin, body.len() + 100).as_bytes()).unwrap();
            stream.write_all(&body[..sent]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            // A connection that ends without a word is an answer too: its client is gone.
            if let Ok(answer) = read_response(&stream) {
                assert!((400..500).contains(&answer.code), "{}: {} {}", endpoint.path, answer.code, answer.text());
            }
        }
    }
    check_nothing_stored(&hub, end);
}

#[test]
fn a_body_that_crawls_is_given_up_with_the_limit_on_every_endpoint() {
    let hub = Hub::start_with(&["--limit", "body_idle_max=1"]);
    let admin = admin_of(&hub);
    let end = log_end(&hub);
    thread::scope(|scope| {
        for endpoint in &ENDPOINTS {
            let (hub, admin) = (&hub, &admin);
            scope.spawn(move || {
                let mut stream = connect(hub);
                stream.write_all(head_of(endpoint, admin, 1_000).as_bytes()).unwrap();
                crawl(&stream);
                let answer = read_response(&stream).unwrap();
                check_refused(endpoint, &answer, "a body that crawls", "1 s, which is the limit");
            });
        }
    });
    check_nothing_stored(&hub, end);
}

#[test]
fn a_head_that_crawls_is_given_up() {
    let hub = Hub::start_with(&["--limit", "header_time_max=1"]);
    let mut stream = connect(&hub);
    stream.write_all(b"POST /alice/demo/push HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap();
    let asked = Instant::now();
    crawl(&stream);
    assert!(asked.elapsed() < Duration::from_secs(15), "the head was waited for");
    let mut rest = Vec::new();
    // Closed, with or without a word: there was no request that could be answered.
    stream.read_to_end(&mut rest).unwrap_or_default();
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(hub.post("filter-objects", &Value::map([("object_ids", Value::Array(vec![]))])).code, 200);
}

/// Sends a byte now and then until the server has something to say, or hangs up.
fn crawl(mut stream: &TcpStream) {
    let deadline = Instant::now() + Duration::from_secs(20);
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while stream.write_all(b"x").is_ok() {
        assert!(Instant::now() < deadline, "the server waits for ever");
        let mut one = [0];
        match stream.peek(&mut one) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
}

fn check_memory(hub: &Hub) {
    let peak = hub.server.peak_rss_kib();
    assert!(peak <= RSS_KIB_MAX, "{peak} KiB at most, more than {RSS_KIB_MAX}");
}

/// Bodies that cost a naive server hundreds of megabytes each: those that are refused all at once, twice; lists of a million
/// ids, which are answered, one after the other and eight at once.
#[test]
fn the_worst_bodies_stay_under_the_memory_ceiling() {
    let hub = Hub::start();
    let list = |count: u32, each: &[u8]| [&[0xdd][..], &count.to_be_bytes(), &each.repeat(count as usize)].concat();
    let bundled = |bundle: &[u8]| {
        [&[0x82][..], &pair("branch", &Value::str("main").encode())[1..], &pair("bundle", bundle)[1..]].concat()
    };
    let record = |field: &str| bundled(&pair(field, &[&[0x91][..], &pair("odd", &list(16 << 20, b"\xc0"))].concat()));
    let long = [&[0xdb][..], &(31_u32 << 20).to_be_bytes(), &vec![b'x'; 31 << 20]].concat();
    let refused = [
        ("push", record("commits")),
        ("push", record("snapshots")),
        ("push", bundled(&pair("commits", &[&[0x91][..], &pair("odd", &long)].concat()))),
        ("push", bundled(&pair("commits", &list(200_000, b"\x80")))),
        ("push/objects", pair("objects", &list(10_000, b"\x80"))),
        ("tags", list((4 << 20) - 8, b"\xc0")),
        ("releases", list((4 << 20) - 8, b"\x90")),
        ("negotiate", vec![0x91; 1 << 20]),
    ];
    thread::scope(|scope| {
        for (endpoint, body) in &refused {
            let hub = &hub;
            scope.spawn(move || {
                for _ in 0..2 {
                    check_refusal(&hub.post_bytes(endpoint, body), &[400, 413, 422]);
                }
            });
        }
    });
    check_memory(&hub);
    let ids = |count: u32| {
        let id = |number: u32| [&b"\xd9\x40"[..], format!("{number:064x}").as_bytes()].concat();
        [&[0xdd][..], &count.to_be_bytes(), &(0..count).flat_map(id).collect::<Vec<u8>>()].concat()
    };
    let many = pair("object_ids", &ids(900_000));
    assert_eq!(hub.post_bytes("filter-objects", &many).code, 200);
    // At once: together they may hold no more than one of them needs.
    thread::scope(|scope| {
        for (endpoint, key) in [("filter-objects", "missing"), ("presign", "inline")].repeat(4) {
            let (hub, many) = (&hub, &many);
            scope.spawn(move || {
                let answer = hub.post_bytes(endpoint, many);
                assert_eq!(answer.code, 200, "{}", answer.text());
                assert_eq!(answer.decode().unwrap().items(key).len(), 900_000);
            });
        }
    });
    check_memory(&hub);
    check_refusal(&hub.post_bytes("fetch", &pair("have", &ids(1_000_000))), &[422]);
    check_memory(&hub);
}
