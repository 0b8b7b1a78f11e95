//! A disk with unreadable places: they read as zeros and are remembered, so that one bad sector hides nothing but itself.
//!
//! Invariants: only an I/O error of a read is forgiven, page by page, after a second try; writes, names and syncs fail as they do
//! below; what was forgiven is told as damage ([`Unreadable::of`]), also where zeros are what stood there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    disk::{Disk, DiskFile, DiskLock},
    error::{Error, Result},
};

/// Pages that could not be read, by file.
#[derive(Default)]
pub(super) struct Unreadable(Mutex<BTreeMap<String, BTreeSet<u64>>>);

impl Unreadable {
    /// Forgets everything: it is looked at again.
    pub(super) fn clear(&self) {
        self.pages().clear();
    }

    /// The first byte that could not be read in a file, and how many there are.
    pub(super) fn of(&self, path: &str) -> Option<(u64, u64)> {
        let pages = self.pages();
        let pages = pages.get(path)?;
        Some((*pages.first()?, pages.len() as u64 * PAGE_BYTES))
    }

    fn pages(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk over another one.
pub(super) struct Forgiving {
    disk: Arc<dyn Disk>,
    unreadable: Arc<Unreadable>,
}

impl Forgiving {
    pub(super) fn new(disk: Arc<dyn Disk>, unreadable: Arc<Unreadable>) -> Forgiving {
        Forgiving { disk, unreadable }
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(ForgivingFile { file, unreadable: Arc::clone(&self.unreadable) })
    }
}

impl Disk for Forgiving {
    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>> {
        Ok(self.file(self.disk.open(path)?))
    }

    fn create_new(&self, path: &str) -> Result<Box<dyn DiskFile>> {
        Ok(self.file(self.disk.create_new(path)?))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &str) -> Result<()> {
        self.disk.create_dir(dir)
    }

    fn remove_dir(&self, dir: &str) -> Result<()> {
        self.disk.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &str, holder: &str) -> Result<Box<dyn DiskLock>> {
        self.disk.lock(path, holder)
    }
}

struct ForgivingFile {
    file: Box<dyn DiskFile>,
    unreadable: Arc<Unreadable>,
}

impl DiskFile for ForgivingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        match self.file.read_at(buffer, offset) {
            Err(error) if is_unreadable(&error) => {}
            done => return done,
        }
        let in_page = usize::try_from(PAGE_BYTES - offset % PAGE_BYTES).unwrap_or(1);
        let count = buffer.len().min(in_page);
        match self.file.read_at(&mut buffer[..count], offset) {
            Err(error) if is_unreadable(&error) => {}
            done => return done,
        }
        let left = usize::try_from(self.file.len()?.saturating_sub(offset)).unwrap_or(usize::MAX);
        let page = offset / PAGE_BYTES * PAGE_BYTES;
        self.unreadable.pages().entry(self.path().to_owned()).or_default().insert(page);
        buffer[..count.min(left)].fill(0);
        Ok(count.min(left))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len)
    }

    fn path(&self) -> &str {
        self.file.path()
    }
}

/// EIO: the disk has the bytes and cannot give them.
fn is_unreadable(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.and_then(std::io::Error::raw_os_error) == Some(EIO)
}

const EIO: i32 = 5;
/// What is tried again, and given up, at once.
const PAGE_BYTES: u64 = 4096;
