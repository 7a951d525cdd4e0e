//! From a key's hash to the position of its block: extendible hashing.
//!
//! A directory of 2^depth entries points to segments of 4,096 slots; a key's hash picks the
//! segment by its high bits and the slot by its low ones. A segment that is three quarters full
//! is split in two, which moves at most its own 3,072 slots: there is never a moment in which
//! the whole table is rebuilt (R. Fagin et al., "Extendible hashing", ACM TODS 4(3), 1979).
//! Doubling the directory copies eight bytes a segment.
//!
//! A slot keeps 32 bits of the hash beside the position, so a miss rarely looks at a block.
//!
//! Segments lie one behind the other, so that a segment's number says where its slots are, and
//! what a look-up reads before it gets to them is small: with 20 million blocks, 32 KiB of
//! directory and, to insert, 16 KiB of lengths. Both stay in a core's cache, where entries of 16
//! bytes didn't.

use crate::arena::{Arena, Pos, SpareRegions, UNUSED_WORDS};

const SLOTS: usize = 4096;
const SLOT_MASK: usize = SLOTS - 1;
/// Beyond this a segment splits: probes stay short.
const SPLIT_AT: u16 = (SLOTS / 4 * 3) as u16;
/// The bits that pick the slot and those that pick the segment don't overlap.
const DEPTH_MAX: u32 = 32 - SLOTS.trailing_zeros();

/// The part of a key's hash that the index uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hash32(pub u32);

impl From<u64> for Hash32 {
    fn from(hash: u64) -> Hash32 {
        Hash32((hash >> 32) as u32)
    }
}

/// Finds blocks by hash. The caller compares keys.
pub(crate) struct Index {
    slots: Arena,
    /// By segment, from 1 on: the blocks in it.
    lens: Vec<u16>,
    /// And what only splits look at.
    segments: Vec<Segment>,
    /// By the high bits of a hash: the segment.
    directory: Vec<u32>,
    depth: u32,
    len: u64,
}

/// How far tables have grown. The difference of two says what a batch had to pay for growing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Grown {
    /// Regions of 2 MiB that arenas took.
    pub regions: u64,
    /// Segments of 4,096 slots: one more for each split.
    pub segments: u64,
    /// Entries of directories, which double when the deepest segment splits.
    pub directory_entries: u64,
}

impl Grown {
    /// What was added since `before`.
    pub fn since(self, before: Grown) -> Grown {
        Grown {
            regions: self.regions - before.regions,
            segments: self.segments - before.segments,
            directory_entries: self.directory_entries - before.directory_entries,
        }
    }

    pub(crate) fn with(self, arena: &Arena) -> Grown {
        Grown { regions: self.regions + arena.regions(), ..self }
    }
}

impl std::iter::Sum for Grown {
    fn sum<I: Iterator<Item = Grown>>(all: I) -> Grown {
        all.fold(Grown::default(), |a, b| Grown {
            regions: a.regions + b.regions,
            segments: a.segments + b.segments,
            directory_entries: a.directory_entries + b.directory_entries,
        })
    }
}

#[derive(Clone, Copy, Default)]
struct Segment {
    /// How many high bits of the hash all its keys share,
    depth: u32,
    /// and which: the least hash that leads here.
    prefix: u32,
}

/// Where a segment's slots are.
fn slots_of(segment: u32) -> Pos {
    Pos(segment * SLOTS as u32)
}

impl Index {
    /// An empty index that grows into `spare` first.
    pub(crate) fn new(spare: &SpareRegions) -> Index {
        let mut slots = Arena::new(spare);
        // Segments begin at multiples of their length. The first one is number 1.
        slots.allocate(SLOTS - UNUSED_WORDS);
        let mut index = Index {
            slots,
            lens: vec![0],
            segments: vec![Segment::default()],
            directory: Vec::new(),
            depth: 0,
            len: 0,
        };
        let first = index.add_segment(Segment::default());
        index.directory.push(first);
        index
    }

    fn add_segment(&mut self, segment: Segment) -> u32 {
        let number = self.segments.len() as u32;
        let at = self.slots.allocate(SLOTS);
        assert!(at == slots_of(number), "segments lie one behind the other");
        self.segments.push(segment);
        self.lens.push(0);
        number
    }

