//! One blob's bytes, for `GET /{owner}/{slug}/objects/{id}`.
//!
//! Invariants: read under the repository's scope only; no byte of a damaged blob goes out as good: a small one is verified
//! whole before, a large one's last piece is held back until all of it was verified, and a part of a large one is sent
//! only after a first pass verified all of it; memory is one small blob or a few pieces.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use reprise_engine::{
    id::{Kind, ObjectId},
    pack::{Location, open_blob_stream, read_object},
};
use reprise_projections::View;
use tokio::sync::mpsc;

use crate::hub::{Hub, HubError, Repo, packing::BLOB_WHOLE_BYTES_MAX};

/// A blob on its way out.
pub enum BlobBytes {
    /// All the bytes that were asked for.
    Whole(Bytes),
    /// Pieces; an error ends them early.
    Pieces(mpsc::Receiver<Result<Bytes, HubError>>),
}

impl Hub {
    /// Where a blob of this repository is. Errors: `NotFound`, in the same words for every reason.
    pub fn locate_blob(&self, repo: &Repo, view: &View, id: ObjectId) -> Result<Location, HubError> {
        let location = view.locate(repo.scope, Kind::Blob, id)?;
        location.ok_or_else(|| HubError::NotFound(format!("object {id} is not in this repository")))
    }

    /// The bytes of `range` of a blob that was located.
    pub async fn read_blob(
        self: &Arc<Self>,
        repo: Repo,
        id: ObjectId,
        location: Location,
        range: Range<u64>,
    ) -> Result<BlobBytes, HubError> {
        let hub = Arc::clone(self);
        if location.real_len <= BLOB_WHOLE_BYTES_MAX {
            let bytes = self.blocking(move || {
                let read = read_object(hub.engine.store().as_ref(), Kind::Blob, id, &location);
                read.map_err(|error| hub.found_damage(&repo, Kind::Blob, id, &location, error))
            });
            return Ok(BlobBytes::Whole(slice(&bytes.await?, &range)));
        }
        let (sender, receiver) = mpsc::channel(PIECES_QUEUED);
        if range != (0..location.real_len) {
            let (hub, repo, location) = (Arc::clone(self), repo.clone(), location.clone());
            self.blocking(move || hub.each_piece(&repo, id, &location, |_| true)).await?;
        }
        tokio::spawn(async move {
            let reader = Arc::clone(&hub);
            let told = sender.clone();
            let sent = hub.blocking(move || {
                let mut at = 0;
                reader.each_piece(&repo, id, &location, |piece| {
                    let end = at + piece.len() as u64;
                    let wanted = range.start.max(at)..range.end.min(end);
                    let part =
                        (wanted.start < wanted.end).then(|| slice(&piece, &(wanted.start - at..wanted.end - at)));
                    at = end;
                    part.is_none_or(|part| sender.blocking_send(Ok(part)).is_ok()) && at < range.end
                })
            });
            if let Err(error) = sent.await {
                // Whoever is gone need not be told.
                told.send(Err(error)).await.unwrap_or_default();
            }
        });
        Ok(BlobBytes::Pieces(receiver))
    }

    /// Reads a blob piece by piece until `each` says false.
    fn each_piece(
        &self,
        repo: &Repo,
        id: ObjectId,
        location: &Location,
        mut each: impl FnMut(Bytes) -> bool,
    ) -> Result<(), HubError> {
        let damage = |error| self.found_damage(repo, Kind::Blob, id, location, error);
        for piece in open_blob_stream(Arc::clone(self.engine.store()), id, location).map_err(damage)? {
            if !each(piece.map_err(damage)?) {
                break;
            }
        }
        Ok(())
    }
}

fn slice(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let at = |value: u64| usize::try_from(value).unwrap_or(bytes.len()).min(bytes.len());
    bytes.slice(at(range.start)..at(range.end).max(at(range.start)))
}

/// Pieces between the reading thread and the connection.
const PIECES_QUEUED: usize = 2;
