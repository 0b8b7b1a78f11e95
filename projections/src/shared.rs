//! What the threads of the projections and their handles share: the view that is served, the live generation, who waits.
//!
//! Invariants: the view, the live generation and how far it is folded change in one step, so that whoever sees a position
//! folded also gets a view that shows it; whoever waits for a position is called after that, outside the lock.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reprise_engine::{Result, id::Position};

use crate::{
    models::parked,
    opening::{Home, Live},
    projections::{Checkpoint, Lag, Options, Status},
    source::Source,
    store::{Snapshot, fjall::Memory},
    switch::Switch,
    view::{Parked, View},
};

/// What the threads and the handles share.
pub(crate) struct Inner {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) home: Option<Home>,
    shared: Mutex<Shared>,
    pub(crate) changed: Condvar,
    /// One flush at a time; what it flushes cannot be switched away meanwhile.
    pub(crate) flushing: Mutex<()>,
    pub(crate) flush_wanted: Condvar,
    /// Whoever opens, builds or hands over a generation holds it: one at a time.
    pub(crate) building: Mutex<()>,
}

/// Everything that changes.
pub(crate) struct Shared {
    pub(crate) view: View,
    /// What waiters may rely on: the view in place shows it.
    served: Option<Checkpoint>,
    /// How far the live store is folded, served or not.
    pub(crate) folded: Checkpoint,
    /// Nothing is served before this is folded.
    gate: Position,
    pub(crate) live: Option<Arc<Live>>,
    parked: Parked,
    pub(crate) state: State,
    /// Failures since the last flush of a live generation: a store that builds well and fails at once is no success.
    pub(crate) failures: u32,
    pub(crate) reason: String,
    pub(crate) possible_loss: bool,
    pub(crate) rebuild: Option<(u64, u64)>,
    waiters: BTreeMap<(Position, u64), Box<dyn FnOnce() + Send>>,
    waiter_count: u64,
    /// Time of the oldest event that is taken but not folded.
    pub(crate) pending_ms: Option<u64>,
    pub(crate) folded_ms: u64,
    /// True while the projector follows the log: only then a switch is taken.
    pub(crate) following: bool,
    pub(crate) switch: Option<Switch>,
    pub(crate) unflushed: Unflushed,
    /// A generation of an earlier process, to be looked at for damage.
    pub(crate) unchecked: Option<Arc<Live>>,
    pub(crate) stop: bool,
}

/// What the projector does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Rebuilding,
    Stopped,
}

/// Work that no flush has made durable yet.
#[derive(Clone, Copy, Default)]
pub(crate) struct Unflushed {
    pub(crate) changes: usize,
    pub(crate) bytes: usize,
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
            failures: 0,
            reason: String::new(),
            possible_loss: false,
            rebuild: None,
            waiters: BTreeMap::new(),
            waiter_count: 0,
            pending_ms: None,
            folded_ms: 0,
            following: false,
            switch: None,
            unflushed: Unflushed::default(),
            unchecked: None,
            stop: false,
        };
        Ok(Inner {
            source,
            home,
            shared: Mutex::new(shared),
            changed: Condvar::new(),
            flushing: Mutex::new(()),
            flush_wanted: Condvar::new(),
            building: Mutex::new(()),
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
                if shared.waiters.len() >= WAITERS_MAX {
                    return;
                }
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
            (view, shared.live.take())
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

    /// Everything that changes, locked.
    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stopping(&self) -> bool {
        self.shared().stop
    }

    /// The durable end of the log.
    pub(crate) fn durable(&self) -> Checkpoint {
        let durable = self.source.durable();
        Checkpoint { position: durable.position, chain: durable.chain }
    }

    /// Waits unless the projections are to stop; true if they are.
    pub(crate) fn pause(&self, wait: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.shared(), wait, |shared| !shared.stop);
        waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }

    /// Sets what people are told.
    pub(crate) fn tell(&self, state: State, reason: &str) {
        let mut shared = self.shared();
        shared.state = state;
        shared.reason = reason.to_owned();
    }

    /// Makes `live`, folded up to `folded`, the live generation. After an error the one before is still live.
    pub(crate) fn take_over(&self, live: &Arc<Live>, folded: Checkpoint) -> Result<()> {
        let snapshot = live.store.snapshot()?;
        let parked = Arc::new(parked::list(&*snapshot)?);
        let mut shared = self.shared();
        shared.live = Some(Arc::clone(live));
        shared.parked = parked;
        shared.state = State::Running;
        shared.rebuild = None;
        // With the view: whoever sees it may ask for a rebuild.
        shared.following = true;
        self.show(shared, snapshot, folded);
        Ok(())
    }

    /// Shows what is folded now; `changes_parked`: others may be parked.
    pub(crate) fn publish(&self, live: &Arc<Live>, folded: Checkpoint, changes_parked: bool) -> Result<()> {
        let snapshot = live.store.snapshot()?;
        let parked = if changes_parked { Some(Arc::new(parked::list(&*snapshot)?)) } else { None };
        let mut shared = self.shared();
        if let Some(parked) = parked {
            shared.parked = parked;
        }
        self.show(shared, snapshot, folded);
        Ok(())
    }

    /// Puts the view of `snapshot` in place, then wakes whoever waits for it.
    fn show(&self, mut shared: MutexGuard<'_, Shared>, snapshot: Arc<dyn Snapshot>, folded: Checkpoint) {
        shared.folded = folded;
        shared.pending_ms = None;
        let (ready, old) = if folded.position < shared.gate {
            let text = format!("the projections are catching up: {} of {}", folded.position, shared.gate);
            let nothing_yet = shared.served.is_none();
            (Vec::new(), nothing_yet.then(|| std::mem::replace(&mut shared.view, View::unavailable(&text))))
        } else {
            let view = View::of(snapshot, Arc::clone(&shared.parked), folded);
            let old = std::mem::replace(&mut shared.view, view);
            shared.served = Some(folded);
            (shared.ready_waiters(), Some(old))
        };
        drop(shared);
        // Outside the lock: the last reader of an old generation removes its directory.
        drop(old);
        self.changed.notify_all();
        for then in ready {
            then();
        }
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

impl Unflushed {
    /// True once there is so much that a flush does not wait for the work to stop.
    pub(crate) fn is_due(self) -> bool {
        self.changes >= FLUSH_CHANGES || self.bytes >= FLUSH_BYTES
    }
}

/// Waiters may outlive their callers; while nothing is folded, more of them are turned away at once.
const WAITERS_MAX: usize = 10_000;
const FLUSH_CHANGES: usize = 50_000;
const FLUSH_BYTES: usize = 32 << 20;
