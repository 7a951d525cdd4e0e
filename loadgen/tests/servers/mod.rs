//! Bare servers on loopback that say what they saw, and a load whose every request is accounted
//! for. What a server does with a request, its path says.

#![allow(dead_code)] // Each test binary uses its part.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http::Method;
use loadgen::engine::{self, FollowUp, Load, Ran, Taken};
use loadgen::schedule::Stage;
use loadgen::wire::{Answer, Request, Tag};
use loadgen::{Arrivals, Pace, Plan, Progress, Protocol, Recorder, Schedule, Target, Trust};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::oneshot;

pub mod http12;
pub mod http3;

/// A body that no window takes at once.
pub const LARGE: usize = 2 << 20;

/// What a server saw.
#[derive(Default)]
pub struct Seen {
    pub connections: AtomicU64,
    /// Requests whose head came.
    pub begun: AtomicU64,
    /// Requests whose body came whole.
    pub whole: AtomicU64,
    /// Bytes of bodies.
    pub body_bytes: AtomicU64,
    /// Streams that it reset.
    pub resets: AtomicU64,
    /// Requests under way, and the most that were at once.
    pub under_way: AtomicU64,
    pub most_under_way: AtomicU64,
}

impl Seen {
    pub fn begin(&self) -> u64 {
        let under_way = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_under_way.fetch_max(under_way, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed)
    }

