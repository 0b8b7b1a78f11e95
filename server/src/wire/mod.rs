//! The wire: msgpack in and out, JSON in, exact lengths ahead of every answer.
//!
//! Invariants: one value and no trailing byte in either direction; text is str and content is bin, never the other way; a
//! count or length from the input is never trusted for an allocation; every refusal names the field, and every limit its
//! value. Knows nothing of the hub: it gives ids, records and spans.

pub mod decode;
pub mod encode;
pub mod field;
pub mod requests;
pub mod transcode;
pub mod value;

pub use decode::{Decoder, Source, Token};
pub use field::Field;

use reprise_engine::ErrorKind;

/// Why a body was not understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not the format at all: cut short, a reserved byte, trailing bytes.
    #[error("{0}")]
    Malformed(String),
    /// The format, but not what this field may hold.
    #[error("{0}")]
    Invalid(String),
    /// A limit is passed; the text names it and its value.
    #[error("{0}")]
    TooLarge(String),
    /// The spool could not be read.
    #[error("reading the request's spool: {0}")]
    Io(#[from] std::io::Error),
}

impl From<reprise_engine::Error> for WireError {
    fn from(error: reprise_engine::Error) -> WireError {
        match error.kind() {
            ErrorKind::Invalid => WireError::Invalid(error.to_string()),
            _ => WireError::Malformed(error.to_string()),
        }
    }
}
