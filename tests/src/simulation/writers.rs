//! Those who use the engine: proposals of every kind, right and wrong ones, groups, repeats, packs, readers, restarts.
//!
//! Invariants: what is proposed follows from the dice and from what the model knows; every answer goes to the model before
//! anything else happens.

use std::{sync::mpsc, time::Duration};

use reprise_engine::{
    engine::{Condition, Engine, Outcome, Proposal},
    event::{EventBody, RefUpdate, RefsUpdated, ReleasePublished, ReleaseRetracted, RepoDeleted},
    id::{ObjectId, Position, RepoId},
};

use super::World;
use crate::faults::{
    run::store_pack,
    script::{self, noise, object, proposal, push, record, tagged, token},
};

impl World {
    /// Starts the engine, compares what it recovered.
    pub(super) fn open(&mut self) -> Result<String, String> {
        loop {
            let Some((report, refused)) = self.life.open()? else {
                self.story.counts.crashes += 1;
                self.story.counts.faults += 1;
                self.life.power_loss(&self.dice);
                continue;
            };
            self.story.counts.reopened += refused;
            let before = self.life.faults();
            let engine = self.life.engine()?;
            match self.model.reconcile(&engine) {
                Ok(happened) => {
                    self.story.counts.happened += u64::from(happened);
                    return Ok(format!("{} events, {:?}", report.durable.position, report.tail));
                }
                // A fault met the reader, not the log: the next opening looks again. What is unknown stays so.
                Err(_) if self.life.faults() > before && !self.life.machine_stopped() => self.life.kill(),
                Err(_) if self.life.machine_stopped() => drop(self.life.power_loss(&self.dice)),
                Err(wrong) => return Err(wrong),
            }
        }
    }

    /// One proposal, alone.
    pub(super) fn propose_one(&mut self) -> Result<String, String> {
        let proposal = self.fresh();
        let what = name_of(&proposal);
        Ok(format!("{what}: {}", self.propose(vec![proposal])?))
    }

    /// Several that are decided one after another and written together: each may rely on the ones before it, or contradict.
    pub(super) fn propose_group(&mut self) -> Result<String, String> {
        let proposals: Vec<Proposal> = (0..self.dice.between(2, 6)).map(|_| self.fresh()).collect();
        self.story.counts.groups += 1;
        let count = proposals.len();
        Ok(format!("{count} together: {}", self.propose(proposals)?))
    }

    /// A push id that was used: for the same, for something else, or for what nobody knows yet.
    pub(super) fn propose_again(&mut self) -> Result<String, String> {
        let known = self.model.log.len() as u64;
        let mut again = match self.model.unknown.first() {
            Some(unknown) => unknown.clone(),
            None if known == 0 => return Ok("nothing to repeat".to_owned()),
            None => self.model.log[self.dice.below(known) as usize].proposal.clone(),
        };
        if self.dice.chance(20) {
            again.fingerprint ^= 1;
        }
        Ok(format!("again: {}", self.propose(vec![again])?))
    }

    /// Bytes first, then the event that names them, with the branch that needs them.
    pub(super) fn push_pack(&mut self) -> Result<String, String> {
        let (Some(repo), number) = (self.some_repo(), self.number()) else { return self.propose_one() };
        let engine = self.life.engine()?;
        let blobs: Vec<Vec<u8>> = (0..self.dice.between(1, 4))
            .map(|blob| noise(number * 8 + blob, self.dice.below(1_500) as usize).into_bytes())
            .collect();
        let faults = self.life.faults();
        let received = match store_pack(&engine, &blobs, repo, push(number)) {
            Ok(received) => received,
            Err(_) if self.life.faults() > faults => return Ok("a pack could not be stored".to_owned()),
            Err(error) => return Err(format!("storing a pack without a fault: {error}")),
        };
        let name = self.branch();
        let update = self.update(repo, name);
        let seen = Condition::RefIs { repo, name: update.name.clone(), head: update.old };
        let moved = EventBody::RefsUpdated(RefsUpdated { repo, updates: vec![update] });
        let events = vec![EventBody::ObjectsReceived(received), moved];
        Ok(format!("push: {}", self.propose(vec![proposal(number, vec![seen], events)])?))
    }

