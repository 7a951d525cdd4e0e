//! The drill as a planner runs it: small, whole, and read from its JSON.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

mod platform;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use node::{ArchiveLocation, AuditFrom};
use platform::Platform;
use serde_json::Value;

/// Runs `crest` with these arguments and `--json`; its exit status, and its figures.
fn crest(dir: &Path, args: &[&str]) -> (i32, Value) {
    let json = dir.join("figures.json");
    let output = Command::new(env!("CARGO_BIN_EXE_crest"))
        .args(args)
        .arg("--json")
        .arg(&json)
        .env("CREST_LOG", "warn")
        .output()
        .unwrap();
    let said = format!(
        "crest {}\n{}{}",
        args.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{said}");
    let text = std::fs::read_to_string(&json).unwrap_or_else(|_| "null".to_string());
    (output.status.code().unwrap(), serde_json::from_str(&text).unwrap())
}

fn small<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["drill", "--duration", "1s", "--buyers", "1000", "--items", "100"];
    args.extend(more);
    args
}

#[test]
fn a_drill_says_in_json_what_it_proved() {
    let dir = tempfile::tempdir().unwrap();
    let options = ["--batch", "100", "--connections", "4", "--shards", "5", "--reactors", "2"];
    let (status, figures) = crest(dir.path(), &small(&options));
    assert_eq!((status, figures["verdict"].as_str()), (0, Some("pass")));
    assert_eq!(figures["platform"]["shards"], 5);
    // Batches are split over two groups, and each is timed once.
    let accounted = figures["times"]["accounted"].as_f64().unwrap();
    assert!((0.99..1.01).contains(&accounted), "the stages account for {accounted}");
    // The fields that readers rely on: they may become more.
    for pointer in [
        "/version",
        "/machine/cpu",
        "/machine/cores",
        "/machine/memory_bytes",
        "/platform/shards",
        "/platform/log",
        "/platform/sync",
        "/duration_s",
        "/offered",
        "/accepted",
        "/rejected",
        "/errors",
        "/orders_per_s/mean",
        "/orders_per_s/peak_1s",
        "/latency_ms/p50",
        "/latency_ms/p90",
        "/latency_ms/p99",
        "/latency_ms/p999",
        "/latency_ms/max",
        "/log/bytes",
        "/log/frames",
        "/log/syncs",
        "/cpu_s/platform",
        "/cpu_s/generator",
        "/audit/ok",
        "/audit/orders",
        "/audit/lost",
        "/audit/duplicated",
        "/audit/oversold",
        "/audit/unbalanced",
        "/audit/inconsistent",
        "/audit/units_sold",
        "/audit/revenue/GBP",
    ] {
        assert!(figures.pointer(pointer).is_some_and(|value| !value.is_null()), "{pointer}");
    }
    assert!(figures["accepted"].as_u64().unwrap() > 0);
    assert_eq!(figures["audit"]["orders"], figures["accepted"]);
    assert_eq!(figures["offered"], figures["accepted"]);
    assert_eq!(figures["audit"]["lost"], 0);
}

#[test]
fn single_orders_of_a_fixed_size_on_schedule() {
    let dir = tempfile::tempdir().unwrap();
    let args = small(&["--batch", "1", "--rate", "200", "--lines", "3", "--connections", "4"]);
    let (status, figures) = crest(dir.path(), &args);
    // A machine that is busy elsewhere may make the generator late; it must then say so.
    assert!(matches!(
        (status, figures["verdict"].as_str()),
        (0, Some("pass")) | (3, Some("invalid"))
    ));
    assert_eq!((figures["offered"].as_u64(), figures["errors"].as_u64()), (Some(200), Some(0)));
    assert_eq!(figures["audit"]["orders"], 200);
    assert_eq!(figures["audit"]["lines"], 600);
}

#[test]
fn the_same_seed_makes_the_same_orders() {
    let dir = tempfile::tempdir().unwrap();
    let sums = |seed: &str| {
        let args = small(&["--batch", "50", "--rate", "1000", "--seed", seed]);
        let (_, figures) = crest(dir.path(), &args);
        (figures["audit"]["units_sold"].clone(), figures["audit"]["revenue"].clone())
    };
    let first = sums("5");
    assert_eq!(first, sums("5"));
    assert_ne!(first, sums("6"));
}

#[test]
fn a_platform_that_runs_is_driven_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(&dir.path().join("data"));
    for seed in ["1", "2"] {
        let args = small(&["--batch", "100", "--target", &platform.url, "--seed", seed]);
        let (status, figures) = crest(dir.path(), &args);
        assert_eq!((status, figures["verdict"].as_str()), (0, Some("pass")));
        assert!(figures["audit"].is_null());
        assert_eq!(figures["read_back"]["orders"], figures["accepted"]);
        assert_eq!(figures["read_back"]["lost"], 0);
    }
}

