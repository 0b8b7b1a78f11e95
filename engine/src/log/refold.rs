//! Folding groups into the writer's state: from the last sound checkpoint of a footer to the end of the readable log.
//!
//! Invariants: an event that is in the log is a fact and folds; a group that does not decode is damage, with file and offset.

use crate::{
    decide::State,
    disk::Disk,
    engine::Durable,
    error::{Error, Result},
    id::{ChainHash, Position},
    log::{
        footer::{INDEX_BYTES, IndexEntry, Part, Trailer},
        header::BLOCK_LEN,
        push_ids::{self, PushIds},
        scan::{From, GroupReader, RawGroup, Step},
        segment::{Active, SegmentEnd},
        state_codec,
        survey::{Found, section},
    },
};

/// State folded so far, and where in the segment the fold stands.
#[derive(Clone)]
pub(crate) struct Fold {
    pub(crate) state: State,
    pub(crate) pushes: PushIds,
    pub(crate) durable: Durable,
    pub(crate) sequence: u64,
    pub(crate) time_ms: u64,
    pub(crate) index: Vec<IndexEntry>,
    pub(crate) end: u64,
}

impl Fold {
    /// Before the first event.
    pub(crate) fn empty() -> Fold {
        Fold {
            state: State::default(),
            pushes: PushIds::default(),
            durable: Durable { position: Position::ZERO, chain: ChainHash([0; 32]) },
            sequence: 1,
            time_ms: 0,
            index: Vec::new(),
            end: BLOCK_LEN as u64,
        }
    }

    /// The state that a sealed segment's footer stores; `None` if it does not. Push ids are loaded apart.
    pub(crate) fn load(disk: &dyn Disk, found: &Found, bytes_read: &mut u64) -> Result<Option<Fold>> {
        let Some(trailer) = &found.trailer else { return Ok(None) };
        let state = section(disk, found, Part::State, bytes_read)?.and_then(|bytes| state_codec::decode(&bytes));
        Ok(state.map(|state| Fold {
            state,
            durable: Durable { position: trailer.last, chain: trailer.chain },
            sequence: trailer.sequence,
            time_ms: trailer.time_ms,
            end: trailer.frames_end,
            ..Fold::empty()
        }))
    }

    /// Goes on with the first byte of the next segment.
    pub(crate) fn enter(&mut self, found: &Found) {
        self.index = Vec::new();
        self.end = BLOCK_LEN as u64;
        self.sequence = found.header.sequence;
    }

    /// Takes in a group.
    pub(crate) fn take(&mut self, group: &RawGroup) -> Result<()> {
        let events = group.decode_events()?;
        let mut undo = Vec::new();
        for (event, fingerprint) in &events {
            self.state.fold(event, &mut undo);
            undo.clear();
            self.pushes.note(event.push, *fingerprint, event.position);
        }
        let indexed = self.index.last().map_or(0, |entry| entry.offset);
        if self.index.is_empty() || group.offset - indexed >= INDEX_BYTES {
            let (position, offset, sequence) = (group.first, group.offset, group.sequence);
            self.index.push(IndexEntry { position, offset, sequence });
        }
        self.durable = Durable { position: group.last, chain: group.chain };
        self.time_ms = self.time_ms.max(group.time_ms);
        self.sequence = group.sequence + 1;
        self.end = group.end;
        Ok(())
    }

    /// Takes in a mark that ends at `end`.
    pub(crate) fn pass_mark(&mut self, end: u64) {
        self.end = end;
        self.sequence += 1;
    }

    /// Where the segment ends if nothing more comes.
    pub(crate) fn segment_end(&self) -> SegmentEnd {
        SegmentEnd { durable: self.durable, sequence: self.sequence, time_ms: self.time_ms }
    }

    /// The segment as the writer appends to it.
    pub(crate) fn active(&self, found: &Found) -> Active {
        Active {
            first: found.header.first,
            sequence: found.header.sequence,
            salt: found.header.salt,
            capacity: found.header.capacity,
            end: self.end,
            index: self.index.clone(),
        }
    }
}

/// A walk over a whole segment.
pub(crate) fn reader_of(disk: &dyn Disk, found: &Found) -> Result<GroupReader> {
    let from = From {
        offset: BLOCK_LEN as u64,
        next: found.header.first,
        sequence: found.header.sequence,
        chain: Some(found.header.previous),
    };
    Ok(GroupReader::new(found.open(disk)?, found.path.clone(), found.header.salt, from, found.len))
}

