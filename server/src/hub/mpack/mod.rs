//! Direct transfer: packs out and in as they are stored (API.md, "Direct transfer").
//!
//! Invariants: nothing is served but what the repository's own rows locate; what comes in passes the same checks as a push,
//! in the same code, and becomes visible by the same one append.

pub mod fetch;
pub mod layout;
pub mod plan;
pub mod send;
pub mod unpack;
pub mod uploads;
