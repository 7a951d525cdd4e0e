//! How an order is placed.

use model::Quantity;
use model::record::{NewLeg, NewLine, Price};

use super::*;

pub(super) type Refusal = (Outcome, Option<usize>);

/// An order as it is asked for.
pub(super) struct Asked<'a> {
    pub buyer: Party,
    pub currency: Currency,
    pub legs: &'a [NewLeg],
    pub forfeits: bool,
    pub lines: &'a [NewLine],
}

/// Why an order isn't placed.
enum NotPlaced {
    Refused(Refusal),
    /// A deadline had passed.
    TooLate,
}

impl From<Refusal> for NotPlaced {
    fn from(refusal: Refusal) -> NotPlaced {
        NotPlaced::Refused(refusal)
    }
}

fn method_of(leg: &NewLeg) -> PaymentMethod {
    match leg {
        NewLeg::Balance(_) => PaymentMethod::Balance,
        NewLeg::External(_) => PaymentMethod::External,
        NewLeg::Awaited(..) => PaymentMethod::Awaited,
        NewLeg::Coupon(_) => PaymentMethod::Coupon,
    }
}

impl Asked<'_> {
    /// An order without lines and legs.
    fn order(&self, outcome: Outcome, state: OrderState) -> Order {
        Order {
            currency: self.currency,
            method: method_of(&self.legs[0]),
            state,
            outcome,
            lines: Vec::new(),
            legs: Vec::new(),
            forfeits: self.forfeits,
            is_received: false,
            is_stuck: false,
            is_limited: false,
            paid_in: 0,
            placed: 0,
            newest: 0,
            restocked: BTreeMap::new(),
        }
    }

    /// An order that is over as soon as it comes. Its id stays taken.
    pub(super) fn ended(&self, outcome: Outcome, state: OrderState) -> Verdict {
        let order = Some(self.order(outcome, state));
        Verdict { state: Some(state), order, ..Verdict::of(outcome) }
    }

    /// Whether it is paid at once and in one way, so that there are no legs to keep.
    fn is_plain(&self) -> bool {
        matches!(self.legs, [NewLeg::Balance(None) | NewLeg::External(None)])
    }

    /// Units by item, and the line that names the item first.
    fn units_by_item(&self) -> BTreeMap<ItemId, (u128, usize)> {
        let mut units = BTreeMap::new();
        for (number, line) in self.lines.iter().enumerate() {
            if line.kind == LineKind::Goods {
                let (units, _) = units.entry(ItemId(line.item)).or_insert((0u128, number));
                *units += u128::from(line.quantity.0);
            }
        }
        units
    }
}

impl Shadow {
    pub(super) fn place(&self, asked: &Asked<'_>) -> Verdict {
        match self.try_place(asked) {
            Ok(verdict) => verdict,
            Err(NotPlaced::TooLate) => asked.ended(Outcome::WrongState, OrderState::Expired),
            Err(NotPlaced::Refused((Outcome::Invalid, line))) => {
                Verdict { line, ..Verdict::of(Outcome::Invalid) }
            }
            Err(NotPlaced::Refused((outcome, line))) => {
                Verdict { line, ..asked.ended(outcome, OrderState::Refused) }
            }
        }
    }

    /// Who pays, and by when; then, line by line, what is asked for; then the legs, money, limits
    /// and units.
    fn try_place(&self, asked: &Asked<'_>) -> Result<Verdict, NotPlaced> {
        let account = main_of(asked.buyer, asked.currency);
        for leg in asked.legs {
            match *leg {
                NewLeg::Balance(_) if !self.is_open(account) => {
                    return Err((Outcome::UnknownAccount, None).into());
                }
                NewLeg::Awaited(_, due) if due != Time(0) && due <= self.now => {
                    return Err(NotPlaced::TooLate);
                }
                _ => {}
            }
        }
        let lines = self.resolve(asked)?;
        let total: u128 = lines.iter().map(net_of).sum();
        let legs = self.plan(asked, &lines, total)?;
        let of_balance = legs.iter().filter(|leg| leg.method == PaymentMethod::Balance);
        let wanted: u128 = of_balance.map(|leg| u128::from(leg.amount.0)).sum();
        if wanted > 0 && self.sums(account).available() < wanted as i128 {
            return Err((Outcome::InsufficientFunds, None).into());
        }

        let state = match legs.iter().any(|leg| leg.state == LegState::Awaited) {
            true => OrderState::Reserved,
            false => OrderState::Paid,
        };
        let mut effects = self.take(asked.buyer, asked.currency, &legs);
        let paid: u128 = legs.iter().map(|leg| u128::from(leg.paid.0)).sum();
        match state {
            OrderState::Paid => effects.extend(self.sale(asked.currency, &lines)),
            _ => {
                let deposit = (asked.buyer, asked.currency, AccountKind::Deposit);
                effects.push(Effect::Credit(deposit, paid));
            }
        }
        if !self.can_take(&effects) {
            return Err((Outcome::Invalid, None).into());
        }
        let is_limited = self.check_limits(asked)?;
        self.check_units(asked)?;
        let order = asked.order(Outcome::Ok, state);
        let paid_in = self.step();
        let from_balance = legs.iter().any(|leg| leg.method == PaymentMethod::Balance);
        let legs = if asked.is_plain() { Vec::new() } else { legs };
        let order = Order { lines, legs, is_limited, paid_in, ..order };
        for (_, line) in order.goods() {
            let units = i128::from(line.quantity.0);
            let (reserved, sold) = if state == OrderState::Paid { (0, units) } else { (units, 0) };
            effects.push(Effect::Units { item: line.item, reserved, sold });
        }
        let statement = from_balance.then_some(account);
        let done = Verdict { statement, state: Some(state), ..Verdict::done(total, effects) };
        Ok(Verdict { order: Some(order), ..done })
    }

