//! The Muse Wire Protocol (MWP §5) and the blobs: one handler per endpoint.
//!
//! Invariants: who may is decided before a body is read, and again on the newest view after; every 2xx answer is one
//! msgpack map (a blob excepted); work that changes something runs in a task of its own that keeps the request's place, so
//! that a client that goes away leaves nothing half done and frees nothing that is still in use.

use std::{future::Future, sync::Arc};

use axum::{
    Extension, Router,
    body::Body as HttpBody,
    extract::{FromRequest, FromRequestParts, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use futures_util::{StreamExt, stream};
use reprise_engine::{
    id::ObjectId,
    planted::{self, PlantedBug},
};
use reprise_projections::View;
use serde::Deserialize;
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::{
    http::{
        extract::{Path, Query},
        gate::HeldPlace,
        intake, range, transfer,
    },
    hub::{
        Caller, Hub, HubError, Repo,
        body::{Body, PIECE_BYTES},
        objects::BlobBytes,
        packing::spool_error,
        push::PushAnswer,
        questions::default_branch,
        releases::ReleaseQuery,
        repos::RepoName,
    },
    wire::{encode, requests::Span, transcode},
};

pub(super) type Answer = Result<Response, HubError>;
pub(super) type Name = Path<(String, String)>;

/// All endpoints below a repository's address.
pub fn routes() -> Router<Arc<Hub>> {
    Router::new()
        .route("/{owner}/{slug}/refs", get(refs))
        .route("/{owner}/{slug}/filter-objects", post(filter_objects))
        .route("/{owner}/{slug}/presign", post(presign))
        .route("/{owner}/{slug}/push/objects", post(push_objects))
        .route("/{owner}/{slug}/push", post(push))
        .route("/{owner}/{slug}/negotiate", post(negotiate))
        .route("/{owner}/{slug}/fetch", post(fetch))
        .route("/{owner}/{slug}/releases", get(list_releases).post(publish_release))
        .route("/{owner}/{slug}/releases/{tag}", delete(retract_release))
        .route("/{owner}/{slug}/tags", post(set_tags))
        .route("/{owner}/{slug}/objects/{id}", get(object).put(upload_object))
}

async fn refs(State(hub): State<Arc<Hub>>, caller: Caller, Path((owner, slug)): Name) -> Answer {
    // Every flow of the client begins here: it sees what any server has acknowledged.
    hub.look().await?;
    let (repo, view) = hub.readable(&caller, &owner, &slug).await?;
    hub.read(move || {
        let refs = view.refs(repo.scope)?;
        let record = &repo.row.record;
        let mut out = map(4);
        pair(&mut out, "repo_id", &record.repo.to_string());
        pair(&mut out, "domain", &record.domain);
        pair(&mut out, "default_branch", default_branch(&record.default_branch, &refs));
        heads(&mut out, refs.iter().map(|row| (row.name.as_str(), row.head)));
        Ok(msgpack(out))
    })
    .await
}

async fn filter_objects(asked: Asked) -> Answer {
    let hub = Arc::clone(&asked.hub);
    let (repo, view, body) = asked.read(hub.limits.ids_body_bytes_max).await?;
    let room = hub.room_for_ids(&body).await?;
    let job = Arc::clone(&hub);
    let answer = hub.blocking(move || {
        let _room = room;
        let missing = job.filter_objects(&repo, &view, &body)?;
        list_of_ids(&job, map(1), "missing", &missing)
    });
    whole(Arc::clone(&hub), answer.await?)
}

async fn presign(asked: Asked) -> Answer {
    let hub = Arc::clone(&asked.hub);
    let (caller, name) = (asked.caller.clone(), asked.name.clone());
    let (_, _, body) = asked.read(hub.limits.ids_body_bytes_max).await?;
    let room = hub.room_for_ids(&body).await?;
    let job = Arc::clone(&hub);
    // Only who may push gets addresses to push to.
    let may_push = hub.writable(&caller, &name.owner, &name.slug, false).await.is_ok();
    let answer = hub.blocking(move || {
        let _room = room;
        let mut inline = job.presign_inline(&body)?;
        let presigned = if may_push { job.presign_blobs(&name, &inline)? } else { Vec::new() };
        inline.retain(|id| presigned.binary_search_by_key(id, |(presigned, _)| *presigned).is_err());
        let mut out = map(2);
        encode::text(&mut out, "presigned");
        encode::map_header(&mut out, encode::len32(presigned.len()));
        for (id, url) in presigned {
            encode::id(&mut out, &id.0);
            encode::text(&mut out, &url);
        }
        list_of_ids(&job, out, "inline", &inline)
    });
    whole(Arc::clone(&hub), answer.await?)
}

async fn push_objects(asked: Asked) -> Answer {
    let limit = asked.hub.limits.objects_body_bytes_max;
    let received = asked.write(limit, true, Hub::receive_objects).await?;
    let mut out = map(2);
    encode::text(&mut out, "stored");
    encode::unsigned(&mut out, received.stored);
    encode::text(&mut out, "skipped");
    encode::unsigned(&mut out, received.skipped);
    Ok(msgpack(out))
}

async fn push(asked: Asked) -> Answer {
    let limit = asked.hub.limits.push_body_bytes_max;
    let key = idempotency_key(&asked.headers)?;
    let answer = asked.write(limit, true, |hub, caller, name, body| hub.push(caller, name, body, key)).await?;
    Ok(pushed(&answer))
}

/// The answer to a push, however it came.
pub(super) fn pushed(answer: &PushAnswer) -> Response {
    let mut out = map(if answer.head.is_some() { 4 } else { 3 });
    encode::text(&mut out, "ok");
    encode::boolean(&mut out, answer.ok);
    pair(&mut out, "message", &answer.message);
    heads(&mut out, answer.heads.iter().map(|(name, head)| (name.as_str(), *head)));
    if let Some(head) = answer.head {
        encode::text(&mut out, "remote_head");
        encode::id(&mut out, &head.0);
    }
    msgpack(out)
}

async fn negotiate(asked: Asked) -> Answer {
    let hub = Arc::clone(&asked.hub);
    let (repo, view, body) = asked.read(hub.limits.negotiate_body_bytes_max).await?;
    let (negotiated, _) = hub.decided(view, move |hub, view| hub.negotiate(&repo, view, &body)).await?;
    let mut out = map(3);
    ids(&mut out, "ack", &negotiated.ack);
    encode::text(&mut out, "common_base");
    match negotiated.common_base {
        Some(base) => encode::id(&mut out, &base.0),
        None => encode::nil(&mut out),
    }
    encode::text(&mut out, "ready");
    encode::boolean(&mut out, negotiated.ready);
    Ok(msgpack(out))
}

async fn fetch(asked: Asked) -> Answer {
    let hub = Arc::clone(&asked.hub);
    let (repo, view, body) = asked.read(hub.limits.ids_body_bytes_max).await?;
    let answer = hub.fetch(repo, view, body).await?;
    let chunks = stream::once(async move { Ok(answer.first) }).chain(received(answer.rest));
    let mut response = Response::new(HttpBody::from_stream(chunks));
    response.headers_mut().insert(header::CONTENT_TYPE, MSGPACK);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(answer.len));
    Ok(response)
}

/// The query of a release listing.
#[derive(Deserialize)]
struct Listing {
    channel: Option<String>,
    include_drafts: Option<String>,
}

async fn list_releases(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((owner, slug)): Name,
    Query(listing): Query<Listing>,
) -> Answer {
    let (repo, view) = hub.readable(&caller, &owner, &slug).await?;
    let drafts = listing.include_drafts.is_some_and(|value| value == "1" || value == "true");
    let query = ReleaseQuery { channel: listing.channel, drafts };
    let job = Arc::clone(&hub);
    hub.blocking(move || {
        let rows = job.list_releases(&caller, &repo, &view, &query)?;
        let mut out = map(1);
        encode::text(&mut out, "releases");
        encode::array_header(&mut out, encode::len32(rows.len()));
        for row in rows {
            transcode::append(&row.record, &mut out)?;
        }
        Ok(msgpack(out))
    })
    .await
}

async fn publish_release(asked: Asked) -> Answer {
    let limit = asked.hub.limits.json_body_bytes_max;
    let publish = |hub: Arc<Hub>, caller, name, body| async move { hub.publish_release(&caller, &name, &body).await };
    let id = asked.write(limit, false, publish).await?;
    let mut out = map(1);
    pair(&mut out, "release_id", &id);
    Ok(msgpack(out))
}

async fn retract_release(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Extension(place): Extension<HeldPlace>,
    Path((owner, slug, tag)): Path<(String, String, String)>,
) -> Answer {
    let (repo, _) = hub.writable(&caller, &owner, &slug, false).await?;
    let (job, retracted) = (Arc::clone(&hub), tag.clone());
    to_the_end(&hub, place, async move { job.retract_release(&caller, &repo, &retracted).await }).await?;
    let mut out = map(1);
    pair(&mut out, "retracted", &tag);
    Ok(msgpack(out))
}

async fn set_tags(asked: Asked) -> Answer {
    let limit = asked.hub.limits.json_body_bytes_max;
    let set = |hub: Arc<Hub>, caller, name, body| async move { hub.set_tags(&caller, &name, &body).await };
    let stored = asked.write(limit, false, set).await?;
    let mut out = map(1);
    encode::text(&mut out, "stored");
    encode::unsigned(&mut out, stored);
    Ok(msgpack(out))
}

async fn object(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((owner, slug, id)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Answer {
    let (repo, view) = hub.readable(&caller, &owner, &slug).await?;
    let id: ObjectId = id.parse()?;
    let (job, found) = (Arc::clone(&hub), repo.clone());
    let location = hub.read(move || job.locate_blob(&found, &view, id)).await?;
    let etag = format!("\"{id}\"");
    let cache = if repo.row.is_public() { "public, max-age=31536000, immutable" } else { "private, no-store" };
    let answer = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::CACHE_CONTROL, cache)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::CONTENT_TYPE, "application/octet-stream");
    if range::not_modified(&headers, &etag) {
        return built(answer.status(StatusCode::NOT_MODIFIED), HttpBody::empty());
    }
    let len = location.real_len;
    let (answer, wanted) = match range::ranged(answer, range::wanted(&headers, len, &etag), len) {
        Ok(ranged) => ranged,
        Err(refusal) => return built(refusal, HttpBody::empty()),
    };
    let answer = answer.header(header::CONTENT_LENGTH, wanted.end - wanted.start);
    match hub.read_blob(repo, id, location, wanted).await? {
        BlobBytes::Whole(bytes) => built(answer, bytes.into()),
        BlobBytes::Pieces(pieces) => built(answer, HttpBody::from_stream(received(pieces))),
    }
}

async fn upload_object(asked: ByTicket) -> Answer {
    let ByTicket { hub, name, id, ticket, .. } = &asked;
    let taking = hub.take_blob(name, id, ticket.clone()).await?;
    transfer::take_upload(taking, asked).await
}

/// A request whose right to send or fetch something is in its address.
pub(super) struct ByTicket {
    pub hub: Arc<Hub>,
    pub name: RepoName,
    /// What it is about, as the path names it.
    pub id: String,
    /// The right; empty if there is none.
    pub ticket: String,
    pub headers: HeaderMap,
    pub body: HttpBody,
}

#[derive(Deserialize)]
struct WithTicket {
    ticket: Option<String>,
}

impl FromRequest<Arc<Hub>> for ByTicket {
    type Rejection = HubError;

    async fn from_request(request: Request, hub: &Arc<Hub>) -> Result<ByTicket, HubError> {
        let (mut parts, body) = request.into_parts();
        // The ticket is the right; a token that is none is refused all the same.
        Caller::from_request_parts(&mut parts, hub).await?;
        let path = Path::<(String, String, String)>::from_request_parts(&mut parts, hub).await?;
        let Query(WithTicket { ticket }) = Query::from_request_parts(&mut parts, hub).await?;
        let (Path((owner, slug, id)), ticket) = (path, ticket.unwrap_or_default());
        Ok(ByTicket { hub: Arc::clone(hub), name: RepoName { owner, slug }, id, ticket, headers: parts.headers, body })
    }
}

/// A request with a body about a repository.
pub(super) struct Asked {
    pub hub: Arc<Hub>,
    pub caller: Caller,
    name: RepoName,
    place: HeldPlace,
    pub headers: HeaderMap,
    body: HttpBody,
}

impl FromRequest<Arc<Hub>> for Asked {
    type Rejection = HubError;

    async fn from_request(request: Request, hub: &Arc<Hub>) -> Result<Asked, HubError> {
        let (mut parts, body) = request.into_parts();
        let caller = Caller::from_request_parts(&mut parts, hub).await?;
        let Path((owner, slug)) = Path::<(String, String)>::from_request_parts(&mut parts, hub).await?;
        let place = parts.extensions.remove().unwrap_or_default();
        Ok(Asked { hub: Arc::clone(hub), caller, name: RepoName { owner, slug }, place, headers: parts.headers, body })
    }
}

impl Asked {
    /// A reader's: may he, his body of at most `limit` bytes, may he still, on the newest view.
    pub async fn read(self, limit: u64) -> Result<(Repo, View, Body), HubError> {
        let Asked { hub, caller, name, headers, body, .. } = self;
        hub.readable(&caller, &name.owner, &name.slug).await?;
        let body = intake::take(&hub, &headers, body, limit).await?;
        let (repo, view) = hub.readable(&caller, &name.owner, &name.slug).await?;
        Ok((repo, view, body))
    }

    /// A writer's: may he (an unknown repository counts as his own if `create`), his body of at most `limit` bytes, then
    /// `work`, which asks again.
    pub async fn write<T, W>(
        self,
        limit: u64,
        create: bool,
        work: impl FnOnce(Arc<Hub>, Caller, RepoName, Body) -> W,
    ) -> Result<T, HubError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, HubError>> + Send + 'static,
    {
        let Asked { hub, caller, name, place, headers, body } = self;
        hub.writable(&caller, &name.owner, &name.slug, create).await?;
        let body = intake::take(&hub, &headers, body, limit).await?;
        to_the_end(&hub, place, work(Arc::clone(&hub), caller, name, body)).await
    }
}

/// Runs `work` to its end even when the client goes away; it keeps its place till then, and a shutdown waits for it.
pub(super) async fn to_the_end<T: Send + 'static>(
    hub: &Hub,
    place: HeldPlace,
    work: impl Future<Output = Result<T, HubError>> + Send + 'static,
) -> Result<T, HubError> {
    if planted::is(PlantedBug::DropOnCancel) {
        return work.await;
    }
    let task = hub.tasks.spawn(
        async move {
            let done = work.await;
            drop(place);
            done
        }
        .in_current_span(),
    );
    task.await.map_err(|error| HubError::died(&error))?
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, HubError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| !text.is_empty() && text.len() <= KEY_BYTES_MAX);
    let text = text.ok_or_else(|| {
        HubError::BadRequest(format!("Idempotency-Key: 1 to {KEY_BYTES_MAX} visible ASCII characters are expected"))
    })?;
    Ok(Some(text.to_owned()))
}

