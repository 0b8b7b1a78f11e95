//! Canonical JSON: UTF-8, keys sorted by bytes, no white space, integers exact, floats shortest round-trip, unknown fields kept.
//!
//! Invariants: one value has one encoding, and `from_canonical(to_canonical(v)) == v`; neither nesting nor a key order
//! chosen by the sender reaches the stored bytes. Escapes are the short ones (`\b \t \n \f \r \" \\`), other control
//! characters `\u00xx`, everything else stands as it is.

use serde_json::Value;

use crate::{
    error::{Error, Result},
    limits::{JSON_DEPTH_MAX, RECORD_BYTES_MAX},
};

/// The canonical bytes of a value.
///
/// Errors: `Invalid`, naming the field, for U+0000 in strings and keys, nesting beyond [`JSON_DEPTH_MAX`], and more than
/// [`RECORD_BYTES_MAX`] bytes.
pub fn to_canonical(value: &Value) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    match write_value(value, 0, &mut out) {
        Ok(()) if within_limit(&out) => Ok(out),
        Ok(()) => Err(Refusal::new(too_large()).into_error()),
        Err(refusal) => Err(refusal.into_error()),
    }
}

/// Parses canonical bytes; `Invalid` for anything that `to_canonical` would not write exactly so.
pub fn from_canonical(bytes: &[u8]) -> Result<Value> {
    if !within_limit(bytes) {
        return Err(Error::invalid(too_large()));
    }
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| Error::invalid(format!("not canonical JSON: {error}")))?;
    // Writing it again finds white space, key order, duplicate keys and every other spelling at once.
    let again = to_canonical(&value)?;
    if again != bytes {
        let offset = again.iter().zip(bytes).take_while(|(ours, theirs)| ours == theirs).count();
        return Err(Error::invalid(format!("not canonical JSON: it differs from its canonical form at byte {offset}")));
    }
    Ok(value)
}

fn write_value(value: &Value, depth: usize, out: &mut Vec<u8>) -> std::result::Result<(), Refusal> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => serde_json::to_writer(out, number).map_err(Refusal::new)?,
        Value::String(text) => write_string(text, out)?,
        Value::Array(items) => write_array(items, depth + 1, out)?,
        Value::Object(fields) => write_object(fields, depth + 1, out)?,
    }
    Ok(())
}

fn write_array(items: &[Value], depth: usize, out: &mut Vec<u8>) -> std::result::Result<(), Refusal> {
    check_room(depth, out)?;
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_value(item, depth, out).map_err(|refusal| refusal.under(&format!("[{index}]")))?;
    }
    out.push(b']');
    Ok(())
}

fn write_object(
    fields: &serde_json::Map<String, Value>,
    depth: usize,
    out: &mut Vec<u8>,
) -> std::result::Result<(), Refusal> {
    check_room(depth, out)?;
    // Sorted already, unless some dependency turns on serde_json's insertion order: the bytes may not depend on that.
    let mut sorted: Vec<(&String, &Value)> = fields.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    out.push(b'{');
    for (index, (key, value)) in sorted.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(key, out).map_err(|refusal| refusal.under(key))?;
        out.push(b':');
        write_value(value, depth, out).map_err(|refusal| refusal.under(key))?;
    }
    out.push(b'}');
    Ok(())
}

fn write_string(text: &str, out: &mut Vec<u8>) -> std::result::Result<(), Refusal> {
    let plain = text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return Ok(());
    }
    if text.contains('\0') {
        return Err(Refusal::new("U+0000 in a text"));
    }
    serde_json::to_writer(out, text).map_err(Refusal::new)
}

/// Checked at every container, so that a value that is far too large stops early.
fn check_room(depth: usize, out: &[u8]) -> std::result::Result<(), Refusal> {
    if depth > JSON_DEPTH_MAX {
        return Err(Refusal::new(format!("nesting is over the limit of {JSON_DEPTH_MAX}")));
    }
    if !within_limit(out) {
        return Err(Refusal::new(too_large()));
    }
    Ok(())
}

fn within_limit(bytes: &[u8]) -> bool {
    u64::try_from(bytes.len()).is_ok_and(|len| len <= RECORD_BYTES_MAX)
}

