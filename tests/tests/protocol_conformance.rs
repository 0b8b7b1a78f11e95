//! Every endpoint against the wire's rules: statuses, shapes, msgpack types, limits, hostile bodies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{io::Write, net::TcpStream};

use reprise_tests::{
    client::{
        Repository, Request, Value,
        http::read_response,
        ids::{EMPTY, sha256_hex},
        ls_remote, push,
        push::bundle_body,
        release,
        repository::{commit_record, snapshot_record},
    },
    wire_rig::{Hub, check_refusal, check_shape, object, objects},
};

#[test]
fn refs_answers_msgpack_with_its_four_keys_empty_or_not() {
    let hub = Hub::start();
    let keys = ["repo_id", "domain", "default_branch", "branch_heads"];
    let refs = || Request::get(format!("{}/refs", hub.url), None).send().unwrap();
    let empty = check_shape(&refs(), &keys);
    assert_eq!(empty.get("branch_heads"), Some(&Value::Map(Vec::new())));
    assert_eq!((empty.text("domain"), empty.text("default_branch")), ("code", "main"));
    let repo_id = empty.text("repo_id");
    assert!(!repo_id.is_empty() && !repo_id.contains(['/', '\\']) && !repo_id.contains(".."), "{repo_id}");
    let local = hub.pushed();
    let full = check_shape(&refs(), &keys);
    assert_eq!(full.str_map("branch_heads"), [("main".to_owned(), local.head("main").to_owned())]);
    assert_eq!(full.text("repo_id"), repo_id);
}