    /// Answers come in the order of the proposals: the first one's answer proposes the others.
    fn propose(&mut self, proposals: Vec<Proposal>) -> Result<String, String> {
        let engine = self.life.engine()?;
        let (faults, was_poisoned) = (self.life.faults(), engine.read_only().is_some());
        let (sender, answers) = mpsc::channel();
        let reply = |index: usize| {
            let sender = sender.clone();
            move |outcome: Outcome| drop(sender.send((index, outcome)))
        };
        let rest = proposals.iter().enumerate().skip(1);
        let rest: Vec<_> = rest.map(|(index, proposal)| (proposal.clone(), reply(index))).collect();
        let (first, again) = (reply(0), engine.clone());
        let then = move |outcome| {
            first(outcome);
            rest.into_iter().for_each(|(proposal, reply)| again.propose(proposal, Box::new(reply)));
        };
        engine.propose(proposals[0].clone(), Box::new(then));
        drop(sender);
        let mut answers: Vec<(usize, Outcome)> = answers.iter().collect();
        answers.sort_by_key(|(index, _)| *index);
        if answers.len() != proposals.len() {
            return Err(format!("{} answers to {} proposals", answers.len(), proposals.len()));
        }
        self.story.counts.faults += (self.life.faults() - faults) as u64;
        if engine.read_only().is_some() && self.life.faults() == 0 {
            return Err("the log became read-only without a fault".to_owned());
        }
        let excused = was_poisoned || self.life.faults() > faults;
        let answers = proposals.into_iter().zip(answers.into_iter().map(|(_, outcome)| outcome)).collect();
        self.model.settle(answers, excused, &mut self.story.counts)
    }

    /// A reader starts somewhere and reads a while; what it is given must have been acknowledged.
    pub(super) fn read_on(&mut self) -> Result<String, String> {
        let engine = self.life.engine()?;
        let from = Position(self.dice.between(1, self.model.len() + 1));
        let faults = self.life.faults();
        let read = self.read_from(&engine, from);
        self.story.counts.faults += (self.life.faults() - faults) as u64;
        match read {
            Ok(count) => Ok(format!("{count} events read from {from}")),
            Err(_) if self.life.faults() > faults => Ok(format!("reading from {from} met a fault")),
            Err(wrong) => Err(format!("reading from {from}: {wrong}")),
        }
    }

    fn read_from(&mut self, engine: &Engine, from: Position) -> Result<u64, String> {
        let mut follower = engine.follow(from).map_err(|error| error.to_string())?;
        let (mut next, mut count) = (None, 0);
        for _ in 0..self.dice.between(1, 30) {
            let Some(group) = follower.next(Duration::ZERO).map_err(|error| error.to_string())? else { break };
            for event in group.events.iter() {
                if next.is_some_and(|next| next != event.position) {
                    return Err(format!("a gap before {}", event.position));
                }
                self.model.check_event(event)?;
                next = Some(event.position.next());
                count += 1;
            }
        }
        self.story.counts.read += count;
        Ok(count)
    }

    /// A whole new index beside the old one takes over.
    pub(super) fn rebuild(&mut self) -> Result<String, String> {
        let (told, switched) = self.index.rebuild(&self.life, &self.dice)?;
        self.story.counts.rebuilds += u64::from(switched);
        Ok(told)
    }

    pub(super) fn shut_down(&mut self) -> Result<String, String> {
        self.index.flush()?;
        let faults = self.life.faults();
        let healthy = self.life.engine()?.read_only().is_none();
        let closed = self.life.shut_down();
        if healthy && !closed && self.life.faults() == faults {
            return Err("a shutdown without a fault left no mark".to_owned());
        }
        if self.life.machine_stopped() {
            return self.power_loss();
        }
        self.story.counts.shutdowns += u64::from(closed);
        self.index.restarted(true, &self.dice)?;
        Ok(format!("shut down, opened: {}", self.open()?))
    }

    pub(super) fn kill(&mut self) -> Result<String, String> {
        self.life.kill();
        self.story.counts.crashes += 1;
        self.index.restarted(false, &self.dice)?;
        Ok(format!("killed, opened: {}", self.open()?))
    }

