//! The stored form of a large entry, piece by piece as the store gives it.
//!
//! Invariants: memory is a few pieces; the pieces together are exactly the stored form, or an error ends them. Nothing is
//! verified here.

use std::ops::Deref;

use bytes::Bytes;

use super::{Location, PIECE_BYTES};
use crate::{
    error::Result,
    store::{ObjectStore, StoreKey, ahead::Through},
};

/// Where reading stands.
pub(super) struct Pieces<S> {
    store: S,
    key: StoreKey,
    at: u64,
    end: u64,
    /// From a far store: the rest is on its way already.
    coming: Option<Through>,
}

impl<S: Deref<Target: ObjectStore>> Pieces<S> {
    pub fn new(store: S, location: &Location) -> Pieces<S> {
        let key = StoreKey::pack(location.pack);
        let coming = store.read_through(&key, location.offset, location.stored_len);
        Pieces { store, key, at: location.offset, end: location.offset + location.stored_len, coming }
    }

    /// Bytes that were not read yet.
    pub fn left(&self) -> u64 {
        self.end - self.at
    }

    /// The next piece, of at most [`PIECE_BYTES`]; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Bytes>> {
        if self.left() == 0 {
            return Ok(None);
        }
        let piece = match self.coming.as_mut().and_then(Through::piece) {
            Some(piece) => piece,
            None => {
                self.coming = None;
                self.store.read(&self.key, self.at, self.left().min(PIECE_BYTES))?
            }
        };
        self.at += piece.len() as u64;
        Ok(Some(piece))
    }
}
