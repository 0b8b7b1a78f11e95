//! What must be true: every proposal with what is known of it, and repositories, branches and releases as plain maps.
//!
//! Invariants: an answer is checked against the maps when it is given; what was acknowledged is in the log for ever, at
//! its place; what is unknown belongs to one group, which is found wholly or not at all, behind everything acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use reprise_engine::{
    engine::{Condition, Engine, Outcome, Proposal, Reason},
    event::{EventBody, RefUpdate},
    id::{ObjectId, PushId, RepoId},
    pack,
};

use super::Counts;
use crate::faults::run::read_all;

/// What is known.
#[derive(Default)]
pub struct Model {
    /// Everything acknowledged, or found to have happened, in the order of the log.
    pub log: Vec<Logged>,
    /// The last group, if nobody knows what became of it.
    pub unknown: Vec<Proposal>,
    /// What follows from the log.
    pub state: State,
    events: Vec<(PushId, EventBody)>,
}

/// A proposal in the log.
#[derive(Clone)]
pub struct Logged {
    /// As proposed.
    pub proposal: Proposal,
    /// Position of its first event.
    pub first: u64,
}

/// Plain maps.
#[derive(Clone, Default)]
pub struct State {
    /// Live repositories.
    pub live: BTreeMap<RepoId, Repo>,
    /// Those that are gone.
    pub gone: BTreeSet<RepoId>,
}

/// A live repository.
#[derive(Clone, Default)]
pub struct Repo {
    /// Its name.
    pub name: (String, String),
    /// Its branches.
    pub heads: BTreeMap<String, ObjectId>,
    /// Tags of its releases.
    pub releases: BTreeSet<String>,
}

impl Model {
    /// How many events are known to be in the log.
    pub fn len(&self) -> u64 {
        self.events.len() as u64
    }

    /// Checks the answers to proposals that were made in this order, and learns from them. `excused`: the disk was in
    /// trouble, so that something may not have been appended.
    pub fn settle(
        &mut self,
        answers: Vec<(Proposal, Outcome)>,
        excused: bool,
        counts: &mut Counts,
    ) -> Result<String, String> {
        let mut told = Vec::new();
        // What the writer decided on. A group without room is taken back, but who was refused on it was refused; and who had
        // no room may not have been decided on at all.
        let mut decided = self.state.clone();
        let mut taken_back = false;
        for (proposal, outcome) in answers {
            let allowed = decided.allows(&proposal);
            let either = |wanted: bool| allowed == wanted || taken_back && self.state.allows(&proposal) == wanted;
            told.push(short(&outcome));
            match &outcome {
                Outcome::Done { first, last, repeated: false } => {
                    let end = first.0 + proposal.events.len() as u64 - 1;
                    if !either(true) || first.0 != self.len() + 1 || last.0 != end || self.find(proposal.push).is_some()
                    {
                        return Err(format!("{outcome:?} for {proposal:?} behind {} events", self.len()));
                    }
                    decided.apply(&proposal);
                    self.add(proposal);
                    counts.acknowledged += 1;
                }
                Outcome::Done { first, last, repeated: true } => {
                    let at = self.find(proposal.push).filter(|at| at.proposal.fingerprint == proposal.fingerprint);
                    let place = at.map(|at| (at.first, at.first + at.proposal.events.len() as u64 - 1));
                    if place != Some((first.0, last.0)) {
                        return Err(format!("{outcome:?} for a repeat of {place:?}"));
                    }
                    counts.repeated += 1;
                }
                Outcome::NotDone(Reason::PushIdReused) => {
                    let known = self.find(proposal.push).map(|at| at.proposal.fingerprint);
                    let unknown = self.unknown.iter().any(|other| other.push == proposal.push);
                    if !unknown && known.is_none_or(|fingerprint| fingerprint == proposal.fingerprint) {
                        return Err(format!("a push id was called used: {proposal:?}"));
                    }
                    counts.refused += 1;
                }
                Outcome::NotDone(Reason::Condition(_) | Reason::RefNameClash { .. }) => {
                    if !either(false) {
                        return Err(format!("{outcome:?}, but it holds: {proposal:?}"));
                    }
                    counts.refused += 1;
                }
                Outcome::NotDone(Reason::Full | Reason::ReadOnly(_)) if excused => {
                    if matches!(outcome, Outcome::NotDone(Reason::Full)) && allowed {
                        decided.apply(&proposal);
                        taken_back = true;
                    }
                    counts.hindered += 1;
                }
                Outcome::Unknown(push) if excused && *push == proposal.push => {
                    if !either(true) {
                        return Err(format!("written although it must be refused: {proposal:?}"));
                    }
                    decided.apply(&proposal);
                    self.unknown.push(proposal);
                    counts.unknown += 1;
                }
                other => return Err(format!("{other:?} without a reason")),
            }
        }
        Ok(told.join(" "))
    }

