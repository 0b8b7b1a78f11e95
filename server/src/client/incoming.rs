//! What arrives from a server, on its way into a repository: verified as it comes, kept only when it is complete.
//!
//! Invariants: nothing is written that does not hash to its id. Blobs go to their place at once (nobody asks for one that no
//! record names); records wait in `.muse/incoming` until [`Incoming::settle`] has seen that every wanted commit is there with
//! all its ancestors, snapshots and blobs. Then they get their names, snapshots first and no commit before its parents: so
//! whenever a commit is in the repository, everything below it is, wherever a command was interrupted.
//!
//! Commits must arrive before snapshots: a snapshot that none of them names is not kept.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use reprise_engine::{
    id::{Kind, ObjectId},
    object::{Commit, Snapshot, ids},
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    ClientError, Repository,
    files::{self, Writing},
    parallel, record_text,
    repository::{RECORD_SUFFIX, empty_blob},
};

/// One fetch on its way in.
pub struct Incoming<'a> {
    repository: &'a Repository,
    dir: PathBuf,
    commits: Mutex<HashMap<ObjectId, Links>>,
    /// Snapshots that those commits name, and whether they have come.
    snapshots: Mutex<HashMap<ObjectId, bool>>,
    /// Blobs that those snapshots name.
    named: Mutex<HashSet<ObjectId>>,
    blobs: AtomicU64,
}

/// Where a commit leads.
struct Links {
    parents: Vec<ObjectId>,
    snapshot: ObjectId,
}

/// What a settled fetch brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settled {
    /// Commits that were not there.
    pub commits: u64,
    /// Snapshots that were not there.
    pub snapshots: u64,
    /// Blobs that were not there.
    pub blobs: u64,
}

impl Settled {
    /// Both together.
    pub fn and(self, other: Settled) -> Settled {
        Settled {
            commits: self.commits + other.commits,
            snapshots: self.snapshots + other.snapshots,
            blobs: self.blobs + other.blobs,
        }
    }
}

