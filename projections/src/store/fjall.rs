//! Rows in fjall, one directory per generation.
//!
//! Invariants: nothing that fjall says about its own journal is trusted after an unclean stop (FAULTS §1); every call
//! that may panic inside the library is contained and comes back as an error, which the caller answers with a rebuild;
//! batches are never fsynced. A stamp row in every keyspace says which of our flushes it has seen, so that a keyspace
//! that was lost, emptied or replaced by an older copy is recognised at open. Stored keys are the model's number, then the
//! canonical key; model 0 is the store's own. Never call it from an async worker thread: its back-pressure sleeps. That of the
//! library never ends when its workers have died, so a commit is begun only with room for it (`make_room`).

use std::{
    cell::Cell,
    ops::{Bound, ControlFlow},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fjall::{
    AbstractTree, Database, Keyspace as Tree, KeyspaceCreateOptions, PersistMode, Readable,
    config::{BlockSizePolicy, FilterPolicy},
};
use reprise_engine::{Error, ErrorKind, Result};

use crate::{
    generation,
    models::{Keyspace, Model},
    projections::Checkpoint,
    records::{decode_checkpoint, encode_checkpoint},
    store::{
        Batch, RowVisitor, Snapshot, SortedRows, Stamp, Store,
        damage::{self, Damage},
    },
};

/// One generation in fjall. The directory is removed when the last handle and snapshot is gone, if asked to.
pub struct FjallStore {
    inner: Arc<Inner>,
}

struct Inner {
    trees: [Tree; Keyspace::ALL.len()],
    database: Database,
    damage: Damage,
    /// How often a wait for the library's workers may look without seeing them advance.
    waits_max: u32,
    // Declared last, hence dropped last: the directory goes when nothing has it open any more.
    directory: Directory,
}

struct Directory {
    path: PathBuf,
    remove: AtomicBool,
}

/// Memory that one store may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Block cache, bytes.
    pub cache_bytes: u64,
    /// Memtables of all keyspaces together, bytes.
    pub memtable_bytes: u64,
}

impl FjallStore {
    /// Creates a generation in a directory that does not exist yet.
    pub fn create(path: &Path, memory: Memory) -> Result<FjallStore> {
        FjallStore::create_with(path, memory, WORKERS, WAITS_MAX)
    }

    fn create_with(path: &Path, memory: Memory, workers: usize, waits_max: u32) -> Result<FjallStore> {
        contained("create", || {
            if generation::exists(path) {
                return Err(lost(path, "is there already, and a new generation must be empty"));
            }
            let database = database(path, memory, workers)?;
            let trees = trees(&database, memory)?;
            Ok(FjallStore::of(trees, database, path, waits_max))
        })
    }

    /// Opens an existing generation. Any error means: rebuild.
    pub fn open(path: &Path, memory: Memory) -> Result<FjallStore> {
        contained("open", || {
            if !generation::exists(path) {
                return Err(Error::not_found(format!("generation {} is not there", generation::shown(path))));
            }
            damage::check_lists(path)?;
            let database = database(path, memory, WORKERS)?;
            let names = database.list_keyspace_names();
            for keyspace in Keyspace::ALL {
                if !names.iter().any(|found| **found == *name_of(keyspace)) {
                    return Err(lost(path, &format!("keyspace {} is gone", name_of(keyspace))));
                }
            }
            let trees = trees(&database, memory)?;
            Ok(FjallStore::of(trees, database, path, WAITS_MAX))
        })
    }

    fn of(trees: [Tree; Keyspace::ALL.len()], database: Database, path: &Path, waits_max: u32) -> FjallStore {
        let (damage, directory) = (Damage::default(), Directory::new(path));
        FjallStore { inner: Arc::new(Inner { trees, database, damage, waits_max, directory }) }
    }

    /// Removes the directory once the last user is gone.
    pub fn remove_when_unused(&self) {
        self.inner.directory.remove.store(true, Ordering::SeqCst);
    }

    /// What each keyspace says about the last flush it has seen.
    ///
    /// Through a snapshot, as all reads go: a store that has lost its journal opens with its sequence numbers at zero, so
    /// that a point read beside the snapshots still finds a stamp while every snapshot is empty.
    pub fn stamps(&self) -> Result<Vec<Option<Stamp>>> {
        contained("read the stamps", || {
            let snapshot = self.inner.database.snapshot();
            let stamps = self.inner.trees.iter().map(|tree| {
                let row = snapshot.get(tree, STAMP_KEY).map_err(|error| failed("read a stamp", &error))?;
                row.map(|row| Stamp::decode(&row)).transpose()
            });
            stamps.collect()
        })
    }

