//! Sorted runs: the rows of a stretch of the log in (model, key) order, in memory or spilled to a file.
//!
//! Invariants: a run holds each key once, with the latest position of its stretch; every block of a file carries its
//! XXH3, so that a rotten run is an error, never a wrong row; a file is removed when its run is dropped.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use reprise_engine::{
    Error, Result,
    disk::{Disk, DiskFile, read_exact_at, write_all_at},
    id::{Position, RepoId},
};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    models::{Model, repos},
    store::RowSink,
};

/// Collects rows of events in log order until they are sorted into a run.
#[derive(Default)]
pub struct RunBuilder {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    position: Position,
    /// What the log says about repositories: the latest word, and where.
    pub repos: BTreeMap<RepoId, (Position, bool)>,
}

#[derive(Clone, Copy)]
struct Entry {
    at: usize,
    key_len: u32,
    row_len: u32,
    position: Position,
    model: Model,
    deleted: bool,
}

/// A row change in a run.
#[derive(Clone, Copy)]
pub struct RunRow<'a> {
    /// Whose.
    pub model: Model,
    /// Its key.
    pub key: &'a [u8],
    /// Its row; `None`: deleted.
    pub row: Option<&'a [u8]>,
    /// The event that wrote it.
    pub position: Position,
}

impl RunRow<'_> {
    /// Order of a merge: by key, the latest first.
    pub fn order(&self, other: &RunRow<'_>) -> Ordering {
        (self.model, self.key).cmp(&(other.model, other.key)).then_with(|| other.position.cmp(&self.position))
    }

    /// True for two changes of one row.
    pub fn same_key(&self, model: Model, key: &[u8]) -> bool {
        self.model == model && self.key == key
    }
}

impl RunBuilder {
    /// What follows comes from the event at `position`.
    pub fn begin(&mut self, position: Position) {
        self.position = position;
    }

    /// Bytes held, index included.
    pub fn held_bytes(&self) -> usize {
        self.bytes.len() + self.entries.len() * size_of::<Entry>()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sorts what was collected into a run and starts afresh.
    pub fn take_run(&mut self) -> MemoryRun {
        let bytes = std::mem::take(&mut self.bytes);
        let mut entries = std::mem::take(&mut self.entries);
        let key = |entry: &Entry| &bytes[entry.at..entry.at + entry.key_len as usize];
        // Stable: of equal keys the one that came last stays last, and only that one is kept.
        entries.sort_by(|a, b| a.model.cmp(&b.model).then_with(|| key(a).cmp(key(b))));
        entries.dedup_by(|later, kept| {
            let same = kept.model == later.model && key(kept) == key(later);
            if same {
                *kept = *later;
            }
            same
        });
        MemoryRun { bytes, entries }
    }

    fn push(&mut self, model: Model, key: &[u8], row: &[u8], deleted: bool) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(row);
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        assert!(key.len() <= KEY_BYTES_MAX && row.len() <= ROW_BYTES_MAX, "an event is at most a frame");
        let (key_len, row_len) = (len(key), len(row));
        self.entries.push(Entry { at, key_len, row_len, position: self.position, model, deleted });
    }
}

impl RowSink for RunBuilder {
    fn put(&mut self, model: Model, key: &[u8], row: &[u8]) {
        if model == Model::Repos
            && let Some((repo, live)) = repos::liveness(key, row)
        {
            self.repos.insert(repo, (self.position, live));
        }
        self.push(model, key, row, false);
    }

    fn delete(&mut self, model: Model, key: &[u8]) {
        self.push(model, key, &[], true);
    }
}

/// A run in memory.
pub struct MemoryRun {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl MemoryRun {
    /// How many rows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn row(&self, index: usize) -> RunRow<'_> {
        let entry = self.entries[index];
        let row_at = entry.at + entry.key_len as usize;
        let row = (!entry.deleted).then(|| &self.bytes[row_at..row_at + entry.row_len as usize]);
        RunRow { model: entry.model, key: &self.bytes[entry.at..row_at], row, position: entry.position }
    }

