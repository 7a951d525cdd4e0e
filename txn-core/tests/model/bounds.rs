//! Every field of a command, at its bounds and beyond.
//!
//! What passes a bound is no command, or has a typed outcome; either way nothing changes. What
//! keeps within them is decided, whatever it says, and its log leads back to the same state.

use model::money::STOCK_MAX;
use model::record::entry::*;
use model::record::*;
use model::{Amount, ItemId, LineKind, Outcome, PayStep, PaymentMethod, Quantity, ShardId, Time};
use proptest::prelude::*;
use proptest::sample::select;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::asked::*;
use crate::command::Command;
use crate::config;
use crate::log::{Writer, assert_sound, header_of};
use crate::random::commands;

/// A shard on which there is something of everything.
fn furnished() -> Writer {
    let mut writer = Writer::new(3);
    writer.apply(&[
        account(1, 1_000),
        account(2, 1_000),
        item(5, 10, 99),
        sale_of(6, 10, 99, at_most(2)),
        place(1, 1, PaymentMethod::Balance, &[(5, 3), (6, 1)]),
        until(9, place(1, 2, PaymentMethod::Awaited, &[(5, 3)])),
        issue(1, 1, coupon(5)),
        order(1, 3, &[NewLeg::Coupon(1), awaited(7, 20), rest_until(0)], &[goods(5, 2)]),
        hold(1, main_of(1), 30, 0),
    ]);
    writer
}

/// What became of bytes as a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It is no command.
    Refused,
    /// It has an outcome that is neither logged nor remembered.
    Unlogged(Outcome),
    Logged(Outcome),
}

/// Gives the bytes to a shard, and checks what must be true whatever they are.
fn fate(mut writer: Writer, bytes: &[u8]) -> Fate {
    let fate = fate_at(&mut writer, bytes);
    if let Fate::Logged(_) = fate {
        assert_replays(writer);
    }
    fate
}

fn assert_replays(writer: Writer) {
    let (shard, _, log) = writer.finish();
    assert_eq!(log.replay(4).state_hash(), shard.state_hash());
}

/// The same, for a shard that goes on: unless the bytes are logged, it is as it was.
fn fate_at(writer: &mut Writer, bytes: &[u8]) -> Fate {
    let (state, next) = (writer.shard.state_hash(), writer.shard.next_offset());
    let replies = writer.replies.len();
    let result = writer.try_apply(bytes, 1);
    let logged = writer.shard.next_offset().0 - next.0;
    let fate = match (result, writer.replies.get(replies)) {
        (Err(_), None) => Fate::Refused,
        (Ok(()), Some(reply)) if logged == 1 => Fate::Logged(reply.outcome),
        // Also what was refused before, and is told so again.
        (Ok(()), Some(reply)) => Fate::Unlogged(reply.outcome),
        other => panic!("{other:?}"),
    };
    assert_sound(&writer.shard);
    match fate {
        Fate::Logged(outcome) => assert!(outcome.is_logged()),
        _ => assert_eq!((logged, writer.shard.state_hash()), (0, state)),
    }
    fate
}

/// The part of a record that begins `at` bytes behind its header.
fn part<T: FromBytes + IntoBytes + KnownLayout + Immutable>(bytes: &mut [u8], at: usize) -> &mut T {
    T::mut_from_prefix(&mut bytes[size_of::<Header>() + at..]).expect("it is there").0
}

fn body<T: FromBytes + IntoBytes + KnownLayout + Immutable>(bytes: &mut [u8]) -> &mut T {
    part(bytes, 0)
}

fn leg(bytes: &mut [u8]) -> &mut Leg {
    part(bytes, size_of::<PlaceBody>())
}

fn line(bytes: &mut [u8]) -> &mut Line {
    part(bytes, size_of::<PlaceBody>() + size_of::<Leg>())
}

/// The first extra of an order of one leg and so many lines.
fn extra(bytes: &mut [u8], lines: usize) -> &mut Extra {
    part(bytes, size_of::<PlaceBody>() + size_of::<Leg>() + lines * size_of::<Line>())
}

/// A field: its name, a command that has it, how it is set, what it may hold, and what fits.
struct Field {
    name: &'static str,
    bytes: Vec<u8>,
    set: fn(&mut [u8], u64),
    allowed: Vec<(u64, u64)>,
    type_max: u64,
}

fn field(
    name: &'static str,
    command: Command,
    allowed: (u64, u64),
    type_max: u64,
    set: fn(&mut [u8], u64),
) -> Field {
    Field { name, bytes: command.bytes(), set, allowed: vec![allowed], type_max }
}

impl Field {
    /// It may hold these too.
    fn or(mut self, low: u64, high: u64) -> Field {
        self.allowed.push((low, high));
        self
    }
}

