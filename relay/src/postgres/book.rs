//! What the records of a batch come to: rows that are new, and rows that change.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use model::event::{EventType, for_each_event};
use model::frame::{Frame, HEARTBEAT_SHARD};
use model::record::entry::Moved;
use model::record::{
    ACCOUNT_CLOSE, ACCOUNT_OVERDRAFT, Body, Extra, Leg, Line as PlacedLine, PLACE_FORFEIT,
    PlaceBody, RULE_VERSION, Record, SettleHoldBody, TimerKind,
};
use model::{
    AccountKind, Currency, LegState, LineKind, OrderState, Outcome, Party, PaymentMethod, Realm,
    ShardId, Time,
};

use super::order::{Line, Order, Payment};
use super::{Part, SinkError};

/// Sellers of items that are remembered.
const SELLERS_MAX: usize = 2_000_000;

/// What a record says isn't what follows from those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Differs(pub &'static str);

/// Accounts that are closed: party, [`AccountKind`], currency.
pub(super) type Closed = HashSet<(u64, u8, u16)>;
/// Buyer and id.
pub(super) type OrderKey = (u64, u128);

/// What an account got, or, below zero, gave.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub record: i64,
    pub entry: i32,
    pub at: Time,
    pub kind: &'static str,
    pub party: u64,
    pub currency: Currency,
    pub amount: i64,
    pub order: Option<i64>,
}

/// Money that is under way between two shards.
const TRANSIT: &str = "transit";

/// The entries of one record.
#[derive(Debug, Default)]
pub(super) struct Posts(Vec<(&'static str, u64, Currency, i128)>);

impl Posts {
    pub(super) fn add(&mut self, kind: AccountKind, party: u64, currency: Currency, amount: i128) {
        // What coupons have cost is swept with what was sold, and a sweep doesn't say which it was.
        let kind = if kind == AccountKind::Funding { AccountKind::Payable } else { kind };
        self.0.push((kind.word(), party, currency, amount));
    }

    fn transit(&mut self, party: u64, currency: Currency, amount: i128) {
        self.0.push((TRANSIT, party, currency, amount));
    }

    /// One entry for each account, in order. They come to nothing.
    fn settle(&mut self) -> Result<(), Differs> {
        self.0
            .sort_unstable_by_key(|&(kind, party, currency, _)| (kind, party, currency.numeric()));
        self.0.dedup_by(|next, first| {
            let same = (next.0, next.1, next.2) == (first.0, first.1, first.2);
            first.3 += if same { next.3 } else { 0 };
            same
        });
        self.0.retain(|entry| entry.3 != 0);
        match self.0.iter().map(|entry| entry.3).sum::<i128>() {
            0 => Ok(()),
            _ => Err(Differs("the sum of its entries")),
        }
    }
}

/// An item that was created.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub item: u64,
    pub seller: u64,
    pub currency: Currency,
    pub created: Time,
}

/// What happened to an account. `None`: nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub overdraft: Option<u64>,
    pub opened: Option<Time>,
    pub closed: Option<Time>,
}

/// A coupon.
#[derive(Clone, Debug)]
pub(super) struct Coupon {
    pub funder: u64,
    pub seller: u64,
    pub currency: Currency,
    pub amount: u64,
    pub minimum: u64,
    pub issued: Time,
    pub expires: u64,
}

/// A hold.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub kind: AccountKind,
    pub currency: Currency,
    pub amount: u64,
    pub left: u64,
    pub placed: Time,
    pub deadline: u64,
}

/// A row, and whether the database has it already.
#[derive(Clone, Debug)]
pub(super) struct Kept<T> {
    pub row: T,
    pub is_new: bool,
    pub is_changed: bool,
}

impl<T> Kept<T> {
    pub(super) fn new(row: T) -> Kept<T> {
        Kept { row, is_new: true, is_changed: true }
    }

    pub(super) fn found(row: T) -> Kept<T> {
        Kept { row, is_new: false, is_changed: false }
    }

    fn change(&mut self) -> &mut T {
        self.is_changed = true;
        &mut self.row
    }
}

/// Rows of before that a batch needs.
#[derive(Debug, Default)]
pub(super) struct Wants {
    pub orders: HashSet<OrderKey>,
    pub items: HashSet<u64>,
    pub coupons: HashSet<(u64, u64)>,
    pub holds: HashSet<(u64, u128)>,
}

