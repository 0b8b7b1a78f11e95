//! Seeded simulation (T7) and its repeatability (T8).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use reprise_tests::{
    effort::Effort,
    simulation::{Counts, simulate},
};

/// Every seed from a number on, one in `of`.
fn seeds(test: &'static str, gate: u64) -> Counts {
    let mut counts = Counts::default();
    for seed in Effort::of(test, gate) {
        let story = simulate(seed).unwrap_or_else(|wrong| panic!("{wrong}"));
        counts.add(&story.counts);
    }
    eprintln!("{counts:?}");
    counts
}

#[test]
fn whatever_happens_in_whatever_order_nothing_acknowledged_is_lost_and_nothing_else_appears() {
    let mut counts = seeds("T7 simulation", 2_000);
    assert!(counts.each().iter().all(|count| **count > 100), "something never happened: {counts:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in Effort::of("T8 same seed, same trace", 20) {
        let (one, other) = (simulate(seed).unwrap(), simulate(seed).unwrap());
        assert!(one.trace == other.trace, "seed {seed} gave two traces:\n{}\n{}", one.trace, other.trace);
    }
}
