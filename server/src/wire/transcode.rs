//! JSON text to msgpack without a tree: one pass counts, one pass writes.
//!
//! Invariants: `measure` says exactly how many bytes `write` appends (index rows keep that figure, and an answer's
//! Content-Length is summed from it); memory is four bytes per container of the text; numbers keep their kind: what has
//! no fraction and no exponent is an integer, everything else a float of 64 bits; never panics on any text.

use reprise_engine::limits::JSON_DEPTH_MAX;

use super::{WireError, encode};

/// How a JSON text looks in msgpack: its length, and how many elements each container has, in the order of their starts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Measure {
    /// Bytes of the msgpack form.
    pub len: u64,
    counts: Vec<u32>,
}

/// Bytes of a canonical record as msgpack.
pub fn wire_len(payload: &[u8]) -> Result<u64, WireError> {
    Ok(measure(payload)?.len)
}

/// Reads one JSON value, whole, and measures its msgpack form. White space is fine; keys are not compared.
pub fn measure(text: &[u8]) -> Result<Measure, WireError> {
    let mut scan = Scan { text, at: 0, sink: Count(Measure::default()) };
    scan.value(0)?;
    scan.end()?;
    Ok(scan.sink.0)
}

/// Appends the msgpack form of a text that was measured.
pub fn write(text: &[u8], measure: &Measure, out: &mut Vec<u8>) -> Result<(), WireError> {
    let mut scan = Scan { text, at: 0, sink: Write { out, counts: &measure.counts, next: 0 } };
    scan.value(0)?;
    scan.end()
}

/// Measures and appends.
pub fn append(text: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
    write(text, &measure(text)?, out)
}

/// What a scan meets, in order. A container's count is only known at its end: `open` hands out its slot.
trait Sink {
    fn fixed(&mut self, value: Fixed);
    /// `raw` is the text between the quotes, `len` its length unescaped.
    fn text(&mut self, raw: &[u8], len: usize, at: usize) -> Result<(), WireError>;
    fn open(&mut self, map: bool) -> usize;
    fn close(&mut self, slot: usize, count: u32);
}

enum Fixed {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

struct Count(Measure);

impl Sink for Count {
    fn fixed(&mut self, value: Fixed) {
        self.0.len += match value {
            Fixed::Null | Fixed::Bool(_) => 1,
            Fixed::Unsigned(value) => encode::unsigned_len(value),
            Fixed::Signed(value) => encode::signed_len(value),
            Fixed::Float(_) => encode::FLOAT_LEN,
        };
    }

    fn text(&mut self, _: &[u8], len: usize, _: usize) -> Result<(), WireError> {
        self.0.len += encode::text_len(len as u64);
        Ok(())
    }

    fn open(&mut self, _: bool) -> usize {
        self.0.counts.push(0);
        self.0.counts.len() - 1
    }

    fn close(&mut self, slot: usize, count: u32) {
        self.0.counts[slot] = count;
        self.0.len += encode::container_header_len(count.into());
    }
}

struct Write<'a> {
    out: &'a mut Vec<u8>,
    counts: &'a [u32],
    next: usize,
}

impl Sink for Write<'_> {
    fn fixed(&mut self, value: Fixed) {
        match value {
            Fixed::Null => encode::nil(self.out),
            Fixed::Bool(value) => encode::boolean(self.out, value),
            Fixed::Unsigned(value) => encode::unsigned(self.out, value),
            Fixed::Signed(value) => encode::signed(self.out, value),
            Fixed::Float(value) => encode::float(self.out, value),
        }
    }

    fn text(&mut self, raw: &[u8], len: usize, at: usize) -> Result<(), WireError> {
        encode::text_header(self.out, encode::len32(len));
        if raw.len() == len {
            self.out.extend_from_slice(raw);
            return Ok(());
        }
        unescape(raw, at, |piece| self.out.extend_from_slice(piece))
    }

    fn open(&mut self, map: bool) -> usize {
        // A text other than the measured one would run out of counts: zero is wrong but safe.
        let count = self.counts.get(self.next).copied().unwrap_or(0);
        self.next += 1;
        if map {
            encode::map_header(self.out, count)
        } else {
            encode::array_header(self.out, count)
        }
        self.next - 1
    }

    fn close(&mut self, _: usize, _: u32) {}
}

struct Scan<'a, S> {
    text: &'a [u8],
    at: usize,
    sink: S,
}

