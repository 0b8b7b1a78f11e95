//! ls-remote, clone, fetch and pull: the exact request sequences of MWP §7.
//!
//! Invariants: clone never sends a token; ls-remote sends none on a loopback hub; fetch names every local commit; pull
//! negotiates 64 commits at a time and fetches even when up to date.

use std::collections::BTreeMap;

use super::{
    http::{Failure, Request},
    pack::{Applied, apply},
    repository::{Merge, Repository},
    value::Value,
};

/// `GET /refs` with the client's fallbacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refs {
    /// "" when absent.
    pub repo_id: String,
    /// "midi" when absent: a clone would then be of the wrong kind.
    pub domain: String,
    /// "main" when absent.
    pub default_branch: String,
    /// In the answer's order.
    pub branch_heads: Vec<(String, String)>,
}

impl Refs {
    /// Asks for them.
    pub fn get(url: &str, token: Option<&str>) -> Result<Refs, Failure> {
        let answer = Request::get(format!("{url}/refs"), token).value()?;
        let text = |key: &str, fallback: &str| match answer.get(key) {
            Some(Value::Str(text)) => text.clone(),
            _ => fallback.to_owned(),
        };
        Ok(Refs {
            repo_id: text("repo_id", ""),
            domain: text("domain", "midi"),
            default_branch: text("default_branch", "main"),
            branch_heads: answer.str_map("branch_heads"),
        })
    }

    /// The head of one branch.
    pub fn head(&self, branch: &str) -> Option<&str> {
        self.branch_heads.iter().find(|(name, _)| name == branch).map(|(_, head)| head.as_str())
    }
}

/// `muse plumbing ls-remote URL`: anonymous on a loopback hub.
pub fn ls_remote(url: &str) -> Result<BTreeMap<String, String>, Failure> {
    Ok(Refs::get(url, None)?.branch_heads.into_iter().collect())
}

/// Why a clone failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CloneFailure {
    /// "Remote repository has no branches (empty repository).", exit 1.
    Empty,
    /// The branch to check out contains a slash, or is not there.
    Branch(String),
    /// "Cannot reach remote" (refs), exit 3.
    Refs(Failure),
    /// "Fetch failed", exit 3; the real client deletes the target directory.
    Fetch(Failure),
}

/// `muse clone URL`.
pub fn clone(url: &str) -> Result<Repository, CloneFailure> {
    clone_branch(url, None).map(|(repository, _)| repository)
}

/// `muse clone [-b BRANCH] URL`, and what came.
pub fn clone_branch(url: &str, branch: Option<&str>) -> Result<(Repository, Applied), CloneFailure> {
    let refs = Refs::get(url, None).map_err(CloneFailure::Refs)?;
    if refs.branch_heads.is_empty() {
        return Err(CloneFailure::Empty);
    }
    let wanted = refs.branch_heads.iter().map(|(_, head)| head);
    let answer = post_fetch(url, None, wanted, []).map_err(CloneFailure::Fetch)?;
    let mut repository = Repository::init();
    repository.repo_id.clone_from(&refs.repo_id);
    repository.domain.clone_from(&refs.domain);
    let applied = apply(&mut repository, &answer).map_err(CloneFailure::Fetch)?;
    repository.remote("origin", url, None);
    for (name, head) in &refs.branch_heads {
        // Branches are files below refs/heads: a name that is a folder of another one ends the client in a traceback.
        let clash = repository.heads.keys().find(|known| is_folder_of(known, name) || is_folder_of(name, known));
        if let Some(clash) = clash {
            let text = format!("branch {name:?} is a path prefix of {clash:?}, or the other way round");
            return Err(CloneFailure::Fetch(Failure::Traceback(text)));
        }
        repository.set_branch(name, head);
        repository.tracking.insert(("origin".to_owned(), name.clone()), head.clone());
    }
    let fallback = || refs.branch_heads[0].0.clone();
    let default = || refs.head(&refs.default_branch).map_or_else(fallback, |_| refs.default_branch.clone());
    repository.branch = branch.map_or_else(default, str::to_owned);
    let missing = !repository.heads.contains_key(&repository.branch);
    if missing || repository.branch.contains('/') {
        return Err(CloneFailure::Branch(repository.branch));
    }
    Ok((repository, applied))
}

fn is_folder_of(folder: &str, name: &str) -> bool {
    name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// What a fetch did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetched {
    /// The tracking ref equals the remote head: nothing was asked for.
    Same,
    /// This came.
    Applied(Applied),
}

/// `muse fetch REMOTE` of one branch.
pub fn fetch(repository: &mut Repository, remote: &str, branch: &str) -> Result<Fetched, Failure> {
    let target = repository.remotes[remote].clone();
    let refs = Refs::get(&target.url, target.token.as_deref())?;
    let head = branch_of(&refs, branch)?;
    let key = (remote.to_owned(), branch.to_owned());
    if repository.tracking.get(&key) == Some(&head) {
        return Ok(Fetched::Same);
    }
    let have: Vec<String> = repository.commits.keys().cloned().collect();
    let answer = post_fetch(&target.url, target.token.as_deref(), [&head], &have)?;
    let applied = apply(repository, &answer)?;
    repository.tracking.insert(key, head);
    Ok(Fetched::Applied(applied))
}

/// `muse pull REMOTE BRANCH`: fetch, then merge into the local branch of that name.
pub fn pull(repository: &mut Repository, remote: &str, branch: &str) -> Result<(Applied, Merge), Failure> {
    let target = repository.remotes[remote].clone();
    let token = target.token.as_deref();
    let refs = Refs::get(&target.url, token)?;
    let head = branch_of(&refs, branch)?;
    let have = negotiate(repository, &target.url, token, &head);
    let answer = post_fetch(&target.url, token, [&head], &have)?;
    let applied = apply(repository, &answer)?;
    repository.tracking.insert((remote.to_owned(), branch.to_owned()), head.clone());
    Ok((applied, repository.merge(branch, &head)))
}

fn branch_of(refs: &Refs, branch: &str) -> Result<String, Failure> {
    let head = refs.head(branch).map(str::to_owned);
    head.ok_or_else(|| Failure::Body(format!("Branch '{branch}' does not exist on remote")))
}

/// The commits that pull will name as present (MWP §5.7): the last batch's ack, or that batch, or all of them.
fn negotiate(repository: &Repository, url: &str, token: Option<&str>, head: &str) -> Vec<String> {
    let local: Vec<String> = repository.commits.keys().cloned().collect();
    for batch in local.chunks(64) {
        let body = Value::map([("want", Value::strs([head])), ("have", Value::strs(batch))]).encode();
        let Ok(answer) = Request::post(format!("{url}/negotiate"), token, &body).value() else { return local };
        if answer.get("ready") == Some(&Value::Bool(true)) {
            let ack: Vec<String> = answer.items("ack").iter().filter_map(|id| id.as_str().map(str::to_owned)).collect();
            return if ack.is_empty() { batch.to_vec() } else { ack };
        }
    }
    local
}

/// `POST /fetch`.
pub fn post_fetch<'a>(
    url: &str,
    token: Option<&str>,
    want: impl IntoIterator<Item = &'a String>,
    have: impl IntoIterator<Item = &'a String>,
) -> Result<Value, Failure> {
    let body = Value::map([("want", Value::strs(want)), ("have", Value::strs(have))]).encode();
    Request::post(format!("{url}/fetch"), token, &body).value()
}