/// The first entries of a stream.
const FIRST: StreamPlace = StreamPlace { first: 1, base: 1, acked: 1 };

const U8: u64 = u8::MAX as u64;
const U16: u64 = u16::MAX as u64;
const U32: u64 = u32::MAX as u64;
const U64: u64 = u64::MAX;

/// Bytes of an order of one leg and one line.
const ONE_LINE: u64 =
    (size_of::<Header>() + size_of::<PlaceBody>() + size_of::<Leg>() + size_of::<Line>()) as u64;

fn header_fields() -> Vec<Field> {
    let order = || place(2, 9, PaymentMethod::Awaited, &[(5, 1)]);
    vec![
        field("statement", order(), (0, 0), U64, |b, v| header_of(b).statement = v.into()),
        field("realm", order(), (0, 1), U8, |b, v| header_of(b).realm = v as u8),
        field("outcome", order(), (0, 0), U8, |b, v| header_of(b).outcome = v as u8),
        field("state", order(), (0, 0), U8, |b, v| header_of(b).state = v as u8),
        field("previous", order(), (0, 0), U64, |b, v| header_of(b).previous = v.into()),
        field("amount", order(), (0, 0), U64, |b, v| header_of(b).amount = v.into()),
        field("scope", order(), (0, U64), U64, |b, v| header_of(b).scope = v.into()),
        field("length", order(), (ONE_LINE, ONE_LINE), U32, |b, v| {
            header_of(b).length = (v as u32).into();
        }),
    ]
}

fn account_and_transfer_fields() -> Vec<Field> {
    let (open, move_) = (|| account(3, 7), || transfer(3, main_of(1), main_of(2), 7));
    let (max, gbp) = (Amount::MAX.0, u64::from(GBP.numeric()));
    type A = CreateAccountBody;
    type T = TransferBody;
    vec![
        field("balance", open(), (0, max), U64, |b, v| body::<A>(b).balance = v.into()),
        field("kind", open(), (1, 1), U8, |b, v| body::<A>(b).kind = v as u8),
        field("reserved", open(), (0, 0), U8, |b, v| body::<A>(b).reserved[4] = v as u8),
        // The numbers beside the pound's are no currencies.
        field("currency", open(), (gbp, gbp), U16, |b, v| {
            body::<A>(b).currency = (v as u16).into();
        }),
        field("moved", move_(), (1, max), U64, |b, v| body::<T>(b).moved = v.into()),
        // 1: main. 2 is payable, which no transfer names. 3 to 5 are taken.
        field("debit kind", move_(), (1, 1), U8, |b, v| body::<T>(b).debit_kind = v as u8).or(3, 5),
        field("credit kind", move_(), (1, 1), U8, |b, v| body::<T>(b).credit_kind = v as u8)
            .or(3, 5),
        field("credit party", move_(), (0, U64), U64, |b, v| {
            body::<T>(b).credit_party = v.into();
        }),
        field("reserved", move_(), (0, 0), U8, |b, v| body::<T>(b).reserved[0] = v as u8),
        field("credit statement", move_(), (0, 0), U64, |b, v| {
            body::<T>(b).credit_statement = v.into();
        }),
        field("overdraft", open(), (0, max), U64, |b, v| body::<A>(b).overdraft = v.into()),
    ]
}

