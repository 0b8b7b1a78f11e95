//! Running a script on a simulated disk, noting when each batch was acknowledged.
//!
//! Invariants: the note is taken inside the reply, on the writer's thread, so that no later disk call can be counted
//! as made before it; a power loss ends a stage, and the next stage starts from what recovery shows.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, mpsc},
    time::Duration,
};

use reprise_engine::{
    clock::{ManualClock, SeededRandom},
    disk::{
        Disk,
        sim::{History, SimDisk},
    },
    engine::{Driver, Engine, OpenReport, Options, Outcome, Parts, Proposal},
    error::Result,
    event::{Event, EventBody, ObjectsReceived},
    id::{Kind, ObjectId, Position, PushId, RepoId},
    pack::{PackOrigin, PackWriter},
    store::{StoreKey, directory::DirectoryStore},
};
use reprise_projections::{
    Checkpoint, Digest, RebuildOptions,
    rebuild::{self, Target},
    store::{Batch as Rows, Store, memory::MemoryStore},
};
use sha2::{Digest as _, Sha256};

use super::script::{Script, Step, noise, push, repo};

/// Events that were proposed together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// As proposed.
    pub events: Vec<EventBody>,
    /// What the engine answered.
    pub outcome: Outcome,
    /// Disk calls made when it answered.
    pub calls: u64,
}

/// One life of the machine.
pub struct Stage {
    /// What happened on the disk.
    pub history: History,
    /// Events that were durable before it began.
    pub before: Vec<EventBody>,
    /// Batches answered in it, in the order of their answers.
    pub batches: Vec<Batch>,
    /// The disk at its end.
    pub disk: SimDisk,
    /// Why an opening was refused (only under planned faults), the last time.
    pub open_error: Option<String>,
}

impl Stage {
    /// Batches that are in the log for sure: first position and events, in log order.
    pub fn done(&self) -> Vec<(Position, &Batch)> {
        let first = |batch: &Batch| match batch.outcome {
            Outcome::Done { first, repeated: false, .. } => Some(first),
            _ => None,
        };
        let mut done: Vec<_> = self.batches.iter().filter_map(|batch| Some((first(batch)?, batch))).collect();
        done.sort_by_key(|(first, _)| *first);
        done
    }
}

/// Opens an engine on a simulated disk, with the packs on the same disk.
pub fn open(disk: &SimDisk, segment_bytes: u64) -> Result<(Engine, OpenReport)> {
    open_driven(disk, segment_bytes, Driver::Inline, Arc::new(ManualClock::new(NOW_MS)))
}

fn open_driven(
    disk: &SimDisk,
    segment_bytes: u64,
    driver: Driver,
    clock: Arc<ManualClock>,
) -> Result<(Engine, OpenReport)> {
    // A seed per opening: an id must not repeat when a log is opened again.
    let random = Arc::new(SeededRandom::new(seed_of(disk)));
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = Arc::new(DirectoryStore::new(Arc::clone(&disk), random.clone()));
    let parts = Parts { disk, store, clock, random };
    let options = Options { segment_bytes, driver, ..Options::new("the fault tests") };
    Engine::open(parts, options)
}

fn seed_of(disk: &SimDisk) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (path, content) in &disk.image().files {
        (path, content.len()).hash(&mut hasher);
    }
    hasher.finish()
}

/// Runs a script; `plan` may arrange faults on the disk of the first stage.
pub fn run(script: &Script, plan: impl FnOnce(&SimDisk)) -> Vec<Stage> {
    let disk = SimDisk::new();
    plan(&disk);
    let (before, batches, stages) = Default::default();
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let mut runner = Runner { script, disk, clock, engine: None, before, batches, stages, open_error: None };
    runner.open_or_again();
    script.steps.iter().for_each(|step| runner.step(step));
    if let (true, Some(engine)) = (script.shutdown, &runner.engine) {
        // A refused shutdown (planned faults) is as good as a crash: judges do not rely on it.
        drop(engine.shutdown());
    }
    runner.end_stage();
    runner.stages
}

