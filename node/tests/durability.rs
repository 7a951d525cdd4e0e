//! A shard on a disk that fails as told: what is acknowledged is durable, what isn't durable is
//! neither acknowledged nor shown, and what was acknowledged is there after every crash.
//!
//! `CREST_SEEDS` says how many worlds the last test runs, `CREST_SEED` which is the first.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, mpsc};

use model::record::{Body, CommandBuffer, Record, RefundLine, Sale, clear_outcome};
use model::reply::{Query, View};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, Offset, OrderId, OrderState, Outcome, Party,
    PaymentMethod, Quantity, Realm, Reply, ShardId,
};
use mq::{
    FaultyDisk, FrameSource, LocalConfig, LocalLog, Log, LogEnd, LogError, LogStats, MemoryLog,
    Prepare,
};
use node::{
    Answer, GroupHandle, GroupTask, LogThread, Placement, ShardFailed, SubmitError, open_log,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

const SHARD: ShardId = ShardId(0);
const GBP: Currency = Currency::GBP;
const SELLER: Party = Party(1000);

/// Small segments, so that a few hundred commands fill several. A frame of the loads below stays
/// below the bound.
fn small() -> LocalConfig {
    LocalConfig {
        segment_bytes: 28_672,
        frame_bytes_max: 12_000,
        prepare: Prepare::Inline,
        ..LocalConfig::default()
    }
}

/// Segments for frames of any size.
fn large() -> LocalConfig {
    LocalConfig { segment_bytes: 4 << 20, prepare: Prepare::Inline, ..LocalConfig::default() }
}

fn log_on(disk: &FaultyDisk, config: LocalConfig) -> LocalLog {
    LocalLog::open(Arc::new(disk.clone()), config).unwrap().0
}

/// A shard at work.
struct Running {
    handle: GroupHandle,
    task: JoinHandle<Result<(), ShardFailed>>,
    log: LogThread,
}

impl Running {
    fn on<L: Log + 'static>(
        log: L,
        close: impl FnOnce(L) -> Result<(), LogError> + Send + 'static,
    ) -> Running {
        let (task, handle, log) = opened(log, close);
        Running { handle, task: spawn_local(task.run()), log }
    }

    async fn submit(&self, commands: CommandBuffer) -> Vec<Reply> {
        self.handle.submit(commands, Vec::new()).await.unwrap().replies
    }

    /// Drops the handle and waits for the clean end.
    async fn end(self) -> LogStats {
        drop(self.handle);
        self.task.await.unwrap().unwrap();
        let stats = self.log.join();
        assert!(stats.failed.is_none(), "{stats:?}");
        stats.log
    }
}

fn opened<L: Log + 'static>(
    log: L,
    close: impl FnOnce(L) -> Result<(), LogError> + Send + 'static,
) -> (GroupTask, GroupHandle, LogThread) {
    let mut opened = open_log(log, close, Placement::new(1, 1, 7)).unwrap();
    (opened.tasks.remove(0), opened.handles.remove(0).1, opened.log)
}

async fn query(handle: &GroupHandle, query: Query) -> Result<View, SubmitError> {
    handle.query(SHARD, Realm::Live, query).await
}

/// Runs a future that spawns local tasks, on one thread beside the log's.
fn on_reactor<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, future)
}

/// Lets every task run as far as it gets without the log.
async fn settle() {
    for _ in 0..200 {
        yield_now().await;
    }
}

/// A log whose appends wait to be let through.
struct Gated<L> {
    log: L,
    arrived: UnboundedSender<Vec<u32>>,
    pass: mpsc::Receiver<()>,
}

/// The other side of a gated log.
struct Gate {
    /// One for each append: the records of each of its frames.
    arrived: UnboundedReceiver<Vec<u32>>,
    /// Lets one append through. Dropped, it lets all through.
    pass: mpsc::Sender<()>,
}

