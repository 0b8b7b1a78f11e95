//! An object store in memory, for tests and simulations.
//!
//! Invariants: the same contract as every store (`contract`); nothing survives the process.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{Created, ObjectStore, Staged, StoreKey, directory::cut, not_of};
use crate::{
    error::{Error, Result},
    id::LogId,
};

/// Keys and bytes. Clones share them.
#[derive(Clone, Default)]
pub struct MemoryStore {
    keys: Arc<Mutex<BTreeMap<StoreKey, Bytes>>>,
    owner: Arc<Mutex<Option<LogId>>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// Replaces what is under a key, for tests of damage.
    pub fn overwrite(&self, key: &StoreKey, bytes: Bytes) {
        self.lock().insert(key.clone(), bytes);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<StoreKey, Bytes>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &StoreKey) -> Result<Bytes> {
        self.lock().get(key).cloned().ok_or_else(|| Error::not_found(format!("no object under the key {key}")))
    }
}

impl ObjectStore for MemoryStore {
    fn stage(&self) -> Result<Box<dyn Staged>> {
        Ok(Box::new(MemoryStaged { store: self.clone(), bytes: Vec::new() }))
    }

    fn read(&self, key: &StoreKey, offset: u64, len: u64) -> Result<Bytes> {
        let bytes = self.get(key)?;
        let (start, end) = cut(key.as_str(), offset, len, bytes.len() as u64)?;
        Ok(bytes.slice(start..end))
    }

    fn read_tail(&self, key: &StoreKey, len: u64) -> Result<(Bytes, u64)> {
        let bytes = self.get(key)?;
        let size = bytes.len() as u64;
        let (start, end) = cut(key.as_str(), size - len.min(size), len.min(size), size)?;
        Ok((bytes.slice(start..end), size))
    }

    fn size(&self, key: &StoreKey) -> Result<u64> {
        self.get(key).map(|bytes| bytes.len() as u64)
    }

    fn create(&self, key: &StoreKey, bytes: &[u8]) -> Result<bool> {
        match self.lock().entry(key.clone()) {
            Entry::Occupied(_) => Ok(false),
            Entry::Vacant(vacant) => {
                vacant.insert(Bytes::copy_from_slice(bytes));
                Ok(true)
            }
        }
    }

    fn delete(&self, key: &StoreKey) -> Result<()> {
        self.lock().remove(key);
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<StoreKey>> {
        let under = |key: &&StoreKey| match key.as_str().strip_prefix(prefix) {
            Some(rest) => prefix.is_empty() || rest.is_empty() || rest.starts_with('/'),
            None => false,
        };
        Ok(self.lock().keys().filter(under).cloned().collect())
    }

    fn uri(&self, key: &StoreKey) -> String {
        format!("memory:{key}")
    }

    fn sweep_staged(&self) -> Result<usize> {
        Ok(0)
    }

    fn claim(&self, log: LogId, fresh: bool) -> Result<()> {
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        match *owner {
            Some(owner) if owner == log => Ok(()),
            Some(other) => Err(not_of(log, Some(&other.to_string()), "the mark")),
            None if fresh => {
                *owner = Some(log);
                Ok(())
            }
            None => Err(not_of(log, None, "the mark")),
        }
    }
}

struct MemoryStaged {
    store: MemoryStore,
    bytes: Vec<u8>,
}

impl Staged for MemoryStaged {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn read_back(&self, offset: u64, len: u64) -> Result<Bytes> {
        let (start, end) = cut("(staged)", offset, len, self.bytes.len() as u64)?;
        Ok(Bytes::copy_from_slice(&self.bytes[start..end]))
    }

    fn commit(self: Box<Self>, key: &StoreKey) -> Result<Created> {
        let mut keys = self.store.lock();
        match keys.get(key) {
            Some(present) if *present == self.bytes => return Ok(Created::Existed),
            Some(_) => return Err(Error::corrupt(key.as_str(), 0, "other bytes stand under this key")),
            None => {}
        }
        keys.insert(key.clone(), Bytes::from(self.bytes));
        Ok(Created::New)
    }
}
