//! What is left of a local log after crashes and failing disks.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Cover, Random, Writer, append, is_one_seed, open, read_all, seeds, small};
use mq::{DirDisk, Disk, Ending, FaultyDisk, LocalConfig, LocalLog, LocalReader, Log, LogError};
use std::sync::Arc;

/// Checks that `found` begins with all of `acknowledged`, and goes on as `tried` does.
fn assert_prefix(found: &[Vec<u8>], acknowledged: usize, tried: &[Vec<u8>], seed: u64) {
    assert!(
        found.len() >= acknowledged,
        "seed {seed}: {} of {acknowledged} acknowledged frames",
        found.len()
    );
    assert!(tried.starts_with(found), "seed {seed}: what was found was never appended");
}

fn names(disk: &FaultyDisk, extension: &str) -> Vec<String> {
    let names = disk.list().unwrap();
    names.into_iter().filter(|name| name.ends_with(extension)).collect()
}

/// Appends, crashes, opens, over and over, with a script of faults in half of the lives.
#[test]
fn what_was_acknowledged_survives_every_crash() {
    for seed in seeds(600) {
        let mut random = Random(seed);
        let (disk, cover) = (FaultyDisk::new(), Cover::of(seed));
        let mut tried: Vec<Vec<u8>> = Vec::new();
        let mut acknowledged = 0;
        for _ in 0..6 {
            let mut writer = Writer::default();
            match random.below(8) {
                0 => disk.fail_sync(1 + random.below(12)),
                1 => disk.fail_write(1 + random.below(12)),
                2 => disk.full_after(random.below(400_000)),
                _ => {}
            }
            let opened = cover.open(&disk);
            if let Err(error) = &opened {
                assert!(matches!(error, LogError::Io { .. }), "seed {seed}: {error}");
            }
            if let Ok((mut log, recovered)) = opened {
                let (found, ending) = cover.read_all(&disk);
                assert!(ending.is_ok(), "seed {seed}: {ending:?}");
                assert_eq!(recovered.frames, found.len() as u64, "seed {seed}");
                assert_prefix(&found, acknowledged, &tried, seed);
                // What opening shows is durable, so all of it counts from now on.
                acknowledged = found.len();
                tried = found;
                for shard in 0..3 {
                    writer.ends.insert(shard, log.end(model::ShardId(shard)));
                }
                for _ in 0..random.below(20) {
                    let batch = writer.batch(&mut random);
                    tried.extend(batch.iter().cloned());
                    match append(&mut log, &batch) {
                        Ok(()) => acknowledged = tried.len(),
                        Err(error) => {
                            assert!(matches!(error, LogError::Io { .. }), "seed {seed}: {error}");
                            let again = append(&mut log, &batch);
                            assert!(matches!(again, Err(LogError::Poisoned)), "seed {seed}");
                            assert!(matches!(log.mark(), Err(LogError::Poisoned)), "seed {seed}");
                            break;
                        }
                    }
                }
            }
            // Now and then only the process dies, and what it wrote is still shown.
            if random.below(4) != 0 {
                disk.crash(random.below(u64::MAX));
            }
        }
        disk.crash(random.below(u64::MAX));
        drop(cover.open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}")));
        let (found, ending) = cover.read_all(&disk);
        assert!(ending.is_ok(), "seed {seed}: {ending:?}");
        assert_prefix(&found, acknowledged, &tried, seed);
    }
}

/// A write that was begun and never synced is cut, or kept whole; nothing else happens.
#[test]
fn an_unsynced_tail_is_cut() {
    let (mut cut, mut kept) = (0, 0);
    for seed in 0..60 {
        let disk = FaultyDisk::new();
        let mut writer = Writer::default();
        let (mut log, _) = open(&disk).unwrap();
        let first = writer.frame(0, 1, 9_000);
        let second = writer.frame(0, 1, 9_000);
        log.append(&[&first]).unwrap();
        let base = disk.fork();
        log.append(&[&second]).unwrap();
        // The second write without its sync: any mixture of its blocks.
        let (whole, name) = (disk.content("0000000000.segment").unwrap(), "0000000000.segment");
        let mut random = Random(seed);
        for block in 4..7 {
            if random.below(2) == 0 {
                base.overwrite(name, block * 4096, &whole[block * 4096..(block + 1) * 4096]);
            }
        }
        let (log, recovered) = open(&base).unwrap();
        match log.end(model::ShardId(0)).next.0 {
            2 => cut += u64::from(recovered.cut_bytes > 0),
            3 => kept += 1,
            other => panic!("seed {seed}: the next offset is {other}"),
        }
        drop(log);
        assert_eq!(read_all(&base).0.len(), recovered.frames as usize);
    }
    assert!(cut > 5 && kept > 2, "{cut} cut, {kept} kept");
}

