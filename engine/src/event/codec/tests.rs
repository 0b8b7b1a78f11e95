//! Promises of the event codec. Golden files: `UPDATE_GOLDEN=1 cargo test -p reprise-engine golden` writes new ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::print_stderr
)]
#![allow(clippy::disallowed_methods)]

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::{
    event::{
        Codec, CommitFacts, ObjectRow, ObjectsReceived, PacksRelocated, RefUpdate, RefsUpdated, ReleasePublished,
        ReleaseRetracted, RepoDeleted, RepoRecord, RowsCondemned, Scope, SnapshotFacts, TagRecord, TagsDeleted,
        TagsSet, TokenRecord, Visibility,
    },
    id::{Kind, ObjectId, PackId, RecordHash, RepoId, TableHash, TokenHash, TokenId},
};

fn header() -> EventHeader {
    EventHeader {
        time_ms: 1_773_662_400_123,
        push: PushId([0x22; 16]),
        fingerprint: 0x1122_3344_5566_7788,
        actor: "alice".to_owned(),
    }
}

fn object(byte: u8) -> ObjectId {
    ObjectId([byte; 32])
}

const REPO: RepoId = RepoId([0x11; 16]);
const PACK: PackId = PackId([0x33; 32]);

fn repo() -> RepoRecord {
    RepoRecord {
        repo: REPO,
        owner: "alice".to_owned(),
        slug: "etude".to_owned(),
        domain: "midi".to_owned(),
        default_branch: "main".to_owned(),
        visibility: Visibility::Private,
        created_ms: 1_773_662_400_000,
    }
}

fn row(kind: Kind, byte: u8, offset: u64, codec: Codec) -> ObjectRow {
    ObjectRow {
        kind,
        id: object(byte),
        offset,
        stored_len: 100,
        real_len: if codec == Codec::Raw { 100 } else { 70_000 },
        codec,
        base: (codec == Codec::ZstdPrefix).then_some(2),
        record_hash: (kind != Kind::Blob).then_some(RecordHash([byte ^ 0xff; 32])),
    }
}

fn received() -> ObjectsReceived {
    let snapshot = |byte| SnapshotFacts { id: object(byte), entries: 3, directories: 1, wire_len: 70_012 };
    ObjectsReceived {
        repo: REPO,
        pack: PACK,
        pack_bytes: 5_000_000_000,
        table_hash: TableHash([0x44; 32]),
        rows: vec![
            row(Kind::Blob, 1, 64, Codec::Raw),
            row(Kind::Blob, 2, 164, Codec::Zstd),
            row(Kind::Snapshot, 3, 264, Codec::Zstd),
            row(Kind::Snapshot, 4, 364, Codec::ZstdPrefix),
            row(Kind::Commit, 5, 4_999_999_000, Codec::Zstd),
        ],
        snapshots: vec![snapshot(3), snapshot(4)],
        commits: vec![CommitFacts {
            id: object(5),
            parents: vec![object(9), object(8)],
            snapshot: object(4),
            committed_at: "2026-03-16T12:00:00.000123+00:00".to_owned(),
            branch: "feat/x".to_owned(),
            author: "Älice".to_owned(),
            message: "zweite ✓".to_owned(),
            adds: vec![object(1), object(2)],
            wire_len: 1_234,
        }],
    }
}

fn token() -> TokenRecord {
    TokenRecord {
        token: TokenId([0x55; 16]),
        hash: TokenHash([0x66; 32]),
        owner: "alice".to_owned(),
        repo: Some("etude".to_owned()),
        scope: Scope::Write,
        issued_ms: 1,
        expires_ms: Some(u64::MAX),
    }
}

fn labels() -> [EventBody; 4] {
    let tag = TagRecord {
        tag_id: "t-1".to_owned(),
        tag: "emotion:joyful".to_owned(),
        commit: object(5),
        created_at: "2026-03-17T00:00:00+00:00".to_owned(),
    };
    let release = ReleasePublished {
        repo: REPO,
        tag: "v1.0.0".to_owned(),
        channel: "stable".to_owned(),
        is_draft: true,
        record: b"{\"tag\":\"v1.0.0\"}".to_vec(),
    };
    [
        EventBody::TagsSet(TagsSet { repo: REPO, tags: vec![tag] }),
        EventBody::TagsDeleted(TagsDeleted { repo: REPO, tags: vec!["a".to_owned(), "b".to_owned()] }),
        EventBody::ReleasePublished(release),
        EventBody::ReleaseRetracted(ReleaseRetracted { repo: REPO, tag: "v1.0.0".to_owned() }),
    ]
}

