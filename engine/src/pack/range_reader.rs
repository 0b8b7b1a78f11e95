//! Payloads of many objects in plan order, from coalesced ranged reads.
//!
//! Invariants: at most one range, one base and one payload are held, and what a far store lets come ahead of its turn; every
//! payload is verified; the ranges must come from [`super::plan_ranges`] over the same objects in the same order.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    BlobStream, Location, PlannedRange,
    decode::{check_lengths, decode_shared},
    open_blob_stream,
    reader::{base_location, decode_base, read_base},
    stored_stream::StoredStream,
};
use crate::{
    error::{Error, Result},
    id::{Kind, ObjectId, PackId},
    store::{ObjectStore, StoreKey, ahead::Ahead},
};

/// One object to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: ObjectId,
    /// Where it is.
    pub location: Location,
}

/// A verified payload.
pub enum Payload {
    /// All of it.
    Whole(Bytes),
    /// A blob over [`super::WHOLE_BYTES_MAX`], to be drained before the next object is asked for.
    Pieces(Box<BlobStream>),
}

/// The stored form of an object whose payload was verified.
pub enum StoredForm {
    /// All of it, and the payload.
    Whole {
        /// As it is stored.
        stored: Bytes,
        /// What it decodes to.
        payload: Bytes,
    },
    /// Of a blob over [`super::WHOLE_BYTES_MAX`], to be drained before the next object is asked for.
    Pieces(Box<StoredStream>),
}

/// Yields each wanted object with its payload. An error is about the object it is yielded with (damage says file and
/// offset); reading may go on after it.
pub struct RangeReader<I> {
    store: Arc<dyn ObjectStore>,
    ranges: std::vec::IntoIter<PlannedRange>,
    /// The next ranges, those of a far store on their way.
    ahead: VecDeque<(PlannedRange, Option<Ahead>)>,
    wanted: I,
    current: Option<Loaded>,
    base: Option<(PackId, u64, Bytes)>,
    base_reads: u64,
    bytes_read: u64,
}

struct Loaded {
    range: PlannedRange,
    left: usize,
    /// What the ranged read gave; an error is repeated for every object of the range by reading them singly.
    bytes: Option<Bytes>,
}

impl<I: Iterator<Item = Wanted>> RangeReader<I> {
    /// Reads `wanted` along `ranges`.
    pub fn new(store: Arc<dyn ObjectStore>, ranges: Vec<PlannedRange>, wanted: I) -> RangeReader<I> {
        let (ranges, ahead) = (ranges.into_iter(), VecDeque::new());
        RangeReader { store, ranges, ahead, wanted, current: None, base: None, base_reads: 0, bytes_read: 0 }
    }

    /// Ranged reads of bases that lay in no range being read.
    pub fn base_reads(&self) -> u64 {
        self.base_reads
    }

