//! Diagnostics: tracing to stderr, metrics for Prometheus.
//!
//! No secret reaches either: tokens live in [`crate::hub::Secret`], spans carry paths without queries and no headers.

use std::{
    io::IsTerminal,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Checks what is to be logged, as in `RUST_LOG`.
pub fn filter(text: &str) -> Result<String, String> {
    EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Sends events at or above `filter` (as in `RUST_LOG`) to stderr, once per process.
pub fn start_tracing(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A second start (tests) keeps the first.
    _ = subscriber.try_init().is_ok();
}

/// The process's metrics; installed by the first call.
pub fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let builder = PrometheusBuilder::new();
        // Only an empty list of buckets is refused.
        let recorder = builder.set_buckets(&SECONDS).unwrap_or_else(|_| PrometheusBuilder::new()).build_recorder();
        let handle = recorder.handle();
        _ = metrics::set_global_recorder(recorder).is_ok();
        handle
    })
}

/// Folds recorded samples into the histograms every so many requests, so that they do not pile up in a server that nobody
/// scrapes, and that an idle server does nothing.
pub fn keep_metrics_small() {
    static SAMPLES: AtomicU64 = AtomicU64::new(0);
    if SAMPLES.fetch_add(1, Ordering::Relaxed) % SAMPLES_PER_UPKEEP == SAMPLES_PER_UPKEEP - 1 {
        metrics().run_upkeep();
    }
}

/// Upper bounds of the histogram of request times, seconds.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 100.0];
const SAMPLES_PER_UPKEEP: u64 = 1_024;
