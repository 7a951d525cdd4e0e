//! Records: a command as bytes, and what became of it.
//!
//! Everything is little-endian, packed without gaps in the order of the struct's fields, and a
//! record's length is a multiple of 8. A record begins with a [`Header`]; its `kind` says which
//! body follows. Fields marked *outcome* are zero in a command; the core fills them in, and the
//! log holds the result. [`clear_outcome`] is the way back, so that a reader can execute the
//! command again and compare.
//!
//! An order is `Header, PlaceBody, Leg × leg_count, Line × line_count, Extra × extra_count`.
//! Extras carry what few lines have (another payee, a discount); today's rules accept none.
//!
//! Kinds 1 to 8 and 13 are what callers ask for. The others are what shards tell themselves and
//! each other: what came on a stream ([`entry`]), stock asked for and given back, a timer that
//! is due, a sweep. They are commands like any others, so a log holds all that a shard decides on.

/// Declares the structs that travel as bytes.
macro_rules! layout {
    ($($(#[$doc:meta])* $name:ident[$bytes:literal] { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
        const _: () = assert!(size_of::<$name>() == $bytes);
    )*};
}

mod commands;
pub mod entry;

use zerocopy::byteorder::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::money::STOCK_MAX;
use crate::{
    AccountKind, Amount, ChangeId, Currency, ItemId, OrderId, Outcome, Party, PaymentMethod,
    Quantity, Realm, ShardId, Time, home_of,
};

pub use commands::{CommandBuffer, ItemUpdate, PlaceWriter, Sale, StreamPlace};
use entry::{Entries, StockOp};

/// The most lines that an order, or a refund, may have.
pub const LINES_MAX: usize = 2_000;

/// The most bytes a record takes: an order with [`LINES_MAX`] lines, extras and 16 legs.
pub const RECORD_BYTES_MAX: usize = size_of::<Header>()
    + size_of::<PlaceBody>()
    + 16 * size_of::<Leg>()
    + LINES_MAX * (size_of::<Line>() + size_of::<Extra>());

/// The most bytes of stream entries in one [`Kind::Deliver`].
pub const ENTRIES_BYTES_MAX: usize = 64 << 10;
/// The most accounts that one [`Kind::Sweep`] looks at.
pub const SWEEP_MAX: u32 = 1_000;
/// The most operations of one [`Kind::Stock`].
pub const STOCK_OPS_MAX: usize = 1_000;

const _: () = assert!(ENTRIES_BYTES_MAX + 128 < RECORD_BYTES_MAX);
const _: () = assert!(STOCK_OPS_MAX * size_of::<StockOp>() + 128 < RECORD_BYTES_MAX);

/// The rules by which today's core decides. Frames name them.
pub const RULE_VERSION: u16 = 2;

/// What a record asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Opens an account.
    CreateAccount = 1,
    /// Moves money between two accounts.
    Transfer = 2,
    /// Lists an item with its first stock.
    CreateItem = 3,
    /// Adds stock.
    Restock = 4,
    /// Places an order.
    Place = 5,
    /// Pays an order that waits for payment.
    Pay = 6,
    /// Cancels an order that waits for payment.
    Cancel = 7,
    /// Gives back what was paid for units of an order.
    Refund = 8,
    /// What another shard sent on its stream.
    Deliver = 9,
    /// Asks the homes of items for units, or answers their recalls.
    Stock = 10,
    /// The first timer, which is due.
    Timer = 11,
    /// Sends what sellers have earned to their homes.
    Sweep = 12,
    /// Changes an item's price, window or limit.
    UpdateItem = 13,
}

impl Kind {
    /// The kind that travels as `byte`.
    pub fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::CreateAccount,
            2 => Kind::Transfer,
            3 => Kind::CreateItem,
            4 => Kind::Restock,
            5 => Kind::Place,
            6 => Kind::Pay,
            7 => Kind::Cancel,
            8 => Kind::Refund,
            9 => Kind::Deliver,
            10 => Kind::Stock,
            11 => Kind::Timer,
            12 => Kind::Sweep,
            13 => Kind::UpdateItem,
            _ => return None,
        })
    }
}

