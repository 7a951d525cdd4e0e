//! The platform as a process that a test starts, ends and audits. Nothing outlives its guard.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loadgen::Target;
use mq::NatsConfig;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde::Deserialize;

/// The smallest segments there are, so that a short load fills several.
pub const SEGMENT_BYTES: u64 = (2 << 20) + (12 << 10);
/// Never, in the loads of tests: nothing is trimmed.
pub const NO_SNAPSHOTS: [&str; 2] = ["--snapshot-every", "1000000000000"];
/// So that several snapshots of each shard are taken in a short load.
pub const SNAPSHOT_EVERY: u64 = 200_000;
/// So that a shard keeps some dozen orders. With fewer, what many requests have brought back
/// leaves again before they are done with it, and is brought back again.
const ORDERS_MEMORY: u64 = 300_000;
/// How long anything that the platform does on its own may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(1);

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
    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it did not end within {PATIENCE:?}");
            std::thread::sleep(LOOK);
        }
    }
}

/// Everything that a process printed to a stream, as it comes.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn of(mut stream: impl Read + Send + 'static) -> (Said, std::thread::JoinHandle<()>) {
        let said = Said::default();
        let into = said.clone();
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut piece) {
                into.0.lock().unwrap().extend_from_slice(&piece[..read]);
            }
        });
        (said, reader)
    }
}

/// A platform that was started and has not said yet that it listens.
pub struct Starting {
    process: Guard,
    line: Receiver<String>,
    said: Said,
    reader: std::thread::JoinHandle<()>,
}

/// Why there is no platform: its status, and its words.
#[derive(Debug)]
pub struct Refused {
    pub status: ExitStatus,
    pub words: String,
}

impl Starting {
    /// Starts `crest serve` on a free port.
    pub fn spawn(data: &Path, options: &[&str]) -> Starting {
        Starting::run(crest(data), data, options)
    }

    /// The same, where passing the limit of a file's size is an error and not a signal.
    pub fn spawn_under_limits(data: &Path, options: &[&str]) -> Starting {
        let mut shell = Command::new("bash");
        let crest = env!("CARGO_BIN_EXE_crest");
        shell.args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#, crest]);
        Starting::run(shell, data, options)
    }

    fn run(mut command: Command, data: &Path, options: &[&str]) -> Starting {
        let often = ["--snapshot-every", &SNAPSHOT_EVERY.to_string()];
        let child = command
            .args(["serve", "--http", "127.0.0.1:0", "--admin", "off", "--reactors", "2", "--data"])
            .arg(data)
            .args(["--orders-memory", &ORDERS_MEMORY.to_string()])
            .args(key_option(data))
            .args(log_options(data))
            .args(if options.contains(&"--snapshot-every") { &[] } else { &often[..] })
            .args(options)
            .env("CREST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Guard(child);
        let stdout = process.0.stdout.take().unwrap();
        let (said, reader) = Said::of(process.0.stderr.take().unwrap());
        let (send, line) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // An end without a word drops the sender.
            if BufReader::new(stdout).read_line(&mut line).is_ok_and(|read| read > 0) {
                let _ = send.send(line);
            }
        });
        Starting { process, line, said, reader }
    }

    /// Waits until it listens, or has ended.
    pub fn ready(mut self) -> Result<Platform, Refused> {
        match self.line.recv_timeout(PATIENCE) {
            Ok(line) => {
                let url = line.trim().split(' ').next_back().unwrap();
                let target = Target::from_url(url).unwrap();
                let reader = Some(self.reader);
                Ok(Platform { process: self.process, target, said: self.said, reader })
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.process.wait();
                self.reader.join().unwrap();
                let words = String::from_utf8(self.said.0.lock().unwrap().clone()).unwrap();
                Err(Refused { status, words })
            }
            Err(RecvTimeoutError::Timeout) => panic!("it did not listen within {PATIENCE:?}"),
        }
    }

    /// Lets it start for so long, then kills it. Whether it listened by then.
    pub fn kill_after(mut self, time: Duration) -> bool {
        let listened = self.line.recv_timeout(time);
        self.process.0.kill().unwrap();
        let status = self.process.wait();
        let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
        let said = self.said.0.lock().unwrap();
        assert!(killed, "it ended on its own: {status}\n{}", String::from_utf8_lossy(&said));
        listened.is_ok()
    }
}

