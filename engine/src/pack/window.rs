//! Sequential reading of a pack through one buffer.
//!
//! Invariants: holds at most [`super::PIECE_BYTES`] at a time; never reads beyond the size it was given.

use bytes::Bytes;

use super::PIECE_BYTES;
use crate::{
    error::Result,
    store::{ObjectStore, StoreKey},
};

/// A read-ahead buffer over one key.
pub(super) struct Window<'a> {
    store: &'a dyn ObjectStore,
    key: &'a StoreKey,
    size: u64,
    start: u64,
    held: Bytes,
}

impl<'a> Window<'a> {
    /// A window over the first `size` bytes of `key`.
    pub fn new(store: &'a dyn ObjectStore, key: &'a StoreKey, size: u64) -> Window<'a> {
        Window { store, key, size, start: 0, held: Bytes::new() }
    }

    /// Up to `len` bytes at `offset` (fewer at the end of the file or of what one buffer holds; none beyond the end).
    pub fn at(&mut self, offset: u64, len: u64) -> Result<Bytes> {
        let len = len.min(PIECE_BYTES).min(self.size.saturating_sub(offset));
        if let Some(bytes) = self.cut(offset, len) {
            return Ok(bytes);
        }
        let ahead = PIECE_BYTES.min(self.size - offset);
        // The old buffer goes before the new one comes.
        self.held = Bytes::new();
        self.held = self.store.read(self.key, offset, ahead)?;
        self.start = offset;
        Ok(self.cut(offset, len).unwrap_or_default())
    }

    fn cut(&self, offset: u64, len: u64) -> Option<Bytes> {
        if len == 0 {
            return Some(Bytes::new());
        }
        let start = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        (end <= self.held.len()).then(|| self.held.slice(start..end))
    }
}
