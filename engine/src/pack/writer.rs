//! Builds one pack through a staged upload: entries as they come, then table and footer.
//!
//! Invariants: memory is rows, one keyframe and one entry; bytes are hashed once for their object and once for the file;
//! after any error or an unfinished blob the pack can only be dropped; never two entries of one name.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::{
    PackOrigin, StoredPack,
    blob_writer::BlobWriter,
    compress::{Squeezer, squeeze_against},
    keyframe::Keyframe,
    layout::{
        EntryPreamble, Footer, HEADER_BYTES, NO_BASE, PREAMBLE_BYTES, Preamble, encode_header, encode_row, real_len_max,
    },
};
use crate::{
    error::{Error, ErrorKind, Result},
    event::{Codec, ObjectRow},
    id::{Kind, ObjectId, PackId, RecordHash, TableHash},
    limits::{PACK_BYTES_MAX, PACK_ROWS_MAX},
    store::{Staged, StoreKey},
};

/// Builds one pack through a staged upload. Dropped without `finish`: no trace is left.
pub struct PackWriter {
    staged: Box<dyn Staged>,
    file_hash: Sha256,
    written: u64,
    /// In body order; `base` is an ordinal in that order until `finish`.
    rows: Vec<ObjectRow>,
    names: HashSet<(Kind, ObjectId)>,
    /// Made at first use; taken out while an entry is being written.
    squeezer: Option<Squeezer>,
    keyframe: Option<Keyframe>,
    /// An entry was begun and not finished, or a write failed.
    broken: bool,
}

impl PackWriter {
    /// Starts a pack.
    pub fn new(staged: Box<dyn Staged>, origin: PackOrigin) -> Result<PackWriter> {
        let mut writer = PackWriter {
            staged,
            file_hash: Sha256::new(),
            written: 0,
            rows: Vec::new(),
            names: HashSet::new(),
            squeezer: None,
            keyframe: None,
            broken: false,
        };
        writer.emit(&encode_header(&origin))?;
        Ok(writer)
    }

    /// True if an object of this name is already in this pack (adding it again is refused with `Conflict`).
    pub fn contains(&self, kind: Kind, id: ObjectId) -> bool {
        self.names.contains(&(kind, id))
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Body bytes so far: the caller starts another pack beyond the target.
    pub fn body_bytes(&self) -> u64 {
        self.written - HEADER_BYTES as u64
    }

    /// Adds a whole blob after checking that it hashes to `id`. Stored raw when zstd saves less than 5 %.
    pub fn add_blob(&mut self, id: ObjectId, bytes: &[u8]) -> Result<()> {
        self.admit(Kind::Blob, Some(id), bytes.len() as u64)?;
        if Sha256::digest(bytes)[..] != id.0 {
            return Err(Error::invalid(format!("the bytes sent for blob {id} do not hash to it")));
        }
        self.add_plain(Kind::Blob, id, None, bytes).map(drop)
    }

    /// Starts a blob of `len` bytes that arrives in pieces (for blobs too large to hold).
    pub fn begin_blob(&mut self, len: u64) -> Result<BlobWriter<'_>> {
        self.admit(Kind::Blob, None, len)?;
        BlobWriter::begin(self, len)
    }

    /// Adds a snapshot or commit: canonical payload, already verified against its id. Snapshots are stored against the
    /// pack's current keyframe.
    pub fn add_record(&mut self, kind: Kind, id: ObjectId, hash: RecordHash, payload: &[u8]) -> Result<()> {
        if kind == Kind::Blob {
            return Err(Error::invalid(format!("blob {id} is not a record")));
        }
        self.admit(kind, Some(id), payload.len() as u64)?;
        if kind == Kind::Snapshot {
            return self.add_snapshot(id, hash, payload);
        }
        self.add_plain(kind, id, Some(hash), payload).map(drop)
    }

    /// Writes the trailer, makes the pack durable in the store under its id.
    pub fn finish(mut self) -> Result<StoredPack> {
        self.check_whole()?;
        self.emit(&Preamble::End { entries: self.rows.len() as u64 }.encode())?;
        let table_offset = self.written;
        let body_hash: [u8; 32] = self.file_hash.clone().finalize().into();
        let rows = sort_rows(std::mem::take(&mut self.rows))?;
        let mut table_hash = Sha256::new();
        for row in &rows {
            let bytes = encode_row(row);
            table_hash.update(bytes);
            self.emit(&bytes)?;
        }
        let table_hash: [u8; 32] = table_hash.finalize().into();
        let count = u32::try_from(rows.len()).map_err(|_| too_many_rows())?;
        self.emit(&Footer { table_offset, count, table_hash, body_hash }.encode())?;
        let pack = PackId(self.file_hash.finalize().into());
        // Whether the name is new or holds exactly these bytes already, it is durable now.
        self.staged.commit(&StoreKey::pack(pack))?;
        Ok(StoredPack { pack, bytes: self.written, table_hash: TableHash(table_hash), rows })
    }

    fn add_snapshot(&mut self, id: ObjectId, hash: RecordHash, payload: &[u8]) -> Result<()> {
        if let Some(keyframe) = self.keyframe.as_mut().filter(|keyframe| keyframe.wants_more()) {
            let delta = squeeze_against(&keyframe.payload, payload)?;
            if keyframe.accepts(delta.len()) {
                keyframe.deltas += 1;
                let base = keyframe.ordinal;
                return self.put(
                    Kind::Snapshot,
                    id,
                    Some(hash),
                    Form { codec: Codec::ZstdPrefix, base, stored: &delta, real_len: payload.len() },
                );
            }
        }
        // The old keyframe's payload goes before the new one's is copied.
        self.keyframe = None;
        let ordinal = u32::try_from(self.rows.len()).map_err(|_| too_many_rows())?;
        let stored_len = self.add_plain(Kind::Snapshot, id, Some(hash), payload)?;
        self.keyframe = Keyframe::new(ordinal, payload, stored_len);
        Ok(())
    }

