//! The platform with its log on a real cluster of NATS servers, which are killed, restarted and
//! paused under load.
//!
//! `CREST_NATS_SERVER` says where the server's program is, `CREST_PYTHON` where a Python is that has
//! nats-py, xxhash and zstandard; `cargo xtask test` installs them. Without them this is skipped.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

#[path = "../../mq/tests/common/nats.rs"]
mod nats;
mod platform;

use std::io::BufRead;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nats::{Cluster, Settings, server};
use platform::{Platform, open_feed, read_feed};
use serde_json::Value;

const LOG_FAILED: i32 = 70;

/// The program with what it needs to find the servers.
fn crest(cluster: &Cluster, args: &[&str]) -> Command {
    let mut crest = Command::new(env!("CARGO_BIN_EXE_crest"));
    crest.args(args).args(["--nats", &cluster.url(), "--nats-system", &cluster.system_url()]);
    crest.env("CREST_LOG", "error").stdin(Stdio::null());
    crest
}

fn serve(cluster: &Cluster, data: &Path, more: &[&str]) -> Platform {
    let (url, system) = (cluster.url(), cluster.system_url());
    let on_jetstream = ["--log", "jetstream", "--nats", &url, "--nats-system", &system];
    Platform::start_with(data, &[&on_jetstream, more].concat())
}

