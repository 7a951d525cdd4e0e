//! All that a shard knows of one realm.
//!
//! Trade and rehearsal share a log and nothing else: each has accounts, items, orders, streams
//! and timers of its own, and a command of one can't name anything of the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use foldhash::fast::FixedState;
use model::frame::FrameBuilder;
use model::planted::{Bug, is_planted};
use model::record::{self, Body, Record, RowKey, TimerKind};
use model::{Amount, ItemId, Offset, OrderId, OrderState, Outcome, Party, Realm, Reply, Time};
use model::{ShardId, ids};
use xxhash_rust::xxh3::xxh3_64;

use crate::arena::{Arena, Pos, SpareRegions};
use crate::changes::{Change, Changes};
use crate::coupons::Coupons;
use crate::escrow::Contention;
use crate::eviction::{Evicted, Unready};
use crate::holds::{Holds, OneHold};
use crate::index::Grown;
use crate::inventory::Inventory;
use crate::ledger::Ledger;
use crate::limits::Limits;
use crate::orders::{OrderExtra, OrderLeg, Orders};
use crate::place::{Asked, Resolved};
use crate::signals::Signals;
use crate::snapshot::{ARENAS, Malformed, RealmMeta, Sink};
use crate::streams::Streams;

/// Which shard this is, and by which settings it decides. They are fixed when a data directory
/// is made: another setting would decide otherwise when the log is executed again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seat {
    /// This shard.
    pub id: ShardId,
    /// How many there are, 1 to 256.
    pub shards: u16,
    /// The length of a step, at least 1 s: what sellers earn is pending until the step in which
    /// they earned it and the next one are over.
    pub settle_step: Duration,
}

impl Seat {
    /// The most shards.
    pub const SHARDS_MAX: u16 = 256;
    /// Unless told otherwise, money is pending for one to two days.
    pub const SETTLE_STEP: Duration = Duration::from_secs(24 * 60 * 60);

    /// The only shard there is.
    pub fn alone() -> Seat {
        Seat { id: ShardId(0), shards: 1, settle_step: Seat::SETTLE_STEP }
    }
}

pub(crate) struct RealmState {
    pub(crate) realm: Realm,
    pub(crate) seat: Seat,
    /// The time of the frame at hand.
    pub(crate) now: Time,
    /// Its step.
    pub(crate) step: u32,
    /// The offset of the record at hand.
    pub(crate) offset: Offset,
    pub(crate) ledger: Ledger,
    pub(crate) inventory: Inventory,
    pub(crate) orders: Orders,
    pub(crate) changes: Changes,
    pub(crate) limits: Limits,
    pub(crate) streams: Streams,
    /// Items at home here of which too little is in the pool.
    pub(crate) contended: BTreeMap<u64, Contention>,
    /// Items that their homes said there aren't. The newest few; with an item that comes into
    /// being it is forgotten.
    pub(crate) unknown: VecDeque<u64>,
    pub(crate) coupons: Coupons,
    pub(crate) holds: Holds,
    /// When orders expire and holds are released, with their positions.
    pub(crate) timers: BTreeSet<(u64, TimerKind, u32)>,
    /// The seller whose account a sweep looks at next, the step in which it began with the first
    /// one, and the last step in which it began and came to the end.
    pub(crate) sweep_next: usize,
    pub(crate) sweep_began: u32,
    pub(crate) swept_step: u32,
    /// The lines of the order at hand; its legs, unless it is paid at once and in one way; and
    /// what is special about some lines.
    pub(crate) resolved: Vec<Resolved>,
    pub(crate) legs: Vec<OrderLeg>,
    pub(crate) extras: Vec<OrderExtra>,
    /// Units wanted by item, where an order can't simply take them.
    pub(crate) wanted: Vec<(ItemId, u64, u16)>,
    /// The item that the order at hand has waited for: no lower one makes it wait behind others.
    pub(crate) turn: Option<ItemId>,
    pub(crate) signals: Signals,
    /// What has left memory, of orders and of changes.
    pub(crate) evicted: [Evicted; 2],
    /// Rows of which nothing was found, until something else is decided.
    pub(crate) absent: VecDeque<RowKey>,
}

