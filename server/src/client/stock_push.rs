//! A push over the endpoints that every hub has: blobs in chunks to `push/objects`, then all records in one `push`.
//!
//! Invariants: bodies are built in files and streamed from them, so memory is one piece per request, whatever is pushed; the one
//! request that moves the branch has a key of its own, so that asking again cannot do it twice.

use std::path::Path;

use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::{Method, header};
use reprise_engine::{
    clock::{SystemRandom, random16},
    id::{ObjectId, PushId},
};

use super::{
    ClientError,
    counter::Unit,
    fetch::{Fetch, blocking},
    files::{self, Found, Writing},
    http::Sending,
    incoming::DIRECTORY,
    outgoing::{Outgoing, read_blob},
    stock::{self, PushAnswer},
};
use crate::wire::{encode, transcode};

/// Sends the blobs that the server lacks.
pub async fn blobs(fetch: &Fetch, blobs: &[(ObjectId, u64)]) -> Result<(), ClientError> {
    fetch.counter.begin("uploading", Unit::Bytes, blobs.iter().map(|(_, bytes)| bytes).sum());
    let sent = chunks(blobs).into_iter().enumerate().map(|(number, chunk)| async move {
        let path = fetch.repository.muse(DIRECTORY).join(format!("objects-{number}"));
        let (repository, body) = (fetch.repository.clone(), path.clone());
        blocking(move || build_objects(&repository, &chunk, &body)).await?;
        let sent = post(fetch, "push/objects", &path, None).await;
        files::remove(&path)?;
        sent?.bytes(SMALL_ANSWER_BYTES_MAX).await.map(drop)
    });
    stream::iter(sent).buffer_unordered(REQUESTS_AT_ONCE).try_collect::<()>().await
}

/// Sends the records and moves the branch.
pub async fn records(fetch: &Fetch, outgoing: Outgoing, branch: &str, force: bool) -> Result<PushAnswer, ClientError> {
    let path = fetch.repository.muse(DIRECTORY).join("push");
    let (repository, body, name) = (fetch.repository.clone(), path.clone(), branch.to_owned());
    blocking(move || build_push(&repository, &outgoing, &name, force, &body)).await?;
    fetch.counter.begin("pushing", Unit::Bytes, size(&path)?);
    let random = random16(&SystemRandom).map_err(|error| ClientError::Refused(error.to_string()))?;
    let key = PushId::from_random(random).to_string();
    let answer = fetch
        .remote
        .patiently(async || {
            let answer = post(fetch, "push", &path, Some(&key)).await?;
            answer.bytes(PUSH_ANSWER_BYTES_MAX).await
        })
        .await?;
    files::remove(&path)?;
    stock::push_answer(&answer)
}

async fn post(
    fetch: &Fetch,
    endpoint: &str,
    body: &Path,
    key: Option<&str>,
) -> Result<super::http::Answer, ClientError> {
    let sending = Sending::File(body.to_owned(), size(body)?, fetch.counter.clone());
    let mut ask = fetch.remote.ask(Method::POST, endpoint, sending);
    ask.headers.push((header::CONTENT_TYPE, "application/x-msgpack".to_owned()));
    if let Some(key) = key {
        ask.headers.push((header::HeaderName::from_static("idempotency-key"), key.to_owned()));
        return fetch.remote.send(&ask).await;
    }
    fetch.remote.patiently(async || fetch.remote.send(&ask).await).await
}

fn size(path: &Path) -> Result<u64, ClientError> {
    match files::look(path)? {
        Found::File(bytes) => Ok(bytes),
        _ => Err(ClientError::Refused(format!("{} is gone", path.display()))),
    }
}

/// At most [`CHUNK_OBJECTS`] and [`CHUNK_BYTES`] each, or one that is larger alone.
fn chunks(blobs: &[(ObjectId, u64)]) -> Vec<Vec<(ObjectId, u64)>> {
    let mut chunks: Vec<Vec<(ObjectId, u64)>> = Vec::new();
    let mut bytes = 0;
    for (id, len) in blobs {
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_OBJECTS && bytes + len <= CHUNK_BYTES => {
                bytes += len;
                chunk.push((*id, *len));
            }
            _ => {
                bytes = *len;
                chunks.push(vec![(*id, *len)]);
            }
        }
    }
    chunks
}

fn build_objects(repository: &super::Repository, blobs: &[(ObjectId, u64)], path: &Path) -> Result<(), ClientError> {
    let mut body = Writing::beside(path)?;
    let mut head = Vec::new();
    encode::map_header(&mut head, 1);
    encode::text(&mut head, "objects");
    encode::array_header(&mut head, encode::len32(blobs.len()));
    for (id, bytes) in blobs {
        encode::map_header(&mut head, 2);
        encode::text(&mut head, "object_id");
        encode::id(&mut head, &id.0);
        encode::text(&mut head, "content");
        let len = u32::try_from(*bytes).map_err(|_| ClientError::Refused(format!("blob {id} is larger than 4 GiB")))?;
        encode::bin_header(&mut head, len);
        body.write(&head)?;
        head.clear();
        read_blob(repository, *id, |piece| body.append(piece))?;
    }
    body.finish(path)
}

fn build_push(
    repository: &super::Repository,
    outgoing: &Outgoing,
    branch: &str,
    force: bool,
    path: &Path,
) -> Result<(), ClientError> {
    let mut body = Writing::beside(path)?;
    let mut part = Vec::new();
    encode::map_header(&mut part, 3);
    encode::text(&mut part, "branch");
    encode::text(&mut part, branch);
    encode::text(&mut part, "force");
    encode::boolean(&mut part, force);
    encode::text(&mut part, "bundle");
    encode::map_header(&mut part, 3);
    encode::text(&mut part, "objects");
    encode::array_header(&mut part, 0);
    encode::text(&mut part, "commits");
    encode::array_header(&mut part, encode::len32(outgoing.commits.len()));
    let mut record = |payload: &[u8], part: &mut Vec<u8>| {
        transcode::append(payload, part).map_err(|error| ClientError::Refused(error.to_string()))?;
        body.write(part)?;
        part.clear();
        Ok::<(), ClientError>(())
    };
    for commit in &outgoing.commits {
        record(&repository.commit(commit.id)?.payload, &mut part)?;
    }
    encode::text(&mut part, "snapshots");
    encode::array_header(&mut part, encode::len32(outgoing.snapshots.len()));
    for id in &outgoing.snapshots {
        record(&repository.snapshot(*id)?.0.payload, &mut part)?;
    }
    body.write(&part)?;
    body.finish(path)
}

/// What every hub takes in one `push/objects`.
const CHUNK_OBJECTS: usize = 400;
const CHUNK_BYTES: u64 = 16 << 20;
const REQUESTS_AT_ONCE: usize = 4;
const SMALL_ANSWER_BYTES_MAX: u64 = 1 << 16;
const PUSH_ANSWER_BYTES_MAX: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_bounded_in_count_and_bytes_and_lose_nothing() {
        let id = |number: usize| ObjectId([u8::try_from(number % 251).unwrap_or(0); 32]);
        let small: Vec<_> = (0..1_001).map(|number| (id(number), 10)).collect();
        assert_eq!(chunks(&small).iter().map(Vec::len).collect::<Vec<_>>(), [400, 400, 201]);
        let large: Vec<_> =
            [CHUNK_BYTES - 1, 1, 1, CHUNK_BYTES * 3, 5].into_iter().map(|bytes| (id(1), bytes)).collect();
        assert_eq!(chunks(&large).iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 1]);
        assert_eq!(chunks(&large).concat(), large);
    }
}
