//! A data directory that is encrypted: nothing of what was ordered shows in any of its files, and
//! it opens with its data key alone.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

mod platform;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use platform::{Platform, request};

/// Ids whose bytes are found nowhere by chance.
const BUYER: u64 = 0x1bad_5eed_cafe_f00d;
const ITEM: u64 = 0x2fee_db0b_5ca1_ab1e;
/// Orders of a batch.
const BATCH: u64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(120);

/// What a data directory is served with so that a short load is saved, indexed and archived.
const SMALL: [&str; 6] =
    ["--segment-bytes", "2109440", "--snapshot-every", "400000", "--orders-memory", "300000"];

fn ask(url: &str, path: &str, body: &str) -> String {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let (status, body) = request(url, method, path, body);
    assert!((200..300).contains(&status), "{status}: {body}");
    body
}

fn id(n: u64) -> String {
    format!("01890a5d-ac96-774b-bcce-{n:012x}")
}

/// Places one batch after another, until there is something of every kind.
fn fill(platform: &Platform, data: &Path) -> u64 {
    let account = format!(r#"{{"party":{BUYER},"currency":"GBP","balance":1}}"#);
    ask(&platform.url, "/v1/accounts", &account);
    let item =
        format!(r#"{{"item":{ITEM},"seller":7,"currency":"GBP","price":1,"stock":100000000}}"#);
    ask(&platform.url, "/v1/items", &item);
    let started = Instant::now();
    let mut orders = 0;
    let has = |name: &str| {
        let files = std::fs::read_dir(data.join(name));
        files.is_ok_and(|mut files| files.any(|file| file.is_ok()))
    };
    while !["archive/segments", "snapshots", "index"].into_iter().all(has) || orders < 5 * BATCH {
        let mut batch = String::from(r#"{"orders":["#);
        for n in orders..orders + BATCH {
            let comma = if n == orders { "" } else { "," };
            let (buyer, id) = (if n % 2 == 0 { BUYER } else { n }, id(n));
            write!(
                batch,
                r#"{comma}{{"buyer":{buyer},"id":"{id}","currency":"GBP","payment":"external","lines":[{{"item":{ITEM},"quantity":1}}]}}"#
            )
            .unwrap();
        }
        ask(&platform.url, "/v1/orders/batch", &(batch + "]}"));
        orders += BATCH;
        assert!(started.elapsed() < PATIENCE, "nothing is archived");
    }
    orders
}

/// The files below a directory that have these bytes.
fn with_bytes(dir: &Path, bytes: &[u8; 8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(with_bytes(&path, bytes));
        } else if std::fs::read(&path).unwrap().windows(8).any(|at| at == bytes) {
            found.push(path);
        }
    }
    found
}

fn crest(args: &[&str]) -> Output {
    let mut crest = Command::new(env!("CARGO_BIN_EXE_crest"));
    crest.args(args).env("CREST_LOG", "warn").output().unwrap()
}

/// Its exit status, and both of its streams.
fn ran(output: Output) -> (i32, String) {
    let words = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(words).unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn nothing_shows_and_it_opens_with_its_key_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let key = |name: &str, byte: &str| {
        std::fs::write(path(name), byte.repeat(32) + "\n").unwrap();
        path(name)
    };
    let (ours, other) = (key("ours.key", "a7"), key("other.key", "b8"));
    let plain = path("plain");
    let platform = Platform::start_with(&plain, &SMALL);
    fill(&platform, &plain);
    drop(platform);
    for id in [BUYER, ITEM] {
        let found = with_bytes(&plain, &id.to_le_bytes());
        for kind in ["log", "snapshots"] {
            assert!(
                found.iter().any(|file| file.starts_with(plain.join(kind))),
                "{kind}: {found:?}"
            );
        }
    }

    let data = path("encrypted");
    let options = [&SMALL[..], &["--data-key", text(&ours)]].concat();
    let platform = Platform::start_with(&data, &options);
    let orders = fill(&platform, &data);
    // `kill -9`, and served again: each order is there, those that left memory, too.
    drop(platform);
    let platform = Platform::start_with(&data, &options);
    for n in [0, 2, orders / 2, orders - 2] {
        let order = ask(&platform.url, &format!("/v1/buyers/{BUYER}/orders/{}", id(n)), "");
        assert!(order.contains(r#""state":"paid""#), "{order}");
    }
    drop(platform);
    for id in [BUYER, ITEM] {
        assert_eq!(with_bytes(&data, &id.to_le_bytes()), [] as [PathBuf; 0]);
    }

    let commands = |key: &[&str]| {
        let with = |args: &[&str]| ran(crest(&[args, key].concat()));
        let out = path("replayed");
        let serve = ["serve", "--http", "127.0.0.1:0", "--admin", "off", "--data", text(&data)];
        [
            with(&["audit", text(&data)]),
            with(&["archive", "verify", text(&data)]),
            with(&["profile", "replay", "--rounds", "1", "--out", text(&out), text(&data)]),
            // A port that isn't there has one that opens stop right behind that.
            with(&[&serve[..], &["--archive", "s4://nowhere"]].concat()),
        ]
    };
    let opens = |key: &[&str]| {
        let [audit, verify, replay, serve] = commands(key);
        for (code, words) in [audit, verify, replay] {
            assert_eq!(code, 0, "{words}");
        }
        assert!(serve.1.contains("s4://nowhere"), "{}", serve.1);
    };
    let refused = |key: &[&str], why: &str| {
        for (code, words) in commands(key) {
            assert!(code == 2 && words.contains(why), "{code}: {words}");
        }
    };
    opens(&["--data-key", text(&ours)]);
    refused(&[], "is encrypted: its data key is needed (--data-key, or CREST_DATA_KEY)");
    refused(&["--data-key", text(&other)], "the data key isn't that of ");
    let mut by_variable = Command::new(env!("CARGO_BIN_EXE_crest"));
    by_variable.args(["archive", "verify", text(&data)]).env("CREST_DATA_KEY", "a7".repeat(32));
    assert_eq!(ran(by_variable.output().unwrap()).0, 0);

    let rekey = |old: &Path, new: &Path| {
        let keys = ["--data-key", text(old), "--new-data-key", text(new)];
        ran(crest(&[&["rekey", text(&data)], &keys[..]].concat()))
    };
    let (code, words) = rekey(&other, &ours);
    assert!(code == 2 && words.contains("the data key isn't that of "), "{code}: {words}");
    let (code, words) = rekey(&ours, &other);
    assert_eq!(code, 0, "{words}");
    refused(&["--data-key", text(&ours)], "the data key isn't that of ");
    opens(&["--data-key", text(&other)]);

    // One that was made without a key takes none.
    let (code, words) = ran(crest(&["audit", text(&plain), "--data-key", text(&ours)]));
    assert!(code == 2 && words.contains("was made without encryption"), "{code}: {words}");
    std::fs::write(path("short.key"), "short").unwrap();
    let (code, words) = ran(crest(&["audit", text(&data), "--data-key", text(&path("short.key"))]));
    assert!(code == 2 && words.contains("has 32 to 1024 bytes, and this one has 5"), "{words}");
}

/// An order that keeps something private.
fn private_order(buyer: u64, n: u64, text: &str) -> String {
    format!(
        r#"{{"buyer":{buyer},"id":"{}","currency":"GBP","payment":"external","private":"{text}",
            "lines":[{{"item":{ITEM},"quantity":1}}]}}"#,
        id(n)
    )
}

#[test]
fn what_is_private_goes_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let (key, data) = (dir.path().join("key"), dir.path().join("data"));
    std::fs::write(&key, "a7".repeat(32)).unwrap();
    let options = [&SMALL[..], &["--data-key", text(&key)]].concat();
    let platform = Platform::start_with(&data, &options);
    let url = &platform.url;
    let item =
        format!(r#"{{"item":{ITEM},"seller":7,"currency":"GBP","price":1,"stock":100000000}}"#);
    ask(url, "/v1/items", &item);

    let (ann, bob) = (1_000_001, 1_000_002);
    let first = ask(url, "/v1/orders", &private_order(ann, 1, r#"Ann \"Annie\", 3 Mill Lane"#));
    let orders =
        [private_order(bob, 2, "Bob, 9 Weir Road"), private_order(ann, 3, "the back door")];
    ask(url, "/v1/orders/batch", &format!(r#"{{"orders":[{}]}}"#, orders.join(",")));
    // The same text is a repeat, another one isn't.
    let again = ask(url, "/v1/orders", &private_order(ann, 1, r#"Ann \"Annie\", 3 Mill Lane"#));
    assert_eq!(again, first.replace(r#""ok""#, r#""already_done""#));
    let (status, answer) = request(url, "POST", "/v1/orders", &private_order(ann, 1, "another"));
    assert!(status == 422 && answer.contains("id_reused"), "{answer}");
    for text in ["", &"x".repeat(1_025)] {
        let (status, answer) = request(url, "POST", "/v1/orders", &private_order(ann, 4, text));
        assert!(status == 400 && answer.contains(r#""field":"private""#), "{answer}");
    }

    let path = |buyer, n| format!("/v1/buyers/{buyer}/orders/{}", id(n));
    let private = |url: &str, buyer, n| request(url, "GET", &(path(buyer, n) + "/private"), "");
    let refund = format!(r#"{{"id":"{}"}}"#, id(90));
    ask(url, &(path(ann, 1) + "/refund"), &refund);
    let lane =
        format!(r#"{{"buyer":{ann},"id":"{}","private":"Ann \"Annie\", 3 Mill Lane"}}"#, id(1));
    assert_eq!(private(url, ann, 1), (200, lane.clone()));
    // Others have left memory by then, and are in the archive.
    fill(&platform, &data);
    assert_eq!(private(url, ann, 1), (200, lane));
    let (status, answer) = private(url, BUYER, 0);
    assert!(status == 404 && answer.contains("nothing_private"), "{answer}");
    assert_eq!(private(url, ann, 77).0, 404);

    let erase = format!("/v1/parties/{ann}/private");
    assert_eq!(request(url, "DELETE", &erase, ""), (200, r#"{"outcome":"ok"}"#.to_string()));
    drop(platform);
    let platform = Platform::start_with(&data, &options);
    let url = &platform.url;
    for n in [1, 3] {
        let (status, answer) = private(url, ann, n);
        assert!(status == 410 && answer.contains(r#"problem:erased"#), "{answer}");
    }
    let done = (200, r#"{"outcome":"already_done"}"#.to_string());
    assert_eq!(request(url, "DELETE", &erase, ""), done);
    let (status, answer) = request(url, "POST", "/v1/orders", &private_order(ann, 5, "again"));
    assert!(status == 410 && answer.contains(r#""field":"private""#), "{answer}");
    assert!(private(url, bob, 2).1.contains("Bob, 9 Weir Road"));
    assert!(ask(url, &path(ann, 1), "").contains(r#""state":"refunded""#));
    drop(platform);

    let (code, words) = ran(crest(&["audit", text(&data), "--data-key", text(&key)]));
    assert_eq!(code, 0, "{words}");
    for word in [b"3 Mill L", b"9 Weir R", b"the back"] {
        assert_eq!(with_bytes(&data, word), [] as [PathBuf; 0]);
    }
}

#[test]
fn nothing_private_is_taken_without_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(&dir.path().join("data"));
    let url = &platform.url;
    let private = format!("/v1/buyers/1/orders/{}/private", id(1));
    for (method, path, body) in [
        ("POST", "/v1/orders", &private_order(1, 1, "Ann")[..]),
        ("GET", &private, ""),
        ("DELETE", "/v1/parties/1/private", ""),
    ] {
        let (status, answer) = request(url, method, path, body);
        assert!(status == 422 && answer.contains("problem:no_keys"), "{answer}");
    }
}
