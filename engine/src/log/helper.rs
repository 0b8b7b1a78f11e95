//! The thread that zero-fills spare segments, so that a commit need not wait for it.
//!
//! Invariants: one spare at a time; whoever ends the helper waits for it, so that nothing touches the directory afterwards.

use std::{sync::Arc, thread::JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::files::make_spare;
use crate::{
    disk::{Disk, DiskFile},
    error::{Error, ErrorKind, Result},
};

/// The thread, and the way to it and back.
pub(super) struct Helper {
    jobs: Sender<u64>,
    made: Receiver<Result<Arc<dyn DiskFile>>>,
    thread: JoinHandle<()>,
}

impl Helper {
    /// Starts it.
    pub(super) fn start(disk: Arc<dyn Disk>) -> Result<Helper> {
        let (jobs, taken) = bounded::<u64>(1);
        let (done, made) = bounded(1);
        let thread = spawn("log-spare", move || {
            while let Ok(capacity) = taken.recv() {
                if done.send(make_spare(&*disk, capacity)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Helper { jobs, made, thread })
    }

    /// Asks for a spare of this many bytes; false if the thread is gone.
    pub(super) fn ask(&self, capacity: u64) -> bool {
        self.jobs.try_send(capacity).is_ok()
    }

    /// The spare that was made, if it was (or, with `wait`, when it is).
    pub(super) fn made(&self, wait: bool) -> Option<Result<Arc<dyn DiskFile>>> {
        if !wait {
            return self.made.try_recv().ok();
        }
        let gone = |_| Err(Error::new(ErrorKind::Unavailable, "the helper thread is gone"));
        Some(self.made.recv().unwrap_or_else(gone))
    }

    /// Waits until it has ended.
    pub(super) fn end(self) {
        drop(self.jobs);
        if self.thread.join().is_err() {
            tracing::error!("the helper thread died");
        }
    }
}

/// Starts a thread of the writer's.
#[allow(clippy::disallowed_methods, reason = "the writer's two threads only drive its state machine")]
pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(run).map_err(|error| Error::io("start a thread", name, error))
}
