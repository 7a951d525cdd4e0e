//! A shop's own requests, mirrored into a platform, and how its answers compare with the shop's.
//!
//! Each line is a request and what the shop's own system made of it. Requests of a buyer are sent
//! in order, one at a time; those that are nobody's (items, transfers, stock) when all before them
//! were answered, and before all behind them. What is sent again after a failure is known by its
//! id, so whatever happens nothing is done twice.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use loadgen::Target;
use serde::{Deserialize, Serialize};
use sonic_rs::{JsonValueTrait, Value};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::sender::Caller;
use crate::source::Input;
use crate::{BulkError, beginning};

/// Lines that are read ahead, and those that wait for one connection.
const LINES_AHEAD: usize = 1_024;
const WAITING: usize = 64;
/// How often it is looked whether it is to stop, while no line comes.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The most bytes of a line.
const LINE_BYTES_MAX: u64 = 10 << 20;

/// How it goes.
#[derive(Clone, Debug)]
pub struct ShadowOptions {
    /// Requests at a time, each on a connection of its own, at least 1.
    pub connections: usize,
    /// Where each difference is written, as a line of JSON.
    pub differences: Option<PathBuf>,
    /// How long the platform may be away or busy.
    pub patience: Duration,
    /// Set from outside to end it early.
    pub stop: Arc<AtomicBool>,
}

/// What came of the requests of a day (UTC).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Day {
    /// Those that were answered.
    pub requests: u64,
    /// Those of them that were answered as the shop has it.
    pub same: u64,
    /// In what the others differ, and how many in each way.
    pub differences: BTreeMap<String, u64>,
    /// By currency: what orders come to that the shop took, and those that the platform took.
    pub totals: BTreeMap<String, [u64; 2]>,
}

/// What came of all, by day. Requests without a time are under the empty day.
pub type Days = BTreeMap<String, Day>;

/// A line of the source.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// When it was asked for, RFC 3339.
    #[serde(default)]
    at: String,
    /// The path.
    post: String,
    body: Value,
    /// Fields of the answer as the shop has them.
    #[serde(default)]
    theirs: BTreeMap<String, Value>,
}

/// A request on its way.
struct Request {
    number: u64,
    day: String,
    path: String,
    body: Value,
    theirs: BTreeMap<String, Value>,
}

/// One that was answered otherwise, for people and programs.
#[derive(Serialize)]
struct Difference<'a> {
    line: u64,
    day: &'a str,
    post: &'a str,
    body: &'a Value,
    theirs: &'a BTreeMap<String, Value>,
    crest: &'a Value,
}

impl Request {
    fn parse(number: u64, text: &str) -> Result<Request, String> {
        let line: Line = sonic_rs::from_str(text).map_err(|error| error.to_string())?;
        let day = match &*line.at {
            "" => String::new(),
            at => {
                let time: Timestamp = at.parse().map_err(|error| format!("`at`: {error}"))?;
                time.to_zoned(TimeZone::UTC).date().to_string()
            }
        };
        if !line.post.starts_with("/v1/") || line.post.contains(char::is_whitespace) {
            return Err(format!("`post`: {:?} is no path below /v1/", line.post));
        }
        if !line.body.is_object() {
            return Err("`body` is no object".to_string());
        }
        // What is null isn't said.
        let theirs = line.theirs.into_iter().filter(|(_, value)| !value.is_null()).collect();
        Ok(Request { number, day, path: line.post, body: line.body, theirs })
    }

    /// Whose it is: those of one buyer stay in order.
    fn buyer(&self) -> Option<u64> {
        let of_path = self.path.strip_prefix("/v1/buyers/").and_then(|rest| rest.split('/').next());
        match of_path {
            Some(buyer) => buyer.parse().ok(),
            None => {
                let buyer = self.body.get("buyer")?;
                buyer.as_u64().or_else(|| buyer.as_str()?.parse().ok())
            }
        }
    }
}

/// A value as text, whether it is a number or stands in quotes.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

#[derive(Default)]
struct Tally {
    days: Days,
    differences: Option<BufWriter<File>>,
}

