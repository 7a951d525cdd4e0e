//! What readers of the feed cost those who order.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use super::crest;
use super::load::{Load, drive_apart};
use super::parts::{BUYERS, ITEMS, ROUNDS};
use super::table::{Row, typical};
use super::{BATCH, CONNECTIONS};
use crate::run::{Failure, root, run};

const FRAMES: &str = "application/vnd.crest.frames";
const LINES: &str = "application/x-ndjson";

/// A platform that ends with this.
pub(super) struct Platform {
    child: Child,
    pub(super) url: String,
}

impl Platform {
    pub(super) fn start(crest: &Path, data: &Path) -> Result<Platform, Failure> {
        let mut serve = Command::new(crest);
        serve.args(["serve", "--http", "127.0.0.1:0", "--admin", "off", "--archive", "discard"]);
        let mut child = serve.arg("--data").arg(data).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("a platform without an output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let url = line.trim().rsplit(' ').next().unwrap_or("").to_string();
        Ok(Platform { child, url })
    }
}

impl Platform {
    /// For how long its log's thread was on a core.
    fn log_thread_ns(&self) -> Result<u64, Failure> {
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?.path();
            if std::fs::read_to_string(task.join("comm"))?.trim() == "crest-log" {
                let times = std::fs::read_to_string(task.join("schedstat"))?;
                return Ok(times.split(' ').next().unwrap_or("").parse()?);
            }
        }
        Err("a platform without a thread for its log".into())
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // One that has ended can't be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Someone who reads from now on and forgets it.
struct Reader {
    stream: TcpStream,
    thread: JoinHandle<u64>,
}

impl Reader {
    fn start(url: &str, form: &str) -> Result<Reader, Failure> {
        let mut stream = TcpStream::connect(url.trim_start_matches("http://"))?;
        let head = format!("GET /v1/feed HTTP/1.0\r\nHost: crest\r\nAccept: {form}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut reading = stream.try_clone()?;
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = reading.read(&mut buffer)? as u64;
        let thread = std::thread::spawn(move || {
            while let Ok(length @ 1..) = reading.read(&mut buffer) {
                bytes += length as u64;
            }
            bytes
        });
        Ok(Reader { stream, thread })
    }

    /// Bytes that it read.
    fn end(self) -> Result<u64, Failure> {
        self.stream.shutdown(std::net::Shutdown::Both)?;
        self.thread.join().map_err(|_| "a reader panicked".into())
    }
}

/// Orders of a platform whose feed is read, beside the same with nobody reading.
pub(super) fn measure() -> Result<Vec<Row>, Failure> {
    let crest = crest::build()?;
    let dir = tempfile::Builder::new().prefix("feed-").tempdir_in(root().join("target"))?;
    let platform = Platform::start(&crest, &dir.path().join("data"))?;
    let (buyers, items) = (BUYERS.to_string(), ITEMS.to_string());
    let mut set_up = Command::new(&crest);
    set_up.args(["drill", "--target", &platform.url, "--buyers", &buyers, "--items", &items]);
    run(set_up.args(["--rate", "1000", "--duration", "1s"]).stdout(Stdio::null()))?;
    let load = Load {
        buyers: BUYERS,
        items: ITEMS,
        batch: BATCH,
        connections: CONNECTIONS,
        duration: Duration::from_secs(4),
    };
    let kinds = [
        ("1 that takes frames", FRAMES, 1),
        ("4 that take frames", FRAMES, 4),
        ("1 that takes JSON", LINES, 1),
        ("4 that take JSON", LINES, 4),
    ];
    let mut rows = Vec::new();
    for (what, form, count) in kinds {
        let mut row = Row::new(
            format!("orders beside readers of the feed: {what}"),
            "orders/s",
            "nobody reads",
        );
        let name = format!("CPU of the log's thread beside the same: {what}");
        let mut thread = Row::new(name, "ns an order", "nobody reads");
        let mut latencies = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            for side in [round % 2, 1 - round % 2] {
                let count = if side == 0 { count } else { 0 };
                let readers: Result<Vec<Reader>, Failure> =
                    (0..count).map(|_| Reader::start(&platform.url, form)).collect();
                let readers = readers?;
                let began = platform.log_thread_ns()?;
                let sustained = drive_apart(&platform.url, &load)?;
                let spent = (platform.log_thread_ns()? - began) as f64;
                for reader in readers {
                    if reader.end()? < 1 << 20 {
                        return Err("a reader of the feed got next to nothing".into());
                    }
                }
                let orders = sustained.orders_per_s * load.duration.as_secs_f64();
                for (row, figure) in
                    [(&mut row, sustained.orders_per_s), (&mut thread, spent / orders)]
                {
                    if side == 0 { &mut row.ours } else { &mut row.peer }.push(figure);
                }
                latencies[side].push(sustained.latency_ms);
            }
        }
        row.latency = Some(latencies.map(|rounds| typical(&rounds)));
        rows.extend([row, thread]);
    }
    Ok(rows)
}
