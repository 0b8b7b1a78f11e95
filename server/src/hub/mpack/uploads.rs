//! Packs on their way in: announced by a writer, brought to a key in quarantine, taken in by `push/unpack-mpack`.
//!
//! An upload's name says all that a server must know of it: its end and the SHA-256 of its bytes. With the repository's name they
//! make its key in the store, so that any server takes in what any other announced, and a restart forgets nothing. The bytes come
//! to that key in the bucket itself (a presigned PUT) or through a server (a PUT with a ticket, [`super::taking`]).
//!
//! Invariants: length and hash are pinned before the first byte where the bucket or the server can check them, and are checked
//! again, byte for byte, before anything is made of them; how much each server announces at a time is bounded.

use std::{
    collections::HashMap,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reprise_engine::{
    id::{ObjectId, PackId},
    store::{
        StoreKey,
        address::{Access, Address, Asked},
        quarantine::Quarantined,
    },
};
use sha2::{Digest, Sha256};

use crate::{
    hub::{
        Hub, HubError, Limits, Secret,
        mpack::{
            tickets::{Right, Terms},
            upload::Upload,
        },
        repos::RepoName,
    },
    wire::requests::Announcement,
};

/// The name of an upload; no secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UploadName {
    /// Until when it may be taken in, seconds since 1970.
    pub end_s: u64,
    /// The hash of its bytes.
    pub sha256: [u8; 32],
}

impl UploadName {
    /// Its place in the store, for one repository.
    pub fn quarantined(&self, name: &RepoName) -> Quarantined {
        Quarantined { end_s: self.end_s, place: place_of(name), sha256: self.sha256 }
    }
}

impl fmt::Display for UploadName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:012}-{}", self.end_s, hex::encode(self.sha256))
    }
}

impl FromStr for UploadName {
    type Err = String;

    fn from_str(text: &str) -> Result<UploadName, String> {
        let parts = text
            .split_once('-')
            .filter(|(end, hash)| end.len() == 12 && end.bytes().all(|byte| byte.is_ascii_digit()) && hash.len() == 64);
        let parsed = parts.and_then(|(end, hash)| Some((end.parse().ok()?, hash.parse::<ObjectId>().ok()?)));
        let (end_s, hash) = parsed.ok_or_else(|| "this is not the name of an upload".to_owned())?;
        Ok(UploadName { end_s, sha256: hash.0 })
    }
}

/// For whom an upload is, as keys have it. By the name, as a repository that a first push will create has no id yet.
pub(crate) fn place_of(name: &RepoName) -> [u8; 16] {
    let hash: [u8; 32] = Sha256::digest(format!("{}/{}", name.owner, name.slug)).into();
    std::array::from_fn(|at| hash[at])
}

/// What this server announced and has not taken in: no more than a bound, since other servers and those before a restart count
/// for themselves.
#[derive(Default)]
pub struct Uploads(Mutex<HashMap<StoreKey, Announced>>);

struct Announced {
    place: [u8; 16],
    bytes: u64,
    end_s: u64,
}

impl Uploads {
    fn table(&self) -> MutexGuard<'_, HashMap<StoreKey, Announced>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, limits: &Limits, upload: &Quarantined, bytes: u64, now_s: u64) -> Result<(), HubError> {
        let mut table = self.table();
        let key = upload.key();
        table.retain(|known, other| other.end_s > now_s && *known != key);
        let of_repo = table.values().filter(|other| other.place == upload.place).count();
        let all: u64 = table.values().map(|other| other.bytes).sum();
        let full = table.len() >= limits.uploads_max
            || of_repo >= limits.uploads_per_repo_max
            || all.saturating_add(bytes) > limits.uploads_bytes_max;
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
        table.insert(key, Announced { place: upload.place, bytes, end_s: upload.end_s });
        Ok(())
    }
}

/// What the client is told of its announcement.
pub struct Place {
    /// The upload's name.
    pub upload: UploadName,
    /// Where to send it: absolute, or relative to the repository's address.
    pub url: Secret,
    /// What to send with it.
    pub headers: Vec<(String, String)>,
}

