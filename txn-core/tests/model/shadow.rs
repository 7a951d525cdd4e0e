//! The plain model of a shard: maps, wide integers and the rules as they are written down.
//!
//! A command is decided without touching anything. The decision names what it would do to
//! money and units and what the order would look like; if every sum keeps within its bound, all
//! of it is done, and otherwise none of it. Only a sweep, which can't be refused, acts at once.

mod rules;
mod sweeps;
mod views;

use std::collections::{BTreeMap, BTreeSet};

use model::record::entry::UNITS_MAX;
use model::record::{LINE_AGREED, Sale, place_mut, refund_mut, set_outcome, sweep_mut};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, LineView, Offset, OrderId, OrderState,
    Outcome, Party, PaymentMethod, Realm, Reply, Time,
};

use crate::command::{Command, START, STEP_MICROS};

/// Both realms of a shard, which share its time and its log.
#[derive(Default)]
pub struct Model {
    realms: BTreeMap<Realm, Shadow>,
    records: u64,
    waited: u64,
}

/// All that the model knows of a realm.
#[derive(Default)]
pub struct Shadow {
    now: Time,
    accounts: BTreeMap<AccountName, Sums>,
    items: BTreeMap<ItemId, Item>,
    orders: BTreeMap<(Party, OrderId), Order>,
    /// Every id that was decided, with the command and its first answer.
    remembered: BTreeMap<Name, (Command, Reply)>,
    /// Orders that expire: when, and in which order they were placed.
    timers: BTreeSet<(Time, u64, Party, OrderId)>,
    /// Units of orders that count towards limits.
    bought: BTreeMap<(Party, ItemId), u128>,
    /// What sellers earned, by the step of the sale.
    earned: BTreeMap<AccountName, BTreeMap<u64, i128>>,
    /// Sellers' accounts in the order in which they came into being; the next to be swept.
    sellers: Vec<AccountName>,
    next_seller: usize,
    parties: BTreeSet<Party>,
    currencies: BTreeSet<Currency>,
    named_items: BTreeSet<ItemId>,
    named_orders: BTreeSet<(Party, OrderId)>,
}

/// What the shard must do with a command.
pub struct Answer {
    /// What it must reply.
    pub reply: Reply,
    /// The record that it must append, byte for byte.
    pub record: Option<Vec<u8>>,
}

type AccountName = (Party, Currency, AccountKind);

/// What an id is unique in, with the id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Name {
    Account(Party, Currency),
    Item(ItemId),
    Order(Party, OrderId),
    /// Pay, cancel and refund share the ids of their order.
    OfOrder(Party, OrderId, ChangeId),
    /// A transfer's is the debited party's; the credited one's for money that enters.
    OfParty(Party, ChangeId),
    /// Restocks and updates share the ids of their item.
    OfItem(ItemId, ChangeId),
}

#[derive(Clone, Copy, Default)]
struct Sums {
    debits: u128,
    credits: u128,
}

#[derive(Clone)]
struct Item {
    seller: Party,
    currency: Currency,
    price: Amount,
    sale: Sale,
    /// Of its catalogue entry.
    version: u16,
    stocked: u128,
    reserved: u128,
    sold: u128,
}

#[derive(Clone)]
struct Order {
    currency: Currency,
    method: PaymentMethod,
    state: OrderState,
    outcome: Outcome,
    lines: Vec<LineView>,
    deadline: Time,
    /// An item of it had a limit when it was placed.
    is_limited: bool,
    /// The step in which it was paid.
    paid_in: u64,
    /// Its first record, and its newest.
    placed: u64,
    newest: u64,
    /// Units that came back into stock, by line.
    restocked: BTreeMap<usize, u128>,
}

/// What is to become of a command.
struct Verdict {
    outcome: Outcome,
    state: Option<OrderState>,
    line: Option<usize>,
    amount: u128,
    effects: Vec<Effect>,
    /// The order as it will be.
    order: Option<Order>,
    /// Sellers whose money a sweep moved.
    swept: u64,
}