/// A platform that listens.
pub struct Platform {
    process: Guard,
    pub target: Target,
    said: Said,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Platform {
    /// A platform on `data`, made with the smallest segments. It must start.
    pub fn start(data: &Path) -> Platform {
        let options = ["--segment-bytes", &SEGMENT_BYTES.to_string()];
        match Starting::spawn(data, &options).ready() {
            Ok(platform) => platform,
            Err(refused) => panic!("it did not start: {}\n{}", refused.status, refused.words),
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.0.kill().unwrap();
    }

    /// Asks it to stop.
    pub fn terminate(&mut self) {
        let pid = Pid::from_child(&self.process.0);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
    }

    /// From here on no file of its may be written at or behind `bytes`.
    pub fn limit_files(&mut self, bytes: u64) {
        let pid = Pid::from_child(&self.process.0);
        let limit = Rlimit { current: Some(bytes), maximum: None };
        rustix::process::prlimit(Some(pid), Resource::Fsize, limit).unwrap();
    }

    /// Waits until it has ended, and all that it said was read.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.process.wait();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.0.try_wait().unwrap()
    }

    /// What it printed to stderr so far.
    pub fn words(&self) -> String {
        String::from_utf8_lossy(&self.said.0.lock().unwrap()).into_owned()
    }
}

/// What `crest audit` came to.
#[derive(Debug)]
pub struct Audited {
    pub code: i32,
    /// Both of its streams.
    pub words: String,
    /// Its JSON, if it wrote any.
    pub report: Option<AuditReport>,
}

#[derive(Debug, Deserialize)]
pub struct AuditReport {
    pub verdict: String,
    pub problems: Vec<String>,
    pub audit: AuditFigures,
    pub log: LogFigures,
}

#[derive(Debug, Deserialize)]
pub struct AuditFigures {
    pub ok: bool,
    pub records: u64,
    pub duplicated: u64,
    pub state_hash: String,
}

#[derive(Debug, Deserialize)]
pub struct LogFigures {
    pub torn_bytes: u64,
}

/// Where the key of an encrypted data directory is.
pub fn key_file(data: &Path) -> PathBuf {
    data.with_extension("key")
}

/// The option that a data directory takes if it is encrypted.
fn key_option(data: &Path) -> Vec<String> {
    match key_file(data) {
        key if key.exists() => vec!["--data-key".to_string(), key.display().to_string()],
        _ => Vec::new(),
    }
}

/// Where it stands which stream is the log of a data directory, if one is.
pub fn stream_file(data: &Path) -> PathBuf {
    data.with_extension("stream")
}

/// That stream and its servers.
pub fn stream(data: &Path) -> Option<NatsConfig> {
    let text = std::fs::read_to_string(stream_file(data)).ok()?;
    let [stream, url, system_url] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    let system_url = Some(system_url.to_string());
    Some(NatsConfig { url: url.to_string(), system_url, stream: stream.to_string(), replicas: 3 })
}

/// What a platform is started with if its log is a stream.
fn log_options(data: &Path) -> Vec<String> {
    let options = |found: NatsConfig| {
        ["--log", "jetstream", "--nats-stream", &found.stream].map(String::from)
    };
    stream(data).map(options).into_iter().flatten().collect()
}

/// The program, which is told where the log's servers are.
fn crest(data: &Path) -> Command {
    let mut crest = Command::new(env!("CARGO_BIN_EXE_crest"));
    if let Some(NatsConfig { url, system_url, .. }) = stream(data) {
        crest.env("CREST_NATS", url).env("CREST_NATS_SYSTEM", system_url.unwrap());
    }
    crest
}

/// Runs `crest audit`.
pub fn audit(data: &Path) -> Audited {
    audit_from(data, "beginning")
}

/// Runs `crest archive verify`: its status and its words.
pub fn verify_archive(data: &Path) -> (i32, String) {
    let mut verify = crest(data);
    let output =
        verify.args(["archive", "verify"]).arg(data).args(key_option(data)).output().unwrap();
    let words = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(words).unwrap())
}

/// The same from where it is told.
pub fn audit_from(data: &Path, from: &str) -> Audited {
    let scratch = tempfile::tempdir().unwrap();
    let json = scratch.path().join("audit.json");
    let output = crest(data)
        .arg("audit")
        .arg(data)
        .args(key_option(data))
        .args(["--from", from, "--json"])
        .arg(&json)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let words = [output.stdout, output.stderr].concat();
    let report = std::fs::read(&json).ok().map(|text| sonic_rs::from_slice(&text).unwrap());
    Audited {
        code: output.status.code().unwrap(),
        words: String::from_utf8(words).unwrap(),
        report,
    }
}
