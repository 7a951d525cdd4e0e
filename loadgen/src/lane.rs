//! One connection: sends what it is given, takes the answers, and opens a new one after a break.
//!
//! What is the same for every protocol is here, and HTTP/1.1 and HTTP/2 over TCP: bytes go
//! between a socket and a [`Wire`]. HTTP/3 has its own connections, in [`quic`].

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::ClientError;
use crate::engine::{Crew, Load, Plan, Protocol};
use crate::queue::Job;
use crate::quic;
use crate::target::Target;
use crate::wire::{Http1, Http2, Wire};

/// How long a connection may take to open, and no longer than an answer.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Between two attempts to open one.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Connections that are opened at a time, by each thread.
const CONNECTS: usize = 128;
/// Bytes waiting to be written, beyond which nothing more is put to them.
const OUT_MAX: usize = 1 << 20;

/// Opens connections.
pub(crate) struct Dialer {
    target: Target,
    keep_bodies: bool,
    host: Arc<str>,
    way: Way,
    /// How long one may take to open.
    connect_max: Duration,
}

/// How they are made.
enum Way {
    Tcp {
        tls: Option<(TlsConnector, ServerName<'static>)>,
        /// Requests at a time with HTTP/2; else it is HTTP/1.1.
        http2: Option<usize>,
    },
    Quic(quic::Endpoint),
}

/// A connection.
pub(crate) enum Opened {
    Tcp(Stream, Wire),
    Quic(Box<quic::Connection>),
}

/// An open TCP connection's bytes.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Dialer {
    pub(crate) fn new(plan: &Plan) -> io::Result<Dialer> {
        let way = match plan.protocol {
            Protocol::Http1 => Way::Tcp { tls: connector(plan, b"http/1.1")?, http2: None },
            Protocol::Http2 { streams } => {
                Way::Tcp { tls: connector(plan, b"h2")?, http2: Some(streams) }
            }
            Protocol::Http3 { streams } => {
                Way::Quic(quic::Endpoint::new(plan, quic::Spoken::Http3, streams)?)
            }
            Protocol::Crest1 { streams } => {
                Way::Quic(quic::Endpoint::new(plan, quic::Spoken::Crest1, streams)?)
            }
        };
        Ok(Dialer {
            target: plan.target.clone(),
            keep_bodies: plan.keep_bodies,
            host: plan.target.authority.as_str().into(),
            way,
            connect_max: CONNECT_MAX.min(plan.timeout),
        })
    }

