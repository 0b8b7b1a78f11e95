//! A new generation: built beside whatever serves, handed to the projector, put in the live one's place.
//!
//! Invariants: one generation is built at a time; what was built is kept by exactly one call or discarded, on every way
//! out; the projector takes a switch only while it follows the log, and whoever waits for one always hears how it ended;
//! a switch that fails leaves the live generation as it was.

use std::{
    sync::{
        Arc, PoisonError, TryLockError,
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use reprise_engine::{Error, ErrorKind, Result, id::Position};

use crate::{
    digest::{self, Digest},
    opening::Live,
    projections::Checkpoint,
    projector::{Input, Projector},
    rebuild::{self, Listener, RebuildOptions, RebuildReport, Target},
    shared::Inner,
    source::Source,
    store::Batch,
    view::View,
};

/// A generation that nothing serves yet. Discarded when dropped.
pub(crate) struct Built {
    pub(crate) at: Checkpoint,
    live: Arc<Live>,
    digest: Digest,
    kept: bool,
}

/// A new generation that waits to take the live one's place. Whoever waits for the answer also hears that it was dropped.
pub(crate) struct Switch {
    built: Built,
    answer: SyncSender<Result<()>>,
}

/// Lives while the projector follows the log; its end refuses a switch that still waits.
pub(crate) struct Following<'a> {
    pub(crate) inner: &'a Inner,
}

impl Built {
    /// Makes it the generation that the next start opens, and keeps it.
    pub(crate) fn keep_as_current(mut self) -> Result<Arc<Live>> {
        self.live.make_current()?;
        self.kept = true;
        Ok(Arc::clone(&self.live))
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        if !self.kept {
            self.live.discard();
        }
    }
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        let left = {
            let mut shared = self.inner.shared();
            shared.following = false;
            shared.switch.take()
        };
        // Outside the lock: it removes a directory and answers whoever waits.
        drop(left);
    }
}

/// Builds a new generation up to `until`: rows, then checkpoint, then the record of its flush. With `twice` a second build
/// must agree.
pub(crate) fn build(
    inner: &Inner,
    options: &RebuildOptions,
    until: Checkpoint,
    (twice, stop): (bool, &(dyn Fn() -> bool + Sync)),
    progress: Listener<'_>,
) -> Result<Built> {
    let live = match &inner.home {
        Some(home) => home.create()?,
        None => Live::in_memory(),
    };
    let mut built = Built { at: until, live: Arc::new(live), digest: Digest::empty(until.position), kept: false };
    let digest = load(inner, options, &built, (twice, stop), progress);
    inner.shared().rebuild = None;
    built.digest = digest?;
    Ok(built)
}

