//! The disk of production: files under one directory.
//!
//! Invariants: this is the only place that touches the file system; descriptors are close-on-exec (std opens with
//! `O_CLOEXEC`); an interrupted read or write is tried again, a failed sync never is; every error names operation and path, the
//! path as the caller gave it: texts of errors reach clients, who need not learn where on this machine the root is. Only errors
//! of taking the root itself (creating it, locking it) name it.
//! It must never follow a path out of its root: absolute paths and `..` are refused.
#![allow(clippy::disallowed_methods, reason = "this is the door")]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind as IoErrorKind},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{Disk, DiskFile, DiskLock, check_path};
use crate::error::{Error, ErrorKind, Result};

/// Files under one directory of the machine's file system.
pub struct RealDisk {
    root: PathBuf,
    /// Files are opened for writing too.
    writable: bool,
    /// A sync is one.
    durable: bool,
}

impl RealDisk {
    /// A disk whose `""` is `root`. Nothing is touched yet; the root may be created with `create_dir("")`.
    pub fn new(root: PathBuf) -> RealDisk {
        RealDisk { root, writable: true, durable: true }
    }

    /// The same for reading: files of a directory that may be mounted read-only, or be somebody else's.
    pub fn for_reading(root: PathBuf) -> RealDisk {
        RealDisk { root, writable: false, durable: true }
    }

    /// The same without syncs, for copies of what is durable elsewhere: whatever a power loss makes of them, they are verified
    /// when they are read.
    pub fn for_copies(root: PathBuf) -> RealDisk {
        RealDisk { root, writable: true, durable: false }
    }

    /// The directory that is this disk's root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn resolve(&self, path: &str) -> Result<PathBuf> {
        check_path(path)?;
        Ok(if path.is_empty() { self.root.clone() } else { self.root.join(path) })
    }

    /// For those who start us, never for clients.
    fn in_full(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }

    fn file(&self, operation: &'static str, path: &str, options: &OpenOptions) -> Result<Box<dyn DiskFile>> {
        let resolved = self.resolve(path)?;
        let file = retry(|| options.open(&resolved)).map_err(|error| Error::io(operation, shown(path), error))?;
        Ok(Box::new(RealFile { file, path: path.to_owned(), durable: self.durable }))
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>> {
        self.file("open", path, OpenOptions::new().read(true).write(self.writable))
    }

    fn create_new(&self, path: &str) -> Result<Box<dyn DiskFile>> {
        self.file("create", path, OpenOptions::new().read(true).write(true).create_new(true))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (source, target) = (self.resolve(from)?, self.resolve(to)?);
        fs::rename(source, target).map_err(|error| Error::io("rename", shown(from), error))
    }

    fn remove(&self, path: &str) -> Result<()> {
        fs::remove_file(self.resolve(path)?).map_err(|error| Error::io("remove", shown(path), error))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        let entries = match fs::read_dir(self.resolve(dir)?) {
            Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| Error::io("list", shown(dir), error))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| Error::io("list", shown(dir), error))?.file_name();
            let name = name.into_string().map_err(|name| {
                Error::invalid(format!(
                    "list {}: the name {name:?} is not UTF-8; nothing of ours is called so",
                    shown(dir)
                ))
            })?;
            names.push(name);
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> Result<()> {
        if dir.is_empty() {
            return make_root(&self.root).map_err(|error| Error::io("create directory", self.in_full(dir), error));
        }
        fs::create_dir_all(self.resolve(dir)?).map_err(|error| Error::io("create directory", dir, error))
    }

    fn remove_dir(&self, dir: &str) -> Result<()> {
        fs::remove_dir(self.resolve(dir)?).map_err(|error| Error::io("remove directory", shown(dir), error))
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        if !self.durable {
            return Ok(());
        }
        let opened = File::open(self.resolve(dir)?);
        opened.and_then(|opened| opened.sync_all()).map_err(|error| Error::io("sync directory", shown(dir), error))
    }

    fn lock(&self, path: &str, holder: &str) -> Result<Box<dyn DiskLock>> {
        let resolved = self.resolve(path)?;
        let failed = |error: io::Error| Error::io("lock", self.in_full(path), error);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(resolved);
        let file = file.map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(self.held(path, &file)),
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).and_then(|()| file.write_all_at(holder.as_bytes(), 0)).map_err(failed)?;
        Ok(Box::new(RealLock { _file: file }))
    }
}

impl RealDisk {
    /// The answer for a lock that another process has, with what that process wrote about itself.
    fn held(&self, path: &str, file: &File) -> Error {
        let mut text = [0u8; HOLDER_BYTES_SHOWN];
        let read = retry(|| file.read_at(&mut text, 0)).unwrap_or(0);
        let holder = String::from_utf8_lossy(&text[..read]).into_owned();
        let holder = if holder.is_empty() { "another process".to_owned() } else { holder };
        Error::new(ErrorKind::Conflict, format!("lock {}: held by {holder}", self.in_full(path)))
    }
}

/// Creates a directory and those above it that are missing, each durable before the next is put into it.
fn make_root(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let above = path.parent().unwrap_or(Path::new(""));
    make_root(above)?;
    // Packs of private repositories and hashes of tokens are its owner's business only.
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != IoErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    File::open(above)?.sync_all()
}

struct RealFile {
    file: File,
    path: String,
    durable: bool,
}

impl RealFile {
    fn failed(&self, operation: &'static str) -> impl Fn(io::Error) -> Error {
        move |error| Error::io(operation, shown(&self.path), error)
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        retry(|| self.file.read_at(buffer, offset)).map_err(self.failed("read"))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        let written = retry(|| self.file.write_at(bytes, offset)).map_err(self.failed("write"))?;
        if written == 0 && !bytes.is_empty() {
            return Err(self.failed("write")(IoErrorKind::WriteZero.into()));
        }
        Ok(written)
    }

    fn sync_data(&self) -> Result<()> {
        match self.durable {
            true => self.file.sync_data().map_err(self.failed("sync")),
            false => Ok(()),
        }
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(self.failed("length of"))?.len())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(self.failed("set the length of"))
    }

    fn path(&self) -> &str {
        &self.path
    }
}

/// A path below the root, for errors.
fn shown(path: &str) -> &str {
    if path.is_empty() { "." } else { path }
}

/// The open descriptor is the lock: the kernel releases it with the last one, also when the process dies.
struct RealLock {
    _file: File,
}

impl DiskLock for RealLock {}

/// Tries again while a signal interrupts (F6).
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == IoErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Bytes of a holder's text that a refusal repeats.
const HOLDER_BYTES_SHOWN: usize = 512;
