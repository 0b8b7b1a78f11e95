//! Phase one of a rebuild: threads take groups from the segments, fold them, and leave sorted runs.
//!
//! Invariants: every position from 1 to the end is folded exactly once, or the phase fails; the groups of one segment
//! are taken in order and checked to be dense, by one thread at a time, while any thread decodes and folds what it took;
//! of large groups only one is decoded at a time. Memory: one buffer per thread, plus what is being decoded.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use reprise_engine::{
    Error, Result,
    id::{Position, RepoId},
};

use crate::{
    models,
    projections::Checkpoint,
    rebuild::{
        Meter, Target,
        buffer::{Buffer, Liveness, note},
        feed::{Feed, PackedGroup, PackedGroups, Segment},
        runs::{Run, spill},
    },
};

/// What the log holds up to a position.
pub struct Gathered {
    /// Sorted runs of all changes.
    pub runs: Vec<Run>,
    /// Live repositories, ascending.
    pub live: Vec<RepoId>,
}

/// Reads and folds everything up to `until`, which must be the end of a group.
pub fn gather(
    feed: &dyn Feed,
    until: Checkpoint,
    target: &Target<'_>,
    (readers, run_bytes): (usize, usize),
    meter: &Meter<'_>,
) -> Result<Gathered> {
    let queue = Queue::new(feed, until)?;
    let spilled = AtomicU64::new(0);
    let work = || {
        let reader = Reader { queue: &queue, target, run_bytes, meter, spilled: &spilled };
        meter.guard(reader.run())
    };
    let parts: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..readers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().ok().flatten()).collect()
    });
    let mut gathered = Gathered { runs: Vec::new(), live: Vec::new() };
    let mut liveness = Liveness::new();
    for part in parts {
        let (runs, said) = part.ok_or_else(|| meter.failure())?;
        gathered.runs.extend(runs);
        for (repo, (position, live)) in said {
            note(&mut liveness, repo, position, live);
        }
    }
    queue.finish()?;
    gathered.live.extend(liveness.into_iter().filter(|(_, (_, live))| *live).map(|(repo, _)| repo));
    Ok(gathered)
}

/// One thread's work.
struct Reader<'a> {
    queue: &'a Queue<'a>,
    target: &'a Target<'a>,
    run_bytes: usize,
    meter: &'a Meter<'a>,
    spilled: &'a AtomicU64,
}

impl Reader<'_> {
    fn run(&self) -> Result<(Vec<Run>, Liveness)> {
        let mut buffer = Buffer::with_room(self.run_bytes);
        let (mut runs, mut liveness) = (Vec::new(), Liveness::new());
        let mut place = None;
        loop {
            let taken = self.queue.take(&mut place)?;
            if taken.is_empty() {
                break;
            }
            for packed in taken {
                let _alone = (packed.bytes > LARGE_BYTES).then(|| lock(&self.queue.large));
                self.fold(packed, &mut buffer, &mut liveness, &mut runs)?;
            }
        }
        if buffer.changes() > 0 {
            buffer.sort();
            runs.push(Run::Memory(buffer));
        }
        Ok((runs, liveness))
    }

    /// A full buffer becomes a run, in a file if there is a place for it; the buffer is empty then.
    fn finish(&self, buffer: &mut Buffer) -> Result<Run> {
        buffer.sort();
        match &self.target.spill {
            Some(place) => {
                let run = spill(buffer, place, self.spilled)?;
                buffer.clear();
                Ok(run)
            }
            None => Ok(Run::Memory(std::mem::replace(buffer, Buffer::with_room(self.run_bytes)))),
        }
    }

    fn fold(
        &self,
        packed: PackedGroup,
        buffer: &mut Buffer,
        liveness: &mut Liveness,
        runs: &mut Vec<Run>,
    ) -> Result<()> {
        let (first, last) = (packed.first, packed.last);
        let group = (packed.decode)()?;
        let mut expected = first;
        for event in group.events.iter() {
            if event.position != expected || expected > last {
                let found = event.position;
                return Err(Error::corrupt("log", 0, format!("event {found} where {expected} comes next")));
            }
            expected = expected.next();
            let (changes, bytes) = (buffer.changes(), buffer.held_bytes());
            models::fold(event, &mut buffer.event(event.position, liveness));
            self.meter.read(buffer.changes() - changes, buffer.held_bytes() - bytes)?;
            // Between events only: all changes of one event are in one run.
            if buffer.held_bytes() >= self.run_bytes {
                runs.push(self.finish(buffer)?);
            }
        }
        if expected != last.next() {
            return Err(Error::corrupt("log", 0, format!("the group from {first} to {last} ends before {expected}")));
        }
        Ok(())
    }
}

