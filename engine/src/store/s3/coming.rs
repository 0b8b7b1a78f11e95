//! Objects on their way, and readers who wait for their bytes.
//!
//! Invariants: a reader waits a moment for an object whose turn has not come, and then no longer than one request may take; an object
//! comes once, however many want it. One that becomes a copy is given out as it arrives and hashes to its name before it is one. One that
//! is asked for for the first time stays in memory until about as much of it was read as is wanted, or nobody reads any more.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Staged, StoreKey, copies::Copies, sums::Summing};
use crate::{
    error::{Error, Result},
    id::PackId,
};

/// What is on its way.
pub(super) struct Coming {
    objects: Mutex<BTreeMap<StoreKey, Arc<Object>>>,
    pub(super) objects_at_once: Arc<Semaphore>,
    /// For objects that come into memory, in KiB.
    memory: Arc<Semaphore>,
}

/// An object on its way, or in memory.
#[derive(Default)]
pub(super) struct Object {
    begun: AtomicBool,
    /// It comes into memory, or is there.
    in_memory: AtomicBool,
    /// All of it is in memory.
    whole: AtomicBool,
    wants: Mutex<Wants>,
    /// Held while a disk is written to: never waited for with the lock of all objects in hand.
    state: Mutex<State>,
    moved: Condvar,
}

/// Who wants it.
#[derive(Default)]
struct Wants {
    /// Answers that read it.
    readers: u64,
    /// About what they have not read yet.
    unread: u64,
}

#[derive(Default)]
struct State {
    held: Held,
    arrived: u64,
    over: bool,
}

/// Where the bytes of an object are.
#[derive(Default)]
enum Held {
    /// It does not come yet, or any more.
    #[default]
    Nowhere,
    /// In a file that will be a copy.
    Copy {
        staged: Box<dyn Staged>,
        /// Of what arrived, for its name.
        hash: Sha256,
        /// The same for its copy.
        sums: Summing,
    },
    /// In memory, from byte 0 on.
    Memory(InMemory),
    /// In memory, all that is wanted.
    Whole(Bytes),
}

/// Bytes, and the room that they take as long as somebody holds a part of them.
struct InMemory {
    bytes: BytesMut,
    bytes_max: usize,
    _room: Room,
}

impl AsRef<[u8]> for InMemory {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Room in memory, until it is dropped.
pub(super) struct Room(#[allow(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Default for Coming {
    fn default() -> Coming {
        Coming {
            objects: Mutex::default(),
            objects_at_once: Arc::new(Semaphore::new(OBJECTS_AT_ONCE)),
            memory: Arc::new(Semaphore::new(MEMORY_BYTES >> 10)),
        }
    }
}

impl Coming {
    /// Bytes of an object that comes, as soon as they are there; `None` if it does not come (any more).
    pub fn read(&self, key: &StoreKey, offset: u64, len: u64) -> Option<Bytes> {
        let object = self.objects().get(key).cloned()?;
        let end = offset.checked_add(len)?;
        let queued_until = Instant::now() + QUEUED_MAX;
        let mut state = object.state();
        while state.arrived < end {
            let comes = object.has_begun() || Instant::now() < queued_until;
            if state.over || !comes || matches!(state.held, Held::Whole(_)) {
                return None;
            }
            (state, _) = object.moved.wait_timeout(state, QUEUED_MAX).unwrap_or_else(PoisonError::into_inner);
        }
        let bytes = state.held.bytes(offset, len);
        drop(state);
        let unread = {
            let mut wants = object.wants();
            wants.unread = wants.unread.saturating_sub(len);
            wants.unread
        };
        if unread == 0 {
            self.let_go(key, &object);
        }
        bytes
    }

    /// Has an object expected by an answer that will read so many bytes of it. Each is to be followed by [`Coming::leave`].
    pub fn expect(&self, key: &StoreKey, bytes: u64) -> Arc<Object> {
        let mut objects = self.objects();
        let object = Arc::clone(objects.entry(key.clone()).or_default());
        let mut wants = object.wants();
        wants.readers += 1;
        wants.unread = wants.unread.saturating_add(bytes);
        drop(wants);
        object
    }

    /// An answer reads no more of it.
    pub fn leave(&self, key: &StoreKey, object: &Arc<Object>) {
        object.wants().readers -= 1;
        self.let_go(key, object);
    }