/// Overdrafts, closing, holds and coupons.
fn claim_fields() -> Vec<Field> {
    let (max, end, gbp) = (Amount::MAX.0, Time::MAX.0, u64::from(GBP.numeric()));
    let (set, shut) = (|| set_overdraft(3, 1, 7), || close(3, main_of(1)));
    let shut_settled = || close(3, SETTLEMENT);
    let keep = || hold(3, main_of(1), 7, 0);
    let (take, free) = (|| capture(3, 1, 1, main_of(2), 7), || release(3, 1, 1));
    let give = || issue(1, 9, coupon(7));
    type U = UpdateAccountBody;
    type H = HoldBody;
    type S = SettleHoldBody;
    type C = IssueCouponBody;
    vec![
        field("currency", set(), (gbp, gbp), U16, |b, v| {
            body::<U>(b).currency = (v as u16).into();
        }),
        // 4, the settlement account, is there to be closed alone.
        field("kind", set(), (1, 1), U8, |b, v| body::<U>(b).kind = v as u8),
        field("kind", shut(), (1, 1), U8, |b, v| body::<U>(b).kind = v as u8).or(4, 4),
        field("flags", set(), (1, 1), U8, |b, v| body::<U>(b).flags = v as u8),
        field("flags", shut(), (1, 2), U8, |b, v| body::<U>(b).flags = v as u8),
        field("flags", shut_settled(), (2, 2), U8, |b, v| body::<U>(b).flags = v as u8),
        field("overdraft", set(), (0, max), U64, |b, v| body::<U>(b).overdraft = v.into()),
        field("overdraft", shut(), (0, 0), U64, |b, v| body::<U>(b).overdraft = v.into()),
        field("reserved", set(), (0, 0), U8, |b, v| body::<U>(b).reserved[3] = v as u8),
        field("currency", keep(), (gbp, gbp), U16, |b, v| {
            body::<H>(b).currency = (v as u16).into();
        }),
        // Main, settlement and suspense.
        field("kind", keep(), (1, 1), U8, |b, v| body::<H>(b).kind = v as u8).or(4, 5),
        field("held", keep(), (1, max), U64, |b, v| body::<H>(b).held = v.into()),
        field("deadline", keep(), (0, end), U64, |b, v| body::<H>(b).deadline = v.into()),
        field("reserved", keep(), (0, 0), U8, |b, v| body::<H>(b).reserved[4] = v as u8),
        field("hold", take(), (0, U64), U64, |b, v| {
            body::<S>(b).hold = u128::from(v).into();
        }),
        // A release names nobody who gets anything.
        field("operation", take(), (1, 1), U8, |b, v| body::<S>(b).op = v as u8),
        field("operation", free(), (0, 0), U8, |b, v| body::<S>(b).op = v as u8),
        field("credit kind", take(), (1, 1), U8, |b, v| body::<S>(b).credit_kind = v as u8)
            .or(3, 5),
        field("credit kind", free(), (0, 0), U8, |b, v| body::<S>(b).credit_kind = v as u8),
        field("credit party", take(), (0, U64), U64, |b, v| {
            body::<S>(b).credit_party = v.into();
        }),
        field("credit party", free(), (0, 0), U64, |b, v| {
            body::<S>(b).credit_party = v.into();
        }),
        field("captured", take(), (0, max), U64, |b, v| body::<S>(b).captured = v.into()),
        field("captured", free(), (0, 0), U64, |b, v| body::<S>(b).captured = v.into()),
        field("credit statement", take(), (0, 0), U64, |b, v| {
            body::<S>(b).credit_statement = v.into();
        }),
        field("reserved", take(), (0, 0), U8, |b, v| body::<S>(b).reserved[5] = v as u8),
        field("number", give(), (0, U64), U64, |b, v| body::<C>(b).number = v.into()),
        field("funder", give(), (0, U64), U64, |b, v| body::<C>(b).funder = v.into()),
        field("seller", give(), (0, U64), U64, |b, v| body::<C>(b).seller = v.into()),
        field("amount", give(), (1, max), U64, |b, v| body::<C>(b).amount = v.into()),
        field("minimum", give(), (0, max), U64, |b, v| body::<C>(b).minimum = v.into()),
        field("expires", give(), (0, end), U64, |b, v| body::<C>(b).expires = v.into()),
        field("currency", give(), (gbp, gbp), U16, |b, v| {
            body::<C>(b).currency = (v as u16).into();
        }),
        field("reserved", give(), (0, 0), U8, |b, v| body::<C>(b).reserved[5] = v as u8),
    ]
}

fn item_fields() -> Vec<Field> {
    let sale = Sale { opens: Time(5), closes: Time(9), limit: 3 };
    let list = move || sale_of(8, 10, 7, sale);
    let change = || {
        let (price, window) = (Some(Amount(1)), Some((Time(5), Time(9))));
        update(1, 5, ItemUpdate { price, window, limit: Some(1) })
    };
    let only_limit = || update(1, 5, ItemUpdate { limit: Some(1), ..ItemUpdate::default() });
    let (max, end, limit) = (Amount::MAX.0, Time::MAX.0, u64::from(Quantity::MAX.0));
    type C = CreateItemBody;
    type U = UpdateItemBody;
    vec![
        field("price", list(), (0, max), U64, |b, v| body::<C>(b).price = v.into()),
        field("stock", list(), (0, STOCK_MAX), U64, |b, v| body::<C>(b).stock = v.into()),
        // It begins before it ends, if it ends.
        field("opens", list(), (0, 8), U64, |b, v| body::<C>(b).opens = v.into()),
        field("closes", list(), (6, end), U64, |b, v| body::<C>(b).closes = v.into()).or(0, 0),
        field("limit", list(), (0, limit), U32, |b, v| body::<C>(b).limit = (v as u32).into()),
        field("reserved", list(), (0, 0), U8, |b, v| body::<C>(b).reserved[1] = v as u8),
        field("price", change(), (0, max), U64, |b, v| body::<U>(b).price = v.into()),
        field("opens", change(), (0, 8), U64, |b, v| body::<U>(b).opens = v.into()),
        field("closes", change(), (6, end), U64, |b, v| body::<U>(b).closes = v.into()).or(0, 0),
        field("limit", change(), (0, limit), U32, |b, v| body::<U>(b).limit = (v as u32).into()),
        field("flags", change(), (7, 7), U8, |b, v| body::<U>(b).flags = v as u8),
        field("reserved", change(), (0, 0), U8, |b, v| body::<U>(b).reserved[2] = v as u8),
        // What isn't named is zero.
        field("price", only_limit(), (0, 0), U64, |b, v| body::<U>(b).price = v.into()),
        field("opens", only_limit(), (0, 0), U64, |b, v| body::<U>(b).opens = v.into()),
        field("closes", only_limit(), (0, 0), U64, |b, v| body::<U>(b).closes = v.into()),
        field("quantity", restock(1, 5, 1), (1, STOCK_MAX), U64, |b, v| {
            body::<RestockBody>(b).quantity = v.into();
        }),
    ]
}

