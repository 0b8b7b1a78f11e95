//! `log/anchor`: the log's name and a position through which it was once durable (FORMAT.md §4.4).
//!
//! Invariants: it is a low-water mark, never the end: a log that ends before it lost something; a missing or damaged one
//! is written again; no event is believed or refused because of it.

use super::fields::Fields;
use crate::{
    engine::Durable,
    id::{ChainHash, LogId, Position},
};

/// What the file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Anchor {
    /// Which log.
    pub(crate) log: LogId,
    /// An end of the log that was durable.
    pub(crate) durable: Durable,
}

impl Anchor {
    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ANCHOR_LEN);
        bytes.extend_from_slice(&ANCHOR_MAGIC);
        bytes.extend_from_slice(&self.log.0);
        bytes.extend_from_slice(&self.durable.position.0.to_le_bytes());
        bytes.extend_from_slice(&self.durable.chain.0);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        assert_eq!(bytes.len(), ANCHOR_LEN);
        bytes
    }

    /// Reads the file's bytes; `None` if they are damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Anchor> {
        let mut fields = Fields::new(bytes);
        let magic: [u8; 8] = fields.array()?;
        let log = LogId(fields.array()?);
        let durable = Durable { position: Position(fields.ordinal()?), chain: ChainHash(fields.array()?) };
        let sound = magic == ANCHOR_MAGIC
            && fields.u32()? == 0
            && fields.u32()? == crc32c::crc32c(&bytes[..ANCHOR_LEN - 4])
            && fields.is_empty();
        sound.then_some(Anchor { log, durable })
    }
}

/// Start of the file.
const ANCHOR_MAGIC: [u8; 8] = *b"RepriseA";
/// Bytes of the file.
pub(crate) const ANCHOR_LEN: usize = 8 + 16 + 8 + 32 + 4 + 4;