    /// What the lines name and cost. The first that can't be had as it is asked for refuses all.
    fn resolve(&self, asked: &Asked<'_>) -> Result<Vec<LineView>, Refusal> {
        let mut lines = Vec::new();
        let mut total = 0;
        for (number, line) in asked.lines.iter().enumerate() {
            let refused = |outcome| (outcome, Some(number));
            let mut list_price = Amount(0);
            if line.kind == LineKind::Goods {
                let item = self.items.get(&ItemId(line.item));
                let item = item.ok_or(refused(Outcome::UnknownItem))?;
                if item.currency != asked.currency {
                    return Err(refused(Outcome::CurrencyMismatch));
                }
                if !item.is_open(self.now) {
                    return Err(refused(Outcome::SaleNotOpen));
                }
                list_price = item.price;
            }
            let unit_price = match line.price {
                Price::List => list_price,
                Price::Agreed(price) => price,
                Price::Checked(price) if price == list_price => price,
                Price::Checked(_) => return Err(refused(Outcome::PriceMismatch)),
            };
            let gross = u128::from(unit_price.0) * u128::from(line.quantity.0);
            if u128::from(line.discount.0) > gross {
                return Err(refused(Outcome::PriceMismatch));
            }
            let placed = LineView {
                kind: line.kind,
                item: ItemId(line.item),
                quantity: line.quantity,
                refunded: Quantity(0),
                unit_price,
                payee: line.payee,
                discount: line.discount,
            };
            total += net_of(&placed);
            if total > u128::from(Amount::MAX.0) {
                return Err(refused(Outcome::Invalid));
            }
            lines.push(placed);
        }
        Ok(lines)
    }

    /// What each leg pays: coupons what they are worth here, others what they state, one the rest.
    fn plan(
        &self,
        asked: &Asked<'_>,
        lines: &[LineView],
        total: u128,
    ) -> Result<Vec<LegView>, Refusal> {
        let mut left = total;
        let mut legs = Vec::<LegView>::new();
        for leg in asked.legs {
            let method = method_of(leg);
            let mut planned = LegView {
                method,
                state: LegState::Captured,
                amount: Amount(0),
                paid: Amount(0),
                refunded: Amount(0),
                suspended: Amount(0),
                deadline: Time(0),
                coupon: 0,
            };
            let amount = match *leg {
                NewLeg::Balance(amount) | NewLeg::External(amount) => amount,
                NewLeg::Awaited(amount, deadline) => {
                    (planned.state, planned.deadline) = (LegState::Awaited, deadline);
                    amount
                }
                NewLeg::Coupon(number) => {
                    let is_twice = |leg: &LegView| (leg.method, leg.coupon) == (method, number);
                    if legs.iter().any(is_twice) {
                        return Err((Outcome::WrongState, None));
                    }
                    planned.coupon = number;
                    let worth = self.worth(asked, number, lines, total)?;
                    Some(Amount(narrow(worth.min(left))))
                }
            };
            planned.amount = amount.unwrap_or_default();
            if u128::from(planned.amount.0) > left {
                return Err((Outcome::PriceMismatch, None));
            }
            left -= u128::from(planned.amount.0);
            legs.push(planned);
        }
        let rest = asked.legs.iter().position(|leg| {
            matches!(leg, NewLeg::Balance(None) | NewLeg::External(None) | NewLeg::Awaited(None, _))
        });
        match rest {
            Some(rest) => legs[rest].amount = Amount(narrow(left)),
            None if left > 0 => return Err((Outcome::PriceMismatch, None)),
            None => {}
        }
        for leg in legs.iter_mut().filter(|leg| leg.state == LegState::Captured) {
            leg.paid = leg.amount;
        }
        Ok(legs)
    }

