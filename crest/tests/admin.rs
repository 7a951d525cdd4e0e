//! The admin port of a platform that takes orders: what it says must be what was done.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

#[path = "admin/openmetrics.rs"]
mod openmetrics;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use node::ThreadState;
use node::stages::{Figures, Stage};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything that the platform does on its own may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What drills are marked with.
const DRILL_KEY: &str = "sixteen bytes, and more";

/// A platform that a test started. Killed when dropped.
struct Platform {
    child: Child,
    http: SocketAddr,
    admin: SocketAddr,
}

impl Platform {
    fn start(data: &Path) -> Platform {
        let mut child = Command::new(env!("CARGO_BIN_EXE_crest"))
            .args(["serve", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--reactors", "2", "--data"])
            .arg(data)
            .env("CREST_LOG", "warn")
            .env("CREST_DRILL_KEY", DRILL_KEY)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut words = BufReader::new(child.stdout.take().unwrap());
        let mut address = |begin: &str| {
            let mut line = String::new();
            words.read_line(&mut line).unwrap();
            assert!(line.starts_with(begin), "{line}");
            line.trim().rsplit_once("http://").unwrap().1.parse().unwrap()
        };
        let (http, admin) = (address("crest "), address("admin on "));
        Platform { child, http, admin }
    }

    fn figures(&self) -> Figures {
        let (status, text) = get(self.admin, "/stages");
        assert_eq!(status, 200);
        sonic_rs::from_str(&text).unwrap()
    }

    /// The figures once so many writes are recorded: an answer is there a moment before it is.
    fn figures_with(&self, writes: u64) -> Figures {
        let start = Instant::now();
        loop {
            let figures = self.figures();
            let whole = figures.stages.stage(Stage::Whole).map_or(0, |whole| whole.requests);
            if whole == writes {
                return figures;
            }
            assert!(whole < writes && start.elapsed() < PATIENCE, "{whole} of {writes}");
        }
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // One that has ended can't be killed; that is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection of HTTP/1.1 that stays open.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn to(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection(BufReader::new(stream))
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Status and body of the next answer.
    fn receive(&mut self) -> (u16, String) {
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            match line.trim_end().to_ascii_lowercase() {
                end if end.is_empty() && status > 0 => break,
                line if line.starts_with("http/1.1 ") => status = line[9..12].parse().unwrap(),
                line => {
                    let (name, value) = line.split_once(": ").expect("a header");
                    if name == "content-length" {
                        length = value.parse().unwrap();
                    }
                }
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }

    fn post(&mut self, path: &str, body: &str) -> u16 {
        self.send(post(path, body));
        self.receive().0
    }
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut connection = Connection::to(address);
    connection.send(format!("GET {path} HTTP/1.1\r\nhost: crest\r\n\r\n"));
    connection.receive()
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: crest\r\ncontent-length: {length}\r\n\r\n{body}")
}

fn order(id: u64, item: u64) -> String {
    format!(
        r#"{{"buyer":1,"id":"01890a5d-ac96-774b-bcce-{id:012x}","currency":"GBP",
            "payment":"balance","lines":[{{"item":{item},"quantity":1}}]}}"#
    )
}

fn batch(ids: std::ops::Range<u64>) -> String {
    let orders: Vec<_> = ids.map(|id| order(id, 7)).collect();
    format!(r#"{{"orders":[{}]}}"#, orders.join(","))
}

/// An account and an item: 2 writes of 1 command.
fn furnish(connection: &mut Connection) {
    let account = r#"{"party":1,"currency":"GBP","balance":1000000}"#;
    let item = r#"{"item":7,"seller":9,"currency":"GBP","price":10,"stock":1000}"#;
    assert_eq!(connection.post("/v1/accounts", account), 201);
    assert_eq!(connection.post("/v1/items", item), 201);
}

/// Every stage must have seen these writes and commands, and their times must add up.
fn check(figures: &Figures, writes: u64, commands: u64) {
    let mut sum_ns = 0;
    for stage in Stage::ALL {
        let times = figures.stages.stage(stage).unwrap();
        assert_eq!((times.requests, times.orders), (writes, commands), "{stage:?}");
        sum_ns += times.sum_ns;
    }
    let whole = figures.stages.stage(Stage::Whole).unwrap();
    assert_eq!((whole.requests, whole.orders), (writes, commands));
    let apart = whole.sum_ns.abs_diff(sum_ns) as f64 / whole.sum_ns as f64;
    assert!(apart < 0.03, "{} together, {sum_ns} in stages", whole.sum_ns);
}

/// Whether there is a curl that speaks HTTP/2.
fn has_curl() -> bool {
    let version = Command::new("curl").arg("--version").output();
    let found = version.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).contains("HTTP2"));
    if !found {
        eprintln!("skipped: no curl that speaks HTTP/2");
    }
    found
}

#[test]
fn figures_are_those_of_the_requests_that_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(&dir.path().join("data"));
    let mut shop = Connection::to(platform.http);
    furnish(&mut shop);
    for id in 0..20 {
        assert_eq!(shop.post("/v1/orders", &order(id, 7)), 201);
    }
    assert_eq!(shop.post("/v1/orders", &order(3, 7)), 200); // A repeat.
    assert_eq!(shop.post("/v1/orders", &order(99, 8)), 422); // No such item.
    assert_eq!(shop.post("/v1/orders/batch", &batch(100..150)), 200);
    check(&platform.figures_with(25), 25, 2 + 22 + 50);