impl Tally {
    fn add(&mut self, request: &Request, answer: &Value) -> std::io::Result<()> {
        let field = |name: &str| answer.get(name).map(text);
        let problem = field("type").and_then(|name| Some(name.rsplit(':').next()?.to_string()));
        let outcome = field("outcome").or(problem).unwrap_or_default();
        // A line that was sent before: what it came to then.
        let outcome = if outcome == "already_done" { "ok" } else { &*outcome };
        let theirs = request.theirs.get("outcome").map_or("ok".to_string(), text);
        let day = self.days.entry(request.day.clone()).or_default();
        day.requests += 1;
        if let (Some(currency), "/v1/orders") = (request.body.get("currency"), &*request.path) {
            let [shop, here] = day.totals.entry(text(currency)).or_default();
            let total = |value: Option<&Value>| value.and_then(JsonValueTrait::as_u64).unwrap_or(0);
            *shop += if theirs == "ok" { total(request.theirs.get("total")) } else { 0 };
            *here += if outcome == "ok" { total(answer.get("total")) } else { 0 };
        }
        let mut ways = Vec::new();
        if theirs != outcome {
            ways.push(format!("outcome {theirs}, here {outcome}"));
        }
        // What else is said of something that one of the two didn't do can't be compared.
        for (name, value) in request.theirs.iter().filter(|_| theirs == outcome) {
            let same = name == "outcome" || field(name).is_some_and(|here| here == text(value));
            if name == "state" && !same {
                ways.push(format!(
                    "state {}, here {}",
                    text(value),
                    field(name).unwrap_or_default()
                ));
            } else if !same {
                ways.push(name.clone());
            }
        }
        if ways.is_empty() {
            day.same += 1;
            return Ok(());
        }
        for way in ways {
            *day.differences.entry(way).or_default() += 1;
        }
        let Some(file) = &mut self.differences else { return Ok(()) };
        let difference = Difference {
            line: request.number,
            day: &request.day,
            post: &request.path,
            body: &request.body,
            theirs: &request.theirs,
            crest: answer,
        };
        let line = sonic_rs::to_string(&difference).map_err(std::io::Error::other)?;
        writeln!(file, "{line}")
    }
}

/// What all who send share.
#[derive(Default)]
struct Shared {
    tally: RefCell<Tally>,
    /// Requests without an answer.
    open: Cell<usize>,
    changed: Notify,
    failed: RefCell<Option<BulkError>>,
}

impl Shared {
    fn has_failed(&self) -> bool {
        self.failed.borrow().is_some()
    }

    fn fail(&self, error: BulkError) {
        self.failed.borrow_mut().get_or_insert(error);
        self.changed.notify_one();
    }

    /// Until everything was answered, or something has failed.
    async fn rest(&self) {
        while self.open.get() > 0 && !self.has_failed() {
            self.changed.notified().await;
        }
    }
}

/// Mirrors the requests of a source, a line of JSON each. Runs on the current thread's `LocalSet`.
pub async fn shadow(
    target: &Target,
    input: &Input,
    options: &ShadowOptions,
) -> Result<Days, BulkError> {
    let create =
        |path: &PathBuf| File::create(path).map(BufWriter::new).map_err(BulkError::file(path));
    let differences = options.differences.as_ref().map(create).transpose()?;
    let shared = Rc::new(Shared::default());
    shared.tally.borrow_mut().differences = differences;
    let mut lines = read(input)?;
    let (mut senders, mut tasks) = (Vec::new(), Vec::new());
    for _ in 0..options.connections.max(1) {
        let (sender, requests) = mpsc::channel(WAITING);
        let caller = Caller::new(target, options.patience).until(&options.stop);
        tasks.push(tokio::task::spawn_local(send(caller, requests, shared.clone())));
        senders.push(sender);
    }
    loop {
        let request = match timeout(LOOK_EVERY, lines.recv()).await {
            Ok(Some(request)) => request,
            Ok(None) => break,
            Err(_) if options.stop.load(Relaxed) => break,
            Err(_) => continue,
        };
        if options.stop.load(Relaxed) {
            break;
        }
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                shared.fail(error);
                break;
            }
        };
        let buyer = request.buyer();
        if buyer.is_none() {
            shared.rest().await;
        }
        if shared.has_failed() {
            break;
        }
        let at = buyer.unwrap_or(0) % senders.len() as u64;
        shared.open.set(shared.open.get() + 1);
        // Who has failed takes nothing any more.
        let _ = senders[at as usize].send(request).await;
        if buyer.is_none() {
            shared.rest().await;
        }
    }
    shared.rest().await;
    drop(senders);
    for task in tasks {
        task.await.expect("no task panics or is cancelled");
    }
    let mut tally = std::mem::take(&mut *shared.tally.borrow_mut());
    if let (Some(file), Some(path)) = (&mut tally.differences, &options.differences) {
        file.flush().map_err(BulkError::file(path))?;
    }
    match shared.failed.borrow_mut().take() {
        Some(error) => Err(error),
        None => Ok(tally.days),
    }
}

