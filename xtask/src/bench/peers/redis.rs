//! Redis with the same order as a script. It runs as a process of its own, with its data in a
//! directory that is removed afterwards.
//!
//! With `appendfsync always` it syncs what all connections sent since the last sync before it
//! answers any of them: the same promise as Crest's, and the same way to keep it.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::resp::{Connection, Reply};
use crate::bench::load::{BUYER_BALANCE, ITEM_STOCK, PlainOrder, Population, Sustained};
use crate::bench::table::histogram;
use crate::run::Failure;
use crate::tools::{self, REDIS};

/// What an order is, in Redis.
const SCRIPT: &str = include_str!("order.lua");
/// Hashes that the script works on.
const BOOKS: [&str; 4] = ["stock", "price", "seller", "payable"];
/// Settings that differ from those that it comes with: durable, and nothing that rewrites the
/// file while it is measured.
const SETTINGS: [(&str, &str); 7] = [
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("auto-aof-rewrite-percentage", "0"),
    ("save", ""),
    ("port", "0"),
    ("daemonize", "no"),
    ("loglevel", "warning"),
];
/// Connections, each a thread of the client.
pub(super) const CONNECTIONS: usize = 8;
const START_MAX: Duration = Duration::from_secs(20);

/// A server of our own. Killed when dropped.
pub(super) struct Redis {
    child: Child,
    dir: tempfile::TempDir,
    version: String,
    script: String,
    population: Population,
    /// The next order's number.
    next: AtomicU64,
    acknowledged: u64,
}

