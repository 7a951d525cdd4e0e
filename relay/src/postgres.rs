//! The log in PostgreSQL: orders, lines, payments and ledger entries as rows.
//!
//! Rows and how far the log was read are written in one transaction, so that each record is
//! written once, whatever is killed when. What a record means for an order that was placed earlier
//! follows from the order, which is read from the tables ([`book`]); so nothing has to be kept
//! anywhere else. Where a record says something else than what follows, it stops.

mod book;
mod order;
mod tables;

use std::time::{Duration, Instant};

use bytes::Bytes;
use model::event::EventId;
use model::frame::Frame;
use model::record::RULE_VERSION;
use model::{Offset, ShardId};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use crate::feed::{Feed, FeedError, Frames, Platform, Read};
use book::Book;
use tables::Progress;

/// Frames that are read while others are written.
const FRAMES_AHEAD: usize = 64;
/// A batch ends with so many bytes, or so long after it began.
const BATCH_BYTES: usize = 16 << 20;
const BATCH_TIME: Duration = Duration::from_millis(100);
/// How long is waited before the database is tried again, at first and at last.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// How often it says how it stands.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Where the rows go.
#[derive(Clone, Debug)]
pub struct Target {
    /// The database.
    pub database: Config,
    /// The schema of the tables, which is made if it isn't there.
    pub schema: String,
    /// Connections, at least 1, each for its part of the shards. It stays what it was when the
    /// tables were made.
    pub parts: u16,
}

/// Some of the shards: what is written by one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    number: u16,
    of: u16,
}

impl Default for Part {
    fn default() -> Part {
        Part { number: 0, of: 1 }
    }
}

impl Part {
    fn has(self, shard: ShardId) -> bool {
        shard.0 % self.of == self.number
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Orders that were placed or refused.
    pub orders: u64,
    /// Ledger entries.
    pub entries: u64,
    /// Transactions.
    pub batches: u64,
}

impl Written {
    fn and(self, other: Written) -> Written {
        Written {
            orders: self.orders + other.orders,
            entries: self.entries + other.entries,
            batches: self.batches + other.batches,
        }
    }
}

/// Why it ended.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The feed.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The database.
    #[error("PostgreSQL: {}", said(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// The tables are of another version of this program.
    #[error("the tables are of version {found}; this program writes another")]
    Version {
        /// What they say.
        found: i32,
    },
    /// The tables were made for another number of connections.
    #[error("the tables were made for {found} parts, and {asked} are asked for")]
    Parts {
        /// The tables'.
        found: i32,
        /// What is asked for.
        asked: u16,
    },
    /// There are fewer shards than parts.
    #[error("{parts} parts are too many: the platform has {shards} shards")]
    TooManyParts {
        /// What is asked for.
        parts: u16,
        /// The platform's.
        shards: u16,
    },
    /// A frame was decided by rules that this program doesn't know.
    #[error(
        "shard {shard} was decided by rules {found}; this program follows rules {RULE_VERSION}"
    )]
    Rules {
        /// Whose frame.
        shard: ShardId,
        /// What it says.
        found: u16,
    },
    /// There is no thread to write with.
    #[error("no thread to write with: {0}")]
    Thread(#[from] std::io::Error),
    /// A word in the tables is none of Crest's.
    #[error("the tables say {0:?}, which nothing is called")]
    Word(String),
    /// The tables have another platform's rows.
    #[error(
        "the tables are of {theirs}, with {their_shards} shards; the feed is of {found}, with {shards}"
    )]
    OtherPlatform {
        /// The tables'.
        theirs: String,
        /// The tables'.
        their_shards: usize,
        /// The feed's.
        found: String,
        /// The feed's.
        shards: u16,
    },
    /// The platform doesn't say who it is.
    #[error("the feed doesn't say whose it is: a platform of an older version?")]
    NoPlatform,
    /// Somebody else writes to the same tables.
    #[error("somebody else writes to these tables")]
    SomebodyElse,
    /// What was read can't be what was written.
    #[error("the feed can't be read: {0}")]
    Frame(String),
    /// Records are missing.
    #[error(
        "shard {shard} goes on with record {found}, and record {next} isn't here yet: what is \
         between was trimmed and is in no archive"
    )]
    Gap {
        /// The shard.
        shard: ShardId,
        /// What should have come.
        next: u64,
        /// What came.
        found: u64,
    },
    /// A record isn't what follows from those before it.
    #[error("event {place} differs from what follows from those before it: {what}")]
    Differs {
        /// The event.
        place: String,
        /// What differs.
        what: &'static str,
    },
}

