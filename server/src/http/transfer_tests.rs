//! Direct transfer, in process: what a pack holds, where it goes on, what it never does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::collections::{BTreeMap, BTreeSet};

use axum::http::{Request, StatusCode};
use reprise_engine::{
    id::{Kind, ObjectId, PackId},
    limits::TRANSFER_ROWS_MAX,
    pack::{Arrival, Arriving},
};
use serde_json::{Value, json};

use super::mwp_tests::{History, Reply, Rig, sha, two_commits};
use crate::hub::Limits;

/// What a reader makes of a pack.
#[derive(Default, PartialEq, Debug)]
struct Arrived {
    commits: BTreeMap<String, Value>,
    snapshots: BTreeMap<String, Value>,
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Arrived {
    fn of(pack: &[u8]) -> Arrived {
        let mut arriving = Arriving::open(pack, PackId([9; 32]), TRANSFER_ROWS_MAX).unwrap();
        let (mut arrived, mut pieces) = (Arrived::default(), Vec::new());
        while let Some(arrival) = arriving.next().unwrap() {
            match arrival {
                Arrival::Object { kind: Kind::Blob, id, payload } => {
                    arrived.blobs.insert(id.to_string(), payload.to_vec());
                }
                Arrival::Object { kind, id, payload } => {
                    let record = serde_json::from_slice(&payload).unwrap();
                    let of = if kind == Kind::Commit { &mut arrived.commits } else { &mut arrived.snapshots };
                    of.insert(id.to_string(), record);
                }
                Arrival::Piece(piece) => pieces.extend_from_slice(&piece),
                Arrival::Blob { id, len } => {
                    assert_eq!(pieces.len() as u64, len);
                    arrived.blobs.insert(id.to_string(), std::mem::take(&mut pieces));
                }
            }
        }
        arrived
    }

    /// Snapshots that no commit names: bases.
    fn bases(&self) -> usize {
        let named: BTreeSet<&str> =
            self.commits.values().map(|commit| commit["snapshot_id"].as_str().unwrap()).collect();
        self.snapshots.keys().filter(|id| !named.contains(id.as_str())).count()
    }

    fn check_is(&self, history: &History) {
        let commits: BTreeMap<String, Value> = history
            .commits
            .iter()
            .map(|commit| (commit["commit_id"].as_str().unwrap().to_owned(), commit.clone()))
            .collect();
        assert_eq!(self.commits, commits);
        assert_eq!(self.snapshots, history.snapshots);
        assert_eq!(self.blobs, history.objects);
    }
}

impl Rig {
    async fn pack(&self, repo: &str, body: &Value, headers: &[(&str, String)]) -> Reply {
        let mut request = Request::post(format!("/alice/{repo}/fetch/mpack"))
            .header("content-type", "application/json")
            .header("authorization", "Bearer operator");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        self.send(request.body(body.to_string().into()).unwrap()).await
    }

