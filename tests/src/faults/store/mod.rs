//! The projection store as an adversary (T4): the real files of an index, damaged while nobody has them open.
//!
//! Invariants: the log is whole in every trial; a damaged index is opened in a process of its own, because the store may abort
//! the process that opens it; trial number N does the same in every run.

pub mod damage;
pub mod image;
pub mod past;
pub mod serve;
pub mod trial;
