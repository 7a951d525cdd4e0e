//! Replays a plan of real purchases through the platform's front door.
//!
//! Buyers are spread over connections, and each connection keeps the file's order: an order is
//! answered before a refund of it is sent, without waiting for anybody else. Orders that stand
//! together go as one batch; refunds go to their order's own path. Orders that are answered as busy
//! are sent again, with the same ids, before the connection goes on.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use model::{ItemId, OrderId, Outcome, Party};

use crate::RunId;
use crate::client::{ClientError, Connection};
use crate::engine::{Progress, unix_ms};
use crate::orders::write_uuid;
use crate::recorder::Recorder;
use crate::results::{parse_results, parse_single};
use crate::setup::{SetupError, fill};
use crate::target::Target;
use crate::trace::{Event, Plan};

/// The one seller of the trace's items.
const SELLER: Party = Party(1 << 50);
/// What is sent.
const KINDS: [&str; 1] = ["event"];
/// Orders per request. Baskets are large: more would pass the body's limit.
const BATCH: usize = 100;
/// Lines per request, so that its body stays well below the platform's limit.
const BATCH_LINES: usize = 20_000;
/// Between two attempts to place orders that are busy.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// How a trace is replayed.
#[derive(Clone)]
pub struct Replay {
    /// Where it goes.
    pub target: Target,
    /// What happened.
    pub plan: Arc<Plan>,
    /// What the orders' ids have in common.
    pub run: RunId,
    /// Open connections, at least 1.
    pub connections: usize,
    /// Times as fast as it happened; `None`: as fast as it goes.
    pub speed: Option<f64>,
    /// How long orders that are busy are sent again before they count as failed.
    pub retry_for: Duration,
}

