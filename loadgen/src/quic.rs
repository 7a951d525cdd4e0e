//! HTTP/3 (RFC 9114) and `crest/1` (docs/binary.md): a lane over QUIC, many requests at once on a
//! connection.
//!
//! Each of a generator's threads has one UDP socket, and its connections share it. A request is a
//! future: it opens a stream, sends head and body, and reads the answer until its end. The lane
//! polls those that were woken, and the connection's own streams beside them.
//!
//! Hard cases: an answer can come before the body was taken, so both directions are served at
//! once; a body that is given up is reset, since just to drop it would end it as if it were whole;
//! after a GOAWAY what the other side did not begin is handed to another connection; and the peer
//! may allow fewer streams than were asked for, then a request waits for one here, which counts.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, abortable};
use futures_util::stream::FuturesUnordered;
use h3::ConnectionState;
use h3::error::{Code, StreamError};
use http::uri::{Authority, PathAndQuery, Scheme};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{IdleTimeout, TransportConfig, VarInt};

use crate::client::ClientError;
use crate::engine::{Crew, Load, Plan};
use crate::lane::End;
use crate::queue::Job;
use crate::wire::{Answer, BODY_KEPT_MAX, Request};

/// A peer that is silent for so long is gone. Long enough for a stall that is to be measured.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// How often a silent connection is used, so that it stays.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// What a peer may send unread, on one stream and on a connection: no answer is held up by it.
const STREAM_WINDOW: u32 = 16 << 20;
const WINDOW: u32 = 256 << 20;
/// Bytes of bodies that are sent and not acknowledged, on a connection.
const SEND_WINDOW: u64 = 64 << 20;
/// Bytes asked for as the socket's buffers; the system gives what it allows.
const SOCKET_BYTES: usize = 8 << 20;
/// How long connections may take to say goodbye.
const GOODBYE_MAX: Duration = Duration::from_millis(500);

type Driver = h3::client::Connection<h3_quinn::Connection, Bytes>;
type Sender3 = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;
type SendStream = h3::client::RequestStream<h3_quinn::SendStream<Bytes>, Bytes>;
type RecvStream = h3::client::RequestStream<h3_quinn::RecvStream, Bytes>;

/// Opens a thread's connections, through one socket.
pub(crate) struct Endpoint {
    endpoint: quinn::Endpoint,
    address: SocketAddr,
    host: String,
    authority: Authority,
    streams: usize,
    spoken: Spoken,
}

/// What is spoken over QUIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spoken {
    Http3,
    Crest1,
}

/// A stream of `crest/1` that was reset with this was not begun.
const NOT_BEGUN: VarInt = VarInt::from_u32(1);
/// What an answer over `crest/1` begins with: its status, and zeros.
const ANSWER_HEAD_BYTES: usize = 8;

/// An open connection.
pub(crate) struct Connection {
    quic: quinn::Connection,
    closed: Closed,
    sender: Sender,
    authority: Authority,
    streams: usize,
}

/// Resolves when a connection is closed.
enum Closed {
    Http3(Box<Driver>),
    Crest1(Pin<Box<dyn Future<Output = quinn::ConnectionError>>>),
}

/// Sends requests, one at a time.
#[derive(Clone)]
enum Sender {
    Http3(Sender3),
    Crest1(quinn::Connection),
}

impl Sender {
    /// Whether the other side has said that it takes no further request.
    fn is_closing(&self) -> bool {
        match self {
            Sender::Http3(sender) => sender.is_closing(),
            Sender::Crest1(_) => false,
        }
    }
}

