//! The shadow: what the records of all logs add up to, by the rules as they are written down.
//!
//! Every record that is durable is shown to it, in the order of its shard's log. It keeps plain
//! maps of accounts, orders and ids, says what the outcome has to be where that is certain, and
//! remembers it: every answer that a client gets must be one that is in here.

use std::collections::BTreeMap;

use model::record::entry::{Entry, EntryHeader};
use model::record::{
    Body, LINE_AGREED, Leg, Line, PLACE_WITHDRAWN, PlaceBody, REFUND_RESTOCK, Record, RefundBody,
    RefundLine, TransferBody,
};
use model::{AccountKind, OrderState, Outcome, PaymentMethod, Realm, ShardId, Time, ids};

/// What an id is unique in, with the id: realm, kind of scope, scope, order, id.
pub(crate) type Name = (u8, u8, u64, u128, u128);

#[derive(Default)]
pub(crate) struct Shadow {
    shards: u16,
    /// By shard: a hash of each record, in order.
    pub(crate) logs: Vec<Vec<u64>>,
    outcomes: BTreeMap<Name, (Outcome, ShardId, u64)>,
    realms: [Books; 2],
}

#[derive(Default)]
struct Books {
    accounts: BTreeMap<(u64, u16), i128>,
    orders: BTreeMap<(u64, u128), Order>,
    /// By item: the price of each version.
    prices: BTreeMap<u64, Vec<u64>>,
    pub(crate) stocked: BTreeMap<u64, u64>,
    out: BTreeMap<u64, i128>,
}

struct Order {
    state: OrderState,
    outcome: Outcome,
    method: u8,
    currency: u16,
    total: i128,
    deadline: u64,
    /// Item, units, price, refunded units.
    lines: Vec<(u64, u64, u64, u64)>,
}

/// The name of what a command changes; `None` for what shards tell each other.
pub(crate) fn name_of(record: &Record<'_>) -> Option<Name> {
    let header = record.header;
    let (scope, id) = (header.scope.get(), header.id.get());
    let name = |kind, scope, order, id| Some((header.realm, kind, scope, order, id));
    match record.body {
        Body::CreateAccount(body) => name(0, scope, body.currency.get().into(), 0),
        Body::CreateItem(_) => name(1, scope, 0, 0),
        Body::Place { .. } => name(2, scope, 0, id),
        Body::Pay(body) => name(3, scope, body.order.get(), id),
        Body::Cancel(body) => name(3, scope, body.order.get(), id),
        Body::Refund { refund, .. } => name(3, scope, refund.order.get(), id),
        Body::Restock(_) | Body::UpdateItem(_) => name(4, scope, 0, id),
        Body::Transfer(body) => name(5, record.transfer_party(body).0, 0, id),
        Body::Deliver { .. } | Body::Stock(_) | Body::Timer(_) | Body::Sweep(_) => None,
    }
}

impl Shadow {
    pub(crate) fn new(shards: u16) -> Shadow {
        let logs = (0..shards).map(|_| Vec::new()).collect();
        Shadow { shards, logs, ..Shadow::default() }
    }

    /// What became of a change, as far as it is durable.
    pub(crate) fn outcome(&self, name: &Name) -> Option<Outcome> {
        self.outcomes.get(name).map(|(outcome, ..)| *outcome)
    }

    /// Units stocked, and units reserved and sold, of an item.
    pub(crate) fn units(&self, realm: Realm, item: u64) -> (u64, i128) {
        let books = &self.realms[realm as usize];
        let stocked = books.stocked.get(&item).copied().unwrap_or_default();
        (stocked, books.out.get(&item).copied().unwrap_or_default())
    }

