//! Open, propose, read: the main path, top to bottom.
//!
//! Invariants: nothing is acknowledged before the frame that holds it is durable; what `durable()` says may be read by
//! anyone and never goes away; one process holds a data directory at a time.

use std::{sync::Arc, time::Duration};

use crate::{
    archive::{self, Archiver, AtRest},
    clock::{Clock, Random},
    disk::{Disk, DiskLock},
    error::{Error, ErrorKind, Result},
    event::{Event, EventBody},
    id::{ChainHash, LogId, ObjectId, Position, PushId, RepoId},
    limits::{PROPOSAL_BYTES_MAX, SEGMENT_BYTES_DEFAULT},
    log::{
        drive::{Drive, Driven},
        files::{self, LOG_DIR},
        published::Published,
    },
    mirror, recover,
    store::ObjectStore,
    writer::WriterCore,
};

use crate::follow;
pub use crate::{
    follow::{Follower, SegmentReader},
    log::scan::RawGroup,
};

/// The outside world, handed in so that tests own it.
pub struct Parts {
    /// Files of the data directory (log, locks, markers).
    pub disk: Arc<dyn Disk>,
    /// Where packs live.
    pub store: Arc<dyn ObjectStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
}

/// A data directory that no other process opens while this lives.
pub struct Held(pub(crate) Box<dyn DiskLock>);

/// Settings of one opening.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who we are, written into the lock for whoever is refused (pid, address).
    pub holder: String,
    /// Where the log is.
    pub log: LogKind,
    /// A segment of a local log is sealed once it passes this many bytes.
    pub segment_bytes: u64,
    /// Bytes that proposals waiting for the writer may hold together.
    pub queue_bytes_max: u64,
    /// Who steps the writer.
    pub driver: Driver,
}

impl Options {
    /// The settings of production for a process that calls itself `holder`.
    pub fn new(holder: impl Into<String>) -> Options {
        Options {
            holder: holder.into(),
            log: LogKind::Local,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            queue_bytes_max: PROPOSAL_BYTES_MAX,
            driver: Driver::Threads,
        }
    }
}

/// Where the log is, and who may write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogKind {
    /// In segment files of the data directory; this process alone writes it.
    Local,
    /// In the object store; any number of servers write it. The data directory holds a copy that may be lost. The rule counts
    /// for the server that makes the log; the others follow what the bucket says.
    Bucket(SegmentRule),
}

/// Where the segments of a bucket log end: the same on all servers, since each of them makes the same files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentRule {
    /// A segment is sealed once it passes this many bytes,
    pub bytes: u64,
    /// or has this many slots.
    pub slots: u64,
}

impl SegmentRule {
    /// 8 MiB or 1,024 slots.
    pub const DEFAULT: SegmentRule = SegmentRule { bytes: 8 << 20, slots: 1_024 };
}

/// Who steps the writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// A thread of its own, or a caller that waits while the writer is free; spare segments are made beside.
    Threads,
    /// The caller, always, wholly, without any thread: for simulations that must see every call in order.
    Inline,
}

/// What a proposal needs to be true at its place in the log, decided by the one writer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// No live repository has this name.
    NameFree {
        /// First part of the name.
        owner: String,
        /// Second part of the name.
        slug: String,
    },
    /// The repository exists and is not deleted.
    RepoLive(RepoId),
    /// The repository's settings were last written at this position.
    RepoAt(RepoId, Position),
    /// The branch has exactly this head (`None`: does not exist, and no branch name is a path prefix of the other).
    RefIs {
        /// Of which repository.
        repo: RepoId,
        /// Branch name.
        name: String,
        /// The head that was seen.
        head: Option<ObjectId>,
    },
    /// The repository has no branch.
    NoRefs(RepoId),
    /// No snapshot or commit was delivered to the repository after this position.
    NoRecordsSince(RepoId, Position),
    /// No packs were retired, and no sweep began, after this position. Every proposal that delivers packs says where the log ended
    /// before the first of them was stored; one that says nothing counts as of the beginning. So a sweep that has begun is never
    /// overtaken by a pack that it may have seen unnamed (README, decision 16).
    NoSweepSince(Position),
    /// Whether the repository has a release with this tag.
    ReleaseExists {
        /// Of which repository.
        repo: RepoId,
        /// The release's tag.
        tag: String,
        /// What must be so.
        exists: bool,
    },
}

