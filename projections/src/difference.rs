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
