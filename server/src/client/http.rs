//! HTTP/1.1 to a hub: one connection per request, bounded in time and bytes.
//!
//! Invariants: a redirect is a refusal; the token goes to the repository's own server only, and over plain HTTP only if that is
//! this machine; no wait is without an end; an answer is never larger than its caller said; what a server says in words is
//! made fit for a terminal before anybody sees it. Only requests that may be repeated are repeated, a bounded number of times.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming, SizeHint},
    header::{self, HeaderMap, HeaderName},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{ClientError, address::Address, counter::Counter, files};
use crate::hub::Secret;

/// A repository on a hub, and the right to it.
#[derive(Clone)]
pub struct Remote {
    /// Where it is.
    pub address: Address,
    /// Where its user says that its bucket is.
    bucket: Option<Address>,
    token: Option<Secret>,
    stop: CancellationToken,
}

/// What a request carries.
#[derive(Clone)]
pub enum Sending {
    /// No body.
    Nothing,
    /// msgpack.
    Msgpack(Bytes),
    /// The bytes of a file; the counter learns of each.
    File(PathBuf, u64, Arc<Counter>),
}

/// One request.
#[derive(Clone)]
pub struct Ask {
    /// Method.
    pub method: Method,
    /// Path and query on the repository's server.
    pub path: String,
    /// Headers beside the usual ones.
    pub headers: Vec<(HeaderName, String)>,
    /// Whether the token goes with it.
    pub with_token: bool,
    /// The body.
    pub sending: Sending,
}

/// An answer with a status 2xx.
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    body: Incoming,
    stop: CancellationToken,
}

impl Remote {
    /// `Refused` if a token would go over the network in clear.
    pub fn new(address: Address, token: Option<Secret>, stop: CancellationToken) -> Result<Remote, ClientError> {
        if token.is_some() && !address.is_loopback() {
            return Err(ClientError::Refused(format!(
                "a token for {} would go over the network in clear: put a TLS proxy on this machine before it",
                address.authority()
            )));
        }
        Ok(Remote { address, bucket: None, token, stop })
    }

    /// The same hub, its bucket being here.
    #[must_use]
    pub fn with_bucket(self, bucket: Option<Address>) -> Remote {
        Remote { bucket, ..self }
    }

    /// Whether addresses in its bucket are of use.
    pub fn reaches_bucket(&self) -> bool {
        self.bucket.is_some()
    }

    /// The bucket, which gets no token, and what to ask it for, if a URL of the hub's leads there.
    pub fn bucket(&self, url: &str) -> Option<(Remote, String)> {
        let address = self.bucket.as_ref()?;
        let path = address.asked_by(url)?;
        Some((Remote { address: address.clone(), bucket: None, token: None, stop: self.stop.clone() }, path))
    }

    /// A request to an endpoint of the repository.
    pub fn ask(&self, method: Method, endpoint: &str, sending: Sending) -> Ask {
        let path = format!("{}/{endpoint}", self.address.path);
        Ask { method, path, headers: Vec::new(), with_token: true, sending }
    }

    /// Asks, and decodes the whole answer of at most `bytes_max` bytes. May be repeated.
    pub async fn value<T: DeserializeOwned>(&self, ask: &Ask, bytes_max: u64) -> Result<T, ClientError> {
        let bytes = self.patiently(async || self.send(ask).await?.bytes(bytes_max).await).await?;
        rmp_serde::from_slice(&bytes).map_err(|error| ClientError::untrusted(format!("{}: {error}", ask.path)))
    }

    /// Tries until it works, the failure is one that stays, or `TRIES` are over.
    pub async fn patiently<T>(&self, attempt: impl AsyncFn() -> Result<T, ClientError>) -> Result<T, ClientError> {
        for fruitless in 1..TRIES {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(after) = error.retry_after() else { return Err(error) };
            tracing::debug!(%error, "asking again");
            self.pause(fruitless, after).await?;
        }
        attempt().await
    }

    /// Waits before the next attempt: longer after each, and at least as long as the server wants, within `PAUSE_MAX`.
    pub async fn pause(&self, fruitless: u32, after: Duration) -> Result<(), ClientError> {
        let pause = PAUSE_FIRST.saturating_mul(1 << fruitless.min(10)) / 2;
        self.or_stopped(tokio::time::sleep(after.max(pause).min(PAUSE_MAX))).await
    }

    /// One attempt. A status outside 2xx is an error.
    pub async fn send(&self, ask: &Ask) -> Result<Answer, ClientError> {
        let request = self.request(ask)?;
        let response = self.or_stopped(self.exchange(request)).await??;
        let (parts, body) = response.into_parts();
        let answer = Answer { status: parts.status, headers: parts.headers, body, stop: self.stop.clone() };
        if answer.status.is_success() { Ok(answer) } else { Err(answer.refusal().await) }
    }

