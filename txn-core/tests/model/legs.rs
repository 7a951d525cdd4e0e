//! Orders that are paid in several ways, or later.

use model::record::{NewLeg, NewLine};
use model::reply::{Query, View};
use model::{
    AccountKind, LegState, LineKind, OrderId, OrderState, OrderView, Outcome, Party, PayStep,
    PaymentMethod, Reply,
};
use txn_core::Shard;

use crate::asked::*;
use crate::cases::outcomes;
use crate::check;
use crate::command::{Command, STEP_MICROS};

use Outcome::*;
use PaymentMethod::*;

/// What an account holds: credits less debits.
pub fn balance_of(shard: &Shard, party: u64, kind: AccountKind) -> i64 {
    match shard.query(Query::Account(Party(party), GBP, kind)) {
        View::Account(view) => view.credits_posted.0 as i64 - view.debits_posted.0 as i64,
        View::Missing => 0,
        other => panic!("{other:?}"),
    }
}

fn order_of(shard: &Shard, buyer: u64, id: u128) -> OrderView {
    match shard.query(Query::Order(Party(buyer), OrderId(id))) {
        View::Order(order) => order,
        other => panic!("{other:?}"),
    }
}

/// The state of each leg, with what was paid, given back and suspended of it.
fn legs_of(shard: &Shard, buyer: u64, id: u128) -> Vec<(LegState, u64, u64, u64)> {
    let legs = order_of(shard, buyer, id).legs;
    legs.iter().map(|leg| (leg.state, leg.paid.0, leg.refunded.0, leg.suspended.0)).collect()
}

fn told(replies: &[Reply]) -> Vec<(Outcome, u64)> {
    replies.iter().map(|reply| (reply.outcome, reply.amount.0)).collect()
}

fn outside(id: u128, order: u128, leg: u16, amount: u64) -> Command {
    pay_leg(id, 1, order, PayStep::External, Some(leg), Some(amount))
}

fn step(id: u128, order: u128, step: PayStep) -> Command {
    pay_leg(id, 1, order, step, None, None)
}

#[test]
fn legs_that_are_there_pay_at_once() {
    let (shard, replies, _) = check(&[
        account(1, 50),
        item(5, 10, 99),
        issue(1, 7, coupon(8)),
        order(1, 1, &[balance(20), NewLeg::External(None), NewLeg::Coupon(7)], &[goods(5, 4)]),
    ]);
    assert_eq!(told(&replies[3..]), [(Ok, 40)]);
    let captured = |amount| (LegState::Captured, amount, 0, 0);
    assert_eq!(legs_of(&shard, 1, 1), [20, 12, 8].map(captured));
    assert_eq!(balance_of(&shard, 1, AccountKind::Main), 30);
    assert_eq!(balance_of(&shard, 0, AccountKind::Funding), -8);
    assert_eq!(balance_of(&shard, SELLER.0, AccountKind::Payable), 40);
    assert_eq!(order_of(&shard, 1, 1).state, OrderState::Paid);
}

/// A pre-sale: a deposit, and later the rest, each by its own deadline.
#[test]
fn a_deposit_and_its_balance_are_two_legs() {
    let legs = [awaited(5, 10), rest_until(20)];
    let (shard, replies, _) = check(&[
        account(1, 100),
        item(5, 10, 99),
        order(1, 1, &legs, &[goods(5, 2)]),
        wait(9),
        outside(1, 1, 0, 5),
        wait(2), // The deposit's deadline counts no longer.
        Command::Due,
        pay(2, 1, 1, Balance),
    ]);
    assert_eq!(told(&replies[2..]), [(Ok, 20), (Ok, 5), (Ok, 15)]);
    let order = order_of(&shard, 1, 1);
    assert_eq!((order.state, order.deadline.0), (OrderState::Paid, 0));
    assert_eq!(order.legs.iter().map(|leg| leg.method).collect::<Vec<_>>(), [External, Balance]);
    assert_eq!(balance_of(&shard, 1, AccountKind::Deposit), 0);
}

