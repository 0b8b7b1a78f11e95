//! Commits: parsed from their JSON record, verified against their id.
//!
//! Invariants: a `Commit` exists only if its id follows from its recorded parents, snapshot, message and time; fields that
//! the id does not cover are kept as they came. Must never accept an id by any other formula.

use serde_json::{Map, Value};

use super::{ids, json};
use crate::{
    error::{Error, ErrorKind, Result},
    id::{Kind, ObjectId, RecordHash, parse_bare_hex32},
    limits::{AUTHOR_BYTES_MAX, COMMIT_BRANCH_BYTES_MAX, COMMITTED_AT_BYTES_MAX},
};

/// A verified commit record.
#[derive(Clone, PartialEq, Debug)]
pub struct Commit {
    /// Its id, recomputed.
    pub id: ObjectId,
    /// Recorded parents, first first.
    pub parents: Vec<ObjectId>,
    /// Its snapshot.
    pub snapshot: ObjectId,
    /// Exact text.
    pub message: String,
    /// Exact text.
    pub committed_at: String,
    /// Branch where it was made.
    pub branch: String,
    /// As recorded.
    pub author: String,
    /// Canonical JSON.
    pub payload: Vec<u8>,
    /// SHA-256 of the canonical bytes.
    pub record_hash: RecordHash,
}

impl Commit {
    /// Checks a record as pushed and recomputes its id. `commit_id`, `snapshot_id`, `message` and `committed_at` must be
    /// there; parents, `branch` and `author` may be missing or null; unknown fields are kept.
    ///
    /// Errors: `Invalid`, naming field and commit.
    pub fn from_record(record: &Value) -> Result<Commit> {
        let fields = Fields::of(record)?;
        // Before anything is hashed: this refuses NUL, which would make the formula ambiguous.
        let payload = json::to_canonical(record).map_err(|error| fields.fault(error))?;
        fields.verify(payload)
    }

    /// Parses stored canonical JSON (already verified against its record hash). `Corrupt` if it is no commit.
    pub fn from_payload(payload: &[u8]) -> Result<Commit> {
        let parse = || {
            let record = json::from_canonical(payload)?;
            Fields::of(&record)?.verify(payload.to_vec())
        };
        parse().map_err(|error: Error| error.with_kind(ErrorKind::Corrupt))
    }
}

