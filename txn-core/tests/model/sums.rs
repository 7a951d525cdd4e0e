//! Where sums end.

use std::collections::BTreeMap;

use model::money::STOCK_MAX;
use model::record::entry::UNITS_MAX;
use model::reply::{Query, View};
use model::{AccountKind, Amount, Outcome, PaymentMethod, Realm};

use crate::asked::*;
use crate::command::STEP_MICROS;
use crate::log::{Writer, assert_sound};
use crate::shadow::Model;

/// No sum of an account passes 64 bits, and no stock its bound: what would is invalid, and asked
/// for in another way under the same id it is done. What can't be booked where it belongs when
/// it is swept is booked to suspense.
#[test]
fn sums_stop_at_their_bounds() {
    use PaymentMethod::*;
    const MAX: u64 = Amount::MAX.0;
    /// So often the largest amount fits, and then this much.
    const TIMES: u64 = u64::MAX / MAX;
    const REST: u64 = u64::MAX % MAX;
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
