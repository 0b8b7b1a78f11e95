//! The admin API's client: over HTTP to the server that holds the directory, else the same routes in this process.
//!
//! The engine's lock decides which: it is tried first, and only when another process has it is `server.json` believed.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http_body_util::BodyExt;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use reprise_engine::ErrorKind;
use serde_json::Value;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tower::ServiceExt;

use crate::{
    cli::{failure::Failure, output::Output, server_file},
    http,
    hub::{Hub, Limits, Secret, lifecycle::Directory},
};

/// What a command needs of the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// It must be there: the command only asks.
    Existing,
    /// It is created if it is not there.
    MayCreate,
}

/// A way to the admin API.
pub enum Client {
    /// A server has the directory.
    Remote {
        /// Where it listens.
        address: SocketAddr,
        /// The operator's secret.
        secret: Secret,
    },
    /// This process has it.
    Local {
        /// The routes.
        router: Router,
        /// What they serve.
        hub: Arc<Hub>,
    },
}

impl Client {
    /// Whether this process has the directory.
    pub fn is_local(&self) -> bool {
        matches!(self, Client::Local { .. })
    }

    /// Finds the way to `data`.
    pub async fn open(data: &Path, need: Need, output: &Output) -> Result<Client, Failure> {
        if need == Need::Existing && !Hub::exists(data) {
            let path = data.display();
            return Err(Failure::CouldNot(format!("there is no data directory at {path}; `reprise serve` makes one")));
        }
        let (mut held, mut silent) = (String::new(), 0);
        for _ in 0..HELD_TRIES {
            let directory = Directory {
                data: data.to_owned(),
                limits: Limits::default(),
                create_on_push: None,
                holder: format!("reprise command, process {}", std::process::id()),
                bucket: None,
            };
            let opened = tokio::task::spawn_blocking(move || Hub::open(directory)).await;
            match opened.map_err(|error| Failure::CouldNot(format!("opening the directory: {error}")))? {
                Ok(hub) => return Ok(Client::local(Arc::new(hub), output).await),
                Err(error) if error.kind() == ErrorKind::Conflict => held = error.to_string(),
                Err(error) => return Err(error.into()),
            }
            match remote(data).await {
                Found::Server(client) => return Ok(client),
                // It is there and stands still; waiting for it has no end.
                Found::Silent if silent == SILENT_TRIES => break,
                Found::Silent => silent += 1,
                // A server that is just starting or stopping, or another command.
                Found::Nobody => sleep(HELD_PAUSE).await,
            }
        }
        Err(Failure::CouldNot(format!("the directory cannot be opened here, and no server answers for it: {held}")))
    }

    async fn local(hub: Arc<Hub>, output: &Output) -> Client {
        let end = hub.engine.durable().position;
        let mut progress = output.progress("catching up");
        while !hub.folded(end, Duration::from_millis(200)).await {
            let status = hub.projections.status();
            // Stopped or parked: the routes say so.
            if status.state == "stopped" {
                break;
            }
            match (status.rebuild_done, status.rebuild_total) {
                (Some(done), Some(total)) => progress.at(done, total),
                _ => progress.at(status.position, status.durable),
            }
        }
        Client::Local { router: http::router(Arc::clone(&hub)), hub }
    }

    /// One request, one JSON value.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let response = self.send(method, path, body).await?;
        let bytes = response.into_body().collect().await.map_err(|error| broken(&error))?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| Failure::CouldNot(format!("the answer is not JSON: {error}")))
    }

    /// One request, one JSON value per line, each given to `each` as it comes. An `{"error": …}` line is a failure.
    pub async fn stream(
        &self,
        method: Method,
        path: &str,
        each: &mut (dyn FnMut(Value) -> Result<(), Failure> + Send),
    ) -> Result<(), Failure> {
        let mut body = self.send(method, path, None).await?.into_body();
        let mut held: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
            held.extend_from_slice(&data);
            while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = held.drain(..=end).collect();
                let value: Value = serde_json::from_slice(&line)
                    .map_err(|error| Failure::CouldNot(format!("a line of the answer is not JSON: {error}")))?;
                if let Some(error) = value.get("error") {
                    return Err(Failure::CouldNot(error.as_str().unwrap_or("the stream broke off").to_owned()));
                }
                each(value)?;
            }
        }
        Ok(())
    }

    /// Gives the directory back, if this process has it.
    pub async fn close(self) -> Result<(), Failure> {
        let Client::Local { router, hub } = self else { return Ok(()) };
        drop(router);
        let closed = tokio::task::spawn_blocking(move || hub.close()).await;
        Ok(closed.map_err(|error| Failure::CouldNot(format!("closing: {error}")))??)
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Body>, Failure> {
        let asks = method == Method::GET;
        let secret = match self {
            Client::Remote { secret, .. } => secret,
            Client::Local { hub, .. } => &hub.operator,
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(header::HOST, "reprise")
            .header(header::AUTHORIZATION, format!("Bearer {}", secret.expose()))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Body::empty, |value| Body::from(value.to_string())))
            .map_err(|error| Failure::CouldNot(format!("the request: {error}")))?;
        let response = match self {
            Client::Remote { address, .. } => over_http(*address, request).await?,
            Client::Local { router, .. } => match router.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        };
        if response.status().is_success() { Ok(response) } else { Err(refused(response, asks).await) }
    }
}

/// What `server.json` leads to.
enum Found {
    /// The server that has the directory.
    Server(Client),
    /// Nobody, or somebody who does not know the secret: a server that was killed leaves its file behind, and the next one
    /// listens at the same address before it has written its own.
    Nobody,
    /// Somebody who takes a connection and gives no answer.
    Silent,
}

async fn remote(data: &Path) -> Found {
    let Some((address, secret)) = server_file::read(data) else { return Found::Nobody };
    let client = Client::Remote { address, secret };
    match timeout(ANSWER_TIME_MAX, client.send(Method::GET, "/projections", None)).await {
        Ok(Ok(_)) => Found::Server(client),
        Ok(Err(_)) => Found::Nobody,
        Err(_) => Found::Silent,
    }
}

async fn over_http(address: SocketAddr, request: Request<Body>) -> Result<Response<Body>, Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure::CouldNot(format!("{what} {address}: {error}"));
    let stream = TcpStream::connect(address).await.map_err(|error| failed("connecting to", &error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed("speaking to", &error))?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| failed("asking", &error))?;
    Ok(response.map(Body::new))
}

/// `asks`: the command asked about something, and did not want it changed.
async fn refused(response: Response<Body>, asks: bool) -> Failure {
    let status = response.status();
    let bytes = response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let detail = serde_json::from_slice::<Value>(&bytes).ok();
    let detail = detail.as_ref().and_then(|value| value["detail"].as_str()).unwrap_or("no reason was given");
    match status {
        StatusCode::NOT_FOUND if asks => Failure::NotWell(detail.to_owned()),
        _ => Failure::CouldNot(format!("{detail} ({})", status.as_u16())),
    }
}

fn broken(error: &dyn std::fmt::Display) -> Failure {
    Failure::CouldNot(format!("the answer broke off: {error}"))
}

/// A path segment or query value from user text.
pub fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// How long a server may take for the first small answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// How often it may take longer before it counts as standing still.
const SILENT_TRIES: usize = 1;
const HELD_TRIES: usize = 50;
const HELD_PAUSE: Duration = Duration::from_millis(100);