/// What is known, and what a batch has added to it.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Which shards' records are written.
    pub part: Part,
    /// For each shard the offset of the next record.
    pub next: Vec<u64>,
    /// When the last of what was read was decided.
    pub time: Time,
    pub closed: Closed,
    pub sellers: HashMap<u64, u64>,
    pub orders: HashMap<OrderKey, Kept<Order>>,
    pub coupons: HashMap<(u64, u64), Kept<Coupon>>,
    pub holds: HashMap<(u64, u128), Kept<Hold>>,
    pub accounts: BTreeMap<(u64, AccountKind, u16), Account>,
    pub items: Vec<Item>,
    pub entries: Vec<Entry>,
    posts: Posts,
}

/// Where a record is.
#[derive(Clone, Copy)]
struct Place {
    shard: ShardId,
    number: i64,
    time: Time,
}

impl Book {
    /// Forgets what the last batch was about.
    pub(super) fn begin(&mut self) {
        self.orders.clear();
        self.coupons.clear();
        self.holds.clear();
        self.accounts.clear();
        self.items.clear();
        self.entries.clear();
        if self.sellers.len() > SELLERS_MAX {
            self.sellers.clear();
        }
    }

    /// Which rows of before a batch needs: what its records name and don't bring.
    pub(super) fn wants(&self, frames: &[Bytes]) -> Result<Wants, SinkError> {
        let mut wants = Wants::default();
        let (mut placed, mut created) = (HashSet::new(), HashSet::new());
        let (mut issued, mut held) = (HashSet::new(), HashSet::new());
        for_each(&self.next, frames, |record, place| {
            if !self.part.has(place.shard) {
                if let (Body::CreateItem(_), Some(Outcome::Ok)) = (record.body, record.outcome()) {
                    created.insert(record.party().0);
                }
                return Ok(());
            }
            let is_done = matches!(record.outcome(), Some(Outcome::Ok | Outcome::Suspended));
            let party = record.party().0;
            let key = record.order().map(|order| (party, order.0));
            match record.body {
                Body::Place { .. } if !is_done => placed.extend(key),
                _ if !is_done => {}
                Body::Place { legs, lines, .. } => {
                    placed.extend(key);
                    for line in lines.iter().filter(|line| line.kind == LineKind::Goods as u8) {
                        let item = line.item.get();
                        if !self.sellers.contains_key(&item) && !created.contains(&item) {
                            wants.items.insert(item);
                        }
                    }
                    let is_coupon = |leg: &&Leg| leg.method == PaymentMethod::Coupon as u8;
                    let coupons = legs.iter().filter(is_coupon).map(|leg| (party, leg.term.get()));
                    wants.coupons.extend(coupons.filter(|coupon| !issued.contains(coupon)));
                }
                Body::CreateItem(_) => drop(created.insert(party)),
                Body::IssueCoupon(body) => drop(issued.insert((party, body.number.get()))),
                Body::Hold(_) => drop(held.insert((party, record.header.id.get()))),
                Body::SettleHold(body) => {
                    wants
                        .holds
                        .extend(Some((party, body.hold.get())).filter(|key| !held.contains(key)));
                }
                Body::Timer(body) if body.kind == TimerKind::Hold as u8 => {
                    wants
                        .holds
                        .extend(Some((party, body.order.get())).filter(|key| !held.contains(key)));
                }
                _ => wants.orders.extend(key.filter(|key| !placed.contains(key))),
            }
            Ok(())
        })?;
        Ok(wants)
    }

    /// Takes a batch: what it wants was loaded.
    pub(super) fn take(&mut self, frames: &[Bytes]) -> Result<(), SinkError> {
        let next = self.next.clone();
        let (next, time) = for_each(&next, frames, |record, place| {
            self.posts.0.clear();
            // Who sells an item, everybody has to know.
            if !self.part.has(place.shard) && !matches!(record.body, Body::CreateItem(_)) {
                return Ok(());
            }
            let taken = self.take_record(record, place);
            taken
                .and_then(|order| self.post(place, order))
                .map_err(|Differs(what)| SinkError::Differs { place: name(place.number), what })
        })?;
        (self.next, self.time) = (next, time.max(self.time));
        Ok(())
    }

    /// Books the entries of a record, which may be about an order.
    fn post(&mut self, place: Place, order: Option<i64>) -> Result<(), Differs> {
        self.posts.settle()?;
        for (entry, &(kind, party, currency, amount)) in (0..).zip(&self.posts.0) {
            let amount = i64::try_from(amount).map_err(|_| Differs("an amount"))?;
            self.entries.push(Entry {
                record: place.number,
                entry,
                at: place.time,
                kind,
                party,
                currency,
                amount,
                order,
            });
        }
        Ok(())
    }

