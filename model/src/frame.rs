//! Frames: a batch of records as the log keeps it.
//!
//! A frame is a [`FrameHeader`] and the records behind it. Its `hash` covers the header (with
//! the hash itself as zero) and the records, and so the hash of the shard's frame before it:
//! whoever knows the newest hash knows that the whole chain is the one that was written. An
//! engine that needs more, such as the position known synced and the salt of a recycled
//! segment, puts an envelope of its own around frames.
//!
//! The hash is XXH3 (64 bits): it finds what disks and networks do by accident. It is no
//! defence against somebody who can rewrite the log.

use xxhash_rust::xxh3::Xxh3;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::record::{RECORD_BYTES_MAX, Records};
use crate::{Epoch, Offset, ShardId, Time};

/// The first four bytes of every frame.
pub const FRAME_MAGIC: [u8; 4] = *b"CRFR";
/// The version of the layout of frames and records.
pub const LAYOUT_VERSION: u16 = 2;
/// The most bytes of a frame, header included.
///
/// Small enough for a message of every log engine, large enough for some thousands of orders.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Frames that are made stay below: with what an engine puts around it, a frame fits into a
/// message of 1 MiB.
const FRAME_BYTES_FULL: usize = FRAME_BYTES_MAX - (16 << 10);

const _: () = assert!(RECORD_BYTES_MAX + size_of::<FrameHeader>() <= FRAME_BYTES_FULL);

/// The shard of a frame that is no shard's: readers of the feed get one, without records, where
/// nothing happens.
pub const HEARTBEAT_SHARD: ShardId = ShardId(u16::MAX);

/// A frame that says only that nothing more was decided until `time`; 0: that isn't known. It stands
/// in no log.
pub fn heartbeat(time: Time) -> Vec<u8> {
    let place = FramePlace {
        shard: HEARTBEAT_SHARD,
        epoch: Epoch(0),
        first_offset: Offset(0),
        time,
        previous: 0,
    };
    FrameBuilder::default().finish(place, 0).0
}

/// What a frame begins with.
#[derive(
    FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq,
)]
#[repr(C)]
pub struct FrameHeader {
    /// [`FRAME_MAGIC`].
    pub magic: [u8; 4],
    /// [`LAYOUT_VERSION`].
    pub layout: U16,
    /// The rules by which the records were decided.
    pub rules: U16,
    /// Bytes of the records behind the header.
    pub length: U32,
    /// How many records they are. 0: the frame marks an epoch's start, or time.
    pub count: U32,
    /// Whose records they are.
    pub shard: U16,
    /// Zero.
    pub reserved: [u8; 6],
    /// The owner that wrote it.
    pub epoch: U64,
    /// The offset of its first record; without records, of the next one to come.
    pub first_offset: U64,
    /// When it was decided: µs since 1970, never less than in the frame before.
    pub time: U64,
    /// The hash of the shard's frame before; 0 for its first.
    pub previous: U64,
    /// The hash of this frame.
    pub hash: U64,
}

const _: () = assert!(size_of::<FrameHeader>() == 64);

/// A frame that was checked: version, lengths and hash hold.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its first bytes.
    pub header: &'a FrameHeader,
    /// The records.
    pub records: &'a [u8],
    /// All of it.
    pub bytes: &'a [u8],
}

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not [`FRAME_MAGIC`], or there are too few.
    #[error("no frame begins here")]
    NoFrame,
    /// Written by another version of the layout.
    #[error("layout version {found}; this program reads version {LAYOUT_VERSION}")]
    Layout {
        /// The frame's version.
        found: u16,
    },
    /// The length passes the bound or the bytes that are there.
    #[error("a frame's length of {length} bytes does not fit (room: {room})")]
    Length {
        /// What it says.
        length: usize,
        /// What there is.
        room: usize,
    },
    /// The content is not what was hashed.
    #[error("the frame's hash is {found:016x}, its content's {computed:016x}")]
    Hash {
        /// What it says.
        found: u64,
        /// What it holds.
        computed: u64,
    },
}

impl<'a> Frame<'a> {
    /// The frame that begins `bytes`, checked, and what follows it.
    pub fn split(bytes: &'a [u8]) -> Result<(Frame<'a>, &'a [u8]), FrameError> {
        let (header, after) =
            FrameHeader::ref_from_prefix(bytes).map_err(|_| FrameError::NoFrame)?;
        if header.magic != FRAME_MAGIC {
            return Err(FrameError::NoFrame);
        }
        if header.layout.get() != LAYOUT_VERSION {
            return Err(FrameError::Layout { found: header.layout.get() });
        }
        let length = header.length.get() as usize;
        if length > after.len() || length > FRAME_BYTES_MAX - size_of::<FrameHeader>() {
            return Err(FrameError::Length { length, room: after.len() });
        }
        let (records, rest) = after.split_at(length);
        let computed = hash(header, records);
        if computed != header.hash.get() {
            return Err(FrameError::Hash { found: header.hash.get(), computed });
        }
        let bytes = &bytes[..size_of::<FrameHeader>() + length];
        Ok((Frame { header, records, bytes }, rest))
    }

