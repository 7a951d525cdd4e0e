//! Shards in one group on one thread, with their streams, and a log in memory.

use std::ops::AddAssign;
use std::time::{Duration, Instant};

use model::record::{Body, CommandBuffer, Record};
use model::{ChangeId, ItemId, Offset, Outcome, Reply, ShardId, Time};
use mq::{Log, LogEnd, MemoryLog};
use node::{Found, Message, Now, ShardGroup, Token};
use txn_core::{Capacity, Seat, Shard, SpareRegions};

use super::Orders;
use crate::bench::table::thousands;
use crate::run::Failure;

/// Commands of a submission while the platform is filled.
const FILL: u64 = 5_000;
/// Regions of memory that are ready when a run begins: 256 MiB.
const REGIONS_READY: usize = 128;
/// Timers and links are looked at so often, as a reactor does it.
const LOOK: Duration = Duration::from_millis(1);
/// Frames are forgotten after so many commits.
const TRIM: u64 = 64;
/// The clock's beginning: in 2023.
const BEGINNING: Time = Time(1_700_000_000_000_000);

/// A submission.
struct Asked;

impl Token for Asked {}

pub(super) struct Platform {
    shards: u16,
    stock: u64,
    buyers: u64,
    items: u64,
    group: ShardGroup<Asked>,
    spare: SpareRegions,
    log: MemoryLog,
    mail: Vec<Message>,
    began: Instant,
    look_at: Duration,
    commits: u64,
    changes: u128,
    /// Submissions that have no answer yet.
    open: usize,
    spent: Spent,
    spare_replies: Vec<Vec<Reply>>,
}

/// What orders took.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Spent {
    commands: u64,
    /// Of those: refused because nothing was left.
    sold_out: u64,
    /// And: told to come again, after 250 ms.
    busy: u64,
    entries: u64,
    messages: u64,
    log_bytes: u64,
    time: Duration,
}

impl Platform {
    pub(super) fn new(shards: u16, buyers: u64, items: u64, stock: u64) -> Platform {
        let spare = SpareRegions::default();
        let member = |id| {
            let seat = Seat { id, shards, settle_step: Seat::SETTLE_STEP };
            let mut shard = Shard::new(seat, 1, spare.clone());
            shard.reserve(Capacity {
                accounts: buyers / u64::from(shards),
                items,
                orders: 2_000_000 / u64::from(shards),
            });
            (shard, LogEnd::default())
        };
        let members = (0..shards).map(ShardId).map(member).collect();
        Platform {
            shards,
            stock,
            buyers,
            items,
            group: ShardGroup::new(shards, members),
            spare: spare.clone(),
            log: MemoryLog::new(),
            mail: Vec::new(),
            began: Instant::now(),
            look_at: Duration::ZERO,
            commits: 0,
            changes: 0,
            open: 0,
            spent: Spent::default(),
            spare_replies: Vec::new(),
        }
    }

    /// Opens all accounts and lists all items.
    pub(super) fn list(&mut self, orders: &Orders) -> Result<(), Failure> {
        for first in (1..=self.buyers).step_by(FILL as usize) {
            let mut commands = CommandBuffer::default();
            orders.accounts(&mut commands, first..=self.buyers.min(first + FILL - 1));
            self.run(vec![commands])?;
        }
        for first in (1..=self.items).step_by(FILL as usize) {
            let mut commands = CommandBuffer::default();
            orders.items(&mut commands, first..=self.items.min(first + FILL - 1), self.stock);
            self.run(vec![commands])?;
        }
        Ok(())
    }

    /// Adds so many units of each item.
    pub(super) fn restock(&mut self, units: impl Fn(u64) -> u64) -> Result<Spent, Failure> {
        let mut batches = Vec::new();
        let mut commands = CommandBuffer::default();
        for item in 1..=self.items {
            if units(item) > 0 {
                self.changes += 1;
                commands.restock(ChangeId(self.changes), ItemId(item), units(item));
            }
            if u64::from(commands.count()) >= FILL || item == self.items {
                batches.push(std::mem::take(&mut commands));
            }
        }
        self.run(batches)
    }

