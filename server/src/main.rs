//! The binary `reprise`.
fn main() {}
