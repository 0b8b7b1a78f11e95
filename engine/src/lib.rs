//! The truth: objects, packs, events and the append-only log.
//!
//! What is written here is never overwritten; everything else in Reprise can be deleted and folded again from it.
//! No HTTP, no SQL, no read models. Follow one push: [`pack`] makes the file, [`store`] keeps it, [`engine`] appends
//! the event.

pub mod clock;
pub mod disk;
pub mod engine;
pub mod error;
pub mod event;
pub mod id;
pub mod limits;
pub mod object;
pub mod pack;
pub mod planted;
pub mod store;

pub use error::{Error, ErrorKind, Result};
