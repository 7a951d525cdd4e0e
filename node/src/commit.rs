//! The log thread: takes groups of frames, appends them with one sync, says that they are safe.
//!
//! It takes whatever all shards have ready and writes it at once. When the log fails, it says
//! so once and ends: nothing that was handed to it is ever acknowledged. Between two groups it
//! looks up records for whoever reads, one at a time.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use model::record::Record;
use model::{Offset, ShardId, Time};
use mq::{FrameSource, Log, LogError, LogSegment, LogStats};
use tokio::sync::oneshot;

use crate::feed::{Seen, Tap};
use crate::stages::{AppendTicks, LogRecorder};
use crate::threads::{self, LOG_THREAD, Priority};

/// What the log thread is asked for.
pub(crate) enum Job {
    Append(Group),
    Read(Lookup),
    /// Which segments hold nothing but records before these offsets.
    Trimmable(Vec<(ShardId, Offset)>, Sender<Vec<LogSegment>>),
    /// Segments up to this one are archived, and are to be forgotten.
    Trim(LogSegment),
    /// The log's segments; and where a shard's log goes on, and from which position on it stands
    /// from this record on.
    Segments(Option<(ShardId, Offset)>, Sender<Seen>),
    /// Whoever reads the feed wants to know of what is appended.
    Listen(Tap),
}

/// A record that somebody wants to see.
pub(crate) struct Lookup {
    pub(crate) shard: ShardId,
    pub(crate) offset: Offset,
    pub(crate) answer: oneshot::Sender<LookedUp>,
}

/// What became of a look-up.
pub(crate) enum LookedUp {
    /// When it was decided, and its bytes.
    Found(Time, Vec<u8>),
    /// There is no such record, or it can't be read.
    Nothing,
    /// It was trimmed.
    Trimmed,
}

/// Frames of one shard, and where to say that they are durable.
pub(crate) struct Group {
    pub(crate) frames: Vec<Vec<u8>>,
    /// Records in them.
    pub(crate) records: u64,
    pub(crate) done: tokio::sync::mpsc::UnboundedSender<Committed>,
}

impl Group {
    fn fail(self, why: &str) {
        // A shard that stopped waiting needs no answer.
        let _ = self.done.send(Committed::Failed(why.to_string()));
    }
}

/// What became of a group; its buffers come back to be used again.
pub(crate) enum Committed {
    Durable(Vec<Vec<u8>>, AppendTicks),
    Failed(String),
}

/// The thread that owns the log.
pub struct LogThread {
    /// It runs as long as this or a group of shards has one.
    jobs: Option<Arc<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<CommitStats>>>,
}

/// What the log thread did until it ended.
#[derive(Debug)]
pub struct CommitStats {
    /// What the log wrote.
    pub log: LogStats,
    /// Why it ended early.
    pub failed: Option<LogError>,
}

impl LogThread {
    /// Starts the thread. `close` is called at a clean end, to leave a mark behind the last
    /// frame.
    pub(crate) fn spawn<L: Log + 'static>(
        log: L,
        recorder: LogRecorder,
        close: impl FnOnce(L) -> Result<(), LogError> + Send + 'static,
    ) -> std::io::Result<LogThread> {
        let (jobs, inbox) = channel();
        let run = move || run(log, recorder, inbox, close);
        let thread = threads::spawn(LOG_THREAD, Priority::Urgent, run)?;
        Ok(LogThread { jobs: Some(Arc::new(jobs)), thread: Mutex::new(Some(thread)) })
    }

    pub(crate) fn jobs(&self) -> Arc<Sender<Job>> {
        self.jobs.clone().expect("the thread takes jobs until it is joined")
    }

    /// Waits until every shard is done with it, and for the log's clean end.
    pub fn join(mut self) -> CommitStats {
        self.jobs = None;
        let thread = self.thread.get_mut().ok().and_then(Option::take);
        thread.and_then(|thread| thread.join().ok()).expect("the log thread doesn't panic")
    }
}

