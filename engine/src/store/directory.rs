//! An object store in a directory, over [`Disk`] so that a simulated disk covers it too.
//!
//! Invariants: bytes are written and synced under `staging/` before they get their key; the entry of the key and of every
//! directory above it is durable before `commit` answers; a key never gets other bytes (what is there is compared under
//! the commit lock, and one process owns the directory); a failed sync is not tried again: what it should have made durable
//! is made anew (F4); nothing is touched before the first upload; at most `OPEN_FILES_MAX` files are kept open for reading.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{Created, ObjectStore, Staged, StoreKey, not_of};
use crate::{
    clock::{Random, random16},
    disk::{Disk, DiskFile, make_dir, parent, read_exact_at, write_all_at},
    error::{Error, Result},
    id::LogId,
    planted::{self, PlantedBug},
};

/// Keys are paths under the disk's root.
pub struct DirectoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    random: Arc<dyn Random>,
    commit: Mutex<()>,
    /// Directories whose entries this process has made durable, so that a commit syncs only its own.
    durable_dirs: Mutex<BTreeSet<String>>,
    open: Mutex<Vec<(StoreKey, Reader)>>,
}

/// An open file and the length it had: keys are immutable.
#[derive(Clone)]
struct Reader {
    file: Arc<dyn DiskFile>,
    len: u64,
}

impl DirectoryStore {
    /// A store under the root of `disk`; staged files are named from `random`.
    pub fn new(disk: Arc<dyn Disk>, random: Arc<dyn Random>) -> DirectoryStore {
        let inner = Inner {
            disk,
            random,
            commit: Mutex::new(()),
            durable_dirs: Mutex::default(),
            open: Mutex::new(Vec::new()),
        };
        DirectoryStore { inner: Arc::new(inner) }
    }

    fn reader(&self, key: &StoreKey) -> Result<Reader> {
        if let Some(reader) = self.inner.cached(key) {
            return Ok(reader);
        }
        let file: Arc<dyn DiskFile> = Arc::from(self.inner.disk.open(key.as_str())?);
        let len = file.len()?;
        let reader = Reader { file, len };
        let mut open = self.inner.open_files();
        open.retain(|(held, _)| held != key);
        if open.len() >= OPEN_FILES_MAX {
            open.remove(0);
        }
        open.push((key.clone(), reader.clone()));
        Ok(reader)
    }

    fn stage_file(&self) -> Result<DirectoryStaged> {
        self.inner.make_dir(STAGING)?;
        let path = format!("{STAGING}/{}.part", hex::encode(random16(&*self.inner.random)?));
        let file = Some(self.inner.disk.create_new(&path)?);
        Ok(DirectoryStaged { inner: Arc::clone(&self.inner), file, path, buffer: Vec::new(), flushed: 0, done: false })
    }

    fn walk(&self, path: &str, keys: &mut Vec<StoreKey>, depth: usize) -> Result<()> {
        for name in self.inner.disk.list(path)? {
            let child = if path.is_empty() { name } else { format!("{path}/{name}") };
            // Keys end in a name with an extension; directories of the fan-out have none.
            if child.rsplit('/').next().is_some_and(|last| last.contains('.')) {
                keys.push(StoreKey(child));
            } else if depth < KEY_PARTS_MAX {
                self.walk(&child, keys, depth + 1)?;
            }
        }
        Ok(())
    }
}

impl ObjectStore for DirectoryStore {
    fn stage(&self) -> Result<Box<dyn Staged>> {
        Ok(Box::new(self.stage_file()?))
    }

    fn read(&self, key: &StoreKey, offset: u64, len: u64) -> Result<Bytes> {
        let reader = self.reader(key)?;
        // Checked against the file before anything is allocated.
        let (start, end) = cut(key.as_str(), offset, len, reader.len)?;
        let mut bytes = vec![0u8; end - start];
        read_exact_at(&*reader.file, &mut bytes, offset)?;
        Ok(Bytes::from(bytes))
    }

    fn read_tail(&self, key: &StoreKey, len: u64) -> Result<(Bytes, u64)> {
        let size = self.size(key)?;
        let len = len.min(size);
        Ok((self.read(key, size - len, len)?, size))
    }

    fn size(&self, key: &StoreKey) -> Result<u64> {
        self.reader(key).map(|reader| reader.len)
    }

    fn create(&self, key: &StoreKey, bytes: &[u8]) -> Result<bool> {
        let mut staged = self.stage_file()?;
        staged.write(bytes)?;
        Ok(staged.put(key, &|_, _| Ok(false))? == Placed::New)
    }

    fn delete(&self, key: &StoreKey) -> Result<()> {
        let _commit = self.inner.commit_lock();
        self.inner.open_files().retain(|(held, _)| held != key);
        match self.inner.disk.remove(key.as_str()) {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        }
        self.inner.disk.sync_dir(parent(key.as_str()))
    }

    fn list(&self, prefix: &str) -> Result<Vec<StoreKey>> {
        let mut keys = Vec::new();
        match prefix {
            "" => [LOG, PACKS].iter().try_for_each(|top| self.walk(top, &mut keys, 1))?,
            prefix => self.walk(prefix, &mut keys, 1)?,
        }
        keys.sort();
        Ok(keys)
    }

