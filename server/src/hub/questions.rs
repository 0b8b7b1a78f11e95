//! Small answers from the index: refs, filter-objects, presign, negotiate.
//!
//! Invariants: "do you have it" is answered from this repository's own rows only; the empty blob is never missing; nothing
//! here reads a pack.

use reprise_engine::{
    id::{Kind, ObjectId},
    object::ids::blob_id,
};
use reprise_projections::{View, view::RefRow};

use crate::{
    hub::{
        Hub, HubError, Repo,
        body::Body,
        walk::{WalkCaps, walk},
    },
    wire::requests,
};

/// What `negotiate` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// Commits of the batch that the repository has.
    pub ack: Vec<ObjectId>,
    /// One of them at which the walk from the wanted commit ended.
    pub common_base: Option<ObjectId>,
    /// The batch alone says exactly what to send.
    pub ready: bool,
}

impl Hub {
    /// Of the ids of a `filter-objects` body, those that the repository lacks, ascending.
    pub fn filter_objects(&self, repo: &Repo, view: &View, body: &Body) -> Result<Vec<ObjectId>, HubError> {
        let mut ids = requests::object_ids(body.source(), self.limits.filter_ids_max)?;
        ids.sort_unstable();
        ids.dedup();
        // In place: a list of a million ids is in memory once.
        let (empty, mut kept) = (blob_id(&[]), 0);
        for start in (0..ids.len()).step_by(ASKED_AT_ONCE) {
            let end = ids.len().min(start + ASKED_AT_ONCE);
            for id in view.missing(repo.scope, Kind::Blob, &ids[start..end])? {
                if id != empty {
                    ids[kept] = id;
                    kept += 1;
                }
            }
        }
        ids.truncate(kept);
        Ok(ids)
    }

    /// The ids of a `presign` body, as sent: a directory store has no address of its own, everything goes inline.
    pub fn presign_inline(&self, body: &Body) -> Result<Vec<ObjectId>, HubError> {
        Ok(requests::object_ids(body.source(), self.limits.presign_ids_max)?)
    }

    /// Whether this batch of `have` is enough for an exact fetch.
    ///
    /// The client offers its commits in arbitrary order, 64 at a time, and then fetches with the last batch only. `ready`
    /// is therefore said only when every path from the wanted commit ends in the batch within a few steps: then that
    /// fetch sends nothing twice. Otherwise the client goes on, and at the end sends all its commits, which is exact too.
    /// An early `ready` (as the reference gives it) would send history again; an error status would spare some rounds,
    /// but look like a fault to everyone who watches.
    pub fn negotiate(&self, repo: &Repo, view: &View, body: &Body) -> Result<Negotiated, HubError> {
        let max = self.limits.negotiate_ids_max;
        let (want, offered) = requests::want_have(body.source(), max, max)?;
        let mut have = offered.clone();
        have.sort_unstable();
        have.dedup();
        let missing = view.missing(repo.scope, Kind::Commit, &have)?;
        let ack: Vec<ObjectId> = offered.into_iter().filter(|id| missing.binary_search(id).is_err()).collect();
        if let Some(base) = want.iter().find(|id| have.binary_search(id).is_ok()) {
            return Ok(Negotiated { ack, common_base: Some(*base), ready: true });
        }
        let base = cut_by(view, repo, &want, &have)?;
        Ok(Negotiated { ack, common_base: base, ready: base.is_some() || have.is_empty() })
    }
}

/// A commit of `have` next to what must be sent, if `have` cuts every path from `want` within [`NEAR_COMMITS_MAX`].
fn cut_by(view: &View, repo: &Repo, want: &[ObjectId], have: &[ObjectId]) -> Result<Option<ObjectId>, HubError> {
    if have.is_empty() {
        return Ok(None);
    }
    let caps = WalkCaps { commits: NEAR_COMMITS_MAX, wire_bytes: u64::MAX };
    let walked = match walk(view, repo.scope, want, have, caps) {
        // Farther than is worth looking.
        Err(HubError::TooLarge(_)) => return Ok(None),
        walked => walked?,
    };
    if let Some(unknown) = walked.unknown.first() {
        return Err(HubError::NotFound(format!("commit {unknown} is not in this repository")));
    }
    let mut base = None;
    for commit in &walked.sent {
        let Some(row) = view.commit(repo.scope, commit.id)? else { continue };
        if row.parents.is_empty() {
            // This path reached the root past the batch.
            return Ok(None);
        }
        base = base.or_else(|| row.parents.iter().copied().find(|parent| have.binary_search(parent).is_ok()));
    }
    Ok(base)
}

/// The default branch as the client can use it: never one with a slash, nor one that does not exist, while there is
/// another (a clone of `a/b` fails).
pub fn default_branch<'a>(chosen: &'a str, refs: &'a [RefRow]) -> &'a str {
    let exists = |name: &str| refs.iter().any(|row| row.name == name);
    if exists(chosen) && !chosen.contains('/') {
        return chosen;
    }
    let plain = || refs.iter().map(|row| row.name.as_str()).find(|name| !name.contains('/'));
    match refs {
        [] if chosen.is_empty() => DEFAULT_BRANCH,
        [] => chosen,
        _ if exists(DEFAULT_BRANCH) => DEFAULT_BRANCH,
        _ => plain().unwrap_or(if exists(chosen) { chosen } else { &refs[0].name }),
    }
}

/// Before there is any.
const DEFAULT_BRANCH: &str = "main";
/// Ids that are looked up in one scan.
const ASKED_AT_ONCE: usize = 16 << 10;
/// How far `negotiate` looks.
const NEAR_COMMITS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use reprise_engine::id::Position;

    use super::*;

    fn check(chosen: &str, names: &[&str], expected: &str) {
        let row = |name: &&str| RefRow { name: (*name).to_owned(), head: ObjectId([1; 32]), position: Position(1) };
        let refs: Vec<RefRow> = names.iter().map(row).collect();
        assert_eq!(default_branch(chosen, &refs), expected, "{chosen} of {names:?}");
    }

    #[test]
    fn a_default_branch_with_a_slash_is_shown_only_when_there_is_no_other() {
        check("", &[], "main");
        check("trunk", &[], "trunk");
        check("trunk", &["dev", "trunk"], "trunk");
        check("trunk", &["dev"], "dev");
        check("a/b", &["a/b"], "a/b");
        check("a/b", &["a/b", "dev"], "dev");
        check("a/b", &["a/b", "dev", "main"], "main");
        check("gone", &["x/y"], "x/y");
    }
}
