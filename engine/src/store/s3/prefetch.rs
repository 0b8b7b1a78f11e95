//! Bytes that come before they are read: whole objects as local copies, one request each; ranges into memory; long ranges
//! piece by piece.
//!
//! Invariants: at most [`OBJECTS_AT_ONCE`] objects (fewer large ones) and [`RANGE_BYTES_AHEAD`] of ranges are on their way; a reader of an
//! object that comes waits for its bytes, a moment until its turn comes and then no longer than one request may take; an object
//! comes once, however many want it, and becomes a copy only if it hashes to its name; one of which little is wanted, or that
//! the copies have no room for, is left to ranged reads. Nothing here is tried again: who needs the bytes asks by itself then.

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
use tokio::sync::Semaphore;

use super::{
    Inner, Staged, StoreKey, again,
    range::{Range, Span},
    sums::Summing,
};
use crate::{
    error::{Error, ErrorKind, Result},
    id::PackId,
    pack::PIECE_BYTES,
    store::ahead::{Ahead, Arrived, Soon, Through},
};

/// What is on its way.
pub(super) struct Coming {
    objects: Mutex<BTreeMap<StoreKey, Arc<Object>>>,
    objects_at_once: Arc<Semaphore>,
    /// In KiB.
    range_room: Arc<Semaphore>,
}

/// An object on its way.
#[derive(Default)]
struct Object {
    begun: AtomicBool,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    staged: Option<Box<dyn Staged>>,
    arrived: u64,
    /// Of what arrived, for its name.
    hash: Sha256,
    /// The same for its copy.
    sums: Summing,
    over: bool,
}

