//! Placing an order, and what may happen to it afterwards.
//!
//! An order is placed whole or not at all. Its units are taken line by line, so that the same
//! item on several lines counts as a sum; a refusal gives back what was taken.

use model::frame::FrameBuilder;
use model::record::{
    LINE_AGREED, Leg, Line, PayBody, PlaceBody, REFUND_RESTOCK, Record, RefundBody, RefundLine,
    place_mut, set_outcome,
};
use model::{
    AccountKind, Amount, ItemId, Offset, OrderId, OrderState, Outcome, Party, PaymentMethod, Reply,
};

use crate::arena::Pos;
use crate::orders::{OrderHead, OrderLine, halves};
use crate::shard::{Decision, Shard, checked};

/// A line of the order at hand, with what was found for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resolved {
    item: Pos,
    payable: Pos,
    unit_price: u64,
    quantity: u32,
}

impl Shard {
    pub(crate) fn place(
        &mut self,
        command: &Record<'_>,
        digest: u64,
        order: &PlaceBody,
        leg: &Leg,
        lines: &[Line],
        frame: &mut FrameBuilder,
    ) -> Reply {
        let (buyer, id) = (command.party(), OrderId(command.header.id.get()));
        if let Some(pos) = self.orders.find(buyer, id) {
            return self.repeated_order(pos, digest);
        }
        let method = PaymentMethod::from_byte(leg.method).expect("the record was checked");
        let decision = self.decide_order(buyer, checked(order.currency.get()), method, lines);
        if !decision.outcome.is_logged() {
            return decision.unlogged();
        }
        let done = decision.outcome == Outcome::Ok;
        let head = OrderHead {
            buyer: buyer.0,
            id: halves(id.0),
            digest,
            total: decision.amount,
            refunded: decision.line.map_or(0, |line| u64::from(line) + 1),
            last: self.next_offset().0,
            line_count: if done { lines.len() as u16 } else { 0 },
            currency: order.currency.get(),
            state: decision.state.map_or(0, |state| state as u8),
            outcome: decision.outcome as u8,
            method: leg.method,
            unused: 0,
        };
        let kept = lines.iter().zip(&self.resolved).map(|(line, resolved)| OrderLine {
            item: line.item.get(),
            unit_price: resolved.unit_price,
            quantity: resolved.quantity,
            refunded: 0,
        });
        self.orders.insert(head, kept);

        let bytes = frame.push(command.bytes);
        let state = decision.state.map_or(0, |state| state as u8);
        set_outcome(bytes, decision.outcome, state, 0, decision.amount);
        let placed = place_mut(bytes);
        placed.order.refused_line = decision.line.map_or(0, |line| line + 1).into();
        if done {
            placed.leg.amount = decision.amount.into();
            for (line, resolved) in placed.lines.iter_mut().zip(&self.resolved) {
                line.unit_price = resolved.unit_price.into();
            }
        }
        decision.reply(Some(self.take_offset()))
    }

    fn repeated_order(&self, pos: Pos, digest: u64) -> Reply {
        let head = self.orders.head(pos);
        if head.digest != digest {
            return Decision::of(Outcome::IdReused).unlogged();
        }
        let first = Outcome::from_byte(head.outcome).expect("the core wrote it");
        Reply {
            outcome: if first == Outcome::Ok { Outcome::AlreadyDone } else { first },
            state: OrderState::from_byte(head.state),
            line: head.refused_line(),
            amount: Amount(head.total),
            offset: Some(Offset(head.last)),
        }
    }

