//! Identifiers: one newtype per id, so that an object, a pack and a push can never be mixed up.
//!
//! Invariants: 32-byte ids print as 64 lower-case hex digits and parse from the same, with or without the prefix
//! `sha256:`; nothing else parses. 16-byte ids print as UUIDs. A [`Position`] counts from 1; 0 is "before the first event".

use std::{fmt, str::FromStr};

use bincode::{Decode, Encode};

use crate::error::Error;

macro_rules! id32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0u8; 64];
                hex::encode_to_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
                out.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, out)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                parse_hex32(text).map($name)
            }
        }
    };
}

id32! {
    /// A blob, snapshot or commit within its kind (formulas: [`crate::object`]).
    ObjectId
}
id32! {
    /// A pack: SHA-256 of its content.
    PackId
}
id32! {
    /// SHA-256 of a record's canonical bytes (`<kind> <size>\0<payload>`); a blob's is not used, its id covers its bytes.
    RecordHash
}
id32! {
    /// The log's chained hash after a frame: it commits to everything before.
    ChainHash
}
id32! {
    /// SHA-256 of a pack's trailer table.
    TableHash
}
id32! {
    /// SHA-256 of a secret token; the token itself is never stored.
    TokenHash
}

macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&uuid::Uuid::from_bytes(self.0).hyphenated(), out)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, out)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let id = uuid::Uuid::try_parse(text).map_err(|_| Error::invalid(format!("'{text}' is not a UUID")))?;
                Ok($name(id.into_bytes()))
            }
        }

        impl $name {
            /// A random id (UUID version 4 layout) from 16 random bytes.
            pub fn from_random(bytes: [u8; 16]) -> Self {
                $name(uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes())
            }
        }
    };
}

id16! {
    /// A repository. A repository that is deleted and recreated gets a new one.
    RepoId
}
id16! {
    /// One push (any proposal to the log): the idempotency key inside the log.
    PushId
}
id16! {
    /// A token's public name.
    TokenId
}
id16! {
    /// One log, fixed when its directory or bucket is created.
    LogId
}

/// A dense, gapless sequence number in the log; the first event is at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode)]
pub struct Position(pub u64);

impl Position {
    /// Before the first event.
    pub const ZERO: Position = Position(0);

    /// The position after this one.
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, out)
    }
}

/// What an object is. The discriminants are stored in packs, events and index keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
#[repr(u8)]
pub enum Kind {
    /// A file's bytes.
    Blob = 0,
    /// A tree: paths to blob ids.
    Snapshot = 1,
    /// A point in history.
    Commit = 2,
}

impl Kind {
    /// The word in canonical bytes, on the command line and in answers.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Blob => "blob",
            Kind::Snapshot => "snapshot",
            Kind::Commit => "commit",
        }
    }

    /// The kind stored as `byte`, if there is one.
    pub fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            0 => Some(Kind::Blob),
            1 => Some(Kind::Snapshot),
            2 => Some(Kind::Commit),
            _ => None,
        }
    }

    /// The stored byte.
    pub fn byte(self) -> u8 {
        match self {
            Kind::Blob => 0,
            Kind::Snapshot => 1,
            Kind::Commit => 2,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

fn parse_hex32(text: &str) -> Result<[u8; 32], Error> {
    parse_bare_hex32(text.strip_prefix("sha256:").unwrap_or(text))
}

/// Parses an id as it stands inside records: 64 lower-case hex digits, no prefix.
pub(crate) fn parse_bare_hex32(text: &str) -> Result<[u8; 32], Error> {
    // A snapshot of 100,000 paths has as many ids: a table and no branch per digit.
    let mut id = [0u8; 32];
    let mut wrong = u8::from(text.len() != 64);
    for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let (high, low) = (DIGITS[usize::from(digits[0])], DIGITS[usize::from(digits[1])]);
        wrong |= (high | low) & NO_DIGIT;
        *byte = high << 4 | low & 0x0f;
    }
    if wrong == 0 {
        return Ok(id);
    }
    let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    Err(Error::invalid(format!("'{shown}' is not an id: 64 lower-case hex digits are expected")))
}

const NO_DIGIT: u8 = 0x80;

const DIGITS: [u8; 256] = {
    let mut table = [NO_DIGIT; 256];
    let mut value = 0u8;
    while value < 16 {
        let digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
        table[digit as usize] = value;
        value += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_id_parses_with_and_without_its_prefix_and_prints_without() {
        let text = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let id: ObjectId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(format!("sha256:{text}").parse::<ObjectId>().unwrap(), id);
    }

    #[test]
    fn upper_case_short_and_foreign_ids_are_refused() {
        for text in ["", "5891", "sha256:", &"A".repeat(64), &"g".repeat(64), &"0".repeat(65), "sha512:00"] {
            assert!(text.parse::<ObjectId>().is_err(), "{text}");
        }
    }

    #[test]
    fn inside_records_an_id_has_no_prefix() {
        let text = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(ObjectId(parse_bare_hex32(text).unwrap()).to_string(), text);
        for text in [format!("sha256:{text}"), text.replace('f', "F"), "ü".repeat(32), text[1..].to_owned()] {
            assert!(parse_bare_hex32(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn sixteen_byte_ids_are_uuids() {
        let id = RepoId::from_random([0xff; 16]);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(id.to_string().parse::<RepoId>().unwrap(), id);
        assert!("".parse::<PushId>().is_err());
    }

    #[test]
    fn a_kind_is_its_stored_byte_and_nothing_else_is_a_kind() {
        let found: Vec<Kind> = (0..=u8::MAX).filter_map(Kind::from_byte).collect();
        assert_eq!(found, [Kind::Blob, Kind::Snapshot, Kind::Commit]);
        assert!(found.iter().all(|kind| Kind::from_byte(kind.byte()) == Some(*kind)));
    }
}
