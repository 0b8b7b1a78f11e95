//! Reads: everything that serves goes through a view, every read of a repository takes its scope.
//!
//! Invariants: a view never changes; no read crosses from one repository into another; an index miss is an answer, never
//! a search; a repository with an event that could not be folded is `Unavailable` with the reason, never half served.
use std::{collections::BTreeMap, sync::Arc};

use reprise_engine::{
    Error, ErrorKind, Result,
    event::{RepoRecord, TagRecord, TokenRecord, Visibility},
    id::{Kind, ObjectId, PackId, Position, RepoId, TokenHash},
    pack::Location,
};

use crate::{
    difference::{self, Difference},
    digest::{self, Digest},
    dump,
    models::{self, Model},
    projections::Checkpoint,
    store::Snapshot,
};

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

/// What a listing of releases decides by: their records may be large.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReleaseHead {
    /// Its tag.
    pub tag: String,
    /// stable, beta, alpha, nightly.
    pub channel: String,
    /// Hidden from those who may not write.
    pub is_draft: bool,
    /// Bytes of its record.
    pub record_bytes: u64,
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

/// Parked repositories and why. Shared: it rarely changes.
pub(crate) type Parked = Arc<BTreeMap<RepoId, String>>;

/// A consistent snapshot of all projections. `Error::Unavailable` naming the reason for a parked repository, and for
/// every read while the projections have not yet caught up after a start.
#[derive(Clone)]
pub struct View {
    content: Content,
    checkpoint: Checkpoint,
}

#[derive(Clone)]
enum Content {
    Rows { snapshot: Arc<dyn Snapshot>, parked: Parked },
    Unavailable(Arc<str>),
}

impl View {
    /// A view of what `snapshot` holds.
    pub fn of_snapshot(snapshot: Arc<dyn Snapshot>) -> Result<View> {
        let parked = Arc::new(models::parked::list(&*snapshot)?);
        let checkpoint = snapshot.checkpoint()?.unwrap_or(Checkpoint::START);
        Ok(View::of(snapshot, parked, checkpoint))
    }

    pub(crate) fn of(snapshot: Arc<dyn Snapshot>, parked: Parked, checkpoint: Checkpoint) -> View {
        View { content: Content::Rows { snapshot, parked }, checkpoint }
    }

    pub(crate) fn unavailable(reason: &str) -> View {
        View { content: Content::Unavailable(reason.into()), checkpoint: Checkpoint::START }
    }

    /// What it shows.
    pub fn checkpoint(&self) -> Checkpoint {
        self.checkpoint
    }

    /// A live repository by name.
    pub fn repo_by_name(&self, owner: &str, slug: &str) -> Result<Option<RepoRow>> {
        models::repos::by_name(self.rows()?, owner, slug)
    }

    /// A live repository by id.
    pub fn repo(&self, repo: RepoId) -> Result<Option<RepoRow>> {
        models::repos::get(self.rows()?, repo)
    }

    /// Live repositories in (owner, slug) order after `after`, at most `limit`.
    pub fn repos(&self, after: Option<(&str, &str)>, limit: usize) -> Result<Vec<RepoRow>> {
        models::repos::list(self.rows()?, after, limit)
    }

    /// All branches, by name.
    pub fn refs(&self, scope: RepoScope) -> Result<Vec<RefRow>> {
        models::refs::list(self.rows_of(scope)?, scope.0)
    }

    /// One branch.
    pub fn reference(&self, scope: RepoScope, name: &str) -> Result<Option<RefRow>> {
        models::refs::get(self.rows_of(scope)?, scope.0, name)
    }

    /// Whether the repository has the object (delivered to it and not condemned since).
    pub fn has(&self, scope: RepoScope, kind: Kind, id: ObjectId) -> Result<bool> {
        Ok(self.missing(scope, kind, &[id])?.is_empty())
    }

    /// Those of `ids` (ascending, distinct) that the repository does not have, ascending.
    ///
    /// An object counts as there only with both its rows: the proof in `object_refs` and a place that is not condemned.
    pub fn missing(&self, scope: RepoScope, kind: Kind, ids: &[ObjectId]) -> Result<Vec<ObjectId>> {
        let rows = self.rows_of(scope)?;
        let mut unproven = models::object_refs::missing(rows, scope.0, kind, ids)?.into_iter().peekable();
        let mut missing = Vec::new();
        models::mpack_index::locate_all(rows, scope.0, kind, ids, &mut |id, location| {
            if unproven.next_if_eq(&id).is_some() || location.is_none() {
                missing.push(id);
            }
            Ok(())
        })?;
        Ok(missing)
    }

    /// Position of the event that proves the object belongs to the repository.
    pub fn proof(&self, scope: RepoScope, kind: Kind, id: ObjectId) -> Result<Option<Position>> {
        models::object_refs::get(self.rows_of(scope)?, scope.0, kind, id)
    }

    /// Where the object is: the latest row that is not condemned.
    pub fn locate(&self, scope: RepoScope, kind: Kind, id: ObjectId) -> Result<Option<Location>> {
        models::mpack_index::locate(self.rows_of(scope)?, scope.0, kind, id)
    }

