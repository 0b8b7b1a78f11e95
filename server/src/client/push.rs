//! `push`: a branch with everything below it to a hub.
//!
//! Invariants: the branch moves last and at once, or not at all; nothing of the repository changes but the tracking ref of a remote
//! that has this URL. What an interrupted push sent is not sent again.

use hyper::StatusCode;
use reprise_engine::id::{Kind, ObjectId};

use super::{
    ClientError, Repository,
    direct_push::{self, Target},
    fetch::{Fetch, blocking},
    files, history, http,
    incoming::{DIRECTORY, give_up},
    lock::Lock,
    outgoing::Outgoing,
    packs::{self, Item},
    refs, settings,
    stock::{self, PushAnswer},
    stock_push,
};
use crate::hub::limits::{UNPACK_ROWS_MAX, UPLOADS_PER_REPO_MAX};

/// What was pushed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// The branch's commit, on both sides.
    pub head: ObjectId,
    /// Commits that were sent.
    pub commits: u64,
    /// Snapshots that were sent.
    pub snapshots: u64,
    /// Blobs that were sent.
    pub blobs: u64,
    /// What the server said.
    pub message: String,
}

/// Pushes `branch` to `fetch.remote`; with `force` also over commits that are not here.
///
/// Errors: `Refused` if the branch is not here, has diverged, or the server says so.
pub async fn push(fetch: &Fetch, branch: &str, force: bool) -> Result<Pushed, ClientError> {
    let repository = &fetch.repository;
    let head = refs::read_all(&repository.heads())?.get(branch).copied();
    let head = head.ok_or_else(|| ClientError::Refused(format!("there is no branch '{branch}' here")))?;
    let lock = Lock::take(&repository.muse(DIRECTORY).join("lock"))?;
    let pushed = send(fetch, branch, head, force).await;
    let pushed = match pushed {
        Ok(pushed) => pushed,
        Err(error) => return Err(give_up(&repository.muse(DIRECTORY), error)),
    };
    files::remove_all(&repository.muse(DIRECTORY))?;
    drop(lock);
    track(repository, &fetch.remote.address.to_string(), branch, head)?;
    Ok(pushed)
}

async fn send(fetch: &Fetch, branch: &str, head: ObjectId, force: bool) -> Result<Pushed, ClientError> {
    let refs = stock::refs(&fetch.remote).await?;
    let theirs = refs.heads.get(branch).copied();
    if theirs == Some(head) {
        return Ok(Pushed { head, commits: 0, snapshots: 0, blobs: 0, message: "everything is up to date".to_owned() });
    }
    let known: Vec<ObjectId> = refs.heads.values().copied().collect();
    let collecting = fetch.clone();
    let outgoing = blocking(move || {
        if let Some(theirs) = theirs.filter(|_| !force) {
            check_forward(&collecting.repository, theirs, head)?;
        }
        let Fetch { repository, counter, stop, .. } = &collecting;
        Outgoing::collect(repository, head, &known, counter, stop)
    })
    .await?;
    let mut missing = Outgoing::sizes(&fetch.repository, &stock::missing(&fetch.remote, &outgoing.blobs).await?)?;
    let repo = refs.repo_id.parse().map_err(ClientError::untrusted)?;
    let target = Target { repo, branch: branch.to_owned(), tip: head, force };
    let (commits, snapshots) = (outgoing.commits.len() as u64, outgoing.snapshots.len() as u64);
    let blobs = missing.len() as u64;
    let answer = match by_packs(fetch, &target, &outgoing, &mut missing).await? {
        Some(answer) => answer,
        None => by_bodies(fetch, &target, outgoing, &missing).await?,
    };
    let message = http::shown(&answer.message);
    if !answer.ok {
        return Err(ClientError::Refused(format!("the server refused the push: {message}")));
    }
    Ok(Pushed { head, commits, snapshots, blobs, message })
}

/// Direct transfer; `None` if the hub has none, or it takes less at once than this needs. What is still `missing` then is left.
async fn by_packs(
    fetch: &Fetch,
    target: &Target,
    outgoing: &Outgoing,
    missing: &mut Vec<(ObjectId, u64)>,
) -> Result<Option<PushAnswer>, ClientError> {
    let mut items = packs::items(&fetch.repository, outgoing, missing)?;
    if let Sent::Answered(answer) = at_once(fetch, target, &items).await? {
        return Ok(answer);
    }
    items.retain(|item| item.kind != Kind::Blob);
    if missing.is_empty() || !is_taken_at_once(&items) {
        return Ok(None);
    }
    // Blobs go ahead; the records that name them follow as packs.
    stock_push::blobs(fetch, missing).await?;
    missing.clear();
    match at_once(fetch, target, &items).await? {
        Sent::Answered(answer) => Ok(answer),
        Sent::TooMuch => Ok(None),
    }
}

/// What came of one push by packs.
enum Sent {
    /// `None`: the hub has no direct transfer.
    Answered(Option<PushAnswer>),
    /// It is more than the hub takes at once.
    TooMuch,
}

async fn at_once(fetch: &Fetch, target: &Target, items: &[Item]) -> Result<Sent, ClientError> {
    if !is_taken_at_once(items) {
        return Ok(Sent::TooMuch);
    }
    match direct_push::push(fetch, target, items).await {
        // This hub takes less than others.
        Err(error) if error.status() == Some(StatusCode::PAYLOAD_TOO_LARGE) => Ok(Sent::TooMuch),
        answer => answer.map(Sent::Answered),
    }
}

/// Whether hubs take this by one unpack.
fn is_taken_at_once(items: &[Item]) -> bool {
    items.len() <= UNPACK_ROWS_MAX && packs::count(items) <= UPLOADS_PER_REPO_MAX
}

/// The endpoints that every hub has.
async fn by_bodies(
    fetch: &Fetch,
    target: &Target,
    outgoing: Outgoing,
    missing: &[(ObjectId, u64)],
) -> Result<PushAnswer, ClientError> {
    stock_push::blobs(fetch, missing).await?;
    // A branch at a commit that the server has: here it wants to see the commit again.
    let outgoing =
        if outgoing.commits.is_empty() { Outgoing::of_one(&fetch.repository, target.tip)? } else { outgoing };
    stock_push::records(fetch, outgoing, &target.branch, target.force).await
}

fn check_forward(repository: &Repository, theirs: ObjectId, ours: ObjectId) -> Result<(), ClientError> {
    if repository.has(Kind::Commit, theirs)? && history::is_below(repository, theirs, ours)? {
        return Ok(());
    }
    Err(ClientError::Refused(
        "the remote's branch has commits that this one lacks: pull first, or push with --force to give them up"
            .to_owned(),
    ))
}

/// Remembers where the branch is on the remotes that have this URL.
fn track(repository: &Repository, url: &str, branch: &str, head: ObjectId) -> Result<(), ClientError> {
    for (name, remote) in settings::remotes(repository)? {
        let is_same = remote.url.is_some_and(|other| other.trim_end_matches('/') == url);
        if is_same && reprise_engine::object::names::check_ref(&name).is_ok() {
            refs::write(&repository.tracking(&name), branch, head)?;
        }
    }
    Ok(())
}
