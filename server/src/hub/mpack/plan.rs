//! What one `fetch/mpack` or `fetch/presign` sends: entries of stored packs, the bases that some of them need, in the order
//! of the body.
//!
//! Invariants: an entry is at most 64 bytes; equal rows of the index give equal plans; a snapshot that is stored against another
//! stands behind its base with no other whole snapshot in between, or is marked to be sent whole; what no row of the repository
//! proves is not in the plan. Must never read more of a pack than such a base.

use std::collections::HashMap;

use reprise_engine::{
    Error,
    event::{Codec, ObjectRow},
    id::{Kind, ObjectId, PackId, RecordHash},
    limits::TRANSFER_ROWS_MAX,
    object::{Snapshot, ids::blob_id},
    pack::{BaseLocation, Location, transfer::base_payload},
};
use reprise_projections::{RepoScope, View};

use crate::hub::{
    Hub, HubError, Repo,
    plan::{absent, blobs_of, snapshots_of},
    walk::SentCommit,
};

/// One object of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its id.
    pub id: ObjectId,
    /// Where its stored form is in its pack.
    pub offset: u64,
    /// Bytes of the stored form.
    pub stored_len: u32,
    /// Bytes of the payload.
    pub real_len: u32,
    /// Which of the plan's packs.
    pub pack: u32,
    /// What it is.
    pub kind: Kind,
    /// How it is stored.
    pub codec: Codec,
    /// Its base cannot be sent: its payload goes out instead of its stored form.
    pub whole: bool,
}

const _: () = assert!(size_of::<Entry>() <= 64);

/// What one transfer sends.
pub struct TransferPlan {
    /// Packs that entries are in.
    pub packs: Vec<PackId>,
    /// Commits, snapshots, blobs; each by pack and offset.
    pub entries: Vec<Entry>,
    /// By ordinal of an entry that nobody wanted, a base: its record hash.
    pub bases: HashMap<u32, RecordHash>,
}

impl TransferPlan {
    /// An entry by its ordinal.
    pub fn entry(&self, ordinal: u32) -> &Entry {
        &self.entries[usize::try_from(ordinal).unwrap_or(usize::MAX)]
    }

    /// Ordinals of the entries of one kind.
    pub fn section(&self, kind: Kind) -> std::ops::Range<usize> {
        let start = self.entries.partition_point(|entry| entry.kind.byte() > kind.byte());
        let end = self.entries.partition_point(|entry| entry.kind.byte() >= kind.byte());
        start..end
    }

    /// The record hashes of entries of one kind, ascending by id.
    pub fn record_hashes(
        &self,
        view: &View,
        scope: RepoScope,
        ordinals: &[u32],
    ) -> reprise_engine::Result<Vec<Option<RecordHash>>> {
        let Some(kind) = ordinals.first().map(|first| self.entry(*first).kind).filter(|kind| *kind != Kind::Blob)
        else {
            return Ok(vec![None; ordinals.len()]);
        };
        let ids: Vec<ObjectId> = ordinals.iter().map(|ordinal| self.entry(*ordinal).id).collect();
        let mut hashes = Vec::with_capacity(ordinals.len());
        view.locate_all(scope, kind, &ids, &mut |_, location| {
            hashes.push(location.and_then(|location| location.record_hash));
            Ok(())
        })?;
        for (hash, ordinal) in hashes.iter_mut().zip(ordinals) {
            *hash = self.bases.get(ordinal).copied().or(*hash);
        }
        Ok(hashes)
    }

    /// The row of an entry, as a pack or an answer has it: `sent` is how it goes out, `base` the place of its base there.
    pub fn row(entry: &Entry, sent: &Location, base: Option<u32>, record_hash: Option<RecordHash>) -> ObjectRow {
        ObjectRow {
            kind: entry.kind,
            id: entry.id,
            offset: sent.offset,
            stored_len: sent.stored_len,
            real_len: sent.real_len,
            codec: sent.codec,
            base,
            record_hash,
        }
    }

