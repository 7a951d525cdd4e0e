//! The plain model of a shard: maps, wide integers and the rules as they are written down.
//!
//! A command is decided without touching anything. The decision names what it would do to
//! money and units and what the order would look like; if every sum keeps within 64 bits, all of
//! it is done, and otherwise none of it.

use std::collections::{BTreeMap, BTreeSet};

use model::record::{LINE_AGREED, place_mut, refund_mut, set_outcome};
use model::reply::{Query, View};
use model::{
    AccountKind, AccountView, Amount, ChangeId, Currency, ItemId, ItemView, LineView, Offset,
    OrderId, OrderState, OrderView, Outcome, Party, PaymentMethod, Quantity, Reply,
};

use crate::command::{AskedLine, Command};

/// All that the model knows.
#[derive(Default)]
pub struct Shadow {
    accounts: BTreeMap<AccountName, Sums>,
    items: BTreeMap<ItemId, Item>,
    orders: BTreeMap<(Party, OrderId), Order>,
    /// Every id that was decided, with the command and its first answer.
    remembered: BTreeMap<Name, (Command, Reply)>,
    records: u64,
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
    /// A transfer's is the debited party's.
    OfParty(Party, ChangeId),
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
}

enum Effect {
    Open(AccountName),
    Post {
        debit: AccountName,
        credit: AccountName,
        amount: u128,
    },
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
        Verdict { outcome, state: None, line: None, amount: 0, effects: Vec::new(), order: None }
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
}

fn price_of(line: &LineView, units: u32) -> u128 {
    u128::from(line.unit_price.0) * u128::from(units)
}

fn narrow(sum: u128) -> u64 {
    u64::try_from(sum).expect("the model keeps sums within 64 bits")
}

impl Shadow {
    /// Decides a command, and does what it decided.
    pub fn execute(&mut self, command: &Command) -> Answer {
        self.note(command);
        let name = name_of(command);
        if let Some((first, reply)) = self.remembered.get(&name) {
            let reply = if first == command { self.repeat(name, *reply) } else { reused() };
            return Answer { reply, record: None };
        }
        let mut verdict = self.decide(command);
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
        self.records += 1;
        reply.offset = Some(Offset(self.records));
        self.remembered.insert(name, (command.clone(), reply));
        let previous = self.keep_order(command, verdict.order);
        Answer { reply, record: Some(self.record(command, &reply, previous)) }
    }

    /// What a repeat with the same content is told.
    fn repeat(&self, name: Name, first: Reply) -> Reply {
        let outcome = match first.outcome {
            Outcome::Ok => Outcome::AlreadyDone,
            refusal => refusal,
        };
        match name {
            // An account and an item have no history to point at.
            Name::Account(..) | Name::Item(..) => Reply { outcome, offset: None, ..first },
            // An order is shown as it stands now.
            Name::Order(buyer, id) => {
                let order = &self.orders[&(buyer, id)];
                let offset = Some(Offset(order.newest));
                Reply { outcome, state: Some(order.state), offset, ..first }
            }
            _ => Reply { outcome, ..first },
        }
    }

    fn decide(&self, command: &Command) -> Verdict {
        match *command {
            Command::CreateAccount { party, currency, balance } => {
                let account = main_of(party, currency);
                let amount = u128::from(balance.0);
                let post = Effect::Post { debit: clearing(currency), credit: account, amount };
                Verdict::done(amount, vec![Effect::Open(account), post])
            }
            Command::CreateItem { item, seller, currency, price, stock } => {
                let payable = (seller, currency, AccountKind::Payable);
                let stocked = u128::from(stock);
                let listed = Item { seller, currency, price, stocked, reserved: 0, sold: 0 };
                Verdict::done(0, vec![Effect::Open(payable), Effect::List { item, listed }])
            }
            Command::Restock { item, quantity, .. } => match self.items.contains_key(&item) {
                true => Verdict::done(0, vec![Effect::Stock { item, units: u128::from(quantity) }]),
                false => Verdict::of(Outcome::UnknownItem),
            },
            Command::Transfer { debit, credit, currency, amount, .. } => {
                self.transfer(debit, credit, currency, u128::from(amount.0))
            }
            Command::Place { buyer, currency, method, ref lines, .. } => {
                self.place(buyer, currency, method, lines)
            }
            Command::Pay { buyer, order, method, .. } => {
                self.change(buyer, order, |order| self.pay(buyer, method, order))
            }
            Command::Cancel { buyer, order, .. } => self.change(buyer, order, cancel),
            Command::Refund { buyer, order, restock, ref lines, .. } => {
                self.change(buyer, order, |order| self.refund(buyer, restock, lines, order))
            }
        }
    }

