//! T13: one contract for every object store, and what S3 adds to it: every outcome of a request, parts, the probe.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reprise_engine::{
    clock::SystemRandom,
    disk::real::RealDisk,
    error::ErrorKind,
    id::{PackId, Position},
    store::{
        Created, ObjectStore, StoreKey,
        directory::DirectoryStore,
        memory::MemoryStore,
        s3::{Copies, S3Settings, S3Store},
    },
};
use reprise_tests::{
    bucket::{Bucket, Fault, Faults, faults},
    effort::Effort,
    store_contract::check,
};
use sha2::{Digest, Sha256};

fn directory(root: &Path) -> DirectoryStore {
    DirectoryStore::new(Arc::new(RealDisk::new(root.to_path_buf())), Arc::new(SystemRandom))
}

fn s3(settings: S3Settings, root: &Path) -> S3Store {
    S3Store::new(settings, Copies::new(directory(root), 1 << 30).unwrap()).unwrap()
}

fn put(store: &dyn ObjectStore, name: u8, bytes: &[u8]) -> reprise_engine::Result<Created> {
    let mut staged = store.stage()?;
    bytes.chunks(1 << 20).try_for_each(|chunk| staged.write(chunk))?;
    staged.commit(&StoreKey::pack(PackId([name; 32])))
}

#[test]
fn a_directory_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    check(&directory(root.path()));
}

#[test]
fn memory_keeps_the_contract() {
    check(&MemoryStore::new());
}

#[test]
fn a_bucket_keeps_the_contract_with_and_without_a_prefix_and_local_copies() {
    for (prefix, copies) in [("", 1 << 30), ("hubs/one", 0)] {
        let (bucket, root) = (Bucket::start(), tempfile::tempdir().unwrap());
        let copies = Copies::new(directory(root.path()), copies).unwrap();
        check(&S3Store::new(bucket.settings(prefix), copies).unwrap());
    }
}

#[test]
fn of_many_keys_those_that_were_not_deleted_are_asked_for_again_or_told() {
    let (bucket, root) = (Bucket::start(), tempfile::tempdir().unwrap());
    let store = s3(bucket.settings("hub"), root.path());
    let names: Vec<StoreKey> = (1..4).map(|name| StoreKey::pack(PackId([name; 32]))).collect();
    let stuck = |codes: &[&'static str]| {
        names.iter().for_each(|name| assert!(store.create(name, b"bytes").unwrap()));
        let stuck = codes.iter().map(|code| (format!("hub/{}", names[1]), *code)).collect();
        bucket.objects.set_faults(Faults { stuck, ..Faults::default() });
        store.delete_all(&names)
    };
    stuck(&["InternalError", "SlowDown"]).unwrap();
    assert_eq!(store.list("packs").unwrap(), []);
    let refused = stuck(&["AccessDenied"]).unwrap_err();
    assert!(refused.to_string().contains("AccessDenied"), "{refused}");
    assert_eq!(store.list("packs").unwrap(), names[1..2]);
}

#[test]
fn a_bucket_that_answers_badly_one_time_in_five_keeps_the_contract() {
    let mut effort = Effort::of("T12 outcomes of requests", 3);
    while let Some(seed) = effort.next() {
        let (bucket, root) = (Bucket::start(), tempfile::tempdir().unwrap());
        bucket.objects.set_faults(Faults::random(seed, 20));
        let store = s3(bucket.settings("hub"), root.path());
        let want: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
        for name in 0..20 {
            // Whatever was answered, the key has these bytes or none, and a repeat says which.
            let mut tries = 0;
            while put(&store, name, &want).is_err() {
                tries += 1;
                assert!(tries < 20, "seed {seed}: {name} was never stored");
            }
            effort.saw(1);
            let key = StoreKey::pack(PackId([name; 32]));
            assert_eq!(bucket.objects.bytes(&format!("hub/{key}")).unwrap(), want);
            let read = (0..20).find_map(|_| store.read(&key, 1_000, 2_000).ok()).unwrap();
            assert_eq!(read, want[1_000..3_000]);
        }
    }
}

