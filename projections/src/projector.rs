//! The projector: groups in, rows and checkpoint out, as a state machine that one thread drives.
//!
//! Invariants: groups are folded in order and without gaps; the rows of a group and the checkpoint after it go into one
//! batch; several groups share a batch only while more are at hand and the batch is small. It never waits, reads no clock
//! and no file.

use std::sync::Arc;

use reprise_engine::{
    Error, Result,
    engine::Group,
    id::Position,
    planted::{self, PlantedBug},
};

use crate::{
    models,
    projections::Checkpoint,
    store::{Batch, Store},
};

/// What the driving thread has.
pub enum Input {
    /// The next group of the log.
    Group(Group),
    /// No further group is at hand: fold what is pending now.
    CaughtUp,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Taken; not yet visible.
    Pending,
    /// Everything up to `checkpoint` is visible now.
    Folded {
        /// Up to where.
        checkpoint: Checkpoint,
        /// Row changes that were applied.
        changes: usize,
        /// Their bytes.
        bytes: usize,
        /// True if others may be parked now.
        changes_parked: bool,
    },
}

/// Folds groups into a store.
pub struct Projector {
    store: Arc<dyn Store>,
    batch: Batch,
    folded: Checkpoint,
    pending: Checkpoint,
}

impl Projector {
    /// Continues after `folded`; the store's rows may be newer (a refold after an unclean stop).
    pub fn new(store: Arc<dyn Store>, folded: Checkpoint) -> Projector {
        Projector { store, batch: Batch::new(), folded, pending: folded }
    }

    /// Up to where everything is visible.
    pub fn folded(&self) -> Checkpoint {
        self.folded
    }

    /// The store it folds into.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// One step. After an error the store is not to be trusted any more.
    pub fn step(&mut self, input: Input) -> Result<Output> {
        match input {
            Input::Group(group) => {
                self.fold(&group)?;
                let full = self.batch.len() >= BATCH_CHANGES_MAX || self.batch.bytes() >= BATCH_BYTES_MAX;
                if full { self.apply() } else { Ok(Output::Pending) }
            }
            Input::CaughtUp if self.pending == self.folded => Ok(Output::Pending),
            Input::CaughtUp => self.apply(),
        }
    }

    fn fold(&mut self, group: &Group) -> Result<()> {
        let first = group.events.first().map_or(Position::ZERO, |event| event.position);
        if first != self.pending.position.next() {
            let expected = self.pending.position.next();
            return Err(Error::corrupt("log", 0, format!("a group begins at {first}, but {expected} comes next")));
        }
        for event in group.events.iter() {
            models::fold(event, &mut self.batch);
            self.pending.position = event.position;
        }
        self.pending.chain = group.chain;
        Ok(())
    }

    fn apply(&mut self) -> Result<Output> {
        if planted::is(PlantedBug::CheckpointOutsideBatch) {
            self.store.apply(&Batch::new(), Some(self.pending))?;
            self.store.apply(&self.batch, None)?;
        } else {
            self.store.apply(&self.batch, Some(self.pending))?;
        }
        self.folded = self.pending;
        let (changes, bytes) = (self.batch.len(), self.batch.bytes());
        let changes_parked = self.batch.changes_parked();
        self.batch.clear();
        Ok(Output::Folded { checkpoint: self.folded, changes, bytes, changes_parked })
    }
}

const BATCH_CHANGES_MAX: usize = 16 << 10;
const BATCH_BYTES_MAX: usize = 2 << 20;
