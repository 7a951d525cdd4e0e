//! What leaves memory, and how it comes back.
//!
//! Orders that are over, and the ids of changes, are let go of in the order in which they came
//! ([`Kind::Evict`](model::record::Kind::Evict)). The log has them: an order that is still what
//! was placed in its own record, any other as an *image* in the record that evicts it; a change
//! in its own record. So one read of the log brings back any of them, whatever happened to it.
//!
//! From then on the core can't say of every unknown id that it is new. It can of one whose time
//! (UUID version 7) is later than that of all that has left: that is a fresh id, and costs
//! nothing. For any other it answers [`Unready::Needs`]; whoever runs the shard looks in the log
//! and says what was found by a [`Kind::Load`](model::record::Kind::Load) record before the
//! command. So executing a log again never looks outside.
//!
//! What was found may be out of date by then: the order may have come back, changed and left
//! again. The row would have come in behind where its table ended when it was looked for, and be
//! gone again only if the table's tail has come past there; then it has to be looked for again.

use std::mem::offset_of;
use std::time::Duration;

use model::planted::{Bug, is_planted};
use model::record::{
    Body, CommandBuffer, EVICT_MAX, EvictBody, LoadBody, ORDER_BYTES_MAX, Record, RowKey, RowKind,
    clear_outcome, time_of_id,
};
use model::reply::View;
use model::{Offset, OrderId, OrderState, OrderView, Outcome, Party, Time};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use crate::changes::Change;
use crate::orders::{
    CHANGED, OrderHead, OrderLine, checked_block, halves, head_of, plain_block, view_of,
};
use crate::realm::{Decision, RealmState};
use crate::signals::Shortage;

/// Why a command isn't decided. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unready {
    /// It is an order, and lacks units.
    Lacks(Shortage),
    /// It is about what isn't in memory: [`Shard::needs`](crate::Shard::needs) says what that is.
    Needs,
}

impl From<Shortage> for Unready {
    fn from(shortage: Shortage) -> Unready {
        Unready::Lacks(shortage)
    }
}

/// Rows of which nothing was found that are kept in mind.
const ABSENT_MAX: usize = 2;

/// A row that has to be looked for in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Need {
    /// Its name.
    pub row: RowKey,
    /// How far its table has come.
    pub as_of: u64,
}

/// What has left memory, of one table.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Evicted {
    /// How many rows.
    pub(crate) rows: u64,
    /// All of their ids that carry a time carry one before this, in ms since 1970.
    pub(crate) before: u64,
}

impl Evicted {
    /// Whether an id that isn't in memory can't have been here before.
    fn is_fresh(&self, id: u128) -> bool {
        let is_late = |time: u64| time >= self.before || is_planted(Bug::FreshForEver);
        self.rows == 0 || time_of_id(id).is_some_and(is_late)
    }

    fn add(&mut self, id: u128) {
        self.rows += 1;
        self.before = self.before.max(time_of_id(id).map_or(0, |time| time + 1));
    }
}

/// A table of which rows leave memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowTable {
    /// Orders.
    Orders = 0,
    /// Ids of changes.
    Changes = 1,
}

impl RowTable {
    /// Both.
    pub const ALL: [RowTable; 2] = [RowTable::Orders, RowTable::Changes];

    fn of(kind: RowKind) -> RowTable {
        if kind == RowKind::Order { RowTable::Orders } else { RowTable::Changes }
    }
}

/// Whether an order stays: it waits for payment, or its id is too young.
fn stays(head: &OrderHead, cutoff: u64) -> bool {
    head.state == OrderState::Reserved as u8 || is_young(head.id().0, cutoff)
}

fn is_young(id: u128, cutoff: u64) -> bool {
    time_of_id(id).is_some_and(|time| time > cutoff)
}

/// The orders whose images an eviction holds, each as its block.
fn images(words: &[u64]) -> impl Iterator<Item = &[u64]> {
    let mut rest = words;
    std::iter::from_fn(move || {
        let image = checked_block(rest)?;
        rest = &rest[image.len()..];
        Some(image)
    })
}

/// Images as they are compared. Offsets count all records of the log: trade that is executed
/// without the rehearsal's has others.
fn without_offsets(mut words: Vec<u64>) -> Vec<u64> {
    let mut at = 0;
    while let Some(image) = checked_block(&words[at..]) {
        let length = image.len();
        words[at + offset_of!(OrderHead, last) / 8] = 0;
        at += length;
    }
    words
}

fn native(words: &[U64]) -> Vec<u64> {
    words.iter().map(|word| word.get()).collect()
}

fn key_of(load: &LoadBody, scope: u64) -> RowKey {
    let kind = RowKind::from_byte(load.kind).expect("the record was checked");
    RowKey { kind, scope, order: load.order.get(), id: load.id.get() }
}

