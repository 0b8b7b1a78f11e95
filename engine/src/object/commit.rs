//! Commits: parsed from their JSON record, verified against their id.
use serde_json::Value;

use crate::{error::Result, id::{ObjectId, RecordHash}};

/// A verified commit record.
#[derive(Clone, PartialEq, Debug)]
pub struct Commit {
    /// Its id, recomputed.
    pub id: ObjectId,
    /// Recorded parents, first first.
    pub parents: Vec<ObjectId>,
    /// Its snapshot.
    pub snapshot: ObjectId,
    /// Exact text.
    pub message: String,
    /// Exact text.
    pub committed_at: String,
    /// Branch where it was made.
    pub branch: String,
    /// As recorded.
    pub author: String,
    /// Canonical JSON.
    pub payload: Vec<u8>,
    /// SHA-256 of the canonical bytes.
    pub record_hash: RecordHash,
}

impl Commit {
    /// Checks a record as pushed (any JSON object with the fields of MWP §4.1) and recomputes its id.
    ///
    /// Errors: `Invalid`, naming field and commit.
    pub fn from_record(record: &Value) -> Result<Commit> {
        let _ = record;
        todo!()
    }

    /// Parses stored canonical JSON (already verified against its record hash).
    pub fn from_payload(payload: &[u8]) -> Result<Commit> {
        let _ = payload;
        todo!()
    }
}
