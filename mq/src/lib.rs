//! The log: append frames durably, read them back, trim.
//!
//! A [`Log`] keeps the frames of several shards. It knows of a frame only what its header says,
//! and accepts exactly the one that follows its shard's last: the offset goes on without a gap,
//! the hash of the frame before is the one that was written, and the owner's epoch doesn't go
//! back. So two owners can't interleave, and a reader gets a chain or an error.
//!
//! Two engines keep the same contract: [`MemoryLog`] for tests and simulations, and
//! [`LocalLog`], a segmented write-ahead log on a [`Disk`]: a directory ([`DirDisk`]), or a stream
//! of messages that other machines keep ([`StreamDisk`]). [`LocalReader`] walks such a log without
//! changing it; [`FaultyDisk`] and [`FaultyStream`] are in memory and fail as told, and
//! [`EncryptedDisk`] hides what is on any of them.

mod aligned;
mod archive;
mod disk;
mod encrypted;
mod ends;
mod fault;
mod index;
mod keys;
mod local;
mod memory;
mod nats;
mod repair;
mod snapshot;
mod stream;
mod xts;

use std::io;
use std::time::Duration;

use model::frame::{Frame, FrameError};
use model::{Epoch, Offset, ShardId, Time};

pub use aligned::{AlignedBuf, BLOCK_BYTES};
pub use archive::{Archive, ArchiveDisk, ArchiveError, ArchivedSegment, UnionDisk};
pub use disk::{DirDisk, Disk, DiskFile};
pub use encrypted::EncryptedDisk;
pub use fault::FaultyDisk;
pub use index::{IndexError, IndexFigures, LogIndex, Merge, Merged};
pub use keys::{DataKey, DataKeyLength, DirectoryKey};
pub use local::{
    Ending, LocalConfig, LocalLog, LocalReader, LogWrite, Opening, Prepare, Recovered,
    SegmentReader,
};
pub use memory::MemoryLog;
pub use nats::{NatsConfig, NatsError, NatsStream};
pub use repair::Repair;
pub use snapshot::{
    PIECE_BYTES_MAX, SNAPSHOTS_KEPT, SnapshotError, SnapshotId, SnapshotPlace, SnapshotReader,
    SnapshotWriter, Snapshots,
};
pub use stream::{
    FaultyStream, Message, PublishError, Stored, Stream, StreamDisk, StreamEnd, StreamFault,
};

/// Frames of several shards, appended durably.
pub trait Log: Send {
    /// Appends whole frames, each the bytes of a [`Frame`], in order. They are durable when this
    /// returns `Ok`.
    ///
    /// Each must follow its shard's last one: its first offset is the next one, it names the
    /// hash of the frame before, and its epoch is not below the newest. If one doesn't, or is
    /// no frame, nothing is written. The hash of a frame is taken as its header states it: who
    /// calls has just computed it.
    ///
    /// After [`LogError::Io`] nobody knows what the store holds. Some of the frames may be
    /// there; every later call fails with [`LogError::Poisoned`], and opening the log again
    /// finds out.
    fn append(&mut self, frames: &[&[u8]]) -> Result<(), LogError>;

    /// Reads a shard's frames from the one that holds `from` on, to the end that is durable now.
    ///
    /// A frame without records stands before the offset it names, so those that name `from` are
    /// read too. Past the end there is nothing; before the oldest frame that is kept it is
    /// [`LogError::Trimmed`].
    fn read(&self, shard: ShardId, from: Offset) -> Result<Box<dyn FrameSource + '_>, LogError>;

    /// Reads all frames of all shards that are kept, each shard's in their order.
    fn read_all(&self) -> Result<Box<dyn FrameSource + '_>, LogError>;

    /// Forgets frames all of whose records are before these offsets. Never more than asked, and
    /// often less: an engine forgets what it can as a whole.
    fn trim(&mut self, before: &[(ShardId, Offset)]) -> Result<(), LogError>;

    /// Segments that [`Log::trim`] would forget, the oldest first: what is to be archived before.
    /// None where the engine has no segments.
    fn trimmable(&self, _before: &[(ShardId, Offset)]) -> Vec<LogSegment> {
        Vec::new()
    }

    /// Forgets the oldest segments, up to this one, which was trimmable.
    fn trim_through(&mut self, _segment: &LogSegment) -> Result<(), LogError> {
        Ok(())
    }

