//! Every disk call of a script fails once: syncs (T5), room, descriptors, short reads and writes (T6).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use reprise_engine::disk::sim::Fault;
use reprise_tests::faults::{
    errors::every_call,
    script::{Script, Step, scripts},
    sweep::Report,
};

fn check(faults: &[Fault]) {
    // A power loss within a story would be judged as if its outcome were the story's.
    let chosen = |script: &Script| !script.steps.iter().any(|step| matches!(step, Step::PowerLoss(..)));
    let mut total = Report::default();
    for script in scripts().into_iter().filter(chosen) {
        for fault in faults {
            total.add(every_call(&script, *fault));
        }
    }
    eprintln!("{faults:?}: {} images", total.images);
    assert!(total.violations.is_empty(), "{:#?}", total.violations);
    assert!(total.images > 10);
}

#[test]
fn a_failed_sync_loses_nothing_acknowledged_whether_its_data_is_kept_or_dropped() {
    check(&[Fault::SyncErrorKept, Fault::SyncErrorDropped]);
}

#[test]
fn a_full_disk_or_too_many_files_refuse_one_call_and_writes_resume() {
    check(&[Fault::NoSpace, Fault::TooManyFiles]);
}

#[test]
fn short_reads_and_writes_are_invisible() {
    check(&[Fault::Short]);
}

#[test]
fn a_failed_read_at_open_loses_nothing() {
    check(&[Fault::ReadError]);
}
