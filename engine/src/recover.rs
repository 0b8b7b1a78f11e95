//! Opening: read what must be read, judge the tail by one table, make what is shown durable, hand over to the writer.
//!
//! Invariants: [`judge`] is the only place that tells a tear from damage, and does no I/O; a damaged log is not written
//! to; nothing is handed over before it is durable in a place whose sync succeeded; the cost is the headers and trailers
//! of all segments, the footers that are needed, and the last segment.

use crate::{
    clock::random16,
    disk::{Disk, DiskFile, DiskLock},
    engine::{Durable, OpenReport, Options, Parts, Tail},
    error::{Error, ErrorKind, Result},
    id::{LogId, Position},
    limits::PUSH_ID_WINDOW,
    log::{
        anchor::Anchor,
        files::{self, LOCK, LOG_DIR, LogFiles, remove_if_there},
        footer::IndexEntry,
        header::BLOCK_LEN,
        published::Segment,
        refold::{self, Fold, Walked},
        repair::{self, Beginning, Made},
        scan::{RawGroup, Rest, look_beyond},
        segment::{Active, footer, segment_capacity},
        survey::{Damage, Found, Survey, forget_torn_footer, survey},
    },
    planted::{self, PlantedBug},
    writer::Handover,
};

/// What the last segment's walk found, for the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Facts {
    /// Some byte after the last whole group is not zero.
    pub(crate) remains: bool,
    /// A sound frame of a later write stands there.
    pub(crate) later: bool,
    /// The file is shorter than what was zero-filled before it got its name.
    pub(crate) short: bool,
    /// A whole group does not decode.
    pub(crate) undecodable: bool,
    /// The anchor says that the log was durable beyond this point, or on another chain.
    pub(crate) anchored_beyond: bool,
}

/// The judgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Every byte accounted for.
    Clean,
    /// An unfinished write: it was never acknowledged.
    Torn,
    /// Something acknowledged is not there any more.
    Damaged(&'static str),
}

/// The tail table (FORMAT.md §4.5), first row that holds.
pub(crate) fn judge(facts: Facts) -> Verdict {
    match facts {
        Facts { undecodable: true, .. } => Verdict::Damaged("a whole group cannot be decoded"),
        Facts { later: true, .. } if planted::is(PlantedBug::DamageTakenForTear) => Verdict::Torn,
        Facts { later: true, .. } => Verdict::Damaged("frames of later writes stand after it"),
        Facts { short: true, .. } => Verdict::Damaged("the file was cut"),
        Facts { anchored_beyond: true, .. } => Verdict::Damaged("the log was once durable beyond this point"),
        Facts { remains: true, .. } => Verdict::Torn,
        Facts { remains: false, .. } => Verdict::Clean,
    }
}

/// An opened log.
pub(crate) struct Opened {
    pub(crate) handover: Handover,
    /// Why nothing may be written, if so.
    pub(crate) read_only: Option<String>,
    pub(crate) files: LogFiles,
    pub(crate) segments: Vec<Segment>,
    pub(crate) lock: Box<dyn DiskLock>,
    pub(crate) report: OpenReport,
}

/// Opens the log of `parts.disk`, which `lock` holds, or creates it.
pub(crate) fn open(parts: &Parts, options: &Options, lock: Box<dyn DiskLock>) -> Result<Opened> {
    let disk = &*parts.disk;
    let found = survey(disk)?;
    let anchor = files::read_anchor(disk)?;
    if found.segments.is_empty() {
        return create(parts, options, lock, anchor);
    }
    let mut opening = Opening { parts, options, bytes_read: found.bytes_read, unsealed: Vec::new() };
    opening.run(found, anchor, lock)
}

/// Takes the directory's lock. Whoever opens at the same moment may make the directory anew while it is still empty
/// ([`crate::disk::make_dir`]): then it is gone for a moment, and whose file is in it first has it.
pub(crate) fn lock(disk: &dyn Disk, holder: &str) -> Result<Box<dyn DiskLock>> {
    for _ in 0..REMADE_MAX {
        files::make_dir(disk, LOG_DIR)?;
        match disk.lock(LOCK, holder) {
            Err(error) if error.is_not_found() => {}
            locked => return locked,
        }
    }
    Err(Error::new(ErrorKind::Conflict, format!("{LOG_DIR}: other processes make it anew again and again")))
}

