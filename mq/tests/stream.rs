//! A log on a stream: one writer, nothing twice, nothing lost without a word.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;

use common::{Cover, Random, Writer, append, read, read_all_of, seeds, small};
use mq::{FaultyStream, LocalLog, LocalReader, Log, LogError, StreamDisk, StreamEnd, StreamFault};

fn open(stream: &FaultyStream) -> Result<LocalLog, LogError> {
    let salt = stream.sequences().len() as u64;
    let disk = StreamDisk::own(Arc::new(stream.clone()), salt).unwrap();
    LocalLog::open(Arc::new(disk), small()).map(|(log, _)| log)
}

/// All frames as somebody reads them who doesn't write.
fn all(stream: &FaultyStream) -> Result<Vec<Vec<u8>>, LogError> {
    let disk = StreamDisk::read_only(Arc::new(stream.clone())).unwrap();
    read_all_of(LocalReader::open(Arc::new(disk))?)
}

#[test]
fn a_new_writer_ends_the_one_before() {
    let stream = FaultyStream::new();
    let mut writer = Writer::default();
    let mut first = open(&stream).unwrap();
    let before = vec![writer.frame(0, 1, 100)];
    append(&mut first, &before).unwrap();
    let mut second = open(&stream).unwrap();
    let superseded = append(&mut first, &[writer.clone().frame(0, 1, 8)]).unwrap_err();
    assert!(matches!(superseded, LogError::Stream(StreamEnd::Superseded { .. })), "{superseded}");
    let poisoned = append(&mut first, &[writer.clone().frame(0, 1, 8)]).unwrap_err();
    assert!(matches!(poisoned, LogError::Poisoned));
    let after = vec![writer.frame(0, 1, 200)];
    append(&mut second, &after).unwrap();
    assert!(read(&second, 0, 1).unwrap() == [before, after].concat());
}

/// Who opens a log has ended the writer before, before it reads.
#[test]
fn nothing_is_written_while_a_log_is_opened() {
    let stream = FaultyStream::new();
    let mut writer = Writer::default();
    let mut first = open(&stream).unwrap();
    append(&mut first, &[writer.frame(0, 1, 100)]).unwrap();
    let disk = Arc::new(StreamDisk::own(Arc::new(stream.clone()), 99).unwrap());
    let opening = LocalLog::begin(disk, small()).unwrap();
    let error = append(&mut first, &[writer.clone().frame(0, 1, 100)]).unwrap_err();
    assert!(matches!(error, LogError::Stream(StreamEnd::Superseded { .. })), "{error}");
    let (mut log, _) = opening.finish().unwrap();
    append(&mut log, &[writer.frame(0, 1, 100)]).unwrap();
    assert_eq!(read(&log, 0, 1).unwrap().len(), 2);
}

#[test]
fn what_is_unclear_is_in_the_log_once() {
    use StreamFault::{Dropped, Late, Stale, Unanswered};
    for fault in [Unanswered, Dropped, Late, Stale] {
        let stream = FaultyStream::new();
        let mut writer = Writer::default();
        let mut log = open(&stream).unwrap();
        let mut written = Vec::new();
        for _ in 0..3 {
            stream.fail(fault);
            written.push(writer.frame(0, 2, 300));
            append(&mut log, &written[written.len() - 1..]).unwrap();
        }
        // Whatever is still on its way comes too late.
        stream.deliver();
        assert!(all(&stream).unwrap() == written, "{fault:?}");
        assert!(read(&open(&stream).unwrap(), 0, 1).unwrap() == written, "{fault:?}");
    }
}

#[test]
fn what_was_acknowledged_and_is_gone_is_told() {
    let stream = FaultyStream::new();
    let mut writer = Writer::default();
    let mut log = open(&stream).unwrap();
    let frames: Vec<_> = (0..3).map(|_| writer.frame(0, 1, 100)).collect();
    for frame in &frames {
        append(&mut log, std::slice::from_ref(frame)).unwrap();
    }
    stream.lose(2);
    let error = append(&mut log, &[writer.frame(0, 1, 8)]).unwrap_err();
    let lost = StreamEnd::Lost { last: 3, acknowledged: 5 };
    assert!(matches!(error, LogError::Stream(end) if end == lost), "{error}");
}

