//! Replacing a file: the old bytes are kept first, the new ones are durable before they get the name.
//!
//! Invariants: a file is never written in place; what is kept is durable, under `damaged/<stamp>/`, before the name moves, and
//! never replaced by anything; an interrupted replacement leaves the old file and perhaps leftovers that the next one removes.

use crate::{
    disk::{self, Disk, DiskFile, parent, write_all_at},
    error::Result,
    log::{files::remove_if_there, scan::read_up_to},
};

/// Where new content stands until it gets its name.
const MENDED: &str = "damaged/mended.new";
/// Where a copy of what is kept stands until it is whole.
const COPIED: &str = "damaged/kept.new";
/// Bytes of one piece.
const PIECE_BYTES: usize = 256 << 10;

/// Keeps a copy of `path` under `damaged/<stamp>/`, durably. Returns its name.
pub(super) fn keep(disk: &dyn Disk, path: &str, stamp: &str) -> Result<String> {
    keep_aside(&*disk.open(path)?, disk, path, stamp)
}

/// Keeps a copy of `from`, wherever it lies, as `path` under `damaged/<stamp>/` of `disk`, durably. Returns its name.
pub fn keep_aside(from: &dyn DiskFile, disk: &dyn Disk, path: &str, stamp: &str) -> Result<String> {
    let kept = free_name(disk, path, stamp)?;
    disk::make_dir(disk, parent(&kept))?;
    remove_if_there(disk, COPIED)?;
    let to = disk.create_new(COPIED)?;
    copy_whole(from, &*to)?;
    to.sync_data()?;
    disk.rename(COPIED, &kept)?;
    disk.sync_dir(parent(&kept))?;
    Ok(kept)
}

/// Moves `path` to under `damaged/<stamp>/`, durably: it is gone from where it was. Returns its new name.
pub(super) fn take_away(disk: &dyn Disk, path: &str, stamp: &str) -> Result<String> {
    let kept = free_name(disk, path, stamp)?;
    disk::make_dir(disk, parent(&kept))?;
    disk.rename(path, &kept)?;
    // The new name before the loss of the old one: in this order a crash leaves one of them or both.
    disk.sync_dir(parent(&kept))?;
    disk.sync_dir(parent(path))?;
    Ok(kept)
}

/// Writes a new file under `damaged/<stamp>/`, durably.
pub(super) fn leave(disk: &dyn Disk, name: &str, stamp: &str, bytes: &[u8]) -> Result<()> {
    let left = free_name(disk, name, stamp)?;
    disk::make_dir(disk, parent(&left))?;
    remove_if_there(disk, COPIED)?;
    let file = disk.create_new(COPIED)?;
    write_all_at(&*file, bytes, 0)?;
    file.sync_data()?;
    disk.rename(COPIED, &left)?;
    disk.sync_dir(parent(&left))
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
    /// Gives it the name, durably; what has the name now is kept before. Returns under which name, if there was anything.
    pub(super) fn put(self, disk: &dyn Disk, path: &str, stamp: &str) -> Result<Option<String>> {
        let kept = match keep(disk, path, stamp) {
            Err(error) if error.is_not_found() => None,
            kept => Some(kept?),
        };
        disk::make_dir(disk, parent(path))?;
        disk.rename(MENDED, path)?;
        disk.sync_dir(parent(path))?;
        Ok(kept)
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

/// Copies all of a file.
pub(super) fn copy_whole(source: &dyn DiskFile, into: &dyn DiskFile) -> Result<()> {
    copy(source, into, (0, source.len()?), 0)
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

/// `damaged/<stamp>/<path>`, or with a number behind it if that is taken: a file may be replaced more than once.
fn free_name(disk: &dyn Disk, path: &str, stamp: &str) -> Result<String> {
    let plain = format!("damaged/{stamp}/{path}");
    let taken = disk.list(parent(&plain))?;
    let mut name = plain.clone();
    let mut number = 0u64;
    while taken.iter().any(|taken| name.ends_with(&format!("/{taken}"))) {
        number += 1;
        name = format!("{plain}.{number}");
    }
    Ok(name)
}
