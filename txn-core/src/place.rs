//! Placing an order, and what may happen to it afterwards.
//!
//! An order is placed whole or not at all. Everything that can refuse it by itself is looked at
//! first: items, currency, windows, limits, money. Only then are units taken, line by line, so
//! that the same item on several lines counts as a sum. Where this shard lacks units that may be
//! elsewhere, the order is not decided: nothing changed, nothing is logged, and the shell is told
//! what is missing.

use model::frame::FrameBuilder;
use model::planted::{Bug, is_planted};
use model::record::{
    LINE_AGREED, Leg, Line, PLACE_WITHDRAWN, PayBody, PlaceBody, REFUND_RESTOCK, Record,
    RefundBody, RefundLine, TimerBody, place_mut, set_outcome, set_withdrawn,
};
use model::{
    AccountKind, Amount, Currency, ItemId, Offset, OrderId, OrderState, Outcome, Party,
    PaymentMethod, Reply,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::arena::Pos;
use crate::orders::{OrderHead, OrderLine, halves};
use crate::realm::{Decision, RealmState};
use crate::shard::checked;
use crate::signals::Shortage;

/// A line of the order at hand, with what was found for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resolved {
    item: Pos,
    payable: Pos,
    unit_price: u64,
    quantity: u32,
    version: u16,
}

/// Why an order isn't placed as it stands.
enum Stopped {
    Refused(Decision),
    Waits(Shortage),
}

impl From<Decision> for Stopped {
    fn from(decision: Decision) -> Stopped {
        Stopped::Refused(decision)
    }
}

fn refused(outcome: Outcome, line: Option<usize>) -> Decision {
    let state = outcome.is_logged().then_some(OrderState::Refused);
    Decision { state, line: line.map(|line| line as u16), ..Decision::of(outcome) }
}

