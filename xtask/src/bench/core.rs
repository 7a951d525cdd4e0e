//! The core alone at the size that it is for: no socket, no disk, one thread.
//!
//! Orders are of one line and one unit, are paid from the buyer's balance, have fresh ids, and
//! every id is looked up. What is compared are the same orders for other items, on more shards,
//! or with little stock.

mod platform;

use std::time::Instant;

use loadgen::profile::Random;
use model::frame::FrameBuilder;
use model::record::{Body, CommandBuffer, Sale};
use model::{Amount, Currency, ItemId, OrderId, Party, PaymentMethod, Quantity};
use txn_core::{Capacity, Seat, Shard, SpareRegions};

use super::bare::Bare;
use super::load::Population;
use super::parts::apply_all;
use super::table::{Row, thousands};
use crate::run::Failure;
use platform::{Platform, Spent};

/// Alternations between what is compared.
pub(super) const ROUNDS: usize = 5;
const BUYERS: u64 = 1_000_000;
const ITEMS: u64 = 100_000;
/// Orders that are remembered before the first one is timed.
const RETAINED: u64 = 20_000_000;
/// Orders of a submission.
const BATCH: u64 = 1_000;
/// Submissions of a round.
const BATCHES: u64 = 300;
/// More of each item than is ever asked for.
const AMPLE: u64 = 1 << 40;
/// Of each item, where all of them are scarce.
const SCARCE: u64 = 10;
/// Submissions of a round where all items are scarce: five rounds sell half of all units.
const SCARCE_BATCHES: u64 = 100;
/// Shards of a data directory unless told, where the number isn't what is compared.
const SHARDS: u16 = 16;

/// Which item an order is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Popularity {
    Uniform,
    Zipf,
    /// All orders are for the same one.
    Hot,
}

/// Rows and notes of one part.
type Measured = Result<(Vec<Row>, Vec<String>), Failure>;

pub(super) fn measure(only: Option<&str>) -> Measured {
    type Part = fn(&Orders) -> Measured;
    let parts: [(&str, Part); 3] = [("retained", retained), ("shards", shards), ("scarce", scarce)];
    let orders = Orders::new();
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    for (name, part) in parts {
        if only.is_none_or(|only| name.contains(only)) {
            eprintln!("{name} …");
            let (mut theirs, mut said) = part(&orders)?;
            rows.append(&mut theirs);
            notes.append(&mut said);
        }
    }
    notes.push(format!(
        "One thread. {} buyers, {} items of {} sellers; orders of one line and one unit, paid \
         from the balance, with fresh ids, in batches of {}.",
        thousands(BUYERS),
        thousands(ITEMS),
        thousands(super::load::SELLERS),
        thousands(BATCH),
    ));
    Ok((rows, notes))
}

