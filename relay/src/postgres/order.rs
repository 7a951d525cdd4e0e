//! What becomes of an order, from its records alone.
//!
//! A record says what was asked and what it came to; how that was split over lines and legs
//! follows from the order. These are the core's own rules (`txn-core/src/payment.rs`), and each
//! record says enough to see whether they came to the same.

use model::record::{ANY_LEG, PAY_STATED, PayBody, RefundLine};
use model::reply::share;
use model::{
    AccountKind, Currency, LegState, LineKind, OrderState, Outcome, PayStep, PaymentMethod, Time,
};

use super::book::{Closed, Differs, Posts};

/// An order.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub number: i64,
    pub buyer: u64,
    pub id: u128,
    pub placed: Time,
    pub changed: Time,
    pub outcome: Outcome,
    pub state: OrderState,
    pub currency: Currency,
    pub total: u64,
    pub refunded: u64,
    pub forfeits: bool,
    pub received: bool,
    pub lines: Vec<Line>,
    pub payments: Vec<Payment>,
}

/// A line of it.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub kind: LineKind,
    pub item: Option<u64>,
    pub payee: Option<u64>,
    pub quantity: u32,
    pub unit_price: Option<u64>,
    pub discount: u64,
    pub refunded: u32,
}

/// A payment leg of it.
#[derive(Clone, Debug)]
pub(super) struct Payment {
    pub method: PaymentMethod,
    pub state: LegState,
    pub amount: u64,
    pub paid: u64,
    pub refunded: u64,
    pub suspended: u64,
    pub coupon: Option<u64>,
    pub funder: Option<u64>,
    pub deadline: Option<Time>,
}

impl Line {
    /// What it comes to.
    fn net(&self) -> Result<u64, Differs> {
        let price = u128::from(self.unit_price.unwrap_or(0)) * u128::from(self.quantity);
        let net = price.checked_sub(self.discount.into()).and_then(|net| u64::try_from(net).ok());
        net.ok_or(Differs("a line's total"))
    }

    fn payee(&self) -> Result<u64, Differs> {
        self.payee.ok_or(Differs("a line without a payee"))
    }
}

impl Payment {
    fn allows(&self, step: PayStep) -> bool {
        match (step, self.state) {
            (PayStep::Void, state) => state == LegState::Authorised,
            (_, LegState::Awaited | LegState::Voided) => true,
            (PayStep::External, state) => state == LegState::Authorised,
            _ => false,
        }
    }
}

impl Order {
    /// What was paid with the order, and, if that was all, its sale.
    pub(super) fn post_placed(&self, closed: &Closed, posts: &mut Posts) -> Result<(), Differs> {
        let mut paid = 0u64;
        for payment in self.payments.iter().filter(|leg| leg.state == LegState::Captured) {
            self.post_source(payment, closed, -i128::from(payment.amount), posts)?;
            paid += payment.amount;
        }
        match self.state {
            OrderState::Paid => self.post_sale(posts),
            _ => {
                posts.add(AccountKind::Deposit, self.buyer, self.currency, paid.into());
                Ok(())
            }
        }
    }

    /// The lines' money becomes their payees'.
    fn post_sale(&self, posts: &mut Posts) -> Result<(), Differs> {
        for line in &self.lines {
            let net = line.net()?.into();
            posts.add(AccountKind::Payable, line.payee()?, self.currency, net);
        }
        Ok(())
    }

    /// The account that a leg's money came from, or that takes it back.
    fn post_source(
        &self,
        payment: &Payment,
        closed: &Closed,
        amount: i128,
        posts: &mut Posts,
    ) -> Result<(), Differs> {
        let main = (self.buyer, AccountKind::Main as u8, self.currency.numeric());
        let (kind, party) = match payment.method {
            PaymentMethod::Balance if closed.contains(&main) => (AccountKind::Suspense, self.buyer),
            PaymentMethod::Balance => (AccountKind::Main, self.buyer),
            // What coupons have cost is swept with what was sold.
            PaymentMethod::Coupon => {
                (AccountKind::Payable, payment.funder.ok_or(Differs("a coupon without a funder"))?)
            }
            PaymentMethod::External | PaymentMethod::Awaited => (AccountKind::Clearing, 0),
        };
        posts.add(kind, party, self.currency, amount);
        Ok(())
    }

    /// A payment step that was done: `state` afterwards, and what it came to.
    pub(super) fn pay(
        &mut self,
        body: &PayBody,
        (state, amount): (OrderState, u64),
        posts: &mut Posts,
    ) -> Result<(), Differs> {
        let step = PayStep::from_byte(body.step).ok_or(Differs("a payment step"))?;
        let open = match usize::from(body.leg.get()) {
            named if named < self.payments.len() => Some(named),
            _ if body.leg.get() == ANY_LEG => self.payments.iter().position(|leg| leg.allows(step)),
            _ => None,
        };
        let open = open.filter(|number| self.payments[*number].allows(step));
        let leg = &mut self.payments[open.ok_or(Differs("the leg that was paid"))?];
        let left = leg.amount - leg.paid;
        let (source, party) = match step {
            PayStep::Authorise => {
                leg.state = LegState::Authorised;
                return Ok(());
            }
            PayStep::Void => {
                leg.state = LegState::Voided;
                return Ok(());
            }
            PayStep::Balance => (AccountKind::Main, self.buyer),
            PayStep::External => (AccountKind::Clearing, 0),
        };
        let is_stated = step == PayStep::External && body.flags & PAY_STATED != 0;
        let came = if is_stated { body.stated.get() } else { left };
        let taken = came.min(left);
        if taken != amount {
            return Err(Differs("what a payment came to"));
        }
        leg.method = match step {
            PayStep::Balance => PaymentMethod::Balance,
            _ => PaymentMethod::External,
        };
        leg.paid += taken;
        leg.suspended += came - taken;
        if taken == left {
            leg.state = LegState::Captured;
        }
        posts.add(source, party, self.currency, -i128::from(came));
        posts.add(AccountKind::Suspense, self.buyer, self.currency, (came - taken).into());
        posts.add(AccountKind::Deposit, self.buyer, self.currency, taken.into());
        if state == OrderState::Paid {
            let total = -i128::from(self.total);
            posts.add(AccountKind::Deposit, self.buyer, self.currency, total);
            self.post_sale(posts)?;
        }
        self.state = state;
        Ok(())
    }

