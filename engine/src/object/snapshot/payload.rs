//! Reads a snapshot's stored payload entry by entry.
//!
//! Invariants: no JSON tree is built; paths and ids are borrowed from the payload where it has no escapes. Must never be
//! used on bytes that were not verified against their record hash.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::{ManifestScan, Summary, too_many_entries};
use crate::{
    error::{Error, Result},
    id::{ObjectId, parse_bare_hex32},
    limits::SNAPSHOT_ENTRIES_MAX,
};

/// The recorded id and what the manifest amounts to.
pub(super) fn summary(payload: &[u8]) -> Result<(ObjectId, Summary)> {
    let mut scan = ManifestScan::default();
    let id = read(payload, &mut |path, id| scan.entry(path, id))?;
    let id = id.ok_or_else(|| Error::invalid("a stored snapshot has no snapshot_id"))?;
    Ok((id, scan.finish()))
}

/// The distinct blob ids, ascending.
pub(super) fn blobs(payload: &[u8]) -> Result<Vec<ObjectId>> {
    let mut blobs = Vec::new();
    read(payload, &mut |_, id| {
        blobs.push(ObjectId(parse_bare_hex32(id)?));
        Ok(())
    })?;
    blobs.sort_unstable();
    blobs.dedup();
    Ok(blobs)
}

type OnEntry<'e> = &'e mut dyn FnMut(&str, &str) -> Result<()>;

fn read(payload: &[u8], on_entry: OnEntry<'_>) -> Result<Option<ObjectId>> {
    let mut input = serde_json::Deserializer::from_slice(payload);
    let id = Record(on_entry).deserialize(&mut input).and_then(|id| input.end().map(|()| id));
    id.map_err(|error| Error::invalid(format!("a stored snapshot cannot be read: {error}")))
}

struct Record<'e>(OnEntry<'e>);

impl<'de> DeserializeSeed<'de> for Record<'_> {
    type Value = Option<ObjectId>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> std::result::Result<Self::Value, D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Record<'_> {
    type Value = Option<ObjectId>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a snapshot record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> std::result::Result<Self::Value, A::Error> {
        let (mut id, mut manifests) = (None, 0);
        while let Some(Text(field)) = fields.next_key_seed(TextSeed)? {
            match field.as_ref() {
                "manifest" => {
                    fields.next_value_seed(Manifest(&mut *self.0))?;
                    manifests += 1;
                }
                "snapshot_id" => {
                    let Text(text) = fields.next_value_seed(TextSeed)?;
                    id = Some(ObjectId(parse_bare_hex32(&text).map_err(A::Error::custom)?));
                }
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        if manifests == 1 { Ok(id) } else { Err(A::Error::custom("exactly one manifest is expected")) }
    }
}

struct Manifest<'e>(OnEntry<'e>);

impl<'de> DeserializeSeed<'de> for Manifest<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> std::result::Result<(), D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Manifest<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<(), A::Error> {
        let mut count = 0usize;
        while let Some(Text(path)) = entries.next_key_seed(TextSeed)? {
            let Text(id) = entries.next_value_seed(TextSeed)?;
            count += 1;
            if count > SNAPSHOT_ENTRIES_MAX {
                return Err(A::Error::custom(too_many_entries(count)));
            }
            (self.0)(&path, &id).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// A text that borrows from the payload when it can (serde's own `Cow` always copies).
struct Text<'de>(Cow<'de, str>);

struct TextSeed;

impl<'de> DeserializeSeed<'de> for TextSeed {
    type Value = Text<'de>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> std::result::Result<Text<'de>, D::Error> {
        input.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for TextSeed {
    type Value = Text<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a text")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}
