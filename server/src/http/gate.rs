//! Places: a bounded number of requests that are worked on, with a bounded queue before them.
//!
//! Invariants: a place is free again when whoever has it drops it; whoever goes away leaves the queue; one repository never has
//! more places of a [`SharedGate`] than its share.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::hub::HubError;

/// The place of a request, if its route needs one: held by the answer and by the work that outlives it.
#[derive(Clone, Default)]
pub struct HeldPlace(#[allow(dead_code, reason = "held, never looked at")] Option<Arc<Place>>);

impl From<Option<Place>> for HeldPlace {
    fn from(place: Option<Place>) -> HeldPlace {
        HeldPlace(place.map(Arc::new))
    }
}

/// A place among the requests that are worked on. Dropped: free.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    /// The same among those of one repository.
    _share: Option<OwnedSemaphorePermit>,
}

/// A bounded number of places with a bounded queue before them.
pub struct Gate {
    name: &'static str,
    places: usize,
    /// Parts of a place: a small request takes one, any other takes all of a place.
    parts: u32,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
    wait: Duration,
}

impl Gate {
    /// So many places, each with room for so many small requests; so many may wait, for so long.
    pub fn new(name: &'static str, (places, small): (usize, usize), waiting_max: usize, wait: Duration) -> Gate {
        let parts = u32::try_from(small).unwrap_or(u32::MAX);
        let free = Arc::new(Semaphore::new(places.saturating_mul(small).min(Semaphore::MAX_PERMITS)));
        Gate { name, places, parts, free, waiting: AtomicUsize::new(0), waiting_max, wait }
    }

    /// A place, or a part of one.
    ///
    /// Errors: `Busy` if too many wait, `Unavailable` if none became free in time.
    pub async fn enter(&self, small: bool) -> Result<Place, HubError> {
        let parts = if small { 1 } else { self.parts };
        Ok(Place { _permit: self.permit(&self.free, parts).await?, _share: None })
    }

    async fn permit(&self, of: &Arc<Semaphore>, parts: u32) -> Result<OwnedSemaphorePermit, HubError> {
        if let Ok(permit) = Arc::clone(of).try_acquire_many_owned(parts) {
            return Ok(permit);
        }
        let Some(_turn) = Turn::take(&self.waiting, self.waiting_max) else {
            return Err(HubError::Busy {
                retry_after: RETRY_FULL,
                message: format!(
                    "{} {} requests are being worked on and {} are waiting, which is the limit",
                    self.places, self.name, self.waiting_max
                ),
            });
        };
        match timeout(self.wait, Arc::clone(of).acquire_many_owned(parts)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(HubError::Unavailable(format!(
                "no place for a {} request became free within {} s ({} at a time)",
                self.name,
                self.wait.as_secs(),
                self.places
            ))),
        }
    }
}

/// A gate of which no repository has more than a share: for requests that a slow client holds for hours.
pub struct SharedGate {
    gate: Gate,
    share: usize,
    /// By the repository's name: what is left of its share.
    shares: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl SharedGate {
    /// `gate`, and of it at most `share` places for one repository.
    pub fn new(gate: Gate, share: usize) -> SharedGate {
        SharedGate { gate, share, shares: Mutex::default() }
    }

    /// A place for a request on `repository`.
    pub async fn enter(&self, repository: &str) -> Result<Place, HubError> {
        let share = self.share_of(repository);
        // The share first: whoever waits for it keeps nothing from others.
        let share = self.gate.permit(&share, 1).await?;
        let place = self.gate.enter(false).await?;
        Ok(Place { _share: Some(share), ..place })
    }

    fn share_of(&self, repository: &str) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(repository) {
            return Arc::clone(share);
        }
        // Every permit and everybody who waits for one holds the semaphore.
        shares.retain(|_, share| Arc::strong_count(share) > 1);
        let share = Arc::new(Semaphore::new(self.share));
        shares.insert(repository.to_owned(), Arc::clone(&share));
        share
    }
}

/// One of the waiting; given back on drop, so that a client that goes away leaves the queue.
struct Turn<'a>(&'a AtomicUsize);

impl Turn<'_> {
    fn take(waiting: &AtomicUsize, max: usize) -> Option<Turn<'_>> {
        let more = |count: usize| (count < max).then_some(count + 1);
        waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Turn(waiting))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// When a full queue is worth another try.
const RETRY_FULL: Duration = Duration::from_secs(5);
