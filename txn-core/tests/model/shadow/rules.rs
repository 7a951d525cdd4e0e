//! How each command is decided.

use model::record::ItemUpdate;

use super::*;

impl Shadow {
    pub(super) fn decide(&self, command: &Command) -> Verdict {
        match *command {
            Command::CreateAccount { party, currency, balance, overdraft } => {
                self.open(main_of(party, currency), balance.0.into(), overdraft.0.into())
            }
            Command::SetOverdraft { party, currency, overdraft, .. } => {
                self.set_overdraft(main_of(party, currency), overdraft.0.into())
            }
            Command::Close { account: (party, kind), currency, .. } => {
                self.close((party, currency, kind))
            }
            Command::Hold { id, account: (party, kind), currency, amount, deadline } => {
                self.hold(id, (party, currency, kind), amount.0.into(), deadline)
            }
            Command::Capture { party, hold, credit, amount, .. } => {
                self.capture(party, hold, credit, amount).unwrap_or_else(Verdict::of)
            }
            Command::Release { party, hold, .. } => {
                self.release_hold(party, hold).unwrap_or_else(Verdict::of)
            }
            Command::IssueCoupon { buyer, number, coupon: says } => {
                let coupon = OneCoupon { says, is_used: false };
                let effects = vec![Effect::KeepCoupon((buyer, number), coupon)];
                Verdict::done(says.amount.0.into(), effects)
            }
            Command::CreateItem { item, seller, currency, price, stock, sale } => {
                let (stocked, reserved, sold) = (u128::from(stock), 0, 0);
                let version = 1;
                let listed =
                    Item { seller, currency, price, sale, version, stocked, reserved, sold };
                Verdict::done(0, vec![Effect::List { item, listed }])
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
                self.transfer(debit, credit, currency, u128::from(amount.0), 0)
            }
            Command::Place {
                buyer, currency, ref legs, forfeits, withdrawn, ref lines, ..
            } => {
                let asked = orders::Asked { buyer, currency, legs, forfeits, lines };
                match withdrawn {
                    true => asked.ended(Outcome::WrongState, OrderState::Cancelled),
                    false => self.place(&asked),
                }
            }
            Command::Pay { buyer, order, step, leg, amount, .. } => {
                let amount = amount.map(|amount| u128::from(amount.0));
                self.change(buyer, order, |order| self.pay(buyer, step, leg, amount, order))
            }
            Command::Receive { buyer, order, .. } => {
                self.change(buyer, order, |order| self.receive(order))
            }
            Command::Cancel { buyer, order, .. } => {
                self.change(buyer, order, |order| self.cancel(buyer, order))
            }
            Command::Refund { buyer, order, restock, ref lines, .. } => {
                self.change(buyer, order, |order| self.refund(buyer, restock, lines, order))
            }
            Command::Timer { kind, party, id, due } => match self.due() {
                Some((first, of, _, whose, which))
                    if (first, of, whose, which) == (due, kind, party, id) =>
                {
                    match kind {
                        TimerKind::Hold => self.end_hold(party, ChangeId(id)),
                        TimerKind::Order => self.change(party, OrderId(id), |order| {
                            Ok(self.end(party, order, OrderState::Expired))
                        }),
                    }
                }
                _ => Verdict::of(Outcome::Invalid),
            },
            Command::Sweep { .. } | Command::Wait { .. } | Command::Due => {
                unreachable!("there is nothing to decide about {command:?}")
            }
        }
    }

    /// The order or hold that is due first, if one is.
    pub(super) fn due(&self) -> Option<Timer> {
        self.timers.first().copied().filter(|timer| timer.0 <= self.now)
    }

    /// A change of an order. Refused, it tells the state that the order keeps.
    fn change(
        &self,
        buyer: Party,
        id: OrderId,
        decide: impl FnOnce(Order) -> Result<Verdict, orders::Refusal>,
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
