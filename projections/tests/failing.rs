//! What becomes of the projections when their store fails while they run, and when a new generation cannot take over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
#![allow(clippy::disallowed_methods, reason = "these tests look at files")]

mod history;

use std::{
    collections::VecDeque,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    time::{Duration, Instant},
};

use history::*;
use reprise_engine::{
    Error, ErrorKind, Result,
    engine::{Durable, Group},
    id::{ChainHash, Position},
};
use reprise_projections::{
    Projections, RebuildOptions, RebuildReport,
    source::{Groups, Source},
};

/// A log that can be told to give a group out of order, which the projector takes for a failed store, to be unreadable, and
/// to do something when somebody begins to follow it.
#[derive(Clone, Default)]
struct TroubledLog {
    log: MemoryLog,
    disorder: Arc<AtomicBool>,
    unreadable: Arc<AtomicBool>,
    on_follow: Arc<Mutex<VecDeque<Hook>>>,
}

type Hook = Box<dyn FnOnce() -> Result<()> + Send>;

impl TroubledLog {
    fn new(seed: u64) -> TroubledLog {
        TroubledLog { log: random_history(seed, 20), ..TroubledLog::default() }
    }

    fn append(&self, seed: u64) -> Position {
        for group in random_history(seed, 3).groups() {
            self.log.append(group.events.iter().map(|event| event.body.clone()).collect());
        }
        self.log.durable().position
    }

    /// The live store fails as soon as the projector takes the next group.
    fn fail_the_store(&self, seed: u64) -> Position {
        self.disorder.store(true, SeqCst);
        self.append(seed)
    }

    fn open(&self, dir: &Path) -> Projections {
        let projections = Projections::open_source(Arc::new(self.clone()), options(dir)).unwrap();
        // One more group: by the time it is folded, the projector itself follows the log.
        assert!(projections.wait_folded(self.append(1000), WAIT), "{:?}", projections.status());
        projections
    }

    fn check(&self, projections: &Projections, dir: &Path) {
        let end = self.log.durable().position;
        assert!(projections.wait_folded(end, WAIT), "{:?}", projections.status());
        let status = projections.status();
        assert_eq!(status.state, "ready", "{status:?}");
        assert_eq!(projections.view().digest().unwrap(), reference(&self.log), "{status:?}");
        assert_eq!(generations(dir), [status.generation.as_str()], "{status:?}");
    }
}

impl Source for TroubledLog {
    fn durable(&self) -> Durable {
        self.log.durable()
    }

    fn chain_at(&self, position: Position) -> Result<Option<ChainHash>> {
        self.log.chain_at(position)
    }

    fn follow(&self, from: Position) -> Result<Box<dyn Groups>> {
        let hook = self.on_follow.lock().unwrap().pop_front();
        hook.map_or(Ok(()), |hook| hook())?;
        let (disorder, unreadable) = (Arc::clone(&self.disorder), Arc::clone(&self.unreadable));
        Ok(Box::new(Troubled { groups: self.log.follow(from)?, disorder, unreadable }))
    }

    fn now_ms(&self) -> u64 {
        self.log.now_ms()
    }
}

struct Troubled {
    groups: Box<dyn Groups>,
    disorder: Arc<AtomicBool>,
    unreadable: Arc<AtomicBool>,
}

impl Groups for Troubled {
    fn next(&mut self, wait: Duration) -> Result<Option<Group>> {
        if self.unreadable.load(SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "the log cannot be read just now"));
        }
        let Some(mut group) = self.groups.next(wait)? else { return Ok(None) };
        if self.disorder.swap(false, SeqCst) {
            let mut events = group.events.to_vec();
            events.iter_mut().for_each(|event| event.position = event.position.next());
            group.events = events.into();
        }
        Ok(Some(group))
    }
}