impl Redis {
    /// Starts one with its data below `folder`, with the population's buyers and items.
    pub(super) fn start(
        folder: &std::path::Path,
        population: Population,
    ) -> Result<Redis, Failure> {
        let program = REDIS.get()?;
        let dir = tempfile::Builder::new().prefix("redis-").tempdir_in(folder)?;
        let mut server = Command::new(&program);
        for (name, value) in SETTINGS {
            server.args([&format!("--{name}"), value]);
        }
        server.arg("--unixsocket").arg(dir.path().join("socket"));
        server.arg("--dir").arg(dir.path()).stdout(Stdio::null());
        let mut redis = Redis {
            child: server.spawn()?,
            dir,
            version: tools::version(&program)?,
            script: String::new(),
            population,
            next: AtomicU64::new(0),
            acknowledged: 0,
        };
        let started = Instant::now();
        let mut connection = loop {
            match redis.connect() {
                Ok(connection) => break connection,
                Err(error) if started.elapsed() > START_MAX => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
            if let Some(status) = redis.child.try_wait()? {
                return Err(format!("redis-server ended with {status}").into());
            }
        };
        match connection.ask(&["SCRIPT", "LOAD", SCRIPT])? {
            Reply::Text(sha) => redis.script = sha,
            other => return Err(format!("SCRIPT LOAD was answered with {other:?}").into()),
        }
        redis.fill(&mut connection)?;
        Ok(redis)
    }

    fn connect(&self) -> std::io::Result<Connection> {
        Connection::open(&self.dir.path().join("socket"))
    }

    fn fill(&self, connection: &mut Connection) -> Result<(), Failure> {
        let population = &self.population;
        let balance = BUYER_BALANCE.to_string();
        for buyer in 1..=population.buyers() {
            connection.push(["SET", &format!("b:{buyer}"), &balance].into_iter());
        }
        for item in 1..=population.items() {
            let of_item = [ITEM_STOCK, population.price(item), population.seller(item)];
            for (book, value) in BOOKS.into_iter().zip(of_item) {
                let (item, value) = (item.to_string(), value.to_string());
                connection.push(["HSET", book, &item, &value].into_iter());
            }
        }
        connection.send()?;
        for _ in 0..population.buyers() + 3 * population.items() {
            connection.receive()?;
        }
        Ok(())
    }

    /// Orders flat out for a while, `pipeline` of them sent at once on each connection.
    pub(super) fn measure(
        &mut self,
        pipeline: usize,
        duration: Duration,
    ) -> Result<Sustained, Failure> {
        let start = Instant::now();
        let mut latency = histogram();
        let this = &*self;
        let lanes: Vec<std::io::Result<Histogram<u64>>> = std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..CONNECTIONS)
                .map(|_| scope.spawn(move || this.lane(pipeline, start + duration)))
                .collect();
            lanes.into_iter().map(|lane| lane.join().expect("a lane doesn't panic")).collect()
        });
        let elapsed = start.elapsed();
        for lane in lanes {
            latency.add(lane?)?;
        }
        let acknowledged = latency.len() * pipeline as u64;
        self.acknowledged += acknowledged;
        let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Sustained {
            orders_per_s: acknowledged as f64 / elapsed.as_secs_f64(),
            latency_ms: [at(0.5), at(0.99), at(0.999)],
        })
    }

    /// One connection's share: how long each pipeline took, in µs.
    fn lane(&self, pipeline: usize, end: Instant) -> std::io::Result<Histogram<u64>> {
        let mut connection = self.connect()?;
        let mut latency = histogram();
        while Instant::now() < end {
            let first = self.next.fetch_add(pipeline as u64, Ordering::Relaxed);
            for n in first..first + pipeline as u64 {
                self.push(&mut connection, &self.population.order(n));
            }
            let sent = Instant::now();
            connection.send()?;
            for _ in 0..pipeline {
                let reply = connection.receive()?;
                if reply != Reply::Text("ok".to_string()) {
                    return Err(std::io::Error::other(format!("an order was answered {reply:?}")));
                }
            }
            latency.saturating_record(sent.elapsed().as_micros() as u64);
        }
        Ok(latency)
    }

    fn push(&self, connection: &mut Connection, order: &PlainOrder) {
        let mut words = vec![format!("o:{}:{:032x}", order.buyer, order.id)];
        words.push(format!("b:{}", order.buyer));
        words.extend(BOOKS.map(String::from));
        for (item, quantity) in &order.lines {
            words.extend([item.to_string(), quantity.to_string()]);
        }
        let head = ["EVALSHA", &self.script, "6"];
        let words: Vec<&str> = head.into_iter().chain(words.iter().map(String::as_str)).collect();
        connection.push(words.into_iter());
    }

    /// Whether every acknowledged order is there, and what buyers lost is what sellers got.
    pub(super) fn audit(&self) -> Result<(), Failure> {
        let mut connection = self.connect()?;
        let found = connection.ask(&["DBSIZE"])?;
        let others = self.population.buyers() + BOOKS.len() as u64;
        if found != Reply::Integer((self.acknowledged + others) as i64) {
            let orders = self.acknowledged;
            return Err(format!("Redis holds {found:?} keys after {orders} orders").into());
        }
        let mut held = connection.ask(&["HVALS", "payable"])?.sum().unwrap_or(0);
        let buyers: Vec<String> =
            (1..=self.population.buyers()).map(|buyer| format!("b:{buyer}")).collect();
        for some in buyers.chunks(1_000) {
            let words: Vec<&str> =
                ["MGET"].into_iter().chain(some.iter().map(String::as_str)).collect();
            held += connection.ask(&words)?.sum().ok_or("a buyer's balance is gone")?;
        }
        let given = i128::from(self.population.buyers()) * i128::from(BUYER_BALANCE);
        match held == given {
            true => Ok(()),
            false => Err(format!("Redis holds {held} pence of {given}").into()),
        }
    }

    /// Its configuration, for those who read the table.
    pub(super) fn note(&self) -> String {
        let settings: Vec<String> = SETTINGS
            .iter()
            .filter(|(name, _)| !["port", "daemonize", "loglevel"].contains(name))
            .map(|(name, value)| {
                format!("`{name} {}`", if value.is_empty() { "\"\"" } else { value })
            })
            .collect();
        format!(
            "{}; {}; a Unix socket; {CONNECTIONS} connections; `EVALSHA` of one script for \
             each order; latency is a pipeline's. The order's key remembers its id and is its \
             readable form, so nothing is written twice. Only with `appendfsync always` does it \
             lose nothing that it acknowledged: with `everysec`, as it comes, a crash takes up to \
             a second of orders.",
            self.version,
            settings.join(", ")
        )
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // One that has ended can't be killed; that is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
