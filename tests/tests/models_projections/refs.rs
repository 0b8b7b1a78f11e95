//! Branches: made, moved forwards and by force, deleted, under the conditions that pushes state, against a map from name to head.
//!
//! The model knows three rules: a condition and an `old` must be what is there; no branch name is a path prefix of another; a
//! proposal is taken wholly or not at all. Whether a move is a fast-forward is the hub's question: both look alike here.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, rngs::StdRng};
use reprise_engine::{
    engine::{Condition, Outcome, Proposal, Reason},
    event::{EventBody, RefUpdate, RefsUpdated},
    id::{Kind, ObjectId, Position, RepoId},
};
use reprise_tests::{effort::Effort, history::pooled, seeds};

use super::stepped::{Repos, Stepped};

/// Branches of a repository: head, and where it last moved.
type Heads = BTreeMap<String, (ObjectId, Position)>;

#[test]
fn branches_are_what_a_map_says_after_every_step() {
    let mut refused = 0;
    for number in Effort::of("T17 refs = map", 256) {
        let (random, log) = (seeds::random(number, STREAM), Stepped::new(number));
        let mut case = Case { random, log, repos: Repos::new(), sent: Vec::new(), refused: 0 };
        for _ in 0..case.random.random_range(1..=100) {
            case.step();
            case.check();
        }
        refused += case.refused;
    }
    assert!(refused > 500, "only {refused} proposals were refused: nothing was tested");
}

struct Case {
    random: StdRng,
    log: Stepped,
    repos: Repos<Heads>,
    /// What was taken, and what was answered.
    sent: Vec<(Proposal, Outcome)>,
    refused: u32,
}

impl Case {
    fn step(&mut self) {
        let Some(repo) = pick(&mut self.random, &self.repos.live.keys().copied().collect::<Vec<_>>()) else {
            return self.repos.create(&mut self.log);
        };
        match self.random.random_range(0..40) {
            0 => self.repos.create(&mut self.log),
            1 => self.repos.delete(&mut self.log, repo),
            2 => self.send_again(),
            3 => self.reuse(),
            4 => self.move_of_no_repository(),
            _ => self.move_branches(repo),
        }
    }

    fn move_branches(&mut self, repo: RepoId) {
        let updates = self.updates(repo);
        let conditions = self.conditions(repo, &updates);
        let taken = allows(&self.repos.live[&repo], &conditions, &updates);
        let events = vec![EventBody::RefsUpdated(RefsUpdated { repo, updates: updates.clone() })];
        let proposal = self.log.proposal(conditions, events);
        let outcome = self.log.propose(proposal.clone());
        match outcome {
            Outcome::Done { first, repeated: false, .. } if taken => {
                apply(self.repos.live.get_mut(&repo).unwrap(), &updates, first);
                self.sent.push((proposal, outcome));
            }
            Outcome::NotDone(Reason::Condition(_) | Reason::RefNameClash { .. }) if !taken => self.refused += 1,
            other => panic!("{other:?}, although the map says {taken}: {proposal:?}, {:?}", self.repos.live[&repo]),
        }
    }

    /// One to three branches; mostly their heads are known, sometimes an older one or none is thought to be there.
    fn updates(&mut self, repo: RepoId) -> Vec<RefUpdate> {
        let names: BTreeSet<&str> =
            (0..self.random.random_range(1..4)).map(|_| NAMES[self.random.random_range(0..NAMES.len())]).collect();
        let (random, heads) = (&mut self.random, &self.repos.live[&repo]);
        let update = |name: &str| {
            let present = heads.get(name).map(|(head, _)| *head);
            let old = if random.random_bool(0.9) { present } else { any_head(random) };
            let new = if random.random_bool(0.1) { old } else { any_head(random) };
            RefUpdate { name: name.to_owned(), old, new, forced: random.random() }
        };
        names.into_iter().map(update).collect()
    }

