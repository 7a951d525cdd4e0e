//! The feed over real sockets: what was done is in it once, in order, whoever reads how; through
//! trimming, `kill -9` and readers that don't keep up.
//!
//! `CREST_PYTHON` says where a Python is that has jsonschema; `cargo xtask test` installs it. Without
//! it, events aren't held against their schema.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

mod everything;
mod platform;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use platform::{Platform, open_feed as open, read_feed as read, request};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// What a platform is served with so that a short load is trimmed and archived.
const SMALL: [&str; 4] = ["--segment-bytes", "2109440", "--snapshot-every", "400000"];

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

fn id(line: &str) -> String {
    parse(line)["id"].as_str().unwrap().to_string()
}

/// Where each of the frames that have records ends, and the id of its last record.
fn ends_of_frames(frames: &[u8]) -> Vec<(usize, String)> {
    let (mut ends, mut end) = (Vec::new(), 0);
    while end < frames.len() {
        let number = |at, length| {
            let bytes = frames[end + at..][..length].iter().rev();
            bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        let (bytes, count, shard, first) =
            (number(8, 4), number(12, 4), number(16, 2), number(32, 8));
        end += 64 + bytes as usize;
        if count > 0 {
            ends.push((end, format!("{shard}-{}", first + count - 1)));
        }
    }
    ends
}

/// Shard and offset.
fn place(event: &Value) -> (u64, u64) {
    let mut parts = event["id"].as_str().unwrap().split('-').map(|part| part.parse().unwrap());
    (parts.next().unwrap(), parts.next().unwrap())
}

/// Reads from now on, until `last` is the id of an event or, of frames, so many bytes came.
fn follow(url: &str, query: &str, header: &str) -> (BufReader<TcpStream>, String) {
    let (status, reader) = open(url, query, header);
    assert_eq!(status, 200, "{query}");
    (reader, query.to_string())
}

fn lines_to(reader: BufReader<TcpStream>, is_last: impl Fn(&str) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    for line in reader.lines() {
        let line = line.unwrap();
        if line.is_empty() {
            continue;
        }
        let last = is_last(&line);
        lines.push(line);
        if last {
            return lines;
        }
    }
    panic!("the feed ended after {} lines", lines.len());
}

/// Marks the end of what readers are to see: an event that all of them want.
fn finish(platform: &Platform) -> String {
    let order = r#"{"buyer":7,"id":"01890a5d-ac96-774b-bcce-ffffffffffff","currency":"GBP",
        "payment":"external","lines":[{"item":900001,"quantity":1}]}"#;
    let (status, answer) = request(&platform.url, "POST", "/v1/orders", order);
    assert_eq!(status, 201, "{answer}");
    "01890a5d-ac96-774b-bcce-ffffffffffff".to_string()
}

fn drill(platform: &Platform, seed: &str) -> Command {
    let mut drill = Command::new(env!("CARGO_BIN_EXE_crest"));
    drill.args(["drill", "--target", &platform.url, "--profile", "singles-day", "--seed", seed]);
    drill.args(["--rate", "4000", "--compress", "200", "--buyers", "2000", "--items", "300"]);
    drill.env("CREST_LOG", "error").stdin(Stdio::null());
    drill.stdout(Stdio::piped()).stderr(Stdio::piped());
    drill
}

fn passes(drill: &mut Command) {
    let output = drill.output().unwrap();
    let said =
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    assert!(output.status.success(), "{said}");
}

/// Each event once, those of a shard and of whoever they are about in order.
fn is_in_order(lines: &[String]) {
    let mut ids = BTreeSet::new();
    let mut of_shard: BTreeMap<u64, u64> = BTreeMap::new();
    let mut shard_of: BTreeMap<String, u64> = BTreeMap::new();
    for line in lines {
        let event = parse(line);
        assert!(ids.insert(event["id"].as_str().unwrap().to_string()), "twice: {line}");
        let (shard, offset) = place(&event);
        let before = of_shard.insert(shard, offset).unwrap_or(0);
        assert!(before <= offset, "out of order: {line}");
        let key = event["partitionkey"].as_str().unwrap().to_string();
        assert_eq!(*shard_of.entry(key).or_insert(shard), shard, "{line}");
    }
}

