//! A log that other servers write too: looking what they wrote, adopting it, deciding again on it.
//!
//! Invariants: a group of theirs is adopted only where it follows what is here, with the chain it should have; a refusal is
//! answered only on a state that was the newest after its proposal came.

use super::{
    After, Doing, Looked, Output, WriterCore,
    group::{Kept, Pending},
};
use crate::{
    engine::{Outcome, Proposal, Reason},
    event::Event,
    id::{ChainHash, PushId},
    log::{scan::RawGroup, slot::ServerId},
    planted::{self, PlantedBug},
};

/// Another server's group on its way into the local copy.
pub(super) struct Adoption {
    pub(super) events: Vec<(Event, u64)>,
    pub(super) bytes: u64,
    pub(super) end: u64,
    pub(super) chain: ChainHash,
    pub(super) time_ms: u64,
    server: Option<ServerId>,
}

impl WriterCore {
    pub(super) fn taken(&mut self) {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Append(pending) => {
                let mut pending = *pending;
                self.undo(&mut pending);
                self.decide_again(pending);
            }
            other => self.doing = other,
        }
    }

    pub(super) fn unsure(&mut self, why: String, out: &mut Vec<Output>) {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Append(mut pending) => {
                let unavailable = Reason::Unavailable(why);
                // No slot of ours proves that the state was the newest.
                for asked in pending.asked.iter_mut().filter(|asked| matches!(asked.outcome, Outcome::NotDone(_))) {
                    asked.outcome = Outcome::NotDone(unavailable.clone());
                }
                self.take_back(*pending, &|push| unsure(push, &unavailable), out);
                self.refuse_waiting(&unavailable, out);
            }
            other => self.doing = other,
        }
    }

    /// Puts the proposals of a group back, in their order, behind a look at what others wrote.
    pub(super) fn decide_again(&mut self, pending: Pending) {
        let mut events = pending.events.into_iter();
        let again = pending.asked.into_iter().filter_map(|asked| match asked.kept? {
            Kept::Refused(proposal) => Some((asked.ticket, proposal)),
            Kept::Accepted(proposal, count) => {
                let events = events.by_ref().take(count).map(|event| event.body).collect();
                Some((asked.ticket, Proposal { events, ..proposal }))
            }
        });
        let again: Vec<_> = again.collect();
        again.into_iter().rev().for_each(|asked| self.waiting.push_front(asked));
        (self.behind, self.fresh) = (true, false);
    }

    pub(super) fn looked(&mut self, looked: Result<Looked, Reason>, out: &mut Vec<Output>) {
        if !matches!(self.doing, Doing::Look) {
            return;
        }
        self.doing = Doing::Nothing;
        match looked {
            Ok(looked) => {
                self.turns.looked();
                (self.behind, self.fresh) = (looked.after == After::More, looked.after == After::Nothing);
                self.adopting.extend(looked.groups);
            }
            Err(reason) => self.refuse_waiting(&reason, out),
        }
    }

    pub(super) fn answer_looks(&mut self, out: &mut Vec<Output>) {
        if self.fresh && self.adopting.is_empty() {
            let end = self.durable.position;
            out.extend(self.looks.drain(..).map(|ticket| Output::ReplyLook(ticket, Ok(end))));
        }
    }

    pub(super) fn begin_adoption(&mut self, group: &RawGroup, out: &mut Vec<Output>) {
        let follows = (group.first, group.sequence) == (self.durable.position.next(), self.sequence);
        let mut bytes = Vec::new();
        let chain = group.frames(&mut bytes, &self.active.salt, self.durable.chain);
        let events = match group.decode_events() {
            Ok(events) if follows && chain == group.chain => events,
            Ok(_) => {
                return self
                    .poison(format!("{}: the group does not follow {}", group.file, self.durable.position), out);
            }
            Err(error) => return self.poison(error.to_string(), out),
        };
        let end = self.active.end + bytes.len() as u64;
        let stored = group.bodies.iter().map(|body| body.bytes.len() as u64).sum();
        out.push(Output::Adopt { offset: self.active.end, bytes });
        self.doing = Doing::Adopt(Box::new(Adoption {
            events,
            bytes: stored,
            end,
            chain,
            time_ms: group.time_ms,
            server: group.server,
        }));
    }

    pub(super) fn adopt(&mut self, adoption: Adoption, out: &mut Vec<Output>) {
        let mut undo = Vec::new();
        for (event, fingerprint) in &adoption.events {
            self.state.fold(event, &mut undo);
            undo.clear();
            self.pushes.note(event.push, *fingerprint, event.position);
        }
        self.turns.they_wrote(adoption.server, self.now_ms);
        let events = adoption.events.into_iter().map(|(event, _)| event).collect();
        self.advance(events, adoption.bytes, (adoption.end, adoption.chain, adoption.time_ms), out);
    }
}

/// The answer to a proposal whose slot got none.
fn unsure(push: PushId, why: &Reason) -> Outcome {
    if planted::is(PlantedBug::SilenceTakenForRefusal) {
        return Outcome::NotDone(why.clone());
    }
    Outcome::Unknown(push)
}
