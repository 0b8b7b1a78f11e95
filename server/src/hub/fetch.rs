//! `fetch`: want and have, the commits between, what they add, and one answer of known length.
//!
//! Invariants: complete or refused, never silently partial; an unknown want is 404 (the client would set a ref to a commit
//! that it does not have); damage that shows before the first chunk is full is a 500 that names it, later the answer
//! stops short of its Content-Length; nothing is read but the planned ranges.

use std::sync::Arc;

use bytes::Bytes;
use reprise_projections::View;
use tokio::sync::mpsc;

use crate::{
    hub::{
        Hub, HubError, Repo,
        body::Body,
        plan::{Plan, Planner},
        stream::Producer,
        walk::{WalkCaps, walk},
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
        let hub = Arc::clone(self);
        let (plan, view) = self.blocking(move || Ok((hub.plan_fetch(&repo, &view, &body)?, (repo, view)))).await?;
        let ((repo, view), len) = (view, plan.len);
        let (chunks, mut rest) = mpsc::channel(CHUNKS_QUEUED);
        let producer = Producer { hub: Arc::clone(self), view, scope: repo.scope, plan, chunks };
        let hub = Arc::clone(self);
        tokio::spawn(async move {
            let produced = hub.blocking(move || {
                producer.run();
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
        let (mut want, mut have) = requests::want_have(body.source(), limits.fetch_want_max, limits.fetch_have_max)?;
        for ids in [&mut want, &mut have] {
            ids.sort_unstable();
            ids.dedup();
        }
        let caps = WalkCaps { commits: limits.walk_commits_max, wire_bytes: limits.response_bytes_max };
        let walked = walk(view, repo.scope, &want, &have, caps)?;
        if let Some(unknown) = walked.unknown.first() {
            return Err(HubError::NotFound(format!("commit {unknown} is not in this repository")));
        }
        Planner::new(view, repo.scope, limits.response_bytes_max, limits.plan_objects_max).plan(&walked.sent)
    }
}

/// Chunks between the reading thread and the connection.
const CHUNKS_QUEUED: usize = 3;
