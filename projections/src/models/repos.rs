//! `repos`: repositories by id, and the id of every name.
//!
//! Keys: `i` repo → the settings, or that it is deleted; `n` owner NUL slug → repo. A name row can be stale (a
//! repository was renamed): a reader believes it only if the id row says the same name. Repository ids are never used
//! twice, so that a deleted one stays deleted.

use reprise_engine::{
    Error, Result,
    event::{RepoDeleted, RepoRecord},
    id::{Position, RepoId},
};

use crate::{
    encoding::{RowReader, RowWriter, visibility_byte, visibility_of},
    models::Model,
    store::{RowSink, Snapshot, scan_prefix},
    view::RepoRow,
};

/// Its name.
pub const NAME: &str = "repos";
/// Its code version.
pub const VERSION: u32 = 1;

/// A repository was created or its settings changed.
pub fn fold_record(record: &RepoRecord, position: Position, sink: &mut dyn RowSink) {
    let mut row = RowWriter::new();
    row.byte(LIVE)
        .position(position)
        .text(&record.owner)
        .text(&record.slug)
        .text(&record.domain)
        .text(&record.default_branch)
        .byte(visibility_byte(record.visibility))
        .int(record.created_ms);
    sink.put(Model::Repos, &id_key(record.repo), row.bytes());
    sink.put(Model::Repos, &name_key(&record.owner, &record.slug), &record.repo.0);
}

/// A repository is gone. Its rows elsewhere stay but are no logical rows any more; a rebuild does not write them.
pub fn fold_deleted(deleted: &RepoDeleted, position: Position, sink: &mut dyn RowSink) {
    let mut row = RowWriter::new();
    row.byte(DELETED).position(position);
    sink.put(Model::Repos, &id_key(deleted.repo), row.bytes());
    sink.delete(Model::Repos, &name_key(&deleted.owner, &deleted.slug));
}

/// A live repository by id.
pub fn get(snapshot: &dyn Snapshot, repo: RepoId) -> Result<Option<RepoRow>> {
    let row = snapshot.get(Model::Repos, &id_key(repo))?;
    row.map_or(Ok(None), |row| decode(repo, &row))
}

/// A live repository by name.
pub fn by_name(snapshot: &dyn Snapshot, owner: &str, slug: &str) -> Result<Option<RepoRow>> {
    let Some(row) = snapshot.get(Model::Repos, &name_key(owner, slug))? else { return Ok(None) };
    let found = get(snapshot, name_row(&row)?)?;
    Ok(found.filter(|found| found.record.owner == owner && found.record.slug == slug))
}

/// Live repositories in name order after `after`, at most `limit`.
pub fn list(snapshot: &dyn Snapshot, after: Option<(&str, &str)>, limit: usize) -> Result<Vec<RepoRow>> {
    let from = after.map_or_else(
        || vec![BY_NAME],
        |(owner, slug)| {
            let mut key = name_key(owner, slug);
            key.push(0);
            key
        },
    );
    let mut found = Vec::new();
    snapshot.scan(Model::Repos, &from, Some(&[BY_NAME + 1]), &mut |key, row| {
        if found.len() >= limit {
            return Ok(std::ops::ControlFlow::Break(()));
        }
        let repo = get(snapshot, name_row(row)?)?;
        found.extend(repo.filter(|repo| name_key(&repo.record.owner, &repo.record.slug) == key));
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// How many live repositories an owner has; counts no further than `max`.
pub fn count(snapshot: &dyn Snapshot, owner: &str, max: usize) -> Result<usize> {
    let mut count = 0;
    scan_prefix(snapshot, Model::Repos, &name_key(owner, ""), &mut |_, _| {
        count += 1;
        Ok(if count < max { std::ops::ControlFlow::Continue(()) } else { std::ops::ControlFlow::Break(()) })
    })?;
    Ok(count)
}

/// Ids of all live repositories, ascending: 16 bytes each.
pub fn live_ids(snapshot: &dyn Snapshot) -> Result<Vec<RepoId>> {
    let mut live = Vec::new();
    scan_prefix(snapshot, Model::Repos, &[BY_ID], &mut |key, row| {
        if row.first() == Some(&LIVE) {
            live.extend(key.get(1..).and_then(|id| id.try_into().ok()).map(RepoId));
        }
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(live)
}

/// The repository that a row of this model belongs to.
pub fn repo_of(key: &[u8], row: &[u8]) -> Option<RepoId> {
    match key.split_first()? {
        (&BY_ID, id) => id.try_into().ok().map(RepoId),
        (&BY_NAME, _) => row.try_into().ok().map(RepoId),
        _ => None,
    }
}

/// What an id row says: the repository and whether it is live; `None` for a name row.
pub fn liveness(key: &[u8], row: &[u8]) -> Option<(RepoId, bool)> {
    let (&BY_ID, id) = key.split_first()? else { return None };
    Some((RepoId(id.try_into().ok()?), row.first() == Some(&LIVE)))
}

/// The row of `repo`; `None` if it says that the repository is deleted.
pub fn decode(repo: RepoId, row: &[u8]) -> Result<Option<RepoRow>> {
    let mut reader = RowReader::new(NAME, row);
    match reader.byte()? {
        DELETED => return Ok(None),
        LIVE => {}
        _ => return Err(reader.damaged("an unknown state")),
    }
    let position = reader.position()?;
    let record = RepoRecord {
        repo,
        owner: reader.text()?,
        slug: reader.text()?,
        domain: reader.text()?,
        default_branch: reader.text()?,
        visibility: visibility_of(&mut reader)?,
        created_ms: reader.int()?,
    };
    reader.end()?;
    Ok(Some(RepoRow { record, position }))
}

fn name_row(row: &[u8]) -> Result<RepoId> {
    let id = row.try_into().map_err(|_| Error::corrupt("projection repos", 0, "a name row is not an id"))?;
    Ok(RepoId(id))
}

fn id_key(repo: RepoId) -> [u8; 17] {
    let mut key = [BY_ID; 17];
    key[1..].copy_from_slice(&repo.0);
    key
}

fn name_key(owner: &str, slug: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + owner.len() + slug.len());
    key.push(BY_NAME);
    key.extend_from_slice(owner.as_bytes());
    key.push(0);
    key.extend_from_slice(slug.as_bytes());
    key
}

const BY_ID: u8 = b'i';
const BY_NAME: u8 = b'n';
const LIVE: u8 = 1;
const DELETED: u8 = 0;
