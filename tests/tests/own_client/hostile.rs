//! A server that means harm: nothing outside the clone is written, and nothing that does not verify is kept.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
};

use reprise_tests::client::{
    Repository, Request, Value, ids, muse_directory,
    repository::{commit_record, snapshot_record},
};

use crate::rig::{Rig, User};

/// What the server says to a request of this path.
type Says = Box<dyn Fn(&str) -> Vec<u8> + Send>;

struct Hostile {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hostile {
    fn new(says: Says) -> Hostile {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/eve/bait", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut head = Vec::new();
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                        break;
                    }
                    let lower = line.to_ascii_lowercase();
                    if let Some(value) = lower.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    head.push(line);
                }
                let mut body = vec![0; length];
                drop(reader.read_exact(&mut body));
                let Some(path) = head.first().and_then(|line| line.split(' ').nth(1)) else { continue };
                noted.lock().unwrap().push(head.concat());
                drop(stream.write_all(&says(path)));
            }
        });
        Hostile { url, asked }
    }
}

fn answer(value: &Value) -> Vec<u8> {
    let body = value.encode();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), &body].concat()
}

fn not_found() -> Vec<u8> {
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
}

fn refs(heads: &[(&str, &str)]) -> Value {
    let heads = Value::map(heads.iter().map(|(name, id)| (*name, Value::str(*id))));
    Value::map([
        ("repo_id", Value::str("d197e8fe-0f11-43fc-9453-cf811f22b0f5")),
        ("domain", Value::str("code")),
        ("default_branch", Value::str("main")),
        ("branch_heads", heads),
    ])
}

/// A bundle as `fetch` sends it.
fn bundle(repository: &Repository) -> Value {
    let object = |(id, content): (&String, &Arc<[u8]>)| {
        Value::map([("object_id", Value::str(id)), ("content", Value::Bin(content.to_vec()))])
    };
    let full = repository.objects.iter().filter(|(id, _)| *id != ids::EMPTY);
    Value::map([
        ("objects", Value::Array(full.map(object).collect())),
        ("snapshots", Value::Array(repository.snapshots.values().cloned().collect())),
        ("commits", Value::Array(repository.commits.values().cloned().collect())),
    ])
}

fn small() -> Repository {
    let mut repository = Repository::init();
    repository.commit("main", "one", &[("a.txt", Some(b"first")), ("dir/b.txt", Some(b"second"))]);
    repository.commit("main", "two", &[("a.txt", Some(b"third"))]);
    repository
}

/// A repository of one commit whose tree has this path, all ids right.
fn with_path(path: &str) -> Repository {
    let mut repository = Repository::init();
    let blob = repository.add_object(b"evil");
    let tree: BTreeMap<String, String> = [(path.to_owned(), blob)].into();
    let snapshot = ids::snapshot_id([(path, tree[path].as_str())]);
    let commit = ids::commit_id(&[], &snapshot, "m", "2026-03-16T12:00:00+00:00");
    repository.snapshots.insert(snapshot.clone(), snapshot_record(&snapshot, &tree, "t"));
    let record = commit_record(&commit, "r", "main", &snapshot, "m", "2026-03-16T12:00:00+00:00", &[]);
    repository.commits.insert(commit.clone(), record);
    repository.set_branch("main", &commit);
    repository
}

/// What an honest hub says to `refs` and `fetch/mpack`.
fn recorded() -> (Value, Vec<u8>) {
    let rig = Rig::new();
    let repository = small();
    muse_directory::write(&repository, &rig.user.path("work"));
    rig.user.json(&["push", "work", &rig.url]);
    let head = repository.head("main").to_owned();
    let body = Value::map([("want", Value::strs([&head])), ("have", Value::Array(Vec::new()))]).encode();
    let pack = Request::post(format!("{}/fetch/mpack", rig.url), None, &body).send().unwrap();
    assert_eq!(pack.code, 200);
    (refs(&[("main", &head)]), pack.body)
}

fn pack_answer(pack: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", pack.len());
    [head.as_bytes(), pack].concat()
}