fn too_large() -> String {
    format!("the record is over the limit of {RECORD_BYTES_MAX} bytes")
}

/// Why a value was refused; the field's name grows on the way out, so that writing pays nothing for it.
struct Refusal {
    what: String,
    field: String,
}

impl Refusal {
    fn new(what: impl ToString) -> Refusal {
        Refusal { what: what.to_string(), field: String::new() }
    }

    fn under(mut self, part: &str) -> Refusal {
        let part: String = part.chars().take(80).flat_map(char::escape_debug).collect();
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{part}{dot}{}", self.field);
        self
    }

    fn into_error(self) -> Error {
        if self.field.is_empty() {
            Error::invalid(self.what)
        } else {
            Error::invalid(format!("{}: {}", self.field, self.what))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<f32>().prop_map(|float| Value::from(f64::from(float))),
            "[^\0]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[^\0]{0,6}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn canonical_bytes_parse_to_the_value_they_came_from(value in any_value()) {
            let bytes = to_canonical(&value).unwrap();
            prop_assert_eq!(from_canonical(&bytes).unwrap(), value);
        }

        #[test]
        fn the_order_in_which_keys_were_sent_is_forgotten(
            mut pairs in prop::collection::btree_map("[a-z]{1,3}", any::<i64>(), 1..8)
                .prop_map(|map| map.into_iter().collect::<Vec<_>>()),
            turn in any::<prop::sample::Index>(),
        ) {
            let object = |pairs: &[(String, i64)]| Value::Object(pairs.iter().map(|(k, v)| (k.clone(), json!(v))).collect());
            let before = to_canonical(&object(&pairs)).unwrap();
            let middle = turn.index(pairs.len());
            pairs.rotate_left(middle);
            prop_assert_eq!(to_canonical(&object(&pairs)).unwrap(), before);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_are_their_own_canonical_form(bytes in "[\\[\\]{}\",:0-9a \\\\.e-]{0,24}") {
            if let Ok(value) = from_canonical(bytes.as_bytes()) {
                prop_assert_eq!(to_canonical(&value).unwrap(), bytes.into_bytes());
            }
        }
    }

    #[test]
    fn keys_are_sorted_by_their_utf8_bytes_and_numbers_stay_exact() {
        let value = json!({"é": u64::MAX, "z": i64::MIN, "Z": 0.1, "a": {"y": [], "b": "\u{1}\"\n/\u{7f}"}});
        let bytes = to_canonical(&value).unwrap();
        let text = r#"{"Z":0.1,"a":{"b":"\u0001\"\n/"#.to_owned()
            + "\u{7f}"
            + r#"","y":[]},"z":-9223372036854775808,"é":18446744073709551615}"#;
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        for text in [
            "",
            " 1",
            "1 ",
            "{\"a\": 1}",
            "{\"b\":1,\"a\":1}",
            "{\"a\":1,\"a\":1}",
            "\"\\u0041\"",
            "\"\\/\"",
            "\"\\u0000\"",
            "1e2",
            "1.00",
            "-0",
            "01",
            "18446744073709551616",
            "NaN",
            "[1,]",
            "{}{}",
            "\"\\u001F\"",
            "\"\\ud800\"",
        ] {
            assert!(from_canonical(text.as_bytes()).is_err(), "{text}");
        }
        assert!(from_canonical(b"\"\xff\"").is_err());
    }

    #[test]
    fn a_refused_field_is_named() {
        let error = to_canonical(&json!({"delta": {"ops": [1, {"path": "a\0b"}]}})).unwrap_err().to_string();
        assert_eq!(error, "delta.ops[1].path: U+0000 in a text");
        let error = to_canonical(&json!({"metadata": {"a\0b": 1}})).unwrap_err().to_string();
        assert_eq!(error, "metadata.a\\0b: U+0000 in a text");
    }

    #[test]
    fn nesting_is_limited_and_the_limit_named() {
        let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!([inner]));
        assert!(from_canonical(&to_canonical(&nested(JSON_DEPTH_MAX)).unwrap()).is_ok());
        assert!(to_canonical(&nested(JSON_DEPTH_MAX + 1)).unwrap_err().to_string().ends_with("over the limit of 64"));
    }
}
