//! A table rebuilt from a pack whose trailer is lost: walks preambles, checks every stored form.
//!
//! Invariants: nothing is guessed: an entry is listed as good only if its checksum holds and its payload decodes (a blob
//! to its id), and each name once; the walk ends at the first damaged preamble; memory is rows, one entry and one base.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    Location, PIECE_BYTES, PackOrigin,
    decode::{Inflater, canonical_hash, damaged, inflate},
    is_large,
    layout::{EntryPreamble, HEADER_BYTES, PREAMBLE_BYTES, Preamble, SEAL_BYTES, Seal, decode_header},
    open_blob_stream,
    window::Window,
    writer::sort_rows,
};
use crate::{
    error::{Error, Result},
    event::{Codec, ObjectRow},
    id::{Kind, ObjectId, PackId, RecordHash},
    limits::PACK_ROWS_MAX,
    store::{ObjectStore, StoreKey},
};

/// What a pack's body still gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Salvaged {
    /// Where the pack came from.
    pub origin: PackOrigin,
    /// Entries that verify, (kind, id) ascending. A record's id is as its preamble says; the caller recomputes it from the
    /// record before trusting it.
    pub rows: Vec<ObjectRow>,
    /// True if the body's end mark was reached, so that no entry is missing but those told to be damaged.
    pub complete: bool,
    /// Where the walk ended.
    pub end: u64,
}

/// Walks the body of a pack without its table. Calls `damaged` with the offset of each entry that does not verify.
/// Errors: the header is unreadable, or the store fails.
pub fn salvage(store: &dyn ObjectStore, pack: PackId, damaged: &mut dyn FnMut(u64, String)) -> Result<Salvaged> {
    let key = StoreKey::pack(pack);
    let size = store.size(&key)?;
    let mut window = Window::new(store, &key, size);
    let origin = decode_header(key.as_str(), &window.at(0, HEADER_BYTES as u64)?)?;
    let at = HEADER_BYTES as u64;
    let (good, names) = (Vec::new(), HashSet::new());
    let mut walk = Walk { store, pack, size, window, at, ordinal: 0, good, names, base: None };
    let complete = walk.run(damaged)?;
    let end = walk.at;
    Ok(Salvaged { origin, rows: table_of(walk.good)?, complete, end })
}

/// Good entries keep their bases by body ordinal; damaged ones left gaps in those ordinals.
fn table_of(good: Vec<(u32, ObjectRow)>) -> Result<Vec<ObjectRow>> {
    let mut places = HashMap::with_capacity(good.len());
    let mut rows = Vec::with_capacity(good.len());
    for (place, (ordinal, mut row)) in good.into_iter().enumerate() {
        places.insert(ordinal, u32::try_from(place).map_err(|_| Error::invalid("too many entries"))?);
        row.base = row.base.and_then(|base| places.get(&base).copied());
        rows.push(row);
    }
    sort_rows(rows)
}

struct Walk<'a> {
    store: &'a dyn ObjectStore,
    pack: PackId,
    size: u64,
    window: Window<'a>,
    at: u64,
    ordinal: u32,
    good: Vec<(u32, ObjectRow)>,
    names: HashSet<(Kind, ObjectId)>,
    base: Option<(u32, Bytes)>,
}

