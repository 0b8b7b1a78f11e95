//! 32 clients asking for refs, a connection per request.

use std::{
    thread,
    time::{Duration, Instant},
};

use reprise_tests::{
    client::{Repository, push},
    server_process::DataDir,
};

use crate::{exchange::Prepared, figures::print, machine};

const CLIENTS: usize = 32;
const SECONDS: u64 = 5;

/// Prints requests per second.
pub fn run() {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    data.create_repo("load/refs", &[]);
    let mut local = Repository::init();
    local.remote("origin", &server.url("load/refs"), Some(&data.token("load")));
    local.commit("main", "root", &[("a", Some(b"a"))]);
    push(&mut local, "origin", "main").expect("the push");
    let request = Prepared::new(&server.remote("load/refs", None), "GET", "refs", &[]);
    let until = Instant::now() + Duration::from_secs(SECONDS);
    let count: u64 = thread::scope(|scope| {
        let client = |_| {
            scope.spawn(|| {
                let (mut count, mut buffer) = (0, vec![0; 4_096]);
                while Instant::now() < until {
                    request.run(&mut buffer);
                    count += 1;
                }
                count
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    });
    let (rate, limit) = (count as f64 / SECONDS as f64, machine::connections());
    print("refs, 32 clients, a connection each", &format!("{rate:.0}/s"));
    print("  a server that answers constant bytes", &format!("{limit:.0}/s, ratio {:.2}", rate / limit));
    print("  server's peak RSS", &format!("{} MiB", server.peak_rss_kib() / 1_024));
}
