//! Reads the feed of a platform, and comes back when it breaks.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use jiff::fmt::rfc2822;
use model::Offset;
use model::event::EventId;
use model::frame::{FRAME_BYTES_MAX, Frame, FrameHeader};
use reqwest::header::DATE;
use reqwest::{Client, Response, StatusCode, Url};
use sonic_rs::JsonValueTrait;
use tokio::sync::mpsc;
use zerocopy::FromBytes;

/// The platform sends something every 15 seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// How long is waited before it is asked again, at first and at last.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Bytes of a problem that are shown.
const PROBLEM_BYTES: usize = 4 << 10;

/// Which events of which platform.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The platform, such as `http://127.0.0.1:8080`.
    pub url: Url,
    /// Where it begins if nothing was read before, as `from` of the feed has it. `now` becomes the
    /// time of the platform's first answer, so that it stays the same when that has to be repeated.
    pub from: String,
    /// Parameters that filter: `type`, `buyer`, `item`, `seller`.
    pub filter: Vec<(String, String)>,
    /// Whether it ends with what is durable when it is asked.
    pub ends: bool,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where to go on from.
    pub id: String,
    /// Events with the same one are in order.
    pub key: String,
    /// A CloudEvent in JSON.
    pub json: String,
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read<T> {
    /// Of whom, each time that it is asked.
    Platform(Platform),
    /// It begins here, and did not say so before: what was `now` is this time.
    Began(String),
    /// An event, or a frame.
    Item(T),
}

/// Whose feed it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// What its events name as their source.
    pub source: String,
    /// How many shards it has.
    pub shards: u16,
}

/// An item that is whole, if there is one, and the id to go on from behind it, if it has one.
pub type Taken<T> = Option<(T, Option<String>)>;

/// A form in which the feed is read.
pub trait Form {
    /// What it consists of.
    type Item: Send;
    /// Its media type.
    const ACCEPT: &str;
    /// The most bytes of an item.
    const BYTES_MAX: usize;

    /// Takes the first item off what was read. An error: it can't be one.
    fn take(read: &mut BytesMut) -> Result<Taken<Self::Item>, NotThis>;
}

/// What was read isn't what it should be: it, or its beginning.
#[derive(Debug)]
pub struct NotThis(pub Vec<u8>);

/// Events, in lines of JSON.
#[derive(Debug)]
pub enum Lines {}

/// The log's frames.
#[derive(Debug)]
pub enum Frames {}

impl Form for Lines {
    type Item = Event;
    const ACCEPT: &str = "application/x-ndjson";
    // An order of 2,000 lines takes some 200 KB.
    const BYTES_MAX: usize = 4 << 20;

    fn take(read: &mut BytesMut) -> Result<Taken<Event>, NotThis> {
        while let Some(end) = memchr::memchr(b'\n', read) {
            let line = read.split_to(end);
            read.advance(1);
            if line.is_empty() {
                continue;
            }
            let event = std::str::from_utf8(&line).ok().and_then(Event::parse);
            let event = event.ok_or_else(|| NotThis(line.to_vec()))?;
            let id = event.id.clone();
            return Ok(Some((event, Some(id))));
        }
        Ok(None)
    }
}

impl Form for Frames {
    /// A frame that was checked.
    type Item = Bytes;
    const ACCEPT: &str = "application/vnd.crest.frames";
    const BYTES_MAX: usize = FRAME_BYTES_MAX;

    fn take(read: &mut BytesMut) -> Result<Taken<Bytes>, NotThis> {
        let Ok((header, _)) = FrameHeader::ref_from_prefix(read) else { return Ok(None) };
        let length = size_of::<FrameHeader>() + header.length.get() as usize;
        if length <= FRAME_BYTES_MAX && length > read.len() {
            return Ok(None);
        }
        let (frame, _) = Frame::split(read).map_err(|error| NotThis(error.to_string().into()))?;
        let id = (frame.header.count.get() > 0).then(|| {
            let offset = Offset(frame.next_offset().0 - 1);
            EventId { shard: frame.place().shard, offset, part: 0 }.to_string()
        });
        Ok(Some((read.split_to(length).freeze(), id)))
    }
}

/// Why there is no more of the feed.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The platform refuses what is asked for.
    #[error("the feed of {url} is refused: {status}: {problem}")]
    Refused {
        /// The platform.
        url: String,
        /// Of its answer.
        status: StatusCode,
        /// What it says.
        problem: String,
    },
    /// What it sends is not what was asked for.
    #[error("the feed of {url} sent what it should not: {what}")]
    NotThis {
        /// The platform.
        url: String,
        /// What it sent, or its beginning.
        what: String,
    },
    /// There is no client to ask with.
    #[error("no HTTP client: {0}")]
    Client(reqwest::Error),
}

impl Event {
    /// From its JSON.
    pub fn parse(json: &str) -> Option<Event> {
        let field = |name: &str| {
            let value = sonic_rs::get_from_str(json, [name]).ok()?;
            value.as_str().map(str::to_string)
        };
        Some(Event { id: field("id")?, key: field("partitionkey")?, json: json.to_string() })
    }
}

/// A client with the certificates that this machine trusts.
pub(crate) fn client() -> Result<Client, FeedError> {
    // Whoever installed one before did it for the same reason.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .user_agent(concat!("crest/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        // What is posted is for the one who was named, and nobody else.
        .redirect(reqwest::redirect::Policy::none())
        .build();
    client.map_err(FeedError::Client)
}

/// How one connection to the feed ended.
enum Ended {
    /// All was read.
    Done,
    /// It broke; whether anything was read.
    Broke(bool, String),
    /// Nobody wants more.
    Left,
}

