//! Addresses of a store's own: whoever has one may do one thing with one key for a short time, without asking the hub again.
//!
//! Invariants: an address is a right: it is never printed. The bytes that it brings are believed by nobody: they stand in
//! quarantine until a server has verified them.

use std::{fmt, time::Duration};

use super::StoreKey;

/// What an address is asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// With which key.
    pub key: StoreKey,
    /// To do what.
    pub access: Access,
    /// For how long.
    pub life: Duration,
    /// Where those who will use it reach the store (`https://bucket.example`), if not where this process does.
    pub endpoint: Option<String>,
}

/// What an address allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Access {
    /// GET, whole or in ranges.
    Read,
    /// PUT of anything, for a sender who sends no headers of ours: the store checks the key and the time.
    Create,
    /// PUT of these bytes, once: the store checks length and SHA-256 and creates only if nothing is there. Whoever sends them
    /// sends the headers of the address.
    CreateExactly {
        /// How many.
        bytes: u64,
        /// Their hash.
        sha256: [u8; 32],
    },
}

/// An address.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Absolute.
    pub url: String,
    /// What must be sent with it, beside `Host`.
    pub headers: Vec<(String, String)>,
}

impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Address(redacted)")
    }
}