/// What came of it.
pub struct Replayed {
    /// Counts and latencies. A refund counts as an order.
    pub recorder: Recorder,
    /// Orders that were acknowledged, and as what.
    pub orders: Vec<(Party, OrderId, Outcome)>,
    /// From the first send to the last answer.
    pub elapsed: Duration,
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Before the first order.
    #[error(transparent)]
    SetUp(#[from] SetupError),
    /// The connection.
    #[error("replaying: {0}")]
    Client(#[from] ClientError),
    /// The platform doesn't take a request.
    #[error("invoice {invoice}: status {status}: {body}")]
    Refused {
        /// The first invoice of the request.
        invoice: String,
        /// HTTP status.
        status: u16,
        /// The beginning of the answer.
        body: String,
    },
}

/// Lists the items, then sends every event. Runs on the current thread's `LocalSet`.
pub async fn replay(replay: &Replay, progress: &Arc<Progress>) -> Result<Replayed, ReplayError> {
    let plan = replay.plan.clone();
    let items = plan.items.len() as u64;
    fill(&replay.target, replay.connections, "items", items, move |n, body| {
        let item = &plan.items[n as usize];
        // Ample: nothing in a record of the past was sold out.
        let stock = item.units_sold * 2;
        body.extend_from_slice(
            format!(
                r#"{{"item":{},"seller":{SELLER},"currency":"GBP","price":{},"stock":{stock}}}"#,
                n + 1,
                item.price.0
            )
            .as_bytes(),
        );
    })
    .await?;

    let start = Instant::now();
    let first_s = replay.plan.events.first().map_or(0, Event::time_s);
    let lanes: Vec<_> = (0..replay.connections)
        .map(|number| {
            let lane = Lane {
                replay: Rc::new(replay.clone()),
                number,
                progress: progress.clone(),
                start,
                first_s,
                unix_ms: unix_ms(),
            };
            tokio::task::spawn_local(lane.run())
        })
        .collect();
    let mut replayed =
        Replayed { recorder: Recorder::new(&KINDS), orders: Vec::new(), elapsed: Duration::ZERO };
    for lane in lanes {
        let (recorder, mut orders) = lane.await.expect("a lane doesn't panic")?;
        replayed.recorder.merge(&recorder);
        replayed.orders.append(&mut orders);
    }
    replayed.elapsed = start.elapsed();
    Ok(replayed)
}

/// One connection and its buyers.
struct Lane {
    replay: Rc<Replay>,
    number: usize,
    progress: Arc<Progress>,
    start: Instant,
    /// When the trace's first event happened.
    first_s: u64,
    /// The time in all ids: events are told apart by number.
    unix_ms: u64,
}

type Acked = Vec<(Party, OrderId, Outcome)>;

impl Lane {
    async fn run(self) -> Result<(Recorder, Acked), ReplayError> {
        let mut connection = Connection::open(&self.replay.target).await?;
        let mut recorder = Recorder::new(&KINDS);
        let mut acked = Vec::new();
        let mut batch = Batch::default();
        let events = self.replay.plan.events.iter().enumerate();
        let mine = |event: &Event| {
            let lanes = self.replay.connections as u16;
            usize::from(model::ids::shard_of(event.buyer(), lanes).0) == self.number
        };
        for (number, event) in events.filter(|(_, event)| mine(event)) {
            let due = self.due(event);
            if batch.due.is_some_and(|first| first != due && self.replay.speed.is_some()) {
                self.flush(&mut connection, &mut batch, &mut recorder, &mut acked).await?;
            }
            match event {
                Event::Order { lines, .. } => {
                    let full = batch.lines + lines.len() > BATCH_LINES;
                    if batch.events.len() == BATCH || full {
                        self.flush(&mut connection, &mut batch, &mut recorder, &mut acked).await?;
                    }
                    batch.due = batch.due.or(Some(due));
                    self.push(&mut batch, number);
                }
                Event::Refund { buyer, order, lines, invoice, .. } => {
                    self.flush(&mut connection, &mut batch, &mut recorder, &mut acked).await?;
                    self.wait(due).await;
                    recorder.kinds[0].offered += 1;
                    let mut body = b"{\"id\":\"".to_vec();
                    write_uuid(self.id(number), &mut body);
                    body.extend_from_slice(b"\",\"lines\":[");
                    for (at, (line, quantity)) in lines.iter().enumerate() {
                        let comma = if at > 0 { "," } else { "" };
                        let line = format!("{comma}{{\"line\":{line},\"quantity\":{quantity}}}");
                        body.extend_from_slice(line.as_bytes());
                    }
                    body.extend_from_slice(b"]}");
                    let path = format!("/v1/buyers/{buyer}/orders/{}/refund", self.id(*order));
                    let sent = Instant::now();
                    let mut head = Vec::new();
                    self.replay.target.post(&path, body.len(), &mut head);
                    connection.send(&head, &body).await?;
                    let (status, answer) = connection.receive().await?;
                    let mut outcomes = Vec::new();
                    if status >= 500 || parse_single(answer, &mut outcomes).is_err() {
                        return Err(refused(invoice, status, answer));
                    }
                    self.count(&mut recorder, &outcomes, due, sent);
                }
            }
        }
        self.flush(&mut connection, &mut batch, &mut recorder, &mut acked).await?;
        Ok((recorder, acked))
    }

    /// When an event is due, after the start.
    fn due(&self, event: &Event) -> Duration {
        match self.replay.speed {
            Some(speed) => {
                Duration::from_secs_f64(event.time_s().saturating_sub(self.first_s) as f64 / speed)
            }
            None => Duration::ZERO,
        }
    }

    async fn wait(&self, due: Duration) {
        if self.replay.speed.is_some() {
            tokio::time::sleep_until((self.start + due).into()).await;
        }
    }

    fn id(&self, event: usize) -> OrderId {
        self.replay.run.order_id(self.unix_ms, event as u64)
    }

    async fn flush(
        &self,
        connection: &mut Connection,
        batch: &mut Batch,
        recorder: &mut Recorder,
        acked: &mut Acked,
    ) -> Result<(), ReplayError> {
        let Some(due) = batch.due else { return Ok(()) };
        self.wait(due).await;
        recorder.kinds[0].offered += batch.events.len() as u64;
        let first_sent = Instant::now();
        while !batch.events.is_empty() {
            batch.body.extend_from_slice(b"]}");
            let mut head = Vec::new();
            self.replay.target.post("/v1/orders/batch", batch.body.len(), &mut head);
            connection.send(&head, &batch.body).await?;
            let (status, answer) = connection.receive().await?;
            let mut outcomes = Vec::new();
            let parsed = parse_results(answer, &mut outcomes);
            if status != 200 || parsed.is_err() || outcomes.len() != batch.events.len() {
                let first = &self.replay.plan.events[batch.events[0].0];
                return Err(refused(first.invoice(), status, answer));
            }
            let answered = std::mem::take(batch);
            for (&(number, buyer), &outcome) in answered.events.iter().zip(&outcomes) {
                match Outcome::from_byte(outcome).expect("it was parsed") {
                    Outcome::Busy => self.push(batch, number),
                    outcome => acked.push((buyer, self.id(number), outcome)),
                }
            }
            self.count(recorder, &outcomes, due, first_sent);
            if batch.events.is_empty() {
                break;
            }
            if first_sent.elapsed() >= self.replay.retry_for {
                let (units, elapsed) = (batch.events.len() as u64, self.start.elapsed());
                recorder.failed(0, units, Outcome::Busy.word(), elapsed);
                self.progress.refused.fetch_add(units, Ordering::Relaxed);
                break;
            }
            recorder.retries += 1;
            tokio::time::sleep(BUSY_PAUSE).await;
        }
        batch.clear();
        Ok(())
    }

    /// Adds an order to those that are sent together.
    fn push(&self, batch: &mut Batch, number: usize) {
        let Event::Order { buyer, lines, .. } = &self.replay.plan.events[number] else {
            unreachable!("only orders are sent together")
        };
        batch.push(self.id(number), *buyer, lines, number);
    }

    fn count(&self, recorder: &mut Recorder, outcomes: &[u8], due: Duration, sent: Instant) {
        let now = Instant::now();
        let since = if self.replay.speed.is_some() { self.start + due } else { sent };
        let is_busy = |outcome: &&u8| **outcome == Outcome::Busy as u8;
        let units = (outcomes.len() - outcomes.iter().filter(is_busy).count()) as u64;
        let accepted = recorder.outcomes(outcomes);
        recorder.answered(0, units, accepted, now - since, now - self.start);
        self.progress.accepted.fetch_add(accepted, Ordering::Relaxed);
        self.progress.refused.fetch_add(units - accepted, Ordering::Relaxed);
    }
}

fn refused(invoice: &str, status: u16, answer: &[u8]) -> ReplayError {
    let body = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
    ReplayError::Refused { invoice: invoice.to_string(), status, body }
}

/// Orders that wait to be sent together.
#[derive(Default)]
struct Batch {
    body: Vec<u8>,
    events: Vec<(usize, Party)>,
    lines: usize,
    due: Option<Duration>,
}

impl Batch {
    fn push(&mut self, id: OrderId, buyer: Party, lines: &[crate::trace::TraceLine], event: usize) {
        let start: &[u8] = if self.events.is_empty() { b"{\"orders\":[" } else { b"," };
        self.body.extend_from_slice(start);
        self.body.extend_from_slice(format!("{{\"buyer\":{buyer},\"id\":\"").as_bytes());
        write_uuid(id, &mut self.body);
        self.body
            .extend_from_slice(b"\",\"currency\":\"GBP\",\"payment\":\"external\",\"lines\":[");
        for (at, line) in lines.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let (ItemId(item), quantity, price) = (line.item, line.quantity.0, line.unit_price.0);
            self.body.extend_from_slice(
                format!(
                    "{comma}{{\"item\":{item},\"quantity\":{quantity},\"unit_price\":{price}}}"
                )
                .as_bytes(),
            );
        }
        self.body.extend_from_slice(b"]}");
        self.lines += lines.len();
        self.events.push((event, buyer));
    }

    fn clear(&mut self) {
        self.body.clear();
        self.events.clear();
        self.lines = 0;
        self.due = None;
    }
}
