//! What may become of a request.
//!
//! Invariant: a plan is drawn from a seed or written down; the same plan gives the same faults to the same requests.

use std::{collections::BTreeMap, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// One thing that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// 503 SlowDown, without effect.
    SlowDown,
    /// 500 InternalError, without effect.
    ErrorBefore,
    /// 500 InternalError, after the effect.
    ErrorAfter,
    /// 409 ConditionalRequestConflict, without effect.
    Conflict,
    /// 404 without effect: no such bucket, upload or key, as the operation has it.
    Missing,
    /// The connection is closed, without effect.
    DropBefore,
    /// The connection is closed after the effect: the answer is lost.
    DropAfter,
    /// Half of the body comes, then the connection is closed; of a write, half of the request had come.
    Half,
    /// Half of the range comes and is called all of it (reads of a range only).
    Short,
    /// It takes this many milliseconds longer.
    Slow(u16),
    /// The connection is closed, and a write takes effect after this many further requests, or when it is told to.
    Late(u32),
    /// It takes effect twice; the second answer counts.
    Twice,
}

/// Which requests fail, and how.
#[derive(Default)]
pub struct Faults {
    /// For the named operation, in order, each used once.
    pub planned: BTreeMap<&'static str, Vec<Fault>>,
    /// Of a hundred requests, this many fail in some way.
    pub percent: u32,
    /// Where chance comes from.
    pub random: Option<StdRng>,
    /// Everything fails without effect: the bucket is not reachable.
    pub down: bool,
    /// Conditions of writes are ignored, as some stores do.
    pub deaf: bool,
    /// Every request takes this much longer.
    pub latency: Duration,
    /// A request to delete many keys deletes all but this one, and says this of it; each used once.
    pub stuck: Vec<(String, &'static str)>,
}

impl Faults {
    /// Of a hundred requests `percent` fail, drawn from `seed`.
    pub fn random(seed: u64, percent: u32) -> Faults {
        Faults { percent, random: Some(StdRng::seed_from_u64(seed)), ..Faults::default() }
    }

    /// The next `times` requests of `operation` fail like this.
    pub fn planned(operation: &'static str, fault: Fault, times: usize) -> Faults {
        Faults { planned: BTreeMap::from([(operation, vec![fault; times])]), ..Faults::default() }
    }

    /// What becomes of the next request of `operation`.
    pub fn next(&mut self, operation: &str) -> Option<Fault> {
        if self.down {
            return Some(Fault::DropBefore);
        }
        if let Some(planned) = self.planned.get_mut(operation)
            && !planned.is_empty()
        {
            return Some(planned.remove(0));
        }
        let random = self.random.as_mut()?;
        (random.random_range(0..100) < self.percent).then(|| ALL[random.random_range(0..ALL.len())])
    }
}

/// All of them that a store which works may show; a client that asks again comes through.
pub const ALL: [Fault; 12] = [
    Fault::SlowDown,
    Fault::ErrorBefore,
    Fault::ErrorAfter,
    Fault::Conflict,
    Fault::DropBefore,
    Fault::DropAfter,
    Fault::Half,
    Fault::Short,
    Fault::Slow(30),
    Fault::Late(3),
    Fault::Late(100),
    Fault::Twice,
];
