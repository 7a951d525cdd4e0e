//! Segments in an object store: what was trimmed is read back, and what is damaged is named.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;

use common::{Cover, Random, Writer, append, open, read_all_of};
use model::{Offset, ShardId};
use mq::{
    Archive, ArchiveDisk, ArchiveError, DirectoryKey, Disk, FaultyDisk, LocalLog, LocalReader, Log,
    LogError, LogSegment, Repair, UnionDisk,
};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

/// A log of some segments, and all frames that were appended.
fn filled(disk: &FaultyDisk, random: &mut Random) -> (LocalLog, Writer, Vec<Vec<u8>>) {
    let (mut log, _) = open(disk).unwrap();
    let (mut writer, mut all) = (Writer::default(), Vec::new());
    while all.len() < 300 {
        let batch = writer.batch(random);
        append(&mut log, &batch).unwrap();
        all.extend(batch);
    }
    (log, writer, all)
}

fn ends(writer: &Writer) -> Vec<(ShardId, Offset)> {
    writer.ends.iter().map(|(shard, end)| (ShardId(*shard), end.next)).collect()
}

fn memory() -> (Arc<InMemory>, Arc<Archive>) {
    let store = Arc::new(InMemory::new());
    let archive = reopened(&store, None);
    (store, archive)
}

/// Without a key, and with one.
fn keys() -> [Option<DirectoryKey>; 2] {
    [None, Some(DirectoryKey::draw().unwrap())]
}

/// Archives and trims all that is before these offsets.
fn trim(log: &mut LocalLog, disk: &FaultyDisk, archive: &Archive, writer: &Writer) -> usize {
    let segments = log.trimmable(&ends(writer));
    for segment in &segments {
        archive.put(disk, segment).unwrap();
        log.trim_through(segment).unwrap();
    }
    segments.len()
}

fn whole(disk: &FaultyDisk, archive: &Arc<Archive>) -> Result<LocalReader, LogError> {
    let archived = Arc::new(ArchiveDisk(archive.clone()));
    LocalReader::whole(Arc::new(UnionDisk::new(Arc::new(disk.clone()), archived).unwrap()))
}

#[test]
fn what_was_trimmed_is_read_with_what_is_left() {
    for seed in common::seeds(20) {
        let (mut random, disk) = (Random(seed), FaultyDisk::new());
        let (mut log, mut writer, mut all) = filled(&disk, &mut random);
        let archive = reopened(&Arc::default(), keys()[seed as usize % 2].clone());
        let mut trimmed = 0;
        for _ in 0..3 {
            trimmed += trim(&mut log, &disk, &archive, &writer);
            for _ in 0..random.below(40) {
                let batch = writer.batch(&mut random);
                append(&mut log, &batch).unwrap();
                all.extend(batch);
            }
            if random.below(2) == 0 {
                drop(log);
                disk.crash(seed);
                log = open(&disk).unwrap().0;
            }
        }
        assert!(trimmed > 5, "seed {seed}: {trimmed} segments");
        assert!(matches!(log.read(ShardId(0), Offset(1)), Err(LogError::Trimmed { .. })));
        assert_eq!(archive.segments().unwrap().len(), trimmed);
        let reader = whole(&disk, &archive).unwrap();
        assert!(reader.is_whole());
        assert!(read_all_of(reader).unwrap() == all, "seed {seed}");
        // The archive alone is as sound.
        let alone = LocalReader::whole(Arc::new(ArchiveDisk(archive.clone()))).unwrap();
        let alone = read_all_of(alone).unwrap();
        assert!(!alone.is_empty() && all.starts_with(&alone), "seed {seed}");
    }
}

