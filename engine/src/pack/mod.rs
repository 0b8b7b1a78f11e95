//! Packs: immutable files of many objects that describe themselves completely (layout: FORMAT.md).
//!
//! Invariants: the pack id is the SHA-256 of its content; a reader never allocates from a length it has not checked
//! against file size and caps, never decodes past `real_len`, and never returns a payload that does not hash to its id
//! (blob) or record hash (snapshot, commit).

use crate::{
    event::{Codec, ObjectRow},
    id::{Kind, PackId, PushId, RecordHash, RepoId, TableHash},
};

mod arriving;
mod blob_stream;
mod blob_writer;
mod compress;
mod decode;
mod keyframe;
mod layout;
mod pieces;
mod plan;
mod range_reader;
mod reader;
mod salvage;
mod stored_stream;
pub mod transfer;
mod verify;
mod window;
mod writer;

#[cfg(test)]
mod tests;

pub use arriving::{Arrival, Arriving};
pub use blob_stream::{BlobStream, open_blob_stream};
pub use blob_writer::BlobWriter;
pub use decode::decode_object;
pub use plan::{GAP_BYTES_MAX, PlanItem, PlannedRange, RANGE_BYTES_MAX, ReadPlan, plan_ranges};
pub use range_reader::{Payload, RangeReader, StoredForm, Wanted};
pub use reader::{describe, read_object};
pub use salvage::{Salvaged, salvage};
pub use stored_stream::StoredStream;
pub use verify::{hash_of, verify, verify_records};
pub use writer::PackWriter;

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

/// What a pack says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackDescription {
    /// Where it came from.
    pub origin: PackOrigin,
    /// The same as the event said when it was accepted.
    pub stored: StoredPack,
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

/// True for a blob that is read piece by piece rather than held.
pub fn is_large(kind: Kind, location: &Location) -> bool {
    kind == Kind::Blob && location.real_len.max(location.stored_len) > WHOLE_BYTES_MAX
}

/// Blobs up to this are held whole; larger ones are written and read in pieces.
pub const WHOLE_BYTES_MAX: u64 = 1 << 20;
/// A large blob is read in pieces of this.
pub const PIECE_BYTES: u64 = 1 << 20;
/// A longer snapshot is never held as a keyframe.
pub const KEYFRAME_BYTES_MAX: u64 = 8 << 20;
