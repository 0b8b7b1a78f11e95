//! Planted bugs of the projections: the tests of equality and of dying must find them (T9).
//!
//! In a binary of its own: no other test may run while a bug is planted.
#![cfg(feature = "planted-bugs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod history;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
    mpsc::channel,
};

use history::*;
use reprise_engine::{
    Error, Result,
    planted::{PlantedBug, is, turn},
};
use reprise_projections::{
    Model,
    projections::Checkpoint,
    store::{Batch, Snapshot, SortedRows, Stamp, Store, memory::MemoryStore},
};

/// A store whose k-th apply fails, as a process that dies there.
struct Dying {
    store: MemoryStore,
    left: AtomicUsize,
}

impl Store for Dying {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        self.store.snapshot()
    }

    fn apply(&self, batch: &Batch, checkpoint: Option<Checkpoint>) -> Result<()> {
        if self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err() {
            return Err(Error::invalid("the process died"));
        }
        self.store.apply(batch, checkpoint)
    }

    fn ingest(&self, rows: &mut dyn SortedRows) -> Result<u64> {
        self.store.ingest(rows)
    }

    fn flush(&self, stamp: Stamp) -> Result<()> {
        self.store.flush(stamp)
    }
}

fn every_death_is_survived() -> bool {
    let log = random_history(11, 12);
    let expected = reference(&log);
    (0..30).all(|applies| {
        let store = Arc::new(Dying { store: MemoryStore::new(), left: applies.into() });
        if fold_live(&log, store.clone(), Checkpoint::START, || true).is_ok() {
            return digest(&*store) == expected;
        }
        let from = store.snapshot().unwrap().checkpoint().unwrap().unwrap_or(Checkpoint::START);
        store.left.store(usize::MAX, SeqCst);
        fold_live(&log, store.clone(), from, || true).unwrap();
        digest(&*store) == expected
    })
}

#[test]
fn a_checkpoint_outside_the_batch_is_found() {
    let turn = turn();
    assert!(every_death_is_survived());
    let _planted = turn.plant(PlantedBug::CheckpointOutsideBatch);
    assert!(!every_death_is_survived());
}

#[test]
fn a_fold_that_forgets_object_refs_is_found() {
    let turn = turn();
    let log = random_history(12, 60);
    assert!(reference(&log).rows_of(Model::ObjectRefs) > 0, "the history has objects to forget");
    let right = reference(&log);
    let _planted = turn.plant(PlantedBug::FoldForgetsObjectRefs);
    assert_ne!(reference(&log), right);
}

#[test]
fn nobody_plants_while_another_test_has_the_turn_even_before_it_plants() {
    let here = turn();
    let (sender, receiver) = channel();
    let other = std::thread::spawn(move || {
        let there = turn();
        let _planted = there.plant(PlantedBug::CheckpointOutsideBatch);
        sender.send(is(PlantedBug::FoldForgetsObjectRefs)).unwrap();
    });
    assert!(receiver.recv_timeout(std::time::Duration::from_millis(50)).is_err(), "it waits");
    drop(here.plant(PlantedBug::FoldForgetsObjectRefs));
    assert!(!is(PlantedBug::CheckpointOutsideBatch));
    drop(here);
    assert!(!receiver.recv().unwrap(), "what was planted here is gone there");
    other.join().unwrap();
}