/// What a decision comes to, before it is logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision {
    pub outcome: Outcome,
    pub state: Option<OrderState>,
    pub line: Option<u16>,
    pub amount: u64,
    /// The record before it for the same order.
    pub previous: u64,
    /// The records before it of the statements of the account whose money it moves, and of one
    /// that it credits.
    pub statement: u64,
    pub credit_statement: u64,
    /// How much of what came back the buyer's own account got.
    pub returned: u64,
}

impl Decision {
    pub(crate) fn of(outcome: Outcome) -> Decision {
        Decision {
            outcome,
            state: None,
            line: None,
            amount: 0,
            previous: 0,
            statement: 0,
            credit_statement: 0,
            returned: 0,
        }
    }

    pub(crate) fn ok(amount: u64) -> Decision {
        Decision { amount, ..Decision::of(Outcome::Ok) }
    }

    /// The reply of a command that leaves no record.
    pub(crate) fn unlogged(self) -> Reply {
        self.reply(None)
    }

    pub(crate) fn reply(self, offset: Option<Offset>) -> Reply {
        Reply {
            outcome: self.outcome,
            state: self.state,
            line: self.line,
            amount: Amount(self.amount),
            offset,
        }
    }
}

impl RealmState {
    pub(crate) fn new(realm: Realm, seat: Seat, seed: u64, spare: &SpareRegions) -> RealmState {
        let hasher = FixedState::with_seed(seed);
        RealmState {
            realm,
            seat,
            now: Time(0),
            step: 0,
            offset: Offset(0),
            ledger: Ledger::new(&hasher, spare),
            inventory: Inventory::new(&hasher, spare),
            orders: Orders::new(hasher.clone(), spare),
            changes: Changes::new(&hasher, spare),
            limits: Limits::new(&hasher, spare),
            coupons: Coupons::new(&hasher, spare),
            holds: Holds::new(&hasher, spare),
            streams: Streams::new(realm, seat.shards),
            contended: BTreeMap::new(),
            unknown: VecDeque::new(),
            timers: BTreeSet::new(),
            sweep_next: 0,
            sweep_began: 0,
            swept_step: 0,
            resolved: Vec::new(),
            legs: Vec::new(),
            extras: Vec::new(),
            wanted: Vec::new(),
            turn: None,
            signals: Signals::default(),
            evicted: Default::default(),
            absent: VecDeque::new(),
        }
    }

    /// Goes on to the time of the frame at hand. It never goes back: what was due stays due, and
    /// what has ripened stays available.
    pub(crate) fn set_now(&mut self, now: Time) {
        if self.now < now {
            (self.now, self.step) = (now, self.step_of(now));
        }
    }

    pub(crate) fn step_of(&self, now: Time) -> u32 {
        let step_us = self.seat.settle_step.as_micros() as u64;
        (now.0 / step_us) as u32
    }

    /// When the next step begins.
    pub(crate) fn end_of(&self, step: u32) -> Time {
        Time((u64::from(step) + 1) * self.seat.settle_step.as_micros() as u64)
    }

    /// Decides a command and logs it. An error means that it can't be decided now: nothing
    /// changed.
    pub(crate) fn execute(
        &mut self,
        command: &Record<'_>,
        frame: &mut FrameBuilder,
    ) -> Result<Reply, Unready> {
        if self.has_evicted() && self.needs(command).iter().any(Option::is_some) {
            return Err(Unready::Needs);
        }
        let records = frame.count();
        let reply = self.decide(command, frame);
        if frame.count() > records && !matches!(command.body, Body::Load { .. }) {
            self.absent.clear();
        }
        reply
    }

