//! One job over many items on all cores: the first failure ends it, and so does a stop.
//!
//! Invariants: every item is taken by exactly one thread, in order of the list; when the call returns no thread of it runs.

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio_util::sync::CancellationToken;

use super::ClientError;

/// Calls `each` for every item, on as many threads as there are cores (at most `THREADS_MAX`).
///
/// Errors: the first that `each` gave; `Interrupted` if `stop` was set before the last item was taken.
pub fn for_each<T: Sync>(
    items: &[T],
    stop: &CancellationToken,
    each: impl Fn(&T) -> Result<(), ClientError> + Sync,
) -> Result<(), ClientError> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<ClientError>> = Mutex::new(None);
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            let done = if stop.is_cancelled() { Err(ClientError::Interrupted) } else { each(item) };
            if let Err(error) = done {
                // Nobody takes another item.
                next.store(items.len(), Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS_MAX).min(items.len());
    thread::scope(|scope| {
        // This thread works too.
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Each thread may hold one record in memory; beyond this the disk is the limit anyway.
const THREADS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_item_is_taken_once() {
        let items: Vec<usize> = (0..1_000).collect();
        let taken: Vec<AtomicUsize> = items.iter().map(|_| AtomicUsize::new(0)).collect();
        for_each(&items, &CancellationToken::new(), |item| {
            taken[*item].fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert!(taken.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn a_failure_ends_the_job_and_is_what_it_returns() {
        let items: Vec<usize> = (0..100_000).collect();
        let calls = AtomicUsize::new(0);
        let result = for_each(&items, &CancellationToken::new(), |item| {
            calls.fetch_add(1, Ordering::Relaxed);
            if *item == 3 { Err(ClientError::Refused("three".to_owned())) } else { Ok(()) }
        });
        assert_eq!(result.unwrap_err().to_string(), "three");
        assert!(calls.load(Ordering::Relaxed) < items.len());
    }

    #[test]
    fn a_stop_ends_the_job_as_interrupted() {
        let stop = CancellationToken::new();
        let result = for_each(&[1, 2, 3], &stop, |_| {
            stop.cancel();
            Ok(())
        });
        assert!(matches!(result, Err(ClientError::Interrupted)));
        assert!(for_each::<u8>(&[], &stop, |_| Ok(())).is_ok(), "nothing was left to do");
    }
}
