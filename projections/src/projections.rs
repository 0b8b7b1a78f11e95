//! The handle: opens the live generation, drives the projector, answers reads, rebuilds.
//!
//! Invariants: what [`Projections::view`] shows never goes backwards, and shows nothing before everything that was durable
//! at the start is folded; whoever waits for a position is woken after the view that shows it is in place. Dropping the
//! last handle without [`Projections::shutdown`] is an unclean stop.
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reprise_engine::{
    Error, ErrorKind, Result,
    engine::Engine,
    id::{ChainHash, Position},
};

use crate::{
    driver, models,
    rebuild::{Listener, RebuildOptions, RebuildReport},
    shared::Inner,
    source::Source,
    store::{Batch, Store, memory::MemoryStore},
    switch,
    view::View,
};

/// How far the projections are folded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Last folded position.
    pub position: Position,
    /// The log's chained hash there.
    pub chain: ChainHash,
}

impl Checkpoint {
    /// Before the first event.
    pub const START: Checkpoint = Checkpoint { position: Position::ZERO, chain: ChainHash([0; 32]) };
}

/// Settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the generations (`DATA/index`); `None`: in memory.
    pub dir: Option<PathBuf>,
    /// Block cache, bytes.
    pub cache_bytes: u64,
    /// Memtables together, bytes.
    pub memtable_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { dir: None, cache_bytes: 24 << 20, memtable_bytes: 32 << 20 }
    }
}

/// Distance to the end of the log.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Lag {
    /// Events not yet folded.
    pub events: u64,
    /// Age of the oldest of them, seconds.
    pub seconds: f64,
}

/// How the projections are, for `status`, `/ready` and `/health`.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct Status {
    /// Name of the live generation.
    pub generation: String,
    /// Last folded position.
    pub position: u64,
    /// End of the log.
    pub durable: u64,
    /// `ready`, `catching-up`, `rebuilding`, `stopped`.
    pub state: String,
    /// Why it is not `ready`, or what happened at open (rebuilt because …); empty if nothing.
    pub reason: String,
    /// Repositories that a fold rejected.
    pub parked: u64,
    /// True if the log seems to have lost events that an index had.
    pub possible_loss: bool,
    /// Rebuild in progress: events done.
    pub rebuild_done: Option<u64>,
    /// Rebuild in progress: events in all.
    pub rebuild_total: Option<u64>,
}

/// The live projections. Cheap to clone.
#[derive(Clone)]
pub struct Projections {
    inner: Arc<Inner>,
    // The threads hold `inner` too: they are told to stop when the last handle goes.
    _threads: Arc<Threads>,
}

struct Threads {
    inner: Arc<Inner>,
    handles: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Threads {
    fn stop(&self) {
        self.inner.stop();
        let handles = std::mem::take(&mut *self.handles.lock().unwrap_or_else(PoisonError::into_inner));
        let me = std::thread::current().id();
        for handle in handles.into_iter().filter(|handle| handle.thread().id() != me) {
            if handle.join().is_err() {
                tracing::error!("a thread of the projections had panicked");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
        self.inner.close("the projections are closed");
    }
}

impl Projections {
    /// Opens the live generation, or rebuilds it when it cannot be trusted, and starts the projector. Returns at once:
    /// catching up goes on in the background ([`Projections::status`], [`Projections::wait_folded`]).
    pub fn open(engine: Engine, options: Options) -> Result<Projections> {
        Projections::open_source(Arc::new(engine), options)
    }

    /// The same over any log.
    pub fn open_source(source: Arc<dyn Source>, options: Options) -> Result<Projections> {
        let inner = Arc::new(Inner::new(source, options)?);
        let handles = vec![
            driver::spawn("reprise-projector", &inner, driver::project)?,
            driver::spawn("reprise-index-flush", &inner, driver::flush_now_and_then)?,
        ];
        let threads = Arc::new(Threads { inner: Arc::clone(&inner), handles: Mutex::new(handles) });
        // Most openings are done in a few milliseconds; only the others are seen catching up.
        inner.wait_served(Position::ZERO, OPEN_WAIT);
        Ok(Projections { inner, _threads: threads })
    }

    /// A consistent snapshot of all projections at one checkpoint. Cheap.
    pub fn view(&self) -> View {
        self.inner.view()
    }

    /// How far it is folded.
    pub fn folded(&self) -> Checkpoint {
        self.inner.folded()
    }

    /// Waits until `position` is folded; false if `wait` passed first.
    pub fn wait_folded(&self, position: Position, wait: Duration) -> bool {
        self.inner.wait_served(position, wait)
    }

    /// Calls `then` once `position` is folded (at once if it is). Must not block. Dropped uncalled at shutdown, and at once
    /// when 10,000 others wait already.
    pub fn when_folded(&self, position: Position, then: Box<dyn FnOnce() + Send>) {
        self.inner.when_served(position, then);
    }

    /// Distance to the end of the log.
    pub fn lag(&self) -> Lag {
        self.inner.lag()
    }

    /// For people and probes.
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// Builds a whole new generation from the log beside the live one and switches to it if their digests are equal at
    /// the same position, or if the live one is known bad or cannot be read. Serving goes on meanwhile.
    ///
    /// Errors: `Busy` while another generation is opened or built; `Unavailable` if the live one failed meanwhile (then the
    /// projector builds by itself) or the new one could not take over (then the live one goes on).
    pub fn rebuild(&self, options: &RebuildOptions, progress: Listener<'_>) -> Result<RebuildReport> {
        switch::rebuild(&self.inner, options, progress)
    }

    /// All projections as they were after the event at `position`, in memory. For people: nothing bounds its size but
    /// the log's.
    pub fn build_at(&self, position: Position) -> Result<View> {
        build_at(self.inner.source(), position)
    }

    /// Stops the projector, flushes, records the flush.
    pub fn shutdown(&self) -> Result<()> {
        self._threads.stop();
        let flushed = self.inner.flush_and_mark_clean();
        self.inner.close("the projections are shut down");
        flushed
    }
}

/// All projections of a log after the event at `position`, in memory.
pub fn build_at(source: &dyn Source, position: Position) -> Result<View> {
    let durable = source.durable().position;
    if position > durable {
        return Err(Error::invalid(format!("position {position} is beyond the end of the log, {durable}")));
    }
    let store = MemoryStore::new();
    let mut groups = source.follow(Position(1))?;
    let mut folded = Position::ZERO;
    let mut chain = Checkpoint::START.chain;
    while folded < position {
        let Some(group) = groups.next(READ_WAIT)? else {
            let text = format!("the log does not give the event at {}", folded.next());
            return Err(Error::new(ErrorKind::Unavailable, text));
        };
        let mut batch = Batch::new();
        for event in group.events.iter().filter(|event| event.position <= position) {
            models::fold(event, &mut batch);
            folded = event.position;
        }
        chain = group.chain;
        store.apply(&batch, Some(Checkpoint { position: folded, chain }))?;
    }
    store.apply(&Batch::new(), Some(Checkpoint { position, chain }))?;
    View::of_snapshot(store.snapshot()?)
}

const OPEN_WAIT: Duration = Duration::from_millis(200);
const READ_WAIT: Duration = Duration::from_secs(10);
