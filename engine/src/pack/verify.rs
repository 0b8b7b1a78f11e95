//! Verification of a whole pack in bounded memory.
//!
//! Invariants: every byte of the file is covered by the pack id; every entry is decoded and verified against its name; a
//! damaged file never passes: either an entry is reported or an error returned.

use sha2::{Digest, Sha256};

use super::{
    Location, PIECE_BYTES, PackDescription,
    decode::{check_lengths, decode_shared},
    describe, is_large,
    layout::{PREAMBLE_BYTES, Preamble},
    location_of, open_blob_stream,
    reader::read_base,
    window::Window,
};
use crate::{
    error::{Error, Result},
    event::ObjectRow,
    id::{Kind, ObjectId, PackId},
    store::{ObjectStore, StoreKey},
};
use bytes::Bytes;

/// Reads all of a pack in bounded memory and verifies id, table and every entry. Calls `damaged` for each bad entry;
/// returns an error only when nothing can be said about the entries (no readable table), or when the file is damaged
/// outside of them.
pub fn verify(
    store: &dyn ObjectStore,
    pack: PackId,
    damaged: &mut dyn FnMut(Kind, ObjectId, String),
) -> Result<PackDescription> {
    verify_records(store, pack, &mut |_, _, _| Ok(()), damaged)
}

/// The same; `record` gets the payload of every snapshot and commit that matches its record hash, in body order. What it
/// says is corrupt counts as a bad entry, any other error of it ends the reading.
pub fn verify_records(
    store: &dyn ObjectStore,
    pack: PackId,
    record: &mut dyn FnMut(Kind, ObjectId, &Bytes) -> Result<()>,
    damaged: &mut dyn FnMut(Kind, ObjectId, String),
) -> Result<PackDescription> {
    let description = describe(store, pack)?;
    let key = StoreKey::pack(pack);
    let rows = &description.stored.rows;
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_unstable_by_key(|index| rows[*index].offset);
    let mut checker =
        Checker { store, key: &key, window: Window::new(store, &key, description.stored.bytes), base: None };
    let mut bad = 0usize;
    for index in order {
        let row = &rows[index];
        let checked = checker.check(row, &location_of(pack, rows, index)).and_then(|payload| match payload {
            Some(payload) if row.kind != Kind::Blob => record(row.kind, row.id, &payload),
            _ => Ok(()),
        });
        if let Err(error) = checked {
            // Trouble of the store is not damage: nothing is condemned for it.
            if !error.is_corrupt() {
                return Err(error);
            }
            bad += 1;
            damaged(row.kind, row.id, error.to_string());
        }
    }
    if bad == 0 && hash_of(store, &key, description.stored.bytes)? != pack.0 {
        return Err(Error::corrupt(key.as_str(), 0, "the file does not hash to its name, though every entry is good"));
    }
    Ok(description)
}

struct Checker<'a> {
    store: &'a dyn ObjectStore,
    key: &'a StoreKey,
    window: Window<'a>,
    base: Option<(u64, Bytes)>,
}

impl Checker<'_> {
    /// The payload, unless it is too large to be held.
    fn check(&mut self, row: &ObjectRow, location: &Location) -> Result<Option<Bytes>> {
        self.check_preamble(row)?;
        check_lengths(row.kind, location)?;
        if is_large(row.kind, location) {
            return self.check_large(row, location).map(|()| None);
        }
        let stored = match location.stored_len {
            len @ 0..=PIECE_BYTES => self.window.at(location.offset, len)?,
            len => self.store.read(self.key, location.offset, len)?,
        };
        let base = self.base_of(row.kind, location)?;
        decode_shared(row.kind, row.id, location, &stored, base.as_deref()).map(Some)
    }

    fn check_preamble(&mut self, row: &ObjectRow) -> Result<()> {
        let bytes = self.window.at(row.offset - PREAMBLE_BYTES as u64, PREAMBLE_BYTES as u64)?;
        let fits = match Preamble::decode(&bytes) {
            Some(Preamble::Entry(entry)) => {
                let known = entry.streamed || (entry.id == row.id && u64::from(entry.stored_len) == row.stored_len);
                known && entry.kind == row.kind && entry.codec == row.codec && entry.real_len == row.real_len
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
        Err(Error::corrupt(
            self.key.as_str(),
            row.offset,
            format!("the preamble of {} {} is damaged", row.kind, row.id),
        ))
    }

    fn check_large(&mut self, row: &ObjectRow, location: &Location) -> Result<()> {
        let mut pieces = open_blob_stream(self.store, row.id, location)?;
        pieces.try_for_each(|piece| piece.map(drop))
    }

    fn base_of(&mut self, kind: Kind, location: &Location) -> Result<Option<Bytes>> {
        let Some(base) = location.base else { return Ok(None) };
        if let Some((offset, payload)) = &self.base
            && *offset == base.offset
        {
            return Ok(Some(payload.clone()));
        }
        self.base = None;
        let payload = read_base(self.store, kind, location, &base)?;
        self.base = Some((base.offset, payload.clone()));
        Ok(Some(payload))
    }
}

/// SHA-256 of the `size` bytes under a key, read piece by piece: a pack's is its id.
pub fn hash_of(store: &dyn ObjectStore, key: &StoreKey, size: u64) -> Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut offset = 0;
    while offset < size {
        let len = HASHED_BYTES.min(size - offset);
        hasher.update(store.read(key, offset, len)?);
        offset += len;
    }
    Ok(hasher.finalize().into())
}

/// Read at a time while only the hash is wanted.
const HASHED_BYTES: u64 = 8 << 20;
