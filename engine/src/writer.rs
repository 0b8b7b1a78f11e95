//! The single writer as a state machine: take, decide, frame, wait for the sync, publish, reply. No I/O, clock or threads.
//!
//! Invariants: at most one write is under way; nothing is published or answered Done before its sync was reported; a
//! write that did not happen takes every fold of its group back; after a failed sync nothing is written any more (F4).
//! Positions, sequence and chain move only when a write was synced.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::{
    decide::{State, Undo, repo_of},
    engine::{Durable, Group, Outcome, Proposal, Reason},
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
        segment::{Active, SegmentEnd, footer, roll_slack, segment_capacity},
    },
};

/// Names a waiting caller.
pub(crate) type Ticket = u64;

/// What happens to the writer.
pub(crate) enum Input {
    /// Proposals from the queue, and the time.
    Proposals(Vec<(Ticket, Proposal)>, u64),
    /// [`Output::Append`] ended.
    Appended(Io),
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

/// What the writer wants done. One of the four pieces of I/O is under way at a time, except that `Prepare` may go on beside.
pub(crate) enum Output {
    /// Write `bytes` at `offset` of the active segment, sync once.
    Append {
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
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
    replies: Vec<(Ticket, PushId, Outcome)>,
    events: Vec<Event>,
    undo: Vec<Undo>,
    pushes: Vec<(PushId, Option<PushEntry>)>,
    bodies: Vec<Body>,
    bytes: u64,
    end: u64,
    chain: ChainHash,
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
            segment_bytes,
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
                self.held_back = false;
                self.waiting.extend(proposals);
            }
            Input::Appended(io) => self.appended(io, &mut out),
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
            if self.stopping && self.waiting.is_empty() {
                return self.begin_mark(out);
            }
            if self.waiting.is_empty() && self.held_back {
                return;
            }
            if self.waiting_roll && self.is_well() {
                return self.begin_roll(out);
            }
            if self.waiting.is_empty() {
                return self.prepare_ahead(out);
            }
            if self.begin_group(out) {
                return;
            }
        }
    }

    fn is_well(&self) -> bool {
        matches!(self.health, Health::Well)
    }

    fn refuse_waiting(&mut self, reason: &Reason, out: &mut Vec<Output>) {
        out.extend(self.waiting.drain(..).map(|(ticket, _)| Output::Reply(ticket, Outcome::NotDone(reason.clone()))));
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
            replies: Vec::new(),
            events: Vec::new(),
            undo: Vec::new(),
            pushes: Vec::new(),
            bodies: Vec::new(),
            bytes: 0,
            end: 0,
            chain: self.durable.chain,
        };
        self.time_ms = self.time_ms.max(self.now_ms);
        while let Some((ticket, proposal)) = self.waiting.pop_front() {
            let push = proposal.push;
            let outcome = self.decide(proposal, &mut pending);
            pending.replies.push((ticket, push, outcome));
            if pending.bytes >= GROUP_BYTES_TARGET {
                break;
            }
        }
        if pending.events.is_empty() {
            out.extend(pending.replies.into_iter().map(|(ticket, _, outcome)| Output::Reply(ticket, outcome)));
            return false;
        }
        let bytes = self.frames(&mut pending);
        out.push(Output::Append { offset: self.active.end, bytes });
        self.doing = Doing::Append(Box::new(pending));
        true
    }

    /// Judges one proposal on the state so far and, if it holds, folds it and adds its events to the group.
    fn decide(&mut self, proposal: Proposal, pending: &mut Pending) -> Outcome {
        let next = Position(self.durable.position.0 + pending.events.len() as u64 + 1);
        if let Some(entry) = self.pushes.find(proposal.push, next) {
            if entry.fingerprint != proposal.fingerprint {
                return Outcome::NotDone(Reason::PushIdReused);
            }
            return Outcome::Done { first: entry.first, last: entry.last, repeated: true };
        }
        if proposal.events.is_empty() {
            return Outcome::NotDone(Reason::Invalid("a proposal has at least one event".to_owned()));
        }
        if let Err(reason) = self.state.judge(&proposal.conditions, &proposal.events) {
            return Outcome::NotDone(reason);
        }
        let encoded = match encode(&proposal, self.time_ms) {
            Ok(encoded) => encoded,
            Err(reason) => return Outcome::NotDone(reason),
        };
        let mut position = next;
        for (body, bytes) in proposal.events.into_iter().zip(encoded) {
            pending.add(position, &bytes);
            let (push, actor) = (proposal.push, proposal.actor.clone());
            let event = Event { position, time_ms: self.time_ms, push, actor, body };
            self.state.fold(&event, &mut pending.undo);
            let before = self.pushes.note(push, proposal.fingerprint, position);
            pending.pushes.push((push, before));
            pending.events.push(event);
            position = position.next();
        }
        Outcome::Done { first: next, last: Position(position.0 - 1), repeated: false }
    }

    /// Builds the frames of a group; notes its end and chain.
    fn frames(&self, pending: &mut Pending) -> Vec<u8> {
        let bodies = std::mem::take(&mut pending.bodies);
        let mut bytes = Vec::with_capacity(bodies.iter().map(|body| frame::frame_len(body.bytes.len())).sum());
        let last = bodies.len() - 1;
        for (at, body) in bodies.iter().enumerate() {
            let flags = if at == last { 0 } else { CONTINUES };
            let draft = self.draft(flags, body.count, body.first, pending.chain);
            pending.chain = frame::append(&mut bytes, &self.active.salt, &draft, &body.bytes);
        }
        pending.end = self.active.end + bytes.len() as u64;
        bytes
    }

    fn draft(&self, flags: u16, count: u32, first: Position, previous: ChainHash) -> Draft {
        Draft { flags, count, first, sequence: self.sequence, time_ms: self.time_ms, previous }
    }

    fn appended(&mut self, io: Io, out: &mut Vec<Output>) {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Append(pending) => match io {
                Io::Done => self.commit(*pending, out),
                Io::Full => self.take_back(*pending, out),
                Io::Lost(why) => {
                    let durable = self.durable.position;
                    let unknown = |(ticket, push, outcome)| match outcome {
                        Outcome::Done { last, .. } if last > durable => Output::Reply(ticket, Outcome::Unknown(push)),
                        other => Output::Reply(ticket, other),
                    };
                    out.extend(pending.replies.into_iter().map(unknown));
                    self.poison(why, out);
                }
            },
            Doing::Mark { end } => {
                self.active.end = end;
                self.stop(io == Io::Done, out);
            }
            other => self.doing = other,
        }
    }

    fn commit(&mut self, pending: Pending, out: &mut Vec<Output>) {
        let last = pending.events[pending.events.len() - 1].position;
        let first = pending.events[0].position;
        assert_eq!(first, self.durable.position.next(), "positions are dense");
        let indexed = self.active.index.last().map_or(0, |entry| entry.offset);
        let due = self.active.index.is_empty() || self.active.end - indexed >= INDEX_BYTES;
        let entry = IndexEntry { position: first, offset: self.active.end, sequence: self.sequence };
        let index = due.then_some(entry);
        self.active.index.extend(index);
        self.active.end = pending.end;
        self.durable = Durable { position: last, chain: pending.chain };
        self.sequence += 1;
        self.waiting_roll = self.active.end + roll_slack(self.active.capacity) > self.active.capacity;
        let touched = pending.events.iter().filter_map(|event| Some((repo_of(&event.body)?, event.position))).collect();
        let group = Group { events: pending.events.into(), chain: pending.chain };
        out.push(Output::Publish(Committed { group, bytes: pending.bytes, end: pending.end, index, touched }));
        out.extend(pending.replies.into_iter().map(|(ticket, _, outcome)| Output::Reply(ticket, outcome)));
    }

    /// Nothing was written: the folds of the group never happened.
    fn take_back(&mut self, pending: Pending, out: &mut Vec<Output>) {
        self.state.undo(pending.undo);
        for (push, before) in pending.pushes.into_iter().rev() {
            self.pushes.restore(push, before);
        }
        let durable = self.durable.position;
        let full = |(ticket, _, outcome)| match outcome {
            Outcome::Done { last, .. } if last > durable => Output::Reply(ticket, Outcome::NotDone(Reason::Full)),
            other => Output::Reply(ticket, other),
        };
        out.extend(pending.replies.into_iter().map(full));
        self.refuse_waiting(&Reason::Full, out);
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
                self.doing = if self.waiting.is_empty() { Doing::Nothing } else { Doing::WaitForSpare };
                return;
            }
            Spare::None => {
                self.prepare(out);
                self.doing = if self.waiting.is_empty() { Doing::Nothing } else { Doing::WaitForSpare };
                return;
            }
        };
        let header = SegmentHeader {
            log: self.log,
            first: self.durable.position.next(),
            sequence: self.sequence,
            previous: self.durable.chain,
            salt,
            capacity,
        };
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
                    salt: header.salt,
                    capacity: header.capacity,
                    end: BLOCK_LEN as u64,
                    index: Vec::new(),
                };
                self.spare = Spare::None;
                self.segments += 1;
                self.waiting_roll = false;
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
        if !self.is_well() {
            return self.stop(false, out);
        }
        let mut bytes = Vec::new();
        let draft = self.draft(MARK, 0, self.durable.position.next(), self.durable.chain);
        frame::append(&mut bytes, &self.active.salt, &draft, &[]);
        self.doing = Doing::Mark { end: self.active.end + bytes.len() as u64 };
        out.push(Output::Append { offset: self.active.end, bytes });
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
#[cfg(test)]
mod tests;
