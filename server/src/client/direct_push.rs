//! A push by direct transfer (API.md, "push by pack"): packs are uploaded one by one, then one request unpacks them and moves the
//! branch.
//!
//! A server with a bucket wants them there. They go there if the user named that bucket, else through the server: services of the
//! user's machine trust whoever reaches them, and a server must not choose which of them this client asks, or how.
//!
//! Invariants: the branch moves with that one request or not at all, and its key makes asking again harmless. What an interrupted
//! push has uploaded is used by its repetition, if the server still has it and the same is to be sent. The token goes to the
//! server only. No header that a server names is sent but those that a bucket needs.

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use hyper::{
    Method, StatusCode,
    header::{self, HeaderName},
};
use reprise_engine::{
    clock::{SystemRandom, random16},
    id::{ObjectId, PushId, RepoId},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    ClientError,
    counter::Unit,
    fetch::{Fetch, blocking, is_unknown_endpoint},
    files::{self, Found},
    http::{Ask, Remote, Sending, shown},
    incoming::DIRECTORY,
    packs::{self, Item, PackFile},
    stock::{self, PushAnswer},
};
use crate::wire::encode;

/// Where a branch is to be moved.
#[derive(Clone, Debug)]
pub struct Target {
    /// The repository's id on the server.
    pub repo: RepoId,
    /// The branch.
    pub branch: String,
    /// Its commit to be.
    pub tip: ObjectId,
    /// Whether commits may be given up by it.
    pub force: bool,
}

