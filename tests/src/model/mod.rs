//! Plain models (T17): the log as a list of batches, packs as maps from names to bytes. A model is driven beside the real
//! thing, step by step, and says what the real one must answer.

pub mod log;
pub mod pack;
