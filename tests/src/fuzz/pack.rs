//! Pack files: described, verified, salvaged, read object by object and by ranges.
//!
//! The promise: whatever verification passes reads back; whatever salvage calls good reads back; ranges give exactly what
//! single reads give; no two entries of one table have one name; what is whole when read front to back is whole in every part.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use reprise_engine::{
    event::ObjectRow,
    id::{Kind, ObjectId, PackId, PushId, RecordHash, RepoId},
    limits::PACK_ROWS_MAX,
    pack::{
        Arriving, PackOrigin, PackWriter, Payload, PlanItem, RangeReader, Wanted, describe, location_of, plan_ranges,
        read_object, salvage, verify,
    },
    store::{ObjectStore, StoreKey, memory::MemoryStore},
};
use sha2::{Digest, Sha256};

use super::{corpus, forge, log, split};

pub(super) fn pack(input: &[u8]) {
    let (how, bytes) = split(input);
    let mut bytes = bytes.to_vec();
    forge::pack(&mut bytes, how);
    let pack = PackId(Sha256::digest(&bytes).into());
    let store = MemoryStore::new();
    let arrived = arrives(&bytes, pack);
    store.overwrite(&StoreKey::pack(pack), bytes.into());
    if let Some(rows) = arrived {
        check_arrived(&store, pack, &rows);
    }
    check_table(&store, pack);
    check_salvage(&store, pack);
}

/// The table of a pack that is whole when it is read front to back.
fn arrives(bytes: &[u8], pack: PackId) -> Option<Vec<ObjectRow>> {
    let mut arriving = Arriving::open(bytes, pack, PACK_ROWS_MAX).ok()?;
    while arriving.next().ok()?.is_some() {}
    Some(arriving.into_table().expect("it came whole").0)
}

fn check_arrived(store: &MemoryStore, pack: PackId, rows: &[ObjectRow]) {
    let damaged = &mut |kind, id, reason| panic!("{kind} {id} arrived whole, and is damaged: {reason}");
    let verified = verify(store, pack, damaged).expect("what arrived whole verifies");
    assert_eq!(verified.stored.rows, rows);
    let salvaged = salvage(store, pack, &mut |_, reason| panic!("it arrived whole: {reason}"));
    let salvaged = salvaged.expect("what arrived whole has its preambles");
    assert!(salvaged.complete && salvaged.rows == rows);
}

fn check_table(store: &MemoryStore, pack: PackId) {
    let mut bad = BTreeSet::new();
    let verified = verify(store, pack, &mut |kind, id, _| {
        bad.insert((kind, id));
    });
    let Ok(description) = describe(store, pack) else {
        assert!(verified.is_err_and(|error| error.is_corrupt()), "without a table nothing passes");
        return;
    };
    let rows = &description.stored.rows;
    check_names(rows);
    let whole = verified.is_ok();
    for index in 0..rows.len().min(ROWS_READ) {
        let row = &rows[index];
        match read(store, pack, rows, index) {
            Ok(payload) => assert_eq!(payload.len() as u64, row.real_len),
            Err(error) => {
                assert!(error.is_corrupt(), "{error}");
                assert!(!whole || bad.contains(&(row.kind, row.id)), "verified, and not readable: {error}");
            }
        }
    }
    if let Ok(verified) = verified {
        assert_eq!(verified, description);
        check_ranges(store, pack, rows);
    }
}

fn check_salvage(store: &MemoryStore, pack: PackId) {
    let salvaged = match salvage(store, pack, &mut |_, reason| assert!(!reason.is_empty())) {
        Ok(salvaged) => salvaged,
        Err(error) => return assert!(error.is_corrupt(), "{error}"),
    };
    check_names(&salvaged.rows);
    for index in 0..salvaged.rows.len().min(ROWS_READ) {
        read(store, pack, &salvaged.rows, index).expect("what was salvaged as good reads back");
    }
}