#[test]
fn what_was_paid_is_forfeit_when_the_order_says_so_and_expires() {
    let legs = [awaited(7, 10), NewLeg::Coupon(7), rest_until(20)];
    let lines = [goods(5, 1), charge(LineKind::Shipping, 3, 5), less(4, goods(5, 1))];
    let place = |id| order(1, id, &legs, &lines);
    let commands = [
        item(5, 10, 99),
        issue(1, 7, coupon(2)),
        forfeiting(place(1)),
        outside(1, 1, 0, 7),
        wait(20),
        Command::Due,
    ];
    let (shard, replies, _) = check(&commands);
    assert_eq!(told(&replies[2..]), [(Ok, 21), (Ok, 7), (Ok, 9)]);
    // 10, 5 and 6 of 21, of 7, by running sums rounded down: 3, 2 and 2.
    assert_eq!(balance_of(&shard, SELLER.0, AccountKind::Payable), 5);
    assert_eq!(balance_of(&shard, 3, AccountKind::Payable), 2);
    assert_eq!(balance_of(&shard, 0, AccountKind::Funding), 0, "a coupon is never forfeit");
    assert_eq!(order_of(&shard, 1, 1).state, OrderState::Expired);

    // Where it doesn't say so, or is cancelled in time, the money goes back.
    let back = [
        item(5, 10, 99),
        issue(1, 7, coupon(2)),
        forfeiting(place(1)),
        outside(1, 1, 0, 7),
        cancel(2, 1, 1),
        place(2),
        outside(1, 2, 0, 7),
        wait(20),
        Command::Due,
    ];
    let (shard, replies, _) = check(&back);
    assert_eq!(told(&replies[4..]), [(Ok, 9), (Ok, 21), (Ok, 7), (Ok, 9)]);
    assert_eq!(balance_of(&shard, SELLER.0, AccountKind::Payable), 0);
    assert_eq!(balance_of(&shard, 0, AccountKind::Clearing), 0);
    assert_eq!(legs_of(&shard, 1, 2)[0], (LegState::Refunded, 7, 7, 0));
}

/// Else whoever is late would cancel instead of paying what is forfeit.
#[test]
fn cancelling_after_the_deadline_forfeits_too() {
    let legs = [awaited(7, 10), rest_until(20)];
    let (shard, replies, _) = check(&[
        item(5, 10, 99),
        forfeiting(order(1, 1, &legs, &[goods(5, 1)])),
        outside(1, 1, 0, 7),
        wait(20),
        cancel(2, 1, 1),
        Command::Due,
    ]);
    assert_eq!(told(&replies[3..]), [(Ok, 7)]);
    assert_eq!(balance_of(&shard, SELLER.0, AccountKind::Payable), 7);
    assert_eq!(order_of(&shard, 1, 1).state, OrderState::Cancelled);
}

#[test]
fn an_authorised_leg_stops_the_expiry_until_it_is_voided() {
    let (shard, replies, _) = check(&[
        account(1, 100),
        item(5, 10, 99),
        until(10, place(1, 1, Awaited, &[(5, 2)])),
        step(1, 1, PayStep::Void), // Nothing was promised.
        pay_leg(2, 1, 1, PayStep::Authorise, None, Some(19)),
        pay_leg(3, 1, 1, PayStep::Authorise, None, Some(20)),
        step(4, 1, PayStep::Authorise),
        wait(10),
        Command::Due,
        pay(5, 1, 1, Balance), // It is promised otherwise.
        outside(6, 1, 0, 5),
        outside(7, 1, 0, 6),
        step(8, 1, PayStep::Void),
        pay(9, 1, 1, External),
        Command::Due,
    ]);
    let wanted = [
        (WrongState, 0),
        (WrongState, 0),
        (Ok, 20),
        (WrongState, 0),
        (WrongState, 0),
        (Ok, 5),
        (Ok, 6),
        (Ok, 9),
        (WrongState, 0), // Its deadline has passed.
        (Ok, 11),
    ];
    assert_eq!(told(&replies[3..]), wanted);
    assert_eq!(legs_of(&shard, 1, 1), [(LegState::Refunded, 11, 11, 0)]);
    assert_eq!(balance_of(&shard, 0, AccountKind::Clearing), -100);
}

