//! Read models folded from the log: disposable, rebuilt by replay, never truth.
//!
//! Follow one event: [`projector`] takes a group from the log, each of [`models`] folds it into row changes, the store
//! applies rows and checkpoint in one batch. Everything that serves reads through a [`View`].

pub mod projections;
pub mod view;

pub use projections::{Checkpoint, Lag, Options, Projections, Status};
pub use view::{CommitRow, RefRow, RepoRow, RepoScope, SnapshotRow, View};