fn says_pack(refs: &Value, pack: Vec<u8>) -> Hostile {
    let refs = refs.clone();
    Hostile::new(Box::new(move |path| match path {
        "/eve/bait/refs" => answer(&refs),
        "/eve/bait/fetch/mpack" => pack.clone(),
        _ => not_found(),
    }))
}

#[test]
fn a_pack_with_any_changed_byte_keeps_nothing() {
    let (refs, pack) = recorded();
    let user = User::new("secret-token");
    user.clone_of(&says_pack(&refs, pack_answer(&pack)).url, "honest");
    for at in (0..pack.len()).step_by(pack.len() / 40) {
        let mut changed = pack.clone();
        changed[at] ^= 0x10;
        let said = user.refused(&["clone", &says_pack(&refs, pack_answer(&changed)).url, "bait"]);
        assert!(said.contains("was not accepted"), "{at}: {said}");
        assert_eq!(user.names(), ["honest"], "{at}: {said}");
    }
    for cut in [0, 63, 64, pack.len() / 2, pack.len() - 1] {
        user.refused(&["clone", &says_pack(&refs, pack_answer(&pack[..cut])).url, "bait"]);
        assert_eq!(user.names(), ["honest"], "cut to {cut}");
    }
    let mut longer = pack;
    longer.push(0);
    user.refused(&["clone", &says_pack(&refs, pack_answer(&longer)).url, "bait"]);
    assert_eq!(user.names(), ["honest"]);
}

#[test]
fn a_pack_of_another_repository_is_not_taken_for_the_wanted_one() {
    let (_, pack) = recorded();
    let mut other = small();
    other.commit("main", "more", &[("b", Some(b"more"))]);
    let refs = refs(&[("main", other.head("main"))]);
    let user = User::new("secret-token");
    let said = user.refused(&["clone", &says_pack(&refs, pack_answer(&pack)).url, "bait"]);
    assert!(said.contains("is missing in it"), "{said}");
    assert_eq!(user.names(), Vec::<String>::new());
}

#[test]
fn a_continuation_of_another_pack_is_not_joined() {
    let (refs, pack) = recorded();
    let half = pack.len() / 2;
    let begin =
        format!("HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", pack.len());
    let first = [begin.as_bytes(), &pack[..half]].concat();
    for (etag, from) in [("y", half), ("x", 0)] {
        let range = format!("bytes {from}-{}/{}", pack.len() - 1, pack.len());
        let head = format!(
            "HTTP/1.1 206 Partial\r\nETag: \"{etag}\"\r\nContent-Range: {range}\r\nContent-Length: {}\r\n\r\n",
            pack.len() - half
        );
        let (first, rest) = (first.clone(), [head.as_bytes(), &pack[half..]].concat());
        let (refs, asked) = (refs.clone(), std::cell::Cell::new(0));
        let bait = Hostile::new(Box::new(move |path| match path {
            "/eve/bait/refs" => answer(&refs),
            "/eve/bait/fetch/mpack" if asked.replace(1) == 0 => first.clone(),
            "/eve/bait/fetch/mpack" => rest.clone(),
            _ => not_found(),
        }));
        let user = User::new("secret-token");
        let said = user.refused(&["clone", &bait.url, "bait"]);
        assert!(said.contains("something else than was asked for"), "{said}");
        let asked = bait.asked.lock().unwrap().last().unwrap().to_ascii_lowercase();
        assert!(asked.contains(&format!("range: bytes={half}-")) && asked.contains("if-range: \"x\""), "{asked}");
        assert_eq!(user.names(), Vec::<String>::new());
    }
}

/// Clones from a server that answers `refs` and `fetch` so; the command must fail and leave nothing at all.
fn check_refused(what: &str, refs: Value, fetch: Vec<u8>) -> String {
    let hostile = Hostile::new(Box::new(move |path| match path {
        "/eve/bait/refs" => answer(&refs),
        "/eve/bait/fetch" => fetch.clone(),
        _ => not_found(),
    }));
    let user = User::new("secret-token");
    let said = user.refused(&["clone", &hostile.url, "bait"]);
    assert_eq!(user.names(), Vec::<String>::new(), "{what}: {said}");
    said
}

