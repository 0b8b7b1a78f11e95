//! The single writer as a state machine: take, decide, frame, wait for the sync, publish, reply. No I/O, clock or threads.
//!
//! Invariants: at most one write is under way; nothing is published or answered Done before its sync was reported; a
//! write that did not happen takes every fold of its group back; after a failed sync nothing is written any more (F4).
//! Positions, sequence and chain move only when a write was synced.
//!
//! In a bucket log other servers write too: an [`Output::Append`] may end as [`Input::Taken`], then what they wrote is looked
//! up and adopted, and the proposals are decided again; a refusal is answered only on a state that was the newest after
//! its proposal came; where segments end, and every byte in them, follows from the log alone.

mod group;
mod messages;
mod others;
mod roll;
#[cfg(test)]
mod tests;
mod turns;

use std::{collections::VecDeque, sync::Arc};

use crate::{
    decide::{State, repo_of},
    engine::{Durable, Group, Outcome, Proposal, Reason, SegmentRule},
    event::Event,
    id::{ChainHash, LogId, Position},
    log::{
        footer::{INDEX_BYTES, IndexEntry},
        frame::{self, Draft, MARK},
        header::SegmentHeader,
        push_ids::PushIds,
        scan::RawGroup,
        segment::{Active, roll_slack},
    },
};
use group::{Pending, answer_lost};
pub(crate) use messages::{After, Committed, Handover, Input, Io, Looked, Output, Tail, Ticket};
use others::Adoption;
use roll::Spare;
use turns::Turns;

/// The writer.
pub(crate) struct WriterCore {
    log: LogId,
    segment_bytes: u64,
    segments: u64,
    state: State,
    pushes: PushIds,
    durable: Durable,
    sequence: u64,
    time_ms: u64,
    active: Active,
    spare: Spare,
    doing: Doing,
    health: Health,
    waiting: VecDeque<(Ticket, Proposal)>,
    waiting_roll: bool,
    /// Somebody asked for the segment's end.
    rolling: bool,
    shared: Option<SegmentRule>,
    looks: Vec<Ticket>,
    adopting: VecDeque<RawGroup>,
    /// The end that is known here was the end after everything that waits had come.
    fresh: bool,
    /// Others have written: look before anything is decided.
    behind: bool,
    turns: Turns,
    /// Rolling found no room: not tried again before somebody proposes.
    held_back: bool,
    stopping: bool,
    now_ms: u64,
}

/// The I/O that the writer waits for.
enum Doing {
    Nothing,
    Append(Box<Pending>),
    Look,
    Adopt(Box<Adoption>),
    WaitForSpare,
    Activate(SegmentHeader),
    Seal { first: Position, offset: u64, bytes: Arc<Vec<u8>>, under_way: bool },
    Mark { end: u64 },
    Stopped,
}

enum Health {
    Well,
    ReadOnly(String),
}

impl WriterCore {
    /// A writer at the end of a recovered log.
    pub(crate) fn new(found: Handover, segment_bytes: u64) -> WriterCore {
        WriterCore {
            log: found.log,
            segment_bytes: found.shared.map_or(segment_bytes, |rule| rule.bytes),
            segments: found.segments,
            state: found.state,
            pushes: found.pushes,
            durable: found.durable,
            sequence: found.sequence,
            time_ms: found.time_ms,
            active: found.active,
            spare: Spare::None,
            doing: Doing::Nothing,
            health: Health::Well,
            waiting: VecDeque::new(),
            waiting_roll: false,
            rolling: false,
            shared: found.shared,
            looks: Vec::new(),
            adopting: VecDeque::new(),
            fresh: false,
            behind: false,
            turns: Turns::default(),
            held_back: false,
            stopping: false,
            now_ms: 0,
        }
    }

    /// A writer that refuses everything: the log is damaged.
    pub(crate) fn read_only(found: Handover, why: String) -> WriterCore {
        WriterCore { health: Health::ReadOnly(why), ..WriterCore::new(found, 0) }
    }

    /// True while it waits for [`Output::Prepare`] before it can go on.
    pub(crate) fn waits_for_spare(&self) -> bool {
        matches!(self.doing, Doing::WaitForSpare)
    }

