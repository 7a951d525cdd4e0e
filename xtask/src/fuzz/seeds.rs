//! What a search starts from: a little of everything that a target takes.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use model::frame::{FrameBuilder, FramePlace};
use model::record::entry::{Entry, StockOp, Units};
use model::record::{
    CommandBuffer, Coupon, ItemUpdate, NewLeg, NewLine, Price, RULE_VERSION, RefundLine, RowKey,
    Sale, StreamPlace, TimerKind,
};
use model::{
    AccountKind, Amount, ChangeId, Currency, Epoch, ItemId, LineKind, Offset, OrderId, Party,
    PayStep, PaymentMethod, Quantity, ShardId, Time,
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
    r#"a{"buyer":42,"id":"01890a5d-ac96-774b-bcce-b302099a8057","currency":"GBP","forfeit":true,"payments":[{"method":"coupon","coupon":5},{"method":"balance","amount":100},{"method":"await","deadline_ms":9}],"lines":[{"item":7,"quantity":2,"list_price":5,"payee":9,"discount":1},{"kind":"shipping","payee":900,"unit_price":499}]}"#,
    r#"a{"buyer":42,"id":"01890a5d-ac96-774b-bcce-b302099a8057","currency":"GBP","payment":"external","private":"Ann","lines":[{"item":7,"quantity":2}]}"#,
    r#"n{"id":"01890a5d-ac96-774b-bcce-b30209900001","currency":"GBP","overdraft":50}"#,
    r#"o{"id":"01890a5d-ac96-774b-bcce-b30209900001","currency":"GBP","kind":"settlement"}"#,
    r#"p{"id":"01890a5d-ac96-774b-bcce-b30209900001","account":{"party":42,"kind":"main"},"currency":"GBP","amount":5,"deadline_ms":9}"#,
    r#"q{"id":"01890a5d-ac96-774b-bcce-b30209900001","to":{"party":43},"amount":2}"#,
    r#"r{"id":"01890a5d-ac96-774b-bcce-b30209900001"}"#,
    r#"s{"buyer":42,"coupon":5,"funder":900,"seller":900,"currency":"GBP","amount":300,"minimum":1000,"expires_ms":9}"#,
    r#"t{"coupons":[{"buyer":42,"coupon":5,"funder":900,"currency":"GBP","amount":300},{"buyer":43,"coupon":5,"funder":900,"currency":"GBP","amount":300}]}"#,
    r#"u{"id":"01890a5d-ac96-774b-bcce-b30209900001","leg":1,"amount":9}"#,
    r#"v{"id":"01890a5d-ac96-774b-bcce-b30209900001","leg":1,"amount":9}"#,
    r#"w{"id":"01890a5d-ac96-774b-bcce-b30209900001","leg":1}"#,
    r#"x{"id":"01890a5d-ac96-774b-bcce-b30209900001"}"#,
];

pub(super) fn of(target: Target) -> Vec<Vec<u8>> {
    match target {
        Target::Record => records(),
        // Others begin as what is refused.
        Target::Asked => records(),
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
    let mut place = commands.place();
    let price = Price::Checked(Amount(1250));
    let (payee, discount) = (Some(seller), Amount(50));
    place.add(&NewLine { price, payee, discount, ..NewLine::goods(item, Quantity(2)) });
    place.add(&NewLine::charge(LineKind::Shipping, seller, Amount(499)));
    place.forfeits();
    place.private("three");
    let legs = [
        NewLeg::Coupon(5),
        NewLeg::Balance(Some(Amount(100))),
        NewLeg::External(Some(Amount(1))),
        NewLeg::Awaited(None, Time(9)),
    ];
    place.finish_legs(buyer, order, gbp, &legs);
    commands.pay(change, buyer, order, PaymentMethod::Balance);
    commands.pay_leg(change, buyer, order, PayStep::External, Some(3), Some(Amount(7)));
    commands.receive(change, buyer, order);
    let coupon = Coupon {
        funder: seller,
        seller: Some(seller),
        currency: gbp,
        amount: Amount(300),
        minimum: Amount(1_000),
        expires: Time(9),
    };
    commands.issue_coupon(buyer, 5, &coupon);
    commands.hold(change, main, gbp, Amount(5), Time(9));
    commands.capture_hold(ChangeId(3), buyer, change, settlement, Some(Amount(2)));
    commands.release_hold(ChangeId(4), buyer, change);
    commands.set_overdraft(ChangeId(5), buyer, gbp, Amount(100));
    commands.close_account(ChangeId(6), buyer, gbp, AccountKind::Main);
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
    commands.timer(TimerKind::Order, buyer, order.0, Time(9));
    commands.sweep(10);
    commands.evict(false, 3, 9, &[1, 2, 3]);
    commands.load(RowKey::of_order(buyer, order), 7, &[4, 5]);
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
