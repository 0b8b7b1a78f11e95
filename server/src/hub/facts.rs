//! What an event says about a record beside its row. The one place that makes such facts: from a push, or from a pack.
//!
//! Invariants: facts follow from the record alone (and, for a commit, from what it adds); texts are cut on a character
//! boundary.

use reprise_engine::{
    event::{CommitFacts, SnapshotFacts},
    id::ObjectId,
    limits::EVENT_MESSAGE_BYTES_MAX,
    object::{Commit, Snapshot},
};

use crate::wire::{WireError, transcode};

/// Those of a snapshot.
pub fn of_snapshot(snapshot: &Snapshot) -> Result<SnapshotFacts, WireError> {
    Ok(SnapshotFacts {
        id: snapshot.id,
        entries: snapshot.entries,
        directories: snapshot.directories,
        wire_len: transcode::wire_len(&snapshot.payload)?,
    })
}

/// Those of a commit that adds `adds` (ascending, distinct).
pub fn of_commit(commit: &Commit, adds: Vec<ObjectId>) -> Result<CommitFacts, WireError> {
    Ok(CommitFacts {
        id: commit.id,
        parents: commit.parents.clone(),
        snapshot: commit.snapshot,
        committed_at: commit.committed_at.clone(),
        branch: commit.branch.clone(),
        author: commit.author.clone(),
        message: cut(&commit.message, EVENT_MESSAGE_BYTES_MAX).to_owned(),
        adds,
        wire_len: transcode::wire_len(&commit.payload)?,
    })
}

/// `text` up to `max` bytes, cut on a character boundary.
fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_on_a_character_boundary() {
        assert_eq!(cut("aü", 2), "a");
        assert_eq!(cut("aü", 3), "aü");
        assert_eq!(cut("", 5), "");
    }
}
