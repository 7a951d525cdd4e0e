//! Orders that are paid in parts, coupons, holds, accounts that are overdrawn and closed, and
//! the statements that tell of all of it.

use expect_test::expect;

use crate::client::{order_path, uuid};
use crate::platform::Platform;

/// 2100-01-01, in milliseconds.
const FAR_MS: u64 = 4_102_444_800_000;

/// An order of buyer 1.
fn order(number: u64, payments: &str, lines: &str) -> String {
    let id = uuid(number);
    format!(r#"{{"buyer":1,"id":"{id}","currency":"GBP",{payments},"lines":[{lines}]}}"#)
}

fn change(number: u64, more: &str) -> String {
    format!(r#"{{"id":"{}"{more}}}"#, uuid(number))
}

/// What an account has.
fn account(shop: &Platform, path: &str) -> String {
    let body = shop.get(&format!("/v1/accounts/{path}")).body;
    body[body.find("\"debits\"").unwrap_or(0)..].to_string()
}

#[test]
fn an_order_is_paid_by_a_coupon_the_balance_and_a_provider() {
    let shop = Platform::shop();
    let coupon = r#"{"buyer":1,"coupon":5,"funder":77,"currency":"GBP","amount":60,"minimum":400}"#;
    assert_eq!(shop.post("/v1/coupons", coupon).status, 201);
    assert_eq!(shop.post("/v1/coupons", coupon).status, 200);
    let payments = format!(
        r#""payments":[{{"method":"coupon","coupon":5}},{{"method":"balance","amount":100}},{{"method":"await","deadline_ms":{FAR_MS}}}]"#
    );
    let lines = r#"{"item":1,"quantity":2,"list_price":250,"discount":51},{"kind":"shipping","payee":88,"unit_price":99}"#;
    shop.post("/v1/orders", order(1, &payments, lines)).check(expect![[r#"
        201 content-type: application/json location: /v1/buyers/1/orders/01890a5d-ac96-774b-bcce-000000000001
        {"outcome":"ok","state":"reserved","total":548,"offset":8}"#]]);
    let path = |change: &str| order_path(1, 1, change);
    shop.post(&path("/authorise"), change(50, "")).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","state":"reserved","amount":388,"offset":9}"#]]);
    shop.post(&path("/capture"), change(51, r#","amount":200"#)).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","state":"reserved","amount":200,"offset":10}"#]]);
    // The provider took 20 more than was open.
    shop.post(&path("/capture"), change(52, r#","leg":2,"amount":208"#)).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","state":"paid","amount":188,"offset":11}"#]]);
    // And once more.
    shop.post(&path("/capture"), change(53, r#","amount":7"#)).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"suspended","state":"paid","amount":7,"offset":12}"#]]);
    shop.post(&path("/receive"), change(54, "")).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","state":"paid","amount":548,"offset":13}"#]]);
    let refund = change(55, r#","lines":[{"line":0,"quantity":1}]"#);
    shop.post(&path("/refund"), refund).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","state":"partly_refunded","amount":224,"offset":14}"#]]);
    shop.get(&path("")).check(expect![[r#"
        200 content-type: application/json
        {"buyer":1,"id":"01890a5d-ac96-774b-bcce-000000000001","state":"partly_refunded","outcome":"ok","currency":"GBP","payment":"coupon","total":548,"refunded":224,"offset":14,"received":true,"lines":[{"item":1,"quantity":2,"refunded":1,"unit_price":250,"discount":51},{"kind":"shipping","payee":88,"quantity":1,"refunded":0,"unit_price":99}],"payments":[{"method":"coupon","state":"captured","amount":60,"paid":60,"refunded":24,"coupon":5},{"method":"balance","state":"captured","amount":100,"paid":100,"refunded":41},{"method":"external","state":"captured","amount":388,"paid":388,"refunded":159,"suspended":27,"deadline_ms":4102444800000}]}"#]]);
    shop.get("/v1/buyers/1/coupons/5").check(expect![[r#"
        200 content-type: application/json
        {"buyer":1,"coupon":5,"funder":77,"currency":"GBP","amount":60,"minimum":400,"used":true}"#]]);
    let accounts = [
        "1?currency=GBP",
        "1?currency=GBP&kind=suspense",
        "1?currency=GBP&kind=deposit",
        "77?currency=GBP&kind=funding",
        "88?currency=GBP&kind=payable",
    ];
    let found = accounts.map(|path| format!("{path}: {}", account(&shop, path))).join("\n");
    expect![[r#"
        1?currency=GBP: "debits":100,"credits":10041,"balance":9941}
        1?currency=GBP&kind=suspense: "debits":0,"credits":27,"balance":27}
        1?currency=GBP&kind=deposit: "debits":548,"credits":548,"balance":0}
        77?currency=GBP&kind=funding: "debits":60,"credits":24,"balance":-36}
        88?currency=GBP&kind=payable: "debits":0,"credits":99,"balance":99}"#]]
    .assert_eq(&found);
    shop.get("/v1/accounts/1/statement?currency=GBP").check_without_times(expect![[r#"{"party":1,"currency":"GBP","kind":"main","movements":[{"offset":14,"type":"refund","amount":41,"order":"01890a5d-ac96-774b-bcce-000000000001","id":"01890a5d-ac96-774b-bcce-000000000037"},{"offset":8,"type":"order","amount":-100,"order":"01890a5d-ac96-774b-bcce-000000000001"},{"offset":1,"type":"opened","amount":10000}]}"#]]);
    let suspense = "/v1/accounts/1/statement?currency=GBP&kind=suspense";
    shop.get(suspense).check_without_times(expect![[r#"{"party":1,"currency":"GBP","kind":"suspense","movements":[{"offset":12,"type":"payment","amount":7,"order":"01890a5d-ac96-774b-bcce-000000000001","id":"01890a5d-ac96-774b-bcce-000000000035"},{"offset":11,"type":"payment","amount":20,"order":"01890a5d-ac96-774b-bcce-000000000001","id":"01890a5d-ac96-774b-bcce-000000000034"}]}"#]]);
    shop.get(&format!("{suspense}&limit=1")).check_without_times(expect![[r#"{"party":1,"currency":"GBP","kind":"suspense","movements":[{"offset":12,"type":"payment","amount":7,"order":"01890a5d-ac96-774b-bcce-000000000001","id":"01890a5d-ac96-774b-bcce-000000000035"}],"next":11}"#]]);
    shop.get(&format!("{suspense}&from=1")).check(expect![[r#"
        400 content-type: application/problem+json
        {"type":"urn:crest:problem:invalid","title":"invalid","status":400,"detail":"\"1\" is not where a page of this account's statement ended","field":"from"}"#]]);
}

#[test]
fn what_an_order_states_about_its_price_must_be_so() {
    let shop = Platform::shop();
    let paid = r#""payment":"external""#;
    for (number, payments, line) in [
        (1, paid, r#"{"item":1,"quantity":1,"list_price":249}"#),
        (2, paid, r#"{"item":1,"quantity":1,"discount":251}"#),
        (3, r#""payments":[{"method":"external","amount":251}]"#, r#"{"item":1,"quantity":1}"#),
        (4, r#""payments":[{"method":"external","amount":249}]"#, r#"{"item":1,"quantity":1}"#),
    ] {
        let answer = shop.post("/v1/orders", order(number, payments, line));
        assert_eq!((answer.status, answer.problem().0.as_str()), (409, "price_mismatch"), "{line}");
    }
}

#[test]
fn money_is_held_captured_and_released() {
    let shop = Platform::shop();
    let hold = |number, amount: u64| {
        let more = format!(r#","account":{{"party":1}},"currency":"GBP","amount":{amount}"#);
        change(number, &more)
    };
    let path = |change: &str| format!("/v1/accounts/1/holds/{}{change}", uuid(60));
    shop.post("/v1/holds", hold(60, 600)).check(expect![[r#"
        201 content-type: application/json
        {"outcome":"ok","amount":600,"offset":7}"#]]);
    shop.post("/v1/holds", hold(61, 1_000_000)).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:insufficient_funds","title":"insufficient funds","status":409,"detail":"the account that pays lacks the money","outcome":"insufficient_funds","offset":8}"#]]);
    let capture = change(62, r#","to":{"party":2},"amount":250"#);
    shop.post(&path("/capture"), capture).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","amount":250,"offset":9}"#]]);
    shop.get(&path("")).check(expect![[r#"
        200 content-type: application/json
        {"party":1,"id":"01890a5d-ac96-774b-bcce-00000000003c","kind":"main","currency":"GBP","amount":600,"held":350}"#]]);
    expect![[r#""debits":250,"credits":10000,"balance":9750,"held":350}"#]]
        .assert_eq(&account(&shop, "1?currency=GBP"));
    shop.post(&path("/release"), change(63, "")).check(expect![[r#"
        200 content-type: application/json
        {"outcome":"ok","amount":350,"offset":10}"#]]);
    shop.post(&path("/release"), change(64, "")).check(expect![[r#"
        409 content-type: application/problem+json
        {"type":"urn:crest:problem:wrong_state","title":"wrong state","status":409,"detail":"what this is about is not in a state that allows it","outcome":"wrong_state","offset":11}"#]]);
    expect![[r#""debits":250,"credits":10000,"balance":9750}"#]]
        .assert_eq(&account(&shop, "1?currency=GBP"));
}

#[test]
fn an_account_is_overdrawn_and_closed() {
    let shop = Platform::shop();
    let opened = r#"{"party":5,"currency":"GBP","balance":10,"overdraft":40}"#;
    assert_eq!(shop.post("/v1/accounts", opened).status, 201);
    let pay = |number, amount: u64| {
        let to = r#""to":{"kind":"clearing"},"currency":"GBP""#;
        change(number, &format!(r#","from":{{"party":5}},{to},"amount":{amount}"#))
    };
    assert_eq!(shop.post("/v1/transfers", pay(70, 51)).problem().0, "insufficient_funds");
    assert_eq!(shop.post("/v1/transfers", pay(71, 50)).status, 200);
    shop.get("/v1/accounts/5?currency=GBP").check(expect![[r#"
        200 content-type: application/json
        {"party":5,"currency":"GBP","kind":"main","debits":50,"credits":10,"balance":-40,"overdraft":40}"#]]);
    let update = |number, overdraft: u64| {
        change(number, &format!(r#","currency":"GBP","overdraft":{overdraft}"#))
    };
    assert_eq!(shop.post("/v1/accounts/5/update", update(72, 39)).problem().0, "wrong_state");
    let close = |number| change(number, r#","currency":"GBP""#);
    assert_eq!(shop.post("/v1/accounts/5/close", close(73)).problem().0, "wrong_state");
    let back = r#","from":{"kind":"clearing"},"to":{"party":5},"currency":"GBP","amount":40"#;
    assert_eq!(shop.post("/v1/transfers", change(74, back)).status, 200);
    assert_eq!(shop.post("/v1/accounts/5/close", close(75)).status, 200);
    assert_eq!(shop.post("/v1/transfers", change(76, back)).problem().0, "unknown_account");
    shop.get("/v1/accounts/5/statement?currency=GBP").check_without_times(expect![[r#"{"party":5,"currency":"GBP","kind":"main","movements":[{"offset":12,"type":"transfer","amount":40,"id":"01890a5d-ac96-774b-bcce-00000000004a"},{"offset":9,"type":"transfer","amount":-50,"id":"01890a5d-ac96-774b-bcce-000000000047"},{"offset":7,"type":"opened","amount":10}]}"#]]);
}
