//! What the projections answer, against plain maps (T17): random proposals, and after each of them every read is compared.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod objects;
mod refs;
mod stepped;
