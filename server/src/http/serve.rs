//! Connections: accept, serve, close.
//!
//! Invariants: an accepted request gets its answer, also during a shutdown (within `shutdown_time_max`); a request body
//! is drained before an early answer, and a connection lingers before it closes, so that the answer is not lost in a
//! reset; open connections are bounded. TCP_NODELAY: with one connection per request a delayed ACK costs 40 ms each.

use std::{convert::Infallible, future::Future, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Method, Request, Response, Version, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::{
    http::{
        self,
        body::RequestBody,
        heartbeat::{HeartbeatIo, Pulse},
        patience::Patience,
    },
    hub::{Hub, Limits},
};

/// Serves `hub` on `listener` until `shutdown` resolves, then stops accepting and waits for the accepted requests, at
/// most `limits.shutdown_time_max`. The log and the projections are still open afterwards: see [`Hub::close`].
pub async fn run(listener: TcpListener, hub: Arc<Hub>, shutdown: impl Future<Output = ()>) {
    let limits = Arc::new(hub.limits.clone());
    let router = http::router(Arc::clone(&hub));
    let (closing, closing_seen) = watch::channel(false);
    let room = Arc::new(Semaphore::new(limits.connections_max));
    let connections = TaskTracker::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let Some((stream, peer, permit)) = accepted else { continue };
        let connection = Connection { router: router.clone(), limits: Arc::clone(&limits), peer };
        let closing = closing_seen.clone();
        connections.spawn(async move {
            connection.serve(stream, closing).await;
            drop(permit);
        });
    }
    drop(listener);
    hub.begin_closing();
    closing.send_replace(true);
    connections.close();
    hub.tasks.close();
    // The work of a client that went away was accepted all the same.
    let ended = async {
        connections.wait().await;
        hub.tasks.wait().await;
    };
    if timeout(limits.shutdown_time_max, ended).await.is_err() {
        let (connections, tasks) = (connections.len(), hub.tasks.len());
        tracing::warn!(connections, tasks, "requests were still running when the shutdown's time was up");
    }
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

/// The next connection once there is room for it; `None` after an error that passes.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Option<Accepted> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, permit)),
        Err(error) => {
            tracing::warn!(%error, "accepting a connection failed");
            // Out of file descriptors: let some connections end (F5).
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// What one connection needs.
struct Connection {
    router: Router,
    limits: Arc<Limits>,
    peer: SocketAddr,
}

impl Connection {
    async fn serve(self, stream: TcpStream, closing: watch::Receiver<bool>) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        self.serve_io(stream, closing).await;
    }

    async fn serve_io<Io>(self, stream: Io, mut closing: watch::Receiver<bool>)
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let pulse = Arc::new(Pulse::default());
        let patience = Patience::new(self.limits.body_idle_max, self.limits.transfer_rate_min);
        let io = HeartbeatIo::new(stream, Arc::clone(&pulse), HEARTBEAT, patience);
        let builder = builder(&self.limits);
        let service = service_fn(|request| self.answer(request, &pulse));
        let mut connection = builder.serve_connection(TokioIo::new(io), service);
        let mut asked = false;
        let ended = loop {
            tokio::select! {
                ended = &mut connection => break ended,
                changed = closing.wait_for(|closing| *closing), if !asked => {
                    asked = true;
                    if changed.is_ok() {
                        std::pin::Pin::new(&mut connection).graceful_shutdown();
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, peer = %self.peer, "connection ended early");
        }
        linger(connection.into_parts().io.into_inner()).await;
    }

    /// One request: through the routes, then drain what the handler left unread, then answer.
    async fn answer(&self, request: Request<Incoming>, pulse: &Arc<Pulse>) -> Result<Response<Body>, Infallible> {
        if takes_long(&request) {
            pulse.begin();
        }
        let waits_for_continue = request.headers().contains_key(header::EXPECT);
        let (parts, incoming) = request.into_parts();
        let Limits { body_idle_max, transfer_rate_min, .. } = *self.limits;
        let (body, rest) = RequestBody::new(incoming, Arc::clone(pulse), body_idle_max, transfer_rate_min);
        let mut request = Request::from_parts(parts, Body::new(body));
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let response = match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        rest.drain(waits_for_continue, self.limits.objects_body_bytes_max, self.limits.body_idle_max).await;
        pulse.answered();
        Ok(response)
    }
}

fn builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time_max)
        .max_buf_size(READ_BUFFER_BYTES)
        .max_header_size(limits.header_bytes_max)
        .keep_alive(true)
        // A client that sent its request and shut down its side still gets the answer.
        .half_close(true);
    builder
}

/// Whether a request is one that the stock client waits for at most 60 s.
fn takes_long(request: &Request<Incoming>) -> bool {
    request.method() == Method::POST
        && request.version() == Version::HTTP_11
        && !request.uri().path().starts_with("/api/")
}

/// Reads and forgets what still comes, for a moment: closing with unread bytes would reset the connection and take the
/// answer with it.
async fn linger(mut io: impl AsyncRead + Unpin) {
    let rest = async {
        let mut buffer = [0u8; 4096];
        let mut bytes = 0usize;
        while bytes < LINGER_BYTES_MAX {
            match io.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => bytes += count,
            }
        }
    };
    // Passing the limit ends the connection all the same.
    _ = timeout(LINGER, rest).await.is_ok();
}

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// An interim answer per this long.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long a closing connection waits for its client to close too.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1 << 20;
/// Read buffer of a connection: large bodies arrive in pieces of up to this.
const READ_BUFFER_BYTES: usize = 256 << 10;

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
