//! Judging what a restart finds: is everything acknowledged there, is it a prefix, is recovery repeatable, does work go on.
//!
//! Invariants: a judge owns the disk that it is given; it answers what is wrong as text; a panic of the
//! engine is a wrong answer like another.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    time::Duration,
};

use reprise_engine::{
    disk::sim::{SimDisk, Survival, image::Image},
    engine::{Engine, Outcome, Tail},
    event::{Event, EventBody},
    pack,
    store::ObjectStore,
};
use reprise_projections::{Checkpoint, projections::build_at};

use super::{
    run::{Batch, SPILL, Stage, open, read_all, rebuild},
    script::{Script, Step, create},
};

/// What may be recovered: a run of events and the lengths at which it may end.
pub struct Expectation {
    /// Bytes at which a segment is sealed.
    pub segment_bytes: u64,
    /// Every event that can be in the log, in order.
    pub events: Vec<EventBody>,
    /// Every projection is built anew from what was recovered, and compared with a fold of it.
    pub rebuilt: bool,
    /// Numbers of events at which a batch ends, ascending, with the disk calls made when it was acknowledged
    /// (`None`: never acknowledged, may be absent).
    pub ends: Vec<(usize, Option<u64>)>,
}

impl Expectation {
    /// What a stage may leave: its start, its batches, wholly or not at all. Batches of unknown outcome are there if a
    /// later answer's position says so, else they may follow at the end.
    pub fn of(stage: &Stage, script: &Script) -> Expectation {
        let mut expected = Expectation {
            segment_bytes: script.segment_bytes,
            events: stage.before.clone(),
            rebuilt: script.steps.iter().any(|step| matches!(step, Step::Rebuild)),
            ends: vec![(stage.before.len(), Some(0))],
        };
        let mut unknown: Vec<&Batch> = Vec::new();
        for batch in &stage.batches {
            match batch.outcome {
                Outcome::Unknown(_) => unknown.push(batch),
                Outcome::NotDone(_) => {}
                Outcome::Done { first, repeated: false, .. } => {
                    expected.fill(&mut unknown, first.0 - 1);
                    unknown.clear();
                    expected.add(batch, Some(batch.calls));
                }
                Outcome::Done { last, repeated: true, .. } => {
                    expected.fill(&mut unknown, last.0);
                    expected.acknowledge(last.0, batch.calls);
                }
            }
        }
        for batch in unknown {
            expected.add(batch, None);
        }
        expected
    }

    /// Batches of unknown outcome that a later answer shows to be in the log, up to `position`.
    fn fill(&mut self, unknown: &mut Vec<&Batch>, position: u64) {
        while (self.events.len() as u64) < position && !unknown.is_empty() {
            self.add(unknown.remove(0), None);
        }
    }

    /// A repeated proposal was told that it is in the log.
    fn acknowledge(&mut self, last: u64, calls: u64) {
        for (end, at) in &mut self.ends {
            if *end as u64 == last && at.is_none() {
                *at = Some(calls);
            }
        }
    }

    fn add(&mut self, batch: &Batch, calls: Option<u64>) {
        self.events.extend(batch.events.iter().cloned());
        self.ends.push((self.events.len(), calls));
    }

    /// Events that were acknowledged before disk call `call` began.
    pub fn acknowledged_before(&self, call: u64) -> usize {
        let acknowledged = self.ends.iter().filter(|(_, at)| at.is_some_and(|at| at < call));
        acknowledged.map(|(end, _)| *end).max().unwrap_or(0)
    }

    fn check_prefix(&self, found: &[Event]) -> Result<(), String> {
        for (index, event) in found.iter().enumerate() {
            if event.position.0 != index as u64 + 1 {
                return Err(format!("event {} stands at place {}", event.position, index + 1));
            }
            if index > 0 && found[index - 1].time_ms > event.time_ms {
                return Err(format!("event {} is older than the one before it", event.position));
            }
            if self.events.get(index) != Some(&event.body) {
                return Err(format!("event {} is not what was proposed", event.position));
            }
        }
        if self.ends.iter().any(|(end, _)| *end == found.len()) {
            return Ok(());
        }
        Err(format!("{} events recovered: half a batch", found.len()))
    }
}

/// Opens what a restart finds and checks all that does not depend on when the crash was. Answers how many events were recovered.
pub fn judge(found: &SimDisk, expected: &Expectation) -> Result<usize, String> {
    let judged = catch_unwind(AssertUnwindSafe(|| judge_unguarded(found, expected)));
    judged.unwrap_or_else(|_| Err("the engine panicked".to_owned()))
}

