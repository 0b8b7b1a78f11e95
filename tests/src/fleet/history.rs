//! What was asked, when, and what was answered; and whether one order of events explains all of it (T11).
//!
//! Invariants: time is a count of asks and answers, so "before" means before for everybody; judged against the log as a newcomer
//! reads it from the bucket.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use reprise_engine::{
    engine::{Engine, Outcome, Reason},
    event::EventBody,
    id::{ObjectId, Position, PushId},
};

/// A branch that is to be moved.
#[derive(Clone, Debug)]
pub struct Move {
    /// Idempotency key.
    pub push: PushId,
    /// Which branch.
    pub branch: &'static str,
    /// From where.
    pub old: Option<ObjectId>,
    /// Where to.
    pub new: ObjectId,
}

/// All of it.
#[derive(Default)]
pub struct History {
    time: u64,
    done: Vec<Done>,
    refused: Vec<Refused>,
    /// Refused since the bucket was not reached: never done, unless nobody knew before.
    unreached: Vec<PushId>,
    /// Every move that was ever asked for; asked for again, it may have happened before.
    asked: BTreeSet<PushId>,
    looks: Vec<(u64, Position)>,
    /// What nobody knows yet.
    pub unknown: Vec<Move>,
    heads: BTreeMap<&'static str, ObjectId>,
}

struct Done {
    began: u64,
    ended: u64,
    moved: Move,
    at: Position,
    repeated: bool,
    /// It had been asked for before, and may have happened then.
    again: bool,
}

struct Refused {
    began: u64,
    ended: u64,
    moved: Move,
}

/// How much a story had in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Told {
    /// Moves that were acknowledged.
    pub acknowledged: usize,
    /// Of them, when they were asked for again.
    pub repeated: usize,
    /// Moves that were refused.
    pub refused: usize,
    /// Looks.
    pub looks: usize,
    /// Moves of which nobody ever knew.
    pub unknown: usize,
    /// Of them, those that had happened.
    pub had_happened: usize,
    /// Events of the log.
    pub events: usize,
}

