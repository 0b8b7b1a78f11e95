//! Every call of an object store × every outcome of its request (FAULTS.md, T12), over the real client and a real endpoint.
//!
//! Invariants: each cell has a bucket of its own; a cell whose outcome did not come true is a failure; whatever happens, a call ends
//! in bounded time, gives no wrong byte, overwrites none, and leaves nothing that is not said here.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reprise_engine::{
    ErrorKind, Result,
    clock::SystemRandom,
    disk::real::RealDisk,
    id::{LogId, PackId},
    store::{
        Created, ObjectStore, StoreKey,
        directory::DirectoryStore,
        s3::{Copies, Pace, S3Settings, S3Store},
    },
};

use super::{Bucket, Fault, Faults};

/// What is asked of the store, and which request of it fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// A slot, a mark.
    Create,
    /// A pack or a segment in one PUT.
    Commit,
    /// The beginning of one in parts.
    Begin,
    /// One of its parts.
    Part,
    /// Its end.
    Complete,
    /// Its end when a part did not come through.
    Abort,
    /// A range.
    Read,
    /// A slot, or the end of a segment.
    ReadTail,
    /// Whether it is there.
    Size,
    /// One key.
    Delete,
    /// Many keys.
    DeleteAll,
    /// Several pages.
    List,
    /// The mark of the log, read.
    ClaimRead,
    /// The mark of the log, put there.
    ClaimPut,
    /// The proof that keys are created once.
    Probe,
}

use Call::{
    Abort, Begin, ClaimPut, ClaimRead, Commit, Complete, Create, Delete, DeleteAll, List, Part, Probe, Read, ReadTail,
    Size,
};

/// All of them.
pub const CALLS: [Call; 15] = [
    Create, Commit, Begin, Part, Complete, Abort, Read, ReadTail, Size, Delete, DeleteAll, List, ClaimRead, ClaimPut,
    Probe,
];

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing goes wrong.
    Sound,
    /// Something does.
    Fails(Fault),
    /// 412: the same bytes stand there.
    Mine,
    /// 412: other bytes stand there.
    Other,
}

/// All of them.
pub const OUTCOMES: [Outcome; 15] = [
    Outcome::Sound,
    Outcome::Mine,
    Outcome::Other,
    Outcome::Fails(Fault::DropBefore),
    Outcome::Fails(Fault::DropAfter),
    Outcome::Fails(Fault::Conflict),
    Outcome::Fails(Fault::Missing),
    Outcome::Fails(Fault::ErrorBefore),
    Outcome::Fails(Fault::ErrorAfter),
    Outcome::Fails(Fault::SlowDown),
    Outcome::Fails(SLOW),
    Outcome::Fails(Fault::Half),
    Outcome::Fails(Fault::Short),
    Outcome::Fails(Fault::Late(u32::MAX)),
    Outcome::Fails(Fault::Twice),
];

/// One cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    call: Call,
    outcome: Outcome,
    /// So many requests in a row fare like this: one, or more than are tried.
    times: usize,
}

/// How a cell came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    /// The call did what it says.
    Through,
    /// It said, in time, that it did not or may not have.
    Refused,
}

/// Every cell that can be: a write has no range to come short of, a read no condition to fail.
pub fn cells() -> Vec<Cell> {
    let outcomes = |call: Call| OUTCOMES.into_iter().filter(move |outcome| can_be(call, *outcome));
    let all = CALLS.into_iter().flat_map(|call| outcomes(call).map(move |outcome| (call, outcome)));
    let times = |outcome| if matches!(outcome, Outcome::Fails(_)) { vec![1, ALWAYS] } else { vec![1] };
    all.flat_map(|(call, outcome)| times(outcome).into_iter().map(move |times| Cell { call, outcome, times })).collect()
}