layout! {
    /// What every record begins with.
    Header[48] {
        /// Bytes of the whole record.
        length: U32,
        /// A [`Kind`].
        kind: u8,
        /// A [`Realm`].
        realm: u8,
        /// *Outcome*: an [`Outcome`].
        outcome: u8,
        /// *Outcome*: the order's [`crate::OrderState`] afterwards, or 0.
        state: u8,
        /// The buyer; for accounts and transfers the (debited) party; for items the item; for
        /// what was delivered the shard that sent it.
        scope: U64,
        /// The change's id; an order's own id when it is placed; nil where the scope says it all.
        id: U128,
        /// *Outcome*: offset of the record before it for the same order, or 0.
        previous: U64,
        /// *Outcome*: the money that moved, or the order's total.
        amount: U64,
    }
    /// [`Kind::CreateAccount`].
    CreateAccountBody[16] {
        /// ISO 4217 numeric.
        currency: U16,
        /// An [`AccountKind`]; `Main` for now.
        kind: u8,
        /// Zero.
        reserved: [u8; 5],
        /// Money it opens with, booked against clearing.
        balance: U64,
    }
    /// [`Kind::Transfer`].
    TransferBody[24] {
        /// ISO 4217 numeric.
        currency: U16,
        /// [`AccountKind`] that is debited, of the header's scope.
        debit_kind: u8,
        /// [`AccountKind`] that is credited.
        credit_kind: u8,
        /// Zero.
        reserved: [u8; 4],
        /// Party that is credited.
        credit_party: U64,
        /// How much, at least 1.
        moved: U64,
    }
    /// [`Kind::CreateItem`].
    CreateItemBody[48] {
        /// Who is paid for it.
        seller: U64,
        /// List price of a unit.
        price: U64,
        /// First stock.
        stock: U64,
        /// When its sale begins, µs since 1970; 0: at once.
        opens: U64,
        /// When its sale ends, µs since 1970; 0: never.
        closes: U64,
        /// ISO 4217 numeric.
        currency: U16,
        /// Zero.
        reserved: [u8; 2],
        /// The most units that one buyer may order, ever; 0: no limit.
        limit: U32,
    }
    /// [`Kind::UpdateItem`]. What isn't named stays.
    UpdateItemBody[32] {
        /// List price of a unit, with [`UPDATE_PRICE`].
        price: U64,
        /// When its sale begins, with [`UPDATE_WINDOW`].
        opens: U64,
        /// When its sale ends, with [`UPDATE_WINDOW`].
        closes: U64,
        /// The most units for one buyer, with [`UPDATE_LIMIT`].
        limit: U32,
        /// What changes: at least one of the three.
        flags: u8,
        /// Zero.
        reserved: [u8; 3],
    }
    /// [`Kind::Restock`].
    RestockBody[8] {
        /// Units added, at least 1.
        quantity: U64,
    }
    /// [`Kind::Place`].
    PlaceBody[24] {
        /// ISO 4217 numeric.
        currency: U16,
        /// Lines that follow, 1 to [`LINES_MAX`].
        line_count: U16,
        /// Extras that follow the lines; 0 under today's rules.
        extra_count: U16,
        /// Payment legs before the lines; 1 under today's rules.
        leg_count: u8,
        /// [`PLACE_WITHDRAWN`] or 0.
        flags: u8,
        /// When an unpaid order expires, µs since 1970; 0: never.
        deadline: U64,
        /// *Outcome*: 1 + the line that a refusal is about, or 0.
        refused_line: U16,
        /// Zero.
        reserved: [u8; 6],
    }
    /// One way in which an order is paid.
    Leg[24] {
        /// Its number within the order.
        id: U16,
        /// A [`PaymentMethod`].
        method: u8,
        /// Zero.
        flags: u8,
        /// Zero.
        reserved: [u8; 4],
        /// *Outcome*: how much of the order it pays.
        amount: U64,
        /// When it must be there, µs since 1970; 0: no deadline.
        deadline: U64,
    }
    /// One line of an order.
    Line[24] {
        /// What is ordered.
        item: U64,
        /// The price agreed for a unit ([`LINE_AGREED`]); else *outcome*: the list price.
        unit_price: U64,
        /// Units, at least 1.
        quantity: U32,
        /// 0: goods. Shipping, tax and fees come with later rules.
        kind: u8,
        /// [`LINE_AGREED`] or 0.
        flags: u8,
        /// *Outcome*: the version of the item's catalogue entry that the order saw, modulo 2¹⁶.
        version: U16,
    }
    /// What few lines have.
    Extra[24] {
        /// The line it belongs to.
        line: U16,
        /// Where the stock is; 0, the one place there is.
        place: U16,
        /// Zero.
        reserved: [u8; 4],
        /// Who is paid instead of the item's seller, or 0.
        payee: U64,
        /// What is taken off the line's total.
        discount: U64,
    }
    /// [`Kind::Pay`].
    PayBody[24] {
        /// Which order of the buyer.
        order: U128,
        /// `Balance` or `External`.
        method: u8,
        /// Zero.
        reserved: [u8; 7],
    }
    /// [`Kind::Cancel`].
    CancelBody[16] {
        /// Which order of the buyer.
        order: U128,
    }
    /// [`Kind::Refund`].
    RefundBody[24] {
        /// Which order of the buyer.
        order: U128,
        /// Refund lines that follow; 0: all that is left.
        line_count: U16,
        /// [`REFUND_RESTOCK`] or 0.
        flags: u8,
        /// Zero.
        reserved: [u8; 3],
        /// *Outcome*: 1 + the refund line that a refusal is about, or 0.
        refused_line: U16,
    }
    /// [`Kind::Deliver`]: entries of a stream follow.
    DeliverBody[32] {
        /// The number of the first entry; without entries, of the next one to come.
        first: U64,
        /// All before this number the receiver has acknowledged. A receiver that waits for an
        /// earlier one has lost what was durable.
        base: U64,
        /// The number of the next entry of the other direction that the sender waits for: all
        /// before it have arrived there, durably.
        acked: U64,
        /// Entries that follow.
        count: U32,
        /// Zero.
        reserved: [u8; 4],
    }
    /// [`Kind::Stock`]: [`StockOp`]s follow.
    StockBody[8] {
        /// How many, at least 1.
        count: U16,
        /// Zero.
        reserved: [u8; 6],
    }
    /// [`Kind::Timer`]: the header's scope is the buyer.
    TimerBody[32] {
        /// The order that is due.
        order: U128,
        /// When it was due, µs since 1970.
        due: U64,
        /// 0: the order expires.
        kind: u8,
        /// Zero.
        reserved: [u8; 7],
    }
    /// [`Kind::Sweep`].
    SweepBody[16] {
        /// Sellers' accounts to look at, at least 1.
        count: U32,
        /// Zero.
        reserved: [u8; 4],
        /// *Outcome*: accounts whose money was sent.
        swept: U64,
    }
    /// Units of one line to refund.
    RefundLine[8] {
        /// The order's line, from 0.
        line: U16,
        /// Zero.
        reserved: [u8; 2],
        /// Units, at least 1.
        quantity: U32,
    }
}