/// Sends requests one after the other.
async fn send(mut caller: Caller, mut requests: mpsc::Receiver<Request>, shared: Rc<Shared>) {
    while let Some(request) = requests.recv().await {
        if shared.has_failed() {
            return;
        }
        if let Err(error) = send_one(&mut caller, &request, &shared).await {
            return shared.fail(error);
        }
        shared.open.set(shared.open.get() - 1);
        shared.changed.notify_one();
    }
}

async fn send_one(
    caller: &mut Caller,
    request: &Request,
    shared: &Shared,
) -> Result<(), BulkError> {
    let body = sonic_rs::to_string(&request.body);
    let body = body.map_err(|error| BulkError::NotUnderstood(error.to_string()))?;
    let (_, answer) = caller.send(&request.path, Some(body.as_bytes())).await?;
    let answered: Result<Value, _> = sonic_rs::from_slice(answer.body);
    let answered = answered.map_err(|_| BulkError::NotUnderstood(beginning(answer.body)))?;
    let noted = shared.tally.borrow_mut().add(request, &answered);
    noted.map_err(|error| BulkError::Source { name: "the differences".to_string(), error })
}

/// Reads on a thread of its own: standard input may come line by line.
fn read(input: &Input) -> Result<mpsc::Receiver<Result<Request, BulkError>>, BulkError> {
    let name = input.name();
    let mut reader: Box<dyn BufRead + Send> = match input {
        Input::File(path) => {
            Box::new(BufReader::new(File::open(path).map_err(BulkError::file(path))?))
        }
        _ => Box::new(BufReader::new(std::io::stdin())),
    };
    let (sender, lines) = mpsc::channel(LINES_AHEAD);
    let read = move || {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let wrong = |why: String| BulkError::Line { source_name: name.clone(), number, why };
            let mut bounded = std::io::Read::take(&mut reader, LINE_BYTES_MAX);
            let request = match bounded.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) if line.trim_ascii().is_empty() => continue,
                Ok(length) if length as u64 == LINE_BYTES_MAX => {
                    Err(wrong(format!("longer than {LINE_BYTES_MAX} bytes")))
                }
                Ok(_) => match std::str::from_utf8(&line) {
                    Ok(line) => Request::parse(number, line).map_err(wrong),
                    Err(error) => Err(wrong(error.to_string())),
                },
                Err(error) => Err(BulkError::Source { name: name.clone(), error }),
            };
            let is_last = request.is_err();
            if sender.blocking_send(request).is_err() || is_last {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("crest-lines".to_string()).spawn(read);
    let failed = |error| BulkError::Source { name: input.name(), error };
    thread.map_err(failed)?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        Request::parse(3, text).unwrap()
    }

    #[test]
    fn what_differs_is_counted() {
        let mut tally = Tally::default();
        let mut add = |line: &str, answer: &str| {
            tally.add(&request(line), &sonic_rs::from_str(answer).unwrap()).unwrap();
        };
        let order = r#"{"at":"2026-11-11T23:30:00-01:00","post":"/v1/orders",
            "body":{"buyer":"7","currency":"GBP"},"theirs":{"outcome":"ok","total":250}}"#;
        add(order, r#"{"outcome":"already_done","total":250}"#);
        add(order, r#"{"outcome":"ok","total":240}"#);
        add(order, r#"{"type":"urn:crest:problem:sold_out","outcome":"sold_out"}"#);
        let other = r#"{"post":"/v1/buyers/7/orders/x/cancel","body":{},"theirs":{"state":null}}"#;
        add(other, r#"{"type":"urn:crest:problem:invalid"}"#);
        add(other, r#"{"outcome":"ok","state":"cancelled"}"#);
        let differences = BTreeMap::from([
            ("outcome ok, here sold_out".to_string(), 1),
            ("total".to_string(), 1),
        ]);
        let totals = BTreeMap::from([("GBP".to_string(), [750, 490])]);
        let day = Day { requests: 3, same: 1, differences, totals };
        assert_eq!(tally.days["2026-11-12"], day);
        assert_eq!(tally.days[""].differences["outcome ok, here invalid"], 1);
        assert_eq!((tally.days[""].requests, tally.days[""].same), (2, 1));
        assert_eq!([order, other].map(|line| request(line).buyer()), [Some(7), Some(7)]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let wrong = |text| Request::parse(1, text).map(drop).unwrap_err();
        assert!(wrong(r#"{"post":"/admin","body":{}}"#).contains("`post`"));
        assert!(wrong(r#"{"post":"/v1/orders","body":1}"#).contains("`body`"));
        assert!(wrong(r#"{"post":"/v1/orders","body":{},"at":"today"}"#).contains("`at`"));
        assert!(wrong(r#"{"post":"/v1/orders","body":{},"their":{}}"#).contains("their"));
        assert!(!wrong("{").is_empty());
    }
}
