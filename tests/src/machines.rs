//! Real servers with disks of their own on one bucket whose requests fail, under load, killed, replaced and paused: what a fleet's
//! kill loop does and what it checks.
//!
//! Invariants: the oracle lives here, the servers in processes of their own; while a cycle goes on any answer may stay away, and
//! whoever got none asks again by the same push id, of any server, until he knows; what is judged is judged when nothing fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, rngs::StdRng};
use rustix::process::Signal;

use crate::{
    bucket::{
        Bucket, Faults,
        machine::{URL, machine, until},
    },
    oracle::Oracle,
    seeds,
    server_process::{DataDir, ServerProcess},
    workload::{Client, Field, Racer, Reader, Writer, check_log, check_served, judge},
};

const REPOS: [&str; 3] = ["alice/one", "alice/two", "bob/three"];

/// What happens to a fleet in one cycle, beside failing requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Event {
    /// One is killed, and again while it opens, and starts where it was.
    Killed,
    /// One is killed, and its disk is lost.
    Lost,
    /// One stands still until the others have sealed a segment.
    Paused,
    /// Nobody reaches the bucket for a moment.
    Unreachable,
}

/// What happens to one machine alone, in turn; nobody would seal while it stood still.
const ALONE: [Event; 3] = [Event::Lost, Event::Killed, Event::Unreachable];
/// What happens to several.
const TOGETHER: [Event; 5] = [Event::Killed, Event::Lost, Event::Paused, Event::Lost, Event::Unreachable];

/// All of it.
pub struct Fleet {
    bucket: Bucket,
    arguments: Vec<&'static str>,
    machines: Vec<Machine>,
    clients: Vec<Box<dyn Client>>,
    random: StdRng,
    seed: u64,
    /// Of each repository: heads that were compared already.
    compared: [usize; REPOS.len()],
    /// The machine that stands still, or none.
    still: Arc<AtomicUsize>,
    /// Successes that clients saw.
    pub acknowledged: u64,
    /// Requests that failed in some way.
    pub failed: u64,
}

/// One machine: it has a disk, and a server that may be dead.
struct Machine {
    data: DataDir,
    server: Option<ServerProcess>,
    field: Arc<Field>,
}

impl Machine {
    /// Starts its server. With a bucket that fails an opening may fail too, and is tried again.
    fn start(&mut self, arguments: &[&str]) {
        let mut told = String::new();
        for _ in 0..STARTS_MAX {
            match self.data.try_serve_with(arguments) {
                Ok(server) => {
                    server.wait_ready();
                    self.field.serve(&server);
                    self.field.doom();
                    self.server = Some(server);
                    return;
                }
                Err(printed) => told = printed,
            }
        }
        panic!("{STARTS_MAX} starts failed; the last one: {told}");
    }

    fn kill(&mut self) {
        self.server.take().expect("a living server").kill();
    }

    fn signal(&self, signal: Signal) {
        self.server.as_ref().expect("a living server").signal(signal);
    }
}

