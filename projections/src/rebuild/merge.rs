//! A k-way merge of sorted runs: each key once, the latest change wins, only logical rows come out.
//!
//! Memory: one block per run. The digest of what comes out is kept on the way.

use reprise_engine::{Result, id::RepoId};

use crate::{
    digest::{self, Digest},
    models::Model,
    rebuild::runs::{Cursor, FileRunWriter, Run},
    store::SortedRows,
};

/// Several runs as one.
pub struct Merge<'a> {
    // A heap: the smallest row stands at the top.
    heap: Vec<Cursor<'a>>,
}

impl<'a> Merge<'a> {
    /// Rows of models `from..until` of all `runs`.
    pub fn new(runs: &'a [Run], from: Model, until: Option<Model>) -> Result<Merge<'a>> {
        let mut heap = Vec::with_capacity(runs.len());
        for run in runs {
            let cursor = run.cursor(from, until)?;
            if cursor.row().is_some() {
                heap.push(cursor);
            }
        }
        let mut merge = Merge { heap };
        for at in (0..merge.heap.len() / 2).rev() {
            merge.sink(at);
        }
        Ok(merge)
    }

    /// Copies the next key's latest change; false at the end. `deleted` tells whether the row is gone.
    fn next_change(&mut self, taken: &mut Taken) -> Result<bool> {
        {
            let Some(row) = self.heap.first().and_then(Cursor::row) else { return Ok(false) };
            taken.model = row.model;
            taken.position = row.position;
            taken.key.clear();
            taken.key.extend_from_slice(row.key);
            taken.row.clear();
            taken.deleted = row.row.is_none();
            taken.row.extend_from_slice(row.row.unwrap_or_default());
        }
        self.advance()?;
        while self.heap.first().and_then(Cursor::row).is_some_and(|row| row.same_key(taken.model, &taken.key)) {
            self.advance()?;
        }
        Ok(true)
    }

    fn advance(&mut self) -> Result<()> {
        self.heap[0].advance()?;
        if self.heap[0].row().is_none() {
            self.heap.swap_remove(0);
        }
        self.sink(0);
        Ok(())
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let mut least = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && self.less(child, least) {
                    least = child;
                }
            }
            if least == at {
                return;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }

    fn less(&self, a: usize, b: usize) -> bool {
        match (self.heap[a].row(), self.heap[b].row()) {
            (Some(a), Some(b)) => a.order(&b).is_lt(),
            (a, _) => a.is_some(),
        }
    }
}

struct Taken {
    model: Model,
    position: reprise_engine::id::Position,
    key: Vec<u8>,
    row: Vec<u8>,
    deleted: bool,
}

impl Taken {
    fn new() -> Taken {
        let position = reprise_engine::id::Position::ZERO;
        Taken { model: Model::Repos, position, key: Vec::new(), row: Vec::new(), deleted: false }
    }
}

/// Several runs as one run, when there are too many to merge at once. Deletions are kept: another run may hold what
/// they delete.
pub fn merge_into(runs: &[Run], mut writer: FileRunWriter) -> Result<Run> {
    let mut merge = Merge::new(runs, Model::Repos, None)?;
    let mut taken = Taken::new();
    while merge.next_change(&mut taken)? {
        let row = (!taken.deleted).then_some(taken.row.as_slice());
        writer.push(&crate::rebuild::runs::RunRow {
            model: taken.model,
            key: &taken.key,
            row,
            position: taken.position,
        })?;
    }
    Ok(Run::File(writer.finish()?))
}

/// The logical rows of a merge, for a bulk load.
pub struct LogicalRows<'a> {
    merge: Merge<'a>,
    taken: Taken,
    scratch: Vec<u8>,
    live: &'a [RepoId],
    last: Option<(RepoId, bool)>,
    digest: Digest,
    loaded: &'a (dyn Fn(u64) + Sync),
}

impl<'a> LogicalRows<'a> {
    /// Rows of no repository or of one in `live` (ascending). `loaded` hears of every few thousand rows.
    pub fn new(merge: Merge<'a>, live: &'a [RepoId], digest: Digest, loaded: &'a (dyn Fn(u64) + Sync)) -> Self {
        LogicalRows { merge, taken: Taken::new(), scratch: Vec::new(), live, last: None, digest, loaded }
    }

    /// The digest of all rows that came out.
    pub fn into_digest(self) -> Digest {
        self.digest
    }

    fn is_logical(&mut self) -> bool {
        let Some(repo) = digest::repo_of(self.taken.model, &self.taken.key, &self.taken.row) else {
            return true;
        };
        if let Some((known, live)) = self.last
            && known == repo
        {
            return live;
        }
        let live = self.live.binary_search(&repo).is_ok();
        self.last = Some((repo, live));
        live
    }
}

impl SortedRows for LogicalRows<'_> {
    fn next_row(&mut self) -> Result<Option<(Model, &[u8], &[u8])>> {
        while self.merge.next_change(&mut self.taken)? {
            if self.taken.deleted || !self.is_logical() {
                continue;
            }
            self.digest.add(self.taken.model, &self.taken.key, &self.taken.row, &mut self.scratch);
            let rows = self.digest.rows_of(self.taken.model);
            if rows.is_multiple_of(TOLD_ROWS) {
                (self.loaded)(TOLD_ROWS);
            }
            return Ok(Some((self.taken.model, &self.taken.key, &self.taken.row)));
        }
        Ok(None)
    }
}

const TOLD_ROWS: u64 = 4_096;
