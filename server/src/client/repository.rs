//! An ordinary `.muse` repository on disk: where its objects and records are.
//!
//! Invariants: paths are built from ids and checked names only. Layout as the stock client's: `objects/<2 hex>/<62 hex>` raw
//! bytes, `snapshots/<id>.json` and `commits/<id>.json` records, `refs/heads`, `remotes/<remote>`, `HEAD`, `repo.json`,
//! `config.toml`.

use std::path::{Path, PathBuf};

use reprise_engine::{
    id::{Kind, ObjectId},
    limits::RECORD_BYTES_MAX,
    object::{Commit, Snapshot, ids},
};
use serde_json::Value;

use super::{ClientError, files, files::Found, head::Head};

/// A repository: the directory that holds `.muse` and the working tree.
#[derive(Clone, Debug)]
pub struct Repository {
    root: PathBuf,
    muse: PathBuf,
}

impl Repository {
    /// The repository in `root`; `Refused` if there is none.
    pub fn open(root: &Path) -> Result<Repository, ClientError> {
        let repository = Repository::at(root);
        match files::look(&repository.muse)? {
            Found::Directory => Ok(repository),
            _ => Err(ClientError::Refused(format!("{} is no muse repository: it has no .muse", root.display()))),
        }
    }

    /// The repository that is, or will be, in `root`.
    pub fn at(root: &Path) -> Repository {
        Repository { root: root.to_owned(), muse: root.join(".muse") }
    }

    /// Where its working tree is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file or directory of `.muse`.
    pub fn muse(&self, name: &str) -> PathBuf {
        self.muse.join(name)
    }

    /// `.muse/refs/heads`
    pub fn heads(&self) -> PathBuf {
        self.muse.join("refs").join("heads")
    }

    /// `.muse/remotes/<remote>`
    pub fn tracking(&self, remote: &str) -> PathBuf {
        self.muse.join("remotes").join(remote)
    }

    /// Where an object is, or would be.
    pub fn path(&self, kind: Kind, id: ObjectId) -> PathBuf {
        let hex = id.to_string();
        match kind {
            Kind::Blob => self.muse.join("objects").join(&hex[..2]).join(&hex[2..]),
            Kind::Snapshot => self.muse.join("snapshots").join(hex + RECORD_SUFFIX),
            Kind::Commit => self.muse.join("commits").join(hex + RECORD_SUFFIX),
        }
    }

    /// Whether a file stands where the object would be; its bytes are not looked at.
    pub fn has(&self, kind: Kind, id: ObjectId) -> Result<bool, ClientError> {
        Ok(matches!(files::look(&self.path(kind, id))?, Found::File(_)))
    }

    /// A commit, verified; `Refused`, naming it, if it is missing or damaged.
    pub fn commit(&self, id: ObjectId) -> Result<Commit, ClientError> {
        let commit =
            Commit::from_record(&self.record(Kind::Commit, id)?).map_err(|error| damaged(Kind::Commit, id, &error))?;
        if commit.id == id { Ok(commit) } else { Err(damaged(Kind::Commit, id, &named_otherwise(commit.id))) }
    }

    /// A snapshot, verified, and its record; `Refused`, naming it, if it is missing or damaged.
    pub fn snapshot(&self, id: ObjectId) -> Result<(Snapshot, Value), ClientError> {
        let record = self.record(Kind::Snapshot, id)?;
        let snapshot = Snapshot::from_record(&record).map_err(|error| damaged(Kind::Snapshot, id, &error))?;
        if snapshot.id == id {
            Ok((snapshot, record))
        } else {
            Err(damaged(Kind::Snapshot, id, &named_otherwise(snapshot.id)))
        }
    }

    /// What `HEAD` says.
    pub fn head(&self) -> Result<Head, ClientError> {
        let path = self.muse("HEAD");
        let bytes = files::read(&path, HEAD_BYTES_MAX)?;
        let head = std::str::from_utf8(&bytes).ok().and_then(Head::parse);
        head.ok_or_else(|| ClientError::Refused(format!("{} names no branch", path.display())))
    }

    fn record(&self, kind: Kind, id: ObjectId) -> Result<Value, ClientError> {
        let path = self.path(kind, id);
        if files::look(&path)? == Found::Nothing {
            return Err(ClientError::Refused(format!("{kind} {id} is missing in {}", self.root.display())));
        }
        let bytes = files::read(&path, RECORD_FILE_BYTES_MAX)?;
        serde_json::from_slice(&bytes).map_err(|error| damaged(kind, id, &error))
    }
}

/// The blob of an empty file. No answer carries it and the stock client's clones lack it: whoever needs it makes it.
pub fn empty_blob() -> ObjectId {
    ids::blob_id(&[])
}

fn damaged(kind: Kind, id: ObjectId, why: &dyn std::fmt::Display) -> ClientError {
    ClientError::Refused(format!("{kind} {id} is damaged: {why}"))
}

fn named_otherwise(id: ObjectId) -> String {
    format!("the file holds {id}")
}

/// What follows the id in a record's file name.
pub const RECORD_SUFFIX: &str = ".json";
/// Longest record file: indentation and escapes (six characters for two bytes) make it longer than the record.
pub const RECORD_FILE_BYTES_MAX: u64 = RECORD_BYTES_MAX * 4;
/// Longest `HEAD`.
pub const HEAD_BYTES_MAX: u64 = 1_024;
