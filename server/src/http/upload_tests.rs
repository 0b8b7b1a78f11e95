//! Pushes by pack, in process: announced, uploaded, unpacked; adopted as they came or packed anew; refused with nothing left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use axum::http::{Request, StatusCode};
use reprise_engine::{
    id::{Kind, ObjectId, PackId, RepoId},
    object::{Commit, Snapshot},
    pack::{PackOrigin, PackWriter},
    store::{ObjectStore, StoreKey, memory::MemoryStore},
};
use serde_json::{Value, json};

use super::mwp_tests::{History, Reply, Rig, sha, two_commits};
use crate::hub::{Limits, mpack::uploads::UploadName, repos::RepoName};

/// What a client puts into one pack.
pub(super) fn pack_of(history: &History, repo: RepoId, push: &str) -> Vec<u8> {
    let store = MemoryStore::new();
    let origin = PackOrigin { repo, push: push.parse().unwrap(), nonce: [7; 16] };
    let mut writer = PackWriter::new(store.stage().unwrap(), origin).unwrap();
    for record in &history.commits {
        let commit = Commit::from_record(record).unwrap();
        writer.add_record(Kind::Commit, commit.id, commit.record_hash, &commit.payload).unwrap();
    }
    for record in history.snapshots.values() {
        let snapshot = Snapshot::from_record(record).unwrap();
        writer.add_record(Kind::Snapshot, snapshot.id, snapshot.record_hash, &snapshot.payload).unwrap();
    }
    for (id, bytes) in &history.objects {
        let mut blob = writer.begin_blob(bytes.len() as u64).unwrap();
        blob.write(bytes).unwrap();
        blob.finish(id.parse().unwrap()).unwrap();
    }
    let stored = writer.finish().unwrap();
    store.read(&StoreKey::pack(stored.pack), 0, stored.bytes).unwrap().to_vec()
}

impl Rig {
    pub(super) async fn repo_id(&self, repo: &str) -> RepoId {
        self.get(&format!("/alice/{repo}/refs")).await.map()["repo_id"].as_str().unwrap().parse().unwrap()
    }

    async fn post_json(&self, path: &str, body: &Value, key: Option<&str>) -> Reply {
        let mut request = Request::post(path).header("content-type", "application/json");
        request = request.header("authorization", "Bearer operator");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.send(request.body(body.to_string().into()).unwrap()).await
    }

    /// The name of an upload, and its address below the repository's.
    async fn announce(&self, repo: &str, bytes: usize, sha256: &str) -> (String, String) {
        let body = json!({"bytes": bytes, "sha256": sha256});
        let reply = self.post_json(&format!("/alice/{repo}/push/mpack-presign"), &body, None).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let answer = reply.map();
        assert_eq!(answer["expires_in"], json!(3_600));
        (answer["upload"].as_str().unwrap().to_owned(), answer["url"].as_str().unwrap().to_owned())
    }

    async fn put(&self, repo: &str, url: &str, bytes: &[u8]) -> Reply {
        self.send(Request::put(format!("/alice/{repo}/{url}")).body(bytes.to_vec().into()).unwrap()).await
    }

    pub(super) async fn upload(&self, repo: &str, pack: &[u8]) -> String {
        let (upload, url) = self.announce(repo, pack.len(), &sha(pack)).await;
        let reply = self.put(repo, &url, pack).await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text());
        upload
    }

    pub(super) async fn unpack(
        &self,
        repo: &str,
        uploads: &[&str],
        tip: &str,
        more: Value,
        key: Option<&str>,
    ) -> Reply {
        let mut body = json!({"uploads": uploads, "branch": "main", "tip": tip});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.post_json(&format!("/alice/{repo}/push/unpack-mpack"), &body, key).await
    }

    pub(super) fn packs(&self) -> Vec<StoreKey> {
        self.store.list("packs").unwrap()
    }
}