/// Applying with many orders retained, to a shard that is alone.
fn retained(orders: &Orders) -> Measured {
    let kinds = [Popularity::Uniform, Popularity::Zipf, Popularity::Hot];
    let timed = ROUNDS as u64 * BATCHES * BATCH * kinds.len() as u64;
    let mut shard = Shard::new(Seat::alone(), 1, SpareRegions::default());
    let spare = shard.spare_regions().clone();
    let touch = || {
        while spare.count() < 128 {
            spare.add();
        }
    };
    touch();
    shard.reserve(Capacity { accounts: BUYERS, items: ITEMS, orders: RETAINED + timed });
    let mut bare = Bare::new(BUYERS, ITEMS, RETAINED + timed);
    let (mut frame, mut replies) = (FrameBuilder::default(), Vec::new());
    apply_all(&mut shard, &orders.listing(AMPLE), &mut frame, &mut replies)?;
    let mut next = 0;
    while next < RETAINED {
        let commands = orders.batch(Popularity::Uniform, next);
        apply_all(&mut shard, &commands, &mut frame, &mut replies)?;
        bare.apply(&commands);
        next += BATCH;
        touch();
    }
    let row = |what: &str, peer: &str| {
        Row::new(format!("apply, 20 million orders retained: {what}"), "orders/s", peer)
    };
    let peer = "a hash set of as many ids and two arrays";
    let mut rows = [row("uniform items", peer), row("Zipf items", peer), row("one hot item", peer)];
    let (mut faults, began) = (0, shard.grown());
    for _ in 0..ROUNDS {
        for (row, kind) in rows.iter_mut().zip(kinds) {
            let batches: Vec<_> =
                (0..BATCHES).map(|batch| orders.batch(kind, next + batch * BATCH)).collect();
            next += BATCHES * BATCH;
            touch();
            let before = page_faults()?;
            row.ours.push(rate(&batches, |commands| {
                apply_all(&mut shard, commands, &mut frame, &mut replies)
            })?);
            faults += page_faults()? - before;
            row.peer.push(rate(&batches, |commands| {
                bare.apply(commands);
                Ok(())
            })?);
        }
    }
    let [uniform, zipf, hot] = rows;
    let mut beside = Row::new(
        "one hot item beside uniform items",
        "orders/s",
        "the same orders, for uniform items",
    );
    (beside.ours, beside.peer) = (hot.ours.clone(), uniform.ours.clone());
    let grown = shard.grown().since(began);
    let note = format!(
        "Applying {} more orders, the tables took {} regions of 2 MiB, all touched before, and \
         split {} segments of 32 KiB; the thread had {} page faults.",
        thousands(timed),
        thousands(grown.regions),
        thousands(grown.segments),
        thousands(faults),
    );
    Ok((vec![uniform, zipf, hot, beside], vec![note]))
}

/// Page faults of this thread so far that needed no disk.
fn page_faults() -> Result<u64, Failure> {
    let stat = std::fs::read_to_string("/proc/thread-self/stat")?;
    // The tenth field; the second is a name in parentheses (proc_pid_stat(5)).
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields).unwrap_or_default();
    let minor = fields.split(' ').nth(7).ok_or("no page faults in /proc/thread-self/stat")?;
    Ok(minor.parse()?)
}

/// Orders in a second.
fn rate(
    batches: &[CommandBuffer],
    mut run: impl FnMut(&CommandBuffer) -> Result<(), Failure>,
) -> Result<f64, Failure> {
    let start = Instant::now();
    batches.iter().try_for_each(&mut run)?;
    Ok((batches.len() as u64 * BATCH) as f64 / start.elapsed().as_secs_f64())
}

/// All shards in one group, with frames, streams and a log in memory: many beside one.
fn shards(orders: &Orders) -> Measured {
    let counts = [1, 16, 64];
    let mut platforms = counts.map(|shards| Platform::new(shards, BUYERS, ITEMS, AMPLE));
    for platform in &mut platforms {
        platform.list(orders)?;
    }
    let mut rows = [16, 64].map(|shards| {
        let what = format!("a group of {shards} shards, frames and log in memory included");
        Row::new(what, "orders/s", "one shard")
    });
    let mut next = 0;
    for round in 0..=ROUNDS {
        let batches: Vec<_> = (0..BATCHES)
            .map(|batch| orders.batch(Popularity::Zipf, next + batch * BATCH))
            .collect();
        next += BATCHES * BATCH;
        let mut rates = [0.0; 3];
        for (rate, platform) in rates.iter_mut().zip(&mut platforms) {
            *rate = platform.run(batches.clone())?.orders_per_s();
        }
        // The first one warms up.
        for (row, ours) in rows.iter_mut().zip(&rates[1..]).filter(|_| round > 0) {
            row.ours.push(*ours);
            row.peer.push(rates[0]);
        }
    }
    Ok((rows.into(), Vec::new()))
}

