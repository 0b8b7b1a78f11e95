//! From stored form to verified payload.
//!
//! Invariants: `real_len` is a hard limit, checked against the kind's cap before anything else; memory grows with the
//! bytes that really come out, not with what a header says; nothing is returned that does not hash to its name.

use std::cell::RefCell;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::{Location, compress::WINDOW_LOG_MAX, layout::real_len_max};
use crate::{
    error::{Error, Result},
    event::Codec,
    id::{Kind, ObjectId},
    store::StoreKey,
};

/// Decodes and verifies a stored form that was read already (`stored` are exactly the bytes at the location); `base` is
/// the decoded payload of the base entry for `ZstdPrefix`.
pub fn decode_object(
    kind: Kind,
    id: ObjectId,
    location: &Location,
    stored: &[u8],
    base: Option<&[u8]>,
) -> Result<Bytes> {
    let payload = match location.codec {
        Codec::Raw => Bytes::copy_from_slice(unpack_raw(kind, location, stored)?),
        Codec::Zstd | Codec::ZstdPrefix => Bytes::from(inflate(kind, location, stored, base)?),
    };
    check_name(kind, id, location, &payload)?;
    Ok(payload)
}

/// As [`decode_object`], without a copy where the stored form is the payload.
pub(super) fn decode_shared(
    kind: Kind,
    id: ObjectId,
    location: &Location,
    stored: &Bytes,
    base: Option<&[u8]>,
) -> Result<Bytes> {
    if location.codec != Codec::Raw {
        return decode_object(kind, id, location, stored, base);
    }
    unpack_raw(kind, location, stored)?;
    check_name(kind, id, location, stored)?;
    Ok(stored.clone())
}

fn unpack_raw<'a>(kind: Kind, location: &Location, stored: &'a [u8]) -> Result<&'a [u8]> {
    check_lengths(kind, location)?;
    if stored.len() as u64 != location.real_len {
        return Err(damaged(location, "a raw entry has another length than its payload"));
    }
    Ok(stored)
}

/// Lengths of an index row or table row, before they are used.
pub(super) fn check_lengths(kind: Kind, location: &Location) -> Result<()> {
    let limit = real_len_max(kind);
    // zstd never stores more than a little above the payload; 1/64 and 64 KiB cover its frame and block headers.
    let stored_max = location.real_len.saturating_add(location.real_len / 64 + (64 << 10));
    if location.real_len > limit {
        return Err(damaged(
            location,
            &format!("payload of {} bytes, more than the {limit} of a {kind}", location.real_len),
        ));
    }
    if location.stored_len > stored_max {
        return Err(damaged(location, "the stored form is longer than its payload can need"));
    }
    Ok(())
}

/// Decodes one zstd frame to exactly `real_len` bytes, unverified.
pub(super) fn inflate(kind: Kind, location: &Location, stored: &[u8], base: Option<&[u8]>) -> Result<Vec<u8>> {
    check_lengths(kind, location)?;
    if (location.codec == Codec::ZstdPrefix) != base.is_some() {
        return Err(damaged(location, "the entry and its base do not fit together"));
    }
    let real_len = usize::try_from(location.real_len).map_err(|_| damaged(location, "too long for this machine"))?;
    if base.is_none() && real_len <= ONE_SHOT_BYTES_MAX {
        return inflate_at_once(location, stored, real_len);
    }
    let mut inflater = Inflater::new(base, location)?;
    let mut input = stored;
    let mut out = Vec::new();
    loop {
        // One byte more than allowed, so that too long a payload shows.
        let room = (real_len + 1 - out.len()).min(out.len().max(GROW_BYTES));
        let ended = inflater.step(&mut input, &mut out, room, location)?;
        if out.len() > real_len {
            return Err(damaged(location, "it decodes to more than its real length"));
        }
        if ended {
            break;
        }
        if input.is_empty() && inflater.starved {
            return Err(damaged(location, "its zstd frame ends early"));
        }
    }
    if out.len() != real_len || !input.is_empty() {
        return Err(damaged(location, "it does not decode to its real length"));
    }
    Ok(out)
}

