//! What can go wrong in a use case, by what the caller is told. [`crate::http::error`] is its one way to HTTP.
//!
//! The client shows 400 characters of a text: the essence comes first, and never a path of this machine.

use std::time::Duration;

use reprise_engine::{
    Error, ErrorKind,
    engine::Reason,
    id::{ObjectId, PackId, PushId},
};

use crate::wire::WireError;

/// A refusal or a failure.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No token where one is required, or a bad, expired or revoked one (401).
    #[error("{0}")]
    Unauthorized(String),
    /// The caller may see it but not do this (403).
    #[error("{0}")]
    Forbidden(String),
    /// Not there, or not for this caller's eyes (404).
    #[error("{0}")]
    NotFound(String),
    /// The request cannot be decoded (400).
    #[error("{0}")]
    BadRequest(String),
    /// The request decodes but says something that is not allowed (422).
    #[error("{0}")]
    Invalid(String),
    /// A limit on bytes, named with its value (413).
    #[error("{0}")]
    TooLarge(String),
    /// A body in a coding that is not undone here (415).
    #[error("{0}")]
    Coded(String),
    /// The state is another than the request assumes (409). On `push` this means "diverged" and nothing else.
    #[error("{0}")]
    Conflict(String),
    /// What the request was to go on with is another now (412).
    #[error("{0}")]
    Changed(String),
    /// Too many at once (429).
    #[error("{message}")]
    Busy {
        /// When to come back.
        retry_after: Duration,
        /// What is full.
        message: String,
    },
    /// Cannot be done now and had no effect (503).
    #[error("{0}")]
    Unavailable(String),
    /// It may or may not have happened (503 with the push id).
    #[error(
        "it is not known whether this was done: look before doing it again, or repeat a push with Idempotency-Key: {0}"
    )]
    Unknown(PushId),
    /// The log's writer refused.
    #[error("{}", reason_text(.0))]
    NotAppended(Reason),
    /// Stored bytes are not what was pushed (500).
    #[error("object {object} is damaged in pack {pack}: its bytes are not served; push it again to heal it")]
    Damaged {
        /// Which object.
        object: ObjectId,
        /// Where it was read.
        pack: PackId,
    },
    /// A fault of the server (500).
    #[error("{0}")]
    Internal(String),
}

impl From<Error> for HubError {
    fn from(error: Error) -> HubError {
        let text = told(&error);
        match error.kind() {
            ErrorKind::Invalid => HubError::Invalid(text),
            // A file that should be there is our fault, not a wrong question.
            ErrorKind::NotFound if error.file().is_some() => HubError::Internal(text),
            ErrorKind::NotFound => HubError::NotFound(text),
            ErrorKind::Conflict => HubError::Conflict(text),
            ErrorKind::Busy(retry_after) => HubError::Busy { retry_after, message: text },
            // A store that gave no answer: whatever it did, asking again is right.
            ErrorKind::Unavailable | ErrorKind::Unknown | ErrorKind::Poisoned | ErrorKind::Full => {
                HubError::Unavailable(text)
            }
            ErrorKind::Corrupt => HubError::Internal(text),
        }
    }
}

impl HubError {
    /// A task or job of ours ended without an answer: it panicked, or the server is going down.
    pub(crate) fn died(error: &tokio::task::JoinError) -> HubError {
        tracing::error!(%error, "a task died");
        HubError::Internal("the server failed while it worked on this; the request id names the log line".to_owned())
    }
}

/// The text of an engine's error for clients: a file by its name, not by its place on this machine.
pub(crate) fn told(error: &Error) -> String {
    let text = error.to_string();
    match error.file() {
        Some(file) if file.starts_with('/') => {
            tracing::error!(error = text, "an error of a file");
            text.replace(file, file.rsplit('/').next().unwrap_or_default())
        }
        _ => text,
    }
}

impl From<WireError> for HubError {
    fn from(error: WireError) -> HubError {
        match error {
            WireError::Malformed(text) => HubError::BadRequest(text),
            WireError::Invalid(text) => HubError::Invalid(text),
            WireError::TooLarge(text) => HubError::TooLarge(text),
            WireError::Io(error) => HubError::Unavailable(format!("reading the request's spool failed: {error}")),
        }
    }
}

/// The writer's reason, for people.
fn reason_text(reason: &Reason) -> String {
    use reprise_engine::engine::Condition;
    match reason {
        Reason::Condition(Condition::NameFree { owner, slug }) => format!("{owner}/{slug} exists already"),
        Reason::Condition(Condition::RepoLive(_)) => "the repository was deleted meanwhile".to_owned(),
        Reason::Condition(Condition::RefIs { name, .. }) => format!("branch '{name}' moved meanwhile"),
        Reason::Condition(Condition::ReleaseExists { tag, exists: true, .. }) => format!("there is no release {tag}"),
        Reason::Condition(Condition::ReleaseExists { tag, exists: false, .. }) => {
            format!("release {tag} exists already")
        }
        Reason::Condition(Condition::RepoAt(..) | Condition::NoRefs(_) | Condition::NoRecordsSince(..)) => {
            "the repository changed meanwhile: try again".to_owned()
        }
        Reason::Condition(Condition::NoSweepSince(_)) => "packs were swept meanwhile: try again".to_owned(),
        Reason::RefNameClash { existing } => {
            format!(
                "the branch name clashes with the existing branch '{existing}': neither may be a path prefix of the other"
            )
        }
        Reason::PushIdReused => "this Idempotency-Key was used with another request".to_owned(),
        Reason::Invalid(what) => what.clone(),
        Reason::Busy(_) => "the log's queue is full".to_owned(),
        Reason::TooLarge { bytes, limit } => {
            format!("the push takes {bytes} bytes of log, more than the limit of {limit}")
        }
        Reason::Full => "the disk is full: nothing was written".to_owned(),
        Reason::ReadOnly(why) => format!("the log could not take it ({why}); reads go on"),
        Reason::Unavailable(why) => format!("the bucket did not answer, and nothing was decided: {why}"),
        Reason::Closed => "the server is shutting down".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_learns_a_files_name_and_not_its_place() {
        let error = Error::io("open", "/srv/secret/place/x.pack", std::io::Error::from_raw_os_error(5));
        let text = HubError::from(error).to_string();
        assert!(text.contains("x.pack") && !text.contains("secret"), "{text}");
    }
}
