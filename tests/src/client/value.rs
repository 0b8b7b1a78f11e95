//! One msgpack value, encoded and decoded as the muse client does: `use_bin_type`, `raw=False`, `strict_map_key`.
//!
//! Written apart from the server's codec on purpose: it is the judge of what the server emits. Invariants: a decoded
//! body is exactly one value with no byte after it; map keys are str or bin; text is valid UTF-8; no allocation from a
//! length that the input only claims.

/// A msgpack value. Maps keep their order and their duplicates, so that a test can see both.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// nil
    Nil,
    /// A real boolean.
    Bool(bool),
    /// Any integer form.
    Int(i128),
    /// Any float form.
    Float(f64),
    /// The str family.
    Str(String),
    /// The bin family.
    Bin(Vec<u8>),
    /// An array.
    Array(Vec<Value>),
    /// A map.
    Map(Vec<(Value, Value)>),
    /// An extension value: type and bytes.
    Ext(i8, Vec<u8>),
}

/// Nesting that the decoder follows.
const DEPTH_MAX: usize = 512;

impl Value {
    /// A str.
    pub fn str(text: impl Into<String>) -> Value {
        Value::Str(text.into())
    }

    /// A map with str keys.
    pub fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Value)>) -> Value {
        Value::Map(entries.into_iter().map(|(key, value)| (Value::Str(key.into()), value)).collect())
    }

    /// An array of strs.
    pub fn strs<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> Value {
        Value::Array(items.into_iter().map(|item| Value::str(item.as_ref())).collect())
    }

    /// The last value under a str key of a map (Python keeps the last of duplicates).
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Value::Map(entries) = self else { return None };
        entries.iter().rev().find(|(name, _)| matches!(name, Value::Str(name) if name == key)).map(|(_, value)| value)
    }

    /// Replaces or appends an entry of a map.
    pub fn set(&mut self, key: &str, value: Value) {
        let Value::Map(entries) = self else { panic!("set {key} on {self:?}") };
        match entries.iter_mut().find(|(name, _)| matches!(name, Value::Str(name) if name == key)) {
            Some(entry) => entry.1 = value,
            None => entries.push((Value::str(key), value)),
        }
    }

    /// The text under `key`, or "" (the client's fallback for a missing or mistyped str).
    pub fn text(&self, key: &str) -> &str {
        match self.get(key) {
            Some(Value::Str(text)) => text,
            _ => "",
        }
    }

    /// The text itself, if it is a str.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Str(text) = self { Some(text) } else { None }
    }

    /// The integer itself, if it is one.
    pub fn as_int(&self) -> Option<i128> {
        if let Value::Int(number) = self { Some(*number) } else { None }
    }

    /// The items under `key`, or none.
    pub fn items(&self, key: &str) -> &[Value] {
        match self.get(key) {
            Some(Value::Array(items)) => items,
            _ => &[],
        }
    }

    /// The str→str entries under `key`; others are dropped, as the client drops them.
    pub fn str_map(&self, key: &str) -> Vec<(String, String)> {
        let Some(Value::Map(entries)) = self.get(key) else { return Vec::new() };
        let text = |(key, value): &(Value, Value)| Some((key.as_str()?.to_owned(), value.as_str()?.to_owned()));
        entries.iter().filter_map(text).collect()
    }

    /// Keys of a map, in order; panics on a key that is not str, which a server must never send.
    pub fn keys(&self) -> Vec<&str> {
        let Value::Map(entries) = self else { panic!("not a map: {self:?}") };
        entries.iter().map(|(key, _)| key.as_str().unwrap_or_else(|| panic!("key is not str: {key:?}"))).collect()
    }

    /// Encodes with the str and bin families and the shortest integer forms.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Value::Nil => out.push(0xc0),
            Value::Bool(flag) => out.push(if *flag { 0xc3 } else { 0xc2 }),
            Value::Int(number) => encode_int(*number, out),
            Value::Float(number) => {
                out.push(0xcb);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Value::Str(text) => {
                encode_length(text.len(), Some((0xa0, 31)), Some(0xd9), 0xda, 0xdb, out);
                out.extend_from_slice(text.as_bytes());
            }
            Value::Bin(bytes) => {
                encode_length(bytes.len(), None, Some(0xc4), 0xc5, 0xc6, out);
                out.extend_from_slice(bytes);
            }
            Value::Array(items) => {
                encode_length(items.len(), Some((0x90, 15)), None, 0xdc, 0xdd, out);
                items.iter().for_each(|item| item.encode_into(out));
            }
            Value::Map(entries) => {
                encode_length(entries.len(), Some((0x80, 15)), None, 0xde, 0xdf, out);
                for (key, value) in entries {
                    key.encode_into(out);
                    value.encode_into(out);
                }
            }
            Value::Ext(kind, bytes) => {
                encode_length(bytes.len(), None, Some(0xc7), 0xc8, 0xc9, out);
                out.extend_from_slice(&kind.to_be_bytes());
                out.extend_from_slice(bytes);
            }
        }
    }

    /// Decodes exactly one value.
    pub fn decode(bytes: &[u8]) -> Result<Value, String> {
        let mut input = Input { bytes, at: 0 };
        let value = input.value(0)?;
        if input.at != bytes.len() {
            return Err(format!("unpack(b) received extra data ({} bytes).", bytes.len() - input.at));
        }
        Ok(value)
    }
}