fn gated<L: Log>(log: L) -> (Gated<L>, Gate) {
    let (send, arrived) = unbounded_channel();
    let (pass, passes) = mpsc::channel();
    (Gated { log, arrived: send, pass: passes }, Gate { arrived, pass })
}

impl Gate {
    /// Waits for an append.
    async fn wait(&mut self) -> Vec<u32> {
        self.arrived.recv().await.unwrap()
    }

    fn pass(&self) {
        self.pass.send(()).unwrap();
    }
}

impl<L: Log> Log for Gated<L> {
    fn append(&mut self, frames: &[&[u8]]) -> Result<(), LogError> {
        let counts = frames.iter().map(|bytes| {
            model::frame::Frame::split(bytes).expect("a frame is appended").0.header.count.get()
        });
        // A test that is over needs no word, and waits for nothing.
        let _ = self.arrived.send(counts.collect());
        let _ = self.pass.recv();
        self.log.append(frames)
    }

    fn read(&self, shard: ShardId, from: Offset) -> Result<Box<dyn FrameSource + '_>, LogError> {
        self.log.read(shard, from)
    }

    fn read_all(&self) -> Result<Box<dyn FrameSource + '_>, LogError> {
        self.log.read_all()
    }

    fn trim(&mut self, before: &[(ShardId, Offset)]) -> Result<(), LogError> {
        self.log.trim(before)
    }

    fn end(&self, shard: ShardId) -> LogEnd {
        self.log.end(shard)
    }

    fn stats(&self) -> LogStats {
        self.log.stats()
    }
}

/// One item, with stock that doesn't run out, and one buyer with money.
fn world() -> CommandBuffer {
    let mut commands = CommandBuffer::default();
    commands.create_item(ItemId(1), SELLER, GBP, Amount(10), 1_000_000_000, Sale::default());
    commands.create_account(Party(1), GBP, Amount(1_000_000_000));
    commands
}

fn orders(ids: std::ops::Range<u128>) -> CommandBuffer {
    let mut commands = CommandBuffer::default();
    for id in ids {
        let mut place = commands.place();
        place.line(ItemId(1), Quantity(1), None);
        place.finish(Party(1), OrderId(id), GBP, PaymentMethod::Balance);
    }
    commands
}

fn order(id: u128) -> CommandBuffer {
    orders(id..id + 1)
}

fn outcomes(replies: &[Reply]) -> Vec<Outcome> {
    replies.iter().map(|reply| reply.outcome).collect()
}

/// Every record of a log, as its command, with its offset and its outcome. None is there twice.
fn records(log: &impl Log) -> BTreeMap<Vec<u8>, (Offset, Outcome)> {
    let mut records = BTreeMap::new();
    let mut frames = log.read(SHARD, Offset(1)).unwrap();
    let mut offset = Offset(1);
    while let Some(frame) = frames.next().unwrap() {
        assert_eq!(frame.header.first_offset.get(), offset.0);
        for record in frame.records() {
            let record: Record<'_> = record.unwrap();
            let mut command = record.bytes.to_vec();
            clear_outcome(&mut command);
            let twice = records.insert(command, (offset, record.outcome().unwrap()));
            assert_eq!(twice, None, "offset {offset} repeats a command");
            offset.0 += 1;
        }
    }
    records
}

