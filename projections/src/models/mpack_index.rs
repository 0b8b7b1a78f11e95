//! `mpack_index`: (repo, kind, id, pack) → where the object's stored form is in that pack, base included.
//!
//! A condemned row is not touched: a second key, the same with `c` behind it, says at which position it was condemned.
//! It counts if it is not older than the row: a pack that an event delivers again after that is good again. Readers take
//! the latest row that is not condemned; without one the object is missing.

use std::ops::ControlFlow;

use reprise_engine::{
    Result,
    event::{Codec, ObjectsReceived, RowsCondemned},
    id::{Kind, ObjectId, PackId, Position, RecordHash, RepoId},
    pack::{BaseLocation, Location, location_of},
};

use crate::{
    encoding::{RowReader, RowWriter, codec_byte, codec_of},
    models::{Model, OBJECT_KEY_BYTES, object_key},
    store::{RowSink, Snapshot, prefix_end},
};

/// Its name.
pub const NAME: &str = "mpack_index";
/// Its code version.
pub const VERSION: u32 = 1;

/// A pack was delivered: one row per object of its table.
pub fn fold_received(received: &ObjectsReceived, position: Position, sink: &mut dyn RowSink) {
    let mut row = RowWriter::new();
    for (index, object) in received.rows.iter().enumerate() {
        row.clear();
        encode(&location_of(received.pack, &received.rows, index), position, &mut row);
        sink.put(Model::MpackIndex, &key(received.repo, object.kind, object.id, received.pack), row.bytes());
    }
}

/// Bytes behind rows were found damaged.
pub fn fold_condemned(condemned: &RowsCondemned, position: Position, sink: &mut dyn RowSink) {
    let mut row = RowWriter::new();
    row.position(position);
    for (kind, id) in &condemned.rows {
        let mut flag = [CONDEMNED; KEY_BYTES + 1];
        flag[..KEY_BYTES].copy_from_slice(&key(condemned.repo, *kind, *id, condemned.pack));
        sink.put(Model::MpackIndex, &flag, row.bytes());
    }
}

/// Where one object is, if the repository has it.
pub fn locate(snapshot: &dyn Snapshot, repo: RepoId, kind: Kind, id: ObjectId) -> Result<Option<Location>> {
    let mut found = None;
    locate_all(snapshot, repo, kind, &[id], &mut |_, location| {
        found = location;
        Ok(())
    })?;
    Ok(found)
}

/// Calls `each` for every one of `ids` (ascending, distinct), in order: one merge with a range scan that leaps over gaps.
pub fn locate_all(
    snapshot: &dyn Snapshot,
    repo: RepoId,
    kind: Kind,
    ids: &[ObjectId],
    each: &mut dyn FnMut(ObjectId, Option<Location>) -> Result<()>,
) -> Result<()> {
    let Some(last) = ids.last() else { return Ok(()) };
    let until = prefix_end(&object_key(repo, kind, *last));
    let mut merge = Merge { ids, next: 0, best: Best::default(), skipped: 0, each };
    while let Some(wanted) = merge.wanted() {
        let before = merge.next;
        let from = object_key(repo, kind, wanted);
        merge.skipped = 0;
        let mut leap = false;
        snapshot.scan(Model::MpackIndex, &from, until.as_deref(), &mut |key, row| {
            let step = merge.take(key, row)?;
            leap |= step.is_break();
            Ok(step)
        })?;
        if !leap {
            return merge.finish();
        }
        assert!(merge.next > before, "a leap moves forward");
    }
    Ok(())
}

