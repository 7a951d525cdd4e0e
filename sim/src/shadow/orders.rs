//! Orders, by the rules.

use model::record::{
    ANY_LEG, Extra, LEG_STATED, LINE_AGREED, LINE_CHECKED, Leg, Line, PAY_STATED, PLACE_FORFEIT,
    PLACE_WITHDRAWN, PayBody, PlaceBody, REFUND_RESTOCK, Record, RefundBody, RefundLine,
};
use model::{LegState, LineKind, OrderState, Outcome, PayStep, PaymentMethod, Time};

use super::{Books, expect};

pub(super) struct Order {
    pub(super) state: OrderState,
    outcome: Outcome,
    currency: u16,
    forfeit: bool,
    received: bool,
    legs: Vec<Part>,
    lines: Vec<Ordered>,
}

/// A payment leg.
#[derive(Clone, Copy)]
struct Part {
    method: PaymentMethod,
    state: LegState,
    amount: i128,
    paid: i128,
    refunded: i128,
    deadline: u64,
}

#[derive(Clone, Copy)]
struct Ordered {
    /// `None` for shipping, tax and fees.
    item: Option<u64>,
    units: i128,
    /// What it comes to.
    net: i128,
    refunded: i128,
}

impl Order {
    /// When it expires; 0: never.
    pub(super) fn moment(&self) -> u64 {
        if self.state != OrderState::Reserved {
            return 0;
        }
        let waits = |leg: &&Part| matches!(leg.state, LegState::Awaited | LegState::Voided);
        let deadlines = self.legs.iter().filter(waits).map(|leg| leg.deadline);
        deadlines.filter(|deadline| *deadline != 0).min().unwrap_or(0)
    }
}

type Parts<'a> = (&'a [Leg], &'a [Line], &'a [Extra]);

impl Books {
    pub(super) fn place(
        &mut self,
        record: &Record<'_>,
        order: &PlaceBody,
        (legs, lines, extras): Parts<'_>,
        time: Time,
        outcome: Outcome,
    ) -> Result<(), String> {
        let buyer = record.header.scope.get();
        let account = (buyer, order.currency.get());
        let state = OrderState::from_byte(record.header.state).ok_or("an order without a state")?;
        let done = outcome == Outcome::Ok;
        let mut kept = Vec::new();
        let mut total = Some(0);
        for (number, line) in lines.iter().enumerate() {
            let discount = extras.iter().find(|extra| usize::from(extra.line.get()) == number);
            let discount = discount.map_or(0, |extra| i128::from(extra.discount.get()));
            let ordered = self.ordered(line, discount, done)?;
            total = total.zip(ordered).map(|(total, ordered)| total + ordered.net);
            kept.extend(ordered);
        }
        let parts: Vec<Part> = legs.iter().map(part_of).collect();
        let is_balance = |part: &&Part| part.method == PaymentMethod::Balance;
        let pays_here = parts.iter().any(|part| is_balance(&part));
        // Where one leg pays the rest, that is known once the total is.
        let rest = legs.iter().position(|leg| leg.flags & LEG_STATED == 0);
        let stated: i128 = parts.iter().map(|part| part.amount).sum();
        let wanted_here: i128 = parts.iter().filter(is_balance).map(|part| part.amount).sum();
        let rest_here = rest.is_some_and(|rest| parts[rest].method == PaymentMethod::Balance);
        let from_balance = match (done, rest_here) {
            (true, _) | (_, false) => Some(wanted_here),
            (false, true) => total.map(|total| wanted_here + total - stated),
        };
        let has_account = self.accounts.contains_key(&account);
        let enough = from_balance.map(|wanted| has_account && self.can_spend(account) >= wanted);
        let late = parts.iter().any(|part| part.deadline != 0 && part.deadline <= time.0);
        let withdrawn = order.flags & PLACE_WITHDRAWN != 0;
        let has_coupon = parts.iter().any(|part| part.method == PaymentMethod::Coupon);
        let states_prices = lines.iter().any(|line| line.flags & LINE_CHECKED != 0)
            || legs.iter().any(|leg| leg.flags & LEG_STATED != 0)
            || !extras.is_empty();
        let wanted = match outcome {
            Outcome::Ok if pays_here && enough == Some(false) => Outcome::InsufficientFunds,
            Outcome::InsufficientFunds if enough == Some(true) => Outcome::Ok,
            Outcome::UnknownAccount if (has_account || !pays_here) && !has_coupon => Outcome::Ok,
            Outcome::WrongState if !(withdrawn || late) => Outcome::Ok,
            Outcome::PriceMismatch if !states_prices => Outcome::Ok,
            outcome => outcome,
        };
        expect(outcome, wanted)?;
        if done && (total, stated) != (Some(stated), i128::from(record.header.amount.get())) {
            return Err(format!("lines of {total:?}, legs of {stated}"));
        }
        let mut order = Order {
            state,
            outcome,
            currency: order.currency.get(),
            forfeit: order.flags & PLACE_FORFEIT != 0,
            received: false,
            legs: Vec::new(),
            lines: Vec::new(),
        };
        if done {
            let waits = parts.iter().any(|part| part.state == LegState::Awaited);
            let wanted = if waits { OrderState::Reserved } else { OrderState::Paid };
            if state != wanted {
                return Err(format!("the order has to be {}", wanted.word()));
            }
            if wanted_here != 0 {
                *self.accounts.entry(account).or_default() -= wanted_here;
            }
            for line in &kept {
                self.move_units(line, line.units);
            }
            (order.legs, order.lines) = (parts, kept);
        }
        self.orders.insert((buyer, record.header.id.get()), order);
        Ok(())
    }