    /// Takes a record: the order that it is about.
    fn take_record(&mut self, record: &Record<'_>, place: Place) -> Result<Option<i64>, Differs> {
        let Some(outcome) = record.outcome() else { return Ok(None) };
        let (header, done) = (record.header, outcome == Outcome::Ok);
        let (party, amount, time) = (header.scope.get(), header.amount.get(), place.time);
        match record.body {
            Body::Place { order, legs, lines, extras, .. } => {
                return self.place(record, place, (order, legs, lines, extras)).map(Some);
            }
            Body::Pay(_) | Body::Cancel(_) | Body::Refund { .. } | Body::Receive(_)
                if done || outcome == Outcome::Suspended =>
            {
                return self.change(record, place).map(Some);
            }
            Body::Timer(body) if done && body.kind == TimerKind::Order as u8 => {
                return self.change(record, place).map(Some);
            }
            _ if !done => {}
            Body::Timer(body) => {
                let hold = self.holds.get_mut(&(party, body.order.get()));
                let hold = hold.ok_or(Differs("a hold that isn't known"))?.change();
                hold.left = hold.left.checked_sub(amount).ok_or(Differs("what is held"))?;
            }
            Body::CreateAccount(body) => {
                let currency = currency(body.currency.get())?;
                let balance = i128::from(body.balance.get());
                self.posts.add(AccountKind::Clearing, 0, currency, -balance);
                self.posts.add(AccountKind::Main, party, currency, balance);
                let account = self
                    .accounts
                    .entry((party, AccountKind::Main, currency.numeric()))
                    .or_default();
                account.opened = Some(time);
                account.overdraft = Some(body.overdraft.get());
            }
            Body::UpdateAccount(body) => {
                let (currency, kind) = (currency(body.currency.get())?, kind(body.kind)?);
                let account = self.accounts.entry((party, kind, currency.numeric())).or_default();
                if body.flags & ACCOUNT_OVERDRAFT != 0 {
                    account.overdraft = Some(body.overdraft.get());
                }
                if body.flags & ACCOUNT_CLOSE != 0 {
                    account.closed = Some(time);
                    self.closed.insert((party, body.kind, currency.numeric()));
                }
            }
            Body::CreateItem(body) => {
                let (seller, currency) = (body.seller.get(), currency(body.currency.get())?);
                self.sellers.insert(party, seller);
                self.items.push(Item { item: party, seller, currency, created: time });
            }
            Body::IssueCoupon(body) => {
                let coupon = Coupon {
                    funder: body.funder.get(),
                    seller: body.seller.get(),
                    currency: currency(body.currency.get())?,
                    amount: body.amount.get(),
                    minimum: body.minimum.get(),
                    issued: time,
                    expires: body.expires.get(),
                };
                self.coupons.insert((party, body.number.get()), Kept::new(coupon));
            }
            Body::Hold(body) => {
                let hold = Hold {
                    kind: kind(body.kind)?,
                    currency: currency(body.currency.get())?,
                    amount: body.held.get(),
                    left: body.held.get(),
                    placed: time,
                    deadline: body.deadline.get(),
                };
                self.holds.insert((party, header.id.get()), Kept::new(hold));
            }
            Body::SettleHold(body) => self.settle_hold(party, body, amount, place)?,
            Body::Transfer(body) => {
                let debit = (party, kind(body.debit_kind)?);
                let credit = (body.credit_party.get(), kind(body.credit_kind)?);
                self.transfer(debit, credit, currency(body.currency.get())?, amount, place);
            }
            Body::Sweep(body) if body.seller.get() != 0 && amount != 0 => {
                let (seller, currency) = (body.seller.get(), currency(body.currency.get())?);
                let settlement = (seller, AccountKind::Settlement as u8, currency.numeric());
                let to = match self.closed.contains(&settlement) {
                    true => AccountKind::Suspense,
                    false => AccountKind::Settlement,
                };
                let earned = i128::from(amount) * if body.owed == 0 { 1 } else { -1 };
                self.posts.add(AccountKind::Payable, seller, currency, -earned);
                self.posts.add(to, seller, currency, earned);
            }
            Body::Deliver { .. } => {
                let mut arrived = Ok(());
                for_each_event(record, |event| {
                    if let (Ok(()), Some((moved, kind))) = (arrived, event.moved()) {
                        arrived = self.arrive(event.event_type, moved, kind);
                    }
                });
                arrived?;
            }
            _ => {}
        }
        Ok(None)
    }

