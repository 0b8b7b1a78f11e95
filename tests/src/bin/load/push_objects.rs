//! 20,000 random 4 KiB objects through push/objects in chunks of 400 over 4 connections: hashed and durable.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use rand::RngExt;
use reprise_tests::{
    client::{Remote, Value, ids::sha256_hex},
    seeds,
    server_process::DataDir,
};

use crate::{
    exchange::Prepared,
    figures::{median, print},
    machine,
};

const OBJECTS: usize = 20_000;
const CHUNK: usize = 400;
const BYTES: usize = 4_096;
const RUNS: u64 = 5;

/// Prints objects per second.
pub fn run() {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    let token = data.token("load");
    let mut rates = Vec::new();
    for run in 0..RUNS {
        let name = format!("load/objects{run}");
        data.create_repo(&name, &[]);
        let bodies = chunks(&server.remote(&name, Some(&token)), OBJECTS, CHUNK, BYTES, run);
        rates.push(OBJECTS as f64 / send(&bodies, 4));
    }
    let rate = median(rates);
    let hash = machine::sha256_4k_per_second();
    let disk = machine::disk_write() / BYTES as f64;
    print("push/objects, 4 KiB, 4 connections", &format!("{rate:.0} objects/s (median of {RUNS})"));
    print("  SHA-256 of them on one core", &format!("{hash:.0}/s, ratio {:.2}", rate / hash));
    print("  writing their bytes with one sync", &format!("{disk:.0}/s, ratio {:.2}", rate / disk));
    print("  server's peak RSS", &format!("{} MiB", server.peak_rss_kib() / 1_024));
}

/// Requests of `chunk` random objects each.
pub fn chunks(remote: &Remote, objects: usize, chunk: usize, bytes: usize, seed: u64) -> Vec<Prepared> {
    let mut random = seeds::random(seed, 77);
    let mut object = || {
        let mut content = vec![0; bytes];
        random.fill(content.as_mut_slice());
        Value::map([("object_id", Value::str(sha256_hex(&content))), ("content", Value::Bin(content))])
    };
    let body = |count: usize, object: &mut dyn FnMut() -> Value| {
        Value::map([("objects", Value::Array((0..count).map(|_| object()).collect()))]).encode()
    };
    (0..objects / chunk).map(|_| Prepared::new(remote, "POST", "push/objects", &body(chunk, &mut object))).collect()
}

/// Sends all of them over so many connections at a time; seconds.
pub fn send(requests: &[Prepared], connections: usize) -> f64 {
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut buffer = vec![0; 64 << 10];
                while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    request.run(&mut buffer);
                }
            });
        }
    });
    started.elapsed().as_secs_f64()
}
