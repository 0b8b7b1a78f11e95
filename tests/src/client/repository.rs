//! A local muse repository as far as the wire shows it: objects, commits, snapshots, branches, tracking refs.
//!
//! Invariants: ids follow MWP §3; a commit that is already there is never rewritten; empty blobs exist only where they were
//! made, because applying a pack drops them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    ids::{commit_id, sha256_hex, snapshot_id},
    value::Value,
};

/// Path → object id.
pub type Tree = BTreeMap<String, String>;

/// A remote as `muse remote add` and `muse auth login` leave it.
#[derive(Clone, Debug)]
pub struct Remote {
    /// `http://host:port/owner/slug`.
    pub url: String,
    /// The token of its host, if one was stored.
    pub token: Option<String>,
}

/// A clone, or the place where commits are made.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    /// The client's local id; differs from the server's until a clone takes that one over.
    pub repo_id: String,
    /// From refs at clone.
    pub domain: String,
    /// The branch that is checked out.
    pub branch: String,
    /// Blobs by id.
    pub objects: BTreeMap<String, Arc<[u8]>>,
    /// Commit records by id, as made or as received.
    pub commits: BTreeMap<String, Value>,
    /// Snapshot records by id.
    pub snapshots: BTreeMap<String, Value>,
    /// Local branches.
    pub heads: BTreeMap<String, String>,
    /// Remotes by name.
    pub remotes: BTreeMap<String, Remote>,
    /// `.muse/remotes/<remote>/<branch>`.
    pub tracking: BTreeMap<(String, String), String>,
    ticks: u64,
}

/// How a merge ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Merge {
    /// Nothing to do.
    UpToDate,
    /// The branch moved to this commit.
    FastForward(String),
    /// A merge commit was made.
    Merged(String),
    /// Both sides changed these paths.
    Conflict(Vec<String>),
}

impl Repository {
    /// `muse init`.
    pub fn init() -> Repository {
        Repository {
            repo_id: "00000000-0000-4000-8000-000000000001".to_owned(),
            domain: "code".to_owned(),
            branch: "main".to_owned(),
            ..Repository::default()
        }
    }

    /// `muse remote add`, and the token of its host.
    pub fn remote(&mut self, name: &str, url: &str, token: Option<&str>) {
        let remote = Remote { url: url.trim_end_matches('/').to_owned(), token: token.map(str::to_owned) };
        self.remotes.insert(name.to_owned(), remote);
    }

    /// `rm -r .muse/remotes`: forgets what every remote has.
    pub fn forget_tracking(&mut self) {
        self.tracking.clear();
    }

    /// The head of a branch; panics when it does not exist.
    pub fn head(&self, branch: &str) -> &str {
        self.heads.get(branch).unwrap_or_else(|| panic!("no branch {branch}"))
    }

    /// Makes or moves a local branch.
    pub fn set_branch(&mut self, branch: &str, commit: &str) {
        self.heads.insert(branch.to_owned(), commit.to_owned());
    }

    /// Commits `changes` (path → new content, `None` deletes) on `branch`, which is made if absent. Its id.
    pub fn commit(&mut self, branch: &str, message: &str, changes: &[(&str, Option<&[u8]>)]) -> String {
        let parent = self.heads.get(branch).cloned();
        let mut tree = parent.as_deref().map(|parent| self.tree(parent)).unwrap_or_default();
        for (path, content) in changes {
            match content {
                Some(content) => {
                    tree.insert((*path).to_owned(), self.add_object(content));
                }
                None => {
                    tree.remove(*path);
                }
            }
        }
        let parents: Vec<&str> = parent.as_deref().into_iter().collect();
        self.commit_tree(branch, message, &tree, &parents)
    }

    /// Stores a blob; its id.
    pub fn add_object(&mut self, content: &[u8]) -> String {
        let id = sha256_hex(content);
        self.objects.entry(id.clone()).or_insert_with(|| content.into());
        id
    }

