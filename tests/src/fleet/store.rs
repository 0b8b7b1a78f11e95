//! The bucket as one server of a story reaches it: requests that fail, before or after their effect, or much later.
//!
//! Invariant: a request without a fault does exactly what the bucket does.

use std::sync::Arc;

use bytes::Bytes;
use reprise_engine::{
    Error, ErrorKind, Result,
    id::LogId,
    store::{Created, ObjectStore, Staged, StoreKey},
};

use super::{World, lock};

/// A conditional write that its caller has given up, and that is still under way.
pub(super) struct Late {
    pub(super) key: StoreKey,
    pub(super) bytes: Vec<u8>,
}

/// The door.
pub(super) struct Unreliable {
    world: Arc<World>,
}

impl Unreliable {
    pub(super) fn new(world: Arc<World>) -> Unreliable {
        Unreliable { world }
    }

    /// The others go on; true if this request fails.
    fn fails(&self) -> bool {
        self.world.meanwhile();
        if self.world.is_calm() {
            return false;
        }
        if self.world.roll(10) == 0 {
            self.world.land_late();
        }
        self.world.roll(100) < self.world.percent
    }

    fn ask<T>(&self, doing: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.fails() {
            true => Err(lost(ErrorKind::Unavailable)),
            false => doing(),
        }
    }
}

fn lost(kind: ErrorKind) -> Error {
    Error::new(kind, "a fault of the story")
}

impl ObjectStore for Unreliable {
    fn create(&self, key: &StoreKey, bytes: &[u8]) -> Result<bool> {
        if !self.fails() {
            let created = self.world.bucket.create(key, bytes);
            // Between the effect and the answer the others go on too.
            self.world.meanwhile();
            return created;
        }
        match self.world.roll(4) {
            0 => Err(lost(ErrorKind::Unknown)),
            1 => {
                drop(self.world.bucket.create(key, bytes));
                self.world.meanwhile();
                Err(lost(ErrorKind::Unknown))
            }
            // A request that was tried again met itself.
            2 => {
                drop(self.world.bucket.create(key, bytes));
                self.world.meanwhile();
                Ok(false)
            }
            _ => {
                lock(&self.world.late).push(Late { key: key.clone(), bytes: bytes.to_vec() });
                Err(lost(ErrorKind::Unknown))
            }
        }
    }

    fn stage(&self) -> Result<Box<dyn Staged>> {
        let staged = self.world.bucket.stage()?;
        Ok(Box::new(UnreliableStaged { world: Arc::clone(&self.world), staged }))
    }

    fn read(&self, key: &StoreKey, offset: u64, len: u64) -> Result<Bytes> {
        self.ask(|| self.world.bucket.read(key, offset, len))
    }

    fn read_tail(&self, key: &StoreKey, len: u64) -> Result<(Bytes, u64)> {
        self.ask(|| self.world.bucket.read_tail(key, len))
    }

    fn size(&self, key: &StoreKey) -> Result<u64> {
        self.ask(|| self.world.bucket.size(key))
    }

    fn delete(&self, key: &StoreKey) -> Result<()> {
        self.ask(|| self.world.bucket.delete(key))
    }

    fn list(&self, prefix: &str) -> Result<Vec<StoreKey>> {
        self.ask(|| self.world.bucket.list(prefix))
    }

    fn uri(&self, key: &StoreKey) -> String {
        self.world.bucket.uri(key)
    }

    fn sweep_staged(&self) -> Result<usize> {
        Ok(0)
    }

    fn claim(&self, log: LogId, fresh: bool) -> Result<()> {
        self.world.bucket.claim(log, fresh || !self.world.is_calm())
    }
}

/// An upload, the end of which may fail.
struct UnreliableStaged {
    world: Arc<World>,
    staged: Box<dyn Staged>,
}

impl Staged for UnreliableStaged {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.staged.write(bytes)
    }

    fn read_back(&self, offset: u64, len: u64) -> Result<Bytes> {
        self.staged.read_back(offset, len)
    }

    fn commit(self: Box<Self>, key: &StoreKey) -> Result<Created> {
        let door = Unreliable::new(Arc::clone(&self.world));
        if !door.fails() {
            let created = self.staged.commit(key);
            self.world.meanwhile();
            return created;
        }
        if self.world.roll(2) == 0 {
            drop(self.staged.commit(key));
            self.world.meanwhile();
        }
        Err(lost(ErrorKind::Unknown))
    }
}