fn create(parts: &Parts, options: &Options, lock: Box<dyn DiskLock>, anchor: Option<Anchor>) -> Result<Opened> {
    if let Some(anchor) = anchor {
        let message = format!("every segment is missing; the log was durable through {}", anchor.durable.position);
        return Err(Error::corrupt(LOG_DIR, 0, message));
    }
    let log = LogId::from_random(random16(&*parts.random)?);
    let fold = Fold::empty();
    let beginning = beginning_at(log, &fold, segment_capacity(0, options.segment_bytes));
    let made = repair::new_segment(&*parts.disk, &*parts.random, &beginning, None)?;
    let mut opening = Opening { parts, options, bytes_read: 0, unsealed: Vec::new() };
    let (fold, segment) = opening.entered(fold, &made, Vec::new());
    opening.finish(log, fold, vec![segment], made, lock, (Tail::Clean, false))
}

/// One opening under way.
struct Opening<'a> {
    parts: &'a Parts,
    options: &'a Options,
    bytes_read: u64,
    /// Footers to write: segment, offset, bytes.
    unsealed: Vec<(usize, u64, Vec<u8>)>,
}

impl Opening<'_> {
    fn run(&mut self, mut found: Survey, anchor: Option<Anchor>, lock: Box<dyn DiskLock>) -> Result<Opened> {
        let log = found.segments[0].header.log;
        if let Some(anchor) = anchor.filter(|anchor| anchor.log != log) {
            let message = format!("the anchor belongs to log {}, the segments to {log}", anchor.log);
            return Err(Error::corrupt(LOG_DIR, 0, message));
        }
        forget_torn_footer(&*self.parts.disk, &mut found, &mut self.bytes_read)?;
        let (after, mut fold) = checkpointed(&*self.parts.disk, &mut found, &mut self.bytes_read)?;
        let stopped = self.refold_unsealed(&mut found, after, &mut fold)?;
        let last = &found.segments[found.segments.len() - 1];
        if let Some(damage) = found.damage.take() {
            if !stopped && last.trailer.is_none() {
                fold.enter(last);
                self.bytes_read += refold::walk(&*self.parts.disk, last, &mut fold, None, false)?.bytes_read;
            }
            return self.damaged(found.segments, fold, damage, lock);
        }
        self.judge_last(found.segments, fold, anchor, lock)
    }

    /// Folds the segments between the checkpoint and the last one. One that does not reach its successor ends the prefix.
    /// True if one did: the fold then stands where it stops.
    fn refold_unsealed(&mut self, found: &mut Survey, after: usize, fold: &mut Fold) -> Result<bool> {
        let whole = found.segments.iter().rposition(|segment| segment.trailer.is_some()).map_or(0, |at| at + 1);
        let until = whole.max(found.segments.len() - 1);
        for at in after..until {
            let segment = &found.segments[at];
            tracing::info!(file = &*segment.path, position = fold.durable.position.0, "refolding a segment");
            fold.enter(segment);
            let boundary = found.segments.get(at + 1).map(|next| next.header.first);
            let boundary = boundary.or(segment.trailer.as_ref().map(|trailer| trailer.last.next()));
            let walked = refold::walk(&*self.parts.disk, segment, fold, boundary, false)?;
            self.bytes_read += walked.bytes_read;
            if let Some(damage) = not_reached(segment, found.segments.get(at + 1), fold, &walked) {
                found.segments.truncate(at + 1);
                found.segments[at].trailer = None;
                found.damage = Some(damage);
                return Ok(true);
            }
            if segment.trailer.is_none() {
                let active = fold.active(segment);
                let bytes = footer(segment.header.log, &active, fold.segment_end(), &fold.state, &fold.pushes);
                self.unsealed.push((at, fold.end, bytes));
            }
            fold.pushes.seal(fold.durable.position);
        }
        Ok(false)
    }

    fn judge_last(
        &mut self,
        segments: Vec<Found>,
        mut fold: Fold,
        anchor: Option<Anchor>,
        lock: Box<dyn DiskLock>,
    ) -> Result<Opened> {
        let disk = &*self.parts.disk;
        let last = &segments[segments.len() - 1];
        fold.enter(last);
        let mut walked = refold::walk(disk, last, &mut fold, None, true)?;
        if let Some(Err(error)) = walked.last.as_ref().map(RawGroup::decode_events) {
            walked.undecodable = true;
            walked.stop = (error.offset().unwrap_or(fold.end), error.to_string());
            walked.last = None;
        }
        let end = walked.last.as_ref().map_or(fold.durable, |g| Durable { position: g.last, chain: g.chain });
        let sequence = walked.last.as_ref().map_or(fold.sequence, |group| group.sequence + 1);
        let rest = look_beyond(&*last.open(disk)?, &last.header.salt, walked.stop.0, sequence)?;
        self.bytes_read += walked.bytes_read + rest.bytes_read;
        let anchored_beyond = anchor.is_some_and(|anchor| {
            let there = anchor.durable.position.cmp(&end.position);
            there.is_gt() || (there.is_eq() && anchor.durable.chain != end.chain)
        });
        let verdict = judge(Facts {
            remains: rest.nonzero_end != 0,
            later: rest.later.is_some(),
            short: last.len < last.header.capacity,
            undecodable: walked.undecodable,
            anchored_beyond,
        });
        if let Verdict::Damaged(why) = verdict {
            let damage = Damage::new(&*last.path, walked.stop.0, format!("{why} ({})", walked.stop.1));
            if let Some(group) = walked.last {
                fold.take(&group)?;
            }
            return self.damaged(segments, fold, damage, lock);
        }
        let (offset, file) = (walked.stop.0, last.path.to_string());
        let tail = match verdict {
            Verdict::Torn => Tail::Torn { file, offset, bytes: rest.nonzero_end - offset },
            Verdict::Clean | Verdict::Damaged(_) => Tail::Clean,
        };
        self.settle(segments, fold, (walked, rest), tail, lock)
    }

    /// Makes the end of the log durable and sealed as far as it must be, and goes on after it.
    fn settle(
        &mut self,
        segments: Vec<Found>,
        mut fold: Fold,
        (walked, rest): (Walked, Rest),
        tail: Tail,
        lock: Box<dyn DiskLock>,
    ) -> Result<Opened> {
        let disk = &*self.parts.disk;
        let last = &segments[segments.len() - 1];
        let file = last.open(disk)?;
        let log = last.header.log;
        let mut shown = shown(&segments, &fold);
        self.seal_unsealed(&segments, &mut shown)?;
        remove_if_there(disk, files::SPARE)?;
        // A last group that no mark vouches for is suspect, and so is the name of a segment without any: its sync may have
        // failed (F4).
        let settled = walked.mark.filter(|_| tail == Tail::Clean);
        if let Some(mark) = settled {
            repair::confirm_mark(&*file, &last.header.salt, mark)?;
        }
        if settled.is_some() || planted::is(PlantedBug::RecoveryExposesUnsyncedTail) {
            if let Some(group) = &walked.last {
                fold.take(group)?;
            }
            let shown = self::shown(&segments, &fold);
            let made = Made { header: last.header.clone(), file, group_end: fold.end, end: fold.end };
            return self.finish(log, fold, shown, made, lock, (tail, walked.mark.is_none()));
        }
        if let Tail::Torn { offset, .. } = tail {
            files::keep_torn(disk, &*file, &torn_name(last, offset), offset, rest.nonzero_end)?;
        }
        let capacity = segment_capacity(segments.len() as u64, self.options.segment_bytes);
        let beginning = beginning_at(log, &fold, capacity);
        let made = repair::new_segment(disk, &*self.parts.random, &beginning, walked.last.as_ref())?;
        shown.pop();
        if beginning.first > last.header.first {
            shown.push(seal_last(last, &*file, &mut fold)?);
        }
        fold.index = Vec::new();
        if let Some(group) = walked.last {
            fold.take(&RawGroup { offset: BLOCK_LEN as u64, end: made.group_end, ..group })?;
        }
        let index = fold.index.clone();
        let (fold, segment) = self.entered(fold, &made, index);
        shown.push(segment);
        self.finish(log, fold, shown, made, lock, (tail, true))
    }

    /// Writes the footers that an interrupted process left out.
    fn seal_unsealed(&mut self, segments: &[Found], shown: &mut [Segment]) -> Result<()> {
        for (at, offset, bytes) in std::mem::take(&mut self.unsealed) {
            repair::seal(&*segments[at].open(&*self.parts.disk)?, offset, &bytes)?;
            shown[at].sealed = true;
            shown[at].frames_end = offset;
            shown[at].bytes = offset + bytes.len() as u64;
        }
        Ok(())
    }

    fn entered(&mut self, mut fold: Fold, made: &Made, index: Vec<IndexEntry>) -> (Fold, Segment) {
        fold.pass_mark(made.end);
        fold.index = index.clone();
        let mut segment = Segment::empty(made.header.clone());
        segment.last = fold.durable.position;
        segment.frames_end = made.end;
        segment.bytes = segment.bytes.max(made.end);
        segment.index = index;
        (fold, segment)
    }

    fn finish(
        &mut self,
        log: LogId,
        fold: Fold,
        segments: Vec<Segment>,
        active: Made,
        lock: Box<dyn DiskLock>,
        (tail, unclean): (Tail, bool),
    ) -> Result<Opened> {
        let disk = &self.parts.disk;
        if files::read_anchor(&**disk)?.is_none() {
            files::write_anchor(&**disk, &Anchor { log, durable: fold.durable })?;
        }
        let report = OpenReport { log, durable: fold.durable, tail, unclean, bytes_read: self.bytes_read };
        let header = active.header;
        let active_segment = Active {
            first: header.first,
            sequence: header.sequence,
            salt: header.salt,
            capacity: header.capacity,
            end: active.end,
            index: fold.index.clone(),
        };
        Ok(Opened {
            handover: handover(log, fold, active_segment, segments.len()),
            read_only: None,
            files: LogFiles::new(disk.clone(), active.file),
            segments,
            lock,
            report,
        })
    }

    /// A log that may be read up to the damage and not be written.
    fn damaged(&mut self, segments: Vec<Found>, fold: Fold, damage: Damage, lock: Box<dyn DiskLock>) -> Result<Opened> {
        let last = &segments[segments.len() - 1];
        let log = last.header.log;
        let why = format!("{} at byte {}: {}", damage.file, damage.offset, damage.message);
        tracing::error!(why, position = fold.durable.position.0, "the log is damaged: read-only up to here");
        let tail = Tail::Damaged { file: damage.file, offset: damage.offset, message: damage.message };
        let report = OpenReport { log, durable: fold.durable, tail, unclean: true, bytes_read: self.bytes_read };
        Ok(Opened {
            files: LogFiles::new(self.parts.disk.clone(), last.open(&*self.parts.disk)?),
            segments: shown(&segments, &fold),
            handover: handover(log, fold.clone(), fold.active(last), segments.len()),
            read_only: Some(why),
            lock,
            report,
        })
    }
}

