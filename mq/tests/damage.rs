//! What was durable and isn't any more is reported, with its position, and refused.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Cover, Random, Writer, append, open, seeds, small};
use model::{Offset, ShardId};
use mq::{Damage, Disk, Ending, FaultyDisk, LocalConfig, LocalLog, Log, LogError};

/// A log of a few segments, and its frames.
fn sample(close: bool, cover: &Cover) -> (FaultyDisk, Vec<Vec<u8>>) {
    sample_of(3, close, cover)
}

fn sample_of(seed: u64, close: bool, cover: &Cover) -> (FaultyDisk, Vec<Vec<u8>>) {
    let config = LocalConfig { salt: seed, ..small() };
    let disk = FaultyDisk::new();
    let mut writer = Writer::default();
    let mut random = Random(seed);
    let mut written = Vec::new();
    for _ in 0..2 {
        let (mut log, _) = LocalLog::open(cover.over(disk.clone()), config).unwrap();
        for _ in 0..14 {
            let batch = writer.batch(&mut random);
            append(&mut log, &batch).unwrap();
            written.extend(batch);
        }
        if close {
            log.close().unwrap();
        }
    }
    (disk, written)
}

fn segments(disk: &FaultyDisk) -> Vec<String> {
    let names = disk.list().unwrap();
    names.into_iter().filter(|name| name.ends_with(".segment")).collect()
}

/// Flips a bit in every block of every segment in turn, at several places.
#[test]
fn every_flip_is_damage_or_the_unmarked_write_or_unused() {
    for (close, cover) in [
        (false, Cover::none()),
        (true, Cover::none()),
        (false, Cover::encrypted()),
        (true, Cover::encrypted()),
    ] {
        let (disk, written) = sample(close, &cover);
        let (whole, ending) = cover.read_all(&disk);
        assert!(whole == written);
        assert!(matches!(ending, Ok(Ending::Clean { .. })));
        let mut seen = [0; 3];
        for name in segments(&disk) {
            let index: u64 = name[..10].parse().unwrap();
            for block in 0..disk.content(&name).unwrap().len() / 4096 {
                for at in [2, 40, 100, 2_000, 4_095] {
                    let flipped = disk.fork();
                    flipped.flip(&name, block * 4096 + at, (at % 8) as u8);
                    // Of a file whose first block can't be read, nothing can.
                    let block = (block * 4096).saturating_sub(cover.header_bytes());
                    let position = index * 65_536 + block as u64;
                    let (read, ending) = cover.read_all(&flipped);
                    let place = format!("{name}, block {block}, byte {at}");
                    assert!(written.starts_with(&read), "{place}");
                    match ending {
                        Err(LogError::Damage { position: reported, .. }) => {
                            // Named is the write or the frame that the block belongs to.
                            assert!(reported / 4096 <= position / 4096, "{place}: {reported}");
                            assert!(
                                position - reported / 4096 * 4096 < 64 << 10,
                                "{place}: {reported}"
                            );
                            let before = flipped.list().unwrap();
                            let refused = cover.open(&flipped).err();
                            assert!(matches!(refused, Some(LogError::Damage { .. })), "{place}");
                            assert_eq!(flipped.list().unwrap(), before);
                            seen[0] += 1;
                        }
                        Ok(Ending::Torn { position: torn, bytes }) => {
                            assert!((torn..torn + bytes.max(4096)).contains(&position), "{place}");
                            let lost = written.len() - read.len();
                            assert!(
                                if close { lost == 0 } else { (1..=4).contains(&lost) },
                                "{place}"
                            );
                            let (_, recovered) = cover.open(&flipped).unwrap();
                            assert_eq!(recovered.cut_bytes, bytes);
                            seen[1] += 1;
                        }
                        Ok(Ending::Clean { .. }) => {
                            assert!(read == written, "{place}");
                            seen[2] += 1;
                        }
                        Err(error) => panic!("{place}: {error}"),
                    }
                }
            }
        }
        // All three happen, or the test would be about nothing.
        assert!(seen[0] > 100 && seen[1] >= 2 && seen[2] > 20, "{seen:?}");
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let (disk, _) = sample(true, &Cover::none());
    let names = segments(&disk);
    assert!(names.len() >= 4, "{names:?}");
    // The last one is only prepared.
    for name in &names[..names.len() - 2] {
        let disk = disk.fork();
        disk.remove(name).unwrap();
        let error = open(&disk).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("is missing"), "{name}: {text}");
    }
}