/// A pack that was delivered with the object, condemned or not; for errors that name where it was.
pub fn any_pack(snapshot: &dyn Snapshot, repo: RepoId, kind: Kind, id: ObjectId) -> Result<Option<PackId>> {
    let mut found = None;
    crate::store::scan_prefix(snapshot, Model::MpackIndex, &object_key(repo, kind, id), &mut |key, _| {
        found = decode_key(key).map(|key| key.pack);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

/// What a row is, by its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexKey {
    /// Whose.
    pub repo: RepoId,
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: ObjectId,
    /// In which pack.
    pub pack: PackId,
    /// True for the key that condemns.
    pub condemns: bool,
}

/// Reads a key back.
pub fn decode_key(key: &[u8]) -> Option<IndexKey> {
    let (repo, rest) = key.split_first_chunk::<16>()?;
    let (kind, rest) = rest.split_first()?;
    let (id, rest) = rest.split_first_chunk::<32>()?;
    let (pack, rest) = rest.split_first_chunk::<32>()?;
    let condemns = match rest {
        [] => false,
        [CONDEMNED] => true,
        _ => return None,
    };
    let kind = Kind::from_byte(*kind)?;
    Some(IndexKey { repo: RepoId(*repo), kind, id: ObjectId(*id), pack: PackId(*pack), condemns })
}

/// Location and position of a row.
pub fn decode(pack: PackId, row: &[u8]) -> Result<(Location, Position)> {
    let mut reader = RowReader::new(NAME, row);
    let position = reader.position()?;
    let flags = reader.byte()?;
    if flags & !(BASE | HASH) != 0 {
        return Err(reader.damaged("unknown flags"));
    }
    let (offset, stored_len, real_len, codec) = place(&mut reader)?;
    let base = if flags & BASE != 0 {
        let (offset, stored_len, real_len, codec) = place(&mut reader)?;
        Some(BaseLocation { offset, stored_len, real_len, codec })
    } else {
        None
    };
    let record_hash = if flags & HASH != 0 { Some(RecordHash(reader.fixed()?)) } else { None };
    reader.end()?;
    Ok((Location { pack, offset, stored_len, real_len, codec, base, record_hash }, position))
}

/// The position of a key that condemns.
pub fn decode_condemned(row: &[u8]) -> Result<Position> {
    let mut reader = RowReader::new(NAME, row);
    let position = reader.position()?;
    reader.end()?;
    Ok(position)
}

/// A merge of wanted ids with rows.
struct Merge<'a> {
    ids: &'a [ObjectId],
    next: usize,
    best: Best,
    skipped: usize,
    each: &'a mut dyn FnMut(ObjectId, Option<Location>) -> Result<()>,
}

/// The rows of one object so far. A condemning key stands right behind the row it condemns, so one row is held back.
#[derive(Default)]
struct Best {
    latest: Option<(Location, Position)>,
    held: Option<(Location, Position)>,
}

impl Best {
    fn row(&mut self, location: Location, position: Position) {
        self.settle();
        self.held = Some((location, position));
    }

    fn condemn(&mut self, pack: PackId, position: Position) {
        self.held.take_if(|(location, written)| location.pack == pack && position >= *written);
    }

    fn settle(&mut self) {
        let Some(held) = self.held.take() else { return };
        if self.latest.as_ref().is_none_or(|latest| held.1 >= latest.1) {
            self.latest = Some(held);
        }
    }

    fn end(&mut self) -> Option<Location> {
        self.settle();
        self.latest.take().map(|(location, _)| location)
    }
}

impl Merge<'_> {
    fn wanted(&self) -> Option<ObjectId> {
        self.ids.get(self.next).copied()
    }

    fn take(&mut self, key: &[u8], row: &[u8]) -> Result<ControlFlow<()>> {
        let found = decode_key(key).ok_or_else(|| RowReader::new(NAME, row).damaged("its key is malformed"))?;
        while self.wanted().is_some_and(|wanted| wanted < found.id) {
            self.answer()?;
        }
        let Some(wanted) = self.wanted() else { return Ok(ControlFlow::Break(())) };
        if wanted == found.id {
            self.skipped = 0;
            match found.condemns {
                true => self.best.condemn(found.pack, decode_condemned(row)?),
                false => {
                    let (location, position) = decode(found.pack, row)?;
                    self.best.row(location, position);
                }
            }
            return Ok(ControlFlow::Continue(()));
        }
        self.skipped += 1;
        Ok(if self.skipped > SKIP_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn answer(&mut self) -> Result<()> {
        let id = self.ids[self.next];
        self.next += 1;
        let found = self.best.end();
        (self.each)(id, found)
    }

    fn finish(mut self) -> Result<()> {
        while self.next < self.ids.len() {
            self.answer()?;
        }
        Ok(())
    }
}

fn encode(location: &Location, position: Position, row: &mut RowWriter) {
    let base = if location.base.is_some() { BASE } else { 0 };
    let hash = if location.record_hash.is_some() { HASH } else { 0 };
    row.position(position)
        .byte(base | hash)
        .int(location.offset)
        .int(location.stored_len)
        .int(location.real_len)
        .byte(codec_byte(location.codec));
    if let Some(base) = &location.base {
        row.int(base.offset).int(base.stored_len).int(base.real_len).byte(codec_byte(base.codec));
    }
    if let Some(hash) = &location.record_hash {
        row.fixed(&hash.0);
    }
}

fn place(reader: &mut RowReader<'_>) -> Result<(u64, u64, u64, Codec)> {
    Ok((reader.int()?, reader.int()?, reader.int()?, codec_of(reader)?))
}

fn key(repo: RepoId, kind: Kind, id: ObjectId, pack: PackId) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..OBJECT_KEY_BYTES].copy_from_slice(&object_key(repo, kind, id));
    key[OBJECT_KEY_BYTES..].copy_from_slice(&pack.0);
    key
}

const KEY_BYTES: usize = OBJECT_KEY_BYTES + 32;
const CONDEMNED: u8 = b'c';
const BASE: u8 = 1;
const HASH: u8 = 2;
/// Unwanted rows after which seeking costs less than reading on.
const SKIP_MAX: usize = 48;
