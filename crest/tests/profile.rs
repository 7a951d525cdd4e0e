//! Profiles as an engineer takes them: of a platform under load, of a captured log, and their
//! difference.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

mod platform;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use platform::Platform;
use serde_json::Value;

fn crest(args: &[&str]) -> Output {
    let output =
        Command::new(env!("CARGO_BIN_EXE_crest")).args(args).env("CREST_LOG", "warn").output();
    let output = output.unwrap();
    println!("crest {}\n{}{}", args.join(" "), text(&output.stdout), text(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Whether perf can sample here; if not, says why the test is skipped.
fn perf_works(dir: &Path) -> bool {
    let output = Command::new("perf")
        .args(["record", "-F", "99", "-o"])
        .arg(dir.join("try.data"))
        .arg("true")
        .output();
    match output {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            eprintln!("skipped: perf is not permitted here: {}", text(&output.stderr));
            false
        }
        Err(error) => {
            eprintln!("skipped: perf is not here: {error}");
            false
        }
    }
}

#[test]
fn a_platform_under_load_names_its_functions() {
    let dir = tempfile::tempdir().unwrap();
    if !perf_works(dir.path()) {
        return;
    }
    let platform = Platform::start(&dir.path().join("data"));
    let mut load = Command::new(env!("CARGO_BIN_EXE_crest"))
        .args(["drill", "--target", &platform.url, "--duration", "6s"])
        .args(["--buyers", "1000", "--items", "100", "--batch", "100"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let out = dir.path().join("profile");
    let (pid, folder) = (platform.child.id().to_string(), out.to_str().unwrap());
    // The load may take a moment to begin: sample until it was seen.
    let mut svg = String::new();
    while load.try_wait().unwrap().is_none() && !svg.contains("txn_core::") {
        let args = ["profile", "--seconds", "2", "--pid", &pid, "--out", folder];
        let output = crest(&args);
        // An idle platform gives no samples; that is an error with words.
        if output.status.success() {
            svg = std::fs::read_to_string(out.join("flame.svg")).unwrap();
        }
    }
    let _ = load.kill();
    load.wait().unwrap();
    for name in ["txn_core::", "model::", "crest-0", "crest-log"] {
        assert!(svg.contains(name), "{name} is in no box of the flame graph");
    }
    let figures = json(&out.join("profile.json"));
    assert_eq!(figures["pid"], platform.child.id());
    assert!(figures["samples"].as_u64().unwrap() > 0);
    for table in ["own", "inclusive", "lines", "thread_samples", "threads"] {
        assert!(!figures[table].as_array().unwrap().is_empty(), "{table}");
    }

    let compared = dir.path().join("diff.json");
    let picture = dir.path().join("diff.svg");
    let output = crest(&[
        "profile",
        "diff",
        folder,
        folder,
        "--out",
        picture.to_str().unwrap(),
        "--json",
        compared.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(0));
    let compared = json(&compared);
    assert_eq!(compared["own"].as_array().unwrap().len(), 0);
    assert_eq!(compared["inclusive"].as_array().unwrap().len(), 0);
    assert!(std::fs::read_to_string(picture).unwrap().contains("txn_core::"));
}

#[test]
fn a_captured_log_is_timed_again_frame_by_frame() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let drill = ["drill", "--duration", "1s", "--buyers", "1000", "--items", "100", "--batch"];
    let output = crest(&[&drill[..], &["100", "--rate", "20000", "--data", data]].concat());
    // A machine that is busy elsewhere may make the generator late; the log is whole anyway.
    assert!(matches!(output.status.code(), Some(0 | 3)));

    let all = dir.path().join("all");
    let args = ["profile", "replay", data, "--rounds", "2", "--out", all.to_str().unwrap()];
    assert_eq!(crest(&args).status.code(), Some(0));
    let figures = json(&all.join("replay.json"));
    assert_eq!(figures["orders"], 20_000);
    assert_eq!(figures["rounds"], 2);
    // 1,000 accounts and 100 items were made first, and shards have something for each other.
    assert!(figures["records"].as_u64() >= Some(21_100), "{}", figures["records"]);
    assert!(figures["frame_ns"]["p50"].as_u64() <= figures["frame_ns"]["max"].as_u64());
    let slow = figures["slowest"][0].clone();

    let one = dir.path().join("one");
    let offset = (slow["offset"].as_u64().unwrap() + 1).to_string();
    let args = ["profile", "replay", data, "--offset", &offset, "--out", one.to_str().unwrap()];
    // Every shard has such an offset.
    assert_eq!(crest(&args).status.code(), Some(2));
    let shard = slow["shard"].to_string();
    let output = crest(&[&args[..], &["--shard", &shard]].concat());
    assert_eq!(output.status.code(), Some(0));
    let figures = json(&one.join("replay.json"));
    assert_eq!(figures["frames"], 1);
    assert_eq!(figures["records"], slow["records"]);
    assert_eq!(
        (&figures["slowest"][0]["shard"], figures["slowest"].as_array().unwrap().len()),
        (&slow["shard"], 1)
    );
    assert!(text(&output.stdout).contains("commands"));

    let nothing = ["profile", "replay", data, "--shard", "3", "--from", "9999999", "--rounds", "1"];
    let output = crest(&nothing);
    assert_eq!(output.status.code(), Some(2));
    let words = text(&output.stderr);
    assert!(words.contains("holds 9999999") && words.contains("of shard 3"), "{words}");
}

#[test]
fn a_log_that_is_served_is_not_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let _platform = Platform::start(&data);
    let output = crest(&["profile", "replay", data.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("in use by another process"));
}

#[test]
fn without_perf_it_says_what_to_install() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_crest"))
        .args(["profile", "--seconds", "1", "--pid", &std::process::id().to_string(), "--out"])
        .arg(dir.path().join("out"))
        .env("PATH", dir.path())
        .output()
        .unwrap();
    let words = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("apt install linux-perf") && words.contains("dnf install perf"));
    assert!(!dir.path().join("out").exists());
}

#[test]
fn what_perf_says_against_it_is_shown() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let perf = dir.path().join("perf");
    std::fs::write(&perf, "#!/bin/sh\necho 'Access to performance monitoring is limited.' >&2\n")
        .unwrap();
    std::fs::set_permissions(&perf, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_crest"))
        .args(["profile", "--seconds", "1", "--pid", &std::process::id().to_string()])
        .env("PATH", dir.path())
        .output()
        .unwrap();
    let words = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("monitoring is limited") && words.contains("perf_event_paranoid"));
}
