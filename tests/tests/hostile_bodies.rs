//! Bodies that lie, break off or mean harm: each is refused with a text that names what is wrong, and leaves nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    io::Write,
    net::{Shutdown, TcpStream},
};

use reprise_tests::{
    client::{Repository, Request, Value, http::read_response, ids::sha256_hex, ls_remote, push::bundle_body},
    wire_rig::{Hub, check_refusal, object, objects},
};

/// Refused in one of the two legal ways, never with 409, and no branch exists afterwards.
fn check_not_accepted(hub: &Hub, body: &Value) -> String {
    let answer = hub.post("push", body);
    let text = if answer.code == 200 {
        let value = answer.decode().unwrap();
        assert_ne!(value.get("ok"), Some(&Value::Bool(true)), "accepted");
        value.text("message").to_owned()
    } else {
        check_refusal(&answer, &[400, 413, 422])
    };
    assert!(!text.is_empty());
    assert!(ls_remote(&hub.url).unwrap().is_empty());
    text
}

#[test]
fn an_object_that_does_not_hash_to_its_id_is_refused_and_not_stored() {
    let hub = Hub::start();
    let id = sha256_hex(b"right");
    let text = check_refusal(&hub.post("push/objects", &objects(vec![object(&id, b"wrong")])), &[400, 422]);
    assert!(text.contains(&id), "{text}");
    let missing = hub.post("filter-objects", &Value::map([("object_ids", Value::strs([&id]))])).decode().unwrap();
    assert_eq!(missing.items("missing").len(), 1);
}

#[test]
fn commits_and_snapshots_that_do_not_hash_to_their_ids_are_refused() {
    let hub = Hub::start();
    let mut local = Repository::init();
    let commit = local.commit("main", "root", &[("a", Some(b"a"))]);
    hub.post("push/objects", &objects(vec![object(&sha256_hex(b"a"), b"a")]));
    let honest = local.commits[&commit].clone();
    let snapshot = honest.text("snapshot_id").to_owned();
    let mut forged = honest.clone();
    forged.set("message", Value::str("not what was hashed"));
    local.commits.insert(commit.clone(), forged);
    check_not_accepted(&hub, &bundle_body(&local, std::slice::from_ref(&commit), "main", false));
    local.commits.insert(commit.clone(), honest);
    let mut forged = local.snapshots[&snapshot].clone();
    forged.set("manifest", Value::map([("evil", Value::str(sha256_hex(b"a")))]));
    local.snapshots.insert(snapshot, forged);
    check_not_accepted(&hub, &bundle_body(&local, &[commit], "main", false));
}

#[test]
fn hostile_paths_branch_names_and_messages_are_refused() {
    let hub = Hub::start();
    let id = sha256_hex(b"a");
    hub.post("push/objects", &objects(vec![object(&id, b"a")]));
    let paths = [
        "../evil",
        "/etc/passwd",
        "a/../b",
        "a//b",
        "./a",
        "a/.",
        "",
        ".muse/config",
        "a/.MUSE/x",
        "a\\b",
        "a\0b",
        "a\nb",
        "x\u{7f}y",
    ];
    for path in paths {
        let mut local = Repository::init();
        let tree = [(path.to_owned(), id.clone())].into();
        let commit = local.commit_tree("main", "m", &tree, &[]);
        check_not_accepted(&hub, &bundle_body(&local, &[commit], "main", false));
    }
    let clash = [("a".to_owned(), id.clone()), ("a/b".to_owned(), id.clone())].into();
    let mut local = Repository::init();
    let commit = local.commit_tree("main", "m", &clash, &[]);
    check_not_accepted(&hub, &bundle_body(&local, &[commit], "main", false));

    let mut local = Repository::init();
    let commit = local.commit("main", "nul\0in message", &[("a", Some(b"a"))]);
    check_not_accepted(&hub, &bundle_body(&local, &[commit], "main", false));

    let mut local = Repository::init();
    let commit = local.commit("main", "fine", &[("a", Some(b"a"))]);
    let long = "b".repeat(256);
    for branch in ["", "../evil", "a..b", "/a", "a/", "a//b", ".a", "a.", "a\\b", "a\nb", "a\tb", "a\0b", long.as_str()]
    {
        check_not_accepted(&hub, &bundle_body(&local, std::slice::from_ref(&commit), branch, false));
    }
    let longest = "b".repeat(255);
    let value = hub.post("push", &bundle_body(&local, &[commit], &longest, false)).decode().unwrap();
    assert_eq!(value.get("ok"), Some(&Value::Bool(true)), "255 characters are allowed: {value:?}");
}