fn order_fields() -> Vec<Field> {
    let with_line = |new| order(2, 9, &[rest_until(0)], &[new]);
    let with_leg = |leg| order(2, 9, &[leg, rest_until(0)], &[goods(5, 1)]);
    let whole = || place(2, 9, PaymentMethod::Awaited, &[(5, 1)]);
    let priced = || with_line(agreed(1, goods(5, 1)));
    let looked = || with_line(checked(10, goods(5, 1)));
    let sent = || with_line(charge(LineKind::Shipping, 7, 1));
    let sent_for_less = || with_line(less(1, charge(LineKind::Tax, 7, 9)));
    let cheap = || with_line(less(1, paid_to(7, goods(5, 1))));
    let second =
        || order(2, 9, &[rest_until(0)], &[goods(5, 1), goods(5, 1), less(1, goods(5, 1))]);
    let stated = || with_leg(awaited(3, 90));
    let with_coupon = || with_leg(NewLeg::Coupon(1));
    let two_rests = || with_leg(balance(1));
    let (max, most) = (Amount::MAX.0, u64::from(Quantity::MAX.0));
    type P = PlaceBody;
    vec![
        field("line count", whole(), (1, 1), U16, |b, v| {
            body::<P>(b).line_count = (v as u16).into()
        }),
        field("extra count", whole(), (0, 0), U16, |b, v| {
            body::<P>(b).extra_count = (v as u16).into();
        }),
        field("leg count", whole(), (1, 1), U8, |b, v| body::<P>(b).leg_count = v as u8),
        field("flags", whole(), (0, 3), U8, |b, v| body::<P>(b).flags = v as u8),
        field("refused line", whole(), (0, 0), U16, |b, v| {
            body::<P>(b).refused_line = (v as u16).into();
        }),
        field("reserved", whole(), (0, 0), U8, |b, v| body::<P>(b).reserved[3] = v as u8),
        field("private bytes", whole(), (0, 0), U16, |b, v| {
            body::<P>(b).private_bytes = (v as u16).into();
        }),
        field("method", whole(), (0, 3), U8, |b, v| leg(b).method = v as u8),
        field("leg flags", whole(), (0, 1), U8, |b, v| leg(b).flags = v as u8),
        field("leg reserved", whole(), (0, 0), U8, |b, v| leg(b).reserved[3] = v as u8),
        field("leg amount", whole(), (0, 0), U64, |b, v| leg(b).amount = v.into()),
        field("deadline", whole(), (0, Time::MAX.0), U64, |b, v| leg(b).term = v.into()),
        // A deadline is no term of a leg that is paid at once, nor a number that of one that is
        // awaited.
        field("method", stated(), (0, 0), U8, |b, v| leg(b).method = v as u8),
        field("stated amount", stated(), (0, max), U64, |b, v| leg(b).amount = v.into()),
        field("method", with_coupon(), (3, 3), U8, |b, v| leg(b).method = v as u8),
        field("coupon's flags", with_coupon(), (0, 0), U8, |b, v| leg(b).flags = v as u8),
        field("coupon's number", with_coupon(), (0, U64), U64, |b, v| leg(b).term = v.into()),
        field("coupon's amount", with_coupon(), (0, 0), U64, |b, v| leg(b).amount = v.into()),
        // Of two legs one states what it pays.
        field("leg flags", two_rests(), (1, 1), U8, |b, v| leg(b).flags = v as u8),
        field("balance's term", two_rests(), (0, 0), U64, |b, v| leg(b).term = v.into()),
        field("item", whole(), (0, U64), U64, |b, v| line(b).item = v.into()),
        field("quantity", whole(), (1, most), U32, |b, v| line(b).quantity = (v as u32).into()),
        field("list price", whole(), (0, 0), U64, |b, v| line(b).unit_price = v.into()),
        field("agreed price", priced(), (0, max), U64, |b, v| line(b).unit_price = v.into()),
        field("checked price", looked(), (0, max), U64, |b, v| line(b).unit_price = v.into()),
        // Shipping, tax and fees have a price of their own.
        field("line kind", whole(), (0, 0), U8, |b, v| line(b).kind = v as u8),
        field("line kind", priced(), (0, 3), U8, |b, v| line(b).kind = v as u8),
        field("line flags", whole(), (0, 2), U8, |b, v| line(b).flags = v as u8),
        field("charge's flags", sent(), (1, 1), U8, |b, v| line(b).flags = v as u8),
        field("charge's payee", sent(), (0, U64), U64, |b, v| line(b).item = v.into()),
        field("version", whole(), (0, 0), U16, |b, v| line(b).version = (v as u16).into()),
        field("extra's line", cheap(), (0, 0), U16, |b, v| extra(b, 1).line = (v as u16).into()),
        field("extra's line", second(), (0, 2), U16, |b, v| extra(b, 3).line = (v as u16).into()),
        field("place", cheap(), (0, 0), U16, |b, v| extra(b, 1).place = (v as u16).into()),
        field("payee", cheap(), (0, U64), U64, |b, v| extra(b, 1).payee = v.into()),
        field("payee", sent_for_less(), (0, 0), U64, |b, v| extra(b, 1).payee = v.into()),
        field("discount", cheap(), (0, max), U64, |b, v| extra(b, 1).discount = v.into()),
        field("reserved", cheap(), (0, 0), U8, |b, v| extra(b, 1).reserved[3] = v as u8),
    ]
}

