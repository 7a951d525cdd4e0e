//! Many shards behind one door: nobody who asks can tell, but for offsets.

use gateway::Limits;
use model::{ItemId, Party, ShardId, ids};
use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};

use crate::client::{order, order_path, uuid};
use crate::platform::Platform;

const SHARDS: u16 = 16;

/// 16 shards in so many groups.
fn platform(groups: usize) -> Platform {
    Platform::on(SHARDS, groups, Limits::default())
}

fn json(text: &str) -> Value {
    sonic_rs::from_str(text).unwrap_or_else(|_| panic!("{text}"))
}

/// The `n`-th buyer of a shard.
fn buyer_on(shard: u16, n: usize) -> u64 {
    let lives_there = |party: &u64| ids::shard_of(Party(*party), SHARDS) == ShardId(shard);
    (1..).filter(lives_there).nth(n).unwrap()
}

/// The results of a batch.
fn results(text: &str) -> Vec<Value> {
    let answer = json(text);
    let results = answer.get("results").unwrap_or_else(|| panic!("{text}"));
    results.as_array().unwrap().iter().cloned().collect()
}

fn item(item: u64, stock: u64) -> String {
    format!(r#"{{"item":{item},"seller":9,"currency":"GBP","price":250,"stock":{stock}}}"#)
}

fn field(answer: &Value, name: &str) -> u64 {
    answer.get(name).as_u64().unwrap_or_else(|| panic!("{name} in {answer:?}"))
}

#[test]
fn results_keep_the_order_of_a_batch_that_is_split() {
    for groups in [1, 2, 3] {
        let shop = platform(groups);
        // Balances that say whose they are, in an order in which shards come and go.
        let parties: Vec<u64> = (1..=200).map(|n| 1 + n * 7919 % 1_000).collect();
        let account =
            |party: &u64| format!(r#"{{"party":{party},"currency":"GBP","balance":{party}}}"#);
        let accounts: Vec<String> = parties.iter().map(account).collect();
        let body = format!(r#"{{"accounts":[{}]}}"#, accounts.join(","));
        let answer = shop.post("/v1/accounts/batch", &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let found = results(&answer.body);
        let balances: Vec<u64> = found.iter().map(|result| field(result, "balance")).collect();
        assert_eq!(balances, parties, "{groups} groups");
        // Offsets are those of each shard, without a gap from the first on.
        for shard in 0..SHARDS {
            let of_shard = parties.iter().zip(&found).filter_map(|(party, result)| {
                let home = ids::shard_of(Party(*party), SHARDS);
                (home == ShardId(shard)).then(|| field(result, "offset"))
            });
            let offsets: Vec<u64> = of_shard.collect();
            let expected: Vec<u64> = (1..=offsets.len() as u64).collect();
            assert_eq!(offsets, expected, "shard {shard} of {groups} groups");
        }
        // Once more: each where it was, also what is refused.
        let other = body.replace(r#""balance":7920}"#, r#""balance":1}"#);
        let again = results(&shop.post("/v1/accounts/batch", other).body);
        for (result, party) in again.iter().zip(&parties) {
            let expected = if *party == 7920 { "id_reused" } else { "already_done" };
            assert_eq!(result.get("outcome").as_str(), Some(expected));
        }
    }
}

#[test]
fn an_item_and_the_clearing_account_are_what_all_shards_have() {
    let shop = platform(2);
    shop.post("/v1/items", item(1, 1_000));
    let mut sold = 0;
    for shard in 0..SHARDS {
        let buyer = buyer_on(shard, 0);
        let lines = format!(r#"[{{"item":1,"quantity":{}}}]"#, 1 + shard);
        let answer = shop.post("/v1/orders", order(buyer, 1, "external", &lines));
        assert_eq!(answer.status, 201, "{}", answer.body);
        sold += u64::from(1 + shard);
    }
    let reserve = order(buyer_on(3, 1), 2, "await", r#"[{"item":1,"quantity":5}]"#);
    assert_eq!(shop.post("/v1/orders", reserve).status, 201);
    let found = json(&shop.get("/v1/items/1").body);
    let figures = ["price", "stocked", "available", "reserved", "sold"];
    assert_eq!(
        figures.map(|name| field(&found, name)),
        [250, 1_000, 1_000 - sold - 5, 5, sold],
        "{found:?}"
    );
    // Each shard has a part of clearing, and of what the seller has earned.
    for (path, side) in [
        ("/v1/accounts/0?currency=GBP&kind=clearing", "debits"),
        ("/v1/accounts/9?currency=GBP&kind=payable", "credits"),
    ] {
        assert_eq!(field(&json(&shop.get(path).body), side), 250 * sold, "{path}");
    }
    assert_eq!(shop.get("/v1/items/2").status, 404);
    assert_eq!(shop.get("/v1/accounts/8?currency=GBP&kind=payable").status, 404);
}

#[test]
fn orders_come_from_everywhere_and_no_unit_is_sold_twice() {
    for groups in [1, 2] {
        let shop = platform(groups);
        // Nobody can order what was never listed, wherever its home is.
        let nowhere = order(buyer_on(0, 0), 1, "external", r#"[{"item":77,"quantity":1}]"#);
        let answer = shop.post("/v1/orders", nowhere);
        assert_eq!((answer.status, answer.problem().0.as_str()), (422, "unknown_item"));
        // Ten units, far fewer than there are shards to grant them to.
        assert_eq!(shop.post("/v1/items", item(1, 10)).status, 201);
        let order_of = |n: u64| {
            let buyer = buyer_on((n % u64::from(SHARDS)) as u16, 1);
            order(buyer, 10 + n, "external", r#"[{"item":1,"quantity":1}]"#)
        };
        let orders: Vec<String> = (0..30).map(order_of).collect();
        let body = format!(r#"{{"orders":[{}]}}"#, orders.join(","));
        let answer = shop.post("/v1/orders/batch", body);
        let found = ["\"ok\"", "\"sold_out\""].map(|word| answer.body.matches(word).count());
        assert_eq!(found, [10, 20], "{groups} groups: {}", answer.body);
        let item = json(&shop.get("/v1/items/1").body);
        assert_eq!((field(&item, "available"), field(&item, "sold")), (0, 10));
        // One comes back, and goes to whoever asks, wherever that is.
        let is_placed = |result: &Value| result.get("outcome").as_str() == Some("ok");
        let n = results(&answer.body).iter().position(is_placed).unwrap();
        let buyer = buyer_on((n as u64 % u64::from(SHARDS)) as u16, 1);
        let refund = format!(r#"{{"id":"{}","restock":true}}"#, uuid(1));
        let path = order_path(buyer, 10 + n as u64, "/refund");
        assert_eq!(shop.post(&path, refund).status, 200);
        let late =
            |n| order(buyer_on(5, n as usize), n, "external", r#"[{"item":1,"quantity":1}]"#);
        // Until that shard has heard of it, it says what was true in the last round.
        let mut asked = (100..10_100).map(|n| shop.post("/v1/orders", late(n)).status);
        assert!(asked.any(|status| status == 201), "the unit never came back");
        assert_eq!(shop.post("/v1/orders", late(99)).status, 409);
    }
}

#[test]
fn a_transfer_goes_from_shard_to_shard() {
    let shop = platform(2);
    let (from, to) = (buyer_on(0, 0), buyer_on(1, 0));
    for party in [from, to] {
        let account = format!(r#"{{"party":{party},"currency":"GBP","balance":100}}"#);
        assert_eq!(shop.post("/v1/accounts", account).status, 201);
    }
    let transfer = format!(
        r#"{{"id":"{}","from":{{"party":{from}}},"to":{{"party":{to}}},"currency":"GBP","amount":60}}"#,
        uuid(1)
    );
    assert_eq!(shop.post("/v1/transfers", &transfer).status, 200);
    let balance = |party| {
        let answer = json(&shop.get(&format!("/v1/accounts/{party}?currency=GBP")).body);
        field(&answer, "balance")
    };
    assert_eq!(balance(from), 40);
    while balance(to) != 160 {}
    let again = json(&shop.post("/v1/transfers", &transfer).body);
    assert_eq!(again.get("outcome").as_str(), Some("already_done"));
}

#[test]
fn items_are_homed_apart_and_read_alike() {
    let shop = platform(3);
    let homes: Vec<u16> = (1..=64).map(|id| ids::item_home(ItemId(id), SHARDS).0).collect();
    assert!((0..SHARDS).all(|shard| homes.contains(&shard)));
    let items: Vec<String> = (1..=64).map(|id| item(id, id)).collect();
    let body = format!(r#"{{"items":[{}]}}"#, items.join(","));
    assert_eq!(shop.post("/v1/items/batch", body).status, 200);
    for id in 1..=64 {
        let found = json(&shop.get(&format!("/v1/items/{id}")).body);
        // Units that are on their way to other shards are seen when they are there.
        assert_eq!((field(&found, "item"), field(&found, "stocked")), (id, id));
        assert!(field(&found, "available") <= id);
    }
}
