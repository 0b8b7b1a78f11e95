//! Rebuild: a whole new build of all projections from the log, by sorted runs and bulk load.
//!
//! Invariants: memory is bounded whatever the log's length (buffers of runs, one block per run in a merge); the rows that
//! come out are exactly the logical rows that folding event by event would leave; nothing gets a checkpoint before all of
//! it is loaded. It never touches the live store.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use reprise_engine::{
    Error, ErrorKind, Result,
    disk::Disk,
    id::{Position, RepoId},
};

use crate::{
    digest::Digest,
    models::{self, Model},
    projections::Checkpoint,
    source::Source,
    store::Store,
};

pub mod merge;
pub mod runs;

use merge::{LogicalRows, Merge, merge_into};
use runs::{FileRunWriter, Run, RunBuilder};

/// Settings of a rebuild.
#[derive(Clone, Debug)]
pub struct RebuildOptions {
    /// Threads that read and decode the log.
    pub readers: usize,
    /// Bytes that one reader collects before it sorts and spills them.
    pub run_bytes: usize,
    /// Treat the live generation as known bad: switch without comparing digests.
    pub live_is_bad: bool,
}

impl Default for RebuildOptions {
    fn default() -> RebuildOptions {
        RebuildOptions { readers: 2, run_bytes: 12 << 20, live_is_bad: false }
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
}

/// Hears of progress, from any thread.
pub type Listener<'a> = &'a (dyn Fn(RebuildProgress) + Sync);

/// Reads the log up to `until`, loads all logical rows, returns their digest. Writes no checkpoint.
pub fn build(
    source: &dyn Source,
    until: Checkpoint,
    target: &Target<'_>,
    options: &RebuildOptions,
    progress: Listener<'_>,
) -> Result<Digest> {
    let meter = Meter::new(until.position, progress);
    let (runs, live) = read_all(source, until.position, target, options, &meter)?;
    let runs = reduce(runs, target)?;
    let digest = load_all(&runs, &live, until.position, target, &meter)?;
    meter.tell(true);
    Ok(digest)
}

/// The latest word of the log about each repository: where, and whether it lives.
type Said = BTreeMap<RepoId, (Position, bool)>;

/// Phase one: readers take stretches of the log in turn and leave sorted runs.
fn read_all(
    source: &dyn Source,
    until: Position,
    target: &Target<'_>,
    options: &RebuildOptions,
    meter: &Meter<'_>,
) -> Result<(Vec<Run>, Vec<RepoId>)> {
    let readers = options.readers.clamp(1, READERS_MAX);
    let stretch = (until.0 / (readers as u64 * STRETCHES_PER_READER)).max(1);
    let next = AtomicU64::new(1);
    let runs_written = AtomicU64::new(0);
    let reader = || -> Result<(Vec<Run>, Said)> {
        let mut builder = RunBuilder::default();
        let mut runs = Vec::new();
        loop {
            let first = next.fetch_add(stretch, Relaxed);
            if first > until.0 {
                break;
            }
            let last = (first + stretch - 1).min(until.0);
            read_stretch(source, first..=last, meter, &mut builder, &mut |builder| {
                if builder.held_bytes() >= options.run_bytes && target.spill.is_some() {
                    runs.push(spill(builder, target, &runs_written)?);
                }
                Ok(())
            })?;
        }
        if !builder.is_empty() {
            runs.push(Run::Memory(builder.take_run()));
        }
        Ok((runs, builder.repos))
    };
    let done: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..readers).map(|_| scope.spawn(reader)).collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(|_| Err(panicked()))).collect()
    });
    let mut runs = Vec::new();
    let mut repos = Said::new();
    for part in done {
        let (more, said) = part?;
        runs.extend(more);
        for (repo, word) in said {
            let latest = repos.entry(repo).or_insert(word);
            *latest = (*latest).max(word);
        }
    }
    let live = repos.into_iter().filter(|(_, (_, live))| *live).map(|(repo, _)| repo).collect();
    Ok((runs, live))
}

fn read_stretch(
    source: &dyn Source,
    stretch: RangeInclusive<u64>,
    meter: &Meter<'_>,
    builder: &mut RunBuilder,
    full: &mut dyn FnMut(&mut RunBuilder) -> Result<()>,
) -> Result<()> {
    let mut groups = source.follow(Position(*stretch.start()))?;
    let mut expected = *stretch.start();
    while expected <= *stretch.end() {
        let Some(group) = groups.next(READ_WAIT)? else {
            return Err(Error::new(ErrorKind::Unavailable, format!("the log does not give the event at {expected}")));
        };
        for event in group.events.iter() {
            if !stretch.contains(&event.position.0) {
                continue;
            }
            if event.position.0 != expected {
                let found = event.position;
                return Err(Error::corrupt("log", 0, format!("event {found} where {expected} comes next")));
            }
            let before = builder.held_bytes();
            builder.begin(event.position);
            models::fold(event, builder);
            expected += 1;
            meter.read(1, builder.held_bytes() - before);
            full(builder)?;
        }
    }
    Ok(())
}