    /// Its records, each checked.
    pub fn records(&self) -> Records<'a> {
        Records::new(self.records)
    }

    /// Where in its shard's log it stands.
    pub fn place(&self) -> FramePlace {
        FramePlace {
            shard: ShardId(self.header.shard.get()),
            epoch: Epoch(self.header.epoch.get()),
            first_offset: Offset(self.header.first_offset.get()),
            time: Time(self.header.time.get()),
            previous: self.header.previous.get(),
        }
    }

    /// The offset that follows its last record.
    pub fn next_offset(&self) -> Offset {
        Offset(self.header.first_offset.get() + u64::from(self.header.count.get()))
    }
}

/// Where a frame stands in its shard's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FramePlace {
    /// The shard.
    pub shard: ShardId,
    /// Its owner's epoch.
    pub epoch: Epoch,
    /// The offset of the first record.
    pub first_offset: Offset,
    /// When it was decided.
    pub time: Time,
    /// The hash of the frame before.
    pub previous: u64,
}

/// A frame in the making: room for the header, then records as the core appends them.
#[derive(Debug)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl Default for FrameBuilder {
    fn default() -> FrameBuilder {
        FrameBuilder::reuse(Vec::new())
    }
}

impl FrameBuilder {
    /// An empty frame in the memory of a buffer that is no longer needed.
    pub fn reuse(mut bytes: Vec<u8>) -> FrameBuilder {
        bytes.clear();
        bytes.resize(size_of::<FrameHeader>(), 0);
        FrameBuilder { bytes, count: 0 }
    }

    /// Appends a record's bytes; what became of it is still to be filled in.
    pub fn push(&mut self, record: &[u8]) -> &mut [u8] {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record);
        self.count += 1;
        &mut self.bytes[start..]
    }

    /// The records' bytes.
    pub fn records(&self) -> &[u8] {
        &self.bytes[size_of::<FrameHeader>()..]
    }

    /// Its memory, to use again.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Records so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes so far, header included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a record of `bytes` more would make it too large: just below [`FRAME_BYTES_MAX`].
    pub fn is_full_for(&self, bytes: usize) -> bool {
        self.bytes.len() + bytes > FRAME_BYTES_FULL
    }

    /// Completes the frame: its bytes, and its hash, which the next frame names.
    pub fn finish(mut self, place: FramePlace, rules: u16) -> (Vec<u8>, u64) {
        let mut header = FrameHeader {
            magic: FRAME_MAGIC,
            layout: LAYOUT_VERSION.into(),
            rules: rules.into(),
            length: ((self.bytes.len() - size_of::<FrameHeader>()) as u32).into(),
            count: self.count.into(),
            shard: place.shard.0.into(),
            reserved: [0; 6],
            epoch: place.epoch.0.into(),
            first_offset: place.first_offset.0.into(),
            time: place.time.0.into(),
            previous: place.previous.into(),
            hash: 0.into(),
        };
        let (header_bytes, records) = self.bytes.split_at_mut(size_of::<FrameHeader>());
        let hash = hash(&header, records);
        header.hash = hash.into();
        header_bytes.copy_from_slice(header.as_bytes());
        (self.bytes, hash)
    }
}

/// XXH3 over the header with `hash` as zero, then the records.
fn hash(header: &FrameHeader, records: &[u8]) -> u64 {
    let mut header = *header;
    header.hash = 0.into();
    let mut hasher = Xxh3::new();
    hasher.update(header.as_bytes());
    hasher.update(records);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::CommandBuffer;
    use crate::{Amount, Currency, Party};

    fn frame() -> Vec<u8> {
        let mut commands = CommandBuffer::default();
        commands.create_account(Party(1), Currency::GBP, Amount(5));
        let mut builder = FrameBuilder::default();
        builder.push(commands.bytes());
        let place = FramePlace {
            shard: ShardId(0),
            epoch: Epoch(3),
            first_offset: Offset(7),
            time: Time(11),
            previous: 13,
        };
        builder.finish(place, 1).0
    }

    #[test]
    fn a_frame_leads_back_to_its_records() {
        let bytes = [frame(), vec![1, 2, 3]].concat();
        let (frame, rest) = Frame::split(&bytes).unwrap();
        assert_eq!(rest, [1, 2, 3]);
        assert_eq!(frame.next_offset(), Offset(8));
        assert_eq!(frame.place().epoch, Epoch(3));
        assert_eq!(frame.records().next().unwrap().unwrap().party(), Party(1));
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_found(at in 0usize..128, bit in 0u8..8) {
            let mut bytes = frame();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(Frame::split(&bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), magic: bool) {
            if magic && bytes.len() >= 6 {
                bytes[..4].copy_from_slice(&FRAME_MAGIC);
                bytes[4..6].copy_from_slice(&1u16.to_le_bytes());
            }
            prop_assert!(Frame::split(&bytes).is_err());
        }
    }
}
