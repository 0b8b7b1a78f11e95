//! Random histories from a seed, and a log in memory that can lose its tail or become another log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation, dead_code)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use reprise_engine::{
    Result,
    clock::{Random, SeededRandom},
    engine::{Durable, Group},
    event::*,
    id::*,
};
use reprise_projections::{
    Digest, View,
    projections::{Checkpoint, Options, Projections},
    projector::{Input, Projector},
    source::{Groups, Source},
    store::{Store, memory::MemoryStore},
};

/// Numbers from a seed.
pub struct Dice(SeededRandom);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(SeededRandom::new(seed))
    }

    pub fn below(&self, limit: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes).unwrap();
        (u64::from_le_bytes(bytes) % limit as u64) as usize
    }

    pub fn id(&self) -> [u8; 32] {
        let mut id = [0; 32];
        self.0.fill(&mut id).unwrap();
        id
    }
}

/// A log in memory.
#[derive(Clone, Default)]
pub struct MemoryLog {
    groups: Arc<Mutex<Vec<Group>>>,
}

impl MemoryLog {
    /// Appends one group.
    pub fn append(&self, bodies: Vec<EventBody>) -> Position {
        let mut groups = self.groups.lock().unwrap();
        let mut position = end_of(&groups).position;
        let mut events = Vec::new();
        for body in bodies {
            position = position.next();
            let push = PushId([position.0 as u8; 16]);
            events.push(Event { position, time_ms: position.0, push, actor: "tester".into(), body });
        }
        let mut chain = end_of(&groups).chain.0;
        chain[0] = chain[0].wrapping_mul(31).wrapping_add(events.len() as u8).wrapping_add(1);
        chain[8..16].copy_from_slice(&position.0.to_le_bytes());
        groups.push(Group { events: events.into(), chain: ChainHash(chain) });
        position
    }

    pub fn groups(&self) -> Vec<Group> {
        self.groups.lock().unwrap().clone()
    }

    /// Forgets the last `count` groups, as a log that lost its tail.
    pub fn lose(&self, count: usize) {
        let mut groups = self.groups.lock().unwrap();
        let left = groups.len() - count;
        groups.truncate(left);
    }

    /// Becomes another log of the same length.
    pub fn become_another(&self) {
        for group in self.groups.lock().unwrap().iter_mut() {
            group.chain.0[31] ^= 0xff;
        }
    }
}

fn end_of(groups: &[Group]) -> Durable {
    let last = groups.last();
    let position = last.map_or(Position::ZERO, |group| group.events.last().unwrap().position);
    Durable { position, chain: last.map_or(ChainHash([0; 32]), |group| group.chain) }
}

impl Source for MemoryLog {
    fn durable(&self) -> Durable {
        end_of(&self.groups.lock().unwrap())
    }

    fn chain_at(&self, position: Position) -> Result<Option<ChainHash>> {
        let groups = self.groups.lock().unwrap();
        let ends = groups.iter().find(|group| group.events.last().unwrap().position == position);
        Ok(ends.map(|group| group.chain))
    }

    fn follow(&self, from: Position) -> Result<Box<dyn Groups>> {
        Ok(Box::new(Following { log: self.clone(), next: from }))
    }

    fn now_ms(&self) -> u64 {
        self.durable().position.0
    }
}

struct Following {
    log: MemoryLog,
    next: Position,
}

impl Groups for Following {
    fn next(&mut self, wait: Duration) -> Result<Option<Group>> {
        let find = || {
            let groups = self.log.groups.lock().unwrap();
            groups.iter().find(|group| group.events.last().unwrap().position >= self.next).cloned()
        };
        let found = find().or_else(|| {
            std::thread::park_timeout(wait.min(Duration::from_millis(1)));
            find()
        });
        if let Some(group) = &found {
            self.next = group.events.last().unwrap().position.next();
        }
        Ok(found)
    }
}

/// What a history has made so far, to make sense of what comes next.
#[derive(Default)]
struct Made {
    live: Vec<RepoRecord>,
    refs: BTreeMap<RepoId, BTreeMap<String, ObjectId>>,
    packs: Vec<ObjectsReceived>,
    tokens: Vec<TokenRecord>,
    repos: u8,
}

/// A history of `groups` groups. Ids come from a small pool, so that repositories share content and rows are rewritten.
pub fn random_history(seed: u64, groups: usize) -> MemoryLog {
    let dice = Dice::new(seed);
    let log = MemoryLog::default();
    let mut made = Made::default();
    for _ in 0..groups {
        let events = (0..=dice.below(3)).map(|_| event(&dice, &mut made)).collect();
        log.append(events);
    }
    log
}