/// The directories of generations.
fn generations(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<_> =
        names.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn wait_until(projections: &Projections, state: &str) {
    while projections.status().state != state {
        std::thread::yield_now();
    }
}

/// Rebuilds on a thread of its own; it must not wait for ever.
fn rebuild(projections: &Projections) -> Result<RebuildReport> {
    let (sender, receiver) = mpsc::channel();
    let projections = projections.clone();
    std::thread::spawn(move || sender.send(projections.rebuild(&RebuildOptions::default(), &|_| {})).is_ok());
    receiver.recv_timeout(WAIT).expect("the rebuild ends")
}

fn check_reopens_clean(log: &TroubledLog, projections: Projections, dir: &Path) {
    projections.shutdown().unwrap();
    drop(projections);
    let again = log.open(dir);
    assert_eq!(again.status().reason, "");
    log.check(&again, dir);
}

const WAIT: Duration = Duration::from_secs(20);

#[test]
fn a_store_that_fails_is_replaced_by_one_that_its_end_does_not_remove() {
    let (log, dir) = (TroubledLog::new(1), tempfile::tempdir().unwrap());
    let projections = log.open(dir.path());
    let reader = projections.view();
    let before = reader.digest().unwrap();
    let end = log.fail_the_store(2);
    assert!(projections.wait_folded(end, WAIT), "{:?}", projections.status());
    assert_eq!(reader.digest().unwrap(), before, "whoever reads the failed one goes on reading");
    drop(reader);
    log.check(&projections, dir.path());
    check_reopens_clean(&log, projections, dir.path());
}

#[test]
fn a_failure_during_a_rebuild_ends_the_rebuild_and_leaves_one_whole_generation() {
    let (log, dir) = (TroubledLog::new(3), tempfile::tempdir().unwrap());
    let projections = log.open(dir.path());
    let told = AtomicBool::new(false);
    let ended = projections.rebuild(&RebuildOptions::default(), &|_| {
        if !told.swap(true, SeqCst) {
            let end = log.fail_the_store(4);
            // Long enough for the projector to build by itself, if it did not wait for this build to end.
            assert!(!projections.wait_folded(end, Duration::from_secs(2)), "built beside a running build");
        }
    });
    assert!(told.load(SeqCst));
    assert!(ended.is_err(), "{ended:?}");
    log.check(&projections, dir.path());
    check_reopens_clean(&log, projections, dir.path());
}

#[test]
fn a_new_generation_that_cannot_take_over_is_dropped_and_the_live_one_goes_on() {
    let (log, dir) = (TroubledLog::new(5), tempfile::tempdir().unwrap());
    let projections = log.open(dir.path());
    let live = projections.status().generation;
    // Three times the rebuild asks for the log: to build, to catch up, and the projector at the switch.
    let (first, second) = (log.clone(), log.clone());
    let (one, two) = (projections.clone(), projections.clone());
    let more = |log: TroubledLog, projections: Projections, seed| -> Hook {
        Box::new(move || {
            assert!(projections.wait_folded(log.append(seed), WAIT));
            Ok(())
        })
    };
    log.on_follow.lock().unwrap().extend([
        more(first, one, 6),
        more(second, two, 7),
        Box::new(|| Err(Error::new(ErrorKind::Unavailable, "the log cannot be read just now"))),
    ]);
    let error = rebuild(&projections).unwrap_err();
    assert!(error.to_string().contains("cannot be read just now"), "{error}");
    assert!(log.on_follow.lock().unwrap().is_empty());
    assert_eq!(projections.status().generation, live);
    log.check(&projections, dir.path());
    assert!(rebuild(&projections).unwrap().switched, "the next one may");
    log.check(&projections, dir.path());
    assert_ne!(projections.status().generation, live);
    check_reopens_clean(&log, projections, dir.path());
}

#[test]
fn a_projector_that_fails_before_it_takes_a_new_generation_says_so_to_whoever_waits() {
    let (log, dir) = (TroubledLog::new(8), tempfile::tempdir().unwrap());
    let projections = log.open(dir.path());
    let (one, two) = ((log.clone(), projections.clone()), (log.clone(), projections.clone()));
    // The first asks for the log to build, the second to catch up before it hands over.
    log.on_follow.lock().unwrap().push_back(Box::new(move || {
        assert!(one.1.wait_folded(one.0.append(9), WAIT));
        Ok(())
    }));
    log.on_follow.lock().unwrap().push_back(Box::new(move || {
        two.0.fail_the_store(10);
        wait_until(&two.1, "stopped");
        Ok(())
    }));
    assert!(rebuild(&projections).is_err());
    log.check(&projections, dir.path());
    check_reopens_clean(&log, projections, dir.path());
}

#[test]
fn a_store_that_has_just_failed_is_not_marked_clean_by_a_shutdown() {
    let (log, dir) = (TroubledLog::new(11), tempfile::tempdir().unwrap());
    let projections = log.open(dir.path());
    let end = log.fail_the_store(12);
    wait_until(&projections, "stopped");
    projections.shutdown().unwrap();
    assert!(!dir.path().join("CURRENT").exists());
    assert!(!dir.path().join("gen-000001.clean").exists());
    drop(projections);
    let again = log.open(dir.path());
    assert!(again.status().position > end.0);
    log.check(&again, dir.path());
}

#[test]
fn a_store_that_fails_again_and_again_is_built_again_ever_more_slowly() {
    let (log, dir) = (TroubledLog::new(13), tempfile::tempdir().unwrap());
    let projections = log.open(dir.path());
    let started = Instant::now();
    for seed in 14..17 {
        let end = log.fail_the_store(seed);
        assert!(projections.wait_folded(end, WAIT), "{:?}", projections.status());
    }
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(500 + 1000 + 2000), "{elapsed:?}");
    log.check(&projections, dir.path());
}

#[test]
fn a_log_that_cannot_be_read_for_a_while_is_said_while_it_lasts_and_not_after() {
    let (log, dir) = (TroubledLog::new(18), tempfile::tempdir().unwrap());
    let projections = log.open(dir.path());
    log.unreadable.store(true, SeqCst);
    wait_until(&projections, "stopped");
    assert!(projections.status().reason.contains("cannot be read just now"), "{:?}", projections.status());
    assert_eq!(projections.view().digest().unwrap(), reference(&log.log), "reads go on");
    log.unreadable.store(false, SeqCst);
    assert!(projections.wait_folded(log.append(19), WAIT));
    assert_eq!(projections.status().reason, "");
    log.check(&projections, dir.path());
}

#[test]
fn a_panic_on_the_projectors_thread_is_answered_as_a_failed_store_is() {
    let (log, dir) = (TroubledLog::new(20), tempfile::tempdir().unwrap());
    let projections = log.open(dir.path());
    log.on_follow.lock().unwrap().push_back(Box::new(|| panic!("planted")));
    // The projector begins to follow again once the log can be read again.
    log.unreadable.store(true, SeqCst);
    wait_until(&projections, "stopped");
    log.unreadable.store(false, SeqCst);
    assert!(projections.wait_folded(log.append(21), WAIT), "{:?}", projections.status());
    assert!(projections.status().reason.contains("the projector panicked"), "{:?}", projections.status());
    log.check(&projections, dir.path());
    check_reopens_clean(&log, projections, dir.path());
}
