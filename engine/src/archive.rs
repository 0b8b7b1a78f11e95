//! Bringing sealed segments of the log into the object store, in their order, each verified before the next.
//!
//! Invariants: a segment is put there once and never replaced; it counts as archived after its bytes were read back and
//! compared; slots go only after the segment that holds their groups was compared by whoever deletes them, and they go even if
//! the server that brought it died. One step at a time, no thread and no clock: who calls it decides when.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use crate::{
    disk::{Disk, DiskFile, read_exact_at},
    doctor,
    engine::SegmentInfo,
    error::{Error, Result},
    id::{ChainHash, LogId, Position},
    log::{bucket::BucketLog, drive::Drive, fields::size, files::LOG_DIR, header::segment_name, survey::read_trailer},
    planted::{self, PlantedBug},
    store::{StoreKey, files::StoreFiles},
};

/// Where the log is sealed in the object store, and what is to be brought there.
pub struct Archiver {
    drive: Arc<Drive>,
    bucket: BucketLog,
    /// Segments of a bucket log that are there and whose slots may be there too, oldest first.
    unswept: VecDeque<Unswept>,
}

#[derive(Clone, Copy)]
struct Unswept {
    segment: SegmentInfo,
    /// What the bucket has was compared here.
    compared: bool,
}

/// How a sealed segment that the store has taken is there and here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AtRest {
    /// The same bytes.
    Same,
    /// Gone from the store, sound here.
    Missing,
    /// Damaged in the store, sound here: what is wrong.
    There(String),
    /// Sound in the store, damaged here: what is wrong.
    Here(String),
    /// Neither proves itself: what is wrong.
    Neither(String),
}

/// What one step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Archived {
    /// Nothing is to be done: everything sealed is there.
    Idle,
    /// The next segment was found there; it ends at this position.
    Found(Position),
    /// The next segment was brought there and verified; it ends at this position.
    Brought(Position),
}

impl Archiver {
    /// Finds out which of the sealed segments the store has. `Conflict` if it has other ones.
    pub(crate) fn new(drive: Arc<Drive>) -> Result<Archiver> {
        let mut bucket = BucketLog::new(drive.parts.store.clone(), drive.parts.random.clone(), drive.log);
        let (mut sealed, mut unswept) = (Vec::new(), VecDeque::new());
        for segment in crate::follow::segments(&drive).iter().rev().filter(|segment| segment.sealed) {
            let chain = crate::follow::chain_at(&drive, segment.last)?;
            sealed.extend(chain.map(|chain| (segment.first, segment.last, chain)));
        }
        bucket.begin_behind(sealed.into_iter())?;
        let archived = bucket.floor().last;
        drive.published.archived(archived);
        // Whoever brought it may have died before its slots went.
        let newest = crate::follow::segments(&drive).into_iter().find(|segment| segment.last == archived);
        unswept.extend(newest.map(|segment| Unswept { segment, compared: false }));
        Ok(Archiver { drive, bucket, unswept })
    }

    /// The last position that the store holds in sealed segments.
    pub fn position(&self) -> Position {
        self.bucket.floor().last
    }

    /// Ordinal of the first write behind them: the slots before it are deleted, or left over.
    pub fn ordinal(&self) -> u64 {
        self.bucket.floor().ordinal
    }

    /// How many sealed segments the store lacks.
    pub fn waiting(&self) -> usize {
        let archived = self.position();
        crate::follow::segments(&self.drive).iter().filter(|segment| segment.sealed && segment.first > archived).count()
    }

    /// The sealed segment that comes next, if there is one.
    pub fn next(&self) -> Option<SegmentInfo> {
        let first = self.position().next();
        crate::follow::segments(&self.drive).into_iter().find(|segment| segment.first == first && segment.sealed)
    }

