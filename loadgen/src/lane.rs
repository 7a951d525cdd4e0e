//! One connection: sends what it is given, takes the answers, and opens a new one after a break.

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
use crate::target::Target;
use crate::wire::{Http1, Http2, Wire};

/// How long a connection may take to open.
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
    protocol: Protocol,
    keep_bodies: bool,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    host: Arc<str>,
}

/// An open connection's bytes.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Dialer {
    pub(crate) fn new(plan: &Plan) -> io::Result<Dialer> {
        let tls = match plan.target.tls {
            false => None,
            true => {
                let protocols: &[&[u8]] = match plan.protocol {
                    Protocol::Http1 => &[b"http/1.1"],
                    Protocol::Http2 { .. } => &[b"h2"],
                    Protocol::Http3 { .. } => &[b"h3"],
                };
                let config = plan.trust.config(protocols)?;
                let name = ServerName::try_from(plan.target.host().to_string())
                    .map_err(io::Error::other)?;
                Some((TlsConnector::from(Arc::new(config)), name))
            }
        };
        Ok(Dialer {
            target: plan.target.clone(),
            protocol: plan.protocol,
            keep_bodies: plan.keep_bodies,
            tls,
            host: plan.target.authority.as_str().into(),
        })
    }

    async fn open(&self) -> io::Result<Stream> {
        let open = async {
            let stream = TcpStream::connect(self.target.address).await?;
            stream.set_nodelay(true)?;
            Ok(match &self.tls {
                None => Stream::Plain(stream),
                Some((connector, name)) => {
                    Stream::Tls(Box::new(connector.connect(name.clone(), stream).await?))
                }
            })
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the connection took too long");
        tokio::time::timeout(CONNECT_MAX, open).await.unwrap_or_else(|_| Err(late()))
    }

    fn wire(&self) -> Wire {
        match self.protocol {
            Protocol::Http2 { streams } => {
                let secure = self.tls.is_some();
                Wire::Http2(Box::new(Http2::new(&self.host, secure, streams, self.keep_bodies)))
            }
            _ => Wire::Http1(Http1::new(self.host.clone(), self.keep_bodies)),
        }
    }
}

/// Opens a thread's connections before the run begins; `None` for one that didn't open.
pub(crate) async fn open_all(dialer: &Rc<Dialer>, count: usize) -> Vec<Option<Stream>> {
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
    for stream in opening {
        opened.push(stream.await.ok().flatten());
    }
    opened
}

/// Why a connection is done with.
enum End {
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
    mut stream: Option<Stream>,
) {
    while !crew.is_finished() {
        let open = match stream.take() {
            Some(open) => Ok(open),
            None => {
                let open = dialer.open().await;
                if open.is_ok() {
                    crew.connected();
                }
                open
            }
        };
        match open {
            Ok(open) => {
                let mut lane = Lane::new(&crew, number, open, dialer.wire());
                match lane.serve().await {
                    End::Finished => return,
                    End::Closed => {
                        lane.close("the connection was closed");
                        continue;
                    }
                    End::Broken(why) => lane.close(&why),
                }
            }
            Err(error) => {
                let why = format!("connecting: {error}");
                // Somebody has to say that nobody can be reached.
                if let Some(job) = crew.take(Instant::now()) {
                    crew.unsendable(job, &why);
                }
            }
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
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
    /// What is under way, by slot.
    jobs: Vec<Option<Job>>,
    vacant: Vec<u32>,
    /// Since when there is room.
    free_at: Instant,
}

impl<'a, L: Load> Lane<'a, L> {
    fn new(crew: &'a Crew<L>, number: usize, stream: Stream, wire: Wire) -> Lane<'a, L> {
        Lane {
            crew,
            number,
            stream,
            wire,
            out: Vec::new(),
            written: 0,
            jobs: Vec::new(),
            vacant: Vec::new(),
            free_at: Instant::now(),
        }
    }

    async fn serve(&mut self) -> End {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let post = &self.crew.posts[self.number];
        match &mut *post.waker.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
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
            if self.wire.is_over() && self.under_way() == 0 {
                return Poll::Ready(End::Closed);
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
            let given = post.jobs.borrow_mut().pop_front();
            let Some(mut job) = given.or_else(|| self.crew.take(now)) else { break };
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
            if let Stream::Tls(stream) = &mut self.stream
                && let Poll::Ready(Err(error)) = Pin::new(stream).poll_flush(cx)
            {
                return Err(error);
            }
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

    /// Nothing that is under way will be answered here, and nothing that was given is sent.
    fn close(&mut self, why: &str) {
        self.crew.is_gone(self.number);
        let now = Instant::now();
        for job in self.jobs.drain(..).flatten() {
            self.crew.broken(job, why, now);
        }
        for job in self.crew.posts[self.number].jobs.borrow_mut().drain(..) {
            self.crew.put_back(job);
        }
    }
}

fn broken(error: ClientError) -> End {
    End::Broken(error.to_string())
}