fn change_fields() -> Vec<Field> {
    let (paid, back) = (|| pay(1, 1, 2, PaymentMethod::Balance), || refund(1, 1, 1, &[(0, 1)]));
    let exact = || pay_leg(1, 1, 2, PayStep::External, Some(0), Some(7));
    let timer = || timer(1, 2, 9);
    let most = u64::from(Quantity::MAX.0);
    type R = RefundBody;
    type Y = PayBody;
    type W = SweepBody;
    vec![
        field("step", paid(), (1, 4), U8, |b, v| body::<Y>(b).step = v as u8),
        field("leg", paid(), (0, LEGS_MAX as u64 - 1), U16, |b, v| {
            body::<Y>(b).leg = (v as u16).into();
        })
        .or(ANY_LEG.into(), ANY_LEG.into()),
        field("flags", paid(), (0, 0), U8, |b, v| body::<Y>(b).flags = v as u8),
        field("flags", exact(), (1, 1), U8, |b, v| body::<Y>(b).flags = v as u8),
        field("stated", paid(), (0, 0), U64, |b, v| body::<Y>(b).stated = v.into()),
        field("stated", exact(), (1, Amount::MAX.0), U64, |b, v| body::<Y>(b).stated = v.into()),
        field("reserved", paid(), (0, 0), U8, |b, v| body::<Y>(b).reserved[3] = v as u8),
        field("order", receive(1, 1, 1), (0, U64), U64, |b, v| {
            body::<ReceiveBody>(b).order = u128::from(v).into();
        }),
        field("line count", back(), (1, 1), U16, |b, v| {
            body::<R>(b).line_count = (v as u16).into()
        }),
        field("flags", back(), (0, 1), U8, |b, v| body::<R>(b).flags = v as u8),
        field("reserved", back(), (0, 0), U8, |b, v| body::<R>(b).reserved[0] = v as u8),
        field("refused line", back(), (0, 0), U16, |b, v| {
            body::<R>(b).refused_line = (v as u16).into();
        }),
        field("line", back(), (0, U16), U16, |b, v| {
            part::<RefundLine>(b, size_of::<R>()).line = (v as u16).into();
        }),
        field("line's reserved", back(), (0, 0), U8, |b, v| {
            part::<RefundLine>(b, size_of::<R>()).reserved[1] = v as u8;
        }),
        field("quantity", back(), (1, most), U32, |b, v| {
            part::<RefundLine>(b, size_of::<R>()).quantity = (v as u32).into();
        }),
        field("timer kind", timer(), (0, 1), U8, |b, v| body::<TimerBody>(b).kind = v as u8),
        field("due", timer(), (0, U64), U64, |b, v| body::<TimerBody>(b).due = v.into()),
        field("reserved", timer(), (0, 0), U8, |b, v| body::<TimerBody>(b).reserved[6] = v as u8),
        field("count", sweep(1), (1, SWEEP_MAX.into()), U32, |b, v| {
            body::<SweepBody>(b).count = (v as u32).into();
        }),
        field("swept", sweep(1), (0, 0), U64, |b, v| body::<SweepBody>(b).swept = v.into()),
        field("currency", sweep(1), (0, 0), U16, |b, v| {
            body::<W>(b).currency = (v as u16).into();
        }),
        field("owed", sweep(1), (0, 0), U8, |b, v| body::<W>(b).owed = v as u8),
        field("seller", sweep(1), (0, 0), U64, |b, v| body::<W>(b).seller = v.into()),
        field("reserved", sweep(1), (0, 0), U8, |b, v| body::<W>(b).reserved = v as u8),
    ]
}

