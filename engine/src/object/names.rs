//! The one grammar for paths, branches, repository names.
use crate::error::Result;

/// Checks one path of a snapshot.
pub fn check_path(path: &str) -> Result<()> {
    let _ = path;
    todo!()
}

/// Checks a branch name.
pub fn check_ref(name: &str) -> Result<()> {
    let _ = name;
    todo!()
}

/// Checks an owner (`^[a-z0-9][a-z0-9._-]{0,63}$`, case-insensitive input is refused, not folded).
pub fn check_owner(owner: &str) -> Result<()> {
    let _ = owner;
    todo!()
}

/// Checks a slug; same grammar as an owner.
pub fn check_slug(slug: &str) -> Result<()> {
    let _ = slug;
    todo!()
}
