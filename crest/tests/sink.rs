//! The log in PostgreSQL: what is there is what was traded, whoever is killed when.
//!
//! Without PostgreSQL's programs these are skipped.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

mod platform;
mod postgres;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use platform::{Platform, request};
use postgres::Postgres;
use serde_json::Value;

fn crest(args: &[&str]) -> Command {
    let mut crest = Command::new(env!("CARGO_BIN_EXE_crest"));
    crest.args(args).env("CREST_LOG", "error").stdin(Stdio::null());
    crest
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn passes(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

/// Buyers who pay, cancel, and send back.
fn drill(platform: &Platform, seed: u64) -> Command {
    let seed = seed.to_string();
    let mut drill = crest(&["drill", "--target", &platform.url, "--seed", &seed]);
    drill.args(["--profile", "singles-day", "--rate", "4000", "--compress", "400"]);
    drill.args(["--buyers", "2000", "--items", "300"]);
    drill
}

fn sink(platform: &Platform, postgres: &Postgres, more: &[&str]) -> Command {
    let url = postgres.url();
    crest(&[&["sink", "postgres", "--feed", &platform.url, "--url", &url], more].concat())
}

fn sink_all(platform: &Platform, postgres: &Postgres) -> String {
    passes(sink(platform, postgres, &["--until", "now"]))
}

fn audited(data: &Path) -> Value {
    let json = data.with_extension("json");
    passes(crest(&["audit", data.to_str().unwrap(), "--json", json.to_str().unwrap()]));
    serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap()
}

/// The tables hold what an audit of the log comes to, and their entries what accounts hold.
fn agrees(platform: &Platform, postgres: &Postgres, audit: &Value) {
    let sums = postgres.run(
        "SELECT json_build_object('orders', count(*), 'revenue', sum(total - refunded)) \
         FROM crest.orders WHERE outcome = 'ok' AND state NOT IN ('reserved', 'cancelled', 'expired')",
    );
    let sums: Value = serde_json::from_str(&sums).unwrap();
    let placed = postgres.run("SELECT count(*) FROM crest.orders WHERE outcome = 'ok'");
    assert_eq!(placed.parse::<u64>().unwrap(), audit["audit"]["orders"], "orders");
    println!("{sums} {}", audit["audit"]);
    let doubled = "SELECT count(*) - count(DISTINCT (record, entry)) FROM crest.ledger_entries";
    assert_eq!(postgres.run(doubled), "0", "entries that are there twice");
    let unbalanced = "SELECT count(*) FROM (SELECT 1 FROM crest.ledger_entries \
                      GROUP BY record, currency HAVING sum(amount) <> 0) AS records";
    assert_eq!(postgres.run(unbalanced), "0", "records out of balance");
    let transit =
        "SELECT coalesce(sum(amount), 0) FROM crest.ledger_entries WHERE kind = 'transit'";
    let balances = postgres.run(
        "SELECT party, kind, currency, sum(amount) FROM crest.ledger_entries \
         WHERE kind IN ('main', 'settlement', 'suspense') GROUP BY 1, 2, 3",
    );
    assert_eq!(postgres.run(transit), "0");
    for line in balances.lines().step_by(1 + balances.lines().count() / 200) {
        let [party, kind, currency, sum] = line.split('|').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let path = format!("/v1/accounts/{party}?currency={currency}&kind={kind}");
        let (status, account) = request(&platform.url, "GET", &path, "");
        assert_eq!(status, 200, "{path}: {account}");
        let account: Value = serde_json::from_str(&account).unwrap();
        assert_eq!(account["balance"].to_string(), sum, "{account}");
    }
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_is_there_is_what_was_traded_whoever_is_killed() {
    let Some(mut postgres) = Postgres::start() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let small = ["--segment-bytes", "2109440", "--snapshot-every", "300000", "--settle-step", "1s"];
    let mut platform = Platform::start_with(&data, &small);
    let mut sinking = sink(&platform, &postgres, &[]).spawn().unwrap();
    let load = drill(&platform, 1).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for round in 0..12u64 {
        std::thread::sleep(Duration::from_millis(200 + round * 137 % 500));
        if round % 4 == 3 {
            postgres.crash();
        } else {
            kill(sinking);
            sinking = sink(&platform, &postgres, &[]).spawn().unwrap();
        }
    }
    let drilled = load.wait_with_output().unwrap();
    assert!(drilled.status.success(), "{}", said(&drilled));
    // It is there still, whatever happened to the database.
    assert!(sinking.try_wait().unwrap().is_none());
    kill(sinking);
    sink_all(&platform, &postgres);
    assert!(sink_all(&platform, &postgres).starts_with("0 orders"), "nothing is written twice");
    // At rest nothing more is swept.
    std::thread::sleep(Duration::from_secs(4));
    sink_all(&platform, &postgres);
    drop(platform);
    let audit = audited(&data);
    platform = Platform::start_with(&data, &small);
    sink_all(&platform, &postgres);
    agrees(&platform, &postgres, &audit);
}
