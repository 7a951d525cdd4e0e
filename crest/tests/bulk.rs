//! Import and export with the whole process: killed in the middle and gone on with, there and back,
//! from PostgreSQL and into it.
//!
//! PostgreSQL's server is looked for where Debian 12 has it, or in `CREST_POSTGRES`, a folder of
//! programs. Without it that part is skipped.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

mod platform;
mod postgres;

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use platform::Platform;
use postgres::Postgres;
use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};

const PATIENCE: Duration = Duration::from_secs(120);

fn crest(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crest")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

/// Runs it, and what it wrote as JSON of the first table.
fn figures(args: &[&str], status: i32) -> Value {
    let scratch = tempfile::tempdir().unwrap();
    let json = scratch.path().join("figures.json");
    let output = crest(&[args, &["--json", json.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(status), "{}", words(&output));
    let text = std::fs::read_to_string(&json).unwrap();
    let all: Value = sonic_rs::from_str(&text).unwrap();
    all.as_array().unwrap()[0].clone()
}

fn number(figures: &Value, name: &str) -> u64 {
    figures.get(name).as_u64().unwrap_or_else(|| panic!("{name} in {figures:?}"))
}

fn is_verified(figures: &Value) -> bool {
    figures.get("verified").as_bool().unwrap_or_else(|| panic!("{figures:?}"))
}

fn accounts(rows: std::ops::Range<u64>) -> String {
    let mut text = "party,currency,balance,overdraft\n".to_string();
    for n in rows {
        let currency = ["GBP", "EUR", "JPY"][n as usize % 3];
        writeln!(text, "{},{currency},{},{}", 1 + n, n * 7919 % 1_000_003, n % 2).unwrap();
    }
    text
}

fn items(rows: std::ops::Range<u64>) -> String {
    let mut text = "item,seller,currency,price,stock,limit,closes_ms\n".to_string();
    for n in rows {
        let closes = if n % 5 == 0 { "4102444800000" } else { "" };
        writeln!(text, "{n},{},GBP,{},{},{},{closes}", 900 + n % 50, n % 977, n % 300, n % 3)
            .unwrap();
    }
    text
}

fn sorted(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    lines.sort();
    lines
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A process that is killed when it is dropped.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // One that has ended can't be killed; that is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn import_in_background(url: &str, csv: &Path) -> Guard {
    let child = Command::new(env!("CARGO_BIN_EXE_crest"))
        .args(["import", url, "--accounts", path(csv), "--batch", "200", "--connections", "2"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Guard(child)
}

/// A port that is free now: a platform is to come back where it was.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start_at(data: &Path, port: u16) -> Guard {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crest"));
    let address = format!("127.0.0.1:{port}");
    command.args(["serve", "--http", &address, "--admin", "off", "--data", path(data)]);
    Guard(command.env("CREST_LOG", "warn").stdout(Stdio::null()).spawn().unwrap())
}

/// Waits until an import has written down that it has come so far.
fn await_rows(progress: &Path, rows: u64) {
    let start = Instant::now();
    loop {
        let row = std::fs::read_to_string(progress).ok().and_then(|text| {
            let found: Value = sonic_rs::from_str(&text).ok()?;
            found.get("end")?.get("row").as_u64()
        });
        if row.is_some_and(|row| row >= rows) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "it came to {row:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_import_goes_on_after_it_and_the_platform_were_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (data, csv) = (dir.path().join("data"), dir.path().join("accounts.csv"));
    const ROWS: u64 = 600_000;
    std::fs::write(&csv, accounts(0..ROWS)).unwrap();
    let progress = dir.path().join("accounts.csv.progress");
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let mut platform = start_at(&data, port);
    // Some were there before, some with the same content.
    let before = dir.path().join("before.csv");
    let others = "900000001,GBP,5,0\n900000002,EUR,6,0\n";
    std::fs::write(&before, format!("{}{others}", accounts(0..50))).unwrap();
    let first = figures(&["import", &url, "--accounts", path(&before)], 0);
    assert_eq!((number(&first, "new"), is_verified(&first)), (52, true));

    let import = import_in_background(&url, &csv);
    await_rows(&progress, 1_000);
    drop(import); // kill -9
    assert!(progress.exists(), "it isn't over");
    // The platform is killed under the next one, and comes back.
    let mut import = import_in_background(&url, &csv);
    await_rows(&progress, 5_000);
    platform.0.kill().unwrap();
    platform.0.wait().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(import.0.try_wait().unwrap(), None, "it waits for the platform");
    let _platform = start_at(&data, port);
    std::thread::sleep(Duration::from_millis(300));
    drop(import);

    let last = figures(&["import", &url, "--accounts", path(&csv)], 0);
    assert_eq!(number(&last, "rows"), ROWS);
    assert!(number(&last, "resumed") >= 5_000, "{last:?}");
    assert!(is_verified(&last), "{last:?}");
    assert!(!progress.exists());
    // Once more: nothing is new, and everything is there.
    let again = figures(&["import", &url, "--accounts", path(&csv)], 0);
    assert_eq!((number(&again, "new"), number(&again, "found")), (0, ROWS));
    assert!(is_verified(&again));
}

#[test]
fn what_is_exported_can_be_imported_and_comes_to_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("accounts.csv"), accounts(0..30_000)).unwrap();
    std::fs::write(at("items.csv"), items(0..5_000)).unwrap();
    let first = Platform::start(&at("first"));
    let both = |verb: &str, url: &str, accounts: &Path, items: &Path| {
        let args =
            [verb, url, "--accounts", path(accounts), "--items", path(items)].map(str::to_string);
        let output = crest(&args.each_ref().map(String::as_str));
        assert_eq!(output.status.code(), Some(0), "{}", words(&output));
        assert_eq!(words(&output).matches("verified   yes").count(), 2, "{}", words(&output));
    };
    both("import", &first.url, &at("accounts.csv"), &at("items.csv"));
    // Packed, too.
    both("export", &first.url, &at("a.csv.gz"), &at("i.csv"));
    let second = Platform::start_with(&at("second"), &["--shards", "3"]);
    both("import", &second.url, &at("a.csv.gz"), &at("i.csv"));
    both("export", &second.url, &at("b.csv"), &at("j.csv"));
    assert_eq!(sorted(&at("accounts.csv")), sorted(&at("b.csv")));
    assert_eq!(sorted(&at("i.csv")), sorted(&at("j.csv")));
    assert!(!at("b.csv.partial").exists());
}

#[test]
fn rows_that_cant_be_taken_are_named_or_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let platform = Platform::start(&at("data"));
    let text = "party,currency,balance\n1,GBP,5\n2,GBP,-1\n3,GBP,7\n1,GBP,6\n4,gbp,1\n";
    std::fs::write(at("a.csv"), text).unwrap();
    let import = ["import", &platform.url, "--accounts"];
    let csv = at("a.csv");
    let stopped = crest(&[&import[..], &[path(&csv)]].concat());
    assert_eq!(stopped.status.code(), Some(1));
    assert!(
        words(&stopped).contains(
            "a.csv, line 3, column `balance`: \"-1\" is not an integer from 0 to 1000000000000000"
        ),
        "{}",
        words(&stopped)
    );
    // Those that can be taken are, and the first one was: what is right stays.
    let rejects = at("rejects");
    let found = figures(&[&import[..], &[path(&csv), "--rejects", path(&rejects)]].concat(), 1);
    assert_eq!((number(&found, "rows"), number(&found, "refused")), (2, 1), "{found:?}");
    assert_eq!(number(&found, "set_aside"), 2);
    assert!(is_verified(&found));
    let rejected = std::fs::read_to_string(rejects.join("accounts.rejected.csv")).unwrap();
    let mut lines: Vec<&str> = rejected.lines().collect();
    assert_eq!(lines.remove(0), "party,currency,balance,overdraft,rejected_line,rejected_why");
    lines.sort_unstable();
    assert_eq!(lines.len(), 3, "{rejected}");
    assert!(lines[0].starts_with("1,GBP,6,0,5,id_reused: "), "{rejected}");
    assert!(lines[1].starts_with("2,GBP,-1,,3,"), "{rejected}");
    assert!(lines[2].starts_with("4,gbp,1,,6,"), "{rejected}");
    // Put right, that file is taken.
    let right = rejected.replace("1,GBP,6,0", "8,GBP,6,0").replace(",-1,", ",1,");
    std::fs::write(at("right.csv"), right.replace("gbp", "GBP")).unwrap();
    let right = at("right.csv");
    let found = figures(&[&import[..], &[path(&right)]].concat(), 0);
    assert_eq!((number(&found, "new"), is_verified(&found)), (3, true));
    // Standard input.
    let mut piped = Command::new(env!("CARGO_BIN_EXE_crest"));
    let mut piped = Guard(
        piped.args(import).arg("-").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap(),
    );
    use std::io::Write as _;
    piped.0.stdin.take().unwrap().write_all(accounts(100..200).as_bytes()).unwrap();
    assert!(piped.0.wait().unwrap().success());
}

#[test]
fn rehearsal_is_imported_apart() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("key"), "a key that nobody guesses").unwrap();
    std::fs::write(at("a.csv"), accounts(0..500)).unwrap();
    let key = at("key");
    let platform = Platform::start_with(&at("data"), &["--drill-key", path(&key)]);
    let csv = at("a.csv");
    let import = ["import", &platform.url, "--accounts", path(&csv)];
    let rehearsed = figures(&[&import[..], &["--drill-key", path(&key)]].concat(), 0);
    assert_eq!((number(&rehearsed, "new"), is_verified(&rehearsed)), (500, true));
    // Trade has none of it.
    let out = at("out.csv");
    let trade = figures(&["export", &platform.url, "--accounts", path(&out)], 0);
    assert_eq!(number(&trade, "rows"), 0);
}

