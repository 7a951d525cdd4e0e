//! What an order costs in instructions, stage by stage, as callgrind counts them.
//!
//! Every stage handles the same 1,000 orders of the drill's profile: as one batch, and one by
//! one. What a stage needs is prepared outside of the count, with buffers as warm as they are
//! under load, on a shard that holds 100,000 accounts and has decided 100 batches. Nothing is
//! drawn or read from a clock, so that the counts are the same on every run; only `serve`, which
//! goes through sockets, and has the shards of a new data directory, differs a little.
//!
//! `cargo xtask instructions` runs it and holds the counts against those in `instructions.toml`.
//! It is an example and no bench, because cargo builds benches with unwinding whatever the
//! profile says: this way, what is counted is what is shipped.

// Nobody calls these from outside, and a stage that can't be prepared has nothing to count.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::TcpListener;
use std::sync::LazyLock;
use std::time::Duration;

use gateway::{Door, Gateway, Limits, Router};
use gungraun::prelude::*;
use gungraun::{Callgrind, main};
use loadgen::orders::write_orders;
use loadgen::results::{parse_results, parse_single};
use loadgen::{Connection, Lines, Profile, RunId, Target};
use model::frame::{FrameBuilder, FramePlace};
use model::json::decode::Request;
use model::json::encode::JsonWriter;
use model::record::{CommandBuffer, RULE_VERSION, Sale};
use model::reply::{Query, View};
use model::{
    Amount, Currency, Epoch, ItemId, Offset, OrderId, Outcome, Party, PaymentMethod, Quantity,
    Realm, Reply, ShardId, Time,
};
use mq::{FrameSource, Log, LogEnd, LogError, LogStats, MemoryLog};
use node::{Found, GroupHandle, LogThread, Message, Now, Opened, Placement, ShardGroup, Token};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use txn_core::{Capacity, Seat, Shard, SpareRegions};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Orders that each stage handles. `cargo xtask instructions` divides by it.
const ORDERS: u64 = 1_000;
/// Orders decided before.
const ORDERS_BEFORE: u64 = 100 * ORDERS;
/// When all is decided that doesn't look at a clock.
const NOW: Now = Now { time: Time(1), monotonic: Duration::ZERO };
/// Shards of a platform: those of a new data directory.
const SHARDS: u16 = 16;
const BUYERS: u64 = 100_000;
const ITEMS: u64 = 10_000;
/// More than all orders ask for.
const STOCK: u64 = 1 << 40;
/// The time in the ids of orders, in ms since 1970.
const UNIX_MS: u64 = 1_700_000_000_000;
const CAPACITY: Capacity =
    Capacity { accounts: 2 * BUYERS, items: 2 * ITEMS, orders: 2 * ORDERS_BEFORE };
/// Orders sent before those that are counted, so that connections and buffers are warm.
const WARM_UP: u64 = 100;
/// `{"orders":[` and `]}`, which an order of its own does without.
const BATCH_OPENING: usize = 11;
const BATCH_END: usize = 2;

/// How the orders come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// All in one request.
    Batch,
    /// Each in a request of its own.
    One,
}

impl By {
    fn request(self) -> Request {
        match self {
            By::Batch => Request::Orders,
            By::One => Request::Order,
        }
    }
}

// -- The platform's stages. --

// From the JSON of a request to commands.
#[library_benchmark]
#[bench::batch(args = (By::Batch), setup = Decoding::new)]
#[bench::one(args = (By::One), setup = Decoding::new)]
fn decode(mut stage: Decoding) -> Decoding {
    for body in &stage.bodies {
        stage.commands.clear();
        model::json::decode::decode(stage.request, body, &mut stage.commands).unwrap();
    }
    stage
}

// From commands to decisions, and their records in a frame.
#[library_benchmark]
#[bench::batch(args = (By::Batch), setup = Applying::new)]
#[bench::one(args = (By::One), setup = Applying::new)]
#[bench::line(args = (By::Batch), setup = Applying::of_one_line)]
fn apply(mut stage: Applying) -> Applying {
    for (commands, frame) in stage.commands.iter().zip(&mut stage.frames) {
        stage.replies.clear();
        stage.shard.apply(Time(1), &mut commands.records(), frame, &mut stage.replies).unwrap();
    }
    stage
}

