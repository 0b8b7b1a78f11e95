//! The bucket log: one create-if-absent object per commit on dense keys, merged into sealed segments (FORMAT.md §5).
//!
//! Invariants: an ordinal belongs to whoever created its slot; a slot is deleted only after the sealed segment that holds its
//! group is in the bucket, and segments get there in order. So after a slot was won, or read, or found absent, one look at
//! the segment that would be sealed next says whether that still counts: while it is absent, no slot behind the ones before
//! it was ever deleted. A writer that slept through a sealing thereby acknowledges nothing that never happened, a reader
//! believes no slot that such a writer left behind, and safety asks no clock.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    footer::{TRAILER_LEN, Trailer},
    header::{BLOCK_LEN, SegmentHeader},
    scan::{From, GroupReader, RawGroup, Step},
    slot::{self, Batch, SLOT_BYTES_MAX, ServerId, Slot},
};
use crate::{
    clock::{Random, random16},
    disk::bytes::BytesFile,
    error::{Error, ErrorKind, Result},
    id::{ChainHash, LogId, Position},
    planted::{self, PlantedBug},
    store::{ObjectStore, StoreKey},
    writer::{After, Looked, Tail},
};

/// The bucket's side of a log.
pub(crate) struct BucketLog {
    store: Arc<dyn ObjectStore>,
    random: Arc<dyn Random>,
    log: LogId,
    floor: Floor,
    /// This server, once it has tried to write.
    me: Option<ServerId>,
    /// The slot that was in the way of a group and those right behind it, not sealed after they were read, for the look that follows.
    met: Vec<Slot>,
}

/// Up to where the log is in sealed segments, as far as this server has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Floor {
    /// Their last position.
    pub(crate) last: Position,
    /// Ordinal of the first write after them.
    pub(crate) ordinal: u64,
    /// Chained hash after them.
    pub(crate) chain: ChainHash,
}

/// What became of a group.
pub(crate) enum Committed {
    /// It stands in the bucket.
    Done,
    /// Another server has written its ordinal.
    Taken,
    /// Nobody knows.
    Unsure(String),
}