#[test]
fn postgresql_is_a_source_and_a_sink() {
    let Some(postgres) = Postgres::start() else { return };
    postgres.run(
        "CREATE TABLE users (id bigint PRIMARY KEY, currency char(3), pence numeric(20));
         INSERT INTO users SELECT n, CASE n % 2 WHEN 0 THEN 'GBP' ELSE 'EUR' END, n * 7
         FROM generate_series(1, 20000) n;
         CREATE TABLE items (item bigint, seller bigint, currency text, price bigint, stock bigint,
                             closes_ms bigint);
         INSERT INTO items SELECT n, 9, 'GBP', n % 100, n % 10, CASE n % 3 WHEN 0 THEN 4102444800000 END
         FROM generate_series(1, 3000) n;
         CREATE TABLE accounts_out (party numeric(20) PRIMARY KEY, currency char(3), balance numeric(20),
                                    overdraft numeric(20));
         CREATE TABLE items_out (item numeric(20) PRIMARY KEY, seller numeric(20), currency char(3),
                                 price bigint, stock bigint, opens_ms bigint, closes_ms bigint,
                                 \"limit\" bigint)",
    );
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(&dir.path().join("data"));
    let url = postgres.url();
    let query = "SELECT id AS party, currency, pence AS balance FROM users";
    let import = ["import", &platform.url, "--postgres", &url];
    let found = figures(&[&import[..], &["--accounts", query]].concat(), 0);
    assert_eq!((number(&found, "new"), is_verified(&found)), (20_000, true));
    assert_eq!(found.get("database_agrees").as_bool(), Some(true));
    let found = figures(&[&import[..], &["--items", "items"]].concat(), 0);
    assert_eq!((number(&found, "new"), is_verified(&found)), (3_000, true));
    // Again, in another order: all is there.
    let ordered = format!("{query} ORDER BY id DESC");
    let found = figures(&[&import[..], &["--accounts", &ordered]].concat(), 0);
    assert_eq!((number(&found, "found"), is_verified(&found)), (20_000, true));
    // What isn't there, and what can't be taken, is named.
    let output = crest(&[&import[..], &["--accounts", "nowhere"]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    assert!(words(&output).contains("relation \"nowhere\" does not exist"), "{}", words(&output));
    let lacks =
        crest(&[&import[..], &["--accounts", "SELECT id AS party, currency FROM users"]].concat());
    assert!(words(&lacks).contains("column `balance`: it is missing"), "{}", words(&lacks));
    assert_eq!(lacks.status.code(), Some(1));

    let export = ["export", &platform.url, "--postgres", &url];
    let found = figures(&[&export[..], &["--accounts", "accounts_out"]].concat(), 0);
    assert_eq!((number(&found, "rows"), is_verified(&found)), (20_000, true));
    let found = figures(&[&export[..], &["--items", "items_out"]].concat(), 0);
    assert_eq!((number(&found, "rows"), is_verified(&found)), (3_000, true));
    let differ = "SELECT count(*) FROM users u FULL JOIN accounts_out a ON u.id = a.party
        WHERE u.pence IS DISTINCT FROM a.balance OR u.currency IS DISTINCT FROM a.currency";
    assert_eq!(postgres.run(differ), "0");
    let differ = "SELECT count(*) FROM items i FULL JOIN items_out o USING (item)
        WHERE i.stock IS DISTINCT FROM o.stock OR coalesce(i.closes_ms, 0) <> o.closes_ms";
    assert_eq!(postgres.run(differ), "0");
    // A second time the keys are taken: nothing is added.
    let output = crest(&[&export[..], &["--accounts", "accounts_out"]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    assert!(words(&output).contains("duplicate key"), "{}", words(&output));
    assert_eq!(postgres.run("SELECT count(*) FROM accounts_out"), "20000");
}