impl Fleet {
    /// `count` servers, started with `arguments`, and clients of all of them. `number` tells fleets of one seed apart.
    pub fn new(seed: u64, number: u64, count: usize, arguments: &[&'static str]) -> Fleet {
        let bucket = Bucket::start();
        // Segments of few slots, so that there is always one to seal; not so few that the servers, who give each other up to three
        // seconds for each, seal more slowly than the clients fill them.
        bucket.objects.overwrite("hub/log/SHARED", Bytes::from_static(b"segment_bytes 262144\nsegment_slots 64\n"));
        let arguments = [&["--bucket", URL], arguments].concat();
        let first = machine(&bucket);
        let server = first.serve_with(&arguments);
        server.wait_ready();
        for repo in REPOS {
            first.create_repo(repo, &[]);
        }
        let field = Field::new(&first, &["alice", "bob"]);
        let beside = |_| Machine { data: machine(&bucket), server: None, field: Arc::new(field.beside()) };
        let mut machines: Vec<Machine> = (1..count).map(beside).collect();
        machines.iter_mut().for_each(|machine| machine.start(&arguments));
        field.serve(&server);
        machines.push(Machine { data: first, server: Some(server), field: Arc::new(field) });
        let stream = number * 100;
        Fleet {
            bucket,
            arguments,
            machines,
            clients: clients(seed, stream),
            random: seeds::random(seed, stream),
            seed,
            compared: [0; REPOS.len()],
            still: Arc::new(AtomicUsize::new(usize::MAX)),
            acknowledged: 0,
            failed: 0,
        }
    }

    /// One cycle: load and failing requests, an event, and then all that must be true.
    pub fn cycle(&mut self, cycle: u64) -> Event {
        let percent = [0, 2, 6][self.random.random_range(0..3)];
        let (before, after) = (self.random.random_range(20..200), self.random.random_range(20..200));
        let events: &[Event] = if self.machines.len() == 1 { &ALONE } else { &TOGETHER };
        let event = events[cycle as usize % events.len()];
        let at = self.random.random_range(0..self.machines.len());
        self.under_load(|fleet| {
            fleet.bucket.objects.set_faults(Faults::random(fleet.seed ^ cycle, percent));
            // The length of the load: nothing is waited for but the time itself.
            thread::sleep(Duration::from_millis(before));
            fleet.happen(event, at);
            thread::sleep(Duration::from_millis(after));
        });
        self.settle();
        self.judge(cycle);
        event
    }

    /// Every client works with whichever server, until `script` is through.
    fn under_load(&mut self, script: impl FnOnce(&mut Fleet)) {
        let (stop, seen) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut clients = std::mem::take(&mut self.clients);
        let fields: Vec<Arc<Field>> = self.machines.iter().map(|machine| Arc::clone(&machine.field)).collect();
        fields.iter().for_each(|field| field.doom());
        let still = Arc::clone(&self.still);
        thread::scope(|scope| {
            let _ended = Ended(&stop);
            for client in &mut clients {
                let mut dice = seeds::random(self.random.random(), 1);
                let (stop, seen, fields, still) = (&stop, &seen, &fields, &still);
                scope.spawn(move || {
                    while !stop.load(Ordering::Acquire) {
                        let at = dice.random_range(0..fields.len());
                        // Who asked it before it stood still waits for it; the others go on with the others.
                        if at == still.load(Ordering::Acquire) {
                            continue;
                        }
                        let success = client.known(&fields[at]).then(|| client.step(&fields[at])).flatten();
                        seen.fetch_add(u64::from(success == Some(true)), Ordering::Relaxed);
                        // The pace of somebody who thinks, and who asks servers that may not be there.
                        thread::sleep(Duration::from_millis(dice.random_range(20..100)));
                    }
                });
            }
            script(self);
        });
        self.clients = clients;
        self.acknowledged += seen.into_inner();
    }

    fn happen(&mut self, event: Event, at: usize) {
        match event {
            Event::Killed => {
                self.machines[at].kill();
                for _ in 0..self.random.random_range(0..3) {
                    let life = Duration::from_millis(self.random.random_range(1..150));
                    self.machines[at].data.serve_briefly(life);
                }
                self.machines[at].start(&self.arguments);
            }
            Event::Lost => {
                self.machines[at].kill();
                self.machines[at].data = machine(&self.bucket);
                self.machines[at].start(&self.arguments);
            }
            Event::Paused => {
                self.still.store(at, Ordering::Release);
                self.machines[at].signal(Signal::STOP);
                let (sealed, slots) = (self.newest("hub/log/seg-"), self.newest("hub/log/slots/"));
                until("the others seal what it knew as the end, and its slot goes", || {
                    let gone = slots.as_ref().is_none_or(|slot| self.bucket.objects.bytes(slot).is_none());
                    gone && self.newest("hub/log/seg-") > sealed
                });
                self.machines[at].signal(Signal::CONT);
                self.still.store(usize::MAX, Ordering::Release);
            }
            Event::Unreachable => {
                let faults = std::mem::replace(
                    &mut *self.bucket.objects.faults.lock().expect("nobody panicked"),
                    Faults { down: true, ..Faults::default() },
                );
                thread::sleep(Duration::from_millis(self.random.random_range(50..600)));
                self.bucket.objects.set_faults(faults);
            }
        }
    }

    fn newest(&self, prefix: &str) -> Option<String> {
        self.bucket.objects.keys().into_iter().rfind(|key| key.starts_with(prefix))
    }

    /// Nothing fails any more; whoever got no answer asks again until he knows.
    fn settle(&mut self) {
        self.bucket.objects.set_faults(Faults::default());
        self.bucket.objects.land_late();
        self.failed += self.bucket.objects.take_fired().values().sum::<u64>();
        for machine in &self.machines {
            machine.field.serve(machine.server.as_ref().expect("a living server"));
        }
        for client in &mut self.clients {
            until("everything unanswered is known", || {
                let at = self.random.random_range(0..self.machines.len());
                client.known(&self.machines[at].field)
            });
        }
    }

    /// Every server shows what was acknowledged and nothing that was not; one repository is fetched back from one of them.
    fn judge(&mut self, cycle: u64) {
        for machine in &self.machines {
            judge(&machine.field, &REPOS, &[]).unwrap_or_else(|error| panic!("cycle {cycle}: {error}"));
        }
        let (repo, at) = (cycle as usize % REPOS.len(), self.random.random_range(0..self.machines.len()));
        let compared = check_served(&self.machines[at].field, REPOS[repo], self.compared[repo]);
        self.compared[repo] = compared.unwrap_or_else(|error| panic!("cycle {cycle}, {}: {error}", REPOS[repo]));
    }

    /// Clones of everything from every server, equal digests, every push once in the log, nothing called damaged.
    pub fn end(mut self) -> Oracle {
        for machine in &self.machines {
            for repo in REPOS {
                check_served(&machine.field, repo, 0).unwrap_or_else(|error| panic!("{repo}: {error}"));
            }
        }
        let digests: Vec<_> = self.machines.iter().map(|machine| machine.data.json(&["digest"])).collect();
        let same = |pair: &[serde_json::Value]| pair[0]["digest"] == pair[1]["digest"];
        assert!(digests.windows(2).all(same), "{digests:?}");
        let first = &self.machines[0];
        check_log(&first.field, &first.data).unwrap();
        let events = first.data.json_lines(&["log"]);
        let condemned =
            events.iter().find(|event| event["kind"].as_str().is_none_or(|kind| kind.contains("condemned")));
        assert!(condemned.is_none(), "a bucket that fails is no damage: {condemned:?}");
        let verified = first.data.run(&["verify", "--deep", "--json"]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        let oracle = first.field.oracle().clone();
        self.machines.drain(..).for_each(|mut machine| machine.server.take().expect("a living server").stop());
        oracle
    }
}

/// However it ends, the clients end too.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn clients(seed: u64, stream: u64) -> Vec<Box<dyn Client>> {
    let writer = |repo, branch, client| Writer::new(repo, branch, seed, stream + client);
    vec![
        Box::new(writer("alice/one", "first", 1)),
        Box::new(writer("alice/one", "second", 2).forcing()),
        Box::new(Racer::new("alice/two", "race", seed, stream + 3)),
        Box::new(Racer::new("alice/two", "race", seed, stream + 4)),
        Box::new(writer("bob/three", "main", 5)),
        Box::new(Reader::new(&REPOS)),
    ]
}

const STARTS_MAX: usize = 5;
