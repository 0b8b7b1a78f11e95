//! The one door to the user's files: repositories and working trees are theirs, not stored data of ours.
//!
//! Invariants: never follows a symbolic link at the name itself; never reads more than it was told to; a file gets its name
//! only when all its bytes are there ([`Writing`]), and one that is not finished leaves nothing.
#![allow(
    clippy::disallowed_methods,
    reason = "this is the door: a user's own files, which no simulated disk stands for"
)]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use reprise_engine::id::ObjectId;
use sha2::{Digest, Sha256};

use super::{ClientError, counter::Counter};

/// What stands under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A regular file of so many bytes.
    File(u64),
    /// A directory.
    Directory,
    /// A symbolic link or something else that is neither.
    Other,
}

/// Looks, without following a link.
pub fn look(path: &Path) -> Result<Found, ClientError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Found::File(metadata.len())),
        Ok(metadata) if metadata.is_dir() => Ok(Found::Directory),
        Ok(_) => Ok(Found::Other),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Found::Nothing)
        }
        Err(error) => Err(ClientError::files("looking at", path, error)),
    }
}

/// Names in a directory, sorted; none if it is not there. A name that is not UTF-8 is refused.
pub fn names(dir: &Path) -> Result<Vec<String>, ClientError> {
    let failed = |error| ClientError::files("reading directory", dir, error);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name().into_string();
        names.push(name.map_err(|name| {
            ClientError::Refused(format!("{} holds {name:?}, a name that is not UTF-8", dir.display()))
        })?);
    }
    names.sort_unstable();
    Ok(names)
}

/// All of a regular file, if it has at most `max` bytes.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    open(path)?
        .take(max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| ClientError::files("reading", path, error))?;
    if bytes.len() as u64 > max {
        return Err(ClientError::Refused(format!("{} has more than {max} bytes", path.display())));
    }
    Ok(bytes)
}

/// The SHA-256 of a regular file and how many bytes it has; each piece is shown to `each` on the way.
pub fn hash(path: &Path, each: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(ObjectId, u64), ClientError> {
    let failed = |error| ClientError::files("reading", path, error);
    let mut each = each;
    let (mut file, mut hasher, mut total) = (open(path)?, Sha256::new(), 0);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = match file.read(&mut piece) {
            Ok(0) => return Ok((ObjectId(hasher.finalize().into()), total)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        hasher.update(&piece[..count]);
        each(&piece[..count]).map_err(failed)?;
        total += count as u64;
    }
}

fn open(path: &Path) -> Result<File, ClientError> {
    let opened = OpenOptions::new().read(true).open(path);
    opened.map_err(|error| ClientError::files("opening", path, error))
}

/// Opens a file, made if it is not there, cut to `len` bytes, to append to it.
pub fn append_at(path: &Path, len: u64) -> Result<File, ClientError> {
    let file = lock_file(path)?;
    file.set_len(len).map_err(|error| ClientError::files("cutting", path, error))?;
    Ok(file)
}

/// A file that tells how much of it was read.
pub struct Counting {
    file: File,
    counter: Arc<Counter>,
}

impl Counting {
    /// Opens it.
    pub fn open(path: &Path, counter: Arc<Counter>) -> Result<Counting, ClientError> {
        Ok(Counting { file: open(path)?, counter })
    }
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.counter.add(count as u64);
        Ok(count)
    }
}

/// Makes a directory and those above it; fine if it is there.
pub fn make_dir(dir: &Path) -> Result<(), ClientError> {
    fs::create_dir_all(dir).map_err(|error| ClientError::files("making directory", dir, error))
}

/// Removes a file; fine if it is not there.
pub fn remove(path: &Path) -> Result<(), ClientError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ClientError::files("removing", path, error)),
        _ => Ok(()),
    }
}

/// Removes a directory with all that is in it; fine if it is not there.
pub fn remove_all(dir: &Path) -> Result<(), ClientError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ClientError::files("removing", dir, error)),
        _ => Ok(()),
    }
}

