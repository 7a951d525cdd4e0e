//! Records: a command as bytes, and what became of it.
//!
//! Everything is little-endian, packed without gaps in the order of the struct's fields, and a
//! record's length is a multiple of 8. A record begins with a [`Header`]; its `kind` says which
//! body follows. Fields marked *outcome* are zero in a command; the core fills them in, and the
//! log holds the result. [`clear_outcome`] is the way back, so that a reader can execute the
//! command again and compare.
//!
//! An order is `Header, PlaceBody, Leg × leg_count, Line × line_count, Extra × extra_count`, and
//! `private_bytes` bytes, padded with zeros. Extras carry what few lines have: another payee, a
//! discount. What is private was encrypted before it came here.
//!
//! Kinds 1 to 8 and 13 to 18 are what callers ask for. The others are what shards tell themselves
//! and each other: what came on a stream ([`entry`]), stock asked for and given back, a timer that
//! is due, a sweep, what leaves memory and what comes back. They are commands like any others, so
//! a log holds all that a shard decides on.

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

mod asked;
mod commands;
pub mod entry;
mod outcome;
mod parse;
mod rows;

use zerocopy::byteorder::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::money::STOCK_MAX;
use crate::{
    AccountKind, Amount, ChangeId, Currency, ItemId, LineKind, OrderId, Outcome, Party, PayStep,
    PaymentMethod, Quantity, Realm, ShardId, Time, home_of,
};

pub use asked::{AnswerHead, AskedError, CommandResult};
pub use commands::{
    CommandBuffer, Coupon, ItemUpdate, NewLeg, NewLine, PlaceWriter, Price, Sale, StreamPlace,
};
use entry::{Entries, StockOp};
pub use outcome::{
    PlaceMut, clear_outcome, deliver_mut, place_mut, refund_mut, set_outcome, set_returned,
    set_statements, set_withdrawn, sweep_mut,
};
use parse::{currency, field, in_range, window, zero};
pub use rows::{RowKey, RowKind, RowParts, time_of_id};

/// The most lines that an order, or a refund, may have.
pub const LINES_MAX: usize = 2_000;

/// The most payment legs of an order.
pub const LEGS_MAX: usize = 8;

/// The most bytes that a shard keeps in memory of an order: it has [`LINES_MAX`] lines and extras,
/// and [`LEGS_MAX`] legs, which grow when they are paid.
pub const ORDER_BYTES_MAX: usize =
    80 + LEGS_MAX * 48 + LINES_MAX * (size_of::<Line>() + size_of::<Extra>());

/// The most bytes of an order's private text.
pub const PRIVATE_TEXT_MAX: usize = 1_024;
/// Bytes that encrypting it puts before it: a nonce.
pub const PRIVATE_NONCE_BYTES: usize = 12;
/// Bytes that encrypting it puts behind it: a tag.
pub const PRIVATE_TAG_BYTES: usize = 16;
const PRIVATE_BYTES_MAX: usize = PRIVATE_NONCE_BYTES + PRIVATE_TEXT_MAX + PRIVATE_TAG_BYTES;

/// The most bytes a record takes: no less than an order that is placed, or comes back into memory.
pub const RECORD_BYTES_MAX: usize = size_of::<Header>()
    + size_of::<LoadBody>()
    + ORDER_BYTES_MAX
    + PRIVATE_BYTES_MAX.next_multiple_of(8);

/// The most bytes of stream entries in one [`Kind::Deliver`].
pub const ENTRIES_BYTES_MAX: usize = 64 << 10;
/// The most accounts that one [`Kind::Sweep`] looks at.
pub const SWEEP_MAX: u32 = 1_000;
/// The most operations of one [`Kind::Stock`].
pub const STOCK_OPS_MAX: usize = 1_000;

/// The most rows that one [`Kind::Evict`] looks at.
pub const EVICT_MAX: u32 = 4_096;

