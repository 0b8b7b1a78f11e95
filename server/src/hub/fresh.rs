//! Seeing what other servers wrote: a look into the bucket's log before anything is denied, and now and then under traffic.
//!
//! Invariants: `refs`, which every flow of the client begins with, looks first, so that who pushed by one server reads it by
//! any other; nothing is refused for what another server may have changed before it was looked for, and what was seen is measured by
//! the view that refuses, however long it waited; what is hidden costs the same look as what is not there; other reads are at most
//! a second behind while requests come; without requests nobody looks. A local log has nobody to look for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reprise_engine::id::Position;
use reprise_projections::View;
use tokio::sync::oneshot;

use crate::hub::{Hub, HubError};

/// When the last request came.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    last_ms: AtomicU64,
}

impl Default for Activity {
    fn default() -> Activity {
        Activity { began: Instant::now(), last_ms: AtomicU64::new(u64::MAX) }
    }
}

impl Activity {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    fn idle(&self) -> Duration {
        match self.last_ms.load(Ordering::Relaxed) {
            u64::MAX => Duration::MAX,
            last => Duration::from_millis(self.now_ms().saturating_sub(last)),
        }
    }
}

impl Hub {
    /// A request came.
    pub fn active(&self) {
        self.activity.last_ms.store(self.activity.now_ms(), Ordering::Relaxed);
    }

    /// A position at or before which everything stands that was acknowledged, by any server, before this call.
    ///
    /// Errors: `Unavailable` when the bucket is not reached.
    pub async fn look(&self) -> Result<Position, HubError> {
        if !self.shared {
            return Ok(self.engine.durable().position);
        }
        let (reply, seen) = oneshot::channel();
        self.engine.look(Box::new(move |looked| drop(reply.send(looked))));
        Ok(seen.await.map_err(|_| HubError::Unavailable("the log was closed".to_owned()))??)
    }

    /// What `decide` makes of a view; where that is "not found" and other servers have written meanwhile, of a newer one.
    pub(crate) async fn decided<T: Send + 'static>(
        self: &Arc<Self>,
        view: View,
        decide: impl Fn(&Hub, &View) -> Result<T, HubError> + Send + Sync + 'static,
    ) -> Result<(T, View), HubError> {
        let decide = Arc::new(decide);
        let job = |view: View| {
            let (hub, decide) = (Arc::clone(self), Arc::clone(&decide));
            self.blocking(move || Ok((decide(&hub, &view)?, view)))
        };
        let seen = view.checkpoint().position;
        match job(view).await {
            Err(HubError::NotFound(_)) if self.look().await? > seen => {
                job(self.view_at(self.engine.durable().position).await?).await
            }
            decided => decided,
        }
    }

    /// Before something is denied: true if there is something that `view` does not show. Then it is to be decided again.
    pub(crate) async fn is_behind(&self, view: &View) -> Result<bool, HubError> {
        let seen = view.checkpoint().position;
        Ok(self.look().await? > seen)
    }
}

/// Looks while requests come. Ends with the server.
pub async fn follow(hub: Arc<Hub>) {
    while hub.shared && !hub.is_closing() {
        tokio::time::sleep(LOOK_EVERY).await;
        if hub.activity.idle() > TRAFFIC {
            continue;
        }
        if let Err(error) = hub.look().await {
            tracing::debug!(%error, "the bucket's log was not looked at");
        }
    }
}

/// Together with the time of a look below the second that other reads may be behind.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// So long after the last request there is no traffic any more.
const TRAFFIC: Duration = Duration::from_secs(5);
