//! Our own client: what `reprise verify-clone`, `clone`, `pull` and `push` do to a user's repository.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods
)]

#[path = "own_client/verify.rs"]
mod verify;