#[test]
fn nothing_is_acknowledged_or_shown_before_it_is_durable() {
    on_reactor(async {
        let (log, mut gate) = gated(MemoryLog::new());
        let running = Running::on(log, |_| Ok(()));
        // The epoch's first frame comes first, and even what changes nothing waits for it.
        assert_eq!(gate.wait().await, [0]);
        let handle = running.handle.clone();
        let missing =
            spawn_local(async move { query(&handle, Query::Order(Party(1), OrderId(5))).await });
        settle().await;
        assert!(!missing.is_finished());
        gate.pass();
        assert_eq!(missing.await.unwrap(), Ok(View::Missing));

        let handle = running.handle.clone();
        let placed = spawn_local(async move {
            handle.submit(world(), Vec::new()).await.unwrap();
            handle.submit(order(5), Vec::new()).await
        });
        assert_eq!(gate.wait().await, [2]);
        gate.pass();
        assert_eq!(gate.wait().await, [1]);
        // The order was decided and is on its way to the disk. A read that comes now has seen
        // it, and so has a repeat; both wait for the same sync.
        let (reader, repeater) = (running.handle.clone(), running.handle.clone());
        let read =
            spawn_local(async move { query(&reader, Query::Order(Party(1), OrderId(5))).await });
        let repeated = spawn_local(async move { repeater.submit(order(5), Vec::new()).await });
        settle().await;
        assert!(!placed.is_finished() && !read.is_finished() && !repeated.is_finished());
        gate.pass();
        let reply = placed.await.unwrap().unwrap().replies[0];
        assert_eq!((reply.outcome, reply.offset), (Outcome::Ok, Some(Offset(3))));
        let Ok(View::Order(view)) = read.await.unwrap() else { panic!("the order is there") };
        assert_eq!((view.state, view.offset), (OrderState::Paid, Offset(3)));
        let reply = repeated.await.unwrap().unwrap().replies[0];
        assert_eq!((reply.outcome, reply.offset), (Outcome::AlreadyDone, Some(Offset(3))));
        // With nothing on its way, a read waits for nothing.
        assert!(query(&running.handle, Query::Item(ItemId(1))).await.is_ok());
        drop(gate);
        running.end().await;
    });
}

#[test]
fn what_comes_during_a_sync_is_one_group() {
    const WAITING: usize = 500;
    on_reactor(async {
        let (log, mut gate) = gated(MemoryLog::new());
        let running = Running::on(log, |_| Ok(()));
        gate.wait().await;
        gate.pass();
        let handle = running.handle.clone();
        let first = spawn_local(async move { handle.submit(world(), Vec::new()).await });
        assert_eq!(gate.wait().await, [2]);
        let waiting: Vec<_> = (0..WAITING)
            .map(|id| {
                let handle = running.handle.clone();
                spawn_local(async move { handle.submit(order(id as u128 + 1), Vec::new()).await })
            })
            .collect();
        settle().await;
        gate.pass();
        assert!(first.await.unwrap().is_ok());
        assert_eq!(gate.wait().await, [WAITING as u32]);
        settle().await;
        assert!(waiting.iter().all(|submitted| !submitted.is_finished()));
        gate.pass();
        for (number, submitted) in waiting.into_iter().enumerate() {
            let reply = submitted.await.unwrap().unwrap().replies[0];
            assert_eq!(reply.offset, Some(Offset(3 + number as u64)), "in the order they came");
        }
        drop(gate);
        let stats = running.end().await;
        assert_eq!((stats.frames, stats.syncs), (3, 3));
    });
}

#[test]
fn an_idle_shard_marks_what_it_wrote_so_that_its_loss_is_noticed() {
    let disk = FaultyDisk::new();
    on_reactor(async {
        let (log, mut gate) = gated(log_on(&disk, small()));
        let running = Running::on(log, |_| Ok(())); // It ends without a mark, as in a crash.
        gate.wait().await;
        gate.pass();
        let handle = running.handle.clone();
        let submitted = spawn_local(async move { handle.submit(world(), Vec::new()).await });
        assert_eq!(gate.wait().await, [2]);
        gate.pass();
        submitted.await.unwrap().unwrap();
        assert_eq!(gate.wait().await, [0], "the mark, unasked");
        gate.pass();
        drop(gate);
        running.end().await;
    });
    // The first block is the segment's header, the second the epoch's frame, then the world.
    disk.crash(1);
    disk.flip("0000000000.segment", 2 * 4096 + 200, 3);
    let damaged = LocalLog::open(Arc::new(disk), small());
    assert!(matches!(damaged, Err(LogError::Damage { position: 8192, .. })));
}

/// Faults of a disk, scripted before what they are to hit.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Write(u64),
    Sync(u64),
    Full(u64),
}

