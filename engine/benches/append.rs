//! Durable appends against the machine's own fdatasync rate, measured in the same run.
//!
//! Run with `cargo bench -p reprise-engine --bench append [-- DIR]`; DIR (default: the temporary directory) must be on the disk in
//! question. Prints medians and ratios; never a pass or fail, the figures depend on the machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::disallowed_methods, missing_docs)]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reprise_engine::{
    clock::{SystemClock, SystemRandom},
    disk::{Disk, real::RealDisk, write_all_at},
    engine::{Engine, Options, Outcome, Parts, Proposal},
    event::{EventBody, RepoRecord, TagRecord, TagsSet, Visibility},
    id::{ObjectId, PushId, RepoId},
    store::memory::MemoryStore,
};

/// As in the server: what an append costs is in good part what its allocations cost.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let dir = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let dir = dir.map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(dir).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path().to_owned()));
    let mut rates: [Vec<f64>; 5] = Default::default();
    let engine = open(disk.clone());
    let numbers = Arc::new(AtomicU64::new(1));
    create(&engine);
    // Interleaved, so that a noisy neighbour hits all of them alike.
    for round in 0..ROUNDS {
        rates[0].push(sync_rate(&*disk, round));
        rates[1].push(threads(&engine, &numbers, 1));
        rates[2].push(threads(&engine, &numbers, 16));
        rates[3].push(in_flight(&engine, &numbers, 256));
        rates[4].push(threads(&engine, &numbers, 256));
    }
    let [sync, one, sixteen, many, many_threads] = rates.map(median);
    println!("fdatasync on zero-filled space  {sync:>9.0}/s");
    println!(
        "append, 1 client                {one:>9.0}/s  {:>6.1} % of the fdatasync rate (aim 70 %)",
        100.0 * one / sync
    );
    println!("append, 16 clients              {sixteen:>9.0}/s  {:>6.1} x one client (aim 5 x)", sixteen / one);
    println!("append, 256 in flight           {many:>9.0}/s  {:>6.1} x one client (aim 40 x)", many / one);
    println!("append, 256 threads             {many_threads:>9.0}/s  {:>6.1} x one client", many_threads / one);
    engine.shutdown().unwrap();
}

fn open(disk: Arc<dyn Disk>) -> Engine {
    let parts = Parts {
        disk,
        store: Arc::new(MemoryStore::new()),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    Engine::open(parts, Options::new("bench")).unwrap().0
}

fn create(engine: &Engine) {
    let event = EventBody::RepoCreated(RepoRecord {
        repo: REPO,
        owner: "bench".into(),
        slug: "bench".into(),
        domain: "code".into(),
        default_branch: "main".into(),
        visibility: Visibility::Public,
        created_ms: 0,
    });
    let outcome = engine.propose_and_wait(Proposal { events: vec![event], ..small(0) });
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
}

/// One small event: a tag is set.
fn small(number: u64) -> Proposal {
    let mut push = [0; 16];
    push[..8].copy_from_slice(&number.to_be_bytes());
    let tag = TagRecord {
        tag_id: format!("t{number}"),
        tag: "nightly".into(),
        commit: ObjectId([1; 32]),
        created_at: "2026-01-01T00:00:00+00:00".into(),
    };
    let event = EventBody::TagsSet(TagsSet { repo: REPO, tags: vec![tag] });
    Proposal { push: PushId(push), fingerprint: number, actor: "bench".into(), conditions: vec![], events: vec![event] }
}

/// Writes of one frame's size, each synced, into zero-filled and synced space.
fn sync_rate(disk: &dyn Disk, round: usize) -> f64 {
    let name = format!("sync-{round}");
    let file = disk.create_new(&name).unwrap();
    write_all_at(&*file, &vec![0; 4 << 20], 0).unwrap();
    file.sync_data().unwrap();
    let frame = [7; 264];
    let (mut done, start) = (0_u64, Instant::now());
    while start.elapsed() < ROUND && (done + 1) * 264 < 4 << 20 {
        write_all_at(&*file, &frame, done * 264).unwrap();
        file.sync_data().unwrap();
        done += 1;
    }
    let rate = per_second(done, start);
    disk.remove(&name).unwrap();
    rate
}

fn threads(engine: &Engine, numbers: &Arc<AtomicU64>, clients: usize) -> f64 {
    let start = Instant::now();
    let done: u64 = std::thread::scope(|scope| {
        let run = || {
            let mut done = 0;
            while start.elapsed() < ROUND {
                let outcome = engine.propose_and_wait(small(numbers.fetch_add(1, Ordering::Relaxed)));
                assert!(matches!(outcome, Outcome::Done { repeated: false, .. }), "{outcome:?}");
                done += 1;
            }
            done
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    per_second(done, start)
}

/// Keeps `count` proposals in flight: each answer proposes the next one.
fn in_flight(engine: &Engine, numbers: &Arc<AtomicU64>, count: usize) -> f64 {
    let (ended, all_ended) = std::sync::mpsc::channel();
    let (done, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let flight = Flight { engine: engine.clone(), numbers: numbers.clone(), done: done.clone(), start, ended };
    (0..count).for_each(|_| flight.clone().propose());
    drop(flight);
    assert!(all_ended.recv().is_err(), "nothing is sent: the last flight to end closes the channel");
    per_second(done.load(Ordering::Relaxed), start)
}

#[derive(Clone)]
struct Flight {
    engine: Engine,
    numbers: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    start: Instant,
    #[allow(dead_code, reason = "dropped with the last flight")]
    ended: std::sync::mpsc::Sender<()>,
}

impl Flight {
    fn propose(self) {
        let (engine, number) = (self.engine.clone(), self.numbers.fetch_add(1, Ordering::Relaxed));
        let next = move |outcome| {
            assert!(matches!(outcome, Outcome::Done { repeated: false, .. }), "{outcome:?}");
            self.done.fetch_add(1, Ordering::Relaxed);
            if self.start.elapsed() < ROUND {
                self.propose();
            }
        };
        engine.propose(small(number), Box::new(next));
    }
}

fn per_second(done: u64, start: Instant) -> f64 {
    done as f64 / start.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

const REPO: RepoId = RepoId([1; 16]);
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(500);
