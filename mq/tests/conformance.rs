//! What every log must do, whatever it is kept on.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
#[path = "common/nats.rs"]
mod nats;

use std::sync::Arc;

use common::{Cover, Random, Writer, append, frame_at, open, read, seeds, small};
use model::{Epoch, Offset, ShardId};
use mq::{
    DirDisk, FaultyDisk, FaultyStream, LocalConfig, LocalLog, Log, LogEnd, LogError, MemoryLog,
    Prepare, StreamDisk,
};

/// A log and how it is closed and opened again.
type Reopen<'a> = &'a dyn Fn(Box<dyn Log>) -> Box<dyn Log>;

fn conforms(mut log: Box<dyn Log>, reopen: Reopen) {
    refuses_what_does_not_follow(&mut *log);
    let mut log = reads_from_everywhere(log, reopen);
    trims(&mut *log);
    let end = log.end(ShardId(0));
    let log = reopen(log);
    assert_eq!(log.end(ShardId(0)), end);
}

/// Leaves one frame of shard 9 with the epoch 4.
fn refuses_what_does_not_follow(log: &mut dyn Log) {
    let shard = ShardId(9);
    let start = LogEnd::default();
    assert_eq!(log.end(shard), start);
    assert_eq!(start.next, Offset(1));
    let refused = |log: &mut dyn Log, frame: &[u8]| {
        let (end, stats) = (log.end(shard), log.stats());
        // A good frame of another shard before it isn't written either.
        let good = frame_at(ShardId(8), log.end(ShardId(8)), 1, 1, 8);
        let error = log.append(&[&good, frame]).unwrap_err();
        assert_eq!((log.end(shard), log.stats()), (end, stats));
        assert_eq!(log.end(ShardId(8)), start);
        error
    };
    let gap = frame_at(shard, LogEnd { next: Offset(2), ..start }, 4, 1, 8);
    assert!(matches!(refused(log, &gap), LogError::NotNext { found: Offset(2), .. }));
    let other = frame_at(shard, LogEnd { previous: 5, ..start }, 4, 1, 8);
    assert!(matches!(refused(log, &other), LogError::NotNext { found_previous: 5, .. }));
    let whole = frame_at(shard, start, 4, 1, 8);
    assert!(matches!(refused(log, &whole[..70]), LogError::NotAFrame { index: 1, .. }));
    assert!(matches!(refused(log, &[whole.clone(), vec![0]].concat()), LogError::NotAFrame { .. }));
    assert!(matches!(refused(log, b"frame"), LogError::NotAFrame { .. }));
    let large = frame_at(shard, start, 4, 1, (1 << 20) - 63);
    assert!(matches!(refused(log, &large), LogError::NotAFrame { .. } | LogError::TooLarge { .. }));

    log.append(&[&whole]).unwrap();
    let end = log.end(shard);
    assert_eq!((end.next, end.epoch, end.time.0), (Offset(2), Epoch(4), 1));
    assert!(matches!(refused(log, &whole), LogError::NotNext { .. }));
    let fenced = frame_at(shard, end, 3, 1, 8);
    assert!(matches!(
        refused(log, &fenced),
        LogError::Fenced { newest: Epoch(4), found: Epoch(3), .. }
    ));
    assert_eq!(log.stats().frames, 1);
    log.append(&[]).unwrap();
    assert_eq!(log.stats().syncs, 1);
}

fn reads_from_everywhere(mut log: Box<dyn Log>, reopen: Reopen) -> Box<dyn Log> {
    let mut writer = Writer::default();
    let mut random = Random(7);
    let mut written: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 3];
    for round in 0..60 {
        let batch = writer.batch(&mut random);
        for frame in &batch {
            written[usize::from(frame[16])].push(frame.clone());
        }
        append(&mut *log, &batch).unwrap();
        if round % 20 == 19 {
            log = reopen(log);
        }
        let shard = random.below(3) as u16;
        let end = log.end(ShardId(shard));
        assert_eq!(end, writer.ends.get(&shard).copied().unwrap_or_default());
        let from = random.below(end.next.0 + 2);
        let expected: Vec<_> = written[usize::from(shard)]
            .iter()
            .filter(|bytes| {
                let (frame, _) = model::frame::Frame::split(bytes).unwrap();
                frame.place().first_offset.0 >= from || frame.next_offset().0 > from
            })
            .cloned()
            .collect();
        assert!(read(&*log, shard, from).unwrap() == expected, "round {round}, from {from}");
    }
    assert!(read(&*log, 7, 1).unwrap().is_empty());
    log
}

fn trims(log: &mut dyn Log) {
    let whole: Vec<_> = (0..3).map(|shard| read(log, shard, 1).unwrap()).collect();
    let ends: Vec<_> = (0..3).map(|shard| log.end(ShardId(shard))).collect();
    let middle = Offset(ends[0].next.0 / 2);
    log.trim(&[(ShardId(0), middle)]).unwrap();
    // Nobody asked for the other shards, nor for the second half.
    assert!(read(log, 1, 1).unwrap() == whole[1]);
    let half = read(log, 0, middle.0).unwrap();
    assert!(whole[0].ends_with(&half));
    for _ in 0..2 {
        log.trim(&[
            (ShardId(0), middle),
            (ShardId(1), ends[1].next),
            (ShardId(2), ends[2].next),
            (ShardId(9), Offset(2)),
        ])
        .unwrap();
        assert!(read(log, 0, middle.0).unwrap() == half);
        let Err(LogError::Trimmed { first, .. }) = read(log, 0, 1) else {
            panic!("something was trimmed")
        };
        assert!(first > Offset(1) && first <= middle);
        assert!(whole[0].ends_with(&read(log, 0, first.0).unwrap()));
    }
    let kept: Vec<_> = (0..3).map(|shard| log.end(ShardId(shard))).collect();
    assert_eq!(kept, ends);
}