fn drill(platform: &Platform, seconds: u64) -> Command {
    let mut drill = Command::new(env!("CARGO_BIN_EXE_crest"));
    drill.args(["drill", "--target", &platform.url, "--buyers", "2000", "--items", "500"]);
    drill.args(["--rate", "4000", "--batch", "100", "--duration", &format!("{seconds}s")]);
    drill.env("CREST_LOG", "error").stdin(Stdio::null());
    drill.stdout(Stdio::piped()).stderr(Stdio::piped());
    drill
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn passes(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
}

fn audit(cluster: &Cluster, data: &Path) -> Output {
    crest(cluster, &["audit", data.to_str().unwrap()]).output().unwrap()
}

#[test]
fn servers_fail_under_load_and_nothing_acknowledged_is_lost() {
    let Some(program) = server() else { return };
    let mut cluster = Cluster::start(program, &Settings::default());
    drop(nats::connect(&nats::config(&cluster, "ready")));
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let small = ["--segment-bytes", "2109440", "--snapshot-every", "500000"];
    let mut platform = serve(&cluster, &data, &small);

    let (status, reader) = open_feed(&platform.url, "from=earliest", "");
    assert_eq!(status, 200);
    let reading = std::thread::spawn(move || -> Vec<String> {
        let lines = reader.lines().map_while(Result::ok);
        lines.filter(|line| serde_json::from_str::<Value>(line).is_ok()).collect()
    });
    let load = drill(&platform, 20).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    for number in 0..3 {
        cluster.kill(number);
        std::thread::sleep(Duration::from_secs(1));
        cluster.restart(number);
        std::thread::sleep(Duration::from_secs(2));
    }
    for number in 0..3 {
        cluster.pause(number, Duration::from_secs(1));
    }
    (0..3).for_each(|number| cluster.kill(number));
    (0..3).for_each(|number| cluster.restart(number));
    passes(&load.wait_with_output().unwrap());

    // The process is killed, too, and goes on from snapshots and the stream.
    drop(platform);
    passes(&audit(&cluster, &data));
    platform = serve(&cluster, &data, &small);
    passes(&drill(&platform, 3).output().unwrap());
    // What the feed showed while servers failed is what is there, archive and stream together.
    let (seen, all) = (reading.join().unwrap(), read_feed(&platform.url, "from=earliest", ""));
    assert!(seen.len() > 2_500 && all.starts_with(&seen), "{} of {}", seen.len(), all.len());
    assert!(data.join("archive/segments").read_dir().unwrap().count() > 0);
    let placed = all.iter().filter(|line| line.contains("order.placed")).count();
    assert!(placed >= 60_000, "{placed}");
    drop(platform);
    passes(&audit(&cluster, &data));
    // Where the servers are has to be said.
    let lost = Command::new(env!("CARGO_BIN_EXE_crest")).arg("audit").arg(&data).output().unwrap();
    assert!(!lost.status.success() && said(&lost).contains("--nats"), "{}", said(&lost));
}

#[test]
fn another_machine_takes_the_log_over() {
    let Some(program) = server() else { return };
    let cluster = Cluster::start(program, &Settings::default());
    drop(nats::connect(&nats::config(&cluster, "ready")));
    let scratch = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| scratch.path().join(name));
    let mut old = serve(&cluster, &first, &["--shards", "4"]);
    passes(&drill(&old, 2).output().unwrap());
    // Its directory is new: what it is, the stream says.
    let new = serve(&cluster, &second, &[]);
    passes(&drill(&new, 2).output().unwrap());
    // The first one is told when it writes.
    let account = ["--json", r#"{"party":99000000,"currency":"GBP","balance":1}"#];
    let url = format!("{}/v1/accounts", old.url);
    let asked = Command::new("curl").args(account).arg(url).output().unwrap();
    assert!(!said(&asked).contains(r#""outcome":"ok""#), "{}", said(&asked));
    let until = Instant::now() + Duration::from_secs(30);
    let ended = loop {
        if let Some(ended) = old.child.try_wait().unwrap() {
            break ended;
        }
        assert!(Instant::now() < until, "the first one goes on");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(ended.code(), Some(LOG_FAILED));
    drop(new);
    passes(&audit(&cluster, &second));
    // A stream of another directory is left alone.
    let other = scratch.path().join("other");
    let data = other.to_str().unwrap();
    let key = scratch.path().join("key");
    std::fs::write(&key, "0123456789012345678901234567890123456789").unwrap();
    let key = key.to_str().unwrap();
    let args = ["serve", "--data", data, "--log", "jetstream", "--data-key", key];
    let refused = crest(&cluster, &args).output().unwrap();
    assert!(said(&refused).contains("another data directory"), "{}", said(&refused));
}

/// A program in another language, written from the page on the log's bytes alone, reads what was
/// traded from the stream.
#[test]
fn anybody_can_read_the_stream() {
    let Some(program) = server() else { return };
    let Some(python) = std::env::var_os("CREST_PYTHON") else {
        println!(
            "skipped: CREST_PYTHON names no Python with its packages; `cargo xtask test` does"
        );
        return;
    };
    let cluster = Cluster::start(program, &Settings::default());
    drop(nats::connect(&nats::config(&cluster, "ready")));
    let scratch = tempfile::tempdir().unwrap();
    let json = scratch.path().join("drill.json");
    let args = ["drill", "--log", "jetstream", "--nats-stream", "shop", "--duration", "1s"];
    let load = ["--rate", "5000", "--batch", "100", "--buyers", "500", "--items", "200"];
    let mut drill = crest(&cluster, &[&args[..], &load].concat());
    passes(&drill.arg("--json").arg(&json).output().unwrap());
    let drilled: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(drilled["platform"]["log"], "jetstream");

    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_log.py");
    let read = Command::new(python).args([reader, &cluster.url(), "shop"]).output().unwrap();
    passes(&read);
    let read: Value = serde_json::from_slice(&read.stdout).unwrap();
    for (of_page, of_audit) in [
        ("/orders", "/audit/orders"),
        ("/units", "/audit/units_sold"),
        ("/total", "/audit/revenue/GBP"),
        ("/orders", "/accepted"),
    ] {
        assert_eq!(read.pointer(of_page), drilled.pointer(of_audit), "{read} {drilled}");
    }
    assert_eq!((&read["items"], &read["shards"]), (&200.into(), &16.into()), "{read}");
}
