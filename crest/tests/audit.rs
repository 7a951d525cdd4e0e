//! `crest audit` of a directory of several shards: as it was left, as a mixture of moments, with
//! a record that was changed, and with a bit that was.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

mod platform;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use expect_test::{Expect, expect};
use loadgen::{Connection, Target};
use model::frame::{Frame, FrameBuilder, FramePlace};
use model::record::{Body, Kind, Record};
use model::{Epoch, Offset, Party, ShardId, ids};
use mq::{DirDisk, LocalConfig, LocalLog, Log, Prepare};
use platform::Platform;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const SHARDS: u16 = 4;
/// The smallest segments there are.
const SEGMENT_BYTES: u64 = (2 << 20) + (12 << 10);

/// A party that lives on this shard.
fn party_on(shard: u16) -> Party {
    (1..).map(Party).find(|party| ids::shard_of(*party, SHARDS) == ShardId(shard)).unwrap()
}

/// A directory that was served and stopped: an account on each shard, and 60 pence that went from
/// shard 0 to shard 1.
fn served(dir: &Path) -> PathBuf {
    let data = dir.join("data");
    let segment = SEGMENT_BYTES.to_string();
    let options = ["--shards", "4", "--reactors", "2", "--segment-bytes", &segment];
    let mut platform = Platform::start_with(&data, &options);
    let target = Target::from_url(&platform.url).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (from, to) = (party_on(0), party_on(1));
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut connection = Connection::open(&target).await.unwrap();
        let mut ask = async |path: &str, body: &str| {
            let mut head = Vec::new();
            match body {
                "" => target.get(path, &mut head),
                _ => target.post(path, body.len(), &mut head),
            }
            connection.send(&head, body.as_bytes()).await.unwrap();
            let (status, answer) = connection.receive().await.unwrap();
            assert!(status < 300, "{status}: {}", String::from_utf8_lossy(answer));
            String::from_utf8_lossy(answer).into_owned()
        };
        for shard in 0..SHARDS {
            let party = party_on(shard);
            let account = format!(r#"{{"party":{party},"currency":"GBP","balance":100}}"#);
            ask("/v1/accounts", &account).await;
        }
        let id = "01890a5d-ac96-774b-bcce-000000000001";
        let transfer = format!(
            r#"{{"id":"{id}","from":{{"party":{from}}},"to":{{"party":{to}}},"currency":"GBP","amount":60}}"#
        );
        ask("/v1/transfers", &transfer).await;
        let account = format!("/v1/accounts/{to}?currency=GBP");
        while !ask(&account, "").await.contains(r#""balance":160"#) {}
    });
    kill_process(Pid::from_child(&platform.child), Signal::TERM).unwrap();
    assert!(platform.child.wait().unwrap().success());
    data
}

/// Copies a directory, with those frames of its log that `keep` gives back.
fn copy(data: &Path, to: &Path, mut keep: impl FnMut(Frame<'_>) -> Option<Vec<u8>>) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(data.join("crest.json"), to.join("crest.json")).unwrap();
    let config = LocalConfig {
        segment_bytes: SEGMENT_BYTES,
        prepare: Prepare::Inline,
        ..LocalConfig::default()
    };
    let open = |data: &Path| {
        let disk = Arc::new(DirDisk::open(data.join("log")).unwrap());
        LocalLog::open(disk, config).unwrap().0
    };
    // Opening writes, so what is read is a copy, too.
    let aside = to.join("aside");
    std::fs::create_dir_all(aside.join("log")).unwrap();
    for file in std::fs::read_dir(data.join("log")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), aside.join("log").join(file.file_name())).unwrap();
    }
    let (source, mut copy) = (open(&aside), open(to));
    let mut frames = source.read_all().unwrap();
    while let Some(frame) = frames.next().unwrap() {
        if let Some(bytes) = keep(frame) {
            copy.append(&[&bytes]).unwrap();
        }
    }
    copy.close().unwrap();
    std::fs::remove_dir_all(aside).unwrap();
}

fn records<'a>(frame: &Frame<'a>) -> impl Iterator<Item = Record<'a>> + use<'a> {
    frame.records().map(|record| record.unwrap())
}

/// Exit status, words and figures of an audit. In words, paths and the machine are left out.
fn audit(data: &Path) -> (i32, String, Value) {
    let json = data.with_extension("json");
    let output = Command::new(env!("CARGO_BIN_EXE_crest"))
        .arg("audit")
        .arg(data)
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    println!("{words}{}", String::from_utf8_lossy(&output.stderr));
    let figures = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    (output.status.code().unwrap(), words, figures)
}

/// The rows of a report with these names, and those that go on with them.
fn rows(words: &str, names: &[&str]) -> String {
    let mut wanted = false;
    let mut found = String::new();
    for line in words.lines().skip(1) {
        let name = line.get(2..12).unwrap_or_default().trim();
        wanted = if name.is_empty() { wanted } else { names.contains(&name) };
        if wanted {
            found.push_str(line.trim_end());
            found.push('\n');
        }
    }
    found
}

