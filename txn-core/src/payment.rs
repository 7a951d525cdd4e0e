//! What may happen to an order after it was placed: it is paid, cancelled, expires, is received
//! or refunded.
//!
//! An order that waits has legs, each paid by itself. What came for it lies in the buyer's
//! deposit account until all of it is there; then the sellers are paid. If the order ends before
//! that, the money goes back where it came from, or, where the order says so and the buyer let a
//! deadline pass, to the sellers: also if the buyer cancels before the timer fires.
//!
//! What comes from outside is booked, whatever the order's state: what the order can't take is
//! the buyer's, in suspense.
//!
//! A refund gives back a part of each line's total, rounded down, so that the last unit brings
//! the rest; and it is split over the legs by what is left of each, by running sums rounded down.
//! So no penny appears or goes missing, and the whole comes back in the end.

use model::planted::{Bug, is_planted};
use model::record::{
    IssueCouponBody, PAY_STATED, PayBody, REFUND_RESTOCK, RefundBody, RefundLine, TimerBody,
    TimerKind,
};
use model::reply::share;
use model::{
    AccountKind, Currency, ItemId, LegState, OrderId, OrderState, Outcome, Party, PayStep,
    PaymentMethod,
};

use crate::arena::Pos;
use crate::coupons::OneCoupon;
use crate::orders::{COUNTS, FORFEIT, OrderHead, OrderLeg, OrderLine, RECEIVED};
use crate::place::Resolved;
use crate::realm::{Decision, RealmState};
use crate::shard::checked;

/// What an order's state was when it could not be changed.
fn answer(head: &OrderHead, outcome: Outcome) -> Decision {
    let state = OrderState::from_byte(head.state);
    Decision { state, previous: head.last, ..Decision::of(outcome) }
}

impl RealmState {
    pub(crate) fn pay(&mut self, buyer: Party, body: &PayBody) -> Decision {
        let Some(pos) = self.orders.find(buyer, OrderId(body.order.get())) else {
            return Decision::of(Outcome::UnknownOrder);
        };
        let head = *self.orders.head(pos);
        let step = PayStep::from_byte(body.step).expect("the record was checked");
        let stated = (body.flags & PAY_STATED != 0).then(|| body.stated.get());
        let overdue = head.moment != 0 && head.moment <= self.now.0;
        let waits = head.state == OrderState::Reserved as u8 && !overdue;
        let open = if waits { self.open_leg(pos, body.leg.get(), step) } else { None };
        match (open, step, stated) {
            (Some(leg), PayStep::Balance, _) => self.pay_from_balance(pos, leg, stated),
            (Some(leg), PayStep::External, _) => self.pay_from_outside(pos, leg, stated),
            (Some(leg), PayStep::Authorise, _) => {
                let open = self.orders.legs(pos)[leg].open();
                if stated.is_some_and(|amount| amount != open) {
                    return answer(&head, Outcome::WrongState);
                }
                // Awaited -> Authorised: the order doesn't expire by this leg.
                self.set_leg(pos, leg, LegState::Authorised, open)
            }
            (Some(leg), PayStep::Void, _) => {
                let open = self.orders.legs(pos)[leg].open();
                // Authorised -> Voided: its deadline counts again.
                self.set_leg(pos, leg, LegState::Voided, open)
            }
            (None, PayStep::External, Some(amount)) => {
                self.suspend_payment(pos, body.leg.get(), amount)
            }
            _ => answer(&head, Outcome::WrongState),
        }
    }

    /// The leg that a step is about: the one named, or the first that allows it.
    fn open_leg(&self, pos: Pos, named: u16, step: PayStep) -> Option<usize> {
        let allows = |leg: &OrderLeg| match (step, leg.state()) {
            (PayStep::Void, state) => state == LegState::Authorised,
            (_, LegState::Awaited | LegState::Voided) => true,
            (PayStep::External, state) => state == LegState::Authorised,
            _ => false,
        };
        let legs = self.orders.legs(pos);
        match usize::from(named) {
            number if number < legs.len() => Some(number).filter(|_| allows(&legs[number])),
            _ if named == model::record::ANY_LEG => legs.iter().position(allows),
            _ => None,
        }
    }