    /// The location of an entry, without what is looked up when its turn comes (base and record hash).
    pub fn location(&self, entry: &Entry) -> Location {
        let pack = usize::try_from(entry.pack).ok().and_then(|number| self.packs.get(number));
        Location {
            pack: pack.copied().unwrap_or(PackId([0; 32])),
            offset: entry.offset,
            stored_len: entry.stored_len.into(),
            real_len: entry.real_len.into(),
            codec: entry.codec,
            base: None,
            record_hash: None,
        }
    }
}

/// What will be made of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// One pack: no object may be in it twice.
    OnePack,
    /// Every pack by itself: an object may be wanted from one, and be a base in another.
    EachPack,
}

/// Collects a plan.
pub struct TransferPlanner<'a> {
    hub: &'a Hub,
    repo: &'a Repo,
    view: &'a View,
    purpose: Purpose,
    packs: Vec<PackId>,
    pack_numbers: HashMap<PackId, u32>,
    entries: Vec<Entry>,
    bases: HashMap<u32, RecordHash>,
}

/// A snapshot of the plan and where its base is, if it has one.
type Based = (Entry, Option<BaseLocation>);

impl<'a> TransferPlanner<'a> {
    /// A planner over one repository.
    pub fn new(hub: &'a Hub, (repo, view): (&'a Repo, &'a View), purpose: Purpose) -> TransferPlanner<'a> {
        let (packs, pack_numbers, entries, bases) = (Vec::new(), HashMap::new(), Vec::new(), HashMap::new());
        TransferPlanner { hub, repo, view, purpose, packs, pack_numbers, entries, bases }
    }

    /// Plans the transfer of `commits` (ascending), their snapshots and what they add.
    pub fn plan(mut self, commits: &[SentCommit]) -> Result<TransferPlan, HubError> {
        let ids: Vec<ObjectId> = commits.iter().map(|commit| commit.id).collect();
        let commits_located = self.located(Kind::Commit, &ids)?;
        self.add(commits_located);
        let snapshots = self.located(Kind::Snapshot, &snapshots_of(commits))?;
        self.snapshots(snapshots)?;
        let blobs = blobs_of(self.view, self.repo.scope, commits)?;
        let blobs = self.located(Kind::Blob, &blobs)?;
        self.add(blobs);
        Ok(TransferPlan { packs: self.packs, entries: self.entries, bases: self.bases })
    }

    fn add(&mut self, mut located: Vec<Based>) {
        located.sort_unstable_by_key(|(entry, _)| (entry.pack, entry.offset));
        self.entries.extend(located.into_iter().map(|(entry, _)| entry));
    }

    /// Snapshots with the bases that they need beside them.
    fn snapshots(&mut self, mut wanted: Vec<Based>) -> Result<(), HubError> {
        let mut bases = Vec::new();
        wanted.sort_unstable_by_key(|(entry, _)| (entry.pack, entry.offset));
        let mut asked: Option<(u32, u64)> = None;
        for (entry, base) in &wanted {
            let Some(base) = base else { continue };
            // Entries that share a base stand together: it is asked for once.
            let place = (entry.pack, base.offset);
            let is_wanted = wanted.binary_search_by_key(&place, |(other, _)| (other.pack, other.offset)).is_ok();
            if is_wanted || asked.replace(place) == Some(place) {
                continue;
            }
            if let Some((base, hash)) = self.base_of(entry, base, &wanted)? {
                bases.push((base, hash));
            }
        }
        let hashes: HashMap<(u32, u64), RecordHash> =
            bases.iter().map(|(entry, hash)| ((entry.pack, entry.offset), *hash)).collect();
        wanted.extend(bases.into_iter().map(|(entry, _)| (entry, None)));
        self.check_count(wanted.len())?;
        wanted.sort_unstable_by_key(|(entry, _)| (entry.pack, entry.offset));
        let mut nearest = None;
        for (mut entry, base) in wanted {
            let place = (entry.pack, entry.offset);
            entry.whole = base.is_some_and(|base| nearest != Some((entry.pack, base.offset)));
            if base.is_none() || entry.whole {
                nearest = Some(place);
            }
            if let Some(hash) = hashes.get(&place) {
                self.bases.insert(ordinal(self.entries.len())?, *hash);
            }
            self.entries.push(entry);
        }
        Ok(())
    }

    /// The base of a snapshot as an entry of its own; `None` if it cannot be one: the repository does not have it, or sends it
    /// from another place.
    fn base_of(
        &self,
        of: &Entry,
        base: &BaseLocation,
        wanted: &[Based],
    ) -> Result<Option<(Entry, RecordHash)>, HubError> {
        let pack = usize::try_from(of.pack).ok().and_then(|number| self.packs.get(number)).copied();
        let Some(pack) = pack else { return Ok(None) };
        let codec = of.codec;
        let (offset, stored_len, real_len) = (of.offset, of.stored_len.into(), of.real_len.into());
        let location = Location { pack, offset, stored_len, real_len, codec, base: Some(*base), record_hash: None };
        let store = self.hub.engine.store();
        let read = base_payload(store.as_ref(), Kind::Snapshot, &location).and_then(|payload| {
            let payload = payload.ok_or_else(|| Error::invalid("it has no base"))?;
            Snapshot::from_payload(&payload)
        });
        let found = read.map_err(|error| self.hub.found_damage(self.repo, Kind::Snapshot, of.id, &location, error))?;
        let proven = self.view.proof(self.repo.scope, Kind::Snapshot, found.id)?.is_some();
        let is_sent = || wanted.iter().any(|(entry, _)| entry.id == found.id);
        if !proven || (self.purpose == Purpose::OnePack && is_sent()) {
            return Ok(None);
        }
        let entry = Entry {
            id: found.id,
            offset: base.offset,
            stored_len: narrow(found.id, base.stored_len)?,
            real_len: narrow(found.id, base.real_len)?,
            pack: of.pack,
            kind: Kind::Snapshot,
            codec: base.codec,
            whole: false,
        };
        Ok(Some((entry, found.record_hash)))
    }

    /// Locates `ids` (ascending, distinct).
    fn located(&mut self, kind: Kind, ids: &[ObjectId]) -> Result<Vec<Based>, HubError> {
        self.check_count(ids.len())?;
        let (view, scope) = (self.view, self.repo.scope);
        let empty = blob_id(&[]);
        let mut found = Vec::new();
        let mut refusal = None;
        let located = view.locate_all(scope, kind, ids, &mut |id, location| {
            let entry = match location {
                Some(location) => self.entry(kind, id, &location).map(|entry| (entry, location.base)),
                // It may be named and never delivered (MWP §10.7).
                None if kind == Kind::Blob && id == empty => return Ok(()),
                None => Err(absent(view, scope, kind, id)),
            };
            match entry {
                Ok(entry) => found.push(entry),
                Err(error) => {
                    refusal = Some(error);
                    return Err(Error::invalid("planning ended early"));
                }
            }
            Ok(())
        });
        match refusal {
            Some(error) => Err(error),
            None => Ok(located.map(|()| found)?),
        }
    }

    fn entry(&mut self, kind: Kind, id: ObjectId, location: &Location) -> Result<Entry, HubError> {
        let next = ordinal(self.packs.len())?;
        let pack = *self.pack_numbers.entry(location.pack).or_insert_with(|| {
            self.packs.push(location.pack);
            next
        });
        let (stored_len, real_len) = (narrow(id, location.stored_len)?, narrow(id, location.real_len)?);
        Ok(Entry { id, offset: location.offset, stored_len, real_len, pack, kind, codec: location.codec, whole: false })
    }

    fn check_count(&self, more: usize) -> Result<(), HubError> {
        let max = self.hub.limits.plan_objects_max.min(TRANSFER_ROWS_MAX);
        match self.entries.len() + more <= max {
            true => Ok(()),
            false => Err(HubError::TooLarge(format!("the answer has more than {max} objects, which is the limit"))),
        }
    }
}

fn ordinal(index: usize) -> Result<u32, HubError> {
    u32::try_from(index).map_err(|_| HubError::Internal(format!("a plan with {index} parts")))
}

fn narrow(id: ObjectId, len: u64) -> Result<u32, HubError> {
    u32::try_from(len).map_err(|_| HubError::Internal(format!("object {id} has {len} bytes")))
}
