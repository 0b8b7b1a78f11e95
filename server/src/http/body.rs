//! A request's body on its way to a handler, and what is left of it afterwards.
//!
//! Invariants: a body that stands still for longer than the limit, or comes too slowly, is an error and is not read on, so that
//! no client holds a place for ever; what a handler leaves unread otherwise goes back to the connection, which drains it
//! before it answers: a client that is still sending when the connection closes reports a broken pipe instead of the answer.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::BoxError;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, timeout};

use crate::http::{heartbeat::Pulse, patience::Patience};

/// The body as handlers see it.
pub struct RequestBody {
    incoming: Option<Incoming>,
    rest: Arc<Rest>,
    pulse: Arc<Pulse>,
    idle_max: Duration,
    patience: Patience,
    given_up: bool,
}

/// Where an unread body goes.
#[derive(Default)]
pub struct Rest {
    unread: Mutex<Option<Incoming>>,
    /// Someone asked for the first byte: a client that waits for `100 Continue` has got it.
    begun: AtomicBool,
}

impl RequestBody {
    /// Wraps `incoming`; `pulse` is told when it ends; it may stand still for `idle_max` and must keep `rate_min` bytes per
    /// second otherwise.
    pub fn new(incoming: Incoming, pulse: Arc<Pulse>, idle_max: Duration, rate_min: u64) -> (RequestBody, Arc<Rest>) {
        let rest = Arc::new(Rest::default());
        if incoming.is_end_stream() {
            pulse.request_read();
        }
        let patience = Patience::new(idle_max, rate_min);
        let body = RequestBody {
            incoming: Some(incoming),
            rest: Arc::clone(&rest),
            pulse,
            idle_max,
            patience,
            given_up: false,
        };
        (body, rest)
    }

    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, BoxError>> {
        let idle_max = self.idle_max;
        self.patience.poll_over(context).map(|()| {
            self.given_up = true;
            let text =
                format!("the request body kept the server waiting for {} s, which is the limit", idle_max.as_secs());
            Err(text.into())
        })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(incoming) = this.incoming.as_mut() else { return Poll::Ready(None) };
        this.rest.begun.store(true, Ordering::Relaxed);
        let frame = Pin::new(incoming).poll_frame(cx);
        match frame {
            Poll::Pending => this.poll_idle(cx).map(Some),
            Poll::Ready(frame) => {
                let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref().map(Bytes::len));
                this.patience.moved(bytes.unwrap_or(0));
                if frame.is_none() || this.incoming.as_ref().is_some_and(Body::is_end_stream) {
                    this.pulse.request_read();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // Whoever was given up for crawling is not waited for again: the answer goes out at once.
        if let Some(incoming) = self.incoming.take().filter(|body| !body.is_end_stream() && !self.given_up) {
            *self.rest.unread.lock().unwrap_or_else(PoisonError::into_inner) = Some(incoming);
        }
    }
}

impl Rest {
    /// Reads and forgets what the handler left, up to `bytes_max` bytes and `DRAIN_TIME_MAX`. Does nothing for a client
    /// that still waits for `100 Continue`: it has sent nothing.
    pub async fn drain(&self, waits_for_continue: bool, bytes_max: u64, idle_max: Duration) {
        let unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut unread) = unread.filter(|_| !waits_for_continue || self.begun.load(Ordering::Relaxed)) else {
            return;
        };
        let until = Instant::now() + DRAIN_TIME_MAX;
        let mut drained: u64 = 0;
        while let Ok(Some(Ok(frame))) = timeout(idle_max, unread.frame()).await {
            drained += frame.data_ref().map_or(0, |data| data.len() as u64);
            if drained > bytes_max || Instant::now() > until {
                return;
            }
        }
    }
}

/// The client gives a body 60 s to be accepted; it is not worth reading on after that.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(60);
