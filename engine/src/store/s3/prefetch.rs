//! Bytes that come before they are read: objects of which much is wanted, one request each; ranges; long ranges piece by piece.
//!
//! Invariants: at most [`super::coming`]'s number of objects (fewer large ones) and [`RANGE_BYTES_AHEAD`] of ranges are on their way.
//! What is asked for once comes into memory, as far as there is room, and is verified by its readers as ranges are; what is asked
//! for again becomes a copy. An object of which little is wanted, or that there is no room for, is left to ranged reads. Nothing here is
//! tried again: who needs the bytes asks by himself then.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_sdk_s3::primitives::ByteStream;
use bytes::BytesMut;
use tokio::sync::Semaphore;

use super::{
    Inner, StoreKey, again,
    coming::{Object, Request, Room},
    range::{Range, Span},
};
use crate::{
    error::{Error, ErrorKind, Result},
    pack::PIECE_BYTES,
    store::ahead::{Ahead, Arrived, Prefetch, Soon, Through},
};

/// An object that an answer reads.
struct Expected {
    soon: Soon,
    object: Arc<Object>,
    /// There is room for a copy of it.
    copy: bool,
    /// It was asked for before.
    again: bool,
}

/// An answer that reads what comes. Nobody reads it any more when this is dropped.
struct Reading {
    inner: Arc<Inner>,
    objects: Vec<(StoreKey, Arc<Object>)>,
    over: Arc<AtomicBool>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.objects.iter().for_each(|(key, object)| self.inner.coming.leave(key, object));
    }
}

/// Lets objects come, in their order. Those that readers may wait for are expected before this returns.
pub(super) fn begin(inner: &Arc<Inner>, soon: Vec<Soon>) -> Prefetch {
    let mut room = inner.copies.bytes_max() / 2;
    let mut expected = Vec::new();
    for soon in soon {
        // A copy that is there is used; it only must not be the next to go. How long the object is, its answer will say.
        if !soon.worth(soon.end) || inner.copies.touch(&soon.key) {
            continue;
        }
        let left = room.checked_sub(soon.bytes);
        room = left.unwrap_or(room);
        let (copy, again) = (left.is_some(), inner.copies.asked_again(&soon.key));
        if copy || soon.end <= MEMORY_OBJECT_BYTES {
            let object = inner.coming.expect(&soon.key, soon.bytes);
            expected.push(Expected { soon, object, copy, again });
        }
    }
    let Some(runtime) = inner.runtime.as_ref().filter(|_| !expected.is_empty()) else { return Prefetch::default() };
    let over = Arc::new(AtomicBool::new(false));
    let objects = expected.iter().map(|expected| (expected.soon.key.clone(), Arc::clone(&expected.object))).collect();
    runtime.spawn(come_all(Arc::clone(inner), expected, Arc::clone(&over)));
    Prefetch::until_dropped(Reading { inner: Arc::clone(inner), objects, over })
}

async fn come_all(inner: Arc<Inner>, expected: Vec<Expected>, over: Arc<AtomicBool>) {
    let mut patience = ROOM_PATIENCE;
    for Expected { soon, object, copy, again } in expected {
        if object.has_begun() {
            continue;
        }
        let mut room = None;
        if soon.end <= MEMORY_OBJECT_BYTES && !(copy && again) {
            room = inner.coming.room(soon.end, patience).await;
            // Once for each answer: what fills the memory may be what this one reads last.
            patience = if room.is_some() { patience } else { Duration::ZERO };
        }
        if room.is_none() && !copy {
            // Nobody waits for what does not come.
            if object.begin() {
                drop(Request { inner: Arc::clone(&inner), key: soon.key, object });
            }
            continue;
        }
        let parts = if soon.end > LARGE_BYTES { LARGE_PARTS } else { 1 };
        let Ok(permit) = Arc::clone(&inner.coming.objects_at_once).acquire_many_owned(parts).await else { return };
        if over.load(Ordering::Relaxed) {
            return;
        }
        if !object.begin() {
            continue;
        }
        let request = Request { inner: Arc::clone(&inner), key: soon.key.clone(), object };
        tokio::spawn(async move {
            let came = match room {
                Some(room) => come_into_memory(&request, &soon, room).await,
                None => come_as_copy(&request, &soon).await,
            };
            if let Err(error) = came {
                tracing::debug!(key = %soon.key, %error, "an object did not come ahead of its readers");
            }
            drop((request, permit));
        });
    }
}

