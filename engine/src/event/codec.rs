//! The event codec: one event to bytes and back (layout and type numbers: FORMAT.md, "Events").
//!
//! Invariants: a (kind, version) pair never changes its meaning, a change of fields is a new version with an upcast in
//! `decode_body`; what was encoded decodes to an equal value, and no byte is left over; an event of a newer version is
//! refused before any field of it is used; memory is bounded by the input's size class, not by a length inside it.
//! Must never be called with bytes whose frame checksum was not verified first (it would only be slower to say no).

use bincode::{Decode, Encode, config, enc::write::Writer, error::EncodeError};

use super::{Event, EventBody};
use crate::{
    error::{Error, ErrorKind, Result},
    id::{Position, PushId},
    limits::{ACTOR_BYTES_MAX, FRAME_BYTES_MAX},
};

/// What stands before an event's body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventHeader {
    /// Advisory wall-clock time, milliseconds since 1970.
    pub time_ms: u64,
    /// The push that brings it.
    pub push: PushId,
    /// Fingerprint of the request ([`crate::engine::Proposal::fingerprint`]).
    pub fingerprint: u64,
    /// Who does it; at most [`ACTOR_BYTES_MAX`] bytes.
    pub actor: String,
}

/// Appends one event to `into`; on an error `into` is as it was.
///
/// Errors: `Invalid` for a body that [`EventBody::check`] refuses or an actor that is too long.
pub fn encode(header: &EventHeader, body: &EventBody, into: &mut Vec<u8>) -> Result<()> {
    body.check()?;
    let actor_len = u16::try_from(header.actor.len()).ok().filter(|len| usize::from(*len) <= ACTOR_BYTES_MAX);
    let Some(actor_len) = actor_len else {
        return Err(Error::invalid(format!(
            "an actor of {} bytes is over the limit of {ACTOR_BYTES_MAX}",
            header.actor.len()
        )));
    };
    let start = into.len();
    into.extend_from_slice(&[kind_of(body), current_version(body)]);
    into.extend_from_slice(&actor_len.to_le_bytes());
    into.extend_from_slice(&header.time_ms.to_le_bytes());
    into.extend_from_slice(&header.fingerprint.to_le_bytes());
    into.extend_from_slice(&header.push.0);
    assert_eq!(into.len() - start, HEADER_BYTES, "the fixed part of an event's header has one length");
    into.extend_from_slice(header.actor.as_bytes());
    encode_body(body, into).map_err(|error| {
        into.truncate(start);
        Error::invalid(format!("the event cannot be encoded: {error}"))
    })
}

/// Reads one event that fills `bytes` exactly. Returns it with its fingerprint.
///
/// Errors: `Invalid` for a kind or version that this program does not know, before anything else is looked at;
/// `Corrupt` for anything that `encode` never writes.
pub fn decode(position: Position, bytes: &[u8]) -> Result<(Event, u64)> {
    let [kind, version, ..] = *bytes else {
        return Err(damaged(position, format!("{} bytes are too few for an event", bytes.len())));
    };
    check_known(position, kind, version)?;
    let (time_ms, fingerprint, push, actor_len) = read_header(bytes)
        .ok_or_else(|| damaged(position, format!("{} bytes are too few for its header", bytes.len())))?;
    let rest = &bytes[HEADER_BYTES..];
    if actor_len > ACTOR_BYTES_MAX || actor_len > rest.len() {
        return Err(damaged(position, format!("its actor has {actor_len} bytes, the limit is {ACTOR_BYTES_MAX}")));
    }
    let (actor, payload) = rest.split_at(actor_len);
    let actor = std::str::from_utf8(actor).map_err(|_| damaged(position, "its actor is not UTF-8"))?;
    let body = decode_body(kind, version, payload).map_err(|error| damaged(position, error))?;
    body.check().map_err(|error| damaged(position, error))?;
    Ok((Event { position, time_ms, push, actor: actor.to_owned(), body }, fingerprint))
}

