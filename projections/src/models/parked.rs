//! `parked`: (repo, position) → why the event there could not be folded.
//!
//! Reads of a parked repository answer `Unavailable` with the first reason; everyone else goes on. A fixed code version
//! rebuilds, and the rows are gone. A repository that does not exist (any more) is not parked, whatever rows it left.

use std::collections::BTreeMap;

use reprise_engine::{
    Result,
    id::{Position, RepoId},
};

use crate::{
    encoding::{RowReader, RowWriter},
    models::{Model, Reject, repos},
    store::{RowSink, Snapshot, scan_prefix},
};

/// Its name.
pub const NAME: &str = "parked";
/// Its code version.
pub const VERSION: u32 = 1;

/// An event was rejected.
pub fn fold(reject: &Reject, position: Position, sink: &mut dyn RowSink) {
    let mut row = RowWriter::new();
    row.text(&reject.reason);
    sink.put(Model::Parked, &key(reject.repo, position), row.bytes());
}

/// All parked repositories with their first reason.
pub fn list(snapshot: &dyn Snapshot) -> Result<BTreeMap<RepoId, String>> {
    let mut found = BTreeMap::new();
    scan_prefix(snapshot, Model::Parked, &[], &mut |key, row| {
        let (repo, position, reason) = decode(key, row)?;
        if !found.contains_key(&repo) && repos::get(snapshot, repo)?.is_some() {
            found.insert(repo, describe(position, &reason));
        }
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// The text for people.
pub fn describe(position: Position, reason: &str) -> String {
    format!("the event at position {position} could not be folded: {reason}")
}

/// Repository, position and reason of a row.
pub fn decode(key: &[u8], row: &[u8]) -> Result<(RepoId, Position, String)> {
    let mut reader = RowReader::new(NAME, row);
    let parts = key.split_first_chunk::<16>().and_then(|(repo, at)| Some((*repo, at.try_into().ok()?)));
    let (repo, at) = parts.ok_or_else(|| reader.damaged("its key is not a repository and a position"))?;
    let reason = reader.text()?;
    reader.end()?;
    Ok((RepoId(repo), Position(u64::from_be_bytes(at)), reason))
}

fn key(repo: RepoId, position: Position) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&repo.0);
    key[16..].copy_from_slice(&position.0.to_be_bytes());
    key
}