    fn starts(&self, model: Model) -> usize {
        self.entries.partition_point(|entry| entry.model < model)
    }
}

/// A run in a file. The file is removed with it.
pub struct FileRun {
    file: Box<dyn DiskFile>,
    disk: Arc<dyn Disk>,
    name: String,
    /// Byte offset at which the blocks of a model (and all after it) begin.
    starts: BTreeMap<Model, u64>,
    len: u64,
}

impl FileRun {
    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.len
    }
}

impl Drop for FileRun {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove(&self.name) {
            // It lies in the directory of a generation that is not live yet; it goes with it at the latest.
            tracing::debug!(file = self.name, %error, "a run file could not be removed");
        }
    }
}

/// Writes a run to a file, block by block.
pub struct FileRunWriter {
    run: FileRun,
    block: Vec<u8>,
    model: Option<Model>,
}

impl FileRunWriter {
    /// Starts a new file.
    pub fn create(disk: &Arc<dyn Disk>, name: String) -> Result<FileRunWriter> {
        let file = disk.create_new(&name)?;
        let run = FileRun { file, disk: Arc::clone(disk), name, starts: BTreeMap::new(), len: 0 };
        Ok(FileRunWriter { run, block: Vec::with_capacity(BLOCK_BYTES * 2), model: None })
    }

    /// Appends the next row.
    pub fn push(&mut self, row: &RunRow<'_>) -> Result<()> {
        if self.model != Some(row.model) {
            // A model begins a block of its own: loads of different models read the file independently.
            self.flush_block()?;
            self.run.starts.insert(row.model, self.run.len);
            self.model = Some(row.model);
        }
        let value = row.row.unwrap_or_default();
        let block = &mut self.block;
        block.push(row.model.number());
        block.push(u8::from(row.row.is_none()));
        block.extend_from_slice(&u16::try_from(row.key.len()).unwrap_or(u16::MAX).to_le_bytes());
        block.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        block.extend_from_slice(&row.position.0.to_le_bytes());
        block.extend_from_slice(row.key);
        block.extend_from_slice(value);
        if block.len() >= BLOCK_BYTES { self.flush_block() } else { Ok(()) }
    }

    /// Ends the run. Not synced: it is only read by this process.
    pub fn finish(mut self) -> Result<FileRun> {
        self.flush_block()?;
        Ok(self.run)
    }

    fn flush_block(&mut self) -> Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let mut head = [0; BLOCK_HEAD_BYTES];
        head[..4].copy_from_slice(&u32::try_from(self.block.len()).unwrap_or(u32::MAX).to_le_bytes());
        head[4..].copy_from_slice(&xxh3_64(&self.block).to_le_bytes());
        write_all_at(&*self.run.file, &head, self.run.len)?;
        write_all_at(&*self.run.file, &self.block, self.run.len + BLOCK_HEAD_BYTES as u64)?;
        self.run.len += (BLOCK_HEAD_BYTES + self.block.len()) as u64;
        self.block.clear();
        Ok(())
    }
}

/// A run, wherever it is.
pub enum Run {
    /// In memory.
    Memory(MemoryRun),
    /// In a file.
    File(FileRun),
}

impl Run {
    /// Reads the rows of models `from..until`.
    pub fn cursor(&self, from: Model, until: Option<Model>) -> Result<Cursor<'_>> {
        let place = match self {
            Run::Memory(run) => {
                let end = until.map_or(run.len(), |until| run.starts(until));
                Place::Memory { run, next: run.starts(from), end }
            }
            Run::File(run) => {
                let start = |model| run.starts.range(model..).next().map_or(run.len, |(_, at)| *at);
                Place::File { run, at: start(from), end: until.map_or(run.len, start), block: Vec::new(), next: 0 }
            }
        };
        let mut cursor = Cursor { place, current: None };
        cursor.advance()?;
        Ok(cursor)
    }
}

