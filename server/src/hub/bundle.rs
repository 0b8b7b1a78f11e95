//! A push's bundle: every record verified, packed if the repository lacks it, and checked for holes.
//!
//! Invariants: nothing here changes what anyone can see (packs are durable but unnamed until the push's one append); a
//! snapshot or commit that the repository has stays as it is; every blob of every new snapshot, every parent and every
//! commit's snapshot is in the bundle or in the repository, or the push is refused with a text that says what is not.
//! Memory: one record (a large one only while no other push has one), a bounded set of blob lists, 32 bytes per distinct
//! blob, about 150 bytes per commit.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError},
};

use reprise_engine::{
    id::{Kind, ObjectId},
    object::{Commit, Snapshot, ids::blob_id},
    pack::read_object,
    store::StoreKey,
};
use reprise_projections::View;

use crate::hub::{
    Hub, HubError, Repo,
    blob_lists::{BlobLists, difference},
    delivery::Delivery,
    packing::Packing,
    push::Asked,
};

/// What the rest of a push needs to know of a bundle that was taken in.
pub struct Taken {
    /// Every commit of the bundle.
    pub lines: HashMap<ObjectId, Line>,
    /// Where the branch is to be: what was asked for, else the first commit of the bundle; without any, where it is.
    pub tip: ObjectId,
    /// Records that differ from what the repository has under the same id; they were left out.
    pub differing: Vec<ObjectId>,
    /// Blobs that waited in quarantine, which they may leave once the push is accepted.
    pub taken_in: Vec<StoreKey>,
}

/// What the walk needs of a commit.
pub struct Line {
    /// First parent first.
    pub parents: Vec<ObjectId>,
    /// Its snapshot.
    pub snapshot: ObjectId,
}

/// Why a bundle was not taken in.
pub enum Refused {
    /// Answered with `ok: false` and this text.
    Rejected(String),
    /// Answered with an error status.
    Error(HubError),
}

impl<E: Into<HubError>> From<E> for Refused {
    fn from(error: E) -> Refused {
        Refused::Error(error.into())
    }
}

/// Takes one bundle in.
pub struct Intake<'a> {
    hub: &'a Hub,
    repo: &'a Repo,
    view: &'a View,
    asked: &'a Asked,
    delivery: &'a Delivery,
    packing: &'a mut Packing,
    /// Where each snapshot of the bundle stands in its list, by id.
    snapshots: Vec<(ObjectId, usize)>,
    /// Parallel to `snapshots`: verified and, if need be, packed.
    done: Vec<bool>,
    lines: HashMap<ObjectId, Line>,
    lists: BlobLists,
    /// Blobs that new snapshots name.
    named: Vec<ObjectId>,
    named_compact: usize,
    last_list: Option<Arc<[ObjectId]>>,
    /// Snapshots that commits name and the bundle does not hold.
    foreign_snapshots: Vec<(ObjectId, ObjectId)>,
    differing: Vec<ObjectId>,
}

