//! The bucket as the one server of the matrix reaches it, whose requests have fates.
//!
//! Invariants: one request of a story has the fate that was asked for (some fates say how the ones behind it fare); all others do
//! exactly what the bucket does; each is named by what the protocol needs it for.

use std::sync::Arc;

use bytes::Bytes;
use reprise_engine::{
    Error, ErrorKind, Result,
    id::LogId,
    store::{Created, ObjectStore, Staged, StoreKey, memory::MemoryStore},
};

use super::matrix::Stage;

/// What a request of the protocol is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    /// Whose log it is.
    ReadMark,
    /// To name the log.
    CreateMark,
    /// Where segments end.
    ReadRule,
    /// To say where.
    CreateRule,
    /// To write a group.
    CreateSlot,
    /// Whose group it is, or what comes next.
    ReadSlot,
    /// Whether it was sealed: the floor.
    LookForSegment,
    /// All of a sealed segment.
    ReadSegment,
    /// To seal.
    CommitSegment,
    /// To compare what was sealed, or to fetch it.
    ReadPiece,
    /// To fetch it.
    SizeOfSegment,
    /// Whether its slots have gone.
    LookForSlot,
    /// A slot that was won too late.
    DeleteSlot,
    /// Those of a sealed segment.
    DeleteSlots,
}

/// All of them.
pub const STEPS: [Step; 14] = [
    Step::ReadMark,
    Step::CreateMark,
    Step::ReadRule,
    Step::CreateRule,
    Step::CreateSlot,
    Step::ReadSlot,
    Step::LookForSegment,
    Step::ReadSegment,
    Step::CommitSegment,
    Step::ReadPiece,
    Step::SizeOfSegment,
    Step::LookForSlot,
    Step::DeleteSlot,
    Step::DeleteSlots,
];

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fate {
    /// It fails without effect, and so do this many behind it.
    Lost(usize),
    /// It takes effect and gets no answer, and this many behind it fail.
    Unanswered(usize),
    /// Tried again below, it meets its own effect: 412.
    MetItself,
    /// The same, and before the answer the other server seals that; then the request so many behind it fails.
    MetItselfSealed(usize),
    /// The other server appends before its effect: 412, and not its own.
    Beaten,
    /// The other server seals before its effect.
    Overslept,
    /// The other server appends between effect and answer.
    AnsweredAfterAppend,
    /// The other server seals between effect and answer.
    AnsweredAfterSealing,
    /// The other server seals after its effect, and there is no answer.
    UnansweredSealed,
    /// It is given up, and takes effect later.
    Late(When),
    /// It takes effect, is answered, and takes effect once more later.
    Again(When),
    /// Half of it takes effect, and it fails (many keys only).
    Half,
}

/// When something that is under way arrives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum When {
    /// After the other server has appended.
    Appended,
    /// After the other server has sealed.
    Sealed,
    /// At the end of the story.
    End,
}

const READS: [Fate; 8] = [
    Fate::Lost(0),
    Fate::Lost(1),
    Fate::Lost(4),
    Fate::Beaten,
    Fate::Overslept,
    Fate::AnsweredAfterAppend,
    Fate::AnsweredAfterSealing,
    Fate::UnansweredSealed,
];
const WRITES: [Fate; 8] = [
    Fate::Unanswered(0),
    Fate::Unanswered(1),
    Fate::Unanswered(4),
    Fate::Late(When::Appended),
    Fate::Late(When::Sealed),
    Fate::Late(When::End),
    Fate::Again(When::Sealed),
    Fate::Again(When::End),
];
const CREATES: [Fate; 6] = [
    Fate::MetItself,
    Fate::MetItselfSealed(1),
    Fate::MetItselfSealed(2),
    Fate::MetItselfSealed(3),
    Fate::MetItselfSealed(4),
    Fate::MetItselfSealed(5),
];

impl Step {
    /// What can become of it.
    pub fn fates(self) -> Vec<Fate> {
        let mut fates = READS.to_vec();
        match self {
            Step::CreateMark | Step::CreateRule | Step::CreateSlot | Step::CommitSegment => {
                fates.extend(WRITES);
                fates.extend(CREATES);
            }
            Step::DeleteSlot => fates.extend(WRITES),
            Step::DeleteSlots => {
                fates.extend(WRITES);
                fates.push(Fate::Half);
            }
            _ => {}
        }
        fates
    }
}

