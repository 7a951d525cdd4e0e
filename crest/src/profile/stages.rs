//! What the platform says of its stages: fetched from the admin port, subtracted, compared.
//!
//! `GET /stages` counts from the start of the platform, so an interval is the difference of two
//! answers. Every field may be missing: a profile of a platform of another version is still a
//! profile.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The admin port answers within this, or there are no stages in the profile.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Bytes of an answer: some dozens of histograms take a tenth of it.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// What the stages and threads had done by some moment, or did in an interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Stages {
    pub(crate) uptime_ns: u64,
    pub(crate) stages: Vec<Stage>,
    pub(crate) threads: Vec<Thread>,
}

/// One stage at one place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Stage {
    pub(crate) stage: String,
    pub(crate) place: String,
    pub(crate) requests: u64,
    pub(crate) orders: u64,
    pub(crate) sum_ns: u64,
    /// A bucket's lower bound in nanoseconds, and how many are in it.
    pub(crate) buckets: Vec<(u64, u64)>,
}

/// What one thread did with its time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Thread {
    pub(crate) name: String,
    pub(crate) on_core_ns: u64,
    pub(crate) waiting_for_core_ns: u64,
    /// Only of threads that sync.
    pub(crate) waiting_for_sync_ns: Option<u64>,
    pub(crate) waiting_for_work_ns: Option<u64>,
}

/// Why there are no stages.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StagesError {
    #[error("{address}: {source}")]
    Io { address: String, source: std::io::Error },
    #[error("{address} answers {answer:?} to GET /stages")]
    Status { address: String, answer: String },
    #[error("what {address} says of its stages is not understood: {detail}")]
    Json { address: String, detail: String },
}

impl Stages {
    /// Asks an admin port.
    pub(crate) fn fetch(address: &str) -> Result<Stages, StagesError> {
        let io = |source| StagesError::Io { address: address.to_string(), source };
        let text = get(address).map_err(io)?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            let answer = status.to_string();
            return Err(StagesError::Status { address: address.to_string(), answer });
        }
        sonic_rs::from_str(body).map_err(|error| StagesError::Json {
            address: address.to_string(),
            detail: error.to_string().lines().next().unwrap_or_default().to_string(),
        })
    }

    /// What was done since `before`. Stages and threads that were not there then count from 0.
    pub(crate) fn since(&self, before: &Stages) -> Stages {
        let stages = self.stages.iter().map(|now| {
            let was = before.stages.iter().find(|was| was.key() == now.key());
            was.map_or_else(|| now.clone(), |was| now.since(was))
        });
        let threads = self.threads.iter().map(|now| {
            let was = before.threads.iter().find(|was| was.name == now.name);
            was.map_or_else(|| now.clone(), |was| now.since(was))
        });
        Stages {
            uptime_ns: self.uptime_ns.saturating_sub(before.uptime_ns),
            stages: stages.collect(),
            threads: threads.collect(),
        }
    }

    /// The stages summed over their places, in the order in which they are told.
    pub(crate) fn by_stage(&self) -> Vec<Stage> {
        let mut sums: Vec<Stage> = Vec::new();
        for stage in &self.stages {
            match sums.iter_mut().find(|sum| sum.stage == stage.stage) {
                Some(sum) => sum.add(stage),
                None => sums.push(Stage { place: String::new(), ..stage.clone() }),
            }
        }
        sums
    }

    /// Mean and tail of every stage, for a person.
    pub(crate) fn table(&self) -> String {
        let mut text = "\n  stages              mean µs     p99 µs\n".to_string();
        for stage in self.by_stage() {
            let (Some(mean), Some(p99)) = (stage.mean_ns(), stage.p99_ns()) else { continue };
            let (mean, p99) = (mean / 1e3, p99 as f64 / 1e3);
            let _ = writeln!(text, "  {:<16} {mean:10.1} {p99:10.1}", stage.stage);
        }
        text
    }
}

