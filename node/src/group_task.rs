//! The shards of a reactor at work.
//!
//! The task takes submissions, has its [`ShardGroup`] decide them into the frames that are being
//! built, and hands the frames to the log thread whenever that is free. Answers wait with the
//! frames that they depend on: a command's with its own record, a read's or a repeat's with the
//! newest frame that isn't durable yet, because what it saw may be in there.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use model::frame::Frame;
use model::record::RecordError;
use mq::LogEnd;
use tokio::sync::mpsc;
use txn_core::Shard;

use crate::clock::MachineClock;
use crate::commit::{Committed, Group, Job};
use crate::group::{self, Lookup, Lost, Message as ShardMessage, ShardGroup, Token};
use crate::inbox::{Answer, Asked, Found, Incoming, Message, Parcel, ReturnTo, Returns};
use crate::lookups::{IndexJob, IndexedFrames, RowIndex};
use crate::memory::MemoryThread;
use crate::snapshots::{AHEAD, Assignment, Part};
use crate::space::DiskSpace;
use crate::stages::{self, AppendTicks, GroupTicks, Stages, Ticks};
use crate::{GroupHandle, LogThread, Now, SubmitError};

/// Bytes decided and not yet durable, beyond which the group takes nothing more in.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Parcels taken in before frames may go to the log.
const TAKE_MAX: usize = 256;
/// When a group has been idle for this long, an empty frame follows its last one. It names the
/// last one as synced, so that damage to it is never taken for a torn tail.
const IDLE_MARK: Duration = Duration::from_millis(100);

/// KiB of a snapshot that are saved at once, some tens of microseconds, and how often: a shard of
/// 600,000 accounts in a quarter of a second, with less than a tenth of its core.
const SLICE_KIB: usize = 128;
const SLICE_EVERY: Duration = Duration::from_micros(500);

/// Timers are looked at no more often than this.
const TICK_MIN: Duration = Duration::from_millis(1);

