//! Three servers on one bucket that answers 20 ms late: one push of one commit, alone, and from 240 clients at once.

use std::{
    thread,
    time::{Duration, Instant},
};

use reprise_tests::{
    bucket::{
        Bucket, Faults,
        machine::{URL, machine},
    },
    client::{
        Remote, Repository,
        push::{bundle_body, objects_body},
    },
    server_process::{DataDir, ServerProcess},
};

use crate::{
    exchange::{Prepared, Taken},
    figures::{Times, print},
};

const SERVERS: usize = 3;
const CLIENTS: usize = 240;
const PUSHES: usize = 20;
const ALONE: usize = 60;
/// What a request to a bucket takes in the same region.
pub const LATENCY: Duration = Duration::from_millis(20);

/// Prints the times of single pushes, the rate of all, and what they cost the bucket.
pub fn run() {
    let bucket = Bucket::start();
    let machines: Vec<DataDir> = (0..SERVERS).map(|_| machine(&bucket)).collect();
    let more = ["--log", "bucket", "--create-on-push", "private"];
    let servers: Vec<ServerProcess> = machines.iter().map(|data| serve(data, &more)).collect();
    let token = machines[0].token("load");
    let history = History::new();
    let remote = |client: usize| servers[client % SERVERS].remote(&format!("load/c{client:03}"), Some(&token));
    in_parallel((0..=CLIENTS).map(|client| history.first(&remote(client))).collect());
    bucket.objects.set_faults(Faults { latency: LATENCY, ..Faults::default() });

    bucket.objects.take_counts();
    let taken = in_turn(&history.next(&remote(CLIENTS), ALONE));
    print("push of one commit, bucket 20 ms away", &whole(&taken));
    print("  requests to the bucket each", &per_push(&bucket, ALONE));

    let requests = (0..CLIENTS).map(|client| history.next(&remote(client), PUSHES)).collect();
    let started = Instant::now();
    let taken = in_parallel(requests);
    let rate = (CLIENTS * PUSHES) as f64 / started.elapsed().as_secs_f64();
    print(&format!("pushes of {CLIENTS} clients to {SERVERS} servers"), &format!("{rate:.0}/s"));
    print("  each", &whole(&taken));
    print("  requests to the bucket each", &per_push(&bucket, CLIENTS * PUSHES));
    let rss = servers.iter().map(ServerProcess::peak_rss_kib).max().unwrap_or(0);
    print("  a server's peak RSS", &format!("{} MiB", rss / 1_024));
}

/// A server on the bucket.
pub fn serve(data: &DataDir, more: &[&str]) -> ServerProcess {
    let server = data.serve_with(&[&["--bucket", URL], more].concat());
    server.wait_ready();
    server
}

/// One file that wanders: every commit after the first has a new tree and no new object.
struct History {
    local: Repository,
    commits: Vec<String>,
}

impl History {
    fn new() -> History {
        let mut local = Repository::init();
        let mut commits = vec![local.commit("main", "first", &[("0", Some(b"the file"))])];
        for at in 1..=ALONE.max(PUSHES) {
            let (before, now) = ((at - 1).to_string(), at.to_string());
            commits.push(local.commit("main", "next", &[(&before, None), (&now, Some(b"the file"))]));
        }
        History { local, commits }
    }

    fn first(&self, remote: &Remote) -> Vec<Prepared> {
        let objects: Vec<String> = self.local.objects.keys().cloned().collect();
        let body = bundle_body(&self.local, &self.commits[..1], "main", false).encode();
        vec![
            Prepared::new(remote, "POST", "push/objects", &objects_body(&self.local.objects, &objects)),
            Prepared::new(remote, "POST", "push", &body),
        ]
    }

    fn next(&self, remote: &Remote, count: usize) -> Vec<Prepared> {
        let body = |at: usize| bundle_body(&self.local, &self.commits[at..=at], "main", false).encode();
        (1..=count).map(|at| Prepared::new(remote, "POST", "push", &body(at))).collect()
    }
}

fn in_turn(requests: &[Prepared]) -> Vec<Taken> {
    let mut buffer = vec![0; 64 << 10];
    requests.iter().map(|request| request.run(&mut buffer)).collect()
}

/// Every client's requests in turn, all clients at once.
fn in_parallel(clients: Vec<Vec<Prepared>>) -> Vec<Taken> {
    thread::scope(|scope| {
        let running: Vec<_> = clients.iter().map(|requests| scope.spawn(|| in_turn(requests))).collect();
        running.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    })
}

fn whole(taken: &[Taken]) -> String {
    Times::new(taken.iter().map(|taken| taken.whole).collect()).text()
}

/// What so many pushes asked of the bucket since it was last asked.
fn per_push(bucket: &Bucket, pushes: usize) -> String {
    let counts = bucket.objects.take_counts();
    let each: Vec<String> =
        counts.iter().map(|(name, count)| format!("{:.2} {name}", *count as f64 / pushes as f64)).collect();
    each.join(", ")
}
