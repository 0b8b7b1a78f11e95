//! kill -9 of the real server under load, again and again: nothing that was acknowledged is ever lost (T10).
//!
//! The oracle lives in this process, the server in its own. After every kill: refs, releases and tags are compared with
//! what was acknowledged, everything that one repository ever acknowledged is fetched back and compared byte for byte, and
//! the digest of the live projections is compared with one folded from the log. At the end all of it for all of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, clippy::print_stderr)]

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};
use reprise_tests::{
    effort::Effort,
    seeds,
    server_process::{DataDir, ServerProcess},
    workload::{Churner, Client, Field, Labeler, Racer, Reader, Writer, check_log, check_served, judge, load_until},
};
use serde_json::Value as Json;

const REPOS: [&str; 4] = ["alice/one", "alice/two", "bob/three", "carol/fleeting"];
/// The first so many are there all the time.
const STAYING: usize = 3;
/// Cycles on one directory; a long run starts with a new one then, or history would be all that it handles.
const CYCLES_PER_DIRECTORY: u64 = 200;
/// Of so many cycles one compares digests too: folding everything again takes longer than a cycle.
const DIGEST_EVERY: u64 = 5;

struct Round {
    data: DataDir,
    field: Field,
    clients: Vec<Box<dyn Client>>,
    random: StdRng,
    server: ServerProcess,
    /// Of each staying repository: heads that were compared already.
    compared: [usize; STAYING],
    acked: u64,
}

impl Round {
    fn new(seed: u64, number: u64) -> Round {
        let data = DataDir::new();
        let server = data.serve();
        server.wait_ready();
        let field = Field::new(&data, &["alice", "bob", "carol"]);
        for repo in &REPOS[..STAYING] {
            data.create_repo(repo, &[]);
        }
        let stream = |client: u64| number * 100 + client;
        let writer = |repo, branch, client| Writer::new(repo, branch, seed, stream(client));
        let clients: Vec<Box<dyn Client>> = vec![
            Box::new(writer("alice/one", "first", 1)),
            Box::new(writer("alice/one", "second", 2).forcing()),
            Box::new(writer("alice/two", "main", 3)),
            Box::new(Racer::new("alice/two", "race", seed, stream(4))),
            Box::new(Racer::new("alice/two", "race", seed, stream(5))),
            Box::new(writer("bob/three", "main", 6)),
            Box::new(Labeler::new("bob/three", seed, stream(7))),
            Box::new(Churner::new("carol/fleeting", seed, stream(8))),
            Box::new(Reader::new(&REPOS)),
        ];
        let random = seeds::random(seed, stream(0));
        Round { data, field, clients, random, server, compared: [0; STAYING], acked: 0 }
    }

    /// One kill, and all that must be true after it.
    fn cycle(mut self, cycle: u64) -> Round {
        let load = Duration::from_millis(self.random.random_range(20..250));
        self.acked += load_until(self.server, &mut self.clients, &self.field, load, ServerProcess::kill);
        // Killed while it recovers, as often as not: recovery must not need to come to its end.
        for _ in 0..self.random.random_range(0..3) {
            self.data.serve_briefly(Duration::from_millis(self.random.random_range(1..60)));
        }
        self.server = self.data.serve();
        self.server.wait_ready();
        self.field.serve(&self.server);
        self.clients.iter_mut().for_each(|client| client.ask_again(&self.field));
        let tags = self.asked("projections/dump/tags");
        judge(&self.field, &REPOS, &tags).unwrap_or_else(|error| panic!("cycle {cycle}: {error}"));
        self.clients.iter_mut().for_each(|client| client.settle(&self.field));
        let repo = usize::try_from(cycle).unwrap() % STAYING;
        self.compare(repo, self.compared[repo]);
        if cycle.is_multiple_of(DIGEST_EVERY) {
            self.compare_digests();
        }
        self
    }

    /// Fetches back what a repository acknowledged, from the `from`th head on.
    fn compare(&mut self, repo: usize, from: usize) {
        let name = REPOS[repo];
        self.compared[repo] = check_served(&self.field, name, from).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    fn asked(&self, path: &str) -> Vec<Json> {
        self.data.asked(&self.server, path)
    }

    fn compare_digests(&self) {
        let live = &self.asked("projections/digest")[0];
        let folded = &self.asked(&format!("projections/digest?at={}", live["position"]))[0];
        assert_eq!(live["digest"], folded["digest"], "live, and folded again from the log");
    }

    /// All of it, for everything.
    fn end(mut self) -> Field {
        for repo in 0..STAYING {
            self.compare(repo, 0);
        }
        let tags = self.asked("projections/dump/tags");
        judge(&self.field, &REPOS, &tags).unwrap();
        self.compare_digests();
        let pushes = check_log(&self.field, &self.data).unwrap();
        assert!(pushes > 0);
        let verified = self.data.run(&["verify", "--deep", "--json"]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        self.server.stop();
        self.field
    }
}

#[test]
fn nothing_acknowledged_is_lost_in_fifty_kills_under_load() {
    let seed = seeds::seed("kill_loop");
    let mut round = Round::new(seed, 0);
    let (mut acked, mut pushes, mut happened, mut did_not) = (0, 0, 0, 0);
    let mut add = |round: Round| {
        acked += round.acked;
        let field = round.end();
        pushes += field.oracle().pushes().len();
        happened += field.oracle().unknown_happened;
        did_not += field.oracle().unknown_did_not;
    };
    let mut cycles = 0;
    for cycle in Effort::of("T10 kill -9", 50) {
        if cycles > 0 && u64::is_multiple_of(cycles, CYCLES_PER_DIRECTORY) {
            add(std::mem::replace(&mut round, Round::new(seed, cycle)));
        }
        round = round.cycle(cycle);
        cycles += 1;
    }
    add(round);
    assert!(pushes as u64 > cycles, "the load was real: {pushes} pushes acknowledged in {cycles} cycles");
    eprintln!(
        "kill loop: {cycles} cycles, {acked} successes seen, {pushes} pushes acknowledged, {happened} unanswered changes \
         had happened, {did_not} had not"
    );
}