impl RealmState {
    /// How far a table has come when its oldest row came in, and how far by now.
    pub(crate) fn span(&self, table: RowTable) -> (u64, u64) {
        match table {
            RowTable::Orders => self.orders.span(),
            RowTable::Changes => self.changes.span(),
        }
    }

    fn has(&self, row: &RowKey) -> bool {
        match row.kind {
            RowKind::Order => self.orders.find(Party(row.scope), OrderId(row.order)).is_some(),
            _ => self.changes.known(*row).is_some(),
        }
    }

    fn is_missing(&self, row: &RowKey) -> bool {
        let evicted = &self.evicted[RowTable::of(row.kind) as usize];
        !evicted.is_fresh(row.chosen()) && !self.has(row) && !self.absent.contains(row)
    }

    /// A row that isn't in memory, and may be in the log.
    pub(crate) fn need(&self, row: RowKey) -> Option<Need> {
        let as_of = self.span(RowTable::of(row.kind)).1;
        self.is_missing(&row).then_some(Need { row, as_of })
    }

    /// What a command is about, and isn't in memory: an order, and the id of a change.
    pub(crate) fn needs(&self, command: &Record<'_>) -> [Option<Need>; 2] {
        let named = command.order().filter(|_| !matches!(command.body, Body::Timer(_)));
        let order = named.map(|order| RowKey::of_order(command.party(), order));
        let row = command.row().filter(|row| row.kind != RowKind::Order);
        [order, row].map(|row| row.and_then(|row| self.need(row)))
    }

    pub(crate) fn has_evicted(&self) -> bool {
        self.evicted.iter().any(|evicted| evicted.rows > 0)
    }

    /// Writes the command that evicts up to `most` of the oldest rows of a table. `false` if
    /// there are none.
    pub(crate) fn write_evict(
        &self,
        table: RowTable,
        most: u32,
        cutoff: u64,
        command: &mut CommandBuffer,
    ) -> bool {
        let most = most.min(EVICT_MAX);
        let (rows, images) = match table {
            RowTable::Orders => self.images(most, cutoff),
            RowTable::Changes => (self.changes.iter().take(most as usize).count() as u32, vec![]),
        };
        if rows > 0 {
            command.evict(table == RowTable::Changes, rows, cutoff, &images);
        }
        rows > 0
    }

    /// The oldest orders, as many as their images have room for, and those images.
    fn images(&self, most: u32, cutoff: u64) -> (u32, Vec<u64>) {
        let (mut rows, mut images) = (0, Vec::new());
        for (_, head, rest) in self.orders.iter().take(most as usize) {
            if head.flags & CHANGED != 0 && !stays(head, cutoff) {
                let image = OrderHead { flags: head.flags & !CHANGED, ..*head };
                let words = size_of::<OrderHead>() / 8 + rest.len();
                if (images.len() + words) * 8 > ORDER_BYTES_MAX {
                    break;
                }
                let head = <[u64]>::ref_from_bytes(image.as_bytes());
                images.extend_from_slice(head.expect("it is made of words"));
                images.extend_from_slice(rest);
            }
            rows += 1;
        }
        (rows, images)
    }

    /// The oldest rows of a table leave memory; those that stay come to its end.
    pub(crate) fn evict(&mut self, evict: &EvictBody, images: &[U64]) -> Decision {
        let (rows, cutoff) = (evict.rows.get(), evict.cutoff.get());
        if evict.table == RowTable::Orders as u8 {
            let (found, own) = self.images(rows, cutoff);
            if found != rows || without_offsets(own) != without_offsets(native(images)) {
                return Decision::of(Outcome::Invalid);
            }
            (0..rows).for_each(|_| self.evict_order(cutoff));
        } else {
            if !images.is_empty() || self.changes.iter().take(rows as usize).count() < rows as usize
            {
                return Decision::of(Outcome::Invalid);
            }
            (0..rows).for_each(|_| self.evict_change(cutoff));
        }
        Decision::ok(0)
    }

    fn evict_order(&mut self, cutoff: u64) {
        let Some((pos, block)) = self.orders.oldest() else { return };
        let head = *head_of(block);
        if !stays(&head, cutoff) {
            self.evicted[RowTable::Orders as usize].add(head.id().0);
            return self.orders.remove_oldest();
        }
        let block = block.to_vec();
        self.orders.remove_oldest();
        let now = self.orders.insert_block(&block);
        let timer = |pos: crate::arena::Pos| (head.moment, model::record::TimerKind::Order, pos.0);
        if self.timers.remove(&timer(pos)) {
            self.timers.insert(timer(now));
        }
    }

    fn evict_change(&mut self, cutoff: u64) {
        let Some((_, change)) = self.changes.oldest() else { return };
        let change = *change;
        self.changes.remove_oldest();
        let row = change.row().expect("the core wrote it");
        if is_young(row.id, cutoff) {
            self.changes.insert(change);
        } else {
            self.evicted[RowTable::Changes as usize].add(row.id);
        }
    }

