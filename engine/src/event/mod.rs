//! Events: the facts in the log. One fact per event; folding one reads no pack, clock, random source or environment.
//!
//! Invariants: an event says everything that a projection needs (whole rows, never "add one to what is there"), so that
//! folds are blind writes and idempotent; field order is format (bincode): a change is a new version with an upcast, in
//! [`codec`], with golden bytes; rows of an objects event are in the order of the pack's table, (kind, id) ascending.

use bincode::{Decode, Encode};

use crate::id::{Kind, ObjectId, PackId, Position, PushId, RecordHash, RepoId, TableHash, TokenHash, TokenId};

mod check;
pub mod codec;

/// One fact with its place in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Where it stands.
    pub position: Position,
    /// Advisory wall-clock time, milliseconds since 1970, monotonic along the log.
    pub time_ms: u64,
    /// The push (or admin request) that brought it.
    pub push: PushId,
    /// Who did it: a token's name, `anonymous`, `operator` or `reprise`.
    pub actor: String,
    /// The fact.
    pub body: EventBody,
}

/// The kinds of facts. The order of variants is not format; [`codec`] gives each its number and version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventBody {
    /// A repository exists from now on.
    RepoCreated(RepoRecord),
    /// A repository's settings, whole.
    RepoUpdated(RepoRecord),
    /// A repository and all that belongs to it is gone.
    RepoDeleted(RepoDeleted),
    /// A pack was delivered for a repository.
    ObjectsReceived(ObjectsReceived),
    /// Branches moved. Also appended, with `old == new`, for an accepted push that brings nothing new.
    RefsUpdated(RefsUpdated),
    /// Tags were set.
    TagsSet(TagsSet),
    /// Tags were removed.
    TagsDeleted(TagsDeleted),
    /// A release was published.
    ReleasePublished(ReleasePublished),
    /// A release was withdrawn.
    ReleaseRetracted(ReleaseRetracted),
    /// A token is valid from now on.
    TokenIssued(TokenRecord),
    /// A token is no longer valid; the whole record again, so that folds need no read.
    TokenRevoked(TokenRecord),
    /// Bytes behind index rows were found damaged.
    RowsCondemned(RowsCondemned),
    /// Packs now live elsewhere, or nowhere.
    PacksRelocated(PacksRelocated),
}

/// Who may read a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Visibility {
    /// Everyone.
    Public,
    /// Those with a token for it.
    Private,
}

/// A repository's settings.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct RepoRecord {
    /// Its id.
    pub repo: RepoId,
    /// First part of its name.
    pub owner: String,
    /// Second part of its name.
    pub slug: String,
    /// The client's domain (`code`, `midi`, …).
    pub domain: String,
    /// The branch a clone checks out; empty until the first push decides it.
    pub default_branch: String,
    /// Who may read it.
    pub visibility: Visibility,
    /// When it was created, milliseconds since 1970.
    pub created_ms: u64,
}

/// A repository is gone.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct RepoDeleted {
    /// Which.
    pub repo: RepoId,
    /// The name that is free again: owner.
    pub owner: String,
    /// The name that is free again: slug.
    pub slug: String,
}

/// How an entry's bytes are stored. The discriminants are stored in packs and events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
    /// One zstd frame with the payload of another entry of the same pack (itself codec 0 or 1) as prefix.
    ZstdPrefix = 2,
}

/// One entry of a pack: everything needed to read and verify it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ObjectRow {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: ObjectId,
    /// Byte offset of the stored form in the pack.
    pub offset: u64,
    /// Bytes of the stored form.
    pub stored_len: u64,
    /// Bytes of the payload after decoding: a hard limit for the decoder.
    pub real_len: u64,
    /// How it is stored.
    pub codec: Codec,
    /// For `ZstdPrefix`: index of the base row in this table.
    pub base: Option<u32>,
    /// SHA-256 of the canonical bytes, for snapshots and commits; `None` for blobs, whose id covers their bytes.
    pub record_hash: Option<RecordHash>,
}

/// What an event says about a snapshot beside its row.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SnapshotFacts {
    /// Its id.
    pub id: ObjectId,
    /// Paths in it.
    pub entries: u32,
    /// Distinct directories in it.
    pub directories: u32,
    /// Bytes of the record as the wire encodes it: a plan can state a Content-Length without reading the record.
    pub wire_len: u64,
}

