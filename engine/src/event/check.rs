//! What must hold inside one event, whoever made it: checked before it is encoded and after it is decoded.
//!
//! Invariants: only structure and format limits are checked, never a grammar that may become stricter (an old log must
//! stay readable); a check costs a few comparisons per row. Must never look at anything outside the event.

use super::{Codec, CommitFacts, EventBody, ObjectRow, ObjectsReceived, SnapshotFacts};
use crate::{
    error::{Error, Result},
    id::{Kind, ObjectId},
    limits::{
        AUTHOR_BYTES_MAX, BLOB_BYTES_MAX, COMMIT_BRANCH_BYTES_MAX, COMMITTED_AT_BYTES_MAX, EVENT_MESSAGE_BYTES_MAX,
        PACK_ROWS_MAX, RECORD_BYTES_MAX, SNAPSHOT_ENTRIES_MAX,
    },
};

impl EventBody {
    /// Checks order and limits inside the event. `Invalid` says what is wrong.
    pub fn check(&self) -> Result<()> {
        match self {
            EventBody::ObjectsReceived(received) => received.check(),
            EventBody::RefsUpdated(moved) => ascending("branches", moved.updates.iter().map(|update| &update.name)),
            EventBody::TagsSet(set) => ascending("tags", set.tags.iter().map(|tag| &tag.tag)),
            EventBody::TagsDeleted(deleted) => ascending("tags", deleted.tags.iter()),
            EventBody::RowsCondemned(condemned) => ascending("rows", condemned.rows.iter()),
            EventBody::RepoCreated(_)
            | EventBody::RepoUpdated(_)
            | EventBody::RepoDeleted(_)
            | EventBody::ReleasePublished(_)
            | EventBody::ReleaseRetracted(_)
            | EventBody::TokenIssued(_)
            | EventBody::TokenRevoked(_)
            | EventBody::PacksRelocated(_) => Ok(()),
        }
    }
}

impl ObjectsReceived {
    /// Checks that rows are strictly ascending by (kind, id) and lie inside the pack, that there are facts for exactly
    /// the snapshot and commit rows, in their order, and that every length is within its limit.
    pub fn check(&self) -> Result<()> {
        if self.rows.len() > PACK_ROWS_MAX {
            return Err(over("rows in one pack", self.rows.len(), PACK_ROWS_MAX));
        }
        ascending("rows", self.rows.iter().map(|row| (row.kind, row.id)))?;
        for row in &self.rows {
            self.check_row(row).map_err(|what| Error::invalid(format!("row {} {}: {what}", row.kind, row.id)))?;
        }
        self.check_facts(Kind::Snapshot, self.snapshots.iter().map(|facts| facts.id))?;
        self.check_facts(Kind::Commit, self.commits.iter().map(|facts| facts.id))?;
        self.snapshots.iter().try_for_each(SnapshotFacts::check)?;
        self.commits.iter().try_for_each(CommitFacts::check)
    }

    fn check_row(&self, row: &ObjectRow) -> std::result::Result<(), String> {
        let end = row.offset.checked_add(row.stored_len);
        if end.is_none_or(|end| end > self.pack_bytes) {
            return Err(format!("{} bytes at {} pass the pack's {}", row.stored_len, row.offset, self.pack_bytes));
        }
        let limit = if row.kind == Kind::Blob { BLOB_BYTES_MAX } else { RECORD_BYTES_MAX };
        if row.real_len > limit {
            return Err(format!("{} bytes are over the limit of {limit}", row.real_len));
        }
        if row.codec == Codec::Raw && row.stored_len != row.real_len {
            return Err(format!("stored raw, but {} bytes for {}", row.stored_len, row.real_len));
        }
        if row.record_hash.is_some() == (row.kind == Kind::Blob) {
            return Err("a record hash belongs to snapshots and commits, and to them only".to_owned());
        }
        match (row.codec, row.base) {
            (Codec::ZstdPrefix, Some(base)) => {
                let base = usize::try_from(base).ok().and_then(|base| self.rows.get(base));
                // Depth 1: this also refuses a row that is its own base.
                let sound = base.is_some_and(|base| base.codec != Codec::ZstdPrefix);
                if sound { Ok(()) } else { Err("its base is not a row that stands alone".to_owned()) }
            }
            (Codec::Raw | Codec::Zstd, None) => Ok(()),
            _ => Err("a base belongs to the codec with a prefix, and to it only".to_owned()),
        }
    }

    fn check_facts(&self, kind: Kind, facts: impl Iterator<Item = ObjectId>) -> Result<()> {
        let rows = self.rows.iter().filter(|row| row.kind == kind).map(|row| row.id);
        if rows.eq(facts) {
            Ok(())
        } else {
            Err(Error::invalid(format!("the {kind} facts do not match the {kind} rows")))
        }
    }
}

impl SnapshotFacts {
    fn check(&self) -> Result<()> {
        match usize::try_from(self.entries) {
            Ok(entries) if entries <= SNAPSHOT_ENTRIES_MAX => Ok(()),
            _ => Err(Error::invalid(format!(
                "snapshot {}: {} entries are over the limit of {SNAPSHOT_ENTRIES_MAX}",
                self.id, self.entries
            ))),
        }
    }
}

impl CommitFacts {
    fn check(&self) -> Result<()> {
        let limits = [
            ("parents", self.parents.len(), 2),
            ("bytes of time", self.committed_at.len(), COMMITTED_AT_BYTES_MAX),
            ("bytes of branch", self.branch.len(), COMMIT_BRANCH_BYTES_MAX),
            ("bytes of author", self.author.len(), AUTHOR_BYTES_MAX),
            ("bytes of message", self.message.len(), EVENT_MESSAGE_BYTES_MAX),
            ("added blobs", self.adds.len(), SNAPSHOT_ENTRIES_MAX),
        ];
        if let Some((what, count, limit)) = limits.into_iter().find(|(_, count, limit)| count > limit) {
            return Err(Error::invalid(format!("commit {}: {}", self.id, over(what, count, limit))));
        }
        ascending("added blobs", self.adds.iter())
    }
}

fn ascending<T: PartialOrd>(what: &str, items: impl Iterator<Item = T>) -> Result<()> {
    if items.is_sorted_by(|before, after| before < after) {
        return Ok(());
    }
    Err(Error::invalid(format!("the {what} of an event must be distinct and in ascending order")))
}

fn over(what: &str, count: usize, limit: usize) -> Error {
    Error::invalid(format!("{count} {what} are over the limit of {limit}"))
}
