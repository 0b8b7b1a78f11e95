//! One trial: an index is damaged, a process opens it, and if that kills the process, another one does.
//!
//! Invariants: what is allowed is said here and nowhere else. One process may be killed by the store, the next must serve; a
//! wrong answer may be seen on the way only where a whole table stands in the place of another; a whole log is never
//! suspected of a loss.

use std::{
    fmt::Write,
    path::Path,
    process::{Command, Output},
};

use rand::{RngExt, rngs::StdRng};

use super::{
    damage::{self, Damage, Part},
    past::{INDEX, Left, Past},
    serve::{HANGS, Served},
};
use crate::{scratch, seeds};

/// What became of a damaged index, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ended {
    /// Nothing was noticed, and nothing was wrong.
    WentOn,
    /// Events were folded again from the last flush that counts.
    FoldedAgain,
    /// It was built again before it served.
    Rebuilt,
    /// It was built again while it served: until then it answered rightly or refused.
    RebuiltLater,
    /// It was built again while it served, and a wrong answer was given until then: a whole table stood in the place of another.
    WrongUntilRebuilt,
    /// The store killed the process; the next one served.
    KilledOnce,
}

/// A trial that was not run yet.
pub struct Trial<'a> {
    past: &'a Past,
    moment: usize,
    /// What is done, in order.
    pub damages: Vec<Damage>,
    /// The part that was chosen for the first of it.
    pub part: Part,
    /// The kind that was chosen for the first of it.
    pub kind: usize,
}

impl<'a> Trial<'a> {
    /// Trial `number` over a past: kind and part of the damage count through, the rest comes from the number's own seed.
    pub fn of(number: u64, past: &'a Past) -> Trial<'a> {
        let mut random = seeds::random(number, TRIAL_STREAM);
        loop {
            let moments = past.moments.len();
            let moment = if random.random() { moments - 1 } else { random.random_range(0..moments) };
            let kind = number as usize % damage::KINDS;
            let part = LIKELY[random.random_range(0..LIKELY.len())];
            let Some(first) = Damage::choose(kind, part, &mut random, past, moment) else { continue };
            let mut damages = vec![first];
            if random.random_bool(0.4) {
                damages.extend(another(&mut random, past, moment));
            }
            return Trial { past, moment, damages, part, kind };
        }
    }

    /// Runs it with the helper that serves a data directory. An error says how the promise was broken.
    pub fn run(&self, helper: &Path) -> Result<Ended, String> {
        let data = scratch::dir();
        self.past.log.write(data.path()).unwrap();
        let mut index = self.past.moments[self.moment].index.clone();
        self.damages.iter().for_each(|damage| damage.apply(&mut index, self.past));
        index.write(&data.path().join(INDEX)).unwrap();
        let first = Command::new(helper).arg(data.path()).output().unwrap();
        if let Some(served) = served(&first)? {
            return self.judge(&served);
        }
        let second = Command::new(helper).arg(data.path()).output().unwrap();
        match served(&second)? {
            Some(served) => self.judge(&served).map(|_| Ended::KilledOnce),
            None => Err(format!("two processes were killed: {}", text(&second))),
        }
    }

    fn judge(&self, served: &Served) -> Result<Ended, String> {
        let misplaced = self.damages.iter().any(Damage::misplaces_tables);
        match &served.wrong {
            Some(wrong) if !misplaced => return Err(format!("a wrong answer was given: {wrong}; {}", served.reason)),
            _ if served.possible_loss => return Err(format!("the log is suspected of a loss: {}", served.reason)),
            _ => {}
        }
        Ok(match served.reason.as_str() {
            "" if served.wrong.is_some() => Ended::WrongUntilRebuilt,
            "" => Ended::WentOn,
            reason if reason.starts_with("folding again") => Ended::FoldedAgain,
            _ if served.wrong.is_some() => Ended::WrongUntilRebuilt,
            _ if served.refused > 0 => Ended::RebuiltLater,
            _ => Ended::Rebuilt,
        })
    }

    /// How the index was left before it was damaged.
    pub fn left(&self) -> Left {
        self.past.moments[self.moment].left
    }

    /// What is done to what, for reports.
    pub fn story(&self) -> String {
        let moment = &self.past.moments[self.moment];
        let mut story = format!("moment {} ({:?}, at {})", self.moment, moment.left, moment.position);
        for damage in &self.damages {
            write!(story, "; {damage}").unwrap();
        }
        story
    }
}

/// `None` if the process was killed.
fn served(output: &Output) -> Result<Option<Served>, String> {
    match output.status.code() {
        Some(0) => Ok(Some(serde_json::from_slice(&output.stdout).unwrap())),
        Some(HANGS) => Err(format!("the process hangs: {}", text(output))),
        Some(code) => Err(format!("exit code {code}: {}", text(output))),
        None => Ok(None),
    }
}

fn text(output: &Output) -> String {
    format!("{}, {}", output.status, String::from_utf8_lossy(&output.stderr))
}

/// Half of them are to the journal, which otherwise makes up for much of what is done to the rest.
fn another(random: &mut StdRng, past: &Past, moment: usize) -> Option<Damage> {
    let any = LIKELY[random.random_range(0..LIKELY.len())];
    let part = if random.random() { Part::Journal } else { any };
    Damage::choose(random.random_range(0..damage::KINDS), part, random, past, moment)
}

/// Tables are most of an index.
const LIKELY: [Part; 8] =
    [Part::Journal, Part::Table, Part::Table, Part::Table, Part::Version, Part::Marker, Part::Record, Part::Record];
const TRIAL_STREAM: u64 = 0x5452_4941;
