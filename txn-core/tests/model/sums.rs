//! Where sums end.

use std::collections::BTreeMap;

use model::money::STOCK_MAX;
use model::record::entry::UNITS_MAX;
use model::record::{Coupon, NewLeg};
use model::reply::{Query, View};
use model::{
    AccountKind, Amount, OrderId, OrderState, Outcome, Party, PayStep, PaymentMethod, Realm,
};
use txn_core::Shard;

use crate::asked::*;
use crate::command::{Command, STEP_MICROS};
use crate::log::{Writer, assert_sound};
use crate::shadow::Model;

/// No sum of an account passes 64 bits, and no stock its bound: what would is invalid, and asked
/// for in another way under the same id it is done. What can't be booked where it belongs when
/// it is swept is booked to suspense.
#[test]
fn sums_stop_at_their_bounds() {
    use PaymentMethod::*;
    let mut commands = vec![item(5, MAX, STOCK_MAX), item(6, 1, STOCK_MAX), item(7, 0, 1)];
    // Stock.
    commands.extend((1..UNITS_MAX / STOCK_MAX).map(|n| restock(n.into(), 5, STOCK_MAX)));
    commands.extend([restock(0, 5, STOCK_MAX), restock(0, 5, 1), restock(0, 6, 1)]);
    // What came in through clearing, in accounts; then outside payments.
    commands.extend((1..=TIMES).map(|n| account(n, MAX)));
    commands.extend([account(0, MAX), account(0, REST), account(u64::MAX, 1)]);
    commands.extend([place(1, 9, External, &[(6, 1)]), place(1, 9, External, &[(7, 1)])]);
    commands.extend([place(1, 8, Awaited, &[(6, 1)]), place(2, 8, Awaited, &[(5, 1)])]);
    commands.extend([pay(1, 1, 8, External), transfer(7, CLEARING, main_of(1), 1)]);
    // What the seller has earned, and what of it can be paid out.
    commands.extend((1..=TIMES).map(|n| place(n, 1, Balance, &[(5, 1)])));
    commands.extend([
        transfer(1, SETTLEMENT, main_of(2), MAX),
        wait(2 * STEP_MICROS),
        sweep(2),
        sweep(2),
    ]);
    commands.extend([transfer(2, SETTLEMENT, main_of(2), MAX), place(2, 2, Balance, &[(5, 1)])]);
    commands.extend([pay(1, 2, 8, Balance), cancel(1, 2, 8)]);
    // What the seller gave, and what a buyer got.
    let receiver = |n: u64| main_of(2 + n % 2);
    commands.extend((3..=TIMES).map(|n| transfer(n.into(), SETTLEMENT, receiver(n), MAX)));
    commands.extend([refund(1, 1, 1, &[]), place(2, 3, Balance, &[(6, 1)])]);
    commands.extend((1..=TIMES / 2).map(|n| transfer(n.into(), main_of(3), main_of(2), MAX)));
    let (back, forth) = ((main_of(3), main_of(2)), (main_of(2), main_of(3)));
    commands.extend([transfer(9, forth.0, forth.1, MAX), transfer(1 << 64, back.0, back.1, MAX)]);
    // What is swept when it can't be taken, and what is owed then.
    commands.extend([
        transfer(3, main_of(2), SETTLEMENT, REST),
        wait(2 * STEP_MICROS),
        sweep(2),
        sweep(2),
    ]);
    commands.extend([refund(1, 2, 3, &[]), sweep(2), sweep(2)]);

    let (mut writer, mut model) = (Writer::new(7), Model::default());
    let mut invalid = BTreeMap::<&str, u64>::new();
    for command in &commands {
        writer.apply(std::slice::from_ref(command));
        let Some(answer) = model.execute(Realm::Live, command) else { continue };
        assert_eq!(writer.replies.last(), Some(&answer.reply), "{command:?}");
        if answer.reply.outcome == Outcome::Invalid {
            *invalid.entry(command.word()).or_default() += 1;
        }
    }
    let wanted = [
        ("create account", 2),
        ("pay", 2),
        ("place", 2),
        ("refund", 1),
        ("restock", 2),
        ("transfer", 2),
    ];
    assert_eq!(invalid, BTreeMap::from(wanted));
    model.audit();
    assert_sound(&writer.shard);
    crate::assert_same_state(&writer.shard, &model);
    let sums = |kind| match writer.shard.query(Query::Account(SELLER, GBP, kind)) {
        View::Account(account) => (account.debits_posted.0, account.credits_posted.0),
        other => panic!("{other:?}"),
    };
    assert_eq!(sums(AccountKind::Settlement), ((TIMES - 1) * MAX + 1, u64::MAX));
    assert_eq!(sums(AccountKind::Suspense), (0, 1));
    let (shard, _, log) = writer.finish();
    assert_eq!(log.replay(8).state_hash(), shard.state_hash());
}

