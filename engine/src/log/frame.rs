//! One frame: a run of encoded events that was written together, with everything needed to judge it (FORMAT.md §4.2).
//!
//! Invariants: a frame starts at a multiple of eight bytes and ends with a byte that is not zero, so that a write that
//! stopped short inside zero-filled space never looks whole; its header CRC is salted with the segment's salt, so that no
//! bytes of another segment, and none inside a body, pass for a frame of this one; a mark does not move the chain.

use sha2::{Digest, Sha256};

use super::fields::{Fields, len32, size};
use crate::{
    id::{ChainHash, Position},
    limits::FRAME_BYTES_MAX,
};

/// What a frame says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FrameHeader {
    /// Bytes of the whole frame, a multiple of eight.
    pub(crate) len: u32,
    /// [`CONTINUES`], [`MARK`].
    pub(crate) flags: u16,
    /// Events in it; zero for a mark.
    pub(crate) count: u32,
    /// Position of its first event (a mark: the position that comes next).
    pub(crate) first: Position,
    /// Ordinal of the synced write that it belongs to: all frames of a group share it, each later write has a larger one.
    pub(crate) sequence: u64,
    /// When it was built; monotonic along the log.
    pub(crate) time_ms: u64,
    /// Chained hash before it.
    pub(crate) previous: ChainHash,
    /// Bytes of the body.
    pub(crate) body_len: u32,
    /// CRC32C of the body.
    pub(crate) body_crc: u32,
}

impl FrameHeader {
    /// The group goes on in the next frame.
    pub(crate) fn continues(&self) -> bool {
        self.flags & CONTINUES != 0
    }

    /// No events: everything before it was synced and the log was closed.
    pub(crate) fn is_mark(&self) -> bool {
        self.flags & MARK != 0
    }
}

/// What the writer decides about a frame; the rest follows from the body.
pub(crate) struct Draft {
    /// [`CONTINUES`], [`MARK`].
    pub(crate) flags: u16,
    /// Events in the body.
    pub(crate) count: u32,
    /// Position of the first.
    pub(crate) first: Position,
    /// Ordinal of the write.
    pub(crate) sequence: u64,
    /// Time of the write.
    pub(crate) time_ms: u64,
    /// Chained hash before it.
    pub(crate) previous: ChainHash,
}

/// Appends a frame to `into` and returns the chained hash after it.
pub(crate) fn append(into: &mut Vec<u8>, salt: &Salt, draft: &Draft, body: &[u8]) -> ChainHash {
    let len = frame_len(body.len());
    assert!(len as u64 <= FRAME_BYTES_MAX, "the writer splits groups at the frame limit");
    assert!((draft.count == 0) == (draft.flags & MARK != 0), "only a mark has no events");
    let start = into.len();
    into.extend_from_slice(&FRAME_MAGIC);
    into.extend_from_slice(&len32(len).to_le_bytes());
    into.extend_from_slice(&draft.flags.to_le_bytes());
    into.extend_from_slice(&[0; 2]);
    into.extend_from_slice(&draft.count.to_le_bytes());
    into.extend_from_slice(&draft.first.0.to_le_bytes());
    into.extend_from_slice(&draft.sequence.to_le_bytes());
    into.extend_from_slice(&draft.time_ms.to_le_bytes());
    into.extend_from_slice(&draft.previous.0);
    into.extend_from_slice(&len32(body.len()).to_le_bytes());
    into.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    into.extend_from_slice(&[0; 4]);
    let crc = salted_crc(salt, &into[start..]);
    into.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(into.len() - start, HEADER_LEN);
    into.extend_from_slice(body);
    into.resize(start + len - TRAILER_LEN, 0);
    into.extend_from_slice(&len32(len).to_le_bytes());
    into.extend_from_slice(&END_MAGIC);
    chain_after(draft.flags, draft.previous, &into[start..start + HEADER_LEN], body)
}

/// Bytes that a frame with a body of `body_len` takes.
pub(crate) fn frame_len(body_len: usize) -> usize {
    (HEADER_LEN + body_len + TRAILER_LEN).next_multiple_of(ALIGN)
}

