//! A clone's fetch: throughput and first byte at 60 MB in 14,000 objects, first byte at 100,000 objects.

use reprise_tests::{
    client::{Repository, Value, push},
    seeds,
    server_process::{DataDir, ServerProcess},
};

use crate::{
    exchange::{Prepared, Taken},
    figures::{Times, median, print},
    machine,
};

const RUNS: usize = 21;

/// Prints both.
pub fn run() {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    let token = data.token("load");
    let large = measure(&data, &server, &token, "load/large", 14_000, 4_285);
    let rates = large.iter().map(|taken| taken.bytes as f64 / taken.whole.as_secs_f64()).collect();
    let (rate, loopback) = (median(rates), machine::loopback());
    let megabytes = large[0].bytes as f64 / 1e6;
    print(
        &format!("fetch of {megabytes:.1} MB in 14,000 objects"),
        &format!("{:.0} MB/s (median of {RUNS})", rate / 1e6),
    );
    print("  loopback alone", &format!("{:.0} MB/s, ratio {:.2}", loopback / 1e6, rate / loopback));
    print("  first byte", &first_bytes(&large));
    let many = measure(&data, &server, &token, "load/many", 100_000, 400);
    print("fetch of 100,000 objects, first byte", &first_bytes(&many));
    print("  server's peak RSS", &format!("{} MiB", server.peak_rss_kib() / 1_024));
}

fn first_bytes(taken: &[Taken]) -> String {
    Times::new(taken.iter().map(|taken| taken.first_byte).collect()).text()
}

fn measure(data: &DataDir, server: &ServerProcess, token: &str, name: &str, objects: u64, bytes: usize) -> Vec<Taken> {
    data.create_repo(name, &[]);
    let mut local = Repository::init();
    local.remote("origin", &server.url(name), Some(token));
    let mut random = seeds::random(objects, 6);
    let files: Vec<(String, Vec<u8>)> =
        (0..objects).map(|n| (format!("{:03}/{n:06}", n % 500), seeds::bytes(&mut random, bytes))).collect();
    let changes: Vec<_> = files.iter().map(|(path, content)| (path.as_str(), Some(content.as_slice()))).collect();
    let head = local.commit("main", "large", &changes);
    push(&mut local, "origin", "main").expect("the push");
    let body = Value::map([("want", Value::strs([&head])), ("have", Value::Array(Vec::new()))]).encode();
    let request = Prepared::new(&server.remote(name, None), "POST", "fetch", &body);
    let mut buffer = vec![0; 256 << 10];
    request.run(&mut buffer);
    (0..RUNS).map(|_| request.run(&mut buffer)).collect()
}
