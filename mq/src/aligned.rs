//! Memory that direct I/O can use.
//!
//! `O_DIRECT` wants address, length and position aligned to the device's block. A buffer made of
//! whole blocks has the first two by construction, without an allocator of our own.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The unit of all I/O of a local log, in bytes: a page, and what disks of today write whole.
pub const BLOCK_BYTES: usize = 4096;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

const _: () = assert!(size_of::<Block>() == BLOCK_BYTES && align_of::<Block>() == BLOCK_BYTES);

/// Bytes at an aligned address, a whole number of blocks, reused from one I/O to the next.
#[derive(Default)]
pub struct AlignedBuf {
    blocks: Vec<Block>,
}

impl AlignedBuf {
    /// Zeroed memory for `bytes`, rounded up to blocks.
    pub fn new(bytes: usize) -> AlignedBuf {
        let mut buffer = AlignedBuf::default();
        buffer.grow(bytes);
        buffer
    }

    /// Makes room for `bytes`, rounded up to blocks. What is in it stays; it never shrinks.
    pub fn grow(&mut self, bytes: usize) {
        let blocks = bytes.div_ceil(BLOCK_BYTES);
        if blocks > self.blocks.len() {
            self.blocks.resize_with(blocks, Block::new_zeroed);
        }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        self.blocks.as_bytes()
    }

    /// All of it, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.blocks.as_mut_bytes()
    }
}

/// `bytes` rounded up to whole blocks.
pub(crate) const fn whole_blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES as u64) * BLOCK_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_keep_their_content() {
        let mut buffer = AlignedBuf::new(1);
        buffer.bytes_mut()[4095] = 7;
        buffer.grow(70_000);
        assert_eq!(buffer.bytes().len(), 73_728);
        assert_eq!(buffer.bytes().as_ptr() as usize % BLOCK_BYTES, 0);
        assert_eq!(buffer.bytes()[4095], 7);
        assert_eq!(whole_blocks(4097), 8192);
    }
}