    fn conditions(&mut self, repo: RepoId, updates: &[RefUpdate]) -> Vec<Condition> {
        let mut conditions = vec![Condition::RepoLive(repo)];
        if self.random.random_bool(0.05) {
            conditions.push(Condition::NoRefs(repo));
        }
        for update in updates {
            if self.random.random() {
                let head = if self.random.random_bool(0.9) { update.old } else { any_head(&mut self.random) };
                conditions.push(Condition::RefIs { repo, name: update.name.clone(), head });
            }
        }
        conditions
    }

    /// A client that heard no answer asks again: it gets the first one, and nothing happens.
    fn send_again(&mut self) {
        let Some((proposal, before)) = pick(&mut self.random, &self.sent) else { return };
        let Outcome::Done { first, last, .. } = before else { panic!("{before:?} was noted as taken") };
        assert_eq!(self.log.propose(proposal), Outcome::Done { first, last, repeated: true });
    }

    fn reuse(&mut self) {
        let Some((mut proposal, _)) = pick(&mut self.random, &self.sent) else { return };
        proposal.fingerprint ^= 1;
        assert_eq!(self.log.propose(proposal), Outcome::NotDone(Reason::PushIdReused));
        self.refused += 1;
    }

    fn move_of_no_repository(&mut self) {
        let Some(repo) = pick(&mut self.random, &self.repos.gone) else { return };
        let update = RefUpdate { name: "main".to_owned(), old: None, new: any_head(&mut self.random), forced: false };
        let event = EventBody::RefsUpdated(RefsUpdated { repo, updates: vec![update] });
        let proposal = self.log.proposal(Vec::new(), vec![event]);
        assert_eq!(self.log.propose(proposal), Outcome::NotDone(Reason::Condition(Condition::RepoLive(repo))));
        self.refused += 1;
    }

    fn check(&self) {
        let view = self.log.view();
        self.repos.check(&view);
        for (repo, heads) in &self.repos.live {
            let scope = view.repo(*repo).unwrap().unwrap().scope();
            let shown = view.refs(scope).unwrap().into_iter().map(|row| (row.name, (row.head, row.position)));
            assert_eq!(&shown.collect::<Heads>(), heads);
            for name in NAMES {
                let row = view.reference(scope, name).unwrap();
                assert_eq!(row.map(|row| (row.head, row.position)).as_ref(), heads.get(name), "{name}");
            }
        }
    }
}

fn allows(heads: &Heads, conditions: &[Condition], updates: &[RefUpdate]) -> bool {
    let present = |name: &str| heads.get(name).map(|(head, _)| *head);
    let holds = |condition: &Condition| match condition {
        Condition::RefIs { name, head: None, .. } => {
            present(name).is_none() && !heads.keys().any(|other| clash(name, other))
        }
        Condition::RefIs { name, head, .. } => present(name) == *head,
        Condition::NoRefs(_) => heads.is_empty(),
        _ => true,
    };
    let mut after = heads.clone();
    apply(&mut after, updates, Position::ZERO);
    let apart = after.keys().all(|one| !after.keys().any(|other| clash(one, other)));
    conditions.iter().all(holds) && updates.iter().all(|update| present(&update.name) == update.old) && apart
}

fn apply(heads: &mut Heads, updates: &[RefUpdate], at: Position) {
    for update in updates.iter().filter(|update| update.old != update.new) {
        match update.new {
            Some(head) => drop(heads.insert(update.name.clone(), (head, at))),
            None => drop(heads.remove(&update.name)),
        }
    }
}

fn clash(one: &str, other: &str) -> bool {
    let above = |one: &str, other: &str| other.strip_prefix(one).is_some_and(|rest| rest.starts_with('/'));
    above(one, other) || above(other, one)
}

fn any_head(random: &mut StdRng) -> Option<ObjectId> {
    let number = random.random_range(0..6);
    (number > 0).then(|| pooled(number, Kind::Commit))
}

fn pick<T: Clone>(random: &mut StdRng, from: &[T]) -> Option<T> {
    (!from.is_empty()).then(|| from[random.random_range(0..from.len())].clone())
}

const NAMES: [&str; 7] = ["dev", "feat", "feat-x", "feat/x", "feat/x/y", "feat/z", "main"];
const STREAM: u64 = 0x5246;
