//! Reads a segment write by write.
//!
//! A scan keeps a window of the file in memory, reads it in large pieces, and checks of every
//! write that its header belongs where it stands, that its length fits before anything is
//! allocated for it, and that its content is what was hashed. It says where writes stop and why;
//! whether that is the end or damage is for the caller to decide.

use std::ops::Range;

use crate::aligned::AlignedBuf;
use crate::disk::DiskFile;
use crate::local::layout::{BLOCK, SegmentId, WRITE_HEADER_BYTES, WriteHeader, order};
use crate::{Broken, LogError};

/// Bytes that are read at once by who reads on: long enough for the full speed of a disk.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;
/// Bytes that are read at once by who wants one write of each segment.
pub(crate) const GLANCE_BYTES: u64 = 64 << 10;

/// A segment that is being read.
pub(crate) struct Scan {
    file: Box<dyn DiskFile>,
    segment: SegmentId,
    piece_bytes: u64,
    /// Bytes of the file that may hold writes.
    length: u64,
    /// Where in the file the next write begins.
    offset: u64,
    window: AlignedBuf,
    window_start: u64,
    window_length: u64,
}

/// What a scan finds next.
pub(crate) enum Step {
    /// A valid write, and where in [`Scan::bytes`] its payload is.
    Write(WriteHeader, Range<usize>),
    /// No valid write.
    End(Broken),
}

impl Scan {
    /// A scan from the segment's first write on, in the memory of an earlier one.
    pub fn new(
        file: Box<dyn DiskFile>,
        segment: SegmentId,
        piece_bytes: u64,
        window: AlignedBuf,
    ) -> Result<Scan, LogError> {
        let length = file.len().map_err(LogError::io("asking a segment's length"))?;
        let length = length.min(segment.segment_bytes) / BLOCK * BLOCK;
        Ok(Scan {
            file,
            segment,
            piece_bytes,
            length,
            offset: BLOCK,
            window,
            window_start: 0,
            window_length: 0,
        })
    }

    /// Goes to the write at `position`; nothing from `end` on is read.
    pub fn limit(&mut self, position: u64, end: u64) {
        self.offset = position - self.segment.base();
        self.length = self.length.min(end - self.segment.base());
    }

    /// The position of the next write.
    pub fn position(&self) -> u64 {
        self.segment.base() + self.offset
    }

    /// The memory, for the next scan.
    pub fn into_window(self) -> AlignedBuf {
        self.window
    }

    /// The bytes that the payload of the last step is in.
    pub fn bytes(&self) -> &[u8] {
        self.window.bytes()
    }

    /// The next write.
    pub fn step(&mut self) -> Result<Step, LogError> {
        let (segment, position) = (self.segment, self.position());
        let Some(at) = self.fetch(BLOCK)? else { return Ok(Step::End(Broken::Short)) };
        let Some(header) = WriteHeader::parse(&self.bytes()[at..]) else {
            return Ok(Step::End(Broken::Header));
        };
        if !header.belongs(segment, position) {
            return Ok(Step::End(Broken::Header));
        }
        if let Err(broken) = order(&header, segment) {
            return Ok(Step::End(broken));
        }
        let Some(at) = self.fetch(header.total())? else { return Ok(Step::End(Broken::Short)) };
        let start = at + WRITE_HEADER_BYTES;
        let payload = start..start + header.length();
        if !header.payload_holds(&self.bytes()[payload.clone()]) {
            return Ok(Step::End(Broken::Payload));
        }
        self.offset += header.total();
        Ok(Step::Write(header, payload))
    }

    /// The next block, and its position. Whatever is in it.
    pub fn block(&mut self) -> Result<Option<(u64, &[u8])>, LogError> {
        let position = self.position();
        let Some(at) = self.fetch(BLOCK)? else { return Ok(None) };
        self.offset += BLOCK;
        Ok(Some((position, &self.bytes()[at..at + BLOCK as usize])))
    }

    /// Makes the window hold `bytes` from the offset on: where they are in it, or `None` if the
    /// file doesn't have as many.
    fn fetch(&mut self, bytes: u64) -> Result<Option<usize>, LogError> {
        let end = self.offset + bytes;
        if end > self.length {
            return Ok(None);
        }
        if self.offset < self.window_start || end > self.window_start + self.window_length {
            let piece = bytes.max(self.piece_bytes).min(self.length - self.offset);
            self.window.grow(piece as usize);
            let window = &mut self.window.bytes_mut()[..piece as usize];
            self.window_length = 0;
            let read = self.file.read_at(window, self.offset);
            self.window_length = read.map_err(LogError::io("reading a segment"))? as u64;
            self.window_start = self.offset;
            if self.window_length < bytes {
                return Ok(None);
            }
        }
        Ok(Some((self.offset - self.window_start) as usize))
    }
}