    pub(super) fn power_loss(&mut self) -> Result<String, String> {
        let survival = self.life.power_loss(&self.dice);
        self.story.counts.crashes += 1;
        self.index.restarted(false, &self.dice)?;
        Ok(format!("power lost ({survival:?}), opened: {}", self.open()?))
    }

    // ---- what is proposed --------------------------------------------------------------------------------------------

    fn number(&mut self) -> u64 {
        self.pushes += 1;
        self.pushes
    }

    fn some_repo(&self) -> Option<RepoId> {
        let live: Vec<RepoId> = self.model.state.live.keys().copied().collect();
        let gone: Vec<RepoId> = self.model.state.gone.iter().copied().collect();
        let from = if !gone.is_empty() && (live.is_empty() || self.dice.chance(6)) { &gone } else { &live };
        (!from.is_empty()).then(|| *self.dice.pick(from))
    }

    fn branch(&self) -> String {
        (*self.dice.pick(&["main", "main", "feat", "feat/x", "feat/x/y", "b"])).to_owned()
    }

    /// A move of a branch, mostly from where it is.
    fn update(&self, repo: RepoId, name: String) -> RefUpdate {
        let head = self.model.state.live.get(&repo).and_then(|state| state.heads.get(&name).copied());
        let old = if self.dice.chance(85) { head } else { self.dice.chance(50).then(|| self.some_object()) };
        let new = (old.is_none() || self.dice.chance(80)).then(|| self.some_object());
        RefUpdate { name, old, new, forced: self.dice.chance(20) }
    }

    fn some_object(&self) -> ObjectId {
        object(self.dice.below(500))
    }

    /// A proposal of any kind with a push id of its own.
    fn fresh(&mut self) -> Proposal {
        let number = self.number();
        let Some(repo) = self.some_repo() else { return self.create(number) };
        let live = Condition::RepoLive(repo);
        match self.dice.below(20) {
            0..=3 => self.create(number),
            4 => {
                let (owner, slug) =
                    self.model.state.live.get(&repo).map_or_else(Default::default, |state| state.name.clone());
                proposal(number, vec![live], vec![EventBody::RepoDeleted(RepoDeleted { repo, owner, slug })])
            }
            5 => proposal(number, vec![live], vec![EventBody::TagsSet(tagged(repo, number))]),
            6 | 7 => {
                let tag = format!("v{}", self.dice.below(3));
                let exists = self.dice.chance(50);
                let condition = Condition::ReleaseExists { repo, tag: tag.clone(), exists };
                let event = if exists {
                    EventBody::ReleaseRetracted(ReleaseRetracted { repo, tag })
                } else {
                    EventBody::ReleasePublished(ReleasePublished {
                        repo,
                        tag,
                        channel: "stable".to_owned(),
                        is_draft: false,
                        record: noise(number, 200).into_bytes(),
                    })
                };
                proposal(number, vec![condition], vec![event])
            }
            8 => script::proposal(number, vec![], vec![token(number)]),
            _ => {
                let name = self.branch();
                let update = self.update(repo, name);
                let seen = Condition::RefIs { repo, name: update.name.clone(), head: update.old };
                let conditions = if self.dice.chance(60) { vec![live, seen] } else { vec![] };
                proposal(number, conditions, vec![EventBody::RefsUpdated(RefsUpdated { repo, updates: vec![update] })])
            }
        }
    }

    /// A repository with one of a few names; large ones fill segments.
    fn create(&self, number: u64) -> Proposal {
        let padding = if self.dice.chance(50) { self.dice.below(3_000) } else { 0 };
        let mut record = record(number, padding as usize);
        record.slug = format!("repo-{}", self.dice.below(5));
        let free = Condition::NameFree { owner: record.owner.clone(), slug: record.slug.clone() };
        let conditions = if self.dice.chance(70) { vec![free] } else { vec![] };
        proposal(number, conditions, vec![EventBody::RepoCreated(record)])
    }
}

fn name_of(proposal: &Proposal) -> &'static str {
    match proposal.events.first() {
        Some(EventBody::RepoCreated(_)) => "create",
        Some(EventBody::RepoDeleted(_)) => "delete",
        Some(EventBody::RefsUpdated(_)) => "move",
        Some(EventBody::TagsSet(_)) => "tag",
        Some(EventBody::TokenIssued(_)) => "token",
        _ => "release",
    }
}
