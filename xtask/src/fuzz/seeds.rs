//! What a search starts from: a little of everything that a target takes.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use model::frame::{FrameBuilder, FramePlace};
use model::record::entry::{Entry, StockOp, Units};
use model::record::{CommandBuffer, ItemUpdate, RULE_VERSION, RefundLine, Sale, StreamPlace};
use model::{
    AccountKind, Amount, ChangeId, Currency, Epoch, ItemId, Offset, OrderId, Party, PaymentMethod,
    Quantity, ShardId, Time,
};

use super::Target;

/// A body for every kind of request, which its first byte says, with two of what it may have many.
const BODIES: &[&str] = &[
    r#"a{"buyer":42,"id":"01890a5d-ac96-774b-bcce-b302099a8057","currency":"GBP","payment":"balance","lines":[{"item":7,"quantity":2},{"item":"8","quantity":1,"unit_price":5}]}"#,
    r#"b{"orders":[{"buyer":42,"id":"01890a5d-ac96-774b-bcce-b302099a8057","currency":"GBP","payment":"await","deadline_ms":9,"lines":[{"item":7,"quantity":2}]},{"buyer":43,"id":"01890a5d-ac96-774b-bcce-b302099a8058","currency":"JPY","payment":"external","lines":[{"item":8,"quantity":1}]}]}"#,
    r#"c{"party":42,"currency":"GBP","balance":10000}"#,
    r#"d{"accounts":[{"party":42,"currency":"GBP","balance":10000},{"party":43,"currency":"JPY"}]}"#,
    r#"e{"item":7,"seller":900,"currency":"GBP","price":1250,"stock":3,"opens_ms":1,"closes_ms":9,"limit":2}"#,
    r#"f{"items":[{"item":7,"seller":900,"currency":"GBP","price":1250,"stock":3},{"item":8,"seller":900,"currency":"GBP","price":0}]}"#,
    r#"g{"id":"01890a5d-ac96-774b-bcce-b30209900001","quantity":5}"#,
    r#"h{"id":"01890a5d-ac96-774b-bcce-b30209900001","from":{"kind":"clearing"},"to":{"party":1,"kind":"main"},"currency":"GBP","amount":5}"#,
    r#"i{"transfers":[{"id":"01890a5d-ac96-774b-bcce-b30209900001","from":{"party":2,"kind":"settlement"},"to":{"party":1},"currency":"GBP","amount":5},{"id":"01890a5d-ac96-774b-bcce-b30209900002","from":{"party":1},"to":{"party":2},"currency":"GBP","amount":5}]}"#,
    r#"j{"id":"01890a5d-ac96-774b-bcce-b30209900001","payment":"external"}"#,
    r#"k{"id":"01890a5d-ac96-774b-bcce-b30209900001"}"#,
    r#"l{"id":"01890a5d-ac96-774b-bcce-b30209900001","lines":[{"line":0,"quantity":1},{"line":1,"quantity":2}],"restock":true}"#,
    r#"m{"id":"01890a5d-ac96-774b-bcce-b30209900001","price":7,"opens_ms":0,"closes_ms":9,"limit":3}"#,
];

pub(super) fn of(target: Target) -> Vec<Vec<u8>> {
    match target {
        Target::Record => records(),
        Target::Frame => vec![frame(&[]), frame(&records())],
        Target::Json => BODIES.iter().map(|body| body.as_bytes().to_vec()).collect(),
        // Any bytes are commands.
        Target::Apply => (1..=8).map(|seed| noise(seed, 8 * seed)).collect(),
    }
}

/// A command of every kind.
fn records() -> Vec<Vec<u8>> {
    let (buyer, seller, item) = (Party(42), Party(900), ItemId(7));
    let main = (buyer, AccountKind::Main);
    let settlement = (seller, AccountKind::Settlement);
    let (order, change, gbp) = (OrderId(1 << 64 | 1), ChangeId(2), Currency::GBP);
    let mut commands = CommandBuffer::default();
    commands.create_account(buyer, gbp, Amount(10_000));
    commands.create_item(item, seller, gbp, Amount(1250), 3, Sale::default());
    let update = ItemUpdate { limit: Some(2), ..ItemUpdate::default() };
    commands.update_item(change, item, update);
    commands.transfer(change, settlement, main, gbp, Amount(5));
    commands.restock(change, item, 5);
    let mut place = commands.place();
    place.line(item, Quantity(2), None);
    place.line(item, Quantity(1), Some(Amount(5)));
    place.finish(buyer, order, gbp, PaymentMethod::Awaited);
    commands.pay(change, buyer, order, PaymentMethod::Balance);
    commands.cancel(change, buyer, order);
    let line = RefundLine { quantity: 1.into(), ..RefundLine::default() };
    commands.refund(change, buyer, order, true, &[line, line]);
    let mut entries = Vec::new();
    let units = Units { item: item.0.into(), units: 3.into() };
    Entry::Grant(&units).write(&mut entries);
    Entry::Recall(&units).write(&mut entries);
    let at = StreamPlace { first: 1, base: 1, acked: 1 };
    commands.deliver(ShardId(1), at, &entries, 2);
    commands.stock(&[StockOp::ask(item, 1, 2, 3), StockOp::answer(item)]);
    commands.timer(buyer, order, Time(9));
    commands.sweep(10);
    commands.records().flatten().map(|record| record.bytes.to_vec()).collect()
}

fn frame(records: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = FrameBuilder::default();
    for record in records {
        frame.push(record);
    }
    let (shard, epoch, first_offset) = (ShardId(0), Epoch(1), Offset(1));
    let place = FramePlace { shard, epoch, first_offset, time: Time(1), previous: 0 };
    frame.finish(place, RULE_VERSION).0
}

fn noise(seed: u64, words: u64) -> Vec<u8> {
    let hasher = FixedState::with_seed(seed);
    (0..words).flat_map(|word| hasher.hash_one(word).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use model::record::{Kind, Records};

    use super::*;

    #[test]
    fn there_is_a_record_of_every_kind() {
        let records = records().concat();
        let kinds: BTreeSet<u8> =
            Records::new(&records).map(|record| record.unwrap().header.kind).collect();
        assert!((0..=u8::MAX).all(|kind| kinds.contains(&kind) == Kind::from_byte(kind).is_some()));
    }
}
