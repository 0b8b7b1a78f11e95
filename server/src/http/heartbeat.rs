//! `100 Continue` while a request is worked on for long, so that a client with a 60 s patience goes on waiting.
//!
//! hyper cannot send interim answers of its own accord, so the connection's I/O does it. Correctness: hyper reaches
//! [`AsyncWrite::poll_flush`] only when it has nothing of its own left to write, and [`Pulse`] is beating only between
//! "the request is fully read" and "the service has an answer"; both change in the connection's own task or before it,
//! so an interim answer never stands inside another answer. Only HTTP/1.1 requests ask for it.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::http::patience::Patience;

/// What the connection is doing, shared by its service and its I/O.
#[derive(Debug, Default)]
pub struct Pulse(AtomicU8);

impl Pulse {
    /// A request that may take long has begun.
    pub fn begin(&self) {
        self.0.store(READING, Ordering::Release);
    }

    /// Its body is fully read.
    pub fn request_read(&self) {
        // Only from READING: a body that ends after the answer (drained) must not start the beat again. An error means
        // that it was not reading, which is the point.
        _ = self.0.compare_exchange(READING, WORKING, Ordering::AcqRel, Ordering::Acquire).is_ok();
    }

    /// Its answer is there: no interim answer from now on.
    pub fn answered(&self) {
        self.0.store(IDLE, Ordering::Release);
    }

    fn phase(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }
}

/// A stream that writes interim answers while its [`Pulse`] beats.
pub struct HeartbeatIo<Io> {
    io: Io,
    pulse: Arc<Pulse>,
    period: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// What is still to be written of an interim answer.
    interim: &'static [u8],
    /// With a side that takes its answer slowly: an answer holds a place and memory until it is taken.
    patience: Patience,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> HeartbeatIo<Io> {
    /// Wraps a stream; one interim answer per `period`; a write that outlasts `patience` is an error.
    pub fn new(io: Io, pulse: Arc<Pulse>, period: Duration, patience: Patience) -> HeartbeatIo<Io> {
        HeartbeatIo { io, pulse, period, timer: None, interim: &[], patience }
    }

    /// `wrote`, or an error once patience is over.
    fn poll_patience(&mut self, context: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = wrote {
            self.patience.moved(*result.as_ref().unwrap_or(&0));
            return Poll::Ready(result);
        }
        ready!(self.patience.poll_over(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_interim(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let wrote = Pin::new(&mut self.io).poll_write(context, self.interim);
            let count = ready!(self.poll_patience(context, wrote))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim = &self.interim[count..];
        }
        Poll::Ready(Ok(()))
    }

    fn poll_beat(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(context))?;
        if self.pulse.phase() == IDLE {
            self.timer = None;
            return Poll::Ready(Ok(()));
        }
        loop {
            let period = self.period;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(period)));
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Ready(Ok(()));
            }
            self.timer = None;
            if self.pulse.phase() == WORKING {
                self.interim = INTERIM;
                ready!(self.poll_interim(context))?;
            }
        }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for HeartbeatIo<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buffer)
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for HeartbeatIo<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        let wrote = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.poll_patience(cx, wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        let wrote = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.poll_patience(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_beat(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

const IDLE: u8 = 0;
const READING: u8 = 1;
const WORKING: u8 = 2;
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
