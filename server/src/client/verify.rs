//! `verify-clone`: re-derives every id of a repository and follows every name in it.
//!
//! Invariants: writes nothing; every fault is found in one run and named by its file; memory is 32 bytes per object, 32 per
//! commit and snapshot, and one record per thread, whatever the size of the repository. Only names are compared with names:
//! a damaged object is reported once, as damaged, and not again by all who name it.
//!
//! What an id does not cover (a commit's author, its delta, a snapshot's time) cannot be checked here: only that it is JSON.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use reprise_engine::{
    id::{Kind, ObjectId},
    object::{Commit, Snapshot},
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    ClientError, Repository,
    counter::{Counter, Unit},
    files::{self, Found},
    head::Head,
    parallel,
    refs::{self, RefFile, Target},
    repository::{HEAD_BYTES_MAX, RECORD_FILE_BYTES_MAX, RECORD_SUFFIX, empty_blob},
};

/// One fault.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Damage {
    /// The file that is wrong or that names what is missing, below the repository's directory.
    pub file: String,
    /// The object concerned: its kind and id.
    pub object: Option<(Kind, ObjectId)>,
    /// What is wrong with it.
    pub detail: String,
}

/// What was looked at, and what was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Blob files.
    pub blobs: u64,
    /// Snapshot files.
    pub snapshots: u64,
    /// Commit files.
    pub commits: u64,
    /// Refs and tracking refs.
    pub refs: u64,
    /// Faults, all of them.
    pub damaged: u64,
    /// The faults by file, the first [`LISTED_MAX`].
    pub found: Vec<Damage>,
}

/// Checks the repository in `root`; `counter` counts its objects.
///
/// Errors: `Refused` if there is no repository; failures of reading directories; `Interrupted`. Damage is no error.
pub fn verify(root: &Path, counter: &Counter, stop: &CancellationToken) -> Result<Report, ClientError> {
    let repository = Repository::open(root)?;
    let faults = Faults::default();
    let names = Names::list(&repository, &faults)?;
    counter.begin("verifying", Unit::Objects, names.count());
    let check = Check { repository: &repository, names: &names, faults: &faults, missing: Mutex::default() };
    let counted = |result: Result<(), ClientError>| result.map(|()| counter.add(1));
    parallel::for_each(&names.blobs, stop, |id| counted(check.blob(*id)))?;
    parallel::for_each(&names.snapshots, stop, |id| counted(check.snapshot(*id)))?;
    parallel::for_each(&names.commits, stop, |id| counted(check.commit(*id)))?;
    let refs = check.refs()?;
    let (damaged, found) = faults.into_sorted();
    let count = |ids: &[ObjectId]| ids.len() as u64;
    let (blobs, snapshots, commits) = (count(&names.blobs), count(&names.snapshots), count(&names.commits));
    Ok(Report { blobs, snapshots, commits, refs, damaged, found })
}

/// The names of everything in the repository, ascending.
struct Names {
    blobs: Vec<ObjectId>,
    snapshots: Vec<ObjectId>,
    commits: Vec<ObjectId>,
}

impl Names {
    fn list(repository: &Repository, faults: &Faults) -> Result<Names, ClientError> {
        let mut blobs = Vec::new();
        for shard in files::names(&repository.muse("objects"))? {
            let dir = PathBuf::from("objects").join(&shard);
            if is_unfinished(&shard) {
                continue;
            }
            if shard.len() != 2 || files::look(&repository.muse("objects").join(&shard))? != Found::Directory {
                faults.add(&dir, None, "it is no folder of objects");
                continue;
            }
            ids_in(repository, &dir, &shard, "", faults, &mut blobs)?;
        }
        let (mut snapshots, mut commits) = (Vec::new(), Vec::new());
        ids_in(repository, Path::new("snapshots"), "", RECORD_SUFFIX, faults, &mut snapshots)?;
        ids_in(repository, Path::new("commits"), "", RECORD_SUFFIX, faults, &mut commits)?;
        Ok(Names { blobs, snapshots, commits })
    }

    fn count(&self) -> u64 {
        (self.blobs.len() + self.snapshots.len() + self.commits.len()) as u64
    }