    /// Takes units and money, or nothing.
    fn decide_order(
        &mut self,
        buyer: Party,
        currency: model::Currency,
        method: PaymentMethod,
        lines: &[Line],
    ) -> Decision {
        let refused =
            |outcome| Decision { state: Some(OrderState::Refused), ..Decision::of(outcome) };
        self.resolved.clear();
        let payer = match method {
            PaymentMethod::Balance => {
                match self.ledger.find((buyer, currency, AccountKind::Main)) {
                    Some(payer) => Some(payer),
                    None => return refused(Outcome::UnknownAccount),
                }
            }
            PaymentMethod::External => Some(self.clearing(currency)),
            PaymentMethod::Awaited => None,
        };

        let mut total = 0u64;
        let mut stopped = None;
        for (number, line) in lines.iter().enumerate() {
            match self.take_units(line, currency) {
                Ok(resolved) => {
                    // A line is at most 10¹⁵ × 10⁹, which needs more than 64 bits.
                    let price = u128::from(resolved.unit_price) * u128::from(resolved.quantity);
                    self.resolved.push(resolved);
                    match u128::from(total).checked_add(price) {
                        Some(sum) if sum <= u128::from(Amount::MAX.0) => total = sum as u64,
                        _ => {
                            stopped = Some((Outcome::Invalid, number));
                            break;
                        }
                    }
                }
                Err(outcome) => {
                    stopped = Some((outcome, number));
                    break;
                }
            }
        }
        if stopped.is_none() && !self.can_pay(payer, method, total) {
            self.give_units_back();
            return refused(Outcome::InsufficientFunds);
        }
        if stopped.is_none() && !self.sums_can_take(payer, total) {
            self.give_units_back();
            return Decision::of(Outcome::Invalid);
        }
        if let Some((outcome, number)) = stopped {
            self.give_units_back();
            let state = outcome.is_logged().then_some(OrderState::Refused);
            return Decision { state, line: Some(number as u16), ..Decision::of(outcome) };
        }

        match payer {
            // Placed -> Paid: the buyer's money becomes the sellers' credit.
            Some(payer) => {
                self.ledger.debit(payer, total);
                for number in 0..self.resolved.len() {
                    let Resolved { item, payable, unit_price, quantity } = self.resolved[number];
                    self.inventory.get_mut(item).sold += u64::from(quantity);
                    self.ledger.credit(payable, unit_price * u64::from(quantity));
                }
                Decision { state: Some(OrderState::Paid), ..Decision::ok(total) }
            }
            // Placed -> Reserved: the units wait with the order.
            None => {
                for resolved in &self.resolved {
                    self.inventory.get_mut(resolved.item).reserved += u64::from(resolved.quantity);
                }
                Decision { state: Some(OrderState::Reserved), ..Decision::ok(total) }
            }
        }
    }

    /// Takes a line's units from what is available.
    fn take_units(&mut self, line: &Line, currency: model::Currency) -> Result<Resolved, Outcome> {
        let pos = self.inventory.find(ItemId(line.item.get())).ok_or(Outcome::UnknownItem)?;
        let item = self.inventory.get_mut(pos);
        if item.currency != currency.numeric() {
            return Err(Outcome::CurrencyMismatch);
        }
        let quantity = line.quantity.get();
        let left = item.available.checked_sub(quantity.into()).ok_or(Outcome::SoldOut)?;
        item.available = left;
        let agreed = line.flags & LINE_AGREED != 0;
        let unit_price = if agreed { line.unit_price.get() } else { item.price };
        Ok(Resolved { item: pos, payable: Pos(item.payable), unit_price, quantity })
    }

    fn give_units_back(&mut self) {
        for resolved in self.resolved.drain(..) {
            self.inventory.get_mut(resolved.item).available += u64::from(resolved.quantity);
        }
    }

    fn can_pay(&self, payer: Option<Pos>, method: PaymentMethod, total: u64) -> bool {
        match (payer, method) {
            (Some(payer), PaymentMethod::Balance) => {
                self.ledger.available(payer) >= i128::from(total)
            }
            _ => true, // Confirmed outside, or not asked yet.
        }
    }

    /// Whether the 64-bit sums of all accounts of the order at hand have room for it.
    fn sums_can_take(&self, payer: Option<Pos>, total: u64) -> bool {
        payer.is_none_or(|payer| self.ledger.can_debit(payer, total))
            && self.resolved.iter().all(|line| self.ledger.can_credit(line.payable, total))
    }

    pub(crate) fn pay(&mut self, buyer: Party, body: &PayBody) -> Decision {
        let Some(pos) = self.orders.find(buyer, OrderId(body.order.get())) else {
            return Decision::of(Outcome::UnknownOrder);
        };
        let head = *self.orders.head(pos);
        let answer = |outcome| Decision {
            state: OrderState::from_byte(head.state),
            previous: head.last,
            ..Decision::of(outcome)
        };
        if head.state != OrderState::Reserved as u8 {
            return answer(Outcome::WrongState);
        }
        let currency = checked(head.currency);
        let method = PaymentMethod::from_byte(body.method).expect("the record was checked");
        let payer = match method {
            PaymentMethod::Balance => {
                match self.ledger.find((buyer, currency, AccountKind::Main)) {
                    Some(payer) => payer,
                    None => return answer(Outcome::UnknownAccount),
                }
            }
            _ => self.clearing(currency),
        };
        if !self.can_pay(Some(payer), method, head.total) {
            return answer(Outcome::InsufficientFunds);
        }
        self.resolve(pos);
        if !self.sums_can_take(Some(payer), head.total) {
            return Decision::of(Outcome::Invalid);
        }
        // Reserved -> Paid: the units are sold, the money is the sellers'.
        self.ledger.debit(payer, head.total);
        for number in 0..self.resolved.len() {
            let Resolved { item, payable, unit_price, quantity } = self.resolved[number];
            let item = self.inventory.get_mut(item);
            item.reserved -= u64::from(quantity);
            item.sold += u64::from(quantity);
            self.ledger.credit(payable, unit_price * u64::from(quantity));
        }
        let head = self.orders.head_mut(pos);
        head.state = OrderState::Paid as u8;
        head.method = body.method;
        Decision { state: Some(OrderState::Paid), previous: head.last, ..Decision::ok(head.total) }
    }

