//! What a push has to send: commits, their snapshots and their blobs, less what the server has by its own word.
//!
//! Invariants: whatever is sent was read and verified here; a blob that the server lacks and that is not here ends the push
//! before anything is sent.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Mutex, PoisonError},
};

use reprise_engine::{
    id::{Kind, ObjectId},
    object::Commit,
};
use tokio_util::sync::CancellationToken;

use super::{
    ClientError, Repository,
    counter::{Counter, Unit},
    files::{self, Found},
    history, parallel,
    repository::empty_blob,
};

/// One push's content, before the server said what it lacks.
#[derive(PartialEq, Debug)]
pub struct Outgoing {
    /// Tip first, then breadth first towards the roots; without their payloads.
    pub commits: Vec<Commit>,
    /// Their snapshots, ascending.
    pub snapshots: Vec<ObjectId>,
    /// Blobs that these snapshots name and those before them do not, ascending.
    pub blobs: Vec<ObjectId>,
}

impl Outgoing {
    /// Everything below `head` that is not below `known`, which the server has.
    pub fn collect(
        repository: &Repository,
        head: ObjectId,
        known: &[ObjectId],
        counter: &Counter,
        stop: &CancellationToken,
    ) -> Result<Outgoing, ClientError> {
        let commits = history::beyond(repository, head, known)?;
        let sent: HashSet<ObjectId> = commits.iter().map(|commit| commit.id).collect();
        let snapshots: BTreeSet<ObjectId> = commits.iter().map(|commit| commit.snapshot).collect();
        let mut before = BTreeSet::new();
        for parent in commits.iter().flat_map(|commit| &commit.parents).filter(|parent| !sent.contains(*parent)) {
            before.insert(repository.commit(*parent)?.snapshot);
        }
        counter.begin("reading", Unit::Objects, (snapshots.len() + before.len()) as u64);
        let there = blobs_of(repository, before, counter, stop)?;
        let mut blobs: Vec<ObjectId> = blobs_of(repository, snapshots.clone(), counter, stop)?
            .into_iter()
            .filter(|id| !there.contains(id))
            .collect();
        blobs.sort_unstable();
        Ok(Outgoing { commits, snapshots: snapshots.into_iter().collect(), blobs })
    }

    /// One commit that the server has, with its snapshot.
    pub fn of_one(repository: &Repository, head: ObjectId) -> Result<Outgoing, ClientError> {
        let commit = repository.commit(head)?;
        let snapshots = vec![commit.snapshot];
        Ok(Outgoing { commits: vec![commit], snapshots, blobs: Vec::new() })
    }

    /// The blobs that have to be sent, with their sizes. `Refused` if one of them is not here.
    pub fn sizes(repository: &Repository, missing: &[ObjectId]) -> Result<Vec<(ObjectId, u64)>, ClientError> {
        let size = |id: &ObjectId| match files::look(&repository.path(Kind::Blob, *id))? {
            Found::File(bytes) => Ok((*id, bytes)),
            // A clone of the stock client never has it.
            _ if *id == empty_blob() => Ok((*id, 0)),
            _ => Err(ClientError::Refused(format!("blob {id} is missing here and on the server: it cannot be pushed"))),
        };
        missing.iter().map(size).collect()
    }
}

fn blobs_of(
    repository: &Repository,
    snapshots: BTreeSet<ObjectId>,
    counter: &Counter,
    stop: &CancellationToken,
) -> Result<HashSet<ObjectId>, ClientError> {
    let found = Mutex::new(HashSet::new());
    let snapshots: Vec<ObjectId> = snapshots.into_iter().collect();
    parallel::for_each(&snapshots, stop, |id| {
        let (snapshot, _) = repository.snapshot(*id)?;
        found.lock().unwrap_or_else(PoisonError::into_inner).extend(snapshot.blobs);
        counter.add(1);
        Ok(())
    })?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Gives the bytes of a blob piece by piece; an error if they are not its bytes.
pub fn read_blob(
    repository: &Repository,
    id: ObjectId,
    each: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), ClientError> {
    let path = repository.path(Kind::Blob, id);
    if id == empty_blob() && files::look(&path)? == Found::Nothing {
        return Ok(());
    }
    let (derived, _) = files::hash(&path, each)?;
    if derived == id {
        Ok(())
    } else {
        Err(ClientError::Refused(format!("blob {id} is damaged in {}", path.display())))
    }
}