fn spill(builder: &mut RunBuilder, target: &Target<'_>, written: &AtomicU64) -> Result<Run> {
    let run = Run::Memory(builder.take_run());
    let Some(writer) = run_writer(target, written)? else { return Ok(run) };
    merge_into(&[run], writer)
}

fn run_writer(target: &Target<'_>, written: &AtomicU64) -> Result<Option<FileRunWriter>> {
    let Some((disk, prefix)) = &target.spill else { return Ok(None) };
    let number = written.fetch_add(1, Relaxed);
    FileRunWriter::create(disk, format!("{prefix}run-{number:06}")).map(Some)
}

/// Between the phases: merges the earliest runs until one merge can take all that are left.
fn reduce(mut runs: Vec<Run>, target: &Target<'_>) -> Result<Vec<Run>> {
    let merged = AtomicU64::new(MERGED_FROM);
    while runs.len() > FAN_IN_MAX {
        let Some(writer) = run_writer(target, &merged)? else { break };
        let rest = runs.split_off(FAN_IN_MAX);
        let one = merge_into(&runs, writer)?;
        runs = rest;
        runs.push(one);
    }
    Ok(runs)
}

/// Phase two: two loads side by side, one of them the largest projection alone.
fn load_all(runs: &[Run], live: &[RepoId], until: Position, target: &Target<'_>, meter: &Meter<'_>) -> Result<Digest> {
    let loaded = |rows| meter.loaded(rows);
    let load = |from, end| -> Result<Digest> {
        let merge = Merge::new(runs, from, end)?;
        let mut rows = LogicalRows::new(merge, live, Digest::empty(until), &loaded);
        match target.store {
            Some(store) => store.ingest(&mut rows)?,
            None => count(&mut rows)?,
        };
        Ok(rows.into_digest())
    };
    let (small, large) = std::thread::scope(|scope| {
        let large = scope.spawn(|| load(Model::MpackIndex, None));
        let small = load(Model::Repos, Some(Model::MpackIndex));
        (small, large.join().unwrap_or_else(|_| Err(panicked())))
    });
    let mut digest = small?;
    digest.merge(&large?);
    Ok(digest)
}

fn count(rows: &mut dyn crate::store::SortedRows) -> Result<u64> {
    let mut count = 0;
    while rows.next_row()?.is_some() {
        count += 1;
    }
    Ok(count)
}

fn panicked() -> Error {
    Error::new(ErrorKind::Unavailable, "a thread of the rebuild panicked")
}

/// Counts, and tells now and then.
struct Meter<'a> {
    total: u64,
    events: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
    started: Instant,
    told: Mutex<Instant>,
    listener: Listener<'a>,
}

impl<'a> Meter<'a> {
    #[allow(clippy::disallowed_methods, reason = "rates for people need a monotonic clock; nothing is decided by it")]
    fn new(until: Position, listener: Listener<'a>) -> Meter<'a> {
        let now = Instant::now();
        Meter {
            total: until.0,
            events: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            started: now,
            told: Mutex::new(now),
            listener,
        }
    }

    fn read(&self, events: u64, bytes: usize) {
        self.events.fetch_add(events, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.tell(false);
    }

    fn loaded(&self, rows: u64) {
        self.rows.fetch_add(rows, Relaxed);
        self.tell(false);
    }

    fn tell(&self, last: bool) {
        let elapsed = self.started.elapsed().as_secs_f64();
        {
            let Ok(mut told) = self.told.try_lock() else { return };
            if !last && told.elapsed() < TELL_EVERY {
                return;
            }
            *told = self.started + Duration::from_secs_f64(elapsed);
        }
        let events_done = self.events.load(Relaxed);
        let done = u32::try_from(events_done).map_or(f64::from(u32::MAX), f64::from);
        let left = u32::try_from(self.total.saturating_sub(events_done)).map_or(f64::from(u32::MAX), f64::from);
        let rate = if elapsed > 0.0 { done / elapsed } else { 0.0 };
        (self.listener)(RebuildProgress {
            events_done,
            events_total: self.total,
            rows: self.rows.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            rate,
            // Loading takes about as long as reading.
            eta_seconds: (rate > 0.0).then(|| left / rate * 2.0),
        });
    }
}

const READERS_MAX: usize = 16;
const STRETCHES_PER_READER: u64 = 8;
const FAN_IN_MAX: usize = 128;
const MERGED_FROM: u64 = 500_000;
const READ_WAIT: Duration = Duration::from_secs(10);
const TELL_EVERY: Duration = Duration::from_millis(100);