    fn decide(&mut self, command: &Record<'_>, frame: &mut FrameBuilder) -> Result<Reply, Unready> {
        let item = ItemId(command.header.scope.get());
        Ok(match command.body {
            Body::Place { order, legs, lines, extras, .. } => {
                let asked = Asked { order, legs, lines, extras };
                return Ok(self.place(command, &asked, frame)?);
            }
            Body::CreateAccount(body) => {
                let digest = xxh3_64(command.bytes);
                let decision = self.create_account(command.party(), body, digest);
                self.log(command, decision, frame)
            }
            Body::IssueCoupon(body) => {
                let decision = self.issue_coupon(command.party(), body);
                self.log(command, decision, frame)
            }
            Body::UpdateAccount(body) => {
                self.change(command, frame, |realm| realm.update_account(command.party(), body))
            }
            Body::Hold(body) => self.change(command, frame, |realm| {
                realm.hold(command.party(), command.header.id.get(), body)
            }),
            Body::SettleHold(body) => self.change(command, frame, |realm| {
                realm.settle_hold(command.party(), command.header.id.get(), body)
            }),
            Body::Receive(body) => {
                let order = body.order.get();
                self.change(command, frame, |realm| realm.receive(command.party(), OrderId(order)))
            }
            Body::CreateItem(body) => {
                let decision = self.create_item(item, body, xxh3_64(command.bytes));
                self.log(command, decision, frame)
            }
            Body::UpdateItem(body) => {
                self.change(command, frame, |realm| realm.update_item(item, body))
            }
            Body::Restock(body) => self.change(command, frame, |realm| realm.restock(item, body)),
            Body::Transfer(body) => self.change(command, frame, |realm| {
                realm.transfer(command.party(), command.header.id.get(), body)
            }),
            Body::Pay(body) => {
                self.change(command, frame, |realm| realm.pay(command.party(), body))
            }
            Body::Cancel(body) => {
                let order = body.order.get();
                self.change(command, frame, |realm| realm.cancel(command.party(), OrderId(order)))
            }
            Body::Refund { refund, lines } => {
                self.change(command, frame, |realm| realm.refund(command.party(), refund, lines))
            }
            Body::Deliver { deliver, entries } => self.deliver(command, deliver, entries, frame),
            Body::Stock(ops) => {
                let decision = self.stock(ops);
                self.log(command, decision, frame)
            }
            Body::Timer(body) => {
                let decision = self.fire(command.party(), body);
                self.log(command, decision, frame)
            }
            Body::Sweep(body) => self.sweep(command, body, frame),
            Body::Evict { evict, images } => {
                let decision = self.evict(evict, images);
                self.log(command, decision, frame)
            }
            Body::Load { load, row } => {
                let decision = self.load(load, command.header.scope.get(), row);
                self.log(command, decision, frame)
            }
        })
    }

    /// A change with an id of its own: decided once, remembered, logged.
    fn change(
        &mut self,
        command: &Record<'_>,
        frame: &mut FrameBuilder,
        decide: impl FnOnce(&mut RealmState) -> Decision,
    ) -> Reply {
        let digest = xxh3_64(command.bytes);
        let row = command.row().expect("a change has an id");
        if let Some(change) = self.changes.known(row) {
            return repeat_of(change, digest);
        }
        let decision = decide(self);
        if !decision.outcome.is_logged() {
            return decision.unlogged();
        }
        self.changes.insert(Change::new(row, digest, self.offset, &decision));
        if let Some(pos) = command.order().and_then(|id| self.orders.find(command.party(), id)) {
            self.orders.set_last(pos, self.offset);
        }
        self.log(command, decision, frame)
    }

    /// Appends the record of a decision, unless it isn't one to be logged.
    pub(crate) fn log(
        &mut self,
        command: &Record<'_>,
        decision: Decision,
        frame: &mut FrameBuilder,
    ) -> Reply {
        if !decision.outcome.is_logged() {
            return decision.unlogged();
        }
        let bytes = frame.push(command.bytes);
        let state = decision.state.map_or(0, |state| state as u8);
        record::set_outcome(bytes, decision.outcome, state, decision.previous, decision.amount);
        record::set_statements(bytes, decision.statement, decision.credit_statement);
        record::set_returned(bytes, decision.returned);
        if let (Body::Refund { .. }, Some(line)) = (command.body, decision.line) {
            record::refund_mut(bytes).refused_line = (line + 1).into();
        }
        decision.reply(Some(self.offset))
    }

