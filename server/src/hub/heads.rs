//! Candidate heads: commits of a repository that nothing of their own branch was built on, newest first.
//!
//! A branch's head is one of them unless later commits that a refused push brought stand on it. The recorded branch and time are
//! the committer's words: they order and hint, nothing is decided by them.
//!
//! Invariants: memory is bounded whatever the number of commits: their ids are taken in parts, each with a scan of its own, and
//! only the newest candidates are kept.

use std::collections::BTreeMap;

use reprise_engine::{Result, id::ObjectId};
use reprise_projections::{CommitRow, RepoScope, View};
use serde_json::{Value, json};

/// What a repository's commits end in.
pub struct Heads {
    /// Commits in all.
    pub commits: u64,
    /// Candidates, newest first.
    pub heads: Vec<Head>,
    /// Older candidates that are not listed.
    pub more: u64,
}

/// One candidate.
pub struct Head {
    /// Its id.
    pub id: ObjectId,
    /// When it was made, as recorded.
    pub committed_at: String,
    /// By whom, as recorded.
    pub author: String,
    /// First line of its message.
    pub subject: String,
    /// On which branch it was made, as recorded; empty if it was not.
    pub branch: String,
    /// Commits of other branches stand on it: it was merged, or branched off from.
    pub has_children: bool,
    /// Branches of the repository that are there now.
    pub is_head_of: Vec<String>,
}

impl Heads {
    /// As one JSON value.
    pub fn json(&self) -> Value {
        json!({
            "commits": self.commits,
            "heads": self.heads.iter().map(Head::json).collect::<Vec<_>>(),
            "more": self.more,
        })
    }
}

impl Head {
    /// As one JSON value.
    pub fn json(&self) -> Value {
        json!({
            "commit": self.id.to_string(),
            "committed_at": self.committed_at,
            "author": self.author,
            "subject": self.subject,
            "branch": self.branch,
            "has_children": self.has_children,
            "head_of": self.is_head_of,
        })
    }
}

/// The newest `max` candidates of a repository.
pub fn list(view: &View, scope: RepoScope, max: usize) -> Result<Heads> {
    let mut commits = 0u64;
    view.commits(scope, ALL, &mut |_, _| {
        commits += 1;
        Ok(())
    })?;
    list_in_parts(view, scope, max, (commits, commits.div_ceil(PART_COMMITS).clamp(1, PARTS_MAX)))
}

fn list_in_parts(view: &View, scope: RepoScope, max: usize, (commits, parts): (u64, u64)) -> Result<Heads> {
    let mut newest = Newest { max, kept: BTreeMap::new(), more: 0 };
    for part in 0..parts {
        let range = (bound(part, parts).unwrap_or(ALL.0), bound(part + 1, parts));
        let children = Children::of(view, scope, range)?;
        view.commits(scope, range, &mut |id, row| {
            let (has_children, is_followed) = children.of_commit(id, &row.branch);
            if !is_followed {
                newest.take(id, row, has_children);
            }
            Ok(())
        })?;
    }
    let mut heads: Vec<Head> = newest.kept.into_values().rev().collect();
    for branch in view.refs(scope)? {
        if let Some(head) = heads.iter_mut().find(|head| head.id == branch.head) {
            head.is_head_of.push(branch.name);
        }
    }
    Ok(Heads { commits, heads, more: newest.more })
}

/// Which commits of a range have children, and on which branches those were made.
struct Children(Vec<(ObjectId, u64)>);

impl Children {
    fn of(view: &View, scope: RepoScope, (from, until): (ObjectId, Option<ObjectId>)) -> Result<Children> {
        let mut pairs = Vec::new();
        view.commits(scope, ALL, &mut |_, row| {
            let within = row.parents.iter().filter(|parent| **parent >= from && until.is_none_or(|end| **parent < end));
            pairs.extend(within.map(|parent| (*parent, fingerprint(&row.branch))));
            Ok(())
        })?;
        pairs.sort_unstable();
        pairs.dedup();
        Ok(Children(pairs))
    }

    /// Whether it has children, and whether one of them was made on `branch`.
    fn of_commit(&self, id: ObjectId, branch: &str) -> (bool, bool) {
        let first = self.0.partition_point(|(parent, _)| *parent < id);
        let has_children = self.0.get(first).is_some_and(|(parent, _)| *parent == id);
        (has_children, self.0.binary_search(&(id, fingerprint(branch))).is_ok())
    }
}

/// 64 bits of a branch's name: children of a commit are few, and a hint may err.
fn fingerprint(branch: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    branch.hash(&mut hasher);
    hasher.finish()
}

/// The newest candidates so far.
struct Newest {
    max: usize,
    kept: BTreeMap<(String, ObjectId), Head>,
    more: u64,
}

impl Newest {
    fn take(&mut self, id: ObjectId, row: CommitRow, has_children: bool) {
        let CommitRow { committed_at, author, message, branch, .. } = row;
        let subject = message.lines().next().unwrap_or_default().chars().take(SUBJECT_CHARACTERS).collect();
        let key = (committed_at.clone(), id);
        let head = Head { id, committed_at, author, subject, branch, has_children, is_head_of: Vec::new() };
        self.kept.insert(key, head);
        if self.kept.len() > self.max {
            self.kept.pop_first();
            self.more += 1;
        }
    }
}

