//! Rehearsal and trade behind one door: the same ids, and neither sees the other.

use expect_test::expect;
use gateway::{DRILL_HEADER, DrillDoor, DrillKey};

use crate::client::{Answer, order, order_path};
use crate::platform::Platform;

/// 2100, in Unix seconds.
const FAR: u64 = 4_102_444_800;

fn key() -> DrillKey {
    DrillKey::new(b"a key that nobody guesses").unwrap()
}

/// Sends a request with a mark.
fn ask(platform: &Platform, mark: &str, method: &str, path: &str, body: &str) -> Answer {
    let mut connection = platform.connect();
    let length = body.len();
    connection.send(format!(
        "{method} {path} HTTP/1.1\r\nhost: crest\r\n{DRILL_HEADER}: {mark}\r\n\
         content-length: {length}\r\n\r\n{body}"
    ));
    connection.answer()
}

fn rehearse(platform: &Platform, path: &str, body: &str) -> Answer {
    ask(platform, &key().mark(FAR), "POST", path, body)
}

fn see(platform: &Platform, path: &str) -> Answer {
    ask(platform, &key().mark(FAR), "GET", path, "")
}

fn account(balance: u64) -> String {
    format!(r#"{{"party":1,"currency":"GBP","balance":{balance}}}"#)
}

fn item(price: u64, stock: u64) -> String {
    format!(r#"{{"item":1,"seller":9,"currency":"GBP","price":{price},"stock":{stock}}}"#)
}

#[test]
fn the_same_ids_in_both_realms_never_meet() {
    for (shards, groups) in [(1, 1), (16, 2)] {
        let shop = Platform::rehearsing(shards, groups, DrillDoor::new(Some(key())));
        assert_eq!(shop.post("/v1/accounts", account(1_000)).status, 201);
        assert_eq!(shop.post("/v1/items", item(250, 1)).status, 201);
        for path in ["/v1/accounts/1?currency=GBP", "/v1/items/1"] {
            assert_eq!((shop.get(path).status, see(&shop, path).status), (200, 404), "{path}");
        }
        assert_eq!(rehearse(&shop, "/v1/accounts", &account(50)).status, 201);
        assert_eq!(rehearse(&shop, "/v1/items", &item(10, 3)).status, 201);

        // One id, two orders: with other content it would be reused, with the same a repeat.
        let two = order(1, 1, "balance", r#"[{"item":1,"quantity":2}]"#);
        let one = order(1, 1, "balance", r#"[{"item":1,"quantity":1}]"#);
        assert_eq!(rehearse(&shop, "/v1/orders", &two).status, 201);
        assert_eq!(see(&shop, &order_path(1, 1, "")).status, 200);
        assert_eq!(shop.get(&order_path(1, 1, "")).status, 404);
        assert_eq!(shop.post("/v1/orders", &one).status, 201);
        assert_eq!(rehearse(&shop, "/v1/orders", &two).status, 200);
        assert_eq!(rehearse(&shop, "/v1/orders", &one).status, 422);

        // Gone in trade, and not in rehearsal.
        let next = order(1, 2, "balance", r#"[{"item":1,"quantity":1}]"#);
        assert_eq!(shop.post("/v1/orders", &next).status, 409);
        assert_eq!(rehearse(&shop, "/v1/orders", &next).status, 201);

        let whole = r#"{"id":"01890a5d-ac96-774b-bcce-b30209900001","restock":true}"#;
        let refunded = rehearse(&shop, &order_path(1, 1, "/refund"), whole);
        assert_eq!(refunded.status, 200, "{}", refunded.body);
        let balance = |answer: Answer| {
            let (_, rest) = answer.body.split_once(r#""balance":"#).unwrap();
            rest.chars().take_while(char::is_ascii_digit).collect::<String>()
        };
        let path = "/v1/accounts/1?currency=GBP";
        assert_eq!(balance(shop.get(path)), "750");
        assert_eq!(balance(see(&shop, path)), "40");
    }
}

#[test]
fn batches_are_rehearsed_whole() {
    let shop = Platform::rehearsing(16, 2, DrillDoor::new(Some(key())));
    let accounts: Vec<String> = (1..=50)
        .map(|party| format!(r#"{{"party":{party},"currency":"GBP","balance":5}}"#))
        .collect();
    let body = format!(r#"{{"accounts":[{}]}}"#, accounts.join(","));
    assert_eq!(rehearse(&shop, "/v1/accounts/batch", &body).status, 200);
    for party in 1..=50 {
        let path = format!("/v1/accounts/{party}?currency=GBP");
        assert_eq!((shop.get(&path).status, see(&shop, &path).status), (404, 200), "{path}");
    }
}

#[test]
fn a_mark_that_is_not_good_is_refused_and_nothing_is_done() {
    let shop = Platform::rehearsing(1, 1, DrillDoor::new(Some(key())));
    let good = key().mark(FAR);
    let forged = DrillKey::new(b"a key of somebody else's").unwrap().mark(FAR);
    let marks = [(forged.as_str(), 403), (&key().mark(1), 403), ("yes", 400), ("", 400)];
    let before = shop.next_offset();
    for (mark, status) in marks {
        let kind = if status == 403 { "drill_refused" } else { "invalid" };
        for (method, path, body) in [
            ("POST", "/v1/accounts", account(1)),
            ("POST", "/v1/accounts/batch", format!(r#"{{"accounts":[{}]}}"#, account(1))),
            ("GET", "/v1/items/1", String::new()),
        ] {
            let answer = ask(&shop, mark, method, path, &body);
            assert_eq!(answer.status, status, "{mark:?}: {}", answer.body);
            assert_eq!(answer.problem(), (kind.to_string(), Some(DRILL_HEADER.to_string())));
        }
    }
    for (mark, status) in [("yes", 400), (&forged, 403), (&good, 403)] {
        // Not even with a good one: trade has the same keys.
        let answer = ask(&shop, mark, "DELETE", "/v1/parties/1/private", "");
        assert_eq!(answer.status, status, "{mark:?}: {}", answer.body);
    }
    assert_eq!(shop.next_offset(), before + 1, "something was executed");
    assert_eq!(ask(&shop, &good, "POST", "/v1/accounts", &account(1)).status, 201);
}

#[test]
fn without_a_key_what_is_marked_is_refused() {
    let shop = Platform::shop();
    let before = shop.next_offset();
    ask(&shop, &key().mark(FAR), "POST", "/v1/accounts", &account(1)).check(expect![[r#"
        403 content-type: application/problem+json
        {"type":"urn:crest:problem:drill_refused","title":"drill refused","status":403,"detail":"the mark in `crest-drill` is refused, and nothing was done: no drills are taken here: there is no drill key","field":"crest-drill"}"#]]);
    assert_eq!(shop.next_offset(), before + 1);
}

#[test]
fn drills_that_are_stopped_are_told_so_and_trade_goes_on() {
    let door = DrillDoor::new(Some(key()));
    let shop = Platform::rehearsing(16, 2, door.clone());
    assert_eq!(rehearse(&shop, "/v1/accounts", &account(50)).status, 201);
    door.stop(true);
    for answer in
        [rehearse(&shop, "/v1/items", &item(10, 3)), see(&shop, "/v1/accounts/1?currency=GBP")]
    {
        answer.check(expect![[r#"
            503 content-type: application/problem+json retry-after: 1
            {"type":"urn:crest:problem:drill_stopped","title":"drill stopped","status":503,"detail":"drills are stopped; nothing was done"}"#]]);
    }
    assert_eq!(shop.post("/v1/items", item(10, 3)).status, 201);
    door.stop(false);
    assert_eq!(see(&shop, "/v1/items/1").status, 404);
    assert_eq!(rehearse(&shop, "/v1/items", &item(10, 3)).status, 201);
}