#[test]
fn a_drill_that_is_marked_leaves_trade_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (key, data) = (dir.path().join("drill.key"), dir.path().join("data"));
    std::fs::write(&key, "a key for rehearsals\n").unwrap();
    let key = key.to_str().unwrap();
    let platform = Platform::start_with(&data, &["--drill-key", key]);
    let options = ["--batch", "100", "--target", &platform.url, "--drill-key", key];
    let (status, rehearsed) = crest(dir.path(), &small(&options));
    assert_eq!((status, &rehearsed["verdict"]), (0, &Value::from("pass")));
    assert_eq!(rehearsed["read_back"]["orders"], rehearsed["accepted"]);
    assert_eq!(rehearsed["read_back"]["lost"], 0);
    // The same buyers, items and seed; as trade.
    let options = ["--batch", "100", "--rate", "2000", "--target", &platform.url];
    let (status, traded) = crest(dir.path(), &small(&options));
    assert_eq!(status, 0);
    // A key that isn't the platform's.
    let wrong = dir.path().join("wrong.key");
    std::fs::write(&wrong, "a key of somebody else's").unwrap();
    let wrong = wrong.to_str().unwrap();
    let (status, _) = crest(dir.path(), &small(&["--target", &platform.url, "--drill-key", wrong]));
    assert_eq!(status, 2);
    drop(platform);
    let (status, audited) = crest(dir.path(), &["audit", data.to_str().unwrap()]);
    assert_eq!(status, 0);
    assert_eq!(audited["audit"]["orders"], traded["accepted"]);
    assert_eq!(audited["audit"]["rehearsal"]["orders"], rehearsed["accepted"]);
}

#[test]
fn orders_that_nobody_pays_expire() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("unpaid.toml");
    let text = "[payment]\nawait = 0.5\n[afterwards]\npay = 0.3\ncancel = 0.2\nwithin = \"200ms\"\n\
                expire = \"600ms\"\n[requests]\nbatch = 10\n[shape]\n\
                stages = [{ for = \"2s\", rate = 200 }]\n";
    std::fs::write(&profile, text).unwrap();
    let profile = profile.to_str().unwrap();
    let data = dir.path().join("data");
    let (status, figures) = crest(
        dir.path(),
        &[
            "drill",
            "--profile",
            profile,
            "--buyers",
            "100",
            "--items",
            "10",
            "--data",
            data.to_str().unwrap(),
        ],
    );
    // A machine that is busy elsewhere may make the generator late.
    assert!(matches!(status, 0 | 3), "{status}");
    assert_eq!(figures["audit"]["ok"], true);
    let mut expired = 0;
    node::audit(
        &data,
        &node::Access::default(),
        &ArchiveLocation::Beside,
        AuditFrom::Beginning,
        |record, _, _| {
            expired += u64::from(matches!(record.body, model::record::Body::Timer(_)));
        },
    )
    .unwrap();
    assert!(expired > 0, "nothing expired");
}

#[test]
fn it_is_the_same_over_tls_and_quic() {
    let dir = tempfile::tempdir().unwrap();
    for over in [
        &["--batch", "20", "--tls"][..],
        &["--batch", "20", "--tls", "--http", "2"],
        &["--batch", "20", "--http", "3"],
        &["--batch", "1", "--http", "crest/1"],
    ] {
        let (code, report) = crest(dir.path(), &small(over));
        assert_eq!((code, &report["verdict"]), (0, &"pass".into()), "{over:?}: {report}");
        assert!(report["accepted"].as_u64() > Some(100), "{over:?}: {report}");
    }
}

#[test]
fn a_sale_sells_exactly_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let sale = |options: &[&str]| {
        let mut args = vec!["drill", "--profile", "flash-sale"];
        args.extend(options);
        let (status, figures) = crest(dir.path(), &args);
        assert_eq!(status, 0, "{}", figures["problems"]);
        figures["sale"].clone()
    };
    let found = sale(&["--buyers", "20000", "--batch", "100"]);
    assert_eq!((&found["sold"], &found["sold_out"]), (&1_000.into(), &19_000.into()));
    // Fewer buyers than units: each gets one.
    let found = sale(&["--buyers", "900", "--batch", "1", "--connections", "32"]);
    assert_eq!((&found["sold"], &found["sold_out"]), (&900.into(), &0.into()));
}

