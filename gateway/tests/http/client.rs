//! HTTP/1.1 by hand: what is sent is sent as it is, and what comes back is taken apart.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use expect_test::Expect;

/// Longer than any answer takes: a test that would hang fails instead.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    pub fn to(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, unread: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends to whoever may have closed already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: crest\r\n\r\n"));
        self.answer()
    }

    pub fn post(&mut self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send(post(path, body));
        self.answer()
    }

    pub fn answer(&mut self) -> Answer {
        self.next(true).expect("an answer before the end")
    }

    /// An answer that may say how long its body would be, and has none.
    pub fn answer_without_body(&mut self) -> Answer {
        self.next(false).expect("an answer before the end")
    }

    /// The next answer, or `None` if the connection was closed first.
    pub fn try_answer(&mut self) -> Option<Answer> {
        self.next(true)
    }

    fn next(&mut self, has_body: bool) -> Option<Answer> {
        let head_bytes = loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if !self.read_more() {
                assert_eq!(self.unread, b"", "the connection closed within an answer");
                return None;
            }
        };
        let head = String::from_utf8(self.unread.drain(..head_bytes).collect()).unwrap();
        let mut answer = Answer::of(&head);
        let body_bytes = match answer.header("content-length") {
            Some(length) if has_body => length.parse().unwrap(),
            _ => 0,
        };
        while self.unread.len() < body_bytes {
            assert!(self.read_more(), "the connection closed within a body");
        }
        answer.body = String::from_utf8(self.unread.drain(..body_bytes).collect()).unwrap();
        Some(answer)
    }

    /// All that comes until the connection is closed.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.read_more() {}
        std::mem::take(&mut self.unread)
    }

    /// Reads on until this text has come.
    pub fn read_until(&mut self, text: &str) {
        while !self.unread.windows(text.len()).any(|found| found == text.as_bytes()) {
            assert!(self.read_more(), "closed before {text:?} came");
        }
    }

    pub fn assert_closed(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.rest()), "");
    }

    fn read_more(&mut self) -> bool {
        let mut piece = [0; 65536];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(count) => {
                self.unread.extend_from_slice(&piece[..count]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A whole request with a JSON body.
pub fn post(path: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: crest\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// Cut into chunks of this many bytes, as `transfer-encoding: chunked` has it.
pub fn chunked(body: &[u8], chunk_bytes: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for chunk in body.chunks(chunk_bytes) {
        text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    text
}

pub struct Answer {
    pub status: u16,
    /// Names in lower case, as they are sent.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    fn of(head: &str) -> Answer {
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_string(), value.to_string())
        };
        Answer {
            status: status.parse().unwrap(),
            headers: lines.map(header).collect(),
            body: String::new(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Status, headers that say something, and body.
    pub fn text(&self) -> String {
        let mut text = self.status.to_string();
        for name in ["content-type", "location", "allow", "retry-after", "connection"] {
            if let Some(value) = self.header(name) {
                text.push_str(&format!(" {name}: {value}"));
            }
        }
        format!("{text}\n{}", self.body)
    }

    pub fn check(&self, expected: Expect) {
        expected.assert_eq(&self.text());
    }

    /// Without the moments that a statement names.
    pub fn check_without_times(&self, expected: Expect) {
        let mut parts = self.body.split("\"time_ms\":");
        let mut text = parts.next().unwrap_or_default().to_string();
        for part in parts {
            text.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ','));
        }
        expected.assert_eq(&text);
    }

    /// Asserts what every problem has (RFC 9457), and returns its kind and field.
    pub fn problem(&self) -> (String, Option<String>) {
        use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.body);
        let problem: Value = sonic_rs::from_str(&self.body).unwrap();
        let text =
            |name: &str| problem.get(name).and_then(|value| value.as_str().map(String::from));
        assert_eq!(problem.get("status").as_u64(), Some(self.status.into()), "{}", self.body);
        assert!(!text("title").unwrap().is_empty() && !text("detail").unwrap().is_empty());
        let known = ["type", "title", "status", "detail", "field", "outcome", "state", "offset"];
        for (name, _) in problem.as_object().unwrap().iter() {
            assert!(known.contains(&name), "{name} in {}", self.body);
        }
        let kind = text("type").unwrap();
        (kind.strip_prefix("urn:crest:problem:").unwrap().to_string(), text("field"))
    }
}

/// A UUID that ends in this number.
pub fn uuid(number: u64) -> String {
    format!("01890a5d-ac96-774b-bcce-{number:012x}")
}

/// An order in GBP.
pub fn order(buyer: u64, id: u64, payment: &str, lines: &str) -> String {
    let id = uuid(id);
    format!(
        r#"{{"buyer":{buyer},"id":"{id}","currency":"GBP","payment":"{payment}","lines":{lines}}}"#
    )
}

/// The path of an order, with what follows it.
pub fn order_path(buyer: u64, id: u64, rest: &str) -> String {
    format!("/v1/buyers/{buyer}/orders/{}{rest}", uuid(id))
}

/// A change that has nothing but an id.
pub fn change(id: u64) -> String {
    format!(r#"{{"id":"{}"}}"#, uuid(id))
}