/// What is wanted of an object, with one request.
async fn come_into_memory(Request { inner, key, object }: &Request, soon: &Soon, room: Room) -> Result<()> {
    let (body, size) = long_range(inner, key, Range::At { offset: 0, end: soon.end }, soon.end).await?;
    if !soon.worth(size) || size > inner.copies.bytes_max() / 2 {
        inner.copies.needs_none(key);
    }
    if !object.comes_into_memory(soon.end, room) {
        return Ok(());
    }
    let whole = async {
        let (mut body, mut arrived) = (body, 0);
        while let Some(chunk) = body.try_next().await.map_err(|error| unavailable(&error.to_string()))? {
            object.arrived(&chunk)?;
            arrived += chunk.len() as u64;
        }
        Ok(arrived)
    };
    let arrived: Result<u64> = tokio::time::timeout(inner.settings.pace.patience(soon.end), whole)
        .await
        .map_err(|_| unavailable("it took too long"))?;
    if arrived? != soon.end {
        return Err(unavailable("it came short"));
    }
    object.is_whole(key, &inner.copies)
}

/// All of an object, with one request. Fine too if it is not worth it.
async fn come_as_copy(Request { inner, key, object }: &Request, soon: &Soon) -> Result<()> {
    let get = inner.client.get_object().bucket(&inner.settings.bucket).key(inner.key(key));
    let answer = Box::pin(get.send()).await.map_err(|error| unavailable(&error.into_service_error().to_string()))?;
    let size = answer.content_length().and_then(|len| u64::try_from(len).ok());
    let size = size.ok_or_else(|| unavailable("the answer does not say how long the object is"))?;
    if !soon.worth(size) || size > inner.copies.bytes_max() / 2 {
        return Ok(());
    }
    object.comes_as_copy(inner.copies.stage()?);
    let whole = write_all(answer.body, Arc::clone(object));
    let arrived = tokio::time::timeout(inner.settings.pace.patience(size), whole)
        .await
        .map_err(|_| unavailable("it took too long"))??;
    if arrived != size {
        return Err(unavailable("it came short"));
    }
    object.is_whole(key, &inner.copies)
}

async fn write_all(mut body: ByteStream, object: Arc<Object>) -> Result<u64> {
    let (mut piece, mut arrived) = (BytesMut::with_capacity(WRITE_BYTES), 0);
    loop {
        let chunk = body.try_next().await.map_err(|error| unavailable(&error.to_string()))?;
        let ended = chunk.is_none();
        piece.extend_from_slice(&chunk.unwrap_or_default());
        if ended || piece.len() >= WRITE_BYTES {
            arrived += piece.len() as u64;
            let (full, object) = (piece.split().freeze(), Arc::clone(&object));
            let written = tokio::task::spawn_blocking(move || object.arrived(&full)).await;
            written.map_err(|_| unavailable("writing the copy failed"))??;
        }
        if ended {
            return Ok(arrived);
        }
    }
}

/// The body of an answer that has these `len` bytes of an object, and the object's size.
async fn long_range(inner: &Inner, key: &StoreKey, range: Range, len: u64) -> Result<(ByteStream, u64)> {
    let get = inner.client.get_object().bucket(&inner.settings.bucket).key(inner.key(key));
    let answer = Box::pin(get.range(range.to_string()).send()).await;
    let answer = answer.map_err(|error| unavailable(&error.into_service_error().to_string()))?;
    match answer.content_range().and_then(Span::parse) {
        Some(span) if range.is_met_by(&span) && span.len() == len => Ok((answer.body, span.total)),
        _ => Err(unavailable("the answer has another part of it")),
    }
}

/// Asks for a range ahead of its turn, if it does not come anyway and there is room for it.
pub(super) fn range(inner: &Arc<Inner>, key: &StoreKey, offset: u64, len: u64) -> Option<Ahead> {
    if len == 0 || inner.coming.has(key) || inner.copies.touch(key) {
        return None;
    }
    let kib = u32::try_from(len.div_ceil(1 << 10)).ok()?;
    let room = Arc::clone(&inner.range_room).try_acquire_many_owned(kib).ok()?;
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
        let Ok((mut body, _)) = long_range(&asking, &key, range, len).await else { return };
        let (mut left, mut piece) = (len, BytesMut::new());
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

/// An object of which more is wanted comes as a copy.
const MEMORY_OBJECT_BYTES: u64 = 8 << 20;
/// An answer waits this long for room in memory.
const ROOM_PATIENCE: Duration = Duration::from_millis(100);
/// A larger one takes the room of several: the more come at once, the later the first is there.
const LARGE_BYTES: u64 = 4 << 20;
const LARGE_PARTS: u32 = 4;
/// Bytes of ranges that came, or come, and were not used yet.
pub(super) const RANGE_BYTES_AHEAD: usize = 64 << 20;
/// Pieces of a long range that came and were not taken yet.
const PIECES_AHEAD: usize = 4;
/// Bytes written at a time.
const WRITE_BYTES: usize = 512 << 10;

/// Room for ranges, in KiB.
pub(super) fn range_room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(RANGE_BYTES_AHEAD >> 10))
}
