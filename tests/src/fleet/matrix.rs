//! A story of two servers on one bucket in which one request of one of them fares in one way: every request of the protocol × every
//! fate (FAULTS.md, T12), each judged by the history of all answers.
//!
//! Invariants: a story without a fate is the same each time, so a request is named by its number; the other server's requests never
//! fail; a fate that does not come true is an error of the matrix.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reprise_engine::{
    archive::Archived,
    disk::sim::{SimDisk, Survival},
    engine::{Engine, Outcome},
    id::{ObjectId, PushId},
    store::{ObjectStore, memory::MemoryStore},
};

use super::{
    BRANCHES, RULE,
    door::{Door, Fate, Script, Step, When, Write},
    history::{History, Move, Told},
    lock, open, proposal, repository, said,
};

/// One cell: the request of this number, which is for `step`, has this fate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    /// What the story's dice begin with.
    pub seed: u64,
    /// Before which request its server sleeps until the other one has sealed, in the story itself.
    pub sleeps: Option<usize>,
    /// Which request.
    pub number: usize,
    /// What it is for.
    pub step: Step,
    /// What becomes of it.
    pub fate: Fate,
}

/// Every cell of a seed's stories, the one without a sleep and the one with; an error if one goes wrong when nothing does.
pub fn cells(seed: u64) -> Result<Vec<Cell>, String> {
    let (awake, _) = tell(seed, None, None)?;
    let creates = awake.iter().enumerate().filter(|(_, step)| **step == Step::CreateSlot);
    let sleeps = creates.map(|(number, _)| number).nth(SLEEPS_AT).ok_or("too few slots")?;
    let (asleep, _) = tell(seed, Some(sleeps), None)?;
    let mut cells = Vec::new();
    for (sleeps, steps) in [(None, awake), (Some(sleeps), asleep)] {
        for (number, step) in steps.into_iter().enumerate().skip(sleeps.map_or(0, |at| at + 1)) {
            cells.extend(step.fates().into_iter().map(|fate| Cell { seed, sleeps, number, step, fate }));
        }
    }
    Ok(cells)
}

impl Cell {
    /// Tells its story; what was wrong with it, if anything was.
    pub fn run(&self) -> Result<Told, String> {
        let told = tell(self.seed, self.sleeps, Some((self.number, self.fate)));
        told.map(|(_, told)| told).map_err(|wrong| format!("{self:?}: {wrong}"))
    }
}

/// Tells the story of `seed`; the requests of the server whose requests may fail, and what was in it.
fn tell(seed: u64, sleeps: Option<usize>, fate: Option<(usize, Fate)>) -> Result<(Vec<Step>, Told), String> {
    let stage = Stage::new(Script::new(sleeps, fate));
    let told = panic::catch_unwind(AssertUnwindSafe(|| stage.tell(seed)));
    let told = told.unwrap_or_else(|panicked| Err(said(&*panicked)));
    // The engines hold the stage by their doors.
    lock(&stage.failing).engine = None;
    lock(&stage.other).engine = None;
    let requests = std::mem::take(&mut stage.script().requests);
    Ok((requests, told?))
}

/// Both servers and their bucket.
pub(super) struct Stage {
    pub(super) bucket: MemoryStore,
    history: Mutex<History>,
    script: Mutex<Script>,
    late: Mutex<Vec<(When, Write)>>,
    moves: Mutex<u64>,
    /// The one whose requests may fail.
    failing: Mutex<Server>,
    other: Mutex<Server>,
}

#[derive(Default)]
struct Server {
    disk: SimDisk,
    engine: Option<Engine>,
    opened: u64,
}

impl Stage {
    fn new(script: Script) -> Arc<Stage> {
        Arc::new(Stage {
            bucket: MemoryStore::new(),
            history: Mutex::default(),
            script: Mutex::new(script),
            late: Mutex::default(),
            moves: Mutex::default(),
            failing: Mutex::default(),
            other: Mutex::default(),
        })
    }

