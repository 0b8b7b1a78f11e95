//! The table of who may see and do what: anonymous, a bad token, a stranger, read, write, revoked, expired.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use reprise_tests::{
    client::{CloneFailure, Repository, Request, Value, clone, ids::sha256_hex, push, push::bundle_body, release},
    server_process::{DataDir, ServerProcess},
};

struct Hub {
    data: DataDir,
    server: ServerProcess,
}

fn hub() -> Hub {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    data.create_repo("alice/open", &[]);
    data.create_repo("alice/closed", &["--private"]);
    let token = data.token("alice");
    for repo in ["alice/open", "alice/closed"] {
        let mut local = local();
        local.remote("origin", &server.url(repo), Some(&token));
        push(&mut local, "origin", "main").unwrap();
    }
    Hub { data, server }
}

fn local() -> Repository {
    let mut local = Repository::init();
    local.commit("main", "root", &[("a", Some(b"secret bytes"))]);
    local
}

impl Hub {
    fn refs(&self, repo: &str, token: Option<&str>) -> u16 {
        Request::get(self.server.url(&format!("{repo}/refs")), token).send().unwrap().code
    }

    fn push_objects(&self, repo: &str, token: Option<&str>) -> u16 {
        let body = Value::map([("objects", Value::Array(Vec::new()))]).encode();
        Request::post(self.server.url(&format!("{repo}/push/objects")), token, &body).send().unwrap().code
    }

    fn push(&self, repo: &str, token: Option<&str>) -> u16 {
        let local = local();
        let body = bundle_body(&local, &[local.head("main").to_owned()], "other", false).encode();
        Request::post(self.server.url(&format!("{repo}/push")), token, &body).send().unwrap().code
    }
}

#[test]
fn refs_and_pushes_answer_by_the_table() {
    let hub = hub();
    let write = hub.data.token("alice");
    let read = hub.data.token_with("alice", &["--scope", "read"]).0;
    let stranger = hub.data.token("mallory");
    let callers = [
        // caller, refs open, refs closed, push/objects open, push/objects closed
        ("anonymous", None, 200, 404, 401, 404),
        ("bad token", Some("rpz_notatoken"), 401, 401, 401, 401),
        ("stranger", Some(stranger.as_str()), 200, 404, 403, 404),
        ("read", Some(read.as_str()), 200, 200, 403, 403),
        ("write", Some(write.as_str()), 200, 200, 200, 200),
    ];
    for (name, token, refs_open, refs_closed, push_open, push_closed) in callers {
        assert_eq!(hub.refs("alice/open", token), refs_open, "{name}: refs of a public repository");
        assert_eq!(hub.refs("alice/closed", token), refs_closed, "{name}: refs of a private repository");
        assert_eq!(hub.refs("alice/absent", token), if name == "bad token" { 401 } else { 404 }, "{name}: absent");
        let hidden_or_unauthorised = |code: u16, expected: u16| {
            // Without a token a private repository may also ask for one, as long as an absent one answers the same.
            code == expected || (token.is_none() && code == 401 && hub.push_objects("alice/absent", None) == 401)
        };
        assert_eq!(hub.push_objects("alice/open", token), push_open, "{name}: push/objects, public");
        let code = hub.push_objects("alice/closed", token);
        assert!(hidden_or_unauthorised(code, push_closed), "{name}: push/objects, private: {code}");
        assert_eq!(hub.push("alice/open", token), push_open, "{name}: push is never 409 for want of rights");
    }
}

#[test]
fn a_missing_token_is_told_with_www_authenticate() {
    let hub = hub();
    let body = Value::map([("objects", Value::Array(Vec::new()))]).encode();
    let answer = Request::post(hub.server.url("alice/open/push/objects"), None, &body).send().unwrap();
    assert_eq!((answer.code, answer.header("www-authenticate")), (401, Some("Bearer")));
}

