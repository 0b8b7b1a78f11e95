//! The single writer as a state machine: take, decide, frame, wait for the sync, publish, reply. No I/O, clock or threads.
//!
//! Invariants: at most one write is under way; nothing is published or answered Done before its sync was reported; a
//! write that did not happen takes every fold of its group back; after a failed sync nothing is written any more (F4).
//! Positions, sequence and chain move only when a write was synced.
//!
//! In a bucket log other servers write too: an [`Output::Append`] may end as [`Input::Taken`], then what they wrote is looked
//! up and adopted, and the proposals are decided again; a refusal is answered only on a state that was the newest after
//! its proposal came; where segments end, and every byte in them, follows from the log alone.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::{
    decide::{State, Undo, repo_of},
    engine::{Durable, Group, Outcome, Proposal, Reason, SegmentRule},
    event::{
        Event,
        codec::{self, EventHeader},
    },
    id::{ChainHash, LogId, Position, PushId, RepoId},
    limits::{FRAME_BYTES_MAX, PROPOSAL_BYTES_MAX},
    log::{
        fields::len32,
        footer::{INDEX_BYTES, IndexEntry},
        frame::{self, BODY_BYTES_MAX, CONTINUES, Draft, MARK, Salt},
        header::{BLOCK_LEN, SegmentHeader},
        push_ids::{PushEntry, PushIds},
        scan::RawGroup,
        segment::{Active, SegmentEnd, footer, roll_slack, segment_capacity, shared_salt},
    },
    planted::{self, PlantedBug},
};

/// Names a waiting caller.
pub(crate) type Ticket = u64;

/// What happens to the writer.
pub(crate) enum Input {
    /// Proposals from the queue, and the time.
    Proposals(Vec<(Ticket, Proposal)>, u64),
    /// End the active segment, if there is anything in it.
    Roll,
    /// Callers who ask for the end of a bucket log.
    Looks(Vec<Ticket>),
    /// [`Output::Look`] ended: what stands in the bucket, or why that is not known.
    Looked(Result<Looked, Reason>),
    /// [`Output::Append`] or [`Output::Adopt`] ended.
    Appended(Io),
    /// [`Output::Append`] ended: another server has written this ordinal of the bucket log; nothing of it counts.
    Taken,
    /// [`Output::Append`] ended: nobody knows whether it stands in the bucket. It may be adopted later; here nothing of it counts.
    Unsure(String),
    /// [`Output::Prepare`] ended; the salt for the segment it will become.
    Prepared(Io, Salt),
    /// [`Output::Activate`] ended.
    Activated(Io),
    /// [`Output::Seal`] ended.
    Sealed(Io),
    /// A reader met damage in the log: nothing may be appended behind it.
    Damaged(String),
    /// Write the mark and stop.
    Shutdown,
}

/// How a piece of I/O ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Io {
    /// Durable.
    Done,
    /// No room; nothing of it counts, it may be tried again.
    Full,
    /// Anything else: what is on the disk is not known.
    Lost(String),
}

/// What a look into the bucket found.
pub(crate) struct Looked {
    /// Groups that come next, in order.
    pub(crate) groups: Vec<RawGroup>,
    /// After them there was nothing.
    pub(crate) at_end: bool,
}

/// Where a bucket log goes on, as far as it is known here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tail {
    /// Position of the next event.
    pub(crate) next: Position,
    /// Ordinal of the next write.
    pub(crate) ordinal: u64,
    /// Chained hash before it.
    pub(crate) chain: ChainHash,
    /// First position of the segment that it belongs to.
    pub(crate) segment: Position,
    /// Salt of that segment.
    pub(crate) salt: Salt,
}