#[test]
fn an_honest_answer_is_taken() {
    let repository = small();
    let (refs, fetch) = (refs(&[("main", repository.head("main"))]), answer(&bundle(&repository)));
    let honest = Hostile::new(Box::new(move |path| match path {
        "/eve/bait/refs" => answer(&refs),
        "/eve/bait/fetch" => fetch.clone(),
        _ => not_found(),
    }));
    let user = User::new("secret-token");
    let cloned = muse_directory::read(&user.clone_of(&honest.url, "bait"));
    assert_eq!((cloned.objects, cloned.commits.len()), (repository.objects, 2));
}

#[test]
fn wrong_bytes_are_not_kept() {
    let honest = small();
    let refs = || refs(&[("main", honest.head("main"))]);
    let mut wrong = honest.clone();
    *wrong.objects.values_mut().next().unwrap() = b"other"[..].into();
    assert!(check_refused("blob", refs(), answer(&bundle(&wrong))).contains("do not hash to it"));
    let mut wrong = honest.clone();
    wrong.commits.values_mut().for_each(|record| record.set("message", Value::str("another")));
    assert!(check_refused("commit", refs(), answer(&bundle(&wrong))).contains("gives the id"));
    let mut wrong = honest.clone();
    let blob = Value::str(ids::sha256_hex(b"first"));
    wrong.snapshots.values_mut().for_each(|record| record.set("manifest", Value::map([("x", blob.clone())])));
    assert!(check_refused("snapshot", refs(), answer(&bundle(&wrong))).contains("gives the id"));
}

#[test]
fn an_answer_that_lacks_something_is_not_kept() {
    let honest = small();
    let refs = || refs(&[("main", honest.head("main"))]);
    for kind in ["blob", "snapshot", "commit"] {
        let mut short = honest.clone();
        match kind {
            "blob" => drop(short.objects.pop_first()),
            "snapshot" => drop(short.snapshots.pop_first()),
            _ => drop(short.commits.pop_first()),
        }
        let said = check_refused(kind, refs(), answer(&bundle(&short)));
        assert!(said.contains(kind) && said.contains("is missing in it"), "{said}");
    }
    let empty = Value::map([("commits", Value::Array(Vec::new()))]);
    assert!(check_refused("nothing", refs(), answer(&empty)).contains("is missing in it"));
}

#[test]
fn a_path_that_leads_out_of_the_tree_or_into_muse_is_refused() {
    for path in [
        "../evil",
        "/tmp/evil",
        "a/../../evil",
        ".muse/HEAD",
        ".Muse/config.toml",
        "a/.muse/x",
        "a\\..\\evil",
        "./a",
        "a//b",
        ".mu\u{200c}se/config.toml",
        "MUSE~1/HEAD",
        "C:/evil",
        "a\nb",
    ] {
        let repository = with_path(path);
        let refs = refs(&[("main", repository.head("main"))]);
        check_refused(path, refs, answer(&bundle(&repository)));
    }
}

#[test]
fn a_branch_name_that_leads_out_of_the_repository_is_refused() {
    let repository = small();
    let head = repository.head("main");
    for name in ["../../evil", "/evil", ".muse/x", "a/../../../x", "x\ny", ""] {
        check_refused(name, refs(&[("main", head), (name, head)]), answer(&bundle(&repository)));
    }
    check_refused("folder", refs(&[("main", head), ("main/x", head)]), answer(&bundle(&repository)));
    check_refused("head", refs(&[("main", "../../../evil")]), answer(&bundle(&repository)));
    let mut identity = refs(&[("main", head)]);
    identity.set("repo_id", Value::str("../../evil"));
    check_refused("repo_id", identity, answer(&bundle(&repository)));
}