#[test]
fn a_private_repository_cannot_be_told_from_an_absent_one() {
    let hub = hub();
    let stranger = hub.data.token("mallory");
    for token in [None, Some(stranger.as_str())] {
        let shown = |repo: &str| {
            let answer = Request::get(hub.server.url(&format!("{repo}/refs")), token).send().unwrap();
            (answer.code, answer.text().replace(repo, "REPO"))
        };
        assert_eq!(shown("alice/closed"), shown("alice/absent"));
        let id = sha256_hex(b"secret bytes");
        let object = |repo: &str| {
            let answer = Request::get(hub.server.url(&format!("{repo}/objects/{id}")), token).send().unwrap();
            (answer.code, answer.text().replace(repo, "REPO"))
        };
        assert_eq!(object("alice/closed"), object("alice/absent"));
    }
    let refused = clone(&hub.server.url("alice/closed")).map(|_| ()).unwrap_err();
    assert!(matches!(refused, CloneFailure::Refs(failure) if failure.code() == Some(404)));
}

#[test]
fn an_object_of_a_private_repository_gives_neither_bytes_nor_a_hint() {
    // The incident test (g): naming what one never sent gets nothing.
    let hub = hub();
    hub.data.create_repo("mallory/probe", &[]);
    let mallory = hub.data.token("mallory");
    let remote = hub.server.remote("mallory/probe", Some(&mallory));
    let id = sha256_hex(b"secret bytes");
    let missing = reprise_tests::client::push::filter_objects(&remote, std::slice::from_ref(&id)).unwrap();
    assert_eq!(missing, std::slice::from_ref(&id), "'do you have X?' is answered from the own rows only");
    let mut thief = Repository::init();
    thief.remotes.insert("origin".to_owned(), remote);
    let commit = thief.commit("main", "give me", &[("loot", Some(b"secret bytes"))]);
    thief.objects.remove(&id);
    let refused = push(&mut thief, "origin", "main").unwrap_err();
    let absent = sha256_hex(b"bytes that nobody ever had");
    let text = refused.rejection().replace(&id, "OBJECT").replace(&commit, "COMMIT");
    let mut other = Repository::init();
    other.remotes.clone_from(&thief.remotes);
    let other_commit = other.commit("main", "give me", &[("loot", Some(b"bytes that nobody ever had"))]);
    other.objects.remove(&absent);
    let other_text = push(&mut other, "origin", "main").unwrap_err().rejection().to_owned();
    assert_eq!(text, other_text.replace(&absent, "OBJECT").replace(&other_commit, "COMMIT"), "no hint either");
    let url = hub.server.url(&format!("mallory/probe/objects/{id}"));
    assert_eq!(Request::get(url, Some(&mallory)).send().unwrap().code, 404);
}

#[test]
fn a_revoked_token_is_a_bad_token_at_once_and_after_a_restart() {
    let Hub { data, server } = hub();
    let (secret, fields) = data.token_with("alice", &["--scope", "write"]);
    let url = |server: &ServerProcess| server.url("alice/open/refs");
    assert_eq!(Request::get(url(&server), Some(&secret)).send().unwrap().code, 200);
    data.json(&["token", "revoke", fields["token_id"].as_str().unwrap()]);
    assert_eq!(Request::get(url(&server), Some(&secret)).send().unwrap().code, 401);
    server.stop();
    let server = data.serve();
    server.wait_ready();
    assert_eq!(Request::get(url(&server), Some(&secret)).send().unwrap().code, 401);
    assert!(!server.printed().contains(&secret), "a token in the server's output");
}

#[test]
fn an_expired_token_is_a_bad_token() {
    let hub = hub();
    let (secret, _) = hub.data.token_with("alice", &["--scope", "write", "--expires", "1s"]);
    let issued = Instant::now();
    while hub.refs("alice/open", Some(&secret)) == 200 {
        assert!(issued.elapsed() < Duration::from_secs(10), "still valid");
        thread::yield_now();
    }
    assert_eq!(hub.refs("alice/open", Some(&secret)), 401);
}

