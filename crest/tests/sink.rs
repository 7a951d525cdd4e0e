//! The log in PostgreSQL: what is there is what was traded, whoever is killed when.
//!
//! Without PostgreSQL's programs these are skipped.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

mod everything;
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
        "SELECT json_build_object('orders', count(*), 'revenue', sum(total - refunded), \
         'lines', sum(lines), 'sold', sum(units), 'back', sum(back)) FROM crest.orders JOIN \
         (SELECT order_number AS number, count(*) AS lines, \
         sum(quantity) FILTER (WHERE kind = 'goods') AS units, \
         sum(refunded) FILTER (WHERE kind = 'goods') AS back \
         FROM crest.order_lines GROUP BY 1) AS of_orders USING (number) \
         WHERE state IN ('paid', 'partly_refunded', 'refunded')",
    );
    let sums: Value = serde_json::from_str(&sums).unwrap();
    let audit = &audit["audit"];
    assert_eq!(sums["orders"], audit["orders"], "{sums} {audit}");
    assert_eq!(sums["revenue"], audit["revenue"]["GBP"], "{sums} {audit}");
    assert_eq!(sums["lines"], audit["lines"], "{sums} {audit}");
    assert_eq!(sums["back"], audit["units_refunded"], "{sums} {audit}");
    assert_eq!(sums["sold"], audit["units_sold"], "{sums} {audit}");
    balances_are_accounts(platform, postgres);
}

/// Entries are there once, come to nothing, and to what accounts hold.
fn balances_are_accounts(platform: &Platform, postgres: &Postgres) {
    let doubled = "SELECT count(*) - count(DISTINCT (record, entry)) FROM crest.ledger_entries";
    assert_eq!(postgres.run(doubled), "0", "entries that are there twice");
    let unbalanced = "SELECT count(*) FROM (SELECT 1 FROM crest.ledger_entries \
                      GROUP BY record, currency HAVING sum(amount) <> 0) AS records";
    assert_eq!(postgres.run(unbalanced), "0", "records out of balance");
    let transit =
        "SELECT coalesce(sum(amount), 0) FROM crest.ledger_entries WHERE kind = 'transit'";
    assert_eq!(postgres.run(transit), "0");
    for kind in ["main", "settlement", "suspense", "deposit"] {
        let booked = postgres.run(&format!(
            "SELECT party, currency, sum(amount) FROM crest.ledger_entries \
             WHERE kind = '{kind}' GROUP BY 1, 2 HAVING sum(amount) <> 0 ORDER BY 1, 2"
        ));
        let booked: Vec<String> = booked.lines().map(str::to_string).collect();
        assert_eq!(booked, accounts(platform, kind), "{kind}");
    }
}

/// Accounts of a kind that aren't empty, in order.
fn accounts(platform: &Platform, kind: &str) -> Vec<String> {
    let (mut found, mut from) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/accounts?kind={kind}&limit=10000{from}");
        let (status, page) = request(&platform.url, "GET", &path, "");
        assert_eq!(status, 200, "{page}");
        let page: Value = serde_json::from_str(&page).unwrap();
        for account in page["accounts"].as_array().unwrap() {
            let balance = account["balance"].as_i64().unwrap();
            let name = (account["party"].as_u64().unwrap(), account["currency"].as_str().unwrap());
            if balance != 0 {
                found.push((name.0, name.1.to_string(), balance));
            }
        }
        let Some(next) = page["next"].as_str() else { break };
        from = format!("&from={next}");
    }
    found.sort();
    found.iter().map(|(party, currency, balance)| format!("{party}|{currency}|{balance}")).collect()
}

