//! Packs: immutable files of many objects that describe themselves completely (layout: FORMAT.md).
//!
//! Invariants: the pack id is the SHA-256 of its content; a reader never allocates from a length it has not checked
//! against file size and caps, never decodes past `real_len`, and never returns a payload that does not hash to its id
//! (blob) or record hash (snapshot, commit).

use bytes::Bytes;

use crate::{
    error::Result,
    event::{Codec, ObjectRow},
    id::{Kind, ObjectId, PackId, PushId, RecordHash, RepoId, TableHash},
    store::{ObjectStore, Staged},
};

/// Where a pack came from, written into its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackOrigin {
    /// For which repository it was pushed.
    pub repo: RepoId,
    /// By which push.
    pub push: PushId,
    /// Random: two packs with equal objects still differ, so that a re-push never meets an older file of its own name.
    pub nonce: [u8; 16],
}

/// A finished pack, durable in the store: what the objects event says about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredPack {
    /// Its id.
    pub pack: PackId,
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of its table.
    pub table_hash: TableHash,
    /// Its table, (kind, id) ascending.
    pub rows: Vec<ObjectRow>,
}

/// Builds one pack through a staged upload. Dropped without `finish`: no trace is left.
pub struct PackWriter;

impl PackWriter {
    /// Starts a pack.
    pub fn new(staged: Box<dyn Staged>, origin: PackOrigin) -> Result<PackWriter> {
        let _ = (staged, origin);
        todo!()
    }

    /// True if an object of this name is already in this pack (adding it again is refused with `Conflict`).
    pub fn contains(&self, kind: Kind, id: ObjectId) -> bool {
        let _ = (kind, id);
        todo!()
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        todo!()
    }

    /// Body bytes so far: the caller starts another pack beyond the target.
    pub fn body_bytes(&self) -> u64 {
        todo!()
    }

    /// Adds a whole blob after checking that it hashes to `id`. Stored raw when zstd saves less than 5 %.
    pub fn add_blob(&mut self, id: ObjectId, bytes: &[u8]) -> Result<()> {
        let _ = (id, bytes);
        todo!()
    }

    /// Starts a blob of `len` bytes that arrives in pieces (for blobs too large to hold).
    pub fn begin_blob(&mut self, len: u64) -> Result<BlobWriter<'_>> {
        let _ = len;
        todo!()
    }

    /// Adds a snapshot or commit: canonical payload, already verified against its id. Snapshots are stored against the
    /// pack's current keyframe.
    pub fn add_record(&mut self, kind: Kind, id: ObjectId, hash: RecordHash, payload: &[u8]) -> Result<()> {
        let _ = (kind, id, hash, payload);
        todo!()
    }

    /// Writes the trailer, makes the pack durable in the store under its id.
    pub fn finish(self) -> Result<StoredPack> {
        todo!()
    }
}

/// A blob on its way into a pack, piece by piece.
pub struct BlobWriter<'a> {
    #[allow(dead_code)]
    writer: &'a mut PackWriter,
}

impl BlobWriter<'_> {
    /// Appends a piece.
    pub fn write(&mut self, piece: &[u8]) -> Result<()> {
        let _ = piece;
        todo!()
    }

    /// Ends the blob; `Invalid` if the bytes do not hash to `id` or are not as many as announced (the pack is then unusable).
    pub fn finish(self, id: ObjectId) -> Result<()> {
        let _ = id;
        todo!()
    }
}

/// Where one object's stored form is, as an index row knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Location {
    /// In which pack.
    pub pack: PackId,
    /// Byte offset of the stored form.
    pub offset: u64,
    /// Bytes of the stored form.
    pub stored_len: u64,
    /// Bytes of the payload.
    pub real_len: u64,
    /// How it is stored.
    pub codec: Codec,
    /// For `ZstdPrefix`: where the base is, in the same pack.
    pub base: Option<BaseLocation>,
    /// For snapshots and commits.
    pub record_hash: Option<RecordHash>,
}

/// Where the base of a `ZstdPrefix` entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BaseLocation {
    /// Byte offset of its stored form.
    pub offset: u64,
    /// Bytes of its stored form.
    pub stored_len: u64,
    /// Bytes of its payload.
    pub real_len: u64,
    /// Raw or Zstd.
    pub codec: Codec,
}

/// Reads one object with ranged reads, decodes and verifies it. `Corrupt` names pack and offset.
pub fn read_object(store: &dyn ObjectStore, kind: Kind, id: ObjectId, location: &Location) -> Result<Bytes> {
    let _ = (store, kind, id, location);
    todo!()
}

/// Decodes and verifies a stored form that was read already (`stored` are exactly the bytes at the location); `base` is
/// the decoded payload of the base entry for `ZstdPrefix`.
pub fn decode_object(kind: Kind, id: ObjectId, location: &Location, stored: &[u8], base: Option<&[u8]>) -> Result<Bytes> {
    let _ = (kind, id, location, stored, base);
    todo!()
}

/// What a pack says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackDescription {
    /// Where it came from.
    pub origin: PackOrigin,
    /// The same as the event said when it was accepted.
    pub stored: StoredPack,
}

/// Reads header, footer and table (not the body) and checks their hashes.
pub fn describe(store: &dyn ObjectStore, pack: PackId) -> Result<PackDescription> {
    let _ = (store, pack);
    todo!()
}

/// Reads all of a pack in bounded memory and verifies id, table and every entry. Calls `damaged` for each bad entry;
/// returns an error only when nothing can be said about the entries (no readable table).
pub fn verify(
    store: &dyn ObjectStore,
    pack: PackId,
    damaged: &mut dyn FnMut(Kind, ObjectId, String),
) -> Result<PackDescription> {
    let _ = (store, pack, damaged);
    todo!()
}

/// The event's location of row `index` of a table.
pub fn location_of(pack: PackId, rows: &[ObjectRow], index: usize) -> Location {
    let row = &rows[index];
    let base = row.base.and_then(|base| rows.get(usize::try_from(base).ok()?)).map(|base| BaseLocation {
        offset: base.offset,
        stored_len: base.stored_len,
        real_len: base.real_len,
        codec: base.codec,
    });
    Location {
        pack,
        offset: row.offset,
        stored_len: row.stored_len,
        real_len: row.real_len,
        codec: row.codec,
        base,
        record_hash: row.record_hash,
    }
}
