//! The feed: what became durable, as events, for those who only read.
//!
//! All shards of a node share one log, and its order is total; so a reader's place is one position
//! in it. A reader that is behind has a thread of its own, which reads the log's segments, from
//! the archive where they were trimmed. One that has come up to the end goes on with the [`Tail`]:
//! the log thread copies what it appends as long as anybody reads, one thread makes events of it,
//! and all readers have the same bytes. Whoever is too slow for that is behind again. So nothing
//! that a reader does holds up the log, or takes memory beyond the tail's.

mod chunk;
mod filter;
mod history;
mod start;
mod tail;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;

use model::{Offset, ShardId};
use mq::{Archive, ArchiveError, Disk, LogError};
use ring::digest;
use tokio::sync::{mpsc, watch};

use crate::Placement;
use crate::commit::Job;
use crate::threads::{self, Priority};
use chunk::Chunks;

pub use chunk::{FeedChunk, FeedEvent};
pub use filter::{EventFilter, Matches};
pub(crate) use history::Seen;
use history::{History, Source};
pub use start::FeedStart;
pub(crate) use tail::Tap;
use tail::{Found, Seat, Tail};

/// Chunks that wait for a reader that is behind.
const CHUNKS_AHEAD: usize = 2;

/// Why there is no feed, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// As many read as may.
    #[error("{most} readers are there, and no more may be")]
    TooManyReaders {
        /// The most.
        most: usize,
    },
    /// There is no such shard.
    #[error("there is no shard {shard}: there are {shards}")]
    NoShard {
        /// Which.
        shard: ShardId,
        /// How many there are.
        shards: u16,
    },
    /// The shard's log doesn't go as far.
    #[error("shard {shard} has no record {offset} yet: the next one is {next}")]
    NotYet {
        /// Which shard.
        shard: ShardId,
        /// What was asked for.
        offset: Offset,
        /// Where it ends.
        next: Offset,
    },
    /// It was trimmed and is in no archive.
    #[error("what is asked for was trimmed from the log, and no archive keeps it")]
    Trimmed,
    /// The log can't be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The time is still to come.
    #[error("the time is still to come")]
    NotNow,
    /// What was read is no record.
    #[error("what stands in the log behind position {position} can't be read: {what}")]
    Unreadable {
        /// Where what was read together begins.
        position: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The archive can't be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// No thread to read with.
    #[error("no thread to read with: {0}")]
    Thread(#[from] std::io::Error),
    /// The log has ended.
    #[error("the log has ended")]
    Stopped,
}

/// What a reader wants.
#[derive(Clone, Debug)]
pub struct FeedWish {
    /// Where it begins.
    pub start: FeedStart,
    /// Whether it ends with what is durable when it begins.
    pub ends: bool,
    /// Which events.
    pub filter: EventFilter,
    /// Whether events are wanted as JSON. Without it a reader gets frames alone.
    pub json: bool,
}

/// The way to the feed of a node. Clones lead to the same.
#[derive(Clone)]
pub struct Feed {
    source: Arc<Source>,
    tail: Arc<Tail>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("figures", &self.figures()).finish_non_exhaustive()
    }
}

/// What the feed does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedFigures {
    /// Who reads now.
    pub readers: usize,
    /// Those of them that are behind, and read the log's segments.
    pub behind: usize,
    /// Events that were made of what was appended while somebody read.
    pub events: u64,
    /// Appends that the tail's thread was too busy for, and read from the log later.
    pub missed: u64,
}

impl Feed {
    /// The feed of a log, for so many readers at most. What is appended is to be put into the tap.
    pub(crate) fn start(
        log: &Arc<Sender<Job>>,
        (disk, archive): (Arc<dyn Disk>, Option<Arc<Archive>>),
        placement: &Placement,
        most_readers: usize,
    ) -> std::io::Result<Feed> {
        let tail = Tail::new(most_readers);
        let chunks = Chunks::new(source_of(placement.hash_seed), tail.spare());
        let shards = placement.shards;
        let source = Arc::new(Source { log: Arc::downgrade(log), disk, archive, shards, chunks });
        // A log that has failed already has no feed.
        let _ = log.send(Job::Listen(tail.spawn(source.clone())?));
        Ok(Feed { source, tail })
    }

    /// What its events name as their source: a URI for the data directory.
    pub fn source(&self) -> &str {
        &self.source.chunks.source
    }

    /// How many shards are in it.
    pub fn shards(&self) -> u16 {
        self.source.shards
    }