// From commands to frames in a log in memory and answers that may go out, on so many shards of
// one group. What it costs is to be the same on all of them.
#[library_benchmark]
#[bench::on_1(args = (1), setup = Grouped::new)]
#[bench::on_16(args = (16), setup = Grouped::new)]
#[bench::on_64(args = (64), setup = Grouped::new)]
fn shards(mut stage: Grouped) -> Grouped {
    let commands = stage.commands.take().unwrap();
    stage.run(commands);
    stage
}

// The same where all items are scarce, on 16 shards: nearly every order waits for units from its
// item's home, and everything is counted until it is answered.
#[library_benchmark]
#[bench::scarce(args = (16), setup = Grouped::scarce)]
fn orders(mut stage: Grouped) -> Grouped {
    let commands = stage.commands.take().unwrap();
    stage.run(commands);
    stage.carry();
    stage
}

// From records to a hashed frame, and that to the log.
#[library_benchmark]
#[bench::batch(args = (By::Batch), setup = Appending::new)]
#[bench::one(args = (By::One), setup = Appending::new)]
fn append(mut stage: Appending) -> Appending {
    for frame in stage.frames.drain(..) {
        let end = stage.log.end(ShardId(0));
        // What it holds would grow by the allocator's slow ways, which aren't always the same.
        stage.log.trim(&[(ShardId(0), end.next)]).unwrap();
        let place = FramePlace {
            shard: ShardId(0),
            epoch: Epoch(1),
            first_offset: end.next,
            time: Time(1),
            previous: end.previous,
        };
        let (bytes, _) = frame.finish(place, RULE_VERSION);
        stage.log.append(&[&bytes]).unwrap();
        stage.spent.push(bytes);
    }
    stage
}

// From replies to the JSON of an answer.
#[library_benchmark]
#[bench::batch(args = (By::Batch), setup = Encoding::new)]
#[bench::one(args = (By::One), setup = Encoding::new)]
fn encode(stage: Encoding) -> Encoding {
    stage.encode()
}

// A request's whole way, but for the disk: the generator's connection, the gateway and the
// shard on one reactor. The log thread beside it isn't counted.
#[library_benchmark]
#[bench::batch(args = (By::Batch), setup = Serving::new)]
#[bench::one(args = (By::One), setup = Serving::new)]
fn serve(stage: Serving) -> Serving {
    stage.send()
}

// -- The generator's. --

// From order numbers to the JSON of a request.
#[library_benchmark]
#[bench::batch(args = (By::Batch), setup = Generating::new)]
#[bench::one(args = (By::One), setup = Generating::new)]
fn load_build(mut stage: Generating) -> Generating {
    for first in (0..ORDERS).step_by(stage.per_request as usize) {
        stage.body.clear();
        let (profile, orders) = (stage.profile, stage.per_request);
        write_orders(profile, stage.run, first, orders, UNIX_MS, &mut stage.body);
    }
    stage
}

// From the JSON of an answer to outcomes.
#[library_benchmark]
#[bench::batch(args = (By::Batch), setup = Reading::new)]
#[bench::one(args = (By::One), setup = Reading::new)]
fn load_parse(mut stage: Reading) -> Reading {
    for answer in &stage.answers {
        match stage.by {
            By::Batch => parse_results(answer, &mut stage.outcomes).unwrap(),
            By::One => parse_single(answer, &mut stage.outcomes).unwrap(),
        }
    }
    stage
}

library_benchmark_group!(
    name = stages,
    benchmarks = [decode, apply, shards, orders, append, encode, serve, load_build, load_parse]
);

main!(
    config = LibraryBenchmarkConfig::default()
        // The allocator gives memory back by the clock, unless it is told not to.
        .env("MIMALLOC_PURGE_DELAY", "-1")
        .tool(Callgrind::with_args(["cache-sim=no"])),
    library_benchmark_groups = stages
);

// -- What the stages start from. --

struct Decoding {
    request: Request,
    bodies: Vec<Vec<u8>>,
    commands: CommandBuffer,
}

impl Decoding {
    fn new(by: By) -> Decoding {
        let bodies = bodies(by, ORDERS_BEFORE, ORDERS);
        let commands = commands(by, &bodies[0]);
        Decoding { request: by.request(), bodies, commands }
    }
}

struct Applying {
    shard: Shard,
    commands: Vec<CommandBuffer>,
    frames: Vec<FrameBuilder>,
    replies: Vec<Reply>,
}

impl Applying {
    fn new(by: By) -> Applying {
        Applying::after(ORDERS_BEFORE, by, profile())
    }

    /// Orders that are simpler than those of the profile.
    fn of_one_line(by: By) -> Applying {
        Applying::after(ORDERS_BEFORE, by, &Profile::new(BUYERS, ITEMS, Lines::Fixed(1), 1))
    }

