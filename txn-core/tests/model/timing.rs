//! Windows, deadlines, limits, and when earnings can be paid out.

use model::record::{ItemUpdate, NewLeg, Sale};
use model::reply::{Query, View};
use model::{
    AccountKind, Amount, OrderId, OrderState, OrderView, Outcome, Party, PaymentMethod, Realm,
};

use crate::asked::*;
use crate::cases::outcomes;
use crate::check;
use crate::command::{Command, STEP_MICROS, at};
use crate::log::{Writer, header_of};

use Outcome::*;
use PaymentMethod::*;

fn price(price: u64) -> ItemUpdate {
    ItemUpdate { price: Some(Amount(price)), ..ItemUpdate::default() }
}

fn limit(limit: u32) -> ItemUpdate {
    ItemUpdate { limit: Some(limit), ..ItemUpdate::default() }
}

fn window(opens: u64, closes: u64) -> ItemUpdate {
    ItemUpdate { window: Some((at(opens), at(closes))), ..ItemUpdate::default() }
}

#[test]
fn a_sale_begins_with_its_first_microsecond_and_ends_before_its_last() {
    let buy = |id| place(1, id, External, &[(5, 1)]);
    let sale = Sale { opens: at(10), closes: at(20), limit: 0 };
    let commands = [
        sale_of(5, 10, 99, sale),
        wait(9),
        buy(1),
        wait(1),
        buy(2),
        wait(9),
        buy(3),
        wait(1),
        buy(4),
        update(1, 5, window(0, 21)),
        buy(5),
        wait(1),
        buy(6),
        update(2, 5, ItemUpdate { window: Some(Default::default()), ..ItemUpdate::default() }),
        buy(7),
        buy(4),
    ];
    let wanted = [
        Ok,
        SaleNotOpen,
        Ok,
        Ok,
        SaleNotOpen,
        Ok,
        Ok,
        SaleNotOpen,
        Ok,
        Ok,
        SaleNotOpen, // Final for its id.
    ];
    assert_eq!(outcomes(&commands), wanted);
}

#[test]
fn a_refusal_names_what_comes_first() {
    let commands = [
        account(1, 100),
        item(5, 10, 0),
        sale_of(6, 10, 9, at_most(1)),
        sale_of(7, 10, 9, Sale { opens: at(9), ..Sale::default() }),
        sale_of(4, 10, 9, at_most(2)),
        // No account before too late.
        order(2, 1, &[balance(1), NewLeg::Awaited(None, at(0))], &[goods(5, 1)]),
        // Too late before anything about lines.
        until(0, place(1, 2, Awaited, &[(99, 1)])),
        until(1, place(1, 3, Awaited, &[(99, 1), (7, 1)])),
        // A line before a later one.
        place(1, 4, Balance, &[(5, 100), (7, 1), (99, 1)]),
        // Money before limits, limits before units.
        place(1, 5, Balance, &[(6, 11)]),
        place(1, 6, Balance, &[(5, 1), (6, 1), (4, 3), (6, 1)]),
        place(1, 7, Balance, &[(5, 1), (6, 1)]),
    ];
    let (_, replies, _) = check(&commands);
    let got: Vec<_> = replies[5..].iter().map(|reply| (reply.outcome, reply.line)).collect();
    let wanted = [
        (UnknownAccount, None),
        (WrongState, None),
        (UnknownItem, Some(0)),
        (SaleNotOpen, Some(1)),
        (InsufficientFunds, None),
        (OverLimit, Some(2)), // The lowest item that passes its limit.
        (SoldOut, Some(0)),
    ];
    assert_eq!(got, wanted);
    assert_eq!(replies[6].state, Some(OrderState::Expired));
}