impl Fault {
    fn script(self, disk: &FaultyDisk) {
        match self {
            Fault::Write(n) => disk.fail_write(n),
            Fault::Sync(n) => disk.fail_sync(n),
            Fault::Full(bytes) => disk.full_after(bytes),
        }
    }
}

#[test]
fn after_a_failed_write_nothing_more_is_acknowledged_and_nothing_acknowledged_is_lost() {
    let faults = (1..4)
        .flat_map(|n| [Fault::Write(n), Fault::Sync(n)])
        .chain([0, 4096, 3 * 4096, 8 * 4096].map(Fault::Full));
    for (seed, fault) in faults.enumerate() {
        let disk = FaultyDisk::new();
        on_reactor(async {
            let (log, mut gate) = gated(log_on(&disk, small()));
            let running = Running::on(log, LocalLogGate::close);
            gate.wait().await;
            gate.pass();
            drop(gate.pass);
            running.submit(world()).await;
            fault.script(&disk);
            let mut acknowledged = Vec::new();
            let failed = loop {
                // Two commands and a read go together.
                let id = 1 + 10 * acknowledged.len() as u128;
                assert!(id < 10_000, "{fault:?} never hit");
                let order_placed = Query::Order(Party(1), OrderId(id));
                let answers = tokio::join!(
                    running.handle.submit(order(id), Vec::new()),
                    running.handle.submit(order(id + 1), Vec::new()),
                    query(&running.handle, order_placed),
                );
                match answers {
                    (Ok(first), Ok(second), Ok(View::Order(_))) => {
                        acknowledged.push((id, first.replies[0]));
                        acknowledged.push((id + 1, second.replies[0]));
                    }
                    (first, second, read) => break (first, second, read),
                }
            };
            // No answer that waited for the group was let out, not even the read's.
            let stopped = SubmitError::Stopped;
            assert_eq!(failed.0.err(), Some(stopped), "{fault:?}");
            assert_eq!(failed.1.err(), Some(stopped), "{fault:?}");
            assert_eq!(failed.2.err(), Some(stopped), "{fault:?}");
            let error = running.task.await.unwrap().unwrap_err();
            assert!(matches!(error, ShardFailed::Log(_)), "{fault:?}: {error:?}");
            let later = running.handle.submit(order(9), Vec::new()).await;
            assert_eq!(later.err(), Some(stopped));
            let later = query(&running.handle, Query::Item(ItemId(1))).await;
            assert_eq!(later.err(), Some(stopped));
            let stats = running.log.join();
            assert!(matches!(stats.failed, Some(LogError::Io { .. })), "{stats:?}");

            disk.crash(seed as u64);
            let log = log_on(&disk, small());
            let logged = records(&log);
            for (id, reply) in &acknowledged {
                let found = logged.get(order(*id).bytes());
                let expected = (reply.offset.unwrap(), reply.outcome);
                assert_eq!(found, Some(&expected), "{fault:?}: order {id}");
            }
            // And the next owner goes on where it ended, whatever of the rest is there.
            let running = Running::on(log, LocalLog::close);
            for (id, _) in acknowledged {
                let repeated = running.submit(order(id)).await;
                assert_eq!(outcomes(&repeated), [Outcome::AlreadyDone]);
            }
            running.end().await;
        });
    }
}

/// Closes what a gate stands before.
struct LocalLogGate;

impl LocalLogGate {
    fn close(gated: Gated<LocalLog>) -> Result<(), LogError> {
        gated.log.close()
    }
}

