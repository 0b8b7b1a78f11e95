//! How long a client may keep the server waiting while its bytes come or go.
//!
//! Invariant: only time spent waiting for the client counts; each byte that moves makes good for some of it, up to the
//! maximum. So a client that stands still is given up after `max`, and one that is slower than `rate` sooner or later too:
//! whoever sends a byte now and then holds no place for ever.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// What is left of the server's patience with one transfer.
pub struct Patience {
    max: Duration,
    /// Bytes per second.
    rate: u64,
    left: Duration,
    waiting: Option<Waiting>,
}

/// A wait for the client.
struct Waiting {
    since: Instant,
    sleep: Pin<Box<Sleep>>,
    /// When the time is up.
    until: Instant,
}

impl Patience {
    /// All of it: at most `max` at a time, and on average `rate` bytes per second.
    pub fn new(max: Duration, rate: u64) -> Patience {
        Patience { max, rate: rate.max(1), left: max, waiting: None }
    }

    /// Nothing moves: ready once it has lasted too long.
    pub fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let left = self.left;
        let waiting = self.waiting.get_or_insert_with(|| {
            let since = Instant::now();
            Waiting { since, sleep: Box::pin(sleep(left)), until: since + left }
        });
        ready!(waiting.sleep.as_mut().poll(context));
        let now = Instant::now();
        if now > waiting.until + MOMENT {
            // It was this process that stood still: what came meanwhile is read first, by another task perhaps.
            (waiting.sleep, waiting.until) = (Box::pin(sleep(MOMENT)), now + MOMENT);
            ready!(waiting.sleep.as_mut().poll(context));
        }
        Poll::Ready(())
    }

    /// So many bytes moved.
    pub fn moved(&mut self, bytes: usize) {
        if let Some(waiting) = self.waiting.take() {
            self.left = self.left.saturating_sub(waiting.since.elapsed());
        }
        let earned = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / self.rate);
        self.left = self.left.saturating_add(earned).min(self.max);
    }
}

/// A process that wakes so much too late stood still.
const MOMENT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const MAX: Duration = Duration::from_secs(60);

    /// Moves `bytes` every `pause` until patience is over; how long that took, if less than a day.
    async fn lasts(bytes: usize, pause: Duration) -> Option<Duration> {
        let (mut patience, begun) = (Patience::new(MAX, 1_000), Instant::now());
        while begun.elapsed() < Duration::from_secs(86_400) {
            let over = tokio::time::timeout(pause, poll_fn(|context| patience.poll_over(context))).await;
            if over.is_ok() {
                return Some(begun.elapsed());
            }
            patience.moved(bytes);
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_borne_for_the_maximum() {
        assert_eq!(lasts(0, MAX * 2).await, Some(MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_is_borne_hardly_longer() {
        assert!(lasts(1, Duration::from_secs(59)).await.is_some_and(|lasted| lasted < MAX * 2));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_keeps_the_rate_is_never_given_up() {
        assert_eq!(lasts(30_000, Duration::from_secs(29)).await, None);
    }
}
