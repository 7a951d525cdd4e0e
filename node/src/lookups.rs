//! Finds in the log what has left memory.
//!
//! A thread keeps the log's index: groups tell it of every record that is durable, and ask it for
//! rows. What they told before they asked is in it. Some more threads read the records that the
//! index names, from the log or its archive, so that a slow archive holds up nobody but who needs
//! it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::frame::Frame;
use model::record::{Record, RowKey};
use model::{Offset, OrderId, Party, Realm, ShardId, Time};
use mq::{Archive, IndexError, IndexFigures, LogIndex, Merge, Merged};
use tokio::sync::mpsc::WeakUnboundedSender;
use tokio::sync::oneshot;
use txn_core::{for_each_row, row_in};

use crate::commit::{Job, LookedUp, Lookup as ReadJob};
use crate::group::Lookup;
use crate::inbox::Parcel;
use crate::threads::{self, Priority};

/// Threads that read records.
const READERS: usize = 4;

/// What the index's thread is told and asked.
pub(crate) enum IndexJob {
    /// Keys of durable records, and how far that goes.
    Records(IndexedFrames),
    /// Rows to find, and who wants them.
    LookUp(Lookup, WeakUnboundedSender<Parcel>),
    /// Orders of a buyer: where their records are, the newest first.
    OfBuyer(ShardId, Realm, Party, oneshot::Sender<Option<Vec<Offset>>>),
    /// All that is known is to be durable: where the shards' logs go on behind it.
    Flush(Sender<Vec<(ShardId, Offset)>>),
    /// Runs were merged, or couldn't be.
    Merged(Result<Merged, IndexError>),
    /// Nothing more will be asked.
    Stop,
}

/// What frames say that the index has to know.
#[derive(Default)]
pub struct IndexedFrames {
    /// Keys, where they are, and whether that is a copy.
    entries: Vec<(u64, ShardId, Offset, bool)>,
    /// How far shards' logs go.
    ends: Vec<(ShardId, Offset)>,
}

/// What keys are made with.
#[derive(Clone, Copy, Debug)]
pub struct KeySeed(pub u64);

impl KeySeed {
    /// The key of a row. The upper half is the same for all orders of a buyer.
    pub fn key(self, realm: Realm, row: &RowKey) -> u64 {
        row.hash(self.0 ^ realm as u64)
    }

    /// Adds what a frame says.
    pub fn index(self, frame: &Frame<'_>, found: &mut IndexedFrames) {
        let shard = frame.place().shard;
        found.entries.reserve(frame.header.count.get() as usize);
        for (offset, record) in (frame.place().first_offset.0..).zip(frame.records()) {
            let record = record.expect("the core wrote it");
            let is_copy = record.row().is_none();
            let add = |row| {
                let key = self.key(record.realm(), &row);
                found.entries.push((key, shard, Offset(offset), is_copy));
            };
            for_each_row(&record, add);
        }
        found.ends.push((shard, frame.next_offset()));
    }
}

impl IndexedFrames {
    /// Adds it to an index.
    pub fn add_to(&self, index: &mut LogIndex) {
        for &(key, shard, offset, is_copy) in &self.entries {
            index.add(key, shard, offset, is_copy);
        }
        for &(shard, next) in &self.ends {
            index.cover(shard, next);
        }
    }
}

/// The threads that find what has left memory. They end when this is dropped.
pub(crate) struct LookupThreads {
    jobs: Sender<IndexJob>,
    seed: KeySeed,
    thread: Option<JoinHandle<()>>,
    figures: Arc<RowFigures>,
}

/// What left memory, and what was looked up.
#[derive(Debug, Default)]
pub struct RowFigures {
    index: Mutex<IndexFigures>,
    lookups: AtomicU64,
    failed: AtomicU64,
    pub(crate) evicted: AtomicU64,
}

impl RowFigures {
    /// How large the index of the log is.
    pub fn index(&self) -> IndexFigures {
        *self.index.lock().expect("nothing panics while it holds the lock")
    }

    /// Look-ups since the start.
    pub fn lookups(&self) -> u64 {
        self.lookups.load(Relaxed)
    }

    /// Those that came to nothing because something couldn't be read.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Orders, and ids of changes, that have left memory since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }
}

/// The way to the index.
#[derive(Clone)]
pub(crate) struct RowIndex {
    pub(crate) jobs: Sender<IndexJob>,
    pub(crate) seed: KeySeed,
    pub(crate) figures: Arc<RowFigures>,
}

