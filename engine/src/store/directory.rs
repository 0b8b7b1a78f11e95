//! Packs in a directory.
