//! A bucket 20 ms away: a clone from a server that has nothing of it near, beside plain parallel ranged reads of the same
//! bytes; and a machine restored from it.

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use reprise_engine::{
    disk::real::RealDisk,
    store::{
        ObjectStore, StoreKey,
        directory::DirectoryStore,
        s3::{Copies, S3Store},
    },
};
use reprise_tests::{
    bucket::{
        Bucket, Faults,
        machine::{URL, machine},
    },
    client::{Remote, Repository, Request, Value, mpack, push},
    seeds,
    server_process::DataDir,
};
use sha2::{Digest, Sha256};

use crate::{
    exchange::{Kept, Prepared, Taken},
    figures::{median, milliseconds, print},
    fleet::{LATENCY, serve},
    push_objects::{chunks, send},
};

const RUNS: usize = 7;
/// Objects of a clone that the stock client can take, and of a larger one.
const OBJECTS: [u64; 2] = [14_000, 112_000];
const OBJECT_BYTES: usize = 4_285;
const READERS: usize = 8;
const RANGE_BYTES: u64 = 8 << 20;

/// Prints the rate of a clone that finds nothing near, by each way there is, and that of ranged reads alone.
pub fn clone() {
    clone_of(OBJECTS[0], &["fetch", "fetch/mpack", "fetch/presign"]);
    clone_of(OBJECTS[1], &["fetch/mpack", "fetch/presign"]);
}

fn clone_of(objects: u64, ways: &[&'static str]) {
    let bucket = Bucket::start();
    let first = machine(&bucket);
    let server = serve(&first, &[]);
    first.create_repo("load/far", &[]);
    let body = fill(&server.remote("load/far", Some(&first.token("load"))), objects);
    drop(server);
    let far = || bucket.objects.set_faults(Faults { latency: LATENCY, ..Faults::default() });
    let mut found: BTreeMap<&str, Found> = BTreeMap::new();
    let mut plain = Vec::new();
    for _ in 0..RUNS {
        for way in ways {
            let copies = first.path().join("copies");
            if copies.exists() {
                fs::remove_dir_all(copies).expect("the copies");
            }
            bucket.objects.set_faults(Faults::default());
            let server = serve(&first, &[]);
            far();
            bucket.objects.take_counts();
            let remote = server.remote("load/far", None);
            let taken = match *way {
                "fetch/presign" => direct(&remote, &body),
                way => Prepared::new(&remote, "POST", way, &body).run(&mut vec![0; 256 << 10]),
            };
            let found = found.entry(way).or_default();
            found.gets = bucket.objects.take_counts().get("get").copied().unwrap_or(0);
            found.rates.push(taken.bytes as f64 / taken.whole.as_secs_f64());
            found.first_bytes.push(milliseconds(taken.first_byte));
            found.rss_kib = found.rss_kib.max(server.peak_rss_kib());
        }
        plain.push(ranged(&bucket));
    }
    let packs = bucket.objects.keys().iter().filter(|key| key.ends_with(".pack")).count();
    let alone = median(plain);
    print("ranged reads alone, bucket 20 ms away", &format!("{:.0} MB/s, {READERS} at a time", alone / 1e6));
    for (way, Found { rates, first_bytes, gets, rss_kib }) in found {
        let rate = median(rates);
        print(
            &format!("clone of {} MB by {way}", objects * OBJECT_BYTES as u64 / 1_000_000),
            &format!(
                "{:.0} MB/s (median of {RUNS}), ratio {:.2}; first byte {:.0} ms; {gets} reads of {packs} packs; {} MiB",
                rate / 1e6,
                rate / alone,
                median(first_bytes),
                rss_kib / 1_024
            ),
        );
    }
}

/// What one way of cloning was seen to take.
#[derive(Default)]
struct Found {
    rates: Vec<f64>,
    first_bytes: Vec<f64>,
    gets: u64,
    /// Of the server, at most.
    rss_kib: u64,
}

/// A clone that asks the server for addresses only, and reads from the bucket, as many parts at a time as [`ranged`] does.
fn direct(remote: &Remote, body: &[u8]) -> Taken {
    let started = Instant::now();
    let answer = Request::post(format!("{}/fetch/presign", remote.url), None, body).send().expect("the plan");
    assert_eq!(answer.code, 200, "{}", answer.text());
    let first_byte = started.elapsed();
    let plan = answer.decode().expect("a plan");
    let parts: Vec<(String, u64, u64)> = plan
        .items("packs")
        .iter()
        .flat_map(|pack| {
            mpack::ranges_of(pack).into_iter().map(|(offset, len)| (pack.text("url").to_owned(), offset, len))
        })
        .collect();
    let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let Some((first, ..)) = parts.first() else { return };
                let mut connection = Kept::to(first);
                while let Some((url, offset, len)) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // What a client must do with every byte, whatever its entries are.
                    let mut hash = Sha256::new();
                    connection.range(url, *offset, *len, &mut |piece| hash.update(piece));
                    std::hint::black_box(hash.finalize());
                    bytes.fetch_add(*len, Ordering::Relaxed);
                }
            });
        }
    });
    Taken { whole: started.elapsed(), first_byte, bytes: bytes.into_inner() }
}