    /// Takes up what was found of a row, unless that may be out of date.
    pub(crate) fn load(&mut self, load: &LoadBody, scope: u64, found: &[U64]) -> Decision {
        let row = key_of(load, scope);
        if !self.is_missing(&row) {
            return Decision::of(Outcome::AlreadyDone);
        }
        let (tail, _) = self.span(RowTable::of(row.kind));
        if tail > load.as_of.get() && !is_planted(Bug::StaleLoad) {
            return Decision::of(Outcome::Busy);
        }
        let words = native(found);
        if words.is_empty() {
            // A command is about two rows at most.
            self.absent.truncate(ABSENT_MAX - 1);
            self.absent.push_front(row);
        } else if !row_is(&row, &words) {
            return Decision::of(Outcome::Invalid);
        } else if row.kind == RowKind::Order {
            self.orders.insert_block(&words);
        } else {
            let change = Change::read_from_bytes(words.as_bytes()).expect("it was looked at");
            self.changes.insert(change);
        }
        Decision::ok(0)
    }
}

/// Whether words are of that row, and all of it.
fn row_is(row: &RowKey, words: &[u64]) -> bool {
    if row.kind == RowKind::Order {
        let block = checked_block(words).filter(|block| block.len() == words.len());
        let head = block.map(head_of);
        return head.is_some_and(|head| {
            (head.buyer, head.id) == (row.scope, halves(row.order))
                && head.state != OrderState::Reserved as u8
        });
    }
    let change = Change::read_from_bytes(words.as_bytes()).ok();
    change.is_some_and(|change| change.is_sound() && change.row() == Some(*row))
}

/// Shows the names of all rows that can be brought back by a record.
pub fn for_each_row(record: &Record<'_>, mut visit: impl FnMut(RowKey)) {
    if let Some(row) = record.row() {
        visit(row);
    } else if let Body::Evict { images: words, .. } = record.body {
        for image in images(&native(words)) {
            let head = head_of(image);
            visit(RowKey::of_order(head.buyer(), head.id()));
        }
    }
}

/// What a record, decided at `time` and logged at `offset`, says of a row: the words that a shard
/// keeps of it. `None` if it doesn't.
pub fn row_in(
    record: &Record<'_>,
    (offset, time): (Offset, Time),
    settle_step: Duration,
    row: &RowKey,
) -> Option<Vec<u64>> {
    let digest = || {
        let mut command = record.bytes.to_vec();
        clear_outcome(&mut command);
        xxh3_64(&command)
    };
    let outcome = record.outcome()?;
    let state = OrderState::from_byte(record.header.state);
    match record.body {
        Body::Evict { images: words, .. } => {
            let is_it = |image: &&[u64]| row_is(row, image);
            images(&native(words)).find(is_it).map(<[u64]>::to_vec)
        }
        _ if record.row() != Some(*row) => None,
        Body::Place { order, legs, lines, .. } => {
            let done = outcome == Outcome::Ok;
            let head = OrderHead {
                buyer: row.scope,
                id: halves(row.order),
                digest: digest(),
                total: record.header.amount.get(),
                refunded: order.refused_line.get().into(),
                last: offset.0,
                line_count: if done { lines.len() as u16 } else { 0 },
                currency: order.currency.get(),
                state: record.header.state,
                outcome: record.header.outcome,
                method: legs[0].method,
                flags: crate::orders::flags_of(order),
                moment: time.0 / settle_step.as_micros() as u64,
            };
            let lines = lines.iter().map(|line| OrderLine {
                item: line.item.get(),
                unit_price: line.unit_price.get(),
                quantity: line.quantity.get(),
                refunded: 0,
            });
            Some(plain_block(head, lines))
        }
        body => {
            let line = match body {
                Body::Refund { refund, .. } => refund.refused_line.get().checked_sub(1),
                _ => None,
            };
            let amount = record.header.amount.get();
            let decision = Decision { state, line, amount, ..Decision::of(outcome) };
            let change = Change::new(*row, digest(), offset, &decision);
            let words = <[u64]>::ref_from_bytes(change.as_bytes()).expect("it is made of words");
            Some(words.to_vec())
        }
    }
}

/// The orders whose images an eviction holds.
pub fn images_in(words: &[U64]) -> Vec<OrderView> {
    images(&native(words)).map(view_of).collect()
}

/// What the words of an order show.
pub fn view_of_row(words: &[u64]) -> View {
    let block = checked_block(words);
    block.map_or(View::Missing, |block| View::Order(view_of(block)))
}

/// Units refunded of each line, of the order that was loaded by a record.
pub fn refunded_in(row: &[U64]) -> Vec<u64> {
    let words = native(row);
    let block = checked_block(&words);
    let lines = block.map_or(&[][..], crate::orders::lines_of);
    lines.iter().map(|line| line.refunded.into()).collect()
}
