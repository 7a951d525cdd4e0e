//! What may happen to an order after it was placed.

use model::{PayStep, Quantity};

use super::orders::Refusal;
use super::*;

impl Shadow {
    pub(super) fn pay(
        &self,
        buyer: Party,
        step: PayStep,
        named: Option<u16>,
        stated: Option<u128>,
        mut order: Order,
    ) -> Result<Verdict, Refusal> {
        let refused = |outcome| Err((outcome, None));
        let Some(at) = self.open_leg(&order, step, named) else {
            return match (step, stated) {
                (PayStep::External, Some(amount)) => Ok(self.suspend(buyer, named, amount, order)),
                _ => refused(Outcome::WrongState),
            };
        };
        let leg = &mut order.legs[at];
        let open = u128::from(leg.amount.0 - leg.paid.0);
        let account = main_of(buyer, order.currency);
        let came = match step {
            PayStep::Void => {
                leg.state = LegState::Voided;
                return Ok(Verdict { order: Some(order), ..Verdict::done(open, Vec::new()) });
            }
            PayStep::External => stated.unwrap_or(open),
            _ if stated.is_some_and(|amount| amount != open) => {
                return refused(Outcome::WrongState);
            }
            PayStep::Authorise => {
                leg.state = LegState::Authorised;
                return Ok(Verdict { order: Some(order), ..Verdict::done(open, Vec::new()) });
            }
            // What came from outside goes back there, so a leg has one source.
            PayStep::Balance if leg.paid.0 > 0 => return refused(Outcome::WrongState),
            PayStep::Balance if !self.is_open(account) => return refused(Outcome::UnknownAccount),
            PayStep::Balance if self.sums(account).available() < open as i128 => {
                return refused(Outcome::InsufficientFunds);
            }
            PayStep::Balance => open,
        };
        let (taken, beyond) = (came.min(open), came.saturating_sub(open));
        let is_balance = step == PayStep::Balance;
        let payer = if is_balance { account } else { clearing(order.currency) };
        let suspense = (buyer, order.currency, AccountKind::Suspense);
        let deposit = (buyer, order.currency, AccountKind::Deposit);
        let mut effects = vec![Effect::Debit(payer, came), Effect::Credit(deposit, taken)];
        let mut statement = is_balance.then_some(account);
        if beyond > 0 {
            effects.push(Effect::Credit(suspense, beyond));
            statement = Some(suspense);
        }
        leg.method = if is_balance { PaymentMethod::Balance } else { PaymentMethod::External };
        leg.paid.0 += narrow(taken);
        leg.suspended.0 += narrow(beyond);
        if leg.paid == leg.amount {
            leg.state = LegState::Captured;
        }
        if order.legs.iter().all(|leg| leg.state == LegState::Captured) {
            effects.push(Effect::Debit(deposit, order.total()));
            effects.extend(self.sale(order.currency, &order.lines));
            for (_, line) in order.goods() {
                let units = i128::from(line.quantity.0);
                effects.push(Effect::Units { item: line.item, reserved: -units, sold: units });
            }
            (order.state, order.paid_in) = (OrderState::Paid, self.step());
            if let [leg] = &order.legs[..] {
                order.method = leg.method;
            }
        }
        Ok(Verdict { order: Some(order), statement, ..Verdict::done(taken, effects) })
    }

    /// The leg that is named, or the first, if the step can be made for it.
    fn open_leg(&self, order: &Order, step: PayStep, named: Option<u16>) -> Option<usize> {
        if order.state != OrderState::Reserved || self.is_overdue(order) {
            return None;
        }
        let allows = |leg: &LegView| match leg.state {
            LegState::Awaited | LegState::Voided => step != PayStep::Void,
            LegState::Authorised => [PayStep::External, PayStep::Void].contains(&step),
            _ => false,
        };
        match named {
            Some(at) => Some(usize::from(at)).filter(|at| order.legs.get(*at).is_some_and(allows)),
            None => order.legs.iter().position(allows),
        }
    }