#[test]
fn a_record_is_found_wherever_it_is() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk).unwrap();
    let mut placed = Vec::new();
    let mut commands = model::record::CommandBuffer::default();
    let mut writer = common::Records::default();
    for n in 0..2_000u64 {
        let shard = (n % 3) as u16;
        commands.clear();
        commands.create_account(model::Party(n), model::Currency::GBP, model::Amount(n));
        let (frame, offset) = writer.frame(shard, commands.bytes());
        append(&mut log, &[frame]).unwrap();
        placed.push((ShardId(shard), offset, commands.bytes().to_vec()));
    }
    let (_, archive) = memory();
    let segments = log.trimmable(&writer.ends());
    assert!(segments.len() > 50, "{}", segments.len());
    segments.iter().for_each(|segment| drop(archive.put(&disk, segment).unwrap()));
    log.trim_through(segments.last().unwrap()).unwrap();
    for (shard, offset, bytes) in placed {
        let found = archive.record(shard, offset).unwrap().map(|(_, bytes)| bytes);
        match log.read(shard, offset) {
            Ok(_) => assert!(found.is_none_or(|found| found == bytes), "{shard} {offset}"),
            Err(_) => assert_eq!(found, Some(bytes), "{shard} {offset}"),
        }
    }
    assert_eq!(archive.record(ShardId(7), Offset(1)).unwrap(), None);
}

/// The object of a segment, and its bytes.
fn object(store: &InMemory, archive: &Archive) -> (Path, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let segments = archive.segments().unwrap();
    let name = format!("some/log/segments/{:010}.segment", segments[segments.len() / 2]);
    let path = Path::from(name);
    let read = async { store.get(&path).await.unwrap().bytes().await.unwrap().to_vec() };
    let bytes = runtime.block_on(read);
    (path, bytes)
}

fn put(store: &InMemory, path: &Path, bytes: Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { store.put(path, bytes.into()).await }).unwrap();
}

/// The same objects, read without what was learned of them before.
fn reopened(store: &Arc<InMemory>, key: Option<DirectoryKey>) -> Arc<Archive> {
    Arc::new(Archive::new(store.clone(), Path::from("some/log")).unwrap().with_key(key))
}

#[test]
fn a_bit_or_an_end_that_is_missing_is_found_and_named() {
    keys().into_iter().for_each(damages);
}