    fn transfer(
        &mut self,
        debit: (u64, AccountKind),
        credit: (u64, AccountKind),
        currency: Currency,
        amount: u64,
        place: Place,
    ) {
        // There is one clearing account, whatever party is named with it.
        let of =
            |(party, kind)| if kind == AccountKind::Clearing { (0, kind) } else { (party, kind) };
        let (debit, credit) = (of(debit), of(credit));
        let home = model::ids::shard_of(Party(credit.0), self.next.len() as u16);
        self.posts.add(debit.1, debit.0, currency, -i128::from(amount));
        match home == place.shard || credit.1 == AccountKind::Clearing {
            true => self.posts.add(credit.1, credit.0, currency, amount.into()),
            false => self.posts.transit(credit.0, currency, amount.into()),
        }
    }

    /// Money came from another shard.
    fn arrive(
        &mut self,
        event_type: EventType,
        moved: &Moved,
        to: AccountKind,
    ) -> Result<(), Differs> {
        let currency = currency(moved.currency.get())?;
        let (party, from) = (moved.party.get(), moved.from.get());
        let amount = i128::from(moved.amount.get());
        match event_type {
            EventType::TransferArrived => self.posts.transit(party, currency, -amount),
            EventType::TransferReturned => self.posts.transit(from, currency, -amount),
            EventType::SettlementDebited => {
                self.posts.add(kind(moved.from_kind)?, from, currency, amount);
                self.posts.add(to, party, currency, -amount);
                return Ok(());
            }
            _ => self.posts.add(kind(moved.from_kind)?, from, currency, -amount),
        }
        self.posts.add(to, party, currency, amount);
        Ok(())
    }

    fn settle_hold(
        &mut self,
        party: u64,
        body: &SettleHoldBody,
        amount: u64,
        place: Place,
    ) -> Result<(), Differs> {
        let hold = self.holds.get_mut(&(party, body.hold.get()));
        let hold = hold.ok_or(Differs("a hold that isn't known"))?.change();
        hold.left = hold.left.checked_sub(amount).ok_or(Differs("what is held"))?;
        let (debit, currency) = ((party, hold.kind), hold.currency);
        if body.op != 0 {
            let credit = (body.credit_party.get(), kind(body.credit_kind)?);
            self.transfer(debit, credit, currency, amount, place);
        }
        Ok(())
    }

    fn place(
        &mut self,
        record: &Record<'_>,
        place: Place,
        (body, legs, lines, extras): (&PlaceBody, &[Leg], &[PlacedLine], &[Extra]),
    ) -> Result<i64, Differs> {
        let header = record.header;
        let (buyer, outcome) = (header.scope.get(), record.outcome());
        let outcome = outcome.ok_or(Differs("an outcome"))?;
        let done = outcome == Outcome::Ok;
        let mut extras = extras.iter().peekable();
        let lines = (0..).zip(lines).map(|(number, line)| {
            let extra = extras.next_if(|extra| extra.line.get() == number);
            let line_kind = LineKind::from_byte(line.kind).unwrap_or(LineKind::Goods);
            let is_goods = line_kind == LineKind::Goods;
            let named = extra.map(|extra| extra.payee.get()).filter(|payee| *payee != 0);
            let payee = match is_goods {
                // What is refused isn't looked up.
                true if !done => named,
                true => named.or_else(|| self.sellers.get(&line.item.get()).copied()),
                false => Some(line.item.get()),
            };
            Line {
                kind: line_kind,
                item: is_goods.then(|| line.item.get()),
                payee,
                quantity: line.quantity.get(),
                unit_price: done.then(|| line.unit_price.get()),
                discount: extra.map_or(0, |extra| extra.discount.get()),
                refunded: 0,
            }
        });
        let lines = lines.collect();
        let mut payments = Vec::new();
        for leg in legs.iter().filter(|_| done) {
            let method = PaymentMethod::from_byte(leg.method).ok_or(Differs("a method"))?;
            let (waits, term) = (method == PaymentMethod::Awaited, leg.term.get());
            let coupon = (method == PaymentMethod::Coupon).then_some(term);
            let found = coupon.and_then(|number| self.coupons.get(&(buyer, number)));
            payments.push(Payment {
                method,
                state: if waits { LegState::Awaited } else { LegState::Captured },
                amount: leg.amount.get(),
                paid: if waits { 0 } else { leg.amount.get() },
                refunded: 0,
                suspended: 0,
                coupon,
                funder: found.map(|coupon| coupon.row.funder),
                deadline: Some(Time(term)).filter(|time| waits && time.0 != 0),
            });
        }
        let order = Order {
            number: place.number,
            buyer,
            id: header.id.get(),
            placed: place.time,
            changed: place.time,
            outcome,
            state: OrderState::from_byte(header.state).ok_or(Differs("a state"))?,
            currency: currency(body.currency.get())?,
            total: header.amount.get(),
            refunded: 0,
            forfeits: body.flags & PLACE_FORFEIT != 0,
            received: false,
            lines,
            payments,
        };
        if done {
            order.post_placed(&self.closed, &mut self.posts)?;
        }
        let number = order.number;
        self.orders.insert((buyer, header.id.get()), Kept::new(order));
        Ok(number)
    }

