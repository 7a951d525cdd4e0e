//! How it ends: on request, with every open answer given; or with its log, and no answer that
//! isn't so.

use std::net::TcpStream;
use std::time::Duration;

use expect_test::expect;
use gateway::Limits;
use node::ShardFailed;

use crate::client::{Connection, order, post};
use crate::platform::Platform;

const ONE: &str = r#"[{"item":3,"quantity":1}]"#;

fn send_order(shop: &Platform, id: u64) -> Connection {
    let mut connection = shop.connect();
    connection.send(post("/v1/orders", order(1, id, "external", ONE)));
    connection
}

#[test]
fn what_was_accepted_is_answered() {
    let shop = Platform::shop();
    let address = shop.address;
    let mut idle = shop.connect();
    assert_eq!(idle.get("/v1/items/1").status, 200);
    // One has sent half of its body, another waits for the log.
    let body = order(1, 1, "external", ONE);
    let mut half = shop.connect();
    half.send(format!(
        "POST /v1/orders HTTP/1.1\r\nhost: crest\r\nexpect: 100-continue\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    ));
    assert_eq!(half.answer().status, 100);
    shop.log.shut();
    let waiting = send_order(&shop, 2);
    shop.log.await_frame();

    shop.begin_to_stop();
    idle.assert_closed();
    half.send(body);
    shop.log.open();
    for mut open in [half, waiting] {
        let answer = open.answer();
        assert_eq!((answer.status, answer.header("connection")), (201, Some("close")));
        open.assert_closed();
    }
    shop.stop().unwrap();
    TcpStream::connect(address).expect_err("nobody listens");
}

#[test]
fn nobody_keeps_it_from_stopping() {
    let limits = Limits { drain: Duration::from_millis(50), ..Limits::default() };
    let shop = Platform::shop_with(limits);
    let hold = "POST /v1/orders HTTP/1.1\r\nhost: crest\r\nexpect: 100-continue\r\n\
                content-length: 9\r\n\r\n";
    // A body that doesn't come.
    let mut slow = shop.connect();
    slow.send(hold);
    assert_eq!(slow.answer().status, 100);
    // Answers that nobody reads: more than sockets and buffers hold.
    let mut deaf = shop.connect();
    let path = "x".repeat(60_000);
    let request = format!("GET /{path} HTTP/1.1\r\nhost: crest\r\n\r\n");
    let writer = std::thread::spawn(move || {
        for _ in 0..500 {
            deaf.try_send(&request);
        }
        deaf
    });
    // An HTTP/2 stream that stays open: POST /v1/orders without its end, then GET / with it.
    let mut stream = shop.connect();
    stream.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    stream.send(b"\0\0\x0e\x01\x04\0\0\0\x01\x83\x86\x04\x0a/v1/orders");
    stream.send(b"\0\0\x03\x01\x05\0\0\0\x03\x82\x86\x84");
    stream.read_until("no_such_path");
    // A connection that never said what it speaks.
    let mut mute = shop.connect();
    mute.send("PRI");

    shop.stop().unwrap();
    slow.assert_closed();
    mute.assert_closed();
    stream.rest();
    drop(writer.join().unwrap());
}

#[test]
fn a_log_that_fails_acknowledges_nothing() {
    let shop = Platform::shop();
    shop.log.shut();
    let mut first = send_order(&shop, 1);
    shop.log.await_frame();
    // More wait behind it, and a read that may have seen what isn't durable.
    let mut open: Vec<_> = (2..10).map(|id| send_order(&shop, id)).collect();
    let mut read = shop.connect();
    read.send("GET /v1/items/3 HTTP/1.1\r\nhost: crest\r\n\r\n");
    shop.log.break_down();
    first.answer().check(expect![[r#"
        503 content-type: application/problem+json retry-after: 1
        {"type":"urn:crest:problem:stopped","title":"stopped","status":503,"detail":"the shard stopped, and what became of this is not known: repeat it with the same id when it is back"}"#]]);
    open.push(read);
    for mut connection in open {
        let answer = connection.answer();
        assert_eq!((answer.status, answer.problem().0.as_str()), (503, "stopped"));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    // Neither now nor later.
    for answer in [
        shop.post("/v1/orders", order(1, 1, "external", ONE)),
        shop.get("/v1/items/1"),
        shop.post("/v1/orders/batch", format!(r#"{{"orders":[{}]}}"#, order(1, 11, "await", ONE))),
    ] {
        assert_eq!((answer.status, answer.problem().0.as_str()), (503, "stopped"));
    }
    // What no shard has to decide is answered as ever.
    assert_eq!(shop.get("/nowhere").status, 404);
    assert_eq!(shop.post("/v1/orders", "{").status, 400);
    let ended = shop.stop().unwrap_err();
    assert!(matches!(ended, ShardFailed::Log(_)), "{ended}");
}