/// Where records are read.
#[derive(Clone)]
pub(crate) struct Records {
    pub(crate) log: Weak<Sender<Job>>,
    pub(crate) archive: Option<Arc<Archive>>,
    pub(crate) settle_step: Duration,
}

impl LookupThreads {
    pub(crate) fn spawn(
        index: LogIndex,
        seed: KeySeed,
        records: Records,
    ) -> std::io::Result<LookupThreads> {
        let (jobs, inbox) = channel();
        let (wanted, to_read) = channel();
        let to_read = Arc::new(Mutex::new(to_read));
        let figures = Arc::<RowFigures>::default();
        for number in 0..READERS {
            let (to_read, records) = (to_read.clone(), records.clone());
            let figures = figures.clone();
            let thread = std::thread::Builder::new().name(format!("crest-lookup-{number}"));
            // It ends when the index's thread has.
            drop(thread.spawn(move || read(&to_read, &records, &figures))?);
        }
        let (merges, to_merge) = channel::<Merge>();
        let merged = jobs.clone();
        // It ends when the index's thread has.
        drop(threads::spawn("crest-merge", Priority::Background, move || {
            while let Ok(merge) = to_merge.recv() {
                drop(merged.send(IndexJob::Merged(merge.run())));
            }
        })?);
        let merges = (merges, false);
        let keeper = Keeper { index, seed, wanted, merges, figures: figures.clone() };
        let run = move || keeper.run(&inbox);
        let thread = Some(threads::spawn("crest-index", Priority::Background, run)?);
        Ok(LookupThreads { jobs, seed, thread, figures })
    }

    /// The way to the index.
    pub(crate) fn way(&self) -> RowIndex {
        RowIndex { jobs: self.jobs.clone(), seed: self.seed, figures: self.figures.clone() }
    }

    pub(crate) fn figures(&self) -> Arc<RowFigures> {
        self.figures.clone()
    }
}

