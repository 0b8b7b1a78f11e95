//! Making a commit that a repository has into the head of a branch: how a quarantined repository gets its branches back.
//!
//! Invariants: only the operator does it; the branch gets the ordinary event of a push; unless that is asked for, no branch is
//! made of a history with holes, and no branch goes anywhere but forward. Memory: a set of the history's commits, and a
//! bounded batch of ids.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::Arc,
};

use reprise_engine::{
    engine::{Condition, Proposal},
    event::{EventBody, RefUpdate, RefsUpdated, Scope},
    id::{Kind, ObjectId, Position},
    object::{ids::blob_id, names},
};
use reprise_projections::{RepoScope, View};

use crate::hub::{Caller, Hub, HubError, Repo, heads, heads::Heads};

/// What is to become a branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adoption {
    /// The commit.
    pub commit: ObjectId,
    /// The branch.
    pub branch: String,
    /// Also if something of its history is missing.
    pub incomplete: bool,
    /// Also if the branch is somewhere that the commit does not continue.
    pub force: bool,
}

/// What became a branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adopted {
    /// Where the branch was.
    pub old: Option<ObjectId>,
    /// Commits of its history.
    pub commits: u64,
    /// What of it is missing.
    pub missing: Missing,
    /// The event that says so.
    pub position: Position,
}

/// Objects that a history names and the repository does not have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Missing {
    /// The first of them, by kind and id.
    pub objects: BTreeSet<(Kind, ObjectId)>,
    /// There are more.
    pub more: bool,
}

impl Hub {
    /// The candidate heads of a repository, newest first.
    pub async fn candidate_heads(&self, caller: &Caller, owner: &str, slug: &str) -> Result<Heads, HubError> {
        let (repo, view) = self.readable(caller, owner, slug).await?;
        self.blocking(move || Ok(heads::list(&view, repo.scope, HEADS_LISTED_MAX)?)).await
    }

    /// Makes a commit the head of a branch.
    ///
    /// Errors: `NotFound` for a commit that is not there; `Invalid` for a history with holes, naming some; `Conflict` for a
    /// branch that is elsewhere; `TooLarge` for one branch more than a repository may have.
    pub async fn adopt(
        self: &Arc<Self>,
        caller: &Caller,
        (owner, slug): (&str, &str),
        adoption: Adoption,
    ) -> Result<Adopted, HubError> {
        names::check_ref(&adoption.branch)?;
        let (repo, view) = self.permitted(caller, owner, slug, Scope::Admin, false).await?;
        let (max, scope, commit) = (self.limits.walk_commits_max, repo.scope, adoption.commit);
        let (hub, branch) = (Arc::clone(self), adoption.branch.clone());
        let read = move || {
            let refs = view.refs(scope)?;
            let old = refs.iter().find(|row| row.name == branch).map(|row| row.head);
            match hub.too_many_refs(refs.len()).filter(|_| old.is_none()) {
                Some(text) => Err(HubError::TooLarge(text)),
                None => Ok((old, refs.len(), History::of(&view, scope, commit, max)?)),
            }
        };
        let (old, count, history) = self.blocking(read).await?;
        if history.missing.objects.contains(&(Kind::Commit, commit)) {
            return Err(HubError::NotFound(format!("{owner}/{slug} has no commit {commit}")));
        }
        if !history.missing.objects.is_empty() && !adoption.incomplete {
            return Err(HubError::Invalid(with_holes(commit, &history.missing, self.limits.missing_listed_max)));
        }
        let forced = old.is_some_and(|old| !history.commits.contains(&old));
        if let Some(old) = old.filter(|_| forced && !adoption.force) {
            let text = format!("branch '{}' is at {old}, which {commit} does not continue", adoption.branch);
            return Err(HubError::Conflict(text));
        }
        let update = RefUpdate { name: adoption.branch, old, new: Some(commit), forced };
        let (conditions, events) = proposed(&repo, update, count == 0);
        let push = self.random_push_id()?;
        let proposal = Proposal { push, fingerprint: 0, actor: caller.actor(), conditions, events };
        let position = self.append(proposal).await?.last;
        Ok(Adopted { old, commits: history.commits.len() as u64, missing: history.missing, position })
    }
}

