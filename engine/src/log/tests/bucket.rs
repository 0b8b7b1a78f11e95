//! The bucket log: several engines over one object store, each promise of FORMAT.md §5.3 once.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::*;
use crate::{
    archive::Archived,
    clock::SeededRandom,
    engine::{LogKind, SegmentRule},
    error::Error,
    id::ChainHash,
    log::{
        bucket::{BucketLog, Committed},
        frame::{self, Draft},
    },
    store::{ObjectStore, Staged, StoreKey, counted::CountedStore, memory::MemoryStore},
    writer::Tail,
};

const RULE: SegmentRule = SegmentRule { bytes: 16 << 10, slots: 8 };

/// One server with its own disk.
struct Server {
    disk: SimDisk,
    engine: Engine,
}

pub(super) fn try_serve(disk: &SimDisk, store: Arc<dyn ObjectStore>, seed: u64) -> Result<(Engine, OpenReport)> {
    let parts = Parts {
        disk: Arc::new(disk.clone()),
        store,
        clock: Arc::new(ManualClock::new(1_700_000_000_000)),
        random: Arc::new(SeededRandom::new(seed)),
    };
    Engine::open(parts, Options { log: LogKind::Bucket(RULE), driver: Driver::Inline, ..Options::new("test") })
}

fn serve(store: &MemoryStore, seed: u64) -> Server {
    let disk = SimDisk::new();
    let (engine, _) = try_serve(&disk, Arc::new(store.clone()), seed).unwrap();
    Server { disk, engine }
}

pub(super) fn archive_all(engine: &Engine) -> usize {
    let mut archiver = engine.archiver().unwrap();
    let mut brought = 0;
    loop {
        match archiver.step().unwrap() {
            Archived::Idle => return brought,
            Archived::Found(_) => {}
            Archived::Brought(_) => brought += 1,
        }
    }
}

