//! The log's files: what the writer and recovery do to the disk, one function per durable step.
//!
//! Invariants: a sync that failed is never tried again on that file (F4); a segment gets its name only after its zeros and
//! its header are durable; a footer is durable before the file is cut after it, so that a segment that is shorter than its
//! capacity and has no footer was cut by somebody else.

use std::sync::Arc;

use super::{
    anchor::{ANCHOR_LEN, Anchor},
    fields::size,
    header::{SegmentHeader, segment_name},
    scan::read_up_to,
};
use crate::{
    disk::{self, Disk, DiskFile, write_all_at},
    error::{Error, ErrorKind, Result},
    planted::{self, PlantedBug},
    writer::Io,
};

/// The files that the writer holds.
pub(crate) struct LogFiles {
    disk: Arc<dyn Disk>,
    active: Arc<dyn DiskFile>,
    sealing: Option<Arc<dyn DiskFile>>,
    spare: Option<Arc<dyn DiskFile>>,
    /// The spare has its name; that the directory is durable is all that lacks.
    named: bool,
}

impl LogFiles {
    /// Files of a log whose active segment is `active`.
    pub(crate) fn new(disk: Arc<dyn Disk>, active: Arc<dyn DiskFile>) -> LogFiles {
        LogFiles { disk, active, sealing: None, spare: None, named: false }
    }

    /// Writes and syncs bytes of the active segment.
    pub(crate) fn append(&self, offset: u64, bytes: &[u8]) -> Io {
        if let Err(error) = write_all_at(&*self.active, bytes, offset) {
            return unsynced(&error);
        }
        if planted::is(PlantedBug::AckBeforeSync) {
            return Io::Done;
        }
        synced(sync(&*self.active))
    }

    /// Takes over a spare that [`make_spare`] made.
    pub(crate) fn prepared(&mut self, made: Result<Arc<dyn DiskFile>>) -> Io {
        match made {
            Ok(spare) => {
                self.spare = Some(spare);
                Io::Done
            }
            Err(error) => unsynced(&error),
        }
    }

    /// Turns the spare into the active segment.
    pub(crate) fn activate(&mut self, header: &SegmentHeader) -> Io {
        let Some(spare) = self.spare.clone() else { return Io::Lost("there is no spare segment".to_owned()) };
        if !self.named {
            let named = self.name(&*spare, header);
            if named != Io::Done {
                return named;
            }
            self.named = true;
        }
        match sync_log_dir(&*self.disk) {
            Ok(()) => {}
            // Without a descriptor for the directory no sync was tried: it is not a second try when there is one again.
            Err(error) if out_of_descriptors(&error) => return Io::Full,
            Err(error) => return Io::Lost(error.to_string()),
        }
        self.named = false;
        self.spare = None;
        self.sealing = Some(std::mem::replace(&mut self.active, spare));
        Io::Done
    }

    fn name(&self, spare: &dyn DiskFile, header: &SegmentHeader) -> Io {
        if let Err(error) = write_all_at(spare, &header.encode(), 0) {
            return unsynced(&error);
        }
        if let Err(error) = sync(spare) {
            return Io::Lost(error.to_string());
        }
        match self.disk.rename(SPARE, &segment_path(header)) {
            Ok(()) => Io::Done,
            Err(error) => unsynced(&error),
        }
    }

    /// Writes the footer of the segment that was active before.
    pub(crate) fn seal(&mut self, offset: u64, bytes: &[u8]) -> Io {
        let Some(file) = self.sealing.clone() else { return Io::Lost("there is no segment to seal".to_owned()) };
        let io = seal(&*file, offset, bytes);
        if io == Io::Done {
            self.sealing = None;
        }
        io
    }
}

/// Writes a footer at `offset`, syncs it, cuts the file after it, syncs that.
pub(crate) fn seal(file: &dyn DiskFile, offset: u64, bytes: &[u8]) -> Io {
    if let Err(error) = write_all_at(file, bytes, offset) {
        return unsynced(&error);
    }
    if let Err(error) = sync(file) {
        return Io::Lost(error.to_string());
    }
    if let Err(error) = file.set_len(offset + bytes.len() as u64) {
        return unsynced(&error);
    }
    synced(sync(file))
}

/// Makes `log/spare`: `capacity` zero bytes, synced, so that a commit into it costs one fdatasync and no allocation.
pub(crate) fn make_spare(disk: &dyn Disk, capacity: u64) -> Result<Arc<dyn DiskFile>> {
    remove_if_there(disk, SPARE)?;
    let made = fill_spare(disk, capacity);
    if made.is_err()
        && let Err(error) = remove_if_there(disk, SPARE)
    {
        tracing::warn!(%error, "a half-made spare segment stays until the next one");
    }
    made
}