    // Two at once, the second one in pieces.
    let (one, two) = (post("/v1/orders", &order(200, 7)), post("/v1/orders", &order(201, 7)));
    let (begin, end) = two.split_at(two.len() / 2);
    shop.send(one + begin);
    assert_eq!(shop.receive().0, 201);
    shop.send(end);
    assert_eq!(shop.receive().0, 201);
    check(&platform.figures_with(27), 27, 76);

    // These reach no shard, or ask for nothing to be done.
    assert_eq!(shop.post("/v1/orders", "{"), 400);
    assert_eq!(shop.post("/nowhere", ""), 404);
    assert_eq!(get(platform.http, "/v1/items/7").0, 200);
    let figures = platform.figures_with(27);
    check(&figures, 27, 76);
    let requests = &figures.requests;
    assert_eq!((requests.reads, requests.writes, requests.unknown), (1, 28, 1));
    let orders: Vec<_> = requests.orders.iter().map(|(word, n)| (word.as_str(), *n)).collect();
    assert_eq!(orders, [("ok", 72), ("already_done", 1), ("unknown_item", 1)]);
    // The log has one record of each but the repeat, and what shards have for each other.
    assert!(figures.log.orders >= 75, "{}", figures.log.orders);
    assert!(figures.log.syncs > 0 && figures.log.syncing_ns > 0);

    if has_curl() {
        for (id, path, body) in
            [(1, "/v1/orders", order(301, 7)), (2, "/v1/orders/batch", batch(400..450))]
        {
            let status = Command::new("curl")
                .args(["--silent", "--fail", "--http2-prior-knowledge", "--noproxy", "*"])
                .args(["--output", "/dev/null", "--json", &body])
                .arg(format!("http://{}{path}", platform.http))
                .status();
            assert!(status.unwrap().success(), "{path}");
            check(&platform.figures_with(27 + id), 27 + id, if id == 1 { 77 } else { 127 });
        }
    }
}

