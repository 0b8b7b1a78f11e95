//! A blob read piece by piece.
//!
//! Invariants: memory is a few pieces, whatever the blob's size; the last piece is yielded only after the hash of all of
//! them was verified, so that a reader who counts bytes never completes a damaged blob; after an error nothing comes.

use std::{ops::Deref, sync::Arc};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    Location,
    decode::{Inflater, check_lengths, damaged},
    pieces::Pieces,
};
use crate::{
    error::{Error, Result},
    event::Codec,
    id::{Kind, ObjectId},
    store::ObjectStore,
};

/// Starts reading a blob piece by piece; pieces are at most [`super::PIECE_BYTES`]. An empty blob yields no piece.
pub fn open_blob_stream<S: Deref<Target: ObjectStore>>(
    store: S,
    id: ObjectId,
    location: &Location,
) -> Result<BlobStream<S>> {
    check_lengths(Kind::Blob, location)?;
    let inflater = match location.codec {
        Codec::Raw if location.stored_len != location.real_len => {
            return Err(damaged(location, "a raw entry has another length than its payload"));
        }
        Codec::Raw => None,
        Codec::Zstd => Some(Inflater::new(None, location)?),
        Codec::ZstdPrefix => return Err(damaged(location, "a blob is never stored against a base")),
    };
    Ok(BlobStream {
        stored: Pieces::new(store, location),
        id,
        location: location.clone(),
        inflater,
        input: Bytes::new(),
        made: 0,
        hasher: Sha256::new(),
        held: None,
        frame_ended: false,
        done: false,
    })
}

/// Verified pieces of one blob; see [`open_blob_stream`].
pub struct BlobStream<S = Arc<dyn ObjectStore>> {
    stored: Pieces<S>,
    id: ObjectId,
    location: Location,
    inflater: Option<Inflater<'static>>,
    input: Bytes,
    made: u64,
    hasher: Sha256,
    held: Option<Bytes>,
    frame_ended: bool,
    done: bool,
}

impl<S: Deref<Target: ObjectStore>> BlobStream<S> {
    /// Bytes that all pieces have together.
    pub fn real_len(&self) -> u64 {
        self.location.real_len
    }

    fn advance(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(piece) = self.next_piece()? else {
                self.check_end()?;
                self.done = true;
                return Ok(self.held.take());
            };
            self.hasher.update(&piece);
            self.made += piece.len() as u64;
            if self.made > self.location.real_len {
                return Err(damaged(&self.location, "it decodes to more than its real length"));
            }
            if let Some(ready) = self.held.replace(piece) {
                return Ok(Some(ready));
            }
        }
    }

    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        if self.inflater.is_none() {
            return self.stored.next();
        }
        while !self.frame_ended {
            if self.input.is_empty() {
                self.input = self.stored.next()?.unwrap_or_default();
            }
            let Some(inflater) = self.inflater.as_mut() else { break };
            let at_end = self.input.is_empty();
            let mut rest: &[u8] = &self.input;
            let mut out = Vec::new();
            self.frame_ended = inflater.step(&mut rest, &mut out, STEP_BYTES, &self.location)?;
            let used = self.input.len() - rest.len();
            self.input = self.input.slice(used..);
            if !out.is_empty() {
                return Ok(Some(Bytes::from(out)));
            }
            if at_end && !self.frame_ended {
                return Err(damaged(&self.location, "its zstd frame ends early"));
            }
        }
        Ok(None)
    }

    fn check_end(&mut self) -> Result<()> {
        let all_read = self.stored.left() == 0 && self.input.is_empty();
        if self.made != self.location.real_len || (self.inflater.is_some() && !all_read) {
            return Err(damaged(&self.location, "it does not decode to its real length"));
        }
        let hash: [u8; 32] = std::mem::take(&mut self.hasher).finalize().into();
        if hash != self.id.0 {
            return Err(damaged(&self.location, &format!("blob {} does not hash to its id", self.id)));
        }
        Ok(())
    }

    fn fail(&mut self, error: Error) -> Error {
        self.done = true;
        self.held = None;
        error
    }
}

impl<S: Deref<Target: ObjectStore>> Iterator for BlobStream<S> {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Result<Bytes>> {
        if self.done {
            return None;
        }
        self.advance().map_err(|error| self.fail(error)).transpose()
    }
}

const STEP_BYTES: usize = 256 << 10;
