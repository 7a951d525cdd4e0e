//! Frames and logs for the tests.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use model::frame::{Frame, FrameBuilder, FramePlace};
use model::{Epoch, Offset, ShardId, Time};
use mq::{
    DirectoryKey, Disk, EncryptedDisk, FaultyDisk, LocalConfig, LocalLog, LocalReader, Log, LogEnd,
    LogError, Prepare, Recovered,
};

/// Vigna's SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// The seeds of a test: so many, `CREST_SEEDS` times as many, or the one in `CREST_SEED`.
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("CREST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count * number("CREST_SEEDS").unwrap_or(1),
    }
}

/// Whether a single seed is looked into; how often things happen means nothing then.
pub fn is_one_seed() -> bool {
    std::env::var_os("CREST_SEED").is_some()
}

/// Small segments, so that a few appends fill one.
pub fn small() -> LocalConfig {
    LocalConfig {
        segment_bytes: 64 << 10,
        salt: 42,
        frame_bytes_max: 16 << 10,
        prepare: Prepare::Inline,
        ..LocalConfig::default()
    }
}

/// How a log's files lie on a disk.
#[derive(Clone, Default)]
pub struct Cover(Option<DirectoryKey>);

impl Cover {
    /// As they are.
    pub fn none() -> Cover {
        Cover(None)
    }

    pub fn encrypted() -> Cover {
        Cover(Some(DirectoryKey::draw().unwrap()))
    }

    /// Either, in turn.
    pub fn of(seed: u64) -> Cover {
        if seed.is_multiple_of(2) { Cover::none() } else { Cover::encrypted() }
    }

    pub fn is_encrypted(&self) -> bool {
        self.0.is_some()
    }

    /// What lies before a file's content.
    pub fn header_bytes(&self) -> usize {
        if self.is_encrypted() { 4096 } else { 0 }
    }

    pub fn over(&self, disk: impl Disk + 'static) -> Arc<dyn Disk> {
        match &self.0 {
            Some(key) => Arc::new(EncryptedDisk::new(Arc::new(disk), key.clone())),
            None => Arc::new(disk),
        }
    }

    pub fn open(&self, disk: &FaultyDisk) -> Result<(LocalLog, Recovered), LogError> {
        LocalLog::open(self.over(disk.clone()), small())
    }

    /// All frames of a disk in the order of the log, and what ended it.
    pub fn read_all(&self, disk: &FaultyDisk) -> (Vec<Vec<u8>>, Result<mq::Ending, LogError>) {
        let mut frames = Vec::new();
        let mut run = || {
            let mut reader = LocalReader::open(self.over(disk.clone()))?;
            while let Some((_, frame)) = reader.next_frame()? {
                frames.push(frame.bytes.to_vec());
            }
            Ok(reader.ending())
        };
        let ending = run();
        (frames, ending)
    }
}

pub fn open(disk: &FaultyDisk) -> Result<(LocalLog, Recovered), LogError> {
    Cover::none().open(disk)
}

/// A frame of `count` records and `bytes` bytes of content behind `end`, at `epoch`.
pub fn frame_at(shard: ShardId, end: LogEnd, epoch: u64, count: u32, bytes: usize) -> Vec<u8> {
    let mut builder = FrameBuilder::default();
    let fill = (end.next.0 as u8).wrapping_mul(31).wrapping_add(shard.0 as u8);
    for n in 0..count {
        // Records are of no concern to the log; the first has all of the content.
        builder.push(&vec![fill; if n == 0 { bytes } else { 8 }]);
    }
    let place = FramePlace {
        shard,
        epoch: Epoch(epoch),
        first_offset: end.next,
        time: Time(end.time.0 + 1),
        previous: end.previous,
    };
    builder.finish(place, 1).0
}

/// Makes frames, each following its shard's last.
#[derive(Default, Clone)]
pub struct Writer {
    pub ends: BTreeMap<u16, LogEnd>,
}

impl Writer {
    pub fn frame(&mut self, shard: u16, count: u32, bytes: usize) -> Vec<u8> {
        let end = self.ends.entry(shard).or_default();
        let frame = frame_at(ShardId(shard), *end, end.epoch.0, count, bytes);
        let (read, _) = Frame::split(&frame).unwrap();
        *end = LogEnd {
            next: read.next_offset(),
            epoch: read.place().epoch,
            previous: read.header.hash.get(),
            time: read.place().time,
        };
        frame
    }

    /// A few frames of a few shards.
    pub fn batch(&mut self, random: &mut Random) -> Vec<Vec<u8>> {
        let frames = 1 + random.below(4);
        (0..frames)
            .map(|_| {
                let bytes = match random.below(4) {
                    0 => random.below(16_000) as usize,
                    _ => random.below(600) as usize,
                };
                self.frame(random.below(3) as u16, random.below(4) as u32, bytes.min(16_000))
            })
            .collect()
    }
}

pub fn append(log: &mut dyn Log, frames: &[Vec<u8>]) -> Result<(), LogError> {
    let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    log.append(&frames)
}

/// A shard's frames from `from` on.
pub fn read(log: &dyn Log, shard: u16, from: u64) -> Result<Vec<Vec<u8>>, LogError> {
    let mut frames = Vec::new();
    let mut source = log.read(ShardId(shard), Offset(from))?;
    while let Some(frame) = source.next()? {
        frames.push(frame.bytes.to_vec());
    }
    Ok(frames)
}

/// All frames of a disk in the order of the log, and what ended it.
pub fn read_all(disk: &FaultyDisk) -> (Vec<Vec<u8>>, Result<mq::Ending, LogError>) {
    Cover::none().read_all(disk)
}

/// All frames of a log.
pub fn read_all_of(mut reader: LocalReader) -> Result<Vec<Vec<u8>>, LogError> {
    let mut frames = Vec::new();
    while let Some((_, frame)) = reader.next_frame()? {
        frames.push(frame.bytes.to_vec());
    }
    Ok(frames)
}

/// Makes frames of one record each.
#[derive(Default)]
pub struct Records {
    writer: Writer,
}

impl Records {
    /// A frame of this record, and the record's offset.
    pub fn frame(&mut self, shard: u16, record: &[u8]) -> (Vec<u8>, Offset) {
        let end = self.writer.ends.entry(shard).or_default();
        let offset = end.next;
        let mut builder = FrameBuilder::default();
        builder.push(record);
        let place = FramePlace {
            shard: ShardId(shard),
            epoch: end.epoch,
            first_offset: offset,
            time: Time(end.time.0 + 1),
            previous: end.previous,
        };
        let (frame, previous) = builder.finish(place, 1);
        let next = Offset(offset.0 + 1);
        *end = LogEnd { next, epoch: place.epoch, previous, time: place.time };
        (frame, offset)
    }

    pub fn ends(&self) -> Vec<(ShardId, Offset)> {
        self.writer.ends.iter().map(|(shard, end)| (ShardId(*shard), end.next)).collect()
    }
}