    /// One step: something happened at `now_ms`, these are to be done, in order.
    pub(crate) fn step(&mut self, input: Input, now_ms: u64) -> Vec<Output> {
        self.now_ms = now_ms;
        let mut out = Vec::new();
        match input {
            Input::Proposals(proposals) => {
                (self.held_back, self.fresh) = (false, false);
                if self.waiting.is_empty() {
                    self.turns.woken(now_ms);
                }
                self.waiting.extend(proposals);
            }
            Input::Looks(tickets) => {
                (self.held_back, self.fresh) = (false, false);
                self.looks.extend(tickets);
            }
            // A bucket log's segments end where the log says, on all servers alike.
            Input::Roll => {
                self.rolling = self.shared.is_none() && self.durable.position >= self.active.first && self.is_well()
            }
            Input::Looked(looked) => self.looked(looked, &mut out),
            Input::Appended(io) => self.appended(io, &mut out),
            Input::Taken => self.taken(),
            Input::Unsure(why) => self.unsure(why, &mut out),
            Input::Prepared(io, salt) => self.prepared(io, salt, &mut out),
            Input::Activated(io) => self.activated(io, &mut out),
            Input::Sealed(io) => self.sealed(io, &mut out),
            Input::Damaged(why) if self.is_well() => self.health = Health::ReadOnly(why),
            Input::Damaged(_) => {}
            Input::Shutdown => self.stopping = true,
        }
        self.pump(&mut out);
        out
    }

    /// Starts the next piece of work, if none is under way.
    fn pump(&mut self, out: &mut Vec<Output>) {
        loop {
            if let Health::ReadOnly(why) = &self.health {
                let reason = Reason::ReadOnly(why.clone());
                self.refuse_waiting(&reason, out);
            }
            match &mut self.doing {
                // A footer that found no room is tried again with the next proposals.
                Doing::Seal { first, offset, bytes, under_way } if !*under_way && !self.waiting.is_empty() => {
                    *under_way = true;
                    return out.push(Output::Seal { first: *first, offset: *offset, bytes: bytes.clone() });
                }
                Doing::Nothing => {}
                Doing::Seal { under_way: false, .. } if self.stopping => return self.stop(false, out),
                Doing::Stopped => return self.refuse_waiting(&Reason::Closed, out),
                _ => return,
            }
            self.answer_looks(out);
            if self.stopping && self.is_idle() {
                return self.begin_mark(out);
            }
            if self.is_idle() && self.held_back {
                return;
            }
            if (self.waiting_roll || self.rolling) && self.is_well() {
                return self.begin_roll(out);
            }
            if self.is_idle() {
                return self.prepare_ahead(out);
            }
            if let Some(group) = self.adopting.pop_front() {
                return self.begin_adoption(&group, out);
            }
            let in_turn = self.shared.is_none() || self.turns.is_ours();
            if self.behind || self.waiting.is_empty() || !in_turn {
                self.doing = Doing::Look;
                return out.push(Output::Look { tail: self.tail(), crowded: !in_turn });
            }
            if self.begin_group(out) {
                return;
            }
        }
    }

