//! Snapshots: a shard's state at one moment, saved while the shard goes on.
//!
//! What is small is written down when a snapshot begins. The tables are saved page by page, a few
//! at a time between batches; and a page that is about to change before its turn is saved first
//! (copy on write). So nothing stands still, nothing is forked, and the most that a command waits
//! for is the copies of the pages that it writes to.
//!
//! Saved are rows. Indexes, timers and what shells know are made again of them.
//!
//! A snapshot is a sequence of *parts*, each a word that says what it is and words of content,
//! packed into [`Piece`]s. The first parts are [`Meta`]; the others come in any order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use model::record::RowParts;
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, IntoBytes};

use crate::arena::{REGION_PAGES, REGION_WORDS, Region, Shape, SpareRegions};
use crate::escrow::Contention;
use crate::eviction::Evicted;
use crate::streams::PeerState;

/// Words of a page: 1 KiB, sixteen accounts. Larger ones would be copied for longer while a
/// command waits; smaller ones cost more bookkeeping.
pub(crate) const PAGE_WORDS: usize = 128;
/// Arenas of a realm.
pub(crate) const ARENAS: usize = 8;
/// Pages that are saved in one part.
const RUN_PAGES: usize = 64;
/// Words of one part of what is small.
const META_WORDS: usize = 8 << 10;

/// What a part is: the number of an arena, or one of these.
const META: u8 = 0xf0;
const SWEPT: u8 = 0xf1;

/// Why bytes aren't a snapshot of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the snapshot is malformed: {0}")]
pub struct Malformed(pub(crate) &'static str);

/// What of a shard is no table.
#[derive(Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The shard, how many there are, and the seconds of a step.
    pub(crate) seat: (u16, u16, u64),
    pub(crate) next_offset: u64,
    pub(crate) realms: [Option<RealmMeta>; 2],
}

/// What of a realm is no table. The time isn't in it: that comes with the next frame, and what a
/// command saw that wasn't decided is in no frame.
#[derive(Serialize, Deserialize)]
pub(crate) struct RealmMeta {
    /// The regions of every arena.
    pub(crate) shapes: [Shape; ARENAS],
    /// What has left memory, of orders and of changes.
    pub(crate) evicted: [Evicted; 2],
    pub(crate) absent: Vec<RowParts>,
    pub(crate) swept: u64,
    pub(crate) in_transit: BTreeMap<u16, i128>,
    pub(crate) streams: Vec<PeerState>,
    pub(crate) contended: BTreeMap<u64, Contention>,
    pub(crate) unknown: VecDeque<u64>,
    pub(crate) sweep_next: u64,
    pub(crate) sweep_began: u32,
    pub(crate) swept_step: u32,
}

/// A piece of a snapshot, to be written down. Its memory goes back to the shards when it is
/// dropped.
pub struct Piece {
    region: Option<Region>,
    words: usize,
    spare: SpareRegions,
}

impl Piece {
    fn new(spare: &SpareRegions) -> Piece {
        Piece { region: Some(spare.take_touched()), words: 0, spare: spare.clone() }
    }

    /// Its bytes: at most 2 MiB, a multiple of 8.
    pub fn bytes(&self) -> &[u8] {
        self.region.as_ref().expect("it has one until it is dropped").words()[..self.words]
            .as_bytes()
    }

    fn has_room(&self, words: usize) -> bool {
        self.words + words <= REGION_WORDS
    }

    fn push(&mut self, words: &[u64]) {
        let region = self.region.as_mut().expect("it has one until it is dropped");
        region.words_mut()[self.words..self.words + words.len()].copy_from_slice(words);
        self.words += words.len();
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(region) = self.region.take() {
            self.spare.give_back(region, self.words);
        }
    }
}

/// Where parts go. Clones are handles to the same.
#[derive(Clone)]
pub(crate) struct Sink(Arc<Mutex<Filling>>);

struct Filling {
    piece: Option<Piece>,
    full: Vec<Piece>,
    spare: SpareRegions,
}

