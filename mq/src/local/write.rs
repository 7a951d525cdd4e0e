//! Writes: each one a header, a payload and padding, then one sync.

use std::time::Instant;

use zerocopy::IntoBytes;

use crate::LogError;
use crate::ends;
use crate::local::LocalLog;
use crate::local::index::Segment;
use crate::local::layout::{
    INDEX_MAX, Kind, MarkEntry, SegmentId, WRITE_HEADER_BYTES, WriteHeader, WritePlan, generation,
    write_bytes,
};
use crate::local::prepare::Order;

impl LocalLog {
    /// Writes frames in as few writes as their bound allows. Each is synced before the next.
    pub(super) fn write_frames(&mut self, frames: &[&[u8]]) -> Result<(), LogError> {
        let room = self.config.write_bytes_max() as usize - WRITE_HEADER_BYTES;
        let mut rest = frames;
        while !rest.is_empty() {
            let mut length = 0;
            let fitting = rest.iter().take_while(|frame| {
                length += frame.len();
                length <= room
            });
            let (now, later) = rest.split_at(fitting.count());
            assert!(!now.is_empty(), "a frame that was staged fits into a write");
            self.gather(now.iter().copied());
            let position = self.write(Kind::Frames, now.len() as u32)?;
            let segment = self.segments.back_mut().expect("a log has a segment");
            for frame in now {
                segment.note(ends::header(frame).expect("a staged frame has a header"), position);
            }
            self.stats.frames += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Writes where all shards end.
    pub(super) fn write_mark(&mut self) -> Result<(), LogError> {
        let entries: Vec<MarkEntry> =
            self.ends.iter().map(|(shard, end)| MarkEntry::new(shard, end)).collect();
        self.gather([entries.as_bytes()].into_iter());
        self.write(Kind::Mark, 0).map(drop)
    }

    /// Puts a payload into the buffer, behind the room for the header.
    pub(super) fn gather<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]> + Clone) {
        self.payload_length = parts.clone().map(<[u8]>::len).sum();
        let total = write_bytes(self.payload_length) as usize;
        self.buffer.grow(total);
        let buffer = &mut self.buffer.bytes_mut()[..total];
        let mut at = WRITE_HEADER_BYTES;
        for part in parts {
            buffer[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        buffer[at..].fill(0);
    }

    /// Writes what was gathered and syncs it: where it stands.
    fn write(&mut self, kind: Kind, frames: u32) -> Result<u64, LogError> {
        let total = write_bytes(self.payload_length);
        let current = self.segments.back().expect("a log has a segment");
        if current.end + total > current.id.limit() {
            self.next_segment()?;
        }
        let synced = self.synced;
        self.write_naming(synced, kind, frames)
    }

    /// Writes what was gathered into the current segment, naming `synced` as the end before it.
    pub(super) fn write_naming(
        &mut self,
        synced: u64,
        kind: Kind,
        frames: u32,
    ) -> Result<u64, LogError> {
        let current = self.segments.back_mut().expect("a log has a segment");
        let (id, position) = (current.id, current.end);
        let total = write_bytes(self.payload_length);
        assert!(position + total <= id.limit(), "a write fits into its segment");
        let payload = &self.buffer.bytes()[WRITE_HEADER_BYTES..][..self.payload_length];
        let plan = WritePlan { kind, frames, position, synced, oldest: self.oldest };
        let header = WriteHeader::new(plan, id.generation, payload);
        self.buffer.bytes_mut()[..WRITE_HEADER_BYTES].copy_from_slice(header.as_bytes());
        let bytes = &self.buffer.bytes()[..total as usize];
        self.file.write_at(bytes, position - id.base()).map_err(LogError::io("writing"))?;
        let written = Instant::now();
        self.file.sync().map_err(LogError::io("syncing"))?;
        self.stats.syncing += written.elapsed();
        current.end += total;
        self.synced = current.end;
        self.stats.bytes += total;
        self.stats.syncs += 1;
        Ok(position)
    }

    /// Goes on in the segment that was made ahead, and orders another.
    fn next_segment(&mut self) -> Result<(), LogError> {
        let made = self.preparer.take().map_err(LogError::io("making a segment"))?;
        self.file = made.file;
        self.segments.push_back(Segment::new(made.id));
        self.order_segment(made.id.index + 1);
        Ok(())
    }

    /// Has segment `index` made.
    pub(super) fn order_segment(&mut self, index: u32) {
        let spare = self.spares.pop();
        let order =
            order(self.config.salt, self.config.segment_bytes, index, self.next_counter, spare);
        self.next_counter += 1;
        self.preparer.order(order);
    }
}

/// What a new segment is to be.
pub(super) fn order(
    salt: u64,
    segment_bytes: u64,
    index: u32,
    counter: u64,
    spare: Option<String>,
) -> Order {
    assert!(index < INDEX_MAX, "no log writes so many segments");
    let generation = generation(salt, index, counter);
    Order { id: SegmentId { index, generation, segment_bytes }, counter, spare }
}
