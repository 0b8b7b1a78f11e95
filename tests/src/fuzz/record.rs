//! Records: canonical JSON, commits, snapshots.
//!
//! The promise: canonical bytes are a fixed point and the only ones; a record that is accepted reads back equal from its stored
//! payload; the two readers of a snapshot (of a value, and of bytes without building one) agree on everything. Ids are made
//! right first, by the client's formulas, or nothing behind them would be reached.

use reprise_engine::object::{Commit, Snapshot, json};
use serde_json::{Value, json};

use crate::client::ids;

pub(super) fn canonical_json(input: &[u8]) {
    if let Ok(value) = json::from_canonical(input) {
        assert_eq!(json::to_canonical(&value).expect("it was canonical"), input);
    }
    let Ok(value) = serde_json::from_slice::<Value>(input) else { return };
    let Ok(canonical) = json::to_canonical(&value) else { return };
    assert_eq!(json::from_canonical(&canonical).expect("what is written is canonical"), value);
    // serde_json keeps keys sorted by their bytes too, and escapes as little.
    assert_eq!(canonical, serde_json::to_vec(&value).expect("JSON"), "as another writer has it");
}

pub(super) fn commit(input: &[u8]) {
    if let Ok(commit) = Commit::from_payload(input) {
        assert_eq!(commit.payload, input);
    }
    let Ok(mut record) = serde_json::from_slice::<Value>(input) else { return };
    if let Some(id) = commit_id(&record) {
        record["commit_id"] = json!(id);
    }
    let Ok(commit) = Commit::from_record(&record) else { return };
    assert_eq!(Commit::from_payload(&commit.payload).expect("what was accepted reads back"), commit);
    assert_eq!(json::from_canonical(&commit.payload).expect("canonical"), record, "field for field");
}

fn commit_id(record: &Value) -> Option<String> {
    let text = |field: &str| record.get(field).and_then(Value::as_str);
    let parents: Vec<&str> = ["parent_commit_id", "parent2_commit_id"].into_iter().filter_map(text).collect();
    Some(ids::commit_id(&parents, text("snapshot_id")?, text("message")?, text("committed_at")?))
}

pub(super) fn snapshot(input: &[u8]) {
    check_both_readers(input);
    let Ok(mut record) = serde_json::from_slice::<Value>(input) else { return };
    if let Some(id) = snapshot_id(&record) {
        record["snapshot_id"] = json!(id);
    }
    if let Ok(canonical) = json::to_canonical(&record) {
        check_both_readers(&canonical);
    }
    let Ok(snapshot) = Snapshot::from_record(&record) else { return };
    assert_eq!(Snapshot::from_payload(&snapshot.payload).expect("what was accepted reads back"), snapshot);
    assert_eq!(json::from_canonical(&snapshot.payload).expect("canonical"), record, "field for field");
}

/// The reader of stored bytes, which trusts that they are canonical, says of canonical ones what the reader of values says.
fn check_both_readers(payload: &[u8]) {
    let of_bytes = Snapshot::from_payload(payload);
    let blobs = Snapshot::blobs_of_payload(payload);
    let Ok(record) = json::from_canonical(payload) else { return };
    match (of_bytes, Snapshot::from_record(&record)) {
        (Ok(one), Ok(other)) => {
            assert_eq!(one, other);
            assert_eq!(blobs.expect("a snapshot"), one.blobs);
        }
        (Err(_), Err(_)) => {}
        // The one field that is only looked at when a record comes in.
        (Ok(_), Err(error)) => assert!(error.to_string().contains("created_at"), "{error}"),
        (Err(error), Ok(_)) => panic!("what is accepted does not read back: {error}"),
    }
}

fn snapshot_id(record: &Value) -> Option<String> {
    let manifest = record.get("manifest")?.as_object()?;
    let pairs: Option<Vec<(&str, &str)>> =
        manifest.iter().map(|(path, id)| Some((path.as_str(), id.as_str()?))).collect();
    Some(ids::snapshot_id(pairs?))
}

/// Values of every kind.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"Z":0.1,"a":{"b":"\u0001\"\n/","y":[]},"z":-9223372036854775808,"é":18446744073709551615}"#,
        r#"[null,true,false,1.5e300,-0.0,5e-324,"\ud83d\ude00",[[[[]]]],{"":{}}]"#,
        r#" { "b" : 1 , "a" : [ 1.0, 2e3 ] } "#,
    ];
    let texts = texts.into_iter().map(|text| text.as_bytes().to_vec());
    texts.chain(commit_seeds()).chain(snapshot_seeds()).collect()
}

/// A root, a merge, one with fields that nobody knows.
pub(super) fn commit_seeds() -> Vec<Vec<u8>> {
    let (id, other) = (ids::EMPTY, ids::sha256_hex(b"another"));
    let root =
        json!({"commit_id": id, "snapshot_id": id, "message": "first", "committed_at": "2026-03-16T12:00:00+00:00"});
    let mut merge = root.clone();
    (merge["parent_commit_id"], merge["parent2_commit_id"]) = (json!(id), json!(other));
    (merge["branch"], merge["author"]) = (json!("main"), Value::Null);
    let mut odd = root.clone();
    odd["structured_delta"] = json!({"ops": [{"op": "insert", "at": null, "n": -1, "x": 1.5}]});
    [root, merge, odd].iter().map(canonical).collect()
}

/// An empty one, one with directories, one with fields that nobody knows.
pub(super) fn snapshot_seeds() -> Vec<Vec<u8>> {
    let (id, other) = (ids::EMPTY, ids::sha256_hex(b"another"));
    let record = |manifest: Value| {
        let mut record = json!({"manifest": manifest, "created_at": "2026-03-16T12:00:00+00:00"});
        record["snapshot_id"] = json!(snapshot_id(&record).expect("a manifest of texts"));
        record
    };
    let mut odd = record(json!({"a": id}));
    odd["note"] = json!({"x": [1, null], "y": "\"\\"});
    let deep = json!({"a.txt": id, "a/b/c.txt": other, "a/b/d.txt": id, "a/ünï.txt": other, "b": id});
    [record(json!({})), record(deep), odd].iter().map(canonical).collect()
}

fn canonical(value: &Value) -> Vec<u8> {
    json::to_canonical(value).expect("a sound record")
}
