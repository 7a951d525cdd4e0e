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
    Extra, LEG_STATED, LINE_AGREED, LINE_CHECKED, Leg, Line, PLACE_WITHDRAWN, PlaceBody, Record,
    TimerKind, place_mut, set_outcome, set_statements, set_withdrawn,
};
use model::{
    AccountKind, Amount, Currency, ItemId, LegState, LineKind, Offset, OrderId, OrderState,
    Outcome, Party, PaymentMethod, Reply,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::arena::Pos;
use crate::orders::{
    CHANGED, COUNTS, OrderExtra, OrderHead, OrderLeg, OrderLine, flags_of, halves,
};
use crate::payment::first_deadline;
use crate::realm::{Decision, RealmState};
use crate::shard::checked;
use crate::signals::Shortage;

/// An order as it is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub order: &'a PlaceBody,
    pub legs: &'a [Leg],
    pub lines: &'a [Line],
    pub extras: &'a [Extra],
}

impl Asked<'_> {
    /// How it is paid, if that is at once and in one way: as most orders are.
    fn paid_at_once(&self) -> Option<PaymentMethod> {
        let [leg] = self.legs else { return None };
        match PaymentMethod::from_byte(leg.method) {
            Some(method @ (PaymentMethod::Balance | PaymentMethod::External)) => {
                (leg.flags & LEG_STATED == 0).then_some(method)
            }
            _ => None,
        }
    }
}

