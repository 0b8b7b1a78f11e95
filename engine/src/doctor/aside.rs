//! Replacing a file: the old bytes are kept first, the new ones are durable before they get the name.
//!
//! Invariants: a file is never written in place; what is kept is durable, under `damaged/<stamp>/`, before the name moves; an
//! interrupted replacement leaves the old file and perhaps leftovers that the next one removes.

use crate::{
    disk::{self, Disk, DiskFile, parent, write_all_at},
    error::Result,
    log::{files::remove_if_there, scan::read_up_to},
};

/// Where new content stands until it gets its name.
const MENDED: &str = "damaged/mended.new";
/// Bytes of one piece.
const PIECE_BYTES: usize = 256 << 10;

/// Keeps a copy of `path` as `damaged/<stamp>/<path>`, durably.
pub(super) fn keep(disk: &dyn Disk, path: &str, stamp: &str) -> Result<()> {
    let kept = place(path, stamp);
    disk::make_dir(disk, parent(&kept))?;
    remove_if_there(disk, &kept)?;
    let (from, to) = (disk.open(path)?, disk.create_new(&kept)?);
    copy(&*from, &*to, (0, from.len()?), 0)?;
    to.sync_data()?;
    disk.sync_dir(parent(&kept))
}

/// Moves `path` to `damaged/<stamp>/<path>`, durably: it is gone from where it was.
pub(super) fn take_away(disk: &dyn Disk, path: &str, stamp: &str) -> Result<()> {
    let kept = place(path, stamp);
    disk::make_dir(disk, parent(&kept))?;
    disk.rename(path, &kept)?;
    // The new name first: with either order one of the two is there, but only so never none.
    disk.sync_dir(parent(&kept))?;
    disk.sync_dir(parent(path))
}

/// Makes new content: `write` fills an empty file, `proven` says whether it is what it should be. `None` if it is not.
pub(super) fn make(
    disk: &dyn Disk,
    write: &dyn Fn(&dyn DiskFile) -> Result<()>,
    proven: &dyn Fn(&dyn Disk, &str) -> Result<bool>,
) -> Result<Option<Mended>> {
    disk::make_dir(disk, parent(MENDED))?;
    remove_if_there(disk, MENDED)?;
    let file = disk.create_new(MENDED)?;
    write(&*file)?;
    file.sync_data()?;
    if proven(disk, MENDED)? {
        return Ok(Some(Mended));
    }
    remove_if_there(disk, MENDED)?;
    Ok(None)
}

/// New content without a name.
pub(super) struct Mended;

impl Mended {
    /// What `look` makes of it.
    pub(super) fn look<T>(&self, disk: &dyn Disk, look: &dyn Fn(&dyn Disk, &str) -> Result<T>) -> Result<T> {
        look(disk, MENDED)
    }

    /// It is not wanted.
    pub(super) fn discard(self, disk: &dyn Disk) -> Result<()> {
        remove_if_there(disk, MENDED)
    }

    /// Gives it the name, durably; what has the name now is kept before.
    pub(super) fn put(self, disk: &dyn Disk, path: &str, stamp: &str) -> Result<()> {
        match keep(disk, path, stamp) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        disk::make_dir(disk, parent(path))?;
        disk.rename(MENDED, path)?;
        disk.sync_dir(parent(path))
    }
}

/// Copies `from..to` of a file to `at` of another.
pub(super) fn copy(source: &dyn DiskFile, into: &dyn DiskFile, (from, to): (u64, u64), at: u64) -> Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut done = from;
    while done < to {
        let wanted = usize::try_from(to - done).unwrap_or(usize::MAX).min(piece.len());
        let got = read_up_to(source, &mut piece[..wanted], done)?;
        if got == 0 {
            break;
        }
        write_all_at(into, &piece[..got], at + done - from)?;
        done += got as u64;
    }
    Ok(())
}

/// Makes a file `len` bytes long; what is added are written zeros, as in every segment.
pub(super) fn extend_with_zeros(file: &dyn DiskFile, len: u64) -> Result<()> {
    let zeros = vec![0; PIECE_BYTES];
    let mut at = file.len()?;
    while at < len {
        let count = usize::try_from(len - at).unwrap_or(usize::MAX).min(zeros.len());
        write_all_at(file, &zeros[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

fn place(path: &str, stamp: &str) -> String {
    format!("damaged/{stamp}/{path}")
}
