//! A log, and what its index was at several moments of its life: while it was in use, after a clean stop, after an unclean one.
//!
//! Invariants: the same seed gives the same proposals and the same stops (what the store's own threads did by then may differ);
//! the log is the one at the end of the story, whole.

use std::{path::Path, sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng};
use reprise_engine::{
    clock::{ManualClock, SeededRandom},
    disk::real::RealDisk,
    engine::{Driver, Engine, Options, Outcome, Parts, Proposal},
    store::directory::DirectoryStore,
};
use reprise_projections::{Projections, RebuildOptions};

use super::image::Image;
use crate::{faults::run::NOW_MS, history::History, scratch, seeds};

/// Where a data directory has its index.
pub const INDEX: &str = "index";

/// A story and its remains.
pub struct Past {
    /// The data directory without its index.
    pub log: Image,
    /// The index at moments, first to last.
    pub moments: Vec<Moment>,
}

/// The index at a moment.
pub struct Moment {
    /// Its directory.
    pub index: Image,
    /// Up to where it was folded.
    pub position: u64,
    /// How it was left.
    pub left: Left,
}

/// How an index was left at a moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Left {
    /// The process was still at work, as when it is killed then.
    InUse,
    /// Nobody has it open, and nobody closed it.
    Unclean,
    /// Shut down.
    Clean,
}

impl Past {
    /// The story that belongs to `seed`.
    pub fn of(seed: u64) -> Past {
        let data = scratch::dir();
        let mut random = seeds::random(seed, STORY_STREAM);
        let mut history = History::new(seed);
        let engine = open_log(data.path(), seed);
        let mut moments = Vec::new();
        for _ in 0..random.random_range(4..8) {
            let index = open_index(&engine, data.path());
            let mut note = |left, position| {
                moments.push(Moment { index: Image::of(&data.path().join(INDEX)), position, left });
            };
            for _ in 0..random.random_range(1..3) {
                let proposals = random.random_range(5..30);
                history.by_ref().take(proposals).for_each(|proposal| append(&engine, proposal));
                note(Left::InUse, caught_up(&engine, &index));
            }
            note(stop(index, &mut random), engine.durable().position.0);
        }
        engine.shutdown().unwrap();
        drop(engine);
        let mut log = Image::of(data.path());
        log.remove_dir(INDEX);
        Past { log, moments }
    }
}

/// A life of the index ends: sometimes after a rebuild, cleanly or not.
fn stop(index: Projections, random: &mut StdRng) -> Left {
    if random.random_bool(0.2) {
        assert!(index.rebuild(&RebuildOptions::default(), &|_| {}).unwrap().switched);
    }
    if random.random_bool(0.4) {
        return Left::Unclean;
    }
    index.shutdown().unwrap();
    Left::Clean
}

/// Opens the log of a data directory, with segments so small that there are several.
pub fn open_log(data: &Path, seed: u64) -> Engine {
    let random = Arc::new(SeededRandom::new(seed));
    let store = DirectoryStore::new(Arc::new(RealDisk::new(data.join("objects"))), random.clone());
    let disk = Arc::new(RealDisk::new(data.to_path_buf()));
    let parts = Parts { disk, store: Arc::new(store), clock: Arc::new(ManualClock::new(NOW_MS)), random };
    let options = Options { segment_bytes: 64 << 10, driver: Driver::Inline, ..Options::new("a trial") };
    Engine::open(parts, options).unwrap().0
}

/// Opens its index, as the server does.
pub fn open_index(engine: &Engine, data: &Path) -> Projections {
    let dir = Some(data.join(INDEX));
    let options = reprise_projections::Options { dir, cache_bytes: 4 << 20, memtable_bytes: 4 << 20 };
    Projections::open(engine.clone(), options).unwrap()
}

/// Appends a proposal, which must be accepted.
pub fn append(engine: &Engine, proposal: Proposal) {
    let outcome = engine.propose_and_wait(proposal);
    assert!(matches!(outcome, Outcome::Done { repeated: false, .. }), "{outcome:?}");
}

/// Waits until the index shows the end of the log; where that is.
pub fn caught_up(engine: &Engine, index: &Projections) -> u64 {
    let end = engine.durable().position;
    assert!(index.wait_folded(end, PATIENCE), "{:?}", index.status());
    end.0
}

/// What an index may need to catch up; nothing takes so long.
pub const PATIENCE: Duration = Duration::from_secs(30);
const STORY_STREAM: u64 = 0x5041_5354;
