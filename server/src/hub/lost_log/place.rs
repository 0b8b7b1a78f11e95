//! Where a recovery works: the data directory, the store that packs are read from, and the one they end in.
//!
//! Invariants: a directory with anything in it but what an interrupted recovery of the same packs left is refused before
//! anything is written; `DATA/recovery/NOTE` is durable before anything else is, and until the end nothing else opens the
//! directory; what is left of the old log is set aside at
//! most once, never that of the new one.

use std::{path::PathBuf, sync::Arc};

use reprise_engine::{
    Error, ErrorKind, Result,
    clock::{Random, SystemRandom},
    disk::{self, Disk, read_exact_at, real::RealDisk, write_all_at},
    engine::Engine,
    id::PackId,
    store::{ObjectStore, Staged, StoreKey, directory::DirectoryStore, handover::Remains},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Order;
use crate::hub::{bucket::BucketPlace, lifecycle::OBJECTS};

/// Where the packs are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PacksAt {
    /// In a bucket, where they stay.
    Bucket(BucketPlace),
    /// In the data directory's own `objects/`, where they stay.
    InPlace,
    /// In the `objects/` of another directory, from which good packs are copied.
    Elsewhere(PathBuf),
}

/// An admitted recovery.
pub struct Place {
    /// The data directory.
    pub disk: Arc<dyn Disk>,
    /// The same as a path.
    pub data: PathBuf,
    /// Where packs are read.
    pub from: Arc<dyn ObjectStore>,
    /// Where the new log's packs are; the same store unless they are copied.
    pub to: Arc<dyn ObjectStore>,
    /// They are copied.
    pub copies: bool,
    /// Where one pack at a time lies while it is read, if the store is far.
    beside: Option<Arc<dyn ObjectStore>>,
    note: Note,
}

/// A pack at hand. Dropped, a copy that was fetched is gone.
pub struct Near {
    /// Where it is.
    pub store: Arc<dyn ObjectStore>,
    fetched: Option<StoreKey>,
}

impl Drop for Near {
    fn drop(&mut self) {
        // What stays goes with the recovery's directory.
        if let Some(key) = &self.fetched
            && let Err(error) = self.store.delete(key)
        {
            tracing::warn!(%key, %error, "a pack that was read stays until the recovery ends");
        }
    }
}

/// What an interrupted recovery finds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Note {
    /// Where the packs are.
    packs: String,
    /// The log that was given up.
    replaced: Option<String>,
    /// Keys of it that are or will be set aside.
    set_aside: u64,
    /// Nothing of the old log stands in the store any more: what stands there is the new one's.
    taken_over: bool,
}

