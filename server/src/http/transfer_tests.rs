//! Direct transfer, in process: what a pack holds, where it goes on, what it never does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::collections::{BTreeMap, BTreeSet};

use axum::http::{Request, StatusCode};
use reprise_engine::{
    event::Codec,
    id::{Kind, ObjectId, PackId, RecordHash},
    limits::TRANSFER_ROWS_MAX,
    pack::{Arrival, Arriving, Location, decode_object},
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

pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    reprise_engine::clock::Random::fill(&reprise_engine::clock::SeededRandom::new(seed), &mut bytes).unwrap();
    bytes
}

/// Commits with growing trees: keyframes and snapshots that are stored against them.
pub(super) fn story(commits: usize) -> (History, Vec<String>) {
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

/// Puts together from a plan what it lists, as a client does: ranges, rows, bases.
async fn by_presign(rig: &Rig, body: &Value) -> (Arrived, usize) {
    let request = Request::post("/alice/a/fetch/presign")
        .header("content-type", "application/json")
        .header("authorization", "Bearer operator");
    let reply = rig.send(request.body(body.to_string().into()).unwrap()).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let bytes = reply.body.unwrap();
    assert_eq!(reply.headers["content-length"], bytes.len().to_string().as_str());
    let answer: Plan = rmp_serde::from_slice(&bytes).unwrap();
    assert_eq!(answer.expires_in, 900);
    let (mut arrived, mut ranges) = (Arrived::default(), 0);
    for pack in &answer.packs {
        let end = pack.ranges.last().map_or(0, |(offset, len)| offset + len);
        let mut file = vec![None; end as usize];
        for (offset, len) in &pack.ranges {
            let range = format!("bytes={offset}-{}", offset + len - 1);
            let request = Request::get(format!("/alice/a/{}", pack.url)).header("range", range);
            let part = rig.send(request.body(axum::body::Body::empty()).unwrap()).await;
            assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
            let part = part.body.unwrap();
            assert_eq!(part.len() as u64, *len);
            part.iter().zip(&mut file[*offset as usize..]).for_each(|(byte, place)| *place = Some(*byte));
            ranges += 1;
        }
        read_rows(pack, &file, &mut arrived);
    }
    (arrived, ranges)
}

/// An answer to `fetch/presign`.
#[derive(serde::Deserialize)]
struct Plan {
    expires_in: u64,
    packs: Vec<Listed>,
}

#[derive(serde::Deserialize)]
struct Listed {
    pack: String,
    url: String,
    ranges: Vec<(u64, u64)>,
    rows: bin::Bin,
}

/// A bin, which serde takes for a sequence otherwise.
mod bin {
    use serde::de::{Deserialize, Deserializer, Error, Visitor};

    pub struct Bin(pub Vec<u8>);

    impl<'de> Deserialize<'de> for Bin {
        fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Bin, D::Error> {
            struct Reader;
            impl Visitor<'_> for Reader {
                type Value = Bin;

                fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    out.write_str("a bin")
                }

                fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bin, E> {
                    Ok(Bin(bytes.to_vec()))
                }
            }
            input.deserialize_bytes(Reader)
        }
    }
}

