//! Random histories: proposals of every kind of event, from a seed, such as a hub makes them.
//!
//! Invariants: the same seed gives the same proposals; the writer accepts every one of them, if they are made in order; ids
//! come from small pools, so that repositories share content, objects lie in several packs and rows are written again.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, rngs::StdRng};
use reprise_engine::{
    engine::{Condition, Proposal},
    event::{
        Codec, CommitFacts, EventBody, ObjectRow, ObjectsReceived, PacksRelocated, RefUpdate, RefsUpdated,
        ReleasePublished, ReleaseRetracted, RepoDeleted, RepoRecord, RowsCondemned, Scope, SnapshotFacts, TagRecord,
        TagsDeleted, TagsSet, TokenRecord, Visibility,
    },
    id::{Kind, ObjectId, PackId, Position, PushId, RecordHash, RepoId, TableHash, TokenHash, TokenId},
};

use crate::seeds;

/// A history that goes on for as long as it is asked.
pub struct History {
    random: StdRng,
    proposals: u64,
    live: Vec<Repo>,
    /// Packs that events have named, those of deleted repositories too.
    packs: Vec<PackId>,
    tokens: Vec<TokenRecord>,
}

struct Repo {
    record: RepoRecord,
    heads: BTreeMap<String, ObjectId>,
    deliveries: Vec<ObjectsReceived>,
}

impl History {
    /// The history that belongs to `seed`.
    pub fn new(seed: u64) -> History {
        let random = seeds::random(seed, HISTORY_STREAM);
        History { random, proposals: 0, live: Vec::new(), packs: Vec::new(), tokens: Vec::new() }
    }

    fn events(&mut self) -> Vec<EventBody> {
        if self.live.is_empty() {
            return vec![self.create()];
        }
        let at = self.random.random_range(0..self.live.len());
        match self.random.random_range(0..32) {
            0 | 1 => vec![self.create()],
            2 => vec![self.delete(at)],
            3 | 4 => vec![self.update(at)],
            5..16 => self.push(at),
            16..18 => self.push_again(at),
            18 | 19 => vec![self.move_heads(at)],
            20 => vec![self.set_tags(at)],
            21 => vec![EventBody::TagsDeleted(TagsDeleted { repo: self.repo(at), tags: self.labels() })],
            22 | 23 => vec![self.publish(at)],
            24 => vec![self.retract(at)],
            25 | 26 => vec![self.condemn(at)],
            27 => vec![self.relocate()],
            28 => vec![self.park(at)],
            29 => vec![self.revoke()],
            _ => vec![self.issue()],
        }
    }

    /// A repository under one of a few names; if the name is taken, the one that has it goes first.
    fn create(&mut self) -> EventBody {
        let slug = format!("r{}", self.random.random_range(0..6));
        if let Some(at) = self.live.iter().position(|repo| repo.record.slug == slug) {
            return self.delete(at);
        }
        let record = record(RepoId::from_random(self.random.random()), slug, self.proposals);
        self.live.push(Repo { record: record.clone(), heads: BTreeMap::new(), deliveries: Vec::new() });
        EventBody::RepoCreated(record)
    }

    fn delete(&mut self, at: usize) -> EventBody {
        let RepoRecord { repo, owner, slug, .. } = self.live.swap_remove(at).record;
        EventBody::RepoDeleted(RepoDeleted { repo, owner, slug })
    }

    /// Other settings; now and then another name.
    fn update(&mut self, at: usize) -> EventBody {
        let free = format!("renamed-{}", self.proposals);
        let record = &mut self.live[at].record;
        record.default_branch = format!("b{}", self.random.random_range(0..3));
        record.visibility = if self.random.random() { Visibility::Public } else { Visibility::Private };
        if self.random.random_bool(0.3) {
            record.slug = free;
        }
        EventBody::RepoUpdated(record.clone())
    }

