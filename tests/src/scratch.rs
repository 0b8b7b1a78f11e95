//! Directories of tests that damage, copy and reopen files many times: in memory where the machine has a place for that.
//!
//! Invariants: never for a test that proves what a power loss leaves (those use the simulated disk) or that measures.

use std::path::Path;

use tempfile::TempDir;

/// A new directory, removed when dropped.
pub fn dir() -> TempDir {
    let made = if Path::new(IN_MEMORY).is_dir() { tempfile::tempdir_in(IN_MEMORY) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

const IN_MEMORY: &str = "/dev/shm";