impl Place {
    /// Looks whether a recovery may begin, or go on, and notes that it has.
    pub fn admit(order: &Order) -> Result<Place> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(order.data.clone()));
        let begun = read_note(&*disk)?;
        if begun.is_none() {
            refuse_used(&*disk, &order.packs)?;
        }
        disk.create_dir("")?;
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let own = || -> Arc<dyn ObjectStore> {
            let objects: Arc<dyn Disk> = Arc::new(RealDisk::new(order.data.join(OBJECTS)));
            Arc::new(DirectoryStore::new(objects, Arc::clone(&random)))
        };
        let (from, to) = match &order.packs {
            PacksAt::InPlace => (own(), own()),
            PacksAt::Elsewhere(objects) => (elsewhere(objects, &random)?, own()),
            PacksAt::Bucket(bucket) => {
                let store: Arc<dyn ObjectStore> = Arc::new(bucket.connect(&order.data, &random)?);
                (Arc::clone(&store), store)
            }
        };
        let copies = matches!(order.packs, PacksAt::Elsewhere(_));
        let place = describe(&order.packs);
        let note = match begun {
            Some(note) if note.packs == place => note,
            Some(note) => {
                let text =
                    format!("a recovery of the packs in {} was begun in this directory, not of {place}", note.packs);
                return Err(Error::new(ErrorKind::Conflict, text));
            }
            None => begin(order, &*to, place)?,
        };
        let beside = order.packs.bucket().map(|_| -> Arc<dyn ObjectStore> {
            let fetched: Arc<dyn Disk> = Arc::new(RealDisk::new(order.data.join(FETCHED)));
            Arc::new(DirectoryStore::new(fetched, Arc::clone(&random)))
        });
        let place = Place { disk, data: order.data.clone(), from, to, copies, beside, note };
        place.write_note()?;
        Ok(place)
    }

    /// Sets aside what the old log left in the store, so that nothing of it can meet the new one. To be called when every pack
    /// was read.
    pub fn take_over(&mut self) -> Result<()> {
        if self.note.taken_over {
            return Ok(());
        }
        let remains = Remains::of(&*self.to)?;
        if self.note.replaced.as_deref() != Some(&remains.log_name()) && !remains.is_empty() {
            let (text, found) = ("while packs were read, another log came into the store", remains.log_name());
            return Err(Error::new(ErrorKind::Conflict, format!("{text}: {found}. Nothing was changed there")));
        }
        remains.set_aside(&*self.to)?;
        self.note.taken_over = true;
        self.write_note()
    }

    /// Where the packs are, for people.
    pub fn packs(&self) -> &str {
        &self.note.packs
    }

    /// The log that was given up, and how many of its keys were set aside.
    pub fn replaced(&self) -> (Option<&str>, u64) {
        (self.note.replaced.as_deref(), self.note.set_aside)
    }

    /// Copies a verified pack to where the new log's packs are, if it is not there: the bytes that hash to its name, or none.
    pub fn bring(&self, key: &StoreKey) -> Result<()> {
        let Some(pack) = key.as_pack().filter(|_| self.copies) else { return Ok(()) };
        if self.to.size(key).is_ok() {
            return Ok(());
        }
        let (staged, hash) = self.fetch(key, &*self.to)?;
        if hash != pack.0 {
            return Err(Error::corrupt(key.as_str(), 0, "the pack changed after it was verified"));
        }
        staged.commit(key).map(drop)
    }

    /// A pack where it can be read several times: far ones are fetched once, whatever their bytes are.
    pub fn near(&self, pack: PackId) -> Result<Near> {
        let Some(beside) = &self.beside else { return Ok(Near { store: Arc::clone(&self.from), fetched: None }) };
        let key = StoreKey::pack(pack);
        // Of an interrupted recovery, perhaps not what the store has now.
        beside.delete(&key)?;
        match self.fetch(&key, &**beside) {
            Ok((staged, _)) => staged.commit(&key).map(drop)?,
            // It is gone: whoever reads it hears so.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(Near { store: Arc::clone(beside), fetched: Some(key) })
    }

    /// Copies a key's bytes, not yet under their name; with what they hash to.
    fn fetch(&self, key: &StoreKey, to: &dyn ObjectStore) -> Result<(Box<dyn Staged>, [u8; 32])> {
        let size = self.from.size(key)?;
        let (mut staged, mut hash, mut at) = (to.stage()?, Sha256::new(), 0);
        while at < size {
            let bytes = self.from.read(key, at, PIECE_BYTES.min(size - at))?;
            hash.update(&bytes);
            staged.write(&bytes)?;
            at += bytes.len() as u64;
        }
        Ok((staged, hash.finalize().into()))
    }

    /// Everything is in the new log: the traces of the recovery go, the note last, by which an interrupted call is known.
    pub fn forget(&self) -> Result<()> {
        for tree in [SURVEY, FETCHED] {
            remove_tree(&self.data, tree)?;
        }
        self.disk.remove(NOTE)?;
        self.disk.remove_dir(RECOVERY)?;
        self.disk.sync_dir("")
    }

    fn write_note(&self) -> Result<()> {
        let disk = &*self.disk;
        let text = serde_json::to_vec_pretty(&self.note).map_err(|error| Error::invalid(error.to_string()))?;
        disk::make_dir(disk, RECOVERY)?;
        match disk.remove(NOTE_NEW) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        let file = disk.create_new(NOTE_NEW)?;
        write_all_at(&*file, &text, 0)?;
        file.sync_data()?;
        disk.rename(NOTE_NEW, NOTE)?;
        disk.sync_dir(RECOVERY)
    }
}

/// A new recovery: what is left of the old log must be named by whoever gives it up.
fn begin(order: &Order, to: &dyn ObjectStore, packs: String) -> Result<Note> {
    let remains = Remains::of(to)?;
    let name = remains.log_name();
    if !remains.is_empty() && order.replace.as_deref() != Some(&name) {
        return Err(Error::new(ErrorKind::Conflict, what_is_left(&remains, &packs)));
    }
    let replaced = (!remains.is_empty()).then_some(name);
    Ok(Note { packs, replaced, set_aside: remains.keys.len() as u64, taken_over: false })
}