/// The fields of one record; the id is kept as text so that every refusal can name it.
struct Fields<'a> {
    id: ObjectId,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn of(record: &'a Value) -> Result<Fields<'a>> {
        let Value::Object(map) = record else {
            return Err(Error::invalid("a commit record must be a map"));
        };
        let Some(Value::String(id)) = map.get("commit_id") else {
            return Err(Error::invalid("a commit record has no text field commit_id"));
        };
        let id = parse_bare_hex32(id).map_err(|error| Error::invalid(format!("commit_id: {error}")))?;
        Ok(Fields { id: ObjectId(id), map })
    }

    fn verify(&self, payload: Vec<u8>) -> Result<Commit> {
        let commit = Commit {
            id: self.id,
            parents: self.parents()?,
            snapshot: self.id_field("snapshot_id")?.ok_or_else(|| self.fault("snapshot_id is missing"))?,
            message: self.required("message")?.to_owned(),
            committed_at: self.capped("committed_at", self.required("committed_at")?, COMMITTED_AT_BYTES_MAX)?,
            branch: self.capped("branch", self.text("branch")?.unwrap_or_default(), COMMIT_BRANCH_BYTES_MAX)?,
            author: self.capped("author", self.text("author")?.unwrap_or_default(), AUTHOR_BYTES_MAX)?,
            record_hash: ids::record_hash(Kind::Commit, &payload),
            payload,
        };
        let derived = ids::commit_id(&commit.parents, commit.snapshot, &commit.message, &commit.committed_at);
        if derived != commit.id {
            return Err(self.fault(format!(
                "its record gives the id {derived} instead. A commit made with three or more -p parents (muse plumbing \
                 commit-tree) records only two of them, cannot be verified and is not accepted: make it again with two"
            )));
        }
        Ok(commit)
    }

    fn parents(&self) -> Result<Vec<ObjectId>> {
        let first = self.id_field("parent_commit_id")?;
        let second = self.id_field("parent2_commit_id")?;
        if first.is_none() && second.is_some() {
            return Err(self.fault("parent2_commit_id without parent_commit_id"));
        }
        Ok(first.into_iter().chain(second).collect())
    }

    fn id_field(&self, field: &str) -> Result<Option<ObjectId>> {
        let parse = |text| parse_bare_hex32(text).map_err(|error| self.fault(format!("{field}: {error}")));
        Ok(self.text(field)?.map(parse).transpose()?.map(ObjectId))
    }

    fn required(&self, field: &str) -> Result<&'a str> {
        self.text(field)?.ok_or_else(|| self.fault(format!("{field} is missing")))
    }

    fn text(&self, field: &str) -> Result<Option<&'a str>> {
        match self.map.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.fault(format!("{field} is not a text"))),
        }
    }

    fn capped(&self, field: &str, text: &str, limit: usize) -> Result<String> {
        if text.len() > limit {
            return Err(self.fault(format!("{field}: {} bytes are over the limit of {limit}", text.len())));
        }
        Ok(text.to_owned())
    }

    fn fault(&self, what: impl std::fmt::Display) -> Error {
        Error::invalid(format!("commit {}: {what}", self.id))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    const S: &str = "f527b0222c10378aac0eff1845f4a4e9ae278ac86a1c6ec473853677fbf7959a";
    const R: &str = "364b73737d62d8245d7130315afe32129ff3c8212246f4313b32ce383cc6f71b";
    const C: &str = "c056a696126d91ea748586f3ff6e48cad9ff98962acf574937d6c43abcc9d2f8";

    fn root() -> Value {
        json!({"commit_id": R, "snapshot_id": S, "message": "first", "committed_at": "2026-03-16T12:00:00+00:00"})
    }

    fn with(field: &str, value: Value) -> Value {
        let mut record = root();
        record[field] = value;
        record
    }

    fn check_refused(record: &Value, text: &str) {
        let error = Commit::from_record(record).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(text), "{error} should contain {text}");
    }

    #[test]
    fn a_record_with_only_the_required_fields_is_enough() {
        let commit = Commit::from_record(&root()).unwrap();
        assert_eq!((commit.parents.len(), commit.branch.as_str(), commit.author.as_str()), (0, "", ""));
        assert_eq!(Commit::from_payload(&commit.payload).unwrap(), commit);
    }

    #[test]
    fn unknown_fields_come_back_field_for_field() {
        let record = with("structured_delta", json!({"ops": [{"op": "insert", "at": null, "n": -1, "x": 1.5}]}));
        let commit = Commit::from_record(&record).unwrap();
        assert_eq!(json::from_canonical(&commit.payload).unwrap(), record);
        assert_ne!(commit.record_hash, Commit::from_record(&root()).unwrap().record_hash);
    }

    #[test]
    fn a_merge_keeps_the_order_of_its_parents() {
        let merge = "fc89fe2f8989c68579b668b1dd24cacf79fa088c96dc865f8e86ad15abcea79a";
        let record = json!({"commit_id": merge, "snapshot_id": S, "message": "merge", "parent_commit_id": R,
            "parent2_commit_id": C, "committed_at": "2026-03-17T00:00:00+00:00", "branch": null});
        let parents = Commit::from_record(&record).unwrap().parents;
        assert_eq!(parents, [R.parse().unwrap(), C.parse().unwrap()]);
    }

    #[test]
    fn the_unused_commit_tree_formula_is_not_accepted() {
        let unused = "ed735517cb6830e03d7daeee9f44fe8f8f412af54ff56fe38df0e580e8b6aff0";
        for committed_at in ["Alice", "2026-03-16T12:00:00+00:00"] {
            let mut record = json!({"commit_id": unused, "snapshot_id": S, "message": "msg", "author": "Alice",
                "parent_commit_id": R, "committed_at": committed_at});
            if committed_at == "Alice" {
                // The two formulas differ in one field only: with the author as time the hash is the same by design.
                assert!(Commit::from_record(&record).is_ok());
                record["committed_at"] = json!("");
            }
            check_refused(&record, unused);
        }
    }

    #[test]
    fn a_wrong_id_is_refused_with_a_way_out() {
        check_refused(&with("message", json!("second")), "three or more -p");
        check_refused(&with("message", json!("second")), R);
    }

    #[test]
    fn bad_fields_are_refused_by_name() {
        for field in ["snapshot_id", "message", "committed_at"] {
            check_refused(&with(field, Value::Null), &format!("{field} is missing"));
            check_refused(&with(field, json!(1)), &format!("{field} is not a text"));
        }
        check_refused(&with("message", json!("a\0b")), "message: U+0000");
        check_refused(&with("committed_at", json!("a\0b")), "committed_at: U+0000");
        check_refused(&with("snapshot_id", json!(format!("sha256:{S}"))), "snapshot_id: ");
        check_refused(&with("snapshot_id", json!(S.to_uppercase())), "snapshot_id: ");
        check_refused(&with("parent_commit_id", json!("")), "parent_commit_id: ");
        check_refused(&with("parent2_commit_id", json!(C)), "without parent_commit_id");
        check_refused(&with("author", json!("a".repeat(1_025))), "over the limit of 1024");
        check_refused(&with("commit_id", json!(3)), "commit_id");
        check_refused(&json!([]), "must be a map");
    }

    #[test]
    fn stored_bytes_that_are_no_commit_are_damage() {
        assert!(Commit::from_payload(b"{}").unwrap_err().is_corrupt());
    }
}
