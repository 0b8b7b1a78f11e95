//! Crashes at every change of the disk, full disks at every call, failing syncs.
use super::*;

const SURVIVALS: usize = 8;

/// Runs `count` small proposals; returns the disk and which were acknowledged.
fn run(disk: &SimDisk, count: u64) -> u64 {
    let Ok((engine, _)) = try_open(disk, Driver::Inline, 3) else { return 0 };
    let mut acked = 0;
    for number in 1..=count {
        if let Outcome::Done { last, .. } = engine.propose_and_wait(small(number)) {
            acked = last.0;
        }
    }
    acked
}

#[test]
fn after_a_power_loss_at_any_change_the_log_is_a_prefix_with_all_that_was_acknowledged() {
    let disk = SimDisk::new();
    let (engine, _) = open(&disk);
    let mut acked = vec![(0, 0)];
    for number in 1..=90 {
        done(engine.propose_and_wait(small(number)));
        acked.push((disk.history().len(), number));
    }
    engine.shutdown().unwrap();
    let history = disk.history();
    let mut images = 0;
    for cut in 0..=history.len() {
        let least = acked.iter().rev().find(|(changes, _)| *changes <= cut).unwrap().1;
        for survival in Survival::EVERY {
            let after = SimDisk::from_image(&history.image_at(cut, survival, cut as u64));
            let (engine, report) =
                try_open(&after, Driver::Inline, 5).unwrap_or_else(|error| panic!("cut {cut}, {survival:?}: {error}"));
            assert!(!matches!(report.tail, Tail::Damaged { .. }), "cut {cut}, {survival:?}: {report:?}");
            let read = read_all(&engine).unwrap();
            assert!(read.len() as u64 >= least, "cut {cut}, {survival:?}: {} of {least}", read.len());
            assert!(read.iter().all(|(position, push)| *push == push_id(*position)));
            let next = read.len() as u64 + 1;
            assert_eq!(done(engine.propose_and_wait(small(next))), (next, next));
            images += 1;
        }
    }
    assert!(images > 100 * SURVIVALS, "{images}");
}

#[test]
fn a_full_disk_at_any_call_acknowledges_nothing_false_and_writes_go_on_when_room_returns() {
    let clean = SimDisk::new();
    run(&clean, 80);
    for call in 1..=clean.calls() {
        for fault in [Fault::NoSpace, Fault::TooManyFiles] {
            let disk = SimDisk::new();
            disk.plan(call, fault);
            let acked = run(&disk, 80);
            if disk.fired().is_empty() {
                continue;
            }
            assert!(acked == 0 || acked >= 79, "call {call}, {fault:?}: {acked}");
            let (engine, report) = open(&disk);
            assert!(!matches!(report.tail, Tail::Damaged { .. }), "call {call}, {fault:?}: {report:?}");
            assert_eq!(read_all(&engine).unwrap().len() as u64, acked, "call {call}, {fault:?}");
        }
    }
}

#[test]
fn a_failed_sync_answers_unknown_and_poisons_the_writer() {
    let clean = SimDisk::new();
    run(&clean, 3);
    let mut unknown = 0;
    for call in 1..=clean.calls() {
        for fault in [Fault::SyncErrorDropped, Fault::SyncErrorKept] {
            let disk = SimDisk::new();
            disk.plan(call, fault);
            let Ok((engine, _)) = try_open(&disk, Driver::Inline, 3) else { continue };
            let outcomes: Vec<Outcome> = (1..=3).map(|number| engine.propose_and_wait(small(number))).collect();
            let acked = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Done { .. })).count() as u64;
            if let Some(at) = outcomes.iter().position(|outcome| matches!(outcome, Outcome::Unknown(_))) {
                unknown += 1;
                let after = &outcomes[at + 1..];
                assert!(engine.read_only().is_some(), "whoever watches is told");
                assert!(after.iter().all(|o| matches!(o, Outcome::NotDone(Reason::ReadOnly(_)))), "{after:?}");
                assert_eq!(read_all(&engine).unwrap().len() as u64, acked);
            }
            drop(engine);
            let (engine, _) = open(&disk);
            assert_eq!(engine.read_only(), None);
            let shown = read_all(&engine).unwrap().len() as u64;
            assert!(shown >= acked);
            drop(engine);
            // What was shown stays through a power loss.
            let (engine, _) = open(&disk.crash(Survival::None, 1));
            assert!(read_all(&engine).unwrap().len() as u64 >= shown, "call {call}");
        }
    }
    assert!(unknown >= 3);
}
