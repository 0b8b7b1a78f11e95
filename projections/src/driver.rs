//! The threads of the projections: they only drive the projector and the flush.
//!
//! Invariants: a group is folded as soon as it is durable; flushing happens on its own thread, never on the way of a push;
//! a store that failed is given up before anything else and built again; a log that cannot be read stops folding and says
//! so, while reads go on. Idle means: one wake-up per [`IDLE_WAIT`], no file touched.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError, TryLockError},
    thread::JoinHandle,
    time::Duration,
};

use reprise_engine::{Error, ErrorKind, Result};

use crate::{
    opening::{Found, Live},
    projections::Checkpoint,
    projector::{Input, Output, Projector},
    rebuild::RebuildOptions,
    shared::{Inner, State, Unflushed},
    source::Groups,
    switch,
};

/// Starts a thread that drives one of the loops below.
pub(crate) fn spawn(name: &str, inner: &Arc<Inner>, run: fn(&Inner)) -> Result<JoinHandle<()>> {
    let inner = Arc::clone(inner);
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&inner));
    spawned.map_err(|error| Error::io("start a thread", name, error))
}

/// The projector's thread: establish a store, follow the log; when the store fails, again.
pub(crate) fn project(inner: &Inner) {
    let mut start = Start { swept: false, lost: None };
    while !inner.stopping() {
        let run = || {
            let (live, from) = establish(inner, &mut start)?;
            follow(inner, live, from)
        };
        let panicked = || Err(Error::new(ErrorKind::Unavailable, "the projector panicked"));
        let Err(error) = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| panicked()) else { return };
        if inner.stopping() {
            // Whatever was under way was told to end.
            return;
        }
        tracing::error!(%error, "the projections failed and are built again");
        let failures = give_up(inner, &error);
        start.lost = Some(error.to_string());
        if inner.pause(BACKOFF_BASE * 2u32.pow(failures.min(BACKOFF_DOUBLINGS))) {
            return;
        }
    }
}

/// How the projector starts.
struct Start {
    /// True once what earlier processes left is removed. Later, other generations are being read or built.
    swept: bool,
    /// Why the live generation was given up.
    lost: Option<String>,
}

/// From here on no flush, no shutdown and no restart takes the live generation for a good one. Reads go on. Returns how many
/// failures this makes.
fn give_up(inner: &Inner, error: &Error) -> u32 {
    inner.tell(State::Stopped, &error.to_string());
    let _flushing = inner.flushing.lock().unwrap_or_else(PoisonError::into_inner);
    let (live, failures) = {
        let mut shared = inner.shared();
        shared.failures = shared.failures.saturating_add(1);
        (shared.live.take(), shared.failures)
    };
    if let Some(live) = live {
        live.discard();
    }
    if let Some(Err(error)) = inner.home.as_ref().map(|home| home.forget()) {
        // The generation has no flush record any more: the next start does not believe it either.
        tracing::warn!(%error, "CURRENT could not be removed");
    }
    failures
}

/// Opens the live generation or builds one.
fn establish(inner: &Inner, start: &mut Start) -> Result<(Arc<Live>, Checkpoint)> {
    let _building = inner.building.lock().unwrap_or_else(PoisonError::into_inner);
    let found = match (&inner.home, start.lost.take()) {
        (None, reason) => rebuild_because(reason.unwrap_or_default()),
        (Some(home), Some(reason)) => {
            home.forget()?;
            rebuild_because(reason)
        }
        (Some(home), None) => home.open(inner.source())?,
    };
    let losses = inner.home.as_ref().map_or(Ok(Vec::new()), |home| home.losses(inner.source()))?;
    inner.shared().possible_loss |= !losses.is_empty();
    match found {
        Found::Good { live, from, note } => {
            sweep(inner, start, Some(&live.name))?;
            let live = Arc::new(live);
            let mut shared = inner.shared();
            shared.reason = told(losses, note);
            shared.unchecked = Some(Arc::clone(&live));
            drop(shared);
            inner.flush_wanted.notify_all();
            Ok((live, from))
        }
        Found::Rebuild { reason, possible_loss, outdated } => {
            sweep(inner, start, None)?;
            inner.shared().possible_loss |= possible_loss;
            inner.tell(State::Rebuilding, &reason);
            let stop = || inner.stopping();
            let options = RebuildOptions::default();
            let built = switch::build(inner, &options, inner.durable(), (outdated, &stop), &|_| {})?;
            let note = if reason.is_empty() { reason } else { format!("rebuilt because {reason}") };
            inner.tell(State::Running, &told(losses, note));
            let at = built.at;
            Ok((built.keep_as_current()?, at))
        }
    }
}

/// What people are told: also of losses that were found by earlier starts.
fn told(mut losses: Vec<String>, note: String) -> String {
    losses.retain(|loss| !note.contains(loss));
    losses.extend((!note.is_empty()).then_some(note));
    losses.join("; ")
}

