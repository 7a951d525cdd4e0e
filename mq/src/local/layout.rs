//! The bytes of a segment: its header, and the header of each write.
//!
//! A position counts bytes over all segments: segment index × segment size + offset. Every write
//! states its own, so nothing that was written elsewhere passes for it. The generation is drawn
//! from the log's salt, the segment and a counter that grows with every segment made. It keeps
//! apart what a file held in an earlier life, and no content that a client sends can contain a
//! write header by accident or on purpose.

use model::{Epoch, Offset, ShardId, Time};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::aligned::{BLOCK_BYTES, whole_blocks};
use crate::{Broken, LogEnd};

/// One block, in the type of positions.
pub(crate) const BLOCK: u64 = BLOCK_BYTES as u64;
/// The most bytes of one write, header and padding included. Larger ones gain nothing on a disk
/// and would make recovery reserve more memory before it can check them.
pub(crate) const WRITE_BYTES_MAX: u64 = 8 << 20;
/// The least bytes of a segment: its header and a few writes of a block.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 4 * BLOCK;
/// The most bytes of a segment: recovery looks through the last one block by block.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Segment indexes stay below, so that no position overflows. 128 PiB of the default size.
pub(crate) const INDEX_MAX: u32 = 1 << 31;

const _: () = assert!(INDEX_MAX as u128 * (SEGMENT_BYTES_MAX as u128) < u64::MAX as u128);

const SEGMENT_MAGIC: [u8; 4] = *b"CRSG";
const WRITE_MAGIC: [u8; 4] = *b"CRWR";
const VERSION: u16 = 1;

/// What a segment's first block begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct SegmentHeader {
    magic: [u8; 4],
    version: U16,
    reserved: U16,
    index: U64,
    segment_bytes: U64,
    /// Grows with every segment that is made.
    counter: U64,
    generation: U64,
    check: U64,
}

/// What a write begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct WriteHeader {
    magic: [u8; 4],
    version: U16,
    kind: U16,
    length: U32,
    frames: U32,
    position: U64,
    /// Where the write before it ends, which was synced by then. 0: there is none.
    synced: U64,
    /// The oldest segment that is still needed.
    oldest: U64,
    generation: U64,
    payload_hash: U64,
    check: U64,
}

const _: () = assert!(size_of::<SegmentHeader>() == 48);
const _: () = assert!(size_of::<WriteHeader>() == WRITE_HEADER_BYTES);

/// Bytes of a write's header.
pub(crate) const WRITE_HEADER_BYTES: usize = 64;

/// What the payload of a write is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Frames, back to back.
    Frames,
    /// The ends of all shards.
    Mark,
}

/// Which life of which segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentId {
    pub index: u32,
    pub generation: u64,
    pub segment_bytes: u64,
}

impl SegmentId {
    /// The position at which the segment begins.
    pub fn base(&self) -> u64 {
        u64::from(self.index) * self.segment_bytes
    }

    /// The position of its first write.
    pub fn first(&self) -> u64 {
        self.base() + BLOCK
    }

    /// The position after its last byte.
    pub fn limit(&self) -> u64 {
        self.base() + self.segment_bytes
    }
}

/// The segment in which the write that ends at `end` lies.
pub(crate) fn segment_of_end(end: u64, segment_bytes: u64) -> u64 {
    end.saturating_sub(1) / segment_bytes
}

/// A generation: different for every segment that is ever made, and for every log.
pub(crate) fn generation(salt: u64, index: u32, counter: u64) -> u64 {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&salt.to_le_bytes());
    bytes[8..16].copy_from_slice(&u64::from(index).to_le_bytes());
    bytes[16..].copy_from_slice(&counter.to_le_bytes());
    xxh3_64(&bytes)
}

impl SegmentHeader {
    pub fn new(id: SegmentId, counter: u64) -> SegmentHeader {
        let mut header = SegmentHeader {
            magic: SEGMENT_MAGIC,
            version: VERSION.into(),
            reserved: 0.into(),
            index: u64::from(id.index).into(),
            segment_bytes: id.segment_bytes.into(),
            counter: counter.into(),
            generation: id.generation.into(),
            check: 0.into(),
        };
        header.check = header.computed_check().into();
        header
    }