#[test]
fn only_writers_publish_and_retract_releases_and_tags() {
    let hub = hub();
    let stranger = hub.data.token("mallory");
    let local = local();
    let record = release::record(&local, "v1.0.0", "main", "stable", false);
    let as_stranger = hub.server.remote("alice/open", Some(&stranger));
    assert_eq!(release::push(&as_stranger, &record).unwrap_err().code(), Some(403));
    let hidden = hub.server.remote("alice/closed", Some(&stranger));
    assert_eq!(release::push(&hidden, &record).unwrap_err().code(), Some(404));
    let owner = hub.server.remote("alice/open", Some(&hub.data.token("alice")));
    release::push(&owner, &record).unwrap();
    assert_eq!(release::delete(&as_stranger, "v1.0.0").unwrap_err().code(), Some(403));
    let tags = Value::map([("tags", Value::Array(Vec::new()))]).encode();
    let answer = Request::post(hub.server.url("alice/open/tags"), Some(&stranger), &tags).send().unwrap();
    assert_eq!(answer.code, 403);
}

#[test]
fn a_first_push_creates_the_repository_only_when_told_so_and_only_for_its_owner() {
    let data = DataDir::new();
    let server = data.serve_with(&["--create-on-push", "public"]);
    server.wait_ready();
    let token = data.token("alice");
    let mut local = local();
    local.remote("origin", &server.url("alice/fresh"), Some(&token));
    push(&mut local, "origin", "main").unwrap();
    clone(&server.url("alice/fresh")).unwrap();
    local.remote("theirs", &server.url("bob/fresh"), Some(&token));
    local.forget_tracking();
    let refused = push(&mut local, "theirs", "main").unwrap_err();
    assert!(matches!(refused.code(), Some(403 | 404)), "{refused:?}");
    assert!(clone(&server.url("bob/fresh")).is_err());
}

/// What of an answer could tell something, with the id that was asked about taken out.
fn told(request: &Request<'_>, id: &str) -> (u16, BTreeMap<String, String>, Vec<u8>) {
    let answer = request.send().unwrap();
    let masked = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        while let Some(at) = bytes.windows(id.len()).position(|window| window == id.as_bytes()) {
            bytes[at..at + id.len()].fill(b'X');
        }
        bytes
    };
    let named = |(name, value): (&String, &String)| (name.clone(), value.replace(id, "X"));
    let mut headers: BTreeMap<String, String> =
        answer.headers.iter().map(|(name, value)| named((name, value))).collect();
    headers.retain(|name, _| !["x-request-id", "date"].contains(&name.to_lowercase().as_str()));
    (answer.code, headers, masked(&answer.body))
}

#[test]
fn an_object_that_only_another_repository_has_is_answered_as_one_that_nobody_has() {
    let hub = hub();
    hub.data.create_repo("mallory/probe", &[]);
    let mallory = hub.data.token("mallory");
    // Something of their own, so that the repository is not empty.
    let mut own = Repository::init();
    own.commit("main", "own", &[("a", Some(b"mine"))]);
    own.remote("origin", &hub.server.url("mallory/probe"), Some(&mallory));
    push(&mut own, "origin", "main").unwrap();

    let secret = local();
    let head = secret.head("main").to_owned();
    let snapshot = secret.snapshots.keys().next().unwrap().clone();
    let absent = sha256_hex(b"nobody has this");
    for known in [sha256_hex(b"secret bytes"), head, snapshot] {
        let asked = |id: &str| {
            let ids = || Value::Array(vec![Value::str(id)]);
            let none = || Value::Array(Vec::new());
            let bodies = [
                ("filter-objects", Value::map([("object_ids", ids())])),
                ("presign", Value::map([("object_ids", ids())])),
                ("negotiate", Value::map([("want", ids()), ("have", none())])),
                (
                    "negotiate",
                    Value::map([("want", Value::Array(vec![Value::str(own.head("main"))])), ("have", ids())]),
                ),
                ("fetch", Value::map([("want", ids()), ("have", none())])),
                ("fetch", Value::map([("want", Value::Array(vec![Value::str(own.head("main"))])), ("have", ids())])),
                ("tags", Value::map([("tags", Value::Array(vec![tag_on(id)]))])),
            ];
            let mut answers = Vec::new();
            for (endpoint, body) in bodies {
                let body = body.encode();
                let url = hub.server.url(&format!("mallory/probe/{endpoint}"));
                answers.push((endpoint, told(&Request::post(url, Some(&mallory), &body), id)));
            }
            let url = hub.server.url(&format!("mallory/probe/objects/{id}"));
            answers.push(("objects", told(&Request::get(url, Some(&mallory)), id)));
            let url = format!("http://{}/api/v1/repos/mallory/probe/locate/{id}", hub.server.host());
            answers.push(("locate", told(&Request::get(url, Some(&mallory)), id)));
            answers
        };
        for (one, other) in asked(&known).into_iter().zip(asked(&absent)) {
            assert_eq!(one, other);
        }
    }
}

