//! Why a client command could not be done, by what its user can do next.

use std::{io, path::Path, time::Duration};

use hyper::StatusCode;

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
    /// The server refused, in its own words.
    #[error("the server answered {}: {detail}", status.as_u16())]
    Answered {
        /// How.
        status: StatusCode,
        /// Its reason, fit for a terminal.
        detail: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The connection could not be made or broke off: asking again may help.
    #[error("{0}")]
    Connection(String),
    /// What the server sent does not verify, or names what must not be named. Nothing of it was kept.
    #[error("the server's answer was not accepted: {0}")]
    Untrusted(String),
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl ClientError {
    /// An I/O error of `doing` on `path`.
    pub fn files(doing: &'static str, path: &Path, source: io::Error) -> ClientError {
        ClientError::Files { doing, path: path.display().to_string(), source }
    }

    /// An answer that does not verify.
    pub fn untrusted(why: impl std::fmt::Display) -> ClientError {
        ClientError::Untrusted(why.to_string())
    }

    /// The status of a refusal.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            ClientError::Answered { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// After how long the same request may succeed; `None` if it will not.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ClientError::Connection(_) => Some(Duration::ZERO),
            ClientError::Answered {
                status: StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE,
                retry_after,
                ..
            } => Some(retry_after.unwrap_or(Duration::ZERO)),
            _ => None,
        }
    }
}
