//! How far a command is, for whoever shows it: written by the threads that work, read by the one that shows.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unit {
    /// Files, records, blobs.
    #[default]
    Objects,
    /// Bytes.
    Bytes,
}

/// One part of a command's work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stage {
    /// What is being done, one word or two.
    pub what: &'static str,
    /// In what it is counted.
    pub unit: Unit,
    /// How much is done.
    pub done: u64,
    /// Of how much.
    pub total: u64,
}

/// The stage that the work is in.
#[derive(Default, Debug)]
pub struct Counter {
    stage: Mutex<Stage>,
    done: AtomicU64,
}

impl Counter {
    /// Nothing has begun.
    pub fn new() -> Counter {
        Counter::default()
    }

    /// A new stage begins; the one before is over.
    pub fn begin(&self, what: &'static str, unit: Unit, total: u64) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *stage = Stage { what, unit, done: 0, total };
        self.done.store(0, Ordering::Relaxed);
    }

    /// So much more was done.
    pub fn add(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    /// Where the work is.
    pub fn read(&self) -> Stage {
        let stage = *self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        Stage { done: self.done.load(Ordering::Relaxed), ..stage }
    }
}