    /// Waits until the memtable of every keyspace is a durable table.
    fn flush_memtables(&self) -> Result<()> {
        for tree in &self.inner.trees {
            tree.rotate_memtable().map_err(|error| failed("rotate a memtable", &error))?;
        }
        self.wait_while("flush", |tree| tree.sealed_memtable_count() > 0)
    }

    /// Waits until a commit cannot be held up inside the library: it waits there while a keyspace has 4 sealed memtables or 30
    /// runs in its first level, without an end and without looking whether its workers still live.
    ///
    /// From here to the end of the commit a keyspace gets at most two more sealed memtables (one by size, one by the other
    /// thread's flush, which ends before the next) and as many runs.
    fn make_room(&self) -> Result<()> {
        let full = |tree: &Tree| tree.sealed_memtable_count() > SEALED_MAX || tree.tree.l0_run_count() > RUNS_MAX;
        self.wait_while("commit", full)
    }

    /// Waits for the library's workers while `busy` says so of a keyspace; an error if they died or do not advance.
    fn wait_while(&self, operation: &'static str, busy: impl Fn(&Tree) -> bool) -> Result<()> {
        let backlog = |tree: &Tree| tree.sealed_memtable_count() + tree.tree.l0_run_count();
        for tree in &self.inner.trees {
            let (mut waited, mut least) = (0, usize::MAX);
            while busy(tree) {
                // A worker that failed poisons the store and never empties the queue.
                self.inner.database.persist(PersistMode::Buffer).map_err(|error| failed(operation, &error))?;
                if backlog(tree) < least {
                    (waited, least) = (0, backlog(tree));
                }
                if waited >= self.inner.waits_max {
                    let text = format!("the projection store does not advance, so that it cannot {operation}");
                    return Err(Error::new(ErrorKind::Unavailable, text));
                }
                waited += 1;
                std::thread::sleep(WAIT);
            }
        }
        Ok(())
    }
}

impl Store for FjallStore {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(FjallSnapshot { snapshot: self.inner.database.snapshot(), inner: Arc::clone(&self.inner) }))
    }

    fn apply(&self, batch: &Batch, checkpoint: Option<Checkpoint>) -> Result<()> {
        contained("apply a batch", || {
            self.make_room()?;
            let mut write = fjall::OwnedWriteBatch::with_capacity(self.inner.database.clone(), batch.len() + 1);
            let mut stored = Vec::with_capacity(128);
            for (model, key, row) in batch.iter() {
                stored_key(model.number(), key, &mut stored);
                let tree = self.inner.tree(model.keyspace());
                match row {
                    Some(row) => write.insert(tree, stored.as_slice(), row),
                    None => write.remove(tree, stored.as_slice()),
                }
            }
            if let Some(checkpoint) = checkpoint {
                write.insert(
                    self.inner.tree(Keyspace::Small),
                    CHECKPOINT_KEY,
                    encode_checkpoint(checkpoint).as_slice(),
                );
            }
            write.commit().map_err(|error| failed("commit a batch", &error))
        })
    }

    fn ingest(&self, rows: &mut dyn SortedRows) -> Result<u64> {
        contained("load rows", || {
            let mut count = 0;
            let mut stored = Vec::with_capacity(256);
            let mut first = rows.next_row()?.map(|(model, key, row)| (model, key.to_vec(), row.to_vec()));
            while let Some((model, key, row)) = first.take() {
                let keyspace = model.keyspace();
                let tree = self.inner.tree(keyspace);
                let mut loading = tree.start_ingestion().map_err(|error| failed("start loading", &error))?;
                stored_key(model.number(), &key, &mut stored);
                loading.write(stored.as_slice(), row).map_err(|error| failed("load a row", &error))?;
                count += 1;
                while let Some((model, key, row)) = rows.next_row()? {
                    if model.keyspace() != keyspace {
                        first = Some((model, key.to_vec(), row.to_vec()));
                        break;
                    }
                    stored_key(model.number(), key, &mut stored);
                    loading.write(stored.as_slice(), row).map_err(|error| failed("load a row", &error))?;
                    count += 1;
                }
                loading.finish().map_err(|error| failed("finish loading", &error))?;
            }
            Ok(count)
        })
    }

    fn flush(&self, stamp: Stamp) -> Result<()> {
        contained("flush", || {
            self.make_room()?;
            let mut write = fjall::OwnedWriteBatch::with_capacity(self.inner.database.clone(), Keyspace::ALL.len());
            for tree in &self.inner.trees {
                write.insert(tree, STAMP_KEY, stamp.encode().as_slice());
            }
            write.commit().map_err(|error| failed("stamp", &error))?;
            self.flush_memtables()?;
            self.inner.database.persist(PersistMode::SyncAll).map_err(|error| failed("sync", &error))
        })
    }

    fn damage(&self) -> Option<String> {
        self.inner.damage.found().map(str::to_owned)
    }

    fn check(&self, stop: &dyn Fn() -> bool) {
        for tree in &self.inner.trees {
            self.inner.damage.check_tables(&tree.tree, stop);
        }
    }
}