/// Files in each other's place, from another log, or from a backup: each is in itself what a
/// segment should be.
#[test]
fn a_segment_in_anothers_place_is_damage() {
    for cover in [Cover::none(), Cover::encrypted()] {
        let (disk, written) = sample(true, &cover);
        let (other, _) = sample_of(4, true, &cover);
        let names = segments(&disk);
        let used = &names[..names.len() - 1];
        let put = |disk: &FaultyDisk, name: &str, bytes: &[u8]| {
            disk.remove(name).unwrap();
            disk.create(name, bytes.len() as u64).unwrap();
            disk.overwrite(name, 0, bytes);
        };
        let refused = |disk: &FaultyDisk, what: &str| {
            let (read, ending) = cover.read_all(disk);
            assert!(matches!(ending, Err(LogError::Damage { .. })), "{what}: {ending:?}");
            let before: Vec<_> = names.iter().map(|name| disk.content(name)).collect();
            let refused = cover.open(disk).err();
            assert!(matches!(refused, Some(LogError::Damage { .. })), "{what}: {refused:?}");
            let after: Vec<_> = names.iter().map(|name| disk.content(name)).collect();
            assert!(before == after, "{what}: a refused opening changed something");
            read
        };
        for (number, name) in used.iter().enumerate() {
            for another in &used[number + 1..] {
                let swapped = disk.fork();
                put(&swapped, name, &disk.content(another).unwrap());
                put(&swapped, another, &disk.content(name).unwrap());
                let read = refused(&swapped, &format!("{name} and {another} swapped"));
                assert!(written.starts_with(&read), "{name} and {another} swapped");
                let twice = disk.fork();
                put(&twice, another, &disk.content(name).unwrap());
                let read = refused(&twice, &format!("{name} in the place of {another}, too"));
                assert!(written.starts_with(&read), "{name} in the place of {another}, too");
            }
            let foreign = disk.fork();
            put(&foreign, name, &other.content(name).unwrap());
            // Nothing stands before the first: what isn't its own shows where the next one begins.
            refused(&foreign, &format!("another log's {name}"));
        }
        // As a backup has it that was made when the segment was half full.
        for name in &used[..used.len() - 1] {
            let old = disk.fork();
            let mut bytes = disk.content(name).unwrap();
            let half = bytes.len() / 2;
            bytes[half..].fill(0);
            put(&old, name, &bytes);
            let read = refused(&old, &format!("{name} as it was"));
            assert!(written.starts_with(&read), "{name} as it was");
        }
    }
}

#[test]
fn a_lost_block_reads_as_damage_in_words() {
    let disk = FaultyDisk::new();
    let mut writer = Writer::default();
    let (mut log, _) = open(&disk).unwrap();
    for _ in 0..3 {
        append(&mut log, &[writer.frame(0, 1, 100)]).unwrap();
    }
    drop(log);
    disk.overwrite("0000000000.segment", 8192, &[0; 4096]);
    assert_eq!(
        open(&disk).err().unwrap().to_string(),
        "the log is damaged at position 8192: a write here was synced, says the write at 12288, \
         and can't be read: no write begins here"
    );
}

/// While a log is open, a reader finds damage too, and doesn't hand out what it can't check.
#[test]
fn reading_an_open_log_finds_damage() {
    let disk = FaultyDisk::new();
    let mut writer = Writer::default();
    let (mut log, _) = open(&disk).unwrap();
    for _ in 0..3 {
        append(&mut log, &[writer.frame(0, 1, 100)]).unwrap();
    }
    disk.flip("0000000000.segment", 8192 + 150, 1);
    let mut source = log.read(ShardId(0), Offset(1)).unwrap();
    assert!(source.next().unwrap().is_some());
    assert!(matches!(source.next(), Err(LogError::Damage { position: 8192, .. })));
}

/// Bytes of every kind in place of a log: an error or a log, never a panic.
#[test]
fn arbitrary_bytes_never_panic() {
    let samples = [0, 1].map(Cover::of).map(|cover| (sample(false, &cover), cover));
    for seed in seeds(1_000) {
        let ((disk, written), cover) = &samples[seed as usize % 2];
        let names = segments(disk);
        let mut random = Random(seed);
        let disk = disk.fork();
        for _ in 0..1 + random.below(3) {
            let name = &names[random.below(names.len() as u64) as usize];
            let length = disk.content(name).unwrap().len() as u64;
            let bytes: Vec<u8> = (0..random.below(200)).map(|_| random.below(256) as u8).collect();
            // Mostly at the head of a block, where headers are.
            let at = random.below(length / 4096) * 4096 + random.below(3) * 8;
            disk.overwrite(name, at as usize, &bytes);
        }
        let (read, ending) = cover.read_all(&disk);
        assert!(written.starts_with(&read), "seed {seed}");
        assert_eq!(cover.open(&disk).is_ok(), ending.is_ok(), "seed {seed}");
    }
}

/// A mark keeps the ends of shards whose frames are all trimmed.
#[test]
fn an_idle_shard_keeps_its_end() {
    let disk = FaultyDisk::new();
    let mut writer = Writer::default();
    let (mut log, _) = open(&disk).unwrap();
    append(&mut log, &[writer.frame(5, 3, 100)]).unwrap();
    for _ in 0..60 {
        append(&mut log, &[writer.frame(0, 1, 5_000)]).unwrap();
        let end = log.end(ShardId(0)).next;
        log.trim(&[(ShardId(0), end), (ShardId(5), Offset(4))]).unwrap();
    }
    assert!(segments(&disk).len() < 4);
    for _ in 0..3 {
        drop(log);
        log = open(&disk).unwrap().0;
        assert_eq!(log.end(ShardId(5)), writer.ends[&5]);
        assert!(matches!(
            log.read(ShardId(5), Offset(1)),
            Err(LogError::Trimmed { first: Offset(4), .. })
        ));
    }
    append(&mut log, &[writer.frame(5, 1, 100)]).unwrap();
}

/// Two sound writes whose frames don't chain: a bug wrote them, and nobody goes on from there.
#[test]
fn frames_that_do_not_chain_are_damage() {
    let (ours, theirs) = (FaultyDisk::new(), FaultyDisk::new());
    for (disk, bytes) in [(&ours, 100), (&theirs, 200)] {
        let mut writer = Writer::default();
        let (mut log, _) = open(disk).unwrap();
        for _ in 0..3 {
            append(&mut log, &[writer.frame(0, 1, bytes)]).unwrap();
        }
    }
    let name = "0000000000.segment";
    ours.overwrite(name, 8192, &theirs.content(name).unwrap()[8192..12_288]);
    let error = open(&ours).err().unwrap();
    let LogError::Damage { position: 8256, what: Damage::Chain { found, .. } } = error else {
        panic!("{error}")
    };
    assert_eq!(found, Offset(2));
}