#[test]
fn an_order_is_paid_before_its_deadline_or_expires() {
    let commands = [
        account(1, 1_000),
        item(5, 10, 3),
        until(10, place(1, 1, Awaited, &[(5, 1)])),
        until(10, place(1, 2, Awaited, &[(5, 2)])),
        until(9, place(1, 3, Awaited, &[(5, 1)])), // Sold out, and no timer.
        wait(9),
        timer(1, 1, 10), // Not yet.
        pay(1, 1, 1, Balance),
        wait(1),
        pay(1, 1, 2, Balance),
        timer(1, 1, 10),
        timer(1, 2, 9),
        timer(2, 2, 10),
        cancel(2, 1, 1),
        Command::Due,
        Command::Due,
        timer(1, 2, 10), // Fired already.
        pay(1, 1, 2, Balance),
        pay(3, 1, 2, Balance),
        cancel(4, 1, 2),
        until(10, place(1, 2, Awaited, &[(5, 2)])),
        place(1, 4, Balance, &[(5, 2)]),
    ];
    let (_, replies, _) = check(&commands);
    let got: Vec<_> = replies[2..].iter().map(|reply| (reply.outcome, reply.state)).collect();
    let [reserved, paid, expired] =
        [OrderState::Reserved, OrderState::Paid, OrderState::Expired].map(Some);
    let wanted = [
        (Ok, reserved),
        (Ok, reserved),
        (SoldOut, Some(OrderState::Refused)),
        (Invalid, None),
        (Ok, paid),
        (WrongState, reserved), // Too late, though its timer hasn't fired.
        (Invalid, None),
        (Invalid, None),
        (Invalid, None),
        (WrongState, paid),
        (Ok, expired),
        (Invalid, None),
        (WrongState, reserved), // A refusal is final for its id.
        (WrongState, expired),
        (WrongState, expired),
        (AlreadyDone, expired),
        (Ok, paid),
    ];
    assert_eq!(got, wanted);
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines() {
    let waiting = |buyer, due| until(due, place(buyer, 1, Awaited, &[(5, 1)]));
    let mut commands = vec![item(5, 1, 99)];
    commands.extend([waiting(3, 7), waiting(2, 5), waiting(9, 6), waiting(1, 7), waiting(4, 8)]);
    // The cancelled one's timer is gone.
    commands.extend([cancel(1, 9, 1), wait(7), timer(3, 1, 7)]);
    commands.extend([Command::Due, Command::Due, Command::Due, Command::Due]);
    commands.extend([wait(1), Command::Due]);
    let (shard, replies, log) = check(&commands);
    assert_eq!(replies[7].outcome, Invalid, "another one is due before it");
    let buyers: Vec<u64> = model::record::Records::new(&log.records())
        .filter_map(Result::ok)
        .filter(|record| matches!(record.body, model::record::Body::Timer(_)))
        .map(|record| record.party().0)
        .collect();
    assert_eq!(buyers, [2, 3, 1, 4]);
    assert_eq!(shard.next_due(Realm::Live), None);
}

/// An order that is cancelled while it waits for units is recorded as that.
#[test]
fn a_withdrawn_order_is_over_and_found_as_it_was_sent() {
    let order = until(50, place(1, 1, Awaited, &[(5, 1)]));
    let commands = [
        account(1, 10),
        item(5, 10, 9),
        withdrawn(order.clone()),
        order.clone(),
        withdrawn(order.clone()),
        cancel(1, 1, 1),
        cancel(2, 1, 1),
        cancel(1, 1, 1),
        pay(3, 1, 1, Balance),
        refund(4, 1, 1, &[]),
        place(1, 1, Balance, &[(5, 1)]),
        withdrawn(place(1, 1, Balance, &[(5, 1)])),
        // Nothing of it is looked at.
        withdrawn(until(0, place(2, 1, Awaited, &[(99, 1)]))),
        // What was decided before can't be withdrawn.
        place(1, 2, Balance, &[(5, 1)]),
        withdrawn(place(1, 2, Balance, &[(5, 1)])),
    ];
    let (shard, replies, _) = check(&commands);
    let got: Vec<_> = replies[2..].iter().map(|reply| (reply.outcome, reply.state)).collect();
    let [cancelled, paid] = [OrderState::Cancelled, OrderState::Paid].map(Some);
    let wanted = [
        (WrongState, cancelled),
        (WrongState, cancelled),
        (WrongState, cancelled),
        (Ok, cancelled),
        (Ok, cancelled),
        (AlreadyDone, cancelled),
        (WrongState, cancelled),
        (WrongState, cancelled),
        (IdReused, None),
        (IdReused, None),
        (WrongState, cancelled),
        (Ok, paid),
        (AlreadyDone, paid),
    ];
    assert_eq!(got, wanted);
    let View::Order(OrderView { lines, outcome, .. }) =
        shard.query(Query::Order(Party(1), OrderId(1)))
    else {
        panic!("it is kept");
    };
    assert_eq!((lines.len(), outcome), (0, WrongState));
}

#[test]
fn a_limit_counts_all_that_a_buyer_has_and_ever_paid_for() {
    let commands = [
        account(1, 1_000),
        sale_of(5, 10, 99, at_most(3)),
        place(1, 1, Balance, &[(5, 1), (5, 1)]),
        place(1, 2, Awaited, &[(5, 2)]),
        place(2, 1, External, &[(5, 3)]),
        until(5, place(1, 3, Awaited, &[(5, 1)])),
        place(1, 4, Balance, &[(5, 1)]),
        wait(5),
        Command::Due,
        place(1, 5, Awaited, &[(5, 1)]),
        cancel(1, 1, 5),
        place(1, 6, Balance, &[(5, 1)]),
        refund(1, 1, 6, &[]),
        place(1, 7, Balance, &[(5, 1)]), // What was refunded counts.
        update(1, 5, limit(4)),
        place(1, 8, Balance, &[(5, 1)]),
        update(2, 5, limit(1)),
        place(1, 9, Balance, &[(5, 1)]),
        update(3, 5, limit(0)),
        place(1, 10, Balance, &[(5, 9)]),
    ];
    let wanted = [
        Ok, Ok, Ok, OverLimit, Ok, Ok, OverLimit, Ok, Ok, Ok, Ok, Ok, OverLimit, Ok, Ok, Ok,
        OverLimit, Ok, Ok,
    ];
    assert_eq!(outcomes(&commands), wanted);
}

/// Cancelling what never counted takes nothing back: else a buyer who reserved units while there
/// was no limit could have so many more than it allows.
#[test]
fn cancelling_an_order_from_before_a_limit_makes_no_room_under_it() {
    let commands = [
        item(5, 1, 99),
        place(1, 1, Awaited, &[(5, 3)]),
        update(1, 5, limit(2)),
        place(1, 2, Awaited, &[(5, 2)]),
        cancel(1, 1, 1),
        place(1, 3, Awaited, &[(5, 1)]),
        update(2, 5, limit(0)),
        cancel(1, 1, 2), // It counted, and does no longer, whatever the limit is now.
        update(3, 5, limit(2)),
        place(1, 4, Awaited, &[(5, 2)]),
    ];
    let wanted = [Ok, Ok, Ok, Ok, Ok, OverLimit, Ok, Ok, Ok, Ok];
    assert_eq!(outcomes(&commands), wanted);
}

#[test]
fn an_order_names_the_version_that_it_saw() {
    let commands = [
        item(5, 10, 99),
        place(1, 1, Awaited, &[(5, 1)]),
        update(1, 5, price(20)),
        place(1, 2, Awaited, &[(5, 1)]),
        update(1, 5, price(20)),
        update(1, 5, price(30)),
        restock(1, 5, 1), // The ids of an item's changes are its own.
        place(1, 3, Awaited, &[(5, 1)]),
        place(1, 1, Awaited, &[(5, 1)]),
    ];
    let (_, replies, log) = check(&commands);
    let got: Vec<Outcome> = replies.iter().map(|reply| reply.outcome).collect();
    assert_eq!(got, [Ok, Ok, Ok, Ok, AlreadyDone, IdReused, IdReused, Ok, AlreadyDone]);
    let mut seen = Vec::new();
    for record in model::record::Records::new(&log.records()).flatten() {
        if let model::record::Body::Place { lines, .. } = record.body {
            seen.push((lines[0].version.get(), lines[0].unit_price.get()));
        }
    }
    assert_eq!(seen, [(1, 10), (2, 20), (2, 20)]);
}

/// What the seller can pay out after each of the steps that follow a sale.
#[test]
fn earnings_are_pending_for_one_step_to_two() {
    let out = |id, amount| transfer(id, SETTLEMENT, main_of(1), amount);
    let step = STEP_MICROS;
    let commands = [
        account(1, 1_000),
        item(5, 10, 99),
        wait(step / 2 - 1), // The last microsecond of its step.
        place(1, 1, Balance, &[(5, 1)]),
        wait(1),
        sweep(2),
        sweep(2),
        place(1, 2, Balance, &[(5, 2)]),
        refund(1, 1, 1, &[]),
        place(1, 3, Balance, &[(5, 4)]),
        wait(step - 1),
        sweep(2),
        sweep(2),
        out(1, 1),
        wait(1),
        sweep(2),
        sweep(2), // The first sale's step and the next one are over; it was refunded.
        out(2, 1),
        wait(step - 1),
        sweep(2),
        sweep(2),
        out(3, 1),
        wait(1),
        sweep(2),
        sweep(2),
        out(4, 61),
        out(5, 60),
        // What was paid out is owed when it is refunded.
        refund(1, 1, 3, &[(0, 1)]),
        sweep(2),
        sweep(2),
        out(6, 1),
        place(1, 4, Balance, &[(5, 2)]),
        wait(2 * step),
        sweep(2),
        sweep(2),
        out(7, 11),
        out(8, 10),
    ];
    let (shard, replies, _) = check(&commands);
    // A sweep ends with the first account that gave something, so that it takes two to see all.
    let decided = commands.iter().filter(|command| !matches!(command, Command::Wait { .. }));
    let got: Vec<Outcome> = decided
        .zip(&replies)
        .filter(|(command, _)| !matches!(command, Command::Sweep { .. }))
        .map(|(_, reply)| reply.outcome)
        .collect();
    let wanted = [
        Ok,
        Ok,
        Ok,
        Ok,
        Ok,
        Ok,
        UnknownAccount,
        UnknownAccount,
        UnknownAccount,
        InsufficientFunds,
        Ok,
        Ok,
        InsufficientFunds,
        Ok,
        InsufficientFunds,
        Ok,
    ];
    assert_eq!(got, wanted);
    let View::Account(settled) = shard.query(Query::Account(SELLER, GBP, AccountKind::Settlement))
    else {
        panic!("it was swept to");
    };
    assert_eq!((settled.debits_posted.0, settled.credits_posted.0), (80, 80));
}

#[test]
fn a_sweep_goes_on_where_the_last_one_stopped() {
    let sellers = [7u64, 3, 9];
    let mut commands: Vec<Command> = Vec::new();
    for seller in sellers {
        commands.push(Command::CreateItem {
            item: model::ItemId(seller),
            seller: Party(seller),
            currency: GBP,
            price: Amount(seller),
            stock: 9,
            sale: Sale::default(),
        });
        commands.push(place(1, seller.into(), External, &[(seller, 1)]));
    }
    commands.extend([wait(2 * STEP_MICROS), sweep(1), sweep(1), sweep(9), sweep(2), sweep(2)]);
    let (shard, _, log) = check(&commands);
    let swept: Vec<u64> = model::record::Records::new(&log.records())
        .flatten()
        .filter_map(|record| match record.body {
            model::record::Body::Sweep(body) => Some(body.swept.get()),
            _ => None,
        })
        .collect();
    assert_eq!(swept, [1, 1, 1, 0, 0]);
    let now = at(2 * STEP_MICROS);
    assert!(!shard.wants_sweep(Realm::Live, now));
    assert!(shard.wants_sweep(Realm::Live, at(3 * STEP_MICROS)));
}

/// Whoever was swept before the step began has not been swept in it.
#[test]
fn a_sweep_that_a_step_cuts_in_two_is_made_again() {
    let mut commands = vec![item(5, 10, 9), sale_of(6, 10, 9, Sale::default())];
    if let Command::CreateItem { seller, .. } = &mut commands[1] {
        *seller = Party(7);
    }
    commands.extend([place(1, 1, External, &[(5, 1), (6, 1)])]);
    commands.extend([wait(STEP_MICROS), sweep(1), wait(STEP_MICROS), sweep(9), sweep(9)]);
    let (shard, _, _) = check(&commands);
    assert!(!shard.wants_sweep(Realm::Live, at(STEP_MICROS)));
    assert!(shard.wants_sweep(Realm::Live, at(2 * STEP_MICROS)));
    let (shard, _, _) = check(&[&commands[..], &[sweep(9), sweep(9)]].concat());
    assert!(!shard.wants_sweep(Realm::Live, at(2 * STEP_MICROS)));
}

/// A seller's earnings leave by sweeps alone.
#[test]
fn no_transfer_names_a_payable_account() {
    let payable = (SELLER, AccountKind::Payable);
    for (debit, credit) in [(payable, main_of(1)), (main_of(1), payable)] {
        let mut writer = Writer::new(0);
        writer.apply(&[account(1, 100), item(5, 10, 9), place(1, 1, Balance, &[(5, 2)])]);
        let before = writer.shard.state_hash();
        let bytes = transfer(1, debit, credit, 1).bytes();
        writer.try_apply(&bytes, 1).unwrap_err();
        assert_eq!(writer.shard.state_hash(), before);
    }
}

/// Frames may have the same time, and commands of one frame share it.
#[test]
fn frames_of_the_same_time_follow_each_other() {
    let commands = [
        item(5, 10, 9),
        until(5, place(1, 1, Awaited, &[(5, 1)])),
        wait(5),
        Command::Due,
        wait(0),
        pay(1, 1, 1, External),
        until(6, place(1, 2, Awaited, &[(5, 1)])),
        wait(0),
        pay(1, 1, 2, External),
    ];
    let (shard, replies, log) = check(&commands);
    let got: Vec<Outcome> = replies.iter().map(|reply| reply.outcome).collect();
    assert_eq!(got, [Ok, Ok, Ok, WrongState, Ok, Ok]);
    let times: Vec<u64> = log.frames().map(|frame| frame.place().time.0 - at(0).0).collect();
    assert_eq!(times, [0, 5, 5, 5]);
    assert_eq!(log.replay(3).state_hash(), shard.state_hash());
}

/// A realm that was only asked for what can't be is no different from one that was never named.
#[test]
fn an_invalid_command_makes_no_realm() {
    let mut writer = Writer::new(0);
    writer.apply(&[item(5, 10, 9)]);
    let before = writer.shard.state_hash();
    let mut bytes = timer(1, 1, 0).bytes();
    header_of(&mut bytes).realm = Realm::Drill as u8;
    writer.apply_bytes(&bytes, 1);
    assert_eq!(writer.replies[1].outcome, Invalid);
    assert_eq!(writer.shard.state_hash(), before);
}