    /// Has all of these decided, and everything done that follows.
    pub(super) fn run(&mut self, batches: Vec<CommandBuffer>) -> Result<Spent, Failure> {
        while self.spare.count() < REGIONS_READY {
            self.spare.add();
        }
        self.spent = Spent::default();
        let log_bytes = self.log.stats().bytes;
        let start = Instant::now();
        for commands in batches {
            self.spent.commands += u64::from(commands.count());
            let replies = self.spare_replies.pop().unwrap_or_default();
            self.open += 1;
            self.group.submit(self.now(), Asked, commands, replies)?;
            self.turn()?;
        }
        while self.open > 0 || self.group.has_unwritten() || !self.mail.is_empty() {
            self.turn()?;
        }
        self.spent.time = start.elapsed();
        self.spent.log_bytes = self.log.stats().bytes - log_bytes;
        Ok(self.spent)
    }

    fn now(&self) -> Now {
        let monotonic = self.began.elapsed();
        Now { time: BEGINNING.after(monotonic), monotonic }
    }

    /// Commits what was decided, and takes to each shard what the others have for it.
    fn turn(&mut self) -> Result<(), Failure> {
        let now = self.now();
        if now.monotonic >= self.look_at {
            self.look_at = now.monotonic + LOOK;
            if self.group.next_wake(now).is_some_and(|wake| wake.is_zero()) {
                self.group.tick(now);
            }
        }
        if self.group.has_unwritten() {
            let (frames, _) = self.group.take_frames(now);
            let bytes: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            self.log.append(&bytes)?;
            self.group.durable(now, frames);
            self.commits += 1;
            if self.commits.is_multiple_of(TRIM) {
                let ends = (0..self.shards).map(ShardId);
                let ends: Vec<(ShardId, Offset)> =
                    ends.map(|shard| (shard, self.log.end(shard).next)).collect();
                self.log.trim(&ends)?;
            }
        }
        self.group.messages(now, &mut self.mail);
        for message in &self.mail {
            let (record, _) = Record::split(&message.record)?;
            if let Body::Deliver { deliver, .. } = record.body {
                self.spent.messages += 1;
                self.spent.entries += u64::from(deliver.count.get());
            }
        }
        self.group.deliver(now, &self.mail)?;
        self.mail.clear();
        for (Asked, found) in self.group.released() {
            let Found::Commands(_, replies) = found else { continue };
            self.open -= 1;
            for reply in &replies {
                match reply.outcome {
                    Outcome::Ok => {}
                    Outcome::SoldOut => self.spent.sold_out += 1,
                    Outcome::Busy => self.spent.busy += 1,
                    refused => return Err(format!("the benchmark was told: {refused:?}").into()),
                }
            }
            self.spare_replies.push(replies);
        }
        Ok(())
    }
}

impl Spent {
    pub(super) fn orders_per_s(&self) -> f64 {
        self.commands as f64 / self.time.as_secs_f64()
    }

    /// What went between shards and to the log, for a thousand of `what`.
    pub(super) fn per_thousand(&self, what: &str) -> String {
        let per = |count: u64| {
            let figure = count as f64 * 1_000.0 / self.commands as f64;
            if figure < 100.0 { format!("{figure:.1}") } else { thousands(figure as u64) }
        };
        format!(
            "{} stream entries in {} messages and {} bytes of log for 1,000 {what}",
            per(self.entries),
            per(self.messages),
            per(self.log_bytes)
        )
    }

    pub(super) fn per_order(&self) -> String {
        let refused = self.sold_out as f64 * 100.0 / self.commands as f64;
        let busy = thousands(self.busy);
        let figures = self.per_thousand("orders");
        format!("{figures}; {refused:.1} % were sold out, {busy} orders busy")
    }
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Spent) {
        self.commands += other.commands;
        self.sold_out += other.sold_out;
        self.busy += other.busy;
        self.entries += other.entries;
        self.messages += other.messages;
        self.log_bytes += other.log_bytes;
        self.time += other.time;
    }
}
