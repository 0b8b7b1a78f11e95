//! The threads of the projections and what they share: they only drive the projector, the flush and a rebuild.
//!
//! Invariants: a group is folded as soon as it is durable; flushing happens on its own thread, never on the way of a push;
//! a store that failed is thrown away and built again; a log that cannot be read stops folding and says so, while
//! reads go on. Idle means: one wake-up per [`IDLE_WAIT`], no file touched.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use reprise_engine::{Error, ErrorKind, Result, id::Position};

use crate::{
    digest::Digest,
    models::parked,
    opening::{Found, Home, Live},
    projections::{Checkpoint, Lag, Options, Status},
    projector::{Input, Output, Projector},
    rebuild::{self, Listener, RebuildOptions, RebuildReport, Target},
    source::{Groups, Source},
    store::{Batch, fjall::Memory},
    view::{Parked, View},
};

/// What the threads and the handles share.
pub(crate) struct Inner {
    source: Arc<dyn Source>,
    home: Option<Home>,
    shared: Mutex<Shared>,
    changed: Condvar,
    /// One flush at a time; what it flushes cannot be switched away meanwhile.
    flushing: Mutex<()>,
    flush_wanted: Condvar,
    rebuilding: Mutex<()>,
}

struct Shared {
    view: View,
    /// What waiters may rely on: the view in place shows it.
    served: Option<Checkpoint>,
    /// How far the live store is folded, served or not.
    folded: Checkpoint,
    /// Nothing is served before this is folded.
    gate: Position,
    live: Option<Arc<Live>>,
    parked: Parked,
    state: State,
    reason: String,
    possible_loss: bool,
    rebuild: Option<(u64, u64)>,
    waiters: BTreeMap<(Position, u64), Box<dyn FnOnce() + Send>>,
    waiter_count: u64,
    /// Time of the oldest event that is taken but not folded.
    pending_ms: Option<u64>,
    folded_ms: u64,
    switch: Option<Switch>,
    unflushed: Unflushed,
    stop: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Rebuilding,
    Stopped,
}

#[derive(Clone, Copy, Default)]
struct Unflushed {
    changes: usize,
    bytes: usize,
}

/// A new generation that waits to take the live one's place.
struct Switch {
    live: Arc<Live>,
    at: Checkpoint,
}

impl Inner {
    pub(crate) fn new(source: Arc<dyn Source>, options: Options) -> Result<Inner> {
        let memory = Memory { cache_bytes: options.cache_bytes, memtable_bytes: options.memtable_bytes };
        let home = options.dir.map(|root| Home::new(root, memory)).transpose()?;
        let shared = Shared {
            view: View::unavailable("the projections are being opened"),
            served: None,
            folded: Checkpoint::START,
            gate: source.durable().position,
            live: None,
            parked: Parked::default(),
            state: State::Running,
            reason: String::new(),
            possible_loss: false,
            rebuild: None,
            waiters: BTreeMap::new(),
            waiter_count: 0,
            pending_ms: None,
            folded_ms: 0,
            switch: None,
            unflushed: Unflushed::default(),
            stop: false,
        };
        Ok(Inner {
            source,
            home,
            shared: Mutex::new(shared),
            changed: Condvar::new(),
            flushing: Mutex::new(()),
            flush_wanted: Condvar::new(),
            rebuilding: Mutex::new(()),
        })
    }

    pub(crate) fn source(&self) -> &dyn Source {
        &*self.source
    }

    pub(crate) fn view(&self) -> View {
        self.shared().view.clone()
    }

    pub(crate) fn folded(&self) -> Checkpoint {
        self.shared().folded
    }

    pub(crate) fn wait_served(&self, position: Position, wait: Duration) -> bool {
        let waiting = |shared: &mut Shared| !shared.stop && !shared.serves(position);
        let (shared, _) =
            self.changed.wait_timeout_while(self.shared(), wait, waiting).unwrap_or_else(PoisonError::into_inner);
        shared.serves(position)
    }

    pub(crate) fn when_served(&self, position: Position, then: Box<dyn FnOnce() + Send>) {
        {
            let mut shared = self.shared();
            if shared.stop {
                return;
            }
            if !shared.serves(position) {
                shared.waiter_count += 1;
                let key = (position, shared.waiter_count);
                shared.waiters.insert(key, then);
                return;
            }
        }
        then();
    }

    pub(crate) fn lag(&self) -> Lag {
        let durable = self.source.durable().position;
        let shared = self.shared();
        let events = durable.0.saturating_sub(shared.folded.position.0);
        if events == 0 {
            return Lag { events, seconds: 0.0 };
        }
        let since = shared.pending_ms.unwrap_or(shared.folded_ms);
        let age = self.source.now_ms().saturating_sub(since);
        Lag { events, seconds: Duration::from_millis(age).as_secs_f64() }
    }

