//! Verification and scrubbing: one walk over all that rests in the log, in the store and beside it.
//!
//! Always: the log from its first byte, then each pack that it names, its presence, size and table; with `deep` every byte of every
//! entry. Packs are read in the store itself, never in copies of it. Damage is named (file, pack, object). Damage that nobody
//! meets any more (its rows are condemned and the objects are elsewhere, or their repository is gone) is reported as healed; rows
//! that are condemned and nowhere else are damage, whatever their bytes are now. What only could not be read ends the walk
//! with that error. A verification changes nothing.
//!
//! A [`Scrub`] is deep, keeps to a rate, goes on where it was stopped (`cursor`), and reads the bucket's segments and the local copies
//! too. It puts nothing anywhere but bytes that prove themselves (`mend`), and condemns what nothing can make whole.

use std::{sync::Arc, time::Duration};

use reprise_engine::{
    Error, ErrorKind,
    engine::{ReadOnly, Tail},
    id::Position,
    store::ObjectStore,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::{cursor::Cursor, named::Named};
use crate::hub::{Hub, HubError, scrub};

mod cursor;
mod mend;
mod named;
mod packs;
mod rest;

/// What is to be done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Orders {
    /// Read every byte of every pack.
    pub deep: bool,
    /// Everything, at a pace, and heal.
    pub scrub: Option<Scrub>,
}

/// How to scrub.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scrub {
    /// Bytes per second, on average over what was read; `None`: as fast as it goes.
    pub rate: Option<u64>,
    /// Replace damaged keys of a bucket too, from bytes that prove themselves; what stood there is kept.
    pub repair: bool,
    /// Begin anew instead of where the last one stopped.
    pub restart: bool,
}

/// What was met. A scrub that goes on adds to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Found {
    packs: u64,
    segments: u64,
    copies: u64,
    bytes: u64,
    damaged: u64,
    healed: u64,
    repaired: u64,
    condemned: u64,
}

/// A walk under way.
struct Walk<'a> {
    hub: &'a Hub,
    orders: Orders,
    say: &'a mut dyn FnMut(Value) -> bool,
    /// Where packs are judged.
    store: Arc<dyn ObjectStore>,
    named: Named,
    found: Found,
    /// Damage of the log among it: every run reads all of the log, so the next one meets it again.
    in_log: u64,
    /// Where a scrub is.
    cursor: Option<Cursor>,
    /// Bytes that the rest of the walk reads, as far as that is known.
    ahead: u64,
    /// Bytes that this run has read, and since when.
    read: (u64, Instant),
    told: Instant,
    /// Nobody listens any more, or the server closes.
    ended: bool,
}

/// Does what is ordered; `say` takes each line and answers false when nobody listens. Blocking.
pub fn run(hub: &Hub, orders: Orders, say: &mut dyn FnMut(Value) -> bool) -> Result<(), HubError> {
    let cursor = orders.scrub.map(|scrub| Cursor::begin(hub, scrub.restart)).transpose()?;
    let found = cursor.as_ref().map(|cursor| cursor.found).unwrap_or_default();
    let (read, told) = ((0, Instant::now()), Instant::now());
    let (named, store) = (Named::default(), hub.engine.store_itself());
    let mut walk =
        Walk { hub, orders, say, store, named, found, in_log: 0, cursor, ahead: 0, read, told, ended: false };
    let walked = walk.all();
    let left = walk.leave(walked.is_ok());
    walked.and(left)
}

