//! Digests: an order-free fingerprint of the logical rows of every projection, and of all together.
//!
//! The fingerprint of a row is the 128-bit XXH3 of key and row, seeded with the model's number and the key's length; the
//! digest of a model is the wrapping sum of its rows' fingerprints. Equal digests at equal positions mean equal logical
//! rows, whatever the store and whatever the order in which they came. It guards against our own mistakes and rotten
//! bits, not against an adversary: those cannot write rows.

use std::fmt;

use reprise_engine::{
    Result,
    id::{Position, RepoId},
};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::{
    models::{Belongs, Model, repos},
    store::{Snapshot, scan_prefix},
};

/// Fingerprints at a position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Digest {
    /// Up to where the rows are folded.
    pub position: Position,
    /// One per model, in the order of [`Model::ALL`].
    pub models: Vec<ModelDigest>,
}

/// The fingerprint of one projection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModelDigest {
    /// Which.
    pub model: Model,
    /// Logical rows.
    pub rows: u64,
    /// The wrapping sum.
    pub sum: u128,
}

impl Digest {
    /// Of no rows.
    pub fn empty(position: Position) -> Digest {
        let models = Model::ALL.into_iter().map(|model| ModelDigest { model, rows: 0, sum: 0 }).collect();
        Digest { position, models }
    }

    /// Of all projections together, 32 hex digits.
    pub fn overall(&self) -> String {
        let sum = self.models.iter().fold(0u128, |sum, model| sum.wrapping_add(model.sum));
        format!("{sum:032x}")
    }

    /// Logical rows of all projections.
    pub fn rows(&self) -> u64 {
        self.models.iter().map(|model| model.rows).sum()
    }

    /// Logical rows of one projection.
    pub fn rows_of(&self, model: Model) -> u64 {
        self.models[usize::from(model.number()) - 1].rows
    }

    /// Adds one logical row.
    pub fn add(&mut self, model: Model, key: &[u8], row: &[u8], scratch: &mut Vec<u8>) {
        scratch.clear();
        scratch.extend_from_slice(key);
        scratch.extend_from_slice(row);
        let seed = u64::from(model.number()) << 32 | key.len() as u64;
        let at = usize::from(model.number()) - 1;
        let sum = &mut self.models[at];
        assert_eq!(sum.model, model, "models stand in the order of their numbers");
        sum.sum = sum.sum.wrapping_add(xxh3_128_with_seed(scratch, seed));
        sum.rows += 1;
    }

    /// Adds the rows of another digest at the same position.
    pub fn merge(&mut self, other: &Digest) {
        assert_eq!(self.position, other.position, "only digests at one position are added");
        for (sum, more) in self.models.iter_mut().zip(&other.models) {
            sum.sum = sum.sum.wrapping_add(more.sum);
            sum.rows += more.rows;
        }
    }
}

impl ModelDigest {
    /// 32 hex digits.
    pub fn hex(&self) -> String {
        format!("{:032x}", self.sum)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at {}", self.overall(), self.position)
    }
}

/// The digest of a snapshot: scans every row once.
pub fn of_snapshot(snapshot: &dyn Snapshot, position: Position) -> Result<Digest> {
    let live = repos::live_ids(snapshot)?;
    let mut digest = Digest::empty(position);
    let mut scratch = Vec::new();
    for model in Model::ALL {
        scan_logical(snapshot, model, &live, &mut |key, row| {
            digest.add(model, key, row, &mut scratch);
            Ok(())
        })?;
    }
    Ok(digest)
}

/// Calls `each` with the logical rows of a model, in key order: those of no repository or of one in `live` (ascending).
#[allow(clippy::type_complexity, reason = "the one callback of every scan of this crate")]
pub fn scan_logical(
    snapshot: &dyn Snapshot,
    model: Model,
    live: &[RepoId],
    each: &mut dyn FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let mut last = None;
    scan_prefix(snapshot, model, &[], &mut |key, row| {
        let repo = repo_of(model, key, row);
        // Rows of one repository stand together: one search per repository, not per row.
        if repo.is_none_or(|repo| {
            let (known, is_live) = last.unwrap_or((repo, false));
            let is_live = if last.is_some() && known == repo { is_live } else { live.binary_search(&repo).is_ok() };
            last = Some((repo, is_live));
            is_live
        }) {
            each(key, row)?;
        }
        Ok(std::ops::ControlFlow::Continue(()))
    })
}

/// The repository that a row belongs to, if its model has such.
pub fn repo_of(model: Model, key: &[u8], row: &[u8]) -> Option<RepoId> {
    match model.belongs() {
        Belongs::ToNone => None,
        Belongs::ByKey => key.first_chunk::<16>().map(|repo| RepoId(*repo)),
        Belongs::Repos => repos::repo_of(key, row),
    }
}