impl<S: Sink> Scan<'_, S> {
    fn value(&mut self, depth: usize) -> Result<(), WireError> {
        if depth > JSON_DEPTH_MAX + 2 {
            return Err(WireError::Invalid(format!("JSON nested deeper than {JSON_DEPTH_MAX} levels")));
        }
        match self.peek() {
            Some(b'{') => self.container(b'}', depth, true),
            Some(b'[') => self.container(b']', depth, false),
            Some(b'"') => self.string(),
            Some(b't') => self.word(b"true", Fixed::Bool(true)),
            Some(b'f') => self.word(b"false", Fixed::Bool(false)),
            Some(b'n') => self.word(b"null", Fixed::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.bad("a value")),
        }
    }

    fn container(&mut self, close: u8, depth: usize, map: bool) -> Result<(), WireError> {
        self.at += 1;
        let slot = self.sink.open(map);
        let mut count = 0u32;
        if self.peek() == Some(close) {
            self.at += 1;
            self.sink.close(slot, 0);
            return Ok(());
        }
        loop {
            if map {
                match self.peek() {
                    Some(b'"') => self.string()?,
                    _ => return Err(self.bad("a key")),
                }
                self.take(b':')?;
            }
            self.value(depth + 1)?;
            count = count.checked_add(1).ok_or_else(|| self.bad("fewer elements"))?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(end) if end == close => {
                    self.at += 1;
                    self.sink.close(slot, count);
                    return Ok(());
                }
                _ => return Err(self.bad("',' or the end of the container")),
            }
        }
    }

    fn string(&mut self) -> Result<(), WireError> {
        let start = self.at + 1;
        let mut end = start;
        let mut escaped = false;
        loop {
            match self.text.get(end) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    end += 2;
                }
                Some(0..=0x1f) | None => return Err(self.bad("the end of a string")),
                Some(_) => end += 1,
            }
        }
        let raw = &self.text[start..end];
        // Escapes are ASCII, so the raw text is UTF-8 exactly when the text that they stand for is.
        std::str::from_utf8(raw).map_err(|_| self.bad("UTF-8"))?;
        let mut len = raw.len();
        if escaped {
            len = 0;
            unescape(raw, start, |piece| len += piece.len())?;
        }
        self.sink.text(raw, len, start)?;
        self.at = end + 1;
        Ok(())
    }

    fn number(&mut self) -> Result<(), WireError> {
        let digits =
            self.text[self.at..].iter().take_while(|b| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'));
        let end = self.at + digits.count();
        let text = std::str::from_utf8(&self.text[self.at..end]).map_err(|_| self.bad("a number"))?;
        if !is_number(text) {
            return Err(self.bad("a number as JSON spells it"));
        }
        let value = match text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
            true => text.parse().ok().filter(|value: &f64| value.is_finite()).map(Fixed::Float),
            false => text.parse().map(Fixed::Unsigned).or_else(|_| text.parse().map(Fixed::Signed)).ok(),
        };
        let value = match (value, text) {
            // serde_json writes the float -0.0 so; an integer has no negative zero.
            (Some(_), "-0") => Fixed::Float(-0.0),
            (Some(value), _) => value,
            (None, _) => return Err(self.bad("an integer of 64 bits or a finite float")),
        };
        self.sink.fixed(value);
        self.at = end;
        Ok(())
    }

    fn word(&mut self, word: &[u8], value: Fixed) -> Result<(), WireError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.bad("a value"));
        }
        self.at += word.len();
        self.sink.fixed(value);
        Ok(())
    }

    fn take(&mut self, byte: u8) -> Result<(), WireError> {
        if self.peek() != Some(byte) {
            return Err(self.bad(&format!("'{}'", char::from(byte))));
        }
        self.at += 1;
        Ok(())
    }

    /// The next byte that is not white space; it stays.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.text.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn end(&mut self) -> Result<(), WireError> {
        if self.peek().is_some() { Err(self.bad("the end")) } else { Ok(()) }
    }

    fn bad(&self, wanted: &str) -> WireError {
        WireError::Malformed(format!("JSON: {wanted} expected at byte {}", self.at))
    }
}

/// Whether a text is a number of JSON's grammar. Rust's own parsers take more: `01`, `1.`, `.5`.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) =
        text.split_once(['e', 'E']).map_or((text, None), |(before, after)| (before, Some(after)));
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(before, after)| (before, Some(after)));
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

