//! Treating: from the same file, from an intact copy, or, when the loss is named and accepted, by ending the log before it.
//!
//! Invariants: new content takes a name only when a walk over it has proven it: its own first position, the chain of the segment
//! before it, no hole, and an end that the next segment continues (the last one: everything that could be read before); a log is
//! cut from its end towards the damage, the anchor last, so that an interrupted cut is still seen as damage and cut again.

use std::{collections::BTreeSet, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    Diagnosis, Patient, Remedy,
    aside::{self, Mended, copy, extend_with_zeros},
    examine::{examine, path_of},
    segment::{self, Opened, Walked},
};
use crate::{
    disk::{Disk, DiskFile, write_all_at},
    engine::Durable,
    error::{Error, Result},
    id::{ChainHash, LogId, PackId, Position},
    log::{
        anchor::Anchor,
        files::{LOG_DIR, read_anchor, write_anchor},
        frame::{self, Draft, MARK},
        header::{BLOCK_LEN, position_of_name},
        scan::{look_beyond, read_up_to},
    },
    store::StoreKey,
};

/// What may be done.
#[derive(Clone, Default)]
pub struct Orders {
    /// An intact copy to take bytes from.
    pub from: Option<Copies>,
    /// End the log at this position, which must be where it stops being readable.
    pub accept_loss_after: Option<Position>,
}

/// A copy of the data directory, or of a part of it.
#[derive(Clone)]
pub struct Copies {
    /// Like [`Patient::disk`].
    pub disk: Arc<dyn Disk>,
    /// Like [`Patient::pack_files`].
    pub pack_files: Arc<dyn Disk>,
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Treatment {
    /// One line for each thing done.
    pub done: Vec<String>,
    /// One line for each thing that could not be done, with what would help.
    pub left: Vec<String>,
}

/// Does what is allowed.
pub(super) fn treat(patient: &Patient, found: &Diagnosis, orders: &Orders, stamp: &str) -> Result<Treatment> {
    let mut room = Room { patient, orders, stamp, treatment: Treatment::default() };
    let Some(log) = found.log else {
        room.treatment
            .left
            .push("no segment of the log can be read: put an intact copy of log/ in its place".to_owned());
        return Ok(room.treatment);
    };
    let mut hurt = files(found, &[Remedy::Derive, Remedy::Copy]);
    // Twice: what vouches for a segment may itself be made whole only after it.
    for last in [false, true] {
        for file in std::mem::take(&mut hurt) {
            let Some(first) = file.rsplit('/').next().and_then(position_of_name) else { continue };
            let lost =
                found.findings.iter().filter(|finding| finding.file == file).filter_map(|finding| finding.events);
            let reach = lost.map(|(_, last)| last.next()).max().unwrap_or(first);
            match room.segment(file, &Wanted { log, first, reach })? {
                None => {}
                Some(why) if last => room.treatment.left.push(format!("{file}: {why}")),
                Some(_) => drop(hurt.insert(file)),
            }
        }
    }
    // Events that can be read again name packs that nobody looked at.
    let again = match found.packs {
        Some(_) if !room.treatment.done.is_empty() => Some(examine(patient, true, &mut |_, _| true)?),
        _ => None,
    };
    for file in files(again.as_ref().unwrap_or(found), &[Remedy::CopyOrPush]) {
        room.pack(file)?;
    }
    if found.misses_events() {
        room.cut(log)?;
    }
    room.report()?;
    Ok(room.treatment)
}

/// The files that have findings with one of these remedies, in order.
fn files<'a>(found: &'a Diagnosis, wanted: &[Remedy]) -> BTreeSet<&'a str> {
    let of = found.findings.iter().filter(|finding| wanted.contains(&finding.remedy));
    of.map(|finding| finding.file.as_str()).collect()
}

struct Room<'a> {
    patient: &'a Patient,
    orders: &'a Orders,
    stamp: &'a str,
    treatment: Treatment,
}

