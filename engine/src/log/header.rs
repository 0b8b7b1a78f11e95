//! The first 4 KiB of a segment: which log, from where, after what (FORMAT.md §4.1).
//!
//! Invariants: written twice in the block, one sound copy is enough; a newer format is refused before a byte is written.

use super::{fields::Fields, frame::Salt};
use crate::{
    error::{Error, ErrorKind, Result},
    id::{ChainHash, LogId, Position},
};

/// What a segment says about itself before its first frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    /// Which log.
    pub(crate) log: LogId,
    /// Position of the first event that it will hold.
    pub(crate) first: Position,
    /// Ordinal of the first write in it.
    pub(crate) sequence: u64,
    /// Chained hash before it.
    pub(crate) previous: ChainHash,
    /// Salt of its frame headers.
    pub(crate) salt: Salt,
    /// Bytes that were zero-filled and synced before it got its name.
    pub(crate) capacity: u64,
}

impl SegmentHeader {
    /// The whole block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(COPY_LEN);
        copy.extend_from_slice(&SEGMENT_MAGIC);
        copy.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        copy.extend_from_slice(&[0; 4]);
        copy.extend_from_slice(&self.log.0);
        copy.extend_from_slice(&self.first.0.to_le_bytes());
        copy.extend_from_slice(&self.sequence.to_le_bytes());
        copy.extend_from_slice(&self.previous.0);
        copy.extend_from_slice(&self.salt);
        copy.extend_from_slice(&self.capacity.to_le_bytes());
        copy.extend_from_slice(&[0; 4]);
        copy.extend_from_slice(&crc32c::crc32c(&copy).to_le_bytes());
        assert_eq!(copy.len(), COPY_LEN);
        let mut block = vec![0; BLOCK_LEN];
        block[..COPY_LEN].copy_from_slice(&copy);
        block[BLOCK_LEN / 2..BLOCK_LEN / 2 + COPY_LEN].copy_from_slice(&copy);
        block
    }

    /// Reads a block; `file` is for the error: `Corrupt`, or `Invalid` for a newer format.
    pub(crate) fn decode(block: &[u8], file: &str) -> Result<SegmentHeader> {
        let copies = [block.get(..COPY_LEN), block.get(BLOCK_LEN / 2..BLOCK_LEN / 2 + COPY_LEN)];
        if let Some(header) = copies.iter().flatten().find_map(|copy| decode_copy(copy)) {
            return Ok(header);
        }
        // A flipped bit cannot raise the version in both copies alike; a newer program would.
        let versions = copies.map(|copy| copy.and_then(version_of));
        match versions {
            [Some(one), Some(two)] if one == two && one > FORMAT_VERSION => Err(Error::new(
                ErrorKind::Invalid,
                format!("{file} has log format {one}; this program knows up to {FORMAT_VERSION}: use the newer one"),
            )),
            _ => Err(Error::corrupt(file, 0, "the segment's header is damaged")),
        }
    }
}

/// `seg-<first position>.log`
pub(crate) fn segment_name(first: Position) -> String {
    format!("seg-{:020}.log", first.0)
}

/// The first position that a segment's name tells.
pub(crate) fn position_of_name(name: &str) -> Option<Position> {
    let digits = name.strip_prefix("seg-")?.strip_suffix(".log")?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Position)
}

fn decode_copy(copy: &[u8]) -> Option<SegmentHeader> {
    let mut fields = Fields::new(copy);
    let magic: [u8; 8] = fields.array()?;
    let version = fields.u32()?;
    let reserved = fields.u32()?;
    let header = SegmentHeader {
        log: LogId(fields.array()?),
        first: Position(fields.ordinal()?),
        sequence: fields.ordinal()?,
        previous: ChainHash(fields.array()?),
        salt: fields.array()?,
        capacity: fields.u64()?,
    };
    let sound = magic == SEGMENT_MAGIC
        && version == FORMAT_VERSION
        && reserved == 0
        && fields.u32()? == 0
        && fields.u32()? == crc32c::crc32c(&copy[..COPY_LEN - 4])
        && header.first >= Position(1)
        && header.capacity >= BLOCK_LEN as u64;
    sound.then_some(header)
}

fn version_of(copy: &[u8]) -> Option<u32> {
    let mut fields = Fields::new(copy);
    (fields.array()? == SEGMENT_MAGIC).then(|| fields.u32())?
}

/// Start of a segment.
const SEGMENT_MAGIC: [u8; 8] = *b"RepriseL";
/// The one format that this program writes.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Bytes before the first frame.
pub(crate) const BLOCK_LEN: usize = 4096;
/// Bytes of one copy of the header.
const COPY_LEN: usize = 8 + 4 + 4 + 16 + 8 + 8 + 32 + 16 + 8 + 4 + 4;

const _: () = assert!(COPY_LEN <= BLOCK_LEN / 2);
