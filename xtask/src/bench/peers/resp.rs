//! A client of Redis with nothing in the way (RESP2): commands are written into one buffer, sent
//! together, and as many replies are read. It blocks; a connection has a thread of its own.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// No reply takes longer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

pub(super) struct Connection {
    stream: BufReader<UnixStream>,
    commands: Vec<u8>,
    line: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reply {
    Text(String),
    Integer(i64),
    Nothing,
    List(Vec<Reply>),
}

impl Connection {
    pub(super) fn open(socket: &Path) -> io::Result<Connection> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let stream = BufReader::with_capacity(64 << 10, stream);
        Ok(Connection { stream, commands: Vec::new(), line: Vec::new() })
    }

    /// Adds a command to those that the next [`Connection::send`] sends.
    pub(super) fn push<'a>(&mut self, words: impl ExactSizeIterator<Item = &'a str>) {
        encode(words, &mut self.commands);
    }

    pub(super) fn send(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(&self.commands)?;
        self.commands.clear();
        Ok(())
    }

    /// One command and its reply.
    pub(super) fn ask(&mut self, words: &[&str]) -> io::Result<Reply> {
        self.push(words.iter().copied());
        self.send()?;
        self.receive()
    }

    /// The next reply; one that is an error is an error here.
    pub(super) fn receive(&mut self) -> io::Result<Reply> {
        read(&mut self.stream, &mut self.line)
    }
}

/// An array of bulk strings.
fn encode<'a>(words: impl ExactSizeIterator<Item = &'a str>, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn read(stream: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Reply> {
    let wrong = |line: &[u8]| io::Error::other(String::from_utf8_lossy(line).trim().to_string());
    line.clear();
    stream.read_until(b'\n', line)?;
    let Some((&kind, rest)) = line.strip_suffix(b"\r\n").and_then(<[u8]>::split_first) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let text = std::str::from_utf8(rest).map_err(io::Error::other)?;
    let number = || text.parse::<i64>().map_err(io::Error::other);
    match kind {
        b'+' => Ok(Reply::Text(text.to_string())),
        b':' => Ok(Reply::Integer(number()?)),
        b'$' => {
            let Ok(length) = usize::try_from(number()?) else { return Ok(Reply::Nothing) };
            let mut bytes = vec![0; length + 2];
            stream.read_exact(&mut bytes)?;
            bytes.truncate(length);
            String::from_utf8(bytes).map(Reply::Text).map_err(io::Error::other)
        }
        b'*' => {
            let length = number()?.max(0);
            (0..length).map(|_| read(stream, line)).collect::<io::Result<_>>().map(Reply::List)
        }
        _ => Err(wrong(line)),
    }
}

impl Reply {
    /// The sum of a list of whole numbers.
    pub(super) fn sum(&self) -> Option<i128> {
        let Reply::List(entries) = self else { return None };
        entries
            .iter()
            .map(|entry| match entry {
                Reply::Text(text) => text.parse::<i128>().ok(),
                Reply::Integer(number) => Some(i128::from(*number)),
                Reply::Nothing | Reply::List(_) => None,
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_written_and_replies_read_as_the_protocol_has_them() {
        let mut out = Vec::new();
        encode(["GET", "b:1"].into_iter(), &mut out);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$3\r\nb:1\r\n");
        let mut replies: &[u8] =
            b"+PONG\r\n:-7\r\n$2\r\nok\r\n$-1\r\n*2\r\n$1\r\n5\r\n:3\r\n-ERR no\r\n";
        let mut next = || read(&mut replies, &mut Vec::new());
        assert_eq!(next().unwrap(), Reply::Text("PONG".to_string()));
        assert_eq!(next().unwrap(), Reply::Integer(-7));
        assert_eq!(next().unwrap(), Reply::Text("ok".to_string()));
        assert_eq!(next().unwrap(), Reply::Nothing);
        assert_eq!(next().unwrap().sum(), Some(8));
        assert_eq!(next().unwrap_err().to_string(), "-ERR no");
        assert!(next().is_err());
    }
}
