//! The read models, one file each, and the one fold that feeds them all.
//!
//! Invariants: [`fold`] is pure and total: an event gives row changes, or a deterministic reject, which is itself a row
//! in `parked`. It reads no store, so that folding an event again over newer rows, in order, ends in the same rows. There
//! is no other code that writes rows. A key begins with the repository's id wherever a row belongs to one.

use reprise_engine::{
    event::{Event, EventBody, ObjectsReceived},
    id::{Kind, RepoId},
};

use crate::store::RowSink;

pub mod commits;
pub mod mpack_index;
pub mod object_refs;
pub mod parked;
pub mod refs;
pub mod releases;
pub mod repos;
pub mod snapshots;
pub mod storage_uri;
pub mod tags;
pub mod tokens;

/// A projection. The numbers are stored and hashed; models that share a keyspace stand together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Model {
    /// Repositories by id and by name.
    Repos = 1,
    /// Branches.
    Refs = 2,
    /// Where packs are.
    StorageUri = 3,
    /// Tags.
    Tags = 4,
    /// Releases.
    Releases = 5,
    /// Tokens by the hash of their secret.
    Tokens = 6,
    /// Repositories with an event that could not be folded.
    Parked = 7,
    /// Commits and what they add.
    Commits = 8,
    /// Snapshots.
    Snapshots = 9,
    /// Which objects a repository has.
    ObjectRefs = 10,
    /// Where the bytes of a repository's objects are.
    MpackIndex = 11,
}

/// Rows of one kind of storage; bulk loads of different keyspaces may run in parallel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Keyspace {
    /// All models with few rows, and the checkpoint.
    Small,
    /// `commits` and `snapshots`.
    History,
    /// `object_refs`.
    ObjectRefs,
    /// `mpack_index`.
    MpackIndex,
}

impl Keyspace {
    /// All of them.
    pub const ALL: [Keyspace; 4] = [Keyspace::Small, Keyspace::History, Keyspace::ObjectRefs, Keyspace::MpackIndex];
}

/// Which rows of a model belong to a deleted repository, hence are not logical rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Belongs {
    /// To no repository: every row is logical.
    ToNone,
    /// To the repository whose 16 bytes begin the key.
    ByKey,
    /// See [`repos::repo_of`].
    Repos,
}

impl Model {
    /// All of them, in the order of their numbers.
    pub const ALL: [Model; 11] = [
        Model::Repos,
        Model::Refs,
        Model::StorageUri,
        Model::Tags,
        Model::Releases,
        Model::Tokens,
        Model::Parked,
        Model::Commits,
        Model::Snapshots,
        Model::ObjectRefs,
        Model::MpackIndex,
    ];

    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Model::Repos => repos::NAME,
            Model::Refs => refs::NAME,
            Model::StorageUri => storage_uri::NAME,
            Model::Tags => tags::NAME,
            Model::Releases => releases::NAME,
            Model::Tokens => tokens::NAME,
            Model::Parked => parked::NAME,
            Model::Commits => commits::NAME,
            Model::Snapshots => snapshots::NAME,
            Model::ObjectRefs => object_refs::NAME,
            Model::MpackIndex => mpack_index::NAME,
        }
    }

    /// Its code version: another one means that its rows must be folded again.
    pub fn version(self) -> u32 {
        match self {
            Model::Repos => repos::VERSION,
            Model::Refs => refs::VERSION,
            Model::StorageUri => storage_uri::VERSION,
            Model::Tags => tags::VERSION,
            Model::Releases => releases::VERSION,
            Model::Tokens => tokens::VERSION,
            Model::Parked => parked::VERSION,
            Model::Commits => commits::VERSION,
            Model::Snapshots => snapshots::VERSION,
            Model::ObjectRefs => object_refs::VERSION,
            Model::MpackIndex => mpack_index::VERSION,
        }
    }

    /// The model called `name`.
    pub fn by_name(name: &str) -> Option<Model> {
        Model::ALL.into_iter().find(|model| model.name() == name)
    }

    /// The model of a stored number.
    pub fn by_number(number: u8) -> Option<Model> {
        Model::ALL.into_iter().find(|model| model.number() == number)
    }

    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Model::Repos => 1,
            Model::Refs => 2,
            Model::StorageUri => 3,
            Model::Tags => 4,
            Model::Releases => 5,
            Model::Tokens => 6,
            Model::Parked => 7,
            Model::Commits => 8,
            Model::Snapshots => 9,
            Model::ObjectRefs => 10,
            Model::MpackIndex => 11,
        }
    }

    /// Where its rows are kept.
    pub fn keyspace(self) -> Keyspace {
        match self {
            Model::Commits | Model::Snapshots => Keyspace::History,
            Model::ObjectRefs => Keyspace::ObjectRefs,
            Model::MpackIndex => Keyspace::MpackIndex,
            _ => Keyspace::Small,
        }
    }

    /// Whose its rows are.
    pub fn belongs(self) -> Belongs {
        match self {
            Model::Repos => Belongs::Repos,
            Model::StorageUri | Model::Tokens => Belongs::ToNone,
            _ => Belongs::ByKey,
        }
    }
}

