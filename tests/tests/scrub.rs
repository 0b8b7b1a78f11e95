//! What rests in a bucket and beside it stays true: `reprise scrub` reads all of it, puts back what proves itself and condemns the
//! rest; `reprise doctor` takes the log from the bucket. Over the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reprise_engine::{id::Position, store::StoreKey};
use reprise_tests::{
    bucket::{
        Bucket,
        machine::{URL, machine, until},
    },
    client::{
        Repository, Request, Value as Pushed, clone, push,
        push::{bundle_body, filter_objects, push_objects},
    },
    fixtures,
    server_process::{DataDir, ServerProcess},
};
use serde_json::Value;

/// A machine with a bucket that has everything, and what was pushed.
fn at_rest(bucket: &Bucket) -> (DataDir, Repository) {
    let data = machine(bucket);
    let server = data.serve_with(&["--bucket", URL]);
    server.wait_ready();
    let local = pushed(&data, &server);
    server.stop();
    (data, local)
}

fn pushed(data: &DataDir, server: &ServerProcess) -> Repository {
    data.create_repo("alice/etude", &[]);
    let mut local = fixtures::etude();
    local.remote("origin", &server.url("alice/etude"), Some(&data.token("alice")));
    for branch in ["main", "variation"] {
        push(&mut local, "origin", branch).unwrap_or_else(|error| panic!("{branch}: {error:?}"));
    }
    local
}

fn served(data: &DataDir) -> ServerProcess {
    let server = data.serve();
    server.wait_ready();
    server
}

fn check_clone(server: &ServerProcess, local: &Repository) {
    let cloned = clone(&server.url("alice/etude")).unwrap_or_else(|error| panic!("{error:?}"));
    for branch in ["main", "variation"] {
        cloned.check_complete(local.head(branch)).unwrap();
    }
}

