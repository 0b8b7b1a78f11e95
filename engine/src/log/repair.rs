//! What opening writes: a new log, the footer of a segment that has none, the last group in a new place.
//!
//! Invariants: the last group of a log that was not closed is suspect (its sync may have failed, F4): it is written again
//! into a new file and synced there before anyone may read it, and only then does its old place go. Every step may be
//! interrupted; the next opening does the rest. Bytes that are cut are kept first.

use std::sync::Arc;

use super::{
    fields::size,
    files::{self, SPARE, make_spare, segment_path, sync, sync_log_dir},
    frame::{self, Draft, MARK, Salt},
    header::{BLOCK_LEN, SegmentHeader},
    scan::RawGroup,
};
use crate::{
    clock::{Random, random16},
    disk::{Disk, DiskFile, read_exact_at, write_all_at},
    error::{Error, ErrorKind, Result},
    id::{ChainHash, LogId, Position},
    writer::Io,
};

/// Where a new segment begins.
pub(crate) struct Beginning {
    pub(crate) log: LogId,
    pub(crate) first: Position,
    pub(crate) sequence: u64,
    pub(crate) previous: ChainHash,
    pub(crate) time_ms: u64,
    pub(crate) capacity: u64,
}

/// A segment that opening made.
pub(crate) struct Made {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Byte offset after the group, before the mark.
    pub(crate) group_end: u64,
    /// Byte offset after the mark.
    pub(crate) end: u64,
}

/// Makes a segment that holds `group` (if any), durable under its name when this returns, and then a mark in it, which
/// vouches for both. A segment of the same name is replaced in one step.
pub(crate) fn new_segment(
    disk: &dyn Disk,
    random: &dyn Random,
    beginning: &Beginning,
    group: Option<&RawGroup>,
) -> Result<Made> {
    let header = SegmentHeader {
        log: beginning.log,
        first: beginning.first,
        sequence: beginning.sequence,
        previous: beginning.previous,
        salt: random16(random)?,
        capacity: beginning.capacity,
    };
    let mut bytes = header.encode();
    let mut chain = header.previous;
    let mut sequence = header.sequence;
    let mut next = header.first;
    if let Some(group) = group {
        assert_eq!((group.first, group.sequence), (header.first, header.sequence), "the group begins the segment");
        chain = group.frames(&mut bytes, &header.salt, chain);
        if chain != group.chain {
            return Err(Error::corrupt(&*group.file, group.offset, "the group written again has another chain"));
        }
        (sequence, next) = (sequence + 1, group.last.next());
    }
    let group_end = bytes.len() as u64;
    let time_ms = beginning.time_ms;
    let file = named(disk, &header, &bytes)?;

    let mut mark = Vec::new();
    let draft = Draft { flags: MARK, count: 0, first: next, sequence, time_ms, previous: chain };
    frame::append(&mut mark, &header.salt, &draft, &[]);
    write_all_at(&*file, &mark, group_end)?;
    sync(&*file)?;
    Ok(Made { end: group_end + mark.len() as u64, header, file, group_end })
}

/// Makes the file of a segment that begins with `bytes`, durable under its name when this returns.
pub(crate) fn named(disk: &dyn Disk, header: &SegmentHeader, bytes: &[u8]) -> Result<Arc<dyn DiskFile>> {
    let file = make_spare(disk, header.capacity)?;
    write_all_at(&*file, bytes, 0)?;
    sync(&*file)?;
    disk.rename(SPARE, &segment_path(header))?;
    sync_log_dir(disk)?;
    Ok(file)
}

/// Writes a mark again where it stands, and syncs it: the sync of the process that wrote it may have failed, and what
/// comes after it could not be reached without it (F4).
pub(crate) fn confirm_mark(file: &dyn DiskFile, salt: &Salt, (from, to): (u64, u64)) -> Result<()> {
    let mut bytes = vec![0; size(to - from)];
    read_exact_at(file, &mut bytes, from)?;
    if !frame::parse_header(salt, &bytes).is_some_and(|header| header.is_mark()) {
        return Err(Error::corrupt(file.path(), from, "the mark changed while the log was opened"));
    }
    write_all_at(file, &bytes, from)?;
    sync(file)
}

/// Writes a footer after `offset` of a segment.
pub(crate) fn seal(file: &dyn DiskFile, offset: u64, footer: &[u8]) -> Result<()> {
    match files::seal(file, offset, footer) {
        Io::Done => Ok(()),
        Io::Full => Err(Error::new(ErrorKind::Full, format!("no room to seal {}", file.path()))),
        Io::Lost(why) => Err(Error::new(ErrorKind::Unavailable, why)),
    }
}

const _: () = assert!(BLOCK_LEN.is_multiple_of(frame::ALIGN));