/// Folds one event: the only way in which rows come to be.
pub fn fold(event: &Event, sink: &mut dyn RowSink) {
    if let Err(reject) = check(event) {
        parked::fold(&reject, event.position, sink);
        return;
    }
    match &event.body {
        EventBody::RepoCreated(record) | EventBody::RepoUpdated(record) => {
            repos::fold_record(record, event.position, sink);
        }
        EventBody::RepoDeleted(deleted) => repos::fold_deleted(deleted, event.position, sink),
        EventBody::ObjectsReceived(received) => {
            storage_uri::fold_received(received, event.position, sink);
            commits::fold(received, event.position, sink);
            snapshots::fold(received, event.position, sink);
            object_refs::fold(received, event.position, sink);
            mpack_index::fold_received(received, event.position, sink);
        }
        EventBody::RefsUpdated(updated) => refs::fold(updated, event.position, sink),
        EventBody::TagsSet(set) => tags::fold_set(set, event.position, sink),
        EventBody::TagsDeleted(deleted) => tags::fold_deleted(deleted, sink),
        EventBody::ReleasePublished(published) => releases::fold_published(published, event.position, sink),
        EventBody::ReleaseRetracted(retracted) => releases::fold_retracted(retracted, sink),
        EventBody::TokenIssued(record) => tokens::fold(record, false, event.position, sink),
        EventBody::TokenRevoked(record) => tokens::fold(record, true, event.position, sink),
        EventBody::RowsCondemned(condemned) => mpack_index::fold_condemned(condemned, event.position, sink),
        EventBody::PacksRelocated(relocated) => storage_uri::fold_relocated(relocated, event.position, sink),
    }
}

/// Why an event cannot be folded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reject {
    /// Whose event it is.
    pub repo: RepoId,
    /// What is wrong with it, from the event alone.
    pub reason: String,
}

/// The rejects, decided from the event alone. An event of a repository that does not exist is none: its rows belong to
/// no live repository and are therefore not logical rows.
fn check(event: &Event) -> Result<(), Reject> {
    if let Some((repo, bytes)) = longest_name(&event.body)
        && bytes > NAME_BYTES_MAX
    {
        return Err(Reject {
            repo,
            reason: format!("a name of {bytes} bytes, at most {NAME_BYTES_MAX} fit into a key"),
        });
    }
    let EventBody::ObjectsReceived(received) = &event.body else { return Ok(()) };
    let reject = |reason: String| Err(Reject { repo: received.repo, reason });
    if let Some(at) = unsorted_row(received) {
        return reject(format!("row {at} of pack {} is not above the row before it", received.pack));
    }
    for (index, row) in received.rows.iter().enumerate() {
        let base = row.base.map(|base| usize::try_from(base).unwrap_or(usize::MAX));
        if base.is_some_and(|base| base == index || base >= received.rows.len()) {
            return reject(format!(
                "{} {} of pack {} has a base that is no other row",
                row.kind, row.id, received.pack
            ));
        }
    }
    for facts in &received.commits {
        if !has_row(received, Kind::Commit, facts.id) {
            return reject(format!("commit {} is described but pack {} has no row of it", facts.id, received.pack));
        }
    }
    for facts in &received.snapshots {
        if !has_row(received, Kind::Snapshot, facts.id) {
            return reject(format!("snapshot {} is described but pack {} has no row of it", facts.id, received.pack));
        }
    }
    Ok(())
}

