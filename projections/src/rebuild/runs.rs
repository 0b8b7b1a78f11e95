//! Sorted runs: changes in (model, key) order, each key once, in memory or spilled to a file.
//!
//! Invariants: every block of a file carries its XXH3, so that a rotten run is an error, never a wrong row; a block holds
//! changes of one keyspace only, so that keyspaces are read independently; a file is removed when its run is dropped.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use reprise_engine::{
    Error, Result,
    disk::{Disk, DiskFile, read_exact_at, write_all_at},
    id::Position,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    models::{Keyspace, Model},
    rebuild::buffer::{Buffer, Change, slot},
};

/// Where run files go: a disk, and what their names begin with.
pub type SpillPlace = (Arc<dyn Disk>, String);

/// Writes a sorted buffer to a file.
pub fn spill(buffer: &Buffer, place: &SpillPlace, number: &AtomicU64) -> Result<Run> {
    let mut writer = FileRunWriter::create(place, number)?;
    for keyspace in Keyspace::ALL {
        writer.begin(keyspace)?;
        for at in 0..buffer.len_of(keyspace) {
            writer.push(&buffer.change(keyspace, at))?;
        }
    }
    writer.finish()
}

/// A run in a file. The file is removed with it.
pub struct FileRun {
    file: Box<dyn DiskFile>,
    disk: Arc<dyn Disk>,
    name: String,
    /// Byte offset at which the blocks of each keyspace begin.
    starts: [u64; Keyspace::ALL.len()],
    len: u64,
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
}

impl FileRunWriter {
    /// Starts a new file.
    pub fn create(place: &SpillPlace, number: &AtomicU64) -> Result<FileRunWriter> {
        let (disk, prefix) = place;
        let name = format!("{prefix}run-{:06}", number.fetch_add(1, Relaxed));
        let file = disk.create_new(&name)?;
        let run = FileRun { file, disk: Arc::clone(disk), name, starts: [0; Keyspace::ALL.len()], len: 0 };
        Ok(FileRunWriter { run, block: Vec::with_capacity(BLOCK_BYTES * 2) })
    }

    /// What follows is of this keyspace. To be called once for each, in order.
    pub fn begin(&mut self, keyspace: Keyspace) -> Result<()> {
        self.flush_block()?;
        self.run.starts[slot(keyspace)] = self.run.len;
        Ok(())
    }

    /// Appends the next change.
    pub fn push(&mut self, change: &Change<'_>) -> Result<()> {
        let row = change.row.unwrap_or_default();
        let (Ok(key_len), Ok(row_len)) = (u16::try_from(change.key.len()), u32::try_from(row.len())) else {
            unreachable!("a buffer holds no longer key or row");
        };
        let mut head = [0; ROW_HEAD_BYTES];
        head[0] = change.model.number();
        head[1] = u8::from(change.row.is_none());
        head[2..4].copy_from_slice(&key_len.to_le_bytes());
        head[4..8].copy_from_slice(&row_len.to_le_bytes());
        head[8..].copy_from_slice(&change.position.0.to_le_bytes());
        let block = &mut self.block;
        block.extend_from_slice(&head);
        block.extend_from_slice(change.key);
        block.extend_from_slice(row);
        if block.len() >= BLOCK_BYTES { self.flush_block() } else { Ok(()) }
    }

    /// Ends the run. Not synced: it is only read by this process.
    pub fn finish(mut self) -> Result<Run> {
        self.flush_block()?;
        Ok(Run::File(self.run))
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
    /// In memory, sorted.
    Memory(Buffer),
    /// In a file.
    File(FileRun),
}

impl Run {
    /// Stands on the first change of a keyspace.
    pub fn cursor(&self, keyspace: Keyspace) -> Result<Cursor<'_>> {
        let place = match self {
            Run::Memory(buffer) => Place::Memory { buffer, keyspace, next: 0 },
            Run::File(run) => {
                let end = run.starts.get(slot(keyspace) + 1).copied().unwrap_or(run.len);
                let block = Block { bytes: Vec::new(), next: 0, at: run.starts[slot(keyspace)], end };
                Place::File { run, block, current: Parsed::default() }
            }
        };
        let mut cursor = Cursor { place };
        cursor.advance()?;
        Ok(cursor)
    }
}

