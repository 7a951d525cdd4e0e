//! Sends a profile's orders, on schedule or flat out.
//!
//! On schedule (open loop), batch *k* is due at start + *k* / rate, whatever the platform does.
//! Each connection takes the next batch as soon as it is free, builds its body, waits until it
//! is due and sends it; latency counts from when it was due, so a stall shows in every batch
//! that it delayed. A batch that went out late although its connection was ready in time is the
//! generator's own fault and is recorded apart ([`Recorder::late`]).
//!
//! Flat out (closed loop), each connection sends the next batch when the answer is there.
//!
//! A request that got no answer, or "try again", is sent again with the same ids until it has
//! one: that is what ids are for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use model::Outcome;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::acks::Acks;
use crate::http1::{ClientError, Connection, Target};
use crate::profile::{Profile, RunId};
use crate::recorder::Recorder;

/// When orders are due.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// As fast as answers come.
    Max,
    /// So many orders a second, evenly.
    Rate(f64),
}

/// A run.
#[derive(Clone, Debug)]
pub struct Drive {
    /// Where orders go.
    pub target: Target,
    /// Which orders.
    pub profile: Arc<Profile>,
    /// What their ids have in common.
    pub run: RunId,
    /// Orders per request, at least 1. With 1, they go to the path for single orders.
    pub batch: u64,
    /// Open connections, at least 1.
    pub connections: usize,
    /// Threads that share them, at least 1.
    pub threads: usize,
    /// When orders are due.
    pub pace: Pace,
    /// How long orders fall due.
    pub duration: Duration,
    /// How long a request is resent before its orders count as errors.
    pub retry_for: Duration,
}

/// What came of a run.
pub struct Driven {
    /// Counts and latencies.
    pub recorder: Recorder,
    /// What was acknowledged.
    pub acks: Acks,
    /// From the first send to the last answer.
    pub elapsed: Duration,
}

/// Orders so far, for whoever watches.
#[derive(Default)]
pub struct Progress {
    /// Orders with an accepting answer.
    pub accepted: AtomicU64,
    /// Orders with any other answer.
    pub refused: AtomicU64,
}

/// The most time that one request may wait for its answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Batches that fell due and could not be sent are given up so long after the end.
const OVERTIME: Duration = Duration::from_secs(30);

/// Runs it. Blocks the calling thread.
pub fn drive(plan: &Drive, progress: &Arc<Progress>) -> std::io::Result<Driven> {
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let per_thread = |thread: usize| {
        let share = plan.connections / plan.threads;
        share + usize::from(thread < plan.connections % plan.threads)
    };
    let threads: Vec<_> = (0..plan.threads)
        .map(|thread| {
            let worker = Worker {
                plan: plan.clone(),
                next: next.clone(),
                progress: progress.clone(),
                start,
                connections: per_thread(thread),
            };
            std::thread::Builder::new().name("crest-load".to_string()).spawn(move || worker.run())
        })
        .collect::<Result<_, _>>()?;
    let mut recorder = Recorder::default();
    let mut acks = Acks::new(plan.run, plan.batch);
    for thread in threads {
        let (theirs, their_acks) = thread.join().expect("a load thread doesn't panic")?;
        recorder.merge(&theirs);
        acks.merge(their_acks);
    }
    Ok(Driven { recorder, acks, elapsed: start.elapsed() })
}

/// One thread's part of a run.
struct Worker {
    plan: Drive,
    next: Arc<AtomicU64>,
    progress: Arc<Progress>,
    start: Instant,
    connections: usize,
}