    /// The segments that are kept, the oldest first, each as far as it is durable: what a
    /// [`SegmentReader`] reads beside the log. None where the engine has no segments.
    fn segments(&self) -> Vec<LogSegment> {
        Vec::new()
    }

    /// A position in the log from which on all records of a shard from `from` on stand, if the
    /// shard's log goes as far; before the oldest that is kept it is [`LogError::Trimmed`].
    fn seek(&self, _shard: ShardId, _from: Offset) -> Result<Option<u64>, LogError> {
        Ok(None)
    }

    /// Where the last write ends. Zero for an engine that has no positions.
    fn position(&self) -> u64 {
        0
    }

    /// What the next frame of a shard must follow.
    fn end(&self, shard: ShardId) -> LogEnd;

    /// What was written since the log was opened.
    fn stats(&self) -> LogStats;
}

/// A segment of a log, and how far it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogSegment {
    pub(crate) id: local::layout::SegmentId,
    /// The position at which its writes end.
    pub(crate) end: u64,
}

impl LogSegment {
    /// The position of its first write.
    pub fn start(&self) -> u64 {
        self.id.first()
    }

    /// Its number in the log.
    pub fn index(&self) -> u32 {
        self.id.index
    }

    /// The number of the segment of its log that holds a position.
    pub fn index_at(&self, position: u64) -> u32 {
        (position / self.id.segment_bytes) as u32
    }

    /// Its file.
    pub fn name(&self) -> String {
        local::layout::segment_name(self.id.index)
    }

    /// The position at which its writes end.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Reads all of it: every write must be there, as it was written, and hold whole frames.
    pub fn check(&self, disk: &dyn Disk) -> Result<(), LogError> {
        archive::describe(disk, self, Vec::new()).map(drop)
    }
}

/// Frames in the order of their log, lent one at a time.
pub trait FrameSource {
    /// The next frame, checked, or `None` at the end.
    fn next(&mut self) -> Result<Option<Frame<'_>>, LogError>;

    /// Whether all that was lent so far is durable. The last write of a log that isn't open is
    /// not: it may be in a cache alone, until it is written again.
    fn is_settled(&self) -> bool {
        true
    }
}

/// Where a shard's log ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEnd {
    /// The offset of the next record.
    pub next: Offset,
    /// The newest owner that wrote.
    pub epoch: Epoch,
    /// The hash of the last frame, which the next one must name.
    pub previous: u64,
    /// The time of the last frame.
    pub time: Time,
}

impl Default for LogEnd {
    fn default() -> LogEnd {
        LogEnd { next: Offset(1), epoch: Epoch(0), previous: 0, time: Time(0) }
    }
}

/// What a log wrote since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogStats {
    /// Bytes, with the engine's own envelope and padding.
    pub bytes: u64,
    /// Frames.
    pub frames: u64,
    /// Times it waited for the store to make what was written durable.
    pub syncs: u64,
    /// How long it waited for that. Zero for an engine that has nothing to wait for.
    pub syncing: Duration,
}

