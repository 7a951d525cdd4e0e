//! Events: what a record of the log means to those who only read.
//!
//! What a caller asked for is one event, done or refused; a timer that changed something is one,
//! and so is each amount of money that came from another shard. What shards tell themselves and
//! each other besides is none. [`JsonWriter::event`](crate::json::encode::JsonWriter::event)
//! writes one as a CloudEvent.

use crate::outcome::byte_enum;
use crate::record::entry::{Entry, EntryHeader, Moved};
use crate::record::{ACCOUNT_CLOSE, Body, Record, TimerKind};
use crate::{AccountKind, ItemId, LineKind, Offset, OrderId, Outcome, Party, PayStep, ShardId};

byte_enum! {
    /// What happened.
    EventType {
        /// An order was placed: it is paid, or waits for its payments.
        OrderPlaced = 1 "order.placed",
        /// An order was refused, withdrawn before it was decided, or came too late.
        OrderRefused = 2 "order.refused",
        /// An order was cancelled before it was paid.
        OrderCancelled = 3 "order.cancelled",
        /// An order wasn't paid in time.
        OrderExpired = 4 "order.expired",
        /// Units of an order were refunded.
        OrderRefunded = 5 "order.refunded",
        /// An order was received by its buyer.
        OrderReceived = 6 "order.received",
        /// A cancel, a refund or a receipt was refused.
        OrderChangeRefused = 7 "order.change_refused",
        /// A payment leg was paid, or a part of it.
        PaymentCaptured = 8 "payment.captured",
        /// A provider promised a payment leg.
        PaymentAuthorised = 9 "payment.authorised",
        /// A provider's promise was withdrawn.
        PaymentVoided = 10 "payment.voided",
        /// Money came that the order can't take; it is in suspense.
        PaymentSuspended = 11 "payment.suspended",
        /// A payment step was refused.
        PaymentRefused = 12 "payment.refused",
        /// An account was opened.
        AccountOpened = 13 "account.opened",
        /// How far an account may go below zero was changed.
        AccountUpdated = 14 "account.updated",
        /// An account was closed.
        AccountClosed = 15 "account.closed",
        /// An account was not opened, updated or closed.
        AccountRefused = 16 "account.refused",
        /// Money left an account for another. If that lives on the same shard it has arrived.
        TransferMade = 17 "transfer.made",
        /// Money of a transfer came from another shard.
        TransferArrived = 18 "transfer.arrived",
        /// Money of a transfer came back: it couldn't be taken where it was to go.
        TransferReturned = 19 "transfer.returned",
        /// A transfer was refused.
        TransferRefused = 20 "transfer.refused",
        /// What a seller earned, or a funder is given back, came to the settlement account.
        SettlementCredited = 21 "settlement.credited",
        /// What a seller owes, or a funder has spent, was taken from the settlement account.
        SettlementDebited = 22 "settlement.debited",
        /// An item was created.
        ItemCreated = 23 "item.created",
        /// Units were added to an item's stock.
        ItemRestocked = 24 "item.restocked",
        /// An item's price, window or limit was changed.
        ItemUpdated = 25 "item.updated",
        /// An item was not created, restocked or updated.
        ItemRefused = 26 "item.refused",
        /// Money of an account was held.
        HoldPlaced = 27 "hold.placed",
        /// Held money, or a part, went to another account.
        HoldCaptured = 28 "hold.captured",
        /// Held money was released.
        HoldReleased = 29 "hold.released",
        /// Held money was released because its time was over.
        HoldExpired = 30 "hold.expired",
        /// A hold, a capture or a release was refused.
        HoldRefused = 31 "hold.refused",
        /// A coupon was issued.
        CouponIssued = 32 "coupon.issued",
    }
}

impl EventType {
    /// Which of a set of types it is, as one bit.
    pub fn bit(self) -> u64 {
        1 << self as u8
    }
}

const _: () = assert!(EventType::ALL.len() < 64);

