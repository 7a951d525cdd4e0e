//! HTTP/1.1 (RFC 9112), one request at a time.

use std::sync::Arc;

use http::Method;

use super::{Answer, OnAnswer, Request, protocol};
use crate::client::ClientError;

/// Bytes of an answer's head, at most.
const HEAD_MAX: usize = 64 << 10;
/// Header fields of an answer, at most.
const FIELDS_MAX: usize = 96;
/// Bytes of a chunk's size line, at most.
const CHUNK_LINE_MAX: usize = 1 << 10;

/// Where in an answer the next byte belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Head,
    /// A body of known length.
    Length(u64),
    ChunkSize,
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    Trailers,
    /// A body that ends with the connection.
    UntilClose,
}

/// One connection's state.
pub(crate) struct Http1 {
    host: Arc<str>,
    keep_bodies: bool,
    state: State,
    /// Slot of the request that waits, and whether its answer has no body (HEAD).
    waiting: Option<(u32, bool)>,
    status: u16,
    body: Vec<u8>,
    body_bytes: u64,
    /// Read, but not whole: part of a head or of a line.
    rest: Vec<u8>,
    over: bool,
}

impl Http1 {
    pub(crate) fn new(host: Arc<str>, keep_bodies: bool) -> Http1 {
        Http1 {
            host,
            keep_bodies,
            state: State::Head,
            waiting: None,
            status: 0,
            body: Vec::new(),
            body_bytes: 0,
            rest: Vec::new(),
            over: false,
        }
    }

