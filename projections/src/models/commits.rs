//! `commits`: what the log says about commits, and the blobs that each adds.
//!
//! Keys: repo `f` id → the facts; repo `h` id chunk(u32) → up to 1,024 of the added blob ids. A walk through history
//! reads facts only and stays light. Readers take as many chunks as the facts announce.

use std::ops::ControlFlow;

use reprise_engine::{
    Result,
    event::{CommitFacts, ObjectsReceived},
    id::{ObjectId, Position, RepoId},
};

use crate::{
    encoding::{RowReader, RowWriter},
    models::Model,
    store::{RowSink, Snapshot, prefix_end},
    view::CommitRow,
};

/// Its name.
pub const NAME: &str = "commits";
/// Its code version.
pub const VERSION: u32 = 1;
/// Added blob ids in one row.
pub const CHUNK_IDS_MAX: usize = 1_024;
/// Parents that a row may hold; the wire knows two.
const PARENTS_MAX: u64 = 64;

/// A pack was delivered: rows for every commit that the event describes.
pub fn fold(received: &ObjectsReceived, position: Position, sink: &mut dyn RowSink) {
    let mut row = RowWriter::new();
    for facts in &received.commits {
        row.clear();
        encode(facts, position, &mut row);
        sink.put(Model::Commits, &facts_key(received.repo, facts.id), row.bytes());
        for (chunk, ids) in (0u32..).zip(facts.adds.chunks(CHUNK_IDS_MAX)) {
            row.clear();
            for id in ids {
                row.fixed(&id.0);
            }
            sink.put(Model::Commits, &chunk_key(received.repo, facts.id, chunk), row.bytes());
        }
    }
}

/// A commit's facts.
pub fn get(snapshot: &dyn Snapshot, repo: RepoId, id: ObjectId) -> Result<Option<CommitRow>> {
    let row = snapshot.get(Model::Commits, &facts_key(repo, id))?;
    row.map(|row| decode(&row)).transpose()
}

/// Appends the blob ids that a commit adds, ascending. Nothing for an unknown commit.
pub fn adds(snapshot: &dyn Snapshot, repo: RepoId, id: ObjectId, into: &mut Vec<ObjectId>) -> Result<()> {
    let Some(facts) = get(snapshot, repo, id)? else { return Ok(()) };
    let mut left = facts.adds;
    let until = chunk_key(repo, id, u32::MAX);
    snapshot.scan(Model::Commits, &chunk_key(repo, id, 0), Some(&until), &mut |_, row| {
        if left == 0 {
            return Ok(ControlFlow::Break(()));
        }
        let before = into.len();
        decode_chunk(row, into)?;
        left = left.saturating_sub((into.len() - before) as u64);
        Ok(ControlFlow::Continue(()))
    })?;
    if left > 0 {
        return Err(RowReader::new(NAME, &[]).damaged("a commit has fewer added ids than its facts say"));
    }
    Ok(())
}

/// Calls `each` with the facts of a repository's commits whose ids are at least `from` and, if given, below `until`, by id.
pub fn list(
    snapshot: &dyn Snapshot,
    repo: RepoId,
    (from, until): (ObjectId, Option<ObjectId>),
    each: &mut dyn FnMut(ObjectId, CommitRow) -> Result<()>,
) -> Result<()> {
    let end = match until {
        Some(until) => Some(facts_key(repo, until).to_vec()),
        None => prefix_end(&facts_key(repo, from)[..17]),
    };
    snapshot.scan(Model::Commits, &facts_key(repo, from), end.as_deref(), &mut |key, row| {
        let Some(CommitKey::Facts(_, id)) = decode_key(key) else {
            return Err(RowReader::new(NAME, row).damaged("its key is malformed"));
        };
        each(id, decode(row)?)?;
        Ok(ControlFlow::Continue(()))
    })
}

/// What a row is, by its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommitKey {
    /// The facts of a commit.
    Facts(RepoId, ObjectId),
    /// A chunk of its added ids.
    Chunk(RepoId, ObjectId, u32),
}

/// Reads a key back.
pub fn decode_key(key: &[u8]) -> Option<CommitKey> {
    let (repo, rest) = key.split_first_chunk::<16>()?;
    let (part, rest) = rest.split_first()?;
    let (id, rest) = rest.split_first_chunk::<32>()?;
    let (repo, id) = (RepoId(*repo), ObjectId(*id));
    match *part {
        FACTS if rest.is_empty() => Some(CommitKey::Facts(repo, id)),
        CHUNK => Some(CommitKey::Chunk(repo, id, u32::from_be_bytes(rest.try_into().ok()?))),
        _ => None,
    }
}

/// The facts of a row.
pub fn decode(row: &[u8]) -> Result<CommitRow> {
    let mut reader = RowReader::new(NAME, row);
    let position = reader.position()?;
    let count = reader.int()?;
    if count > PARENTS_MAX {
        return Err(reader.damaged("too many parents"));
    }
    let parents = (0..count).map(|_| reader.object()).collect::<Result<Vec<_>>>()?;
    let row = CommitRow {
        parents,
        snapshot: reader.object()?,
        committed_at: reader.text()?,
        branch: reader.text()?,
        author: reader.text()?,
        message: reader.text()?,
        adds: reader.int()?,
        wire_len: reader.int()?,
        position,
    };
    reader.end()?;
    Ok(row)
}

/// Appends the ids of a chunk row.
pub fn decode_chunk(row: &[u8], into: &mut Vec<ObjectId>) -> Result<()> {
    let (ids, rest) = row.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(RowReader::new(NAME, row).damaged("a chunk is not whole ids"));
    }
    into.extend(ids.iter().map(|id| ObjectId(*id)));
    Ok(())
}

fn encode(facts: &CommitFacts, position: Position, row: &mut RowWriter) {
    row.position(position).int(facts.parents.len() as u64);
    for parent in &facts.parents {
        row.fixed(&parent.0);
    }
    row.fixed(&facts.snapshot.0)
        .text(&facts.committed_at)
        .text(&facts.branch)
        .text(&facts.author)
        .text(&facts.message)
        .int(facts.adds.len() as u64)
        .int(facts.wire_len);
}

fn facts_key(repo: RepoId, id: ObjectId) -> [u8; 49] {
    let mut key = [FACTS; 49];
    key[..16].copy_from_slice(&repo.0);
    key[17..].copy_from_slice(&id.0);
    key
}

fn chunk_key(repo: RepoId, id: ObjectId, chunk: u32) -> [u8; 53] {
    let mut key = [CHUNK; 53];
    key[..16].copy_from_slice(&repo.0);
    key[17..49].copy_from_slice(&id.0);
    key[49..].copy_from_slice(&chunk.to_be_bytes());
    key
}

const FACTS: u8 = b'f';
const CHUNK: u8 = b'h';
