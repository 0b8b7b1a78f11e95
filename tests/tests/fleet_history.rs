//! T7, T11: servers that share a log in a bucket, under every interleaving and fault of their requests: one order explains every
//! answer, and what was acknowledged is in the log that a newcomer reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::sync::PoisonError;

use reprise_tests::{
    effort::Effort,
    fleet::{World, history::Told},
};

fn story(seed: u64) -> Told {
    let (servers, percent) = (2 + (seed % 2) as usize, [0, 5, 20][(seed / 2 % 3) as usize]);
    let world = World::new(seed, servers, percent);
    world.run(250);
    let newcomer = world.newcomer();
    let history = world.history.lock().unwrap_or_else(PoisonError::into_inner);
    history.judge(&newcomer).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"))
}

#[test]
fn one_order_of_events_explains_every_answer_of_a_fleet() {
    let mut effort = Effort::of("T11 histories of a fleet", 500);
    let mut all = Told::default();
    while let Some(seed) = effort.next() {
        let told = story(seed);
        effort.saw(told.acknowledged);
        all.acknowledged += told.acknowledged;
        all.repeated += told.repeated;
        all.refused += told.refused;
        all.looks += told.looks;
        all.unknown += told.unknown;
        all.had_happened += told.had_happened;
        all.events += told.events;
    }
    eprintln!("{all:?}");
    assert!(all.acknowledged > 20_000 && all.repeated > 500 && all.refused > 5_000 && all.had_happened > 30, "{all:?}");
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in [3, 8, 21] {
        assert_eq!(story(seed), story(seed), "seed {seed}");
    }
}
