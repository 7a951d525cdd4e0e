//! Memory for the shard's state: words in regions that never move.
//!
//! State grows with every order, and under load growing must cost nearly nothing. So blocks are
//! carved from regions of 2 MiB, one behind the other, and nothing is ever copied because a
//! vector grew. A region is one huge page, which makes its first touch several times cheaper;
//! and whoever runs shards can have that first touch done elsewhere, ahead of time, for all of
//! them together ([`SpareRegions`]). What a shard leaves behind goes back there. A block is named
//! by its position in words, which fits in 32 bits and so in half an index slot.
//!
//! The oldest blocks can be let go of, in the order in which they came ([`Arena::release`]). A
//! region whose blocks are all gone is used again for new ones.

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use model::planted::{Bug, is_planted};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::index::prefetch;
use crate::snapshot::{Malformed, PAGE_WORDS, Sink, Unsaved};

/// Words of a region: 2 MiB, a huge page. Blocks don't straddle regions; the largest order is
/// some 100 KiB.
pub(crate) const REGION_WORDS: usize = 256 << 10;
/// Pages of a region.
pub(crate) const REGION_PAGES: usize = REGION_WORDS / PAGE_WORDS;
const REGION_BYTES: usize = REGION_WORDS * 8;
/// Where there are no huge pages.
const SMALL_PAGE_BYTES: usize = 4096;
/// So that a position is 32 bits: 32 GiB in all.
const REGIONS_MAX: usize = (1 << 32) / REGION_WORDS;
/// Regions that are mapped together when they are made ready ahead: 64 MiB.
const CHUNK_REGIONS: usize = 32;
/// Regions kept for what has been let in: 128 MiB, many times what a request may hold.
const ROOM_REGIONS: usize = 64;
/// A cache line.
pub(crate) const LINE_WORDS: usize = 8;
/// Words left unused at the start of an arena, so that position 0 can mean "none" and blocks of
/// 64 bytes lie in one cache line each.
pub(crate) const UNUSED_WORDS: usize = 8;

/// Where a block begins, in words. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Pos(pub u32);

/// A growing memory of 8-byte words.
#[derive(Default)]
pub(crate) struct Arena {
    /// By number, which is part of a position.
    regions: Vec<Region>,
    /// The region that new blocks are carved from.
    newest: usize,
    /// The regions with blocks, the oldest first, the newest last; and those without.
    live: VecDeque<u32>,
    free: Vec<u32>,
    /// Where the oldest block begins in the oldest region.
    oldest: usize,
    /// How many regions were let go of.
    freed: u64,
    spare: SpareRegions,
    /// While a snapshot is taken: what of it isn't saved yet.
    unsaved: Option<Box<Unsaved>>,
}

/// Memory that was touched already, for arenas to take when they grow. Without any they map
/// their own, and the shard waits for it. Clones are handles to the same memory.
#[derive(Clone, Default)]
pub struct SpareRegions(Arc<Mutex<Vec<Region>>>);

impl SpareRegions {
    /// How many regions of 2 MiB are ready.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Makes 32 more ready: some tens of milliseconds, on whatever thread calls.
    pub fn add(&self) {
        let mut regions = map(CHUNK_REGIONS);
        regions.iter_mut().for_each(Region::touch);
        self.lock().append(&mut regions);
    }

    fn take(&self) -> Option<Region> {
        self.lock().pop()
    }

    /// A region of zeros that was touched, now if it has to be.
    pub(crate) fn take_touched(&self) -> Region {
        self.take().unwrap_or_else(|| {
            let mut region = map(1).pop().expect("one was mapped");
            region.touch();
            region
        })
    }

    /// Takes a region back whose first `used` words were written.
    pub(crate) fn give_back(&self, mut region: Region, used: usize) {
        region.words_mut()[..used].fill(0);
        (region.used, region.is_unsaved) = (0, false);
        self.lock().push(region);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Region>> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }
}

pub(crate) struct Region {
    words: NonNull<u64>,
    used: usize,
    /// Some of its pages are to be saved before they are written to.
    is_unsaved: bool,
    _mapping: Arc<Mapping>,
}

