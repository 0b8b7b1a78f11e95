//! What readers may see: the durable end, the table of segments, the last groups in memory.
//!
//! Invariants: nothing gets in here before it is durable; groups in the ring are contiguous and end at the durable end;
//! the ring is bounded by groups and by bytes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    footer::IndexEntry,
    header::{BLOCK_LEN, SegmentHeader},
};
use crate::{
    engine::{Durable, Group, ReadOnly},
    error::Error,
    id::{Position, RepoId},
    limits::{FOLLOWER_BYTES_MAX, FOLLOWER_QUEUE_MAX},
    writer::Committed,
};

/// Shared between the writer and all readers.
pub(crate) struct Published {
    state: Mutex<Shown>,
    changed: Condvar,
}

/// What is shown.
pub(crate) struct Shown {
    /// The durable end.
    pub(crate) durable: Durable,
    /// All readable segments, in order; the last one is active.
    pub(crate) segments: Vec<Segment>,
    /// No group will come any more.
    pub(crate) closed: bool,
    /// Why nothing may be written, if so.
    pub(crate) read_only: Option<ReadOnly>,
    /// The object store has the log in sealed segments up to here.
    pub(crate) archived: Position,
    ring: VecDeque<(u64, Group)>,
    ring_bytes: u64,
    last_positions: BTreeMap<RepoId, Position>,
}

/// One segment as readers need it.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// What its file says.
    pub(crate) header: SegmentHeader,
    /// Position of its last event; before its first while it has none.
    pub(crate) last: Position,
    /// Byte offset after its last durable frame.
    pub(crate) frames_end: u64,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// It has a footer.
    pub(crate) sealed: bool,
    /// Its sparse index while it has no footer.
    pub(crate) index: Vec<IndexEntry>,
}

impl Segment {
    /// A new, empty segment.
    pub(crate) fn empty(header: SegmentHeader) -> Segment {
        Segment {
            last: Position(header.first.0 - 1),
            frames_end: BLOCK_LEN as u64,
            bytes: header.capacity,
            sealed: false,
            index: Vec::new(),
            header,
        }
    }
}

impl Published {
    /// What recovery found.
    pub(crate) fn new(
        durable: Durable,
        segments: Vec<Segment>,
        last_positions: BTreeMap<RepoId, Position>,
    ) -> Published {
        let (ring, ring_bytes) = (VecDeque::new(), 0);
        let shown = Shown {
            durable,
            segments,
            closed: false,
            read_only: None,
            archived: Position::ZERO,
            ring,
            ring_bytes,
            last_positions,
        };
        Published { state: Mutex::new(shown), changed: Condvar::new() }
    }

    /// A look at it. Keep it short: the writer waits.
    pub(crate) fn look(&self) -> MutexGuard<'_, Shown> {
        // Every change below is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a group.
    pub(crate) fn publish(&self, committed: Committed) {
        let mut shown = self.look();
        let last = committed.group.events[committed.group.events.len() - 1].position;
        shown.durable = Durable { position: last, chain: committed.group.chain };
        if let Some(active) = shown.segments.last_mut() {
            active.last = last;
            active.frames_end = committed.end;
            active.bytes = active.bytes.max(committed.end);
            active.index.extend(committed.index);
        }
        shown.last_positions.extend(committed.touched);
        shown.keep(committed.bytes, committed.group);
        drop(shown);
        self.changed.notify_all();
    }

    /// A new segment is active.
    pub(crate) fn activated(&self, header: SegmentHeader) {
        self.look().segments.push(Segment::empty(header));
    }

    /// A segment got its footer.
    pub(crate) fn sealed(&self, first: Position, bytes: u64) {
        if let Some(segment) = self.look().segments.iter_mut().find(|segment| segment.header.first == first) {
            segment.sealed = true;
            segment.bytes = bytes;
            segment.index = Vec::new();
        }
    }

    /// Nothing may be written any more.
    pub(crate) fn read_only(&self, why: ReadOnly) {
        self.look().read_only = Some(why);
    }

    /// A reader met damage: what is appended from now on might have to be cut away with what stands behind the damage, so
    /// nothing is. The first damage is the one that is told.
    pub(crate) fn met_damage(&self, error: &Error) {
        let mut shown = self.look();
        if error.is_corrupt() && shown.read_only.is_none() {
            tracing::error!(%error, "the log is damaged: read-only from now on");
            shown.read_only = Some(ReadOnly::Damaged(error.to_string()));
        }
    }

    /// The object store has the log up to `position`.
    pub(crate) fn archived(&self, position: Position) {
        let mut shown = self.look();
        shown.archived = shown.archived.max(position);
    }

    /// No group will come any more.
    pub(crate) fn close(&self) {
        self.look().closed = true;
        self.changed.notify_all();
    }

    /// Waits until `position` is durable or nothing will come; false if `wait` passed first.
    pub(crate) fn wait_for(&self, position: Position, wait: Duration) -> bool {
        let shown = self.look();
        let pending = |shown: &mut Shown| shown.durable.position < position && !shown.closed;
        let (shown, _) = self.changed.wait_timeout_while(shown, wait, pending).unwrap_or_else(PoisonError::into_inner);
        shown.durable.position >= position
    }
}

impl Shown {
    /// The group that holds `position`, if it is in memory.
    pub(crate) fn in_ring(&self, position: Position) -> Option<Group> {
        let after = self.ring.partition_point(|(_, group)| group.events[0].position <= position);
        let (_, group) = self.ring.get(after.checked_sub(1)?)?;
        let last = group.events[group.events.len() - 1].position;
        (position <= last).then(|| group.clone())
    }

    /// The segment that holds `position`.
    pub(crate) fn segment_of(&self, position: Position) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.header.first <= position);
        let segment = &self.segments[after.checked_sub(1)?];
        (position <= segment.last).then_some(segment)
    }

    /// Bytes of the log behind `position`, to the segment: those of one that it stands in count wholly.
    pub(crate) fn bytes_after(&self, position: Position) -> u64 {
        let behind =
            self.segments.iter().filter(|segment| segment.last > position && segment.last >= segment.header.first);
        behind.map(|segment| if segment.sealed { segment.bytes } else { segment.frames_end - BLOCK_LEN as u64 }).sum()
    }

    /// Position of a repository's last durable event.
    pub(crate) fn last_position_of(&self, repo: RepoId) -> Position {
        self.last_positions.get(&repo).copied().unwrap_or(Position::ZERO)
    }

    fn keep(&mut self, bytes: u64, group: Group) {
        self.ring_bytes += bytes;
        self.ring.push_back((bytes, group));
        while self.ring.len() > FOLLOWER_QUEUE_MAX || self.ring_bytes > FOLLOWER_BYTES_MAX {
            let Some((gone, _)) = self.ring.pop_front() else { break };
            self.ring_bytes -= gone;
        }
    }
}
