//! A bucket with faults: a real S3 endpoint on loopback (signatures, checksums, conditional writes, parts, pages), its objects in
//! memory, its conditional writes atomic, and every outcome that a request can have (FAULTS.md, T12) on demand.
//!
//! Invariants: a write takes effect wholly or not at all, whatever its answer; what is counted is what came over the wire.

pub mod faults;
pub mod machine;
pub mod matrix;
pub mod objects;
mod operations;
mod server;

pub use faults::{Fault, Faults};
pub use objects::Objects;
pub use server::Bucket;
