//! Records as the stock client writes them into files: indented by two, ASCII only, its own fields first in its own order.
//!
//! Invariants: the text parses to the value it was made of; unknown fields are kept, behind the known ones.

use std::io::{self, Write};

use reprise_engine::id::Kind;
use serde::Serializer as _;
use serde_json::{
    Map, Value,
    ser::{CharEscape, Formatter, PrettyFormatter, Serializer},
};

/// The file's bytes.
pub fn write(kind: Kind, record: &Map<String, Value>) -> Vec<u8> {
    let order = if kind == Kind::Commit { COMMIT_FIELDS } else { SNAPSHOT_FIELDS };
    let known = order.iter().filter_map(|name| record.get(*name).map(|value| (*name, value)));
    let others =
        record.iter().filter(|(name, _)| !order.contains(&name.as_str())).map(|(name, value)| (name.as_str(), value));
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, Ascii(PrettyFormatter::new()));
    // Writing to memory what came from JSON cannot fail; an empty file would be found as damaged.
    let written = (&mut serializer).collect_map(known.chain(others));
    debug_assert!(written.is_ok(), "a record is JSON");
    out.push(b'\n');
    out
}

/// `PrettyFormatter` with `\uXXXX` for everything that is not ASCII.
struct Ascii<'a>(PrettyFormatter<'a>);

impl Formatter for Ascii<'_> {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.is_ascii() {
            return out.write_all(fragment.as_bytes());
        }
        for character in fragment.chars() {
            if character.is_ascii() {
                write!(out, "{character}")?;
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, out: &mut W, escape: CharEscape) -> io::Result<()> {
        self.0.write_char_escape(out, escape)
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
}

const SNAPSHOT_FIELDS: &[&str] = &["snapshot_id", "manifest", "created_at"];
const COMMIT_FIELDS: &[&str] = &[
    "commit_id",
    "repo_id",
    "branch",
    "snapshot_id",
    "message",
    "committed_at",
    "parent_commit_id",
    "parent2_commit_id",
    "author",
    "metadata",
    "structured_delta",
    "sem_ver_bump",
    "breaking_changes",
    "agent_id",
    "model_id",
    "toolchain_id",
    "prompt_hash",
    "signature",
    "signer_key_id",
    "format_version",
    "reviewed_by",
    "test_runs",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_is_the_clients_own() {
        let record = json!({"created_at": "t", "snapshot_id": "s", "manifest": {"ü😀\n\"": "x"}, "zz": [], "note": {}});
        let text = write(Kind::Snapshot, record.as_object().unwrap());
        let expected = "{\n  \"snapshot_id\": \"s\",\n  \"manifest\": {\n    \"\\u00fc\\ud83d\\ude00\\n\\\"\": \"x\"\n  },\n  \
                        \"created_at\": \"t\",\n  \"note\": {},\n  \"zz\": []\n}\n";
        assert_eq!(String::from_utf8(text.clone()).unwrap(), expected);
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), record);
    }
}
