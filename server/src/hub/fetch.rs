//! `fetch`: want and have, the commits between, what they add, and one answer of known length.
//!
//! Invariants: complete or refused, never silently partial; an unknown want is 404 (the client would set a ref to a commit
//! that it does not have); damage that shows before the first chunk is full is a 500 that names it, later the answer
//! stops short of its Content-Length; nothing is read but the planned ranges.

use std::sync::Arc;

use bytes::Bytes;
use reprise_engine::id::ObjectId;
use reprise_projections::View;
use tokio::sync::mpsc;

use crate::{
    hub::{
        Hub, HubError, Repo,
        body::Body,
        plan::{Plan, Planner},
        stream::Producer,
        walk::{SentCommit, WalkCaps, walk},
    },
    wire::requests,
};

/// An answer that has begun.
pub struct FetchAnswer {
    /// Bytes in all.
    pub len: u64,
    /// The first chunk.
    pub first: Bytes,
    /// The others; an error ends the answer short of `len`.
    pub rest: mpsc::Receiver<Result<Bytes, HubError>>,
}

impl Hub {
    /// Answers a `fetch` body.
    pub async fn fetch(self: &Arc<Self>, repo: Repo, view: View, body: Body) -> Result<FetchAnswer, HubError> {
        let room = self.room_for_ids(&body).await?;
        let scope = repo.scope;
        let planned = self.decided(view, move |hub, view| {
            // Held by the job: once it is planned, the list is gone.
            let _room = &room;
            hub.plan_fetch(&repo, view, &body)
        });
        let (plan, view) = planned.await?;
        let (hub, len) = (Arc::clone(self), plan.len);
        self.begin(len, move |chunks| Producer { hub, view, scope, plan, chunks }.run()).await
    }

    /// Begins an answer of `len` bytes that `produce` makes on a blocking thread.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        len: u64,
        produce: impl FnOnce(mpsc::Sender<Result<Bytes, HubError>>) + Send + 'static,
    ) -> Result<FetchAnswer, HubError> {
        let (chunks, mut rest) = mpsc::channel(CHUNKS_QUEUED);
        let hub = Arc::clone(self);
        tokio::spawn(async move {
            let produced = hub.blocking(move || {
                produce(chunks);
                Ok(())
            });
            if let Err(error) = produced.await {
                tracing::error!(%error, "a fetch ended early");
            }
        });
        match rest.recv().await {
            Some(first) => Ok(FetchAnswer { len, first: first?, rest }),
            None => Err(HubError::Internal("the answer ended before it began".to_owned())),
        }
    }

    fn plan_fetch(&self, repo: &Repo, view: &View, body: &Body) -> Result<Plan, HubError> {
        let limits = &self.limits;
        let (want, mut have) = requests::want_have(body.source(), limits.fetch_want_max, limits.fetch_have_max)?;
        have.sort_unstable();
        have.dedup();
        let sent = self.commits_between(repo, view, (want, &have), limits.response_bytes_max)?;
        Planner::new(view, repo.scope, limits.response_bytes_max, limits.plan_objects_max).plan(&sent)
    }

    /// The commits that `want` has and `have` (ascending) lacks, ascending. `wire_bytes`: a clone of more need not be walked to its
    /// end.
    pub(crate) fn commits_between(
        &self,
        repo: &Repo,
        view: &View,
        (mut want, have): (Vec<ObjectId>, &[ObjectId]),
        wire_bytes: u64,
    ) -> Result<Vec<SentCommit>, HubError> {
        want.sort_unstable();
        want.dedup();
        let caps = WalkCaps { commits: self.limits.walk_commits_max, wire_bytes };
        let walked = walk(view, repo.scope, &want, have, caps)?;
        match walked.unknown.first() {
            None => Ok(walked.sent),
            Some(unknown) => Err(HubError::NotFound(format!("commit {unknown} is not in this repository"))),
        }
    }
}

/// Chunks between the reading thread and the connection.
const CHUNKS_QUEUED: usize = 3;
