//! Where each shard's log ends, and which frame may follow.

use std::collections::BTreeMap;

use model::frame::{FRAME_BYTES_MAX, FRAME_MAGIC, FrameError, FrameHeader, LAYOUT_VERSION};
use model::{Epoch, Offset, ShardId, Time};
use zerocopy::FromBytes;

use crate::{LogEnd, LogError};

/// The ends of all shards. Frames are staged first, so that a refusal changes nothing.
#[derive(Default)]
pub(crate) struct Ends {
    known: BTreeMap<ShardId, LogEnd>,
    staged: Vec<(ShardId, LogEnd)>,
}

/// What one log takes.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub frame_bytes: usize,
    pub shards: usize,
}

impl Ends {
    /// The end of a shard; of an empty one, the beginning.
    pub fn end(&self, shard: ShardId) -> LogEnd {
        self.known.get(&shard).copied().unwrap_or_default()
    }

    /// The end of a shard that has one.
    pub fn known(&self, shard: ShardId) -> Option<LogEnd> {
        self.known.get(&shard).copied()
    }

    /// All shards that have an end.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ShardId, LogEnd)> + '_ {
        self.known.iter().map(|(&shard, &end)| (shard, end))
    }

    /// States where a shard ends.
    pub fn set(&mut self, shard: ShardId, end: LogEnd) {
        self.known.insert(shard, end);
    }

    /// Checks that these frames follow, each its shard's last one. `commit` makes it so.
    pub fn stage(&mut self, frames: &[&[u8]], limits: Limits) -> Result<(), LogError> {
        self.staged.clear();
        let mut shards = self.known.len();
        for (index, frame) in frames.iter().enumerate() {
            let header = header(frame).map_err(|source| LogError::NotAFrame { index, source })?;
            if frame.len() > limits.frame_bytes {
                return Err(LogError::TooLarge { bytes: frame.len(), limit: limits.frame_bytes });
            }
            let shard = ShardId(header.shard.get());
            let staged = self.staged.iter().rposition(|(staged, _)| *staged == shard);
            let end = staged.map_or_else(|| self.end(shard), |at| self.staged[at].1);
            let next = follow(end, header)?;
            match staged {
                Some(at) => self.staged[at].1 = next,
                None => {
                    shards += usize::from(!self.known.contains_key(&shard));
                    self.staged.push((shard, next));
                }
            }
        }
        if shards > limits.shards {
            return Err(LogError::TooManyShards { limit: limits.shards });
        }
        Ok(())
    }

    /// Takes over what was staged.
    pub fn commit(&mut self) {
        self.known.extend(self.staged.drain(..));
    }
}

/// The header of what claims to be exactly one frame. The records are not hashed.
pub(crate) fn header(frame: &[u8]) -> Result<&FrameHeader, FrameError> {
    let (header, records) = FrameHeader::ref_from_prefix(frame).map_err(|_| FrameError::NoFrame)?;
    if header.magic != FRAME_MAGIC {
        return Err(FrameError::NoFrame);
    }
    if header.layout.get() != LAYOUT_VERSION {
        return Err(FrameError::Layout { found: header.layout.get() });
    }
    let length = header.length.get() as usize;
    if length != records.len() || frame.len() > FRAME_BYTES_MAX {
        return Err(FrameError::Length { length, room: records.len() });
    }
    Ok(header)
}

/// The end after a frame, if it follows `end`.
pub(crate) fn follow(end: LogEnd, header: &FrameHeader) -> Result<LogEnd, LogError> {
    let shard = ShardId(header.shard.get());
    let epoch = Epoch(header.epoch.get());
    // An owner that is over must hear so, and not that it lost count.
    if epoch < end.epoch {
        return Err(LogError::Fenced { shard, newest: end.epoch, found: epoch });
    }
    let found = Offset(header.first_offset.get());
    let found_previous = header.previous.get();
    if found != end.next || found_previous != end.previous {
        return Err(LogError::NotNext { shard, expected: end, found, found_previous });
    }
    Ok(after(header))
}

/// The end after a frame that is taken as it is.
pub(crate) fn after(header: &FrameHeader) -> LogEnd {
    LogEnd {
        next: next_offset(header),
        epoch: Epoch(header.epoch.get()),
        previous: header.hash.get(),
        time: Time(header.time.get()),
    }
}

/// The offset after a frame's last record. It saturates, for a header may come from a disk.
pub(crate) fn next_offset(header: &FrameHeader) -> Offset {
    Offset(header.first_offset.get().saturating_add(u64::from(header.count.get())))
}

/// Whether a reader that asked for `from` gets this frame.
pub(crate) fn is_wanted(header: &FrameHeader, from: Offset) -> bool {
    header.first_offset.get() >= from.0 || next_offset(header) > from
}