/// Calls `piece` with the text that `raw` stands for, in pieces.
fn unescape(raw: &[u8], at: usize, mut piece: impl FnMut(&[u8])) -> Result<(), WireError> {
    let bad = |index: usize| WireError::Malformed(format!("JSON: a bad escape at byte {}", at + index));
    let mut index = 0;
    while index < raw.len() {
        let run = raw[index..].iter().position(|byte| *byte == b'\\').unwrap_or(raw.len() - index);
        piece(&raw[index..index + run]);
        index += run;
        let Some(escape) = raw.get(index + 1) else { break };
        let plain = match escape {
            b'"' | b'\\' | b'/' => char::from(*escape),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let (value, taken) = unicode(&raw[index..]).ok_or_else(|| bad(index))?;
                index += taken - 2;
                value
            }
            _ => return Err(bad(index)),
        };
        piece(plain.encode_utf8(&mut [0; 4]).as_bytes());
        index += 2;
    }
    Ok(())
}

/// The character of `\uXXXX`, or of a surrogate pair, and how many bytes it takes.
fn unicode(raw: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = raw.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let digits = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u32::from_str_radix(digits, 16).ok()
    };
    let first = unit(0)?;
    if !(0xd800..0xdc00).contains(&first) {
        return Some((char::from_u32(first)?, 6));
    }
    let second = unit(6).filter(|second| (0xdc00..0xe000).contains(second))?;
    let value = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    Some((char::from_u32(value)?, 12))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::{Field, value::value_of};

    fn check_round_trip(value: &Value) {
        let text = serde_json::to_vec(value).unwrap();
        let measure = measure(&text).unwrap();
        let mut out = Vec::new();
        write(&text, &measure, &mut out).unwrap();
        assert_eq!(out.len() as u64, measure.len, "{value}");
        assert_eq!(&value_of(&out, &Field::root("record")).unwrap(), value);
        assert_eq!(&rmp_serde::from_slice::<Value>(&out).unwrap(), value);
    }

    #[test]
    fn a_record_comes_back_field_for_field() {
        check_round_trip(&json!({
            "a": [1, -1, 127, 128, -129, u64::MAX, i64::MIN, 0.5, 1.0, 1e300, -0.0, null, true, false],
            "ünï": "zweite ✓ \" \\ \n \u{1f600} \u{1}", "": {}, "deep": {"x": [[], {}, [{"y": []}]]},
            "long": "x".repeat(70_000), "many": vec![0; 70_000],
        }));
    }

    #[test]
    fn escapes_of_other_writers_are_understood() {
        let mut out = Vec::new();
        append(br#" { "\u00fc\ud83d\ude00\/" : [ 1 , 2.5e0 ] } "#, &mut out).unwrap();
        assert_eq!(value_of(&out, &Field::root("r")).unwrap(), json!({"ü😀/": [1, 2.5]}));
    }

    #[test]
    fn bad_texts_are_refused() {
        for text in
            ["", "{", "[1,]", "{\"a\"}", "\"\\u12\"", "\"\\ud800\"", "01x", "1 2", "1e999", "nul", "\"\u{1}\"", "{1:2}"]
        {
            assert!(measure(text.as_bytes()).is_err(), "{text}");
        }
        assert!(measure("[".repeat(100_000).as_bytes()).is_err());
    }

    /// Rust's parsers take these; a JSON body with one was taken for good.
    #[test]
    fn a_number_that_json_does_not_know_is_refused() {
        for text in ["01", "-01", "00", "1.", "-.5", "1.e5", "1e", "1e+", "-", "--1", "1-", "1e5e5", "0x1", "1.5.5"] {
            assert!(measure(text.as_bytes()).is_err(), "{text}");
        }
        for text in ["0", "-0", "10", "0.5", "-0.50", "1e5", "1E-5", "0e+05"] {
            assert!(measure(text.as_bytes()).is_ok(), "{text}");
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(Value::from),
            "[^\u{0}]{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 20, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
                proptest::collection::btree_map("[^\u{0}]{0,12}", inner, 0..20)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_round_trips_and_is_as_long_as_measured(value in values()) {
            check_round_trip(&value);
        }

        #[test]
        fn any_text_is_measured_or_refused(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(measure) = measure(&text) {
                let mut out = Vec::new();
                write(&text, &measure, &mut out).unwrap();
                prop_assert_eq!(out.len() as u64, measure.len);
            }
        }
    }
}