enum Effect {
    Open(AccountName),
    Post {
        debit: AccountName,
        credit: AccountName,
        amount: u128,
    },
    /// A seller has earned it in a step; negative: what it earned then it gives back.
    Earn {
        account: AccountName,
        step: u64,
        amount: i128,
    },
    /// What the item is from now on.
    List {
        item: ItemId,
        listed: Item,
    },
    /// From outside into stock.
    Stock {
        item: ItemId,
        units: u128,
    },
    /// Units that become reserved (or, if negative, no longer are), and sold likewise. What is
    /// neither is available.
    Units {
        item: ItemId,
        reserved: i128,
        sold: i128,
    },
}

impl Verdict {
    fn of(outcome: Outcome) -> Verdict {
        let (effects, order) = (Vec::new(), None);
        Verdict { outcome, state: None, line: None, amount: 0, effects, order, swept: 0 }
    }

    fn done(amount: u128, effects: Vec<Effect>) -> Verdict {
        Verdict { amount, effects, ..Verdict::of(Outcome::Ok) }
    }
}

fn main_of(party: Party, currency: Currency) -> AccountName {
    (party, currency, AccountKind::Main)
}

/// The one clearing account of a currency.
fn clearing(currency: Currency) -> AccountName {
    (Party(0), currency, AccountKind::Clearing)
}

impl Item {
    fn available(&self) -> u128 {
        self.stocked - self.reserved - self.sold
    }

    fn is_open(&self, now: Time) -> bool {
        let closes = if self.sale.closes == Time(0) { Time(u64::MAX) } else { self.sale.closes };
        (self.sale.opens..closes).contains(&now)
    }
}

impl Order {
    fn total(&self) -> u128 {
        self.lines.iter().map(|line| price_of(line, line.quantity.0)).sum()
    }

    fn refunded(&self) -> u128 {
        self.lines.iter().map(|line| price_of(line, line.refunded.0)).sum()
    }

    fn is_all_refunded(&self) -> bool {
        self.lines.iter().all(|line| line.refunded == line.quantity)
    }

    /// Whether its units count towards limits.
    fn counts(&self) -> bool {
        let gone = [OrderState::Refused, OrderState::Cancelled, OrderState::Expired];
        self.is_limited && !gone.contains(&self.state)
    }

    fn expires(&self) -> bool {
        self.state == OrderState::Reserved && self.deadline != Time(0)
    }
}

fn price_of(line: &LineView, units: u32) -> u128 {
    u128::from(line.unit_price.0) * u128::from(units)
}

fn narrow(sum: u128) -> u64 {
    u64::try_from(sum).expect("the model keeps sums within 64 bits")
}

impl Model {
    /// Decides a command, and does what it decided. `None`: it was none.
    pub fn execute(&mut self, realm: Realm, command: &Command) -> Option<Answer> {
        if let Command::Wait { micros } = command {
            self.waited += micros;
            return None;
        }
        let now = Time(START.0 + self.waited);
        let shadow = self.realms.entry(realm).or_default();
        shadow.now = now;
        let due;
        let command = match (command, shadow.due()) {
            (Command::Due, None) => return None,
            (Command::Due, Some((buyer, order, at))) => {
                due = Command::Timer { buyer, order, due: at };
                &due
            }
            (command, _) => command,
        };
        Some(shadow.execute(realm, command, &mut self.records))
    }

    /// What is known of a realm in which something was asked for.
    pub fn realms(&self) -> impl Iterator<Item = (Realm, &Shadow)> {
        self.realms.iter().map(|(&realm, shadow)| (realm, shadow))
    }
}

impl Shadow {
    fn execute(&mut self, realm: Realm, command: &Command, records: &mut u64) -> Answer {
        self.note(command);
        let name = name_of(command);
        if let Some((first, reply)) = name.and_then(|name| self.remembered.get(&name)) {
            let same = *first == command.as_sent();
            let reply = if same { self.repeat(name, *reply) } else { reused() };
            return Answer { reply, record: None };
        }
        let mut verdict = match *command {
            Command::Sweep { count } => {
                Verdict { swept: self.sweep(count), ..Verdict::done(0, Vec::new()) }
            }
            _ => self.decide(command),
        };
        if verdict.outcome == Outcome::Ok && !self.settle(&verdict.effects) {
            verdict = Verdict::of(Outcome::Invalid);
        }
        let mut reply = Reply {
            outcome: verdict.outcome,
            state: verdict.state,
            line: verdict.line.map(|line| line as u16),
            amount: Amount(narrow(verdict.amount)),
            offset: None,
        };
        if verdict.outcome == Outcome::Invalid {
            return Answer { reply, record: None };
        }
        *records += 1;
        reply.offset = Some(Offset(*records));
        if let Some(name) = name {
            self.remembered.insert(name, (command.as_sent(), reply));
        }
        let previous = self.keep_order(command, verdict.order, *records);
        let mut record = self.record(realm, command, &reply, previous);
        if let Command::Sweep { .. } = command {
            sweep_mut(&mut record).swept = verdict.swept.into();
        }
        Answer { reply, record: Some(record) }
    }

