//! T3 over a pack, and hostile files: damage is detected or harmless, never silent; no length is believed.

use super::*;

/// What describe, verify and reading every row say about `bytes` put under the name of `stored`. Panics if damage is
/// silent: a wrong payload, or a changed file that verifies.
fn judge(stored: &StoredPack, objects: &[Object], bytes: Vec<u8>) {
    let store = MemoryStore::new();
    let intact = Sha256::digest(&bytes)[..] == stored.pack.0;
    store.overwrite(&StoreKey::pack(stored.pack), Bytes::from(bytes));
    let mut found = 0;
    let verified = verify(&store, stored.pack, &mut |_, _, _| found += 1);
    assert!(intact || verified.is_err() || found > 0, "verify says nothing about a changed file");
    if let Ok(described) = describe(&store, stored.pack) {
        assert_eq!((described.origin, &described.stored), (origin(1), stored), "a changed table was believed");
    }
    for (row, payload) in stored.rows.iter().zip(read_all(&store, stored)) {
        match payload {
            Ok(payload) => assert_eq!(payload, payload_of(objects, row), "wrong bytes were returned"),
            Err(error) => assert!(error.is_corrupt() && error.file().is_some() && error.offset().is_some(), "{error}"),
        }
    }
    if let Ok(salvaged) = salvage(&store, stored.pack, &mut |_, _| ()) {
        for row in salvaged.rows {
            let known = stored.rows.iter().any(|other| {
                (other.kind, other.id, other.offset, other.record_hash)
                    == (row.kind, row.id, row.offset, row.record_hash)
            });
            assert!(known, "salvage made up {} {}", row.kind, row.id);
        }
    }
}

#[test]
fn every_flipped_byte_is_detected_or_harmless() {
    let store = MemoryStore::new();
    let objects = mixed();
    let stored = pack_of(&store, 1, &objects);
    let file = file_of(&store, &stored);
    for at in 0..file.len() {
        let mut bytes = file.clone();
        bytes[at] ^= 1 << (at % 8);
        judge(&stored, &objects, bytes);
    }
}

#[test]
fn every_truncation_is_detected() {
    let store = MemoryStore::new();
    let objects = mixed();
    let stored = pack_of(&store, 1, &objects);
    let file = file_of(&store, &stored);
    for len in 0..file.len() {
        judge(&stored, &objects, file[..len].to_vec());
    }
}

#[test]
fn zeroed_runs_and_swapped_entries_are_detected() {
    let store = MemoryStore::new();
    let objects = mixed();
    let stored = pack_of(&store, 1, &objects);
    let file = file_of(&store, &stored);
    for at in (0..file.len() - 128).step_by(64) {
        let mut bytes = file.clone();
        bytes[at..at + 128].fill(0);
        judge(&stored, &objects, bytes);
        let mut bytes = file.clone();
        let (left, right) = bytes[at..at + 128].split_at_mut(64);
        left.swap_with_slice(right);
        judge(&stored, &objects, bytes);
    }
}

#[test]
fn a_pack_without_its_trailer_is_salvaged_up_to_the_first_loss() {
    let store = MemoryStore::new();
    let stored = pack_of(&store, 1, &mixed());
    let file = file_of(&store, &stored);
    let last = stored.rows.iter().max_by_key(|row| row.offset).unwrap();
    let cut = (last.offset + last.stored_len) as usize;
    let broken = MemoryStore::new();
    broken.overwrite(&StoreKey::pack(stored.pack), Bytes::copy_from_slice(&file[..cut]));
    let salvaged = salvage(&broken, stored.pack, &mut |at, why| panic!("{at}: {why}")).unwrap();
    assert_eq!((&salvaged.rows, salvaged.complete), (&stored.rows, false));
    // A damaged entry is listed and the rest still found.
    let mut bytes = file;
    let raw = stored.rows.iter().find(|row| row.real_len == 300).unwrap();
    bytes[raw.offset as usize] ^= 1;
    broken.overwrite(&StoreKey::pack(stored.pack), Bytes::from(bytes));
    let mut listed = Vec::new();
    let salvaged = salvage(&broken, stored.pack, &mut |at, _| listed.push(at)).unwrap();
    assert_eq!((listed, salvaged.rows.len(), salvaged.complete), (vec![raw.offset], stored.rows.len() - 1, true));
}

