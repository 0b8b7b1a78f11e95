//! When to stop: SIGINT or SIGTERM.
//!
//! The first one counts. Another one changes nothing: the handlers stay, what was accepted is answered and the directory
//! closed, within `shutdown_time_max`. Whoever cannot wait sends SIGKILL and loses nothing that was acknowledged (F1).

use tokio::signal::unix::{SignalKind, signal};

/// Resolves at the first SIGINT or SIGTERM.
///
/// Errors: when the handlers cannot be installed (then nothing was).
pub fn requested() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
