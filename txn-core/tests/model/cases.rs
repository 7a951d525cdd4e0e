//! What single commands come to, where it matters enough to have a name.

use model::frame::FrameBuilder;
use model::money::STOCK_MAX;
use model::record::{LINES_MAX, Records, Sale, place_mut, refund_mut, set_statements, sweep_mut};
use model::{Amount, ItemId, Offset, OrderState, Outcome, Party, PaymentMethod, Quantity};
use txn_core::{Shard, SpareRegions};

use crate::asked::*;
use crate::check;
use crate::command::{Command, START, bytes_of};
use crate::log::{Writer, header_of, seat};

/// The outcomes of a sequence that the model agrees with.
pub fn outcomes(commands: &[Command]) -> Vec<Outcome> {
    check(commands).1.iter().map(|reply| reply.outcome).collect()
}

#[test]
fn a_refusal_is_final_for_its_id() {
    use Outcome::*;
    use PaymentMethod::*;
    let refused = place(1, 1, Balance, &[(5, 2), (5, 2)]);
    let commands = [
        account(1, 100),
        item(5, 10, 3),
        refused.clone(),
        pay(1, 1, 2, Balance),
        restock(1, 5, 10),
        refused,
        place(1, 2, Awaited, &[(5, 2), (5, 2)]),
        pay(1, 1, 2, Balance),
        pay(2, 1, 2, Balance),
        cancel(3, 1, 2),
    ];
    let (_, replies, _) = check(&commands);
    let got: Vec<_> = replies.iter().map(|reply| (reply.outcome, reply.line)).collect();
    assert_eq!(
        got,
        [
            (Ok, None),
            (Ok, None),
            (SoldOut, Some(0)), // Four units of three, on two lines.
            (UnknownOrder, None),
            (Ok, None),
            (SoldOut, Some(0)),
            (Ok, None),
            (UnknownOrder, None),
            (Ok, None),
            (WrongState, None),
        ]
    );
    assert_eq!(replies[8].amount, Amount(40));
    assert_eq!(replies[9].state, Some(OrderState::Paid));
}

#[test]
fn a_refund_counts_a_line_named_twice_as_a_sum() {
    use Outcome::*;
    let commands = [
        account(1, 100),
        item(5, 10, 9),
        place(1, 1, PaymentMethod::Balance, &[(5, 3), (5, 2)]),
        refund(1, 1, 1, &[(0, 2), (1, 1), (0, 2)]),
        refund(2, 1, 1, &[(0, 1), (1, 1), (0, 2)]),
        refund(3, 1, 1, &[(0, 1)]),
        refund(4, 1, 1, &[]),
        refund(5, 1, 1, &[]),
        cancel(4, 1, 1),
        refund(4, 1, 1, &[]),
    ];
    let (_, replies, _) = check(&commands);
    let got: Vec<_> = replies[3..]
        .iter()
        .map(|reply| (reply.outcome, reply.line, reply.state, reply.amount.0))
        .collect();
    let (paid, partly, all) =
        (Some(OrderState::Paid), Some(OrderState::PartlyRefunded), Some(OrderState::Refunded));
    assert_eq!(
        got,
        [
            (WrongState, Some(2), paid, 0),
            (Ok, None, partly, 40),
            (WrongState, Some(0), partly, 0),
            (Ok, None, all, 10),
            (WrongState, None, all, 0),
            (IdReused, None, None, 0),
            (AlreadyDone, None, all, 10),
        ]
    );
}

#[test]
fn the_longest_order_is_placed_and_refunded() {
    let longest = vec![(5, 1); LINES_MAX];
    let mut one_more = longest.clone();
    one_more[LINES_MAX - 1].1 = 2;
    let lines: Vec<(u16, u32)> = (0..LINES_MAX as u16).rev().map(|line| (line, 1)).collect();
    let commands = [
        item(5, Amount::MAX.0 / (LINES_MAX as u64 + 1), LINES_MAX as u64),
        place(1, 1, PaymentMethod::External, &one_more),
        place(1, 2, PaymentMethod::External, &longest),
        refund(1, 1, 2, &lines),
        place(1, 3, PaymentMethod::Awaited, &longest),
    ];
    use Outcome::*;
    assert_eq!(outcomes(&commands), [Ok, SoldOut, Ok, Ok, Ok]);
}

/// A total is at most `Amount::MAX`; what passes it is as if it had never been asked.
#[test]
fn a_total_stops_at_its_bound() {
    use Outcome::*;
    use PaymentMethod::*;
    let commands = [
        account(1, Amount::MAX.0),
        item(5, Amount::MAX.0, 10),
        item(6, 1, 10),
        item(7, Amount::MAX.0, STOCK_MAX),
        place(1, 1, Balance, &[(5, 1), (6, 1)]),
        place(1, 1, Balance, &[(7, Quantity::MAX.0)]),
        place(1, 1, Balance, &[(5, 1)]),
        place(1, 2, Balance, &[(6, 1)]),
    ];
    assert_eq!(outcomes(&commands), [Ok, Ok, Ok, Ok, Invalid, Invalid, Ok, InsufficientFunds]);
}

#[test]
fn bytes_that_are_no_command_stop_the_batch_and_change_nothing() {
    let commands = [account(1, 100), item(5, 10, 3)];
    let (wanted, _, _) = check(&commands);
    let torn = place(1, 1, PaymentMethod::Balance, &[(5, 1)]).bytes();
    let bytes = [&bytes_of(&commands), &torn[..torn.len() - 8]].concat();
    let (mut frame, mut replies) = (FrameBuilder::default(), Vec::new());
    let mut shard = Shard::new(seat(), 0, SpareRegions::default());
    shard.apply(START, &mut Records::new(&bytes), &mut frame, &mut replies).unwrap_err();
    assert_eq!((replies.len(), frame.count()), (2, 2));
    assert_eq!(shard.state_hash(), wanted.state_hash());
}