/// Why shards stopped before they were told to. Nothing after the failure was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardFailed {
    /// The log failed; opening it again finds out what it holds.
    #[error("the log failed: {0}")]
    Log(String),
    /// Commands were handed in that are none.
    #[error("a submission holds no commands: {0}")]
    Commands(#[from] RecordError),
    /// A shard's log is shorter than it was.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// Who waits for an answer, and since when.
struct Waiter {
    to: ReturnTo,
    /// For commands: when they were submitted, taken up and decided.
    ticks: GroupTicks,
}

impl Token for Waiter {
    fn decided(&mut self) {
        self.ticks.decided = stages::now();
    }
}

/// The only writer of the shards of a group.
pub struct GroupTask {
    group: ShardGroup<Waiter>,
    memory: MemoryThread,
    inbox: Incoming,
    returns: Returns,
    number: u16,
    /// By shard: the number of its group, and the way there.
    peers: Vec<(u16, mpsc::WeakUnboundedSender<Parcel>)>,
    log: Arc<Sender<Job>>,
    done_sender: mpsc::UnboundedSender<Committed>,
    done: mpsc::UnboundedReceiver<Committed>,
    clock: MachineClock,
    now: Now,
    /// When the message before was done with, which is when the next one is taken up.
    looked: Ticks,
    messages: Vec<ShardMessage>,
    /// When timers are looked at next.
    look_at: Duration,
    /// Something became durable that other shards may want to know.
    may_send: bool,
    has_room: bool,
    /// Whether a frame follows the last one that has records.
    marked: bool,
    snapshot: Option<Taking>,
    /// Where what has left memory is found.
    index: Option<RowIndex>,
    space: Option<Arc<DiskSpace>>,
    /// Rows that had left memory when that was looked at last.
    evicted: u64,
    /// The way to this group.
    own: Option<mpsc::WeakUnboundedSender<Parcel>>,
}

/// A snapshot that is being taken.
struct Taking {
    assignment: Assignment,
    /// When the next slice is saved.
    slice_at: Duration,
}

impl GroupTask {
    /// Shards that go on at the ends of their logs, each under a new epoch. `number` is what the
    /// group's times are listed under.
    pub(crate) fn new(
        number: u16,
        shards: u16,
        members: Vec<(Shard, LogEnd)>,
        log: &LogThread,
        memory: MemoryThread,
        stages: Arc<Stages>,
    ) -> (GroupTask, GroupHandle) {
        let (handle, inbox) = Incoming::new(stages, Arc::downgrade(&log.jobs()));
        let (done_sender, done) = mpsc::unbounded_channel();
        let newest = members.iter().map(|(_, end)| end.time).max().unwrap_or_default();
        let task = GroupTask {
            group: ShardGroup::new(shards, members),
            memory,
            inbox,
            returns: Returns::default(),
            number,
            peers: Vec::new(),
            log: log.jobs(),
            done_sender,
            done,
            clock: MachineClock::new(newest),
            now: Now { time: newest, ..Now::default() },
            looked: Ticks::default(),
            messages: Vec::new(),
            look_at: Duration::ZERO,
            may_send: false,
            has_room: true,
            marked: true,
            snapshot: None,
            index: None,
            space: None,
            evicted: 0,
            own: None,
        };
        (task, handle)
    }

    /// Says, by shard, which group has it. Streams don't keep a group alive.
    pub(crate) fn connect(&mut self, by_shard: &[(u16, GroupHandle)]) {
        let way = |(number, handle): &(u16, GroupHandle)| (*number, handle.parcels.downgrade());
        self.peers = by_shard.iter().map(way).collect();
    }

    /// Lets rows leave memory beyond so many words of each shard's, by table: the index says where
    /// they are.
    pub(crate) fn keep(&mut self, words: [u64; 2], index: RowIndex, own: &GroupHandle) {
        self.group.keep(words);
        self.evicted = self.group.members().map(Shard::evicted).sum();
        self.index = Some(index);
        self.own = Some(own.parcels.downgrade());
    }

    /// Refuses what it can while a disk is nearly full.
    pub(crate) fn watch(&mut self, space: Arc<DiskSpace>) {
        self.space = Some(space);
    }

    /// Serves until every handle is dropped, then makes durable what is left. An error means
    /// that the process must stop.
    pub async fn run(mut self) -> Result<(), ShardFailed> {
        self.now = self.clock.now();
        self.commit()?;
        let mut taken = Vec::with_capacity(TAKE_MAX);
        let mut open = true;
        while open || self.group.is_in_flight() {
            let may_take = open && self.group.unwritten_bytes() < GROUP_BYTES_MAX;
            let rests = !self.group.is_in_flight();
            let wake = if rests { self.rest() } else { None };
            let wake = if self.snapshot.is_some() { Some(SLICE_EVERY) } else { wake };
            tokio::select! {
                biased;
                done = self.done.recv() => {
                    self.now = self.clock.now();
                    self.release(done.expect("the task keeps a sender"))?;
                }
                count = self.inbox.take(&mut taken, TAKE_MAX), if may_take => {
                    open = count > 0;
                    self.looked = stages::now();
                    self.now = self.clock.now();
                    for parcel in taken.drain(..) {
                        self.open(parcel)?;
                    }
                }
                () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => {
                    self.now = self.clock.now();
                    if !self.marked && !self.group.has_unwritten() && wake == Some(IDLE_MARK) {
                        self.marked = true;
                        self.group.mark(self.now);
                    }
                }
            }
            // Looking costs as much as an order, so it isn't done more often than it has to be.
            if self.now.monotonic >= self.look_at {
                self.look_at = self.now.monotonic + TICK_MIN;
                if self.group.next_wake(self.now).is_some_and(|wake| wake.is_zero()) {
                    self.group.tick(self.now);
                }
                self.may_send = true;
            }
            if std::mem::take(&mut self.may_send) {
                self.send_streams()?;
            }
            if !self.group.is_in_flight() {
                self.commit()?;
            }
            if let Some(taking) = &self.snapshot {
                let (began, figures) = (Instant::now(), taking.assignment.figures.clone());
                if self.save() {
                    figures.step(began.elapsed());
                }
            }
            self.send_lookups();
            self.returns.send();
        }
        Ok(())
    }

    /// How long there is nothing to do, if nothing comes in.
    fn rest(&self) -> Option<Duration> {
        let mark = (!self.marked && !self.group.has_unwritten()).then_some(IDLE_MARK);
        let wake = self.group.next_wake(self.now).map(|wake| wake.max(TICK_MIN));
        mark.into_iter().chain(wake).min()
    }

    fn open(&mut self, parcel: Parcel) -> Result<(), ShardFailed> {
        match parcel {
            Parcel::One(message) => self.take(message)?,
            Parcel::Batch(reactor, mut messages, answers) => {
                for message in messages.drain(..) {
                    self.take(message)?;
                }
                self.returns.reuse(reactor, messages, answers);
            }
            Parcel::Reactor(reactor, sender) => self.returns.add(reactor, sender),
            Parcel::Streams(messages) => {
                self.group.deliver(self.now, &messages)?;
                self.let_out(None);
            }
            Parcel::StopDrill(stopped) => {
                self.group.stop_drill(self.now, stopped);
                self.let_out(None);
            }
            Parcel::Found(ticket, rows) => {
                self.group.found(self.now, ticket, rows);
                self.let_out(None);
            }
            Parcel::Snapshot(assignment) => {
                self.snapshot = Some(Taking { assignment, slice_at: Duration::ZERO });
            }
        }
        Ok(())
    }

    fn take(&mut self, Message { asked, answer: to }: Message) -> Result<(), ShardFailed> {
        let bytes = asked.bytes();
        match asked {
            Asked::Query(shard, realm, query) => {
                let waiter = Waiter { to, ticks: GroupTicks::default() };
                self.group.query(waiter, shard, realm, query);
                self.looked = stages::now();
            }
            Asked::List(shard, realm, list) => {
                let waiter = Waiter { to, ticks: GroupTicks::default() };
                self.group.list(waiter, shard, realm, &list);
                self.looked = stages::now();
            }
            Asked::Commands { .. } if !self.has_room => {
                self.returns.give(to, Err(SubmitError::Full));
            }
            Asked::Commands { commands, .. }
                if self.space.as_ref().is_some_and(|space| space.refuses(&commands)) =>
            {
                self.returns.give(to, Err(SubmitError::DiskLow));
            }
            Asked::Commands { commands, replies, submitted } => {
                let ticks = GroupTicks { submitted, taken: self.looked, ..GroupTicks::default() };
                let waiter = Waiter { to, ticks };
                self.group.submit(self.now, waiter, commands, replies)?;
                self.looked = stages::now();
            }
        }
        self.inbox.decided(bytes);
        self.let_out(None);
        Ok(())
    }

    /// Lets answers out that depend on nothing any more.
    fn let_out(&mut self, append: Option<&AppendTicks>) {
        for (waiter, found) in self.group.released() {
            let found = match found {
                group::Found::View(view) => Found::View(view),
                group::Found::Listed(listed) => Found::Listed(listed),
                group::Found::Unreadable => {
                    self.returns.give(waiter.to, Err(SubmitError::Unreadable));
                    continue;
                }
                group::Found::Commands(commands, replies) => {
                    let mut ticks = waiter.ticks;
                    ticks.append(append);
                    Found::Commands(Answer { commands, replies, ticks })
                }
            };
            self.returns.give(waiter.to, Ok(found));
        }
    }

    /// Sends what shards have for each other. What is for this group it takes at once.
    fn send_streams(&mut self) -> Result<(), ShardFailed> {
        let mut messages = std::mem::take(&mut self.messages);
        self.group.messages(self.now, &mut messages);
        // By group: those for one go together.
        messages.sort_by_key(|message| self.peers[usize::from(message.to.0)].0);
        while let Some(last) = messages.last() {
            let (to, peer) = &self.peers[usize::from(last.to.0)];
            let before = |message: &ShardMessage| self.peers[usize::from(message.to.0)].0 < *to;
            let theirs = messages.split_off(messages.partition_point(before));
            if *to != self.number {
                // A group that has ended takes nothing more.
                if let Some(peer) = peer.upgrade() {
                    let _ = peer.send(Parcel::Streams(theirs));
                }
                continue;
            }
            self.group.deliver(self.now, &theirs)?;
            self.let_out(None);
        }
        self.messages = messages;
        Ok(())
    }

    /// Has looked up what is wanted.
    fn send_lookups(&mut self) {
        let lookups: Vec<Lookup> = self.group.lookups().collect();
        for lookup in lookups {
            let ticket = lookup.ticket;
            let sent = match (&self.index, &self.own) {
                (Some(RowIndex { jobs, .. }), Some(own)) => {
                    jobs.send(IndexJob::LookUp(lookup, own.clone())).is_ok()
                }
                _ => false,
            };
            if !sent {
                self.group.found(self.now, ticket, None);
                self.let_out(None);
            }
        }
    }

    /// Tells the index of frames that are durable.
    fn index(&mut self, frames: &[Vec<u8>]) {
        let Some(RowIndex { jobs, seed, figures }) = &self.index else { return };
        let evicted = self.group.members().map(Shard::evicted).sum();
        let before = std::mem::replace(&mut self.evicted, evicted);
        figures.evicted.fetch_add(evicted - before, Relaxed);
        let mut found = IndexedFrames::default();
        for bytes in frames {
            let (frame, _) = Frame::split(bytes).expect("the group made it");
            seed.index(&frame, &mut found);
        }
        // Without an index the process ends.
        drop(jobs.send(IndexJob::Records(found)));
    }

    /// Hands what is there to the log thread, which is free.
    fn commit(&mut self) -> Result<(), ShardFailed> {
        if !self.group.has_unwritten() {
            return Ok(());
        }
        let (frames, records) = self.group.take_frames(self.now);
        self.marked &= records == 0;
        let group = Group { frames, records, done: self.done_sender.clone() };
        self.memory.look();
        self.has_room = self.group.has_room();
        self.log
            .send(Job::Append(group))
            .map_err(|_| ShardFailed::Log("the log thread has ended".to_string()))
    }

    /// Goes on with the snapshot that is being taken. Says whether anything was saved.
    fn save(&mut self) -> bool {
        let Some(mut taking) = self.snapshot.take() else { return false };
        let Assignment { shard, parts, unwritten, .. } = &taking.assignment;
        if !self.group.is_saving() {
            // What it has decided last may have to be handed over first.
            let begun = self.group.begin_snapshot(*shard);
            if let Some(end) = begun {
                let _ = parts.send(Part::Begun(end));
            }
            self.snapshot = Some(taking);
            return begun.is_some();
        }
        let is_time = self.now.monotonic >= taking.slice_at && unwritten.load(Relaxed) < AHEAD;
        if is_time {
            taking.slice_at = self.now.monotonic + SLICE_EVERY;
        }
        let (pieces, is_over) = self.group.save_some(if is_time { SLICE_KIB } else { 0 });
        let did = is_time || !pieces.is_empty();
        unwritten.fetch_add(pieces.len(), Relaxed);
        let mut heard = pieces.is_empty() || parts.send(Part::Pieces(pieces)).is_ok();
        heard &= !is_over || parts.send(Part::Whole).is_ok();
        if !heard {
            // It can't be written: nobody waits for it any more.
            self.group.stop_snapshot();
        } else if !is_over {
            self.snapshot = Some(taking);
        }
        did
    }

    fn release(&mut self, done: Committed) -> Result<(), ShardFailed> {
        match done {
            Committed::Durable(frames, append) => {
                self.index(&frames);
                self.group.durable(self.now, frames);
                self.may_send = true;
                self.let_out(Some(&append));
                Ok(())
            }
            Committed::Failed(detail) => Err(ShardFailed::Log(detail)),
        }
    }
}
