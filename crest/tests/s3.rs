//! The archive on an S3 store that nobody here wrote: SeaweedFS, stopped and started again under
//! load.
//!
//! `CREST_WEED` says where its program is; `cargo xtask test` installs it. Without it this is
//! skipped.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const IDENTITY: &str = r#"{"identities":[{"name":"crest","credentials":[{"accessKey":"key",
    "secretKey":"secret"}],"actions":["Admin","Read","Write","List"]}]}"#;
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is killed when it is dropped.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // One that has ended can't be killed; that is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guard {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

/// A port that is free, and whose neighbour 10,000 above is: its servers take both.
fn port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let low = port % 20_000 + 20_000;
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free(low) && is_free(low + 10_000) {
            return low;
        }
    }
}

struct Store {
    server: Guard,
    url: String,
}

impl Store {
    fn start(weed: &Path, dir: &Path) -> Store {
        std::fs::write(dir.join("s3.json"), IDENTITY).unwrap();
        let [master, volume, filer, s3] = std::array::from_fn(|_| port());
        let server = Command::new(weed)
            .args(["server", "-ip=127.0.0.1", "-s3", "-volume.max=20"])
            .arg(format!("-dir={}", dir.display()))
            .arg(format!("-s3.config={}", dir.join("s3.json").display()))
            .arg(format!("-master.port={master}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-filer.port={filer}"))
            .arg(format!("-s3.port={s3}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let store = Store { server: Guard(server), url: format!("http://127.0.0.1:{s3}") };
        let started = Instant::now();
        loop {
            let mut shell = Command::new(weed);
            shell.arg("shell").arg(format!("-master=127.0.0.1:{master}"));
            shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut shell = shell.spawn().unwrap();
            let mut stdin = shell.stdin.take().unwrap();
            // It may end before it has read this; then it is tried again.
            let _ = stdin.write_all(b"s3.bucket.create -name shop\nexit\n");
            drop(stdin);
            let said = shell.wait_with_output().unwrap().stdout;
            if String::from_utf8_lossy(&said).contains("created bucket") {
                return store;
            }
            assert!(started.elapsed() < PATIENCE, "the store doesn't start");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// The program with what it needs to find this store.
    fn crest(&self, args: &[&str]) -> Command {
        let mut crest = Command::new(env!("CARGO_BIN_EXE_crest"));
        crest
            .args(args)
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_ENDPOINT", &self.url)
            .env("CREST_LOG", "error")
            .stdin(Stdio::null());
        crest
    }
}

struct Platform {
    process: Guard,
    url: String,
    admin: String,
}

impl Platform {
    fn start(store: &Store, data: &str) -> Platform {
        let mut serve = store.crest(&["serve", "--data", data, "--archive", "s3://shop/one"]);
        let ports = ["--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let small = ["--segment-bytes", "2109440", "--snapshot-every", "500000"];
        let mut child = serve.args(ports).args(small).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = || {
            let line = lines.next().unwrap().unwrap();
            line.rsplit(' ').next().unwrap().to_string()
        };
        let (url, admin) = (address(), address());
        Platform { process: Guard(child), url, admin }
    }

    /// A load of five seconds, all of which is acknowledged and read back.
    fn load(&self, store: &Store) {
        let load = ["--rate", "8000", "--duration", "5s", "--buyers", "2000", "--items", "500"];
        let output = store.crest(&["drill", "--target", &self.url]).args(load).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }

    fn metric(&self, name: &str) -> u64 {
        let text = ask(&self.admin, "GET", "/metrics", "");
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap().split(' ').next_back().unwrap().parse().unwrap()
    }

    /// Waits until so many segments were trimmed.
    fn trimmed(&self, most: u64) -> u64 {
        let started = Instant::now();
        loop {
            let trimmed = self.metric("crest_trimmed_segments_total");
            if trimmed >= most {
                return trimmed;
            }
            assert!(started.elapsed() < PATIENCE, "{trimmed} of {most} segments were trimmed");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// What a server answers, headers and all.
fn ask(url: &str, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: crest\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn segments_go_to_s3_and_wait_while_it_is_away() {
    let Some(weed) = std::env::var_os("CREST_WEED").map(PathBuf::from) else {
        println!("skipped: CREST_WEED doesn't say where SeaweedFS is; `cargo xtask test` does");
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let objects = scratch.path().join("objects");
    std::fs::create_dir(&objects).unwrap();
    let store = Store::start(&weed, &objects);
    let data = scratch.path().join("data");
    let data = data.to_str().unwrap();

    let platform = Platform::start(&store, data);
    let account = r#"{"party":77000000,"currency":"GBP","balance":4242}"#;
    let opened = ask(&platform.url, "POST", "/v1/accounts", account);
    assert!(opened.starts_with("HTTP/1.1 201"), "{opened}");
    platform.load(&store);
    platform.trimmed(1);
    // What moved its money was trimmed by now: it is read from there.
    let statement = "/v1/accounts/77000000/statement?currency=GBP";
    let read = ask(&platform.url, "GET", statement, "");
    assert!(read.starts_with("HTTP/1.1 200") && read.contains("4242"), "{read}");
    // It doesn't answer: nothing is trimmed, and nobody who orders notices.
    store.server.signal(Signal::STOP);
    platform.load(&store);
    let during = platform.metric("crest_trimmed_segments_total");
    store.server.signal(Signal::CONT);
    let after = platform.trimmed(during + 1);
    platform.process.signal(Signal::TERM);
    let Platform { mut process, .. } = platform;
    assert!(process.0.wait().unwrap().success());

    let archive = ["--archive", "s3://shop/one"];
    let verified = store.crest(&["archive", "verify", data]).args(archive).output().unwrap();
    assert!(verified.status.success(), "{}", said(&verified));
    let segments: u64 = said(&verified).split(' ').next().unwrap().parse().unwrap();
    assert!(segments >= after, "{}", said(&verified));
    for from in ["beginning", "newest"] {
        let audit = ["audit", data, "--from", from];
        let audited = store.crest(&audit).args(archive).output().unwrap();
        assert!(audited.status.success(), "from the {from}: {}", said(&audited));
    }
    // Without the archive there is no beginning: the oldest snapshots are where it begins.
    let audit = ["audit", data, "--archive", "discard"];
    let audited = store.crest(&audit).output().unwrap();
    assert!(audited.status.success(), "{}", said(&audited));
    assert!(said(&audited).contains("counted from the oldest snapshots on"), "{}", said(&audited));
}