#[test]
fn whatever_becomes_of_a_create_the_key_says_whose_it_is() {
    for fault in faults::ALL {
        for repeated in [1, 3, 9] {
            let (bucket, root) = (Bucket::start(), tempfile::tempdir().unwrap());
            let store = s3(bucket.settings(""), root.path());
            let planned = BTreeMap::from([("put", vec![fault; repeated])]);
            bucket.objects.set_faults(Faults { planned, ..Faults::default() });
            let created = store.create(&StoreKey::slot(1), b"mine");
            let there = bucket.objects.bytes(StoreKey::slot(1).as_str());
            match created {
                Ok(true) => assert_eq!(there.unwrap(), &b"mine"[..], "{fault:?}"),
                // It met its own bytes, whose answer was lost.
                Ok(false) => assert_eq!(there.unwrap(), &b"mine"[..], "{fault:?}"),
                Err(error) => assert!(repeated == 9, "{fault:?} {repeated} times is not given up: {error}"),
            }
        }
    }
}

#[test]
fn a_large_object_goes_in_parts_and_a_failed_one_leaves_none() {
    let (bucket, root) = (Bucket::start(), tempfile::tempdir().unwrap());
    let store = s3(bucket.settings(""), root.path());
    let large: Vec<u8> = (0..100u64 << 20).map(|at| (at / 4_096 % 253) as u8).collect();
    assert_eq!(put(&store, 1, &large).unwrap(), Created::New);
    assert_eq!(bucket.objects.counts()["part"], 7);
    assert_eq!(bucket.objects.bytes(StoreKey::pack(PackId([1; 32])).as_str()).unwrap(), large);
    assert_eq!(put(&store, 1, &large).unwrap(), Created::Existed);
    let planned = BTreeMap::from([("part", vec![Fault::ErrorBefore; 40])]);
    bucket.objects.set_faults(Faults { planned, ..Faults::default() });
    put(&store, 2, &large).unwrap_err();
    assert_eq!(bucket.objects.unfinished(), 0);
    assert!(store.size(&StoreKey::pack(PackId([2; 32]))).unwrap_err().is_not_found());
}

#[test]
fn what_was_pushed_here_is_read_from_the_local_copy_and_copies_stay_below_their_limit() {
    let (bucket, root) = (Bucket::start(), tempfile::tempdir().unwrap());
    let copies = Copies::new(directory(root.path()), 250_000).unwrap();
    let store = S3Store::new(bucket.settings(""), copies).unwrap();
    for name in 1..=4 {
        put(&store, name, &[name; 100_000]).unwrap();
    }
    bucket.objects.take_counts();
    for name in 1..=4 {
        assert_eq!(store.read(&StoreKey::pack(PackId([name; 32])), 5, 3).unwrap(), vec![name; 3]);
    }
    assert_eq!(bucket.objects.take_counts(), BTreeMap::from([("get", 2)]), "two copies have room");
    let held = directory(root.path()).list("packs").unwrap();
    assert_eq!(held, [3, 4].map(|name| StoreKey::pack(PackId([name; 32]))));
}

/// What happens to the files of one copy: the copy, its checksums.
type Harm = fn(copy: &Path, sums: &Path, other: &Path);

fn change(path: &Path, what: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    what(&mut bytes);
    fs::write(path, bytes).unwrap();
}

const HARMS: [(&str, Harm); 9] = [
    ("cut", |copy, _, _| change(copy, |bytes| bytes.truncate(bytes.len() / 2))),
    ("empty", |copy, _, _| change(copy, Vec::clear)),
    ("longer", |copy, _, _| change(copy, |bytes| bytes.insert(0, 0))),
    ("a zeroed page", |copy, _, _| change(copy, |bytes| bytes[65_536..69_632].fill(0))),
    ("gone", |copy, _, _| fs::remove_file(copy).unwrap()),
    ("another's", |copy, _, other| fs::write(copy, fs::read(other).unwrap()).unwrap()),
    ("checksums gone", |_, sums, _| fs::remove_file(sums).unwrap()),
    ("checksums cut", |_, sums, _| change(sums, |bytes| bytes.truncate(bytes.len() - 1))),
    ("checksums empty", |_, sums, _| change(sums, Vec::clear)),
];