impl History {
    /// Somebody asks.
    pub fn begin(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    /// Where a branch is, for all that was answered.
    pub fn likely_head(&self, branch: &str) -> Option<ObjectId> {
        self.heads.get(branch).copied()
    }

    /// One of those that nobody knows.
    pub fn take_unknown(&mut self) -> Option<Move> {
        self.unknown.pop()
    }

    /// A look that began at `began` was answered.
    pub fn looked(&mut self, began: u64, seen: Position) {
        self.looks.push((began, seen));
    }

    /// A move was answered.
    pub fn answered(&mut self, began: u64, moved: Move, outcome: Outcome) {
        self.time += 1;
        let ended = self.time;
        let again = !self.asked.insert(moved.push);
        match outcome {
            Outcome::Done { first, last, repeated } => {
                assert_eq!(first, last, "one event");
                self.heads.insert(moved.branch, moved.new);
                self.done.push(Done { began, ended, moved, at: last, repeated, again });
            }
            Outcome::Unknown(_) => self.unknown.push(moved),
            Outcome::NotDone(Reason::Condition(_)) => self.refused.push(Refused { began, ended, moved }),
            Outcome::NotDone(Reason::Unavailable(_)) if again => self.unknown.push(moved),
            Outcome::NotDone(Reason::Unavailable(_)) => self.unreached.push(moved.push),
            Outcome::NotDone(other) => panic!("refused for {other:?}"),
        }
    }

    /// Judges all of it by the log as `newcomer` reads it.
    pub fn judge(&self, newcomer: &Engine) -> Result<Told, String> {
        let log = Log::read(newcomer)?;
        let mut told =
            Told { looks: self.looks.len(), refused: self.refused.len(), events: log.events, ..Told::default() };
        for done in &self.done {
            told.acknowledged += 1;
            told.repeated += usize::from(done.repeated);
            if done.repeated && !done.again {
                return Err(format!("{} was asked for once and called repeated", done.at));
            }
            match log.moves.get(&done.moved.push) {
                Some((at, new)) if (*at, *new) == (done.at, done.moved.new) => {}
                other => return Err(format!("acknowledged at {}, and in the log: {other:?}", done.at)),
            }
        }
        self.check_real_time()?;
        self.check_refusals(&log)?;
        if let Some(push) = self.unreached.iter().find(|push| log.moves.contains_key(push)) {
            return Err(format!("{push:?} was refused, the bucket being out of reach, and is in the log"));
        }
        for moved in &self.unknown {
            told.unknown += 1;
            told.had_happened += usize::from(log.moves.contains_key(&moved.push));
        }
        Ok(told)
    }

    /// What ended before something began stands before it; who looks sees all that was acknowledged before.
    fn check_real_time(&self) -> Result<(), String> {
        for later in &self.done {
            for earlier in self.done.iter().filter(|earlier| earlier.ended < later.began) {
                if !later.again && earlier.at >= later.at {
                    return Err(format!("{} was acknowledged before {} was asked for", earlier.at, later.at));
                }
            }
        }
        for (began, seen) in &self.looks {
            if let Some(missed) = self.done.iter().find(|done| done.ended < *began && done.at > *seen) {
                return Err(format!("a look saw {seen}, though {} had been acknowledged", missed.at));
            }
        }
        Ok(())
    }

    /// A refusal is right if the branch was elsewhere at some time between question and answer.
    fn check_refusals(&self, log: &Log) -> Result<(), String> {
        for refused in &self.refused {
            let before = self.done.iter().filter(|done| done.ended < refused.began).map(|done| done.at).max();
            // Whatever was asked for after the answer came later.
            let after =
                self.done.iter().filter(|done| !done.again && done.began > refused.ended).map(|done| done.at).min();
            let (from, to) =
                (before.unwrap_or(Position(1)), after.map_or(Position(log.events as u64), |at| Position(at.0 - 1)));
            let elsewhere = (from.0..=to.0).any(|at| log.head(refused.moved.branch, Position(at)) != refused.moved.old);
            if !elsewhere {
                let (branch, old) = (refused.moved.branch, refused.moved.old);
                return Err(format!("{branch} was at {old:?} from {from} to {to}, and a move from there was refused"));
            }
            if log.moves.contains_key(&refused.moved.push)
                && !self.done.iter().any(|d| d.moved.push == refused.moved.push)
            {
                return Err(format!("{:?} was refused and is in the log", refused.moved.push));
            }
        }
        Ok(())
    }
}

/// The log, read.
struct Log {
    events: usize,
    moves: BTreeMap<PushId, (Position, ObjectId)>,
    branches: BTreeMap<String, Vec<(Position, Option<ObjectId>)>>,
}

impl Log {
    fn read(engine: &Engine) -> Result<Log, String> {
        let mut follower = engine.follow(Position(1)).map_err(|error| error.to_string())?;
        let mut log = Log { events: 0, moves: BTreeMap::new(), branches: BTreeMap::new() };
        while let Some(group) = follower.next(Duration::ZERO).map_err(|error| error.to_string())? {
            for event in group.events.iter() {
                log.events += 1;
                if event.position != Position(log.events as u64) {
                    return Err(format!("position {} in the place of {}", event.position, log.events));
                }
                let EventBody::RefsUpdated(refs) = &event.body else { continue };
                for update in &refs.updates {
                    let head = log.head(&update.name, event.position);
                    if head != update.old {
                        return Err(format!(
                            "{} moved {} from {:?}, where it was not",
                            event.position, update.name, update.old
                        ));
                    }
                    log.branches.entry(update.name.clone()).or_default().push((event.position, update.new));
                    let new = update.new.unwrap_or(ObjectId([0; 32]));
                    if log.moves.insert(event.push, (event.position, new)).is_some() {
                        return Err(format!("{:?} is in the log twice", event.push));
                    }
                }
            }
        }
        Ok(log)
    }

    fn head(&self, branch: &str, at: Position) -> Option<ObjectId> {
        let moves = self.branches.get(branch)?;
        moves.iter().rev().find(|(position, _)| *position <= at)?.1
    }
}
