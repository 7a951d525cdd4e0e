//! The front door as clients that nobody here wrote find it: curl over HTTP/1.1 and HTTP/2, with
//! and without TLS, aioquic over HTTP/3 and `crest/1`.
//!
//! `CREST_PYTHON` names a Python that has aioquic; `cargo xtask test` installs it. Without it the
//! tests of what goes over QUIC are skipped.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

mod platform;

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use platform::Platform;
use serde_json::Value;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// What curl says: the head and the body of an answer.
fn curl(certificate: &Path, args: &[&str], url: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--include", "--max-time", "20", "--cacert"]);
    let output = curl.arg(certificate).args(args).arg(url).output().unwrap();
    assert!(output.status.success(), "{args:?} {url}: {}", said(&output));
    said(&output).to_lowercase()
}

/// Where it is over TLS, under the name that its certificate has.
fn secure(platform: &Platform) -> String {
    platform.url.replace("http://127.0.0.1", "https://localhost")
}

const ACCOUNT: [&str; 2] = ["--json", r#"{"party":1,"currency":"GBP","balance":1}"#];

#[test]
fn one_port_speaks_http_1_and_2_with_and_without_tls() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let platform = Platform::start(&data);
    let certificate = data.join("tls/certificate.pem");
    let (plain, secure) = (platform.url.clone(), secure(&platform));
    for (url, version, line) in [
        (&plain, "--http1.1", "http/1.1 20"),
        (&plain, "--http2-prior-knowledge", "http/2 20"),
        (&secure, "--http1.1", "http/1.1 20"),
        (&secure, "--http2", "http/2 20"),
    ] {
        let url = format!("{url}/v1/accounts");
        let answer = curl(&certificate, &[&[version][..], &ACCOUNT].concat(), &url);
        assert!(answer.starts_with(line) && answer.contains("\"outcome\":"), "{version} {answer}");
        // Over what others can change, nobody is sent elsewhere.
        let port = url.rsplit(':').next().unwrap().split('/').next().unwrap();
        let told = answer.contains(&format!("alt-svc: h3=\":{port}\"; ma="));
        assert_eq!(told, url.starts_with("https"), "{answer}");
        for tls in ["--tlsv1.2", "--tlsv1.3"] {
            let most = ["--tls-max", &tls[6..], version];
            let answer = curl(&certificate, &most, &url);
            assert!(answer.starts_with(line), "{answer}");
        }
    }
    // Nobody else's certificate is believed, and who says nothing after his hello harms nobody.
    let stranger = Command::new("curl").args(["--silent", &secure]).output().unwrap();
    assert_eq!(stranger.status.code(), Some(60), "{}", said(&stranger));
    let mut quiet = TcpStream::connect(plain.strip_prefix("http://").unwrap()).unwrap();
    std::io::Write::write_all(&mut quiet, &[22, 3, 1, 2, 0, 1]).unwrap();
    let mut wrong = TcpStream::connect(plain.strip_prefix("http://").unwrap()).unwrap();
    std::io::Write::write_all(&mut wrong, &[22; 100]).unwrap();
    let answer = curl(&certificate, &["--http2"], &format!("{secure}/v1/accounts"));
    assert!(answer.starts_with("http/2 200"), "{answer}");
    let mut text = Vec::new();
    // An alert, and the end.
    std::io::Read::read_to_end(&mut wrong, &mut text).unwrap();
    assert_eq!(text[0], 21, "{text:?}");
    drop(quiet);
}

