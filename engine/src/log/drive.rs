//! Driving the writer: whoever holds it takes the queue, steps the state machine, does its I/O, then calls back.
//!
//! Invariants: one driver at a time; callers are answered after the writer was let go, so that an answer may propose
//! again, and before anything is asked of a bucket, which takes a while; a queue that is not empty after a turn, or a request to a
//! bucket that is still to come, wakes the writer's thread; nothing here decides anything. A caller that waits drives the writer
//! himself when it is free: that saves two thread hand-offs, about half of a small commit.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::ThreadId,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::{
    anchor::Anchor,
    bucket::{BucketLog, Committed},
    files::{self, LogFiles, make_spare},
    helper::{Helper, spawn},
    published::Published,
    queued::{Answer, LookReply, Queued, Reply, answer, approximate_bytes, refused_look},
};
use crate::{
    clock::random16,
    disk::{DiskFile, DiskLock},
    engine::{Driver, Options, Outcome, Parts, Proposal, ReadOnly, Reason},
    error::{Error, ErrorKind, Result},
    id::{ChainHash, LogId},
    limits::WRITER_QUEUE_MAX,
    planted::{self, PlantedBug},
    writer::{Input, Io, Output, Tail, Ticket, WriterCore},
};

/// The queue, the writer and what they share with readers.
pub(crate) struct Drive {
    pub(crate) parts: Parts,
    pub(crate) published: Published,
    pub(crate) log: LogId,
    driver: Driver,
    /// Other servers write this log too.
    shared: bool,
    queue_bytes_max: u64,
    queue_in: Sender<Queued>,
    queue_out: Receiver<Queued>,
    queue_bytes: AtomicU64,
    wake: Mutex<Option<Sender<()>>>,
    closed: AtomicBool,
    writer: Mutex<Writer>,
    /// Who drives inline.
    inline: Mutex<Option<ThreadId>>,
}

/// What a driver drives.
pub(crate) struct Driven {
    pub(crate) core: WriterCore,
    pub(crate) files: LogFiles,
    pub(crate) lock: Box<dyn DiskLock>,
    /// The bucket's side of a bucket log.
    pub(crate) bucket: Option<BucketLog>,
}

/// The state machine with its files, held by one driver at a time.
struct Writer {
    core: WriterCore,
    files: LogFiles,
    bucket: Option<BucketLog>,
    helper: Option<Helper>,
    replies: BTreeMap<Ticket, Reply>,
    looks: BTreeMap<Ticket, LookReply>,
    next_ticket: Ticket,
    /// What is to be told the core next.
    inputs: VecDeque<Input>,
    /// What the core waits for from the bucket, not yet asked.
    far: Option<Output>,
    /// Of the proposals of this turn.
    taken_bytes: u64,
    lock: Option<Box<dyn DiskLock>>,
    stopped: Option<bool>,
}

impl Drive {
    /// Ready to be driven.
    pub(crate) fn new(
        parts: Parts,
        options: &Options,
        log: LogId,
        published: Published,
        driven: Driven,
    ) -> Result<Drive> {
        let helper = match options.driver {
            Driver::Threads => Some(Helper::start(parts.disk.clone())?),
            Driver::Inline => None,
        };
        let (queue_in, queue_out) = bounded(WRITER_QUEUE_MAX);
        let shared = driven.bucket.is_some();
        let writer = Writer {
            core: driven.core,
            files: driven.files,
            bucket: driven.bucket,
            helper,
            replies: BTreeMap::new(),
            looks: BTreeMap::new(),
            next_ticket: 0,
            inputs: VecDeque::new(),
            far: None,
            taken_bytes: 0,
            lock: Some(driven.lock),
            stopped: None,
        };
        Ok(Drive {
            parts,
            published,
            log,
            driver: options.driver,
            shared,
            queue_bytes_max: options.queue_bytes_max,
            queue_in,
            queue_out,
            queue_bytes: AtomicU64::new(0),
            wake: Mutex::new(None),
            closed: AtomicBool::new(false),
            writer: Mutex::new(writer),
            inline: Mutex::new(None),
        })
    }