    fn has(&self, kind: Kind, id: ObjectId) -> bool {
        let ids = match kind {
            Kind::Blob => &self.blobs,
            Kind::Snapshot => &self.snapshots,
            Kind::Commit => &self.commits,
        };
        // The stock client's clones never hold the empty blob, and whoever needs it knows its bytes.
        (kind == Kind::Blob && id == empty_blob()) || ids.binary_search(&id).is_ok()
    }
}

/// Appends the ids that the names in a directory spell; sorted names give sorted ids.
fn ids_in(
    repository: &Repository,
    dir: &Path,
    prefix: &str,
    suffix: &str,
    faults: &Faults,
    ids: &mut Vec<ObjectId>,
) -> Result<(), ClientError> {
    for name in files::names(&repository.muse("").join(dir))? {
        let hex = name.strip_suffix(suffix).map(|rest| format!("{prefix}{rest}"));
        let id = hex.filter(|hex| hex.len() == 64).and_then(|hex| hex.parse::<ObjectId>().ok());
        match id {
            Some(id) => ids.push(id),
            // Left by a command that was interrupted: nobody reads it.
            None if is_unfinished(&name) => {}
            None => faults.add(&dir.join(&name), None, "its name is no id"),
        }
    }
    Ok(())
}

fn is_unfinished(name: &str) -> bool {
    name.starts_with('.')
}

struct Check<'a> {
    repository: &'a Repository,
    names: &'a Names,
    faults: &'a Faults,
    /// Blobs that were reported missing: each is, once.
    missing: Mutex<HashSet<ObjectId>>,
}