fn tag_on(commit: &str) -> Value {
    let fields = [("tag_id", "t1"), ("tag", "v1"), ("commit_id", commit), ("created_at", "2026-01-01T00:00:00+00:00")];
    Value::map(fields.map(|(name, text)| (name, Value::str(text))))
}

/// Every file below a directory, with its bytes.
fn files_below(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files_below(&entry.path())),
            false => found.push((entry.path(), fs::read(entry.path()).unwrap())),
        }
    }
    found
}

#[test]
fn a_token_stands_in_no_log_line_no_file_and_no_listing_however_it_was_sent() {
    let data = DataDir::new().env("RUST_LOG", "trace");
    let server = data.serve();
    server.wait_ready();
    data.create_repo("alice/open", &[]);
    let secret = data.token("alice");
    let url = |path: &str| server.url(path);
    let mut local = local();
    local.remote("origin", &url("alice/open"), Some(&secret));
    push(&mut local, "origin", "main").unwrap();
    // As clients and people send it by mistake.
    let long = format!("{secret}{}", "x".repeat(9_000));
    let sent = [
        Request::get(url("alice/open/refs"), Some(&secret)),
        Request::get(url("alice/open/refs"), Some(&long)),
        Request::get(url("alice/open/refs"), None).header("authorization", &format!("Basic {secret}")),
        Request::get(url("alice/open/refs"), None).header("authorization", &secret),
        Request::get(url(&format!("alice/open/refs?token={secret}")), None),
        Request::get(url("alice/open/refs"), None).header("x-request-id", &format!("Bearer {secret}")),
        Request::get(url("alice/open/refs"), None).header("cookie", &format!("token={secret}")),
    ];
    for request in sent {
        drop(request.send());
    }
    let bodies = [
        format!("{{\"object_ids\": \"{secret}\"}}"),
        format!("not JSON {secret}"),
        format!("{{\"object_ids\": [\"{secret}\"]}}"),
    ];
    for body in &bodies {
        drop(Request::post_json(url("alice/open/filter-objects"), Some(&secret), body.as_bytes()).send());
    }
    let listed = [&["token", "list"][..], &["log"], &["status"], &["repo", "show", "alice/open"]];
    for command in listed {
        let output = data.run(&[&["--json"], command].concat());
        let said = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8_lossy(&said).contains(&secret), "{command:?} shows a token");
    }
    let operator: serde_json::Value =
        serde_json::from_slice(&fs::read(data.path().join("server.json")).unwrap()).unwrap();
    let operator = operator["secret"].as_str().unwrap().to_owned();
    let printed = server.printed();
    assert!(printed.contains("TRACE") || printed.contains("DEBUG"), "the log was meant to be verbose");
    for hidden in [&secret, &operator] {
        let line = printed.lines().find(|line| line.contains(hidden.as_str()));
        assert!(line.is_none(), "a log line shows a token: {line:?}");
    }
    server.stop();
    for (path, bytes) in files_below(&data.path()) {
        let shown = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!shown, "{} holds a token", path.display());
    }
}