    fn uri(&self, key: &StoreKey) -> String {
        format!("file:{key}")
    }

    fn sweep_staged(&self) -> Result<usize> {
        let names = self.inner.disk.list(STAGING)?;
        for name in &names {
            self.inner.disk.remove(&format!("{STAGING}/{name}"))?;
        }
        Ok(names.len())
    }

    /// The file itself, read where it is; committed, it is renamed.
    fn take_up(&self, key: &StoreKey, bytes: u64) -> Result<Box<dyn Staged>> {
        let (inner, path) = (Arc::clone(&self.inner), key.as_str().to_owned());
        let file = Some(inner.disk.open(&path)?);
        Ok(Box::new(DirectoryStaged { inner, file, path, buffer: Vec::new(), flushed: bytes, done: true }))
    }

    fn claim(&self, log: LogId, fresh: bool) -> Result<()> {
        let disk = &*self.inner.disk;
        let file = match disk.open(MARK) {
            Err(error) if error.is_not_found() && fresh => return mark(disk, log),
            Err(error) if error.is_not_found() => return Err(not_of(log, None, MARK)),
            file => file?,
        };
        let mut bytes = vec![0; usize::try_from(file.len()?.min(MARK_BYTES_MAX)).unwrap_or(0)];
        read_exact_at(&*file, &mut bytes, 0)?;
        let found = String::from_utf8_lossy(&bytes);
        match found.trim() == log.to_string() {
            // Seen, but perhaps never durable: the sync of the process that made it may have failed (F4).
            true if fresh => mark(disk, log),
            true => Ok(()),
            false => Err(not_of(log, Some(found.trim()), MARK)),
        }
    }
}

/// Writes the mark of `log`, durable before its name is: it is there whole or not at all.
fn mark(disk: &dyn Disk, log: LogId) -> Result<()> {
    disk.create_dir("")?;
    match disk.remove(MARK_NEW) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    let file = disk.create_new(MARK_NEW)?;
    write_all_at(&*file, format!("{log}\n").as_bytes(), 0)?;
    file.sync_data()?;
    disk.rename(MARK_NEW, MARK)?;
    disk.sync_dir("")
}

impl Inner {
    fn cached(&self, key: &StoreKey) -> Option<Reader> {
        let mut open = self.open_files();
        let place = open.iter().position(|(held, _)| held == key)?;
        let entry = open.remove(place);
        let reader = entry.1.clone();
        // Least recently used first.
        open.push(entry);
        Some(reader)
    }

    fn open_files(&self) -> MutexGuard<'_, Vec<(StoreKey, Reader)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit_lock(&self) -> MutexGuard<'_, ()> {
        self.commit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a directory and makes it and its parents durable entries.
    fn make_dir(&self, dir: &str) -> Result<()> {
        let mut durable = self.durable_dirs.lock().unwrap_or_else(PoisonError::into_inner);
        if !durable.contains(dir) {
            make_dir(&*self.disk, dir)?;
            durable.insert(dir.to_owned());
        }
        Ok(())
    }

    /// Gives a synced file its key. `over`: whether it may take the place of what stands there.
    fn publish(&self, file: &dyn DiskFile, staged: &str, key: &StoreKey, over: &Over<'_>) -> Result<Placed> {
        let dir = parent(key.as_str());
        let _commit = self.commit_lock();
        let placed = match self.disk.open(key.as_str()) {
            Err(error) if error.is_not_found() => Placed::New,
            Err(error) => return Err(error),
            Ok(present) if over(&*present, file)? => Placed::Over,
            Ok(_) => return Ok(Placed::Not),
        };
        self.make_dir(dir)?;
        self.disk.rename(staged, key.as_str())?;
        // It may have been an upload in quarantine, and read there.
        self.open_files().retain(|(held, _)| held.as_str() != staged);
        self.disk.sync_dir(dir)?;
        Ok(placed)
    }
}

/// May the second file take the place of the first?
type Over<'a> = dyn Fn(&dyn DiskFile, &dyn DiskFile) -> Result<bool> + 'a;

/// What became of a staged file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Placed {
    /// It has its key, which nobody had.
    New,
    /// It has its key, in the place of equal bytes.
    Over,
    /// Something else has the key.
    Not,
}

struct DirectoryStaged {
    inner: Arc<Inner>,
    file: Option<Box<dyn DiskFile>>,
    path: String,
    buffer: Vec<u8>,
    flushed: u64,
    /// It is not this upload's to remove.
    done: bool,
}

impl DirectoryStaged {
    fn file(&self) -> Result<&dyn DiskFile> {
        self.file.as_deref().ok_or_else(|| Error::invalid("the upload is over"))
    }

    fn put(&mut self, key: &StoreKey, over: &Over<'_>) -> Result<Placed> {
        self.flush()?;
        let file = self.file()?;
        if !planted::is(PlantedBug::EventBeforePack) {
            file.sync_data()?;
        }
        let placed = self.inner.publish(file, &self.path, key, over)?;
        self.done |= placed != Placed::Not;
        Ok(placed)
    }

