//! The working tree: from one snapshot's files to another's, and never over what somebody changed.
//!
//! Invariants: only paths in which the two snapshots differ are looked at and touched; of these each file is as the old
//! snapshot or as the new one says, else nothing at all is changed (an interrupted checkout can so be repeated); nothing is
//! written through a symbolic link, hence nothing outside the tree; a file gets its name when all its bytes are there and
//! hashed. Everything that is not in either snapshot stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use reprise_engine::{
    id::{Kind, ObjectId},
    object::names,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    ClientError, Repository,
    counter::{Counter, Unit},
    files::{self, Found, Writing},
    incoming, parallel,
    repository::empty_blob,
};

/// Path → blob.
pub type Tree = BTreeMap<String, ObjectId>;

/// The files of a verified snapshot's record.
pub fn tree_of(record: &Value) -> Tree {
    let entries = record["manifest"].as_object().into_iter().flatten();
    entries.filter_map(|(path, id)| Some((path.clone(), id.as_str()?.parse().ok()?))).collect()
}

/// What a checkout will do; nothing of it stands in anybody's way.
#[derive(PartialEq, Eq, Debug)]
pub struct Checkout {
    remove: Vec<String>,
    write: Vec<(String, ObjectId)>,
}

impl Checkout {
    /// Looks at the tree: what has to be done to get from `old` to `new`.
    ///
    /// Errors: `Refused`, listing the files that somebody changed.
    pub fn plan(repository: &Repository, old: &Tree, new: &Tree) -> Result<Checkout, ClientError> {
        let mut plan = Checkout { remove: Vec::new(), write: Vec::new() };
        let mut changed = Vec::new();
        let gone: BTreeSet<&String> = old.keys().filter(|path| !new.contains_key(*path)).collect();
        for path in &gone {
            match state(repository, path, old.get(*path), None, &gone)? {
                State::Old => plan.remove.push((*path).clone()),
                State::New => {}
                State::Changed => changed.push((*path).clone()),
            }
        }
        for (path, id) in new.iter().filter(|(path, id)| old.get(*path) != Some(*id)) {
            match state(repository, path, old.get(path), Some(id), &gone)? {
                State::Old => plan.write.push((path.clone(), *id)),
                State::New => {}
                State::Changed => changed.push(path.clone()),
            }
        }
        if changed.is_empty() { Ok(plan) } else { Err(refuse(&changed)) }
    }

    /// Does it.
    pub fn apply(
        self,
        repository: &Repository,
        counter: &Counter,
        stop: &CancellationToken,
    ) -> Result<(), ClientError> {
        counter.begin("checking out", Unit::Objects, (self.remove.len() + self.write.len()) as u64);
        for path in &self.remove {
            files::remove(&place(repository, path)?)?;
            remove_empty_parents(repository, path);
            counter.add(1);
        }
        parallel::for_each(&self.write, stop, |(path, id)| {
            write(repository, path, *id)?;
            counter.add(1);
            Ok(())
        })
    }
}

/// How a path is in the tree.
enum State {
    Old,
    New,
    Changed,
}

fn state(
    repository: &Repository,
    path: &str,
    old: Option<&ObjectId>,
    new: Option<&ObjectId>,
    gone: &BTreeSet<&String>,
) -> Result<State, ClientError> {
    let place = place(repository, path)?;
    // A file of the old snapshot that goes away may become a folder of the new one.
    let above = parents(path).filter(|parent| !gone.contains(&(*parent).to_owned()));
    for parent in above {
        if !matches!(files::look(&repository.root().join(parent))?, Found::Nothing | Found::Directory) {
            return Ok(State::Changed);
        }
    }
    let found = match files::look(&place)? {
        Found::Nothing => None,
        Found::File(_) => Some(files::hash(&place, |_| Ok(()))?.0),
        // A folder whose files all go away may become a file.
        Found::Directory if holds_only(&place, path, gone)? => None,
        Found::Directory | Found::Other => return Ok(State::Changed),
    };
    // The stock client's checkouts lack empty files: not having one is not having changed it.
    let lacks_empty = found.is_none() && old == Some(&empty_blob());
    Ok(match found {
        found if found.as_ref() == new => State::New,
        found if found.as_ref() == old || lacks_empty => State::Old,
        _ => State::Changed,
    })
}

fn holds_only(dir: &Path, path: &str, gone: &BTreeSet<&String>) -> Result<bool, ClientError> {
    for name in files::names(dir)? {
        let (inner, path) = (dir.join(&name), format!("{path}/{name}"));
        let is_ours = match files::look(&inner)? {
            Found::Directory => holds_only(&inner, &path, gone)?,
            _ => gone.contains(&path),
        };
        if !is_ours {
            return Ok(false);
        }
    }
    Ok(true)
}

fn write(repository: &Repository, path: &str, id: ObjectId) -> Result<(), ClientError> {
    let place = place(repository, path)?;
    if let Some(link) = parents(path).map(|parent| repository.root().join(parent)).find(|parent| is_no_folder(parent)) {
        return Err(ClientError::Refused(format!("{} is in the way of '{path}'", link.display())));
    }
    let mut writing = Writing::beside(&repository.muse(incoming::DIRECTORY).join("checkout").join("file"))?;
    let blob = repository.path(Kind::Blob, id);
    // The repository's own copy may be damaged: what is checked out is what was committed, or nothing.
    let (derived, _) = if id == empty_blob() { (id, 0) } else { files::hash(&blob, |piece| writing.append(piece))? };
    if derived != id {
        return Err(ClientError::Refused(format!("blob {id} is damaged in {}", repository.root().display())));
    }
    if let Some(dir) = place.parent() {
        files::make_dir(dir)?;
    }
    writing.finish(&place)
}

fn is_no_folder(path: &Path) -> bool {
    !matches!(files::look(path), Ok(Found::Nothing | Found::Directory))
}

fn remove_empty_parents(repository: &Repository, path: &str) {
    parents(path)
        .collect::<Vec<_>>()
        .iter()
        .rev()
        .for_each(|parent| files::remove_empty_dir(&repository.root().join(parent)));
}

/// `a` and `a/b` of `a/b/c`.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// Where a path is: checked once more, whoever read it.
fn place(repository: &Repository, path: &str) -> Result<PathBuf, ClientError> {
    names::check_path(path).map_err(|error| ClientError::Refused(error.to_string()))?;
    Ok(repository.root().join(path))
}

fn refuse(changed: &[String]) -> ClientError {
    let more = changed.len().saturating_sub(LISTED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let listed: Vec<String> = changed.iter().take(LISTED_MAX).map(|path| path.escape_debug().to_string()).collect();
    ClientError::Refused(format!(
        "local changes stand in the way, nothing was changed: {}{more} (commit them, or move them away)",
        listed.join(", ")
    ))
}

/// Files that a refusal lists.
const LISTED_MAX: usize = 20;

#[cfg(test)]
mod tests;
