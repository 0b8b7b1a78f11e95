//! What one fetch will send and read: sizes to the byte, ranges to the read, before the first byte goes out.
//!
//! Invariants: planning reads index rows only, never a pack; it stops as soon as the answer would pass its limit; an item
//! is at most 64 bytes; an object that no row locates ends the plan with an error that names it.

use std::collections::HashMap;

use reprise_engine::{
    event::Codec,
    id::{Kind, ObjectId, PackId},
    object::ids::blob_id,
    pack::{Location, PlanItem, ReadPlan, Wanted, plan_ranges},
    store::{StoreKey, ahead::Soon},
};
use reprise_projections::{RepoScope, View, view::RefRow};

use crate::{
    hub::{HubError, walk::SentCommit},
    wire::encode,
};

/// One object of a plan.
#[derive(Clone, Copy)]
struct Item {
    id: ObjectId,
    offset: u64,
    pack: u32,
    stored_len: u32,
    real_len: u32,
    codec: Codec,
}

const _: () = assert!(size_of::<Item>() <= 64);

/// The objects of one kind, in reading order.
pub struct Section {
    kind: Kind,
    items: Vec<Item>,
}

/// Everything that one answer holds.
pub struct Plan {
    packs: Vec<PackId>,
    /// Commits, snapshots, blobs.
    pub sections: [Section; 3],
    /// Branches of the repository.
    pub refs: Vec<RefRow>,
    /// Bytes of the answer.
    pub len: u64,
}

/// Collects a plan.
pub struct Planner<'a> {
    view: &'a View,
    scope: RepoScope,
    limit: u64,
    objects_max: usize,
    packs: Vec<PackId>,
    pack_numbers: HashMap<PackId, u32>,
    len: u64,
    objects: usize,
}

impl<'a> Planner<'a> {
    /// A planner for answers of at most `limit` bytes.
    pub fn new(view: &'a View, scope: RepoScope, limit: u64, objects_max: usize) -> Planner<'a> {
        let (packs, pack_numbers) = (Vec::new(), HashMap::new());
        Planner { view, scope, limit, objects_max, packs, pack_numbers, len: 0, objects: 0 }
    }

    /// Plans the answer that sends `commits` (ascending), their snapshots and what they add.
    pub fn plan(mut self, commits: &[SentCommit]) -> Result<Plan, HubError> {
        let refs = self.view.refs(self.scope)?;
        self.len = frame_len(&refs);
        for commit in commits {
            self.grow(commit.wire_len)?;
        }
        let ids: Vec<ObjectId> = commits.iter().map(|commit| commit.id).collect();
        let commit_items = self.items(Kind::Commit, &ids)?;
        let snapshots = self.snapshots(commits)?;
        let blobs = self.blobs(commits)?;
        for section in [&commit_items, &snapshots, &blobs] {
            self.grow(encode::container_header_len(section.items.len() as u64))?;
        }
        Ok(Plan { packs: self.packs, sections: [commit_items, snapshots, blobs], refs, len: self.len })
    }

    fn snapshots(&mut self, commits: &[SentCommit]) -> Result<Section, HubError> {
        let ids = snapshots_of(commits);
        for id in &ids {
            let row = self.view.snapshot(self.scope, *id)?;
            let row = row.ok_or_else(|| absent(self.view, self.scope, Kind::Snapshot, *id))?;
            self.grow(row.wire_len)?;
        }
        self.items(Kind::Snapshot, &ids)
    }

    fn blobs(&mut self, commits: &[SentCommit]) -> Result<Section, HubError> {
        let mut ids = blobs_of(self.view, self.scope, commits)?;
        // The stock client cannot take an empty file, it would only warn.
        if let Ok(index) = ids.binary_search(&blob_id(&[])) {
            ids.remove(index);
        }
        self.items(Kind::Blob, &ids)
    }

    /// Locates `ids` (ascending, distinct); blobs count towards the answer's length here.
    fn items(&mut self, kind: Kind, ids: &[ObjectId]) -> Result<Section, HubError> {
        self.objects += ids.len();
        if self.objects > self.objects_max {
            let max = self.objects_max;
            return Err(HubError::TooLarge(format!("the answer has more than {max} objects, which is the limit")));
        }
        let mut items = Vec::new();
        let mut refusal = None;
        let (view, scope) = (self.view, self.scope);
        let located = view.locate_all(self.scope, kind, ids, &mut |id, location| {
            let planned = location
                .ok_or_else(|| absent(view, scope, kind, id))
                .and_then(|location| self.item(kind, id, &location));
            match planned {
                Ok(item) => items.push(item),
                Err(error) => {
                    refusal = Some(error);
                    return Err(reprise_engine::Error::invalid("planning ended early"));
                }
            }
            Ok(())
        });
        if let Some(error) = refusal {
            return Err(error);
        }
        located?;
        items.sort_unstable_by_key(|item: &Item| (item.pack, item.offset));
        Ok(Section { kind, items })
    }

    fn item(&mut self, kind: Kind, id: ObjectId, location: &Location) -> Result<Item, HubError> {
        if kind == Kind::Blob {
            self.grow(object_len(location.real_len))?;
        }
        let next = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        let pack = *self.pack_numbers.entry(location.pack).or_insert_with(|| {
            self.packs.push(location.pack);
            next
        });
        let narrow =
            |len: u64| u32::try_from(len).map_err(|_| HubError::Internal(format!("object {id} has {len} bytes")));
        Ok(Item {
            id,
            offset: location.offset,
            pack,
            stored_len: narrow(location.stored_len)?,
            real_len: narrow(location.real_len)?,
            codec: location.codec,
        })
    }

    fn grow(&mut self, bytes: u64) -> Result<(), HubError> {
        self.len += bytes;
        if self.len <= self.limit {
            return Ok(());
        }
        Err(HubError::TooLarge(format!(
            "this answer has more than {} bytes ({} when planning stopped), and {} is the most that the client takes at once. \
             Way out: in an empty repository (muse init, muse remote add) run 'muse pull origin BRANCH' for one branch after \
             another, oldest first; single files are at GET /OWNER/SLUG/objects/ID",
            self.limit, self.len, self.limit
        )))
    }
}

impl Section {
    /// How many objects.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True without objects.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of the longest payload.
    pub fn longest(&self) -> u32 {
        self.items.iter().map(|item| item.real_len).max().unwrap_or(0)
    }

