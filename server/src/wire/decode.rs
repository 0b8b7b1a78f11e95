//! msgpack in, token by token, over bytes that may stand in memory or in a spool.
//!
//! Invariants: reads nothing beyond the value asked for; allocates only for bytes that arrived; skips in constant memory
//! with a depth cap; never panics on any input.

use std::io::{self, BufRead};

use reprise_engine::{id::ObjectId, limits::JSON_DEPTH_MAX};

use super::{Field, WireError};

/// Buffered input that can step over bytes without reading them.
pub trait Source: BufRead {
    /// Steps over `count` bytes; `UnexpectedEof` if there are fewer.
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

impl Source for &[u8] {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let count = usize::try_from(count).ok().filter(|count| *count <= self.len());
        let count = count.ok_or(io::ErrorKind::UnexpectedEof)?;
        *self = &self[count..];
        Ok(())
    }
}

/// One value's head; strings and containers announce how much follows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Token {
    /// nil
    Nil,
    /// true or false
    Bool(bool),
    /// An integer that is not negative.
    Unsigned(u64),
    /// A negative integer.
    Negative(i64),
    /// A float; one of 32 bits is widened.
    Float(f64),
    /// A str of so many bytes.
    Str(u32),
    /// A bin of so many bytes.
    Bin(u32),
    /// An array of so many elements.
    Array(u32),
    /// A map of so many pairs.
    Map(u32),
    /// An extension of so many bytes (its type included): never accepted, only skipped or named.
    Ext(u64),
}

impl Token {
    /// What it is, for error texts.
    pub fn name(self) -> &'static str {
        match self {
            Token::Nil => "nil",
            Token::Bool(_) => "a boolean",
            Token::Unsigned(_) | Token::Negative(_) => "an integer",
            Token::Float(_) => "a float",
            Token::Str(_) => "a str",
            Token::Bin(_) => "a bin",
            Token::Array(_) => "an array",
            Token::Map(_) => "a map",
            Token::Ext(_) => "an extension",
        }
    }
}

/// Reads one msgpack value, front to back.
pub struct Decoder<S> {
    source: S,
    position: u64,
}

impl<S: Source> Decoder<S> {
    /// A decoder at the start of `source`.
    pub fn new(source: S) -> Decoder<S> {
        Decoder { source, position: 0 }
    }

    /// Bytes taken so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next value's head.
    pub fn token(&mut self, field: &Field<'_>) -> Result<Token, WireError> {
        let [head] = self.array::<1>(field)?;
        Ok(match head {
            0x00..=0x7f => Token::Unsigned(head.into()),
            0x80..=0x8f => Token::Map((head & 15).into()),
            0x90..=0x9f => Token::Array((head & 15).into()),
            0xa0..=0xbf => Token::Str((head & 31).into()),
            0xc0 => Token::Nil,
            0xc1 => return Err(WireError::Malformed(format!("{field}: byte 0xc1 is not msgpack"))),
            0xc2 => Token::Bool(false),
            0xc3 => Token::Bool(true),
            0xca => Token::Float(f32::from_be_bytes(self.array(field)?).into()),
            0xcb => Token::Float(f64::from_be_bytes(self.array(field)?)),
            0xd0..=0xd3 => self.signed(head, field)?,
            0xcc..=0xcf => Token::Unsigned(self.big_endian(1 << (head - 0xcc), field)?),
            0xd4..=0xd8 => Token::Ext((1u64 << (head - 0xd4)) + 1),
            0xc7..=0xc9 => Token::Ext(self.big_endian(1 << (head - 0xc7), field)? + 1),
            0xc4..=0xc6 => Token::Bin(self.length(1 << (head - 0xc4), field)?),
            0xd9..=0xdb => Token::Str(self.length(1 << (head - 0xd9), field)?),
            0xdc | 0xdd => Token::Array(self.length(2 << (head - 0xdc), field)?),
            0xde | 0xdf => Token::Map(self.length(2 << (head - 0xde), field)?),
            0xe0..=0xff => Token::Negative(i8::from_be_bytes([head]).into()),
        })
    }

    /// A map's head: how many pairs.
    pub fn map(&mut self, field: &Field<'_>) -> Result<u32, WireError> {
        match self.token(field)? {
            Token::Map(len) => Ok(len),
            other => Err(unexpected(field, other, "a map")),
        }
    }