/// Also where it made a table's row in passing: a replay of the log, which hasn't seen it, comes
/// to the same state.
#[test]
fn an_invalid_command_leaves_nothing_behind() {
    use Outcome::*;
    let other_seller = Command::CreateItem {
        item: ItemId(6),
        seller: Party(901),
        currency: GBP,
        price: Amount(1),
        stock: 1,
        sale: Sale::default(),
    };
    let commands = [
        item(5, Amount::MAX.0, 2),
        place(1, 1, PaymentMethod::External, &[(5, 2)]),
        other_seller,
        place(1, 1, PaymentMethod::External, &[(5, 1)]),
    ];
    let (shard, replies, log) = check(&commands);
    let outcomes: Vec<Outcome> = replies.iter().map(|reply| reply.outcome).collect();
    assert_eq!(outcomes, [Ok, Invalid, Ok, Ok]);
    assert_eq!(log.replay(8).state_hash(), shard.state_hash());
}

/// Tables look at 32 bits of a key's hash first. Of so many keys some pairs share them.
#[test]
fn keys_whose_hashes_collide_are_told_apart() {
    const KEYS: u64 = 250_000;
    let kinds: [fn(u64) -> Command; 5] = [
        |n| account(n, 1),
        |n| item(n, 1, 1),
        |n| place(0, n.into(), PaymentMethod::Balance, &[(0, 2)]),
        |n| pay(n.into(), 1, 1, PaymentMethod::Balance),
        |n| transfer(n.into(), main_of(KEYS), SETTLEMENT, 1),
    ];
    let mut writer = Writer::new(0);
    // Neighbours hardly ever collide; numbers all over the range do.
    let keys: Vec<u64> = (1..=KEYS).map(|n| (n * n).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    for kind in kinds {
        for some in keys.chunks(1_000) {
            writer.apply(&some.iter().map(|&n| kind(n)).collect::<Vec<_>>());
        }
    }
    for (offset, reply) in (1..).zip(&writer.replies) {
        assert_eq!(reply.offset, Some(Offset(offset)), "{reply:?}");
    }
}

/// The nil id is an order's id like any other: its records form a chain too.
#[test]
fn an_order_with_the_nil_id_has_its_history() {
    use PaymentMethod::*;
    check(&[
        account(1, 100),
        item(5, 10, 9),
        place(1, 0, Awaited, &[(5, 2)]),
        pay(1, 1, 0, Balance),
        refund(2, 1, 0, &[(0, 1)]),
        refund(3, 1, 0, &[]),
        place(1, 0, Awaited, &[(5, 2)]),
    ]);
}

/// The outcome fields of a command are the core's to write. A command that comes with one of
/// them filled in is refused as bytes that are no command, or decided as if it were zero: the
/// log must lead back to the state either way.
#[test]
fn what_a_command_says_of_its_outcome_is_no_part_of_it() {
    use PaymentMethod::*;
    type Fill = fn(&mut [u8]);
    let fills: [(&str, Command, Fill); 15] = [
        ("statement", cancel(1, 1, 1), |bytes| header_of(bytes).statement = 1.into()),
        ("credit statement", transfer(1, main_of(1), CLEARING, 1), |bytes| {
            set_statements(bytes, 0, 1);
        }),
        ("captured credit statement", capture(1, 1, 1, CLEARING, 1), |bytes| {
            set_statements(bytes, 0, 1);
        }),
        ("swept seller", sweep(1), |bytes| sweep_mut(bytes).seller = 1.into()),
        ("swept currency", sweep(1), |bytes| sweep_mut(bytes).currency = 826.into()),
        ("outcome", cancel(1, 1, 1), |bytes| header_of(bytes).outcome = 1),
        ("state", cancel(1, 1, 1), |bytes| header_of(bytes).state = 1),
        ("previous", cancel(1, 1, 1), |bytes| header_of(bytes).previous = 1.into()),
        ("amount", cancel(1, 1, 1), |bytes| header_of(bytes).amount = 1.into()),
        ("refused line", place(1, 2, Awaited, &[(5, 2)]), |bytes| {
            place_mut(bytes).order.refused_line = 1.into();
        }),
        ("leg amount", place(1, 2, Awaited, &[(5, 2)]), |bytes| {
            place_mut(bytes).legs[0].amount = 1.into();
        }),
        ("list price", place(1, 2, Awaited, &[(5, 2)]), |bytes| {
            place_mut(bytes).lines[0].unit_price = 1.into();
        }),
        ("line version", place(1, 2, Awaited, &[(5, 2)]), |bytes| {
            place_mut(bytes).lines[0].version = 1.into();
        }),
        ("swept", sweep(1), |bytes| sweep_mut(bytes).swept = 1.into()),
        ("refused refund line", refund(1, 1, 1, &[(0, 1)]), |bytes| {
            refund_mut(bytes).refused_line = 1.into();
        }),
    ];
    for (field, command, fill) in fills {
        let mut writer = Writer::new(0);
        writer.apply(&[account(1, 100), item(5, 10, 9), place(1, 1, Awaited, &[(5, 2)])]);
        let before = writer.shard.state_hash();
        let mut bytes = command.bytes();
        fill(&mut bytes);
        let refused = writer.try_apply(&bytes, 1).is_err();
        let (shard, _, log) = writer.finish();
        println!("{field}: {}", if refused { "refused" } else { "decided" });
        assert!(!refused || shard.state_hash() == before);
        assert_eq!(log.replay(1).state_hash(), shard.state_hash());
    }
}