/// Pushes so many files; the body of a fetch of all.
fn fill(remote: &Remote, objects: u64) -> Vec<u8> {
    let mut local = Repository::init();
    local.remotes.insert("origin".to_owned(), remote.clone());
    let mut random = seeds::random(objects, 6);
    let files: Vec<(String, Vec<u8>)> =
        (0..objects).map(|n| (format!("{:03}/{n:06}", n % 500), seeds::bytes(&mut random, OBJECT_BYTES))).collect();
    let changes: Vec<_> = files.iter().map(|(path, content)| (path.as_str(), Some(content.as_slice()))).collect();
    let head = local.commit("main", "large", &changes);
    push(&mut local, "origin", "main").expect("the push");
    Value::map([("want", Value::strs([&head])), ("have", Value::Array(Vec::new()))]).encode()
}

/// Bytes per second of reading all packs in ranges, with a client like the server's.
fn ranged(bucket: &Bucket) -> f64 {
    let root = tempfile::tempdir().expect("a directory");
    let disk = std::sync::Arc::new(RealDisk::new(root.path().to_path_buf()));
    let directory = DirectoryStore::new(disk, std::sync::Arc::new(reprise_engine::clock::SystemRandom));
    let store = S3Store::new(bucket.settings("hub"), Copies::new(directory, 0).expect("copies")).expect("a client");
    let mut ranges: Vec<(StoreKey, u64, u64)> = Vec::new();
    for key in store.list("packs").expect("the packs") {
        let size = store.size(&key).expect("a size");
        let pieces = (0..size.div_ceil(RANGE_BYTES)).map(|at| at * RANGE_BYTES);
        ranges.extend(pieces.map(|at| (key.clone(), at, RANGE_BYTES.min(size - at))));
    }
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                while let Some((key, at, len)) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
                    store.read(key, *at, *len).expect("a range");
                }
            });
        }
    });
    ranges.iter().map(|(_, _, len)| *len as f64).sum::<f64>() / started.elapsed().as_secs_f64()
}

/// Prints how long a machine of 1,000,000 objects takes to come back from its bucket.
pub fn restore() {
    let bucket = Bucket::start();
    let first = machine(&bucket);
    let server = serve(&first, &[]);
    first.create_repo("load/restore", &[]);
    let remote = server.remote("load/restore", Some(&first.token("load")));
    send(&chunks(&remote, 1_000_000, 10_000, 48, 1), 2);
    server.stop();
    bucket.objects.set_faults(Faults { latency: LATENCY, ..Faults::default() });
    let mut times = Vec::new();
    let mut log_bytes = 0;
    for _ in 0..5 {
        let empty: DataDir = machine(&bucket);
        let started = Instant::now();
        let report = empty.json(&["restore", "--bucket", URL]);
        times.push(started.elapsed().as_secs_f64());
        assert_eq!(report["missing_packs"], 0, "{report}");
        log_bytes = report["log_bytes"].as_u64().unwrap_or(0);
    }
    let megabytes = log_bytes as f64 / 1e6;
    print(
        "restore of 1,000,000 objects in 100 packs",
        &format!("{:.2} s (median of 5), {megabytes:.0} MB of log", median(times)),
    );
}
