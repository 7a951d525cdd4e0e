//! The two ends of a request's time: the first byte that was read, and the last one written.
//!
//! **HTTP/1.1.** A request begins with the first read that returned bytes since the body of the
//! one before was whole. Where requests are pipelined it may have come with the one before: then
//! it begins with the newest read, and what it waits for the answers ahead of it is a part of
//! its receiving. An answer is sent when `hyper`, which flushes only what it has written whole,
//! flushes after the request was done; or at the latest when the next answer follows it into a
//! full socket.
//!
//! **HTTP/2.** Streams share a connection, and which bytes were whose only `h2` knows. A request
//! begins when its head is whole and the service is called; its answer is sent when `h2` takes
//! the last piece of its body. What `h2` then keeps for its flow control, or the socket, isn't
//! counted.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::{io, mem};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Version;
use hyper::body::{Body, Frame, SizeHint};
use node::stages::{ReactorRecorder, ReactorTicks, Ticks};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection remembers of its bytes.
pub(crate) struct Wire {
    recorder: Rc<ReactorRecorder>,
    /// Whether a read returned bytes since the last request's body was whole, and the first that
    /// did.
    has_read: Cell<bool>,
    first_read: Cell<Ticks>,
    newest_read: Cell<Ticks>,
    /// Whether a request was done whose answer isn't written yet, and that request.
    is_answering: Cell<bool>,
    answering: Cell<ReactorTicks>,
}

impl Wire {
    pub(crate) fn new(recorder: Rc<ReactorRecorder>) -> Rc<Wire> {
        Rc::new(Wire {
            recorder,
            has_read: Cell::default(),
            first_read: Cell::default(),
            newest_read: Cell::default(),
            is_answering: Cell::default(),
            answering: Cell::default(),
        })
    }

    /// When the request that is handed to the service began.
    #[inline]
    pub(crate) fn begin(&self, version: Version) -> Ticks {
        if version == Version::HTTP_2 {
            return self.recorder.now();
        }
        match self.has_read.replace(false) {
            true => self.first_read.get(),
            false => self.newest_read.get(),
        }
    }

    /// The body of the request is whole: when.
    #[inline]
    pub(crate) fn received(&self) -> Ticks {
        self.has_read.set(false);
        self.recorder.now()
    }

    /// The request is done and its answer is about to be sent.
    #[inline]
    pub(crate) fn answer(self: &Rc<Wire>, version: Version, done: ReactorTicks, body: &mut Timed) {
        if version == Version::HTTP_2 {
            body.done = Some(Box::new((self.clone(), done)));
            return;
        }
        // Still set only where requests are pipelined and the socket takes no more.
        self.flushed();
        self.answering.set(done);
        self.is_answering.set(true);
    }

    /// The request is refused. If bytes of its body come yet, no request begins with them.
    pub(crate) fn refused(&self) {
        self.has_read.set(false);
    }

    #[inline]
    fn read(&self) {
        let now = self.recorder.now();
        self.newest_read.set(now);
        if !self.has_read.replace(true) {
            self.first_read.set(now);
        }
    }

    /// All that `hyper` had to write is written. It says so often, mostly of nothing.
    #[inline]
    fn flushed(&self) {
        if self.is_answering.get() {
            self.written();
        }
    }

    fn written(&self) {
        self.is_answering.set(false);
        self.recorder.record(&self.answering.get(), self.recorder.now());
    }
}

/// A connection that remembers when bytes came and went.
pub(crate) struct TimedStream<S> {
    stream: S,
    wire: Rc<Wire>,
}

impl<S> TimedStream<S> {
    pub(crate) fn new(stream: S, wire: Rc<Wire>) -> TimedStream<S> {
        TimedStream { stream, wire }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.wire.read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        if let Poll::Ready(Ok(())) = polled {
            self.wire.flushed();
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The body of an answer; on HTTP/2 with the request that it answers.
#[derive(Default)]
pub(crate) struct Timed {
    body: Full<Bytes>,
    done: Option<Box<(Rc<Wire>, ReactorTicks)>>,
}

impl From<Vec<u8>> for Timed {
    fn from(text: Vec<u8>) -> Timed {
        Timed { body: Full::new(Bytes::from(text)), done: None }
    }
}

impl Body for Timed {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if self.body.is_end_stream()
            && let Some(done) = mem::take(&mut self.done)
        {
            let (wire, ticks) = *done;
            wire.recorder.record(&ticks, wire.recorder.now());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
