//! The snapshot that the next snapshots of a pack are stored against.
//!
//! Invariants: a keyframe is itself raw or plain zstd (depth 1); its payload is held only while deltas may still come and
//! only up to [`super::KEYFRAME_BYTES_MAX`].

use super::KEYFRAME_BYTES_MAX;

/// The present keyframe of a writer.
pub(super) struct Keyframe {
    /// Its ordinal in the body.
    pub ordinal: u32,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Snapshots stored against it so far.
    pub deltas: u32,
    stored_len: usize,
}

impl Keyframe {
    /// `None` if the payload is too long to be held.
    pub fn new(ordinal: u32, payload: &[u8], stored_len: usize) -> Option<Keyframe> {
        let fits = payload.len() as u64 <= KEYFRAME_BYTES_MAX;
        fits.then(|| Keyframe { ordinal, payload: payload.to_vec(), deltas: 0, stored_len })
    }

    /// False once it has served its share.
    pub fn wants_more(&self) -> bool {
        self.deltas < DELTAS_MAX
    }

    /// True if a delta of this size is worth having; otherwise its snapshot becomes the next keyframe.
    pub fn accepts(&self, delta_len: usize) -> bool {
        delta_len <= self.stored_len / 4
    }
}

/// A keyframe and these make a group of 64.
const DELTAS_MAX: u32 = 63;
