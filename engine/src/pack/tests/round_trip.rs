//! What goes in comes out, under every codec and size; refusals of the writer.

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

fn check_round_trip(objects: &[Object]) -> StoredPack {
    let store = MemoryStore::new();
    let stored = pack_of(&store, 3, objects);
    assert_eq!(stored.rows.len(), objects.len());
    for (row, payload) in stored.rows.iter().zip(read_all(&store, &stored)) {
        assert_eq!(payload.unwrap(), payload_of(objects, row));
    }
    let described = describe(&store, stored.pack).unwrap();
    assert_eq!((described.origin, &described.stored), (origin(3), &stored));
    assert_eq!(verify(&store, stored.pack, &mut no_damage).unwrap().stored, stored);
    let salvaged = salvage(&store, stored.pack, &mut |at, why| panic!("{at}: {why}")).unwrap();
    assert_eq!((&salvaged.rows, salvaged.complete), (&stored.rows, true));
    stored
}

fn any_object() -> impl Strategy<Value = Object> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        (any::<u8>(), 0usize..5_000).prop_map(|(byte, len)| vec![byte; len]),
        (any::<u64>(), 0usize..5_000).prop_map(|(seed, len)| noise(seed, len)),
        (0u64..40, 1usize..40).prop_map(|(version, paths)| manifest(version, paths)),
    ];
    (0u8..3, bytes).prop_map(|(kind, payload)| match kind {
        0 => blob(payload),
        1 => record(Kind::Snapshot, payload),
        _ => record(Kind::Commit, payload),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_goes_in_comes_out(objects in proptest::collection::vec(any_object(), 0..30)) {
        let mut objects = objects;
        objects.sort_by_key(|object| (object.kind, object.id));
        objects.dedup_by_key(|object| (object.kind, object.id));
        check_round_trip(&objects);
    }
}

#[test]
fn an_empty_pack_and_one_of_each_codec_round_trip() {
    check_round_trip(&[]);
    let stored = check_round_trip(&mixed());
    for codec in [Codec::Raw, Codec::Zstd, Codec::ZstdPrefix] {
        assert!(stored.rows.iter().any(|row| row.codec == codec), "{codec:?}");
    }
}

#[test]
fn snapshots_of_one_push_are_small_against_their_keyframe() {
    let objects: Vec<Object> = (0..130).map(|version| record(Kind::Snapshot, manifest(version, 400))).collect();
    let stored = check_round_trip(&objects);
    let count = |codec| stored.rows.iter().filter(|row| row.codec == codec).count();
    assert_eq!((count(Codec::Zstd), count(Codec::ZstdPrefix)), (3, 127));
    let keyframe = stored.rows.iter().find(|row| row.codec == Codec::Zstd).unwrap().stored_len;
    assert!(stored.rows.iter().all(|row| row.base.is_none() || row.stored_len * 20 < keyframe), "keyframe {keyframe}");
}

#[test]
fn a_snapshot_unlike_its_keyframe_becomes_the_next_one() {
    let strangers: Vec<Object> = (0..3).map(|seed| record(Kind::Snapshot, noise(seed, 2_000))).collect();
    let stored = check_round_trip(&strangers);
    assert!(stored.rows.iter().all(|row| row.codec == Codec::Raw));
}

#[test]
fn a_blob_in_pieces_is_the_same_as_whole_ones_at_every_size_and_kind_of_content() {
    let store = MemoryStore::new();
    let text = b"the quick brown fox ".repeat(150_000);
    let objects = [Vec::new(), vec![7; 1 << 20], noise(4, 1 << 20), text.clone(), noise(5, 2_500_000)].map(blob);
    let mut writer = PackWriter::new(store.stage().unwrap(), origin(1)).unwrap();
    for object in &objects {
        let mut pieces = writer.begin_blob(object.payload.len() as u64).unwrap();
        object.payload.chunks(77_777).for_each(|piece| pieces.write(piece).unwrap());
        pieces.finish(object.id).unwrap();
    }
    let stored = writer.finish().unwrap();
    verify(&store, stored.pack, &mut no_damage).unwrap();
    let salvaged = salvage(&store, stored.pack, &mut |at, why| panic!("{at}: {why}")).unwrap();
    assert_eq!((&salvaged.rows, salvaged.complete), (&stored.rows, true));
    for (index, row) in stored.rows.iter().enumerate() {
        let location = location_of(stored.pack, &stored.rows, index);
        assert_eq!(read_object(&store, row.kind, row.id, &location).unwrap(), payload_of(&objects, row));
        let pieces: crate::error::Result<Vec<Bytes>> =
            open_blob_stream(shared(&store), row.id, &location).unwrap().collect();
        assert_eq!(pieces.unwrap().concat(), payload_of(&objects, row));
        let text_like = row.real_len == text.len() as u64;
        assert!(!text_like || (row.codec == Codec::Zstd && row.stored_len < row.real_len / 20));
    }
}

#[test]
fn a_wrong_name_a_second_copy_and_a_wrong_length_are_refused() {
    let store = MemoryStore::new();
    let object = blob(b"bytes".to_vec());
    let mut writer = PackWriter::new(store.stage().unwrap(), origin(1)).unwrap();
    assert_eq!(writer.add_blob(ObjectId([9; 32]), b"bytes").unwrap_err().kind(), ErrorKind::Invalid);
    add(&mut writer, &object);
    assert!(writer.contains(Kind::Blob, object.id) && !writer.contains(Kind::Commit, object.id));
    assert_eq!(writer.add_blob(object.id, b"bytes").unwrap_err().kind(), ErrorKind::Conflict);
    let too_long = writer.begin_blob(crate::limits::BLOB_BYTES_MAX + 1).err().unwrap();
    assert!(too_long.to_string().contains(&crate::limits::BLOB_BYTES_MAX.to_string()), "{too_long}");
    // A refusal before the first byte leaves the pack as it was.
    assert_eq!(writer.rows(), 1);
    writer.begin_blob(4).unwrap().write(b"12345").unwrap_err();
    assert!(writer.add_blob(blob(b"more".to_vec()).id, b"more").is_err(), "an unfinished blob makes the pack unusable");
    assert!(writer.finish().is_err());
    assert!(store.list("").unwrap().is_empty());
}

#[test]
fn rows_beyond_the_cap_are_refused_with_its_value() {
    let store = MemoryStore::new();
    let mut writer = PackWriter::new(store.stage().unwrap(), origin(1)).unwrap();
    for number in 0..crate::limits::PACK_ROWS_MAX as u32 {
        add(&mut writer, &blob(number.to_le_bytes().to_vec()));
    }
    let one_more = blob(b"one more".to_vec());
    let refusal = writer.add_blob(one_more.id, &one_more.payload).unwrap_err();
    assert!(refusal.to_string().contains("65536"), "{refusal}");
    let stored = writer.finish().unwrap();
    assert_eq!(describe(&store, stored.pack).unwrap().stored, stored);
}

#[test]
fn equal_objects_under_another_nonce_are_another_pack() {
    let store = MemoryStore::new();
    let (first, second) = (pack_of(&store, 1, &mixed()), pack_of(&store, 2, &mixed()));
    assert_ne!(first.pack, second.pack);
    assert_eq!(first.table_hash, second.table_hash);
    assert_eq!(pack_of(&store, 1, &mixed()), first, "the same input gives the same bytes");
}