    /// What a repeat with the same content is told.
    fn repeat(&self, name: Option<Name>, first: Reply) -> Reply {
        let outcome = match first.outcome {
            Outcome::Ok => Outcome::AlreadyDone,
            refusal => refusal,
        };
        match name {
            // An account and an item have no history to point at.
            Some(Name::Account(..) | Name::Item(..)) => Reply { outcome, offset: None, ..first },
            // An order is shown as it stands now.
            Some(Name::Order(buyer, id)) => {
                let order = &self.orders[&(buyer, id)];
                let offset = Some(Offset(order.newest));
                Reply { outcome, state: Some(order.state), offset, ..first }
            }
            _ => Reply { outcome, ..first },
        }
    }

    fn step(&self) -> u64 {
        self.now.0 / STEP_MICROS
    }

    fn balance(&self, account: AccountName) -> i128 {
        let sums = self.accounts.get(&account).copied().unwrap_or_default();
        sums.credits as i128 - sums.debits as i128
    }

    fn payable(&self, item: ItemId) -> AccountName {
        let item = &self.items[&item];
        (item.seller, item.currency, AccountKind::Payable)
    }

    /// Whether every sum can take it.
    fn can_take(&self, effects: &[Effect]) -> bool {
        self.settled(effects).is_some()
    }

    /// Does all of it, or says no because a sum would pass its bound.
    fn settle(&mut self, effects: &[Effect]) -> bool {
        let Some((accounts, items)) = self.settled(effects) else { return false };
        for (name, sums) in accounts {
            if self.accounts.insert(name, sums).is_none() && name.2 == AccountKind::Payable {
                self.sellers.push(name);
            }
        }
        self.items.extend(items);
        for effect in effects {
            if let Effect::Earn { account, step, amount } = *effect {
                *self.earned.entry(account).or_default().entry(step).or_default() += amount;
            }
        }
        true
    }

    /// The accounts and items that change, as they would be.
    fn settled(
        &self,
        effects: &[Effect],
    ) -> Option<(BTreeMap<AccountName, Sums>, BTreeMap<ItemId, Item>)> {
        let mut accounts = BTreeMap::<AccountName, Sums>::new();
        let mut items = BTreeMap::<ItemId, Item>::new();
        for effect in effects {
            match *effect {
                Effect::Open(account) => {
                    let sums = self.accounts.get(&account).copied().unwrap_or_default();
                    accounts.entry(account).or_insert(sums);
                }
                Effect::Post { debit, credit, amount } => {
                    for account in [debit, credit] {
                        let sums = self.accounts.get(&account).copied().unwrap_or_default();
                        accounts.entry(account).or_insert(sums);
                    }
                    accounts.entry(debit).or_default().debits += amount;
                    accounts.entry(credit).or_default().credits += amount;
                }
                Effect::Earn { .. } => {}
                Effect::List { item, ref listed } => {
                    items.insert(item, listed.clone());
                }
                Effect::Stock { item, units } => {
                    items.entry(item).or_insert_with(|| self.items[&item].clone()).stocked += units;
                }
                Effect::Units { item, reserved, sold } => {
                    let item = items.entry(item).or_insert_with(|| self.items[&item].clone());
                    let moved = |units: u128, by| {
                        units.checked_add_signed(by).expect("units come from where they are")
                    };
                    item.reserved = moved(item.reserved, reserved);
                    item.sold = moved(item.sold, sold);
                    assert!(item.reserved + item.sold <= item.stocked);
                }
            }
        }
        let bound = u128::from(u64::MAX);
        let kept = accounts.values().all(|sums| sums.debits.max(sums.credits) <= bound)
            && items.values().all(|item| item.stocked <= u128::from(UNITS_MAX));
        kept.then_some((accounts, items))
    }

