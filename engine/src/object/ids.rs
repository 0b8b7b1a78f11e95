//! The id formulas of muse (MWP §3) and the record hash.
use crate::id::{Kind, ObjectId, RecordHash};

/// SHA-256 of the bytes: a blob's id.
pub fn blob_id(bytes: &[u8]) -> ObjectId {
    let _ = bytes;
    todo!()
}

/// SHA-256 of `<kind> <size>\0<payload>`.
pub fn record_hash(kind: Kind, payload: &[u8]) -> RecordHash {
    let _ = (kind, payload);
    todo!()
}