    /// Whether this shard is the home of the item.
    pub(crate) fn is_home(&self, item: ItemId) -> bool {
        self.home_of(item) == self.seat.id
    }

    pub(crate) fn home_of(&self, item: ItemId) -> ShardId {
        ids::item_home(item, self.seat.shards)
    }

    /// The order or hold that is due first, if it is due at `now`.
    pub(crate) fn due(&self, now: Time) -> Option<(TimerKind, Party, u128, Time)> {
        let mut timers = self.timers.iter().take_while(|(due, ..)| *due <= now.0);
        let &(due, kind, pos) =
            if is_planted(Bug::TimersOutOfOrder) { timers.last()? } else { timers.next()? };
        let (party, id) = match kind {
            TimerKind::Order => {
                let head = self.orders.head(Pos(pos));
                (head.buyer, head.id)
            }
            TimerKind::Hold => {
                let hold = self.holds.get(Pos(pos));
                (hold.party, hold.id)
            }
        };
        let id = u128::from(id[0]) << 64 | u128::from(id[1]);
        Some((kind, Party(party), id, Time(due)))
    }

    /// A hash of all of it; 0 where there is nothing yet, as if the realm had never been named.
    pub(crate) fn state_hash(&self) -> u64 {
        let contended = self.contended.iter().map(|(item, contention)| contention.hash(*item));
        let unknown: Vec<u8> = self.unknown.iter().flat_map(|item| item.to_le_bytes()).collect();
        let parts = [
            self.ledger.state_hash(),
            self.inventory.state_hash(),
            self.orders.state_hash(),
            self.changes.state_hash(|change| Some(Change { offset: 0, ..*change })),
            self.limits.state_hash(|row| (row.units != 0).then_some(*row)),
            self.coupons.state_hash(|coupon| Some(*coupon)),
            // Where an account lies depends on what else there is.
            self.holds.state_hash(|hold| Some(OneHold { account: 0, ..*hold })),
            self.streams.state_hash(),
            contended.fold(0, u64::wrapping_add),
            if unknown.is_empty() { 0 } else { xxh3_64(&unknown) },
            self.timers.len() as u64,
            self.sweep_next as u64,
            u64::from(self.sweep_began),
            u64::from(self.swept_step),
            self.evicted.iter().fold(0, |sum, table| sum * 31 + table.rows + table.before),
        ];
        if parts == [0; 15] { 0 } else { xxh3_64(&parts.map(u64::to_le_bytes).concat()) }
    }

    /// All memory of tables, in the order in which a snapshot numbers it.
    fn arenas(&mut self) -> [&mut Arena; ARENAS] {
        let [items, homes] = self.inventory.arenas();
        [
            self.ledger.rows(),
            items,
            homes,
            self.orders.blocks(),
            self.changes.rows(),
            self.limits.rows(),
            self.coupons.rows(),
            self.holds.rows(),
        ]
    }

    fn first_arena(&self) -> usize {
        self.realm as usize * ARENAS
    }

    /// Has every page saved in `sink` as it is now, and returns what is no table.
    pub(crate) fn begin_saving(&mut self, sink: &Sink) -> RealmMeta {
        let first = self.first_arena();
        let shapes = self.arenas().map(|arena| arena.shape());
        for (number, arena) in (first..).zip(self.arenas()) {
            arena.begin_saving(number as u8, sink);
        }
        RealmMeta {
            shapes,
            swept: self.ledger.payables() as u64,
            in_transit: self.ledger.in_transit().clone(),
            streams: self.streams.save(),
            contended: self.contended.clone(),
            unknown: self.unknown.clone(),
            sweep_next: self.sweep_next as u64,
            sweep_began: self.sweep_began,
            swept_step: self.swept_step,
            evicted: self.evicted,
            absent: self.absent.iter().map(RowKey::parts).collect(),
        }
    }