/// After a failed sync the kernel shows what the disk never got. Once opening the log showed it,
/// it must stay.
#[test]
fn what_opening_shows_is_durable_though_a_clean_page_lied() {
    for seed in 0..20 {
        let (disk, cover) = (FaultyDisk::new(), Cover::of(seed));
        let mut writer = Writer::default();
        let (mut log, _) = cover.open(&disk).unwrap();
        let frames = [writer.frame(0, 1, 9_000), writer.frame(0, 1, 9_000)];
        log.append(&[&frames[0]]).unwrap();
        disk.fail_sync(1);
        assert!(log.append(&[&frames[1]]).is_err());
        drop(log);
        let (log, _) = cover.open(&disk).unwrap();
        assert_eq!(log.end(model::ShardId(0)).next.0, 3);
        drop(log);
        disk.crash(seed);
        assert!(cover.read_all(&disk).0 == frames, "seed {seed}");
    }
}

/// Writes of another life of the same segment, at their very positions.
#[test]
fn writes_of_another_generation_are_nothing() {
    let (ours, theirs) = (FaultyDisk::new(), FaultyDisk::new());
    let config = LocalConfig { salt: 43, ..small() };
    let mut frames = Vec::new();
    for (disk, config, count) in [(&ours, small(), 2), (&theirs, config, 5)] {
        let mut writer = Writer::default();
        let (mut log, _) = LocalLog::open(Arc::new(disk.clone()), config).unwrap();
        frames = (0..count).map(|_| writer.frame(0, 1, 100)).collect();
        for frame in &frames {
            log.append(&[frame]).unwrap();
        }
    }
    let name = "0000000000.segment";
    ours.overwrite(name, 3 * 4096, &theirs.content(name).unwrap()[3 * 4096..]);
    let (found, ending) = read_all(&ours);
    assert!(found == frames[..2]);
    // The rest looks like a write that was begun, and none that was acknowledged.
    assert_eq!(ending.unwrap(), Ending::Torn { position: 3 * 4096, bytes: 4096 });
}

/// Segments are trimmed and used again while crashes tear what is written into them.
#[test]
fn old_frames_in_a_recycled_segment_are_never_new() {
    let mut recycled = 0;
    for seed in seeds(200) {
        let mut random = Random(seed);
        let (disk, cover) = (FaultyDisk::new(), Cover::of(seed));
        let mut writer = Writer::default();
        let mut tried: Vec<Vec<u8>> = Vec::new();
        let mut acknowledged = 0;
        let (mut log, _) = cover.open(&disk).unwrap();
        for _ in 0..3 {
            for _ in 0..25 {
                let batch = writer.batch(&mut random);
                tried.extend(batch.iter().cloned());
                append(&mut log, &batch).unwrap();
                acknowledged = tried.len();
                if random.below(6) == 0 {
                    recycled += names(&disk, ".spare").len();
                    let all = [0, 1, 2]
                        .map(|shard| (model::ShardId(shard), log.end(model::ShardId(shard)).next));
                    log.trim(&all).unwrap();
                }
            }
            // One append that never ends: its sync fails.
            disk.fail_sync(1);
            let batch = writer.batch(&mut random);
            tried.extend(batch.iter().cloned());
            assert!(append(&mut log, &batch).is_err());
            drop(log);
            disk.crash(random.below(u64::MAX));
            log = cover.open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}")).0;
            let (found, ending) = cover.read_all(&disk);
            ending.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let kept = tried.iter().position(|frame| Some(frame) == found.first());
            let kept = kept.unwrap_or(tried.len());
            let trimmed = kept.min(acknowledged);
            assert_prefix(&found, acknowledged - trimmed, &tried[kept..], seed);
            tried = found;
            acknowledged = tried.len();
            for shard in 0..3 {
                writer.ends.insert(shard, log.end(model::ShardId(shard)));
            }
        }
        assert!(names(&disk, ".spare").len() <= 2);
    }
    assert!(is_one_seed() || recycled > 100, "{recycled}");
}