/// The newest decision state that a footer of the prefix holds, with the push ids of the window before it. The fold
/// then stands at the end of the returned segments' last sealed one.
pub(crate) fn checkpointed(disk: &dyn Disk, found: &mut Survey, bytes_read: &mut u64) -> Result<(usize, Fold)> {
    let mut base = (0, Fold::empty());
    for (at, segment) in found.segments.iter().enumerate().rev() {
        match Fold::load(disk, segment, bytes_read)? {
            Some(fold) => {
                base = (at + 1, fold);
                break;
            }
            None if segment.trailer.is_some() => {
                tracing::warn!(file = &*segment.path, "the checkpoint in a segment's footer is damaged: refolding");
            }
            None => {}
        }
    }
    let (after, fold) = &mut base;
    for (at, segment) in found.segments[..*after].iter().enumerate() {
        let end = segment.trailer.as_ref().map(|trailer| trailer.last.next());
        // Without a trailer the segment ends where the next one begins; the last of these has one.
        let Some(end) = end.or(found.segments.get(at + 1).map(|next| next.header.first)) else { continue };
        let in_window = end.0 + PUSH_ID_WINDOW > fold.durable.position.0;
        if in_window && let Some((offset, why)) = refold::load_pushes(disk, segment, end, &mut fold.pushes, bytes_read)?
        {
            found.damage.get_or_insert(Damage::new(&*segment.path, offset, why));
        }
    }
    Ok(base)
}

