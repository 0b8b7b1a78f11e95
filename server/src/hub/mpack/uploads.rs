//! Packs on their way in: announced by a writer, brought to a key in quarantine, taken in by `push/unpack-mpack`.
//!
//! An upload's name says all that a server must know of it: its end and the SHA-256 of its bytes. With the repository's name they
//! make its key in the store, so that any server takes in what any other announced, and a restart forgets nothing. The bytes come
//! to that key in the bucket itself (a presigned PUT) or through a server (a PUT with a ticket, [`super::taking`]).
//!
//! Invariants: length and hash of a pack are pinned before the first byte, by the bucket or by the server, and are checked
//! again, byte for byte, before anything is made of them; what each server announces at a time is counted, and bounded so that
//! nobody keeps others out.

use std::{
    collections::{HashMap, VecDeque},
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

/// What this server announced and has not taken in, oldest first: a count of what may come, no right to anything. An upload that
/// is forgotten here is as good as before. Other servers and those before a restart count for themselves.
#[derive(Default)]
pub struct Uploads(Mutex<VecDeque<Announced>>);

struct Announced {
    place: [u8; 16],
    owner: String,
    sha256: [u8; 32],
    bytes: u64,
    end_s: u64,
}

impl Uploads {
    fn table(&self) -> MutexGuard<'_, VecDeque<Announced>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an announcement. An owner whose pushes never end keeps out himself alone: when there is no room, the owner with
    /// most bytes makes it.
    ///
    /// Errors: `Busy` if that is who asks.
    fn announce(
        &self,
        limits: &Limits,
        name: &RepoName,
        upload: UploadName,
        bytes: u64,
        now_s: u64,
    ) -> Result<(), HubError> {
        let mut table = self.table();
        let (place, owner) = (place_of(name), &name.owner);
        // The same bytes once more stand for themselves, whenever they were announced.
        table.retain(|other| other.end_s > now_s && !(other.place == place && other.sha256 == upload.sha256));
        // A push has no more packs than these: what is older was given up.
        while table.iter().filter(|other| other.place == place).count() >= limits.uploads_per_repo_max {
            forget_oldest(&mut table, |other| other.place == place);
        }
        while !has_room(&table, limits, bytes) {
            match heaviest(&table) {
                Some((other, most)) if other != *owner && most > bytes_of(&table, owner).saturating_add(bytes) => {
                    forget_oldest(&mut table, |announced| announced.owner == other);
                }
                _ => return Err(too_many(limits)),
            }
        }
        let UploadName { end_s, sha256 } = upload;
        table.push_back(Announced { place, owner: owner.clone(), sha256, bytes, end_s });
        Ok(())
    }

    /// They wait no more.
    fn taken_in(&self, name: &RepoName, uploads: &[UploadName]) {
        let place = place_of(name);
        let is_one = |other: &Announced| uploads.iter().any(|upload| upload.sha256 == other.sha256);
        self.table().retain(|other| other.place != place || !is_one(other));
    }
}

fn has_room(table: &VecDeque<Announced>, limits: &Limits, bytes: u64) -> bool {
    let all: u64 = table.iter().map(|other| other.bytes).sum();
    table.len() < limits.uploads_max && all.saturating_add(bytes) <= limits.uploads_bytes_max
}

fn bytes_of(table: &VecDeque<Announced>, owner: &str) -> u64 {
    table.iter().filter(|other| other.owner == owner).map(|other| other.bytes).sum()
}

/// The owner with most bytes, and how many.
fn heaviest(table: &VecDeque<Announced>) -> Option<(String, u64)> {
    let mut owners: HashMap<&str, u64> = HashMap::new();
    table.iter().for_each(|other| *owners.entry(&other.owner).or_default() += other.bytes);
    owners.into_iter().map(|(owner, bytes)| (owner.to_owned(), bytes)).max_by_key(|(_, bytes)| *bytes)
}

fn forget_oldest(table: &mut VecDeque<Announced>, of: impl Fn(&Announced) -> bool) {
    if let Some(at) = table.iter().position(of) {
        table.remove(at);
    }
}

fn too_many(limits: &Limits) -> HubError {
    let Limits { uploads_max, uploads_bytes_max, .. } = limits;
    HubError::Busy {
        retry_after: RETRY_FULL,
        message: format!(
            "too many uploads of one owner wait to be unpacked: the limits are {uploads_max} and {uploads_bytes_max} bytes together"
        ),
    }
}

/// An upload that is there.
pub(crate) struct Waiting {
    key: StoreKey,
    pack: PackId,
    /// How many it has.
    pub bytes: u64,
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
        self.uploads.announce(&self.limits, name, upload, bytes, self.now_s())?;
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

    /// Looks for uploads, all of them; or the first that is not there any more. Blocking.
    pub(crate) fn find_uploads(
        &self,
        name: &RepoName,
        uploads: &[UploadName],
    ) -> Result<Result<Vec<Waiting>, UploadName>, HubError> {
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
            found.push(Waiting { key, pack: PackId(upload.sha256), bytes });
        }
        Ok(Ok(found))
    }

    /// Takes uploads up: their bytes are near from then on. Blocking.
    pub(crate) fn take_up(&self, waiting: &[Waiting]) -> Result<Vec<Arc<Upload>>, HubError> {
        let store = self.engine.store();
        let take = |Waiting { key, pack, bytes }: &Waiting| {
            let staged = store.take_up(key, *bytes)?;
            Ok(Arc::new(Upload::new(*pack, *bytes, staged, Arc::clone(store))))
        };
        waiting.iter().map(take).collect()
    }

    /// Removes uploads that were taken in, or can never be. Blocking.
    pub(crate) fn forget_uploads(&self, name: &RepoName, uploads: &[UploadName]) {
        self.uploads.taken_in(name, uploads);
        let keys: Vec<StoreKey> = uploads.iter().map(|upload| upload.quarantined(name).key()).collect();
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

    /// What the answers to one announcement after another are: owner, repository, its bytes' name, how many, seconds.
    fn check(limits: &Limits, told: &[(&str, &str, u8, u64, u64, bool)]) {
        let uploads = Uploads::default();
        for (at, (owner, slug, name, bytes, now_s, expected)) in told.iter().enumerate() {
            let repo = RepoName { owner: (*owner).to_owned(), slug: (*slug).to_owned() };
            let upload = UploadName { end_s: now_s + 10, sha256: [*name; 32] };
            let told = uploads.announce(limits, &repo, upload, *bytes, *now_s);
            assert_eq!(told.is_ok(), *expected, "{at}: {told:?}");
        }
    }

    fn limits() -> Limits {
        Limits { uploads_per_repo_max: 2, uploads_max: 3, uploads_bytes_max: 1_000, ..Limits::default() }
    }

    #[test]
    fn an_announcement_counts_until_its_time_is_over() {
        check(&limits(), &[("a", "x", 1, 600, 0, true), ("a", "y", 2, 401, 9, false), ("a", "y", 2, 401, 10, true)]);
    }

    #[test]
    fn the_same_bytes_announced_again_count_once() {
        // Under another name each time: the second has changed.
        check(&limits(), &[("a", "x", 1, 900, 0, true), ("a", "x", 1, 900, 1, true), ("a", "y", 1, 900, 2, false)]);
    }

    #[test]
    fn a_repository_whose_pushes_are_interrupted_is_never_locked_out() {
        let limits = Limits { uploads_max: 2, ..limits() };
        let again = |name| ("a", "x", name, 400, 0, true);
        check(&limits, &[again(1), again(2), again(3), again(4), ("a", "y", 5, 400, 0, false)]);
    }

    #[test]
    fn an_owner_who_announces_without_end_keeps_out_nobody_but_himself() {
        let many = |slug, name| ("a", slug, name, 300, 0, true);
        let other = |name| ("b", "x", name, 100, 0, true);
        let told = [many("x", 1), many("y", 2), many("z", 3), ("a", "w", 4, 300, 0, false)];
        check(&limits(), &[&told[..], &[other(5), other(6), ("a", "w", 4, 300, 0, false)]].concat());
    }

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
