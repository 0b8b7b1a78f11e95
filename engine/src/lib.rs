//! The truth: objects, packs, events and the append-only log.
//!
//! What is written here is never overwritten; everything else in Reprise can be deleted and folded again from it.
//! No HTTP, no SQL, no read models. Follow one push: [`pack`] makes the file, [`store`] keeps it, [`engine`] appends
//! the event.

pub mod archive;
pub mod clock;
mod decide;
pub mod disk;
pub mod doctor;
pub mod engine;
pub mod error;
pub mod event;
mod follow;
pub mod id;
pub mod limits;
mod log;
mod mirror;
pub mod object;
pub mod pack;
pub mod planted;
mod recover;
pub mod restore;
pub mod store;
mod writer;

pub use error::{Error, ErrorKind, Result};