    /// The header in a segment's first block, whichever segment it is of.
    pub fn parse(block: &[u8]) -> Option<SegmentHeader> {
        let header = SegmentHeader::read_from_prefix(block).ok()?.0;
        let bytes = header.segment_bytes.get();
        let sound = header.magic == SEGMENT_MAGIC
            && header.version.get() == VERSION
            && header.check.get() == header.computed_check()
            && header.index.get() < u64::from(INDEX_MAX)
            && (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes)
            && bytes.is_multiple_of(BLOCK);
        sound.then_some(header)
    }

    pub fn id(&self) -> SegmentId {
        SegmentId {
            index: self.index.get() as u32,
            generation: self.generation.get(),
            segment_bytes: self.segment_bytes.get(),
        }
    }

    pub fn counter(&self) -> u64 {
        self.counter.get()
    }

    fn computed_check(&self) -> u64 {
        xxh3_64(SegmentHeader { check: 0.into(), ..*self }.as_bytes())
    }
}

/// What a write is to say besides its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WritePlan {
    pub kind: Kind,
    pub frames: u32,
    pub position: u64,
    pub synced: u64,
    pub oldest: u32,
}

impl WriteHeader {
    pub fn new(plan: WritePlan, generation: u64, payload: &[u8]) -> WriteHeader {
        let mut header = WriteHeader {
            magic: WRITE_MAGIC,
            version: VERSION.into(),
            kind: match plan.kind {
                Kind::Frames => 0.into(),
                Kind::Mark => 1.into(),
            },
            length: (payload.len() as u32).into(),
            frames: plan.frames.into(),
            position: plan.position.into(),
            synced: plan.synced.into(),
            oldest: u64::from(plan.oldest).into(),
            generation: generation.into(),
            payload_hash: xxh3_64_with_seed(payload, generation).into(),
            check: 0.into(),
        };
        header.check = header.computed_check().into();
        header
    }

    /// A header that is whole, of whichever position and generation.
    pub fn parse(block: &[u8]) -> Option<WriteHeader> {
        let header = WriteHeader::read_from_prefix(block).ok()?.0;
        let sound = header.magic == WRITE_MAGIC
            && header.version.get() == VERSION
            && header.check.get() == header.computed_check()
            && header.kind.get() <= 1
            && header.oldest.get() < u64::from(INDEX_MAX)
            && header.total() <= WRITE_BYTES_MAX;
        sound.then_some(header)
    }

    /// Checks the header at `position` of a segment: it belongs there and its length fits.
    pub fn belongs(&self, segment: SegmentId, position: u64) -> bool {
        self.position.get() == position
            && self.generation.get() == segment.generation
            && self.total() <= segment.limit() - position
    }

    /// Whether a write was begun here, though its header may be torn or flipped: most of what
    /// tells a header from old content is there.
    pub fn resembles(block: &[u8], segment: SegmentId, position: u64) -> bool {
        let Ok((header, _)) = WriteHeader::read_from_prefix(block) else { return false };
        let signs = [
            header.magic == WRITE_MAGIC,
            header.position.get() == position,
            header.generation.get() == segment.generation,
        ];
        signs.iter().filter(|sign| **sign).count() >= 2
    }

    pub fn payload_holds(&self, payload: &[u8]) -> bool {
        self.payload_hash.get() == xxh3_64_with_seed(payload, self.generation.get())
    }

    pub fn kind(&self) -> Kind {
        if self.kind.get() == 0 { Kind::Frames } else { Kind::Mark }
    }

    pub fn frames(&self) -> u32 {
        self.frames.get()
    }

    pub fn length(&self) -> usize {
        self.length.get() as usize
    }

    pub fn position(&self) -> u64 {
        self.position.get()
    }

    pub fn synced(&self) -> u64 {
        self.synced.get()
    }

    pub fn oldest(&self) -> u32 {
        self.oldest.get() as u32
    }

    /// Bytes of the whole write: header, payload and padding.
    pub fn total(&self) -> u64 {
        write_bytes(self.length())
    }

    fn computed_check(&self) -> u64 {
        xxh3_64(WriteHeader { check: 0.into(), ..*self }.as_bytes())
    }
}