pub(super) fn received<T: Send + 'static>(
    receiver: mpsc::Receiver<Result<T, HubError>>,
) -> impl stream::Stream<Item = Result<T, HubError>> {
    stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) })
}

pub(super) fn map(pairs: u32) -> Vec<u8> {
    let mut out = Vec::new();
    encode::map_header(&mut out, pairs);
    out
}

pub(super) fn pair(out: &mut Vec<u8>, key: &str, value: &str) {
    encode::text(out, key);
    encode::text(out, value);
}

pub(super) fn ids(out: &mut Vec<u8>, key: &str, ids: &[ObjectId]) {
    encode::text(out, key);
    encode::array_header(out, encode::len32(ids.len()));
    for id in ids {
        encode::id(out, &id.0);
    }
}

/// A map whose last value is a list of ids. A large one goes to the spool: a client that takes its time then holds a file and
/// nothing that others wait for. Blocking.
fn list_of_ids(hub: &Hub, mut head: Vec<u8>, key: &str, ids: &[ObjectId]) -> Result<Body, HubError> {
    encode::text(&mut head, key);
    encode::array_header(&mut head, encode::len32(ids.len()));
    let encoded = ids.chunks(IDS_ENCODED_AT_ONCE).map(|some| {
        let mut piece = Vec::new();
        some.iter().for_each(|id| encode::id(&mut piece, &id.0));
        piece
    });
    let pieces = [head].into_iter().chain(encoded);
    if ids.len() <= IDS_ENCODED_AT_ONCE {
        return Ok(Body::Memory(pieces.collect::<Vec<_>>().concat().into()));
    }
    Body::spool(&hub.spool_dir, pieces)
        .map_err(|error| HubError::Unavailable(format!("the answer could not be spooled: {error}")))
}