    /// What a coupon is worth for an order: no more than the lines that it is good for.
    fn worth(
        &self,
        asked: &Asked<'_>,
        number: u64,
        lines: &[LineView],
        total: u128,
    ) -> Result<u128, Refusal> {
        let Some(OneCoupon { says, is_used }) = self.coupons.get(&(asked.buyer, number)) else {
            return Err((Outcome::UnknownAccount, None));
        };
        if says.currency != asked.currency {
            return Err((Outcome::CurrencyMismatch, None));
        }
        let good_for = match says.seller {
            None => total,
            Some(seller) => {
                let of_seller = lines.iter().filter(|line| self.payee(line) == seller);
                of_seller.map(net_of).sum()
            }
        };
        let is_over = says.expires != Time(0) && says.expires <= self.now;
        if *is_used || is_over || good_for < u128::from(says.minimum.0) {
            return Err((Outcome::WrongState, None));
        }
        Ok(good_for.min(says.amount.0.into()))
    }

    /// Who is paid for a line: for shipping, taxes and fees whom it names.
    fn payee(&self, line: &LineView) -> Party {
        match line.kind {
            LineKind::Goods => line.payee.unwrap_or_else(|| self.items[&line.item].seller),
            _ => Party(line.item.0),
        }
    }

    pub(super) fn payable(&self, line: &LineView, currency: Currency) -> AccountName {
        (self.payee(line), currency, AccountKind::Payable)
    }

    /// Takes what legs pay from where it comes from.
    fn take(&self, buyer: Party, currency: Currency, legs: &[LegView]) -> Vec<Effect> {
        let mut effects = Vec::new();
        for leg in legs.iter().filter(|leg| leg.state == LegState::Captured) {
            let source = self.source(buyer, currency, leg);
            effects.push(Effect::Debit(source, leg.paid.0.into()));
            if leg.method == PaymentMethod::Coupon && leg.paid.0 > 0 {
                effects.push(Effect::Fund(source));
                effects.push(self.mark_coupon(buyer, leg.coupon, true));
            }
        }
        effects
    }

    /// Says that a coupon is used, or is so no longer.
    pub(super) fn mark_coupon(&self, buyer: Party, number: u64, is_used: bool) -> Effect {
        let name = (buyer, number);
        Effect::KeepCoupon(name, OneCoupon { is_used, ..self.coupons[&name] })
    }

    /// Where a leg's money comes from, and goes back to: to suspense if the buyer's account is
    /// closed.
    pub(super) fn source(&self, buyer: Party, currency: Currency, leg: &LegView) -> AccountName {
        match leg.method {
            PaymentMethod::Balance if self.is_open(main_of(buyer, currency)) => {
                main_of(buyer, currency)
            }
            PaymentMethod::Balance => (buyer, currency, AccountKind::Suspense),
            PaymentMethod::Coupon => {
                let funder = self.coupons[&(buyer, leg.coupon)].says.funder;
                (funder, currency, AccountKind::Funding)
            }
            PaymentMethod::External | PaymentMethod::Awaited => clearing(currency),
        }
    }

    /// Everybody who is paid for a line gets what it comes to.
    pub(super) fn sale(&self, currency: Currency, lines: &[LineView]) -> Vec<Effect> {
        let to_payee = |line: &LineView| {
            let (account, amount) = (self.payable(line, currency), net_of(line));
            let earn = Effect::Earn { account, step: self.step(), amount: amount as i128 };
            [Effect::Credit(account, amount), earn]
        };
        lines.iter().flat_map(to_payee).collect()
    }

    /// The item with the lowest id that passes its limit refuses. Whether there are limits.
    fn check_limits(&self, asked: &Asked<'_>) -> Result<bool, Refusal> {
        let mut is_limited = false;
        for (item, (units, line)) in asked.units_by_item() {
            let limit = u128::from(self.items[&item].sale.limit);
            let bought = self.bought.get(&(asked.buyer, item)).copied().unwrap_or_default();
            if limit != 0 && bought + units > limit {
                return Err((Outcome::OverLimit, Some(line)));
            }
            is_limited |= limit != 0;
        }
        Ok(is_limited)
    }

    /// Of the items that lack, the one that is named first refuses.
    fn check_units(&self, asked: &Asked<'_>) -> Result<(), Refusal> {
        let units = asked.units_by_item();
        let lacks = units.iter().filter(|(item, (units, _))| self.items[item].available() < *units);
        match lacks.map(|(_, (_, line))| *line).min() {
            Some(line) => Err((Outcome::SoldOut, Some(line))),
            None => Ok(()),
        }
    }
}