/// The report and the exit code.
fn asked(data: &DataDir, arguments: &[&str]) -> (Value, i32) {
    let output = data.run(&[&["--json"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.code().unwrap())
}

/// All commits of all branches with what the repository lacks of their objects.
fn push_everything(local: &Repository) {
    let remote = &local.remotes["origin"];
    let all: Vec<String> = local.objects.keys().cloned().collect();
    let missing = filter_objects(remote, &all).unwrap();
    push_objects(&local.objects, remote, &missing).unwrap();
    for branch in ["main", "variation"] {
        let commits = local.walk(local.head(branch), &BTreeSet::new());
        let body = bundle_body(local, &commits, branch, false).encode();
        let answer = Request::post(format!("{}/push", remote.url), remote.token.as_deref(), &body).value().unwrap();
        assert_eq!(answer.get("ok"), Some(&Pushed::Bool(true)), "{}", answer.text("message"));
    }
}

fn keys(bucket: &Bucket, part: &str) -> Vec<String> {
    bucket.objects.keys().into_iter().filter(|key| key.contains(part)).collect()
}

fn spoil(bucket: &Bucket, key: &str) -> Vec<u8> {
    let mut bytes = bucket.objects.bytes(key).unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    bucket.objects.overwrite(key, bytes.clone().into());
    bytes
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

fn condemned(data: &DataDir) -> usize {
    data.json_lines(&["log"]).iter().filter(|event| event["kind"] == "rows_condemned").count()
}

#[test]
fn a_scrub_reads_the_log_the_buckets_segments_every_pack_and_every_copy() {
    let bucket = Bucket::start();
    let (data, _) = at_rest(&bucket);
    bucket.objects.take_reads();
    let report = data.json(&["scrub"]);
    let (packs, segments) = (keys(&bucket, "/packs/"), keys(&bucket, "/log/seg-"));
    assert_eq!((&report["packs"], &report["copies"]), (&packs.len().into(), &packs.len().into()), "{report}");
    assert_eq!(report["segments"], segments.len(), "{report}");
    for zero in ["damaged", "healed", "repaired", "condemned"] {
        assert_eq!(report[zero], 0, "{report}");
    }
    let reads = bucket.objects.take_reads();
    assert!(packs.iter().chain(&segments).all(|key| reads.contains(key)), "{reads:?}");
    assert!(!data.path().join("scrub.json").exists());
}

#[test]
fn what_is_gone_from_the_bucket_is_put_there_again_and_a_damaged_copy_goes() {
    let bucket = Bucket::start();
    let (data, local) = at_rest(&bucket);
    let segment = format!("hub/{}", StoreKey::segment(Position(1)));
    let packs = keys(&bucket, "/packs/");
    let before: Vec<_> = [&segment, &packs[0]].map(|key| (key.clone(), bucket.objects.bytes(key).unwrap())).to_vec();
    before.iter().for_each(|(key, _)| bucket.objects.remove(key));
    let copy = data.path().join("copies").join(packs[1].strip_prefix("hub/").unwrap());
    let mut bytes = fs::read(&copy).unwrap();
    bytes[99] ^= 1;
    fs::write(&copy, bytes).unwrap();
    let report = data.json(&["scrub"]);
    assert_eq!(
        (&report["repaired"], &report["damaged"], &report["condemned"]),
        (&3.into(), &0.into(), &0.into()),
        "{report}"
    );
    for (key, bytes) in before {
        assert_eq!(bucket.objects.bytes(&key), Some(bytes), "{key}");
    }
    assert!(!copy.exists());
    assert_eq!(data.json(&["scrub"])["repaired"], 0);
    check_clone(&served(&data), &local);
}

#[test]
fn a_damaged_key_of_the_bucket_is_replaced_only_when_that_is_ordered_and_what_stood_there_is_kept() {
    let bucket = Bucket::start();
    let (data, local) = at_rest(&bucket);
    let spoilt = [format!("hub/{}", StoreKey::segment(Position(1))), keys(&bucket, "/packs/").remove(0)];
    let sound = spoilt.clone().map(|key| bucket.objects.bytes(&key).unwrap());
    let damage = spoilt.clone().map(|key| spoil(&bucket, &key));
    let (report, code) = asked(&data, &["scrub"]);
    assert_eq!((code, &report["damaged"], &report["condemned"]), (1, &2.into(), &0.into()), "{report}");
    let said = report["found"].to_string();
    assert!(
        spoilt.iter().all(|key| said.contains(key.strip_prefix("hub/").unwrap())) && said.contains("--repair"),
        "{said}"
    );
    for (key, damage) in spoilt.iter().zip(&damage) {
        assert_eq!(bucket.objects.bytes(key).unwrap(), damage, "nothing was ordered: {key}");
    }
    let report = data.json(&["scrub", "--repair"]);
    assert_eq!((&report["repaired"], &report["damaged"]), (&2.into(), &0.into()), "{report}");
    let kept: Vec<Vec<u8>> = files(&data.path().join("damaged")).iter().map(|path| fs::read(path).unwrap()).collect();
    for (at, key) in spoilt.iter().enumerate() {
        assert_eq!(bucket.objects.bytes(key).as_ref(), Some(&sound[at]), "{key}");
        assert!(kept.contains(&damage[at]), "{key} is not kept");
    }
    assert_eq!(condemned(&data), 0);
    check_clone(&served(&data), &local);
}

#[test]
fn a_damaged_pack_stays_in_the_bucket_until_the_bytes_that_replace_it_are_in_hand() {
    let bucket = Bucket::start();
    let (data, local) = at_rest(&bucket);
    let key = keys(&bucket, "/packs/").remove(0);
    let damage = spoil(&bucket, &key);
    let server = served(&data);
    // No copy can be made ready: a file is where the directory for that should be.
    let staging = data.path().join("copies/staging");
    fs::remove_dir_all(&staging).ok();
    fs::write(&staging, b"").unwrap();
    let scrub = data.run(&["--json", "scrub", "--repair"]);
    assert_eq!(scrub.status.code(), Some(3), "{scrub:?}");
    assert_eq!(bucket.objects.bytes(&key).unwrap(), damage);
    fs::remove_file(&staging).unwrap();
    let report = data.json(&["scrub", "--repair"]);
    assert_eq!((&report["repaired"], &report["condemned"]), (&1.into(), &0.into()), "{report}");
    check_clone(&server, &local);
}

#[test]
fn what_servers_share_is_never_taken_away_under_them() {
    let bucket = Bucket::start();
    // Segments of few slots, so that there is a sealed one.
    bucket.objects.overwrite("hub/log/SHARED", b"segment_bytes 262144\nsegment_slots 4\n"[..].into());
    let data = machine(&bucket);
    let server = data.serve_with(&["--bucket", URL, "--log", "bucket"]);
    server.wait_ready();
    let local = pushed(&data, &server);
    until("a segment is sealed, and the server knows it", || data.json(&["status"])["archived"].as_u64() > Some(0));
    for part in ["/log/seg-", "/packs/"] {
        let key = keys(&bucket, part).remove(0);
        let sound = bucket.objects.bytes(&key).unwrap();
        let damage = spoil(&bucket, &key);
        let (report, code) = asked(&data, &["scrub", "--repair"]);
        let counts = ["damaged", "repaired", "condemned"].map(|name| report[name].as_u64().unwrap());
        assert_eq!((code, counts), (1, [1, 0, 0]), "{part}: {report}");
        assert!(report["found"].to_string().contains("stop the other servers"), "{report}");
        assert_eq!(bucket.objects.bytes(&key).unwrap(), damage, "{part}");
        // What the report says to do.
        bucket.objects.remove(&key);
        let report = data.json(&["scrub"]);
        assert_eq!((&report["repaired"], &report["damaged"]), (&1.into(), &0.into()), "{part}: {report}");
        assert_eq!(bucket.objects.bytes(&key), Some(sound), "{part}");
    }
    check_clone(&server, &local);
}

#[test]
fn a_damaged_local_segment_is_named_with_what_helps_and_left_to_the_doctor() {
    let bucket = Bucket::start();
    let (data, local) = at_rest(&bucket);
    let path = data.path().join("log/seg-00000000000000000001.log");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&path, &bytes).unwrap();
    let (report, code) = asked(&data, &["scrub"]);
    assert!(code == 1 && report["found"].to_string().contains("reprise doctor"), "{report}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "a scrub changes nothing of a log");
    drop(local);
}

#[test]
fn the_comparison_of_three_reads_packs_in_the_bucket_whatever_the_copies_say() {
    let bucket = Bucket::start();
    let (data, local) = at_rest(&bucket);
    let key = keys(&bucket, "/packs/").remove(0);
    spoil(&bucket, &key);
    let (compared, code) = asked(&data, &["digest", "--three-ways"]);
    let pack = key.rsplit('/').next().unwrap().trim_end_matches(".pack");
    assert_eq!((code, &compared["ok"]), (1, &false.into()), "{compared}");
    assert!(compared["found"].to_string().contains(pack), "{compared}");
    drop(local);
}

#[test]
fn what_nothing_can_make_whole_is_condemned_and_the_next_push_of_it_heals() {
    let bucket = Bucket::start();
    for in_bucket in [true, false] {
        let (data, mut local) = match in_bucket {
            true => at_rest(&bucket),
            false => {
                let data = DataDir::new();
                let server = served(&data);
                let local = pushed(&data, &server);
                server.stop();
                (data, local)
            }
        };
        match in_bucket {
            true => {
                keys(&bucket, "/packs/").iter().for_each(|key| drop(spoil(&bucket, key)));
                fs::remove_dir_all(data.path().join("copies")).unwrap();
            }
            false => {
                for path in files(&data.path().join("objects/packs")) {
                    let mut bytes = fs::read(&path).unwrap();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 0x10;
                    fs::write(&path, bytes).unwrap();
                }
            }
        }
        let server = served(&data);
        let (report, code) = asked(&data, &["scrub"]);
        let count = report["condemned"].as_u64().unwrap();
        assert!(code == 1 && count > 0 && report["damaged"].as_u64() >= Some(count), "{report}");
        assert!(condemned(&data) > 0);
        local.remote("origin", &server.url("alice/etude"), Some(&data.token("alice")));
        push_everything(&local);
        check_clone(&server, &local);
        let (report, code) = asked(&data, &["scrub"]);
        assert_eq!((code, &report["damaged"], &report["condemned"]), (0, &0.into(), &0.into()), "{report}");
        assert!(report["healed"].as_u64() >= Some(count), "{report}");
    }
}

#[test]
fn a_scrub_keeps_to_its_rate_and_one_that_was_stopped_goes_on_where_it_was() {
    let bucket = Bucket::start();
    let (data, mut local) = at_rest(&bucket);
    let server = served(&data);
    local.remote("origin", &server.url("alice/etude"), Some(&data.token("alice")));
    let mut random = StdRng::seed_from_u64(3);
    for number in 0..4 {
        let large: Vec<u8> = (0..1_500_000).map(|_| random.random()).collect();
        local.commit("main", "large", &[(&format!("large-{number}"), Some(&large))]);
        push(&mut local, "origin", "main").unwrap();
    }
    let cursor =
        || fs::read(data.path().join("scrub.json")).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    thread::scope(|scope| {
        // Six megabytes at one per second.
        let scrub = scope.spawn(|| data.run(&["--json", "scrub", "--rate", "1"]));
        until("it is on its way", || cursor().is_some_and(|cursor| cursor["after"][0] == "Packs"));
        let second = data.run(&["scrub"]);
        assert!(String::from_utf8_lossy(&second.stderr).contains("under way"), "{second:?}");
        server.stop();
        assert_eq!(scrub.join().unwrap().status.code(), Some(3));
    });
    let left = cursor().expect("a cursor");
    let done = left["found"]["packs"].as_u64().unwrap();
    let last = left["after"][1].as_str().unwrap().to_owned();
    let packs = keys(&bucket, "/packs/");
    assert!(done > 0 && done < packs.len() as u64, "{left}");
    bucket.objects.take_reads();
    let report = data.json(&["scrub"]);
    assert_eq!((&report["packs"], &report["damaged"]), (&packs.len().into(), &0.into()), "{report}");
    let reads = bucket.objects.take_reads();
    for key in &packs {
        let name = key.rsplit('/').next().unwrap().trim_end_matches(".pack");
        assert_eq!(reads.contains(key), name > last.as_str(), "{key} behind {last}");
    }
    assert_eq!(cursor(), None);
}

#[test]
fn the_doctor_reads_packs_in_the_bucket_and_takes_lost_segments_from_it() {
    let bucket = Bucket::start();
    let (data, local) = at_rest(&bucket);
    fs::remove_dir_all(data.path().join("copies")).unwrap();
    let found = data.json(&["doctor"]);
    assert_eq!((&found["healthy"], &found["packs"]), (&true.into(), &keys(&bucket, "/packs/").len().into()), "{found}");
    let first = data.path().join("log/seg-00000000000000000001.log");
    let before = fs::read(&first).unwrap();
    for harm in ["gone", "zeroed", "cut"] {
        match harm {
            "gone" => fs::remove_file(&first).unwrap(),
            "zeroed" => fs::write(&first, vec![0; before.len()]).unwrap(),
            _ => fs::write(&first, &before[..5_000]).unwrap(),
        }
        let (found, code) = asked(&data, &["doctor"]);
        assert_eq!((code, &found["healthy"]), (1, &false.into()), "{harm}: {found}");
        let (mended, code) = asked(&data, &["doctor", "--repair"]);
        assert_eq!((code, &mended["after"]["healthy"]), (0, &true.into()), "{harm}: {mended}");
    }
    let key = keys(&bucket, "/packs/").remove(0);
    spoil(&bucket, &key);
    let (found, code) = asked(&data, &["doctor", "--repair"]);
    assert_eq!((code, found["after"]["damaged"].as_u64()), (1, Some(1)), "{found}");
    let said = found["treatment"]["left"].to_string();
    assert!(said.contains(&format!("s3://reprise/{key}")) && said.contains("scrub --repair"), "{said}");
    bucket.objects.remove(&key);
    let (found, _) = asked(&data, &["doctor"]);
    assert_eq!(found["damaged"], 1, "{found}");
    let report = asked(&data, &["scrub"]).0;
    assert_eq!((&report["packs"], report["damaged"].as_u64() > Some(0)), (&found["packs"], true), "{report}");
    drop(local);
}
