//! The object store: where packs (later also sealed segments and log slots) live under keys.
//!
//! Invariants: a key is written once, create-if-absent, and never gets other bytes (F7); bytes are visible under their key only
//! after they are durable; a staged upload that is dropped leaves nothing; no LIST on a hot path.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    error::{Error, ErrorKind, Result},
    id::{LogId, PackId, Position},
    log::header::segment_name,
    store::ahead::{Ahead, Prefetch, Soon, Through},
};

pub mod address;
pub mod ahead;
pub mod counted;
pub mod directory;
pub mod files;
pub mod handover;
pub mod memory;
pub mod quarantine;
pub mod s3;

/// A key: parts of `[a-z0-9._-]` with `/` between them. Built from hex ids only, never from user text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct StoreKey(String);

impl StoreKey {
    /// `packs/<first two hex digits>/<pack id>.pack`
    pub fn pack(id: PackId) -> StoreKey {
        let hex = id.to_string();
        StoreKey(format!("packs/{}/{hex}.pack", &hex[..2]))
    }

    /// `log/seg-<first position, 20 digits>.log`: a sealed segment, the same file as in a log directory.
    pub fn segment(first: Position) -> StoreKey {
        StoreKey(format!("log/{}", segment_name(first)))
    }

    /// `log/slots/<ordinal, 20 digits>.slot`: one commit of a bucket log.
    pub fn slot(ordinal: u64) -> StoreKey {
        StoreKey(format!("log/slots/{ordinal:020}.slot"))
    }

    /// `log/SHARED`: the log of this store is a bucket log, and where its segments end.
    pub fn shared() -> StoreKey {
        StoreKey("log/SHARED".to_owned())
    }

    /// `STORE`: which log's packs these are.
    pub fn mark() -> StoreKey {
        StoreKey("STORE".to_owned())
    }

    /// True for a pack's key.
    pub fn is_pack(&self) -> bool {
        self.0.starts_with("packs/")
    }

    /// `aside/<log>/<key>`: what was kept of a log that was given up.
    fn aside(log: &str, key: &StoreKey) -> StoreKey {
        StoreKey(format!("aside/{log}/{key}"))
    }

    /// The pack that this is the key of, if it is one.
    pub fn as_pack(&self) -> Option<PackId> {
        let id = self.0.strip_suffix(".pack")?.rsplit('/').next()?.parse().ok()?;
        (StoreKey::pack(id) == *self).then_some(id)
    }

    /// `secrets/tickets.key`: what the servers of this store sign their tickets with.
    pub fn ticket_key() -> StoreKey {
        StoreKey("secrets/tickets.key".to_owned())
    }