    fn flush(&mut self) -> Result<()> {
        write_all_at(self.file()?, &self.buffer, self.flushed)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Staged for DirectoryStaged {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            write_all_at(self.file()?, bytes, self.flushed)?;
            self.flushed += bytes.len() as u64;
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn read_back(&self, offset: u64, len: u64) -> Result<Bytes> {
        let total = self.flushed + self.buffer.len() as u64;
        let (start, end) = cut(&self.path, offset, len, total)?;
        let mut bytes = vec![0u8; end - start];
        let on_disk = self.flushed.saturating_sub(offset).min(len);
        let split = usize::try_from(on_disk).unwrap_or(bytes.len());
        read_exact_at(self.file()?, &mut bytes[..split], offset)?;
        let from = usize::try_from((offset + on_disk).saturating_sub(self.flushed)).unwrap_or(self.buffer.len());
        let rest = bytes.len() - split;
        bytes[split..].copy_from_slice(&self.buffer[from..from + rest]);
        Ok(Bytes::from(bytes))
    }

    fn commit(mut self: Box<Self>, key: &StoreKey) -> Result<Created> {
        // Also over equal bytes: the sync that should have made their name durable may have failed (F4).
        match self.put(key, &equal)? {
            Placed::New => Ok(Created::New),
            Placed::Over => Ok(Created::Existed),
            Placed::Not => Err(Error::corrupt(key.as_str(), 0, "other bytes stand under this key")),
        }
    }
}

impl Drop for DirectoryStaged {
    fn drop(&mut self) {
        self.file = None;
        if self.done {
            return;
        }
        // After a failed directory sync the file may have its key already: then there is nothing left to remove here.
        if let Err(error) = self.inner.disk.remove(&self.path)
            && !error.is_not_found()
        {
            tracing::warn!(path = %self.path, %error, "an abandoned upload stays until the next start");
        }
    }
}

/// True if two files have the same bytes.
fn equal(one: &dyn DiskFile, other: &dyn DiskFile) -> Result<bool> {
    let len = one.len()?;
    if len != other.len()? {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut at = 0;
    while at < len {
        let count = usize::try_from(len - at).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        read_exact_at(one, &mut left[..count], at)?;
        read_exact_at(other, &mut right[..count], at)?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

/// Start and end of a read, checked against the object's length.
pub(super) fn cut(file: &str, offset: u64, len: u64, total: u64) -> Result<(usize, usize)> {
    let short = || Error::corrupt(file, total, format!("the object ends before byte {offset} + {len}"));
    let end = offset.checked_add(len).filter(|end| *end <= total).ok_or_else(short)?;
    let start = usize::try_from(offset).map_err(|_| short())?;
    Ok((start, usize::try_from(end).map_err(|_| short())?))
}

const STAGING: &str = "staging";
/// Names the log that the packs belong to.
const MARK: &str = "STORE";
const MARK_NEW: &str = "STORE.new";
/// No more of a mark is read.
const MARK_BYTES_MAX: u64 = 256;
const LOG: &str = "log";
const PACKS: &str = "packs";
/// Small writes are gathered up to this.
const BUFFER_BYTES: usize = 256 << 10;
/// Files kept open for reading.
const OPEN_FILES_MAX: usize = 64;
/// No key has more parts.
const KEY_PARTS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
    use super::*;
    use crate::{clock::SeededRandom, disk::real::RealDisk, id::PackId};

    fn store(root: &std::path::Path) -> DirectoryStore {
        let disk = Arc::new(RealDisk::new(root.to_path_buf()));
        DirectoryStore::new(disk, Arc::new(SeededRandom::new(7)))
    }

    #[test]
    fn what_an_interrupted_upload_left_is_swept_and_a_dropped_one_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let first = store(root.path());
        let mut staged = first.stage().unwrap();
        staged.write(b"half").unwrap();
        std::mem::forget(staged);
        drop(first.stage().unwrap());
        // Another seed, as another start would have.
        assert_eq!(first.sweep_staged().unwrap(), 1);
        assert_eq!(first.sweep_staged().unwrap(), 0);
    }

    #[test]
    fn more_files_than_the_cap_can_be_read_and_a_deleted_one_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        for name in 0..(OPEN_FILES_MAX as u8 + 6) {
            let mut staged = store.stage().unwrap();
            staged.write(&[name; 3]).unwrap();
            staged.commit(&StoreKey::pack(PackId([name; 32]))).unwrap();
        }
        for name in 0..(OPEN_FILES_MAX as u8 + 6) {
            assert_eq!(store.read(&StoreKey::pack(PackId([name; 32])), 1, 2).unwrap(), vec![name; 2]);
        }
        assert_eq!(store.inner.open_files().len(), OPEN_FILES_MAX);
        let key = StoreKey::pack(PackId([69; 32]));
        store.delete(&key).unwrap();
        assert!(store.read(&key, 0, 1).unwrap_err().is_not_found());
    }
}