/// Where stock has to be spread, is ample, or is scarce: what goes between shards.
fn scarce(orders: &Orders) -> Measured {
    let mut uniform = Platform::new(SHARDS, BUYERS, ITEMS, AMPLE);
    uniform.list(orders)?;
    let mut scarce = Platform::new(SHARDS, BUYERS, ITEMS, SCARCE);
    scarce.list(orders)?;
    let mut row = Row::new(
        format!("all items scarce: {SCARCE} units each, {SHARDS} shards"),
        "orders/s",
        "the same orders, with stock to spare",
    );
    let (mut spent, mut next) = (Spent::default(), 0);
    for _ in 0..ROUNDS {
        let batches: Vec<_> = (0..SCARCE_BATCHES)
            .map(|batch| orders.batch(Popularity::Uniform, next + batch * BATCH))
            .collect();
        next += SCARCE_BATCHES * BATCH;
        let ran = scarce.run(batches.clone())?;
        row.ours.push(ran.orders_per_s());
        row.peer.push(uniform.run(batches)?.orders_per_s());
        spent += ran;
    }
    let mut notes = vec![format!("All items scarce, {SHARDS} shards: {}.", spent.per_order())];

    // New stock, and orders by Zipf that can't use it up.
    let batches: Vec<_> =
        (0..1_000).map(|batch| orders.batch(Popularity::Zipf, batch * BATCH)).collect();
    let mut asked = vec![0u64; ITEMS as usize + 1];
    for record in batches.iter().flat_map(CommandBuffer::records).flatten() {
        let Body::Place { lines, .. } = record.body else { continue };
        asked[lines[0].item.get() as usize] += 1;
    }
    let mut ample = Platform::new(SHARDS, BUYERS, ITEMS, 0);
    ample.list(orders)?;
    let spread = ample.restock(|item| 1_000 + 2 * asked[item as usize])?;
    notes.push(format!(
        "New stock of at least 1,000 units for each of {} items, {SHARDS} shards: {}. Orders of \
         one unit that sell it are at least a thousand times as many.",
        thousands(ITEMS),
        spread.per_thousand("items"),
    ));
    notes.push(format!(
        "Ample stock, 1,000 units of each item and twice what is asked for, Zipf, {SHARDS} \
         shards: {}.",
        ample.run(batches)?.per_order()
    ));
    Ok((vec![row], notes))
}

/// The orders of all rows.
struct Orders {
    population: Population,
}

impl Orders {
    fn new() -> Orders {
        Orders { population: Population::new(BUYERS, ITEMS) }
    }

    /// Accounts, and items with so much stock of each.
    fn listing(&self, stock: u64) -> CommandBuffer {
        let mut commands = CommandBuffer::default();
        self.accounts(&mut commands, 1..=BUYERS);
        self.items(&mut commands, 1..=ITEMS, stock);
        commands
    }

    fn accounts(&self, commands: &mut CommandBuffer, buyers: std::ops::RangeInclusive<u64>) {
        for buyer in buyers {
            commands.create_account(Party(buyer), Currency::GBP, Amount(10_000_000_000));
        }
    }

    fn items(
        &self,
        commands: &mut CommandBuffer,
        items: std::ops::RangeInclusive<u64>,
        stock: u64,
    ) {
        for item in items {
            let (seller, price) = (self.population.seller(item), self.population.price(item));
            let (seller, price) = (Party(seller), Amount(price));
            let sale = Sale::default();
            commands.create_item(ItemId(item), seller, Currency::GBP, price, stock, sale);
        }
    }

    /// Orders from number `first` on.
    fn batch(&self, popularity: Popularity, first: u64) -> CommandBuffer {
        let mut commands = CommandBuffer::default();
        for n in first..first + BATCH {
            let order = self.population.order(n);
            let item = match popularity {
                Popularity::Uniform => 1 + Random(order.buyer ^ n << 32).below(ITEMS),
                Popularity::Zipf => order.lines[0].0,
                Popularity::Hot => 1,
            };
            let mut place = commands.place();
            place.line(ItemId(item), Quantity(1), None);
            let (buyer, id) = (Party(order.buyer), OrderId(order.id));
            place.finish(buyer, id, Currency::GBP, PaymentMethod::Balance);
        }
        commands
    }
}
