//! The log's end, for all who have come up to it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
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
/// Their bytes, if there are several. Tests want it to be behind.
const BYTES_AHEAD: usize = if cfg!(test) { 1 } else { 16 << 20 };

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

    /// Copies what was appended. If its thread is too busy, it reads it from the log later.
    pub(crate) fn appended(&mut self, positions: Range<u64>, frames: &[&[u8]]) {
        let tail = &self.tail;
        tail.appended_to.store(positions.end, SeqCst);
        let bytes: usize = frames.iter().map(|frame| frame.len()).sum();
        let ahead = tail.bytes_ahead.load(Relaxed);
        // With something ahead of it, its thread looks again when that is done.
        if ahead > 0 && ahead + bytes > BYTES_AHEAD {
            tail.counters.missed.fetch_add(1, Relaxed);
            return;
        }
        let spare = self.own_spare.take().or_else(|| self.spare.try_recv().ok());
        let mut copied = spare.unwrap_or_default();
        copied.clear();
        frames.iter().for_each(|frame| copied.extend_from_slice(frame));
        tail.bytes_ahead.fetch_add(bytes, Relaxed);
        let sent = self.appended.try_send(Appended { positions, frames: copied });
        if let Err(std::sync::mpsc::TrySendError::Full(unsent)) = sent {
            tail.bytes_ahead.fetch_sub(bytes, Relaxed);
            tail.counters.missed.fetch_add(1, Relaxed);
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
    /// Where the last append ended while somebody read.
    appended_to: AtomicU64,
    bytes_ahead: AtomicUsize,
    /// Says that there is more; true at the end.
    has_ended: watch::Sender<bool>,
    spare: Arc<Spare>,
    pub(super) counters: Counters,
}

#[derive(Default)]
struct Ring {
    chunks: VecDeque<Arc<FeedChunk>>,
    bytes: usize,
    /// How far it goes, once somebody reads.
    position: Option<u64>,
    /// By reader that may be there, whether it is and wants JSON.
    seats: Vec<Option<bool>>,
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
        let ring = Ring { seats: vec![None; most_readers], ..Ring::default() };
        Arc::new(Tail {
            ring: Mutex::new(ring),
            is_listening: AtomicBool::new(false),
            appended_to: AtomicU64::new(0),
            bytes_ahead: AtomicUsize::new(0),
            has_ended: watch::Sender::new(false),
            spare: Arc::default(),
            counters: Counters::default(),
        })
    }

    /// Starts the thread that makes events of what the log thread puts into the tap.
    pub(super) fn spawn(self: &Arc<Tail>, source: Arc<Source>) -> std::io::Result<Tap> {
        let (appended, to_read) = sync_channel(APPENDS_AHEAD);
        let (give_back, spare) = channel();
        let tail = self.clone();
        let run = move || {
            let _ending = Ending(&tail);
            tail.run(&source, &to_read, &give_back);
        };
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
        self.ring().seats.iter().flatten().count()
    }

    /// A place for a reader: from here on all that is appended comes to the tail.
    pub(super) fn sit_down(self: &Arc<Tail>, json: bool) -> Result<Seat, FeedError> {
        let mut ring = self.ring();
        let free = ring.seats.iter().position(Option::is_none);
        let number = free.ok_or(FeedError::TooManyReaders { most: ring.seats.len() })?;
        ring.seats[number] = Some(json);
        self.spare.keep(true);
        self.is_listening.store(true, Relaxed);
        Ok(Seat { tail: self.clone(), number, json })
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

    /// To be told of more.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.has_ended.subscribe()
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
        loop {
            let next = match appended.try_recv() {
                Ok(next) => next,
                Err(TryRecvError::Disconnected) => return,
                // What was missed last, nothing else would tell of.
                Err(TryRecvError::Empty) if self.catch_up(source, None) => continue,
                Err(TryRecvError::Empty) => match appended.recv() {
                    Ok(next) => next,
                    Err(_) => return,
                },
            };
            let Appended { positions, mut frames } = next;
            self.catch_up(source, Some(positions.start));
            let json = self.ring().wants_json();
            self.bytes_ahead.fetch_sub(frames.len(), Relaxed);
            let made = source.chunks.of_frames(positions, &mut frames, json);
            if self.is_listening.load(Relaxed) {
                // The log thread may have ended.
                let _ = give_back.send(frames);
            }
            match made {
                Ok(chunk) => self.push(chunk),
                Err(error) => self.lose(&error),
            }
        }
    }

    /// Reads what the log thread couldn't hand over, up to here or to where it came: whether there
    /// was anything.
    fn catch_up(&self, source: &Arc<Source>, end: Option<u64>) -> bool {
        let ring = self.ring();
        let (position, json) = (ring.position, ring.wants_json());
        drop(ring);
        let end = end.unwrap_or_else(|| self.appended_to.load(SeqCst));
        let Some(start) = position.filter(|position| *position < end) else { return false };
        let mut history = History::new(source.clone(), start, Some(end), None);
        loop {
            match history.next_chunk(None, json) {
                Ok(Some(chunk)) => self.push(chunk),
                Ok(None) => return true,
                Err(error) => {
                    self.lose(&error);
                    return true;
                }
            }
        }
    }

    fn push(&self, chunk: FeedChunk) {
        self.counters.events.fetch_add(chunk.events().len() as u64, Relaxed);
        let mut old = VecDeque::new();
        let mut ring = self.ring();
        if ring.is_read() {
            if ring.position.is_some_and(|position| position != chunk.positions.start) {
                old = ring.clear();
            }
            ring.position = Some(chunk.positions.end);
            ring.bytes += chunk.bytes();
            ring.chunks.push_back(Arc::new(chunk));
            while ring.bytes > TAIL_BYTES
                && let Some(oldest) = ring.chunks.pop_front()
            {
                ring.bytes -= oldest.bytes();
                old.push_back(oldest);
            }
        }
        drop(ring);
        drop(old);
        self.has_ended.send_modify(|_| {});
    }

    /// Readers see to themselves what is missing here.
    fn lose(&self, error: &FeedError) {
        tracing::warn!(%error, "the feed can't read the log");
        drop(self.ring().clear());
    }
}

impl Ring {
    fn is_read(&self) -> bool {
        self.seats.iter().any(Option::is_some)
    }

    fn wants_json(&self) -> bool {
        self.seats.contains(&Some(true))
    }

    /// What was in it.
    #[must_use = "to be dropped without the lock"]
    fn clear(&mut self) -> VecDeque<Arc<FeedChunk>> {
        self.bytes = 0;
        self.position = None;
        std::mem::take(&mut self.chunks)
    }
}

/// Tells readers that there will be no more, however the thread ends.
struct Ending<'a>(&'a Tail);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.has_ended.send_replace(true);
    }
}

/// A reader's place. It is free when the reader is gone, and the thread that read for it.
pub(super) struct Seat {
    tail: Arc<Tail>,
    pub(super) number: usize,
    pub(super) json: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut ring = self.tail.ring();
        ring.seats[self.number] = None;
        if !ring.is_read() {
            self.tail.is_listening.store(false, Relaxed);
            self.tail.spare.keep(false);
            let old = ring.clear();
            drop(ring);
            drop(old);
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