/// [`Line::flags`]: the caller states the unit price.
pub const LINE_AGREED: u8 = 1;
/// [`PlaceBody::flags`]: the order was cancelled while it waited. It is recorded as that.
pub const PLACE_WITHDRAWN: u8 = 1;
/// [`UpdateItemBody::flags`]: the price.
pub const UPDATE_PRICE: u8 = 1;
/// [`UpdateItemBody::flags`]: the window of its sale.
pub const UPDATE_WINDOW: u8 = 2;
/// [`UpdateItemBody::flags`]: the limit for one buyer.
pub const UPDATE_LIMIT: u8 = 4;
/// [`RefundBody::flags`]: the units go back into stock.
pub const REFUND_RESTOCK: u8 = 1;

/// A record's body, borrowed from its bytes.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// See [`Kind::CreateAccount`].
    CreateAccount(&'a CreateAccountBody),
    /// See [`Kind::Transfer`].
    Transfer(&'a TransferBody),
    /// See [`Kind::CreateItem`].
    CreateItem(&'a CreateItemBody),
    /// See [`Kind::Restock`].
    Restock(&'a RestockBody),
    /// See [`Kind::Place`].
    Place {
        /// The fixed part.
        order: &'a PlaceBody,
        /// How it is paid.
        leg: &'a Leg,
        /// What is ordered.
        lines: &'a [Line],
    },
    /// See [`Kind::Pay`].
    Pay(&'a PayBody),
    /// See [`Kind::Cancel`].
    Cancel(&'a CancelBody),
    /// See [`Kind::Refund`].
    Refund {
        /// The fixed part.
        refund: &'a RefundBody,
        /// What is refunded; empty: all that is left.
        lines: &'a [RefundLine],
    },
    /// See [`Kind::Deliver`].
    Deliver {
        /// The fixed part.
        deliver: &'a DeliverBody,
        /// What was sent.
        entries: Entries<'a>,
    },
    /// See [`Kind::Stock`].
    Stock(&'a [StockOp]),
    /// See [`Kind::Timer`].
    Timer(&'a TimerBody),
    /// See [`Kind::Sweep`].
    Sweep(&'a SweepBody),
    /// See [`Kind::UpdateItem`].
    UpdateItem(&'a UpdateItemBody),
}

/// A record that was checked whole: lengths, counts, closed sets and ranges hold.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// All of its bytes.
    pub bytes: &'a [u8],
    /// The part that all kinds share.
    pub header: &'a Header,
    /// The rest.
    pub body: Body<'a>,
}

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Its length passes the bytes that are there, or what its kind allows.
    #[error("a record's length of {length} bytes does not fit (room: {room})")]
    Length {
        /// What it says.
        length: usize,
        /// What there is.
        room: usize,
    },
    /// A field's value is out of its range.
    #[error("{field} may not be {value}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

fn field<T>(field: &'static str, value: u64) -> Result<T, RecordError> {
    Err(RecordError::Field { field, value })
}

fn in_range(name: &'static str, value: u64, low: u64, high: u64) -> Result<(), RecordError> {
    if (low..=high).contains(&value) { Ok(()) } else { field(name, value) }
}

impl<'a> Record<'a> {
    /// The first record of `bytes`, checked, and what follows it.
    pub fn split(bytes: &'a [u8]) -> Result<(Record<'a>, &'a [u8]), RecordError> {
        let room = bytes.len();
        let short = |length| RecordError::Length { length, room };
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| short(size_of::<Header>()))?;
        let length = header.length.get() as usize;
        if !length.is_multiple_of(8) || length > room || length < size_of::<Header>() {
            return Err(short(length));
        }
        let (bytes, rest) = bytes.split_at(length);
        in_range("realm", header.realm.into(), 0, Realm::Drill as u64)?;
        let Some(kind) = Kind::from_byte(header.kind) else {
            return field("kind", header.kind.into());
        };
        let body = Body::parse(kind, &bytes[size_of::<Header>()..])?;
        Ok((Record { bytes, header, body }, rest))
    }

    /// Whether all outcome fields are still zero, as they are in a command.
    pub fn check_undecided(&self) -> Result<(), RecordError> {
        let header = self.header;
        in_range("outcome", header.outcome.into(), 0, 0)?;
        in_range("state", header.state.into(), 0, 0)?;
        in_range("previous", header.previous.get(), 0, 0)?;
        in_range("amount", header.amount.get(), 0, 0)?;
        match self.body {
            Body::Place { order, leg, lines } => {
                in_range("refused line", order.refused_line.get().into(), 0, 0)?;
                in_range("leg amount", leg.amount.get(), 0, 0)?;
                for line in lines {
                    in_range("version", line.version.get().into(), 0, 0)?;
                    if line.flags & LINE_AGREED == 0 {
                        in_range("unit price", line.unit_price.get(), 0, 0)?;
                    }
                }
            }
            Body::Sweep(body) => in_range("swept", body.swept.get(), 0, 0)?,
            Body::Deliver { entries, .. } => entries.check_undecided()?,
            Body::Refund { refund, .. } => {
                in_range("refused line", refund.refused_line.get().into(), 0, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Trade or rehearsal.
    pub fn realm(&self) -> Realm {
        if self.header.realm == Realm::Drill as u8 { Realm::Drill } else { Realm::Live }
    }

    /// The shard, of `shards`, that decides what a caller asks for here. `None` for what shards
    /// tell themselves and each other.
    ///
    /// Money that enters or leaves does so where its party lives: the other side, clearing, has
    /// a part of its own on every shard.
    pub fn home(&self, shards: u16) -> Option<ShardId> {
        let scope = self.header.scope.get();
        let key = match self.body {
            Body::Transfer(body) => self.transfer_party(body).0,
            Body::CreateAccount(_)
            | Body::CreateItem(_)
            | Body::UpdateItem(_)
            | Body::Restock(_)
            | Body::Place { .. }
            | Body::Pay(_)
            | Body::Cancel(_)
            | Body::Refund { .. } => scope,
            Body::Deliver { .. } | Body::Stock(_) | Body::Timer(_) | Body::Sweep(_) => return None,
        };
        Some(home_of(key, shards))
    }

    /// The party that a transfer belongs to: who is debited, or, for what enters, who is credited.
    pub fn transfer_party(&self, body: &TransferBody) -> Party {
        let enters = body.debit_kind == AccountKind::Clearing as u8;
        Party(if enters { body.credit_party.get() } else { self.header.scope.get() })
    }

    /// What became of it; `None` for a command.
    pub fn outcome(&self) -> Option<Outcome> {
        Outcome::from_byte(self.header.outcome)
    }

    /// The buyer, for orders and what changes them; the party, for accounts and transfers.
    pub fn party(&self) -> Party {
        Party(self.header.scope.get())
    }

    /// The order it places or changes.
    pub fn order(&self) -> Option<OrderId> {
        match self.body {
            Body::Place { .. } => Some(OrderId(self.header.id.get())),
            Body::Pay(body) => Some(OrderId(body.order.get())),
            Body::Cancel(body) => Some(OrderId(body.order.get())),
            Body::Refund { refund, .. } => Some(OrderId(refund.order.get())),
            Body::Timer(body) => Some(OrderId(body.order.get())),
            _ => None,
        }
    }
}

impl<'a> Body<'a> {
    fn parse(kind: Kind, bytes: &'a [u8]) -> Result<Body<'a>, RecordError> {
        let wrong = || RecordError::Length { length: bytes.len(), room: bytes.len() };
        /// The bytes, whole, as one fixed body.
        macro_rules! exactly {
            ($ty:ty) => {
                <$ty>::ref_from_bytes(bytes).map_err(|_| wrong())?
            };
        }
        Ok(match kind {
            Kind::CreateAccount => {
                let body = exactly!(CreateAccountBody);
                currency(body.currency)?;
                in_range("account kind", body.kind.into(), 1, AccountKind::Main as u64)?;
                in_range("balance", body.balance.get(), 0, Amount::MAX.0)?;
                zero(&body.reserved)?;
                Body::CreateAccount(body)
            }
            Kind::Transfer => {
                let body = exactly!(TransferBody);
                currency(body.currency)?;
                transferable("debit kind", body.debit_kind)?;
                transferable("credit kind", body.credit_kind)?;
                in_range("amount", body.moved.get(), 1, Amount::MAX.0)?;
                zero(&body.reserved)?;
                Body::Transfer(body)
            }
            Kind::CreateItem => {
                let body = exactly!(CreateItemBody);
                currency(body.currency)?;
                in_range("price", body.price.get(), 0, Amount::MAX.0)?;
                in_range("stock", body.stock.get(), 0, STOCK_MAX)?;
                window(body.opens.get(), body.closes.get())?;
                in_range("limit", body.limit.get().into(), 0, Quantity::MAX.0.into())?;
                zero(&body.reserved)?;
                Body::CreateItem(body)
            }
            Kind::UpdateItem => {
                let body = exactly!(UpdateItemBody);
                let known = UPDATE_PRICE | UPDATE_WINDOW | UPDATE_LIMIT;
                in_range("update flags", body.flags.into(), 1, known.into())?;
                in_range("price", body.price.get(), 0, Amount::MAX.0)?;
                window(body.opens.get(), body.closes.get())?;
                in_range("limit", body.limit.get().into(), 0, Quantity::MAX.0.into())?;
                let named = |flag, value: u64| body.flags & flag != 0 || value == 0;
                let unnamed = [
                    ("price", named(UPDATE_PRICE, body.price.get())),
                    ("opens", named(UPDATE_WINDOW, body.opens.get())),
                    ("closes", named(UPDATE_WINDOW, body.closes.get())),
                    ("limit", named(UPDATE_LIMIT, body.limit.get().into())),
                ];
                if let Some((name, _)) = unnamed.iter().find(|(_, right)| !right) {
                    return field(name, 1);
                }
                zero(&body.reserved)?;
                Body::UpdateItem(body)
            }
            Kind::Restock => {
                let body = exactly!(RestockBody);
                in_range("quantity", body.quantity.get(), 1, STOCK_MAX)?;
                Body::Restock(body)
            }
            Kind::Place => {
                let (order, rest) = PlaceBody::ref_from_prefix(bytes).map_err(|_| wrong())?;
                currency(order.currency)?;
                in_range("line count", order.line_count.get().into(), 1, LINES_MAX as u64)?;
                in_range("extra count", order.extra_count.get().into(), 0, 0)?;
                in_range("leg count", order.leg_count.into(), 1, 1)?;
                in_range("deadline", order.deadline.get(), 0, Time::MAX.0)?;
                in_range("order flags", order.flags.into(), 0, PLACE_WITHDRAWN.into())?;
                zero(&order.reserved)?;
                let (leg, rest) = Leg::ref_from_prefix(rest).map_err(|_| wrong())?;
                in_range("method", leg.method.into(), 0, PaymentMethod::External as u64)?;
                in_range("leg flags", leg.flags.into(), 0, 0)?;
                // The one leg there is has the order's deadline.
                in_range("leg deadline", leg.deadline.get(), 0, 0)?;
                zero(&leg.reserved)?;
                let lines = <[Line]>::ref_from_bytes(rest).map_err(|_| wrong())?;
                if lines.len() != usize::from(order.line_count.get()) {
                    return Err(wrong());
                }
                for line in lines {
                    in_range("quantity", line.quantity.get().into(), 1, Quantity::MAX.0.into())?;
                    in_range("unit price", line.unit_price.get(), 0, Amount::MAX.0)?;
                    in_range("line kind", line.kind.into(), 0, 0)?;
                    in_range("line flags", line.flags.into(), 0, LINE_AGREED.into())?;
                }
                Body::Place { order, leg, lines }
            }
            Kind::Pay => {
                let body = exactly!(PayBody);
                in_range("method", body.method.into(), 1, PaymentMethod::External as u64)?;
                zero(&body.reserved)?;
                Body::Pay(body)
            }
            Kind::Cancel => Body::Cancel(exactly!(CancelBody)),
            Kind::Refund => {
                let (refund, rest) = RefundBody::ref_from_prefix(bytes).map_err(|_| wrong())?;
                in_range("refund flags", refund.flags.into(), 0, REFUND_RESTOCK.into())?;
                in_range("refund lines", refund.line_count.get().into(), 0, LINES_MAX as u64)?;
                zero(&refund.reserved)?;
                let lines = <[RefundLine]>::ref_from_bytes(rest).map_err(|_| wrong())?;
                if lines.len() != usize::from(refund.line_count.get()) {
                    return Err(wrong());
                }
                for line in lines {
                    in_range("quantity", line.quantity.get().into(), 1, Quantity::MAX.0.into())?;
                    zero(&line.reserved)?;
                }
                Body::Refund { refund, lines }
            }
            Kind::Deliver => {
                let (deliver, rest) = DeliverBody::ref_from_prefix(bytes).map_err(|_| wrong())?;
                zero(&deliver.reserved)?;
                if rest.len() > ENTRIES_BYTES_MAX {
                    return Err(wrong());
                }
                // Numbers count what was sent; 2⁶³ of them never were.
                in_range("first", deliver.first.get(), 1, 1 << 63)?;
                in_range("base", deliver.base.get(), 1, deliver.first.get())?;
                in_range("acked", deliver.acked.get(), 1, 1 << 63)?;
                let entries = Entries::parse(rest, deliver.count.get())?;
                Body::Deliver { deliver, entries }
            }
            Kind::Stock => {
                let (stock, rest) = StockBody::ref_from_prefix(bytes).map_err(|_| wrong())?;
                zero(&stock.reserved)?;
                in_range("operations", stock.count.get().into(), 1, STOCK_OPS_MAX as u64)?;
                let ops = <[StockOp]>::ref_from_bytes(rest).map_err(|_| wrong())?;
                if ops.len() != usize::from(stock.count.get()) {
                    return Err(wrong());
                }
                ops.iter().try_for_each(StockOp::check)?;
                Body::Stock(ops)
            }
            Kind::Timer => {
                let body = exactly!(TimerBody);
                in_range("timer kind", body.kind.into(), 0, 0)?;
                zero(&body.reserved)?;
                Body::Timer(body)
            }
            Kind::Sweep => {
                let body = exactly!(SweepBody);
                in_range("count", body.count.get().into(), 1, SWEEP_MAX.into())?;
                zero(&body.reserved)?;
                Body::Sweep(body)
            }
        })
    }
}

/// A seller's earnings leave its payable accounts by sweeps alone.
fn transferable(name: &'static str, kind: u8) -> Result<(), RecordError> {
    match AccountKind::from_byte(kind) {
        None | Some(AccountKind::Payable) => field(name, kind.into()),
        Some(_) => Ok(()),
    }
}

/// A sale that ends begins before. 0 is no bound.
fn window(opens: u64, closes: u64) -> Result<(), RecordError> {
    in_range("opens", opens, 0, Time::MAX.0)?;
    match closes {
        0 => Ok(()),
        _ => in_range("closes", closes, opens + 1, Time::MAX.0),
    }
}

fn currency(numeric: U16) -> Result<(), RecordError> {
    match Currency::from_numeric(numeric.get()) {
        Some(_) => Ok(()),
        None => field("currency", numeric.get().into()),
    }
}

fn zero(reserved: &[u8]) -> Result<(), RecordError> {
    match reserved.iter().find(|&&byte| byte != 0) {
        None => Ok(()),
        Some(&byte) => field("a reserved byte", byte.into()),
    }
}

/// Writes into the record at the start of `bytes` what became of it.
///
/// `bytes` must hold a record that [`Record::split`] accepted.
pub fn set_outcome(bytes: &mut [u8], outcome: Outcome, state: u8, previous: u64, amount: u64) {
    let (header, _) = header_mut(bytes);
    header.outcome = outcome as u8;
    header.state = state;
    header.previous = previous.into();
    header.amount = amount.into();
}

/// The outcome fields of an order's record beyond its header.
pub struct PlaceMut<'a> {
    /// The fixed part.
    pub order: &'a mut PlaceBody,
    /// How it is paid.
    pub leg: &'a mut Leg,
    /// What is ordered.
    pub lines: &'a mut [Line],
}

/// The parts of the order at the start of `bytes`, which [`Record::split`] accepted.
pub fn place_mut(bytes: &mut [u8]) -> PlaceMut<'_> {
    let (_, rest) = header_mut(bytes);
    let (order, rest) = PlaceBody::mut_from_prefix(rest).expect("the record was checked");
    let (leg, rest) = Leg::mut_from_prefix(rest).expect("the record was checked");
    let count = order.line_count.get().into();
    let (lines, _) =
        <[Line]>::mut_from_prefix_with_elems(rest, count).expect("the record was checked");
    PlaceMut { order, leg, lines }
}

/// The fixed part of the refund at the start of `bytes`, which [`Record::split`] accepted.
pub fn refund_mut(bytes: &mut [u8]) -> &mut RefundBody {
    let (_, rest) = header_mut(bytes);
    RefundBody::mut_from_prefix(rest).expect("the record was checked").0
}

/// The fixed part of what was delivered and its entries, in `bytes`, which [`Record::split`]
/// accepted.
pub fn deliver_mut(bytes: &mut [u8]) -> (&mut DeliverBody, &mut [u8]) {
    let (header, rest) = header_mut(bytes);
    let length = header.length.get() as usize - size_of::<Header>();
    DeliverBody::mut_from_prefix(&mut rest[..length]).expect("the record was checked")
}

/// The sweep at the start of `bytes`, which [`Record::split`] accepted.
pub fn sweep_mut(bytes: &mut [u8]) -> &mut SweepBody {
    let (_, rest) = header_mut(bytes);
    SweepBody::mut_from_prefix(rest).expect("the record was checked").0
}

/// Marks the order at the start of `bytes`, which [`Record::split`] accepted, as cancelled while
/// it waited, or takes that back.
pub fn set_withdrawn(bytes: &mut [u8], withdrawn: bool) {
    place_mut(bytes).order.flags = if withdrawn { PLACE_WITHDRAWN } else { 0 };
}

fn header_mut(bytes: &mut [u8]) -> (&mut Header, &mut [u8]) {
    Header::mut_from_prefix(bytes).expect("the record was checked")
}

/// Turns the record in `bytes`, which [`Record::split`] accepted, back into its command.
pub fn clear_outcome(bytes: &mut [u8]) {
    let (header, _) = header_mut(bytes);
    header.outcome = 0;
    header.state = 0;
    header.previous = 0.into();
    header.amount = 0.into();
    match Kind::from_byte(header.kind) {
        Some(Kind::Place) => {
            let PlaceMut { order, leg, lines } = place_mut(bytes);
            order.refused_line = 0.into();
            leg.amount = 0.into();
            for line in lines {
                line.version = 0.into();
                if line.flags & LINE_AGREED == 0 {
                    line.unit_price = 0.into();
                }
            }
        }
        Some(Kind::Deliver) => entry::clear_outcomes(deliver_mut(bytes).1),
        Some(Kind::Sweep) => sweep_mut(bytes).swept = 0.into(),
        Some(Kind::Refund) => refund_mut(bytes).refused_line = 0.into(),
        _ => {}
    }
}

/// Walks over records that stand one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Over `bytes`.
    pub fn new(bytes: &'a [u8]) -> Records<'a> {
        Records { rest: bytes }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some(match Record::split(self.rest) {
            Ok((record, rest)) => {
                self.rest = rest;
                Ok(record)
            }
            Err(error) => {
                self.rest = &[];
                Err(error)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(lines: &[(u64, u32, Option<u64>)]) -> CommandBuffer {
        let mut buffer = CommandBuffer::default();
        let mut place = buffer.place();
        for &(item, quantity, price) in lines {
            place.line(ItemId(item), Quantity(quantity), price.map(Amount));
        }
        place.finish(Party(9), OrderId(5), Currency::GBP, PaymentMethod::Balance);
        buffer
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Records::new(&bytes).count();
        }

        #[test]
        fn a_flipped_byte_is_refused_or_still_a_record(at in 0usize..144, flip in 1u8..) {
            let mut bytes = order(&[(1, 2, None), (3, 4, Some(5))]).bytes().to_vec();
            bytes[at] ^= flip;
            if let Ok((record, rest)) = Record::split(&bytes) {
                prop_assert_eq!(record.bytes.len() + rest.len(), bytes.len());
            }
        }

        #[test]
        fn clearing_brings_the_command_back(
            lines in proptest::collection::vec((any::<u64>(), 1u32..1000, proptest::option::of(0u64..1000)), 1..20),
        ) {
            let command = order(&lines);
            let mut logged = command.bytes().to_vec();
            set_outcome(&mut logged, Outcome::SoldOut, 1, 77, 88);
            let place = place_mut(&mut logged);
            place.order.refused_line = 3.into();
            place.leg.amount = 12.into();
            for line in place.lines.iter_mut().filter(|line| line.flags == 0) {
                line.unit_price = 99.into();
            }
            clear_outcome(&mut logged);
            prop_assert_eq!(command.bytes(), &logged[..]);
        }
    }

    #[test]
    fn an_unfinished_order_leaves_no_trace() {
        let mut buffer = order(&[(1, 1, None)]);
        let before = buffer.bytes().to_vec();
        buffer.place().line(ItemId(2), Quantity(1), None);
        assert_eq!((buffer.bytes(), buffer.count()), (&before[..], 1));
    }

    #[test]
    fn a_zero_quantity_is_refused() {
        let buffer = order(&[(1, 0, None)]);
        let error = buffer.records().next().unwrap().unwrap_err();
        expect_test::expect!["quantity may not be 0"].assert_eq(&error.to_string());
    }
}