    /// Starts the thread that drives when no caller does. It ends when [`Drive::close`] was called.
    pub(crate) fn start_writer(self: &Arc<Drive>) -> Result<()> {
        if self.driver == Driver::Inline {
            return Ok(());
        }
        let (wake, woken) = bounded(1);
        let drive = self.clone();
        spawn("log-writer", move || {
            while woken.recv().is_ok() {
                while drive.turn_as_thread() {}
            }
        })?;
        *lock(&self.wake) = Some(wake);
        Ok(())
    }

    /// Queues a proposal and sees to it that somebody drives.
    pub(crate) fn propose(&self, proposal: Proposal, reply: Reply) {
        if self.enqueue(proposal, reply) {
            self.drive_soon();
        }
    }

    /// Calls back with a position at or before which everything stands that was acknowledged, by any server, before this call;
    /// it is published then.
    pub(crate) fn look(&self, reply: LookReply) {
        if !self.shared {
            return reply(Ok(self.published.look().durable.position));
        }
        if self.closed.load(Ordering::SeqCst) {
            return reply(Err(refused_look(&Reason::Closed)));
        }
        match self.queue_in.try_send(Queued::Look(reply)) {
            Ok(()) => self.drive_soon(),
            Err(TrySendError::Full(queued) | TrySendError::Disconnected(queued)) => {
                if let Queued::Look(reply) = queued {
                    reply(Err(refused_look(&Reason::Busy(BUSY))));
                }
            }
        }
    }

    /// Sees to it that what was queued is taken up.
    fn drive_soon(&self) {
        match self.driver {
            // A shutdown that did not see what was queued has closed before: nobody else will answer it.
            Driver::Threads if self.closed.load(Ordering::SeqCst) => while self.turn_as_thread() {},
            Driver::Threads => self.wake(),
            Driver::Inline => self.turns_inline(),
        }
    }

    /// Proposes and waits; drives the writer if nobody does.
    pub(crate) fn propose_and_wait(&self, proposal: Proposal) -> Outcome {
        let push = proposal.push;
        let (answer, answered) = bounded(1);
        // The receiver lives on this stack: sending cannot fail before it has an answer.
        let reply = Box::new(move |outcome| drop(answer.send(outcome)));
        if self.enqueue(proposal, reply) {
            match self.driver {
                Driver::Threads => self.turn_as_caller(),
                Driver::Inline => self.turns_inline(),
            }
        }
        // Without an answer the writer died under it: nobody knows.
        answered.recv().unwrap_or(Outcome::Unknown(push))
    }

    /// Other servers write this log too.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Seals the active segment, if there is anything in it.
    pub(crate) fn roll(&self) {
        if let Ok(writer) = self.writer.lock() {
            self.drive(writer, [Input::Roll]);
        }
        // Whoever came meanwhile found a driver and left.
        if !self.queue_out.is_empty() {
            self.drive_soon();
        }
    }

    /// Finishes what is queued, writes the mark and the anchor, lets the directory go.
    pub(crate) fn shutdown(&self) -> Result<()> {
        self.closed.store(true, Ordering::SeqCst);
        while self.turn_as_thread() {}
        let Ok(mut writer) = self.writer.lock() else {
            return Err(Error::new(
                ErrorKind::Poisoned,
                "the writer died; the log will be recovered at the next opening",
            ));
        };
        if writer.stopped.is_some() && writer.lock.is_none() {
            return Ok(());
        }
        let mut answers = self.run(&mut writer, [Input::Shutdown]);
        while writer.far.is_some() {
            answers.extend(self.run(&mut writer, []));
        }
        let marked = writer.stopped == Some(true);
        writer.end_helper();
        let anchored = if marked { self.write_anchor() } else { Ok(()) };
        writer.lock = None;
        drop(writer);
        answer(answers);
        self.published.close();
        self.end_thread();
        anchored
    }

