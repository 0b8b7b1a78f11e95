//! Asking for bytes before their turn, for stores that are far away.
//!
//! Invariants: all of it is a hint, which a near store ignores and a far one may refuse; what goes wrong ahead of time is asked
//! for again when its turn comes, so errors are met where bytes are used; what is on its way is bounded by the store.

use bytes::Bytes;
use crossbeam_channel::Receiver;

use super::StoreKey;

/// An object of which much will be read soon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Soon {
    /// Its key.
    pub key: StoreKey,
    /// How many of its bytes will be read.
    pub bytes: u64,
    /// Where the last of them ends.
    pub end: u64,
}

impl Soon {
    /// Whether one read of an object of `size` bytes is better than ranged ones: little of it comes in vain.
    pub fn worth(&self, size: u64) -> bool {
        let vain = size.saturating_sub(self.bytes);
        vain <= VAIN_BYTES_MAX || u128::from(self.bytes) * 100 >= u128::from(size) * WORTH_PERCENT
    }
}

/// So many bytes that nobody wants cost less than a further request.
const VAIN_BYTES_MAX: u64 = 256 << 10;
/// Of an object of which less is wanted, ranges are read.
const WORTH_PERCENT: u128 = 60;

/// Objects on their way to be near. Nobody reads them any more when this is dropped: no further one is asked for.
#[derive(Default)]
pub struct Prefetch {
    _reading: Option<Box<dyn Send>>,
}

impl Prefetch {
    /// Lasts as long as `reading`.
    pub fn until_dropped(reading: impl Send + 'static) -> Prefetch {
        Prefetch { _reading: Some(Box::new(reading)) }
    }
}

/// A read that is on its way. Dropping it gives its bytes up.
pub struct Ahead(pub(super) Receiver<Arrived>);

/// A long read that is on its way, piece by piece. Dropping it gives the rest up.
pub struct Through(pub(super) tokio::sync::mpsc::Receiver<Bytes>);

impl Through {
    /// Waits for the next piece; `None` at the end of what comes, which may be early.
    pub fn piece(&mut self) -> Option<Bytes> {
        self.0.blocking_recv()
    }
}

/// Bytes that came, and the room that they take until they are used.
pub(super) struct Arrived {
    pub bytes: Bytes,
    pub _room: tokio::sync::OwnedSemaphorePermit,
}

impl Ahead {
    /// Waits for the bytes; `None` if they did not come.
    pub fn wait(self) -> Option<Bytes> {
        self.0.recv().ok().map(|arrived| arrived.bytes)
    }
}
