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
    let undisturbed = done(&run(script, |_| {})[0]);
    for call in 1.. {
        let stages = run(script, |disk| disk.plan(call, fault));
        let stage = &stages[0];
        if stage.disk.fired().is_empty() {
            if stage.disk.calls() < call {
                break;
            }
            continue;
        }
        for wrong in check(script, stage, (fault, &undisturbed), &mut report) {
            report.violations.push(format!("{}, {fault:?} at call {call}: {wrong}", script.name));
        }
        if report.violations.len() > 8 {
            break;
        }
    }
    report
}

/// Which batches were done, in the order of their answers.
fn done(stage: &Stage) -> Vec<bool> {
    stage.batches.iter().map(|batch| matches!(batch.outcome, Outcome::Done { .. })).collect()
}

fn check(script: &Script, stage: &Stage, (fault, undisturbed): (Fault, &[bool]), report: &mut Report) -> Vec<String> {
    let mut wrong = Vec::new();
    let expected = Expectation::of(stage, script);
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
    match fault {
        Fault::Short if stage.open_error.is_some() || done(stage) != undisturbed => {
            wrong.push(format!("a short read or write was visible: {:?} {outcomes:?}", stage.open_error));
        }
        Fault::NoSpace | Fault::TooManyFiles => {
            // The call failed once: what comes after it must succeed without help.
            let in_groups = script.steps.iter().any(|step| matches!(step, Step::Together(_)));
            let done_or_decided =
                |outcome: &&&Outcome| matches!(outcome, Outcome::Done { .. } | Outcome::NotDone(Reason::Condition(_)));
            let refused = outcomes.iter().filter(|outcome| !done_or_decided(outcome)).count();
            if !in_groups && refused > 1 {
                wrong.push(format!("writes did not resume: {outcomes:?}"));
            }
        }
        _ => {}
    }
    wrong
}
