//! The stored form of a large blob, piece by piece, verified on the way.
//!
//! Invariants: memory is a few pieces, whatever the blob's size; the last piece is yielded only after all of it decoded to a
//! payload that hashes to the id, so that a reader who counts bytes never completes a damaged entry; after an error nothing
//! comes.

use std::sync::Arc;

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

/// Verified pieces of one blob's stored form; see [`StoredStream::open`].
pub struct StoredStream {
    stored: Pieces<Arc<dyn ObjectStore>>,
    id: ObjectId,
    location: Location,
    inflater: Option<Inflater<'static>>,
    /// The frame's end was met.
    frame_ended: bool,
    made: u64,
    hasher: Sha256,
    held: Option<Bytes>,
    done: bool,
}

impl StoredStream {
    /// Starts reading; pieces are at most [`super::PIECE_BYTES`]. An entry without stored bytes yields no piece.
    pub fn open(store: Arc<dyn ObjectStore>, id: ObjectId, location: &Location) -> Result<StoredStream> {
        check_lengths(Kind::Blob, location)?;
        let inflater = match location.codec {
            Codec::Raw => None,
            Codec::Zstd => Some(Inflater::new(None, location)?),
            Codec::ZstdPrefix => return Err(damaged(location, "a blob is never stored against a base")),
        };
        Ok(StoredStream {
            stored: Pieces::new(store, location),
            id,
            location: location.clone(),
            inflater,
            frame_ended: false,
            made: 0,
            hasher: Sha256::new(),
            held: None,
            done: false,
        })
    }

    fn advance(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(piece) = self.stored.next()? else {
                self.check_end()?;
                self.done = true;
                return Ok(self.held.take());
            };
            self.digest(&piece)?;
            if let Some(ready) = self.held.replace(piece) {
                return Ok(Some(ready));
            }
        }
    }

    /// What the piece decodes to goes into the hash.
    fn digest(&mut self, piece: &[u8]) -> Result<()> {
        let Some(inflater) = self.inflater.as_mut() else {
            self.hasher.update(piece);
            return self.count(piece.len());
        };
        let mut rest = piece;
        let mut out = Vec::new();
        // Output may be left over when the input is used up.
        while !rest.is_empty() || !inflater.starved {
            if self.frame_ended {
                break;
            }
            out.clear();
            self.frame_ended = inflater.step(&mut rest, &mut out, STEP_BYTES, &self.location)?;
            self.hasher.update(&out);
            self.made += out.len() as u64;
            if self.made > self.location.real_len {
                return Err(damaged(&self.location, "it decodes to more than its real length"));
            }
        }
        match rest.is_empty() {
            true => Ok(()),
            false => Err(damaged(&self.location, "bytes follow its zstd frame")),
        }
    }

    fn count(&mut self, bytes: usize) -> Result<()> {
        self.made += bytes as u64;
        match self.made <= self.location.real_len {
            true => Ok(()),
            false => Err(damaged(&self.location, "it is longer than its payload")),
        }
    }

    fn check_end(&mut self) -> Result<()> {
        if self.made != self.location.real_len || (self.inflater.is_some() && !self.frame_ended) {
            return Err(damaged(&self.location, "it does not decode to its real length"));
        }
        let hash: [u8; 32] = std::mem::take(&mut self.hasher).finalize().into();
        match hash == self.id.0 {
            true => Ok(()),
            false => Err(damaged(&self.location, &format!("blob {} does not hash to its id", self.id))),
        }
    }

    fn fail(&mut self, error: Error) -> Error {
        self.done = true;
        self.held = None;
        error
    }
}

impl Iterator for StoredStream {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Result<Bytes>> {
        if self.done {
            return None;
        }
        self.advance().map_err(|error| self.fail(error)).transpose()
    }
}

const STEP_BYTES: usize = 256 << 10;
