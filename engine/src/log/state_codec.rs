//! The decision state as a sealed segment's footer stores it (FORMAT.md §4.3).
//!
//! Invariants: sorted by repository id, so equal states have equal bytes; names are not stored, they follow from the live
//! repositories; a section that does not parse is refolded, never half used.

use super::fields::{Fields, len32, put_text};
use crate::{
    decide::{RepoState, State},
    id::{ObjectId, Position, RepoId},
};

/// The section's bytes.
pub(crate) fn encode(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (repo, repo_state) in &state.repos {
        bytes.extend_from_slice(&repo.0);
        bytes.push(u8::from(repo_state.live));
        for position in [repo_state.settings, repo_state.last, repo_state.records] {
            bytes.extend_from_slice(&position.0.to_le_bytes());
        }
        put_text(&mut bytes, &repo_state.owner);
        put_text(&mut bytes, &repo_state.slug);
        bytes.extend_from_slice(&len32(repo_state.heads.len()).to_le_bytes());
        for (name, head) in &repo_state.heads {
            put_text(&mut bytes, name);
            bytes.extend_from_slice(&head.0);
        }
        bytes.extend_from_slice(&len32(repo_state.releases.len()).to_le_bytes());
        for tag in &repo_state.releases {
            put_text(&mut bytes, tag);
        }
    }
    bytes
}

/// Reads the section; `None` if it is not one.
pub(crate) fn decode(bytes: &[u8]) -> Option<State> {
    let mut fields = Fields::new(bytes);
    let mut state = State::default();
    while !fields.is_empty() {
        let repo = RepoId(fields.array()?);
        let repo_state = decode_repo(&mut fields)?;
        if repo_state.live {
            state.names.insert((repo_state.owner.clone(), repo_state.slug.clone()), repo);
        }
        state.repos.insert(repo, repo_state);
    }
    Some(state)
}

fn decode_repo(fields: &mut Fields<'_>) -> Option<RepoState> {
    let live = match fields.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let mut state = RepoState {
        live,
        settings: Position(fields.ordinal()?),
        last: Position(fields.ordinal()?),
        records: Position(fields.ordinal()?),
        owner: fields.text()?,
        slug: fields.text()?,
        ..RepoState::default()
    };
    for _ in 0..fields.u32()? {
        let name = fields.text()?;
        state.heads.insert(name, ObjectId(fields.array()?));
    }
    for _ in 0..fields.u32()? {
        state.releases.insert(fields.text()?);
    }
    Some(state)
}