/// Why a log refused or failed. Calling again with the same arguments never helps.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// What was to be appended is no frame. Nothing was written.
    #[error("no. {index} of the frames to append is none: {source}")]
    NotAFrame {
        /// Which one, from 0.
        index: usize,
        /// Why.
        source: FrameError,
    },
    /// A frame passes what this log takes. Nothing was written.
    #[error("a frame of {bytes} bytes; this log takes {limit}")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// A frame doesn't follow its shard's last one. Nothing was written.
    #[error(
        "shard {shard} goes on at offset {} after hash {:016x}; \
         this frame begins at {found} after {found_previous:016x}",
        expected.next, expected.previous
    )]
    NotNext {
        /// The shard.
        shard: ShardId,
        /// Where it ends.
        expected: LogEnd,
        /// The frame's first offset.
        found: Offset,
        /// The hash that the frame takes for the one before.
        found_previous: u64,
    },
    /// A newer owner wrote. Nothing was written, and this owner is over.
    #[error("shard {shard} is owned by epoch {newest}; this frame is of epoch {found}")]
    Fenced {
        /// The shard.
        shard: ShardId,
        /// The newest owner.
        newest: Epoch,
        /// Who tried.
        found: Epoch,
    },
    /// Another shard than those that are in the log already is one too many. Nothing was written.
    #[error("this log holds the ends of {limit} shards at most")]
    TooManyShards {
        /// The most.
        limit: usize,
    },
    /// What was to be read was trimmed; the archive may have it.
    #[error("shard {shard} is kept from offset {first} on")]
    Trimmed {
        /// The shard.
        shard: ShardId,
        /// The first offset that can be read.
        first: Offset,
    },
    /// Something that was durable can't be read back as it was written. It is never skipped:
    /// what follows it depends on it. A copy of the log, or a person, has to help.
    #[error("the log is damaged at position {position}: {what}")]
    Damage {
        /// Where in the log.
        position: u64,
        /// What is wrong there.
        what: Damage,
    },
    /// A field of the configuration is out of its range. Nothing was opened.
    #[error("{field} is {value}; it must be a multiple of {multiple} in {min}..={max}")]
    Config {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// What divides every valid value.
        multiple: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// The log was made with segments of another size. Nothing was changed.
    #[error("the log has segments of {found} bytes; segment_bytes is {configured}")]
    SegmentBytes {
        /// Of the log.
        found: u64,
        /// Of the configuration.
        configured: u64,
    },
    /// The store failed. What it holds now is unknown.
    #[error("{doing} failed: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the store said.
        source: io::Error,
    },
    /// The stream that the log is on takes nothing more from this process.
    #[error(transparent)]
    Stream(StreamEnd),
    /// An earlier call failed with [`LogError::Io`]. Only opening the log again helps.
    #[error("an earlier write failed; the log must be opened again")]
    Poisoned,
}

/// What is wrong with a log that was durable once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A segment isn't there although a later one, or the log's start, names it.
    #[error("segment {index} is missing")]
    SegmentMissing {
        /// Which.
        index: u32,
    },
    /// A segment's header can't be read and writes stand behind it.
    #[error("the header of segment {index} is not what was written")]
    SegmentHeader {
        /// Which.
        index: u32,
    },
    /// A write can't be read although a later one names it synced.
    #[error("a write here was synced, says the write at {named_at}, and can't be read: {found}")]
    SyncedWrite {
        /// The write that names it.
        named_at: u64,
        /// What is found instead.
        found: Broken,
    },
    /// The content of a write is no frame, though its checksum holds.
    #[error("no whole frame: {0}")]
    Frame(FrameError),
    /// A frame doesn't follow its shard's last one.
    #[error(
        "shard {shard} goes on at offset {} after hash {:016x} in epoch {}; this frame begins at \
         {found} after {found_previous:016x} in {found_epoch}",
        expected.next, expected.previous, expected.epoch
    )]
    Chain {
        /// The shard.
        shard: ShardId,
        /// Where it ended.
        expected: LogEnd,
        /// The frame's first offset.
        found: Offset,
        /// The hash that the frame takes for the one before.
        found_previous: u64,
        /// The frame's owner.
        found_epoch: Epoch,
    },
    /// A mark states another end of a shard than the frames before it.
    #[error("the mark of shard {shard}'s end says {marked:?}; its frames end at {found:?}")]
    Mark {
        /// The shard.
        shard: ShardId,
        /// What the mark says.
        marked: Option<LogEnd>,
        /// What the frames say.
        found: Option<LogEnd>,
    },
}

/// Why there is no valid write at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The file, or the valid part of it, ends.
    #[error("the segment ends")]
    Short,
    /// No header of this segment's generation and this position.
    #[error("no write begins here")]
    Header,
    /// The header holds, the content doesn't.
    #[error("the content is not what was hashed")]
    Payload,
    /// The write names another end before it than there is.
    #[error("it names another write before it than there is")]
    Order,
}

impl LogError {
    /// Whether what is kept isn't what was written, in the log or in its archive: a finding, and
    /// no failure of the store.
    pub fn is_damage(&self) -> bool {
        match self {
            LogError::Damage { .. } => true,
            LogError::Io { source, .. } => {
                let inner = source.get_ref().and_then(|inner| inner.downcast_ref());
                inner.is_some_and(|error| match error {
                    ArchiveError::Damaged { .. } | ArchiveError::Foreign { .. } => true,
                    ArchiveError::Log(error) => error.is_damage(),
                    _ => false,
                })
            }
            _ => false,
        }
    }

    /// Wraps what the store said.
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> LogError {
        move |source| match StreamEnd::of(&source) {
            Some(end) => LogError::Stream(end),
            None => LogError::Io { doing, source },
        }
    }
}
