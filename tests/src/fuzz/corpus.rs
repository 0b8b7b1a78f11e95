//! The kept corpus: inputs that the coverage-guided run found worth keeping, in `tests/corpus/TARGET/`, named by the hash of
//! their content.
//!
//! Invariants: read in the order of their names, so that the gate is the same everywhere; small enough to live beside the code
//! (`BYTES_MAX` in all, `FILE_BYTES_MAX` each).

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folder of all corpora.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The inputs in a folder; none if it is not there.
pub fn kept(dir: &Path) -> Vec<Vec<u8>> {
    files(dir).iter().map(|path| fs::read(path).expect("a kept input")).collect()
}

/// The files in a folder, by name.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of the corpus").path()).collect();
    paths.sort();
    paths
}

/// Bytes of the whole kept corpus.
pub const BYTES_MAX: u64 = 2 << 20;
/// Bytes of one kept input.
pub const FILE_BYTES_MAX: u64 = 64 << 10;