#[test]
fn filter_objects_always_names_missing_and_never_the_empty_blob() {
    let hub = Hub::start();
    let local = hub.pushed();
    let known = sha256_hex(b"hello\n");
    let unknown = sha256_hex(b"nobody sent this");
    let ask = |ids: &[&str]| {
        let answer = hub.post("filter-objects", &Value::map([("object_ids", Value::strs(ids))]));
        let value = check_shape(&answer, &["missing"]);
        value.items("missing").iter().map(|id| id.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ask(&[&known, &unknown, EMPTY]), std::slice::from_ref(&unknown));
    assert!(ask(&[]).is_empty());
    assert!(ask(&[&known]).is_empty());
    assert_eq!(ask(&[local.head("main")]), [local.head("main")], "a commit's id is not a blob");
}

#[test]
fn filter_objects_takes_a_hundred_thousand_ids() {
    let hub = Hub::start();
    let ids: Vec<String> = (0..100_000u32).map(|n| sha256_hex(&n.to_be_bytes())).collect();
    let answer = hub.post("filter-objects", &Value::map([("object_ids", Value::strs(&ids))]));
    let value = check_shape(&answer, &["missing"]);
    assert_eq!(value.items("missing").len(), ids.len());
}

#[test]
fn presign_answers_inline_for_a_directory_store() {
    let hub = Hub::start();
    let ids = [sha256_hex(b"large one"), sha256_hex(b"large two")];
    let body = Value::map([("object_ids", Value::strs(&ids)), ("direction", Value::str("put"))]);
    let value = check_shape(&hub.post("presign", &body), &["presigned", "inline"]);
    assert_eq!(value.get("presigned"), Some(&Value::Map(Vec::new())));
    assert_eq!(value.items("inline").len(), 2);
}

#[test]
fn push_objects_counts_what_it_stored_and_repeats_harmlessly() {
    let hub = Hub::start();
    let body =
        objects(vec![object(&sha256_hex(b"one"), b"one"), object(&sha256_hex(b"two"), b"two"), object(EMPTY, b"")]);
    let count = |answer: &Value, key: &str| answer.get(key).and_then(Value::as_int).unwrap();
    let first = check_shape(&hub.post("push/objects", &body), &["stored", "skipped"]);
    assert_eq!(count(&first, "stored") + count(&first, "skipped"), 3);
    assert!(count(&first, "stored") >= 2);
    let second = check_shape(&hub.post("push/objects", &body), &["stored", "skipped"]);
    assert_eq!((count(&second, "stored"), count(&second, "skipped")), (0, 3));
}

#[test]
fn push_answers_ok_message_and_heads_and_repeats_harmlessly() {
    let hub = Hub::start();
    let local = hub.pushed();
    let body = bundle_body(&local, &[local.head("main").to_owned()], "main", false);
    for _ in 0..2 {
        let value = check_shape(&hub.post("push", &body), &["ok", "message", "branch_heads"]);
        assert_eq!(value.get("ok"), Some(&Value::Bool(true)));
        assert_eq!(value.str_map("branch_heads"), [("main".to_owned(), local.head("main").to_owned())]);
    }
}

#[test]
fn a_push_may_carry_its_objects_in_the_bundle() {
    let hub = Hub::start();
    let mut local = Repository::init();
    let commit = local.commit("main", "inline", &[("a", Some(b"carried"))]);
    let mut body = bundle_body(&local, &[commit], "main", false);
    let mut bundle = body.get("bundle").unwrap().clone();
    bundle.set("objects", Value::Array(vec![object(&sha256_hex(b"carried"), b"carried")]));
    bundle.set("tags", Value::Array(Vec::new()));
    body.set("bundle", bundle);
    let value = check_shape(&hub.post("push", &body), &["ok"]);
    assert_eq!(value.get("ok"), Some(&Value::Bool(true)), "{value:?}");
}

#[test]
fn an_empty_bundle_makes_no_ghost_branch() {
    let hub = Hub::start();
    let body = bundle_body(&Repository::init(), &[], "ghost", false);
    let answer = hub.post("push", &body);
    assert_ne!(answer.code, 409);
    assert_ne!(answer.code, 500);
    assert!(ls_remote(&hub.url).unwrap().is_empty());
}

#[test]
fn unknown_fields_and_a_structured_delta_come_back_as_they_went() {
    let hub = Hub::start();
    let mut local = Repository::init();
    let commit = local.commit("main", "m", &[("a", Some(b"a"))]);
    let op = Value::map([("op", Value::str("insert")), ("position", Value::Nil), ("count", Value::Int(-7))]);
    let delta = Value::map([
        ("domain", Value::str("code")),
        ("ops", Value::Array(vec![op])),
        ("big", Value::Int(u64::MAX.into())),
        ("small", Value::Int(i64::MIN.into())),
        ("ratio", Value::Float(0.1)),
        ("flag", Value::Bool(true)),
    ]);
    let record = local.commits.get_mut(&commit).unwrap();
    record.set("structured_delta", delta);
    record.set("from_the_future", Value::Array(vec![Value::Int(1), Value::str("ü\u{1f3b5}")]));
    let sent = record.clone();
    local.remote("origin", &hub.url, Some(&hub.token));
    push(&mut local, "origin", "main").unwrap();
    let body = Value::map([("want", Value::strs([&commit])), ("have", Value::Array(Vec::new()))]);
    let got = hub.post("fetch", &body).decode().unwrap().items("commits")[0].clone();
    for key in ["from_the_future", "sem_ver_bump", "format_version", "parent_commit_id"] {
        assert_eq!(got.get(key), sent.get(key), "{key}");
    }
    let (got, sent) = (got.get("structured_delta").unwrap(), sent.get("structured_delta").unwrap());
    for key in ["domain", "big", "small", "ratio", "flag"] {
        assert_eq!(got.get(key), sent.get(key), "{key}");
    }
    assert_eq!(got.items("ops")[0].get("count"), Some(&Value::Int(-7)));
}

#[test]
fn fetch_sends_str_ids_and_bin_contents_and_404_for_an_unknown_want() {
    let hub = Hub::start();
    let local = hub.pushed();
    let body = |want: &[&str], have: &[&str]| Value::map([("want", Value::strs(want)), ("have", Value::strs(have))]);
    let keys = ["commits", "snapshots", "objects", "branch_heads"];
    let value = check_shape(&hub.post("fetch", &body(&[local.head("main")], &[])), &keys);
    assert_eq!(value.items("objects").len(), 2);
    for object in value.items("objects") {
        assert!(matches!(object.get("content"), Some(Value::Bin(_))), "content must be bin");
        assert!(matches!(object.get("object_id"), Some(Value::Str(_))));
    }
    let nothing = check_shape(&hub.post("fetch", &body(&[local.head("main")], &[local.head("main")])), &keys);
    assert!(nothing.items("commits").is_empty() && nothing.items("objects").is_empty());
    let empty = check_shape(&hub.post("fetch", &body(&[], &[])), &keys);
    assert!(empty.items("commits").is_empty());
    let unknown = sha256_hex(b"no such commit");
    let odd_have = check_shape(&hub.post("fetch", &body(&[local.head("main")], &[&unknown])), &keys);
    assert_eq!(odd_have.items("commits").len(), 1, "commits that only the client knows are no obstacle");
    check_refusal(&hub.post("fetch", &body(&[&unknown], &[])), &[404]);
    let twice = check_shape(&hub.post("fetch", &body(&[local.head("main"), local.head("main")], &[])), &keys);
    assert_eq!(twice.items("commits").len(), 1, "wants may repeat");
}

#[test]
fn negotiate_is_either_absent_or_right() {
    let hub = Hub::start();
    let mut local = hub.pushed();
    let first = local.head("main").to_owned();
    local.commit("main", "second", &[("c", Some(b"c"))]);
    push(&mut local, "origin", "main").unwrap();
    let ask = |want: &str, have: &str| {
        hub.post("negotiate", &Value::map([("want", Value::strs([want])), ("have", Value::strs([have]))]))
    };
    let answer = ask(local.head("main"), &first);
    if answer.code == 404 || answer.code == 501 {
        return;
    }
    let value = check_shape(&answer, &["ack", "common_base", "ready"]);
    assert!(matches!(value.get("ready"), Some(Value::Bool(_))), "a real boolean");
    for id in value.items("ack") {
        assert_eq!(id.as_str(), Some(first.as_str()), "acks only what was offered and is known");
    }
}

#[test]
fn a_blob_is_served_raw_with_ranges_and_an_etag() {
    let hub = Hub::start();
    hub.pushed();
    let id = sha256_hex(b"hello\n");
    let url = format!("{}/objects/{id}", hub.url);
    let whole = Request::get(&url, None).send().unwrap();
    assert_eq!((whole.code, whole.body.as_slice()), (200, &b"hello\n"[..]));
    let etag = whole.header("etag").unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.contains(&id), "a strong ETag: {etag}");
    assert!(whole.header("cache-control").unwrap().contains("immutable"), "{:?}", whole.headers);
    let part = Request::get(&url, None).header("Range", "bytes=1-3").send().unwrap();
    assert_eq!((part.code, part.body.as_slice()), (206, &b"ell"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 1-3/6"));
    let tail = Request::get(&url, None).header("Range", "bytes=-2").send().unwrap();
    assert_eq!((tail.code, tail.body.as_slice()), (206, &b"o\n"[..]));
    let beyond = Request::get(&url, None).header("Range", "bytes=6-").send().unwrap();
    assert_eq!((beyond.code, beyond.header("content-range")), (416, Some("bytes */6")));
    let same = Request::get(&url, None).header("If-None-Match", &etag).send().unwrap();
    assert_eq!(same.code, 304);
    let unknown = Request::get(format!("{}/objects/{}", hub.url, sha256_hex(b"no")), None).send().unwrap();
    check_refusal(&unknown, &[404]);
    check_refusal(&Request::get(format!("{}/objects/xyz", hub.url), None).send().unwrap(), &[400, 404, 422]);
}

#[test]
fn tags_are_counted_and_moved() {
    let hub = Hub::start();
    let local = hub.pushed();
    let tag = |label: &str| {
        Value::map([
            ("tag_id", Value::str("7f0f9e8a-1111-4222-8333-444455556666")),
            ("repo_id", Value::str(&local.repo_id)),
            ("commit_id", Value::str(local.head("main"))),
            ("tag", Value::str(label)),
            ("created_at", Value::str("2026-03-16T12:00:00+00:00")),
        ])
    };
    let tags = |items: Vec<Value>| Value::map([("tags", Value::Array(items))]);
    let value = check_shape(&hub.post("tags", &tags(vec![tag("emotion:joyful"), tag("take:1")])), &["stored"]);
    assert_eq!(value.get("stored"), Some(&Value::Int(2)));
    check_refusal(&hub.post("tags", &tags(vec![tag("")])), &[400, 422]);
    check_refusal(&hub.post("tags", &Value::map([("tags", Value::Int(3))])), &[400, 422]);
}

#[test]
fn health_ready_and_metrics_answer_anyone() {
    let hub = Hub::start();
    for path in ["health", "ready", "metrics"] {
        let answer = Request::get(hub.server.url(path), None).send().unwrap();
        assert_eq!(answer.code, 200, "{path}: {}", answer.text());
    }
}

#[test]
fn json_request_bodies_are_read_by_their_content_type() {
    let hub = Hub::start();
    let id = sha256_hex(b"nobody sent this");
    let body = format!("{{\"object_ids\": [\"{id}\"]}}");
    let url = format!("{}/filter-objects", hub.url);
    let answer = Request::post_json(url, Some(&hub.token), body.as_bytes()).send().unwrap();
    let value = check_shape(&answer, &["missing"]);
    assert_eq!(value.items("missing").len(), 1);
}

#[test]
fn header_names_are_read_in_any_case_and_pieces() {
    let hub = Hub::start();
    let body = Value::map([("object_ids", Value::strs([sha256_hex(b"x")]))]).encode();
    let mut stream = TcpStream::connect(hub.server.host()).unwrap();
    let head = format!(
        "POST /alice/demo/filter-objects HTTP/1.1\r\nhOsT: {}\r\nContent-type: application/x-msgpack\r\n\
         content-LENGTH: {}\r\nAUTHORIZATION: Bearer {}\r\nconnection: close\r\n\r\n",
        hub.server.host(),
        body.len(),
        hub.token
    );
    for piece in head.as_bytes().chunks(7).chain(body.chunks(5)) {
        stream.write_all(piece).unwrap();
        stream.flush().unwrap();
    }
    check_shape(&read_response(&stream).unwrap(), &["missing"]);
}

#[test]
fn nothing_is_redirected_or_challenged_and_unknown_paths_are_404() {
    let hub = Hub::start();
    for path in ["alice/demo/refs/", "alice/demo/nothing", "alice//refs", "alice/demo/../demo/refs"] {
        let answer = Request::get(hub.server.url(path), None).send().unwrap();
        assert!(answer.code == 404 || answer.code == 400, "{path}: {}", answer.code);
    }
    let answer = Request::get(format!("{}/push", hub.url), Some(&hub.token)).send().unwrap();
    assert!(answer.code == 405 || answer.code == 404, "{}", answer.code);
}

#[test]
fn a_commit_with_minimal_keys_is_accepted() {
    let hub = Hub::start();
    let mut local = Repository::init();
    let commit = local.commit("main", "m", &[("a", Some(b"a"))]);
    let full = local.commits[&commit].clone();
    let keys =
        ["commit_id", "branch", "snapshot_id", "message", "committed_at", "parent_commit_id", "parent2_commit_id"];
    let minimal = Value::map(keys.map(|key| (key, full.get(key).unwrap().clone())));
    local.commits.insert(commit, minimal);
    local.remote("origin", &hub.url, Some(&hub.token));
    push(&mut local, "origin", "main").unwrap();
}

#[test]
fn the_recorded_first_push_replays() {
    // The body of the captures: records with the same keys, types and values where they were recorded.
    let hub = Hub::start();
    let content = vec![3u8; 200_000];
    let tree =
        [(".museattributes".to_owned(), sha256_hex(b"x\n")), ("big.bin".to_owned(), sha256_hex(&content))].into();
    hub.post(
        "push/objects",
        &objects(vec![object(&sha256_hex(b"x\n"), b"x\n"), object(&sha256_hex(&content), &content)]),
    );
    let snapshot = reprise_tests::client::ids::snapshot_id([
        (".museattributes", sha256_hex(b"x\n").as_str()),
        ("big.bin", sha256_hex(&content).as_str()),
    ]);
    let (message, time) = ("first: ünïcode ✓", "2026-11-20T19:56:44.035444+00:00");
    let id = reprise_tests::client::ids::commit_id(&[], &snapshot, message, time);
    let mut commit = commit_record(&id, "e1475dcd-d78c-4501-bf2a-bd38ca3acabe", "main", &snapshot, message, time, &[]);
    commit.set("author", Value::str("Alice"));
    let bundle = Value::map([
        ("commits", Value::Array(vec![commit.clone()])),
        ("snapshots", Value::Array(vec![snapshot_record(&snapshot, &tree, "2026-11-20T19:56:44.037915+00:00")])),
        ("objects", Value::Array(Vec::new())),
    ]);
    let body = Value::map([("bundle", bundle), ("branch", Value::str("main")), ("force", Value::Bool(false))]);
    let value = check_shape(&hub.post("push", &body), &["ok", "message", "branch_heads"]);
    assert_eq!(value.get("ok"), Some(&Value::Bool(true)), "{value:?}");
    let fetch = Value::map([("want", Value::strs([&id])), ("have", Value::Array(Vec::new()))]);
    let got = hub.post("fetch", &fetch).decode().unwrap();
    let got = &got.items("commits")[0];
    for key in commit.keys() {
        if key != "repo_id" {
            assert_eq!(got.get(key), commit.get(key), "{key}");
        }
    }
}

#[test]
fn a_release_may_name_a_commit_that_the_server_does_not_have() {
    let hub = Hub::start();
    let mut local = Repository::init();
    local.commit("main", "never pushed", &[("a", Some(b"a"))]);
    let record = release::record(&local, "v0.1.0", "main", "alpha", false);
    let remote = hub.server.remote("alice/demo", Some(&hub.token));
    assert!(!release::push(&remote, &record).unwrap().is_empty());
    assert!(hub.data.json_lines(&["log"]).len() > 1);
}
