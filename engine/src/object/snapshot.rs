//! Snapshots: a sorted manifest of paths to blob ids, verified against the snapshot's id.
//!
//! Invariants: a `Snapshot` exists only if its id follows from its manifest, every path passes the grammar, and no path is
//! both a file and a directory. One pass over the sorted entries does all of it; memory is the payload and 32 bytes per entry.

use serde_json::{Map, Value};

use super::{ids, ids::SnapshotHasher, json, names};
use crate::{
    error::{Error, ErrorKind, Result},
    id::{Kind, ObjectId, RecordHash, parse_bare_hex32},
    limits::SNAPSHOT_ENTRIES_MAX,
};

mod payload;

/// A verified snapshot record.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    /// Its id, recomputed.
    pub id: ObjectId,
    /// Paths in it.
    pub entries: u32,
    /// Distinct directories.
    pub directories: u32,
    /// The distinct blob ids, ascending.
    pub blobs: Vec<ObjectId>,
    /// Canonical JSON.
    pub payload: Vec<u8>,
    /// SHA-256 of the canonical bytes.
    pub record_hash: RecordHash,
}

impl Snapshot {
    /// Checks a record as pushed and recomputes its id. `snapshot_id` and `manifest` must be there; `created_at` is a text,
    /// null or missing; unknown fields are kept. Errors: `Invalid`, naming snapshot and path.
    pub fn from_record(record: &Value) -> Result<Snapshot> {
        let Value::Object(fields) = record else {
            return Err(Error::invalid("a snapshot record must be a map"));
        };
        let Some(Value::String(id)) = fields.get("snapshot_id") else {
            return Err(Error::invalid("a snapshot record has no text field snapshot_id"));
        };
        let id = parse_bare_hex32(id).map_err(|error| Error::invalid(format!("snapshot_id: {error}")))?;
        let id = ObjectId(id);
        let read = || {
            let summary = summary_of(fields)?;
            let payload = json::to_canonical(record)?;
            summary.into_snapshot(id, payload)
        };
        read().map_err(|error: Error| Error::invalid(format!("snapshot {id}: {error}")))
    }

    /// Parses stored canonical JSON (already verified against its record hash), without building it in memory. `Corrupt` if
    /// it is no snapshot.
    pub fn from_payload(payload: &[u8]) -> Result<Snapshot> {
        let parse = || {
            let (id, summary) = payload::summary(payload)?;
            summary.into_snapshot(id, payload.to_vec())
        };
        parse().map_err(|error: Error| error.with_kind(ErrorKind::Corrupt))
    }

    /// The distinct blob ids of stored canonical JSON (already verified against its record hash), ascending; nothing else
    /// of it is checked. `Corrupt` if it is no snapshot.
    pub fn blobs_of_payload(payload: &[u8]) -> Result<Vec<ObjectId>> {
        payload::blobs(payload).map_err(|error| error.with_kind(ErrorKind::Corrupt))
    }
}

fn summary_of(fields: &Map<String, Value>) -> Result<Summary> {
    if !matches!(fields.get("created_at"), None | Some(Value::Null | Value::String(_))) {
        return Err(Error::invalid("created_at is not a text"));
    }
    let Some(Value::Object(manifest)) = fields.get("manifest") else {
        return Err(Error::invalid("manifest is missing or not a map"));
    };
    if manifest.len() > SNAPSHOT_ENTRIES_MAX {
        return Err(too_many_entries(manifest.len()));
    }
    let mut sorted: Vec<(&String, &Value)> = manifest.iter().collect();
    sorted.sort_by_key(|(path, _)| *path);
    let mut scan = ManifestScan::default();
    for (path, id) in sorted {
        let Value::String(id) = id else {
            return Err(Error::invalid(format!("the id of path '{}' is not a text", path.escape_debug())));
        };
        scan.entry(path, id)?;
    }
    Ok(scan.finish())
}

/// What a manifest amounts to.
struct Summary {
    id: ObjectId,
    entries: u32,
    directories: u32,
    blobs: Vec<ObjectId>,
}

impl Summary {
    fn into_snapshot(self, recorded: ObjectId, payload: Vec<u8>) -> Result<Snapshot> {
        if self.id != recorded {
            return Err(Error::invalid(format!("its manifest gives the id {} instead of {recorded}", self.id)));
        }
        Ok(Snapshot {
            id: self.id,
            entries: self.entries,
            directories: self.directories,
            blobs: self.blobs,
            record_hash: ids::record_hash(Kind::Snapshot, &payload),
            payload,
        })
    }
}

/// One pass over entries in strictly ascending byte order of their paths.
#[derive(Default)]
struct ManifestScan {
    hasher: SnapshotHasher,
    entries: u32,
    directories: u32,
    blobs: Vec<ObjectId>,
    previous: String,
    /// Lengths of the paths seen so far that are a beginning of `previous` (itself included), ascending. A later path that
    /// has a `/` after one of them makes that file a directory. Paths with one beginning stand together in byte order, so
    /// nothing else needs to be remembered.
    beginnings: Vec<usize>,
}

impl ManifestScan {
    fn entry(&mut self, path: &str, id: &str) -> Result<()> {
        names::check_path(path)?;
        let in_path = |error: Error| Error::invalid(format!("path '{}': {error}", path.escape_debug()));
        self.blobs.push(ObjectId(parse_bare_hex32(id).map_err(in_path)?));
        if self.entries > 0 && self.previous.as_str() >= path {
            return Err(in_path(Error::invalid("it is there twice or out of order")));
        }
        let shared = self.previous.bytes().zip(path.bytes()).take_while(|(before, now)| before == now).count();
        while self.beginnings.last().is_some_and(|length| *length > shared) {
            self.beginnings.pop();
        }
        if let Some(length) = self.beginnings.iter().find(|length| path.as_bytes().get(**length) == Some(&b'/')) {
            let file = path.get(..*length).unwrap_or_default().escape_debug();
            return Err(in_path(Error::invalid(format!("'{file}' is a file and a directory"))));
        }
        let new = path.as_bytes()[shared..].iter().filter(|byte| **byte == b'/').count();
        self.directories =
            u32::try_from(new).ok().and_then(|new| self.directories.checked_add(new)).ok_or_else(too_deep)?;
        self.entries += 1;
        self.beginnings.push(path.len());
        self.hasher.entry(path, id);
        self.previous.clear();
        self.previous.push_str(path);
        Ok(())
    }

    fn finish(mut self) -> Summary {
        self.blobs.sort_unstable();
        self.blobs.dedup();
        Summary { id: self.hasher.finish(), entries: self.entries, directories: self.directories, blobs: self.blobs }
    }
}

fn too_many_entries(count: usize) -> Error {
    Error::invalid(format!("{count} entries are over the limit of {SNAPSHOT_ENTRIES_MAX}"))
}

fn too_deep() -> Error {
    Error::invalid(format!("its directories are over the limit of {}", u32::MAX))
}

#[cfg(test)]
mod tests;
