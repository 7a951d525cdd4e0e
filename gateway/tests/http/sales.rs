//! Sales with a window and a limit, prices that change, orders that are not paid in time.

use expect_test::expect;

use crate::client::{order, order_path, uuid};
use crate::platform::Platform;

/// 2100-01-01, in milliseconds.
const FAR_MS: u64 = 4_102_444_800_000;

fn item(item: u64, sale: &str) -> String {
    format!(r#"{{"item":{item},"seller":9,"currency":"GBP","price":50,"stock":9,{sale}}}"#)
}

fn lines(item: u64, quantity: u32) -> String {
    format!(r#"[{{"item":{item},"quantity":{quantity}}}]"#)
}

#[test]
fn a_buyer_gets_no_more_than_the_limit() {
    let shop = Platform::shop();
    assert_eq!(shop.post("/v1/items", item(50, r#""limit":3"#)).status, 201);
    assert_eq!(shop.post("/v1/orders", order(1, 1, "external", &lines(50, 2))).status, 201);
    shop.post("/v1/orders", order(1, 2, "external", &lines(50, 2))).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:over_limit","title":"over limit","status":409,"detail":"the buyer's limit for the item would be passed","field":"lines[0]","outcome":"over_limit","state":"refused","offset":9}"#]]);
    assert_eq!(shop.post("/v1/orders", order(2, 3, "external", &lines(50, 3))).status, 201);
    shop.get("/v1/items/50").check(expect![[r#"
        200 content-type: application/json
        {"item":50,"seller":9,"currency":"GBP","price":50,"limit":3,"stocked":9,"available":4,"reserved":0,"sold":5}"#]]);
}

#[test]
fn a_sale_opens_when_it_is_changed_to() {
    let shop = Platform::shop();
    let sale = format!(r#""opens_ms":{FAR_MS}"#);
    assert_eq!(shop.post("/v1/items", item(51, &sale)).status, 201);
    shop.post("/v1/orders", order(1, 1, "external", &lines(51, 1))).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:sale_not_open","title":"sale not open","status":409,"detail":"the item's sale isn't open","field":"lines[0]","outcome":"sale_not_open","state":"refused","offset":8}"#]]);
    let open = format!(r#"{{"id":"{}","price":70,"opens_ms":0,"closes_ms":{FAR_MS}}}"#, uuid(8));
    shop.post("/v1/items/51/update", &open).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","offset":9}"#]]);
    shop.post("/v1/items/51/update", &open).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"already_done","offset":9}"#]]);
    shop.post("/v1/orders", order(1, 2, "external", &lines(51, 1))).check(expect![[r#"
        201 content-type: application/json location: /v1/buyers/1/orders/01890a5d-ac96-774b-bcce-000000000002
        {"outcome":"ok","state":"paid","total":70,"offset":10}"#]]);
    shop.get("/v1/items/51").check(expect![[r#"
        200 content-type: application/json
        {"item":51,"seller":9,"currency":"GBP","price":70,"closes_ms":4102444800000,"stocked":9,"available":8,"reserved":0,"sold":1}"#]]);
    shop.post("/v1/items/99/update", open).check(expect![[r#"
        422 content-type: application/problem+json
        {"type":"urn:crest:problem:unknown_item","title":"unknown item","status":422,"detail":"there is no such item","outcome":"unknown_item","offset":11}"#]]);
}

#[test]
fn an_order_waits_for_its_payment_until_its_deadline() {
    let shop = Platform::shop();
    let due = |number, deadline: u64| {
        let order = order(1, number, "await", &lines(1, 1));
        format!(r#"{{"deadline_ms":{deadline},{}"#, order.strip_prefix('{').unwrap())
    };
    assert_eq!(shop.post("/v1/orders", due(1, FAR_MS)).status, 201);
    shop.get(&order_path(1, 1, "")).check(expect![[r#"
        200 content-type: application/json
        {"buyer":1,"id":"01890a5d-ac96-774b-bcce-000000000001","state":"reserved","outcome":"ok","currency":"GBP","payment":"await","total":250,"refunded":0,"offset":7,"deadline_ms":4102444800000,"lines":[{"item":1,"quantity":1,"refunded":0,"unit_price":250}],"payments":[{"method":"await","state":"awaited","amount":250,"paid":0,"refunded":0,"deadline_ms":4102444800000}]}"#]]);
    // A deadline that is past is none that anybody could keep.
    shop.post("/v1/orders", due(2, 1_000)).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:wrong_state","title":"wrong state","status":409,"detail":"the order is expired: it, or what is left of it, does not allow this","outcome":"wrong_state","state":"expired","offset":8}"#]]);
}
