//! Everything that clients ever sent, record for record and byte for byte, for comparison with what a server gives back.
//!
//! Invariants: a record is kept as it was sent, and the same id never stands for two records; a comparison looks at every
//! commit below a head, its snapshot and each blob of it, and takes nothing for granted that the server said.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::client::{Repository, Value, ids};

/// What was sent.
#[derive(Default)]
pub struct Archive {
    commits: BTreeMap<String, Value>,
    snapshots: BTreeMap<String, Value>,
    objects: BTreeMap<String, Arc<[u8]>>,
}

impl Archive {
    /// Keeps these commits of a repository with all that belongs to them.
    pub fn keep(&mut self, from: &Repository, commits: &[String]) {
        for id in commits {
            let record = &from.commits[id];
            let before = self.commits.insert(id.clone(), record.clone());
            assert!(before.is_none_or(|before| before == *record), "two records of {id}");
            let snapshot = record.text("snapshot_id");
            for (_, object) in from.snapshots[snapshot].str_map("manifest") {
                self.objects.entry(object.clone()).or_insert_with(|| Arc::clone(&from.objects[&object]));
            }
            self.snapshots.entry(snapshot.to_owned()).or_insert_with(|| from.snapshots[snapshot].clone());
        }
    }

    /// `head` and its ancestors as `given` has them, newest first, each compared with what was sent. Stops below the heads
    /// in `known`.
    pub fn compare(&self, given: &Repository, head: &str, known: &BTreeSet<String>) -> Result<Vec<String>, String> {
        let line = given.walk(head, known);
        for id in &line {
            let sent = self.commits.get(id).ok_or_else(|| format!("nobody sent commit {id}"))?;
            same("commit", id, sent, &given.commits[id])?;
            let snapshot = sent.text("snapshot_id");
            let record = given.snapshots.get(snapshot).ok_or_else(|| format!("snapshot {snapshot} is missing"))?;
            same("snapshot", snapshot, &self.snapshots[snapshot], record)?;
        }
        // The walk skips what is not there: then a parent is missing.
        let there: BTreeSet<&String> = line.iter().chain(known).collect();
        let parents = line.iter().flat_map(|id| given.parents(id));
        match parents.chain([head.to_owned()]).find(|id| !there.contains(id)) {
            Some(missing) => Err(format!("commit {missing} is missing")),
            None => Ok(line),
        }
    }

    /// These heads and every commit below them: whoever has the heads is sent none of it.
    pub fn below(&self, heads: &BTreeSet<String>) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut open: Vec<String> = heads.iter().cloned().collect();
        while let Some(id) = open.pop() {
            let Some(record) = self.commits.get(&id) else { continue };
            if seen.insert(id) {
                open.extend(["parent_commit_id", "parent2_commit_id"].map(|parent| record.text(parent).to_owned()));
            }
        }
        seen
    }

    /// Every blob below these heads: whoever has the heads has them, and is not sent them again.
    pub fn blobs_below(&self, heads: &BTreeSet<String>) -> BTreeSet<String> {
        let commits = self.below(heads);
        commits.iter().flat_map(|id| self.manifest(&self.commits[id])).map(|(_, object)| object).collect()
    }

    fn manifest(&self, commit: &Value) -> impl Iterator<Item = (String, String)> {
        self.snapshots[commit.text("snapshot_id")].str_map("manifest").into_iter()
    }

    /// Every blob of these commits but those that the client `has`, compared byte for byte with what was sent.
    pub fn compare_blobs(&self, given: &Repository, commits: &[String], has: &BTreeSet<String>) -> Result<(), String> {
        for id in commits {
            for (path, object) in self.manifest(&self.commits[id]) {
                let sent = &self.objects[&object];
                match given.objects.get(&object) {
                    None if has.contains(&object) => {}
                    _ if object == ids::EMPTY => {}
                    Some(bytes) if bytes == sent => {}
                    Some(_) => return Err(format!("{path} of {id}: other bytes than were sent as {object}")),
                    None => return Err(format!("{path} of {id}: {object} is missing")),
                }
            }
        }
        Ok(())
    }
}

/// Field for field; the order of keys is the server's.
fn same(what: &str, id: &str, sent: &Value, given: &Value) -> Result<(), String> {
    match sorted(sent) == sorted(given) {
        true => Ok(()),
        false => Err(format!("{what} {id} was sent as {sent:?} and came back as {given:?}")),
    }
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            entries.sort_by(|(one, _), (other, _)| one.as_str().cmp(&other.as_str()));
            Value::Map(entries)
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_known_heads_is_not_looked_for() {
        let mut sent = Repository::init();
        let ids: Vec<String> =
            ["one", "two", "three"].map(|name| sent.commit("main", name, &[(name, Some(name.as_bytes()))])).into();
        let mut archive = Archive::default();
        archive.keep(&sent, &ids);
        let known = archive.below(&BTreeSet::from([ids[1].clone()]));
        assert_eq!(known, BTreeSet::from([ids[0].clone(), ids[1].clone()]));
        // A branch from the first one: its parent is not among the heads, and is known all the same.
        let side = sent.commit_tree("side", "side", &sent.tree(&ids[0]), &[&ids[0]]);
        archive.keep(&sent, std::slice::from_ref(&side));
        let mut given = sent.clone();
        ids.iter().for_each(|id| drop(given.commits.remove(id)));
        archive.compare(&given, &side, &known).unwrap();
        assert!(archive.compare(&given, &side, &BTreeSet::from([ids[1].clone()])).is_err());
    }

    #[test]
    fn a_changed_record_a_changed_byte_and_a_hole_are_all_found() {
        let mut sent = Repository::init();
        let first = sent.commit("main", "one", &[("a", Some(b"a"))]);
        let head = sent.commit("main", "two", &[("b", Some(b"b"))]);
        let mut archive = Archive::default();
        archive.keep(&sent, &[first.clone(), head.clone()]);
        let none = BTreeSet::new();
        let all = archive.compare(&sent, &head, &none).unwrap();
        assert_eq!(all, [head.clone(), first.clone()]);
        archive.compare_blobs(&sent, &all, &none).unwrap();
        let mut changed = sent.clone();
        changed.commits.get_mut(&first).unwrap().set("author", Value::str("someone"));
        assert!(archive.compare(&changed, &head, &none).unwrap_err().contains("came back as"));
        let mut hole = sent.clone();
        hole.commits.remove(&first);
        assert!(archive.compare(&hole, &head, &none).unwrap_err().contains("is missing"));
        assert!(archive.compare(&hole, &head, &BTreeSet::from([first])).is_ok(), "known from before");
        let object = ids::sha256_hex(b"b");
        let mut flipped = sent.clone();
        flipped.objects.insert(object.clone(), b"c".as_slice().into());
        assert!(archive.compare_blobs(&flipped, &all, &none).unwrap_err().contains("other bytes"));
        flipped.objects.remove(&object);
        assert!(archive.compare_blobs(&flipped, &all, &none).unwrap_err().contains("is missing"));
        let first = BTreeSet::from([all[1].clone()]);
        assert!(
            archive.compare_blobs(&flipped, &all, &archive.blobs_below(&first)).unwrap_err().contains("is missing")
        );
        let both = archive.blobs_below(&BTreeSet::from([head]));
        assert_eq!(both, BTreeSet::from([ids::sha256_hex(b"a"), object]));
        archive.compare_blobs(&flipped, &all, &both).unwrap();
    }
}
