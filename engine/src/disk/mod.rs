//! The one door to files: a narrow trait with a real and a simulated implementation.
//!
//! Invariants: paths are relative to the disk's root, with `/` between parts, never absolute, never `..`; reads and writes
//! may be short (callers loop: [`read_exact_at`], [`write_all_at`]); nothing is durable before `sync_data` (a file's bytes)
//! or `sync_dir` (a directory's entries) returned Ok; a failed sync is never tried again (F4).

use crate::error::{Error, Result};

pub(crate) mod bytes;
pub mod real;
pub mod sim;

/// Files under one root.
pub trait Disk: Send + Sync {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>>;
    /// Creates a new, empty file; `Conflict` if it exists.
    fn create_new(&self, path: &str) -> Result<Box<dyn DiskFile>>;
    /// Atomically gives `from` the name `to`, replacing what is there. Durable after `sync_dir` of both parents.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Removes a file. Durable after `sync_dir` of the parent.
    fn remove(&self, path: &str) -> Result<()>;
    /// Names in a directory, sorted; empty if the directory does not exist.
    fn list(&self, dir: &str) -> Result<Vec<String>>;
    /// Creates a directory and its parents; fine if it exists. Durable after `sync_dir` of each new entry's parent; for the
    /// root (`""`), whose parents are not the disk's, when this returns. See [`make_dir`].
    fn create_dir(&self, dir: &str) -> Result<()>;
    /// Removes an empty directory. Durable after `sync_dir` of the parent.
    fn remove_dir(&self, dir: &str) -> Result<()>;
    /// Makes a directory's entries durable. `""` is the root.
    fn sync_dir(&self, dir: &str) -> Result<()>;
    /// Takes the exclusive lock on `path` (created if absent) and writes `holder` into it; `Conflict` whose text names the
    /// present holder if another process has it. Released when the returned guard is dropped or the process dies.
    fn lock(&self, path: &str, holder: &str) -> Result<Box<dyn DiskLock>>;
}

/// An open file. Positional I/O only.
#[allow(clippy::len_without_is_empty, reason = "a length is asked for to check offsets, never for emptiness")]
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end. May be short.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes up to `bytes.len()` bytes at `offset`, extending the file. May be short, never 0 for non-empty input.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize>;
    /// Makes written bytes and the length durable (fdatasync).
    fn sync_data(&self) -> Result<()>;
    /// The length in bytes.
    fn len(&self) -> Result<u64>;
    /// Cuts or extends (with zeros) to `len` bytes.
    fn set_len(&self, len: u64) -> Result<()>;
    /// The path it was opened with, for errors.
    fn path(&self) -> &str;
}

/// Held while the directory is ours.
pub trait DiskLock: Send + Sync {}

/// Reads exactly `buffer.len()` bytes at `offset`; an early end of file is `Corrupt` (the caller knew the length).
pub fn read_exact_at(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + done as u64;
        let count = file.read_at(&mut buffer[done..], at)?;
        if count == 0 {
            return Err(Error::corrupt(file.path(), at, "the file ends early"));
        }
        done += count;
    }
    Ok(())
}

/// Writes all of `bytes` at `offset`.
pub fn write_all_at(file: &dyn DiskFile, bytes: &[u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let count = file.write_at(&bytes[done..], offset + done as u64)?;
        assert!(count > 0 && count <= bytes.len() - done, "a write moves forward");
        done += count;
    }
    Ok(())
}

/// Makes `dir` and the directories above it, with durable entries up to the root; fine if they are there.
///
/// The rule that every directory of ours is made by: nothing is put into one before its own entry is durable. So one that
/// holds something is durable; one that is empty may be of a process that died, or whose sync failed, before that, and a
/// second sync would prove nothing (F4): it is made anew.
pub fn make_dir(disk: &dyn Disk, dir: &str) -> Result<()> {
    if dir.is_empty() {
        return Ok(());
    }
    make_dir(disk, parent(dir))?;
    if !disk.list(dir)?.is_empty() {
        return Ok(());
    }
    match disk.remove_dir(dir) {
        Ok(()) => {}
        Err(error) if error.is_not_found() => {}
        // Somebody put something into it between the two calls, by the same rule.
        Err(_) if !disk.list(dir)?.is_empty() => return Ok(()),
        Err(error) => return Err(error),
    }
    disk.create_dir(dir)?;
    disk.sync_dir(parent(dir))
}

/// All of a file; `None` if it is not there. `Corrupt` if it has more than `bytes_max`.
pub fn read_file(disk: &dyn Disk, path: &str, bytes_max: u64) -> Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Err(error) if error.is_not_found() => return Ok(None),
        file => file?,
    };
    let len = file.len()?;
    let len = usize::try_from(len).ok().filter(|_| len <= bytes_max);
    let mut bytes = vec![0; len.ok_or_else(|| Error::corrupt(path, bytes_max, "it is longer than it ever gets"))?];
    read_exact_at(&*file, &mut bytes, 0)?;
    Ok(Some(bytes))
}

/// Gives a file this content, in one step: it has the old one or the new one, whatever happens. Durable when this returns.
pub fn replace_file(disk: &dyn Disk, path: &str, bytes: &[u8]) -> Result<()> {
    let new = format!("{path}.new");
    match disk.remove(&new) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    let file = disk.create_new(&new)?;
    write_all_at(&*file, bytes, 0)?;
    file.sync_data()?;
    disk.rename(&new, path)?;
    disk.sync_dir(parent(path))
}

/// The directory part of a relative path; `""` for a top-level name.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Refuses what could leave the root: absolute paths, empty parts, `.` and `..`. The root itself is `""`.
fn check_path(path: &str) -> Result<()> {
    let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0');
    if !path.is_empty() && path.split('/').any(bad) {
        return Err(Error::invalid(format!("'{path}' is not a path below the disk's root")));
    }
    Ok(())
}

#[cfg(test)]
mod contract;
