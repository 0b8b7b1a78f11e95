//! The machine: its disk, its clock, the engine's process, and what goes wrong with them.
//!
//! Invariants: an opening that is refused without a fault is a failure; whether a hindrance is excused is asked of the disk
//! (did a fault have an effect since?), never assumed; a disk that stopped is replaced by what survived.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use reprise_engine::{
    clock::{ManualClock, SeededRandom},
    disk::{
        Disk,
        sim::{Fault, SimDisk, Survival},
    },
    engine::{Driver, Engine, OpenReport, Options, Parts, Tail},
    store::directory::DirectoryStore,
};

use super::dice::Dice;
use crate::faults::run::NOW_MS;

/// One machine over all its restarts.
pub struct Life {
    /// What it has for a disk.
    pub disk: SimDisk,
    clock: Arc<ManualClock>,
    now_ms: u64,
    engine: Option<Engine>,
    stops_at: Vec<u64>,
    full: bool,
    openings: u64,
}

impl Life {
    /// A machine with an empty disk.
    pub fn new() -> Life {
        Life {
            disk: SimDisk::new(),
            clock: Arc::new(ManualClock::new(NOW_MS)),
            now_ms: NOW_MS,
            engine: None,
            stops_at: Vec::new(),
            full: false,
            openings: 0,
        }
    }

    /// The running engine.
    pub fn engine(&self) -> Result<Engine, String> {
        self.engine.clone().ok_or_else(|| "no engine is running".to_owned())
    }

    /// Starts the engine; tried again on the same disk while faults are the reason. How often it was refused.
    ///
    /// `None` if the machine stopped meanwhile.
    pub fn open(&mut self) -> Result<Option<(OpenReport, u64)>, String> {
        self.engine = None;
        for refused in 0..OPENINGS_MAX {
            let before = self.faults();
            match self.try_open() {
                Ok((engine, report)) => {
                    if let Tail::Damaged { file, offset, message } = &report.tail {
                        return Err(format!("a crash was taken for damage in {file} at {offset}: {message}"));
                    }
                    self.engine = Some(engine);
                    return Ok(Some((report, refused)));
                }
                Err(_) if self.machine_stopped() => return Ok(None),
                Err(error) if self.faults() == before => return Err(format!("opening without a fault: {error}")),
                Err(_) if self.full => self.set_full(false),
                Err(_) => {}
            }
        }
        Err(format!("{OPENINGS_MAX} openings were refused"))
    }

    fn try_open(&mut self) -> reprise_engine::Result<(Engine, OpenReport)> {
        // Ids must not repeat over the lives of a machine.
        self.openings += 1;
        let random = Arc::new(SeededRandom::new(self.openings));
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let store = Arc::new(DirectoryStore::new(Arc::clone(&disk), random.clone()));
        let parts = Parts { disk, store, clock: self.clock.clone(), random };
        let options = Options { segment_bytes: SEGMENT_BYTES, driver: Driver::Inline, ..Options::new("a simulation") };
        Engine::open(parts, options)
    }

    /// Ends the process in order. True if the log was marked closed.
    pub fn shut_down(&mut self) -> bool {
        self.engine.take().is_some_and(|engine| engine.shutdown().is_ok() && engine.read_only().is_none())
    }

    /// Kills the process: what it wrote is seen, what it did not sync is still not durable.
    pub fn kill(&mut self) {
        let history = self.disk.history();
        self.replace(history.killed_at(history.len()));
    }

    /// The power fails.
    pub fn power_loss(&mut self, dice: &Dice) -> Survival {
        let survival = *dice.pick(&Survival::EVERY);
        let next = self.disk.crash(survival, dice.below(u64::MAX));
        self.replace(next);
        survival
    }

    fn replace(&mut self, disk: SimDisk) {
        self.engine = None;
        self.disk = disk;
        self.stops_at.clear();
        if self.full {
            self.disk.set_full(true);
        }
    }

    /// Whether a planned stop of the whole machine has happened.
    pub fn machine_stopped(&self) -> bool {
        self.disk.fired().iter().any(|call| self.stops_at.contains(call))
    }

    /// How many faults have had an effect since the last crash.
    pub fn faults(&self) -> usize {
        self.disk.fired().len()
    }

    /// One of the next calls goes wrong, or the disk is full for a while.
    pub fn plan_fault(&mut self, dice: &Dice) -> String {
        if self.full || dice.chance(12) {
            self.set_full(!self.full);
            return format!("the disk is {}", if self.full { "full" } else { "no longer full" });
        }
        let fault = *dice.pick(&FAULTS);
        let call = self.disk.calls() + dice.between(1, 24);
        self.disk.plan(call, fault);
        if fault == Fault::Crash {
            self.stops_at.push(call);
        }
        format!("{fault:?} planned at call {call}")
    }

    /// From the next power loss on nothing goes wrong.
    pub fn no_more_faults(&mut self) {
        self.set_full(false);
    }

    fn set_full(&mut self, full: bool) {
        self.full = full;
        self.disk.set_full(full);
    }

    /// Years, seconds, back to the beginning.
    pub fn jump_clock(&mut self, dice: &Dice) -> String {
        let year = 365 * 86_400_000;
        self.now_ms = match dice.below(4) {
            0 => self.now_ms + dice.below(10_000),
            1 => self.now_ms + year,
            2 => self.now_ms.saturating_sub(year),
            _ => dice.below(NOW_MS),
        };
        self.clock.set(self.now_ms);
        format!("the clock says {}", self.now_ms)
    }

    /// What is on the disk, in one number.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.disk.image().hash(&mut hasher);
        hasher.finish()
    }
}

/// Short ones more often: they must be seen by nobody.
const FAULTS: [Fault; 10] = [
    Fault::Crash,
    Fault::Crash,
    Fault::SyncErrorKept,
    Fault::SyncErrorDropped,
    Fault::NoSpace,
    Fault::NoSpace,
    Fault::TooManyFiles,
    Fault::ReadError,
    Fault::Short,
    Fault::Short,
];
/// Small, so that stories pass through several.
const SEGMENT_BYTES: u64 = 8 << 10;
/// More faults than this are not planned at once.
const OPENINGS_MAX: u64 = 40;
