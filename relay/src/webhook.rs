//! Webhooks: each event is posted to a URL, signed, until it is taken.
//!
//! One process sends to one endpoint, and keeps in a directory ([`State`]) what was read and not
//! taken yet. It may be killed at any moment; then it sends again what it hadn't noted. So an
//! endpoint sees each event at least once, always under the same `webhook-id`. Signatures are
//! those of Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

mod queue;
mod sign;
mod state;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Url};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::feed::{self, Event, Feed, FeedError, Lines, Read};
use queue::{Queue, Undone};
pub use sign::{SecretError, Secrets, draw_secret};
pub use state::{Dead, State, StateError};
use state::{Place, Saved};

/// Events that are read and not taken yet, and their bytes. Then no more are read: the log keeps
/// them.
const WINDOW: usize = 10_000;
const WINDOW_BYTES: usize = 64 << 20;
/// How often what was done is noted. What comes after is sent again after a crash.
const NOTE_EVERY: Duration = Duration::from_millis(500);
/// How often it says how it stands.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Why a task has come to something.
const ENDS: &str = "no task panics or is cancelled";
/// How much of an answer that refuses is kept.
const ANSWER_BYTES: usize = 200;

/// Where events go, and how.
#[derive(Debug)]
pub struct Endpoint {
    /// Where they are posted to.
    pub url: Url,
    /// What they are signed with.
    pub secrets: Secrets,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Events that are on their way at once, at least 1.
    pub at_once: usize,
    /// How often each is tried before it is set aside, at least 1.
    pub attempts: u32,
    /// What is waited before the second attempt; then twice as long each time, up to eight hours.
    pub backoff: Duration,
    /// Whether one event of a party or an item waits until the one before was taken, or set aside.
    pub in_order: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Events that were taken.
    pub taken: u64,
    /// Attempts that weren't.
    pub refused: u64,
    /// Events that were set aside.
    pub dead: u64,
}

/// Why it ended early.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The feed.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The directory.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Sends the feed's events to an endpoint, until `stop`, or until all are taken or set aside if the
/// feed ends. What was set aside and is to be tried again is looked for meanwhile.
pub async fn send(
    feed: Feed,
    endpoint: Endpoint,
    directory: PathBuf,
    stop: impl Future<Output = ()>,
) -> Result<Sent, WebhookError> {
    let (state, saved) = State::open(&directory)?;
    let mut sender = Sender {
        client: feed::client()?,
        queue: Queue::new(endpoint.in_order),
        endpoint: endpoint.into(),
        state,
        place: saved.place.clone(),
        on_their_way: JoinSet::new(),
        sent: Sent::default(),
        is_noted: true,
    };
    let Saved { place, undone } = saved;
    let latest = now_ms() + 2 * queue::BACKOFF_MAX.as_millis() as u64;
    for undone in undone {
        // A clock that was far ahead then holds nothing up now.
        sender.queue.push(Undone { due_ms: undone.due_ms.min(latest), ..undone });
    }
    let feed = Feed { from: place.from.clone().unwrap_or(feed.from), ..feed };
    sender.run(feed, place.cursor, stop).await
}

struct Sender {
    client: Client,
    endpoint: std::sync::Arc<Endpoint>,
    queue: Queue,
    state: State,
    place: Place,
    on_their_way: JoinSet<(u64, Result<(), Refused>)>,
    sent: Sent,
    is_noted: bool,
}