    /// After a restart: compares the log with what is known, and learns what became of the unknown. True if it happened.
    pub fn reconcile(&mut self, engine: &Engine) -> Result<bool, String> {
        let found = engine.durable().position.0;
        let more: u64 = self.unknown.iter().map(|proposal| proposal.events.len() as u64).sum();
        let happened = more > 0 && found == self.len() + more;
        if happened {
            std::mem::take(&mut self.unknown).into_iter().for_each(|proposal| self.add(proposal));
        } else if found != self.len() {
            return Err(format!("{} events acknowledged, {more} unknown, {found} recovered", self.len()));
        }
        self.check_log(engine)?;
        // Known by now: what did not happen never will.
        self.unknown.clear();
        Ok(happened)
    }

    /// The log is what is known, event by event.
    pub fn check_log(&self, engine: &Engine) -> Result<(), String> {
        let events = read_all(engine).map_err(|error| format!("reading the log: {error}"))?;
        if events.len() != self.events.len() {
            return Err(format!("{} events in the log, {} known", events.len(), self.events.len()));
        }
        for (index, event) in events.iter().enumerate() {
            self.check_event(event)?;
            if index > 0 && events[index - 1].time_ms > event.time_ms {
                return Err(format!("event {} is older than the one before it", event.position));
            }
        }
        Ok(())
    }

    /// An event that somebody was given is the one that was acknowledged there.
    pub fn check_event(&self, event: &reprise_engine::event::Event) -> Result<(), String> {
        match self.events.get(event.position.0 as usize - 1) {
            Some((push, body)) if *push == event.push && *body == event.body => Ok(()),
            Some(_) => Err(format!("event {} is not what was acknowledged", event.position)),
            None => Err(format!("event {} was shown before it was acknowledged", event.position)),
        }
    }

    /// Every pack that the log names is there, whole.
    pub fn check_packs(&self, engine: &Engine) -> Result<(), String> {
        for (_, body) in &self.events {
            let EventBody::ObjectsReceived(received) = body else { continue };
            let mut damaged = Vec::new();
            pack::verify(&**engine.store(), received.pack, &mut |kind, id, what| {
                damaged.push(format!("{kind} {id}: {what}"));
            })
            .map_err(|error| format!("pack {} is named by the log: {error}", received.pack))?;
            if !damaged.is_empty() {
                return Err(format!("pack {}: {damaged:?}", received.pack));
            }
        }
        Ok(())
    }

    fn add(&mut self, proposal: Proposal) {
        let first = self.len() + 1;
        self.events.extend(proposal.events.iter().map(|event| (proposal.push, event.clone())));
        self.state.apply(&proposal);
        self.log.push(Logged { proposal, first });
    }

    fn find(&self, push: PushId) -> Option<&Logged> {
        self.log.iter().find(|logged| logged.proposal.push == push)
    }
}