    /// With so many orders decided before, orders of a profile.
    fn after(orders: u64, by: By, profile: &Profile) -> Applying {
        let mut shard = Shard::new(Seat::alone(), 1, SpareRegions::default());
        shard.reserve(CAPACITY);
        let (mut frame, mut replies) = (FrameBuilder::default(), Vec::new());
        for commands in before(orders) {
            replies.clear();
            let mut records = commands.records();
            while replies.len() < commands.count() as usize {
                frame = FrameBuilder::reuse(frame.into_bytes());
                shard.apply(Time(1), &mut records, &mut frame, &mut replies).unwrap();
            }
            assert!(replies.iter().all(|reply| reply.outcome.is_done()));
        }
        let bodies = bodies_of(profile, by, ORDERS_BEFORE, ORDERS);
        let commands: Vec<_> = bodies.iter().map(|body| commands(by, body)).collect();
        // Frames with room: the platform's buffers go round.
        let room = |commands: &CommandBuffer| Vec::with_capacity(2 * commands.bytes().len());
        let frames = commands.iter().map(|commands| FrameBuilder::reuse(room(commands))).collect();
        Applying { shard, commands, frames, replies }
    }

    /// All orders decided, and what came of them.
    fn done(by: By) -> (Vec<FrameBuilder>, Vec<Reply>) {
        let mut stage = Applying::after(0, by, profile());
        let mut all = Vec::new();
        for (commands, frame) in stage.commands.iter().zip(&mut stage.frames) {
            stage.shard.apply(Time(1), &mut commands.records(), frame, &mut all).unwrap();
        }
        assert!(all.len() == ORDERS as usize && all.iter().all(|r| r.outcome == Outcome::Ok));
        (stage.frames, all)
    }
}

/// All shards of a platform in one group, with a log in memory.
struct Grouped {
    group: ShardGroup<Asked>,
    log: MemoryLog,
    commands: Option<CommandBuffer>,
    replies: Vec<Reply>,
    mail: Vec<Message>,
}

struct Asked;

impl Token for Asked {}

impl Grouped {
    fn new(shards: u16) -> Grouped {
        let mut grouped = Grouped::empty(shards);
        for commands in before(ORDERS_BEFORE) {
            grouped.run(commands);
            grouped.carry();
        }
        let bodies = bodies(By::Batch, ORDERS_BEFORE, ORDERS);
        Grouped { commands: Some(commands(By::Batch, &bodies[0])), ..grouped }
    }

    /// With ten units of each item, and one order each for some of them.
    fn scarce(shards: u16) -> Grouped {
        let mut grouped = Grouped::empty(shards);
        grouped.run(listing(10));
        grouped.carry();
        let orders_from = |first| {
            let mut commands = CommandBuffer::default();
            for n in first..first + ORDERS {
                let mut place = commands.place();
                place.line(ItemId(1 + n * 7 % ITEMS), Quantity(1), None);
                let (buyer, id) = (Party(1 + n), OrderId(u128::from(n)));
                place.finish(buyer, id, Currency::GBP, PaymentMethod::Balance);
            }
            commands
        };
        // So that queues and streams are warm.
        for first in (ORDERS..ITEMS).step_by(ORDERS as usize) {
            grouped.run(orders_from(first));
            grouped.carry();
        }
        Grouped { commands: Some(orders_from(0)), ..grouped }
    }

    fn empty(shards: u16) -> Grouped {
        let placement = Placement::new(shards, 1, 1);
        let member = |id| {
            let mut shard = Shard::new(placement.seat(id), 1, SpareRegions::default());
            let per_shard = |all: u64| all.div_ceil(shards.into());
            shard.reserve(Capacity {
                accounts: per_shard(CAPACITY.accounts),
                orders: per_shard(CAPACITY.orders),
                ..CAPACITY
            });
            (shard, LogEnd::default())
        };
        let members = (0..shards).map(ShardId).map(member).collect();
        Grouped {
            group: ShardGroup::new(shards, members),
            log: MemoryLog::new(),
            commands: None,
            replies: Vec::new(),
            mail: Vec::new(),
        }
    }

    /// Takes what shards have for each other to them, until there is nothing more.
    fn carry(&mut self) {
        while !self.mail.is_empty() {
            let mut mail = std::mem::take(&mut self.mail);
            self.group.deliver(NOW, &mail).unwrap();
            mail.clear();
            self.mail = mail;
            self.commit();
        }
    }

