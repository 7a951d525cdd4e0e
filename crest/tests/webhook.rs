//! Webhooks to an endpoint that fails, hangs up and forgets, from a sender that is killed.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

mod platform;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use platform::{Platform, read_feed};
use relay::webhook::Secrets;
use serde_json::Value;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What an endpoint does with an event that it sees for the so manieth time.
type Fate = Box<dyn Fn(&str, u32) -> u16 + Send>;

/// Someone who is posted to. Status 0: it hangs up.
#[derive(Clone)]
struct Endpoint {
    url: String,
    seen: Arc<Mutex<Seen>>,
}

struct Seen {
    fate: Fate,
    tries: BTreeMap<String, u32>,
    /// Ids and keys of what was taken, in order.
    taken: Vec<(String, String)>,
}

impl Endpoint {
    fn start(fate: impl Fn(&str, u32) -> u16 + Send + 'static) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (tries, taken) = Default::default();
        let seen = Arc::new(Mutex::new(Seen { fate: Box::new(fate), tries, taken }));
        let endpoint = Endpoint { url, seen };
        let serving = endpoint.clone();
        // It ends with the test.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(stream.unwrap()));
            }
        });
        endpoint
    }

    /// Until somebody hangs up.
    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut stream = stream;
        loop {
            let mut headers = BTreeMap::new();
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
            assert!(line.starts_with("POST /hook "), "{line}");
            loop {
                line.clear();
                reader.read_line(&mut line).ok()?;
                let Some((name, value)) = line.trim().split_once(": ") else { break };
                headers.insert(name.to_ascii_lowercase(), value.to_string());
            }
            let mut body = vec![0; headers["content-length"].parse().unwrap()];
            reader.read_exact(&mut body).ok()?;
            let status = self.take(&headers, std::str::from_utf8(&body).unwrap());
            if status == 0 {
                return None;
            }
            let answer = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 2\r\n\r\nno");
            stream.write_all(answer.as_bytes()).ok()?;
        }
    }

    fn take(&self, headers: &BTreeMap<String, String>, body: &str) -> u16 {
        let event: Value = serde_json::from_str(body).unwrap();
        let id = headers["webhook-id"].clone();
        assert_eq!(event["id"], *id);
        let signed = headers["webhook-timestamp"].parse().unwrap();
        let signature = Secrets::parse(SECRET).unwrap().sign(&id, signed, body);
        assert_eq!(headers["webhook-signature"], signature);
        let mut seen = self.seen.lock().unwrap();
        let tries = seen.tries.entry(id.clone()).or_default();
        *tries += 1;
        let tries = *tries;
        let status = (seen.fate)(body, tries);
        if (200..300).contains(&status) {
            let key = event["partitionkey"].as_str().unwrap().to_string();
            seen.taken.push((id, key));
        }
        status
    }

    fn taken(&self) -> Vec<(String, String)> {
        self.seen.lock().unwrap().taken.clone()
    }
}

/// A platform on which something of everything has happened, and ids and keys of its events.
fn traded(scratch: &Path) -> (Platform, Vec<(String, String)>) {
    let platform = Platform::start(&scratch.join("data"));
    let mut drill = Command::new(env!("CARGO_BIN_EXE_crest"));
    drill.args(["drill", "--target", &platform.url, "--batch", "50", "--duration", "2s"]);
    drill.args(["--rate", "1500", "--buyers", "200", "--items", "100"]);
    let output = drill.env("CREST_LOG", "error").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events = read_feed(&platform.url, "from=earliest", "").into_iter().map(|line| {
        let event: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| event[name].as_str().unwrap().to_string();
        (text("id"), text("partitionkey"))
    });
    let events: Vec<(String, String)> = events.collect();
    assert!(events.len() > 1_000, "{}", events.len());
    (platform, events)
}

fn send(platform: &Platform, endpoint: &Endpoint, scratch: &Path, more: &[&str]) -> Command {
    let secret = scratch.join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let mut send = Command::new(env!("CARGO_BIN_EXE_crest"));
    send.args(["webhook", "send", "--feed", &platform.url, "--to", &endpoint.url]);
    send.arg("--secret").arg(secret).arg("--state").arg(scratch.join("state"));
    send.args(["--from", "earliest", "--until", "now", "--backoff", "10ms"]).args(more);
    send.env("CREST_LOG", "error").stdin(Stdio::null()).stdout(Stdio::piped());
    send
}

fn said(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    (output.status.code(), text)
}

#[test]
fn an_endpoint_that_fails_gets_all_of_it_in_order() {
    let scratch = tempfile::tempdir().unwrap();
    let (platform, events) = traded(scratch.path());
    // What is seen for the first time goes wrong in one way or another, if its bytes say so.
    let endpoint = Endpoint::start(|body, tries| match body.len() % 5 {
        0 if tries == 1 => 500,
        1 if tries <= 2 => 0,
        2 if tries == 1 => 302,
        _ => 204,
    });
    let more = ["--in-order", "--at-once", "16", "--attempts", "5"];
    let (code, text) = said(&mut send(&platform, &endpoint, scratch.path(), &more));
    assert_eq!(code, Some(0), "{text}");
    let taken = endpoint.taken();
    assert_eq!(taken.len(), events.len(), "once each, as nobody was killed");
    let of_keys = |events: &[(String, String)]| {
        let mut of_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (id, key) in events {
            of_key.entry(key.clone()).or_default().push(id.clone());
        }
        of_key
    };
    assert!(of_keys(&taken) == of_keys(&events), "those of a buyer in order");
    // All is noted: a second time there is nothing to send.
    let (code, text) = said(&mut send(&platform, &endpoint, scratch.path(), &more));
    assert_eq!((code, text.trim()), (Some(0), "0 events taken, 0 attempts refused, 0 set aside"));
}

