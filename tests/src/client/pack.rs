//! Applying a fetch answer, with the client's silent skips made countable.
//!
//! Invariants: objects first, then snapshots, then commits; an object whose bytes do not hash to its id is a traceback;
//! objects without bin content and empty ones are dropped; a commit that is already there is never rewritten.

use super::{http::Failure, ids::sha256_hex, repository::Repository, value::Value};

/// What an answer held and what was made of it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Applied {
    /// Commits in the answer.
    pub commits: usize,
    /// Snapshots in the answer.
    pub snapshots: usize,
    /// Objects written.
    pub objects: usize,
    /// Object entries dropped: the client prints a warning for each.
    pub dropped: usize,
}

/// Writes the answer of a fetch into `repository`.
pub fn apply(repository: &mut Repository, answer: &Value) -> Result<Applied, Failure> {
    let mut applied = Applied::default();
    for object in answer.items("objects") {
        match object.get("content") {
            Some(Value::Bin(content)) if !content.is_empty() && !object.text("object_id").is_empty() => {
                let id = object.text("object_id");
                if sha256_hex(content) != id {
                    return Err(Failure::Traceback(format!("ValueError: Content integrity failure {id}")));
                }
                repository.objects.entry(id.to_owned()).or_insert_with(|| content.as_slice().into());
                applied.objects += 1;
            }
            _ => applied.dropped += 1,
        }
    }
    for snapshot in answer.items("snapshots") {
        applied.snapshots += 1;
        let id = snapshot.text("snapshot_id").to_owned();
        repository.snapshots.entry(id).or_insert_with(|| snapshot.clone());
    }
    for commit in answer.items("commits") {
        applied.commits += 1;
        let id = commit.text("commit_id").to_owned();
        repository.commits.entry(id).or_insert_with(|| commit.clone());
    }
    Ok(applied)
}
