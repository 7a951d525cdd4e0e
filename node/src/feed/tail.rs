//! The log's end, for all who have come up to it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use super::FeedError;
use super::chunk::{FeedChunk, Spare};
use super::history::{History, Source};
use crate::threads::{self, Priority};

/// Bytes that are kept for readers who are a little behind.
const TAIL_BYTES: usize = 64 << 20;
/// Appends that may wait for the thread that makes events of them.
const APPENDS_AHEAD: usize = 64;

/// What was appended at once.
struct Appended {
    positions: Range<u64>,
    frames: Vec<u8>,
}

/// The log thread's end of it.
pub(crate) struct Tap {
    tail: Arc<Tail>,
    appended: SyncSender<Appended>,
    spare: Receiver<Vec<u8>>,
    own_spare: Option<Vec<u8>>,
}

impl Tap {
    /// Whether anybody reads.
    pub(crate) fn is_open(&self) -> bool {
        self.tail.is_listening.load(Relaxed)
    }

    /// Copies what was appended. If its thread is too busy, it will read it from the log.
    pub(crate) fn appended(&mut self, positions: Range<u64>, frames: &[&[u8]]) {
        let spare = self.own_spare.take().or_else(|| self.spare.try_recv().ok());
        let mut copied = spare.unwrap_or_default();
        copied.clear();
        frames.iter().for_each(|frame| copied.extend_from_slice(frame));
        let sent = self.appended.try_send(Appended { positions, frames: copied });
        if let Err(std::sync::mpsc::TrySendError::Full(unsent)) = sent {
            self.tail.counters.missed.fetch_add(1, Relaxed);
            self.own_spare = Some(unsent.frames);
        }
    }
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) behind: AtomicU64,
    pub(super) events: AtomicU64,
    pub(super) missed: AtomicU64,
}

/// What was appended last, as events.
pub(crate) struct Tail {
    ring: Mutex<Ring>,
    is_listening: AtomicBool,
    newest: watch::Sender<Newest>,
    most_readers: usize,
    spare: Arc<Spare>,
    pub(super) counters: Counters,
}

#[derive(Clone, Copy, Default)]
struct Newest {
    chunks: u64,
    has_ended: bool,
}

#[derive(Default)]
struct Ring {
    chunks: VecDeque<Arc<FeedChunk>>,
    bytes: usize,
    /// How far it goes, once somebody reads.
    position: Option<u64>,
    readers: usize,
    /// Of them, who wants JSON.
    json_readers: usize,
}

/// Where the tail has what a reader wants.
pub(super) enum Found {
    Chunk(Arc<FeedChunk>),
    /// Not any more, or not in this form.
    Behind,
    /// Not yet.
    Later,
}

impl Tail {
    pub(super) fn new(most_readers: usize) -> Arc<Tail> {
        Arc::new(Tail {
            ring: Mutex::default(),
            is_listening: AtomicBool::new(false),
            newest: watch::Sender::new(Newest::default()),
            most_readers,
            spare: Arc::default(),
            counters: Counters::default(),
        })
    }

    /// Starts the thread that makes events of what the log thread puts into the tap.
    pub(super) fn spawn(self: &Arc<Tail>, source: Arc<Source>) -> std::io::Result<Tap> {
        let (appended, to_read) = sync_channel(APPENDS_AHEAD);
        let (give_back, spare) = channel();
        let tail = self.clone();
        let run = move || tail.run(&source, &to_read, &give_back);
        // It ends with the log thread.
        drop(threads::spawn("crest-feed", Priority::Background, run)?);
        Ok(Tap { tail: self.clone(), appended, spare, own_spare: None })
    }

    pub(super) fn spare(&self) -> Arc<Spare> {
        self.spare.clone()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().expect("nothing panics while it holds the lock")
    }

    pub(super) fn readers(&self) -> usize {
        self.ring().readers
    }

    /// A place for a reader: from here on all that is appended comes to the tail.
    pub(super) fn sit_down(self: &Arc<Tail>, json: bool) -> Result<Seat, FeedError> {
        let mut ring = self.ring();
        if ring.readers >= self.most_readers {
            return Err(FeedError::TooManyReaders { most: self.most_readers });
        }
        ring.readers += 1;
        ring.json_readers += usize::from(json);
        self.is_listening.store(true, Relaxed);
        drop(ring);
        Ok(Seat { tail: self.clone(), json, newest: self.newest.subscribe() })
    }

