//! `refs`: (repo, branch name) → head and the position at which it last moved.

use reprise_engine::{
    Result,
    event::RefsUpdated,
    id::{Position, RepoId},
};

use crate::{
    encoding::{RowReader, RowWriter},
    models::{Model, named_key},
    store::{RowSink, Snapshot, scan_prefix},
    view::RefRow,
};

/// Its name.
pub const NAME: &str = "refs";
/// Its code version.
pub const VERSION: u32 = 1;

/// Branches moved. An update that moves nothing (a push without news) leaves the row as it is.
pub fn fold(updated: &RefsUpdated, position: Position, sink: &mut dyn RowSink) {
    for update in updated.updates.iter().filter(|update| update.old != update.new) {
        let key = named_key(updated.repo, &update.name);
        match update.new {
            Some(head) => {
                let mut row = RowWriter::new();
                row.fixed(&head.0).position(position);
                sink.put(Model::Refs, &key, row.bytes());
            }
            None => sink.delete(Model::Refs, &key),
        }
    }
}

/// One branch.
pub fn get(snapshot: &dyn Snapshot, repo: RepoId, name: &str) -> Result<Option<RefRow>> {
    let row = snapshot.get(Model::Refs, &named_key(repo, name))?;
    row.map(|row| decode(name.as_bytes(), &row)).transpose()
}

/// All branches of a repository, by name.
pub fn list(snapshot: &dyn Snapshot, repo: RepoId) -> Result<Vec<RefRow>> {
    let mut found = Vec::new();
    scan_prefix(snapshot, Model::Refs, &repo.0, &mut |key, row| {
        found.push(decode(key.get(16..).unwrap_or_default(), row)?);
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// The row of the branch called `name`.
pub fn decode(name: &[u8], row: &[u8]) -> Result<RefRow> {
    let mut reader = RowReader::new(NAME, row);
    let name = std::str::from_utf8(name).map_err(|_| reader.damaged("a name is not UTF-8"))?.to_owned();
    let head = reader.object()?;
    let position = reader.position()?;
    reader.end()?;
    Ok(RefRow { name, head, position })
}