impl BucketLog {
    /// The log `log` in `store`, of which nothing is known yet.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, random: Arc<dyn Random>, log: LogId) -> BucketLog {
        let floor = Floor { last: Position::ZERO, ordinal: 1, chain: ChainHash([0; 32]) };
        BucketLog { store, random, log, floor, me: None, met: Vec::new() }
    }

    /// Puts the floor behind the newest of the segments that are sealed here (newest first: first and last position, chain) and
    /// that the bucket has too. `Conflict` if it has another one in its place.
    pub(crate) fn begin_behind(&mut self, sealed: impl Iterator<Item = (Position, Position, ChainHash)>) -> Result<()> {
        for (first, last, chain) in sealed {
            let Some(there) = self.sealed(first)? else { continue };
            if (there.last, there.chain) != (last, chain) {
                let key = StoreKey::segment(first);
                let message = format!(
                    "{key} of the bucket is not the segment that is here under that name: the log directory and the bucket do \
                     not belong together; where the bucket is right, move the log directory away"
                );
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            self.floor = Floor { last: there.last, ordinal: there.sequence, chain: there.chain };
            return Ok(());
        }
        Ok(())
    }

    /// Where the sealed segments end, as far as was seen.
    pub(crate) fn floor(&self) -> Floor {
        self.floor
    }

    /// Puts `frames`, one group with the chained hash `chain` after it, at `tail`.
    pub(crate) fn commit(&mut self, tail: &Tail, frames: &[u8], chain: ChainHash) -> Committed {
        match self.try_commit(tail, frames, chain) {
            Ok(committed) => committed,
            Err(error) => Committed::Unsure(error.to_string()),
        }
    }

    fn try_commit(&mut self, tail: &Tail, frames: &[u8], chain: ChainHash) -> Result<Committed> {
        self.met.clear();
        let batch = self.next_batch()?;
        let key = StoreKey::slot(tail.ordinal);
        let created = self.store.create(&key, &slot::encode(self.log, tail, batch, frames));
        let won = match created {
            Ok(true) => true,
            Ok(false) if planted::is(PlantedBug::ConflictTakenForLoss) => return Ok(Committed::Taken),
            // Its answer may have been lost: what stands there says whose it is.
            _ => self.is_mine(tail.ordinal, batch, created)?,
        };
        if planted::is(PlantedBug::FloorNotRead) {
            return Ok(if won { Committed::Done } else { Committed::Taken });
        }
        let raised = self.raise_floor();
        if raised.is_err() || tail.ordinal < self.floor.ordinal {
            self.met.clear();
        }
        raised?;
        if tail.ordinal >= self.floor.ordinal {
            return Ok(if won { Committed::Done } else { Committed::Taken });
        }
        // Sealed since: with our own group in it, or won after its true holder was sealed and deleted, or lost to him.
        let sealed = self.segment(tail)?.into_iter().find(|group| group.sequence == tail.ordinal);
        if sealed.is_some_and(|group| group.chain == chain) {
            return Ok(Committed::Done);
        }
        if won && let Err(error) = self.store.delete(&key) {
            tracing::warn!(%key, %error, "a slot below the sealed segments stays");
        }
        Ok(Committed::Taken)
    }

    fn next_batch(&mut self) -> Result<Batch> {
        let mut batch = random16(&*self.random)?;
        let me = *self.me.get_or_insert_with(|| slot::server(&batch));
        batch[..me.len()].copy_from_slice(&me);
        Ok(batch)
    }

    /// Whether the slot that stands there now is that of `batch`. Others are kept for the look that follows.
    fn is_mine(&mut self, ordinal: u64, batch: Batch, created: Result<bool>) -> Result<bool> {
        let mut slots = self.slots_at(ordinal, SLOTS_MET).into_iter();
        match slots.next().transpose()?.flatten() {
            Some(slot) if slot.batch == batch => Ok(true),
            Some(slot) => {
                // What could not be read is asked for again when its turn comes.
                self.met = std::iter::once(slot).chain(slots.map_while(|slot| slot.ok().flatten())).collect();
                Ok(false)
            }
            // It stood there a moment ago: sealed since.
            None => created.map(|_| false),
        }
    }

    /// What stands in the bucket from `tail` on. Not all of it, if it is much; and what was in the way of a group, if something was:
    /// it was read, and then the floor, so that it counts, and a look for more would come too late for the next ordinal. With
    /// `crowded` the next group is expected to be there.
    pub(crate) fn look(&mut self, tail: &Tail, crowded: bool) -> Result<Looked> {
        if self.floor.ordinal > tail.ordinal {
            return Ok(Looked { groups: self.segment(tail)?, after: After::More });
        }
        let met = std::mem::take(&mut self.met);
        if met.first().is_some_and(|slot| slot.ordinal == tail.ordinal) {
            return self.met(tail, &met);
        }
        let read = self.slots(tail, crowded);
        if planted::is(PlantedBug::SlotsBelieved) {
            return read;
        }
        self.raise_floor()?;
        if self.floor.ordinal > tail.ordinal {
            // Slots that were read, or found absent or odd, may be of the time after the sealing: only the segment counts.
            return Ok(Looked { groups: self.segment(tail)?, after: After::More });
        }
        read
    }

    /// The groups of slots that were read before.
    fn met(&self, tail: &Tail, slots: &[Slot]) -> Result<Looked> {
        let (mut groups, mut next) = (Vec::with_capacity(slots.len()), *tail);
        for slot in slots {
            groups.push(self.group(slot, &mut next)?);
        }
        // Whoever waits may have come after they were read.
        let after = if slots.len() as u64 == SLOTS_MET { After::More } else { After::Unasked };
        Ok(Looked { groups, after })
    }

    /// The group of a slot, which is to follow `next`; moves `next` behind it.
    fn group(&self, slot: &Slot, next: &mut Tail) -> Result<RawGroup> {
        let mut group = slot.group(next)?;
        (next.next, next.ordinal, next.chain) = (group.last.next(), next.ordinal + 1, group.chain);
        group.server = Some(slot::server(&slot.batch)).filter(|server| self.me != Some(*server));
        Ok(group)
    }

    /// The slots from `tail` on. Whether they count is to be asked after this, even of an error: a slot that was left behind by a
    /// server that slept has the chain of another group before it.
    fn slots(&self, tail: &Tail, crowded: bool) -> Result<Looked> {
        let (mut groups, mut bytes, mut next) = (Vec::new(), 0, *tail);
        while groups.len() < LOOK_SLOTS_MAX && bytes < LOOK_BYTES_MAX {
            // Who is far behind catches up faster than others write.
            let least = if crowded { 2 } else { 1 };
            let ahead = if bytes > SMALL_SLOTS_BYTES { 1 } else { (groups.len() as u64).clamp(least, SLOTS_AT_ONCE) };
            for slot in self.slots_at(next.ordinal, ahead) {
                let Some(slot) = slot? else { return Ok(Looked { groups, after: After::Nothing }) };
                let group = self.group(&slot, &mut next)?;
                bytes += group.stored_bytes();
                groups.push(group);
            }
        }
        Ok(Looked { groups, after: After::More })
    }

    /// This many slots from an ordinal on, up to the first that is not there.
    fn slots_at(&self, first: u64, count: u64) -> Vec<Result<Option<Slot>>> {
        let ordinals = first..first + count;
        let keys: Vec<StoreKey> = ordinals.clone().map(StoreKey::slot).collect();
        let read = self.store.read_tails(&keys, SLOT_BYTES_MAX);
        ordinals.zip(read).map(|(ordinal, read)| self.decoded(ordinal, read)).collect()
    }

    /// Sees which segments were sealed since the last look.
    pub(crate) fn raise_floor(&mut self) -> Result<()> {
        while let Some(trailer) = self.sealed(self.floor.last.next())? {
            self.floor = Floor { last: trailer.last, ordinal: trailer.sequence, chain: trailer.chain };
        }
        Ok(())
    }

    /// The trailer of the sealed segment that begins at `first`.
    pub(crate) fn sealed(&self, first: Position) -> Result<Option<Trailer>> {
        let key = StoreKey::segment(first);
        let (tail, size) = match self.store.read_tail(&key, TRAILER_LEN as u64) {
            Err(error) if error.is_not_found() => return Ok(None),
            read => read?,
        };
        let trailer = Trailer::decode(&tail, size).filter(|trailer| (trailer.log, trailer.first) == (self.log, first));
        let damaged =
            || Error::corrupt(key.as_str(), size, "the sealed segment has no sound footer, or is of another log");
        trailer.map(Some).ok_or_else(damaged)
    }

    /// The groups of the sealed segment that `tail` belongs to, from `tail` on. A segment is a few MiB.
    fn segment(&self, tail: &Tail) -> Result<Vec<RawGroup>> {
        let key = StoreKey::segment(tail.segment);
        let (bytes, size) = self.store.read_tail(&key, SEGMENT_READ_MAX)?;
        if bytes.len() as u64 != size {
            let message = format!("the segment is larger than the limit of {SEGMENT_READ_MAX} bytes");
            return Err(Error::corrupt(key.as_str(), size, message));
        }
        let header = SegmentHeader::decode(bytes.get(..BLOCK_LEN).unwrap_or_default(), key.as_str())?;
        let trailer = bytes.len().checked_sub(TRAILER_LEN).and_then(|at| Trailer::decode(&bytes[at..], size));
        let trailer = trailer.ok_or_else(|| Error::corrupt(key.as_str(), size, "the segment has no sound footer"))?;
        let file = Arc::new(BytesFile::new(key.as_str(), bytes));
        let from = From {
            offset: BLOCK_LEN as u64,
            next: header.first,
            sequence: header.sequence,
            chain: Some(header.previous),
        };
        let mut reader = GroupReader::new(file, key.as_str().into(), header.salt, from, trailer.frames_end);
        let mut groups = Vec::new();
        while reader.next <= trailer.last {
            let continues = reader.chain == Some(tail.chain);
            match reader.step()? {
                Step::Group(group) if group.first < tail.next => {}
                Step::Group(group) if group.first == tail.next && !continues => {
                    return Err(Error::corrupt(key.as_str(), group.offset, OTHER_LOG));
                }
                Step::Group(group) => groups.push(group),
                Step::Mark { .. } => {}
                Step::Stop(why) => return Err(Error::corrupt(key.as_str(), reader.offset, why)),
            }
        }
        // It was sealed beyond `tail`, so it holds what comes next; else its end is not where segments end here.
        if groups.is_empty() {
            return Err(Error::corrupt(key.as_str(), size, OTHER_LOG));
        }
        Ok(groups)
    }

    fn decoded(&self, ordinal: u64, read: Result<(Bytes, u64)>) -> Result<Option<Slot>> {
        let key = StoreKey::slot(ordinal);
        let (object, size) = match read {
            Err(error) if error.is_not_found() => return Ok(None),
            read => read?,
        };
        if object.len() as u64 != size {
            let message = format!("the slot is larger than the limit of {SLOT_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::Corrupt, format!("{key}: {message}")));
        }
        Slot::decode(key.as_str(), self.log, ordinal, &object).map(Some)
    }
}

const OTHER_LOG: &str = "the local copy of the log is not a beginning of the one in the bucket";
/// Who lost an ordinal reads this many slots at once: by then its winner may have written the next one too.
const SLOTS_MET: u64 = 3;
/// A look brings at most this many slots,
const LOOK_SLOTS_MAX: usize = 64;
/// of them so many at once, if as many were there before them and they were small (all of them together),
const SLOTS_AT_ONCE: u64 = 8;
const SMALL_SLOTS_BYTES: u64 = 1 << 20;
/// or stops behind this many bytes.
const LOOK_BYTES_MAX: u64 = 8 << 20;
/// No sealed segment of a bucket log is larger: its own size, one group, the footer.
const SEGMENT_READ_MAX: u64 = 1 << 30;
