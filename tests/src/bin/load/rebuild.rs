//! All projections from a log of 50,000 and of 1,000,000 objects, by `reprise rebuild` on a directory that nobody serves.

use std::time::Instant;

use reprise_tests::server_process::DataDir;

use crate::{
    figures::{median, print},
    push_objects::{chunks, send},
};

/// Prints the server's own figure and the whole command.
pub fn run() {
    measure(50_000, 5);
    measure(1_000_000, 100);
}

fn measure(objects: usize, packs: usize) {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    let token = data.token("load");
    data.create_repo("load/rebuild", &[]);
    let requests = chunks(&server.remote("load/rebuild", Some(&token)), objects, objects / packs, 48, objects as u64);
    send(&requests, 2);
    server.stop();
    let mut whole = Vec::new();
    let mut said = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        let report = data.json(&["rebuild"]);
        whole.push(started.elapsed().as_secs_f64());
        said.push(report["seconds"].as_f64().unwrap_or(f64::NAN));
        assert_eq!(report["ok"], true, "{report}");
    }
    let (whole, said) = (median(whole), median(said));
    print(
        &format!("rebuild from {objects} objects in {packs} packs"),
        &format!("{said:.3} s as it says, {whole:.3} s the whole command (medians of 5)"),
    );
}
