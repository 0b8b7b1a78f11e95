//! The wire protocol's handlers, in process, on a log in a temporary directory and packs in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
#![allow(clippy::disallowed_methods, reason = "directories of these tests")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body as HttpBody,
    http::{Request, StatusCode},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use reprise_engine::{
    clock::{SeededRandom, SystemClock},
    disk::real::RealDisk,
    engine::{Engine, LogKind, Options, Parts, SegmentRule},
    event::Visibility,
    id::{Kind, ObjectId, PackId},
    store::{ObjectStore, StoreKey, memory::MemoryStore},
};
use reprise_projections::Projections;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tower::ServiceExt;

use crate::{
    hub::{Caller, Hub, HubParts, Limits, Secret, repos::NewRepo},
    wire::{Decoder, Field, Source, encode, requests::Span, transcode, value::value},
};

pub(super) struct Rig {
    pub(super) hub: Arc<Hub>,
    pub(super) router: Router,
    pub(super) store: Arc<MemoryStore>,
    _dir: tempfile::TempDir,
}

pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: axum::http::HeaderMap,
    pub(super) body: Result<Bytes, String>,
}

#[derive(Default)]
pub(super) struct Fetched {
    pub(super) commits: BTreeMap<String, Value>,
    pub(super) snapshots: BTreeMap<String, Value>,
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    heads: BTreeMap<String, Value>,
}

impl Rig {
    pub(super) async fn new(limits: Limits) -> Rig {
        Rig::with(limits, None).await
    }

    /// One that gives the stock client addresses below `url`.
    pub(super) async fn presigning(url: &str) -> Rig {
        Rig::with(Limits::default(), Some(url)).await
    }

    async fn with(limits: Limits, presign: Option<&str>) -> Rig {
        let store = Arc::new(MemoryStore::new());
        let rig = Rig::over(Arc::clone(&store), LogKind::Local, 7, (limits, presign));
        for slug in ["a", "b"] {
            rig.hub.create_repo(&Caller::Operator, NewRepo::named("alice", slug)).await.unwrap();
        }
        rig
    }

    /// Two servers whose log and packs are in one bucket. Nobody looks for them what the other wrote but they themselves.
    pub(super) fn two_of_a_bucket() -> [Rig; 2] {
        let store = Arc::new(MemoryStore::new());
        let log = LogKind::Bucket(SegmentRule::DEFAULT);
        [7, 8].map(|seed| Rig::over(Arc::clone(&store), log, seed, (Limits::default(), None)))
    }

