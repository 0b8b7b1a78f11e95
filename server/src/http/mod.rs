//! The HTTP surface: all routes on one screen.

pub mod error;
pub mod extract;
