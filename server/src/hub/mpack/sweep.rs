//! Uploads that nobody took in are removed some time after their end.
//!
//! Invariants: on no request's way; never before the end that an upload's key states, and as long again, has passed: no server
//! begins to take in what is over, and the slowest has ended by then what it began. Servers may sweep at the same time.

use std::{sync::Arc, time::Duration};

use reprise_engine::store::quarantine;
use tokio::time::{MissedTickBehavior, interval};

use crate::hub::Hub;

/// Sweeps at the start, and then as often as uploads end, until the hub closes.
pub async fn run(hub: Arc<Hub>) {
    let life = hub.limits.upload_time_max.max(Duration::from_secs(1));
    let mut pace = interval(life);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        if hub.is_closing() {
            return;
        }
        let job = Arc::clone(&hub);
        let before_s = hub.now_s().saturating_sub(life.as_secs());
        match hub.read(move || Ok(quarantine::sweep(&**job.engine.store(), before_s)?)).await {
            Ok(0) => {}
            Ok(uploads) => tracing::info!(uploads, "uploads that nobody took in are removed"),
            Err(error) => tracing::warn!(%error, "uploads that nobody took in stay for now"),
        }
    }
}
