//! How fast the heavy part of a rebuild is: `cargo bench -p reprise-projections --bench build [-- OBJECTS PACKS]`.
//!
//! A log of N objects in M packs of one repository is appended with the real engine; each figure is the median of five
//! builds into a fresh fjall store on the same disk, from the open engine to the last row loaded. Processor time stands
//! beside it, for machines that are busy. The peak of memory is that of the builds alone, the engine open beside them.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{path::Path, sync::Arc, sync::Mutex, time::Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reprise_engine::{
    clock::{SeededRandom, SystemClock},
    disk::{Disk, real::RealDisk},
    engine::{Engine, Options, Outcome, Parts, Proposal},
    event::{Codec, EventBody, ObjectRow, ObjectsReceived, RefUpdate, RefsUpdated, RepoRecord, Visibility},
    id::{Kind, ObjectId, PackId, PushId, RepoId, TableHash},
    store::memory::MemoryStore,
};
use reprise_projections::{
    Checkpoint,
    rebuild::{self, RebuildOptions, Target},
    store::{
        Store,
        fjall::{FjallStore, Memory},
    },
};

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let cases = match *sizes.as_slice() {
        [objects, packs] => vec![(objects, packs)],
        _ => vec![(50_000, 5), (1_000_000, 100)],
    };
    for (objects, packs) in cases {
        measure(objects, packs);
    }
}

fn measure(objects: usize, packs: usize) {
    let dir = tempfile::tempdir().unwrap();
    // Written by one engine and read by another, so that nothing of the log is in memory.
    let engine = open(&dir.path().join("data"));
    append_all(&engine, objects, packs);
    engine.shutdown().unwrap();
    drop(engine);
    let engine = open(&dir.path().join("data"));
    let segments = engine.segments().len();
    println!("{objects} objects in {packs} packs: {} events in {segments} segments", engine.durable().position);
    reset_peak();
    let mut rounds: Vec<Round> =
        (0..ROUNDS).map(|round| build_once(&engine, &dir.path().join(format!("gen-{round}")))).collect();
    rounds.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let Round { seconds, processor, read, rows } = rounds[rounds.len() / 2];
    println!("  median {seconds:.3} s ({:.3} to {:.3})", rounds[0].seconds, rounds[rounds.len() - 1].seconds);
    println!("  of that, reading, folding and sorting until {read:.3} s (told every 0.1 s), then merging and loading");
    println!(
        "  processor {processor:.3} s; {:.0} objects/s, {:.0} rows/s",
        objects as f64 / seconds,
        rows as f64 / seconds
    );
    println!("  peak memory {} MiB", peak_kib() / 1024);
}

struct Round {
    seconds: f64,
    /// Of all threads.
    processor: f64,
    /// When everything was read, seconds from the start.
    read: f64,
    rows: u64,
}

fn build_once(engine: &Engine, path: &Path) -> Round {
    let spill: Arc<dyn Disk> = Arc::new(RealDisk::new(path.with_extension("spill")));
    spill.create_dir("").unwrap();
    let store = FjallStore::create(path, Memory { cache_bytes: 16 << 20, memtable_bytes: 16 << 20 }).unwrap();
    let durable = engine.durable();
    let until = Checkpoint { position: durable.position, chain: durable.chain };
    let (started, before) = (Instant::now(), processor_seconds());
    let read = Mutex::new(None);
    let target = Target { store: Some(&store as &dyn Store), spill: Some((spill, String::new())), stop: &|| false };
    let digest = rebuild::build(engine, until, &target, &RebuildOptions::default(), &|told| {
        if told.events_done == told.events_total {
            read.lock().unwrap().get_or_insert(started.elapsed().as_secs_f64());
        }
    });
    let (seconds, processor) = (started.elapsed().as_secs_f64(), processor_seconds() - before);
    let (digest, read) = (digest.unwrap(), read.into_inner().unwrap().unwrap_or(seconds));
    store.remove_when_unused();
    Round { seconds, processor, read, rows: digest.rows() }
}

fn open(path: &Path) -> Engine {
    let parts = Parts {
        disk: Arc::new(RealDisk::new(path.to_owned())),
        store: Arc::new(MemoryStore::new()),
        clock: Arc::new(SystemClock),
        random: Arc::new(SeededRandom::new(3)),
    };
    parts.disk.create_dir("").unwrap();
    Engine::open(parts, Options::new("bench")).unwrap().0
}

/// As a server does it: one push per pack, its objects and its branch.
fn append_all(engine: &Engine, objects: usize, packs: usize) {
    let mut random = StdRng::seed_from_u64(1);
    let repo = RepoId(random.random());
    let mut head = None;
    append(engine, &mut random, vec![EventBody::RepoCreated(record(repo))]);
    for _ in 0..packs {
        let received = EventBody::ObjectsReceived(pack(&mut random, repo, objects / packs));
        let new = Some(ObjectId(random.random()));
        let update = RefUpdate { name: "main".into(), old: head, new, forced: false };
        let updated = EventBody::RefsUpdated(RefsUpdated { repo, updates: vec![update] });
        append(engine, &mut random, vec![received, updated]);
        head = new;
    }
}

fn append(engine: &Engine, random: &mut StdRng, events: Vec<EventBody>) {
    let push = PushId(random.random());
    let proposal = Proposal { push, fingerprint: 1, actor: "bench".into(), conditions: Vec::new(), events };
    let outcome = engine.propose_and_wait(proposal);
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
}

fn record(repo: RepoId) -> RepoRecord {
    RepoRecord {
        repo,
        owner: "bench".into(),
        slug: "rebuild".into(),
        domain: "code".into(),
        default_branch: "main".into(),
        visibility: Visibility::Public,
        created_ms: 1,
    }
}

fn pack(random: &mut StdRng, repo: RepoId, objects: usize) -> ObjectsReceived {
    let mut ids: Vec<[u8; 32]> = (0..objects).map(|_| random.random()).collect();
    ids.sort_unstable();
    let mut offset = 96;
    let rows = ids.into_iter().map(|id| {
        let stored_len = random.random_range(200..8_000);
        let row = ObjectRow {
            kind: Kind::Blob,
            id: ObjectId(id),
            offset,
            stored_len,
            real_len: stored_len * 2,
            codec: Codec::Zstd,
            base: None,
            record_hash: None,
        };
        offset += stored_len;
        row
    });
    let rows = rows.collect();
    let (pack, table_hash) = (PackId(random.random()), TableHash(random.random()));
    ObjectsReceived { repo, pack, pack_bytes: offset, table_hash, rows, snapshots: Vec::new(), commits: Vec::new() }
}

/// Peak resident memory of this process, KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Processor time of this process, seconds, from /proc (hundredths).
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

/// Forgets the peak so far.
fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

const ROUNDS: usize = 5;