impl Walk<'_> {
    fn all(&mut self) -> Result<(), HubError> {
        let whole = self.log()?;
        if self.orders.scrub.is_some() {
            self.measure()?;
            // What is damaged here proves nothing about what is there.
            if whole {
                self.archived()?;
            }
        }
        // What stands behind damage names packs too, but nobody can read which.
        self.packs()?;
        if self.orders.scrub.is_some() {
            self.copies()?;
        }
        if self.ended {
            return Ok(());
        }
        let Found { packs, segments, copies, bytes, damaged, healed, repaired, condemned } = self.found;
        let mut result = json!({
            "ok": damaged == 0, "deep": self.orders.deep, "events": self.named.read.0,
            "packs": packs, "bytes": bytes, "damaged": damaged, "healed": healed,
        });
        if self.orders.scrub.is_some() {
            result["segments"] = segments.into();
            result["copies"] = copies.into();
            result["repaired"] = repaired.into();
            result["condemned"] = condemned.into();
        }
        self.tell(json!({"result": result}));
        Ok(())
    }

    /// Reads every event; whether all of it is sound.
    fn log(&mut self) -> Result<bool, HubError> {
        let at_opening = damaged_at_opening(self.hub);
        let before = self.found.damaged;
        if let Some(damage) = &at_opening {
            self.found_in_log(damage.clone());
        }
        match self.scan() {
            Ok(()) => {}
            Err(error) if error.is_corrupt() => {
                let met = damage_of(&error);
                let place = |damage: &Value| (damage["file"].clone(), damage["offset"].clone());
                if at_opening.as_ref().map(place) != Some(place(&met)) {
                    self.found_in_log(met);
                }
            }
            Err(error) => return Err(error.into()),
        }
        // What somebody else met, and is not one of these: by now the file may read as it should.
        if let Some(ReadOnly::Damaged(why)) = self.hub.engine.read_only()
            && self.found.damaged == before
        {
            self.found_in_log(json!({"what": "log", "detail": why}));
        }
        Ok(self.found.damaged == before)
    }

    fn scan(&mut self) -> reprise_engine::Result<()> {
        let end = self.hub.engine.durable().position;
        let mut said = Position::ZERO;
        for segment in self.hub.engine.segments() {
            scrub::segment(self.hub, segment.first, &mut |group| {
                group.events.iter().filter(|event| event.position <= end).for_each(|event| self.named.take(event));
                let at = self.named.read;
                if at.0 - said.0 >= EVENTS_PER_LINE || at >= end {
                    said = at;
                    self.tell(json!({"progress": {"what": "log", "done": at.0, "total": end.0}}));
                }
                !self.ended
            })?;
        }
        if self.named.read < end && !self.ended {
            let text = format!("the log gives no event after {}, its end is {end}", self.named.read);
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        Ok(())
    }

    /// Says a line.
    fn tell(&mut self, line: Value) {
        self.told = Instant::now();
        self.ended |= !(self.say)(line) || self.hub.is_closing();
    }

    /// Counts a finding and says it.
    fn found(&mut self, healed: bool, what: Value) {
        let (count, name) = match healed {
            true => (&mut self.found.healed, "healed"),
            false => (&mut self.found.damaged, "damaged"),
        };
        *count += 1;
        self.tell(json!({name: what}));
    }

    fn found_in_log(&mut self, what: Value) {
        self.in_log += 1;
        self.found(false, what);
    }

    /// What a run that goes on adds to.
    fn kept(&self) -> Found {
        Found { damaged: self.found.damaged - self.in_log, ..self.found }
    }

    /// Whether the thing `name` of a stage was dealt with by the run before this one.
    fn is_past(&self, stage: cursor::Stage, name: &str) -> bool {
        self.cursor.as_ref().is_some_and(|cursor| cursor.is_past(stage, name))
    }

    /// The thing `name` of a stage is dealt with, and took so many bytes. Says so, and keeps to the rate.
    fn past(&mut self, stage: cursor::Stage, name: &str, bytes: u64) -> Result<(), HubError> {
        self.found.bytes += bytes;
        self.read.0 += bytes;
        self.ahead = self.ahead.saturating_sub(bytes);
        let kept = self.kept();
        let Some(cursor) = &mut self.cursor else { return Ok(()) };
        cursor.move_to(self.hub, stage, name, kept)?;
        self.progress(stage.what());
        let Some(rate) = self.orders.scrub.and_then(|scrub| scrub.rate) else { return Ok(()) };
        #[allow(clippy::cast_precision_loss, reason = "a pause")]
        let due = Duration::from_secs_f64(self.read.0 as f64 / rate as f64);
        while !self.ended && self.read.1.elapsed() < due {
            std::thread::sleep((due - self.read.1.elapsed().min(due)).min(PAUSE));
            if self.told.elapsed() > TELL_EVERY || self.hub.is_closing() {
                self.progress(stage.what());
            }
        }
        Ok(())
    }

    fn progress(&mut self, what: &str) {
        let seconds = self.read.1.elapsed().as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let rate = self.read.0 as f64 / seconds.max(0.001);
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let eta = self.ahead as f64 / rate.max(1.0);
        self.tell(json!({"progress": {
            "what": what, "done": self.read.0, "total": self.read.0 + self.ahead,
            "per_second": rate.round(), "eta_seconds": eta.round(),
        }}));
    }

    /// Leaves the cursor for the next run, or takes it away when there is nothing to go on with.
    fn leave(&mut self, well: bool) -> Result<(), HubError> {
        let kept = self.kept();
        match &mut self.cursor {
            None => Ok(()),
            Some(cursor) if well && !self.ended => cursor.end(self.hub),
            Some(cursor) => cursor.save(self.hub, kept),
        }
    }
}

/// What opening found wrong with the log: behind that point nothing can be scanned.
fn damaged_at_opening(hub: &Hub) -> Option<Value> {
    let Tail::Damaged { file, offset, message } = &hub.opened.as_ref()?.tail else { return None };
    Some(
        json!({"what": "log", "file": file, "offset": offset, "detail": format!("{file} at byte {offset}: {message}; ask `reprise doctor`")}),
    )
}

fn damage_of(error: &Error) -> Value {
    let detail = format!("{error}; ask `reprise doctor`");
    json!({"what": "log", "file": error.file(), "offset": error.offset(), "detail": detail})
}

/// Events between two progress lines.
const EVENTS_PER_LINE: u64 = 10_000;
/// A pause is slept in pieces of this: whoever waits for the end of the walk waits no longer.
const PAUSE: Duration = Duration::from_millis(50);
/// A line at least this often while it pauses.
const TELL_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use super::*;
    use crate::hub::{Caller, Limits, lifecycle::Directory, repos::NewRepo};

    #[tokio::test(flavor = "multi_thread")]
    async fn damage_of_the_log_counts_once_however_often_its_scrub_was_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let (data, limits) = (dir.path().to_owned(), Limits::default());
        let directory = Directory { data, limits, create_on_push: None, holder: "a test".to_owned(), bucket: None };
        let hub = Hub::open(directory).unwrap();
        hub.create_repo(&Caller::Operator, NewRepo::named("alice", "etude")).await.unwrap();
        let segment = dir.path().join("log").join("seg-00000000000000000001.log");
        let mut bytes = std::fs::read(&segment).unwrap();
        let frame = bytes.iter().skip(4_096).position(|byte| *byte != 0).unwrap() + 4_096;
        bytes[frame + 100] ^= 1;
        std::fs::write(&segment, &bytes).unwrap();
        let orders = Orders { deep: true, scrub: Some(Scrub::default()) };
        for _ in 0..3 {
            run(&hub, orders, &mut |_| false).unwrap();
        }
        let mut last = Value::Null;
        run(&hub, orders, &mut |line| {
            last = line;
            true
        })
        .unwrap();
        assert_eq!(last["result"]["damaged"], 1, "{last}");
    }
}
