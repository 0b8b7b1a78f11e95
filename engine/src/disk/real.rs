//! The disk of production: files under one directory.
