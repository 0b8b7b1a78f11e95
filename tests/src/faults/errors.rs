//! One disk call of a script fails (T5, T6): nothing acknowledged is lost, nothing refused appears, work goes on.
//!
//! Invariants: the calls are tried one after another until a run meets no fault; each run ends in a power loss that keeps
//! all, one that keeps nothing and one that tears the last write.

use reprise_engine::{
    disk::sim::{Fault, SimDisk, Survival},
    engine::{Outcome, Reason},
};

use super::{
    judge::{Expectation, judge},
    run::{Stage, run},
    script::{Script, Step},
    sweep::Report,
};

/// Lets every call of a script suffer `fault`, one per run.
pub fn every_call(script: &Script, fault: Fault) -> Report {
    let mut report = Report::default();
    for call in 1.. {
        let stages = run(script, |disk| disk.plan(call, fault));
        let stage = &stages[0];
        if stage.disk.fired().is_empty() {
            if stage.disk.calls() < call {
                break;
            }
            continue;
        }
        for wrong in check(script, stage, fault, &mut report) {
            report.violations.push(format!("{}, {fault:?} at call {call}: {wrong}", script.name));
        }
        if report.violations.len() > 8 {
            break;
        }
    }
    report
}

fn check(script: &Script, stage: &Stage, fault: Fault, report: &mut Report) -> Vec<String> {
    let mut wrong = Vec::new();
    let expected = Expectation::of(stage, script.segment_bytes);
    let acknowledged = expected.acknowledged_before(u64::MAX);
    for survival in [Survival::All, Survival::None, Survival::TornSector] {
        report.images += 1;
        report.distinct += 1;
        let image = stage.history.image_at(stage.history.len(), survival, 11);
        match judge(&SimDisk::from_image(&image), &expected) {
            Ok(found) if found >= acknowledged => {}
            Ok(found) => wrong.push(format!("{survival:?}: {acknowledged} events acknowledged, {found} recovered")),
            Err(what) => wrong.push(format!("{survival:?}: {what}")),
        }
    }
    let outcomes: Vec<&Outcome> = stage.batches.iter().map(|batch| &batch.outcome).collect();
    let done = |outcome: &&&Outcome| matches!(outcome, Outcome::Done { .. });
    match fault {
        Fault::Short if stage.open_error.is_some() || !outcomes.iter().all(|outcome| done(&outcome)) => {
            wrong.push(format!("a short read or write was visible: {:?} {outcomes:?}", stage.open_error));
        }
        Fault::NoSpace | Fault::TooManyFiles => {
            // The call failed once: what comes after it must succeed without help. Stated limit: without a descriptor for
            // the log's directory its names cannot be synced, and the writer stops until it is opened again.
            let in_groups = script.steps.iter().any(|step| matches!(step, Step::Together(_)));
            let stopped = |outcome: &&&Outcome| matches!(outcome, Outcome::NotDone(Reason::ReadOnly(why)) if why.contains("sync directory"));
            let decided = |outcome: &&&Outcome| matches!(outcome, Outcome::NotDone(Reason::Condition(_)));
            let refused = outcomes.iter().filter(|outcome| !done(outcome) && !stopped(outcome) && !decided(outcome));
            let refused = refused.count();
            if !in_groups && refused > 1 {
                wrong.push(format!("writes did not resume: {outcomes:?}"));
            }
        }
        _ => {}
    }
    wrong
}