/// The branch's event, and with a repository's first the default branch's.
fn proposed(repo: &Repo, update: RefUpdate, first: bool) -> (Vec<Condition>, Vec<EventBody>) {
    let id = repo.row.record.repo;
    let name = update.name.clone();
    let mut conditions = vec![repo.is_there(), Condition::RefIs { repo: id, name: name.clone(), head: update.old }];
    let mut events = vec![EventBody::RefsUpdated(RefsUpdated { repo: id, updates: vec![update] })];
    if first && let Some((unchanged, event)) = repo.first_branch(&name) {
        conditions.extend(unchanged);
        events.push(event);
    }
    (conditions, events)
}

fn with_holes(commit: ObjectId, missing: &Missing, listed_max: usize) -> String {
    let shown: Vec<String> = missing.objects.iter().take(listed_max).map(|(kind, id)| format!("{kind} {id}")).collect();
    let count = missing.objects.len();
    let (least, rest) = (if missing.more { "at least " } else { "" }, if count > shown.len() { ", …" } else { "" });
    format!(
        "the history of {commit} has holes: {least}{count} objects that it names are not here: {}{rest}",
        shown.join(", ")
    )
}

/// The history of a commit, and what it lacks.
struct History {
    /// Those that are there.
    commits: HashSet<ObjectId>,
    missing: Missing,
}

impl History {
    /// Walks over all parents. The blobs that each commit adds are together all blobs of all their snapshots.
    fn of(view: &View, scope: RepoScope, commit: ObjectId, commits_max: usize) -> Result<History, HubError> {
        let mut check = Check { view, scope, wanted: Default::default(), missing: Missing::default() };
        let mut seen = HashSet::from([commit]);
        let mut queue = VecDeque::from([commit]);
        let mut absent = Vec::new();
        while let Some(id) = queue.pop_front() {
            check.want(Kind::Commit, id)?;
            let Some(row) = view.commit(scope, id)? else {
                absent.push(id);
                continue;
            };
            check.want(Kind::Snapshot, row.snapshot)?;
            let mut adds = Vec::new();
            view.commit_adds(scope, id, &mut adds)?;
            for blob in adds {
                check.want(Kind::Blob, blob)?;
            }
            queue.extend(row.parents.into_iter().filter(|parent| seen.insert(*parent)));
            if seen.len() > commits_max {
                let text = format!("the history of {commit} passes the limit of {commits_max} commits");
                return Err(HubError::TooLarge(text));
            }
        }
        for id in absent {
            seen.remove(&id);
        }
        Ok(History { commits: seen, missing: check.finish()? })
    }
}

/// Asks for ids in batches.
struct Check<'a> {
    view: &'a View,
    scope: RepoScope,
    /// By kind.
    wanted: [Vec<ObjectId>; 3],
    missing: Missing,
}

impl Check<'_> {
    fn want(&mut self, kind: Kind, id: ObjectId) -> Result<(), HubError> {
        let wanted = &mut self.wanted[usize::from(kind.byte())];
        wanted.push(id);
        if wanted.len() >= BATCH_IDS { self.ask(kind) } else { Ok(()) }
    }

    fn ask(&mut self, kind: Kind) -> Result<(), HubError> {
        let mut ids = std::mem::take(&mut self.wanted[usize::from(kind.byte())]);
        ids.sort_unstable();
        ids.dedup();
        // The stock client does not send the empty blob, and nobody needs to be sent it.
        let empty = blob_id(&[]);
        let missing = self.view.missing(self.scope, kind, &ids)?;
        for id in missing.into_iter().filter(|id| kind != Kind::Blob || *id != empty) {
            match self.missing.objects.len() < MISSING_KEPT_MAX {
                true => drop(self.missing.objects.insert((kind, id))),
                false => self.missing.more = true,
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Missing, HubError> {
        for kind in [Kind::Commit, Kind::Snapshot, Kind::Blob] {
            self.ask(kind)?;
        }
        Ok(self.missing)
    }
}

/// Candidates that one answer lists.
const HEADS_LISTED_MAX: usize = 1_000;
const BATCH_IDS: usize = 1 << 16;
/// Missing objects that are remembered.
const MISSING_KEPT_MAX: usize = 10_000;
