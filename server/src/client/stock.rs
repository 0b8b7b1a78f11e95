//! The endpoints that every muse hub has (API.md, "The Muse Wire Protocol"), as our own client uses them.
//!
//! Invariants: an answer is bounded, decoded strictly and trusted for nothing; blobs of an answer are parts of its one buffer,
//! never copies.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use hyper::Method;
use reprise_engine::{id::ObjectId, object::names};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{
    ClientError,
    http::{Remote, Sending},
    incoming::Incoming,
    parallel,
};
use crate::wire::{Decoder, Field, WireError, encode, value::value_of};

/// What `GET refs` says, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refs {
    /// The repository's id: a UUID.
    pub repo_id: String,
    /// Its domain.
    pub domain: String,
    /// The branch to check out.
    pub default_branch: String,
    /// Branch → head. No name is a folder of another.
    pub heads: BTreeMap<String, ObjectId>,
}

#[derive(Deserialize)]
struct RefsAnswer {
    repo_id: String,
    #[serde(default)]
    domain: String,
    #[serde(default)]
    default_branch: String,
    #[serde(default)]
    branch_heads: BTreeMap<String, String>,
}

/// Asks for the refs.
pub async fn refs(remote: &Remote) -> Result<Refs, ClientError> {
    let answer: RefsAnswer = remote.value(&remote.ask(Method::GET, "refs", Sending::Nothing), REFS_BYTES_MAX).await?;
    check_refs(answer)
}

/// All of it becomes names of files and folders: nothing passes that could be more than that.
fn check_refs(answer: RefsAnswer) -> Result<Refs, ClientError> {
    let repo_id = uuid::Uuid::try_parse(&answer.repo_id).map_err(|_| ClientError::untrusted("repo_id is no UUID"))?;
    let domain = if answer.domain.is_empty() { DEFAULT_DOMAIN.to_owned() } else { answer.domain };
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if domain.len() > DOMAIN_BYTES_MAX || !domain.bytes().all(is_word) {
        return Err(ClientError::untrusted("domain is no plain word"));
    }
    let mut heads: BTreeMap<String, ObjectId> = BTreeMap::new();
    for (name, id) in answer.branch_heads {
        names::check_ref(&name).map_err(ClientError::untrusted)?;
        let id = id.parse().map_err(|_| ClientError::untrusted(format!("the head of branch '{name}' is no id")))?;
        heads.insert(name, id);
    }
    let is_branch = |name: &str| heads.contains_key(name);
    let folder_of =
        |name: &str| name.match_indices('/').map(|(at, _)| name[..at].to_owned()).find(|above| is_branch(above));
    if let Some((name, above)) = heads.keys().find_map(|name| Some((name, folder_of(name)?))) {
        return Err(ClientError::untrusted(format!("branch '{above}' is a folder of branch '{name}'")));
    }
    let default_branch = answer.default_branch;
    Ok(Refs { repo_id: repo_id.hyphenated().to_string(), domain, default_branch, heads })
}

/// `POST fetch`: one whole answer of at most 64 MiB, with everything below `want` that is not below `have`.
pub async fn fetch(remote: &Remote, want: &[ObjectId], have: &[ObjectId]) -> Result<Bytes, ClientError> {
    let ask = remote.ask(Method::POST, "fetch", Sending::Msgpack(want_have(want, have)));
    remote.patiently(async || remote.send(&ask).await?.bytes(FETCH_BYTES_MAX).await).await
}

/// The body of `fetch` and `fetch/mpack`.
pub fn want_have(want: &[ObjectId], have: &[ObjectId]) -> Bytes {
    let mut body = Vec::new();
    encode::map_header(&mut body, 2);
    for (key, ids) in [("want", want), ("have", have)] {
        encode::text(&mut body, key);
        id_list(&mut body, ids);
    }
    body.into()
}

/// `POST filter-objects`: which of `ids` the repository lacks.
pub async fn missing(remote: &Remote, ids: &[ObjectId]) -> Result<Vec<ObjectId>, ClientError> {
    #[derive(Deserialize)]
    struct MissingAnswer {
        missing: Vec<String>,
    }
    let mut missing = Vec::new();
    for chunk in ids.chunks(FILTER_IDS_MAX) {
        let mut body = Vec::new();
        encode::map_header(&mut body, 1);
        encode::text(&mut body, "object_ids");
        id_list(&mut body, chunk);
        let ask = remote.ask(Method::POST, "filter-objects", Sending::Msgpack(body.into()));
        let answer: MissingAnswer = remote.value(&ask, FILTER_BYTES_MAX).await?;
        for id in answer.missing {
            let id: ObjectId = id.parse().map_err(|_| ClientError::untrusted("filter-objects names what is no id"))?;
            // Sorted, since `ids` is: what was not asked for is not sent.
            if chunk.binary_search(&id).is_ok() {
                missing.push(id);
            }
        }
    }
    Ok(missing)
}

fn id_list(body: &mut Vec<u8>, ids: &[ObjectId]) {
    encode::array_header(body, encode::len32(ids.len()));
    ids.iter().for_each(|id| encode::id(body, &id.0));
}

/// How a push ended.
#[derive(Deserialize, Debug)]
pub struct PushAnswer {
    /// Whether the branch moved.
    pub ok: bool,
    /// The server's words.
    #[serde(default)]
    pub message: String,
}

/// The answer of `push` or `push/unpack-mpack`, refusals included.
pub fn push_answer(bytes: &[u8]) -> Result<PushAnswer, ClientError> {
    rmp_serde::from_slice(bytes).map_err(|error| ClientError::untrusted(format!("the push's answer: {error}")))
}

