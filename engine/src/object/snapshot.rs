//! Snapshots: a sorted manifest of paths to blob ids, verified against the snapshot's id.
use serde_json::Value;

use crate::{error::Result, id::{ObjectId, RecordHash}};

/// A verified snapshot record.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    /// Its id, recomputed.
    pub id: ObjectId,
    /// Paths in it.
    pub entries: u32,
    /// Distinct directories.
    pub directories: u32,
    /// The distinct blob ids, ascending.
    pub blobs: Vec<ObjectId>,
    /// Canonical JSON.
    pub payload: Vec<u8>,
    /// SHA-256 of the canonical bytes.
    pub record_hash: RecordHash,
}

impl Snapshot {
    /// Checks a record as pushed and recomputes its id. Errors: `Invalid`, naming snapshot and path.
    pub fn from_record(record: &Value) -> Result<Snapshot> {
        let _ = record;
        todo!()
    }

    /// Parses stored canonical JSON (already verified against its record hash).
    pub fn from_payload(payload: &[u8]) -> Result<Snapshot> {
        let _ = payload;
        todo!()
    }
}
