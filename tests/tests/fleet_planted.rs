//! Planted bugs of the bucket log (T9): each must be found by the histories of a fleet, within the stories of the gate, and by the matrix of
//! requests and fates.
#![cfg(feature = "planted-bugs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use reprise_engine::planted::{PlantedBug, turn};
use reprise_tests::fleet::{matrix, story};

/// The first of these stories that goes wrong.
fn stories(count: u64) -> Option<String> {
    (0..count).find_map(|seed| story(seed).err())
}

/// The first cell that goes wrong, or the story without a fate.
fn cells() -> Option<String> {
    let cells = match matrix::cells(0) {
        Ok(cells) => cells,
        Err(wrong) => return Some(wrong),
    };
    cells.iter().find_map(|cell| cell.run().err())
}

/// Both hunts find nothing without the bug, and something with it.
fn check_found(bug: PlantedBug) {
    let turn = turn();
    // The gate tells all of its stories without a bug (fleet_history); here are those that a hunt needs at most, and some.
    let healthy = [stories(HEALTHY), cells()];
    assert_eq!(healthy, [None, None], "without {bug:?}");
    let planted = turn.plant(bug);
    let found = [stories(STORIES), cells()];
    drop(planted);
    eprintln!("{bug:?}: {found:?}");
    assert!(found.iter().all(Option::is_some), "{bug:?} was planted and not found: {found:?}");
}

#[test]
fn a_floor_that_is_not_read_after_a_slot_was_won_is_found() {
    check_found(PlantedBug::FloorNotRead);
}

#[test]
fn a_conflict_that_is_taken_for_a_loss_without_reading_is_found() {
    check_found(PlantedBug::ConflictTakenForLoss);
}

#[test]
fn a_silence_that_is_taken_for_a_refusal_is_found() {
    check_found(PlantedBug::SilenceTakenForRefusal);
}

#[test]
fn slots_that_go_before_their_segment_is_there_are_found() {
    check_found(PlantedBug::SlotsGoBeforeSegment);
}

#[test]
fn an_acknowledgement_before_the_slot_is_there_is_found() {
    check_found(PlantedBug::AckBeforeSlot);
}

#[test]
fn a_refusal_on_an_old_state_is_found() {
    check_found(PlantedBug::StaleRefusal);
}

#[test]
fn slots_that_are_believed_without_a_look_at_the_sealed_ones_are_found() {
    check_found(PlantedBug::SlotsBelieved);
}

const STORIES: u64 = 500;
const HEALTHY: u64 = 60;
