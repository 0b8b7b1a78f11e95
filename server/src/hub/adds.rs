//! What a commit adds: the blobs of its snapshot that are not in its first parent's.
//!
//! Invariants: the answer follows from ids alone: a commit's id covers its parents and its snapshot, a snapshot's id its
//! blobs, and both are computed anew from what is read, so it does not matter where that lies. Memory: a bounded set of
//! blob lists and one record.

use std::sync::Arc;

use reprise_engine::{
    Result,
    event::{CommitFacts, ObjectsReceived},
    id::{Kind, ObjectId},
    object::Snapshot,
    pack::{Location, location_of, read_object},
    store::ObjectStore,
};
use reprise_projections::{RepoScope, View};

use crate::hub::blob_lists::{BlobLists, difference};

/// Where commits and snapshots of one repository are.
pub trait Records {
    /// The snapshot of a commit.
    fn snapshot_of(&self, commit: ObjectId) -> Result<Option<ObjectId>>;
    /// Where a snapshot lies.
    fn locate(&self, snapshot: ObjectId) -> Result<Option<Location>>;
}

/// Those of a view.
pub struct OfView<'a>(pub &'a View, pub RepoScope);

impl Records for OfView<'_> {
    fn snapshot_of(&self, commit: ObjectId) -> Result<Option<ObjectId>> {
        Ok(self.0.commit(self.1, commit)?.map(|row| row.snapshot))
    }

    fn locate(&self, snapshot: ObjectId) -> Result<Option<Location>> {
        self.0.locate(self.1, Kind::Snapshot, snapshot)
    }
}

/// Those of one pack.
pub struct OfPack<'a>(pub &'a ObjectsReceived);

impl Records for OfPack<'_> {
    fn snapshot_of(&self, commit: ObjectId) -> Result<Option<ObjectId>> {
        let commits = &self.0.commits;
        Ok(commits.binary_search_by_key(&commit, |facts| facts.id).ok().map(|index| commits[index].snapshot))
    }

    fn locate(&self, snapshot: ObjectId) -> Result<Option<Location>> {
        let rows = &self.0.rows;
        let found = rows.binary_search_by_key(&(Kind::Snapshot, snapshot), |row| (row.kind, row.id)).ok();
        Ok(found.map(|index| location_of(self.0.pack, rows, index)))
    }
}

impl OfPack<'_> {
    /// Whether the pack alone says what a commit adds: its snapshot is in it, and so are its first parent and that one's.
    pub fn tells(&self, commit: &CommitFacts) -> Result<bool> {
        let parent = match commit.parents.first() {
            Some(parent) => self.snapshot_of(*parent)?,
            None => return Ok(self.locate(commit.snapshot)?.is_some()),
        };
        let Some(parent) = parent else { return Ok(false) };
        Ok(self.locate(commit.snapshot)?.is_some() && self.locate(parent)?.is_some())
    }
}

/// Reads snapshots of one repository after another.
pub struct Adds<'a> {
    store: &'a dyn ObjectStore,
    lists: BlobLists,
    /// A snapshot was met that cannot be read.
    unreadable: bool,
}

/// What a commit adds.
pub struct Added {
    /// All blobs of its snapshot; none if that is not there.
    pub all: Arc<[ObjectId]>,
    /// Those that its first parent's snapshot has not; all of them if there is no parent, or its snapshot is not there.
    pub new: Vec<ObjectId>,
    /// False if a snapshot that it depends on is there and cannot be read.
    pub is_certain: bool,
}

impl<'a> Adds<'a> {
    /// Snapshots are read from `store`.
    pub fn new(store: &'a dyn ObjectStore) -> Adds<'a> {
        Adds { store, lists: BlobLists::default(), unreadable: false }
    }

    /// What a commit adds. Errors are those of the store; what is damaged or gone counts as not there.
    pub fn of(&mut self, records: &dyn Records, commit: &CommitFacts) -> Result<Added> {
        self.unreadable = false;
        let Some(all) = self.list(records, commit.snapshot)? else {
            return Ok(Added { all: Arc::from([]), new: Vec::new(), is_certain: !self.unreadable });
        };
        let parent = match commit.parents.first() {
            Some(parent) => records.snapshot_of(*parent)?,
            None => None,
        };
        let before = match parent {
            Some(snapshot) => self.list(records, snapshot)?,
            None => None,
        };
        let new = before.map_or_else(|| all.to_vec(), |before| difference(&all, &before));
        Ok(Added { all, new, is_certain: !self.unreadable })
    }

    /// The blobs of a snapshot.
    fn list(&mut self, records: &dyn Records, snapshot: ObjectId) -> Result<Option<Arc<[ObjectId]>>> {
        if let Some(list) = self.lists.get(snapshot) {
            return Ok(Some(list));
        }
        let Some(location) = records.locate(snapshot)? else { return Ok(None) };
        let read = read_object(self.store, Kind::Snapshot, snapshot, &location);
        let found = match read.and_then(|payload| Snapshot::from_payload(&payload)) {
            Ok(found) if found.id == snapshot => found,
            Err(error) if !error.is_corrupt() && !error.is_not_found() => return Err(error),
            _ => {
                self.unreadable = true;
                return Ok(None);
            }
        };
        let list: Arc<[ObjectId]> = found.blobs.into();
        self.lists.put(snapshot, Arc::clone(&list));
        Ok(Some(list))
    }
}