    pub fn end(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

pub fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A running server; dropped, it ends.
pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    /// The certificate that it shows, as PEM.
    pub certificate: String,
    tls: bool,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Runs `serve` on a thread of its own until the server is dropped.
    fn spawn<F: Future<Output = ()>>(
        address: SocketAddr,
        tls: bool,
        certificate: String,
        serve: impl FnOnce(Arc<Seen>) -> F + Send + 'static,
    ) -> Server {
        let seen = Arc::new(Seen::default());
        let (stop, stopped) = oneshot::channel();
        let shared = seen.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                tokio::select! {
                    () = serve(shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Server { address, seen, certificate, tls, stop: Some(stop), thread: Some(thread) }
    }

    pub fn target(&self) -> Target {
        let scheme = if self.tls { "https" } else { "http" };
        Target::from_url(&format!("{scheme}://{}", self.address)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
    }
}

/// A certificate for loopback that vouches for itself, its PEM, and its key.
fn certificate() -> (CertificateDer<'static>, String, PrivateKeyDer<'static>) {
    let names = ["127.0.0.1".to_string(), "localhost".to_string()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    (made.cert.der().clone(), made.cert.pem(), key)
}

fn tls_config(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    protocol: &[u8],
) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// A request, and the answer that it is to have.
#[derive(Clone)]
pub struct Ask {
    pub method: Method,
    pub path: &'static str,
    pub body_bytes: usize,
    pub status: u16,
    pub answer_bytes: u64,
}

pub fn get(path: &'static str, status: u16, answer_bytes: u64) -> Ask {
    Ask { method: Method::GET, path, body_bytes: 0, status, answer_bytes }
}

pub fn post(path: &'static str, body_bytes: usize, status: u16, answer_bytes: u64) -> Ask {
    Ask { method: Method::POST, path, body_bytes, status, answer_bytes }
}

/// Every way in which an answer can come.
pub fn mixed(n: u64) -> Ask {
    match n % 8 {
        0 => get("/ok", 200, 2),
        1 => post("/echo", 1_000, 200, 1_000),
        2 => get("/pieces", 200, 30_000),
        3 => Ask { method: Method::HEAD, ..get("/ok", 200, 0) },
        4 => get("/empty", 204, 0),
        5 => get("/missing", 404, 0),
        6 => post("/echo", 100_000, 200, 100_000),
        _ => post("/ok", 10, 200, 2),
    }
}

/// Asks, and remembers what became of each request.
pub struct Asks {
    ask: fn(u64) -> Ask,
    follow_up: Option<Duration>,
    /// How often a request came to its end, by kind and number. Once is right.
    pub ends: BTreeMap<(u8, u64), u32>,
}

impl Load for Asks {
    fn kinds(&self) -> &'static [&'static str] {
        &["request", "follow-up"]
    }

    fn scheduled(&mut self, n: u64) -> Tag {
        Tag { kind: 0, n }
    }

    fn units(&self, _request: &Request) -> u64 {
        1
    }

    fn build(&mut self, tag: Tag, request: &mut Request) {
        let ask = (self.ask)(tag.n);
        request.method = ask.method;
        request.path.extend_from_slice(ask.path.as_bytes());
        request.headers.extend_from_slice(b"content-type: text/plain\r\nx-load: yes\r\n");
        request.body.resize(ask.body_bytes, b'x');
    }

    fn answered(
        &mut self,
        request: &mut Request,
        answer: Answer<'_>,
        _recorder: &mut Recorder,
        follow_ups: &mut Vec<FollowUp>,
    ) -> Taken {
        let Tag { kind, n } = request.tag;
        let ask = (self.ask)(n);
        let kept = answer.body.len() as u64;
        if (answer.status, answer.body_bytes, kept) != (ask.status, ask.answer_bytes, kept)
            || kept != answer.body_bytes
        {
            let (status, bytes) = (answer.status, answer.body_bytes);
            return Taken::Failed(format!("{}: {status}, {bytes} bytes, {kept} kept", ask.path));
        }
        if let Some(after) = self.follow_up.filter(|_| kind == 0) {
            follow_ups.push(FollowUp { after, tag: Tag { kind: 1, n } });
        }
        *self.ends.entry((kind, n)).or_default() += 1;
        Taken::Done { accepted: 1 }
    }

    fn failed(&mut self, request: &Request) {
        *self.ends.entry((request.tag.kind, request.tag.n)).or_default() += 1;
    }
}

/// How a test sends.
pub struct Test {
    pub plan: Plan,
    pub ask: fn(u64) -> Ask,
    pub follow_up: Option<Duration>,
}

impl Test {
    /// With two threads and five connections, and no second attempt.
    pub fn new(target: Target, protocol: Protocol, pace: Pace, ask: fn(u64) -> Ask) -> Test {
        let plan = Plan {
            target,
            protocol,
            trust: Trust::Anyone,
            connections: 5,
            threads: 2,
            pace,
            grain: engine::GRAIN,
            timeout: Duration::from_secs(20),
            retry_for: Duration::ZERO,
            keep_bodies: true,
            stop: Arc::new(AtomicBool::new(false)),
        };
        Test { plan, ask, follow_up: None }
    }

    /// What one thread sends.
    pub fn asks(&self) -> Asks {
        Asks { ask: self.ask, follow_up: self.follow_up, ends: BTreeMap::new() }
    }

    /// Runs it. Every request has come to its end exactly once, whatever happened.
    pub fn run(&self) -> Ran<Asks> {
        let progress = Arc::new(Progress::default());
        let ran = engine::run(&self.plan, |_| self.asks(), &progress).unwrap();
        let recorder = &ran.recorder;
        let reasons = &recorder.reasons;
        assert_eq!(recorder.offered(), recorder.accepted() + recorder.errors(), "{reasons:?}");
        assert_eq!(recorder.latency().len(), recorder.requests());
        let mut ends = BTreeMap::new();
        for (tag, times) in ran.loads.iter().flat_map(|load| &load.ends) {
            *ends.entry(*tag).or_insert(0) += times;
        }
        let more: Vec<_> = ends.iter().filter(|(_, times)| **times != 1).collect();
        assert!(more.is_empty(), "{more:?}");
        assert_eq!(ends.len() as u64, recorder.offered());
        if let Pace::Schedule(_) = self.plan.pace {
            let last = ends.keys().filter(|(kind, _)| *kind == 0).map(|(_, n)| n + 1).max();
            assert_eq!(last.unwrap_or(0), recorder.kinds[0].offered, "no number was left out");
        }
        ran
    }

    /// Runs it against a server that answers all of it.
    pub fn run_without_errors(&self) -> Ran<Asks> {
        let ran = self.run();
        assert_eq!(ran.recorder.reasons, BTreeMap::new());
        assert!(ran.recorder.accepted() > 0);
        assert_eq!(ran.recorder.retries, 0);
        ran
    }
}

/// So many requests in a second, at even distances.
pub fn open_loop(count: u32) -> Pace {
    let stage = Stage::constant(f64::from(count), Duration::from_secs(1));
    Pace::Schedule(Schedule { stages: vec![stage], arrivals: Arrivals::Even, seed: 1 })
}

pub fn closed_loop() -> Pace {
    Pace::Max(Duration::from_millis(400))
}