    /// Lets everything go without a mark, as a crash would.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.end_thread();
        let mut writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        writer.stopped.get_or_insert(false);
        writer.end_helper();
        writer.lock = None;
        drop(writer);
        self.published.close();
    }

    fn write_anchor(&self) -> Result<()> {
        let durable = self.published.look().durable;
        files::write_anchor(&*self.parts.disk, &Anchor { log: self.log, durable })
    }

    fn end_thread(&self) {
        *lock(&self.wake) = None;
    }

    fn wake(&self) {
        if let Some(wake) = &*lock(&self.wake) {
            match wake.try_send(()) {
                // It is awake, or will be.
                Ok(()) | Err(TrySendError::Full(())) => {}
                // It died under the writer, which says so to whoever takes it.
                Err(TrySendError::Disconnected(())) => _ = self.turn_as_thread(),
            }
        }
    }

    /// False if it was answered at once.
    fn enqueue(&self, proposal: Proposal, reply: Reply) -> bool {
        if self.closed.load(Ordering::SeqCst) {
            reply(Outcome::NotDone(Reason::Closed));
            return false;
        }
        let bytes = approximate_bytes(&proposal);
        let held = self.queue_bytes.fetch_add(bytes, Ordering::SeqCst);
        // A proposal that is larger than the whole queue may still pass alone.
        if held > 0 && held + bytes > self.queue_bytes_max {
            self.queue_bytes.fetch_sub(bytes, Ordering::SeqCst);
            reply(Outcome::NotDone(Reason::Busy(BUSY)));
            return false;
        }
        match self.queue_in.try_send(Queued::Proposal { proposal, bytes, reply }) {
            Ok(()) => true,
            Err(TrySendError::Full(queued) | TrySendError::Disconnected(queued)) => {
                self.queue_bytes.fetch_sub(bytes, Ordering::SeqCst);
                if let Queued::Proposal { reply, .. } = queued {
                    reply(Outcome::NotDone(Reason::Busy(BUSY)));
                }
                false
            }
        }
    }

    /// One turn by a thread that may wait for its turn. True if there is more to do.
    fn turn_as_thread(&self) -> bool {
        match self.writer.lock() {
            Ok(mut writer) => {
                let asked = self.begin_turn(&mut writer);
                self.drive(writer, asked);
            }
            Err(dead) => self.refuse_for(dead.into_inner()),
        }
        !self.queue_out.is_empty()
    }

    /// Turns until nothing is queued. What answers propose waits for the turn after them: they share a group, and no answer
    /// runs within another one.
    fn turns_inline(&self) {
        let me = std::thread::current().id();
        if lock(&self.inline).replace(me) == Some(me) {
            return;
        }
        while self.turn_as_thread() {}
        *lock(&self.inline) = None;
    }

    /// One turn by a caller, if the writer is free; the writer's thread does what is left.
    fn turn_as_caller(&self) {
        let mut far = false;
        match self.writer.try_lock() {
            Ok(mut writer) => {
                let asked = self.begin_turn(&mut writer);
                let answers = self.run(&mut writer, asked);
                // He may have his answer: others wait for what comes.
                far = writer.far.is_some();
                drop(writer);
                answer(answers);
            }
            // Whoever drives looks at the queue again after he let go, so this proposal is seen.
            Err(TryLockError::WouldBlock) => return,
            Err(TryLockError::Poisoned(dead)) => self.refuse_for(dead.into_inner()),
        }
        if far || !self.queue_out.is_empty() {
            self.wake();
        }
    }

    fn begin_turn(&self, writer: &mut Writer) -> Vec<Input> {
        writer.taken_bytes = 0;
        self.take_queued(writer)
    }

    /// Runs the writer until it wants nothing more, letting it go whenever somebody is to be answered.
    fn drive<'a>(&'a self, mut writer: MutexGuard<'a, Writer>, asked: impl IntoIterator<Item = Input>) {
        let mut answers = self.run(&mut writer, asked);
        while writer.far.is_some() {
            drop(writer);
            answer(answers);
            writer = match self.writer.lock() {
                Ok(writer) => writer,
                Err(dead) => return self.refuse_for(dead.into_inner()),
            };
            answers = self.run(&mut writer, []);
        }
        drop(writer);
        answer(answers);
    }

    /// What is queued, as far as there is room for it in this turn.
    fn take_queued(&self, writer: &mut Writer) -> Vec<Input> {
        let (mut batch, mut looks, before) = (Vec::new(), Vec::new(), writer.taken_bytes);
        while writer.taken_bytes < TURN_BYTES
            && let Ok(queued) = self.queue_out.try_recv()
        {
            match queued {
                Queued::Proposal { proposal, bytes, reply } => {
                    writer.taken_bytes += bytes;
                    batch.push((writer.ticket(reply), proposal));
                }
                Queued::Look(reply) => looks.push(writer.look_ticket(reply)),
            }
        }
        self.queue_bytes.fetch_sub(writer.taken_bytes - before, Ordering::SeqCst);
        // Proposals first: a group that is written answers the looks as well.
        let proposals = (!batch.is_empty()).then_some(Input::Proposals(batch));
        proposals.into_iter().chain((!looks.is_empty()).then_some(Input::Looks(looks))).collect()
    }

    /// Steps the writer until it wants nothing more, or something of the bucket while somebody is to be answered.
    fn run(&self, writer: &mut Writer, asked: impl IntoIterator<Item = Input>) -> Vec<Answer> {
        if writer.stopped.is_some() {
            return writer.refuse_all();
        }
        let mut answers = Vec::new();
        // Readers do not hold the writer: what one of them met is heard here, before anything else is decided.
        if let Some(ReadOnly::Damaged(why)) = &self.published.look().read_only {
            writer.inputs.push_back(Input::Damaged(why.clone()));
        }
        let made = writer.made(&self.parts, false);
        writer.inputs.extend(made);
        writer.inputs.extend(asked);
        loop {
            let Some(input) = writer.inputs.pop_front() else {
                match writer.far.take() {
                    Some(far) if answers.is_empty() => {
                        let came = self.perform(writer, far);
                        writer.inputs.extend(came);
                        continue;
                    }
                    far => writer.far = far,
                }
                return answers;
            };
            for output in writer.core.step(input, self.parts.clock.now_ms()) {
                match output {
                    // Who came meanwhile goes along: what the look finds is newer than all that they ask for.
                    Output::Look { .. } => {
                        let queued = self.take_queued(writer);
                        writer.inputs.extend(queued);
                        writer.far = Some(output);
                    }
                    Output::Append { .. } if self.shared => writer.far = Some(output),
                    Output::Reply(ticket, outcome) => {
                        let reply = writer.replies.remove(&ticket);
                        answers.extend(reply.map(|reply| Answer::Outcome(reply, outcome)));
                    }
                    Output::ReplyLook(ticket, seen) => {
                        let seen = seen.map_err(|reason| refused_look(&reason));
                        answers.extend(writer.looks.remove(&ticket).map(|reply| Answer::Look(reply, seen)));
                    }
                    output => {
                        let came = self.perform(writer, output);
                        writer.inputs.extend(came);
                    }
                }
            }
            if writer.inputs.is_empty() && writer.core.waits_for_spare() {
                let made = writer.made(&self.parts, true);
                writer.inputs.extend(made);
            }
        }
    }

    /// Does one thing that the writer wants; what came of it.
    fn perform(&self, writer: &mut Writer, output: Output) -> Option<Input> {
        match output {
            Output::Append { offset, bytes, tail, chain } => Some(writer.append(offset, &bytes, &tail, chain)),
            Output::Adopt { offset, bytes } => Some(Input::Appended(writer.files.append(offset, &bytes))),
            Output::Prepare { capacity } => writer.prepare(&self.parts, capacity),
            Output::Activate(header) => {
                let io = writer.files.activate(&header);
                if io == Io::Done {
                    self.published.activated(header);
                }
                Some(Input::Activated(io))
            }
            Output::Seal { first, offset, bytes } => {
                let io = writer.files.seal(offset, &bytes);
                if io == Io::Done {
                    self.published.sealed(first, offset + bytes.len() as u64);
                }
                Some(Input::Sealed(io))
            }
            Output::Publish(committed) => {
                self.published.publish(committed);
                None
            }
            Output::Poisoned(why) => {
                self.published.read_only(ReadOnly::Poisoned(why));
                None
            }
            Output::Stopped(marked) => {
                writer.stopped = Some(marked);
                None
            }
            Output::Look { tail, crowded } => writer.look(&tail, crowded, &self.published),
            Output::Reply(..) | Output::ReplyLook(..) => None,
        }
    }

    /// The writer died in somebody's turn: who waits for an answer of that turn learns that there is none, the others are refused.
    fn refuse_for(&self, mut writer: MutexGuard<'_, Writer>) {
        let (replies, looks) = (std::mem::take(&mut writer.replies), std::mem::take(&mut writer.looks));
        drop(writer);
        drop((replies, looks));
        let dead = Reason::ReadOnly("the writer died".to_owned());
        while let Ok(queued) = self.queue_out.try_recv() {
            match queued {
                Queued::Proposal { bytes, reply, .. } => {
                    self.queue_bytes.fetch_sub(bytes, Ordering::SeqCst);
                    reply(Outcome::NotDone(dead.clone()));
                }
                Queued::Look(reply) => reply(Err(refused_look(&dead))),
            }
        }
    }
}