/// What was mapped at once; unmapped when the last of its regions is gone.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a region owns its words, and hands them out only through borrows of itself.
unsafe impl Send for Region {}
// SAFETY: as above; a shared borrow only reads.
unsafe impl Sync for Region {}
// SAFETY: a mapping hands out nothing; its regions do, each its own words.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// New regions of zeros, side by side, not yet touched.
fn map(count: usize) -> Vec<Region> {
    let bytes = (count + 1) * REGION_BYTES;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    let start =
        unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE) };
    // The allocator would abort likewise: there is no state to go on with.
    let start = start.expect("the machine has memory for the shard's state");
    let start = NonNull::new(start.cast::<u8>()).expect("a mapping isn't at address 0");
    let mapping = Arc::new(Mapping { start, bytes });
    let skip = start.as_ptr().align_offset(REGION_BYTES);
    // SAFETY: the mapping is one region longer than all of them, so `skip` stays inside.
    let first = unsafe { start.add(skip) };
    // SAFETY: the range lies within the mapping. Without huge pages it is merely slower, so a
    // refusal changes nothing.
    let _ = unsafe { madvise(first.as_ptr().cast(), count * REGION_BYTES, Advice::LinuxHugepage) };
    let region = |number: usize| Region {
        // SAFETY: `count` regions lie behind `first` within the mapping.
        words: unsafe { first.add(number * REGION_BYTES) }.cast(),
        used: 0,
        is_unsaved: false,
        _mapping: mapping.clone(),
    };
    (0..count).map(region).collect()
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no region of it is left to borrow from.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

impl Region {
    /// Writes to every page of a new region. Reading one first would have the kernel lend a page
    /// of zeros, and take it back at the first write.
    fn touch(&mut self) {
        for word in self.words_mut().iter_mut().step_by(SMALL_PAGE_BYTES / 8) {
            // SAFETY: a valid, exclusive reference; volatile so that the store stays.
            unsafe { std::ptr::write_volatile(word, 0) };
        }
    }

    pub(crate) fn words(&self) -> &[u64] {
        // SAFETY: `words` points to REGION_WORDS zeroed or written words that live as long as
        // the region; `&self` keeps writers away.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), REGION_WORDS) }
    }

    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: as in `words`, and `&mut self` makes the borrow the only one.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_ptr(), REGION_WORDS) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Others can use it again, and needn't touch it first.
        for region in self.regions.drain(..) {
            let used = region.used;
            self.spare.give_back(region, used);
        }
    }
}

impl Arena {
    /// An empty arena that grows into `spare` first.
    pub(crate) fn new(spare: &SpareRegions) -> Arena {
        Arena {
            regions: Vec::new(),
            newest: 0,
            live: VecDeque::new(),
            free: Vec::new(),
            oldest: 0,
            freed: 0,
            spare: spare.clone(),
            unsaved: None,
        }
    }

    /// A new block: of zeros, unless blocks were let go of.
    pub(crate) fn allocate(&mut self, words: usize) -> Pos {
        assert!(words <= REGION_WORDS - UNUSED_WORDS, "a block of {words} words passes a region");
        let fits = |region: &Region| region.used + words <= REGION_WORDS;
        if !self.regions.get(self.newest).is_some_and(fits) {
            self.add_region();
        }
        let region = &mut self.regions[self.newest];
        let start = region.used;
        region.used += words;
        Pos((self.newest * REGION_WORDS + start) as u32)
    }

    #[cold]
    fn add_region(&mut self) {
        self.newest = match self.free.pop() {
            Some(number) => number as usize,
            None => {
                let number = self.regions.len();
                assert!(number < REGIONS_MAX, "the shell keeps within has_room");
                let mut region = self.spare.take().unwrap_or_else(|| {
                    let mut region = map(1).pop().expect("one was mapped");
                    // Of many tables the first region is all they ever have, and never used.
                    if number > 0 {
                        region.touch();
                    }
                    region
                });
                region.used = start_of(number);
                self.regions.push(region);
                number
            }
        };
        if self.live.is_empty() {
            self.oldest = start_of(self.newest);
        }
        self.live.push_back(self.newest as u32);
    }

    /// How many words had come, with those at the ends of regions, when the oldest block did.
    pub(crate) fn tail(&self) -> u64 {
        self.freed * REGION_WORDS as u64 + self.oldest as u64
    }

    /// How many have come by now.
    pub(crate) fn head(&self) -> u64 {
        let used = self.regions.get(self.newest).map_or(0, |region| region.used);
        let before = self.freed + self.live.len().saturating_sub(1) as u64;
        before * REGION_WORDS as u64 + used as u64
    }

    /// The words from the oldest block on, and where that begins: to the end of its region.
    pub(crate) fn oldest(&self) -> Option<(Pos, &[u64])> {
        self.used().find(|(_, words)| !words.is_empty())
    }