    pub(super) fn find(&self, position: u64, json: bool) -> Found {
        let ring = self.ring();
        if ring.position.is_none_or(|end| position >= end) {
            return Found::Later;
        }
        let at = ring.chunks.partition_point(|chunk| chunk.positions.start < position);
        match ring.chunks.get(at) {
            Some(chunk) if chunk.positions.start == position && chunk.has_json >= json => {
                Found::Chunk(chunk.clone())
            }
            _ => Found::Behind,
        }
    }

    pub(super) fn count_behind(self: &Arc<Tail>) -> CountedBehind {
        self.counters.behind.fetch_add(1, Relaxed);
        CountedBehind(self.clone())
    }

    fn run(
        &self,
        source: &Arc<Source>,
        appended: &Receiver<Appended>,
        give_back: &Sender<Vec<u8>>,
    ) {
        while let Ok(Appended { positions, mut frames }) = appended.recv() {
            let ring = self.ring();
            let (position, json) = (ring.position, ring.json_readers > 0);
            drop(ring);
            if let Some(position) = position.filter(|position| *position < positions.start) {
                self.catch_up(source, position..positions.start, json);
            }
            let made = source.chunks.of_frames(positions, &mut frames, json);
            // The log thread may have ended.
            let _ = give_back.send(frames);
            match made {
                Ok(chunk) => self.push(chunk),
                Err(error) => self.lose(&error),
            }
        }
        self.newest.send_modify(|newest| newest.has_ended = true);
    }

    /// Reads what the log thread couldn't hand over.
    fn catch_up(&self, source: &Arc<Source>, missed: Range<u64>, json: bool) {
        let mut history = History::new(source.clone(), missed.start, Some(missed.end), None);
        loop {
            match history.next_chunk(None, json) {
                Ok(Some(chunk)) => self.push(chunk),
                Ok(None) => return,
                Err(error) => return self.lose(&error),
            }
        }
    }

    fn push(&self, chunk: FeedChunk) {
        self.counters.events.fetch_add(chunk.events().len() as u64, Relaxed);
        let mut ring = self.ring();
        if ring.readers == 0 {
            return;
        }
        if ring.position.is_some_and(|position| position != chunk.positions.start) {
            ring.clear();
        }
        ring.position = Some(chunk.positions.end);
        ring.bytes += chunk.bytes();
        ring.chunks.push_back(Arc::new(chunk));
        let mut old = Vec::new();
        while ring.bytes > TAIL_BYTES
            && let Some(oldest) = ring.chunks.pop_front()
        {
            ring.bytes -= oldest.bytes();
            old.push(oldest);
        }
        drop(ring);
        drop(old);
        self.newest.send_modify(|newest| newest.chunks += 1);
    }

    /// Readers see to themselves what is missing here.
    fn lose(&self, error: &FeedError) {
        tracing::warn!(%error, "the feed can't read the log");
        self.ring().clear();
    }
}

impl Ring {
    fn clear(&mut self) {
        self.chunks.clear();
        self.bytes = 0;
        self.position = None;
    }
}

/// A reader's place at the tail.
pub(super) struct Seat {
    tail: Arc<Tail>,
    json: bool,
    newest: watch::Receiver<Newest>,
}

impl Seat {
    pub(super) fn json(&self) -> bool {
        self.json
    }

    /// Takes note of what is there now: whether there will be no more.
    pub(super) fn look(&mut self) -> bool {
        self.newest.borrow_and_update().has_ended
    }

    /// Waits until there is more than when it was looked last.
    pub(super) async fn changed(&mut self) {
        // The tail, which this holds, has the sender.
        let _ = self.newest.changed().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut ring = self.tail.ring();
        ring.readers -= 1;
        ring.json_readers -= usize::from(self.json);
        if ring.readers == 0 {
            self.tail.is_listening.store(false, Relaxed);
            ring.clear();
            drop(ring);
            self.tail.spare.clear();
        }
    }
}

/// Counts a reader that is behind, as long as it is there.
pub(super) struct CountedBehind(Arc<Tail>);

impl Drop for CountedBehind {
    fn drop(&mut self) {
        self.0.counters.behind.fetch_sub(1, Relaxed);
    }
}
