//! HTTP/2 with prior knowledge, on the same port.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::task::{Context, Poll};

use bytes::Bytes;
use expect_test::expect;
use gateway::Limits;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Method, Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::client::order;
use crate::platform::Platform;

const ONE: &str = r#"[{"item":3,"quantity":1}]"#;

/// A body of which every piece goes into DATA frames of its own.
struct Pieces(VecDeque<Bytes>);

impl Pieces {
    fn of(body: &str, piece_bytes: usize) -> Pieces {
        Pieces(body.as_bytes().chunks(piece_bytes).map(Bytes::copy_from_slice).collect())
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// Runs a client on a connection.
fn run<T>(address: SocketAddr, client: impl AsyncFnOnce(SendRequest<Pieces>) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let done = client(sender).await;
        // Without its last sender it closes.
        connection.await.unwrap().unwrap();
        done
    })
}

fn request(method: Method, path: &str, body: Pieces) -> Request<Pieces> {
    let uri = format!("http://crest{path}");
    Request::builder().method(method).uri(uri).version(Version::HTTP_2).body(body).unwrap()
}

/// Sends a request, and gives what becomes its status and body.
fn ask(
    sender: &mut SendRequest<Pieces>,
    request: Request<Pieces>,
) -> impl Future<Output = hyper::Result<(u16, String)>> + use<> {
    let answer = sender.send_request(request);
    async {
        let answer = answer.await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8(body.into()).unwrap()))
    }
}

fn place(id: u64) -> Request<Pieces> {
    request(Method::POST, "/v1/orders", Pieces::of(&order(1, id, "external", ONE), 1 << 14))
}

#[test]
fn streams_run_side_by_side() {
    let shop = Platform::shop();
    // All of them wait for the log at once: none waits for the answer to another.
    shop.log.shut();
    let answers = run(shop.address, async |mut sender| {
        let open: Vec<_> = (1..=100).map(|id| tokio::spawn(ask(&mut sender, place(id)))).collect();
        tokio::task::yield_now().await;
        let log = shop.log.clone();
        tokio::task::spawn_blocking(move || log.await_frame()).await.unwrap();
        let nowhere = ask(&mut sender, request(Method::GET, "/nowhere", Pieces::of("", 1)));
        assert_eq!(nowhere.await.unwrap().0, 404);
        assert!(open.iter().all(|answer| !answer.is_finished()));
        shop.log.open();
        let mut answers = Vec::new();
        for answer in open {
            answers.push(answer.await.unwrap().unwrap());
        }
        answers
    });
    // Five units for a hundred orders.
    assert_eq!(answers.iter().filter(|(status, _)| *status == 201).count(), 5);
    assert_eq!(answers.iter().filter(|(status, _)| *status == 409).count(), 95);
    assert_eq!(shop.next_offset(), 107);
}