    async fn open(&self) -> io::Result<Opened> {
        let open = async {
            match &self.way {
                Way::Tcp { tls, http2 } => {
                    let stream = self.connect(tls.as_ref()).await?;
                    Ok(Opened::Tcp(stream, self.wire(*http2, tls.is_some())))
                }
                Way::Quic(endpoint) => Ok(Opened::Quic(Box::new(endpoint.open().await?))),
            }
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the connection took too long");
        tokio::time::timeout(self.connect_max, open).await.unwrap_or_else(|_| Err(late()))
    }

    async fn connect(
        &self,
        tls: Option<&(TlsConnector, ServerName<'static>)>,
    ) -> io::Result<Stream> {
        let stream = TcpStream::connect(self.target.address).await?;
        stream.set_nodelay(true)?;
        Ok(match tls {
            None => Stream::Plain(stream),
            Some((connector, name)) => {
                Stream::Tls(Box::new(connector.connect(name.clone(), stream).await?))
            }
        })
    }

    fn wire(&self, http2: Option<usize>, secure: bool) -> Wire {
        match http2 {
            None => Wire::Http1(Http1::new(self.host.clone(), self.keep_bodies)),
            Some(streams) => {
                Wire::Http2(Box::new(Http2::new(&self.host, secure, streams, self.keep_bodies)))
            }
        }
    }

    /// After the last connection was closed.
    pub(crate) async fn close(&self) {
        if let Way::Quic(endpoint) = &self.way {
            endpoint.close().await;
        }
    }
}

/// What makes a connection secure, if it is to be, and speaks this protocol on it.
fn connector(
    plan: &Plan,
    protocol: &[u8],
) -> io::Result<Option<(TlsConnector, ServerName<'static>)>> {
    if !plan.target.tls {
        return Ok(None);
    }
    let config = plan.trust.config(&[protocol])?;
    let name = ServerName::try_from(plan.target.host().to_string()).map_err(io::Error::other)?;
    Ok(Some((TlsConnector::from(Arc::new(config)), name)))
}

/// Opens a thread's connections before the run begins; `None` for one that didn't open.
pub(crate) async fn open_all(dialer: &Rc<Dialer>, count: usize) -> Vec<Option<Opened>> {
    let room = Rc::new(tokio::sync::Semaphore::new(CONNECTS));
    let opening: Vec<_> = (0..count)
        .map(|_| {
            let (dialer, room) = (dialer.clone(), room.clone());
            tokio::task::spawn_local(async move {
                let _room = room.acquire().await;
                dialer.open().await.ok()
            })
        })
        .collect();
    let mut opened = Vec::with_capacity(count);
    for connection in opening {
        opened.push(connection.await.ok().flatten());
    }
    opened
}

/// Why a connection is done with.
pub(crate) enum End {
    /// The run is over.
    Finished,
    /// The other side takes nothing more on it, and everything is answered.
    Closed,
    Broken(String),
}

/// Drives one connection after the other until the run is over.
pub(crate) async fn run<L: Load>(
    crew: Rc<Crew<L>>,
    dialer: Rc<Dialer>,
    number: usize,
    mut opened: Option<Opened>,
) {
    while !crew.is_finished() {
        let open = match opened.take() {
            Some(open) => Ok(open),
            None => tokio::select! {
                open = dialer.open() => open.inspect(|_| crew.connected()),
                () = crew.finish() => return,
            },
        };
        let end = match open {
            Ok(Opened::Tcp(stream, wire)) => Lane::new(&crew, number, stream, wire).serve().await,
            Ok(Opened::Quic(connection)) => quic::serve(&crew, number, *connection).await,
            Err(error) => {
                let why = format!("connecting: {error}");
                // Somebody has to say that nobody can be reached.
                if let Some(job) = crew.take(Instant::now()) {
                    crew.unsendable(job, &why);
                }
                End::Broken(why)
            }
        };
        match end {
            End::Finished => return,
            End::Closed => {}
            End::Broken(_) => tokio::select! {
                () = tokio::time::sleep(CONNECT_PAUSE) => {}
                () = crew.finish() => return,
            },
        }
    }
}

/// One open connection.
struct Lane<'a, L> {
    crew: &'a Crew<L>,
    number: usize,
    stream: Stream,
    wire: Wire,
    out: Vec<u8>,
    written: usize,
    /// Whether TLS may hold back some of what was written.
    flush: bool,
    /// What is under way, by slot.
    jobs: Vec<Option<Job>>,
    vacant: Vec<u32>,
    /// Since when there is room.
    free_at: Instant,
}

impl<'a, L: Load> Lane<'a, L> {
    fn new(crew: &'a Crew<L>, number: usize, stream: Stream, mut wire: Wire) -> Lane<'a, L> {
        let mut out = Vec::new();
        wire.greet(&mut out);
        Lane {
            crew,
            number,
            stream,
            wire,
            out,
            written: 0,
            flush: false,
            jobs: Vec::new(),
            vacant: Vec::new(),
            free_at: Instant::now(),
        }
    }

    /// Until the connection is of no more use. Nothing is under way on it then.
    async fn serve(mut self) -> End {
        let end = poll_fn(|cx| self.poll(cx)).await;
        self.close(match &end {
            End::Finished => "the run was stopped",
            End::Closed => "the connection was closed",
            End::Broken(why) => why,
        });
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let post = &self.crew.posts[self.number];
        post.watch(cx);
        if post.look.replace(false)
            && let Some(end) = self.time_out(Instant::now())
        {
            return Poll::Ready(end);
        }
        loop {
            self.fill(Instant::now());
            if let Err(error) = self.write(cx) {
                return Poll::Ready(End::Broken(error.to_string()));
            }
            let read = match self.read(cx) {
                Ok(read) => read,
                Err(end) => return Poll::Ready(end),
            };
            if self.wire.is_over() {
                // What was given and not sent yet is for others.
                self.crew.is_gone(self.number);
                if self.under_way() == 0 {
                    return Poll::Ready(End::Closed);
                }
            }
            if !read {
                break;
            }
        }
        if self.crew.is_finished() {
            return Poll::Ready(End::Finished);
        }
        let room = self.wire.room();
        post.room.set(room);
        if room > 0 {
            self.crew.is_free(self.number);
        }
        Poll::Pending
    }

    fn under_way(&self) -> usize {
        self.jobs.len() - self.vacant.len()
    }

    /// Sends as much as there is, and room for.
    fn fill(&mut self, now: Instant) {
        let post = &self.crew.posts[self.number];
        while self.wire.room() > 0 && self.out.len() - self.written < OUT_MAX {
            let Some(mut job) = post.given().or_else(|| self.crew.take(now)) else { break };
            self.crew.sent(&mut job, now, self.free_at);
            let slot = match self.vacant.pop() {
                Some(slot) => slot,
                None => {
                    self.jobs.push(None);
                    self.jobs.len() as u32 - 1
                }
            };
            self.wire.send(slot, &job.request, &mut self.out);
            self.jobs[slot as usize] = Some(job);
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.written < self.out.len() {
            let bytes = &self.out[self.written..];
            let written = match &mut self.stream {
                Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
                Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            };
            match written {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => self.written += bytes,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        if self.written > 0 {
            self.out.clear();
            self.written = 0;
            self.flush = true;
        }
        if self.flush
            && let Stream::Tls(stream) = &mut self.stream
            && let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx)
        {
            flushed?;
            self.flush = false;
        }
        Ok(())
    }

    /// Reads once, and takes the answers; whether there was anything.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut scratch = self.crew.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        let polled = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
        };
        match polled {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(error)) => return Err(End::Broken(error.to_string())),
            Poll::Ready(Ok(())) => {}
        }
        let bytes = buffer.filled();
        let now = Instant::now();
        let full = self.wire.room() == 0;
        let (crew, jobs, vacant) = (self.crew, &mut self.jobs, &mut self.vacant);
        let mut answered = |slot: u32, answer: crate::wire::Answer<'_>| {
            if let Some(job) = jobs.get_mut(slot as usize).and_then(Option::take) {
                vacant.push(slot);
                crew.answered(job, answer, now);
            }
        };
        if bytes.is_empty() {
            self.wire.closed(&mut answered);
            return match self.under_way() {
                0 => Err(End::Closed),
                _ => Err(End::Broken("the connection was closed before the answer".to_string())),
            };
        }
        self.wire.receive(bytes, &mut self.out, &mut answered).map_err(broken)?;
        if let Wire::Http2(wire) = &mut self.wire {
            for slot in wire.take_broken() {
                if let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::take) {
                    self.vacant.push(slot);
                    self.crew.broken(job, "the stream was reset", now);
                }
            }
            for slot in wire.take_refused() {
                if let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::take) {
                    self.vacant.push(slot);
                    self.crew.unsent(job);
                }
            }
        }
        if full && self.wire.room() > 0 {
            self.free_at = now;
        }
        Ok(true)
    }

    /// Gives up on answers that don't come.
    fn time_out(&mut self, now: Instant) -> Option<End> {
        let timeout = self.crew.plan.timeout;
        for slot in 0..self.jobs.len() {
            let Some(job) = &self.jobs[slot] else { continue };
            if now < job.sent + timeout {
                continue;
            }
            let why = ClientError::Timeout(timeout).to_string();
            if !self.wire.cancel(slot as u32, &mut self.out) {
                return Some(End::Broken(why));
            }
            if let Some(job) = self.jobs[slot].take() {
                self.vacant.push(slot as u32);
                self.crew.broken(job, &why, now);
            }
        }
        None
    }

    /// Nothing that is under way will be answered here.
    fn close(&mut self, why: &str) {
        self.crew.is_gone(self.number);
        let now = Instant::now();
        for job in self.jobs.drain(..).flatten() {
            self.crew.broken(job, why, now);
        }
    }
}

fn broken(error: ClientError) -> End {
    End::Broken(error.to_string())
}
