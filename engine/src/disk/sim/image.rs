//! What is on a simulated disk when nothing is in flight: the bytes that a machine finds after a restart.
//!
//! Invariants: every file's directory is there; paths are in order, so that equal images are equal values and hash
//! equally. Tests may damage an image through its public fields before they make a disk of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::history::Tree;
use crate::disk::parent;

/// Directories and files.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Image {
    /// Paths of all directories but the root.
    pub directories: BTreeSet<String>,
    /// Path and content of every file.
    pub files: BTreeMap<String, Arc<Vec<u8>>>,
}

impl Image {
    /// Puts a file, with its directories, into the image.
    pub fn put(&mut self, path: &str, content: Vec<u8>) {
        let mut dir = parent(path);
        while !dir.is_empty() {
            self.directories.insert(dir.to_owned());
            dir = parent(dir);
        }
        self.files.insert(path.to_owned(), Arc::new(content));
    }

    /// A file's content, if it is there.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(|content| content.as_slice())
    }

    pub(super) fn tree(&self) -> Tree {
        Tree::from_image(self)
    }
}
