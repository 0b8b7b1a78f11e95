//! Damage that a read met: condemned in the log, then told to the caller, so that his next push of the object heals it.
//!
//! Invariants: damaged bytes are never served; condemning never fails the request that found the damage; what only could
//! not be read now (too many open files, a busy disk) is not condemned.

use std::{sync::mpsc, time::Duration};

use reprise_engine::{
    Error, ErrorKind,
    engine::{Condition, Outcome, Proposal},
    event::{EventBody, RowsCondemned},
    id::{Kind, ObjectId, PackId},
    pack::Location,
};
use reprise_projections::RepoScope;

use crate::hub::{Hub, HubError, Repo};

impl Hub {
    /// True for errors that say that the stored bytes are gone or wrong. A pack that is not there is gone only if the
    /// store is: a volume that lost its mount has no pack at all.
    pub(crate) fn is_damage(&self, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::Corrupt => true,
            ErrorKind::NotFound => match self.engine.store().claim(self.engine.log(), false) {
                Ok(()) => true,
                Err(not_ours) => {
                    tracing::error!(%error, %not_ours, "a pack is not there, and neither is its store");
                    false
                }
            },
            _ => false,
        }
    }

    /// What to tell a caller whose read of `object` failed with `error`; damage is condemned.
    pub(crate) fn found_damage(
        &self,
        repo: &Repo,
        kind: Kind,
        object: ObjectId,
        location: &Location,
        error: Error,
    ) -> HubError {
        self.found_damaged_pack(repo, location.pack, (kind, object), Vec::new(), error)
    }

    /// The same for a read of a pack for one object `first` and `others`.
    pub(crate) fn found_damaged_pack(
        &self,
        repo: &Repo,
        pack: PackId,
        first: (Kind, ObjectId),
        others: Vec<(Kind, ObjectId)>,
        error: Error,
    ) -> HubError {
        let object = first.1;
        if !self.is_damage(&error) {
            let text = format!("object {object} could not be read now: its store does not answer as it should");
            return if error.is_not_found() { HubError::Unavailable(text) } else { error.into() };
        }
        let mut rows = others;
        rows.push(first);
        self.condemn(repo.scope, pack, rows, &error.to_string());
        HubError::Damaged { object, pack }
    }

    /// Takes `rows` (of one pack) out of service by an event and waits (≤ 2 s) until it is folded: whoever is told of the
    /// damage may push the object again at once, and that push must find it missing. For a blocking thread. How many were taken out.
    pub(crate) fn condemn(&self, scope: RepoScope, pack: PackId, rows: Vec<(Kind, ObjectId)>, reason: &str) -> u64 {
        let rows = self.still_served(scope, pack, rows);
        let count = rows.len() as u64;
        if count == 0 {
            return 0;
        }
        let repo = scope.repo();
        tracing::error!(%repo, %pack, objects = rows.len(), reason, "damaged objects found: condemning their rows");
        metrics::counter!("reprise_rows_condemned_total").increment(rows.len() as u64);
        let push = match self.random_push_id() {
            Ok(push) => push,
            Err(error) => {
                tracing::error!(%error, "the rows could not be condemned");
                return 0;
            }
        };
        let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        let events = vec![EventBody::RowsCondemned(RowsCondemned { repo, pack, rows, reason })];
        let conditions = vec![Condition::RepoLive(repo)];
        let (reply, outcome) = mpsc::sync_channel(1);
        let proposal = Proposal { push, fingerprint: 0, actor: ACTOR.to_owned(), conditions, events };
        self.engine.propose(proposal, Box::new(move |outcome| reply.send(outcome).unwrap_or_default()));
        match outcome.recv_timeout(CONDEMNED_WITHIN) {
            Ok(Outcome::Done { last, .. }) => {
                if !self.projections.wait_folded(last, CONDEMNED_WITHIN) {
                    tracing::warn!(%pack, "rows condemned in the log, not yet in the index");
                }
                count
            }
            other => {
                tracing::error!(%pack, ?other, "the rows could not be condemned");
                0
            }
        }
    }

    /// Those of `rows` that readers would still be sent to: not condemned by somebody else, not replaced by a later pack.
    fn still_served(&self, scope: RepoScope, pack: PackId, mut rows: Vec<(Kind, ObjectId)>) -> Vec<(Kind, ObjectId)> {
        rows.sort_unstable();
        rows.dedup();
        let view = self.projections.view();
        rows.retain(|(kind, id)| match view.locate(scope, *kind, *id) {
            Ok(found) => found.is_some_and(|location| location.pack == pack),
            // Condemning twice is harmless, not condemning is not.
            Err(_) => true,
        });
        rows
    }
}

/// How long the event and its fold are waited for.
const CONDEMNED_WITHIN: Duration = Duration::from_secs(2);
/// Who condemns.
const ACTOR: &str = "reprise";
/// Length of a reason in the log.
const REASON_CHARS_MAX: usize = 400;
