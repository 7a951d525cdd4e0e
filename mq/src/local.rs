//! The default engine: all shards of a node in one segmented write-ahead log.
//!
//! One append is one write and one `fdatasync`, for however many shards. Files have their
//! length, as written zeros, before they are used; writes are whole blocks past the page cache.
//!
//! The hard part is to tell, after a crash, a write that nobody was told of from one that was
//! acknowledged and got lost. So each write names the end of the write before it, which was
//! synced by then. What a later write names must be there: if not, that is damage, and nothing
//! is served. Only the very last write has no later one. If it can't be read it is cut, for a
//! crash in the middle of it looks the same; [`LocalLog::mark`] and [`LocalLog::close`] put an
//! empty write behind it.
//!
//! A last write that can be read is not yet safe: the read may have come from a cache that the
//! disk never saw. Opening writes it again, as the first write of a new segment, and syncs it
//! before anything is served. The new write names the same end as the old one did, which makes
//! the old one a part of the log no more.

mod index;
pub(crate) mod layout;
mod prepare;
mod reader;
mod recover;
pub(crate) mod scan;
mod segment_reader;
mod survey;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;

use model::frame::{FRAME_BYTES_MAX, Frame, FrameHeader};
use model::{Offset, ShardId};
use zerocopy::FromBytes;

use crate::aligned::{AlignedBuf, BLOCK_BYTES};
use crate::disk::{Disk, DiskFile};
use crate::encrypted::Undecipherable;
use crate::ends::{self, Ends, Limits};
use crate::local::index::Segment;
use crate::local::layout::{
    BLOCK, Kind, MarkEntry, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SegmentHeader, SegmentId,
    WRITE_BYTES_MAX, WRITE_HEADER_BYTES, segment_name, spare_name, write_bytes,
};
use crate::local::prepare::Preparer;
use crate::local::scan::{GLANCE_BYTES, PIECE_BYTES, Scan, Step};
use crate::{Broken, Damage, FrameSource, Log, LogEnd, LogError, LogSegment, LogStats};

pub use prepare::Prepare;
pub use reader::{Ending, LocalReader};
pub use recover::{Opening, Recovered};
pub use segment_reader::{LogWrite, SegmentReader};

/// How a local log is kept.
#[derive(Clone, Copy, Debug)]
pub struct LocalConfig {
    /// Bytes of a segment, a multiple of 4096, at most 1 GiB. Default 64 MiB. It can't change
    /// once the log is made. Larger ones are changed less often; smaller ones are trimmed
    /// sooner and take less space ahead of time: two segments are always there.
    pub segment_bytes: u64,
    /// Makes this log's checksums differ from those of every other log. Any number that differs
    /// from log to log, best a random one. Default 0.
    pub salt: u64,
    /// The most bytes of a frame that is taken. Default [`FRAME_BYTES_MAX`]. A segment must have
    /// room for two, so a log of small segments needs a lower one.
    pub frame_bytes_max: usize,
    /// The most bytes of a write, blocks of 4 KiB. Default 8 MiB. A disk may take less.
    pub write_bytes_max: u64,
    /// Who makes the next segment. Default a thread.
    pub prepare: Prepare,
}

impl Default for LocalConfig {
    fn default() -> LocalConfig {
        LocalConfig {
            segment_bytes: 64 << 20,
            salt: 0,
            frame_bytes_max: FRAME_BYTES_MAX,
            write_bytes_max: WRITE_BYTES_MAX,
            prepare: Prepare::default(),
        }
    }
}

impl LocalConfig {
    /// Checks every field against its range, and against the others.
    pub fn check(&self) -> Result<(), LogError> {
        let check = |field, value: u64, multiple, min, max| {
            if value.is_multiple_of(multiple) && (min..=max).contains(&value) {
                return Ok(());
            }
            Err(LogError::Config { field, value, multiple, min, max })
        };
        let frame_min = size_of::<FrameHeader>() as u64;
        check(
            "frame_bytes_max",
            self.frame_bytes_max as u64,
            1,
            frame_min,
            FRAME_BYTES_MAX as u64,
        )?;
        let (min, max) = (write_bytes(self.frame_bytes_max), WRITE_BYTES_MAX);
        check("write_bytes_max", self.write_bytes_max, BLOCK, min, max)?;
        let min = SEGMENT_BYTES_MIN.max(BLOCK + 2 * write_bytes(self.frame_bytes_max));
        check("segment_bytes", self.segment_bytes, BLOCK, min, SEGMENT_BYTES_MAX)
    }