    fn transfer(
        &self,
        debit: (Party, AccountKind),
        credit: (Party, AccountKind),
        currency: Currency,
        amount: u128,
    ) -> Verdict {
        let name = |(party, kind)| match kind {
            AccountKind::Clearing => clearing(currency),
            _ => (party, currency, kind),
        };
        let (debit, credit) = (name(debit), name(credit));
        let there = |account: &AccountName| {
            account.2 == AccountKind::Clearing || self.accounts.contains_key(account)
        };
        if !there(&debit) || !there(&credit) {
            return Verdict::of(Outcome::UnknownAccount);
        }
        // Money enters through clearing; from elsewhere only what is there can go.
        if debit.2 != AccountKind::Clearing && self.balance(debit) < amount as i128 {
            return Verdict::of(Outcome::InsufficientFunds);
        }
        Verdict::done(amount, vec![Effect::Post { debit, credit, amount }])
    }

    /// The first line that can't be had refuses the order; money is asked for last.
    fn place(
        &self,
        buyer: Party,
        currency: Currency,
        method: PaymentMethod,
        asked: &[AskedLine],
    ) -> Verdict {
        let refused = |outcome: Outcome, line| Verdict {
            state: (outcome != Outcome::Invalid).then_some(OrderState::Refused),
            line,
            order: Some(Order {
                currency,
                method,
                state: OrderState::Refused,
                outcome,
                lines: Vec::new(),
                newest: 0,
                restocked: BTreeMap::new(),
            }),
            ..Verdict::of(outcome)
        };
        let account = main_of(buyer, currency);
        if method == PaymentMethod::Balance && !self.accounts.contains_key(&account) {
            return refused(Outcome::UnknownAccount, None);
        }
        let mut lines = Vec::new();
        let mut total = 0u128;
        let mut units_of = BTreeMap::<ItemId, u128>::new();
        for (number, line) in asked.iter().enumerate() {
            let Some(item) = self.items.get(&line.item) else {
                return refused(Outcome::UnknownItem, Some(number));
            };
            if item.currency != currency {
                return refused(Outcome::CurrencyMismatch, Some(number));
            }
            let units = units_of.entry(line.item).or_default();
            *units += u128::from(line.quantity.0);
            if *units > item.available() {
                return refused(Outcome::SoldOut, Some(number));
            }
            let placed = LineView {
                item: line.item,
                quantity: line.quantity,
                refunded: Quantity(0),
                unit_price: line.agreed.unwrap_or(item.price),
            };
            total += price_of(&placed, placed.quantity.0);
            lines.push(placed);
            if total > u128::from(Amount::MAX.0) {
                return refused(Outcome::Invalid, Some(number));
            }
        }
        let payer = match method {
            PaymentMethod::Awaited => None,
            PaymentMethod::External => Some(clearing(currency)),
            PaymentMethod::Balance if self.balance(account) < total as i128 => {
                return refused(Outcome::InsufficientFunds, None);
            }
            PaymentMethod::Balance => Some(account),
        };
        let state = if payer.is_some() { OrderState::Paid } else { OrderState::Reserved };
        let mut effects = Vec::new();
        for line in &lines {
            let units = i128::from(line.quantity.0);
            let (reserved, sold) = if payer.is_some() { (0, units) } else { (units, 0) };
            effects.push(Effect::Units { item: line.item, reserved, sold });
        }
        if let Some(payer) = payer {
            effects.extend(self.sale(payer, &lines));
        }
        let outcome = Outcome::Ok;
        let restocked = BTreeMap::new();
        let order = Order { currency, method, state, outcome, lines, newest: 0, restocked };
        Verdict { state: Some(state), order: Some(order), ..Verdict::done(total, effects) }
    }