    /// Brings the next sealed segment, if there is one and the store has it not; then the slots of what is there go.
    ///
    /// Errors: `Conflict` or `Corrupt` if another segment has its place, else those of the store; the step may be repeated.
    pub fn step(&mut self) -> Result<Archived> {
        let Some(segment) = self.next() else {
            self.sweep()?;
            return Ok(Archived::Idle);
        };
        let before = self.bucket.floor();
        let found = self.bucket.sealed(segment.first)?.is_some();
        if !found {
            // A log of its own must not seal over the slots of servers that have begun to share it.
            if !self.drive.is_shared() && crate::restore::is_shared(&*self.drive.parts.store)? {
                let message = "servers share the bucket's log now: this one is not brought there any more; stop this server, and \
                               start it with --log bucket on an empty directory";
                return Err(Error::new(crate::error::ErrorKind::Conflict, message));
            }
            if planted::is(PlantedBug::SlotsGoBeforeSegment) {
                self.delete_slots(&segment)?;
            }
            bring(&self.drive, segment.first)?;
        }
        let chain = crate::follow::chain_at(&self.drive, segment.last)?;
        self.bucket.begin_behind(chain.map(|chain| (segment.first, segment.last, chain)).into_iter())?;
        let floor = self.bucket.floor();
        if floor == before {
            return Err(Error::not_found(format!("{} is gone again", StoreKey::segment(segment.first))));
        }
        self.drive.published.archived(floor.last);
        self.unswept.push_back(Unswept { segment, compared: !found });
        self.sweep()?;
        Ok(if found { Archived::Found(floor.last) } else { Archived::Brought(floor.last) })
    }

    /// Deletes slots whose groups stand in segments. What fails is tried again by the next step, behind the next segment.
    fn sweep(&mut self) -> Result<()> {
        if !self.drive.is_shared() {
            self.unswept.clear();
        }
        while let Some(Unswept { segment, compared }) = self.unswept.front().copied() {
            // Another server has brought it: it deletes them once it has compared, unless it dies before.
            let there = compared || self.has_slots(&segment)?;
            if there && !compared {
                match self.compare(&segment) {
                    Err(error) if error.is_corrupt() => {
                        tracing::warn!(%error, "the slots of this segment are left to other servers");
                        self.unswept.pop_front();
                        continue;
                    }
                    compared => compared?,
                }
            }
            if there {
                self.delete_slots(&segment)?;
            }
            self.unswept.pop_front();
            if there && !compared {
                // And it may have left those before it too.
                let before =
                    crate::follow::segments(&self.drive).into_iter().find(|one| one.last.next() == segment.first);
                self.unswept.extend(before.map(|segment| Unswept { segment, compared: false }));
            }
        }
        Ok(())
    }

    /// Ordinals of a sealed segment: where the next one begins, its own end.
    fn ordinals(&self, segment: &SegmentInfo) -> Range<u64> {
        let shown = self.drive.published.look();
        let begin =
            |first| shown.segments.iter().find(|known| known.header.first == first).map(|known| known.header.sequence);
        begin(segment.first).unwrap_or(0)..begin(segment.last.next()).unwrap_or(0)
    }

    /// Whether the last slot is there: they are deleted in their order.
    fn has_slots(&self, segment: &SegmentInfo) -> Result<bool> {
        let Some(last) = self.ordinals(segment).last() else { return Ok(false) };
        match self.drive.parts.store.size(&StoreKey::slot(last)) {
            Err(error) if error.is_not_found() => Ok(false),
            sized => sized.map(|_| true),
        }
    }

    fn delete_slots(&self, segment: &SegmentInfo) -> Result<()> {
        let slots: Vec<StoreKey> = self.ordinals(segment).map(StoreKey::slot).collect();
        self.drive.parts.store.delete_all(&slots)
    }

    /// `Corrupt` unless the store has a segment's file byte for byte.
    fn compare(&self, segment: &SegmentInfo) -> Result<()> {
        let key = StoreKey::segment(segment.first);
        match differs(&self.drive, &*open(&self.drive, segment.first)?, &key)? {
            None => Ok(()),
            Some(at) => Err(Error::corrupt(key.as_str(), at, "it is not the segment that is here under that name")),
        }
    }
}