#[test]
fn a_large_body_comes_in_many_frames() {
    let shop = Platform::shop();
    let orders: Vec<_> = (1..=10_000).map(|id| order(1, id, "external", ONE)).collect();
    let body = format!(r#"{{"orders":[{}]}}"#, orders.join(","));
    assert!(body.len() > 1 << 20, "more than a stream's window");
    let (status, answer) = run(shop.address, async |mut sender| {
        let request = request(Method::POST, "/v1/orders/batch", Pieces::of(&body, 10_007));
        ask(&mut sender, request).await.unwrap()
    });
    assert_eq!((status, answer.matches("\"outcome\":").count()), (200, 10_000));
    let (status, _) = run(shop.address, async |mut sender| {
        let body = Pieces::of(&order(1, 1, "external", ONE), 1);
        ask(&mut sender, request(Method::POST, "/v1/orders", body)).await.unwrap()
    });
    assert_eq!(status, 200);
}

#[test]
fn problems_are_the_same() {
    let shop = Platform::shop_with(Limits { body_bytes: 1000, ..Limits::default() });
    let answers = run(shop.address, async |mut sender| {
        let mut answers = Vec::new();
        let long = " ".repeat(5000);
        for (method, path, body) in [
            (Method::POST, "/v1/orders", "{"),
            (Method::POST, "/v1/orders", &long),
            (Method::GET, "/v1/orders", ""),
            (Method::OPTIONS, "/v1/orders", ""),
            (Method::GET, "/v1/items/77", ""),
        ] {
            let request = request(method, path, Pieces::of(body, 700));
            let (status, body) = ask(&mut sender, request).await.unwrap();
            answers.push(format!("{status} {body}\n"));
        }
        answers.concat()
    });
    expect![[r#"
        400 {"type":"urn:crest:problem:invalid","title":"invalid","status":400,"detail":"EOF while parsing at line 1 column 1"}
        413 {"type":"urn:crest:problem:too_large","title":"too large","status":413,"detail":"a body may have 1000 bytes"}
        405 {"type":"urn:crest:problem:wrong_method","title":"wrong method","status":405,"detail":"this path takes POST"}
        405 {"type":"urn:crest:problem:wrong_method","title":"wrong method","status":405,"detail":"this path takes POST"}
        404 {"type":"urn:crest:problem:unknown_item","title":"unknown item","status":404,"detail":"there is no item 77"}
    "#]].assert_eq(&answers);
    assert_eq!(shop.next_offset(), 7);
}

#[test]
fn head_has_no_body() {
    let shop = Platform::shop();
    run(shop.address, async |mut sender| {
        for (path, status) in [("/v1/items/1", 200), ("/v1/items/77", 404), ("/v1/orders", 405)] {
            let request = request(Method::HEAD, path, Pieces::of("", 1));
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status().as_u16(), status);
            assert_ne!(answer.headers()["content-length"], "0");
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "");
        }
    });
}

#[test]
fn a_stream_that_is_reset_harms_no_other() {
    let shop = Platform::shop();
    shop.log.shut();
    run(shop.address, async |mut sender| {
        let dropped = tokio::spawn(ask(&mut sender, place(1)));
        tokio::task::yield_now().await;
        let log = shop.log.clone();
        tokio::task::spawn_blocking(move || log.await_frame()).await.unwrap();
        dropped.abort();
        let kept = tokio::spawn(ask(&mut sender, place(2)));
        tokio::task::yield_now().await;
        shop.log.open();
        assert_eq!(kept.await.unwrap().unwrap().0, 201);
        // Who reset it didn't learn that it was placed; its repeat does.
        assert_eq!(ask(&mut sender, place(1)).await.unwrap().0, 200);
    });
}

#[test]
fn streams_that_are_open_when_it_stops_are_answered() {
    let shop = Platform::shop();
    shop.log.shut();
    run(shop.address, async |mut sender| {
        let open: Vec<_> = (1..=5).map(|id| tokio::spawn(ask(&mut sender, place(id)))).collect();
        tokio::task::yield_now().await;
        // An answer that needs no log: what came before it has been read.
        let nowhere = ask(&mut sender, request(Method::GET, "/nowhere", Pieces::of("", 1)));
        assert_eq!(nowhere.await.unwrap().0, 404);
        shop.begin_to_stop();
        shop.log.open();
        for answer in open {
            assert_eq!(answer.await.unwrap().unwrap().0, 201);
        }
    });
    shop.stop().unwrap();
}

/// Whether there is a curl that speaks HTTP/2.
fn has_curl() -> bool {
    let version = Command::new("curl").arg("--version").output();
    let skipped = match version {
        Ok(version) if String::from_utf8_lossy(&version.stdout).contains("HTTP2") => return true,
        Ok(_) => "this curl was built without HTTP/2".to_string(),
        Err(error) => format!("no curl: {error}"),
    };
    eprintln!("skipped: {skipped}");
    false
}

/// Runs curl with this body, and gives its output.
fn curl(version: &str, args: &[&str], body: &str) -> String {
    let mut curl = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", version, "--noproxy", "*"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    curl.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let output = curl.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_is_served_in_every_version() {
    if !has_curl() {
        return;
    }
    let shop = Platform::shop();
    let at = |path: &str| format!("http://{}{path}", shop.address);
    let seen = ["--write-out", " %{http_version} %{response_code}"];
    let json = ["--header", "content-type: application/json", "--data-binary", "@-"];
    let mut found = String::new();
    for (id, version) in
        [(1, "--http2-prior-knowledge"), (2, "--http1.1"), (3, "--http1.0"), (4, "--http2")]
    {
        let orders = at("/v1/orders");
        let body = order(1, id, "external", ONE);
        let placed = curl(version, &[&seen[..], &json, &[&orders]].concat(), &body);
        let item = at("/v1/items/3");
        let head = curl(version, &[&seen[..], &["--head", "--output", "-", &item]].concat(), "");
        let head = head.lines().last().unwrap();
        found.push_str(&format!("{version}: {placed},{head}\n"));
    }
    expect![[r#"
        --http2-prior-knowledge: {"outcome":"ok","state":"paid","total":0,"offset":7} 2 201, 2 200
        --http1.1: {"outcome":"ok","state":"paid","total":0,"offset":8} 1.1 201, 1.1 200
        --http1.0: {"outcome":"ok","state":"paid","total":0,"offset":9} 1 201, 1 200
        --http2: {"outcome":"ok","state":"paid","total":0,"offset":10} 1.1 201, 1.1 200
    "#]]
    .assert_eq(&found);

    // A body beyond what is sent unasked.
    let orders: Vec<_> = (1..=10_000).map(|id| order(2, id, "external", ONE)).collect();
    let orders = format!(r#"{{"orders":[{}]}}"#, orders.join(","));
    for (version, number) in [("--http2-prior-knowledge", "2"), ("--http1.1", "1.1")] {
        let batch = at("/v1/orders/batch");
        let args = [&seen[..], &json, &[&batch]].concat();
        let answer = curl(version, &args, &orders);
        assert!(answer.ends_with(&format!("]}} {number} 200")));
        assert!(answer.contains("\"sold_out\""));
    }
    // One beyond the limit: curl asks first, and isn't asked for it.
    let orders = at("/v1/orders");
    let args = [&seen[..], &json, &[&orders]].concat();
    let answer = curl("--http1.1", &args, &" ".repeat(9 << 20));
    assert!(answer.ends_with(" 1.1 413"), "{answer}");
}