    /// Who pays for an order pays each line to the seller of its item.
    fn sale(&self, payer: AccountName, lines: &[LineView]) -> Vec<Effect> {
        let to_seller = |line: &LineView| Effect::Post {
            debit: payer,
            credit: self.payable(line.item),
            amount: price_of(line, line.quantity.0),
        };
        lines.iter().map(to_seller).collect()
    }

    /// A change of an order. Refused, it tells the state that the order keeps.
    fn change(
        &self,
        buyer: Party,
        id: OrderId,
        decide: impl FnOnce(Order) -> Result<Verdict, (Outcome, Option<usize>)>,
    ) -> Verdict {
        let Some(order) = self.orders.get(&(buyer, id)) else {
            return Verdict::of(Outcome::UnknownOrder);
        };
        let mut verdict = match decide(order.clone()) {
            Ok(verdict) => verdict,
            Err((outcome, line)) => Verdict { line, ..Verdict::of(outcome) },
        };
        verdict.state = Some(verdict.order.as_ref().unwrap_or(order).state);
        verdict
    }

    fn pay(
        &self,
        buyer: Party,
        method: PaymentMethod,
        mut order: Order,
    ) -> Result<Verdict, (Outcome, Option<usize>)> {
        if order.state != OrderState::Reserved {
            return Err((Outcome::WrongState, None));
        }
        let account = main_of(buyer, order.currency);
        let payer = match method {
            PaymentMethod::Balance if !self.accounts.contains_key(&account) => {
                return Err((Outcome::UnknownAccount, None));
            }
            PaymentMethod::Balance if self.balance(account) < order.total() as i128 => {
                return Err((Outcome::InsufficientFunds, None));
            }
            PaymentMethod::Balance => account,
            _ => clearing(order.currency),
        };
        let mut effects = self.sale(payer, &order.lines);
        for line in &order.lines {
            let units = i128::from(line.quantity.0);
            effects.push(Effect::Units { item: line.item, reserved: -units, sold: units });
        }
        (order.state, order.method) = (OrderState::Paid, method);
        Ok(Verdict { order: Some(order.clone()), ..Verdict::done(order.total(), effects) })
    }

    fn refund(
        &self,
        buyer: Party,
        restock: bool,
        asked: &[(u16, Quantity)],
        mut order: Order,
    ) -> Result<Verdict, (Outcome, Option<usize>)> {
        if ![OrderState::Paid, OrderState::PartlyRefunded].contains(&order.state) {
            return Err((Outcome::WrongState, None));
        }
        let mut units_of = BTreeMap::<usize, u32>::new();
        for (number, &(at, quantity)) in asked.iter().enumerate() {
            let at = usize::from(at);
            let Some(line) = order.lines.get(at) else {
                return Err((Outcome::WrongState, Some(number)));
            };
            let units = units_of.entry(at).or_default();
            *units = units.saturating_add(quantity.0);
            if *units > line.quantity.0 - line.refunded.0 {
                return Err((Outcome::WrongState, Some(number)));
            }
        }
        if asked.is_empty() {
            let left = |line: &LineView| line.quantity.0 - line.refunded.0;
            units_of = order.lines.iter().map(left).enumerate().collect();
        }
        // The money goes back to where it came from.
        let payer = match order.method {
            PaymentMethod::Balance => main_of(buyer, order.currency),
            _ => clearing(order.currency),
        };
        let mut effects = Vec::new();
        let mut amount = 0;
        for (at, units) in units_of {
            let line = &mut order.lines[at];
            let price = price_of(line, units);
            line.refunded.0 += units;
            amount += price;
            effects.push(Effect::Post {
                debit: self.payable(line.item),
                credit: payer,
                amount: price,
            });
            if restock {
                *order.restocked.entry(at).or_default() += u128::from(units);
                let sold = -i128::from(units);
                effects.push(Effect::Units { item: line.item, reserved: 0, sold });
            }
        }
        order.state = match order.is_all_refunded() {
            true => OrderState::Refunded,
            false => OrderState::PartlyRefunded,
        };
        Ok(Verdict { order: Some(order), ..Verdict::done(amount, effects) })
    }