/// Which requests there were, and what becomes of one of them.
pub struct Script {
    /// What they were for, in order.
    pub requests: Vec<Step>,
    sleeps: Option<usize>,
    fate: Option<(usize, Fate)>,
    over: bool,
}

impl Script {
    pub(super) fn new(sleeps: Option<usize>, fate: Option<(usize, Fate)>) -> Script {
        Script { requests: Vec::new(), sleeps, fate, over: false }
    }

    /// Nothing fails from here on. An error if the fate has not come true.
    pub(super) fn stop(&mut self) -> std::result::Result<(), String> {
        self.over = true;
        match self.fate {
            Some((number, _)) if number >= self.requests.len() => Err("its fate never came".to_owned()),
            _ => Ok(()),
        }
    }

    /// Whether a slot may arrive after it was sealed: nobody believes it, and nobody knows of it.
    pub(super) fn may_leave_a_stray(&self) -> bool {
        let of_slot = |number: &usize| self.requests.get(*number) == Some(&Step::CreateSlot);
        matches!(&self.fate, Some((number, Fate::Late(_) | Fate::Again(_))) if of_slot(number))
    }

    fn next(&mut self, step: Step) -> Option<Fate> {
        if self.over {
            return None;
        }
        let number = self.requests.len();
        self.requests.push(step);
        if self.sleeps == Some(number) {
            return Some(Fate::Overslept);
        }
        let behind = number.checked_sub(self.fate?.0)?;
        match (self.fate?.1, behind) {
            (fate, 0) => Some(fate),
            (Fate::Lost(more) | Fate::Unanswered(more), behind) if behind <= more => Some(Fate::Lost(0)),
            (Fate::MetItselfSealed(at), behind) if behind == at => Some(Fate::Lost(0)),
            _ => None,
        }
    }
}

/// A request that changes something, and may do so later.
#[derive(Clone)]
pub(super) enum Write {
    Create(StoreKey, Vec<u8>),
    Delete(Vec<StoreKey>),
}

impl Write {
    /// True if it created something.
    pub(super) fn act(&self, bucket: &MemoryStore) -> Result<bool> {
        match self {
            Write::Create(key, bytes) => bucket.create(key, bytes),
            Write::Delete(keys) => bucket.delete_all(keys).map(|()| true),
        }
    }

    fn half(&self) -> Write {
        match self {
            Write::Delete(keys) => Write::Delete(keys[..keys.len() / 2].to_vec()),
            Write::Create(..) => self.clone(),
        }
    }
}

/// The door.
pub(super) struct Door {
    stage: Arc<Stage>,
}

impl Door {
    pub(super) fn new(stage: Arc<Stage>) -> Door {
        Door { stage }
    }

    fn next(&self, step: Step) -> Option<Fate> {
        self.stage.script().next(step)
    }

    fn read<T>(&self, step: Step, act: impl Fn() -> Result<T>) -> Result<T> {
        match self.next(step) {
            Some(Fate::Lost(_)) => return lost(),
            Some(Fate::Beaten) => self.stage.append(1),
            Some(Fate::Overslept) => self.stage.seal(),
            Some(Fate::AnsweredAfterAppend) => {
                let done = act();
                self.stage.append(1);
                return done;
            }
            Some(Fate::AnsweredAfterSealing) => {
                let done = act();
                self.stage.seal();
                return done;
            }
            Some(Fate::UnansweredSealed) => {
                self.stage.seal();
                return lost();
            }
            _ => {}
        }
        act()
    }

    fn write(&self, step: Step, write: &Write) -> Result<bool> {
        let act = || write.act(&self.stage.bucket);
        let done = |done: Result<bool>| done.map(drop);
        match self.next(step) {
            None => act(),
            Some(Fate::Lost(_)) => lost(),
            Some(Fate::Unanswered(_)) => done(act()).and(lost()),
            Some(Fate::MetItself) => done(act()).and(Ok(false)),
            Some(Fate::MetItselfSealed(_)) => {
                done(act())?;
                self.stage.seal();
                Ok(false)
            }
            Some(Fate::Beaten) => {
                self.stage.append(1);
                act()
            }
            Some(Fate::Overslept) => {
                self.stage.seal();
                act()
            }
            Some(Fate::AnsweredAfterAppend) => {
                let done = act();
                self.stage.append(1);
                done
            }
            Some(Fate::AnsweredAfterSealing) => {
                let done = act();
                self.stage.seal();
                done
            }
            Some(Fate::UnansweredSealed) => {
                done(act())?;
                self.stage.seal();
                lost()
            }
            Some(Fate::Late(when)) => {
                self.stage.keep_late(when, write.clone());
                lost()
            }
            Some(Fate::Again(when)) => {
                self.stage.keep_late(when, write.clone());
                act()
            }
            Some(Fate::Half) => done(write.half().act(&self.stage.bucket)).and(lost()),
        }
    }
}