const _: () = assert!(ENTRIES_BYTES_MAX + 128 < RECORD_BYTES_MAX);
const _: () = assert!(
    size_of::<PlaceBody>()
        + LEGS_MAX * size_of::<Leg>()
        + LINES_MAX * (size_of::<Line>() + size_of::<Extra>())
        < ORDER_BYTES_MAX
);
const _: () = assert!(STOCK_OPS_MAX * size_of::<StockOp>() + 128 < RECORD_BYTES_MAX);

/// The rules by which today's core decides. Frames name them.
pub const RULE_VERSION: u16 = 5;

/// What a [`Kind::Timer`] is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum TimerKind {
    /// An order expires.
    Order = 0,
    /// A hold is released.
    Hold = 1,
}

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
    /// Pays a leg of an order, authorises it, or voids that.
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
    /// Confirms that an order was received: what sellers earned with it is available at once.
    Receive = 14,
    /// Gives a buyer a coupon.
    IssueCoupon = 15,
    /// Holds money of an account.
    Hold = 16,
    /// Captures or releases what is held.
    SettleHold = 17,
    /// Changes how far an account may be overdrawn, or closes it.
    UpdateAccount = 18,
    /// The oldest orders, or changes, leave memory.
    Evict = 19,
    /// What was found of an order, or a change, that isn't in memory, for the command behind it.
    Load = 20,
}

impl Kind {
    /// Whether callers ask for it. The others are what shards tell themselves and each other.
    pub fn is_asked(self) -> bool {
        matches!(self as u8, 1..=8 | 13..=18)
    }

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
            14 => Kind::Receive,
            15 => Kind::IssueCoupon,
            16 => Kind::Hold,
            17 => Kind::SettleHold,
            18 => Kind::UpdateAccount,
            19 => Kind::Evict,
            20 => Kind::Load,
            _ => return None,
        })
    }
}