/// A pack in a bucket, with its copy and that of another one.
struct Copied {
    bucket: Bucket,
    root: tempfile::TempDir,
    store: S3Store,
    key: StoreKey,
    bytes: Vec<u8>,
    files: [PathBuf; 3],
}

impl Copied {
    fn new() -> Copied {
        let (bucket, root) = (Bucket::start(), tempfile::tempdir().unwrap());
        let store = s3(bucket.settings(""), root.path());
        let bytes: Vec<u8> = (0..150_000u32).map(|at| (at * 7 % 251) as u8).collect();
        let [key, other] = [0, 1].map(|odd| {
            let bytes: Vec<u8> = bytes.iter().map(|byte| byte ^ odd).collect();
            let key = StoreKey::pack(PackId(Sha256::digest(&bytes).into()));
            let mut staged = store.stage().unwrap();
            bytes.chunks(40_000).for_each(|piece| staged.write(piece).unwrap());
            staged.commit(&key).unwrap();
            key
        });
        let sums = key.as_str().replace("packs/", "sums/").replace(".pack", ".sums");
        let files = [key.as_str(), &sums, other.as_str()].map(|file| root.path().join(file));
        Copied { bucket, root, store, key, bytes, files }
    }

    /// As after a start.
    fn reopened(&mut self) {
        self.store = s3(self.bucket.settings(""), self.root.path());
    }

    fn harm(&self, harm: impl FnOnce(&Path, &Path, &Path)) {
        harm(&self.files[0], &self.files[1], &self.files[2]);
    }