    /// The most bytes of a write. An eighth of a segment, so that little is left unused where
    /// a write doesn't fit, but always room for a frame.
    fn write_bytes_max(&self) -> u64 {
        let share = self.segment_bytes / 8 / BLOCK * BLOCK;
        share.max(write_bytes(self.frame_bytes_max)).min(self.write_bytes_max)
    }

    /// As far as a disk takes it.
    fn on(self, disk: &dyn Disk) -> LocalConfig {
        let write_bytes_max = self.write_bytes_max.min(disk.write_bytes_max() / BLOCK * BLOCK);
        let room = (write_bytes_max as usize).saturating_sub(WRITE_HEADER_BYTES);
        let frame_bytes_max = self.frame_bytes_max.min(room);
        // A segment is made by a write like any other there.
        let prepare = if disk.is_append_only() { Prepare::Inline } else { self.prepare };
        LocalConfig { write_bytes_max, frame_bytes_max, prepare, ..self }
    }

    fn limits(&self) -> Limits {
        // A mark lists every shard, in one write.
        let room = self.write_bytes_max() as usize - WRITE_HEADER_BYTES;
        Limits { frame_bytes: self.frame_bytes_max, shards: room / size_of::<MarkEntry>() }
    }
}

const _: () = assert!(FRAME_BYTES_MAX as u64 + BLOCK <= WRITE_BYTES_MAX);
// Every shard there can be has room in a mark of the default configuration.
const _: () = assert!((1 << 16) * size_of::<MarkEntry>() < WRITE_BYTES_MAX as usize);

/// A segmented write-ahead log on a disk.
pub struct LocalLog {
    disk: Arc<dyn Disk>,
    config: LocalConfig,
    /// Oldest first; the last one is written to. Never empty.
    segments: VecDeque<Segment>,
    file: Box<dyn DiskFile>,
    /// Where the last write ends; 0 before the first.
    synced: u64,
    /// The oldest segment that is needed, as the next write says.
    oldest: u32,
    next_counter: u64,
    preparer: Preparer,
    /// At most [`SPARES_MAX`] files to make segments of.
    spares: Vec<String>,
    /// The write that is being put together: room for its header, its payload, zeros.
    buffer: AlignedBuf,
    payload_length: usize,
    ends: Ends,
    stats: LogStats,
    poisoned: bool,
}

/// Files that are kept to be segments again. One is written and one made ahead; more would only
/// take space.
const SPARES_MAX: usize = 2;

impl LocalLog {
    /// Opens the log in a directory, or makes one.
    ///
    /// Everything in it is read and checked. Damage is an error, and nothing is changed then.
    /// The rest of a write that was never acknowledged is cut. When this returns, all that the
    /// log shows is durable.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: LocalConfig,
    ) -> Result<(LocalLog, Recovered), LogError> {
        LocalLog::begin(disk, config)?.finish()
    }

    /// The same in two steps, for who wants to see the frames while they are read.
    pub fn begin(disk: Arc<dyn Disk>, config: LocalConfig) -> Result<Opening, LogError> {
        Opening::begin(disk, config)
    }

    /// Puts an empty write behind the last one, so that losing the last one is damage, too.
    pub fn mark(&mut self) -> Result<(), LogError> {
        self.guard(|log| log.write_mark())
    }

    /// Marks the end and closes the log. A log that is only dropped is as after a crash.
    pub fn close(mut self) -> Result<(), LogError> {
        self.mark()
    }

    /// Runs what writes. If the store fails, this was the last time.
    fn guard(
        &mut self,
        run: impl FnOnce(&mut LocalLog) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        let result = run(self);
        self.poisoned = matches!(result, Err(LogError::Io { .. } | LogError::Stream(_)));
        result
    }

    /// Number of the segment, and a position in it, from which on all frames stand that a reader
    /// from `from` wants; `None` if there are none yet.
    fn start_of(&self, shard: ShardId, from: Offset) -> Result<Option<(usize, u64)>, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        let first = self.segments.iter().find_map(|segment| segment.first(shard));
        let first = first.unwrap_or(self.end(shard).next);
        if from < first {
            return Err(LogError::Trimmed { shard, first });
        }
        let mut segments = self.segments.iter().enumerate();
        Ok(segments.find_map(|(at, segment)| Some((at, segment.seek(shard, from)?))))
    }

    /// How many of the oldest segments hold nothing but frames before these offsets.
    fn trimmable_count(&self, before: &[(ShardId, Offset)]) -> usize {
        let mut offsets = BTreeMap::new();
        for &(shard, offset) in before {
            // A shard that is named twice is trimmed to the lesser offset: never more than asked.
            let least = offsets.entry(shard).or_insert(offset);
            *least = offset.min(*least);
        }
        let sealed = self.segments.iter().take(self.segments.len() - 1);
        sealed.take_while(|segment| segment.is_before(&offsets)).count()
    }

    fn trim_segments(&mut self, count: usize) -> Result<(), LogError> {
        if count == 0 {
            return Ok(());
        }
        // First it must be durable that they are not needed, and where their shards end.
        self.oldest = self.segments[count].id.index;
        self.write_mark()?;
        let trimmed: Vec<u32> = self.segments.drain(..count).map(|s| s.id.index).collect();
        self.retire(&trimmed)
    }

    /// Keeps the files of segments as spares, or removes them.
    fn retire(&mut self, segments: &[u32]) -> Result<(), LogError> {
        for &index in segments {
            let name = segment_name(index);
            if self.disk.is_append_only() {
                // What can't be removed now is removed when the log is opened.
                drop(self.disk.remove(&name));
                continue;
            }
            let length = length_of(&*self.disk, &name)?;
            // One that was cut to its content would have to grow again while it is written.
            if self.spares.len() < SPARES_MAX && length == Some(self.config.segment_bytes) {
                let spare = spare_name(index);
                self.disk.rename(&name, &spare).map_err(LogError::io("retiring a segment"))?;
                self.spares.push(spare);
            } else {
                self.disk.remove(&name).map_err(LogError::io("removing a segment"))?;
            }
        }
        self.disk.sync_dir().map_err(LogError::io("syncing the log's directory"))
    }
}

