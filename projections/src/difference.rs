//! Where two builds of the projections differ, row by row.
//!
//! Invariants: only logical rows are compared; both are read once, side by side, in key order; nothing is kept but one page of
//! each.

use std::ops::ControlFlow;

use reprise_engine::{
    Result,
    id::{PackId, RepoId},
};

use crate::{
    digest::repo_of,
    models::{Model, mpack_index, repos},
    store::Snapshot,
};

/// A row that is not the same in both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// In which projection.
    pub model: Model,
    /// Whose row it is, if it is a repository's.
    pub repo: Option<RepoId>,
    /// The pack that it speaks of, if it speaks of one.
    pub pack: Option<PackId>,
    /// Its key, in hex.
    pub key: String,
    /// What is the matter.
    pub what: What,
}

/// How two rows of a key differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Only the first build has one.
    OnlyFirst,
    /// Only the second build has one.
    OnlySecond,
    /// Both have one, and they are not equal.
    Unequal,
}

/// Calls `each` with the differences of one projection, in key order, until it answers false.
pub fn of_model(
    first: &dyn Snapshot,
    second: &dyn Snapshot,
    model: Model,
    each: &mut dyn FnMut(Difference) -> bool,
) -> Result<()> {
    let (mut left, mut right) = (Pages::new(first, model)?, Pages::new(second, model)?);
    loop {
        let (a, b) = (left.head()?, right.head()?);
        let (what, key, row) = match (a, b) {
            (None, None) => return Ok(()),
            (Some((key, row)), None) => (Some(What::OnlyFirst), key, row),
            (None, Some((key, row))) => (Some(What::OnlySecond), key, row),
            (Some((key, row)), Some((other, _))) if key < other => (Some(What::OnlyFirst), key, row),
            (Some((key, _)), Some((other, row))) if key > other => (Some(What::OnlySecond), other, row),
            (Some((key, row)), Some((_, same))) => ((row != same).then_some(What::Unequal), key, row),
        };
        if let Some(what) = what {
            let pack = pack_of(model, key);
            let found = Difference { model, repo: repo_of(model, key, row), pack, key: hex::encode(key), what };
            if !each(found) {
                return Ok(());
            }
        }
        match what {
            Some(What::OnlyFirst) => left.pass(),
            Some(What::OnlySecond) => right.pass(),
            Some(What::Unequal) | None => {
                left.pass();
                right.pass();
            }
        }
    }
}

fn pack_of(model: Model, key: &[u8]) -> Option<PackId> {
    match model {
        Model::StorageUri => key.try_into().ok().map(PackId),
        Model::MpackIndex => mpack_index::decode_key(key).map(|key| key.pack),
        _ => None,
    }
}

/// The logical rows of a model, a page at a time.
struct Pages<'a> {
    snapshot: &'a dyn Snapshot,
    model: Model,
    live: Vec<RepoId>,
    page: Vec<(Vec<u8>, Vec<u8>)>,
    next: usize,
    /// From where the next page begins; `None` at the end.
    from: Option<Vec<u8>>,
}

impl<'a> Pages<'a> {
    fn new(snapshot: &'a dyn Snapshot, model: Model) -> Result<Pages<'a>> {
        let live = repos::live_ids(snapshot)?;
        Ok(Pages { snapshot, model, live, page: Vec::new(), next: 0, from: Some(Vec::new()) })
    }

    fn head(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        while self.next == self.page.len() && self.turn()? {}
        Ok(self.page.get(self.next).map(|(key, row)| (key.as_slice(), row.as_slice())))
    }

    fn pass(&mut self) {
        self.next += 1;
    }

    /// Reads the next page; false if there is none.
    fn turn(&mut self) -> Result<bool> {
        let Some(from) = self.from.take() else { return Ok(false) };
        (self.page, self.next) = (Vec::new(), 0);
        let (page, live, model, mut end) = (&mut self.page, &self.live, self.model, None);
        self.snapshot.scan(model, &from, None, &mut |key, row| {
            if repo_of(model, key, row).is_some_and(|repo| live.binary_search(&repo).is_err()) {
                return Ok(ControlFlow::Continue(()));
            }
            if page.len() == PAGE_ROWS {
                end = Some(key.to_vec());
                return Ok(ControlFlow::Break(()));
            }
            page.push((key.to_vec(), row.to_vec()));
            Ok(ControlFlow::Continue(()))
        })?;
        self.from = end;
        Ok(true)
    }
}

const PAGE_ROWS: usize = 4_096;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::store::{Batch, RowSink, Store, memory::MemoryStore};

    /// Rows of packs, whose every row is logical.
    fn store(rows: &BTreeMap<[u8; 32], u8>) -> MemoryStore {
        let (store, mut batch) = (MemoryStore::new(), Batch::new());
        for (key, row) in rows {
            batch.put(Model::StorageUri, key, &[*row]);
        }
        store.apply(&batch, None).unwrap();
        store
    }

    fn key(number: u32) -> [u8; 32] {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn what_two_builds_have_not_in_common_is_told_row_by_row_over_any_number_of_pages() {
        let all: BTreeMap<_, _> = (0..3 * PAGE_ROWS as u32).map(|number| (key(number), 0)).collect();
        let without = |drop: fn(u32) -> bool| -> BTreeMap<_, _> {
            let dropped: BTreeSet<_> = (0..3 * PAGE_ROWS as u32).filter(|number| drop(*number)).map(key).collect();
            all.iter().filter(|(key, _)| !dropped.contains(*key)).map(|(key, row)| (*key, *row)).collect()
        };
        let mut first = without(|number| number.is_multiple_of(5) || number > 9_000);
        let second = without(|number| number % 1_000 == 1);
        first.insert(key(7), 9);
        let mut expected = Vec::new();
        for key in all.keys() {
            let what = match (first.get(key), second.get(key)) {
                (Some(_), None) => What::OnlyFirst,
                (None, Some(_)) => What::OnlySecond,
                (Some(one), Some(other)) if one != other => What::Unequal,
                _ => continue,
            };
            expected.push((PackId(*key), what));
        }
        let (first, second) = (store(&first).snapshot().unwrap(), store(&second).snapshot().unwrap());
        let mut found = Vec::new();
        of_model(&*first, &*second, Model::StorageUri, &mut |difference| {
            found.push((difference.pack.unwrap(), difference.what));
            true
        })
        .unwrap();
        assert_eq!(found, expected);
        let mut once = 0;
        of_model(&*first, &*second, Model::StorageUri, &mut |_| {
            once += 1;
            once < 3
        })
        .unwrap();
        assert_eq!(once, 3, "it ends when told to");
    }
}