impl Endpoint {
    /// On the current runtime, for connections with so many requests at once.
    pub(crate) fn new(plan: &Plan, spoken: Spoken, streams: usize) -> io::Result<Endpoint> {
        if !plan.target.tls {
            let why = format!("QUIC is always secure: https://{}", plan.target.authority);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let name: &[u8] = if spoken == Spoken::Http3 { b"h3" } else { b"crest/1" };
        let tls = QuicClientConfig::try_from(plan.trust.config(&[name])?);
        let mut config = quinn::ClientConfig::new(Arc::new(tls.map_err(io::Error::other)?));
        config.transport_config(Arc::new(transport()));
        let any = match plan.target.address {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0))?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES)?;
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BYTES)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let mut endpoint = quinn::Endpoint::new(Default::default(), None, socket, runtime)?;
        endpoint.set_default_client_config(config);
        Ok(Endpoint {
            endpoint,
            address: plan.target.address,
            host: plan.target.host().to_string(),
            authority: plan.target.authority.parse().map_err(io::Error::other)?,
            streams: streams.max(1),
            spoken,
        })
    }

    pub(crate) async fn open(&self) -> io::Result<Connection> {
        let connecting = self.endpoint.connect(self.address, &self.host);
        let quic = connecting.map_err(io::Error::other)?.await?;
        let (closed, sender) = match self.spoken {
            Spoken::Http3 => {
                let mut builder = h3::client::builder();
                let over = h3_quinn::Connection::new(quic.clone());
                let built = builder.send_grease(false).build(over).await;
                let (driver, sender) = built.map_err(io::Error::other)?;
                (Closed::Http3(Box::new(driver)), Sender::Http3(sender))
            }
            Spoken::Crest1 => {
                let open = quic.clone();
                let closed = Box::pin(async move { open.closed().await });
                (Closed::Crest1(closed), Sender::Crest1(quic.clone()))
            }
        };
        let authority = self.authority.clone();
        Ok(Connection { quic, closed, sender, authority, streams: self.streams })
    }

    /// Waits until the other sides were told that their connections are closed.
    pub(crate) async fn close(&self) {
        // One that doesn't listen finds out by itself.
        let _ = tokio::time::timeout(GOODBYE_MAX, self.endpoint.wait_idle()).await;
    }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(IDLE_MAX).expect("the time fits");
    transport
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(SEND_WINDOW)
        // A server opens none (RFC 9114, 6.1).
        .max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport
}

/// Drives a connection until it is of no more use. Nothing is under way on it then.
pub(crate) async fn serve<L: Load>(crew: &Crew<L>, number: usize, connection: Connection) -> End {
    let mut lane = Lane {
        crew,
        number,
        connection,
        senders: Vec::new(),
        exchanges: FuturesUnordered::new(),
        jobs: Vec::new(),
        vacant: Vec::new(),
        lost: None,
        is_rejecting: false,
        free_at: Instant::now(),
    };
    let end = poll_fn(|cx| lane.poll(cx)).await;
    lane.close();
    end
}

/// One open connection.
struct Lane<'a, L> {
    crew: &'a Crew<L>,
    number: usize,
    connection: Connection,
    /// Used before, to be used again.
    senders: Vec<Sender>,
    exchanges: FuturesUnordered<Abortable<Pin<Box<dyn Future<Output = Ended>>>>>,
    /// What is under way, by slot.
    jobs: Vec<Option<(Job, AbortHandle)>>,
    vacant: Vec<u32>,
    /// Why there is no connection any more. What was under way on it ends by itself.
    lost: Option<Lost>,
    /// Whether the other side sent a request back.
    is_rejecting: bool,
    /// Since when there is room.
    free_at: Instant,
}

/// A connection's end.
struct Lost {
    why: String,
    is_orderly: bool,
}

impl Closed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        let (why, is_orderly) = match self {
            Closed::Http3(driver) => {
                let error = ready!(driver.poll_close(cx));
                (error.to_string(), error.is_h3_no_error())
            }
            Closed::Crest1(closed) => {
                let error = ready!(closed.as_mut().poll(cx));
                (error.to_string(), is_orderly(&error))
            }
        };
        Poll::Ready(Lost { why, is_orderly })
    }
}

/// Whether it ended because its work was done.
fn is_orderly(error: &quinn::ConnectionError) -> bool {
    matches!(error, quinn::ConnectionError::ApplicationClosed(closed)
        if closed.error_code == VarInt::from_u32(0))
}

