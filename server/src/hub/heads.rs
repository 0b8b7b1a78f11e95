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
    let parts = commits.div_ceil(PART_COMMITS).clamp(1, PARTS_MAX);
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