    /// Kind of the objects.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl Plan {
    /// The ranged reads of a section.
    pub fn reads(&self, section: &Section) -> ReadPlan {
        plan_ranges(section.items.iter().map(|item| PlanItem::of(section.kind, &self.blob_location(item))))
    }

    /// What to read, in the order of [`Plan::reads`]. A record's whole location is looked up when its turn comes.
    pub fn wanted<'a>(
        &'a self,
        view: &'a View,
        scope: RepoScope,
        section: &'a Section,
    ) -> impl Iterator<Item = Wanted> + 'a {
        section.items.iter().map(move |item| {
            let located = match section.kind {
                Kind::Blob => None,
                kind => view.locate(scope, kind, item.id).ok().flatten(),
            };
            // Without its row the read fails to verify, and says which object it was.
            let location = located.unwrap_or_else(|| self.blob_location(item));
            Wanted { kind: section.kind, id: item.id, location }
        })
    }

    fn blob_location(&self, item: &Item) -> Location {
        let pack = usize::try_from(item.pack).ok().and_then(|number| self.packs.get(number));
        Location {
            pack: pack.copied().unwrap_or(PackId([0; 32])),
            offset: item.offset,
            stored_len: item.stored_len.into(),
            real_len: item.real_len.into(),
            codec: item.codec,
            base: None,
            record_hash: None,
        }
    }
}

/// How much is read of which packs by all of `plans`, in the order of their first read.
pub(crate) fn soon(plans: &[ReadPlan]) -> Vec<Soon> {
    let mut places: HashMap<PackId, usize> = HashMap::new();
    let mut soon: Vec<Soon> = Vec::new();
    for range in plans.iter().flat_map(|plan| &plan.ranges) {
        let place = *places.entry(range.pack).or_insert(soon.len());
        if place == soon.len() {
            soon.push(Soon { key: StoreKey::pack(range.pack), bytes: 0, end: 0 });
        }
        let soon = &mut soon[place];
        soon.bytes += range.len;
        soon.end = soon.end.max(range.offset.saturating_add(range.len));
    }
    soon
}

/// The snapshots of `commits`, ascending and distinct.
pub(crate) fn snapshots_of(commits: &[SentCommit]) -> Vec<ObjectId> {
    let mut ids: Vec<ObjectId> = commits.iter().map(|commit| commit.snapshot).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The blobs that `commits` add, ascending and distinct.
pub(crate) fn blobs_of(view: &View, scope: RepoScope, commits: &[SentCommit]) -> Result<Vec<ObjectId>, HubError> {
    let mut ids = Vec::new();
    let mut compact_at = 1 << 16;
    for commit in commits {
        view.commit_adds(scope, commit.id, &mut ids)?;
        if ids.len() > compact_at {
            ids.sort_unstable();
            ids.dedup();
            compact_at = (ids.len() * 2).max(1 << 16);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The answer without its records and objects and their counts.
fn frame_len(refs: &[RefRow]) -> u64 {
    let keys: u64 = KEYS.iter().map(|key| encode::text_len(key.len() as u64)).sum();
    1 + keys + heads_len(refs)
}

fn heads_len(refs: &[RefRow]) -> u64 {
    let pairs: u64 = refs.iter().map(|row| encode::text_len(row.name.len() as u64) + encode::ID_LEN).sum();
    encode::container_header_len(refs.len() as u64) + pairs
}

/// A blob of `len` bytes as `{object_id, content}`.
fn object_len(len: u64) -> u64 {
    1 + encode::text_len(OBJECT_ID.len() as u64)
        + encode::ID_LEN
        + encode::text_len(CONTENT.len() as u64)
        + encode::bin_header_len(len)
        + len
}

/// An object of the closure that no row serves: its rows are condemned (the pack is named), or it never came.
pub(crate) fn absent(view: &View, scope: RepoScope, kind: Kind, object: ObjectId) -> HubError {
    match view.any_pack(scope, kind, object) {
        Ok(Some(pack)) => HubError::Damaged { object, pack },
        _ => HubError::Internal(format!("{kind} object {object} is missing here: push it again to heal it")),
    }
}

/// Keys of the answer, in order.
pub const KEYS: [&str; 4] = ["branch_heads", "commits", "snapshots", "objects"];
/// Key of an object's id.
pub const OBJECT_ID: &str = "object_id";
/// Key of an object's bytes.
pub const CONTENT: &str = "content";