    pub fn has(&self, key: &StoreKey) -> bool {
        self.objects().contains_key(key)
    }

    /// Room for so many bytes, if there is some now, or soon enough.
    pub async fn room(&self, bytes: u64, patience: Duration) -> Option<Room> {
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).ok()?;
        let room = Arc::clone(&self.memory).acquire_many_owned(kib);
        tokio::time::timeout(patience, room).await.ok()?.ok().map(Room)
    }

    /// Its request ended: who still waits for bytes waits no more. What came into memory stays for those who want it.
    fn request_ended(&self, key: &StoreKey, object: &Arc<Object>) {
        match object.whole.load(Ordering::SeqCst) {
            true => self.let_go(key, object),
            false => {
                remove(&mut self.objects(), key, object);
                object.end();
            }
        }
    }

    /// Ends an object in memory that nobody wants any more, or one that has not begun to come.
    fn let_go(&self, key: &StoreKey, object: &Arc<Object>) {
        let mut objects = self.objects();
        let wants = object.wants();
        let unwanted = wants.readers == 0 || (wants.unread == 0 && object.whole.load(Ordering::SeqCst));
        drop(wants);
        // One that becomes a copy does so though nobody reads it; its request ends it.
        let comes = object.has_begun() && !object.in_memory.load(Ordering::SeqCst);
        if unwanted && !comes {
            remove(&mut objects, key, object);
            drop(objects);
            object.end();
        }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<StoreKey, Arc<Object>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Another object may come under that key by now.
fn remove(objects: &mut BTreeMap<StoreKey, Arc<Object>>, key: &StoreKey, object: &Arc<Object>) {
    if objects.get(key).is_some_and(|there| Arc::ptr_eq(there, object)) {
        objects.remove(key);
    }
}

impl Object {
    /// Its request begins now; false if it did before.
    pub fn begin(&self) -> bool {
        !self.begun.swap(true, Ordering::Relaxed)
    }

    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// It comes into a file that will be a copy.
    pub fn comes_as_copy(&self, staged: Box<dyn Staged>) {
        self.state().held = Held::Copy { staged, hash: Sha256::new(), sums: Summing::default() };
    }

    /// So many bytes of it come into memory; false if nobody wants them any more.
    pub fn comes_into_memory(&self, bytes: u64, room: Room) -> bool {
        let bytes_max = usize::try_from(bytes).unwrap_or(0);
        self.state().held =
            Held::Memory(InMemory { bytes: BytesMut::with_capacity(bytes_max), bytes_max, _room: room });
        self.in_memory.store(true, Ordering::SeqCst);
        self.wants().readers > 0
    }

    /// More of it arrived.
    pub fn arrived(&self, piece: &[u8]) -> Result<()> {
        let mut state = self.state();
        let over = state.over;
        match &mut state.held {
            Held::Copy { staged, hash, sums } => {
                staged.write(piece)?;
                hash.update(piece);
                sums.update(piece);
            }
            Held::Memory(memory) if !over && memory.bytes.len() + piece.len() <= memory.bytes_max => {
                memory.bytes.extend_from_slice(piece);
            }
            _ => return Err(Error::invalid("nobody wants it any more, or it is longer than it was said to be")),
        }
        state.arrived += piece.len() as u64;
        self.moved.notify_all();
        Ok(())
    }

    /// All of it arrived: a copy is kept as such if it hashes to its name.
    pub fn is_whole(&self, key: &StoreKey, copies: &Copies) -> Result<()> {
        let mut state = self.state();
        state.held = match std::mem::take(&mut state.held) {
            Held::Memory(memory) => {
                self.whole.store(true, Ordering::SeqCst);
                Held::Whole(Bytes::from_owner(memory))
            }
            Held::Copy { staged, hash, sums } => {
                if StoreKey::pack(PackId(hash.finalize().into())) != *key {
                    return Err(Error::corrupt(key.as_str(), 0, "what came does not hash to its name"));
                }
                // Under the lock: whoever waits finds the object coming or its copy, never neither.
                copies.keep(key, staged, sums);
                state.over = true;
                Held::Nowhere
            }
            held => held,
        };
        self.moved.notify_all();
        Ok(())
    }

    fn end(&self) {
        let mut state = self.state();
        (state.over, state.held) = (true, Held::Nowhere);
        self.moved.notify_all();
    }

    fn wants(&self) -> MutexGuard<'_, Wants> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Bytes that have arrived.
    fn bytes(&self, offset: u64, len: u64) -> Option<Bytes> {
        let (start, count) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
        let range = start..start.checked_add(count)?;
        match self {
            Held::Nowhere => None,
            Held::Copy { staged, .. } => staged.read_back(offset, len).ok(),
            Held::Memory(memory) => memory.bytes.get(range).map(Bytes::copy_from_slice),
            Held::Whole(bytes) => (range.end <= bytes.len()).then(|| bytes.slice(range)),
        }
    }
}

/// However a request ends, nobody waits for it any more.
pub(super) struct Request {
    pub inner: Arc<super::Inner>,
    pub key: StoreKey,
    pub object: Arc<Object>,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.inner.coming.request_ended(&self.key, &self.object);
    }
}

/// A reader waits this long for an object whose turn has not come, and reads ranges of it then.
const QUEUED_MAX: Duration = Duration::from_secs(1);
/// Objects that come at once, as long as they are small: they mostly wait for an answer to begin.
const OBJECTS_AT_ONCE: usize = 16;
/// What all objects in memory may take together.
const MEMORY_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn key() -> StoreKey {
        StoreKey::pack(PackId([1; 32]))
    }

