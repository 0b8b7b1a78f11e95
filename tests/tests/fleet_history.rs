//! T7, T11: servers that share a log in a bucket, under every interleaving and fault of their requests: one order explains every
//! answer, and what was acknowledged is in the log that a newcomer reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use reprise_tests::{
    effort::Effort,
    fleet::{history::Told, story},
};

fn told(seed: u64) -> Told {
    story(seed).unwrap_or_else(|wrong| panic!("{wrong}"))
}

#[test]
fn one_order_of_events_explains_every_answer_of_a_fleet() {
    let mut effort = Effort::of("T11 histories of a fleet", 500);
    let mut all = Told::default();
    while let Some(seed) = effort.next() {
        let told = told(seed);
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
        assert_eq!(told(seed), told(seed), "seed {seed}");
    }
}
