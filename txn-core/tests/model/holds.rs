//! Money that is held, overdrafts, and accounts that are closed.

use model::record::{NewLeg, TimerKind};
use model::reply::{Query, View};
use model::{AccountKind, Amount, ChangeId, Outcome, Party, PaymentMethod, Realm, Reply};

use crate::asked::*;
use crate::cases::outcomes;
use crate::check;
use crate::command::{Command, STEP_MICROS, at};
use crate::legs::balance_of;
use crate::log::{Writer, assert_sound};

use Outcome::*;
use PaymentMethod::*;

fn told(replies: &[Reply]) -> Vec<(Outcome, u64)> {
    replies.iter().map(|reply| (reply.outcome, reply.amount.0)).collect()
}

const SUSPENSE: (Party, AccountKind) = (Party(1), AccountKind::Suspense);

#[test]
fn held_money_cannot_be_spent_and_is_captured_in_parts() {
    let (shard, replies, _) = check(&[
        account(1, 100),
        account(2, 0),
        item(5, 10, 99),
        hold(1, main_of(1), 101, 0),
        hold(2, main_of(1), 70, 0),
        place(1, 1, Balance, &[(5, 4)]),
        transfer(3, main_of(1), main_of(2), 31),
        hold(4, main_of(1), 31, 0),
        capture(1, 1, 2, main_of(2), 20),
        capture(2, 1, 2, main_of(2), 51),
        capture(3, 1, 2, main_of(3), 1),
        capture(4, 1, 2, CLEARING, 10),
        capture(4, 1, 2, CLEARING, 10),
        capture(4, 1, 2, CLEARING, 11),
        capture(5, 1, 2, main_of(1), 5), // To itself: that much is free again.
        release(6, 1, 2),
        release(7, 1, 2),
        capture(8, 1, 2, main_of(2), 1),
        capture(1, 1, 9, main_of(2), 1),
        hold(10, main_of(1), 70, 0),
        capture(1, 1, 10, main_of(2), 0), // All that is left.
        capture(2, 1, 10, main_of(2), 0),
    ]);
    let wanted = [
        (InsufficientFunds, 0),
        (Ok, 70),
        (InsufficientFunds, 0),
        (InsufficientFunds, 0),
        (InsufficientFunds, 0),
        (Ok, 20),
        (WrongState, 0),
        (UnknownAccount, 0),
        (Ok, 10),
        (AlreadyDone, 10),
        (IdReused, 0),
        (Ok, 5),
        (Ok, 35),
        (WrongState, 0),
        (WrongState, 0),
        (UnknownAccount, 0),
        (Ok, 70),
        (Ok, 70),
        (WrongState, 0),
    ];
    assert_eq!(told(&replies[3..]), wanted);
    assert_eq!(balance_of(&shard, 1, AccountKind::Main), 0);
    assert_eq!(balance_of(&shard, 2, AccountKind::Main), 90);
}

#[test]
fn a_hold_ends_with_its_deadline() {
    let (shard, replies, _) = check(&[
        account(1, 100),
        hold(1, main_of(1), 10, 10),
        hold(2, main_of(1), 20, 10),
        hold(3, main_of(1), 30, 5),
        wait(9),
        hold(4, main_of(1), 1, 9),
        Command::Due,
        capture(1, 1, 1, CLEARING, 4),
        capture(1, 1, 2, CLEARING, 20), // Nothing is left of it, nor of its timer.
        wait(1),
        capture(2, 1, 1, CLEARING, 1), // Too late, though its timer hasn't fired.
        release(3, 1, 1),
        Command::Timer { kind: TimerKind::Order, party: Party(1), id: 1, due: at(10) },
        Command::Due,
        Command::Due,
    ]);
    let wanted = [
        (Ok, 10),
        (Ok, 20),
        (Ok, 30),
        (WrongState, 0),
        (Ok, 30),
        (Ok, 4),
        (Ok, 20),
        (WrongState, 0),
        (WrongState, 0),
        (Invalid, 0),
        (Ok, 6),
    ];
    assert_eq!(told(&replies[1..]), wanted);
    let View::Hold(view) = shard.query(Query::Hold(Party(1), ChangeId(1))) else {
        panic!("it is kept");
    };
    assert_eq!((view.amount, view.left), (Amount(10), Amount(0)));
    assert_eq!(shard.next_due(Realm::Live), None);
}

