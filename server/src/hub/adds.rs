//! What a commit adds: the blobs of its snapshot that are not in its first parent's.
//!
//! Invariants: the answer follows from ids alone: a commit's id covers its parents and its snapshot, a snapshot's id its
//! blobs, and both are computed anew from what is read, so it does not matter where that lies. Memory: a bounded set of
//! blob lists and one record.

use std::sync::Arc;

use reprise_engine::{
    Result,
    event::CommitFacts,
    id::{Kind, ObjectId},
    object::Snapshot,
    pack::read_object,
    store::ObjectStore,
};
use reprise_projections::{RepoScope, View};

use crate::hub::blob_lists::{BlobLists, difference};

/// Reads snapshots of one repository after another.
pub struct Adds<'a> {
    store: &'a dyn ObjectStore,
    view: &'a View,
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
    /// Snapshots are found by `view` and read from `store`.
    pub fn new(store: &'a dyn ObjectStore, view: &'a View) -> Adds<'a> {
        Adds { store, view, lists: BlobLists::default(), unreadable: false }
    }

    /// What a commit of the repository adds. Errors are those of the store; what is damaged or gone counts as not there.
    pub fn of(&mut self, scope: RepoScope, commit: &CommitFacts) -> Result<Added> {
        self.unreadable = false;
        let Some(all) = self.list(scope, commit.snapshot)? else {
            return Ok(Added { all: Arc::from([]), new: Vec::new(), is_certain: !self.unreadable });
        };
        let parent = match commit.parents.first() {
            Some(parent) => self.view.commit(scope, *parent)?,
            None => None,
        };
        let before = match parent {
            Some(parent) => self.list(scope, parent.snapshot)?,
            None => None,
        };
        let new = before.map_or_else(|| all.to_vec(), |before| difference(&all, &before));
        Ok(Added { all, new, is_certain: !self.unreadable })
    }

    /// The blobs of a snapshot.
    fn list(&mut self, scope: RepoScope, snapshot: ObjectId) -> Result<Option<Arc<[ObjectId]>>> {
        if let Some(list) = self.lists.get(snapshot) {
            return Ok(Some(list));
        }
        let Some(location) = self.view.locate(scope, Kind::Snapshot, snapshot)? else { return Ok(None) };
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
