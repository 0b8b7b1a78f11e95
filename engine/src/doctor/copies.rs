//! A copy of the data directory, as a source of what is missing.
//!
//! Invariants: nothing of it is changed; a gap is filled with a run of its segments only, each of which continues the one before, so
//! that what stands between two ends that are known is proven as a whole before the first of them is taken.

use std::sync::Arc;

use super::{
    examine::path_of,
    gaps::Gap,
    place::Place,
    sectors::{Forgiving, Unreadable},
    segment::{self, Opened},
};
use crate::{
    disk::{Disk, DiskFile},
    engine::Durable,
    error::Result,
    id::{ChainHash, LogId, Position},
    log::{
        files::LOG_DIR,
        header::{position_of_name, segment_name},
    },
};

/// A copy of the data directory, or of a part of it.
#[derive(Clone)]
pub struct Copies {
    /// Like [`super::Patient::disk`], or only what is in its `log/`.
    pub disk: Arc<dyn Disk>,
    /// Like [`super::Patient::pack_files`].
    pub pack_files: Arc<dyn Disk>,
}

/// The same, looked through.
pub(super) struct Source {
    disk: Arc<dyn Disk>,
    pub(super) pack_files: Arc<dyn Disk>,
    /// It is of `log/` alone.
    bare: bool,
    firsts: Vec<Position>,
}

/// Segments that continue each other.
pub(super) struct Run {
    /// The first position of each, and where it ends: the position behind it, the chained hash there.
    pub(super) segments: Vec<(Position, (Position, ChainHash))>,
}

impl Run {
    /// Where it ends; `None` if it is empty.
    pub(super) fn end(&self) -> Option<(Position, ChainHash)> {
        self.segments.last().map(|(_, end)| *end)
    }
}

impl Source {
    pub(super) fn of(copies: &Copies) -> Result<Source> {
        let forgiving = |disk: &Arc<dyn Disk>| -> Arc<dyn Disk> {
            Arc::new(Forgiving::new(Arc::clone(disk), Arc::<Unreadable>::default()))
        };
        let (disk, pack_files) = (forgiving(&copies.disk), forgiving(&copies.pack_files));
        let in_dir = |dir| -> Result<Vec<Position>> {
            Ok(disk.list(dir)?.iter().filter_map(|name| position_of_name(name)).collect())
        };
        let in_log = in_dir(LOG_DIR)?;
        let bare = in_log.is_empty();
        let firsts = if bare { in_dir("")? } else { in_log };
        Ok(Source { disk, pack_files, bare, firsts })
    }

    /// The log that it is of.
    pub(super) fn log(&self) -> Result<Option<LogId>> {
        for first in &self.firsts {
            if let Some(opened) = self.segment(*first)? {
                return Ok(Some(opened.header.log));
            }
        }
        Ok(None)
    }

    /// The file of the segment that begins at `first`.
    pub(super) fn file(&self, first: Position) -> Result<Option<Box<dyn DiskFile>>> {
        found(self.disk.open(&self.path(first)))
    }

    /// Segments from where a gap begins, as far as they continue each other inside it.
    pub(super) fn run(&self, log: LogId, anchor: Option<Durable>, gap: &Gap) -> Result<Run> {
        let mut run = Run { segments: Vec::new() };
        let (mut first, mut before) = (gap.from, gap.before);
        while gap.to.is_none_or(|to| first < to) {
            let Some(opened) = self.segment(first)? else { break };
            let next = self.firsts.iter().copied().find(|next| *next > first).into_iter().chain(gap.to).min();
            let place = Place { log, first, before, next, joins: None, anchor };
            let Some(walked) = place.walk(&opened)?.filter(|walked| walked.next > first) else { break };
            run.segments.push((first, (walked.next, walked.chain)));
            (first, before) = (walked.next, Some(walked.chain));
        }
        Ok(run)
    }

    fn segment(&self, first: Position) -> Result<Option<Opened>> {
        found(segment::open(&*self.disk, &self.path(first)))
    }

    fn path(&self, first: Position) -> String {
        if self.bare { segment_name(first) } else { path_of(first) }
    }
}

/// What is missing or damaged is none.
pub(super) fn found<T>(opened: Result<T>) -> Result<Option<T>> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if error.is_corrupt() || error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