impl Drop for LookupThreads {
    fn drop(&mut self) {
        // It may have panicked; there is nobody left to tell.
        let _ = self.jobs.send(IndexJob::Stop);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

struct Keeper {
    index: LogIndex,
    seed: KeySeed,
    wanted: Sender<Wanted>,
    /// To the thread that merges runs, and whether it does.
    merges: (Sender<Merge>, bool),
    figures: Arc<RowFigures>,
}

/// Rows to read, each with where it may be, and who wants them.
struct Wanted {
    lookup: Lookup,
    places: Vec<Vec<Offset>>,
    to: WeakUnboundedSender<Parcel>,
}

impl Keeper {
    fn run(mut self, inbox: &Receiver<IndexJob>) {
        self.note();
        while let Ok(job) = inbox.recv() {
            match job {
                IndexJob::Merged(merged) => {
                    self.merges.1 = false;
                    let taken = merged.and_then(|merged| self.index.merged(merged));
                    if self.readable(taken).is_some() {
                        self.begin_merge();
                    }
                    self.note();
                }
                IndexJob::Stop => break,
                IndexJob::Records(frames) => {
                    frames.add_to(&mut self.index);
                    if self.index.is_full() {
                        self.flush();
                    }
                }
                IndexJob::LookUp(lookup, to) => self.look_up(lookup, to),
                IndexJob::OfBuyer(shard, realm, buyer, answer) => {
                    let row = RowKey::of_order(buyer, OrderId(0));
                    let upper = (self.seed.key(realm, &row) >> 32) as u32;
                    // Whoever asked may have gone away.
                    let _ = answer.send(self.readable(self.index.find_all(upper, shard)));
                }
                IndexJob::Flush(answer) => {
                    self.flush();
                    // Whoever asked may have gone away.
                    let _ = answer.send(self.index.all_covered());
                }
            }
        }
        self.flush();
        self.index.stop_merges();
        while self.merges.1 {
            match inbox.recv() {
                Ok(IndexJob::Merged(_)) | Err(_) => self.merges.1 = false,
                Ok(_) => {}
            }
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.index.flush() {
            tracing::warn!(%error, "the index isn't durable; it is made of the log when it has to");
        }
        self.begin_merge();
        self.note();
    }

    fn begin_merge(&mut self) {
        if !self.merges.1
            && let Some(merge) = self.index.to_merge()
        {
            self.merges.1 = self.merges.0.send(merge).is_ok();
        }
    }

    fn note(&self) {
        let mut index = self.figures.index.lock().expect("nothing panics while it holds the lock");
        *index = self.index.figures();
    }

    fn readable<V>(&self, found: Result<V, IndexError>) -> Option<V> {
        let error = match found {
            Ok(found) => return Some(found),
            Err(error) => error,
        };
        tracing::error!(%error, "the index can't be read");
        if let IndexError::Damaged { name, .. } = &error {
            // It may be gone already.
            let _ = self.index.give_up(name);
        }
        None
    }

    fn look_up(&self, lookup: Lookup, to: WeakUnboundedSender<Parcel>) {
        self.figures.lookups.fetch_add(1, Relaxed);
        let find = |need: &txn_core::Need| {
            let key = self.seed.key(lookup.realm, &need.row);
            self.readable(self.index.find(key, lookup.shard))
        };
        match lookup.needs.iter().map(find).collect::<Option<Vec<_>>>() {
            // Nothing has to be read to know that there is nothing.
            Some(places) if places.iter().all(Vec::is_empty) => {
                let nothing = vec![Vec::new(); places.len()];
                answer(&to, lookup.ticket, Some(nothing));
            }
            Some(places) => {
                // They read until this thread ends.
                drop(self.wanted.send(Wanted { lookup, places, to }));
            }
            None => answer(&to, lookup.ticket, None),
        }
    }
}

fn answer(to: &WeakUnboundedSender<Parcel>, ticket: usize, rows: Option<Vec<Vec<u64>>>) {
    // A group that has ended needs no answer.
    if let Some(to) = to.upgrade() {
        let _ = to.send(Parcel::Found(ticket, rows));
    }
}

/// Says what fails, and not again for a second: it may be all of them.
#[derive(Default)]
struct Warned {
    last: Option<Instant>,
    unsaid: u64,
}

impl Warned {
    fn warn(&mut self, error: &str) {
        if self.last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            self.unsaid += 1;
            return;
        }
        let unsaid = std::mem::take(&mut self.unsaid);
        tracing::warn!(error, unsaid, "what has left memory can't be read");
        self.last = Some(Instant::now());
    }
}

fn read(wanted: &Mutex<Receiver<Wanted>>, records: &Records, figures: &RowFigures) {
    let mut warned = Warned::default();
    loop {
        let next = wanted.lock().expect("nothing panics while it holds the lock").recv();
        let Ok(Wanted { lookup, places, to }) = next else { return };
        let rows = lookup.needs.iter().zip(&places);
        let rows = rows.map(|(need, places)| records.find(&lookup, &need.row, places));
        let rows = rows.collect::<Result<Vec<_>, String>>();
        let rows = rows.inspect_err(|error| {
            figures.failed.fetch_add(1, Relaxed);
            warned.warn(error);
        });
        answer(&to, lookup.ticket, rows.ok());
    }
}

/// The words of a row, of the newest record that has it: `places` names records that may, the
/// newest first, and `read` reads one. None if none has it.
pub fn newest_row(
    realm: Realm,
    row: &RowKey,
    places: &[Offset],
    settle_step: Duration,
    read: impl Fn(Offset) -> Result<(Time, Vec<u8>), String>,
) -> Result<Vec<u64>, String> {
    for &offset in places {
        let (time, bytes) = read(offset)?;
        let (record, _) = Record::split(&bytes).map_err(|error| error.to_string())?;
        let is_here = record.realm() == realm;
        let words = row_in(&record, (offset, time), settle_step, row);
        if let Some(words) = words.filter(|_| is_here) {
            return Ok(words);
        }
    }
    Ok(Vec::new())
}

impl Records {
    fn find(&self, lookup: &Lookup, row: &RowKey, places: &[Offset]) -> Result<Vec<u64>, String> {
        let read = |offset| self.record(lookup.shard, offset);
        newest_row(lookup.realm, row, places, self.settle_step, read)
    }

    /// A record, and when it was decided.
    fn record(&self, shard: ShardId, offset: Offset) -> Result<(Time, Vec<u8>), String> {
        let (answer, answered) = oneshot::channel();
        let log = self.log.upgrade().ok_or("the log has ended")?;
        let asked = log.send(Job::Read(ReadJob { shard, offset, answer }));
        asked.map_err(|_| "the log has ended".to_string())?;
        drop(log);
        match answered.blocking_recv().map_err(|_| "the log has ended".to_string())? {
            LookedUp::Found(time, bytes) => return Ok((time, bytes)),
            LookedUp::Nothing => return Err(format!("shard {shard} has no record {offset}")),
            LookedUp::Trimmed => {}
        }
        let trimmed = || format!("shard {shard}, offset {offset}: it was trimmed, and isn't kept");
        let archive = self.archive.as_ref().ok_or_else(trimmed)?;
        let found = archive.record(shard, offset).map_err(|error| error.to_string())?;
        found.ok_or_else(trimmed)
    }
}
