//! Rebuild: a whole new build of all projections from the log, by sorted runs and bulk load.
//!
//! Invariants: memory is bounded whatever the log's length (buffers of runs, one block per run in a merge); the rows that
//! come out are exactly the logical rows that folding event by event would leave; nothing gets a checkpoint before all of
//! it is loaded. It never touches the live store.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use reprise_engine::{
    Error, ErrorKind, Result,
    disk::Disk,
    id::{Position, RepoId},
};

use crate::{digest::Digest, models::Keyspace, projections::Checkpoint, source::Source, store::Store};

pub mod buffer;
pub mod feed;
pub mod merge;
pub mod read;
pub mod runs;
#[cfg(test)]
mod tests;

use feed::{Feed, Followed};
use merge::{LogicalRows, Merge, merge_into};
use runs::{FileRunWriter, Run};

/// Settings of a rebuild.
#[derive(Clone, Debug)]
pub struct RebuildOptions {
    /// Threads that read and decode the log.
    pub readers: usize,
    /// Bytes that one reader collects before it sorts and spills them.
    pub run_bytes: usize,
    /// Runs that are merged at once; with more, some are merged into one before.
    pub fan_in: usize,
    /// Treat the live generation as known bad: switch without comparing digests.
    pub live_is_bad: bool,
}

impl Default for RebuildOptions {
    fn default() -> RebuildOptions {
        RebuildOptions { readers: 2, run_bytes: 12 << 20, fan_in: 64, live_is_bad: false }
    }
}

/// How far a rebuild is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RebuildProgress {
    /// Events read.
    pub events_done: u64,
    /// Events in all.
    pub events_total: u64,
    /// Rows loaded.
    pub rows: u64,
    /// Bytes of rows collected.
    pub bytes: u64,
    /// Events per second so far.
    pub rate: f64,
    /// Seconds that are left, once that can be said.
    pub eta_seconds: Option<f64>,
}

/// What a rebuild did.
#[derive(Clone, PartialEq, Debug)]
pub struct RebuildReport {
    /// Name of the generation that was built; empty in memory.
    pub generation: String,
    /// Up to where it was built in bulk.
    pub position: Position,
    /// Events read.
    pub events: u64,
    /// Logical rows loaded.
    pub rows: u64,
    /// Its digest at `position`.
    pub digest: Digest,
    /// The live generation's digest there, if it was compared.
    pub live_digest: Option<Digest>,
    /// True if it is the live generation now.
    pub switched: bool,
    /// Seconds of reading, sorting and loading.
    pub build_seconds: f64,
    /// Seconds in all.
    pub seconds: f64,
}

/// Where a build goes.
pub struct Target<'a> {
    /// Takes the rows; empty. `None`: only the digest is wanted.
    pub store: Option<&'a dyn Store>,
    /// Where runs are spilled, and the prefix of their names; `None`: they stay in memory.
    pub spill: Option<(Arc<dyn Disk>, String)>,
    /// Asked several times a second: true ends the build with an error.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// Hears of progress, from any thread, at most ten times a second.
pub type Listener<'a> = &'a (dyn Fn(RebuildProgress) + Sync);

/// Reads the log up to `until`, loads all logical rows, returns their digest. Writes no checkpoint. Run files are gone
/// when it returns; rows may have been loaded even if it failed.
///
/// Errors: `Invalid` if `until` is not the end of a group; `Corrupt` for a damaged log or run file; `Unavailable` when
/// it was stopped.
pub fn build(
    source: &dyn Source,
    until: Checkpoint,
    target: &Target<'_>,
    options: &RebuildOptions,
    progress: Listener<'_>,
) -> Result<Digest> {
    let followed = Followed { source, until: until.position };
    build_from(source.feed().unwrap_or(&followed), until, target, options, progress)
}

/// The same from a log that is read by segments.
pub fn build_from(
    feed: &dyn Feed,
    until: Checkpoint,
    target: &Target<'_>,
    options: &RebuildOptions,
    progress: Listener<'_>,
) -> Result<Digest> {
    let meter = Meter::new(until.position, target.stop, progress);
    let threads = options.readers.clamp(1, READERS_MAX);
    let gathered = read::gather(feed, until, target, (threads, options.run_bytes.min(RUN_BYTES_MAX)), &meter)?;
    let runs = reduce(gathered.runs, target, options.fan_in.max(2), &meter)?;
    let digest = load_all(&runs, &gathered.live, until.position, target, (threads, &meter))?;
    meter.tell(true)?;
    Ok(digest)
}

/// Between the phases: merges the earliest runs until one merge can take all that are left.
fn reduce(mut runs: Vec<Run>, target: &Target<'_>, fan_in: usize, meter: &Meter<'_>) -> Result<Vec<Run>> {
    let Some(place) = &target.spill else { return Ok(runs) };
    let number = AtomicU64::new(MERGED_FROM);
    while runs.len() > fan_in {
        // As few as are needed: the last round takes `fan_in`.
        let some = (runs.len() - fan_in + 1).clamp(2, fan_in);
        let rest = runs.split_off(some);
        let one = merge_into(&runs, FileRunWriter::create(place, &number)?, meter)?;
        runs = rest;
        runs.push(one);
    }
    Ok(runs)
}