/// Events to append together, wholly or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// Idempotency key: the same id within the window gets the first answer.
    pub push: PushId,
    /// Fingerprint of the request: the same push id with another fingerprint is refused.
    pub fingerprint: u64,
    /// Who does it.
    pub actor: String,
    /// What must be true.
    pub conditions: Vec<Condition>,
    /// At least one.
    pub events: Vec<EventBody>,
}

/// What became of a proposal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Durable. `last` is the position of the proposal's last event; `repeated`: it was there before this call.
    Done {
        /// Position of the proposal's first event.
        first: Position,
        /// Position of the proposal's last event.
        last: Position,
        /// This push id had been appended before; nothing was written now.
        repeated: bool,
    },
    /// Not appended, and never will be.
    NotDone(Reason),
    /// May or may not be in the log: propose again with the same push id after the engine was reopened.
    Unknown(PushId),
}

/// Why a proposal was not appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// This condition does not hold.
    Condition(Condition),
    /// A new branch name and an existing one are path prefixes of each other.
    RefNameClash {
        /// The branch that is in the way.
        existing: String,
    },
    /// The push id was used with another request.
    PushIdReused,
    /// The queue is full; come back after this long.
    Busy(Duration),
    /// The proposal is not one: no events, or an event that may not be stored.
    Invalid(String),
    /// The encoded events pass a limit.
    TooLarge {
        /// What they would take.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// No room on the disk; nothing was written.
    Full,
    /// The log is read-only: damaged in the middle, or a sync failed earlier.
    ReadOnly(String),
    /// The bucket could not be asked or did not answer: nothing was decided; come back.
    Unavailable(String),
    /// The engine is shutting down.
    Closed,
}

/// The durable end of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Durable {
    /// Position of the last durable event; 0: the log is empty.
    pub position: Position,
    /// Chained hash after the group that holds it.
    pub chain: ChainHash,
}

/// One group of events as committed: wholly durable. A follower sees groups only, in order, without gaps.
#[derive(Clone, Debug)]
pub struct Group {
    /// The events, positions dense and ascending; never empty.
    pub events: Arc<[Event]>,
    /// Chained hash after this group.
    pub chain: ChainHash,
}

/// How the log's tail was found at open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tail {
    /// Every byte accounted for.
    Clean,
    /// An unfinished last group was cut.
    Torn {
        /// In which file.
        file: String,
        /// From which byte.
        offset: u64,
        /// Non-zero bytes that were cut (kept aside in `log/torn/`).
        bytes: u64,
    },
    /// Something valid stands after damage: the log is read-only up to here.
    Damaged {
        /// In which file.
        file: String,
        /// At which byte.
        offset: u64,
        /// What is wrong.
        message: String,
    },
}

/// What opening found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenReport {
    /// The log's name.
    pub log: LogId,
    /// The end of the log.
    pub durable: Durable,
    /// How the tail was.
    pub tail: Tail,
    /// True if the last process appended something and did not close the log.
    pub unclean: bool,
    /// Bytes read to open.
    pub bytes_read: u64,
}

/// Why nothing can be appended. Reads go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadOnly {
    /// The log is damaged, found at the opening or by a reader since: it must be repaired.
    Damaged(String),
    /// A write ended so that nobody knows what is on the disk: opening again finds out.
    Poisoned(String),
}

/// One segment of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentInfo {
    /// Position of its first event; names it.
    pub first: Position,
    /// Position of its last event; before `first` while it has none.
    pub last: Position,
    /// Bytes of its file.
    pub bytes: u64,
    /// It has its footer and never changes again.
    pub sealed: bool,
}