/// What shards tell themselves and each other. A shard that is alone has nobody to take entries
/// from, so that these are at best invalid.
fn shard_fields() -> Vec<Field> {
    let stock = || {
        let mut commands = CommandBuffer::default();
        commands.stock(&[StockOp::ask(ItemId(77), 1, 2, 3)]);
        commands.bytes().to_vec()
    };
    let answer = || {
        let mut commands = CommandBuffer::default();
        commands.stock(&[StockOp::answer(ItemId(77))]);
        commands.bytes().to_vec()
    };
    let deliver = |entry: Entry<'_>| {
        let (mut commands, mut entries) = (CommandBuffer::default(), Vec::new());
        entry.write(&mut entries);
        commands.deliver(ShardId(9), FIRST, &entries, 1);
        commands.bytes().to_vec()
    };
    let units = Units { item: 5.into(), units: 1.into() };
    let grant = || deliver(Entry::Grant(&units));
    let recall = || deliver(Entry::Recall(&units));
    let unmark = || deliver(Entry::Unmark(&Units { units: 0.into(), ..units }));
    let returned = || deliver(Entry::Return(&Returned { item: 5.into(), ..Returned::default() }));
    let gbp = GBP.numeric().into();
    let listing = || {
        deliver(Entry::Listing(&Listing {
            opens: 5.into(),
            closes: 9.into(),
            currency: gbp,
            ..Listing::default()
        }))
    };
    let moved = || {
        deliver(Entry::Sweep(&Moved {
            amount: 1.into(),
            kind: 4,
            from_kind: 2,
            currency: gbp,
            ..Moved::default()
        }))
    };
    let (max, end, all) = (Amount::MAX.0, Time::MAX.0, UNITS_MAX);
    type S = StockBody;
    type D = DeliverBody;
    const OP: usize = size_of::<S>();
    const HEAD: usize = size_of::<D>();
    const BODY: usize = HEAD + size_of::<EntryHeader>();
    let of = |name, bytes, allowed, type_max, set| Field {
        name,
        bytes,
        set,
        allowed: vec![allowed],
        type_max,
    };
    vec![
        of("operations", stock(), (1, 1), U16, |b, v| body::<S>(b).count = (v as u16).into()),
        of("reserved", stock(), (0, 0), U8, |b, v| body::<S>(b).reserved[5] = v as u8),
        // As an answer it would ask for nothing.
        of("operation", stock(), (1, 1), U8, |b, v| part::<StockOp>(b, OP).kind = v as u8),
        of("op's reserved", stock(), (0, 0), U8, |b, v| {
            part::<StockOp>(b, OP).reserved[6] = v as u8;
        }),
        of("lacking", stock(), (1, 2), U64, |b, v| {
            part::<StockOp>(b, OP).wanted.lacking = v.into()
        }),
        of("whole", stock(), (1, all), U64, |b, v| part::<StockOp>(b, OP).wanted.whole = v.into()),
        of("wanted", stock(), (1, all), U64, |b, v| {
            part::<StockOp>(b, OP).wanted.wanted = v.into()
        }),
        of("lacking", answer(), (0, 0), U64, |b, v| {
            part::<StockOp>(b, OP).wanted.lacking = v.into();
        }),
        of("whole", answer(), (0, 0), U64, |b, v| part::<StockOp>(b, OP).wanted.whole = v.into()),
        of("wanted", answer(), (0, 0), U64, |b, v| part::<StockOp>(b, OP).wanted.wanted = v.into()),
        of("from", grant(), (0, U64), U64, |b, v| header_of(b).scope = v.into()),
        of("first", grant(), (1, 1 << 63), U64, |b, v| body::<D>(b).first = v.into()),
        // No later than the first.
        of("base", grant(), (1, 1), U64, |b, v| body::<D>(b).base = v.into()),
        of("acked", grant(), (1, 1 << 63), U64, |b, v| body::<D>(b).acked = v.into()),
        of("count", grant(), (1, 1), U32, |b, v| body::<D>(b).count = (v as u32).into()),
        of("reserved", grant(), (0, 0), U8, |b, v| body::<D>(b).reserved[0] = v as u8),
        of("entry length", grant(), (24, 24), U16, |b, v| {
            part::<EntryHeader>(b, HEAD).length = (v as u16).into();
        }),
        // 2, 4, 6 and, of no units, 7 and 8 are of this length; 7 and 8 have none.
        of("entry kind", grant(), (2, 2), U8, |b, v| part::<EntryHeader>(b, HEAD).kind = v as u8)
            .or(4, 4)
            .or(6, 6),
        of("entry flags", grant(), (0, 0), U8, |b, v| part::<EntryHeader>(b, HEAD).flags = v as u8),
        of("entry outcome", grant(), (0, 0), U8, |b, v| {
            part::<EntryHeader>(b, HEAD).outcome = v as u8;
        }),
        of("entry reserved", grant(), (0, 0), U8, |b, v| {
            part::<EntryHeader>(b, HEAD).reserved[2] = v as u8;
        }),
        of("granted", grant(), (1, all), U64, |b, v| part::<Units>(b, BODY).units = v.into()),
        of("round", recall(), (1, U64), U64, |b, v| part::<Units>(b, BODY).units = v.into()),
        of("unmarked", unmark(), (0, 0), U64, |b, v| part::<Units>(b, BODY).units = v.into()),
        of("returned", returned(), (0, all), U64, |b, v| {
            part::<Returned>(b, BODY).units = v.into()
        }),
        of("price", listing(), (0, max), U64, |b, v| part::<Listing>(b, BODY).price = v.into()),
        of("units", listing(), (0, all), U64, |b, v| part::<Listing>(b, BODY).units = v.into()),
        of("opens", listing(), (0, 8), U64, |b, v| part::<Listing>(b, BODY).opens = v.into()),
        of("closes", listing(), (6, end), U64, |b, v| part::<Listing>(b, BODY).closes = v.into())
            .or(0, 0),
        of("amount", moved(), (1, U64), U64, |b, v| part::<Moved>(b, BODY).amount = v.into()),
        of("statement", moved(), (0, 0), U64, |b, v| part::<Moved>(b, BODY).statement = v.into()),
        of("kind", moved(), (1, 7), U8, |b, v| part::<Moved>(b, BODY).kind = v as u8),
        of("from kind", moved(), (1, 7), U8, |b, v| part::<Moved>(b, BODY).from_kind = v as u8),
        of("reserved", moved(), (0, 0), U8, |b, v| part::<Moved>(b, BODY).reserved[3] = v as u8),
    ]
}