    fn is_overdue(&self, order: &Order) -> bool {
        order.deadline().is_some_and(|deadline| deadline <= self.now)
    }

    /// Money came that the order can't take. It is the buyer's, who can have it back.
    fn suspend(&self, buyer: Party, named: Option<u16>, amount: u128, mut order: Order) -> Verdict {
        let suspense = (buyer, order.currency, AccountKind::Suspense);
        let effects =
            vec![Effect::Debit(clearing(order.currency), amount), Effect::Credit(suspense, amount)];
        let outside = [PaymentMethod::External, PaymentMethod::Awaited];
        let is_outside = |leg: &LegView| outside.contains(&leg.method);
        let at = match named.map(usize::from) {
            Some(named) if named < order.legs.len() => named,
            _ => order.legs.iter().rposition(is_outside).unwrap_or(usize::MAX),
        };
        let is_over = order.state != OrderState::Reserved;
        if let Some(leg) = order.legs.get_mut(at) {
            leg.suspended.0 += narrow(amount);
            if leg.state == LegState::Voided && is_over {
                leg.state = LegState::Late;
            }
        }
        let (order, statement) = (Some(order), Some(suspense));
        let suspended = Verdict { outcome: Outcome::Suspended, ..Verdict::done(amount, effects) };
        Verdict { order, statement, ..suspended }
    }

    pub(super) fn cancel(&self, buyer: Party, order: Order) -> Result<Verdict, Refusal> {
        match (order.state, order.outcome) {
            (OrderState::Reserved, _) => Ok(self.end(buyer, order, OrderState::Cancelled)),
            // Withdrawn while it waited: whoever cancels it is told that it is cancelled.
            (OrderState::Cancelled, Outcome::WrongState) => {
                Ok(Verdict { order: Some(order), ..Verdict::done(0, Vec::new()) })
            }
            _ => Err((Outcome::WrongState, None)),
        }
    }

    /// Ends an order that waits: units and money go back, or, if the buyer let a deadline pass
    /// and the order says so, the money to the sellers. Coupons always go back.
    pub(super) fn end(&self, buyer: Party, mut order: Order, state: OrderState) -> Verdict {
        let currency = order.currency;
        let deposit = (buyer, currency, AccountKind::Deposit);
        let is_forfeit = order.forfeits && self.is_overdue(&order);
        let mut effects = Vec::new();
        for (_, line) in order.goods() {
            let reserved = -i128::from(line.quantity.0);
            effects.push(Effect::Units { item: line.item, reserved, sold: 0 });
        }
        let (mut amount, mut forfeited, mut statement) = (0, 0, None);
        let mut credited = BTreeMap::<AccountName, u128>::new();
        for leg in &mut order.legs {
            let paid = u128::from(leg.paid.0);
            if paid == 0 {
                let is_late = leg.suspended.0 > 0;
                leg.state = if is_late { LegState::Late } else { LegState::Voided };
                continue;
            }
            if is_forfeit && leg.method != PaymentMethod::Coupon {
                forfeited += paid;
                continue;
            }
            let to = self.source(buyer, currency, leg);
            let credits = credited.entry(to).or_insert(self.sums(to).credits);
            if *credits + paid > u128::from(u64::MAX) {
                // An ending is refused by nothing: the money stays in the deposit.
                leg.state = LegState::Late;
                continue;
            }
            *credits += paid;
            amount += paid;
            (leg.state, leg.refunded) = (LegState::Refunded, leg.paid);
            effects.extend([Effect::Debit(deposit, paid), Effect::Credit(to, paid)]);
            match leg.method {
                PaymentMethod::Balance => statement = Some(to),
                PaymentMethod::Coupon => {
                    effects.push(self.mark_coupon(buyer, leg.coupon, false));
                }
                _ => {}
            }
        }
        let takes = |line| {
            let credits = self.sums(self.payable(line, currency)).credits;
            credits + forfeited <= u128::from(u64::MAX)
        };
        if forfeited > 0 && order.lines.iter().all(takes) {
            amount += forfeited;
            effects.push(Effect::Debit(deposit, forfeited));
            let parts = split(forfeited, order.lines.iter().map(net_of));
            for (line, part) in order.lines.iter().zip(parts) {
                let account = self.payable(line, currency);
                let (step, earned) = (self.step(), part as i128);
                effects.push(Effect::Credit(account, part));
                effects.push(Effect::Earn { account, step, amount: earned });
            }
        } else if forfeited > 0 {
            order.is_stuck = true;
        }
        order.state = state;
        Verdict { order: Some(order), statement, ..Verdict::done(amount, effects) }
    }