impl Sink {
    pub(crate) fn new(spare: &SpareRegions) -> Sink {
        let filling = Filling { piece: None, full: Vec::new(), spare: spare.clone() };
        Sink(Arc::new(Mutex::new(filling)))
    }

    fn lock(&self) -> MutexGuard<'_, Filling> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }

    fn put(&self, part: Part, words: &[u64]) {
        let mut filling = self.lock();
        let filling = &mut *filling;
        if let Some(full) = filling.piece.take_if(|piece| !piece.has_room(1 + words.len())) {
            filling.full.push(full);
        }
        let piece = filling.piece.get_or_insert_with(|| Piece::new(&filling.spare));
        piece.push(&[part.packed()]);
        piece.push(words);
    }

    /// What is there, with the piece at hand if all is.
    pub(crate) fn take(&self, all: bool) -> Vec<Piece> {
        let mut filling = self.lock();
        let mut pieces = std::mem::take(&mut filling.full);
        if all {
            pieces.extend(filling.piece.take());
        }
        pieces
    }

    pub(crate) fn put_meta(&self, meta: &Meta) {
        let mut bytes = postcard::to_stdvec(meta).expect("plain fields have a form");
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let words: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")))
            .collect();
        let pieces = words.chunks(META_WORDS);
        let count = pieces.len();
        for (number, words) in pieces.enumerate() {
            // Counted down, so that the last one says that it is.
            let part = Part { of: META, count: words.len() as u16, first: (count - number) as u32 };
            self.put(part, words);
        }
    }

    pub(crate) fn put_swept(&self, realm: u8, first: usize, swept: &[u64]) {
        let part = Part { of: SWEPT + realm, count: swept.len() as u16, first: first as u32 };
        self.put(part, swept);
    }
}

/// What a part's first word says.
struct Part {
    of: u8,
    /// Pages of an arena, else words.
    count: u16,
    /// The first page, or place.
    first: u32,
}

impl Part {
    fn packed(&self) -> u64 {
        u64::from(self.of) << 56 | u64::from(self.count) << 32 | u64::from(self.first)
    }

    fn unpacked(word: u64) -> Part {
        Part { of: (word >> 56) as u8, count: (word >> 32) as u16, first: word as u32 }
    }

    fn words(&self) -> usize {
        let count = usize::from(self.count);
        if usize::from(self.of) < 2 * ARENAS { count * PAGE_WORDS } else { count }
    }
}