#[test]
fn a_field_is_taken_up_to_its_bounds_and_refused_beyond() {
    let fields = [
        header_fields(),
        account_and_transfer_fields(),
        claim_fields(),
        item_fields(),
        order_fields(),
        change_fields(),
        shard_fields(),
    ];
    let mut writer = furnished();
    for Field { name, bytes, set, allowed, type_max } in fields.into_iter().flatten() {
        let mut values = vec![0, 1, type_max];
        for &(low, high) in &allowed {
            values.extend([low.wrapping_sub(1), low, high, high.wrapping_add(1)]);
        }
        for value in values.into_iter().filter(|value| *value <= type_max) {
            let mut bytes = bytes.clone();
            set(&mut bytes, value);
            let fate = fate_at(&mut writer, &bytes);
            if let Fate::Logged(_) = fate {
                assert_replays(std::mem::replace(&mut writer, furnished()));
            }
            let taken = fate != Fate::Refused;
            let wanted = allowed.iter().any(|&(low, high)| (low..=high).contains(&value));
            let kind = Kind::from_byte(bytes[4]);
            assert_eq!(taken, wanted, "{name} = {value} of {kind:?}");
        }
    }
}

#[test]
fn an_order_or_a_refund_of_2001_lines_is_no_command() {
    let lines = |count| vec![(5, 1); count];
    let whole = place(2, 9, PaymentMethod::Awaited, &lines(LINES_MAX)).bytes();
    assert_eq!(fate(furnished(), &whole), Fate::Logged(Outcome::SoldOut));
    let more = place(2, 9, PaymentMethod::Awaited, &lines(LINES_MAX + 1)).bytes();
    assert_eq!(fate(furnished(), &more), Fate::Refused);
    let lines = |count| vec![(0, 1); count];
    let whole = refund(1, 1, 1, &lines(LINES_MAX)).bytes();
    assert_eq!(fate(furnished(), &whole), Fate::Logged(Outcome::WrongState));
    assert_eq!(fate(furnished(), &refund(1, 1, 1, &lines(LINES_MAX + 1)).bytes()), Fate::Refused);
    assert_eq!(fate(furnished(), &place(2, 9, PaymentMethod::Awaited, &[]).bytes()), Fate::Refused);
    // Nor one in which each line has its extra.
    let lines = |count| vec![less(1, agreed(1, goods(5, 1))); count];
    let whole = order(2, 9, &[rest_until(0)], &lines(LINES_MAX)).bytes();
    assert_eq!(fate(furnished(), &whole), Fate::Logged(Outcome::SoldOut));
    let more = order(2, 9, &[rest_until(0)], &lines(LINES_MAX + 1)).bytes();
    assert_eq!(fate(furnished(), &more), Fate::Refused);
}

