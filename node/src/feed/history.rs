//! Reads the log's segments beside the log, from the archive where they were trimmed.

use std::collections::VecDeque;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use model::frame::Frame;
use model::{Offset, ShardId, Time};
use mq::{Archive, ArchiveDisk, Disk, LogError, LogSegment, SegmentReader};

use super::chunk::{Chunks, FeedChunk};
use super::start::Skip;
use super::{EventFilter, FeedError};
use crate::commit::Job;

/// A chunk is full with so many bytes of frames that were read.
const CHUNK_BYTES: u64 = 256 << 10;
/// How often a segment is looked for again that may have been trimmed, or that a server which was
/// asleep doesn't know of yet; and how long is waited.
pub(super) const TRIES: u32 = 20;
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// Where the log's segments are.
pub(crate) struct Source {
    pub log: Weak<Sender<Job>>,
    /// The log's directory, to read from.
    pub disk: Arc<dyn Disk>,
    pub archive: Option<Arc<Archive>>,
    pub shards: u16,
    pub chunks: Chunks,
}

/// Where a shard's log goes on, and a position from which on all of it stands.
pub(crate) type Sought = (Offset, Result<Option<u64>, LogError>);

/// What the log thread says of its log.
pub(crate) struct Seen {
    /// The oldest first, as far as they are durable.
    pub segments: Vec<LogSegment>,
    /// Where the last write ends.
    pub end: u64,
    pub sought: Option<Sought>,
}

impl Source {
    /// The log's segments as far as they are durable, and where a record is.
    pub(super) fn look(&self, record: Option<(ShardId, Offset)>) -> Result<Seen, FeedError> {
        let (answer, answered) = channel();
        let log = self.log.upgrade().ok_or(FeedError::Stopped)?;
        log.send(Job::Segments(record, answer)).map_err(|_| FeedError::Stopped)?;
        drop(log);
        answered.recv().map_err(|_| FeedError::Stopped)
    }

    /// Numbers of the archived segments that the log has no longer, the oldest first.
    pub(super) fn archived_before(&self, live: &[LogSegment]) -> Result<Vec<u32>, FeedError> {
        let Some(archive) = &self.archive else { return Ok(Vec::new()) };
        let mut indexes = archive.segments()?;
        let first = live.first().map_or(u32::MAX, LogSegment::index);
        indexes.retain(|index| *index < first);
        Ok(indexes)
    }

    /// A segment of the archive.
    pub(super) fn archived(&self, index: u32) -> Result<LogSegment, FeedError> {
        let archive = self.archive.as_ref().ok_or(FeedError::Trimmed)?;
        Ok(archive.segment(index)?.ok_or(FeedError::Trimmed)?.known())
    }

    fn open(&self, segment: &LogSegment, from: u64) -> Result<SegmentReader, FeedError> {
        let live = match SegmentReader::open(&*self.disk, segment, from) {
            Ok(reader) => return Ok(reader),
            Err(error) => error,
        };
        self.open_archived(segment, from)?.ok_or(FeedError::Log(live))
    }

    fn open_archived(
        &self,
        segment: &LogSegment,
        from: u64,
    ) -> Result<Option<SegmentReader>, FeedError> {
        let Some(archive) = &self.archive else { return Ok(None) };
        let Some(archived) = archive.segment(segment.index())? else { return Ok(None) };
        let disk = ArchiveDisk(archive.clone());
        Ok(Some(SegmentReader::open(&disk, &archived.known(), from)?))
    }
}

/// When the first frame of a segment was decided.
pub(super) fn first_time(source: &Source, segment: &LogSegment) -> Result<Option<Time>, FeedError> {
    let mut reader = source.open(segment, segment.start())?;
    while let Some(write) = reader.next_write()? {
        if let Ok((frame, _)) = Frame::split(write.frames) {
            return Ok(Some(frame.place().time));
        }
    }
    Ok(None)
}

/// A segment that is to be read.
enum Part {
    Live(LogSegment),
    Archived(u32),
}

/// The log from a position on, to where it ended when this began.
pub(super) struct History {
    source: Arc<Source>,
    position: u64,
    until: Option<u64>,
    skip: Option<Skip>,
    /// What is still to be read; `None` before anything was looked up.
    segments: Option<VecDeque<Part>>,
    reader: Option<SegmentReader>,
}

impl History {
    pub(super) fn new(
        source: Arc<Source>,
        position: u64,
        until: Option<u64>,
        skip: Option<Skip>,
    ) -> History {
        History { source, position, until, skip, segments: None, reader: None }
    }

    /// Some writes, in the order of the log; `None` at the end.
    pub(super) fn next_chunk(
        &mut self,
        filter: Option<&EventFilter>,
        json: bool,
    ) -> Result<Option<FeedChunk>, FeedError> {
        let source = self.source.clone();
        let mut chunk = source.chunks.begin(self.position, json);
        let begun = self.position;
        let mut tried = 0;
        loop {
            let read = self.read_write(&source, &mut chunk, filter);
            match read {
                Ok(true) if self.position - begun < CHUNK_BYTES => tried = 0,
                Ok(true) => return Ok(Some(chunk)),
                Ok(false) => return Ok((self.position > begun).then_some(chunk)),
                Err(FeedError::Log(_) | FeedError::Archive(_)) if tried < TRIES => {
                    (self.segments, self.reader) = (None, None);
                    tried += 1;
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Adds the next write; false at the end.
    fn read_write(
        &mut self,
        source: &Source,
        chunk: &mut FeedChunk,
        filter: Option<&EventFilter>,
    ) -> Result<bool, FeedError> {
        loop {
            if self.until.is_some_and(|until| self.position >= until) {
                return Ok(false);
            }
            if let Some(reader) = &mut self.reader
                && let Some(write) = reader.next_write()?
            {
                if write.positions.start != self.position && write.before != self.position {
                    // What stood between them is gone.
                    return Err(FeedError::Trimmed);
                }
                self.position = write.positions.end;
                source.chunks.add(chunk, &write, filter, &mut self.skip)?;
                return Ok(true);
            }
            self.reader = None;
            let Some(segment) = self.next_segment()? else { return Ok(false) };
            self.reader = Some(source.open(&segment, self.position)?);
        }
    }

    fn next_segment(&mut self) -> Result<Option<LogSegment>, FeedError> {
        let segments = match &mut self.segments {
            Some(segments) => segments,
            unknown => {
                let live = self.source.look(None)?.segments;
                let mut segments = VecDeque::new();
                if let Some(first) = live.first()
                    && self.position < first.start()
                {
                    let mut indexes = self.source.archived_before(&live)?;
                    indexes.retain(|index| *index >= first.index_at(self.position));
                    segments.extend(indexes.into_iter().map(Part::Archived));
                }
                segments.extend(live.into_iter().map(Part::Live));
                unknown.insert(segments)
            }
        };
        while let Some(part) = segments.pop_front() {
            let segment = match part {
                Part::Live(segment) => segment,
                Part::Archived(index) => self.source.archived(index)?,
            };
            if segment.end() > self.position {
                return Ok(Some(segment));
            }
        }
        Ok(None)
    }
}