impl Log for LocalLog {
    fn append(&mut self, frames: &[&[u8]]) -> Result<(), LogError> {
        self.guard(|log| {
            log.ends.stage(frames, log.config.limits())?;
            log.write_frames(frames)?;
            log.ends.commit();
            Ok(())
        })
    }

    fn read(&self, shard: ShardId, from: Offset) -> Result<Box<dyn FrameSource + '_>, LogError> {
        let from = from.max(Offset(1));
        let start = self.start_of(shard, from)?;
        let (segment, position) = start.unwrap_or((self.segments.len(), 0));
        let (shard, payload) = (Some(shard), 0..0);
        Ok(Box::new(LocalFrames { log: self, shard, from, segment, position, scan: None, payload }))
    }

    fn read_all(&self) -> Result<Box<dyn FrameSource + '_>, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        Ok(Box::new(LocalFrames {
            log: self,
            shard: None,
            from: Offset(0),
            segment: 0,
            position: 0,
            scan: None,
            payload: 0..0,
        }))
    }

    fn trim(&mut self, before: &[(ShardId, Offset)]) -> Result<(), LogError> {
        let count = self.trimmable_count(before);
        self.guard(|log| log.trim_segments(count))
    }

    fn trimmable(&self, before: &[(ShardId, Offset)]) -> Vec<LogSegment> {
        let segments = self.segments.iter().take(self.trimmable_count(before));
        segments.map(Segment::known).collect()
    }

    fn segments(&self) -> Vec<LogSegment> {
        self.segments.iter().map(Segment::known).collect()
    }

    fn seek(&self, shard: ShardId, from: Offset) -> Result<Option<u64>, LogError> {
        let next = self.end(shard).next;
        if from >= next {
            return Ok((from == next).then_some(self.synced));
        }
        Ok(self.start_of(shard, from.max(Offset(1)))?.map(|(_, position)| position))
    }

    fn position(&self) -> u64 {
        self.synced
    }

    fn trim_through(&mut self, segment: &LogSegment) -> Result<(), LogError> {
        let at = self.segments.iter().position(|other| other.id == segment.id);
        let count = at.map_or(0, |at| (at + 1).min(self.segments.len() - 1));
        self.guard(|log| log.trim_segments(count))
    }

    fn end(&self, shard: ShardId) -> LogEnd {
        self.ends.end(shard)
    }

    fn stats(&self) -> LogStats {
        self.stats
    }
}

/// The frames of a shard, or of all, read write by write.
struct LocalFrames<'a> {
    log: &'a LocalLog,
    shard: Option<ShardId>,
    from: Offset,
    /// The segment that is read next, or now.
    segment: usize,
    /// Where in it reading begins; 0: at its first write.
    position: u64,
    scan: Option<Scan>,
    /// What is left of the write that is read now, in the scan's bytes.
    payload: Range<usize>,
}

