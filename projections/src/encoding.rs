//! The canonical row encoding: explicit, fixed, small; digests hash exactly these bytes.
//!
//! Invariants: integers are LEB128 in their shortest form; byte strings are length-prefixed; ids stand as they are; an
//! enum is its stored byte. One value has one encoding, whatever the store. A decoder never allocates from a length it
//! has not checked against the bytes at hand, and trailing bytes are an error.

use reprise_engine::{
    Error, Result,
    event::{Codec, Scope, Visibility},
    id::{ObjectId, Position},
};

/// Appends fields to a row.
#[derive(Default, Clone, Debug)]
pub struct RowWriter {
    bytes: Vec<u8>,
}

impl RowWriter {
    /// An empty row.
    pub fn new() -> RowWriter {
        RowWriter::default()
    }

    /// Starts the next row, keeping the room of the last one.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// The row so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One byte.
    pub fn byte(&mut self, byte: u8) -> &mut Self {
        self.bytes.push(byte);
        self
    }

    /// An integer, LEB128.
    pub fn int(&mut self, mut value: u64) -> &mut Self {
        loop {
            let low = value.to_le_bytes()[0] & 0x7f;
            value >>= 7;
            if value == 0 {
                self.bytes.push(low);
                return self;
            }
            self.bytes.push(low | 0x80);
        }
    }

    /// A position.
    pub fn position(&mut self, position: Position) -> &mut Self {
        self.int(position.0)
    }

    /// Bytes whose length is known to the reader.
    pub fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Bytes behind their length.
    pub fn blob(&mut self, bytes: &[u8]) -> &mut Self {
        self.int(bytes.len() as u64);
        self.fixed(bytes)
    }

    /// Text behind its length.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.blob(text.as_bytes())
    }

    /// 0 or 1.
    pub fn flag(&mut self, flag: bool) -> &mut Self {
        self.byte(u8::from(flag))
    }
}

/// Takes fields from a row.
pub struct RowReader<'a> {
    model: &'static str,
    rest: &'a [u8],
}

impl<'a> RowReader<'a> {
    /// Reads `row` of the projection called `model`.
    pub fn new(model: &'static str, row: &'a [u8]) -> RowReader<'a> {
        RowReader { model, rest: row }
    }

    /// The error of a row that is not what a fold writes.
    pub fn damaged(&self, what: &str) -> Error {
        Error::corrupt(format!("projection {}", self.model), 0, format!("a row does not decode: {what}"))
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8> {
        let (first, rest) = self.rest.split_first().ok_or_else(|| self.damaged("it ends early"))?;
        self.rest = rest;
        Ok(*first)
    }

    /// An integer; only its shortest form is accepted.
    pub fn int(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                return Err(self.damaged("an integer is too large"));
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(self.damaged("an integer is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(self.damaged("an integer is too long"))
    }

    /// An integer of 32 bits.
    pub fn int32(&mut self) -> Result<u32> {
        let value = self.int()?;
        u32::try_from(value).map_err(|_| self.damaged("an integer is too large"))
    }

    /// A position.
    pub fn position(&mut self) -> Result<Position> {
        self.int().map(Position)
    }

    /// `N` bytes.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (first, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.damaged("it ends early"))?;
        self.rest = rest;
        Ok(*first)
    }

    /// An object id.
    pub fn object(&mut self) -> Result<ObjectId> {
        self.fixed().map(ObjectId)
    }

    /// Bytes behind their length.
    pub fn blob(&mut self) -> Result<&'a [u8]> {
        let len = usize::try_from(self.int()?).map_err(|_| self.damaged("a length is too large"))?;
        let (first, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.damaged("it ends early"))?;
        self.rest = rest;
        Ok(first)
    }

    /// Text behind its length.
    pub fn text(&mut self) -> Result<String> {
        let bytes = self.blob()?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.damaged("text is not UTF-8"))?;
        Ok(text.to_owned())
    }

    /// 0 or 1.
    pub fn flag(&mut self) -> Result<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.damaged("a flag is neither 0 nor 1")),
        }
    }

    /// The row must end here.
    pub fn end(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.damaged("bytes follow its end")) }
    }
}

/// The stored byte of a codec.
pub fn codec_byte(codec: Codec) -> u8 {
    match codec {
        Codec::Raw => 0,
        Codec::Zstd => 1,
        Codec::ZstdPrefix => 2,
    }
}

/// The codec of a stored byte.
pub fn codec_of(reader: &mut RowReader<'_>) -> Result<Codec> {
    match reader.byte()? {
        0 => Ok(Codec::Raw),
        1 => Ok(Codec::Zstd),
        2 => Ok(Codec::ZstdPrefix),
        _ => Err(reader.damaged("an unknown codec")),
    }
}

/// The stored byte of a visibility.
pub fn visibility_byte(visibility: Visibility) -> u8 {
    match visibility {
        Visibility::Public => 0,
        Visibility::Private => 1,
    }
}

/// The visibility of a stored byte.
pub fn visibility_of(reader: &mut RowReader<'_>) -> Result<Visibility> {
    match reader.byte()? {
        0 => Ok(Visibility::Public),
        1 => Ok(Visibility::Private),
        _ => Err(reader.damaged("an unknown visibility")),
    }
}

/// The stored byte of a token's scope.
pub fn scope_byte(scope: Scope) -> u8 {
    match scope {
        Scope::Read => 0,
        Scope::Write => 1,
        Scope::Admin => 2,
    }
}

/// The scope of a stored byte.
pub fn scope_of(reader: &mut RowReader<'_>) -> Result<Scope> {
    match reader.byte()? {
        0 => Ok(Scope::Read),
        1 => Ok(Scope::Write),
        2 => Ok(Scope::Admin),
        _ => Err(reader.damaged("an unknown token scope")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn integers_come_back_and_take_their_shortest_form() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut writer = RowWriter::new();
            writer.int(value);
            let mut reader = RowReader::new("test", writer.bytes());
            assert_eq!(reader.int().unwrap(), value);
            reader.end().unwrap();
        }
        assert!(RowReader::new("test", &[0x80, 0x00]).int().is_err(), "two bytes for zero");
        assert!(RowReader::new("test", &[0xff; 10]).int().is_err(), "more than 64 bits");
    }

    #[test]
    fn a_length_beyond_the_row_is_refused_before_anything_is_allocated() {
        let mut writer = RowWriter::new();
        writer.int(u64::MAX);
        assert!(RowReader::new("test", writer.bytes()).blob().is_err());
    }

    #[test]
    fn bytes_after_the_last_field_are_refused() {
        let mut reader = RowReader::new("test", &[1, 2]);
        reader.byte().unwrap();
        assert!(reader.end().is_err());
    }
}