/// Both copies verify; salvage listed both, and a table may not.
#[test]
fn an_entry_that_stands_twice_is_salvaged_once() {
    let store = MemoryStore::new();
    let stored = pack_of(&store, 1, &[blob(b"twice".to_vec()), blob(b"once".to_vec())]);
    let file = file_of(&store, &stored);
    let first = layout::HEADER_BYTES..layout::HEADER_BYTES + layout::PREAMBLE_BYTES + b"twice".len();
    let doubled = [&file[..first.end], &file[first]].concat();
    store.overwrite(&StoreKey::pack(stored.pack), Bytes::from(doubled));
    let mut told = Vec::new();
    let salvaged = salvage(&store, stored.pack, &mut |_, why| told.push(why)).unwrap();
    assert_eq!(salvaged.rows.iter().map(|row| row.id).collect::<Vec<_>>(), [blob(b"twice".to_vec()).id]);
    assert!(matches!(&told[..], [why] if why.contains("stands before it")), "{told:?}");
}

#[test]
fn a_footer_with_a_lying_count_or_offset_allocates_nothing() {
    let store = MemoryStore::new();
    let stored = pack_of(&store, 1, &mixed());
    let file = file_of(&store, &stored);
    let at = file.len() - layout::FOOTER_BYTES;
    for (field, value) in [(16, u64::from(u32::MAX)), (0, u64::MAX), (8, u64::MAX), (0, 0), (0, 1 << 40), (8, 96)] {
        let mut bytes = file.clone();
        let width = if field == 16 { 4 } else { 8 };
        bytes[at + field..at + field + width].copy_from_slice(&value.to_le_bytes()[..width]);
        let crc = crc32c::crc32c(&bytes[at..at + 88]);
        bytes[at + 88..at + 92].copy_from_slice(&crc.to_le_bytes());
        store.overwrite(&StoreKey::pack(stored.pack), Bytes::from(bytes));
        assert!(describe(&store, stored.pack).unwrap_err().is_corrupt(), "{field} = {value}");
    }
}

#[test]
fn rows_with_impossible_fields_are_refused_though_every_hash_fits() {
    let store = MemoryStore::new();
    let stored = pack_of(&store, 1, &mixed());
    let broken: [fn(&mut Vec<ObjectRow>); 8] = [
        |rows| rows[0].offset = u64::MAX,
        |rows| rows[0].stored_len = u64::MAX,
        |rows| rows[0].real_len = u64::MAX,
        |rows| rows[0].offset = 3,
        |rows| rows.swap(0, 1),
        |rows| rows[1] = rows[0].clone(),
        |rows| rows.iter_mut().for_each(|row| row.base = row.base.map(|_| u32::MAX - 1)),
        |rows| {
            let delta = rows.iter().position(|row| row.base.is_some()).unwrap();
            rows[delta].base = Some(delta as u32);
        },
    ];
    for (case, change) in broken.iter().enumerate() {
        let mut rows = stored.rows.clone();
        change(&mut rows);
        let file = file_of(&store, &stored);
        let hostile = MemoryStore::new();
        hostile.overwrite(&StoreKey::pack(stored.pack), Bytes::from(with_table(&file, &rows)));
        assert!(describe(&hostile, stored.pack).unwrap_err().is_corrupt(), "case {case}");
    }
}

/// The file with another table, every hash and checksum right.
fn with_table(file: &[u8], rows: &[ObjectRow]) -> Vec<u8> {
    let at = file.len() - layout::FOOTER_BYTES;
    let mut footer = layout::Footer::decode("test", &file[at..], file.len() as u64).unwrap();
    let table: Vec<u8> = rows.iter().flat_map(layout::encode_row).collect();
    footer.table_hash = Sha256::digest(&table).into();
    [&file[..footer.table_offset as usize], &table, &footer.encode()].concat()
}

#[test]
fn a_decompression_bomb_stops_at_the_real_length() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let id = ObjectId([0; 32]);
    for real_len in [0, 1, 4096, 1 << 20] {
        let location = Location {
            pack: PackId([0; 32]),
            offset: 128,
            stored_len: bomb.len() as u64,
            real_len,
            codec: Codec::Zstd,
            base: None,
            record_hash: None,
        };
        assert!(decode_object(Kind::Blob, id, &location, &bomb, None).unwrap_err().is_corrupt());
        let store = MemoryStore::new();
        let file = [&[0; 128][..], &bomb].concat();
        store.overwrite(&StoreKey::pack(location.pack), Bytes::from(file));
        let made: u64 = match open_blob_stream(shared(&store), id, &location) {
            Ok(pieces) => pieces.map_while(Result::ok).map(|piece| piece.len() as u64).sum(),
            Err(_) => 0,
        };
        assert!(made <= real_len, "{made} bytes came out of {real_len}");
    }
}