impl Walk<'_> {
    fn run(&mut self, damaged: &mut dyn FnMut(u64, String)) -> Result<bool> {
        while usize::try_from(self.ordinal).is_ok_and(|count| count <= PACK_ROWS_MAX) {
            let entry = match Preamble::decode(&self.window.at(self.at, PREAMBLE_BYTES as u64)?) {
                Some(Preamble::Entry(entry)) => entry,
                Some(Preamble::End { entries }) => return Ok(entries == u64::from(self.ordinal)),
                None => return Ok(false),
            };
            let offset = self.at + PREAMBLE_BYTES as u64;
            let Some(extent) = self.extent(&entry, offset)? else {
                damaged(offset, "where the entry ends cannot be told".to_owned());
                return Ok(false);
            };
            match self.check(&entry, offset, &extent) {
                Ok(row) if self.names.insert((row.kind, row.id)) => self.good.push((self.ordinal, row)),
                // No writer writes a name twice, and a table may not hold it twice.
                Ok(row) => damaged(offset, format!("{} {} stands before it", row.kind, row.id)),
                Err(error) if error.is_corrupt() => damaged(offset, error.to_string()),
                Err(error) => return Err(error),
            }
            self.ordinal += 1;
            self.at = extent.next;
        }
        Ok(false)
    }

    /// Where the entry ends; `None` if that cannot be told.
    fn extent(&mut self, entry: &EntryPreamble, offset: u64) -> Result<Option<Extent>> {
        if !entry.streamed {
            let stored_len = u64::from(entry.stored_len);
            let next = offset + stored_len;
            let extent = Extent { id: entry.id, stored_len, crc: entry.stored_crc, next };
            return Ok((next <= self.size).then_some(extent));
        }
        let stored_len = match entry.codec {
            Codec::Raw => entry.real_len,
            _ => match self.frame_len(entry, offset) {
                Ok(len) => len,
                Err(error) if error.is_corrupt() => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let end = offset + stored_len;
        let seal = Seal::decode(&self.window.at(end, SEAL_BYTES as u64)?).filter(|seal| seal.stored_len == stored_len);
        Ok(seal.map(|seal| Extent { id: seal.id, stored_len, crc: seal.stored_crc, next: end + SEAL_BYTES as u64 }))
    }

    /// A streamed zstd frame tells its own end.
    fn frame_len(&mut self, entry: &EntryPreamble, offset: u64) -> Result<u64> {
        let location = self.location(entry, offset, 0);
        let mut inflater = Inflater::new(None, &location)?;
        let (mut used, mut made) = (0u64, 0u64);
        let mut out = Vec::new();
        loop {
            let held = self.window.at(offset + used, STEP_BYTES)?;
            let mut input: &[u8] = &held;
            out.clear();
            let ended = inflater.step(&mut input, &mut out, OUT_BYTES, &location)?;
            used += (held.len() - input.len()) as u64;
            made += out.len() as u64;
            if ended {
                return Ok(used);
            }
            if made > entry.real_len || (held.is_empty() && out.is_empty()) {
                return Err(damaged(&location, "its zstd frame does not end where it should"));
            }
        }
    }

    fn check(&mut self, entry: &EntryPreamble, offset: u64, extent: &Extent) -> Result<ObjectRow> {
        let mut location = self.location(entry, offset, extent.stored_len);
        if self.crc_of(offset, extent.stored_len)? != extent.crc {
            return Err(damaged(&location, "the stored form does not match its checksum"));
        }
        if is_large(entry.kind, &location) {
            open_blob_stream(self.store, extent.id, &location)?.try_for_each(|piece| piece.map(drop))?;
        } else {
            location.record_hash = self.check_whole(entry, extent, &location)?;
        }
        Ok(ObjectRow {
            kind: entry.kind,
            id: extent.id,
            offset,
            stored_len: extent.stored_len,
            real_len: entry.real_len,
            codec: entry.codec,
            base: (entry.codec == Codec::ZstdPrefix).then_some(entry.base),
            record_hash: location.record_hash,
        })
    }

    /// Decodes an entry that can be held; a record's hash follows from its payload.
    fn check_whole(
        &mut self,
        entry: &EntryPreamble,
        extent: &Extent,
        location: &Location,
    ) -> Result<Option<RecordHash>> {
        let stored = self.store.read(&StoreKey::pack(self.pack), location.offset, location.stored_len)?;
        let base = match entry.codec {
            Codec::ZstdPrefix => Some(self.base_payload(entry, location)?),
            _ => None,
        };
        let payload = match entry.codec {
            Codec::Raw if stored.len() as u64 == entry.real_len => stored,
            Codec::Raw => return Err(damaged(location, "a raw entry has another length than its payload")),
            _ => Bytes::from(inflate(entry.kind, location, &stored, base.as_deref())?),
        };
        if entry.kind != Kind::Blob {
            return Ok(Some(RecordHash(canonical_hash(entry.kind, &payload))));
        }
        match Sha256::digest(&payload)[..] == extent.id.0 {
            true => Ok(None),
            false => Err(damaged(location, "a blob does not hash to its id")),
        }
    }

    fn base_payload(&mut self, entry: &EntryPreamble, of: &Location) -> Result<Bytes> {
        if let Some((ordinal, payload)) = &self.base
            && *ordinal == entry.base
        {
            return Ok(payload.clone());
        }
        let found = self.good.binary_search_by_key(&entry.base, |(ordinal, _)| *ordinal).ok();
        let row = found.map(|place| &self.good[place].1).filter(|row| row.kind == entry.kind && row.base.is_none());
        let row = row.ok_or_else(|| damaged(of, "its base is damaged or not one"))?;
        let location = super::location_of(self.pack, std::slice::from_ref(row), 0);
        let payload = super::read_object(self.store, row.kind, row.id, &location)?;
        self.base = Some((entry.base, payload.clone()));
        Ok(payload)
    }

    fn crc_of(&mut self, offset: u64, len: u64) -> Result<u32> {
        let (mut crc, mut done) = (0, 0);
        while done < len {
            let bytes = self.window.at(offset + done, (len - done).min(PIECE_BYTES))?;
            crc = crc32c::crc32c_append(crc, &bytes);
            done += bytes.len() as u64;
            if bytes.is_empty() {
                break;
            }
        }
        Ok(crc)
    }

    fn location(&self, entry: &EntryPreamble, offset: u64, stored_len: u64) -> Location {
        let (real_len, codec) = (entry.real_len, entry.codec);
        Location { pack: self.pack, offset, stored_len, real_len, codec, base: None, record_hash: None }
    }
}

struct Extent {
    id: ObjectId,
    stored_len: u64,
    crc: u32,
    next: u64,
}

const STEP_BYTES: u64 = 128 << 10;
const OUT_BYTES: usize = 256 << 10;
