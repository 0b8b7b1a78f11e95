//! Addresses for the stock client's large blobs (MWP §5.3, §5.4): each brings one object into quarantine, in the bucket or through
//! this server; the push that names the object takes it in.
//!
//! The key of a blob in quarantine follows from the repository, the object and the hour, so that any server finds what an address
//! from any other brought, without a list: an address is good for the hour that it was given in and the next, whatever a server's
//! limits are.
//!
//! Invariants: nothing is taken in that does not hash to its id, and nothing but by a push of somebody who may push, which passes
//! every check; how many addresses one answer has, and how many objects one push looks for, is bounded.

use std::thread;

use bytes::Bytes;
use reprise_engine::{
    Error,
    id::ObjectId,
    store::{Staged, StoreKey, address::Access, quarantine::Quarantined},
};

use crate::hub::{
    Hub, HubError,
    mpack::{
        tickets::{Right, Terms},
        uploads::place_of,
    },
    packing::{BLOB_WHOLE_BYTES_MAX, Packing},
    repos::RepoName,
};

/// A blob that was found in quarantine.
struct Found {
    id: ObjectId,
    key: StoreKey,
    bytes: u64,
    staged: Box<dyn Staged>,
}

impl Hub {
    /// Addresses for the first of `ids`, if there are to be any; the others go inline. Blocking.
    pub fn presign_blobs(&self, name: &RepoName, ids: &[ObjectId]) -> Result<Vec<(ObjectId, String)>, HubError> {
        let mut ids: Vec<ObjectId> = ids.iter().take(ADDRESSES_MAX).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        let mut addresses = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(address) = self.blob_address(name, id)? else { return Ok(Vec::new()) };
            addresses.push((id, address));
        }
        Ok(addresses)
    }

    fn blob_address(&self, name: &RepoName, id: ObjectId) -> Result<Option<String>, HubError> {
        let quarantined = blob_at(name, id, self.now_s() / HOUR_S + 2);
        let life = self.limits.upload_time_max.min(std::time::Duration::from_secs(HOUR_S));
        if let Some(address) = self.bucket_address(quarantined.key(), Access::Create, life) {
            return Ok(Some(address?.url));
        }
        let Some(url) = &self.own_url else { return Ok(None) };
        let terms = Terms { end_s: quarantined.end_s, bytes: self.limits.blob_bytes_max };
        let ticket = self.tickets.issue(&Right::Send(quarantined.place, id.0), terms)?;
        let RepoName { owner, slug } = name;
        Ok(Some(format!("{url}/{owner}/{slug}/objects/{id}?ticket={}", ticket.expose())))
    }

    /// Packs those of `ids` that wait in quarantine; which they are, and where they were. Blocking.
    ///
    /// Errors: `Invalid` for bytes that are not the id's. They are removed: the next push may send others.
    pub(crate) fn take_in_blobs(
        &self,
        name: &RepoName,
        ids: &[ObjectId],
        packing: &mut Packing,
    ) -> Result<Vec<(ObjectId, StoreKey)>, HubError> {
        let gives_addresses = self.clients_reach_bucket.is_some() || self.own_url.is_some();
        if !gives_addresses || ids.len() > ADDRESSES_MAX {
            return Ok(Vec::new());
        }
        let mut taken = Vec::new();
        for some in ids.chunks(AT_ONCE) {
            let brought: Vec<Result<Option<Found>, HubError>> = thread::scope(|scope| {
                let asked: Vec<_> = some.iter().map(|id| scope.spawn(|| self.find_blob(name, *id))).collect();
                let gone = |_| Err(HubError::Internal("looking into the quarantine failed".to_owned()));
                asked.into_iter().map(|thread| thread.join().unwrap_or_else(gone)).collect()
            });
            for found in brought {
                if let Some(found) = found? {
                    self.pack_found(&found, packing)?;
                    taken.push((found.id, found.key));
                }
            }
        }
        Ok(taken)
    }

    fn find_blob(&self, name: &RepoName, id: ObjectId) -> Result<Option<Found>, HubError> {
        let hour = self.now_s() / HOUR_S;
        for ends in [hour + 2, hour + 1] {
            let key = blob_at(name, id, ends).key();
            let bytes = match self.engine.store().size(&key) {
                Err(error) if error.is_not_found() => continue,
                bytes => bytes?,
            };
            let max = self.limits.blob_bytes_max;
            if bytes > max {
                self.remove_from_quarantine(&[key]);
                return Err(HubError::TooLarge(format!("blob {id} has {bytes} bytes; the limit is {max}")));
            }
            let staged = self.engine.store().take_up(&key, bytes)?;
            return Ok(Some(Found { id, key, bytes, staged }));
        }
        Ok(None)
    }

    fn pack_found(&self, found: &Found, packing: &mut Packing) -> Result<(), HubError> {
        let Found { id, key, bytes, staged } = found;
        let packed = if *bytes <= BLOB_WHOLE_BYTES_MAX {
            packing.blob_whole(*id, &staged.read_back(0, *bytes)?)
        } else {
            packing.blob_in_pieces(*id, *bytes, pieces(&**staged, *bytes))
        };
        packed.inspect_err(|error| {
            if matches!(error, HubError::Invalid(_)) {
                self.remove_from_quarantine(std::slice::from_ref(key));
            }
        })
    }
}

/// The place of a blob whose address ends with the hour before `ends`, counted from 1970.
fn blob_at(name: &RepoName, id: ObjectId, ends: u64) -> Quarantined {
    Quarantined { end_s: ends * HOUR_S, place: place_of(name), sha256: id.0 }
}

fn pieces(staged: &dyn Staged, bytes: u64) -> impl Iterator<Item = Result<Bytes, Error>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let len = PIECE_BYTES.min(bytes - at);
        let piece = (len > 0).then(|| staged.read_back(at, len))?;
        at += len;
        Some(piece)
    })
}

/// Addresses in one answer, and blobs that one push looks for: what is more is not there.
const ADDRESSES_MAX: usize = 1_024;
/// Blobs looked for at a time.
const AT_ONCE: usize = 8;
const HOUR_S: u64 = 3_600;
const PIECE_BYTES: u64 = 1 << 20;