impl Worker {
    fn run(self) -> std::io::Result<(Recorder, Acks)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let local = tokio::task::LocalSet::new();
        let worker = std::rc::Rc::new(self);
        local.block_on(&runtime, async move {
            let lanes: Vec<_> = (0..worker.connections)
                .map(|_| tokio::task::spawn_local(worker.clone().lane()))
                .collect();
            let mut recorder = Recorder::default();
            let mut acks = Acks::new(worker.plan.run, worker.plan.batch);
            for lane in lanes {
                let (theirs, their_acks) = lane.await.expect("a lane doesn't panic");
                recorder.merge(&theirs);
                acks.merge(their_acks);
            }
            Ok((recorder, acks))
        })
    }

    /// One connection from start to end.
    async fn lane(self: std::rc::Rc<Worker>) -> (Recorder, Acks) {
        let plan = &self.plan;
        let mut recorder = Recorder::default();
        let mut acks = Acks::new(plan.run, plan.batch);
        let mut request = Request::default();
        let mut connection = None;
        let mut outcomes = Vec::new();
        let end = self.start + plan.duration;
        loop {
            let free = Instant::now();
            if plan.pace == Pace::Max && free >= end {
                break;
            }
            let batch = self.next.fetch_add(1, Ordering::Relaxed);
            let due = match plan.pace {
                Pace::Max => free,
                Pace::Rate(rate) => {
                    let after = batch as f64 * plan.batch as f64 / rate;
                    self.start + Duration::from_secs_f64(after)
                }
            };
            if due >= end {
                break;
            }
            recorder.offered += plan.batch;
            let unix_ms = unix_ms();
            if free > end + OVERTIME {
                recorder.errors += plan.batch;
                recorder.last_error = Some("never sent: the platform fell behind".to_string());
                acks.add(batch, unix_ms, None);
                continue;
            }
            request.build(plan, batch, unix_ms);
            if let Pace::Rate(_) = plan.pace {
                tokio::time::sleep_until(due.into()).await;
                recorder.sent(Instant::now().saturating_duration_since(due.max(free)));
            }
            let sent = self.send(&request, &mut connection, &mut outcomes, &mut recorder).await;
            let now = Instant::now();
            match sent {
                Ok(()) => {
                    recorder.answered(&outcomes, now - due, now - self.start);
                    acks.add(batch, unix_ms, Some(&outcomes));
                    let done = |&&outcome: &&u8| outcome <= Outcome::AlreadyDone as u8;
                    let accepted = outcomes.iter().filter(done).count() as u64;
                    self.progress.accepted.fetch_add(accepted, Ordering::Relaxed);
                    let refused = plan.batch - accepted;
                    self.progress.refused.fetch_add(refused, Ordering::Relaxed);
                }
                Err(error) => {
                    recorder.errors += plan.batch;
                    recorder.last_error = Some(error);
                    acks.add(batch, unix_ms, None);
                }
            }
        }
        (recorder, acks)
    }

    /// Sends until there is an answer that says what became of every order.
    async fn send(
        &self,
        request: &Request,
        connection: &mut Option<Connection>,
        outcomes: &mut Vec<u8>,
        recorder: &mut Recorder,
    ) -> Result<(), String> {
        let give_up = Instant::now() + self.plan.retry_for;
        loop {
            outcomes.clear();
            let attempt = self.attempt(request, connection, outcomes);
            let attempt = match tokio::time::timeout(ANSWER_MAX, attempt).await {
                Ok(attempt) => attempt,
                Err(_) => Err(Attempt::Again(ClientError::Timeout(ANSWER_MAX).to_string())),
            };
            match attempt {
                Ok(()) => return Ok(()),
                Err(Attempt::Refused(why)) => return Err(why),
                Err(Attempt::Again(why)) => {
                    *connection = None;
                    if Instant::now() >= give_up {
                        return Err(why);
                    }
                    recorder.retries += 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn attempt(
        &self,
        request: &Request,
        connection: &mut Option<Connection>,
        outcomes: &mut Vec<u8>,
    ) -> Result<(), Attempt> {
        let again = |error: ClientError| Attempt::Again(error.to_string());
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(Connection::open(&self.plan.target).await.map_err(again)?),
        };
        connection.send(&request.head, &request.body).await.map_err(again)?;
        let (status, answer) = connection.receive().await.map_err(again)?;
        if status >= 500 {
            return Err(Attempt::Again(format!("status {status}: {}", excerpt(answer))));
        }
        let parsed = match self.plan.batch {
            1 => parse_single(answer, outcomes),
            _ if status == 200 => parse_results(answer, outcomes),
            _ => return Err(Attempt::Refused(format!("status {status}: {}", excerpt(answer)))),
        };
        let complete = outcomes.len() as u64 == self.plan.batch;
        match parsed {
            Ok(()) if complete => Ok(()),
            Ok(()) => Err(Attempt::Refused(format!("{} results", outcomes.len()))),
            Err(error) => Err(Attempt::Refused(format!("{error}: {}", excerpt(answer)))),
        }
    }
}

/// Why an attempt ended without outcomes.
enum Attempt {
    /// Nothing is known: the same ids can be sent again.
    Again(String),
    /// The platform doesn't take the request, and won't.
    Refused(String),
}

fn excerpt(answer: &[u8]) -> String {
    String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned()
}

/// Milliseconds since 1970, for ids.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// A request's bytes, used again for the next.
#[derive(Default)]
struct Request {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Request {
    fn build(&mut self, plan: &Drive, batch: u64, unix_ms: u64) {
        let first = batch * plan.batch;
        self.head.clear();
        self.body.clear();
        if plan.batch == 1 {
            write_order(&plan.profile, plan.run, first, unix_ms, &mut self.body);
            plan.target.post("/v1/orders", self.body.len(), &mut self.head);
            return;
        }
        write_orders(&plan.profile, plan.run, first, plan.batch, unix_ms, &mut self.body);
        plan.target.post("/v1/orders/batch", self.body.len(), &mut self.head);
    }
}

/// The body of batch `number` of a profile: for measuring what reads it.
pub fn batch_body(profile: &Profile, run: RunId, number: u64, orders: u64) -> Vec<u8> {
    let mut body = Vec::new();
    write_orders(profile, run, number * orders, orders, unix_ms(), &mut body);
    body
}

/// Appends the body of `orders` orders of a profile, from number `first` on, to `out`.
pub fn write_orders(
    profile: &Profile,
    run: RunId,
    first: u64,
    orders: u64,
    unix_ms: u64,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"orders\":[");
    for n in first..first + orders {
        if n > first {
            out.push(b',');
        }
        write_order(profile, run, n, unix_ms, out);
    }
    out.extend_from_slice(b"]}");
}

fn write_order(profile: &Profile, run: RunId, n: u64, unix_ms: u64, out: &mut Vec<u8>) {
    let order = profile.order(n);
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(b"{\"buyer\":");
    out.extend_from_slice(digits.format(order.buyer.0).as_bytes());
    out.extend_from_slice(b",\"id\":\"");
    write_uuid(run.order_id(unix_ms, n).0, out);
    out.extend_from_slice(b"\",\"currency\":\"GBP\",\"payment\":\"balance\",\"lines\":[");
    for (number, (item, quantity)) in order.enumerate() {
        out.extend_from_slice(if number > 0 { b",{\"item\":" } else { b"{\"item\":" });
        out.extend_from_slice(digits.format(item.0).as_bytes());
        out.extend_from_slice(b",\"quantity\":");
        out.extend_from_slice(digits.format(quantity).as_bytes());
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
}

/// A UUID in its hyphenated form.
pub fn write_uuid(id: u128, out: &mut Vec<u8>) {
    let mut text = uuid::Uuid::encode_buffer();
    out.extend_from_slice(
        uuid::Uuid::from_u128(id).as_hyphenated().encode_lower(&mut text).as_bytes(),
    );
}

/// Appends the outcome of every result in `{"results":[…]}` as its byte.
pub fn parse_results(answer: &[u8], outcomes: &mut Vec<u8>) -> Result<(), ClientError> {
    let mut json = sonic_rs::Deserializer::from_slice(answer);
    Results(outcomes).deserialize(&mut json).map_err(not_understood)
}

/// Appends the outcome of a single answer, or of a refusal's problem.
pub fn parse_single(answer: &[u8], outcomes: &mut Vec<u8>) -> Result<(), ClientError> {
    let mut json = sonic_rs::Deserializer::from_slice(answer);
    OneResult(outcomes).deserialize(&mut json).map_err(not_understood)
}

fn not_understood(error: sonic_rs::Error) -> ClientError {
    ClientError::Protocol(error.to_string().lines().next().unwrap_or_default().to_string())
}

struct Results<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Results<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Results<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("results")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<&str>()? {
            match key {
                "results" => map.next_value_seed(EachResult(&mut *self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct EachResult<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for EachResult<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for EachResult<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of results")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(OneResult(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

struct OneResult<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for OneResult<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneResult<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a result")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<&str>()? {
            match key {
                "outcome" => found = Outcome::from_word(map.next_value::<&str>()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let outcome = found.ok_or_else(|| A::Error::custom("a result without a known outcome"))?;
        self.0.push(outcome as u8);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_as_outcomes() {
        let answer = br#"{"results":[{"outcome":"ok","state":"paid","total":5},{"outcome":"sold_out","field":"lines[0]"}]}"#;
        let mut outcomes = Vec::new();
        parse_results(answer, &mut outcomes).unwrap();
        assert_eq!(outcomes, [Outcome::Ok as u8, Outcome::SoldOut as u8]);
        assert!(parse_results(br#"{"results":[{"state":"paid"}]}"#, &mut outcomes).is_err());
        outcomes.clear();
        let problem = br#"{"type":"x","status":409,"outcome":"insufficient_funds"}"#;
        parse_single(problem, &mut outcomes).unwrap();
        assert_eq!(outcomes, [Outcome::InsufficientFunds as u8]);
    }
}
