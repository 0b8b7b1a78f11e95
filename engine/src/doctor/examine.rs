//! Looking: every segment in order, each judged by what stands before and behind it; then the anchor, the store, the packs.
//!
//! Invariants: nothing is written; a position is called lost only if no sound bytes hold its event; what recovery does by itself
//! at the next start (a tear, a footer that was not written yet) is not called damage.

use super::{
    Diagnosis, Finding, Listener, Patient, Remedy,
    packs::Ward,
    segment::{self, Hole, Opened, Walked},
};
use crate::{
    error::{Error, ErrorKind, Result},
    id::{ChainHash, Position},
    log::{
        files::{LOG_DIR, read_anchor},
        header::{BLOCK_LEN, position_of_name, segment_name},
        scan::look_beyond,
    },
    store::{ObjectStore, directory::DirectoryStore},
};

/// Looks at everything.
pub(super) fn examine(patient: &Patient, packs: bool, listener: Listener<'_>) -> Result<Diagnosis> {
    let disk = &*patient.disk;
    let firsts: Vec<Position> = disk.list(LOG_DIR)?.iter().filter_map(|name| position_of_name(name)).collect();
    let mut total = 0;
    for first in &firsts {
        total += disk.open(&path_of(*first))?.len()?;
    }
    let store = DirectoryStore::new(patient.pack_files.clone(), patient.random.clone());
    let mut look = Look {
        patient,
        store: &store,
        diagnosis: Diagnosis::default(),
        place: Place { next: Position(1), chain: Some(ChainHash([0; 32])) },
        first_lost: None,
        ward: packs.then(|| Ward::new(&store)),
        progress: (0, total),
        listener,
    };
    for (index, first) in firsts.iter().enumerate() {
        look.segment(*first, firsts.get(index + 1).copied())?;
    }
    let last = firsts.last().map_or_else(String::new, |first| path_of(*first));
    look.anchor(&last)?;
    look.packs()?;
    let Look { mut diagnosis, place, first_lost, .. } = look;
    let last = Position(place.next.0 - 1);
    diagnosis.end = diagnosis.end.max(last);
    diagnosis.readable_to = first_lost.map_or(last, |lost| Position(lost.0 - 1));
    Ok(diagnosis)
}

/// `log/seg-….log`
pub(super) fn path_of(first: Position) -> String {
    format!("{LOG_DIR}/{}", segment_name(first))
}

/// Where the log stands between two segments.
struct Place {
    next: Position,
    /// `None`: the events before are not known.
    chain: Option<ChainHash>,
}

struct Look<'a> {
    patient: &'a Patient,
    store: &'a dyn ObjectStore,
    diagnosis: Diagnosis,
    place: Place,
    first_lost: Option<Position>,
    ward: Option<Ward<'a>>,
    progress: (u64, u64),
    listener: Listener<'a>,
}

