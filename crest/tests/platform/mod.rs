//! A platform that a test starts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long the feed may be silent.
const FEED_PATIENCE: Duration = Duration::from_secs(60);

/// Killed when dropped.
pub struct Platform {
    pub child: Child,
    pub url: String,
}

impl Platform {
    /// On ports of its own, without an admin port.
    #[allow(dead_code)] // Each test that has this module uses a part of it.
    pub fn start(data: &Path) -> Platform {
        Platform::start_with(data, &[])
    }

    /// With more options.
    pub fn start_with(data: &Path, options: &[&str]) -> Platform {
        let mut child = Command::new(env!("CARGO_BIN_EXE_crest"))
            .args(["serve", "--http", "127.0.0.1:0", "--admin", "off", "--data"])
            .arg(data)
            .args(options)
            .env("CREST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().rsplit(' ').next().unwrap().to_string();
        Platform { child, url }
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // One that has ended can't be killed; that is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of an answer.
#[allow(dead_code)] // Likewise.
pub fn request(url: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: crest\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_string())
}

/// Opens the feed and reads the head of the answer. HTTP/1.0: what follows is the body as it is.
#[allow(dead_code)] // Likewise.
pub fn open_feed(url: &str, query: &str, header: &str) -> (u16, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    let head = format!("GET /v1/feed?{query} HTTP/1.0\r\nHost: crest\r\n{header}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.set_read_timeout(Some(FEED_PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    while line.trim() != "" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    (status, reader)
}

/// All of a feed that ends.
#[allow(dead_code)] // Likewise.
pub fn read_feed(url: &str, query: &str, header: &str) -> Vec<String> {
    let (status, mut reader) = open_feed(url, &format!("{query}&until=now"), header);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(status, 200, "{query}: {text}");
    text.lines().filter(|line| !line.is_empty()).map(str::to_string).collect()
}