fn what_is_left(remains: &Remains, packs: &str) -> String {
    let name = remains.log_name();
    let consent = format!("say so with --replace-log {name}, when no server uses it any more");
    match remains.keys.len() {
        0 => format!(
            "{packs} still bears the mark of log {name}. If that log is lost for good, {consent}: a new log then has these packs"
        ),
        keys => format!(
            "{packs} still holds {keys} pieces of log {name}: `reprise restore` brings a log back with branches, names and \
             tokens, `reprise doctor` mends a damaged one. If it is of no use, {consent}: what is left of it is set aside"
        ),
    }
}

fn elsewhere(objects: &std::path::Path, random: &Arc<dyn Random>) -> Result<Arc<dyn ObjectStore>> {
    let disk = RealDisk::for_reading(objects.to_owned());
    if disk.list("packs")?.is_empty() {
        return Err(Error::not_found(format!("there are no packs in {}: no directory packs/", objects.display())));
    }
    if let Some(above) = objects.parent()
        && Engine::exists(&RealDisk::for_reading(above.to_owned()))?
    {
        let text = format!(
            "beside these packs is a log, in {}: ask `reprise doctor`; if it is of no use, move it away first",
            above.join("log").display()
        );
        return Err(Error::new(ErrorKind::Conflict, text));
    }
    Ok(Arc::new(DirectoryStore::new(Arc::new(disk), Arc::clone(random))))
}

fn describe(packs: &PacksAt) -> String {
    match packs {
        PacksAt::Bucket(bucket) => bucket.url.clone(),
        PacksAt::InPlace => format!("{OBJECTS}/ of the data directory"),
        PacksAt::Elsewhere(objects) => objects.display().to_string(),
    }
}

/// Refuses a directory that holds anything but the packs themselves.
fn refuse_used(disk: &dyn Disk, packs: &PacksAt) -> Result<()> {
    let has_log = Engine::exists(disk)?;
    let mine = |name: &str| match name {
        "lost+found" => true,
        // A start that failed held the directory, and no more.
        "log" => !has_log,
        name => name == OBJECTS && *packs == PacksAt::InPlace,
    };
    let found: Vec<String> = disk.list("")?.into_iter().filter(|name| !mine(name)).collect();
    let Some(first) = found.first() else { return Ok(()) };
    let what = match has_log {
        true => "it holds a log: ask `reprise doctor`, or give an empty directory".to_owned(),
        false => format!("there is {first} in it: give an empty directory"),
    };
    Err(Error::new(ErrorKind::Conflict, format!("a new log begins in an empty data directory only: {what}")))
}

/// Refuses a directory whose recovery has not come to its end: its log names only some of the packs, so that it would pass for
/// less than there is, and packs for garbage.
pub fn refuse_unfinished(data: &std::path::Path) -> Result<()> {
    let Some(note) = read_note(&RealDisk::for_reading(data.to_owned()))? else { return Ok(()) };
    let text = format!(
        "a recovery of the packs in {} was begun in this directory and is not finished: run `reprise restore --from-packs` again, \
         as it was run",
        note.packs
    );
    Err(Error::invalid(text))
}

fn read_note(disk: &dyn Disk) -> Result<Option<Note>> {
    let file = match disk.open(NOTE) {
        Err(error) if error.is_not_found() => return Ok(None),
        file => file?,
    };
    let mut bytes = vec![0; usize::try_from(file.len()?.min(NOTE_BYTES_MAX)).unwrap_or(0)];
    read_exact_at(&*file, &mut bytes, 0)?;
    let note = serde_json::from_slice(&bytes);
    note.map(Some).map_err(|error| Error::corrupt(NOTE, 0, format!("it does not say what was begun: {error}")))
}

#[allow(
    clippy::disallowed_methods,
    reason = "the survey holds an index, whose directories are not the disk's business"
)]
fn remove_tree(data: &std::path::Path, tree: &'static str) -> Result<()> {
    match std::fs::remove_dir_all(data.join(tree)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", tree, error)),
        _ => Ok(()),
    }
}

/// The survey's log and index, below the data directory.
pub const SURVEY: &str = "recovery/survey";
/// Packs that were fetched to be read.
const FETCHED: &str = "recovery/fetched";
/// What is there only while a recovery is under way.
const RECOVERY: &str = "recovery";
const NOTE: &str = "recovery/NOTE";
const NOTE_NEW: &str = "recovery/NOTE.new";
const NOTE_BYTES_MAX: u64 = 64 << 10;
const PIECE_BYTES: u64 = 8 << 20;
