//! `push/unpack-mpack`: uploaded packs become a push.
//!
//! Invariants: the decision is `Hub::decide_push`, as for every push; uploads are forgotten only once a push with them was
//! accepted; a repeat of an accepted push is answered as before, by any server, whether its uploads are still there or not.
//!
//! Uploads are read from quarantine once, front to back, into a file of this server (a directory store's is that file already);
//! what is stored are the bytes that were verified there. How many bytes lie there at a time is bounded before the first is copied. A pack goes to the bucket as every pack does, create-if-absent with its
//! hash. Rejected: to have the bucket copy it. Create-if-absent on copies is younger than on PUTs, and stores that do not know it
//! overwrite in silence; and it would spare only the way out, since every byte must come here to be verified.

use std::sync::Arc;

use reprise_engine::{object::names, pack::transfer::rows_announced};

use crate::{
    hub::{
        Caller, Hub, HubError,
        body::Body,
        delivery::{Delivery, Packs},
        mpack::{upload::Upload, uploads::UploadName},
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
        let max = self.limits.uploads_per_repo_max;
        let read = move || Ok((requests::unpack(body.source(), max)?, body.digest().map_err(spool_error)?));
        let (Unpack { uploads, branch, tip, force }, digest) = self.blocking(read).await?;
        let wanted = upload_names(&uploads)?;
        names::check_ref(&branch)?;
        let ident = Ident { chosen: idempotency_key, random: self.random_push_id()?, body: digest };
        let (hub, of, ids) = (Arc::clone(&self), name.clone(), wanted.clone());
        let found = match self.blocking(move || hub.find_uploads(&of, &ids)).await {
            Ok(Ok(found)) => found,
            Ok(Err(missing)) => {
                let before = self.answered_before(&caller, &name, &branch, &ident).await?;
                return before.ok_or_else(|| {
                    HubError::NotFound(format!("there is no upload {missing} here: announce and upload the pack again"))
                });
            }
            Err(error) => return Err(self.useless(&name, &wanted, error).await),
        };
        let _bytes = self.room_for_bytes(found.iter().map(|waiting| waiting.bytes).sum()).await?;
        let hub = Arc::clone(&self);
        let uploads = self.blocking(move || hub.take_up(&found)).await?;
        let counted = uploads.clone();
        let rows = match self.blocking(move || rows_of(&counted)).await {
            Err(error) => return Err(self.useless(&name, &wanted, error).await),
            Ok(rows) => rows,
        };
        let _rows = self.room_for_rows(rows).await?;
        let hub = Arc::clone(&self);
        let packs = match self.blocking(move || Packs::open(&hub, uploads)).await {
            Err(error) => return Err(self.useless(&name, &wanted, error).await),
            Ok(packs) => packs,
        };
        let asked = Asked { branch, tip: Some(tip), force, delivery: Delivery::Packs(packs) };
        let answer = self.decide_push(&caller, &name, Arc::new(asked), &ident).await?;
        if answer.ok {
            self.forget(name, wanted).await;
        }
        Ok(answer)
    }

    /// Uploads that are no packs will never be any: they are not kept.
    async fn useless(self: &Arc<Self>, name: &RepoName, uploads: &[UploadName], error: HubError) -> HubError {
        if matches!(error, HubError::Invalid(_)) {
            self.forget(name.clone(), uploads.to_vec()).await;
        }
        error
    }

    async fn forget(self: &Arc<Self>, name: RepoName, uploads: Vec<UploadName>) {
        let hub = Arc::clone(self);
        let forgotten = self.read(move || {
            hub.forget_uploads(&name, &uploads);
            Ok(())
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "uploads stay until they are swept");
        }
    }
}

fn upload_names(texts: &[String]) -> Result<Vec<UploadName>, HubError> {
    let name = |(at, text): (usize, &String)| {
        text.parse().map_err(|error| HubError::Invalid(format!("uploads[{at}]: {error}")))
    };
    texts.iter().enumerate().map(name).collect()
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