    /// One or two packs, and a branch that moves.
    fn push(&mut self, at: usize) -> Vec<EventBody> {
        let mut events = Vec::new();
        for _ in 0..self.random.random_range(1..3) {
            let delivery = delivery(&mut self.random, self.live[at].record.repo, POOL);
            self.packs.push(delivery.pack);
            self.live[at].deliveries.push(delivery.clone());
            events.push(EventBody::ObjectsReceived(delivery));
        }
        events.push(self.move_heads(at));
        events
    }

    /// What was pushed before comes once more: in the same pack, or in one of another name.
    fn push_again(&mut self, at: usize) -> Vec<EventBody> {
        let Some(mut delivery) = pick(&mut self.random, &self.live[at].deliveries).cloned() else {
            return self.push(at);
        };
        if self.random.random() {
            delivery.pack = PackId(self.random.random());
            self.packs.push(delivery.pack);
            self.live[at].deliveries.push(delivery.clone());
        }
        vec![EventBody::ObjectsReceived(delivery)]
    }

    /// One or two branches are made, moved, deleted, or confirmed where they are.
    fn move_heads(&mut self, at: usize) -> EventBody {
        let Repo { record, heads, .. } = &mut self.live[at];
        let names: BTreeSet<String> = (0..2).map(|_| format!("b{}", self.random.random_range(0..4))).collect();
        let mut updates = Vec::new();
        for name in names {
            let old = heads.get(&name).copied();
            let new = match self.random.random_range(0..8) {
                0 => None,
                1 => old,
                _ => Some(object(&mut self.random, Kind::Commit)),
            };
            match new {
                Some(new) => heads.insert(name.clone(), new),
                None => heads.remove(&name),
            };
            updates.push(RefUpdate { name, old, new, forced: self.random.random() });
        }
        EventBody::RefsUpdated(RefsUpdated { repo: record.repo, updates })
    }

    fn set_tags(&mut self, at: usize) -> EventBody {
        let tag = |random: &mut StdRng, tag: String| TagRecord {
            tag_id: format!("id-{tag}"),
            tag,
            commit: object(random, Kind::Commit),
            created_at: "2026-01-01T00:00:00+00:00".to_owned(),
        };
        let tags = self.labels().into_iter().map(|label| tag(&mut self.random, label)).collect();
        EventBody::TagsSet(TagsSet { repo: self.repo(at), tags })
    }

    fn publish(&mut self, at: usize) -> EventBody {
        let tag = format!("v{}", self.random.random_range(0..4));
        let record = format!(r#"{{"n":{},"tag":"{tag}"}}"#, self.proposals).into_bytes();
        let (channel, is_draft) = ("stable".to_owned(), self.random.random());
        EventBody::ReleasePublished(ReleasePublished { repo: self.repo(at), tag, channel, is_draft, record })
    }

    fn retract(&mut self, at: usize) -> EventBody {
        let tag = format!("v{}", self.random.random_range(0..4));
        EventBody::ReleaseRetracted(ReleaseRetracted { repo: self.repo(at), tag })
    }

    /// Some rows of a pack that the repository got, and one of an object that it may not have.
    fn condemn(&mut self, at: usize) -> EventBody {
        let mut rows = BTreeSet::from([(Kind::Blob, object(&mut self.random, Kind::Blob))]);
        let delivery = pick(&mut self.random, &self.live[at].deliveries);
        let pack = delivery.map_or(PackId([9; 32]), |delivery| delivery.pack);
        for row in delivery.map_or(&[][..], |delivery| &delivery.rows) {
            rows.extend(self.random.random::<bool>().then_some((row.kind, row.id)));
        }
        let (repo, reason) = (self.repo(at), "does not hash to its id".to_owned());
        EventBody::RowsCondemned(RowsCondemned { repo, pack, rows: rows.into_iter().collect(), reason })
    }

    /// Packs move to another place, or are retired.
    fn relocate(&mut self) -> EventBody {
        let packs = (0..2).filter_map(|_| pick(&mut self.random, &self.packs).copied()).collect::<BTreeSet<_>>();
        let place = |random: &mut StdRng| random.random::<bool>().then(|| "s3://bucket/key".to_owned());
        let packs = packs.into_iter().map(|pack| (pack, place(&mut self.random))).collect();
        EventBody::PacksRelocated(PacksRelocated { packs })
    }

    /// Once in a while a name that fits into no key, so that the fold parks the repository.
    fn park(&mut self, at: usize) -> EventBody {
        if !self.random.random_bool(0.2) {
            return self.set_tags(at);
        }
        let label = "long".repeat(10_000);
        EventBody::TagsDeleted(TagsDeleted { repo: self.repo(at), tags: vec![label] })
    }

    fn issue(&mut self) -> EventBody {
        let token = TokenRecord {
            token: TokenId::from_random(self.random.random()),
            hash: TokenHash(self.random.random()),
            owner: "ada".to_owned(),
            repo: None,
            scope: Scope::Write,
            issued_ms: self.proposals,
            expires_ms: self.random.random::<bool>().then_some(self.proposals + 9),
        };
        self.tokens.push(token.clone());
        EventBody::TokenIssued(token)
    }

    fn revoke(&mut self) -> EventBody {
        match pick(&mut self.random, &self.tokens).cloned() {
            Some(token) => EventBody::TokenRevoked(token),
            None => self.issue(),
        }
    }

    fn labels(&mut self) -> Vec<String> {
        let labels: BTreeSet<u32> = (0..3).map(|_| self.random.random_range(0..8)).collect();
        labels.into_iter().map(|label| format!("t{label}")).collect()
    }

    fn repo(&self, at: usize) -> RepoId {
        self.live[at].record.repo
    }
}

/// The proposals, one after another, without end.
impl Iterator for History {
    type Item = Proposal;

