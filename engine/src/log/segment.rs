//! A segment as its writer sees it: where it is appended to, when it is full, the footer it ends with.
//!
//! Invariant: a footer says only what was durable when it was made.

use sha2::{Digest, Sha256};

use super::{
    footer::{IndexEntry, Trailer, encode_index},
    frame::Salt,
    header::BLOCK_LEN,
    push_ids::PushIds,
    state_codec,
};
use crate::{
    decide::State,
    engine::Durable,
    id::{ChainHash, LogId, Position},
};

/// The segment that is appended to.
#[derive(Clone, Debug)]
pub(crate) struct Active {
    /// Position of its first event.
    pub(crate) first: Position,
    /// Ordinal of its first write.
    pub(crate) sequence: u64,
    /// Its salt.
    pub(crate) salt: Salt,
    /// Zero-filled bytes.
    pub(crate) capacity: u64,
    /// Where the next frame goes.
    pub(crate) end: u64,
    /// Its sparse index so far.
    pub(crate) index: Vec<IndexEntry>,
}

/// Where a segment ends.
#[derive(Clone, Copy)]
pub(crate) struct SegmentEnd {
    /// After its last group.
    pub(crate) durable: Durable,
    /// Ordinal of the next write.
    pub(crate) sequence: u64,
    /// Time of its last group.
    pub(crate) time_ms: u64,
}

/// The footer of a segment that is full.
pub(crate) fn footer(log: LogId, active: &Active, end: SegmentEnd, state: &State, pushes: &PushIds) -> Vec<u8> {
    let trailer = Trailer {
        log,
        first: active.first,
        last: end.durable.position,
        sequence: end.sequence,
        frames_end: active.end,
        time_ms: end.time_ms,
        chain: end.durable.chain,
        sections: Default::default(),
    };
    trailer.encode([&encode_index(&active.index), &pushes.encode_active(), &state_codec::encode(state)])
}

/// Zero-filled bytes of the segment after `segments` others: small logs take little room, large ones have few files.
pub(crate) fn segment_capacity(segments: u64, segment_bytes: u64) -> u64 {
    let grown =
        CAPACITY_BYTES_FIRST.checked_shl(u32::try_from(segments).unwrap_or(u32::MAX).min(20)).unwrap_or(u64::MAX);
    segment_bytes.min(grown).max(2 * BLOCK_LEN as u64)
}

/// The salt of a bucket log's segment: it follows from what stands before, so that every server makes the same file.
pub(crate) fn shared_salt(log: LogId, first: Position, previous: ChainHash) -> Salt {
    let mut hash = Sha256::new_with_prefix(b"reprise segment salt");
    hash.update(log.0);
    hash.update(first.0.to_le_bytes());
    hash.update(previous.0);
    let hash: [u8; 32] = hash.finalize().into();
    let mut salt = Salt::default();
    salt.copy_from_slice(&hash[..16]);
    salt
}

/// A segment is full this many bytes before its end, so that small groups never pass the zero-filled space.
pub(crate) fn roll_slack(capacity: u64) -> u64 {
    (capacity / 8).min(64 << 10)
}

/// Zero-filled bytes of a log's first segment; each later one has twice as many, up to the configured size.
const CAPACITY_BYTES_FIRST: u64 = 4 << 20;