    fn over(store: Arc<MemoryStore>, log: LogKind, seed: u64, (limits, presign): (Limits, Option<&str>)) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let spool_dir = dir.path().join("spool");
        std::fs::create_dir(&spool_dir).unwrap();
        let parts = Parts {
            disk: Arc::new(RealDisk::new(dir.path().join("data"))),
            store: Arc::clone(&store) as Arc<dyn ObjectStore>,
            clock: Arc::new(SystemClock),
            random: Arc::new(SeededRandom::new(seed)),
        };
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let (engine, _) = Engine::open(parts, Options { log, ..Options::new("tests") }).unwrap();
        let projections = Projections::open(engine.clone(), reprise_projections::Options::default()).unwrap();
        let operator = Secret::new("operator");
        let hub =
            HubParts { engine, projections, limits, spool_dir, create_on_push: Some(Visibility::Public), operator };
        let hub = Hub::new(hub).shared(log != LogKind::Local);
        let hub = Arc::new(match presign {
            Some(url) => hub.with_presigned_uploads(url.to_owned()),
            None => hub,
        });
        let router = crate::http::router(Arc::clone(&hub));
        Rig { hub, router, store, _dir: dir }
    }

    /// The next server of the same log and store: what the one before knew by heart is forgotten.
    pub(super) fn restarted(self) -> Rig {
        let Rig { hub, store, _dir, .. } = self;
        let parts = HubParts {
            engine: hub.engine.clone(),
            projections: hub.projections.clone(),
            limits: hub.limits.clone(),
            spool_dir: hub.spool_dir.clone(),
            create_on_push: hub.create_on_push,
            operator: hub.operator.clone(),
        };
        let hub = Arc::new(Hub::new(parts));
        Rig { router: crate::http::router(Arc::clone(&hub)), hub, store, _dir }
    }

    pub(super) async fn send(&self, request: Request<HttpBody>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).map_err(|error| error.to_string());
        Reply { status: parts.status, headers: parts.headers, body }
    }

    /// Changes one bit of a stored pack.
    pub(super) fn damage(&self, pack: PackId, offset: u64) {
        let key = StoreKey::pack(pack);
        let mut bytes = self.store.read(&key, 0, self.store.size(&key).unwrap()).unwrap().to_vec();
        bytes[usize::try_from(offset).unwrap()] ^= 1;
        self.store.overwrite(&key, bytes.into());
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(HttpBody::empty()).unwrap()).await
    }

    pub(super) async fn post(&self, path: &str, body: Vec<u8>) -> Reply {
        self.post_keyed(path, body, None).await
    }

    pub(super) async fn post_keyed(&self, path: &str, body: Vec<u8>, key: Option<&str>) -> Reply {
        let mut request = Request::post(path).header("content-type", "application/x-msgpack");
        request = request.header("authorization", "Bearer operator");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(super) async fn push_all(&self, repo: &str, history: &History, branch: &str) -> Value {
        let reply = self.post(&format!("/alice/{repo}/push/objects"), history.objects_body()).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let reply = self.post(&format!("/alice/{repo}/push"), history.push_body(branch, false)).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        reply.map()
    }

    pub(super) async fn fetch(&self, repo: &str, want: &[&str], have: &[&str]) -> Reply {
        let mut body = Vec::new();
        transcode::append(json!({"want": want, "have": have}).to_string().as_bytes(), &mut body).unwrap();
        self.post(&format!("/alice/{repo}/fetch"), body).await
    }
}

impl Reply {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(self.body.as_ref().unwrap()).into_owned()
    }

    pub(super) fn map(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/x-msgpack");
        let bytes = self.body.as_ref().unwrap();
        let mut decoder = Decoder::new(&bytes[..]);
        let map = value(&mut decoder, &Field::root("answer")).unwrap();
        decoder.finish().unwrap();
        map
    }

    pub(super) fn fetched(&self) -> Fetched {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        let bytes = self.body.as_ref().unwrap();
        assert_eq!(self.headers["content-length"].to_str().unwrap(), bytes.len().to_string());
        let (field, mut fetched) = (Field::root("answer"), Fetched::default());
        let mut decoder = Decoder::new(&bytes[..]);
        for _ in 0..decoder.map(&field).unwrap() {
            match decoder.text(99, &field).unwrap().as_str() {
                "objects" => objects(&mut decoder, bytes, &mut fetched.objects),
                "commits" => records(&mut decoder, "commit_id", &mut fetched.commits),
                "snapshots" => records(&mut decoder, "snapshot_id", &mut fetched.snapshots),
                "branch_heads" => {
                    fetched.heads =
                        value(&mut decoder, &field).unwrap().as_object().unwrap().clone().into_iter().collect()
                }
                key => panic!("{key}"),
            }
        }
        decoder.finish().unwrap();
        fetched
    }
}

fn records<S: Source>(decoder: &mut Decoder<S>, id: &str, into: &mut BTreeMap<String, Value>) {
    let Value::Array(records) = value(decoder, &Field::root("records")).unwrap() else { panic!("an array") };
    into.extend(records.into_iter().map(|record| (record[id].as_str().unwrap().to_owned(), record)));
}

fn objects<S: Source>(decoder: &mut Decoder<S>, bytes: &[u8], into: &mut BTreeMap<String, Vec<u8>>) {
    let field = Field::root("objects");
    for _ in 0..decoder.list("objects", usize::MAX, &field).unwrap() {
        assert_eq!(decoder.map(&field).unwrap(), 2);
        decoder.skip(&field).unwrap();
        let id = decoder.id(&field).unwrap();
        decoder.skip(&field).unwrap();
        let (start, len) = decoder.bin_span(&field).unwrap();
        let content = bytes[start as usize..][..len as usize].to_vec();
        assert_eq!(sha(&content), id.to_string());
        into.insert(id.to_string(), content);
    }
}