/// Where part `part` of `parts` begins; `None` before the first and after the last.
fn bound(part: u64, parts: u64) -> Option<ObjectId> {
    if part == 0 || part >= parts {
        return None;
    }
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(u64::MAX / parts * part).to_be_bytes());
    Some(ObjectId(id))
}

const ALL: (ObjectId, Option<ObjectId>) = (ObjectId([0; 32]), None);
/// Commits of one part, roughly: 20 MiB with their parents.
const PART_COMMITS: u64 = 1 << 18;
const PARTS_MAX: u64 = 1 << 16;
const SUBJECT_CHARACTERS: usize = 120;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use reprise_engine::{
        event::{Codec, CommitFacts, Event, EventBody, ObjectRow, ObjectsReceived},
        id::{Kind, PackId, Position, PushId, RecordHash, RepoId, TableHash},
    };
    use reprise_projections::{
        models,
        store::{Batch, Store, memory::MemoryStore},
    };

    use super::*;
    use crate::hub::quarantine;

    const REPO: RepoId = RepoId([1; 16]);

    /// Ids that lie all over their range.
    fn id(number: usize) -> ObjectId {
        let byte = |at: usize| u8::try_from((number * 97 + at * 31) % 256).unwrap();
        ObjectId(std::array::from_fn(byte))
    }

    /// Each commit on one of three branches, with one or two of the commits before it as parents.
    fn commits() -> Vec<CommitFacts> {
        let parents = |number: usize| match number {
            0 => vec![],
            _ if number.is_multiple_of(7) => vec![id(number - 1), id(number / 2)],
            _ => vec![id(number - 1 - number % 3 % number)],
        };
        let commit = |number: usize| CommitFacts {
            id: id(number),
            parents: parents(number),
            snapshot: ObjectId([7; 32]),
            committed_at: format!("2026-01-01T00:{:02}:00+00:00", number % 60),
            branch: format!("b{}", number % 3),
            author: "ada".to_owned(),
            message: format!("commit {number}\nand more"),
            adds: Vec::new(),
            wire_len: 1,
        };
        let mut commits: Vec<_> = (0..100).map(commit).collect();
        commits.sort_unstable_by_key(|commit| commit.id);
        commits
    }

    fn view() -> View {
        let commits = commits();
        let row = |commit: &CommitFacts| ObjectRow {
            kind: Kind::Commit,
            id: commit.id,
            offset: 128,
            stored_len: 1,
            real_len: 1,
            codec: Codec::Raw,
            base: None,
            record_hash: Some(RecordHash([0; 32])),
        };
        let rows = commits.iter().map(row).collect();
        let (pack, table_hash) = (PackId([3; 32]), TableHash([3; 32]));
        let received =
            ObjectsReceived { repo: REPO, pack, pack_bytes: 1 << 20, table_hash, rows, snapshots: vec![], commits };
        let created = EventBody::RepoCreated(quarantine::record(REPO, quarantine::slug(REPO), 0));
        let (store, mut batch) = (MemoryStore::new(), Batch::new());
        for (at, body) in (1..).zip([created, EventBody::ObjectsReceived(received)]) {
            let event = Event { position: Position(at), time_ms: 0, push: PushId([0; 16]), actor: String::new(), body };
            models::fold(&event, &mut batch);
        }
        store.apply(&batch, None).unwrap();
        View::of_snapshot(store.snapshot().unwrap()).unwrap()
    }

    #[test]
    fn candidates_are_the_commits_that_none_of_their_own_branch_follows_however_many_parts_there_are() {
        let (view, commits) = (view(), commits());
        let scope = view.repo(REPO).unwrap().unwrap().scope();
        let children = |of: ObjectId| commits.iter().filter(move |commit| commit.parents.contains(&of));
        let expected: BTreeSet<(ObjectId, bool)> = commits
            .iter()
            .filter(|commit| children(commit.id).all(|child| child.branch != commit.branch))
            .map(|commit| (commit.id, children(commit.id).next().is_some()))
            .collect();
        assert!(expected.iter().any(|(_, has_children)| *has_children) && expected.len() > 3, "{expected:?}");
        for parts in [1, 2, 7, 100, PARTS_MAX] {
            let found = list_in_parts(&view, scope, 1_000, (100, parts)).unwrap();
            let heads: BTreeSet<_> = found.heads.iter().map(|head| (head.id, head.has_children)).collect();
            assert_eq!((heads, found.more), (expected.clone(), 0), "{parts} parts");
        }
        let all = list(&view, scope, 1_000).unwrap();
        assert!(all.heads.is_sorted_by(|newer, older| newer.committed_at >= older.committed_at));
        assert!(all.heads.iter().all(|head| !head.subject.contains("more")));
        let few = list(&view, scope, 2).unwrap();
        assert_eq!((few.commits, few.heads.len(), few.more), (100, 2, expected.len() as u64 - 2));
        assert_eq!(few.heads[1].id, all.heads[1].id, "the newest are kept");
    }
}
