//! An upload that comes through this server: a PUT with a ticket.
//!
//! Invariants: nothing gets its key in quarantine that is not as long as the ticket allows and does not hash to what it states;
//! what differs leaves nothing, and the ticket can be used again. Memory is one write.

use std::sync::Arc;

use reprise_engine::{
    id::ObjectId,
    store::{Staged, StoreKey, quarantine::Quarantined},
};
use sha2::{Digest, Sha256};

use crate::hub::{
    Hub, HubError,
    mpack::{
        tickets::{Right, Terms},
        uploads::{UploadName, place_of},
    },
    repos::RepoName,
};

/// Takes the bytes of one upload.
pub(crate) struct Taking {
    key: StoreKey,
    length: Length,
    sha256: [u8; 32],
    hub: Arc<Hub>,
    /// `None` only while a write is under way.
    written: Option<Written>,
    taken: u64,
    buffer: Vec<u8>,
}

/// What a ticket says of the length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Length {
    /// It was announced.
    Exactly(u64),
    /// A blob's; its hash says the rest.
    AtMost(u64),
}

struct Written {
    staged: Box<dyn Staged>,
    hash: Sha256,
}

impl Length {
    /// Refuses a body of another length, as far as that can be said.
    pub fn check(self, bytes: u64, is_whole: bool) -> Result<(), HubError> {
        match self {
            Length::Exactly(announced) if bytes > announced || (is_whole && bytes < announced) => Err(
                HubError::Invalid(format!("the upload has {bytes} bytes or more; announced were {announced} bytes")),
            ),
            Length::AtMost(max) if bytes > max => {
                Err(HubError::TooLarge(format!("a blob of {bytes} bytes or more; the limit is {max}")))
            }
            _ => Ok(()),
        }
    }
}

impl Hub {
    /// Begins to take the pack that the ticket is for; the same words for every reason why not.
    ///
    /// Errors: `Changed` if it is here already.
    pub(crate) async fn take_pack(
        self: &Arc<Self>,
        name: &RepoName,
        upload: &str,
        ticket: String,
    ) -> Result<Taking, HubError> {
        let Ok(upload) = upload.parse::<UploadName>() else {
            return Err(self.not_found(&name.owner, &name.slug).await);
        };
        let terms = self.terms(name, upload.sha256, ticket).await?;
        if terms.end_s != upload.end_s {
            return Err(self.not_found(&name.owner, &name.slug).await);
        }
        let quarantined = upload.quarantined(name);
        let (hub, key) = (Arc::clone(self), quarantined.key());
        let size = self.read(move || Ok(hub.engine.store().size(&key))).await?;
        match size {
            Ok(_) => Err(HubError::Changed("this upload is here already: go on to push/unpack-mpack".to_owned())),
            Err(error) if error.is_not_found() => self.begin_taking(quarantined, Length::Exactly(terms.bytes)).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Begins to take the blob that the ticket is for; the same words for every reason why not.
    pub(crate) async fn take_blob(
        self: &Arc<Self>,
        name: &RepoName,
        object: &str,
        ticket: String,
    ) -> Result<Taking, HubError> {
        let Ok(ObjectId(sha256)) = object.parse() else { return Err(self.not_found(&name.owner, &name.slug).await) };
        let terms = self.terms(name, sha256, ticket).await?;
        let quarantined = Quarantined { end_s: terms.end_s, place: place_of(name), sha256 };
        self.begin_taking(quarantined, Length::AtMost(terms.bytes)).await
    }

    async fn terms(self: &Arc<Self>, name: &RepoName, sha256: [u8; 32], ticket: String) -> Result<Terms, HubError> {
        let (hub, right) = (Arc::clone(self), Right::Send(place_of(name), sha256));
        let terms = self.read(move || Ok(hub.tickets.terms(&ticket, &right, hub.now_s())?)).await?;
        match terms {
            Some(terms) => Ok(terms),
            None => Err(self.not_found(&name.owner, &name.slug).await),
        }
    }

    async fn begin_taking(self: &Arc<Self>, upload: Quarantined, length: Length) -> Result<Taking, HubError> {
        let hub = Arc::clone(self);
        let staged = self.blocking(move || Ok(hub.engine.store().stage()?)).await?;
        let written = Some(Written { staged, hash: Sha256::new() });
        let (key, sha256, hub) = (upload.key(), upload.sha256, Arc::clone(self));
        Ok(Taking { key, length, sha256, hub, written, taken: 0, buffer: Vec::new() })
    }
}

impl Taking {
    /// How long the body may be.
    pub fn length(&self) -> Length {
        self.length
    }

    /// Takes some.
    pub async fn take(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.taken += bytes.len() as u64;
        self.length.check(self.taken, false)?;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES {
            self.write().await?;
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), HubError> {
        let Some(mut written) = self.written.take() else {
            return Err(HubError::Internal("a write of this upload failed".to_owned()));
        };
        let bytes = std::mem::take(&mut self.buffer);
        let done = tokio::task::spawn_blocking(move || {
            written.hash.update(&bytes);
            written.staged.write(&bytes).map(|()| written)
        });
        self.written = Some(done.await.map_err(|error| HubError::died(&error))??);
        Ok(())
    }

    /// All has come: it gets its key if it is what the ticket states.
    pub async fn finish(mut self) -> Result<(), HubError> {
        self.write().await?;
        let Some(Written { staged, hash }) = self.written.take() else {
            return Err(HubError::Internal("a write of this upload failed".to_owned()));
        };
        let Taking { key, length, sha256, hub, taken, .. } = self;
        let found: [u8; 32] = hash.finalize().into();
        let job = Arc::clone(&hub);
        hub.blocking(move || {
            length.check(taken, true)?;
            if found != sha256 {
                let (found, stated) = (hex::encode(found), hex::encode(sha256));
                return Err(HubError::Invalid(format!(
                    "the upload has {taken} bytes with the SHA-256 {found}; it was to be {stated}"
                )));
            }
            match staged.commit(&key) {
                Ok(_) => Ok(()),
                // It came to the bucket by an address that could not pin its bytes, or was damaged there.
                Err(error) if error.is_corrupt() => {
                    job.remove_from_quarantine(&[key]);
                    Err(HubError::Unavailable("other bytes stood where this upload belongs: send it again".to_owned()))
                }
                Err(error) => Err(error.into()),
            }
        })
        .await
    }
}

/// Bytes of one write.
const WRITE_BYTES: usize = 512 << 10;