/// Stands on a row of a run.
pub struct Cursor<'a> {
    place: Place<'a>,
    current: Option<Current>,
}

enum Place<'a> {
    Memory { run: &'a MemoryRun, next: usize, end: usize },
    File { run: &'a FileRun, at: u64, end: u64, block: Vec<u8>, next: usize },
}

#[derive(Clone, Copy)]
enum Current {
    Index(usize),
    Parsed { model: Model, deleted: bool, position: Position, key_at: usize, row_at: usize, end: usize },
}

impl Cursor<'_> {
    /// The row it stands on; `None` at the end.
    pub fn row(&self) -> Option<RunRow<'_>> {
        match (&self.place, self.current?) {
            (Place::Memory { run, .. }, Current::Index(index)) => Some(run.row(index)),
            (Place::File { block, .. }, Current::Parsed { model, deleted, position, key_at, row_at, end }) => {
                let row = (!deleted).then(|| &block[row_at..end]);
                Some(RunRow { model, key: &block[key_at..row_at], row, position })
            }
            _ => None,
        }
    }

    /// Goes to the next row.
    pub fn advance(&mut self) -> Result<()> {
        self.current = match &mut self.place {
            Place::Memory { next, end, .. } => {
                let index = *next;
                *next += 1;
                (index < *end).then_some(Current::Index(index))
            }
            Place::File { run, at, end, block, next } => {
                if *next >= block.len() {
                    if *at >= *end {
                        self.current = None;
                        return Ok(());
                    }
                    *at = read_block(run, *at, block)?;
                    *next = 0;
                }
                let current = parse(run, block, *next)?;
                if let Current::Parsed { end, .. } = current {
                    *next = end;
                }
                Some(current)
            }
        };
        Ok(())
    }
}

fn read_block(run: &FileRun, at: u64, block: &mut Vec<u8>) -> Result<u64> {
    let mut head = [0; BLOCK_HEAD_BYTES];
    read_exact_at(&*run.file, &mut head, at)?;
    let (len, hash) = head.split_at(4);
    let int = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let (len, hash) = (int(len), int(hash));
    let next = at + BLOCK_HEAD_BYTES as u64 + len;
    if next > run.len {
        return Err(Error::corrupt(run.name.clone(), at, "a block of a run is longer than the file"));
    }
    block.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
    read_exact_at(&*run.file, block, at + BLOCK_HEAD_BYTES as u64)?;
    if xxh3_64(block) != hash {
        return Err(Error::corrupt(run.name.clone(), at, "a block of a run does not match its hash"));
    }
    Ok(next)
}

fn parse(run: &FileRun, block: &[u8], at: usize) -> Result<Current> {
    let damaged = || Error::corrupt(run.name.clone(), 0, "a row of a run is malformed");
    let (head, rest) = block.get(at..).and_then(<[u8]>::split_first_chunk::<ROW_HEAD_BYTES>).ok_or_else(damaged)?;
    let int = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let size = |bytes: &[u8]| usize::try_from(int(bytes)).unwrap_or(usize::MAX);
    let model = Model::by_number(head[0]).ok_or_else(damaged)?;
    let (key_len, row_len) = (size(&head[2..4]), size(&head[4..8]));
    if key_len.saturating_add(row_len) > rest.len() {
        return Err(damaged());
    }
    let key_at = at + ROW_HEAD_BYTES;
    let row_at = key_at + key_len;
    let position = Position(int(&head[8..16]));
    Ok(Current::Parsed { model, deleted: head[1] == 1, position, key_at, row_at, end: row_at + row_len })
}

const BLOCK_BYTES: usize = 64 << 10;
const BLOCK_HEAD_BYTES: usize = 4 + 8;
const ROW_HEAD_BYTES: usize = 1 + 1 + 2 + 4 + 8;
const KEY_BYTES_MAX: usize = u16::MAX as usize;
const ROW_BYTES_MAX: usize = 64 << 20;