/// Takes a fetch's answer apart and hands everything in it over, verified on all cores.
pub fn receive(answer: &Bytes, incoming: &Incoming<'_>, stop: &CancellationToken) -> Result<(), ClientError> {
    let parts = parts_of(answer).map_err(ClientError::untrusted)?;
    let record =
        |range: &Range<usize>| value_of(&answer[range.clone()], &Field::root("record")).map_err(ClientError::untrusted);
    parallel::for_each(&parts.commits, stop, |range| incoming.commit(&record(range)?).map(drop))?;
    parallel::for_each(&parts.snapshots, stop, |range| incoming.snapshot(&record(range)?).map(drop))?;
    parallel::for_each(&parts.blobs, stop, |(id, range)| incoming.blob(*id, &answer[range.clone()]))
}

/// Where everything stands in a fetch's answer.
#[derive(Default)]
struct Parts {
    commits: Vec<Range<usize>>,
    snapshots: Vec<Range<usize>>,
    blobs: Vec<(ObjectId, Range<usize>)>,
}

fn parts_of(answer: &[u8]) -> Result<Parts, WireError> {
    let (mut decoder, mut parts) = (Decoder::new(answer), Parts::default());
    let field = Field::root("answer");
    for _ in 0..decoder.map(&field)? {
        let key = decoder.text(KEY_BYTES_MAX, &field)?;
        let field = field.key(&key);
        match key.as_str() {
            "commits" | "snapshots" => {
                let count = decoder.list("records", usize::MAX, &field)?;
                let list = if key == "commits" { &mut parts.commits } else { &mut parts.snapshots };
                for _ in 0..count {
                    let start = at(&decoder);
                    decoder.skip(&field)?;
                    list.push(start..at(&decoder));
                }
            }
            "objects" => {
                for index in 0..decoder.list("objects", usize::MAX, &field)? {
                    parts.blobs.push(blob_part(&mut decoder, &field.index(index))?);
                }
            }
            _ => decoder.skip(&field)?,
        }
    }
    decoder.finish()?;
    Ok(parts)
}

fn blob_part(decoder: &mut Decoder<&[u8]>, field: &Field<'_>) -> Result<(ObjectId, Range<usize>), WireError> {
    let (mut id, mut content) = (None, None);
    for _ in 0..decoder.map(field)? {
        match decoder.text(KEY_BYTES_MAX, field)?.as_str() {
            "object_id" => id = Some(decoder.id(field)?),
            "content" => {
                let (_, len) = decoder.bin_span(field)?;
                let end = at(decoder);
                content = Some(end - usize::try_from(len).unwrap_or(end)..end);
            }
            _ => decoder.skip(field)?,
        }
    }
    let part = id.zip(content);
    part.ok_or_else(|| WireError::Invalid(format!("{field}: an object without id or content")))
}

fn at(decoder: &Decoder<&[u8]>) -> usize {
    usize::try_from(decoder.position()).unwrap_or(usize::MAX)
}

const DEFAULT_DOMAIN: &str = "code";
const DOMAIN_BYTES_MAX: usize = 128;
/// Refs: 100,000 branches with long names.
const REFS_BYTES_MAX: u64 = 64 << 20;
/// What the stock protocol promises.
const FETCH_BYTES_MAX: u64 = 64 << 20;
/// Ids in one question.
const FILTER_IDS_MAX: usize = 100_000;
const FILTER_BYTES_MAX: u64 = 16 << 20;
const KEY_BYTES_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(heads: &[(&str, &str)]) -> RefsAnswer {
        RefsAnswer {
            repo_id: "d197e8fe-0f11-43fc-9453-cf811f22b0f5".to_owned(),
            domain: "code".to_owned(),
            default_branch: "main".to_owned(),
            branch_heads: heads.iter().map(|(name, id)| ((*name).to_owned(), (*id).to_owned())).collect(),
        }
    }

    #[test]
    fn refs_that_would_not_be_plain_names_are_not_accepted() {
        let id = &ObjectId([1; 32]).to_string();
        assert!(check_refs(answer(&[("main", id), ("feature/x", id)])).is_ok());
        let hostile =
            [("../../x", id.as_str()), (".muse/HEAD", id), ("/abs", id), ("a\n", id), ("main", "../x"), ("main", "")];
        for head in hostile {
            assert!(check_refs(answer(&[head])).is_err(), "{head:?}");
        }
        assert!(check_refs(answer(&[("a", id), ("a/b/c", id)])).unwrap_err().to_string().contains("folder"));
        assert!(check_refs(RefsAnswer { repo_id: "../x".to_owned(), ..answer(&[]) }).is_err());
        assert!(check_refs(RefsAnswer { domain: "a/b".to_owned(), ..answer(&[]) }).is_err());
    }

    #[test]
    fn every_cut_of_an_answer_is_refused() {
        let id = ObjectId([7; 32]);
        let mut body = Vec::new();
        encode::map_header(&mut body, 3);
        for key in ["commits", "snapshots"] {
            encode::text(&mut body, key);
            encode::array_header(&mut body, 1);
            encode::map_header(&mut body, 0);
        }
        encode::text(&mut body, "objects");
        encode::array_header(&mut body, 1);
        encode::map_header(&mut body, 2);
        encode::text(&mut body, "content");
        encode::bin_header(&mut body, 3);
        body.extend_from_slice(b"abc");
        encode::text(&mut body, "object_id");
        encode::id(&mut body, &id.0);
        let parts = parts_of(&body).unwrap();
        assert_eq!((parts.commits.len(), parts.snapshots.len(), parts.blobs[0].0), (1, 1, id));
        assert_eq!(&body[parts.blobs[0].1.clone()], b"abc");
        for end in 0..body.len() {
            assert!(parts_of(&body[..end]).is_err(), "{end}");
        }
    }
}
