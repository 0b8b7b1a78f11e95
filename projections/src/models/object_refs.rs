//! `object_refs`: (repo, kind, id) → the position of the latest event that proves the object belongs to the repository.
//!
//! A row exists only because an event of that repository delivered the bytes, new to the hub or not.

use std::ops::ControlFlow;

use reprise_engine::{
    Result,
    event::ObjectsReceived,
    id::{Kind, ObjectId, Position, RepoId},
    planted::{self, PlantedBug},
};

use crate::{
    encoding::{RowReader, RowWriter},
    models::{Model, object_key},
    store::{RowSink, Snapshot, prefix_end},
};

/// Its name.
pub const NAME: &str = "object_refs";
/// Its code version.
pub const VERSION: u32 = 1;

/// A pack was delivered: one row per object of its table.
pub fn fold(received: &ObjectsReceived, position: Position, sink: &mut dyn RowSink) {
    if planted::is(PlantedBug::FoldForgetsObjectRefs) {
        return;
    }
    let mut row = RowWriter::new();
    row.position(position);
    for object in &received.rows {
        sink.put(Model::ObjectRefs, &object_key(received.repo, object.kind, object.id), row.bytes());
    }
}

/// The proof that the object belongs to the repository.
pub fn get(snapshot: &dyn Snapshot, repo: RepoId, kind: Kind, id: ObjectId) -> Result<Option<Position>> {
    let row = snapshot.get(Model::ObjectRefs, &object_key(repo, kind, id))?;
    row.map(|row| decode(&row)).transpose()
}

/// Those of `ids` (ascending, distinct) without a row, ascending. One merge with a range scan that leaps over gaps.
pub fn missing(snapshot: &dyn Snapshot, repo: RepoId, kind: Kind, ids: &[ObjectId]) -> Result<Vec<ObjectId>> {
    let mut missing = Vec::new();
    let Some(last) = ids.last() else { return Ok(missing) };
    let until = prefix_end(&object_key(repo, kind, *last));
    let mut next = 0;
    while let Some(wanted) = ids.get(next) {
        let mut skipped = 0;
        let mut leap = false;
        snapshot.scan(Model::ObjectRefs, &object_key(repo, kind, *wanted), until.as_deref(), &mut |key, _| {
            let found = key.get(17..).unwrap_or_default();
            while ids.get(next).is_some_and(|wanted| wanted.0.as_slice() < found) {
                missing.push(ids[next]);
                next += 1;
            }
            if ids.get(next).is_some_and(|wanted| wanted.0.as_slice() == found) {
                next += 1;
                skipped = 0;
                return Ok(ControlFlow::Continue(()));
            }
            skipped += 1;
            leap = next >= ids.len() || skipped > SKIP_MAX;
            Ok(if leap { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if !leap {
            missing.extend_from_slice(&ids[next..]);
            break;
        }
    }
    Ok(missing)
}

/// The position of a row.
pub fn decode(row: &[u8]) -> Result<Position> {
    let mut reader = RowReader::new(NAME, row);
    let position = reader.position()?;
    reader.end()?;
    Ok(position)
}

/// Unwanted rows after which seeking costs less than reading on.
const SKIP_MAX: usize = 48;