/// Writes the footer of the segment that the moved group stood in, over its old place.
fn seal_last(last: &Found, file: &dyn DiskFile, fold: &mut Fold) -> Result<Segment> {
    let bytes = footer(last.header.log, &fold.active(last), fold.segment_end(), &fold.state, &fold.pushes);
    repair::seal(file, fold.end, &bytes)?;
    fold.pushes.seal(fold.durable.position);
    Ok(Segment {
        header: last.header.clone(),
        last: fold.durable.position,
        frames_end: fold.end,
        bytes: fold.end + bytes.len() as u64,
        sealed: true,
        index: Vec::new(),
    })
}

/// Why a segment that must reach its successor (or its own trailer) does not.
fn not_reached(segment: &Found, next: Option<&Found>, fold: &Fold, walked: &Walked) -> Option<Damage> {
    let end = match (next, &segment.trailer) {
        (Some(next), _) => (next.header.first, next.header.previous),
        (None, Some(trailer)) => (trailer.last.next(), trailer.chain),
        (None, None) => return None,
    };
    let reached = !walked.undecodable && (fold.durable.position.next(), fold.durable.chain) == end;
    (!reached).then(|| Damage::new(&*segment.path, walked.stop.0, walked.stop.1.clone()))
}

/// The segments as readers see them; the last one ends where the fold stands.
pub(crate) fn shown(segments: &[Found], fold: &Fold) -> Vec<Segment> {
    let of = |(at, found): (usize, &Found)| {
        let mut segment = Segment::empty(found.header.clone());
        segment.bytes = found.len;
        match (&found.trailer, segments.get(at + 1)) {
            (Some(trailer), _) => {
                (segment.last, segment.frames_end, segment.sealed) = (trailer.last, trailer.frames_end, true);
            }
            // Without a footer its frames end where the next segment begins.
            (None, Some(next)) => {
                segment.last = Position(next.header.first.0 - 1);
                segment.frames_end = found.len;
            }
            (None, None) => {
                (segment.last, segment.frames_end) = (fold.durable.position, fold.end);
                segment.index = fold.index.clone();
            }
        }
        segment
    };
    segments.iter().enumerate().map(of).collect()
}

fn beginning_at(log: LogId, fold: &Fold, capacity: u64) -> Beginning {
    Beginning {
        log,
        first: fold.durable.position.next(),
        sequence: fold.sequence,
        previous: fold.durable.chain,
        time_ms: fold.time_ms,
        capacity,
    }
}

pub(crate) fn handover(log: LogId, fold: Fold, active: Active, segments: usize) -> Handover {
    Handover {
        log,
        state: fold.state,
        pushes: fold.pushes,
        durable: fold.durable,
        sequence: fold.sequence,
        time_ms: fold.time_ms,
        active,
        segments: segments as u64,
        shared: None,
    }
}

/// A name that no other tear gets: the salt is new after each.
fn torn_name(segment: &Found, offset: u64) -> String {
    let name = segment.path.rsplit('/').next().unwrap_or_default();
    format!("{name}-{offset}-{}", hex::encode(&segment.header.salt[..4]))
}

/// How often the directory may vanish under an opening: each time another process took it for one that nobody had finished.
const REMADE_MAX: usize = 100;
