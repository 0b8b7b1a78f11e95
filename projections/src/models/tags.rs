//! `tags`: (repo, label) → the tag.

use reprise_engine::{
    Result,
    event::{TagRecord, TagsDeleted, TagsSet},
    id::{Position, RepoId},
};

use crate::{
    encoding::{RowReader, RowWriter},
    models::{Model, named_key},
    store::{RowSink, Snapshot, scan_prefix},
};

/// Its name.
pub const NAME: &str = "tags";
/// Its code version.
pub const VERSION: u32 = 1;

/// Tags were set.
pub fn fold_set(set: &TagsSet, position: Position, sink: &mut dyn RowSink) {
    for tag in &set.tags {
        let mut row = RowWriter::new();
        row.position(position).text(&tag.tag_id).fixed(&tag.commit.0).text(&tag.created_at);
        sink.put(Model::Tags, &named_key(set.repo, &tag.tag), row.bytes());
    }
}

/// Tags were removed.
pub fn fold_deleted(deleted: &TagsDeleted, sink: &mut dyn RowSink) {
    for label in &deleted.tags {
        sink.delete(Model::Tags, &named_key(deleted.repo, label));
    }
}

/// All tags of a repository, by label.
pub fn list(snapshot: &dyn Snapshot, repo: RepoId) -> Result<Vec<TagRecord>> {
    let mut found = Vec::new();
    scan_prefix(snapshot, Model::Tags, &repo.0, &mut |key, row| {
        found.push(decode(key.get(16..).unwrap_or_default(), row)?.0);
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// The tag of a row and the position that set it.
pub fn decode(label: &[u8], row: &[u8]) -> Result<(TagRecord, Position)> {
    let mut reader = RowReader::new(NAME, row);
    let tag = std::str::from_utf8(label).map_err(|_| reader.damaged("a label is not UTF-8"))?.to_owned();
    let position = reader.position()?;
    let record = TagRecord { tag_id: reader.text()?, tag, commit: reader.object()?, created_at: reader.text()? };
    reader.end()?;
    Ok((record, position))
}
