//! Which push ids were appended lately, and what each was answered.
//!
//! Invariants: at most 42 bytes per id of a sealed segment (one sorted run per segment, as its footer stores it, and a
//! filter that spares the search for ids that are new, which nearly all are); the active map's order is never seen; an id
//! counts while its last position is at most `PUSH_ID_WINDOW` behind the next one; the newest entry of an id wins.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

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
    active: HashMap<PushId, PushEntry>,
}

#[derive(Clone, Debug)]
struct Run {
    last: Position,
    entries: Vec<PushEntry>,
    filter: Filter,
}

/// One bit per value of an id's leading bits, 8 to 16 bits per id. Ids are random; a client that chooses its own can only
/// make its own pushes search.
#[derive(Clone, Debug)]
struct Filter {
    words: Vec<u64>,
    bits_log2: u32,
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
        let mut entry = PushEntry { push, fingerprint, first: position, last: position };
        match self.active.entry(push) {
            Entry::Vacant(vacant) => {
                vacant.insert(entry);
                None
            }
            Entry::Occupied(mut occupied) => {
                let before = *occupied.get();
                if before.last.next() == position && before.fingerprint == fingerprint {
                    entry.first = before.first;
                }
                occupied.insert(entry);
                Some(before)
            }
        }
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
        for entry in sorted(self.active.values().copied().collect()) {
            bytes.extend_from_slice(&entry.push.0);
            bytes.extend_from_slice(&entry.fingerprint.to_le_bytes());
            bytes.extend_from_slice(&entry.first.0.to_le_bytes());
            bytes.extend_from_slice(&entry.last.0.to_le_bytes());
        }
        bytes
    }

    /// The active segment was sealed, its last event is at `last`: its map becomes a run.
    pub(crate) fn seal(&mut self, last: Position) {
        let entries = std::mem::take(&mut self.active).into_values().collect();
        self.push_run(last, sorted(entries));
    }

    /// Adds the runs of a later stretch of the log.
    pub(crate) fn append(&mut self, later: PushIds) {
        assert!(self.active.is_empty() && later.active.is_empty(), "sealed segments only");
        later.runs.into_iter().for_each(|run| self.push_run(run.last, run.entries));
    }

    /// Adds the run of a sealed segment; segments come in order.
    pub(crate) fn push_run(&mut self, last: Position, entries: Vec<PushEntry>) {
        assert!(entries.windows(2).all(|pair| pair[0].push < pair[1].push), "a run is sorted, ids distinct");
        let filter = Filter::of(&entries);
        self.runs.push_back(Run { last, entries, filter });
        while self.runs.front().is_some_and(|run| run.last.0 + PUSH_ID_WINDOW < last.0) {
            self.runs.pop_front();
        }
    }
}

impl Run {
    fn find(&self, push: PushId) -> Option<PushEntry> {
        if !self.filter.may_hold(push) {
            return None;
        }
        let at = self.entries.binary_search_by_key(&push, |entry| entry.push).ok()?;
        Some(self.entries[at])
    }
}

impl Filter {
    fn of(entries: &[PushEntry]) -> Filter {
        let bits_log2 = (entries.len() * 8).next_power_of_two().trailing_zeros().clamp(6, 31);
        let mut filter = Filter { words: vec![0; 1 << (bits_log2 - 6)], bits_log2 };
        for entry in entries {
            let (word, bit) = filter.place(entry.push);
            filter.words[word] |= bit;
        }
        filter
    }

    fn may_hold(&self, push: PushId) -> bool {
        let (word, bit) = self.place(push);
        self.words[word] & bit != 0
    }

    fn place(&self, push: PushId) -> (usize, u64) {
        let [a, b, c, d, ..] = push.0;
        let place = u32::from_be_bytes([a, b, c, d]) >> (32 - self.bits_log2);
        (usize::try_from(place >> 6).unwrap_or_default(), 1 << (place & 63))
    }
}

fn sorted(mut entries: Vec<PushEntry>) -> Vec<PushEntry> {
    entries.sort_unstable_by_key(|entry| entry.push);
    entries
}

/// Reads a run out of a footer; `None` if it is not one.
pub(crate) fn decode_run(bytes: &[u8]) -> Option<Vec<PushEntry>> {
    let mut entries = Vec::with_capacity(bytes.len() / ENTRY_LEN);
    let mut fields = Fields::new(bytes);
    while !fields.is_empty() {
        entries.push(PushEntry {
            push: PushId(fields.array()?),
            fingerprint: fields.u64()?,
            first: Position(fields.ordinal()?),
            last: Position(fields.ordinal()?),
        });
    }
    entries.windows(2).all(|pair| pair[0].push < pair[1].push).then_some(entries)
}

/// Bytes of one stored entry.
const ENTRY_LEN: usize = 16 + 8 + 8 + 8;
const _: () = assert!(size_of::<PushEntry>() == ENTRY_LEN);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_id_within_the_window_is_found_with_its_first_answer_sealed_or_not(
            ids in prop::collection::btree_set(any::<[u8; 16]>(), 1..200),
            seals in prop::collection::vec(any::<bool>(), 200),
        ) {
            let (mut pushes, mut plain) = (PushIds::default(), Vec::new());
            for (at, (id, seal)) in (1_u64..).zip(ids.into_iter().zip(seals)) {
                let (push, position) = (PushId(id), Position(at));
                prop_assert_eq!(pushes.find(push, position), None);
                prop_assert_eq!(pushes.note(push, at, position), None);
                plain.push(PushEntry { push, fingerprint: at, first: position, last: position });
                if seal {
                    pushes.seal(position);
                }
            }
            let next = Position(plain.len() as u64 + 1);
            for entry in plain {
                prop_assert_eq!(pushes.find(entry.push, next), Some(entry));
                let beyond = Position(entry.last.0 + PUSH_ID_WINDOW + 1);
                prop_assert_eq!(pushes.find(entry.push, beyond), None);
            }
        }
    }

    #[test]
    fn what_a_footer_stores_is_sorted_and_reads_back() {
        let mut pushes = PushIds::default();
        for at in (1_u8..=100).rev() {
            pushes.note(PushId([at; 16]), u64::from(at), Position(101 - u64::from(at)));
        }
        let run = decode_run(&pushes.encode_active()).unwrap();
        assert_eq!(run.len(), 100);
        assert_eq!(run[0].push, PushId([1; 16]));
    }
}