    /// A line, if it is known what it comes to.
    fn ordered(&self, line: &Line, discount: i128, done: bool) -> Result<Option<Ordered>, String> {
        let units = i128::from(line.quantity.get());
        let (item, price) = match line.kind == LineKind::Goods as u8 {
            false => (None, line.unit_price.get()),
            true => {
                let item = line.item.get();
                let prices = self.prices.get(&item);
                let agreed = line.flags & LINE_AGREED != 0;
                let version = usize::from(line.version.get()).wrapping_sub(1);
                let listed = prices.and_then(|prices| prices.get(version)).copied();
                if done && !agreed && listed != Some(line.unit_price.get()) {
                    return Err(format!("a price of {listed:?} in the version it saw"));
                }
                match prices.map(Vec::as_slice) {
                    _ if done || agreed => (Some(item), line.unit_price.get()),
                    Some([only]) => (Some(item), *only),
                    _ => return Ok(None), // Nobody knows which of the prices it was.
                }
            }
        };
        let net = i128::from(price) * units - discount;
        if done && net < 0 {
            return Err(format!("a line of {net}"));
        }
        Ok(Some(Ordered { item, units, net, refunded: 0 }))
    }

    fn move_units(&mut self, line: &Ordered, units: i128) {
        if let Some(item) = line.item {
            *self.out.entry(item).or_default() += units;
        }
    }

    pub(super) fn pay(
        &mut self,
        buyer: u64,
        body: &PayBody,
        time: Time,
        outcome: Outcome,
    ) -> Result<(), String> {
        let Some(mut order) = self.orders.remove(&(buyer, body.order.get())) else {
            return expect(outcome, Outcome::UnknownOrder);
        };
        let wanted = self.pay_order(buyer, &mut order, body, time);
        self.orders.insert((buyer, body.order.get()), order);
        expect(outcome, wanted)
    }

    fn pay_order(&mut self, buyer: u64, order: &mut Order, body: &PayBody, time: Time) -> Outcome {
        let stated = (body.flags & PAY_STATED != 0).then(|| i128::from(body.stated.get()));
        let step = PayStep::from_byte(body.step).expect("the record was checked");
        let late = order.moment() != 0 && order.moment() <= time.0;
        let waits = order.state == OrderState::Reserved && !late;
        let may = |leg: &Part| match step {
            PayStep::Void => leg.state == LegState::Authorised,
            PayStep::External => leg.state != LegState::Captured,
            _ => matches!(leg.state, LegState::Awaited | LegState::Voided),
        };
        let named = body.leg.get();
        let leg = match named {
            _ if !waits => None,
            ANY_LEG => order.legs.iter().position(may),
            _ => order
                .legs
                .get(usize::from(named))
                .and_then(|leg| may(leg).then_some(usize::from(named))),
        };
        let Some(leg) = leg else {
            let came = step == PayStep::External && stated.is_some();
            return if came { Outcome::Suspended } else { Outcome::WrongState };
        };
        let account = (buyer, order.currency);
        let leg = &mut order.legs[leg];
        let open = leg.amount - leg.paid;
        match step {
            PayStep::Void => leg.state = LegState::Voided,
            PayStep::Authorise | PayStep::Balance if stated.is_some_and(|it| it != open) => {
                return Outcome::WrongState;
            }
            PayStep::Authorise => leg.state = LegState::Authorised,
            PayStep::Balance if leg.paid > 0 => return Outcome::WrongState,
            PayStep::Balance => {
                if !self.accounts.contains_key(&account) {
                    return Outcome::UnknownAccount;
                }
                if self.can_spend(account) < open {
                    return Outcome::InsufficientFunds;
                }
                *self.accounts.entry(account).or_default() -= open;
                leg.paid += open;
                (leg.method, leg.state) = (PaymentMethod::Balance, LegState::Captured);
            }
            PayStep::External => {
                leg.paid += stated.unwrap_or(open).min(open);
                leg.method = PaymentMethod::External;
                if leg.paid == leg.amount {
                    leg.state = LegState::Captured;
                }
            }
        }
        if order.legs.iter().all(|leg| leg.state == LegState::Captured) {
            order.state = OrderState::Paid;
        }
        Outcome::Ok
    }