/// The segments that are still to be read.
struct Queue<'a> {
    feed: &'a dyn Feed,
    until: Checkpoint,
    state: Mutex<Waiting>,
    /// Held while a large group is decoded and folded.
    large: Mutex<()>,
    events: AtomicU64,
}

struct Waiting {
    /// Not begun, last one first.
    segments: Vec<Segment>,
    begun: Vec<Arc<Place>>,
}

/// A segment that is being read; `None` once nothing is left in it.
type Place = Mutex<Option<Open>>;

struct Open {
    groups: Box<dyn PackedGroups>,
    next: Position,
    last: Position,
}

impl<'a> Queue<'a> {
    fn new(feed: &'a dyn Feed, until: Checkpoint) -> Result<Queue<'a>> {
        let mut segments: Vec<Segment> = if until.position == Position::ZERO { Vec::new() } else { feed.segments()? };
        segments.retain(|segment| segment.first <= segment.last && segment.first <= until.position);
        segments.reverse();
        let state = Mutex::new(Waiting { segments, begun: Vec::new() });
        Ok(Queue { feed, until, state, large: Mutex::new(()), events: AtomicU64::new(0) })
    }

    /// Some groups in order, from the segment at `place` or another; none at the end of the log.
    fn take(&self, place: &mut Option<Arc<Place>>) -> Result<Vec<PackedGroup>> {
        loop {
            if let Some(place) = place {
                let taken = self.take_from(&mut lock(place))?;
                if !taken.is_empty() {
                    return Ok(taken);
                }
            }
            *place = self.other_place()?;
            if place.is_none() {
                return Ok(Vec::new());
            }
        }
    }

    /// A segment that nobody reads yet; without one, any that has something left.
    fn other_place(&self) -> Result<Option<Arc<Place>>> {
        let mut waiting = lock(&self.state);
        if let Some(segment) = waiting.segments.pop() {
            let groups = self.feed.read(segment.first)?;
            let last = segment.last.min(self.until.position);
            let open = Arc::new(Mutex::new(Some(Open { groups, next: segment.first, last })));
            waiting.begun.push(Arc::clone(&open));
            return Ok(Some(open));
        }
        waiting.begun.retain(|place| place.try_lock().map_or(true, |open| open.is_some()));
        Ok(waiting.begun.first().map(Arc::clone))
    }

    fn take_from(&self, place: &mut Option<Open>) -> Result<Vec<PackedGroup>> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(open) = place.as_mut()
            && bytes < BATCH_BYTES
            && taken.len() < BATCH_GROUPS
        {
            let Some(group) = open.groups.next_packed()? else {
                return Err(Error::corrupt("log", 0, format!("the log ends before position {}", open.next)));
            };
            self.check(&group, open.next)?;
            open.next = group.last.next();
            bytes += group.bytes;
            self.events.fetch_add(group.last.0 - group.first.0 + 1, Relaxed);
            if group.last >= open.last {
                *place = None;
            }
            taken.push(group);
        }
        Ok(taken)
    }

    fn check(&self, group: &PackedGroup, expected: Position) -> Result<()> {
        let (first, last, until) = (group.first, group.last, self.until);
        if first != expected || last < first {
            return Err(Error::corrupt("log", 0, format!("a group begins at {first}, but {expected} comes next")));
        }
        if last > until.position {
            let text = format!("position {} is inside the group from {first} to {last}", until.position);
            return Err(Error::invalid(text));
        }
        if last == until.position && group.chain != until.chain {
            return Err(Error::corrupt("log", 0, format!("the chained hash at position {last} is another one")));
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        let (found, wanted) = (self.events.load(Relaxed), self.until.position.0);
        if found != wanted {
            return Err(Error::corrupt("log", 0, format!("the log gave {found} events where {wanted} are")));
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked has ended the rebuild; what it left is only dropped.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stored bytes after which a thread stops taking and starts folding.
const BATCH_BYTES: u64 = 256 << 10;
const BATCH_GROUPS: usize = 64;
/// A group that is decoded alone: it takes several times its stored bytes.
const LARGE_BYTES: u64 = 4 << 20;
