//! What can't be done as asked: a problem says why, and nothing has changed.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use gateway::Limits;

use crate::client::{Answer, change, chunked, order, order_path, post, uuid};
use crate::platform::Platform;

const ONE: &str = r#"[{"item":1,"quantity":1}]"#;

/// Asserts that each of these is a problem after which all is as before.
fn refused(requests: &[(&str, &[u8])], expected: Expect) {
    let shop = Platform::shop();
    let before = shop.books();
    let mut found = String::new();
    for (path, body) in requests {
        let answer = shop.post(path, body);
        summarize(&answer, &mut found);
    }
    expected.assert_eq(&found);
    assert_eq!(shop.books(), before);
    assert_eq!(shop.next_offset(), 7, "something was logged");
}

fn summarize(answer: &Answer, text: &mut String) {
    use sonic_rs::JsonValueTrait;
    let (kind, field) = answer.problem();
    let problem: sonic_rs::Value = sonic_rs::from_str(&answer.body).unwrap();
    let detail = problem.get("detail").as_str().unwrap().to_string();
    let field = field.map_or(String::new(), |field| format!(" [{field}]"));
    writeln!(text, "{} {kind}{field} {detail}", answer.status).unwrap();
}

fn bad_orders(bodies: &[String], expected: Expect) {
    let requests: Vec<_> = bodies.iter().map(|body| ("/v1/orders", body.as_bytes())).collect();
    refused(&requests, expected);
}

