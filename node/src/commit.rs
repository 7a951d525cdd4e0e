//! The log thread: takes groups of frames, appends them with one sync, says that they are safe.
//!
//! It takes whatever all shards have ready and writes it at once. When the log fails, it says
//! so once and ends: nothing that was handed to it is ever acknowledged.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use mq::{Log, LogError, LogStats};

use crate::stages::{AppendTicks, LogRecorder};
use crate::threads::LOG_THREAD;

/// Frames of one shard, and where to say that they are durable.
pub(crate) struct Group {
    pub(crate) frames: Vec<Vec<u8>>,
    /// Records in them.
    pub(crate) records: u64,
    pub(crate) done: tokio::sync::mpsc::UnboundedSender<Committed>,
}

/// What became of a group; its buffers come back to be used again.
pub(crate) enum Committed {
    Durable(Vec<Vec<u8>>, AppendTicks),
    Failed(String),
}

/// The thread that owns the log.
pub struct LogThread {
    groups: Option<Sender<Group>>,
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
        let (groups, inbox) = channel();
        let thread = std::thread::Builder::new()
            .name(LOG_THREAD.to_string())
            .spawn(move || run(log, recorder, inbox, close))?;
        Ok(LogThread { groups: Some(groups), thread: Mutex::new(Some(thread)) })
    }

    pub(crate) fn groups(&self) -> Sender<Group> {
        self.groups.clone().expect("the thread takes groups until it is joined")
    }

    /// Waits until every shard is done with it, and for the log's clean end.
    pub fn join(mut self) -> CommitStats {
        self.groups = None;
        let thread = self.thread.get_mut().ok().and_then(Option::take);
        thread.and_then(|thread| thread.join().ok()).expect("the log thread doesn't panic")
    }
}

fn run<L: Log>(
    mut log: L,
    mut recorder: LogRecorder,
    inbox: Receiver<Group>,
    close: impl FnOnce(L) -> Result<(), LogError>,
) -> CommitStats {
    let mut groups = Vec::new();
    while let Ok(first) = inbox.recv() {
        groups.push(first);
        groups.extend(inbox.try_iter());
        let begun = recorder.now();
        let frames: Vec<&[u8]> =
            groups.iter().flat_map(|group| group.frames.iter().map(Vec::as_slice)).collect();
        match log.append(&frames) {
            Ok(()) => {
                let records = groups.iter().map(|group| group.records).sum();
                let append = recorder.record(begun, records, log.stats());
                for Group { frames, done, .. } in groups.drain(..) {
                    // A shard that stopped waiting needs no answer.
                    let _ = done.send(Committed::Durable(frames, append));
                }
            }
            Err(error) => {
                for Group { done, .. } in groups.drain(..) {
                    let _ = done.send(Committed::Failed(error.to_string()));
                }
                return CommitStats { log: log.stats(), failed: Some(error) };
            }
        }
    }
    let stats = log.stats();
    CommitStats { log: stats, failed: close(log).err() }
}