    pub(super) fn cancel(&mut self, key: (u64, u128), time: Time) -> Outcome {
        let Some(order) = self.orders.get(&key) else { return Outcome::UnknownOrder };
        match (order.state, order.outcome) {
            (OrderState::Cancelled, Outcome::WrongState) => Outcome::Ok, // While it waited.
            (OrderState::Reserved, _) => {
                self.release(key, OrderState::Cancelled, time);
                Outcome::Ok
            }
            _ => Outcome::WrongState,
        }
    }

    pub(super) fn receive(&mut self, key: (u64, u128)) -> Outcome {
        let Some(order) = self.orders.get_mut(&key) else { return Outcome::UnknownOrder };
        let paid = [OrderState::Paid, OrderState::PartlyRefunded].contains(&order.state);
        if !paid || std::mem::replace(&mut order.received, true) {
            return Outcome::WrongState;
        }
        Outcome::Ok
    }

    pub(super) fn refund(
        &mut self,
        buyer: u64,
        refund: &RefundBody,
        asked: &[RefundLine],
    ) -> Outcome {
        let Some(mut order) = self.orders.remove(&(buyer, refund.order.get())) else {
            return Outcome::UnknownOrder;
        };
        let outcome = self.refund_order(buyer, &mut order, refund, asked);
        self.orders.insert((buyer, refund.order.get()), order);
        outcome
    }

    fn refund_order(
        &mut self,
        buyer: u64,
        order: &mut Order,
        refund: &RefundBody,
        asked: &[RefundLine],
    ) -> Outcome {
        if ![OrderState::Paid, OrderState::PartlyRefunded].contains(&order.state) {
            return Outcome::WrongState;
        }
        let mut lines = order.lines.clone();
        if asked.is_empty() {
            lines.iter_mut().for_each(|line| line.refunded = line.units);
        }
        for line in asked {
            let Some(found) = lines.get_mut(usize::from(line.line.get())) else {
                return Outcome::WrongState;
            };
            found.refunded += i128::from(line.quantity.get());
            if found.refunded > found.units {
                return Outcome::WrongState;
            }
        }
        let mut amount = 0;
        for (now, before) in lines.iter().zip(&order.lines) {
            amount += now.net * now.refunded / now.units - now.net * before.refunded / now.units;
            if refund.flags & REFUND_RESTOCK != 0 {
                self.move_units(now, before.refunded - now.refunded);
            }
        }
        let all = lines.iter().all(|line| line.refunded == line.units);
        order.state = if all { OrderState::Refunded } else { OrderState::PartlyRefunded };
        order.lines = lines;
        // Each leg gets its part of what is left of all, by running sums rounded down.
        let left: i128 = order.legs.iter().map(|leg| leg.paid - leg.refunded).sum();
        let (mut running, mut given) = (0, 0);
        for leg in &mut order.legs {
            running += leg.paid - leg.refunded;
            let upto = if left == 0 { 0 } else { amount * running / left };
            leg.refunded += upto - given;
            if leg.method == PaymentMethod::Balance {
                *self.accounts.entry((buyer, order.currency)).or_default() += upto - given;
            }
            given = upto;
        }
        Outcome::Ok
    }

    pub(super) fn fire(&mut self, key: (u64, u128), due: u64, time: Time) -> bool {
        let is_due = |order: &Order| order.moment() == due && due != 0 && due <= time.0;
        let fires = self.orders.get(&key).is_some_and(is_due);
        if fires {
            self.release(key, OrderState::Expired, time);
        }
        fires
    }

    /// Ends an order that waits.
    fn release(&mut self, key: (u64, u128), state: OrderState, time: Time) {
        let Some(mut order) = self.orders.remove(&key) else { return };
        let overdue = order.moment() != 0 && order.moment() <= time.0;
        order.state = state;
        for line in &order.lines {
            self.move_units(line, -line.units);
        }
        let forfeits = order.forfeit && overdue;
        for leg in &mut order.legs {
            if leg.paid > 0 && leg.method == PaymentMethod::Balance && !forfeits {
                *self.accounts.entry((key.0, order.currency)).or_default() += leg.paid;
            }
        }
        self.orders.insert(key, order);
    }
}

fn part_of(leg: &Leg) -> Part {
    let method = PaymentMethod::from_byte(leg.method).expect("the record was checked");
    let awaited = method == PaymentMethod::Awaited;
    let amount = leg.amount.get().into();
    Part {
        method,
        state: if awaited { LegState::Awaited } else { LegState::Captured },
        amount,
        paid: if awaited { 0 } else { amount },
        refunded: 0,
        deadline: if awaited { leg.term.get() } else { 0 },
    }
}