#[test]
fn a_leg_that_was_voided_in_time_can_be_promised_and_paid_again() {
    let commands = [
        item(5, 10, 99),
        until(10, place(1, 1, Awaited, &[(5, 2)])),
        step(1, 1, PayStep::Authorise),
        step(2, 1, PayStep::Void),
        step(3, 1, PayStep::Authorise),
        step(4, 1, PayStep::Void),
        pay(5, 1, 1, External),
    ];
    let (shard, _, _) = check(&commands);
    assert_eq!(outcomes(&commands), [Ok; 7]);
    assert_eq!(order_of(&shard, 1, 1).state, OrderState::Paid);
}

#[test]
fn a_leg_is_captured_in_parts_and_what_is_beyond_is_suspended() {
    let (shard, replies, _) = check(&[
        account(1, 100),
        item(5, 10, 99),
        order(1, 1, &[awaited(15, 0), rest_until(0)], &[goods(5, 2)]),
        outside(1, 1, 0, 4),
        pay_leg(2, 1, 1, PayStep::Balance, Some(0), None),
        outside(3, 1, 0, 14),
        outside(4, 1, 0, 15), // Twice.
        pay_leg(5, 1, 1, PayStep::Balance, Some(1), Some(4)),
        pay_leg(6, 1, 1, PayStep::Balance, Some(2), None),
        pay_leg(7, 1, 1, PayStep::Balance, Some(1), Some(5)),
        transfer(8, (Party(1), AccountKind::Suspense), CLEARING, 18),
        transfer(9, (Party(1), AccountKind::Suspense), main_of(1), 1),
    ]);
    let wanted = [
        (Ok, 4),
        (WrongState, 0), // What came from outside goes back there: a leg has one source.
        (Ok, 11),
        (Suspended, 15),
        (WrongState, 0),
        (WrongState, 0),
        (Ok, 5),
        (Ok, 18),
        (InsufficientFunds, 0),
    ];
    assert_eq!(told(&replies[3..]), wanted);
    let captured = |paid, suspended| (LegState::Captured, paid, 0, suspended);
    assert_eq!(legs_of(&shard, 1, 1), [captured(15, 18), captured(5, 0)]);
}

/// Whatever the order's state, money that came is booked: once for each id.
#[test]
fn money_that_comes_late_is_suspended() {
    let (shard, replies, _) = check(&[
        item(5, 10, 9),
        until(10, place(1, 1, Awaited, &[(5, 1)])),
        until(10, place(1, 2, Awaited, &[(5, 1)])),
        place(1, 3, External, &[(5, 1)]),
        place(1, 4, External, &[(5, 99)]),
        wait(10),
        outside(1, 1, 0, 10), // Its timer hasn't fired.
        Command::Due,
        Command::Due,
        outside(1, 2, 7, 4), // Whatever leg it names.
        outside(1, 2, 7, 4),
        pay(2, 1, 2, External), // Nobody says how much.
        outside(1, 3, 0, 10),
        outside(1, 4, 0, 10),
        outside(1, 5, 0, 10),
    ]);
    let wanted = [
        (Suspended, 10),
        (Ok, 0),
        (Ok, 0),
        (Suspended, 4),
        (Suspended, 4),
        (WrongState, 0),
        (Suspended, 10),
        (Suspended, 10),
        (UnknownOrder, 0),
    ];
    assert_eq!(told(&replies[5..]), wanted);
    assert_eq!(legs_of(&shard, 1, 1), [(LegState::Late, 0, 0, 10)]);
    assert_eq!(legs_of(&shard, 1, 2), [(LegState::Late, 0, 0, 4)]);
    assert_eq!(balance_of(&shard, 1, AccountKind::Suspense), 34);
}