/// The engine: one per data directory. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    drive: Arc<Drive>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.drive.close();
    }
}

impl Engine {
    /// Opens (or creates) the log under `parts.disk`, judges its tail, starts the writer.
    ///
    /// Errors: `Conflict` naming the holder if another process has the directory; `Invalid` for a newer format; `Corrupt`
    /// if the log cannot be read at all (a foreign log, no first segment); damage in the middle is not an error but a
    /// read-only engine, see [`Tail`]; `Full` or `Unavailable` if what was found could not be made durable.
    pub fn open(parts: Parts, options: Options) -> Result<(Engine, OpenReport)> {
        let held = Engine::hold(&*parts.disk, &options.holder)?;
        Engine::open_held(parts, options, held)
    }

    /// The same of a directory that the caller holds, because something else of it was touched first.
    pub fn open_held(parts: Parts, options: Options, held: Held) -> Result<(Engine, OpenReport)> {
        let (opened, bucket) = match options.log {
            LogKind::Local => (recover::open(&parts, &options, held.0)?, None),
            LogKind::Bucket(rule) => {
                let (opened, bucket) = mirror::open(&parts, held.0, rule)?;
                (opened, Some(bucket))
            }
        };
        let report = &opened.report;
        parts.store.claim(report.log, report.durable.position == Position::ZERO && opened.read_only.is_none())?;
        let last_positions = opened.handover.state.repos.iter().map(|(repo, state)| (*repo, state.last)).collect();
        let published = Published::new(opened.report.durable, opened.segments, last_positions);
        if let Some(why) = &opened.read_only {
            published.read_only(ReadOnly::Damaged(why.clone()));
        }
        let log = opened.report.log;
        let core = match opened.read_only {
            None => WriterCore::new(opened.handover, options.segment_bytes),
            Some(why) => WriterCore::read_only(opened.handover, why),
        };
        let driven = Driven { core, files: opened.files, lock: opened.lock, bucket };
        let drive = Arc::new(Drive::new(parts, &options, log, published, driven)?);
        drive.start_writer()?;
        let engine = Engine { inner: Arc::new(Inner { drive }) };
        // What the bucket holds beyond its sealed segments.
        engine.look_and_wait()?;
        let durable = engine.durable();
        Ok((engine, OpenReport { durable, ..opened.report }))
    }

    /// Takes the directory under `disk`, and nothing more.
    ///
    /// Errors: `Conflict` naming the holder if another process has it.
    pub fn hold(disk: &dyn Disk, holder: &str) -> Result<Held> {
        recover::lock(disk, holder).map(Held)
    }

    /// True if a log was begun under `disk`: a directory that was only held has none.
    pub fn exists(disk: &dyn Disk) -> Result<bool> {
        Ok(disk.list(LOG_DIR)?.iter().any(|name| !files::is_lock(name)))
    }

    /// Asks where the log ends. `reply` gets a position at or before which everything stands that was acknowledged, by any
    /// server, before this call, and that followers of this engine see. It must not block. A local log answers at once.
    ///
    /// Errors: `Unavailable` if the bucket was not reached, `Busy`, `Full`, or `Poisoned` for a damaged log.
    pub fn look(&self, reply: Box<dyn FnOnce(Result<Position>) + Send>) {
        self.inner.drive.look(reply);
    }

    /// Looks and waits. For threads; async callers use [`Engine::look`] with a channel.
    pub fn look_and_wait(&self) -> Result<Position> {
        let (seen, wait) = crossbeam_channel::bounded(1);
        // The receiver lives on this stack: sending cannot fail before it has an answer.
        self.look(Box::new(move |looked| drop(seen.send(looked))));
        wait.recv().unwrap_or_else(|_| Err(Error::new(ErrorKind::Poisoned, "the writer died")))
    }

    /// Queues a proposal; `reply` is called once, by whoever drives the writer, when its outcome is known. It must not
    /// block, and may propose again.
    pub fn propose(&self, proposal: Proposal, reply: Box<dyn FnOnce(Outcome) + Send>) {
        self.inner.drive.propose(proposal, reply);
    }