struct Runner<'a> {
    script: &'a Script,
    disk: SimDisk,
    clock: Arc<ManualClock>,
    engine: Option<Engine>,
    before: Vec<EventBody>,
    batches: Vec<Batch>,
    stages: Vec<Stage>,
    open_error: Option<String>,
}

impl Runner<'_> {
    fn open(&mut self) -> std::result::Result<(), String> {
        // Without threads everything runs call by call in one order.
        let driver = if self.script.threads { Driver::Threads } else { Driver::Inline };
        let (engine, _) = open_driven(&self.disk, self.script.segment_bytes, driver, Arc::clone(&self.clock))
            .map_err(|error| error.to_string())?;
        self.engine = Some(engine);
        Ok(())
    }

    /// A planned fault may refuse an opening; the next one must succeed, without any other help.
    fn open_or_again(&mut self) {
        if let Err(refused) = self.open() {
            self.open().unwrap_or_else(|error| panic!("{}: refused ({refused}), then {error}", self.script.name));
            self.open_error = Some(refused);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(proposal) => self.propose(std::slice::from_ref(proposal)),
            Step::Together(proposals) => self.propose(proposals),
            Step::Pack { blobs, repo, push, and } => self.pack(blobs, *repo, *push, and.as_ref()),
            Step::Orphan { number, removed } => self.orphan(*number, *removed),
            Step::Sweep => drop(self.engine.as_ref().map(|engine| engine.store().sweep_staged())),
            Step::Rebuild => self.rebuild(),
            Step::Restart => {
                if let Some(engine) = self.engine.take() {
                    drop(engine.shutdown());
                }
                self.open_or_again();
            }
            Step::Clock(ms) => self.clock.set(*ms),
            Step::PowerLoss(survival, seed) => {
                let next = self.disk.crash(*survival, *seed);
                self.end_stage();
                self.disk = next;
                self.open().unwrap_or_else(|error| panic!("{}: open after a power loss: {error}", self.script.name));
                let engine = self.engine.as_ref().unwrap();
                self.before = read_all(engine).unwrap().into_iter().map(|event| event.body).collect();
            }
        }
    }

    /// All at once: the first one's answer proposes the others, so that they share a group.
    fn propose(&mut self, proposals: &[Proposal]) {
        let Some(engine) = &self.engine else { return };
        let (sender, answers) = mpsc::channel();
        let reply = |index: usize| {
            let (sender, disk) = (sender.clone(), self.disk.clone());
            move |outcome| sender.send((index, outcome, disk.calls())).unwrap()
        };
        let rest = proposals.iter().enumerate().skip(1);
        let rest: Vec<_> = rest.map(|(index, proposal)| (proposal.clone(), reply(index))).collect();
        let (first, again) = (reply(0), engine.clone());
        let then = move |outcome| {
            first(outcome);
            rest.into_iter().for_each(|(proposal, reply)| again.propose(proposal, Box::new(reply)));
        };
        engine.propose(proposals[0].clone(), Box::new(then));
        drop(sender);
        let mut count = 0;
        while let Ok((index, outcome, calls)) = answers.recv_timeout(ANSWER_TIME_MAX) {
            self.batches.push(Batch { events: proposals[index].events.clone(), outcome, calls });
            count += 1;
        }
        assert_eq!(count, proposals.len(), "{}: every proposal is answered", self.script.name);
    }

    fn orphan(&mut self, number: u64, removed: bool) {
        let Some(engine) = &self.engine else { return };
        let blob = noise(number, 300).into_bytes();
        let stored = store_pack(engine, &[blob], repo(0), push(90_000 + number));
        if let (Ok(stored), true) = (stored, removed) {
            // Whether it is gone does not matter: nothing relies on it.
            drop(engine.store().delete(&StoreKey::pack(stored.pack)));
        }
    }

    /// May fail under planned faults; what it builds is compared by the judge of each crash.
    fn rebuild(&mut self) {
        let Some(engine) = &self.engine else { return };
        let durable = engine.durable();
        let at = Checkpoint { position: durable.position, chain: durable.chain };
        drop(rebuild(engine, at, (300, 2)));
    }

    fn pack(&mut self, blobs: &[Vec<u8>], repo: RepoId, push: PushId, and: Option<&EventBody>) {
        let Some(engine) = &self.engine else { return };
        // A pack that could not be stored is never named by an event.
        let Ok(received) = store_pack(engine, blobs, repo, push) else { return };
        let events = [EventBody::ObjectsReceived(received)].into_iter().chain(and.cloned()).collect();
        let proposal = Proposal { push, fingerprint: 1, actor: "tester".to_owned(), conditions: Vec::new(), events };
        self.propose(&[proposal]);
    }

    fn end_stage(&mut self) {
        self.stages.push(Stage {
            history: self.disk.history(),
            before: std::mem::take(&mut self.before),
            batches: std::mem::take(&mut self.batches),
            disk: self.disk.clone(),
            open_error: self.open_error.take(),
        });
        self.engine = None;
    }
}