    fn set_leg(&mut self, pos: Pos, leg: usize, state: LegState, amount: u64) -> Decision {
        self.orders.legs_mut(pos)[leg].state = state as u8;
        self.set_order_timer(pos);
        let head = self.orders.head(pos);
        let state = OrderState::from_byte(head.state);
        Decision { state, previous: head.last, ..Decision::ok(amount) }
    }

    /// An order that waits expires by the first deadline of a leg that nobody has promised.
    fn set_order_timer(&mut self, pos: Pos) {
        let moment = first_deadline(self.orders.legs(pos));
        let head = self.orders.head_mut(pos);
        let before = std::mem::replace(&mut head.moment, moment);
        if before != moment {
            self.timers.remove(&(before, TimerKind::Order, pos.0));
            if moment != 0 {
                self.timers.insert((moment, TimerKind::Order, pos.0));
            }
        }
    }

    fn pay_from_balance(&mut self, pos: Pos, leg: usize, stated: Option<u64>) -> Decision {
        let head = *self.orders.head(pos);
        let found = self.orders.legs(pos)[leg];
        let amount = found.open();
        // What came from outside goes back there: a leg has one source.
        if found.paid > 0 || stated.is_some_and(|stated| stated != amount) {
            return answer(&head, Outcome::WrongState);
        }
        let key = (Party(head.buyer), checked(head.currency), AccountKind::Main);
        let Some(payer) = self.ledger.find_open(key) else {
            return answer(&head, Outcome::UnknownAccount);
        };
        if self.ledger.available(payer) < i128::from(amount) {
            return answer(&head, Outcome::InsufficientFunds);
        }
        self.take_payment(pos, leg, PaymentMethod::Balance, payer, (amount, 0))
    }

    fn pay_from_outside(&mut self, pos: Pos, leg: usize, stated: Option<u64>) -> Decision {
        let open = self.orders.legs(pos)[leg].open();
        let came = stated.unwrap_or(open);
        let taken = came.min(open);
        let clearing = self.clearing(checked(self.orders.head(pos).currency));
        self.take_payment(pos, leg, PaymentMethod::External, clearing, (taken, came - taken))
    }

    /// Takes a payment for a leg, and what came beyond that into suspense.
    fn take_payment(
        &mut self,
        pos: Pos,
        number: usize,
        method: PaymentMethod,
        payer: Pos,
        (taken, beyond): (u64, u64),
    ) -> Decision {
        let head = *self.orders.head(pos);
        let (buyer, currency) = (Party(head.buyer), checked(head.currency));
        let deposit = self.ledger.find_or_make((buyer, currency, AccountKind::Deposit));
        let suspense = match beyond {
            0 => None,
            _ => Some(self.ledger.find_or_make((buyer, currency, AccountKind::Suspense))),
        };
        let leg = self.orders.legs(pos)[number];
        let paid_up = leg.open() == taken;
        let legs = self.orders.legs(pos).iter().enumerate();
        let completes =
            paid_up && legs.filter(|(other, _)| *other != number).all(|(_, leg)| is_captured(leg));
        let Some(came) = taken.checked_add(beyond) else { return Decision::of(Outcome::Invalid) };
        let takes = self.ledger.can_debit(payer, came)
            && self.ledger.can_credit(deposit, taken)
            && suspense.is_none_or(|suspense| self.ledger.can_credit(suspense, beyond));
        if completes {
            self.resolve(pos);
        }
        let can_complete = !completes
            || (self.ledger.can_debit(deposit, head.total) && self.sellers_can_take(head.total));
        if !(takes && can_complete) {
            return Decision::of(Outcome::Invalid);
        }

        self.ledger.debit(payer, came);
        self.ledger.credit(deposit, taken);
        let mut statement = self.ledger.link(payer, self.offset);
        if let Some(suspense) = suspense {
            self.ledger.credit(suspense, beyond);
            statement = self.ledger.link(suspense, self.offset);
        }
        let leg = &mut self.orders.legs_mut(pos)[number];
        leg.method = method as u8;
        leg.paid += taken;
        leg.suspended += beyond;
        if paid_up {
            // Awaited or Authorised -> Captured.
            leg.state = LegState::Captured as u8;
        }
        if completes {
            // Reserved -> Paid: the units are sold, the money is the sellers'.
            self.ledger.debit(deposit, head.total);
            self.sell(true);
            self.timers.remove(&(head.moment, TimerKind::Order, pos.0));
            let step = self.step;
            let is_only = self.orders.legs(pos).len() == 1;
            let head = self.orders.head_mut(pos);
            head.state = OrderState::Paid as u8;
            head.moment = u64::from(step);
            if is_only {
                head.method = method as u8;
            }
        } else {
            self.set_order_timer(pos);
        }
        let head = self.orders.head(pos);
        let state = OrderState::from_byte(head.state);
        Decision { state, previous: head.last, statement, ..Decision::ok(taken) }
    }

