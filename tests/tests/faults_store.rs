//! The projection store as an adversary (T4): whatever happens to its files and to ours beside them while nobody has them open,
//! the next start serves what the log says, and at most one process is lost on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use reprise_tests::{
    effort::Effort,
    faults::store::{
        damage::{self, Part},
        past::Past,
        trial::{Ended, Trial},
    },
};

/// Trials that share a past: making one takes longer than damaging it.
const TRIALS_OF_A_PAST: u64 = 25;

#[test]
fn a_damaged_index_serves_what_the_log_says_or_is_built_again() {
    let helper = Path::new(env!("CARGO_BIN_EXE_serve_index"));
    let mut past: Option<(u64, Past)> = None;
    let (mut ended, mut broken) = (BTreeMap::<Ended, u32>::new(), 0);
    let (mut kinds, mut parts, mut left) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for number in Effort::of("T4 store damaged", 100) {
        let seed = number / TRIALS_OF_A_PAST;
        if past.as_ref().is_none_or(|(of, _)| *of != seed) {
            past = Some((seed, Past::of(seed)));
        }
        let (_, past) = past.as_ref().unwrap();
        let trial = Trial::of(number, past);
        match trial.run(helper) {
            Ok(now) => *ended.entry(now).or_default() += 1,
            Err(how) => {
                broken += 1;
                eprintln!("REPRISE_FIRST={number}: {}\n{how}", trial.story());
            }
        }
        kinds.insert(trial.kind);
        parts.insert(trial.part);
        left.insert(trial.left());
    }
    eprintln!("{ended:?}");
    assert_eq!(broken, 0, "trials broke a promise");
    assert_eq!(
        (kinds.len(), parts.len(), left.len()),
        (damage::KINDS, Part::ALL.len(), 3),
        "not everything was damaged"
    );
    let met = [Ended::WentOn, Ended::FoldedAgain, Ended::Rebuilt].iter().all(|end| ended.contains_key(end));
    assert!(met, "a test in which only {ended:?} happen proves little");
}