fn keys(store: &MemoryStore, prefix: &str) -> Vec<String> {
    store.list(prefix).unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn writers_in_turn_get_dense_positions_and_read_each_other() {
    let store = MemoryStore::new();
    let servers = [serve(&store, 1), serve(&store, 2), serve(&store, 3)];
    for number in 0..60 {
        let server = &servers[(number % 3) as usize].engine;
        assert_eq!(done(server.propose_and_wait(small(number))), (number + 1, number + 1));
    }
    let mut read = Vec::new();
    for server in &servers {
        assert_eq!(server.engine.look_and_wait().unwrap(), Position(60));
        read.push(read_all(&server.engine).unwrap());
    }
    assert_eq!(read[0].len(), 60);
    assert!(read.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_loser_decides_again_on_what_the_winner_wrote() {
    let store = MemoryStore::new();
    let (one, other) = (serve(&store, 1), serve(&store, 2));
    done(one.engine.propose_and_wait(proposal(1, vec![repo(1, "a")])));
    // The other one has not heard of it.
    let taken = other.engine.propose_and_wait(proposal(2, vec![repo(2, "a")]));
    assert!(matches!(taken, Outcome::NotDone(Reason::Condition(Condition::NameFree { .. }))), "{taken:?}");
    assert_eq!(done(other.engine.propose_and_wait(proposal(3, vec![moved(1, "main", None, Some(5))]))), (2, 2));
    let moved_twice = one.engine.propose_and_wait(proposal(4, vec![moved(1, "main", None, Some(6))]));
    assert!(matches!(moved_twice, Outcome::NotDone(Reason::Condition(Condition::RefIs { .. }))), "{moved_twice:?}");
}

#[test]
fn a_refusal_is_decided_on_the_newest_state() {
    let store = MemoryStore::new();
    let (one, other) = (serve(&store, 1), serve(&store, 2));
    done(one.engine.propose_and_wait(proposal(1, vec![repo(1, "a"), moved(1, "main", None, Some(5))])));
    assert_eq!(other.engine.look_and_wait().unwrap(), Position(2));
    done(one.engine.propose_and_wait(proposal(2, vec![moved(1, "main", Some(5), None)])));
    // On the state that the other one knows this would be refused.
    assert_eq!(done(other.engine.propose_and_wait(proposal(3, vec![moved(1, "main", None, Some(7))]))), (4, 4));
}

#[test]
fn a_push_id_is_answered_as_before_by_any_server() {
    let store = MemoryStore::new();
    let (one, other) = (serve(&store, 1), serve(&store, 2));
    assert_eq!(done(one.engine.propose_and_wait(small(1))), (1, 1));
    let again = other.engine.propose_and_wait(small(1));
    assert_eq!(again, Outcome::Done { first: Position(1), last: Position(1), repeated: true });
    let reused = other.engine.propose_and_wait(Proposal { fingerprint: 9, ..small(1) });
    assert_eq!(reused, Outcome::NotDone(Reason::PushIdReused));
    assert_eq!(one.engine.look_and_wait().unwrap(), Position(1), "nothing was written twice");
}

#[test]
fn a_slot_that_was_in_the_way_is_read_once() {
    let store = MemoryStore::new();
    let counted = Arc::new(CountedStore::new(Arc::new(store.clone())));
    let (late, _) = try_serve(&SimDisk::new(), Arc::<CountedStore>::clone(&counted), 1).unwrap();
    done(serve(&store, 2).engine.propose_and_wait(small(1)));
    let before = counted.reads();
    assert_eq!(done(late.propose_and_wait(small(2))), (2, 2));
    // The slot in the way, that nothing is behind it, and the floor; after its own slot the floor again.
    assert_eq!(counted.reads() - before, 4);
}

#[test]
fn every_server_makes_the_same_segments_and_slots_go_once_they_are_sealed() {
    let store = MemoryStore::new();
    let servers = [serve(&store, 1), serve(&store, 2)];
    for number in 0..30 {
        done(servers[(number % 2) as usize].engine.propose_and_wait(small(number)));
    }
    servers.iter().for_each(|server| assert_eq!(server.engine.look_and_wait().unwrap(), Position(30)));
    let sealed = |server: &Server| {
        let image = server.disk.image();
        let segments = server.engine.segments().into_iter().filter(|segment| segment.sealed);
        segments
            .map(|segment| image.file(StoreKey::segment(segment.first).as_str()).unwrap().to_vec())
            .collect::<Vec<_>>()
    };
    assert_eq!(sealed(&servers[0]).len(), 3);
    assert!(sealed(&servers[0]) == sealed(&servers[1]), "sealed segments differ");
    assert_eq!((archive_all(&servers[0].engine), archive_all(&servers[1].engine)), (3, 0));
    let slots: Vec<String> = (25..=30).map(|slot| StoreKey::slot(slot).to_string()).collect();
    assert_eq!(keys(&store, "log/slots"), slots);
    for segment in servers[1].engine.segments().iter().filter(|segment| segment.sealed) {
        let key = StoreKey::segment(segment.first);
        let stored = store.read(&key, 0, store.size(&key).unwrap()).unwrap();
        assert_eq!(servers[1].disk.image().file(key.as_str()).unwrap(), &stored[..]);
    }
    assert_eq!(servers[1].engine.archived(), Position(24));
}

#[test]
fn an_empty_machine_gets_everything_from_the_bucket() {
    let store = MemoryStore::new();
    let first = serve(&store, 1);
    for number in 0..30 {
        done(first.engine.propose_and_wait(small(number)));
    }
    archive_all(&first.engine);
    done(first.engine.propose_and_wait(small(30)));
    let new = serve(&store, 9);
    assert_eq!(new.engine.durable(), first.engine.durable());
    assert_eq!(read_all(&new.engine).unwrap(), read_all(&first.engine).unwrap());
    assert_eq!(done(new.engine.propose_and_wait(small(31))), (32, 32));
    let again = new.engine.propose_and_wait(small(3));
    assert_eq!(again, Outcome::Done { first: Position(4), last: Position(4), repeated: true });
}

#[test]
fn a_directory_goes_on_where_it_stood_whatever_its_end_is_like() {
    let store = MemoryStore::new();
    let first = serve(&store, 1);
    for number in 0..20 {
        done(first.engine.propose_and_wait(small(number)));
    }
    let wanted = read_all(&first.engine).unwrap();
    let disk = first.disk.clone();
    drop(first);
    for survival in [Survival::All, Survival::None, Survival::TornSector] {
        let crashed = disk.crash(survival, 3);
        let (engine, _) = try_serve(&crashed, Arc::new(store.clone()), 4).unwrap();
        assert_eq!(read_all(&engine).unwrap(), wanted, "{survival:?}");
    }
}

#[test]
fn a_directory_of_another_log_is_refused_and_left_alone() {
    let (store, other) = (MemoryStore::new(), MemoryStore::new());
    let server = serve(&store, 1);
    for number in 0..20 {
        done(server.engine.propose_and_wait(small(number)));
    }
    serve(&other, 2);
    let (disk, before) = (server.disk.clone(), server.disk.image());
    drop(server);
    let Err(refused) = try_serve(&disk, Arc::new(other), 3) else { panic!("a foreign directory was opened") };
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert_eq!(disk.image(), before);
}

/// A store whose next request of one kind does not come back before something else happened.
struct Sleepy {
    store: MemoryStore,
    /// Before which create (counted from one) it sleeps.
    sleeps_at: u64,
    created: AtomicU64,
    /// The create takes effect before it sleeps.
    late: bool,
    /// Awake again it finds that something stands there, and after this many more reads nothing answers.
    reads_left: Option<AtomicU64>,
    meanwhile: Box<dyn Fn() + Send + Sync>,
    /// What happens from then on, one after the other, before the next segment is asked for.
    then: Mutex<VecDeque<Box<dyn FnOnce() + Send>>>,
}

impl ObjectStore for Sleepy {
    fn create(&self, key: &StoreKey, bytes: &[u8]) -> Result<bool> {
        let sleeps = self.created.fetch_add(1, Ordering::SeqCst) + 1 == self.sleeps_at;
        let done = (!sleeps || self.late).then(|| self.store.create(key, bytes));
        if sleeps {
            (self.meanwhile)();
        }
        if sleeps && self.reads_left.is_some() {
            return Ok(false);
        }
        done.unwrap_or_else(|| self.store.create(key, bytes))
    }

    fn stage(&self) -> Result<Box<dyn Staged>> {
        self.store.stage()
    }

    fn read(&self, key: &StoreKey, offset: u64, len: u64) -> Result<Bytes> {
        self.store.read(key, offset, len)
    }

    fn read_tail(&self, key: &StoreKey, len: u64) -> Result<(Bytes, u64)> {
        let slept = self.created.load(Ordering::SeqCst) >= self.sleeps_at;
        let then =
            (slept && !key.as_str().starts_with("log/slots/")).then(|| self.then.lock().unwrap().pop_front()).flatten();
        if let Some(then) = then {
            then();
        }
        let left = |left: &AtomicU64| left.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match &self.reads_left {
            Some(reads) if slept && left(reads).is_err() => Err(Error::new(ErrorKind::Unavailable, "no answer")),
            _ => self.store.read_tail(key, len),
        }
    }

    fn size(&self, key: &StoreKey) -> Result<u64> {
        self.store.size(key)
    }

    fn delete(&self, key: &StoreKey) -> Result<()> {
        self.store.delete(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<StoreKey>> {
        self.store.list(prefix)
    }

    fn uri(&self, key: &StoreKey) -> String {
        self.store.uri(key)
    }

    fn sweep_staged(&self) -> Result<usize> {
        self.store.sweep_staged()
    }

    fn claim(&self, log: crate::id::LogId, fresh: bool) -> Result<()> {
        self.store.claim(log, fresh)
    }
}

/// A server that falls asleep at its `sleeps_at`th create, while another one appends `events` and seals what it can.
fn sleeper(store: &MemoryStore, sleeps_at: u64, late: bool, events: u64) -> (Engine, Engine) {
    sleeper_that_reads(store, sleeps_at, late, events, None)
}

fn sleeper_that_reads(
    store: &MemoryStore,
    sleeps_at: u64,
    late: bool,
    events: u64,
    reads_left: Option<u64>,
) -> (Engine, Engine) {
    let awake = serve(store, 2).engine;
    let busy = awake.clone();
    let meanwhile = move || {
        for number in 100..100 + events {
            done(busy.propose_and_wait(small(number)));
        }
        archive_all(&busy);
    };
    let (created, meanwhile) = (AtomicU64::new(0), Box::new(meanwhile));
    let reads_left = reads_left.map(AtomicU64::new);
    let then = Mutex::default();
    let sleepy = Sleepy { store: store.clone(), sleeps_at, created, late, reads_left, meanwhile, then };
    (try_serve(&SimDisk::new(), Arc::new(sleepy), 1).unwrap().0, awake)
}

#[test]
fn a_writer_that_sleeps_through_the_sealing_acknowledges_nothing_that_never_happened() {
    let store = MemoryStore::new();
    // The slot that it wakes up to write is sealed and gone: its create succeeds.
    let (sleepy, awake) = sleeper(&store, 1, false, 20);
    assert_eq!(done(sleepy.propose_and_wait(small(1))), (21, 21));
    assert_eq!(awake.look_and_wait().unwrap(), Position(21));
    assert_eq!(read_all(&awake).unwrap(), read_all(&sleepy).unwrap());
    assert!(!keys(&store, "log/slots").contains(&StoreKey::slot(1).to_string()), "what it wrote by mistake is gone");
}

#[test]
fn a_writer_whose_slot_was_sealed_while_it_slept_is_told_that_it_happened() {
    let store = MemoryStore::new();
    let (sleepy, awake) = sleeper(&store, 1, true, 20);
    assert_eq!(done(sleepy.propose_and_wait(small(1))), (1, 1));
    assert_eq!(awake.look_and_wait().unwrap(), Position(21));
    assert_eq!(sleepy.look_and_wait().unwrap(), Position(21));
    assert_eq!(read_all(&awake).unwrap(), read_all(&sleepy).unwrap());
}

/// It was called refused, when the look that followed failed too: nobody had asked the segment whose group it holds.
#[test]
fn a_group_that_was_sealed_before_its_slot_was_read_back_is_never_called_refused() {
    for reads in 0..6 {
        let store = MemoryStore::new();
        let (sleepy, awake) = sleeper_that_reads(&store, 1, true, 20, Some(reads));
        let outcome = sleepy.propose_and_wait(small(1));
        assert_eq!(awake.look_and_wait().unwrap(), Position(21));
        match outcome {
            Outcome::Done { first: Position(1), repeated: false, .. } => assert!(reads > 1, "{reads} reads"),
            Outcome::Unknown(push) => assert_eq!(push, small(1).push),
            other => panic!("{reads} reads: {other:?}, and it stands in the log"),
        }
        let again = awake.propose_and_wait(small(1));
        assert_eq!(again, Outcome::Done { first: Position(1), last: Position(1), repeated: true });
    }
}

/// What was in the way was read before others came, and before what makes them right was written.
#[test]
fn nobody_is_refused_on_what_was_read_before_he_came() {
    let store = MemoryStore::new();
    let other = serve(&store, 2).engine;
    let (first, second, late) = (other.clone(), other, Arc::new(OnceLock::<Engine>::new()));
    let (answer, answered) = crossbeam_channel::bounded(1);
    let proposer = late.clone();
    let then = move || {
        done(second.propose_and_wait(proposal(4, vec![moved(1, "main", None, Some(5))])));
        let reply = Box::new(move |outcome| drop(answer.send(outcome)));
        proposer.get().unwrap().propose(proposal(5, vec![moved(1, "main", Some(5), Some(6))]), reply);
    };
    let meanwhile = move || _ = done(first.propose_and_wait(proposal(1, vec![repo(1, "a")])));
    let sleepy = Sleepy {
        store: store.clone(),
        sleeps_at: 1,
        created: AtomicU64::new(0),
        late: false,
        reads_left: None,
        meanwhile: Box::new(meanwhile),
        then: Mutex::new(VecDeque::from([Box::new(then) as Box<dyn FnOnce() + Send>])),
    };
    let engine = try_serve(&SimDisk::new(), Arc::new(sleepy), 1).unwrap().0;
    assert!(late.set(engine.clone()).is_ok());
    let taken = engine.propose_and_wait(proposal(2, vec![repo(2, "a")]));
    assert!(matches!(taken, Outcome::NotDone(Reason::Condition(Condition::NameFree { .. }))), "{taken:?}");
    assert_eq!(done(answered.try_recv().unwrap()), (3, 3));
}

/// It waits for another one's turn, look after look.
#[test]
fn who_only_looks_does_not_wait_for_a_turn_to_write() {
    let store = MemoryStore::new();
    let other = serve(&store, 2).engine;
    let asking = Arc::new(OnceLock::<Engine>::new());
    let (answer, answered) = crossbeam_channel::bounded(1);
    let (asker, told) = (asking.clone(), answered);
    let ask = move || {
        asker.get().unwrap().look(Box::new(move |seen| drop(answer.send(seen))));
    };
    // Of the looks: in the first one he asks, the second finds the end, before the third he is told.
    let (was_told, had_been) = (Arc::new(AtomicU64::new(0)), told);
    let noted = was_told.clone();
    let told = move || noted.store(had_been.try_recv().unwrap().unwrap().0, Ordering::SeqCst);
    let then: [Box<dyn FnOnce() + Send>; 4] = [Box::new(|| {}), Box::new(ask), Box::new(|| {}), Box::new(told)];
    let sleepy = Sleepy {
        store: store.clone(),
        sleeps_at: 2,
        created: AtomicU64::new(0),
        late: false,
        reads_left: None,
        meanwhile: Box::new(|| {}),
        then: Mutex::new(VecDeque::from(then)),
    };
    let engine = try_serve(&SimDisk::new(), Arc::new(sleepy), 1).unwrap().0;
    assert!(asking.set(engine.clone()).is_ok());
    done(engine.propose_and_wait(small(1)));
    done(other.propose_and_wait(small(2)));
    assert_eq!(engine.look_and_wait().unwrap(), Position(2));
    // Its second group: from now on it owes the other one a turn.
    done(engine.propose_and_wait(small(3)));
    done(engine.propose_and_wait(small(4)));
    assert_eq!(was_told.load(Ordering::SeqCst), 3, "told where the log ends before the third");
}

#[test]
fn a_server_tells_its_own_slots_from_those_of_others() {
    let (store, log) = (Arc::new(MemoryStore::new()), crate::id::LogId::from_random([9; 16]));
    let server = |seed| BucketLog::new(store.clone(), Arc::new(SeededRandom::new(seed)), log);
    let previous = ChainHash([0; 32]);
    let mut tail = Tail { next: Position(1), ordinal: 1, chain: previous, segment: Position(1), salt: [3; 16] };
    let (start, mut one, mut other) = (tail, server(1), server(2));
    for ordinal in 1..=4 {
        let draft = Draft { flags: 0, count: 1, first: tail.next, sequence: ordinal, time_ms: 5, previous: tail.chain };
        let mut frames = Vec::new();
        let chain = frame::append(&mut frames, &tail.salt, &draft, b"an event");
        let writer = if ordinal == 3 { &mut other } else { &mut one };
        assert!(matches!(writer.commit(&tail, &frames, chain), Committed::Done));
        (tail.next, tail.ordinal, tail.chain) = (tail.next.next(), ordinal + 1, chain);
    }
    let seen = |server: &mut BucketLog| -> Vec<_> {
        server.look(&start, false).unwrap().groups.iter().map(|group| group.server).collect()
    };
    assert!(matches!(seen(&mut one)[..], [None, None, Some(_), None]));
    assert!(matches!(seen(&mut other)[..], [Some(a), Some(b), None, Some(c)] if a == b && b == c));
    assert!(matches!(seen(&mut server(3))[..], [Some(a), Some(b), Some(c), Some(d)] if a == b && b == d && c != d));
}

/// A server died between sealing and deleting, or its requests to delete failed: nobody ever deleted them.
#[test]
fn slots_that_outlive_their_sealing_are_deleted_by_whoever_archives_next() {
    let store = MemoryStore::new();
    let (one, other) = (serve(&store, 1), serve(&store, 2));
    let mut begun = other.engine.archiver().unwrap();
    for number in 0..20 {
        done(one.engine.propose_and_wait(small(number)));
    }
    other.engine.look_and_wait().unwrap();
    let slots = store.list("log/slots").unwrap();
    let kept: Vec<_> = slots.iter().map(|slot| (slot, store.read_tail(slot, 1 << 20).unwrap().0)).collect();
    archive_all(&one.engine);
    let left = store.list("log/slots").unwrap();
    assert_eq!((slots.len(), left.len()), (20, 4));
    let as_if_none_had_gone = || kept.iter().for_each(|(slot, bytes)| store.overwrite(slot, bytes.clone()));
    as_if_none_had_gone();
    assert_eq!(begun.step().unwrap(), Archived::Found(Position(8)));
    assert_eq!(store.list("log/slots").unwrap(), slots[8..], "by a server that has it to seal too");
    as_if_none_had_gone();
    archive_all(&serve(&store, 3).engine);
    assert_eq!(store.list("log/slots").unwrap(), left, "by a server that has just begun");
}

#[test]
fn a_server_whose_own_segment_is_damaged_leaves_its_slots_to_others_and_goes_on() {
    let store = MemoryStore::new();
    let (one, other) = (serve(&store, 1), serve(&store, 2));
    for number in 0..20 {
        done(one.engine.propose_and_wait(small(number)));
    }
    other.engine.look_and_wait().unwrap();
    let slots = store.list("log/slots").unwrap();
    let kept: Vec<_> = slots.iter().map(|slot| (slot, store.read_tail(slot, 1 << 20).unwrap().0)).collect();
    let mut begun = other.engine.archiver().unwrap();
    archive_all(&one.engine);
    kept.iter().for_each(|(slot, bytes)| store.overwrite(slot, bytes.clone()));
    let file = other.disk.open("log/seg-00000000000000000001.log").unwrap();
    file.write_at(&[0xff; 8], 5_000).unwrap();
    assert_eq!(begun.step().unwrap(), Archived::Found(Position(8)));
    assert_eq!(store.list("log/slots").unwrap(), slots, "it cannot vouch for the segment");
    assert_eq!(begun.step().unwrap(), Archived::Found(Position(16)));
    assert_eq!(store.list("log/slots").unwrap().len(), 12, "those of the next one go");
}

#[test]
fn a_reader_believes_no_slot_that_was_written_after_its_sealing() {
    let store = MemoryStore::new();
    let (asleep, awake) = (serve(&store, 1).engine, serve(&store, 2).engine);
    for number in 0..20 {
        done(awake.propose_and_wait(small(number)));
    }
    archive_all(&awake);
    // Another first group, as a third server that slept would write it.
    let other = MemoryStore::new();
    for key in [StoreKey::mark(), StoreKey::shared()] {
        other.create(&key, &store.read_tail(&key, 1 << 10).unwrap().0).unwrap();
    }
    let third = serve(&other, 3).engine;
    done(third.propose_and_wait(small(77)));
    let bogus = other.read_tail(&StoreKey::slot(1), 1 << 20).unwrap().0;
    assert!(store.create(&StoreKey::slot(1), &bogus).unwrap());
    assert_eq!(asleep.look_and_wait().unwrap(), Position(20));
    assert_eq!(read_all(&asleep).unwrap(), read_all(&awake).unwrap());
}

#[test]
fn slots_that_two_sleepers_left_behind_are_no_damage() {
    let store = MemoryStore::new();
    let (asleep, awake) = (serve(&store, 1).engine, serve(&store, 2).engine);
    for number in 0..20 {
        done(awake.propose_and_wait(small(number)));
    }
    let genuine = store.read_tail(&StoreKey::slot(2), 1 << 20).unwrap().0;
    archive_all(&awake);
    // Another first group, and behind it the second one, which continues the group that was sealed.
    let other = MemoryStore::new();
    for key in [StoreKey::mark(), StoreKey::shared()] {
        other.create(&key, &store.read_tail(&key, 1 << 10).unwrap().0).unwrap();
    }
    done(serve(&other, 3).engine.propose_and_wait(small(77)));
    let stray = other.read_tail(&StoreKey::slot(1), 1 << 20).unwrap().0;
    assert!(store.create(&StoreKey::slot(1), &stray).unwrap() && store.create(&StoreKey::slot(2), &genuine).unwrap());
    assert_eq!(asleep.look_and_wait().unwrap(), Position(20));
    assert!(asleep.read_only().is_none());
}
