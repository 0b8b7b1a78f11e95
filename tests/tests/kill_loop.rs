//! kill -9 of the real server under load, again and again: nothing that was acknowledged is ever lost (T10).
//!
//! `REPRISE_KILL_CYCLES` (default 50) for longer runs, `REPRISE_SEED` to repeat one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use rand::RngExt;
use reprise_tests::{
    client::{Refs, clone},
    oracle::Oracle,
    seeds,
    server_process::{DataDir, ServerProcess},
    workload::{Writer, lock},
};

const REPOS: [&str; 3] = ["alice/one", "alice/two", "bob/three"];
const WRITERS: usize = 6;

#[test]
fn nothing_acknowledged_is_lost_in_fifty_kills_under_load() {
    let cycles = seeds::count("REPRISE_KILL_CYCLES", 50);
    let seed = seeds::seed("kill_loop");
    let mut random = seeds::random(seed, 0);
    let data = DataDir::new();
    let mut server = data.serve();
    server.wait_ready();
    let tokens: BTreeMap<&str, String> = ["alice", "bob"].into_iter().map(|owner| (owner, data.token(owner))).collect();
    for repo in REPOS {
        data.create_repo(repo, &[]);
    }
    let writer = |stream: usize| Writer::new(REPOS[stream % 3], &format!("w{stream}"), seed, stream as u64 + 1);
    let mut writers: Vec<Writer> = (0..WRITERS).map(writer).collect();
    let oracle = Arc::new(Mutex::new(Oracle::default()));
    let (mut acked, started) = (0, Instant::now());
    for cycle in 0..cycles {
        let load = Duration::from_millis(random.random_range(20..250));
        let (pushed, mut returned) = load_until_killed(server, writers, &tokens, &oracle, load);
        acked += pushed;
        server = data.serve();
        server.wait_ready();
        for repo in REPOS {
            let seen = Refs::get(&server.url(repo), None).unwrap().branch_heads.into_iter().collect();
            lock(&oracle).judge(repo, &seen).unwrap_or_else(|error| panic!("cycle {cycle}, seed {seed}: {error}"));
        }
        for writer in &mut returned {
            writer.settle(lock(&oracle).head(&writer.repo, &writer.branch));
        }
        // One repository per cycle in turn, all of them at the end.
        check_clones(&server, &returned, &[REPOS[usize::try_from(cycle).unwrap() % 3]]);
        writers = returned;
    }
    check_clones(&server, &writers, &REPOS);
    assert!(acked > cycles, "the load was real: {acked} pushes in {cycles} cycles");
    let oracle = lock(&oracle);
    let line = format!(
        "kill loop: {cycles} cycles, {acked} pushes acknowledged, {} unanswered ones had happened, {} had not, {:.1} s",
        oracle.unknown_happened,
        oracle.unknown_did_not,
        started.elapsed().as_secs_f64()
    );
    drop(writeln!(std::io::stderr(), "{line}"));
    let verified = data.run(&["verify", "--json"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    server.stop();
}

/// Runs all writers, kills the server after `load`; the pushes that were acknowledged, and the writers back.
fn load_until_killed(
    server: ServerProcess,
    writers: Vec<Writer>,
    tokens: &BTreeMap<&str, String>,
    oracle: &Arc<Mutex<Oracle>>,
    load: Duration,
) -> (u64, Vec<Writer>) {
    let (never, timer) = mpsc::channel::<()>();
    let threads: Vec<_> = writers
        .into_iter()
        .map(|mut writer| {
            let token = &tokens[writer.repo.split('/').next().unwrap()];
            let (remote, oracle) = (server.remote(&writer.repo, Some(token)), Arc::clone(oracle));
            thread::spawn(move || {
                let acked = writer.run(remote, &oracle);
                (acked, writer)
            })
        })
        .collect();
    // The load's length: nothing is waited for but the time itself.
    assert!(timer.recv_timeout(load).is_err());
    server.kill();
    drop(never);
    let mut acked = 0;
    let mut back = Vec::new();
    for thread in threads {
        let (pushed, writer) = thread.join().expect("a writer panicked");
        acked += pushed;
        back.push(writer);
    }
    (acked, back)
}

fn check_clones(server: &ServerProcess, writers: &[Writer], repos: &[&str]) {
    for repo in repos {
        let heads: Vec<&Writer> = writers
            .iter()
            .filter(|writer| writer.repo == *repo && writer.local.heads.contains_key(&writer.branch))
            .collect();
        if heads.is_empty() {
            continue;
        }
        let cloned = clone(&server.url(repo)).unwrap_or_else(|error| panic!("{repo}: {error:?}"));
        for writer in heads {
            let head = writer.local.head(&writer.branch);
            cloned.check_complete(head).unwrap_or_else(|error| panic!("{repo} {}: {error}", writer.branch));
            assert_eq!(cloned.tree(head), writer.local.tree(head));
        }
    }
}
