//! What must be read, and what must add up.

use model::reply::{CouponView, HoldView, Query, View};
use model::{AccountView, ItemView, OrderView};

use super::*;

impl Model {
    /// How many orders and items there are.
    pub fn held(&self) -> (u64, u64) {
        let held = self.realms.values().map(Shadow::held);
        held.fold((0, 0), |sum, held| (sum.0 + held.0 as u64, sum.1 + held.1 as u64))
    }

    /// Counts again what the model keeps as sums.
    pub fn audit(&self) {
        self.realms.values().for_each(Shadow::audit);
    }
}

impl Shadow {
    pub(super) fn note(&mut self, command: &Command) {
        match *command {
            Command::CreateAccount { party, currency, .. }
            | Command::SetOverdraft { party, currency, .. }
            | Command::Close { account: (party, _), currency, .. } => {
                self.parties.insert(party);
                self.currencies.insert(currency);
            }
            Command::Hold { id, account: (party, _), currency, .. } => {
                self.named_holds.insert((party, id));
                self.parties.insert(party);
                self.currencies.insert(currency);
            }
            Command::Capture { party, hold, credit, .. } => {
                self.named_holds.insert((party, hold));
                self.parties.extend([party, credit.0]);
            }
            Command::Release { party, hold, .. } => {
                self.named_holds.insert((party, hold));
            }
            Command::IssueCoupon { buyer, number, ref coupon } => {
                self.named_coupons.insert((buyer, number));
                self.parties.extend([buyer, coupon.funder]);
                self.currencies.insert(coupon.currency);
            }
            Command::Transfer { debit, credit, currency, .. } => {
                self.parties.extend([debit.0, credit.0]);
                self.currencies.insert(currency);
            }
            Command::CreateItem { item, seller, currency, .. } => {
                self.named_items.insert(item);
                self.parties.insert(seller);
                self.currencies.insert(currency);
            }
            Command::Restock { item, .. } | Command::UpdateItem { item, .. } => {
                self.named_items.insert(item);
            }
            Command::Place { buyer, id, currency, ref lines, .. } => {
                self.named_orders.insert((buyer, id));
                self.parties.insert(buyer);
                self.currencies.insert(currency);
                for line in lines {
                    match line.kind {
                        LineKind::Goods => drop(self.named_items.insert(ItemId(line.item))),
                        _ => drop(self.parties.insert(Party(line.item))),
                    }
                    self.parties.extend(line.payee);
                }
            }
            Command::Pay { buyer, order, .. }
            | Command::Cancel { buyer, order, .. }
            | Command::Receive { buyer, order, .. }
            | Command::Refund { buyer, order, .. } => {
                self.named_orders.insert((buyer, order));
            }
            Command::Timer { party, id, .. } => {
                self.named_orders.insert((party, OrderId(id)));
                self.named_holds.insert((party, ChangeId(id)));
            }
            Command::Sweep { .. } | Command::Wait { .. } | Command::Due => {}
        }
    }

    /// Every read that finds something, and for all that was ever named those that don't.
    pub fn queries(&self) -> Vec<Query> {
        let mut queries = Vec::new();
        for &party in self.parties.iter().chain([&Party(0)]) {
            for &currency in &self.currencies {
                let account = |&kind| Query::Account(party, currency, kind);
                queries.extend(AccountKind::ALL.iter().map(account));
            }
        }
        queries.extend(self.named_items.iter().map(|&item| Query::Item(item)));
        queries.extend(self.named_orders.iter().map(|&(buyer, id)| Query::Order(buyer, id)));
        queries.extend(self.named_holds.iter().map(|&(party, id)| Query::Hold(party, id)));
        let coupons = self.named_coupons.iter();
        queries.extend(coupons.map(|&(buyer, number)| Query::Coupon(buyer, number)));
        queries
    }

    /// What a read must find.
    pub fn view(&self, query: Query) -> View {
        let found = match query {
            Query::Order(buyer, id) => self.orders.get(&(buyer, id)).map(|order| {
                View::Order(OrderView {
                    buyer,
                    id,
                    currency: order.currency,
                    state: order.state,
                    outcome: order.outcome,
                    method: order.method,
                    total: Amount(narrow(order.total())),
                    refunded: Amount(narrow(order.refunded())),
                    offset: Offset(order.newest),
                    deadline: order.deadline().unwrap_or_default(),
                    received: order.is_received,
                    lines: order.lines.clone(),
                    legs: order.legs.clone(),
                })
            }),
            Query::Account(party, currency, kind) => {
                self.accounts.get(&(party, currency, kind)).map(|sums| {
                    View::Account(AccountView {
                        party,
                        currency,
                        kind,
                        debits_posted: Amount(narrow(sums.debits)),
                        credits_posted: Amount(narrow(sums.credits)),
                        held: Amount(narrow(sums.held)),
                        overdraft: Amount(narrow(sums.overdraft)),
                        closed: sums.is_closed,
                        statement: Offset(self.newest(&(party, currency, kind))),
                    })
                })
            }
            Query::Hold(party, id) => self.holds.get(&(party, id)).map(|hold| {
                View::Hold(HoldView {
                    party,
                    id,
                    kind: hold.account.2,
                    currency: hold.account.1,
                    amount: Amount(narrow(hold.amount)),
                    left: Amount(narrow(hold.left)),
                    deadline: hold.deadline,
                })
            }),
            Query::Coupon(buyer, number) => self.coupons.get(&(buyer, number)).map(|coupon| {
                View::Coupon(CouponView {
                    buyer,
                    number,
                    coupon: coupon.says,
                    used: coupon.is_used,
                })
            }),
            Query::Item(item) => self.items.get(&item).map(|found| {
                View::Item(ItemView {
                    item,
                    seller: found.seller,
                    price: found.price,
                    currency: found.currency,
                    opens: found.sale.opens,
                    closes: found.sale.closes,
                    limit: found.sale.limit,
                    stocked: narrow(found.stocked),
                    pool: 0,
                    available: narrow(found.available()),
                    reserved: narrow(found.reserved),
                    sold: narrow(found.sold),
                })
            }),
        };
        found.unwrap_or(View::Missing)
    }

