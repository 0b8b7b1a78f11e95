//! The one door to time and randomness, so that a simulation owns both.
//!
//! Invariants: stored time is advisory and never decides order, fencing or deletion (F10); random bytes come from the
//! operating system in production and from a printed seed in tests.

use std::sync::Mutex;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::error::{Error, ErrorKind, Result};

/// Wall-clock time.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970-01-01 UTC. May jump; the log keeps what it stores monotonic.
    fn now_ms(&self) -> u64;
}

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A clock that stands still until told otherwise.
pub struct ManualClock(Mutex<u64>);

impl ManualClock {
    /// A clock at `now_ms`.
    pub fn new(now_ms: u64) -> ManualClock {
        ManualClock(Mutex::new(now_ms))
    }

    /// Sets the time, forwards or backwards.
    pub fn set(&self, now_ms: u64) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = now_ms;
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A source of random bytes.
pub trait Random: Send + Sync {
    /// Fills `bytes`; an error when the source fails (never weaker randomness instead).
    fn fill(&self, bytes: &mut [u8]) -> Result<()>;
}

/// Sixteen random bytes.
pub fn random16(random: &dyn Random) -> Result<[u8; 16]> {
    let mut bytes = [0u8; 16];
    random.fill(&mut bytes)?;
    Ok(bytes)
}

/// The operating system's randomness.
pub struct SystemRandom;

impl Random for SystemRandom {
    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        getrandom::fill(bytes)
            .map_err(|error| Error::new(ErrorKind::Unavailable, format!("the system's random source failed: {error}")))
    }
}

/// Reproducible bytes from a seed, for tests and simulations.
pub struct SeededRandom(Mutex<StdRng>);

impl SeededRandom {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> SeededRandom {
        SeededRandom(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).fill(bytes);
        Ok(())
    }
}