impl Default for Coming {
    fn default() -> Coming {
        Coming {
            objects: Mutex::default(),
            objects_at_once: Arc::new(Semaphore::new(OBJECTS_AT_ONCE)),
            range_room: Arc::new(Semaphore::new(RANGE_BYTES_AHEAD >> 10)),
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
        loop {
            if state.over || (!object.begun.load(Ordering::Relaxed) && Instant::now() >= queued_until) {
                return None;
            }
            if state.arrived >= end {
                return state.staged.as_ref().and_then(|staged| staged.read_back(offset, len).ok());
            }
            (state, _) = object.moved.wait_timeout(state, QUEUED_MAX).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn announce(&self, key: &StoreKey) -> Arc<Object> {
        Arc::clone(self.objects().entry(key.clone()).or_default())
    }

    fn has(&self, key: &StoreKey) -> bool {
        self.objects().contains_key(key)
    }

    /// Nobody waits for it any more. Its copy, if it became one, is there already.
    fn end(&self, key: &StoreKey, object: &Object) {
        self.objects().remove(key);
        object.state().over = true;
        object.moved.notify_all();
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<StoreKey, Arc<Object>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, piece: &[u8]) -> Result<()> {
        let mut state = self.state();
        let staged = state.staged.as_mut().ok_or_else(|| Error::invalid("the object is not coming"))?;
        staged.write(piece)?;
        state.hash.update(piece);
        state.sums.update(piece);
        state.arrived += piece.len() as u64;
        self.moved.notify_all();
        Ok(())
    }
}

/// However a request ends, nobody waits for it any more.
struct Ending {
    inner: Arc<Inner>,
    key: StoreKey,
    object: Arc<Object>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.inner.coming.end(&self.key, &self.object);
    }
}

/// Lets objects come, in their order, until `over`. Those that readers may wait for are announced before this returns.
pub(super) fn begin(inner: &Arc<Inner>, soon: Vec<Soon>, over: Arc<AtomicBool>) {
    let mut room = inner.copies.bytes_max() / 2;
    let mut coming = Vec::new();
    for soon in soon {
        // A copy that is there is used; it only must not be the next to go. How long the object is, its answer will say.
        if !soon.worth(soon.end) || inner.copies.touch(&soon.key) {
            continue;
        }
        let Some(left) = room.checked_sub(soon.bytes) else { break };
        room = left;
        let object = inner.coming.announce(&soon.key);
        coming.push((soon, object));
    }
    let Some(runtime) = inner.runtime.as_ref().filter(|_| !coming.is_empty()) else { return };
    runtime.spawn(come_all(Arc::clone(inner), coming, over));
}

async fn come_all(inner: Arc<Inner>, coming: Vec<(Soon, Arc<Object>)>, over: Arc<AtomicBool>) {
    for (soon, object) in coming {
        let parts = if soon.end > LARGE_BYTES { LARGE_PARTS } else { 1 };
        let Ok(permit) = Arc::clone(&inner.coming.objects_at_once).acquire_many_owned(parts).await else { return };
        if object.begun.swap(true, Ordering::Relaxed) {
            continue;
        }
        if over.load(Ordering::Relaxed) {
            inner.coming.end(&soon.key, &object);
            continue;
        }
        let ending = Ending { inner: Arc::clone(&inner), key: soon.key.clone(), object };
        tokio::spawn(async move {
            if let Err(error) = come(&ending.inner, &soon, &ending.object).await {
                tracing::debug!(key = %soon.key, %error, "an object did not come ahead of its readers");
            }
            drop((ending, permit));
        });
    }
}

/// One object, with one request. Fine too if it is not worth it.
async fn come(inner: &Arc<Inner>, soon: &Soon, object: &Arc<Object>) -> Result<()> {
    let get = inner.client.get_object().bucket(&inner.settings.bucket).key(inner.key(&soon.key));
    let answer = Box::pin(get.send()).await.map_err(|error| unavailable(&error.into_service_error().to_string()))?;
    let size = answer.content_length().and_then(|len| u64::try_from(len).ok());
    let size = size.ok_or_else(|| unavailable("the answer does not say how long the object is"))?;
    if !soon.worth(size) || size > inner.copies.bytes_max() / 2 {
        return Ok(());
    }
    object.state().staged = Some(inner.copies.stage()?);
    let whole = take_in(answer.body, Arc::clone(object));
    let arrived = tokio::time::timeout(inner.settings.pace.patience(size), whole)
        .await
        .map_err(|_| unavailable("it took too long"))??;
    if arrived != size {
        return Err(unavailable("it came short"));
    }
    let mut state = object.state();
    if StoreKey::pack(PackId(std::mem::take(&mut state.hash).finalize().into())) != soon.key {
        return Err(Error::corrupt(soon.key.as_str(), 0, "what came does not hash to its name"));
    }
    let sums = std::mem::take(&mut state.sums);
    if let Some(staged) = state.staged.take() {
        // Under the lock: whoever waits finds the object coming or its copy, never neither.
        inner.copies.keep(&soon.key, staged, sums);
    }
    state.over = true;
    Ok(())
}

async fn take_in(mut body: aws_sdk_s3::primitives::ByteStream, object: Arc<Object>) -> Result<u64> {
    let (mut piece, mut arrived) = (BytesMut::with_capacity(WRITE_BYTES), 0);
    loop {
        let chunk = body.try_next().await.map_err(|error| unavailable(&error.to_string()))?;
        let ended = chunk.is_none();
        piece.extend_from_slice(&chunk.unwrap_or_default());
        if ended || piece.len() >= WRITE_BYTES {
            arrived += piece.len() as u64;
            let (full, object) = (piece.split().freeze(), Arc::clone(&object));
            let written = tokio::task::spawn_blocking(move || object.write(&full)).await;
            written.map_err(|_| unavailable("writing the copy failed"))??;
        }
        if ended {
            return Ok(arrived);
        }
    }
}

/// Asks for a range ahead of its turn, if it does not come anyway and there is room for it.
pub(super) fn range(inner: &Arc<Inner>, key: &StoreKey, offset: u64, len: u64) -> Option<Ahead> {
    if len == 0 || inner.coming.has(key) || inner.copies.touch(key) {
        return None;
    }
    let kib = u32::try_from(len.div_ceil(1 << 10)).ok()?;
    let room = Arc::clone(&inner.coming.range_room).try_acquire_many_owned(kib).ok()?;
    let end = offset.checked_add(len)?;
    let (arrived, wait) = crossbeam_channel::bounded(1);
    let (key, asking) = (key.clone(), Arc::clone(inner));
    inner.runtime.as_ref()?.spawn(async move {
        let read = again(|| asking.get(&key, Range::At { offset, end })).await;
        if let Ok((bytes, _)) = read
            && bytes.len() as u64 == len
        {
            // Nobody waits for it: the reader is gone.
            drop(arrived.send(Arrived { bytes, _room: room }));
        }
    });
    Some(Ahead(wait))
}

/// Asks for a long range, whose pieces come as they are taken.
pub(super) fn through(inner: &Arc<Inner>, key: &StoreKey, offset: u64, len: u64) -> Option<Through> {
    if len <= PIECE_BYTES || inner.coming.has(key) || inner.copies.touch(key) {
        return None;
    }
    let range = Range::At { offset, end: offset.checked_add(len)? };
    let (pieces, taken) = tokio::sync::mpsc::channel(PIECES_AHEAD);
    let (key, asking) = (key.clone(), Arc::clone(inner));
    inner.runtime.as_ref()?.spawn(async move {
        let get = asking.client.get_object().bucket(&asking.settings.bucket).key(asking.key(&key));
        let Ok(answer) = Box::pin(get.range(range.to_string()).send()).await else { return };
        let span = answer.content_range().and_then(Span::parse);
        if span.is_none_or(|span| !range.is_met_by(&span) || span.len() != len) {
            return;
        }
        let (mut body, mut left, mut piece) = (answer.body, len, BytesMut::new());
        while left > 0 {
            let want = left.min(PIECE_BYTES);
            while (piece.len() as u64) < want {
                let Ok(Some(chunk)) = body.try_next().await else { return };
                piece.extend_from_slice(&chunk);
            }
            left -= want;
            let full = piece.split_to(usize::try_from(want).unwrap_or(usize::MAX)).freeze();
            if pieces.send(full).await.is_err() {
                return;
            }
        }
    });
    Some(Through(taken))
}

fn unavailable(why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, why)
}

/// A reader waits this long for an object whose turn has not come, and reads ranges of it then.
const QUEUED_MAX: Duration = Duration::from_secs(1);
/// Objects that come at once, as long as they are small: they mostly wait for an answer to begin.
const OBJECTS_AT_ONCE: usize = 16;
/// A larger one takes the room of several: the more come at once, the later the first is there.
const LARGE_BYTES: u64 = 4 << 20;
const LARGE_PARTS: u32 = 4;
/// Bytes of ranges that came, or come, and were not used yet.
const RANGE_BYTES_AHEAD: usize = 64 << 20;
/// Pieces of a long range that came and were not taken yet.
const PIECES_AHEAD: usize = 4;
/// Bytes written at a time.
const WRITE_BYTES: usize = 512 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_an_object_whose_turn_does_not_come_or_whose_request_ended() {
        let (coming, key) = (Coming::default(), StoreKey::pack(PackId([1; 32])));
        let object = coming.announce(&key);
        assert_eq!(coming.read(&key, 0, 10), None, "others come before it");
        object.begun.store(true, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| coming.read(&key, 0, 10));
            coming.end(&key, &object);
            assert_eq!(reader.join().ok(), Some(None));
        });
    }
}