fn read_header(bytes: &[u8]) -> Option<(u64, u64, PushId, usize)> {
    let (actor_len, rest) = bytes.get(2..)?.split_first_chunk::<2>()?;
    let (time_ms, rest) = rest.split_first_chunk::<8>()?;
    let (fingerprint, rest) = rest.split_first_chunk::<8>()?;
    let (push, _) = rest.split_first_chunk::<16>()?;
    let actor_len = usize::from(u16::from_le_bytes(*actor_len));
    Some((u64::from_le_bytes(*time_ms), u64::from_le_bytes(*fingerprint), PushId(*push), actor_len))
}

fn check_known(position: Position, kind: u8, version: u8) -> Result<()> {
    let known = KINDS.iter().find(|known| known.number == kind);
    match known {
        Some(known) if (1..=known.version).contains(&version) => Ok(()),
        Some(known) => Err(Error::invalid(format!(
            "event {position} was written by a newer version of Reprise: {} version {version}, this program knows 1 to {}",
            known.name, known.version
        ))),
        None => Err(Error::invalid(format!(
            "event {position} was written by a newer version of Reprise: this program knows no event of kind {kind}"
        ))),
    }
}

/// One row of the table of event kinds. Numbers and names are format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventKind {
    /// The stored number.
    pub number: u8,
    /// The version that is written now; 1 to this one are read.
    pub version: u8,
    /// Its name in answers and golden files.
    pub name: &'static str,
}

impl EventKind {
    /// The row of a body's kind.
    pub fn of(body: &EventBody) -> &'static EventKind {
        let number = kind_of(body);
        let row = &KINDS[usize::from(number) - 1];
        assert_eq!(row.number, number, "the table of event kinds is dense and in order");
        row
    }
}

/// All event kinds, by number, dense from 1.
pub const KINDS: [EventKind; 13] = [
    EventKind { number: 1, version: 1, name: "repo-created" },
    EventKind { number: 2, version: 1, name: "repo-updated" },
    EventKind { number: 3, version: 1, name: "repo-deleted" },
    EventKind { number: 4, version: 1, name: "objects-received" },
    EventKind { number: 5, version: 1, name: "refs-updated" },
    EventKind { number: 6, version: 1, name: "tags-set" },
    EventKind { number: 7, version: 1, name: "tags-deleted" },
    EventKind { number: 8, version: 1, name: "release-published" },
    EventKind { number: 9, version: 1, name: "release-retracted" },
    EventKind { number: 10, version: 1, name: "token-issued" },
    EventKind { number: 11, version: 1, name: "token-revoked" },
    EventKind { number: 12, version: 1, name: "rows-condemned" },
    EventKind { number: 13, version: 1, name: "packs-relocated" },
];

fn kind_of(body: &EventBody) -> u8 {
    match body {
        EventBody::RepoCreated(_) => 1,
        EventBody::RepoUpdated(_) => 2,
        EventBody::RepoDeleted(_) => 3,
        EventBody::ObjectsReceived(_) => 4,
        EventBody::RefsUpdated(_) => 5,
        EventBody::TagsSet(_) => 6,
        EventBody::TagsDeleted(_) => 7,
        EventBody::ReleasePublished(_) => 8,
        EventBody::ReleaseRetracted(_) => 9,
        EventBody::TokenIssued(_) => 10,
        EventBody::TokenRevoked(_) => 11,
        EventBody::RowsCondemned(_) => 12,
        EventBody::PacksRelocated(_) => 13,
    }
}

fn current_version(body: &EventBody) -> u8 {
    EventKind::of(body).version
}