    fn balance(&self, account: AccountName) -> i128 {
        let sums = self.accounts.get(&account).copied().unwrap_or_default();
        sums.credits as i128 - sums.debits as i128
    }

    fn payable(&self, item: ItemId) -> AccountName {
        let item = &self.items[&item];
        (item.seller, item.currency, AccountKind::Payable)
    }

    /// Does all of it, or says no because a sum would pass 64 bits.
    fn settle(&mut self, effects: &[Effect]) -> bool {
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
            && items.values().all(|item| item.stocked <= bound);
        if kept {
            self.accounts.extend(accounts);
            self.items.extend(items);
        }
        kept
    }

    /// Keeps the order that a logged command leaves behind; returns the record before this one.
    fn keep_order(&mut self, command: &Command, order: Option<Order>) -> u64 {
        let (Name::Order(buyer, id) | Name::OfOrder(buyer, id, _)) = name_of(command) else {
            return 0;
        };
        let previous = self.orders.get(&(buyer, id)).map_or(0, |order| order.newest);
        if let Some(order) = order {
            self.orders.insert((buyer, id), order);
        }
        // What names an order that isn't there belongs to no order's history.
        if let Some(order) = self.orders.get_mut(&(buyer, id)) {
            order.newest = self.records;
        }
        previous
    }