fn event(dice: &Dice, made: &mut Made) -> EventBody {
    if made.live.is_empty() {
        return created(dice, made);
    }
    let at = dice.below(made.live.len());
    let repo = made.live[at].repo;
    match dice.below(16) {
        0 => created(dice, made),
        1 => {
            let record = made.live.swap_remove(at);
            made.refs.remove(&repo);
            EventBody::RepoDeleted(RepoDeleted { repo, owner: record.owner, slug: record.slug })
        }
        2 => {
            let record = &mut made.live[at];
            record.default_branch = format!("b{}", dice.below(3));
            record.visibility = if dice.below(2) == 0 { Visibility::Public } else { Visibility::Private };
            EventBody::RepoUpdated(record.clone())
        }
        3..=7 => {
            let received = objects(dice, repo);
            made.packs.push(received.clone());
            EventBody::ObjectsReceived(received)
        }
        8 | 9 => moved(dice, made, repo),
        10 => EventBody::TagsSet(TagsSet { repo, tags: vec![tag(dice)] }),
        11 => EventBody::TagsDeleted(TagsDeleted { repo, tags: vec![format!("v{}", dice.below(4))] }),
        12 => EventBody::ReleasePublished(ReleasePublished {
            repo,
            tag: format!("v{}", dice.below(4)),
            channel: "stable".into(),
            is_draft: dice.below(2) == 0,
            record: br#"{"a":1}"#.to_vec(),
        }),
        13 => EventBody::ReleaseRetracted(ReleaseRetracted { repo, tag: format!("v{}", dice.below(4)) }),
        14 if !made.packs.is_empty() => {
            let pack = &made.packs[dice.below(made.packs.len())];
            let rows = pack.rows.iter().filter(|_| dice.below(2) == 0).map(|row| (row.kind, row.id)).collect();
            let reason = "does not hash to its id".into();
            EventBody::RowsCondemned(RowsCondemned { repo: pack.repo, pack: pack.pack, rows, reason })
        }
        _ => token_or_move(dice, made),
    }
}

fn created(dice: &Dice, made: &mut Made) -> EventBody {
    // A few names only: a deleted repository's name comes back with a new id.
    let slug = format!("r{}", made.repos % 4);
    made.repos += 1;
    if let Some(at) = made.live.iter().position(|live| live.slug == slug) {
        let record = made.live.swap_remove(at);
        made.repos -= 1;
        return EventBody::RepoDeleted(RepoDeleted { repo: record.repo, owner: record.owner, slug: record.slug });
    }
    let record = repo_record(RepoId::from_random(dice.id()[..16].try_into().unwrap()), &slug);
    made.live.push(record.clone());
    EventBody::RepoCreated(record)
}

pub fn repo_record(repo: RepoId, slug: &str) -> RepoRecord {
    RepoRecord {
        repo,
        owner: "gabriel".into(),
        slug: slug.into(),
        domain: "code".into(),
        default_branch: "main".into(),
        visibility: Visibility::Public,
        created_ms: 7,
    }
}

fn moved(dice: &Dice, made: &mut Made, repo: RepoId) -> EventBody {
    let name = format!("b{}", dice.below(3));
    let refs = made.refs.entry(repo).or_default();
    let old = refs.get(&name).copied();
    let new = (dice.below(5) > 0).then(|| pooled(dice, Kind::Commit));
    match new {
        Some(new) => refs.insert(name.clone(), new),
        None => refs.remove(&name),
    };
    EventBody::RefsUpdated(RefsUpdated { repo, updates: vec![RefUpdate { name, old, new, forced: true }] })
}

fn tag(dice: &Dice) -> TagRecord {
    TagRecord {
        tag_id: "t".into(),
        tag: format!("v{}", dice.below(4)),
        commit: pooled(dice, Kind::Commit),
        created_at: "2026-01-01".into(),
    }
}

fn token_or_move(dice: &Dice, made: &mut Made) -> EventBody {
    match dice.below(3) {
        0 if !made.tokens.is_empty() => EventBody::TokenRevoked(made.tokens[dice.below(made.tokens.len())].clone()),
        1 if !made.packs.is_empty() => {
            let pack = made.packs[dice.below(made.packs.len())].pack;
            let uri = (dice.below(2) == 0).then(|| "s3://bucket/key".to_owned());
            EventBody::PacksRelocated(PacksRelocated { packs: vec![(pack, uri)] })
        }
        _ => {
            let record = TokenRecord {
                token: TokenId::from_random(dice.id()[..16].try_into().unwrap()),
                hash: TokenHash(dice.id()),
                owner: "gabriel".into(),
                repo: None,
                scope: Scope::Write,
                issued_ms: 1,
                expires_ms: Some(9),
            };
            made.tokens.push(record.clone());
            EventBody::TokenIssued(record)
        }
    }
}

