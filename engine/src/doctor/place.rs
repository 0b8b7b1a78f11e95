//! The place of a segment in the log: what a file must be to stand there.
//!
//! Invariants: nobody is believed about an event but its own frames; a segment stands only if it continues what stands before it,
//! has no hole, does not contradict the anchor, and ends where somebody vouches for the chained hash: the header behind it, or its
//! own footer. Only the last segment of a log has nobody: it must have everything that anything tells of.

use super::segment::{Opened, Walked};
use crate::{
    engine::Durable,
    error::Result,
    id::{ChainHash, LogId, Position},
    log::scan::RawGroup,
};

/// What stands around a segment.
pub(super) struct Place {
    pub(super) log: LogId,
    pub(super) first: Position,
    /// The chained hash before it, if the events there are known.
    pub(super) before: Option<ChainHash>,
    /// Where the next file begins, as its name says.
    pub(super) next: Option<Position>,
    /// The next sound header: its position and the chained hash before it.
    pub(super) joins: Option<(Position, ChainHash)>,
    /// What was durable once.
    pub(super) anchor: Option<Durable>,
}

impl Place {
    /// Walks a segment as far as it belongs here; `None` if it does not, or has a hole.
    pub(super) fn walk(&self, opened: &Opened) -> Result<Option<Walked>> {
        let header = &opened.header;
        let here = (header.log, header.first) == (self.log, self.first);
        let continues = self.before.is_none_or(|chain| chain == header.previous);
        let mut anchored =
            self.anchor.is_none_or(|anchor| anchor.position.next() != header.first || anchor.chain == header.previous);
        if !(here && continues && anchored) {
            return Ok(None);
        }
        let walked = opened.walk(self.next, &mut |group| {
            anchored &= self.anchor.is_none_or(|anchor| agrees(anchor, group) != Some(false));
            group.decode().map(drop)
        })?;
        Ok((anchored && walked.holes.is_empty()).then_some(walked))
    }

    /// Whether a segment may stand here. Without a successor it must reach `reach`, the position behind all that is known.
    pub(super) fn holds(&self, opened: &Opened, reach: Position) -> Result<bool> {
        let Some(walked) = self.walk(opened)? else { return Ok(false) };
        let end = (walked.next, walked.chain);
        if let Some(trailer) = &opened.trailer {
            // Sealed: it ends as its footer says, and nothing stands in the same place.
            let ends = (trailer.last.next(), trailer.chain) == end && self.next.is_none_or(|next| next >= end.0);
            return Ok(ends && self.joins.is_none_or(|joins| joins.0 != end.0 || joins == end));
        }
        if self.next.is_some() {
            return Ok(self.joins == Some(end));
        }
        let whole = opened.len >= opened.header.capacity && opened.claimed_beyond(&walked)?.is_none();
        Ok(whole && walked.next >= reach)
    }
}

/// Whether a group ends as the anchor says, if the anchor speaks of it.
pub(super) fn agrees(anchor: Durable, group: &RawGroup) -> Option<bool> {
    let speaks = group.first <= anchor.position && anchor.position <= group.last;
    speaks.then(|| (group.last, group.chain) == (anchor.position, anchor.chain))
}