impl<L: Load> Lane<'_, L> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let post = &self.crew.posts[self.number];
        post.watch(cx);
        if post.look.replace(false) {
            self.time_out(Instant::now());
        }
        if self.lost.is_none()
            && let Poll::Ready(lost) = self.connection.closed.poll(cx)
        {
            self.lost = Some(lost);
        }
        loop {
            self.fill(cx);
            match self.exchanges.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(ended))) => self.take(ended),
                Poll::Ready(Some(Err(_given_up))) => {}
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if self.is_over() {
            self.crew.is_gone(self.number);
        }
        if self.under_way() == 0 {
            match &self.lost {
                Some(lost) if !lost.is_orderly => {
                    return Poll::Ready(End::Broken(lost.why.clone()));
                }
                _ if self.is_over() => return Poll::Ready(End::Closed),
                _ => {}
            }
        }
        if self.crew.is_finished() {
            return Poll::Ready(End::Finished);
        }
        let room = self.room();
        post.room.set(room);
        if room > 0 {
            self.crew.is_free(self.number);
        }
        Poll::Pending
    }

    /// Whether the other side takes no further request on this connection.
    fn is_over(&self) -> bool {
        self.lost.is_some() || self.is_rejecting || self.connection.sender.is_closing()
    }

    fn under_way(&self) -> usize {
        self.jobs.len() - self.vacant.len()
    }

    fn room(&self) -> usize {
        match self.is_over() {
            true => 0,
            false => self.connection.streams.saturating_sub(self.under_way()),
        }
    }

    /// Begins as much as there is, and room for.
    fn fill(&mut self, cx: &mut Context<'_>) {
        let now = Instant::now();
        let post = &self.crew.posts[self.number];
        while self.room() > 0 {
            let Some(mut job) = post.given().or_else(|| self.crew.take(now)) else { break };
            let mut sender = self.senders.pop().unwrap_or_else(|| self.connection.sender.clone());
            let asked = match &sender {
                Sender::Http3(_) => head(&self.connection.authority, &job.request).map(Some),
                Sender::Crest1(_) => Ok(None),
            };
            let head = match asked {
                Ok(head) => head,
                Err(error) => {
                    self.senders.push(sender);
                    self.crew.failed(job, &format!("not a request: {error}"), now);
                    // The next one may be no better: others have their turn first.
                    cx.waker().wake_by_ref();
                    break;
                }
            };
            self.crew.sent(&mut job, now, self.free_at);
            let slot = match self.vacant.pop() {
                Some(slot) => slot,
                None => {
                    self.jobs.push(None);
                    self.jobs.len() as u32 - 1
                }
            };
            let body = Bytes::copy_from_slice(&job.request.body);
            let keep = self.crew.plan.keep_bodies;
            let exchange: Pin<Box<dyn Future<Output = Ended>>> = Box::pin(async move {
                let answer = match (&mut sender, head) {
                    (Sender::Http3(sender), Some(head)) => {
                        ask(sender, head, body, keep).await.map_err(Failed::from)
                    }
                    (Sender::Crest1(quic), _) => ask_crest1(quic, body).await,
                    (Sender::Http3(_), None) => unreachable!("its head was written"),
                };
                Ended { slot, sender, answer }
            });
            let (exchange, handle) = abortable(exchange);
            self.exchanges.push(exchange);
            self.jobs[slot as usize] = Some((job, handle));
        }
    }

    /// An exchange is over, one way or the other.
    fn take(&mut self, ended: Ended) {
        let now = Instant::now();
        if self.room() == 0 {
            self.free_at = now;
        }
        self.senders.push(ended.sender);
        let Some((job, _)) = self.jobs[ended.slot as usize].take() else { return };
        self.vacant.push(ended.slot);
        match ended.answer {
            Ok(answer) => {
                let Answered { status, body, body_bytes } = &answer;
                let answer = Answer { status: *status, body, body_bytes: *body_bytes };
                self.crew.answered(job, answer, now);
            }
            Err(Failed::Unsent { is_over }) => {
                self.is_rejecting |= is_over;
                self.crew.unsent(job);
            }
            Err(Failed::Broken(why)) => self.crew.broken(job, &why, now),
        }
    }

    /// Gives up on answers that don't come.
    fn time_out(&mut self, now: Instant) {
        let timeout = self.crew.plan.timeout;
        for (slot, under_way) in self.jobs.iter_mut().enumerate() {
            if let Some((job, exchange)) = under_way.take_if(|(job, _)| now >= job.sent + timeout) {
                exchange.abort();
                self.vacant.push(slot as u32);
                self.crew.broken(job, &ClientError::Timeout(timeout).to_string(), now);
            }
        }
    }

    /// Nothing that is under way will be answered here.
    fn close(&mut self) {
        self.crew.is_gone(self.number);
        let now = Instant::now();
        for (job, _) in self.jobs.drain(..).flatten() {
            self.crew.broken(job, "the run was stopped", now);
        }
        self.exchanges.clear();
        let code = match self.connection.sender {
            Sender::Http3(_) => VarInt::from_u64(Code::H3_NO_ERROR.value()),
            Sender::Crest1(_) => Ok(VarInt::from_u32(0)),
        };
        let code = code.expect("codes are short");
        self.connection.quic.close(code, b"");
    }
}

