//! What this server keeps of the bucket on its own disk: uploads under way, and copies of packs that it uploaded, or was asked for again.
//!
//! Invariants: a copy is made only of what the bucket has taken; no byte of a copy is given before its block was checked
//! ([`super::sums`]), so that damage to a copy is a copy that is not there, and never an answer, an error or a reason to condemn;
//! the copies together stay below a limit, least recently used ones go first; any of them may be deleted at any time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    Spool, Staged, StoreKey,
    sums::{Summing, Sums},
};
use crate::{
    error::{Error, ErrorKind, Result},
    id::PackId,
    log::fields::size,
    store::ObjectStore,
};

/// Copies in a directory.
pub struct Copies {
    directory: Spool,
    bytes_max: u64,
    held: Mutex<Held>,
    wanted: Mutex<Wanted>,
    asked: Mutex<Asked>,
}

/// Which packs were asked for lately that there is no copy of.
#[derive(Default)]
struct Asked {
    keys: BTreeSet<StoreKey>,
    /// The same, oldest first.
    order: VecDeque<StoreKey>,
}

/// Which copies there are.
#[derive(Default)]
struct Held {
    bytes: u64,
    keys: BTreeMap<StoreKey, Entry>,
    /// Keys by last use.
    uses: BTreeMap<u64, StoreKey>,
    next_use: u64,
}

/// One copy.
struct Entry {
    bytes: u64,
    last_use: u64,
    /// Read when they are first needed.
    sums: Option<Arc<Sums>>,
}

/// Copies that were damaged and are fetched anew.
#[derive(Default)]
struct Wanted {
    waiting: VecDeque<StoreKey>,
    /// Every one of this process: what is damaged twice lies on a disk that should not be written to again and again.
    all: BTreeSet<StoreKey>,
    /// Somebody fetches them.
    fetching: bool,
}

/// What a copy gives.
pub(super) enum Copied {
    /// These bytes, as the bucket has them.
    Bytes(Bytes),
    /// Nothing: there is no copy, or not of all that is asked for.
    Nothing,
    /// Nothing: it was damaged, and is gone.
    Damaged,
}

impl Copies {
    /// Copies in `directory`, at most `bytes_max` of them together; what is there already counts, and goes if it is too much.
    pub fn new(directory: Spool, bytes_max: u64) -> Result<Copies> {
        let copies = Copies { bytes_max, ..Copies::none(directory) };
        let packs = copies.directory.list(PACKS)?;
        let sums: BTreeSet<StoreKey> = copies.directory.list(SUMS)?.into_iter().collect();
        for orphan in sums.difference(&packs.iter().map(sums_key).collect()) {
            copies.directory.delete(orphan)?;
        }
        for key in packs {
            match sums.contains(&sums_key(&key)) {
                true => copies.held().insert(key.clone(), copies.directory.size(&key)?, None),
                false => copies.directory.delete(&key)?,
            }
        }
        copies.evict();
        Ok(copies)
    }

    /// No copies, and none are kept: what lies in `directory` is not looked at.
    pub fn none(directory: Spool) -> Copies {
        Copies { directory, bytes_max: 0, held: Mutex::default(), wanted: Mutex::default(), asked: Mutex::default() }
    }

    /// An upload in progress.
    pub(super) fn stage(&self) -> Result<Box<dyn Staged>> {
        self.directory.stage()
    }

    /// Keeps what was staged as the copy of `key`, if that is a pack: of the log there are files already, and what is read back of
    /// it must come from the bucket. It is a copy: failing to keep it is no failure.
    pub(super) fn keep(&self, key: &StoreKey, staged: Box<dyn Staged>, sums: Summing) {
        let sums = sums.finish();
        if !key.is_pack() || sums.bytes > self.bytes_max / 2 {
            return;
        }
        match self.try_keep(key, staged, &sums) {
            Ok(()) => {
                self.held().insert(key.clone(), sums.bytes, Some(Arc::new(sums)));
                self.evict();
            }
            Err(error) => tracing::warn!(%key, %error, "no local copy is kept"),
        }
    }