/// Orders before holds, and each in the order in which they came.
#[test]
fn orders_and_holds_that_are_due_at_once_have_an_order() {
    let (_, replies, _) = check(&[
        account(1, 100),
        item(5, 10, 9),
        hold(8, main_of(1), 2, 5),
        until(5, place(1, 1, Awaited, &[(5, 1)])),
        hold(7, main_of(1), 3, 5),
        wait(5),
        Command::Due,
        Command::Due,
        Command::Due,
        Command::Due,
    ]);
    assert_eq!(told(&replies[5..]), [(Ok, 0), (Ok, 2), (Ok, 3)]);
}

#[test]
fn an_account_may_go_below_zero_as_far_as_it_may() {
    let (shard, replies, _) = check(&[
        overdraft(1, 10, 5),
        item(5, 1, 99),
        place(1, 1, Balance, &[(5, 16)]),
        place(1, 2, Balance, &[(5, 15)]),
        set_overdraft(1, 1, 8),
        set_overdraft(1, 1, 8),
        set_overdraft(1, 1, 9),
        set_overdraft(1, 2, 9),
        hold(2, main_of(1), 4, 0),
        hold(3, main_of(1), 2, 0),
        // What is owed and held must stay within it: 5 owed and 2 held.
        set_overdraft(4, 1, 6),
        set_overdraft(5, 1, 7),
        hold(6, main_of(1), 1, 0),
        capture(1, 1, 3, CLEARING, 2),
        place(1, 3, Balance, &[(5, 1)]),
        transfer(7, CLEARING, main_of(1), 7),
        set_overdraft(8, 1, 0),
        hold(9, main_of(1), 1, 0),
    ]);
    let wanted = [
        (InsufficientFunds, 0),
        (Ok, 15),
        (Ok, 8),
        (AlreadyDone, 8),
        (IdReused, 0),
        (UnknownAccount, 0),
        (InsufficientFunds, 0),
        (Ok, 2),
        (WrongState, 0),
        (Ok, 7),
        (InsufficientFunds, 0),
        (Ok, 2),
        (InsufficientFunds, 0),
        (Ok, 7),
        (Ok, 0),
        (InsufficientFunds, 0),
    ];
    assert_eq!(told(&replies[2..]), wanted);
    assert_eq!(balance_of(&shard, 1, AccountKind::Main), 0);
}

#[test]
fn an_account_is_closed_when_nothing_of_it_is_outstanding() {
    let deposit = [awaited(4, 0), rest_until(0)];
    let commands = [
        account(1, 10),
        item(5, 5, 99),
        close(1, main_of(1)),
        hold(2, main_of(1), 10, 0),
        order(1, 1, &deposit, &[goods(5, 1)]),
        pay(1, 1, 1, Balance),
        release(1, 1, 2),
        pay(2, 1, 1, Balance),
        transfer(3, main_of(1), CLEARING, 6),
        close(4, main_of(1)), // The deposit may come back.
        cancel(3, 1, 1),
        close(5, main_of(1)),
        place(1, 2, Balance, &[(5, 1)]),
        transfer(7, CLEARING, main_of(1), 1),
        close(8, main_of(1)),
    ];
    let wanted = [
        Ok,
        Ok,
        WrongState,
        Ok,
        Ok,
        InsufficientFunds,
        Ok,
        Ok,
        Ok,
        WrongState,
        Ok,
        WrongState,
        InsufficientFunds,
        Ok,
        WrongState,
    ];
    assert_eq!(outcomes(&commands), wanted);
}