/// Sends `items` and moves the branch. `None` if the hub knows no direct transfer; then nothing was sent.
///
/// Errors: `Answered` with 413 if the hub takes less at once, among others.
pub async fn push(fetch: &Fetch, target: &Target, items: &[Item]) -> Result<Option<PushAnswer>, ClientError> {
    let mut sending = Upload::resume(fetch, target, items)?;
    let answer = match sending.finish(fetch, target, items).await {
        // The server has an upload no more: it is over, or a sweep came in between.
        Err(error) if !sending.uploads.is_empty() && error.status() == Some(StatusCode::NOT_FOUND) => {
            sending = Upload::begin(target, items)?;
            sending.finish(fetch, target, items).await
        }
        other => other,
    };
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if sending.uploads.is_empty() && is_unknown_endpoint(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What was uploaded so far: the note that an interrupted push leaves.
#[derive(Serialize, Deserialize)]
struct Upload {
    /// Of what is sent where: another push has another one.
    name: String,
    key: String,
    /// Items in the finished uploads.
    sent: usize,
    uploads: Vec<String>,
}

/// Where the server wants a pack.
#[derive(Deserialize)]
struct Presigned {
    upload: String,
    url: String,
    /// To be sent with it, if it goes to the server's bucket.
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl Upload {
    fn begin(target: &Target, items: &[Item]) -> Result<Upload, ClientError> {
        let random = random16(&SystemRandom).map_err(|error| ClientError::Refused(error.to_string()))?;
        let key = PushId::from_random(random).to_string();
        Ok(Upload { name: name_of(target, items), key, sent: 0, uploads: Vec::new() })
    }

    fn resume(fetch: &Fetch, target: &Target, items: &[Item]) -> Result<Upload, ClientError> {
        let path = note_path(fetch);
        let noted: Option<Upload> = match files::look(&path)? {
            Found::File(_) => serde_json::from_slice(&files::read(&path, NOTE_BYTES_MAX)?).ok(),
            _ => None,
        };
        let same = |noted: &Upload| noted.name == name_of(target, items) && noted.sent <= items.len();
        noted.filter(same).map_or_else(|| Upload::begin(target, items), Ok)
    }

    async fn finish(&mut self, fetch: &Fetch, target: &Target, items: &[Item]) -> Result<PushAnswer, ClientError> {
        let push: PushId = self.key.parse().map_err(|_| ClientError::Refused("a damaged note of a push".to_owned()))?;
        while self.sent < items.len() {
            let rest = &items[self.sent..];
            let chunk = rest[..packs::first_pack(rest)].to_vec();
            let (repository, repo, count) = (fetch.repository.clone(), target.repo, chunk.len());
            fetch.counter.begin("packing", Unit::Objects, count as u64);
            let pack = blocking(move || packs::build(&repository, &chunk, repo, push)).await?;
            let upload = upload(fetch, &pack).await?;
            self.uploads.push(upload);
            self.sent += count;
            files::remove(&pack.path)?;
            let note = serde_json::to_vec(self).map_err(|error| ClientError::Refused(error.to_string()))?;
            files::write(&note_path(fetch), &note)?;
        }
        let mut ask = fetch.remote.ask(Method::POST, "push/unpack-mpack", Sending::Msgpack(self.unpack_body(target)));
        ask.headers.push((HeaderName::from_static("idempotency-key"), self.key.clone()));
        fetch.counter.begin("unpacking", Unit::Objects, 0);
        let ask = &ask;
        let answer =
            fetch.remote.patiently(async || fetch.remote.send(ask).await?.bytes(ANSWER_BYTES_MAX).await).await?;
        stock::push_answer(&answer)
    }

    fn unpack_body(&self, target: &Target) -> Bytes {
        let mut body = Vec::new();
        encode::map_header(&mut body, 4);
        encode::text(&mut body, "uploads");
        encode::array_header(&mut body, encode::len32(self.uploads.len()));
        self.uploads.iter().for_each(|upload| encode::text(&mut body, upload));
        encode::text(&mut body, "branch");
        encode::text(&mut body, &target.branch);
        encode::text(&mut body, "tip");
        encode::id(&mut body, &target.tip.0);
        encode::text(&mut body, "force");
        encode::boolean(&mut body, target.force);
        body.into()
    }
}

/// Uploads one pack; the name that the server gave it.
async fn upload(fetch: &Fetch, pack: &PackFile) -> Result<String, ClientError> {
    let (mut tries, mut direct) = (1, fetch.remote.reaches_bucket());
    loop {
        let presigned = presign(fetch, pack, direct).await?;
        let (remote, path, is_bucket) = match fetch.remote.address.endpoint(&presigned.url) {
            Ok(path) => (fetch.remote.clone(), path, false),
            Err(url) => match fetch.remote.bucket(&url) {
                Some((bucket, path)) => (bucket, path, true),
                // A bucket that the user did not name.
                None if direct => {
                    direct = false;
                    continue;
                }
                None => return Err(ClientError::untrusted(format!("it wants the pack elsewhere, at {}", place(&url)))),
            },
        };
        match put(fetch, pack, (&remote, path), &presigned.headers).await {
            Ok(()) => return Ok(presigned.upload),
            // It is there: only the answer was lost.
            Err(error) if error.status() == Some(StatusCode::PRECONDITION_FAILED) => return Ok(presigned.upload),
            Err(ClientError::Interrupted) => return Err(ClientError::Interrupted),
            // The bucket did not take it: then through the server.
            Err(_) if is_bucket => direct = false,
            // Its ticket is too old. A new one costs the bytes once more.
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) && tries < UPLOAD_TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// An address without what makes it a right.
fn place(url: &str) -> String {
    shown(url.split('?').next().unwrap_or_default())
}

async fn presign(fetch: &Fetch, pack: &PackFile, direct: bool) -> Result<Presigned, ClientError> {
    let mut body = Vec::new();
    encode::map_header(&mut body, 3);
    encode::text(&mut body, "direct");
    encode::boolean(&mut body, direct);
    encode::text(&mut body, "bytes");
    encode::unsigned(&mut body, pack.bytes);
    encode::text(&mut body, "sha256");
    encode::id(&mut body, &pack.pack.0);
    let ask = fetch.remote.ask(Method::POST, "push/mpack-presign", Sending::Msgpack(body.into()));
    fetch.remote.value(&ask, PRESIGNED_BYTES_MAX).await
}

async fn put(
    fetch: &Fetch,
    pack: &PackFile,
    (remote, path): (&Remote, String),
    headers: &BTreeMap<String, String>,
) -> Result<(), ClientError> {
    fetch.counter.begin("uploading", Unit::Bytes, pack.bytes);
    let sending = Sending::File(pack.path.clone(), pack.bytes, fetch.counter.clone());
    let headers = headers.iter().filter_map(|(name, value)| Some((of_a_bucket(name)?, value.clone()))).collect();
    // The ticket in the address is the right.
    let put = Ask { method: Method::PUT, path, headers, with_token: false, sending };
    remote.patiently(async || remote.send(&put).await?.bytes(PRESIGNED_BYTES_MAX).await).await.map(drop)
}

/// The header of this name, if buckets need it. The length goes with a body anyway; without others that the address is signed
/// with the bucket refuses, and the pack goes through the server.
fn of_a_bucket(name: &str) -> Option<HeaderName> {
    let name: HeaderName = name.parse().ok()?;
    let allowed = [header::CONTENT_TYPE, header::IF_NONE_MATCH].contains(&name) || name.as_str().starts_with("x-amz-");
    allowed.then_some(name)
}

/// Equal for equal pushes, another one for others.
fn name_of(target: &Target, items: &[Item]) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{}\0{}\0{}\0{}\0", target.repo, target.branch, target.tip, target.force));
    for item in items {
        hash.update(item.kind.name());
        hash.update(item.id.0);
    }
    hex::encode(hash.finalize())
}

fn note_path(fetch: &Fetch) -> PathBuf {
    fetch.repository.muse(DIRECTORY).join("uploads.json")
}

const UPLOAD_TRIES: u32 = 3;
const NOTE_BYTES_MAX: u64 = 1 << 20;
const PRESIGNED_BYTES_MAX: u64 = 1 << 16;
const ANSWER_BYTES_MAX: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_server_names_no_header_but_those_of_a_bucket() {
        for name in ["x-amz-checksum-sha256", "X-Amz-Date", "If-None-Match", "content-type"] {
            assert_eq!(of_a_bucket(name).unwrap().as_str(), name.to_ascii_lowercase());
        }
        for name in
            ["host", "authorization", "cookie", "content-length", "transfer-encoding", "connection", "x-amz", "a b", ""]
        {
            assert_eq!(of_a_bucket(name), None, "{name}");
        }
    }
}