/// A local repository: what a client would send.
#[derive(Default, Clone)]
pub(super) struct History {
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    pub(super) snapshots: BTreeMap<String, Value>,
    /// Oldest first.
    pub(super) commits: Vec<Value>,
}

impl History {
    pub(super) fn commit(&mut self, parents: &[&str], files: &[(&str, &[u8])], message: &str) -> String {
        let mut manifest = BTreeMap::new();
        for (path, content) in files {
            self.objects.insert(sha(content), content.to_vec());
            manifest.insert((*path).to_owned(), sha(content));
        }
        let pairs: Vec<String> = manifest.iter().map(|(path, id)| format!("{path}\0{id}")).collect();
        let snapshot = sha(pairs.join("\0").as_bytes());
        let time = format!("2026-03-16T12:00:{:02}+00:00", self.commits.len());
        let mut sorted = parents.to_vec();
        sorted.sort_unstable();
        let id = sha([&sorted.join("\0"), snapshot.as_str(), message, &time].join("\0").as_bytes());
        self.snapshots.insert(
            snapshot.clone(),
            json!({"snapshot_id": snapshot, "manifest": manifest, "created_at": "2026-03-16T12:00:00+00:00"}),
        );
        self.commits.push(json!({
            "commit_id": id, "repo_id": "local", "branch": "main", "snapshot_id": snapshot, "message": message,
            "committed_at": time, "parent_commit_id": parents.first(), "parent2_commit_id": parents.get(1),
            "author": "Alice", "metadata": {"section": "x"}, "structured_delta": {"ops": [{"position": null, "n": 1.5}]},
            "breaking_changes": [], "format_version": 5, "unknown": [1, -2, true],
        }));
        id
    }

    pub(super) fn objects_body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode::map_header(&mut out, 1);
        encode::text(&mut out, "objects");
        encode::array_header(&mut out, self.objects.len() as u32);
        for (id, content) in &self.objects {
            encode::map_header(&mut out, 2);
            encode::text(&mut out, "content");
            encode::bin_header(&mut out, content.len() as u32);
            out.extend_from_slice(content);
            encode::text(&mut out, "object_id");
            encode::text(&mut out, id);
        }
        out
    }

    pub(super) fn push_body(&self, branch: &str, force: bool) -> Vec<u8> {
        let commits: Vec<&Value> = self.commits.iter().rev().collect();
        let snapshots: Vec<&Value> = self.snapshots.values().collect();
        let body = json!({
            "bundle": {"commits": commits, "snapshots": snapshots, "objects": []}, "branch": branch, "force": force,
        });
        let mut out = Vec::new();
        transcode::append(body.to_string().as_bytes(), &mut out).unwrap();
        out
    }

    pub(super) fn check_complete(&self, fetched: &Fetched) {
        for commit in &self.commits {
            assert_eq!(fetched.commits.get(commit["commit_id"].as_str().unwrap()), Some(commit));
        }
        assert_eq!(fetched.commits.len(), self.commits.len());
        assert_eq!(fetched.snapshots, self.snapshots);
        let mut objects = self.objects.clone();
        objects.remove(&sha(b""));
        assert_eq!(fetched.objects, objects);
    }
}

