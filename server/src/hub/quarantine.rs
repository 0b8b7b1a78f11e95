//! Where repositories are put whose settings nobody knows any more: private, of an owner who has no tokens, without branches.
//!
//! Invariants: nobody but the operator reads or writes them until the operator gives them a name and an owner; the
//! repository's id stays what its packs say, so that packs that come later stand with the ones that were found.

use reprise_engine::{
    event::{RepoRecord, Visibility},
    id::RepoId,
};

use crate::hub::{HubError, repos::NewRepo};

/// The owner of quarantined repositories. Nobody gets a token of this name or creates a repository under it.
pub const OWNER: &str = "quarantine";

/// The settings of a repository of which only packs are left. `slug` is [`slug`] or, if that is taken, [`long_slug`].
pub fn record(repo: RepoId, slug: String, now_ms: u64) -> RepoRecord {
    let new = NewRepo::named(OWNER, &slug);
    RepoRecord {
        repo,
        owner: new.owner,
        slug,
        domain: new.domain,
        default_branch: new.default_branch,
        visibility: Visibility::Private,
        created_ms: now_ms,
    }
}

/// The short name of a quarantined repository: the first twelve digits of its id.
pub fn slug(repo: RepoId) -> String {
    hex::encode(&repo.0[..6])
}

/// The name when another repository's id begins with the same digits.
pub fn long_slug(repo: RepoId) -> String {
    hex::encode(repo.0)
}

/// Refuses what would give an account power over quarantined repositories.
pub fn check_owner(owner: &str) -> Result<(), HubError> {
    if owner == OWNER {
        let text = format!("'{OWNER}' is where repositories lie until the operator names them: nobody owns it");
        return Err(HubError::Invalid(text));
    }
    Ok(())
}
