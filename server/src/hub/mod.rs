//! The hub: use cases between HTTP and the log.
//!
//! Invariants: nothing is written but through [`Hub::append`]; every read takes a view no older than the repository's
//! last event; blocking work runs in [`Hub::blocking`], never on an async worker; a dropped caller leaves nothing half
//! done, because a proposal is appended wholly or not at all.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reprise_engine::{
    clock::random16,
    engine::{Condition, Engine, OpenReport, Outcome, Proposal, ReadOnly, Reason},
    event::{EventBody, Visibility},
    id::{Position, PushId},
};
use reprise_projections::{Projections, RepoRow, RepoScope, View};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use crate::{http::health::Advance, hub::body::Body, wire::encode};

pub mod access;
pub mod adds;
pub mod adopt;
pub mod archive;
pub mod blob_lists;
pub mod body;
pub mod bucket;
pub mod bundle;
pub mod damage;
pub mod delivery;
pub mod error;
pub mod facts;
pub mod fetch;
pub mod fresh;
pub mod heads;
pub mod lifecycle;
pub mod limits;
pub mod lost_log;
pub mod mpack;
pub mod objects;
pub mod packing;
pub mod plan;
pub mod push;
pub mod quarantine;
pub mod questions;
pub mod receive;
pub mod releases;
pub mod repos;
pub mod scrub;
pub mod secret;
pub mod stream;
pub mod sweep;
pub mod tags;
pub mod testimony;
pub mod three_ways;
pub mod tokens;
pub mod verify;
pub mod walk;

pub use access::Caller;
pub use error::HubError;
pub use limits::Limits;
pub use secret::Secret;

/// Everything a request needs. Shared as `Arc<Hub>`.
pub struct Hub {
    /// The log and the packs.
    pub engine: Engine,
    /// The read models.
    pub projections: Projections,
    /// Every bound on what callers may send, ask for or hold.
    pub limits: Limits,
    /// Where large request bodies wait; emptied at start.
    pub spool_dir: PathBuf,
    /// Creates unknown repositories on their owner's first push, with this visibility.
    pub create_on_push: Option<Visibility>,
    /// The local secret of the data directory: who has it is the operator.
    pub operator: Secret,
    /// How the log was found at open, when this process opened it.
    pub opened: Option<OpenReport>,
    /// When the projections were last seen to advance, for `/health`.
    pub(crate) advance: Advance,
    /// Other servers write this log too.
    pub(crate) shared: bool,
    pub(crate) activity: fresh::Activity,
    /// The log is brought into a bucket.
    pub(crate) archiving: bool,
    /// How far that is.
    pub(crate) archived: archive::Watch,
    /// Held by the scrub that is under way.
    pub(crate) scrubbing: Arc<tokio::sync::Mutex<()>>,
    closing: AtomicBool,
    blocking_jobs: Arc<Semaphore>,
    pub(crate) push_turns: push::PushTurns,
    /// Held while a large record is in memory.
    pub(crate) large_records: Mutex<()>,
    /// One permit for each id that large lists may hold.
    listed_ids: Arc<Semaphore>,
    /// One permit for each row of the packs that are being unpacked.
    unpacked_rows: Arc<Semaphore>,
    /// One permit for each mebibyte of them.
    unpacked_bytes: Arc<Semaphore>,
    pub(crate) uploads: mpack::uploads::Uploads,
    pub(crate) tickets: mpack::tickets::Tickets,
    /// Clients reach the bucket too: addresses lead there.
    pub(crate) clients_reach_bucket: Option<BucketReach>,
    /// Where clients reach this server, without a slash at its end, if large blobs of the stock client are to come by addresses of
    /// their own.
    pub(crate) own_url: Option<String>,
    revoked: tokens::Revoked,
    /// Work that goes on when its client is gone; a shutdown waits for it.
    pub(crate) tasks: TaskTracker,
}

