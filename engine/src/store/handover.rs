//! What a store still holds of a log that is lost, and setting it aside so that a new log may begin there.
//!
//! Invariants: nothing is lost: every key goes to `aside/<old log>/…` with its bytes before it goes from its place; the mark
//! goes last, so that an interrupted call may be repeated; packs are not touched. Who calls it knows that nobody writes that
//! log any more: nothing here can.

use crate::{
    error::{Error, Result},
    id::LogId,
    store::{ObjectStore, StoreKey},
};

/// The mark and the keys of a log that once had this store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remains {
    /// What the mark says, if there is one.
    pub mark: Option<String>,
    /// Sealed segments, slots, and the rule of a shared log.
    pub keys: Vec<StoreKey>,
}

impl Remains {
    /// Looks for them. Lists keys: for maintenance only.
    pub fn of(store: &dyn ObjectStore) -> Result<Remains> {
        let mark = match store.read_tail(&StoreKey::mark(), MARK_BYTES_MAX) {
            Err(error) if error.is_not_found() => None,
            read => Some(String::from_utf8_lossy(&read?.0).trim().to_owned()),
        };
        let mut keys = store.list("log")?;
        // Not every store lists names without an extension.
        let shared = StoreKey::shared();
        match store.size(&shared) {
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
            Ok(_) if keys.contains(&shared) => {}
            Ok(_) => keys.push(shared),
        }
        Ok(Remains { mark, keys })
    }

    /// True if there is nothing: the store is anybody's.
    pub fn is_empty(&self) -> bool {
        self.mark.is_none() && self.keys.is_empty()
    }

    /// What the old log is called: its id, or `unmarked` where no mark names one.
    pub fn log_name(&self) -> String {
        let log = self.mark.as_deref().and_then(|mark| mark.parse::<LogId>().ok());
        log.map_or_else(|| UNMARKED.to_owned(), |log| log.to_string())
    }

    /// Moves everything below `aside/<old log>/`, the mark last.
    pub fn set_aside(&self, store: &dyn ObjectStore) -> Result<()> {
        for key in &self.keys {
            self.copy(store, key)?;
        }
        store.delete_all(&self.keys)?;
        if self.mark.is_some() {
            self.copy(store, &StoreKey::mark())?;
            store.delete(&StoreKey::mark())?;
        }
        Ok(())
    }

    fn copy(&self, store: &dyn ObjectStore, key: &StoreKey) -> Result<()> {
        let size = store.size(key)?;
        let mut staged = store.stage()?;
        let mut at = 0;
        while at < size {
            let bytes = store.read(key, at, PIECE_BYTES.min(size - at))?;
            staged.write(&bytes)?;
            at += bytes.len() as u64;
        }
        let aside = StoreKey::aside(&self.log_name(), key);
        staged.commit(&aside)?;
        // The original is deleted on the word of this.
        let kept = store.size(&aside)?;
        if kept != size {
            return Err(Error::corrupt(aside.as_str(), kept, format!("it was set aside with {size} bytes")));
        }
        Ok(())
    }
}

const UNMARKED: &str = "unmarked";
/// No more of a mark is read.
const MARK_BYTES_MAX: u64 = 256;
const PIECE_BYTES: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{clock::SeededRandom, disk::sim::SimDisk, id::Position, store::directory::DirectoryStore};
    use std::sync::Arc;

    #[test]
    fn what_is_set_aside_leaves_the_store_to_a_new_log_and_is_lost_nowhere() {
        let store = DirectoryStore::new(Arc::new(SimDisk::new()), Arc::new(SeededRandom::new(1)));
        let (old, new) = (LogId([1; 16]), LogId([2; 16]));
        store.claim(old, true).unwrap();
        for key in [StoreKey::segment(Position(1)), StoreKey::slot(7), StoreKey::shared()] {
            store.create(&key, key.as_str().as_bytes()).unwrap();
        }
        let remains = Remains::of(&store).unwrap();
        assert_eq!((remains.log_name(), remains.keys.len()), (old.to_string(), 3));
        assert!(store.claim(new, true).is_err(), "a mark is never taken over in passing");
        remains.set_aside(&store).unwrap();
        assert!(Remains::of(&store).unwrap().is_empty());
        for key in remains.keys.iter().chain([&StoreKey::mark()]) {
            let (kept, _) = store.read_tail(&StoreKey::aside(&old.to_string(), key), 1 << 10).unwrap();
            assert!(key == &StoreKey::mark() || kept == key.as_str().as_bytes(), "{key}");
        }
        store.claim(new, true).unwrap();
    }

    #[test]
    fn setting_aside_may_be_repeated_wherever_it_was_interrupted() {
        let store = DirectoryStore::new(Arc::new(SimDisk::new()), Arc::new(SeededRandom::new(1)));
        store.claim(LogId([1; 16]), true).unwrap();
        store.create(&StoreKey::segment(Position(1)), b"one").unwrap();
        let remains = Remains::of(&store).unwrap();
        // As if it had ended before anything was deleted.
        remains.copy(&store, &remains.keys[0]).unwrap();
        Remains::of(&store).unwrap().set_aside(&store).unwrap();
        assert!(Remains::of(&store).unwrap().is_empty());
    }
}