#[test]
fn a_redirect_is_not_followed_and_the_token_goes_nowhere_else() {
    let elsewhere = Hostile::new(Box::new(|_| not_found()));
    let location = elsewhere.url.clone();
    let redirects = Hostile::new(Box::new(move |_| {
        format!("HTTP/1.1 307 Temporary\r\nLocation: {location}/refs\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .into_bytes()
    }));
    let user = User::new("secret-token");
    let said = user.refused(&["clone", &redirects.url, "bait"]);
    assert!(said.contains("307") && said.contains("redirects are not followed"), "{said}");
    assert!(elsewhere.asked.lock().unwrap().is_empty());
    assert!(redirects.asked.lock().unwrap()[0].contains("Bearer secret-token"), "it does go to the server itself");
    assert_eq!(user.names(), Vec::<String>::new());
}

#[test]
fn an_answer_that_ends_early_keeps_nothing_unverified() {
    let repository = small();
    let whole = answer(&bundle(&repository));
    let refs = refs(&[("main", repository.head("main"))]);
    let short = Hostile::new(Box::new(move |path| match path {
        "/eve/bait/refs" => answer(&refs),
        "/eve/bait/fetch" => whole[..whole.len() - 10].to_vec(),
        _ => not_found(),
    }));
    let user = User::new("secret-token");
    let said = user.refused(&["clone", &short.url, "bait"]);
    assert!(said.contains("broke off") && said.contains("goes on from there"), "{said}");
    assert_eq!(user.names(), [".bait.reprise-clone"]);
    let left = muse_directory::files(&user.path(".bait.reprise-clone/.muse"));
    assert!(left.keys().all(|name| name.starts_with("incoming/") || name.starts_with("objects/")), "{:?}", left.keys());
}

#[test]
fn words_of_a_server_do_not_steer_the_terminal() {
    let rude = Hostile::new(Box::new(|_| {
        b"HTTP/1.1 403 No\r\nContent-Length: 14\r\nConnection: close\r\n\r\n\x1b]0;owned\x07 \x1b[2J".to_vec()
    }));
    let user = User::new("secret-token");
    let said = user.refused(&["clone", &rude.url, "bait"]);
    assert!(said.contains("403") && !said.contains(['\u{1b}', '\u{7}']), "{said:?}");
}

#[test]
fn a_hub_chooses_no_service_of_this_machine_and_no_header_of_a_request() {
    let service = Hostile::new(Box::new(|_| answer(&Value::map([("ok", Value::Bool(true))]))));
    let origin = service.url.strip_suffix("/eve/bait").unwrap().to_owned();
    let repository = small();
    let missing = Value::map([("missing", Value::strs(repository.objects.keys()))]);
    let headers = [("host", "docker"), ("authorization", "Basic x"), ("x-amz-meta-a", "b"), ("if-none-match", "*")];
    let presigned = Value::map([
        ("upload", Value::str("one")),
        ("url", Value::str(format!("{origin}/v1/kv/key?x=y"))),
        ("headers", Value::map(headers.map(|(name, value)| (name, Value::str(value))))),
    ]);
    let hub = Hostile::new(Box::new(move |path| match path {
        "/eve/bait/refs" => answer(&refs(&[])),
        "/eve/bait/filter-objects" => answer(&missing),
        "/eve/bait/push/mpack-presign" => answer(&presigned),
        _ => not_found(),
    }));
    let mut user = User::new("secret-token");
    muse_directory::write(&repository, &user.path("work"));
    let said = user.refused(&["push", "work", &hub.url]);
    assert!(said.contains("it wants the pack elsewhere") && !said.contains("x=y"), "{said}");
    assert_eq!(service.asked.lock().unwrap().len(), 0);
    // A user who names that address as the bucket's: the pack goes there, with a bucket's headers and no others.
    user.bucket = Some(origin);
    user.refused(&["push", "work", &hub.url]);
    let asked = service.asked.lock().unwrap().concat().to_ascii_lowercase();
    assert!(asked.starts_with("put /v1/kv/key?x=y"), "{asked}");
    assert!(asked.contains("x-amz-meta-a: b") && asked.contains("if-none-match: *"), "{asked}");
    assert!(
        !asked.contains("docker") && !asked.contains("authorization") && !asked.contains("secret-token"),
        "{asked}"
    );
}
