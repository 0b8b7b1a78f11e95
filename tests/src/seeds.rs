//! One seed per randomised test: taken from `REPRISE_SEED`, else fresh; always printed, so that a failure can be repeated.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    io::Write,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// The seed of this run of `test`, printed.
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("REPRISE_SEED").ok().map(|text| text.parse().expect("REPRISE_SEED is a number"));
    let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    drop(writeln!(std::io::stderr(), "{test}: REPRISE_SEED={seed}"));
    seed
}

/// The random source of `stream` under `seed`.
pub fn random(seed: u64, stream: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// `length` bytes that do not compress.
pub fn bytes(random: &mut StdRng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    random.fill(bytes.as_mut_slice());
    bytes
}

/// A number from the environment, or its default.
pub fn count(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}
