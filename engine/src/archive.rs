//! Bringing sealed segments of the log into the object store, in their order, each verified before the next.
//!
//! Invariants: a segment is put there once and never replaced; it counts as archived after its bytes were read back and
//! compared; slots go only after the segment that holds their groups counts. One step at a time, no thread and no clock:
//! who calls it decides when.

use std::sync::Arc;

use crate::{
    disk::read_exact_at,
    engine::SegmentInfo,
    error::{Error, Result},
    id::Position,
    log::{bucket::BucketLog, drive::Drive, fields::size, files::LOG_DIR, header::segment_name, survey::read_trailer},
    store::StoreKey,
};

/// Where the log is sealed in the object store, and what is to be brought there.
pub struct Archiver {
    drive: Arc<Drive>,
    bucket: BucketLog,
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
        let mut sealed = Vec::new();
        for segment in crate::follow::segments(&drive).iter().rev().filter(|segment| segment.sealed) {
            let chain = crate::follow::chain_at(&drive, segment.last)?;
            sealed.extend(chain.map(|chain| (segment.first, segment.last, chain)));
        }
        bucket.begin_behind(sealed.into_iter())?;
        drive.published.archived(bucket.floor().last);
        Ok(Archiver { drive, bucket })
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

    /// Brings the next sealed segment, if there is one and the store has it not.
    ///
    /// Errors: `Conflict` or `Corrupt` if another segment has its place, else those of the store; the step may be repeated.
    pub fn step(&mut self) -> Result<Archived> {
        let Some(segment) = self.next() else { return Ok(Archived::Idle) };
        let before = self.bucket.floor();
        let found = self.bucket.sealed(segment.first)?.is_some();
        if !found {
            self.bring(&segment)?;
        }
        let chain = crate::follow::chain_at(&self.drive, segment.last)?;
        self.bucket.begin_behind(chain.map(|chain| (segment.first, segment.last, chain)).into_iter())?;
        let floor = self.bucket.floor();
        if floor == before {
            return Err(Error::not_found(format!("{} is gone again", StoreKey::segment(segment.first))));
        }
        self.drive.published.archived(floor.last);
        if found {
            return Ok(Archived::Found(floor.last));
        }
        if self.drive.is_shared() {
            let slots: Vec<StoreKey> = (before.ordinal..floor.ordinal).map(StoreKey::slot).collect();
            self.drive.parts.store.delete_all(&slots)?;
        }
        Ok(Archived::Brought(floor.last))
    }

    /// Puts a segment's file under its key and compares what stands there then.
    fn bring(&self, segment: &SegmentInfo) -> Result<()> {
        let (disk, store) = (&self.drive.parts.disk, &self.drive.parts.store);
        let key = StoreKey::segment(segment.first);
        let file = disk.open(&format!("{LOG_DIR}/{}", segment_name(segment.first)))?;
        let len = file.len()?;
        if read_trailer(&*file, len, &mut 0)?.is_none() {
            return Err(Error::corrupt(file.path(), len, "a segment that was sealed has no sound footer"));
        }
        let pieces =
            || (0..len.div_ceil(PIECE_BYTES)).map(|at| (at * PIECE_BYTES, PIECE_BYTES.min(len - at * PIECE_BYTES)));
        let mut staged = store.stage()?;
        for (at, count) in pieces() {
            let mut bytes = vec![0; size(count)];
            read_exact_at(&*file, &mut bytes, at)?;
            staged.write(&bytes)?;
        }
        staged.commit(&key)?;
        for (at, count) in pieces() {
            let mut bytes = vec![0; size(count)];
            read_exact_at(&*file, &mut bytes, at)?;
            if store.read(&key, at, count)? != bytes {
                return Err(Error::corrupt(key.as_str(), at, "what was stored is not what was sent"));
            }
        }
        Ok(())
    }
}

/// Bytes sent and compared at a time.
const PIECE_BYTES: u64 = 8 << 20;