    /// Lets go of the oldest block, of so many words.
    pub(crate) fn release(&mut self, words: usize) {
        let is_done = |arena: &Arena| {
            let region = arena.live.front().map(|number| &arena.regions[*number as usize]);
            arena.live.len() > 1 && region.is_some_and(|region| region.used == arena.oldest)
        };
        self.leave_done(is_done);
        self.oldest += words;
        self.leave_done(is_done);
    }

    /// Leaves regions without blocks.
    fn leave_done(&mut self, is_done: impl Fn(&Arena) -> bool) {
        while is_done(self) {
            let number = self.live.pop_front().expect("there are two");
            self.regions[number as usize].used = start_of(number as usize);
            self.free.push(number);
            self.freed += 1;
            self.oldest = start_of(self.live[0] as usize);
        }
    }

    /// Asks the processor to fetch the memory of the next block of so many words.
    pub(crate) fn prefetch_next(&self, words: usize) {
        let Some(region) = self.regions.get(self.newest) else { return };
        for line in region.words()[region.used..].iter().take(words).step_by(LINE_WORDS) {
            prefetch(line);
        }
    }

    /// Whether there is room for what one submission can take at most, and then some.
    pub(crate) fn has_room(&self) -> bool {
        self.live.len() < REGIONS_MAX - ROOM_REGIONS
    }