    /// Commits a whole tree over these parents and moves `branch` there. Its id.
    pub fn commit_tree(&mut self, branch: &str, message: &str, tree: &Tree, parents: &[&str]) -> String {
        let time = self.next_time();
        let snapshot = self.add_snapshot(tree, &time);
        let id = commit_id(parents, &snapshot, message, &time);
        let record = commit_record(&id, &self.repo_id, branch, &snapshot, message, &time, parents);
        self.commits.insert(id.clone(), record);
        self.set_branch(branch, &id);
        id
    }

    /// Stores the snapshot of a tree; its id. An existing record stays.
    pub fn add_snapshot(&mut self, tree: &Tree, created_at: &str) -> String {
        let id = snapshot_id(tree.iter().map(|(path, object)| (path.as_str(), object.as_str())));
        self.snapshots.entry(id.clone()).or_insert_with(|| snapshot_record(&id, tree, created_at));
        id
    }

    /// The files of a commit; panics when the commit or its snapshot is not there.
    pub fn tree(&self, commit: &str) -> Tree {
        let record = self.commits.get(commit).unwrap_or_else(|| panic!("no commit {commit}"));
        let snapshot = record.text("snapshot_id");
        let record = self.snapshots.get(snapshot).unwrap_or_else(|| panic!("no snapshot {snapshot} of {commit}"));
        record.str_map("manifest").into_iter().collect()
    }

    /// The files of a commit that a checkout can write: those whose object is here.
    pub fn materialise(&self, commit: &str) -> BTreeMap<String, Arc<[u8]>> {
        let content = |(path, object)| Some((path, self.objects.get(&object)?.clone()));
        self.tree(commit).into_iter().filter_map(content).collect()
    }

    /// Parents of a commit record that is here.
    pub fn parents(&self, commit: &str) -> Vec<String> {
        let Some(record) = self.commits.get(commit) else { return Vec::new() };
        let parents = ["parent_commit_id", "parent2_commit_id"].map(|key| record.text(key).to_owned());
        parents.into_iter().filter(|parent| !parent.is_empty()).collect()
    }

    /// Commits from `from` towards the roots, breadth first, each once; those in `stop` end the walk there.
    pub fn walk(&self, from: &str, stop: &BTreeSet<String>) -> Vec<String> {
        let mut seen = BTreeSet::from([from.to_owned()]);
        let mut queue = VecDeque::from([from.to_owned()]);
        let mut order = Vec::new();
        while let Some(id) = queue.pop_front() {
            // Missing commits are warned about and skipped by the client.
            if stop.contains(&id) || !self.commits.contains_key(&id) {
                continue;
            }
            for parent in self.parents(&id) {
                if seen.insert(parent.clone()) {
                    queue.push_back(parent);
                }
            }
            order.push(id);
        }
        order
    }

    /// Everything that a complete clone of `commit` must hold is here: all ancestors, their snapshots, their blobs (the
    /// empty one aside). Names the first thing that is not.
    pub fn check_complete(&self, commit: &str) -> Result<(), String> {
        let mut queue = vec![commit.to_owned()];
        let mut seen = BTreeSet::new();
        let mut snapshots = BTreeSet::new();
        while let Some(id) = queue.pop() {
            if !seen.insert(id.clone()) {
                continue;
            }
            let record = self.commits.get(&id).ok_or_else(|| format!("commit {id} is missing"))?;
            queue.extend(self.parents(&id));
            snapshots.insert(record.text("snapshot_id").to_owned());
        }
        for id in snapshots {
            let record = self.snapshots.get(&id).ok_or_else(|| format!("snapshot {id} is missing"))?;
            for (path, object) in record.str_map("manifest") {
                if object != super::ids::EMPTY && !self.objects.contains_key(&object) {
                    return Err(format!("object {object} of {path} in snapshot {id} is missing"));
                }
            }
        }
        Ok(())
    }