    async fn whole_pack(&self, repo: &str, want: &[&str], have: &[&str]) -> (Vec<u8>, String) {
        let reply = self.pack(repo, &json!({"want": want, "have": have}), &[]).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        assert_eq!(reply.headers["content-type"], "application/x-reprise-mpack");
        let pack = reply.body.clone().unwrap().to_vec();
        assert_eq!(reply.headers["content-length"], pack.len().to_string().as_str());
        (pack, reply.headers["etag"].to_str().unwrap().to_owned())
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    reprise_engine::clock::Random::fill(&reprise_engine::clock::SeededRandom::new(seed), &mut bytes).unwrap();
    bytes
}

/// Commits with growing trees: keyframes and snapshots that are stored against them.
fn story(commits: usize) -> (History, Vec<String>) {
    let (mut history, mut ids) = (History::default(), Vec::<String>::new());
    for number in 0..commits {
        let names: Vec<String> = (0..40).map(|file| format!("src/part{}/file{file}.rs", file % 5)).collect();
        let contents: Vec<String> =
            (0..40).map(|file| format!("{file} {}", if file <= number { number } else { 0 })).collect();
        let files: Vec<(&str, &[u8])> =
            names.iter().zip(&contents).map(|(name, content)| (name.as_str(), content.as_bytes())).collect();
        let parents: Vec<&str> = ids.last().map(String::as_str).into_iter().collect();
        let id = history.commit(&parents, &files, &format!("number {number}"));
        ids.push(id);
    }
    (history, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_holds_what_was_pushed_field_for_field_and_byte_for_byte() {
    let rig = Rig::new(Limits::default()).await;
    let (mut history, _, second) = two_commits();
    let files: [(&str, &[u8]); 4] = [
        ("noise", &noise(1, 3 << 20)),
        ("text", &b"la la ".repeat(400_000)),
        ("small", b"s"),
        ("mid", &noise(2, 900_000)),
    ];
    let third = history.commit(&[&second], &files, "large ones");
    rig.push_all("a", &history, "main").await;
    let (pack, etag) = rig.whole_pack("a", &[&third], &[]).await;
    Arrived::of(&pack).check_is(&history);
    assert_eq!(rig.whole_pack("a", &[&third], &[]).await, (pack, etag), "equal plans give equal bytes");
    // By the name of the branch.
    let reply = rig.pack("a", &json!({"branch": "main"}), &[]).await;
    assert_eq!(reply.headers["x-reprise-head"], third.as_str());
    Arrived::of(&reply.body.unwrap()).check_is(&history);
    let reply = rig.pack("a", &json!({"branch": "ghost"}), &[]).await;
    assert_eq!((reply.status, reply.text().contains("ghost")), (StatusCode::NOT_FOUND, true));
    assert_eq!(rig.pack("a", &json!({"want": [sha(b"?")]}), &[]).await.status, StatusCode::NOT_FOUND);
    assert_eq!(rig.pack("a", &json!({"have": []}), &[]).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_brings_the_bases_that_it_needs_and_no_other_object() {
    let rig = Rig::new(Limits::default()).await;
    let (history, ids) = story(12);
    rig.push_all("a", &history, "main").await;
    let mut bases = 0;
    for have in 0..ids.len() {
        let (pack, _) = rig.whole_pack("a", &[&ids[11]], &[&ids[have]]).await;
        let arrived = Arrived::of(&pack);
        let reference = rig.fetch("a", &[&ids[11]], &[&ids[have]]).await.fetched();
        assert_eq!(arrived.commits, reference.commits);
        assert_eq!(arrived.blobs, reference.objects);
        assert!(arrived.bases() <= 1, "one keyframe");
        assert_eq!(arrived.snapshots.len() - arrived.bases(), reference.snapshots.len());
        assert!(reference.snapshots.iter().all(|(id, record)| arrived.snapshots.get(id) == Some(record)));
        bases += arrived.bases();
    }
    assert!(bases > 6, "the keyframe is wanted by hardly any of them: {bases}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_goes_on_from_every_byte_as_if_it_had_never_broken_off() {
    let rig = Rig::new(Limits::default()).await;
    let (history, ids) = story(4);
    rig.push_all("a", &history, "main").await;
    // With a base that nobody wanted.
    let (want, have) = (ids[3].as_str(), ids[1].as_str());
    let (pack, etag) = rig.whole_pack("a", &[want], &[have]).await;
    assert_eq!(Arrived::of(&pack).bases(), 1);
    let asked = json!({"want": [want], "have": [have]});
    for from in 0..pack.len() {
        let reply = rig.pack("a", &asked, &[("range", format!("bytes={from}-")), ("if-range", etag.clone())]).await;
        assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT, "{from}");
        assert_eq!(reply.body.unwrap(), pack[from..], "{from}");
        let range = format!("bytes {from}-{}/{}", pack.len() - 1, pack.len());
        assert_eq!(reply.headers["content-range"], range.as_str());
    }
    let beyond = rig.pack("a", &asked, &[("range", format!("bytes={}-", pack.len()))]).await;
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let middle = rig.pack("a", &asked, &[("range", "bytes=5-9".to_owned())]).await;
    assert_eq!((middle.status, middle.body.unwrap().len()), (StatusCode::OK, pack.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_with_large_blobs_goes_on_from_the_bytes_around_every_boundary() {
    let rig = Rig::new(Limits::default()).await;
    let mut history = History::default();
    let files: [(&str, &[u8]); 4] = [
        ("noise", &noise(3, (2 << 20) + 5)),
        ("text", &noise(4, 70_000).repeat(40)),
        ("a", b"a"),
        ("b", &noise(5, 500)),
    ];
    let tip = history.commit(&[], &files, "large ones");
    rig.push_all("a", &history, "main").await;
    let (pack, etag) = rig.whole_pack("a", &[&tip], &[]).await;
    let mut arriving = Arriving::open(&pack[..], PackId([9; 32]), 99).unwrap();
    while arriving.next().unwrap().is_some() {}
    let (rows, _) = arriving.into_table().unwrap();
    let mut around: BTreeSet<u64> = [0, 1, 63, 64, pack.len() as u64 - 1, pack.len() as u64 - 104].into();
    for row in &rows {
        let end = row.offset + row.stored_len;
        for edge in [row.offset - 64, row.offset, row.offset + row.stored_len / 2, end, end + 48] {
            around.extend([edge - 1, edge, edge + 1]);
        }
    }
    for from in around {
        let asked = json!({"want": [&tip]});
        let reply = rig.pack("a", &asked, &[("range", format!("bytes={from}-")), ("if-range", etag.clone())]).await;
        assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT, "{from}");
        assert!(reply.body.unwrap() == pack[usize::try_from(from).unwrap()..], "{from}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_plan_that_is_another_now_is_never_sent() {
    let rig = Rig::new(Limits::default()).await;
    let (history, ids) = story(3);
    rig.push_all("a", &history, "main").await;
    let (pack, etag) = rig.whole_pack("a", &[&ids[2]], &[]).await;
    // Another push changes nothing of it.
    let (mut other, others) = story(3);
    other.commit(&[&others[2]], &[("x", b"x")], "aside");
    rig.push_all("a", &other, "side").await;
    assert_eq!(rig.whole_pack("a", &[&ids[2]], &[]).await.1, etag);
    // An object that was damaged and healed stands elsewhere now.
    let id: ObjectId = sha(b"0 0").parse().unwrap();
    let (repo, view) = rig.hub.writable(&crate::hub::Caller::Operator, "alice", "a", false).await.unwrap();
    let pack_id = view.locate(repo.scope, Kind::Blob, id).unwrap().unwrap().pack;
    rig.hub.condemn(repo.scope, pack_id, vec![(Kind::Blob, id)], "a test");
    let gone = rig.pack("a", &json!({"want": [ids[2]]}), &[]).await;
    assert_eq!((gone.status, gone.text().contains(&id.to_string())), (StatusCode::INTERNAL_SERVER_ERROR, true));
    assert_eq!(rig.post("/alice/a/push/objects", history.objects_body()).await.status, StatusCode::OK);
    let asked = json!({"want": [ids[2]]});
    let afresh = rig.pack("a", &asked, &[("range", "bytes=700-".to_owned()), ("if-range", etag.clone())]).await;
    assert_eq!(afresh.status, StatusCode::OK);
    assert_ne!(afresh.headers["etag"], etag.as_str());
    Arrived::of(afresh.body.as_ref().unwrap()).check_is(&history);
    assert!(afresh.body.unwrap() != pack);
    let refused = rig.pack("a", &asked, &[("range", "bytes=700-".to_owned()), ("if-match", etag)]).await;
    assert_eq!(refused.status, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_entry_is_never_part_of_a_pack() {
    let rig = Rig::new(Limits::default()).await;
    let (history, ids) = story(3);
    rig.push_all("a", &history, "main").await;
    let (repo, view) = rig.hub.writable(&crate::hub::Caller::Operator, "alice", "a", false).await.unwrap();
    let snapshot: ObjectId = history.commits[1]["snapshot_id"].as_str().unwrap().parse().unwrap();
    let at = view.locate(repo.scope, Kind::Snapshot, snapshot).unwrap().unwrap();
    assert!(at.base.is_some(), "the test wants one that is stored against another");
    rig.damage(at.pack, at.offset + at.stored_len / 2);
    let reply = rig.pack("a", &json!({"want": [ids[2]]}), &[]).await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(reply.text().contains(&snapshot.to_string()), "{}", reply.text());
    assert!(!rig.hub.view().await.has(repo.scope, Kind::Snapshot, snapshot).unwrap(), "its row is condemned");
    rig.push_all("a", &history, "main").await;
    let (pack, _) = rig.whole_pack("a", &[&ids[2]], &[]).await;
    Arrived::of(&pack).check_is(&history);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_a_large_blob_cuts_the_pack_short_of_its_length() {
    let rig = Rig::new(Limits::default()).await;
    let mut history = History::default();
    let large = noise(6, 3 << 20);
    let tip = history.commit(&[], &[("large", &large)], "large");
    rig.push_all("a", &history, "main").await;
    let (repo, view) = rig.hub.writable(&crate::hub::Caller::Operator, "alice", "a", false).await.unwrap();
    let id: ObjectId = sha(&large).parse().unwrap();
    let at = view.locate(repo.scope, Kind::Blob, id).unwrap().unwrap();
    rig.damage(at.pack, at.offset + at.stored_len - 9);
    let reply = rig.pack("a", &json!({"want": [tip]}), &[]).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(reply.body.is_err(), "it ends with an error, short of its length");
    let again = rig.pack("a", &json!({"want": [tip]}), &[]).await;
    assert_eq!(again.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_whose_base_is_sent_from_elsewhere_goes_out_whole() {
    let rig = Rig::new(Limits::default()).await;
    let (history, ids) = story(4);
    rig.push_all("a", &history, "main").await;
    let (repo, view) = rig.hub.writable(&crate::hub::Caller::Operator, "alice", "a", false).await.unwrap();
    let snapshots: Vec<ObjectId> =
        history.commits.iter().map(|commit| commit["snapshot_id"].as_str().unwrap().parse().unwrap()).collect();
    let at = |id: &ObjectId| view.locate(repo.scope, Kind::Snapshot, *id).unwrap().unwrap();
    let keyframe = snapshots.iter().find(|id| at(id).base.is_none()).unwrap();
    rig.hub.condemn(repo.scope, at(keyframe).pack, vec![(Kind::Snapshot, *keyframe)], "a test");
    rig.push_all("a", &history, "main").await;
    let (pack, etag) = rig.whole_pack("a", &[&ids[3]], &[]).await;
    Arrived::of(&pack).check_is(&history);
    let asked = json!({"want": [ids[3]]});
    for from in (0..pack.len()).step_by(7) {
        let reply = rig.pack("a", &asked, &[("range", format!("bytes={from}-")), ("if-range", etag.clone())]).await;
        assert_eq!(reply.body.unwrap(), pack[from..], "{from}");
    }
}