    /// Regions that it took.
    pub(crate) fn regions(&self) -> u64 {
        self.regions.len() as u64
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.used as u64 * 8).sum()
    }

    pub(crate) fn words(&self, pos: Pos) -> &[u64] {
        let pos = pos.0 as usize;
        &self.regions[pos / REGION_WORDS].words()[pos % REGION_WORDS..]
    }

    /// So many words from `pos` on, to change.
    pub(crate) fn words_mut(&mut self, pos: Pos, words: usize) -> &mut [u64] {
        let at = pos.0 as usize;
        let region = &mut self.regions[at / REGION_WORDS];
        if region.is_unsaved {
            let unsaved = self.unsaved.as_mut();
            save_before(
                region,
                unsaved.expect("regions are unsaved while they are saved"),
                at,
                words,
            );
        }
        &mut region.words_mut()[at % REGION_WORDS..][..words]
    }

    /// The block at `pos` as a `T`.
    pub(crate) fn get<T: Block>(&self, pos: Pos) -> &T {
        const { assert!(align_of::<T>() <= align_of::<u64>()) }
        let words = self.words(pos);
        assert!(size_of_val(words) >= size_of::<T>(), "a block is whole");
        // SAFETY: the words are borrowed, aligned for a `T` and enough for one, and a `T` may be
        // any bytes.
        unsafe { &*words.as_ptr().cast::<T>() }
    }

    /// The block at `pos` as a `T`, to change.
    pub(crate) fn get_mut<T: Block>(&mut self, pos: Pos) -> &mut T {
        const { assert!(align_of::<T>() <= align_of::<u64>()) }
        let words = self.words_mut(pos, size_of::<T>() / 8);
        // SAFETY: the words are borrowed by nobody else, aligned for a `T` and enough for one,
        // and both a `T` and words may be any bytes.
        unsafe { &mut *words.as_mut_ptr().cast::<T>() }
    }

    /// A new block that holds `value`.
    pub(crate) fn push<T: Block>(&mut self, value: T) -> Pos {
        let pos = self.allocate(size_of::<T>() / 8);
        *self.get_mut(pos) = value;
        pos
    }

    /// Every block, the oldest first, where all of them are of `T`'s size.
    pub(crate) fn iter<'a, T: Block + 'a>(&'a self) -> impl Iterator<Item = &'a T> {
        self.iter_pos().map(|(_, block)| block)
    }

    /// The same with their positions.
    pub(crate) fn iter_pos<'a, T: Block + 'a>(&'a self) -> impl Iterator<Item = (Pos, &'a T)> {
        self.iter_behind(None)
    }

    /// The same from behind a block on.
    pub(crate) fn iter_behind<'a, T: Block + 'a>(
        &'a self,
        block: Option<Pos>,
    ) -> impl Iterator<Item = (Pos, &'a T)> {
        let words = size_of::<T>() / 8;
        let is_before = move |first: Pos| {
            block
                .is_some_and(|pos| pos.0 as usize / REGION_WORDS != first.0 as usize / REGION_WORDS)
        };
        let regions = self.used().skip_while(move |(first, _)| is_before(*first));
        regions.flat_map(move |(first, used)| {
            let done = match block {
                Some(pos) if !is_before(first) => (pos.0 - first.0) as usize + words,
                _ => 0,
            };
            used[done..].chunks_exact(words).enumerate().map(move |(number, block)| {
                let block = T::ref_from_bytes(block.as_bytes());
                let pos = Pos(first.0 + (done + number * words) as u32);
                (pos, block.expect("a block is whole and aligned"))
            })
        })
    }

    /// The used words of each region with blocks and where they begin, the oldest first, for
    /// blocks of various sizes.
    pub(crate) fn used(&self) -> impl Iterator<Item = (Pos, &[u64])> {
        self.live.iter().enumerate().map(|(age, &number)| {
            let number = number as usize;
            let region = &self.regions[number];
            let first = if age == 0 { self.oldest } else { start_of(number) };
            (Pos((number * REGION_WORDS + first) as u32), &region.words()[first..region.used])
        })
    }

    /// Its regions.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            used: self.regions.iter().map(|region| region.used as u32).collect(),
            live: self.live.iter().copied().collect(),
            oldest: self.oldest as u32,
            freed: self.freed,
        }
    }

    /// From now on no page is written to before it is in `sink`, under `number`, as it is now.
    pub(crate) fn begin_saving(&mut self, number: u8, sink: &Sink) {
        let unsaved = Unsaved::new(number, sink, &self.shape().used);
        self.regions.iter_mut().for_each(|region| region.is_unsaved = region.used > 0);
        self.unsaved = Some(Box::new(unsaved));
    }

    /// Saves up to so many pages that follow. Returns how many those were: fewer when all are
    /// saved.
    pub(crate) fn save_pages(&mut self, most: usize) -> usize {
        let Some(unsaved) = &mut self.unsaved else { return 0 };
        let mut saved = 0;
        while saved < most
            && let Some((page, count)) = unsaved.next_run(most - saved)
        {
            let region = &mut self.regions[page / REGION_PAGES];
            let first = page % REGION_PAGES * PAGE_WORDS;
            let words = &region.words()[first..first + count * PAGE_WORDS];
            region.is_unsaved = unsaved.save(page, count, words);
            saved += count;
        }
        if saved < most {
            self.stop_saving();
        }
        saved
    }

    /// Saves what is left no more.
    pub(crate) fn stop_saving(&mut self) {
        self.regions.iter_mut().for_each(|region| region.is_unsaved = false);
        self.unsaved = None;
    }

    /// Makes regions of that shape, to be filled page by page.
    pub(crate) fn begin_restoring(&mut self, shape: &Shape) -> Result<(), Malformed> {
        const WRONG: Malformed = Malformed("an arena's shape");
        if !self.regions.is_empty() || shape.used.len() > REGIONS_MAX {
            return Err(WRONG);
        }
        for &used in &shape.used {
            let used = used as usize;
            if used > REGION_WORDS || used < start_of(self.regions.len()) {
                return Err(WRONG);
            }
            let mut region = self.spare.take_touched();
            region.used = used;
            self.regions.push(region);
        }
        let mut is_live = vec![false; shape.used.len()];
        for &number in &shape.live {
            match is_live.get_mut(number as usize) {
                Some(is_live) if !*is_live => *is_live = true,
                _ => return Err(WRONG),
            }
        }
        let free = (0u32..).zip(&is_live).filter(|(_, is_live)| !**is_live);
        self.free = free.map(|(number, _)| number).collect();
        self.live = shape.live.iter().copied().collect();
        (self.oldest, self.freed) = (shape.oldest as usize, shape.freed);
        let used = |number: &u32| shape.used[*number as usize];
        if shape.oldest > self.live.front().map_or(0, used) {
            return Err(WRONG);
        }
        // Without any, the next block adds one.
        self.newest = self.live.back().map_or(usize::MAX, |number| *number as usize);
        self.unsaved = Some(Box::new(Unsaved::new(0, &Sink::new(&self.spare), &shape.used)));
        Ok(())
    }

    /// Fills pages that weren't filled yet.
    pub(crate) fn restore_pages(&mut self, page: usize, words: &[u64]) -> Result<(), Malformed> {
        let unsaved = self.unsaved.as_mut().ok_or(Malformed("a page before its arena"))?;
        for (page, words) in (page..).zip(words.chunks(PAGE_WORDS)) {
            if words.len() != PAGE_WORDS || !unsaved.take(page) {
                return Err(Malformed("a page that isn't asked for"));
            }
            let region = &mut self.regions[page / REGION_PAGES];
            let first = page % REGION_PAGES * PAGE_WORDS;
            region.words_mut()[first..first + PAGE_WORDS].copy_from_slice(words);
        }
        Ok(())
    }

    /// All pages were filled.
    pub(crate) fn end_restoring(&mut self) -> Result<(), Malformed> {
        match self.unsaved.take() {
            Some(unsaved) if unsaved.is_empty() => Ok(()),
            _ => Err(Malformed("a page is missing")),
        }
    }
}

