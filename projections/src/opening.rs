//! Opening the live generation, or finding out why it must be rebuilt (the rules of FAULTS §1).
//!
//! Invariants: a marker stands durably while the store is being opened, so that an opening that kills the process is not
//! tried twice; after an unclean stop only what our own flush record says is believed; a generation that knows more than
//! the log, or another log, is kept aside and reported, never used and never deleted.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use reprise_engine::{
    Result,
    disk::{Disk, real::RealDisk},
    id::Position,
};

use crate::{
    generation,
    projections::Checkpoint,
    records::{self, Current, Flushed, Known, Loss, Opening},
    source::Source,
    store::{
        Stamp, Store,
        fjall::{FjallStore, Memory},
        memory::MemoryStore,
    },
};

/// The directory of the generations.
#[derive(Clone)]
pub struct Home {
    /// Our small files.
    pub disk: Arc<dyn Disk>,
    /// The same directory for fjall.
    pub root: PathBuf,
    /// What a store may take.
    pub memory: Memory,
    /// The highest number that this process gave to a generation.
    numbered: Arc<AtomicU64>,
}

/// A generation in use.
pub struct Live {
    /// Its rows.
    pub store: Arc<dyn Store>,
    /// Its name; empty in memory.
    pub name: String,
    fjall: Option<Arc<FjallStore>>,
    home: Option<Home>,
    stamp: AtomicU64,
}

/// What opening found.
pub enum Found {
    /// A generation to go on with.
    Good {
        /// It.
        live: Live,
        /// Fold from here: its rows may be newer.
        from: Checkpoint,
        /// What is worth telling; empty if nothing.
        note: String,
    },
    /// No generation that can be used.
    Rebuild {
        /// Why; empty at the very first start.
        reason: String,
        /// The index knew more than the log.
        possible_loss: bool,
        /// The rows are of another code version: two builds must agree.
        outdated: bool,
    },
}

