//! `muse push`: the walk, the sequence refs → filter-objects → presign → push/objects → push, and what is printed.
//!
//! Invariants: only remote heads and tracking refs stop the walk, their ancestors do not (so merges re-send old commits);
//! candidates are all manifest values of what is sent; ≤ 400 objects per request, 4 requests at a time; refs and
//! filter failures are ignored, upload and push failures are not; a missing `missing` uploads nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    commands::Refs,
    http::{Failure, Request},
    repository::{Remote, Repository},
    value::Value,
};

/// Objects in one push/objects request.
pub const CHUNK_OBJECTS: usize = 400;
/// Requests to push/objects at a time.
pub const PARALLEL_REQUESTS: usize = 4;
/// A blob above this size is offered to presign.
const LARGE_BYTES: usize = 65_536;

/// A push that the client calls a success.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// "Everything up to date": only refs were asked for.
    UpToDate,
    /// "✅ Pushed N commit(s), M object(s)".
    Pushed {
        /// Commits in the bundle.
        commits: usize,
        /// Objects uploaded.
        objects: usize,
        /// `branch_heads` of the answer.
        branch_heads: BTreeMap<String, String>,
    },
}

/// A push that the client calls a failure (MWP §8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PushFailure {
    /// 409 from push: "Push rejected — remote '…' has diverged."
    Diverged(String),
    /// `ok` is not true: `Push rejected by remote: <message>`.
    Rejected(String),
    /// "Push failed: …", from push or push/objects.
    Failed(Failure),
}

impl PushFailure {
    /// The text of a rejection; panics on anything else.
    pub fn rejection(&self) -> &str {
        if let PushFailure::Rejected(text) = self { text } else { panic!("not a rejection: {self:?}") }
    }

    /// The status of a failure, if it has one.
    pub fn code(&self) -> Option<u16> {
        if let PushFailure::Failed(failure) = self { failure.code() } else { None }
    }
}

/// `muse push REMOTE BRANCH`.
pub fn push(repository: &mut Repository, remote: &str, branch: &str) -> Result<Pushed, PushFailure> {
    push_with(repository, remote, branch, false)
}

/// `muse push --force REMOTE BRANCH`.
pub fn push_force(repository: &mut Repository, remote: &str, branch: &str) -> Result<Pushed, PushFailure> {
    push_with(repository, remote, branch, true)
}

fn push_with(repository: &mut Repository, remote: &str, branch: &str, force: bool) -> Result<Pushed, PushFailure> {
    let target = repository.remotes[remote].clone();
    let head = repository.head(branch).to_owned();
    let refs = Refs::get(&target.url, target.token.as_deref()).ok();
    let key = (remote.to_owned(), branch.to_owned());
    let remote_head = match &refs {
        Some(refs) => refs.head(branch).map(str::to_owned),
        None => repository.tracking.get(&key).cloned(),
    };
    if remote_head.as_deref() == Some(head.as_str()) {
        return Ok(Pushed::UpToDate);
    }
    let commits = commits_to_send(repository, refs.as_ref(), &head);
    let objects = upload_objects(repository, &target, &commits).map_err(PushFailure::Failed)?;
    let answer = post_bundle(repository, &target, &commits, branch, force)?;
    if answer.get("ok") != Some(&Value::Bool(true)) {
        return Err(PushFailure::Rejected(answer.text("message").to_owned()));
    }
    let branch_heads: BTreeMap<String, String> = answer.str_map("branch_heads").into_iter().collect();
    repository.tracking.insert(key, branch_heads.get(branch).unwrap_or(&head).clone());
    Ok(Pushed::Pushed { commits: commits.len(), objects, branch_heads })
}

/// What §7.1 sends: breadth first from the head; live remote heads and all tracking refs stop the walk.
pub fn commits_to_send(repository: &Repository, refs: Option<&Refs>, head: &str) -> Vec<String> {
    let live = refs.into_iter().flat_map(|refs| refs.branch_heads.iter().map(|(_, head)| head));
    let mut stop: BTreeSet<String> = live.chain(repository.tracking.values()).cloned().collect();
    stop.remove(head);
    stop.retain(|commit| repository.commits.contains_key(commit));
    repository.walk(head, &stop)
}

/// All manifest values of these commits that are in the local store, sorted.
pub fn candidates(repository: &Repository, commits: &[String]) -> Vec<String> {
    let trees = commits.iter().map(|commit| repository.tree(commit));
    let objects: BTreeSet<String> = trees.flat_map(BTreeMap::into_values).collect();
    objects.into_iter().filter(|object| repository.objects.contains_key(object)).collect()
}

