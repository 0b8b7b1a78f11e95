//! Bringing the log into the bucket, beside everything else, while a server runs.
//!
//! A local log's segment is ended and brought once it is full (8 MiB) or its oldest event is 30 seconds old: that is what the
//! loss of the machine may cost, and `reprise status` says up to where the bucket has it. In a bucket log every event is
//! there before it is acknowledged; here its slots become segments. Errors are said once and tried again. What the bucket does
//! not take of a local log is counted: `/health` speaks of it early, and beyond `limits.unarchived_bytes_max` nothing more is
//! taken from clients, before their bodies are read, until the bucket has taken it; what was acknowledged stays, reads go on.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use reprise_engine::{
    Result,
    archive::{Archived, Archiver},
    id::Position,
};

use crate::hub::{Hub, HubError};

/// What of a local log the bucket has not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unarchived {
    /// Events.
    pub events: u64,
    /// Bytes of log, to the segment.
    pub bytes: u64,
    /// For how long the bucket has taken nothing.
    pub age: Duration,
}

/// How much that is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backlog {
    /// What it always is.
    Usual,
    /// More: in words.
    Late(String),
    /// Nothing more is taken: in words.
    Full(String),
}

/// Since when the log is ahead of the bucket.
#[derive(Default)]
pub struct Watch(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// The bucket was asked how much it has.
    asked: bool,
    /// Up to where it has the log, and since when that is less than all.
    waiting: Option<(Position, Instant)>,
}

impl Unarchived {
    /// Judges it by the limit on bytes.
    pub fn judge(&self, bytes_max: u64) -> Backlog {
        let Unarchived { events, bytes, age } = *self;
        let said = format!(
            "the bucket has not taken {bytes} bytes of the log ({events} events), and nothing for {} s",
            age.as_secs()
        );
        if bytes > bytes_max {
            return Backlog::Full(format!(
                "{said}; the limit unarchived_bytes_max is {bytes_max}: nothing more is taken until the bucket has taken that"
            ));
        }
        match bytes > bytes_max / LATE_PART || age > LATE_AFTER {
            true => Backlog::Late(format!("{said}; at {bytes_max} bytes nothing more is taken")),
            false => Backlog::Usual,
        }
    }
}

impl Hub {
    /// What of a local log the bucket has not, as far as it was asked; `None` without a bucket or in a bucket log.
    pub fn unarchived(&self) -> Option<Unarchived> {
        if !self.archiving || self.shared {
            return None;
        }
        let seen = self.archived.seen();
        // Before the bucket was asked, what was there at the opening counts as taken.
        let opened = self.opened.as_ref().map(|report| report.durable.position).unwrap_or_default();
        let archived = if seen.asked { self.engine.archived() } else { opened };
        let age = seen.waiting.map(|(_, since)| since.elapsed()).unwrap_or_default();
        drop(seen);
        let events = self.engine.durable().position.0.saturating_sub(archived.0);
        Some(Unarchived { events, bytes: self.engine.bytes_after(archived), age })
    }

    /// How much that is.
    pub fn backlog(&self) -> Backlog {
        self.unarchived().map_or(Backlog::Usual, |unarchived| unarchived.judge(self.limits.unarchived_bytes_max))
    }

    /// `Unavailable` while nothing more is taken from clients.
    pub fn has_room_in_backlog(&self) -> std::result::Result<(), HubError> {
        match self.backlog() {
            Backlog::Full(text) => Err(HubError::Unavailable(text)),
            Backlog::Usual | Backlog::Late(_) => Ok(()),
        }
    }
}