/// What a hub is made of.
pub struct HubParts {
    /// The log and the packs.
    pub engine: Engine,
    /// The read models.
    pub projections: Projections,
    /// Bounds.
    pub limits: Limits,
    /// An existing directory for large request bodies.
    pub spool_dir: PathBuf,
    /// See [`Hub::create_on_push`].
    pub create_on_push: Option<Visibility>,
    /// See [`Hub::operator`].
    pub operator: Secret,
}

/// A repository that the caller may use, as far as [`Hub::readable`] or [`Hub::writable`] said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repo {
    /// Its settings.
    pub row: RepoRow,
    /// The right to read its rows and bytes.
    pub scope: RepoScope,
    /// It is not in the log yet: the first proposal about it creates it.
    pub is_new: bool,
}

impl Repo {
    /// A repository that is there.
    pub(crate) fn of(row: RepoRow) -> Repo {
        Repo { scope: row.scope(), row, is_new: false }
    }

    /// Its owner and slug.
    pub(crate) fn name(&self) -> repos::RepoName {
        let record = &self.row.record;
        repos::RepoName { owner: record.owner.clone(), slug: record.slug.clone() }
    }

    /// What must hold for a proposal about it.
    pub(crate) fn is_there(&self) -> Condition {
        let record = &self.row.record;
        match self.is_new {
            true => Condition::NameFree { owner: record.owner.clone(), slug: record.slug.clone() },
            false => Condition::RepoLive(record.repo),
        }
    }

    /// The event that a new one begins with.
    pub(crate) fn creation(&self) -> Option<EventBody> {
        self.is_new.then(|| EventBody::RepoCreated(self.row.record.clone()))
    }
}

/// How clients reach the bucket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BucketReach {
    /// At this endpoint, if not at the one that this server uses.
    pub endpoint: Option<String>,
}

/// What was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Position of the first event.
    pub first: Position,
    /// Position of the last event.
    pub last: Position,
    /// The same push id had been appended before; nothing was written now.
    pub repeated: bool,
}