    /// Bytes read so far, bases included, large blobs counted when they are opened.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    fn load(&mut self, wanted: &Wanted) -> Result<()> {
        if self.current.as_ref().is_none_or(|loaded| loaded.left == 0) {
            // The old range goes before the new one comes.
            self.current = None;
            let (range, ahead) =
                self.next_range().ok_or_else(|| Error::invalid("the plan has fewer objects than the list"))?;
            let fits = range.pack == wanted.location.pack && range.offset == wanted.location.offset;
            if !fits {
                return Err(Error::invalid("the plan was made for another list of objects"));
            }
            self.bytes_read += range.len;
            let bytes = match range.large {
                true => None,
                false => ahead
                    .and_then(Ahead::wait)
                    .or_else(|| self.store.read(&StoreKey::pack(range.pack), range.offset, range.len).ok()),
            };
            self.current = Some(Loaded { range, left: range.objects, bytes });
        }
        if let Some(loaded) = self.current.as_mut() {
            loaded.left -= 1;
        }
        Ok(())
    }

    /// The next range, after those behind it were asked for.
    fn next_range(&mut self) -> Option<(PlannedRange, Option<Ahead>)> {
        while self.ahead.len() <= RANGES_AHEAD {
            let Some(range) = self.ranges.next() else { break };
            let ask = || self.store.read_ahead(&StoreKey::pack(range.pack), range.offset, range.len);
            let coming = if range.large { None } else { ask() };
            self.ahead.push_back((range, coming));
        }
        self.ahead.pop_front()
    }

    /// As `next`, with the stored form instead of the payload; the payload is verified all the same.
    pub fn next_stored(&mut self) -> Option<(Wanted, Result<StoredForm>)> {
        let wanted = self.wanted.next()?;
        let form = self.form(&wanted);
        Some((wanted, form))
    }

    fn form(&mut self, wanted: &Wanted) -> Result<StoredForm> {
        if self.is_large(wanted)? {
            return StoredStream::open(Arc::clone(&self.store), wanted.id, &wanted.location)
                .map(|pieces| StoredForm::Pieces(Box::new(pieces)));
        }
        self.whole(wanted).map(|(stored, payload)| StoredForm::Whole { stored, payload })
    }

    fn payload(&mut self, wanted: &Wanted) -> Result<Payload> {
        if self.is_large(wanted)? {
            return open_blob_stream(Arc::clone(&self.store), wanted.id, &wanted.location)
                .map(|pieces| Payload::Pieces(Box::new(pieces)));
        }
        self.whole(wanted).map(|(_, payload)| Payload::Whole(payload))
    }

    /// Loads the range that the object lies in; whether it is to be read in pieces.
    fn is_large(&mut self, wanted: &Wanted) -> Result<bool> {
        self.load(wanted)?;
        check_lengths(wanted.kind, &wanted.location)?;
        Ok(self.current.as_ref().is_some_and(|loaded| loaded.range.large))
    }

    /// Stored form and verified payload of an object that is held whole.
    fn whole(&mut self, wanted: &Wanted) -> Result<(Bytes, Bytes)> {
        let location = &wanted.location;
        let stored = self.stored(location.pack, location.offset, location.stored_len)?;
        let base = self.base_of(wanted)?;
        let payload = decode_shared(wanted.kind, wanted.id, location, &stored, base.as_deref())?;
        Ok((stored, payload))
    }

    fn base_of(&mut self, wanted: &Wanted) -> Result<Option<Bytes>> {
        let location = &wanted.location;
        let Some(base) = location.base else { return Ok(None) };
        if let Some((pack, offset, payload)) = &self.base
            && (*pack, *offset) == (location.pack, base.offset)
        {
            return Ok(Some(payload.clone()));
        }
        let at = base_location(location, &base);
        check_lengths(wanted.kind, &at)?;
        self.base = None;
        let payload = match self.slice(at.pack, at.offset, at.stored_len) {
            Some(stored) => decode_base(wanted.kind, &at, &stored)?,
            None => {
                self.base_reads += 1;
                self.bytes_read += base.stored_len;
                read_base(&*self.store, wanted.kind, location, &base)?
            }
        };
        self.base = Some((location.pack, base.offset, payload.clone()));
        Ok(Some(payload))
    }

    fn stored(&self, pack: PackId, offset: u64, len: u64) -> Result<Bytes> {
        match self.slice(pack, offset, len) {
            Some(bytes) => Ok(bytes),
            // The range could not be read as a whole (a truncated file): what is left of it is still served.
            None => self.store.read(&StoreKey::pack(pack), offset, len),
        }
    }

    fn slice(&self, pack: PackId, offset: u64, len: u64) -> Option<Bytes> {
        let loaded = self.current.as_ref().filter(|loaded| loaded.range.pack == pack)?;
        let bytes = loaded.bytes.as_ref()?;
        let start = usize::try_from(offset.checked_sub(loaded.range.offset)?).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        (end <= bytes.len()).then(|| bytes.slice(start..end))
    }
}

impl<I: Iterator<Item = Wanted>> Iterator for RangeReader<I> {
    type Item = (Wanted, Result<Payload>);

    fn next(&mut self) -> Option<(Wanted, Result<Payload>)> {
        let wanted = self.wanted.next()?;
        let payload = self.payload(&wanted);
        Some((wanted, payload))
    }
}

/// Ranges asked for before their turn.
const RANGES_AHEAD: usize = 8;