    fn next(&mut self) -> Option<Proposal> {
        self.proposals += 1;
        let mut push = [0x70; 16];
        push[8..].copy_from_slice(&self.proposals.to_be_bytes());
        let events = self.events();
        let conditions = match &events[..] {
            [EventBody::RepoCreated(record)] => {
                vec![Condition::NameFree { owner: record.owner.clone(), slug: record.slug.clone() }]
            }
            _ => vec![UNSWEPT],
        };
        Some(Proposal {
            push: PushId(push),
            fingerprint: self.proposals,
            actor: "tester".to_owned(),
            conditions,
            events,
        })
    }
}

/// A push into a repository of its own, which fits behind every history.
pub fn late() -> Proposal {
    let mut random = seeds::random(0, HISTORY_STREAM);
    let repo = RepoId([0xee; 16]);
    let head = object(&mut random, Kind::Commit);
    let updates = vec![RefUpdate { name: "late".to_owned(), old: None, new: Some(head), forced: false }];
    let events = vec![
        EventBody::RepoCreated(record(repo, "late".to_owned(), 0)),
        EventBody::ObjectsReceived(delivery(&mut random, repo, POOL)),
        EventBody::RefsUpdated(RefsUpdated { repo, updates }),
    ];
    Proposal { push: PushId([0xee; 16]), fingerprint: 0, actor: "tester".to_owned(), conditions: vec![UNSWEPT], events }
}

/// What kind of event it is.
pub fn kind_of(event: &EventBody) -> &'static str {
    match event {
        EventBody::RepoCreated(_) => "repo created",
        EventBody::RepoUpdated(_) => "repo updated",
        EventBody::RepoDeleted(_) => "repo deleted",
        EventBody::ObjectsReceived(_) => "objects received",
        EventBody::RefsUpdated(_) => "refs updated",
        EventBody::TagsSet(_) => "tags set",
        EventBody::TagsDeleted(_) => "tags deleted",
        EventBody::ReleasePublished(_) => "release published",
        EventBody::ReleaseRetracted(_) => "release retracted",
        EventBody::TokenIssued(_) => "token issued",
        EventBody::TokenRevoked(_) => "token revoked",
        EventBody::RowsCondemned(_) => "rows condemned",
        EventBody::PacksRelocated(_) => "packs relocated",
    }
}