    /// Every read of it is right, then there is a sound copy again, and nothing is asked of the bucket any more.
    fn check(&self, what: &str) {
        for (at, len) in [(0, 150_000), (65_500, 100), (149_999, 1), (70_000, 70_000)] {
            let read =
                self.store.read(&self.key, at as u64, len as u64).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(read == self.bytes[at..at + len], "{what}: other bytes at {at}");
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        // A file that somebody took away is still read while it is open here.
        let is_back = || what == "gone" || fs::read(&self.files[0]).is_ok_and(|bytes| bytes == self.bytes);
        while !(is_back() && self.is_served_here()) {
            assert!(Instant::now() < deadline, "{what}: no new copy");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_served_here(&self) -> bool {
        self.bucket.objects.take_counts();
        assert!(self.store.read(&self.key, 0, 150_000).unwrap() == self.bytes);
        self.bucket.objects.take_counts().is_empty()
    }
}

#[test]
fn whatever_happens_to_a_copy_while_it_is_in_use_the_bucket_is_read_and_the_copy_comes_back() {
    for (what, harm) in HARMS {
        let copied = Copied::new();
        assert!(copied.is_served_here());
        copied.harm(harm);
        copied.check(what);
    }
}

#[test]
fn whatever_happens_to_a_copy_between_two_starts_the_bucket_is_read() {
    for (what, harm) in HARMS {
        let mut copied = Copied::new();
        copied.harm(harm);
        copied.reopened();
        let read = copied.store.read(&copied.key, 1, 149_000).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(read == copied.bytes[1..149_001], "{what}");
    }
    let mut copied = Copied::new();
    copied.reopened();
    assert!(copied.is_served_here(), "an unharmed copy outlives the process");
}

#[test]
fn no_flipped_bit_of_a_copy_or_of_its_checksums_is_ever_served() {
    let mut effort = Effort::of("F3 copies, flipped bits", 60);
    let mut copied = Copied::new();
    while let Some(seed) = effort.next() {
        let mut random = StdRng::seed_from_u64(seed);
        let file = random.random_range(0..2);
        let mut at = 0;
        change(&copied.files[file], |bytes| {
            at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        });
        copied.reopened();
        copied.check(&format!("seed {seed}: byte {at} of {}", copied.files[file].display()));
        effort.saw(1);
    }
}

#[test]
fn a_damaged_copy_of_what_the_bucket_does_not_give_is_an_error_of_the_bucket_and_no_damage() {
    let copied = Copied::new();
    copied.harm(|copy, _, _| change(copy, |bytes| bytes[9] ^= 1));
    copied.bucket.objects.set_faults(Faults { down: true, ..Faults::default() });
    assert!(!copied.store.read(&copied.key, 0, 100).unwrap_err().is_corrupt());
    copied.bucket.objects.set_faults(Faults::default());
    assert!(copied.store.read(&copied.key, 0, 100).unwrap() == copied.bytes[..100]);
}

/// An archived segment was compared with the copy of what had just been sent, and never with what the bucket had.
#[test]
fn nothing_but_packs_is_kept_beside_the_bucket_and_who_judges_the_bucket_reads_the_bucket() {
    let copied = Copied::new();
    let segment = StoreKey::segment(Position(1));
    let mut staged = copied.store.stage().unwrap();
    staged.write(b"as it was sent").unwrap();
    staged.commit(&segment).unwrap();
    for key in [&segment, &copied.key] {
        copied.bucket.objects.overwrite(key.as_str(), vec![9; 150_000].into());
    }
    assert_eq!(copied.store.read(&segment, 0, 3).unwrap(), vec![9; 3]);
    assert!(copied.store.read(&copied.key, 0, 3).unwrap() == copied.bytes[..3]);
    let bucket = copied.store.without_copies().unwrap();
    assert_eq!(bucket.read(&copied.key, 0, 3).unwrap(), vec![9; 3]);
    // What the bucket has now is not what the copy was of: it does not become a copy.
    copied.harm(|copy, _, _| change(copy, Vec::clear));
    assert_eq!(copied.store.read(&copied.key, 0, 3).unwrap(), vec![9; 3]);
    assert_eq!(copied.store.read(&copied.key, 0, 3).unwrap(), vec![9; 3]);
    assert!(!copied.files[0].exists());
}

#[test]
fn the_probe_accepts_a_store_that_creates_once_and_leaves_nothing() {
    let (bucket, root) = (Bucket::start(), tempfile::tempdir().unwrap());
    s3(bucket.settings("hub"), root.path()).probe([7; 16]).unwrap();
    assert!(bucket.objects.keys().is_empty());
}

#[test]
fn errors_say_what_was_asked_and_what_helps() {
    let (bucket, root) = (Bucket::start(), tempfile::tempdir().unwrap());
    let other = S3Settings { bucket: "another".to_owned(), ..bucket.settings("") };
    let error = s3(other, root.path()).create(&StoreKey::slot(1), b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("NoSuchBucket") && error.to_string().contains("create the bucket"), "{error}");
    let stranger = S3Settings { credentials: Some(("who".into(), "knows".into())), ..bucket.settings("") };
    let error = s3(stranger, root.path()).create(&StoreKey::slot(1), b"x").unwrap_err();
    assert!(error.to_string().contains("check the credentials"), "{error}");
    let nobody = S3Settings { endpoint: Some("http://127.0.0.1:1".to_owned()), ..bucket.settings("") };
    let error = s3(nobody, root.path()).size(&StoreKey::slot(1)).unwrap_err();
    assert!(error.to_string().contains(StoreKey::slot(1).as_str()), "{error}");
}

#[test]
fn bucket_urls_are_read_or_refused_by_name() {
    let read = S3Settings::parse("s3://packs-1/hub/one/", Some("http://127.0.0.1:9000".into()), None).unwrap();
    assert_eq!((read.bucket.as_str(), read.prefix.as_str(), read.path_style), ("packs-1", "hub/one/", true));
    assert!(S3Settings::parse("s3://packs-1", None, None).unwrap().prefix.is_empty());
    for odd in [
        "packs",
        "s3://",
        "s3://ab",
        "s3://Packs",
        "s3://packs//x",
        "s3://packs/../x",
        "s3://packs/a\\b",
        "http://packs",
    ] {
        let Err(error) = S3Settings::parse(odd, None, None) else { panic!("{odd} was accepted") };
        assert!(error.to_string().contains(odd), "{error}");
    }
}