impl Inner {
    fn tree(&self, keyspace: Keyspace) -> &Tree {
        match keyspace {
            Keyspace::Small => &self.trees[0],
            Keyspace::History => &self.trees[1],
            Keyspace::ObjectRefs => &self.trees[2],
            Keyspace::MpackIndex => &self.trees[3],
        }
    }

    /// A read. What the library cannot read, or panics over, is damage; what the caller does with a row is not.
    fn read<T>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&Cell<bool>) -> fjall::Result<Result<T>>,
    ) -> Result<T> {
        let with_caller = Cell::new(false);
        match catch_unwind(AssertUnwindSafe(|| call(&with_caller))) {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => {
                self.damage.note_error(operation, &error);
                Err(failed(operation, &error))
            }
            Err(_) => {
                if !with_caller.get() {
                    self.damage.note(&format!("{operation}: the library panicked"));
                }
                Err(panicked(operation))
            }
        }
    }
}

impl Directory {
    fn new(path: &Path) -> Directory {
        Directory { path: path.to_owned(), remove: AtomicBool::new(false) }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.remove.load(Ordering::SeqCst)
            && let Err(error) = generation::remove(&self.path)
        {
            // Left-overs are removed at the next start.
            tracing::warn!(path = %self.path.display(), %error, "an old generation could not be removed");
        }
    }
}

struct FjallSnapshot {
    snapshot: fjall::Snapshot,
    inner: Arc<Inner>,
}

impl Snapshot for FjallSnapshot {
    fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        self.inner.read("read the checkpoint", |_| {
            let row = self.snapshot.get(self.inner.tree(Keyspace::Small), CHECKPOINT_KEY)?;
            Ok(row.map(|row| decode_checkpoint(&row)).transpose())
        })
    }

    fn get(&self, model: Model, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.read("get", |_| {
            let mut stored = Vec::with_capacity(1 + key.len());
            stored_key(model.number(), key, &mut stored);
            let row = self.snapshot.get(self.inner.tree(model.keyspace()), stored)?;
            Ok(Ok(row.map(|row| row.to_vec())))
        })
    }

    fn scan(&self, model: Model, from: &[u8], until: Option<&[u8]>, each: &mut RowVisitor<'_>) -> Result<()> {
        let number = model.number();
        let (mut first, mut end) = (Vec::new(), Vec::new());
        stored_key(number, from, &mut first);
        match until {
            Some(until) => stored_key(number, until, &mut end),
            None => end.push(number + 1),
        }
        if first >= end {
            return Ok(());
        }
        self.inner.read("scan", |with_caller| {
            let range = (Bound::Included(first.as_slice()), Bound::Excluded(end.as_slice()));
            for guard in self.snapshot.range::<&[u8], _>(self.inner.tree(model.keyspace()), range) {
                let (key, row) = guard.into_inner()?;
                with_caller.set(true);
                match each(&key[1..], &row) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => break,
                    Err(error) => return Ok(Err(error)),
                }
                with_caller.set(false);
            }
            Ok(Ok(()))
        })
    }
}

fn database(path: &Path, memory: Memory, workers: usize) -> Result<Database> {
    Database::builder(path)
        .cache_size(memory.cache_bytes)
        .max_journaling_size(JOURNAL_BYTES_MAX)
        .worker_threads_unchecked(workers)
        .max_cached_files(Some(OPEN_FILES_MAX))
        .manual_journal_persist(true)
        .open()
        .map_err(|error| failed("open", &error))
}

