//! Deciding waiting proposals into a group, and taking a group back.
//!
//! Invariants: a proposal is judged on everything that was folded before it, its own group included; what was folded for a
//! group is undone in reverse order when the group was not written; the events of a group lie in its frames in order.

use super::{Doing, Output, Ticket, WriterCore};
use crate::{
    decide::Undo,
    engine::{Outcome, Proposal, Reason},
    event::{
        Event,
        codec::{self, EventHeader},
    },
    id::{ChainHash, Position, PushId},
    limits::{FRAME_BYTES_MAX, PROPOSAL_BYTES_MAX},
    log::{
        fields::len32,
        frame::{self, BODY_BYTES_MAX, CONTINUES, Draft},
        push_ids::PushEntry,
    },
    planted::{self, PlantedBug},
};

/// A group on its way to the disk.
pub(super) struct Pending {
    pub(super) asked: Vec<Asked>,
    pub(super) events: Vec<Event>,
    undo: Vec<Undo>,
    pushes: Vec<(PushId, Option<PushEntry>)>,
    bodies: Vec<Body>,
    pub(super) bytes: u64,
    pub(super) end: u64,
    pub(super) chain: ChainHash,
    pub(super) time_ms: u64,
}

/// A proposal that was decided.
pub(super) struct Asked {
    pub(super) ticket: Ticket,
    pub(super) push: PushId,
    pub(super) outcome: Outcome,
    /// In a bucket log: what it takes to decide it again.
    pub(super) kept: Option<Kept>,
}

/// What is kept of a decided proposal.
pub(super) enum Kept {
    /// All of it.
    Refused(Proposal),
    /// All but its events, which stand in the group: this many.
    Accepted(Proposal, usize),
}

/// The events of one frame to be.
#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
    count: u32,
    first: Position,
}

impl WriterCore {
    /// Decides waiting proposals into one group. True if a write is under way now.
    pub(super) fn begin_group(&mut self, out: &mut Vec<Output>) -> bool {
        let mut pending = Pending {
            asked: Vec::new(),
            events: Vec::new(),
            undo: Vec::new(),
            pushes: Vec::new(),
            bodies: Vec::new(),
            bytes: 0,
            end: 0,
            chain: self.durable.chain,
            time_ms: self.time_ms.max(self.now_ms),
        };
        while let Some((ticket, proposal)) = self.waiting.pop_front() {
            let asked = self.decide(ticket, proposal, &mut pending);
            pending.asked.push(asked);
            if pending.bytes >= GROUP_BYTES_TARGET {
                break;
            }
        }
        if pending.events.is_empty() {
            let stale = self.shared.is_some() && !self.fresh && !planted::is(PlantedBug::StaleRefusal);
            if stale && pending.asked.iter().any(|asked| matches!(asked.outcome, Outcome::NotDone(_))) {
                self.decide_again(pending);
            } else {
                out.extend(pending.asked.into_iter().map(|asked| Output::Reply(asked.ticket, asked.outcome)));
            }
            return false;
        }
        let tail = self.tail();
        let bytes = self.frames(&mut pending);
        out.push(Output::Append { offset: self.active.end, bytes, tail, chain: pending.chain });
        self.doing = Doing::Append(Box::new(pending));
        true
    }

    /// Judges one proposal on the state so far and, if it holds, folds it and adds its events to the group.
    fn decide(&mut self, ticket: Ticket, proposal: Proposal, pending: &mut Pending) -> Asked {
        let push = proposal.push;
        match self.judge(&proposal, pending) {
            Ok(encoded) => {
                let (outcome, kept) = self.accept(proposal, encoded, pending);
                Asked { ticket, push, outcome, kept }
            }
            Err(outcome) => {
                let kept = self.shared.map(|_| Kept::Refused(proposal));
                Asked { ticket, push, outcome, kept }
            }
        }
    }

    /// The encoded events of a proposal that holds, else its answer.
    fn judge(&self, proposal: &Proposal, pending: &Pending) -> Result<Vec<Vec<u8>>, Outcome> {
        let next = Position(self.durable.position.0 + pending.events.len() as u64 + 1);
        if let Some(entry) = self.pushes.find(proposal.push, next) {
            if entry.fingerprint != proposal.fingerprint {
                return Err(Outcome::NotDone(Reason::PushIdReused));
            }
            return Err(Outcome::Done { first: entry.first, last: entry.last, repeated: true });
        }
        if proposal.events.is_empty() {
            return Err(Outcome::NotDone(Reason::Invalid("a proposal has at least one event".to_owned())));
        }
        self.state.judge(&proposal.conditions, &proposal.events).map_err(Outcome::NotDone)?;
        encode(proposal, pending.time_ms).map_err(Outcome::NotDone)
    }