/// Phase two: keyspaces are loaded side by side, the largest first.
fn load_all(
    runs: &[Run],
    live: &[RepoId],
    until: Position,
    target: &Target<'_>,
    (threads, meter): (usize, &Meter<'_>),
) -> Result<Digest> {
    let load = |keyspace| -> Result<Digest> {
        let mut rows = LogicalRows::new(Merge::new(runs, keyspace)?, live, until, meter);
        let count = match target.store {
            Some(store) => store.ingest(&mut rows)?,
            None => count(&mut rows)?,
        };
        let digest = rows.into_digest();
        if count != digest.rows() {
            let text = format!("the store took {count} of {} rows of {keyspace:?}", digest.rows());
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        Ok(digest)
    };
    let next = AtomicUsize::new(0);
    let work = || {
        meter.guard((|| {
            let mut digest = Digest::empty(until);
            while let Some(keyspace) = LARGEST_FIRST.get(next.fetch_add(1, Relaxed)) {
                digest.merge(&load(*keyspace)?);
            }
            Ok(digest)
        })())
    };
    let parts: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().ok().flatten()).collect()
    });
    let mut digest = Digest::empty(until);
    for part in parts {
        digest.merge(&part.ok_or_else(|| meter.failure())?);
    }
    Ok(digest)
}

fn count(rows: &mut dyn crate::store::SortedRows) -> Result<u64> {
    let mut count = 0;
    while rows.next_row()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// Counts, tells now and then, and ends the work of all threads when it was stopped or one of them failed.
pub struct Meter<'a> {
    total: u64,
    events: AtomicU64,
    changes: AtomicU64,
    merged: AtomicU64,
    bytes: AtomicU64,
    started: Instant,
    told: Mutex<Duration>,
    ended: AtomicBool,
    failure: Mutex<Option<Error>>,
    stop: &'a (dyn Fn() -> bool + Sync),
    listener: Listener<'a>,
}

impl<'a> Meter<'a> {
    #[allow(clippy::disallowed_methods, reason = "rates for people need a monotonic clock; nothing is decided by it")]
    fn new(until: Position, stop: &'a (dyn Fn() -> bool + Sync), listener: Listener<'a>) -> Meter<'a> {
        let zero = || AtomicU64::new(0);
        Meter {
            total: until.0,
            events: zero(),
            changes: zero(),
            merged: zero(),
            bytes: zero(),
            started: Instant::now(),
            told: Mutex::new(Duration::ZERO),
            ended: AtomicBool::new(false),
            failure: Mutex::new(None),
            stop,
            listener,
        }
    }

    /// An event was folded into `changes` changes that take `bytes`.
    fn read(&self, changes: usize, bytes: usize) -> Result<()> {
        self.events.fetch_add(1, Relaxed);
        self.changes.fetch_add(changes as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.tell(false)
    }

    /// So many rows more were merged.
    fn loaded(&self, rows: u64) -> Result<()> {
        self.merged.fetch_add(rows, Relaxed);
        self.tell(false)
    }

    fn tell(&self, last: bool) -> Result<()> {
        if self.ended.load(Relaxed) {
            return Err(stopped());
        }
        let elapsed = self.started.elapsed();
        {
            let Ok(mut told) = self.told.try_lock() else { return Ok(()) };
            if !last && elapsed < *told + TELL_EVERY {
                return Ok(());
            }
            *told = elapsed;
        }
        if (self.stop)() {
            self.ended.store(true, Relaxed);
            return Err(stopped());
        }
        (self.listener)(self.progress(elapsed.as_secs_f64()));
        Ok(())
    }

    fn progress(&self, elapsed: f64) -> RebuildProgress {
        let (events_done, rows) = (self.events.load(Relaxed), self.merged.load(Relaxed));
        let share = |done: u64, all: u64| if all == 0 { 1.0 } else { (float(done) / float(all)).min(1.0) };
        let read = share(events_done, self.total);
        // How many changes there are is known once all is read; before that they are as many as the events say so far.
        let merged = if read < 1.0 { 0.0 } else { share(rows, self.changes.load(Relaxed)) };
        let done = READ_SHARE * read + (1.0 - READ_SHARE) * merged;
        RebuildProgress {
            events_done,
            events_total: self.total,
            rows,
            bytes: self.bytes.load(Relaxed),
            rate: if elapsed > 0.0 { float(events_done) / elapsed } else { 0.0 },
            eta_seconds: (done > 0.0).then(|| elapsed * (1.0 - done) / done),
        }
    }

    /// Keeps a thread's error and ends the others.
    fn guard<T>(&self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.ended.store(true, Relaxed);
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                None
            }
        }
    }

    /// The first error of any thread.
    fn failure(&self) -> Error {
        let first = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "a thread of the rebuild panicked"))
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the rebuild was stopped")
}

fn float(value: u64) -> f64 {
    u32::try_from(value).map_or_else(|_| f64::from(u32::MAX) * float(value >> 32), f64::from)
}

/// Commits and snapshots are many bytes but few rows: these two are the large ones.
const LARGEST_FIRST: [Keyspace; Keyspace::ALL.len()] =
    [Keyspace::MpackIndex, Keyspace::ObjectRefs, Keyspace::History, Keyspace::Small];
const READERS_MAX: usize = 16;
/// A buffer is addressed with 32 bits; the changes of one event come on top.
const RUN_BYTES_MAX: usize = 1 << 30;
/// Numbers of run files that were merged from others.
const MERGED_FROM: u64 = 500_000;
const TELL_EVERY: Duration = Duration::from_millis(100);
/// The part of the time that reading takes, roughly.
const READ_SHARE: f64 = 0.35;