    /// An object of 100 bytes in memory, of which two answers want as many.
    async fn in_memory(coming: &Coming) -> Arc<Object> {
        let object = coming.expect(&key(), 100);
        coming.expect(&key(), 100);
        assert!(object.begin() && !object.begin());
        assert!(object.comes_into_memory(100, coming.room(100, Duration::ZERO).await.unwrap()));
        object.arrived(&[7; 60]).unwrap();
        assert_eq!(coming.read(&key(), 20, 30).unwrap(), vec![7; 30], "while the rest comes");
        assert!(object.arrived(&[8; 41]).is_err(), "longer than it was said to be");
        object.arrived(&[8; 40]).unwrap();
        object
    }

    #[test]
    fn nobody_waits_for_an_object_whose_turn_does_not_come_or_whose_request_ended() {
        let coming = Coming::default();
        let object = coming.expect(&key(), 10);
        assert_eq!(coming.read(&key(), 0, 10), None, "others come before it");
        object.begin();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| coming.read(&key(), 0, 10));
            coming.request_ended(&key(), &object);
            assert_eq!(reader.join().ok(), Some(None));
        });
    }

    #[tokio::test]
    async fn what_is_in_memory_goes_when_it_was_read_or_nobody_reads_it_any_more() {
        let coming = Coming::default();
        let permits = MEMORY_BYTES >> 10;
        for leaves in [false, true] {
            let object = in_memory(&coming).await;
            object.is_whole(&key(), &Copies::none(spool())).unwrap();
            coming.request_ended(&key(), &object);
            assert_eq!(coming.read(&key(), 50, 50).unwrap()[9..11], [7, 8]);
            assert_eq!(coming.memory.available_permits(), permits - 1);
            match leaves {
                true => (0..2).for_each(|_| coming.leave(&key(), &object)),
                false => assert_eq!(coming.read(&key(), 0, 100).unwrap().len(), 100),
            }
            assert!(coming.has(&key()) != leaves, "20 bytes are unread");
            if !leaves {
                let held = coming.read(&key(), 80, 20).unwrap();
                assert_eq!(coming.memory.available_permits(), permits - 1, "whoever holds a part of it takes its room");
                assert_eq!(held, vec![8; 20]);
            }
            assert_eq!((coming.has(&key()), coming.memory.available_permits()), (false, permits));
            assert_eq!(coming.read(&key(), 0, 10), None);
        }
    }

    #[tokio::test]
    async fn what_nobody_wants_any_more_comes_no_further() {
        let coming = Coming::default();
        let object = in_memory(&coming).await;
        coming.leave(&key(), &object);
        assert!(coming.has(&key()), "another one reads it");
        coming.leave(&key(), &object);
        assert!(object.arrived(&[1]).is_err());
        assert_eq!((coming.has(&key()), coming.memory.available_permits()), (false, MEMORY_BYTES >> 10));
        assert!(coming.room(MEMORY_BYTES as u64 + 1, Duration::ZERO).await.is_none());
    }

    fn spool() -> super::super::Spool {
        let disk = Arc::new(crate::disk::sim::SimDisk::new());
        super::super::Spool::new(disk, Arc::new(crate::clock::SeededRandom::new(1)))
    }
}