fn read_rows(pack: &Listed, file: &[Option<u8>], arrived: &mut Arrived) {
    let number = |row: &[u8], at: usize| u64::from_le_bytes(row[at..at + 8].try_into().unwrap());
    let rows: Vec<&[u8]> = pack.rows.0.chunks_exact(96).collect();
    assert!(!rows.is_empty() && rows.is_sorted_by_key(|row| (row[0], row[32..64].to_vec())));
    for row in &rows {
        let base = u32::from_le_bytes(row[4..8].try_into().unwrap());
        let place = |row: &[u8]| (number(row, 8), number(row, 16), number(row, 24));
        let (offset, stored_len, real_len) = place(row);
        let stored: Option<Vec<u8>> = file[offset as usize..][..stored_len as usize].iter().copied().collect();
        let codec = |byte: u8| match byte {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            _ => Codec::ZstdPrefix,
        };
        let record_hash = (row[0] != 0).then(|| RecordHash(row[64..].try_into().unwrap()));
        let kind = Kind::from_byte(row[0]).unwrap();
        let id = ObjectId(row[32..64].try_into().unwrap());
        let pack_id = PackId(pack.pack.parse::<ObjectId>().unwrap().0);
        let of = |(offset, stored_len, real_len), codec, base, record_hash| Location {
            pack: pack_id,
            offset,
            stored_len,
            real_len,
            codec,
            base,
            record_hash,
        };
        let base_payload = (base != u32::MAX).then(|| {
            let base = rows[base as usize];
            assert_eq!(base[0], row[0]);
            let (offset, len, _) = place(base);
            let stored: Vec<u8> = file[offset as usize..][..len as usize].iter().map(|byte| byte.unwrap()).collect();
            let location = of(place(base), codec(base[1]), None, Some(RecordHash(base[64..].try_into().unwrap())));
            decode_object(kind, ObjectId(base[32..64].try_into().unwrap()), &location, &stored, None).unwrap()
        });
        let location = of((offset, stored_len, real_len), codec(row[1]), None, record_hash);
        let payload = decode_object(kind, id, &location, &stored.expect("covered"), base_payload.as_deref()).unwrap();
        match kind {
            Kind::Blob => drop(arrived.blobs.insert(id.to_string(), payload.to_vec())),
            Kind::Snapshot => drop(arrived.snapshots.insert(id.to_string(), serde_json::from_slice(&payload).unwrap())),
            Kind::Commit => drop(arrived.commits.insert(id.to_string(), serde_json::from_slice(&payload).unwrap())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_as_data_is_enough_to_put_everything_together() {
    let rig = Rig::new(Limits::default()).await;
    let (mut history, mut ids) = story(12);
    rig.push_all("a", &history, "main").await;
    let files: [(&str, &[u8]); 3] =
        [("noise", &noise(7, 2 << 20)), ("a", &noise(8, 300_000)), ("b", &noise(9, 200_000))];
    ids.push(history.commit(&[&ids[11]], &files, "large"));
    rig.push_all("a", &history, "main").await;
    let tip = &ids[12];
    let (arrived, ranges) = by_presign(&rig, &json!({"want": [tip]})).await;
    arrived.check_is(&history);
    assert!(ranges <= 6, "whole packs: {ranges}");
    for have in [3, 8, 11] {
        let body = json!({"want": [tip], "have": [ids[have]]});
        let (arrived, _) = by_presign(&rig, &body).await;
        let pack = rig.pack("a", &body, &[]).await.body.unwrap();
        assert_eq!(arrived, Arrived::of(&pack), "as fetch/mpack, bases included");
    }
    // A base that is wanted from another pack, too.
    let (repo, view) = rig.hub.writable(&crate::hub::Caller::Operator, "alice", "a", false).await.unwrap();
    let at = |id: &str| view.locate(repo.scope, Kind::Snapshot, id.parse().unwrap()).unwrap().unwrap();
    let keyframe = history.snapshots.keys().find(|id| at(id).base.is_none() && at(id).stored_len > 500).unwrap();
    rig.hub.condemn(repo.scope, at(keyframe).pack, vec![(Kind::Snapshot, keyframe.parse().unwrap())], "a test");
    rig.push_all("a", &history, "main").await;
    by_presign(&rig, &json!({"want": [tip]})).await.0.check_is(&history);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_its_pack_in_its_repository_and_nothing_else() {
    let rig = Rig::new(Limits::default()).await;
    let (history, _, second) = two_commits();
    for repo in ["a", "b"] {
        rig.push_all(repo, &history, "main").await;
    }
    let request = Request::post("/alice/a/fetch/presign").header("content-type", "application/json");
    let reply = rig.send(request.body(json!({"want": [second]}).to_string().into()).unwrap()).await;
    let answer: Plan = rmp_serde::from_slice(&reply.body.unwrap()).unwrap();
    let (one, two) = (&answer.packs[0], &answer.packs[1]);
    let whole = rig.get(&format!("/alice/a/{}", one.url)).await;
    assert_eq!(whole.status, StatusCode::OK);
    let whole = whole.body.unwrap();
    assert_eq!(sha(&whole), one.pack);
    let nobody = rig.get("/alice/nobody/refs").await.text();
    let ticket = |listed: &Listed| listed.url.split('=').nth(1).unwrap().to_owned();
    let wrong = [
        ("a", format!("mpack/{}", one.pack)),
        ("a", format!("mpack/{}?ticket={}", two.pack, ticket(one))),
        ("a", format!("mpack/{}?ticket={}", one.pack, ticket(two))),
        ("b", one.url.clone()),
        ("a", format!("{}0", one.url)),
        ("a", format!("mpack/nonsense?ticket={}", ticket(one))),
    ];
    for (repo, url) in wrong {
        let reply = rig.get(&format!("/alice/{repo}/{url}")).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{url}");
        assert_eq!(reply.text().replace(&format!("alice/{repo} "), "alice/nobody "), nobody, "the words tell nothing");
    }
    let beyond = Request::get(format!("/alice/a/{}", one.url)).header("range", format!("bytes={}-", whole.len()));
    assert_eq!(
        rig.send(beyond.body(axum::body::Body::empty()).unwrap()).await.status,
        StatusCode::RANGE_NOT_SATISFIABLE
    );
}
