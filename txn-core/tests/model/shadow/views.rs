//! What must be read, and what must add up.

use model::reply::{Query, View};
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
            Command::CreateAccount { party, currency, .. } => {
                self.parties.insert(party);
                self.currencies.insert(currency);
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
                self.named_items.extend(lines.iter().map(|line| line.item));
            }
            Command::Pay { buyer, order, .. }
            | Command::Cancel { buyer, order, .. }
            | Command::Refund { buyer, order, .. }
            | Command::Timer { buyer, order, .. } => {
                self.named_orders.insert((buyer, order));
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
                    deadline: if order.expires() { order.deadline } else { Time(0) },
                    lines: order.lines.clone(),
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
                    })
                })
            }
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

    /// Debits and credits by currency.
    pub fn sums(&self) -> BTreeMap<&'static str, (u128, u128)> {
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

    /// Counts units again, and timers, from the orders alone.
    fn audit(&self) {
        let mut units = BTreeMap::<ItemId, (u128, u128)>::new();
        let mut bought = BTreeMap::<(Party, ItemId), u128>::new();
        for (&(buyer, _), order) in &self.orders {
            for (at, line) in order.lines.iter().enumerate() {
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
        }
        for (id, item) in &self.items {
            let counted = units.get(id).copied().unwrap_or_default();
            assert_eq!((item.reserved, item.sold), counted, "units of item {id}");
        }
        for (name, units) in &self.bought {
            assert_eq!(bought.get(name).copied().unwrap_or_default(), *units, "{name:?}");
        }
        let waiting = self.orders.values().filter(|order| order.expires());
        assert_eq!(waiting.count(), self.timers.len());
    }
}