    fn request(&self, ask: &Ask) -> Result<Request<Body>, ClientError> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(&ask.path)
            .header(header::HOST, self.address.authority())
            .header(header::USER_AGENT, concat!("reprise/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, MSGPACK);
        if let (true, Some(token)) = (ask.with_token, &self.token) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        let body = match &ask.sending {
            Sending::Nothing => Body::empty(),
            Sending::Msgpack(bytes) => {
                request = request.header(header::CONTENT_TYPE, MSGPACK);
                Body::from(bytes.clone())
            }
            Sending::File(path, len, counter) => Body::new(FileBody::open(path.clone(), *len, Arc::clone(counter))),
        };
        request
            .body(body)
            .map_err(|_| ClientError::Refused("the token or the address cannot stand in a request".to_owned()))
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Response<Incoming>, ClientError> {
        let failed = |what: &str, why: &dyn std::fmt::Display| {
            ClientError::Connection(format!("{what} {}: {why}", self.address.authority()))
        };
        let connect = TcpStream::connect((self.address.host.as_str(), self.address.port));
        let stream = timeout(CONNECT_TIME_MAX, connect).await.map_err(|_| failed("connecting to", &"no answer"))?;
        let stream = stream.map_err(|error| failed("connecting to", &error))?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed("speaking to", &error))?;
        // Ends by itself once the answer's body was read or dropped.
        tokio::spawn(connection);
        let response = timeout(ANSWER_TIME_MAX, sender.send_request(request)).await;
        response.map_err(|_| failed("asking", &"no answer"))?.map_err(|error| failed("asking", &error))
    }

    async fn or_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, ClientError> {
        tokio::select! {
            done = work => Ok(done),
            () = self.stop.cancelled() => Err(ClientError::Interrupted),
        }
    }
}

impl Answer {
    /// A header as text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The next bytes; `None` at the end. An end before the announced length is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = tokio::select! {
                frame = timeout(SILENCE_MAX, self.body.frame()) => frame,
                () = self.stop.cancelled() => return Err(ClientError::Interrupted),
            };
            let frame = frame.map_err(|_| ClientError::Connection("the answer stopped coming".to_owned()))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| ClientError::Connection(format!("the answer broke off: {error}")))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// All of it, if it has at most `max` bytes.
    pub async fn bytes(mut self, max: u64) -> Result<Bytes, ClientError> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await? {
            if (bytes.len() + piece.len()) as u64 > max {
                return Err(ClientError::untrusted(format!("it has more than {max} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }

    async fn refusal(mut self) -> ClientError {
        let status = self.status;
        let seconds = self.header(&header::RETRY_AFTER).and_then(|text| text.parse().ok());
        let retry_after = seconds.map(Duration::from_secs);
        let mut bytes = Vec::new();
        while let Ok(Some(piece)) = self.next().await {
            bytes.extend_from_slice(&piece);
            if bytes.len() > REFUSAL_BYTES_MAX {
                break;
            }
        }
        let json = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        let detail = json.as_ref().and_then(|json| json["detail"].as_str().map(str::to_owned));
        let detail = detail.unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
        let detail = match status.is_redirection() {
            true => "redirects are not followed".to_owned(),
            false => shown(&detail),
        };
        ClientError::Answered { status, detail, retry_after }
    }
}

/// A server's words without what a terminal would obey, and not too many of them.
pub fn shown(text: &str) -> String {
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_CHARACTERS).collect();
    let shown = shown.trim();
    if shown.is_empty() { "no reason was given".to_owned() } else { shown.to_owned() }
}

/// The bytes of a file as a request body of a known length, read by a thread that is a few pieces ahead.
struct FileBody {
    pieces: mpsc::Receiver<Result<Bytes, ClientError>>,
    left: u64,
    counter: Arc<Counter>,
}

impl FileBody {
    fn open(path: PathBuf, len: u64, counter: Arc<Counter>) -> FileBody {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        tokio::task::spawn_blocking(move || {
            let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
            let each = |piece: &[u8]| sender.blocking_send(Ok(Bytes::copy_from_slice(piece))).map_err(|_| gone());
            if let Err(error) = files::hash(&path, each) {
                // Nobody reads on: the request has failed already.
                _ = sender.blocking_send(Err(error)).is_ok();
            }
        });
        FileBody { pieces, left: len, counter }
    }
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = ClientError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        self.pieces.poll_recv(context).map(|piece| {
            piece.map(|piece| {
                let piece = piece?;
                let len = piece.len() as u64;
                self.left =
                    self.left.checked_sub(len).ok_or_else(|| ClientError::Refused("the file grew".to_owned()))?;
                self.counter.add(len);
                Ok(Frame::data(piece))
            })
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

const MSGPACK: &str = "application/x-msgpack";
/// Attempts of one request.
const TRIES: u32 = 6;
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(20);
/// From the request's first byte to the answer's: the server may have to take and check hundreds of megabytes.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(900);
/// Longest silence in the middle of an answer.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const HEADERS_MAX: usize = 100;
const REFUSAL_BYTES_MAX: usize = 64 << 10;
const SHOWN_CHARACTERS: usize = 2_000;
const PIECES_AHEAD: usize = 4;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_servers_words_cannot_steer_a_terminal() {
        assert_eq!(shown("no\u{1b}[2Jpe\r\n"), "no [2Jpe");
        assert_eq!(shown(" \u{7}"), "no reason was given");
        assert_eq!(shown(&"a".repeat(5_000)).len(), SHOWN_CHARACTERS);
    }

    #[test]
    fn a_token_does_not_leave_the_machine_in_clear() {
        let remote = |url: &str, token: Option<&str>| {
            Remote::new(url.parse().unwrap(), token.map(Secret::new), CancellationToken::new())
        };
        assert!(remote("http://hub.example/a/b", Some("t")).is_err());
        assert!(remote("http://hub.example/a/b", None).is_ok());
        assert!(remote("http://127.0.0.1:1/a/b", Some("t")).is_ok());
    }
}
