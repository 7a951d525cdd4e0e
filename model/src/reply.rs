//! What the core answers: the outcome of a command, or what a read found.

use std::sync::Arc;

use crate::record::Coupon;
use crate::{
    AccountKind, Amount, ChangeId, Currency, ItemId, LegState, LineKind, Offset, OrderId,
    OrderState, Outcome, Party, PaymentMethod, Quantity, Time,
};

/// The answer to one command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// What became of it; for a repeat, what became of it the first time.
    pub outcome: Outcome,
    /// The state of the order it is about, afterwards.
    pub state: Option<OrderState>,
    /// The line, from 0, that a refusal is about.
    pub line: Option<u16>,
    /// The money that moved, or the order's total.
    pub amount: Amount,
    /// Its record in the log; `None` for what is not logged.
    pub offset: Option<Offset>,
}

impl Reply {
    /// The answer to what changed nothing and leaves no record.
    pub fn unlogged(outcome: Outcome) -> Reply {
        Reply { outcome, state: None, line: None, amount: Amount(0), offset: None }
    }
}

/// An order as a read finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OrderView {
    /// Who ordered.
    pub buyer: Party,
    /// The id that the buyer chose.
    pub id: OrderId,
    /// The currency of every amount in it.
    pub currency: Currency,
    /// Where it is in its life.
    pub state: OrderState,
    /// What became of it when it was placed.
    pub outcome: Outcome,
    /// How it was paid, or `Awaited`; its first leg, where it has several.
    pub method: PaymentMethod,
    /// What its lines cost together.
    pub total: Amount,
    /// How much of it was refunded.
    pub refunded: Amount,
    /// Its newest record in the log.
    pub offset: Offset,
    /// When it expires if it isn't paid; 0: never, or it is past that.
    pub deadline: Time,
    /// Whether it was received: what sellers earned with it is pending no longer.
    pub received: bool,
    /// Its lines as they were ordered. A refused order keeps none.
    pub lines: Vec<LineView>,
    /// Its payment legs. An order that was paid at once and in one way keeps none.
    pub legs: Vec<LegView>,
}

/// A payment leg of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LegView {
    /// How it is paid, or `Awaited`.
    pub method: PaymentMethod,
    /// Where it is.
    pub state: LegState,
    /// How much of the order it pays.
    pub amount: Amount,
    /// How much of that came.
    pub paid: Amount,
    /// How much of that was given back.
    pub refunded: Amount,
    /// What came for it too late, or beyond its amount: it is in suspense.
    pub suspended: Amount,
    /// Until when it is awaited; 0: no bound.
    pub deadline: Time,
    /// The coupon's number; 0 for other legs.
    pub coupon: u64,
}

/// A line of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineView {
    /// What it is for.
    pub kind: LineKind,
    /// What was ordered; for shipping, tax and fees the number of who is paid.
    pub item: ItemId,
    /// How many units.
    pub quantity: Quantity,
    /// Units of it refunded so far.
    pub refunded: Quantity,
    /// The price that was paid for a unit.
    pub unit_price: Amount,
    /// Who is paid instead of the item's seller.
    pub payee: Option<Party>,
    /// What was taken off the line's total.
    pub discount: Amount,
}

impl LineView {
    /// What the line comes to.
    pub fn total(&self) -> u64 {
        self.unit_price.0 * u64::from(self.quantity.0) - self.discount.0
    }

    /// How much of what it comes to is given back when so many of its units are: rounded down,
    /// so that the last units bring what is left.
    pub fn given_back(&self, units: u32) -> u64 {
        share(self.total(), units.into(), self.quantity.0.into())
    }
}

/// `part` of `whole` of an amount, rounded down. `part` may not pass `whole`.
pub fn share(amount: u64, part: u64, whole: u64) -> u64 {
    match whole {
        0 => 0,
        _ => (u128::from(amount) * u128::from(part) / u128::from(whole)) as u64,
    }
}

