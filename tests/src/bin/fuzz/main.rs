//! One fuzz target under libFuzzer, which follows coverage. Built and started by `tests/fuzz`, which sets the compiler flags
//! that make coverage visible; without them it is blind.
//!
//! Invariants: what runs is what the gate runs ([`reprise_tests::fuzz`]), memory included; the target is the one that
//! `REPRISE_FUZZ_TARGET` names; its seeds go into the folder `REPRISE_FUZZ_SEEDS` before the engine looks for inputs.
#![no_main]
#![allow(clippy::expect_used, clippy::disallowed_methods, reason = "a test program, told what to do by its script")]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use reprise_tests::fuzz::{Target, memory::Counting};

#[global_allocator]
static COUNTED: Counting = Counting;

fuzz_target!(init: write_seeds(), |input: &[u8]| target().check(input));

fn target() -> &'static Target {
    static TARGET: OnceLock<&'static Target> = OnceLock::new();
    TARGET.get_or_init(|| Target::named(&std::env::var("REPRISE_FUZZ_TARGET").expect("REPRISE_FUZZ_TARGET is set")))
}

fn write_seeds() {
    let Ok(dir) = std::env::var("REPRISE_FUZZ_SEEDS") else { return };
    for (number, seed) in (target().seeds)().into_iter().enumerate() {
        std::fs::write(format!("{dir}/seed-{number:03}"), seed).expect("the folder of the seeds");
    }
}