#[test]
fn certificates_are_read_again() {
    let scratch = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| {
        let data = scratch.path().join(name);
        let platform = Platform::start(&data);
        drop(platform);
        data.join("tls")
    });
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let put = |from: &Path| {
        for name in ["key.pem", "certificate.pem"] {
            std::fs::copy(from.join(name), scratch.path().join(name)).unwrap();
        }
    };
    put(&first);
    let options = ["--tls-cert", &at("certificate.pem"), "--tls-key", &at("key.pem")];
    let data = scratch.path().join("data");
    let platform = Platform::start_with(&data, &options);
    assert!(!data.join("tls").exists(), "none is made where one is named");
    let url = format!("{}/v1/items", secure(&platform));
    curl(&first.join("certificate.pem"), &[], &url);
    put(&second);
    let until = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--cacert"]).arg(second.join("certificate.pem")).arg(&url);
        if curl.output().unwrap().status.success() {
            break;
        }
        assert!(std::time::Instant::now() < until, "the new certificate isn't shown");
        std::thread::sleep(Duration::from_millis(200));
    }
    // A key alone, and what is no certificate, are refused in words.
    for (options, words) in [
        (vec!["--tls-key", "key.pem"], "--tls-cert"),
        (vec!["--tls-cert", "/dev/null", "--tls-key", "/dev/null"], "no certificate"),
    ] {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_crest"));
        serve.args(["serve", "--http", "127.0.0.1:0", "--admin", "off", "--data"]);
        let refused = serve.arg(scratch.path().join("other")).args(options).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        assert!(said(&refused).contains(words), "{}", said(&refused));
    }
}

/// A client in Python, which speaks HTTP/3 or `crest/1`, if there is one.
fn stranger(speaks: &str, platform: &Platform, data: &Path) -> Option<Command> {
    let Some(python) = std::env::var_os("CREST_PYTHON") else {
        println!("skipped: CREST_PYTHON names no Python with aioquic; `cargo xtask test` does");
        return None;
    };
    let script = format!("{}/tests/{speaks}.py", env!("CARGO_MANIFEST_DIR"));
    let port = platform.url.rsplit(':').next().unwrap();
    let mut client = Command::new(python);
    client.args([&script, "127.0.0.1", port]).arg(data.join("tls/certificate.pem"));
    Some(client)
}

/// Orders in the log of a directory, which is audited.
fn audited(data: &Path) -> u64 {
    let json = data.with_extension("json");
    let mut audit = Command::new(env!("CARGO_BIN_EXE_crest"));
    let output = audit.arg("audit").arg(data).arg("--json").arg(&json).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    report["audit"]["orders"].as_u64().unwrap()
}

/// Has a client try all that it knows, and returns the orders that it left.
fn tried(speaks: &str) -> Option<u64> {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    // Each packet that moves has a good chance to come in at a reactor that isn't its own.
    let platform = Platform::start_with(&data, &["--reactors", "3"]);
    let output = stranger(speaks, &platform, &data)?.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    drop(platform);
    Some(audited(&data))
}

#[test]
fn http3_is_spoken_with_a_stranger() {
    if let Some(orders) = tried("http3") {
        assert!(orders > 1_300);
    }
}

#[test]
fn crest1_is_spoken_with_who_has_read_the_page() {
    if let Some(orders) = tried("crest1") {
        assert!(orders > 1_300);
    }
}

/// Every order that is in the log was answered, though it was told to stop in the midst of them.
fn stopped_in_the_midst(speaks: &str) {
    for round in 0..3 {
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path().join("data");
        let mut platform = Platform::start(&data);
        let Some(mut client) = stranger(speaks, &platform, &data) else { return };
        client.arg("until-stopped").stdout(Stdio::piped());
        let mut client = client.spawn().unwrap();
        let mut words = BufReader::new(client.stdout.take().unwrap()).lines();
        assert_eq!(words.next().unwrap().unwrap(), "orders");
        std::thread::sleep(Duration::from_millis(100 + 150 * round));
        let pid = rustix::process::Pid::from_child(&platform.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let answered: u64 = words.next().unwrap().unwrap().parse().unwrap();
        assert!(client.wait().unwrap().success());
        assert!(platform.child.wait().unwrap().success());
        assert_eq!(audited(&data), answered);
        assert!(answered > 20, "{answered}");
    }
}

#[test]
fn told_to_stop_it_answers_over_http3_what_it_began() {
    stopped_in_the_midst("http3");
}

#[test]
fn told_to_stop_it_answers_over_crest1_what_it_began() {
    stopped_in_the_midst("crest1");
}
