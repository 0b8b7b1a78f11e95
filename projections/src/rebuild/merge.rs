//! A k-way merge of sorted runs: each key once, the latest change wins, only logical rows come out.
//!
//! Memory: one block per run. The digest of what comes out is kept on the way.

use std::cmp::Ordering;

use reprise_engine::{
    Result,
    id::{Position, RepoId},
};

use crate::{
    digest::{self, Digest},
    models::{Keyspace, Model},
    rebuild::{
        Meter,
        buffer::Change,
        runs::{Cursor, FileRunWriter, Run},
    },
    store::SortedRows,
};

/// Several runs as one: a tournament in which only the path of the last winner is played again.
pub struct Merge<'a> {
    cursors: Vec<Cursor<'a>>,
    heads: Vec<Head>,
    /// The losers of the matches, by inner node; the winner of all at 0. A cursor is its index.
    tree: Vec<usize>,
    current: Option<Head>,
    current_key: Vec<u8>,
}

/// The start of a cursor's change: most comparisons need no more. The end of a run is larger than anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    model: u8,
    key: [u128; 2],
}

impl<'a> Merge<'a> {
    /// All changes of a keyspace in `runs`.
    pub fn new(runs: &'a [Run], keyspace: Keyspace) -> Result<Merge<'a>> {
        let cursors = runs.iter().map(|run| run.cursor(keyspace)).collect::<Result<Vec<_>>>()?;
        let heads = cursors.iter().map(Head::of).collect();
        let tree = vec![0; runs.len().max(1)];
        let mut merge = Merge { cursors, heads, tree, current: None, current_key: Vec::new() };
        if !merge.cursors.is_empty() {
            merge.tree[0] = merge.play(1);
        }
        Ok(merge)
    }

    /// Goes to the next key and stands on its latest change; false at the end.
    pub fn next_key(&mut self) -> Result<bool> {
        if self.cursors.is_empty() {
            return Ok(false);
        }
        if let Some(current) = self.current.take() {
            // Older changes of the same key follow at once.
            loop {
                self.advance()?;
                let winner = self.tree[0];
                let same = self.heads[winner] == current
                    && self.cursors[winner].change().is_some_and(|change| change.key == self.current_key);
                if !same {
                    break;
                }
            }
        }
        let winner = self.tree[0];
        if self.heads[winner] == Head::END {
            return Ok(false);
        }
        let Some(change) = self.cursors[winner].change() else { return Ok(false) };
        self.current_key.clear();
        self.current_key.extend_from_slice(change.key);
        self.current = Some(self.heads[winner]);
        Ok(true)
    }

    /// The change it stands on.
    pub fn change(&self) -> Option<Change<'_>> {
        self.current?;
        self.cursors[self.tree[0]].change()
    }

    fn advance(&mut self) -> Result<()> {
        let mut winner = self.tree[0];
        self.cursors[winner].advance()?;
        self.heads[winner] = Head::of(&self.cursors[winner]);
        let mut node = (winner + self.cursors.len()) / 2;
        while node > 0 {
            if self.before(self.tree[node], winner) {
                std::mem::swap(&mut self.tree[node], &mut winner);
            }
            node /= 2;
        }
        self.tree[0] = winner;
        Ok(())
    }

    /// The winner below `node`; every match on the way keeps its loser. Leaves follow the inner nodes.
    fn play(&mut self, node: usize) -> usize {
        let runs = self.cursors.len();
        if node >= runs {
            return node - runs;
        }
        let (left, right) = (self.play(2 * node), self.play(2 * node + 1));
        let (winner, loser) = if self.before(left, right) { (left, right) } else { (right, left) };
        self.tree[node] = loser;
        winner
    }

    /// Whether a cursor's change comes out before another's: by key, the latest first.
    fn before(&self, a: usize, b: usize) -> bool {
        let order = self.heads[a].cmp(&self.heads[b]).then_with(|| {
            let (Some(a), Some(b)) = (self.cursors[a].change(), self.cursors[b].change()) else {
                return Ordering::Equal;
            };
            a.key.cmp(b.key).then_with(|| b.position.cmp(&a.position))
        });
        order.is_lt()
    }
}

impl Head {
    const END: Head = Head { model: u8::MAX, key: [u128::MAX; 2] };

    fn of(cursor: &Cursor<'_>) -> Head {
        let Some(change) = cursor.change() else { return Head::END };
        // A shorter key is filled with zeros: what then seems equal is compared in full.
        let mut start = [0; 32];
        match change.key.first_chunk::<32>() {
            Some(whole) => start = *whole,
            None => start[..change.key.len()].copy_from_slice(change.key),
        }
        let (mut high, mut low) = ([0; 16], [0; 16]);
        high.copy_from_slice(&start[..16]);
        low.copy_from_slice(&start[16..]);
        Head { model: change.model.number(), key: [u128::from_be_bytes(high), u128::from_be_bytes(low)] }
    }
}

/// Several runs as one run, when there are too many to merge at once. Deletions are kept: another run may hold what
/// they delete.
pub fn merge_into(runs: &[Run], mut writer: FileRunWriter, meter: &Meter<'_>) -> Result<Run> {
    for keyspace in Keyspace::ALL {
        writer.begin(keyspace)?;
        let mut merge = Merge::new(runs, keyspace)?;
        let mut count = 0u64;
        while merge.next_key()? {
            if let Some(change) = merge.change() {
                writer.push(&change)?;
            }
            count += 1;
            if count.is_multiple_of(TOLD_ROWS) {
                meter.loaded(0)?;
            }
        }
    }
    writer.finish()
}

/// The logical rows of a merge, for a bulk load.
pub struct LogicalRows<'a> {
    merge: Merge<'a>,
    live: &'a [RepoId],
    last: Option<(RepoId, bool)>,
    digest: Digest,
    scratch: Vec<u8>,
    untold: u64,
    meter: &'a Meter<'a>,
}

impl<'a> LogicalRows<'a> {
    /// Rows of no repository or of one in `live` (ascending).
    pub fn new(merge: Merge<'a>, live: &'a [RepoId], until: Position, meter: &'a Meter<'a>) -> Self {
        let digest = Digest::empty(until);
        LogicalRows { merge, live, last: None, digest, scratch: Vec::new(), untold: 0, meter }
    }

    /// The digest of all rows that came out.
    pub fn into_digest(self) -> Digest {
        self.digest
    }

    /// Counts the row that the merge stands on, if it is a logical one.
    fn accept(&mut self) -> bool {
        let Some(change) = self.merge.change() else { return false };
        let Some(row) = change.row else { return false };
        if let Some(repo) = digest::repo_of(change.model, change.key, row) {
            // Rows of one repository stand together: one search per repository, not per row.
            let live = match self.last {
                Some((known, live)) if known == repo => live,
                _ => self.live.binary_search(&repo).is_ok(),
            };
            self.last = Some((repo, live));
            if !live {
                return false;
            }
        }
        self.digest.add(change.model, change.key, row, &mut self.scratch);
        true
    }
}

impl SortedRows for LogicalRows<'_> {
    fn next_row(&mut self) -> Result<Option<(Model, &[u8], &[u8])>> {
        loop {
            if !self.merge.next_key()? {
                return Ok(None);
            }
            self.untold += 1;
            if self.untold == TOLD_ROWS {
                self.meter.loaded(self.untold)?;
                self.untold = 0;
            }
            if self.accept() {
                break;
            }
        }
        Ok(self.merge.change().and_then(|change| Some((change.model, change.key, change.row?))))
    }
}

const TOLD_ROWS: u64 = 4_096;