impl RealmState {
    pub(crate) fn place(
        &mut self,
        command: &Record<'_>,
        order: &PlaceBody,
        leg: &Leg,
        lines: &[Line],
        frame: &mut FrameBuilder,
    ) -> Result<Reply, Shortage> {
        let (buyer, id) = (command.party(), OrderId(command.header.id.get()));
        let withdrawn = order.flags & PLACE_WITHDRAWN != 0;
        let digest = if withdrawn { digest_as_sent(command.bytes) } else { xxh3_64(command.bytes) };
        if let Some(pos) = self.orders.find(buyer, id) {
            let is_old = self.orders.head(pos).last + 20 < self.offset.0;
            if !(is_planted(Bug::RepeatSlips) && is_old) {
                return Ok(self.repeated_order(pos, digest));
            }
        }
        let method = PaymentMethod::from_byte(leg.method).expect("the record was checked");
        let decided = match withdrawn {
            true => Err(Stopped::Refused(Decision {
                state: Some(OrderState::Cancelled),
                ..Decision::of(Outcome::WrongState)
            })),
            false => self.decide_order(buyer, order, method, lines),
        };
        let decision = match decided {
            Ok(decision) | Err(Stopped::Refused(decision)) => decision,
            Err(Stopped::Waits(shortage)) => return Err(shortage),
        };
        if !decision.outcome.is_logged() {
            return Ok(decision.unlogged());
        }
        let done = decision.outcome == Outcome::Ok;
        let waits = decision.state == Some(OrderState::Reserved);
        let deadline = order.deadline.get();
        let head = OrderHead {
            buyer: buyer.0,
            id: halves(id.0),
            digest,
            total: decision.amount,
            refunded: decision.line.map_or(0, |line| u64::from(line) + 1),
            last: self.offset.0,
            line_count: if done { lines.len() as u16 } else { 0 },
            currency: order.currency.get(),
            state: decision.state.map_or(0, |state| state as u8),
            outcome: decision.outcome as u8,
            method: leg.method,
            counts: u8::from(done && self.is_limited()),
            moment: if waits { deadline } else { u64::from(self.step) },
        };
        let kept = lines.iter().zip(&self.resolved).map(|(line, resolved)| OrderLine {
            item: line.item.get(),
            unit_price: resolved.unit_price,
            quantity: resolved.quantity,
            refunded: 0,
        });
        let pos = self.orders.insert(head, kept);
        if waits && deadline != 0 {
            self.timers.insert((deadline, pos.0));
        }

        let bytes = frame.push(command.bytes);
        let state = decision.state.map_or(0, |state| state as u8);
        set_outcome(bytes, decision.outcome, state, 0, decision.amount);
        let placed = place_mut(bytes);
        placed.order.refused_line = decision.line.map_or(0, |line| line + 1).into();
        if done {
            placed.leg.amount = decision.amount.into();
            for (line, resolved) in placed.lines.iter_mut().zip(&self.resolved) {
                line.unit_price = resolved.unit_price.into();
                line.version = resolved.version.into();
            }
        }
        Ok(decision.reply(Some(self.offset)))
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
        order: &PlaceBody,
        method: PaymentMethod,
        lines: &[Line],
    ) -> Result<Decision, Stopped> {
        let currency = checked(order.currency.get());
        self.resolved.clear();
        let payer = match method {
            PaymentMethod::Balance => {
                let payer = self.ledger.find((buyer, currency, AccountKind::Main));
                Some(payer.ok_or_else(|| refused(Outcome::UnknownAccount, None))?)
            }
            PaymentMethod::External => Some(self.clearing(currency)),
            PaymentMethod::Awaited => None,
        };
        let deadline = order.deadline.get();
        if deadline != 0 && deadline <= self.now.0 {
            let state = Some(OrderState::Expired);
            return Err(Decision { state, ..Decision::of(Outcome::WrongState) }.into());
        }
        let total = self.resolve_lines(currency, lines)?;
        if !self.can_pay(payer, method, total) {
            return Err(refused(Outcome::InsufficientFunds, None).into());
        }
        if !self.sums_can_take(payer, total) {
            return Err(Decision::of(Outcome::Invalid).into());
        }
        let limited = self.is_limited();
        if limited {
            self.check_limits(buyer, lines)?;
        }
        self.take_units(lines)?;
        if limited {
            self.count_limits(buyer, lines);
        }

        match payer {
            // Placed -> Paid: the buyer's money becomes the sellers' credit.
            Some(payer) => {
                let step = self.step;
                self.ledger.debit(payer, total);
                for number in 0..self.resolved.len() {
                    let Resolved { item, payable, unit_price, quantity, .. } =
                        self.resolved[number];
                    self.inventory.get_mut(item).sold += u64::from(quantity);
                    self.ledger.earn(payable, unit_price * u64::from(quantity), step);
                }
                Ok(Decision { state: Some(OrderState::Paid), ..Decision::ok(total) })
            }
            // Placed -> Reserved: the units wait with the order.
            None => {
                for resolved in &self.resolved {
                    self.inventory.get_mut(resolved.item).reserved += u64::from(resolved.quantity);
                }
                Ok(Decision { state: Some(OrderState::Reserved), ..Decision::ok(total) })
            }
        }
    }

    /// Finds the items of an order, and what it comes to.
    fn resolve_lines(&mut self, currency: Currency, lines: &[Line]) -> Result<u64, Stopped> {
        let mut total = 0u64;
        let mut unlisted = None::<ItemId>;
        for (number, line) in lines.iter().enumerate() {
            let id = ItemId(line.item.get());
            let Some(pos) = self.inventory.find(id) else {
                // Its home knows; unless that is here, or has said that there is none.
                if self.is_home(id) || self.unknown.contains(&id.0) {
                    return Err(refused(Outcome::UnknownItem, Some(number)).into());
                }
                unlisted = Some(unlisted.map_or(id, |other| other.min(id)));
                continue;
            };
            let item = self.inventory.get(pos);
            if item.currency != currency.numeric() {
                return Err(refused(Outcome::CurrencyMismatch, Some(number)).into());
            }
            if !item.is_open(self.now) {
                return Err(refused(Outcome::SaleNotOpen, Some(number)).into());
            }
            let agreed = line.flags & LINE_AGREED != 0;
            let unit_price = if agreed { line.unit_price.get() } else { item.price };
            let quantity = line.quantity.get();
            let (payable, version) = (Pos(item.payable), item.version);
            self.resolved.push(Resolved { item: pos, payable, unit_price, quantity, version });
            // A line is at most 10¹⁵ × 10⁹, which needs more than 64 bits.
            let price = u128::from(unit_price) * u128::from(quantity);
            match u128::from(total).checked_add(price) {
                Some(sum) if sum <= u128::from(Amount::MAX.0) => total = sum as u64,
                _ => return Err(refused(Outcome::Invalid, Some(number)).into()),
            }
        }
        match unlisted {
            None => Ok(total),
            Some(item) => {
                let of_item = lines.iter().filter(|line| line.item.get() == item.0);
                let whole = of_item.map(|line| u64::from(line.quantity.get())).sum();
                Err(Stopped::Waits(Shortage { item, lacking: whole, whole }))
            }
        }
    }

