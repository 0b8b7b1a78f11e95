//! Durable appends of one small event through the engine: one client, 16 clients, 256 in flight; against fdatasync.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use reprise_engine::{
    clock::{Random, SystemClock, SystemRandom, random16},
    disk::real::RealDisk,
    engine::{Engine, Options, Outcome, Parts, Proposal},
    event::{EventBody, TagsDeleted},
    id::{PushId, RepoId},
    store::memory::MemoryStore,
};

use crate::{figures::print, machine};

const SECONDS: u64 = 3;

/// Prints rates and their ratios.
pub fn run() {
    let sync = machine::fdatasync();
    let limit = 1.0 / sync.at(0.5).as_secs_f64();
    let one = clients(1);
    let sixteen = clients(16);
    let flight = in_flight(256);
    print("fdatasync on preallocated space", &format!("{limit:.0}/s ({})", sync.text()));
    print("durable append, one client", &format!("{one:.0}/s, {:.0} % of fdatasync", 100.0 * one / limit));
    print("durable append, 16 clients", &format!("{sixteen:.0}/s, {:.1} × one client", sixteen / one));
    print("durable append, 256 in flight", &format!("{flight:.0}/s, {:.1} × one client", flight / one));
}

fn open(dir: &Path) -> Engine {
    let parts = Parts {
        disk: Arc::new(RealDisk::new(dir.to_path_buf())),
        store: Arc::new(MemoryStore::new()),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    Engine::open(parts, Options::new("load")).expect("the log opens").0
}

fn proposal(repo: RepoId) -> Proposal {
    Proposal {
        push: PushId::from_random(random16(&SystemRandom as &dyn Random).expect("random")),
        fingerprint: 0,
        actor: "load".to_owned(),
        conditions: Vec::new(),
        events: vec![EventBody::TagsDeleted(TagsDeleted { repo, tags: vec!["a".to_owned()] })],
    }
}

fn clients(count: usize) -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = open(dir.path());
    let repo = repo();
    let until = Instant::now() + Duration::from_secs(SECONDS);
    let done: u64 = thread::scope(|scope| {
        let client = |_| {
            scope.spawn(|| {
                let mut done = 0;
                while Instant::now() < until {
                    let outcome = engine.propose_and_wait(proposal(repo));
                    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
                    done += 1;
                }
                done
            })
        };
        let threads: Vec<_> = (0..count).map(client).collect();
        threads.into_iter().map(|thread| thread.join().expect("a client")).sum()
    });
    engine.shutdown().expect("shutdown");
    done as f64 / SECONDS as f64
}

fn in_flight(count: usize) -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = open(dir.path());
    let repo = repo();
    let (sender, done) = mpsc::channel();
    let propose = || {
        let sender = sender.clone();
        engine.propose(proposal(repo), Box::new(move |outcome| drop(sender.send(outcome))));
    };
    (0..count).for_each(|_| propose());
    let until = Instant::now() + Duration::from_secs(SECONDS);
    let mut appended = 0u64;
    while Instant::now() < until {
        let outcome = done.recv().expect("an outcome");
        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
        appended += 1;
        propose();
    }
    engine.shutdown().expect("shutdown");
    appended as f64 / SECONDS as f64
}

fn repo() -> RepoId {
    RepoId::from_random(random16(&SystemRandom as &dyn Random).expect("random"))
}
