//! The handle: opens the live generation, drives the projector, answers reads, rebuilds.
use std::{path::PathBuf, time::Duration};

use reprise_engine::{
    Result,
    engine::Engine,
    id::{ChainHash, Position},
};

use crate::view::View;

/// How far the projections are folded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Last folded position.
    pub position: Position,
    /// The log's chained hash there.
    pub chain: ChainHash,
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
pub struct Projections;

impl Projections {
    /// Opens the live generation, or rebuilds it when it cannot be trusted, and starts the projector. Returns at once:
    /// catching up goes on in the background ([`Projections::status`], [`Projections::wait_folded`]).
    pub fn open(engine: Engine, options: Options) -> Result<Projections> {
        let _ = (engine, options);
        todo!()
    }

    /// A consistent snapshot of all projections at one checkpoint. Cheap.
    pub fn view(&self) -> View {
        todo!()
    }

    /// How far it is folded.
    pub fn folded(&self) -> Checkpoint {
        todo!()
    }

    /// Waits until `position` is folded; false if `wait` passed first.
    pub fn wait_folded(&self, position: Position, wait: Duration) -> bool {
        let _ = (position, wait);
        todo!()
    }

    /// Calls `then` once `position` is folded (at once if it is). Must not block. Dropped uncalled at shutdown.
    pub fn when_folded(&self, position: Position, then: Box<dyn FnOnce() + Send>) {
        let _ = (position, then);
        todo!()
    }

    /// Distance to the end of the log.
    pub fn lag(&self) -> Lag {
        todo!()
    }

    /// For people and probes.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Stops the projector, flushes, records the flush.
    pub fn shutdown(&self) -> Result<()> {
        todo!()
    }
}
