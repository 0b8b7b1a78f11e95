//! Direct transfer (API.md): packs out, of any size and from any byte on; packs in, announced, uploaded, unpacked.
//!
//! Invariants: as in [`super::mwp`]; an answer has its length and its strong name before its first byte; bytes of a plan that is
//! another now are never sent as the rest of the old one.

use std::sync::Arc;

use axum::{
    Router,
    body::Body as HttpBody,
    http::{HeaderValue, StatusCode, header, response::Builder},
    response::Response,
    routing::{get, post},
};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper::body::Body as _;

use crate::{
    http::{
        intake,
        mwp::{Answer, Asked, ByTicket, MSGPACK, built, idempotency_key, map, msgpack, pair, pushed, received},
        range,
    },
    hub::{
        Caller, Hub, HubError,
        body::Body,
        fetch::FetchAnswer,
        mpack::{plan::Purpose, presign::OpenedPack, taking::Taking, uploads::Place},
        repos::RepoName,
    },
    wire::{encode, requests},
};

/// All endpoints of direct transfer.
pub fn routes() -> Router<Arc<Hub>> {
    Router::new()
        .route("/{owner}/{slug}/fetch/mpack", post(fetch_pack))
        .route("/{owner}/{slug}/fetch/presign", post(list_packs))
        .route("/{owner}/{slug}/push/mpack-presign", post(announce_pack))
        .route("/{owner}/{slug}/push/unpack-mpack", post(unpack))
        .route("/{owner}/{slug}/mpack/{id}", get(stored_pack).put(upload_pack))
}

async fn fetch_pack(asked: Asked) -> Answer {
    let (hub, caller, headers) = (Arc::clone(&asked.hub), asked.caller.clone(), asked.headers.clone());
    let (repo, view, body) = asked.read(hub.limits.ids_body_bytes_max).await?;
    let planned = hub.plan_pack(&caller, (repo, view), body).await?;
    let len = planned.plan.len;
    let etag = format!("\"{}\"", hex::encode(planned.plan.name));
    if range::is_another(&headers, &etag) {
        let text = format!("the pack is another now ({etag}): begin anew");
        return Err(HubError::Changed(text));
    }
    let mut answer = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::CACHE_CONTROL, "private, no-store")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, PACK);
    if let Some(head) = planned.head {
        answer = answer.header(HEAD, head.to_string());
    }
    let wanted = match range::wanted(&headers, len, &etag) {
        // A part that ends early is nobody's rest: all of it is a right answer to that, too.
        range::Wanted::Part(part) if part.end < len => range::Wanted::All,
        wanted => wanted,
    };
    match range::ranged(answer, wanted, len) {
        Ok((answer, range)) => streamed(answer, hub.send_pack(planned, range.start).await?),
        Err(refusal) => built(refusal, HttpBody::empty()),
    }
}

async fn list_packs(asked: Asked) -> Answer {
    let (hub, caller) = (Arc::clone(&asked.hub), asked.caller.clone());
    let (repo, view, body) = asked.read(hub.limits.ids_body_bytes_max).await?;
    let planned = hub.plan_transfer(&caller, (repo, view), body, Purpose::EachPack).await?;
    let mut answer =
        Response::builder().header(header::CACHE_CONTROL, "private, no-store").header(header::CONTENT_TYPE, MSGPACK);
    if let Some(head) = planned.head {
        answer = answer.header(HEAD, head.to_string());
    }
    streamed(answer, hub.list_packs(planned).await?)
}

async fn stored_pack(asked: ByTicket) -> Answer {
    let ByTicket { hub, name, id, ticket, headers, .. } = asked;
    let OpenedPack { pack, len } = hub.open_pack(&name, &id, &ticket).await?;
    let etag = format!("\"{pack}\"");
    let answer = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::CACHE_CONTROL, "private, no-store")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, PACK);
    match range::ranged(answer, range::wanted(&headers, len, &etag), len) {
        Ok((answer, range)) => streamed(answer, hub.send_stored(pack, range).await?),
        Err(refusal) => built(refusal, HttpBody::empty()),
    }
}

fn streamed(answer: Builder, sent: FetchAnswer) -> Answer {
    let chunks = stream::once(async move { Ok(sent.first) }).chain(received(sent.rest));
    built(answer.header(header::CONTENT_LENGTH, sent.len), HttpBody::from_stream(chunks))
}

async fn announce_pack(asked: Asked) -> Answer {
    let hub = Arc::clone(&asked.hub);
    let life = hub.limits.upload_time_max.as_secs();
    let announce = |hub: Arc<Hub>, caller: Caller, name: RepoName, body: Body| async move {
        hub.writable(&caller, &name.owner, &name.slug, true).await?;
        let job = Arc::clone(&hub);
        hub.blocking(move || job.announce_upload(&name, requests::announcement(body.source())?)).await
    };
    let Place { upload, url, headers } = asked.write(hub.limits.json_body_bytes_max, true, announce).await?;
    let mut out = map(4);
    pair(&mut out, "url", url.expose());
    pair(&mut out, "upload", &upload.to_string());
    encode::text(&mut out, "headers");
    encode::map_header(&mut out, encode::len32(headers.len()));
    headers.iter().for_each(|(name, value)| pair(&mut out, name, value));
    encode::text(&mut out, "expires_in");
    encode::unsigned(&mut out, life);
    Ok(msgpack(out))
}

async fn unpack(asked: Asked) -> Answer {
    let limit = asked.hub.limits.json_body_bytes_max;
    let key = idempotency_key(&asked.headers)?;
    let answer = asked.write(limit, true, |hub, caller, name, body| hub.unpack(caller, name, body, key)).await?;
    Ok(pushed(&answer))
}

async fn upload_pack(asked: ByTicket) -> Answer {
    let ByTicket { hub, name, id, ticket, .. } = &asked;
    let taking = hub.take_pack(name, id, ticket.clone()).await?;
    take_upload(taking, asked).await
}

/// Takes a body that comes by a ticket.
pub(super) async fn take_upload(mut taking: Taking, asked: ByTicket) -> Answer {
    let ByTicket { headers, mut body, .. } = asked;
    intake::check_coding(&headers)?;
    if let Some(len) = body.size_hint().exact() {
        taking.length().check(len, true)?;
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| HubError::BadRequest(format!("the upload broke off: {error}")))?;
        if let Ok(data) = frame.into_data() {
            taking.take(&data).await?;
        }
    }
    taking.finish().await?;
    built(Response::builder().status(StatusCode::NO_CONTENT), HttpBody::empty())
}

/// A pack of ours.
const PACK: HeaderValue = HeaderValue::from_static("application/x-reprise-mpack");
/// The head of the branch that was asked for.
const HEAD: &str = "x-reprise-head";
