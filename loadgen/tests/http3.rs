//! Loads over HTTP/3 against a real server: whatever it does, every request is accounted for
//! exactly once, and what it says it saw agrees.

#![allow(clippy::unwrap_used)] // A test may fail.

mod servers;

use std::sync::Arc;
use std::time::Duration;

use loadgen::{Pace, Progress, Protocol, Target, Trust};
use servers::http3::start;
use servers::{Ask, LARGE, Server, Test, closed_loop, count, get, mixed, open_loop, post};

fn test(server: &Server, pace: Pace, ask: fn(u64) -> Ask) -> Test {
    Test::new(server.target(), Protocol::Http3 { streams: 8 }, pace, ask)
}

#[test]
fn answers_of_every_kind() {
    for pace in [open_loop(400), closed_loop()] {
        let server = start(100);
        let mut test = test(&server, pace, mixed);
        // The server shows what the file holds: it is checked, not just believed.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &server.certificate).unwrap();
        test.plan.trust = Trust::File(file.path().to_path_buf());
        let ran = test.run_without_errors();
        assert_eq!(count(&server.seen.begun), ran.recorder.accepted());
        assert_eq!(count(&server.seen.whole), ran.recorder.accepted());
        if let Pace::Schedule(_) = test.plan.pace {
            assert_eq!(ran.recorder.accepted(), 400);
            assert_eq!(ran.recorder.late.len(), 400);
        }
        assert_eq!((count(&server.seen.connections), ran.recorder.connects), (5, 5));
    }
}

#[test]
fn a_stranger_is_not_trusted() {
    let server = start(100);
    let mut test = test(&server, open_loop(20), mixed);
    test.plan.trust = Trust::System;
    let ran = test.run();
    assert_eq!((ran.recorder.accepted(), count(&server.seen.begun)), (0, 0));
    assert!(ran.recorder.main_reason().unwrap().contains("certificate"));
}

#[test]
fn large_bodies_go_both_ways() {
    let server = start(100);
    let ask = |_| post("/large", LARGE, 200, LARGE as u64);
    let ran = test(&server, open_loop(20), ask).run_without_errors();
    assert_eq!(ran.recorder.accepted(), 20);
    assert_eq!(count(&server.seen.body_bytes), 20 * LARGE as u64);
    assert_eq!(ran.recorder.body_bytes, 20 * LARGE as u64);
}

#[test]
fn bodies_are_counted_also_when_nobody_reads_them() {
    let server = start(100);
    let mut test = test(&server, open_loop(20), |_| get("/large", 200, LARGE as u64));
    test.plan.keep_bodies = false;
    let ran = test.run();
    // The load here wants bodies, and says so; the bytes are counted all the same.
    assert_eq!((ran.recorder.errors(), ran.recorder.body_bytes), (20, 20 * LARGE as u64));
}

#[test]
fn a_server_that_takes_few_streams_is_waited_for() {
    for pace in [open_loop(400), closed_loop()] {
        let server = start(2);
        let mut test = test(&server, pace, mixed);
        test.plan.protocol = Protocol::Http3 { streams: 64 };
        let ran = test.run_without_errors();
        assert_eq!(count(&server.seen.begun), ran.recorder.accepted());
        assert!(count(&server.seen.most_under_way) <= 2 * 5);
    }
}

#[test]
fn streams_that_are_reset_are_errors_of_their_requests_alone() {
    let server = start(100);
    let ask = |n| get(if n % 4 == 0 { "/reset" } else { "/ok" }, 200, 2);
    let ran = test(&server, open_loop(400), ask).run();
    assert_eq!((ran.recorder.accepted(), ran.recorder.errors()), (300, 100));
    assert_eq!(ran.recorder.main_reason(), Some("the stream was reset"));
    assert_eq!((count(&server.seen.begun), count(&server.seen.resets)), (400, 100));
    assert_eq!(count(&server.seen.connections), 5);
}