fn can_be(call: Call, outcome: Outcome) -> bool {
    let reads = matches!(call, Read | ReadTail | Size | List | ClaimRead);
    match outcome {
        Outcome::Mine | Outcome::Other => matches!(call, Create | Commit | Complete),
        Outcome::Fails(Fault::Short) => matches!(call, Read | ReadTail | ClaimRead),
        Outcome::Fails(Fault::Half) => !matches!(call, Size | Delete | Begin | Abort),
        Outcome::Fails(Fault::Late(_) | Fault::Twice) => !reads,
        // What is asked for many keys has no key to miss.
        Outcome::Fails(Fault::Missing) => call != DeleteAll,
        _ => true,
    }
}

/// Runs all cells, several at a time; what was wrong with each, or how it came out.
pub fn run(cells: &[Cell]) -> Vec<(Cell, std::result::Result<Came, String>)> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..CELLS_AT_ONCE {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let came = cell.run();
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((*cell, came));
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A bucket, a client that loses patience early, and a place for what is staged.
struct Rig {
    bucket: Bucket,
    store: S3Store,
    _root: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let (bucket, root) = (Bucket::start(), tempfile::tempdir().expect("a directory"));
        let staged = DirectoryStore::new(Arc::new(RealDisk::new(root.path().to_owned())), Arc::new(SystemRandom));
        let settings = S3Settings { pace: PACE, ..bucket.settings("") };
        // No copies: every byte that is read comes from the bucket.
        let store = S3Store::new(settings, Copies::new(staged, 0).expect("no copies")).expect("a store");
        Rig { bucket, store, _root: root }
    }

    fn there(&self, key: &StoreKey) -> Option<Bytes> {
        self.bucket.objects.bytes(key.as_str())
    }

    fn place(&self, key: &StoreKey, bytes: &'static [u8]) {
        self.bucket.objects.overwrite(key.as_str(), Bytes::from_static(bytes));
    }

    fn commit(&self, bytes: &[u8]) -> Result<Created> {
        let mut staged = self.store.stage()?;
        staged.write(bytes)?;
        staged.commit(&pack())
    }
}

impl Cell {
    fn run(&self) -> std::result::Result<Came, String> {
        let rig = Rig::new();
        self.prepare(&rig);
        if let Outcome::Fails(fault) = self.outcome {
            let mut faults = Faults::planned(self.operation(), fault, self.times);
            if self.call == Abort {
                faults.planned.insert("part", vec![Fault::ErrorBefore; ALWAYS]);
            }
            rig.bucket.objects.set_faults(faults);
        } else if self.call == Abort {
            rig.bucket.objects.set_faults(Faults::planned("part", Fault::ErrorBefore, ALWAYS));
        }
        let began = Instant::now();
        let done = self.ask(&rig);
        let took = began.elapsed();
        rig.bucket.objects.set_faults(Faults::default());
        if took > BOUND {
            return Err(format!("it took {took:?}"));
        }
        self.check_fired(&rig)?;
        let came = self.judge(&rig, done)?;
        self.check_late(&rig)?;
        self.check_left(&rig)?;
        Ok(came)
    }

