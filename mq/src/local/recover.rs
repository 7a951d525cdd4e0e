//! Opens a log: reads it, writes its last write again, cleans up.
//!
//! Nothing is changed before all of it was read and found sound. Then, step by step, each
//! durable before the next and each harmless if it is the last that happens:
//!
//! 1. A new segment is made, above all others.
//! 2. The last write is written there and synced, naming the end that it named before.
//! 3. Segments that end well before their file does are cut, so that a process that is started
//!    again and again doesn't fill the disk.
//! 4. Segments that are no part of the log any more become spares, or are removed.
//!
//! On a disk that is only appended to and shows nothing that isn't durable, 2 and 3 are done for.

use std::collections::VecDeque;
use std::sync::Arc;

use model::ShardId;
use model::frame::Frame;

use crate::aligned::AlignedBuf;
use crate::disk::Disk;
use crate::local::index::Segment;
use crate::local::layout::WriteHeader;
use crate::local::prepare::{Order, Preparer, make};
use crate::local::reader::LocalReader;
use crate::local::scan::{PIECE_BYTES, Scan, Step};
use crate::local::survey::{Live, Survey};
use crate::local::write::order;
use crate::local::{LocalConfig, LocalLog, SPARES_MAX, length_of, open_segment};
use crate::{Broken, FrameSource, LogEnd, LogError, LogStats};

/// What opening a log found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Writes that were read.
    pub writes: u64,
    /// Frames in them.
    pub frames: u64,
    /// Where the log ended.
    pub position: u64,
    /// Bytes of a write that was never acknowledged, and was cut. 0 also if nothing of its
    /// header reached the disk.
    pub cut_bytes: u64,
}

/// A log that is being opened: lends its frames, so that who wants them needn't read them again.
///
/// Nothing is changed before [`Opening::finish`].
pub struct Opening {
    disk: Arc<dyn Disk>,
    config: LocalConfig,
    reader: LocalReader,
    /// The segment that is made first.
    first: Order,
    /// What was read so far. Frames of the last write will stand in the newest one.
    segments: VecDeque<Segment>,
    /// The segment that is being read.
    at: usize,
}

impl Opening {
    pub(super) fn begin(disk: Arc<dyn Disk>, config: LocalConfig) -> Result<Opening, LogError> {
        let config = config.on(&*disk);
        config.check()?;
        let reader = LocalReader::open(disk.clone())?;
        let survey = reader.survey();
        if let Some(found) = survey.segment_bytes
            && found != config.segment_bytes
        {
            return Err(LogError::SegmentBytes { found, configured: config.segment_bytes });
        }
        let (index, counter) = (survey.next_index, survey.next_counter);
        let first = order(config.salt, config.segment_bytes, index, counter, None);
        let segment = |live: &Live| {
            let mut segment = Segment::new(live.id);
            segment.end = live.end;
            segment
        };
        let mut segments: VecDeque<Segment> = survey.live.iter().map(segment).collect();
        segments.push_back(Segment::new(first.id));
        Ok(Opening { disk, config, reader, first, segments, at: 0 })
    }

    /// Where a shard ends, as far as was read.
    pub fn end(&self, shard: ShardId) -> LogEnd {
        self.reader.end(shard)
    }

    /// Reads what wasn't read yet, and makes the log one that can be written to.
    pub fn finish(mut self) -> Result<(LocalLog, Recovered), LogError> {
        while self.next()?.is_some() {}
        let Opening { disk, config, reader, first, segments, .. } = self;
        open(disk, config, reader, first, segments)
    }
}

impl FrameSource for Opening {
    fn next(&mut self) -> Result<Option<Frame<'_>>, LogError> {
        // What shows is durable, or it is written again.
        let written_again = self.reader.survey().last.filter(|_| !self.disk.is_append_only());
        let last = written_again.map(|last| last.position());
        let Some(placed) = self.reader.next_placed()? else { return Ok(None) };
        if Some(placed.write_position) == last {
            let segment = self.segments.back_mut().expect("it was pushed at the beginning");
            segment.note(placed.frame.header, self.first.id.first());
        } else {
            while placed.write_position >= self.segments[self.at].end {
                self.at += 1;
            }
            self.segments[self.at].note(placed.frame.header, placed.write_position);
        }
        Ok(Some(placed.frame))
    }

    fn is_settled(&self) -> bool {
        self.reader.is_settled()
    }
}

