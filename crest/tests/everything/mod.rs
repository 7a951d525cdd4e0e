//! Something of every type of event.

use std::time::{Duration, Instant};

use crate::platform::{Platform, read_feed, request};

const PATIENCE: Duration = Duration::from_secs(60);

fn uuid(n: u64) -> String {
    format!("01890a5d-ac96-774b-bcce-{n:012x}")
}

/// Has it done by a platform with a short `--settle-step`: all events.
pub fn trade(platform: &Platform) -> Vec<String> {
    let mut number = 100;
    let mut post = |path: &str, rest: &str| {
        number += 1;
        let change = format!(r#"{{"id":"{}"{rest}}}"#, uuid(number));
        let body = if rest.starts_with('{') { rest } else { &change };
        let (status, answer) = request(&platform.url, "POST", path, body);
        assert!(status < 500 && status != 400 && status != 404, "{path} {body}: {answer}");
        uuid(number)
    };
    for party in 1..=9 {
        post("/v1/accounts", &format!(r#"{{"party":{party},"currency":"GBP","balance":9000}}"#));
    }
    post("/v1/accounts/1/update", r#","currency":"GBP","overdraft":50"#);
    post("/v1/accounts/8/close", r#","currency":"GBP""#);
    post("/v1/accounts", r#"{"party":20,"currency":"EUR"}"#);
    post("/v1/accounts/20/close", r#","currency":"EUR""#);
    post("/v1/items", r#"{"item":1,"seller":9,"currency":"GBP","price":250,"stock":100}"#);
    let window = r#""opens_ms":4102444800000,"closes_ms":4102444900000,"limit":2"#;
    post(
        "/v1/items",
        &format!(
            r#"{{"item":18446744073709551615,"seller":9,"currency":"GBP","price":1,{window}}}"#
        ),
    );
    post("/v1/items/1/restock", r#","quantity":5"#);
    post("/v1/items/1/update", r#","price":240,"limit":50"#);
    post("/v1/items/1/update", r#","opens_ms":0,"closes_ms":4102444900000"#);
    post("/v1/items/77/update", r#","price":240"#);
    for party in 2..=7 {
        let to = format!(r#","from":{{"party":1}},"to":{{"party":{party}}}"#);
        post("/v1/transfers", &format!(r#"{to},"currency":"GBP","amount":10"#));
    }
    post("/v1/transfers", r#","from":{"party":1},"to":{"party":4444},"currency":"GBP","amount":1"#);
    post(
        "/v1/transfers",
        r#","from":{"party":1},"to":{"party":2},"currency":"GBP","amount":99999"#,
    );
    let hold = post("/v1/holds", r#","account":{"party":1},"currency":"GBP","amount":60"#);
    post(&format!("/v1/accounts/1/holds/{hold}/capture"), r#","to":{"party":2},"amount":20"#);
    post(&format!("/v1/accounts/1/holds/{hold}/release"), "");
    post(&format!("/v1/accounts/1/holds/{hold}/release"), "");
    let soon = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64 + 900;
    let held =
        format!(r#","account":{{"party":1}},"currency":"GBP","amount":6,"deadline_ms":{soon}"#);
    post("/v1/holds", &held);
    let coupon = r#"{"buyer":1,"coupon":5,"funder":77,"seller":9,"currency":"GBP","amount":60,"minimum":400}"#;
    post("/v1/coupons", coupon);
    let order = |n: u64, payments: &str, lines: &str| {
        let id = uuid(n);
        format!(r#"{{"buyer":1,"id":"{id}","currency":"GBP",{payments},"lines":[{lines}]}}"#)
    };
    let one = r#"{"item":1,"quantity":1}"#;
    let lines = r#"{"item":1,"quantity":2,"list_price":240,"discount":31},
        {"kind":"shipping","payee":88,"unit_price":99}"#;
    let payments = r#""payments":[{"method":"coupon","coupon":5},{"method":"balance","amount":100},
        {"method":"await","deadline_ms":4102444800000}]"#;
    post("/v1/orders", &order(1, payments, lines));
    let change = |n: u64, change: &str| format!("/v1/buyers/1/orders/{}/{change}", uuid(n));
    post(&change(1, "authorise"), "");
    post(&change(1, "void"), "");
    post(&change(1, "capture"), r#","amount":200"#);
    post(&change(1, "capture"), r#","leg":2,"amount":208"#);
    post(&change(1, "capture"), r#","amount":7"#);
    post(&change(1, "pay"), r#","payment":"balance""#);
    post(&change(1, "receive"), "");
    post(&change(1, "refund"), r#","lines":[{"line":0,"quantity":1}],"restock":true"#);
    post(&change(1, "refund"), r#","lines":[{"line":0,"quantity":9}]"#);
    post(&change(1, "cancel"), "");
    post("/v1/orders", &order(2, r#""payment":"await""#, one));
    post(&change(2, "cancel"), "");
    post(&change(2, "receive"), "");
    let awaited = format!(r#""payment":"await","deadline_ms":{soon}"#);
    post("/v1/orders", &order(3, &awaited, one));
    post("/v1/orders", &order(4, r#""payment":"balance""#, r#"{"item":1,"quantity":49}"#));
    post("/v1/orders", &order(5, r#""payment":"external""#, r#"{"item":5,"quantity":1}"#));
    post("/v1/orders", &order(6, r#""payment":"external""#, one));
    // Until the deadlines have passed, and what was earned has been swept.
    let began = Instant::now();
    let has = |lines: &[String], name: &str| {
        lines.iter().any(|line| line.contains(&format!("crest.{name}.v1")))
    };
    loop {
        let lines = read_feed(&platform.url, "from=earliest", "");
        let all = ["order.expired", "hold.expired", "settlement.credited", "settlement.debited"];
        if all.iter().all(|name| has(&lines, name)) {
            return lines;
        }
        assert!(began.elapsed() < PATIENCE, "not yet {all:?}, in {} events", lines.len());
        std::thread::sleep(Duration::from_millis(200));
    }
}
