//! Fuzzing in the gate (T16): each target over its kept corpus, its seeds and a fixed number of blind mutations of them, the
//! same ones in every run; the long run goes on behind them, by time. The coverage-guided run is `tests/fuzz`.
//!
//! Memory is counted by the global allocator of this binary, for each input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeSet, panic::AssertUnwindSafe};

use reprise_tests::{
    effort::Effort,
    fuzz::{self, TARGETS, Target, corpus, memory::Counting},
    seeds,
};

#[global_allocator]
static COUNTED: Counting = Counting;

/// Which mutations are made; not from the environment, so that the gate is the same everywhere.
const SEED: u64 = 16;

fn check(name: &'static str, effort: &'static str) {
    let target = Target::named(name);
    let pool = target.pool();
    assert!(!pool.is_empty(), "{name} has nothing to begin with");
    for unit in Effort::of(effort, target.gate) {
        let kept = usize::try_from(unit).ok().and_then(|unit| pool.get(unit));
        let input = kept
            .cloned()
            .unwrap_or_else(|| fuzz::mutated(&mut seeds::random(SEED, unit), &pool, target.input_bytes_max));
        let checked = std::panic::catch_unwind(AssertUnwindSafe(|| target.check(&input)));
        assert!(checked.is_ok(), "{name}: unit {unit} ({} bytes): {}", input.len(), hex::encode(&input));
    }
}

/// One test for each target, so that they run beside each other.
macro_rules! targets {
    ($($name:ident),+ $(,)?) => {
        mod no_input_breaks_a_promise_or_takes_more_memory_than_allowed {
            $(#[test] fn $name() { super::check(stringify!($name), concat!("T16 ", stringify!($name))); })+
        }

        #[test]
        fn every_target_is_tried_and_has_the_only_corpora() {
            let tried = BTreeSet::from([$(stringify!($name).to_owned()),+]);
            let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
            assert_eq!(tried, targets);
            let folders = corpus::files(&corpus::root());
            let folders = folders.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
            assert_eq!(folders.collect::<BTreeSet<String>>(), targets);
        }
    };
}

targets!(
    log_segment,
    log_frames,
    log_sealed,
    log_small_files,
    pack,
    event,
    canonical_json,
    commit,
    snapshot,
    wire_request,
    wire_value,
    wire_transcode,
    endpoints,
);

#[test]
fn the_kept_corpus_is_small() {
    let sizes = TARGETS.iter().flat_map(Target::pool).map(|input| input.len() as u64);
    assert!(sizes.clone().all(|size| size <= corpus::FILE_BYTES_MAX));
    assert!(sizes.sum::<u64>() <= corpus::BYTES_MAX);
}