    pub(super) fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        lock(&self.script)
    }

    fn tell(self: &Arc<Stage>, seed: u64) -> Result<Told, String> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut some = |most: u32| random.random_range(1..=most);
        self.create_repository()?;
        self.propose(some(3));
        self.append(some(2));
        // It has not seen what the other one wrote: lost races, a refusal, a look.
        self.propose(some(3));
        self.propose_stale();
        self.look();
        self.seal_own();
        self.propose(some(2));
        self.crash(Some(Survival::None));
        self.propose(1);
        self.append(some(4));
        self.look();
        self.crash(None);
        self.propose(some(2));
        self.seal();
        self.propose(1);
        self.look();
        self.seal_own();
        self.end()
    }

    /// The server whose requests may fail, opened if it is not; an opening that fails is tried again.
    fn engine(self: &Arc<Stage>) -> Engine {
        for _ in 0..OPENINGS_MAX {
            let (disk, seed) = {
                let mut server = lock(&self.failing);
                if let Some(engine) = &server.engine {
                    return engine.clone();
                }
                server.opened += 1;
                (server.disk.clone(), 1_000 + server.opened)
            };
            if let Ok(engine) = open(&disk, Arc::new(Door::new(Arc::clone(self))), seed) {
                lock(&self.failing).engine = Some(engine);
            }
        }
        panic!("{OPENINGS_MAX} openings failed");
    }

    fn others(&self) -> Engine {
        let mut server = lock(&self.other);
        if let Some(engine) = &server.engine {
            return engine.clone();
        }
        let engine = open(&server.disk, Arc::new(self.bucket.clone()), 77).expect("the other server opens");
        // It may be the first: the same push id makes one repository of both.
        assert!(matches!(engine.propose_and_wait(repository()), Outcome::Done { .. }));
        server.engine = Some(engine.clone());
        engine
    }

    /// Its process dies; its disk is as after a power loss, or is lost.
    fn crash(&self, survival: Option<Survival>) {
        let mut server = lock(&self.failing);
        server.engine = None;
        server.disk = survival.map_or_else(SimDisk::new, |survival| server.disk.crash(survival, 1));
    }

    fn create_repository(self: &Arc<Stage>) -> Result<(), String> {
        // Asked for again with the same push id until somebody knows.
        let created = (0..OPENINGS_MAX).map(|_| self.engine().propose_and_wait(repository()));
        let done = created.into_iter().any(|outcome| matches!(outcome, Outcome::Done { .. }));
        if done { Ok(()) } else { Err("the repository was never created".to_owned()) }
    }

    fn next_move(&self, old: impl FnOnce(&History, &str) -> Option<ObjectId>) -> Move {
        let mut number = lock(&self.moves);
        *number += 1;
        let branch = BRANCHES[usize::try_from(*number).expect("few") % BRANCHES.len()];
        let (mut push, mut new) = ([0; 16], [0; 32]);
        push[..8].copy_from_slice(&number.to_be_bytes());
        new[..8].copy_from_slice(&number.to_be_bytes());
        Move { push: PushId(push), branch, old: old(&lock(&self.history), branch), new: ObjectId(new) }
    }

    fn ask(&self, engine: &Engine, moved: Move) {
        let began = lock(&self.history).begin();
        let outcome = engine.propose_and_wait(proposal(&moved));
        lock(&self.history).answered(began, moved, outcome);
    }

    fn propose(self: &Arc<Stage>, times: u32) {
        for _ in 0..times {
            let moved = self.next_move(|history, branch| history.likely_head(branch));
            self.ask(&self.engine(), moved);
        }
    }

    fn propose_stale(self: &Arc<Stage>) {
        let moved = self.next_move(|_, _| Some(ObjectId([255; 32])));
        self.ask(&self.engine(), moved);
    }

    fn look(self: &Arc<Stage>) {
        look(&self.engine(), &self.history);
    }

    /// The failing server seals what there is to seal, once there is something; an error is tried again.
    fn seal_own(self: &Arc<Stage>) {
        let full = || self.engine().segments().iter().filter(|segment| segment.sealed).count();
        let before = full();
        for _ in 0..2 * RULE.slots {
            if full() > before {
                break;
            }
            self.propose(1);
        }
        for _ in 0..OPENINGS_MAX {
            let Ok(mut archiver) = self.engine().archiver() else { continue };
            while let Ok(archived) = archiver.step() {
                if archived == Archived::Idle {
                    return;
                }
            }
        }
    }

    /// The other server appends.
    pub(super) fn append(&self, times: u32) {
        for _ in 0..times {
            let moved = self.next_move(|history, branch| history.likely_head(branch));
            self.ask(&self.others(), moved);
        }
        self.land(When::Appended);
    }

    /// The other server appends until the segment that there was is full, and seals it.
    pub(super) fn seal(&self) {
        self.append(u32::try_from(RULE.slots).expect("few"));
        archive(&self.others());
        self.land(When::Sealed);
    }

    pub(super) fn keep_late(&self, when: When, write: Write) {
        lock(&self.late).push((when, write));
    }

    /// What was under way until `when` arrives.
    fn land(&self, when: When) {
        let landing: Vec<_> = {
            let mut late = lock(&self.late);
            let (landing, staying) = std::mem::take(&mut *late).into_iter().partition(|(until, _)| *until == when);
            *late = staying;
            landing
        };
        for (_, write) in landing {
            drop(write.act(&self.bucket));
        }
    }

    /// Nothing fails any more: what nobody knows is asked for by both, then all of it is judged.
    fn end(self: &Arc<Stage>) -> Result<Told, String> {
        self.script().stop()?;
        [When::Appended, When::Sealed, When::End].into_iter().for_each(|when| self.land(when));
        let servers = [self.others(), self.engine()];
        loop {
            let Some(moved) = lock(&self.history).take_unknown() else { break };
            let known = [0, 1].map(|at| {
                self.ask(&servers[at], moved.clone());
                servers[at].propose_and_wait(proposal(&moved))
            });
            let same = match (&known[0], &known[1]) {
                (Outcome::Done { first: one, .. }, Outcome::Done { first: other, .. }) => one == other,
                (one, other) => one == other,
            };
            if !same {
                return Err(format!("asked again with the same push id: {known:?}"));
            }
        }
        servers.iter().for_each(archive);
        self.append(1);
        servers.iter().for_each(|server| look(server, &self.history));
        let newcomer = open(&SimDisk::new(), Arc::new(self.bucket.clone()), 99).map_err(|error| error.to_string())?;
        if servers.iter().any(|server| server.durable() != newcomer.durable()) {
            return Err("the servers do not have the same log".to_owned());
        }
        if let Some(why) = servers.iter().find_map(Engine::read_only) {
            return Err(format!("a server stopped writing: {why:?}"));
        }
        self.check_left()?;
        lock(&self.history).judge(&newcomer)
    }

    /// No slot below the sealed segments, but what landed there after it was sealed.
    fn check_left(&self) -> Result<(), String> {
        let keys = self.bucket.list("log/slots").map_err(|error| error.to_string())?;
        let stray = keys.len().saturating_sub(usize::try_from(RULE.slots).expect("few"));
        let allowed = usize::from(self.script().may_leave_a_stray());
        if stray <= allowed { Ok(()) } else { Err(format!("{stray} slots were left behind: {keys:?}")) }
    }
}

fn look(engine: &Engine, history: &Mutex<History>) {
    let began = lock(history).begin();
    if let Ok(seen) = engine.look_and_wait() {
        lock(history).looked(began, seen);
    }
}

fn archive(engine: &Engine) {
    let mut archiver = engine.archiver().expect("nothing fails here");
    while archiver.step().expect("nothing fails here") != Archived::Idle {}
}

const OPENINGS_MAX: usize = 12;
/// The slot, counted from zero, before which the story with a sleep sleeps.
const SLEEPS_AT: usize = 2;
