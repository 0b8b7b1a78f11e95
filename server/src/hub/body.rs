//! A body at rest, a request's that has arrived or an answer's that waits: in memory, or in an unlinked file of the spool.
//!
//! Invariants: reading it twice gives the same bytes; nothing of a spooled body stays in memory but one buffer; the file
//! has no name, so that a crash leaves nothing behind. No fsync: a body is not truth.

use std::{
    fs::File,
    io::{self, BufRead, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::wire::{Source, requests::Span};

/// The bytes of one request or answer.
#[derive(Clone)]
pub enum Body {
    /// A small one.
    Memory(Bytes),
    /// A large one.
    Spooled {
        /// Unlinked.
        file: Arc<File>,
        /// Bytes in it.
        len: u64,
    },
}

impl Body {
    /// A body of these pieces, in an unlinked file of `dir`. Blocking.
    pub fn spool(dir: &Path, pieces: impl Iterator<Item = Vec<u8>>) -> io::Result<Body> {
        let (mut file, mut len) = (spool_file(dir)?, 0);
        for piece in pieces {
            file.write_all(&piece)?;
            len += piece.len() as u64;
        }
        Ok(Body::Spooled { file: Arc::new(file), len })
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        match self {
            Body::Memory(bytes) => bytes.len() as u64,
            Body::Spooled { len, .. } => *len,
        }
    }

    /// True for a body without bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A reader from the start.
    pub fn source(&self) -> BodySource<'_> {
        BodySource { body: self, position: 0, buffer: Vec::new(), start: 0 }
    }

    /// The bytes of a span that was found in this body.
    pub fn slice(&self, span: Span) -> io::Result<Bytes> {
        let len = usize::try_from(span.len).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        match self {
            Body::Memory(bytes) => {
                let start = usize::try_from(span.offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                let end = start.checked_add(len).filter(|end| *end <= bytes.len());
                Ok(bytes.slice(start..end.ok_or(io::ErrorKind::UnexpectedEof)?))
            }
            Body::Spooled { file, .. } => {
                // The index pass saw every byte of the span arrive: `len` is not a promise.
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, span.offset)?;
                Ok(bytes.into())
            }
        }
    }

    /// Calls `each` with the span's bytes, in pieces of at most [`PIECE_BYTES`].
    pub fn pieces<E: From<io::Error>>(
        &self,
        span: Span,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut done = 0;
        while done < span.len {
            let len = (span.len - done).min(PIECE_BYTES);
            each(&self.slice(Span { offset: span.offset + u64::from(done), len })?)?;
            done += len;
        }
        Ok(())
    }

    /// SHA-256 of all of it.
    pub fn digest(&self) -> io::Result<[u8; 32]> {
        let mut hash = Sha256::new();
        let mut source = self.source();
        loop {
            let bytes = source.fill_buf()?;
            if bytes.is_empty() {
                return Ok(hash.finalize().into());
            }
            hash.update(bytes);
            let taken = bytes.len();
            source.consume(taken);
        }
    }
}

/// An empty unlinked file in `dir`; its error does not say where that is.
pub fn spool_file(dir: &Path) -> io::Result<File> {
    tempfile::tempfile_in(dir).map_err(|error| {
        tracing::error!(%error, "no file in the spool");
        error.kind().into()
    })
}

/// Reads a body front to back; steps over content without reading it.
pub struct BodySource<'a> {
    body: &'a Body,
    position: u64,
    buffer: Vec<u8>,
    /// Where `buffer` starts in the body.
    start: u64,
}

impl BufRead for BodySource<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.body {
            Body::Memory(bytes) => Ok(&bytes[usize::try_from(self.position).unwrap_or(bytes.len()).min(bytes.len())..]),
            Body::Spooled { file, len } => {
                let buffered = self.start..self.start + self.buffer.len() as u64;
                if !buffered.contains(&self.position) {
                    let take = (*len - self.position.min(*len)).min(u64::from(PIECE_BYTES));
                    self.buffer.resize(usize::try_from(take).unwrap_or(0), 0);
                    file.read_exact_at(&mut self.buffer, self.position)?;
                    self.start = self.position;
                }
                let ahead = usize::try_from(self.position - self.start).unwrap_or(self.buffer.len());
                Ok(&self.buffer[ahead.min(self.buffer.len())..])
            }
        }
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount as u64;
    }
}

impl Read for BodySource<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let len = available.len().min(into.len());
        into[..len].copy_from_slice(&available[..len]);
        self.consume(len);
        Ok(len)
    }
}

impl Source for BodySource<'_> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let end = self.position.checked_add(count).filter(|end| *end <= self.body.len());
        self.position = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(())
    }
}

/// Bytes of one piece: what a spooled body holds in memory.
pub const PIECE_BYTES: u32 = 256 << 10;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
    use super::*;

    fn both(bytes: &[u8]) -> [Body; 2] {
        let spooled =
            Body::spool(tempfile::tempdir().unwrap().path(), bytes.chunks(1_000).map(<[u8]>::to_vec)).unwrap();
        [Body::Memory(Bytes::copy_from_slice(bytes)), spooled]
    }

    #[test]
    fn a_spooled_body_reads_like_one_in_memory() {
        let bytes: Vec<u8> = (0..700_000u32).map(|index| index as u8).collect();
        for body in both(&bytes) {
            let mut all = Vec::new();
            body.source().read_to_end(&mut all).unwrap();
            assert_eq!(all, bytes);
            let mut source = body.source();
            source.skip(600_000).unwrap();
            let mut two = [0; 2];
            source.read_exact(&mut two).unwrap();
            assert_eq!(two, bytes[600_000..600_002]);
            assert!(source.skip(100_000).is_err());
            let mut pieces = Vec::new();
            let span = Span { offset: 5, len: 600_000 };
            body.pieces::<io::Error>(span, |piece| {
                pieces.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
            assert_eq!(pieces, bytes[5..600_005]);
            assert!(body.slice(Span { offset: 699_999, len: 2 }).is_err());
            assert_eq!(body.digest().unwrap(), <[u8; 32]>::from(Sha256::digest(&bytes)));
        }
    }
}
