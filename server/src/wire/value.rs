//! msgpack records as JSON values, strictly: what JSON cannot carry is refused by name instead of being bent.
//!
//! Invariants: no bin, extension, NaN, infinity, duplicate or non-str key, U+0000 in text; depth and node count are capped,
//! so that a small body cannot become a large tree.

use reprise_engine::limits::JSON_DEPTH_MAX;
use serde_json::{Map, Number, Value};

use super::{Decoder, Field, Source, Token, WireError, decode::unexpected};

/// Values in one record: twice the largest manifest and more. A node costs up to ~100 bytes of memory.
pub const RECORD_NODES_MAX: usize = 600_000;
/// Bytes of one text in a record.
pub const RECORD_TEXT_MAX: usize = 32 << 20;

/// One whole value.
pub fn value<S: Source>(decoder: &mut Decoder<S>, field: &Field<'_>) -> Result<Value, WireError> {
    let mut nodes = RECORD_NODES_MAX;
    nested(decoder, JSON_DEPTH_MAX, &mut nodes, field)
}

/// One whole value that stands alone in `bytes`.
pub fn value_of(bytes: &[u8], field: &Field<'_>) -> Result<Value, WireError> {
    let mut decoder = Decoder::new(bytes);
    let value = value(&mut decoder, field)?;
    decoder.finish()?;
    Ok(value)
}

fn nested<S: Source>(
    decoder: &mut Decoder<S>,
    depth: usize,
    nodes: &mut usize,
    field: &Field<'_>,
) -> Result<Value, WireError> {
    *nodes = nodes
        .checked_sub(1)
        .ok_or_else(|| WireError::TooLarge(format!("{field}: more than {RECORD_NODES_MAX} values in one record")))?;
    let token = decoder.token(field)?;
    Ok(match token {
        Token::Nil => Value::Null,
        Token::Bool(value) => Value::Bool(value),
        Token::Unsigned(value) => Value::Number(value.into()),
        Token::Negative(value) => Value::Number(value.into()),
        Token::Float(value) => Value::Number(
            Number::from_f64(value)
                .ok_or_else(|| WireError::Invalid(format!("{field}: {value} has no form in JSON")))?,
        ),
        Token::Str(len) => Value::String(clean_text(decoder, len, field)?),
        Token::Array(len) => array(decoder, len, deeper(depth, field)?, nodes, field)?,
        Token::Map(len) => map(decoder, len, deeper(depth, field)?, nodes, field)?,
        Token::Bin(_) | Token::Ext(_) => return Err(unexpected(field, token, "what JSON can carry")),
    })
}

fn array<S: Source>(
    decoder: &mut Decoder<S>,
    len: u32,
    depth: usize,
    nodes: &mut usize,
    field: &Field<'_>,
) -> Result<Value, WireError> {
    let mut values = Vec::new();
    for index in 0..usize::try_from(len).unwrap_or(usize::MAX) {
        values.push(nested(decoder, depth, nodes, &field.index(index))?);
    }
    Ok(Value::Array(values))
}

fn map<S: Source>(
    decoder: &mut Decoder<S>,
    len: u32,
    depth: usize,
    nodes: &mut usize,
    field: &Field<'_>,
) -> Result<Value, WireError> {
    let mut pairs = Map::new();
    for _ in 0..len {
        let key = match decoder.token(field)? {
            Token::Str(len) => clean_text(decoder, len, &field.key("(key)"))?,
            other => return Err(WireError::Invalid(format!("{field}: {} as a key; keys are str", other.name()))),
        };
        let value = nested(decoder, depth, nodes, &field.key(&key))?;
        if pairs.contains_key(&key) {
            return Err(WireError::Invalid(format!("{}: the key stands twice", field.key(&key))));
        }
        pairs.insert(key, value);
    }
    Ok(Value::Object(pairs))
}

fn clean_text<S: Source>(decoder: &mut Decoder<S>, len: u32, field: &Field<'_>) -> Result<String, WireError> {
    let text = decoder.text_body(len, RECORD_TEXT_MAX, field)?;
    if text.as_bytes().contains(&0) {
        return Err(WireError::Invalid(format!("{field}: U+0000 in text")));
    }
    Ok(text)
}

fn deeper(depth: usize, field: &Field<'_>) -> Result<usize, WireError> {
    let refused = || WireError::Invalid(format!("{field}: nested deeper than {JSON_DEPTH_MAX} levels"));
    depth.checked_sub(1).ok_or_else(refused)
}
