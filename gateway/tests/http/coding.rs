//! Packed bodies and answers, and answers that come before their bodies.

use std::fmt::Write as _;
use std::io::{Read, Write};

use expect_test::expect;
use flate2::read::MultiGzDecoder;
use flate2::{Compression, write::GzEncoder};
use gateway::Limits;
use proptest::prelude::*;

use crate::client::{Answer, Connection, order};
use crate::platform::Platform;

const ONE: &str = r#"[{"item":1,"quantity":1}]"#;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn request(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: crest\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn ask(shop: &Platform, headers: &str, body: &[u8]) -> Answer {
    let mut connection = shop.connect();
    connection.send(request("/v1/orders", headers, body));
    connection.answer()
}

#[test]
fn bodies_may_be_packed() {
    let shop = Platform::shop();
    let text = |id| order(1, id, "external", ONE).into_bytes();
    let halves = |id, pack: fn(&[u8]) -> Vec<u8>| {
        let text = text(id);
        let (first, second) = text.split_at(text.len() / 2);
        [pack(first), pack(second)].concat()
    };
    for (headers, body) in [
        ("content-encoding: gzip\r\n", gzip(&text(1))),
        ("Content-Encoding: X-GZip\r\n", gzip(&text(2))),
        ("content-encoding: zstd\r\n", zstd(&text(3))),
        ("content-encoding: identity\r\n", text(4)),
        // Several members and frames are one body.
        ("content-encoding: gzip\r\n", halves(5, gzip)),
        ("content-encoding: zstd\r\n", halves(6, zstd)),
    ] {
        let answer = ask(&shop, headers, &body);
        assert_eq!(answer.status, 201, "{headers}: {}", answer.body);
    }
    assert_eq!(shop.next_offset(), 7 + 6);
}

#[test]
fn bodies_that_are_not_packed_as_they_say() {
    let shop = Platform::shop();
    let before = shop.books();
    let text = order(1, 1, "external", ONE).into_bytes();
    let (packed, zstd_packed) = (gzip(&text), zstd(&text));
    let mut flipped = packed.clone();
    let last = flipped.len() - 6;
    flipped[last] ^= 1;
    // A frame that asks for a window of 16 MiB: single segment off, descriptor 14 << 3.
    let wide = [&[0x28, 0xb5, 0x2f, 0xfd, 0, 14 << 3][..], &[1, 0, 0]].concat();
    let mut found = String::new();
    for (headers, body) in [
        ("content-encoding: gzip\r\n", &text),
        ("content-encoding: zstd\r\n", &text),
        ("content-encoding: gzip\r\n", &Vec::new()),
        ("content-encoding: zstd\r\n", &Vec::new()),
        ("content-encoding: gzip\r\n", &packed[..packed.len() - 1].to_vec()),
        ("content-encoding: zstd\r\n", &zstd_packed[..zstd_packed.len() - 1].to_vec()),
        ("content-encoding: gzip\r\n", &flipped),
        ("content-encoding: gzip\r\n", &[packed.clone(), text.clone()].concat()),
        ("content-encoding: zstd\r\n", &wide),
        ("content-encoding: br\r\n", &text),
        ("content-encoding: gzip, zstd\r\n", &packed),
        ("content-encoding: gzip\r\ncontent-encoding: gzip\r\n", &packed),
    ] {
        let answer = ask(&shop, headers, body);
        let (kind, field) = answer.problem();
        let takes = answer.header("accept-encoding").unwrap_or("");
        writeln!(found, "{} {kind} {field:?} {takes}", answer.status).unwrap();
    }
    expect![[r#"
        400 invalid Some("Content-Encoding") 
        400 invalid Some("Content-Encoding") 
        400 invalid Some("Content-Encoding") 
        400 invalid Some("Content-Encoding") 
        400 invalid Some("Content-Encoding") 
        400 invalid Some("Content-Encoding") 
        400 invalid Some("Content-Encoding") 
        400 invalid Some("Content-Encoding") 
        400 invalid Some("Content-Encoding") 
        415 unsupported_media_type Some("Content-Encoding") gzip, zstd
        415 unsupported_media_type Some("Content-Encoding") gzip, zstd
        415 unsupported_media_type Some("Content-Encoding") gzip, zstd
    "#]]
    .assert_eq(&found);
    assert_eq!(shop.books(), before);
    assert_eq!(shop.next_offset(), 7, "something was logged");
}

#[test]
fn a_bomb_is_too_large() {
    let limits = Limits { body_bytes: 100_000, bodies_bytes: 200_000, ..Limits::default() };
    let shop = Platform::shop_with(limits);
    let blanks = vec![b' '; 64 << 20];
    let whole = [&blanks[..90_000], order(1, 1, "external", ONE).as_bytes()].concat();
    for (headers, bomb, fits) in [
        ("content-encoding: gzip\r\n", gzip(&blanks), gzip(&whole)),
        ("content-encoding: zstd\r\n", zstd(&blanks), zstd(&whole)),
    ] {
        assert!(bomb.len() < 100_000, "{}", bomb.len());
        for _ in 0..3 {
            assert_eq!(ask(&shop, headers, &bomb).status, 413);
        }
        // The room for bodies is as it was.
        let answer = ask(&shop, headers, &fits);
        assert!(matches!(answer.status, 200 | 201), "{}", answer.body);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    /// Whatever is sent as packed, nobody is harmed, and nothing that isn't an order is done.
    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..300), cut in 0..200usize) {
        let shop = Platform::shop();
        let packed = [gzip(ONE.as_bytes()), zstd(ONE.as_bytes())];
        for (name, packed) in ["gzip", "zstd"].into_iter().zip(packed) {
            let headers = format!("content-encoding: {name}\r\n");
            let cut = cut.min(packed.len());
            for body in [noise.clone(), [&packed[..cut], &noise].concat()] {
                prop_assert_eq!(ask(&shop, &headers, &body).status, 400);
            }
        }
        prop_assert_eq!(shop.next_offset(), 7);
    }
}

/// Head and body as they came.
fn raw(shop: &Platform, path: &str, headers: &str) -> (String, Vec<u8>) {
    let mut connection = shop.connect();
    connection
        .send(format!("GET {path} HTTP/1.1\r\nhost: crest\r\nconnection: close\r\n{headers}\r\n"));
    let all = connection.rest();
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(all[..end].to_vec()).unwrap(), all[end..].to_vec())
}

