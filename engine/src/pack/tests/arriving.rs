//! A pack read front to back: all of it, or an error.

use std::io::BufReader;

use super::*;

fn read_through(source: impl std::io::BufRead, rows_max: usize) -> crate::Result<(Vec<Arrival>, Vec<ObjectRow>)> {
    let mut arriving = Arriving::open(source, PackId([7; 32]), rows_max)?;
    let mut arrivals = Vec::new();
    while let Some(arrival) = arriving.next()? {
        arrivals.push(arrival);
    }
    let (rows, _) = arriving.into_table().expect("a pack that came whole has its table");
    Ok((arrivals, rows))
}

/// Objects with their payloads, pieces put together.
fn objects_of(arrivals: &[Arrival]) -> Vec<Object> {
    let (mut objects, mut pieces) = (Vec::new(), Vec::new());
    for arrival in arrivals {
        match arrival {
            Arrival::Object { kind, id, payload } => {
                objects.push(Object { kind: *kind, id: *id, payload: payload.to_vec() });
            }
            Arrival::Piece(piece) => pieces.extend_from_slice(piece),
            Arrival::Blob { id, .. } => {
                objects.push(Object { kind: Kind::Blob, id: *id, payload: std::mem::take(&mut pieces) });
            }
        }
    }
    objects
}

/// With blobs that are streamed raw, streamed compressed, and too long to be held.
fn with_large() -> (Vec<Object>, StoredPack, Vec<u8>) {
    let (store, mut objects) = (MemoryStore::new(), mixed());
    let mut writer = PackWriter::new(store.stage().unwrap(), origin(1)).unwrap();
    objects.iter().for_each(|object| add(&mut writer, object));
    for payload in [noise(8, (1 << 20) + 9), b"piece by piece, ".repeat(90_000)] {
        let large = blob(payload);
        let mut streamed = writer.begin_blob(large.payload.len() as u64).unwrap();
        large.payload.chunks(70_000).for_each(|piece| streamed.write(piece).unwrap());
        streamed.finish(large.id).unwrap();
        objects.push(large);
    }
    for payload in [noise(9, (1 << 20) + 1), b"at once ".repeat(200_000)] {
        objects.push(blob(payload));
        add(&mut writer, objects.last().unwrap());
    }
    let stored = writer.finish().unwrap();
    let file = file_of(&store, &stored);
    (objects, stored, file)
}

#[test]
fn what_arrives_is_what_was_packed_whatever_the_pieces() {
    let (objects, stored, file) = with_large();
    for capacity in [13, 4_096, 3 << 20] {
        let (arrivals, rows) = read_through(BufReader::with_capacity(capacity, &file[..]), PACK_ROWS_MAX).unwrap();
        assert_eq!(rows, stored.rows);
        let arrived = objects_of(&arrivals);
        assert_eq!(arrived.len(), objects.len());
        for (arrived, packed) in arrived.iter().zip(&objects) {
            assert_eq!((arrived.kind, arrived.id), (packed.kind, packed.id));
            assert!(arrived.payload == packed.payload, "{} {}", packed.kind, packed.id);
        }
    }
}

#[test]
fn every_changed_byte_every_missing_byte_and_every_byte_too_many_is_found() {
    let store = MemoryStore::new();
    let stored = pack_of(&store, 1, &mixed());
    let file = file_of(&store, &stored);
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(read_through(&changed[..], PACK_ROWS_MAX).unwrap_err().is_corrupt(), "byte {at}");
        assert!(read_through(&file[..at], PACK_ROWS_MAX).unwrap_err().is_corrupt(), "{at} bytes");
    }
    assert!(read_through(&[&file[..], b"x"].concat()[..], PACK_ROWS_MAX).unwrap_err().is_corrupt());
}

#[test]
fn a_changed_byte_in_a_large_blob_is_found_and_so_is_its_end() {
    let (_, _, file) = with_large();
    for at in (0..file.len()).step_by(file.len() / 60) {
        let mut changed = file.clone();
        changed[at] ^= 4;
        assert!(read_through(&changed[..], PACK_ROWS_MAX).unwrap_err().is_corrupt(), "byte {at}");
        assert!(read_through(&file[..at], PACK_ROWS_MAX).unwrap_err().is_corrupt(), "{at} bytes");
    }
}

#[test]
fn a_pack_of_more_objects_than_wanted_is_refused_by_the_limit() {
    let store = MemoryStore::new();
    let objects = mixed();
    let file = file_of(&store, &pack_of(&store, 1, &objects));
    assert!(read_through(&file[..], objects.len()).is_ok());
    let error = read_through(&file[..], objects.len() - 1).unwrap_err();
    assert!(error.to_string().contains(&format!("more than {} objects", objects.len() - 1)), "{error}");
}

#[test]
fn the_stored_form_of_a_large_blob_comes_whole_or_its_last_piece_does_not() {
    let (objects, stored, file) = with_large();
    let store = MemoryStore::new();
    let key = StoreKey::pack(stored.pack);
    for object in objects.iter().filter(|object| object.payload.len() as u64 > WHOLE_BYTES_MAX) {
        let place = stored.rows.iter().position(|row| row.kind == Kind::Blob && row.id == object.id).unwrap();
        let location = location_of(stored.pack, &stored.rows, place);
        let (start, len) = (location.offset as usize, location.stored_len as usize);
        let read = |store: &MemoryStore| {
            let mut bytes = Vec::new();
            for piece in StoredStream::open(shared(store), object.id, &location)? {
                bytes.extend_from_slice(&piece?);
            }
            crate::Result::Ok(bytes)
        };
        store.overwrite(&key, file.clone().into());
        assert!(read(&store).unwrap() == file[start..start + len]);
        for at in [0, len / 2, len - 1] {
            let mut changed = file.clone();
            changed[start + at] ^= 1;
            store.overwrite(&key, changed.into());
            assert!(read(&store).unwrap_err().is_corrupt(), "byte {at} of {len}");
        }
    }
}
