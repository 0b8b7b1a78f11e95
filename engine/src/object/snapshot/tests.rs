//! Promises of snapshots.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::print_stderr
)]
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const H: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
const E: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const S: &str = "f527b0222c10378aac0eff1845f4a4e9ae278ac86a1c6ec473853677fbf7959a";

fn sample() -> Value {
    json!({"snapshot_id": S, "manifest": {"b.txt": H, "a/ünï.txt": E, "a.txt": H}, "created_at": "2026-03-16T12:00:00+00:00"})
}

/// A record whose id is right, so that only the manifest can be at fault.
fn record(manifest: &BTreeMap<String, String>) -> Value {
    let mut hasher = SnapshotHasher::default();
    manifest.iter().for_each(|(path, id)| hasher.entry(path, id));
    json!({"snapshot_id": hasher.finish().to_string(), "manifest": manifest})
}

fn record_of(paths: &[&str]) -> Value {
    record(&paths.iter().map(|path| ((*path).to_owned(), H.to_owned())).collect())
}

fn check_refused(record: &Value, text: &str) {
    let error = Snapshot::from_record(record).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains(text), "{error} should contain {text}");
}

#[test]
fn the_clients_test_vectors_hold() {
    let snapshot = Snapshot::from_record(&sample()).unwrap();
    assert_eq!((snapshot.id.to_string().as_str(), snapshot.entries, snapshot.directories), (S, 3, 1));
    assert_eq!(snapshot.blobs, [H.parse().unwrap(), E.parse().unwrap()]);
    let empty = Snapshot::from_record(&json!({"snapshot_id": E, "manifest": {}})).unwrap();
    assert_eq!((empty.entries, empty.directories, empty.blobs.len()), (0, 0, 0));
}

#[test]
fn unknown_fields_come_back_field_for_field() {
    let mut record = sample();
    record["note"] = json!({"x": [1, null]});
    let snapshot = Snapshot::from_record(&record).unwrap();
    assert_eq!(json::from_canonical(&snapshot.payload).unwrap(), record);
    assert_eq!(Snapshot::from_payload(&snapshot.payload).unwrap(), snapshot);
}

#[test]
fn a_wrong_id_is_refused_by_name() {
    let mut record = sample();
    record["manifest"]["c.txt"] = json!(H);
    check_refused(&record, S);
}

#[test]
fn a_path_that_is_file_and_directory_is_refused_even_when_others_sort_between() {
    check_refused(&record_of(&["a", "a-b", "a/c"]), "'a' is a file and a directory");
    check_refused(&record_of(&["x/a", "x/a b", "x/a!", "x/a/b/c"]), "'x/a' is a file and a directory");
    assert!(Snapshot::from_record(&record_of(&["a", "a-b/c", "aa/b", "ab"])).is_ok());
}

#[test]
fn bad_entries_are_refused_by_path() {
    check_refused(&record_of(&["ok", "a/../b"]), "a/../b");
    check_refused(&record_of(&["a/.muse/config"]), "a/.muse/config");
    check_refused(&record_of(&["a\0b"]), "control character");
    for id in [&H.to_uppercase(), &format!("sha256:{H}"), "", "00"] {
        check_refused(&record(&BTreeMap::from([("x".to_owned(), id.to_owned())])), "path 'x'");
    }
    check_refused(&json!({"snapshot_id": E, "manifest": {"x": 1}}), "'x' is not a text");
    check_refused(&json!({"snapshot_id": E, "manifest": []}), "manifest is missing");
    check_refused(&json!({"snapshot_id": E, "manifest": {}, "created_at": 1}), "created_at");
    check_refused(&json!({"manifest": {}}), "snapshot_id");
}

#[test]
fn stored_bytes_that_are_no_snapshot_are_damage() {
    let twice = format!(r#"{{"manifest":{{"a":"{H}","a":"{H}"}},"snapshot_id":"{S}"}}"#);
    for payload in ["", "{}", "[]", "{\"manifest\":{}}", "{\"manifest\":{},\"snapshot_id\":1}", &twice] {
        assert!(Snapshot::from_payload(payload.as_bytes()).unwrap_err().is_corrupt(), "{payload}");
    }
    assert!(Snapshot::blobs_of_payload(b"{}").unwrap_err().is_corrupt());
}

proptest! {
    #[test]
    fn what_was_accepted_is_read_back_equal(paths in prop::collection::btree_set("[abü\" -]{1,2}(/[abc!]{1,2}){0,3}", 0..12)) {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let directories: std::collections::BTreeSet<&str> = paths.iter()
            .flat_map(|path| path.match_indices('/').map(|(at, _)| &path[..at])).collect();
        let clash = paths.iter().any(|path| directories.contains(path));
        let accepted = Snapshot::from_record(&record_of(&paths));
        prop_assert_eq!(accepted.is_err(), clash);
        if let Ok(snapshot) = accepted {
            prop_assert_eq!(snapshot.directories as usize, directories.len());
            prop_assert_eq!(&Snapshot::from_payload(&snapshot.payload).unwrap(), &snapshot);
            prop_assert_eq!(&Snapshot::blobs_of_payload(&snapshot.payload).unwrap(), &snapshot.blobs);
        }
    }
}

/// Prints figures; run by hand: `cargo test --release -p reprise-engine --lib figures -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a promise"]
fn figures_of_100_000_entries() {
    let manifest = (0..100_000u32)
        .map(|n| (format!("tracks/{:03}/part-{n:06}.mid", n / 500), ids::blob_id(&n.to_le_bytes()).to_string()))
        .collect();
    let record = record(&manifest);
    for _ in 0..3 {
        let started = std::time::Instant::now();
        let snapshot = Snapshot::from_record(&record).unwrap();
        let from_record = started.elapsed();
        let again = Snapshot::from_payload(&snapshot.payload).unwrap();
        let from_payload = started.elapsed() - from_record;
        let blobs = Snapshot::blobs_of_payload(&snapshot.payload).unwrap();
        let blobs_of_payload = started.elapsed() - from_record - from_payload;
        assert_eq!((again.blobs.len(), blobs.len()), (100_000, 100_000));
        eprintln!("from_record {from_record:?}, from_payload {from_payload:?}, blobs_of_payload {blobs_of_payload:?}");
    }
}
