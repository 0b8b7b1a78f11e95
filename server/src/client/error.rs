//! Why a client command could not be done, by what its user can do next.

use std::{io, path::Path};

/// A failure. Never carries a token: texts name URLs, paths and ids.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file or directory of the user's could not be read or written.
    #[error("{doing} {path}: {source}")]
    Files {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The state of things does not allow it; the text says what to change.
    #[error("{0}")]
    Refused(String),
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl ClientError {
    /// An I/O error of `doing` on `path`.
    pub fn files(doing: &'static str, path: &Path, source: io::Error) -> ClientError {
        ClientError::Files { doing, path: path.display().to_string(), source }
    }
}