    /// Raw or zstd, whichever is right. Returns the stored length.
    fn add_plain(&mut self, kind: Kind, id: ObjectId, hash: Option<RecordHash>, payload: &[u8]) -> Result<usize> {
        // Taken out so that its buffer can be borrowed while `self` writes.
        let mut squeezer = match self.squeezer.take() {
            Some(squeezer) => squeezer,
            None => Squeezer::new()?,
        };
        let form = match squeezer.squeeze(payload)? {
            Some(squeezed) => Form { codec: Codec::Zstd, base: NO_BASE, stored: squeezed, real_len: payload.len() },
            None => Form { codec: Codec::Raw, base: NO_BASE, stored: payload, real_len: payload.len() },
        };
        let stored_len = form.stored.len();
        let put = self.put(kind, id, hash, form);
        self.squeezer = Some(squeezer);
        put.map(|()| stored_len)
    }

    fn put(&mut self, kind: Kind, id: ObjectId, record_hash: Option<RecordHash>, form: Form<'_>) -> Result<()> {
        let entry = EntryPreamble {
            kind,
            codec: form.codec,
            streamed: false,
            stored_crc: crc32c::crc32c(form.stored),
            real_len: form.real_len as u64,
            stored_len: u32::try_from(form.stored.len()).map_err(|_| Error::invalid("an entry passes 4 GiB"))?,
            base: form.base,
            id,
        };
        self.emit(&Preamble::Entry(entry).encode())?;
        let offset = self.written;
        self.emit(form.stored)?;
        self.note(ObjectRow {
            kind,
            id,
            offset,
            stored_len: form.stored.len() as u64,
            real_len: form.real_len as u64,
            codec: form.codec,
            base: Some(form.base).filter(|base| *base != NO_BASE),
            record_hash,
        })
    }

    /// An entry is complete.
    pub(super) fn note(&mut self, row: ObjectRow) -> Result<()> {
        if !self.names.insert((row.kind, row.id)) {
            self.broken = true;
            return Err(already_there(row.kind, row.id));
        }
        self.rows.push(row);
        Ok(())
    }

    /// Limits, before a byte of an entry is written.
    fn admit(&self, kind: Kind, id: Option<ObjectId>, len: u64) -> Result<()> {
        self.check_whole()?;
        let limit = real_len_max(kind);
        if len > limit {
            return Err(Error::invalid(format!("a {kind} of {len} bytes passes the limit of {limit} bytes")));
        }
        if let Some(id) = id.filter(|id| self.contains(kind, *id)) {
            return Err(already_there(kind, id));
        }
        if self.rows.len() >= PACK_ROWS_MAX {
            return Err(too_many_rows());
        }
        let after = self.body_bytes() + PREAMBLE_BYTES as u64 + len;
        if after > PACK_BYTES_MAX && !self.rows.is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the pack would reach {after} bytes, more than the limit of {PACK_BYTES_MAX} bytes"),
            ));
        }
        Ok(())
    }

    fn check_whole(&self) -> Result<()> {
        if self.broken {
            return Err(Error::invalid("this pack has an unfinished or failed entry: drop it and start another"));
        }
        Ok(())
    }

    /// Marks the pack unusable until [`PackWriter::mend`]: what is in between must not be lost half-way.
    pub(super) fn break_open(&mut self) {
        self.broken = true;
    }

    /// The entry begun with [`PackWriter::break_open`] is complete.
    pub(super) fn mend(&mut self) {
        self.broken = false;
    }

    /// Bytes written so far: the offset of the next byte.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Appends to the file.
    pub(super) fn emit(&mut self, bytes: &[u8]) -> Result<()> {
        self.file_hash.update(bytes);
        self.written += bytes.len() as u64;
        self.staged.write(bytes).inspect_err(|_| self.broken = true)
    }
}

struct Form<'a> {
    codec: Codec,
    base: u32,
    stored: &'a [u8],
    real_len: usize,
}

/// Rows in body order, with bases as ordinals, to table order with bases as table indexes.
pub(super) fn sort_rows(rows: Vec<ObjectRow>) -> Result<Vec<ObjectRow>> {
    let bases: HashSet<u32> = rows.iter().filter_map(|row| row.base).collect();
    let mut numbered = Vec::with_capacity(rows.len());
    for (ordinal, row) in rows.into_iter().enumerate() {
        numbered.push((u32::try_from(ordinal).map_err(|_| too_many_rows())?, row));
    }
    numbered.sort_unstable_by_key(|(_, row)| (row.kind, row.id));
    let mut places = HashMap::with_capacity(bases.len());
    for (place, (ordinal, _)) in numbered.iter().enumerate() {
        if bases.contains(ordinal) {
            places.insert(*ordinal, u32::try_from(place).map_err(|_| too_many_rows())?);
        }
    }
    let mut sorted = Vec::with_capacity(numbered.len());
    for (_, mut row) in numbered {
        row.base = match row.base {
            Some(base) => Some(*places.get(&base).ok_or_else(|| Error::invalid("an entry's base is not in its pack"))?),
            None => None,
        };
        sorted.push(row);
    }
    Ok(sorted)
}

fn already_there(kind: Kind, id: ObjectId) -> Error {
    Error::new(ErrorKind::Conflict, format!("{kind} {id} is already in this pack"))
}

fn too_many_rows() -> Error {
    Error::invalid(format!("the pack has reached the limit of {PACK_ROWS_MAX} objects"))
}
