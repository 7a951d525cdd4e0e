//! An HTTP/1.1 client connection for what is not the load: setting up, replaying, reading back.
//!
//! Requests are bytes that the caller built, answers are parsed by `httparse` out of one buffer
//! that is used again. Requests can be pipelined: send several, then read as many answers.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::target::Target;

/// Why there is no answer. What became of the request isn't known.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The answer breaks the protocol, or uses a part of it that isn't spoken here.
    #[error("the answer is not understood: {0}")]
    Protocol(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Not a URL that can be driven.
    #[error("{url:?} is not a URL like http://host:port")]
    Url {
        /// What was given.
        url: String,
    },
}

/// An open connection.
pub struct Connection {
    stream: TcpStream,
    /// What was read: answers from `start` on.
    buffer: Vec<u8>,
    start: usize,
    /// Where the body of the last answer begins; it ends at `start`.
    body: usize,
}

/// Bytes of an answer's head, at most.
const HEAD_MAX: usize = 16 << 10;
/// Bytes of an answer's body, at most: 10,000 results of an order take about 1 MiB.
const BODY_MAX: usize = 16 << 20;
const READ_BYTES: usize = 64 << 10;

impl Connection {
    /// Connects.
    pub async fn open(target: &Target) -> Result<Connection, ClientError> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::new(), start: 0, body: 0 })
    }

    /// Sends a request's head and body.
    pub async fn send(&mut self, head: &[u8], body: &[u8]) -> Result<(), ClientError> {
        let mut parts = [io::IoSlice::new(head), io::IoSlice::new(body)];
        let mut parts = &mut parts[..];
        io::IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let written = self.stream.write_vectored(parts).await?;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            io::IoSlice::advance_slices(&mut parts, written);
        }
        Ok(())
    }

    /// The next answer: its status and its body.
    pub async fn receive(&mut self) -> Result<(u16, &[u8]), ClientError> {
        self.buffer.drain(..self.start);
        (self.start, self.body) = (0, 0);
        let (status, head_bytes, body_bytes) = loop {
            if let Some(head) = parse_head(&self.buffer)? {
                break head;
            }
            if self.buffer.len() > HEAD_MAX {
                return Err(ClientError::Protocol(format!("a head of over {HEAD_MAX} bytes")));
            }
            self.read().await?;
        };
        let end = head_bytes + body_bytes;
        while self.buffer.len() < end {
            self.read().await?;
        }
        (self.start, self.body) = (end, head_bytes);
        Ok((status, self.body()))
    }

    /// The body of the answer that was received last.
    pub fn body(&self) -> &[u8] {
        &self.buffer[self.body..self.start]
    }

    async fn read(&mut self) -> Result<(), ClientError> {
        self.buffer.reserve(READ_BYTES);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(())
    }
}

/// Status, bytes of the head, bytes of the body; `None` while the head isn't whole.
fn parse_head(bytes: &[u8]) -> Result<Option<(u16, usize, usize)>, ClientError> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|e| ClientError::Protocol(e.to_string()))?;
    let httparse::Status::Complete(head_bytes) = parsed else { return Ok(None) };
    let header =
        |name: &str| response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let status = response.code.unwrap_or(0);
    let length = match header("content-length") {
        Some(header) => std::str::from_utf8(header.value).ok().and_then(|text| text.parse().ok()),
        None if status == 204 || status == 304 => Some(0),
        None => None,
    };
    match length {
        Some(length) if length <= BODY_MAX => Ok(Some((status, head_bytes, length))),
        Some(length) => Err(ClientError::Protocol(format!("a body of {length} bytes"))),
        None => Err(ClientError::Protocol("no content-length".to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_whole_or_not_at_all() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for end in 0..answer.len() - 5 {
            assert!(parse_head(&answer[..end]).unwrap().is_none());
        }
        assert_eq!(parse_head(answer).unwrap(), Some((200, answer.len() - 5, 5)));
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse_head(b"SSH-2.0-x\r\n\r\n").is_err());
    }
}
