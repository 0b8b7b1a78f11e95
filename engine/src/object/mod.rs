//! Objects: what they are called, how their canonical bytes look, what is refused.
//!
//! Canonical bytes are `<kind> <size>\0<payload>`; a blob's payload is its file's bytes, a snapshot's or commit's is
//! canonical JSON ([`json`]). Ids are muse's ([`ids`]). Nothing is stored that does not hash to its id.

pub mod commit;
pub mod ids;
pub mod json;
pub mod names;
pub mod snapshot;

pub use commit::Commit;
pub use snapshot::Snapshot;
