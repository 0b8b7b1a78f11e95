//! Reading single objects and what a pack says about itself.
//!
//! Invariants: every length is checked against caps and file before it is used; nothing unverified leaves.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    BaseLocation, Location, PackDescription, StoredPack,
    decode::{check_lengths, damaged, decode_shared, inflate},
    layout::{FOOTER_BYTES, Footer, HEADER_BYTES, decode_header, decode_table},
};
use crate::{
    error::{Error, Result},
    event::Codec,
    id::{Kind, ObjectId, PackId, TableHash},
    limits::PACK_TAIL_BYTES,
    store::{ObjectStore, StoreKey},
};

/// Reads one object with ranged reads, decodes and verifies it. `Corrupt` names pack and offset.
pub fn read_object(store: &dyn ObjectStore, kind: Kind, id: ObjectId, location: &Location) -> Result<Bytes> {
    check_lengths(kind, location)?;
    let stored = store.read(&StoreKey::pack(location.pack), location.offset, location.stored_len)?;
    let base = match location.base {
        Some(base) => Some(read_base(store, kind, location, &base)?),
        None => None,
    };
    decode_shared(kind, id, location, &stored, base.as_deref())
}

/// The payload of a base, unverified: whatever is decoded against it is verified.
pub(super) fn read_base(store: &dyn ObjectStore, kind: Kind, of: &Location, base: &BaseLocation) -> Result<Bytes> {
    let location = base_location(of, base);
    check_lengths(kind, &location)?;
    let stored = store.read(&StoreKey::pack(of.pack), base.offset, base.stored_len)?;
    decode_base(kind, &location, &stored)
}

/// Decodes the stored form of a base.
pub(super) fn decode_base(kind: Kind, location: &Location, stored: &Bytes) -> Result<Bytes> {
    match location.codec {
        Codec::Raw if stored.len() as u64 == location.real_len => Ok(stored.clone()),
        Codec::Raw => Err(damaged(location, "a raw base has another length than its payload")),
        Codec::Zstd => inflate(kind, location, stored, None).map(Bytes::from),
        Codec::ZstdPrefix => Err(damaged(location, "a base is itself stored against a base")),
    }
}

/// A base as a location of its own.
pub(super) fn base_location(of: &Location, base: &BaseLocation) -> Location {
    Location {
        pack: of.pack,
        offset: base.offset,
        stored_len: base.stored_len,
        real_len: base.real_len,
        codec: base.codec,
        base: None,
        record_hash: None,
    }
}

/// Reads header, footer and table (not the body) and checks their hashes.
pub fn describe(store: &dyn ObjectStore, pack: PackId) -> Result<PackDescription> {
    let key = StoreKey::pack(pack);
    let (tail, size) = store.read_tail(&key, PACK_TAIL_BYTES)?;
    let (header_len, footer_len) = (HEADER_BYTES as u64, FOOTER_BYTES as u64);
    if size < header_len + footer_len {
        return Err(Error::corrupt(key.as_str(), size, "the file is too short for a pack"));
    }
    // A small pack has come whole.
    let header = match tail.len() as u64 == size {
        true => tail.slice(..HEADER_BYTES),
        false => store.read(&key, 0, header_len)?,
    };
    let origin = decode_header(key.as_str(), &header)?;
    let (footer, table) = read_table(store, &key, &tail, size)?;
    let table_hash: [u8; 32] = Sha256::digest(&table).into();
    if table_hash != footer.table_hash {
        return Err(Error::corrupt(key.as_str(), footer.table_offset, "the table does not match its hash"));
    }
    let rows = decode_table(key.as_str(), &table, &footer)?;
    let stored = StoredPack { pack, bytes: size, table_hash: TableHash(table_hash), rows };
    Ok(PackDescription { origin, stored })
}

/// From the tail; with one more read if the table is longer than that.
fn read_table(store: &dyn ObjectStore, key: &StoreKey, tail: &Bytes, size: u64) -> Result<(Footer, Bytes)> {
    let footer_at = tail.len() - FOOTER_BYTES;
    let footer = Footer::decode(key.as_str(), &tail[footer_at..], size)?;
    let table = match usize::try_from(footer.table_len()).ok().and_then(|len| footer_at.checked_sub(len)) {
        Some(start) => tail.slice(start..footer_at),
        None => store.read(key, footer.table_offset, footer.table_len())?,
    };
    Ok((footer, table))
}