/// The header at the start of `bytes`, if it is a whole and unharmed one of this segment.
pub(crate) fn parse_header(salt: &Salt, bytes: &[u8]) -> Option<FrameHeader> {
    let raw = bytes.get(..HEADER_LEN)?;
    let mut fields = Fields::new(raw);
    if fields.array()? != FRAME_MAGIC {
        return None;
    }
    let len = fields.u32()?;
    let flags = fields.u16()?;
    let reserved = fields.u16()?;
    let header = FrameHeader {
        len,
        flags,
        count: fields.u32()?,
        first: Position(fields.ordinal()?),
        sequence: fields.ordinal()?,
        time_ms: fields.u64()?,
        previous: ChainHash(fields.array()?),
        body_len: fields.u32()?,
        body_crc: fields.u32()?,
    };
    let sound = reserved == 0
        && fields.u32()? == 0
        && fields.u32()? == salted_crc(salt, &raw[..HEADER_LEN - 4])
        && flags & !(CONTINUES | MARK) == 0
        && flags != CONTINUES | MARK
        && (header.count == 0) == header.is_mark()
        && u64::from(len) <= FRAME_BYTES_MAX
        && frame_len(size(u64::from(header.body_len))) == size(u64::from(len));
    sound.then_some(header)
}

/// Checks what follows the header of a whole frame; returns the body and the chained hash after the frame.
pub(crate) fn check_body<'a>(header: &FrameHeader, frame: &'a [u8]) -> Result<(&'a [u8], ChainHash), &'static str> {
    assert_eq!(frame.len(), size(u64::from(header.len)), "the caller read the whole frame");
    let body_end = HEADER_LEN + size(u64::from(header.body_len));
    let (body, rest) = (&frame[HEADER_LEN..body_end], &frame[body_end..]);
    let (padding, trailer) = rest.split_at(rest.len() - TRAILER_LEN);
    if trailer[..4] != header.len.to_le_bytes() || trailer[4..] != END_MAGIC {
        return Err("the frame's end is not there");
    }
    if padding.iter().any(|byte| *byte != 0) {
        return Err("the frame's padding is not zero");
    }
    if crc32c::crc32c(body) != header.body_crc {
        return Err("the frame's body does not match its checksum");
    }
    Ok((body, chain_after(header.flags, header.previous, &frame[..HEADER_LEN], body)))
}

/// Chained hash: SHA-256 of the header without its salted checksum, then the body. The header holds the previous hash.
fn chain_after(flags: u16, previous: ChainHash, header: &[u8], body: &[u8]) -> ChainHash {
    if flags & MARK != 0 {
        return previous;
    }
    let mut hash = Sha256::new();
    hash.update(&header[..HEADER_LEN - 4]);
    hash.update(body);
    ChainHash(hash.finalize().into())
}

fn salted_crc(salt: &Salt, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(salt), bytes)
}

/// Random bytes of one segment.
pub(crate) type Salt = [u8; 16];
/// Start of a frame.
pub(crate) const FRAME_MAGIC: [u8; 4] = *b"RpFr";
/// Last bytes of a frame; the very last one is not zero.
const END_MAGIC: [u8; 4] = *b"rFpR";
/// Bytes before the body.
pub(crate) const HEADER_LEN: usize = 88;
/// Bytes after the padding.
pub(crate) const TRAILER_LEN: usize = 8;
/// Frames start at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// Flag: the group goes on in the next frame.
pub(crate) const CONTINUES: u16 = 1;
/// Flag: a mark, without events.
pub(crate) const MARK: u16 = 2;
/// Largest body of one frame.
pub(crate) const BODY_BYTES_MAX: u64 = FRAME_BYTES_MAX - (HEADER_LEN + TRAILER_LEN + ALIGN) as u64;

const _: () = assert!(HEADER_LEN.is_multiple_of(ALIGN));
const _: () = assert!(HEADER_LEN == 4 + 4 + 2 + 2 + 4 + 8 + 8 + 8 + 32 + 4 + 4 + 4 + 4);
