//! A connection over TCP as it turns out to be: secure or not.
//!
//! The first byte says so: a TLS record of a handshake begins with 22 (RFC 8446, 5.1), and no
//! request of HTTP does. It is looked at when `hyper` first reads, and the handshake goes on in
//! the same reads: so the time that a client takes for either counts as quiet, and ends with it.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use crate::timed::Wire;

/// The type of a TLS record of a handshake.
const HANDSHAKE: u8 = 22;

/// A connection and what is known of it.
pub(crate) enum Transport {
    /// Nothing was read.
    Fresh(Fresh),
    Plain(TcpStream),
    Opening(Box<Accept<TcpStream>>, Rc<Wire>),
    Secure(Box<TlsStream<TcpStream>>),
    /// It broke while it was made secure.
    Broken,
}

/// A connection of which nothing was read.
pub(crate) struct Fresh {
    stream: TcpStream,
    acceptor: TlsAcceptor,
    wire: Rc<Wire>,
}

impl Transport {
    /// Whatever it is; where there is no acceptor it isn't secure.
    pub(crate) fn new(
        stream: TcpStream,
        acceptor: Option<TlsAcceptor>,
        wire: Rc<Wire>,
    ) -> Transport {
        match acceptor {
            Some(acceptor) => Transport::Fresh(Fresh { stream, acceptor, wire }),
            None => Transport::Plain(stream),
        }
    }

    fn poll_known(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self {
                Transport::Plain(_) | Transport::Secure(_) => return Poll::Ready(Ok(())),
                Transport::Broken => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
                Transport::Fresh(fresh) => {
                    let mut first = [0];
                    ready!(fresh.stream.poll_peek(cx, &mut ReadBuf::new(&mut first)))?;
                    let Transport::Fresh(Fresh { stream, acceptor, wire }) =
                        std::mem::replace(self, Transport::Broken)
                    else {
                        continue;
                    };
                    // A connection that ended at once is read as a plain one: to its end.
                    *self = match first[0] {
                        HANDSHAKE => Transport::Opening(Box::new(acceptor.accept(stream)), wire),
                        _ => Transport::Plain(stream),
                    };
                }
                Transport::Opening(accept, wire) => {
                    let opened = ready!(Pin::new(&mut **accept).poll(cx));
                    if opened.is_ok() {
                        wire.is_secure.set(true);
                    }
                    *self = match opened {
                        Ok(stream) => Transport::Secure(Box::new(stream)),
                        Err(error) => {
                            *self = Transport::Broken;
                            return Poll::Ready(Err(error));
                        }
                    };
                }
            }
        }
    }
}

impl AsyncRead for Transport {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match &mut *self {
                Transport::Plain(stream) => return Pin::new(stream).poll_read(cx, buffer),
                Transport::Secure(stream) => return Pin::new(stream).poll_read(cx, buffer),
                unknown => ready!(unknown.poll_known(cx))?,
            }
        }
    }
}

/// `hyper` writes nothing before it has read something.
fn too_early<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl AsyncWrite for Transport {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Secure(stream) => Pin::new(stream).poll_write(cx, bytes),
            _ => too_early(),
        }
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Transport::Secure(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            _ => too_early(),
        }
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        // Of both kinds; `hyper` asks before it is known which one this is.
        true
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Secure(stream) => Pin::new(stream).poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    #[inline]
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Secure(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Fresh(fresh) => Pin::new(&mut fresh.stream).poll_shutdown(cx),
            Transport::Opening(..) | Transport::Broken => Poll::Ready(Ok(())),
        }
    }
}
