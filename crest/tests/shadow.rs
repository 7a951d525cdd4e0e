//! A shop's own requests, mirrored: what differs is found, by day; again, it is the same.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

mod platform;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use platform::{Platform, request};
use serde_json::{Value, json};

/// Exit status and what it said, with lines from standard input.
fn shadow(platform: &Platform, lines: &str, more: &[&str]) -> (i32, String) {
    let mut shadow = Command::new(env!("CARGO_BIN_EXE_crest"));
    shadow.args(["shadow", &platform.url, "-"]).args(more).stdin(Stdio::piped());
    let mut shadow = shadow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = shadow.stdin.take().unwrap();
    let lines = lines.to_string();
    let fed = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = shadow.wait_with_output().unwrap();
    // One that has found something wrong reads no further.
    let _ = fed.join().unwrap();
    let said =
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    (output.status.code().unwrap(), said)
}

fn uuid(n: u64) -> String {
    format!("01890a5d-ac96-774b-bcce-{n:012x}")
}

/// A shop's two days: 300 buyers who each order twice, cancel, and order again. It has sold one
/// more of item 2 than there are here, and has refunded an order by another amount.
fn lines() -> String {
    let mut lines = vec![
        json!({"post": "/v1/items", "body":
            {"item": 1, "seller": 9, "currency": "GBP", "price": 250, "stock": 100_000}}),
        json!({"post": "/v1/items", "body":
            {"item": 2, "seller": 9, "currency": "GBP", "price": 10, "stock": 299}}),
    ];
    for buyer in 1..=300u64 {
        let order = |n: u64, item: u64, payment: &str| {
            json!({"buyer": buyer, "id": uuid(buyer * 10 + n), "currency": "GBP",
                "payment": payment, "lines": [{"item": item, "quantity": 1}]})
        };
        let change = |n: u64, word: &str| {
            format!("/v1/buyers/{buyer}/orders/{}/{word}", uuid(buyer * 10 + n))
        };
        let (first, second) = ("2026-11-11T09:00:00Z", "2026-11-12T00:00:00Z");
        lines.push(json!({"at": first, "post": "/v1/orders", "body": order(1, 1, "await"),
            "theirs": {"outcome": "ok", "state": "reserved", "total": 250}}));
        lines.push(json!({"at": first, "post": change(1, "cancel"),
            "body": {"id": uuid(buyer * 10 + 2)}, "theirs": {"outcome": "ok", "state": "cancelled"}}));
        lines.push(json!({"at": first, "post": change(1, "cancel"),
            "body": {"id": uuid(buyer * 10 + 3)}, "theirs": {"outcome": "wrong_state"}}));
        lines.push(json!({"at": second, "post": "/v1/orders", "body": order(4, 2, "external"),
            "theirs": {"outcome": "ok", "total": 10}}));
    }
    // Everybody's orders are answered before this, and no other is taken before it is.
    lines.push(json!({"post": "/v1/items/2/restock", "body": {"id": uuid(1), "quantity": 5}}));
    lines.push(json!({"at": "2026-11-12T23:59:59Z", "post": "/v1/orders",
        "body": {"buyer": 1, "id": uuid(9), "currency": "GBP", "payment": "external",
            "lines": [{"item": 2, "quantity": 5}]},
        "theirs": {"outcome": "ok", "total": 49}}));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn what_differs_is_found() {
    let scratch = tempfile::tempdir().unwrap();
    let platform = Platform::start(&scratch.path().join("data"));
    let [json, differences] = ["figures.json", "differences"].map(|name| scratch.path().join(name));
    let files = ["--json", json.to_str().unwrap(), "--differences", differences.to_str().unwrap()];
    let (status, said) = shadow(&platform, &lines(), &files);
    assert_eq!(status, 1, "{said}");
    let expected = json!({
        "": {"requests": 3, "same": 3, "differences": {}, "totals": {}},
        "2026-11-11": {"requests": 900, "same": 900, "differences": {},
            "totals": {"GBP": [75_000, 75_000]}},
        "2026-11-12": {"requests": 301, "same": 299,
            "differences": {"outcome ok, here sold_out": 1, "total": 1},
            "totals": {"GBP": [3_049, 3_040]}},
    });
    assert_eq!(read(&json), expected, "{said}");
    assert!(said.contains("2026-11-12: 301 requests, 299 answered alike, 2 differ"), "{said}");
    let text = std::fs::read_to_string(&differences).unwrap();
    let lines_of: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines_of.len(), 2, "{text}");
    assert!(lines_of.iter().any(|line| line["crest"]["outcome"] == "sold_out"), "{text}");

    // Once more: what was done is done, and what came to nothing comes to the same. States are
    // those of now.
    let again: String =
        lines().lines().filter(|line| !line.contains("reserved")).collect::<Vec<_>>().join("\n");
    assert_eq!(shadow(&platform, &again, &files).0, 1);
    assert_eq!(read(&json)["2026-11-12"], expected["2026-11-12"]);
    let (_, item) = request(&platform.url, "GET", "/v1/items/2", "");
    let item: Value = serde_json::from_str(&item).unwrap();
    assert_eq!((&item["sold"], &item["stocked"]), (&json!(304), &json!(304)), "{item}");

    let (status, said) = shadow(&platform, "\n{\"post\":\"/v1/orders\"}\n", &[]);
    assert!(
        status == 2 && said.contains("standard input, line 2") && said.contains("body"),
        "{said}"
    );
    let (status, said) = shadow(&platform, "", &[]);
    assert_eq!((status, &*said), (0, ""));
}
