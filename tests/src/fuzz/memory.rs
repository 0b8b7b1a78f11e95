//! How much memory a piece of code takes at its highest: counted by the allocator, so that room that is only reserved counts
//! too (a resident size would not show it).
//!
//! Invariants: the program that asks must have declared [`Counting`] as its global allocator, or the first question panics;
//! one question at a time in a process. Memory that C code takes (zstd) is not counted.

use std::sync::{Mutex, Once, PoisonError};

pub use peak_alloc::PeakAlloc as Counting;

/// The most bytes that `run` held at any moment beyond what was held before it.
pub fn taken_by(run: impl FnOnce()) -> u64 {
    static TURN: Mutex<()> = Mutex::new(());
    static COUNTS: Once = Once::new();
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    COUNTS.call_once(|| {
        let counted = measure(|| drop(std::hint::black_box(vec![1_u8; 1 << 20])));
        assert!(counted >= 1 << 20, "the counting allocator is not the global one: a mebibyte counted as {counted}");
    });
    measure(run)
}

fn measure(run: impl FnOnce()) -> u64 {
    Counting.reset_peak_usage();
    let before = Counting.peak_usage();
    run();
    Counting.peak_usage().saturating_sub(before) as u64
}
