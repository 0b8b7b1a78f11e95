//! Bringing the log into the bucket, beside everything else, while a server runs.
//!
//! A local log's segment is ended and brought once it is full (8 MiB) or its oldest event is 30 seconds old: that is what the
//! loss of the machine may cost, and `reprise status` says up to where the bucket has it. In a bucket log every event is
//! there before it is acknowledged; here its slots become segments. Errors are said once and tried again; more than
//! `BACKLOG_BYTES_MAX` of unbrought log makes `/health` red.

use std::{
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use reprise_engine::{
    Result,
    archive::{Archived, Archiver},
    id::Position,
};

use crate::hub::Hub;

/// Archives until the server closes, and then what is left. Blocking.
pub fn run(hub: &Arc<Hub>) {
    let mut keeper = Keeper { archiver: None, waiting: None, failing: false, shared: hub.shared };
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
    let mut keeper = Keeper { archiver: None, waiting: None, failing: false, shared: hub.shared };
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
    /// Since when the log is ahead of the bucket, and from which position on.
    waiting: Option<(Position, Instant)>,
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
        if archived == durable {
            self.waiting = None;
            return Ok(Archived::Idle);
        }
        let since = match self.waiting {
            Some((position, since)) if position == archived => since,
            _ => self.waiting.insert((archived, Instant::now())).1,
        };
        let sealed = archiver.next().is_some();
        if !sealed && !self.shared && (now || since.elapsed() >= SEAL_AFTER) {
            hub.engine.roll();
        }
        // Each server of a fleet has the same segment to bring: a moment of patience, and one of them has.
        if sealed && self.shared && !now && since.elapsed() < patience(hub) {
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
/// How long a close waits for the bucket.
const FINISH_WITHIN: Duration = Duration::from_secs(20);
const SHARED_PATIENCE_MS: u64 = 3_000;
const PAUSE_IDLE: Duration = Duration::from_millis(500);
const PAUSE_FAILED: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);