#[test]
fn what_was_reset_is_sent_again_where_that_is_wanted() {
    let server = start(100);
    let mut test = test(&server, open_loop(200), |_| get("/flaky", 200, 2));
    test.plan.retry_for = Duration::from_secs(60);
    let ran = test.run();
    assert_eq!((ran.recorder.accepted(), ran.recorder.errors()), (200, 0));
    assert_eq!(ran.recorder.retries, count(&server.seen.resets));
    assert_eq!(count(&server.seen.begun), 200 + ran.recorder.retries);
}

#[test]
fn an_answer_before_the_body_is_the_answer() {
    let server = start(2);
    let ask = |_| post("/early", LARGE, 413, 2);
    let ran = test(&server, open_loop(60), ask).run_without_errors();
    assert_eq!((ran.recorder.accepted(), ran.recorder.connects), (60, 5));
}

#[test]
fn a_server_that_says_goodbye_loses_nothing() {
    for pace in [open_loop(300), closed_loop()] {
        let server = start(100);
        let ask = |n| get(if n % 40 == 20 { "/bye" } else { "/ok" }, 200, 2);
        let ran = test(&server, pace, ask).run_without_errors();
        assert_eq!(count(&server.seen.begun), ran.recorder.accepted());
        assert!(ran.recorder.connects > 5, "{}", ran.recorder.connects);
    }
}

#[test]
fn a_connection_that_breaks_is_opened_again() {
    for pace in [open_loop(300), closed_loop()] {
        let server = start(100);
        let ask = |n| get(if n % 40 == 20 { "/drop" } else { "/ok" }, 200, 2);
        let ran = test(&server, pace, ask).run();
        let recorder = &ran.recorder;
        assert!(recorder.accepted() > 0 && recorder.errors() > 0);
        assert!(recorder.connects > 5, "{}", recorder.connects);
        assert!(recorder.accepted() <= count(&server.seen.begun));
        assert!(count(&server.seen.begun) <= recorder.offered());
    }
}

#[test]
fn answers_that_never_come_are_not_awaited_for_ever() {
    for pace in [open_loop(40), closed_loop()] {
        let server = start(100);
        let ask = |n| match n % 4 {
            0 => get("/never", 200, 2),
            1 => post("/never", LARGE, 200, 2),
            _ => get("/ok", 200, 2),
        };
        let mut test = test(&server, pace, ask);
        test.plan.timeout = Duration::from_millis(400);
        let ran = test.run();
        assert!(ran.recorder.accepted() > 0 && ran.recorder.errors() > 0);
        assert_eq!(ran.recorder.main_reason(), Some("no answer within 400ms"));
        // What was given up took its stream with it, and nothing else.
        assert_eq!(count(&server.seen.connections), 5);
        assert_eq!(count(&server.seen.begun), ran.recorder.offered());
    }
}

#[test]
fn one_request_leads_to_another() {
    let server = start(100);
    let mut test = test(&server, open_loop(200), mixed);
    test.follow_up = Some(Duration::from_millis(100));
    let ran = test.run_without_errors();
    let [first, second] = &ran.recorder.kinds[..] else { unreachable!() };
    assert_eq!((first.accepted, second.accepted + ran.recorder.left_out), (200, 200));
    assert!(second.accepted > 0 && ran.recorder.left_out > 0);
    assert_eq!(count(&server.seen.begun), ran.recorder.accepted());
}

#[test]
fn without_tls_there_is_no_http3() {
    let target = Target::from_url("http://127.0.0.1:1").unwrap();
    let test = Test::new(target, Protocol::Http3 { streams: 1 }, open_loop(1), mixed);
    let ran = loadgen::engine::run(&test.plan, |_| test.asks(), &Arc::new(Progress::default()));
    let error = ran.err().expect("it is refused").to_string();
    assert_eq!(error, "QUIC is always secure: https://127.0.0.1:1");
}