impl State {
    /// Whether a proposal must be taken.
    fn allows(&self, proposal: &Proposal) -> bool {
        let mut after = self.clone();
        proposal.conditions.iter().all(|condition| self.holds(condition))
            && proposal.events.iter().all(|event| {
                let fine = after.takes(event);
                after.apply_event(event);
                fine
            })
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::NameFree { owner, slug } => self.holder(owner, slug).is_none(),
            Condition::RepoLive(repo) => self.live.contains_key(repo),
            Condition::RefIs { repo, name, head } => self.live.get(repo).is_some_and(|state| {
                state.heads.get(name) == head.as_ref() && (head.is_some() || !clashes(&state.heads, name))
            }),
            Condition::ReleaseExists { repo, tag, exists } => {
                self.live.get(repo).is_some_and(|state| state.releases.contains(tag) == *exists)
            }
            other => panic!("no story has the condition {other:?}"),
        }
    }

    fn takes(&self, event: &EventBody) -> bool {
        match event {
            EventBody::RepoCreated(record) => {
                let known = self.live.contains_key(&record.repo) || self.gone.contains(&record.repo);
                !known && self.holder(&record.owner, &record.slug).is_none()
            }
            EventBody::RepoDeleted(fact) => self.live.contains_key(&fact.repo),
            EventBody::ObjectsReceived(fact) => self.live.contains_key(&fact.repo),
            EventBody::TagsSet(fact) => self.live.contains_key(&fact.repo),
            EventBody::ReleasePublished(fact) => self.live.contains_key(&fact.repo),
            EventBody::ReleaseRetracted(fact) => self.live.contains_key(&fact.repo),
            EventBody::RefsUpdated(fact) => self.live.get(&fact.repo).is_some_and(|state| {
                let fits = |update: &RefUpdate| {
                    let new_name = update.new.is_some() && !state.heads.contains_key(&update.name);
                    state.heads.get(&update.name) == update.old.as_ref()
                        && !(new_name && clashes(&state.heads, &update.name))
                };
                fact.updates.iter().all(fits)
            }),
            EventBody::TokenIssued(_) => true,
            other => panic!("no story has the event {other:?}"),
        }
    }

    fn apply(&mut self, proposal: &Proposal) {
        proposal.events.iter().for_each(|event| self.apply_event(event));
    }

    fn apply_event(&mut self, event: &EventBody) {
        match event {
            EventBody::RepoCreated(record) => {
                let name = (record.owner.clone(), record.slug.clone());
                self.live.insert(record.repo, Repo { name, ..Repo::default() });
            }
            EventBody::RepoDeleted(fact) => {
                self.live.remove(&fact.repo);
                self.gone.insert(fact.repo);
            }
            EventBody::RefsUpdated(fact) => {
                let Some(state) = self.live.get_mut(&fact.repo) else { return };
                for update in &fact.updates {
                    match update.new {
                        Some(new) => drop(state.heads.insert(update.name.clone(), new)),
                        None => drop(state.heads.remove(&update.name)),
                    }
                }
            }
            EventBody::ReleasePublished(fact) => {
                let Some(state) = self.live.get_mut(&fact.repo) else { return };
                state.releases.insert(fact.tag.clone());
            }
            EventBody::ReleaseRetracted(fact) => {
                let Some(state) = self.live.get_mut(&fact.repo) else { return };
                state.releases.remove(&fact.tag);
            }
            _ => {}
        }
    }

    fn holder(&self, owner: &str, slug: &str) -> Option<RepoId> {
        let named = self.live.iter().find(|(_, state)| state.name.0 == owner && state.name.1 == slug);
        named.map(|(repo, _)| *repo)
    }
}

/// Whether a new branch would lie below an existing one, or above it.
fn clashes(heads: &BTreeMap<String, ObjectId>, name: &str) -> bool {
    let below = |one: &str, other: &str| one.starts_with(&format!("{other}/"));
    heads.keys().any(|other| below(other, name) || below(name, other))
}

fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { first, last, repeated } => format!("{first}-{last}{}", if *repeated { " again" } else { "" }),
        Outcome::NotDone(Reason::Condition(_)) => "refused".to_owned(),
        Outcome::NotDone(reason) => format!("{reason:?}"),
        Outcome::Unknown(_) => "unknown".to_owned(),
    }
}