/// One of each kind, in the order of the table.
fn samples() -> Vec<EventBody> {
    let refs = vec![
        RefUpdate { name: "feat/x".to_owned(), old: None, new: Some(object(5)), forced: false },
        RefUpdate { name: "main".to_owned(), old: Some(object(9)), new: None, forced: true },
    ];
    let mut samples = vec![
        EventBody::RepoCreated(repo()),
        EventBody::RepoUpdated(RepoRecord { visibility: Visibility::Public, ..repo() }),
        EventBody::RepoDeleted(RepoDeleted { repo: REPO, owner: "alice".to_owned(), slug: "etude".to_owned() }),
        EventBody::ObjectsReceived(received()),
        EventBody::RefsUpdated(RefsUpdated { repo: REPO, updates: refs }),
    ];
    samples.extend(labels());
    samples.extend([
        EventBody::TokenIssued(token()),
        EventBody::TokenRevoked(TokenRecord { repo: None, expires_ms: None, scope: Scope::Admin, ..token() }),
        EventBody::RowsCondemned(RowsCondemned {
            repo: REPO,
            pack: PACK,
            rows: vec![(Kind::Blob, object(2)), (Kind::Commit, object(1))],
            reason: "does not hash to its id".to_owned(),
        }),
        EventBody::PacksRelocated(PacksRelocated {
            packs: vec![(PACK, Some("s3://b/k".to_owned())), (PackId([0; 32]), None)],
        }),
    ]);
    samples
}

fn encoded(body: &EventBody) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&header(), body, &mut bytes).unwrap();
    bytes
}

fn golden_path(kind: &EventKind, version: u8) -> PathBuf {
    let name = format!("{}-v{version}.bin", kind.name);
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../snapshots/events").join(name)
}

#[test]
fn the_table_has_one_row_per_kind_in_order() {
    let samples = samples();
    assert_eq!(samples.len(), KINDS.len());
    for (index, body) in samples.iter().enumerate() {
        assert_eq!(EventKind::of(body), &KINDS[index]);
        assert_eq!(usize::from(KINDS[index].number), index + 1);
    }
}

#[test]
fn every_kind_is_written_as_its_golden_bytes() {
    for body in samples() {
        let kind = EventKind::of(&body);
        let path = golden_path(kind, kind.version);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, encoded(&body)).unwrap();
        }
        assert_eq!(encoded(&body), std::fs::read(&path).unwrap(), "{} has changed its bytes", kind.name);
    }
}

#[test]
fn every_listed_version_has_golden_bytes_and_decodes_to_the_current_value() {
    for (kind, body) in KINDS.iter().zip(samples()) {
        for version in 1..=kind.version {
            let bytes = std::fs::read(golden_path(kind, version)).unwrap();
            assert_eq!(bytes[..2], [kind.number, version]);
            let (event, fingerprint) = decode(Position(7), &bytes).unwrap();
            assert_eq!((event.position, event.time_ms, event.push), (Position(7), header().time_ms, header().push));
            assert_eq!((event.actor, fingerprint, event.body), (header().actor, header().fingerprint, body.clone()));
        }
    }
}

#[test]
fn a_newer_kind_or_version_is_refused_before_anything_else() {
    for bytes in [[14, 1], [1, 2], [0, 1], [255, 255], [4, 0]] {
        let error = decode(Position(3), &bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("event 3 was written by a newer version"), "{error}");
    }
}

#[test]
fn every_truncation_and_every_extra_byte_is_damage() {
    for body in samples() {
        let mut bytes = encoded(&body);
        for len in 0..bytes.len() {
            assert!(decode(Position(1), &bytes[..len]).unwrap_err().is_corrupt(), "{} of {}", len, bytes.len());
        }
        bytes.push(0);
        assert!(decode(Position(1), &bytes).unwrap_err().to_string().contains("left over"));
    }
}

