//! What this server keeps of the bucket on its own disk: uploads under way, and copies of what it uploaded lately.
//!
//! Invariants: a copy is made only of what the bucket has taken; the copies together stay below a limit, least recently used
//! ones go first; any of them may be deleted at any time.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{Spool, Staged, StoreKey};
use crate::{
    error::Result,
    store::{Created, ObjectStore},
};

/// Copies in a directory.
pub struct Copies {
    directory: Spool,
    bytes_max: u64,
    held: Mutex<Held>,
}

/// Which copies there are.
#[derive(Default)]
struct Held {
    bytes: u64,
    /// Bytes and last use of each key.
    keys: BTreeMap<StoreKey, (u64, u64)>,
    /// Keys by last use.
    uses: BTreeMap<u64, StoreKey>,
    next_use: u64,
}

impl Copies {
    /// Copies in `directory`, at most `bytes_max` of them together; what is there already counts, and goes if it is too much.
    pub fn new(directory: Spool, bytes_max: u64) -> Result<Copies> {
        let copies = Copies { directory, bytes_max, held: Mutex::default() };
        for key in copies.directory.list("packs")? {
            let bytes = copies.directory.size(&key)?;
            copies.held().insert(key, bytes);
        }
        copies.evict();
        Ok(copies)
    }

    /// An upload in progress.
    pub(super) fn stage(&self) -> Result<Box<dyn Staged>> {
        self.directory.stage()
    }

    /// Keeps what was staged as the copy of `key`. It is a copy: failing to keep it is no failure.
    pub(super) fn keep(&self, key: &StoreKey, staged: Box<dyn Staged>, bytes: u64) {
        if bytes > self.bytes_max / 2 {
            return;
        }
        match staged.commit(key) {
            Ok(Created::New | Created::Existed) => {
                self.held().insert(key.clone(), bytes);
                self.evict();
            }
            Err(error) => tracing::warn!(%key, %error, "no local copy is kept"),
        }
    }

    /// Bytes of the copy, if there is one that has them.
    pub(super) fn read(&self, key: &StoreKey, offset: u64, len: u64) -> Option<Bytes> {
        self.held().touch(key).then(|| self.directory.read(key, offset, len).ok()).flatten()
    }

    /// Drops a copy; true if there was one.
    pub(super) fn forget(&self, key: &StoreKey) -> bool {
        let held = self.held().remove(key);
        if held && let Err(error) = self.directory.delete(key) {
            tracing::warn!(%key, %error, "a local copy that is not used any more stays");
        }
        held
    }

    /// Removes what interrupted uploads left.
    pub(super) fn sweep(&self) -> Result<usize> {
        self.directory.sweep_staged()
    }

    fn evict(&self) {
        loop {
            let oldest = {
                let held = self.held();
                (held.bytes > self.bytes_max).then(|| held.uses.values().next().cloned()).flatten()
            };
            let Some(oldest) = oldest else { return };
            self.forget(&oldest);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn insert(&mut self, key: StoreKey, bytes: u64) {
        self.remove(&key);
        self.bytes += bytes;
        self.next_use += 1;
        self.uses.insert(self.next_use, key.clone());
        self.keys.insert(key, (bytes, self.next_use));
    }

    fn touch(&mut self, key: &StoreKey) -> bool {
        let Some((_, last)) = self.keys.get_mut(key) else { return false };
        self.next_use += 1;
        self.uses.remove(last);
        *last = self.next_use;
        self.uses.insert(self.next_use, key.clone());
        true
    }

    fn remove(&mut self, key: &StoreKey) -> bool {
        let Some((bytes, last)) = self.keys.remove(key) else { return false };
        self.bytes -= bytes;
        self.uses.remove(&last);
        true
    }
}
