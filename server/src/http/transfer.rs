//! Direct transfer (API.md): packs out, of any size and from any byte on.
//!
//! Invariants: as in [`super::mwp`]; an answer has its length and its strong name before its first byte; bytes of a plan that is
//! another now are never sent as the rest of the old one.

use std::sync::Arc;

use axum::{
    Router,
    body::Body as HttpBody,
    http::{HeaderValue, StatusCode, header},
    response::Response,
    routing::post,
};
use futures_util::{StreamExt, stream};

use crate::{
    http::{
        mwp::{Answer, Asked, built, received},
        range,
    },
    hub::{Hub, HubError},
};

/// All endpoints of direct transfer.
pub fn routes() -> Router<Arc<Hub>> {
    Router::new().route("/{owner}/{slug}/fetch/mpack", post(fetch_pack))
}

async fn fetch_pack(asked: Asked) -> Answer {
    let (hub, headers) = (Arc::clone(&asked.hub), asked.headers.clone());
    let (repo, view, body) = asked.read(hub.limits.ids_body_bytes_max).await?;
    // Until it is planned: then the list is gone.
    let room = hub.room_for_ids(&body).await?;
    let planned = hub.plan_pack(repo, view, body).await?;
    drop(room);
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
    let from = match range::wanted(&headers, len, &etag) {
        range::Wanted::Part(part) if part.end == len => {
            let range = format!("bytes {}-{}/{len}", part.start, len - 1);
            answer = answer.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
            part.start
        }
        range::Wanted::Nothing => {
            let answer = answer.status(StatusCode::RANGE_NOT_SATISFIABLE);
            return built(answer.header(header::CONTENT_RANGE, format!("bytes */{len}")), HttpBody::empty());
        }
        // A part that ends early is nobody's rest: all of it is a right answer to that, too.
        range::Wanted::All | range::Wanted::Part(_) => 0,
    };
    let sent = hub.send_pack(planned, from).await?;
    let chunks = stream::once(async move { Ok(sent.first) }).chain(received(sent.rest));
    built(answer.header(header::CONTENT_LENGTH, sent.len), HttpBody::from_stream(chunks))
}

/// A pack of ours.
const PACK: HeaderValue = HeaderValue::from_static("application/x-reprise-mpack");
/// The head of the branch that was asked for.
const HEAD: &str = "x-reprise-head";
