//! `push/objects`: blobs into packs, and one event that names them.
//!
//! Invariants: every blob is hashed, present already or not, and nothing is stored that does not hash to its id; what is
//! "present" is answered from this repository's own rows only; all blobs of a request are named by events of one
//! proposal, or none is; repeating a request changes nothing.

use std::sync::Arc;

use reprise_engine::{
    engine::{Condition, Proposal, Reason},
    event::EventBody,
    id::{Kind, ObjectId, PushId},
    planted::{self, PlantedBug},
};
use reprise_projections::View;
use sha2::{Digest, Sha256};

use crate::{
    hub::{
        Appended, Caller, Hub, HubError, Repo,
        body::Body,
        packing::{Packing, StoredPacks, spool_error},
        repos::RepoName,
    },
    wire::requests::{self, ObjectSpan, PushCaps},
};

/// What became of the objects of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// New to the repository.
    pub stored: u64,
    /// Present already, or sent twice.
    pub skipped: u64,
}

impl Hub {
    /// Stores the blobs of a `push/objects` body. Not to be dropped half-way by a disconnecting client: run it as a task.
    pub async fn receive_objects(
        self: Arc<Self>,
        caller: Caller,
        name: RepoName,
        body: Body,
    ) -> Result<Received, HubError> {
        let (hub, read) = (Arc::clone(&self), body.clone());
        let objects = self.blocking(move || Ok(requests::objects(read.source(), &hub.push_caps())?)).await?;
        self.receive_spans(caller, name, body, objects).await
    }

    /// Stores the blobs that stand in a body at these places.
    pub(crate) async fn receive_spans(
        self: Arc<Self>,
        caller: Caller,
        name: RepoName,
        body: Body,
        objects: Vec<ObjectSpan>,
    ) -> Result<Received, HubError> {
        let objects = Arc::new(objects);
        for _ in 0..ATTEMPTS_MAX {
            let (repo, view) = self.writable(&caller, &name.owner, &name.slug, true).await?;
            let push = self.random_push_id()?;
            let conditions = vec![repo.is_there()];
            let created = repo.creation();
            let (hub, body, objects) = (Arc::clone(&self), body.clone(), Arc::clone(&objects));
            let (received, mut events, stored) =
                self.blocking(move || hub.pack_objects(&repo, &view, (&body, &objects), push)).await?;
            if events.is_empty() {
                return Ok(received);
            }
            events.splice(0..0, created);
            let proposal = Proposal { push, fingerprint: 0, actor: caller.actor(), conditions, events };
            match self.append_packs(proposal, stored).await {
                // Another upload of the same owner created it first, or a sweep began.
                Err(HubError::NotAppended(Reason::Condition(
                    Condition::NameFree { .. } | Condition::NoSweepSince(_),
                ))) => {}
                appended => return appended.map(|_| received),
            }
        }
        let RepoName { owner, slug } = name;
        Err(HubError::Unavailable(format!("{owner}/{slug} was created and deleted meanwhile: send the objects again")))
    }

    /// Appends events that name `stored`. The packs are removed again only when the log says that it does not name them:
    /// whoever goes away before that leaves them.
    pub(crate) async fn append_packs(&self, mut proposal: Proposal, stored: StoredPacks) -> Result<Appended, HubError> {
        proposal.conditions.push(stored.condition());
        let (proposed, appended) = if planted::is(PlantedBug::DropOnCancel) {
            let appended = self.append(proposal).await;
            (stored.proposed(), appended)
        } else {
            (stored.proposed(), self.append(proposal).await)
        };
        let unnamed = match &appended {
            // The log names the packs of the first attempt; these are not them.
            Ok(appended) => appended.repeated,
            Err(error) => matches!(error, HubError::NotAppended(_)),
        };
        if unnamed {
            let removed = self.read(move || {
                proposed.remove();
                Ok(())
            });
            if let Err(error) = removed.await {
                tracing::warn!(%error, "the packs of a refused push stay");
            }
        }
        appended
    }

    fn pack_objects(
        &self,
        repo: &Repo,
        view: &View,
        (body, objects): (&Body, &[ObjectSpan]),
        push: PushId,
    ) -> Result<(Received, Vec<EventBody>, StoredPacks), HubError> {
        let mut packing = Packing::new(self, repo.row.record.repo, push);
        let stored = pack_missing(view, repo, body, objects, &mut packing)?;
        let (mut events, packs) = packing.finish()?;
        plant_rows_for_new_only(view, repo, &mut events)?;
        let skipped = objects.len() as u64 - stored;
        Ok((Received { stored, skipped }, events, packs))
    }

    /// The counts and sizes that a push may not pass.
    pub(crate) fn push_caps(&self) -> PushCaps {
        PushCaps {
            commits: self.limits.commits_per_push_max,
            snapshots: self.limits.snapshots_per_push_max,
            objects: self.limits.objects_per_request_max,
            record_bytes: self.limits.record_bytes_max,
            blob_bytes: self.limits.blob_bytes_max,
        }
    }
}

/// Tries of one upload to a repository that is not there yet: each lost one means that another created it.
const ATTEMPTS_MAX: usize = 4;

/// Packs those of `objects` that the repository does not have; checks all of them. Returns how many were packed.
pub(crate) fn pack_missing(
    view: &View,
    repo: &Repo,
    body: &Body,
    objects: &[ObjectSpan],
    packing: &mut Packing,
) -> Result<u64, HubError> {
    let mut ids: Vec<ObjectId> = objects.iter().map(|object| object.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let missing = view.missing(repo.scope, Kind::Blob, &ids)?;
    let mut packed = vec![false; missing.len()];
    for object in objects {
        // A second blob of the same id is checked like one that was there before.
        match missing.binary_search(&object.id) {
            Ok(index) if !packed[index] => {
                packing.blob(body, object)?;
                packed[index] = true;
            }
            _ => check_blob(body, object)?,
        }
    }
    Ok(missing.len() as u64)
}

fn check_blob(body: &Body, object: &ObjectSpan) -> Result<(), HubError> {
    let mut hash = Sha256::new();
    let hashed = body.pieces::<std::io::Error>(object.content, |piece| {
        hash.update(piece);
        Ok(())
    });
    hashed.map_err(spool_error)?;
    let found = ObjectId(hash.finalize().into());
    if found == object.id {
        return Ok(());
    }
    Err(HubError::Invalid(format!("object {} does not hash to its id: its content is {found}", object.id)))
}

/// The incident's bug, behind the test-only switch: no rows for what any other repository has.
pub(crate) fn plant_rows_for_new_only(view: &View, repo: &Repo, events: &mut Vec<EventBody>) -> Result<(), HubError> {
    if !planted::is(PlantedBug::RowsOnlyForObjectsNewToHub) {
        return Ok(());
    }
    let others = view.repos(None, usize::MAX)?;
    for event in events.iter_mut() {
        let EventBody::ObjectsReceived(received) = event else { continue };
        let mut kept = Vec::new();
        for row in received.rows.drain(..) {
            let mut elsewhere = false;
            for other in others.iter().filter(|other| other.record.repo != repo.row.record.repo) {
                elsewhere |= row.kind == Kind::Blob && view.has(other.scope(), row.kind, row.id)?;
            }
            if !elsewhere {
                kept.push(row);
            }
        }
        received.rows = kept;
    }
    events.retain(|event| !matches!(event, EventBody::ObjectsReceived(received) if received.rows.is_empty()));
    Ok(())
}
