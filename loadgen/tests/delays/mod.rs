//! An HTTP/1.1 server that answers when it is told to.
//!
//! A thread reads each connection and decides when the answer is due; one thread sends all
//! answers at their times. A request's path is its number. Everything ends when the [`Server`] is
//! dropped, which is to be after its clients are gone.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use loadgen::profile::Random;

/// How long answers are held back.
#[derive(Clone, Copy)]
pub enum Delay {
    /// Whoever comes within `stall` of the beginning of a period is answered at its end, everybody
    /// else at once.
    Stalls { every: Duration, stall: Duration },
    /// Each takes the same, one after the other, whichever connection they come on.
    Station(Duration),
    /// One in so many takes `long`, by its number.
    Two { usual: Duration, long: Duration, one_in: u64 },
    /// Longer the later it comes, from the first request on.
    Ramp { from: Duration, to: Duration, over: Duration },
}

impl Delay {
    /// How long request `n` takes that comes `since` the first one.
    pub fn service(self, n: u64, since: Duration) -> Duration {
        match self {
            Delay::Stalls { every, stall } => {
                let into = Duration::from_nanos((since.as_nanos() % every.as_nanos()) as u64);
                stall.saturating_sub(into)
            }
            Delay::Station(service) => service,
            Delay::Two { usual, long, one_in } => match Random(n).below(one_in) {
                0 => long,
                _ => usual,
            },
            Delay::Ramp { from, to, over } => {
                from + (to - from).mul_f64(since.div_duration_f64(over).min(1.0))
            }
        }
    }
}

/// A request that comes so soon after the answer before it, on the same connection, was waiting
/// for that answer: its service begins where the other one ended. What the turn took is the
/// machine's, and would add up over a queue.
const TURN: Duration = Duration::from_millis(2);
/// Sleeping ends late by about as much: the rest is waited for awake.
const AWAKE: Duration = Duration::from_micros(100);
/// Bytes of a request, at most.
const REQUEST_MAX: usize = 4096;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A running server.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
    answering: Option<JoinHandle<()>>,
}

struct Shared {
    delay: Delay,
    /// When the first request came.
    first: OnceLock<Instant>,
    due: Mutex<Due>,
    changed: Condvar,
}

/// Answers by their time, and in the order in which they were added.
#[derive(Default)]
struct Due {
    answers: BTreeMap<(Instant, u64), Arc<TcpStream>>,
    added: u64,
    /// When the station is done with all that came so far.
    station_free: Option<Instant>,
    stopped: bool,
}

impl Server {
    /// On a free port of this machine.
    pub fn start(delay: Delay) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (first, due, changed) = Default::default();
        let shared = Arc::new(Shared { delay, first, due, changed });
        let accepting = {
            let shared = shared.clone();
            std::thread::spawn(move || accept(&listener, &shared))
        };
        let answering = {
            let shared = shared.clone();
            std::thread::spawn(move || shared.answer())
        };
        Server { address, shared, accepting: Some(accepting), answering: Some(answering) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.due.lock().unwrap().stopped = true;
        self.shared.changed.notify_all();
        // It looks whether to stop when somebody connects.
        drop(TcpStream::connect(self.address));
        for thread in [self.accepting.take(), self.answering.take()].into_iter().flatten() {
            // A panic in a panic would hide the first.
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a server's thread panicked");
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut readers = Vec::new();
    loop {
        let (stream, _) = listener.accept().unwrap();
        if shared.due.lock().unwrap().stopped {
            break;
        }
        stream.set_nodelay(true).unwrap();
        let shared = shared.clone();
        readers.push(std::thread::spawn(move || shared.read(&Arc::new(stream))));
    }
    for reader in readers {
        reader.join().unwrap();
    }
}

impl Shared {
    /// Reads a connection's requests until the other side closes it.
    fn read(&self, stream: &Arc<TcpStream>) {
        let mut buffer = [0; REQUEST_MAX];
        let mut filled = 0;
        let mut last_answer: Option<Instant> = None;
        loop {
            match (&**stream).read(&mut buffer[filled..]) {
                Ok(0) => return,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("reading: {error}"),
            }
            if !buffer[..filled].ends_with(b"\r\n\r\n") {
                continue;
            }
            let now = Instant::now();
            let n = number(&buffer[..filled]);
            filled = 0;

            let first = *self.first.get_or_init(|| now);
            let waited = last_answer.filter(|&last| now.saturating_duration_since(last) < TURN);
            let begins = match self.delay {
                // A stall is of the clock and not of a request.
                Delay::Stalls { .. } => now,
                Delay::Station(service) => self.reserve(now, service),
                Delay::Two { .. } | Delay::Ramp { .. } => waited.unwrap_or(now),
            };
            let service = self.delay.service(n, begins.saturating_duration_since(first));
            last_answer = Some(begins + service);
            if service.is_zero() {
                // Who is gone already needs no answer.
                let _ = (&**stream).write_all(ANSWER);
            } else {
                self.add(begins + service, stream.clone());
            }
        }
    }

    /// When the station can begin with what came now.
    fn reserve(&self, now: Instant, service: Duration) -> Instant {
        let mut due = self.due.lock().unwrap();
        let begins = due.station_free.map_or(now, |free| free.max(now));
        due.station_free = Some(begins + service);
        begins
    }

    fn add(&self, at: Instant, stream: Arc<TcpStream>) {
        let mut due = self.due.lock().unwrap();
        due.added += 1;
        let key = (at, due.added);
        due.answers.insert(key, stream);
        // Only the next one's time is waited for.
        if due.answers.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.changed.notify_one();
        }
    }

    /// Sends answers at their times.
    fn answer(&self) {
        let mut due = self.due.lock().unwrap();
        while !due.stopped {
            let Some(next) = due.answers.first_entry() else {
                due = self.changed.wait(due).unwrap();
                continue;
            };
            let left = next.key().0.saturating_duration_since(Instant::now());
            if left > AWAKE {
                due = self.changed.wait_timeout(due, left - AWAKE).unwrap().0;
            } else if left.is_zero() {
                let stream = next.remove();
                drop(due);
                let _ = (&*stream).write_all(ANSWER);
                due = self.due.lock().unwrap();
            } else {
                drop(due);
                std::hint::spin_loop();
                due = self.due.lock().unwrap();
            }
        }
    }
}

/// The number that `GET /123 HTTP/1.1` names.
fn number(request: &[u8]) -> u64 {
    let line = std::str::from_utf8(request).unwrap();
    let path = line.split(' ').nth(1).unwrap();
    path.trim_start_matches('/').parse().unwrap()
}
