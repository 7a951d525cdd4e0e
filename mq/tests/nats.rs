//! The log on a real cluster of three NATS servers.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
#[path = "common/nats.rs"]
mod nats;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Writer, append, read, read_all_of};
use mq::{
    LocalConfig, LocalLog, LocalReader, Log, LogError, NatsConfig, NatsError, NatsStream, Prepare,
    Stream, StreamDisk, StreamEnd,
};
use nats::{Cluster, Settings, config, connect, server};

fn open(config: &NatsConfig, salt: u64) -> LocalLog {
    let disk = StreamDisk::own(connect(config), salt).unwrap();
    let settings = LocalConfig { salt, prepare: Prepare::Inline, ..LocalConfig::default() };
    LocalLog::open(Arc::new(disk), settings).unwrap().0
}

fn all(config: &NatsConfig) -> Vec<Vec<u8>> {
    let stream = Arc::new(NatsStream::read_only(config).unwrap());
    let disk = StreamDisk::read_only(stream).unwrap();
    read_all_of(LocalReader::open(Arc::new(disk)).unwrap()).unwrap()
}

#[test]
fn servers_are_killed_and_restarted_and_paused() {
    let Some(program) = server() else { return };
    let mut cluster = Cluster::start(program, &Settings::default());
    let config = config(&cluster, "orders");
    let mut writer = Writer::default();
    let mut written = Vec::new();
    let mut log = open(&config, 1);
    let mut more = |log: &mut LocalLog, count: usize| {
        for _ in 0..count {
            let frames = vec![writer.frame(0, 2, 5_000), writer.frame(1, 1, 200_000)];
            append(log, &frames).unwrap();
            written.extend(frames);
        }
        written.clone()
    };
    more(&mut log, 20);
    // One after the other, so that each of them led once, perhaps.
    for number in 0..3 {
        cluster.kill(number);
        more(&mut log, 5);
        cluster.restart(number);
        more(&mut log, 5);
    }
    for number in 0..3 {
        std::thread::scope(|scope| {
            scope.spawn(|| cluster.pause(number, Duration::from_secs(3)));
            more(&mut log, 10);
        });
    }
    // All at once: what was acknowledged is on their disks.
    (0..3).for_each(|number| cluster.kill(number));
    (0..3).for_each(|number| cluster.restart(number));
    let written = more(&mut log, 5);
    assert!(all(&config) == written);

    // Another process takes over.
    let mut other = open(&config, 2);
    let error = append(&mut log, &[Writer::default().frame(7, 1, 8)]).unwrap_err();
    assert!(matches!(error, LogError::Stream(StreamEnd::Superseded { .. })), "{error}");
    append(&mut other, &[Writer::default().frame(7, 1, 8)]).unwrap();
    assert_eq!(read(&other, 7, 1).unwrap().len(), 1);
    let of_first = written.iter().filter(|frame| frame[16] == 0).count();
    assert_eq!(read(&other, 0, 1).unwrap().len(), of_first);
    // What isn't needed is forgotten, and the rest is there.
    let ends: Vec<_> = [0, 1, 7].map(model::ShardId).map(|id| (id, other.end(id).next)).into();
    other.trim(&ends).unwrap();
    let trimmed = read(&other, 0, 1).unwrap_err();
    assert!(matches!(trimmed, LogError::Trimmed { .. }), "{trimmed}");
    drop(other);
    // Who doesn't know of a message yet says nothing.
    let stream = NatsStream::connect(&config).unwrap();
    let (last, far) = (Stream::last(&stream).unwrap(), u64::MAX / 2);
    assert!(stream.files(last).is_ok_and(|files| !files.is_empty()));
    assert!(stream.files(far).is_err());
    assert!(stream.end("owner", last).unwrap().is_some());
    assert!(stream.end("owner", far).is_err());
    assert!(stream.end("nobody", last).unwrap().is_none());
    assert!(stream.read("owner", 1, 100).is_ok_and(|found| !found.is_empty()));
    drop(stream);
    let again = open(&config, 3);
    assert_eq!(ends, [0, 1, 7].map(model::ShardId).map(|id| (id, again.end(id).next)));
}

#[test]
fn settings_that_would_lose_data_are_refused() {
    let Some(program) = server() else { return };
    let refused = |config: &NatsConfig| {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            match NatsStream::connect(config).err().unwrap() {
                NatsError::Server { .. } if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(200));
                }
                error => return error.to_string(),
            }
        }
    };
    let lazy = Cluster::start(program.clone(), &Settings { sync: "2m", ..Settings::default() });
    assert!(refused(&config(&lazy, "orders")).contains("sync_interval: always"));
    let unseen = NatsConfig { system_url: None, ..config(&lazy, "orders") };
    assert!(refused(&unseen).contains("--nats-system"));
    let nobody = NatsConfig { system_url: Some(lazy.url()), ..config(&lazy, "orders") };
    assert!(refused(&nobody).contains("--nats-system"), "{}", refused(&nobody));
    let name = NatsConfig { stream: "a b".to_string(), ..config(&lazy, "orders") };
    assert!(refused(&name).contains("can't be a stream's name"));
    drop(lazy);
    let small = Settings { servers: 1, max_payload: 64 << 10, ..Settings::default() };
    let small = Cluster::start(program, &small);
    let single = NatsConfig { replicas: 1, ..config(&small, "orders") };
    assert!(refused(&single).contains("max_payload"), "{}", refused(&single));
    let three = NatsConfig { replicas: 3, ..config(&small, "orders") };
    assert!(refused(&three).contains("too few servers"), "{}", refused(&three));
}