#[test]
fn a_full_inbox_refuses_and_what_it_refused_never_happened() {
    on_reactor(async {
        // Nobody takes anything in as long as the task doesn't run.
        let (task, handle, log) = opened(MemoryLog::new(), |_| Ok(()));
        let mut waiting = VecDeque::new();
        let refused = loop {
            let id = waiting.len() as u128;
            let commands = if id == 0 { world() } else { order(id) };
            let mut submitted = Box::pin(handle.submit(commands, Vec::new()));
            match poll_once(submitted.as_mut()) {
                None => waiting.push_back(submitted),
                Some(answer) => break (id, answer.err()),
            }
        };
        let (id, error) = refused;
        assert!(matches!(error, Some(SubmitError::Overloaded(_))), "{error:?}");
        assert_eq!(waiting.len(), 16_384);
        let read = query(&handle, Query::Item(ItemId(1))).await;
        assert!(matches!(read, Err(SubmitError::Overloaded(_))), "reads are bounded, too");

        let running = Running { handle: handle.clone(), task: spawn_local(task.run()), log };
        for submitted in waiting {
            assert!(submitted.await.unwrap().replies[0].outcome.is_done());
        }
        let replies = running.submit(order(id)).await;
        assert_eq!(outcomes(&replies), [Outcome::Ok], "not done already");
        drop(handle);
        running.end().await;
    });
}

