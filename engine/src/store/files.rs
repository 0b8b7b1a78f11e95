//! A store's keys as files that can only be read: for the doctor and whoever else judges files.
//!
//! Invariants: nothing is written or locked; a read asks the store for just these bytes.

use std::sync::Arc;

use super::{ObjectStore, StoreKey};
use crate::{
    disk::{Disk, DiskFile, DiskLock},
    error::{Error, Result},
};

/// Keys are paths.
pub struct StoreFiles {
    store: Arc<dyn ObjectStore>,
}

impl StoreFiles {
    /// The files of `store`.
    pub fn new(store: Arc<dyn ObjectStore>) -> StoreFiles {
        StoreFiles { store }
    }

    fn refused<T>(&self, path: &str) -> Result<T> {
        Err(refused(&self.store.uri(&StoreKey(path.to_owned()))))
    }
}

impl Disk for StoreFiles {
    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>> {
        let key = StoreKey(path.to_owned());
        let len = self.store.size(&key)?;
        Ok(Box::new(StoreFile { store: Arc::clone(&self.store), key, len }))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        let keys = self.store.list(dir)?;
        let below = |key: &StoreKey| {
            let rest = key.as_str().strip_prefix(dir)?.trim_start_matches('/');
            rest.split('/').next().filter(|name| !name.is_empty()).map(str::to_owned)
        };
        let mut names: Vec<String> = keys.iter().filter_map(below).collect();
        names.dedup();
        Ok(names)
    }

    fn create_new(&self, path: &str) -> Result<Box<dyn DiskFile>> {
        self.refused(path)
    }

    fn rename(&self, from: &str, _: &str) -> Result<()> {
        self.refused(from)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.refused(path)
    }

    fn create_dir(&self, dir: &str) -> Result<()> {
        self.refused(dir)
    }

    fn remove_dir(&self, dir: &str) -> Result<()> {
        self.refused(dir)
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        self.refused(dir)
    }

    fn lock(&self, path: &str, _: &str) -> Result<Box<dyn DiskLock>> {
        self.refused(path)
    }
}

struct StoreFile {
    store: Arc<dyn ObjectStore>,
    key: StoreKey,
    len: u64,
}

impl DiskFile for StoreFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let count = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        if count == 0 {
            return Ok(0);
        }
        buffer[..count].copy_from_slice(&self.store.read(&self.key, offset, count as u64)?);
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<usize> {
        Err(refused(self.path()))
    }

    fn sync_data(&self) -> Result<()> {
        Err(refused(self.path()))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.len)
    }

    fn set_len(&self, _: u64) -> Result<()> {
        Err(refused(self.path()))
    }

    fn path(&self) -> &str {
        self.key.as_str()
    }
}

fn refused(place: &str) -> Error {
    Error::invalid(format!("{place} can only be read here"))
}
