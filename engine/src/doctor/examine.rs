//! Looking: every segment in order, each judged by what stands before and behind it; then the anchor, the store, the packs.
//!
//! Invariants: nothing is written; a position is called lost only if no sound bytes hold its event; what recovery does by itself
//! at the next start (a tear, a footer that was not written yet) is not called damage.

use super::{
    Diagnosis, Files, Finding, Listener, Remedy,
    gaps::Gaps,
    packs::DamagedPacks,
    place::agrees,
    segment::{self, Hole, Opened, Walked},
};
use crate::{
    disk::Disk,
    engine::Durable,
    error::{Error, ErrorKind, Result},
    id::{ChainHash, LogId, Position},
    log::{
        anchor::Anchor,
        files::{ANCHOR, LOG_DIR, read_anchor},
        header::{BLOCK_LEN, position_of_name, segment_name},
        scan::{RawGroup, look_beyond},
    },
};

/// Looks at everything.
pub(super) fn examine(files: &Files, packs: bool, listener: Listener<'_>) -> Result<Diagnosis> {
    files.unreadable.clear();
    files.unreadable_packs.clear();
    let disk = &*files.disk;
    let firsts = segments(disk)?;
    let mut total = 0;
    for first in &firsts {
        total += disk.open(&path_of(*first))?.len()?;
    }
    let anchor = read_anchor(disk)?;
    let log = log_of(disk, &firsts, anchor.as_ref())?;
    let store = files.packs();
    let claimed = log.map_or(Ok(()), |log| store.claim(log, false));
    // Of a store that is not there, every pack would be missing.
    let packs = (packs && claimed.is_ok()).then(|| DamagedPacks::new(&*store, files));
    let mut examination = Examination {
        files,
        diagnosis: Diagnosis { log, ..Diagnosis::default() },
        reached: Reached { next: Position(1), chain: Some(ChainHash([0; 32])) },
        first_lost: None,
        newest: firsts.last().copied(),
        anchor,
        last: (Position(1), ChainHash([0; 32])),
        other_course: None,
        gaps: Gaps::default(),
        packs,
        progress: (0, total),
        listener,
    };
    if disk.list(LOG_DIR)?.contains(&segment_name(Position::ZERO)) {
        examination.note(&path_of(Position::ZERO), (0, None), "no segment begins at 0", Remedy::Derive);
    }
    for (index, first) in firsts.iter().enumerate() {
        examination.segment(*first, firsts.get(index + 1).copied())?;
    }
    examination.anchor();
    examination.packs(claimed.err())?;
    Ok(examination.end())
}

/// The first positions of the segment files, in order. No segment begins at 0, whatever a name says.
pub(super) fn segments(disk: &dyn Disk) -> Result<Vec<Position>> {
    let names = disk.list(LOG_DIR)?;
    Ok(names.iter().filter_map(|name| position_of_name(name)).filter(|first| *first > Position::ZERO).collect())
}

/// `log/seg-….log`
pub(super) fn path_of(first: Position) -> String {
    format!("{LOG_DIR}/{}", segment_name(first))
}

/// Which log it is: what the anchor and a segment say, else the first segment that says anything, else the anchor alone.
fn log_of(disk: &dyn Disk, firsts: &[Position], anchor: Option<&Anchor>) -> Result<Option<LogId>> {
    let mut said = None;
    for first in firsts {
        let header = match segment::open(disk, &path_of(*first)) {
            Err(error) if error.is_corrupt() => continue,
            opened => opened?.header,
        };
        said = said.or(Some(header.log));
        if anchor.is_none_or(|anchor| anchor.log == header.log) {
            return Ok(Some(header.log));
        }
    }
    Ok(said.or(anchor.map(|anchor| anchor.log)))
}

/// Where the log stands between two segments.
struct Reached {
    next: Position,
    /// `None`: the events before are not known.
    chain: Option<ChainHash>,
}