impl<'a> Intake<'a> {
    /// Prepares to take in what a push delivers.
    pub fn new(
        hub: &'a Hub,
        (repo, view): (&'a Repo, &'a View),
        asked: &'a Asked,
        packing: &'a mut Packing,
    ) -> Result<Intake<'a>, Refused> {
        let delivery = &asked.delivery;
        let mut snapshots: Vec<_> =
            delivery.snapshots().into_iter().enumerate().map(|(at, snapshot)| (snapshot, at)).collect();
        snapshots.sort_unstable();
        if let Some(pair) = snapshots.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(HubError::Invalid(format!("snapshot {} stands twice in the bundle", pair[0].0)).into());
        }
        let done = vec![false; snapshots.len()];
        Ok(Intake {
            hub,
            repo,
            view,
            asked,
            delivery,
            packing,
            snapshots,
            done,
            lines: HashMap::new(),
            lists: BlobLists::default(),
            named: Vec::new(),
            named_compact: 1 << 16,
            last_list: None,
            foreign_snapshots: Vec::new(),
            differing: Vec::new(),
        })
    }

    /// Verifies, packs, checks. `old`: where the branch is.
    pub fn run(mut self, old: Option<ObjectId>) -> Result<Taken, Refused> {
        let first = self.read_lines()?;
        let Some(tip) = self.asked.tip.or(first).or(old) else {
            let branch = &self.asked.branch;
            return Err(Refused::Rejected(format!("the push brings no commits: branch '{branch}' would have no head")));
        };
        if !self.lines.contains_key(&tip) && old != Some(tip) && self.view.commit(self.repo.scope, tip)?.is_none() {
            let text = format!("commit {tip} is neither in this repository nor does the push bring it");
            return Err(Refused::Rejected(text));
        }
        // The bundle is tip first: backwards, a commit's parent has just been seen and snapshots resemble their forerunner.
        for at in (0..self.delivery.commits()).rev() {
            let commit = self.delivery.commit(at)?;
            self.commit(&commit)?;
        }
        for slot in 0..self.snapshots.len() {
            self.bundled_snapshot(slot)?;
        }
        self.check_parents()?;
        self.check_snapshots()?;
        let taken_in = self.check_blobs()?;
        self.delivery.pack_blobs(self.view, self.repo, self.packing)?;
        Ok(Taken { lines: self.lines, tip, differing: self.differing, taken_in })
    }

    /// Verifies every commit and remembers its parents and snapshot; returns the tip, if there is one.
    fn read_lines(&mut self) -> Result<Option<ObjectId>, Refused> {
        let mut tip = None;
        for at in 0..self.delivery.commits() {
            let commit = self.delivery.commit(at)?;
            tip = tip.or(Some(commit.id));
            let line = Line { parents: commit.parents, snapshot: commit.snapshot };
            if self.lines.insert(commit.id, line).is_some() {
                return Err(HubError::Invalid(format!("commit {} stands twice in the bundle", commit.id)).into());
            }
        }
        Ok(tip)
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), Refused> {
        let bundled = self.snapshots.binary_search_by_key(&commit.snapshot, |(id, _)| *id);
        if let Ok(slot) = bundled {
            self.bundled_snapshot(slot)?;
        }
        if let Some(known) = self.view.locate(self.repo.scope, Kind::Commit, commit.id)? {
            if known.record_hash != Some(commit.record_hash) {
                self.differing.push(commit.id);
            }
            return Ok(());
        }
        if bundled.is_err() {
            self.foreign_snapshots.push((commit.snapshot, commit.id));
        }
        let adds = self.adds_of(commit)?;
        self.packing.commit(commit, adds)?;
        Ok(())
    }

    /// Blobs in the commit's snapshot that are not in its first parent's; all of them when the parent is unknown (the push
    /// is refused later).
    fn adds_of(&mut self, commit: &Commit) -> Result<Vec<ObjectId>, Refused> {
        let Some(list) = self.list(commit.snapshot)? else { return Ok(Vec::new()) };
        let Some(parent) = commit.parents.first() else { return Ok(list.to_vec()) };
        let parent_snapshot = match self.lines.get(parent) {
            Some(line) => Some(line.snapshot),
            None => self.view.commit(self.repo.scope, *parent)?.map(|row| row.snapshot),
        };
        let before = match parent_snapshot {
            Some(snapshot) => self.list(snapshot)?,
            None => None,
        };
        Ok(before.map_or_else(|| list.to_vec(), |before| difference(&list, &before)))
    }

    /// Verifies a snapshot of the bundle, once; packs it if the repository does not have it.
    fn bundled_snapshot(&mut self, slot: usize) -> Result<(), Refused> {
        if std::mem::replace(&mut self.done[slot], true) {
            return Ok(());
        }
        // Until it is packed: then only its list of blobs is left.
        let _turn = self.turn(slot);
        let snapshot = self.read_snapshot(slot)?;
        let list: Arc<[ObjectId]> = snapshot.blobs.as_slice().into();
        self.lists.put(snapshot.id, Arc::clone(&list));
        if let Some(known) = self.view.locate(self.repo.scope, Kind::Snapshot, snapshot.id)? {
            if known.record_hash != Some(snapshot.record_hash) {
                self.differing.push(snapshot.id);
            }
            return Ok(());
        }
        self.packing.snapshot(&snapshot)?;
        self.name_blobs(list);
        Ok(())
    }

    /// A turn at a large record, if the snapshot is one.
    fn turn(&self, slot: usize) -> Option<MutexGuard<'a, ()>> {
        let (_, at) = self.snapshots[slot];
        let large = self.delivery.snapshot_len(at) > RECORD_BYTES_SMALL;
        large.then(|| self.hub.large_records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn read_snapshot(&self, slot: usize) -> Result<Snapshot, Refused> {
        let (id, at) = self.snapshots[slot];
        let snapshot = self.delivery.snapshot(at)?;
        let max = self.hub.limits.snapshot_entries_max;
        if usize::try_from(snapshot.entries).unwrap_or(usize::MAX) > max {
            let text = format!("snapshot {id} has {} paths; the limit is {max}", snapshot.entries);
            return Err(HubError::TooLarge(text).into());
        }
        Ok(snapshot)
    }

    /// The blob list of a snapshot, from memory, bundle or repository.
    fn list(&mut self, snapshot: ObjectId) -> Result<Option<Arc<[ObjectId]>>, Refused> {
        if let Some(list) = self.lists.get(snapshot) {
            return Ok(Some(list));
        }
        let blobs = match self.snapshots.binary_search_by_key(&snapshot, |(id, _)| *id) {
            Ok(slot) => {
                let _turn = self.turn(slot);
                self.read_snapshot(slot)?.blobs
            }
            Err(_) => match self.view.locate(self.repo.scope, Kind::Snapshot, snapshot)? {
                None => return Ok(None),
                Some(location) => {
                    let store = self.hub.engine.store();
                    let read = read_object(store.as_ref(), Kind::Snapshot, snapshot, &location);
                    let payload = read.map_err(|error| {
                        self.hub.found_damage(self.repo, Kind::Snapshot, snapshot, &location, error)
                    })?;
                    Snapshot::from_payload(&payload)?.blobs
                }
            },
        };
        let list: Arc<[ObjectId]> = blobs.into();
        self.lists.put(snapshot, Arc::clone(&list));
        Ok(Some(list))
    }

    /// Remembers what a new snapshot names, less what the one before it named.
    fn name_blobs(&mut self, list: Arc<[ObjectId]>) {
        let before = self.last_list.take().unwrap_or_else(|| Arc::from([]));
        self.named.extend(difference(&list, &before));
        self.last_list = Some(list);
        if self.named.len() > self.named_compact {
            self.named.sort_unstable();
            self.named.dedup();
            self.named_compact = (self.named.len() * 2).max(1 << 16);
        }
    }

    fn check_parents(&self) -> Result<(), Refused> {
        let mut outside: Vec<(ObjectId, ObjectId)> = self
            .lines
            .iter()
            .flat_map(|(child, line)| line.parents.iter().map(|parent| (*parent, *child)))
            .filter(|(parent, _)| !self.lines.contains_key(parent))
            .collect();
        outside.sort_unstable();
        match self.first_missing(Kind::Commit, &outside)? {
            None => Ok(()),
            Some((parent, child)) => Err(Refused::Rejected(format!(
                "commit {child} has the parent {parent}, which this repository does not have and the push does not bring: \
                 remove the folder .muse/remotes and push again"
            ))),
        }
    }

    fn check_snapshots(&mut self) -> Result<(), Refused> {
        self.foreign_snapshots.sort_unstable();
        match self.first_missing(Kind::Snapshot, &self.foreign_snapshots)? {
            None => Ok(()),
            Some((snapshot, commit)) => Err(Refused::Rejected(format!(
                "commit {commit} has the snapshot {snapshot}, which this repository does not have and the push does not \
                 bring: remove the folder .muse/remotes and push again"
            ))),
        }
    }

    /// The first pair (sorted) whose first part the repository lacks.
    fn first_missing(
        &self,
        kind: Kind,
        pairs: &[(ObjectId, ObjectId)],
    ) -> Result<Option<(ObjectId, ObjectId)>, Refused> {
        let mut ids: Vec<ObjectId> = pairs.iter().map(|(id, _)| *id).collect();
        ids.dedup();
        let missing = self.view.missing(self.repo.scope, kind, &ids)?;
        let first = missing.first().and_then(|id| pairs.iter().find(|(first, _)| first == id));
        Ok(first.copied())
    }

    /// What is neither sent nor here may have come by an address of its own, if the rest came in a body: a pack that is stored as it
    /// came has no room for more.
    fn check_blobs(&mut self) -> Result<Vec<StoreKey>, Refused> {
        let mut named = std::mem::take(&mut self.named);
        named.sort_unstable();
        named.dedup();
        let mut sent = self.delivery.blobs();
        // An empty file cannot be delivered to the stock client, yet its merges may name it (MWP §10.7).
        sent.push(blob_id(&[]));
        sent.sort_unstable();
        sent.dedup();
        let mut missing = difference(&self.view.missing(self.repo.scope, Kind::Blob, &named)?, &sent);
        let mut taken_in = Vec::new();
        if !missing.is_empty() && matches!(self.delivery, Delivery::Body { .. }) {
            let taken = self.hub.take_in_blobs(&self.repo.name(), &missing, self.packing)?;
            missing.retain(|id| taken.binary_search_by_key(id, |(id, _)| *id).is_err());
            taken_in.extend(taken.into_iter().map(|(_, key)| key));
        }
        if missing.is_empty() {
            return Ok(taken_in);
        }
        let shown = missing.len().min(self.hub.limits.missing_listed_max);
        let list: Vec<String> = missing[..shown].iter().map(ToString::to_string).collect();
        Err(Refused::Rejected(format!(
            "{} objects named by the pushed snapshots are neither sent nor here: push again (if it stays, remove the folder \
             .muse/remotes first). Missing: {}{}",
            missing.len(),
            list.join(", "),
            if shown < missing.len() { ", …" } else { "" },
        )))
    }
}

/// A record up to this size is read whenever it comes; of larger ones, which take several times their size while they are
/// read, there is one at a time in the whole server.
const RECORD_BYTES_SMALL: u64 = 1 << 20;