#[test]
fn a_closed_account_takes_and_gives_nothing() {
    let (shard, replies, _) = check(&[
        account(1, 10),
        item(5, 10, 99),
        place(1, 1, Balance, &[(5, 1)]),
        order(1, 2, &[awaited(0, 0), rest_until(0)], &[goods(5, 1)]),
        order(1, 3, &[balance(0), rest_until(0)], &[goods(5, 1)]),
        close(1, main_of(1)),
        close(1, main_of(1)),
        close(2, main_of(1)),
        account(1, 10),
        account(1, 11),
        transfer(3, CLEARING, main_of(1), 1),
        transfer(4, main_of(1), CLEARING, 1),
        hold(5, main_of(1), 1, 0),
        set_overdraft(6, 1, 1),
        place(1, 4, Balance, &[(5, 1)]),
        order(1, 5, &[external(10), balance(0)], &[goods(5, 1)]),
        pay(1, 1, 3, Balance),
        refund(1, 1, 1, &[]), // To suspense.
        cancel(2, 1, 3),
        transfer(7, SUSPENSE, CLEARING, 10),
    ]);
    let wanted = [
        (Ok, 0),
        (AlreadyDone, 0),
        (UnknownAccount, 0),
        (WrongState, 0),
        (IdReused, 0),
        (UnknownAccount, 0),
        (UnknownAccount, 0),
        (UnknownAccount, 0),
        (UnknownAccount, 0),
        (UnknownAccount, 0),
        (UnknownAccount, 0),
        (UnknownAccount, 0),
        (Ok, 10),
        (Ok, 0),
        (Ok, 10),
    ];
    assert_eq!(told(&replies[5..]), wanted);
    assert_eq!(balance_of(&shard, 1, AccountKind::Main), 0);
}

/// What is swept to a settlement account that was closed is booked to suspense.
#[test]
fn a_closed_settlement_account_gets_nothing() {
    let sell = |id| place(1, id, External, &[(5, 1)]);
    let (shard, replies, _) = check(&[
        item(5, 10, 99),
        close(1, SETTLEMENT),
        sell(1),
        wait(2 * STEP_MICROS),
        sweep(1),
        close(2, SETTLEMENT),
        transfer(3, SETTLEMENT, CLEARING, 10),
        close(4, SETTLEMENT),
        sell(2),
        wait(2 * STEP_MICROS),
        sweep(9),
        sweep(9),
        transfer(5, SETTLEMENT, CLEARING, 1),
    ]);
    let wanted = [
        (Ok, 0),
        (UnknownAccount, 0),
        (Ok, 10),
        (Ok, 10),
        (WrongState, 0),
        (Ok, 10),
        (Ok, 0),
        (Ok, 10),
        (Ok, 0),
        (Ok, 10),
        (UnknownAccount, 0),
    ];
    assert_eq!(told(&replies), wanted);
    assert_eq!(balance_of(&shard, SELLER.0, AccountKind::Settlement), 0);
    assert_eq!(balance_of(&shard, SELLER.0, AccountKind::Suspense), 10);
}

/// An account that came into being in passing, with a command that was invalid, is none.
#[test]
fn an_account_that_was_never_used_can_be_named_by_nothing() {
    let commands = [
        account(1, 10),
        transfer(1, main_of(1), SUSPENSE, 1),
        hold(2, SUSPENSE, 1, 0),
        close(3, SETTLEMENT),
    ];
    assert_eq!(outcomes(&commands), [Ok, UnknownAccount, UnknownAccount, UnknownAccount]);
}

/// Frames whose time would go back count as of the time that was.
#[test]
fn time_never_goes_back() {
    let mut writer = Writer::new(0);
    writer.apply(&[
        account(1, 100),
        item(5, 10, 99),
        until(10, place(1, 1, Awaited, &[(5, 1)])),
        hold(1, main_of(1), 10, 10),
        wait(2 * STEP_MICROS),
        place(1, 2, Balance, &[(5, 2)]),
    ]);
    let records = writer.replies.len();
    writer.now = at(0);
    writer.apply(&[
        pay(1, 1, 1, External),
        capture(1, 1, 1, CLEARING, 1),
        place(1, 3, Balance, &[(5, 1)]),
        refund(1, 1, 2, &[(0, 1)]),
        order(1, 4, &[NewLeg::Awaited(None, at(STEP_MICROS))], &[goods(5, 1)]),
        Command::Sweep { count: 9 },
    ]);
    writer.now = at(2 * STEP_MICROS);
    writer.apply(&[refund(2, 1, 2, &[]), refund(2, 1, 3, &[])]);
    let got: Vec<Outcome> = writer.replies[records..].iter().map(|reply| reply.outcome).collect();
    assert_eq!(got, [WrongState, WrongState, Ok, Ok, WrongState, Ok, Ok, Ok]);
    assert_sound(&writer.shard);
}
