//! Reads a whole local log, frame by frame, and proves on the way that it is one.
//!
//! Recovery reads with it before it serves, and so does an audit of a log that nobody may change.

use std::sync::Arc;

use model::ShardId;
use model::frame::Frame;
use zerocopy::FromBytes;

use crate::disk::Disk;
use crate::ends::{self, Ends};
use crate::local::layout::{Kind, MarkEntry, WRITE_HEADER_BYTES, WriteHeader};
use crate::local::open_segment;
use crate::local::scan::{PIECE_BYTES, Scan, Step};
use crate::local::survey::{Survey, survey};
use crate::{Broken, Damage, FrameSource, LogEnd, LogError, LogStats};

/// All frames of all shards of a local log, in the order in which they were written.
///
/// Nothing is changed, neither by opening nor by reading. Damage ends it with
/// [`LogError::Damage`] after the last frame that is sound, or at once if segments are missing.
/// The log must rest: what somebody writes meanwhile looks like writes that were lost.
pub struct LocalReader {
    disk: Arc<dyn Disk>,
    survey: Survey,
    /// The next segment of the survey to be read.
    segment: usize,
    scan: Option<Scan>,
    write: Option<OpenWrite>,
    ends: Ends,
    /// The log was trimmed and no mark was met yet: a shard's first frame is taken as it is.
    adopts: bool,
    counted: LogStats,
}

/// The write whose frames are being read.
struct OpenWrite {
    header: WriteHeader,
    /// Where in the scan's bytes its header is; frames are placed relative to it.
    start: usize,
    next: usize,
    end: usize,
    frames: u32,
}

/// How a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With its last write.
    Clean {
        /// Where it ends.
        position: u64,
    },
    /// With the rest of a write that was never acknowledged. Opening the log for writing cuts it.
    Torn {
        /// Where the rest begins.
        position: u64,
        /// How much it would have been, as far as can be told.
        bytes: u64,
    },
}

/// A frame and where it stands.
pub(super) struct Placed<'a> {
    pub frame: Frame<'a>,
    /// Of the frame.
    pub position: u64,
    /// Of the write that holds it.
    pub write_position: u64,
}

impl LocalReader {
    /// Finds out what the log consists of.
    pub fn open(disk: Arc<dyn Disk>) -> Result<LocalReader, LogError> {
        LocalReader::over(disk, false)
    }

    /// The same with segments that were trimmed, as far back as the disk has them: of a
    /// [`UnionDisk`](crate::UnionDisk) with the archive.
    pub fn whole(disk: Arc<dyn Disk>) -> Result<LocalReader, LogError> {
        LocalReader::over(disk, true)
    }

    fn over(disk: Arc<dyn Disk>, whole: bool) -> Result<LocalReader, LogError> {
        let survey = survey(&disk, whole)?;
        Ok(LocalReader {
            disk,
            adopts: survey.live.first().is_some_and(|live| live.before != 0),
            survey,
            segment: 0,
            scan: None,
            write: None,
            ends: Ends::default(),
            counted: LogStats::default(),
        })
    }

    /// The next frame and its position in the log.
    pub fn next_frame(&mut self) -> Result<Option<(u64, Frame<'_>)>, LogError> {
        Ok(self.next_placed()?.map(|placed| (placed.position, placed.frame)))
    }

    /// Whether the log has its beginning: nothing before its first frame was trimmed.
    pub fn is_whole(&self) -> bool {
        self.survey.live.first().is_none_or(|live| live.before == 0)
    }

    /// How the log ends.
    pub fn ending(&self) -> Ending {
        match self.survey.tail {
            Some(tail) => Ending::Torn { position: tail.position, bytes: tail.bytes },
            None => Ending::Clean { position: self.survey.end() },
        }
    }

    /// Where a shard ends, as far as was read.
    pub fn end(&self, shard: ShardId) -> LogEnd {
        self.ends.end(shard)
    }

    /// What was read so far. Each write is one sync.
    pub fn stats(&self) -> LogStats {
        self.counted
    }

    pub(super) fn survey(&self) -> &Survey {
        &self.survey
    }

    pub(super) fn into_parts(self) -> (Survey, Ends) {
        (self.survey, self.ends)
    }