    /// The first block with this hash that `is_it` accepts.
    pub(crate) fn find(&self, hash: Hash32, mut is_it: impl FnMut(Pos) -> bool) -> Option<Pos> {
        let slots = &self.slots.words(slots_of(self.segment_of(hash)))[..SLOTS];
        let mut at = hash.0 as usize & SLOT_MASK;
        loop {
            let (found, pos) = unpack(slots[at & SLOT_MASK]);
            if pos.0 == 0 {
                return None;
            }
            if found == hash && is_it(pos) {
                return Some(pos);
            }
            at += 1;
        }
    }

    /// Adds a block that isn't in it.
    pub(crate) fn insert(&mut self, hash: Hash32, pos: Pos) {
        let mut segment = self.segment_of(hash);
        while self.lens[segment as usize] >= SPLIT_AT && self.can_split(segment) {
            self.split(segment);
            segment = self.segment_of(hash);
        }
        let len = &mut self.lens[segment as usize];
        // At the greatest depth there are 2^20 segments, more slots than an arena has blocks.
        assert!(usize::from(*len) < SLOTS - 1, "the index is full");
        *len += 1;
        self.len += 1;
        put(self.slots.words_mut(slots_of(segment), SLOTS), hash, pos);
    }

    /// Takes out a block that is in it.
    pub(crate) fn remove(&mut self, hash: Hash32, pos: Pos) {
        let segment = self.segment_of(hash);
        let slots = self.slots.words_mut(slots_of(segment), SLOTS);
        let slot = u64::from(hash.0) << 32 | u64::from(pos.0);
        let mut hole = hash.0 as usize & SLOT_MASK;
        while slots[hole] != slot {
            assert!(slots[hole] != 0, "it is in the index");
            hole = (hole + 1) & SLOT_MASK;
        }
        // What stands behind it moves up, unless it would stand before where it is looked for
        // (D. Knuth, "The Art of Computer Programming", volume 3, 6.4, algorithm R).
        let mut at = hole;
        loop {
            at = (at + 1) & SLOT_MASK;
            if slots[at] == 0 {
                break;
            }
            let first = unpack(slots[at]).0.0 as usize & SLOT_MASK;
            let stays = at.wrapping_sub(first) & SLOT_MASK < at.wrapping_sub(hole) & SLOT_MASK;
            if !stays {
                slots[hole] = slots[at];
                hole = at;
            }
        }
        slots[hole] = 0;
        self.lens[segment as usize] -= 1;
        self.len -= 1;
    }

    /// How many blocks it finds.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// How far it has grown: regions, segments, and entries of its directory.
    pub(crate) fn grown(&self) -> Grown {
        Grown {
            regions: self.slots.regions(),
            segments: self.segments.len() as u64 - 1,
            directory_entries: self.directory.len() as u64,
        }
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.slots.bytes() + self.directory.len() as u64 * 4
    }

    /// Asks the processor to fetch the slots where `hash` would be.
    pub(crate) fn prefetch(&self, hash: Hash32) {
        let slots = slots_of(self.segment_of(hash));
        prefetch(&self.slots.words(slots)[hash.0 as usize & SLOT_MASK]);
    }

    /// The block that a slot near `hash` most likely means, without comparing keys.
    pub(crate) fn guess(&self, hash: Hash32) -> Option<Pos> {
        self.find(hash, |_| true)
    }

    /// Splits ahead until `len` blocks fit without another split.
    pub(crate) fn reserve(&mut self, len: u64) {
        let mut depth = 0;
        // Segments fill unevenly: keep a tenth aside.
        while (u64::from(SPLIT_AT) * 9 / 10) << depth < len && depth < DEPTH_MAX {
            depth += 1;
        }
        let mut number = 1;
        while number < self.segments.len() {
            while self.segments[number].depth < depth {
                self.split(number as u32);
            }
            number += 1;
        }
    }

    fn segment_of(&self, hash: Hash32) -> u32 {
        self.directory[self.entry_of(hash)]
    }

    #[cold]
    fn can_split(&self, segment: u32) -> bool {
        self.segments[segment as usize].depth < DEPTH_MAX
    }

    fn entry_of(&self, hash: Hash32) -> usize {
        // At depth 0 the shift takes all 32 bits away, which needs a wider word.
        (u64::from(hash.0) >> (32 - self.depth)) as usize
    }