    /// The newest record of an account's statement, or 0.
    fn newest(&self, account: &AccountName) -> u64 {
        let statement = self.statements.get(account);
        statement.and_then(|records| records.last()).copied().unwrap_or(0)
    }

    /// Accounts with statements: the records of each, and those of them that changed its sums.
    pub fn statements(&self) -> impl Iterator<Item = (AccountName, &[u64], &[u64])> {
        let own = self.accounts.keys().filter(|account| account.2.is_own());
        own.map(|account| {
            let all = self.statements.get(account).map_or(&[][..], Vec::as_slice);
            let moved = self.moved.get(account).map_or(&[][..], Vec::as_slice);
            (*account, all, moved)
        })
    }

    /// Debits and credits by currency.
    pub fn totals(&self) -> BTreeMap<&'static str, (u128, u128)> {
        let mut sums = BTreeMap::<_, (u128, u128)>::new();
        for ((_, currency, _), account) in &self.accounts {
            let sum = sums.entry(currency.code()).or_default();
            *sum = (sum.0 + account.debits, sum.1 + account.credits);
        }
        sums
    }

    /// How many orders and items there are.
    pub fn held(&self) -> (usize, usize) {
        (self.orders.len(), self.items.len())
    }

    /// When the first timer is due.
    pub fn next_due(&self) -> Option<Time> {
        self.timers.first().map(|timer| timer.0)
    }

    /// Counts units again, deposits, coupons, what is held and timers, from the orders and holds
    /// alone.
    fn audit(&self) {
        let mut units = BTreeMap::<ItemId, (u128, u128)>::new();
        let mut bought = BTreeMap::<(Party, ItemId), u128>::new();
        let mut deposits = BTreeMap::<(Party, Currency), i128>::new();
        let mut used = BTreeSet::<(Party, u64)>::new();
        for (&(buyer, _), order) in &self.orders {
            for (at, line) in order.goods() {
                if order.counts() {
                    *bought.entry((buyer, line.item)).or_default() += u128::from(line.quantity.0);
                }
                let (reserved, sold) = units.entry(line.item).or_default();
                let back = order.restocked.get(&at).copied().unwrap_or_default();
                match order.state {
                    OrderState::Refused | OrderState::Cancelled | OrderState::Expired => {}
                    OrderState::Reserved => *reserved += u128::from(line.quantity.0),
                    _ => *sold += u128::from(line.quantity.0) - back,
                }
            }
            let gone = [OrderState::Cancelled, OrderState::Expired].contains(&order.state);
            for leg in &order.legs {
                let is_kept = match order.state {
                    OrderState::Reserved => true,
                    _ if gone => leg.state == LegState::Late || order.is_stuck,
                    _ => false,
                };
                if is_kept {
                    let deposit = deposits.entry((buyer, order.currency)).or_default();
                    *deposit += i128::from(leg.paid.0 - leg.refunded.0);
                }
                let is_coupon = leg.method == PaymentMethod::Coupon && leg.paid.0 > 0;
                if is_coupon && (!gone || leg.state == LegState::Late) {
                    assert!(used.insert((buyer, leg.coupon)), "coupon {} twice", leg.coupon);
                }
            }
        }
        for (id, item) in &self.items {
            let counted = units.get(id).copied().unwrap_or_default();
            assert_eq!((item.reserved, item.sold), counted, "units of item {id}");
        }
        for (name, units) in &self.bought {
            assert_eq!(bought.get(name).copied().unwrap_or_default(), *units, "{name:?}");
        }
        for (name, coupon) in &self.coupons {
            assert_eq!(coupon.is_used, used.contains(name), "coupon {name:?}");
        }
        let mut held = BTreeMap::<AccountName, u128>::new();
        for hold in self.holds.values() {
            *held.entry(hold.account).or_default() += hold.left;
        }
        for (name, sums) in &self.accounts {
            assert_eq!(sums.held, held.get(name).copied().unwrap_or_default(), "{name:?}");
            if name.2 == AccountKind::Deposit {
                let paid = deposits.get(&(name.0, name.1)).copied().unwrap_or_default();
                assert_eq!(self.balance(*name), paid, "deposit of {}", name.0);
            }
        }
        let orders = self.orders.iter().filter_map(|(name, order)| order.timer(name.0, name.1));
        let holds = self.holds.iter().filter_map(|(name, hold)| hold.timer(name.0, name.1));
        assert_eq!(orders.chain(holds).collect::<BTreeSet<_>>(), self.timers);
    }
}