impl Home {
    /// The directory `root`, created if it is not there.
    pub fn new(root: PathBuf, memory: Memory) -> Result<Home> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(root.clone()));
        disk.create_dir("")?;
        Ok(Home { disk, root, memory, numbered: Arc::new(AtomicU64::new(0)) })
    }

    /// Opens what `CURRENT` names. Whatever it finds, no generation that knows more than the log is left for the sweep.
    pub fn open(&self, source: &dyn Source) -> Result<Found> {
        let found = self.find(source)?;
        let Found::Rebuild { reason, possible_loss, outdated } = found else { return Ok(found) };
        let durable = source.durable().position;
        let mut reasons = vec![reason];
        for (name, known) in generation::flushed_beyond(&*self.disk, durable)? {
            reasons.push(self.keep_aside(&name, &ahead(Position(known.position), durable), known.checkpoint().ok())?);
        }
        let possible_loss = possible_loss || reasons.len() > 1;
        reasons.retain(|reason| !reason.is_empty());
        Ok(Found::Rebuild { reason: reasons.join("; "), possible_loss, outdated })
    }

    /// What the generations that were kept because they knew more than the log say, until the log has it again or an operator
    /// removes them.
    pub fn losses(&self, source: &dyn Source) -> Result<Vec<String>> {
        generation::losses(&*self.disk, source)
    }

    fn find(&self, source: &dyn Source) -> Result<Found> {
        let disk = &*self.disk;
        let marker: Option<Opening> = records::read(disk, records::OPENING)?;
        let died = records::stands(disk, records::OPENING)?;
        let Some(current) = records::read::<Current>(disk, records::CURRENT)? else {
            let any = !disk.list("")?.is_empty();
            let reason = if any { "there was no readable CURRENT" } else { "" };
            return self.unusable(None, reason);
        };
        self.numbered.fetch_max(generation::number(&current.generation).unwrap_or(0), SeqCst);
        if died {
            let name = marker.map_or(String::new(), |marker| format!(" {}", marker.generation));
            return self.unusable(Some(&current), &format!("an earlier opening{name} did not come to its end"));
        }
        if let Some(reason) = current.outdated() {
            generation::set_aside(disk, &current.generation, None)?;
            self.forget()?;
            return Ok(Found::Rebuild { reason, possible_loss: false, outdated: true });
        }
        records::write(disk, records::OPENING, &Opening { generation: current.generation.clone() })?;
        let opened = FjallStore::open(&self.root.join(&current.generation), self.memory);
        let judged = opened.map(|store| self.judge(&current, store, source));
        records::remove(disk, records::OPENING)?;
        match judged {
            Ok(judged) => judged,
            Err(error) => self.unusable(Some(&current), &error.to_string()),
        }
    }

    /// Starts a new generation beside whatever there is.
    ///
    /// Numbers never repeat within a process: whoever still reads a generation that was given up removes its directory
    /// when he ends, and that must not be another one's by then. One caller at a time.
    pub fn create(&self) -> Result<Live> {
        let listed = generation::last_number(&*self.disk)?;
        let last = self.numbered.fetch_max(listed, SeqCst).max(listed);
        self.numbered.store(last + 1, SeqCst);
        let name = generation::name_of(last + 1);
        let store = Arc::new(FjallStore::create(&self.root.join(&name), self.memory)?);
        Ok(Live::of_fjall(self, store, name, 0))
    }

    /// `CURRENT` no longer names a generation; the next start rebuilds.
    pub fn forget(&self) -> Result<()> {
        records::remove(&*self.disk, records::CURRENT)?;
        records::remove(&*self.disk, records::OPENING)
    }

    /// Removes everything that is not `live`.
    pub fn sweep(&self, live: Option<&str>) -> Result<()> {
        generation::sweep(&*self.disk, &self.root, live)
    }

    fn judge(&self, current: &Current, store: FjallStore, source: &dyn Source) -> Result<Found> {
        let name = &current.generation;
        let stored = match store.snapshot().and_then(|snapshot| snapshot.checkpoint()) {
            Ok(stored) => stored.unwrap_or(Checkpoint::START),
            Err(error) => return self.unusable(Some(current), &error.to_string()),
        };
        let stamps = match store.stamps() {
            Ok(stamps) => stamps,
            Err(error) => return self.unusable(Some(current), &error.to_string()),
        };
        let known = stamps.iter().flatten().map(|stamp| stamp.position).chain([stored.position]).max();
        let durable = source.durable().position;
        if let Some(known) = known.filter(|known| *known > durable) {
            // A stamp has no chain: without the checkpoint that goes with it nobody can say later that it came back.
            let checkpoint = Some(stored).filter(|stored| stored.position == known);
            return self.aside(current, store, &ahead(known, durable), checkpoint);
        }
        let clean: Option<Flushed> = records::read(&*self.disk, &records::clean_name(name))?;
        let flushed: Option<Flushed> = records::read(&*self.disk, &records::flushed_name(name))?;
        let clean =
            clean.filter(|clean| clean.checkpoint().is_ok_and(|at| at == stored) && whole(&stamps, clean.stamp));
        let (record, unclean) = match (clean, flushed) {
            (Some(clean), _) => (clean, false),
            (None, Some(flushed)) => (flushed, true),
            (None, None) => return self.unusable(Some(current), "it has no record of a flush"),
        };
        if !whole(&stamps, record.stamp) {
            return self.unusable(Some(current), "a part of it is missing or older than its last flush");
        }
        let Ok(from) = record.checkpoint() else {
            return self.unusable(Some(current), "its record of a flush is malformed");
        };
        if stored.position < from.position {
            return self.unusable(Some(current), "its checkpoint is older than its last flush");
        }
        for at in [from, stored] {
            if at.position > Position::ZERO && source.chain_at(at.position)? != Some(at.chain) {
                let why = format!("the log is another one at {}", at.position);
                return self.aside(current, store, &why, Some(stored));
            }
        }
        // Gone before anything is written: a clean mark must never outlive the state it speaks of.
        records::remove(&*self.disk, &records::clean_name(name))?;
        let note = if unclean && from.position < durable {
            format!("folding again from {} after an unclean stop", from.position)
        } else {
            String::new()
        };
        let live = Live::of_fjall(self, Arc::new(store), name.clone(), record.stamp);
        Ok(Found::Good { live, from, note })
    }

    fn aside(&self, current: &Current, store: FjallStore, why: &str, known: Option<Checkpoint>) -> Result<Found> {
        drop(store);
        let reason = self.keep_aside(&current.generation, why, known)?;
        self.forget()?;
        Ok(Found::Rebuild { reason, possible_loss: true, outdated: false })
    }

    /// Keeps a generation that knows more than the log; returns what to tell about it.
    fn keep_aside(&self, name: &str, why: &str, known: Option<Checkpoint>) -> Result<String> {
        let reason = format!("generation {name} was kept as {}: {why}", generation::aside_name(name));
        tracing::error!(reason, "the log may have lost events");
        let loss = Loss { reason, known: known.map(Known::of) };
        generation::set_aside(&*self.disk, name, Some(&loss))?;
        Ok(loss.reason)
    }

    fn unusable(&self, current: Option<&Current>, why: &str) -> Result<Found> {
        self.forget()?;
        let reason = match current {
            Some(current) => format!("generation {} could not be used: {why}", current.generation),
            None => why.to_owned(),
        };
        Ok(Found::Rebuild { reason, possible_loss: false, outdated: false })
    }
}

