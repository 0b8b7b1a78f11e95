//! Plans and readers over real packs.

use super::*;

fn wanted_of(stored: &StoredPack, keep: impl Fn(&ObjectRow) -> bool) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = (0..stored.rows.len())
        .filter(|index| keep(&stored.rows[*index]))
        .map(|index| Wanted {
            kind: stored.rows[index].kind,
            id: stored.rows[index].id,
            location: location_of(stored.pack, &stored.rows, index),
        })
        .collect();
    wanted.sort_by_key(|wanted| wanted.location.offset);
    wanted
}

fn plan_of(wanted: &[Wanted]) -> ReadPlan {
    plan_ranges(wanted.iter().map(|wanted| PlanItem::of(wanted.kind, &wanted.location)))
}

fn drain(payload: crate::error::Result<Payload>) -> crate::error::Result<Vec<u8>> {
    match payload? {
        Payload::Whole(bytes) => Ok(bytes.to_vec()),
        Payload::Pieces(pieces) => Ok(pieces.collect::<crate::error::Result<Vec<Bytes>>>()?.concat()),
    }
}

fn check_reading(store: &MemoryStore, objects: &[Object], wanted: Vec<Wanted>) -> (u64, u64) {
    let plan = plan_of(&wanted);
    let expected = wanted.len();
    let mut reader = RangeReader::new(shared(store), plan.ranges, wanted.into_iter());
    let mut count = 0;
    for (wanted, payload) in reader.by_ref() {
        let object = objects.iter().find(|object| object.id == wanted.id).unwrap();
        assert!(drain(payload).unwrap() == object.payload);
        count += 1;
    }
    assert_eq!(count, expected);
    if reader.base_reads() == 0 {
        assert_eq!(reader.bytes_read(), plan.bytes);
    }
    (plan.reads, reader.base_reads())
}

#[test]
fn all_objects_of_several_packs_come_in_plan_order_with_few_reads() {
    let store = MemoryStore::new();
    let (mut objects, mut wanted) = (Vec::new(), Vec::new());
    for pack in 0..3u64 {
        let mut mine: Vec<Object> = (0..200).map(|seed| blob(noise(pack * 1_000 + seed, 4_096))).collect();
        mine.extend((0..70).map(|version| record(Kind::Snapshot, manifest(version + pack, 60 + pack as usize))));
        let stored = pack_of(&store, pack as u8, &mine);
        wanted.extend(wanted_of(&stored, |_| true));
        objects.extend(mine);
    }
    assert_eq!(check_reading(&store, &objects, wanted), (3, 0));
}

#[test]
fn a_delta_alone_reads_its_base_once() {
    let store = MemoryStore::new();
    let objects: Vec<Object> = (0..20).map(|version| record(Kind::Snapshot, manifest(version, 60))).collect();
    let stored = pack_of(&store, 1, &objects);
    let (_, bases) = check_reading(&store, &objects, wanted_of(&stored, |row| row.base.is_some()));
    assert_eq!(bases, 1);
}

#[test]
fn large_blobs_come_in_pieces_between_small_ones() {
    let store = MemoryStore::new();
    let objects = [noise(1, 100), noise(2, 3 << 20), noise(3, 100), b"abc ".repeat(600_000), noise(4, 50)].map(blob);
    let stored = pack_of(&store, 1, &objects);
    check_reading(&store, &objects, wanted_of(&stored, |_| true));
}

#[test]
fn the_last_piece_of_a_damaged_blob_is_never_yielded() {
    for payload in [noise(1, 3 << 20), b"some text, some more text ".repeat(150_000)] {
        let store = MemoryStore::new();
        let object = blob(payload);
        let stored = pack_of(&store, 1, std::slice::from_ref(&object));
        let mut file = file_of(&store, &stored);
        file[stored.rows[0].offset as usize + 40] ^= 4;
        store.overwrite(&StoreKey::pack(stored.pack), Bytes::from(file));
        let pieces = open_blob_stream(shared(&store), object.id, &location_of(stored.pack, &stored.rows, 0)).unwrap();
        let (mut good, mut errors) = (0, 0);
        for piece in pieces {
            match piece {
                Ok(piece) => good += piece.len(),
                Err(error) => {
                    assert!(error.is_corrupt());
                    errors += 1;
                }
            }
        }
        assert_eq!(errors, 1);
        assert!(good < object.payload.len());
    }
}

#[test]
fn one_damaged_object_of_a_range_does_not_hide_the_others() {
    let store = MemoryStore::new();
    let objects: Vec<Object> = (0..10).map(|seed| blob(noise(seed, 500))).collect();
    let stored = pack_of(&store, 1, &objects);
    let mut file = file_of(&store, &stored);
    file[stored.rows[4].offset as usize] ^= 1;
    file.truncate(stored.rows.iter().map(|row| row.offset).max().unwrap() as usize + 10);
    store.overwrite(&StoreKey::pack(stored.pack), Bytes::from(file));
    let wanted = wanted_of(&stored, |_| true);
    let ranges = plan_of(&wanted).ranges;
    let reader = RangeReader::new(shared(&store), ranges, wanted.into_iter());
    let bad = reader.filter(|(_, payload)| payload.as_ref().is_err_and(crate::error::Error::is_corrupt)).count();
    let flipped_is_cut = stored.rows[4].offset == stored.rows.iter().map(|row| row.offset).max().unwrap();
    assert_eq!(bad, if flipped_is_cut { 1 } else { 2 });
}
