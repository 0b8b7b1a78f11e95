//! A log directory from nothing but the bucket.
//!
//! Invariants: every byte that comes is checked (frames, chain) before the directory counts as a log; begun again after an
//! interruption, it goes on behind the last whole segment; an existing log is never touched.

use crate::{
    disk::Disk,
    engine::{Durable, Held, Parts, SegmentInfo},
    error::{Error, ErrorKind, Result},
    id::LogId,
    log::{
        anchor::Anchor,
        bucket::BucketLog,
        files,
        refold::{self, Fold},
        repair::{self, Beginning},
        segment::segment_capacity,
        survey::survey_sealed,
    },
    mirror,
    store::{ObjectStore, StoreKey},
};

/// What was brought back.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Which log.
    pub log: LogId,
    /// Up to where the bucket had it in sealed segments: what came after that position is lost.
    pub archived: Durable,
    /// Its segments.
    pub segments: Vec<SegmentInfo>,
}

/// Refuses a directory that holds a log: nothing is brought into it.
pub fn ensure_no_log(disk: &dyn Disk) -> Result<()> {
    match files::read_anchor(disk)? {
        None => Ok(()),
        Some(_) => Err(Error::new(ErrorKind::Conflict, "the directory holds a log already: nothing was restored")),
    }
}

/// True if the bucket's log is one that servers share: then an opening brings it, its newest slots too.
///
/// Errors: `NotFound` if the bucket holds no log.
pub fn is_shared(store: &dyn ObjectStore) -> Result<bool> {
    mirror::read_mark(store)?.ok_or_else(no_log)?;
    match store.size(&StoreKey::shared()) {
        Err(error) if error.is_not_found() => Ok(false),
        sized => sized.map(|_| true),
    }
}

/// Brings the sealed segments of a log that one server wrote into the directory of `parts`, which the caller holds, checks every
/// frame, and ends the log behind them. `each` hears of every segment.
///
/// Errors: `Conflict` if the directory holds a log, `NotFound` if the bucket holds none.
pub fn restore(parts: &Parts, _held: &Held, each: &mut dyn FnMut(&SegmentInfo)) -> Result<Restored> {
    let disk = &*parts.disk;
    ensure_no_log(disk)?;
    let log = mirror::read_mark(&*parts.store)?.ok_or_else(no_log)?;
    let mut bytes_read = 0;
    let kept = survey_sealed(disk, log, &mut bytes_read)?;
    let mut bucket = mirror::sealed_like(parts, log, &kept)?;
    mirror::discard_unsealed(disk, &kept)?;
    mirror::fetch_sealed(parts, &mut bucket, &kept)?;
    let (fold, segments) = check(disk, log, &bucket, each)?;
    let beginning = Beginning {
        log,
        first: fold.durable.position.next(),
        sequence: fold.sequence,
        previous: fold.durable.chain,
        time_ms: fold.time_ms,
        capacity: segment_capacity(segments.len() as u64, crate::limits::SEGMENT_BYTES_DEFAULT),
    };
    repair::new_segment(disk, &*parts.random, &beginning, None)?;
    files::write_anchor(disk, &Anchor { log, durable: fold.durable })?;
    Ok(Restored { log, archived: fold.durable, segments })
}

fn no_log() -> Error {
    Error::not_found(format!("{} is not there: the bucket holds no log", StoreKey::mark()))
}

/// Reads every frame of what was brought.
fn check(
    disk: &dyn Disk,
    log: LogId,
    bucket: &BucketLog,
    each: &mut dyn FnMut(&SegmentInfo),
) -> Result<(Fold, Vec<SegmentInfo>)> {
    let found = survey_sealed(disk, log, &mut 0)?;
    let (mut fold, mut segments) = (Fold::empty(), Vec::new());
    for segment in &found.segments {
        let Some(trailer) = &segment.trailer else { continue };
        refold::walk_copy(disk, segment, trailer, &mut fold)?;
        let info = SegmentInfo { first: trailer.first, last: trailer.last, bytes: segment.len, sealed: true };
        each(&info);
        segments.push(info);
    }
    if fold.durable.position != bucket.floor().last {
        let message =
            format!("the bucket has the log up to {}, here it ends at {}", bucket.floor().last, fold.durable.position);
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok((fold, segments))
}
