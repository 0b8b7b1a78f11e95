//! Crashes of the engine on a simulated disk: at every change (T1), during recovery (T2).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use reprise_tests::{
    effort::Effort,
    faults::{
        script::Script,
        stories::{random, scripts},
        sweep::{Report, crashes_in_recovery, every_crash},
    },
};

// In parts, so that they run side by side.
const PARTS: usize = 4;
/// Of the distinct images of the stories, every so many is recovered with a crash at every change.
const RECOVERED: usize = 29;

/// The stories of one part.
fn stories(part: usize, sweep: impl Fn(&Script) -> Report) -> Report {
    let mut total = Report::default();
    for script in scripts().iter().skip(part).step_by(PARTS) {
        let report = sweep(script);
        eprintln!("{:>7} images, {:>6} distinct: {}", report.images, report.distinct, script.name);
        total.add(report);
    }
    eprintln!("{} images, {} distinct", total.images, total.distinct);
    assert!(total.violations.is_empty(), "{:#?}", total.violations);
    total
}

/// Stories from seeds.
fn random_stories(mut effort: Effort, sweep: impl Fn(&Script) -> Report) {
    while let Some(seed) = effort.next() {
        let report = sweep(&random(seed));
        effort.saw(report.images);
        assert!(report.violations.is_empty(), "story of seed {seed}: {:#?}", report.violations);
    }
}

fn every_crash_of(part: usize) {
    let report = stories(part, every_crash);
    assert!(report.images >= 9_000, "{} images", report.images);
}

fn crashes_in_recovery_of(part: usize) {
    let report = stories(part, |script| crashes_in_recovery(script, RECOVERED));
    assert!(report.images >= 5_000, "{} images", report.images);
}

#[test]
fn there_are_stories_of_everything_that_writes() {
    assert!(scripts().len() >= 40, "{} stories", scripts().len());
}

#[test]
fn no_crash_at_any_change_of_the_disk_loses_what_was_acknowledged_part_1() {
    every_crash_of(0);
}

#[test]
fn no_crash_at_any_change_of_the_disk_loses_what_was_acknowledged_part_2() {
    every_crash_of(1);
}

#[test]
fn no_crash_at_any_change_of_the_disk_loses_what_was_acknowledged_part_3() {
    every_crash_of(2);
}

#[test]
fn no_crash_at_any_change_of_the_disk_loses_what_was_acknowledged_part_4() {
    every_crash_of(3);
}

#[test]
fn no_crash_in_a_random_story_loses_what_was_acknowledged() {
    random_stories(Effort::of("T1 crashes in random stories", 12), every_crash);
}

#[test]
fn no_crash_during_recovery_loses_what_was_acknowledged_part_1() {
    crashes_in_recovery_of(0);
}

#[test]
fn no_crash_during_recovery_loses_what_was_acknowledged_part_2() {
    crashes_in_recovery_of(1);
}

#[test]
fn no_crash_during_recovery_loses_what_was_acknowledged_part_3() {
    crashes_in_recovery_of(2);
}

#[test]
fn no_crash_during_recovery_loses_what_was_acknowledged_part_4() {
    crashes_in_recovery_of(3);
}

#[test]
fn no_crash_during_the_recovery_of_a_random_story_loses_what_was_acknowledged() {
    random_stories(Effort::of("T2 crashes in the recovery of random stories", 4), |script| {
        crashes_in_recovery(script, RECOVERED)
    });
}