#[test]
fn legs_come_to_the_total() {
    let lines: &[NewLine] = &[goods(5, 2)];
    let commands = [
        account(1, 100),
        item(5, 10, 99),
        order(1, 1, &[balance(19)], lines),
        order(1, 2, &[balance(21)], lines),
        order(1, 3, &[balance(21), rest_until(0)], lines),
        order(1, 4, &[balance(20), rest_until(0)], lines),
        pay(1, 1, 4, External), // Nothing is left of it.
        order(1, 5, &[balance(12), external(8)], lines),
        order(1, 6, &[external(0), balance(20)], lines),
        order(1, 7, &[balance(60), balance(60)], &[agreed(120, goods(5, 1))]),
        order(2, 8, &[external(20), balance(0)], lines),
    ];
    let wanted = [
        Ok,
        Ok,
        PriceMismatch,
        PriceMismatch,
        PriceMismatch,
        Ok,
        Ok,
        Ok,
        Ok,
        InsufficientFunds,
        UnknownAccount,
    ];
    assert_eq!(outcomes(&commands), wanted);
}

#[test]
fn prices_are_checked_and_discounts_are_within_them() {
    let one = |id, line| order(1, id, &[NewLeg::External(None)], &[goods(5, 1), line]);
    let commands = [
        item(5, 10, 99),
        item(6, 3, 99),
        one(1, checked(3, goods(6, 4))),
        one(2, checked(4, goods(6, 4))),
        one(3, less(12, goods(6, 4))),
        one(4, less(13, goods(6, 4))),
        one(5, less(1, agreed(0, goods(6, 4)))),
        one(6, less(9, charge(LineKind::Fee, 0, 9))),
        one(7, charge(LineKind::Tax, 3, 0)),
        update(
            1,
            6,
            model::record::ItemUpdate { price: Some(model::Amount(4)), ..Default::default() },
        ),
        one(8, checked(4, goods(6, 4))),
        one(2, checked(4, goods(6, 4))), // Final for its id.
    ];
    let (_, replies, _) = check(&commands);
    let got: Vec<_> =
        replies[2..].iter().map(|reply| (reply.outcome, reply.line, reply.amount.0)).collect();
    let wanted = [
        (Ok, None, 22),
        (PriceMismatch, Some(1), 0),
        (Ok, None, 10),
        (PriceMismatch, Some(1), 0),
        (PriceMismatch, Some(1), 0),
        (Ok, None, 10),
        (Ok, None, 10),
        (Ok, None, 0),
        (Ok, None, 26),
        (PriceMismatch, Some(1), 0),
    ];
    assert_eq!(got, wanted);
}

#[test]
fn every_payee_gets_its_lines() {
    let lines = [
        goods(5, 2),
        paid_to(3, goods(5, 1)),
        charge(LineKind::Shipping, 4, 6),
        charge(LineKind::Fee, 0, 2),
        charge(LineKind::Tax, 5, 1), // The number is that of an item, too.
    ];
    let (shard, replies, _) = check(&[
        item(5, 10, 99),
        order(1, 1, &[NewLeg::External(None)], &lines),
        refund(1, 1, 1, &[(2, 1), (1, 1)]),
    ]);
    assert_eq!(told(&replies[1..]), [(Ok, 39), (Ok, 16)]);
    let earned = [SELLER.0, 3, 4, 0, 5].map(|of| balance_of(&shard, of, AccountKind::Payable));
    assert_eq!(earned, [20, 0, 0, 2, 1]);
    // Charges take no units, and bring none back.
    let sold = shard.items(model::Realm::Live).map(|item| item.sold);
    assert_eq!(sold.collect::<Vec<_>>(), [2]);
}

