//! Planted bugs (T9): each must be found by the fault programme, or the programme is worth nothing.
//!
//! Run with `--features planted-bugs`; without the feature there is nothing to plant and nothing here.
#![cfg(feature = "planted-bugs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use reprise_engine::{
    disk::sim::Fault,
    planted::{PlantedBug, turn},
};
use reprise_tests::faults::{
    damage::{Rest, Shown},
    errors::every_call,
    script::{Script, Step, create},
    stories::scripts,
    sweep::{Report, crashes_in_recovery, every_crash},
};
use reprise_tests::simulation::simulate;

fn script(name: &str) -> Script {
    scripts().into_iter().find(|script| script.name == name).unwrap()
}

/// Finds nothing without the bug, something with it.
fn check_found(bug: PlantedBug, hunt: impl Fn() -> Vec<String>) {
    let turn = turn();
    let healthy = hunt();
    assert!(healthy.is_empty(), "without {bug:?}: {healthy:#?}");
    let planted = turn.plant(bug);
    let found = hunt();
    drop(planted);
    assert!(!found.is_empty(), "{bug:?} was planted and not found");
    eprintln!("{bug:?}: {}", found[0]);
}

fn violations(reports: impl IntoIterator<Item = Report>) -> Vec<String> {
    reports.into_iter().flat_map(|report| report.violations).collect()
}

#[test]
fn a_skipped_directory_sync_is_found() {
    check_found(PlantedBug::SkipDirectorySync, || violations([every_crash(&script("append small"))]));
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    check_found(PlantedBug::AckBeforeSync, || violations([every_crash(&script("append small"))]));
}

#[test]
fn an_event_appended_before_its_pack_is_durable_is_found() {
    let hunt = || violations([every_crash(&script("store a pack, then append its event"))]);
    check_found(PlantedBug::EventBeforePack, hunt);
}

#[test]
fn a_sync_that_is_tried_again_is_found() {
    let hunt = || violations([every_call(&script("append small"), Fault::SyncErrorDropped)]);
    check_found(PlantedBug::RetriedFsync, hunt);
}

#[test]
fn a_tail_shown_before_it_is_durable_is_found() {
    let stories = ["append small", "open after a torn tail"];
    check_found(PlantedBug::RecoveryExposesUnsyncedTail, || {
        violations(
            stories
                .map(|name| every_crash(&script(name)))
                .into_iter()
                .chain([crashes_in_recovery(&script(stories[0]), 3)]),
        )
    });
}

fn silent(rest: &Rest, images: impl IntoIterator<Item = reprise_engine::disk::sim::image::Image>) -> Vec<String> {
    let shown = images.into_iter().map(|image| rest.shown(&image));
    shown.filter_map(|shown| if let Shown::Silent(how) = shown { Some(how) } else { None }).collect()
}

#[test]
fn damage_taken_for_a_tear_is_found() {
    check_found(PlantedBug::DamageTakenForTear, || {
        let steps = (0..5).map(|number| Step::Append(create(number))).collect();
        let rest = Rest::of(&Script::story("one segment", steps).unclosed());
        let path = rest.files().into_iter().find(|path| path.contains("seg-")).unwrap();
        let used = (4096..5200).step_by(16);
        let images: Vec<_> = used.map(|at| rest.with(&path, |bytes| bytes[at] ^= 0x41)).collect();
        silent(&rest, images)
    });
}

/// What the first seeds of the simulation that go wrong say.
fn simulated(seeds: u64) -> Vec<String> {
    (0..seeds).filter_map(|seed| simulate(seed).err()).take(1).collect()
}

#[test]
fn a_simulation_finds_a_skipped_directory_sync() {
    check_found(PlantedBug::SkipDirectorySync, || simulated(200));
}

#[test]
fn a_simulation_finds_an_acknowledgement_before_the_sync() {
    check_found(PlantedBug::AckBeforeSync, || simulated(200));
}

#[test]
fn a_simulation_finds_a_sync_that_is_tried_again() {
    check_found(PlantedBug::RetriedFsync, || simulated(400));
}

#[test]
fn a_simulation_finds_an_event_appended_before_its_pack_is_durable() {
    check_found(PlantedBug::EventBeforePack, || simulated(200));
}
