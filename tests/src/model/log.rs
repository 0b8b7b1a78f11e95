//! The log as a list of batches: what every proposal is answered, what every reader sees.
//!
//! Invariants: the model knows repositories, one branch each and push ids, nothing of frames, groups and segments; each answer is
//! predicted before it is asked for; after every opening, whatever ended the one before, all that was acknowledged is there
//! and nothing else; followers that stay see every event once, in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc},
    time::Duration,
};

use reprise_engine::{
    clock::{ManualClock, SeededRandom},
    disk::{
        Disk,
        sim::{SimDisk, Survival},
    },
    engine::{Condition, Driver, Engine, Follower, Group, Options, Outcome, Parts, Proposal, Reason, Tail},
    event::{EventBody, RefUpdate, RefsUpdated, RepoDeleted},
    id::{ChainHash, ObjectId, Position, PushId},
    store::directory::DirectoryStore,
};

use crate::faults::{
    run::NOW_MS,
    script::{object, padded, proposal, push, repo},
};

/// One thing to do. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
pub enum Step {
    /// Propose together, so that they may share groups, then look at every answer.
    Propose(Vec<Ask>),
    /// Shut down (or not), open again.
    Reopen {
        /// Cleanly.
        closed: bool,
    },
    /// Lose power, open again.
    PowerLoss(Survival, u64),
    /// Follow from a position (a fraction of the log) to its end.
    ReadFrom(u16),
    /// Read all segments, one by one.
    ReadSegments,
    /// Let a follower that stays take so many groups; a number that is new makes one, which starts at the fraction.
    Follow(u8, u16, u8),
}

/// One proposal.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Create a repository under a name, with an event of about so many bytes.
    Create(u8, usize),
    /// Delete the repository of a name.
    Delete(u8),
    /// Move the branch of a name's repository from the head that it has, or from another one.
    Move(u8, bool),
    /// An earlier proposal again, word for word.
    Again(u16),
    /// An earlier proposal's push id for another request.
    Reuse(u16),
    /// Nothing.
    Empty,
}

/// The model, and the engine that it is held against.
pub struct LogModel {
    disk: SimDisk,
    driver: Driver,
    segment_bytes: u64,
    engine: Option<Engine>,
    openings: u64,
    numbers: u64,
    asked: Vec<Proposal>,
    batches: Vec<Vec<EventBody>>,
    done: BTreeMap<PushId, (u64, Position, Position)>,
    live: BTreeMap<u8, u64>,
    heads: BTreeMap<u64, u64>,
    ends: BTreeMap<Position, ChainHash>,
    followers: BTreeMap<u8, (Position, Option<Follower>)>,
}

impl LogModel {
    /// An empty log; `threads`: the engine's own writer thread makes groups of what waits.
    pub fn new(segment_bytes: u64, threads: bool) -> LogModel {
        let mut model = LogModel {
            disk: SimDisk::new(),
            driver: if threads { Driver::Threads } else { Driver::Inline },
            segment_bytes,
            engine: None,
            openings: 0,
            numbers: 0,
            asked: Vec::new(),
            batches: Vec::new(),
            done: BTreeMap::new(),
            live: BTreeMap::new(),
            heads: BTreeMap::new(),
            ends: BTreeMap::new(),
            followers: BTreeMap::new(),
        };
        model.open();
        model
    }