/// An account as a read finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccountView {
    /// Whose it is.
    pub party: Party,
    /// What it is kept in.
    pub currency: Currency,
    /// What it is for.
    pub kind: AccountKind,
    /// The sum of all that was taken from it.
    pub debits_posted: Amount,
    /// The sum of all that was put into it.
    pub credits_posted: Amount,
    /// What of it is held.
    pub held: Amount,
    /// How far it may go below zero.
    pub overdraft: Amount,
    /// Whether it was closed.
    pub closed: bool,
    /// Offset of the newest record that moved its money; 0: none did, or nobody keeps that.
    pub statement: Offset,
}

impl AccountView {
    /// What names it.
    pub fn name(&self) -> AccountName {
        (self.party, self.currency, self.kind)
    }
}

/// Money of an account that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldView {
    /// Whose money.
    pub party: Party,
    /// Its id.
    pub id: ChangeId,
    /// Which account's.
    pub kind: AccountKind,
    /// What it is kept in.
    pub currency: Currency,
    /// How much was held at first.
    pub amount: Amount,
    /// How much is still held.
    pub left: Amount,
    /// When that is released; 0: never.
    pub deadline: Time,
}

/// A buyer's coupon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CouponView {
    /// Whose it is.
    pub buyer: Party,
    /// Its number.
    pub number: u64,
    /// What it says.
    pub coupon: Coupon,
    /// Whether an order uses it, or has used it.
    pub used: bool,
}

/// An item as a read finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItemView {
    /// Which item.
    pub item: ItemId,
    /// Who sells it.
    pub seller: Party,
    /// The list price of a unit.
    pub price: Amount,
    /// What it is priced in.
    pub currency: Currency,
    /// When its sale begins; 0: at once.
    pub opens: Time,
    /// When its sale ends; 0: never.
    pub closes: Time,
    /// The most units for one buyer; 0: no limit.
    pub limit: u32,
    /// Units it was created with and restocked by; 0 on a shard that isn't its home.
    pub stocked: u64,
    /// Units that its home has granted to nobody.
    pub pool: u64,
    /// Units that orders here can have without asking.
    pub available: u64,
    /// Units set aside for orders that wait for payment.
    pub reserved: u64,
    /// Units paid for, less those that came back.
    pub sold: u64,
}

/// What a read asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Query {
    /// One order of one buyer.
    Order(Party, OrderId),
    /// One account.
    Account(Party, Currency, AccountKind),
    /// One hold of one party.
    Hold(Party, ChangeId),
    /// One coupon of one buyer.
    Coupon(Party, u64),
    /// One item.
    Item(ItemId),
}

/// What a read found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum View {
    /// An order.
    Order(OrderView),
    /// An account.
    Account(AccountView),
    /// A hold.
    Hold(HoldView),
    /// A coupon.
    Coupon(CouponView),
    /// An item.
    Item(ItemView),
    /// Nothing by that name.
    Missing,
}

/// What names an account.
pub type AccountName = (Party, Currency, AccountKind);

/// A page of a shard's rows, in the order in which they came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum List {
    /// Accounts of a kind, from behind one on, at most so many. Which one that is doesn't matter:
    /// its kind may be another.
    Accounts(AccountKind, Option<AccountName>, usize),
    /// Items that are at home there, likewise. The one to begin behind may be at home elsewhere.
    Items(Option<ItemId>, usize),
    /// These items, as they stand there.
    Named(Arc<[ItemId]>),
}

/// What a list came to. A page may be short, or empty: how many rows are looked at is bounded,
/// too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listed {
    /// Accounts, and behind which one the next page begins.
    Accounts(Vec<AccountView>, Option<AccountName>),
    /// Items, likewise.
    Items(Vec<ItemView>, Option<ItemId>),
    /// What was asked for by name. `None`: the shard hasn't heard of it.
    Named(Vec<Option<ItemView>>),
    /// What the page was to begin behind isn't there.
    NotThere,
}

/// The id of the change that a command carries, with what it is scoped to: for answers that
/// name it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChangeKey {
    /// The buyer, the debited party or the item.
    pub scope: u64,
    /// The order it changes; nil for transfers and restocks.
    pub order: OrderId,
    /// The id itself.
    pub id: ChangeId,
}