/// Every message damaged or removed: reported, or nothing is missing. Never a part without a word.
#[test]
fn damage_is_told() {
    let stream = || {
        let stream = FaultyStream::new();
        let mut writer = Writer::default();
        let mut random = Random(3);
        let mut written = Vec::new();
        for _ in 0..2 {
            let mut log = open(&stream).unwrap();
            for _ in 0..12 {
                let batch = writer.batch(&mut random);
                append(&mut log, &batch).unwrap();
                written.extend(batch);
            }
        }
        (stream, written)
    };
    let (whole, written) = stream();
    assert!(all(&whole).unwrap() == written);
    let mut found = 0;
    for sequence in whole.sequences() {
        for at in [2, 40, 100, 2_000] {
            let (damaged, _) = stream();
            assert!(damaged.flip(sequence, at, (at % 8) as u8));
            let told = matches!(open(&damaged).map(drop), Err(LogError::Damage { .. }));
            let harmless = || all(&damaged).is_ok_and(|frames| frames == written);
            assert!(told || harmless(), "a flipped bit at {at} of message {sequence}");
            found += u32::from(told);
        }
        let (holed, _) = stream();
        assert!(holed.remove(sequence));
        if holed.sequences().last() < whole.sequences().last() {
            // A stream that says that its last message is one that isn't there.
            assert!(StreamDisk::read_only(Arc::new(holed)).is_err());
        } else {
            let told = matches!(open(&holed).map(drop), Err(LogError::Damage { .. }));
            // Of the message with which a writer began, nothing depends.
            let harmless = || all(&holed).is_ok_and(|frames| frames == written);
            assert!(told || harmless(), "without message {sequence}");
        }
    }
    assert!(found > 30, "{found} were found");
}

/// Writers come and go, one at a time or two at once, on a stream at its worst. What one was told
/// is durable is there at the end, once, in its order.
#[test]
fn writers_that_take_turns_lose_nothing() {
    for seed in seeds(60) {
        println!("CREST_SEED={seed} cargo test -p mq --test stream");
        let stream = FaultyStream::new();
        stream.misbehave(seed, 3);
        let mut random = Random(seed);
        let cover = Cover::of(seed);
        let mut acknowledged: Vec<Vec<u8>> = Vec::new();
        let mut logs: Vec<LocalLog> = Vec::new();
        for _ in 0..60 {
            if logs.is_empty() || random.below(8) == 0 {
                let disk = StreamDisk::own(Arc::new(stream.clone()), random.below(u64::MAX));
                let opened = disk.map(|disk| LocalLog::open(cover.over(disk), small()));
                match opened {
                    Ok(Ok((log, _))) => logs.push(log),
                    Ok(Err(error)) if error.is_damage() => panic!("{error}"),
                    Ok(Err(_)) | Err(_) => {}
                }
                continue;
            }
            let at = random.below(logs.len() as u64) as usize;
            let end = logs[at].end(model::ShardId(0));
            let frame = common::frame_at(model::ShardId(0), end, end.epoch.0 + 1, 1, 400);
            match append(&mut logs[at], std::slice::from_ref(&frame)) {
                Ok(()) => acknowledged.push(frame),
                Err(_) => drop(logs.remove(at)),
            }
        }
        stream.misbehave(0, 0);
        stream.deliver();
        let disk = cover.over(StreamDisk::read_only(Arc::new(stream.clone())).unwrap());
        let there = read_all_of(LocalReader::open(disk).unwrap()).unwrap();
        let mut rest = there.iter();
        for frame in &acknowledged {
            assert!(rest.any(|other| other == frame), "an acknowledged frame is gone");
        }
    }
}
