//! Which push ids were appended lately, and what each was answered.
//!
//! Invariants: at most 40 bytes per id of a sealed segment (one sorted run per segment, as its footer stores it); an id
//! counts while its last position is at most `PUSH_ID_WINDOW` behind the next one; the newest entry of an id wins.

use std::collections::{BTreeMap, VecDeque};

use super::fields::Fields;
use crate::{
    id::{Position, PushId},
    limits::PUSH_ID_WINDOW,
};

/// One answered proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PushEntry {
    /// Its id.
    pub(crate) push: PushId,
    /// Fingerprint of the request.
    pub(crate) fingerprint: u64,
    /// Position of its first event.
    pub(crate) first: Position,
    /// Position of its last event.
    pub(crate) last: Position,
}

/// Sorted runs of sealed segments and the map of the active one.
#[derive(Clone, Default, Debug)]
pub(crate) struct PushIds {
    runs: VecDeque<Run>,
    active: BTreeMap<PushId, PushEntry>,
}

#[derive(Clone, Debug)]
struct Run {
    last: Position,
    entries: Vec<PushEntry>,
}

impl PushIds {
    /// The entry of `push`, if it is within the window that ends before `next`.
    pub(crate) fn find(&self, push: PushId, next: Position) -> Option<PushEntry> {
        let found =
            self.active.get(&push).copied().or_else(|| self.runs.iter().rev().find_map(|run| run.find(push)))?;
        (found.last.0 + PUSH_ID_WINDOW >= next.0).then_some(found)
    }

    /// Notes one event; returns what the active map said before (for undo).
    pub(crate) fn note(&mut self, push: PushId, fingerprint: u64, position: Position) -> Option<PushEntry> {
        let before = self.active.get(&push).copied();
        let first = match before {
            Some(entry) if entry.last.next() == position && entry.fingerprint == fingerprint => entry.first,
            _ => position,
        };
        self.active.insert(push, PushEntry { push, fingerprint, first, last: position });
        before
    }

    /// Puts back what [`PushIds::note`] returned.
    pub(crate) fn restore(&mut self, push: PushId, before: Option<PushEntry>) {
        match before {
            Some(entry) => self.active.insert(push, entry),
            None => self.active.remove(&push),
        };
    }

    /// The active segment's entries as its footer stores them.
    pub(crate) fn encode_active(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.active.len() * ENTRY_LEN);
        for entry in self.active.values() {
            bytes.extend_from_slice(&entry.push.0);
            bytes.extend_from_slice(&entry.fingerprint.to_le_bytes());
            bytes.extend_from_slice(&entry.first.0.to_le_bytes());
            bytes.extend_from_slice(&entry.last.0.to_le_bytes());
        }
        bytes
    }

    /// The active segment was sealed, its last event is at `last`: its map becomes a run.
    pub(crate) fn seal(&mut self, last: Position) {
        let entries: Vec<PushEntry> = std::mem::take(&mut self.active).into_values().collect();
        self.push_run(last, entries);
    }

    /// Adds the runs of a later stretch of the log.
    pub(crate) fn append(&mut self, later: PushIds) {
        assert!(self.active.is_empty() && later.active.is_empty(), "sealed segments only");
        later.runs.into_iter().for_each(|run| self.push_run(run.last, run.entries));
    }

    /// Adds the run of a sealed segment; segments come in order.
    pub(crate) fn push_run(&mut self, last: Position, entries: Vec<PushEntry>) {
        assert!(entries.windows(2).all(|pair| pair[0].push < pair[1].push), "a run is sorted, ids distinct");
        self.runs.push_back(Run { last, entries });
        while self.runs.front().is_some_and(|run| run.last.0 + PUSH_ID_WINDOW < last.0) {
            self.runs.pop_front();
        }
    }
}

impl Run {
    fn find(&self, push: PushId) -> Option<PushEntry> {
        let at = self.entries.binary_search_by_key(&push, |entry| entry.push).ok()?;
        Some(self.entries[at])
    }
}

/// Reads a run out of a footer; `None` if it is not one.
pub(crate) fn decode_run(bytes: &[u8]) -> Option<Vec<PushEntry>> {
    let mut entries = Vec::with_capacity(bytes.len() / ENTRY_LEN);
    let mut fields = Fields::new(bytes);
    while !fields.is_empty() {
        entries.push(PushEntry {
            push: PushId(fields.array()?),
            fingerprint: fields.u64()?,
            first: Position(fields.u64()?),
            last: Position(fields.u64()?),
        });
    }
    entries.windows(2).all(|pair| pair[0].push < pair[1].push).then_some(entries)
}

/// Bytes of one stored entry.
const ENTRY_LEN: usize = 16 + 8 + 8 + 8;
const _: () = assert!(size_of::<PushEntry>() == ENTRY_LEN);
