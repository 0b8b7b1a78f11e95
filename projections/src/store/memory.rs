//! Rows in memory: for tests and for small time-travel copies.
//!
//! Invariants: a snapshot shares the maps and never sees a later change (a writer copies what a snapshot still holds).

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reprise_engine::Result;

use crate::{
    models::Model,
    projections::Checkpoint,
    store::{Batch, RowVisitor, Snapshot, SortedRows, Stamp, Store},
};

type Rows = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// Rows in memory.
#[derive(Default)]
pub struct MemoryStore {
    content: Mutex<Content>,
}

#[derive(Clone, Default)]
struct Content {
    models: BTreeMap<Model, Arc<Rows>>,
    checkpoint: Option<Checkpoint>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // A panic between two map writes leaves half a batch: the projector that panicked gives the store up, and until then
        // everyone reads snapshots of before.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(self.content().clone()))
    }

    fn apply(&self, batch: &Batch, checkpoint: Option<Checkpoint>) -> Result<()> {
        let mut content = self.content();
        for (model, key, row) in batch.iter() {
            let rows = Arc::make_mut(content.models.entry(model).or_default());
            match row {
                Some(row) => rows.insert(key.into(), row.into()),
                None => rows.remove(key),
            };
        }
        if checkpoint.is_some() {
            content.checkpoint = checkpoint;
        }
        Ok(())
    }

    fn ingest(&self, rows: &mut dyn SortedRows) -> Result<u64> {
        let mut count = 0;
        while let Some((model, key, row)) = rows.next_row()? {
            let mut content = self.content();
            Arc::make_mut(content.models.entry(model).or_default()).insert(key.into(), row.into());
            count += 1;
        }
        Ok(count)
    }

    fn flush(&self, _: Stamp) -> Result<()> {
        Ok(())
    }
}

impl Snapshot for Content {
    fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        Ok(self.checkpoint)
    }

    fn get(&self, model: Model, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.models.get(&model).and_then(|rows| rows.get(key)).map(|row| row.to_vec()))
    }

    fn scan(&self, model: Model, from: &[u8], until: Option<&[u8]>, each: &mut RowVisitor<'_>) -> Result<()> {
        let Some(rows) = self.models.get(&model) else { return Ok(()) };
        if until.is_some_and(|until| until <= from) {
            return Ok(());
        }
        let upper = until.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, row) in rows.range::<[u8], _>((Bound::Included(from), upper)) {
            if let ControlFlow::Break(()) = each(key, row)? {
                break;
            }
        }
        Ok(())
    }
}