    /// Books money that came from outside for an order that can't take it.
    fn suspend_payment(&mut self, pos: Pos, named: u16, amount: u64) -> Decision {
        let head = *self.orders.head(pos);
        let (buyer, currency) = (Party(head.buyer), checked(head.currency));
        let clearing = self.clearing(currency);
        let suspense = self.ledger.find_or_make((buyer, currency, AccountKind::Suspense));
        let takes =
            self.ledger.can_debit(clearing, amount) && self.ledger.can_credit(suspense, amount);
        if !takes {
            return Decision::of(Outcome::Invalid);
        }
        self.ledger.post(clearing, suspense, amount);
        let statement = self.ledger.link(suspense, self.offset);
        let legs = self.orders.legs_mut(pos);
        // It shows with the leg that was named, or with the last that is paid from outside.
        let is_outside = |leg: &OrderLeg| {
            matches!(leg.method(), PaymentMethod::External | PaymentMethod::Awaited)
        };
        let number = match usize::from(named) {
            number if number < legs.len() => Some(number),
            _ => legs.iter().rposition(is_outside),
        };
        let is_over = head.state != OrderState::Reserved as u8;
        if let Some(leg) = number.and_then(|number| legs.get_mut(number)) {
            leg.suspended = leg.suspended.saturating_add(amount);
            if leg.state() == LegState::Voided && is_over {
                // Voided -> Late: it came after all.
                leg.state = LegState::Late as u8;
            }
        }
        Decision { amount, statement, ..answer(&head, Outcome::Suspended) }
    }

    pub(crate) fn cancel(&mut self, buyer: Party, id: OrderId) -> Decision {
        let Some(pos) = self.orders.find(buyer, id) else {
            return Decision::of(Outcome::UnknownOrder);
        };
        let head = *self.orders.head(pos);
        let withdrawn = head.outcome == Outcome::WrongState as u8;
        if head.state == OrderState::Cancelled as u8 && withdrawn {
            // It was cancelled while it waited, by this.
            let state = Some(OrderState::Cancelled);
            return Decision { state, previous: head.last, ..Decision::ok(0) };
        }
        if head.state != OrderState::Reserved as u8 {
            return answer(&head, Outcome::WrongState);
        }
        // Reserved -> Cancelled: the units can be sold again.
        self.end_order(pos, OrderState::Cancelled)
    }

    /// A timer that is due: the first there is.
    pub(crate) fn fire(&mut self, party: Party, body: &TimerBody) -> Decision {
        let Some((kind, due_party, id, due)) = self.due(self.now) else {
            return Decision::of(Outcome::Invalid);
        };
        let named = (body.kind, party, body.order.get(), body.due.get());
        if named != (kind as u8, due_party, id, due.0) {
            return Decision::of(Outcome::Invalid);
        }
        if kind == TimerKind::Hold {
            return self.release_overdue(party, id);
        }
        let pos = self.orders.find(party, OrderId(id)).expect("a timer's order is there");
        // Reserved -> Expired: the units can be sold again.
        let decision = self.end_order(pos, OrderState::Expired);
        self.orders.set_last(pos, self.offset);
        decision
    }

    /// Ends an order that waits for its payment.
    fn end_order(&mut self, pos: Pos, state: OrderState) -> Decision {
        let head = *self.orders.head(pos);
        self.timers.remove(&(head.moment, TimerKind::Order, pos.0));
        self.resolve(pos);
        for number in 0..self.resolved.len() {
            let Resolved { item: Some(item), quantity, .. } = self.resolved[number] else {
                continue;
            };
            let units = u64::from(quantity);
            let found = self.inventory.get_mut(item);
            found.reserved -= units;
            let id = ItemId(found.id);
            if head.flags & COUNTS != 0 {
                self.limits.remove(Party(head.buyer), id, units);
            }
            self.free(item, units);
        }
        // Whoever cancels before the timer fires has let the deadline pass as well.
        let is_overdue = head.moment != 0 && head.moment <= self.now.0;
        let forfeits = is_overdue && head.flags & FORFEIT != 0;
        let ended = self.end_legs(pos, forfeits);
        self.orders.head_mut(pos).state = state as u8;
        Decision { state: Some(state), previous: head.last, ..ended }
    }

