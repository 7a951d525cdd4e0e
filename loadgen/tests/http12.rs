//! Loads over HTTP/1.1 and HTTP/2 against a real server: whatever it does, every request is
//! accounted for exactly once, and what it says it saw agrees.

#![allow(clippy::unwrap_used)] // A test may fail.

mod servers;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use loadgen::{Pace, Protocol, Target, Trust};
use servers::http12::{Options, start};
use servers::{Ask, LARGE, Server, Test, closed_loop, count, get, mixed, open_loop, post};

const HTTP2: Protocol = Protocol::Http2 { streams: 8 };

const PLAIN_1: Options = Options { http2: false, tls: false, streams: None, table_bytes: None };
const PLAIN_2: Options = Options { http2: true, ..PLAIN_1 };

fn protocol(options: Options) -> Protocol {
    if options.http2 { HTTP2 } else { Protocol::Http1 }
}

fn test(server: &Server, options: Options, pace: Pace, ask: fn(u64) -> Ask) -> Test {
    Test::new(server.target(), protocol(options), pace, ask)
}

/// Everything that can be asked, in an open and in a closed loop.
fn check_mixed(options: Options) {
    for pace in [open_loop(400), closed_loop()] {
        let server = start(options);
        let mut test = test(&server, options, pace, mixed);
        if options.tls {
            // The server shows what the file holds: it is checked, not just believed.
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &server.certificate).unwrap();
            test.plan.trust = Trust::File(file.path().to_path_buf());
            check_all_answered(&test, &server);
        } else {
            check_all_answered(&test, &server);
        }
    }
}

fn check_all_answered(test: &Test, server: &Server) {
    let ran = test.run_without_errors();
    assert_eq!(count(&server.seen.begun), ran.recorder.accepted());
    assert_eq!(count(&server.seen.whole), ran.recorder.accepted());
    if let Pace::Schedule(_) = test.plan.pace {
        assert_eq!(ran.recorder.accepted(), 400);
        assert_eq!(ran.recorder.late.len(), 400);
    }
    assert_eq!(count(&server.seen.connections), 5);
    assert_eq!(ran.recorder.connects, 5);
}

#[test]
fn http1_answers_of_every_kind() {
    check_mixed(PLAIN_1);
}

#[test]
fn http1_over_tls() {
    check_mixed(Options { tls: true, ..PLAIN_1 });
}

#[test]
fn http2_by_prior_knowledge() {
    check_mixed(PLAIN_2);
}

#[test]
fn http2_over_tls() {
    check_mixed(Options { tls: true, ..PLAIN_2 });
}

#[test]
fn large_bodies_go_both_ways() {
    for options in [
        PLAIN_1,
        PLAIN_2,
        Options { tls: true, ..PLAIN_1 },
        Options { tls: true, ..PLAIN_2 },
        // The table's size is told to the peer between large bodies.
        Options { table_bytes: Some(0), ..PLAIN_2 },
    ] {
        let server = start(options);
        let ask = |_| post("/large", LARGE, 200, LARGE as u64);
        let ran = test(&server, options, open_loop(20), ask).run_without_errors();
        assert_eq!(ran.recorder.accepted(), 20);
        assert_eq!(count(&server.seen.body_bytes), 20 * LARGE as u64);
        assert_eq!(ran.recorder.body_bytes, 20 * LARGE as u64);
    }
}

#[test]
fn a_connection_that_is_closed_after_each_answer_is_opened_again() {
    let server = start(PLAIN_1);
    let ran =
        test(&server, PLAIN_1, open_loop(100), |_| get("/close", 200, 2)).run_without_errors();
    assert_eq!(ran.recorder.accepted(), 100);
    assert_eq!(count(&server.seen.begun), 100);
    assert!(ran.recorder.connects >= 100, "{}", ran.recorder.connects);
}

#[test]
fn a_server_that_says_goodbye_loses_nothing() {
    for pace in [open_loop(300), closed_loop()] {
        let server = start(PLAIN_2);
        let ask = |n| get(if n % 40 == 20 { "/bye" } else { "/ok" }, 200, 2);
        let ran = test(&server, PLAIN_2, pace, ask).run_without_errors();
        assert_eq!(count(&server.seen.begun), ran.recorder.accepted());
        assert!(ran.recorder.connects > 5, "{}", ran.recorder.connects);
    }
}