    /// Takes the lines' units from the escrow, all or none.
    fn take_units(&mut self, lines: &[Line]) -> Result<(), Stopped> {
        for number in 0..self.resolved.len() {
            let Resolved { item: pos, quantity, .. } = self.resolved[number];
            let turn = self.turn;
            let item = self.inventory.get_mut(pos);
            let others_wait = item.queued != 0 && turn.is_none_or(|turn| ItemId(item.id) > turn);
            match item.available.checked_sub(quantity.into()) {
                Some(left) if !others_wait => item.available = left,
                _ => {
                    for taken in &self.resolved[..number] {
                        self.inventory.get_mut(taken.item).available += u64::from(taken.quantity);
                    }
                    return self.take_scarce_units(lines);
                }
            }
        }
        Ok(())
    }

    /// The same where units are missing, or others wait for some: by item, lowest first.
    #[cold]
    fn take_scarce_units(&mut self, lines: &[Line]) -> Result<(), Stopped> {
        self.sum_by_item(lines);
        let mut shortage = None;
        let mut sold_out = None::<u16>;
        for &(item, whole, line) in &self.wanted {
            let pos = self.inventory.find(item).expect("the line was resolved");
            let found = self.inventory.get(pos);
            if found.available < whole && self.is_sold_out(pos, whole) {
                sold_out = Some(sold_out.map_or(line, |other| other.min(line)));
            } else if shortage.is_none() {
                let others_wait = found.queued != 0 && self.turn.is_none_or(|turn| item > turn);
                let lacking = whole.saturating_sub(found.available);
                if lacking > 0 && !(others_wait || self.can_take_from_pool(pos, lacking)) {
                    shortage = Some(Shortage { item, lacking, whole });
                } else if others_wait {
                    shortage = Some(Shortage { item, lacking: 0, whole });
                }
            }
        }
        if let Some(line) = sold_out {
            return Err(refused(Outcome::SoldOut, Some(line.into())).into());
        }
        if let Some(shortage) = shortage {
            return Err(Stopped::Waits(shortage));
        }
        for number in 0..self.wanted.len() {
            let (item, whole, _) = self.wanted[number];
            let pos = self.inventory.find(item).expect("the line was resolved");
            let available = self.inventory.get(pos).available;
            if available < whole {
                self.take_from_pool(item, pos, whole - available);
            }
            self.inventory.get_mut(pos).available -= whole;
        }
        Ok(())
    }

    /// Units wanted by item, lowest first, with the line that names the item first.
    fn sum_by_item(&mut self, lines: &[Line]) {
        self.wanted.clear();
        let wanted = lines.iter().enumerate().map(|(number, line)| {
            (ItemId(line.item.get()), u64::from(line.quantity.get()), number as u16)
        });
        self.wanted.extend(wanted);
        self.wanted.sort_unstable_by_key(|&(item, _, line)| (item, line));
        self.wanted.dedup_by(|next, first| {
            let same = next.0 == first.0;
            first.1 += if same { next.1 } else { 0 };
            same
        });
    }

    /// Whether an item of the order at hand has a limit.
    fn is_limited(&self) -> bool {
        self.resolved.iter().any(|line| self.inventory.get(line.item).limit != 0)
    }

