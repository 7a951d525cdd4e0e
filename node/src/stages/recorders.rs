//! Who records: a reactor, the log thread. Each has counters of its own.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use model::{Outcome, Reply};
use mq::LogStats;

use super::clock::{StageClock, Ticks};
use super::histogram::{Histogram, add};
use super::{Stage, Stages};

/// When a request passed the ends of its stages on its way through a group of shards and the log.
/// A read's are not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupTicks {
    /// It was handed to the outbox or the inbox.
    pub submitted: Ticks,
    /// The group took it up.
    pub taken: Ticks,
    /// All of it was decided.
    pub decided: Ticks,
    /// The log thread began to write what it depends on; when it was decided, if that was later.
    pub gathered: Ticks,
    /// All of that was written.
    pub written: Ticks,
    /// And durable.
    pub durable: Ticks,
}

impl GroupTicks {
    /// Fills in what the log thread did, `None` if nothing had to be done.
    pub(crate) fn append(&mut self, append: Option<&AppendTicks>) {
        let at = self.decided;
        let none = AppendTicks { begun: at, written: at, durable: at };
        let append = append.unwrap_or(&none);
        // What changed nothing waits for what it saw, and may have come while that was written.
        self.gathered = append.begun.max(at);
        self.written = append.written.max(self.gathered);
        self.durable = append.durable.max(self.written);
    }
}

/// When a write passed the ends of its stages.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteTicks {
    /// Its first byte was read from the socket.
    pub begun: Ticks,
    /// Its body was whole.
    pub received: Ticks,
    /// Its body was commands.
    pub decoded: Ticks,
    /// In the group that has its shards; of several, in the one where it was durable last.
    pub group: GroupTicks,
    /// Its task ran again.
    pub resumed: Ticks,
    /// How many commands.
    pub commands: u32,
}

/// Records what a reactor does. It has one writer, so it stays on its thread.
pub struct ReactorRecorder {
    pub(super) clock: &'static StageClock,
    pub(super) times: Arc<ReactorTimes>,
    pub(super) one_thread: PhantomData<Cell<()>>,
}

impl ReactorRecorder {
    /// Reads the clock.
    #[inline]
    pub fn now(&self) -> Ticks {
        self.clock.now()
    }

    /// A write whose answer's last byte was written at `sent`.
    pub fn record(&self, ticks: &WriteTicks, sent: Ticks) {
        let times = &*self.times;
        let GroupTicks { submitted, taken, decided, gathered, written, durable } = ticks.group;
        let ends = [
            ticks.received,
            ticks.decoded,
            submitted,
            taken,
            decided,
            gathered,
            written,
            durable,
            ticks.resumed,
            sent,
        ];
        let mut begun = ticks.begun;
        for (histogram, end) in times.stages.iter().zip(ends) {
            histogram.record(self.clock.ns(begun, end));
            begun = end;
        }
        times.whole.record(self.clock.ns(ticks.begun, sent));
        add(&times.commands, u64::from(ticks.commands));
    }

    /// A request that asks to see something.
    #[inline]
    pub fn count_read(&self) {
        add(&self.times.reads, 1);
    }

    /// A request that asks for a change.
    #[inline]
    pub fn count_write(&self) {
        add(&self.times.writes, 1);
    }

    /// A request of a drill.
    pub fn count_drill(&self) {
        add(&self.times.drill, 1);
    }

    /// A request for what there isn't.
    pub fn count_unknown(&self) {
        add(&self.times.unknown, 1);
    }

    /// What became of orders that were to be placed.
    #[inline]
    pub fn count_orders<'a>(&self, replies: impl IntoIterator<Item = &'a Reply>) {
        for reply in replies {
            add(&self.times.outcomes[reply.outcome as usize], 1);
        }
    }
}

/// When the log thread was done with the parts of an append.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppendTicks {
    pub(crate) begun: Ticks,
    pub(crate) written: Ticks,
    pub(crate) durable: Ticks,
}

/// Records what the log thread does.
pub(crate) struct LogRecorder {
    pub(super) stages: Arc<Stages>,
    /// What the log had waited for syncs before this append.
    pub(super) synced: Duration,
}

impl LogRecorder {
    pub(crate) fn now(&self) -> Ticks {
        self.stages.clock.now()
    }

    /// An append that began at `begun` and is durable now.
    pub(crate) fn record(&mut self, begun: Ticks, records: u64, log: LogStats) -> AppendTicks {
        let (clock, times) = (self.stages.clock, &self.stages.log);
        let durable = clock.now();
        let syncing = log.syncing.saturating_sub(self.synced).as_nanos() as u64;
        self.synced = log.syncing;
        // An append of more than one write syncs between them; the syncs are put together.
        let written = clock.before(durable, syncing).max(begun);
        add(&times.groups, 1);
        add(&times.writing_ns, clock.ns(begun, written));
        add(&times.syncing_ns, clock.ns(written, durable));
        times.group_orders.record(records);
        times.frames.store(log.frames, Relaxed);
        times.bytes.store(log.bytes, Relaxed);
        times.syncs.store(log.syncs, Relaxed);
        AppendTicks { begun, written, durable }
    }
}

#[derive(Default)]
pub(super) struct ReactorTimes {
    /// In the order of [`Stage::ALL`].
    pub(super) stages: [Histogram; Stage::ALL.len()],
    pub(super) whole: Histogram,
    pub(super) commands: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) drill: AtomicU64,
    /// Of orders that were to be placed, by the byte of the outcome.
    pub(super) outcomes: [AtomicU64; OUTCOMES],
}

#[derive(Default)]
pub(super) struct LogTimes {
    pub(super) groups: AtomicU64,
    pub(super) frames: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) writing_ns: AtomicU64,
    pub(super) syncing_ns: AtomicU64,
    pub(super) group_orders: Histogram,
}

/// One more than the byte of any outcome: they are numbered from 1 on.
pub(super) const OUTCOMES: usize = Outcome::ALL.len() + 1;
const _: () = assert!(Outcome::ALL[Outcome::ALL.len() - 1] as usize == Outcome::ALL.len());
