//! Walks over the commits of a repository on disk.
//!
//! Invariants: every commit is visited once and verified when it is read; memory is 32 bytes per commit visited.

use std::collections::{HashSet, VecDeque};

use reprise_engine::{
    id::{Kind, ObjectId},
    object::Commit,
};

use super::{ClientError, Repository, files, refs};

/// Commits that tell a server what is here: everything that refs and tracking refs name, `more`, and their nearest ancestors, at
/// most `HAVE_MAX`. A server that knows none of a branch's newest commits still finds where it left off.
pub fn have(repository: &Repository, more: &[ObjectId]) -> Result<Vec<ObjectId>, ClientError> {
    let mut tips: Vec<ObjectId> = refs::read_all(&repository.heads())?.into_values().collect();
    for remote in files::names(&repository.muse("remotes"))? {
        tips.extend(refs::read_all(&repository.tracking(&remote))?.into_values());
    }
    tips.extend(more);
    let mut walk = Walk::from(repository, &tips);
    let mut have = Vec::new();
    while have.len() < HAVE_MAX {
        match walk.next()? {
            Some(commit) => have.push(commit.id),
            None => break,
        }
    }
    Ok(have)
}

/// Whether `ancestor` is `of` or below it.
pub fn is_below(repository: &Repository, ancestor: ObjectId, of: ObjectId) -> Result<bool, ClientError> {
    let mut walk = Walk::from(repository, &[of]);
    while let Some(commit) = walk.next()? {
        if commit.id == ancestor {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The commits from `head` down that are neither in `known` nor below it, breadth first from `head`.
///
/// Errors: `Refused` if a commit is missing or damaged.
pub fn beyond(repository: &Repository, head: ObjectId, known: &[ObjectId]) -> Result<Vec<Commit>, ClientError> {
    let mut below = Walk::from(repository, known);
    while below.next()?.is_some() {}
    let mut walk = Walk { seen: below.seen, ..Walk::from(repository, &[]) };
    walk.add(head);
    let mut commits = Vec::new();
    while let Some(commit) = walk.next()? {
        // The walk needs links only: the record is read again when it is sent.
        commits.push(Commit { payload: Vec::new(), ..commit });
    }
    Ok(commits)
}

/// Breadth first from some commits towards the roots.
struct Walk<'a> {
    repository: &'a Repository,
    seen: HashSet<ObjectId>,
    next: VecDeque<ObjectId>,
}

impl<'a> Walk<'a> {
    /// From those of `tips` that are here.
    fn from(repository: &'a Repository, tips: &[ObjectId]) -> Walk<'a> {
        let mut walk = Walk { repository, seen: HashSet::new(), next: VecDeque::new() };
        for tip in tips {
            if repository.has(Kind::Commit, *tip).unwrap_or_default() {
                walk.add(*tip);
            }
        }
        walk
    }

    fn add(&mut self, id: ObjectId) {
        if self.seen.insert(id) {
            self.next.push_back(id);
        }
    }

    fn next(&mut self) -> Result<Option<Commit>, ClientError> {
        let Some(id) = self.next.pop_front() else { return Ok(None) };
        let commit = self.repository.commit(id)?;
        commit.parents.iter().for_each(|parent| self.add(*parent));
        Ok(Some(commit))
    }
}

/// Ids in one question about what is here.
const HAVE_MAX: usize = 2_000;
