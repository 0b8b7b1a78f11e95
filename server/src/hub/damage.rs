//! Damage that a read met: told to the caller, condemned in the log, so that the next push of the object heals it.
//!
//! Invariants: damaged bytes are never served; condemning never fails the request that found the damage; what only could
//! not be read now (too many open files, a busy disk) is not condemned.

use std::sync::Arc;

use reprise_engine::{
    Error, ErrorKind,
    clock::random16,
    engine::{Condition, Engine, Proposal},
    event::{EventBody, RowsCondemned},
    id::{Kind, ObjectId, PackId, PushId, RepoId},
    pack::Location,
};

use crate::hub::{Hub, HubError, Repo};

/// True for errors that say that the stored bytes are gone or wrong.
pub fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound)
}

impl Hub {
    /// What to tell a caller whose read of `object` failed with `error`; damage is condemned.
    pub(crate) fn found_damage(
        &self,
        repo: &Repo,
        kind: Kind,
        object: ObjectId,
        location: &Location,
        error: Error,
    ) -> HubError {
        if !is_damage(&error) {
            return error.into();
        }
        condemn(&self.engine, repo.row.record.repo, location.pack, vec![(kind, object)], &error.to_string());
        HubError::Damaged { object, pack: location.pack }
    }
}

/// Proposes the event that takes `rows` (of one pack) out of service. Does not wait for it.
pub fn condemn(engine: &Engine, repo: RepoId, pack: PackId, mut rows: Vec<(Kind, ObjectId)>, reason: &str) {
    rows.sort_unstable();
    rows.dedup();
    tracing::error!(%repo, %pack, objects = rows.len(), reason, "damaged objects found: condemning their rows");
    metrics::counter!("reprise_rows_condemned_total").increment(rows.len() as u64);
    let push = match random16(engine.random().as_ref()) {
        Ok(bytes) => PushId::from_random(bytes),
        Err(error) => return tracing::error!(%error, "the rows could not be condemned"),
    };
    let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    let events = vec![EventBody::RowsCondemned(RowsCondemned { repo, pack, rows, reason })];
    let conditions = vec![Condition::RepoLive(repo)];
    let proposal = Proposal { push, fingerprint: 0, actor: ACTOR.to_owned(), conditions, events };
    let log = Arc::new(pack);
    engine.propose(proposal, Box::new(move |outcome| tracing::info!(pack = %log, ?outcome, "rows condemned")));
}

/// Who condemns.
const ACTOR: &str = "reprise";
/// Length of a reason in the log.
const REASON_CHARS_MAX: usize = 400;