/// Where an event is. A record with several parts may be as many events, or fewer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct EventId {
    /// The log that has its record.
    pub shard: ShardId,
    /// Its record's offset.
    pub offset: Offset,
    /// Which part of the record it is of, from 0.
    pub part: u32,
}

impl EventId {
    /// From its text form: `3-1204`, or `3-1204-1` for a record's second part and so on.
    pub fn parse(text: &str) -> Option<EventId> {
        let digits = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let mut parts = text.split('-');
        let shard = ShardId(parts.next().filter(digits)?.parse().ok()?);
        let offset = Offset(parts.next().filter(digits)?.parse().ok()?);
        let part = match parts.next() {
            Some(part) => Some(part).filter(digits)?.parse().ok().filter(|part| *part > 0)?,
            None => 0,
        };
        parts.next().is_none().then_some(EventId { shard, offset, part })
    }
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let EventId { shard, offset, part } = self;
        match part {
            0 => write!(f, "{shard}-{offset}"),
            _ => write!(f, "{shard}-{offset}-{part}"),
        }
    }
}

/// Whose event it is. Those of one party, and those of one item, are in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Subject {
    /// The buyer, or whose account, hold or coupon it is.
    Party(Party),
    /// The item.
    Item(ItemId),
}

/// Something that happened, borrowed from its record.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// What.
    pub event_type: EventType,
    /// Which part of its record it is of, from 0.
    pub part: u32,
    /// Whose.
    pub subject: Subject,
    pub(crate) record: Record<'a>,
    /// Money that came from another shard.
    pub(crate) moved: Option<(&'a Moved, AccountKind)>,
}

/// A part of an event that a reader may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mention {
    /// Units of it are ordered, or it is the item itself.
    Item(ItemId),
    /// It is paid, it sells, or it funds.
    Seller(Party),
}

impl<'a> Event<'a> {
    /// The order that it is about.
    pub fn order(&self) -> Option<OrderId> {
        self.record.order()
    }

    /// Whether items and sellers are the order's, of which the record says nothing but the id.
    pub fn is_order_change(&self) -> bool {
        self.order().is_some() && !matches!(self.record.body, Body::Place { .. })
    }

    /// Money that came from another shard, and the kind of account that took it.
    pub fn moved(&self) -> Option<(&'a Moved, AccountKind)> {
        self.moved
    }

    /// Whose account it credits, where that isn't its subject's.
    pub fn credited(&self) -> Option<Party> {
        match self.record.body {
            Body::Transfer(body) => Some(Party(body.credit_party.get())),
            Body::SettleHold(body) if body.op != 0 => Some(Party(body.credit_party.get())),
            _ => None,
        }
    }

    /// The items and sellers that its record names. Who sells an item that is ordered isn't in it.
    pub fn for_each_mention(&self, mut found: impl FnMut(Mention)) {
        let mut party = |party: u64| {
            if party != 0 {
                found(Mention::Seller(Party(party)));
            }
        };
        match self.record.body {
            Body::Place { lines, extras, .. } => {
                extras.iter().for_each(|extra| party(extra.payee.get()));
                for line in lines {
                    found(match line.kind == LineKind::Goods as u8 {
                        true => Mention::Item(ItemId(line.item.get())),
                        false => Mention::Seller(Party(line.item.get())),
                    });
                }
            }
            Body::IssueCoupon(body) => {
                party(body.funder.get());
                party(body.seller.get());
            }
            Body::CreateItem(body) => party(body.seller.get()),
            Body::Sweep(body) => party(body.seller.get()),
            _ => {}
        }
        if let (Some((moved, _)), false) = (self.moved, self.event_type.is_transfer()) {
            found(Mention::Seller(Party(moved.party.get())));
        }
        if let Subject::Item(item) = self.subject {
            found(Mention::Item(item));
        }
    }
}

impl EventType {
    fn is_transfer(self) -> bool {
        matches!(self, EventType::TransferArrived | EventType::TransferReturned)
    }
}

