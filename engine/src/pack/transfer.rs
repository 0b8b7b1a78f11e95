//! The parts of a pack that is put together for one transfer out of entries that are stored in others (FORMAT.md §3.6).
//!
//! Invariants: every length follows from index rows alone, so that a transfer's length is known before a byte of it is read;
//! equal rows give equal bytes. Such a pack is never stored: it may have more rows than a stored one, and states no body hash.

use bytes::Bytes;

use super::{
    Location, PackOrigin, is_large,
    layout::{
        EntryPreamble, FOOTER_BYTES, Footer, HEADER_BYTES, NO_BASE, PREAMBLE_BYTES, Preamble, ROW_BYTES, SEAL_BYTES,
        Seal, encode_header, encode_row,
    },
    reader::read_base,
};
use crate::{
    error::{Error, Result},
    event::ObjectRow,
    id::{Kind, ObjectId, PackId, PushId, RepoId},
    store::{ObjectStore, StoreKey},
};

/// Bytes before the first entry.
pub const HEAD_BYTES: u64 = HEADER_BYTES as u64;
/// Bytes before each stored form.
pub const BEFORE_ENTRY_BYTES: u64 = PREAMBLE_BYTES as u64;

/// The payload of the base that an entry is stored against, if it is; unverified: what it is called follows from it.
pub fn base_payload(store: &dyn ObjectStore, kind: Kind, of: &Location) -> Result<Option<Bytes>> {
    of.base.as_ref().map(|base| read_base(store, kind, of, base)).transpose()
}

/// How many rows a stored pack of `size` bytes has by its footer; nothing else of it is looked at.
pub fn rows_announced(store: &dyn ObjectStore, pack: PackId, size: u64) -> Result<usize> {
    let (key, len) = (StoreKey::pack(pack), FOOTER_BYTES as u64);
    let at =
        size.checked_sub(len).ok_or_else(|| Error::corrupt(key.as_str(), size, "the file is too short for a pack"))?;
    let footer = Footer::decode(key.as_str(), &store.read(&key, at, len)?, size)?;
    usize::try_from(footer.count).map_err(|_| Error::invalid("too many rows"))
}

/// The header: `nonce` must follow from what the pack holds.
pub fn head(repo: RepoId, nonce: [u8; 16]) -> Vec<u8> {
    encode_header(&PackOrigin { repo, push: NO_PUSH, nonce }).to_vec()
}

/// Bytes that an entry takes, preamble and seal included.
pub fn entry_len(kind: Kind, location: &Location) -> u64 {
    let seal = if is_large(kind, location) { SEAL_BYTES as u64 } else { 0 };
    BEFORE_ENTRY_BYTES + location.stored_len + seal
}

/// What stands before a stored form that is held whole. `base` is an ordinal in the body.
pub fn before_whole(
    kind: Kind,
    id: ObjectId,
    location: &Location,
    base: Option<u32>,
    stored: &[u8],
) -> Result<Vec<u8>> {
    preamble(kind, location, base, Some((id, stored)))
}

/// What stands before the stored form of a large blob, which ends with its [`Sealing`].
pub fn before_large(location: &Location) -> Result<Vec<u8>> {
    preamble(Kind::Blob, location, None, None)
}

fn preamble(kind: Kind, location: &Location, base: Option<u32>, whole: Option<(ObjectId, &[u8])>) -> Result<Vec<u8>> {
    let stored_len = u32::try_from(location.stored_len).map_err(|_| Error::invalid("an entry passes 4 GiB"))?;
    let entry = EntryPreamble {
        kind,
        codec: location.codec,
        streamed: whole.is_none(),
        stored_crc: whole.map_or(0, |(_, stored)| crc32c::crc32c(stored)),
        real_len: location.real_len,
        stored_len: if whole.is_some() { stored_len } else { 0 },
        base: base.unwrap_or(NO_BASE),
        id: whole.map_or(ObjectId([0; 32]), |(id, _)| id),
    };
    Ok(Preamble::Entry(entry).encode().to_vec())
}

/// The checksum of a large blob's stored form, as its pieces pass.
#[derive(Default)]
pub struct Sealing {
    crc: u32,
    stored_len: u64,
}

impl Sealing {
    /// A piece passed.
    pub fn pass(&mut self, piece: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, piece);
        self.stored_len += piece.len() as u64;
    }

    /// What stands after the stored form.
    pub fn seal(self, id: ObjectId) -> Vec<u8> {
        Seal { id, stored_len: self.stored_len, stored_crc: self.crc }.encode().to_vec()
    }
}

/// What ends the body.
pub fn end_mark(entries: u64) -> Vec<u8> {
    Preamble::End { entries }.encode().to_vec()
}

/// One table row; `base` is an index into the table.
pub fn row(row: &ObjectRow) -> [u8; ROW_BYTES] {
    encode_row(row)
}

/// What ends the pack.
pub fn foot(table_offset: u64, count: u32, table_hash: [u8; 32]) -> Vec<u8> {
    Footer { table_offset, count, table_hash, body_hash: [0; 32] }.encode().to_vec()
}

/// Bytes of everything behind the last of `count` entries.
pub fn tail_len(count: u64) -> u64 {
    BEFORE_ENTRY_BYTES + count * ROW_LEN + FOOTER_BYTES as u64
}

/// Bytes of a table row.
pub const ROW_LEN: u64 = ROW_BYTES as u64;
/// The push of a pack that no push brought.
pub const NO_PUSH: PushId = PushId([0; 16]);
