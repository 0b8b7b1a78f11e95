//! What goes into the writer and what it wants done.
//!
//! Invariants: every [`Output`] that is a piece of I/O is answered by exactly one [`Input`]; they are plain values, without
//! files, callers or time in them.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    decide::State,
    engine::{Durable, Group, Outcome, Proposal, Reason, SegmentRule},
    id::{ChainHash, LogId, Position, RepoId},
    log::{footer::IndexEntry, frame::Salt, header::SegmentHeader, push_ids::PushIds, scan::RawGroup, segment::Active},
};

/// Names a waiting caller.
pub(crate) type Ticket = u64;

/// What happens to the writer.
pub(crate) enum Input {
    /// Proposals from the queue.
    Proposals(Vec<(Ticket, Proposal)>),
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

/// What stands after what a look found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum After {
    /// Nothing: this was the end after the look had begun.
    Nothing,
    /// More: look again.
    More,
    /// Nobody asked. Whoever writes there will learn it.
    Unasked,
}

/// What a look into the bucket found.
pub(crate) struct Looked {
    /// Groups that come next, in order.
    pub(crate) groups: Vec<RawGroup>,
    /// What stands after them.
    pub(crate) after: After,
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
    Look {
        /// From where on.
        tail: Tail,
        /// Others are expected to write there now.
        crowded: bool,
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