fn check(data: &Path, figures_of: &[&str], expected: Expect) {
    let (status, words, figures) = audit(data);
    let mut text = format!("status {status}\n{}", rows(&words, &["verdict", "audit", "problem"]));
    for field in figures_of {
        text.push_str(&format!("{field} {}\n", figures["audit"][field]));
    }
    assert_eq!(figures["platform"]["shards"], SHARDS);
    expected.assert_eq(&text);
}

/// Figures that say what kind of wrong it is.
const KINDS: [&str; 6] =
    ["ok", "duplicated", "oversold", "unbalanced", "inconsistent", "first_difference"];

#[test]
fn what_was_stopped_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let data = served(dir.path());
    let (status, words, figures) = audit(&data);
    assert_eq!(status, 0, "{words}");
    assert!(words.contains(" 0 unbalanced, 0 inconsistent"), "{words}");
    let found = KINDS.map(|kind| figures["audit"][kind].to_string());
    assert_eq!(found, ["true", "0", "0", "0", "0", "null"]);
    // And a whole copy is as good as it.
    let again = dir.path().join("again");
    copy(&data, &again, |frame| Some(frame.bytes.to_vec()));
    let (status, _, copied) = audit(&again);
    assert_eq!((status, &copied["audit"]), (0, &figures["audit"]));
}

#[test]
fn a_shard_from_an_earlier_moment_is_inconsistent_and_not_unbalanced() {
    let dir = tempfile::tempdir().unwrap();
    let data = served(dir.path());
    let mixed = dir.path().join("mixed");
    // Shard 0 as it was before it sent what shard 1 has taken.
    let mut is_over = false;
    copy(&data, &mixed, |frame| {
        let is_sender = frame.place().shard == ShardId(0);
        is_over |=
            is_sender && records(&frame).any(|record| record.header.kind == Kind::Transfer as u8);
        (!is_over || !is_sender).then(|| frame.bytes.to_vec())
    });
    let (_, words, figures) = audit(&mixed);
    assert_eq!(figures["audit"]["inconsistent"], 1, "{words}");
    check(
        &mixed,
        &["ok", "unbalanced", "oversold", "duplicated", "inconsistent", "first_difference"],
        expect![[r#"
            status 1
              verdict    FAIL
              audit      NOT OK: 5 records executed again, 0 duplicated, 0 oversold, 0 unbalanced, 1 inconsistent
              problem    audit: live: shard 1 has taken 1 entries from shard 0, whose log ends after 0 were sent: the two are not from the same moment
            ok false
            unbalanced 0
            oversold 0
            duplicated 0
            inconsistent 1
            first_difference null
        "#]],
    );
}

#[test]
fn a_record_that_was_changed_is_named_by_shard_and_offset() {
    let dir = tempfile::tempdir().unwrap();
    let data = served(dir.path());
    let changed = dir.path().join("changed");
    // Shard 1 says that it opened its account with a penny more, and its log ends there: the
    // checksums are those of what it says.
    let mut is_over = false;
    copy(&data, &changed, |frame| {
        let FramePlace { shard, time, previous, .. } = frame.place();
        if shard != ShardId(1) || is_over {
            return (shard != ShardId(1)).then(|| frame.bytes.to_vec());
        }
        is_over = records(&frame).any(|record| matches!(record.body, Body::CreateAccount(_)));
        if !is_over {
            return Some(frame.bytes.to_vec());
        }
        let mut builder = FrameBuilder::default();
        for record in records(&frame) {
            let bytes = builder.push(record.bytes);
            let amount = record.header.amount.get() + 1;
            model::record::set_outcome(bytes, record.outcome().unwrap(), 0, 0, amount);
        }
        let place = FramePlace {
            shard,
            epoch: Epoch(frame.header.epoch.get()),
            first_offset: Offset(frame.header.first_offset.get()),
            time,
            previous,
        };
        Some(builder.finish(place, frame.header.rules.get()).0)
    });
    check(
        &changed,
        &["ok", "first_difference"],
        expect![[r#"
        status 1
          verdict    FAIL
          audit      NOT OK: 1 records executed again, 0 duplicated, 0 oversold, 0 unbalanced, 0 inconsistent
                     the first difference is at shard 1, offset 1
          problem    audit: the log does not execute to what it records, at shard 1, offset 1: CreateAccount logged with amount 101, executed again with 100
        ok false
        first_difference {"offset":1,"shard":1}
    "#]],
    );
}

#[test]
fn a_bit_that_was_flipped_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let data = served(dir.path());
    let segment = data.join("log").join("0000000000.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    // The segment's header is the first block, then come the first write's header and frame.
    bytes[4096 + 64 + 20] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (status, words, figures) = audit(&data);
    assert_eq!(status, 1, "{words}");
    assert!(words.contains("the log is damaged at position 4096"), "{words}");
    let found = KINDS.map(|kind| figures["audit"][kind].to_string());
    assert_eq!(found, ["false", "0", "0", "0", "0", "null"]);
    assert!(figures["problems"][0].as_str().unwrap().contains("the log is damaged at position"));
}