impl Feed {
    /// Sends events behind `cursor` on, in order, until nobody wants more, or to the feed's end.
    /// A connection that breaks is made again.
    pub async fn follow<F: Form>(
        mut self,
        mut cursor: Option<String>,
        events: mpsc::Sender<Read<F::Item>>,
    ) -> Result<(), FeedError> {
        let client = client()?;
        let (mut pause, mut is_said) = (PAUSE, false);
        loop {
            match self.read::<F>(&client, &mut cursor, &events).await? {
                Ended::Done | Ended::Left => return Ok(()),
                Ended::Broke(any, why) => {
                    if any || !is_said {
                        tracing::warn!(
                            url = self.shown(),
                            why,
                            "the feed broke; it is asked again"
                        );
                    }
                    (pause, is_said) = (if any { PAUSE } else { (pause * 2).min(PAUSE_MAX) }, true);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = events.closed() => return Ok(()),
            }
        }
    }

    async fn read<F: Form>(
        &mut self,
        client: &Client,
        cursor: &mut Option<String>,
        events: &mpsc::Sender<Read<F::Item>>,
    ) -> Result<Ended, FeedError> {
        let broke = |any, error: &dyn std::fmt::Display| Ended::Broke(any, error.to_string());
        // Its URL may have a password in it.
        let failed = |any, error: reqwest::Error| broke(any, &error.without_url());
        let mut url = self.url.clone();
        url.set_path("/v1/feed");
        url.query_pairs_mut().clear().append_pair("from", &self.from).extend_pairs(&self.filter);
        if self.ends {
            url.query_pairs_mut().append_pair("until", "now");
        }
        let mut request = client.get(url).header("Accept", F::ACCEPT);
        if let Some(cursor) = cursor {
            request = request.header("Last-Event-ID", cursor.as_str());
        }
        let mut answer = match tokio::time::timeout(SILENCE, request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Ok(failed(false, error)),
            Err(error) => return Ok(broke(false, &error)),
        };
        let status = answer.status();
        if status != StatusCode::OK {
            let problem = tokio::time::timeout(SILENCE, beginning(answer, PROBLEM_BYTES)).await;
            let problem = problem.unwrap_or_default();
            // Too many readers, an archive that is away, a platform that is stopped.
            if status.is_server_error() {
                return Ok(broke(false, &format!("{status}: {problem}")));
            }
            return Err(FeedError::Refused { url: self.shown(), status, problem });
        }
        let header = |name: &str| answer.headers().get(name)?.to_str().ok();
        let source = header("crest-source").unwrap_or_default().to_string();
        let shards = header("crest-shards").and_then(|shards| shards.parse().ok());
        let platform = Platform { source, shards: shards.unwrap_or_default() };
        if events.send(Read::Platform(platform)).await.is_err() {
            return Ok(Ended::Left);
        }
        if self.from == "now" && cursor.is_none() {
            let date = answer.headers().get(DATE).and_then(|value| value.to_str().ok());
            let time =
                date.and_then(|date| rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
            let Some(time) = time else { return Ok(broke(false, &"an answer without a date")) };
            self.from = time.to_string();
            if events.send(Read::Began(self.from.clone())).await.is_err() {
                return Ok(Ended::Left);
            }
        }
        let (mut text, mut any) = (BytesMut::new(), false);
        loop {
            let piece = tokio::select! {
                piece = tokio::time::timeout(SILENCE, answer.chunk()) => piece,
                () = events.closed() => return Ok(Ended::Left),
            };
            match piece {
                Ok(Ok(Some(piece))) => text.extend_from_slice(&piece),
                Ok(Ok(None)) if self.ends && text.is_empty() => return Ok(Ended::Done),
                Ok(Ok(None)) => return Ok(broke(any, &"it ended")),
                Ok(Err(error)) => return Ok(failed(any, error)),
                Err(_) => return Ok(broke(any, &"it was silent for a minute")),
            }
            while let Some((item, id)) =
                F::take(&mut text).map_err(|what| self.not_this(&what.0))?
            {
                if events.send(Read::Item(item)).await.is_err() {
                    return Ok(Ended::Left);
                }
                (*cursor, any) = (id.or(cursor.take()), true);
            }
            if text.len() > F::BYTES_MAX {
                return Err(self.not_this(&text));
            }
        }
    }

    fn not_this(&self, bytes: &[u8]) -> FeedError {
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        FeedError::NotThis { url: self.shown(), what }
    }

    /// Its URL, without what must not be shown.
    fn shown(&self) -> String {
        let mut url = self.url.clone();
        // A URL without a host has neither.
        let _ = url.set_password(None);
        let _ = url.set_username("");
        url.to_string()
    }
}

/// The beginning of what an answer says, and no more of it.
pub(crate) async fn beginning(mut answer: Response, bytes: usize) -> String {
    let mut text = Vec::new();
    while text.len() < bytes
        && let Ok(Some(piece)) = answer.chunk().await
    {
        text.extend_from_slice(&piece);
    }
    text.truncate(bytes);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_a_time() {
        let date = "Mon, 23 Nov 2026 14:53:09 GMT";
        let time = rfc2822::DateTimeParser::new().parse_timestamp(date).unwrap();
        assert_eq!(time.to_string(), "2026-11-23T14:53:09Z");
    }

    #[test]
    fn passwords_are_not_shown() {
        let url = "https://user:password@shop.example/".parse().unwrap();
        let feed = Feed { url, from: "now".to_string(), filter: Vec::new(), ends: false };
        assert_eq!(feed.shown(), "https://shop.example/");
    }
}
