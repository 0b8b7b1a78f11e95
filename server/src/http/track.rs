//! Around every request: an id, a span, a place, metrics.
//!
//! Metric labels are route patterns and known methods, never what a client sent: their number is bounded.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use metrics::{counter, gauge, histogram};
use reprise_engine::clock::random16;
use tokio::time::Instant;
use tracing::Instrument;

use crate::{
    http::limits::{Admission, HeldPlace},
    hub::{Hub, HubError},
    telemetry,
};

/// What the middleware needs.
#[derive(Clone)]
pub struct Tracked {
    /// For randomness.
    pub hub: Arc<Hub>,
    /// Places.
    pub admission: Arc<Admission>,
}

/// The middleware.
pub async fn track(State(tracked): State<Tracked>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let id = request_id(&request, &tracked.hub);
    let path: String = request.uri().path().chars().take(PATH_CHARS_MAX).collect();
    let span = tracing::info_span!("request", id = %id, method = %request.method(), path = %path);
    let started = Started::new(route, method_label(request.method()), body_bytes(&request));
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let admitted = admit(&tracked, peer, &started.route).await;
    let (mut place, mut response) = match admitted {
        Ok(place) => {
            request.extensions_mut().insert(place.clone());
            (place, next.run(request).instrument(span.clone()).await)
        }
        Err(error) => (HeldPlace::default(), span.in_scope(|| error.into_response())),
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        // A refusal is small and complete: whoever was refused holds no place while his body is drained.
        place = HeldPlace::default();
        span.in_scope(|| tracing::info!(status = status.as_u16(), route = started.route, "refused"));
    }
    response.map(|body| Body::new(Counted { body, bytes: 0, status, started, _place: place }))
}

async fn admit(tracked: &Tracked, peer: Option<SocketAddr>, route: &str) -> Result<HeldPlace, HubError> {
    if let Some(peer) = peer {
        tracked.admission.rate(peer.ip())?;
    }
    Ok(tracked.admission.enter(route).await?.into())
}

/// The method for a metric label: any word is a method to HTTP.
fn method_label(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

/// The client's request id when it is plain, else a random one.
fn request_id(request: &Request, hub: &Hub) -> String {
    let plain = |text: &&str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        !text.is_empty() && text.len() <= 64 && text.bytes().all(allowed)
    };
    let sent = request.headers().get("x-request-id").and_then(|value| value.to_str().ok()).filter(plain);
    match sent {
        Some(id) => id.to_owned(),
        None => random16(hub.engine.random().as_ref()).map_or_else(|_| "-".to_owned(), hex::encode),
    }
}

fn body_bytes(request: &Request) -> u64 {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A request that is being worked on; its metrics are written when its answer is gone.
struct Started {
    route: String,
    method: &'static str,
    request_bytes: u64,
    at: Instant,
}

impl Started {
    fn new(route: String, method: &'static str, request_bytes: u64) -> Started {
        gauge!("reprise_http_requests_in_flight").increment(1.0);
        Started { route, method, request_bytes, at: Instant::now() }
    }
}

impl Drop for Started {
    // Also when the client went away before there was an answer.
    fn drop(&mut self) {
        gauge!("reprise_http_requests_in_flight").decrement(1.0);
    }
}

/// An answer's body: counts, and holds the request's place until the last byte.
struct Counted {
    body: Body,
    bytes: u64,
    status: StatusCode,
    started: Started,
    _place: HeldPlace,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            this.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Started { route, method, request_bytes, at } = &self.started;
        let labels = [("route", route.clone()), ("method", (*method).to_owned())];
        let status = self.status.as_u16().to_string();
        counter!("reprise_http_requests_total", "route" => route.clone(), "method" => *method, "status" => status)
            .increment(1);
        counter!("reprise_http_request_bytes_total", &labels).increment(*request_bytes);
        counter!("reprise_http_response_bytes_total", &labels).increment(self.bytes);
        histogram!("reprise_http_request_seconds", &labels).record(at.elapsed().as_secs_f64());
        telemetry::keep_metrics_small();
    }
}

/// Characters of a path in a log line.
const PATH_CHARS_MAX: usize = 300;
