//! How each command is decided.

use model::Quantity;
use model::record::ItemUpdate;

use super::*;
use crate::command::AskedLine;

type Refusal = (Outcome, Option<usize>);

impl Shadow {
    pub(super) fn decide(&self, command: &Command) -> Verdict {
        match *command {
            Command::CreateAccount { party, currency, balance } => {
                let account = main_of(party, currency);
                let amount = u128::from(balance.0);
                let post = Effect::Post { debit: clearing(currency), credit: account, amount };
                Verdict::done(amount, vec![Effect::Open(account), post])
            }
            Command::CreateItem { item, seller, currency, price, stock, sale } => {
                let payable = (seller, currency, AccountKind::Payable);
                let (stocked, reserved, sold) = (u128::from(stock), 0, 0);
                let version = 1;
                let listed =
                    Item { seller, currency, price, sale, version, stocked, reserved, sold };
                Verdict::done(0, vec![Effect::Open(payable), Effect::List { item, listed }])
            }
            Command::Restock { item, quantity, .. } => match self.items.contains_key(&item) {
                true => Verdict::done(0, vec![Effect::Stock { item, units: u128::from(quantity) }]),
                false => Verdict::of(Outcome::UnknownItem),
            },
            Command::UpdateItem { item, update, .. } => match self.items.get(&item) {
                Some(found) => {
                    let listed = updated(found, update);
                    Verdict::done(0, vec![Effect::List { item, listed }])
                }
                None => Verdict::of(Outcome::UnknownItem),
            },
            Command::Transfer { debit, credit, currency, amount, .. } => {
                self.transfer(debit, credit, currency, u128::from(amount.0))
            }
            Command::Place { withdrawn: true, currency, method, .. } => {
                ended(currency, method, Outcome::WrongState, OrderState::Cancelled)
            }
            Command::Place { buyer, currency, method, deadline, ref lines, .. } => {
                match self.place(buyer, currency, method, deadline, lines) {
                    Ok(verdict) => verdict,
                    Err((Outcome::Invalid, line)) => {
                        Verdict { line, ..Verdict::of(Outcome::Invalid) }
                    }
                    // Too late to be placed: no other refusal of an order is of its state.
                    Err((outcome @ Outcome::WrongState, _)) => {
                        ended(currency, method, outcome, OrderState::Expired)
                    }
                    Err((outcome, line)) => {
                        let refused = ended(currency, method, outcome, OrderState::Refused);
                        Verdict { line, ..refused }
                    }
                }
            }
            Command::Pay { buyer, order, method, .. } => {
                self.change(buyer, order, |order| self.pay(buyer, method, order))
            }
            Command::Cancel { buyer, order, .. } => self.change(buyer, order, cancel),
            Command::Refund { buyer, order, restock, ref lines, .. } => {
                self.change(buyer, order, |order| self.refund(buyer, restock, lines, order))
            }
            Command::Timer { buyer, order, due } => match self.due() == Some((buyer, order, due)) {
                true => self.change(buyer, order, |order| Ok(release(order, OrderState::Expired))),
                false => Verdict::of(Outcome::Invalid),
            },
            Command::Sweep { .. } | Command::Wait { .. } | Command::Due => {
                unreachable!("there is nothing to decide about {command:?}")
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

    /// The order that is due first, if one is.
    pub(super) fn due(&self) -> Option<(Party, OrderId, Time)> {
        let &(due, _, buyer, id) = self.timers.first()?;
        (due <= self.now).then_some((buyer, id, due))
    }

    /// Who pays; then, line by line, what is asked for; then money, limits and units.
    fn place(
        &self,
        buyer: Party,
        currency: Currency,
        method: PaymentMethod,
        deadline: Time,
        asked: &[AskedLine],
    ) -> Result<Verdict, Refusal> {
        let account = main_of(buyer, currency);
        if method == PaymentMethod::Balance && !self.accounts.contains_key(&account) {
            return Err((Outcome::UnknownAccount, None));
        }
        if deadline != Time(0) && deadline <= self.now {
            return Err((Outcome::WrongState, None));
        }
        let lines = self.resolve(currency, asked)?;
        let total: u128 = lines.iter().map(|line| price_of(line, line.quantity.0)).sum();
        if method == PaymentMethod::Balance && self.balance(account) < total as i128 {
            return Err((Outcome::InsufficientFunds, None));
        }
        let payer = match method {
            PaymentMethod::Awaited => None,
            PaymentMethod::External => Some(clearing(currency)),
            PaymentMethod::Balance => Some(account),
        };
        let mut effects = payer.map_or(Vec::new(), |payer| self.sale(payer, &lines));
        if !self.can_take(&effects) {
            return Err((Outcome::Invalid, None));
        }
        let is_limited = self.check_limits(buyer, asked)?;
        self.check_units(asked)?;
        for line in &lines {
            let units = i128::from(line.quantity.0);
            let (reserved, sold) = if payer.is_some() { (0, units) } else { (units, 0) };
            effects.push(Effect::Units { item: line.item, reserved, sold });
        }
        let state = if payer.is_some() { OrderState::Paid } else { OrderState::Reserved };
        let paid_in = self.step();
        let placed = order(currency, method, Outcome::Ok, state);
        let placed = Order { lines, deadline, is_limited, paid_in, ..placed };
        Ok(Verdict { state: Some(state), order: Some(placed), ..Verdict::done(total, effects) })
    }

    /// What the lines name and cost. The first that can't be had as it is asked for refuses all.
    fn resolve(&self, currency: Currency, asked: &[AskedLine]) -> Result<Vec<LineView>, Refusal> {
        let mut lines = Vec::new();
        let mut total = 0;
        for (number, line) in asked.iter().enumerate() {
            let refused = |outcome| (outcome, Some(number));
            let item = self.items.get(&line.item).ok_or(refused(Outcome::UnknownItem))?;
            if item.currency != currency {
                return Err(refused(Outcome::CurrencyMismatch));
            }
            if !item.is_open(self.now) {
                return Err(refused(Outcome::SaleNotOpen));
            }
            let placed = LineView {
                item: line.item,
                quantity: line.quantity,
                refunded: Quantity(0),
                unit_price: line.agreed.unwrap_or(item.price),
            };
            total += price_of(&placed, placed.quantity.0);
            if total > u128::from(Amount::MAX.0) {
                return Err(refused(Outcome::Invalid));
            }
            lines.push(placed);
        }
        Ok(lines)
    }

    /// The item with the lowest id that passes its limit refuses. Whether there are limits.
    fn check_limits(&self, buyer: Party, asked: &[AskedLine]) -> Result<bool, Refusal> {
        let mut is_limited = false;
        for (item, (units, line)) in units_by_item(asked) {
            let limit = u128::from(self.items[&item].sale.limit);
            let bought = self.bought.get(&(buyer, item)).copied().unwrap_or_default();
            if limit != 0 && bought + units > limit {
                return Err((Outcome::OverLimit, Some(line)));
            }
            is_limited |= limit != 0;
        }
        Ok(is_limited)
    }

    /// Of the items that lack, the one that is named first refuses.
    fn check_units(&self, asked: &[AskedLine]) -> Result<(), Refusal> {
        let units = units_by_item(asked);
        let lacks = units.iter().filter(|(item, (units, _))| self.items[item].available() < *units);
        match lacks.map(|(_, (_, line))| *line).min() {
            Some(line) => Err((Outcome::SoldOut, Some(line))),
            None => Ok(()),
        }
    }

    /// Who pays for an order pays each line to the seller of its item.
    fn sale(&self, payer: AccountName, lines: &[LineView]) -> Vec<Effect> {
        let to_seller = |line: &LineView| {
            let (account, amount) = (self.payable(line.item), price_of(line, line.quantity.0));
            let earn = Effect::Earn { account, step: self.step(), amount: amount as i128 };
            [Effect::Post { debit: payer, credit: account, amount }, earn]
        };
        lines.iter().flat_map(to_seller).collect()
    }

    /// A change of an order. Refused, it tells the state that the order keeps.
    fn change(
        &self,
        buyer: Party,
        id: OrderId,
        decide: impl FnOnce(Order) -> Result<Verdict, Refusal>,
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
    ) -> Result<Verdict, Refusal> {
        let overdue = order.deadline != Time(0) && order.deadline <= self.now;
        if order.state != OrderState::Reserved || overdue {
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
        (order.state, order.method, order.paid_in) = (OrderState::Paid, method, self.step());
        Ok(Verdict { order: Some(order.clone()), ..Verdict::done(order.total(), effects) })
    }

    fn refund(
        &self,
        buyer: Party,
        restock: bool,
        asked: &[(u16, Quantity)],
        mut order: Order,
    ) -> Result<Verdict, Refusal> {
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
            let account = self.payable(line.item);
            effects.push(Effect::Post { debit: account, credit: payer, amount: price });
            let earned = -(price as i128);
            effects.push(Effect::Earn { account, step: order.paid_in, amount: earned });
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
}

/// Units by item, and the line that names the item first.
fn units_by_item(asked: &[AskedLine]) -> BTreeMap<ItemId, (u128, usize)> {
    let mut units = BTreeMap::new();
    for (number, line) in asked.iter().enumerate() {
        let (units, _) = units.entry(line.item).or_insert((0u128, number));
        *units += u128::from(line.quantity.0);
    }
    units
}

fn updated(item: &Item, update: ItemUpdate) -> Item {
    let (opens, closes) = update.window.unwrap_or((item.sale.opens, item.sale.closes));
    Item {
        price: update.price.unwrap_or(item.price),
        sale: Sale { opens, closes, limit: update.limit.unwrap_or(item.sale.limit) },
        version: item.version.wrapping_add(1),
        ..item.clone()
    }
}

/// An order without lines.
fn order(currency: Currency, method: PaymentMethod, outcome: Outcome, state: OrderState) -> Order {
    Order {
        currency,
        method,
        state,
        outcome,
        lines: Vec::new(),
        deadline: Time(0),
        is_limited: false,
        paid_in: 0,
        placed: 0,
        newest: 0,
        restocked: BTreeMap::new(),
    }
}

/// An order that is over as soon as it comes. Its id stays taken.
fn ended(
    currency: Currency,
    method: PaymentMethod,
    outcome: Outcome,
    state: OrderState,
) -> Verdict {
    let order = Some(order(currency, method, outcome, state));
    Verdict { state: Some(state), order, ..Verdict::of(outcome) }
}

fn cancel(order: Order) -> Result<Verdict, Refusal> {
    match (order.state, order.outcome) {
        (OrderState::Reserved, _) => Ok(release(order, OrderState::Cancelled)),
        // Withdrawn while it waited: whoever cancels it is told that it is cancelled.
        (OrderState::Cancelled, Outcome::WrongState) => {
            Ok(Verdict { order: Some(order), ..Verdict::done(0, Vec::new()) })
        }
        _ => Err((Outcome::WrongState, None)),
    }
}

/// Ends an order that waits for its payment.
fn release(mut order: Order, state: OrderState) -> Verdict {
    let back = |line: &LineView| Effect::Units {
        item: line.item,
        reserved: -i128::from(line.quantity.0),
        sold: 0,
    };
    let effects = order.lines.iter().map(back).collect();
    order.state = state;
    Verdict { order: Some(order), ..Verdict::done(0, effects) }
}