impl Hub {
    /// Says where a pack is to be uploaded. Blocking.
    pub(crate) fn announce_upload(&self, name: &RepoName, announced: Announcement) -> Result<Place, HubError> {
        let Announcement { bytes, sha256, direct } = announced;
        let max = self.limits.upload_bytes_max;
        if bytes == 0 || bytes > max {
            return Err(HubError::TooLarge(format!("a pack of {bytes} bytes; the limits are 1 and {max}")));
        }
        let life = self.limits.upload_time_max;
        let upload = UploadName { end_s: self.now_s().saturating_add(life.as_secs()), sha256 };
        let quarantined = upload.quarantined(name);
        self.uploads.announce(&self.limits, &quarantined, bytes, self.now_s())?;
        let access = Access::CreateExactly { bytes, sha256 };
        if direct && let Some(address) = self.bucket_address(quarantined.key(), access, life) {
            let Address { url, headers } = address?;
            return Ok(Place { upload, url: Secret::new(url), headers });
        }
        let terms = Terms { end_s: upload.end_s, bytes };
        let ticket = self.tickets.issue(&Right::Send(quarantined.place, sha256), terms)?;
        let url = Secret::new(format!("mpack/{upload}?ticket={}", ticket.expose()));
        Ok(Place { upload, url, headers: Vec::new() })
    }

    /// An address in the bucket; `None` if clients do not reach one. Blocking.
    pub(crate) fn bucket_address(
        &self,
        key: StoreKey,
        access: Access,
        life: Duration,
    ) -> Option<reprise_engine::Result<Address>> {
        let reach = self.clients_reach_bucket.as_ref()?;
        let asked = Asked { key, access, life, endpoint: reach.endpoint.clone() };
        self.engine.store().address(&asked).transpose()
    }

    /// Takes uploads up, all of them; or the first that is not there any more. Blocking.
    pub(crate) fn find_uploads(
        &self,
        name: &RepoName,
        uploads: &[UploadName],
    ) -> Result<Result<Vec<Arc<Upload>>, UploadName>, HubError> {
        let store = self.engine.store();
        let mut found = Vec::new();
        for upload in uploads {
            let key = upload.quarantined(name).key();
            let bytes = match store.size(&key) {
                _ if upload.end_s <= self.now_s() => return Ok(Err(*upload)),
                Err(error) if error.is_not_found() => return Ok(Err(*upload)),
                bytes => bytes?,
            };
            let max = self.limits.upload_bytes_max;
            if bytes > max {
                let text = format!("upload {upload} has {bytes} bytes; the limit is {max}");
                return Err(HubError::Invalid(text));
            }
            let staged = store.take_up(&key, bytes)?;
            found.push(Arc::new(Upload::new(PackId(upload.sha256), bytes, staged, Arc::clone(store))));
        }
        Ok(Ok(found))
    }

    /// Removes uploads that were taken in, or can never be. Blocking.
    pub(crate) fn forget_uploads(&self, name: &RepoName, uploads: &[UploadName]) {
        let keys: Vec<StoreKey> = uploads.iter().map(|upload| upload.quarantined(name).key()).collect();
        let mut table = self.uploads.table();
        keys.iter().for_each(|key| _ = table.remove(key));
        drop(table);
        self.remove_from_quarantine(&keys);
    }

    /// Removes what was taken in. Blocking.
    pub(crate) fn remove_from_quarantine(&self, keys: &[StoreKey]) {
        if let Err(error) = self.engine.store().delete_all(keys) {
            tracing::warn!(%error, "uploads that were taken in stay until they are swept");
        }
    }

    /// Wall-clock time, seconds since 1970.
    pub(crate) fn now_s(&self) -> u64 {
        self.now_ms() / 1_000
    }
}

/// When a full table is worth another try.
const RETRY_FULL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_reads_back_and_nothing_else_is_one() {
        let name = UploadName { end_s: 1_800_000_000, sha256: [0xab; 32] };
        let text = name.to_string();
        assert_eq!(text.parse(), Ok(name));
        let long = format!("0{text}");
        for other in ["", "-", &text[1..], &text[..76], &long, &text.replace('-', "_"), &text.replacen('1', "+", 1)] {
            assert!(other.parse::<UploadName>().is_err(), "{other}");
        }
    }
}