fn fill_spare(disk: &dyn Disk, capacity: u64) -> Result<Arc<dyn DiskFile>> {
    let file = disk.create_new(SPARE)?;
    let zeros = vec![0; size(capacity.min(ZEROS_BYTES))];
    let mut at = 0;
    while at < capacity {
        let count = size((capacity - at).min(zeros.len() as u64));
        write_all_at(&*file, &zeros[..count], at)?;
        at += count as u64;
    }
    sync(&*file)?;
    Ok(file.into())
}

/// Keeps `from..to` of `file` aside as `log/torn/<name>`, durable before the original goes.
pub(crate) fn keep_torn(disk: &dyn Disk, file: &dyn DiskFile, name: &str, from: u64, to: u64) -> Result<()> {
    make_dir(disk, TORN)?;
    let path = format!("{TORN}/{name}");
    remove_if_there(disk, &path)?;
    let kept = disk.create_new(&path)?;
    let mut chunk = vec![0; size((to - from).min(ZEROS_BYTES))];
    let mut at = from;
    while at < to {
        let wanted = size((to - at).min(chunk.len() as u64));
        let got = read_up_to(file, &mut chunk[..wanted], at)?;
        if got == 0 {
            break;
        }
        write_all_at(&*kept, &chunk[..got], at - from)?;
        at += got as u64;
    }
    sync(&*kept)?;
    disk.sync_dir(TORN)
}

/// The anchor, if there is a sound one.
pub(crate) fn read_anchor(disk: &dyn Disk) -> Result<Option<Anchor>> {
    let file = match disk.open(ANCHOR) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = [0; ANCHOR_LEN + 1];
    let got = read_up_to(&*file, &mut bytes, 0)?;
    Ok(Anchor::decode(&bytes[..got]))
}

/// True if there is an anchor, sound or not: a log of its own always has one.
pub(crate) fn has_anchor(disk: &dyn Disk) -> Result<bool> {
    match disk.open(ANCHOR) {
        Err(error) if error.is_not_found() => Ok(false),
        opened => opened.map(|_| true),
    }
}

/// Replaces the anchor.
pub(crate) fn write_anchor(disk: &dyn Disk, anchor: &Anchor) -> Result<()> {
    remove_if_there(disk, ANCHOR_NEW)?;
    let file = disk.create_new(ANCHOR_NEW)?;
    write_all_at(&*file, &anchor.encode(), 0)?;
    sync(&*file)?;
    disk.rename(ANCHOR_NEW, ANCHOR)?;
    sync_log_dir(disk)
}

/// Removes a file that may not be there.
pub(crate) fn remove_if_there(disk: &dyn Disk, path: &str) -> Result<()> {
    match disk.remove(path) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Makes a directory with a durable entry.
pub(crate) fn make_dir(disk: &dyn Disk, dir: &str) -> Result<()> {
    if planted::is(PlantedBug::SkipDirectorySync) {
        return disk.create_dir(dir);
    }
    disk::make_dir(disk, dir)
}

/// Makes names in `log/` durable.
pub(crate) fn sync_log_dir(disk: &dyn Disk) -> Result<()> {
    if planted::is(PlantedBug::SkipDirectorySync) {
        return Ok(());
    }
    disk.sync_dir(LOG_DIR)
}

/// Syncs once.
pub(crate) fn sync(file: &dyn DiskFile) -> Result<()> {
    match file.sync_data() {
        Err(_) if planted::is(PlantedBug::RetriedFsync) => file.sync_data(),
        done => done,
    }
}

/// `log/seg-….log`
pub(crate) fn segment_path(header: &SegmentHeader) -> String {
    format!("{LOG_DIR}/{}", segment_name(header.first))
}

/// Whether this is the lock's name in the log's directory.
pub(crate) fn is_lock(name: &str) -> bool {
    LOCK.strip_prefix(LOG_DIR).and_then(|name| name.strip_prefix('/')) == Some(name)
}

/// EMFILE or ENFILE: the call did not begin.
fn out_of_descriptors(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    matches!(source.and_then(std::io::Error::raw_os_error), Some(23 | 24))
}

/// A step before any sync failed.
fn unsynced(error: &Error) -> Io {
    match error.kind() {
        ErrorKind::Full => Io::Full,
        _ => Io::Lost(error.to_string()),
    }
}

/// After a failed sync, whatever its error, nobody knows what is on the disk.
fn synced(result: Result<()>) -> Io {
    result.map_or_else(|error| Io::Lost(error.to_string()), |()| Io::Done)
}

/// Where the log is.
pub(crate) const LOG_DIR: &str = "log";
/// Taken while an engine is open.
pub(crate) const LOCK: &str = "log/LOCK";
/// The next segment, before it has a name.
pub(crate) const SPARE: &str = "log/spare";
/// What was cut from torn tails.
pub(crate) const TORN: &str = "log/torn";
/// Where the log was durable once; a directory without one is a copy of a bucket's log, or new.
pub(crate) const ANCHOR: &str = "log/anchor";
const ANCHOR_NEW: &str = "log/anchor.new";
/// Zeros are written in pieces of this size.
const ZEROS_BYTES: u64 = 1 << 20;