impl Live {
    /// A generation in memory.
    pub fn in_memory() -> Live {
        let store = Arc::new(MemoryStore::new());
        Live { store, name: String::new(), fjall: None, home: None, stamp: AtomicU64::new(0) }
    }

    fn of_fjall(home: &Home, fjall: Arc<FjallStore>, name: String, stamp: u64) -> Live {
        let store: Arc<dyn Store> = Arc::clone(&fjall) as Arc<dyn Store>;
        Live { store, name, fjall: Some(fjall), home: Some(home.clone()), stamp: AtomicU64::new(stamp) }
    }

    /// Makes everything up to `checkpoint` durable and records it. The caller holds the flush lock.
    pub fn flush(&self, checkpoint: Checkpoint) -> Result<()> {
        let Some(home) = &self.home else { return Ok(()) };
        let number = self.stamp.load(SeqCst) + 1;
        self.store.flush(Stamp { number, position: checkpoint.position })?;
        let record = Flushed::of(checkpoint, number);
        records::write(&*home.disk, &records::flushed_name(&self.name), &record)?;
        self.stamp.store(number, SeqCst);
        Ok(())
    }

    /// Says that nothing was written after the flush at `checkpoint`.
    pub fn mark_clean(&self, checkpoint: Checkpoint) -> Result<()> {
        let Some(home) = &self.home else { return Ok(()) };
        let record = Flushed::of(checkpoint, self.stamp.load(SeqCst));
        records::write(&*home.disk, &records::clean_name(&self.name), &record)
    }

    /// Makes this the generation that the next start opens.
    pub fn make_current(&self) -> Result<()> {
        let Some(home) = &self.home else { return Ok(()) };
        records::write(&*home.disk, records::CURRENT, &Current::of(&self.name))
    }

    /// This generation is not wanted any more: it goes when its last reader does.
    pub fn discard(&self) {
        let Some((fjall, home)) = self.fjall.as_ref().zip(self.home.as_ref()) else { return };
        fjall.remove_when_unused();
        for name in [records::flushed_name(&self.name), records::clean_name(&self.name)] {
            if let Err(error) = records::remove(&*home.disk, &name) {
                tracing::warn!(name, %error, "a record of an old generation could not be removed");
            }
        }
    }
}

fn ahead(known: Position, durable: Position) -> String {
    format!("it knows the event at {known}, but the log ends at {durable}")
}

fn whole(stamps: &[Option<Stamp>], number: u64) -> bool {
    stamps.iter().all(|stamp| stamp.is_some_and(|stamp| stamp.number >= number))
}
