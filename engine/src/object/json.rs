//! Canonical JSON: UTF-8, keys sorted by bytes, no white space, integers exact, floats shortest round-trip, unknown fields kept.
use serde_json::Value;

use crate::error::Result;

/// The canonical bytes of a value. Refuses U+0000 in strings and keys and nesting beyond the limit, naming the field.
pub fn to_canonical(value: &Value) -> Result<Vec<u8>> {
    let _ = value;
    todo!()
}

/// Parses canonical bytes; refuses anything that is not canonical.
pub fn from_canonical(bytes: &[u8]) -> Result<Value> {
    let _ = bytes;
    todo!()
}