/// Decodes a small plain frame with the thread's own context: making one costs more than decoding a few kilobytes.
fn inflate_at_once(location: &Location, stored: &[u8], real_len: usize) -> Result<Vec<u8>> {
    thread_local! {
        static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    }
    let mut out = Vec::with_capacity(real_len);
    // One shot never writes past the capacity: a frame that holds more is an error, not a longer payload.
    let made = CONTEXT.with_borrow_mut(|context| context.decompress(&mut out, stored));
    let made = made.map_err(|code| damaged(location, &format!("zstd: {}", get_error_name(code))))?;
    if made != real_len || out.len() != real_len {
        return Err(damaged(location, "it does not decode to its real length"));
    }
    Ok(out)
}

/// A zstd frame being decoded piece by piece.
pub(super) struct Inflater<'a> {
    context: DCtx<'a>,
    /// True if the last step left room in its output: without more input nothing more comes.
    pub starved: bool,
}

impl<'a> Inflater<'a> {
    /// Starts a frame; `base` stands before it.
    pub fn new(base: Option<&'a [u8]>, location: &Location) -> Result<Inflater<'a>> {
        let code = |code| damaged(location, get_error_name(code));
        let mut context = DCtx::create();
        let window_log = if base.is_some() { WINDOW_LOG_MAX } else { PLAIN_WINDOW_LOG_MAX };
        context.set_parameter(DParameter::WindowLogMax(window_log)).map_err(code)?;
        if let Some(base) = base {
            context.ref_prefix(base).map_err(code)?;
        }
        Ok(Inflater { context, starved: false })
    }

    /// Takes from `input` and appends at most `room` bytes to `out`. True: the frame ended.
    pub fn step(&mut self, input: &mut &[u8], out: &mut Vec<u8>, room: usize, location: &Location) -> Result<bool> {
        let start = out.len();
        out.resize(start + room, 0);
        let mut source = InBuffer::around(input);
        let mut target = OutBuffer::around_pos(out.as_mut_slice(), start);
        let hint = self.context.decompress_stream(&mut target, &mut source);
        let (made, used) = (target.pos(), source.pos());
        out.truncate(made);
        *input = &input[used..];
        let hint = hint.map_err(|code| damaged(location, &format!("zstd: {}", get_error_name(code))))?;
        self.starved = made < start + room;
        Ok(hint == 0)
    }
}

/// Checks a payload against its id (blob) or record hash (snapshot, commit).
pub(super) fn check_name(kind: Kind, id: ObjectId, location: &Location, payload: &[u8]) -> Result<()> {
    match (kind, location.record_hash) {
        (Kind::Blob, _) if Sha256::digest(payload)[..] == id.0 => Ok(()),
        (Kind::Blob, _) => Err(damaged(location, &format!("blob {id} does not hash to its id"))),
        (_, None) => Err(damaged(location, &format!("{kind} {id} has no record hash"))),
        (_, Some(hash)) if canonical_hash(kind, payload) == hash.0 => Ok(()),
        (_, Some(_)) => Err(damaged(location, &format!("{kind} {id} does not match its record hash"))),
    }
}

/// SHA-256 of the canonical bytes.
pub(super) fn canonical_hash(kind: Kind, payload: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(format!("{kind} {}\0", payload.len()));
    hasher.update(payload);
    hasher.finalize().into()
}

/// Damage at a location.
pub(super) fn damaged(location: &Location, what: &str) -> Error {
    Error::corrupt(StoreKey::pack(location.pack).as_str(), location.offset, what)
}

/// Up to here a payload's room is taken at once; larger ones grow as bytes come out.
const ONE_SHOT_BYTES_MAX: usize = 1 << 20;
/// Output grows by doubling from this.
const GROW_BYTES: usize = 256 << 10;
/// Plain frames of our writer use windows of at most 2^21 (or their own size when smaller).
const PLAIN_WINDOW_LOG_MAX: u32 = 23;
