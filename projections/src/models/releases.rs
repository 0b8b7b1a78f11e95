//! `releases`: (repo, tag) → the release.

use reprise_engine::{
    Result,
    event::{ReleasePublished, ReleaseRetracted},
    id::{Position, RepoId},
};

use crate::{
    encoding::{RowReader, RowWriter},
    models::{Model, named_key},
    store::{RowSink, Snapshot, scan_prefix},
    view::{ReleaseHead, ReleaseRow},
};

/// Its name.
pub const NAME: &str = "releases";
/// Its code version.
pub const VERSION: u32 = 1;

/// A release was published.
pub fn fold_published(published: &ReleasePublished, position: Position, sink: &mut dyn RowSink) {
    let mut row = RowWriter::new();
    row.position(position).text(&published.channel).flag(published.is_draft).blob(&published.record);
    sink.put(Model::Releases, &named_key(published.repo, &published.tag), row.bytes());
}

/// A release was withdrawn.
pub fn fold_retracted(retracted: &ReleaseRetracted, sink: &mut dyn RowSink) {
    sink.delete(Model::Releases, &named_key(retracted.repo, &retracted.tag));
}

/// One release.
pub fn get(snapshot: &dyn Snapshot, repo: RepoId, tag: &str) -> Result<Option<ReleaseRow>> {
    let row = snapshot.get(Model::Releases, &named_key(repo, tag))?;
    row.map(|row| decode(tag.as_bytes(), &row)).transpose()
}

/// All releases of a repository without their records, newest first.
pub fn list(snapshot: &dyn Snapshot, repo: RepoId) -> Result<Vec<ReleaseHead>> {
    let mut found = Vec::new();
    scan_prefix(snapshot, Model::Releases, &repo.0, &mut |key, row| {
        let ReleaseRow { tag, channel, is_draft, record, position } = decode(key.get(16..).unwrap_or_default(), row)?;
        found.push(ReleaseHead { tag, channel, is_draft, record_bytes: record.len() as u64, position });
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    found.sort_by(|a, b| b.position.cmp(&a.position).then_with(|| a.tag.cmp(&b.tag)));
    Ok(found)
}

/// The release of a row.
pub fn decode(tag: &[u8], row: &[u8]) -> Result<ReleaseRow> {
    let mut reader = RowReader::new(NAME, row);
    let tag = std::str::from_utf8(tag).map_err(|_| reader.damaged("a tag is not UTF-8"))?.to_owned();
    let position = reader.position()?;
    let row = ReleaseRow {
        tag,
        channel: reader.text()?,
        is_draft: reader.flag()?,
        record: reader.blob()?.to_vec(),
        position,
    };
    reader.end()?;
    Ok(row)
}
