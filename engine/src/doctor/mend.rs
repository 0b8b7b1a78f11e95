//! Making a part of the log whole: from its own bytes, with bytes of a copy, with whole segments of a copy, in this order.
//!
//! Invariants: new content takes a name only when [`Place`] has proven it; a run of a copy's segments takes a gap only as a whole,
//! or, where nothing vouches for its end, as far as the operator accepted the loss of what came after it.

use super::{
    Diagnosis,
    aside::{self, copy, copy_whole},
    copies::{Run, found},
    examine::{path_of, segments},
    gaps::Gap,
    place::Place,
    segment::{self, Opened, Walked, append_marks},
    treat::{Step, Work},
};
use crate::{
    disk::{Disk, DiskFile, write_all_at},
    engine::Durable,
    error::Result,
    id::{ChainHash, LogId, Position},
    log::header::BLOCK_LEN,
};

impl Work<'_> {
    /// Tries to make the files that stand in a gap whole. True if one of them is now.
    pub(super) fn mend(&mut self, log: LogId, anchor: Option<Durable>, gap: &Gap) -> Result<bool> {
        let firsts = segments(&*self.files.disk)?;
        let mut any = false;
        let inside = |first: &Position| *first >= gap.from && gap.to.is_none_or(|to| *first < to);
        for (index, first) in firsts.iter().copied().enumerate().filter(|(_, first)| inside(first)) {
            let place = Place {
                log,
                first,
                before: gap.before.filter(|_| first == gap.from),
                next: firsts.get(index + 1).copied(),
                joins: gap.to.zip(gap.after),
                anchor,
            };
            if self.mended.contains(&first) {
                continue;
            }
            any |= match found(segment::open(&*self.files.disk, &path_of(first)))? {
                Some(own) => self.mend_own(&place, &own)?,
                None => self.under_a_copied_header(&place)?,
            };
        }
        Ok(any)
    }

    /// Its own bytes; then with what is missing from the copy.
    fn mend_own(&mut self, place: &Place, own: &Opened) -> Result<bool> {
        let disk = &*self.files.disk;
        let walked = own.walk(place.next, &mut |group| group.decode().map(drop))?;
        let claimed = own.claimed_beyond(&walked)?.unwrap_or(walked.next);
        let reach = walked.next.max(claimed).max(anchored_to(place));
        let footer = own.footer_sound()? && own.trailer.as_ref().is_some_and(|trailer| trailer.chain == walked.chain);
        let unharmed =
            !own.header_hurt && own.trailer.is_some() == footer && self.files.unreadable.of(&own.path).is_none();
        if unharmed && place.holds(own, reach)? {
            // Whatever is wrong here, it is not this file.
            return Ok(false);
        }
        let proven = |disk: &dyn Disk, path: &str| place.holds(&segment::open(disk, path)?, reach);
        let copy = self.from.as_ref().map(|from| from.file(place.first)).transpose()?.flatten();
        let ways = [(None, "its own intact bytes"), (copy.as_deref(), "its own bytes and the copy's")];
        for (copy, how) in ways.into_iter().filter(|(copy, how)| copy.is_some() || how.ends_with("intact bytes")) {
            if let Some(mended) = aside::make(disk, &|into| rewrite(own, &walked, footer, copy, into), &proven)? {
                let kept = mended.put(disk, &own.path, self.stamp)?;
                self.mended.insert(place.first);
                self.tell(&own.path, &format!("made whole from {how}"), kept);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Its own frames can be told from other bytes only with the header's salt: the copy may have the same one.
    fn under_a_copied_header(&mut self, place: &Place) -> Result<bool> {
        let (disk, path) = (&*self.files.disk, path_of(place.first));
        let header = self.from.as_ref().map(|from| from.file(place.first)).transpose()?.flatten();
        let (Some(header), Some(own)) = (header, found(disk.open(&path))?) else { return Ok(false) };
        let write = |into: &dyn DiskFile| {
            copy_whole(&*own, into)?;
            copy(&*header, into, (0, BLOCK_LEN as u64), 0)
        };
        let proven = |disk: &dyn Disk, path: &str| {
            let Some(made) = found(segment::open(disk, path))? else { return Ok(false) };
            // A header of another salt makes an empty segment of it, which would prove anything.
            Ok(place.holds(&made, anchored_to(place))? && made.walk(None, &mut |_| Ok(()))?.events > 0)
        };
        let Some(mended) = aside::make(disk, &write, &proven)? else { return Ok(false) };
        let kept = mended.put(disk, &path, self.stamp)?;
        self.mended.insert(place.first);
        self.tell(&path, "made whole from its own bytes under the header of the copy", kept);
        Ok(true)
    }

    /// Tries to put segments of the copy where nothing stands, or nothing that can be made whole.
    pub(super) fn fill(&mut self, log: LogId, now: &Diagnosis, gap: &Gap) -> Result<Step> {
        let Some(from) = &self.from else {
            return Ok(Step::Left("an intact copy is needed (--from DIR)".to_owned()));
        };
        let run = from.run(log, now.anchor, gap)?;
        let Some(end) = run.end() else {
            return Ok(Step::Left("the copy has nothing that continues the log here".to_owned()));
        };
        if gap.to.zip(gap.after) == Some(end) {
            if self.taken.contains(&gap.from) {
                return Ok(Step::Left("the copy's part that was put here is damaged too".to_owned()));
            }
            self.put_run(gap, &run)?;
            return Ok(Step::Done);
        }
        let last = Position(end.0.0 - 1);
        if gap.to.is_some_and(|to| end.0 >= to) {
            return Ok(Step::Left(
                "what the copy has here was never followed by what comes next in this log".to_owned(),
            ));
        }
        if gap.from > now.readable_to.next() || last <= now.readable_to {
            return Ok(Step::Left(format!("the copy has the events up to {last}, which is not enough")));
        }
        if self.orders.accept_loss_after != Some(last) {
            let offer = format!("--accept-loss-after {last} takes it");
            let text = format!("the copy has the events up to {last}; whether there were more nobody can say: {offer}");
            return Ok(Step::Left(text));
        }
        self.before_cut()?;
        self.put_run(gap, &run)?;
        self.end_at(log, last)?;
        self.done.push(format!("the log ends at {last}, with the end of the copy"));
        Ok(Step::Cut)
    }

    /// From the first to the last, so that an interrupted one leaves a smaller gap; then what stood between them is taken away.
    fn put_run(&mut self, gap: &Gap, run: &Run) -> Result<()> {
        let disk = &*self.files.disk;
        for (first, end) in &run.segments {
            let path = path_of(*first);
            let Some(copy) = self.from.as_ref().map(|from| from.file(*first)).transpose()?.flatten() else { continue };
            let same = |disk: &dyn Disk, path: &str| ends_at(disk, path, *end);
            let Some(mended) = aside::make(disk, &|into| copy_whole(&*copy, into), &same)? else { continue };
            let kept = mended.put(disk, &path, self.stamp)?;
            self.taken.insert(*first);
            self.tell(&path, "taken from the copy", kept);
        }
        let between = |first: &Position| *first > gap.from && gap.to.is_none_or(|to| *first < to);
        for first in segments(disk)?.into_iter().filter(between) {
            if run.segments.iter().all(|(taken, _)| *taken != first) {
                let kept = aside::take_away(disk, &path_of(first), self.stamp)?;
                self.tell(&path_of(first), "taken away", Some(kept));
            }
        }
        Ok(())
    }
}

/// The position behind what the anchor tells of, where nothing stands behind a place.
fn anchored_to(place: &Place) -> Position {
    match place.next {
        Some(_) => place.first,
        None => place.anchor.map_or(place.first, |anchor| anchor.position.next()),
    }
}

/// Whether a walk over a file ends with these events.
fn ends_at(disk: &dyn Disk, path: &str, end: (Position, ChainHash)) -> Result<bool> {
    let Some(opened) = found(segment::open(disk, path))? else { return Ok(false) };
    let walked = opened.walk(Some(end.0), &mut |group| group.decode().map(drop))?;
    Ok(walked.holes.is_empty() && (walked.next, walked.chain) == end)
}

/// The segment again: a sound header, marks made anew, the holes filled from `copy`, the footer only if it is sound (without one
/// the next start writes it).
fn rewrite(
    own: &Opened,
    walked: &Walked,
    footer: bool,
    from: Option<&dyn DiskFile>,
    into: &dyn DiskFile,
) -> Result<()> {
    let frames_end = own.trailer.as_ref().map_or(own.len, |trailer| trailer.frames_end);
    copy(&*own.file, into, (0, if footer { own.len } else { frames_end }), 0)?;
    write_all_at(into, &own.header.encode(), 0)?;
    for hole in &walked.holes {
        let (start, end) = (hole.bytes.0, hole.bytes.1.unwrap_or(frames_end));
        match (hole.marks(), from) {
            (Some(count), _) => {
                let mut marks = Vec::new();
                append_marks(&mut marks, &own.header.salt, (hole.next, hole.chain), (hole.sequence, count));
                write_all_at(into, &marks, start)?;
            }
            (None, Some(from)) => copy(from, into, (start, end), start)?,
            (None, None) => {}
        }
    }
    // What is missing at the end of the frames.
    match from {
        Some(from) if walked.end < frames_end => copy(from, into, (walked.end, frames_end), walked.end),
        _ => Ok(()),
    }
}