    /// An array's head: how many elements, at most `max` of `what`.
    pub fn list(&mut self, what: &str, max: usize, field: &Field<'_>) -> Result<usize, WireError> {
        let len = match self.token(field)? {
            Token::Array(len) => usize::try_from(len).unwrap_or(usize::MAX),
            other => return Err(unexpected(field, other, "an array")),
        };
        if len > max {
            return Err(WireError::TooLarge(format!("{field}: {len} {what} in one request; the limit is {max}")));
        }
        Ok(len)
    }

    /// A str of at most `max` bytes.
    pub fn text(&mut self, max: usize, field: &Field<'_>) -> Result<String, WireError> {
        match self.token(field)? {
            Token::Str(len) => self.text_body(len, max, field),
            other => Err(unexpected(field, other, "a str")),
        }
    }

    /// The bytes of a str whose head was read.
    pub fn text_body(&mut self, len: u32, max: usize, field: &Field<'_>) -> Result<String, WireError> {
        if usize::try_from(len).map_or(true, |len| len > max) {
            return Err(WireError::TooLarge(format!("{field}: a str of {len} bytes; the limit is {max}")));
        }
        // `take` and `read_to_end` grow with what arrives: `len` alone allocates nothing.
        let mut bytes = Vec::new();
        let taken = io::Read::read_to_end(&mut io::Read::take(&mut self.source, len.into()), &mut bytes)?;
        if u32::try_from(taken) != Ok(len) {
            return Err(cut_short(field));
        }
        self.position += u64::from(len);
        String::from_utf8(bytes).map_err(|_| WireError::Invalid(format!("{field}: a str that is not UTF-8")))
    }

    /// An id: a str of 64 hex digits, with or without `sha256:`.
    pub fn id(&mut self, field: &Field<'_>) -> Result<ObjectId, WireError> {
        let len = match self.token(field)? {
            Token::Str(len @ 0..=71) => usize::try_from(len).unwrap_or(0),
            Token::Str(len) => {
                return Err(WireError::Invalid(format!(
                    "{field}: a str of {len} bytes where an id of 64 hex digits belongs"
                )));
            }
            other => return Err(unexpected(field, other, "an id (a str of 64 hex digits)")),
        };
        let mut bytes = [0u8; 71];
        self.exact(&mut bytes[..len], field)?;
        let text = std::str::from_utf8(&bytes[..len]).map_err(|_| WireError::Invalid(format!("{field}: not UTF-8")))?;
        text.parse().map_err(|error| WireError::Invalid(format!("{field}: {error}")))
    }

    /// A bin: where its bytes start and how many they are; they are stepped over.
    pub fn bin_span(&mut self, field: &Field<'_>) -> Result<(u64, u32), WireError> {
        let len = match self.token(field)? {
            Token::Bin(len) => len,
            other => return Err(unexpected(field, other, "a bin")),
        };
        let start = self.position;
        self.step_over(len.into(), field)?;
        Ok((start, len))
    }

    /// A boolean.
    pub fn boolean(&mut self, field: &Field<'_>) -> Result<bool, WireError> {
        match self.token(field)? {
            Token::Bool(value) => Ok(value),
            other => Err(unexpected(field, other, "a boolean")),
        }
    }

    /// An integer that is not negative.
    pub fn unsigned(&mut self, field: &Field<'_>) -> Result<u64, WireError> {
        match self.token(field)? {
            Token::Unsigned(value) => Ok(value),
            other => Err(unexpected(field, other, "an integer that is not negative")),
        }
    }

    /// Steps over one whole value in constant memory.
    pub fn skip(&mut self, field: &Field<'_>) -> Result<(), WireError> {
        // One counter per open container; the depth cap is the array's size.
        let mut open = [0u64; JSON_DEPTH_MAX + 8];
        let mut depth = 0;
        loop {
            match self.token(field)? {
                Token::Str(len) | Token::Bin(len) => self.step_over(len.into(), field)?,
                Token::Ext(len) => self.step_over(len, field)?,
                Token::Array(len) => push_level(&mut open, &mut depth, len.into(), field)?,
                Token::Map(len) => push_level(&mut open, &mut depth, u64::from(len) * 2, field)?,
                _ => {}
            }
            while depth > 0 && open[depth - 1] == 0 {
                depth -= 1;
            }
            if depth == 0 {
                return Ok(());
            }
            open[depth - 1] -= 1;
        }
    }