    fn split(&mut self, number: u32) {
        let Segment { depth, prefix } = self.segments[number as usize];
        if depth == self.depth {
            self.directory = self.directory.iter().flat_map(|&entry| [entry, entry]).collect();
            self.depth += 1;
        }
        let old: Vec<u64> = {
            let words = self.slots.words_mut(slots_of(number), SLOTS);
            let old = words.iter().copied().filter(|&slot| slot != 0).collect();
            words.fill(0);
            old
        };
        let upper = Segment { depth: depth + 1, prefix: prefix | 1 << (31 - depth) };
        let sibling = self.add_segment(upper);
        self.segments[number as usize].depth += 1;
        self.lens[number as usize] = 0;
        for slot in old {
            let (hash, pos) = unpack(slot);
            let to = if hash.0 >> (31 - depth) & 1 == 0 { number } else { sibling };
            self.lens[to as usize] += 1;
            put(self.slots.words_mut(slots_of(to), SLOTS), hash, pos);
        }
        // The upper half of the entries that led here lead to the sibling now.
        let first = self.entry_of(Hash32(upper.prefix));
        self.directory[first..first + (1 << (self.depth - upper.depth))].fill(sibling);
    }
}

fn put(slots: &mut [u64], hash: Hash32, pos: Pos) {
    let mut at = hash.0 as usize & SLOT_MASK;
    while slots[at] != 0 {
        at = (at + 1) & SLOT_MASK;
    }
    slots[at] = u64::from(hash.0) << 32 | u64::from(pos.0);
}

fn unpack(slot: u64) -> (Hash32, Pos) {
    (Hash32((slot >> 32) as u32), Pos(slot as u32))
}

/// Asks the processor to fetch the cache line of `word`.
pub(crate) fn prefetch(word: &u64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address is harmless, and this one is valid.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(word).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = word;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn spread(n: u64) -> Hash32 {
        Hash32::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn finds_everything_through_many_splits() {
        let mut index = Index::new(&SpareRegions::default());
        for n in 1..=100_000u64 {
            index.insert(spread(n), Pos(n as u32));
        }
        assert_eq!(index.len(), 100_000);
        assert!(index.segments.len() > 30);
        for n in 1..=100_000u64 {
            assert_eq!(index.find(spread(n), |pos| u64::from(pos.0) == n), Some(Pos(n as u32)));
        }
        assert_eq!(index.find(spread(100_001), |pos| pos.0 == 100_001), None);
    }

    #[test]
    fn reserving_splits_ahead_and_loses_nothing() {
        let mut index = Index::new(&SpareRegions::default());
        for n in 1..=2_000u64 {
            index.insert(spread(n), Pos(n as u32));
        }
        index.reserve(1_000_000);
        let segments = index.segments.len();
        for n in 2_001..=1_000_000u64 {
            index.insert(spread(n), Pos(n as u32));
        }
        assert_eq!(index.segments.len(), segments);
        for n in 1..=1_000_000u64 {
            assert!(index.find(spread(n), |pos| u64::from(pos.0) == n).is_some());
        }
    }

    proptest! {
        #[test]
        fn what_was_taken_out_is_gone_and_the_rest_is_found(
            keys in proptest::collection::vec((0u32..60, any::<bool>()), 1..400),
        ) {
            let mut index = Index::new(&SpareRegions::default());
            // Hashes that stand close together, around the end of a segment.
            let hash = |n: u32| Hash32((n.wrapping_mul(7) % 40).wrapping_sub(20) & SLOT_MASK as u32);
            let mut there = Vec::new();
            for (n, (key, add)) in keys.iter().enumerate() {
                if *add || there.is_empty() {
                    let pos = Pos(n as u32 + 1);
                    index.insert(hash(*key), pos);
                    there.push((*key, pos));
                } else {
                    let (key, pos) = there.swap_remove(*key as usize % there.len());
                    index.remove(hash(key), pos);
                    prop_assert_eq!(index.find(hash(key), |found| found == pos), None);
                }
                for (key, pos) in &there {
                    prop_assert_eq!(index.find(hash(*key), |found| found == *pos), Some(*pos));
                }
            }
            prop_assert_eq!(index.len(), there.len() as u64);
        }

        #[test]
        fn equal_hashes_are_told_apart(keys in proptest::collection::vec((0u32..50, any::<u32>()), 1..600)) {
            let mut index = Index::new(&SpareRegions::default());
            let mut model = HashMap::new();
            for (n, (hash, _)) in keys.iter().enumerate() {
                index.insert(Hash32(*hash << 20), Pos(n as u32 + 1));
                model.insert(n as u32 + 1, *hash << 20);
            }
            for (pos, hash) in model {
                prop_assert_eq!(index.find(Hash32(hash), |found| found.0 == pos), Some(Pos(pos)));
            }
        }
    }
}
