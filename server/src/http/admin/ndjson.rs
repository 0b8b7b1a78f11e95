//! Answers that are one JSON value per line, made by a blocking job while they are sent.
//!
//! Bounded: the job waits when the client reads slowly, and ends when it is gone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::hub::HubError;

/// Where a job puts its lines.
pub struct Lines(mpsc::Sender<Bytes>);

/// The client is gone, or the line could not be written: stop.
pub struct Gone;

impl Lines {
    /// Sends one line; waits while the client is slow.
    pub fn send(&self, value: &Value) -> Result<(), Gone> {
        let mut line = value.to_string();
        line.push('\n');
        self.0.blocking_send(Bytes::from(line)).map_err(|_| Gone)
    }

    /// Sends one line if there is room and somebody listens; else drops it.
    pub fn offer(&self, value: &Value) {
        _ = self.0.try_send(Bytes::from(format!("{value}\n"))).is_ok();
    }

    /// Whether nobody listens any more.
    pub fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

/// An answer whose lines `job` makes on a thread of its own. When `job` fails, the last line is `{"error": …}`.
pub fn stream<F>(job: F) -> Response
where
    F: FnOnce(&Lines) -> Result<(), HubError> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(LINES_WAITING_MAX);
    tokio::task::spawn_blocking(move || {
        let lines = Lines(sender);
        // A line that is missing must not look like the end.
        let ended = catch_unwind(AssertUnwindSafe(|| job(&lines)));
        let failed =
            ended.unwrap_or_else(|_| Err(HubError::Internal("the server failed while it answered".to_owned())));
        if let Err(error) = failed {
            tracing::warn!(%error, "a stream broke off");
            _ = lines.send(&json!({"error": error.to_string()})).is_ok();
        }
    });
    let lines = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|line| (Ok::<_, std::convert::Infallible>(line), receiver))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

const LINES_WAITING_MAX: usize = 256;