#[test]
fn waiting_bytes_are_bounded_too() {
    on_reactor(async {
        let (task, handle, log) = opened(MemoryLog::new(), |_| Ok(()));
        let mut first = Box::pin(handle.submit(world(), Vec::new()));
        assert!(poll_once(first.as_mut()).is_none());
        let batch =
            |number: usize| orders(number as u128 * 10_000 + 1..(number as u128 + 1) * 10_000 + 1);
        let bytes = batch(0).bytes().len();
        let mut waiting = Vec::new();
        let refused = loop {
            let mut submitted = Box::pin(handle.submit(batch(waiting.len()), Vec::new()));
            match poll_once(submitted.as_mut()) {
                None => waiting.push(submitted),
                Some(answer) => break answer.err(),
            }
        };
        assert!(matches!(refused, Some(SubmitError::Overloaded(_))));
        assert_eq!(waiting.len(), ((64 << 20) - world().bytes().len()) / bytes);
        let number = waiting.len();
        let running = Running { handle: handle.clone(), task: spawn_local(task.run()), log };
        first.await.unwrap();
        // What is decided gives its room back, and what was refused is new then.
        waiting.remove(0).await.unwrap();
        let replies = running.submit(batch(number)).await;
        assert!(replies.iter().all(|reply| reply.outcome == Outcome::Ok));
        drop(waiting);
        drop(handle);
        running.end().await;
    });
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

/// 10,000 orders, of which each fifth has many lines: several frames.
fn big_batch() -> CommandBuffer {
    let mut commands = CommandBuffer::default();
    for id in 1..=10_000u128 {
        let mut place = commands.place();
        for _ in 0..if id % 5 == 0 { 60 } else { 1 } {
            place.line(ItemId(1), Quantity(1), None);
        }
        // One in seven is refused: the account isn't there.
        let buyer = if id % 7 == 0 { Party(2) } else { Party(1) };
        place.finish(buyer, OrderId(id), GBP, PaymentMethod::Balance);
    }
    commands
}

fn expected(id: usize) -> Outcome {
    if id.is_multiple_of(7) { Outcome::UnknownAccount } else { Outcome::Ok }
}

#[test]
fn a_batch_over_several_frames_keeps_its_order() {
    let disk = FaultyDisk::new();
    on_reactor(async {
        let running = Running::on(log_on(&disk, large()), LocalLog::close);
        running.submit(world()).await;
        let replies = running.submit(big_batch()).await;
        assert_eq!(replies.len(), 10_000);
        for (number, reply) in replies.iter().enumerate() {
            assert_eq!(reply.outcome, expected(number + 1));
            assert_eq!(reply.offset, Some(Offset(3 + number as u64)));
        }
        let stats = running.end().await;
        assert!(stats.frames >= 5, "{stats:?}");
    });
    let log = log_on(&disk, large());
    let logged = records(&log);
    for (number, command) in big_batch().records().enumerate() {
        let found = logged.get(command.unwrap().bytes);
        assert_eq!(found, Some(&(Offset(3 + number as u64), expected(number + 1))));
    }
}

#[test]
fn a_batch_that_a_crash_cut_in_two_is_done_once_when_it_is_repeated() {
    let mut halves = 0;
    for sync in 1..=8 {
        let disk = FaultyDisk::new();
        on_reactor(async {
            let running = Running::on(log_on(&disk, large()), LocalLog::close);
            running.submit(world()).await;
            disk.fail_sync(sync);
            let answer = running.handle.submit(big_batch(), Vec::new()).await;
            drop(running.handle);
            let failed = running.task.await.unwrap().is_err();
            // The last of the syncs is that of the mark at the end.
            assert_eq!(failed, answer.is_err());
            assert!(answer.is_ok() || answer.err() == Some(SubmitError::Stopped));
            running.log.join();
        });
        disk.crash(sync);
        on_reactor(async {
            let running = Running::on(log_on(&disk, large()), LocalLog::close);
            let replies = running.submit(big_batch()).await;
            let fresh = |(number, reply): (usize, &Reply)| match reply.outcome {
                Outcome::AlreadyDone => 0,
                outcome => {
                    assert_eq!(outcome, expected(number + 1));
                    u32::from(outcome == Outcome::Ok)
                }
            };
            let fresh: u32 = replies.iter().enumerate().map(fresh).sum();
            halves += u32::from(fresh > 0 && fresh < 8_000);
            running.end().await;
        });
        let logged = records(&log_on(&disk, large()));
        assert_eq!(logged.len(), 10_002);
        for (number, command) in big_batch().records().enumerate() {
            let (_, outcome) = logged[command.unwrap().bytes];
            assert_eq!(outcome, expected(number + 1));
        }
    }
    assert!(halves >= 3, "the batch was cut in two {halves} times");
}

/// Vigna's SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What clients sent and what they were told.
#[derive(Default)]
struct Book {
    ids: u128,
    submissions: Vec<Submission>,
    placed: Vec<(Party, OrderId)>,
}

/// Commands that went together, and the answer: for each its first outcome, and its offset if
/// the answer stated it.
struct Submission {
    commands: CommandBuffer,
    acknowledged: Option<Vec<(Outcome, Option<Offset>)>>,
}

impl Book {
    fn add(&mut self, commands: CommandBuffer) -> usize {
        self.submissions.push(Submission { commands, acknowledged: None });
        self.submissions.len() - 1
    }

    fn unclear(&self) -> VecDeque<usize> {
        let unclear = |number: &usize| self.submissions[*number].acknowledged.is_none();
        (0..self.submissions.len()).filter(unclear).collect()
    }

    fn answered(&mut self, number: usize, replies: &[Reply]) {
        let submission = &mut self.submissions[number];
        let first = |reply: &Reply| match reply.outcome {
            Outcome::AlreadyDone => (Outcome::Ok, None),
            outcome => (outcome, reply.offset),
        };
        let first: Vec<_> = replies.iter().map(first).collect();
        for (record, outcome) in submission.commands.records().zip(&first) {
            let record = record.unwrap();
            if let (Body::Place { .. }, Outcome::Ok) = (record.body, outcome.0) {
                self.placed.push((record.party(), record.order().unwrap()));
            }
        }
        submission.acknowledged = Some(first);
    }

    /// One to eight new commands.
    fn draw(&mut self, random: &mut Random) -> usize {
        let mut commands = CommandBuffer::default();
        for _ in 0..1 + random.below(8) {
            self.draw_one(random, &mut commands);
        }
        self.add(commands)
    }

    fn draw_one(&mut self, random: &mut Random, commands: &mut CommandBuffer) {
        self.ids += 1;
        let (id, change) = (OrderId(self.ids), ChangeId(self.ids));
        let (buyer, item) = (Party(1 + random.below(5)), ItemId(1 + random.below(4)));
        let back = random.below(self.placed.len().clamp(1, 10) as u64) as usize;
        let placed = self.placed.len().checked_sub(back + 1).map(|at| self.placed[at]);
        match (random.below(10), placed) {
            (0, _) => commands.restock(change, item, 1 + random.below(20)),
            (1, _) => {
                let debit = match random.below(2) {
                    0 => (Party(0), AccountKind::Clearing),
                    _ => (Party(1 + buyer.0 % 5), AccountKind::Main),
                };
                let amount = Amount(1 + random.below(300));
                commands.transfer(change, debit, (buyer, AccountKind::Main), GBP, amount);
            }
            (2, Some((buyer, order))) => {
                commands.pay(change, buyer, order, PaymentMethod::External);
            }
            (3, Some((buyer, order))) => commands.cancel(change, buyer, order),
            (4, Some((buyer, order))) => {
                let line = RefundLine { quantity: 1.into(), ..RefundLine::default() };
                let lines = &[line][..random.below(2) as usize];
                commands.refund(change, buyer, order, random.below(2) == 0, lines);
            }
            _ => {
                let mut place = commands.place();
                for _ in 0..1 + random.below(3) {
                    let item = ItemId(1 + random.below(4));
                    place.line(item, Quantity(1 + random.below(3) as u32), None);
                }
                let method = PaymentMethod::ALL[random.below(3) as usize];
                place.finish(buyer, id, GBP, method);
            }
        }
    }

    /// Holds a log against every answer.
    fn check(&self, log: &impl Log) {
        let mut logged = records(log);
        for submission in &self.submissions {
            for (number, command) in submission.commands.records().enumerate() {
                let found = logged.remove(command.unwrap().bytes);
                let Some(acknowledged) = &submission.acknowledged else { continue };
                let (outcome, offset) = acknowledged[number];
                let (at, is) = found.unwrap_or_else(|| panic!("{outcome:?} at {offset:?} is lost"));
                assert_eq!(is, outcome, "at {at}");
                // A repeated refusal of an order states its newest record.
                assert!(outcome != Outcome::Ok || offset.is_none_or(|offset| offset == at));
            }
        }
        assert_eq!(logged.len(), 0, "the log has commands that nobody sent");
    }
}

/// What becomes of one start of the shard.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// While it recovers or while it works, whichever comes first.
    Scripted(Fault),
    /// The power fails after so many answers.
    PowerCut(u64),
    /// It is told to stop when all is answered.
    End,
}