/// What an event says about a commit beside its row.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct CommitFacts {
    /// Its id.
    pub id: ObjectId,
    /// Recorded parents, first parent first (0, 1 or 2).
    pub parents: Vec<ObjectId>,
    /// Its snapshot.
    pub snapshot: ObjectId,
    /// The exact text that is hashed.
    pub committed_at: String,
    /// Branch where it was made.
    pub branch: String,
    /// As recorded.
    pub author: String,
    /// The message, cut at 4 KiB on a character boundary.
    pub message: String,
    /// Blob ids in its snapshot that are not in its first parent's (a root's: all); ascending, distinct.
    pub adds: Vec<ObjectId>,
    /// Bytes of the record as the wire encodes it.
    pub wire_len: u64,
}

/// A pack was delivered for a repository.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ObjectsReceived {
    /// For which repository.
    pub repo: RepoId,
    /// Which pack.
    pub pack: PackId,
    /// Bytes of the pack file.
    pub pack_bytes: u64,
    /// SHA-256 of the pack's table.
    pub table_hash: TableHash,
    /// The table: every object of the pack, new to the hub or not.
    pub rows: Vec<ObjectRow>,
    /// One per snapshot row, ascending by id.
    pub snapshots: Vec<SnapshotFacts>,
    /// One per commit row, ascending by id.
    pub commits: Vec<CommitFacts>,
}

/// One branch moved.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct RefUpdate {
    /// Branch name.
    pub name: String,
    /// Head before; `None`: it did not exist.
    pub old: Option<ObjectId>,
    /// Head after; `None`: it is deleted.
    pub new: Option<ObjectId>,
    /// True if this was not a fast-forward.
    pub forced: bool,
}

/// Branches moved.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct RefsUpdated {
    /// Of which repository.
    pub repo: RepoId,
    /// In name order.
    pub updates: Vec<RefUpdate>,
}

/// One tag: a label on a commit (wire record 4.4).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct TagRecord {
    /// Client-made id.
    pub tag_id: String,
    /// The label; unique within the repository.
    pub tag: String,
    /// The labelled commit.
    pub commit: ObjectId,
    /// As sent.
    pub created_at: String,
}

/// Tags were set.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct TagsSet {
    /// Of which repository.
    pub repo: RepoId,
    /// In label order.
    pub tags: Vec<TagRecord>,
}

/// Tags were removed.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct TagsDeleted {
    /// Of which repository.
    pub repo: RepoId,
    /// Labels, in order.
    pub tags: Vec<String>,
}

/// A release was published (wire record 4.5).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ReleasePublished {
    /// Of which repository.
    pub repo: RepoId,
    /// Its tag; unique within the repository.
    pub tag: String,
    /// stable, beta, alpha or nightly.
    pub channel: String,
    /// Only shown to those who may write.
    pub is_draft: bool,
    /// The record as canonical JSON.
    pub record: Vec<u8>,
}

/// A release was withdrawn.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ReleaseRetracted {
    /// Of which repository.
    pub repo: RepoId,
    /// Its tag.
    pub tag: String,
}

/// What a token allows. Each includes the ones before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub enum Scope {
    /// Read the owner's repositories, private ones too.
    Read,
    /// Push to them.
    Write,
    /// Create and delete them, and administer the server's data.
    Admin,
}

/// A token, without its secret.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct TokenRecord {
    /// Its public name.
    pub token: TokenId,
    /// SHA-256 of the secret.
    pub hash: TokenHash,
    /// Whose repositories it is for.
    pub owner: String,
    /// Restricts it to one repository of the owner.
    pub repo: Option<String>,
    /// What it allows.
    pub scope: Scope,
    /// When it was issued, milliseconds since 1970.
    pub issued_ms: u64,
    /// When it ends, milliseconds since 1970; `None`: never.
    pub expires_ms: Option<u64>,
}

/// Bytes behind index rows were found damaged: readers skip the rows, a re-push replaces them.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct RowsCondemned {
    /// Of which repository.
    pub repo: RepoId,
    /// In which pack.
    pub pack: PackId,
    /// Which objects, ascending.
    pub rows: Vec<(Kind, ObjectId)>,
    /// What was found.
    pub reason: String,
}

/// Packs live elsewhere now.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct PacksRelocated {
    /// Pack and its new location; `None`: retired, its bytes may be gone.
    pub packs: Vec<(PackId, Option<String>)>,
}