#[test]
fn a_length_that_lies_reserves_nothing() {
    let mut bytes = encoded(&labels()[1]);
    let tags = HEADER_BYTES + header().actor.len() + 16;
    assert_eq!(bytes[tags], 2, "the number of labels");
    bytes.splice(tags..=tags, [253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(decode(Position(1), &bytes).unwrap_err().to_string().contains("Limit"));
}

#[test]
fn an_actor_that_is_too_long_is_refused_and_leaves_the_buffer_alone() {
    let mut bytes = vec![7];
    let header = EventHeader { actor: "a".repeat(ACTOR_BYTES_MAX + 1), ..header() };
    let error = encode(&header, &labels()[3], &mut bytes).unwrap_err();
    assert!(error.to_string().contains("limit of 255"));
    assert_eq!(bytes, [7]);
}

/// Applies `spoil` to a sound event and expects the refusal both when encoding and when decoding.
fn check_spoiled(text: &str, spoil: impl FnOnce(&mut ObjectsReceived)) {
    let mut spoiled = received();
    assert!(spoiled.check().is_ok());
    spoil(&mut spoiled);
    let body = EventBody::ObjectsReceived(spoiled);
    let error = encode(&header(), &body, &mut Vec::new()).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(text), "{error} should contain {text}");
    let mut bytes = encoded(&EventBody::ObjectsReceived(received()))[..HEADER_BYTES + 5].to_vec();
    encode_body(&body, &mut bytes).unwrap();
    assert!(decode(Position(1), &bytes).unwrap_err().is_corrupt(), "{text}");
}

#[test]
fn rows_and_facts_that_do_not_fit_together_are_refused() {
    check_spoiled("rows of an event", |event| event.rows.swap(0, 1));
    check_spoiled("rows of an event", |event| event.rows[1].id = event.rows[0].id);
    check_spoiled("pass the pack's", |event| event.rows[4].offset = event.pack_bytes - 99);
    check_spoiled("pass the pack's", |event| event.rows[4].offset = u64::MAX);
    check_spoiled("stored raw", |event| event.rows[0].real_len = 99);
    check_spoiled("over the limit of 268435456", |event| event.rows[1].real_len = (256 << 20) + 1);
    check_spoiled("over the limit of 33554432", |event| event.rows[2].real_len = (32 << 20) + 1);
    check_spoiled("record hash", |event| event.rows[0].record_hash = event.rows[2].record_hash);
    check_spoiled("record hash", |event| event.rows[4].record_hash = None);
    check_spoiled("base", |event| event.rows[3].base = Some(3));
    check_spoiled("base", |event| event.rows[3].base = Some(99));
    check_spoiled("base", |event| event.rows[3].base = None);
    check_spoiled("base", |event| event.rows[1].base = Some(0));
    check_spoiled("snapshot facts", |event| event.snapshots.swap(0, 1));
    check_spoiled("commit facts", |event| event.commits.clear());
    check_spoiled("over the limit of 262144", |event| event.snapshots[0].entries = 262_145);
    check_spoiled("parents are over the limit of 2", |event| event.commits[0].parents.push(object(1)));
    check_spoiled("message are over the limit of 4096", |event| event.commits[0].message = "a".repeat(4_097));
    check_spoiled("added blobs", |event| event.commits[0].adds.swap(0, 1));
}

#[test]
fn lists_of_names_are_in_order() {
    let twice = vec!["a".to_owned(), "a".to_owned()];
    assert!(EventBody::TagsDeleted(TagsDeleted { repo: REPO, tags: twice }).check().is_err());
    let updates = ["b", "a"].map(|name| RefUpdate { name: name.to_owned(), old: None, new: None, forced: false });
    assert!(EventBody::RefsUpdated(RefsUpdated { repo: REPO, updates: updates.into() }).check().is_err());
}

proptest! {
    #[test]
    fn damaged_bytes_never_panic_and_what_decodes_is_canonical_or_refused(
        which in 0usize..13, at in any::<prop::sample::Index>(), flip in 1u8..,
    ) {
        let mut bytes = encoded(&samples()[which]);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok((event, fingerprint)) = decode(Position(1), &bytes) {
            let header = EventHeader { time_ms: event.time_ms, push: event.push, fingerprint, actor: event.actor.clone() };
            let mut again = Vec::new();
            encode(&header, &event.body, &mut again).unwrap();
            prop_assert_eq!(decode(Position(1), &again).unwrap(), (event, fingerprint));
        }
    }

    #[test]
    fn any_rows_come_back_as_they_were(sizes in prop::collection::btree_map(any::<[u8; 32]>(), 0u64..1 << 28, 0..40)) {
        let mut event = received();
        (event.snapshots, event.commits) = (Vec::new(), Vec::new());
        event.pack_bytes = u64::MAX;
        event.rows = sizes.iter().map(|(id, len)| ObjectRow {
            kind: Kind::Blob, id: ObjectId(*id), offset: len << 30, stored_len: *len, real_len: *len,
            codec: Codec::Raw, base: None, record_hash: None,
        }).collect();
        let body = EventBody::ObjectsReceived(event);
        prop_assert_eq!(decode(Position(1), &encoded(&body)).unwrap().0.body, body);
    }
}

/// Prints figures; run by hand: `cargo test --release -p reprise-engine --lib figures -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a promise"]
fn figures_of_1_000_000_rows() {
    let mut event = received();
    (event.snapshots, event.commits) = (Vec::new(), Vec::new());
    event.pack_bytes = 1 << 40;
    event.rows = (0..10_000u32)
        .map(|n| {
            let mut row = row(Kind::Blob, 0, u64::from(n) * 4_200, Codec::Zstd);
            row.id.0[..4].copy_from_slice(&n.to_be_bytes());
            (row.stored_len, row.real_len) = (4_100, 4_800);
            row
        })
        .collect();
    let body = EventBody::ObjectsReceived(event);
    let bytes = encoded(&body);
    for _ in 0..3 {
        let started = std::time::Instant::now();
        let rows: usize = (0..100)
            .map(|_| match decode(Position(1), &bytes).unwrap().0.body {
                EventBody::ObjectsReceived(event) => event.rows.len(),
                _ => 0,
            })
            .sum();
        let decoding = started.elapsed();
        let started = std::time::Instant::now();
        let total: usize = (0..100).map(|_| encoded(&body).len()).sum();
        eprintln!(
            "{rows} rows: {} ns per row to decode, {} ns to encode, {} bytes per row",
            decoding.as_nanos() / rows as u128,
            started.elapsed().as_nanos() / rows as u128,
            total / rows
        );
    }
}