fn kill(mut child: Child) {
    assert!(child.try_wait().unwrap().is_none(), "it has ended by itself");
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

/// Everything that can happen is booked as the platform books it.
#[test]
fn everything_is_booked() {
    let Some(postgres) = Postgres::start() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let platform = Platform::start_with(&data, &["--settle-step", "1s"]);
    everything::trade(&platform);
    // In two parts, so that rows of before are changed.
    sink_all(&platform, &postgres);
    let post = |path: &str, body: &str| {
        let (status, answer) = request(&platform.url, "POST", path, body);
        assert!(status < 300, "{path}: {answer}");
    };
    let id = |n: u64| format!("01890a5d-ac96-774b-bcce-{n:012x}");
    let change = |n: u64| format!(r#"{{"id":"{}"}}"#, id(n));
    // The rest of an order that a coupon, an account and a provider have paid.
    post(&format!("/v1/buyers/1/orders/{}/refund", id(1)), &change(901));
    // Its money can't go where it came from.
    let (buyer, order) = (30, id(902));
    let own = |rest: &str| format!(r#"{{"id":"{}","currency":"GBP"{rest}}}"#, id(903));
    post("/v1/accounts", r#"{"party":30,"currency":"GBP","balance":240}"#);
    post(
        "/v1/orders",
        &format!(
            r#"{{"buyer":{buyer},"id":"{order}","currency":"GBP","payment":"balance",
            "lines":[{{"item":1,"quantity":1}}]}}"#
        ),
    );
    sink_all(&platform, &postgres);
    post("/v1/accounts/30/close", &own(""));
    post(&format!("/v1/buyers/{buyer}/orders/{order}/refund"), &change(904));
    std::thread::sleep(Duration::from_secs(4));
    sink_all(&platform, &postgres);
    balances_are_accounts(&platform, &postgres);
    let count = |sql: &str| postgres.run(&format!("SELECT count(*) FROM crest.{sql}"));
    assert_eq!(
        count("ledger_entries WHERE kind = 'suspense' AND party = 30 AND amount = 240"),
        "1"
    );
    assert_eq!(count("coupons"), "1");
    assert_eq!(count("accounts WHERE closed_at IS NOT NULL"), "2");
    assert_eq!(count("holds WHERE held = 0"), "2");
    assert_eq!(count("items WHERE item = -1"), "1");
    assert_eq!(count("order_payments WHERE funder = 77 AND refunded = paid"), "1");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let Some(postgres) = Postgres::start() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| scratch.path().join(name));
    let platform = Platform::start_with(&first, &["--shards", "4"]);
    sink_all(&platform, &postgres);
    let refused = |mut command: Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        said(&output)
    };
    let other = Platform::start_with(&second, &["--shards", "4"]);
    let another = refused(sink(&other, &postgres, &["--until", "now"]));
    assert!(another.contains("the tables are of urn:crest:"), "{another}");
    let parts = refused(sink(&platform, &postgres, &["--until", "now", "--parts", "3"]));
    assert!(parts.contains("made for 4 parts"), "{parts}");
    postgres.run("UPDATE crest.sink SET version = 77");
    let version = refused(sink(&platform, &postgres, &["--until", "now"]));
    assert!(version.contains("version 77"), "{version}");
    let nowhere = refused(crest(&["sink", "postgres", "--feed", &platform.url]));
    assert!(nowhere.contains("--url") && nowhere.contains("CREST_POSTGRES_URL"), "{nowhere}");
    let nonsense = refused(crest(&["sink", "postgres", "--url", "shop.example"]));
    assert!(nonsense.contains("--url"), "{nonsense}");
    let unknown = postgres.url().replace("/postgres", "/nothing");
    let unknown = refused(crest(&["sink", "postgres", "--feed", &platform.url, "--url", &unknown]));
    assert!(unknown.contains(r#"database "nothing" does not exist"#), "{unknown}");
    // Records that are nowhere any more can't be written.
    let gone = scratch.path().join("gone");
    let small =
        ["--segment-bytes", "2109440", "--snapshot-every", "100000", "--archive", "discard"];
    let trimmed = Platform::start_with(&gone, &small);
    passes(drill(&trimmed, 5));
    let said = refused(sink(&trimmed, &postgres, &["--until", "now", "--schema", "gone"]));
    assert!(said.contains("trimmed"), "{said}");
}
