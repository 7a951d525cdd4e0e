//! HTTP/1.1 as it comes over a wire: in pieces, in a row, and in bad faith.

use std::time::Duration;

use expect_test::expect;
use gateway::Limits;

use crate::client::{Answer, Connection, chunked, order, order_path, post};
use crate::platform::Platform;

const ONE: &str = r#"[{"item":3,"quantity":1}]"#;
const GET_ITEM: &str = "GET /v1/items/1 HTTP/1.1\r\nhost: crest\r\n\r\n";

#[test]
fn pipelined_requests_are_answered_in_order() {
    let platform = Platform::start();
    let mut connection = platform.connect();
    let mut requests = Vec::new();
    for item in 1..=25 {
        let body = format!(r#"{{"item":{item},"seller":9,"currency":"GBP","price":{item}}}"#);
        requests.extend(post("/v1/items", body));
        requests.extend(format!("GET /v1/items/{item} HTTP/1.1\r\nhost: crest\r\n\r\n").bytes());
    }
    connection.send(requests);
    for item in 1..=25 {
        let made = connection.answer();
        assert_eq!(made.status, 201);
        assert_eq!(made.body, format!(r#"{{"outcome":"ok","offset":{item}}}"#));
        let read = connection.answer();
        assert!(read.body.starts_with(&format!(r#"{{"item":{item},"#)), "{}", read.body);
    }
    // And it goes on.
    assert_eq!(connection.get("/v1/items/25").status, 200);
}

#[test]
fn a_bad_request_among_pipelined_ones_is_answered_in_its_place() {
    let shop = Platform::shop();
    let mut connection = shop.connect();
    let requests = [
        post("/v1/orders", order(1, 1, "external", ONE)),
        post("/v1/orders", "{"),
        b"GET /nowhere HTTP/1.1\r\nhost: crest\r\n\r\n".to_vec(),
        post("/nowhere", "with a body"),
        post("/v1/orders", order(1, 2, "external", ONE)),
    ];
    connection.send(requests.concat());
    let statuses = [(); 5].map(|()| connection.answer().status);
    assert_eq!(statuses, [201, 400, 404, 404, 201]);
}

#[test]
fn an_answer_does_not_wait_for_what_follows() {
    let shop = Platform::shop();
    let place = |id| post("/v1/orders", order(1, id, "external", ONE));
    // Half of the next request, which its sender may hold back until it has the answer.
    let mut connection = shop.connect();
    let (half, rest) = GET_ITEM.split_at(20);
    connection.send([place(1), half.into()].concat());
    assert_eq!(connection.answer().status, 201);
    connection.send(rest);
    assert_eq!(connection.answer().status, 200);
    // A line end after the body, which old clients send.
    connection.send([place(2), b"\r\n".to_vec()].concat());
    assert_eq!(connection.answer().status, 201);
    assert_eq!(connection.get("/v1/items/1").status, 200);
    // What is no request.
    connection.send([place(3), b"(\r\n\r\n".to_vec()].concat());
    assert_eq!(connection.answer().status, 201);
    assert_eq!(connection.answer().status, 400);
    connection.assert_closed();
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let shop = Platform::shop();
    let mut connection = shop.connect();
    for byte in post("/v1/orders", order(1, 1, "external", ONE)) {
        connection.send([byte]);
    }
    assert_eq!(connection.answer().status, 201);
    let head = b"POST /v1/orders HTTP/1.1\r\nhost: crest\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = chunked(order(1, 2, "external", ONE).as_bytes(), 10);
    for byte in head.iter().chain(&body) {
        connection.send([*byte]);
    }
    assert_eq!(connection.answer().status, 201);
}

#[test]
fn connections_are_kept_or_closed_as_asked() {
    let shop = Platform::shop();
    let ask = |version: &str, header: &str| {
        let mut connection = shop.connect();
        let request = format!("GET /v1/items/1 HTTP/{version}\r\nhost: crest\r\n{header}\r\n");
        connection.send(&request);
        assert_eq!(connection.answer().status, 200);
        connection.try_send(&request);
        connection.try_answer().is_some()
    };
    assert!(ask("1.1", ""));
    assert!(!ask("1.1", "connection: close\r\n"));
    assert!(!ask("1.1", "Connection: Close\r\n"));
    assert!(!ask("1.0", ""));
    assert!(ask("1.0", "connection: keep-alive\r\n"));
}

#[test]
fn a_body_is_asked_for_when_its_sender_waits() {
    let shop = Platform::shop_with(Limits { body_bytes: 1000, ..Limits::default() });
    let head = |length: usize| {
        format!(
            "POST /v1/orders HTTP/1.1\r\nhost: crest\r\nexpect: 100-continue\r\n\
             content-length: {length}\r\n\r\n"
        )
    };
    let mut connection = shop.connect();
    let body = order(1, 1, "external", ONE);
    connection.send(head(body.len()));
    assert_eq!(connection.answer().status, 100);
    connection.send(body);
    assert_eq!(connection.answer().status, 201);
    // What would be too large isn't asked for.
    connection.send(head(1001));
    assert_eq!(connection.answer().status, 413);
}

#[test]
fn head_is_get_without_the_body() {
    let shop = Platform::shop();
    let mut connection = shop.connect();
    let body_bytes = connection.get("/v1/items/1").body.len().to_string();
    connection.send(GET_ITEM.replace("GET", "HEAD"));
    let answer = connection.answer_without_body();
    assert_eq!((answer.status, answer.header("content-length")), (200, Some(&body_bytes[..])));
    connection.send(GET_ITEM.replace("GET", "HEAD").replace("/1 ", "/77 "));
    assert_eq!(connection.answer_without_body().status, 404);
    connection.send("HEAD /v1/orders HTTP/1.1\r\nhost: crest\r\n\r\n");
    let answer = connection.answer_without_body();
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    assert_eq!(connection.get("/v1/items/1").status, 200);
}

#[test]
fn an_absolute_uri_names_the_same_thing() {
    let shop = Platform::shop();
    let mut connection = shop.connect();
    let answer = connection.get("http://crest.example/v1/accounts/1?currency=GBP");
    assert_eq!(answer.body, connection.get("/v1/accounts/1?currency=GBP").body);
}

#[test]
fn an_upgrade_that_is_not_offered_is_passed_over() {
    let shop = Platform::shop();
    let mut connection = shop.connect();
    connection.send(
        "GET /v1/items/1 HTTP/1.1\r\nhost: crest\r\nconnection: upgrade, http2-settings\r\n\
         upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
    );
    assert_eq!(connection.answer().status, 200);
    assert_eq!(connection.get("/v1/items/1").status, 200);
}

#[test]
fn no_request_hides_in_another() {
    let shop = Platform::shop();
    let hidden = "GET /v1/items/2 HTTP/1.1\r\nhost: crest\r\n\r\n";
    let body = order(1, 1, "external", ONE);
    let body_bytes = body.len();
    let chunks = String::from_utf8(chunked(body.as_bytes(), 50)).unwrap();
    let post = |headers: &str, body: &str| {
        format!("POST /v1/orders HTTP/1.1\r\nhost: crest\r\n{headers}\r\n{body}{hidden}")
    };
    let length = format!("content-length: {body_bytes}\r\n");
    for request in [
        // Two lengths: the front of a chain may go by the one, its back by the other.
        post(&format!("{length}transfer-encoding: chunked\r\n"), &chunks),
        post(&format!("transfer-encoding: chunked\r\n{length}"), &chunks),
        post(&format!("content-length: 0\r\n{length}"), &body),
        post(&format!("{length}content-length: 0\r\n"), &body),
        post(&format!("content-length: {body_bytes}, 0\r\n"), &body),
        post("content-length: +5\r\n", &body),
        post("content-length: -5\r\n", &body),
        post("content-length: 0x10\r\n", &body),
        post("content-length: 18446744073709551616\r\n", &body),
        post("content-length:\r\n", &body),
        // Codings that only one side knows.
        post("transfer-encoding: identity\r\n", &body),
        post("transfer-encoding: chunked, identity\r\n", &chunks),
        post("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", &chunks),
        post("transfer-encoding: xchunked\r\n", &chunks),
        post("transfer-encoding : chunked\r\n", &chunks),
        post("transfer-encoding:\x0bchunked\r\n", &chunks),
        post("transfer-encoding: chunked\r\n", "0x5\r\nabcde\r\n0\r\n\r\n"),
        post("transfer-encoding: chunked\r\n", "-1\r\n\r\n0\r\n\r\n"),
        post("transfer-encoding: chunked\r\n", "10000000000000000\r\n\r\n0\r\n\r\n"),
        post("transfer-encoding: chunked\r\n", "5\r\nabcdefgh\r\n0\r\n\r\n"),
        // Lines that one side folds, or ends elsewhere.
        post(&format!("x: a\r\n {length}"), &body),
        post(&format!("x: a\r\n\t{length}"), &body),
        post(&format!("x: a\rcontent-length: 0\r\n{length}"), &body),
        post(&format!(" {length}"), &body),
        post("content-length : 5\r\n", &body),
        post("x: a\0b\r\n", ""),
        post("no colon\r\n", ""),
        post(": no name\r\n", ""),
        hidden.replace("HTTP/1.1", "HTTP/1.2"),
        hidden.replace("HTTP/1.1", "HTTP/9.9"),
        hidden.replace(" HTTP/1.1", ""),
        hidden.replace("GET ", "GET  "),
        hidden.replace("GET", "G(T"),
        hidden.replace("/v1", "v1"),
        hidden.replace("/v1", "/\u{1}"),
    ] {
        let mut connection = shop.connect();
        connection.send(&request);
        connection.finish();
        let answers: Vec<Answer> = std::iter::from_fn(|| connection.try_answer()).collect();
        assert!(answers.len() <= 1, "{} answers to {request:?}", answers.len());
        let done = answers.iter().any(|answer| answer.status < 400);
        // Chunks alone decide where a body ends; the connection is closed behind it.
        let by_chunks = request.contains(&length) && request.contains("chunked");
        assert!(!done || by_chunks, "{request:?} was done");
    }
}

#[test]
fn line_ends_without_carriage_return_split_nothing() {
    let shop = Platform::shop();
    // RFC 9112 lets a recipient take a bare LF as a line's end: then every line has to.
    let mut connection = shop.connect();
    connection.send("GET /v1/items/1 HTTP/1.1\nhost: crest\n\n");
    connection.finish();
    let answers = std::iter::from_fn(|| connection.try_answer()).count();
    assert!(answers <= 1);
    // Chunk sizes have no such leave.
    let mut connection = shop.connect();
    connection.send(format!(
        "POST /v1/orders HTTP/1.1\r\nhost: crest\r\ntransfer-encoding: chunked\r\n\r\n\
         2\n{{}}\r\n0\r\n\r\n{GET_ITEM}"
    ));
    assert!(connection.try_answer().is_none_or(|answer| answer.status == 400));
    assert!(connection.try_answer().is_none());
}

#[test]
fn heads_have_bounds() {
    let shop = Platform::shop();
    let ask = |headers: &str| {
        let mut connection = shop.connect();
        connection.try_send(format!("GET /v1/items/1 HTTP/1.1\r\n{headers}\r\n"));
        connection.try_answer().map(|answer| answer.status)
    };
    let headers = |count| "x: y\r\n".repeat(count);
    assert_eq!(ask(&headers(64)), Some(200));
    assert_eq!(ask(&headers(65)), Some(431));
    assert_ne!(ask(&headers(10_000)), Some(200));
    assert_ne!(ask(&format!("x: {}\r\n", "y".repeat(1 << 20))), Some(200));
    assert_ne!(ask(&format!("{}: y\r\n", "x".repeat(1 << 20))), Some(200));
    let mut connection = shop.connect();
    connection.try_send(GET_ITEM.replace("/1 ", &format!("/{} ", "1".repeat(70_000))));
    assert_eq!(connection.try_answer().map(|answer| answer.status), Some(414));
    // A head without an end isn't collected for ever.
    let mut connection = shop.connect();
    connection.send("GET /v1/items/1 HTTP/1.1\r\n");
    for _ in 0..4096 {
        connection.try_send("x: 123456789 123456789 123456789 123456789 123456789\r\n".repeat(10));
    }
    assert_ne!(connection.try_answer().map(|answer| answer.status), Some(200));
    assert_eq!(shop.get("/v1/items/1").status, 200);
}

#[test]
fn who_is_silent_is_let_go() {
    let limits = Limits { idle: Duration::from_millis(50), ..Limits::default() };
    let shop = Platform::shop_with(limits);
    for start in ["", "G", "GET /v1/items/1 HTTP/1.1\r\nhost: cr", "PRI * HTTP/2.0\r\n\r\n"] {
        let mut connection = shop.connect();
        connection.send(start);
        connection.assert_closed();
    }
    // After an answer too.
    let mut connection = shop.connect();
    assert_eq!(connection.get("/v1/items/1").status, 200);
    connection.assert_closed();
    // And HTTP/2 without a request, once its settings are exchanged.
    let mut connection = shop.connect();
    connection.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    connection.rest();
}

#[test]
fn who_does_not_take_his_answers_is_let_go() {
    let limits = Limits { idle: Duration::from_millis(200), connections: 1, ..Limits::default() };
    let shop = Platform::shop_with(limits);
    let mut deaf = shop.connect();
    // Requests until neither side's buffers take any more.
    let requests = "GET /v1/items/1 HTTP/1.1\r\nhost: crest\r\n\r\n".repeat(200_000);
    let sending = std::thread::spawn(move || {
        deaf.try_send(requests);
        deaf
    });
    // The only place is free when the other one is cut.
    assert_eq!(shop.get("/v1/items/1").status, 200);
    drop(sending.join().unwrap());
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let limits = Limits { body: Duration::from_millis(50), ..Limits::default() };
    let shop = Platform::shop_with(limits);
    let mut connection = shop.connect();
    connection.send("POST /v1/orders HTTP/1.1\r\nhost: crest\r\ncontent-length: 10\r\n\r\n{");
    connection.answer().check(expect![[r#"
        408 content-type: application/problem+json
        {"type":"urn:crest:problem:slow_body","title":"slow body","status":408,"detail":"the body took too long to arrive"}"#]]);
    connection.assert_closed();
    assert_eq!(shop.next_offset(), 7);
}

#[test]
fn a_body_that_breaks_off_places_nothing() {
    let shop = Platform::shop();
    let whole = post("/v1/orders", order(1, 1, "external", ONE));
    for missing in [1, 40, 100] {
        let mut connection = shop.connect();
        connection.send(&whole[..whole.len() - missing]);
        connection.finish();
        assert!(connection.try_answer().is_none_or(|answer| answer.status == 400));
    }
    assert_eq!(shop.get(&order_path(1, 1, "")).status, 404);
    assert_eq!(shop.next_offset(), 7);
}

#[test]
fn a_caller_that_went_away_has_its_order_placed_once() {
    let shop = Platform::shop();
    let body = order(1, 1, "external", ONE);
    shop.log.shut();
    let mut connection = shop.connect();
    connection.send(post("/v1/orders", &body));
    shop.log.await_frame();
    drop(connection);
    shop.log.open();
    assert_eq!(shop.post("/v1/orders", &body).status, 200);
    assert_eq!(shop.next_offset(), 8);
}

#[test]
fn no_more_connections_than_may() {
    let shop = Platform::shop_with(Limits { connections: 2, ..Limits::default() });
    let mut first = shop.connect();
    let mut second = shop.connect();
    assert_eq!((first.get("/v1/items/1").status, second.get("/v1/items/1").status), (200, 200));
    // The third waits for room, and gets it.
    let mut third = Connection::to(shop.address);
    third.send(GET_ITEM);
    drop(first);
    assert_eq!(third.answer().status, 200);
    assert_eq!(second.get("/v1/items/1").status, 200);
}
