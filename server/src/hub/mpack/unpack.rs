//! `push/unpack-mpack`: uploaded packs become a push.
//!
//! Invariants: the decision is `Hub::decide_push`, as for every push; uploads are forgotten only once a push with them was
//! accepted; a repeat of an accepted push is answered as before, whether its uploads are still there or not.

use std::sync::Arc;

use reprise_engine::{object::names, pack::transfer::rows_announced};

use crate::{
    hub::{
        Caller, Hub, HubError,
        body::Body,
        delivery::{Delivery, Packs},
        mpack::uploads::{Upload, UploadId},
        packing::spool_error,
        push::{Asked, Ident, PushAnswer},
        repos::RepoName,
    },
    wire::requests::{self, Unpack},
};

impl Hub {
    /// Answers a `push/unpack-mpack` body. Not to be dropped half-way by a disconnecting client: run it as a task.
    pub async fn unpack(
        self: Arc<Self>,
        caller: Caller,
        name: RepoName,
        body: Body,
        idempotency_key: Option<String>,
    ) -> Result<PushAnswer, HubError> {
        let (repo, _) = self.writable(&caller, &name.owner, &name.slug, true).await?;
        let turn = self.push_turns.of(repo.row.record.repo);
        let _turn = turn.lock().await;
        let Unpack { uploads: ids, branch, tip, force } =
            requests::unpack(body.source(), self.limits.uploads_per_repo_max)?;
        names::check_ref(&branch)?;
        let digest = body.digest().map_err(spool_error)?;
        let ident = Ident { chosen: idempotency_key, random: self.random_push_id()?, body: digest };
        self.sweep_uploads().await;
        let uploads = match self.uploads.find(&name, &ids) {
            Ok(uploads) => uploads,
            Err(missing) => {
                let before = self.answered_before(&caller, &name, &branch, &ident).await?;
                return before.ok_or_else(|| {
                    let missing = hex::encode(missing);
                    HubError::NotFound(format!("there is no upload {missing} here: announce and upload the pack again"))
                });
            }
        };
        let counted = uploads.clone();
        let rows = match self.blocking(move || rows_of(&counted)).await {
            Err(error) => return Err(self.useless(&ids, error).await),
            Ok(rows) => rows,
        };
        let _room = self.room_for_rows(rows).await?;
        let hub = Arc::clone(&self);
        let packs = match self.blocking(move || Packs::open(&hub, uploads)).await {
            Err(error) => return Err(self.useless(&ids, error).await),
            Ok(packs) => packs,
        };
        let asked = Asked { branch, tip: Some(tip), force, delivery: Delivery::Packs(packs) };
        let answer = self.decide_push(&caller, &name, Arc::new(asked), &ident).await?;
        if answer.ok {
            self.forget_uploads(&ids).await;
        }
        Ok(answer)
    }

    /// Uploads that are no packs will never be any: they are not kept.
    async fn useless(&self, ids: &[UploadId], error: HubError) -> HubError {
        if matches!(error, HubError::Invalid(_)) {
            self.forget_uploads(ids).await;
        }
        error
    }
}

fn rows_of(uploads: &[Arc<Upload>]) -> Result<usize, HubError> {
    let mut rows = 0;
    for upload in uploads {
        let announced = rows_announced(&**upload, upload.pack, upload.bytes);
        rows += announced.map_err(|error| match error.is_corrupt() {
            true => HubError::Invalid(format!("this is not a whole pack: {error}")),
            false => error.into(),
        })?;
    }
    Ok(rows)
}