const MAX: u64 = Amount::MAX.0;
/// So often the largest amount fits into a sum, and then this much.
const TIMES: u64 = u64::MAX / MAX;
const REST: u64 = u64::MAX % MAX;

/// Gives commands to a shard and the model, and says which were invalid: the model agrees, nothing
/// changed with them, and the log leads back.
fn invalid(commands: &[Command]) -> (Shard, Vec<usize>) {
    let (mut writer, mut model) = (Writer::new(7), Model::default());
    let mut invalid = Vec::new();
    for (number, command) in commands.iter().enumerate() {
        let answer = model.execute(Realm::Live, command);
        let reply = answer.map(|answer| answer.reply);
        let is_invalid = reply.is_some_and(|reply| reply.outcome == Outcome::Invalid);
        let state = is_invalid.then(|| writer.shard.state_hash());
        let replies = writer.replies.len();
        writer.apply(std::slice::from_ref(command));
        assert_eq!(writer.replies.get(replies).copied(), reply, "{number}: {command:?}");
        if let Some(state) = state {
            assert_eq!(writer.shard.state_hash(), state, "{command:?}");
            invalid.push(number);
        }
    }
    model.audit();
    assert_sound(&writer.shard);
    crate::assert_same_state(&writer.shard, &model);
    let (shard, _, log) = writer.finish();
    assert_eq!(log.replay(8).state_hash(), shard.state_hash());
    (shard, invalid)
}

fn outside(id: u64, buyer: u64, order: u128, leg: u16, amount: u64) -> Command {
    pay_leg(id.into(), buyer, order, PayStep::External, Some(leg), Some(amount))
}

/// Money goes through a deposit until its sum is full; then it comes no more, and what waits can
/// still end.
#[test]
fn a_deposit_stops_at_its_bound() {
    let legs = [awaited(MAX - 1, 0), rest_until(5)];
    let big = agreed(MAX, goods(5, 1));
    let mut commands = vec![item(5, 1, STOCK_MAX), order(1, 1, &legs, &[big])];
    // Coupons that come back, so that no other sum is full before.
    for n in 0..TIMES {
        let id = u128::from(10 + n);
        commands.push(issue(1, n, Coupon { funder: Party(10 + n), ..coupon(MAX) }));
        commands.push(order(1, id, &[NewLeg::Coupon(n), awaited(0, 0)], &[big]));
        commands.push(cancel(1, 1, id));
    }
    let full = commands.len();
    commands.extend([
        order(1, 5, &[NewLeg::Coupon(0), awaited(0, 0)], &[big]),
        outside(1, 1, 1, 0, REST + 1),
        outside(1, 1, 1, 0, REST),
        outside(2, 1, 1, 0, 1),
        pay_leg(3, 1, 1, PayStep::Authorise, Some(0), None),
        wait(5),
        Command::Due,
        cancel(9, 1, 1),
    ]);
    let (shard, got) = invalid(&commands);
    assert_eq!(got, [full, full + 1, full + 3]);
    let View::Account(deposit) = shard.query(Query::Account(Party(1), GBP, AccountKind::Deposit))
    else {
        panic!("it was used");
    };
    assert_eq!((deposit.debits_posted.0, deposit.credits_posted.0), (u64::MAX, u64::MAX));
}

/// What comes beyond a leg, or late, stops where suspense is full. It isn't booked then, and the
/// provider is told so.
#[test]
fn suspense_stops_at_its_bound() {
    let suspense = (Party(1), AccountKind::Suspense);
    let mut commands = vec![
        item(5, 1, STOCK_MAX),
        issue(1, 1, coupon(1)),
        order(1, 1, &[NewLeg::Coupon(1)], &[goods(5, 1)]),
        order(1, 2, &[rest_until(5)], &[goods(5, 9)]),
    ];
    // To itself, so that clearing isn't full before.
    commands.push(outside(0, 1, 1, 0, MAX));
    commands.extend((1..TIMES).map(|id| transfer(id.into(), suspense, suspense, MAX)));
    let full = commands.len();
    commands.extend([
        outside(1, 1, 1, 0, REST + 1),
        outside(2, 1, 2, 0, 9 + REST + 1),
        outside(3, 1, 2, 0, 9 + REST - 2),
        outside(4, 1, 2, 0, 3),
        outside(5, 1, 9, 0, 3), // No such order.
        outside(6, 1, 1, 0, 2),
        outside(7, 1, 1, 0, 1),
        transfer(1 << 64, suspense, suspense, 1),
        transfer(2 << 64, suspense, CLEARING, MAX),
    ]);
    let (_, got) = invalid(&commands);
    assert_eq!(got, [0, 1, 3, 6, 7].map(|at| full + at));
}