#[test]
fn a_problem_has_the_shape_of_rfc_9457() {
    let shop = Platform::shop();
    let body = order(1, 1, "balance", r#"[{"item":1,"quantity":0}]"#);
    shop.post("/v1/orders", body).check(expect![[r#"
        400 content-type: application/problem+json
        {"type":"urn:crest:problem:invalid","title":"invalid","status":400,"detail":"0 is not an integer from 1 to 1000000000","field":"lines[0].quantity"}"#]]);
}

#[test]
fn json_that_is_none() {
    let one = order(1, 1, "external", ONE);
    let half = &one[..one.len() / 2];
    bad_orders(
        &[
            String::new(),
            " ".to_string(),
            "{".to_string(),
            "null".to_string(),
            "[]".to_string(),
            "17".to_string(),
            "\"order\"".to_string(),
            "{}".to_string(),
            half.to_string(),
            format!("{one} {one}"),
            format!("{one}]"),
            format!("{one}\0"),
            format!("\u{feff}{one}"),
            one.replace("\"buyer\":1", "\"buyer\":01"),
            one.replace("\"buyer\":1", "'buyer':1"),
            one.replace("\"buyer\":1", "\"buyer\":NaN"),
            one.replace("}]}", "},]}"),
            one.replace("}]}", "}],}"),
            one.replace("GBP", "G\nP"),
            one.replace("GBP", "\\ud800"),
        ],
        expect![[r#"
            400 invalid EOF while parsing at line 1 column 1
            400 invalid EOF while parsing at line 1 column 1
            400 invalid EOF while parsing at line 1 column 1
            400 invalid invalid type: null, expected an order
            400 invalid invalid type: sequence, expected an order
            400 invalid invalid type: integer `17`, expected an order
            400 invalid invalid type: string "order", expected an order
            400 invalid [buyer] missing field `buyer`
            400 invalid EOF while parsing at line 1 column 63
            400 invalid something follows after the end of the JSON
            400 invalid something follows after the end of the JSON
            400 invalid something follows after the end of the JSON
            400 invalid Invalid JSON value at line 1 column 1
            400 invalid [buyer] 0 is not an integer from 1 to 18446744073709551615
            400 invalid Expected this character to be '"' or '}' at line 1 column 2
            400 invalid [buyer] Invalid JSON value at line 1 column 10
            400 invalid [lines[1]] Invalid JSON value at line 1 column 127
            400 invalid JSON has a comma after the last value in an array or object at line 1 column 128
            400 invalid [currency] Control character found while parsing a string at line 1 column 68
            400 invalid [currency] Invalid surrogate Unicode code point at line 1 column 79
        "#]],
    );
}

#[test]
fn bytes_that_are_no_text() {
    let one = order(1, 1, "external", ONE).into_bytes();
    let with = |from: &str, to: &[u8]| {
        let at = one.windows(from.len()).position(|found| found == from.as_bytes()).unwrap();
        [&one[..at], to, &one[at + from.len()..]].concat()
    };
    let bodies = [
        with("GBP", b"\xff\xfe\xfd"),
        with("buyer", b"b\xc3\x28er"),
        with("external", b"\xed\xa0\x80"),
        with("external", b"\xf0\x9f\x92"),
        with("\"buyer\":1", b"\"buyer\":\"\xff\""),
        with("\"buyer\":1", b"\xff\"buyer\":1"),
        [&one[..], b"\xff"].concat(),
    ];
    let requests: Vec<_> = bodies.iter().map(|body| ("/v1/orders", &body[..])).collect();
    refused(
        &requests,
        expect![[r#"
        400 invalid [currency] Invalid UTF-8 characters in json at line 1 column 68
        400 invalid Invalid UTF-8 characters in json at line 1 column 4
        400 invalid [payment] Invalid UTF-8 characters in json at line 1 column 84
        400 invalid [payment] Invalid UTF-8 characters in json at line 1 column 84
        400 invalid [buyer] Invalid UTF-8 characters in json at line 1 column 11
        400 invalid Invalid UTF-8 characters in json at line 1 column 2
        400 invalid something follows after the end of the JSON
    "#]],
    );
}

#[test]
fn fields_that_are_unknown_missing_or_twice() {
    let one = order(1, 1, "external", ONE);
    bad_orders(
        &[
            one.replace("\"buyer\":1", "\"buyer\":1,\"colour\":\"red\""),
            one.replace("\"quantity\":1", "\"quantity\":1,\"rebate\":5"),
            one.replace("\"buyer\":1", "\"Buyer\":1"),
            one.replace("\"buyer\":1,", ""),
            one.replace("\"currency\":\"GBP\",", ""),
            one.replace(",\"quantity\":1", ""),
            one.replace(&format!(",\"lines\":{ONE}"), ""),
            one.replace("\"buyer\":1", "\"buyer\":1,\"buyer\":1"),
            one.replace("\"buyer\":1", "\"buyer\":1,\"buy\\u0065r\":1"),
            one.replace("\"quantity\":1", "\"quantity\":1,\"quantity\":1"),
            one.replace("}]}", &format!("}}],\"lines\":{ONE}}}")),
        ],
        expect![[r#"
            400 invalid [colour] unknown field `colour`, expected one of `buyer`, `id`, `currency`, `payment`, `payments`, `lines`, `deadline_ms`, `forfeit`, `private`
            400 invalid [lines[0].rebate] unknown field `rebate`, expected one of `item`, `quantity`, `unit_price`, `list_price`, `payee`, `discount`, `kind`
            400 invalid [Buyer] unknown field `Buyer`, expected one of `buyer`, `id`, `currency`, `payment`, `payments`, `lines`, `deadline_ms`, `forfeit`, `private`
            400 invalid [buyer] missing field `buyer`
            400 invalid [currency] missing field `currency`
            400 invalid [lines[0].quantity] missing field `quantity`
            400 invalid [lines] missing field `lines`
            400 invalid [buyer] duplicate field `buyer`
            400 invalid [buyer] duplicate field `buyer`
            400 invalid [lines[0].quantity] duplicate field `quantity`
            400 invalid [lines] duplicate field `lines`
        "#]],
    );
}

#[test]
fn values_out_of_range() {
    let one = order(1, 1, "external", ONE);
    let quantity = |value: &str| one.replace("\"quantity\":1", &format!("\"quantity\":{value}"));
    let buyer = |value: &str| one.replace("\"buyer\":1", &format!("\"buyer\":{value}"));
    bad_orders(
        &[
            quantity("0"),
            quantity("-1"),
            quantity("1000000001"),
            quantity("18446744073709551616"),
            quantity("1.0"),
            quantity("1e3"),
            quantity("-0"),
            quantity("\"-1\""),
            quantity("\"+1\""),
            quantity("\" 1\""),
            quantity("\"\""),
            quantity("null"),
            quantity("true"),
            quantity("[1]"),
            quantity("{\"units\":1}"),
            quantity("1,\"unit_price\":-1"),
            quantity("1,\"unit_price\":1000000000000001"),
            buyer("0"),
            buyer("18446744073709551616"),
            one.replace(&uuid(1), "1"),
            one.replace(&uuid(1), "00000000-0000-0000-0000-000000000000"),
            one.replace(&uuid(1), &uuid(1).replace('-', "")),
            one.replace("GBP", "gbp"),
            one.replace("GBP", "QQQ"),
            one.replace("external", "card"),
            order(1, 1, "external", "[]"),
            order(1, 1, "external", "{}"),
            order(1, 1, "external", "null"),
        ],
        expect![[r#"
            400 invalid [lines[0].quantity] 0 is not an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] -1 is not an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] 1000000001 is not an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] invalid type: floating point `18446744073709552000.0`, expected an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] invalid type: floating point `1.0`, expected an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] invalid type: floating point `1000.0`, expected an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] invalid type: floating point `0.0`, expected an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] "-1" is not an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] "+1" is not an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] " 1" is not an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] "" is not an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] invalid type: null, expected an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] invalid type: boolean `true`, expected an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] invalid type: sequence, expected an integer from 1 to 1000000000
            400 invalid [lines[0].quantity] invalid type: map, expected an integer from 1 to 1000000000
            400 invalid [lines[0].unit_price] -1 is not an integer from 0 to 1000000000000000
            400 invalid [lines[0].unit_price] 1000000000000001 is not an integer from 0 to 1000000000000000
            400 invalid [buyer] 0 is not an integer from 1 to 18446744073709551615
            400 invalid [buyer] invalid type: floating point `18446744073709552000.0`, expected an integer from 1 to 18446744073709551615
            400 invalid [id] "1" is not a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057
            400 invalid [id] "00000000-0000-0000-0000-000000000000" is not a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057
            400 invalid [id] "01890a5dac96774bbcce000000000001" is not a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057
            400 invalid [currency] "gbp" is not an ISO 4217 code such as GBP
            400 invalid [currency] "QQQ" is not an ISO 4217 code such as GBP
            400 invalid [payment] "card" is not `balance`, `external` or `await`
            400 invalid [lines] must not be empty
            400 invalid [lines] invalid type: map, expected an array of lines
            400 invalid [lines] invalid type: null, expected an array of lines
        "#]],
    );
}