fn check_names(rows: &[ObjectRow]) {
    assert!(rows.is_sorted_by_key(|row| (row.kind, row.id)), "rows are in order");
    let names: BTreeSet<_> = rows.iter().map(|row| (row.kind, row.id)).collect();
    assert_eq!(names.len(), rows.len(), "no name stands twice");
}

fn check_ranges(store: &MemoryStore, pack: PackId, rows: &[ObjectRow]) {
    let of =
        |index: usize| Wanted { kind: rows[index].kind, id: rows[index].id, location: location_of(pack, rows, index) };
    let mut wanted: Vec<Wanted> = (0..rows.len().min(ROWS_READ)).map(of).collect();
    wanted.sort_by_key(|wanted| wanted.location.offset);
    let plan = plan_ranges(wanted.iter().map(|wanted| PlanItem::of(wanted.kind, &wanted.location)));
    let shared: Arc<dyn ObjectStore> = Arc::new(store.clone());
    for (wanted, payload) in RangeReader::new(shared, plan.ranges, wanted.into_iter()) {
        let alone = read_object(store, wanted.kind, wanted.id, &wanted.location).ok();
        let in_range = payload.ok().and_then(|payload| match payload {
            Payload::Whole(bytes) => Some(bytes),
            Payload::Pieces(pieces) => {
                pieces.collect::<Result<Vec<Bytes>, _>>().ok().map(|pieces| pieces.concat().into())
            }
        });
        assert_eq!(in_range, alone, "{} {}", wanted.kind, wanted.id);
    }
}

fn read(store: &MemoryStore, pack: PackId, rows: &[ObjectRow], index: usize) -> reprise_engine::Result<Bytes> {
    read_object(store, rows[index].kind, rows[index].id, &location_of(pack, rows, index))
}

/// The golden pack and small ones: as they are, and to be made right.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut files = corpus::kept(&log::golden("packs"));
    files.push(made(&[]));
    files.push(made(&[(Kind::Blob, b"one")]));
    files.push(made(&[(Kind::Blob, &b"la la ".repeat(30)), (Kind::Snapshot, &b"path and id, ".repeat(20))]));
    files.push(streamed(&b"piece by piece, ".repeat(90_000)));
    files.push(streamed(&[]));
    let with = |how: u8| files.iter().map(move |file| [&[how], &file[..]].concat());
    with(0).chain(with(u8::MAX)).collect()
}

fn writer(store: &MemoryStore) -> PackWriter {
    let origin = PackOrigin { repo: RepoId([1; 16]), push: PushId([2; 16]), nonce: [3; 16] };
    PackWriter::new(store.stage().expect("a store in memory"), origin).expect("a store in memory")
}

fn finished(store: &MemoryStore, writer: PackWriter) -> Vec<u8> {
    let stored = writer.finish().expect("a sound pack");
    store.read(&StoreKey::pack(stored.pack), 0, stored.bytes).expect("what was stored").to_vec()
}

fn made(objects: &[(Kind, &[u8])]) -> Vec<u8> {
    let store = MemoryStore::new();
    let mut writer = writer(&store);
    for (kind, payload) in objects {
        let id = ObjectId(Sha256::digest(payload).into());
        let canonical = [format!("{kind} {}\0", payload.len()).as_bytes(), payload].concat();
        let hash = RecordHash(Sha256::digest(canonical).into());
        let added = match kind {
            Kind::Blob => writer.add_blob(id, payload),
            _ => writer.add_record(*kind, id, hash, payload),
        };
        added.expect("a sound object");
    }
    finished(&store, writer)
}

fn streamed(payload: &[u8]) -> Vec<u8> {
    let store = MemoryStore::new();
    let mut writer = writer(&store);
    let mut blob = writer.begin_blob(payload.len() as u64).expect("a sound length");
    blob.write(payload).expect("a store in memory");
    blob.finish(ObjectId(Sha256::digest(payload).into())).expect("a sound blob");
    finished(&store, writer)
}

/// Rows that are read one by one: each may be megabytes out of a few bytes.
const ROWS_READ: usize = 16;
