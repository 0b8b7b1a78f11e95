//! The doctor: what is damaged in a log and its packs at rest, what can be done about it, and doing it when told.
//!
//! Invariants: [`Doctor::examine`] changes nothing and reads every byte; [`Doctor::treat`] puts nothing in the place of damaged
//! bytes but bytes that prove themselves (frames that continue the chain up to the next sound ones, packs that hash to their
//! name, copies of a sound header), or, when the loss was named and accepted, nothing at all; what it replaces is kept first,
//! under `damaged/`, durably; it may be interrupted anywhere and run again. No engine is open meanwhile: the lock is held. A place
//! that the disk cannot read is damage like any other.

use std::{fmt, sync::Arc};

use self::{
    gaps::Gap,
    sectors::{Forgiving, Unreadable},
};
use crate::{
    clock::Random,
    disk::{Disk, DiskLock},
    engine::Durable,
    error::{Error, Result},
    id::{LogId, Position},
    log::files::{LOCK, LOG_DIR},
    store::{ObjectStore, StoreKey, directory::DirectoryStore},
};

mod aside;
mod copies;
mod cut;
mod examine;
mod gaps;
mod mend;
mod packs;
mod place;
mod prove;
mod sectors;
mod segment;
mod treat;

pub use aside::keep_aside;
pub use copies::Copies;
pub use prove::prove_sealed;
pub use treat::{BeforeCut, Orders, Treatment};

/// What a patient consists of.
#[derive(Clone)]
pub struct Patient {
    /// Files of the data directory.
    pub disk: Arc<dyn Disk>,
    /// Files of the pack store.
    pub pack_files: Arc<dyn Disk>,
    /// Where the pack store is under `disk`, for people: `""`, or a directory with a `/` behind it.
    pub pack_root: &'static str,
    /// Where the packs are instead, if they are in a bucket: nothing is written there.
    pub bucket: Option<Arc<dyn ObjectStore>>,
    /// For salts, and for the pack store, which is opened anew for each examination: it keeps files open that a treatment replaces.
    pub random: Arc<dyn Random>,
}

/// The same, as the doctor reads it.
struct Files {
    disk: Arc<dyn Disk>,
    unreadable: Arc<Unreadable>,
    pack_files: Arc<dyn Disk>,
    unreadable_packs: Arc<Unreadable>,
    pack_root: &'static str,
    bucket: Option<Arc<dyn ObjectStore>>,
    random: Arc<dyn Random>,
}

/// A data directory that nobody else has open.
pub struct Doctor {
    files: Files,
    _lock: Box<dyn DiskLock>,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diagnosis {
    /// Which log; `None` if no segment says.
    pub log: Option<LogId>,
    /// Every event up to here can be read.
    pub readable_to: Position,
    /// The end of the log as far as anything tells.
    pub end: Position,
    /// Events that can be read: those up to `readable_to`, and intact ones behind damage.
    pub events: u64,
    /// Segments looked at.
    pub segments: u64,
    /// Packs looked at; `None` if none was to be.
    pub packs: Option<u64>,
    /// Bytes read of them all.
    pub bytes: u64,
    /// What is not as it should be, in the order of the log, packs last. No more than [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// Findings beyond that.
    pub more: u64,
    /// What was durable once, if the anchor says so.
    anchor: Option<Durable>,
    /// The parts of the log that cannot stand as they are.
    gaps: Vec<Gap>,
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// In which file.
    pub file: String,
    /// From which byte.
    pub offset: u64,
    /// So many bytes, if that can be told.
    pub bytes: Option<u64>,
    /// What is wrong.
    pub problem: String,
    /// Events that cannot be read because of it: first and last position.
    pub events: Option<(Position, Position)>,
    /// What can be done.
    pub remedy: Remedy,
}

/// What can be done about a finding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remedy {
    /// Nothing needs to be: the next start of a server does it.
    NextStart,
    /// It can be made anew from intact bytes of the same file.
    Derive,
    /// An intact copy of the file has what is missing. Without one, events are lost.
    Copy,
    /// An intact copy of the pack, or a push of the same content.
    CopyOrPush,
    /// A push of the same content.
    Push,
    /// A person must look.
    Person,
}