    fn run(&mut self, commands: CommandBuffer) {
        self.group.submit(NOW, Asked, commands, std::mem::take(&mut self.replies)).unwrap();
        self.commit();
    }

    fn commit(&mut self) {
        if !self.group.has_unwritten() {
            return;
        }
        let (frames, _) = self.group.take_frames(NOW);
        let bytes: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        self.log.append(&bytes).unwrap();
        self.group.durable(NOW, frames);
        self.group.messages(NOW, &mut self.mail);
        for (Asked, found) in self.group.released() {
            let Found::Commands(_, replies) = found else { unreachable!("nobody reads") };
            assert!(replies.iter().all(|reply| reply.outcome.is_done()));
            self.replies = replies;
        }
    }
}

struct Appending {
    frames: Vec<FrameBuilder>,
    log: MemoryLog,
    spent: Vec<Vec<u8>>,
}

impl Appending {
    fn new(by: By) -> Appending {
        let (frames, _) = Applying::done(by);
        let spent = Vec::with_capacity(frames.len());
        Appending { frames, log: MemoryLog::new(), spent }
    }
}

struct Encoding {
    by: By,
    replies: Vec<Reply>,
    per_answer: usize,
    answers: Vec<Vec<u8>>,
}

impl Encoding {
    fn new(by: By) -> Encoding {
        let (frames, replies) = Applying::done(by);
        let per_answer = replies.len() / frames.len();
        Encoding { by, replies, per_answer, answers: Vec::with_capacity(frames.len()) }
    }

    fn encode(mut self) -> Encoding {
        for replies in self.replies.chunks(self.per_answer) {
            let mut json = JsonWriter::default();
            match self.by {
                By::Batch => json.results(replies, Some("total")),
                By::One => json.result(&replies[0], Some("total")),
            }
            self.answers.push(json.finish());
        }
        self
    }
}

struct Reading {
    by: By,
    answers: Vec<Vec<u8>>,
    outcomes: Vec<u8>,
}

impl Reading {
    fn new(by: By) -> Reading {
        let answers = Encoding::new(by).encode().answers;
        Reading { by, answers, outcomes: Vec::with_capacity(ORDERS as usize) }
    }
}

struct Generating {
    profile: &'static Profile,
    run: RunId,
    per_request: u64,
    body: Vec<u8>,
}

impl Generating {
    fn new(by: By) -> Generating {
        let per_request = if by == By::Batch { ORDERS } else { 1 };
        let mut body = Vec::new();
        write_orders(profile(), run(), 0, ORDERS, UNIX_MS, &mut body);
        Generating { profile: profile(), run: run(), per_request, body }
    }
}

/// A platform in this process, and a connection to it.
struct Serving {
    runtime: Runtime,
    local: LocalSet,
    connection: Connection,
    requests: Vec<Vec<u8>>,
    bodies: Vec<Vec<u8>>,
    answered: usize,
    /// The platform ends with the process.
    _log: LogThread,
    _stop: tokio::sync::watch::Sender<bool>,
}

impl Serving {
    fn new(by: By) -> Serving {
        let placement = Placement { capacity: CAPACITY, ..Placement::new(SHARDS, 1, 1) };
        let log = SlowLog(MemoryLog::new());
        let Opened { mut tasks, handles, log, .. } =
            node::open_log(log, |_| Ok(()), placement).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = LocalSet::new();
        local.spawn_local(tasks.remove(0).run());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target = Target::from_url(&format!("http://{address}")).unwrap();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let door = Door::for_all(vec![listener]).remove(0);
        let gateway = Gateway::new(Router::new(handles.clone()), Limits::default(), 0);
        local.spawn_local(gateway.serve(door, stopped));
        let connection = local.block_on(&runtime, async {
            fill(&handles[0].1).await;
            Connection::open(&target).await.unwrap()
        });
        let orders = if by == By::Batch { ORDERS } else { WARM_UP };
        let path = if by == By::Batch { "/v1/orders/batch" } else { "/v1/orders" };
        let heads = |bodies: &[Vec<u8>]| -> Vec<Vec<u8>> {
            let head = |body: &Vec<u8>| {
                let mut head = Vec::new();
                target.post(path, body.len(), &mut head);
                head
            };
            bodies.iter().map(head).collect()
        };
        let bodies_before = bodies(by, ORDERS_BEFORE, orders);
        let warm_up = Serving {
            runtime,
            local,
            connection,
            requests: heads(&bodies_before),
            bodies: bodies_before,
            answered: 0,
            _log: log,
            _stop: stop,
        };
        let bodies = bodies(by, ORDERS_BEFORE + orders, ORDERS);
        Serving { requests: heads(&bodies), bodies, ..warm_up.send() }
    }