impl<'a> Incoming<'a> {
    /// Begins; records that an interrupted command left are dropped, blobs are where they belong already.
    pub fn begin(repository: &'a Repository) -> Result<Incoming<'a>, ClientError> {
        let dir = repository.muse(DIRECTORY).join("records");
        files::remove_all(&dir)?;
        let (commits, snapshots, named, blobs) = Default::default();
        Ok(Incoming { repository, dir, commits, snapshots, named, blobs })
    }

    /// A whole blob.
    pub fn blob(&self, id: ObjectId, bytes: &[u8]) -> Result<(), ClientError> {
        if ids::blob_id(bytes) != id {
            return Err(ClientError::untrusted(format!("the bytes that came as blob {id} do not hash to it")));
        }
        self.put_blob(id, bytes)
    }

    /// A whole blob that whoever calls this has hashed.
    pub fn put_blob(&self, id: ObjectId, bytes: &[u8]) -> Result<(), ClientError> {
        if self.repository.has(Kind::Blob, id)? {
            return Ok(());
        }
        let mut blob = self.begin_blob()?;
        blob.write(bytes)?;
        self.end_blob(blob, id)
    }

    /// A blob that comes in pieces: write them to the file, hash them, then end it.
    pub fn begin_blob(&self) -> Result<Writing, ClientError> {
        Writing::beside(&self.dir.join("blob"))
    }

    /// The pieces are this blob: whoever calls this has hashed them.
    pub fn end_blob(&self, blob: Writing, id: ObjectId) -> Result<(), ClientError> {
        let path = self.repository.path(Kind::Blob, id);
        if self.repository.has(Kind::Blob, id)? {
            return Ok(());
        }
        if let Some(dir) = path.parent() {
            files::make_dir(dir)?;
        }
        self.blobs.fetch_add(1, Ordering::Relaxed);
        blob.finish(&path)
    }

    /// A commit's record; its id.
    pub fn commit(&self, record: &Value) -> Result<ObjectId, ClientError> {
        let commit = Commit::from_record(record).map_err(ClientError::untrusted)?;
        self.write(Kind::Commit, commit.id, record)?;
        lock(&self.snapshots).entry(commit.snapshot).or_default();
        lock(&self.commits).insert(commit.id, Links { parents: commit.parents, snapshot: commit.snapshot });
        Ok(commit.id)
    }

    /// A snapshot's record; its id. It is dropped if no commit that came names it.
    pub fn snapshot(&self, record: &Value) -> Result<ObjectId, ClientError> {
        let snapshot = Snapshot::from_record(record).map_err(ClientError::untrusted)?;
        if !lock(&self.snapshots).contains_key(&snapshot.id) {
            return Ok(snapshot.id);
        }
        self.write(Kind::Snapshot, snapshot.id, record)?;
        lock(&self.named).extend(&snapshot.blobs);
        lock(&self.snapshots).insert(snapshot.id, true);
        Ok(snapshot.id)
    }

    /// Checks that `wanted` are there with everything below them, and gives the records their names.
    ///
    /// Errors: `Untrusted`, naming what is missing; then no record was kept.
    pub fn settle(self, wanted: &[ObjectId], stop: &CancellationToken) -> Result<Settled, ClientError> {
        let commits = self.parents_first(wanted)?;
        let snapshots = self.needed_snapshots(&commits)?;
        self.check_blobs(stop)?;
        let place = |kind: Kind, id: ObjectId| {
            let path = self.repository.path(kind, id);
            if let Some(dir) = path.parent() {
                files::make_dir(dir)?;
            }
            files::rename(&self.waiting(kind, id), &path)
        };
        for id in &snapshots {
            place(Kind::Snapshot, *id)?;
        }
        for id in &commits {
            place(Kind::Commit, *id)?;
        }
        files::remove_all(&self.dir)?;
        let blobs = self.blobs.load(Ordering::Relaxed);
        Ok(Settled { commits: commits.len() as u64, snapshots: snapshots.len() as u64, blobs })
    }

    /// The commits that came and that `wanted` lead to, parents before children.
    fn parents_first(&self, wanted: &[ObjectId]) -> Result<Vec<ObjectId>, ClientError> {
        let commits = lock(&self.commits);
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        // A commit is met twice: first its parents are put before it, then it takes its place.
        let mut open: Vec<(ObjectId, bool)> = wanted.iter().map(|id| (*id, false)).collect();
        while let Some((id, has_parents)) = open.pop() {
            if has_parents {
                order.push(id);
                continue;
            }
            if !seen.insert(id) {
                continue;
            }
            // One that was here before has all that is below it, whether it came again or not.
            if self.repository.has(Kind::Commit, id)? {
                continue;
            }
            let Some(links) = commits.get(&id) else {
                return Err(ClientError::untrusted(format!("commit {id} is missing in it")));
            };
            open.push((id, true));
            open.extend(links.parents.iter().map(|parent| (*parent, false)));
        }
        Ok(order)
    }

    /// The snapshots that came, of these commits.
    fn needed_snapshots(&self, commits: &[ObjectId]) -> Result<Vec<ObjectId>, ClientError> {
        let (links, came) = (lock(&self.commits), lock(&self.snapshots));
        let mut needed = HashSet::new();
        for id in commits.iter().filter_map(|id| links.get(id)).map(|links| links.snapshot) {
            if self.repository.has(Kind::Snapshot, id)? {
                continue;
            }
            if !came.get(&id).copied().unwrap_or_default() {
                return Err(ClientError::untrusted(format!("snapshot {id} is missing in it")));
            }
            needed.insert(id);
        }
        Ok(needed.into_iter().collect())
    }

    fn check_blobs(&self, stop: &CancellationToken) -> Result<(), ClientError> {
        let named: Vec<ObjectId> = std::mem::take(&mut *lock(&self.named)).into_iter().collect();
        parallel::for_each(&named, stop, |id| match self.repository.has(Kind::Blob, *id)? {
            true => Ok(()),
            // No answer carries it.
            false if *id == empty_blob() => self.blob(*id, &[]),
            false => Err(ClientError::untrusted(format!("blob {id} is missing in it"))),
        })
    }

    fn write(&self, kind: Kind, id: ObjectId, record: &Value) -> Result<(), ClientError> {
        let fields = record.as_object().ok_or_else(|| ClientError::untrusted("a record is no map"))?;
        files::write(&self.waiting(kind, id), &record_text::write(kind, fields))
    }

    fn waiting(&self, kind: Kind, id: ObjectId) -> PathBuf {
        self.dir.join(kind.name()).join(format!("{id}{RECORD_SUFFIX}"))
    }
}

/// What a failed command leaves in `dir`: what may still be of use to a repetition; nothing, if the server's answer or the state
/// of things is at fault.
pub fn give_up(dir: &std::path::Path, error: ClientError) -> ClientError {
    let may_be_repeated = matches!(error, ClientError::Interrupted | ClientError::Files { .. });
    if may_be_repeated || error.retry_after().is_some() {
        return error;
    }
    match files::remove_all(dir) {
        Ok(()) => error,
        Err(also) => ClientError::Refused(format!("{error}; and {also}")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Below `.muse`: everything that a command is in the middle of.
pub const DIRECTORY: &str = "incoming";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    struct History {
        blob: (ObjectId, &'static [u8]),
        snapshot: Value,
        commits: Vec<(ObjectId, Value)>,
    }

    /// Two commits with one snapshot of one file.
    fn history() -> History {
        let blob = (ids::blob_id(b"x"), &b"x"[..]);
        let mut hasher = ids::SnapshotHasher::default();
        hasher.entry("a", &blob.0.to_string());
        let snapshot = hasher.finish();
        let mut commits = Vec::new();
        let mut parents: Vec<ObjectId> = Vec::new();
        for message in ["one", "two"] {
            let id = ids::commit_id(&parents, snapshot, message, "t");
            let parent = parents.first().map(ObjectId::to_string);
            let record = json!({"commit_id": id.to_string(), "snapshot_id": snapshot.to_string(), "message": message,
                "committed_at": "t", "parent_commit_id": parent});
            commits.push((id, record));
            parents = vec![id];
        }
        let snapshot = json!({"snapshot_id": snapshot.to_string(), "manifest": {"a": blob.0.to_string()}});
        History { blob, snapshot, commits }
    }

    fn kept(dir: &std::path::Path) -> Vec<String> {
        let names = |name: &str| files::names(&dir.join(".muse").join(name)).unwrap();
        [names("commits"), names("snapshots"), names("incoming/records")].concat()
    }

    #[test]
    fn what_is_complete_gets_its_place() {
        let (dir, history) = (tempfile::tempdir().unwrap(), history());
        let repository = Repository::at(dir.path());
        let incoming = Incoming::begin(&repository).unwrap();
        history.commits.iter().for_each(|(id, record)| assert_eq!(incoming.commit(record).unwrap(), *id));
        incoming.snapshot(&history.snapshot).unwrap();
        incoming.blob(history.blob.0, history.blob.1).unwrap();
        let settled = incoming.settle(&[history.commits[1].0], &CancellationToken::new()).unwrap();
        assert_eq!(settled, Settled { commits: 2, snapshots: 1, blobs: 1 });
        assert!(repository.commit(history.commits[0].0).is_ok() && repository.commit(history.commits[1].0).is_ok());
        assert_eq!(kept(dir.path()).len(), 3);
    }

    #[test]
    fn what_lacks_anything_keeps_no_record_and_says_what_is_missing() {
        for left_out in ["commit", "snapshot", "blob"] {
            let (dir, history) = (tempfile::tempdir().unwrap(), history());
            let repository = Repository::at(dir.path());
            let incoming = Incoming::begin(&repository).unwrap();
            incoming.commit(&history.commits[1].1).unwrap();
            if left_out != "commit" {
                incoming.commit(&history.commits[0].1).unwrap();
            }
            if left_out != "snapshot" {
                incoming.snapshot(&history.snapshot).unwrap();
            }
            if left_out != "blob" {
                incoming.blob(history.blob.0, history.blob.1).unwrap();
            }
            let error = incoming.settle(&[history.commits[1].0], &CancellationToken::new()).unwrap_err().to_string();
            assert!(
                error.contains(&format!("{left_out} ")) && error.contains("is missing in it"),
                "{left_out}: {error}"
            );
            drop(Incoming::begin(&repository).unwrap());
            assert_eq!(kept(dir.path()), Vec::<String>::new(), "{left_out}");
        }
    }

    #[test]
    fn what_does_not_hash_to_its_id_is_not_written() {
        let (dir, history) = (tempfile::tempdir().unwrap(), history());
        let repository = Repository::at(dir.path());
        let incoming = Incoming::begin(&repository).unwrap();
        assert!(incoming.blob(history.blob.0, b"y").is_err());
        let mut commit = history.commits[0].1.clone();
        commit["message"] = json!("other");
        assert!(incoming.commit(&commit).is_err());
        incoming.commit(&history.commits[0].1).unwrap();
        let mut snapshot = history.snapshot;
        snapshot["manifest"] = json!({"b": history.blob.0.to_string()});
        assert!(incoming.snapshot(&snapshot).is_err());
        assert!(!repository.has(Kind::Blob, history.blob.0).unwrap());
    }

    #[test]
    fn a_snapshot_that_no_commit_names_is_not_kept() {
        let (dir, history) = (tempfile::tempdir().unwrap(), history());
        let repository = Repository::at(dir.path());
        let incoming = Incoming::begin(&repository).unwrap();
        incoming.snapshot(&history.snapshot).unwrap();
        assert_eq!(incoming.settle(&[], &CancellationToken::new()).unwrap(), Settled::default());
        assert_eq!(kept(dir.path()), Vec::<String>::new());
    }
}
