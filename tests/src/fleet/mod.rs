//! Several servers on one bucket in one thread, from one seed (FAULTS.md, T7 and T11): while a server's request is under way the
//! others go on, so every interleaving of requests can be had, a server that sleeps through a sealing among them.
//!
//! Invariants: the same seed, the same story; a request fails in every way that a real one can, and its effect may come after
//! its caller gave up; what was answered is judged by a history that knows real time ([`history`]).

pub mod door;
pub mod history;
pub mod matrix;
pub mod store;

use std::{
    panic,
    sync::{Arc, Mutex, PoisonError},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reprise_engine::{
    archive::Archiver,
    clock::{ManualClock, SeededRandom},
    disk::sim::{SimDisk, Survival},
    engine::{Condition, Driver, Engine, LogKind, Options, Outcome, Parts, Proposal, SegmentRule},
    event::{EventBody, RefUpdate, RefsUpdated, RepoRecord, Visibility},
    id::{ObjectId, PushId, RepoId},
    store::{ObjectStore, memory::MemoryStore},
};

use self::{
    history::{History, Move, Told},
    store::Unreliable,
};

/// The story of a seed, judged: what was in it, or what was wrong.
pub fn story(seed: u64) -> Result<Told, String> {
    let (servers, percent) = (2 + (seed % 2) as usize, [0, 5, 20][(seed / 2 % 3) as usize]);
    let told = panic::catch_unwind(|| {
        let world = World::new(seed, servers, percent);
        world.run(ACTIONS);
        let newcomer = world.newcomer();
        let told = lock(&world.history).judge(&newcomer);
        // The engines hold the world by their doors.
        lock(&world.servers).clear();
        told
    });
    let told = told.unwrap_or_else(|panicked| Err(said(&*panicked)));
    told.map_err(|wrong| format!("seed {seed}: {wrong}"))
}

/// What somebody who panicked said.
fn said(panicked: &(dyn std::any::Any + Send)) -> String {
    let text = panicked.downcast_ref::<String>().map(String::as_str);
    format!("panicked: {}", text.or_else(|| panicked.downcast_ref::<&str>().copied()).unwrap_or_default())
}

/// Everything that goes on.
pub struct World {
    /// What the bucket holds.
    pub bucket: MemoryStore,
    /// What was asked and answered.
    pub history: Mutex<History>,
    dice: Mutex<StdRng>,
    servers: Mutex<Vec<Server>>,
    late: Mutex<Vec<store::Late>>,
    calm: Mutex<bool>,
    next: Mutex<u64>,
    /// Actions until the end of the story.
    left: Mutex<usize>,
    /// Of a hundred requests, this many go wrong.
    percent: u32,
}

/// One server: its disk outlives it.
struct Server {
    disk: SimDisk,
    engine: Option<Engine>,
    archiver: Option<Archiver>,
    busy: bool,
    opened: u64,
}

/// Small segments, so that stories have many.
const RULE: SegmentRule = SegmentRule { bytes: 12 << 10, slots: 5 };
const ACTIONS: usize = 250;
const REPO: RepoId = RepoId([1; 16]);
const BRANCHES: [&str; 3] = ["main", "side", "wip"];

impl World {
    /// `servers` of them, of which each request fails with `percent`.
    pub fn new(seed: u64, servers: usize, percent: u32) -> Arc<World> {
        let server = |_| Server { disk: SimDisk::new(), engine: None, archiver: None, busy: false, opened: 0 };
        let world = Arc::new(World {
            bucket: MemoryStore::new(),
            history: Mutex::default(),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            servers: Mutex::new((0..servers).map(server).collect()),
            late: Mutex::default(),
            calm: Mutex::new(false),
            next: Mutex::new(1),
            left: Mutex::new(0),
            percent,
        });
        world.calmly(|| {
            let engine = world.open(0).expect("an empty bucket opens");
            assert!(matches!(engine.propose_and_wait(repository()), Outcome::Done { .. }));
        });
        world
    }

    /// `actions` of servers that are free, those within others' requests included.
    pub fn run(self: &Arc<World>, actions: usize) {
        *lock(&self.left) = actions;
        while *lock(&self.left) > 0 {
            self.act();
        }
    }

    /// Nothing fails and nobody interrupts while `doing`.
    pub fn calmly<T>(&self, doing: impl FnOnce() -> T) -> T {
        *lock(&self.calm) = true;
        let done = doing();
        *lock(&self.calm) = false;
        done
    }

    /// A server that has never been there reads everything.
    pub fn newcomer(self: &Arc<World>) -> Engine {
        self.calmly(|| {
            self.land_late();
            open(&SimDisk::new(), Arc::new(self.bucket.clone()), 77_777).expect("a newcomer opens")
        })
    }

    /// Whether this story goes on without faults now.
    fn is_calm(&self) -> bool {
        *lock(&self.calm)
    }

    fn roll(&self, sides: u32) -> u32 {
        lock(&self.dice).random_range(0..sides)
    }

    /// One action of one free server.
    fn act(self: &Arc<World>) {
        let free: Vec<usize> = {
            let servers = lock(&self.servers);
            servers.iter().enumerate().filter(|(_, server)| !server.busy).map(|(at, _)| at).collect()
        };
        if free.is_empty() {
            return;
        }
        {
            let mut left = lock(&self.left);
            let Some(fewer) = left.checked_sub(1) else { return };
            *left = fewer;
        }
        let at = free[self.roll(free.len() as u32) as usize];
        lock(&self.servers)[at].busy = true;
        match self.roll(20) {
            0 => self.crash(at),
            1..=3 => self.archive(at),
            4..=6 => self.look(at),
            7..=8 => self.ask_again(at),
            _ => self.propose(at),
        }
        lock(&self.servers)[at].busy = false;
    }

    /// The engine of a server, opened if it is not; `None` if the bucket did not let it.
    fn open(self: &Arc<World>, at: usize) -> Option<Engine> {
        let (disk, seed) = {
            let mut servers = lock(&self.servers);
            let server = &mut servers[at];
            if let Some(engine) = &server.engine {
                return Some(engine.clone());
            }
            server.opened += 1;
            (server.disk.clone(), (at as u64 + 1) * 1_000 + server.opened)
        };
        let store = Arc::new(Unreliable::new(Arc::clone(self)));
        let engine = open(&disk, store, seed).ok()?;
        lock(&self.servers)[at].engine = Some(engine.clone());
        Some(engine)
    }

    /// Its process dies; its disk keeps what it likes, or is lost.
    fn crash(self: &Arc<World>, at: usize) {
        let survival = [Survival::All, Survival::None, Survival::TornSector][self.roll(3) as usize];
        let (lost, seed) = (self.roll(3) == 0, u64::from(self.roll(1_000)));
        let server = &mut lock(&self.servers)[at];
        (server.engine, server.archiver) = (None, None);
        server.disk = if lost { SimDisk::new() } else { server.disk.crash(survival, seed) };
    }

    fn archive(self: &Arc<World>, at: usize) {
        let Some(engine) = self.open(at) else { return };
        let archiver = lock(&self.servers)[at].archiver.take();
        let archiver = archiver.map_or_else(|| engine.archiver().ok(), Some);
        let Some(mut archiver) = archiver else { return };
        // An error is tried again by whoever comes next.
        if archiver.step().is_ok() {
            lock(&self.servers)[at].archiver = Some(archiver);
        }
    }

    fn look(self: &Arc<World>, at: usize) {
        let Some(engine) = self.open(at) else { return };
        let began = lock(&self.history).begin();
        if let Ok(seen) = engine.look_and_wait() {
            lock(&self.history).looked(began, seen);
        }
    }

    fn propose(self: &Arc<World>, at: usize) {
        let Some(engine) = self.open(at) else { return };
        let number = {
            let mut next = lock(&self.next);
            *next += 1;
            *next
        };
        let mut push = [0; 16];
        push[..8].copy_from_slice(&number.to_be_bytes());
        let name = BRANCHES[self.roll(BRANCHES.len() as u32) as usize];
        let guess = lock(&self.history).likely_head(name);
        let old = if self.roll(4) == 0 { None } else { guess };
        let mut new = [0; 32];
        new[..8].copy_from_slice(&number.to_be_bytes());
        let moved = Move { push: PushId(push), branch: name, old, new: ObjectId(new) };
        self.ask(&engine, moved);
    }

    /// Asks again for what nobody knows.
    fn ask_again(self: &Arc<World>, at: usize) {
        let Some(moved) = lock(&self.history).take_unknown() else { return };
        match self.open(at) {
            Some(engine) => self.ask(&engine, moved),
            None => lock(&self.history).unknown.push(moved),
        }
    }

    fn ask(self: &Arc<World>, engine: &Engine, moved: Move) {
        let began = lock(&self.history).begin();
        let outcome = engine.propose_and_wait(proposal(&moved));
        lock(&self.history).answered(began, moved, outcome);
    }

    /// What goes on while a request is under way.
    fn meanwhile(self: &Arc<World>) {
        if self.is_calm() || self.roll(5) > 0 {
            return;
        }
        for _ in 0..=self.roll(10) {
            self.act();
        }
    }

    /// Writes whose callers gave up arrive.
    fn land_late(&self) {
        let late = std::mem::take(&mut *lock(&self.late));
        for write in late {
            drop(self.bucket.create(&write.key, &write.bytes));
        }
    }
}

fn open(disk: &SimDisk, store: Arc<dyn ObjectStore>, seed: u64) -> reprise_engine::Result<Engine> {
    let parts = Parts {
        disk: Arc::new(disk.clone()),
        store,
        clock: Arc::new(ManualClock::new(1_700_000_000_000)),
        random: Arc::new(SeededRandom::new(seed)),
    };
    let options = Options { log: LogKind::Bucket(RULE), driver: Driver::Inline, ..Options::new("a story") };
    Engine::open(parts, options).map(|(engine, _)| engine)
}

/// The repository that all of them move branches of.
fn repository() -> Proposal {
    let record = RepoRecord {
        repo: REPO,
        owner: "ada".into(),
        slug: "hub".into(),
        domain: "code".into(),
        default_branch: String::new(),
        visibility: Visibility::Public,
        created_ms: 1,
    };
    let events = vec![EventBody::RepoCreated(record)];
    Proposal { push: PushId([255; 16]), fingerprint: 0, actor: String::new(), conditions: vec![], events }
}

fn proposal(moved: &Move) -> Proposal {
    let update = RefUpdate { name: moved.branch.to_owned(), old: moved.old, new: Some(moved.new), forced: false };
    let condition = Condition::RefIs { repo: REPO, name: moved.branch.to_owned(), head: moved.old };
    Proposal {
        push: moved.push,
        fingerprint: 7,
        actor: "a story".to_owned(),
        conditions: vec![condition],
        events: vec![EventBody::RefsUpdated(RefsUpdated { repo: REPO, updates: vec![update] })],
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