    /// Balances of main accounts.
    pub(crate) fn accounts(&self, realm: Realm) -> impl Iterator<Item = (&(u64, u16), &i128)> + '_ {
        self.realms[realm as usize].accounts.iter()
    }

    /// States of orders.
    pub(crate) fn orders(
        &self,
        realm: Realm,
    ) -> impl Iterator<Item = (u64, u128, OrderState)> + '_ {
        let orders = self.realms[realm as usize].orders.iter();
        orders.map(|(&(buyer, id), order)| (buyer, id, order.state))
    }

    /// Takes the next record of a shard's log.
    pub(crate) fn add(
        &mut self,
        shard: ShardId,
        time: Time,
        record: &Record<'_>,
        hash: u64,
    ) -> Result<(), String> {
        let log = &mut self.logs[usize::from(shard.0)];
        log.push(hash);
        let offset = log.len() as u64;
        let at = || format!("shard {shard}, offset {offset}");
        let Some(outcome) = record.outcome() else {
            return Err(format!("{}: a record without an outcome", at()));
        };
        if let Some(name) = name_of(record) {
            if record.home(self.shards) != Some(shard) {
                return Err(format!("{}: a command of another shard: {record:?}", at()));
            }
            if let Some((_, other, first)) = self.outcomes.insert(name, (outcome, shard, offset)) {
                return Err(format!(
                    "{}: decided again: it is at shard {other}, offset {first}: {record:?}",
                    at()
                ));
            }
        }
        let shards = self.shards;
        let books = &mut self.realms[record.header.realm as usize & 1];
        let found = books.execute(record, shard, shards, time, outcome);
        found.map_err(|what| format!("{}: {what}: {record:?}", at()))
    }
}

/// What must be, where it is certain.
fn expect(found: Outcome, wanted: Outcome) -> Result<(), String> {
    match found == wanted {
        true => Ok(()),
        false => Err(format!("the outcome is {}; it has to be {}", found.word(), wanted.word())),
    }
}

impl Books {
    fn execute(
        &mut self,
        record: &Record<'_>,
        shard: ShardId,
        shards: u16,
        time: Time,
        outcome: Outcome,
    ) -> Result<(), String> {
        let scope = record.header.scope.get();
        match record.body {
            Body::CreateAccount(body) => {
                let balance = i128::from(body.balance.get());
                self.accounts.insert((scope, body.currency.get()), balance);
                expect(outcome, Outcome::Ok)
            }
            Body::CreateItem(body) => {
                self.prices.insert(scope, vec![body.price.get()]);
                self.stocked.insert(scope, body.stock.get());
                expect(outcome, Outcome::Ok)
            }
            Body::UpdateItem(body) => {
                let Some(prices) = self.prices.get_mut(&scope) else {
                    return expect(outcome, Outcome::UnknownItem);
                };
                let last = *prices.last().expect("it has a first price");
                let changes = body.flags & model::record::UPDATE_PRICE != 0;
                prices.push(if changes { body.price.get() } else { last });
                expect(outcome, Outcome::Ok)
            }
            Body::Restock(body) => {
                let Some(stocked) = self.stocked.get_mut(&scope) else {
                    return expect(outcome, Outcome::UnknownItem);
                };
                *stocked += body.quantity.get();
                expect(outcome, Outcome::Ok)
            }
            Body::Transfer(body) => self.transfer(record, body, shards, outcome),
            Body::Place { order, leg, lines } => {
                self.place(record, order, leg, lines, time, outcome)
            }
            Body::Pay(body) => {
                let wanted = self.pay(scope, body.order.get(), body.method, time);
                expect(outcome, wanted)
            }
            Body::Cancel(body) => {
                let Some(order) = self.orders.get_mut(&(scope, body.order.get())) else {
                    return expect(outcome, Outcome::UnknownOrder);
                };
                let withdrawn =
                    order.state == OrderState::Cancelled && order.outcome == Outcome::WrongState;
                if withdrawn {
                    return expect(outcome, Outcome::Ok);
                }
                if order.state != OrderState::Reserved {
                    return expect(outcome, Outcome::WrongState);
                }
                self.release((scope, body.order.get()), OrderState::Cancelled);
                expect(outcome, Outcome::Ok)
            }
            Body::Refund { refund, lines } => {
                let wanted = self.refund(scope, refund, lines);
                expect(outcome, wanted)
            }
            Body::Timer(body) => {
                self.fire(scope, body.order.get(), body.due.get(), (shard, shards), time)
            }
            Body::Deliver { entries, .. } => {
                for (bytes, entry) in entries {
                    self.arrive(bytes, &entry)?;
                }
                Ok(())
            }
            Body::Stock(_) | Body::Sweep(_) => Ok(()),
        }
    }