    /// Nothing may follow the one value of a body.
    pub fn finish(mut self) -> Result<(), WireError> {
        if self.source.fill_buf()?.is_empty() {
            return Ok(());
        }
        Err(WireError::Malformed(format!("bytes follow the body's one value, from byte {} on", self.position)))
    }

    fn signed(&mut self, head: u8, field: &Field<'_>) -> Result<Token, WireError> {
        let value = match head {
            0xd0 => i8::from_be_bytes(self.array(field)?).into(),
            0xd1 => i16::from_be_bytes(self.array(field)?).into(),
            0xd2 => i32::from_be_bytes(self.array(field)?).into(),
            _ => i64::from_be_bytes(self.array(field)?),
        };
        Ok(u64::try_from(value).map_or(Token::Negative(value), Token::Unsigned))
    }

    fn length(&mut self, bytes: usize, field: &Field<'_>) -> Result<u32, WireError> {
        let value = self.big_endian(bytes, field)?;
        u32::try_from(value).map_err(|_| WireError::Malformed(format!("{field}: a length of {value}")))
    }

    fn big_endian(&mut self, bytes: usize, field: &Field<'_>) -> Result<u64, WireError> {
        let mut wide = [0u8; 8];
        self.exact(&mut wide[8 - bytes..], field)?;
        Ok(u64::from_be_bytes(wide))
    }

    fn array<const N: usize>(&mut self, field: &Field<'_>) -> Result<[u8; N], WireError> {
        let mut bytes = [0u8; N];
        self.exact(&mut bytes, field)?;
        Ok(bytes)
    }

    fn exact(&mut self, bytes: &mut [u8], field: &Field<'_>) -> Result<(), WireError> {
        self.source.read_exact(bytes).map_err(|error| at_end(error, field))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn step_over(&mut self, count: u64, field: &Field<'_>) -> Result<(), WireError> {
        self.source.skip(count).map_err(|error| at_end(error, field))?;
        self.position += count;
        Ok(())
    }
}

/// The refusal of a value of the wrong type.
pub fn unexpected(field: &Field<'_>, found: Token, wanted: &str) -> WireError {
    WireError::Invalid(format!("{field}: {} where {wanted} belongs", found.name()))
}

fn push_level(open: &mut [u64], depth: &mut usize, count: u64, field: &Field<'_>) -> Result<(), WireError> {
    let limit = open.len();
    let slot = open.get_mut(*depth);
    *slot.ok_or_else(|| WireError::Invalid(format!("{field}: nested deeper than {limit} levels")))? = count;
    *depth += 1;
    Ok(())
}

fn at_end(error: io::Error, field: &Field<'_>) -> WireError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => cut_short(field),
        _ => WireError::Io(error),
    }
}

fn cut_short(field: &Field<'_>) -> WireError {
    WireError::Malformed(format!("{field}: the body ends in the middle of a value"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_that_announces_four_gigabytes_costs_nothing() {
        for hostile in [
            &[0xdb, 0xff, 0xff, 0xff, 0xff, b'x'][..],
            &[0xc6, 0xff, 0xff, 0xff, 0xff],
            &[0xdd, 0xff, 0xff, 0xff, 0xff],
        ] {
            let field = Field::root("body");
            assert!(Decoder::new(hostile).text(usize::MAX, &field).is_err());
            assert!(Decoder::new(hostile).skip(&field).is_err());
        }
    }

    #[test]
    fn nesting_is_capped_and_named() {
        let deep = vec![0x91; 1_000];
        let error = Decoder::new(&deep[..]).skip(&Field::root("body")).unwrap_err();
        assert!(error.to_string().contains("nested deeper than 72 levels"), "{error}");
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut decoder = Decoder::new(&[0xc0, 0x0a][..]);
        decoder.skip(&Field::root("body")).unwrap();
        assert!(decoder.finish().is_err());
    }

    #[test]
    fn a_bin_id_is_refused_by_name() {
        let mut bytes = vec![0xc4, 64];
        bytes.extend([b'a'; 64]);
        let error = Decoder::new(&bytes[..]).id(&Field::root("want").index(2)).unwrap_err();
        assert_eq!(error.to_string(), "want[2]: a bin where an id (a str of 64 hex digits) belongs");
    }

    proptest! {
        #[test]
        fn any_bytes_are_skipped_or_refused_and_never_read_past(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new(&bytes[..]);
            if decoder.skip(&Field::root("body")).is_ok() {
                prop_assert!(decoder.position() <= bytes.len() as u64);
            }
        }
    }
}