/// Puts a sealed segment's file under its key and compares what stands there then.
pub(crate) fn bring(drive: &Drive, first: Position) -> Result<()> {
    let store = &drive.parts.store;
    let key = StoreKey::segment(first);
    let file = open(drive, first)?;
    let len = file.len()?;
    if read_trailer(&*file, len, &mut 0)?.is_none() {
        return Err(Error::corrupt(file.path(), len, "a segment that was sealed has no sound footer"));
    }
    let mut staged = store.stage()?;
    for (at, count) in pieces(len) {
        staged.write(&read(&*file, at, count)?)?;
    }
    staged.commit(&key)?;
    match differs(drive, &*file, &key)? {
        None => Ok(()),
        Some(at) => Err(Error::corrupt(key.as_str(), at, "what was stored is not what was sent")),
    }
}

/// Compares a sealed segment here with the one in the store; where they differ, finds out which of them proves itself.
pub(crate) fn judge(drive: &Arc<Drive>, first: Position) -> Result<AtRest> {
    let (key, store) = (StoreKey::segment(first), drive.parts.store.clone());
    let missing = match differs(drive, &*open(drive, first)?, &key) {
        Ok(None) => return Ok(AtRest::Same),
        Ok(Some(_)) => false,
        Err(error) if error.is_not_found() => true,
        Err(error) => return Err(error),
    };
    let before =
        first.0.checked_sub(1).map(Position).map(|before| crate::follow::chain_at(drive, before)).transpose()?;
    let Some(before) = before.flatten() else {
        return Err(Error::corrupt(key.as_str(), 0, "the chained hash before it is not known"));
    };
    let place = (drive.log, first, before);
    let here = wrong(&*drive.parts.disk, &format!("{LOG_DIR}/{}", segment_name(first)), place)?;
    let there = if missing { None } else { wrong(&StoreFiles::new(store), key.as_str(), place)? };
    Ok(match (here, there) {
        (None, None) if missing => AtRest::Missing,
        // They differ where nobody looks.
        (None, None) => AtRest::Same,
        (None, Some(why)) => AtRest::There(why),
        (Some(why), None) if missing => AtRest::Neither(format!("{key} is gone, and {why}")),
        (Some(why), None) => AtRest::Here(why),
        (Some(here), Some(there)) => AtRest::Neither(format!("{there}; {here}")),
    })
}

/// What is wrong with a segment, if it does not prove itself.
fn wrong(disk: &dyn Disk, path: &str, place: (LogId, Position, ChainHash)) -> Result<Option<String>> {
    match doctor::prove_sealed(disk, path, place) {
        Ok(_) => Ok(None),
        Err(error) if error.is_corrupt() => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}

/// Where the store has other bytes than a file, if it does.
fn differs(drive: &Drive, file: &dyn DiskFile, key: &StoreKey) -> Result<Option<u64>> {
    let (store, len) = (&drive.parts.store, file.len()?);
    let there = store.size(key)?;
    for (at, count) in pieces(len.min(there)) {
        let (here, there) = (read(file, at, count)?, store.read(key, at, count)?);
        if let Some(offset) = here.iter().zip(&there).position(|(here, there)| here != there) {
            return Ok(Some(at + offset as u64));
        }
    }
    Ok((len != there).then(|| len.min(there)))
}

fn open(drive: &Drive, first: Position) -> Result<Box<dyn DiskFile>> {
    drive.parts.disk.open(&format!("{LOG_DIR}/{}", segment_name(first)))
}

fn read(file: &dyn DiskFile, at: u64, count: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size(count)];
    read_exact_at(file, &mut bytes, at)?;
    Ok(bytes)
}

/// Offset and length of every piece.
fn pieces(len: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..len.div_ceil(PIECE_BYTES)).map(move |at| (at * PIECE_BYTES, PIECE_BYTES.min(len - at * PIECE_BYTES)))
}

/// Bytes sent and compared at a time.
const PIECE_BYTES: u64 = 8 << 20;
