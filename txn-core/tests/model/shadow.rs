//! The plain model of a shard: maps, wide integers and the rules as they are written down.
//!
//! A command is decided without touching anything. The decision names what it would do to
//! money and units and what the order would look like; if every sum keeps within its bound, all
//! of it is done, and otherwise none of it. Only a sweep, which can't be refused, acts at once.

mod accounts;
mod orders;
mod payment;
mod rules;
mod sweeps;
mod views;

use std::collections::{BTreeMap, BTreeSet};

use model::record::entry::UNITS_MAX;
use model::record::{
    Coupon, Sale, SweepBody, TimerKind, place_mut, refund_mut, set_outcome, set_returned,
    set_statements, sweep_mut,
};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, LegState, LegView, LineKind, LineView, Offset,
    OrderId, OrderState, Outcome, Party, PaymentMethod, Realm, Reply, Time,
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
    coupons: BTreeMap<(Party, u64), OneCoupon>,
    holds: BTreeMap<(Party, ChangeId), Hold>,
    /// Orders that expire and holds that end: when, and in which order they came about.
    timers: BTreeSet<Timer>,
    /// Units of orders that count towards limits.
    bought: BTreeMap<(Party, ItemId), u128>,
    /// What sellers earned, by the step of the sale.
    earned: BTreeMap<AccountName, BTreeMap<u64, i128>>,
    /// What is swept, in the order in which it first earned or paid; the next to be looked at.
    swept: Vec<AccountName>,
    next_swept: usize,
    /// The records of each account's statement, and those that changed its sums.
    statements: BTreeMap<AccountName, Vec<u64>>,
    moved: BTreeMap<AccountName, Vec<u64>>,
    parties: BTreeSet<Party>,
    currencies: BTreeSet<Currency>,
    named_items: BTreeSet<ItemId>,
    named_orders: BTreeSet<(Party, OrderId)>,
    named_holds: BTreeSet<(Party, ChangeId)>,
    named_coupons: BTreeSet<(Party, u64)>,
}

type Timer = (Time, TimerKind, u64, Party, u128);

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
    Coupon(Party, u64),
    /// Pay, receive, cancel and refund share the ids of their order.
    OfOrder(Party, OrderId, ChangeId),
    /// All that changes accounts: a transfer's is the debited party's; the credited one's for
    /// money that enters.
    OfParty(Party, ChangeId),
    /// Captures and releases share the ids of their hold.
    OfHold(Party, ChangeId, ChangeId),
    /// Restocks and updates share the ids of their item.
    OfItem(ItemId, ChangeId),
}

#[derive(Clone, Copy, Default)]
struct Sums {
    debits: u128,
    credits: u128,
    held: u128,
    overdraft: u128,
    is_opened: bool,
    is_closed: bool,
}

#[derive(Clone, Copy)]
struct OneCoupon {
    says: Coupon,
    is_used: bool,
}

#[derive(Clone, Copy)]
struct Hold {
    account: AccountName,
    amount: u128,
    left: u128,
    deadline: Time,
    /// The record that made it.
    made: u64,
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
    /// None if it was paid at once and in one way.
    legs: Vec<LegView>,
    forfeits: bool,
    is_received: bool,
    /// What was forfeit could not be taken by the sellers, and stays in the deposit.
    is_stuck: bool,
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
    /// The account of a party whose money moves, and one that it is credited to: their
    /// statements get the record.
    statement: Option<AccountName>,
    credited: Option<AccountName>,
    /// What a sweep's record says.
    swept: SweepBody,
}

