//! Long commands under the eyes of a terminal: progress while they work, an orderly end when they are told to stop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    cli::{
        failure::Failure,
        output::{Output, Progress},
    },
    client::{ClientError, counter::Counter},
    shutdown,
};

/// What a command gets to work with.
#[derive(Clone, Default)]
pub struct Attended {
    /// Says how far it is.
    pub counter: Arc<Counter>,
    /// Says when it is to end.
    pub stop: CancellationToken,
}

/// Runs `work` to its end. SIGINT and SIGTERM do not cut it off: it is told, cleans up and says that it was interrupted.
pub async fn attend<T>(
    output: &Output,
    work: impl AsyncFnOnce(Attended) -> Result<T, ClientError>,
) -> Result<T, Failure> {
    let told = shutdown::requested().map_err(|error| Failure::CouldNot(format!("signals: {error}")))?;
    let attended = Attended::default();
    let mut progress = output.progress("");
    let mut work = Box::pin(work(attended.clone()));
    let mut told = Box::pin(told);
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done?),
            () = &mut told, if !attended.stop.is_cancelled() => attended.stop.cancel(),
            _ = look.tick() => progress.show(attended.counter.read()),
        }
    }
}

/// The same for work that blocks its thread.
pub async fn attend_blocking<T: Send + 'static>(
    output: &Output,
    work: impl FnOnce(&Attended) -> Result<T, ClientError> + Send + 'static,
) -> Result<T, Failure> {
    attend(output, async |attended: Attended| {
        let done = tokio::task::spawn_blocking(move || work(&attended)).await;
        done.unwrap_or_else(|error| Err(ClientError::Refused(format!("the work ended: {error}"))))
    })
    .await
}

/// The same for work on a directory, in steps: before each it asks whether to go on. Told to stop, the process waits until the step
/// under way has ended.
pub async fn in_steps<T: Send + 'static>(
    output: &Output,
    what: &str,
    work: impl FnOnce(&mut Progress, &dyn Fn() -> bool) -> reprise_engine::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let told = shutdown::requested().map_err(|error| Failure::CouldNot(format!("signals: {error}")))?;
    let goes_on = Arc::new(AtomicBool::new(true));
    let (asked, mut progress) = (Arc::clone(&goes_on), output.progress(what));
    let work = tokio::task::spawn_blocking(move || work(&mut progress, &|| asked.load(Ordering::Relaxed)));
    tokio::pin!(work);
    let done = tokio::select! {
        done = &mut work => done,
        () = told => {
            goes_on.store(false, Ordering::Relaxed);
            work.await
        }
    };
    Ok(done.map_err(|error| Failure::CouldNot(format!("{what}: it ended: {error}")))??)
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::CouldNot(error.to_string())
    }
}

/// How often the progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