    /// The ordinal of the slot under this key, if it is the key of one.
    pub fn slot_ordinal(&self) -> Option<u64> {
        let ordinal = self.0.rsplit('/').next()?.strip_suffix(".slot")?.parse().ok()?;
        (StoreKey::slot(ordinal) == *self).then_some(ordinal)
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StoreKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What a conditional create found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Created {
    /// The bytes are durable under the key, put there by this call.
    New,
    /// The same bytes were there before, and are durable.
    Existed,
}

/// An upload in parts that a store knows of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BegunUpload {
    /// What it was to become.
    pub key: StoreKey,
    /// The store's name for it.
    pub id: String,
}

/// Immutable bytes under keys.
pub trait ObjectStore: Send + Sync {
    /// Starts an upload that nobody can see before [`Staged::commit`].
    fn stage(&self) -> Result<Box<dyn Staged>>;
    /// Reads `len` bytes at `offset`; `NotFound` without the key, `Corrupt` when the object is shorter.
    fn read(&self, key: &StoreKey, offset: u64, len: u64) -> Result<Bytes>;
    /// The last `len` bytes (all, if there are fewer) and the size, in one request; `NotFound` without the key.
    fn read_tail(&self, key: &StoreKey, len: u64) -> Result<(Bytes, u64)>;
    /// [`ObjectStore::read_tail`] of each of these, in order, up to the first that fails or is not there. A store that is far away asks
    /// for all of them at once.
    fn read_tails(&self, keys: &[StoreKey], len: u64) -> Vec<Result<(Bytes, u64)>> {
        let mut read = Vec::with_capacity(keys.len());
        for key in keys {
            read.push(self.read_tail(key, len));
            if read.last().is_some_and(Result::is_err) {
                break;
            }
        }
        read
    }
    /// A hint: much of these objects will be read soon, in this order.
    fn prefetch(&self, _soon: Vec<Soon>) -> Prefetch {
        Prefetch::default()
    }
    /// A hint: this will be read soon. `None`: a read when its turn comes is as good.
    fn read_ahead(&self, _key: &StoreKey, _offset: u64, _len: u64) -> Option<Ahead> {
        None
    }
    /// A hint: all of this will be read now, in pieces of [`crate::pack::PIECE_BYTES`]. `None`: reads are as good.
    fn read_through(&self, _key: &StoreKey, _offset: u64, _len: u64) -> Option<Through> {
        None
    }
    /// Size in bytes; `NotFound` without the key.
    fn size(&self, key: &StoreKey) -> Result<u64>;
    /// Puts a small object under a key that nobody has: true once the bytes are durable there. False: something stands
    /// there, perhaps these very bytes from an earlier try whose answer was lost; the caller reads it.
    ///
    /// Errors: after any error nobody knows whether the bytes are there, or will be.
    fn create(&self, key: &StoreKey, bytes: &[u8]) -> Result<bool>;
    /// Removes a key; fine if it is not there.
    fn delete(&self, key: &StoreKey) -> Result<()>;
    /// Removes keys; fine if some are not there. In as few requests as the store knows.
    fn delete_all(&self, keys: &[StoreKey]) -> Result<()> {
        keys.iter().try_for_each(|key| self.delete(key))
    }
    /// All keys under a prefix of whole parts, sorted. For maintenance only.
    fn list(&self, prefix: &str) -> Result<Vec<StoreKey>>;
    /// Where the key's bytes are, for people and for `storage_uri` (`file:packs/…`, `s3://…`).
    fn uri(&self, key: &StoreKey) -> String;
    /// The same store without what this server keeps of it beside, for those who judge what rests in the store itself; `None` if
    /// nothing is kept.
    fn without_copies(&self) -> Option<Arc<dyn ObjectStore>> {
        None
    }
    /// What this server keeps of it beside, if it keeps anything.
    fn copies(&self) -> Option<&s3::Copies> {
        None
    }
    /// Uploads that were begun in the store itself and not ended, by anybody: under way, or abandoned.
    fn uploads(&self) -> Result<Vec<BegunUpload>> {
        Ok(Vec::new())
    }
    /// Ends such an upload without effect; fine if it is over.
    fn abort(&self, upload: &BegunUpload) -> Result<()> {
        Err(Error::not_found(format!("no upload of {} is known", upload.key)))
    }
    /// Removes what interrupted uploads left behind; called once at open. Returns how many.
    fn sweep_staged(&self) -> Result<usize>;
    /// Makes sure that this is the store of `log`: with `fresh` (nothing was ever appended) an unmarked store is marked as
    /// its own, durably; else the mark must be there. So a volume that is not mounted is not taken for lost packs.
    ///
    /// Errors: `Unavailable` without a mark, `Conflict` with that of another log.
    fn claim(&self, log: LogId, fresh: bool) -> Result<()>;
    /// Takes the `bytes` bytes under a quarantined key up as an upload, to be read back and committed under another key. The
    /// key is as it was until then, and may be gone after.
    fn take_up(&self, key: &StoreKey, bytes: u64) -> Result<Box<dyn Staged>> {
        quarantine::copied(self, key, bytes)
    }
    /// An address of the store itself; `None` from one that has none.
    fn address(&self, _asked: &address::Asked) -> Result<Option<address::Address>> {
        Ok(None)
    }
}

/// The error of a store that bears `found` instead of the mark of `log`.
fn not_of(log: LogId, found: Option<&str>, place: &str) -> Error {
    match found {
        None => Error::new(
            ErrorKind::Unavailable,
            format!(
                "the packs of log {log} are not here: {place} is missing (is a volume not mounted?). If they are lost for \
                 good, write the log's id into it: what is missing can then be pushed again"
            ),
        ),
        Some(found) => Error::new(
            ErrorKind::Conflict,
            format!("the packs here are not those of log {log}: {place} says {found:?}"),
        ),
    }
}

/// An upload in progress. Dropping it without `commit` removes every trace.
pub trait Staged: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    /// Reads back what was appended, for verifiers and for bases of later entries.
    fn read_back(&self, offset: u64, len: u64) -> Result<Bytes>;
    /// Makes all of it durable and visible under `key`. `Corrupt` if other bytes stand there; they stay as they are.
    fn commit(self: Box<Self>, key: &StoreKey) -> Result<Created>;
}