#[test]
fn memory() {
    conforms(Box::new(MemoryLog::new()), &|log| log);
}

#[test]
fn local_on_a_faultless_disk() {
    for cover in [Cover::none(), Cover::encrypted()] {
        let disk = FaultyDisk::new();
        conforms(Box::new(cover.open(&disk).unwrap().0), &|log| {
            drop(log);
            Box::new(cover.open(&disk).unwrap().0)
        });
    }
}

#[test]
fn local_in_a_directory() {
    for (number, prepare) in (0..).zip([Prepare::Inline, Prepare::Background].repeat(2)) {
        let cover = Cover::of(number / 2);
        let directory = tempfile::tempdir().unwrap();
        let open = || -> Box<dyn Log> {
            let disk = cover.over(DirDisk::open(directory.path()).unwrap());
            Box::new(LocalLog::open(disk, LocalConfig { prepare, ..small() }).unwrap().0)
        };
        conforms(open(), &|log| {
            drop(log);
            open()
        });
    }
}

#[test]
fn on_a_stream() {
    for cover in [Cover::none(), Cover::encrypted()] {
        conforms_on(&FaultyStream::new(), &cover);
    }
}

/// One of four calls has no answer, is late, or is answered by a leader that has slept.
#[test]
fn on_a_stream_that_misbehaves() {
    for seed in seeds(40) {
        println!("CREST_SEED={seed} cargo test -p mq --test conformance");
        let stream = FaultyStream::new();
        stream.misbehave(seed, 4);
        conforms_on(&stream, &Cover::of(seed));
    }
}

fn conforms_on(stream: &FaultyStream, cover: &Cover) {
    let open = || -> Box<dyn Log> { Box::new(open_on(stream, cover)) };
    conforms(open(), &|log| {
        drop(log);
        open()
    });
}

#[test]
fn on_jetstream() {
    let Some(program) = nats::server() else { return };
    let cluster = nats::Cluster::start(program, &nats::Settings::default());
    for (name, cover) in [("plain", Cover::none()), ("encrypted", Cover::encrypted())] {
        let config = nats::config(&cluster, name);
        let salts = std::cell::Cell::new(0);
        let open = || -> Box<dyn Log> {
            salts.set(salts.get() + 1);
            let disk = StreamDisk::own(nats::connect(&config), salts.get()).unwrap();
            Box::new(LocalLog::open(cover.over(disk), small()).unwrap().0)
        };
        conforms(open(), &|log| {
            drop(log);
            open()
        });
    }
}

/// Opens a log on a stream; again, where that didn't answer for too long.
fn open_on(stream: &FaultyStream, cover: &Cover) -> LocalLog {
    for salt in 0..100 {
        let disk = match StreamDisk::own(Arc::new(stream.clone()), salt) {
            Ok(disk) => cover.over(disk),
            Err(_) => continue,
        };
        match LocalLog::open(disk, small()) {
            Ok((log, _)) => return log,
            Err(LogError::Io { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it can't be opened")
}

#[test]
fn local_with_large_frames() {
    [Cover::none(), Cover::encrypted()].iter().for_each(takes_large_frames);
}

fn takes_large_frames(cover: &Cover) {
    let directory = tempfile::tempdir().unwrap();
    let config = LocalConfig { segment_bytes: 4 << 20, ..LocalConfig::default() };
    let disk = cover.over(DirDisk::open(directory.path()).unwrap());
    let (mut log, _) = LocalLog::open(disk.clone(), config).unwrap();
    let mut writer = Writer::default();
    let frames: Vec<_> = (0..6).map(|n| writer.frame(n % 2, 1, (1 << 20) - 64)).collect();
    append(&mut log, &frames).unwrap();
    assert_eq!(log.stats().syncs, 6);
    log.close().unwrap();
    let (log, recovered) = LocalLog::open(disk, config).unwrap();
    assert_eq!((recovered.frames, recovered.cut_bytes), (6, 0));
    assert_eq!(read(&log, 1, 1).unwrap().len(), 3);
}

#[test]
fn a_configuration_is_checked() {
    let check = |config: LocalConfig| config.check().map_err(|error| error.to_string());
    assert!(check(LocalConfig::default()).is_ok());
    let error = check(LocalConfig { segment_bytes: 1 << 20, ..LocalConfig::default() });
    assert_eq!(
        error.unwrap_err(),
        "segment_bytes is 1048576; it must be a multiple of 4096 in 2109440..=1073741824"
    );
    assert!(
        check(LocalConfig { segment_bytes: (64 << 20) + 1, ..LocalConfig::default() }).is_err()
    );
    assert!(check(LocalConfig { frame_bytes_max: 63, ..LocalConfig::default() }).is_err());

    let disk = FaultyDisk::new();
    open(&disk).unwrap();
    let other = LocalConfig { segment_bytes: 128 << 10, ..small() };
    let error = LocalLog::open(Arc::new(disk), other).err().unwrap();
    assert!(matches!(error, LogError::SegmentBytes { found: 65_536, configured: 131_072 }));
}