    /// Gives back what came for an order, or, if that is forfeit, to the sellers.
    fn end_legs(&mut self, pos: Pos, forfeits: bool) -> Decision {
        let head = *self.orders.head(pos);
        let (buyer, currency) = (Party(head.buyer), checked(head.currency));
        let (mut moved, mut forfeited) = (0, 0);
        let (mut statement, mut returned) = (0, 0);
        for number in 0..self.orders.legs(pos).len() {
            let leg = self.orders.legs(pos)[number];
            if leg.paid == 0 {
                // Overdue, it may have been paid before its timer fired.
                let state = if leg.suspended > 0 { LegState::Late } else { LegState::Voided };
                self.orders.legs_mut(pos)[number].state = state as u8;
                continue;
            }
            let deposit = self.ledger.find_or_make((buyer, currency, AccountKind::Deposit));
            if forfeits && leg.method() != PaymentMethod::Coupon {
                forfeited += leg.paid;
                continue;
            }
            let to = self.source_of(buyer, currency, &leg);
            let takes =
                self.ledger.can_debit(deposit, leg.paid) && self.ledger.can_credit(to, leg.paid);
            let logged = &mut self.orders.legs_mut(pos)[number];
            if !takes {
                // 2⁶⁴ pence went through that account. The money stays where it is, and shows.
                logged.state = LegState::Late as u8;
                continue;
            }
            logged.state = LegState::Refunded as u8;
            logged.refunded = leg.paid;
            self.ledger.post(deposit, to, leg.paid);
            moved += leg.paid;
            match leg.method() {
                PaymentMethod::Coupon => self.set_coupon(buyer, leg.term, false),
                PaymentMethod::Balance => {
                    let before = self.ledger.link(to, self.offset);
                    // Several legs may go to one account: the first link leads on.
                    statement = if before == self.offset.0 { statement } else { before };
                    returned += leg.paid;
                }
                _ => {}
            }
        }
        if forfeited > 0 {
            moved += self.forfeit(buyer, currency, head.total, forfeited);
        }
        Decision { statement, returned, ..Decision::ok(moved) }
    }

    /// Pays the sellers what a buyer forfeits, each by its part of the order's total.
    fn forfeit(&mut self, buyer: Party, currency: Currency, total: u64, amount: u64) -> u64 {
        let deposit = self.ledger.find_or_make((buyer, currency, AccountKind::Deposit));
        if !(self.ledger.can_debit(deposit, amount) && self.sellers_can_take(amount)) {
            return 0; // 2⁶⁴ pence went through one of them: it stays in the deposit.
        }
        self.ledger.debit(deposit, amount);
        let (mut running, mut given) = (0, 0);
        for number in 0..self.resolved.len() {
            let Resolved { payable, net, .. } = self.resolved[number];
            running += net;
            let upto = share(amount, running, total);
            self.ledger.earn(payable, upto - given, self.step);
            given = upto;
        }
        amount
    }