    /// Nobody waits for anything.
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.looks.is_empty() && self.adopting.is_empty() && !self.rolling
    }

    fn is_well(&self) -> bool {
        matches!(self.health, Health::Well)
    }

    fn refuse_waiting(&mut self, reason: &Reason, out: &mut Vec<Output>) {
        out.extend(self.waiting.drain(..).map(|(ticket, _)| Output::Reply(ticket, Outcome::NotDone(reason.clone()))));
        out.extend(self.looks.drain(..).map(|ticket| Output::ReplyLook(ticket, Err(reason.clone()))));
        // They stand in the bucket, and are looked up again.
        self.adopting.clear();
        self.rolling = false;
    }

    fn poison(&mut self, why: String, out: &mut Vec<Output>) {
        tracing::error!(why, "the log is read-only from now on: what a write left on the disk is not known");
        self.health = Health::ReadOnly(why.clone());
        out.push(Output::Poisoned(why));
        self.doing = Doing::Nothing;
        self.pump(out);
    }

    fn tail(&self) -> Tail {
        Tail {
            next: self.durable.position.next(),
            ordinal: self.sequence,
            chain: self.durable.chain,
            segment: self.active.first,
            salt: self.active.salt,
        }
    }

    fn appended(&mut self, io: Io, out: &mut Vec<Output>) {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Append(pending) => match io {
                Io::Done => self.commit(*pending, out),
                // It stands in the bucket, and its local copy is made when there is room.
                Io::Full if self.shared.is_some() => {
                    self.take_back(*pending, &Outcome::Unknown, out);
                    self.refuse_waiting(&Reason::Full, out);
                    (self.behind, self.fresh, self.held_back) = (true, false, true);
                }
                Io::Full => {
                    self.take_back(*pending, &|_| Outcome::NotDone(Reason::Full), out);
                    self.refuse_waiting(&Reason::Full, out);
                }
                Io::Lost(why) => {
                    answer_lost(pending.asked, self.durable.position, &Outcome::Unknown, out);
                    self.poison(why, out);
                }
            },
            Doing::Adopt(adoption) => match io {
                Io::Done => self.adopt(*adoption, out),
                Io::Full => {
                    self.held_back = true;
                    self.refuse_waiting(&Reason::Full, out);
                }
                Io::Lost(why) => self.poison(why, out),
            },
            Doing::Mark { end } => {
                self.active.end = end;
                self.stop(io == Io::Done, out);
            }
            other => self.doing = other,
        }
    }

    fn commit(&mut self, pending: Pending, out: &mut Vec<Output>) {
        self.advance(pending.events, pending.bytes, (pending.end, pending.chain, pending.time_ms), out);
        // Nobody else wrote this ordinal, so what was decided before it was decided on the newest state.
        self.fresh = true;
        let busy = pending.asked.len() > 1 || !self.waiting.is_empty();
        self.turns.we_wrote(busy, self.now_ms);
        out.extend(pending.asked.into_iter().map(|asked| Output::Reply(asked.ticket, asked.outcome)));
    }

    /// The end of the log moves over a group that is durable.
    fn advance(
        &mut self,
        events: Vec<Event>,
        bytes: u64,
        (end, chain, time_ms): (u64, ChainHash, u64),
        out: &mut Vec<Output>,
    ) {
        let last = events[events.len() - 1].position;
        let first = events[0].position;
        assert_eq!(first, self.durable.position.next(), "positions are dense");
        let indexed = self.active.index.last().map_or(0, |entry| entry.offset);
        let due = self.active.index.is_empty() || self.active.end - indexed >= INDEX_BYTES;
        let entry = IndexEntry { position: first, offset: self.active.end, sequence: self.sequence };
        let index = due.then_some(entry);
        self.active.index.extend(index);
        self.active.end = end;
        self.durable = Durable { position: last, chain };
        self.time_ms = time_ms;
        self.sequence += 1;
        let writes = self.sequence - self.active.sequence;
        self.waiting_roll = self.active.end + roll_slack(self.active.capacity) > self.active.capacity
            || self.shared.is_some_and(|rule| writes >= rule.slots);
        let touched = events.iter().filter_map(|event| Some((repo_of(&event.body)?, event.position))).collect();
        let group = Group { events: events.into(), chain };
        out.push(Output::Publish(Committed { group, bytes, end, index, touched }));
    }

    // ---- stopping --------------------------------------------------------------------------------------------------

    fn begin_mark(&mut self, out: &mut Vec<Output>) {
        // What the bucket holds needs no mark, and a mark would make this copy differ from the others.
        if !self.is_well() || self.shared.is_some() {
            return self.stop(false, out);
        }
        let mut bytes = Vec::new();
        let tail = self.tail();
        let (first, sequence, time_ms, previous) = (tail.next, tail.ordinal, self.time_ms, tail.chain);
        let draft = Draft { flags: MARK, count: 0, first, sequence, time_ms, previous };
        frame::append(&mut bytes, &self.active.salt, &draft, &[]);
        self.doing = Doing::Mark { end: self.active.end + bytes.len() as u64 };
        out.push(Output::Append { offset: self.active.end, bytes, tail, chain: tail.chain });
    }

    fn stop(&mut self, marked: bool, out: &mut Vec<Output>) {
        self.refuse_waiting(&Reason::Closed, out);
        self.doing = Doing::Stopped;
        out.push(Output::Stopped(marked));
    }
}
