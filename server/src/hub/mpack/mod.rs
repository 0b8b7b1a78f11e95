//! Direct transfer: packs out and in as they are stored (API.md, "Direct transfer").
//!
//! Invariants: nothing is served but what the repository's own rows locate; what comes in passes the same checks as a push,
//! in the same code, and becomes visible by the same one append. What a server tells a client to come back with (tickets, names of
//! uploads) any other server of the hub understands, now and after a restart.

pub mod blobs;
pub mod fetch;
pub mod layout;
pub mod plan;
pub mod presign;
pub mod send;
pub mod sweep;
pub mod taking;
pub mod tickets;
pub mod unpack;
pub mod upload;
pub mod uploads;
