//! `pull`: what is new on a hub, and the checked-out branch forward to it.
//!
//! Invariants: the order is objects, tracking refs, working tree, branch: whatever interrupts it, the branch names a commit that
//! is complete, and a repetition goes on. A branch is only ever moved forward; files that somebody changed stay as they are.

use reprise_engine::id::ObjectId;

use super::{
    ClientError, Repository,
    checkout::{Checkout, Tree, tree_of},
    fetch::{Fetch, blocking},
    files,
    head::Head,
    history,
    incoming::{DIRECTORY, Settled, give_up},
    lock::Lock,
    refs, settings,
    stock::{self, Refs},
};

/// What became of the branch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moved {
    /// It was there already.
    Same,
    /// It has commits of its own on top of the remote's.
    Ahead,
    /// From here to the remote's head.
    Forward(Option<ObjectId>),
}

/// What was pulled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pulled {
    /// The branch.
    pub branch: String,
    /// Its commit now.
    pub head: ObjectId,
    /// What became of it.
    pub moved: Moved,
    /// What came.
    pub settled: Settled,
}

/// The remote that the checked-out branch is pulled from: its name and URL.
///
/// Errors: `Refused` if none is configured, or several and none of them for this branch.
pub fn upstream(repository: &Repository, named: Option<&str>) -> Result<(String, String), ClientError> {
    let remotes = settings::remotes(repository)?;
    let branch = checked_out(repository)?;
    let of_branch =
        || remotes.iter().find(|(_, remote)| remote.branch.as_ref() == Some(&branch)).map(|(name, _)| name.as_str());
    let only = || remotes.keys().next().filter(|_| remotes.len() == 1).map(String::as_str);
    let origin = || remotes.contains_key("origin").then_some("origin");
    let name = named.or_else(of_branch).or_else(origin).or_else(only);
    let found = name.and_then(|name| Some((name, remotes.get(name)?.url.as_ref()?)));
    let (name, url) =
        found.ok_or_else(|| ClientError::Refused("no such remote is configured in .muse/config.toml".to_owned()))?;
    reprise_engine::object::names::check_ref(name).map_err(|error| ClientError::Refused(error.to_string()))?;
    Ok((name.to_owned(), url.clone()))
}

/// The branch that `HEAD` names.
pub fn checked_out(repository: &Repository) -> Result<String, ClientError> {
    match repository.head()? {
        Head::Branch(branch) => Ok(branch),
        Head::Detached(_) => Err(ClientError::Refused("no branch is checked out".to_owned())),
    }
}

/// Pulls the checked-out branch, and what is new of all others, from the remote of that name.
///
/// Errors: `Refused` if the branch is not there, has diverged, or local changes stand in the way.
pub async fn pull(fetch: &Fetch, remote: &str) -> Result<Pulled, ClientError> {
    let repository = &fetch.repository;
    let branch = checked_out(repository)?;
    let lock = Lock::take(&repository.muse(DIRECTORY).join("lock"))?;
    let brought = bring(fetch, &branch).await;
    let (refs, theirs, settled) = brought.map_err(|error| give_up(&repository.muse(DIRECTORY), error))?;
    let (fetch, remote) = (fetch.clone(), remote.to_owned());
    blocking(move || {
        let moved = track(&fetch.repository, &remote, &refs).and_then(|()| forward(&fetch, &branch, theirs));
        // All that came is in its place, whatever became of the branch.
        files::remove_all(&fetch.repository.muse(DIRECTORY))?;
        drop(lock);
        let (head, moved) = moved?;
        Ok(Pulled { branch, head, moved, settled })
    })
    .await
}

async fn bring(fetch: &Fetch, branch: &str) -> Result<(Refs, ObjectId, Settled), ClientError> {
    let refs = stock::refs(&fetch.remote).await?;
    let theirs = refs.heads.get(branch).copied();
    let theirs = theirs.ok_or_else(|| ClientError::Refused(format!("the remote has no branch '{branch}'")))?;
    let heads: Vec<ObjectId> = refs.heads.values().copied().collect();
    let settled = fetch.bring(&heads).await?;
    Ok((refs, theirs, settled))
}

fn track(repository: &Repository, remote: &str, refs: &Refs) -> Result<(), ClientError> {
    let dir = repository.tracking(remote);
    for (name, head) in &refs.heads {
        refs::write(&dir, name, *head)?;
    }
    Ok(())
}

fn forward(fetch: &Fetch, branch: &str, theirs: ObjectId) -> Result<(ObjectId, Moved), ClientError> {
    let repository = &fetch.repository;
    let ours = refs::read_all(&repository.heads())?.get(branch).copied();
    let old = match ours {
        Some(ours) if ours == theirs => return Ok((ours, Moved::Same)),
        Some(ours) if history::is_below(repository, theirs, ours)? => return Ok((ours, Moved::Ahead)),
        Some(ours) if !history::is_below(repository, ours, theirs)? => {
            return Err(ClientError::Refused(format!(
                "branch '{branch}' has diverged from the remote's: nothing of it was changed; merge with `muse pull`, or push it \
                 with --force"
            )));
        }
        Some(ours) => tree_at(repository, ours)?,
        None => Tree::new(),
    };
    let new = tree_at(repository, theirs)?;
    Checkout::plan(repository, &old, &new)?.apply(repository, &fetch.counter, &fetch.stop)?;
    refs::write(&repository.heads(), branch, theirs)?;
    Ok((theirs, Moved::Forward(ours)))
}

fn tree_at(repository: &Repository, commit: ObjectId) -> Result<Tree, ClientError> {
    let commit = repository.commit(commit)?;
    Ok(tree_of(&repository.snapshot(commit.snapshot)?.1))
}