    fn transfer(
        &mut self,
        record: &Record<'_>,
        body: &TransferBody,
        shards: u16,
        outcome: Outcome,
    ) -> Result<(), String> {
        let main = AccountKind::Main as u8;
        let (currency, amount) = (body.currency.get(), i128::from(body.moved.get()));
        let debit = (record.header.scope.get(), currency);
        let credit = (body.credit_party.get(), currency);
        let is_here = |party| {
            ids::shard_of(model::Party(party), shards)
                == ids::shard_of(record.transfer_party(body), shards)
        };
        let clearing = AccountKind::Clearing as u8;
        let kinds = [body.debit_kind, body.credit_kind];
        if kinds.iter().any(|kind| ![main, clearing].contains(kind)) {
            // What there is in such accounts, only the shards know.
        } else if body.debit_kind == main {
            let Some(balance) = self.accounts.get(&debit) else {
                return expect(outcome, Outcome::UnknownAccount);
            };
            let credit_missing = body.credit_kind == main
                && is_here(credit.0)
                && !self.accounts.contains_key(&credit);
            if credit_missing {
                return expect(outcome, Outcome::UnknownAccount);
            }
            let enough = *balance >= amount;
            expect(outcome, if enough { Outcome::Ok } else { Outcome::InsufficientFunds })?;
        } else if body.credit_kind == main && !self.accounts.contains_key(&credit) {
            return expect(outcome, Outcome::UnknownAccount);
        }
        if outcome != Outcome::Ok {
            return Ok(());
        }
        if body.debit_kind == main {
            *self.accounts.entry(debit).or_default() -= amount;
        }
        if body.credit_kind == main && is_here(credit.0) {
            *self.accounts.entry(credit).or_default() += amount;
        }
        Ok(())
    }

    /// Money that came from another shard.
    fn arrive(&mut self, bytes: &[u8], entry: &Entry<'_>) -> Result<(), String> {
        let (Entry::Transfer(moved) | Entry::Back(moved)) = entry else { return Ok(()) };
        if moved.kind != AccountKind::Main as u8 {
            return Ok(());
        }
        let outcome = bytes[std::mem::offset_of!(EntryHeader, outcome)];
        if outcome == Outcome::AlreadyDone as u8 {
            return Ok(());
        }
        let taken = outcome == Outcome::Ok as u8;
        let account = self.accounts.get_mut(&(moved.party.get(), moved.currency.get()));
        match (account, taken) {
            (Some(balance), true) => *balance += i128::from(moved.amount.get()),
            (None, false) => {}
            (found, _) => {
                return Err(format!(
                    "money arrived, taken: {taken}, account there: {}",
                    found.is_some()
                ));
            }
        }
        Ok(())
    }

    fn place(
        &mut self,
        record: &Record<'_>,
        order: &PlaceBody,
        leg: &Leg,
        lines: &[Line],
        time: Time,
        outcome: Outcome,
    ) -> Result<(), String> {
        let buyer = record.header.scope.get();
        let key = (buyer, record.header.id.get());
        let account = (buyer, order.currency.get());
        let state = OrderState::from_byte(record.header.state).ok_or("an order without a state")?;
        let pays_here = leg.method == PaymentMethod::Balance as u8;
        let deadline = order.deadline.get();
        let mut kept = Vec::new();
        let mut total = 0;
        for line in lines {
            let prices = self.prices.get(&line.item.get());
            if outcome == Outcome::Ok {
                let version = usize::from(line.version.get()).wrapping_sub(1);
                let listed = prices.and_then(|prices| prices.get(version)).copied();
                let agreed = line.flags & LINE_AGREED != 0;
                if !agreed && listed != Some(line.unit_price.get()) {
                    return Err(format!("a price of {listed:?} in the version it saw"));
                }
                let (item, units) = (line.item.get(), u64::from(line.quantity.get()));
                kept.push((item, units, line.unit_price.get(), 0));
                total += i128::from(line.unit_price.get()) * i128::from(units);
                *self.out.entry(item).or_default() += i128::from(units);
            } else if let Some([only]) = prices.map(Vec::as_slice) {
                let price =
                    if line.flags & LINE_AGREED != 0 { line.unit_price.get() } else { *only };
                total += i128::from(price) * i128::from(line.quantity.get());
            } else {
                total = i128::MIN / 2; // Nobody knows which of the prices it was.
            }
        }
        let balance = self.accounts.get(&account).copied();
        let enough = balance.is_some_and(|balance| balance >= total);
        let wanted = match outcome {
            Outcome::Ok if pays_here && !enough => Outcome::InsufficientFunds,
            Outcome::InsufficientFunds if enough && total >= 0 => Outcome::Ok,
            Outcome::UnknownAccount if !pays_here || balance.is_some() => Outcome::Ok,
            Outcome::WrongState => {
                let withdrawn = order.flags & PLACE_WITHDRAWN != 0;
                let late = deadline != 0 && deadline <= time.0;
                if withdrawn || late { outcome } else { Outcome::Ok }
            }
            outcome => outcome,
        };
        expect(outcome, wanted)?;
        if outcome == Outcome::Ok && pays_here {
            *self.accounts.entry(account).or_default() -= total;
        }
        if outcome == Outcome::Ok && i128::from(record.header.amount.get()) != total {
            return Err(format!("lines of {total}"));
        }
        let (method, currency) = (leg.method, order.currency.get());
        let order = Order { state, outcome, method, currency, total, deadline, lines: kept };
        self.orders.insert(key, order);
        Ok(())
    }