/// Coupons of one funder, until what they cost fills a sum: an order with one more is invalid, and
/// uses it no more than units or limits.
#[test]
fn funding_stops_at_its_bound() {
    let big = agreed(MAX, goods(5, 1));
    let use_one = |n: u64| order(1, n.into(), &[NewLeg::Coupon(n)], &[paid_to(n, big)]);
    let mut commands = vec![sale_of(5, 1, STOCK_MAX, at_most(u32::MAX / 8))];
    for n in 1..=TIMES + 1 {
        commands.push(issue(1, n, coupon(MAX)));
        commands.push(use_one(n));
    }
    let last = commands.len() - 1;
    commands.push(use_one(TIMES + 1));
    commands.push(cancel(1, 1, 7));
    commands.push(refund(1, 1, 7, &[]));
    let (shard, got) = invalid(&commands);
    assert_eq!(got, [last, last + 1]);
    let query = Query::Coupon(Party(1), TIMES + 1);
    let View::Coupon(coupon) = shard.query(query) else { panic!("it was issued") };
    assert!(!coupon.used);
}

/// What is held stops where money does, and where it is captured by an account that is full
/// nothing changes.
#[test]
fn what_is_held_stops_at_its_bound() {
    let mut commands = vec![overdraft(1, MAX, MAX), account(2, 0)];
    commands.extend((1..TIMES).map(|id| transfer(id.into(), CLEARING, main_of(1), MAX)));
    // 2⁶⁴ less a little is there, and as much more may be owed.
    commands.extend((1..=TIMES).map(|id| hold(1 << 64 | u128::from(id), main_of(1), MAX, 5)));
    let full = commands.len();
    commands.extend([
        hold(1 << 65, main_of(1), REST + 1, 0),
        hold(2 << 65, main_of(1), REST, 0),
        hold(3 << 65, main_of(1), 1, 0),
        wait(5),
    ]);
    commands.extend((0..TIMES).map(|_| Command::Due));
    commands.extend([capture(1, 1, 2 << 65, main_of(2), 0), Command::Due]);
    let (shard, got) = invalid(&commands);
    assert_eq!(got, [full, full + 2]);
    assert_eq!(shard.next_due(Realm::Live), None);
}

/// Sellers who are full when an order is forfeit, and buyers who are when one ends: the timer
/// fires all the same, and the money stays where it shows.
#[test]
fn a_timer_fires_whatever_is_full() {
    let line = |price| agreed(price, goods(5, 1));
    let sold = |id: u64, leg, price| order(1, u128::from(id) << 64, &[leg], &[line(price)]);
    let to_itself = |id: u64, amount| transfer(id.into(), main_of(2), main_of(2), amount);
    let mut commands = vec![
        item(5, 1, STOCK_MAX),
        account(2, MAX),
        forfeiting(order(2, 1, &[external(9), rest_until(5)], &[line(10)])),
        order(2, 2, &[balance(9), rest_until(6)], &[line(10)]),
        issue(1, 1, coupon(MAX)),
        issue(1, 2, coupon(5)),
    ];
    // The seller gets what fills its sum but for 4, the buyer what fills its own but for 3.
    commands.extend((1..TIMES).map(|id| sold(id, NewLeg::External(None), MAX)));
    commands.push(sold(TIMES, NewLeg::External(None), REST - 9));
    commands.push(sold(TIMES + 1, NewLeg::Coupon(1), MAX));
    commands.push(sold(TIMES + 2, NewLeg::Coupon(2), 5));
    commands.extend((1..TIMES).map(|id| to_itself(id, MAX - 9)));
    commands.push(to_itself(TIMES, REST + 9 * (TIMES - 1) - 3));
    commands.extend([wait(6), Command::Due, Command::Due]);
    let (shard, got) = invalid(&commands);
    assert!(got.is_empty(), "{got:?}");
    assert_eq!(shard.next_due(Realm::Live), None);
    assert_eq!(crate::legs::balance_of(&shard, 2, AccountKind::Deposit), 18);
    for id in [1, 2] {
        let View::Order(order) = shard.query(Query::Order(Party(2), OrderId(id))) else {
            panic!("it is kept");
        };
        assert_eq!(order.state, OrderState::Expired);
    }
}

/// A payment that can't be booked makes no suspense account in passing that a later command could
/// name: the log executed again would find none.
#[test]
fn an_invalid_payment_makes_no_account_to_be_named() {
    let suspense = (Party(0), AccountKind::Suspense);
    let mut commands = vec![item(5, 1, 9), order(0, 1, &[rest_until(0)], &[goods(5, 1)])];
    commands.extend((1..=TIMES).map(|party| account(party, MAX)));
    let full = commands.len();
    commands.extend([
        outside(1, 0, 1, 0, REST + 1),
        outside(2, 0, 2, 0, REST + 1),
        transfer(1, suspense, CLEARING, 1),
        transfer(2, main_of(1), suspense, 1),
        hold(3, suspense, 1, 0),
        outside(3, 0, 1, 0, REST),
        transfer(4, main_of(1), suspense, 1),
    ]);
    let (shard, got) = invalid(&commands);
    assert_eq!(got, [full]);
    assert_eq!(crate::legs::balance_of(&shard, 0, AccountKind::Suspense), REST as i64);
}
