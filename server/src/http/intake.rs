//! A request's body, taken in whole before work begins: small in memory, large in the spool.
//!
//! Invariants: bytes are taken from the socket as fast as they come (the client gives its whole body 60 s), nothing waits
//! for a disk to sync; a body over its limit is refused by name and value, and what is left of it is drained by the
//! connection; a compressed one is refused before a byte of it is read, so that nothing small becomes large; JSON becomes
//! msgpack here, so that there is one way in.

use std::{io::Write, sync::Arc};

use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;

use crate::{
    hub::{
        Hub, HubError,
        body::{Body, spool_file},
    },
    wire::transcode,
};

/// Takes a body of at most `limit` bytes in.
pub async fn take(hub: &Arc<Hub>, headers: &HeaderMap, body: axum::body::Body, limit: u64) -> Result<Body, HubError> {
    check_coding(headers)?;
    let json = is_json(headers);
    let limit = if json { limit.min(hub.limits.json_body_bytes_max) } else { limit };
    if body.size_hint().lower() > limit {
        return Err(too_large(limit));
    }
    let body = read(hub, body, limit).await?;
    if !json || body.is_empty() {
        return Ok(body);
    }
    hub.blocking(move || {
        let text = whole(&body)?;
        let mut out = Vec::new();
        transcode::append(&text, &mut out)?;
        Ok(Body::Memory(out.into()))
    })
    .await
}

/// Bodies come as they are: no `Content-Encoding` is undone here.
pub fn check_coding(headers: &HeaderMap) -> Result<(), HubError> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(coding) = codings.find(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) else {
        return Ok(());
    };
    let shown: String =
        String::from_utf8_lossy(coding.as_bytes()).chars().take(80).flat_map(char::escape_debug).collect();
    Err(HubError::Coded(format!("Content-Encoding: {shown} is not undone here: send the body as it is")))
}

async fn read(hub: &Arc<Hub>, mut body: axum::body::Body, limit: u64) -> Result<Body, HubError> {
    let mut buffer = BytesMut::new();
    let mut spool: Option<std::fs::File> = None;
    let mut len = 0u64;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| HubError::BadRequest(format!("the request body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        len += data.len() as u64;
        if len > limit {
            return Err(too_large(limit));
        }
        buffer.extend_from_slice(&data);
        let full = match &spool {
            None => buffer.len() as u64 > hub.limits.spool_threshold_bytes,
            Some(_) => buffer.len() >= SPOOL_WRITE_BYTES,
        };
        if full {
            spool = Some(write_on(hub, spool, buffer.split().freeze()).await?);
        }
    }
    match spool {
        None => Ok(Body::Memory(buffer.freeze())),
        Some(file) => {
            let file = write_on(hub, Some(file), buffer.freeze()).await?;
            Ok(Body::Spooled { file: Arc::new(file), len })
        }
    }
}

/// Appends to the spool file, which is created when there is none yet.
async fn write_on(hub: &Arc<Hub>, spool: Option<std::fs::File>, bytes: Bytes) -> Result<std::fs::File, HubError> {
    let hub = Arc::clone(hub);
    let written = tokio::task::spawn_blocking(move || {
        let mut file = match spool {
            Some(file) => file,
            None => spool_file(&hub.spool_dir)?,
        };
        file.write_all(&bytes)?;
        Ok::<_, std::io::Error>(file)
    });
    let written = written.await.map_err(|error| HubError::died(&error))?;
    written.map_err(|error| HubError::Unavailable(format!("the request could not be spooled: {error}")))
}

fn whole(body: &Body) -> Result<Vec<u8>, HubError> {
    let mut text = Vec::new();
    // Bounded by the limit for JSON bodies.
    std::io::Read::read_to_end(&mut body.source(), &mut text)
        .map_err(|error| HubError::Unavailable(format!("the request's spool failed: {error}")))?;
    Ok(text)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn too_large(limit: u64) -> HubError {
    HubError::TooLarge(format!("the request body is larger than the limit of {limit} bytes"))
}

/// Bytes of one write to the spool.
const SPOOL_WRITE_BYTES: usize = 512 << 10;