    pub(crate) fn room(&self) -> usize {
        usize::from(self.waiting.is_none() && !self.over)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    pub(crate) fn send(&mut self, slot: u32, request: &Request, out: &mut Vec<u8>) {
        self.waiting = Some((slot, request.method == Method::HEAD));
        out.reserve(request.path.len() + request.headers.len() + request.body.len() + 128);
        let method = request.method.as_str().as_bytes();
        for part in [method, b" ", &request.path, b" HTTP/1.1\r\nhost: ", self.host.as_bytes()] {
            out.extend_from_slice(part);
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&request.headers);
        let takes_body = matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
        if takes_body || !request.body.is_empty() {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(itoa::Buffer::new().format(request.body.len()).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&request.body);
    }

    pub(crate) fn receive(
        &mut self,
        input: &[u8],
        answered: &mut OnAnswer<'_>,
    ) -> Result<(), ClientError> {
        if self.rest.is_empty() {
            let taken = self.take(input, answered)?;
            self.rest.extend_from_slice(&input[taken..]);
        } else {
            let mut rest = std::mem::take(&mut self.rest);
            rest.extend_from_slice(input);
            let taken = self.take(&rest, answered)?;
            rest.drain(..taken);
            self.rest = rest;
        }
        Ok(())
    }

    pub(crate) fn closed(&mut self, answered: &mut OnAnswer<'_>) {
        if self.state == State::UntilClose {
            self.finish(None, answered);
        }
        self.over = true;
    }

    /// Takes as much as it can; how much.
    fn take(&mut self, input: &[u8], answered: &mut OnAnswer<'_>) -> Result<usize, ClientError> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            match self.state {
                State::Head if rest.is_empty() => return Ok(at),
                State::Head => match self.head(rest)? {
                    Some(bytes) => at += bytes,
                    None => return Ok(at),
                },
                State::Length(left) => {
                    let here = left.min(rest.len() as u64) as usize;
                    if here as u64 == left {
                        at += here;
                        self.body_bytes += here as u64;
                        // Whole in what was read: nothing needs to be copied.
                        let whole = self.body.is_empty().then_some(&rest[..here]);
                        if whole.is_none() {
                            self.keep(&rest[..here]);
                        }
                        self.finish(whole, answered);
                        continue;
                    }
                    self.body_bytes += here as u64;
                    self.keep(rest);
                    self.state = State::Length(left - here as u64);
                    return Ok(input.len());
                }
                State::UntilClose => {
                    self.body_bytes += rest.len() as u64;
                    self.keep(rest);
                    return Ok(input.len());
                }
                State::ChunkSize => match httparse::parse_chunk_size(rest) {
                    Ok(httparse::Status::Complete((bytes, size))) => {
                        at += bytes;
                        self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                    }
                    Ok(httparse::Status::Partial) if rest.len() < CHUNK_LINE_MAX => return Ok(at),
                    _ => return Err(protocol("no size of a chunk")),
                },
                State::Chunk(left) => {
                    let here = left.min(rest.len() as u64) as usize;
                    self.body_bytes += here as u64;
                    self.keep(&rest[..here]);
                    at += here;
                    if (here as u64) < left {
                        self.state = State::Chunk(left - here as u64);
                        return Ok(at);
                    }
                    self.state = State::ChunkEnd;
                }
                State::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        at += 2;
                        self.state = State::ChunkSize;
                    }
                    [] | [b'\r'] => return Ok(at),
                    _ => return Err(protocol("a chunk longer than its size")),
                },
                State::Trailers => match rest.windows(2).position(|pair| pair == b"\r\n") {
                    Some(0) => {
                        at += 2;
                        self.finish(None, answered);
                    }
                    Some(line) => at += line + 2,
                    None if rest.len() < HEAD_MAX => return Ok(at),
                    None => return Err(protocol("endless trailers")),
                },
            }
        }
    }

    /// Reads an answer's head; its bytes, or `None` while it isn't whole.
    fn head(&mut self, bytes: &[u8]) -> Result<Option<usize>, ClientError> {
        let Some((_, head_only)) = self.waiting else {
            return Err(protocol("an answer that nobody asked for"));
        };
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(bytes).map_err(|error| protocol(error.to_string()))?;
        let httparse::Status::Complete(head_bytes) = parsed else {
            return match bytes.len() <= HEAD_MAX {
                true => Ok(None),
                false => Err(protocol(format!("a head of over {HEAD_MAX} bytes"))),
            };
        };
        let status = response.code.unwrap_or(0);
        if (100..200).contains(&status) {
            return Ok(Some(head_bytes)); // The answer proper follows.
        }
        let mut length = None;
        let mut chunked = false;
        let mut close = response.version == Some(0);
        for field in response.headers.iter() {
            if field.name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(field.value).unwrap_or("").trim();
                let wrong = || protocol(format!("a content-length of {text:?}"));
                length = Some(text.parse::<u64>().map_err(|_| wrong())?);
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = field.value.to_ascii_lowercase().ends_with(b"chunked");
            } else if field.name.eq_ignore_ascii_case("connection") {
                match field.value.to_ascii_lowercase().as_slice() {
                    b"close" => close = true,
                    b"keep-alive" => close = false,
                    _ => {}
                }
            }
        }
        self.status = status;
        self.over = close;
        self.body.clear();
        self.body_bytes = 0;
        // RFC 9112, 6.3.
        self.state = match length {
            _ if head_only || status == 204 || status == 304 => State::Length(0),
            _ if chunked => State::ChunkSize,
            Some(length) => State::Length(length),
            None => {
                self.over = true;
                State::UntilClose
            }
        };
        Ok(Some(head_bytes))
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.keep_bodies && self.body.len() + bytes.len() <= super::BODY_KEPT_MAX {
            self.body.extend_from_slice(bytes);
        }
    }

    fn finish(&mut self, whole: Option<&[u8]>, answered: &mut OnAnswer<'_>) {
        self.state = State::Head;
        if let Some((slot, _)) = self.waiting.take() {
            let body = whole.unwrap_or(&self.body);
            answered(slot, Answer { status: self.status, body, body_bytes: self.body_bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in pieces of `size` bytes; the answers, as text.
    fn answers(input: &[u8], size: usize) -> Result<Vec<String>, ClientError> {
        let mut wire = Http1::new("x".into(), true);
        let mut found = Vec::new();
        let mut out = Vec::new();
        wire.send(0, &Request::default(), &mut out);
        for piece in input.chunks(size) {
            let mut answered = |slot: u32, answer: Answer<'_>| {
                let body = String::from_utf8_lossy(answer.body).into_owned();
                assert_eq!(answer.body_bytes, body.len() as u64);
                found.push(format!("{slot} {} {body}", answer.status));
            };
            wire.receive(piece, &mut answered)?;
            if wire.room() == 1 {
                wire.send(0, &Request::default(), &mut out);
            }
        }
        wire.closed(&mut |slot, answer| {
            let body = String::from_utf8_lossy(answer.body).into_owned();
            found.push(format!("{slot} {} {body}", answer.status));
        });
        Ok(found)
    }

    #[test]
    fn answers_are_the_same_however_they_are_cut() {
        for input in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\na: b\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\nhello",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        ] {
            for size in 1..=input.len() {
                assert_eq!(answers(input, size).unwrap(), ["0 200 hello"], "{size}");
            }
        }
        let empty = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(answers(empty, 7).unwrap(), ["0 204 "]);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for input in [
            &b"SSH-2.0-x\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
        ] {
            assert!(answers(input, input.len()).is_err());
        }
    }
}