    fn pay(&mut self, buyer: u64, id: u128, method: u8, time: Time) -> Outcome {
        let Some(order) = self.orders.get_mut(&(buyer, id)) else { return Outcome::UnknownOrder };
        let late = order.deadline != 0 && order.deadline <= time.0;
        if order.state != OrderState::Reserved || late {
            return Outcome::WrongState;
        }
        if method == PaymentMethod::Balance as u8 {
            let Some(balance) = self.accounts.get_mut(&(buyer, order.currency)) else {
                return Outcome::UnknownAccount;
            };
            if *balance < order.total {
                return Outcome::InsufficientFunds;
            }
            *balance -= order.total;
        }
        (order.state, order.method) = (OrderState::Paid, method);
        Outcome::Ok
    }

    fn refund(&mut self, buyer: u64, refund: &RefundBody, asked: &[RefundLine]) -> Outcome {
        let Some(order) = self.orders.get_mut(&(buyer, refund.order.get())) else {
            return Outcome::UnknownOrder;
        };
        if ![OrderState::Paid, OrderState::PartlyRefunded].contains(&order.state) {
            return Outcome::WrongState;
        }
        let mut lines = order.lines.clone();
        if asked.is_empty() {
            lines.iter_mut().for_each(|line| line.3 = line.1);
        }
        for line in asked {
            let Some(found) = lines.get_mut(usize::from(line.line.get())) else {
                return Outcome::WrongState;
            };
            found.3 += u64::from(line.quantity.get());
            if found.3 > found.1 {
                return Outcome::WrongState;
            }
        }
        let mut amount = 0;
        for (now, before) in lines.iter().zip(&order.lines) {
            let units = i128::from(now.3 - before.3);
            amount += units * i128::from(now.2);
            if refund.flags & REFUND_RESTOCK != 0 {
                *self.out.entry(now.0).or_default() -= units;
            }
        }
        let all = lines.iter().all(|line| line.3 == line.1);
        order.state = if all { OrderState::Refunded } else { OrderState::PartlyRefunded };
        order.lines = lines;
        if order.method == PaymentMethod::Balance as u8 {
            *self.accounts.entry((buyer, order.currency)).or_default() += amount;
        }
        Outcome::Ok
    }

    fn fire(
        &mut self,
        buyer: u64,
        id: u128,
        due: u64,
        (shard, shards): (ShardId, u16),
        time: Time,
    ) -> Result<(), String> {
        let is_here = |buyer: u64| ids::shard_of(model::Party(buyer), shards) == shard;
        let earlier = self.orders.iter().find(|((buyer, _), order)| {
            let waits = order.state == OrderState::Reserved && order.deadline != 0;
            waits && is_here(*buyer) && order.deadline < due
        });
        if let Some((key, order)) = earlier {
            return Err(format!("{key:?} was due before, at {}", order.deadline));
        }
        match self.orders.get(&(buyer, id)) {
            Some(order)
                if order.state == OrderState::Reserved
                    && order.deadline == due
                    && due <= time.0 => {}
            _ => return Err("a timer fired that isn't due".to_string()),
        }
        self.release((buyer, id), OrderState::Expired);
        Ok(())
    }

    fn release(&mut self, key: (u64, u128), state: OrderState) {
        let Some(order) = self.orders.get_mut(&key) else { return };
        order.state = state;
        for line in &order.lines {
            *self.out.entry(line.0).or_default() -= i128::from(line.1);
        }
    }
}