/// New content and how it came about.
type Made = (Mended, &'static str);

/// Which segment is to be made whole.
struct Wanted {
    log: LogId,
    first: Position,
    /// The position behind the last event that it should have.
    reach: Position,
}

/// What a segment must be to stand in its place.
struct Place {
    log: LogId,
    first: Position,
    before: Option<ChainHash>,
    /// Where it must end, and with which chain; without a successor: how far it must reach.
    after: Option<(Position, Option<ChainHash>)>,
    reach: Position,
}

impl Room<'_> {
    /// Tries what there is, the least change first. Why it is left as it was, if nothing helped.
    fn segment(&mut self, path: &str, wanted: &Wanted) -> Result<Option<String>> {
        let disk = &*self.patient.disk;
        let own = found(segment::open(disk, path))?;
        let copy = self.copy_of(path)?;
        let mut place = self.place(wanted)?;
        let mended = match &own {
            Some(own) => self.mend_own(own, copy.as_deref(), &mut place)?,
            None => self.under_a_copied_header(path, copy.as_deref(), &place)?,
        };
        let mended = match (mended, copy) {
            (Some(mended), _) => Ok(mended),
            (None, Some(copy)) => self.take_copy(&*copy, &place)?,
            (None, None) if self.orders.from.is_some() => Err("the copy has no such file".to_owned()),
            (None, None) => Err("an intact copy is needed (--from DIR)".to_owned()),
        };
        match mended {
            Ok((mended, how)) => {
                mended.put(disk, path, self.stamp)?;
                self.treatment.done.push(format!("{path}: made whole {how}"));
                Ok(None)
            }
            Err(why) => Ok(Some(why)),
        }
    }

    /// Its own bytes, then with what is missing from the copy.
    fn mend_own(&self, own: &Opened, copy: Option<&dyn DiskFile>, place: &mut Place) -> Result<Option<Made>> {
        let disk = &*self.patient.disk;
        let walked = own.walk(place.boundary(), &mut |group| group.decode().map(drop))?;
        place.reach = place.reach.max(walked.next);
        let proven = |disk: &dyn Disk, path: &str| place.proves(disk, path);
        let footer = own.footer_sound()? && own.trailer.as_ref().is_some_and(|trailer| trailer.chain == walked.chain);
        if let Some(mended) = aside::make(disk, &|into| rewrite(own, &walked, footer, None, into), &proven)? {
            return Ok(Some((mended, "from its own intact bytes")));
        }
        let Some(copy) = copy else { return Ok(None) };
        let mended = aside::make(disk, &|into| rewrite(own, &walked, footer, Some(copy), into), &proven)?;
        Ok(mended.map(|mended| (mended, "with the missing bytes from the copy")))
    }

    /// Its own frames can be told from other bytes only with the header's salt: the copy may have the same one.
    fn under_a_copied_header(&self, path: &str, from: Option<&dyn DiskFile>, place: &Place) -> Result<Option<Made>> {
        let disk = &*self.patient.disk;
        let Some(from) = from else { return Ok(None) };
        let own = match disk.open(path) {
            Err(error) if error.is_not_found() => return Ok(None),
            own => own?,
        };
        let block = BLOCK_LEN as u64;
        let write = |into: &dyn DiskFile| {
            copy(&*own, into, (0, own.len()?), 0)?;
            copy(from, into, (0, block), 0)
        };
        let proven = |disk: &dyn Disk, path: &str| Ok(place.proves(disk, path)? && any_event(disk, path)?);
        let mended = aside::make(disk, &write, &proven)?;
        Ok(mended.map(|mended| (mended, "with the header from the copy")))
    }

    /// The copy as it is, or why not. A copy of the last segment may be older than what it replaces: that is for the operator to
    /// say.
    fn take_copy(&self, from: &dyn DiskFile, place: &Place) -> Result<std::result::Result<Made, String>> {
        let disk = &*self.patient.disk;
        let Some(mended) = aside::make(disk, &|into| whole(from, into), &|disk, path| place.proves(disk, path))? else {
            return Ok(Err("the copy has not everything that is missing, or is not of this log".to_owned()));
        };
        let end = mended.look(disk, &|disk, path| {
            segment::open(disk, path)?.walk(place.boundary(), &mut |_| Ok(())).map(|walked| Position(walked.next.0 - 1))
        })?;
        if place.after.is_none() && self.orders.accept_loss_after != Some(end) {
            mended.discard(disk)?;
            return Ok(Err(format!(
                "the copy has the events up to {end}; whether there were more nobody can say: --accept-loss-after {end} takes it"
            )));
        }
        Ok(Ok((mended, "from the copy")))
    }

    /// What stands before and behind a segment.
    fn place(&self, wanted: &Wanted) -> Result<Place> {
        let disk = &*self.patient.disk;
        let Wanted { log, first, mut reach } = *wanted;
        let firsts: Vec<Position> = disk.list(LOG_DIR)?.iter().filter_map(|name| position_of_name(name)).collect();
        let before = match firsts.iter().rev().find(|other| **other < first) {
            None => Some(ChainHash([0; 32])),
            Some(before) => match self.stands(*before)? {
                Some(opened) => {
                    let walked = opened.walk(Some(first), &mut |group| group.decode().map(drop))?;
                    (walked.holes.is_empty() && walked.next == first).then_some(walked.chain)
                }
                None => None,
            },
        };
        let next = firsts.iter().find(|other| **other > first);
        let chain = |next: &Position| Ok(self.stands(*next)?.map(|next| next.header.previous));
        let after = next.map(|next| Ok::<_, Error>((*next, chain(next)?))).transpose()?;
        if let (None, Some(anchor)) = (&after, read_anchor(disk)?) {
            reach = reach.max(anchor.durable.position.next());
        }
        Ok(Place { log, first, before, after, reach })
    }

    /// The segment that its name says, if it can be believed.
    fn stands(&self, first: Position) -> Result<Option<Opened>> {
        Ok(found(segment::open(&*self.patient.disk, &path_of(first)))?.filter(|opened| opened.header.first == first))
    }

    /// The same file in the copy, which may be of the data directory or of `log/` alone.
    fn copy_of(&self, path: &str) -> Result<Option<Box<dyn DiskFile>>> {
        let Some(from) = &self.orders.from else { return Ok(None) };
        for path in [path, path.rsplit('/').next().unwrap_or(path)] {
            match from.disk.open(path) {
                Ok(file) => return Ok(Some(file)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn pack(&mut self, path: &str) -> Result<()> {
        let name = path.rsplit('/').next().and_then(|name| name.strip_suffix(".pack"));
        let Some(pack) = name.and_then(|name| <[u8; 32]>::try_from(hex::decode(name).ok()?).ok()).map(PackId) else {
            return Ok(());
        };
        let (disk, key) = (&*self.patient.pack_files, StoreKey::pack(pack));
        let copy = match self.orders.from.as_ref().map(|from| from.pack_files.open(key.as_str())) {
            Some(Ok(copy)) => copy,
            Some(Err(error)) if !error.is_not_found() => return Err(error),
            _ => {
                self.treatment
                    .left
                    .push(format!("{path}: an intact copy is needed (--from DIR), or a push of the same content"));
                return Ok(());
            }
        };
        let proven = |disk: &dyn Disk, path: &str| Ok(sha256(&*disk.open(path)?)? == pack.0);
        match aside::make(disk, &|into| whole(&*copy, into), &proven)? {
            Some(mended) => {
                mended.put(disk, key.as_str(), self.stamp)?;
                self.treatment.done.push(format!("{path}: taken from the copy"));
            }
            None => self.treatment.left.push(format!("{path}: the copy is damaged too")),
        }
        Ok(())
    }

    /// Ends the log where it stops being readable, if that was accepted.
    fn cut(&mut self, log: LogId) -> Result<()> {
        let found = examine(self.patient, false, &mut |_, _| true)?;
        if !found.misses_events() {
            return Ok(());
        }
        let end = found.readable_to;
        let lost = format!("events {} to {} ", end.next(), found.end.max(end.next()));
        match self.orders.accept_loss_after {
            Some(accepted) if accepted == end && end > Position::ZERO => {}
            Some(accepted) if accepted == end => {
                self.treatment
                    .left
                    .push("no event of the log can be read: put an intact copy of log/ in its place".to_owned());
                return Ok(());
            }
            Some(accepted) => {
                self.treatment.left.push(format!(
                    "the loss after {accepted} was accepted, but the log can be read up to {end}: nothing was cut"
                ));
                return Ok(());
            }
            None => {
                let offer = format!("without an intact copy, --accept-loss-after {end} ends the log there");
                self.treatment.left.push(format!("{lost}cannot all be read: {offer}"));
                return Ok(());
            }
        }
        let disk = &*self.patient.disk;
        let firsts: Vec<Position> = disk.list(LOG_DIR)?.iter().filter_map(|name| position_of_name(name)).collect();
        for first in firsts.iter().rev().filter(|first| **first > end) {
            aside::take_away(disk, &path_of(*first), self.stamp)?;
            self.treatment.done.push(format!("{}: taken out of the log", path_of(*first)));
        }
        let last = firsts.iter().rev().find(|first| **first <= end).copied().unwrap_or(Position(1));
        let durable = self.end_in(&path_of(last), end)?;
        aside::keep(disk, &format!("{LOG_DIR}/anchor"), self.stamp).or_else(|error| match error.is_not_found() {
            true => Ok(()),
            false => Err(error),
        })?;
        write_anchor(disk, &Anchor { log, durable })?;
        self.treatment.done.push(format!("the log ends at {end}: {lost}are lost"));
        Ok(())
    }

    /// Makes `end` the last event of a segment, which becomes the last one.
    fn end_in(&mut self, path: &str, end: Position) -> Result<Durable> {
        let disk = &*self.patient.disk;
        let own = segment::open(disk, path)?;
        let walked = own.walk(Some(end.next()), &mut |_| Ok(()))?;
        if walked.next != end.next() || !walked.holes.is_empty() {
            return Err(Error::corrupt(path, walked.end, format!("the event at {end} cannot be read")));
        }
        let rest = look_beyond(&*own.file, &own.header.salt, walked.end, walked.sequence)?;
        if rest.nonzero_end > walked.end || own.len < own.header.capacity || own.trailer.is_some() {
            let write = |into: &dyn DiskFile| {
                copy(&*own.file, into, (0, walked.end), 0)?;
                extend_with_zeros(into, own.header.capacity)
            };
            let ends = |disk: &dyn Disk, path: &str| {
                let made = segment::open(disk, path)?;
                let again = made.walk(None, &mut |_| Ok(()))?;
                Ok(again.holes.is_empty() && (again.next, again.chain) == (walked.next, walked.chain))
            };
            let Some(mended) = aside::make(disk, &write, &ends)? else {
                return Err(Error::corrupt(path, walked.end, "what was cut does not read as what was kept"));
            };
            mended.put(disk, path, self.stamp)?;
            self.treatment.done.push(format!("{path}: ends after event {end} now"));
        }
        Ok(Durable { position: end, chain: walked.chain })
    }

    /// Leaves what was done beside what was kept.
    fn report(&self) -> Result<()> {
        if self.treatment.done.is_empty() {
            return Ok(());
        }
        let text = self.treatment.done.iter().chain(&self.treatment.left).map(|line| format!("{line}\n"));
        let text: String = text.collect();
        let disk = &*self.patient.disk;
        let written = aside::make(disk, &|into| write_all_at(into, text.as_bytes(), 0), &|_, _| Ok(true))?;
        written.map_or(Ok(()), |written| written.put(disk, &format!("damaged/{}/report.txt", self.stamp), self.stamp))
    }
}

impl Place {
    /// Where the next segment begins.
    fn boundary(&self) -> Option<Position> {
        self.after.map(|(next, _)| next)
    }

    fn proves(&self, disk: &dyn Disk, path: &str) -> Result<bool> {
        let Some(opened) = found(segment::open(disk, path))? else { return Ok(false) };
        let header = &opened.header;
        if (header.log, header.first) != (self.log, self.first)
            || self.before.is_some_and(|chain| chain != header.previous)
        {
            return Ok(false);
        }
        let walked = opened.walk(self.boundary(), &mut |group| group.decode().map(drop))?;
        let ends = match self.after {
            Some((next, chain)) => {
                // Someone must vouch for the chain: the segment behind, or this one's own footer.
                let vouched = chain.or(opened.trailer.as_ref().map(|trailer| trailer.chain));
                walked.next == next && vouched.is_some_and(|chain| chain == walked.chain)
            }
            None => walked.next >= self.reach && opened.trailer.is_none() && opened.len >= header.capacity,
        };
        Ok(ends && walked.holes.is_empty())
    }
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
        match (hole.resumes, from) {
            (Some((position, sequence)), _) if position == hole.next && sequence == hole.sequence + 1 => {
                let mut mark = Vec::new();
                let (first, sequence, previous) = (hole.next, hole.sequence, hole.chain);
                let draft = Draft { flags: MARK, count: 0, first, sequence, time_ms: 0, previous };
                frame::append(&mut mark, &own.header.salt, &draft, &[]);
                write_all_at(into, &mark, start)?;
            }
            (_, Some(from)) => copy(from, into, (start, end), start)?,
            (_, None) => {}
        }
    }
    // What is missing at the end of the frames.
    match from {
        Some(from) if walked.end < frames_end => copy(from, into, (walked.end, frames_end), walked.end),
        _ => Ok(()),
    }
}

fn whole(from: &dyn DiskFile, into: &dyn DiskFile) -> Result<()> {
    copy(from, into, (0, from.len()?), 0)
}

/// Whether a segment has an event that can be read.
fn any_event(disk: &dyn Disk, path: &str) -> Result<bool> {
    Ok(segment::open(disk, path)?.walk(None, &mut |_| Ok(()))?.events > 0)
}

/// A file that is missing or damaged is none.
fn found(opened: Result<Opened>) -> Result<Option<Opened>> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if error.is_corrupt() || error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn sha256(file: &dyn DiskFile) -> Result<[u8; 32]> {
    let (mut hash, mut at) = (Sha256::new(), 0);
    let mut piece = vec![0; 256 << 10];
    loop {
        let got = read_up_to(file, &mut piece, at)?;
        hash.update(&piece[..got]);
        at += got as u64;
        if got < piece.len() {
            return Ok(hash.finalize().into());
        }
    }
}