    fn check_limits(&mut self, buyer: Party, lines: &[Line]) -> Result<(), Stopped> {
        self.sum_by_item(lines);
        for &(item, whole, line) in &self.wanted {
            let pos = self.inventory.find(item).expect("the line was resolved");
            let limit = u64::from(self.inventory.get(pos).limit);
            if limit != 0 && self.limits.bought(buyer, item) + whole > limit {
                return Err(refused(Outcome::OverLimit, Some(line.into())).into());
            }
        }
        Ok(())
    }

    /// All items of the order count, so that what is counted can be taken back, whatever limits
    /// come and go until then.
    fn count_limits(&mut self, buyer: Party, lines: &[Line]) {
        self.sum_by_item(lines);
        for &(item, whole, _) in &self.wanted {
            self.limits.add(buyer, item, whole);
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
        let overdue = head.moment != 0 && head.moment <= self.now.0;
        if head.state != OrderState::Reserved as u8 || overdue {
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
        let step = self.step;
        self.ledger.debit(payer, head.total);
        for number in 0..self.resolved.len() {
            let Resolved { item, payable, unit_price, quantity, .. } = self.resolved[number];
            let item = self.inventory.get_mut(item);
            item.reserved -= u64::from(quantity);
            item.sold += u64::from(quantity);
            self.ledger.earn(payable, unit_price * u64::from(quantity), step);
        }
        self.timers.remove(&(head.moment, pos.0));
        let head = self.orders.head_mut(pos);
        head.state = OrderState::Paid as u8;
        head.method = body.method;
        head.moment = u64::from(step);
        Decision { state: Some(OrderState::Paid), previous: head.last, ..Decision::ok(head.total) }
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
            return Decision {
                state: OrderState::from_byte(head.state),
                previous: head.last,
                ..Decision::of(Outcome::WrongState)
            };
        }
        // Reserved -> Cancelled: the units can be sold again.
        self.release_order(pos, OrderState::Cancelled)
    }

    /// A timer that is due: the first there is.
    pub(crate) fn fire(&mut self, buyer: Party, body: &TimerBody) -> Decision {
        let named = (buyer, OrderId(body.order.get()), model::Time(body.due.get()));
        if self.due(self.now) != Some(named) {
            return Decision::of(Outcome::Invalid);
        }
        let pos = self.orders.find(named.0, named.1).expect("a timer's order is there");
        let last = self.offset.0;
        // Reserved -> Expired: the units can be sold again.
        let decision = self.release_order(pos, OrderState::Expired);
        self.orders.head_mut(pos).last = last;
        decision
    }

    /// Ends an order that waits for its payment.
    fn release_order(&mut self, pos: Pos, state: OrderState) -> Decision {
        let head = *self.orders.head(pos);
        self.timers.remove(&(head.moment, pos.0));
        self.resolve(pos);
        for number in 0..self.resolved.len() {
            let Resolved { item, quantity, .. } = self.resolved[number];
            let units = u64::from(quantity);
            let found = self.inventory.get_mut(item);
            found.reserved -= units;
            let id = ItemId(found.id);
            if head.counts != 0 {
                self.limits.remove(Party(head.buyer), id, units);
            }
            self.free(item, units);
        }
        self.orders.head_mut(pos).state = state as u8;
        Decision { state: Some(state), previous: head.last, ..Decision::ok(0) }
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
            let refunded = if is_planted(Bug::RefundOfRefund) { 0 } else { line.refunded };
            let left = line.quantity - refunded - self.resolved[at].quantity;
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
        let (sold, step) = (head.moment as u32, self.step);
        for number in 0..self.resolved.len() {
            let Resolved { item, payable, unit_price, quantity, .. } = self.resolved[number];
            self.ledger.give_back(payable, unit_price * u64::from(quantity), sold, step);
            if refund.flags & REFUND_RESTOCK != 0 && quantity > 0 {
                self.inventory.get_mut(item).sold -= u64::from(quantity);
                self.free(item, quantity.into());
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
            self.resolved.push(Resolved { item, payable, unit_price, quantity, version: 0 });
        }
    }
}

/// The hash of an order as its buyer sent it.
fn digest_as_sent(withdrawn: &[u8]) -> u64 {
    let mut bytes = withdrawn.to_vec();
    set_withdrawn(&mut bytes, false);
    xxh3_64(&bytes)
}
