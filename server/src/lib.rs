//! The hub on top of engine and projections: use cases, their HTTP surface, the command line.
//!
//! Follow one request: [`http`] names the route and the caller, [`hub`] decides who may and does the work, and
//! [`http::error`] turns every refusal into a status and a text. Nothing here writes an index: it proposes events and
//! reads views. [`client`] is the other end of the wire: what `reprise clone`, `pull` and `push` do to a user's repository.

pub mod cli;
pub mod client;
pub mod config;
pub mod http;
pub mod hub;
pub mod shutdown;
pub mod telemetry;
pub mod wire;

pub use hub::{Caller, Hub, HubError, Limits, Repo};
