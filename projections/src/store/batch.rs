//! Row changes on their way into a store, in one arena.
//!
//! Invariants: changes keep their order; a batch never shrinks what it was given; no allocation per row.

use crate::models::Model;

/// Takes row changes from a fold. Blind: nothing can be read back.
pub trait RowSink {
    /// The row of `key` is now `row`.
    fn put(&mut self, model: Model, key: &[u8], row: &[u8]);
    /// There is no row of `key` any more.
    fn delete(&mut self, model: Model, key: &[u8]);
}

/// Changes of one or several events, in order.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    changes: Vec<Span>,
    changes_parked: bool,
}

struct Span {
    model: Model,
    key_at: usize,
    row_at: usize,
    end: usize,
    deleted: bool,
}

/// One change: model, key, and the row or `None` for a deletion.
pub type Change<'a> = (Model, &'a [u8], Option<&'a [u8]>);

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// How many changes it holds.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// True without changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of all keys and rows.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// True if others may be parked after it: it parks a repository, or one comes or goes.
    pub fn changes_parked(&self) -> bool {
        self.changes_parked
    }

    /// Forgets everything; gives memory back when one large event had grown it.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.changes.clear();
        self.changes_parked = false;
        self.bytes.shrink_to(KEPT_BYTES);
        self.changes.shrink_to(KEPT_CHANGES);
    }

    /// The changes, in the order they were made.
    pub fn iter(&self) -> impl Iterator<Item = Change<'_>> {
        self.changes.iter().map(|span| {
            let row = (!span.deleted).then_some(&self.bytes[span.row_at..span.end]);
            (span.model, &self.bytes[span.key_at..span.row_at], row)
        })
    }

    fn push(&mut self, model: Model, key: &[u8], row: &[u8], deleted: bool) {
        self.changes_parked |= matches!(model, Model::Parked | Model::Repos);
        let key_at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let row_at = self.bytes.len();
        self.bytes.extend_from_slice(row);
        self.changes.push(Span { model, key_at, row_at, end: self.bytes.len(), deleted });
    }
}

impl RowSink for Batch {
    fn put(&mut self, model: Model, key: &[u8], row: &[u8]) {
        self.push(model, key, row, false);
    }

    fn delete(&mut self, model: Model, key: &[u8]) {
        self.push(model, key, &[], true);
    }
}

const KEPT_BYTES: usize = 1 << 20;
const KEPT_CHANGES: usize = 8 << 10;