/// A msgpack answer from memory or from the spool, read as the client takes it.
fn whole(hub: Arc<Hub>, body: Body) -> Answer {
    let answer = Response::builder().header(header::CONTENT_TYPE, MSGPACK).header(header::CONTENT_LENGTH, body.len());
    let pieces = stream::try_unfold((hub, body, 0), |(hub, body, offset)| async move {
        let len = (body.len() - offset).min(u64::from(PIECE_BYTES));
        if len == 0 {
            return Ok(None);
        }
        let span = Span { offset, len: u32::try_from(len).unwrap_or(PIECE_BYTES) };
        let read = body.clone();
        let piece = hub.read(move || read.slice(span).map_err(spool_error)).await?;
        Ok::<_, HubError>(Some((piece, (hub, body, offset + len))))
    });
    built(answer, HttpBody::from_stream(pieces))
}

fn heads<'a>(out: &mut Vec<u8>, heads: impl ExactSizeIterator<Item = (&'a str, ObjectId)>) {
    encode::text(out, "branch_heads");
    encode::map_header(out, encode::len32(heads.len()));
    for (name, head) in heads {
        encode::text(out, name);
        encode::id(out, &head.0);
    }
}

pub(super) fn msgpack(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, MSGPACK)], body).into_response()
}

pub(super) fn built(answer: axum::http::response::Builder, body: HttpBody) -> Answer {
    answer.body(body).map_err(|error| HubError::Internal(format!("an answer could not be built: {error}")))
}

pub(super) const MSGPACK: HeaderValue = HeaderValue::from_static("application/x-msgpack");
const KEY_BYTES_MAX: usize = 255;
/// Ids of one piece of an answer; more of them do not stay in memory while the client takes them.
const IDS_ENCODED_AT_ONCE: usize = 4 << 10;
