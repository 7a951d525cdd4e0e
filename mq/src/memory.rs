//! A log in memory, for tests and simulations of what stands on a log.

use std::collections::{BTreeMap, VecDeque};

use model::frame::{FRAME_BYTES_MAX, Frame};
use model::{Offset, ShardId};

use crate::ends::{self, Ends, Limits};
use crate::{Damage, FrameSource, Log, LogEnd, LogError, LogStats};

/// Frames in memory. Durable as long as the process is.
#[derive(Default)]
pub struct MemoryLog {
    shards: BTreeMap<ShardId, VecDeque<Box<[u8]>>>,
    ends: Ends,
    stats: LogStats,
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> MemoryLog {
        MemoryLog::default()
    }
}

impl Log for MemoryLog {
    fn append(&mut self, frames: &[&[u8]]) -> Result<(), LogError> {
        let limits = Limits { frame_bytes: FRAME_BYTES_MAX, shards: usize::from(u16::MAX) + 1 };
        self.ends.stage(frames, limits)?;
        for frame in frames {
            let header = ends::header(frame).expect("a staged frame has a header");
            self.shards.entry(ShardId(header.shard.get())).or_default().push_back((*frame).into());
            self.stats.bytes += frame.len() as u64;
        }
        self.stats.frames += frames.len() as u64;
        self.stats.syncs += u64::from(!frames.is_empty());
        self.ends.commit();
        Ok(())
    }

    fn read(&self, shard: ShardId, from: Offset) -> Result<Box<dyn FrameSource + '_>, LogError> {
        let from = from.max(Offset(1));
        let Some(frames) = self.shards.get(&shard) else {
            return Ok(Box::new(MemoryFrames { frames: Box::new(std::iter::empty()), from }));
        };
        let first = frames.front().map_or(self.end(shard).next, |frame| {
            Offset(ends::header(frame).expect("a kept frame has a header").first_offset.get())
        });
        if from < first {
            return Err(LogError::Trimmed { shard, first });
        }
        Ok(Box::new(MemoryFrames { frames: Box::new(frames.iter()), from }))
    }

    fn read_all(&self) -> Result<Box<dyn FrameSource + '_>, LogError> {
        let frames = Box::new(self.shards.values().flatten());
        Ok(Box::new(MemoryFrames { frames, from: Offset(0) }))
    }

    fn trim(&mut self, before: &[(ShardId, Offset)]) -> Result<(), LogError> {
        for (shard, before) in before {
            let Some(frames) = self.shards.get_mut(shard) else { continue };
            while frames.front().is_some_and(|frame| {
                ends::next_offset(ends::header(frame).expect("a kept frame has a header"))
                    <= *before
            }) {
                frames.pop_front();
            }
        }
        Ok(())
    }

    fn end(&self, shard: ShardId) -> LogEnd {
        self.ends.end(shard)
    }

    fn stats(&self) -> LogStats {
        self.stats
    }
}

struct MemoryFrames<'a> {
    frames: Box<dyn Iterator<Item = &'a Box<[u8]>> + 'a>,
    from: Offset,
}

impl FrameSource for MemoryFrames<'_> {
    fn next(&mut self) -> Result<Option<Frame<'_>>, LogError> {
        for bytes in self.frames.by_ref() {
            let (frame, _) = Frame::split(bytes)
                .map_err(|error| LogError::Damage { position: 0, what: Damage::Frame(error) })?;
            if ends::is_wanted(frame.header, self.from) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }
}