/// What the writer wants done. One of the four pieces of I/O is under way at a time, except that `Prepare` may go on beside.
pub(crate) enum Output {
    /// Write `bytes` at `offset` of the active segment, sync once. In a bucket log: after they are the slot at `tail`.
    Append {
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
        /// What they follow.
        tail: Tail,
        /// Chained hash after them.
        chain: ChainHash,
    },
    /// Write frames that stand in the bucket at `offset` of the active segment, sync once; ends as [`Input::Appended`].
    Adopt {
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Find out what stands in the bucket from here on.
    Look(Tail),
    /// Make a zero-filled, synced spare file.
    Prepare {
        /// Of this many bytes.
        capacity: u64,
    },
    /// Give the spare this header, sync it, give it its name, sync the directory: it is the active segment now.
    Activate(SegmentHeader),
    /// Write the footer of the segment that was active before, sync, cut the file after it, sync.
    Seal {
        /// Its first position.
        first: Position,
        /// Where the footer goes.
        offset: u64,
        /// The footer.
        bytes: Arc<Vec<u8>>,
    },
    /// Show a durable group to readers.
    Publish(Committed),
    /// Answer a caller.
    Reply(Ticket, Outcome),
    /// Answer a caller who asked for the end: everything acknowledged before he asked is at or before it.
    ReplyLook(Ticket, Result<Position, Reason>),
    /// What a write left on the disk is not known: nothing is written any more.
    Poisoned(String),
    /// The writer has stopped; true: the mark is written.
    Stopped(bool),
}

/// A durable group and what readers need to know about it.
pub(crate) struct Committed {
    /// The events.
    pub(crate) group: Group,
    /// Encoded bytes.
    pub(crate) bytes: u64,
    /// Byte offset after it in the active segment.
    pub(crate) end: u64,
    /// A new entry of the active segment's index.
    pub(crate) index: Option<IndexEntry>,
    /// Last positions of the repositories it touches.
    pub(crate) touched: BTreeMap<RepoId, Position>,
}

/// What recovery hands over.
pub(crate) struct Handover {
    /// The log's name.
    pub(crate) log: LogId,
    /// Decision state at the end.
    pub(crate) state: State,
    /// Push ids at the end.
    pub(crate) pushes: PushIds,
    /// The end.
    pub(crate) durable: Durable,
    /// Ordinal of the next write.
    pub(crate) sequence: u64,
    /// Time of the last group.
    pub(crate) time_ms: u64,
    /// The segment that is appended to.
    pub(crate) active: Active,
    /// How many segments there are, the active one included.
    pub(crate) segments: u64,
    /// Where segments end, if other servers write this log too.
    pub(crate) shared: Option<SegmentRule>,
}

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
    /// Groups of ours that followed each other at once, without a look between them.
    in_a_row: u64,
    /// Ordinal of the last group that another server wrote.
    others: Option<u64>,
    /// Rolling found no room: not tried again before somebody proposes.
    held_back: bool,
    stopping: bool,
    now_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Spare {
    None,
    Preparing(u64),
    Ready(u64, Salt),
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

/// A group on its way to the disk.
struct Pending {
    asked: Vec<Asked>,
    events: Vec<Event>,
    undo: Vec<Undo>,
    pushes: Vec<(PushId, Option<PushEntry>)>,
    bodies: Vec<Body>,
    bytes: u64,
    end: u64,
    chain: ChainHash,
    time_ms: u64,
}

/// A proposal that was decided.
struct Asked {
    ticket: Ticket,
    push: PushId,
    outcome: Outcome,
    /// In a bucket log: what it takes to decide it again.
    kept: Option<Kept>,
}

/// What is kept of a decided proposal.
enum Kept {
    /// All of it.
    Refused(Proposal),
    /// All but its events, which stand in the group: this many.
    Accepted(Proposal, usize),
}

/// Another server's group on its way into the local copy.
struct Adoption {
    events: Vec<(Event, u64)>,
    bytes: u64,
    end: u64,
    chain: ChainHash,
    time_ms: u64,
}

/// The events of one frame to be.
#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
    count: u32,
    first: Position,
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
            in_a_row: 0,
            others: None,
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

    /// One step: something happened, these are to be done, in order.
    pub(crate) fn step(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Proposals(proposals, now_ms) => {
                self.now_ms = now_ms;
                (self.held_back, self.fresh) = (false, false);
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
            if self.behind || self.waiting.is_empty() || self.gives_way() {
                self.doing = Doing::Look;
                return out.push(Output::Look(self.tail()));
            }
            if self.begin_group(out) {
                return;
            }
        }
    }

    /// Whoever writes group after group leaves the others, who must read what he wrote first, no moment to write. So he looks
    /// in between, which takes him as long as it takes them: after each group where others write, and rarely else, since
    /// those who never get a turn cannot be seen.
    fn gives_way(&self) -> bool {
        let crowded = self.others.is_some_and(|ordinal| self.sequence - ordinal <= CROWDED_WRITES);
        self.shared.is_some() && self.in_a_row >= if crowded { 1 } else { ALONE_WRITES_MAX }
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

    // ---- groups ----------------------------------------------------------------------------------------------------

    /// Decides waiting proposals into one group. True if a write is under way now.
    fn begin_group(&mut self, out: &mut Vec<Output>) -> bool {
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

    fn tail(&self) -> Tail {
        Tail {
            next: self.durable.position.next(),
            ordinal: self.sequence,
            chain: self.durable.chain,
            segment: self.active.first,
            salt: self.active.salt,
        }
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

    fn appended(&mut self, io: Io, out: &mut Vec<Output>) {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Append(pending) => match io {
                Io::Done => self.commit(*pending, out),
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
        self.in_a_row = if self.waiting.is_empty() { 0 } else { self.in_a_row + 1 };
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

    /// Nothing was written: the folds of the group never happened.
    fn undo(&mut self, pending: &mut Pending) {
        self.state.undo(std::mem::take(&mut pending.undo));
        for (push, before) in std::mem::take(&mut pending.pushes).into_iter().rev() {
            self.pushes.restore(push, before);
        }
    }

    /// Undoes a group; its accepted proposals are answered otherwise.
    fn take_back(&mut self, mut pending: Pending, accepted: &dyn Fn(PushId) -> Outcome, out: &mut Vec<Output>) {
        self.undo(&mut pending);
        answer_lost(pending.asked, self.durable.position, accepted, out);
    }

    // ---- what other servers write --------------------------------------------------------------------------------------

    fn taken(&mut self) {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Append(pending) => {
                let mut pending = *pending;
                self.undo(&mut pending);
                self.decide_again(pending);
            }
            other => self.doing = other,
        }
    }

    fn unsure(&mut self, why: String, out: &mut Vec<Output>) {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Append(pending) => {
                let unavailable = Reason::Unavailable(why);
                self.take_back(*pending, &|push| unsure(push, &unavailable), out);
                self.refuse_waiting(&unavailable, out);
            }
            other => self.doing = other,
        }
    }

    /// Puts the proposals of a group back, in their order, behind a look at what others wrote.
    fn decide_again(&mut self, pending: Pending) {
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

    fn looked(&mut self, looked: Result<Looked, Reason>, out: &mut Vec<Output>) {
        if !matches!(self.doing, Doing::Look) {
            return;
        }
        (self.doing, self.in_a_row) = (Doing::Nothing, 0);
        match looked {
            Ok(looked) => {
                (self.behind, self.fresh) = (!looked.at_end, looked.at_end);
                self.adopting.extend(looked.groups);
            }
            Err(reason) => self.refuse_waiting(&reason, out),
        }
    }

    fn answer_looks(&mut self, out: &mut Vec<Output>) {
        if self.fresh && self.adopting.is_empty() {
            let end = self.durable.position;
            out.extend(self.looks.drain(..).map(|ticket| Output::ReplyLook(ticket, Ok(end))));
        }
    }

    fn begin_adoption(&mut self, group: &RawGroup, out: &mut Vec<Output>) {
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
        self.doing = Doing::Adopt(Box::new(Adoption { events, bytes: stored, end, chain, time_ms: group.time_ms }));
    }

    fn adopt(&mut self, adoption: Adoption, out: &mut Vec<Output>) {
        let mut undo = Vec::new();
        for (event, fingerprint) in &adoption.events {
            self.state.fold(event, &mut undo);
            undo.clear();
            self.pushes.note(event.push, *fingerprint, event.position);
        }
        self.others = Some(self.sequence);
        let events = adoption.events.into_iter().map(|(event, _)| event).collect();
        self.advance(events, adoption.bytes, (adoption.end, adoption.chain, adoption.time_ms), out);
    }

    // ---- rolling to the next segment -------------------------------------------------------------------------------

    fn prepare_ahead(&mut self, out: &mut Vec<Output>) {
        if self.is_well() && self.spare == Spare::None && self.active.end > self.active.capacity / 2 && !self.stopping {
            self.prepare(out);
        }
    }

    fn prepare(&mut self, out: &mut Vec<Output>) {
        let capacity = segment_capacity(self.segments, self.segment_bytes);
        self.spare = Spare::Preparing(capacity);
        out.push(Output::Prepare { capacity });
    }

    fn begin_roll(&mut self, out: &mut Vec<Output>) {
        let (capacity, salt) = match self.spare {
            Spare::Ready(capacity, salt) => (capacity, salt),
            Spare::Preparing(_) => {
                self.doing = if self.is_idle() { Doing::Nothing } else { Doing::WaitForSpare };
                return;
            }
            Spare::None => {
                self.prepare(out);
                self.doing = if self.is_idle() { Doing::Nothing } else { Doing::WaitForSpare };
                return;
            }
        };
        let (first, previous) = (self.durable.position.next(), self.durable.chain);
        let salt = self.shared.map_or(salt, |_| shared_salt(self.log, first, previous));
        let header = SegmentHeader { log: self.log, first, sequence: self.sequence, previous, salt, capacity };
        out.push(Output::Activate(header.clone()));
        self.doing = Doing::Activate(header);
    }

    fn prepared(&mut self, io: Io, salt: Salt, out: &mut Vec<Output>) {
        let capacity = match self.spare {
            Spare::Preparing(capacity) => capacity,
            Spare::None | Spare::Ready(..) => return,
        };
        self.spare = Spare::None;
        let waited = self.waits_for_spare();
        if waited {
            self.doing = Doing::Nothing;
        }
        self.held_back = io != Io::Done;
        match io {
            Io::Done => self.spare = Spare::Ready(capacity, salt),
            Io::Full if waited => self.refuse_waiting(&Reason::Full, out),
            // The spare holds nothing yet: a failed one is thrown away and another is made when it is needed.
            Io::Lost(why) if waited => self.refuse_waiting(&Reason::ReadOnly(why), out),
            Io::Full | Io::Lost(_) => {}
        }
    }

    fn activated(&mut self, io: Io, out: &mut Vec<Output>) {
        let Doing::Activate(header) = std::mem::replace(&mut self.doing, Doing::Nothing) else { return };
        match io {
            Io::Lost(why) => self.poison(why, out),
            Io::Full => {
                self.held_back = true;
                self.refuse_waiting(&Reason::Full, out);
            }
            Io::Done => {
                let end = SegmentEnd { durable: self.durable, sequence: self.sequence, time_ms: self.time_ms };
                let bytes = Arc::new(footer(self.log, &self.active, end, &self.state, &self.pushes));
                let (first, offset) = (self.active.first, self.active.end);
                self.pushes.seal(self.durable.position);
                self.active = Active {
                    first: header.first,
                    sequence: header.sequence,
                    salt: header.salt,
                    capacity: header.capacity,
                    end: BLOCK_LEN as u64,
                    index: Vec::new(),
                };
                self.spare = Spare::None;
                self.segments += 1;
                (self.waiting_roll, self.rolling) = (false, false);
                out.push(Output::Seal { first, offset, bytes: bytes.clone() });
                self.doing = Doing::Seal { first, offset, bytes, under_way: true };
            }
        }
    }

    fn sealed(&mut self, io: Io, out: &mut Vec<Output>) {
        match (io, &mut self.doing) {
            (Io::Done, doing) => *doing = Doing::Nothing,
            (Io::Full, Doing::Seal { under_way, .. }) => {
                *under_way = false;
                self.refuse_waiting(&Reason::Full, out);
            }
            (Io::Full, _) => {}
            (Io::Lost(why), _) => self.poison(why, out),
        }
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

/// The answer to a proposal whose slot got none.
fn unsure(push: PushId, why: &Reason) -> Outcome {
    if planted::is(PlantedBug::SilenceTakenForRefusal) {
        return Outcome::NotDone(why.clone());
    }
    Outcome::Unknown(push)
}

/// Answers a group that did not become durable: what was accepted in it, with `accepted`.
fn answer_lost(asked: Vec<Asked>, durable: Position, accepted: &dyn Fn(PushId) -> Outcome, out: &mut Vec<Output>) {
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

/// Another server wrote one of so many groups: it will again.
const CROWDED_WRITES: u64 = 64;
/// Groups in a row of a server that seems to be alone.
const ALONE_WRITES_MAX: u64 = 16;
/// A group is closed once its events pass this many bytes.
const GROUP_BYTES_TARGET: u64 = 8 << 20;
#[cfg(test)]
mod tests;