fn open(
    disk: Arc<dyn Disk>,
    config: LocalConfig,
    reader: LocalReader,
    mut first: Order,
    mut segments: VecDeque<Segment>,
) -> Result<(LocalLog, Recovered), LogError> {
    let recovered = Recovered {
        writes: reader.stats().syncs,
        frames: reader.stats().frames,
        position: reader.survey().end(),
        cut_bytes: reader.survey().tail.map_or(0, |tail| tail.bytes),
    };
    let (survey, ends) = reader.into_parts();
    let next_index = survey.next_index;
    for name in &survey.unfinished {
        disk.remove(name).map_err(LogError::io("removing an unfinished segment"))?;
    }
    let mut spares = sort_spares(&*disk, &survey.spares, config.segment_bytes)?;
    first.spare = spares.pop();
    let made = make(&*disk, first).map_err(LogError::io("making a segment"))?;
    let is_durable = disk.is_append_only();
    let superseded = if is_durable { Vec::new() } else { supersede(&mut segments, &survey) };
    let mut log = LocalLog {
        preparer: Preparer::new(disk.clone(), config.prepare)?,
        disk,
        config,
        segments,
        file: made.file,
        synced: if is_durable { survey.end() } else { 0 },
        oldest: survey.oldest(),
        next_counter: survey.next_counter + 1,
        spares,
        buffer: AlignedBuf::default(),
        payload_length: 0,
        ends,
        stats: LogStats::default(),
        poisoned: false,
    };
    if !is_durable {
        if let (Some(last), Some(live)) = (survey.last, survey.live.last()) {
            log.write_again(last, *live)?;
        }
        log.cut_segments()?;
    }
    log.retire(&[survey.unneeded, superseded].concat())?;
    log.order_segment(next_index + 1);
    Ok((log, recovered))
}

/// Takes the old copy of the last write out of its segment: the segments that are empty then.
fn supersede(segments: &mut VecDeque<Segment>, survey: &Survey) -> Vec<u32> {
    let Some(last) = survey.last else { return Vec::new() };
    let at = segments.len() - 2;
    segments[at].end = last.position();
    if last.position() > segments[at].id.first() {
        return Vec::new();
    }
    segments.remove(at).map(|segment| segment.id.index).into_iter().collect()
}

/// Keeps spares of the right size, and not too many.
fn sort_spares(
    disk: &dyn Disk,
    names: &[String],
    segment_bytes: u64,
) -> Result<Vec<String>, LogError> {
    let mut spares = Vec::new();
    for name in names {
        if length_of(disk, name)? == Some(segment_bytes) && spares.len() < SPARES_MAX {
            spares.push(name.clone());
        } else {
            disk.remove(name).map_err(LogError::io("removing a spare segment"))?;
        }
    }
    Ok(spares)
}

impl LocalLog {
    /// Writes the last write as the first one of the current segment.
    fn write_again(&mut self, last: WriteHeader, live: Live) -> Result<(), LogError> {
        let file = open_segment(&*self.disk, live.id)?;
        let mut scan = Scan::new(file, live.id, PIECE_BYTES, AlignedBuf::default())?;
        scan.limit(last.position(), live.end);
        let Step::Write(header, payload) = scan.step()? else {
            return Err(super::damage(last.position(), Broken::Payload, live.end));
        };
        self.gather([&scan.bytes()[payload]].into_iter());
        self.write_naming(header.synced(), header.kind(), header.frames()).map(drop)
    }

    /// Cuts segments that recoveries ended early. One that was left because a write didn't fit
    /// has less than a write to spare, and keeps its length: it can be a segment again.
    fn cut_segments(&mut self) -> Result<(), LogError> {
        let sealed = self.segments.iter().take(self.segments.len() - 1);
        for segment in sealed {
            if segment.id.limit() - segment.end <= self.config.write_bytes_max() {
                continue;
            }
            let file = open_segment(&*self.disk, segment.id)?;
            let length = file.len().map_err(LogError::io("asking a segment's length"))?;
            let end = segment.end - segment.id.base();
            if length > end {
                file.truncate(end).map_err(LogError::io("cutting a segment"))?;
                file.sync().map_err(LogError::io("syncing a segment"))?;
            }
        }
        Ok(())
    }
}
