//! The two ends of a request's time: the first byte that was read, and the last one written.
//!
//! **HTTP/1.1.** A request begins with the first read that returned bytes since the body of the
//! one before was whole. Where requests are pipelined it may have come with the one before: then
//! it begins with the newest read, and what it waits for the answers ahead of it is a part of
//! its receiving. An answer is sent when `hyper`, which flushes only when all that it had to write
//! is written, flushes after the request was done.
//!
//! **HTTP/2.** Streams share a connection, and which bytes were whose only `h2` knows. A request
//! begins when its head is whole and the service is called. Its answer is sent with the
//! connection's next flush after it was done: for an answer that doesn't fit into a frame of
//! 16 KiB, or that flow control holds back, that may be when the first of it is out.
//!
//! **HTTP/3.** It begins likewise. It is sent when all of its answer was handed to QUIC.
//!
//! **`crest/1`.** It begins when its stream is accepted, and is sent likewise. Small requests that
//! come together are submitted together, and timed as one.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::Version;
use node::stages::{ReactorRecorder, Ticks, WriteTicks};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connections::{Activity, OpenRequest};

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
    answering: Cell<WriteTicks>,
    activity: Rc<Activity>,
    /// Whether the last request's body may not be read to its end.
    is_body_left: Cell<bool>,
    /// Whether it is encrypted, so that others can't add anything to an answer.
    pub(crate) is_secure: Cell<bool>,
    /// More of them: HTTP/2's streams, or what was pipelined when the socket took no more. No
    /// more than `h2` allows streams, or `hyper` buffers answers.
    behind: RefCell<Vec<WriteTicks>>,
}

impl Wire {
    pub(crate) fn new(recorder: Rc<ReactorRecorder>, activity: Rc<Activity>) -> Rc<Wire> {
        Rc::new(Wire {
            recorder,
            activity,
            is_body_left: Cell::default(),
            is_secure: Cell::default(),
            has_read: Cell::default(),
            first_read: Cell::default(),
            newest_read: Cell::default(),
            is_answering: Cell::default(),
            answering: Cell::default(),
            behind: RefCell::default(),
        })
    }

    /// A request is handled until what is returned is dropped.
    #[inline]
    pub(crate) fn request(&self) -> OpenRequest {
        self.activity.request()
    }

    /// When the request that is handed to the service began.
    #[inline]
    pub(crate) fn begin(&self, version: Version) -> Ticks {
        if version >= Version::HTTP_2 {
            return self.recorder.now();
        }
        match self.has_read.replace(false) {
            true => self.first_read.get(),
            false => self.newest_read.get(),
        }
    }

    /// Whether a request has a body that is still to be read.
    #[inline]
    pub(crate) fn expect_body(&self, has_body: bool) {
        self.is_body_left.set(has_body);
    }

    /// The body of the request is whole: when.
    #[inline]
    pub(crate) fn received(&self) -> Ticks {
        self.is_body_left.set(false);
        self.has_read.set(false);
        self.recorder.now()
    }

    /// The request is done and its answer is about to be sent.
    #[inline]
    pub(crate) fn answer(&self, done: WriteTicks) {
        if self.is_answering.replace(true) {
            self.behind.borrow_mut().push(done);
        } else {
            self.answering.set(done);
        }
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

    /// A write that took nothing is no activity: whoever doesn't read his answer is quiet.
    #[inline]
    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.activity.written();
        }
    }

    /// A part of an answer was taken.
    pub(crate) fn progressed(&self) {
        self.activity.written();
    }

    /// All that `hyper` had to write is written. It says so often, mostly of nothing.
    #[inline]
    pub(crate) fn flushed(&self) {
        if self.is_answering.get() {
            self.written();
        }
    }

    fn written(&self) {
        let sent = self.recorder.now();
        self.is_answering.set(false);
        self.recorder.record(&self.answering.get(), sent);
        for done in self.behind.borrow_mut().drain(..) {
            self.recorder.record(&done, sent);
        }
    }
}

/// A connection that remembers when bytes came and went.
///
/// It lingers (RFC 9112, 9.6): where a request was answered before its body was read, `hyper`
/// closes, and a socket that is closed with bytes unread resets the connection, which may take
/// the answer from a client that is still sending. So it says that nothing more will be written,
/// and throws away what comes until the client ends, or was quiet for as long as it may be.
pub(crate) struct TimedStream<S> {
    stream: S,
    wire: Rc<Wire>,
    is_shut: bool,
}

/// What is thrown away at once.
const THROWN_BYTES: usize = 8 << 10;

impl<S> TimedStream<S> {
    pub(crate) fn new(stream: S, wire: Rc<Wire>) -> TimedStream<S> {
        TimedStream { stream, wire, is_shut: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    #[inline]
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wire.wrote(&polled);
        polled
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.wire.wrote(&polled);
        polled
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        if let Poll::Ready(Ok(())) = polled {
            self.wire.flushed();
        }
        polled
    }

    #[inline]
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.is_shut = true;
        }
        let mut thrown = [MaybeUninit::uninit(); THROWN_BYTES];
        while self.wire.is_body_left.get() {
            let mut thrown = ReadBuf::uninit(&mut thrown);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut thrown))?;
            self.wire.is_body_left.set(!thrown.filled().is_empty());
        }
        Poll::Ready(Ok(()))
    }
}
