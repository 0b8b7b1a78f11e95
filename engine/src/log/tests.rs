//! The log through the engine's own door, on a simulated disk: each promise of FORMAT.md §4.6 once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    clock::{ManualClock, SeededRandom},
    disk::{
        Disk,
        sim::{Fault, SimDisk, Survival},
    },
    engine::{Condition, Driver, Engine, OpenReport, Options, Outcome, Parts, Proposal, Reason, Tail},
    error::{ErrorKind, Result},
    event::{EventBody, RefUpdate, RefsUpdated, RepoRecord, TokenRecord, Visibility},
    id::{ObjectId, Position, PushId, RepoId, TokenHash, TokenId},
    store::directory::DirectoryStore,
};

mod bucket;
mod crash;
mod golden;
mod open;
mod ordinals;
mod own_log;
mod queue;
mod table;

const SEGMENT: u64 = 16 << 10;

fn options(driver: Driver) -> Options {
    Options { segment_bytes: SEGMENT, driver, ..Options::new("test") }
}

fn try_open(disk: &SimDisk, driver: Driver, seed: u64) -> Result<(Engine, OpenReport)> {
    let parts = Parts {
        disk: Arc::new(disk.clone()),
        store: Arc::new(DirectoryStore::new(Arc::new(disk.clone()), Arc::new(SeededRandom::new(seed)))),
        clock: Arc::new(ManualClock::new(1_700_000_000_000)),
        random: Arc::new(SeededRandom::new(seed)),
    };
    Engine::open(parts, options(driver))
}

fn open(disk: &SimDisk) -> (Engine, OpenReport) {
    try_open(disk, Driver::Inline, 7).unwrap()
}

fn push_id(number: u64) -> PushId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    PushId(bytes)
}

fn repo_id(number: u8) -> RepoId {
    RepoId([number; 16])
}

fn proposal(number: u64, events: Vec<EventBody>) -> Proposal {
    Proposal { push: push_id(number), fingerprint: number, actor: "tester".into(), conditions: Vec::new(), events }
}

fn token(number: u64, owner_bytes: usize) -> EventBody {
    EventBody::TokenIssued(TokenRecord {
        token: TokenId(push_id(number).0),
        hash: TokenHash([7; 32]),
        owner: "o".repeat(owner_bytes),
        repo: None,
        scope: crate::event::Scope::Read,
        issued_ms: number,
        expires_ms: None,
    })
}

/// A proposal of one small event that needs nothing.
fn small(number: u64) -> Proposal {
    proposal(number, vec![token(number, 20)])
}

fn repo(number: u8, slug: &str) -> EventBody {
    EventBody::RepoCreated(RepoRecord {
        repo: repo_id(number),
        owner: "ada".into(),
        slug: slug.into(),
        domain: "code".into(),
        default_branch: String::new(),
        visibility: Visibility::Public,
        created_ms: 1,
    })
}

fn moved(number: u8, name: &str, old: Option<u8>, new: Option<u8>) -> EventBody {
    let head = |byte: Option<u8>| byte.map(|byte| ObjectId([byte; 32]));
    let update = RefUpdate { name: name.into(), old: head(old), new: head(new), forced: false };
    EventBody::RefsUpdated(RefsUpdated { repo: repo_id(number), updates: vec![update] })
}

fn done(outcome: Outcome) -> (u64, u64) {
    match outcome {
        Outcome::Done { first, last, .. } => (first.0, last.0),
        other => panic!("{other:?}"),
    }
}

/// Every event of the log, by position, read through a follower.
fn read_all(engine: &Engine) -> Result<BTreeMap<u64, PushId>> {
    let mut follower = engine.follow(Position(1))?;
    let mut read = BTreeMap::new();
    while let Some(group) = follower.next(Duration::ZERO)? {
        for event in group.events.iter() {
            assert_eq!(event.position.0, read.len() as u64 + 1, "positions are dense");
            read.insert(event.position.0, event.push);
        }
        if group.events[group.events.len() - 1].position == engine.durable().position {
            assert_eq!(group.chain, engine.durable().chain);
        }
    }
    assert_eq!(read.len() as u64, engine.durable().position.0);
    Ok(read)
}
