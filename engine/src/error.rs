//! The public error: a kind that tells the caller what to do next, a text that says what was wrong and where.
//!
//! Invariants: every I/O error carries its path and operation; damage carries file and offset; an error is logged once,
//! where it is handled, never where it is made.

use std::{fmt, io, time::Duration};

/// What the caller can do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The input is wrong: change it.
    Invalid,
    /// The thing asked for is not there.
    NotFound,
    /// The state asked for is not the state that is: read again, decide again.
    Conflict,
    /// A bounded queue is full: come back after this long.
    Busy(Duration),
    /// A lower layer failed and the operation had no effect: may be tried again.
    Unavailable,
    /// The operation may or may not have happened: ask again with the same push id.
    Unknown,
    /// Stored bytes are not what was written. Never returned as data; see `file` and `offset`.
    Corrupt,
    /// A sync failed earlier: this process no longer writes; reopen.
    Poisoned,
    /// No room (disk full, out of file descriptors): writes resume when there is.
    Full,
}

/// An engine error.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    file: Option<String>,
    offset: Option<u64>,
    source: Option<io::Error>,
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` with a text for people.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), file: None, offset: None, source: None }
    }

    /// The input is wrong.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    /// The thing is not there.
    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotFound, message)
    }

    /// Damage at `offset` of `file` (a path or a store key).
    pub fn corrupt(file: impl Into<String>, offset: u64, message: impl Into<String>) -> Error {
        Error {
            kind: ErrorKind::Corrupt,
            message: message.into(),
            file: Some(file.into()),
            offset: Some(offset),
            source: None,
        }
    }

    /// An I/O error of `operation` on `path`; the kind follows from the OS error.
    pub fn io(operation: &'static str, path: impl Into<String>, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::Conflict,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => ErrorKind::Full,
            // EMFILE and ENFILE have no io::ErrorKind of their own.
            _ if matches!(source.raw_os_error(), Some(23 | 24)) => ErrorKind::Full,
            _ => ErrorKind::Unavailable,
        };
        Error { kind, message: operation.to_owned(), file: Some(path.into()), offset: None, source: Some(source) }
    }

    /// What the caller can do next.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The file or store key concerned, if one is.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The byte offset of damage, if known.
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// The same error with another kind (a sync error becomes `Unknown`, for example).
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Error {
        self.kind = kind;
        self
    }

    /// True for damage.
    pub fn is_corrupt(&self) -> bool {
        self.kind == ErrorKind::Corrupt
    }

    /// True when the thing is not there.
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)?;
        if let Some(file) = &self.file {
            write!(out, ": {file}")?;
        }
        if let Some(offset) = self.offset {
            write!(out, " at byte {offset}")?;
        }
        if let Some(source) = &self.source {
            write!(out, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
