//! The shadow: what the records of all logs add up to, by the rules as they are written down.
//!
//! Every record that is durable is shown to it, in the order of its shard's log. It keeps plain
//! maps of accounts, orders and ids, says what the outcome has to be where that is certain, and
//! remembers it: every answer that a client gets must be one that is in here.

mod holds;
mod orders;

use std::collections::BTreeMap;

use model::record::entry::{Entry, EntryHeader};
use model::record::{ACCOUNT_CLOSE, Body, Record, TimerKind, TransferBody};
use model::{AccountKind, Currency, OrderState, Outcome, Realm, ShardId, Time, ids};

use holds::Hold;
use orders::Order;

/// What an id is unique in, with the id: realm, kind of scope, scope, order, id.
pub(crate) type Name = (u8, u8, u64, u128, u128);

#[derive(Default)]
pub(crate) struct Shadow {
    shards: u16,
    /// Orders are for one unit of one item, and what was sold stays sold.
    is_sale: bool,
    /// By shard: a hash of each record, in order.
    pub(crate) logs: Vec<Vec<u64>>,
    outcomes: BTreeMap<Name, (Outcome, ShardId, u64)>,
    realms: [Books; 2],
}

#[derive(Default)]
struct Books {
    /// Balances of main accounts.
    accounts: BTreeMap<(u64, u16), i128>,
    /// How far they may go below zero, and what of them is held.
    overdrafts: BTreeMap<(u64, u16), i128>,
    held: BTreeMap<(u64, u16), i128>,
    orders: BTreeMap<(u64, u128), Order>,
    holds: BTreeMap<(u64, u128), Hold>,
    /// By item: the price of each version.
    prices: BTreeMap<u64, Vec<u64>>,
    pub(crate) stocked: BTreeMap<u64, u64>,
    out: BTreeMap<u64, i128>,
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
        Body::Receive(body) => name(3, scope, body.order.get(), id),
        Body::Restock(_) | Body::UpdateItem(_) => name(4, scope, 0, id),
        Body::Transfer(body) => name(5, record.transfer_party(body).0, 0, id),
        Body::Hold(_) | Body::UpdateAccount(_) => name(5, scope, 0, id),
        Body::SettleHold(body) => name(6, scope, body.hold.get(), id),
        Body::IssueCoupon(body) => name(7, scope, body.number.get().into(), 0),
        Body::Deliver { .. }
        | Body::Stock(_)
        | Body::Timer(_)
        | Body::Sweep(_)
        | Body::Evict { .. }
        | Body::Load { .. } => None,
    }
}