/// A disk that says yes and does nothing, for some seeds after it said no once: a true prefix, or
/// damage. Never another frame.
#[test]
fn a_sync_that_lies_never_makes_a_wrong_frame() {
    let (mut prefixes, mut damaged, mut failed) = (0, 0, 0);
    for seed in seeds(600) {
        let mut random = Random(seed);
        let (disk, cover) = (FaultyDisk::new(), Cover::of(seed));
        let mut writer = Writer::default();
        let mut tried: Vec<Vec<u8>> = Vec::new();
        let (mut log, _) = cover.open(&disk).unwrap();
        let lies_after = random.below(30);
        let fails = lies_after > 0 && seed.is_multiple_of(3);
        if fails {
            disk.fail_sync(lies_after);
        }
        disk.lie_after(lies_after);
        for _ in 0..random.below(40) {
            let batch = writer.batch(&mut random);
            tried.extend(batch.iter().cloned());
            match append(&mut log, &batch) {
                Ok(()) => {}
                Err(error) => {
                    assert!(fails, "seed {seed}: {error}");
                    failed += 1;
                    // Whatever the next sync says, nothing is acknowledged on top of that.
                    let again = append(&mut log, &batch).unwrap_err();
                    assert!(matches!(again, LogError::Poisoned), "seed {seed}: {again}");
                    // Who opens it again is lied to.
                    drop(cover.open(&disk));
                    break;
                }
            }
        }
        drop(log);
        disk.crash(seed);
        let (read, ending) = cover.read_all(&disk);
        assert!(tried.starts_with(&read), "seed {seed}");
        match (cover.open(&disk), ending) {
            (Ok(_), Ok(_)) => {
                prefixes += 1;
                assert!(cover.read_all(&disk).0 == read, "seed {seed}");
            }
            (Err(LogError::Damage { .. }), Err(LogError::Damage { .. })) => damaged += 1,
            (opened, ending) => panic!("seed {seed}: {:?}, {ending:?}", opened.err()),
        }
    }
    assert!(
        is_one_seed() || (prefixes > 10 && damaged > 10 && failed > 10),
        "{prefixes} prefixes, {damaged} damaged, {failed} failed"
    );
}

#[test]
fn restarts_do_not_fill_the_disk() {
    let disk = FaultyDisk::new();
    let mut writer = Writer::default();
    for restart in 0..40 {
        let (mut log, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.cut_bytes, 0);
        // Every other life writes nothing.
        if restart % 2 == 0 {
            append(&mut log, &[writer.frame(0, 1, 100)]).unwrap();
        }
        if restart % 3 == 0 {
            log.close().unwrap();
        }
    }
    let bytes: usize = disk.list().unwrap().iter().map(|n| disk.content(n).unwrap().len()).sum();
    // Two segments, two spares, and what 20 frames take after each was the last of its life.
    assert!(bytes <= (4 * 64 + 20 * 12) << 10, "{bytes}: {:?}", disk.list().unwrap());
    assert_eq!(read_all(&disk).0.len(), 20);
}

/// Opening may die at every one of its writes and syncs.
#[test]
fn opening_can_be_interrupted_anywhere() {
    for cover in [Cover::none(), Cover::encrypted()] {
        interrupt_opening(&cover);
    }
}

fn interrupt_opening(cover: &Cover) {
    let disk = FaultyDisk::new();
    let mut writer = Writer::default();
    let (mut log, _) = cover.open(&disk).unwrap();
    let frames: Vec<_> = (0..30).map(|n| writer.frame(n % 2, 1, 5_000)).collect();
    for frame in &frames {
        log.append(&[frame]).unwrap();
    }
    drop(log);
    for fault in 1..16 {
        for seed in 0..24 {
            let disk = disk.fork();
            for life in 0..3 {
                match seed % 2 {
                    0 => disk.fail_sync(fault),
                    _ => disk.fail_write(fault),
                }
                drop(cover.open(&disk));
                disk.crash(seed * 3 + life);
                let (found, ending) = cover.read_all(&disk);
                assert!(found == frames, "fault {fault}, seed {seed}: {ending:?}");
            }
            let (log, _) = cover.open(&disk).unwrap();
            assert_eq!(log.end(model::ShardId(0)), writer.ends[&0]);
        }
    }
}

#[test]
fn a_marked_end_is_read_without_changing_anything() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::default();
    let disk = Arc::new(DirDisk::open(directory.path()).unwrap());
    let (mut log, _) = LocalLog::open(disk, small()).unwrap();
    append(&mut log, &[writer.frame(0, 2, 100), writer.frame(1, 1, 100)]).unwrap();
    log.mark().unwrap();
    let position = log.position();
    drop(log);
    let disk = DirDisk::read_only(directory.path()).unwrap();
    let before = disk.list().unwrap();
    let mut reader = LocalReader::open(Arc::new(disk)).unwrap();
    let mut positions = Vec::new();
    while let Some((position, frame)) = reader.next_frame().unwrap() {
        positions.push((position, frame.place().shard.0, frame.place().first_offset.0));
    }
    // Behind the segment's header and the write's, and behind the first frame.
    assert_eq!(positions, [(4160, 0, 1), (4160 + 64 + 108, 1, 1)]);
    assert_eq!(reader.ending(), Ending::Clean { position });
    assert_eq!(reader.end(model::ShardId(0)), writer.ends[&0]);
    assert_eq!((reader.stats().frames, reader.stats().syncs), (2, 2));
    let disk = DirDisk::read_only(directory.path()).unwrap();
    assert_eq!(disk.list().unwrap(), before);
}