    /// Keeps the order that a logged command leaves behind; returns the record before this one.
    fn keep_order(&mut self, command: &Command, order: Option<Order>, offset: u64) -> u64 {
        let Some((buyer, id)) = order_of(command) else { return 0 };
        let before = self.orders.get(&(buyer, id)).cloned();
        if let Some(mut order) = order {
            order.placed = before.as_ref().map_or(offset, |before| before.placed);
            let timer = (order.deadline, order.placed, buyer, id);
            match order.expires() {
                true => self.timers.insert(timer),
                false => self.timers.remove(&timer),
            };
            let did_count = before.as_ref().is_some_and(Order::counts);
            if order.counts() != did_count {
                for line in &order.lines {
                    let units = self.bought.entry((buyer, line.item)).or_default();
                    let quantity = u128::from(line.quantity.0);
                    *units = if did_count { *units - quantity } else { *units + quantity };
                }
            }
            self.orders.insert((buyer, id), order);
        }
        // What names an order that isn't there belongs to no order's history.
        if let Some(order) = self.orders.get_mut(&(buyer, id)) {
            order.newest = offset;
        }
        before.map_or(0, |order| order.newest)
    }

    /// The command's bytes with what became of it.
    fn record(&self, realm: Realm, command: &Command, reply: &Reply, previous: u64) -> Vec<u8> {
        let mut bytes = command.bytes_in(realm);
        let state = reply.state.map_or(0, |state| state as u8);
        set_outcome(&mut bytes, reply.outcome, state, previous, reply.amount.0);
        let refused_line = reply.line.map_or(0, |line| line + 1);
        match *command {
            Command::Place { buyer, id, .. } => {
                let placed = place_mut(&mut bytes);
                placed.order.refused_line = refused_line.into();
                placed.leg.amount = reply.amount.0.into();
                let lines = &self.orders[&(buyer, id)].lines;
                for (line, ours) in placed.lines.iter_mut().zip(lines) {
                    assert!(line.flags != LINE_AGREED || line.unit_price == ours.unit_price.0);
                    line.unit_price = ours.unit_price.0.into();
                    line.version = self.items[&ours.item].version.into();
                }
            }
            Command::Refund { .. } => refund_mut(&mut bytes).refused_line = refused_line.into(),
            _ => {}
        }
        bytes
    }
}

fn reused() -> Reply {
    Reply { outcome: Outcome::IdReused, state: None, line: None, amount: Amount(0), offset: None }
}

/// What is remembered about a command, if anything is.
fn name_of(command: &Command) -> Option<Name> {
    Some(match *command {
        Command::CreateAccount { party, currency, .. } => Name::Account(party, currency),
        Command::CreateItem { item, .. } => Name::Item(item),
        Command::Transfer { id, debit, credit, .. } => match debit.1 {
            AccountKind::Clearing => Name::OfParty(credit.0, id),
            _ => Name::OfParty(debit.0, id),
        },
        Command::Restock { id, item, .. } | Command::UpdateItem { id, item, .. } => {
            Name::OfItem(item, id)
        }
        Command::Place { buyer, id, .. } => Name::Order(buyer, id),
        Command::Pay { id, buyer, order, .. }
        | Command::Cancel { id, buyer, order }
        | Command::Refund { id, buyer, order, .. } => Name::OfOrder(buyer, order, id),
        Command::Timer { .. } | Command::Sweep { .. } | Command::Wait { .. } | Command::Due => {
            return None;
        }
    })
}

/// The order that a command places or changes.
fn order_of(command: &Command) -> Option<(Party, OrderId)> {
    match *command {
        Command::Place { buyer, id: order, .. }
        | Command::Pay { buyer, order, .. }
        | Command::Cancel { buyer, order, .. }
        | Command::Refund { buyer, order, .. }
        | Command::Timer { buyer, order, .. } => Some((buyer, order)),
        _ => None,
    }
}
