//! Reads a segment of a log that is open, beside whoever writes to it.

use std::ops::Range;

use crate::aligned::AlignedBuf;
use crate::disk::Disk;
use crate::local::layout::Kind;
use crate::local::scan::{PIECE_BYTES, Scan, Step};
use crate::local::{damage, open_segment};
use crate::{LogError, LogSegment};

/// The writes of a segment, as far as it was durable when it was asked for.
///
/// Each write is checked against its hash and its place. Whether frames follow each other isn't:
/// who opened the log has seen to that. A segment that is trimmed meanwhile may be gone or used
/// again; both are errors here, and an archive has what it was.
pub struct SegmentReader {
    scan: Scan,
    end: u64,
}

/// A write to the log.
pub struct LogWrite<'a> {
    /// Where it stands in the log.
    pub positions: Range<u64>,
    /// Where the write before it ends.
    pub before: u64,
    /// Its frames, back to back; none in a mark.
    pub frames: &'a [u8],
}

impl SegmentReader {
    /// From the write at `from` on; a position before the segment is its first write.
    pub fn open(
        disk: &dyn Disk,
        segment: &LogSegment,
        from: u64,
    ) -> Result<SegmentReader, LogError> {
        let LogSegment { id, end } = *segment;
        let file = open_segment(disk, id)?;
        let mut scan = Scan::new(file, id, PIECE_BYTES, AlignedBuf::default())?;
        scan.limit(from.clamp(id.first(), end), end);
        Ok(SegmentReader { scan, end })
    }

    /// The next write; `None` at the end.
    pub fn next_write(&mut self) -> Result<Option<LogWrite<'_>>, LogError> {
        let start = self.scan.position();
        if start >= self.end {
            return Ok(None);
        }
        let (header, payload) = match self.scan.step()? {
            Step::Write(header, payload) => (header, payload),
            Step::End(found) => return Err(damage(start, found, self.end)),
        };
        let (positions, before) = (start..self.scan.position(), header.synced());
        let payload = if header.kind() == Kind::Frames { payload } else { 0..0 };
        Ok(Some(LogWrite { positions, before, frames: &self.scan.bytes()[payload] }))
    }
}