/// What the server said is in the error's source.
fn said(error: &tokio_postgres::Error) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

impl SinkError {
    /// Whether it may be over when it is tried again: the server was stopped, the connection cut,
    /// the disk full.
    fn may_pass(&self) -> bool {
        let SinkError::Postgres(error) = self else { return false };
        let Some(code) = error.code() else {
            // Not the server's: an address or a connection; or a value that can't be converted,
            // which is never sent.
            return error.is_closed()
                || std::error::Error::source(error)
                    .is_some_and(|source| source.is::<std::io::Error>());
        };
        let passing = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::QUERY_CANCELED,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::T_R_SERIALIZATION_FAILURE,
        ];
        // Connections, resources, the system below.
        let classes = ["08", "53", "58"];
        let is_of = |class: &&str| code.code().starts_with(*class);
        *code != SqlState::PROTOCOL_VIOLATION
            && (passing.contains(code) || classes.iter().any(is_of))
    }
}

/// Writes the feed to a database until `stop`, or to its end if it has one. It begins with the
/// first record there ever was, or goes on where the tables end. Each part has a thread.
pub async fn sink(
    feed: Feed,
    target: Target,
    stop: impl Future<Output = ()>,
) -> Result<Written, SinkError> {
    let mut stop = std::pin::pin!(stop);
    let (stopping, stopped) = watch::channel(false);
    let (ended, mut ends) = mpsc::channel(1);
    for number in 0..target.parts.max(1) {
        let part = Part { number, of: target.parts.max(1) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (feed, target, ended) = (feed.clone(), target.clone(), ended.clone());
        let mut stopped = stopped.clone();
        let run = move || {
            let mut written = Written::default();
            let end = runtime.block_on(async {
                // Nothing half done stays when it is dropped.
                tokio::select! {
                    end = write_part(&feed, &target, part, &mut written) => end,
                    _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
                }
            });
            // Whoever waits, waits for all parts.
            let _ = ended.blocking_send(end.map(|()| written));
        };
        std::thread::Builder::new().name(format!("crest-sink-{number}")).spawn(run)?;
    }
    drop(ended);
    let (mut written, mut failed, mut is_stopping) = (Written::default(), None, false);
    loop {
        let end = tokio::select! {
            end = ends.recv() => end,
            () = &mut stop, if !is_stopping => {
                is_stopping = true;
                stopping.send_replace(true);
                continue;
            }
        };
        match end {
            None => break,
            Some(Ok(part)) => written = written.and(part),
            Some(Err(error)) => {
                failed.get_or_insert(error);
                is_stopping = true;
                stopping.send_replace(true);
            }
        }
    }
    failed.map_or(Ok(written), Err)
}

/// Writes a part, until its feed ends.
async fn write_part(
    feed: &Feed,
    target: &Target,
    part: Part,
    written: &mut Written,
) -> Result<(), SinkError> {
    let mut pause = PAUSE;
    loop {
        let batches = written.batches;
        match pour(feed, target, part, written).await {
            Err(error) if error.may_pass() => {
                pause = if written.batches > batches { PAUSE } else { (pause * 2).min(PAUSE_MAX) };
                tracing::warn!(%error, part = part.number, "it is tried again");
            }
            ended => return ended,
        }
        sleep(pause).await;
    }
}

/// One connection to the database, and one follower of the feed.
async fn pour(
    feed: &Feed,
    target: &Target,
    part: Part,
    written: &mut Written,
) -> Result<(), SinkError> {
    let (mut client, connection) = target.database.connect(NoTls).await?;
    // It ends with its client; what goes wrong with it, the next query says.
    tokio::spawn(async move { drop(connection.await) });
    let progress = tables::open(&mut client, &target.schema, part).await?;
    let cursor = progress.as_ref().and_then(|progress| progress.last_event_id.clone());
    let (frames, mut read) = mpsc::channel(FRAMES_AHEAD);
    let feed = feed.clone();
    let reading = tokio::spawn(async move { feed.follow::<Frames>(cursor, frames).await });
    let mut book = Book::default();
    book.part = part;
    let mut writer = Writer { client, book, progress, said: Instant::now() };
    tables::load_closed(&writer.client, &mut writer.book).await?;
    let mut batch = Vec::new();
    while let Some(first) = read.recv().await {
        let deadline = tokio::time::Instant::now() + BATCH_TIME;
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(item) = next {
            match item {
                Read::Platform(platform) => writer.meet(platform).await?,
                Read::Began(_) => {}
                Read::Item(frame) => {
                    bytes += frame.len();
                    batch.push(frame);
                }
            }
            let waits = async { timeout_at(deadline, read.recv()).await.ok().flatten() };
            next = if bytes < BATCH_BYTES { waits.await } else { None };
        }
        writer.write(&batch, written).await?;
        batch.clear();
    }
    reading.await.expect("no task panics or is cancelled")?;
    Ok(())
}

struct Writer {
    client: Client,
    book: Book,
    progress: Option<Progress>,
    said: Instant,
}

impl Writer {
    /// The feed says whose it is.
    async fn meet(&mut self, platform: Platform) -> Result<(), SinkError> {
        let Platform { source, shards } = platform;
        if source.is_empty() || shards == 0 {
            return Err(SinkError::NoPlatform);
        }
        if self.book.part.of > shards {
            return Err(SinkError::TooManyParts { parts: self.book.part.of, shards });
        }
        let Some(progress) = &self.progress else {
            let next = vec![1; shards.into()];
            let progress = Progress { platform: source, next, last_event_id: None };
            tables::begin(&self.client, self.book.part, &progress).await?;
            self.book.next.clone_from(&progress.next);
            self.progress = Some(progress);
            return Ok(());
        };
        if progress.platform != source || progress.next.len() != usize::from(shards) {
            return Err(SinkError::OtherPlatform {
                theirs: progress.platform.clone(),
                their_shards: progress.next.len(),
                found: source,
                shards,
            });
        }
        self.book.next.clone_from(&progress.next);
        Ok(())
    }

    async fn write(&mut self, frames: &[Bytes], written: &mut Written) -> Result<(), SinkError> {
        let (Some(progress), false) = (&self.progress, frames.is_empty()) else { return Ok(()) };
        let last = frames.iter().rev().find_map(|bytes| {
            let frame = Frame::split(bytes).ok()?.0;
            let last = frame.next_offset().0.checked_sub(1)?;
            let has_records = frame.header.count.get() > 0;
            let id = EventId { shard: frame.place().shard, offset: Offset(last), part: 0 };
            has_records.then(|| id.to_string())
        });
        self.book.begin();
        let wrote = tables::write(&mut self.client, &mut self.book, progress, (frames, last));
        self.progress = Some(wrote.await?);
        written.batches += 1;
        written.orders += self.book.orders.values().filter(|order| order.is_new).count() as u64;
        written.entries += self.book.entries.len() as u64;
        if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let now_ms = now.map_or(0, |now| now.as_millis() as u64);
            let lag_ms = now_ms.saturating_sub(self.book.time.0 / 1_000);
            let Written { orders, entries, batches } = *written;
            let part = self.book.part.number;
            tracing::info!(part, orders, entries, batches, lag_ms, "sink");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