/// A part as it is read back.
pub(crate) enum Saved<'a> {
    Meta(Box<Meta>),
    /// Arena, first page, and the words of pages.
    Pages(usize, usize, &'a [u64]),
    /// Realm, first place, and accounts that are swept.
    Swept(usize, usize, &'a [u64]),
}

/// Reads parts from pieces.
#[derive(Default)]
pub(crate) struct Parts {
    meta: Vec<u8>,
}

impl Parts {
    /// Shows every part of a piece's bytes, which lie as words do.
    pub(crate) fn read(
        &mut self,
        piece: &[u8],
        mut visit: impl FnMut(Saved<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let mut rest =
            <[u64]>::ref_from_bytes(piece).map_err(|_| Malformed("a piece of half a word"))?;
        while let Some((first, after)) = rest.split_first() {
            let part = Part::unpacked(*first);
            let words = after.get(..part.words()).ok_or(Malformed("a part is cut short"))?;
            rest = &after[words.len()..];
            match part.of {
                of if usize::from(of) < 2 * ARENAS => {
                    visit(Saved::Pages(of.into(), part.first as usize, words))?;
                }
                META => {
                    self.meta.extend_from_slice(words.as_bytes());
                    if part.first == 1 {
                        let meta = postcard::take_from_bytes(&self.meta);
                        let (meta, _) = meta.map_err(|_| Malformed("what isn't tables"))?;
                        visit(Saved::Meta(Box::new(meta)))?;
                    }
                }
                of if of == SWEPT || of == SWEPT + 1 => {
                    visit(Saved::Swept((of - SWEPT).into(), part.first as usize, words))?;
                }
                _ => return Err(Malformed("an unknown part")),
            }
        }
        Ok(())
    }
}

/// The pages of an arena that aren't saved, or filled, yet.
pub(crate) struct Unsaved {
    number: u8,
    sink: Sink,
    /// By region, a bit for each page.
    pages: Vec<[u64; REGION_PAGES / 64]>,
    /// By region: how many there are.
    left: Vec<u32>,
    /// Where to look for the next.
    next: usize,
}

impl Unsaved {
    /// All pages of regions of which so many words are used.
    pub(crate) fn new(number: u8, sink: &Sink, shape: &[u32]) -> Unsaved {
        let left: Vec<u32> = shape.iter().map(|used| used.div_ceil(PAGE_WORDS as u32)).collect();
        let bits = |&left: &u32| {
            let mut bits = [0u64; REGION_PAGES / 64];
            for (word, first) in bits.iter_mut().zip((0..).step_by(64)) {
                *word = match left.saturating_sub(first) {
                    0 => 0,
                    count @ 1..64 => (1 << count) - 1,
                    _ => u64::MAX,
                };
            }
            bits
        };
        Unsaved {
            number,
            sink: sink.clone(),
            pages: left.iter().map(bits).collect(),
            left,
            next: 0,
        }
    }

    pub(crate) fn has(&self, page: usize) -> bool {
        let bits = self.pages.get(page / REGION_PAGES).map_or(0, |r| r[page % REGION_PAGES / 64]);
        bits >> (page % 64) & 1 == 1
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left.iter().all(|left| *left == 0)
    }

    /// Crosses a page off. Says whether it was on the list.
    pub(crate) fn take(&mut self, page: usize) -> bool {
        let has = self.has(page);
        if has {
            self.pages[page / REGION_PAGES][page % REGION_PAGES / 64] &= !(1 << (page % 64));
            self.left[page / REGION_PAGES] -= 1;
        }
        has
    }

    /// The next pages, one behind the other in one region.
    pub(crate) fn next_run(&mut self, most: usize) -> Option<(usize, usize)> {
        let all = self.pages.len() * REGION_PAGES;
        while self.next < all && !self.has(self.next) {
            let (region, page) = (self.next / REGION_PAGES, self.next % REGION_PAGES);
            let bits = self.pages[region][page / 64] >> (page % 64);
            self.next += match bits {
                0 => 64 - page % 64,
                _ => bits.trailing_zeros() as usize,
            };
        }
        if self.next >= all {
            return None;
        }
        let first = self.next;
        let end = (first + most.min(RUN_PAGES)).min((first / REGION_PAGES + 1) * REGION_PAGES);
        while self.next < end && self.has(self.next) {
            self.next += 1;
        }
        Some((first, self.next - first))
    }

    /// Saves pages of a region, which are on the list. Says whether others of it are still.
    pub(crate) fn save(&mut self, page: usize, count: usize, words: &[u64]) -> bool {
        let part = Part { of: self.number, count: count as u16, first: page as u32 };
        self.sink.put(part, words);
        for page in page..page + count {
            self.take(page);
        }
        self.left[page / REGION_PAGES] > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pages_are_found_in_runs_and_once() {
        let sink = Sink::new(&SpareRegions::default());
        let mut unsaved = Unsaved::new(3, &sink, &[129 * 128 + 1, 1]);
        assert!(unsaved.take(5) && !unsaved.take(5) && !unsaved.take(130));
        let mut runs = Vec::new();
        while let Some((first, count)) = unsaved.next_run(1_000) {
            (first..first + count).for_each(|page| assert!(unsaved.take(page)));
            runs.push((first, count));
        }
        assert!(unsaved.is_empty());
        assert_eq!(runs, [(0, 5), (6, 64), (70, 60), (REGION_PAGES, 1)]);
    }

    proptest! {
        #[test]
        fn arbitrary_words_never_panic(words in proptest::collection::vec(any::<u64>(), 0..600)) {
            let _ = Parts::default().read(words.as_bytes(), |_| Ok(()));
        }
    }
}
