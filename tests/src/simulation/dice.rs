//! Choices from a seed.
//!
//! Invariants: one stream; a choice is the next number of it, so that a run is repeated by its seed alone.

use std::cell::RefCell;

use rand::{RngExt, rngs::StdRng};

use crate::seeds;

/// One seed's choices.
pub struct Dice(RefCell<StdRng>);

impl Dice {
    /// The choices of `seed`.
    pub fn new(seed: u64) -> Dice {
        Dice(RefCell::new(seeds::random(seed, 7)))
    }

    /// From 0 to `limit - 1`; 0 for a limit of 0.
    pub fn below(&self, limit: u64) -> u64 {
        self.0.borrow_mut().random_range(0..limit.max(1))
    }

    /// From `low` to `high`.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        self.0.borrow_mut().random_range(low..=high)
    }

    /// True in `percent` of the cases.
    pub fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of them.
    pub fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}
