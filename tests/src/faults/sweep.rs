//! Crashes at every change of the disk (T1) and during the recovery from them (T2).
//!
//! Invariants: each (script, change, survival) is one image and is counted; equal images are judged once, but what must
//! have been acknowledged is checked for each; a report keeps the first few violations with what is needed to repeat them.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use reprise_engine::disk::sim::{History, SimDisk, Survival, image::Image};

use super::{
    judge::{Expectation, judge},
    run::{Stage, open, run},
    script::Script,
};

/// What a sweep saw.
#[derive(Default, Debug)]
pub struct Report {
    /// Crash images built.
    pub images: usize,
    /// Different ones among them: each was opened three times.
    pub distinct: usize,
    /// What was wrong, the first few.
    pub violations: Vec<String>,
}

impl Report {
    /// Adds another report.
    pub fn add(&mut self, other: Report) {
        self.images += other.images;
        self.distinct += other.distinct;
        self.violations.extend(other.violations);
        self.violations.truncate(VIOLATIONS_KEPT);
    }
}

/// Every crash of a script. Stops early once enough is wrong.
pub fn every_crash(script: &Script) -> Report {
    let mut report = Report::default();
    for (index, stage) in run(script, |_| {}).iter().enumerate() {
        let expected = Expectation::of(stage, script);
        Sweep::new(&expected, &mut report).history(&stage.history, None, &format!("{} stage {index}", script.name));
    }
    report
}

/// Crashes during the recovery of every `step`-th distinct crash image of a script.
pub fn crashes_in_recovery(script: &Script, step: usize) -> Report {
    let mut report = Report::default();
    for (index, stage) in run(script, |_| {}).iter().enumerate() {
        let expected = Expectation::of(stage, script);
        for (number, (image, acknowledged)) in distinct_images(stage, &expected).into_iter().enumerate() {
            if number % step != 0 {
                continue;
            }
            let disk = SimDisk::from_image(&image);
            let opened = open(&disk, script.segment_bytes);
            let history = disk.history();
            drop(opened);
            let name = format!("{} stage {index} image {number}", script.name);
            Sweep::new(&expected, &mut report).history(&history, Some(acknowledged), &name);
        }
    }
    report
}

fn distinct_images(stage: &Stage, expected: &Expectation) -> Vec<(Image, usize)> {
    let mut seen = HashMap::new();
    let mut images = Vec::new();
    each_image(&stage.history, |at, image| {
        let acknowledged = expected.acknowledged_before(at.next_call);
        let known = seen.entry(fingerprint(&image)).or_insert(images.len());
        if *known == images.len() {
            images.push((image, acknowledged));
        }
        images[*known].1 = images[*known].1.max(acknowledged);
    });
    images
}

struct Sweep<'a> {
    expected: &'a Expectation,
    judged: HashMap<u64, Result<usize, String>>,
    report: &'a mut Report,
}

impl Sweep<'_> {
    fn new<'a>(expected: &'a Expectation, report: &'a mut Report) -> Sweep<'a> {
        Sweep { expected, judged: HashMap::new(), report }
    }

    /// Judges every crash of a history; `acknowledged` overrides what the cut says (a recovery acknowledges nothing).
    fn history(&mut self, history: &History, acknowledged: Option<usize>, name: &str) {
        each_image(history, |at, image| {
            if self.report.violations.len() >= VIOLATIONS_KEPT {
                return;
            }
            self.report.images += 1;
            let judged = self.judged.entry(fingerprint(&image)).or_insert_with(|| {
                self.report.distinct += 1;
                judge(&SimDisk::from_image(&image), self.expected)
            });
            let acknowledged = acknowledged.unwrap_or_else(|| self.expected.acknowledged_before(at.next_call));
            if let Some(wrong) = why_wrong(judged, acknowledged) {
                self.report.violations.push(format!("{name}, {at:?}: {wrong}"));
            }
        });
        self.kills(history, acknowledged, name);
    }

    /// The process dies, another one recovers and shows the log, and only then the power fails.
    fn kills(&mut self, history: &History, acknowledged: Option<usize>, name: &str) {
        for cut in 0..=history.len() {
            if self.report.violations.len() >= VIOLATIONS_KEPT {
                return;
            }
            self.report.images += 1;
            self.report.distinct += 1;
            let judged = judge(&history.killed_at(cut), self.expected);
            let acknowledged =
                acknowledged.unwrap_or_else(|| self.expected.acknowledged_before(next_call(history, cut)));
            if let Some(wrong) = why_wrong(&judged, acknowledged) {
                self.report.violations.push(format!("{name}, killed behind change {cut}: {wrong}"));
            }
        }
    }
}

fn why_wrong(judged: &Result<usize, String>, acknowledged: usize) -> Option<String> {
    match judged {
        Ok(found) if *found >= acknowledged => None,
        Ok(found) => Some(format!("{acknowledged} events acknowledged, {found} recovered")),
        Err(wrong) => Some(wrong.clone()),
    }
}

fn next_call(history: &History, cut: usize) -> u64 {
    if cut < history.len() { history.call_of(cut) } else { u64::MAX }
}

/// Where a crash was.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "printed by reports")]
struct At {
    cut: usize,
    next_call: u64,
    survival: Survival,
    seed: u64,
}

fn each_image(history: &History, mut visit: impl FnMut(At, Image)) {
    history.each_cut(|cut, crash| {
        let next_call = next_call(history, cut);
        for survival in Survival::EVERY {
            let seed = cut as u64 * 31 + 7;
            visit(At { cut, next_call, survival, seed }, crash.image(survival, seed));
        }
    });
}

fn fingerprint(image: &Image) -> u64 {
    let mut hasher = DefaultHasher::new();
    image.hash(&mut hasher);
    hasher.finish()
}

/// More of them say nothing new.
const VIOLATIONS_KEPT: usize = 8;