impl Fate {
    fn draw(random: &mut Random) -> Fate {
        match random.below(6) {
            0 => Fate::Scripted(Fault::Write(1 + random.below(30))),
            1 => Fate::Scripted(Fault::Sync(1 + random.below(40))),
            2 => Fate::Scripted(Fault::Full(4096 * random.below(60))),
            3 | 4 => Fate::PowerCut(random.below(60)),
            _ => Fate::End,
        }
    }
}

/// Clients of one start, together.
const CLIENTS: usize = 6;
/// Starts of one disk.
const STARTS: u64 = 8;
/// New submissions of a client in one start.
const SUBMISSIONS: u64 = 10;

struct Clients {
    disk: FaultyDisk,
    handle: GroupHandle,
    book: Rc<RefCell<Book>>,
    repeats: RefCell<VecDeque<usize>>,
    answers: Cell<u64>,
    power_cut: Option<u64>,
    seed: u64,
}

impl Clients {
    /// Repeats what is unclear, then goes on with new commands, until the shard stops.
    async fn client(self: Rc<Clients>, mut random: Random) {
        let mut left = SUBMISSIONS;
        loop {
            let repeat = self.repeats.borrow_mut().pop_front();
            let number = match repeat {
                Some(number) => number,
                None if left == 0 => return,
                None => {
                    left -= 1;
                    self.book.borrow_mut().draw(&mut random)
                }
            };
            let commands = self.book.borrow().submissions[number].commands.clone();
            match self.handle.submit(commands, Vec::new()).await {
                Ok(Answer { replies, .. }) => {
                    self.book.borrow_mut().answered(number, &replies);
                    self.answers.set(self.answers.get() + 1);
                    if random.below(16) == 0 {
                        self.would_survive(number);
                    }
                    if Some(self.answers.get()) == self.power_cut {
                        self.disk.crash(self.seed);
                    }
                }
                Err(error) => return assert_eq!(error, SubmitError::Stopped),
            }
        }
    }