    fn accept(
        &mut self,
        mut proposal: Proposal,
        encoded: Vec<Vec<u8>>,
        pending: &mut Pending,
    ) -> (Outcome, Option<Kept>) {
        let first = Position(self.durable.position.0 + pending.events.len() as u64 + 1);
        let mut position = first;
        for (body, bytes) in std::mem::take(&mut proposal.events).into_iter().zip(encoded) {
            pending.add(position, &bytes);
            let (push, actor) = (proposal.push, proposal.actor.clone());
            let event = Event { position, time_ms: pending.time_ms, push, actor, body };
            self.state.fold(&event, &mut pending.undo);
            let before = self.pushes.note(push, proposal.fingerprint, position);
            pending.pushes.push((push, before));
            pending.events.push(event);
            position = position.next();
        }
        let count = usize::try_from(position.0 - first.0).unwrap_or(usize::MAX);
        let kept = self.shared.map(|_| Kept::Accepted(proposal, count));
        (Outcome::Done { first, last: Position(position.0 - 1), repeated: false }, kept)
    }

    /// Builds the frames of a group; notes its end and chain.
    fn frames(&self, pending: &mut Pending) -> Vec<u8> {
        let bodies = std::mem::take(&mut pending.bodies);
        let mut bytes = Vec::with_capacity(bodies.iter().map(|body| frame::frame_len(body.bytes.len())).sum());
        let last = bodies.len() - 1;
        for (at, body) in bodies.iter().enumerate() {
            let flags = if at == last { 0 } else { CONTINUES };
            let (count, first, previous) = (body.count, body.first, pending.chain);
            let draft = Draft { flags, count, first, sequence: self.sequence, time_ms: pending.time_ms, previous };
            pending.chain = frame::append(&mut bytes, &self.active.salt, &draft, &body.bytes);
        }
        pending.end = self.active.end + bytes.len() as u64;
        bytes
    }

    /// Nothing was written: the folds of the group never happened.
    pub(super) fn undo(&mut self, pending: &mut Pending) {
        self.state.undo(std::mem::take(&mut pending.undo));
        for (push, before) in std::mem::take(&mut pending.pushes).into_iter().rev() {
            self.pushes.restore(push, before);
        }
    }

    /// Undoes a group; its accepted proposals are answered otherwise.
    pub(super) fn take_back(
        &mut self,
        mut pending: Pending,
        accepted: &dyn Fn(PushId) -> Outcome,
        out: &mut Vec<Output>,
    ) {
        self.undo(&mut pending);
        answer_lost(pending.asked, self.durable.position, accepted, out);
    }
}

impl Pending {
    /// Adds an encoded event, in a new frame if the present one would grow too large.
    fn add(&mut self, position: Position, event: &[u8]) {
        let bytes = event.len() as u64 + 4;
        let fits = self.bodies.last().is_some_and(|body| body.bytes.len() as u64 + bytes <= BODY_BYTES_MAX);
        if !fits {
            self.bodies.push(Body { first: position, ..Body::default() });
        }
        let last = self.bodies.len() - 1;
        let body = &mut self.bodies[last];
        body.bytes.extend_from_slice(&len32(event.len()).to_le_bytes());
        body.bytes.extend_from_slice(event);
        body.count += 1;
        self.bytes += bytes;
    }
}

/// Answers a group that did not become durable: what was accepted in it, with `accepted`.
pub(super) fn answer_lost(
    asked: Vec<Asked>,
    durable: Position,
    accepted: &dyn Fn(PushId) -> Outcome,
    out: &mut Vec<Output>,
) {
    out.extend(asked.into_iter().map(|asked| match asked.outcome {
        Outcome::Done { last, .. } if last > durable => Output::Reply(asked.ticket, accepted(asked.push)),
        other => Output::Reply(asked.ticket, other),
    }));
}

fn encode(proposal: &Proposal, time_ms: u64) -> Result<Vec<Vec<u8>>, Reason> {
    let header =
        EventHeader { time_ms, push: proposal.push, fingerprint: proposal.fingerprint, actor: proposal.actor.clone() };
    let mut total = 0;
    let mut encoded = Vec::with_capacity(proposal.events.len());
    for event in &proposal.events {
        let mut bytes = Vec::new();
        codec::encode(&header, event, &mut bytes).map_err(|error| Reason::Invalid(error.to_string()))?;
        let len = bytes.len() as u64;
        total += len + 4;
        if len + 4 > BODY_BYTES_MAX {
            return Err(Reason::TooLarge { bytes: len, limit: FRAME_BYTES_MAX });
        }
        if total > PROPOSAL_BYTES_MAX {
            return Err(Reason::TooLarge { bytes: total, limit: PROPOSAL_BYTES_MAX });
        }
        encoded.push(bytes);
    }
    Ok(encoded)
}

/// A group is closed once its events pass this many bytes.
const GROUP_BYTES_TARGET: u64 = 8 << 20;