impl Remedy {
    /// Whether it means that something is damaged.
    pub fn is_damage(self) -> bool {
        self != Remedy::NextStart
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Remedy::NextStart => "nothing to do: the next start sees to it",
            Remedy::Derive => "--repair makes it anew from intact bytes",
            Remedy::Copy => "--repair takes it from an intact copy, if there is one: the directory's bucket, or --from DIR",
            Remedy::CopyOrPush => {
                "--repair --from DIR takes it from an intact copy; or start the server, let `reprise scrub` condemn it, and push \
                 the same content again"
            }
            Remedy::Push => "start the server and push the same content again: nothing else makes readers find it",
            Remedy::Person => "nothing is done about it here: see what it says",
        })
    }
}

impl Diagnosis {
    /// Whether nothing is damaged.
    pub fn is_healthy(&self) -> bool {
        self.damaged() == 0
    }

    /// How many things are damaged.
    pub fn damaged(&self) -> u64 {
        self.more + self.findings.iter().filter(|finding| finding.remedy.is_damage()).count() as u64
    }

    /// Whether the log is damaged so that only an intact copy brings every event back.
    pub fn misses_events(&self) -> bool {
        self.findings.iter().any(|finding| finding.remedy == Remedy::Copy)
    }

    /// Whether a file has a finding with this remedy.
    fn has(&self, file: &str, remedy: Remedy) -> bool {
        self.findings.iter().any(|finding| finding.file == file && finding.remedy == remedy)
    }

    fn note(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}

/// Hears how far it is: bytes of the log done and in all. False ends the examination.
pub type Listener<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

impl Doctor {
    /// Takes the directory's lock. `NotFound` without a log; `Conflict` naming the holder when somebody has it open.
    pub fn admit(patient: Patient, holder: &str) -> Result<Doctor> {
        if patient.disk.list(LOG_DIR)?.is_empty() {
            return Err(Error::not_found("there is no log here"));
        }
        let lock = patient.disk.lock(LOCK, holder)?;
        Ok(Doctor { files: Files::of(patient), _lock: lock })
    }

    /// Reads every byte of the log and, with `packs`, of every pack that it names. `Unavailable` if the listener ends it.
    pub fn examine(&self, packs: bool, listener: Listener<'_>) -> Result<Diagnosis> {
        examine::examine(&self.files, packs, listener)
    }

    /// Does what `orders` allow about what `diagnosis` found; `stamp` names the place for what is replaced. What was done is told
    /// also when an error or the listener ended it.
    pub fn treat(&self, diagnosis: &Diagnosis, orders: &Orders, stamp: &str, listener: Listener<'_>) -> Treatment {
        treat::treat(&self.files, diagnosis, orders, stamp, listener)
    }
}

impl Files {
    fn of(patient: Patient) -> Files {
        let Patient { disk, pack_files, pack_root, bucket, random } = patient;
        let (unreadable, unreadable_packs) = (Arc::<Unreadable>::default(), Arc::<Unreadable>::default());
        Files {
            disk: Arc::new(Forgiving::new(disk, Arc::clone(&unreadable))),
            unreadable,
            pack_files: Arc::new(Forgiving::new(pack_files, Arc::clone(&unreadable_packs))),
            unreadable_packs,
            pack_root,
            bucket,
            random,
        }
    }

    /// The pack store.
    fn packs(&self) -> Arc<dyn ObjectStore> {
        match &self.bucket {
            Some(bucket) => Arc::clone(bucket),
            None => Arc::new(DirectoryStore::new(self.pack_files.clone(), self.random.clone())),
        }
    }

    /// What stands before a key of it, for people.
    fn pack_root(&self) -> String {
        let mark = StoreKey::mark();
        match &self.bucket {
            Some(bucket) => bucket.uri(&mark).trim_end_matches(mark.as_str()).to_owned(),
            None => self.pack_root.to_owned(),
        }
    }
}

/// Findings that are listed.
pub const FINDINGS_MAX: usize = 10_000;