    /// Does one step; panics where model and engine part.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Propose(asks) => self.propose(asks),
            Step::Reopen { closed } => self.reopen(*closed),
            Step::PowerLoss(survival, seed) => {
                self.drop_followers();
                let survivor = self.disk.crash(*survival, *seed);
                self.engine = None;
                self.disk = survivor;
                self.open();
            }
            Step::ReadFrom(fraction) => self.read_from(self.position(*fraction)),
            Step::ReadSegments => self.read_segments(),
            Step::Follow(number, fraction, groups) => self.follow(*number, *fraction, *groups),
        }
    }

    /// Reads everything in every way, then once more after a clean close.
    pub fn finish(&mut self) {
        for _ in 0..2 {
            self.read_from(Position(1));
            self.read_segments();
            self.check_chains();
            self.reopen(true);
        }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("it is open")
    }

    fn events(&self) -> Vec<&EventBody> {
        self.batches.iter().flatten().collect()
    }

    fn end(&self) -> Position {
        Position(self.batches.iter().map(|batch| batch.len() as u64).sum())
    }

    fn position(&self, fraction: u16) -> Position {
        Position(1 + u64::from(fraction) * self.end().0 / u64::from(u16::MAX))
    }

    fn open(&mut self) {
        self.openings += 1;
        let random = Arc::new(SeededRandom::new(self.openings));
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let store = Arc::new(DirectoryStore::new(Arc::clone(&disk), random.clone()));
        let parts = Parts { disk, store, clock: Arc::new(ManualClock::new(NOW_MS)), random };
        let options = Options { segment_bytes: self.segment_bytes, driver: self.driver, ..Options::new("the model") };
        let (engine, report) = Engine::open(parts, options).expect("a sound log opens");
        assert_eq!(report.tail, Tail::Clean, "everything was acknowledged");
        assert_eq!(report.durable.position, self.end(), "what was acknowledged, and nothing else");
        let chain = self.ends.get(&report.durable.position);
        assert!(chain.is_none_or(|chain| *chain == report.durable.chain), "the chain stays");
        self.engine = Some(engine);
    }

    fn reopen(&mut self, closed: bool) {
        self.drop_followers();
        if closed {
            self.engine().shutdown().expect("a sound disk");
        }
        self.engine = None;
        self.open();
    }

    /// They hold the engine; each goes on where it stood.
    fn drop_followers(&mut self) {
        for (next, follower) in self.followers.values_mut() {
            if let Some(follower) = follower.take() {
                *next = follower.position();
            }
        }
    }

    fn propose(&mut self, asks: &[Ask]) {
        let proposals: Vec<Proposal> = asks.iter().map(|ask| self.proposal(ask)).collect();
        let (sender, answers) = mpsc::channel();
        for (index, proposal) in proposals.iter().enumerate() {
            let sender = sender.clone();
            let reply = move |outcome| sender.send((index, outcome)).expect("the model waits");
            self.engine().propose(proposal.clone(), Box::new(reply));
        }
        let answer = || answers.recv_timeout(ANSWER_TIME_MAX).expect("every proposal is answered");
        let answered: BTreeMap<usize, Outcome> = proposals.iter().map(|_| answer()).collect();
        assert_eq!(answered.len(), proposals.len(), "each once");
        // The queue keeps its order, so that answers can be told one after the other.
        for (proposal, outcome) in proposals.into_iter().zip(answered.into_values()) {
            let expected = self.expected(&proposal);
            assert!(expected.agrees(&outcome), "{proposal:?}: {outcome:?}, expected {expected:?}");
            if let Expected::Done(..) = expected {
                self.take(&proposal);
            }
            self.asked.push(proposal);
        }
        let durable = self.engine().durable();
        assert_eq!(durable.position, self.end());
        self.ends.insert(durable.position, durable.chain);
    }

    fn proposal(&mut self, ask: &Ask) -> Proposal {
        self.numbers += 1;
        let number = self.numbers;
        let earlier = |at: u16| self.asked.get(usize::from(at) % self.asked.len().max(1)).cloned();
        match ask {
            Ask::Create(name, bytes) => create(number, *name, *bytes),
            Ask::Delete(name) => {
                let id = repo(self.live.get(name).copied().unwrap_or(0));
                let gone = RepoDeleted { repo: id, owner: "owner".to_owned(), slug: slug(*name) };
                proposal(number, vec![Condition::RepoLive(id)], vec![EventBody::RepoDeleted(gone)])
            }
            Ask::Move(name, right) => {
                let id = self.live.get(name).copied().unwrap_or(0);
                let head = self.heads.get(&id).copied();
                let seen = if *right { head } else { Some(u64::MAX) };
                moved(number, id, seen.map(object), object(number))
            }
            Ask::Again(at) => earlier(*at).unwrap_or_else(|| create(number, 0, 0)),
            Ask::Reuse(at) => match earlier(*at) {
                Some(earlier) => Proposal { fingerprint: earlier.fingerprint ^ u64::MAX, ..earlier },
                None => create(number, 0, 0),
            },
            Ask::Empty => proposal(number, vec![], vec![]),
        }
    }

    fn expected(&self, proposal: &Proposal) -> Expected {
        if proposal.events.is_empty() {
            return Expected::Invalid;
        }
        match self.done.get(&proposal.push) {
            Some((fingerprint, first, last)) if *fingerprint == proposal.fingerprint => {
                return Expected::Repeated(*first, *last);
            }
            Some(_) => return Expected::Reused,
            None => {}
        }
        let (first, last) = (self.end().next(), Position(self.end().0 + proposal.events.len() as u64));
        if self.holds(proposal) { Expected::Done(first, last) } else { Expected::Refused }
    }

    fn holds(&self, proposal: &Proposal) -> bool {
        let ids: BTreeSet<_> = self.live.values().map(|id| repo(*id)).collect();
        proposal.conditions.iter().all(|condition| match condition {
            Condition::NameFree { slug: wanted, .. } => !self.live.keys().any(|name| slug(*name) == *wanted),
            Condition::RepoLive(id) => ids.contains(id),
            Condition::RefIs { repo: id, head, .. } => {
                let known = self.heads.iter().find(|(number, _)| repo(**number) == *id);
                ids.contains(id) && known.map(|(_, head)| object(*head)) == *head
            }
            other => panic!("the model asks for no {other:?}"),
        })
    }

    fn take(&mut self, proposal: &Proposal) {
        let first = self.end().next();
        self.batches.push(proposal.events.clone());
        self.done.insert(proposal.push, (proposal.fingerprint, first, self.end()));
        // Every id of this model is made from the number of the push that made it.
        let number = (1..=self.numbers).find(|number| push(*number) == proposal.push).expect("one of its numbers");
        match &proposal.events[0] {
            EventBody::RepoCreated(record) => {
                let name = (0..=u8::MAX).find(|name| slug(*name) == record.slug).expect("one of its names");
                self.live.insert(name, number);
            }
            EventBody::RepoDeleted(gone) => self.live.retain(|_, id| repo(*id) != gone.repo),
            EventBody::RefsUpdated(refs) => {
                let id = self.live.values().find(|id| repo(**id) == refs.repo).expect("it is live");
                self.heads.insert(*id, number);
            }
            other => panic!("the model makes no {other:?}"),
        }
    }

    fn read_from(&self, from: Position) {
        let mut follower = self.engine().follow(from).expect("a position of the log");
        let events = self.events();
        let mut next = from;
        while next <= self.end() {
            let group = follower.next(Duration::ZERO).expect("sound").expect("more is durable");
            let first = group.events[0].position;
            assert!(first <= next, "from {from}: a group that starts at {first} came at {next}");
            check_group(&group, &events);
            next = follower.position();
        }
        assert!(follower.next(Duration::ZERO).expect("sound").is_none(), "nothing follows the end");
        assert!(self.engine().follow(self.end().next().next()).is_err(), "beyond the end");
    }

    fn read_segments(&self) {
        let (segments, events) = (self.engine().segments(), self.events());
        let mut next = Position(1);
        for (index, segment) in segments.iter().enumerate() {
            assert_eq!(segment.first, next, "segments follow each other");
            assert_eq!(segment.sealed, index + 1 < segments.len(), "all are sealed but the last");
            for group in self.engine().read_segment(segment.first).expect("it is there") {
                let group = group.expect("sound");
                assert_eq!(group.events[0].position, next);
                check_group(&group, &events);
                next = group.events[group.events.len() - 1].position.next();
            }
            assert_eq!(next, segment.last.next(), "to its last event");
        }
        assert_eq!(next, self.end().next(), "to the end");
    }

    fn follow(&mut self, number: u8, fraction: u16, groups: u8) {
        let at = self.position(fraction);
        let (next, held) = self.followers.remove(&number).unwrap_or((at, None));
        let mut follower = held.unwrap_or_else(|| self.engine().follow(next).expect("a position of the log"));
        assert_eq!(follower.position(), next);
        let events = self.events();
        for _ in 0..groups {
            let before = follower.position();
            let Some(group) = follower.next(Duration::ZERO).expect("sound") else {
                assert_eq!(before, self.end().next(), "it stops at the end only");
                break;
            };
            check_group(&group, &events);
            assert!(group.events[0].position <= before && follower.position() > before, "no event is left out");
        }
        self.followers.insert(number, (follower.position(), Some(follower)));
    }

    /// Chained hashes that were told when a group was acknowledged are told still.
    fn check_chains(&self) {
        for (position, chain) in &self.ends {
            let found = self.engine().chain_at(*position).expect("sound");
            assert_eq!(found, Some(*chain), "the chain at {position}");
        }
    }
}

