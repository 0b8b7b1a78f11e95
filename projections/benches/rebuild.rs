//! Times a rebuild of all projections: `cargo bench -p reprise-projections --bench rebuild -- [OBJECTS PACKS]`.
//!
//! Writes a log of so many objects in so many packs (synthetic events, real segments on the real disk), then times: the
//! first build of a directory without an index, a rebuild beside a live generation, the scan that compares them, small
//! folds at the tail, and a scan of many objects. Prints peak memory of the process too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a program for people that measures"
)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use reprise_engine::{
    clock::{Random, SeededRandom, SystemClock, SystemRandom},
    disk::{Disk, real::RealDisk},
    engine::{Engine, Options as EngineOptions, Outcome, Parts, Proposal},
    event::*,
    id::*,
    store::memory::MemoryStore as PackStore,
};
use reprise_projections::{Options, Projections, RebuildOptions};

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    match sizes[..] {
        [objects, packs] => measure(objects, packs),
        _ => {
            measure(50_000, 5);
            measure(1_000_000, 100);
        }
    }
}

fn measure(objects: usize, packs: usize) {
    let dir = tempfile::tempdir_in(std::env::var("REPRISE_BENCH_DIR").unwrap_or_else(|_| ".".into())).unwrap();
    let dice = SeededRandom::new(objects as u64);
    let repo = RepoId::from_random([7; 16]);
    {
        let engine = open(dir.path());
        append(&engine, EventBody::RepoCreated(record(repo)));
        for _ in 0..packs {
            append(&engine, EventBody::ObjectsReceived(pack(&dice, repo, objects / packs)));
        }
        engine.shutdown().unwrap();
    }
    let engine = open(dir.path());
    let end = engine.durable().position;
    let options = Options { dir: Some(dir.path().join("index")), ..Options::default() };
    println!("{objects} objects in {packs} packs");
    // The peak so far is of the program that made the log.
    let reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let projections = Projections::open(engine.clone(), options.clone()).unwrap();
    assert!(projections.wait_folded(end, Duration::from_secs(300)), "{:?}", projections.status());
    println!(
        "  first build, until it serves     {:>8.3} s, {:.2} s of processor time",
        started.elapsed().as_secs_f64(),
        cpu_seconds() - cpu
    );
    println!("  peak memory of it                {:>8} MiB (reset: {reset})", peak_kib() / 1024);
    let report = projections.rebuild(&RebuildOptions { live_is_bad: true, ..Default::default() }, &|_| {}).unwrap();
    println!("  rebuild beside a bad live one    {:>8.3} s ({} rows)", report.seconds, report.rows);
    let report = projections.rebuild(&RebuildOptions::default(), &|_| {}).unwrap();
    println!(
        "  rebuild compared with the live   {:>8.3} s, of which build {:.3} s",
        report.seconds, report.build_seconds
    );
    assert!(report.switched);
    tail(&engine, &projections, &dice, repo);
    reads(&projections, repo);
    let started = Instant::now();
    projections.shutdown().unwrap();
    println!("  shutdown with flush              {:>8.3} s", started.elapsed().as_secs_f64());
    drop(projections);
    let started = Instant::now();
    let projections = Projections::open(engine.clone(), options).unwrap();
    assert!(projections.wait_folded(engine.durable().position, Duration::from_secs(300)));
    println!(
        "  open after it                    {:>8.3} s {}",
        started.elapsed().as_secs_f64(),
        projections.status().reason
    );
    println!("  peak memory                      {:>8} MiB", peak_kib() / 1024);
    drop(projections);
    engine.shutdown().unwrap();
}

fn tail(engine: &Engine, projections: &Projections, dice: &SeededRandom, repo: RepoId) {
    let mut waits: Vec<Duration> = (0..300)
        .map(|_| {
            let position = append(engine, EventBody::ObjectsReceived(pack(dice, repo, 2)));
            let started = Instant::now();
            assert!(projections.wait_folded(position, Duration::from_secs(5)));
            started.elapsed()
        })
        .collect();
    waits.sort();
    println!("  wait for a small fold            p50 {:?}, p99 {:?}", waits[150], waits[297]);
}

fn reads(projections: &Projections, repo: RepoId) {
    let view = projections.view();
    let scope = view.repo(repo).unwrap().unwrap().scope();
    let mut ids = Vec::new();
    view.dump(reprise_projections::Model::ObjectRefs, &mut |row| {
        if ids.len() < 100_000 {
            ids.push(row["id"].as_str().unwrap().parse::<ObjectId>().unwrap());
        }
        Ok(())
    })
    .unwrap();
    for _ in 0..2 {
        let started = Instant::now();
        let mut found = 0;
        view.locate_all(scope, Kind::Blob, &ids, &mut |_, location| {
            found += usize::from(location.is_some());
            Ok(())
        })
        .unwrap();
        println!("  locate_all of {:>7}            {:?}", found, started.elapsed());
    }
    let started = Instant::now();
    assert!(view.missing(scope, Kind::Blob, &ids).unwrap().is_empty());
    println!("  missing of {:>7}               {:?}", ids.len(), started.elapsed());
    let started = Instant::now();
    for id in ids.iter().step_by(ids.len() / 1000) {
        assert!(view.has(scope, Kind::Blob, *id).unwrap());
    }
    println!("  has, one by one                  {:?} each", started.elapsed() / 1000);
}

fn open(dir: &Path) -> Engine {
    let disk = RealDisk::new(dir.join("data"));
    disk.create_dir("").unwrap();
    let parts = Parts {
        disk: Arc::new(disk),
        store: Arc::new(PackStore::new()),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    Engine::open(parts, EngineOptions::new("bench")).unwrap().0
}

fn append(engine: &Engine, body: EventBody) -> Position {
    let push = PushId::from_random(reprise_engine::clock::random16(&SystemRandom).unwrap());
    let proposal = Proposal { push, fingerprint: 1, actor: "bench".into(), conditions: Vec::new(), events: vec![body] };
    match engine.propose_and_wait(proposal) {
        Outcome::Done { last, .. } => last,
        other => panic!("{other:?}"),
    }
}

fn record(repo: RepoId) -> RepoRecord {
    RepoRecord {
        repo,
        owner: "gabriel".into(),
        slug: "bench".into(),
        domain: "code".into(),
        default_branch: "main".into(),
        visibility: Visibility::Public,
        created_ms: 1,
    }
}

fn pack(dice: &SeededRandom, repo: RepoId, objects: usize) -> ObjectsReceived {
    let id = || {
        let mut id = [0; 32];
        dice.fill(&mut id).unwrap();
        id
    };
    let mut ids: Vec<_> = (0..objects).map(|_| id()).collect();
    ids.sort_unstable();
    let row = |(index, id): (usize, &[u8; 32])| ObjectRow {
        kind: Kind::Blob,
        id: ObjectId(*id),
        offset: 64 + 4096 * index as u64,
        stored_len: 4096,
        real_len: 5000,
        codec: Codec::Zstd,
        base: None,
        record_hash: None,
    };
    ObjectsReceived {
        repo,
        pack: PackId(id()),
        pack_bytes: 4096 * (objects as u64 + 2),
        table_hash: TableHash(id()),
        rows: ids.iter().enumerate().map(row).collect(),
        snapshots: Vec::new(),
        commits: Vec::new(),
    }
}

/// Processor time of all threads so far, at 100 ticks a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}