impl Writer {
    fn ticket(&mut self, reply: Reply) -> Ticket {
        self.next_ticket += 1;
        self.replies.insert(self.next_ticket, reply);
        self.next_ticket
    }

    fn look_ticket(&mut self, reply: LookReply) -> Ticket {
        self.next_ticket += 1;
        self.looks.insert(self.next_ticket, reply);
        self.next_ticket
    }

    /// Everybody who waits, told that the engine is closed.
    fn refuse_all(&mut self) -> Vec<Answer> {
        (self.far, self.inputs) = (None, VecDeque::new());
        let closed = |reply| Answer::Outcome(reply, Outcome::NotDone(Reason::Closed));
        let unseen = |reply| Answer::Look(reply, Err(refused_look(&Reason::Closed)));
        let replies = std::mem::take(&mut self.replies).into_values().map(closed);
        replies.chain(std::mem::take(&mut self.looks).into_values().map(unseen)).collect()
    }

    /// Writes a group: to the bucket first, if the log lives there, and then to the local copy.
    fn append(&mut self, offset: u64, bytes: &[u8], tail: &Tail, chain: ChainHash) -> Input {
        match self.bucket.as_mut().map(|bucket| bucket.commit(tail, bytes, chain)) {
            Some(_) if planted::is(PlantedBug::AckBeforeSlot) => Input::Appended(self.files.append(offset, bytes)),
            None | Some(Committed::Done) => Input::Appended(self.files.append(offset, bytes)),
            Some(Committed::Taken) => Input::Taken,
            Some(Committed::Unsure(why)) => Input::Unsure(why),
        }
    }