    pub(super) fn next_placed(&mut self) -> Result<Option<Placed<'_>>, LogError> {
        while self.write.as_ref().is_none_or(|write| write.next == write.end) {
            if !self.next_write()? {
                return Ok(None);
            }
        }
        let scan = self.scan.as_ref().expect("a write is open in a scan");
        let write = self.write.as_mut().expect("the loop ended at a write");
        let write_position = write.header.position();
        let position = write_position + (write.next - write.start) as u64;
        let damage = |what| LogError::Damage { position, what };
        let (frame, _) = Frame::split(&scan.bytes()[write.next..write.end])
            .map_err(|error| damage(Damage::Frame(error)))?;
        let shard = ShardId(frame.header.shard.get());
        let end = match self.ends.known(shard) {
            None if self.adopts => ends::after(frame.header),
            known => {
                let expected = known.unwrap_or_default();
                ends::follow(expected, frame.header).map_err(|_| {
                    let found = frame.place();
                    damage(Damage::Chain {
                        shard,
                        expected,
                        found: found.first_offset,
                        found_previous: found.previous,
                        found_epoch: found.epoch,
                    })
                })?
            }
        };
        self.ends.set(shard, end);
        write.next += frame.bytes.len();
        write.frames += 1;
        self.counted.frames += 1;
        Ok(Some(Placed { frame, position, write_position }))
    }

    /// Opens the next write that has frames; marks are checked on the way.
    fn next_write(&mut self) -> Result<bool, LogError> {
        if let Some(write) = self.write.take()
            && write.frames != write.header.frames()
        {
            let what = Damage::Frame(model::frame::FrameError::NoFrame);
            return Err(LogError::Damage { position: write.header.position(), what });
        }
        while self.next_scan()? {
            let scan = self.scan.as_mut().expect("there is a scan");
            let live = self.survey.live[self.segment - 1];
            let position = scan.position();
            let (header, payload) = match scan.step()? {
                Step::Write(header, payload) => (header, payload),
                Step::End(found) => {
                    let what = Damage::SyncedWrite { named_at: live.named_at, found };
                    return Err(LogError::Damage { position, what });
                }
            };
            self.counted.syncs += 1;
            self.counted.bytes += header.total();
            match header.kind() {
                Kind::Mark => self.check_mark(&header, payload)?,
                Kind::Frames => {
                    let start = payload.start - WRITE_HEADER_BYTES;
                    let (next, end) = (payload.start, payload.end);
                    self.write = Some(OpenWrite { header, start, next, end, frames: 0 });
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Makes sure that the scan stands before a write; false at the end of the log.
    fn next_scan(&mut self) -> Result<bool, LogError> {
        loop {
            if let Some(scan) = &self.scan
                && scan.position() != self.survey.live[self.segment - 1].end
            {
                return Ok(true);
            }
            let Some(live) = self.survey.live.get(self.segment).copied() else { return Ok(false) };
            let file = open_segment(&*self.disk, live.id)?;
            let window = self.scan.take().map(Scan::into_window).unwrap_or_default();
            let mut scan = Scan::new(file, live.id, PIECE_BYTES, window)?;
            if live.end <= live.id.first() {
                let what = Damage::SyncedWrite { named_at: live.named_at, found: Broken::Order };
                return Err(LogError::Damage { position: live.id.first(), what });
            }
            scan.limit(live.id.first(), live.end);
            self.scan = Some(scan);
            self.segment += 1;
        }
    }

    /// A mark lists the ends of all shards; of those that were read it must say the same.
    fn check_mark(
        &mut self,
        header: &WriteHeader,
        payload: std::ops::Range<usize>,
    ) -> Result<(), LogError> {
        let position = header.position();
        let scan = self.scan.as_ref().expect("a mark is open in a scan");
        let Ok(entries) = <[MarkEntry]>::ref_from_bytes(&scan.bytes()[payload]) else {
            let what = Damage::SyncedWrite { named_at: position, found: Broken::Payload };
            return Err(LogError::Damage { position, what });
        };
        for entry in entries {
            let (shard, end) = (entry.shard(), entry.end());
            match self.ends.known(shard) {
                None if self.adopts => self.ends.set(shard, end),
                Some(found) if found == end => {}
                found => {
                    let what = Damage::Mark { shard, marked: Some(end), found };
                    return Err(LogError::Damage { position, what });
                }
            }
        }
        if self.ends.iter().len() != entries.len()
            && let Some((shard, found)) =
                self.ends.iter().find(|(shard, _)| entries.iter().all(|e| e.shard() != *shard))
        {
            let what = Damage::Mark { shard, marked: None, found: Some(found) };
            return Err(LogError::Damage { position, what });
        }
        self.adopts = false;
        Ok(())
    }
}

impl FrameSource for LocalReader {
    fn next(&mut self) -> Result<Option<Frame<'_>>, LogError> {
        Ok(self.next_frame()?.map(|(_, frame)| frame))
    }

    fn is_settled(&self) -> bool {
        let last = self.survey.last.as_ref().map(WriteHeader::position);
        last.is_none()
            || self.disk.is_append_only()
            || self.write.as_ref().map(|write| write.header.position()) != last
    }
}