#[test]
fn a_request_that_is_split_over_groups_is_timed_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(&dir.path().join("data"));
    let mut shop = Connection::to(platform.http);
    furnish(&mut shop);
    // Accounts of many buyers, whose shards are in both groups.
    for request in 0..20 {
        let account = |n| format!(r#"{{"party":{},"currency":"GBP"}}"#, 2 + 50 * request + n);
        let accounts: Vec<String> = (0..50).map(account).collect();
        let body = format!(r#"{{"accounts":[{}]}}"#, accounts.join(","));
        assert_eq!(shop.post("/v1/accounts/batch", &body), 200);
    }
    check(&platform.figures_with(22), 22, 1_002);
}

#[test]
fn metrics_say_what_the_stages_say() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(&dir.path().join("data"));
    let mut shop = Connection::to(platform.http);
    furnish(&mut shop);
    assert_eq!(shop.post("/v1/orders/batch", &batch(0..10)), 200);
    let figures = platform.figures_with(3);
    let (status, text) = get(platform.admin, "/metrics");
    assert_eq!(status, 200);
    let samples = openmetrics::parse(&text);
    for times in &figures.stages.entries {
        let labels = format!("stage=\"{}\",place=\"{}\"", times.stage.word(), times.place);
        let found = |suffix| samples[&format!("crest_stage_seconds_{suffix}{{{labels}}}")];
        assert_eq!(found("count"), times.requests as f64, "{labels}");
        assert!((found("sum") - times.sum_ns as f64 * 1e-9).abs() < 1e-12, "{labels}");
    }
    for (name, value) in [
        (r#"crest_requests_total{kind="write"}"#, 3.0),
        (r#"crest_requests_total{kind="read"}"#, 0.0),
        (r#"crest_orders_total{outcome="ok"}"#, 10.0),
        (r#"crest_inbox_messages{shard="0"}"#, 0.0),
        (r#"crest_inbox_bytes{shard="0"}"#, 0.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name}");
    }
    assert!(samples["crest_log_group_orders_sum"] >= 12.0);
    assert!(samples["crest_log_syncs_total"] >= figures.log.syncs as f64);
    assert!(samples["crest_log_bytes_total"] >= figures.log.bytes as f64);
}

#[test]
fn the_time_of_a_thread_is_divided_whole() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(&dir.path().join("data"));
    furnish(&mut Connection::to(platform.http));
    let before = platform.figures_with(2);
    let figures = platform.figures();
    for name in ["crest-0", "crest-1", "crest-log"] {
        let named = |figures: &Figures| {
            figures.threads.iter().find(|times| times.thread == name).unwrap().clone()
        };
        let times = named(&figures);
        let states = ThreadState::ALL.map(|state| times.in_state(state));
        match states.into_iter().sum::<Option<u64>>() {
            Some(sum) => assert_eq!(sum, figures.uptime_ns, "{name}"),
            None => assert_eq!(states, [None; 5], "{name}: all of it is known, or nothing"),
        }
        let on_core = times.since(&named(&before)).on_core_ns;
        assert!(on_core.is_none_or(|ns| ns < figures.uptime_ns));
    }
}

#[test]
fn it_is_not_ready_while_it_stops_and_answers_until_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut platform = Platform::start(&dir.path().join("data"));
    assert_eq!(get(platform.admin, "/healthz"), (200, "alive\n".to_string()));
    assert_eq!(get(platform.admin, "/readyz"), (200, "ready\n".to_string()));
    assert_eq!(get(platform.admin, "/v1/items/7").0, 404);

    // A request that is open keeps it from ending.
    let mut shop = Connection::to(platform.http);
    furnish(&mut shop);
    let request = post("/v1/orders", &order(1, 7));
    let (begin, end) = request.split_at(request.len() - 1);
    shop.send(begin);
    // It has begun when it is counted.
    let start = Instant::now();
    while platform.figures().requests.writes < 3 {
        assert!(start.elapsed() < PATIENCE);
    }
    platform.terminate();
    while get(platform.admin, "/readyz").0 == 200 {
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(get(platform.admin, "/readyz"), (503, "stopping\n".to_string()));
    assert_eq!(get(platform.admin, "/healthz").0, 200);
    shop.send(end);
    assert_eq!(shop.receive().0, 201);
    drop(shop);
    let status = platform.child.wait().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn the_port_can_be_left_out_and_is_named_when_it_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let serve = |admin: &str| {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_crest"));
        serve.args(["serve", "--http", "127.0.0.1:0", "--admin", admin, "--data"]);
        serve.arg(dir.path().join("data")).stdout(Stdio::piped()).stderr(Stdio::piped());
        serve.spawn().unwrap()
    };
    let child = serve("off");
    // Signals are caught before the first line is printed.
    let mut line = [0];
    let mut child = child;
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !words.contains("admin on"), "{words}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = serve(&address).wait_with_output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains(&address) && words.contains("--admin"), "{words}");
}

#[test]
fn drills_are_stopped_and_started_while_trade_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path());
    let switch = |path: &str| {
        let mut admin = Connection::to(platform.admin);
        admin.send(post(path, ""));
        admin.receive()
    };
    let mark = gateway::DrillKey::new(DRILL_KEY.as_bytes()).unwrap().mark(4_102_444_800);
    let mut connection = Connection::to(platform.http);
    let mut create = |party: u64, is_drill: bool| {
        let body = format!(r#"{{"party":{party},"currency":"GBP"}}"#);
        let header = format!("host: crest\r\ncrest-drill: {mark}\r\n");
        let request = post("/v1/accounts", &body);
        connection.send(if is_drill {
            request.replacen("host: crest\r\n", &header, 1)
        } else {
            request
        });
        connection.receive().0
    };
    assert_eq!(get(platform.admin, "/drill"), (200, r#"{"key":true,"stopped":false}"#.to_string()));
    assert_eq!((create(1, true), create(1, false)), (201, 201));
    assert_eq!(switch("/drill/stop"), (200, r#"{"key":true,"stopped":true}"#.to_string()));
    assert_eq!((create(2, true), create(2, false)), (503, 201));
    assert_eq!(get(platform.admin, "/drill").1, r#"{"key":true,"stopped":true}"#);
    assert_eq!(switch("/drill/start").0, 200);
    assert_eq!((create(2, true), create(3, false)), (201, 201));
    // A look switches nothing.
    assert_eq!(get(platform.admin, "/drill/stop").0, 405);
    assert_eq!(create(4, true), 201);
    assert_eq!(platform.figures().requests.drill, 3);
}
