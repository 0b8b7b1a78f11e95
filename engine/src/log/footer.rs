//! What a sealed segment carries after its last frame: sparse index, push ids, decision state, trailer (FORMAT.md §4.3).
//!
//! Invariants: each section has its own checksum, so that a bad one is refolded and the others are still used; the
//! trailer is the last bytes of the file and accounts for every byte after the frames.

use super::fields::Fields;
use crate::{
    id::{ChainHash, LogId, Position},
    log::header::FORMAT_VERSION,
};

/// Where a group starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IndexEntry {
    /// Position of its first event.
    pub(crate) position: Position,
    /// Byte offset of its first frame.
    pub(crate) offset: u64,
    /// Ordinal of its write.
    pub(crate) sequence: u64,
}

/// The trailer: a summary of the segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Trailer {
    /// Which log.
    pub(crate) log: LogId,
    /// Position of the segment's first event.
    pub(crate) first: Position,
    /// Position of its last event.
    pub(crate) last: Position,
    /// Ordinal of the first write after it.
    pub(crate) sequence: u64,
    /// Byte offset after its last frame.
    pub(crate) frames_end: u64,
    /// Time of its last group.
    pub(crate) time_ms: u64,
    /// Chained hash after its last group.
    pub(crate) chain: ChainHash,
    /// The sections, in file order: index, push ids, state.
    pub(crate) sections: [Section; 3],
}

/// Length and checksum of one section.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Section {
    /// Bytes.
    pub(crate) len: u64,
    /// CRC32C.
    pub(crate) crc: u32,
}

/// Which section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// Position to offset, one per 64 KiB of frames.
    Index = 0,
    /// Sorted run of push ids.
    Pushes = 1,
    /// Decision state after the segment.
    State = 2,
}

impl Trailer {
    /// Offset and length of a section.
    pub(crate) fn range(&self, part: Part) -> (u64, u64) {
        let before: u64 = self.sections[..part as usize].iter().map(|section| section.len).sum();
        (self.frames_end + before, self.sections[part as usize].len)
    }

    /// Whether `bytes` are the section's.
    pub(crate) fn matches(&self, part: Part, bytes: &[u8]) -> bool {
        crc32c::crc32c(bytes) == self.sections[part as usize].crc
    }

    /// The whole footer: sections, then trailer. Fills in `sections`.
    pub(crate) fn encode(mut self, parts: [&[u8]; 3]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum::<usize>() + TRAILER_LEN);
        for (section, part) in self.sections.iter_mut().zip(parts) {
            *section = Section { len: part.len() as u64, crc: crc32c::crc32c(part) };
            bytes.extend_from_slice(part);
        }
        let start = bytes.len();
        bytes.extend_from_slice(&FOOTER_MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.log.0);
        for number in [self.first.0, self.last.0, self.sequence, self.frames_end, self.time_ms] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.chain.0);
        for section in self.sections {
            bytes.extend_from_slice(&section.len.to_le_bytes());
        }
        for section in self.sections {
            bytes.extend_from_slice(&section.crc.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[start..]);
        bytes.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(bytes.len() - start, TRAILER_LEN);
        bytes
    }

    /// Reads the last [`TRAILER_LEN`] bytes of a file of `file_len` bytes; `None` if they are no sound trailer of it.
    pub(crate) fn decode(bytes: &[u8], file_len: u64) -> Option<Trailer> {
        let mut fields = Fields::new(bytes.get(..TRAILER_LEN)?);
        let magic: [u8; 8] = fields.array()?;
        let version = fields.u32()?;
        let reserved = fields.u32()?;
        let mut trailer = Trailer {
            log: LogId(fields.array()?),
            first: Position(fields.ordinal()?),
            last: Position(fields.ordinal()?),
            sequence: fields.ordinal()?,
            frames_end: fields.u64()?,
            time_ms: fields.u64()?,
            chain: ChainHash(fields.array()?),
            sections: [Section::default(); 3],
        };
        for section in &mut trailer.sections {
            section.len = fields.u64()?;
        }
        for section in &mut trailer.sections {
            section.crc = fields.u32()?;
        }
        let sound = magic == FOOTER_MAGIC
            && version == FORMAT_VERSION
            && reserved == 0
            && fields.u32()? == crc32c::crc32c(&bytes[..TRAILER_LEN - 4]);
        let counted = trailer
            .sections
            .iter()
            .try_fold(trailer.frames_end, |sum, section| sum.checked_add(section.len))?
            .checked_add(TRAILER_LEN as u64)?;
        (sound && counted == file_len && trailer.first <= trailer.last).then_some(trailer)
    }
}

/// The index section.
pub(crate) fn encode_index(entries: &[IndexEntry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * 24);
    for entry in entries {
        bytes.extend_from_slice(&entry.position.0.to_le_bytes());
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        bytes.extend_from_slice(&entry.sequence.to_le_bytes());
    }
    bytes
}

/// Reads the index section; `None` if it is not one.
pub(crate) fn decode_index(bytes: &[u8]) -> Option<Vec<IndexEntry>> {
    let mut entries = Vec::with_capacity(bytes.len() / 24);
    let mut fields = Fields::new(bytes);
    while !fields.is_empty() {
        entries.push(IndexEntry {
            position: Position(fields.ordinal()?),
            offset: fields.u64()?,
            sequence: fields.ordinal()?,
        });
    }
    entries.windows(2).all(|pair| pair[0].position < pair[1].position).then_some(entries)
}

/// Start of the trailer.
const FOOTER_MAGIC: [u8; 8] = *b"RepriseF";
/// Bytes of the trailer.
pub(crate) const TRAILER_LEN: usize = 8 + 4 + 4 + 16 + 5 * 8 + 32 + 3 * 8 + 3 * 4 + 4;
/// A new index entry after this many bytes of frames.
pub(crate) const INDEX_BYTES: u64 = 64 << 10;
