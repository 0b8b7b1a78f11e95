//! Bytes that come before they are read, out of a real S3 endpoint: what comes, how often it is asked for, and that whatever goes
//! wrong on the way is read all the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Barrier},
    thread,
};

use reprise_engine::{
    clock::SystemRandom,
    disk::real::RealDisk,
    id::{PackId, PushId, RepoId},
    object::ids::blob_id,
    pack::{PIECE_BYTES, PackOrigin, PackWriter, location_of, open_blob_stream},
    store::{
        ObjectStore, StoreKey,
        ahead::Soon,
        directory::DirectoryStore,
        s3::{Copies, S3Store},
    },
};
use reprise_tests::{
    bucket::{Bucket, Fault, Faults},
    seeds,
};
use sha2::{Digest, Sha256};

const BYTES: u64 = 3 << 20;

/// A server's view of the bucket, with nothing near.
fn far(bucket: &Bucket, root: &Path, copies: u64) -> S3Store {
    let disk = Arc::new(RealDisk::for_copies(root.to_path_buf()));
    let directory = DirectoryStore::new(disk, Arc::new(SystemRandom));
    S3Store::new(bucket.settings("hub"), Copies::new(directory, copies).unwrap()).unwrap()
}

fn content(name: u8) -> Vec<u8> {
    seeds::bytes(&mut seeds::random(name.into(), 31), BYTES as usize)
}

/// A pack has the name of its content.
fn key(name: u8) -> StoreKey {
    StoreKey::pack(PackId(Sha256::digest(content(name)).into()))
}

/// A bucket with so many packs.
fn filled(packs: u8) -> Bucket {
    let (bucket, root) = (Bucket::start(), tempfile::tempdir().unwrap());
    let store = far(&bucket, root.path(), 0);
    for name in 0..packs {
        let mut staged = store.stage().unwrap();
        staged.write(&content(name)).unwrap();
        staged.commit(&key(name)).unwrap();
    }
    bucket.objects.take_counts();
    bucket
}

fn soon(name: u8, bytes: u64, end: u64) -> Soon {
    Soon { key: key(name), bytes, end }
}

fn gets(bucket: &Bucket) -> u64 {
    bucket.objects.take_counts().get("get").copied().unwrap_or(0)
}

fn fail(bucket: &Bucket, faults: &[Fault]) {
    let planned = BTreeMap::from([("get", faults.to_vec())]);
    bucket.objects.set_faults(Faults { planned, ..Faults::default() });
}

#[test]
fn packs_of_which_much_is_wanted_come_with_one_request_each_however_many_read_them() {
    let (bucket, root) = (filled(40), tempfile::tempdir().unwrap());
    let store = far(&bucket, root.path(), 1 << 30);
    let all: Vec<Soon> = (0..40).map(|name| soon(name, BYTES, BYTES)).collect();
    let asked = Barrier::new(4);
    thread::scope(|scope| {
        for reader in 0..4 {
            let (store, all, asked) = (&store, all.clone(), &asked);
            scope.spawn(move || {
                let _coming = store.prefetch(all);
                asked.wait();
                for name in 0..40 {
                    let (at, want) = (reader * 700_000, content(name));
                    let read = store.read(&key(name), at, 500_000).unwrap();
                    assert!(read == want[at as usize..at as usize + 500_000], "pack {name}, reader {reader}");
                }
            });
        }
    });
    assert_eq!(gets(&bucket), 40);
}

#[test]
fn nobody_asks_for_packs_whose_reader_has_gone() {
    let (bucket, root) = (filled(40), tempfile::tempdir().unwrap());
    let store = far(&bucket, root.path(), 1 << 30);
    bucket.objects.set_faults(Faults { latency: std::time::Duration::from_millis(50), ..Faults::default() });
    drop(store.prefetch((0..40).map(|name| soon(name, BYTES, BYTES)).collect()));
    // The last one is read by itself, behind all that still come.
    assert!(store.read(&key(39), 0, 1_000).unwrap() == content(39)[..1_000]);
    assert!(gets(&bucket) <= 18, "those that were on their way, and this one");
}

#[test]
fn what_breaks_off_on_its_way_is_read_all_the_same() {
    for fault in [Fault::Half, Fault::DropBefore, Fault::ErrorBefore, Fault::SlowDown] {
        let (bucket, root) = (filled(2), tempfile::tempdir().unwrap());
        let store = far(&bucket, root.path(), 1 << 30);
        fail(&bucket, &[fault, fault]);
        let _coming = store.prefetch(vec![soon(0, BYTES, BYTES), soon(1, BYTES, BYTES)]);
        for name in [0, 1] {
            let read = store.read(&key(name), BYTES - 9_000, 9_000).unwrap();
            assert!(read == content(name)[BYTES as usize - 9_000..], "{fault:?}");
        }
    }
}

/// Reads all of a pack as an answer does that wants all of it.
fn read_whole(store: &S3Store, name: u8) {
    let _coming = store.prefetch(vec![soon(name, BYTES, BYTES)]);
    for at in (0..BYTES).step_by(1 << 20) {
        assert!(store.read(&key(name), at, 1 << 20).unwrap() == content(name)[at as usize..][..1 << 20]);
    }
}

