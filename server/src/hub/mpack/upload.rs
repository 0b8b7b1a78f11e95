//! An upload that is being taken in: its bytes near, in the order and at the places that a reader of packs wants.
//!
//! Invariants: what is given to the store is what was read here; as a store it is what is under its pack's key, whichever key is
//! asked for, and only to be read.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use reprise_engine::{
    Error, Result,
    id::{LogId, PackId},
    store::{Created, ObjectStore, Staged, StoreKey},
};
use sha2::{Digest, Sha256};

/// A pack that came whole.
pub struct Upload {
    /// The hash of its bytes.
    pub pack: PackId,
    /// How many.
    pub bytes: u64,
    /// `None` once it was given to the store, which has it from then on.
    staged: Mutex<Option<Box<dyn Staged>>>,
    store: Arc<dyn ObjectStore>,
}

impl Upload {
    /// `bytes` bytes that are called `pack`; nobody has compared them with their name yet.
    pub fn new(pack: PackId, bytes: u64, staged: Box<dyn Staged>, store: Arc<dyn ObjectStore>) -> Upload {
        Upload { pack, bytes, staged: Mutex::new(Some(staged)), store }
    }

    /// Gives the bytes to the store under their pack's key.
    pub fn adopt(&self) -> Result<Created> {
        let staged = self.staged().take().ok_or_else(|| Error::invalid("the upload was taken before"))?;
        staged.commit(&StoreKey::pack(self.pack))
    }

    /// True if the store has a pack of this name.
    pub fn is_stored(&self) -> Result<bool> {
        match self.store.size(&StoreKey::pack(self.pack)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the bytes front to back, and hashes them.
    pub fn reader(&self) -> io::BufReader<UploadReader<'_>> {
        io::BufReader::with_capacity(READ_BYTES, UploadReader { upload: self, at: 0, hash: Sha256::new() })
    }

    fn staged(&self) -> MutexGuard<'_, Option<Box<dyn Staged>>> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_at(&self, offset: u64, len: u64) -> Result<Bytes> {
        match self.staged().as_ref() {
            Some(staged) => staged.read_back(offset, len),
            None => self.store.read(&StoreKey::pack(self.pack), offset, len),
        }
    }
}

/// Reads an upload once.
pub struct UploadReader<'a> {
    upload: &'a Upload,
    at: u64,
    hash: Sha256,
}

impl UploadReader<'_> {
    /// Whether all was read, and is what the upload is called.
    pub fn is_as_named(self) -> bool {
        let found: [u8; 32] = self.hash.finalize().into();
        self.at == self.upload.bytes && found == self.upload.pack.0
    }
}

impl io::Read for UploadReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = (self.upload.bytes - self.at).min(into.len() as u64);
        let bytes = self.upload.read_at(self.at, len).map_err(io::Error::other)?;
        into[..bytes.len()].copy_from_slice(&bytes);
        self.hash.update(&bytes);
        self.at += len;
        Ok(bytes.len())
    }
}

impl ObjectStore for Upload {
    fn stage(&self) -> Result<Box<dyn Staged>> {
        Err(read_only())
    }

    fn read(&self, _: &StoreKey, offset: u64, len: u64) -> Result<Bytes> {
        self.read_at(offset, len)
    }

    fn read_tail(&self, _: &StoreKey, len: u64) -> Result<(Bytes, u64)> {
        let len = len.min(self.bytes);
        Ok((self.read_at(self.bytes - len, len)?, self.bytes))
    }

    fn size(&self, _: &StoreKey) -> Result<u64> {
        Ok(self.bytes)
    }

    fn create(&self, _: &StoreKey, _: &[u8]) -> Result<bool> {
        Err(read_only())
    }

    fn delete(&self, _: &StoreKey) -> Result<()> {
        Err(read_only())
    }

    fn list(&self, _: &str) -> Result<Vec<StoreKey>> {
        Err(read_only())
    }

    fn uri(&self, key: &StoreKey) -> String {
        format!("upload:{key}")
    }

    fn sweep_staged(&self) -> Result<usize> {
        Err(read_only())
    }

    fn claim(&self, _: LogId, _: bool) -> Result<()> {
        Err(read_only())
    }
}

fn read_only() -> Error {
    Error::invalid("an upload is only read")
}

/// Bytes read ahead of a pack that is read front to back.
const READ_BYTES: usize = 256 << 10;
