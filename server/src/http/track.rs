//! Around every request: an id, a span, a place, metrics.
//!
//! Metric labels are route patterns and known methods, never what a client sent: their number is bounded.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    body::Body,
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
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
    http::{
        extract::is_operator,
        gate::HeldPlace,
        limits::{Admission, Entering},
    },
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

/// Bytes that a body is said to have as it is worked on; `None` if only reading it will tell.
fn stated(headers: &HeaderMap) -> Option<u64> {
    let plain = !headers.contains_key(header::CONTENT_ENCODING);
    headers.get(header::CONTENT_LENGTH).filter(|_| plain)?.to_str().ok()?.parse().ok()
}

/// The middleware.
pub async fn track(State(tracked): State<Tracked>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let id = request_id(&request, &tracked.hub);
    let path: String = request.uri().path().chars().take(PATH_CHARS_MAX).collect();
    let span = tracing::info_span!("request", id = %id, method = %request.method(), path = %path);
    let started = Started::new(route, method_label(request.method()));
    let received = Arc::clone(&started.received);
    let mut request = request.map(|body| Body::new(Counted { body, bytes: received, _answered: None }));
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    tracked.hub.active();
    let allowed =
        rate(&tracked, peer, request.headers()).and_then(|()| has_room(&tracked.hub, &started.route, &request));
    let admitted = match allowed {
        Ok(()) => {
            let (method, path, body) = (request.method(), request.uri().path(), stated(request.headers()));
            let entering = Entering { method, route: &started.route, path, body };
            tracked.admission.enter(entering).await.map(HeldPlace::from)
        }
        Err(busy) => Err(busy),
    };
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
    let sent = Arc::<AtomicU64>::default();
    let answered = Answered { status, started, sent: Arc::clone(&sent), _place: place };
    response.map(|body| Body::new(Counted { body, bytes: sent, _answered: Some(answered) }))
}

/// Counts a request of its client. Commands come from this machine, as everybody does behind a local proxy: they must get
/// through when others ask too much, then above all.
fn rate(tracked: &Tracked, peer: Option<SocketAddr>, headers: &HeaderMap) -> Result<(), HubError> {
    let rated = peer.map_or(Ok(()), |peer| tracked.admission.rate(peer.ip()));
    rated.or_else(|busy| if is_operator(headers, &tracked.hub) { Ok(()) } else { Err(busy) })
}

/// Refuses what would append while the bucket is too far behind. Commands of the operator pass, and so does a revocation.
fn has_room(hub: &Hub, route: &str, request: &Request) -> Result<(), HubError> {
    let appends = !request.method().is_safe() && !NOT_APPENDING.contains(&route);
    match hub.has_room_in_backlog() {
        Err(full) if appends && !is_operator(request.headers(), hub) => Err(full),
        _ => Ok(()),
    }
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

/// A request that is being worked on; its metrics are written when its answer is gone.
struct Started {
    route: String,
    method: &'static str,
    /// Bytes of its body so far.
    received: Arc<AtomicU64>,
    at: Instant,
}

impl Started {
    fn new(route: String, method: &'static str) -> Started {
        gauge!("reprise_http_requests_in_flight").increment(1.0);
        Started { route, method, received: Arc::default(), at: Instant::now() }
    }
}

impl Drop for Started {
    // Also when the client went away before there was an answer.
    fn drop(&mut self) {
        gauge!("reprise_http_requests_in_flight").decrement(1.0);
    }
}

/// A body whose bytes are counted as they pass, whatever was announced.
struct Counted {
    body: Body,
    bytes: Arc<AtomicU64>,
    /// Of an answer: dropped with it.
    _answered: Option<Answered>,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            this.bytes.fetch_add(frame.data_ref().map_or(0, |data| data.len() as u64), Ordering::Relaxed);
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

/// What ends with an answer's last byte: the request's place, and its metrics are written.
struct Answered {
    status: StatusCode,
    started: Started,
    sent: Arc<AtomicU64>,
    _place: HeldPlace,
}

impl Drop for Answered {
    fn drop(&mut self) {
        let Started { route, method, received, at } = &self.started;
        let labels = [("route", route.clone()), ("method", (*method).to_owned())];
        let status = self.status.as_u16().to_string();
        counter!("reprise_http_requests_total", "route" => route.clone(), "method" => *method, "status" => status)
            .increment(1);
        counter!("reprise_http_request_bytes_total", &labels).increment(received.load(Ordering::Relaxed));
        counter!("reprise_http_response_bytes_total", &labels).increment(self.sent.load(Ordering::Relaxed));
        histogram!("reprise_http_request_seconds", &labels).record(at.elapsed().as_secs_f64());
        telemetry::keep_metrics_small();
    }
}

/// Requests that carry a body and change nothing; a right that is taken away never waits.
const NOT_APPENDING: [&str; 8] = [
    "other",
    "/{owner}/{slug}/fetch",
    "/{owner}/{slug}/fetch/mpack",
    "/{owner}/{slug}/fetch/presign",
    "/{owner}/{slug}/filter-objects",
    "/{owner}/{slug}/presign",
    "/{owner}/{slug}/negotiate",
    "/api/v1/tokens/{token}",
];
/// Characters of a path in a log line.
const PATH_CHARS_MAX: usize = 300;