/// Bytes of a write with a payload of `length`.
pub(crate) fn write_bytes(length: usize) -> u64 {
    whole_blocks((WRITE_HEADER_BYTES + length) as u64)
}

/// One shard's end, as a mark lists it.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct MarkEntry {
    shard: U16,
    reserved: [u8; 6],
    next: U64,
    epoch: U64,
    previous: U64,
    time: U64,
}

impl MarkEntry {
    pub fn new(shard: ShardId, end: LogEnd) -> MarkEntry {
        MarkEntry {
            shard: shard.0.into(),
            reserved: [0; 6],
            next: end.next.0.into(),
            epoch: end.epoch.0.into(),
            previous: end.previous.into(),
            time: end.time.0.into(),
        }
    }

    pub fn shard(&self) -> ShardId {
        ShardId(self.shard.get())
    }

    pub fn end(&self) -> LogEnd {
        LogEnd {
            next: Offset(self.next.get()),
            epoch: Epoch(self.epoch.get()),
            previous: self.previous.get(),
            time: Time(self.time.get()),
        }
    }
}

/// The name of a segment's file.
pub(crate) fn segment_name(index: u32) -> String {
    format!("{index:010}.segment")
}

/// The name of a segment that is being made.
pub(crate) fn new_name(index: u32) -> String {
    format!("{index:010}.new")
}

/// The name of a file that was segment `index` and waits to be another.
pub(crate) fn spare_name(index: u32) -> String {
    format!("{index:010}.spare")
}

/// What a file of the directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Name {
    Segment(u32),
    New,
    Spare,
    Foreign,
}

impl Name {
    /// Names that this log doesn't give are somebody else's, and left alone.
    pub fn parse(name: &str) -> Name {
        let Some((number, extension)) = name.split_once('.') else { return Name::Foreign };
        let digits = number.len() == 10 && number.bytes().all(|b| b.is_ascii_digit());
        match (number.parse(), extension) {
            (Ok(index), "segment") if digits && index < INDEX_MAX => Name::Segment(index),
            (Ok(_), "new") if digits => Name::New,
            (Ok(_), "spare") if digits => Name::Spare,
            _ => Name::Foreign,
        }
    }
}

/// Checks the place of a write in the order of writes: at the segment's start it names an
/// earlier segment or nothing, elsewhere the write before it.
pub(crate) fn order(header: &WriteHeader, segment: SegmentId) -> Result<(), Broken> {
    let right = if header.position() == segment.first() {
        header.synced() <= segment.base()
    } else {
        header.synced() == header.position()
    };
    let floor = header.oldest() <= segment.index;
    if right && floor { Ok(()) } else { Err(Broken::Order) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SegmentId = SegmentId { index: 3, generation: 77, segment_bytes: 65_536 };

    #[test]
    fn names_lead_back() {
        assert_eq!(Name::parse(&segment_name(12)), Name::Segment(12));
        assert_eq!(Name::parse(&new_name(12)), Name::New);
        assert_eq!(Name::parse(&spare_name(12)), Name::Spare);
        for foreign in ["lost+found", "12.segment", "4294967295.segment", "+000000001.segment"] {
            assert_eq!(Name::parse(foreign), Name::Foreign, "{foreign}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let plan =
            WritePlan { kind: Kind::Frames, frames: 1, position: ID.first(), synced: 0, oldest: 0 };
        let header = WriteHeader::new(plan, ID.generation, b"content");
        assert!(WriteHeader::parse(header.as_bytes()).is_some_and(|h| h.belongs(ID, ID.first())));
        let segment = SegmentHeader::new(ID, 5);
        assert_eq!(SegmentHeader::parse(segment.as_bytes()).map(|h| h.id()), Some(ID));
        for bit in 0..64 * 8 {
            let mut bytes = header.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(WriteHeader::parse(&bytes).is_none());
            assert!(WriteHeader::resembles(&bytes, ID, ID.first()));
        }
        for bit in 0..48 * 8 {
            let mut bytes = segment.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::parse(&bytes).is_none());
        }
    }

    #[test]
    fn generations_differ() {
        let mut all: Vec<u64> = (0..100).map(|n| generation(1, n / 10, u64::from(n))).collect();
        all.push(generation(2, 0, 0));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 101);
    }
}
