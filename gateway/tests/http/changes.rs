//! What can be asked for, and the answers of a shard that is well.

use expect_test::expect;

use crate::client::{change, order, order_path, uuid};
use crate::platform::Platform;

const ONE: &str = r#"[{"item":1,"quantity":1}]"#;

#[test]
fn an_order_is_placed_read_and_repeated() {
    let shop = Platform::shop();
    let body = order(1, 1, "balance", r#"[{"item":1,"quantity":2},{"item":2,"quantity":1}]"#);
    shop.post("/v1/orders", &body).check(expect![[r#"
        201 content-type: application/json location: /v1/buyers/1/orders/01890a5d-ac96-774b-bcce-000000000001
        {"outcome":"ok","state":"paid","total":600,"offset":7}"#]]);
    shop.post("/v1/orders", &body).check(expect![[r#"
        200 content-type: application/json location: /v1/buyers/1/orders/01890a5d-ac96-774b-bcce-000000000001
        {"outcome":"already_done","state":"paid","total":600,"offset":7}"#]]);
    // The id is taken; what it stands for doesn't change.
    let other = order(1, 1, "balance", ONE);
    shop.post("/v1/orders", other).check(expect![[r#"
        422 content-type: application/problem+json
        {"type":"urn:crest:problem:id_reused","title":"id reused","status":422,"detail":"this id was used before with other content","outcome":"id_reused"}"#]]);
    shop.get(&order_path(1, 1, "")).check(expect![[r#"
        200 content-type: application/json
        {"buyer":1,"id":"01890a5d-ac96-774b-bcce-000000000001","state":"paid","outcome":"ok","currency":"GBP","payment":"balance","total":600,"refunded":0,"offset":7,"lines":[{"item":1,"quantity":2,"refunded":0,"unit_price":250},{"item":2,"quantity":1,"refunded":0,"unit_price":100}]}"#]]);
    // Another buyer's id is another id.
    assert_eq!(shop.post("/v1/orders", order(2, 1, "external", ONE)).status, 201);
    expect![[r#"
        {"party":1,"currency":"GBP","kind":"main","debits":600,"credits":10000,"balance":9400}
        {"party":2,"currency":"GBP","kind":"main","debits":0,"credits":100,"balance":100}
        {"party":9,"currency":"GBP","kind":"payable","debits":0,"credits":850,"balance":850}
        {"party":0,"currency":"GBP","kind":"clearing","debits":10350,"credits":0,"balance":-10350}
        {"item":1,"seller":9,"currency":"GBP","price":250,"stocked":10,"available":7,"reserved":0,"sold":3}
        {"item":2,"seller":9,"currency":"GBP","price":100,"stocked":3,"available":2,"reserved":0,"sold":1}
        {"item":3,"seller":9,"currency":"GBP","price":0,"stocked":5,"available":5,"reserved":0,"sold":0}
        {"item":4,"seller":9,"currency":"EUR","price":50,"stocked":5,"available":5,"reserved":0,"sold":0}
    "#]].assert_eq(&shop.books());
}

#[test]
fn what_the_state_refuses_stays_refused() {
    let shop = Platform::shop();
    let before = shop.books();
    let much = order(1, 1, "external", r#"[{"item":1,"quantity":1},{"item":2,"quantity":4}]"#);
    shop.post("/v1/orders", &much).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:sold_out","title":"sold out","status":409,"detail":"fewer units are left than the order asks for","field":"lines[1]","outcome":"sold_out","state":"refused","offset":7}"#]]);
    shop.post("/v1/orders", order(2, 2, "balance", ONE)).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:insufficient_funds","title":"insufficient funds","status":409,"detail":"the account that pays lacks the money","outcome":"insufficient_funds","state":"refused","offset":8}"#]]);
    shop.post("/v1/orders", order(3, 3, "balance", ONE)).check(expect![[r#"
        422 content-type: application/problem+json
        {"type":"urn:crest:problem:unknown_account","title":"unknown account","status":422,"detail":"there is no such account, hold or coupon, or it is closed","outcome":"unknown_account","state":"refused","offset":9}"#]]);
    let unknown = r#"[{"item":1,"quantity":1},{"item":77,"quantity":1}]"#;
    shop.post("/v1/orders", order(1, 4, "balance", unknown)).check(expect![[r#"
        422 content-type: application/problem+json
        {"type":"urn:crest:problem:unknown_item","title":"unknown item","status":422,"detail":"there is no such item","field":"lines[1]","outcome":"unknown_item","state":"refused","offset":10}"#]]);
    let mixed = r#"[{"item":1,"quantity":1},{"item":4,"quantity":1}]"#;
    shop.post("/v1/orders", order(1, 5, "balance", mixed)).check(expect![[r#"
        422 content-type: application/problem+json
        {"type":"urn:crest:problem:currency_mismatch","title":"currency mismatch","status":422,"detail":"the item or account is kept in another currency","field":"lines[1]","outcome":"currency_mismatch","state":"refused","offset":11}"#]]);
    assert_eq!(shop.books(), before);
    // Enough is there now, and the order stays refused: its buyer was told so.
    let restock = format!(r#"{{"id":"{}","quantity":100}}"#, uuid(9));
    shop.post("/v1/items/2/restock", restock).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","offset":12}"#]]);
    shop.post("/v1/orders", &much).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:sold_out","title":"sold out","status":409,"detail":"fewer units are left than the order asks for","field":"lines[1]","outcome":"sold_out","state":"refused","offset":7}"#]]);
    shop.get(&order_path(1, 1, "")).check(expect![[r#"
        200 content-type: application/json
        {"buyer":1,"id":"01890a5d-ac96-774b-bcce-000000000001","state":"refused","outcome":"sold_out","currency":"GBP","payment":"external","total":0,"refunded":0,"offset":7,"lines":[]}"#]]);
}

#[test]
fn sums_beyond_their_bound_are_neither_done_nor_remembered() {
    let shop = Platform::shop();
    let before = shop.books();
    let lines =
        r#"[{"item":3,"quantity":1},{"item":1,"quantity":2,"unit_price":1000000000000000}]"#;
    shop.post("/v1/orders", order(1, 1, "external", lines)).check(expect![[r#"
        422 content-type: application/problem+json
        {"type":"urn:crest:problem:invalid","title":"invalid","status":422,"detail":"the amounts add up to more than can be kept","field":"lines[1]","outcome":"invalid"}"#]]);
    assert_eq!(shop.get(&order_path(1, 1, "")).status, 404);
    assert_eq!(shop.books(), before);
    assert_eq!(shop.next_offset(), 7);
}

#[test]
fn an_awaited_order_is_reserved_and_then_paid() {
    let shop = Platform::shop();
    shop.post("/v1/orders", order(1, 1, "await", ONE)).check(expect![[r#"
        201 content-type: application/json location: /v1/buyers/1/orders/01890a5d-ac96-774b-bcce-000000000001
        {"outcome":"ok","state":"reserved","total":250,"offset":7}"#]]);
    shop.get("/v1/items/1").check(expect![[r#"
        200 content-type: application/json
        {"item":1,"seller":9,"currency":"GBP","price":250,"stocked":10,"available":9,"reserved":1,"sold":0}"#]]);
    let refund = shop.post(&order_path(1, 1, "/refund"), change(1));
    refund.check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:wrong_state","title":"wrong state","status":409,"detail":"the order is reserved: it, or what is left of it, does not allow this","outcome":"wrong_state","state":"reserved","offset":8}"#]]);
    let pay = format!(r#"{{"id":"{}","payment":"balance"}}"#, uuid(2));
    let path = order_path(1, 1, "/pay");
    shop.post(&path, &pay).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","state":"paid","amount":250,"offset":9}"#]]);
    shop.post(&path, &pay).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"already_done","state":"paid","amount":250,"offset":9}"#]]);
    let other = pay.replace("balance", "external");
    shop.post(&path, &other).check(expect![[r#"
        422 content-type: application/problem+json
        {"type":"urn:crest:problem:id_reused","title":"id reused","status":422,"detail":"this id was used before with other content","outcome":"id_reused"}"#]]);
    let again = pay.replace(&uuid(2), &uuid(3));
    shop.post(&path, &again).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:wrong_state","title":"wrong state","status":409,"detail":"the order is paid: it, or what is left of it, does not allow this","outcome":"wrong_state","state":"paid","offset":10}"#]]);
    shop.post(&order_path(1, 1, "/cancel"), change(4)).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:wrong_state","title":"wrong state","status":409,"detail":"the order is paid: it, or what is left of it, does not allow this","outcome":"wrong_state","state":"paid","offset":11}"#]]);
    shop.get(&order_path(1, 1, "")).check(expect![[r#"
        200 content-type: application/json
        {"buyer":1,"id":"01890a5d-ac96-774b-bcce-000000000001","state":"paid","outcome":"ok","currency":"GBP","payment":"balance","total":250,"refunded":0,"offset":11,"lines":[{"item":1,"quantity":1,"refunded":0,"unit_price":250}],"payments":[{"method":"balance","state":"captured","amount":250,"paid":250,"refunded":0}]}"#]]);
    expect![[r#"
        {"party":1,"currency":"GBP","kind":"main","debits":250,"credits":10000,"balance":9750}
        {"party":2,"currency":"GBP","kind":"main","debits":0,"credits":100,"balance":100}
        {"party":9,"currency":"GBP","kind":"payable","debits":0,"credits":250,"balance":250}
        {"party":0,"currency":"GBP","kind":"clearing","debits":10100,"credits":0,"balance":-10100}
        {"item":1,"seller":9,"currency":"GBP","price":250,"stocked":10,"available":9,"reserved":0,"sold":1}
        {"item":2,"seller":9,"currency":"GBP","price":100,"stocked":3,"available":3,"reserved":0,"sold":0}
        {"item":3,"seller":9,"currency":"GBP","price":0,"stocked":5,"available":5,"reserved":0,"sold":0}
        {"item":4,"seller":9,"currency":"EUR","price":50,"stocked":5,"available":5,"reserved":0,"sold":0}
    "#]].assert_eq(&shop.books());
}

#[test]
fn a_payment_that_lacks_money_leaves_the_order_reserved() {
    let shop = Platform::shop();
    assert_eq!(shop.post("/v1/orders", order(2, 1, "await", ONE)).status, 201);
    let pay = |id, payment| format!(r#"{{"id":"{}","payment":"{payment}"}}"#, uuid(id));
    let path = order_path(2, 1, "/pay");
    shop.post(&path, pay(1, "balance")).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:insufficient_funds","title":"insufficient funds","status":409,"detail":"the account that pays lacks the money","outcome":"insufficient_funds","state":"reserved","offset":8}"#]]);
    assert_eq!(shop.post(&path, pay(1, "balance")).status, 409);
    shop.post(&path, pay(2, "external")).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","state":"paid","amount":250,"offset":9}"#]]);
}

#[test]
fn a_cancelled_order_gives_its_units_back() {
    let shop = Platform::shop();
    let before = shop.books();
    assert_eq!(shop.post("/v1/orders", order(1, 1, "await", ONE)).status, 201);
    assert_ne!(shop.books(), before);
    let path = order_path(1, 1, "/cancel");
    shop.post(&path, change(1)).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","state":"cancelled","offset":8}"#]]);
    shop.post(&path, change(1)).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"already_done","state":"cancelled","offset":8}"#]]);
    shop.post(&path, change(2)).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:wrong_state","title":"wrong state","status":409,"detail":"the order is cancelled: it, or what is left of it, does not allow this","outcome":"wrong_state","state":"cancelled","offset":9}"#]]);
    assert_eq!(shop.books(), before);
}

#[test]
fn an_order_is_refunded_in_part_and_then_whole() {
    let shop = Platform::shop();
    let before = shop.books();
    let lines = r#"[{"item":1,"quantity":3},{"item":2,"quantity":2}]"#;
    assert_eq!(shop.post("/v1/orders", order(1, 1, "balance", lines)).status, 201);
    let path = order_path(1, 1, "/refund");
    let refund = |id, lines: &str| format!(r#"{{"id":"{}","restock":true{lines}}}"#, uuid(id));
    let part = refund(1, r#","lines":[{"line":0,"quantity":1},{"line":1,"quantity":2}]"#);
    shop.post(&path, &part).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","state":"partly_refunded","amount":450,"offset":8}"#]]);
    shop.post(&path, &part).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"already_done","state":"partly_refunded","amount":450,"offset":8}"#]]);
    shop.get(&order_path(1, 1, "")).check(expect![[r#"
        200 content-type: application/json
        {"buyer":1,"id":"01890a5d-ac96-774b-bcce-000000000001","state":"partly_refunded","outcome":"ok","currency":"GBP","payment":"balance","total":950,"refunded":450,"offset":8,"lines":[{"item":1,"quantity":3,"refunded":1,"unit_price":250},{"item":2,"quantity":2,"refunded":2,"unit_price":100}]}"#]]);
    let much = refund(2, r#","lines":[{"line":0,"quantity":2},{"line":1,"quantity":1}]"#);
    shop.post(&path, much).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:wrong_state","title":"wrong state","status":409,"detail":"the order is partly_refunded: it, or what is left of it, does not allow this","field":"lines[1]","outcome":"wrong_state","state":"partly_refunded","offset":9}"#]]);
    let twice = refund(3, r#","lines":[{"line":0,"quantity":2},{"line":0,"quantity":1}]"#);
    shop.post(&path, twice).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:wrong_state","title":"wrong state","status":409,"detail":"the order is partly_refunded: it, or what is left of it, does not allow this","field":"lines[1]","outcome":"wrong_state","state":"partly_refunded","offset":10}"#]]);
    let no_line = refund(4, r#","lines":[{"line":7,"quantity":1}]"#);
    shop.post(&path, no_line).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:wrong_state","title":"wrong state","status":409,"detail":"the order is partly_refunded: it, or what is left of it, does not allow this","field":"lines[0]","outcome":"wrong_state","state":"partly_refunded","offset":11}"#]]);
    shop.post(&path, refund(5, "")).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","state":"refunded","amount":500,"offset":12}"#]]);
    shop.post(&path, refund(6, "")).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:wrong_state","title":"wrong state","status":409,"detail":"the order is refunded: it, or what is left of it, does not allow this","outcome":"wrong_state","state":"refunded","offset":13}"#]]);
    // Money and units are where they were; only the sums of what passed grew.
    let (before, after) = (balances(&before), balances(&shop.books()));
    assert_eq!(after, before);
}

/// Balances and stock, without the sums of all that passed.
fn balances(books: &str) -> Vec<String> {
    let kept = |line: &str| {
        let part = line.split_once(r#""balance""#).or(line.split_once(r#""stocked""#));
        part.map(|(_, rest)| rest.to_string())
    };
    books.lines().filter_map(kept).collect()
}

#[test]
fn a_refund_without_restock_brings_no_unit_back() {
    let shop = Platform::shop();
    assert_eq!(shop.post("/v1/orders", order(1, 1, "external", ONE)).status, 201);
    shop.post(&order_path(1, 1, "/refund"), change(1)).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","state":"refunded","amount":250,"offset":8}"#]]);
    shop.get("/v1/items/1").check(expect![[r#"
        200 content-type: application/json
        {"item":1,"seller":9,"currency":"GBP","price":250,"stocked":10,"available":9,"reserved":0,"sold":1}"#]]);
    shop.get("/v1/accounts/9?currency=GBP&kind=payable").check(expect![[r#"
        200 content-type: application/json
        {"party":9,"currency":"GBP","kind":"payable","debits":250,"credits":250,"balance":0}"#]]);
}

#[test]
fn changes_of_an_order_that_is_not_there() {
    let shop = Platform::shop();
    let pay = format!(r#"{{"id":"{}","payment":"external"}}"#, uuid(1));
    shop.post(&order_path(1, 5, "/pay"), pay).check(expect![[r#"
        404 content-type: application/problem+json
        {"type":"urn:crest:problem:unknown_order","title":"unknown order","status":404,"detail":"there is no such order","outcome":"unknown_order","offset":7}"#]]);
    shop.post(&order_path(1, 5, "/cancel"), change(2)).check(expect![[r#"
        404 content-type: application/problem+json
        {"type":"urn:crest:problem:unknown_order","title":"unknown order","status":404,"detail":"there is no such order","outcome":"unknown_order","offset":8}"#]]);
    shop.post(&order_path(1, 5, "/refund"), change(3)).check(expect![[r#"
        404 content-type: application/problem+json
        {"type":"urn:crest:problem:unknown_order","title":"unknown order","status":404,"detail":"there is no such order","outcome":"unknown_order","offset":9}"#]]);
    shop.get(&order_path(1, 5, "")).check(expect![[r#"
        404 content-type: application/problem+json
        {"type":"urn:crest:problem:unknown_order","title":"unknown order","status":404,"detail":"buyer 1 has no order 01890a5d-ac96-774b-bcce-000000000005"}"#]]);
    shop.get("/v1/items/5").check(expect![[r#"
        404 content-type: application/problem+json
        {"type":"urn:crest:problem:unknown_item","title":"unknown item","status":404,"detail":"there is no item 5"}"#]]);
    shop.get("/v1/accounts/1?currency=EUR").check(expect![[r#"
        404 content-type: application/problem+json
        {"type":"urn:crest:problem:unknown_account","title":"unknown account","status":404,"detail":"party 1 has no main account in EUR"}"#]]);
}

#[test]
fn what_costs_nothing_is_an_order_like_any() {
    let shop = Platform::shop();
    let free = r#"[{"item":3,"quantity":2},{"item":1,"quantity":1,"unit_price":0}]"#;
    shop.post("/v1/orders", order(1, 1, "balance", free)).check(expect![[r#"
        201 content-type: application/json location: /v1/buyers/1/orders/01890a5d-ac96-774b-bcce-000000000001
        {"outcome":"ok","state":"paid","total":0,"offset":7}"#]]);
    assert_eq!(shop.post("/v1/orders", order(1, 2, "await", free)).status, 201);
    let pay = format!(r#"{{"id":"{}","payment":"balance"}}"#, uuid(1));
    shop.post(&order_path(1, 2, "/pay"), pay).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","state":"paid","amount":0,"offset":9}"#]]);
    shop.post(&order_path(1, 1, "/refund"), change(1)).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","state":"refunded","amount":0,"offset":10}"#]]);
}

#[test]
fn the_same_item_on_several_lines_counts_as_a_sum() {
    let shop = Platform::shop();
    let lines = r#"[{"item":1,"quantity":6},{"item":1,"quantity":5}]"#;
    shop.post("/v1/orders", order(1, 1, "external", lines)).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:sold_out","title":"sold out","status":409,"detail":"fewer units are left than the order asks for","field":"lines[0]","outcome":"sold_out","state":"refused","offset":7}"#]]);
    let lines = r#"[{"item":1,"quantity":6},{"item":1,"quantity":4}]"#;
    shop.post("/v1/orders", order(1, 2, "external", lines)).check(expect![[r#"
        201 content-type: application/json location: /v1/buyers/1/orders/01890a5d-ac96-774b-bcce-000000000002
        {"outcome":"ok","state":"paid","total":2500,"offset":8}"#]]);
    shop.get("/v1/items/1").check(expect![[r#"
        200 content-type: application/json
        {"item":1,"seller":9,"currency":"GBP","price":250,"stocked":10,"available":0,"reserved":0,"sold":10}"#]]);
}

#[test]
fn an_agreed_price_is_what_is_paid() {
    let shop = Platform::shop();
    let lines = r#"[{"item":1,"quantity":2,"unit_price":199}]"#;
    shop.post("/v1/orders", order(1, 1, "balance", lines)).check(expect![[r#"
        201 content-type: application/json location: /v1/buyers/1/orders/01890a5d-ac96-774b-bcce-000000000001
        {"outcome":"ok","state":"paid","total":398,"offset":7}"#]]);
    shop.get(&order_path(1, 1, "")).check(expect![[r#"
        200 content-type: application/json
        {"buyer":1,"id":"01890a5d-ac96-774b-bcce-000000000001","state":"paid","outcome":"ok","currency":"GBP","payment":"balance","total":398,"refunded":0,"offset":7,"lines":[{"item":1,"quantity":2,"refunded":0,"unit_price":199}]}"#]]);
}

#[test]
fn large_ids_go_in_as_numbers_or_strings_and_come_out_as_strings() {
    let shop = Platform::start();
    let item = r#"{"item":"18446744073709551615","seller":9007199254740993,"currency":"GBP","price":"5","stock":"1000000000000000"}"#;
    shop.post("/v1/items", item).check(expect![[r#"
        201 content-type: application/json
        {"outcome":"ok","offset":1}"#]]);
    // The same item, its ids written the other way.
    let item = r#"{"item":18446744073709551615,"seller":"9007199254740993","currency":"GBP","price":5,"stock":1000000000000000}"#;
    assert_eq!(shop.post("/v1/items", item).status, 200);
    shop.get("/v1/items/18446744073709551615").check(expect![[r#"
        200 content-type: application/json
        {"item":"18446744073709551615","seller":"9007199254740993","currency":"GBP","price":5,"stocked":1000000000000000,"available":1000000000000000,"reserved":0,"sold":0}"#]]);
    let account = r#"{"party":"9007199254740992","currency":"GBP","balance":1000000000000000}"#;
    assert_eq!(shop.post("/v1/accounts", account).status, 201);
    shop.get("/v1/accounts/9007199254740992?currency=GBP").check(expect![[r#"
        200 content-type: application/json
        {"party":9007199254740992,"currency":"GBP","kind":"main","debits":0,"credits":1000000000000000,"balance":1000000000000000}"#]]);
    let order = order(
        9007199254740992,
        1,
        "balance",
        r#"[{"item":"18446744073709551615","quantity":"2"}]"#,
    );
    shop.post("/v1/orders", order).check(expect![[r#"
        201 content-type: application/json location: /v1/buyers/9007199254740992/orders/01890a5d-ac96-774b-bcce-000000000001
        {"outcome":"ok","state":"paid","total":10,"offset":3}"#]]);
    shop.get(&order_path(9007199254740992, 1, "")).check(expect![[r#"
        200 content-type: application/json
        {"buyer":9007199254740992,"id":"01890a5d-ac96-774b-bcce-000000000001","state":"paid","outcome":"ok","currency":"GBP","payment":"balance","total":10,"refunded":0,"offset":3,"lines":[{"item":"18446744073709551615","quantity":2,"refunded":0,"unit_price":5}]}"#]]);
}

#[test]
fn a_batch_is_answered_by_position() {
    let shop = Platform::shop();
    let orders = [
        order(1, 1, "balance", ONE),
        order(2, 2, "balance", ONE),
        order(1, 3, "external", r#"[{"item":1,"quantity":1},{"item":2,"quantity":9}]"#),
        order(1, 1, "balance", ONE),
        order(1, 1, "external", ONE),
        order(1, 4, "external", r#"[{"item":8,"quantity":1}]"#),
        order(1, 5, "await", r#"[{"item":2,"quantity":3}]"#),
        order(1, 6, "await", r#"[{"item":2,"quantity":1}]"#),
    ];
    let orders = format!(r#"{{"orders":[{}]}}"#, orders.join(","));
    shop.post("/v1/orders/batch", orders).check(expect![[r#"
        200 content-type: application/json
        {"results":[{"outcome":"ok","state":"paid","total":250,"offset":7},{"outcome":"insufficient_funds","state":"refused","offset":8},{"outcome":"sold_out","state":"refused","field":"lines[1]","offset":9},{"outcome":"already_done","state":"paid","total":250,"offset":7},{"outcome":"id_reused"},{"outcome":"unknown_item","state":"refused","field":"lines[0]","offset":10},{"outcome":"ok","state":"reserved","total":300,"offset":11},{"outcome":"sold_out","state":"refused","field":"lines[0]","offset":12}]}"#]]);
}

#[test]
fn items_and_accounts_are_made_once() {
    let shop = Platform::start();
    let item = r#"{"item":1,"seller":9,"currency":"GBP","price":250,"stock":10}"#;
    shop.post("/v1/items", item).check(expect![[r#"
        201 content-type: application/json
        {"outcome":"ok","offset":1}"#]]);
    shop.post("/v1/items", item).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"already_done"}"#]]);
    shop.post("/v1/items", item.replace("250", "251")).check(expect![[r#"
        422 content-type: application/problem+json
        {"type":"urn:crest:problem:id_reused","title":"id reused","status":422,"detail":"this id was used before with other content","outcome":"id_reused"}"#]]);
    shop.get("/v1/items/1").check(expect![[r#"
        200 content-type: application/json
        {"item":1,"seller":9,"currency":"GBP","price":250,"stocked":10,"available":10,"reserved":0,"sold":0}"#]]);
    let account = r#"{"party":1,"currency":"GBP","balance":70}"#;
    shop.post("/v1/accounts", account).check(expect![[r#"
        201 content-type: application/json
        {"outcome":"ok","balance":70,"offset":2}"#]]);
    shop.post("/v1/accounts", account).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"already_done","balance":70}"#]]);
    shop.post("/v1/accounts", account.replace("70", "71")).check(expect![[r#"
        422 content-type: application/problem+json
        {"type":"urn:crest:problem:id_reused","title":"id reused","status":422,"detail":"this id was used before with other content","outcome":"id_reused"}"#]]);
    shop.get("/v1/accounts/1?currency=GBP&kind=main").check(expect![[r#"
        200 content-type: application/json
        {"party":1,"currency":"GBP","kind":"main","debits":0,"credits":70,"balance":70}"#]]);
    let batch = format!(r#"{{"accounts":[{account},{{"party":1,"currency":"JPY"}}]}}"#);
    shop.post("/v1/accounts/batch", batch).check(expect![[r#"
        200 content-type: application/json
        {"results":[{"outcome":"already_done","balance":70},{"outcome":"ok","balance":0,"offset":3}]}"#]]);
    let batch = format!(r#"{{"items":[{},{item}]}}"#, item.replace(":1,", ":2,"));
    shop.post("/v1/items/batch", batch).check(expect![[r#"
        200 content-type: application/json
        {"results":[{"outcome":"ok","offset":4},{"outcome":"already_done"}]}"#]]);
}

#[test]
fn restocks_add_up_once() {
    let shop = Platform::shop();
    let restock = |id, quantity| format!(r#"{{"id":"{}","quantity":{quantity}}}"#, uuid(id));
    shop.post("/v1/items/1/restock", restock(1, 5)).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","offset":7}"#]]);
    shop.post("/v1/items/1/restock", restock(1, 5)).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"already_done","offset":7}"#]]);
    shop.post("/v1/items/1/restock", restock(1, 6)).check(expect![[r#"
        422 content-type: application/problem+json
        {"type":"urn:crest:problem:id_reused","title":"id reused","status":422,"detail":"this id was used before with other content","outcome":"id_reused"}"#]]);
    shop.post("/v1/items/77/restock", restock(1, 5)).check(expect![[r#"
        422 content-type: application/problem+json
        {"type":"urn:crest:problem:unknown_item","title":"unknown item","status":422,"detail":"there is no such item","outcome":"unknown_item","offset":8}"#]]);
    shop.get("/v1/items/1").check(expect![[r#"
        200 content-type: application/json
        {"item":1,"seller":9,"currency":"GBP","price":250,"stocked":15,"available":15,"reserved":0,"sold":0}"#]]);
}

#[test]
fn transfers_move_what_is_there() {
    let shop = Platform::shop();
    let transfer = |id, from: &str, to: &str, amount| {
        let id = uuid(id);
        format!(r#"{{"id":"{id}","from":{from},"to":{to},"currency":"GBP","amount":{amount}}}"#)
    };
    let (outside, one, two) = (r#"{"kind":"clearing"}"#, r#"{"party":1}"#, r#"{"party":2}"#);
    let payable = r#"{"party":9,"kind":"payable"}"#;
    shop.post("/v1/transfers", transfer(1, outside, one, 500)).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","amount":500,"offset":7}"#]]);
    shop.post("/v1/transfers", transfer(1, outside, one, 500)).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"already_done","amount":500,"offset":7}"#]]);
    shop.post("/v1/transfers", transfer(2, two, one, 101)).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:insufficient_funds","title":"insufficient funds","status":409,"detail":"the account that pays lacks the money","outcome":"insufficient_funds","offset":8}"#]]);
    shop.post("/v1/transfers", transfer(3, two, r#"{"party":8}"#, 1)).check(expect![[r#"
        422 content-type: application/problem+json
        {"type":"urn:crest:problem:unknown_account","title":"unknown account","status":422,"detail":"there is no such account, hold or coupon, or it is closed","outcome":"unknown_account","offset":9}"#]]);
    assert_eq!(shop.post("/v1/orders", order(1, 1, "balance", ONE)).status, 201);
    // What a seller earned is pending: nobody can move it yet.
    shop.post("/v1/transfers", transfer(4, payable, outside, 200)).check(expect![[r#"
        400 content-type: application/problem+json
        {"type":"urn:crest:problem:invalid","title":"invalid","status":400,"detail":"\"payable\" is not `main`, `settlement`, `suspense` or `clearing`","field":"from.kind"}"#]]);
    let settlement = r#"{"party":9,"kind":"settlement"}"#;
    let batch = [transfer(4, settlement, outside, 200), transfer(5, outside, one, 50)];
    let batch = format!(r#"{{"transfers":[{}]}}"#, batch.join(","));
    shop.post("/v1/transfers/batch", batch).check(expect![[r#"
        200 content-type: application/json
        {"results":[{"outcome":"unknown_account","offset":11},{"outcome":"ok","amount":50,"offset":12}]}"#]]);
    expect![[r#"
        {"party":1,"currency":"GBP","kind":"main","debits":250,"credits":10550,"balance":10300}
        {"party":2,"currency":"GBP","kind":"main","debits":0,"credits":100,"balance":100}
        {"party":9,"currency":"GBP","kind":"payable","debits":0,"credits":250,"balance":250}
        {"party":0,"currency":"GBP","kind":"clearing","debits":10650,"credits":0,"balance":-10650}
        {"item":1,"seller":9,"currency":"GBP","price":250,"stocked":10,"available":9,"reserved":0,"sold":1}
        {"item":2,"seller":9,"currency":"GBP","price":100,"stocked":3,"available":3,"reserved":0,"sold":0}
        {"item":3,"seller":9,"currency":"GBP","price":0,"stocked":5,"available":5,"reserved":0,"sold":0}
        {"item":4,"seller":9,"currency":"EUR","price":50,"stocked":5,"available":5,"reserved":0,"sold":0}
    "#]].assert_eq(&shop.books());
}