/// How many kinds [`kind_of`] tells apart.
pub const KINDS: usize = 13;

/// The object of this number among those of its kind.
pub fn pooled(number: u8, kind: Kind) -> ObjectId {
    let mut id = [0x11; 32];
    id[0] = number;
    id[31] = kind.byte();
    ObjectId(id)
}

fn object(random: &mut StdRng, kind: Kind) -> ObjectId {
    pooled(random.random_range(0..POOL), kind)
}

/// A pack of some objects from pools of `pool` of each kind, as an event tells of it.
pub fn delivery(random: &mut StdRng, repo: RepoId, pool: u8) -> ObjectsReceived {
    let mut names = BTreeSet::new();
    for _ in 0..random.random_range(1..24) {
        let kind = [Kind::Blob, Kind::Blob, Kind::Snapshot, Kind::Commit][random.random_range(0..4)];
        names.insert((kind, pooled(random.random_range(0..pool), kind)));
    }
    let mut rows: Vec<ObjectRow> = Vec::new();
    for (kind, id) in names {
        let base = rows.iter().position(|row| row.codec != Codec::ZstdPrefix && row.kind == kind);
        let base = base.filter(|_| kind == Kind::Snapshot).map(|base| base as u32);
        rows.push(ObjectRow {
            kind,
            id,
            offset: 64 + 1_000 * rows.len() as u64,
            stored_len: random.random_range(1..1_000),
            real_len: random.random_range(1_000..4_000),
            codec: if base.is_some() { Codec::ZstdPrefix } else { Codec::Zstd },
            base,
            record_hash: (kind != Kind::Blob).then(|| RecordHash(random.random())),
        });
    }
    let of = |kind| rows.iter().filter(move |row| row.kind == kind).map(|row| row.id);
    let snapshots = of(Kind::Snapshot)
        .map(|id| SnapshotFacts { id, entries: random.random_range(0..9), directories: 1, wire_len: 400 })
        .collect();
    let commits = of(Kind::Commit).map(|id| commit(random, id)).collect();
    ObjectsReceived {
        repo,
        pack: PackId(random.random()),
        pack_bytes: 1 << 20,
        table_hash: TableHash(random.random()),
        rows,
        snapshots,
        commits,
    }
}

/// A repository's settings.
pub fn record(repo: RepoId, slug: String, created_ms: u64) -> RepoRecord {
    RepoRecord {
        repo,
        owner: "ada".to_owned(),
        slug,
        domain: "code".to_owned(),
        default_branch: String::new(),
        visibility: Visibility::Public,
        created_ms,
    }
}

/// Mostly adds a few blobs, sometimes more than fit into one row.
fn commit(random: &mut StdRng, id: ObjectId) -> CommitFacts {
    let adds = if random.random_bool(0.03) { 1_500u16 } else { random.random_range(0..8) };
    let numbered = |number: u16| {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_be_bytes());
        ObjectId(id)
    };
    CommitFacts {
        id,
        parents: (0..random.random_range(0..3)).map(|_| object(random, Kind::Commit)).collect(),
        snapshot: object(random, Kind::Snapshot),
        committed_at: "2026-01-01T00:00:00+00:00".to_owned(),
        branch: "main".to_owned(),
        author: "ada".to_owned(),
        message: format!("message {}", random.random::<u32>()),
        adds: (0..adds).map(numbered).collect(),
        wire_len: random.random_range(100..900),
    }
}

fn pick<'a, T>(random: &mut StdRng, from: &'a [T]) -> Option<&'a T> {
    (!from.is_empty()).then(|| &from[random.random_range(0..from.len())])
}

/// Objects of a kind in all repositories together.
const POOL: u8 = 60;
/// Apart from the streams of those who use the same seed.
const HISTORY_STREAM: u64 = 0x4849_5354;

/// Nobody sweeps these packs, whatever events about packs say.
const UNSWEPT: Condition = Condition::NoSweepSince(Position(u64::MAX));