impl Watch {
    /// The bucket has the log up to `archived`, the log goes on to `durable`. For how long that is so.
    fn sees(&self, archived: Position, durable: Position) -> Duration {
        let mut seen = self.seen();
        seen.asked = true;
        if archived == durable {
            seen.waiting = None;
            return Duration::ZERO;
        }
        match seen.waiting {
            Some((position, since)) if position == archived => since.elapsed(),
            _ => {
                seen.waiting = Some((archived, Instant::now()));
                Duration::ZERO
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Archives until the server closes, and then what is left. Blocking.
pub fn run(hub: &Arc<Hub>) {
    let mut keeper = Keeper { archiver: None, failing: false, shared: hub.shared };
    while !hub.is_closing() {
        let pause = keeper.turn(hub, false);
        let until = Instant::now() + pause;
        while Instant::now() < until && !hub.is_closing() {
            sleep(LOOK_EVERY);
        }
    }
}

/// Brings what is left of a local log, after the last event. Blocking, for a bounded time.
pub fn finish(hub: &Hub) {
    let mut keeper = Keeper { archiver: None, failing: false, shared: hub.shared };
    let until = Instant::now() + FINISH_WITHIN;
    while hub.engine.archived() < hub.engine.durable().position && Instant::now() < until {
        sleep(keeper.turn(hub, true).min(PAUSE_FAILED));
        if keeper.shared && !keeper.failing {
            // What is not sealed stands in its slots.
            break;
        }
    }
}

struct Keeper {
    archiver: Option<Archiver>,
    failing: bool,
    shared: bool,
}

impl Keeper {
    /// Does what is due; how long until the next turn.
    fn turn(&mut self, hub: &Hub, now: bool) -> Duration {
        match self.try_turn(hub, now) {
            Ok(Archived::Brought(position) | Archived::Found(position)) => {
                tracing::debug!(position = position.0, "the bucket has the log up to here");
                self.failing = false;
                Duration::ZERO
            }
            Ok(Archived::Idle) => {
                self.failing = false;
                PAUSE_IDLE
            }
            Err(error) => {
                if !self.failing {
                    tracing::warn!(%error, "the log is not brought into the bucket; tried again until it is");
                }
                self.failing = true;
                PAUSE_FAILED
            }
        }
    }

    fn try_turn(&mut self, hub: &Hub, now: bool) -> Result<Archived> {
        let archiver = match &mut self.archiver {
            Some(archiver) => archiver,
            none => none.insert(hub.engine.archiver()?),
        };
        let (archived, durable) = (archiver.position(), hub.engine.durable().position);
        let age = hub.archived.sees(archived, durable);
        if archived == durable {
            return Ok(Archived::Idle);
        }
        let waiting = archiver.waiting();
        let sealed = waiting > 0;
        // Whoever is refused for it does not wait for the usual time.
        let due = now || age >= SEAL_AFTER || hub.backlog() != Backlog::Usual;
        if !sealed && !self.shared && due {
            hub.engine.roll();
        }
        // Each server of a fleet has the same segment to bring: a moment of patience, and one of them has. Not when they pile up.
        if waiting == 1 && self.shared && !now && age < patience(hub) {
            return Ok(Archived::Idle);
        }
        archiver.step()
    }
}

/// Not the same on any two servers.
fn patience(hub: &Hub) -> Duration {
    let mut bytes = [0; 2];
    match hub.engine.random().fill(&mut bytes) {
        Ok(()) => Duration::from_millis(u64::from(u16::from_le_bytes(bytes)) % SHARED_PATIENCE_MS),
        Err(_) => Duration::ZERO,
    }
}

/// The stated loss bound of a local log, together with the size of its segments.
pub const SEAL_AFTER: Duration = Duration::from_secs(30);
/// Size of a local log's segments when there is a bucket.
pub const SEGMENT_BYTES: u64 = 8 << 20;
/// The bucket takes a segment every [`SEAL_AFTER`]: when it has taken none for this long, something is wrong.
const LATE_AFTER: Duration = Duration::from_secs(90);
/// A backlog of this part of what is allowed is told.
const LATE_PART: u64 = 4;
/// How long a close waits for the bucket.
const FINISH_WITHIN: Duration = Duration::from_secs(20);
const SHARED_PATIENCE_MS: u64 = 3_000;
const PAUSE_IDLE: Duration = Duration::from_millis(500);
const PAUSE_FAILED: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(bytes: u64, seconds: u64) -> Backlog {
        Unarchived { events: 7, bytes, age: Duration::from_secs(seconds) }.judge(1_000)
    }

    #[test]
    fn what_the_bucket_does_not_take_is_told_when_it_is_much_or_old_and_stops_pushes_beyond_the_limit() {
        assert_eq!(judged(250, 90), Backlog::Usual);
        for late in [judged(251, 0), judged(0, 91), judged(1_000, 0)] {
            assert!(matches!(&late, Backlog::Late(text) if text.contains("1000 bytes nothing more")), "{late:?}");
        }
        let full = judged(1_001, 5);
        let said = "has not taken 1001 bytes of the log (7 events), and nothing for 5 s; the limit unarchived_bytes_max is 1000";
        assert!(matches!(&full, Backlog::Full(text) if text.contains(said)), "{full:?}");
    }
}
