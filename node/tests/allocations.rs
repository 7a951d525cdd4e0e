//! Deciding an order asks the allocator for nothing: what a batch allocates, it allocates once,
//! however many orders are in it.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use model::record::{CommandBuffer, Sale};
use model::{
    Amount, Currency, ItemId, OrderId, Outcome, Party, PaymentMethod, Quantity, ShardId, Time,
};
use mq::LogEnd;
use node::{Found, Now, ShardGroup, Token};
use txn_core::{Capacity, Seat, Shard, SpareRegions};

/// Counts what is asked of the system's allocator.
struct Counting;

static ASKED: AtomicU64 = AtomicU64::new(0);

// SAFETY: all is done by the system's allocator, which keeps the trait's rules.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Relaxed);
        // SAFETY: the caller keeps the rules for `layout`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller says that `block` came from here, and so from the system.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.fetch_add(1, Relaxed);
        // SAFETY: the caller says that `block` came from here, and so from the system.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SHARDS: u16 = 16;
const BUYERS: u64 = 10_000;
const ITEMS: u64 = 1_000;
const NOW: Now = Now { time: Time(1), monotonic: Duration::ZERO };

struct Asked;

impl Token for Asked {}

struct Platform {
    group: ShardGroup<Asked>,
    orders: u64,
}

impl Platform {
    fn new() -> Platform {
        let spare = SpareRegions::default();
        (0..6).for_each(|_| spare.add());
        let member = |id| {
            let seat = Seat { id, shards: SHARDS, settle_step: Seat::SETTLE_STEP };
            let mut shard = Shard::new(seat, 1, spare.clone());
            shard.reserve(Capacity { accounts: BUYERS, items: ITEMS, orders: 20_000 });
            (shard, LogEnd::default())
        };
        let members = (0..SHARDS).map(ShardId).map(member).collect();
        let mut platform = Platform { group: ShardGroup::new(SHARDS, members), orders: 0 };
        let mut commands = CommandBuffer::default();
        for buyer in (1..=BUYERS).map(Party) {
            commands.create_account(buyer, Currency::GBP, Amount(10_000_000_000));
        }
        for item in (1..=ITEMS).map(ItemId) {
            let seller = Party(1 << 40);
            commands.create_item(item, seller, Currency::GBP, Amount(5), 1 << 40, Sale::default());
        }
        platform.run(commands, Vec::new());
        let mut mail = Vec::new();
        platform.group.messages(NOW, &mut mail);
        platform.group.deliver(NOW, &mail).unwrap();
        platform
    }

    /// Orders of one to four lines.
    fn batch(&mut self, orders: u64) -> CommandBuffer {
        let mut commands = CommandBuffer::default();
        for _ in 0..orders {
            self.orders += 1;
            let n = self.orders;
            let mut place = commands.place();
            for line in 0..1 + n % 4 {
                place.line(ItemId(1 + (7 * n + line) % ITEMS), Quantity(1), None);
            }
            let id = OrderId(u128::from(n));
            place.finish(Party(1 + n % BUYERS), id, Currency::GBP, PaymentMethod::Balance);
        }
        commands
    }

    /// Decides commands, has them made durable and takes the answer, whose memory goes round.
    fn run(&mut self, commands: CommandBuffer, replies: Vec<model::Reply>) -> Vec<model::Reply> {
        self.group.submit(NOW, Asked, commands, replies).unwrap();
        let (frames, _) = self.group.take_frames(NOW);
        self.group.durable(NOW, frames);
        let (Asked, found) = self.group.released().next().unwrap();
        let Found::Commands(_, replies) = found else { panic!("nobody reads") };
        assert!(replies.iter().all(|reply| reply.outcome == Outcome::Ok));
        replies
    }
}

#[test]
fn an_order_asks_the_allocator_for_nothing() {
    let mut platform = Platform::new();
    let mut replies = Vec::new();
    // Buffers grow to what a batch needs, and go round from then on.
    for _ in 0..10 {
        let commands = platform.batch(1_000);
        replies = platform.run(commands, replies);
    }
    let asked = [100, 1_000].map(|orders| {
        let commands = platform.batch(orders);
        let before = ASKED.load(Relaxed);
        replies = platform.run(commands, std::mem::take(&mut replies));
        ASKED.load(Relaxed) - before
    });
    assert_eq!(asked[0], asked[1], "for batches of 100 and of 1,000 orders");
    assert!(asked[1] <= 16, "{asked:?}");
}
