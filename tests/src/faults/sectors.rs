//! A disk with sectors that it cannot read (EIO), for good.
//!
//! Invariants: only reads that touch a bad sector fail, each time; a file that takes the name of another one stands on sound sectors;
//! a file that is moved takes its bad sectors along.

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex},
};

use reprise_engine::{
    Error, Result,
    disk::{Disk, DiskFile, DiskLock, sim::SimDisk},
};

type Bad = Arc<Mutex<Vec<(String, Range<u64>)>>>;

/// A simulated disk with bad sectors.
#[derive(Clone)]
pub struct BadSectors {
    disk: SimDisk,
    bad: Bad,
}

impl BadSectors {
    /// `bad` names bytes of files that cannot be read.
    pub fn new(disk: &SimDisk, bad: &[(&str, Range<u64>)]) -> BadSectors {
        let bad = bad.iter().map(|(path, range)| ((*path).to_owned(), range.clone())).collect();
        BadSectors { disk: disk.clone(), bad: Arc::new(Mutex::new(bad)) }
    }

    fn file(&self, path: &str, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let bad = self.bad.lock().unwrap();
        let bad = bad.iter().filter(|(bad, _)| bad == path).map(|(_, range)| range.clone()).collect();
        Box::new(BadFile { file, bad })
    }
}

impl Disk for BadSectors {
    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>> {
        Ok(self.file(path, self.disk.open(path)?))
    }

    fn create_new(&self, path: &str) -> Result<Box<dyn DiskFile>> {
        self.disk.create_new(path)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)?;
        let mut bad = self.bad.lock().unwrap();
        bad.retain(|(path, _)| path != to);
        bad.iter_mut().filter(|(path, _)| path == from).for_each(|(path, _)| to.clone_into(path));
        Ok(())
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

struct BadFile {
    file: Box<dyn DiskFile>,
    bad: Vec<Range<u64>>,
}

impl DiskFile for BadFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let end = offset + buffer.len() as u64;
        if self.bad.iter().any(|bad| bad.start < end && offset < bad.end) {
            return Err(Error::io("read", self.path(), io::Error::from_raw_os_error(5)));
        }
        self.file.read_at(buffer, offset)
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