impl Look<'_> {
    fn segment(&mut self, first: Position, after: Option<Position>) -> Result<()> {
        let path = path_of(first);
        self.diagnosis.segments += 1;
        if first > self.place.next {
            let missing = path_of(self.place.next);
            self.lost(&missing, (0, None), (self.place.next, Position(first.0 - 1)), "the segment is missing");
            self.place = Place { next: first, chain: None };
        }
        let opened = match segment::open(&*self.patient.disk, &path) {
            Ok(opened) => opened,
            Err(error) if error.is_corrupt() => return self.unreadable(&path, first, after, &error.to_string()),
            Err(error) => return Err(error),
        };
        if let Some(why) = self.why_not_here(&opened, first) {
            return self.unreadable(&path, first, after, &why);
        }
        self.diagnosis.log.get_or_insert(opened.header.log);
        if opened.header_hurt {
            self.note(
                &path,
                (0, Some(BLOCK_LEN as u64)),
                "one of the two copies of the header is damaged",
                Remedy::Derive,
            );
        }
        let walked = self.walk(&opened, after)?;
        walked.holes.iter().for_each(|hole| self.hole(&path, hole));
        self.end_of(&opened, walked, after)
    }

    /// A segment of which nothing can be believed. How many events the last one has, nobody knows.
    fn unreadable(&mut self, path: &str, first: Position, after: Option<Position>, problem: &str) -> Result<()> {
        let block = (0, Some(BLOCK_LEN as u64));
        match after {
            Some(after) => self.lost(path, block, (first, Position(after.0 - 1)), problem),
            None => {
                self.prefix_ends(first);
                self.note(path, block, problem, Remedy::Copy);
            }
        }
        self.place = Place { next: after.unwrap_or(first), chain: None };
        Ok(())
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
        if first < self.place.next {
            return Some(format!("it begins before {}, where the segment before it ends", self.place.next));
        }
        let other = self.place.chain.is_some_and(|chain| first == self.place.next && chain != header.previous);
        other.then(|| "it does not continue the chain of the segment before it".to_owned())
    }

    fn walk(&mut self, opened: &Opened, after: Option<Position>) -> Result<Walked> {
        let (before, total) = self.progress;
        let (ward, listener, diagnosis) = (&mut self.ward, &mut *self.listener, &mut self.diagnosis);
        let walked = opened.walk(after, &mut |group| {
            for (event, _) in group.decode_events()? {
                if let Some(ward) = ward {
                    ward.take(&event)?;
                }
            }
            match listener(before + group.end, total) {
                true => Ok(()),
                false => Err(Error::new(ErrorKind::Unavailable, "the examination was stopped")),
            }
        })?;
        diagnosis.events += walked.events;
        diagnosis.bytes += opened.len;
        self.progress.0 += opened.len;
        Ok(walked)
    }

    /// A place between groups where something else stands.
    fn hole(&mut self, path: &str, hole: &Hole) {
        let (from, to) = hole.bytes;
        let bytes = to.map(|to| to - from);
        match hole.resumes {
            Some((position, _)) if position == hole.next => {
                let text = format!("a mark is damaged, no event is lost ({})", hole.why);
                self.note(path, (from, bytes), &text, Remedy::Derive);
            }
            resumes => {
                let end = resumes.map_or(hole.next, |(position, _)| Position(position.0 - 1));
                self.lost(path, (from, bytes), (hole.next, end), &hole.why);
            }
        }
    }

    /// How a segment ends: at its footer, at the next segment, or as the end of the log does.
    fn end_of(&mut self, opened: &Opened, walked: Walked, after: Option<Position>) -> Result<()> {
        let path = &*opened.path;
        let boundary = opened.boundary(after);
        self.place = Place { next: walked.next, chain: Some(walked.chain) };
        let Some(boundary) = boundary else { return self.tail(opened, &walked) };
        if walked.next < boundary {
            let stops = (walked.end, Some(opened.len.saturating_sub(walked.end)));
            self.lost(path, stops, (walked.next, Position(boundary.0 - 1)), &walked.why);
            let chain = opened.trailer.as_ref().map(|trailer| trailer.chain);
            self.place = Place { next: boundary, chain };
            return Ok(());
        }
        match &opened.trailer {
            None => self.note(path, (walked.end, None), "the segment has no sound footer", Remedy::NextStart),
            Some(_) if !opened.footer_sound()? => {
                let text = "index, push ids or state in the footer are damaged";
                self.note(path, (walked.end, Some(opened.len.saturating_sub(walked.end))), text, Remedy::Derive);
            }
            Some(trailer) if trailer.chain != walked.chain => {
                let text = "the footer is not of these events";
                self.note(path, (walked.end, Some(opened.len.saturating_sub(walked.end))), text, Remedy::Derive);
            }
            Some(_) => {}
        }
        if after.is_none() {
            // A segment is sealed only after its successor is there.
            self.prefix_ends(boundary);
            self.note(&path_of(boundary), (0, None), "the segment that comes next is missing", Remedy::Copy);
        }
        Ok(())
    }

    /// The end of the log: nothing, a tear, or less than was zero-filled once.
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
        if rest.nonzero_end > walked.end {
            let text = format!(
                "an unfinished write ({}); after a clean shutdown it would be damage, after a crash it was never acknowledged",
                walked.why
            );
            self.note(path, (walked.end, Some(rest.nonzero_end - walked.end)), &text, Remedy::NextStart);
        }
        Ok(())
    }

    /// The anchor says how far the log must reach at least.
    fn anchor(&mut self, last: &str) -> Result<()> {
        let file = format!("{LOG_DIR}/anchor");
        let Some(anchor) = read_anchor(&*self.patient.disk)? else {
            self.note(&file, (0, None), "the anchor is missing or damaged", Remedy::NextStart);
            return Ok(());
        };
        if self.diagnosis.log.is_some_and(|log| log != anchor.log) {
            self.note(&file, (0, None), &format!("it belongs to log {}", anchor.log), Remedy::Person);
            return Ok(());
        }
        self.diagnosis.end = anchor.durable.position;
        let next = self.place.next;
        if anchor.durable.position >= next && self.first_lost.is_none_or(|lost| lost < next) {
            let text = format!("the log was once durable through {}", anchor.durable.position);
            self.lost(last, (0, None), (next, anchor.durable.position), &text);
        } else if anchor.durable.position.next() == next
            && self.place.chain.is_some_and(|chain| chain != anchor.durable.chain)
        {
            let text = format!("the event at {} was another one once", anchor.durable.position);
            self.lost(last, (0, None), (anchor.durable.position, anchor.durable.position), &text);
        }
        Ok(())
    }

    fn packs(&mut self) -> Result<()> {
        // A log without events has promised nothing about its packs.
        if let Some(log) = self.diagnosis.log.filter(|_| self.place.next > Position(1))
            && let Err(error) = self.store.claim(log, false)
        {
            let file = error.file().unwrap_or("STORE").to_owned();
            self.note(&file, (0, None), &error.to_string(), Remedy::Person);
        }
        let Some(ward) = self.ward.take() else { return Ok(()) };
        self.diagnosis.packs = Some(ward.packs);
        self.diagnosis.bytes += ward.bytes;
        ward.findings().for_each(|finding| self.diagnosis.note(finding));
        Ok(())
    }

    fn prefix_ends(&mut self, lost: Position) {
        self.first_lost = Some(self.first_lost.map_or(lost, |earlier| earlier.min(lost)));
    }

    fn lost(&mut self, file: &str, (offset, bytes): (u64, Option<u64>), events: (Position, Position), problem: &str) {
        self.prefix_ends(events.0);
        let (file, problem, events, remedy) = (file.to_owned(), problem.to_owned(), Some(events), Remedy::Copy);
        self.diagnosis.note(Finding { file, offset, bytes, problem, events, remedy });
    }

    fn note(&mut self, file: &str, (offset, bytes): (u64, Option<u64>), problem: &str, remedy: Remedy) {
        let (file, problem) = (file.to_owned(), problem.to_owned());
        self.diagnosis.note(Finding { file, offset, bytes, problem, events: None, remedy });
    }
}
