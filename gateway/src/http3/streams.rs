//! QUIC for `h3`: streams as `h3-quinn` has them, but for what [`Frames`] leaves out of them.

use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::Code;
use h3::quic::{
    self, BidiStream as _, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf,
};

use super::frames::{Frames, integer};

/// Bytes of a frame on the control stream, at most: settings, and single numbers.
const CONTROL_BYTES_MAX: u64 = 4 << 10;
/// The type of a control stream (RFC 9114, 6.2.1).
const CONTROL: u64 = 0;

/// A connection.
pub(crate) struct Connection {
    quic: quinn::Connection,
    inner: h3_quinn::Connection,
    /// Bytes of a request's head, at most.
    head_bytes_max: u64,
}

impl Connection {
    pub(crate) fn new(quic: quinn::Connection, head_bytes_max: u64) -> Connection {
        let inner = h3_quinn::Connection::new(quic.clone());
        Connection { quic, inner, head_bytes_max }
    }
}

impl quic::Connection<Bytes> for Connection {
    type RecvStream = RecvStream;
    type OpenStreams = OpenStreams;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RecvStream, ConnectionErrorIncoming>> {
        let inner = &mut self.inner;
        let stream = ready!(quic::Connection::<Bytes>::poll_accept_recv(inner, cx))?;
        Poll::Ready(Ok(RecvStream::new(stream, self.quic.clone(), Content::Typed(Vec::new()))))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, ConnectionErrorIncoming>> {
        let inner = &mut self.inner;
        let stream = ready!(quic::Connection::<Bytes>::poll_accept_bidi(inner, cx))?;
        let (send, recv) = stream.split();
        let content = Content::Frames(Frames::new(self.head_bytes_max));
        Poll::Ready(Ok(BidiStream {
            send,
            recv: RecvStream::new(recv, self.quic.clone(), content),
        }))
    }

    fn opener(&self) -> OpenStreams {
        OpenStreams {
            quic: self.quic.clone(),
            inner: quic::Connection::<Bytes>::opener(&self.inner),
        }
    }
}

impl quic::OpenStreams<Bytes> for Connection {
    type BidiStream = BidiStream;
    type SendStream = h3_quinn::SendStream<Bytes>;

    fn poll_open_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        open_bidi(&mut self.inner, &self.quic, cx)
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<h3_quinn::SendStream<Bytes>, StreamErrorIncoming>> {
        quic::OpenStreams::<Bytes>::poll_open_send(&mut self.inner, cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        quic::OpenStreams::<Bytes>::close(&mut self.inner, code, reason);
    }
}

/// Opens streams of a connection.
#[derive(Clone)]
pub(crate) struct OpenStreams {
    quic: quinn::Connection,
    inner: h3_quinn::OpenStreams,
}

impl quic::OpenStreams<Bytes> for OpenStreams {
    type BidiStream = BidiStream;
    type SendStream = h3_quinn::SendStream<Bytes>;

    fn poll_open_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        open_bidi(&mut self.inner, &self.quic, cx)
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<h3_quinn::SendStream<Bytes>, StreamErrorIncoming>> {
        quic::OpenStreams::<Bytes>::poll_open_send(&mut self.inner, cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        quic::OpenStreams::<Bytes>::close(&mut self.inner, code, reason);
    }
}

/// A server opens none; the traits want it.
fn open_bidi<O>(
    inner: &mut O,
    quic: &quinn::Connection,
    cx: &mut Context<'_>,
) -> Poll<Result<BidiStream, StreamErrorIncoming>>
where
    O: quic::OpenStreams<Bytes, BidiStream = h3_quinn::BidiStream<Bytes>>,
{
    let (send, recv) = ready!(inner.poll_open_bidi(cx))?.split();
    let content = Content::Frames(Frames::new(CONTROL_BYTES_MAX));
    Poll::Ready(Ok(BidiStream { send, recv: RecvStream::new(recv, quic.clone(), content) }))
}

/// A stream of a request and its answer.
pub(crate) struct BidiStream {
    send: h3_quinn::SendStream<Bytes>,
    recv: RecvStream,
}

impl quic::BidiStream<Bytes> for BidiStream {
    type SendStream = h3_quinn::SendStream<Bytes>;
    type RecvStream = RecvStream;

    fn split(self) -> (h3_quinn::SendStream<Bytes>, RecvStream) {
        (self.send, self.recv)
    }
}

impl quic::SendStream<Bytes> for BidiStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl quic::RecvStream for BidiStream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.recv.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

/// What a stream carries.
enum Content {
    /// A type first, of which this much came (RFC 9114, 6.2).
    Typed(Vec<u8>),
    Frames(Frames),
    /// Something that isn't frames, and that `h3` doesn't keep.
    Other,
}

/// The receiving side of a stream.
pub(crate) struct RecvStream {
    inner: h3_quinn::RecvStream,
    quic: quinn::Connection,
    content: Content,
    /// What came and wasn't looked at.
    came: Bytes,
    /// Whether a read is under way. To stop it then is what `h3-quinn` panics of.
    is_reading: bool,
}

impl RecvStream {
    fn new(inner: h3_quinn::RecvStream, quic: quinn::Connection, content: Content) -> RecvStream {
        RecvStream { inner, quic, content, came: Bytes::new(), is_reading: false }
    }

    /// The next piece of what came.
    fn next(&mut self) -> Result<Option<Bytes>, StreamErrorIncoming> {
        if let Content::Typed(head) = &mut self.content {
            while self.came.has_remaining() {
                head.push(self.came.get_u8());
                let Some(kind) = integer(&mut &head[..]) else { continue };
                let head = Bytes::from(std::mem::take(head));
                self.content = match kind {
                    CONTROL => Content::Frames(Frames::new(CONTROL_BYTES_MAX)),
                    _ => Content::Other,
                };
                return Ok(Some(head));
            }
        }
        match &mut self.content {
            Content::Typed(_) => Ok(None),
            Content::Other => Ok(Some(std::mem::take(&mut self.came)).filter(|b| !b.is_empty())),
            Content::Frames(frames) => frames.next(&mut self.came).map_err(|error| {
                let code = quinn::VarInt::try_from(Code::H3_EXCESSIVE_LOAD.value());
                self.quic.close(code.unwrap_or_default(), b"a frame is too large");
                StreamErrorIncoming::Unknown(Box::new(error))
            }),
        }
    }

    fn may_end(&self) -> bool {
        match &self.content {
            Content::Frames(frames) => frames.is_between(),
            Content::Typed(_) | Content::Other => true,
        }
    }
}

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        loop {
            if let Some(piece) = self.next()? {
                return Poll::Ready(Ok(Some(piece)));
            }
            let polled = self.inner.poll_data(cx);
            self.is_reading = polled.is_pending();
            match ready!(polled)? {
                Some(bytes) => self.came = bytes,
                None if self.may_end() => return Poll::Ready(Ok(None)),
                None => {
                    let code = quinn::VarInt::try_from(Code::H3_FRAME_ERROR.value());
                    self.quic.close(code.unwrap_or_default(), b"a stream ends within a frame");
                    let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                    return Poll::Ready(Err(StreamErrorIncoming::Unknown(Box::new(error))));
                }
            }
        }
    }

    fn stop_sending(&mut self, code: u64) {
        // With a read under way, the stream is stopped when it is dropped.
        if !self.is_reading {
            self.inner.stop_sending(code);
        }
    }

    fn recv_id(&self) -> StreamId {
        self.inner.recv_id()
    }
}
