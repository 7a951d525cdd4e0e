//! One shard at work.
//!
//! The task takes submissions, has the core decide them into the frame that is being built, and
//! hands the frame to the log thread whenever that is free. Answers wait with the frame that
//! they depend on: a command's with its own record, a read's or a repeat's with the newest frame
//! that isn't durable yet, because what it saw may be in there.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use model::frame::{FrameBuilder, FramePlace};
use model::record::{RULE_VERSION, RecordError, Records};
use model::{Epoch, Reply, ShardId};
use mq::LogEnd;
use tokio::sync::mpsc;
use txn_core::Shard;

use crate::clock::Clock;
use crate::commit::{Committed, Group};
use crate::inbox::{Answer, Asked, Found, Incoming, Message, Parcel, ReturnTo, Returns};
use crate::memory::MemoryThread;
use crate::stages::{AppendTicks, ShardRecorder, ShardTicks, Stages, Ticks};
use crate::{LogThread, ShardHandle, SubmitError};

/// Bytes decided and not yet durable, beyond which the shard takes nothing more in.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Parcels taken in before the frame may go to the log.
const TAKE_MAX: usize = 256;
/// When a shard has been idle for this long, an empty frame follows its last one. It names the
/// last one as synced, so that damage to it is never taken for a torn tail.
const IDLE_MARK: Duration = Duration::from_millis(100);

/// Why a shard stopped before it was told to. Nothing after the failure was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardFailed {
    /// The log failed; opening it again finds out what it holds.
    #[error("the log failed: {0}")]
    Log(String),
    /// Commands were handed in that are none.
    #[error("a submission holds no commands: {0}")]
    Commands(#[from] RecordError),
}

/// An answer that waits for its frame.
struct Held {
    to: ReturnTo,
    found: Found,
}

impl Held {
    /// Lets it out, now that a group is durable.
    fn release(
        mut self,
        append: &AppendTicks,
        recorder: &mut ShardRecorder,
        returns: &mut Returns,
    ) {
        if let Found::Commands(answer) = &mut self.found {
            recorder.durable(&mut answer.ticks, answer.commands.count(), append);
        }
        returns.give(self.to, Ok(self.found));
    }

    /// Lets it out where it depends on nothing.
    fn release_alone(mut self, recorder: &mut ShardRecorder, returns: &mut Returns) {
        if let Found::Commands(answer) = &mut self.found {
            recorder.durable_already(&mut answer.ticks, answer.commands.count());
        }
        returns.give(self.to, Ok(self.found));
    }
}

/// The only writer of a shard.
pub struct ShardTask {
    id: ShardId,
    shard: Shard,
    memory: MemoryThread,
    inbox: Incoming,
    returns: Returns,
    groups: Sender<Group>,
    done_sender: mpsc::UnboundedSender<Committed>,
    done: mpsc::UnboundedReceiver<Committed>,
    clock: Clock,
    recorder: ShardRecorder,
    /// When the message before was done with, which is when the next one is taken up.
    looked: Ticks,
    epoch: Epoch,
    /// Hash of the newest finished frame.
    previous: u64,
    frame: FrameBuilder,
    /// Finished frames that wait for the log thread, and answers that depend on them or on
    /// the frame in the making.
    finished: Vec<Vec<u8>>,
    finished_bytes: usize,
    /// Records of the finished frames.
    finished_records: u64,
    held: Vec<Held>,
    /// Answers that depend on what the log thread writes now.
    in_flight: Option<Vec<Held>>,
    spare_held: Vec<Held>,
    spare_frames: Vec<Vec<u8>>,
    /// Whether a frame follows the last one that has records.
    marked: bool,
}

impl ShardTask {
    /// A shard that goes on at the end of its log, under a new epoch.
    pub(crate) fn new(
        id: ShardId,
        shard: Shard,
        end: LogEnd,
        log: &LogThread,
        stages: Arc<Stages>,
    ) -> std::io::Result<(ShardTask, ShardHandle)> {
        let recorder = stages.shard(id.0);
        let (handle, inbox) = Incoming::new(stages);
        let (done_sender, done) = mpsc::unbounded_channel();
        let task = ShardTask {
            id,
            memory: MemoryThread::spawn(shard.spare_regions().clone())?,
            shard,
            inbox,
            returns: Returns::default(),
            groups: log.groups(),
            done_sender,
            done,
            clock: Clock::new(end.time),
            recorder,
            looked: Ticks::default(),
            epoch: Epoch(end.epoch.0 + 1),
            previous: end.previous,
            frame: FrameBuilder::default(),
            finished: Vec::new(),
            finished_bytes: 0,
            finished_records: 0,
            held: Vec::new(),
            in_flight: None,
            spare_held: Vec::new(),
            spare_frames: Vec::new(),
            marked: true,
        };
        Ok((task, handle))
    }