#[test]
fn answers_are_packed_for_who_asks() {
    let shop = Platform::shop();
    let mut items = String::new();
    for item in 100..200 {
        write!(items, r#",{{"item":{item},"seller":9,"currency":"GBP","price":1}}"#).unwrap();
    }
    let body = format!(r#"{{"items":[{}]}}"#, &items[1..]);
    assert_eq!(shop.post("/v1/items/batch", body).status, 200);
    let (_, plain) = raw(&shop, "/v1/items", "");
    let unpacked = |name: &str, bytes: &[u8]| match name {
        "gzip" => {
            let mut text = Vec::new();
            MultiGzDecoder::new(bytes).read_to_end(&mut text).unwrap();
            text
        }
        "zstd" => zstd::decode_all(bytes).unwrap(),
        _ => bytes.to_vec(),
    };
    for (accepted, coding) in [
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd; q=0.5", "gzip"),
        ("GZIP", "gzip"),
        ("gzip;q=0", ""),
        ("br", ""),
        ("identity", ""),
    ] {
        let (head, body) = raw(&shop, "/v1/items", &format!("accept-encoding: {accepted}\r\n"));
        let said = head.contains(&format!("content-encoding: {coding}\r\n"));
        assert_eq!(said, !coding.is_empty(), "{accepted}: {head}");
        assert_eq!(head.contains("content-encoding"), !coding.is_empty(), "{accepted}: {head}");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert_eq!(unpacked(coding, &body), plain, "{accepted}");
        if !coding.is_empty() {
            assert!(body.len() * 4 < plain.len() && head.contains("vary: accept-encoding"));
        }
    }
    // What is small goes as it is.
    let (head, _) = raw(&shop, "/v1/items/1", "accept-encoding: gzip, zstd\r\n");
    assert!(!head.contains("content-encoding"), "{head}");
}

/// A client that writes all that it has before it reads gets its answer.
#[test]
fn an_answer_before_the_body_arrives() {
    let shop = Platform::shop();
    let large = vec![b' '; 20 << 20];
    for (path, headers, status) in [
        ("/v1/orders", "", 413),
        ("/v1/nowhere", "", 404),
        ("/v1/orders", "content-type: text/plain\r\n", 415),
        ("/v1/feed", "", 405),
    ] {
        let mut connection = Connection::to(shop.address);
        connection.send(request(path, headers, &large));
        assert_eq!(connection.answer().status, status, "{path}");
        connection.finish();
        connection.assert_closed();
    }
}