/// Unit by unit, what is given back is rounded down, and the last unit brings the rest; over the
/// legs likewise.
#[test]
fn refunds_by_units_come_to_the_total() {
    let legs = [NewLeg::Coupon(7), balance(7), NewLeg::External(None)];
    let mut commands = vec![
        account(1, 50),
        item(5, 10, 99),
        issue(1, 7, coupon(5)),
        order(1, 1, &legs, &[less(11, goods(5, 3)), less(1, charge(LineKind::Shipping, 3, 4))]),
    ];
    commands.extend((1..=3).map(|id| refund(id, 1, 1, &[(0, 1)])));
    commands.extend([refund(4, 1, 1, &[]), refund(5, 1, 1, &[])]);
    let (shard, replies, _) = check(&commands);
    // 19 for three units, and 3.
    let wanted = [(Ok, 22), (Ok, 6), (Ok, 6), (Ok, 7), (Ok, 3), (WrongState, 0)];
    assert_eq!(told(&replies[3..]), wanted);
    let refunded = |amount| (LegState::Refunded, amount, amount, 0);
    assert_eq!(legs_of(&shard, 1, 1), [5, 7, 10].map(refunded));
    assert_eq!(balance_of(&shard, 1, AccountKind::Main), 50);
    assert_eq!(balance_of(&shard, 0, AccountKind::Funding), 0);
    assert_eq!(balance_of(&shard, SELLER.0, AccountKind::Payable), 0);
}

#[test]
fn what_was_received_can_be_paid_out_at_once() {
    let out = |id, amount| transfer(id, SETTLEMENT, main_of(1), amount);
    let commands = [
        account(1, 100),
        item(5, 10, 99),
        place(1, 1, Balance, &[(5, 3)]),
        refund(1, 1, 1, &[(0, 1)]),
        place(1, 2, Balance, &[(5, 1)]),
        receive(2, 1, 1),
        sweep(9),
        out(1, 21),
        out(2, 20),
        receive(2, 1, 1),
        receive(3, 1, 1),
        receive(1, 1, 1), // The ids of an order's changes are its own.
        refund(4, 1, 1, &[(0, 1)]),
        sweep(9), // Owed at once, though it is pending of the other order.
        sweep(9),
        out(3, 1),
        receive(1, 1, 3),
        until(20, place(1, 4, Awaited, &[(5, 1)])),
        receive(1, 1, 4),
        wait(2 * STEP_MICROS),
        sweep(9),
        sweep(9),
        out(4, 1),
        receive(1, 1, 2), // It was available already.
    ];
    let (_, replies, _) = check(&commands);
    let wanted = [
        (Ok, 30),
        (Ok, 10),
        (Ok, 10),
        (Ok, 20),
        (Ok, 20),
        (InsufficientFunds, 0),
        (Ok, 20),
        (AlreadyDone, 20),
        (WrongState, 0),
        (IdReused, 0),
        (Ok, 10),
        (Ok, 0),
        (Ok, 10),
        (InsufficientFunds, 0),
        (UnknownOrder, 0),
        (Ok, 10),
        (WrongState, 0),
        (Ok, 0),
        (Ok, 10),
        (InsufficientFunds, 0),
        (Ok, 10),
    ];
    assert_eq!(told(&replies[2..]), wanted);
}

/// Units on several lines count as a sum, and charges not at all.
#[test]
fn limits_count_over_lines_and_legs() {
    let line = |units| paid_to(3, agreed(1, goods(5, units)));
    let legs = [awaited(1, 10), rest_until(0)];
    let commands = [
        sale_of(5, 10, 99, at_most(3)),
        order(1, 1, &legs, &[line(2), charge(LineKind::Fee, 5, 9), line(2)]),
        order(1, 2, &legs, &[line(1), charge(LineKind::Fee, 5, 9), line(2)]),
        order(1, 3, &legs, &[line(1)]),
        wait(10),
        Command::Due,
        order(1, 4, &[NewLeg::External(None)], &[line(3)]),
    ];
    assert_eq!(outcomes(&commands), [Ok, OverLimit, Ok, OverLimit, Ok, Ok]);
}