    /// Serves until every handle is dropped, then makes durable what is left. An error means
    /// that the process must stop.
    pub async fn run(mut self) -> Result<(), ShardFailed> {
        // The epoch's first frame holds no record: it fences whoever wrote before.
        self.finish_frame();
        self.commit()?;
        let mut taken = Vec::with_capacity(TAKE_MAX);
        let mut open = true;
        while open || self.in_flight.is_some() {
            let may_take = open && self.finished_bytes + self.frame.len() < GROUP_BYTES_MAX;
            let idle = !self.marked && self.in_flight.is_none() && self.frame.is_empty();
            tokio::select! {
                biased;
                done = self.done.recv() => {
                    self.release(done.expect("the task keeps a sender"))?;
                }
                count = self.inbox.take(&mut taken, TAKE_MAX), if may_take => {
                    open = count > 0;
                    self.looked = self.recorder.now();
                    for parcel in taken.drain(..) {
                        self.open(parcel)?;
                    }
                }
                () = tokio::time::sleep(IDLE_MARK), if idle => {
                    self.marked = true;
                    self.finish_frame();
                }
            }
            if self.in_flight.is_none() {
                self.commit()?;
            }
            self.returns.send();
        }
        Ok(())
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
        }
        Ok(())
    }

    fn take(&mut self, Message { asked, answer: to }: Message) -> Result<(), ShardFailed> {
        let bytes = asked.bytes();
        match asked {
            Asked::Query(query) => {
                let view = self.shard.query(query);
                self.looked = self.recorder.now();
                self.hold(Held { to, found: Found::View(view) });
            }
            Asked::Commands { .. } if !self.shard.has_room() => {
                self.returns.give(to, Err(SubmitError::Full));
            }
            Asked::Commands { commands, mut replies, submitted } => {
                let taken = self.looked;
                let mut rest = commands.records();
                while replies.len() < commands.count() as usize {
                    self.apply(&mut rest, &mut replies)?;
                }
                let decided = self.recorder.now();
                self.looked = decided;
                self.recorder.decided(submitted, taken, decided);
                let ticks = ShardTicks { submitted, durable: decided };
                let found = Found::Commands(Answer { commands, replies, ticks });
                self.hold(Held { to, found });
            }
        }
        self.inbox.decided(bytes);
        Ok(())
    }

    fn apply(
        &mut self,
        commands: &mut Records<'_>,
        replies: &mut Vec<Reply>,
    ) -> Result<(), ShardFailed> {
        let before = replies.len();
        self.shard.apply(commands, &mut self.frame, replies)?;
        if replies.len() == before {
            self.finish_frame(); // It is full; there is room in the next one.
        }
        Ok(())
    }

    /// Keeps an answer until what it depends on is durable.
    fn hold(&mut self, held: Held) {
        let unwritten = !self.frame.is_empty() || !self.finished.is_empty();
        match &mut self.in_flight {
            _ if unwritten => self.held.push(held),
            Some(in_flight) => in_flight.push(held),
            None => held.release_alone(&mut self.recorder, &mut self.returns),
        }
    }

    /// Completes the frame in the making and begins another.
    fn finish_frame(&mut self) {
        let spare = self.spare_frames.pop().unwrap_or_default();
        let frame = std::mem::replace(&mut self.frame, FrameBuilder::reuse(spare));
        let next = self.shard.next_offset();
        let place = FramePlace {
            shard: self.id,
            epoch: self.epoch,
            first_offset: model::Offset(next.0 - u64::from(frame.count())),
            time: self.clock.now(),
            previous: self.previous,
        };
        self.marked &= frame.is_empty();
        self.finished_records += u64::from(frame.count());
        let (bytes, hash) = frame.finish(place, RULE_VERSION);
        self.previous = hash;
        self.finished_bytes += bytes.len();
        self.finished.push(bytes);
    }

    /// Hands what is there to the log thread, which is free.
    fn commit(&mut self) -> Result<(), ShardFailed> {
        if !self.frame.is_empty() {
            self.finish_frame();
        }
        if self.finished.is_empty() {
            return Ok(());
        }
        let frames = std::mem::take(&mut self.finished);
        self.finished_bytes = 0;
        let spare = std::mem::take(&mut self.spare_held);
        self.in_flight = Some(std::mem::replace(&mut self.held, spare));
        let records = std::mem::take(&mut self.finished_records);
        let group = Group { frames, records, done: self.done_sender.clone() };
        self.memory.look();
        self.groups
            .send(group)
            .map_err(|_| ShardFailed::Log("the log thread has ended".to_string()))
    }

    fn release(&mut self, done: Committed) -> Result<(), ShardFailed> {
        match done {
            Committed::Durable(mut frames, append) => {
                let mut held = self.in_flight.take().expect("only what was handed over is done");
                for held in held.drain(..) {
                    held.release(&append, &mut self.recorder, &mut self.returns);
                }
                self.recorder.end_group(&append);
                self.spare_held = held;
                self.spare_frames.append(&mut frames);
                self.spare_frames.truncate(GROUP_BYTES_MAX / model::frame::FRAME_BYTES_MAX + 1);
                Ok(())
            }
            Committed::Failed(detail) => Err(ShardFailed::Log(detail)),
        }
    }
}