/// Bytes of the longest name that becomes a part of a key, and whose it is.
fn longest_name(body: &EventBody) -> Option<(RepoId, usize)> {
    let of_repo = |owner: &str, slug: &str| owner.len() + 1 + slug.len();
    match body {
        EventBody::RepoCreated(record) | EventBody::RepoUpdated(record) => {
            Some((record.repo, of_repo(&record.owner, &record.slug)))
        }
        EventBody::RepoDeleted(deleted) => Some((deleted.repo, of_repo(&deleted.owner, &deleted.slug))),
        EventBody::RefsUpdated(updated) => {
            updated.updates.iter().map(|update| (updated.repo, update.name.len())).max_by_key(|(_, bytes)| *bytes)
        }
        EventBody::TagsSet(set) => set.tags.iter().map(|tag| (set.repo, tag.tag.len())).max_by_key(|(_, bytes)| *bytes),
        EventBody::TagsDeleted(deleted) => {
            deleted.tags.iter().map(|label| (deleted.repo, label.len())).max_by_key(|(_, bytes)| *bytes)
        }
        EventBody::ReleasePublished(published) => Some((published.repo, published.tag.len())),
        EventBody::ReleaseRetracted(retracted) => Some((retracted.repo, retracted.tag.len())),
        EventBody::ObjectsReceived(_)
        | EventBody::TokenIssued(_)
        | EventBody::TokenRevoked(_)
        | EventBody::RowsCondemned(_)
        | EventBody::PacksRelocated(_) => None,
    }
}

fn unsorted_row(received: &ObjectsReceived) -> Option<usize> {
    let rows = &received.rows;
    (1..rows.len()).find(|at| (rows[*at].kind, rows[*at].id) <= (rows[at - 1].kind, rows[at - 1].id))
}

fn has_row(received: &ObjectsReceived, kind: Kind, id: reprise_engine::id::ObjectId) -> bool {
    received.rows.binary_search_by(|row| (row.kind, row.id).cmp(&(kind, id))).is_ok()
}

/// `(repo, kind, id)`: the key of an object within its repository, 49 bytes.
pub fn object_key(repo: RepoId, kind: Kind, id: reprise_engine::id::ObjectId) -> [u8; OBJECT_KEY_BYTES] {
    let mut key = [0; OBJECT_KEY_BYTES];
    key[..16].copy_from_slice(&repo.0);
    key[16] = kind.byte();
    key[17..].copy_from_slice(&id.0);
    key
}

/// `(repo, name)`: the key of something named within its repository.
pub fn named_key(repo: RepoId, name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(16 + name.len());
    key.extend_from_slice(&repo.0);
    key.extend_from_slice(name.as_bytes());
    key
}

/// Bytes of an object's key.
pub const OBJECT_KEY_BYTES: usize = 16 + 1 + 32;
/// Bytes of a name in a key. The hub allows 255; the log may have been written by another version.
pub const NAME_BYTES_MAX: usize = 32 << 10;
// A stored key is the model's number, a repository's id and a name, and its length has 16 bits in the stores.
const _: () = assert!(1 + 16 + NAME_BYTES_MAX <= u16::MAX as usize);
