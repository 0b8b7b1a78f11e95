//! Row changes of many events in one arena, sorted on demand: a run in memory.
//!
//! Invariants: once sorted, a keyspace's changes ascend by (model, key) and hold each key once, with its latest change;
//! changes of one event are never spread over two buffers, so that between buffers the position alone decides which
//! change is the latest. Memory is what was pushed plus [`ENTRY_BYTES`] per change.

use std::{cmp::Ordering, collections::BTreeMap};

use reprise_engine::id::{Position, RepoId};

use crate::{
    models::{Keyspace, Model, repos},
    store::RowSink,
};

/// A change in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    /// Of which projection.
    pub model: Model,
    /// The row's key.
    pub key: &'a [u8],
    /// The row; `None`: deleted.
    pub row: Option<&'a [u8]>,
    /// The event that changed it.
    pub position: Position,
}

/// Which repositories are live, by the latest event that says so.
pub type Liveness = BTreeMap<RepoId, (Position, bool)>;

/// Takes the changes of events one after the other.
pub struct Buffer {
    bytes: Vec<u8>,
    events: Vec<Position>,
    entries: [Vec<Entry>; Keyspace::ALL.len()],
    changes: usize,
}

/// Where a change is in the arena: the key, and behind it the row.
#[derive(Clone, Copy)]
struct Entry {
    at: u32,
    /// [`DELETED`]: there is no row.
    row_len: u32,
    /// Index into the positions of the events.
    event: u32,
    key_len: u16,
    model: Model,
}

impl Buffer {
    /// An empty buffer with room for about `bytes`; room that is not used costs no memory.
    pub fn with_room(bytes: usize) -> Buffer {
        let (events, entries) = (Vec::new(), std::array::from_fn(|_| Vec::new()));
        Buffer { bytes: Vec::with_capacity(bytes.min(ARENA_BYTES_MAX)), events, entries, changes: 0 }
    }

    /// Memory that is in use, bytes.
    pub fn held_bytes(&self) -> usize {
        self.bytes.len() + self.changes * ENTRY_BYTES + self.events.len() * size_of::<Position>()
    }

    /// How many changes it took.
    pub fn changes(&self) -> usize {
        self.changes
    }

    /// Starts afresh, keeping the room.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.events.clear();
        self.entries.iter_mut().for_each(Vec::clear);
        self.changes = 0;
    }

    /// A sink for the changes of the event at `position`. `liveness` hears what it says about repositories.
    pub fn event<'a>(&'a mut self, position: Position, liveness: &'a mut Liveness) -> EventSink<'a> {
        self.events.push(position);
        EventSink { buffer: self, position, liveness }
    }

    /// Sorts, and forgets all but the latest change of each key.
    pub fn sort(&mut self) {
        let (bytes, events) = (&self.bytes, &self.events);
        for entries in &mut self.entries {
            // The changes of one event mostly ascend already: the sort finds such stretches and merges them. It is stable,
            // so that of two changes in one event the later one stays behind.
            entries
                .sort_by(|a, b| compare(bytes, a, b).then_with(|| events[index(a.event)].cmp(&events[index(b.event)])));
            let mut kept = 0;
            for at in 0..entries.len() {
                let entry = entries[at];
                if kept > 0 && compare(bytes, &entries[kept - 1], &entry).is_eq() {
                    kept -= 1;
                }
                entries[kept] = entry;
                kept += 1;
            }
            entries.truncate(kept);
        }
    }

    /// How many changes of a keyspace it holds.
    pub fn len_of(&self, keyspace: Keyspace) -> usize {
        self.entries[slot(keyspace)].len()
    }

    /// The change at `index` of a keyspace.
    pub fn change(&self, keyspace: Keyspace, at: usize) -> Change<'_> {
        let entry = self.entries[slot(keyspace)][at];
        let (key, rest) = self.bytes[index(entry.at)..].split_at(usize::from(entry.key_len));
        let row = (entry.row_len != DELETED).then(|| &rest[..index(entry.row_len)]);
        Change { model: entry.model, key, row, position: self.events[index(entry.event)] }
    }

    fn push(&mut self, model: Model, key: &[u8], row: Option<&[u8]>) {
        let key_len = u16::try_from(key.len());
        let row_len = row.map_or(Ok(DELETED), |row| u32::try_from(row.len()));
        let (at, event) = (u32::try_from(self.bytes.len()), u32::try_from(self.events.len() - 1));
        let (Ok(at), Ok(event), Ok(key_len), Ok(row_len)) = (at, event, key_len, row_len) else {
            unreachable!("a key is a name or ids, and the caller sorts long before an arena holds 4 GiB");
        };
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(row.unwrap_or_default());
        self.entries[slot(model.keyspace())].push(Entry { at, row_len, event, key_len, model });
        self.changes += 1;
    }
}

/// Takes the changes of one event.
pub struct EventSink<'a> {
    buffer: &'a mut Buffer,
    position: Position,
    liveness: &'a mut Liveness,
}

impl RowSink for EventSink<'_> {
    fn put(&mut self, model: Model, key: &[u8], row: &[u8]) {
        if model == Model::Repos
            && let Some((repo, live)) = repos::liveness(key, row)
        {
            note(self.liveness, repo, self.position, live);
        }
        self.buffer.push(model, key, Some(row));
    }

    fn delete(&mut self, model: Model, key: &[u8]) {
        self.buffer.push(model, key, None);
    }
}

/// Keeps what the later event says.
pub fn note(liveness: &mut Liveness, repo: RepoId, position: Position, live: bool) {
    let latest = liveness.entry(repo).or_insert((position, live));
    if position >= latest.0 {
        *latest = (position, live);
    }
}

/// The place of a keyspace in [`Keyspace::ALL`].
pub fn slot(keyspace: Keyspace) -> usize {
    match keyspace {
        Keyspace::Small => 0,
        Keyspace::History => 1,
        Keyspace::ObjectRefs => 2,
        Keyspace::MpackIndex => 3,
    }
}

fn compare(bytes: &[u8], a: &Entry, b: &Entry) -> Ordering {
    let key = |entry: &Entry| &bytes[index(entry.at)..][..usize::from(entry.key_len)];
    a.model.cmp(&b.model).then_with(|| key(a).cmp(key(b)))
}

fn index(value: u32) -> usize {
    value as usize
}

const DELETED: u32 = u32::MAX;
/// Memory of one change beside its key and row: its entry, and half as much again while it is sorted.
pub const ENTRY_BYTES: usize = size_of::<Entry>() * 3 / 2;
/// Room that is set aside at most; more grows by need.
const ARENA_BYTES_MAX: usize = 64 << 20;
