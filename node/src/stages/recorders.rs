//! Who records: a reactor, a shard, the log thread. Each has counters of its own.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use model::Reply;
use mq::LogStats;

use super::Stages;
use super::clock::Ticks;
use super::histogram::{Histogram, add};

/// What a request's reactor must know of its time on the shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardTicks {
    /// When it was handed to the outbox or the inbox.
    pub submitted: Ticks,
    /// When all that it depends on was durable. Until then: when it was decided.
    pub durable: Ticks,
}

/// When a write passed the ends of its stages on its reactor.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReactorTicks {
    /// Its first byte was read from the socket.
    pub begun: Ticks,
    /// Its body was whole.
    pub received: Ticks,
    /// Its body was commands.
    pub decoded: Ticks,
    /// They were handed to the outbox.
    pub submitted: Ticks,
    /// They were durable.
    pub durable: Ticks,
    /// Its task ran again.
    pub resumed: Ticks,
    /// How many commands.
    pub commands: u32,
}

/// Records what a reactor does. It has one writer, so it stays on its thread.
pub struct ReactorRecorder {
    pub(super) stages: Arc<Stages>,
    pub(super) times: Arc<ReactorTimes>,
    pub(super) one_thread: PhantomData<Cell<()>>,
}

impl ReactorRecorder {
    /// Reads the clock.
    #[inline]
    pub fn now(&self) -> Ticks {
        self.stages.clock.now()
    }

    /// A write whose answer's last byte was written at `sent`.
    pub fn record(&self, ticks: &ReactorTicks, sent: Ticks) {
        let (clock, times) = (&self.stages.clock, &*self.times);
        times.receive.record(clock.ns(ticks.begun, ticks.received));
        times.decode.record(clock.ns(ticks.received, ticks.decoded));
        times.admit.record(clock.ns(ticks.decoded, ticks.submitted));
        times.release.record(clock.ns(ticks.durable, ticks.resumed));
        times.send.record(clock.ns(ticks.resumed, sent));
        times.whole.record(clock.ns(ticks.begun, sent));
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

    /// A request for what there isn't.
    pub fn count_unknown(&self) {
        add(&self.times.unknown, 1);
    }

    /// What became of orders that were to be placed.
    #[inline]
    pub fn count_orders(&self, replies: &[Reply]) {
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

/// Records what a shard does.
pub(crate) struct ShardRecorder {
    pub(super) stages: Arc<Stages>,
    pub(super) times: Arc<ShardTimes>,
    /// Requests of the group that is released, and their commands, whose append took as long.
    pub(super) together: u64,
    pub(super) commands: u64,
}

impl ShardRecorder {
    #[inline]
    pub(crate) fn now(&self) -> Ticks {
        self.stages.clock.now()
    }

    /// A request that was decided.
    #[inline]
    pub(crate) fn decided(&self, submitted: Ticks, taken: Ticks, decided: Ticks) {
        let (clock, times) = (&self.stages.clock, &*self.times);
        times.queue.record(clock.ns(submitted, taken));
        times.apply.record(clock.ns(taken, decided));
    }

    /// A request that became durable with a group: sets when. [`ShardRecorder::end_group`]
    /// follows the group's last one.
    #[inline]
    pub(crate) fn durable(&mut self, ticks: &mut ShardTicks, commands: u32, append: &AppendTicks) {
        let (clock, times) = (&self.stages.clock, &*self.times);
        let decided = std::mem::replace(&mut ticks.durable, append.durable);
        times.gather.record(clock.ns(decided, append.begun));
        self.commands += u64::from(commands);
        if decided <= append.begun {
            self.together += 1;
        } else {
            // It changed nothing, and waited for what it saw: it came while that was written.
            let written = append.written.max(decided);
            times.append.record(clock.ns(decided, written));
            times.sync.record(clock.ns(written, append.durable));
        }
    }

    pub(crate) fn end_group(&mut self, append: &AppendTicks) {
        let (clock, times) = (&self.stages.clock, &*self.times);
        if self.together > 0 {
            times.append.record_times(clock.ns(append.begun, append.written), self.together);
            times.sync.record_times(clock.ns(append.written, append.durable), self.together);
        }
        add(&times.commands, self.commands);
        (self.together, self.commands) = (0, 0);
    }

    /// A request that changed nothing and depends on nothing that isn't durable.
    pub(crate) fn durable_already(&mut self, ticks: &mut ShardTicks, commands: u32) {
        let at = ticks.durable;
        let append = AppendTicks { begun: at, written: at, durable: at };
        self.durable(ticks, commands, &append);
        self.end_group(&append);
    }
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
        let (clock, times) = (&self.stages.clock, &self.stages.log);
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
    pub(super) receive: Histogram,
    pub(super) decode: Histogram,
    pub(super) admit: Histogram,
    pub(super) release: Histogram,
    pub(super) send: Histogram,
    pub(super) whole: Histogram,
    pub(super) commands: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) unknown: AtomicU64,
    /// Of orders that were to be placed, by the byte of the outcome.
    pub(super) outcomes: [AtomicU64; 16],
}

#[derive(Default)]
pub(super) struct ShardTimes {
    pub(super) queue: Histogram,
    pub(super) apply: Histogram,
    pub(super) gather: Histogram,
    pub(super) append: Histogram,
    pub(super) sync: Histogram,
    pub(super) commands: AtomicU64,
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