    pub(crate) fn status(&self) -> Status {
        let durable = self.source.durable().position.0;
        let shared = self.shared();
        let state = match shared.state {
            State::Stopped => "stopped",
            State::Rebuilding => "rebuilding",
            State::Running if shared.served.is_none() || shared.folded.position < shared.gate => "catching-up",
            State::Running => "ready",
        };
        Status {
            generation: shared.live.as_ref().map_or(String::new(), |live| live.name.clone()),
            position: shared.folded.position.0,
            durable,
            state: state.to_owned(),
            reason: shared.reason.clone(),
            parked: shared.parked.len() as u64,
            possible_loss: shared.possible_loss,
            rebuild_done: shared.rebuild.map(|(done, _)| done),
            rebuild_total: shared.rebuild.map(|(_, total)| total),
        }
    }

    pub(crate) fn stop(&self) {
        let dropped = {
            let mut shared = self.shared();
            shared.stop = true;
            std::mem::take(&mut shared.waiters)
        };
        drop(dropped);
        self.changed.notify_all();
        self.flush_wanted.notify_all();
    }

    /// Lets go of the store; later reads say why.
    pub(crate) fn close(&self, reason: &str) {
        let (view, live) = {
            let mut shared = self.shared();
            shared.state = State::Stopped;
            shared.reason = reason.to_owned();
            let view = std::mem::replace(&mut shared.view, View::unavailable(reason));
            (view, (shared.live.take(), shared.switch.take()))
        };
        drop((view, live));
    }

    pub(crate) fn flush_and_mark_clean(&self) -> Result<()> {
        let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let (live, folded) = {
            let shared = self.shared();
            (shared.live.clone(), shared.folded)
        };
        let Some(live) = live else { return Ok(()) };
        live.flush(folded)?;
        live.mark_clean(folded)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.shared().stop
    }

    /// Waits unless the projections are to stop; true if they are.
    fn pause(&self, wait: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.shared(), wait, |shared| !shared.stop);
        waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }

    fn tell(&self, state: State, reason: &str) {
        let mut shared = self.shared();
        shared.state = state;
        shared.reason = reason.to_owned();
    }

    fn take_over(&self, live: &Arc<Live>, folded: Checkpoint) -> Result<()> {
        let snapshot = live.store.snapshot()?;
        let parked = Arc::new(parked::list(&*snapshot)?);
        {
            let mut shared = self.shared();
            shared.live = Some(Arc::clone(live));
            shared.folded = folded;
            shared.parked = parked;
            shared.state = State::Running;
            shared.rebuild = None;
        }
        self.publish(live, folded)
    }

    /// Shows what is folded now and wakes whoever waits for it.
    fn publish(&self, live: &Arc<Live>, folded: Checkpoint) -> Result<()> {
        let snapshot = live.store.snapshot()?;
        let (ready, old) = {
            let mut shared = self.shared();
            shared.folded = folded;
            shared.pending_ms = None;
            if folded.position < shared.gate {
                let text = format!("the projections are catching up: {} of {}", folded.position, shared.gate);
                let nothing_yet = shared.served.is_none();
                (Vec::new(), nothing_yet.then(|| std::mem::replace(&mut shared.view, View::unavailable(&text))))
            } else {
                let view = View::of(snapshot, Arc::clone(&shared.parked), folded);
                let old = std::mem::replace(&mut shared.view, view);
                shared.served = Some(folded);
                (shared.ready_waiters(), Some(old))
            }
        };
        // Outside the lock: the last reader of an old generation removes its directory.
        drop(old);
        self.changed.notify_all();
        for then in ready {
            then();
        }
        Ok(())
    }
}

impl Shared {
    fn serves(&self, position: Position) -> bool {
        self.served.is_some_and(|served| served.position >= position)
    }

    fn ready_waiters(&mut self) -> Vec<Box<dyn FnOnce() + Send>> {
        let folded = self.folded.position;
        let later = self.waiters.split_off(&(folded.next(), 0));
        std::mem::replace(&mut self.waiters, later).into_values().collect()
    }
}

/// Starts a thread that drives one of the loops below.
pub(crate) fn spawn(name: &str, inner: &Arc<Inner>, run: fn(&Inner)) -> Result<JoinHandle<()>> {
    let inner = Arc::clone(inner);
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&inner));
    spawned.map_err(|error| Error::io("start a thread", name, error))
}

