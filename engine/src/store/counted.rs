//! An object store that counts what is read through it: that serving makes exactly the planned reads is a promise, and a
//! promise is measured where the bytes come from, not where they were asked for.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use super::{
    ObjectStore, Staged, StoreKey,
    address::{Address, Asked},
    ahead::{Ahead, Prefetch, Soon, Through},
};
use crate::{error::Result, id::LogId};

/// Passes everything on; counts reads and the bytes they gave.
pub struct CountedStore {
    store: Arc<dyn ObjectStore>,
    reads: AtomicU64,
    bytes: AtomicU64,
}

impl CountedStore {
    /// Counts from zero.
    pub fn new(store: Arc<dyn ObjectStore>) -> CountedStore {
        CountedStore { store, reads: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// Reads so far, failed ones included.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Bytes that they gave.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl ObjectStore for CountedStore {
    fn stage(&self) -> Result<Box<dyn Staged>> {
        self.store.stage()
    }

    fn read(&self, key: &StoreKey, offset: u64, len: u64) -> Result<Bytes> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let bytes = self.store.read(key, offset, len)?;
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    fn read_tail(&self, key: &StoreKey, len: u64) -> Result<(Bytes, u64)> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let (bytes, size) = self.store.read_tail(key, len)?;
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok((bytes, size))
    }

    fn read_tails(&self, keys: &[StoreKey], len: u64) -> Vec<Result<(Bytes, u64)>> {
        let read = self.store.read_tails(keys, len);
        self.reads.fetch_add(read.len() as u64, Ordering::Relaxed);
        let bytes = read.iter().flatten().map(|(bytes, _)| bytes.len() as u64).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        read
    }

    fn prefetch(&self, soon: Vec<Soon>) -> Prefetch {
        self.store.prefetch(soon)
    }

    fn read_ahead(&self, key: &StoreKey, offset: u64, len: u64) -> Option<Ahead> {
        let ahead = self.store.read_ahead(key, offset, len)?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(len, Ordering::Relaxed);
        Some(ahead)
    }

    fn read_through(&self, key: &StoreKey, offset: u64, len: u64) -> Option<Through> {
        let through = self.store.read_through(key, offset, len)?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(len, Ordering::Relaxed);
        Some(through)
    }

    fn create(&self, key: &StoreKey, bytes: &[u8]) -> Result<bool> {
        self.store.create(key, bytes)
    }

    fn size(&self, key: &StoreKey) -> Result<u64> {
        self.store.size(key)
    }

    fn delete(&self, key: &StoreKey) -> Result<()> {
        self.store.delete(key)
    }

    fn delete_all(&self, keys: &[StoreKey]) -> Result<()> {
        self.store.delete_all(keys)
    }

    fn list(&self, prefix: &str) -> Result<Vec<StoreKey>> {
        self.store.list(prefix)
    }

    fn uri(&self, key: &StoreKey) -> String {
        self.store.uri(key)
    }

    fn without_copies(&self) -> Option<Arc<dyn ObjectStore>> {
        self.store.without_copies()
    }

    fn copies(&self) -> Option<&super::s3::Copies> {
        self.store.copies()
    }

    fn uploads(&self) -> Result<Vec<super::BegunUpload>> {
        self.store.uploads()
    }

    fn abort(&self, upload: &super::BegunUpload) -> Result<()> {
        self.store.abort(upload)
    }

    fn sweep_staged(&self) -> Result<usize> {
        self.store.sweep_staged()
    }

    fn claim(&self, log: LogId, fresh: bool) -> Result<()> {
        self.store.claim(log, fresh)
    }

    fn take_up(&self, key: &StoreKey, bytes: u64) -> Result<Box<dyn Staged>> {
        self.store.take_up(key, bytes)
    }

    fn address(&self, asked: &Asked) -> Result<Option<Address>> {
        self.store.address(asked)
    }
}