    /// The request that fails.
    fn operation(&self) -> &'static str {
        match self.call {
            Create | Commit | ClaimPut | Probe => "put",
            Begin => "begin",
            Part => "part",
            Complete => "complete",
            Abort => "abort",
            Read | ReadTail | ClaimRead => "get",
            Size => "head",
            Delete | DeleteAll => "delete",
            List => "list",
        }
    }

    fn prepare(&self, rig: &Rig) {
        let (key, mine): (_, &[u8]) = match self.call {
            Create => (slot(), MINE),
            Commit => (pack(), MINE),
            _ => (pack(), LARGE),
        };
        match (self.call, self.outcome) {
            // What is not there cannot be deleted; that is as good.
            (Delete, Outcome::Fails(Fault::Missing)) => {}
            (_, Outcome::Mine) => rig.bucket.objects.overwrite(key.as_str(), Bytes::copy_from_slice(mine)),
            (_, Outcome::Other) => rig.place(&key, OTHER),
            (Read | ReadTail | Size | Delete, _) => rig.place(&slot(), MINE),
            (DeleteAll, _) => (1..=KEYS).for_each(|ordinal| rig.place(&StoreKey::slot(ordinal), MINE)),
            (List, _) => (1..=KEYS).for_each(|ordinal| rig.place(&StoreKey::slot(ordinal), b"")),
            (ClaimRead, _) => rig.bucket.objects.overwrite("STORE", format!("{}\n", log()).into()),
            _ => {}
        }
    }

    /// Asks; true and false are what a conditional write answers.
    fn ask(&self, rig: &Rig) -> Result<bool> {
        let store = &rig.store;
        let whole = |right: bool| if right { Ok(true) } else { panic!("{self:?}: wrong bytes") };
        match self.call {
            Create => store.create(&slot(), MINE),
            Commit => rig.commit(MINE).map(|created| created == Created::New),
            Begin | Part | Complete | Abort => rig.commit(LARGE).map(|created| created == Created::New),
            Read => store.read(&slot(), 2, 5).and_then(|bytes| whole(bytes == MINE[2..7])),
            ReadTail => {
                let tail = &MINE[MINE.len() - 4..];
                store.read_tail(&slot(), 4).and_then(|read| whole((&read.0[..], read.1) == (tail, MINE.len() as u64)))
            }
            Size => store.size(&slot()).and_then(|size| whole(size == MINE.len() as u64)),
            Delete => store.delete(&slot()).map(|()| true),
            DeleteAll => store.delete_all(&(1..=KEYS).map(StoreKey::slot).collect::<Vec<_>>()).map(|()| true),
            List => {
                let all: Vec<_> = (1..=KEYS).map(StoreKey::slot).collect();
                store.list("log").and_then(|keys| whole(keys == all))
            }
            ClaimRead => store.claim(log(), false).map(|()| true),
            ClaimPut => store.claim(log(), true).map(|()| true),
            Probe => store.probe([7; 16]).map(|()| true),
        }
    }

    /// The outcome came true.
    fn check_fired(&self, rig: &Rig) -> std::result::Result<(), String> {
        let (fired, answers) = (rig.bucket.objects.take_fired(), rig.bucket.objects.take_answers());
        let came = match self.outcome {
            Outcome::Sound => true,
            Outcome::Mine | Outcome::Other => answers.contains_key(&412),
            Outcome::Fails(fault) => fired.contains_key(&(self.operation(), fault)),
        };
        if came { Ok(()) } else { Err(format!("its outcome never came: {fired:?}, {answers:?}")) }
    }

    fn judge(&self, rig: &Rig, done: Result<bool>) -> std::result::Result<Came, String> {
        let wrong = |what: &str| Err(format!("{what}: {done:?}"));
        match &done {
            Err(error) if self.may_be_refused(error.kind()) => {}
            Err(_) => return wrong("refused, and not so"),
            Ok(_) if !self.may_come_through() => return wrong("it came through"),
            Ok(_) => {}
        }
        let (slot, pack) = (rig.there(&slot()), rig.there(&pack()));
        let (there, mine): (_, &[u8]) = match self.call {
            Create => (slot, MINE),
            Commit => (pack, MINE),
            Begin | Part | Complete | Abort => (pack, LARGE),
            Delete if done.is_ok() && slot.is_some() => return wrong("deleted, and there"),
            DeleteAll if done.is_ok() && !rig.bucket.objects.keys().is_empty() => return wrong("deleted, and there"),
            ClaimPut | ClaimRead if done.is_ok() && rig.there(&StoreKey::mark()).is_none() => return wrong("no mark"),
            _ => return Ok(if done.is_ok() { Came::Through } else { Came::Refused }),
        };
        let right = match (&done, self.outcome) {
            (Ok(true), Outcome::Other) => false,
            (_, Outcome::Other) => there.as_deref() == Some(OTHER),
            (Ok(new), Outcome::Mine) => there.as_deref() == Some(mine) && !new,
            (Ok(true), Outcome::Sound) | (Ok(_), Outcome::Fails(_)) => there.as_deref() == Some(mine),
            (Err(_), _) => there.is_none_or(|there| there == *mine),
            (Ok(false), Outcome::Sound) => false,
        };
        if right {
            Ok(if done.is_ok() { Came::Through } else { Came::Refused })
        } else {
            wrong("other bytes are there")
        }
    }

    /// What fails once comes through, but for what asking again does not change.
    fn may_be_refused(&self, kind: ErrorKind) -> bool {
        match (self.call, self.outcome) {
            (Abort, _) => matches!(kind, ErrorKind::Unknown | ErrorKind::Unavailable),
            (Commit | Complete, Outcome::Other) => kind == ErrorKind::Corrupt,
            (Read | ReadTail | Size, Outcome::Fails(Fault::Missing)) => kind == ErrorKind::NotFound,
            (_, Outcome::Fails(Fault::Missing)) => kind == ErrorKind::Unavailable,
            _ => self.times > 1 && matches!(kind, ErrorKind::Unknown | ErrorKind::Unavailable),
        }
    }

    fn may_come_through(&self) -> bool {
        match (self.call, self.outcome) {
            (Abort, _) | (Commit | Complete, Outcome::Other) => false,
            (Delete, Outcome::Fails(Fault::Missing)) => true,
            (_, Outcome::Fails(Fault::Missing)) => false,
            // A conditional write whose effect came is found by its next try; what came twice came.
            (_, Outcome::Fails(Fault::DropAfter | Fault::ErrorAfter | Fault::Twice | SLOW)) => true,
            (_, Outcome::Fails(_)) => self.times == 1,
            _ => true,
        }
    }

    /// What arrives after its caller gave up changes nothing that stood, and brings nothing but its own bytes.
    fn check_late(&self, rig: &Rig) -> std::result::Result<(), String> {
        let before: Vec<_> = [slot(), pack()].iter().map(|key| rig.there(key)).collect();
        rig.bucket.objects.land_late();
        for (key, before) in [slot(), pack()].iter().zip(before) {
            let (after, large) = (rig.there(key), matches!(self.call, Begin | Part | Complete));
            let mine: &[u8] = if large { LARGE } else { MINE };
            let deletes = matches!(self.call, Delete | DeleteAll) && after.is_none();
            if after != before && !deletes && !(before.is_none() && after.as_deref() == Some(mine)) {
                return Err(format!("what came late changed {key}"));
            }
        }
        Ok(())
    }

    /// Nothing staged, no parts. An upload whose name was lost with the answer, or that could not be given up, is the bucket's.
    fn check_left(&self, rig: &Rig) -> std::result::Result<(), String> {
        let nameless = self.call == Begin && matches!(self.outcome, Outcome::Fails(_));
        let kept = self.call == Abort && (self.times > 1 || self.outcome == Outcome::Fails(Fault::Missing));
        let unfinished = rig.bucket.objects.unfinished();
        if unfinished > 0 && !nameless && !kept {
            return Err(format!("{unfinished} uploads stay"));
        }
        match rig.store.sweep_staged() {
            Ok(0) => Ok(()),
            swept => Err(format!("staged bytes stay: {swept:?}")),
        }
    }
}

fn slot() -> StoreKey {
    StoreKey::slot(1)
}

fn pack() -> StoreKey {
    StoreKey::pack(PackId([3; 32]))
}

fn log() -> LogId {
    LogId::from_random([5; 16])
}

const MINE: &[u8] = b"what this call brings";
const OTHER: &[u8] = b"what somebody else brought";
/// Three parts.
static LARGE: &[u8] = &[7; 40 << 10];
/// More than a page.
const KEYS: u64 = 230;
/// More than all tries of all requests of a call.
const ALWAYS: usize = 20;
/// Longer than the client waits.
const SLOW: Fault = Fault::Slow(1_500);
const PACE: Pace = Pace {
    request: Duration::from_millis(600),
    bytes_per_ms_min: 1_000_000,
    put_bytes_max: 4 << 10,
    part_bytes: 16 << 10,
};
/// Two requests given up after all their tries and pauses, on a machine that has other things to do.
const BOUND: Duration = Duration::from_secs(25);
/// Most of a cell is waiting.
const CELLS_AT_ONCE: usize = 12;
