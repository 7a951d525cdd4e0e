//! What a shard keeps in memory of everything that there can be millions of.
//!
//! Indexes grow in steps, so each figure is the mean over several sizes from one doubling to the
//! next, and the least and the most are said with it.

use model::frame::FrameBuilder;
use model::record::{CommandBuffer, Coupon, Sale};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, OrderId, Party, PaymentMethod, Quantity, Time,
};
use txn_core::{Seat, Shard, SpareRegions};

use super::parts::apply_all;
use super::table::thousands;
use crate::run::Failure;

/// Rows at which the state is weighed: from a million to two.
const SIZES: [u64; 5] = [1_000_000, 1_200_000, 1_400_000, 1_700_000, 2_000_000];
const BATCH: u64 = 1_000;
/// More of an item, and in an account, than is ever asked for.
const AMPLE: u64 = 1 << 40;
const BUYER: Party = Party(1);
const ITEM: ItemId = ItemId(1);

type Add = fn(&mut CommandBuffer, u64);

/// A table, by what there is one more of.
pub(super) fn measure() -> Result<String, Failure> {
    let kinds: [(&str, Add); 8] = [
        ("account", |commands, n| {
            commands.create_account(Party(n + 2), Currency::GBP, Amount(1));
        }),
        ("item, on its home shard", |commands, n| {
            commands.create_item(
                ItemId(n + 2),
                BUYER,
                Currency::GBP,
                Amount(1),
                1,
                Sale::default(),
            );
        }),
        ("open order of one line", |commands, n| order(commands, n, PaymentMethod::Awaited, 1)),
        ("open order of four lines", |commands, n| order(commands, n, PaymentMethod::Awaited, 4)),
        ("paid order of one line", |commands, n| order(commands, n, PaymentMethod::Balance, 1)),
        ("id of a transfer", |commands, n| {
            let (debit, credit) = ((BUYER, AccountKind::Main), (Party(0), AccountKind::Clearing));
            commands.transfer(ChangeId(id(n)), debit, credit, Currency::GBP, Amount(1));
        }),
        ("hold", |commands, n| {
            let account = (BUYER, AccountKind::Main);
            commands.hold(ChangeId(id(n)), account, Currency::GBP, Amount(1), Time(0));
        }),
        ("coupon", |commands, n| {
            let coupon = Coupon {
                funder: BUYER,
                seller: None,
                currency: Currency::GBP,
                amount: Amount(1),
                minimum: Amount(0),
                expires: Time(0),
            };
            commands.issue_coupon(BUYER, n + 1, &coupon);
        }),
    ];
    let mut text = String::from("\n| | bytes, mean | least, most |\n|---|---|---|\n");
    for (name, add) in kinds {
        let weights = weigh(add).map_err(|error| format!("{name}: {error}"))?;
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        let least = weights.iter().copied().fold(f64::INFINITY, f64::min);
        let most = weights.iter().copied().fold(0.0, f64::max);
        text.push_str(&format!("| {name} | {mean:.0} | {least:.0}, {most:.0} |\n"));
    }
    let [least, .., most] = SIZES.map(thousands);
    text.push_str(&format!(
        "\nTables and their indexes, with {least} to {most} of each on a shard. Spread over \
         shards, each has its part; of an item every shard has a row.\n"
    ));
    Ok(text)
}

/// Bytes of one, at each size.
fn weigh(add: Add) -> Result<Vec<f64>, Failure> {
    let mut shard = Shard::new(Seat::alone(), 1, SpareRegions::default());
    let (mut frame, mut replies) = (FrameBuilder::default(), Vec::new());
    let mut commands = CommandBuffer::default();
    commands.create_account(BUYER, Currency::GBP, Amount(AMPLE));
    commands.create_item(ITEM, BUYER, Currency::GBP, Amount(1), AMPLE, Sale::default());
    apply_all(&mut shard, &commands, &mut frame, &mut replies)?;
    let before = shard.bytes();
    let (mut next, mut weights) = (0, Vec::new());
    for size in SIZES {
        while next < size {
            commands.clear();
            (next..next + BATCH).for_each(|n| add(&mut commands, n));
            apply_all(&mut shard, &commands, &mut frame, &mut replies)?;
            next += BATCH;
        }
        weights.push((shard.bytes() - before) as f64 / size as f64);
    }
    Ok(weights)
}

fn order(commands: &mut CommandBuffer, n: u64, method: PaymentMethod, lines: u64) {
    let mut place = commands.place();
    (0..lines).for_each(|_| place.line(ITEM, Quantity(1), None));
    place.finish(BUYER, OrderId(id(n)), Currency::GBP, method);
}

/// An id of version 7.
fn id(n: u64) -> u128 {
    0x0189_0a5d_ac96_7000_8000_0000_0000_0000 | u128::from(n)
}
