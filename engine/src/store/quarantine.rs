//! What was uploaded and belongs to nothing yet: keys that say for whom, which bytes and until when, and their sweeping.
//!
//! Invariants: nothing under such a key is served or named by an event; whoever takes it in verifies every byte first; a key says
//! all that a server must know of it, so that any server of a hub can take in what another one announced. The end in a key is wall
//! clock, and nothing rests on it (F10): an upload that is swept too early is uploaded again, one that stays too long costs room.

use super::{ObjectStore, Staged, StoreKey};
use crate::error::Result;

/// An upload that was announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quarantined {
    /// Until when it may be taken in, seconds since 1970.
    pub end_s: u64,
    /// For whom it is: 16 bytes that the hub derives from a repository's name.
    pub place: [u8; 16],
    /// The SHA-256 that its bytes are to have.
    pub sha256: [u8; 32],
}

impl Quarantined {
    /// `quarantine/<end, 12 digits>-<place, 32 hex digits>-<sha256, 64 hex digits>.upload`
    pub fn key(&self) -> StoreKey {
        let (place, sha256) = (hex::encode(self.place), hex::encode(self.sha256));
        StoreKey(format!("{QUARANTINE}/{:012}-{place}-{sha256}.upload", self.end_s))
    }
}

/// The end that a key states.
fn end_of(key: &StoreKey) -> Option<u64> {
    key.as_str().strip_prefix(QUARANTINE)?.strip_prefix('/')?.split_once('-')?.0.parse().ok()
}

/// Removes uploads whose end is before `before_s`, seconds since 1970; returns how many. One LIST, and a DELETE for each thousand:
/// maintenance, on no request's way.
///
/// `before_s` should lie well behind now: by the clocks' difference between servers, and by the time that the slowest of them needs
/// to take in what it began to read before its end.
pub fn sweep(store: &dyn ObjectStore, before_s: u64) -> Result<usize> {
    let mut keys = store.list(QUARANTINE)?;
    keys.retain(|key| end_of(key).is_some_and(|end| end < before_s));
    store.delete_all(&keys)?;
    Ok(keys.len())
}

/// A copy of `bytes` bytes under `key`, as an upload.
pub(super) fn copied<S: ObjectStore + ?Sized>(store: &S, key: &StoreKey, bytes: u64) -> Result<Box<dyn Staged>> {
    let mut staged = store.stage()?;
    let mut at = 0;
    while at < bytes {
        let len = PIECE_BYTES.min(bytes - at);
        staged.write(&store.read(key, at, len)?)?;
        at += len;
    }
    Ok(staged)
}

const QUARANTINE: &str = "quarantine";
/// Bytes of one read: a bucket is asked seldom, and memory stays small.
const PIECE_BYTES: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::memory::MemoryStore;

    fn at(end_s: u64) -> Quarantined {
        Quarantined { end_s, place: [1; 16], sha256: [2; 32] }
    }

    #[test]
    fn a_key_states_its_end_and_nothing_else_is_swept() {
        let store = MemoryStore::new();
        assert_eq!(end_of(&at(1_800_000_000).key()), Some(1_800_000_000));
        let others = [StoreKey("quarantine/readme.txt".into()), StoreKey("packs/000000000001-x.upload".into())];
        let ends = [5, 99, 100, 101, u64::from(u32::MAX)];
        let keys = ends.map(|end| at(end).key());
        for key in keys.iter().chain(&others) {
            assert!(store.create(key, b"x").unwrap());
        }
        assert_eq!(sweep(&store, 100).unwrap(), 2);
        let left = |key: &StoreKey| store.size(key).is_ok();
        assert_eq!(keys.each_ref().map(left), [false, false, true, true, true]);
        assert!(others.iter().all(left));
        assert_eq!(sweep(&store, 100).unwrap(), 0);
    }
}