impl FrameSource for LocalFrames<'_> {
    fn next(&mut self) -> Result<Option<Frame<'_>>, LogError> {
        let Some(wanted) = self.next_wanted()? else { return Ok(None) };
        let scan = self.scan.as_ref().expect("a frame was found in a scan");
        let (frame, _) = Frame::split(&scan.bytes()[wanted]).map_err(|error| LogError::Damage {
            position: scan.position(),
            what: Damage::Frame(error),
        })?;
        Ok(Some(frame))
    }
}

impl LocalFrames<'_> {
    /// Where in the scan's bytes the next frame is that was asked for. The write's checksum
    /// holds, so frames of other shards are passed over by their lengths.
    fn next_wanted(&mut self) -> Result<Option<Range<usize>>, LogError> {
        loop {
            while let Some(scan) = &self.scan
                && !self.payload.is_empty()
            {
                let bytes = &scan.bytes()[self.payload.clone()];
                let length = FrameHeader::ref_from_prefix(bytes)
                    .ok()
                    .map(|(header, _)| (header, size_of_val(header) + header.length.get() as usize))
                    .filter(|(_, length)| *length <= bytes.len());
                let Some((header, length)) = length else {
                    let what = Damage::Frame(model::frame::FrameError::NoFrame);
                    return Err(LogError::Damage { position: scan.position(), what });
                };
                let frame = self.payload.start..self.payload.start + length;
                self.payload.start = frame.end;
                let is_ours = self.shard.is_none_or(|shard| header.shard.get() == shard.0);
                if is_ours && ends::is_wanted(header, self.from) {
                    return Ok(Some(frame));
                }
            }
            if !self.next_write()? {
                return Ok(None);
            }
        }
    }

    fn next_write(&mut self) -> Result<bool, LogError> {
        let Some(segment) = self.log.segments.get(self.segment) else { return Ok(false) };
        if self.scan.is_none() {
            let file = open_segment(&*self.log.disk, segment.id)?;
            // Who reads one shard often wants one record: a large piece would have to be touched.
            let piece = if self.shard.is_some() { GLANCE_BYTES } else { PIECE_BYTES };
            let mut scan = Scan::new(file, segment.id, piece, AlignedBuf::default())?;
            scan.limit(self.position.max(segment.id.first()), segment.end);
            self.scan = Some(scan);
        }
        let Some(scan) = &mut self.scan else { return Ok(false) };
        let position = scan.position();
        if position == segment.end {
            self.scan = None;
            self.segment += 1;
            self.position = 0;
            return Ok(self.segment < self.log.segments.len());
        }
        match scan.step()? {
            Step::Write(header, payload) if header.kind() == Kind::Frames => self.payload = payload,
            Step::Write(..) => {}
            Step::End(found) => return Err(damage(position, found, self.log.synced)),
        }
        Ok(true)
    }
}

/// Opens a segment that has to be there.
pub(crate) fn open_segment(disk: &dyn Disk, id: SegmentId) -> Result<Box<dyn DiskFile>, LogError> {
    disk.open(&segment_name(id.index)).map_err(|error| match Undecipherable::of(&error) {
        Some(_) => {
            let what = Damage::SegmentHeader { index: id.index };
            LogError::Damage { position: id.base(), what }
        }
        None => LogError::io("opening a segment")(error),
    })
}

/// The header of a segment's file, if that is there and its header is what was written.
pub(crate) fn segment_header(
    disk: &dyn Disk,
    name: &str,
) -> Result<Option<SegmentHeader>, LogError> {
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if Undecipherable::of(&error).is_some() => return Ok(None),
        Err(error) => return Err(LogError::io("opening a segment")(error)),
    };
    let mut block = AlignedBuf::new(BLOCK_BYTES);
    let read = file.read_at(block.bytes_mut(), 0).map_err(LogError::io("reading a segment"))?;
    Ok(SegmentHeader::parse(&block.bytes()[..read]))
}

/// The length of a file, unless it can't be decrypted.
fn length_of(disk: &dyn Disk, name: &str) -> Result<Option<u64>, LogError> {
    match disk.open(name) {
        Ok(file) => file.len().map(Some).map_err(LogError::io("asking a segment's length")),
        Err(error) if Undecipherable::of(&error).is_some() => Ok(None),
        Err(error) => Err(LogError::io("opening an old segment")(error)),
    }
}

pub(crate) fn damage(position: u64, found: Broken, named_at: u64) -> LogError {
    LogError::Damage { position, what: Damage::SyncedWrite { named_at, found } }
}
