//! Which commits a fetch sends: ancestors of what is wanted, less what the client has and its ancestors.
//!
//! Invariants: never sends too few: a commit is left out only when it is in `have` or an ancestor of one that is; each
//! commit is looked at a bounded number of times, so that a cycle cannot hold the walk; it ends at the limit with an
//! error, never with part of an answer. The recorded time only orders the walk: a wrong one sends more, never less.

use std::collections::{BinaryHeap, HashMap};

use reprise_engine::id::ObjectId;
use reprise_projections::{RepoScope, View};

use crate::hub::HubError;

/// A commit that will be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SentCommit {
    /// Its id.
    pub id: ObjectId,
    /// Its snapshot.
    pub snapshot: ObjectId,
    /// Bytes on the wire.
    pub wire_len: u64,
}

/// Bounds of one walk.
#[derive(Clone, Copy, Debug)]
pub struct WalkCaps {
    /// Commits looked at.
    pub commits: usize,
    /// Bytes of commits on the wire, beyond which a clone need not go on.
    pub wire_bytes: u64,
}

/// What a walk found.
pub struct Walked {
    /// Commits to send, by id.
    pub sent: Vec<SentCommit>,
    /// Wanted ids that the repository does not have.
    pub unknown: Vec<ObjectId>,
}

/// Walks from `want` (any order) to `have` (ascending; may hold unknown ids).
pub fn walk(
    view: &View,
    scope: RepoScope,
    want: &[ObjectId],
    have: &[ObjectId],
    caps: WalkCaps,
) -> Result<Walked, HubError> {
    let mut walk = Walk {
        view,
        scope,
        have,
        caps,
        marks: HashMap::new(),
        queue: BinaryHeap::new(),
        wanted_queued: 0,
        found: Vec::new(),
        found_bytes: 0,
    };
    let mut unknown = Vec::new();
    for id in want {
        if !walk.mark(*id, WANTED)? {
            unknown.push(*id);
        }
    }
    // A long list is a whole local history, closed under parents: meeting it is enough.
    if have.len() <= HAVE_SEEDS_MAX && unknown.is_empty() {
        for id in have {
            walk.mark(*id, HELD)?;
        }
    }
    if unknown.is_empty() {
        walk.run()?;
    }
    let marks = walk.marks;
    let mut sent = walk.found;
    sent.retain(|commit| marks.get(&commit.id).is_some_and(|marks| marks & HELD == 0));
    sent.sort_unstable_by_key(|commit| commit.id);
    Ok(Walked { sent, unknown })
}

struct Walk<'a> {
    view: &'a View,
    scope: RepoScope,
    have: &'a [ObjectId],
    caps: WalkCaps,
    marks: HashMap<ObjectId, u8>,
    queue: BinaryHeap<(String, ObjectId)>,
    /// Queued commits that are wanted and not (yet) known to be held.
    wanted_queued: usize,
    found: Vec<SentCommit>,
    found_bytes: u64,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), HubError> {
        while self.wanted_queued > 0 {
            let Some((_, id)) = self.queue.pop() else { break };
            let marks = self.marks.get(&id).copied().unwrap_or(0) & !QUEUED;
            self.marks.insert(id, marks | FOUND);
            if marks & HELD == 0 {
                self.wanted_queued -= 1;
            }
            let Some(row) = self.view.commit(self.scope, id)? else { continue };
            if marks & (HELD | FOUND) == 0 {
                self.found.push(SentCommit { id, snapshot: row.snapshot, wire_len: row.wire_len });
                self.found_bytes += row.wire_len;
                if self.have.is_empty() && self.found_bytes > self.caps.wire_bytes {
                    return Ok(());
                }
            }
            for parent in row.parents {
                self.mark(parent, marks & (WANTED | HELD))?;
            }
        }
        Ok(())
    }

    /// Adds a mark; a commit whose marks changed is (again) to be looked at. False if the repository does not have it.
    fn mark(&mut self, id: ObjectId, mark: u8) -> Result<bool, HubError> {
        let before = self.marks.get(&id).copied();
        let mut after = before.unwrap_or(0) | mark;
        if before.is_none() && self.have.binary_search(&id).is_ok() {
            after |= HELD;
        }
        if before == Some(after) {
            return Ok(true);
        }
        let queued = after & QUEUED != 0;
        if !queued {
            let Some(row) = self.view.commit(self.scope, id)? else { return Ok(false) };
            self.queue.push((row.committed_at, id));
        }
        // Marks only grow: wanted alone, then held too.
        match (queued, after & HELD == 0) {
            (false, true) => self.wanted_queued += 1,
            (true, false) if before.is_some_and(|before| before & HELD == 0) => self.wanted_queued -= 1,
            _ => {}
        }
        self.marks.insert(id, after | QUEUED);
        if self.marks.len() > self.caps.commits {
            let max = self.caps.commits;
            return Err(HubError::TooLarge(format!(
                "the history to walk has more than {max} commits, which is the limit"
            )));
        }
        Ok(true)
    }
}

/// An ancestor of a wanted commit, or one itself.
const WANTED: u8 = 1;
/// The client has it.
const HELD: u8 = 2;
/// Waits to be looked at.
const QUEUED: u8 = 4;
/// Was looked at.
const FOUND: u8 = 8;
/// Up to this many `have` ids are walked down from, too.
const HAVE_SEEDS_MAX: usize = 4_096;
