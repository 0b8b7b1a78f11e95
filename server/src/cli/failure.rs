//! Why a command did not end well, by exit code.

use std::process::ExitCode;

/// A failure. Usage errors (2) are clap's.
#[derive(Debug)]
pub enum Failure {
    /// The thing asked about is not well (1).
    NotWell(String),
    /// It could not be done (3).
    CouldNot(String),
    /// Whoever read our output is gone: end without a word (0).
    ReaderGone,
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> ExitCode {
        match self {
            Failure::ReaderGone => ExitCode::SUCCESS,
            Failure::NotWell(_) => ExitCode::from(1),
            Failure::CouldNot(_) => ExitCode::from(3),
        }
    }
}

impl From<reprise_engine::Error> for Failure {
    fn from(error: reprise_engine::Error) -> Failure {
        Failure::CouldNot(error.to_string())
    }
}