    /// If the power failed right now, the answer that was just given would still be true.
    fn would_survive(&self, number: usize) {
        let disk = self.disk.fork();
        disk.crash(self.seed ^ number as u64);
        let log = log_on(&disk, small());
        let logged = records(&log);
        for command in self.book.borrow().submissions[number].commands.records() {
            let command = command.unwrap();
            assert!(logged.contains_key(command.bytes), "answered, and not durable: {command:?}");
        }
    }
}

/// One disk through several starts, each with a fate of its own.
fn crash_loop(seed: u64) -> (u64, usize) {
    let disk = FaultyDisk::new();
    let mut random = Random(seed);
    let book = Rc::new(RefCell::new(Book::default()));
    let mut world = CommandBuffer::default();
    for party in 1..=5 {
        world.create_account(Party(party), GBP, Amount(500 * party));
    }
    for item in 1..=4 {
        world.create_item(ItemId(item), SELLER, GBP, Amount(10 * item), 40, Sale::default());
    }
    book.borrow_mut().add(world);
    let mut failures = 0;
    for start in 0..=STARTS {
        let last = start == STARTS;
        let fate = if last { Fate::End } else { Fate::draw(&mut random) };
        if let Fate::Scripted(fault) = fate {
            fault.script(&disk);
        }
        let config = LocalConfig { salt: random.below(u64::MAX), ..small() };
        let log = match LocalLog::open(Arc::new(disk.clone()), config) {
            Ok((log, _)) => log,
            Err(error) => {
                assert!(matches!(error, LogError::Io { .. }), "{fate:?}: {error}");
                failures += 1;
                disk.crash(random.below(u64::MAX));
                continue;
            }
        };
        book.borrow().check(&log);
        let failed = on_reactor(async {
            let running = Running::on(log, LocalLog::close);
            let clients = Rc::new(Clients {
                disk: disk.clone(),
                handle: running.handle,
                book: book.clone(),
                repeats: RefCell::new(book.borrow().unclear()),
                answers: Cell::new(0),
                power_cut: if let Fate::PowerCut(after) = fate { Some(after) } else { None },
                seed: random.below(u64::MAX),
            });
            let tasks: Vec<_> = (0..CLIENTS)
                .map(|_| spawn_local(clients.clone().client(Random(random.below(u64::MAX)))))
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            drop(clients);
            let result = running.task.await.unwrap();
            let stats = running.log.join();
            assert!(result.is_ok() || stats.failed.is_some(), "{fate:?}: {result:?}");
            stats.failed.is_some()
        });
        assert!(!failed || !matches!(fate, Fate::End));
        failures += u64::from(failed);
        disk.crash(random.below(u64::MAX));
    }
    // The last start had no fault: everything has its outcome, and is there once.
    let book = book.borrow();
    assert!(book.unclear().is_empty());
    book.check(&log_on(&disk, small()));
    (failures, book.submissions.len())
}

#[test]
fn whatever_the_disk_does_the_next_start_has_all_that_was_acknowledged() {
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let first = number("CREST_SEED", 1);
    let (mut failures, mut submissions) = (0, 0);
    for seed in first..first + number("CREST_SEEDS", 40) {
        let world = std::panic::catch_unwind(|| crash_loop(seed));
        let Ok((failed, submitted)) = world else {
            panic!("CREST_SEED={seed} CREST_SEEDS=1 cargo test -p node --test durability whatever");
        };
        failures += failed;
        submissions += submitted;
    }
    println!("{failures} failures of the disk, {submissions} submissions");
    assert!(failures > 0);
}
