//! A log and its projections, stepped by the caller: after each proposal the view shows what it did.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use reprise_engine::{
    disk::sim::SimDisk,
    engine::{Condition, Engine, Follower, Outcome, Proposal},
    event::{EventBody, RepoDeleted},
    id::{Position, PushId, RepoId},
};
use reprise_projections::{
    Checkpoint, View,
    projector::{Input, Projector},
    store::{
        Store,
        fjall::{FjallStore, Memory},
        memory::MemoryStore,
    },
};
use reprise_tests::{faults::run::open, history::record, scratch};

/// The log, the projector and its store.
pub struct Stepped {
    engine: Engine,
    groups: Follower,
    projector: Projector,
    proposals: u64,
    // The store goes before its directory does.
    _dir: Option<tempfile::TempDir>,
}

impl Stepped {
    /// Mostly in memory, every sixteenth in fjall: a step is a hundred times slower there.
    pub fn new(number: u64) -> Stepped {
        let dir = number.is_multiple_of(16).then(scratch::dir);
        let memory = Memory { cache_bytes: 1 << 20, memtable_bytes: 1 << 20 };
        let store: Arc<dyn Store> = match &dir {
            Some(dir) => Arc::new(FjallStore::create(&dir.path().join("rows"), memory).unwrap()),
            None => Arc::new(MemoryStore::new()),
        };
        let (engine, _) = open(&SimDisk::new(), 64 << 10).unwrap();
        let groups = engine.follow(Position(1)).unwrap();
        Stepped { engine, groups, projector: Projector::new(store, Checkpoint::START), proposals: 0, _dir: dir }
    }

    /// A proposal of its own.
    pub fn proposal(&mut self, conditions: Vec<Condition>, events: Vec<EventBody>) -> Proposal {
        self.proposals += 1;
        let mut push = [0x71; 16];
        push[8..].copy_from_slice(&self.proposals.to_be_bytes());
        let (push, fingerprint) = (PushId(push), self.proposals);
        Proposal { push, fingerprint, actor: "tester".to_owned(), conditions, events }
    }

    /// Proposes; what the log took is folded.
    pub fn propose(&mut self, proposal: Proposal) -> Outcome {
        let outcome = self.engine.propose_and_wait(proposal);
        while let Some(group) = self.groups.next(Duration::ZERO).unwrap() {
            self.projector.step(Input::Group(group)).unwrap();
        }
        self.projector.step(Input::CaughtUp).unwrap();
        outcome
    }

    /// Proposes events that must be taken: the position of the first.
    pub fn append(&mut self, events: Vec<EventBody>) -> Position {
        // Whatever was swept: what is delivered here lies in no store.
        let unswept = Condition::NoSweepSince(Position(u64::MAX));
        let proposal = self.proposal(vec![unswept], events);
        match self.propose(proposal) {
            Outcome::Done { first, repeated: false, .. } => first,
            refused => panic!("{refused:?}"),
        }
    }

    /// What is shown now.
    pub fn view(&self) -> View {
        View::of_snapshot(self.projector.store().snapshot().unwrap()).unwrap()
    }
}

/// Repositories with what a model knows of each, a few at a time, under names that are used again.
#[derive(Debug)]
pub struct Repos<T> {
    /// Those that exist.
    pub live: BTreeMap<RepoId, T>,
    /// Those that do not any more.
    pub gone: Vec<RepoId>,
    created: u8,
}

impl<T: Default> Repos<T> {
    /// None.
    pub fn new() -> Repos<T> {
        Repos { live: BTreeMap::new(), gone: Vec::new(), created: 0 }
    }

    /// One more, if there are few.
    pub fn create(&mut self, log: &mut Stepped) {
        if self.live.len() < 3 {
            self.created += 1;
            let repo = RepoId([self.created; 16]);
            let free = (0..3).map(slug).find(|slug| log.view().repo_by_name("ada", slug).unwrap().is_none());
            log.append(vec![EventBody::RepoCreated(record(repo, free.unwrap(), 0))]);
            self.live.insert(repo, T::default());
        }
    }

    /// One less.
    pub fn delete(&mut self, log: &mut Stepped, repo: RepoId) {
        let row = log.view().repo(repo).unwrap().unwrap().record;
        log.append(vec![EventBody::RepoDeleted(RepoDeleted { repo, owner: row.owner, slug: row.slug })]);
        self.live.remove(&repo);
        self.gone.push(repo);
    }

    /// Exactly those that exist are shown.
    pub fn check(&self, view: &View) {
        let shown: Vec<RepoId> = view.repos(None, 9).unwrap().iter().map(|row| row.record.repo).collect();
        assert_eq!(shown.len(), self.live.len());
        assert!(shown.iter().all(|repo| self.live.contains_key(repo)), "{shown:?}");
        assert!(self.gone.iter().all(|repo| view.repo(*repo).unwrap().is_none()));
    }
}

fn slug(number: u8) -> String {
    format!("r{number}")
}
