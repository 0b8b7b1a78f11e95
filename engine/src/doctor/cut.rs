//! Ending a log before its damage, when the loss was named and accepted.
//!
//! Invariants: from the end of the log towards the damage, the anchor last, so that an interrupted cut is still seen as damage and
//! cut again; the last segment gets a new salt, so that bytes of an older copy, which has the events that were given up, never pass
//! for its own; everything that goes is kept first.

use super::{
    Diagnosis,
    aside::{self, extend_with_zeros},
    copies::found,
    examine::{path_of, segments},
    segment::{self, Opened, append_marks},
    treat::Work,
};
use crate::{
    clock::random16,
    disk::{Disk, DiskFile, write_all_at},
    engine::Durable,
    error::{Error, Result},
    id::{LogId, Position},
    log::{
        anchor::Anchor,
        files::{ANCHOR, write_anchor},
        header::{BLOCK_LEN, SegmentHeader},
    },
};

impl Work<'_> {
    /// Ends the log where it stops being readable, if that was accepted; says what could be accepted, if it was not.
    pub(super) fn cut(&mut self, now: &Diagnosis) -> Result<()> {
        let Some(log) = now.log.filter(|_| now.misses_events()) else { return Ok(()) };
        let end = now.readable_to;
        let lost = format!("events {} to {}", end.next(), now.end.max(end.next()));
        match self.orders.accept_loss_after {
            _ if end == Position::ZERO => {
                self.left.push("no event of the log can be read: put an intact copy of log/ in its place".to_owned());
            }
            Some(accepted) if accepted == end => {
                self.before_cut()?;
                self.end_at(log, end)?;
                self.left.clear();
                self.done.push(format!("the log ends at {end}: {lost} are lost"));
            }
            Some(accepted) => self.left.push(format!(
                "the loss after {accepted} was accepted, but the log can be read up to {end}: nothing was cut"
            )),
            None => {
                let offer = format!("without an intact copy, --accept-loss-after {end} ends the log there");
                self.left.push(format!("{lost} cannot all be read: {offer}"));
            }
        }
        Ok(())
    }

    /// Does what must be done before events are given up.
    pub(super) fn before_cut(&mut self) -> Result<()> {
        if let Some(before_cut) = &self.orders.before_cut {
            self.done.extend(before_cut()?);
        }
        Ok(())
    }

    /// Makes `end` the last event of the log.
    pub(super) fn end_at(&mut self, log: LogId, end: Position) -> Result<()> {
        let disk = &*self.files.disk;
        let firsts = segments(disk)?;
        for first in firsts.iter().rev().filter(|first| **first > end) {
            let kept = aside::take_away(disk, &path_of(*first), self.stamp)?;
            self.tell(&path_of(*first), "taken out of the log", Some(kept));
        }
        let last = firsts.iter().rev().find(|first| **first <= end).copied().unwrap_or(Position(1));
        let durable = self.end_in(&path_of(last), end)?;
        if let Some(kept) = found(aside::keep(disk, ANCHOR, self.stamp))? {
            self.tell(ANCHOR, "written again", Some(kept));
        }
        write_anchor(disk, &Anchor { log, durable })
    }

    /// Makes `end` the last event of a segment, which becomes the last one: its events again, under a new salt.
    fn end_in(&mut self, path: &str, end: Position) -> Result<Durable> {
        let disk = &*self.files.disk;
        let own = segment::open(disk, path)?;
        let walked = own.walk(Some(end.next()), &mut |_| Ok(()))?;
        let durable = Durable { position: end, chain: walked.chain };
        if walked.next != end.next() || !walked.holes.is_empty() {
            return Err(Error::corrupt(path, walked.end, format!("the event at {end} cannot be read")));
        }
        let header = SegmentHeader { salt: random16(&*self.files.random)?, ..own.header.clone() };
        let proven = |disk: &dyn Disk, path: &str| {
            let made = segment::open(disk, path)?;
            let again = made.walk(None, &mut |group| group.decode().map(drop))?;
            Ok(again.holes.is_empty() && (again.next, again.chain) == (walked.next, walked.chain))
        };
        let Some(mended) = aside::make(disk, &|into| under_another_salt(&own, end, &header, into), &proven)? else {
            return Err(Error::corrupt(path, walked.end, "what was cut does not read as what was kept"));
        };
        let kept = mended.put(disk, path, self.stamp)?;
        self.tell(path, &format!("ends after event {end} now"), kept);
        Ok(durable)
    }
}

/// The groups up to `end`, with the marks between them, behind another header.
fn under_another_salt(own: &Opened, end: Position, header: &SegmentHeader, into: &dyn DiskFile) -> Result<()> {
    write_all_at(into, &header.encode(), 0)?;
    let (mut at, mut sequence) = (BLOCK_LEN as u64, header.sequence);
    let (mut next, mut chain) = (header.first, header.previous);
    own.walk(Some(end.next()), &mut |group| {
        let mut bytes = Vec::new();
        append_marks(&mut bytes, &header.salt, (next, chain), (sequence, group.sequence - sequence));
        chain = group.frames(&mut bytes, &header.salt, chain);
        write_all_at(into, &bytes, at)?;
        at += bytes.len() as u64;
        (next, sequence) = (group.last.next(), group.sequence + 1);
        Ok(())
    })?;
    extend_with_zeros(into, header.capacity)
}
