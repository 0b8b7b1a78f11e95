//! Event payload codec.