/// The events of a record, in order.
pub fn for_each_event<'a>(record: &Record<'a>, mut found: impl FnMut(Event<'a>)) {
    use EventType::*;
    let Some(outcome) = record.outcome() else { return };
    let done = outcome == Outcome::Ok;
    let or = |event_type, refused| if done { event_type } else { refused };
    let party = Subject::Party(record.party());
    let item = Subject::Item(ItemId(record.header.scope.get()));
    let (event_type, subject) = match record.body {
        Body::Place { .. } => (or(OrderPlaced, OrderRefused), party),
        Body::Pay(body) => {
            let step = match PayStep::from_byte(body.step) {
                Some(PayStep::Authorise) => PaymentAuthorised,
                Some(PayStep::Void) => PaymentVoided,
                _ => PaymentCaptured,
            };
            let refused = match outcome {
                Outcome::Suspended => PaymentSuspended,
                _ => PaymentRefused,
            };
            (or(step, refused), party)
        }
        Body::Cancel(_) => (or(OrderCancelled, OrderChangeRefused), party),
        Body::Refund { .. } => (or(OrderRefunded, OrderChangeRefused), party),
        Body::Receive(_) => (or(OrderReceived, OrderChangeRefused), party),
        Body::CreateAccount(_) => (or(AccountOpened, AccountRefused), party),
        Body::UpdateAccount(body) => {
            let closes = body.flags & ACCOUNT_CLOSE != 0;
            (or(if closes { AccountClosed } else { AccountUpdated }, AccountRefused), party)
        }
        Body::Transfer(body) => {
            (or(TransferMade, TransferRefused), Subject::Party(record.transfer_party(body)))
        }
        Body::CreateItem(_) => (or(ItemCreated, ItemRefused), item),
        Body::Restock(_) => (or(ItemRestocked, ItemRefused), item),
        Body::UpdateItem(_) => (or(ItemUpdated, ItemRefused), item),
        Body::Hold(_) => (or(HoldPlaced, HoldRefused), party),
        Body::SettleHold(body) => {
            (or(if body.op == 0 { HoldReleased } else { HoldCaptured }, HoldRefused), party)
        }
        Body::IssueCoupon(_) if done => (CouponIssued, party),
        Body::Timer(body) if done => {
            let is_order = body.kind == TimerKind::Order as u8;
            (if is_order { OrderExpired } else { HoldExpired }, party)
        }
        Body::Sweep(body) if done && body.seller.get() != 0 && record.header.amount.get() != 0 => {
            let credited = body.owed == 0;
            let subject = Subject::Party(Party(body.seller.get()));
            (if credited { SettlementCredited } else { SettlementDebited }, subject)
        }
        Body::Deliver { entries, .. } => {
            for (part, (bytes, entry)) in (0..).zip(entries) {
                let Some((event_type, moved)) = arrived(bytes, &entry) else { continue };
                let subject = Subject::Party(Party(moved.0.party.get()));
                found(Event { event_type, part, subject, record: *record, moved: Some(moved) });
            }
            return;
        }
        Body::Timer(_)
        | Body::IssueCoupon(_)
        | Body::Sweep(_)
        | Body::Stock(_)
        | Body::Evict { .. }
        | Body::Load { .. } => return,
    };
    found(Event { event_type, part: 0, subject, record: *record, moved: None });
}

/// Money that an entry brought, and the account that took it.
fn arrived<'a>(bytes: &[u8], entry: &Entry<'a>) -> Option<(EventType, (&'a Moved, AccountKind))> {
    let (event_type, moved) = match *entry {
        Entry::Transfer(moved) => (EventType::TransferArrived, moved),
        Entry::Back(moved) => (EventType::TransferReturned, moved),
        Entry::Sweep(moved) => (EventType::SettlementCredited, moved),
        Entry::Owed(moved) => (EventType::SettlementDebited, moved),
        _ => return None,
    };
    let outcome = bytes[std::mem::offset_of!(EntryHeader, outcome)];
    let kind = match Outcome::from_byte(outcome)? {
        Outcome::Ok => AccountKind::from_byte(moved.kind)?,
        Outcome::WrongState => AccountKind::Suspense,
        _ => return None,
    };
    Some((event_type, (moved, kind)))
}