fn upload_objects(repository: &Repository, remote: &Remote, commits: &[String]) -> Result<usize, Failure> {
    let candidates = candidates(repository, commits);
    let missing = filter_objects(remote, &candidates).unwrap_or(candidates);
    let large: Vec<&String> = missing.iter().filter(|id| repository.objects[*id].len() > LARGE_BYTES).collect();
    let presigned = if large.is_empty() { BTreeMap::new() } else { presign(remote, &large) };
    for (id, url) in &presigned {
        if let Some(content) = repository.objects.get(id) {
            let answer = Request::put(url, content).send()?;
            if !(200..300).contains(&answer.code) {
                return Err(Failure::Traceback(format!("urllib.error.HTTPError: {} on PUT {url}", answer.code)));
            }
        }
    }
    let inline: Vec<String> = missing.iter().filter(|id| !presigned.contains_key(*id)).cloned().collect();
    push_objects(&repository.objects, remote, &inline)?;
    Ok(missing.len())
}

/// `POST /filter-objects`; an absent `missing` means that nothing is.
pub fn filter_objects(remote: &Remote, candidates: &[String]) -> Result<Vec<String>, Failure> {
    let body = Value::map([("object_ids", Value::strs(candidates))]).encode();
    let answer = Request::post(format!("{}/filter-objects", remote.url), remote.token.as_deref(), &body).value()?;
    let missing: BTreeSet<&str> = answer.items("missing").iter().filter_map(Value::as_str).collect();
    Ok(candidates.iter().filter(|id| missing.contains(id.as_str())).cloned().collect())
}

fn presign(remote: &Remote, large: &[&String]) -> BTreeMap<String, String> {
    let body = Value::map([("object_ids", Value::strs(large)), ("direction", Value::str("put"))]).encode();
    let answer = Request::post(format!("{}/presign", remote.url), remote.token.as_deref(), &body).value();
    answer.map(|answer| answer.str_map("presigned").into_iter().collect()).unwrap_or_default()
}

/// The body of one push/objects request.
pub fn objects_body(objects: &BTreeMap<String, Arc<[u8]>>, ids: &[String]) -> Vec<u8> {
    let entry =
        |id: &String| Value::map([("object_id", Value::str(id)), ("content", Value::Bin(objects[id].to_vec()))]);
    Value::map([("objects", Value::Array(ids.iter().map(entry).collect()))]).encode()
}

/// `POST /push/objects`, 400 ids at a time, 4 requests in parallel. The first failure is the answer.
pub fn push_objects(objects: &BTreeMap<String, Arc<[u8]>>, remote: &Remote, ids: &[String]) -> Result<(), Failure> {
    let chunks: Vec<&[String]> = ids.chunks(CHUNK_OBJECTS).collect();
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..PARALLEL_REQUESTS.min(chunks.len()) {
            scope.spawn(|| {
                while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let body = objects_body(objects, chunk);
                    let url = format!("{}/push/objects", remote.url);
                    if let Err(error) = Request::post(url, remote.token.as_deref(), &body).value() {
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        next.store(chunks.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// The body of `POST /push` for these commits, tip first; one snapshot per distinct id, sorted.
pub fn bundle_body(repository: &Repository, commits: &[String], branch: &str, force: bool) -> Value {
    let records: Vec<Value> = commits.iter().map(|id| repository.commits[id].clone()).collect();
    let ids: BTreeSet<&str> = records.iter().map(|record| record.text("snapshot_id")).collect();
    let snapshots = ids.into_iter().filter_map(|id| repository.snapshots.get(id).cloned()).collect();
    let bundle = Value::map([
        ("commits", Value::Array(records.clone())),
        ("snapshots", Value::Array(snapshots)),
        ("objects", Value::Array(Vec::new())),
    ]);
    Value::map([("bundle", bundle), ("branch", Value::str(branch)), ("force", Value::Bool(force))])
}

fn post_bundle(
    repository: &Repository,
    remote: &Remote,
    commits: &[String],
    branch: &str,
    force: bool,
) -> Result<Value, PushFailure> {
    let body = bundle_body(repository, commits, branch, force).encode();
    let answer = Request::post(format!("{}/push", remote.url), remote.token.as_deref(), &body).value();
    answer.map_err(|failure| match failure {
        Failure::Status { code: 409, text } => PushFailure::Diverged(text),
        other => PushFailure::Failed(other),
    })
}