    /// What it does.
    pub fn figures(&self) -> FeedFigures {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
        FeedFigures {
            readers: self.tail.readers(),
            behind: count(&self.tail.counters.behind) as usize,
            events: count(&self.tail.counters.events),
            missed: count(&self.tail.counters.missed),
        }
    }

    /// A reader. Waits for the log, and for the archive where that is asked: for threads that may
    /// wait.
    pub fn read(&self, wish: FeedWish) -> Result<FeedReader, FeedError> {
        let seat = self.tail.sit_down(wish.json)?;
        let begin = start::find(&self.source, &wish)?;
        let until = wish.ends.then_some(begin.end);
        Ok(FeedReader {
            feed: self.clone(),
            filter: Arc::new(wish.filter),
            position: begin.position,
            skip: begin.skip,
            until,
            behind: None,
            caught_up: begin.position == begin.end,
            more: self.tail.watch(),
            seat: Arc::new(seat),
        })
    }
}

/// What events name as their source: the data directory, without what must stay secret of it.
fn source_of(hash_seed: u64) -> Arc<str> {
    let hash = digest::digest(&digest::SHA256, &hash_seed.to_le_bytes());
    let (short, _) = hash.as_ref().split_first_chunk::<8>().expect("SHA-256 has 32 bytes");
    format!("urn:crest:{:016x}", u64::from_be_bytes(*short)).into()
}

/// Reads the feed, chunk by chunk.
pub struct FeedReader {
    feed: Feed,
    filter: Arc<EventFilter>,
    /// All before it was read.
    position: u64,
    /// What is passed over before the first event.
    skip: Option<start::Skip>,
    until: Option<u64>,
    /// From the thread that reads for it while it is behind.
    behind: Option<mpsc::Receiver<Result<Arc<FeedChunk>, FeedError>>>,
    /// It has read to where the log ended once: what follows may be in the tail.
    caught_up: bool,
    more: watch::Receiver<bool>,
    seat: Arc<Seat>,
}

impl FeedReader {
    /// What it wants.
    pub fn filter(&self) -> &EventFilter {
        &self.filter
    }

    /// Whether it reads what was there before, and hasn't come to the end yet.
    pub fn is_behind(&self) -> bool {
        !self.caught_up || self.behind.is_some()
    }

    /// The next chunk; `None` at the end, if it has one. It may hold events that the reader
    /// doesn't want: of those that were made for all. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Arc<FeedChunk>>, FeedError> {
        loop {
            if let Some(behind) = &mut self.behind {
                match behind.recv().await {
                    Some(chunk) => {
                        let chunk = chunk?;
                        self.position = chunk.positions.end;
                        if chunk.is_empty() {
                            continue;
                        }
                        return Ok(Some(chunk));
                    }
                    None => {
                        (self.behind, self.caught_up) = (None, true);
                        self.skip = None;
                    }
                }
            }
            if self.until.is_some_and(|until| self.position >= until) {
                return Ok(None);
            }
            // Before it is looked for, so that what comes in between isn't slept over.
            let has_ended = *self.more.borrow_and_update();
            let found = match self.caught_up {
                true => self.feed.tail.find(self.position, self.seat.json),
                false => Found::Behind,
            };
            match found {
                Found::Chunk(chunk) => {
                    self.position = chunk.positions.end;
                    return Ok(Some(chunk));
                }
                Found::Behind => self.fall_behind()?,
                Found::Later if has_ended => return Err(FeedError::Stopped),
                // The tail, which this holds, has the sender.
                Found::Later => drop(self.more.changed().await),
            }
        }
    }

    /// Has a thread read from here to where the log ends now.
    fn fall_behind(&mut self) -> Result<(), FeedError> {
        let (chunks, behind) = mpsc::channel(CHUNKS_AHEAD);
        let source = self.feed.source.clone();
        let mut history = History::new(source, self.position, self.until, self.skip);
        let (filter, json) = (self.filter.clone(), self.seat.json);
        let name = format!("crest-feed-{}", self.seat.number);
        let kept = (self.feed.tail.count_behind(), self.seat.clone());
        let run = move || {
            let _kept = kept;
            loop {
                let chunk = match history.next_chunk(Some(&filter), json) {
                    Ok(None) => return,
                    Ok(Some(chunk)) => Ok(Arc::new(chunk)),
                    Err(error) => Err(error),
                };
                let failed = chunk.is_err();
                // Who wanted it may have gone away.
                if chunks.blocking_send(chunk).is_err() || failed {
                    return;
                }
            }
        };
        // It ends when it has read all, or nobody wants it.
        drop(threads::spawn(&name, Priority::Background, run)?);
        self.behind = Some(behind);
        Ok(())
    }
}
