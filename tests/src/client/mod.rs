//! A strict model of the public muse client: what it sends, in which order, and what it accepts.
//!
//! [`value`] is its msgpack dialect, [`http`] its transport, [`ids`] its formulas, [`repository`] a local repository,
//! [`muse_directory`] the same on disk,
//! [`commands`] its commands. Where the real client ends in a traceback, the model answers [`http::Failure::Traceback`]:
//! no test may accept one.

pub mod commands;
pub mod http;
pub mod ids;
pub mod mpack;
pub mod muse_directory;
pub mod pack;
pub mod push;
pub mod release;
pub mod repository;
pub mod value;

pub use commands::{CloneFailure, Refs, clone, fetch, ls_remote, pull};
pub use http::{Failure, Request, Response};
pub use push::{PushFailure, Pushed, push};
pub use repository::{Merge, Remote, Repository, Tree};
pub use value::Value;
