//! Packs on their way in: announced by a writer, taken by a one-time ticket, kept until they are unpacked or their time is over.
//!
//! Invariants: length and hash are pinned before the first byte; what differs leaves nothing, and a finished upload ends its
//! ticket; nothing here is durable: a restart forgets all of it, and the store sweeps what was staged; their number and bytes
//! are bounded; time is measured by the process's own clock, which does not jump (F10).

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use reprise_engine::{
    Error, Result,
    clock::{Random, random16},
    id::{LogId, PackId},
    store::{Created, ObjectStore, Staged, StoreKey},
};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep_until};

use crate::hub::{Hub, HubError, Limits, Secret, repos::RepoName};

/// The name of an upload: random, no secret.
pub type UploadId = [u8; 32];

/// Uploads that are announced and not yet unpacked.
#[derive(Default)]
pub struct Uploads(Mutex<HashMap<UploadId, Announced>>);

struct Announced {
    name: RepoName,
    ticket: Secret,
    bytes: u64,
    sha256: [u8; 32],
    until: Instant,
    state: State,
}

enum State {
    Waiting,
    Coming,
    Here(Arc<Upload>),
}

/// What the client is told of its announcement.
pub struct Ticket {
    /// The upload's name.
    pub upload: UploadId,
    /// The right to send it, once.
    pub ticket: Secret,
}

/// A pack that came whole. As a store it is what is under its pack's key, whichever key is asked for.
pub struct Upload {
    /// The hash of its bytes.
    pub pack: PackId,
    /// How many.
    pub bytes: u64,
    /// `None` once it was given to the store, which has it from then on.
    staged: Mutex<Option<Box<dyn Staged>>>,
    store: Arc<dyn ObjectStore>,
}

impl Uploads {
    fn table(&self) -> MutexGuard<'_, HashMap<UploadId, Announced>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out what is over. To be dropped where blocking is allowed: it removes files.
    fn expired(&self, now: Instant) -> Vec<Announced> {
        self.table().extract_if(|_, upload| upload.until <= now).map(|(_, upload)| upload).collect()
    }

    fn announce(&self, limits: &Limits, id: UploadId, announced: Announced) -> std::result::Result<(), HubError> {
        let mut table = self.table();
        let of_repo = table.values().filter(|other| other.name == announced.name).count();
        let bytes: u64 = table.values().map(|other| other.bytes).sum();
        let full = table.len() >= limits.uploads_max
            || of_repo >= limits.uploads_per_repo_max
            || bytes.saturating_add(announced.bytes) > limits.uploads_bytes_max;
        if full {
            let Limits { uploads_max, uploads_per_repo_max, uploads_bytes_max, .. } = limits;
            return Err(HubError::Busy {
                retry_after: RETRY_FULL,
                message: format!(
                    "too many uploads wait to be unpacked: the limits are {uploads_per_repo_max} of one repository, \
                     {uploads_max} in all, and {uploads_bytes_max} bytes together"
                ),
            });
        }
        table.insert(id, announced);
        Ok(())
    }

    /// The uploads of these names, all of them here; or the first that is not.
    pub fn find(&self, name: &RepoName, ids: &[UploadId]) -> std::result::Result<Vec<Arc<Upload>>, UploadId> {
        let table = self.table();
        let here = |id: &UploadId| match table.get(id) {
            Some(Announced { state: State::Here(upload), name: of, .. }) if of == name => Ok(Arc::clone(upload)),
            _ => Err(*id),
        };
        ids.iter().map(here).collect()
    }

    fn take_out(&self, ids: &[UploadId]) -> Vec<Announced> {
        let mut table = self.table();
        ids.iter().filter_map(|id| table.remove(id)).collect()
    }
}

impl Hub {
    /// Announces the upload of a pack of `bytes` bytes that hashes to `sha256`.
    pub(crate) async fn announce_upload(
        self: &Arc<Self>,
        name: RepoName,
        bytes: u64,
        sha256: [u8; 32],
    ) -> std::result::Result<Ticket, HubError> {
        let max = self.limits.upload_bytes_max;
        if bytes == 0 || bytes > max {
            return Err(HubError::TooLarge(format!("a pack of {bytes} bytes; the limits are 1 and {max}")));
        }
        self.sweep_uploads().await;
        let random = self.engine.random();
        let (upload, secret) = (random32(random.as_ref())?, random32(random.as_ref())?);
        let ticket = Secret::new(hex::encode(secret));
        let until = Instant::now() + self.limits.upload_time_max;
        let announced = Announced { name, ticket: ticket.clone(), bytes, sha256, until, state: State::Waiting };
        self.uploads.announce(&self.limits, upload, announced)?;
        let hub = Arc::downgrade(self);
        tokio::spawn(async move {
            sleep_until(until).await;
            if let Some(hub) = hub.upgrade() {
                hub.sweep_uploads().await;
            }
        });
        Ok(Ticket { upload, ticket })
    }