layout! {
    /// What every record begins with.
    Header[56] {
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
        /// *Outcome*: offset of the record before it for the account whose money it moves, or 0:
        /// the link of that account's statement.
        statement: U64,
    }
    /// [`Kind::CreateAccount`].
    CreateAccountBody[24] {
        /// ISO 4217 numeric.
        currency: U16,
        /// An [`AccountKind`]; `Main` for now.
        kind: u8,
        /// Zero.
        reserved: [u8; 5],
        /// Money it opens with, booked against clearing.
        balance: U64,
        /// How far it may go below zero.
        overdraft: U64,
    }
    /// [`Kind::UpdateAccount`].
    UpdateAccountBody[16] {
        /// ISO 4217 numeric.
        currency: U16,
        /// `Main`, or for closing also `Settlement`.
        kind: u8,
        /// [`ACCOUNT_OVERDRAFT`] or [`ACCOUNT_CLOSE`].
        flags: u8,
        /// Zero.
        reserved: [u8; 4],
        /// How far it may go below zero, with [`ACCOUNT_OVERDRAFT`].
        overdraft: U64,
    }
    /// [`Kind::Hold`].
    HoldBody[24] {
        /// ISO 4217 numeric.
        currency: U16,
        /// [`AccountKind`] whose money is held, of the header's scope.
        kind: u8,
        /// Zero.
        reserved: [u8; 5],
        /// How much, at least 1.
        held: U64,
        /// When it is released, µs since 1970; 0: never.
        deadline: U64,
    }
    /// [`Kind::SettleHold`].
    SettleHoldBody[48] {
        /// Which hold of the party.
        hold: U128,
        /// 0: releases what is left. 1: captures, and the rest stays held.
        op: u8,
        /// [`AccountKind`] that is credited with what is captured.
        credit_kind: u8,
        /// Zero.
        reserved: [u8; 6],
        /// Party that is credited.
        credit_party: U64,
        /// How much is captured; 0: all that is left.
        captured: U64,
        /// *Outcome*: as the header's `statement`, for the credited account.
        credit_statement: U64,
    }
    /// [`Kind::IssueCoupon`]: the header's scope is the buyer.
    IssueCouponBody[56] {
        /// Its number, unique for the buyer.
        number: U64,
        /// Who funds it: a seller, or the platform's own party.
        funder: U64,
        /// Whose lines it is good for; 0: everybody's.
        seller: U64,
        /// What it is worth, at least 1.
        amount: U64,
        /// What the lines it is good for must come to.
        minimum: U64,
        /// Until when it is good, µs since 1970; 0: for ever.
        expires: U64,
        /// ISO 4217 numeric.
        currency: U16,
        /// Zero.
        reserved: [u8; 6],
    }
    /// [`Kind::Transfer`].
    TransferBody[32] {
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
        /// *Outcome*: as the header's `statement`, for the credited account.
        credit_statement: U64,
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
    PlaceBody[16] {
        /// ISO 4217 numeric.
        currency: U16,
        /// Lines that follow, 1 to [`LINES_MAX`].
        line_count: U16,
        /// Extras that follow the lines, at most one for each.
        extra_count: U16,
        /// *Outcome*: 1 + the line that a refusal is about, or 0.
        refused_line: U16,
        /// Payment legs before the lines, 1 to [`LEGS_MAX`].
        leg_count: u8,
        /// [`PLACE_WITHDRAWN`] and [`PLACE_FORFEIT`].
        flags: u8,
        /// Zero.
        reserved: [u8; 4],
        /// Bytes behind the extras that are private: nonce, encrypted text and tag; or 0.
        private_bytes: U16,
    }
    /// One way in which an order is paid. Its number is its place among the legs.
    Leg[24] {
        /// A [`PaymentMethod`].
        method: u8,
        /// [`LEG_STATED`] or 0.
        flags: u8,
        /// Zero.
        reserved: [u8; 6],
        /// How much of the order it pays, with [`LEG_STATED`]; else *outcome*: what a coupon is
        /// worth here, or the rest.
        amount: U64,
        /// For a leg that is awaited, until when, µs since 1970, or 0; for a coupon its number.
        term: U64,
    }
    /// One line of an order.
    Line[24] {
        /// What is ordered; for shipping, tax and fees: who is paid.
        item: U64,
        /// The price of a unit as the caller states it ([`LINE_AGREED`], [`LINE_CHECKED`]); else
        /// *outcome*: the list price.
        unit_price: U64,
        /// Units, at least 1.
        quantity: U32,
        /// A [`LineKind`].
        kind: u8,
        /// [`LINE_AGREED`], [`LINE_CHECKED`] or 0.
        flags: u8,
        /// *Outcome*: the version of the item's catalogue entry that the order saw, modulo 2¹⁶.
        version: U16,
    }
    /// What few lines have. Extras stand in the order of their lines.
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
    PayBody[32] {
        /// Which order of the buyer.
        order: U128,
        /// With [`PAY_STATED`], how much.
        stated: U64,
        /// Which leg, or [`ANY_LEG`]: the first that is open.
        leg: U16,
        /// A [`PayStep`].
        step: u8,
        /// [`PAY_STATED`] or 0.
        flags: u8,
        /// Zero.
        reserved: [u8; 4],
    }
    /// [`Kind::Receive`].
    ReceiveBody[16] {
        /// Which order of the buyer.
        order: U128,
    }
    /// [`Kind::Cancel`].
    CancelBody[24] {
        /// Which order of the buyer.
        order: U128,
        /// *Outcome*: how much of what came back the buyer's own account got.
        returned: U64,
    }
    /// [`Kind::Refund`].
    RefundBody[32] {
        /// Which order of the buyer.
        order: U128,
        /// *Outcome*: how much of what came back the buyer's own account got.
        returned: U64,
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
    TimerBody[40] {
        /// The order, or the hold, that is due.
        order: U128,
        /// When it was due, µs since 1970.
        due: U64,
        /// *Outcome*: how much of what came back the buyer's own account got.
        returned: U64,
        /// A [`TimerKind`].
        kind: u8,
        /// Zero.
        reserved: [u8; 7],
    }
    /// [`Kind::Sweep`].
    ///
    /// It ends with the first seller that is at home here, so that this one's statement can link
    /// to it: the header's amount is what was moved.
    SweepBody[24] {
        /// Sellers' accounts to look at, at least 1.
        count: U32,
        /// *Outcome*: the currency of what was moved here, ISO 4217 numeric, or 0.
        currency: U16,
        /// *Outcome*: 1 if what was moved here was owed by the seller.
        owed: u8,
        /// Zero.
        reserved: u8,
        /// *Outcome*: accounts whose money was moved.
        swept: U64,
        /// *Outcome*: the seller at home here whose money was moved, or 0.
        seller: U64,
    }
    /// [`Kind::Evict`]: images follow, of those orders that aren't any more what was placed. An
    /// image is the words that a shard keeps of an order.
    EvictBody[16] {
        /// How many of the oldest rows, 1 to [`EVICT_MAX`].
        rows: U32,
        /// Whether it is orders (0) or changes (1).
        table: u8,
        /// Zero.
        reserved: [u8; 3],
        /// Ids that carry a later time stay, ms since 1970.
        cutoff: U64,
    }
    /// [`Kind::Load`]: what was found follows, as the words that a shard keeps of it; nothing, if
    /// there is no such order or change. The header's scope is the key's.
    LoadBody[48] {
        /// A [`RowKind`].
        kind: u8,
        /// Zero.
        reserved: [u8; 7],
        /// The order, or the hold, or nil.
        order: U128,
        /// The change's id, or nil for an order.
        id: U128,
        /// How far the table had come when it was looked for: it is of no use if what came since
        /// has left memory again.
        as_of: U64,
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
/// [`Line::flags`]: the list price must be what the caller states.
pub const LINE_CHECKED: u8 = 2;
/// [`Leg::flags`]: the caller states the amount.
pub const LEG_STATED: u8 = 1;
/// [`PlaceBody::flags`]: the order was cancelled while it waited. It is recorded as that.
pub const PLACE_WITHDRAWN: u8 = 1;
/// [`PlaceBody::flags`]: what was paid is the sellers' when the order expires, or is cancelled
/// after its deadline.
pub const PLACE_FORFEIT: u8 = 2;
/// [`PayBody::flags`]: the caller states the amount.
pub const PAY_STATED: u8 = 1;
/// [`PayBody::leg`]: the first that is open.
pub const ANY_LEG: u16 = u16::MAX;
/// [`UpdateAccountBody::flags`]: how far it may go below zero.
pub const ACCOUNT_OVERDRAFT: u8 = 1;
/// [`UpdateAccountBody::flags`]: it is closed.
pub const ACCOUNT_CLOSE: u8 = 2;
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
        legs: &'a [Leg],
        /// What is ordered.
        lines: &'a [Line],
        /// What few lines have.
        extras: &'a [Extra],
        /// What is private: nonce, encrypted text and tag; or nothing.
        private: &'a [u8],
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
    /// See [`Kind::Receive`].
    Receive(&'a ReceiveBody),
    /// See [`Kind::IssueCoupon`].
    IssueCoupon(&'a IssueCouponBody),
    /// See [`Kind::Hold`].
    Hold(&'a HoldBody),
    /// See [`Kind::SettleHold`].
    SettleHold(&'a SettleHoldBody),
    /// See [`Kind::UpdateAccount`].
    UpdateAccount(&'a UpdateAccountBody),
    /// See [`Kind::Evict`].
    Evict {
        /// The fixed part.
        evict: &'a EvictBody,
        /// Images, one behind the other.
        images: &'a [U64],
    },
    /// See [`Kind::Load`].
    Load {
        /// The fixed part.
        load: &'a LoadBody,
        /// What was found.
        row: &'a [U64],
    },
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
        in_range("statement", header.statement.get(), 0, 0)?;
        match self.body {
            Body::Place { order, legs, lines, .. } => {
                in_range("refused line", order.refused_line.get().into(), 0, 0)?;
                for leg in legs.iter().filter(|leg| leg.flags & LEG_STATED == 0) {
                    in_range("leg amount", leg.amount.get(), 0, 0)?;
                }
                for line in lines {
                    in_range("version", line.version.get().into(), 0, 0)?;
                    if line.flags & (LINE_AGREED | LINE_CHECKED) == 0 {
                        in_range("unit price", line.unit_price.get(), 0, 0)?;
                    }
                }
            }
            Body::Sweep(body) => {
                in_range("swept", body.swept.get(), 0, 0)?;
                in_range("currency", body.currency.get().into(), 0, 0)?;
                in_range("owed", body.owed.into(), 0, 0)?;
                in_range("seller", body.seller.get(), 0, 0)?;
            }
            Body::Transfer(body) => {
                in_range("credit statement", body.credit_statement.get(), 0, 0)?;
            }
            Body::SettleHold(body) => {
                in_range("credit statement", body.credit_statement.get(), 0, 0)?;
            }
            Body::Deliver { entries, .. } => entries.check_undecided()?,
            Body::Refund { refund, .. } => {
                in_range("refused line", refund.refused_line.get().into(), 0, 0)?;
                in_range("returned", refund.returned.get(), 0, 0)?;
            }
            Body::Cancel(body) => in_range("returned", body.returned.get(), 0, 0)?,
            Body::Timer(body) => in_range("returned", body.returned.get(), 0, 0)?,
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
            | Body::Refund { .. }
            | Body::Receive(_)
            | Body::IssueCoupon(_)
            | Body::Hold(_)
            | Body::SettleHold(_)
            | Body::UpdateAccount(_) => scope,
            Body::Deliver { .. }
            | Body::Stock(_)
            | Body::Timer(_)
            | Body::Sweep(_)
            | Body::Evict { .. }
            | Body::Load { .. } => return None,
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
            Body::Receive(body) => Some(OrderId(body.order.get())),
            Body::Timer(body) if body.kind == TimerKind::Order as u8 => {
                Some(OrderId(body.order.get()))
            }
            _ => None,
        }
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
            place.legs[0].amount = 12.into();
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
    fn what_is_private_is_sealed_in_place() {
        let mut buffer = order(&[(1, 1, None)]);
        let mut place = buffer.place();
        place.line(ItemId(2), Quantity(1), None);
        place.private("three");
        place.finish(Party(9), OrderId(6), Currency::GBP, PaymentMethod::Balance);
        assert!(buffer.is_unsealed());
        let sealed: [u8; 33] = std::array::from_fn(|at| at as u8 + 1);
        let seal = |realm, party, id, part: &mut [u8]| {
            assert_eq!((realm, party, id), (Realm::Live, Party(9), OrderId(6)));
            assert_eq!(part, [&[0; 12][..], b"three", &[0; 16]].concat());
            part.copy_from_slice(&sealed);
            Ok::<_, ()>(())
        };
        buffer.seal(seal).unwrap();
        assert!(!buffer.is_unsealed());
        let parts = buffer.records().map(|record| match record.unwrap().body {
            Body::Place { private, lines, .. } => (private.to_vec(), lines[0].item.get()),
            body => panic!("{body:?}"),
        });
        assert_eq!(parts.collect::<Vec<_>>(), [(vec![], 1), (sealed.to_vec(), 2)]);
        let mut padded = buffer.bytes().to_vec();
        *padded.last_mut().unwrap() = 1;
        assert!(Records::new(&padded).any(|record| record.is_err()));
        // Of 40 bytes, zeros may be what isn't a whole word.
        let at = buffer.bytes().len() - 40 - size_of::<Line>() - size_of::<Leg>() - 2;
        for length in 0..=u16::MAX {
            let mut changed = buffer.bytes().to_vec();
            changed[at..at + 2].copy_from_slice(&length.to_le_bytes());
            let is_sound = Records::new(&changed).all(|record| record.is_ok());
            assert_eq!(is_sound, (33..=40).contains(&length), "{length}");
        }
    }

    #[test]
    fn a_zero_quantity_is_refused() {
        let buffer = order(&[(1, 0, None)]);
        let error = buffer.records().next().unwrap().unwrap_err();
        expect_test::expect!["quantity may not be 0"].assert_eq(&error.to_string());
    }
}