    pub(crate) fn refund(
        &mut self,
        buyer: Party,
        refund: &RefundBody,
        asked: &[RefundLine],
    ) -> Decision {
        let Some(pos) = self.orders.find(buyer, OrderId(refund.order.get())) else {
            return Decision::of(Outcome::UnknownOrder);
        };
        let head = *self.orders.head(pos);
        let refused = |line: Option<u16>| Decision { line, ..answer(&head, Outcome::WrongState) };
        let state = OrderState::from_byte(head.state);
        if !matches!(state, Some(OrderState::Paid | OrderState::PartlyRefunded)) {
            return refused(None);
        }
        self.resolve(pos);
        if let Err(line) = self.ask_units(pos, asked) {
            return refused(Some(line));
        }
        // From here on a line's `net` is what is given back of it.
        let mut amount = 0u64;
        for (line, resolved) in self.orders.lines(pos).iter().zip(&mut self.resolved) {
            let before = refunded_of(line);
            let (after, whole) = (before + resolved.quantity, u64::from(line.quantity));
            resolved.net = share(resolved.net, after.into(), whole)
                - share(resolved.net, before.into(), whole);
            amount += resolved.net; // No more than the order's total.
        }
        let can_debit = |line: &Resolved| self.ledger.can_debit(line.payable, amount);
        if !self.resolved.iter().all(can_debit) {
            return Decision::of(Outcome::Invalid);
        }
        let Some((statement, returned)) = self.give_to_payers(pos, amount) else {
            return Decision::of(Outcome::Invalid);
        };

        // Paid -> PartlyRefunded -> Refunded: the sellers' credit goes back to who paid.
        let (sold, step) = (head.moment as u32, self.step);
        for number in 0..self.resolved.len() {
            let Resolved { item, payable, net, quantity, .. } = self.resolved[number];
            match head.flags & RECEIVED {
                0 => self.ledger.give_back(payable, net, sold, step),
                _ => self.ledger.debit(payable, net),
            }
            let restock = refund.flags & REFUND_RESTOCK != 0 && quantity > 0;
            if let (Some(item), true) = (item, restock) {
                self.inventory.get_mut(item).sold -= u64::from(quantity);
                self.free(item, quantity.into());
            }
        }
        let mut left = false;
        for (line, resolved) in self.orders.lines_mut(pos).iter_mut().zip(&self.resolved) {
            line.refunded += resolved.quantity;
            left |= line.refunded < line.quantity;
        }
        let state = if left { OrderState::PartlyRefunded } else { OrderState::Refunded };
        let head = self.orders.head_mut(pos);
        head.state = state as u8;
        head.refunded += amount;
        let state = Some(state);
        Decision { state, previous: head.last, statement, returned, ..Decision::ok(amount) }
    }

    /// Says for each line that was resolved how many units of it to refund. An error names what
    /// was asked for beyond what is left.
    fn ask_units(&mut self, pos: Pos, asked: &[RefundLine]) -> Result<(), u16> {
        let lines = self.orders.lines(pos);
        for (resolved, line) in self.resolved.iter_mut().zip(lines) {
            resolved.quantity = if asked.is_empty() { line.quantity - line.refunded } else { 0 };
        }
        for (number, wanted) in asked.iter().enumerate() {
            let at = usize::from(wanted.line.get());
            let Some(line) = lines.get(at) else { return Err(number as u16) };
            let left = line.quantity - refunded_of(line) - self.resolved[at].quantity;
            if wanted.quantity.get() > left {
                return Err(number as u16);
            }
            self.resolved[at].quantity += wanted.quantity.get();
        }
        Ok(())
    }

    /// Gives money back to who paid an order: the link of the buyer's statement, and how much the
    /// buyer's own account got. `None`: an account's sums can't take it, and nothing changed.
    fn give_to_payers(&mut self, pos: Pos, amount: u64) -> Option<(u64, u64)> {
        let head = *self.orders.head(pos);
        let (buyer, currency) = (Party(head.buyer), checked(head.currency));
        if self.orders.legs(pos).is_empty() {
            let leg = OrderLeg { method: head.method, ..OrderLeg::default() };
            let to = self.source_of(buyer, currency, &leg);
            if !self.ledger.can_credit(to, amount) {
                return None;
            }
            self.ledger.credit(to, amount);
            let returned = if leg.method() == PaymentMethod::Balance { amount } else { 0 };
            return Some((self.ledger.link(to, self.offset), returned));
        }
        let count = self.orders.legs(pos).len();
        for number in 0..count {
            let leg = self.orders.legs(pos)[number];
            let to = self.source_of(buyer, currency, &leg);
            if !self.ledger.can_credit(to, amount) {
                return None;
            }
        }
        let left_of = |leg: &OrderLeg| leg.paid - leg.refunded;
        let all: u64 = self.orders.legs(pos).iter().map(left_of).sum();
        let (mut running, mut given) = (0, 0);
        let (mut statement, mut returned) = (0, 0);
        for number in 0..count {
            let leg = self.orders.legs(pos)[number];
            running += left_of(&leg);
            let upto = share(amount, running, all);
            let part = upto - given;
            given = upto;
            if part == 0 {
                continue;
            }
            let to = self.source_of(buyer, currency, &leg);
            self.ledger.credit(to, part);
            if leg.method() == PaymentMethod::Balance {
                let before = self.ledger.link(to, self.offset);
                statement = if before == self.offset.0 { statement } else { before };
                returned += part;
            }
            let leg = &mut self.orders.legs_mut(pos)[number];
            leg.refunded += part;
            if leg.refunded == leg.paid {
                // Captured -> Refunded.
                leg.state = LegState::Refunded as u8;
            }
        }
        Some((statement, returned))
    }