/// The projector's thread: establish a store, follow the log; when the store fails, again.
pub(crate) fn project(inner: &Inner) {
    let mut failures = 0;
    let mut lost: Option<String> = None;
    while !inner.stopping() {
        let end = establish(inner, lost.take()).and_then(|(live, from)| {
            failures = 0;
            follow(inner, live, from)
        });
        let Err(error) = end else { return };
        tracing::error!(%error, "the projections failed and are built again");
        inner.tell(State::Stopped, &error.to_string());
        lost = Some(error.to_string());
        failures += 1;
        if inner.pause(BACKOFF_BASE * 2u32.pow(failures.min(BACKOFF_DOUBLINGS))) {
            return;
        }
    }
}

/// Opens the live generation or builds one.
fn establish(inner: &Inner, lost: Option<String>) -> Result<(Arc<Live>, Checkpoint)> {
    let found = match (&inner.home, lost) {
        (None, reason) => rebuild_because(reason.unwrap_or_default()),
        (Some(home), Some(reason)) => {
            discard_live(inner);
            home.forget()?;
            rebuild_because(reason)
        }
        (Some(home), None) => home.open(inner.source())?,
    };
    match found {
        Found::Good { live, from, note } => {
            if let Some(home) = &inner.home {
                home.sweep(Some(&live.name))?;
            }
            inner.shared().reason = note;
            Ok((Arc::new(live), from))
        }
        Found::Rebuild { reason, possible_loss, outdated } => {
            discard_live(inner);
            if let Some(home) = &inner.home {
                home.sweep(None)?;
            }
            inner.shared().possible_loss |= possible_loss;
            inner.tell(State::Rebuilding, &reason);
            let built = build_new(inner, &RebuildOptions::default(), inner.durable(), outdated, &|_| {})?;
            let told = if reason.is_empty() { reason } else { format!("rebuilt because {reason}") };
            inner.tell(State::Running, &told);
            built.live.make_current()?;
            Ok((built.live, built.at))
        }
    }
}

fn rebuild_because(reason: String) -> Found {
    Found::Rebuild { reason, possible_loss: false, outdated: false }
}

fn discard_live(inner: &Inner) {
    let live = inner.shared().live.take();
    if let Some(live) = live {
        live.discard();
    }
}

struct Built {
    live: Arc<Live>,
    at: Checkpoint,
    digest: Digest,
}

/// Builds a new generation up to `until`: rows, then checkpoint, then the record of its flush.
fn build_new(
    inner: &Inner,
    options: &RebuildOptions,
    until: Checkpoint,
    twice: bool,
    progress: Listener<'_>,
) -> Result<Built> {
    let live = match &inner.home {
        Some(home) => home.create()?,
        None => Live::in_memory(),
    };
    let spill = inner.home.as_ref().map(|home| (Arc::clone(&home.disk), format!("{}/", live.name)));
    let stop = || inner.shared().stop;
    let target = Target { store: Some(&*live.store), spill: spill.clone(), stop: &stop };
    let listener = |told: rebuild::RebuildProgress| {
        inner.shared().rebuild = Some((told.events_done, told.events_total));
        progress(told);
    };
    let built = rebuild::build(inner.source(), until, &target, options, &listener).and_then(|digest| {
        if twice {
            // Other stretches, other runs: the second build shares no state with the first.
            let options = RebuildOptions { readers: 1, ..options.clone() };
            let target = Target { store: None, spill, stop: &stop };
            let again = rebuild::build(inner.source(), until, &target, &options, &listener)?;
            if again != digest {
                let text = format!("two builds of the projections differ: {digest} and {again}");
                return Err(Error::new(ErrorKind::Unavailable, text));
            }
        }
        live.store.apply(&Batch::new(), Some(until))?;
        live.flush(until)?;
        Ok(digest)
    });
    inner.shared().rebuild = None;
    match built {
        Ok(digest) => Ok(Built { live: Arc::new(live), at: until, digest }),
        Err(error) => {
            live.discard();
            Err(error)
        }
    }
}

/// Folds what the log brings until told to stop. An error means that the store is not to be trusted any more.
fn follow(inner: &Inner, mut live: Arc<Live>, from: Checkpoint) -> Result<()> {
    inner.take_over(&live, from)?;
    let mut projector = Projector::new(Arc::clone(&live.store), from);
    let mut groups: Option<Box<dyn Groups>> = None;
    while !inner.stopping() {
        if let Some(switch) = take_switch(inner) {
            projector = switch_over(inner, &switch, &projector)?;
            live.discard();
            live = switch.live;
            groups = None;
        }
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
                inner.tell(State::Stopped, &error.to_string());
                groups = None;
                inner.pause(LOG_RETRY);
                inner.shared().state = State::Running;
            }
        }
    }
    Ok(())
}