#[test]
fn a_sender_that_is_killed_misses_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let (platform, events) = traded(scratch.path());
    let endpoint = Endpoint::start(|body, tries| {
        std::thread::sleep(Duration::from_micros(300));
        if body.len() % 7 == 0 && tries == 1 { 503 } else { 200 }
    });
    for round in 0..6 {
        let mut sender = send(&platform, &endpoint, scratch.path(), &[]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(250 + 90 * round));
        // It may have ended already.
        let _ = sender.kill();
        sender.wait().unwrap();
    }
    let (code, text) = said(&mut send(&platform, &endpoint, scratch.path(), &[]));
    assert_eq!(code, Some(0), "{text}");
    let ids = |events: &[(String, String)]| {
        events.iter().map(|(id, _)| id.clone()).collect::<BTreeSet<String>>()
    };
    assert!(ids(&endpoint.taken()) == ids(&events), "some are missing");
}

#[test]
fn what_is_never_taken_is_set_aside_and_tried_again_on_request() {
    let scratch = tempfile::tempdir().unwrap();
    let (platform, events) = traded(scratch.path());
    let endpoint = Endpoint::start(|body, _| if body.contains("item.created") { 404 } else { 200 });
    let more = ["--attempts", "3", "--type", "item.created,account.opened"];
    let (code, text) = said(&mut send(&platform, &endpoint, scratch.path(), &more));
    assert_eq!(code, Some(1), "{text}");
    let refused = endpoint.seen.lock().unwrap().tries.values().filter(|tries| **tries == 3).count();
    assert!(refused >= 100 && endpoint.taken().len() == 200, "{refused}");
    let state = scratch.path().join("state");
    let webhook = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crest"));
        said(command.arg("webhook").arg(args[0]).arg("--state").arg(&state).args(&args[1..]))
    };
    let (code, dead) = webhook(&["dead"]);
    assert_eq!((code, dead.lines().count()), (Some(0), refused), "{dead}");
    assert!(
        dead.lines().all(|line| line.contains("3 attempts\t404") && line.contains("item.created"))
    );
    assert_eq!(webhook(&["redrive", "99-1"]).0, Some(1));
    endpoint.seen.lock().unwrap().fate = Box::new(|_, _| 200);
    let one = dead.split('\t').next().unwrap().to_string();
    assert_eq!(webhook(&["redrive", &one]), (Some(0), "1 events are tried again\n".to_string()));
    assert_eq!(webhook(&["redrive"]).0, Some(0));
    let (code, text) = said(&mut send(&platform, &endpoint, scratch.path(), &more));
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(webhook(&["dead"]), (Some(0), String::new()));
    let created = events.iter().filter(|(_, key)| key.starts_with("item-")).count();
    assert!(endpoint.taken().len() >= 200 + refused && created >= refused);
}

/// `now` is the same moment when the sender, or the platform, comes back: nothing in between is
/// left out.
#[test]
fn now_stays_when_it_was() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let mut platform = Platform::start(&data);
    let endpoint = Endpoint::start(|_, _| 200);
    let state = scratch.path().join("state/state.ndjson");
    let begin = |platform: &Platform| {
        let args = send(platform, &endpoint, scratch.path(), &[]);
        let args: Vec<_> = args.get_args().map(|arg| arg.to_os_string()).collect();
        let is_other = |arg: &&std::ffi::OsString| {
            !["--from", "earliest", "--until", "now"].iter().any(|other| *arg == other)
        };
        let mut send = Command::new(env!("CARGO_BIN_EXE_crest"));
        send.args(args.iter().filter(is_other)).env("CREST_LOG", "error");
        send.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    };
    let wait_for = |holds: &dyn Fn() -> bool| {
        let began = std::time::Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(60), "it doesn't come");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut sender = begin(&platform);
    wait_for(&|| std::fs::read_to_string(&state).is_ok_and(|text| text.contains("\"from\":\"20")));
    // Nothing was sent yet. Both are killed, and orders come before the sender is back.
    sender.kill().unwrap();
    sender.wait().unwrap();
    drop(platform);
    platform = Platform::start(&data);
    let account = r#"{"party":77,"currency":"GBP"}"#;
    assert_eq!(platform::request(&platform.url, "POST", "/v1/accounts", account).0, 201);
    let mut sender = begin(&platform);
    wait_for(&|| endpoint.taken().iter().any(|(_, key)| key == "77"));
    sender.kill().unwrap();
    sender.wait().unwrap();
}

#[test]
fn what_makes_no_sense_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let platform = Platform::start(&scratch.path().join("data"));
    let endpoint = Endpoint::start(|_, _| 200);
    let (code, text) =
        said(&mut send(&platform, &endpoint, scratch.path(), &["--type", "order.eaten"]));
    assert!(code == Some(2) && text.contains("order.eaten"), "{text}");
    let mut command = send(&platform, &endpoint, scratch.path(), &[]);
    std::fs::write(scratch.path().join("secret"), "whsec_c2hvcnQ=").unwrap();
    let (code, text) = said(&mut command);
    assert!(code == Some(2) && text.contains("24 to 64 bytes"), "{text}");
    let state = scratch.path().join("state/state.ndjson");
    std::fs::create_dir_all(state.parent().unwrap()).unwrap();
    std::fs::write(&state, "nonsense\n").unwrap();
    let (code, text) = said(&mut send(&platform, &endpoint, scratch.path(), &[]));
    assert!(code == Some(2) && text.contains("line 1"), "{text}");
}