/// The head of a request.
fn head(authority: &Authority, request: &Request) -> Result<http::Request<()>, http::Error> {
    let path = PathAndQuery::try_from(&request.path[..])?;
    let uri = http::Uri::builder().scheme(Scheme::HTTPS).authority(authority.clone());
    let uri = uri.path_and_query(path).build()?;
    let mut head = http::Request::builder().method(request.method.clone()).uri(uri);
    for (name, value) in request.header_lines() {
        head = head.header(name, value);
    }
    if !request.body.is_empty() {
        head = head.header(http::header::CONTENT_LENGTH, request.body.len());
    }
    head.body(())
}

/// What became of a request.
struct Ended {
    slot: u32,
    sender: Sender,
    answer: Result<Answered, Failed>,
}

/// Why there is no answer.
enum Failed {
    /// The other side did not begin it, and may take no other on this connection.
    Unsent { is_over: bool },
    /// What became of it isn't known.
    Broken(String),
}

/// What is said of a connection that ended as it should, but too early.
const CLOSED_EARLY: &str = "the connection was closed before the answer";

impl From<StreamError> for Failed {
    fn from(error: StreamError) -> Failed {
        Failed::Broken(match error {
            StreamError::RemoteClosing => return Failed::Unsent { is_over: false },
            // Not begun; the word that the connection ends is under way (RFC 9114, 5.2).
            StreamError::RemoteTerminate { code: Code::H3_REQUEST_REJECTED } => {
                return Failed::Unsent { is_over: true };
            }
            StreamError::RemoteTerminate { .. } => "the stream was reset".to_string(),
            StreamError::ConnectionError(error) if error.is_h3_no_error() => {
                CLOSED_EARLY.to_string()
            }
            error => error.to_string(),
        })
    }
}

impl From<quinn::ConnectionError> for Failed {
    fn from(error: quinn::ConnectionError) -> Failed {
        Failed::Broken(match is_orderly(&error) {
            true => CLOSED_EARLY.to_string(),
            false => error.to_string(),
        })
    }
}

/// An answer, whole.
struct Answered {
    status: u16,
    body: Vec<u8>,
    body_bytes: u64,
}

