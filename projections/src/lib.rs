//! Read models folded from the log: disposable, rebuilt by replay, never truth.
//!
//! Follow one event: [`projector`] takes a group from the log, each of [`models`] folds it into row changes, the store
//! applies rows and checkpoint in one batch. Everything that serves reads through a [`View`].

pub mod difference;
pub mod digest;
mod driver;
pub mod dump;
pub mod encoding;
pub mod generation;
pub mod models;
pub mod opening;
pub mod projections;
pub mod projector;
pub mod rebuild;
pub mod records;
mod shared;
pub mod source;
pub mod store;
mod switch;
pub mod view;

pub use difference::Difference;
pub use digest::Digest;
pub use models::Model;
pub use projections::{Checkpoint, Lag, Options, Projections, Status};
pub use rebuild::{RebuildOptions, RebuildProgress, RebuildReport};
pub use view::{CommitRow, RefRow, ReleaseRow, RepoRow, RepoScope, SnapshotRow, TokenRow, View};