    fn send(mut self) -> Serving {
        let Serving { runtime, local, connection, requests, bodies, answered, .. } = &mut self;
        local.block_on(runtime, async {
            for (head, body) in requests.iter().zip(bodies) {
                connection.send(head, body).await.unwrap();
                let (status, answer) = connection.receive().await.unwrap();
                assert!(matches!(status, 200 | 201));
                *answered += answer.len();
            }
        });
        self
    }
}

/// A log in memory that takes as long as one on a disk. The shard has always begun to wait when
/// it is done: whether it has would else be a race, and change the count by some per cent.
struct SlowLog(MemoryLog);

const APPEND_TAKES: Duration = Duration::from_millis(2);

impl Log for SlowLog {
    fn append(&mut self, frames: &[&[u8]]) -> Result<(), LogError> {
        std::thread::sleep(APPEND_TAKES);
        self.0.append(frames)
    }

    fn read(&self, shard: ShardId, from: Offset) -> Result<Box<dyn FrameSource + '_>, LogError> {
        self.0.read(shard, from)
    }

    fn read_all(&self) -> Result<Box<dyn FrameSource + '_>, LogError> {
        self.0.read_all()
    }

    fn trim(&mut self, before: &[(ShardId, Offset)]) -> Result<(), LogError> {
        self.0.trim(before)
    }

    fn end(&self, shard: ShardId) -> LogEnd {
        self.0.end(shard)
    }

    fn stats(&self) -> LogStats {
        self.0.stats()
    }
}

/// Brings shards where the stages start, through their inbox.
async fn fill(group: &GroupHandle) {
    for (number, commands) in before(ORDERS_BEFORE).enumerate() {
        let answer = group.submit(commands, Vec::new()).await.unwrap();
        assert!(answer.replies.iter().all(|reply| reply.outcome.is_done()));
        if number == 0 {
            // An order for what isn't listed everywhere would wait.
            for shard in (0..SHARDS).map(ShardId) {
                for item in (1..=ITEMS).map(ItemId) {
                    let query = Query::Item(item);
                    while group.query(shard, Realm::Live, query).await.unwrap() == View::Missing {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }
}

/// What a shard executed before: items, accounts, so many orders in batches.
fn before(orders: u64) -> impl Iterator<Item = CommandBuffer> {
    let batches = (0..orders).step_by(ORDERS as usize).map(|first| {
        let bodies = bodies(By::Batch, first, ORDERS);
        commands(By::Batch, &bodies[0])
    });
    std::iter::once(listing(STOCK)).chain(batches)
}

/// Items with so much stock of each, and accounts.
fn listing(stock: u64) -> CommandBuffer {
    let profile = profile();
    let mut listed = CommandBuffer::default();
    for item in (1..=ITEMS).map(ItemId) {
        let (seller, price) = (profile.seller(item), profile.price(item));
        listed.create_item(item, seller, Currency::GBP, Amount(price), stock, Sale::default());
    }
    for buyer in 1..=BUYERS {
        listed.create_account(Party(buyer), Currency::GBP, Amount(10_000_000_000));
    }
    listed
}

/// The bodies of requests for so many orders of the profile, from number `first` on.
fn bodies(by: By, first: u64, orders: u64) -> Vec<Vec<u8>> {
    bodies_of(profile(), by, first, orders)
}

fn bodies_of(profile: &Profile, by: By, first: u64, orders: u64) -> Vec<Vec<u8>> {
    let body = |first, orders| {
        let mut body = Vec::new();
        write_orders(profile, run(), first, orders, UNIX_MS, &mut body);
        body
    };
    match by {
        By::Batch => vec![body(first, orders)],
        By::One => (first..first + orders)
            .map(|n| {
                let body = body(n, 1);
                body[BATCH_OPENING..body.len() - BATCH_END].to_vec()
            })
            .collect(),
    }
}

fn commands(by: By, body: &[u8]) -> CommandBuffer {
    let mut commands = CommandBuffer::default();
    model::json::decode::decode(by.request(), body, &mut commands).unwrap();
    commands
}

fn profile() -> &'static Profile {
    static PROFILE: LazyLock<Profile> =
        LazyLock::new(|| Profile::new(BUYERS, ITEMS, Lines::Mix, 1));
    &PROFILE
}

fn run() -> RunId {
    RunId::new(7)
}
