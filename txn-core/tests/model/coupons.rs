//! Coupons: what they are worth, who pays for them, and that each is used once.

use model::record::{Coupon, NewLeg};
use model::reply::{Query, View};
use model::{AccountKind, Amount, LineKind, Outcome, Party, PaymentMethod};
use txn_core::Shard;

use crate::asked::*;
use crate::cases::outcomes;
use crate::check;
use crate::command::{Command, STEP_MICROS, at, yen};
use crate::legs::balance_of;

use Outcome::*;
use PaymentMethod::*;

const PAID: NewLeg = NewLeg::External(None);

fn with_coupon(id: u128, number: u64, units: u32) -> Command {
    order(1, id, &[NewLeg::Coupon(number), PAID], &[goods(5, units)])
}

fn is_used(shard: &Shard, number: u64) -> bool {
    match shard.query(Query::Coupon(Party(1), number)) {
        View::Coupon(coupon) => coupon.used,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_coupon_is_issued_once() {
    let commands = [
        issue(1, 0, coupon(5)),
        issue(1, 0, coupon(5)),
        issue(1, 0, coupon(6)),
        issue(2, 0, coupon(6)),
        issue(1, u64::MAX, coupon(6)),
        item(5, 10, 99),
        with_coupon(1, 0, 1),
        issue(1, 0, coupon(5)), // Used or not.
    ];
    assert_eq!(outcomes(&commands), [Ok, AlreadyDone, IdReused, Ok, Ok, Ok, Ok, AlreadyDone]);
}

#[test]
fn a_coupon_is_used_once_and_comes_back_when_its_order_ends() {
    let wait_for =
        |id, until| order(1, id, &[NewLeg::Coupon(7), rest_until(until)], &[goods(5, 1)]);
    let commands = [
        item(5, 10, 99),
        issue(1, 7, coupon(4)),
        wait_for(1, 10),
        with_coupon(2, 7, 1),
        cancel(1, 1, 1),
        wait_for(3, 10),
        with_coupon(4, 7, 1),
        wait(10),
        Command::Due,
        with_coupon(5, 7, 1),
        with_coupon(6, 7, 1),
        refund(1, 1, 5, &[]), // The funder gets its money back, the buyer not the coupon.
        with_coupon(7, 7, 1),
        order(1, 8, &[NewLeg::Coupon(8), NewLeg::Coupon(8), PAID], &[goods(5, 1)]),
    ];
    let (shard, replies, _) = check(&commands);
    let got: Vec<Outcome> = replies.iter().map(|reply| reply.outcome).collect();
    let wanted = [
        Ok,
        Ok,
        Ok,
        WrongState,
        Ok,
        Ok,
        WrongState,
        Ok,
        Ok,
        WrongState,
        Ok,
        WrongState,
        UnknownAccount,
    ];
    assert_eq!(got, wanted);
    assert!(is_used(&shard, 7));
    assert_eq!(balance_of(&shard, 0, AccountKind::Funding), 0);
}

#[test]
fn the_same_coupon_twice_is_no_way_to_pay() {
    let commands = [
        item(5, 10, 99),
        issue(1, 7, coupon(4)),
        order(1, 1, &[NewLeg::Coupon(7), NewLeg::Coupon(7), PAID], &[goods(5, 1)]),
        with_coupon(2, 7, 1),
    ];
    assert_eq!(outcomes(&commands), [Ok, Ok, WrongState, Ok]);
}

/// An order that is refused or waits for no coupon leaves it as it was.
#[test]
fn a_refused_order_uses_no_coupon() {
    let commands = [
        account(1, 1),
        item(5, 10, 9),
        issue(1, 7, coupon(4)),
        with_coupon(1, 7, 99),
        order(1, 2, &[NewLeg::Coupon(7), NewLeg::Balance(None)], &[goods(5, 1)]),
        order(1, 3, &[NewLeg::Coupon(7), external(5)], &[goods(5, 1)]),
        order(1, 4, &[NewLeg::Coupon(7), external(7)], &[goods(5, 1)]),
        with_coupon(5, 7, 1),
    ];
    let wanted = [Ok, Ok, Ok, SoldOut, InsufficientFunds, PriceMismatch, PriceMismatch, Ok];
    assert_eq!(outcomes(&commands), wanted);
}

#[test]
fn a_coupon_pays_for_the_lines_it_is_good_for_and_no_more() {
    let of_seller = |seller, amount, minimum| Coupon {
        seller: Some(Party(seller)),
        minimum: Amount(minimum),
        ..coupon(amount)
    };
    let lines = [goods(5, 1), less(3, paid_to(3, goods(5, 1))), charge(LineKind::Shipping, 3, 2)];
    let buy = |id, number| order(1, id, &[NewLeg::Coupon(number), PAID], &lines);
    let commands = [
        item(5, 10, 99),
        issue(1, 1, of_seller(SELLER.0, 99, 0)),
        issue(1, 2, of_seller(3, 99, 9)),
        issue(1, 3, of_seller(3, 99, 10)),
        issue(1, 4, of_seller(4, 99, 0)), // Good for nothing here, and not used.
        issue(1, 5, coupon(99)),
        issue(1, 6, Coupon { minimum: Amount(20), ..coupon(1) }),
        buy(1, 1),
        buy(2, 2),
        buy(3, 3),
        buy(4, 4),
        buy(5, 5),
        buy(6, 6),
        // What is left for the second one.
        issue(1, 8, coupon(15)),
        issue(1, 9, coupon(15)),
        issue(1, 10, coupon(15)),
        order(
            1,
            7,
            &[NewLeg::Coupon(8), NewLeg::Coupon(9), NewLeg::Coupon(10), awaited(0, 0)],
            &lines,
        ),
    ];
    let (shard, replies, _) = check(&commands);
    let got: Vec<Outcome> = replies[7..13].iter().map(|reply| reply.outcome).collect();
    assert_eq!(got, [Ok, Ok, WrongState, Ok, Ok, WrongState]);
    assert_eq!(
        [1, 2, 3, 4, 5, 6].map(|number| is_used(&shard, number)),
        [true, true, false, false, true, false]
    );
    assert_eq!([8, 9, 10].map(|number| is_used(&shard, number)), [true, true, false]);
    // 10, 9 and 19 for three orders, and 19 for the last one.
    assert_eq!(balance_of(&shard, 0, AccountKind::Funding), -(10 + 9 + 19 + 19));
    // Though nothing of it is left to be paid, what is awaited has to be confirmed.
    assert_eq!(balance_of(&shard, 1, AccountKind::Deposit), 19);
}

#[test]
fn a_coupon_is_good_before_it_expires_and_in_its_currency() {
    let commands = [
        item(5, 10, 99),
        issue(1, 1, Coupon { expires: at(10), ..coupon(4) }),
        issue(1, 2, Coupon { expires: at(10), ..coupon(4) }),
        issue(1, 3, Coupon { currency: yen(), ..coupon(4) }),
        with_coupon(1, 3, 1),
        wait(9),
        with_coupon(2, 1, 1),
        wait(1),
        with_coupon(3, 2, 1),
        with_coupon(4, 9, 1),
    ];
    let wanted = [Ok, Ok, Ok, Ok, CurrencyMismatch, Ok, WrongState, UnknownAccount];
    assert_eq!(outcomes(&commands), wanted);
}

/// What coupons cost is swept to whoever funds them, and what comes back likewise.
#[test]
fn a_funder_owes_what_its_coupons_paid() {
    let commands = [
        item(5, 10, 99),
        issue(1, 1, Coupon { funder: SELLER, ..coupon(4) }),
        issue(1, 2, Coupon { funder: Party(3), ..coupon(6) }),
        order(1, 1, &[NewLeg::Coupon(1), NewLeg::Coupon(2)], &[goods(5, 1)]),
        wait(2 * STEP_MICROS),
        sweep(9),
        sweep(9),
        sweep(9),
        refund(1, 1, 1, &[]),
        sweep(9),
        sweep(9),
        sweep(9),
        sweep(9),
        sweep(9),
    ];
    let (shard, replies, _) = check(&commands);
    let moved: Vec<u64> = replies[4..7].iter().map(|reply| reply.amount.0).collect();
    assert_eq!(moved, [4, 6, 10]);
    let settled = [SELLER.0, 3].map(|of| balance_of(&shard, of, AccountKind::Settlement));
    assert_eq!(settled, [0, 0]);
    let funding = [SELLER.0, 3].map(|of| balance_of(&shard, of, AccountKind::Funding));
    assert_eq!(funding, [0, 0]);
}

/// A command that is neither logged nor remembered lists no account: a sweep of the log executed
/// again would look at others.
#[test]
fn an_order_that_is_invalid_lists_nobody_to_be_swept() {
    const MAX: u64 = Amount::MAX.0;
    let legs = [NewLeg::Coupon(1), PAID];
    let lines = [paid_to(77, goods(5, 1)), agreed(MAX, goods(5, 2))];
    let commands = [
        item(5, 10, 99),
        item(6, 10, 99),
        issue(1, 1, Coupon { funder: Party(78), ..coupon(4) }),
        order(1, 1, &legs, &lines),
        order(1, 2, &legs, &[charge(LineKind::Fee, 79, 1), goods(5, 1_000)]),
        place(1, 3, External, &[(5, 1)]),
        order(1, 4, &[PAID], &[paid_to(80, goods(6, 1))]),
        wait(2 * STEP_MICROS),
        sweep(1),
        sweep(1),
        sweep(1),
        sweep(1),
    ];
    let (shard, replies, log) = check(&commands);
    assert_eq!(replies[3].outcome, Invalid);
    assert_eq!(replies[4].outcome, SoldOut);
    assert_eq!(log.replay(8).state_hash(), shard.state_hash());
    let swept: Vec<u64> = replies[7..].iter().map(|reply| reply.amount.0).collect();
    assert_eq!(swept, [10, 10, 0, 0]);
}
