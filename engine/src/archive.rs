//! Bringing sealed segments of the log into the object store, in their order, each verified before the next.
//!
//! Invariants: a segment is put there once and never replaced; it counts as archived after its bytes were read back and
//! compared; slots go only after the segment that holds their groups was compared by whoever deletes them, and they go even if
//! the server that brought it died. One step at a time, no thread and no clock: who calls it decides when.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use crate::{
    disk::{DiskFile, read_exact_at},
    engine::SegmentInfo,
    error::{Error, Result},
    id::Position,
    log::{bucket::BucketLog, drive::Drive, fields::size, files::LOG_DIR, header::segment_name, survey::read_trailer},
    planted::{self, PlantedBug},
    store::StoreKey,
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
            if planted::is(PlantedBug::SlotsGoBeforeSegment) {
                self.delete_slots(&segment)?;
            }
            self.bring(&segment)?;
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
                self.compare(&segment)?;
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

    /// Puts a segment's file under its key and compares what stands there then.
    fn bring(&self, segment: &SegmentInfo) -> Result<()> {
        let key = StoreKey::segment(segment.first);
        let file = self.open(segment)?;
        let len = file.len()?;
        if read_trailer(&*file, len, &mut 0)?.is_none() {
            return Err(Error::corrupt(file.path(), len, "a segment that was sealed has no sound footer"));
        }
        let mut staged = self.drive.parts.store.stage()?;
        for (at, count) in pieces(len) {
            let mut bytes = vec![0; size(count)];
            read_exact_at(&*file, &mut bytes, at)?;
            staged.write(&bytes)?;
        }
        staged.commit(&key)?;
        self.compare(segment)
    }

    /// `Corrupt` unless the store has a segment's file byte for byte.
    fn compare(&self, segment: &SegmentInfo) -> Result<()> {
        let key = StoreKey::segment(segment.first);
        let file = self.open(segment)?;
        for (at, count) in pieces(file.len()?) {
            let mut bytes = vec![0; size(count)];
            read_exact_at(&*file, &mut bytes, at)?;
            if self.drive.parts.store.read(&key, at, count)? != bytes {
                return Err(Error::corrupt(key.as_str(), at, "what was stored is not what was sent"));
            }
        }
        Ok(())
    }

    fn open(&self, segment: &SegmentInfo) -> Result<Box<dyn DiskFile>> {
        self.drive.parts.disk.open(&format!("{LOG_DIR}/{}", segment_name(segment.first)))
    }
}

/// Offset and length of every piece.
fn pieces(len: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..len.div_ceil(PIECE_BYTES)).map(move |at| (at * PIECE_BYTES, PIECE_BYTES.min(len - at * PIECE_BYTES)))
}

/// Bytes sent and compared at a time.
const PIECE_BYTES: u64 = 8 << 20;
