//! Open after kill -9 with a long log: time to the listening line (the log is ready) and to `/ready`.
//!
//! The log is that of very many small pushes, the hardest to open by its size (most events, most push ids); the engine
//! itself appends them, without their packs, since making those takes longer than everything that is measured.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Instant,
};

use reprise_engine::{
    clock::{SystemClock, SystemRandom},
    disk::real::RealDisk,
    engine::{Engine, Options, Outcome, Parts, Proposal},
    event::{
        Codec, CommitFacts, EventBody, ObjectRow, ObjectsReceived, RefUpdate, RefsUpdated, RepoRecord, SnapshotFacts,
        Visibility,
    },
    id::{Kind, ObjectId, PackId, PushId, RecordHash, RepoId, TableHash},
    store::directory::DirectoryStore,
};
use reprise_tests::server_process::DataDir;
use sha2::{Digest, Sha256};

use crate::figures::print;

/// Prints both times for a log of at least so many megabytes.
pub fn run(megabytes: u64) {
    let data = DataDir::new();
    let started = Instant::now();
    let pushes = make_log(&data.path(), megabytes);
    let made = started.elapsed().as_secs_f64();
    let bytes = bytes_below(&data.path().join("log"));
    println!("a log of {} MB by {pushes} small pushes, made in {made:.0} s", bytes / 1_000_000);
    let server = data.serve();
    let started = Instant::now();
    server.wait_ready();
    print("  every projection from nothing", &format!("{:.1} s", started.elapsed().as_secs_f64()));
    print("  server's peak RSS", &format!("{} MiB", server.peak_rss_kib() / 1_024));
    data.create_repo("load/after", &[]);
    server.kill();
    let started = Instant::now();
    let server = data.serve();
    let listening = started.elapsed().as_secs_f64();
    server.wait_ready();
    let ready = started.elapsed().as_secs_f64();
    print(
        &format!("open after kill -9, log of {} MB", bytes / 1_000_000),
        &format!("listening after {listening:.2} s, ready after {ready:.2} s"),
    );
    print("  server's peak RSS", &format!("{} MiB", server.peak_rss_kib() / 1_024));
}

fn make_log(data: &Path, megabytes: u64) -> u64 {
    let parts = Parts {
        disk: Arc::new(RealDisk::new(data.to_path_buf())),
        store: Arc::new(DirectoryStore::new(Arc::new(RealDisk::new(data.join("objects"))), Arc::new(SystemRandom))),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    let engine = Engine::open(parts, Options::new("load")).expect("the log opens").0;
    let created = engine.propose_and_wait(proposal(u64::MAX, vec![EventBody::RepoCreated(repo())]));
    assert!(matches!(created, Outcome::Done { .. }), "{created:?}");
    let (ended, all_ended) = mpsc::channel();
    let flight =
        Flight { engine: engine.clone(), next: Arc::default(), until: megabytes * 1_000_000 / PUSH_BYTES, ended };
    let next = flight.next.clone();
    (0..IN_FLIGHT).for_each(|_| flight.clone().propose());
    drop(flight);
    assert!(all_ended.recv().is_err(), "nothing is sent: the last to end closes the channel");
    engine.shutdown().expect("the log closes");
    next.load(Ordering::Relaxed)
}

#[derive(Clone)]
struct Flight {
    engine: Engine,
    next: Arc<AtomicU64>,
    until: u64,
    #[allow(dead_code, reason = "dropped with the last flight")]
    ended: mpsc::Sender<()>,
}

impl Flight {
    /// Each answer proposes the next push.
    fn propose(self) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.until {
            return;
        }
        let engine = self.engine.clone();
        let next = move |outcome| {
            assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
            self.propose();
        };
        engine.propose(proposal(number, small_push(number)), Box::new(next));
    }
}

fn proposal(number: u64, events: Vec<EventBody>) -> Proposal {
    let push = PushId::from_random(std::array::from_fn(|at| name(number, "push").0[at]));
    Proposal { push, fingerprint: number, actor: "load".to_owned(), conditions: Vec::new(), events }
}

/// Two blobs, a snapshot, a commit and the branch that is made with it.
fn small_push(number: u64) -> Vec<EventBody> {
    let (commit, snapshot) = (name(number, "commit"), name(number, "snapshot"));
    let mut blobs = [name(number, "one"), name(number, "two")];
    blobs.sort_unstable();
    let row = |kind, id, offset| ObjectRow {
        kind,
        id,
        offset,
        stored_len: 400,
        real_len: 400,
        codec: Codec::Raw,
        base: None,
        record_hash: (kind != Kind::Blob).then_some(RecordHash(id.0)),
    };
    let rows = vec![
        row(Kind::Blob, blobs[0], 200),
        row(Kind::Blob, blobs[1], 700),
        row(Kind::Snapshot, snapshot, 1_200),
        row(Kind::Commit, commit, 1_700),
    ];
    let facts = CommitFacts {
        id: commit,
        parents: Vec::new(),
        snapshot,
        committed_at: "2026-03-16T12:00:00.000123+00:00".to_owned(),
        branch: "main".to_owned(),
        author: "load".to_owned(),
        message: format!("a change like many others, number {number}, with a line that says why it was made"),
        adds: blobs.to_vec(),
        wire_len: 700,
    };
    let received = ObjectsReceived {
        repo: REPO,
        pack: PackId(name(number, "pack").0),
        pack_bytes: 3_000,
        table_hash: TableHash(name(number, "table").0),
        rows,
        snapshots: vec![SnapshotFacts { id: snapshot, entries: 2, directories: 0, wire_len: 400 }],
        commits: vec![facts],
    };
    let branch = RefUpdate { name: format!("b{}", number % BRANCHES), old: None, new: Some(commit), forced: true };
    let moved = RefsUpdated { repo: REPO, updates: vec![branch] };
    let mut events = vec![EventBody::ObjectsReceived(received)];
    // A branch can only be made once; later pushes leave it where it is.
    if number < BRANCHES {
        events.push(EventBody::RefsUpdated(moved));
    }
    events
}

fn repo() -> RepoRecord {
    RepoRecord {
        repo: REPO,
        owner: "load".to_owned(),
        slug: "long".to_owned(),
        domain: "code".to_owned(),
        default_branch: "b0".to_owned(),
        visibility: Visibility::Public,
        created_ms: 0,
    }
}

fn name(number: u64, what: &str) -> ObjectId {
    ObjectId(Sha256::digest(format!("{what} {number}")).into())
}

fn bytes_below(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).expect("the log's directory").flatten();
    files.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file).map(|file| file.len()).sum()
}

const REPO: RepoId = RepoId([7; 16]);
const IN_FLIGHT: u64 = 256;
const BRANCHES: u64 = 64;
/// What one push takes in the log, about.
const PUSH_BYTES: u64 = 760;
