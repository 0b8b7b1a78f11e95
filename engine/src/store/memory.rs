//! Packs in memory.
