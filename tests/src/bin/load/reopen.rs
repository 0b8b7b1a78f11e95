//! Open after kill -9 with a long log: time to the listening line (the log is ready) and to `/ready`.
//!
//! The log is made of real pushes of small objects in large chunks, through the server; nothing is faked into its files.

use std::{fs, path::Path, time::Instant};

use reprise_tests::server_process::DataDir;

use crate::{
    figures::print,
    push_objects::{chunks, send},
};

const CHUNK: usize = 10_000;

/// Prints both times for a log of at least so many megabytes.
pub fn run(megabytes: u64) {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    let token = data.token("load");
    let mut objects = 0;
    let log = data.path().join("log");
    for round in 0.. {
        if bytes_below(&log) >= megabytes * 1_000_000 {
            break;
        }
        let name = format!("load/reopen{round}");
        data.create_repo(&name, &[]);
        send(&chunks(&server.remote(&name, Some(&token)), 50 * CHUNK, CHUNK, 24, round), 2);
        objects += 50 * CHUNK;
    }
    let bytes = bytes_below(&log);
    server.kill();
    let started = Instant::now();
    let server = data.serve();
    let listening = started.elapsed().as_secs_f64();
    server.wait_ready();
    let ready = started.elapsed().as_secs_f64();
    print(
        &format!("open after kill -9, log of {} MB", bytes / 1_000_000),
        &format!("listening after {listening:.2} s, ready after {ready:.2} s ({objects} objects)"),
    );
    print("  server's peak RSS", &format!("{} MiB", server.peak_rss_kib() / 1_024));
}

fn bytes_below(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).expect("the log's directory").flatten();
    files.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file).map(|file| file.len()).sum()
}