#[test]
fn what_json_cannot_carry_in_a_record_is_refused_naming_the_field() {
    let hub = Hub::start();
    hub.post("push/objects", &objects(vec![object(&sha256_hex(b"a"), b"a")]));
    let bad = [
        Value::Bin(vec![1]),
        Value::Ext(1, vec![2]),
        Value::Float(f64::NAN),
        Value::Float(f64::INFINITY),
        Value::Map(vec![(Value::Int(1), Value::Nil)]),
        Value::Map(vec![(Value::str("k"), Value::Nil), (Value::str("k"), Value::Nil)]),
        Value::str("nul \0 inside"),
    ];
    for value in bad {
        let mut local = Repository::init();
        let commit = local.commit("main", "m", &[("a", Some(b"a"))]);
        let delta = Value::map([("domain", Value::str("code")), ("odd_field", value.clone())]);
        local.commits.get_mut(&commit).unwrap().set("structured_delta", delta);
        let answer = hub.post("push", &bundle_body(&local, &[commit], "main", false));
        let text = check_refusal(&answer, &[422]);
        assert!(text.contains("structured_delta"), "{value:?}: {text}");
        assert!(ls_remote(&hub.url).unwrap().is_empty());
    }
}

#[test]
fn broken_bodies_are_4xx_with_a_text_and_never_500() {
    let hub = Hub::start();
    let endpoints = ["filter-objects", "presign", "push/objects", "push", "negotiate", "fetch", "tags"];
    let deep = [vec![0x91u8; 100_000], vec![0xc0]].concat();
    let bodies: [&[u8]; 12] = [
        b"",
        b"\xc0",
        b"\x90",
        b"{\"object_ids\": []}",
        b"\x81\x01\x02",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\xaaobject_ids\xdd\x00\x10\x00\x00\xa1",
        b"\x81\xa7objects\x91\x82\xa9object_id\xa1x\xa7content\xc6\xff\xff\xff\xf0",
        b"\x80\x80",
        &deep,
    ];
    for endpoint in endpoints {
        for body in bodies {
            let answer = hub.post_bytes(endpoint, body);
            // negotiate may be absent; a map without keys may count as "nothing asked".
            let fine = answer.code == 200 && (body.is_empty() || body == b"\x80\x80") || answer.code == 501;
            let shown = &body[..body.len().min(24)];
            assert!(
                fine || (400..500).contains(&answer.code),
                "{endpoint} {shown:?}: {} {}",
                answer.code,
                answer.text()
            );
            assert_ne!(answer.code, 409, "{endpoint}: 409 means diverged");
        }
    }
    let releases = format!("{}/releases", hub.url);
    for body in [&b""[..], b"[]", b"{", b"{\"tag\": 1}", b"\xff\xff"] {
        let answer = Request::post_json(&releases, Some(&hub.token), body).send().unwrap();
        check_refusal(&answer, &[400, 422]);
    }
}

#[test]
fn ids_that_are_not_64_lower_case_digits_are_refused() {
    let hub = Hub::start();
    let upper = sha256_hex(b"a").to_uppercase();
    let long = "a".repeat(65);
    for id in ["", "abc", upper.as_str(), long.as_str(), "../../etc/passwd"] {
        check_refusal(&hub.post("push/objects", &objects(vec![object(id, b"a")])), &[400, 422]);
    }
}

#[test]
fn a_body_that_stops_half_way_leaves_nothing() {
    let hub = Hub::start();
    let body = objects(vec![object(&sha256_hex(b"half"), b"half")]).encode();
    let mut stream = TcpStream::connect(hub.server.host()).unwrap();
    let head = format!(
        "POST /alice/demo/push/objects HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-msgpack\r\n\
         Content-Length: {}\r\nAuthorization: Bearer {}\r\n\r\n",
        body.len() + 10_000,
        hub.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    if let Ok(answer) = read_response(&stream) {
        assert!((400..500).contains(&answer.code), "{}", answer.code);
    }
    let missing = Value::map([("object_ids", Value::strs([sha256_hex(b"half")]))]);
    assert_eq!(hub.post("filter-objects", &missing).decode().unwrap().items("missing").len(), 1);
}

#[test]
fn a_refusal_of_a_large_body_is_read_by_the_client_not_a_broken_pipe() {
    let hub = Hub::start();
    let content = vec![7u8; 24 << 20];
    let body = objects(vec![object(&sha256_hex(&content), &content)]).encode();
    let url = format!("{}/push/objects", hub.url);
    let answer = Request::post(&url, None, &body).send().unwrap();
    check_refusal(&answer, &[401]);
    let absent = Request::post(hub.server.url("alice/absent/push/objects"), Some(&hub.token), &body).send().unwrap();
    check_refusal(&absent, &[404]);
}

#[test]
fn a_snapshot_that_was_not_sent_is_named_in_the_refusal() {
    let hub = Hub::start();
    let tree = [("a".to_owned(), sha256_hex(b"a"))].into();
    let mut local = Repository::init();
    let commit = local.commit_tree("main", "m", &tree, &[]);
    let snapshot = local.commits[&commit].text("snapshot_id").to_owned();
    local.snapshots.clear();
    let text = check_not_accepted(&hub, &bundle_body(&local, &[commit], "main", false));
    assert!(text.contains(&snapshot), "{text}");
}