/// Stands on a change of a run, or at its end.
pub struct Cursor<'a> {
    place: Place<'a>,
}

enum Place<'a> {
    Memory {
        buffer: &'a Buffer,
        keyspace: Keyspace,
        /// Index after the change it stands on.
        next: usize,
    },
    File {
        run: &'a FileRun,
        block: Block,
        current: Parsed,
    },
}

/// A block in memory, and where the ones after it are.
struct Block {
    bytes: Vec<u8>,
    next: usize,
    at: u64,
    end: u64,
}

/// Where the parts of a change are in its block; the default stands for none.
#[derive(Clone, Copy, Default)]
struct Parsed {
    model: Option<Model>,
    deleted: bool,
    position: Position,
    key_at: usize,
    row_at: usize,
    end: usize,
}

impl Cursor<'_> {
    /// The change it stands on; `None` at the end.
    pub fn change(&self) -> Option<Change<'_>> {
        match &self.place {
            Place::Memory { buffer, keyspace, next } => {
                let at = *next - 1;
                (at < buffer.len_of(*keyspace)).then(|| buffer.change(*keyspace, at))
            }
            Place::File { block, current, .. } => {
                let row = (!current.deleted).then(|| &block.bytes[current.row_at..current.end]);
                let key = &block.bytes[current.key_at..current.row_at];
                Some(Change { model: current.model?, key, row, position: current.position })
            }
        }
    }

    /// Goes to the next change.
    pub fn advance(&mut self) -> Result<()> {
        match &mut self.place {
            Place::Memory { next, .. } => *next += 1,
            Place::File { run, block, current } => {
                if block.next >= block.bytes.len() {
                    if block.at >= block.end {
                        *current = Parsed::default();
                        return Ok(());
                    }
                    block.at = read_block(run, block.at, &mut block.bytes)?;
                    block.next = 0;
                }
                *current = parse(run, &block.bytes, block.next)?;
                block.next = current.end;
            }
        }
        Ok(())
    }
}

/// Reads the block at `at`; returns where the next one is.
fn read_block(run: &FileRun, at: u64, block: &mut Vec<u8>) -> Result<u64> {
    let mut head = [0; BLOCK_HEAD_BYTES];
    read_exact_at(&*run.file, &mut head, at)?;
    let [l0, l1, l2, l3, hash @ ..] = head;
    let len = u32::from_le_bytes([l0, l1, l2, l3]);
    let next = at + BLOCK_HEAD_BYTES as u64 + u64::from(len);
    if next > run.len {
        return Err(Error::corrupt(run.name.clone(), at, "a block of a run is longer than the file"));
    }
    block.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
    read_exact_at(&*run.file, block, at + BLOCK_HEAD_BYTES as u64)?;
    if xxh3_64(block) != u64::from_le_bytes(hash) {
        return Err(Error::corrupt(run.name.clone(), at, "a block of a run does not match its hash"));
    }
    Ok(next)
}

fn parse(run: &FileRun, block: &[u8], at: usize) -> Result<Parsed> {
    let damaged = || Error::corrupt(run.name.clone(), 0, "a change in a run is malformed");
    let (head, rest) = block.get(at..).and_then(<[u8]>::split_first_chunk::<ROW_HEAD_BYTES>).ok_or_else(damaged)?;
    let [model, deleted, k0, k1, r0, r1, r2, r3, position @ ..] = *head;
    let key_len = usize::from(u16::from_le_bytes([k0, k1]));
    let row_len = usize::try_from(u32::from_le_bytes([r0, r1, r2, r3])).map_err(|_| damaged())?;
    if key_len.saturating_add(row_len) > rest.len() {
        return Err(damaged());
    }
    let model = Some(Model::by_number(model).ok_or_else(damaged)?);
    let position = Position(u64::from_le_bytes(position));
    let key_at = at + ROW_HEAD_BYTES;
    let row_at = key_at + key_len;
    Ok(Parsed { model, deleted: deleted == 1, position, key_at, row_at, end: row_at + row_len })
}

const BLOCK_BYTES: usize = 64 << 10;
const BLOCK_HEAD_BYTES: usize = 4 + 8;
/// model 1, deleted 1, key length 2, row length 4, position 8.
const ROW_HEAD_BYTES: usize = 1 + 1 + 2 + 4 + 8;