fn load(
    inner: &Inner,
    options: &RebuildOptions,
    built: &Built,
    (twice, stop): (bool, &(dyn Fn() -> bool + Sync)),
    progress: Listener<'_>,
) -> Result<Digest> {
    let Built { at: until, live, .. } = built;
    let spill = inner.home.as_ref().map(|home| (Arc::clone(&home.disk), format!("{}/", live.name)));
    let listener = |told: rebuild::RebuildProgress| {
        inner.shared().rebuild = Some((told.events_done, told.events_total));
        progress(told);
    };
    let target = Target { store: Some(&*live.store), spill: spill.clone(), stop };
    let digest = rebuild::build(inner.source(), *until, &target, options, &listener)?;
    if twice {
        // Other stretches, other runs: the second build shares no state with the first.
        let options = RebuildOptions { readers: 1, ..options.clone() };
        let target = Target { store: None, spill, stop };
        let again = rebuild::build(inner.source(), *until, &target, &options, &listener)?;
        if again != digest {
            let text = format!("two builds of the projections differ: {digest} and {again}");
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
    }
    live.store.apply(&Batch::new(), Some(*until))?;
    live.flush(*until)?;
    Ok(digest)
}

/// Builds a new generation on the caller's thread, compares it with the live one, hands it to the projector.
#[allow(clippy::disallowed_methods, reason = "the report tells people how long it took; nothing is decided by it")]
pub(crate) fn rebuild(inner: &Inner, options: &RebuildOptions, progress: Listener<'_>) -> Result<RebuildReport> {
    let busy = || Error::new(ErrorKind::Busy(Duration::from_secs(1)), "the projections are already being built");
    let _building = match inner.building.try_lock() {
        Ok(building) => building,
        Err(TryLockError::Poisoned(building)) => building.into_inner(),
        Err(TryLockError::WouldBlock) => return Err(busy()),
    };
    if !inner.shared().following {
        return Err(busy());
    }
    let started = Instant::now();
    let view = inner.view();
    let comparable = !options.live_is_bad && view.parked().is_ok();
    let until = if comparable { view.checkpoint() } else { inner.durable() };
    // The projector builds by itself when the live generation fails: this build gives way.
    let stop = || {
        let shared = inner.shared();
        shared.stop || !shared.following
    };
    let built = build(inner, options, until, (false, &stop), progress)?;
    let build_seconds = started.elapsed().as_secs_f64();
    // Of what is stored, not of what was on its way into the store.
    let stored = digest::of_snapshot(&*built.live.store.snapshot()?, until.position)?;
    if stored != built.digest {
        let text = format!("the new generation holds {stored} instead of {}", built.digest);
        return Err(Error::new(ErrorKind::Unavailable, text));
    }
    let live_digest = if comparable { digest_of_live(&view) } else { None };
    drop(view);
    let mut report = RebuildReport {
        generation: built.live.name.clone(),
        position: until.position,
        events: until.position.0,
        rows: built.digest.rows(),
        digest: built.digest.clone(),
        live_digest,
        switched: false,
        build_seconds,
        seconds: 0.0,
    };
    report.switched = report.live_digest.as_ref().is_none_or(|live| *live == report.digest);
    if report.switched {
        hand_over(inner, built)?;
    } else {
        inner.shared().reason = format!(
            "the live projections are not what the log says at {}: {} instead of {}; to replace \
             them, stop the hub, remove CURRENT from the index, start it",
            until.position,
            report.live_digest.as_ref().map_or(String::new(), Digest::overall),
            report.digest.overall(),
        );
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// The live generation's digest; `None` if it cannot even be read, which is known bad.
fn digest_of_live(view: &View) -> Option<Digest> {
    let digest = view.digest();
    digest.inspect_err(|error| tracing::error!(%error, "the live projections cannot be read: they are replaced")).ok()
}

/// Gives the new generation to the projector and waits until it has taken or refused it.
fn hand_over(inner: &Inner, mut built: Built) -> Result<()> {
    let ended = || Error::new(ErrorKind::Unavailable, "the projector stopped before the new generation took over");
    let mut projector = Projector::new(Arc::clone(&built.live.store), built.at);
    fold_until(inner.source(), &mut projector, inner.folded().position)?;
    built.at = projector.folded();
    let (answer, answered) = sync_channel(1);
    {
        let mut shared = inner.shared();
        if !shared.following {
            return Err(ended());
        }
        shared.switch = Some(Switch { built, answer });
    }
    answered.recv().unwrap_or_else(|_| Err(ended()))
}

/// The projector's part: true if another generation is live now.
pub(crate) fn take(inner: &Inner, live: &mut Arc<Live>, projector: &mut Projector) -> bool {
    let Some(Switch { built, answer }) = inner.shared().switch.take() else { return false };
    let ended = switch_over(inner, built, live, projector.folded().position);
    let taken = ended.map(|(new, following)| {
        std::mem::replace(live, new).discard();
        *projector = following;
    });
    let switched = taken.is_ok();
    if answer.send(taken).is_err() {
        tracing::debug!("nobody waits for the new generation any more");
    }
    switched
}

/// Brings the new generation to where the live one is, then puts it in its place.
fn switch_over(inner: &Inner, built: Built, old: &Live, folded: Position) -> Result<(Arc<Live>, Projector)> {
    let mut projector = Projector::new(Arc::clone(&built.live.store), built.at);
    fold_until(inner.source(), &mut projector, folded)?;
    let _flushing = inner.flushing.lock().unwrap_or_else(PoisonError::into_inner);
    let new = Arc::clone(&built.live);
    let taken = built.keep_as_current().and_then(|_| inner.take_over(&new, projector.folded()));
    if let Err(error) = taken {
        new.discard();
        // Whatever CURRENT names now: a generation without a flush record is not believed.
        if let Err(error) = old.make_current() {
            tracing::warn!(%error, "CURRENT could not be set back; the next start rebuilds");
        }
        return Err(error);
    }
    Ok((new, projector))
}

fn fold_until(source: &dyn Source, projector: &mut Projector, position: Position) -> Result<()> {
    if projector.folded().position >= position {
        return Ok(());
    }
    let mut groups = source.follow(projector.folded().position.next())?;
    let mut taken = projector.folded().position;
    while taken < position {
        let Some(group) = groups.next(LOG_WAIT)? else {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("the log does not give the event at {}", taken.next()),
            ));
        };
        taken = group.events.last().map_or(taken, |event| event.position);
        projector.step(Input::Group(group))?;
    }
    projector.step(Input::CaughtUp).map(|_| ())
}

const LOG_WAIT: Duration = Duration::from_secs(10);