/// Holds events against the schema that the platform serves: how many there are of each type.
fn check(platform: &Platform, lines: &[String], scratch: &Path) -> Option<Value> {
    let Some(python) = std::env::var_os("CREST_PYTHON") else {
        println!("not checked: CREST_PYTHON names no Python; `cargo xtask test` installs one");
        return None;
    };
    let (status, schema) = request(&platform.url, "GET", "/v1/feed/schema", "");
    assert_eq!(status, 200);
    let path = scratch.join("schema.json");
    std::fs::write(&path, schema).unwrap();
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/check_events.py");
    let mut checked = Command::new(python)
        .arg(program)
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = checked.stdin.take().unwrap();
    let text = lines.join("\n");
    let fed = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = checked.wait_with_output().unwrap();
    // A program that found something wrong reads no further.
    let _ = fed.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Something of every type is done, and each of its events is what the schema says.
#[test]
fn events_are_what_their_schema_says() {
    let scratch = tempfile::tempdir().unwrap();
    let platform = Platform::start_with(&scratch.path().join("data"), &["--settle-step", "1s"]);
    let lines = everything::trade(&platform);
    is_in_order(&lines);
    // Transfers are seen from both sides, wherever they live.
    for party in 2..=7 {
        let theirs = read(&platform.url, &format!("from=earliest&buyer={party}"), "");
        let comes = theirs.iter().filter(|line| line.contains("transfer.made")).count();
        assert_eq!(comes, 1, "{party}: {theirs:#?}");
    }
    let Some(counts) = check(&platform, &lines, scratch.path()) else { return };
    let (_, schema) = request(&platform.url, "GET", "/v1/feed/schema", "");
    let schema = parse(&schema);
    let named = schema["oneOf"].as_array().unwrap().iter().map(|one| one["$ref"].as_str().unwrap());
    for name in named.map(|name| name.strip_prefix("#/$defs/").unwrap()) {
        assert!(counts.get(format!("crest.{name}.v1")).is_some(), "no {name} in {counts:#}");
    }
}

/// Readers of every kind, one that stalls among them, see the same as who reads afterwards; and
/// where one ended another can go on, when the log was trimmed and the platform was killed, too.
#[test]
fn every_reader_sees_all_of_it_once() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let mut platform = Platform::start_with(&data, &SMALL);
    let url = platform.url.clone();
    let item = r#"{"item":900001,"seller":9,"currency":"GBP","price":250,"stock":10}"#;
    assert_eq!(request(&url, "POST", "/v1/items", item).0, 201);
    let (events, frames) =
        ("Accept: text/event-stream\r\n", "Accept: application/vnd.crest.frames\r\n");
    let stalled = follow(&url, "from=earliest", "");
    let readers = [
        follow(&url, "from=now", ""),
        follow(&url, "type=order", ""),
        follow(&url, "buyer=1,7,9", ""),
        follow(&url, "item=1,900001", ""),
        follow(&url, "seller=9,1099511627777", ""),
        follow(&url, "type=order.placed,payment&item=1,2,900001", ""),
    ];
    let (_, sse) = open(&url, "", events);
    let (_, mut binary) = open(&url, "", frames);
    passes(&mut drill(&platform, "1"));
    let last = finish(&platform);
    let is_last = |line: &str| line.contains(&last) && line.contains("order.placed");

    let all = read(&url, "from=earliest", "");
    is_in_order(&all);
    let placed = all.iter().filter(|line| line.contains("order.placed")).count();
    assert!(placed > 2_000, "{placed}");
    if let Some(counts) = check(&platform, &all, scratch.path()) {
        assert_eq!(counts["crest.order.placed.v1"], placed);
        // Which of these a drill comes to in so short a time isn't the same each time.
        let changes = ["payment.captured", "order.cancelled", "order.refunded", "order.expired"];
        let has = |name: &&str| counts.get(format!("crest.{name}.v1")).is_some();
        assert!(changes.iter().any(has), "no order changed: {counts:#}");
    }
    for (reader, query) in readers {
        let seen = lines_to(reader, is_last);
        let again = read(&url, &format!("{query}&from=earliest").replace("from=now&", ""), "");
        // All but the item's creation was there before they came.
        let again = again
            .iter()
            .filter(|line| !(line.contains("item.created") && line.contains("items/900001\"")));
        assert!(seen.iter().eq(again), "{query}: {} events", seen.len());
        assert!(seen.len() > 1 || query.starts_with("buyer"), "{query}");
    }
    assert_eq!(lines_to(stalled.0, is_last), all, "the one that stalled");
    let sse = lines_to(sse, is_last);
    let data_lines = sse.iter().filter_map(|line| line.strip_prefix("data: "));
    assert!(data_lines.eq(all[1..].iter().map(String::as_str)), "server-sent events");
    let ids = sse.iter().filter_map(|line| line.strip_prefix("id: "));
    assert!(ids.eq(all[1..].iter().map(|line| id(line))), "their ids");

    // The same frames, whether they were read from the log or as they came.
    let (_, mut history) = open(&url, "from=earliest&until=now", frames);
    let (mut stored, mut live) = (Vec::new(), Vec::new());
    history.read_to_end(&mut stored).unwrap();
    let one = stored.windows(4).skip(1).position(|bytes| bytes == b"CRFR").unwrap() + 1;
    while live.len() < 100_000 {
        let piece = binary.fill_buf().unwrap();
        let length = piece.len();
        live.extend_from_slice(piece);
        binary.consume(length);
    }
    let start = stored.windows(64).position(|bytes| bytes == &live[..64]).unwrap();
    assert!(start >= one && stored[start..].starts_with(&live[..100_000]), "frames");
    // Behind a frame's last record comes the next frame, whose ever it is.
    let ends = ends_of_frames(&stored);
    for (end, last) in ends.iter().step_by(ends.len() / 5) {
        let header = format!("{frames}Last-Event-ID: {last}\r\n");
        let (status, mut rest) = open(&url, "until=now", &header);
        let mut after = Vec::new();
        rest.read_to_end(&mut after).unwrap();
        assert_eq!(status, 200, "{last}");
        assert!(after.starts_with(&stored[*end..]), "frames behind {last}");
    }

    let trimmed = |data: &Path| std::fs::read_dir(data.join("archive/segments")).unwrap().count();
    let began = Instant::now();
    while trimmed(&data) == 0 {
        assert!(began.elapsed() < PATIENCE, "nothing is trimmed");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(platform);
    platform = Platform::start_with(&data, &SMALL);
    let again = read(&platform.url, "from=earliest", "");
    assert!(again.starts_with(&all), "after a kill, {} of {} events", again.len(), all.len());
    for at in [0, 1, all.len() / 3, all.len() / 2, all.len() - 2, all.len() - 1] {
        let id = id(&all[at]);
        let after = read(&platform.url, "from=earliest", &format!("Last-Event-ID: {id}\r\n"));
        assert_eq!(after[..], again[at + 1..], "after {id}");
        assert_eq!(read(&platform.url, &format!("from={id}"), "")[..], again[at..], "from {id}");
    }
    let time = parse(&all[all.len() / 2])["time"].as_str().unwrap().to_string();
    let since = read(&platform.url, &format!("from={}", time.replace(':', "%3A")), "");
    let from = again.iter().position(|line| parse(line)["time"].as_str().unwrap() >= &*time);
    assert_eq!(since[..], again[from.unwrap()..], "from {time}");
}

/// A reader that comes back with the last event that it saw misses nothing and sees nothing twice,
/// however often the platform is killed; and what it saw is there for good.
#[test]
fn what_was_shown_outlives_kills() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let mut seen: Vec<String> = Vec::new();
    for round in 0..4 {
        let platform = Platform::start_with(&data, &SMALL);
        let header = match seen.last() {
            Some(line) => format!("Last-Event-ID: {}\r\n", id(line)),
            None => String::new(),
        };
        let (status, reader) = open(&platform.url, "from=earliest", &header);
        assert_eq!(status, 200);
        let reading: JoinHandle<Vec<String>> = std::thread::spawn(move || {
            // It ends with the platform, in the middle of a line or not.
            let lines = reader.lines().map_while(Result::ok);
            lines.filter(|line| serde_json::from_str::<Value>(line).is_ok()).collect()
        });
        let mut load = drill(&platform, &format!("{}", round + 1)).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(1_500));
        drop(platform);
        // What the drill thinks of a platform that goes away is no matter here.
        let _ = load.kill();
        load.wait().unwrap();
        seen.extend(reading.join().unwrap());
    }
    assert!(seen.len() > 1_000, "{}", seen.len());
    is_in_order(&seen);
    let platform = Platform::start_with(&data, &SMALL);
    let all = read(&platform.url, "from=earliest", "");
    assert!(all.starts_with(&seen), "{} seen, {} there", seen.len(), all.len());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let platform = Platform::start_with(&scratch.path().join("data"), &["--feed-readers", "1"]);
    let refused = |query: &str, header: &str| {
        let (status, mut reader) = open(&platform.url, query, header);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let problem = parse(&text);
        let field = problem["field"].as_str().unwrap_or("").to_string();
        (status, problem["type"].as_str().unwrap().replace("urn:crest:problem:", ""), field)
    };
    let is = |status: u16, kind: &str, field: &str| (status, kind.to_string(), field.to_string());
    for (query, field) in [
        ("from=16-1", "from"),
        ("from=3-2", "from"),
        ("from=3-1-0", "from"),
        ("from=-1", "from"),
        ("from=2026-11-11", "from"),
        ("from=2199-01-01T00:00:00Z", "from"),
        ("until=later", "until"),
        ("type=order.eaten", "type"),
        ("buyer=one", "buyer"),
        ("item=", "item"),
        ("seller=1,x", "seller"),
        ("limit=5", "limit"),
    ] {
        assert_eq!(refused(query, ""), is(400, "invalid", field), "{query}");
    }
    let many: String = (0..101).map(|n| format!("{n},")).collect();
    assert_eq!(refused(&format!("buyer={}", many.trim_end_matches(',')), "").0, 400);
    let marked = "Last-Event-ID: yesterday\r\n";
    assert_eq!(refused("", marked), is(400, "invalid", "Last-Event-ID"));
    assert_eq!(refused("", "Accept: text/html\r\n"), is(406, "not_acceptable", "Accept"));
    let frames = "Accept: application/vnd.crest.frames\r\n";
    assert_eq!(refused("type=order", frames), is(400, "invalid", "Accept"));
    let (status, reader) = open(&platform.url, "", "");
    assert_eq!(status, 200);
    assert_eq!(refused("", ""), is(503, "too_many_readers", ""));
    drop(reader);
    // Its place is free once the platform has seen that it left.
    let began = Instant::now();
    while open(&platform.url, "until=now", "").0 != 200 {
        assert!(began.elapsed() < PATIENCE, "the place of a reader that left stays taken");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(request(&platform.url, "POST", "/v1/feed", "").0, 405);
}