impl Check<'_> {
    fn blob(&self, id: ObjectId) -> Result<(), ClientError> {
        if !self.is_file(Kind::Blob, id)? {
            return Ok(());
        }
        match files::hash(&self.repository.path(Kind::Blob, id), |_| Ok(())) {
            Ok((derived, _)) if derived == id => {}
            Ok((derived, bytes)) => self.fault(Kind::Blob, id, format!("its {bytes} bytes hash to {derived}")),
            Err(error) => self.fault(Kind::Blob, id, error.to_string()),
        }
        Ok(())
    }

    fn snapshot(&self, id: ObjectId) -> Result<(), ClientError> {
        let Some(record) = self.record(Kind::Snapshot, id)? else { return Ok(()) };
        match Snapshot::from_record(&record) {
            Err(error) => self.fault(Kind::Snapshot, id, error.to_string()),
            Ok(snapshot) if snapshot.id != id => self.fault(Kind::Snapshot, id, holds(snapshot.id)),
            Ok(snapshot) => {
                for blob in snapshot.blobs {
                    if !self.names.has(Kind::Blob, blob) && self.is_first_miss(blob) {
                        let path = path_of(&record, blob);
                        self.fault(Kind::Snapshot, id, format!("blob {blob} of path '{path}' is missing"));
                    }
                }
            }
        }
        Ok(())
    }

    fn commit(&self, id: ObjectId) -> Result<(), ClientError> {
        let Some(record) = self.record(Kind::Commit, id)? else { return Ok(()) };
        match Commit::from_record(&record) {
            Err(error) => self.fault(Kind::Commit, id, error.to_string()),
            Ok(commit) if commit.id != id => self.fault(Kind::Commit, id, holds(commit.id)),
            Ok(commit) => {
                if !self.names.has(Kind::Snapshot, commit.snapshot) {
                    self.fault(Kind::Commit, id, format!("its snapshot {} is missing", commit.snapshot));
                }
                for parent in commit.parents.iter().filter(|parent| !self.names.has(Kind::Commit, **parent)) {
                    self.fault(Kind::Commit, id, format!("its parent {parent} is missing"));
                }
            }
        }
        Ok(())
    }

    /// Checks `HEAD`, branches and tracking refs; how many there are.
    fn refs(&self) -> Result<u64, ClientError> {
        let heads = refs::list(&self.repository.heads())?;
        self.head(&heads)?;
        let mut count = heads.len() as u64;
        heads.iter().for_each(|head| self.reference(Path::new("refs/heads"), head, true));
        for remote in files::names(&self.repository.muse("remotes"))? {
            let tracking = refs::list(&self.repository.tracking(&remote))?;
            count += tracking.len() as u64;
            let dir = Path::new("remotes").join(&remote);
            tracking.iter().for_each(|one| self.reference(&dir, one, false));
        }
        Ok(count)
    }

    fn reference(&self, dir: &Path, reference: &RefFile, may_be_unborn: bool) {
        let file = dir.join(&reference.name);
        match &reference.target {
            Err(fault) => self.faults.add(&file, None, fault),
            Ok(Target::Commit(id)) if !self.names.has(Kind::Commit, *id) => {
                self.faults.add(&file, Some((Kind::Commit, *id)), "the commit that it names is missing");
            }
            Ok(Target::Commit(_)) => {}
            // A branch of a new repository; in one that has commits it lost its own.
            Ok(Target::Unborn) if may_be_unborn && self.names.commits.is_empty() => {}
            Ok(Target::Unborn) => self.faults.add(&file, None, "it is empty"),
        }
    }

    fn head(&self, heads: &[RefFile]) -> Result<(), ClientError> {
        let path = self.repository.muse("HEAD");
        let bytes = match files::look(&path)? {
            Found::File(_) => files::read(&path, HEAD_BYTES_MAX),
            _ => Err(ClientError::Refused("it is missing".to_owned())),
        };
        let fault = match bytes.map(|bytes| std::str::from_utf8(&bytes).ok().and_then(Head::parse)) {
            Err(error) => error.to_string(),
            Ok(None) => "it names no branch".to_owned(),
            Ok(Some(Head::Branch(branch))) => {
                if self.names.commits.is_empty() || heads.iter().any(|head| head.name == branch) {
                    return Ok(());
                }
                format!("the branch '{branch}' that it names is missing")
            }
            Ok(Some(Head::Detached(id))) if self.names.has(Kind::Commit, id) => return Ok(()),
            Ok(Some(Head::Detached(id))) => format!("the commit {id} that it names is missing"),
        };
        self.faults.add(Path::new("HEAD"), None, &fault);
        Ok(())
    }

    /// A record's JSON, or a fault.
    fn record(&self, kind: Kind, id: ObjectId) -> Result<Option<Value>, ClientError> {
        if !self.is_file(kind, id)? {
            return Ok(None);
        }
        let bytes = files::read(&self.repository.path(kind, id), RECORD_FILE_BYTES_MAX);
        match bytes.map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(record)) => return Ok(Some(record)),
            Ok(Err(error)) => self.fault(kind, id, format!("it is not JSON: {error}")),
            Err(error) => self.fault(kind, id, error.to_string()),
        }
        Ok(None)
    }

    fn is_file(&self, kind: Kind, id: ObjectId) -> Result<bool, ClientError> {
        let is_file = matches!(files::look(&self.repository.path(kind, id))?, Found::File(_));
        if !is_file {
            self.fault(kind, id, "it is no file".to_owned());
        }
        Ok(is_file)
    }

    fn is_first_miss(&self, blob: ObjectId) -> bool {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(blob)
    }

    fn fault(&self, kind: Kind, id: ObjectId, detail: String) {
        let path = self.repository.path(kind, id);
        let file = path.strip_prefix(self.repository.muse("")).unwrap_or(&path);
        self.faults.add(file, Some((kind, id)), &detail);
    }
}

fn holds(id: ObjectId) -> String {
    format!("it holds {id} instead")
}

/// The first path of a snapshot's record that names `blob`.
fn path_of(record: &Value, blob: ObjectId) -> String {
    let named = blob.to_string();
    let entries = record["manifest"].as_object();
    let path = entries.and_then(|entries| entries.iter().find(|(_, id)| **id == named)).map(|(path, _)| path.clone());
    path.unwrap_or_default()
}

/// Faults as the threads find them.
#[derive(Default)]
struct Faults(Mutex<(u64, Vec<Damage>)>);

impl Faults {
    /// `file` is below `.muse`.
    fn add(&self, file: &Path, object: Option<(Kind, ObjectId)>, detail: &str) {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        faults.0 += 1;
        if faults.1.len() < LISTED_MAX {
            let file = Path::new(".muse").join(file).display().to_string();
            faults.1.push(Damage { file, object, detail: detail.to_owned() });
        }
    }

    fn into_sorted(self) -> (u64, Vec<Damage>) {
        let (count, mut found) = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_unstable();
        (count, found)
    }
}

/// Faults that a report lists; all are counted.
pub const LISTED_MAX: usize = 10_000;