fn judge_unguarded(first: &SimDisk, expected: &Expectation) -> Result<usize, String> {
    let all_was_durable = first.history().is_empty();
    let (engine, events) = open_and_read(first, expected, "the first open")?;
    check_packs(&engine, &events)?;
    if expected.rebuilt {
        check_rebuild(&engine)?;
    }
    let segments = segments(&first.image());

    // What readers saw must be durable by now: the second power loss keeps nothing that was not synced.
    let second = first.crash(Survival::None, 0);
    drop(engine);
    let (engine, again) = open_and_read(&second, expected, "the second open")?;
    if again != events {
        return Err(format!("{} events at the first open, {} at the second", events.len(), again.len()));
    }
    // After a kill the second power loss may take a mark or a footer that no sync covered: it is written again, as it was.
    if let (true, Some(name)) = (all_was_durable, changed(&segments, &self::segments(&second.image()))) {
        return Err(format!("the second open changed {name}"));
    }

    append_one(&engine, events.len())?;
    let third = second.crash(Survival::None, 0);
    drop(engine);
    let (engine, _) = open(&third, expected.segment_bytes).map_err(|error| format!("the third open: {error}"))?;
    let after = read_all(&engine).map_err(|error| format!("reading after an append: {error}"))?;
    if after.windows(2).any(|pair| pair[0].time_ms > pair[1].time_ms) {
        return Err("an event appended after recovery is older than the ones before it".to_owned());
    }
    if after.len() != events.len() + 1 || after[..events.len()] != events[..] {
        return Err(format!("{} events, one appended and acknowledged, {} recovered", events.len(), after.len()));
    }
    Ok(events.len())
}

fn open_and_read(disk: &SimDisk, expected: &Expectation, which: &str) -> Result<(Engine, Vec<Event>), String> {
    let (engine, report) = open(disk, expected.segment_bytes).map_err(|error| format!("{which}: {error}"))?;
    if let Tail::Damaged { file, offset, message } = report.tail {
        return Err(format!("{which}: a crash taken for damage in {file} at {offset}: {message}"));
    }
    let events = read_all(&engine).map_err(|error| format!("{which}: reading: {error}"))?;
    if events.len() as u64 != engine.durable().position.0 {
        return Err(format!("{which}: {} events up to position {}", events.len(), engine.durable().position));
    }
    expected.check_prefix(&events).map_err(|wrong| format!("{which}: {wrong}"))?;
    Ok((engine, events))
}

/// One more event can be appended behind `events` others.
pub fn append_one(engine: &Engine, events: usize) -> Result<(), String> {
    let (sender, answer) = mpsc::channel();
    engine.propose(create(NEW_REPO), Box::new(move |outcome| drop(sender.send(outcome))));
    match answer.recv_timeout(Duration::from_secs(20)) {
        Ok(Outcome::Done { first, repeated: false, .. }) if first.0 == events as u64 + 1 => Ok(()),
        other => Err(format!("append after recovery of {events} events: {other:?}")),
    }
}

/// Every pack that the log names is readable, whole and as the event says.
fn check_packs(engine: &Engine, events: &[Event]) -> Result<(), String> {
    for event in events {
        let EventBody::ObjectsReceived(received) = &event.body else { continue };
        let mut damaged = Vec::new();
        let store: &Arc<dyn ObjectStore> = engine.store();
        let told =
            pack::verify(&**store, received.pack, &mut |kind, id, what| damaged.push(format!("{kind} {id} {what}")))
                .map_err(|error| format!("event {} names pack {}: {error}", event.position, received.pack))?;
        if !damaged.is_empty() || told.stored.rows != received.rows || told.stored.table_hash != received.table_hash {
            return Err(format!("event {} names pack {}: {damaged:?}", event.position, received.pack));
        }
    }
    Ok(())
}

/// Rows built in bulk are the rows of a fold, and nothing is left of the building, whatever an interrupted one left.
fn check_rebuild(engine: &Engine) -> Result<(), String> {
    let text = |error: reprise_engine::Error| format!("rebuild: {error}");
    let durable = engine.durable();
    let at = Checkpoint { position: durable.position, chain: durable.chain };
    let (_, built) = rebuild(engine, at, (300, 2)).map_err(text)?;
    let folded = build_at(engine, at.position).and_then(|view| view.digest()).map_err(text)?;
    if built != folded {
        return Err(format!("rebuilt at {}: {}, folded: {}", at.position, built.overall(), folded.overall()));
    }
    let left = engine.disk().list(SPILL).map_err(text)?;
    if left.is_empty() { Ok(()) } else { Err(format!("a rebuild left {left:?}")) }
}

/// The segment files of an image.
pub fn segments(image: &Image) -> BTreeMap<String, Arc<Vec<u8>>> {
    let segment = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with("seg-"));
    image
        .files
        .iter()
        .filter(|(path, _)| segment(path))
        .map(|(path, bytes)| (path.clone(), Arc::clone(bytes)))
        .collect()
}

/// The first file that differs.
pub fn changed(before: &BTreeMap<String, Arc<Vec<u8>>>, after: &BTreeMap<String, Arc<Vec<u8>>>) -> Option<String> {
    let names = before.keys().chain(after.keys());
    names.into_iter().find(|name| before.get(*name) != after.get(*name)).cloned()
}

/// No script creates this one.
const NEW_REPO: u64 = 9_000_000;
