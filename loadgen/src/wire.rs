//! What a connection speaks: bytes in, answers out; requests in, bytes out. No socket in here.
//!
//! Both protocols are written for one purpose, to send much load at little cost: requests are
//! copied once, answers are parsed where they were read, and what doesn't change between the
//! requests of a connection is encoded once.

mod http1;
mod http2;

use http::Method;

use crate::client::ClientError;

pub(crate) use http1::Http1;
pub(crate) use http2::Http2;

/// Which request this is, to whoever made it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tag {
    /// Index into the load's kinds.
    pub kind: u8,
    /// Its number; what it counts depends on the kind.
    pub n: u64,
}

/// A request, before a protocol gives it bytes. Its memory is used again.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Which one.
    pub tag: Tag,
    /// GET unless set.
    pub method: Method,
    /// Path and query.
    pub path: Vec<u8>,
    /// Lines of `name: value\r\n`, names in lower case. Without host and content-length.
    pub headers: Vec<u8>,
    /// May be empty.
    pub body: Vec<u8>,
    /// Milliseconds since 1970 that its ids carry.
    pub unix_ms: u64,
    /// Which of its units are still to be decided, once the others are; empty: all of them.
    pub rest: Vec<u16>,
}

impl Request {
    /// Empties it, and keeps its memory.
    pub fn clear(&mut self) {
        self.path.clear();
        self.headers.clear();
        self.body.clear();
        self.rest.clear();
        self.method = Method::GET;
    }

    /// The names and values of its headers.
    pub(crate) fn header_lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.headers[..];
        std::iter::from_fn(move || {
            let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
            let (line, after) = (&rest[..end], &rest[end + 2..]);
            rest = after;
            let colon = line.iter().position(|&byte| byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii_start()))
        })
    }
}

/// What came back.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// Its body, if the load reads bodies.
    pub body: &'a [u8],
    /// Bytes of its body, kept or not.
    pub body_bytes: u64,
}

/// Takes the answers to the requests in these slots.
pub(crate) type OnAnswer<'a> = dyn FnMut(u32, Answer<'_>) + 'a;

/// A protocol's state on one connection.
pub(crate) enum Wire {
    Http1(Http1),
    Http2(Box<Http2>),
}

impl Wire {
    /// Appends what comes first on a connection to `out`. To be called before all else.
    pub(crate) fn greet(&mut self, out: &mut Vec<u8>) {
        if let Wire::Http2(wire) = self {
            wire.greet(out);
        }
    }

    /// How many more requests may be under way.
    pub(crate) fn room(&self) -> usize {
        match self {
            Wire::Http1(wire) => wire.room(),
            Wire::Http2(wire) => wire.room(),
        }
    }

    /// Appends a request's bytes to `out`. There must be room, and nothing else in `slot`.
    pub(crate) fn send(&mut self, slot: u32, request: &Request, out: &mut Vec<u8>) {
        match self {
            Wire::Http1(wire) => wire.send(slot, request, out),
            Wire::Http2(wire) => wire.send(slot, request, out),
        }
    }

    /// Takes what was read. What it has to say itself it appends to `out`.
    pub(crate) fn receive(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        answered: &mut OnAnswer<'_>,
    ) -> Result<(), ClientError> {
        match self {
            Wire::Http1(wire) => wire.receive(input, answered),
            Wire::Http2(wire) => wire.receive(input, out, answered),
        }
    }

    /// The other side closed: an answer whose end that is ends here.
    pub(crate) fn closed(&mut self, answered: &mut OnAnswer<'_>) {
        if let Wire::Http1(wire) = self {
            wire.closed(answered);
        }
    }

    /// Gives up waiting for an answer. False: the connection is of no use any more.
    pub(crate) fn cancel(&mut self, slot: u32, out: &mut Vec<u8>) -> bool {
        match self {
            Wire::Http1(_) => false,
            Wire::Http2(wire) => wire.cancel(slot, out),
        }
    }

    /// Whether the other side takes no further request on this connection.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Wire::Http1(wire) => wire.is_over(),
            Wire::Http2(wire) => wire.is_over(),
        }
    }
}

/// Bytes of an answer that are kept for the load to read; 10,000 results take about 1 MiB.
pub(crate) const BODY_KEPT_MAX: usize = 16 << 20;

fn protocol(what: impl Into<String>) -> ClientError {
    ClientError::Protocol(what.into())
}