fn run<L: Log>(
    mut log: L,
    mut recorder: LogRecorder,
    inbox: Receiver<Job>,
    close: impl FnOnce(L) -> Result<(), LogError>,
) -> CommitStats {
    let mut groups = Vec::new();
    let mut lookups = VecDeque::new();
    let (mut trim, mut asked) = (None, None);
    let mut tap: Option<Tap> = None;
    loop {
        let first = if lookups.is_empty() { Some(inbox.recv()) } else { None };
        let Ok(first) = first.transpose() else { break };
        for job in first.into_iter().chain(inbox.try_iter()) {
            match job {
                Job::Append(group) => groups.push(group),
                Job::Read(lookup) => lookups.push_back(lookup),
                Job::Trimmable(before, answer) => asked = Some((before, answer)),
                Job::Trim(segment) => trim = Some(segment),
                Job::Segments(record, answer) => {
                    let seek = |(shard, from)| (log.end(shard).next, log.seek(shard, from));
                    let sought = record.map(seek);
                    let seen = Seen { segments: log.segments(), end: log.position(), sought };
                    // Whoever asked may have gone away.
                    let _ = answer.send(seen);
                }
                Job::Listen(other) => tap = Some(other),
            }
        }
        if let Some(Lookup { shard, offset, answer }) = lookups.pop_front() {
            // Whoever asked may have gone away.
            let _ = answer.send(look_up(&log, shard, offset));
        }
        if let Some(Err(error)) = trim.take().map(|segment| log.trim_through(&segment)) {
            let failed = error.to_string();
            groups.drain(..).for_each(|group| group.fail(&failed));
            return CommitStats { log: log.stats(), failed: Some(error) };
        }
        if let Some((before, answer)) = asked.take() {
            // Whoever asked may have gone away.
            let _ = answer.send(log.trimmable(&before));
        }
        if groups.is_empty() {
            continue;
        }
        let begun = recorder.now();
        let frames: Vec<&[u8]> =
            groups.iter().flat_map(|group| group.frames.iter().map(Vec::as_slice)).collect();
        let before = log.position();
        match log.append(&frames) {
            Ok(()) => {
                if let Some(tap) = tap.as_mut().filter(|tap| tap.is_open()) {
                    tap.appended(before..log.position(), &frames);
                }
                let records = groups.iter().map(|group| group.records).sum();
                let append = recorder.record(begun, records, log.stats());
                for Group { frames, done, .. } in groups.drain(..) {
                    // A shard that stopped waiting needs no answer.
                    let _ = done.send(Committed::Durable(frames, append));
                }
            }
            Err(error) => {
                let failed = error.to_string();
                groups.drain(..).for_each(|group| group.fail(&failed));
                return CommitStats { log: log.stats(), failed: Some(error) };
            }
        }
    }
    let stats = log.stats();
    CommitStats { log: stats, failed: close(log).err() }
}

fn look_up(log: &impl Log, shard: ShardId, offset: Offset) -> LookedUp {
    if offset.0 == 0 || offset >= log.end(shard).next {
        return LookedUp::Nothing;
    }
    match log.read(shard, offset) {
        Ok(mut frames) => record_of(&mut *frames, offset)
            .map_or(LookedUp::Nothing, |(time, bytes)| LookedUp::Found(time, bytes)),
        Err(LogError::Trimmed { .. }) => LookedUp::Trimmed,
        Err(_) => LookedUp::Nothing,
    }
}

fn record_of(frames: &mut dyn FrameSource, offset: Offset) -> Option<(Time, Vec<u8>)> {
    // Frames without records stand before the one that is wanted.
    while let Some(frame) = frames.next().ok()? {
        let at = offset.0.checked_sub(frame.header.first_offset.get())?;
        if at < frame.header.count.get().into() {
            let record: Record<'_> = frame.records().nth(at as usize)?.ok()?;
            return Some((frame.place().time, record.bytes.to_vec()));
        }
    }
    None
}
