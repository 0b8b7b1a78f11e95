//! 200 clients pushing and fetching at once, more than there are places; and the largest records, eight at a time.

use std::{thread, time::Duration};

use reprise_tests::{
    client::{Repository, Request, Tree, Value, ids::sha256_hex, push::bundle_body},
    overload, seeds,
    server_process::DataDir,
};

use crate::figures::{Times, milliseconds, print};

const CLIENTS: usize = 200;
const SECONDS: u64 = 10;
/// A snapshot of so many paths has a record of about 30 MB.
const PATHS: usize = 250_000;
const MANIFESTS: usize = 8;
/// The promise: refs are answered within this, whatever else is asked.
const REFS_P99_MAX: Duration = Duration::from_secs(1);

/// Prints latencies, answers by kind and the server's peak RSS.
pub fn run() {
    // As it comes, and with queues that are too short for the crowd.
    crowd("places as they come", &[]);
    crowd("waiting_max=16", &["--limit", "waiting_max=16", "--limit", "waiting_time_max=2"]);
    manifests();
}

fn crowd(name: &str, limits: &[&str]) {
    let data = DataDir::new();
    let server = data.serve_with(limits);
    server.wait_ready();
    let report = overload::run(&data, &server, CLIENTS, Duration::from_secs(SECONDS), seeds::seed("overload"));
    print(&format!("{CLIENTS} clients, {name}"), &report.text());
    let refs = Times::new(report.refs);
    print("  refs by others meanwhile", &refs.text());
    print("  accepted pushes", &Times::new(report.pushes).text());
    print("  fetches", &Times::new(report.fetches).text());
    print("  accepted and given up", &report.given_up.len().to_string());
    print("  server's peak RSS", &format!("{} MiB", server.peak_rss_kib() / 1_024));
    assert!(refs.at(0.99) < REFS_P99_MAX, "refs: p99 {:.0} ms", milliseconds(refs.at(0.99)));
}

/// The same snapshot of about 30 MB pushed to eight repositories at the same time.
fn manifests() {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    let mut local = Repository::init();
    let empty = sha256_hex(b"");
    let path = |number| (format!("a-folder/with-a-rather-long-name/file-{number:06}.txt"), empty.clone());
    let tree: Tree = (0..PATHS).map(path).collect();
    let head = local.commit_tree("main", "large", &tree, &[]);
    let body = bundle_body(&local, std::slice::from_ref(&head), "main", false).encode();
    let token = data.token("load");
    let urls: Vec<String> = (0..MANIFESTS).map(|number| format!("load/m{number}")).collect();
    urls.iter().for_each(|repo| drop(data.create_repo(repo, &[])));
    thread::scope(|scope| {
        for repo in &urls {
            let (server, token, body) = (&server, &token, &body);
            scope.spawn(move || {
                let answer = Request::post(server.url(&format!("{repo}/push")), Some(token), body).value();
                assert_eq!(answer.expect("accepted").get("ok"), Some(&Value::Bool(true)));
            });
        }
    });
    print(&format!("{MANIFESTS} pushes of a manifest at once"), &format!("{:.1} MB each", body.len() as f64 / 1e6));
    print("  server's peak RSS", &format!("{} MiB", server.peak_rss_kib() / 1_024));
}