#[test]
fn a_port_that_is_taken_is_not_shared() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(&dir.path().join("data"));
    let address = platform.url.strip_prefix("http://").unwrap();
    let other = dir.path().join("other");
    let output = Command::new(env!("CARGO_BIN_EXE_crest"))
        .args(["serve", "--http", address, "--admin", "off", "--data", other.to_str().unwrap()])
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains(address) && words.contains("in use"), "{words}");
}

#[test]
fn data_is_kept_when_asked_and_never_reused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let args = small(&["--batch", "100", "--data", data.to_str().unwrap()]);
    let (status, drilled) = crest(dir.path(), &args);
    assert_eq!(status, 0);
    assert_eq!(crest(dir.path(), &args).0, 2);
    let (status, audited) = crest(dir.path(), &["audit", data.to_str().unwrap()]);
    assert_eq!(status, 0);
    assert_eq!(audited["audit"]["state_hash"], drilled["audit"]["state_hash"]);
    assert_eq!(audited["audit"]["revenue"], drilled["audit"]["revenue"]);
}

/// Rows of a made-up shop: an order, a repeat item, a guest, a return of part, one too many.
const TRACE: &str = "\
InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
1,A,mug,6.0,2010-12-01 08:26:00,2.55,17850.0,UK
1,B,\"box, small\",2.0,2010-12-01 08:26:00,0.5,17850.0,UK
1,A,mug,1.0,2010-12-01 08:27:00,2.00,17850.0,UK
2,A,mug,3.0,2010-12-01 09:00:00,2.10,,UK
3,C,pad,1.0,2010-12-01 09:30:00,0.001,17850.0,UK
C4,A,mug,-8.0,2010-12-02 10:00:00,2.55,17850.0,UK
C5,B,box,-1.0,2010-12-02 10:05:00,0.50,,UK
A6,B,debt,1.0,2010-12-02 10:06:00,100.00,,UK
";

#[test]
fn a_trace_is_replayed_to_the_penny() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shop.csv");
    std::fs::write(&file, TRACE).unwrap();
    let file = file.to_str().unwrap();
    let (status, figures) = crest(dir.path(), &["drill", "--trace", file]);
    assert_eq!(status, 0);
    let trace = &figures["trace"];
    assert_eq!((trace["orders"].as_u64(), trace["lines"].as_u64()), (Some(2), Some(4)));
    assert_eq!(
        (trace["units_sold"].as_u64(), trace["units_refunded"].as_u64()),
        (Some(12), Some(7))
    );
    assert_eq!(trace["units_unmatched"], 2);
    // 6 × 255 + 2 × 50 + 200 + 3 × 210, less 6 × 255 + 200.
    assert_eq!(
        (trace["revenue_pence"].as_i64(), &figures["audit"]["revenue"]["GBP"]),
        (Some(730), &trace["revenue_pence"])
    );
    // In real time it is a day and a half; here, about a second.
    let (status, again) = crest(dir.path(), &["drill", "--trace", file, "--speed", "100000"]);
    assert_eq!((status, &again["trace"]), (0, trace));
}

#[test]
fn real_purchases_are_replayed_to_the_penny() {
    let file =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/online-retail.csv.gz");
    if !file.exists() {
        eprintln!("skipped: {} is not here; it is not part of the repository", file.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (status, figures) = crest(dir.path(), &["drill", "--trace", file.to_str().unwrap()]);
    assert_eq!(status, 0);
    assert_eq!(figures["trace"]["revenue_pence"], 604_352_386);
    assert_eq!(figures["audit"]["revenue"]["GBP"], 604_352_386);
    assert_eq!(figures["audit"]["units_sold"], 3_370_165);
    assert_eq!(figures["audit"]["units_refunded"], 126_265);
    assert_eq!(figures["audit"]["lines"], 313_928);
}

#[test]
fn a_platform_ends_with_the_drill_that_started_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut drill = Command::new(env!("CARGO_BIN_EXE_crest"))
        .args([
            "drill",
            "--rate",
            "100",
            "--duration",
            "1h",
            "--buyers",
            "100",
            "--items",
            "10",
            "--data",
        ])
        .arg(&data)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", drill.id());
    // The platform is there before it says that it is.
    let mut said = String::new();
    BufReader::new(drill.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("set up"), "{said}");
    let platforms = std::fs::read_to_string(&children).unwrap();
    let platform = Path::new("/proc").join(platforms.trim());
    assert!(platform.join("stat").exists(), "{platforms}");
    drill.kill().unwrap();
    drill.wait().unwrap();
    let waited = Instant::now();
    // A process that has ended and that nobody has waited for has no memory.
    while std::fs::read_to_string(platform.join("statm")).is_ok_and(|text| !text.starts_with("0 "))
    {
        assert!(waited.elapsed() < Duration::from_secs(30), "the platform is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}