    pub(crate) fn cancel(&mut self, buyer: Party, id: OrderId) -> Decision {
        let Some(pos) = self.orders.find(buyer, id) else {
            return Decision::of(Outcome::UnknownOrder);
        };
        let head = *self.orders.head(pos);
        if head.state != OrderState::Reserved as u8 {
            return Decision {
                state: OrderState::from_byte(head.state),
                previous: head.last,
                ..Decision::of(Outcome::WrongState)
            };
        }
        // Reserved -> Cancelled: the units can be sold again.
        self.resolve(pos);
        for resolved in &self.resolved {
            let item = self.inventory.get_mut(resolved.item);
            item.reserved -= u64::from(resolved.quantity);
            item.available += u64::from(resolved.quantity);
        }
        self.orders.head_mut(pos).state = OrderState::Cancelled as u8;
        Decision { state: Some(OrderState::Cancelled), previous: head.last, ..Decision::ok(0) }
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
        let answer = |outcome, line| Decision {
            state: OrderState::from_byte(head.state),
            previous: head.last,
            line,
            ..Decision::of(outcome)
        };
        let paid = [OrderState::Paid as u8, OrderState::PartlyRefunded as u8];
        if !paid.contains(&head.state) {
            return answer(Outcome::WrongState, None);
        }
        let currency = checked(head.currency);
        let payer = match PaymentMethod::from_byte(head.method) {
            Some(PaymentMethod::Balance) => self.ledger.find((buyer, currency, AccountKind::Main)),
            _ => Some(self.clearing(currency)),
        };
        let payer = payer.expect("an order paid from an account has it");

        self.resolve(pos);
        for resolved in &mut self.resolved {
            resolved.quantity = 0; // From here on: units to refund of the line.
        }
        let lines = self.orders.lines(pos);
        if asked.is_empty() {
            for (resolved, line) in self.resolved.iter_mut().zip(lines) {
                resolved.quantity = line.quantity - line.refunded;
            }
        }
        for (number, wanted) in asked.iter().enumerate() {
            let at = usize::from(wanted.line.get());
            let Some(line) = lines.get(at) else {
                return answer(Outcome::WrongState, Some(number as u16));
            };
            let left = line.quantity - line.refunded - self.resolved[at].quantity;
            if wanted.quantity.get() > left {
                return answer(Outcome::WrongState, Some(number as u16));
            }
            self.resolved[at].quantity += wanted.quantity.get();
        }
        // No more than the order's total comes back, so this can't overflow.
        let amount: u64 =
            self.resolved.iter().map(|line| line.unit_price * u64::from(line.quantity)).sum();
        let can_debit = |line: &Resolved| self.ledger.can_debit(line.payable, amount);
        if !self.resolved.iter().all(can_debit) || !self.ledger.can_credit(payer, amount) {
            return Decision::of(Outcome::Invalid);
        }

        // Paid -> PartlyRefunded -> Refunded: the sellers' credit becomes the buyer's again.
        for number in 0..self.resolved.len() {
            let Resolved { item, payable, unit_price, quantity } = self.resolved[number];
            self.ledger.debit(payable, unit_price * u64::from(quantity));
            if refund.flags & REFUND_RESTOCK != 0 {
                let item = self.inventory.get_mut(item);
                item.sold -= u64::from(quantity);
                item.available += u64::from(quantity);
            }
        }
        self.ledger.credit(payer, amount);
        let mut left = false;
        for (line, resolved) in self.orders.lines_mut(pos).iter_mut().zip(&self.resolved) {
            line.refunded += resolved.quantity;
            left |= line.refunded < line.quantity;
        }
        let state = if left { OrderState::PartlyRefunded } else { OrderState::Refunded };
        let head = self.orders.head_mut(pos);
        head.state = state as u8;
        head.refunded += amount;
        Decision { state: Some(state), previous: head.last, ..Decision::ok(amount) }
    }

    /// Finds item and payee of every line of an order that was placed.
    fn resolve(&mut self, pos: Pos) {
        self.resolved.clear();
        for line in self.orders.lines(pos) {
            let item = self.inventory.find(ItemId(line.item)).expect("a placed line has its item");
            let payable = Pos(self.inventory.get(item).payable);
            let (unit_price, quantity) = (line.unit_price, line.quantity);
            self.resolved.push(Resolved { item, payable, unit_price, quantity });
        }
    }
}
