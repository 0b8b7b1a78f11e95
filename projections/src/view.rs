//! Reads: everything that serves goes through a view, every read of a repository takes its scope.
use reprise_engine::{
    Result,
    event::{RepoRecord, TagRecord, TokenRecord, Visibility},
    id::{Kind, ObjectId, PackId, Position, RepoId, TokenHash},
    pack::Location,
};

use crate::projections::Checkpoint;

/// A repository's row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepoRow {
    /// Its settings.
    pub record: RepoRecord,
    /// Position at which they were last written (for `Condition::RepoAt`).
    pub position: Position,
}

impl RepoRow {
    /// The scope for reads of this repository. Ask for it only after deciding that the caller may read.
    pub fn scope(&self) -> RepoScope {
        RepoScope(self.record.repo)
    }

    /// True if everyone may read it.
    pub fn is_public(&self) -> bool {
        self.record.visibility == Visibility::Public
    }
}

/// The right to read one repository's rows and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RepoScope(RepoId);

impl RepoScope {
    /// Which repository.
    pub fn repo(self) -> RepoId {
        self.0
    }
}

/// A branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefRow {
    /// Its name.
    pub name: String,
    /// Its head.
    pub head: ObjectId,
    /// When it last moved.
    pub position: Position,
}

/// A commit, without what it adds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitRow {
    /// Parents, first first.
    pub parents: Vec<ObjectId>,
    /// Its snapshot.
    pub snapshot: ObjectId,
    /// Exact time text.
    pub committed_at: String,
    /// Branch where it was made.
    pub branch: String,
    /// As recorded.
    pub author: String,
    /// Up to 4 KiB.
    pub message: String,
    /// How many blobs it adds.
    pub adds: u64,
    /// Bytes of the record on the wire.
    pub wire_len: u64,
    /// The event that brought it.
    pub position: Position,
}

/// A snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotRow {
    /// Paths in it.
    pub entries: u32,
    /// Distinct directories.
    pub directories: u32,
    /// Bytes of the record on the wire.
    pub wire_len: u64,
    /// The event that brought it.
    pub position: Position,
}

/// A release.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReleaseRow {
    /// Its tag.
    pub tag: String,
    /// stable, beta, alpha, nightly.
    pub channel: String,
    /// Hidden from those who may not write.
    pub is_draft: bool,
    /// Canonical JSON.
    pub record: Vec<u8>,
    /// The event that published it.
    pub position: Position,
}

/// A token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenRow {
    /// The record.
    pub record: TokenRecord,
    /// True once revoked.
    pub revoked: bool,
}

/// A consistent snapshot of all projections. `Error::Unavailable` naming the reason for a parked repository.
#[derive(Clone)]
pub struct View;

impl View {
    /// What it shows.
    pub fn checkpoint(&self) -> Checkpoint {
        todo!()
    }

    /// A live repository by name.
    pub fn repo_by_name(&self, owner: &str, slug: &str) -> Result<Option<RepoRow>> {
        let _ = (owner, slug);
        todo!()
    }

    /// A live repository by id.
    pub fn repo(&self, repo: RepoId) -> Result<Option<RepoRow>> {
        let _ = repo;
        todo!()
    }

    /// Live repositories in (owner, slug) order after `after`, at most `limit`.
    pub fn repos(&self, after: Option<(&str, &str)>, limit: usize) -> Result<Vec<RepoRow>> {
        let _ = (after, limit);
        todo!()
    }

    /// All branches, by name.
    pub fn refs(&self, scope: RepoScope) -> Result<Vec<RefRow>> {
        let _ = scope;
        todo!()
    }

    /// One branch.
    pub fn reference(&self, scope: RepoScope, name: &str) -> Result<Option<RefRow>> {
        let _ = (scope, name);
        todo!()
    }

    /// Whether the repository has the object (delivered to it and not condemned since).
    pub fn has(&self, scope: RepoScope, kind: Kind, id: ObjectId) -> Result<bool> {
        let _ = (scope, kind, id);
        todo!()
    }

    /// Those of `ids` (ascending, distinct) that the repository does not have, ascending.
    pub fn missing(&self, scope: RepoScope, kind: Kind, ids: &[ObjectId]) -> Result<Vec<ObjectId>> {
        let _ = (scope, kind, ids);
        todo!()
    }

    /// Position of the event that proves the object belongs to the repository.
    pub fn proof(&self, scope: RepoScope, kind: Kind, id: ObjectId) -> Result<Option<Position>> {
        let _ = (scope, kind, id);
        todo!()
    }

    /// Where the object is: the latest row that is not condemned.
    pub fn locate(&self, scope: RepoScope, kind: Kind, id: ObjectId) -> Result<Option<Location>> {
        let _ = (scope, kind, id);
        todo!()
    }

    /// Calls `each` for every one of `ids` (ascending, distinct), in order, with its location if the repository has it:
    /// one merge with a range scan, not a get per object.
    pub fn locate_all(
        &self,
        scope: RepoScope,
        kind: Kind,
        ids: &[ObjectId],
        each: &mut dyn FnMut(ObjectId, Option<Location>) -> Result<()>,
    ) -> Result<()> {
        let _ = (scope, kind, ids, each);
        todo!()
    }

    /// A commit's row.
    pub fn commit(&self, scope: RepoScope, id: ObjectId) -> Result<Option<CommitRow>> {
        let _ = (scope, id);
        todo!()
    }

    /// The blob ids that a commit adds, appended to `into` ascending.
    pub fn commit_adds(&self, scope: RepoScope, id: ObjectId, into: &mut Vec<ObjectId>) -> Result<()> {
        let _ = (scope, id, into);
        todo!()
    }

    /// A snapshot's row.
    pub fn snapshot(&self, scope: RepoScope, id: ObjectId) -> Result<Option<SnapshotRow>> {
        let _ = (scope, id);
        todo!()
    }

    /// All tags, by label.
    pub fn tags(&self, scope: RepoScope) -> Result<Vec<TagRecord>> {
        let _ = scope;
        todo!()
    }

    /// All releases, newest first.
    pub fn releases(&self, scope: RepoScope) -> Result<Vec<ReleaseRow>> {
        let _ = scope;
        todo!()
    }

    /// One release.
    pub fn release(&self, scope: RepoScope, tag: &str) -> Result<Option<ReleaseRow>> {
        let _ = (scope, tag);
        todo!()
    }

    /// A token by the hash of its secret.
    pub fn token(&self, hash: TokenHash) -> Result<Option<TokenRow>> {
        let _ = hash;
        todo!()
    }

    /// All tokens, by id.
    pub fn tokens(&self) -> Result<Vec<TokenRow>> {
        todo!()
    }

    /// Where a pack's bytes are.
    pub fn storage_uri(&self, pack: PackId) -> Result<Option<String>> {
        let _ = pack;
        todo!()
    }
}
