//! The way to a group of shards and back.
//!
//! What is submitted from any thread travels alone, and its answer comes back by a channel of
//! its own. What is submitted on a reactor ([`LocalHandle`](crate::LocalHandle)) travels with
//! what else that reactor has for the shard, and the answers come back together, too: a message
//! between threads costs a wake, which costs more than an order.
//!
//! However it travels, it counts in the shard's [`Room`] from when it is submitted until it is
//! decided.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};

use model::record::CommandBuffer;
use model::reply::{List, Listed, Query, View};
use model::{Offset, Party, Realm, Reply, ShardId, Time};
use mq::Archive;
use tokio::sync::{mpsc, oneshot};

use crate::commit::{Job, LookedUp, Lookup};
use crate::group::Message as ShardMessage;
use crate::lookups::{IndexJob, RowIndex};
use crate::snapshots::Assignment;
use crate::stages::{self, GroupTicks, Stages, Ticks};

/// Submissions that may wait for a shard.
const INBOX_MESSAGES: usize = 16_384;
/// Bytes of commands that may wait for a shard, together.
const INBOX_BYTES: usize = 64 << 20;

/// The answer to a submission: one reply for each command, in order, and its buffers back.
#[derive(Debug)]
pub struct Answer {
    /// The commands that were submitted.
    pub commands: CommandBuffer,
    /// What became of them.
    pub replies: Vec<Reply>,
    /// When they came and when they were durable.
    pub ticks: GroupTicks,
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
    /// The disk is nearly full; nothing happened. Payments, cancels and refunds are taken.
    #[error("the disk is nearly full")]
    DiskLow,
    /// What is asked for is in the log and can't be read there: an audit says why.
    #[error("the log can't be read where it should be")]
    Unreadable,
    /// What is asked for was trimmed, and nothing that is trimmed is kept.
    #[error("what is asked for was trimmed from the log, and no archive keeps it")]
    Trimmed,
    /// The shard stopped. What became of the commands isn't known: repeat them with their ids
    /// when it is back.
    #[error("the shard has stopped; repeat with the same ids when it is back")]
    Stopped,
}

/// Something to decide or to look up, and where the answer goes.
pub(crate) struct Message {
    pub(crate) asked: Asked,
    pub(crate) answer: ReturnTo,
}

pub(crate) enum Asked {
    Commands { commands: CommandBuffer, replies: Vec<Reply>, submitted: Ticks },
    Query(ShardId, Realm, Query),
    List(ShardId, Realm, List),
}

impl Asked {
    /// Commands with memory for their replies.
    pub(crate) fn commands(commands: CommandBuffer, mut replies: Vec<Reply>) -> Asked {
        replies.clear();
        Asked::Commands { commands, replies, submitted: stages::now() }
    }
}

/// What was asked for.
pub(crate) enum Found {
    Commands(Answer),
    View(View),
    Listed(Listed),
}

impl Found {
    pub(crate) fn answer(self) -> Answer {
        match self {
            Found::Commands(answer) => answer,
            _ => unreachable!("commands are answered by replies"),
        }
    }

    pub(crate) fn view(self) -> View {
        match self {
            Found::View(view) => view,
            _ => unreachable!("a query is answered by a view"),
        }
    }

    pub(crate) fn listed(self) -> Listed {
        match self {
            Found::Listed(listed) => listed,
            _ => unreachable!("a list is answered by rows"),
        }
    }
}

pub(crate) type Answered = Result<Found, SubmitError>;

/// Where an answer goes.
pub(crate) enum ReturnTo {
    /// To a caller who has a channel of its own.
    Caller(oneshot::Sender<Answered>),
    /// To a reactor, under the number by which that knows who waits.
    Reactor { reactor: usize, waiter: usize },
}

/// What goes through the inbox at once.
pub(crate) enum Parcel {
    One(Message),
    /// What this reactor has, in the order in which it was submitted; and answers' memory back.
    Batch(usize, Vec<Message>, Vec<(usize, Answered)>),
    /// A reactor will hand in batches; its answers go here.
    Reactor(usize, mpsc::UnboundedSender<Return>),
    /// What other shards have to say to those of this group.
    Streams(Vec<ShardMessage>),
    /// Whether rehearsal is stopped.
    StopDrill(bool),
    /// What a look-up found: the words of its rows, none of one that isn't there. `None`: it
    /// can't be read now.
    Found(usize, Option<Vec<Vec<u64>>>),
    /// A snapshot of one of the shards is wanted.
    Snapshot(Assignment),
}

/// Answers for one reactor, each with its waiter; and messages' memory back.
pub(crate) type Return = (Vec<(usize, Answered)>, Vec<Message>);

/// What may wait for a shard, and what does.
#[derive(Default)]
pub(crate) struct Room {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    reactors: AtomicUsize,
    is_closed: AtomicBool,
}

