//! Where rows are kept: a narrow trait over memory (tests, time travel) and fjall (one machine).
//!
//! Invariants: a batch's rows and its checkpoint become visible together or not at all; a snapshot never changes; rows of
//! a model are ordered by their key bytes; a store interprets neither keys nor rows. Nothing here is truth: any error is
//! answered by folding the log again.

use std::{ops::ControlFlow, sync::Arc};

use reprise_engine::{Result, id::Position};

use crate::{models::Model, projections::Checkpoint};

pub mod batch;
pub mod damage;
pub mod fjall;
pub mod memory;

pub use batch::{Batch, RowSink};

/// A place for rows.
pub trait Store: Send + Sync {
    /// A consistent, unchanging picture of all rows and the checkpoint. Cheap.
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>>;

    /// Applies all changes, later ones over earlier ones, and the checkpoint, as one.
    fn apply(&self, batch: &Batch, checkpoint: Option<Checkpoint>) -> Result<()>;

    /// Bulk load into a store that has none of these models yet. Calls for models that share no keyspace
    /// ([`Model::keyspace`]) may run in parallel. Not durable before [`Store::flush`]. Returns how many rows.
    fn ingest(&self, rows: &mut dyn SortedRows) -> Result<u64>;

    /// Makes everything applied before this call durable without any journal, and leaves `stamp` in every part of the
    /// store as a sign of it.
    fn flush(&self, stamp: Stamp) -> Result<()>;

    /// What is wrong with what the store keeps, if a read or a check has met something.
    fn damage(&self) -> Option<String> {
        None
    }

    /// Looks for damage in everything the store keeps, until told to stop: reads all of it once.
    fn check(&self, _stop: &dyn Fn() -> bool) {}
}

/// The sign of a flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Counts flushes of a generation from 1.
    pub number: u64,
    /// Rows up to here are durable.
    pub position: Position,
}

/// Rows in ascending (model, key) order, each key once.
pub trait SortedRows {
    /// The next row, or `None` at the end. The slices live until the next call.
    fn next_row(&mut self) -> Result<Option<Loaded<'_>>>;
}

/// One row on its way into a store: model, key, row.
pub type Loaded<'a> = (Model, &'a [u8], &'a [u8]);

/// An unchanging picture of a store.
pub trait Snapshot: Send + Sync {
    /// Up to where the rows are folded; `None` in an empty store.
    fn checkpoint(&self) -> Result<Option<Checkpoint>>;

    /// One row.
    fn get(&self, model: Model, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Calls `each` with the rows whose key is at least `from` and, if given, below `until`, in key order, until it breaks.
    fn scan(&self, model: Model, from: &[u8], until: Option<&[u8]>, each: &mut RowVisitor<'_>) -> Result<()>;
}

/// Takes one row of a scan; `Break` ends the scan.
pub type RowVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>> + 'a;

/// The first key that does not start with `prefix`, or `None` if there is none (all bytes 0xff).
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Scans all keys that start with `prefix`.
pub fn scan_prefix(snapshot: &dyn Snapshot, model: Model, prefix: &[u8], each: &mut RowVisitor<'_>) -> Result<()> {
    snapshot.scan(model, prefix, prefix_end(prefix).as_deref(), each)
}
