//! Which segment holds which offsets. In memory, rebuilt when the log is opened.

use std::collections::BTreeMap;

use model::frame::FrameHeader;
use model::{Offset, ShardId};

use crate::local::layout::SegmentId;
use crate::{LogSegment, ends};

/// Bytes of log between two points of a shard. A reader passes over as many on average before
/// it finds its frame: some tens of microseconds. Fewer cost memory, 16 bytes per shard and point.
const POINT_BYTES: u64 = 256 << 10;

/// A segment of an open log.
pub(super) struct Segment {
    pub id: SegmentId,
    /// Where its writes end.
    pub end: u64,
    shards: BTreeMap<ShardId, Span>,
}

/// What a segment holds of a shard.
struct Span {
    /// Offsets of frames, and the positions of the writes that hold them. The first is the
    /// shard's first frame in this segment.
    points: Vec<(Offset, u64)>,
    /// The offset after its last frame in this segment.
    next: Offset,
}

impl Segment {
    pub fn new(id: SegmentId) -> Segment {
        Segment { id, end: id.first(), shards: BTreeMap::new() }
    }

    /// As others see it.
    pub fn known(&self) -> LogSegment {
        LogSegment { id: self.id, end: self.end }
    }

    /// Notes a frame, in the write at `position`.
    pub fn note(&mut self, frame: &FrameHeader, position: u64) {
        let offset = Offset(frame.first_offset.get());
        let span = self
            .shards
            .entry(ShardId(frame.shard.get()))
            .or_insert_with(|| Span { points: Vec::new(), next: offset });
        if span.points.last().is_none_or(|(_, last)| position - last >= POINT_BYTES) {
            span.points.push((offset, position));
        }
        span.next = ends::next_offset(frame);
    }

    /// The first offset of a shard.
    pub fn first(&self, shard: ShardId) -> Option<Offset> {
        Some(self.shards.get(&shard)?.points.first()?.0)
    }

    /// A position from which on every frame stands that a reader from `from` wants, as far as
    /// this segment goes; `None` if it has none of them.
    pub fn seek(&self, shard: ShardId, from: Offset) -> Option<u64> {
        let span = self.shards.get(&shard)?;
        if span.next < from {
            return None;
        }
        // Frames without records share the offset of the frame behind them, so go below `from`.
        let below = span.points.partition_point(|(offset, _)| *offset < from);
        Some(span.points[below.saturating_sub(1)].1)
    }

    /// Whether all it holds is before these offsets.
    pub fn is_before(&self, before: &BTreeMap<ShardId, Offset>) -> bool {
        self.shards
            .iter()
            .all(|(shard, span)| before.get(shard).is_some_and(|before| span.next <= *before))
    }
}
