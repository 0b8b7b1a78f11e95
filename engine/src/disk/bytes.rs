//! Bytes in memory as a file, for walking over what came from elsewhere.
//!
//! Invariant: it can only be read.

use bytes::Bytes;

use super::DiskFile;
use crate::error::{Error, Result};

/// Read-only bytes under a name.
pub(crate) struct BytesFile {
    name: String,
    bytes: Bytes,
}

impl BytesFile {
    /// `name` is for errors.
    pub(crate) fn new(name: impl Into<String>, bytes: Bytes) -> BytesFile {
        BytesFile { name: name.into(), bytes }
    }

    fn refused<T>(&self) -> Result<T> {
        Err(Error::invalid(format!("{} can only be read", self.name)))
    }
}

impl DiskFile for BytesFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let count = buffer.len().min(self.bytes.len() - from);
        buffer[..count].copy_from_slice(&self.bytes[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<usize> {
        self.refused()
    }

    fn sync_data(&self) -> Result<()> {
        self.refused()
    }

    fn len(&self) -> Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn set_len(&self, _: u64) -> Result<()> {
        self.refused()
    }

    fn path(&self) -> &str {
        &self.name
    }
}