fn damages(key: Option<DirectoryKey>) {
    let (mut random, disk) = (Random(5), FaultyDisk::new());
    let (mut log, writer, all) = filled(&disk, &mut random);
    let store = Arc::default();
    let reopened = |store| reopened(store, key.clone());
    let archive = reopened(&store);
    trim(&mut log, &disk, &archive, &writer);
    let (path, sound) = object(&store, &archive);
    let check = |what: String| {
        let archive = reopened(&store);
        let read = whole(&disk, &archive).and_then(read_all_of);
        let error = read.map(|read| assert!(read == all)).expect_err(&what);
        let words = format!("{error}");
        let named = words.contains(path.filename().unwrap()) || words.contains("segment");
        assert!(named, "{what}: {words}");
    };
    for _ in 0..60 {
        let at = random.below(sound.len() as u64) as usize;
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << random.below(8);
        put(&store, &path, damaged);
        check(format!("a flip at {at} of {}", sound.len()));
    }
    for length in [0, 1, 31, 32, 50, sound.len() / 2, sound.len() - 1] {
        put(&store, &path, sound[..length].to_vec());
        check(format!("cut to {length}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { store.delete(&path).await }).unwrap();
    let read = whole(&disk, &reopened(&store)).and_then(|reader| {
        assert!(!reader.is_whole(), "it begins behind what is missing");
        read_all_of(reader)
    });
    assert!(read.unwrap().len() < all.len());
    put(&store, &path, sound);
    assert!(read_all_of(whole(&disk, &reopened(&store)).unwrap()).unwrap() == all);
}

/// All objects of a store.
fn objects(store: &InMemory, archive: &Archive) -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let read = async |index: &u32| {
        let path = Path::from(format!("some/log/segments/{index:010}.segment"));
        store.get(&path).await.unwrap().bytes().await.unwrap().to_vec()
    };
    archive.segments().unwrap().iter().map(|index| runtime.block_on(read(index))).collect()
}

#[test]
fn what_is_encrypted_is_read_with_its_key_alone() {
    let (mut random, disk) = (Random(7), FaultyDisk::new());
    let (mut log, writer, all) = filled(&disk, &mut random);
    let [none, key] = keys();
    let store = Arc::default();
    let archive = reopened(&store, key.clone());
    let segment = log.trimmable(&ends(&writer))[0];
    archive.put(&disk, &segment).unwrap();
    // A crash before it is trimmed has it archived again, and it is there.
    reopened(&store, key.clone()).put(&disk, &segment).unwrap();
    assert!(trim(&mut log, &disk, &archive, &writer) > 5);
    let read = |key| whole(&disk, &reopened(&store, key)).and_then(read_all_of);
    assert!(read(key).unwrap() == all);
    let error = read(none.clone()).unwrap_err().to_string();
    assert!(error.contains("is encrypted: the data key is needed"), "{error}");
    let error = read(keys()[1].clone()).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("can't be decrypted"), "{error}");
    // Whoever has the store alone doesn't even see what it is.
    for object in objects(&store, &archive) {
        assert!(!object.windows(4).any(|four| four == b"CRSG" || four == b"CRWR"));
    }
}

#[test]
fn what_is_damaged_or_of_another_log_is_not_archived() {
    let (mut random, disk) = (Random(9), FaultyDisk::new());
    let (log, writer, _) = filled(&disk, &mut random);
    let (_, archive) = memory();
    let segments: Vec<LogSegment> = log.trimmable(&ends(&writer));
    let damaged = disk.fork();
    damaged.flip(&segments[1].name(), 4096 + 100, 3);
    archive.put(&damaged, &segments[0]).unwrap();
    let error = archive.put(&damaged, &segments[1]).unwrap_err();
    assert!(matches!(error, ArchiveError::Log(LogError::Damage { .. })), "{error}");
    assert_eq!(archive.segments().unwrap().len(), 1);
    // Once more is as good as once.
    archive.put(&disk, &segments[0]).unwrap();

    let other = FaultyDisk::new();
    let config = mq::LocalConfig { salt: 77, ..common::small() };
    let (mut log, _) = LocalLog::open(Arc::new(other.clone()), config).unwrap();
    let mut writer = Writer::default();
    for _ in 0..100 {
        append(&mut log, &writer.batch(&mut random)).unwrap();
    }
    let segment = log.trimmable(&ends(&writer))[0];
    let error = archive.put(&other, &segment).unwrap_err();
    assert!(matches!(error, ArchiveError::Foreign { .. }), "{error}");
}

#[test]
fn a_directory_is_an_archive() {
    let (mut random, disk) = (Random(3), FaultyDisk::new());
    let (mut log, writer, all) = filled(&disk, &mut random);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/when/needed");
    let archive = Arc::new(Archive::directory(&path).unwrap());
    assert!(trim(&mut log, &disk, &archive, &writer) > 5);
    let again = Arc::new(Archive::directory(&path).unwrap());
    assert!(read_all_of(whole(&disk, &again).unwrap()).unwrap() == all);
    let error = Archive::at("s4://bucket", std::iter::empty()).err().unwrap().to_string();
    assert!(error.starts_with("the archive's location s4://bucket: "), "{error}");
}

#[test]
fn a_task_may_be_the_last_to_have_it() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { drop(Archive::directory(directory.path()).unwrap()) });
}

/// A segment's file as it may be found: flipped, zeroed, cut, gone.
fn damage(disk: &FaultyDisk, name: &str, random: &mut Random) {
    let length = disk.content(name).unwrap().len();
    match random.below(5) {
        0 => disk.remove(name).unwrap(),
        1 => disk.open(name).unwrap().truncate(random.below(3) * 4096).unwrap(),
        // Its header, below what encrypts it and above.
        2 => disk.overwrite(name, 0, &[0; 64]),
        3 => disk.overwrite(name, 4096, &[0; 64]),
        _ => disk.flip(name, 2 * 4096 + random.below(4096) as usize, 3),
    }
    assert!(disk.content(name).is_none_or(|content| content.len() <= length));
}

