//! The contract of every object store, as one suite that each implementation runs (T13).
//!
//! Invariants: drives the public trait only; must never depend on one implementation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use reprise_engine::{
    error::ErrorKind,
    id::{LogId, PackId},
    store::{Created, ObjectStore, StoreKey},
};

/// Runs everything over an empty store.
pub fn check(store: &dyn ObjectStore) {
    a_store_belongs_to_one_log_and_an_unmarked_one_to_none_that_has_grown(store);
    a_key_that_is_not_there_is_not_found(store);
    bytes_come_back_and_nothing_is_visible_before_commit(store);
    a_key_never_gets_other_bytes(store);
    a_dropped_upload_leaves_nothing(store);
    large_and_small_writes_read_back_before_commit(store);
    a_read_beyond_the_end_is_corrupt(store);
    of_many_writers_of_a_key_one_is_told_that_it_is_new(store);
    keys_are_listed_in_order_and_deleted_quietly(store);
    many_keys_go_at_once_and_nothing_beside_them(store);
    a_tail_comes_with_the_size(store);
    of_many_creators_of_a_key_one_wins_and_the_others_read_what_he_put(store);
}

fn key(name: u8) -> StoreKey {
    StoreKey::pack(PackId([name; 32]))
}

fn put(store: &dyn ObjectStore, name: u8, bytes: &[u8]) -> Created {
    let mut staged = store.stage().unwrap();
    staged.write(bytes).unwrap();
    staged.commit(&key(name)).unwrap()
}

fn a_store_belongs_to_one_log_and_an_unmarked_one_to_none_that_has_grown(store: &dyn ObjectStore) {
    let (one, other) = (LogId::from_random([1; 16]), LogId::from_random([2; 16]));
    assert_eq!(store.claim(one, false).unwrap_err().kind(), ErrorKind::Unavailable);
    store.claim(one, true).unwrap();
    store.claim(one, true).unwrap();
    store.claim(one, false).unwrap();
    for fresh in [false, true] {
        assert_eq!(store.claim(other, fresh).unwrap_err().kind(), ErrorKind::Conflict);
    }
}

fn a_key_that_is_not_there_is_not_found(store: &dyn ObjectStore) {
    assert!(store.read(&key(0), 0, 0).unwrap_err().is_not_found());
    assert!(store.size(&key(0)).unwrap_err().is_not_found());
    assert!(store.list("").unwrap().is_empty());
}

fn bytes_come_back_and_nothing_is_visible_before_commit(store: &dyn ObjectStore) {
    let mut staged = store.stage().unwrap();
    staged.write(b"abc").unwrap();
    staged.write(b"").unwrap();
    staged.write(b"defg").unwrap();
    assert!(store.size(&key(1)).unwrap_err().is_not_found());
    assert_eq!(staged.commit(&key(1)).unwrap(), Created::New);
    assert_eq!(store.size(&key(1)).unwrap(), 7);
    assert_eq!(&store.read(&key(1), 0, 7).unwrap()[..], b"abcdefg");
    assert_eq!(&store.read(&key(1), 2, 3).unwrap()[..], b"cde");
    assert_eq!(&store.read(&key(1), 7, 0).unwrap()[..], b"");
}

fn a_key_never_gets_other_bytes(store: &dyn ObjectStore) {
    assert_eq!(put(store, 2, b"first"), Created::New);
    assert_eq!(put(store, 2, b"first"), Created::Existed);
    for other in [&b"second"[..], b"fIrst", b""] {
        let mut staged = store.stage().unwrap();
        staged.write(other).unwrap();
        assert!(staged.commit(&key(2)).unwrap_err().is_corrupt());
    }
    assert_eq!(&store.read(&key(2), 0, 5).unwrap()[..], b"first");
    assert_eq!(store.sweep_staged().unwrap(), 0, "the loser left its staged bytes");
}

fn a_dropped_upload_leaves_nothing(store: &dyn ObjectStore) {
    let before = store.list("").unwrap();
    let mut staged = store.stage().unwrap();
    staged.write(&[7; 1 << 20]).unwrap();
    drop(staged);
    assert_eq!(store.list("").unwrap(), before);
    assert_eq!(store.sweep_staged().unwrap(), 0);
}

fn large_and_small_writes_read_back_before_commit(store: &dyn ObjectStore) {
    let mut staged = store.stage().unwrap();
    let mut all = Vec::new();
    for (index, len) in [10usize, 300_000, 1, 0, 262_143, 262_144, 5, 70_000].into_iter().enumerate() {
        let bytes = vec![index as u8 + 1; len];
        staged.write(&bytes).unwrap();
        all.extend_from_slice(&bytes);
    }
    for (offset, len) in [(0usize, all.len()), (5, 300_010), (all.len() - 3, 3), (824_290, 20), (9, 0)] {
        let read = staged.read_back(offset as u64, len as u64).unwrap();
        assert_eq!(&read[..], &all[offset..offset + len], "{offset} + {len}");
    }
    assert!(staged.read_back(1, all.len() as u64).is_err());
    staged.commit(&key(3)).unwrap();
    assert_eq!(&store.read(&key(3), 0, all.len() as u64).unwrap()[..], &all[..]);
}