    /// Removes what nobody unpacked in its time.
    pub(crate) async fn sweep_uploads(&self) {
        let expired = self.uploads.expired(Instant::now());
        if !expired.is_empty() {
            tracing::info!(uploads = expired.len(), "uploads that nobody unpacked are removed");
            drop_blocking(expired).await;
        }
    }

    /// Removes uploads.
    pub(crate) async fn forget_uploads(&self, ids: &[UploadId]) {
        drop_blocking(self.uploads.take_out(ids)).await;
    }

    /// Begins to take the upload that the ticket is for; the same words for every reason why not.
    pub(crate) async fn take_upload(
        self: &Arc<Self>,
        name: &RepoName,
        id: &str,
        ticket: &str,
    ) -> std::result::Result<Taking, HubError> {
        self.sweep_uploads().await;
        let Some(begun) = self.begin_upload(name, id, ticket) else {
            return Err(self.not_found(&name.owner, &name.slug).await);
        };
        let (id, bytes, sha256) = begun?;
        let guard = Coming { hub: Arc::clone(self), id };
        let hub = Arc::clone(self);
        let staged = self.blocking(move || Ok(hub.engine.store().stage()?)).await?;
        Ok(Taking {
            guard,
            bytes,
            sha256,
            written: Some(Written { staged, hash: Sha256::new() }),
            taken: 0,
            buffer: Vec::new(),
        })
    }

    /// `None` without such an upload, or with another ticket.
    #[allow(clippy::type_complexity, reason = "name, length and hash, once")]
    fn begin_upload(
        &self,
        name: &RepoName,
        id: &str,
        ticket: &str,
    ) -> Option<std::result::Result<(UploadId, u64, [u8; 32]), HubError>> {
        let id: UploadId = hex::decode(id).ok()?.try_into().ok()?;
        let mut table = self.uploads.table();
        let upload = table.get_mut(&id).filter(|upload| upload.name == *name && upload.ticket.matches(ticket))?;
        match upload.state {
            State::Here(_) => None,
            State::Coming => Some(Err(HubError::Busy {
                retry_after: RETRY_FULL,
                message: "this upload is coming already".to_owned(),
            })),
            State::Waiting => {
                upload.state = State::Coming;
                Some(Ok((id, upload.bytes, upload.sha256)))
            }
        }
    }
}

/// An upload that is coming: dropped, its ticket is good again.
struct Coming {
    hub: Arc<Hub>,
    id: UploadId,
}

impl Coming {
    fn set(&self, state: State) {
        if let Some(upload) = self.hub.uploads.table().get_mut(&self.id) {
            upload.state = state;
        }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut table = self.hub.uploads.table();
        if let Some(upload) = table.get_mut(&self.id).filter(|upload| matches!(upload.state, State::Coming)) {
            upload.state = State::Waiting;
        }
    }
}

/// Takes the bytes of one upload.
pub(crate) struct Taking {
    guard: Coming,
    bytes: u64,
    sha256: [u8; 32],
    /// `None` only while a write is under way.
    written: Option<Written>,
    taken: u64,
    buffer: Vec<u8>,
}

struct Written {
    staged: Box<dyn Staged>,
    hash: Sha256,
}