pub(super) fn sha(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub(super) fn two_commits() -> (History, String, String) {
    let mut history = History::default();
    let first = history.commit(&[], &[("a.txt", b"one"), ("empty", b""), ("big.bin", &[7; 5 << 20])], "first");
    let second = history.commit(&[&first], &[("a.txt", b"two"), ("empty", b""), ("big.bin", &[7; 5 << 20])], "second");
    (history, first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_comes_back_field_for_field() {
    let rig = Rig::new(Limits::default()).await;
    let (history, first, second) = two_commits();
    let answer = rig.push_all("a", &history, "main").await;
    assert_eq!((&answer["ok"], &answer["branch_heads"]["main"]), (&json!(true), &json!(second)), "{answer}");
    let refs = rig.get("/alice/a/refs").await.map();
    assert_eq!((&refs["default_branch"], &refs["domain"]), (&json!("main"), &json!("code")));
    history.check_complete(&rig.fetch("a", &[&second], &[]).await.fetched());
    let increment = rig.fetch("a", &[&second], &[&first]).await.fetched();
    assert_eq!(increment.commits.keys().collect::<Vec<_>>(), [&second]);
    assert_eq!(increment.objects.keys().collect::<Vec<_>>(), [&sha(b"two")]);
    assert!(rig.fetch("a", &[&second], &[&second]).await.fetched().commits.is_empty());
    assert_eq!(rig.fetch("a", &[&sha(b"nothing")], &[]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_repository_with_the_same_content_clones_completely() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, second) = two_commits();
    for repo in ["a", "b"] {
        rig.push_all(repo, &history, "main").await;
        history.check_complete(&rig.fetch(repo, &[&second], &[]).await.fetched());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_push_stores_nothing_and_is_accepted() {
    let rig = Rig::new(Limits { spool_threshold_bytes: 100, ..Limits::default() }).await;
    let (history, _, second) = two_commits();
    rig.push_all("a", &history, "main").await;
    let before = rig.store.list("packs").unwrap();
    let reply = rig.post("/alice/a/push/objects", history.objects_body()).await.map();
    assert_eq!(reply, json!({"stored": 0, "skipped": 4}));
    let answer = rig.post("/alice/a/push", history.push_body("main", false)).await.map();
    assert_eq!((&answer["ok"], &answer["remote_head"]), (&json!(true), &json!(second)));
    assert_eq!(rig.store.list("packs").unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_push_changes_nothing_and_says_why() {
    let rig = Rig::new(Limits::default()).await;
    let (mut history, first, second) = two_commits();
    let body = history.push_body("main", false);
    let answer = rig.post("/alice/a/push", body).await.map();
    assert_eq!(answer["ok"], json!(false));
    assert!(answer["message"].as_str().unwrap().contains(&sha(b"two")), "{answer}");
    assert!(rig.store.list("packs").unwrap().is_empty());
    rig.push_all("a", &history, "main").await;
    // Unknown parent.
    let orphan = History { commits: history.commits.split_off(1), ..history.clone() };
    let reply = rig.post("/alice/b/push/objects", orphan.objects_body()).await;
    assert_eq!(reply.status, StatusCode::OK);
    let answer = rig.post("/alice/b/push", orphan.push_body("main", false)).await.map();
    assert_eq!(answer["ok"], json!(false));
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains(".muse/remotes") && message.contains(&first), "{message}");
    assert_eq!(rig.get("/alice/b/refs").await.map()["branch_heads"], json!({}));
    assert_eq!(rig.fetch("b", &[&second], &[]).await.status, StatusCode::NOT_FOUND);
    // No commits, no branch.
    let answer = rig.post("/alice/b/push", History::default().push_body("ghost", false)).await.map();
    assert_eq!(answer["ok"], json!(false), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn divergence_is_409_and_force_overwrites_and_a_prefix_clash_is_refused() {
    let rig = Rig::new(Limits::default()).await;
    let (history, first, _) = two_commits();
    rig.push_all("a", &history, "main").await;
    let mut other = History { commits: history.commits[..1].to_vec(), ..history.clone() };
    let third = other.commit(&[&first], &[("a.txt", b"three")], "third");
    rig.post("/alice/a/push/objects", other.objects_body()).await;
    assert_eq!(rig.post("/alice/a/push", other.push_body("main", false)).await.status, StatusCode::CONFLICT);
    let forced = rig.post("/alice/a/push", other.push_body("main", true)).await.map();
    assert_eq!((&forced["ok"], &forced["remote_head"]), (&json!(true), &json!(third)));
    let clash = rig.post("/alice/a/push", other.push_body("main/sub", false)).await.map();
    assert_eq!(clash["ok"], json!(false), "{clash}");
    // One snapshot on two branches whose parents differ, each pulled singly.
    let mut lone = History::default();
    let root = lone.commit(&[], &[("a.txt", b"three")], "another root");
    rig.push_all("a", &lone, "side").await;
    lone.check_complete(&rig.fetch("a", &[&root], &[]).await.fetched());
    other.snapshots.retain(|id, _| other.commits.iter().any(|commit| commit["snapshot_id"] == json!(id)));
    other.objects.remove(&sha(b"two"));
    other.check_complete(&rig.fetch("a", &[&third], &[]).await.fetched());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_gives_the_same_answer_and_another_body_is_refused() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, second) = two_commits();
    rig.post("/alice/a/push/objects", history.objects_body()).await;
    for _ in 0..2 {
        let reply = rig.post_keyed("/alice/a/push", history.push_body("main", false), Some("k1")).await;
        assert_eq!(reply.map()["remote_head"], json!(second));
    }
    let reply = rig.post_keyed("/alice/a/push", history.push_body("dev", false), Some("k1")).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_is_named_condemned_asked_for_and_healed() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, second) = two_commits();
    rig.push_all("a", &history, "main").await;
    let (repo, view) = rig.hub.readable(&Caller::Operator, "alice", "a").await.unwrap();
    let id: ObjectId = sha(b"one").parse().unwrap();
    let location = view.locate(repo.scope, Kind::Blob, id).unwrap().unwrap();
    rig.damage(location.pack, location.offset);
    let reply = rig.fetch("a", &[&second], &[]).await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        reply.text().contains(&id.to_string()) && reply.text().contains(&location.pack.to_string()),
        "{}",
        reply.text()
    );
    let ids = json!({"object_ids": history.objects.keys().collect::<Vec<_>>()});
    let mut body = Vec::new();
    transcode::append(ids.to_string().as_bytes(), &mut body).unwrap();
    // The event is appended beside the answer.
    let asked = async {
        loop {
            let missing = rig.post("/alice/a/filter-objects", body.clone()).await.map();
            if missing == json!({"missing": [id.to_string()]}) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), asked).await.expect("the rows are condemned");
    assert_eq!(rig.fetch("a", &[&second], &[]).await.status, StatusCode::INTERNAL_SERVER_ERROR);
    let healed = rig.post("/alice/a/push/objects", history.objects_body()).await.map();
    assert_eq!(healed["stored"], json!(1));
    history.check_complete(&rig.fetch("a", &[&second], &[]).await.fetched());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_the_limit_is_413_with_size_and_way_out() {
    let rig = Rig::new(Limits { response_bytes_max: 1 << 20, ..Limits::default() }).await;
    let (history, _, second) = two_commits();
    rig.push_all("a", &history, "main").await;
    let reply = rig.fetch("a", &[&second], &[]).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(reply.text().contains("1048576") && reply.text().contains("muse pull"), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_records_are_422_with_the_field() {
    let rig = Rig::new(Limits::default()).await;
    let (mut history, _, _) = two_commits();
    rig.post("/alice/a/push/objects", history.objects_body()).await;
    history.commits[1]["message"] = json!("changed");
    let reply = rig.post("/alice/a/push", history.push_body("main", false)).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", reply.text());
    let mut lying = History::default();
    lying.objects.insert(sha(b"true"), b"false".to_vec());
    let reply = rig.post("/alice/a/push/objects", lying.objects_body()).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", reply.text());
    assert_eq!(rig.post("/alice/a/push", vec![0xc1]).await.status, StatusCode::BAD_REQUEST);
    let (good, _, _) = two_commits();
    let reply = rig.post("/alice/a/push", good.push_body("../evil", false)).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_served_with_ranges_and_strong_tags_to_those_who_may_read() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, _) = two_commits();
    rig.push_all("a", &history, "main").await;
    for (content, part) in [(&b"one"[..], 1..3), (&[7; 5 << 20][..], 4_000_000..5_000_001)] {
        let path = format!("/alice/a/objects/{}", sha(content));
        let all = rig.get(&path).await;
        assert_eq!((all.status, all.body.as_deref().unwrap()), (StatusCode::OK, content));
        assert_eq!(all.headers["etag"], format!("\"{}\"", sha(content)));
        assert_eq!(all.headers["cache-control"], "public, max-age=31536000, immutable");
        let range = format!("bytes={}-{}", part.start, part.end - 1);
        let request = Request::get(&path).header("range", range).body(HttpBody::empty()).unwrap();
        let reply = rig.send(request).await;
        assert_eq!((reply.status, reply.body.as_deref().unwrap()), (StatusCode::PARTIAL_CONTENT, &content[part]));
    }
    let absent = rig.get(&format!("/alice/b/objects/{}", sha(b"one"))).await;
    assert_eq!(absent.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_are_published_once_listed_and_retracted() {
    let rig = Rig::new(Limits::default()).await;
    let release = |tag: &str, draft: bool| {
        json!({"release_id": format!("id-{tag}"), "tag": tag, "channel": "stable", "is_draft": draft, "title": null})
            .to_string()
    };
    let publish = |text: String| {
        let request = Request::post("/alice/a/releases").header("content-type", "application/json");
        rig.send(request.header("authorization", "Bearer operator").body(text.into()).unwrap())
    };
    assert_eq!(publish(release("v1.0.0+x", false)).await.map(), json!({"release_id": "id-v1.0.0+x"}));
    assert_eq!(publish(release("v2", true)).await.status, StatusCode::OK);
    assert_eq!(publish(release("v2", true)).await.status, StatusCode::CONFLICT);
    let listed = rig.get("/alice/a/releases?include_drafts=1").await.map();
    assert_eq!(listed["releases"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["releases"][0].get("title"), None);
    let retract = || {
        let request = Request::delete("/alice/a/releases/v1.0.0%2Bx").header("authorization", "Bearer operator");
        rig.send(request.body(HttpBody::empty()).unwrap())
    };
    assert_eq!(retract().await.map(), json!({"retracted": "v1.0.0+x"}));
    assert_eq!(retract().await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn negotiation_is_ready_only_when_the_batch_says_all() {
    let rig = Rig::new(Limits::default()).await;
    let (mut history, first, second) = two_commits();
    let third = history.commit(&[&second], &[("a.txt", b"3")], "third");
    rig.push_all("a", &history, "main").await;
    let ask = |have: Vec<String>| {
        let mut body = Vec::new();
        transcode::append(json!({"want": [third], "have": have}).to_string().as_bytes(), &mut body).unwrap();
        let rig = &rig;
        async move { rig.post("/alice/a/negotiate", body).await.map() }
    };
    assert_eq!(ask(vec![third.clone()]).await["ready"], json!(true));
    let near = ask(vec![second.clone(), sha(b"unknown")]).await;
    assert_eq!(near, json!({"ack": [second], "common_base": second, "ready": true}));
    assert_eq!(ask(vec![first.clone()]).await["common_base"], json!(first));
    let far = ask(vec![sha(b"unknown")]).await;
    assert_eq!(far, json!({"ack": [], "common_base": null, "ready": false}));
}

/// Two readers of a public repository who took their answers byte by byte kept everybody else's large lists out.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_take_its_list_of_ids_keeps_no_other_list_waiting() {
    let ids: Vec<String> = (0..10_000u32).map(|number| sha(&number.to_be_bytes())).collect();
    let waiting_time_max = Duration::from_millis(200);
    let limits =
        Limits { spool_threshold_bytes: 100, listed_ids_max: ids.len(), waiting_time_max, ..Limits::default() };
    let rig = Rig::new(limits).await;
    for (question, answer) in [("filter-objects", "missing"), ("presign", "inline")] {
        let mut body = Vec::new();
        transcode::append(json!({"object_ids": ids}).to_string().as_bytes(), &mut body).unwrap();
        let request = Request::post(format!("/alice/a/{question}")).header("content-type", "application/x-msgpack");
        let request = request.header("authorization", "Bearer operator").body(HttpBody::from(body.clone())).unwrap();
        let untaken = rig.router.clone().oneshot(request).await.unwrap();
        assert_eq!(untaken.status(), StatusCode::OK);
        let reply = rig.post(&format!("/alice/a/{question}"), body).await;
        assert_eq!(reply.status, StatusCode::OK, "{question}: {}", reply.text());
        let mut listed: Vec<String> = serde_json::from_value(reply.map()[answer].clone()).unwrap();
        let late = untaken.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(late, reply.body.unwrap(), "{question}");
        listed.sort_unstable();
        assert!(listed.iter().eq(ids.iter().collect::<std::collections::BTreeSet<_>>()), "{question}");
    }
}

#[test]
fn a_span_beyond_its_body_is_an_error() {
    let body = crate::hub::body::Body::Memory(Bytes::from_static(b"abc"));
    assert!(body.slice(Span { offset: 2, len: 2 }).is_err());
}