enum Effect {
    Open {
        account: AccountName,
        overdraft: u128,
    },
    Close(AccountName),
    Overdraw {
        account: AccountName,
        overdraft: u128,
    },
    Debit(AccountName, u128),
    Credit(AccountName, u128),
    /// So much more, or, if negative, less of it is held.
    Held(AccountName, i128),
    KeepHold((Party, ChangeId), Hold),
    KeepCoupon((Party, u64), OneCoupon),
    /// A seller has earned it in a step; negative: what it earned then it gives back, or is
    /// pending no longer.
    Earn {
        account: AccountName,
        step: u64,
        amount: i128,
    },
    /// It has paid for a coupon.
    Fund(AccountName),
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
        Verdict {
            outcome,
            state: None,
            line: None,
            amount: 0,
            effects: Vec::new(),
            order: None,
            statement: None,
            credited: None,
            swept: SweepBody::default(),
        }
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

impl Sums {
    /// What came into being and was never used is no different from what isn't there.
    fn exists(&self) -> bool {
        self.is_opened || self.debits + self.credits > 0
    }

    /// What can be taken from it.
    fn available(&self) -> i128 {
        (self.credits + self.overdraft) as i128 - (self.debits + self.held) as i128
    }
}

impl Order {
    fn total(&self) -> u128 {
        self.lines.iter().map(net_of).sum()
    }

    fn refunded(&self) -> u128 {
        self.lines.iter().map(|line| part_of(net_of(line), line.refunded.0, line.quantity.0)).sum()
    }

    fn is_all_refunded(&self) -> bool {
        self.lines.iter().all(|line| line.refunded == line.quantity)
    }

    /// Whether its units count towards limits.
    fn counts(&self) -> bool {
        let gone = [OrderState::Refused, OrderState::Cancelled, OrderState::Expired];
        self.is_limited && !gone.contains(&self.state)
    }

    /// When it expires: by the first deadline of a leg that nobody has paid or promised.
    fn deadline(&self) -> Option<Time> {
        let waits = |leg: &&LegView| {
            [LegState::Awaited, LegState::Voided].contains(&leg.state) && leg.deadline != Time(0)
        };
        let deadlines = self.legs.iter().filter(waits).map(|leg| leg.deadline);
        deadlines.min().filter(|_| self.state == OrderState::Reserved)
    }

    fn timer(&self, buyer: Party, id: OrderId) -> Option<Timer> {
        let deadline = self.deadline()?;
        Some((deadline, TimerKind::Order, self.placed, buyer, id.0))
    }

