//! Every disk call of a script fails once: syncs (T5), room, descriptors, short reads and writes (T6).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use reprise_engine::disk::sim::Fault;
use reprise_tests::{
    effort::Effort,
    faults::{
        errors::every_call,
        script::{Script, Step},
        stories::{random, scripts},
        sweep::Report,
    },
};

/// A power loss within a story would be judged as if its outcome were the story's.
fn without_power_loss(mut script: Script) -> Script {
    script.steps.retain(|step| !matches!(step, Step::PowerLoss(..)));
    script
}

/// Every story, then those of some seeds.
fn check(test: &'static str, faults: &[Fault], images_min: usize) {
    let mut total = Report::default();
    let mut effort = Effort::of(test, 4);
    let sweep = |script: Script, total: &mut Report| {
        let script = without_power_loss(script);
        faults.iter().for_each(|fault| total.add(every_call(&script, *fault)));
        assert!(total.violations.is_empty(), "{:#?}", total.violations);
    };
    if !effort.is_long() {
        scripts().into_iter().for_each(|script| sweep(script, &mut total));
        eprintln!("{faults:?}: {} images", total.images);
        assert!(total.images > images_min, "{} images", total.images);
    }
    while let Some(seed) = effort.next() {
        let before = total.images;
        sweep(random(seed), &mut total);
        effort.saw(total.images - before);
    }
}

#[test]
fn a_failed_sync_loses_nothing_acknowledged_whether_its_data_is_kept_or_dropped() {
    check("T5 failed syncs", &[Fault::SyncErrorKept, Fault::SyncErrorDropped], 2_400);
}

#[test]
fn a_full_disk_or_too_many_files_refuse_one_call_and_writes_resume() {
    check("T6 full disks", &[Fault::NoSpace, Fault::TooManyFiles], 4_000);
}

#[test]
fn short_reads_and_writes_are_invisible() {
    check("T6 short reads and writes", &[Fault::Short], 2_000);
}

#[test]
fn a_failed_read_at_open_loses_nothing() {
    check("T6 failed reads", &[Fault::ReadError], 100);
}
