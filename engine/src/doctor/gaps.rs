//! The parts of a log that cannot stand as they are, for the treatment.
//!
//! Invariants: in the order of the log, each from where a segment begins (or should) to the next header that can be believed, or
//! to nothing; next to each other, not over each other.

use crate::id::{ChainHash, Position};

/// One part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Gap {
    /// The position that it begins with.
    pub(super) from: Position,
    /// The chained hash before it, if the events there are known.
    pub(super) before: Option<ChainHash>,
    /// Where the log goes on; `None` at its end.
    pub(super) to: Option<Position>,
    /// The chained hash that must be reached there, if anything tells.
    pub(super) after: Option<ChainHash>,
}

/// All of them, while the log is read.
#[derive(Default)]
pub(super) struct Gaps {
    pub(super) list: Vec<Gap>,
}

impl Gaps {
    /// Nothing that can be believed stands from `from` to `to`.
    pub(super) fn open(&mut self, from: Position, before: Option<ChainHash>, to: Option<Position>) {
        match self.list.last_mut() {
            // One part: nothing between the two vouches for anything.
            Some(last) if last.to == Some(from) && last.after.is_none() => last.to = to,
            _ => self.list.push(Gap { from, before, to, after: None }),
        }
    }

    /// A segment that opens, continues what is before it, and is damaged further on. `ends`: what its footer says.
    pub(super) fn hurt(
        &mut self,
        from: Position,
        before: Option<ChainHash>,
        to: Option<Position>,
        ends: Option<(Position, ChainHash)>,
    ) {
        let after = ends.filter(|(next, _)| to == Some(*next)).map(|(_, chain)| chain);
        self.list.push(Gap { from, before, to, after });
    }

    /// A header that can be believed stands at `first`.
    pub(super) fn header(&mut self, first: Position, previous: ChainHash) {
        if let Some(last) = self.list.last_mut().filter(|last| last.to == Some(first)) {
            last.after = Some(previous);
        }
    }

    /// A segment (its first position, the chained hash before it) holds another event than was durable once: all from there on
    /// is in doubt.
    pub(super) fn doubt(&mut self, (from, before): (Position, ChainHash)) {
        self.list.retain(|gap| gap.from < from);
        self.list.push(Gap { from, before: Some(before), to: None, after: None });
    }

    /// The log once reached further than its last segment does.
    pub(super) fn end_too_early(&mut self, last: (Position, ChainHash)) {
        if self.list.last().is_none_or(|gap| gap.to.is_some()) {
            self.doubt(last);
        }
    }
}