#[test]
fn what_is_read_for_the_first_time_leaves_nothing_behind_and_what_is_asked_for_again_a_copy() {
    let (bucket, root) = (filled(1), tempfile::tempdir().unwrap());
    let store = far(&bucket, root.path(), 1 << 30);
    read_whole(&store, 0);
    assert_eq!((gets(&bucket), root.path().join("packs").exists()), (1, false));
    read_whole(&store, 0);
    assert_eq!(gets(&bucket), 1);
    read_whole(&store, 0);
    assert_eq!(gets(&bucket), 0);
    // It is one to the next process too.
    read_whole(&far(&bucket, root.path(), 1 << 30), 0);
    assert_eq!(gets(&bucket), 0);
}

#[test]
fn what_the_copies_have_no_room_for_comes_into_memory() {
    let (bucket, root) = (filled(1), tempfile::tempdir().unwrap());
    let small = far(&bucket, root.path(), 4 << 20);
    for _ in 0..3 {
        read_whole(&small, 0);
        assert_eq!(gets(&bucket), 1, "in one piece");
    }
    assert!(!root.path().join("packs").exists());
}

#[test]
fn what_does_not_hash_to_its_name_becomes_no_copy() {
    let (bucket, root) = (filled(1), tempfile::tempdir().unwrap());
    let store = far(&bucket, root.path(), 1 << 30);
    // The second time it is to become a copy.
    read_whole(&store, 0);
    bucket.objects.overwrite(&format!("hub/{}", key(0)), content(1).into());
    let coming = store.prefetch(vec![soon(0, BYTES, BYTES)]);
    // Behind its end: this waits for all of it.
    store.read(&key(0), BYTES, 1).unwrap_err();
    drop(coming);
    bucket.objects.overwrite(&format!("hub/{}", key(0)), content(0).into());
    assert!(store.read(&key(0), 0, 1_000).unwrap() == content(0)[..1_000]);
}

#[test]
fn of_a_pack_of_which_little_is_wanted_only_that_comes() {
    let (bucket, root) = (filled(3), tempfile::tempdir().unwrap());
    let store = far(&bucket, root.path(), 1 << 30);
    // Little of what stands before the last byte that is wanted; a beginning.
    let coming = store.prefetch(vec![soon(0, 1_000, 2 << 20), soon(1, 1_000, 1_000)]);
    for name in 0..3 {
        assert!(store.read(&key(name), 0, 1_000).unwrap() == content(name)[..1_000]);
    }
    assert_eq!(gets(&bucket), 3, "a range each, one of them ahead of its turn");
    drop(coming);
    // Asked for again it would become a copy; its length, which only the answer said, was against it.
    for _ in 0..3 {
        let _again = store.prefetch(vec![soon(1, 1_000, 1_000)]);
        assert!(store.read(&key(1), 0, 1_000).unwrap() == content(1)[..1_000]);
        assert_eq!(gets(&bucket), 1);
    }
    assert!(!root.path().join("packs").exists());
    // Until somebody wants all of it.
    read_whole(&store, 1);
    read_whole(&store, 1);
    assert_eq!(gets(&bucket), 2);
    read_whole(&store, 1);
    assert_eq!(gets(&bucket), 0);
}

#[test]
fn ranges_come_ahead_of_their_turn_as_far_as_there_is_room() {
    let (bucket, root) = (filled(1), tempfile::tempdir().unwrap());
    let store = far(&bucket, root.path(), 1 << 30);
    let mut ahead: Vec<_> = (0..64).map(|_| store.read_ahead(&key(0), 5, 1 << 20)).collect();
    assert!(ahead.iter().all(Option::is_some), "64 MiB");
    assert!(store.read_ahead(&key(0), 5, 1).is_none());
    let first = ahead.remove(0).unwrap();
    assert!(first.wait().unwrap() == content(0)[5..5 + (1 << 20)]);
    assert!(store.read_ahead(&key(0), 0, 1 << 20).is_some(), "what was taken makes room");
    ahead.clear();
    bucket.objects.set_faults(Faults { down: true, ..Faults::default() });
    let failing = store.read_ahead(&key(0), 0, 10).unwrap();
    assert!(failing.wait().is_none());
}

#[test]
fn a_large_blob_comes_with_one_request_and_what_breaks_off_goes_on() {
    let (bucket, root) = (Bucket::start(), tempfile::tempdir().unwrap());
    let blob = seeds::bytes(&mut seeds::random(1, 32), 9 << 20);
    let id = blob_id(&blob);
    let origin = PackOrigin { repo: RepoId([1; 16]), push: PushId([2; 16]), nonce: [3; 16] };
    let mut writer = PackWriter::new(far(&bucket, root.path(), 0).stage().unwrap(), origin).unwrap();
    writer.add_blob(id, &blob).unwrap();
    let pack = writer.finish().unwrap();
    let location = location_of(pack.pack, &pack.rows, 0);
    for faults in [&[][..], &[Fault::Half], &[Fault::DropBefore, Fault::SlowDown]] {
        fail(&bucket, faults);
        bucket.objects.take_counts();
        let store: Arc<dyn ObjectStore> = Arc::new(far(&bucket, root.path(), 0));
        let read: Vec<u8> =
            open_blob_stream(store, id, &location).unwrap().flat_map(|piece| piece.unwrap().to_vec()).collect();
        assert!(read == blob, "{faults:?}");
        let pieces = location.stored_len.div_ceil(PIECE_BYTES);
        match faults {
            [] => assert_eq!(gets(&bucket), 1),
            _ => assert!((2..=pieces + 3).contains(&gets(&bucket)), "{faults:?}"),
        }
    }
}