fn pooled(dice: &Dice, kind: Kind) -> ObjectId {
    let mut id = [0x11; 32];
    id[0] = (dice.below(40) * 6) as u8;
    id[31] = kind.byte();
    ObjectId(id)
}

fn objects(dice: &Dice, repo: RepoId) -> ObjectsReceived {
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..dice.below(12) + 1 {
        let kind = [Kind::Blob, Kind::Blob, Kind::Snapshot, Kind::Commit][dice.below(4)];
        names.insert((kind, pooled(dice, kind)));
    }
    received(repo, PackId(dice.id()), &names.into_iter().collect::<Vec<_>>(), dice.below(3) * 700)
}

/// A pack of these objects; every commit adds `adds` made-up blobs.
pub fn received(repo: RepoId, pack: PackId, names: &[(Kind, ObjectId)], adds: usize) -> ObjectsReceived {
    let row = |(index, (kind, id)): (usize, &(Kind, ObjectId))| ObjectRow {
        kind: *kind,
        id: *id,
        offset: 64 + 1000 * index as u64,
        stored_len: 900,
        real_len: 1000 + index as u64,
        codec: if *kind == Kind::Snapshot && index > 0 { Codec::ZstdPrefix } else { Codec::Zstd },
        base: (*kind == Kind::Snapshot && index > 0).then_some(0),
        record_hash: (*kind != Kind::Blob).then_some(RecordHash(id.0)),
    };
    let of = |wanted: Kind| names.iter().filter(move |(kind, _)| *kind == wanted).map(|(_, id)| *id);
    let adds: Vec<ObjectId> = (0..adds)
        .map(|n| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&(n as u64).to_be_bytes());
            ObjectId(id)
        })
        .collect();
    ObjectsReceived {
        repo,
        pack,
        pack_bytes: 1 << 20,
        table_hash: TableHash([7; 32]),
        rows: names.iter().enumerate().map(row).collect(),
        snapshots: of(Kind::Snapshot)
            .map(|id| SnapshotFacts { id, entries: 3, directories: 1, wire_len: 400 })
            .collect(),
        commits: of(Kind::Commit)
            .map(|id| CommitFacts {
                id,
                parents: vec![ObjectId([5; 32])],
                snapshot: ObjectId([6; 32]),
                committed_at: "2026-01-01T00:00:00+00:00".into(),
                branch: "main".into(),
                author: "gabriel".into(),
                message: "a message".into(),
                adds: adds.clone(),
                wire_len: 300,
            })
            .collect(),
    }
}

/// Folds all of a log, with an apply after each group for which `at_tail` says so.
pub fn fold_live(
    log: &MemoryLog,
    store: Arc<dyn Store>,
    from: Checkpoint,
    at_tail: impl Fn() -> bool,
) -> Result<Projector> {
    let mut projector = Projector::new(store, from);
    for group in log.groups() {
        if group.events[0].position <= from.position {
            continue;
        }
        projector.step(Input::Group(group))?;
        if at_tail() {
            projector.step(Input::CaughtUp)?;
        }
    }
    projector.step(Input::CaughtUp)?;
    Ok(projector)
}

/// The digest of a memory store with all of the log folded, group by group.
pub fn reference(log: &MemoryLog) -> Digest {
    let store = Arc::new(MemoryStore::new());
    fold_live(log, store.clone(), Checkpoint::START, || true).unwrap();
    digest(&*store)
}

pub fn digest(store: &dyn Store) -> Digest {
    View::of_snapshot(store.snapshot().unwrap()).unwrap().digest().unwrap()
}

pub fn options(dir: &std::path::Path) -> Options {
    Options { dir: Some(dir.to_owned()), cache_bytes: 4 << 20, memtable_bytes: 4 << 20 }
}

/// Opens projections over the log and waits until they serve all of it.
pub fn open_caught_up(log: &MemoryLog, options: Options) -> Projections {
    let projections = Projections::open_source(Arc::new(log.clone()), options).unwrap();
    let end = log.durable().position;
    assert!(projections.wait_folded(end, Duration::from_secs(30)), "{:?}", projections.status());
    projections
}