fn lost<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unknown, "a fate of the story"))
}

/// What a key is: a slot, a segment, the mark, or the rule.
fn of(key: &StoreKey, slot: Step, segment: Step, mark: Step, rule: Step) -> Step {
    match key.as_str() {
        "STORE" => mark,
        "log/SHARED" => rule,
        name if name.starts_with("log/slots/") => slot,
        name if name.starts_with("log/seg-") => segment,
        other => panic!("the protocol has no use for {other}"),
    }
}

impl ObjectStore for Door {
    fn stage(&self) -> Result<Box<dyn Staged>> {
        Ok(Box::new(Sealing { stage: Arc::clone(&self.stage), bytes: Vec::new() }))
    }

    fn read(&self, key: &StoreKey, offset: u64, len: u64) -> Result<Bytes> {
        self.read(Step::ReadPiece, || self.stage.bucket.read(key, offset, len))
    }

    fn read_tail(&self, key: &StoreKey, len: u64) -> Result<(Bytes, u64)> {
        let segment = if len > 1 << 20 { Step::ReadSegment } else { Step::LookForSegment };
        let step = of(key, Step::ReadSlot, segment, Step::ReadMark, Step::ReadRule);
        self.read(step, || self.stage.bucket.read_tail(key, len))
    }

    fn size(&self, key: &StoreKey) -> Result<u64> {
        let step = of(key, Step::LookForSlot, Step::SizeOfSegment, Step::ReadMark, Step::ReadRule);
        self.read(step, || self.stage.bucket.size(key))
    }

    fn create(&self, key: &StoreKey, bytes: &[u8]) -> Result<bool> {
        let step = of(key, Step::CreateSlot, Step::CommitSegment, Step::CreateMark, Step::CreateRule);
        self.write(step, &Write::Create(key.clone(), bytes.to_vec()))
    }

    fn delete(&self, key: &StoreKey) -> Result<()> {
        self.write(Step::DeleteSlot, &Write::Delete(vec![key.clone()])).map(drop)
    }

    fn delete_all(&self, keys: &[StoreKey]) -> Result<()> {
        self.write(Step::DeleteSlots, &Write::Delete(keys.to_vec())).map(drop)
    }

    fn list(&self, prefix: &str) -> Result<Vec<StoreKey>> {
        panic!("the protocol lists nothing, and {prefix} was listed");
    }

    fn uri(&self, key: &StoreKey) -> String {
        self.stage.bucket.uri(key)
    }

    fn sweep_staged(&self) -> Result<usize> {
        Ok(0)
    }

    fn claim(&self, log: LogId, fresh: bool) -> Result<()> {
        // In memory the claim is no request; over S3 it is one of the other matrix.
        self.stage.bucket.claim(log, fresh)
    }
}

/// A segment on its way.
struct Sealing {
    stage: Arc<Stage>,
    bytes: Vec<u8>,
}

impl Staged for Sealing {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn read_back(&self, offset: u64, len: u64) -> Result<Bytes> {
        let end = offset.checked_add(len).filter(|end| *end <= self.bytes.len() as u64);
        let end = end.ok_or_else(|| Error::invalid("beyond what was staged"))?;
        Ok(Bytes::copy_from_slice(&self.bytes[offset as usize..end as usize]))
    }

    fn commit(self: Box<Self>, key: &StoreKey) -> Result<Created> {
        let write = Write::Create(key.clone(), self.bytes.clone());
        if Door::new(Arc::clone(&self.stage)).write(Step::CommitSegment, &write)? {
            return Ok(Created::New);
        }
        match self.stage.bucket.read_tail(key, u64::MAX)?.0 == self.bytes {
            true => Ok(Created::Existed),
            false => Err(Error::corrupt(key.as_str(), 0, "other bytes stand under this key")),
        }
    }
}