    /// Saves up to so many pages. Returns how many: fewer when all are saved.
    pub(crate) fn save_pages(&mut self, most: usize) -> usize {
        let mut saved = 0;
        for arena in self.arenas() {
            saved += arena.save_pages(most - saved);
            if saved == most {
                break;
            }
        }
        saved
    }

    pub(crate) fn stop_saving(&mut self) {
        self.arenas().into_iter().for_each(Arena::stop_saving);
    }

    /// Takes up what is no table. Its pages follow.
    pub(crate) fn begin_restoring(&mut self, meta: RealmMeta) -> Result<(), Malformed> {
        for (arena, shape) in self.arenas().into_iter().zip(&meta.shapes) {
            arena.begin_restoring(shape)?;
        }
        self.streams.restore(meta.streams)?;
        self.contended = meta.contended;
        self.unknown = meta.unknown;
        self.evicted = meta.evicted;
        let absent: Option<_> = meta.absent.into_iter().map(RowKey::from_parts).collect();
        self.absent = absent.ok_or(Malformed("the name of a row"))?;
        self.sweep_next = meta.sweep_next as usize;
        (self.sweep_began, self.swept_step) = (meta.sweep_began, meta.swept_step);
        Ok(())
    }

    pub(crate) fn restore_pages(
        &mut self,
        arena: usize,
        page: usize,
        words: &[u64],
    ) -> Result<(), Malformed> {
        self.arenas()[arena].restore_pages(page, words)
    }

    /// All pages are there: makes what leads to them.
    pub(crate) fn end_restoring(
        &mut self,
        swept: Vec<Pos>,
        in_transit: BTreeMap<u16, i128>,
    ) -> Result<(), Malformed> {
        for arena in self.arenas() {
            arena.end_restoring()?;
        }
        self.ledger.rebuild(swept, in_transit);
        self.inventory.rebuild();
        self.changes.rebuild();
        self.limits.rebuild();
        self.coupons.rebuild();
        self.holds.rebuild();
        let orders = self.orders.rebuild().into_iter();
        self.timers.extend(orders.map(|(due, pos)| (due, TimerKind::Order, pos.0)));
        let holds = self.holds.rows().iter_pos::<OneHold>();
        let holds = holds.filter(|(_, hold)| hold.left > 0 && hold.deadline != 0);
        self.timers.extend(holds.map(|(pos, hold)| (hold.deadline, TimerKind::Hold, pos.0)));
        Ok(())
    }

    pub(crate) fn has_room(&self) -> bool {
        self.ledger.has_room()
            && self.inventory.has_room()
            && self.orders.has_room()
            && self.changes.has_room()
            && self.limits.has_room()
            && self.coupons.has_room()
            && self.holds.has_room()
    }

    pub(crate) fn grown(&self) -> Grown {
        let tables = [
            self.ledger.grown(),
            self.inventory.grown(),
            self.orders.grown(),
            self.changes.grown(),
            self.limits.grown(),
            self.coupons.grown(),
            self.holds.grown(),
        ];
        tables.into_iter().sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.ledger.bytes()
            + self.inventory.bytes()
            + self.orders.bytes()
            + self.changes.bytes()
            + self.limits.bytes()
            + self.coupons.bytes()
            + self.holds.bytes()
            + self.streams.bytes()
    }
}

fn repeat_of(change: &Change, digest: u64) -> Reply {
    if change.digest != digest {
        return Decision::of(Outcome::IdReused).unlogged();
    }
    let first = Outcome::from_byte(change.outcome).expect("the core wrote it");
    Reply {
        outcome: if first == Outcome::Ok { Outcome::AlreadyDone } else { first },
        state: OrderState::from_byte(change.state),
        line: change.refused_line.checked_sub(1),
        amount: Amount(change.amount),
        offset: Some(Offset(change.offset)),
    }
}