fn encode_int(number: i128, out: &mut Vec<u8>) {
    if let Ok(unsigned) = u64::try_from(number) {
        if let Ok(small) = u8::try_from(unsigned) {
            if small > 0x7f {
                out.push(0xcc);
            }
            out.push(small);
        } else if let Ok(number) = u16::try_from(unsigned) {
            out.push(0xcd);
            out.extend_from_slice(&number.to_be_bytes());
        } else if let Ok(number) = u32::try_from(unsigned) {
            out.push(0xce);
            out.extend_from_slice(&number.to_be_bytes());
        } else {
            out.push(0xcf);
            out.extend_from_slice(&unsigned.to_be_bytes());
        }
    } else if let Ok(small) = i8::try_from(number) {
        if small < -32 {
            out.push(0xd0);
        }
        out.extend_from_slice(&small.to_be_bytes());
    } else {
        out.push(0xd3);
        out.extend_from_slice(&i64::try_from(number).expect("fits msgpack").to_be_bytes());
    }
}

fn encode_length(length: usize, fixed: Option<(u8, usize)>, one: Option<u8>, two: u8, four: u8, out: &mut Vec<u8>) {
    if let Some((tag, max)) = fixed
        && length <= max
    {
        out.push(tag | u8::try_from(length).expect("at most 31"));
    } else if let (Some(tag), Ok(length)) = (one, u8::try_from(length)) {
        out.extend_from_slice(&[tag, length]);
    } else if let Ok(length) = u16::try_from(length) {
        out.push(two);
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.push(four);
        out.extend_from_slice(&u32::try_from(length).expect("fits msgpack").to_be_bytes());
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err("nested too deeply".to_owned());
        }
        let tag = self.take(1)?[0];
        Ok(match tag {
            0x00..=0x7f => Value::Int(tag.into()),
            0xe0..=0xff => Value::Int(i8::from_be_bytes([tag]).into()),
            0x80..=0x8f => self.map(usize::from(tag & 0x0f), depth)?,
            0x90..=0x9f => self.array(usize::from(tag & 0x0f), depth)?,
            0xa0..=0xbf => self.text(usize::from(tag & 0x1f))?,
            0xc0 => Value::Nil,
            0xc1 => return Err("reserved byte 0xc1".to_owned()),
            0xc2 => Value::Bool(false),
            0xc3 => Value::Bool(true),
            0xc4..=0xc6 => {
                let length = self.length(1 << (tag - 0xc4))?;
                Value::Bin(self.take(length)?.to_vec())
            }
            0xc7..=0xc9 => {
                let length = self.length(1 << (tag - 0xc7))?;
                self.ext(length)?
            }
            0xca => Value::Float(f32::from_be_bytes(self.array_of()?).into()),
            0xcb => Value::Float(f64::from_be_bytes(self.array_of()?)),
            0xcc..=0xcf => Value::Int(self.unsigned(1 << (tag - 0xcc))?.into()),
            0xd0 => Value::Int(i8::from_be_bytes(self.array_of()?).into()),
            0xd1 => Value::Int(i16::from_be_bytes(self.array_of()?).into()),
            0xd2 => Value::Int(i32::from_be_bytes(self.array_of()?).into()),
            0xd3 => Value::Int(i64::from_be_bytes(self.array_of()?).into()),
            0xd4..=0xd8 => self.ext(1 << (tag - 0xd4))?,
            0xd9..=0xdb => {
                let length = self.length(1 << (tag - 0xd9))?;
                self.text(length)?
            }
            0xdc | 0xdd => {
                let length = self.length(2 << (tag - 0xdc))?;
                self.array(length, depth)?
            }
            0xde | 0xdf => {
                let length = self.length(2 << (tag - 0xde))?;
                self.map(length, depth)?
            }
        })
    }

    fn map(&mut self, length: usize, depth: usize) -> Result<Value, String> {
        let mut entries = Vec::with_capacity(length.min(1_024));
        for _ in 0..length {
            let key = self.value(depth + 1)?;
            if !matches!(key, Value::Str(_) | Value::Bin(_)) {
                return Err(format!("{key:?} is not allowed for map key when strict_map_key=True"));
            }
            entries.push((key, self.value(depth + 1)?));
        }
        Ok(Value::Map(entries))
    }

    fn array(&mut self, length: usize, depth: usize) -> Result<Value, String> {
        let mut items = Vec::with_capacity(length.min(1_024));
        for _ in 0..length {
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::Array(items))
    }

    fn text(&mut self, length: usize) -> Result<Value, String> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|error| format!("str is not UTF-8: {error}"))?;
        Ok(Value::str(text))
    }

    fn ext(&mut self, length: usize) -> Result<Value, String> {
        let kind = i8::from_be_bytes(self.array_of()?);
        Ok(Value::Ext(kind, self.take(length)?.to_vec()))
    }

    fn length(&mut self, width: usize) -> Result<usize, String> {
        usize::try_from(self.unsigned(width)?).map_err(|error| error.to_string())
    }

    fn unsigned(&mut self, width: usize) -> Result<u64, String> {
        Ok(self.take(width)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn array_of<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("take gives N bytes"))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("Unpack failed: incomplete input")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::Value;

    #[test]
    fn every_form_comes_back_as_it_went() {
        let numbers = [0, 127, 128, 255, 256, 65_535, 65_536, 1 << 32, u64::MAX.into(), -1, -32, -33, i64::MIN.into()];
        let mut items: Vec<Value> = numbers.into_iter().map(Value::Int).collect();
        for length in [0, 1, 31, 32, 255, 256, 65_535, 65_536] {
            items.push(Value::str("a".repeat(length)));
            items.push(Value::Bin(vec![7; length]));
        }
        items.push(Value::Array(vec![Value::Nil; 16]));
        items.push(Value::map((0..70_000).map(|n| (n.to_string(), Value::Bool(n % 2 == 0)))));
        items.push(Value::Float(1.5));
        items.push(Value::Ext(-3, vec![1, 2, 3]));
        let value = Value::Array(items);
        assert_eq!(Value::decode(&value.encode()).unwrap(), value);
    }

    #[test]
    fn what_the_client_cannot_read_is_an_error_here() {
        assert!(Value::decode(b"\x80\n").unwrap_err().contains("extra data"), "a newline after the value is fatal");
        assert!(Value::decode(b"{\"a\":1}").unwrap_err().contains("extra data"), "JSON is not msgpack");
        assert!(Value::decode(b"\x81\x01\x02").unwrap_err().contains("strict_map_key"), "integer keys are refused");
        assert!(Value::decode(b"\xa1\xff").unwrap_err().contains("UTF-8"));
        assert!(Value::decode(b"\xdd\xff\xff\xff\xff").unwrap_err().contains("incomplete"));
    }
}
