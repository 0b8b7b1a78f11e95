//! Reading the log: groups in order, from the segments while behind, from memory at the end.
//!
//! Invariants: only durable groups; each byte from a file is checked (CRC32C and chain) before it is handed out; memory
//! holds one group at a time; a hole is an error, never skipped.

use std::{sync::Arc, time::Duration};

use crate::{
    disk::DiskFile,
    engine::{Group, SegmentInfo},
    error::{Error, ErrorKind, Result},
    id::{ChainHash, Position},
    log::{
        drive::Drive,
        files::segment_path,
        footer::{IndexEntry, Part, decode_index},
        header::BLOCK_LEN,
        published::Segment,
        scan::{From, GroupReader, RawGroup, Step},
        survey::{read_trailer, section_of},
    },
};

/// Reads groups in order: from the segments while behind, from memory when at the tail.
pub struct Follower {
    drive: Arc<Drive>,
    next: Position,
    reader: Option<(Position, GroupReader)>,
}

impl Follower {
    pub(crate) fn new(drive: Arc<Drive>, from: Position) -> Result<Follower> {
        let next = from.max(Position(1));
        let durable = drive.published.look().durable.position;
        if next > durable.next() {
            let message = format!("position {next} is beyond the end of the log, which is {durable}");
            return Err(Error::invalid(message));
        }
        Ok(Follower { drive, next, reader: None })
    }

    /// Position of the first event that was not handed out yet.
    pub fn position(&self) -> Position {
        self.next
    }

    /// The next group; `None` when `wait` passed without one or the engine closed. `Corrupt` where the segments are
    /// damaged: the same error again at the next call.
    #[allow(clippy::should_implement_trait, reason = "it waits, and asks how long")]
    pub fn next(&mut self, wait: Duration) -> Result<Option<Group>> {
        if !self.drive.published.wait_for(self.next, wait) {
            return Ok(None);
        }
        let shown = self.drive.published.look();
        if let Some(group) = shown.in_ring(self.next) {
            drop(shown);
            self.reader = None;
            self.next = group.events[group.events.len() - 1].position.next();
            return Ok(Some(group));
        }
        let segment = shown.segment_of(self.next).cloned();
        drop(shown);
        let segment = segment.ok_or_else(|| hole(self.next))?;
        let group = self.read(&segment).and_then(|group| group.decode());
        let group = group.inspect_err(|error| self.drive.published.met_damage(error))?;
        self.next = group.events[group.events.len() - 1].position.next();
        Ok(Some(group))
    }

    fn read(&mut self, segment: &Segment) -> Result<RawGroup> {
        let usable =
            self.reader.as_ref().is_some_and(|(first, at)| *first == segment.header.first && at.next <= self.next);
        if !usable {
            self.reader = Some((segment.header.first, reader_at(&self.drive, segment, self.next)?));
        }
        let Some((_, reader)) = &mut self.reader else { return Err(hole(self.next)) };
        reader.limit = segment.frames_end;
        let group = find(reader, segment, self.next);
        if group.is_err() {
            self.reader = None;
        }
        group
    }
}

/// Reads one segment, group by group; its CRC32C and its chain are checked.
pub struct SegmentReader {
    drive: Arc<Drive>,
    reader: GroupReader,
    segment: Segment,
}

impl SegmentReader {
    pub(crate) fn new(drive: Arc<Drive>, first: Position) -> Result<SegmentReader> {
        let shown = drive.published.look();
        let segment = shown.segments.iter().find(|segment| segment.header.first == first).cloned();
        drop(shown);
        let segment = segment.ok_or_else(|| Error::not_found(format!("there is no segment that starts at {first}")))?;
        Ok(SegmentReader { reader: reader_from(&drive, &segment, None)?, segment, drive })
    }

    /// The next group as stored, for decoding elsewhere ([`RawGroup::decode`]); `None` at the segment's end.
    pub fn next_raw(&mut self) -> Result<Option<RawGroup>> {
        if self.reader.next > self.segment.last {
            return Ok(None);
        }
        let next = self.reader.next;
        let found = find(&mut self.reader, &self.segment, next);
        found.map(Some).inspect_err(|error| self.drive.published.met_damage(error))
    }