impl Shadow {
    pub(crate) fn new(shards: u16, is_sale: bool) -> Shadow {
        let logs = (0..shards).map(|_| Vec::new()).collect();
        Shadow { shards, is_sale, logs, ..Shadow::default() }
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

    /// What of a main account is held.
    pub(crate) fn held(&self, realm: Realm, party: u64, currency: Currency) -> i128 {
        let held = &self.realms[realm as usize].held;
        held.get(&(party, currency.numeric())).copied().unwrap_or_default()
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
        if self.is_sale && outcome == Outcome::SoldOut {
            books.nothing_left(record).map_err(|what| format!("{}: {what}: {record:?}", at()))?;
        }
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
    /// Where nothing comes back, a unit that is unspent now was so in the round of any refusal.
    fn nothing_left(&self, record: &Record<'_>) -> Result<(), String> {
        let Body::Place { lines, .. } = record.body else { return Ok(()) };
        for line in lines {
            let item = line.item.get();
            let stocked = self.stocked.get(&item).copied().unwrap_or_default();
            let out = self.out.get(&item).copied().unwrap_or_default();
            if i128::from(stocked) > out {
                return Err(format!("{} units were unspent", i128::from(stocked) - out));
            }
        }
        Ok(())
    }

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
                let key = (scope, body.currency.get());
                self.accounts.insert(key, balance);
                self.overdrafts.insert(key, body.overdraft.get().into());
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
            Body::Place { order, legs, lines, extras, .. } => {
                self.place(record, order, (legs, lines, extras), time, outcome)
            }
            Body::Pay(body) => self.pay(scope, body, time, outcome),
            Body::Cancel(body) => {
                let wanted = self.cancel((scope, body.order.get()), time);
                expect(outcome, wanted)
            }
            Body::Refund { refund, lines } => {
                let wanted = self.refund(scope, refund, lines);
                expect(outcome, wanted)
            }
            Body::Receive(body) => {
                let wanted = self.receive((scope, body.order.get()));
                expect(outcome, wanted)
            }
            Body::Timer(body) => {
                let is_here = |party: u64| ids::shard_of(model::Party(party), shards) == shard;
                if let Some(earlier) = self.due_before(body.due.get(), is_here) {
                    return Err(format!("{earlier:?} was due before"));
                }
                let fired = match body.kind == TimerKind::Hold as u8 {
                    true => self.fire_hold((scope, body.order.get()), body.due.get(), time),
                    false => self.fire((scope, body.order.get()), body.due.get(), time),
                };
                if fired { Ok(()) } else { Err("a timer fired that isn't due".to_string()) }
            }
            Body::Hold(body) => {
                let wanted = self.hold((scope, record.header.id.get()), body, time, outcome);
                expect(outcome, wanted)
            }
            Body::SettleHold(body) => {
                let wanted = self.settle_hold(scope, body, (shard, shards), time, outcome);
                expect(outcome, wanted)
            }
            // What such accounts hold, only the shards know.
            Body::UpdateAccount(body) if body.kind != AccountKind::Main as u8 => Ok(()),
            Body::UpdateAccount(body) => {
                let key = (scope, body.currency.get());
                if !self.accounts.contains_key(&key) {
                    return expect(outcome, Outcome::UnknownAccount);
                }
                if body.flags == ACCOUNT_CLOSE {
                    return expect(outcome, Outcome::WrongState); // No client empties an account.
                }
                let overdraft = i128::from(body.overdraft.get());
                let before = self.overdrafts.insert(key, overdraft).unwrap_or_default();
                if self.can_spend(key) < 0 {
                    self.overdrafts.insert(key, before);
                    return expect(outcome, Outcome::WrongState);
                }
                expect(outcome, Outcome::Ok)
            }
            Body::IssueCoupon(_) => expect(outcome, Outcome::Ok),
            Body::Deliver { entries, .. } => {
                for (bytes, entry) in entries {
                    self.arrive(bytes, &entry)?;
                }
                Ok(())
            }
            Body::Stock(_) | Body::Sweep(_) | Body::Evict { .. } | Body::Load { .. } => Ok(()),
        }
    }

    /// What a main account can give.
    fn can_spend(&self, key: (u64, u16)) -> i128 {
        let of = |sums: &BTreeMap<(u64, u16), i128>| sums.get(&key).copied().unwrap_or_default();
        of(&self.accounts) + of(&self.overdrafts) - of(&self.held)
    }

    /// What should have fired before a timer that is due at `due`, of parties that are here.
    fn due_before(&self, due: u64, is_here: impl Fn(u64) -> bool) -> Option<(u64, u128)> {
        let orders = self.orders.iter().map(|(key, order)| (key, order.moment()));
        let holds = self.holds.iter().map(|(key, hold)| (key, hold.moment()));
        let mut all = orders.chain(holds);
        let earlier = |((party, _), moment): &(&(u64, u128), u64)| {
            *moment != 0 && *moment < due && is_here(*party)
        };
        all.find(earlier).map(|(key, _)| *key)
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
            if !self.accounts.contains_key(&debit) {
                return expect(outcome, Outcome::UnknownAccount);
            }
            let credit_missing = body.credit_kind == main
                && is_here(credit.0)
                && !self.accounts.contains_key(&credit);
            if credit_missing {
                return expect(outcome, Outcome::UnknownAccount);
            }
            let enough = self.can_spend(debit) >= amount;
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
}
