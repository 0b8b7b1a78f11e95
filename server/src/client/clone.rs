//! `clone`: a new repository, as the stock client would have made it, of any size.
//!
//! Invariants: it grows in a directory of its own beside the one that it will be and gets its name when it is complete, its
//! working tree included; so `DIR` is never half a repository. What an interrupted clone of the same URL left is taken up.

use std::path::{Path, PathBuf};

use reprise_engine::id::ObjectId;
use serde_json::json;

use super::{
    ClientError,
    checkout::{Checkout, Tree, tree_of},
    fetch::{Fetch, blocking},
    files::{self, Found},
    head::Head,
    incoming::{DIRECTORY, Settled, give_up},
    lock::Lock,
    refs, settings,
    stock::{self, Refs},
};

/// What was cloned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cloned {
    /// The branch that is checked out.
    pub branch: String,
    /// Its commit.
    pub head: ObjectId,
    /// Branches in all.
    pub branches: usize,
    /// The repository's domain.
    pub domain: String,
    /// What came now; an earlier attempt may have brought more.
    pub settled: Settled,
}

/// Clones the repository of `fetch.remote` into `dir`. `fetch.repository` must be at [`growing`] of it.
///
/// Errors: `Refused` if `dir` is there and not empty, or has no such branch; what fetching gives.
pub async fn clone(fetch: &Fetch, dir: &Path, branch: Option<&str>, created_at: String) -> Result<Cloned, ClientError> {
    check_target(dir)?;
    let refs = stock::refs(&fetch.remote).await?;
    let branch = choose(&refs, branch)?;
    let lock = begin(fetch)?;
    let grown = grow(fetch, refs, branch, created_at).await;
    let (root, dir) = (fetch.repository.root().to_owned(), dir.to_owned());
    blocking(move || {
        let cloned = match grown {
            Ok(cloned) => cloned,
            Err(error) => return Err(give_up(&root, error)),
        };
        check_target(&dir)?;
        files::sync_all(&root)?;
        files::rename(&root, &dir)?;
        drop(lock);
        Ok(cloned)
    })
    .await
}

async fn grow(fetch: &Fetch, refs: Refs, branch: String, created_at: String) -> Result<Cloned, ClientError> {
    let heads: Vec<ObjectId> = refs.heads.values().copied().collect();
    let settled = fetch.bring(&heads).await?;
    let fetch = fetch.clone();
    blocking(move || {
        finish(&fetch, &refs, &branch, created_at)?;
        Ok(Cloned { head: refs.heads[&branch], branch, branches: refs.heads.len(), domain: refs.domain, settled })
    })
    .await
}

/// Where the clone that will be `dir` grows.
pub fn growing(dir: &Path) -> Result<PathBuf, ClientError> {
    let name = dir.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| ClientError::Refused(format!("'{}' names no new directory", dir.display())))?;
    Ok(dir.with_file_name(format!(".{name}.reprise-clone")))
}

fn check_target(dir: &Path) -> Result<(), ClientError> {
    match files::look(dir)? {
        Found::Nothing => Ok(()),
        Found::Directory if files::names(dir)?.is_empty() => Ok(()),
        _ => Err(ClientError::Refused(format!("{} is there already and not an empty directory", dir.display()))),
    }
}

fn choose(refs: &Refs, branch: Option<&str>) -> Result<String, ClientError> {
    if let Some(branch) = branch {
        return match refs.heads.contains_key(branch) {
            true => Ok(branch.to_owned()),
            false => Err(ClientError::Refused(format!("the repository has no branch '{branch}'"))),
        };
    }
    let default = Some(&refs.default_branch).filter(|name| refs.heads.contains_key(*name));
    let chosen = default.or_else(|| refs.heads.keys().next());
    chosen.cloned().ok_or_else(|| ClientError::Refused("the repository has no branches yet".to_owned()))
}

/// Takes the growing directory for this clone alone.
fn begin(fetch: &Fetch) -> Result<Lock, ClientError> {
    let repository = &fetch.repository;
    let lock = Lock::take(&repository.muse(DIRECTORY).join("lock"))?;
    let source = repository.muse(DIRECTORY).join("source");
    let url = fetch.remote.address.to_string();
    if files::look(&source)? == Found::Nothing {
        files::write(&source, url.as_bytes())?;
    } else if files::read(&source, SOURCE_BYTES_MAX)? != url.as_bytes() {
        return Err(ClientError::Refused(format!(
            "{} holds an interrupted clone of another repository: go on with that one, or remove it",
            repository.root().display()
        )));
    }
    Ok(lock)
}

/// Everything but the objects: refs, settings, working tree.
fn finish(fetch: &Fetch, refs: &Refs, branch: &str, created_at: String) -> Result<(), ClientError> {
    let repository = &fetch.repository;
    for dir in ["refs", "remotes"] {
        // Of an earlier attempt, when other branches were there.
        files::remove_all(&repository.muse(dir))?;
    }
    for (name, head) in &refs.heads {
        refs::write(&repository.heads(), name, *head)?;
        refs::write(&repository.tracking("origin"), name, *head)?;
    }
    files::write(&repository.muse("HEAD"), Head::text_of_branch(branch).as_bytes())?;
    files::write(&repository.muse("config.toml"), settings::of_clone(&fetch.remote.address, branch).as_bytes())?;
    let identity =
        json!({"created_at": created_at, "domain": refs.domain, "repo_id": refs.repo_id, "schema_version": SCHEMA});
    let identity = serde_json::to_vec_pretty(&identity).unwrap_or_default();
    files::write(&repository.muse("repo.json"), &[&identity[..], b"\n"].concat())?;
    for dir in ["objects", "commits", "snapshots"] {
        files::make_dir(&repository.muse(dir))?;
    }
    let commit = repository.commit(refs.heads[branch])?;
    let tree = tree_of(&repository.snapshot(commit.snapshot)?.1);
    Checkout::plan(repository, &Tree::new(), &tree)?.apply(repository, &fetch.counter, &fetch.stop)?;
    files::remove_all(&repository.muse(DIRECTORY))
}

/// The layout that the stock client writes.
const SCHEMA: &str = "0.1.5";
/// Longest URL that a clone is begun with.
const SOURCE_BYTES_MAX: u64 = 1 << 16;