    /// Money came from outside that the order can't take.
    pub(super) fn suspend(&mut self, body: &PayBody, amount: u64, posts: &mut Posts) {
        posts.add(AccountKind::Clearing, 0, self.currency, -i128::from(amount));
        posts.add(AccountKind::Suspense, self.buyer, self.currency, amount.into());
        let is_outside =
            |leg: &Payment| matches!(leg.method, PaymentMethod::External | PaymentMethod::Awaited);
        let number = match usize::from(body.leg.get()) {
            named if named < self.payments.len() => Some(named),
            _ => self.payments.iter().rposition(is_outside),
        };
        if let Some(leg) = number.map(|number| &mut self.payments[number]) {
            leg.suspended = leg.suspended.saturating_add(amount);
            if leg.state == LegState::Voided && self.state != OrderState::Reserved {
                leg.state = LegState::Late;
            }
        }
    }

    /// It ended before it was paid: what came goes back, or to the sellers.
    pub(super) fn end(
        &mut self,
        state: OrderState,
        now: Time,
        (amount, returned): (u64, u64),
        closed: &Closed,
        posts: &mut Posts,
    ) -> Result<(), Differs> {
        if self.state != OrderState::Reserved {
            return Ok(()); // It was cancelled while it waited to be decided.
        }
        self.state = state;
        let waits = |leg: &&Payment| matches!(leg.state, LegState::Awaited | LegState::Voided);
        let first = self.payments.iter().filter(waits).filter_map(|leg| leg.deadline).min();
        let forfeits = self.forfeits && first.is_some_and(|first| first <= now);
        let (mut moved, mut forfeited, mut to_buyer) = (0, 0, 0);
        for number in 0..self.payments.len() {
            let leg = &mut self.payments[number];
            if leg.paid == 0 {
                let is_late = leg.suspended > 0;
                leg.state = if is_late { LegState::Late } else { LegState::Voided };
                continue;
            }
            moved += leg.paid;
            if forfeits && leg.method != PaymentMethod::Coupon {
                forfeited += leg.paid;
                continue;
            }
            (leg.state, leg.refunded) = (LegState::Refunded, leg.paid);
            if leg.method == PaymentMethod::Balance {
                to_buyer += leg.paid;
            }
            let leg = leg.clone();
            self.post_source(&leg, closed, leg.paid.into(), posts)?;
        }
        posts.add(AccountKind::Deposit, self.buyer, self.currency, -i128::from(moved));
        let (mut running, mut given) = (0, 0);
        for line in &self.lines {
            running += line.net()?;
            let upto = share(forfeited, running, self.total);
            let part = (upto - given).into();
            posts.add(AccountKind::Payable, line.payee()?, self.currency, part);
            given = upto;
        }
        match (moved, to_buyer) == (amount, returned) {
            true => Ok(()),
            false => Err(Differs("what came back of an order")),
        }
    }

    /// Units of it were given back.
    pub(super) fn refund(
        &mut self,
        asked: &[RefundLine],
        state: OrderState,
        (amount, returned): (u64, u64),
        closed: &Closed,
        posts: &mut Posts,
    ) -> Result<(), Differs> {
        let mut units: Vec<u32> = self
            .lines
            .iter()
            .map(|line| if asked.is_empty() { line.quantity - line.refunded } else { 0 })
            .collect();
        for wanted in asked {
            let units = units.get_mut(usize::from(wanted.line.get()));
            *units.ok_or(Differs("a line that was refunded"))? += wanted.quantity.get();
        }
        let mut sum = 0;
        for (line, units) in self.lines.iter_mut().zip(units) {
            let before = line.refunded;
            let after = before.checked_add(units).filter(|after| *after <= line.quantity);
            let after = after.ok_or(Differs("units that were refunded"))?;
            let (net, whole) = (line.net()?, line.quantity.into());
            let part = share(net, after.into(), whole) - share(net, before.into(), whole);
            line.refunded = after;
            sum += part;
            posts.add(AccountKind::Payable, line.payee()?, self.currency, -i128::from(part));
        }
        let all: u64 = self.payments.iter().map(|leg| leg.paid - leg.refunded).sum();
        let (mut running, mut given, mut to_buyer) = (0, 0, 0);
        for number in 0..self.payments.len() {
            let leg = &mut self.payments[number];
            running += leg.paid - leg.refunded;
            let upto = share(sum, running, all);
            let part = upto - given;
            given = upto;
            if part == 0 {
                continue;
            }
            leg.refunded += part;
            if leg.refunded == leg.paid {
                leg.state = LegState::Refunded;
            }
            if leg.method == PaymentMethod::Balance {
                to_buyer += part;
            }
            let leg = leg.clone();
            self.post_source(&leg, closed, part.into(), posts)?;
        }
        self.refunded += sum;
        self.state = state;
        match (sum, to_buyer) == (amount, returned) {
            true => Ok(()),
            false => Err(Differs("what a refund came to")),
        }
    }
}
