//! Whatever comes over a connection, the gateway still answers the next one.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::client::{order, order_path, post, uuid};
use crate::platform::Platform;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A good request of any kind with some of its bytes changed, left out or put in.
fn damaged_request() -> impl Strategy<Value = Vec<u8>> {
    let id = uuid(1);
    let place = order(7, 1, "external", r#"[{"item":1,"quantity":1}]"#);
    let refund = format!(r#"{{"id":"{id}","restock":true,"lines":[{{"line":0,"quantity":1}}]}}"#);
    let transfer = format!(
        r#"{{"transfers":[{{"id":"{id}","from":{{"kind":"clearing"}},"to":{{"party":7}},
            "currency":"GBP","amount":1}}]}}"#
    );
    let item = r#"{"item":"18446744073709551615","seller":9,"currency":"EUR","price":5}"#;
    let requests = vec![
        post("/v1/orders", &place),
        post("/v1/orders/batch", format!(r#"{{"orders":[{place},{place}]}}"#)),
        post(&order_path(7, 1, "/refund"), refund),
        post(&order_path(7, 1, "/pay"), format!(r#"{{"id":"{id}","payment":"balance"}}"#)),
        post("/v1/transfers/batch", transfer),
        post("/v1/items", item),
    ];
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..3u8);
    (prop::sample::select(requests), vec(change, 1..6)).prop_map(|(mut request, changes)| {
        for (at, byte, how) in changes {
            let at = at.index(request.len());
            match how {
                0 => request[at] = byte,
                1 => drop(request.remove(at)),
                _ => request.insert(at, byte),
            }
        }
        request
    })
}

/// HTTP/2 frames whose headers are frames' headers.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = vec(any::<u8>(), 0..60);
    let frame =
        (0..12u8, any::<u8>(), 0..5u32, payload).prop_map(|(kind, flags, stream, bytes)| {
            let length = (bytes.len() as u32).to_be_bytes();
            [&length[1..], &[kind, flags], &stream.to_be_bytes(), &bytes].concat()
        });
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    vec(frame, 0..8).prop_map(move |frames| [PREFACE, &settings, &frames.concat()].concat())
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || vec(any::<u8>(), 0..400);
    prop_oneof![
        bytes(),
        damaged_request(),
        bytes().prop_map(|bytes| [PREFACE, &bytes].concat()),
        frames(),
        "[A-Z]{1,6} /[a-z0-9/.%?=&-]{0,60} HTTP/1\\.[01]\r\n([a-z-]{1,12}: ?[ -~]{0,30}\r\n){0,8}\r\n.{0,80}"
            .prop_map(String::into_bytes),
    ]
}

#[test]
fn noise_never_ends_the_gateway() {
    let shop = Platform::shop();
    let mut runner = TestRunner::new(Config { cases: 500, ..Config::default() });
    let survived = runner.run(&noise(), |bytes| {
        let mut connection = shop.connect();
        connection.try_send(&bytes);
        connection.finish();
        connection.rest();
        prop_assert_eq!(shop.get("/v1/items/1").status, 200);
        Ok(())
    });
    survived.unwrap();
    shop.stop().unwrap();
}
