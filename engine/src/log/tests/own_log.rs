//! A log directory that was a server's own and shall become a copy of the log that servers share: nothing goes that the
//! bucket has not.

use super::{
    bucket::{archive_all, try_serve},
    *,
};
use crate::{
    restore,
    store::{ObjectStore, StoreKey, memory::MemoryStore},
};

const SEGMENT_FILE: &str = "log/seg-00000000000000000006.log";

fn parts(disk: &SimDisk, store: &MemoryStore, seed: u64) -> Parts {
    Parts {
        disk: Arc::new(disk.clone()),
        store: Arc::new(store.clone()),
        clock: Arc::new(ManualClock::new(1_700_000_000_000)),
        random: Arc::new(SeededRandom::new(seed)),
    }
}

fn serve_alone(disk: &SimDisk, store: &MemoryStore, seed: u64) -> Engine {
    let (engine, _) = Engine::open(parts(disk, store, seed), options(Driver::Inline)).unwrap();
    // As the hub marks it.
    store.create(&StoreKey::mark(), format!("{}\n", engine.log()).as_bytes()).unwrap();
    engine
}

fn propose(engine: &Engine, numbers: std::ops::Range<u64>) {
    for number in numbers {
        done(engine.propose_and_wait(small(number)));
    }
}

/// Five events that the bucket has, and `more` that it has not.
fn begun(store: &MemoryStore, more: u64) -> (SimDisk, Engine) {
    let disk = SimDisk::new();
    let engine = serve_alone(&disk, store, 1);
    done(engine.propose_and_wait(proposal(0, vec![repo(1, "a")])));
    propose(&engine, 1..5);
    engine.roll();
    assert_eq!(archive_all(&engine), 1);
    propose(&engine, 5..5 + more);
    (disk, engine)
}

/// Refused, and not a byte of it is touched.
fn assert_refused(disk: &SimDisk, store: &MemoryStore, what: &str) {
    let before = disk.image();
    let Err(refused) = try_serve(disk, Arc::new(store.clone()), 8) else { panic!("{what}: it was made a copy") };
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{what}: {refused}");
    assert!(refused.to_string().contains("--bucket alone"), "{what}: {refused}");
    assert_eq!(disk.image(), before, "{what}");
}

#[test]
fn a_log_that_the_bucket_has_all_of_becomes_a_copy_and_stays_one_after_a_power_loss() {
    let store = MemoryStore::new();
    let (disk, engine) = begun(&store, 0);
    let wanted = read_all(&engine).unwrap();
    engine.shutdown().unwrap();
    drop(engine);
    let (copy, _) = try_serve(&disk, Arc::new(store.clone()), 2).unwrap();
    assert_eq!(read_all(&copy).unwrap(), wanted);
    assert_eq!(done(copy.propose_and_wait(small(50))), (6, 6));
    drop(copy);
    for survival in [Survival::All, Survival::None, Survival::TornSector] {
        let (again, _) = try_serve(&disk.crash(survival, 3), Arc::new(store.clone()), 4).unwrap();
        assert_eq!(again.durable().position, Position(6), "{survival:?}");
    }
}

#[test]
fn events_that_the_bucket_has_not_stay_where_they_are() {
    let store = MemoryStore::new();
    let (disk, engine) = begun(&store, 3);
    engine.shutdown().unwrap();
    drop(engine);
    assert_refused(&disk, &store, "stopped");
    let damaged = |path: &str, at: usize| {
        let mut image = disk.image();
        let mut bytes = image.file(path).unwrap().to_vec();
        bytes[at] ^= 1;
        image.put(path, bytes);
        SimDisk::from_image(&image)
    };
    assert_refused(&damaged("log/anchor", 10), &store, "its anchor damaged");
    assert_refused(&damaged(SEGMENT_FILE, 4_096 + 70), &store, "its first event there damaged");
    let without_anchor = SimDisk::from_image(&disk.image());
    without_anchor.remove("log/anchor").unwrap();
    assert_refused(&without_anchor, &store, "its anchor gone");
}

#[test]
fn a_sealed_segment_that_the_bucket_has_not_stays_where_it_is() {
    let store = MemoryStore::new();
    let (disk, engine) = begun(&store, 3);
    engine.roll();
    engine.shutdown().unwrap();
    drop(engine);
    assert_refused(&disk, &store, "sealed, not brought");
}

/// Restored elsewhere, the log went on with other events at the same positions.
#[test]
fn events_whose_positions_another_machine_has_used_since_stay_where_they_are() {
    let store = MemoryStore::new();
    let (disk, engine) = begun(&store, 3);
    drop(engine);
    let elsewhere = SimDisk::new();
    let held = Engine::hold(&elsewhere, "elsewhere").unwrap();
    restore::restore(&parts(&elsewhere, &store, 5), &held, &mut |_| {}).unwrap();
    drop(held);
    let second = serve_alone(&elsewhere, &store, 6);
    propose(&second, 100..110);
    second.roll();
    assert_eq!(archive_all(&second), 1);
    assert_refused(&disk, &store, "of another history");
}

#[test]
fn a_local_log_is_not_sealed_over_the_slots_of_servers_that_have_begun_to_share_it() {
    let store = MemoryStore::new();
    let (_disk, engine) = begun(&store, 3);
    let (shared, _) = try_serve(&SimDisk::new(), Arc::new(store.clone()), 2).unwrap();
    assert_eq!(done(shared.propose_and_wait(small(60))), (6, 6));
    engine.roll();
    let refused = engine.archiver().unwrap().step().unwrap_err();
    assert!(refused.kind() == ErrorKind::Conflict && refused.to_string().contains("--log bucket"), "{refused}");
    assert_eq!(try_serve(&SimDisk::new(), Arc::new(store), 3).unwrap().0.durable().position, Position(6));
}

/// A copy whose frames are damaged under a sound footer, where no footer's state can be used.
#[test]
fn a_hole_in_a_copy_is_named_and_never_folded_over() {
    let store = MemoryStore::new();
    let (disk, engine) = begun(&store, 0);
    engine.shutdown().unwrap();
    drop(engine);
    drop(try_serve(&disk, Arc::new(store.clone()), 2).unwrap());
    let path = "log/seg-00000000000000000001.log";
    let mut image = disk.image();
    let sound = image.file(path).unwrap().to_vec();
    // Every byte between the header and the trailer: the frames, and the state in the footer too.
    let mut bytes = sound.clone();
    let trailer = sound.len() - crate::log::footer::TRAILER_LEN;
    bytes[4_096 + 600..trailer].fill(0);
    image.put(path, bytes);
    let Err(refused) = try_serve(&SimDisk::from_image(&image), Arc::new(store.clone()), 2) else {
        panic!("a hole was folded over")
    };
    let told = refused.to_string();
    assert!(refused.is_corrupt() && told.contains(path) && told.contains("brought again"), "{told}");
    // What it says helps.
    let mended = SimDisk::from_image(&image);
    mended.remove(path).unwrap();
    assert_eq!(try_serve(&mended, Arc::new(store), 2).unwrap().0.durable().position, Position(5));
}