    /// An order changes.
    fn change(&mut self, record: &Record<'_>, place: Place) -> Result<i64, Differs> {
        let header = record.header;
        let state = OrderState::from_byte(header.state).ok_or(Differs("a state"));
        let amount = header.amount.get();
        let id = record.order().ok_or(Differs("an order"))?;
        let order = self.orders.get_mut(&(header.scope.get(), id.0));
        let order = order.ok_or(Differs("an order that isn't known"))?.change();
        order.changed = place.time;
        let (closed, posts) = (&self.closed, &mut self.posts);
        match record.body {
            Body::Pay(body) if record.outcome() == Some(Outcome::Suspended) => {
                order.suspend(body, amount, posts);
            }
            Body::Pay(body) => order.pay(body, (state?, amount), posts)?,
            Body::Cancel(body) => {
                let came_back = (amount, body.returned.get());
                order.end(OrderState::Cancelled, place.time, came_back, closed, posts)?;
            }
            Body::Timer(body) => {
                let came_back = (amount, body.returned.get());
                order.end(OrderState::Expired, place.time, came_back, closed, posts)?;
            }
            Body::Refund { refund, lines } => {
                let came_back = (amount, refund.returned.get());
                order.refund(lines, state?, came_back, closed, posts)?;
            }
            _ => order.received = true,
        }
        Ok(order.number)
    }
}

/// The records of trade, each once, in order: where each shard goes on then, and when the last was
/// decided.
fn for_each(
    next: &[u64],
    frames: &[Bytes],
    mut found: impl FnMut(&Record<'_>, Place) -> Result<(), SinkError>,
) -> Result<(Vec<u64>, Time), SinkError> {
    let (mut next, mut last) = (next.to_vec(), Time(0));
    for bytes in frames {
        let (frame, _) =
            Frame::split(bytes).map_err(|error| SinkError::Frame(error.to_string()))?;
        let at = frame.place();
        last = last.max(at.time);
        if at.shard == HEARTBEAT_SHARD {
            continue;
        }
        let Some(next) = next.get_mut(usize::from(at.shard.0)) else {
            return Err(SinkError::Frame(format!("there is no shard {}", at.shard)));
        };
        if at.first_offset.0 > *next {
            return Err(SinkError::Gap { shard: at.shard, next: *next, found: at.first_offset.0 });
        }
        let (rules, count) = (frame.header.rules.get(), frame.header.count.get());
        if rules != RULE_VERSION && count > 0 {
            return Err(SinkError::Rules { shard: at.shard, found: rules });
        }
        for (offset, record) in (at.first_offset.0..).zip(frame.records()) {
            let record = record.map_err(|error| SinkError::Frame(error.to_string()))?;
            if offset < *next || record.realm() != Realm::Live {
                continue;
            }
            let number = (u64::from(at.shard.0) << 48 | offset) as i64;
            found(&record, Place { shard: at.shard, number, time: at.time })?;
        }
        *next = (*next).max(frame.next_offset().0);
    }
    Ok((next, last))
}

/// The id of an event, from the number of its record.
fn name(number: i64) -> String {
    format!("{}-{}", number >> 48, number & ((1 << 48) - 1))
}

fn currency(numeric: u16) -> Result<Currency, Differs> {
    Currency::from_numeric(numeric).ok_or(Differs("a currency"))
}

fn kind(byte: u8) -> Result<AccountKind, Differs> {
    AccountKind::from_byte(byte).ok_or(Differs("an account kind"))
}
