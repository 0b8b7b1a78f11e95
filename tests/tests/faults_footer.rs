//! Damage to the footer of an older segment: what stands in it follows from the frames, and is read from there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use reprise_engine::{
    disk::sim::SimDisk,
    engine::{Outcome, Tail},
    id::Position,
};
use reprise_tests::faults::{
    damage::Rest,
    run::open,
    script::{Script, Step, padded},
};

#[test]
fn a_push_id_is_remembered_when_the_footer_of_its_segment_is_damaged() {
    let steps = (0..9).map(|number| Step::Append(padded(number, 500))).collect();
    let script = Script { name: "several segments", segment_bytes: 6 << 10, steps, shutdown: true, threads: false };
    let rest = Rest::of(&script);
    let first = rest.files().into_iter().find(|path| path.starts_with("log/seg-")).unwrap();
    let disk = SimDisk::from_image(&rest.with(&first, |bytes| *bytes.last_mut().unwrap() ^= 1));
    let (engine, report) = open(&disk, rest.segment_bytes).unwrap();
    assert_eq!(report.tail, Tail::Clean);
    let again = engine.propose_and_wait(padded(0, 500));
    assert!(matches!(again, Outcome::Done { first: Position(1), repeated: true, .. }), "{again:?}");
}
