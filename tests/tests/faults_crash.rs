//! Crashes of the engine on a simulated disk: at every change (T1), during recovery (T2).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use reprise_tests::faults::{
    script::{Script, scripts},
    sweep::{Report, crashes_in_recovery, every_crash},
};

fn check(part: usize, sweep: impl Fn(&Script) -> Report) -> Report {
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

// In parts, so that they run side by side.
const PARTS: usize = 4;

fn every_crash_of(part: usize) {
    let report = check(part, every_crash);
    assert!(report.images >= 2_000, "{} images", report.images);
}

fn crashes_in_recovery_of(part: usize) {
    let report = check(part, |script| crashes_in_recovery(script, 9));
    assert!(report.images >= 2_000, "{} images", report.images);
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