impl Hub {
    /// A hub from its parts.
    pub fn new(parts: HubParts) -> Hub {
        let blocking_jobs = Arc::new(Semaphore::new(parts.limits.blocking_jobs_max));
        let listed_ids = Arc::new(Semaphore::new(parts.limits.listed_ids_max));
        let unpacked_rows = Arc::new(Semaphore::new(parts.limits.unpack_rows_max));
        let mebibytes = usize::try_from(parts.limits.unpack_bytes_max.div_ceil(MEBIBYTE)).unwrap_or(usize::MAX);
        let unpacked_bytes = Arc::new(Semaphore::new(mebibytes.min(Semaphore::MAX_PERMITS)));
        let HubParts { engine, projections, limits, spool_dir, create_on_push, operator } = parts;
        let tickets = mpack::tickets::Tickets::new(Arc::clone(engine.store()), Arc::clone(engine.random()));
        Hub {
            engine,
            projections,
            limits,
            spool_dir,
            create_on_push,
            operator,
            opened: None,
            advance: Advance::default(),
            shared: false,
            activity: fresh::Activity::default(),
            archiving: false,
            archived: archive::Watch::default(),
            scrubbing: Arc::default(),
            closing: AtomicBool::new(false),
            blocking_jobs,
            push_turns: push::PushTurns::default(),
            large_records: Mutex::new(()),
            listed_ids,
            unpacked_rows,
            unpacked_bytes,
            uploads: mpack::uploads::Uploads::default(),
            tickets,
            clients_reach_bucket: None,
            own_url: None,
            revoked: tokens::Revoked::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// The same hub over a log that other servers write too.
    #[must_use]
    pub fn shared(self, shared: bool) -> Hub {
        Hub { shared, ..self }
    }

    /// The same hub, whose log is brought into a bucket.
    #[must_use]
    pub fn archiving(self, archiving: bool) -> Hub {
        Hub { archiving, ..self }
    }

    /// The same hub, knowing how its log was found at open.
    #[must_use]
    pub fn with_report(self, opened: OpenReport) -> Hub {
        Hub { opened: Some(opened), ..self }
    }

    /// The same hub, giving the stock client one-time addresses below `url` for its large blobs.
    #[must_use]
    pub fn with_presigned_uploads(self, url: String) -> Hub {
        Hub { own_url: Some(url.trim_end_matches('/').to_owned()), ..self }
    }

    /// The same hub, with addresses in the bucket.
    #[must_use]
    pub fn with_bucket_reach(self, reach: Option<BucketReach>) -> Hub {
        Hub { clients_reach_bucket: reach, ..self }
    }

    /// Appends `proposal`, then waits (≤ 2 s) until it is folded, so that the caller reads its own write. Durable when this
    /// returns `Ok`, folded or not.
    ///
    /// Errors: `NotAppended` with the writer's reason; `Unknown` when it may or may not be in the log.
    pub async fn append(&self, proposal: Proposal) -> Result<Appended, HubError> {
        let push = proposal.push;
        let (reply, outcome) = oneshot::channel();
        // A caller that went away is fine: the outcome stands in the log.
        self.engine.propose(proposal, Box::new(move |outcome| drop(reply.send(outcome))));
        let appended = match outcome.await {
            Ok(Outcome::Done { first, last, repeated }) => Appended { first, last, repeated },
            Ok(Outcome::NotDone(reason @ Reason::ReadOnly(_))) => {
                let why = self.read_only().map(HubError::Unavailable);
                return Err(why.unwrap_or(HubError::NotAppended(reason)));
            }
            Ok(Outcome::NotDone(reason)) => return Err(HubError::NotAppended(reason)),
            Ok(Outcome::Unknown(push)) => return Err(HubError::Unknown(push)),
            Err(_) => return Err(HubError::Unknown(push)),
        };
        self.folded(appended.last, FOLD_AFTER_APPEND).await;
        Ok(appended)
    }

    /// Why nothing can be pushed, and what helps, if it is so.
    pub fn read_only(&self) -> Option<String> {
        Some(match self.engine.read_only()? {
            ReadOnly::Damaged(why) => format!("the log is read-only: {why}; stop the server and ask `reprise doctor`"),
            ReadOnly::Poisoned(why) => {
                format!("the log is read-only: what a write left on the disk is not known ({why}); restart the server")
            }
        })
    }

    /// Room for a large list of ids: one whose body did not stay in memory. Held by the job that has the list, and never while a
    /// client is waited for: whoever reads slowly would keep everybody else out.
    ///
    /// Errors: `Unavailable` when other lists hold all of it for too long.
    pub async fn room_for_ids(&self, body: &Body) -> Result<Option<OwnedSemaphorePermit>, HubError> {
        let Body::Spooled { len, .. } = body else { return Ok(None) };
        let max = self.limits.listed_ids_max;
        // A list that is larger than all of it has it alone.
        let ids = usize::try_from(len / encode::ID_LEN).unwrap_or(max).min(max);
        let room = Arc::clone(&self.listed_ids).acquire_many_owned(u32::try_from(ids).unwrap_or(u32::MAX));
        match timeout(self.limits.waiting_time_max, room).await {
            Ok(Ok(room)) => Ok(Some(room)),
            _ => Err(HubError::Unavailable(format!(
                "large lists of together {max} ids are being worked on, which is the limit, and there was no room for {ids} more \
                 within {} s: try again shortly",
                self.limits.waiting_time_max.as_secs()
            ))),
        }
    }

    /// Room for the rows of packs that are being unpacked. Held as long as they are.
    ///
    /// Errors: `TooLarge` for more than there is; `Unavailable` when others hold it for too long.
    pub(crate) async fn room_for_rows(&self, rows: usize) -> Result<OwnedSemaphorePermit, HubError> {
        let max = self.limits.unpack_rows_max;
        if rows > max {
            return Err(HubError::TooLarge(format!("the packs have {rows} rows together; the limit is {max}")));
        }
        self.room_to_unpack(&self.unpacked_rows, rows as u64, &format!("{max} rows")).await
    }

    /// The same for their bytes, which lie here while they are read: whole mebibytes of them.
    pub(crate) async fn room_for_bytes(&self, bytes: u64) -> Result<OwnedSemaphorePermit, HubError> {
        let max = self.limits.unpack_bytes_max;
        if bytes > max {
            return Err(HubError::TooLarge(format!("the packs have {bytes} bytes together; the limit is {max}")));
        }
        self.room_to_unpack(&self.unpacked_bytes, bytes.div_ceil(MEBIBYTE), &format!("{max} bytes")).await
    }

    async fn room_to_unpack(
        &self,
        room: &Arc<Semaphore>,
        permits: u64,
        limit: &str,
    ) -> Result<OwnedSemaphorePermit, HubError> {
        let taken = Arc::clone(room).acquire_many_owned(u32::try_from(permits).unwrap_or(u32::MAX));
        match timeout(self.limits.waiting_time_max, taken).await {
            Ok(Ok(taken)) => Ok(taken),
            _ => Err(HubError::Unavailable(format!(
                "packs of together {limit} are being unpacked, which is the limit: try again shortly"
            ))),
        }
    }

    /// Runs blocking work (file and index I/O, hashing) on a thread of its own, at most `limits.blocking_jobs_max` at a
    /// time. The job runs to its end even when the caller goes away.
    pub async fn blocking<T, F>(&self, job: F) -> Result<T, HubError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, HubError> + Send + 'static,
    {
        let permit = timeout(self.limits.waiting_time_max, Arc::clone(&self.blocking_jobs).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(HubError::Unavailable(format!(
                "{} jobs are being worked on, which is the limit, and none ended within {} s: try again shortly",
                self.limits.blocking_jobs_max,
                self.limits.waiting_time_max.as_secs()
            )));
        };
        let done = tokio::task::spawn_blocking(move || {
            let result = job();
            drop(permit);
            result
        });
        done.await.map_err(|error| HubError::died(&error))?
    }

    /// A short index read off the async workers. Takes no job permit, so that access checks pass while heavy jobs wait.
    pub(crate) async fn read<T, F>(&self, job: F) -> Result<T, HubError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, HubError> + Send + 'static,
    {
        tokio::task::spawn_blocking(job).await.map_err(|error| HubError::died(&error))?
    }

    /// Waits until views show `position`; false if `wait` passed first. Not before the projections are open, whatever the
    /// position.
    pub async fn folded(&self, position: Position, wait: Duration) -> bool {
        if self.projections.wait_folded(position, Duration::ZERO) {
            return true;
        }
        let (reply, folded) = oneshot::channel();
        self.projections.when_folded(position, Box::new(move || _ = reply.send(()).is_ok()));
        matches!(tokio::time::timeout(wait, folded).await, Ok(Ok(())))
    }

    /// The newest view. Right after a start, waits (≤ 5 s) until the projections are open; if they are not then, every read
    /// of the view says why.
    pub async fn view(&self) -> View {
        let open = self.projections.wait_folded(Position::ZERO, Duration::ZERO);
        if !open && self.projections.status().state != "stopped" {
            self.folded(Position::ZERO, FOLD_BEFORE_READ).await;
        }
        self.projections.view()
    }

    /// A view that shows `position` at least; 503 when folding takes longer than 5 s.
    pub async fn view_at(&self, position: Position) -> Result<View, HubError> {
        if !self.folded(position, FOLD_BEFORE_READ).await {
            let lag = self.projections.lag();
            return Err(HubError::Unavailable(format!(
                "the index is {} events behind the log; it is catching up, try again shortly",
                lag.events
            )));
        }
        Ok(self.projections.view())
    }

    /// Tells endless answers (a followed log) to end; the first step of a shutdown.
    pub fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Whether a shutdown has begun.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// A fresh push id.
    pub fn random_push_id(&self) -> Result<PushId, HubError> {
        Ok(PushId::from_random(random16(self.engine.random().as_ref())?))
    }

    /// Wall-clock time, milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.engine.clock().now_ms()
    }
}

const MEBIBYTE: u64 = 1 << 20;
/// How long an append waits for its own fold.
const FOLD_AFTER_APPEND: Duration = Duration::from_secs(2);
/// How long a read waits for its repository's last event.
const FOLD_BEFORE_READ: Duration = Duration::from_secs(5);