struct Examination<'a> {
    files: &'a Files,
    diagnosis: Diagnosis,
    reached: Reached,
    first_lost: Option<Position>,
    /// Where the last segment file begins.
    newest: Option<Position>,
    anchor: Option<Anchor>,
    /// The last segment that can stand where it is, and the chained hash before it.
    last: (Position, ChainHash),
    /// The group that stands where the anchor knows another one: its segment as above, its first position.
    other_course: Option<((Position, ChainHash), Position)>,
    gaps: Gaps,
    packs: Option<DamagedPacks<'a>>,
    progress: (u64, u64),
    listener: Listener<'a>,
}

impl Examination<'_> {
    fn segment(&mut self, first: Position, after: Option<Position>) -> Result<()> {
        let path = path_of(first);
        self.diagnosis.segments += 1;
        if first > self.reached.next {
            self.gaps.open(self.reached.next, self.reached.chain, Some(first));
            let missing = path_of(self.reached.next);
            self.lost(&missing, (0, None), (self.reached.next, Position(first.0 - 1)), "the segment is missing");
            self.reached = Reached { next: first, chain: None };
        }
        let opened = match segment::open(&*self.files.disk, &path) {
            Ok(opened) => opened,
            Err(error) if error.is_corrupt() => {
                self.unreadable(&path, first, after, &error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let Some(why) = self.why_not_here(&opened, first) {
            self.unreadable(&path, first, after, &why);
            return Ok(());
        }
        self.gaps.header(first, opened.header.previous);
        self.last = (first, opened.header.previous);
        let (before, damaged) = (self.reached.chain, self.diagnosis.damaged());
        if opened.header_hurt {
            let text = "one of the two copies of the header is damaged";
            self.note(&path, (0, Some(BLOCK_LEN as u64)), text, Remedy::Derive);
        }
        let walked = self.walk(&opened, after)?;
        walked.holes.iter().for_each(|hole| self.hole(&path, hole));
        self.end_of(&opened, walked, after)?;
        if let Some((offset, bytes)) = self.files.unreadable.of(&path) {
            self.note(&path, (offset, Some(bytes)), "the disk cannot read these bytes", Remedy::Derive);
        }
        if self.diagnosis.damaged() > damaged {
            let ends = opened.trailer.as_ref().map(|trailer| (trailer.last.next(), trailer.chain));
            self.gaps.hurt(first, before, opened.boundary(after), ends);
        }
        self.end_missing(&opened, after);
        Ok(())
    }

    /// A segment of which nothing can be believed. How many events the last one has, nobody knows.
    fn unreadable(&mut self, path: &str, first: Position, after: Option<Position>, problem: &str) {
        self.gaps.open(first, self.reached.chain, after);
        let by_the_disk = self.files.unreadable.of(path).map_or("", |_| ": the disk cannot read these bytes");
        let problem = &*format!("{problem}{by_the_disk}");
        let block = (0, Some(BLOCK_LEN as u64));
        match after {
            Some(after) => self.lost(path, block, (first, Position(after.0 - 1)), problem),
            None => {
                self.prefix_ends(first);
                self.note(path, block, problem, Remedy::Copy);
            }
        }
        self.reached = Reached { next: after.unwrap_or(first), chain: None };
    }

    /// Why a segment cannot stand where its name puts it.
    fn why_not_here(&self, opened: &Opened, first: Position) -> Option<String> {
        let header = &opened.header;
        if self.diagnosis.log.is_some_and(|log| log != header.log) {
            return Some(format!("the segment belongs to another log ({})", header.log));
        }
        if header.first != first {
            return Some(format!("the header is of the segment that starts at {}", header.first));
        }
        if first < self.reached.next {
            return Some(format!("it begins before {}, where the segment before it ends", self.reached.next));
        }
        let other = self.reached.chain.is_some_and(|chain| first == self.reached.next && chain != header.previous);
        other.then(|| "it does not continue the chain of the segment before it".to_owned())
    }

    fn walk(&mut self, opened: &Opened, after: Option<Position>) -> Result<Walked> {
        let (before, total) = self.progress;
        let anchor = self.anchored();
        let mut other = None;
        let (packs, listener) = (&mut self.packs, &mut *self.listener);
        let walked = opened.walk(after, &mut |group: &RawGroup| {
            if anchor.is_some_and(|anchor| agrees(anchor, group) == Some(false)) {
                other = Some(((opened.header.first, opened.header.previous), group.first));
            }
            for (event, _) in group.decode_events()? {
                if let Some(packs) = packs {
                    packs.take(&event)?;
                }
            }
            go_on(listener, before + group.end, total)
        })?;
        self.other_course = self.other_course.or(other);
        self.diagnosis.events += walked.events;
        self.diagnosis.bytes += opened.len;
        self.progress.0 += opened.len;
        Ok(walked)
    }

    /// A place between groups where something else stands.
    fn hole(&mut self, path: &str, hole: &Hole) {
        let (from, to) = hole.bytes;
        let bytes = to.map(|to| to - from);
        if let Some(count) = hole.marks() {
            let marks = if count == 1 { "a mark is" } else { "marks are" };
            let text = format!("{marks} damaged, no event is lost ({})", hole.why);
            return self.note(path, (from, bytes), &text, Remedy::Derive);
        }
        let end = hole.resumes.map_or(hole.next, |(position, _)| Position(position.0 - 1));
        self.lost(path, (from, bytes), (hole.next, end), &hole.why);
    }

    /// How a segment ends: at its footer, at the next segment, or as the end of the log does.
    fn end_of(&mut self, opened: &Opened, walked: Walked, after: Option<Position>) -> Result<()> {
        let path = &*opened.path;
        self.reached = Reached { next: walked.next, chain: Some(walked.chain) };
        let Some(boundary) = opened.boundary(after) else { return self.tail(opened, &walked) };
        let rest = Some(opened.len.saturating_sub(walked.end));
        if walked.next < boundary {
            self.lost(path, (walked.end, rest), (walked.next, Position(boundary.0 - 1)), &walked.why);
            let chain = opened.trailer.as_ref().map(|trailer| trailer.chain);
            self.reached = Reached { next: boundary, chain };
            return Ok(());
        }
        match &opened.trailer {
            None => self.note(path, (walked.end, None), "the segment has no sound footer", Remedy::NextStart),
            Some(_) if !opened.footer_sound()? => {
                // A crash while it is written may leave its end without its middle; the frames have all of it.
                let sealed_last = after.is_some() && after == self.newest;
                let remedy = if sealed_last { Remedy::NextStart } else { Remedy::Derive };
                self.note(path, (walked.end, rest), "index, push ids or state in the footer are damaged", remedy);
            }
            Some(trailer) if trailer.chain != walked.chain => {
                self.note(path, (walked.end, rest), "the footer is not of these events", Remedy::Derive);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// A segment is sealed only after its successor is there.
    fn end_missing(&mut self, opened: &Opened, after: Option<Position>) {
        let (None, Some(trailer)) = (after, &opened.trailer) else { return };
        let next = trailer.last.next();
        self.gaps.open(next, self.reached.chain, None);
        self.prefix_ends(next);
        self.note(&path_of(next), (0, None), "the segment that comes next is missing", Remedy::Copy);
    }

    /// The end of the log: nothing, a tear, or less than was there once.
    fn tail(&mut self, opened: &Opened, walked: &Walked) -> Result<()> {
        let path = &*opened.path;
        if opened.len < opened.header.capacity {
            // Zeros, or events as well: nobody can say.
            let text = format!("the file was cut: it had {} bytes", opened.header.capacity);
            self.prefix_ends(walked.next);
            self.note(path, (opened.len, None), &text, Remedy::Copy);
            return Ok(());
        }
        let rest = look_beyond(&*opened.file, &opened.header.salt, walked.end, walked.sequence)?;
        let stops = (walked.end, Some(rest.nonzero_end.saturating_sub(walked.end)));
        if let Some(next) = opened.claimed_beyond(walked)? {
            let text = format!("{}, and frames of later writes stand after it", walked.why);
            match next > walked.next {
                true => self.lost(path, stops, (walked.next, Position(next.0 - 1)), &text),
                false => {
                    self.prefix_ends(walked.next);
                    self.note(path, stops, &text, Remedy::Copy);
                }
            }
        } else if rest.nonzero_end > walked.end {
            let text = format!(
                "an unfinished write ({}); after a clean shutdown it would be damage, after a crash it was never acknowledged",
                walked.why
            );
            self.note(path, stops, &text, Remedy::NextStart);
        }
        Ok(())
    }

    /// The anchor says how far the log must reach at least, and over which event.
    fn anchor(&mut self) {
        if let Some((offset, bytes)) = self.files.unreadable.of(ANCHOR) {
            return self.note(ANCHOR, (offset, Some(bytes)), "the disk cannot read these bytes", Remedy::Derive);
        }
        match &self.anchor {
            None => return self.note(ANCHOR, (0, None), "the anchor is missing or damaged", Remedy::NextStart),
            Some(anchor) if self.diagnosis.log != Some(anchor.log) => {
                let text = format!("it belongs to log {}", anchor.log);
                return self.note(ANCHOR, (0, None), &text, Remedy::Person);
            }
            Some(_) => {}
        }
        let Some(anchor) = self.anchored() else { return };
        self.diagnosis.end = self.diagnosis.end.max(anchor.position);
        let next = self.reached.next;
        if let Some((segment, first)) = self.other_course {
            self.gaps.doubt(segment);
            let text = format!("the event at {} was another one once", anchor.position);
            self.lost(&path_of(segment.0), (0, None), (first, anchor.position), &text);
        } else if anchor.position >= next && self.first_lost.is_none_or(|lost| lost < next) {
            self.gaps.end_too_early(self.last);
            let text = format!("the log was once durable through {}", anchor.position);
            self.lost(&path_of(self.last.0), (0, None), (next, anchor.position), &text);
        }
    }

    /// What was durable once, if this log says so and any event was.
    fn anchored(&self) -> Option<Durable> {
        let anchor = self.anchor.as_ref().filter(|anchor| self.diagnosis.log == Some(anchor.log))?;
        (anchor.durable.position > Position::ZERO).then_some(anchor.durable)
    }

    fn packs(&mut self, not_ours: Option<Error>) -> Result<()> {
        // A log without events has promised nothing about its packs.
        if let Some(error) = not_ours.filter(|_| self.reached.next > Position(1)) {
            let file = format!("{}{}", self.files.pack_root(), error.file().unwrap_or("STORE"));
            self.note(&file, (0, None), &format!("{error}: no pack was looked at"), Remedy::Person);
        }
        let Some(packs) = self.packs.take() else { return Ok(()) };
        self.diagnosis.packs = Some(packs.packs);
        self.diagnosis.bytes += packs.bytes;
        packs.findings().for_each(|finding| self.diagnosis.note(finding));
        Ok(())
    }

    fn end(mut self) -> Diagnosis {
        let last = Position(self.reached.next.0 - 1);
        self.diagnosis.end = self.diagnosis.end.max(last);
        self.diagnosis.readable_to = self.first_lost.map_or(last, |lost| Position(lost.0 - 1));
        self.diagnosis.anchor = self.anchored();
        self.diagnosis.gaps = self.gaps.list;
        self.diagnosis
    }

    fn prefix_ends(&mut self, lost: Position) {
        self.first_lost = Some(self.first_lost.map_or(lost, |earlier| earlier.min(lost)));
    }

    fn lost(&mut self, file: &str, (offset, bytes): (u64, Option<u64>), events: (Position, Position), problem: &str) {
        self.prefix_ends(events.0);
        self.diagnosis.end = self.diagnosis.end.max(events.1);
        let (file, problem, events, remedy) = (file.to_owned(), problem.to_owned(), Some(events), Remedy::Copy);
        self.diagnosis.note(Finding { file, offset, bytes, problem, events, remedy });
    }

    fn note(&mut self, file: &str, (offset, bytes): (u64, Option<u64>), problem: &str, remedy: Remedy) {
        let (file, problem) = (file.to_owned(), problem.to_owned());
        self.diagnosis.note(Finding { file, offset, bytes, problem, events: None, remedy });
    }
}

/// An error if the listener wants no more.
pub(super) fn go_on(listener: &mut dyn FnMut(u64, u64) -> bool, done: u64, total: u64) -> Result<()> {
    match listener(done, total) {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Unavailable, "stopped when asked to")),
    }
}