fn rebuild_because(reason: String) -> Found {
    Found::Rebuild { reason, possible_loss: false, outdated: false }
}

fn sweep(inner: &Inner, start: &mut Start, live: Option<&str>) -> Result<()> {
    if let Some(home) = inner.home.as_ref().filter(|_| !start.swept) {
        home.sweep(live)?;
    }
    start.swept = true;
    Ok(())
}

/// Folds what the log brings until told to stop. An error means that the store is not to be trusted any more.
fn follow(inner: &Inner, mut live: Arc<Live>, from: Checkpoint) -> Result<()> {
    let _following = switch::Following { inner };
    inner.take_over(&live, from)?;
    let mut projector = Projector::new(Arc::clone(&live.store), from);
    let mut groups: Option<Box<dyn Groups>> = None;
    while !inner.stopping() {
        if switch::take(inner, &mut live, &mut projector) {
            groups = None;
        }
        check_damage(inner, &live)?;
        let next = match &mut groups {
            Some(groups) => groups.next(IDLE_WAIT),
            None => inner.source.follow(projector.folded().position.next()).map(|opened| {
                groups = Some(opened);
                None
            }),
        };
        match next {
            Ok(None) => {}
            Ok(Some(group)) => {
                let mut at_hand = Some(group);
                while let (Some(group), Some(groups)) = (at_hand.take(), &mut groups) {
                    inner.shared().pending_ms.get_or_insert(group.events.first().map_or(0, |event| event.time_ms));
                    if let folded @ Output::Folded { .. } = projector.step(Input::Group(group))? {
                        publish(inner, &live, folded)?;
                        break;
                    }
                    at_hand = groups.next(Duration::ZERO).unwrap_or(None);
                }
                publish(inner, &live, projector.step(Input::CaughtUp)?)?;
            }
            Err(error) => {
                // The log cannot be read here: nothing is lost by trying again, and reads go on.
                let before = inner.shared().reason.clone();
                inner.tell(State::Stopped, &error.to_string());
                groups = None;
                inner.pause(LOG_RETRY);
                inner.tell(State::Running, &before);
            }
        }
    }
    Ok(())
}

/// An error if the live store is damaged. A running rebuild is let come to its end first: it may be about to replace it.
fn check_damage(inner: &Inner, live: &Live) -> Result<()> {
    let Some(damage) = live.store.damage() else { return Ok(()) };
    if let Err(TryLockError::WouldBlock) = inner.building.try_lock() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, format!("generation {} is damaged: {damage}", live.name)))
}

fn publish(inner: &Inner, live: &Arc<Live>, output: Output) -> Result<()> {
    let Output::Folded { checkpoint, changes, bytes, changes_parked } = output else { return Ok(()) };
    inner.publish(live, checkpoint, changes_parked)?;
    let mut shared = inner.shared();
    shared.folded_ms = inner.source.now_ms();
    let first = shared.unflushed.changes == 0;
    shared.unflushed.changes += changes.max(1);
    shared.unflushed.bytes += bytes;
    let due = shared.unflushed.is_due();
    drop(shared);
    if first || due {
        inner.flush_wanted.notify_all();
    }
    Ok(())
}

/// The flush thread: after so much work, or a while after the first of it. First it looks at what was opened: every table
/// is read once, without holding anything up but flushes.
pub(crate) fn flush_now_and_then(inner: &Inner) {
    loop {
        let mut shared = inner.shared();
        while shared.unflushed.changes == 0 && shared.unchecked.is_none() && !shared.stop {
            shared = inner.flush_wanted.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(opened) = shared.unchecked.take() {
            drop(shared);
            opened.store.check(&|| inner.stopping());
            continue;
        }
        let early = |shared: &mut crate::shared::Shared| !shared.stop && !shared.unflushed.is_due();
        let waited = inner.flush_wanted.wait_timeout_while(shared, FLUSH_IDLE, early);
        let (mut shared, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if shared.stop {
            return;
        }
        shared.unflushed = Unflushed::default();
        drop(shared);
        if let Err(error) = flush_once(inner) {
            // The last flush record still holds; the next work asks for the next flush.
            tracing::warn!(%error, "the projections could not be flushed");
        }
    }
}

fn flush_once(inner: &Inner) -> Result<()> {
    let _flushing = inner.flushing.lock().unwrap_or_else(PoisonError::into_inner);
    let (live, folded) = {
        let shared = inner.shared();
        (shared.live.clone(), shared.folded)
    };
    let Some(live) = live else { return Ok(()) };
    live.flush(folded)?;
    inner.shared().failures = 0;
    Ok(())
}

const IDLE_WAIT: Duration = Duration::from_millis(100);
const LOG_RETRY: Duration = Duration::from_secs(1);
const BACKOFF_BASE: Duration = Duration::from_millis(250);
const BACKOFF_DOUBLINGS: u32 = 7;
const FLUSH_IDLE: Duration = Duration::from_secs(5);