    pub(super) fn receive(&self, mut order: Order) -> Result<Verdict, Refusal> {
        if order.is_received || !is_paid(&order) {
            return Err((Outcome::WrongState, None));
        }
        let mut effects = Vec::new();
        let mut amount = 0;
        for line in &order.lines {
            let left = net_of(line) - part_of(net_of(line), line.refunded.0, line.quantity.0);
            amount += left;
            effects.push(Effect::Earn {
                account: self.payable(line, order.currency),
                step: order.paid_in,
                amount: -(left as i128),
            });
        }
        order.is_received = true;
        Ok(Verdict { order: Some(order), ..Verdict::done(amount, effects) })
    }

    pub(super) fn refund(
        &self,
        buyer: Party,
        restock: bool,
        asked: &[(u16, Quantity)],
        mut order: Order,
    ) -> Result<Verdict, Refusal> {
        if !is_paid(&order) {
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
        let currency = order.currency;
        let mut effects = Vec::new();
        let mut amount = 0;
        for (at, units) in units_of {
            let line = &mut order.lines[at];
            let upto = |units| part_of(net_of(line), units, line.quantity.0);
            let price = upto(line.refunded.0 + units) - upto(line.refunded.0);
            line.refunded.0 += units;
            amount += price;
            let account = self.payable(line, currency);
            effects.push(Effect::Debit(account, price));
            if !order.is_received {
                let earned = -(price as i128);
                effects.push(Effect::Earn { account, step: order.paid_in, amount: earned });
            }
            if restock && line.kind == LineKind::Goods {
                *order.restocked.entry(at).or_default() += u128::from(units);
                let sold = -i128::from(units);
                effects.push(Effect::Units { item: line.item, reserved: 0, sold });
            }
        }
        let statement = self.give_back(buyer, &mut order, amount, &mut effects);
        order.state = match order.is_all_refunded() {
            true => OrderState::Refunded,
            false => OrderState::PartlyRefunded,
        };
        Ok(Verdict { order: Some(order), statement, ..Verdict::done(amount, effects) })
    }

    /// The money goes back to where it came from: to each leg by what is left of it.
    fn give_back(
        &self,
        buyer: Party,
        order: &mut Order,
        amount: u128,
        effects: &mut Vec<Effect>,
    ) -> Option<AccountName> {
        let currency = order.currency;
        let own = match self.is_open(main_of(buyer, currency)) {
            true => main_of(buyer, currency),
            false => (buyer, currency, AccountKind::Suspense),
        };
        if order.legs.is_empty() {
            let from_balance = order.method == PaymentMethod::Balance;
            let to = if from_balance { own } else { clearing(currency) };
            effects.push(Effect::Credit(to, amount));
            return from_balance.then_some(own);
        }
        let left = |leg: &LegView| u128::from(leg.paid.0 - leg.refunded.0);
        let parts = split(amount, order.legs.iter().map(left));
        let mut statement = None;
        for (leg, part) in order.legs.iter_mut().zip(parts) {
            if part == 0 {
                continue;
            }
            effects.push(Effect::Credit(self.source(buyer, currency, leg), part));
            if leg.method == PaymentMethod::Balance {
                statement = Some(own);
            }
            leg.refunded.0 += narrow(part);
            if leg.refunded == leg.paid {
                leg.state = LegState::Refunded;
            }
        }
        statement
    }
}

fn is_paid(order: &Order) -> bool {
    [OrderState::Paid, OrderState::PartlyRefunded].contains(&order.state)
}
