//! Tests of packs: round trips, golden bytes, damage, hostile input, plans.
//!
//! Invariants: every test drives the public surface of [`super`]; random ones print their seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::*;
use crate::{
    id::{ObjectId, RecordHash},
    limits::PACK_ROWS_MAX,
    store::{ObjectStore, StoreKey, memory::MemoryStore},
};

mod arriving;
mod damage;
mod golden;
mod reading;
mod round_trip;

/// What goes into a pack.
#[derive(Clone, Debug)]
struct Object {
    kind: Kind,
    id: ObjectId,
    payload: Vec<u8>,
}

fn blob(payload: Vec<u8>) -> Object {
    Object { kind: Kind::Blob, id: ObjectId(Sha256::digest(&payload).into()), payload }
}

/// Records' ids are verified before the pack; here any distinct name will do.
fn record(kind: Kind, payload: Vec<u8>) -> Object {
    Object { kind, id: ObjectId(Sha256::digest([b"id of ", &payload[..]].concat()).into()), payload }
}

fn hash(object: &Object) -> RecordHash {
    RecordHash(decode::canonical_hash(object.kind, &object.payload))
}

fn origin(nonce: u8) -> PackOrigin {
    PackOrigin { repo: RepoId([1; 16]), push: PushId([2; 16]), nonce: [nonce; 16] }
}

fn add(writer: &mut PackWriter, object: &Object) {
    match object.kind {
        Kind::Blob => writer.add_blob(object.id, &object.payload).unwrap(),
        kind => writer.add_record(kind, object.id, hash(object), &object.payload).unwrap(),
    }
}

fn pack_of(store: &MemoryStore, nonce: u8, objects: &[Object]) -> StoredPack {
    let mut writer = PackWriter::new(store.stage().unwrap(), origin(nonce)).unwrap();
    for object in objects {
        add(&mut writer, object);
    }
    writer.finish().unwrap()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    crate::clock::Random::fill(&crate::clock::SeededRandom::new(seed), &mut bytes).unwrap();
    bytes
}

fn manifest(version: u64, paths: usize) -> Vec<u8> {
    let mut text = String::from("{");
    for path in 0..paths as u64 {
        let content = if path == version % paths as u64 { version } else { 0 };
        let id = ObjectId(Sha256::digest([path.to_le_bytes(), content.to_le_bytes()].concat()).into());
        text += &format!("\"src/part{}/file{path}.rs\":\"sha256:{id}\",", path % 17);
    }
    (text + "}").into_bytes()
}

/// One of each: empty, raw, zstd, keyframe with deltas, commits.
fn mixed() -> Vec<Object> {
    let mut objects = vec![blob(Vec::new()), blob(b"x".to_vec()), blob(noise(1, 300)), blob(b"la la ".repeat(60))];
    objects.extend((0..4).map(|version| record(Kind::Snapshot, manifest(version, 12))));
    objects.extend((0..3).map(|number| record(Kind::Commit, format!("{{\"n\":{number}}}").into_bytes())));
    objects
}

fn read_all(store: &dyn ObjectStore, stored: &StoredPack) -> Vec<crate::error::Result<Bytes>> {
    let rows = &stored.rows;
    let read =
        |index: usize| read_object(store, rows[index].kind, rows[index].id, &location_of(stored.pack, rows, index));
    (0..rows.len()).map(read).collect()
}

fn payload_of<'a>(objects: &'a [Object], row: &ObjectRow) -> &'a [u8] {
    &objects.iter().find(|object| (object.kind, object.id) == (row.kind, row.id)).unwrap().payload
}

fn file_of(store: &MemoryStore, stored: &StoredPack) -> Vec<u8> {
    store.read(&StoreKey::pack(stored.pack), 0, stored.bytes).unwrap().to_vec()
}

fn no_damage(kind: Kind, id: ObjectId, reason: String) {
    panic!("{kind} {id} is damaged: {reason}");
}

fn shared(store: &MemoryStore) -> Arc<dyn ObjectStore> {
    Arc::new(store.clone())
}
