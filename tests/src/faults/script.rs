//! What the engine is made to do before the machine crashes: short stories, each about one thing that can go wrong.
//!
//! Invariants: a script is data; ids in it are made from small numbers, so that a report can be read; the same script
//! gives the same proposals every time. The stories themselves are in [`super::stories`].

use reprise_engine::{
    disk::sim::Survival,
    engine::{Condition, Proposal},
    event::{
        EventBody, RefUpdate, RefsUpdated, ReleasePublished, ReleaseRetracted, RepoDeleted, RepoRecord, Scope,
        TagRecord, TagsSet, TokenRecord, Visibility,
    },
    id::{ObjectId, PushId, RepoId, TokenHash, TokenId},
};

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Step {
    /// Propose, wait for the outcome.
    Append(Proposal),
    /// Propose all, then wait for all: they may share groups.
    Together(Vec<Proposal>),
    /// Put a pack with these blobs into the store, then propose its event together with `refs`.
    Pack {
        /// Contents of the blobs.
        blobs: Vec<Vec<u8>>,
        /// The repository.
        repo: RepoId,
        /// Its push id.
        push: PushId,
        /// An event for the same proposal.
        and: Option<EventBody>,
    },
    /// Put a pack into the store that no event will name, then perhaps remove it, as a push that was refused does.
    Orphan {
        /// Which: other numbers are other packs.
        number: u64,
        /// Remove it again.
        removed: bool,
    },
    /// Remove what interrupted uploads left.
    Sweep,
    /// Build every projection anew from the log, on the same disk.
    Rebuild,
    /// Set the wall clock, forwards or backwards.
    Clock(u64),
    /// Shut down cleanly, open again.
    Restart,
    /// Lose power, open again. What was proposed before is from then on what recovery found.
    PowerLoss(Survival, u64),
}

/// A story.
#[derive(Clone, Debug)]
pub struct Script {
    /// What it is about, for reports.
    pub name: &'static str,
    /// Bytes at which a segment is sealed.
    pub segment_bytes: u64,
    /// What happens.
    pub steps: Vec<Step>,
    /// Ends with a clean shutdown.
    pub shutdown: bool,
    /// The engine has its threads: a spare segment is made beside the writer.
    pub threads: bool,
}

impl Script {
    /// In one large segment, closed at the end.
    pub fn story(name: &'static str, steps: Vec<Step>) -> Script {
        Script { name, segment_bytes: 64 << 10, steps, shutdown: true, threads: false }
    }

    /// The same with small segments.
    pub fn rolling(name: &'static str, steps: Vec<Step>) -> Script {
        Script { segment_bytes: 8 << 10, ..Script::story(name, steps) }
    }

    /// Not closed at the end.
    pub fn unclosed(self) -> Script {
        Script { shutdown: false, ..self }
    }

    /// With the engine's threads.
    pub fn with_threads(self) -> Script {
        Script { threads: true, ..self }
    }
}

/// A repository that belongs to a number.
pub fn repo(number: u64) -> RepoId {
    RepoId(bytes16(1, number))
}

/// A push that belongs to a number.
pub fn push(number: u64) -> PushId {
    PushId(bytes16(2, number))
}

/// An object that belongs to a number.
pub fn object(number: u64) -> ObjectId {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    ObjectId(bytes)
}

/// A proposal of some events, as a push with this number.
pub fn proposal(number: u64, conditions: Vec<Condition>, events: Vec<EventBody>) -> Proposal {
    Proposal { push: push(number), fingerprint: number, actor: "tester".to_owned(), conditions, events }
}

/// Creates the repository of a number.
pub fn create(number: u64) -> Proposal {
    padded(number, 0)
}

/// The repository of a number; `padding` makes its event larger.
pub fn record(number: u64, padding: usize) -> RepoRecord {
    RepoRecord {
        repo: repo(number),
        owner: "owner".to_owned(),
        slug: format!("repo-{number}"),
        domain: "code".to_owned() + &noise(number, padding),
        default_branch: "main".to_owned(),
        visibility: Visibility::Private,
        created_ms: 1_000 + number,
    }
}

/// Creates the repository of a number, with an event of about `padding` bytes.
pub fn padded(number: u64, padding: usize) -> Proposal {
    let record = record(number, padding);
    let free = Condition::NameFree { owner: record.owner.clone(), slug: record.slug.clone() };
    proposal(number, vec![free], vec![EventBody::RepoCreated(record)])
}

/// Text without zeros or repetition, so that a lost or stale sector shows.
pub fn noise(number: u64, bytes: usize) -> String {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + ((state >> 33) % 26) as u8)
    };
    (0..bytes).map(|_| next()).collect()
}

/// A branch of a repository moves from one object to another, if it is where it was seen.
pub fn moved(number: u64, repo: RepoId, from: Option<u64>, to: Option<u64>) -> Proposal {
    let (old, new) = (from.map(object), to.map(object));
    let seen = Condition::RefIs { repo, name: "main".to_owned(), head: old };
    let updates = vec![RefUpdate { name: "main".to_owned(), old, new, forced: false }];
    let event = EventBody::RefsUpdated(RefsUpdated { repo, updates });
    proposal(number, vec![Condition::RepoLive(repo), seen], vec![event])
}

/// The repository that [`create`] made for a number is deleted.
pub fn deleted(number: u64, which: u64) -> Proposal {
    let old = record(which, 0);
    let gone = RepoDeleted { repo: old.repo, owner: old.owner, slug: old.slug };
    proposal(number, vec![Condition::RepoLive(gone.repo)], vec![EventBody::RepoDeleted(gone)])
}

/// The release `tag` is published, if it is not there.
pub fn released(number: u64, repo: RepoId, tag: &str) -> Proposal {
    let event = EventBody::ReleasePublished(ReleasePublished {
        repo,
        tag: tag.to_owned(),
        channel: "stable".to_owned(),
        is_draft: false,
        record: format!("{{\"tag\":\"{tag}\"}}").into_bytes(),
    });
    proposal(number, vec![Condition::ReleaseExists { repo, tag: tag.to_owned(), exists: false }], vec![event])
}

/// The release `tag` is withdrawn, if it is there.
pub fn retracted(number: u64, repo: RepoId, tag: &str) -> Proposal {
    let event = EventBody::ReleaseRetracted(ReleaseRetracted { repo, tag: tag.to_owned() });
    proposal(number, vec![Condition::ReleaseExists { repo, tag: tag.to_owned(), exists: true }], vec![event])
}

/// Five tags, the first of them with this number.
pub fn tagged(repo: RepoId, first: u64) -> TagsSet {
    let tag = |number: u64| TagRecord {
        tag_id: format!("id-{number}"),
        tag: format!("v{number:06}"),
        commit: object(number),
        created_at: "2026-01-01T00:00:00+00:00".to_owned(),
    };
    TagsSet { repo, tags: (first..first + 5).map(tag).collect() }
}

/// The token of a number is issued.
pub fn token(number: u64) -> EventBody {
    let mut hash = [9; 32];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    EventBody::TokenIssued(TokenRecord {
        token: TokenId(bytes16(3, number)),
        hash: TokenHash(hash),
        owner: "owner".to_owned(),
        repo: None,
        scope: Scope::Write,
        issued_ms: 5,
        expires_ms: None,
    })
}

fn bytes16(first: u8, number: u64) -> [u8; 16] {
    let mut bytes = [first; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes
}