fn encode_body(body: &EventBody, into: &mut Vec<u8>) -> std::result::Result<(), EncodeError> {
    match body {
        EventBody::RepoCreated(body) | EventBody::RepoUpdated(body) => append(body, into),
        EventBody::RepoDeleted(body) => append(body, into),
        EventBody::ObjectsReceived(body) => append(body, into),
        EventBody::RefsUpdated(body) => append(body, into),
        EventBody::TagsSet(body) => append(body, into),
        EventBody::TagsDeleted(body) => append(body, into),
        EventBody::ReleasePublished(body) => append(body, into),
        EventBody::ReleaseRetracted(body) => append(body, into),
        EventBody::TokenIssued(body) | EventBody::TokenRevoked(body) => append(body, into),
        EventBody::RowsCondemned(body) => append(body, into),
        EventBody::PacksRelocated(body) => append(body, into),
    }
}

/// Every (kind, version) that was ever written, to the current type. An older version decodes into its own stored type
/// and is upcast here: `(4, 1) => read::<ObjectsReceivedV1>(bytes).map(|old| EventBody::ObjectsReceived(old.into()))`.
fn decode_body(kind: u8, version: u8, bytes: &[u8]) -> std::result::Result<EventBody, String> {
    match (kind, version) {
        (1, 1) => read(bytes).map(EventBody::RepoCreated),
        (2, 1) => read(bytes).map(EventBody::RepoUpdated),
        (3, 1) => read(bytes).map(EventBody::RepoDeleted),
        (4, 1) => read(bytes).map(EventBody::ObjectsReceived),
        (5, 1) => read(bytes).map(EventBody::RefsUpdated),
        (6, 1) => read(bytes).map(EventBody::TagsSet),
        (7, 1) => read(bytes).map(EventBody::TagsDeleted),
        (8, 1) => read(bytes).map(EventBody::ReleasePublished),
        (9, 1) => read(bytes).map(EventBody::ReleaseRetracted),
        (10, 1) => read(bytes).map(EventBody::TokenIssued),
        (11, 1) => read(bytes).map(EventBody::TokenRevoked),
        (12, 1) => read(bytes).map(EventBody::RowsCondemned),
        (13, 1) => read(bytes).map(EventBody::PacksRelocated),
        _ => Err(format!("no decoder for kind {kind} version {version}")),
    }
}

fn append<T: Encode>(value: &T, into: &mut Vec<u8>) -> std::result::Result<(), EncodeError> {
    bincode::encode_into_writer(value, Appender(into), config::standard())
}

/// The limit counts bytes in memory as well as bytes read, and it is a constant of the type: so two classes. A small
/// event can never make the decoder reserve more than 2 MiB, whatever lengths stand in it.
fn read<T: Decode<()>>(bytes: &[u8]) -> std::result::Result<T, String> {
    let decoded = if bytes.len() <= SMALL_EVENT_BYTES_MAX {
        bincode::decode_from_slice(bytes, config::standard().with_limit::<SMALL_DECODE_BYTES_MAX>())
    } else {
        bincode::decode_from_slice(bytes, config::standard().with_limit::<DECODE_BYTES_MAX>())
    };
    let (value, used) = decoded.map_err(|error| error.to_string())?;
    if used != bytes.len() {
        return Err(format!("{} bytes are left over", bytes.len() - used));
    }
    Ok(value)
}

fn damaged(position: Position, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("event {position} is damaged: {what}"))
}

struct Appender<'a>(&'a mut Vec<u8>);

impl Writer for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::result::Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// kind 1, version 1, actor length 2, time 8, fingerprint 8, push 16.
const HEADER_BYTES: usize = 1 + 1 + 2 + 8 + 8 + 16;
const SMALL_EVENT_BYTES_MAX: usize = 64 << 10;
const SMALL_DECODE_BYTES_MAX: usize = 2 << 20;
const DECODE_BYTES_MAX: usize = 64 << 20;

// An element takes at most 32 times its encoded bytes in memory (an empty string: 1 byte encoded, 24 in memory).
const _: () = assert!(SMALL_EVENT_BYTES_MAX * 32 <= SMALL_DECODE_BYTES_MAX);
const _: () = assert!(DECODE_BYTES_MAX as u64 >= 4 * FRAME_BYTES_MAX);

#[cfg(test)]
mod tests;