    /// The checksums first: a copy without them is none.
    fn try_keep(&self, key: &StoreKey, staged: Box<dyn Staged>, sums: &Sums) -> Result<()> {
        let place = sums_key(key);
        self.directory.delete(&place)?;
        self.directory.create(&place, &sums.encode(key))?;
        staged.commit(key).map(drop)
    }

    /// Bytes of the copy, if there is a sound one that has them.
    pub(super) fn read(&self, key: &StoreKey, offset: u64, len: u64) -> Copied {
        let Some(sums) = self.held().touch(key) else { return Copied::Nothing };
        match self.checked(key, sums, offset, len) {
            Ok(Some(bytes)) => Copied::Bytes(bytes),
            Ok(None) => Copied::Nothing,
            // No descriptor is free: the copy has nothing to do with it.
            Err(error) if error.kind() == ErrorKind::Full => Copied::Nothing,
            Err(error) => {
                tracing::warn!(%key, %error, "a local copy is damaged: it is dropped, and the bucket is asked");
                if self.forget(key) { Copied::Damaged } else { Copied::Nothing }
            }
        }
    }

    /// Bytes whose blocks are what they were; `None` if the copy has not all of them.
    fn checked(&self, key: &StoreKey, sums: Option<Arc<Sums>>, offset: u64, len: u64) -> Result<Option<Bytes>> {
        let sums = match sums {
            Some(sums) => sums,
            None => self.load(key)?,
        };
        let Some((start, count)) = sums.around(offset, len) else { return Ok(None) };
        let blocks = self.directory.read(key, start, count)?;
        if !sums.fit(start, &blocks) {
            return Err(Error::corrupt(key.as_str(), start, "a block does not have its checksum"));
        }
        let from = size(offset - start);
        Ok(Some(blocks.slice(from..from + size(len))))
    }

    /// All copies, with their bytes.
    pub fn keys(&self) -> Vec<(StoreKey, u64)> {
        self.held().keys.iter().map(|(key, entry)| (key.clone(), entry.bytes)).collect()
    }

    /// Whether there is a copy that hashes to its name. One that does not is dropped.
    pub fn is_whole(&self, key: &StoreKey) -> bool {
        let mut hash = Sha256::new();
        let read = self.whole(key, &mut |piece| {
            hash.update(piece);
            Ok(())
        });
        let whole = match read {
            Ok(()) => StoreKey::pack(PackId(hash.finalize().into())) == *key,
            Err(error) if error.is_not_found() || error.kind() == ErrorKind::Full => return false,
            Err(_) => false,
        };
        if !whole && self.forget(key) {
            tracing::warn!(%key, "a damaged local copy is dropped");
        }
        whole
    }

    /// All bytes of a copy, piece by piece; `NotFound` without one. It does not count as a use.
    pub fn whole(&self, key: &StoreKey, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let held = self.held().keys.get(key).map(|entry| (entry.bytes, entry.sums.clone()));
        let (bytes, sums) = held.ok_or_else(|| Error::not_found(format!("there is no local copy of {key}")))?;
        for at in (0..bytes).step_by(WHOLE_STEP) {
            let piece = self.checked(key, sums.clone(), at, (bytes - at).min(WHOLE_STEP as u64))?;
            let short = || Error::corrupt(key.as_str(), at, "the copy is shorter than it was");
            each(&piece.ok_or_else(short)?)?;
        }
        Ok(())
    }

    /// Reads the checksums of a copy that was there at the start.
    fn load(&self, key: &StoreKey) -> Result<Arc<Sums>> {
        let place = sums_key(key);
        let (file, _) = self.directory.read_tail(&place, SUMS_BYTES_MAX)?;
        let sums = Sums::decode(key, &file).map(Arc::new);
        let sums = sums.ok_or_else(|| Error::corrupt(place.as_str(), 0, "these are not the checksums of its copy"))?;
        if let Some(entry) = self.held().keys.get_mut(key) {
            entry.sums = Some(Arc::clone(&sums));
        }
        Ok(sums)
    }