fn publish(inner: &Inner, live: &Arc<Live>, output: Output) -> Result<()> {
    let Output::Folded { checkpoint, changes, bytes, parked } = output else { return Ok(()) };
    if parked {
        let found = Arc::new(parked::list(&*live.store.snapshot()?)?);
        inner.shared().parked = found;
    }
    inner.publish(live, checkpoint)?;
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

impl Unflushed {
    fn is_due(self) -> bool {
        self.changes >= FLUSH_CHANGES || self.bytes >= FLUSH_BYTES
    }
}

/// The flush thread: after so much work, or once when the work has stopped.
pub(crate) fn flush_now_and_then(inner: &Inner) {
    loop {
        let mut shared = inner.shared();
        while shared.unflushed.changes == 0 && !shared.stop {
            shared = inner.flush_wanted.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
        let early = |shared: &mut Shared| !shared.stop && !shared.unflushed.is_due();
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
    live.map_or(Ok(()), |live| live.flush(folded))
}

fn take_switch(inner: &Inner) -> Option<Switch> {
    inner.shared().switch.take()
}

/// Brings the new generation to where the live one is, then puts it in its place.
fn switch_over(inner: &Inner, switch: &Switch, old: &Projector) -> Result<Projector> {
    let mut projector = Projector::new(Arc::clone(&switch.live.store), switch.at);
    fold_until(inner.source(), &mut projector, old.folded().position)?;
    let _flushing = inner.flushing.lock().unwrap_or_else(PoisonError::into_inner);
    inner.take_over(&switch.live, projector.folded())?;
    Ok(projector)
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

/// Builds a new generation on the caller's thread, compares it with the live one, hands it to the projector.
#[allow(clippy::disallowed_methods, reason = "the report tells people how long it took; nothing is decided by it")]
pub(crate) fn rebuild(inner: &Inner, options: &RebuildOptions, progress: Listener<'_>) -> Result<RebuildReport> {
    let Ok(_one) = inner.rebuilding.try_lock() else {
        return Err(Error::new(ErrorKind::Busy(Duration::from_secs(1)), "a rebuild is already running"));
    };
    let started = Instant::now();
    let view = inner.view();
    let comparable = !options.live_is_bad && view.parked().is_ok();
    let until = if comparable { view.checkpoint() } else { inner.durable() };
    let built = build_new(inner, options, until, false, progress)?;
    let build_seconds = started.elapsed().as_secs_f64();
    let live_digest = if comparable { Some(view.digest()?) } else { None };
    drop(view);
    let equal = live_digest.as_ref().is_none_or(|live| *live == built.digest);
    if equal {
        hand_over(inner, &built)?;
    } else {
        built.live.discard();
        inner.shared().reason = format!(
            "the live projections are not what the log says at {}: {} instead of {}; rebuild them as known bad",
            until.position,
            live_digest.as_ref().map_or(String::new(), Digest::overall),
            built.digest.overall(),
        );
    }
    Ok(RebuildReport {
        generation: built.live.name.clone(),
        position: until.position,
        events: until.position.0,
        rows: built.digest.rows(),
        digest: built.digest,
        live_digest,
        switched: equal,
        build_seconds,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn hand_over(inner: &Inner, built: &Built) -> Result<()> {
    let mut projector = Projector::new(Arc::clone(&built.live.store), built.at);
    fold_until(inner.source(), &mut projector, inner.folded().position)?;
    built.live.make_current()?;
    let mut shared = inner.shared();
    shared.switch = Some(Switch { live: Arc::clone(&built.live), at: projector.folded() });
    let pending = |shared: &mut Shared| {
        let taken = shared.live.as_ref().is_some_and(|live| Arc::ptr_eq(live, &built.live));
        !shared.stop && !taken
    };
    shared = inner.changed.wait_while(shared, pending).unwrap_or_else(PoisonError::into_inner);
    if shared.live.as_ref().is_some_and(|live| Arc::ptr_eq(live, &built.live)) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, "the projections were closed before the new generation took over"))
}

impl Inner {
    fn durable(&self) -> Checkpoint {
        let durable = self.source.durable();
        Checkpoint { position: durable.position, chain: durable.chain }
    }
}

const IDLE_WAIT: Duration = Duration::from_millis(100);
const LOG_WAIT: Duration = Duration::from_secs(10);
const LOG_RETRY: Duration = Duration::from_secs(1);
const BACKOFF_BASE: Duration = Duration::from_millis(250);
const BACKOFF_DOUBLINGS: u32 = 7;
const FLUSH_CHANGES: usize = 50_000;
const FLUSH_BYTES: usize = 32 << 20;
const FLUSH_IDLE: Duration = Duration::from_secs(5);