/// Sends commands over `crest/1`, and reads what became of them.
async fn ask_crest1(quic: &quinn::Connection, body: Bytes) -> Result<Answered, Failed> {
    use quinn::{ReadError, ReadToEndError, WriteError};
    let not_begun = Failed::Unsent { is_over: true };
    let Ok((mut send, mut recv)) = quic.open_bi().await else { return Err(not_begun) };
    match send.write_chunk(body).await {
        Ok(()) => {}
        Err(WriteError::ConnectionLost(error)) => return Err(error.into()),
        Err(WriteError::Stopped(NOT_BEGUN)) => return Err(not_begun),
        // Its answer says why it isn't wanted.
        Err(_) => {}
    }
    // It fails likewise.
    let _ = send.finish();
    match recv.read_to_end(BODY_KEPT_MAX).await {
        Ok(mut answer) if answer.len() >= ANSWER_HEAD_BYTES => {
            let status = u16::from_le_bytes([answer[0], answer[1]]);
            answer.drain(..ANSWER_HEAD_BYTES);
            let body_bytes = answer.len() as u64;
            Ok(Answered { status, body: answer, body_bytes })
        }
        Ok(_) => Err(Failed::Broken("an answer without a head".to_string())),
        Err(ReadToEndError::Read(ReadError::Reset(NOT_BEGUN))) => Err(not_begun),
        Err(ReadToEndError::Read(ReadError::ConnectionLost(error))) => Err(error.into()),
        Err(error) => Err(Failed::Broken(error.to_string())),
    }
}

/// Sends a request and reads its answer, both at once.
async fn ask(
    sender: &mut Sender3,
    head: http::Request<()>,
    body: Bytes,
    keep: bool,
) -> Result<Answered, StreamError> {
    let (upload, download) = sender.send_request(head).await?.split();
    let mut upload = Upload { stream: upload, is_whole: false };
    let mut sending = pin!(upload.send(body));
    let mut receiving = pin!(receive(download, keep));
    let mut is_sent = false;
    poll_fn(|cx| {
        is_sent = is_sent || sending.as_mut().poll(cx).is_ready();
        receiving.as_mut().poll(cx)
    })
    .await
}

/// The sending half of a stream. Dropped early, it says that the body isn't whole.
struct Upload {
    stream: SendStream,
    is_whole: bool,
}

impl Upload {
    /// That the other side doesn't take the body is no failure: its answer says what is.
    async fn send(&mut self, body: Bytes) {
        if !body.is_empty() && self.stream.send_data(body).await.is_err() {
            return;
        }
        self.is_whole = self.stream.finish().await.is_ok();
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.is_whole {
            self.stream.stop_stream(Code::H3_REQUEST_CANCELLED);
        }
    }
}

async fn receive(mut stream: RecvStream, keep: bool) -> Result<Answered, StreamError> {
    let status = loop {
        let status = stream.recv_response().await?.status();
        if !status.is_informational() {
            break status.as_u16();
        }
    };
    let mut answer = Answered { status, body: Vec::new(), body_bytes: 0 };
    while let Some(mut piece) = stream.recv_data().await? {
        while piece.has_remaining() {
            let bytes = piece.chunk();
            answer.body_bytes += bytes.len() as u64;
            if keep && answer.body.len() + bytes.len() <= BODY_KEPT_MAX {
                answer.body.extend_from_slice(bytes);
            }
            piece.advance(piece.chunk().len());
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn heads_carry_what_the_request_says() {
        let request = Request {
            method: Method::POST,
            path: b"/orders?x=1".to_vec(),
            headers: b"content-type: application/json\r\nx-a: b\r\n".to_vec(),
            body: b"{}".to_vec(),
            ..Request::default()
        };
        let head = head(&Authority::from_static("x:4433"), &request).unwrap();
        assert_eq!(head.uri(), "https://x:4433/orders?x=1");
        assert_eq!(head.method(), Method::POST);
        let headers: Vec<_> = head
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect();
        assert_eq!(headers, ["content-type=application/json", "x-a=b", "content-length=2"]);
    }

    #[test]
    fn what_is_no_request_is_an_error() {
        let authority = Authority::from_static("x");
        let request = |path: &[u8], headers: &[u8]| Request {
            path: path.to_vec(),
            headers: headers.to_vec(),
            ..Request::default()
        };
        assert!(head(&authority, &request(b"/a b", b"")).is_err());
        assert!(head(&authority, &request(b"/", b"a b: c\r\n")).is_err());
        assert!(head(&authority, &request(b"/", b"a: b\r\n")).is_ok());
    }
}