/// A line of the order at hand, with what was found for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resolved {
    /// `None` for shipping, tax and fees.
    pub item: Option<Pos>,
    pub payable: Pos,
    pub unit_price: u64,
    pub quantity: u32,
    pub version: u16,
    /// What it comes to.
    pub net: u64,
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
        asked: &Asked<'_>,
        frame: &mut FrameBuilder,
    ) -> Result<Reply, Shortage> {
        let (buyer, id) = (command.party(), OrderId(command.header.id.get()));
        let withdrawn = asked.order.flags & PLACE_WITHDRAWN != 0;
        let digest = if withdrawn { digest_as_sent(command.bytes) } else { xxh3_64(command.bytes) };
        if let Some(pos) = self.orders.find(buyer, id) {
            let is_old = self.orders.head(pos).last + 20 < self.offset.0;
            if !(is_planted(Bug::RepeatSlips) && is_old) {
                return Ok(self.repeated_order(pos, digest));
            }
        }
        let decided = match withdrawn {
            true => Err(Stopped::Refused(Decision {
                state: Some(OrderState::Cancelled),
                ..Decision::of(Outcome::WrongState)
            })),
            false => self.decide_order(buyer, asked),
        };
        let decision = match decided {
            Ok(decision) | Err(Stopped::Refused(decision)) => decision,
            Err(Stopped::Waits(shortage)) => return Err(shortage),
        };
        if !decision.outcome.is_logged() {
            return Ok(decision.unlogged());
        }
        self.keep_order(buyer, id, digest, asked, &decision);
        let done = decision.outcome == Outcome::Ok;

        let bytes = frame.push(command.bytes);
        let state = decision.state.map_or(0, |state| state as u8);
        set_outcome(bytes, decision.outcome, state, 0, decision.amount);
        if decision.statement != 0 {
            set_statements(bytes, decision.statement, 0);
        }
        let placed = place_mut(bytes);
        placed.order.refused_line = decision.line.map_or(0, |line| line + 1).into();
        if done {
            for (number, leg) in placed.legs.iter_mut().enumerate() {
                let planned = self.legs.get(number).map_or(decision.amount, |leg| leg.amount);
                leg.amount = planned.into();
            }
            for (line, resolved) in placed.lines.iter_mut().zip(&self.resolved) {
                line.unit_price = resolved.unit_price.into();
                line.version = resolved.version.into();
            }
        }
        Ok(decision.reply(Some(self.offset)))
    }

    /// Remembers an order that was decided.
    fn keep_order(
        &mut self,
        buyer: Party,
        id: OrderId,
        digest: u64,
        asked: &Asked<'_>,
        decision: &Decision,
    ) {
        let done = decision.outcome == Outcome::Ok;
        let waits = decision.state == Some(OrderState::Reserved);
        let (legs, extras) = match done {
            true => (&self.legs[..], &self.extras[..]),
            false => (&[][..], &[][..]),
        };
        let deadline = first_deadline(legs);
        let mut flags = flags_of(asked.order);
        if done && self.is_limited() {
            flags |= COUNTS | CHANGED;
        }
        if waits || asked.order.flags & PLACE_WITHDRAWN != 0 {
            flags |= CHANGED;
        }
        let head = OrderHead {
            buyer: buyer.0,
            id: halves(id.0),
            digest,
            total: decision.amount,
            refunded: decision.line.map_or(0, |line| u64::from(line) + 1),
            last: self.offset.0,
            line_count: if done { asked.lines.len() as u16 } else { 0 },
            currency: asked.order.currency.get(),
            state: decision.state.map_or(0, |state| state as u8),
            outcome: decision.outcome as u8,
            method: asked.legs[0].method,
            flags,
            moment: if waits { deadline } else { u64::from(self.step) },
        };
        let kept = asked.lines.iter().zip(&self.resolved).map(|(line, resolved)| OrderLine {
            item: line.item.get(),
            unit_price: resolved.unit_price,
            quantity: resolved.quantity,
            refunded: 0,
        });
        let pos = self.orders.insert(head, kept, legs, extras);
        if waits && deadline != 0 {
            self.timers.insert((deadline, TimerKind::Order, pos.0));
        }
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
    fn decide_order(&mut self, buyer: Party, asked: &Asked<'_>) -> Result<Decision, Stopped> {
        let currency = checked(asked.order.currency.get());
        self.resolved.clear();
        self.legs.clear();
        self.extras.clear();
        let at_once = asked.paid_at_once();
        let payer = match at_once {
            Some(PaymentMethod::Balance) => Some(self.main_account(buyer, currency)?),
            Some(_) => Some(self.clearing(currency)),
            None => {
                self.check_legs(buyer, currency, asked.legs)?;
                None
            }
        };
        let total = self.resolve_lines(currency, asked)?;
        match payer {
            Some(payer) => {
                let from_balance = at_once == Some(PaymentMethod::Balance);
                if from_balance && self.ledger.available(payer) < i128::from(total) {
                    return Err(refused(Outcome::InsufficientFunds, None).into());
                }
                if !self.ledger.can_debit(payer, total) {
                    return Err(Decision::of(Outcome::Invalid).into());
                }
            }
            None => self.plan_legs(buyer, currency, asked.legs, total)?,
        }
        let waits = self.legs.iter().any(|leg| leg.state() == LegState::Awaited);
        if !waits && !self.sellers_can_take(total) {
            return Err(Decision::of(Outcome::Invalid).into());
        }
        let limited = self.is_limited();
        if limited {
            self.check_limits(buyer, asked.lines)?;
        }
        self.take_units(asked.lines)?;
        if limited {
            self.count_limits(buyer, asked.lines);
        }
        let Some(payer) = payer else {
            return Ok(self.take_legs(buyer, currency, total));
        };
        // Placed -> Paid: the buyer's money becomes the sellers' credit.
        self.ledger.debit(payer, total);
        self.sell(false);
        let statement = self.ledger.link(payer, self.offset);
        Ok(Decision { state: Some(OrderState::Paid), statement, ..Decision::ok(total) })
    }

    fn main_account(&self, buyer: Party, currency: Currency) -> Result<Pos, Stopped> {
        let found = self.ledger.find_open((buyer, currency, AccountKind::Main));
        found.ok_or_else(|| refused(Outcome::UnknownAccount, None).into())
    }

    /// Looks at what can refuse payment legs by themselves.
    fn check_legs(
        &mut self,
        buyer: Party,
        currency: Currency,
        legs: &[Leg],
    ) -> Result<(), Stopped> {
        for leg in legs {
            let term = leg.term.get();
            match PaymentMethod::from_byte(leg.method) {
                Some(PaymentMethod::Balance) => drop(self.main_account(buyer, currency)?),
                Some(PaymentMethod::Awaited) if term != 0 && term <= self.now.0 => {
                    let state = Some(OrderState::Expired);
                    return Err(Decision { state, ..Decision::of(Outcome::WrongState) }.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What each payment leg pays of an order: a coupon what it is worth here, others what they
    /// state, and the one that states nothing the rest.
    fn plan_legs(
        &mut self,
        buyer: Party,
        currency: Currency,
        legs: &[Leg],
        total: u64,
    ) -> Result<(), Stopped> {
        let mut left = total;
        for leg in legs {
            let method = PaymentMethod::from_byte(leg.method).expect("the record was checked");
            let amount = match method {
                PaymentMethod::Coupon => {
                    let twice = |other: &&OrderLeg| {
                        other.method() == method && other.term == leg.term.get()
                    };
                    if self.legs.iter().find(twice).is_some() {
                        return Err(refused(Outcome::WrongState, None).into());
                    }
                    self.coupon_worth(buyer, currency, leg.term.get(), total)?.min(left)
                }
                _ => leg.amount.get(), // 0 where none is stated.
            };
            let Some(rest) = left.checked_sub(amount) else {
                return Err(refused(Outcome::PriceMismatch, None).into());
            };
            left = rest;
            let awaited = method == PaymentMethod::Awaited;
            let state = if awaited { LegState::Awaited } else { LegState::Captured };
            self.legs.push(OrderLeg {
                method: leg.method,
                state: state as u8,
                amount,
                term: leg.term.get(),
                ..OrderLeg::default()
            });
        }
        let is_rest =
            |leg: &Leg| leg.flags & LEG_STATED == 0 && leg.method != PaymentMethod::Coupon as u8;
        match legs.iter().position(is_rest) {
            Some(rest) => self.legs[rest].amount = left,
            None if left > 0 => return Err(refused(Outcome::PriceMismatch, None).into()),
            None => {}
        }
        self.legs_can_pay(buyer, currency, total)
    }

    /// What a coupon is worth for the order at hand, at most.
    fn coupon_worth(
        &self,
        buyer: Party,
        currency: Currency,
        number: u64,
        total: u64,
    ) -> Result<u64, Stopped> {
        let refuse = |outcome| Err(refused(outcome, None).into());
        let Some(pos) = self.coupons.find((buyer.0, number)) else {
            return refuse(Outcome::UnknownAccount);
        };
        let coupon = self.coupons.get(pos);
        if coupon.currency != currency.numeric() {
            return refuse(Outcome::CurrencyMismatch);
        }
        let of_seller = |line: &&Resolved| self.ledger.party(line.payable).0 == coupon.seller;
        let good_for = match coupon.seller {
            0 => total,
            _ => self.resolved.iter().filter(of_seller).map(|line| line.net).sum(),
        };
        let expired = coupon.expires != 0 && coupon.expires <= self.now.0;
        if coupon.used != 0 || expired || good_for < coupon.minimum {
            return refuse(Outcome::WrongState);
        }
        Ok(coupon.amount.min(good_for))
    }

    /// Whether the money of the legs that were planned is there, and all sums can take it.
    fn legs_can_pay(
        &mut self,
        buyer: Party,
        currency: Currency,
        total: u64,
    ) -> Result<(), Stopped> {
        let from_balance = self.legs.iter().filter(|leg| leg.method() == PaymentMethod::Balance);
        let wanted: u64 = from_balance.map(|leg| leg.amount).sum();
        if wanted > 0 {
            let main = self.main_account(buyer, currency)?;
            if self.ledger.available(main) < i128::from(wanted) {
                return Err(refused(Outcome::InsufficientFunds, None).into());
            }
        }
        // What is still to come is looked at when it comes.
        let now = |leg: &&OrderLeg| leg.state() != LegState::Awaited;
        let paid = self.legs.iter().filter(now).map(|leg| leg.amount).sum();
        let deposit = self.ledger.find_or_make((buyer, currency, AccountKind::Deposit));
        let mut takes = self.ledger.can_credit(deposit, paid);
        for number in 0..self.legs.len() {
            let leg = self.legs[number];
            if leg.state() == LegState::Awaited {
                continue;
            }
            let source = self.source_of(buyer, currency, &leg);
            takes &= self.ledger.can_debit(source, total);
        }
        match takes {
            true => Ok(()),
            false => Err(Decision::of(Outcome::Invalid).into()),
        }
    }

    /// Takes what can be taken at once, and pays the sellers if that is all.
    fn take_legs(&mut self, buyer: Party, currency: Currency, total: u64) -> Decision {
        let (mut paid, mut statement) = (0, 0);
        let mut waits = false;
        for number in 0..self.legs.len() {
            let leg = self.legs[number];
            if leg.state() == LegState::Awaited {
                waits = true;
                continue;
            }
            let source = self.source_of(buyer, currency, &leg);
            self.ledger.debit(source, leg.amount);
            match leg.method() {
                PaymentMethod::Coupon if leg.amount > 0 => {
                    self.ledger.list_swept(source);
                    self.set_coupon(buyer, leg.term, true);
                }
                PaymentMethod::Balance => {
                    let before = self.ledger.link(source, self.offset);
                    // Several legs may come from one account: the first link leads on.
                    statement = if before == self.offset.0 { statement } else { before };
                }
                _ => {}
            }
            self.legs[number].paid = leg.amount;
            paid += leg.amount;
        }
        if !waits {
            // Placed -> Paid: what was taken becomes the sellers' credit.
            self.sell(false);
            let state = Some(OrderState::Paid);
            return Decision { state, statement, ..Decision::ok(total) };
        }
        // Placed -> Reserved: the units wait with the order, and what was paid with the buyer.
        if paid > 0 {
            let deposit = self.ledger.find_or_make((buyer, currency, AccountKind::Deposit));
            self.ledger.credit(deposit, paid);
        }
        for resolved in &self.resolved {
            if let Some(item) = resolved.item {
                self.inventory.get_mut(item).reserved += u64::from(resolved.quantity);
            }
        }
        Decision { state: Some(OrderState::Reserved), statement, ..Decision::ok(total) }
    }

    /// Books the lines that were resolved as sold, and their money as their payees'. The payers
    /// were debited.
    pub(crate) fn sell(&mut self, were_reserved: bool) {
        let step = self.step;
        for number in 0..self.resolved.len() {
            let Resolved { item, payable, quantity, net, .. } = self.resolved[number];
            if let Some(item) = item {
                let item = self.inventory.get_mut(item);
                item.sold += u64::from(quantity);
                if were_reserved {
                    item.reserved -= u64::from(quantity);
                }
            }
            self.ledger.earn(payable, net, step);
        }
    }

    /// Finds the items of an order, and what it comes to.
    fn resolve_lines(&mut self, currency: Currency, asked: &Asked<'_>) -> Result<u64, Stopped> {
        let mut total = 0u64;
        let mut unlisted = None::<ItemId>;
        let mut extras = asked.extras;
        for (number, line) in asked.lines.iter().enumerate() {
            let extra = match extras.split_first() {
                Some((extra, rest)) if usize::from(extra.line.get()) == number => {
                    extras = rest;
                    Some(extra)
                }
                _ => None,
            };
            let resolved = match line.kind {
                0 => match self.resolve_goods(currency, number, line)? {
                    Some(resolved) => resolved,
                    None => {
                        let id = ItemId(line.item.get());
                        unlisted = Some(unlisted.map_or(id, |other| other.min(id)));
                        continue;
                    }
                },
                _ => Resolved {
                    item: None,
                    payable: self.payable(Party(line.item.get()), currency),
                    unit_price: line.unit_price.get(),
                    quantity: line.quantity.get(),
                    version: 0,
                    net: 0,
                },
            };
            // A line is at most 10¹⁵ × 10⁹, which needs more than 64 bits.
            let price = u128::from(resolved.unit_price) * u128::from(resolved.quantity);
            let discount = extra.map_or(0, |extra| extra.discount.get());
            let Some(net) = price.checked_sub(discount.into()) else {
                return Err(refused(Outcome::PriceMismatch, Some(number)).into());
            };
            match u128::from(total).checked_add(net) {
                Some(sum) if sum <= u128::from(Amount::MAX.0) => total = sum as u64,
                _ => return Err(refused(Outcome::Invalid, Some(number)).into()),
            }
            let mut resolved = Resolved { net: net as u64, ..resolved };
            if extra.is_some() || line.kind != 0 {
                self.keep_extra(currency, (number, line), extra, &mut resolved);
            }
            self.resolved.push(resolved);
        }
        match unlisted {
            None => Ok(total),
            Some(item) => {
                let is_it = |line: &&Line| line.kind == 0 && line.item.get() == item.0;
                let of_item = asked.lines.iter().filter(is_it);
                let whole = of_item.map(|line| u64::from(line.quantity.get())).sum();
                Err(Stopped::Waits(Shortage { item, lacking: whole, whole }))
            }
        }
    }

    /// Finds the item of a line; `None` where its home has to be asked.
    fn resolve_goods(
        &self,
        currency: Currency,
        number: usize,
        line: &Line,
    ) -> Result<Option<Resolved>, Stopped> {
        let refuse = |outcome| Err(refused(outcome, Some(number)).into());
        let id = ItemId(line.item.get());
        let Some(pos) = self.inventory.find(id) else {
            // Its home knows; unless that is here, or has said that there is none.
            if self.is_home(id) || self.unknown.contains(&id.0) {
                return refuse(Outcome::UnknownItem);
            }
            return Ok(None);
        };
        let item = self.inventory.get(pos);
        if item.currency != currency.numeric() {
            return refuse(Outcome::CurrencyMismatch);
        }
        if !item.is_open(self.now) {
            return refuse(Outcome::SaleNotOpen);
        }
        let stated = line.unit_price.get();
        if line.flags & LINE_CHECKED != 0 && stated != item.price {
            return refuse(Outcome::PriceMismatch);
        }
        Ok(Some(Resolved {
            item: Some(pos),
            payable: Pos(item.payable),
            unit_price: if line.flags & LINE_AGREED != 0 { stated } else { item.price },
            quantity: line.quantity.get(),
            version: item.version,
            net: 0,
        }))
    }

    /// What is special about a line.
    #[cold]
    fn keep_extra(
        &mut self,
        currency: Currency,
        (number, line): (usize, &Line),
        extra: Option<&Extra>,
        resolved: &mut Resolved,
    ) {
        let payee = extra.map_or(0, |extra| extra.payee.get());
        if payee != 0 {
            resolved.payable = self.payable(Party(payee), currency);
        }
        self.extras.push(OrderExtra {
            line: number as u16,
            kind: line.kind,
            payee,
            discount: extra.map_or(0, |extra| extra.discount.get()),
            ..OrderExtra::default()
        });
    }

    fn payable(&mut self, payee: Party, currency: Currency) -> Pos {
        self.ledger.find_or_make((payee, currency, AccountKind::Payable))
    }

    /// Takes the lines' units from the escrow, all or none.
    fn take_units(&mut self, lines: &[Line]) -> Result<(), Stopped> {
        for number in 0..self.resolved.len() {
            let Resolved { item: Some(pos), quantity, .. } = self.resolved[number] else {
                continue;
            };
            let turn = self.turn;
            let item = self.inventory.get_mut(pos);
            let others_wait = item.queued != 0 && turn.is_none_or(|turn| ItemId(item.id) > turn);
            match item.available.checked_sub(quantity.into()) {
                Some(left) if !others_wait => item.available = left,
                _ => {
                    for taken in &self.resolved[..number] {
                        if let Some(item) = taken.item {
                            let item = self.inventory.get_mut(item);
                            item.available += u64::from(taken.quantity);
                        }
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
        let goods = lines.iter().enumerate().filter(|(_, line)| line.kind == 0);
        let wanted = goods.map(|(number, line)| {
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
        let mut items = self.resolved.iter().filter_map(|line| line.item);
        items.any(|item| self.inventory.get(item).limit != 0)
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

    /// Whether the 64-bit sums of all who are paid for the order at hand have room for it.
    pub(crate) fn sellers_can_take(&self, total: u64) -> bool {
        self.resolved.iter().all(|line| self.ledger.can_credit(line.payable, total))
    }

    /// Finds item, payee and total of every line of an order that was placed.
    pub(crate) fn resolve(&mut self, pos: Pos) {
        self.resolved.clear();
        for line in self.orders.lines(pos) {
            // Shipping, tax and fees are told apart below.
            let item = self.inventory.find(ItemId(line.item));
            let payable = item.map_or(Pos(0), |item| Pos(self.inventory.get(item).payable));
            let (unit_price, quantity) = (line.unit_price, line.quantity);
            let net = unit_price * u64::from(quantity);
            self.resolved.push(Resolved { item, payable, unit_price, quantity, version: 0, net });
        }
        let currency = checked(self.orders.head(pos).currency);
        for extra in self.orders.extras(pos) {
            let number = usize::from(extra.line);
            let line = &mut self.resolved[number];
            line.net -= extra.discount;
            let mut payee = extra.payee;
            if extra.kind != LineKind::Goods as u8 {
                (line.item, payee) = (None, self.orders.lines(pos)[number].item);
            }
            if payee != 0 || line.item.is_none() {
                let key = (Party(payee), currency, AccountKind::Payable);
                line.payable = self.ledger.find(key).expect("it was made with the order");
            }
        }
    }
}

/// The hash of an order as its buyer sent it.
fn digest_as_sent(withdrawn: &[u8]) -> u64 {
    let mut bytes = withdrawn.to_vec();
    set_withdrawn(&mut bytes, false);
    xxh3_64(&bytes)
}
