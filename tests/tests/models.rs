//! The log and packs against plain models (T17): random steps, every answer predicted. A unit is one case of up to a hundred
//! steps; its seed is printed, and what failed is shrunk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::{
    prelude::*,
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use rand::RngExt;
use reprise_engine::{disk::sim::Survival, id::Kind};
use reprise_tests::{
    effort::Effort,
    model::{
        log::{self, Ask, LogModel},
        pack::{self, Object, PackModel, Size},
    },
    seeds,
};

const STEPS_MAX: usize = 100;

/// Runs each unit's case; `case` panics where model and reality part.
fn check<S: Strategy>(test: &'static str, cases: u64, strategy: &S, case: impl Fn(S::Value)) {
    let seed = seeds::seed(test);
    for unit in Effort::of(test, cases) {
        let bytes: [u8; 32] = seeds::random(seed, unit).random();
        let config = Config { cases: 1, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let outcome = runner.run(strategy, |value| {
            case(value);
            Ok(())
        });
        assert!(outcome.is_ok(), "REPRISE_SEED={seed}, unit {unit}: {}", outcome.unwrap_err());
    }
}

fn ask() -> impl Strategy<Value = Ask> {
    let name = 0_u8..6;
    prop_oneof![
        4 => (name.clone(), prop_oneof![4 => 0_usize..600, 1 => 2_000_usize..30_000]).prop_map(|(n, bytes)| Ask::Create(n, bytes)),
        2 => name.clone().prop_map(Ask::Delete),
        6 => (name, prop::bool::weighted(0.8)).prop_map(|(name, right)| Ask::Move(name, right)),
        2 => any::<u16>().prop_map(Ask::Again),
        1 => any::<u16>().prop_map(Ask::Reuse),
        1 => Just(Ask::Empty),
    ]
}

fn log_step() -> impl Strategy<Value = log::Step> {
    let survival = prop::sample::select(Survival::EVERY.to_vec());
    prop_oneof![
        12 => prop::collection::vec(ask(), 1..6).prop_map(log::Step::Propose),
        2 => any::<bool>().prop_map(|closed| log::Step::Reopen { closed }),
        1 => (survival, any::<u64>()).prop_map(|(survival, seed)| log::Step::PowerLoss(survival, seed)),
        3 => any::<u16>().prop_map(log::Step::ReadFrom),
        1 => Just(log::Step::ReadSegments),
        4 => (0_u8..4, any::<u16>(), 0_u8..20).prop_map(|(who, from, groups)| log::Step::Follow(who, from, groups)),
    ]
}

#[test]
fn the_log_answers_and_reads_as_a_list_of_batches_does() {
    let case = (any::<bool>(), 8_u64..40, prop::collection::vec(log_step(), 1..=STEPS_MAX));
    check("T17 log model", 256, &case, |(threads, segment_kib, steps)| {
        let mut model = LogModel::new(segment_kib << 10, threads);
        steps.iter().for_each(|step| model.step(step));
        model.finish();
    });
}

fn object() -> impl Strategy<Value = Object> {
    let kind = prop_oneof![3 => Just(Kind::Blob), 2 => Just(Kind::Snapshot), 1 => Just(Kind::Commit)];
    let size = prop_oneof![
        4 => Just(Size::Small(0)),
        4 => Just(Size::Small(1)),
        200 => (0_u16..3_000).prop_map(Size::Small),
        30 => any::<u16>().prop_map(Size::Small),
        4 => (-2_i8..=2).prop_map(Size::Whole),
        2 => (-2_i8..=2).prop_map(Size::TwoPieces),
        1 => any::<u16>().prop_map(Size::BeyondWindow),
    ];
    let object = (kind, size, 0_u64..40, any::<bool>());
    object.prop_map(|(kind, size, seed, text)| Object { kind, size, seed, text })
}

fn pack_step() -> impl Strategy<Value = pack::Step> {
    let piece = prop_oneof![1_u32..5_000, Just(65_536_u32), Just(1_u32 << 20)];
    prop_oneof![
        12 => object().prop_map(pack::Step::Add),
        3 => (object(), piece).prop_map(|(object, piece)| pack::Step::AddInPieces(object, piece)),
        1 => any::<u16>().prop_map(pack::Step::AddAgain),
        1 => any::<u64>().prop_map(pack::Step::AddWrong),
        2 => Just(pack::Step::Finish),
        1 => Just(pack::Step::Drop),
        4 => any::<u16>().prop_map(pack::Step::Read),
        3 => (any::<u64>(), any::<u8>()).prop_map(|(seed, count)| pack::Step::ReadRanges(seed, count)),
        1 => any::<u16>().prop_map(pack::Step::Inspect),
        3 => (any::<u16>(), any::<u32>(), any::<u8>()).prop_map(|(at, place, mask)| pack::Step::Damage(at, place, mask)),
    ]
}

#[test]
fn packs_give_back_what_a_map_from_names_to_bytes_would() {
    let case = (any::<bool>(), prop::collection::vec(pack_step(), 1..=STEPS_MAX));
    check("T17 pack model", 256, &case, |(in_memory, steps)| {
        let mut model = PackModel::new(in_memory);
        steps.iter().for_each(|step| model.step(step));
        model.finish();
    });
}