/// How a walk over a segment ended.
pub(crate) struct Walked {
    /// Where and why.
    pub(crate) stop: (u64, String),
    /// The mark that was the last thing, if it was one: its first byte and the byte after it.
    pub(crate) mark: Option<(u64, u64)>,
    /// The last group, not folded yet, if the walk keeps it.
    pub(crate) last: Option<RawGroup>,
    /// True if a group did not decode.
    pub(crate) undecodable: bool,
    pub(crate) bytes_read: u64,
}

/// Folds a segment's groups up to `boundary` (the next segment's first position), or to where they stop. With
/// `keep_last`, the last group is returned instead of folded, unless a mark follows it.
pub(crate) fn walk(
    disk: &dyn Disk,
    found: &Found,
    fold: &mut Fold,
    boundary: Option<Position>,
    keep_last: bool,
) -> Result<Walked> {
    let mut reader = reader_of(disk, found)?;
    let mut walked = Walked { stop: (0, String::new()), mark: None, last: None, undecodable: false, bytes_read: 0 };
    loop {
        if boundary.is_some_and(|boundary| reader.next >= boundary) {
            walked.stop = (reader.offset, "the next segment begins here".to_owned());
            break;
        }
        let step = reader.step()?;
        let folded = match walked.last.take() {
            Some(group) if matches!(step, Step::Stop(_)) => {
                walked.last = Some(group);
                Ok(())
            }
            Some(group) => fold.take(&group),
            None => Ok(()),
        };
        if let Err(error) = folded {
            walked.undecodable = true;
            walked.stop = (error.offset().unwrap_or(fold.end), error.to_string());
            break;
        }
        match step {
            Step::Group(group) => {
                walked.mark = None;
                walked.last = Some(group);
            }
            Step::Mark { end } => {
                walked.mark = Some((fold.end, end));
                fold.pass_mark(end);
            }
            Step::Stop(why) => {
                walked.stop = (reader.offset, why.to_owned());
                break;
            }
        }
    }
    walked.bytes_read = reader.bytes_read;
    if !keep_last {
        finish(&mut walked, fold);
    }
    Ok(walked)
}

/// Folds the group that was kept back.
fn finish(walked: &mut Walked, fold: &mut Fold) {
    if let Some(group) = walked.last.take()
        && let Err(error) = fold.take(&group)
    {
        walked.undecodable = true;
        walked.stop = (group.offset, error.to_string());
    }
}

/// Folds a sealed segment that is a copy of the bucket's; how many bytes were read. `Corrupt` unless its groups reach the end that its
/// footer names.
pub(crate) fn walk_copy(disk: &dyn Disk, found: &Found, trailer: &Trailer, fold: &mut Fold) -> Result<u64> {
    fold.enter(found);
    let walked = walk(disk, found, fold, None, false)?;
    if walked.undecodable || (fold.durable.position, fold.durable.chain) != (trailer.last, trailer.chain) {
        return Err(damaged_copy(&found.path, walked.stop.0, &walked.stop.1));
    }
    fold.sequence = trailer.sequence;
    fold.pushes.seal(fold.durable.position);
    Ok(walked.bytes_read)
}

/// Damage of a sealed segment that the bucket has too.
pub(crate) fn damaged_copy(path: &str, offset: u64, why: &str) -> Error {
    let message = format!("{why}; the bucket has this segment: remove the file, and it is brought again");
    Error::corrupt(path, offset, message)
}

/// Reads the push ids of a segment that ends before `end`: from its footer, or from its groups if the footer or that section
/// is damaged. Answers where the groups stop if they do not reach `end`.
pub(crate) fn load_pushes(
    disk: &dyn Disk,
    found: &Found,
    end: Position,
    pushes: &mut PushIds,
    bytes_read: &mut u64,
) -> Result<Option<(u64, String)>> {
    let stored = section(disk, found, Part::Pushes, bytes_read)?.and_then(|bytes| push_ids::decode_run(&bytes));
    let last = Position(end.0 - 1);
    if let Some(entries) = stored {
        pushes.push_run(last, entries);
        return Ok(None);
    }
    tracing::warn!(file = &*found.path, "the push ids of a sealed segment are damaged: read again from its groups");
    let mut fold = Fold { sequence: found.header.sequence, ..Fold::empty() };
    let walked = walk(disk, found, &mut fold, Some(end), false)?;
    *bytes_read += walked.bytes_read;
    fold.pushes.seal(last);
    pushes.append(fold.pushes);
    Ok((fold.durable.position != last).then_some(walked.stop))
}