#[test]
fn bad_bodies_of_the_other_paths() {
    let id = uuid(1);
    let order_1 = |rest| order_path(1, 1, rest);
    let (pay, cancel, refund) = (order_1("/pay"), order_1("/cancel"), order_1("/refund"));
    let bodies: &[(&str, String)] = &[
        ("/v1/accounts", r#"{"party":0,"currency":"GBP"}"#.into()),
        ("/v1/accounts", r#"{"party":5,"currency":"GBP","balance":-1}"#.into()),
        ("/v1/accounts", r#"{"party":5}"#.into()),
        ("/v1/accounts/batch", r#"{"accounts":[]}"#.into()),
        ("/v1/accounts/batch", r#"{"accounts":[{"party":5,"currency":"GBP"},{}]}"#.into()),
        ("/v1/items", r#"{"item":5,"seller":0,"currency":"GBP","price":1}"#.into()),
        ("/v1/items", r#"{"item":5,"seller":9,"currency":"GBP"}"#.into()),
        (
            "/v1/items",
            r#"{"item":5,"seller":9,"currency":"GBP","price":1,"stock":1000000000000001}"#.into(),
        ),
        ("/v1/items/batch", r#"{"items":{}}"#.into()),
        ("/v1/items/1/restock", format!(r#"{{"id":"{id}","quantity":0}}"#)),
        ("/v1/items/1/restock", r#"{"quantity":1}"#.into()),
        (
            "/v1/transfers",
            format!(
                r#"{{"id":"{id}","from":{{"party":1}},"to":{{"party":2}},"currency":"GBP","amount":0}}"#
            ),
        ),
        (
            "/v1/transfers",
            format!(
                r#"{{"id":"{id}","from":{{"party":1}},"to":{{"party":1}},"currency":"GBP","amount":1}}"#
            ),
        ),
        (
            "/v1/transfers",
            format!(
                r#"{{"id":"{id}","from":{{"party":1}},"to":{{}},"currency":"GBP","amount":1}}"#
            ),
        ),
        ("/v1/transfers/batch", r#"{"transfers":[{}]}"#.into()),
        (&pay, format!(r#"{{"id":"{id}","payment":"await"}}"#)),
        (&pay, change(1)),
        (&cancel, "{}".into()),
        (&cancel, format!(r#"{{"id":"{id}","why":"changed my mind"}}"#)),
        (&refund, format!(r#"{{"id":"{id}","lines":[]}}"#)),
        (&refund, format!(r#"{{"id":"{id}","lines":[{{"line":2000,"quantity":1}}]}}"#)),
        (&refund, format!(r#"{{"id":"{id}","lines":[{{"line":0,"quantity":0}}]}}"#)),
        (&refund, format!(r#"{{"id":"{id}","restock":"yes"}}"#)),
    ];
    let requests: Vec<_> = bodies.iter().map(|(path, body)| (*path, body.as_bytes())).collect();
    refused(
        &requests,
        expect![[r#"
            400 invalid [party] 0 is not an integer from 1 to 18446744073709551615
            400 invalid [balance] -1 is not an integer from 0 to 1000000000000000
            400 invalid [currency] missing field `currency`
            400 invalid [accounts] must not be empty
            400 invalid [accounts[1].party] missing field `party`
            400 invalid [seller] 0 is not an integer from 1 to 18446744073709551615
            400 invalid [price] missing field `price`
            400 invalid [stock] 1000000000000001 is not an integer from 0 to 1000000000000000
            400 invalid [items] invalid type: map, expected an array
            400 invalid [quantity] 0 is not an integer from 1 to 1000000000000000
            400 invalid [id] missing field `id`
            400 invalid [amount] 0 is not an integer from 1 to 1000000000000000
            400 invalid `from` and `to` name the same account
            400 invalid [to.party] missing field `party`
            400 invalid [transfers[0].id] missing field `id`
            400 invalid [payment] "await" is not `balance` or `external`
            400 invalid [payment] missing field `payment`
            400 invalid [id] missing field `id`
            400 invalid [why] unknown field `why`, expected `id`
            400 invalid [lines] must not be empty
            400 invalid [lines[0].line] 2000 is not an integer from 0 to 1999
            400 invalid [lines[0].quantity] 0 is not an integer from 1 to 1000000000
            400 invalid [restock] invalid type: string "yes", expected a boolean
        "#]],
    );
}

#[test]
fn one_bad_order_refuses_its_batch() {
    let orders: Vec<_> = (1..=9).map(|id| order(1, id, "external", ONE)).collect();
    let good = format!(r#"{{"orders":[{}]}}"#, orders.join(","));
    let last = good.replace(&uuid(9), "nine");
    let currency = good.replacen("GBP", "EURO", 3);
    refused(
        &[("/v1/orders/batch", last.as_bytes()), ("/v1/orders/batch", currency.as_bytes())],
        expect![[r#"
            400 invalid [orders[8].id] "nine" is not a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057
            400 invalid [orders[0].currency] "EURO" is not an ISO 4217 code such as GBP
        "#]],
    );
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    let deep = |open: &str, close: &str| {
        let (open, close) = (open.repeat(100_000), close.repeat(100_000));
        format!("{open}1{close}")
    };
    let one = order(1, 1, "external", ONE);
    let within = |name: &str, value: &str| one.replace(name, &format!("{name}{value},{name}"));
    bad_orders(
        &[
            deep("[", "]"),
            "[".repeat(100_000),
            deep("{\"lines\":", "}"),
            deep("{\"buyer\":", "}"),
            within("\"buyer\":", &deep("[", "]")),
            within("\"lines\":", &deep("[", "]")),
            within("\"quantity\":", &deep("{\"a\":", "}")),
            one.replace("\"buyer\":1", &format!("\"buyer\":1,\"more\":{}", deep("[", "]"))),
        ],
        expect![[r#"
            400 invalid invalid type: sequence, expected an order
            400 invalid invalid type: sequence, expected an order
            400 invalid [lines] invalid type: map, expected an array of lines
            400 invalid [buyer] invalid type: map, expected an integer from 1 to 18446744073709551615
            400 invalid [buyer] invalid type: sequence, expected an integer from 1 to 18446744073709551615
            400 invalid [lines[0]] invalid type: sequence, expected an object
            400 invalid [lines[0].quantity] invalid type: map, expected an integer from 1 to 1000000000
            400 invalid [more] unknown field `more`, expected one of `buyer`, `id`, `currency`, `payment`, `payments`, `lines`, `deadline_ms`, `forfeit`, `private`
        "#]],
    );
}

#[test]
fn a_problem_does_not_grow_with_what_was_sent() {
    let shop = Platform::shop();
    let long = "\u{7f}".repeat(1 << 20);
    let one = order(1, 1, "external", ONE);
    for body in [one.replace("GBP", &long), one.replace("buyer", &long)] {
        let answer = shop.post("/v1/orders", body);
        assert_eq!(answer.problem().0, "invalid");
        assert!(answer.body.len() < 4096, "{} bytes", answer.body.len());
    }
}

#[test]
fn lines_and_orders_up_to_their_bounds() {
    let shop = Platform::shop();
    let lines = |count| format!("[{}]", vec![r#"{"item":3,"quantity":1}"#; count].join(","));
    let orders = |count: u64| {
        let orders: Vec<_> = (1..=count).map(|id| order(1, id, "external", ONE)).collect();
        format!(r#"{{"orders":[{}]}}"#, orders.join(","))
    };
    let mut found = String::new();
    summarize(&shop.post("/v1/orders", order(1, 1, "external", &lines(2001))), &mut found);
    summarize(&shop.post("/v1/orders/batch", orders(10_001)), &mut found);
    expect![[r#"
        400 invalid [lines] more than 2000 lines
        400 invalid [orders] more than 10000 in one request
    "#]]
    .assert_eq(&found);
    assert_eq!(shop.next_offset(), 7);

    // Decided whole, though only five units are left for 2,000 lines.
    let full = order(2, 1, "external", &lines(2000));
    assert_eq!(shop.post("/v1/orders", full).problem().1.as_deref(), Some("lines[0]"));
    let answer = shop.post("/v1/orders/batch", orders(10_000));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body.matches("\"outcome\":").count(), 10_000);
    assert_eq!(answer.body.matches("\"outcome\":\"ok\"").count(), 10);
    assert_eq!(shop.next_offset(), 10_009);
}

#[test]
fn paths_and_methods() {
    let shop = Platform::shop();
    let id = uuid(1);
    let mut found = String::new();
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/"),
        ("GET", "/v2/items/1"),
        ("GET", "//v1/items/1"),
        ("GET", "/v1/items/1/"),
        ("DELETE", "/v1/items"),
        ("GET", "/v1/orders"),
        ("POST", "/v1/orders/"),
        ("POST", "/v1/items/1"),
        ("DELETE", "/v1/items/1"),
        ("OPTIONS", "/v1/items/1"),
        ("OPTIONS", "*"),
        ("TRACE", "/v1/orders"),
        ("BREW", "/v1/orders"),
        ("GET", "/v1/items/-1"),
        ("GET", "/v1/items/%31"),
        ("GET", "/v1/items/18446744073709551616"),
        ("GET", "/v1/items/.."),
        ("GET", "/v1/accounts/1"),
        ("GET", "/v1/accounts/1?currency=gbp"),
        ("GET", "/v1/accounts/1?currency=GBP&kind=savings"),
        ("GET", "/v1/accounts/1?currency=GBP&colour=red"),
        ("GET", "/v1/accounts/1?currency=GBP&currency=EUR"),
        ("GET", "/v1/accounts/one?currency=GBP"),
        ("GET", "/v1/buyers/1/orders/1"),
        ("GET", &format!("/v1/buyers/x/orders/{id}")),
        ("POST", &format!("/v1/buyers/1/orders/{id}")),
        ("GET", &format!("/v1/buyers/1/orders/{id}/pay")),
        ("POST", &format!("/v1/buyers/1/orders/{id}/steal")),
        ("GET", "/v1/a/b/c/d/e/f/g"),
    ] {
        let mut connection = shop.connect();
        connection.send(format!("{method} {path} HTTP/1.1\r\nhost: crest\r\n\r\n"));
        let answer = connection.answer();
        let allow = answer.header("allow").map_or(String::new(), |allow| format!(" ({allow})"));
        write!(found, "{method} {path}{allow}: ").unwrap();
        summarize(&answer, &mut found);
        assert_eq!(answer.status == 405, answer.header("allow").is_some());
    }
    expect![[r#"
        GET /: 404 no_such_path nothing is at /
        GET /v1: 404 no_such_path nothing is at /v1
        GET /v1/: 404 no_such_path nothing is at /v1/
        GET /v2/items/1: 404 no_such_path nothing is at /v2/items/1
        GET //v1/items/1: 404 no_such_path nothing is at //v1/items/1
        GET /v1/items/1/: 404 no_such_path nothing is at /v1/items/1/
        DELETE /v1/items (GET, HEAD, POST): 405 wrong_method this path takes GET, HEAD, POST
        GET /v1/orders (POST): 405 wrong_method this path takes POST
        POST /v1/orders/: 404 no_such_path nothing is at /v1/orders/
        POST /v1/items/1 (GET, HEAD): 405 wrong_method this path takes GET, HEAD
        DELETE /v1/items/1 (GET, HEAD): 405 wrong_method this path takes GET, HEAD
        OPTIONS /v1/items/1 (GET, HEAD): 405 wrong_method this path takes GET, HEAD
        OPTIONS *: 404 no_such_path nothing is at *
        TRACE /v1/orders (POST): 405 wrong_method this path takes POST
        BREW /v1/orders (POST): 405 wrong_method this path takes POST
        GET /v1/items/-1: 400 invalid [item] "-1" is not an integer from 0 to 18446744073709551615
        GET /v1/items/%31: 400 invalid [item] "%31" is not an integer from 0 to 18446744073709551615
        GET /v1/items/18446744073709551616: 400 invalid [item] "18446744073709551616" is not an integer from 0 to 18446744073709551615
        GET /v1/items/..: 400 invalid [item] ".." is not an integer from 0 to 18446744073709551615
        GET /v1/accounts/1: 400 invalid [currency] "" is not an ISO 4217 code such as GBP
        GET /v1/accounts/1?currency=gbp: 400 invalid [currency] "gbp" is not an ISO 4217 code such as GBP
        GET /v1/accounts/1?currency=GBP&kind=savings: 400 invalid [kind] "savings" is not `main`, `payable`, `settlement`, `suspense`, `deposit`, `funding` or `clearing`
        GET /v1/accounts/1?currency=GBP&colour=red: 400 invalid [colour] "colour" is not a parameter; `currency` and `kind` are
        GET /v1/accounts/1?currency=GBP&currency=EUR: 404 unknown_account party 1 has no main account in EUR
        GET /v1/accounts/one?currency=GBP: 400 invalid [party] "one" is not an integer from 0 to 18446744073709551615
        GET /v1/buyers/1/orders/1: 400 invalid [id] "1" is not a UUID in its hyphenated form
        GET /v1/buyers/x/orders/01890a5d-ac96-774b-bcce-000000000001: 400 invalid [buyer] "x" is not an integer from 0 to 18446744073709551615
        POST /v1/buyers/1/orders/01890a5d-ac96-774b-bcce-000000000001 (GET, HEAD): 405 wrong_method this path takes GET, HEAD
        GET /v1/buyers/1/orders/01890a5d-ac96-774b-bcce-000000000001/pay (POST): 405 wrong_method this path takes POST
        POST /v1/buyers/1/orders/01890a5d-ac96-774b-bcce-000000000001/steal: 404 no_such_path nothing is at /v1/buyers/1/orders/01890a5d-ac96-774b-bcce-000000000001/steal
        GET /v1/a/b/c/d/e/f/g: 404 no_such_path nothing is at /v1/a/b/c/d/e/f/g
    "#]].assert_eq(&found);
}

#[test]
fn only_json_is_taken() {
    let shop = Platform::shop();
    let body = order(1, 1, "external", ONE);
    let send = |content_type: &str| {
        let mut connection = shop.connect();
        let length = body.len();
        connection.send(format!(
            "POST /v1/orders HTTP/1.1\r\nhost: crest\r\n{content_type}\
             content-length: {length}\r\n\r\n{body}"
        ));
        connection.answer()
    };
    let mut found = String::new();
    for wrong in ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"] {
        summarize(&send(&format!("content-type: {wrong}\r\n")), &mut found);
    }
    expect![[r#"
        415 unsupported_media_type "text/plain" is neither application/json nor application/vnd.crest.v1
        415 unsupported_media_type "application/x-www-form-urlencoded" is neither application/json nor application/vnd.crest.v1
        415 unsupported_media_type "" is neither application/json nor application/vnd.crest.v1
        415 unsupported_media_type "application/jsonp" is neither application/json nor application/vnd.crest.v1
    "#]]
    .assert_eq(&found);
    assert_eq!(shop.next_offset(), 7);
    assert_eq!(send("content-type: Application/JSON ; charset=utf-8\r\n").status, 201);
    assert_eq!(send("").status, 200);
}

#[test]
fn a_body_over_the_limit() {
    let shop = Platform::shop_with(Limits { body_bytes: 1000, ..Limits::default() });
    let before = shop.books();
    let pad = |bytes: usize| {
        let body = order(1, 1, "external", ONE);
        format!("{}{body}", " ".repeat(bytes - body.len()))
    };
    let head = "POST /v1/orders HTTP/1.1\r\nhost: crest\r\n";
    let chunks = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    let length = |bytes: &str| format!("{head}content-length: {bytes}\r\n\r\n").into_bytes();
    let mut found = String::new();
    for request in [
        post("/v1/orders", pad(1001)),
        // Refused by what it says, before any of it comes.
        length("1001"),
        length("18446744073709551613"),
        [chunks.clone(), chunked(pad(1001).as_bytes(), 1001)].concat(),
        [chunks.clone(), chunked(pad(1001).as_bytes(), 1)].concat(),
    ] {
        let mut connection = shop.connect();
        connection.send(request);
        summarize(&connection.answer(), &mut found);
    }
    expect![[r#"
        413 too_large a body may have 1000 bytes
        413 too_large a body may have 1000 bytes
        413 too_large a body may have 1000 bytes
        413 too_large a body may have 1000 bytes
        413 too_large a body may have 1000 bytes
    "#]]
    .assert_eq(&found);
    assert_eq!(shop.books(), before);

    assert_eq!(shop.post("/v1/orders", pad(1000)).status, 201);
    let mut connection = shop.connect();
    connection.send([chunks, chunked(pad(1000).as_bytes(), 7)].concat());
    assert_eq!(connection.answer().status, 200);
}

#[test]
fn bodies_beyond_the_room_for_all_of_them() {
    let shop = Platform::shop_with(Limits { bodies_bytes: 1000, ..Limits::default() });
    let pad = |id: u64, bytes: usize| {
        let body = order(1, id, "external", ONE);
        format!("{}{body}", " ".repeat(bytes - body.len()))
    };
    // One that asks for too much leaves the room as it was, however often.
    for id in 1..=3 {
        let refused = shop.connect().post("/v1/orders", pad(id, 1001));
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
        assert_eq!(shop.connect().post("/v1/orders", pad(id, 1000)).status, 201);
    }
}
