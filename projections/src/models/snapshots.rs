//! `snapshots`: (repo, id) → entry and directory counts, length on the wire, position.

use reprise_engine::{
    Result,
    event::ObjectsReceived,
    id::{ObjectId, Position, RepoId},
};

use crate::{
    encoding::{RowReader, RowWriter},
    models::Model,
    store::{RowSink, Snapshot},
    view::SnapshotRow,
};

/// Its name.
pub const NAME: &str = "snapshots";
/// Its code version.
pub const VERSION: u32 = 1;

/// A pack was delivered: one row per snapshot that the event describes.
pub fn fold(received: &ObjectsReceived, position: Position, sink: &mut dyn RowSink) {
    let mut row = RowWriter::new();
    for facts in &received.snapshots {
        row.clear();
        row.position(position).int(facts.entries.into()).int(facts.directories.into()).int(facts.wire_len);
        sink.put(Model::Snapshots, &key(received.repo, facts.id), row.bytes());
    }
}

/// A snapshot's row.
pub fn get(snapshot: &dyn Snapshot, repo: RepoId, id: ObjectId) -> Result<Option<SnapshotRow>> {
    let row = snapshot.get(Model::Snapshots, &key(repo, id))?;
    row.map(|row| decode(&row)).transpose()
}

/// What a row says.
pub fn decode(row: &[u8]) -> Result<SnapshotRow> {
    let mut reader = RowReader::new(NAME, row);
    let position = reader.position()?;
    let entries = reader.int32()?;
    let directories = reader.int32()?;
    let wire_len = reader.int()?;
    reader.end()?;
    Ok(SnapshotRow { entries, directories, wire_len, position })
}

fn key(repo: RepoId, id: ObjectId) -> [u8; 48] {
    let mut key = [0; 48];
    key[..16].copy_from_slice(&repo.0);
    key[16..].copy_from_slice(&id.0);
    key
}
