//! More clients than places: bounded queues, bounded memory, refusals that say when to come back, and nothing lost (F13).
//!
//! How long things take is for `load overload`: this machine may be busy with other tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, clippy::print_stderr)]

use std::time::Duration;

use reprise_tests::{
    client::{Refs, Request},
    overload, seeds,
    server_process::DataDir,
};

/// What the server promises for any load.
const MEMORY_MAX_KIB: u64 = 160 << 10;

#[test]
fn two_hundred_clients_at_once_get_answers_or_a_time_to_come_back_and_memory_stays_bounded() {
    let seed = seeds::seed("overload");
    let data = DataDir::new();
    // Queues shorter than the crowd, so that there is something to refuse.
    let places = ["pushes_max=2", "object_uploads_max=4", "small_uploads_per_place=1", "fetches_max=2"];
    let limits = [&places[..], &["waiting_max=12", "waiting_time_max=1"]].concat();
    let server = data.serve_with(&limits.iter().flat_map(|limit| ["--limit", limit]).collect::<Vec<_>>());
    server.wait_ready();
    let mut report = overload::run(&data, &server, 200, Duration::from_secs(5), seed);
    report.refs.sort_unstable();
    let p99 = report.refs[report.refs.len() * 99 / 100];
    let peak = server.peak_rss_kib();
    eprintln!("overload: {}; refs p99 {p99:?} of {}, peak RSS {} MiB", report.text(), report.refs.len(), peak >> 10);
    assert!(report.too_many + report.no_place > 0, "there was no overload: {}", report.text());
    assert!(!report.acked.is_empty() && !report.fetches.is_empty(), "nothing was done: {}", report.text());
    assert_eq!(report.given_up, Vec::<String>::new(), "accepted, and then given up");
    assert!(peak <= MEMORY_MAX_KIB, "{peak} KiB");
    for ((repo, branch), head) in &report.acked {
        let refs = Refs::get(&server.url(repo), None).unwrap();
        assert_eq!(refs.head(branch), Some(head.as_str()), "{repo} {branch}");
    }
    // The one that asks is the only one left.
    let metrics = Request::get(server.url("metrics"), None).send().unwrap().text();
    assert!(metrics.contains("reprise_http_requests_in_flight 1\n"), "{metrics}");
    server.stop();
    assert!(data.run(&["verify"]).status.success());
}
