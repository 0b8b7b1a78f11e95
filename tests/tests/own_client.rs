//! Our own client: what `reprise clone`, `pull`, `push` and `verify-clone` do to a user's repository.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods
)]

#[path = "own_client/bucket.rs"]
mod bucket;
#[path = "own_client/door.rs"]
mod door;
#[path = "own_client/hostile.rs"]
mod hostile;
#[path = "own_client/interrupted.rs"]
mod interrupted;
#[path = "own_client/rig.rs"]
mod rig;
#[path = "own_client/stock_hub.rs"]
mod stock_hub;
#[path = "own_client/transfer.rs"]
mod transfer;
#[path = "own_client/uploads.rs"]
mod uploads;
#[path = "own_client/verify.rs"]
mod verify;
