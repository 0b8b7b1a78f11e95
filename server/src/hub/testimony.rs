//! What a pack says by its own bytes: the objects event of its delivery, all but what some of its commits add.
//!
//! Invariants: every byte of the pack is read and verified; every record's id is computed anew from its payload; nothing
//! is taken from anywhere but the pack. What a pack cannot say: the event's position, time, actor and push (its header has
//! a push id, but a push may have been refused), and what a commit adds to a parent that lies in another pack ([`complete`] finds
//! the rest).

use bytes::Bytes;
use reprise_engine::{
    Error, ErrorKind, Result,
    event::{CommitFacts, ObjectsReceived, SnapshotFacts},
    id::{Kind, ObjectId, PackId},
    object::{Commit, Snapshot},
    pack::{PackOrigin, verify_records},
    store::ObjectStore,
};

use crate::hub::{
    adds::{Adds, OfPack},
    facts,
};

/// A pack that was read through.
pub struct Testimony {
    /// Where its header says that it came from.
    pub origin: PackOrigin,
    /// The event, for the repository of the header. Its commits add nothing before [`complete`]; records that were found damaged have a row
    /// and no facts.
    pub received: ObjectsReceived,
}

/// Reads a pack through. Calls `damaged` for each entry that is not what its row says.
///
/// Errors: `Corrupt` when nothing can be said about the entries, or the file is damaged outside of them; else the store's.
pub fn hear(
    store: &dyn ObjectStore,
    pack: PackId,
    damaged: &mut dyn FnMut(Kind, ObjectId, String),
) -> Result<Testimony> {
    let mut facts = Facts::default();
    let described = verify_records(store, pack, &mut |kind, id, payload| facts.take(kind, id, payload), damaged)?;
    let Facts { mut snapshots, mut commits } = facts;
    snapshots.sort_unstable_by_key(|facts| facts.id);
    commits.sort_unstable_by_key(|facts| facts.id);
    let stored = described.stored;
    let received = ObjectsReceived {
        repo: described.origin.repo,
        pack,
        pack_bytes: stored.bytes,
        table_hash: stored.table_hash,
        rows: stored.rows,
        snapshots,
        commits,
    };
    Ok(Testimony { origin: described.origin, received })
}

/// What those commits add of which the pack alone tells it. The others are left as they are.
pub fn complete(store: &dyn ObjectStore, received: &mut ObjectsReceived) -> Result<()> {
    let mut adds = Adds::new(store);
    let mut found = Vec::with_capacity(received.commits.len());
    let pack = OfPack(received);
    for commit in &received.commits {
        found.push(match pack.tells(commit)? {
            true => Some(adds.of(&pack, commit)?.new),
            false => None,
        });
    }
    for (commit, adds) in received.commits.iter_mut().zip(found) {
        commit.adds = adds.unwrap_or_default();
    }
    Ok(())
}

#[derive(Default)]
struct Facts {
    snapshots: Vec<SnapshotFacts>,
    commits: Vec<CommitFacts>,
}

impl Facts {
    fn take(&mut self, kind: Kind, id: ObjectId, payload: &Bytes) -> Result<()> {
        match kind {
            Kind::Blob => {}
            Kind::Snapshot => {
                let snapshot = Snapshot::from_payload(payload)?;
                check(kind, id, snapshot.id)?;
                self.snapshots.push(facts::of_snapshot(&snapshot).map_err(unreadable)?);
            }
            Kind::Commit => {
                let commit = Commit::from_payload(payload)?;
                check(kind, id, commit.id)?;
                self.commits.push(facts::of_commit(&commit, Vec::new()).map_err(unreadable)?);
            }
        }
        Ok(())
    }
}

fn check(kind: Kind, named: ObjectId, derived: ObjectId) -> Result<()> {
    match named == derived {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Corrupt, format!("the record of {kind} {named} gives the id {derived}"))),
    }
}

/// A record that was verified and yet does not read as one.
fn unreadable(error: crate::wire::WireError) -> Error {
    Error::new(ErrorKind::Corrupt, error.to_string())
}