    /// The command's bytes with what became of it.
    fn record(&self, command: &Command, reply: &Reply, previous: u64) -> Vec<u8> {
        let mut bytes = command.bytes();
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
                }
            }
            Command::Refund { .. } => refund_mut(&mut bytes).refused_line = refused_line.into(),
            _ => {}
        }
        bytes
    }

    fn note(&mut self, command: &Command) {
        match *command {
            Command::CreateAccount { party, currency, .. } => {
                self.parties.insert(party);
                self.currencies.insert(currency);
            }
            Command::Transfer { debit, credit, currency, .. } => {
                self.parties.extend([debit.0, credit.0]);
                self.currencies.insert(currency);
            }
            Command::CreateItem { item, seller, currency, .. } => {
                self.named_items.insert(item);
                self.parties.insert(seller);
                self.currencies.insert(currency);
            }
            Command::Restock { item, .. } => {
                self.named_items.insert(item);
            }
            Command::Place { buyer, id, currency, ref lines, .. } => {
                self.named_orders.insert((buyer, id));
                self.parties.insert(buyer);
                self.currencies.insert(currency);
                self.named_items.extend(lines.iter().map(|line| line.item));
            }
            Command::Pay { buyer, order, .. }
            | Command::Cancel { buyer, order, .. }
            | Command::Refund { buyer, order, .. } => {
                self.named_orders.insert((buyer, order));
            }
        }
    }

    /// Every read that finds something, and for all that was ever named those that don't.
    pub fn queries(&self) -> Vec<Query> {
        let mut queries = Vec::new();
        for &party in self.parties.iter().chain([&Party(0)]) {
            for &currency in &self.currencies {
                let account = |&kind| Query::Account(party, currency, kind);
                queries.extend(AccountKind::ALL.iter().map(account));
            }
        }
        queries.extend(self.named_items.iter().map(|&item| Query::Item(item)));
        queries.extend(self.named_orders.iter().map(|&(buyer, id)| Query::Order(buyer, id)));
        queries
    }

    /// What a read must find.
    pub fn view(&self, query: Query) -> View {
        let found = match query {
            Query::Order(buyer, id) => self.orders.get(&(buyer, id)).map(|order| {
                View::Order(OrderView {
                    buyer,
                    id,
                    currency: order.currency,
                    state: order.state,
                    outcome: order.outcome,
                    method: order.method,
                    total: Amount(narrow(order.total())),
                    refunded: Amount(narrow(order.refunded())),
                    offset: Offset(order.newest),
                    lines: order.lines.clone(),
                })
            }),
            Query::Account(party, currency, kind) => {
                self.accounts.get(&(party, currency, kind)).map(|sums| {
                    View::Account(AccountView {
                        party,
                        currency,
                        kind,
                        debits_posted: Amount(narrow(sums.debits)),
                        credits_posted: Amount(narrow(sums.credits)),
                    })
                })
            }
            Query::Item(item) => self.items.get(&item).map(|found| {
                View::Item(ItemView {
                    item,
                    seller: found.seller,
                    price: found.price,
                    currency: found.currency,
                    stocked: narrow(found.stocked),
                    available: narrow(found.available()),
                    reserved: narrow(found.reserved),
                    sold: narrow(found.sold),
                })
            }),
        };
        found.unwrap_or(View::Missing)
    }

    /// Debits and credits by currency.
    pub fn sums(&self) -> BTreeMap<&'static str, (u128, u128)> {
        let mut sums = BTreeMap::<_, (u128, u128)>::new();
        for ((_, currency, _), account) in &self.accounts {
            let sum = sums.entry(currency.code()).or_default();
            *sum = (sum.0 + account.debits, sum.1 + account.credits);
        }
        sums
    }

    /// How many orders and items there are.
    pub fn held(&self) -> (usize, usize) {
        (self.orders.len(), self.items.len())
    }

    /// Counts reserved and sold units again, from the orders alone.
    pub fn audit(&self) {
        let mut units = BTreeMap::<ItemId, (u128, u128)>::new();
        for order in self.orders.values() {
            for (at, line) in order.lines.iter().enumerate() {
                let (reserved, sold) = units.entry(line.item).or_default();
                let back = order.restocked.get(&at).copied().unwrap_or_default();
                match order.state {
                    OrderState::Refused | OrderState::Cancelled => {}
                    OrderState::Reserved => *reserved += u128::from(line.quantity.0),
                    _ => *sold += u128::from(line.quantity.0) - back,
                }
            }
        }
        for (id, item) in &self.items {
            let counted = units.get(id).copied().unwrap_or_default();
            assert_eq!((item.reserved, item.sold), counted, "units of item {id}");
        }
    }
}

fn cancel(mut order: Order) -> Result<Verdict, (Outcome, Option<usize>)> {
    if order.state != OrderState::Reserved {
        return Err((Outcome::WrongState, None));
    }
    let back = |line: &LineView| Effect::Units {
        item: line.item,
        reserved: -i128::from(line.quantity.0),
        sold: 0,
    };
    let effects = order.lines.iter().map(back).collect();
    order.state = OrderState::Cancelled;
    Ok(Verdict { order: Some(order), ..Verdict::done(0, effects) })
}

fn reused() -> Reply {
    Reply { outcome: Outcome::IdReused, state: None, line: None, amount: Amount(0), offset: None }
}

fn name_of(command: &Command) -> Name {
    match *command {
        Command::CreateAccount { party, currency, .. } => Name::Account(party, currency),
        Command::CreateItem { item, .. } => Name::Item(item),
        Command::Transfer { id, debit, .. } => Name::OfParty(debit.0, id),
        Command::Restock { id, item, .. } => Name::OfItem(item, id),
        Command::Place { buyer, id, .. } => Name::Order(buyer, id),
        Command::Pay { id, buyer, order, .. }
        | Command::Cancel { id, buyer, order }
        | Command::Refund { id, buyer, order, .. } => Name::OfOrder(buyer, order, id),
    }
}