/// Why a log can't be opened, and what would repair it; `None` if it can.
fn plan(
    cover: &Cover,
    disk: &FaultyDisk,
    archive: &Arc<Archive>,
) -> Option<(LogError, Option<Repair>)> {
    let error = LocalReader::open(cover.over(disk.clone())).and_then(read_all_of).err()?;
    let segment_bytes = common::small().segment_bytes;
    let plan = Repair::plan(&cover.over(disk.clone()), archive, segment_bytes, &error);
    Some((error, plan.unwrap()))
}

#[test]
fn what_is_damaged_and_archived_is_repaired() {
    let mut repaired = 0;
    for seed in common::seeds(60) {
        let (mut random, disk, cover) = (Random(seed), FaultyDisk::new(), Cover::of(seed));
        let (mut log, _) = cover.open(&disk).unwrap();
        let (mut writer, mut all) = (Writer::default(), Vec::new());
        while all.len() < 300 {
            let batch = writer.batch(&mut random);
            append(&mut log, &batch).unwrap();
            all.extend(batch);
        }
        log.mark().unwrap();
        let (_, archive) = memory();
        let segments = log.trimmable(&ends(&writer));
        let (archived, rest) = segments.split_at(segments.len() / 2);
        let below = cover.over(disk.clone());
        archived.iter().for_each(|segment| drop(archive.put(&*below, segment).unwrap()));
        drop(log);

        let plan = |disk: &FaultyDisk| plan(&cover, disk, &archive);
        for damages in 1..=2 {
            let damaged = disk.fork();
            for _ in 0..damages {
                let segment = archived[random.below(archived.len() as u64) as usize];
                if damaged.content(&segment.name()).is_some() {
                    damage(&damaged, &segment.name(), &mut random);
                }
            }
            // A flip where nothing is does no harm.
            let Some((_, plan)) = plan(&damaged) else { continue };
            let plan = plan.unwrap_or_else(|| panic!("seed {seed}"));
            repaired += plan.damaged().len();
            // A crash in the midst of it leaves what was there, or the repaired.
            damaged.fail_sync(1 + random.below(4));
            let ran = plan.run();
            damaged.crash(seed);
            if let Some((_, plan)) = self::plan(&cover, &damaged, &archive) {
                assert!(ran.is_err(), "seed {seed}");
                plan.unwrap().run().unwrap();
            }
            let (found, ending) = cover.read_all(&damaged);
            assert!(found == all && ending.is_ok(), "seed {seed}: {ending:?}");
            drop(cover.open(&damaged).unwrap());
        }
        // One that isn't archived is refused, also beside one that is.
        let damaged = disk.fork();
        damaged.remove(&rest[0].name()).unwrap();
        for _ in 0..2 {
            let before = damaged.list().unwrap();
            let (error, plan) = plan(&damaged).unwrap();
            assert!(plan.is_none() && error.is_damage(), "seed {seed}: {error}");
            assert_eq!(damaged.list().unwrap(), before);
            damaged.overwrite(&archived[0].name(), 4096, &[0; 64]);
        }
    }
    assert!(common::is_one_seed() || repaired > 60, "{repaired}");
}

/// The archive of another log has segments of the same names.
#[test]
fn what_another_log_archived_repairs_nothing() {
    let (disk, other) = (FaultyDisk::new(), FaultyDisk::new());
    let mut random = Random(4);
    drop(filled(&disk, &mut random));
    let config = mq::LocalConfig { salt: 77, ..common::small() };
    let (mut log, _) = LocalLog::open(Arc::new(other.clone()), config).unwrap();
    let mut writer = Writer::default();
    for _ in 0..100 {
        append(&mut log, &writer.batch(&mut random)).unwrap();
    }
    let (_, archive) = memory();
    let segments = log.trimmable(&ends(&writer));
    segments.iter().for_each(|segment| drop(archive.put(&other, segment).unwrap()));
    // By its header it is told at once, and without by where it leads.
    for lost in [0..0, 0..64] {
        let damaged = disk.fork();
        let name = segments[1].name();
        damaged.overwrite(&name, 4096, &[0; 64]);
        damaged.overwrite(&name, lost.start, &vec![0; lost.len()]);
        let (error, plan) = plan(&Cover::none(), &damaged, &archive).unwrap();
        assert!(plan.is_none(), "{error}");
    }
}