/// What the model says to a proposal.
#[derive(Debug)]
enum Expected {
    Done(Position, Position),
    Repeated(Position, Position),
    Refused,
    Reused,
    Invalid,
}

impl Expected {
    fn agrees(&self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Expected::Done(one, other), Outcome::Done { first, last, repeated: false })
            | (Expected::Repeated(one, other), Outcome::Done { first, last, repeated: true }) => {
                (one, other) == (first, last)
            }
            (Expected::Refused, Outcome::NotDone(Reason::Condition(_)))
            | (Expected::Reused, Outcome::NotDone(Reason::PushIdReused))
            | (Expected::Invalid, Outcome::NotDone(Reason::Invalid(_))) => true,
            _ => false,
        }
    }
}

/// A group says of its events what the model says, whatever it shares them with.
fn check_group(group: &Group, events: &[&EventBody]) {
    for event in group.events.iter() {
        let index = usize::try_from(event.position.0 - 1).expect("a small log");
        assert_eq!(events.get(index), Some(&&event.body), "event {}", event.position);
    }
}

fn slug(name: u8) -> String {
    format!("name-{name}")
}

fn create(number: u64, name: u8, bytes: usize) -> Proposal {
    let mut proposal = padded(number, bytes);
    if let EventBody::RepoCreated(record) = &mut proposal.events[0] {
        record.slug = slug(name);
    }
    proposal.conditions = vec![Condition::NameFree { owner: "owner".to_owned(), slug: slug(name) }];
    proposal
}

fn moved(number: u64, id: u64, old: Option<ObjectId>, new: ObjectId) -> Proposal {
    let name = "main".to_owned();
    let seen = Condition::RefIs { repo: repo(id), name: name.clone(), head: old };
    let updates = vec![RefUpdate { name, old, new: Some(new), forced: false }];
    proposal(number, vec![seen], vec![EventBody::RefsUpdated(RefsUpdated { repo: repo(id), updates })])
}

/// No proposal takes longer; a lost answer fails the test instead of hanging it.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