    /// Proposes and waits. For threads; async callers use [`Engine::propose`] with a channel.
    pub fn propose_and_wait(&self, proposal: Proposal) -> Outcome {
        self.inner.drive.propose_and_wait(proposal)
    }

    /// Byte offset after the last durable frame of the active segment.
    #[cfg(test)]
    pub(crate) fn frames_end(&self) -> u64 {
        self.inner.drive.published.look().segments.last().map_or(0, |segment| segment.frames_end)
    }

    /// The durable end of the log.
    pub fn durable(&self) -> Durable {
        self.inner.drive.published.look().durable
    }

    /// Position of the repository's last event of any kind; zero if there is none. Readers who must see their own
    /// writes wait until it is folded.
    pub fn last_position_of(&self, repo: RepoId) -> Position {
        self.inner.drive.published.look().last_position_of(repo)
    }

    /// Groups from the one that holds `from` on. [`Follower::next`] waits for more. `Invalid` if `from` is beyond the
    /// position that comes next.
    pub fn follow(&self, from: Position) -> Result<Follower> {
        Follower::new(self.inner.drive.clone(), from)
    }

    /// All readable segments, in order.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        follow::segments(&self.inner.drive)
    }

    /// The groups of the segment that starts at `first`, up to what is durable now. Any number may be read at once.
    pub fn read_segment(&self, first: Position) -> Result<SegmentReader> {
        SegmentReader::new(self.inner.drive.clone(), first)
    }

    /// Chained hash after the group that ends at `position`, or `None` if no group ends there (or it is beyond the end).
    /// All zeros at position 0.
    pub fn chain_at(&self, position: Position) -> Result<Option<ChainHash>> {
        follow::chain_at(&self.inner.drive, position)
    }

    /// Brings sealed segments into the object store. Make one per engine.
    pub fn archiver(&self) -> Result<Archiver> {
        Archiver::new(self.inner.drive.clone())
    }

    /// How a sealed segment that the store has taken is there, beside the one here.
    pub fn judge_archived(&self, first: Position) -> Result<AtRest> {
        archive::judge(&self.inner.drive, first)
    }

    /// Brings a sealed segment that the store had once, and compares what stands there then.
    ///
    /// Errors: `Corrupt` if other bytes stand under its key.
    pub fn bring_again(&self, first: Position) -> Result<()> {
        archive::bring(&self.inner.drive, first)
    }

    /// Up to where the object store has the log in sealed segments, as the archiver has seen it.
    pub fn archived(&self) -> Position {
        self.inner.drive.published.look().archived
    }

    /// Bytes of the log behind `position`, to the segment: what would be lost with this disk if the store had no more.
    pub fn bytes_after(&self, position: Position) -> u64 {
        self.inner.drive.published.look().bytes_after(position)
    }

    /// Ends the active segment of a local log, if there is anything in it, so that it can be archived.
    pub fn roll(&self) {
        self.inner.drive.roll();
    }

    /// The log's name.
    pub fn log(&self) -> LogId {
        self.inner.drive.log
    }

    /// Why nothing can be appended any more, if so.
    pub fn read_only(&self) -> Option<ReadOnly> {
        self.inner.drive.published.look().read_only.clone()
    }

    /// Where packs live.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.inner.drive.parts.store
    }

    /// The same without copies beside it: what rests there, for those who judge it.
    pub fn store_itself(&self) -> Arc<dyn ObjectStore> {
        let store = self.store();
        store.without_copies().unwrap_or_else(|| Arc::clone(store))
    }

    /// Files of the data directory.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.drive.parts.disk
    }

    /// Time.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.drive.parts.clock
    }

    /// Randomness.
    pub fn random(&self) -> &Arc<dyn Random> {
        &self.inner.drive.parts.random
    }

    /// Finishes queued proposals, writes the clean mark, releases the directory. Later proposals answer `Closed`.
    pub fn shutdown(&self) -> Result<()> {
        self.inner.drive.shutdown()
    }
}