    /// The next group; `None` at the segment's end.
    pub fn next_group(&mut self) -> Result<Option<Group>> {
        let group = self.next_raw()?.map(|group| group.decode()).transpose();
        group.inspect_err(|error| self.drive.published.met_damage(error))
    }
}

impl Iterator for SegmentReader {
    type Item = Result<Group>;

    fn next(&mut self) -> Option<Result<Group>> {
        self.next_group().transpose()
    }
}

/// All readable segments, in order.
pub(crate) fn segments(drive: &Drive) -> Vec<SegmentInfo> {
    let info = |segment: &Segment| SegmentInfo {
        first: segment.header.first,
        last: segment.last,
        bytes: segment.bytes,
        sealed: segment.sealed,
    };
    drive.published.look().segments.iter().map(info).collect()
}

/// Chained hash after the group that ends at `position`.
pub(crate) fn chain_at(drive: &Drive, position: Position) -> Result<Option<ChainHash>> {
    let shown = drive.published.look();
    if position == Position::ZERO {
        return Ok(shown.segments.first().map(|segment| segment.header.previous));
    }
    if position == shown.durable.position {
        return Ok(Some(shown.durable.chain));
    }
    if position > shown.durable.position {
        return Ok(None);
    }
    // The last group of a segment: the next segment's header has it.
    let next = shown.segments.iter().find(|segment| segment.header.first == position.next());
    if let Some(next) = next {
        return Ok(Some(next.header.previous));
    }
    let segment = shown.segment_of(position).cloned();
    drop(shown);
    let segment = segment.ok_or_else(|| hole(position))?;
    let mut reader = reader_at(drive, &segment, position)?;
    let group = find(&mut reader, &segment, position)?;
    Ok((group.last == position).then_some(group.chain))
}

/// The group that holds `position`, reading on from where `reader` stands.
fn find(reader: &mut GroupReader, segment: &Segment, position: Position) -> Result<RawGroup> {
    loop {
        match reader.step()? {
            Step::Group(group) if group.last >= position => return Ok(group),
            Step::Group(_) | Step::Mark { .. } => {}
            Step::Stop(why) => {
                return Err(Error::corrupt(segment_path(&segment.header), reader.offset, why));
            }
        }
    }
}

/// A reader at or before the group that holds `position`, from the sparse index.
fn reader_at(drive: &Drive, segment: &Segment, position: Position) -> Result<GroupReader> {
    let path = segment_path(&segment.header);
    let stored = if segment.sealed {
        let file = drive.parts.disk.open(&path)?;
        stored_index(&*file)?
    } else {
        segment.index.clone()
    };
    let after = stored.partition_point(|entry| entry.position <= position);
    let entry = after.checked_sub(1).map(|at| stored[at]);
    reader_from(drive, segment, entry)
}

/// A damaged index costs a longer read, nothing else.
fn stored_index(file: &dyn DiskFile) -> Result<Vec<IndexEntry>> {
    let mut bytes_read = 0;
    let Some(trailer) = read_trailer(file, file.len()?, &mut bytes_read)? else { return Ok(Vec::new()) };
    let section = section_of(file, &trailer, Part::Index, &mut bytes_read)?;
    Ok(section.and_then(|bytes| decode_index(&bytes)).unwrap_or_default())
}

fn reader_from(drive: &Drive, segment: &Segment, entry: Option<IndexEntry>) -> Result<GroupReader> {
    let header = &segment.header;
    let path = segment_path(header);
    let file: Arc<dyn DiskFile> = drive.parts.disk.open(&path)?.into();
    let from = match entry {
        Some(entry) if entry.position > header.first => {
            From { offset: entry.offset, next: entry.position, sequence: entry.sequence, chain: None }
        }
        _ => From {
            offset: BLOCK_LEN as u64,
            next: header.first,
            sequence: header.sequence,
            chain: Some(header.previous),
        },
    };
    Ok(GroupReader::new(file, path.into(), header.salt, from, segment.frames_end))
}

fn hole(position: Position) -> Error {
    Error::new(ErrorKind::Corrupt, format!("no segment holds position {position}"))
}