    /// `muse merge`: brings `theirs` into `branch`.
    pub fn merge(&mut self, branch: &str, theirs: &str) -> Merge {
        let Some(ours) = self.heads.get(branch).cloned() else {
            self.set_branch(branch, theirs);
            return Merge::FastForward(theirs.to_owned());
        };
        let none = BTreeSet::new();
        let ancestors: BTreeSet<String> = self.walk(&ours, &none).into_iter().collect();
        let base = self.walk(theirs, &none).into_iter().find(|commit| ancestors.contains(commit));
        if base.as_deref() == Some(theirs) {
            return Merge::UpToDate;
        }
        if base.as_ref() == Some(&ours) {
            self.set_branch(branch, theirs);
            return Merge::FastForward(theirs.to_owned());
        }
        let base_tree = base.as_deref().map(|base| self.tree(base)).unwrap_or_default();
        match merge_trees(&base_tree, &self.tree(&ours), &self.tree(theirs)) {
            Err(paths) => Merge::Conflict(paths),
            Ok(tree) => {
                Merge::Merged(self.commit_tree(branch, &format!("Merge into {branch}"), &tree, &[&ours, theirs]))
            }
        }
    }

    /// A moment per commit, as Python's isoformat writes it; the same sequence in every run.
    fn next_time(&mut self) -> String {
        self.ticks += 1;
        let (minutes, seconds) = (self.ticks / 60, self.ticks % 60);
        let (hours, minutes) = (minutes / 60, minutes % 60);
        let (days, hours) = (hours / 24, hours % 24);
        let fraction =
            if self.ticks.is_multiple_of(3) { String::new() } else { format!(".{:06}", self.ticks * 37 % 1_000_000) };
        format!("2026-03-{:02}T{hours:02}:{minutes:02}:{seconds:02}{fraction}+00:00", days % 28 + 1)
    }

    /// Starts the clock of this repository elsewhere, so that equal work in two repositories gives different commits.
    pub fn set_ticks(&mut self, ticks: u64) {
        self.ticks = ticks;
    }
}

fn merge_trees(base: &Tree, ours: &Tree, theirs: &Tree) -> Result<Tree, Vec<String>> {
    let paths: BTreeSet<&String> = base.keys().chain(ours.keys()).chain(theirs.keys()).collect();
    let mut merged = Tree::new();
    let mut conflicts = Vec::new();
    for path in paths {
        let (was, our, their) = (base.get(path), ours.get(path), theirs.get(path));
        let winner = if our == their || their == was {
            our
        } else if our == was {
            their
        } else {
            conflicts.push(path.clone());
            None
        };
        if let Some(object) = winner {
            merged.insert(path.clone(), object.clone());
        }
    }
    if conflicts.is_empty() { Ok(merged) } else { Err(conflicts) }
}

/// A snapshot as the client sends it.
pub fn snapshot_record(id: &str, tree: &Tree, created_at: &str) -> Value {
    let manifest = Value::map(tree.iter().map(|(path, object)| (path, Value::str(object))));
    Value::map([("snapshot_id", Value::str(id)), ("manifest", manifest), ("created_at", Value::str(created_at))])
}

/// A commit as the client sends it: all 22 keys, in its order.
pub fn commit_record(
    id: &str,
    repo_id: &str,
    branch: &str,
    snapshot: &str,
    message: &str,
    committed_at: &str,
    parents: &[&str],
) -> Value {
    let parent = |index: usize| parents.get(index).map_or(Value::Nil, |parent| Value::str(*parent));
    let empty = || Value::str("");
    let none = || Value::Array(Vec::new());
    Value::map([
        ("commit_id", Value::str(id)),
        ("repo_id", Value::str(repo_id)),
        ("branch", Value::str(branch)),
        ("snapshot_id", Value::str(snapshot)),
        ("message", Value::str(message)),
        ("committed_at", Value::str(committed_at)),
        ("parent_commit_id", parent(0)),
        ("parent2_commit_id", parent(1)),
        ("author", empty()),
        ("metadata", Value::Map(Vec::new())),
        ("structured_delta", Value::Nil),
        ("sem_ver_bump", Value::str("none")),
        ("breaking_changes", none()),
        ("agent_id", empty()),
        ("model_id", empty()),
        ("toolchain_id", empty()),
        ("prompt_hash", empty()),
        ("signature", empty()),
        ("signer_key_id", empty()),
        ("format_version", Value::Int(5)),
        ("reviewed_by", none()),
        ("test_runs", Value::Int(0)),
    ])
}