impl Room {
    /// Takes the room of one message.
    pub(crate) fn enter(&self, asked: &Asked) -> Result<(), SubmitError> {
        if self.is_closed.load(Relaxed) {
            return Err(SubmitError::Stopped);
        }
        let bytes = asked.bytes();
        let messages = self.messages.fetch_add(1, Relaxed);
        let waiting = self.bytes.fetch_add(bytes, Relaxed);
        if messages < INBOX_MESSAGES && waiting + bytes <= INBOX_BYTES {
            return Ok(());
        }
        self.leave(1, bytes);
        Err(SubmitError::Overloaded(Overloaded))
    }

    fn leave(&self, messages: usize, bytes: usize) {
        self.messages.fetch_sub(messages, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    /// A number for a reactor.
    pub(crate) fn next_reactor(&self) -> usize {
        self.reactors.fetch_add(1, Relaxed)
    }
}

impl Asked {
    /// The bytes that it takes of the room. Commands that are larger than all of it take all of it.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Asked::Commands { commands, .. } => commands.bytes().len().min(INBOX_BYTES),
            Asked::Query(..) | Asked::List(..) => 0,
        }
    }
}

/// Submits to a shard, from any thread.
#[derive(Clone)]
pub struct GroupHandle {
    pub(crate) parcels: mpsc::UnboundedSender<Parcel>,
    pub(crate) room: Arc<Room>,
    pub(crate) stages: Arc<Stages>,
    /// Whoever may submit doesn't keep the log open.
    pub(crate) log: Weak<Sender<Job>>,
    pub(crate) archive: Option<Arc<Archive>>,
    pub(crate) index: Option<RowIndex>,
}

impl GroupHandle {
    /// Reads a record of one of these shards from the log, where it is durable: when it was
    /// decided, and its bytes. `None`: there is no such record, or it can't be read.
    pub async fn record(
        &self,
        shard: ShardId,
        offset: Offset,
    ) -> Result<Option<(Time, Vec<u8>)>, SubmitError> {
        let (answer, answered) = oneshot::channel();
        let lookup = Lookup { shard, offset, answer };
        let log = self.log.upgrade().ok_or(SubmitError::Stopped)?;
        log.send(Job::Read(lookup)).map_err(|_| SubmitError::Stopped)?;
        drop(log);
        match answered.await.map_err(|_| SubmitError::Stopped)? {
            LookedUp::Found(time, bytes) => Ok(Some((time, bytes))),
            LookedUp::Nothing => Ok(None),
            LookedUp::Trimmed => self.archived(shard, offset).await,
        }
    }

    /// Where a buyer's orders were placed, the newest first. Others may be among them.
    pub(crate) async fn orders_of(
        &self,
        shard: ShardId,
        realm: Realm,
        buyer: Party,
    ) -> Result<Vec<Offset>, SubmitError> {
        let index = self.index.as_ref().ok_or(SubmitError::Unreadable)?;
        let (answer, answered) = oneshot::channel();
        let job = IndexJob::OfBuyer(shard, realm, buyer, answer);
        index.jobs.send(job).map_err(|_| SubmitError::Stopped)?;
        let found = answered.await.map_err(|_| SubmitError::Stopped)?;
        found.ok_or(SubmitError::Unreadable)
    }

    /// The same of what was trimmed.
    async fn archived(
        &self,
        shard: ShardId,
        offset: Offset,
    ) -> Result<Option<(Time, Vec<u8>)>, SubmitError> {
        let archive = self.archive.clone().ok_or(SubmitError::Trimmed)?;
        let read = tokio::task::spawn_blocking(move || archive.record(shard, offset));
        let read = read.await.map_err(|_| SubmitError::Stopped)?;
        read.map_err(|error| {
            tracing::warn!(%error, "a record can't be read");
            SubmitError::Unreadable
        })
    }

    /// Where the time of what is submitted is recorded.
    pub fn stages(&self) -> &Arc<Stages> {
        &self.stages
    }

    /// Looks at what waits, without keeping the shard alive.
    pub fn inbox(&self) -> Inbox {
        Inbox { room: self.room.clone() }
    }

    /// Submits commands. The answer comes when all of them are durable. `replies` is memory to
    /// use again; what it holds is dropped.
    pub async fn submit(
        &self,
        commands: CommandBuffer,
        replies: Vec<Reply>,
    ) -> Result<Answer, SubmitError> {
        self.ask(Asked::commands(commands, replies)).await.map(Found::answer)
    }

    /// Reads. What it shows is durable.
    pub async fn query(
        &self,
        shard: ShardId,
        realm: Realm,
        query: Query,
    ) -> Result<View, SubmitError> {
        self.ask(Asked::Query(shard, realm, query)).await.map(Found::view)
    }

    /// A switch for the rehearsal of these shards. It doesn't keep them alive.
    pub fn drill_switch(&self) -> DrillSwitch {
        DrillSwitch { parcels: self.parcels.downgrade() }
    }

