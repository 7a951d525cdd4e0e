//! Where the time of a write goes: ten stages, one after another without a gap.
//!
//! ```text
//! receive │ decode │ admit ║ queue │ apply │ gather │ append │ sync ║ release │ send
//!      a reactor           ║   a group of shards and the log thread  ║  the reactor
//! ```
//!
//! Each stage ends where the next begins, so those of a request add up to its whole. A request
//! carries the readings of the clock with it: to its group, and back in its answer. Its reactor
//! records all of them when the answer is out. So every recorder has one writer, no two threads
//! share a counter, and a request that is split over several groups is recorded once: as what its
//! part took that was durable last, which is what it waited for.
//!
//! Only writes that a shard answered are recorded. What is refused before (a bad body, an
//! overload) and reads are counted but not timed: a read is never decoded, and waits for a group
//! only when one is under way.

mod clock;
mod figures;
mod histogram;
mod recorders;
mod snapshot;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::Outcome;
use serde::{Deserialize, Serialize};

use clock::StageClock;
use histogram::Histogram;
use recorders::{LogTimes, ReactorTimes};

pub use clock::Ticks;
pub use figures::{Figures, LogFigures, Requests};
pub use histogram::RELATIVE_ERROR;
pub(crate) use recorders::{AppendTicks, LogRecorder};
pub use recorders::{GroupTicks, ReactorRecorder, WriteTicks};
pub use snapshot::{Snapshot, StageTimes};

/// A part of the time that a write takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// From the first byte of the request that was read from the socket until its body is whole.
    Receive,
    /// Until the body is commands.
    Decode,
    /// Until the commands are in the outbox of their reactor, or the inbox of their shard.
    Admit,
    /// Until the shard takes them up.
    Queue,
    /// Until all of them are decided.
    Apply,
    /// Until the log thread begins to write their group: while it writes and syncs the group
    /// before, this one gathers.
    Gather,
    /// Until the group is written.
    Append,
    /// Until `fdatasync` says that it is durable.
    Sync,
    /// Until the request's task runs again on its reactor.
    Release,
    /// Until the answer is encoded and its last byte was written to the socket.
    Send,
    /// All of it, from the first byte read until the last one written. Not a stage of its own.
    Whole,
}

impl Stage {
    /// The stages, in the order in which a request goes through them; without [`Stage::Whole`].
    pub const ALL: [Stage; 10] = [
        Stage::Receive,
        Stage::Decode,
        Stage::Admit,
        Stage::Queue,
        Stage::Apply,
        Stage::Gather,
        Stage::Append,
        Stage::Sync,
        Stage::Release,
        Stage::Send,
    ];

    /// The word for it, in JSON and on `/metrics`.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Receive => "receive",
            Stage::Decode => "decode",
            Stage::Admit => "admit",
            Stage::Queue => "queue",
            Stage::Apply => "apply",
            Stage::Gather => "gather",
            Stage::Append => "append",
            Stage::Sync => "sync",
            Stage::Release => "release",
            Stage::Send => "send",
            Stage::Whole => "whole",
        }
    }
}

/// The recorders of a process: where they are registered, and where they are read.
pub struct Stages {
    clock: &'static StageClock,
    started: Instant,
    reactors: Mutex<Vec<(usize, Arc<ReactorTimes>)>>,
    log: Arc<LogTimes>,
}

impl Stages {
    /// Without a recorder. Compares clocks first, which takes up to 0.2 s once in a process.
    pub fn new() -> Arc<Stages> {
        Arc::new(Stages {
            clock: StageClock::shared(),
            started: Instant::now(),
            reactors: Mutex::default(),
            log: Arc::default(),
        })
    }

    /// A recorder for the calling reactor. `number` is what its figures are listed under.
    pub fn reactor(&self, number: usize) -> ReactorRecorder {
        let times = Arc::<ReactorTimes>::default();
        lock(&self.reactors).push((number, times.clone()));
        ReactorRecorder { clock: self.clock, times, one_thread: PhantomData }
    }

    pub(crate) fn log(self: &Arc<Stages>) -> LogRecorder {
        LogRecorder { stages: self.clone(), synced: Duration::ZERO }
    }

    /// How long it has been recording.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// What the stages took so far.
    pub fn snapshot(&self) -> Snapshot {
        let mut entries = Vec::new();
        let mut add = |stage, place: String, histogram: &Histogram, commands: &AtomicU64| {
            let buckets = histogram.buckets();
            entries.push(StageTimes {
                stage,
                place,
                requests: buckets.iter().map(|(_, count)| count).sum(),
                orders: commands.load(Relaxed),
                sum_ns: histogram.sum(),
                buckets,
            });
        };
        for (number, times) in lock(&self.reactors).iter() {
            let stages = Stage::ALL.into_iter().zip(&times.stages);
            for (stage, histogram) in stages.chain([(Stage::Whole, &times.whole)]) {
                add(stage, format!("reactor {number}"), histogram, &times.commands);
            }
        }
        entries.sort_by(|a, b| (a.stage, &a.place).cmp(&(b.stage, &b.place)));
        Snapshot { entries }
    }

    /// Requests so far, over all reactors.
    pub fn requests(&self) -> Requests {
        let mut requests = Requests::default();
        let mut outcomes = [0; recorders::OUTCOMES];
        for (_, times) in lock(&self.reactors).iter() {
            requests.reads += times.reads.load(Relaxed);
            requests.writes += times.writes.load(Relaxed);
            requests.unknown += times.unknown.load(Relaxed);
            requests.drill += times.drill.load(Relaxed);
            for (sum, count) in outcomes.iter_mut().zip(&times.outcomes) {
                *sum += count.load(Relaxed);
            }
        }
        let orders = Outcome::ALL.iter().map(|&outcome| (outcome, outcomes[outcome as usize]));
        let orders = orders.filter(|(_, count)| *count > 0);
        requests.orders = orders.map(|(outcome, n)| (outcome.word().to_string(), n)).collect();
        requests
    }

    /// Bytes that the log thread wrote so far.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log.bytes.load(Relaxed)
    }

    /// What the log thread did so far.
    pub fn log_figures(&self) -> LogFigures {
        let log = &self.log;
        LogFigures {
            groups: log.groups.load(Relaxed),
            frames: log.frames.load(Relaxed),
            bytes: log.bytes.load(Relaxed),
            syncs: log.syncs.load(Relaxed),
            writing_ns: log.writing_ns.load(Relaxed),
            syncing_ns: log.syncing_ns.load(Relaxed),
            orders: log.group_orders.sum(),
            group_orders: log.group_orders.buckets(),
        }
    }
}

/// Reads the clock.
#[inline]
pub(crate) fn now() -> Ticks {
    StageClock::shared().now()
}

/// Recorders are registered at the start; nothing that panics could leave a list half made.
fn lock<T>(list: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
