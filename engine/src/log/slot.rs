//! A slot: one commit of a bucket log, as an object of its own until its segment is sealed (FORMAT.md §5.1).
//!
//! Invariants: a slot holds exactly one group, the frames of which are those of its segment, byte for byte; its key is the
//! ordinal of its write; whoever wrote it knows it again by its batch id.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    fields::Fields,
    frame::Salt,
    header::FORMAT_VERSION,
    scan::{From, GroupReader, RawGroup, Step},
};
use crate::{
    disk::bytes::BytesFile,
    error::{Error, ErrorKind, Result},
    id::LogId,
    limits::PROPOSAL_BYTES_MAX,
    writer::Tail,
};

/// Names a server from its start to its end. Random.
pub(crate) type ServerId = [u8; 8];
/// Names one try of one server to write one group: the server, then eight random bytes.
pub(crate) type Batch = [u8; 16];

/// A slot object, its header checked.
pub(crate) struct Slot {
    key: Arc<str>,
    /// Of which write.
    pub(crate) ordinal: u64,
    salt: Salt,
    /// Who wrote it.
    pub(crate) batch: Batch,
    frames: Bytes,
}

/// The server that a batch is of.
pub(crate) fn server(batch: &Batch) -> ServerId {
    let [a, b, c, d, e, f, g, h, ..] = *batch;
    [a, b, c, d, e, f, g, h]
}

/// The object that puts `frames` at `tail`.
pub(crate) fn encode(log: LogId, tail: &Tail, batch: Batch, frames: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SLOT_HEADER_LEN + frames.len());
    bytes.extend_from_slice(&SLOT_MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&log.0);
    bytes.extend_from_slice(&tail.ordinal.to_le_bytes());
    bytes.extend_from_slice(&tail.salt);
    bytes.extend_from_slice(&batch);
    bytes.extend_from_slice(&(frames.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(bytes.len(), SLOT_HEADER_LEN);
    bytes.extend_from_slice(frames);
    bytes
}

impl Slot {
    /// Reads the object under `key`, which is the slot of `ordinal`. `Corrupt` if it is not that, `Invalid` for a newer format.
    pub(crate) fn decode(key: &str, log: LogId, ordinal: u64, object: &Bytes) -> Result<Slot> {
        let corrupt = |what: &str| Error::corrupt(key, 0, what);
        let mut fields = Fields::new(object);
        let head = fields.slice(SLOT_HEADER_LEN).ok_or_else(|| corrupt("the slot's header is cut"))?;
        let parsed = parse(head).ok_or_else(|| corrupt("the slot's header is damaged"))?;
        if parsed.version > FORMAT_VERSION {
            let message =
                format!("{key} has slot format {}; this program knows up to {FORMAT_VERSION}", parsed.version);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if parsed.log != log {
            return Err(corrupt(&format!("the slot belongs to log {}", parsed.log)));
        }
        if parsed.ordinal != ordinal || parsed.frames != (object.len() - SLOT_HEADER_LEN) as u64 {
            return Err(corrupt("the slot is another one, or cut"));
        }
        let frames = object.slice(SLOT_HEADER_LEN..);
        Ok(Slot { key: key.into(), ordinal, salt: parsed.salt, batch: parsed.batch, frames })
    }

    /// The group, which must go on at `tail`: `Corrupt` if it does not.
    pub(crate) fn group(&self, tail: &Tail) -> Result<RawGroup> {
        let len = self.frames.len() as u64;
        let file = Arc::new(BytesFile::new(&*self.key, self.frames.clone()));
        let from = From { offset: 0, next: tail.next, sequence: self.ordinal, chain: Some(tail.chain) };
        let mut reader = GroupReader::new(file, self.key.clone(), self.salt, from, len);
        match reader.step()? {
            Step::Group(group) if group.end == len => Ok(group),
            Step::Stop(why) => Err(Error::corrupt(&*self.key, SLOT_HEADER_LEN as u64 + reader.offset, why)),
            Step::Group(_) | Step::Mark { .. } => {
                Err(Error::corrupt(&*self.key, SLOT_HEADER_LEN as u64, "a slot holds one group and nothing else"))
            }
        }
    }
}

struct Head {
    version: u32,
    log: LogId,
    ordinal: u64,
    salt: Salt,
    batch: Batch,
    frames: u64,
}

fn parse(bytes: &[u8]) -> Option<Head> {
    let mut fields = Fields::new(bytes);
    let magic: [u8; 8] = fields.array()?;
    let version = fields.u32()?;
    let reserved = fields.u32()?;
    let head = Head {
        version,
        log: LogId(fields.array()?),
        ordinal: fields.ordinal()?,
        salt: fields.array()?,
        batch: fields.array()?,
        frames: fields.u64()?,
    };
    let zero = fields.u32()?;
    let sound = magic == SLOT_MAGIC
        && (reserved, zero) == (0, 0)
        && version >= 1
        && fields.u32()? == crc32c::crc32c(&bytes[..SLOT_HEADER_LEN - 4]);
    sound.then_some(head)
}

const SLOT_MAGIC: [u8; 8] = *b"RepriseS";
/// Bytes before the frames.
pub(crate) const SLOT_HEADER_LEN: usize = 8 + 4 + 4 + 16 + 8 + 16 + 16 + 8 + 4 + 4;
/// No slot is larger: a group, its frames' headers and its own.
pub(crate) const SLOT_BYTES_MAX: u64 = 2 * PROPOSAL_BYTES_MAX;