fn trees(database: &Database, memory: Memory) -> Result<[Tree; Keyspace::ALL.len()]> {
    let open = |keyspace: Keyspace| {
        let options = || tree_options(keyspace, memory);
        database.keyspace(name_of(keyspace), options).map_err(|error| failed("open a keyspace", &error))
    };
    Ok([open(Keyspace::Small)?, open(Keyspace::History)?, open(Keyspace::ObjectRefs)?, open(Keyspace::MpackIndex)?])
}

fn tree_options(keyspace: Keyspace, memory: Memory) -> KeyspaceCreateOptions {
    // One memtable is active and one may be on its way to a table, per keyspace.
    let sixteenths = match keyspace {
        Keyspace::Small | Keyspace::History => 1,
        Keyspace::ObjectRefs => 2,
        Keyspace::MpackIndex => 4,
    };
    let options = KeyspaceCreateOptions::default()
        .max_memtable_size((memory.memtable_bytes / 16 * sixteenths).max(MEMTABLE_BYTES_MIN))
        .manual_journal_persist(true);
    match keyspace {
        // Only ever scanned: a filter would never be asked.
        Keyspace::MpackIndex => {
            options.filter_policy(FilterPolicy::disabled()).data_block_size_policy(BlockSizePolicy::all(8 << 10))
        }
        _ => options,
    }
}

fn name_of(keyspace: Keyspace) -> &'static str {
    match keyspace {
        Keyspace::Small => "small",
        Keyspace::History => "history",
        Keyspace::ObjectRefs => "object_refs",
        Keyspace::MpackIndex => "mpack_index",
    }
}

fn stored_key(number: u8, key: &[u8], into: &mut Vec<u8>) {
    into.clear();
    into.push(number);
    into.extend_from_slice(key);
}

/// Runs a call into the library; a panic in there is an error out here.
fn contained<T>(operation: &'static str, call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(panicked(operation)))
}

fn panicked(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the projection store panicked in: {operation}"))
}

fn failed(operation: &'static str, error: &fjall::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the projection store failed to {operation}: {error}"))
}

fn lost(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{}: {what}", generation::shown(path)))
}

const CHECKPOINT_KEY: &[u8] = &[0, b'c'];
const STAMP_KEY: &[u8] = &[0, b's'];
const WORKERS: usize = 2;
const OPEN_FILES_MAX: usize = 128;
/// The library's minimum.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
const MEMTABLE_BYTES_MIN: u64 = 256 << 10;
const WAIT: Duration = Duration::from_millis(2);
/// A minute without any advance.
const WAITS_MAX: u32 = 30_000;
/// Sealed memtables of a keyspace with which a commit may begin.
const SEALED_MAX: usize = 1;
/// Runs in the first level of a keyspace with which a commit may begin.
const RUNS_MAX: usize = 19;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SMALL: Memory = Memory { cache_bytes: 1 << 20, memtable_bytes: 1 << 20 };

    /// Writes and seals until a commit is refused; says why.
    fn seal_until_refused(store: &FjallStore) -> String {
        for _ in 0..100 {
            if let Err(error) = store.apply(&Batch::new(), Some(Checkpoint::START)) {
                assert!(store.flush(Stamp { number: 1, position: Checkpoint::START.position }).is_err());
                return error.to_string();
            }
            store.inner.tree(Keyspace::Small).rotate_memtable().unwrap();
        }
        String::new()
    }

    #[test]
    fn a_new_generation_is_never_made_of_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        drop(FjallStore::create(&dir.path().join("gen"), SMALL).unwrap());
        let error = FjallStore::create(&dir.path().join("gen"), SMALL).err().unwrap();
        assert!(error.to_string().contains("is there already"), "{error}");
    }

    #[test]
    fn a_commit_is_refused_when_nothing_is_flushed_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = FjallStore::create_with(&dir.path().join("gen"), SMALL, 0, 10).unwrap();
        let why = seal_until_refused(&store);
        assert!(why.contains("does not advance, so that it cannot commit"), "{why:?}");
    }

    #[test]
    fn a_commit_is_refused_at_once_when_a_flush_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let store = FjallStore::create(&dir.path().join("gen"), SMALL).unwrap();
        generation::remove(&dir.path().join("gen/keyspaces")).unwrap();
        let why = seal_until_refused(&store);
        assert!(why.contains("Poisoned"), "{why:?}");
    }
}
