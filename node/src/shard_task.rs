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
use model::record::{CommandBuffer, RULE_VERSION, RecordError, Records};
use model::reply::{Query, View};
use model::{Epoch, Reply, ShardId};
use mq::LogEnd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use txn_core::Shard;

use crate::LogThread;
use crate::clock::Clock;
use crate::commit::{Committed, Group};
use crate::memory::MemoryThread;
use crate::stages::{AppendTicks, ShardRecorder, ShardTicks, Stages, Ticks};

/// Submissions that may wait for a shard.
const INBOX_MESSAGES: usize = 16_384;
/// Bytes of commands that may wait for a shard, together.
const INBOX_BYTES: usize = 64 << 20;
/// Bytes decided and not yet durable, beyond which the shard takes nothing more in.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Submissions taken in before the frame may go to the log.
const TAKE_MAX: usize = 256;
/// When a shard has been idle for this long, an empty frame follows its last one. It names the
/// last one as synced, so that damage to it is never taken for a torn tail.
const IDLE_MARK: Duration = Duration::from_millis(100);

/// The answer to a submission: one reply for each command, in order, and its buffers back.
#[derive(Debug)]
pub struct Answer {
    /// The commands that were submitted.
    pub commands: CommandBuffer,
    /// What became of them.
    pub replies: Vec<Reply>,
    /// When they came and when they were durable.
    pub ticks: ShardTicks,
}

/// The shard has as much waiting as it may. Trying again later can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard has as much waiting as it may")]
pub struct Overloaded;

/// Why a submission got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Refused before anything happened: try again later.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// The shard's state fills the memory that it may use; nothing happened.
    #[error("the shard's state is as large as it may be")]
    Full,
    /// The shard stopped. What became of the commands isn't known: repeat them with their ids
    /// when it is back.
    #[error("the shard has stopped; repeat with the same ids when it is back")]
    Stopped,
}

enum Message {
    Commands {
        commands: CommandBuffer,
        replies: Vec<Reply>,
        room: OwnedSemaphorePermit,
        answer: AnswerSender,
        submitted: Ticks,
    },
    Query {
        query: Query,
        answer: oneshot::Sender<View>,
    },
}

type AnswerSender = oneshot::Sender<Result<Answer, SubmitError>>;

/// Submits to a shard, from any thread.
#[derive(Clone)]
pub struct ShardHandle {
    inbox: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    stages: Arc<Stages>,
}

impl ShardHandle {
    /// Where the time of what is submitted is recorded.
    pub fn stages(&self) -> &Arc<Stages> {
        &self.stages
    }

    /// Looks at what waits, without keeping the shard alive.
    pub fn inbox(&self) -> Inbox {
        Inbox { inbox: self.inbox.downgrade(), room: self.room.clone() }
    }

    /// Submits commands. The answer comes when all of them are durable. `replies` is memory to
    /// use again; what it holds is dropped.
    pub async fn submit(
        &self,
        commands: CommandBuffer,
        mut replies: Vec<Reply>,
    ) -> Result<Answer, SubmitError> {
        replies.clear();
        let bytes = commands.bytes().len().min(INBOX_BYTES) as u32;
        let room = self.room.clone().try_acquire_many_owned(bytes).map_err(|_| Overloaded)?;
        let (answer, answered) = oneshot::channel();
        let submitted = self.stages.now();
        self.send(Message::Commands { commands, replies, room, answer, submitted })?;
        answered.await.map_err(|_| SubmitError::Stopped)?
    }

    /// Reads. What it shows is durable.
    pub async fn query(&self, query: Query) -> Result<View, SubmitError> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Query { query, answer })?;
        answered.await.map_err(|_| SubmitError::Stopped)
    }

    fn send(&self, message: Message) -> Result<(), SubmitError> {
        self.inbox.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SubmitError::Overloaded(Overloaded),
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopped,
        })
    }
}

/// What waits for a shard, to be looked at.
#[derive(Clone)]
pub struct Inbox {
    inbox: mpsc::WeakSender<Message>,
    room: Arc<Semaphore>,
}

impl Inbox {
    /// Submissions and queries that wait now; none once the shard stops.
    pub fn messages(&self) -> usize {
        self.inbox.upgrade().map_or(0, |inbox| inbox.max_capacity() - inbox.capacity())
    }

    /// Bytes of commands that wait now.
    pub fn bytes(&self) -> usize {
        INBOX_BYTES - self.room.available_permits()
    }
}

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
enum Held {
    Commands(AnswerSender, Answer),
    Query(oneshot::Sender<View>, View),
}

impl Held {
    /// Lets it out, now that a group is durable.
    fn release(mut self, recorder: &mut ShardRecorder, append: &AppendTicks) {
        if let Held::Commands(_, answer) = &mut self {
            recorder.durable(&mut answer.ticks, answer.commands.count(), append);
        }
        self.send();
    }

    /// Lets it out where it depends on nothing.
    fn release_alone(mut self, recorder: &mut ShardRecorder) {
        if let Held::Commands(_, answer) = &mut self {
            recorder.durable_already(&mut answer.ticks, answer.commands.count());
        }
        self.send();
    }

    fn send(self) {
        // A caller that went away needs no answer: what it asked for is done and remembered.
        match self {
            Held::Commands(sender, answer) => drop(sender.send(Ok(answer))),
            Held::Query(sender, view) => drop(sender.send(view)),
        }
    }
}

/// The only writer of a shard.
pub struct ShardTask {
    id: ShardId,
    shard: Shard,
    memory: MemoryThread,
    inbox: mpsc::Receiver<Message>,
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
        let (sender, inbox) = mpsc::channel(INBOX_MESSAGES);
        let (done_sender, done) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(INBOX_BYTES));
        let task = ShardTask {
            id,
            memory: MemoryThread::spawn(shard.spare_regions().clone())?,
            shard,
            inbox,
            groups: log.groups(),
            done_sender,
            done,
            clock: Clock::new(end.time),
            recorder: stages.shard(id.0),
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
        Ok((task, ShardHandle { inbox: sender, room, stages }))
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
                count = self.inbox.recv_many(&mut taken, TAKE_MAX), if may_take => {
                    open = count > 0;
                    self.looked = self.recorder.now();
                    for message in taken.drain(..) {
                        self.take(message)?;
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
        }
        Ok(())
    }

    fn take(&mut self, message: Message) -> Result<(), ShardFailed> {
        match message {
            Message::Query { query, answer } => {
                let view = self.shard.query(query);
                self.looked = self.recorder.now();
                self.hold(Held::Query(answer, view));
            }
            Message::Commands { commands, mut replies, room, answer, submitted } => {
                let taken = self.looked;
                if !self.shard.has_room() {
                    let _ = answer.send(Err(SubmitError::Full));
                    return Ok(());
                }
                let mut rest = commands.records();
                while replies.len() < commands.count() as usize {
                    self.apply(&mut rest, &mut replies)?;
                }
                drop(room);
                let decided = self.recorder.now();
                self.looked = decided;
                self.recorder.decided(submitted, taken, decided);
                let ticks = ShardTicks { submitted, durable: decided };
                self.hold(Held::Commands(answer, Answer { commands, replies, ticks }));
            }
        }
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
            None => held.release_alone(&mut self.recorder),
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
                    held.release(&mut self.recorder, &append);
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