pub(super) const PUSH: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";
const OTHER: &str = "1f0e0d0c-0b0a-4908-8706-050403020100";

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_of_this_repository_and_push_is_stored_as_it_came() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, second) = two_commits();
    let pack = pack_of(&history, rig.repo_id("a").await, PUSH);
    let upload = rig.upload("a", &pack).await;
    assert!(rig.packs().is_empty(), "nothing is stored before the push is decided");
    let answer = rig.unpack("a", &[&upload], &second, json!({}), Some(PUSH)).await.map();
    assert_eq!((&answer["ok"], &answer["remote_head"]), (&json!(true), &json!(second)), "{answer}");
    assert_eq!(answer["branch_heads"], json!({"main": second}));
    let id: ObjectId = sha(&pack).parse().unwrap();
    assert_eq!(rig.packs(), [StoreKey::pack(PackId(id.0))]);
    assert_eq!(rig.store.read(&rig.packs()[0], 0, pack.len() as u64).unwrap(), pack);
    history.check_complete(&rig.fetch("a", &[&second], &[]).await.fetched());
    // The upload is gone; the push is known by its key.
    assert_eq!(rig.unpack("a", &[&upload], &second, json!({}), None).await.status, StatusCode::NOT_FOUND);
    let again = rig.unpack("a", &[&upload], &second, json!({}), Some(PUSH)).await.map();
    assert_eq!((&again["ok"], &again["remote_head"]), (&json!(true), &json!(second)), "{again}");
    let other = rig.unpack("a", &[&upload], &second, json!({"force": true}), Some(PUSH)).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", other.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_names_something_else_is_packed_anew_and_its_content_is_the_same() {
    for (repo_of_header, push_of_header, key) in [("b", PUSH, Some(PUSH)), ("a", OTHER, Some(PUSH)), ("a", PUSH, None)]
    {
        let rig = Rig::new(Limits::default()).await;
        let (history, _, second) = two_commits();
        let pack = pack_of(&history, rig.repo_id(repo_of_header).await, push_of_header);
        let upload = rig.upload("a", &pack).await;
        let answer = rig.unpack("a", &[&upload], &second, json!({}), key).await.map();
        assert_eq!(answer["ok"], json!(true), "{answer}");
        let id: ObjectId = sha(&pack).parse().unwrap();
        assert!(!rig.packs().contains(&StoreKey::pack(PackId(id.0))) && rig.packs().len() == 1);
        history.check_complete(&rig.fetch("a", &[&second], &[]).await.fetched());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_repository_has_already_is_not_stored_again() {
    let rig = Rig::new(Limits::default()).await;
    let (mut history, _, second) = two_commits();
    rig.push_all("a", &history, "main").await;
    let before = rig.packs().len();
    let third = history.commit(&[&second], &[("a.txt", b"two"), ("new", b"new")], "third");
    let pack = pack_of(&history, rig.repo_id("a").await, PUSH);
    let upload = rig.upload("a", &pack).await;
    let answer = rig.unpack("a", &[&upload], &third, json!({}), Some(PUSH)).await.map();
    assert_eq!(answer["ok"], json!(true), "{answer}");
    let sizes: u64 = rig.packs().iter().map(|key| rig.store.size(key).unwrap()).max().unwrap();
    assert!(rig.packs().len() == before + 1 && sizes < pack.len() as u64 * 2, "one small pack more");
    history.check_complete(&rig.fetch("a", &[&third], &[]).await.fetched());
    // An identical push: accepted, nothing stored.
    let upload = rig.upload("a", &pack).await;
    let answer = rig.unpack("a", &[&upload], &third, json!({}), Some(OTHER)).await.map();
    assert_eq!((&answer["ok"], rig.packs().len()), (&json!(true), before + 1), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_packs_are_one_push_and_a_branch_moves_without_any() {
    let rig = Rig::new(Limits::default()).await;
    let (history, first, second) = two_commits();
    let repo = rig.repo_id("a").await;
    let records = History { objects: Default::default(), ..history.clone() };
    let blobs = History { objects: history.objects.clone(), ..History::default() };
    let uploads =
        [rig.upload("a", &pack_of(&records, repo, PUSH)).await, rig.upload("a", &pack_of(&blobs, repo, PUSH)).await];
    let names: Vec<&str> = uploads.iter().map(String::as_str).collect();
    let answer = rig.unpack("a", &names, &second, json!({}), Some(PUSH)).await.map();
    assert_eq!((&answer["ok"], rig.packs().len()), (&json!(true), 2), "{answer}");
    history.check_complete(&rig.fetch("a", &[&second], &[]).await.fetched());
    let answer = rig.unpack("a", &[], &first, json!({"branch": "early"}), None).await.map();
    assert_eq!(answer["branch_heads"], json!({"main": second, "early": first}), "{answer}");
    let answer = rig.unpack("a", &[], &sha(b"?"), json!({"branch": "ghost"}), None).await.map();
    assert_eq!(answer["ok"], json!(false), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains(&sha(b"?")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_a_short_and_a_long_upload_leave_nothing_and_the_ticket_stays_good() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, second) = two_commits();
    let pack = pack_of(&history, rig.repo_id("a").await, PUSH);
    let (upload, url) = rig.announce("a", pack.len(), &sha(&pack)).await;
    let mut changed = pack.clone();
    changed[pack.len() / 2] ^= 1;
    let long = [&pack[..], b"x"].concat();
    for (wrong, says) in
        [(&changed[..], sha(&changed)), (&pack[1..], pack.len().to_string()), (&long[..], pack.len().to_string())]
    {
        let reply = rig.put("a", &url, wrong).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(reply.text().contains(&says), "{}", reply.text());
        // The same without an announced length.
        let pieces: Vec<Result<Vec<u8>, String>> = wrong.chunks(100_000).map(|piece| Ok(piece.to_vec())).collect();
        let body = axum::body::Body::from_stream(futures_util::stream::iter(pieces));
        let reply = rig.send(Request::put(format!("/alice/a/{url}")).body(body).unwrap()).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", reply.text());
        assert_eq!(rig.unpack("a", &[&upload], &second, json!({}), None).await.status, StatusCode::NOT_FOUND);
    }
    let broken = futures_util::stream::iter([Ok(pack[..100].to_vec()), Err("gone".to_owned())]);
    let request = Request::put(format!("/alice/a/{url}")).body(axum::body::Body::from_stream(broken)).unwrap();
    assert_eq!(rig.send(request).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(rig.put("a", &url, &pack).await.status, StatusCode::NO_CONTENT);
    assert_eq!(rig.unpack("a", &[&upload], &second, json!({}), None).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_good_once_in_its_repository_and_for_its_upload() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, second) = two_commits();
    let pack = pack_of(&history, rig.repo_id("a").await, PUSH);
    let (upload, url) = rig.announce("a", pack.len(), &sha(&pack)).await;
    let (other, other_url) = rig.announce("a", 5, &sha(b"other")).await;
    let nobody = rig.get("/alice/nobody/refs").await.text();
    let refused = async |repo: &str, url: &str| {
        let reply = rig.put(repo, url, &pack).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{url}");
        assert_eq!(reply.text().replace(&format!("alice/{repo} "), "alice/nobody "), nobody, "the words tell nothing");
    };
    refused("b", &url).await;
    refused("a", url.split('?').next().unwrap()).await;
    refused("a", &format!("{url}0")).await;
    refused("a", &url.replace(&upload, &other)).await;
    // The same bytes for longer: the ticket knows its end.
    let (end, hash) = upload.split_once('-').unwrap();
    let longer = format!("{:012}-{hash}", end.parse::<u64>().unwrap() + 1);
    refused("a", &url.replace(&upload, &longer)).await;
    refused("a", "mpack/nonsense?ticket=x").await;
    assert_eq!(rig.put("a", &url, &pack).await.status, StatusCode::NO_CONTENT);
    let again = rig.put("a", &url, &pack).await;
    assert_eq!(again.status, StatusCode::PRECONDITION_FAILED, "it is here: {}", again.text());
    assert_eq!(rig.unpack("b", &[&upload], &second, json!({}), None).await.status, StatusCode::NOT_FOUND);
    assert_eq!(rig.unpack("a", &[&upload, &other], &second, json!({}), None).await.status, StatusCode::NOT_FOUND);
    assert_eq!(rig.unpack("a", &[&upload], &second, json!({}), Some(PUSH)).await.status, StatusCode::OK);
    assert_eq!(rig.put("a", &other_url, b"other").await.status, StatusCode::NO_CONTENT, "the other one still is good");
    // Used again after its upload was taken in, it brings the same bytes into quarantine, and nothing else.
    assert_eq!(rig.put("a", &url, &pack).await.status, StatusCode::NO_CONTENT);
    let repeated = rig.unpack("a", &[&upload], &second, json!({}), Some(PUSH)).await.map();
    assert_eq!((&repeated["ok"], rig.packs().len()), (&json!(true), 1), "{repeated}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_is_not_taken_in_even_while_it_is_there() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, second) = two_commits();
    let pack = pack_of(&history, rig.repo_id("a").await, PUSH);
    let upload = rig.upload("a", &pack).await;
    // The same upload, announced a day ago.
    let name: UploadName = upload.parse().unwrap();
    let early = UploadName { end_s: name.end_s - 86_400, ..name };
    let repo = RepoName { owner: "alice".to_owned(), slug: "a".to_owned() };
    rig.store.overwrite(&early.quarantined(&repo).key(), pack.into());
    let early = early.to_string();
    assert_eq!(rig.unpack("a", &[&early], &second, json!({}), None).await.status, StatusCode::NOT_FOUND);
    assert_eq!(rig.unpack("a", &[&upload], &second, json!({}), None).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_promised_its_successor_keeps() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, second) = two_commits();
    let pack = pack_of(&history, rig.repo_id("a").await, PUSH);
    let (upload, url) = rig.announce("a", pack.len(), &sha(&pack)).await;
    let rig = rig.restarted();
    assert_eq!(rig.put("a", &url, &pack).await.status, StatusCode::NO_CONTENT);
    let rig = rig.restarted();
    let answer = rig.unpack("a", &[&upload], &second, json!({}), Some(PUSH)).await.map();
    assert_eq!((&answer["ok"], rig.packs().len()), (&json!(true), 1), "{answer}");
    let rig = rig.restarted();
    let again = rig.unpack("a", &[&upload], &second, json!({}), Some(PUSH)).await.map();
    assert_eq!((&again["ok"], rig.packs().len()), (&json!(true), 1), "{again}");
    assert!(rig.store.list("quarantine").unwrap().is_empty(), "what was taken in waits no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_bounded_in_number_and_bytes_and_end_with_their_time() {
    let limits = Limits { uploads_max: 3, uploads_bytes_max: 1_000, ..Limits::default() };
    let rig = Rig::new(limits).await;
    let numbers = AtomicU8::new(0);
    let announce = async |repo: &str, bytes: u64| {
        let another = sha(&[numbers.fetch_add(1, Ordering::Relaxed)]);
        let body = json!({"bytes": bytes, "sha256": another});
        rig.post_json(&format!("/alice/{repo}/push/mpack-presign"), &body, None).await
    };
    for (repo, bytes, status) in [("a", 10, 200), ("a", 10, 200), ("b", 990, 429), ("b", 9, 200), ("b", 9, 429)] {
        let reply = announce(repo, bytes).await;
        assert_eq!(reply.status.as_u16(), status, "{}", reply.text());
    }
    assert_eq!(announce("a", 0).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(announce("a", 1 << 40).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let rig = Rig::new(Limits { upload_time_max: Duration::ZERO, ..Limits::default() }).await;
    let body = json!({"bytes": 1, "sha256": sha(b"x")});
    let url = rig.post_json("/alice/a/push/mpack-presign", &body, None).await.map();
    assert_eq!(rig.put("a", url["url"].as_str().unwrap(), b"x").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_by_pack_is_refused_like_any_push_and_its_uploads_stay() {
    let rig = Rig::new(Limits::default()).await;
    let (history, first, second) = two_commits();
    let repo = rig.repo_id("a").await;
    // A blob is missing.
    let mut holes = history.clone();
    holes.objects.remove(&sha(b"two"));
    let upload = rig.upload("a", &pack_of(&holes, repo, PUSH)).await;
    let answer = rig.unpack("a", &[&upload], &second, json!({}), Some(PUSH)).await.map();
    assert_eq!(answer["ok"], json!(false));
    assert!(answer["message"].as_str().unwrap().contains(&sha(b"two")), "{answer}");
    // A parent is missing.
    let orphan = History { commits: history.commits[1..].to_vec(), ..history.clone() };
    let orphan = rig.upload("a", &pack_of(&orphan, repo, PUSH)).await;
    let answer = rig.unpack("a", &[&orphan], &second, json!({}), None).await.map();
    assert!(answer["message"].as_str().unwrap().contains(&first), "{answer}");
    assert!(rig.packs().is_empty());
    assert_eq!(rig.get("/alice/a/refs").await.map()["branch_heads"], json!({}));
    // With another pack that has the blob, the first upload is good after all.
    let mut rest = History::default();
    rest.objects.insert(sha(b"two"), b"two".to_vec());
    let rest = rig.upload("a", &pack_of(&rest, repo, PUSH)).await;
    let answer = rig.unpack("a", &[&upload, &rest], &second, json!({}), Some(PUSH)).await.map();
    assert_eq!(answer["ok"], json!(true), "{answer}");
    // Diverged: 409, and then by force with the same upload.
    let mut aside = History { commits: history.commits[..1].to_vec(), ..history.clone() };
    let third = aside.commit(&[&first], &[("a.txt", b"three")], "aside");
    let upload = rig.upload("a", &pack_of(&aside, repo, OTHER)).await;
    assert_eq!(rig.unpack("a", &[&upload], &third, json!({}), Some(OTHER)).await.status, StatusCode::CONFLICT);
    let answer = rig.unpack("a", &[&upload], &third, json!({"force": true}), Some(OTHER)).await.map();
    assert_eq!(answer["remote_head"], json!(third), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_pack_or_lies_about_an_object_is_refused_and_stores_nothing() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, second) = two_commits();
    let repo = rig.repo_id("a").await;
    let pack = pack_of(&history, repo, PUSH);
    let check = async |bytes: &[u8], says: &str| {
        let upload = rig.upload("a", bytes).await;
        let reply = rig.unpack("a", &[&upload], &second, json!({}), Some(PUSH)).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", reply.text());
        assert!(reply.text().contains(says), "{says:?} is not in {}", reply.text());
        assert!(rig.packs().is_empty());
    };
    check(b"this is no pack at all", "not a whole pack").await;
    check(&pack[..pack.len() - 1], "not a whole pack").await;
    for at in (0..pack.len()).step_by(pack.len() / 7).chain([0, 70, pack.len() - 1]) {
        let mut changed = pack.clone();
        changed[at] ^= 1;
        check(&changed, "not a whole pack").await;
    }
    // A record under an id that is not its own, and one that is not canonical.
    let with_record = |id: &str, payload: &[u8]| {
        let store = MemoryStore::new();
        let origin = PackOrigin { repo, push: PUSH.parse().unwrap(), nonce: [9; 16] };
        let mut writer = PackWriter::new(store.stage().unwrap(), origin).unwrap();
        let hash = reprise_engine::object::ids::record_hash(Kind::Commit, payload);
        writer.add_record(Kind::Commit, id.parse().unwrap(), hash, payload).unwrap();
        let stored = writer.finish().unwrap();
        store.read(&StoreKey::pack(stored.pack), 0, stored.bytes).unwrap().to_vec()
    };
    let record = history.commits[1].to_string();
    check(&with_record(&sha(b"another"), record.as_bytes()), &second).await;
    check(&with_record(&second, record.replace(":", ": ").as_bytes()), "canonical").await;
    check(&with_record(&second, b"[]"), "must be a map").await;
    // Two packs that hold the same object.
    let uploads = [rig.upload("a", &pack).await, rig.upload("a", &pack_of(&history, repo, OTHER)).await];
    let reply = rig.unpack("a", &[&uploads[0], &uploads[1]], &second, json!({}), None).await;
    assert_eq!((reply.status, reply.text().contains("two of the packs")), (StatusCode::UNPROCESSABLE_ENTITY, true));
    let limited = Rig::new(Limits { unpack_rows_max: 3, ..Limits::default() }).await;
    let upload = limited.upload("a", &pack).await;
    let reply = limited.unpack("a", &[&upload], &second, json!({}), None).await;
    assert_eq!((reply.status, reply.text().contains("limit is 3")), (StatusCode::PAYLOAD_TOO_LARGE, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_the_store_has_already_is_never_taken_back_with_a_later_push() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, second) = two_commits();
    let repo = rig.repo_id("a").await;
    let pack = pack_of(&history, repo, PUSH);
    let upload = rig.upload("a", &pack).await;
    assert_eq!(rig.unpack("a", &[&upload], &second, json!({}), Some(PUSH)).await.map()["ok"], json!(true));
    // All of its rows are condemned, and the same file comes again under the same key: the log knows the push, and names the
    // file that is there.
    let id: PackId = PackId(sha(&pack).parse::<ObjectId>().unwrap().0);
    let (found, view) = rig.hub.readable(&crate::hub::Caller::Operator, "alice", "a").await.unwrap();
    let mut rows: Vec<(Kind, ObjectId)> = history.objects.keys().map(|id| (Kind::Blob, id.parse().unwrap())).collect();
    rows.extend(history.snapshots.keys().map(|id| (Kind::Snapshot, id.parse().unwrap())));
    let commits = history.commits.iter().map(|commit| commit["commit_id"].as_str().unwrap());
    rows.extend(commits.map(|id| (Kind::Commit, id.parse().unwrap())));
    drop(view);
    rig.hub.condemn(found.scope, id, rows, "a test");
    let upload = rig.upload("a", &pack).await;
    let reply = rig.unpack("a", &[&upload], &second, json!({"force": false}), Some(PUSH)).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "another request under this key: {}", reply.text());
    assert_eq!(rig.packs(), [StoreKey::pack(id)], "what was packed anew is taken back, what the log names is not");
    // As a push of its own it heals.
    let answer = rig.unpack("a", &[&upload], &second, json!({}), None).await.map();
    assert_eq!((&answer["ok"], rig.packs().len()), (&json!(true), 2), "{answer}");
    assert_eq!(rig.store.read(&StoreKey::pack(id), 0, pack.len() as u64).unwrap(), pack);
    history.check_complete(&rig.fetch("a", &[&second], &[]).await.fetched());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_lies_in_the_store_and_is_named_by_nothing_is_packed_anew() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, second) = two_commits();
    let pack = pack_of(&history, rig.repo_id("a").await, PUSH);
    // As a push may leave it whose outcome nobody learnt.
    let key = StoreKey::pack(PackId(sha(&pack).parse::<ObjectId>().unwrap().0));
    rig.store.overwrite(&key, pack.clone().into());
    let upload = rig.upload("a", &pack).await;
    let answer = rig.unpack("a", &[&upload], &second, json!({}), Some(PUSH)).await.map();
    assert_eq!((&answer["ok"], rig.packs().len()), (&json!(true), 2), "{answer}");
    history.check_complete(&rig.fetch("a", &[&second], &[]).await.fetched());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_of_the_stock_client_come_by_one_time_addresses_if_the_server_gives_any() {
    let rig = Rig::presigning("http://hub.example/").await;
    let (history, _, second) = two_commits();
    let (id, large) = history.objects.iter().find(|(_, bytes)| bytes.len() > 65_536).unwrap();
    let body = json!({"object_ids": [id, sha(b"another")], "direction": "put"});
    let answer = rig.post_json("/alice/a/presign", &body, None).await.map();
    assert_eq!(answer["inline"], json!([]), "{answer}");
    let path = |id: &str| {
        let url = answer["presigned"][id].as_str().unwrap();
        url.strip_prefix("http://hub.example").unwrap().to_owned()
    };
    let put = async |path: &str, bytes: &[u8]| {
        let request = Request::put(path).header("content-type", "application/json");
        rig.send(request.body(bytes.to_vec().into()).unwrap()).await
    };
    let wrong = put(&path(id), b"other bytes").await;
    assert_eq!((wrong.status, rig.packs().len()), (StatusCode::UNPROCESSABLE_ENTITY, 0), "{}", wrong.text());
    let nobody = rig.get("/alice/nobody/refs").await.text();
    for elsewhere in
        [path(id).replace("/a/", "/b/"), path(id).replace(id.as_str(), &sha(b"x")), format!("{}0", path(id))]
    {
        let reply = put(&elsewhere, large).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{elsewhere}");
        assert_eq!(reply.text().replace("alice/b ", "alice/nobody ").replace("alice/a ", "alice/nobody "), nobody);
    }
    assert_eq!(put(&path(id), large).await.status, StatusCode::NO_CONTENT);
    assert_eq!(put(&path(id), large).await.status, StatusCode::NO_CONTENT, "a push that is repeated must not fail");
    assert_eq!(put(&path(&sha(b"another")), b"another").await.status, StatusCode::NO_CONTENT, "each by itself");
    assert_eq!((rig.packs().len(), rig.store.list("quarantine").unwrap().len()), (0, 2));
    assert_eq!(rig.get(&format!("/alice/a/objects/{id}")).await.status, StatusCode::NOT_FOUND, "nobody sees it yet");
    // The rest as ever. What the push names is taken in; what nobody names stays until it is swept.
    let mut rest = history.clone();
    rest.objects.remove(id);
    let answer = rig.push_all("a", &rest, "main").await;
    assert_eq!(answer["ok"], json!(true), "{answer}");
    history.check_complete(&rig.fetch("a", &[&second], &[]).await.fetched());
    let waiting = rig.store.list("quarantine").unwrap();
    assert!(waiting.len() == 1 && waiting[0].as_str().contains(&sha(b"another")), "{waiting:?}");
    // Readers get no address to push to.
    let anonymous = Request::post("/alice/a/presign").header("content-type", "application/json");
    let answer = rig.send(anonymous.body(body.to_string().into()).unwrap()).await.map();
    assert_eq!((&answer["presigned"], answer["inline"].as_array().unwrap().len()), (&json!({}), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_address_brings_is_nobodys_until_somebody_who_may_push_names_it() {
    let rig = Rig::presigning("http://hub.example").await;
    let token = json!({"owner": "alice", "scope": "write"});
    let made = rig.post_json("/api/v1/tokens", &token, None).await;
    let made: Value = serde_json::from_slice(&made.body.unwrap()).unwrap();
    let request = Request::post("/alice/a/presign")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {}", made["token"].as_str().unwrap()));
    let body = json!({"object_ids": [sha(b"x")]});
    let answer = rig.send(request.body(body.to_string().into()).unwrap()).await.map();
    let url = answer["presigned"][sha(b"x")].as_str().unwrap().replace("http://hub.example", "");
    let revoke = Request::delete(format!("/api/v1/tokens/{}", made["token_id"].as_str().unwrap()));
    let revoked = rig.send(revoke.header("authorization", "Bearer operator").body("".into()).unwrap()).await;
    assert_eq!(revoked.status, StatusCode::OK);
    let reply = rig.send(Request::put(url).body("x".into()).unwrap()).await;
    assert_eq!((reply.status, rig.packs().len()), (StatusCode::NO_CONTENT, 0), "{}", reply.text());
    let head = rig.hub.engine.durable().position;
    let mut history = History::default();
    history.commit(&[], &[("x", b"x")], "x");
    history.objects.clear();
    let request = Request::post("/alice/a/push")
        .header("content-type", "application/x-msgpack")
        .header("authorization", format!("Bearer {}", made["token"].as_str().unwrap()));
    let reply = rig.send(request.body(history.push_body("main", false).into()).unwrap()).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert_eq!((rig.hub.engine.durable().position, rig.packs().len()), (head, 0));
    let answer = rig.post("/alice/a/push", history.push_body("main", false)).await.map();
    assert_eq!(answer["ok"], json!(true), "the operator may: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_in_quarantine_that_is_not_what_it_is_called_is_refused_and_removed() {
    let rig = Rig::presigning("http://hub.example").await;
    let (history, _, second) = two_commits();
    let (id, large) = history.objects.iter().find(|(_, bytes)| bytes.len() > 65_536).unwrap();
    let body = json!({"object_ids": [id]});
    let mut rest = history.clone();
    rest.objects.remove(id);
    let reply = rig.post("/alice/a/push/objects", rest.objects_body()).await;
    assert_eq!(reply.status, StatusCode::OK);
    let before = rig.packs();
    // As an address in a bucket lets it come: nothing but the key is pinned there.
    let answer = rig.post_json("/alice/a/presign", &body, None).await.map();
    let path = answer["presigned"][id].as_str().unwrap().replace("http://hub.example", "");
    let put = async || rig.send(Request::put(&path).body(large.clone().into()).unwrap()).await.status;
    assert_eq!(put().await, StatusCode::NO_CONTENT);
    let key = rig.store.list("quarantine").unwrap().remove(0);
    for wrong in [&large[1..], b"", &[&large[..], b"x"].concat()] {
        rig.store.overwrite(&key, wrong.to_vec().into());
        let reply = rig.post("/alice/a/push", history.push_body("main", false)).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", reply.text());
        assert!(reply.text().contains(id.as_str()), "{}", reply.text());
        assert_eq!((rig.packs(), rig.store.list("quarantine").unwrap().len()), (before.clone(), 0));
    }
    let answer = rig.post("/alice/a/push", history.push_body("main", false)).await.map();
    assert_eq!(answer["ok"], json!(false), "it is not here: {answer}");
    assert_eq!(put().await, StatusCode::NO_CONTENT, "the address is good again");
    let answer = rig.post("/alice/a/push", history.push_body("main", false)).await.map();
    assert_eq!(answer["ok"], json!(true), "{answer}");
    history.check_complete(&rig.fetch("a", &[&second], &[]).await.fetched());
}