fn get(address: &str) -> std::io::Result<String> {
    let nowhere = || std::io::Error::other("there is no such address");
    let bare = address.trim_start_matches("http://").trim_end_matches('/');
    let found: SocketAddr = bare.to_socket_addrs()?.next().ok_or_else(nowhere)?;
    let mut stream = TcpStream::connect_timeout(&found, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    // In HTTP/1.0 the answer comes in one piece and ends with the connection.
    stream.write_all(format!("GET /stages HTTP/1.0\r\nhost: {bare}\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

impl Stage {
    fn key(&self) -> (&str, &str) {
        (&self.stage, &self.place)
    }

    fn since(&self, before: &Stage) -> Stage {
        let was: BTreeMap<u64, u64> = before.buckets.iter().copied().collect();
        let left = |(bound, count): &(u64, u64)| {
            (*bound, count.saturating_sub(was.get(bound).copied().unwrap_or(0)))
        };
        Stage {
            stage: self.stage.clone(),
            place: self.place.clone(),
            requests: self.requests.saturating_sub(before.requests),
            orders: self.orders.saturating_sub(before.orders),
            sum_ns: self.sum_ns.saturating_sub(before.sum_ns),
            buckets: self.buckets.iter().map(left).filter(|(_, count)| *count > 0).collect(),
        }
    }

    fn add(&mut self, other: &Stage) {
        self.requests += other.requests;
        self.orders += other.orders;
        self.sum_ns += other.sum_ns;
        let mut buckets: BTreeMap<u64, u64> = self.buckets.iter().copied().collect();
        for (bound, count) in &other.buckets {
            *buckets.entry(*bound).or_default() += count;
        }
        self.buckets = buckets.into_iter().collect();
    }

    /// How often it was gone through.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// Mean nanoseconds of one pass.
    pub(crate) fn mean_ns(&self) -> Option<f64> {
        let count = if self.buckets.is_empty() { self.requests } else { self.count() };
        (count > 0).then(|| self.sum_ns as f64 / count as f64)
    }

    /// The standard error of the mean, from the buckets' bounds.
    pub(crate) fn mean_error_ns(&self) -> f64 {
        let n = self.count() as f64;
        if n < 2.0 {
            return f64::INFINITY;
        }
        let weighted = |power: i32| -> f64 {
            self.buckets.iter().map(|(ns, count)| (*ns as f64).powi(power) * *count as f64).sum()
        };
        let mean = weighted(1) / n;
        ((weighted(2) / n - mean * mean).max(0.0) / n).sqrt()
    }

    /// The bound of the bucket that the 99th of 100 passes is in.
    pub(crate) fn p99_ns(&self) -> Option<u64> {
        // The rank's ceiling: of one pass it is the first, of 100 the 99th.
        let rank = (self.count() * 99).div_ceil(100);
        let mut below = 0;
        self.buckets.iter().find_map(|(bound, count)| {
            below += count;
            (below >= rank && rank > 0).then_some(*bound)
        })
    }
}

impl Thread {
    fn since(&self, before: &Thread) -> Thread {
        let less = |now: Option<u64>, was: Option<u64>| {
            now.map(|now| now.saturating_sub(was.unwrap_or(0)))
        };
        Thread {
            name: self.name.clone(),
            on_core_ns: self.on_core_ns.saturating_sub(before.on_core_ns),
            waiting_for_core_ns: self
                .waiting_for_core_ns
                .saturating_sub(before.waiting_for_core_ns),
            waiting_for_sync_ns: less(self.waiting_for_sync_ns, before.waiting_for_sync_ns),
            waiting_for_work_ns: less(self.waiting_for_work_ns, before.waiting_for_work_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"{"uptime_ns":10,"stages":[
        {"stage":"apply","place":"shard 0","requests":1,"orders":5,"sum_ns":90,"buckets":[[100,1]]}]}"#;
    const AFTER: &str = r#"{"uptime_ns":30,"log":{"bytes":4},"threads":[{"name":"crest-log",
        "on_core_ns":7,"waiting_for_core_ns":1,"waiting_for_sync_ns":null,"more":1}],"stages":[
        {"stage":"apply","place":"shard 0","requests":101,"orders":9,"sum_ns":10090,
         "buckets":[[100,100],[200,1]]},{"stage":"apply","place":"shard 1"}]}"#;

    #[test]
    fn an_interval_is_the_difference_of_two_answers() {
        let [before, after] =
            [BEFORE, AFTER].map(|text| -> Stages { sonic_rs::from_str(text).unwrap() });
        let between = after.since(&before);
        let apply = &between.by_stage()[0];
        assert_eq!((between.uptime_ns, between.stages.len(), apply.orders), (20, 2, 4));
        assert_eq!(apply.buckets, [(100, 99), (200, 1)]);
        assert_eq!((apply.mean_ns(), apply.p99_ns()), (Some(100.0), Some(100)));
        assert_eq!(between.threads[0].on_core_ns, 7);
        let table = "\n  stages              mean µs     p99 µs\n  apply                   0.1        0.1\n";
        assert_eq!(between.table(), table);
        assert_eq!(Stage::default().p99_ns(), None);
    }

    #[test]
    fn stages_are_fetched_from_an_admin_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            for status in ["200 OK", "404 Not Found"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 256];
                assert!(stream.read(&mut head).unwrap() > 0);
                write!(stream, "HTTP/1.0 {status}\r\n\r\n{BEFORE}").unwrap();
            }
        });
        assert_eq!(Stages::fetch(&address).unwrap().stages[0].orders, 5);
        let error = Stages::fetch(&address).unwrap_err().to_string();
        assert!(error.contains("404 Not Found"), "{error}");
        server.join().unwrap();
        assert!(matches!(Stages::fetch(&address), Err(StagesError::Io { .. })));
    }
}