    /// A pack that the repository got the object in, condemned or not: for errors that name where it was.
    pub fn any_pack(&self, scope: RepoScope, kind: Kind, id: ObjectId) -> Result<Option<PackId>> {
        models::mpack_index::any_pack(self.rows_of(scope)?, scope.0, kind, id)
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
        models::mpack_index::locate_all(self.rows_of(scope)?, scope.0, kind, ids, each)
    }

    /// A commit's row.
    pub fn commit(&self, scope: RepoScope, id: ObjectId) -> Result<Option<CommitRow>> {
        models::commits::get(self.rows_of(scope)?, scope.0, id)
    }

    /// Calls `each` with every commit whose id is at least `from` and, if given, below `until`, by id.
    pub fn commits(
        &self,
        scope: RepoScope,
        range: (ObjectId, Option<ObjectId>),
        each: &mut dyn FnMut(ObjectId, CommitRow) -> Result<()>,
    ) -> Result<()> {
        models::commits::list(self.rows_of(scope)?, scope.0, range, each)
    }

    /// The blob ids that a commit adds, appended to `into` ascending.
    pub fn commit_adds(&self, scope: RepoScope, id: ObjectId, into: &mut Vec<ObjectId>) -> Result<()> {
        models::commits::adds(self.rows_of(scope)?, scope.0, id, into)
    }

    /// A snapshot's row.
    pub fn snapshot(&self, scope: RepoScope, id: ObjectId) -> Result<Option<SnapshotRow>> {
        models::snapshots::get(self.rows_of(scope)?, scope.0, id)
    }

    /// All tags, by label.
    pub fn tags(&self, scope: RepoScope) -> Result<Vec<TagRecord>> {
        models::tags::list(self.rows_of(scope)?, scope.0)
    }

    /// All releases without their records, newest first.
    pub fn releases(&self, scope: RepoScope) -> Result<Vec<ReleaseHead>> {
        models::releases::list(self.rows_of(scope)?, scope.0)
    }

    /// One release.
    pub fn release(&self, scope: RepoScope, tag: &str) -> Result<Option<ReleaseRow>> {
        models::releases::get(self.rows_of(scope)?, scope.0, tag)
    }

    /// A token by the hash of its secret.
    pub fn token(&self, hash: TokenHash) -> Result<Option<TokenRow>> {
        models::tokens::get(self.rows()?, hash)
    }

    /// All tokens, by id.
    pub fn tokens(&self) -> Result<Vec<TokenRow>> {
        models::tokens::list(self.rows()?)
    }

    /// How many tokens of an owner are valid at `now_ms`. Reads all tokens, keeps none.
    pub fn count_tokens(&self, owner: &str, now_ms: u64) -> Result<usize> {
        models::tokens::count(self.rows()?, owner, now_ms)
    }

    /// How many live repositories an owner has; counts no further than `max`.
    pub fn count_repos(&self, owner: &str, max: usize) -> Result<usize> {
        models::repos::count(self.rows()?, owner, max)
    }

    /// Where a pack's bytes are: its key in the object store, or where an event moved it; `None` if it is retired or no
    /// event names it.
    pub fn storage_uri(&self, pack: PackId) -> Result<Option<String>> {
        Ok(models::storage_uri::get(self.rows()?, pack)?.and_then(|place| place.uri))
    }

    /// Whether any event names a pack, also one that is retired by now.
    pub fn is_named(&self, pack: PackId) -> Result<bool> {
        Ok(models::storage_uri::get(self.rows()?, pack)?.is_some())
    }

    /// Parked repositories and why.
    pub fn parked(&self) -> Result<&BTreeMap<RepoId, String>> {
        match &self.content {
            Content::Rows { parked, .. } => Ok(parked),
            Content::Unavailable(reason) => Err(Error::new(ErrorKind::Unavailable, reason.as_ref())),
        }
    }

    /// The fingerprint of all logical rows: scans everything.
    pub fn digest(&self) -> Result<Digest> {
        digest::of_snapshot(self.rows()?, self.checkpoint.position)
    }

    /// Calls `each` with the rows of a projection that this view and another have not in common, in key order, until it answers
    /// false: scans both.
    pub fn difference(&self, other: &View, model: Model, each: &mut dyn FnMut(Difference) -> bool) -> Result<()> {
        difference::of_model(self.rows()?, other.rows()?, model, each)
    }

    /// Calls `each` with every logical row of a projection as JSON for people, in key order.
    pub fn dump(&self, model: Model, each: &mut dyn FnMut(serde_json::Value) -> Result<()>) -> Result<()> {
        dump::dump(self.rows()?, model, each)
    }

    fn rows(&self) -> Result<&dyn Snapshot> {
        match &self.content {
            Content::Rows { snapshot, .. } => Ok(&**snapshot),
            Content::Unavailable(reason) => Err(Error::new(ErrorKind::Unavailable, reason.as_ref())),
        }
    }

    fn rows_of(&self, scope: RepoScope) -> Result<&dyn Snapshot> {
        if let Some(reason) = self.parked()?.get(&scope.0) {
            let text = format!("repository {} is parked: {reason}", scope.0);
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        self.rows()
    }
}