    /// The account that a leg's money came from, or that takes it back: where the buyer has
    /// closed it, suspense.
    pub(crate) fn source_of(&mut self, buyer: Party, currency: Currency, leg: &OrderLeg) -> Pos {
        match leg.method() {
            PaymentMethod::Balance => {
                let main = self.ledger.find_open((buyer, currency, AccountKind::Main));
                let key = (buyer, currency, AccountKind::Suspense);
                main.unwrap_or_else(|| self.ledger.find_or_make(key))
            }
            PaymentMethod::Coupon => {
                let coupon = self.coupons.find((buyer.0, leg.term)).expect("the leg was planned");
                let funder = Party(self.coupons.get(coupon).funder);
                self.ledger.find_or_make((funder, currency, AccountKind::Funding))
            }
            _ => self.clearing(currency),
        }
    }

    /// Confirms that an order was received: its money is pending no longer.
    pub(crate) fn receive(&mut self, buyer: Party, id: OrderId) -> Decision {
        let Some(pos) = self.orders.find(buyer, id) else {
            return Decision::of(Outcome::UnknownOrder);
        };
        let head = *self.orders.head(pos);
        let state = OrderState::from_byte(head.state);
        let is_paid = matches!(state, Some(OrderState::Paid | OrderState::PartlyRefunded));
        if !is_paid || head.flags & RECEIVED != 0 {
            return answer(&head, Outcome::WrongState);
        }
        self.resolve(pos);
        let mut amount = 0;
        for number in 0..self.resolved.len() {
            let Resolved { payable, net, .. } = self.resolved[number];
            let line = self.orders.lines(pos)[number];
            let left = net - share(net, line.refunded.into(), line.quantity.into());
            self.ledger.ripen(payable, left, head.moment as u32, self.step);
            amount += left;
        }
        self.orders.head_mut(pos).flags |= RECEIVED;
        Decision { amount, ..answer(&head, Outcome::Ok) }
    }

    pub(crate) fn issue_coupon(&mut self, buyer: Party, body: &IssueCouponBody) -> Decision {
        let number = body.number.get();
        let coupon = OneCoupon {
            buyer: buyer.0,
            number,
            funder: body.funder.get(),
            seller: body.seller.get(),
            amount: body.amount.get(),
            minimum: body.minimum.get(),
            expires: body.expires.get(),
            currency: body.currency.get(),
            ..OneCoupon::default()
        };
        if let Some(pos) = self.coupons.find((buyer.0, number)) {
            let found = OneCoupon { used: 0, ..*self.coupons.get(pos) };
            let outcome = if found == coupon { Outcome::AlreadyDone } else { Outcome::IdReused };
            let amount = if found == coupon { coupon.amount } else { 0 };
            return Decision { amount, ..Decision::of(outcome) };
        }
        self.coupons.insert(coupon);
        Decision::ok(coupon.amount)
    }

    pub(crate) fn set_coupon(&mut self, buyer: Party, number: u64, used: bool) {
        let coupon = self.coupons.find((buyer.0, number)).expect("the leg was planned");
        self.coupons.get_mut(coupon).used = used.into();
    }
}

/// Units of a line that were refunded before.
fn refunded_of(line: &OrderLine) -> u32 {
    if is_planted(Bug::RefundOfRefund) { 0 } else { line.refunded }
}

fn is_captured(leg: &OrderLeg) -> bool {
    leg.state() == LegState::Captured
}

/// When the first leg that nobody has promised is due; 0: none is.
pub(crate) fn first_deadline(legs: &[OrderLeg]) -> u64 {
    let waits = |leg: &&OrderLeg| {
        matches!(leg.state(), LegState::Awaited | LegState::Voided) && leg.term != 0
    };
    legs.iter().filter(waits).map(|leg| leg.term).min().unwrap_or(0)
}