#[test]
fn an_order_of_9_legs_or_none_is_no_command() {
    let mut legs = vec![external(1); LEGS_MAX - 1];
    legs.push(rest_until(0));
    let most = order(2, 9, &legs, &[goods(5, 1)]).bytes();
    assert_eq!(fate(furnished(), &most), Fate::Logged(Outcome::Ok));
    let legs_end = size_of::<Header>() + size_of::<PlaceBody>() + LEGS_MAX * size_of::<Leg>();
    let first = size_of::<Header>() + size_of::<PlaceBody>();
    let resized = |legs: usize, bytes: Vec<u8>| {
        let mut bytes = bytes;
        header_of(&mut bytes).length = (bytes.len() as u32).into();
        body::<PlaceBody>(&mut bytes).leg_count = legs as u8;
        bytes
    };
    let one_leg = most[first..first + size_of::<Leg>()].to_vec();
    let nine = [&most[..legs_end], &one_leg, &most[legs_end..]].concat();
    assert_eq!(fate(furnished(), &resized(LEGS_MAX + 1, nine)), Fate::Refused);
    let none = [&most[..first], &most[legs_end..]].concat();
    assert_eq!(fate(furnished(), &resized(0, none)), Fate::Refused);
}

#[test]
fn extras_stand_in_the_order_of_their_lines() {
    let two = || {
        let lines = [less(1, goods(5, 1)), less(1, goods(5, 1))];
        order(2, 9, &[rest_until(0)], &lines).bytes()
    };
    assert_eq!(fate(furnished(), &two()), Fate::Logged(Outcome::Ok));
    for (first, second) in [(0, 0), (1, 0), (1, 1), (0, 2)] {
        let mut bytes = two();
        extra(&mut bytes, 2).line = first.into();
        let at = size_of::<PlaceBody>() + size_of::<Leg>() + 2 * size_of::<Line>();
        part::<Extra>(&mut bytes, at + size_of::<Extra>()).line = second.into();
        assert_eq!(fate(furnished(), &bytes), Fate::Refused, "{first} and {second}");
    }
}

#[test]
fn more_entries_or_operations_than_fit_are_no_command() {
    let (mut entries, mut count) = (Vec::new(), 0);
    let grant = Units { item: 5.into(), units: 1.into() };
    while entries.len() <= ENTRIES_BYTES_MAX {
        let mut commands = CommandBuffer::default();
        commands.deliver(ShardId(9), FIRST, &entries, count);
        assert_eq!(fate(furnished(), commands.bytes()), Fate::Unlogged(Outcome::Invalid));
        for _ in 0..400 {
            Entry::Grant(&grant).write(&mut entries);
            count += 1;
        }
    }
    let mut commands = CommandBuffer::default();
    commands.deliver(ShardId(9), FIRST, &entries, count);
    assert_eq!(fate(furnished(), commands.bytes()), Fate::Refused);
    for (count, wanted) in [
        (STOCK_OPS_MAX, Fate::Logged(Outcome::Ok)),
        (STOCK_OPS_MAX + 1, Fate::Refused),
        (0, Fate::Refused),
    ] {
        let mut commands = CommandBuffer::default();
        commands.stock(&vec![StockOp::answer(ItemId(77)); count]);
        assert_eq!(fate(furnished(), commands.bytes()), wanted);
    }
}

/// What a command is changed to: one of its words, all or a part.
fn change() -> impl Strategy<Value = (proptest::sample::Index, usize, u64)> {
    let value = prop_oneof![
        Just(0),
        Just(1),
        Just(2),
        Just(u64::MAX),
        Just(1 << 63),
        Just(Amount::MAX.0),
        Just(Amount::MAX.0 + 1),
        any::<u64>(),
    ];
    (any::<proptest::sample::Index>(), select(vec![1usize, 2, 4, 8]), value)
}

proptest! {
    #![proptest_config(config(1_000))]

    #[test]
    fn whatever_a_word_of_a_command_says_nothing_breaks(
        mut commands in commands(),
        which in any::<proptest::sample::Index>(),
        changes in proptest::collection::vec(change(), 1..3),
    ) {
        commands.truncate(40);
        let real: Vec<&Command> = commands
            .iter()
            .filter(|command| !matches!(command, Command::Wait { .. } | Command::Due))
            .collect();
        prop_assume!(!real.is_empty());
        let mut bytes = which.get(&real).bytes();
        for (at, width, value) in changes {
            let at = at.index(bytes.len() / width) * width;
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        // What shards ask each other is for shards that have others.
        prop_assume!(Kind::from_byte(bytes[4]) != Some(Kind::Stock));
        let mut writer = Writer::new(5);
        writer.apply(&commands);
        fate(writer, &bytes);
    }
}