/// Removes a directory that is empty; one that is not stays.
pub fn remove_empty_dir(dir: &Path) {
    // Not empty, or gone already: both are as they should be.
    _ = fs::remove_dir(dir).is_ok();
}

/// Gives `from` the name `to`.
pub fn rename(from: &Path, to: &Path) -> Result<(), ClientError> {
    fs::rename(from, to).map_err(|error| ClientError::files("renaming to", to, error))
}

/// Writes a whole small file under its name at once.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), ClientError> {
    let mut writing = Writing::beside(path)?;
    writing.write(bytes)?;
    writing.finish(path)
}

/// Opens a file to append to it (or for its lock alone), made if it is not there.
pub fn lock_file(path: &Path) -> Result<File, ClientError> {
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
    opened.map_err(|error| ClientError::files("opening", path, error))
}

/// Whether `path` is the name of this open file.
pub fn is_still(file: &File, path: &Path) -> Result<bool, ClientError> {
    let failed = |error| ClientError::files("looking at", path, error);
    let open = file.metadata().map_err(failed)?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Makes everything on the file system of `path` durable: one call for a hundred thousand small files.
pub fn sync_all(path: &Path) -> Result<(), ClientError> {
    let dir = open(path)?;
    rustix::fs::syncfs(&dir).map_err(|error| ClientError::files("syncing", path, error.into()))
}

/// A file that has no name yet. Dropped without [`Writing::finish`] it leaves nothing.
pub struct Writing {
    file: File,
    path: PathBuf,
    named: bool,
}

impl Writing {
    /// Begins a file in the directory of `path`, which is made.
    pub fn beside(path: &Path) -> Result<Writing, ClientError> {
        let dir = path.parent().unwrap_or(Path::new("."));
        make_dir(dir)?;
        // The same beginning as the stock client's own unfinished files, which everyone who lists objects steps over.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{UNFINISHED}{}-{count}", std::process::id()));
        // One of a dead process that had our number.
        remove(&path)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
        let file = file.map_err(|error| ClientError::files("creating", &path, error))?;
        Ok(Writing { file, path, named: false })
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.file.write_all(bytes).map_err(|error| ClientError::files("writing", &self.path, error))
    }

    /// The same for [`hash`].
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Gives it its name, replacing what is there.
    pub fn finish(mut self, path: &Path) -> Result<(), ClientError> {
        rename(&self.path, path)?;
        self.named = true;
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.named {
            // Nobody looks at it; the next one who needs its name removes it.
            _ = remove(&self.path).is_ok();
        }
    }
}

/// How the names of unfinished files begin.
pub const UNFINISHED: &str = ".obj-tmp-";
/// One piece of a file that is read through.
const PIECE_BYTES: usize = 256 << 10;
/// Makes the names of one process's unfinished files differ.
static COUNT: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let mut writing = Writing::beside(&path).unwrap();
        writing.write(b"half").unwrap();
        drop(writing);
        assert_eq!(names(&dir.path().join("a")).unwrap(), Vec::<String>::new());
        write(&path, b"whole").unwrap();
        assert_eq!(
            (names(&dir.path().join("a")).unwrap(), read(&path, 5).unwrap()),
            (vec!["b".to_owned()], b"whole".to_vec())
        );
    }

    #[test]
    fn more_bytes_than_were_asked_for_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("six");
        write(&path, b"123456").unwrap();
        assert!(read(&path, 5).unwrap_err().to_string().contains("more than 5 bytes"));
    }

    #[test]
    fn a_link_is_neither_file_nor_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        assert_eq!(look(&dir.path().join("link")).unwrap(), Found::Other);
        assert_eq!(look(dir.path()).unwrap(), Found::Directory);
        assert_eq!(look(&dir.path().join("none")).unwrap(), Found::Nothing);
    }
}