impl Taking {
    /// How many bytes were announced.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes some.
    pub async fn take(&mut self, bytes: &[u8]) -> std::result::Result<(), HubError> {
        self.taken += bytes.len() as u64;
        if self.taken > self.bytes {
            return Err(HubError::Invalid(format!(
                "the upload is longer than the {} bytes that were announced",
                self.bytes
            )));
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES {
            self.write().await?;
        }
        Ok(())
    }

    async fn write(&mut self) -> std::result::Result<(), HubError> {
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

    /// All has come: it is kept if it is what was announced.
    pub async fn finish(mut self) -> std::result::Result<(), HubError> {
        self.write().await?;
        let Some(Written { staged, hash }) = self.written.take() else {
            return Err(HubError::Internal("a write of this upload failed".to_owned()));
        };
        let found: [u8; 32] = hash.finalize().into();
        if self.taken != self.bytes || found != self.sha256 {
            let (announced, taken) = (self.bytes, self.taken);
            drop_blocking(staged).await;
            return Err(HubError::Invalid(format!(
                "the upload has {taken} bytes with the SHA-256 {}; announced were {announced} with {}",
                hex::encode(found),
                hex::encode(self.sha256)
            )));
        }
        let store = Arc::clone(self.guard.hub.engine.store());
        let upload = Upload { pack: PackId(found), bytes: self.bytes, staged: Mutex::new(Some(staged)), store };
        self.guard.set(State::Here(Arc::new(upload)));
        Ok(())
    }
}

impl Upload {
    /// Gives the bytes to the store under their pack's key.
    pub fn adopt(&self) -> Result<Created> {
        let staged = self.staged().take().ok_or_else(|| Error::invalid("the upload was taken before"))?;
        staged.commit(&StoreKey::pack(self.pack))
    }

    /// True if the store has a pack of this name.
    pub fn is_stored(&self) -> Result<bool> {
        match self.store.size(&StoreKey::pack(self.pack)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the bytes front to back.
    pub fn reader(&self) -> impl io::BufRead + '_ {
        io::BufReader::with_capacity(READ_BYTES, UploadReader { upload: self, at: 0 })
    }

    fn staged(&self) -> MutexGuard<'_, Option<Box<dyn Staged>>> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_at(&self, offset: u64, len: u64) -> Result<Bytes> {
        match self.staged().as_ref() {
            Some(staged) => staged.read_back(offset, len),
            None => self.store.read(&StoreKey::pack(self.pack), offset, len),
        }
    }
}

struct UploadReader<'a> {
    upload: &'a Upload,
    at: u64,
}

impl io::Read for UploadReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = (self.upload.bytes - self.at).min(into.len() as u64);
        let bytes = self.upload.read_at(self.at, len).map_err(io::Error::other)?;
        into[..bytes.len()].copy_from_slice(&bytes);
        self.at += len;
        Ok(bytes.len())
    }
}

impl ObjectStore for Upload {
    fn stage(&self) -> Result<Box<dyn Staged>> {
        Err(read_only())
    }

    fn read(&self, _: &StoreKey, offset: u64, len: u64) -> Result<Bytes> {
        self.read_at(offset, len)
    }

    fn read_tail(&self, _: &StoreKey, len: u64) -> Result<(Bytes, u64)> {
        let len = len.min(self.bytes);
        Ok((self.read_at(self.bytes - len, len)?, self.bytes))
    }

    fn size(&self, _: &StoreKey) -> Result<u64> {
        Ok(self.bytes)
    }

    fn create(&self, _: &StoreKey, _: &[u8]) -> Result<bool> {
        Err(read_only())
    }

    fn delete(&self, _: &StoreKey) -> Result<()> {
        Err(read_only())
    }

    fn list(&self, _: &str) -> Result<Vec<StoreKey>> {
        Err(read_only())
    }

    fn uri(&self, key: &StoreKey) -> String {
        format!("upload:{key}")
    }

    fn sweep_staged(&self) -> Result<usize> {
        Err(read_only())
    }

    fn claim(&self, _: LogId, _: bool) -> Result<()> {
        Err(read_only())
    }
}

fn read_only() -> Error {
    Error::invalid("an upload is only read")
}

/// Drops what removes files on a thread where that may take its time.
async fn drop_blocking<T: Send + 'static>(value: T) {
    if let Err(error) = tokio::task::spawn_blocking(move || drop(value)).await {
        tracing::warn!(%error, "an upload may stay until the next start");
    }
}

/// Thirty-two random bytes.
pub(crate) fn random32(random: &dyn Random) -> Result<[u8; 32]> {
    let (first, second) = (random16(random)?, random16(random)?);
    Ok(std::array::from_fn(|at| if at < 16 { first[at] } else { second[at - 16] }))
}

/// When a full table is worth another try.
const RETRY_FULL: std::time::Duration = std::time::Duration::from_secs(5);
/// Bytes of one write.
const WRITE_BYTES: usize = 512 << 10;
/// Bytes read ahead of a pack that is read front to back.
const READ_BYTES: usize = 256 << 10;
