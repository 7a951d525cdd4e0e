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

use std::collections::VecDeque;
use std::sync::Arc;

use crate::aligned::AlignedBuf;
use crate::disk::Disk;
use crate::local::index::Segment;
use crate::local::layout::{SegmentId, WriteHeader, segment_name};
use crate::local::prepare::{Preparer, make};
use crate::local::reader::LocalReader;
use crate::local::scan::{PIECE_BYTES, Scan, Step};
use crate::local::survey::{Live, Survey};
use crate::local::write::order;
use crate::local::{LocalConfig, LocalLog, SPARES_MAX};
use crate::{Broken, LogError, LogStats};

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

pub(super) fn open(
    disk: Arc<dyn Disk>,
    config: LocalConfig,
) -> Result<(LocalLog, Recovered), LogError> {
    config.check()?;
    let mut reader = LocalReader::open(disk.clone())?;
    if let Some(found) = reader.survey().segment_bytes
        && found != config.segment_bytes
    {
        return Err(LogError::SegmentBytes { found, configured: config.segment_bytes });
    }
    let next_index = reader.survey().next_index;
    let mut first =
        order(config.salt, config.segment_bytes, next_index, reader.survey().next_counter, None);
    let mut segments = read_all(&mut reader, first.id)?;
    let recovered = Recovered {
        writes: reader.stats().syncs,
        frames: reader.stats().frames,
        position: reader.survey().end(),
        cut_bytes: reader.survey().tail.map_or(0, |tail| tail.bytes),
    };

    let (survey, ends) = reader.into_parts();
    for name in &survey.unfinished {
        disk.remove(name).map_err(LogError::io("removing an unfinished segment"))?;
    }
    let mut spares = sort_spares(&*disk, &survey.spares, config.segment_bytes)?;
    first.spare = spares.pop();
    let made = make(&*disk, first).map_err(LogError::io("making a segment"))?;
    let superseded = supersede(&mut segments, &survey);
    let mut log = LocalLog {
        preparer: Preparer::new(disk.clone(), config.prepare)?,
        disk,
        config,
        segments,
        file: made.file,
        synced: 0,
        oldest: survey.oldest(),
        next_counter: survey.next_counter + 1,
        spares,
        buffer: AlignedBuf::default(),
        payload_length: 0,
        ends,
        stats: LogStats::default(),
        poisoned: false,
    };
    if let (Some(last), Some(live)) = (survey.last, survey.live.last()) {
        log.write_again(last, *live)?;
    }
    log.cut_segments()?;
    log.retire(&[survey.unneeded, superseded].concat())?;
    log.order_segment(next_index + 1);
    Ok((log, recovered))
}

/// Reads all frames into an index. Those of the last write will stand in segment `renewed`.
fn read_all(reader: &mut LocalReader, renewed: SegmentId) -> Result<VecDeque<Segment>, LogError> {
    let last_position = reader.survey().last.map(|last| last.position());
    let live = reader.survey().live.clone();
    let mut segments: VecDeque<Segment> = live.iter().map(|live| Segment::new(live.id)).collect();
    for (segment, live) in segments.iter_mut().zip(&live) {
        segment.end = live.end;
    }
    segments.push_back(Segment::new(renewed));
    let mut at = 0;
    while let Some(placed) = reader.next_placed()? {
        if Some(placed.write_position) == last_position {
            let segment = segments.back_mut().expect("it was pushed above");
            segment.note(placed.frame.header, renewed.first());
            continue;
        }
        while placed.write_position >= segments[at].end {
            at += 1;
        }
        segments[at].note(placed.frame.header, placed.write_position);
    }
    Ok(segments)
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
        let file = disk.open(name).map_err(LogError::io("opening a spare segment"))?;
        let length = file.len().map_err(LogError::io("asking a segment's length"))?;
        if length == segment_bytes && spares.len() < SPARES_MAX {
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
        let file = self.disk.open(&segment_name(live.id.index));
        let file = file.map_err(LogError::io("opening a segment"))?;
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
            let file = self.disk.open(&segment_name(segment.id.index));
            let file = file.map_err(LogError::io("opening a segment"))?;
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
