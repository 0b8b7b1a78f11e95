//! What a rebuild reads: the log as a list of segments, each a sequence of groups that any thread may decode.
//!
//! Invariants: a group is handed out only verified; taking one from its segment is cheap and done by one thread at a
//! time, decoding it is not and is done by whoever took it; memory holds what was taken, never a segment.

use std::{sync::Arc, time::Duration};

use reprise_engine::{
    Error, Result,
    engine::{Engine, Group, SegmentReader},
    id::{ChainHash, Position},
};

use crate::source::{Groups, Source};

/// A log to rebuild from.
pub trait Feed: Sync {
    /// All readable segments, in order and without gaps, from position 1 on.
    fn segments(&self) -> Result<Vec<Segment>>;
    /// The groups of the segment that starts at `first`, in order, at least up to its `last` as listed.
    fn read(&self, first: Position) -> Result<Box<dyn PackedGroups>>;
}

/// A stretch of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Position of its first event.
    pub first: Position,
    /// Position of its last event; before `first` while it has none.
    pub last: Position,
}

/// Groups of one segment, in order.
pub trait PackedGroups: Send {
    /// The next one; `None` at the end.
    fn next_packed(&mut self) -> Result<Option<PackedGroup>>;
}

/// A group that is verified but perhaps not yet decoded.
pub struct PackedGroup {
    /// Position of its first event.
    pub first: Position,
    /// Position of its last event.
    pub last: Position,
    /// Chained hash after it.
    pub chain: ChainHash,
    /// Bytes of its stored form, roughly; 0 if it is decoded already.
    pub bytes: u64,
    /// Gives its events.
    pub decode: Box<dyn FnOnce() -> Result<Group> + Send>,
}

impl PackedGroup {
    /// A group that is decoded already; `None` if it has no events.
    pub fn decoded(group: Group) -> Option<PackedGroup> {
        let (first, last) = (group.events.first()?.position, group.events.last()?.position);
        Some(PackedGroup { first, last, chain: group.chain, bytes: 0, decode: Box::new(move || Ok(group)) })
    }
}

impl Feed for Engine {
    fn segments(&self) -> Result<Vec<Segment>> {
        let all = Engine::segments(self).into_iter();
        Ok(all.map(|info| Segment { first: info.first, last: info.last }).collect())
    }

    fn read(&self, first: Position) -> Result<Box<dyn PackedGroups>> {
        Ok(Box::new(self.read_segment(first)?))
    }
}

impl PackedGroups for SegmentReader {
    fn next_packed(&mut self) -> Result<Option<PackedGroup>> {
        let raw = self.next_raw()?;
        Ok(raw.map(|raw| PackedGroup {
            first: raw.first(),
            last: raw.last(),
            chain: raw.chain(),
            bytes: raw.stored_bytes(),
            decode: Box::new(move || raw.decode()),
        }))
    }
}

/// A source that can only be followed: one segment up to `until`.
pub struct Followed<'a> {
    /// The source.
    pub source: &'a dyn Source,
    /// Nothing after this is asked for.
    pub until: Position,
}

impl Feed for Followed<'_> {
    fn segments(&self) -> Result<Vec<Segment>> {
        Ok(vec![Segment { first: Position(1), last: self.until }])
    }

    fn read(&self, first: Position) -> Result<Box<dyn PackedGroups>> {
        Ok(Box::new(FollowedGroups(self.source.follow(first)?)))
    }
}

struct FollowedGroups(Box<dyn Groups>);

impl PackedGroups for FollowedGroups {
    fn next_packed(&mut self) -> Result<Option<PackedGroup>> {
        let group = self.0.next(READ_WAIT)?;
        Ok(group.and_then(PackedGroup::decoded))
    }
}

/// Groups in memory, for tests and benches.
pub struct MemoryFeed {
    segments: Vec<(Segment, Arc<[Group]>)>,
}

impl MemoryFeed {
    /// A feed of `groups`, whose positions are dense from 1, `per_segment` of them in each segment.
    pub fn new(groups: &[Group], per_segment: usize) -> MemoryFeed {
        let cut = groups.chunks(per_segment.max(1)).filter_map(|part| {
            let (first, last) = (part.first()?.events.first()?.position, part.last()?.events.last()?.position);
            Some((Segment { first, last }, Arc::from(part)))
        });
        MemoryFeed { segments: cut.collect() }
    }
}

impl Feed for MemoryFeed {
    fn segments(&self) -> Result<Vec<Segment>> {
        Ok(self.segments.iter().map(|(segment, _)| *segment).collect())
    }

    fn read(&self, first: Position) -> Result<Box<dyn PackedGroups>> {
        let found = self.segments.iter().find(|(segment, _)| segment.first == first);
        let (_, groups) =
            found.ok_or_else(|| Error::not_found(format!("no segment of the log starts at position {first}")))?;
        Ok(Box::new(MemoryGroups { groups: Arc::clone(groups), next: 0 }))
    }
}

struct MemoryGroups {
    groups: Arc<[Group]>,
    next: usize,
}

impl PackedGroups for MemoryGroups {
    fn next_packed(&mut self) -> Result<Option<PackedGroup>> {
        let group = self.groups.get(self.next).cloned();
        self.next += 1;
        Ok(group.and_then(PackedGroup::decoded))
    }
}

/// Only what is durable is asked for, so that this never passes in a healthy log.
const READ_WAIT: Duration = Duration::from_secs(10);