    /// Units of items that it names, by line.
    fn goods(&self) -> impl Iterator<Item = (usize, &LineView)> {
        let lines = self.lines.iter().enumerate();
        lines.filter(|(_, line)| line.kind == LineKind::Goods)
    }
}

impl Hold {
    fn timer(&self, party: Party, id: ChangeId) -> Option<Timer> {
        let lasts = self.left > 0 && self.deadline != Time(0);
        lasts.then_some((self.deadline, TimerKind::Hold, self.made, party, id.0))
    }
}

/// What a line comes to.
fn net_of(line: &LineView) -> u128 {
    let gross = u128::from(line.unit_price.0) * u128::from(line.quantity.0);
    gross - u128::from(line.discount.0)
}

/// So many units' part of an amount, rounded down.
fn part_of(amount: u128, units: u32, whole: u32) -> u128 {
    amount * u128::from(units) / u128::from(whole)
}

/// Splits an amount by weights: what each has when the sums up to it are rounded down.
fn split(amount: u128, weights: impl Iterator<Item = u128> + Clone) -> Vec<u128> {
    let whole: u128 = weights.clone().sum();
    let (mut weight, mut before) = (0, 0);
    let part = |one: u128| {
        weight += one;
        let upto = (amount * weight).checked_div(whole).unwrap_or(0);
        let part = upto - before;
        before = upto;
        part
    };
    weights.map(part).collect()
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
            (Command::Due, Some((at, kind, _, party, id))) => {
                due = Command::Timer { kind, party, id, due: at };
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
        let opened_again = self.is_closed_again(command);
        if let Some((first, reply)) = name.and_then(|name| self.remembered.get(&name))
            && !(opened_again && *first == *command)
        {
            let same = *first == command.as_sent();
            let reply = if same { self.repeat(name, *reply) } else { reused() };
            return Answer { reply, record: None };
        }
        let mut verdict = match *command {
            Command::Sweep { count } => self.sweep(count, *records + 1),
            _ => self.decide(command),
        };
        if verdict.outcome.is_logged() && !self.settle(&verdict.effects, *records + 1) {
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
            // That an account was closed doesn't undo how it was opened.
            self.remembered.entry(name).or_insert_with(|| (command.as_sent(), reply));
        }
        let to_own = |effect: &Effect| match *effect {
            Effect::Credit(account, amount) if account.2.is_own() => amount,
            _ => 0,
        };
        let returned = verdict.effects.iter().map(to_own).sum();
        let previous = self.keep_order(command, verdict.order, *records);
        let mut record = self.record(realm, command, &reply, previous);
        // The debited account first: where it is the credited one too, this record is its newest.
        let debit_link = self.link(verdict.statement, *records);
        let credit_link = self.link(verdict.credited, *records);
        set_statements(&mut record, debit_link, credit_link);
        // Of what isn't a refund or an order's end, the record doesn't say it.
        set_returned(&mut record, narrow(returned));
        if let Command::Sweep { count } = *command {
            *sweep_mut(&mut record) = SweepBody { count: count.into(), ..verdict.swept };
        }
        Answer { reply, record: Some(record) }
    }

    /// Puts a record on an account's statement, and returns the one before it.
    fn link(&mut self, account: Option<AccountName>, record: u64) -> u64 {
        let Some(account) = account.filter(|account| account.2.is_own()) else { return 0 };
        let statement = self.statements.entry(account).or_default();
        let before = statement.last().copied().unwrap_or(0);
        if before != record {
            statement.push(record);
        }
        before
    }

    /// What a repeat with the same content is told.
    fn repeat(&self, name: Option<Name>, first: Reply) -> Reply {
        let outcome = match first.outcome {
            Outcome::Ok => Outcome::AlreadyDone,
            refusal => refusal,
        };
        match name {
            // An account, an item and a coupon have no history to point at.
            Some(Name::Account(..) | Name::Item(..) | Name::Coupon(..)) => {
                Reply { outcome, offset: None, ..first }
            }
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

    fn sums(&self, account: AccountName) -> Sums {
        self.accounts.get(&account).copied().unwrap_or_default()
    }

    fn balance(&self, account: AccountName) -> i128 {
        let sums = self.sums(account);
        sums.credits as i128 - sums.debits as i128
    }

    /// Whether an account is there and takes and gives.
    fn is_open(&self, account: AccountName) -> bool {
        self.sums(account).exists() && !self.sums(account).is_closed
    }

    /// Whether every sum can take it.
    fn can_take(&self, effects: &[Effect]) -> bool {
        self.settled(effects).is_some()
    }

    /// Does all of it, or says no because a sum would pass its bound.
    fn settle(&mut self, effects: &[Effect], record: u64) -> bool {
        let Some((accounts, items)) = self.settled(effects) else { return false };
        for (name, sums) in accounts {
            let before = self.accounts.insert(name, sums).unwrap_or_default();
            if (before.debits, before.credits) != (sums.debits, sums.credits) {
                self.moved.entry(name).or_default().push(record);
            }
        }
        self.items.extend(items);
        for effect in effects {
            match *effect {
                Effect::Earn { account, step, amount } => {
                    *self.earned.entry(account).or_default().entry(step).or_default() += amount;
                    self.list_swept(account);
                }
                Effect::Fund(account) => self.list_swept(account),
                Effect::KeepCoupon(name, coupon) => {
                    self.coupons.insert(name, coupon);
                }
                Effect::KeepHold((party, id), hold) => {
                    let made = self.holds.get(&(party, id)).map_or(record, |hold| hold.made);
                    let hold = Hold { made, ..hold };
                    if let Some(before) = self.holds.insert((party, id), hold) {
                        before.timer(party, id).map(|timer| self.timers.remove(&timer));
                    }
                    self.timers.extend(hold.timer(party, id));
                }
                _ => {}
            }
        }
        true
    }

    fn list_swept(&mut self, account: AccountName) {
        if !self.swept.contains(&account) {
            self.swept.push(account);
        }
    }

    /// The accounts and items that change, as they would be.
    fn settled(
        &self,
        effects: &[Effect],
    ) -> Option<(BTreeMap<AccountName, Sums>, BTreeMap<ItemId, Item>)> {
        let mut accounts = BTreeMap::<AccountName, Sums>::new();
        let mut items = BTreeMap::<ItemId, Item>::new();
        for effect in effects {
            macro_rules! of {
                ($name:expr) => {
                    accounts.entry($name).or_insert_with(|| self.sums($name))
                };
            }
            match *effect {
                Effect::Open { account, overdraft } => {
                    let sums = of!(account);
                    (sums.is_opened, sums.overdraft) = (true, overdraft);
                }
                Effect::Close(account) => of!(account).is_closed = true,
                Effect::Overdraw { account, overdraft } => of!(account).overdraft = overdraft,
                Effect::Debit(account, amount) => of!(account).debits += amount,
                Effect::Credit(account, amount) => of!(account).credits += amount,
                Effect::Held(account, by) => {
                    let sums = of!(account);
                    sums.held = sums.held.checked_add_signed(by).expect("held before released");
                }
                Effect::Earn { .. }
                | Effect::Fund(_)
                | Effect::KeepHold(..)
                | Effect::KeepCoupon(..) => {}
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
        let most = |sums: &Sums| sums.debits.max(sums.credits).max(sums.held);
        let kept = accounts.values().all(|sums| most(sums) <= bound)
            && items.values().all(|item| item.stocked <= u128::from(UNITS_MAX));
        kept.then_some((accounts, items))
    }

    /// Keeps the order that a logged command leaves behind; returns the record before this one.
    fn keep_order(&mut self, command: &Command, order: Option<Order>, offset: u64) -> u64 {
        let Some((buyer, id)) = order_of(command) else { return 0 };
        let before = self.orders.get(&(buyer, id)).cloned();
        if let Some(mut order) = order {
            order.placed = before.as_ref().map_or(offset, |before| before.placed);
            if let Some(timer) = before.as_ref().and_then(|before| before.timer(buyer, id)) {
                self.timers.remove(&timer);
            }
            self.timers.extend(order.timer(buyer, id));
            let did_count = before.as_ref().is_some_and(Order::counts);
            if order.counts() != did_count {
                for (_, line) in order.goods() {
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
                let order = &self.orders[&(buyer, id)];
                if reply.outcome != Outcome::Ok {
                    return bytes;
                }
                for (number, leg) in placed.legs.iter_mut().enumerate() {
                    let amount = order.legs.get(number).map_or(reply.amount, |leg| leg.amount);
                    leg.amount = amount.0.into();
                }
                for (line, ours) in placed.lines.iter_mut().zip(&order.lines) {
                    line.unit_price = ours.unit_price.0.into();
                    if ours.kind == LineKind::Goods {
                        line.version = self.items[&ours.item].version.into();
                    }
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
        Command::SetOverdraft { id, party, .. } => Name::OfParty(party, id),
        Command::Close { id, account, .. } | Command::Hold { id, account, .. } => {
            Name::OfParty(account.0, id)
        }
        Command::Capture { id, party, hold, .. } | Command::Release { id, party, hold } => {
            Name::OfHold(party, hold, id)
        }
        Command::IssueCoupon { buyer, number, .. } => Name::Coupon(buyer, number),
        Command::Restock { id, item, .. } | Command::UpdateItem { id, item, .. } => {
            Name::OfItem(item, id)
        }
        Command::Place { buyer, id, .. } => Name::Order(buyer, id),
        Command::Pay { id, buyer, order, .. }
        | Command::Receive { id, buyer, order }
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
        | Command::Receive { buyer, order, .. }
        | Command::Cancel { buyer, order, .. }
        | Command::Refund { buyer, order, .. } => Some((buyer, order)),
        Command::Timer { kind: TimerKind::Order, party, id, .. } => Some((party, OrderId(id))),
        _ => None,
    }
}
