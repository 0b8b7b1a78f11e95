//! `fetch/mpack`: one pack of any size, from any byte on.
//!
//! Invariants: complete or refused, never silently partial; the answer's name is known before its first byte, and bytes of
//! different answers are never joined under one name; what any server has acknowledged is never refused as unknown, and a branch is
//! where the last acknowledged push left it.

use std::sync::Arc;

use reprise_engine::id::ObjectId;
use reprise_projections::View;

use crate::{
    hub::{
        Caller, Hub, HubError, Repo,
        body::Body,
        fetch::FetchAnswer,
        mpack::{
            layout::Layout,
            plan::{Purpose, TransferPlan, TransferPlanner},
            send::Sender,
        },
    },
    wire::requests::{self, Transfer},
};

/// A transfer that could be sent.
pub struct Planned<P> {
    /// Of which repository.
    pub repo: Repo,
    /// On which view it was planned.
    pub view: View,
    /// What to send.
    pub plan: P,
    /// The head of the branch that was asked for.
    pub head: Option<ObjectId>,
    /// Whether packs may be fetched from the bucket itself.
    pub direct: bool,
}

impl Hub {
    /// Plans the answer to a `fetch/mpack` body.
    pub async fn plan_pack(
        self: &Arc<Self>,
        caller: &Caller,
        found: (Repo, View),
        body: Body,
    ) -> Result<Planned<Arc<Layout>>, HubError> {
        let planned = self.plan_transfer(caller, found, body, Purpose::OnePack).await?;
        let Planned { repo, view, plan, head, direct } = planned;
        let id = repo.row.record.repo;
        let plan = self.blocking(move || Ok(Arc::new(Layout::new(id, plan)))).await?;
        Ok(Planned { repo, view, plan, head, direct })
    }

    /// Plans the answer to a body of want and have, of what the caller was found to be a reader of.
    pub async fn plan_transfer(
        self: &Arc<Self>,
        caller: &Caller,
        found: (Repo, View),
        body: Body,
        purpose: Purpose,
    ) -> Result<Planned<TransferPlan>, HubError> {
        let room = self.room_for_ids(&body).await?;
        let limits = self.limits.clone();
        let asked = self.blocking(move || {
            let mut asked = requests::transfer(body.source(), limits.fetch_want_max, limits.fetch_have_max)?;
            asked.have.sort_unstable();
            asked.have.dedup();
            Ok(asked)
        });
        let (asked, (mut repo, mut view)) = (asked.await?, found);
        if asked.branch.is_some() {
            // It is where any server has moved it: an older head would be a wrong answer, and no refusal that leads to a look.
            self.look().await?;
            (repo, view) = self.readable(caller, &repo.row.record.owner, &repo.row.record.slug).await?;
        }
        let (direct, of) = (asked.direct, repo.clone());
        let planned = self.decided(view, move |hub, view| {
            // Held by the job: once it is planned, the list is gone.
            let _room = &room;
            hub.plan_asked(&of, view, &asked, purpose)
        });
        let ((plan, head), view) = planned.await?;
        Ok(Planned { repo, view, plan, head, direct })
    }

    fn plan_asked(
        &self,
        repo: &Repo,
        view: &View,
        asked: &Transfer,
        purpose: Purpose,
    ) -> Result<(TransferPlan, Option<ObjectId>), HubError> {
        let head = asked.branch.as_ref().map(|branch| head_of(repo, view, branch)).transpose()?;
        let want = asked.want.iter().copied().chain(head).collect();
        let commits = self.commits_between(repo, view, (want, &asked.have), u64::MAX)?;
        let plan = TransferPlanner::new(self, (repo, view), purpose).plan(&commits)?;
        Ok((plan, head))
    }

    /// Begins to send a planned pack from byte `from` on.
    pub async fn send_pack(
        self: &Arc<Self>,
        planned: Planned<Arc<Layout>>,
        from: u64,
    ) -> Result<FetchAnswer, HubError> {
        let Planned { repo, view, plan: layout, .. } = planned;
        let len = layout.len - from;
        let sender = Sender { hub: Arc::clone(self), view, scope: repo.scope, layout, from };
        self.begin(len, move |chunks| sender.run(chunks)).await
    }
}

fn head_of(repo: &Repo, view: &View, branch: &str) -> Result<ObjectId, HubError> {
    let row = view.reference(repo.scope, branch)?;
    let shown: String = branch.chars().take(200).flat_map(char::escape_debug).collect();
    Ok(row.ok_or_else(|| HubError::NotFound(format!("branch '{shown}' is not in this repository")))?.head)
}