/// Why an event wasn't taken.
struct Refused {
    why: String,
    /// When the endpoint wants it again.
    after: Option<Duration>,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

impl Sender {
    async fn run(
        mut self,
        feed: Feed,
        cursor: Option<String>,
        stop: impl Future<Output = ()>,
    ) -> Result<Sent, WebhookError> {
        let mut stop = std::pin::pin!(stop);
        let (events, mut read) = mpsc::channel(64);
        let mut reading =
            Some(tokio::spawn(async move { feed.follow::<Lines>(cursor, events).await }));
        let mut failed = None;
        let mut notes = interval(NOTE_EVERY);
        notes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = Instant::now();
        loop {
            self.start();
            if reading.is_none() && self.queue.is_empty() {
                break;
            }
            let due = self.queue.next_due().map(|due| due.saturating_sub(now_ms()));
            let due = if self.on_their_way.len() < self.endpoint.at_once { due } else { None };
            tokio::select! {
                () = &mut stop => break,
                Some(done) = self.on_their_way.join_next() => {
                    let (number, taken) = done.expect(ENDS);
                    self.note_answer(number, taken)?;
                }
                event = read.recv(), if reading.is_some() && self.has_room() => match event {
                    Some(Read::Platform(_)) => {}
                    Some(Read::Began(from)) => {
                        self.place.from = Some(from);
                        self.is_noted = false;
                        self.save()?;
                    }
                    Some(Read::Item(event)) => {
                        self.place.cursor = Some(event.id.clone());
                        self.queue.push(Undone::new(event));
                        self.is_noted = false;
                    }
                    None => {
                        let reading = reading.take().expect("it was being read");
                        let ended = reading.await.expect(ENDS);
                        // What was read is sent first.
                        failed = ended.err();
                        if let Some(error) = &failed {
                            tracing::error!(%error, "nothing more is read");
                        }
                    }
                },
                () = sleep(Duration::from_millis(due.unwrap_or(0))), if due.is_some() => {}
                _ = notes.tick() => {
                    if self.has_room() {
                        for undone in self.state.take_again()? {
                            self.queue.push(undone);
                            self.is_noted = false;
                        }
                    }
                    self.save()?;
                    self.state.forget_again()?;
                    if said.elapsed() >= SAY_EVERY {
                        said = Instant::now();
                        let Sent { taken, refused, dead } = self.sent;
                        let waiting = self.queue.len();
                        tracing::info!(taken, refused, dead, waiting, "webhook");
                    }
                }
            }
        }
        self.save()?;
        failed.map_or(Ok(self.sent), |error| Err(error.into()))
    }

    fn has_room(&self) -> bool {
        self.queue.len() < WINDOW && self.queue.bytes() < WINDOW_BYTES
    }

    /// Sends what is due.
    fn start(&mut self) {
        let now = now_ms();
        while self.on_their_way.len() < self.endpoint.at_once {
            let Some((number, event)) = self.queue.take(now) else { return };
            let (client, endpoint) = (self.client.clone(), self.endpoint.clone());
            self.on_their_way.spawn(async move { (number, post(&client, &endpoint, event).await) });
        }
    }

    fn note_answer(&mut self, number: u64, taken: Result<(), Refused>) -> Result<(), StateError> {
        self.is_noted = false;
        let Err(Refused { why, after }) = taken else {
            self.queue.done(number);
            self.sent.taken += 1;
            return Ok(());
        };
        self.sent.refused += 1;
        let attempts = self.queue.attempts(number) + 1;
        if attempts >= self.endpoint.attempts {
            if let Some(undone) = self.queue.get(number) {
                tracing::warn!(id = undone.event.id, why, "an event is set aside");
                self.state.set_aside(&Dead::of(undone, attempts, why, now_ms()))?;
            }
            self.queue.done(number);
            self.sent.dead += 1;
            return Ok(());
        }
        let wait = queue::backoff(self.endpoint.backoff, attempts, random())
            .max(after.unwrap_or_default());
        self.queue.again(number, now_ms() + wait.as_millis() as u64, why);
        Ok(())
    }

    fn save(&mut self) -> Result<(), StateError> {
        if !self.is_noted {
            self.state.save(&self.place, self.queue.iter())?;
            self.is_noted = true;
        }
        Ok(())
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without it everybody comes back at the same moment, and no harm else.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Posts an event. Any answer of 200 to 299 takes it.
async fn post(client: &Client, endpoint: &Endpoint, event: Event) -> Result<(), Refused> {
    let refused = |why: String| Refused { why, after: None };
    let seconds = now_ms() / 1_000;
    let signature = endpoint.secrets.sign(&event.id, seconds, &event.json);
    let request = client
        .post(endpoint.url.clone())
        .timeout(endpoint.timeout)
        .header("Content-Type", "application/cloudevents+json; charset=utf-8")
        .header("webhook-id", event.id)
        .header("webhook-timestamp", seconds.to_string())
        .header("webhook-signature", signature)
        .body(event.json);
    let answer = request.send().await.map_err(|error| {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        // Its URL may have a secret in it.
        refused(format!("{}{}", error.without_url(), source.unwrap_or_default()))
    })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let after =
        answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let after =
        after.map(|seconds: u32| Duration::from_secs(seconds.into()).min(queue::BACKOFF_MAX));
    let text = feed::beginning(answer, ANSWER_BYTES).await;
    Err(Refused { why: format!("{status}: {text}"), after })
}