/// Saves the pages of a region that are about to change.
#[cold]
fn save_before(region: &mut Region, unsaved: &mut Unsaved, at: usize, words: usize) {
    if is_planted(Bug::PageNotKept) {
        return;
    }
    let last = (at + words.max(1) - 1) / PAGE_WORDS;
    for page in at / PAGE_WORDS..=last {
        if unsaved.has(page) {
            let first = page % REGION_PAGES * PAGE_WORDS;
            let words = &region.words()[first..first + PAGE_WORDS];
            region.is_unsaved = unsaved.save(page, 1, words);
        }
    }
}

/// What regions an arena has.
#[derive(Serialize, Deserialize)]
pub(crate) struct Shape {
    /// By number: words used.
    used: Vec<u32>,
    /// Those with blocks, the oldest first.
    live: Vec<u32>,
    /// Where the oldest block begins in the oldest of them.
    oldest: u32,
    /// How many were let go of.
    freed: u64,
}

/// Where blocks begin in a region.
fn start_of(region: usize) -> usize {
    if region == 0 { UNUSED_WORDS } else { 0 }
}

/// What can lie in an arena: plain words.
pub(crate) trait Block: FromBytes + IntoBytes + KnownLayout + Immutable {}

impl<T: FromBytes + IntoBytes + KnownLayout + Immutable> Block for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_keep_what_they_hold_across_regions() {
        let mut arena = Arena::default();
        let words = REGION_WORDS / 3;
        let blocks: Vec<Pos> = (0..7u64)
            .map(|n| {
                let pos = arena.allocate(words);
                arena.words_mut(pos, words)[words - 1] = n;
                pos
            })
            .collect();
        for (n, &pos) in blocks.iter().enumerate() {
            assert_ne!(pos.0, 0);
            assert_eq!(arena.words(pos)[words - 1], n as u64);
        }
        assert!(arena.regions.len() >= 3);
    }

    #[test]
    fn blocks_behind_another_are_found_in_every_region() {
        let mut arena = Arena::default();
        let count = 3 * (REGION_WORDS / 8) as u64 + 5;
        let all: Vec<Pos> = (0..count).map(|n| arena.push([n; 8])).collect();
        for at in [0, 1, REGION_WORDS / 8 - 2, REGION_WORDS / 8 - 1, REGION_WORDS / 8, 98_000] {
            let mut rest = arena.iter_behind::<[u64; 8]>(Some(all[at]));
            let (pos, block) = rest.next().unwrap();
            assert_eq!((pos, block[0]), (all[at + 1], at as u64 + 1));
            assert_eq!(rest.count(), all.len() - at - 2);
        }
        assert_eq!(arena.iter_behind::<[u64; 8]>(all.last().copied()).count(), 0);
    }

    #[test]
    fn regions_whose_blocks_are_gone_are_used_again() {
        let mut arena = Arena::default();
        let words = REGION_WORDS / 4 + 1; // Three in a region.
        let mut blocks = VecDeque::new();
        for n in 1..=100u64 {
            let pos = arena.allocate(words);
            arena.words_mut(pos, words).fill(n);
            blocks.push_back((pos, n));
            if n > 7 {
                let (oldest, n) = blocks.pop_front().unwrap();
                let (pos, found) = arena.oldest().unwrap();
                assert_eq!((pos, found[0], found[words - 1]), (oldest, n, n));
                arena.release(words);
            }
            let used = arena.used().flat_map(|(_, used)| used.chunks_exact(words));
            let found: Vec<u64> = used.map(|block| block[0]).collect();
            assert_eq!(found, blocks.iter().map(|(_, n)| *n).collect::<Vec<_>>());
            assert!(arena.tail() <= arena.head() && arena.regions.len() <= 5);
        }
    }
}