fn a_read_beyond_the_end_is_corrupt(store: &dyn ObjectStore) {
    for (offset, len) in [(0, 8), (8, 0), (7, 1), (u64::MAX, 1), (1, u64::MAX), (0, 1 << 60)] {
        assert!(store.read(&key(1), offset, len).unwrap_err().is_corrupt(), "{offset} + {len}");
    }
}

fn of_many_writers_of_a_key_one_is_told_that_it_is_new(store: &dyn ObjectStore) {
    let created: Vec<Created> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(move || put(store, 4, &[4; 9]))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(created.iter().filter(|created| **created == Created::New).count(), 1);
    assert_eq!(&store.read(&key(4), 0, 9).unwrap()[..], &[4; 9]);
}

fn many_keys_go_at_once_and_nothing_beside_them(store: &dyn ObjectStore) {
    for ordinal in 10..=30 {
        assert!(store.create(&StoreKey::slot(ordinal), b"x").unwrap());
    }
    // Some that are not there, one that is named twice.
    let keys: Vec<_> = (11..=35).chain([12]).map(StoreKey::slot).collect();
    let ends: Vec<_> = store.read_tails(&[9, 10, 12].map(StoreKey::slot), 5);
    assert!(ends.len() == 1 && ends[0].as_ref().unwrap_err().is_not_found(), "nothing after what is not there");
    let ends = store.read_tails(&[29, 30, 31, 10].map(StoreKey::slot), 5);
    let found = ends.iter().map(|end| end.as_ref().ok().map(|(bytes, size)| (&bytes[..], *size)));
    assert_eq!(found.collect::<Vec<_>>(), [Some((&b"x"[..], 1)), Some((b"x", 1)), None]);
    store.delete_all(&keys).unwrap();
    store.delete_all(&keys).unwrap();
    store.delete_all(&[]).unwrap();
    for gone in [11, 30] {
        assert!(store.size(&StoreKey::slot(gone)).unwrap_err().is_not_found());
    }
    assert_eq!(store.size(&StoreKey::slot(10)).unwrap(), 1);
    store.delete(&StoreKey::slot(10)).unwrap();
}

fn keys_are_listed_in_order_and_deleted_quietly(store: &dyn ObjectStore) {
    let all = [key(1), key(2), key(3), key(4)];
    assert_eq!(store.list("").unwrap(), all);
    assert_eq!(store.list("packs").unwrap(), all);
    assert_eq!(store.list("packs/02").unwrap(), [key(2)]);
    assert!(store.list("packs/0").unwrap().is_empty(), "a prefix is of whole parts");
    store.delete(&key(2)).unwrap();
    store.delete(&key(2)).unwrap();
    assert!(store.read(&key(2), 0, 1).unwrap_err().is_not_found());
    assert_eq!(put(store, 2, b"again"), Created::New);
    assert_eq!(&store.read(&key(2), 0, 5).unwrap()[..], b"again");
    assert!(!store.uri(&key(2)).is_empty());
}

fn a_tail_comes_with_the_size(store: &dyn ObjectStore) {
    assert!(store.read_tail(&key(9), 4).unwrap_err().is_not_found());
    for (len, tail) in [(0, &b""[..]), (3, b"efg"), (7, b"abcdefg"), (1 << 40, b"abcdefg")] {
        let (bytes, size) = store.read_tail(&key(1), len).unwrap();
        assert_eq!((&bytes[..], size), (tail, 7), "{len}");
    }
}

fn of_many_creators_of_a_key_one_wins_and_the_others_read_what_he_put(store: &dyn ObjectStore) {
    for round in 1..=5 {
        let slot = StoreKey::slot(round);
        let won: Vec<bool> = std::thread::scope(|scope| {
            let create = |name: u8| store.create(&StoreKey::slot(round), &[name; 700]).unwrap();
            let threads: Vec<_> = (0..8).map(|name| scope.spawn(move || create(name))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winner = won.iter().position(|won| *won).unwrap() as u8;
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
        assert_eq!(store.read_tail(&slot, 1 << 20).unwrap().0, vec![winner; 700]);
        assert!(!store.create(&slot, &[winner; 700]).unwrap(), "the same bytes are not created twice");
        store.delete(&slot).unwrap();
        assert!(store.create(&slot, b"again").unwrap());
    }
    assert_eq!(store.sweep_staged().unwrap(), 0, "the losers left what they staged");
    assert_eq!(store.list("log").unwrap(), (1..=5).map(StoreKey::slot).collect::<Vec<_>>());
}