    async fn ask(&self, asked: Asked) -> Answered {
        self.room.enter(&asked)?;
        let (answer, answered) = oneshot::channel();
        let message = Message { asked, answer: ReturnTo::Caller(answer) };
        self.parcels.send(Parcel::One(message)).map_err(|_| SubmitError::Stopped)?;
        answered.await.map_err(|_| SubmitError::Stopped)?
    }
}

/// Stops the rehearsal of a group's shards.
#[derive(Clone)]
pub struct DrillSwitch {
    parcels: mpsc::WeakUnboundedSender<Parcel>,
}

impl DrillSwitch {
    /// Stops all rehearsal, or lets it go on: what is asked for there is answered by
    /// [`Outcome::Busy`](model::Outcome::Busy), and its timers and streams stand still.
    pub fn stop(&self, stopped: bool) {
        // A group that has ended rehearses nothing.
        if let Some(parcels) = self.parcels.upgrade() {
            let _ = parcels.send(Parcel::StopDrill(stopped));
        }
    }
}

/// What waits for a shard, to be looked at.
#[derive(Clone)]
pub struct Inbox {
    room: Arc<Room>,
}

impl Inbox {
    /// Submissions and queries that wait now; none once the shard has stopped.
    pub fn messages(&self) -> usize {
        self.unless_closed(&self.room.messages)
    }

    /// Bytes of commands that wait now; none once the shard has stopped.
    pub fn bytes(&self) -> usize {
        self.unless_closed(&self.room.bytes)
    }

    fn unless_closed(&self, waiting: &AtomicUsize) -> usize {
        if self.room.is_closed.load(Relaxed) { 0 } else { waiting.load(Relaxed) }
    }
}

/// The shard's end of its inbox.
pub(crate) struct Incoming {
    parcels: mpsc::UnboundedReceiver<Parcel>,
    room: Arc<Room>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Whoever waits hears that the shard has stopped when the parcels are dropped.
        self.room.is_closed.store(true, Relaxed);
    }
}

impl Incoming {
    pub(crate) fn new(stages: Arc<Stages>, log: Weak<Sender<Job>>) -> (GroupHandle, Incoming) {
        let (sender, parcels) = mpsc::unbounded_channel();
        let room = Arc::<Room>::default();
        let handle = GroupHandle {
            parcels: sender,
            room: room.clone(),
            stages,
            log,
            archive: None,
            index: None,
        };
        (handle, Incoming { parcels, room })
    }

    /// Waits for parcels and adds up to `most` of them. None come when every handle is dropped.
    pub(crate) async fn take(&mut self, parcels: &mut Vec<Parcel>, most: usize) -> usize {
        self.parcels.recv_many(parcels, most).await
    }

    /// A message of so many bytes was decided: it leaves the room.
    pub(crate) fn decided(&self, bytes: usize) {
        self.room.leave(1, bytes);
    }
}

/// Where the answers of a shard go, by reactor.
#[derive(Default)]
pub(crate) struct Returns {
    reactors: Vec<Option<ReactorReturns>>,
}

struct ReactorReturns {
    sender: mpsc::UnboundedSender<Return>,
    answers: Vec<(usize, Answered)>,
    spare_messages: Vec<Message>,
}

impl Returns {
    pub(crate) fn add(&mut self, reactor: usize, sender: mpsc::UnboundedSender<Return>) {
        if self.reactors.len() <= reactor {
            self.reactors.resize_with(reactor + 1, || None);
        }
        let returns = ReactorReturns { sender, answers: Vec::new(), spare_messages: Vec::new() };
        self.reactors[reactor] = Some(returns);
    }

    /// Memory of a batch that was taken up, and of answers that it brought back.
    pub(crate) fn reuse(
        &mut self,
        reactor: usize,
        messages: Vec<Message>,
        answers: Vec<(usize, Answered)>,
    ) {
        let Some(Some(returns)) = self.reactors.get_mut(reactor) else { return };
        returns.spare_messages = messages;
        if returns.answers.capacity() == 0 {
            returns.answers = answers;
        }
    }

    /// Sends an answer now, or with the others of its reactor.
    pub(crate) fn give(&mut self, to: ReturnTo, answered: Answered) {
        match to {
            // A caller that went away needs no answer: what it asked for is done and remembered.
            ReturnTo::Caller(caller) => drop(caller.send(answered)),
            ReturnTo::Reactor { reactor, waiter } => {
                if let Some(Some(returns)) = self.reactors.get_mut(reactor) {
                    returns.answers.push((waiter, answered));
                }
            }
        }
    }

    /// Sends what is there.
    pub(crate) fn send(&mut self) {
        for returns in self.reactors.iter_mut().flatten() {
            if !returns.answers.is_empty() {
                let answers = std::mem::take(&mut returns.answers);
                let messages = std::mem::take(&mut returns.spare_messages);
                // A reactor that went away needs no answers.
                let _ = returns.sender.send((answers, messages));
            }
        }
    }
}
