//! Rebuilt = folded live, in every store, for random histories, by digest; over a real log, with stops and kills: T15 in
//! `tests/tests/rebuilt_is_folded.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod history;

use std::sync::Arc;

use history::*;
use reprise_engine::disk::{Disk, real::RealDisk};
use reprise_projections::{
    projections::{Checkpoint, build_at},
    rebuild::{RebuildOptions, Target, build},
    source::Source,
    store::{
        Store,
        fjall::{FjallStore, Memory},
        memory::MemoryStore,
    },
};

const SMALL: Memory = Memory { cache_bytes: 1 << 20, memtable_bytes: 1 << 20 };

fn end_of(log: &MemoryLog) -> Checkpoint {
    let durable = log.durable();
    Checkpoint { position: durable.position, chain: durable.chain }
}

#[test]
fn a_rebuild_equals_the_live_fold_whatever_the_batches_and_runs() {
    for seed in 0..50 {
        let log = random_history(seed, 40);
        let expected = reference(&log);
        let dice = Dice::new(seed ^ 0xbeef);
        let batched = Arc::new(MemoryStore::new());
        fold_live(&log, batched.clone(), Checkpoint::START, || dice.below(4) == 0).unwrap();
        assert_eq!(digest(&*batched), expected, "seed {seed}, batched");

        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path().to_owned()));
        for (readers, run_bytes) in [(1, 1), (2, 20_000), (3, 1 << 20)] {
            let store = MemoryStore::new();
            let target = Target {
                store: Some(&store),
                spill: Some((Arc::clone(&disk), format!("{readers}-"))),
                stop: &|| false,
            };
            let options = RebuildOptions { readers, run_bytes, ..RebuildOptions::default() };
            let built = build(&log, end_of(&log), &target, &options, &|_| {}).unwrap();
            assert_eq!(built, expected, "seed {seed}, {readers} readers, runs of {run_bytes}");
            store.apply(&Default::default(), Some(end_of(&log))).unwrap();
            assert_eq!(digest(&store), expected, "seed {seed}, what was loaded");
        }
        assert!(disk.list("").unwrap().is_empty(), "seed {seed}: run files are left");
    }
}

#[test]
fn folding_again_from_any_earlier_position_over_newer_rows_ends_in_the_same_rows() {
    for seed in 100..140 {
        let log = random_history(seed, 30);
        let expected = reference(&log);
        for group in log.groups().iter().step_by(3) {
            let store = Arc::new(MemoryStore::new());
            fold_live(&log, store.clone(), Checkpoint::START, || true).unwrap();
            let from = Checkpoint { position: group.events.last().unwrap().position, chain: group.chain };
            fold_live(&log, store.clone(), from, || true).unwrap();
            assert_eq!(digest(&*store), expected, "seed {seed} again from {}", from.position);
        }
    }
}

#[test]
fn fjall_and_memory_hold_the_same_rows_folded_live_and_loaded_in_bulk() {
    for seed in 200..206 {
        let log = random_history(seed, 40);
        let expected = reference(&log);
        let dir = tempfile::tempdir().unwrap();
        let live: Arc<FjallStore> = Arc::new(FjallStore::create(&dir.path().join("live"), SMALL).unwrap());
        fold_live(&log, live.clone(), Checkpoint::START, || true).unwrap();
        assert_eq!(digest(&*live), expected, "seed {seed}, live");

        let bulk = FjallStore::create(&dir.path().join("bulk"), SMALL).unwrap();
        let target = Target { store: Some(&bulk), spill: None, stop: &|| false };
        let built = build(&log, end_of(&log), &target, &RebuildOptions::default(), &|_| {}).unwrap();
        bulk.apply(&Default::default(), Some(end_of(&log))).unwrap();
        assert_eq!(built, expected, "seed {seed}, on the way");
        assert_eq!(digest(&bulk), expected, "seed {seed}, loaded");
    }
}

#[test]
fn a_copy_at_a_position_is_what_the_live_fold_was_then() {
    let log = random_history(7, 30);
    let all = log.groups();
    for count in [1, 7, 20] {
        let shorter = MemoryLog::default();
        for group in &all[..count] {
            shorter.append(group.events.iter().map(|event| event.body.clone()).collect());
        }
        let view = build_at(&log, shorter.durable().position).unwrap();
        assert_eq!(view.digest().unwrap(), reference(&shorter));
    }
    assert!(build_at(&log, log.durable().position.next()).is_err());
}

#[test]
fn an_empty_log_and_one_event_are_rebuilt_too() {
    for groups in [0, 1] {
        let log = random_history(1, groups);
        let dir = tempfile::tempdir().unwrap();
        let projections = open_caught_up(&log, options(dir.path()));
        let report = projections.rebuild(&RebuildOptions::default(), &|_| {}).unwrap();
        assert!(report.switched);
        assert_eq!(projections.view().digest().unwrap(), reference(&log));
    }
}