    fn look(&mut self, tail: &Tail, crowded: bool, published: &Published) -> Option<Input> {
        let looked = self.bucket.as_mut()?.look(tail, crowded);
        let looked = looked.inspect_err(|error| published.met_damage(error));
        Some(Input::Looked(looked.map_err(|error| Reason::Unavailable(error.to_string()))))
    }

    /// Has a spare made: by the helper, or at once if there is none.
    fn prepare(&mut self, parts: &Parts, capacity: u64) -> Option<Input> {
        match &self.helper {
            Some(helper) => match helper.ask(capacity) {
                true => None,
                false => Some(Input::Prepared(Io::Lost("the helper thread is gone".to_owned()), [0; 16])),
            },
            None => Some(self.prepared(parts, make_spare(&*parts.disk, capacity))),
        }
    }

    /// The spare that the helper made, if it did (or, with `wait`, when it has).
    fn made(&mut self, parts: &Parts, wait: bool) -> Option<Input> {
        let helper = self.helper.as_ref()?;
        let made = helper.made(wait)?;
        Some(self.prepared(parts, made))
    }

    fn prepared(&mut self, parts: &Parts, made: Result<Arc<dyn DiskFile>>) -> Input {
        match random16(&*parts.random) {
            Ok(salt) => Input::Prepared(self.files.prepared(made), salt),
            Err(error) => Input::Prepared(Io::Lost(error.to_string()), [0; 16]),
        }
    }

    /// Waits for the helper, so that nothing touches the directory after it is let go.
    fn end_helper(&mut self) {
        if let Some(helper) = self.helper.take() {
            helper.end();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// One turn takes proposals of about this many bytes; the rest is another turn's.
const TURN_BYTES: u64 = 16 << 20;
/// When to come back after Busy.
const BUSY: Duration = Duration::from_millis(100);