#[test]
fn few_streams_and_no_table_are_kept_to() {
    let options = Options { streams: Some(2), table_bytes: Some(0), ..PLAIN_2 };
    for pace in [open_loop(400), closed_loop()] {
        let server = start(options);
        let mut test = test(&server, options, pace, mixed);
        test.plan.protocol = Protocol::Http2 { streams: 64 };
        check_all_answered(&test, &server);
        assert!(count(&server.seen.most_under_way) <= 2 * 5);
    }
}

#[test]
fn an_answer_before_the_body_frees_its_stream() {
    let options = Options { streams: Some(2), ..PLAIN_2 };
    let server = start(options);
    let ask = |_| post("/early", LARGE, 413, 2);
    let ran = test(&server, options, open_loop(60), ask).run_without_errors();
    assert_eq!((ran.recorder.accepted(), ran.recorder.connects), (60, 5));
}

#[test]
fn one_request_leads_to_another() {
    for options in [PLAIN_1, PLAIN_2] {
        let server = start(options);
        let mut test = test(&server, options, open_loop(200), mixed);
        test.follow_up = Some(Duration::from_millis(100));
        let ran = test.run_without_errors();
        let [first, second] = &ran.recorder.kinds[..] else { unreachable!() };
        assert_eq!((first.accepted, second.accepted + ran.recorder.left_out), (200, 200));
        assert!(second.accepted > 0 && ran.recorder.left_out > 0);
        assert_eq!(count(&server.seen.begun), ran.recorder.accepted());
    }
}

#[test]
fn a_server_that_is_not_there_is_an_error_for_each_request() {
    // Bound and let go: nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = Target::from_url(&format!("http://{address}")).unwrap();
    for protocol in [Protocol::Http1, HTTP2] {
        for pace in [open_loop(100), closed_loop()] {
            let ran = Test::new(target.clone(), protocol, pace, mixed).run();
            assert!(ran.recorder.offered() > 0);
            assert_eq!((ran.recorder.accepted(), ran.recorder.connects), (0, 0));
            let why = ran.recorder.main_reason().unwrap();
            assert!(why.contains("connecting") && why.contains("refused"), "{why}");
        }
    }
}

#[test]
fn answers_that_never_come_are_not_awaited_for_ever() {
    for options in [PLAIN_1, PLAIN_2] {
        for pace in [open_loop(40), closed_loop()] {
            let server = start(options);
            // Some wait beside those that are answered.
            let ask = |n| get(if n % 2 == 0 { "/never" } else { "/ok" }, 200, 2);
            let mut test = test(&server, options, pace, ask);
            test.plan.timeout = Duration::from_millis(150);
            let ran = test.run();
            assert!(ran.recorder.accepted() > 0 && ran.recorder.errors() > 0);
            let never = |(_, n): &&(u8, u64)| n % 2 == 0;
            let asked: usize =
                ran.loads.iter().map(|load| load.ends.keys().filter(never).count()).sum();
            assert_eq!(ran.recorder.errors(), asked as u64);
            assert_eq!(ran.recorder.main_reason(), Some("no answer within 150ms"));
            assert_eq!(count(&server.seen.begun), ran.recorder.offered());
        }
    }
}

#[test]
fn what_was_under_way_when_the_run_was_stopped_has_failed() {
    let server = start(PLAIN_2);
    let ask = |n| get(if n % 20 == 0 { "/never" } else { "/ok" }, 200, 2);
    let test = test(&server, PLAIN_2, Pace::Max(Duration::from_secs(600)), ask);
    let (stop, seen) = (test.plan.stop.clone(), server.seen.clone());
    let stopping = std::thread::spawn(move || {
        while count(&seen.begun) < 100 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let ran = test.run();
    stopping.join().unwrap();
    assert!(ran.stopped);
    assert_eq!(ran.recorder.main_reason(), Some("the run was stopped"));
    assert_eq!(count(&server.seen.begun), ran.recorder.offered());
}

#[test]
fn a_closed_loop_may_be_for_so_many_requests() {
    for options in [PLAIN_1, PLAIN_2] {
        let server = start(options);
        let started = Instant::now();
        let ran = test(&server, options, Pace::Count(777), mixed).run_without_errors();
        assert_eq!((ran.recorder.accepted(), count(&server.seen.whole)), (777, 777));
        assert!(ran.elapsed <= started.elapsed() && !ran.stopped);
    }
}