    /// Whether there is a copy; then it was used just now.
    pub(super) fn touch(&self, key: &StoreKey) -> bool {
        self.held().touch(key).is_some()
    }

    /// Whether somebody asked for it before, not too long ago: what is read once needs no copy, which costs as much as reading it.
    pub(super) fn asked_again(&self, key: &StoreKey) -> bool {
        let mut asked = self.asked();
        if !asked.keys.insert(key.clone()) {
            return true;
        }
        asked.order.push_back(key.clone());
        if asked.order.len() > ASKED_MAX
            && let Some(oldest) = asked.order.pop_front()
        {
            asked.keys.remove(&oldest);
        }
        false
    }

    /// Too little of it is wanted for a copy: the next time is a first one again.
    pub(super) fn needs_none(&self, key: &StoreKey) {
        let mut asked = self.asked();
        asked.keys.remove(key);
        asked.order.retain(|asked| asked != key);
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the copies may take together.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Drops a copy; true if there was one.
    pub(super) fn forget(&self, key: &StoreKey) -> bool {
        let held = self.held().remove(key);
        if held {
            // A copy without checksums is swept at the next start, checksums without a copy too.
            for place in [key, &sums_key(key)] {
                if let Err(error) = self.directory.delete(place) {
                    tracing::warn!(key = %place, %error, "a local copy that is not used any more stays");
                }
            }
        }
        held
    }

    /// Notes that a copy that was damaged should be fetched anew. True: the caller is to see to it, until
    /// [`Copies::next_wanted`] has no more.
    pub(super) fn want(&self, key: &StoreKey) -> bool {
        let mut wanted = self.wanted();
        if wanted.all.len() >= WANTED_MAX || !wanted.all.insert(key.clone()) {
            return false;
        }
        wanted.waiting.push_back(key.clone());
        !std::mem::replace(&mut wanted.fetching, true)
    }

    /// The next copy to be fetched.
    pub(super) fn next_wanted(&self) -> Option<StoreKey> {
        let mut wanted = self.wanted();
        let next = wanted.waiting.pop_front();
        wanted.fetching = next.is_some();
        next
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

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn insert(&mut self, key: StoreKey, bytes: u64, sums: Option<Arc<Sums>>) {
        self.remove(&key);
        self.bytes += bytes;
        self.next_use += 1;
        self.uses.insert(self.next_use, key.clone());
        self.keys.insert(key, Entry { bytes, last_use: self.next_use, sums });
    }

    /// Counts a use; `None` if there is no such copy, else its checksums as far as they were read.
    fn touch(&mut self, key: &StoreKey) -> Option<Option<Arc<Sums>>> {
        let entry = self.keys.get_mut(key)?;
        self.next_use += 1;
        self.uses.remove(&entry.last_use);
        entry.last_use = self.next_use;
        self.uses.insert(self.next_use, key.clone());
        Some(entry.sums.clone())
    }

    fn remove(&mut self, key: &StoreKey) -> bool {
        let Some(entry) = self.keys.remove(key) else { return false };
        self.bytes -= entry.bytes;
        self.uses.remove(&entry.last_use);
        true
    }
}

/// `sums/ab/….sums` of `packs/ab/….pack`.
fn sums_key(pack: &StoreKey) -> StoreKey {
    let name = pack.as_str().trim_start_matches(PACKS).trim_end_matches(".pack");
    StoreKey(format!("{SUMS}{name}.sums"))
}

const PACKS: &str = "packs";
const SUMS: &str = "sums";
/// More than the checksums of the largest pack take.
const SUMS_BYTES_MAX: u64 = 1 << 20;
/// Bytes read at a time of a whole copy.
const WHOLE_STEP: usize = 8 << 20;
/// Packs that are known to have been asked for.
const ASKED_MAX: usize = 16_384;
/// Copies that one process fetches anew.
const WANTED_MAX: usize = 1_024;
