//! T12: every request of the bucket log's protocol × everything that can become of it, in a story of two servers: positions dense, what
//! was acknowledged there for ever, what was refused never there, what nobody knew answered by its push id, the servers alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::collections::BTreeMap;

use reprise_tests::{
    effort::Effort,
    fleet::{door::STEPS, history::Told, matrix},
};

#[test]
fn whatever_becomes_of_any_request_of_the_protocol_one_order_of_events_explains_every_answer() {
    let mut effort = Effort::of("T12 steps and fates", 1);
    let (mut counts, mut all, mut wrong) = (BTreeMap::new(), Told::default(), Vec::new());
    while let Some(seed) = effort.next() {
        let cells = matrix::cells(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        effort.saw(cells.len());
        for cell in &cells {
            *counts.entry((cell.step, cell.fate)).or_insert(0u64) += 1;
            match cell.run() {
                Ok(told) => {
                    all.acknowledged += told.acknowledged;
                    all.repeated += told.repeated;
                    all.refused += told.refused;
                    all.looks += told.looks;
                }
                Err(error) => wrong.push(error),
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells, the first of them: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    let kinds = STEPS.iter().flat_map(|step| step.fates().into_iter().map(move |fate| (*step, fate)));
    let missing: Vec<_> = kinds.filter(|kind| !counts.contains_key(kind)).collect();
    assert!(missing.is_empty(), "never had: {missing:?}");
    let cells: u64 = counts.values().sum();
    eprintln!("{cells} cells of {} kinds (a step and its fate), none wrong; {all:?}", counts.len());
    assert!(all.acknowledged as u64 > 10 * cells && all.repeated > 0 && all.refused > 0, "{all:?}");
}