/// Puts a pack with these blobs into the engine's store.
pub fn store_pack(engine: &Engine, blobs: &[Vec<u8>], repo: RepoId, push: PushId) -> Result<ObjectsReceived> {
    let mut writer = PackWriter::new(engine.store().stage()?, PackOrigin { repo, push, nonce: [5; 16] })?;
    for blob in blobs {
        let id = ObjectId(Sha256::digest(blob).into());
        if !writer.contains(Kind::Blob, id) {
            writer.add_blob(id, blob)?;
        }
    }
    let stored = writer.finish()?;
    Ok(ObjectsReceived {
        repo,
        pack: stored.pack,
        pack_bytes: stored.bytes,
        table_hash: stored.table_hash,
        rows: stored.rows,
        snapshots: Vec::new(),
        commits: Vec::new(),
    })
}

/// Builds every projection of the log up to `at` in memory; sorted runs of `run_bytes` are spilled to the engine's own disk
/// and merged `fan_in` at a time.
pub fn rebuild(
    engine: &Engine,
    at: Checkpoint,
    (run_bytes, fan_in): (usize, usize),
) -> Result<(Arc<MemoryStore>, Digest)> {
    let disk = engine.disk().clone();
    disk.create_dir(SPILL)?;
    // What an interrupted one left, as the next start would.
    for name in disk.list(SPILL)? {
        disk.remove(&format!("{SPILL}/{name}"))?;
    }
    let store = Arc::new(MemoryStore::new());
    let target = Target { store: Some(&*store), spill: Some((disk, format!("{SPILL}/run"))), stop: &|| false };
    let options = RebuildOptions { readers: 1, run_bytes, fan_in, ..RebuildOptions::default() };
    let digest = rebuild::build(engine, at, &target, &options, &|_| {})?;
    store.apply(&Rows::new(), Some(at))?;
    Ok((store, digest))
}

/// Every event of the log, or the first error on the way.
pub fn read_all(engine: &Engine) -> Result<Vec<Event>> {
    let (events, error) = read_until_error(engine);
    error.map_or(Ok(events), Err)
}

/// Events from the first on, and the error that ended the reading, if one did.
pub fn read_until_error(engine: &Engine) -> (Vec<Event>, Option<reprise_engine::Error>) {
    let durable = engine.durable().position;
    let mut events: Vec<Event> = Vec::new();
    if durable == Position::ZERO {
        return (events, None);
    }
    let mut follower = match engine.follow(Position(1)) {
        Ok(follower) => follower,
        Err(error) => return (events, Some(error)),
    };
    while events.last().is_none_or(|event| event.position < durable) {
        match follower.next(Duration::ZERO) {
            Ok(Some(group)) => events.extend(group.events.iter().cloned()),
            Ok(None) => break,
            Err(error) => return (events, Some(error)),
        }
    }
    (events, None)
}

/// Where a rebuild keeps what does not fit into memory.
pub const SPILL: &str = "index";
/// Where the clock stands unless a script moves it.
pub const NOW_MS: u64 = 1_700_000_000_000;
/// No proposal takes longer; a lost reply fails the test instead of hanging it.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
