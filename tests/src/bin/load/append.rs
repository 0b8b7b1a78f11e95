//! Durable appends of one small event through the engine: one client, 16 clients, 256 in flight; against fdatasync.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use reprise_engine::{
    clock::{Random, SystemClock, SystemRandom, random16},
    disk::real::RealDisk,
    engine::{Engine, Options, Outcome, Parts, Proposal},
    event::{EventBody, RepoRecord, TagsDeleted, Visibility},
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
    let engine = Engine::open(parts, Options::new("load")).expect("the log opens").0;
    let created = engine.propose_and_wait(proposal(repo()));
    assert!(matches!(created, Outcome::Done { .. }), "{created:?}");
    engine
}

fn proposal(event: EventBody) -> Proposal {
    Proposal {
        push: PushId::from_random(random16(&SystemRandom as &dyn Random).expect("random")),
        fingerprint: 0,
        actor: "load".to_owned(),
        conditions: Vec::new(),
        events: vec![event],
    }
}

fn clients(count: usize) -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = open(dir.path());
    let until = Instant::now() + Duration::from_secs(SECONDS);
    let done: u64 = thread::scope(|scope| {
        let client = |_| {
            scope.spawn(|| {
                let mut done = 0;
                while Instant::now() < until {
                    let outcome = engine.propose_and_wait(proposal(tags()));
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

/// Keeps `count` proposals in flight: each answer proposes the next one.
fn in_flight(count: usize) -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = open(dir.path());
    let (ended, all_ended) = mpsc::channel();
    let until = Instant::now() + Duration::from_secs(SECONDS);
    let flight = Flight { engine: engine.clone(), appended: Arc::default(), until, ended };
    let appended = flight.appended.clone();
    (0..count).for_each(|_| flight.clone().propose());
    drop(flight);
    assert!(all_ended.recv().is_err(), "nothing is sent: the last to end closes the channel");
    engine.shutdown().expect("shutdown");
    appended.load(Ordering::Relaxed) as f64 / SECONDS as f64
}

#[derive(Clone)]
struct Flight {
    engine: Engine,
    appended: Arc<AtomicU64>,
    until: Instant,
    #[allow(dead_code, reason = "dropped with the last flight")]
    ended: mpsc::Sender<()>,
}

impl Flight {
    fn propose(self) {
        let engine = self.engine.clone();
        let next = move |outcome| {
            assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
            self.appended.fetch_add(1, Ordering::Relaxed);
            if Instant::now() < self.until {
                self.propose();
            }
        };
        engine.propose(proposal(tags()), Box::new(next));
    }
}

fn tags() -> EventBody {
    EventBody::TagsDeleted(TagsDeleted { repo: REPO, tags: vec!["a".to_owned()] })
}

fn repo() -> EventBody {
    EventBody::RepoCreated(RepoRecord {
        repo: REPO,
        owner: "load".to_owned(),
        slug: "load".to_owned(),
        domain: "code".to_owned(),
        default_branch: String::new(),
        visibility: Visibility::Public,
        created_ms: 0,
    })
}

const REPO: RepoId = RepoId([7; 16]);
