//! Rows that are found by a key: an arena for the rows, and an index into it.

use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;

use foldhash::fast::FixedState;

use crate::arena::{Arena, Block, Pos, SpareRegions};
use crate::index::{Grown, Hash32, Index, prefetch};

/// Rows whose slots are fetched together when an index is made again.
const REBUILD_AHEAD: usize = 32;

/// A row, which its key names.
pub(crate) trait Row: Block {
    type Key: Copy + Eq + Hash;

    fn key(&self) -> Self::Key;
}

/// Rows of one kind. Only the oldest is ever removed.
pub(crate) struct Table<R> {
    rows: Arena,
    /// Comes into being with the first row: many tables never have one.
    index: Option<Index>,
    hasher: FixedState,
    spare: SpareRegions,
    of: PhantomData<R>,
}

impl<R: Row> Table<R> {
    /// An empty table that grows into `spare` first.
    pub(crate) fn new(hasher: &FixedState, spare: &SpareRegions) -> Table<R> {
        Table {
            rows: Arena::new(spare),
            index: None,
            hasher: hasher.clone(),
            spare: spare.clone(),
            of: PhantomData,
        }
    }

    fn hash(&self, key: R::Key) -> Hash32 {
        self.hasher.hash_one(key).into()
    }

    pub(crate) fn find(&self, key: R::Key) -> Option<Pos> {
        self.index.as_ref()?.find(self.hash(key), |pos| self.get(pos).key() == key)
    }

    pub(crate) fn get(&self, pos: Pos) -> &R {
        self.rows.get(pos)
    }

    pub(crate) fn get_mut(&mut self, pos: Pos) -> &mut R {
        self.rows.get_mut(pos)
    }

    /// Adds a row whose key isn't there yet.
    pub(crate) fn insert(&mut self, row: R) -> Pos {
        let hash = self.hash(row.key());
        let pos = self.rows.push(row);
        self.index.get_or_insert_with(|| Index::new(&self.spare)).insert(hash, pos);
        pos
    }

    /// The oldest row.
    pub(crate) fn oldest(&self) -> Option<(Pos, &R)> {
        self.rows.oldest().map(|(pos, _)| (pos, self.get(pos)))
    }

    /// Forgets the oldest row.
    pub(crate) fn remove_oldest(&mut self) {
        let Some((pos, row)) = self.oldest() else { return };
        let hash = self.hash(row.key());
        self.index.as_mut().expect("it has rows").remove(hash, pos);
        self.rows.release(size_of::<R>() / 8);
    }

    /// How far the table had come when its oldest row came in, and how far it has by now, in
    /// words.
    pub(crate) fn span(&self) -> (u64, u64) {
        (self.rows.tail(), self.rows.head())
    }

    /// The rows' memory, to save and to restore.
    pub(crate) fn rows(&mut self) -> &mut Arena {
        &mut self.rows
    }

    /// Makes the index again, after all rows were restored.
    pub(crate) fn rebuild(&mut self) {
        let rows = self.rows.iter::<R>().count() as u64;
        self.index = None;
        self.reserve(rows);
        let Some(index) = &mut self.index else { return };
        let mut ahead = [(Hash32(0), Pos(0)); REBUILD_AHEAD];
        let mut rows = self.rows.iter_pos::<R>();
        loop {
            let mut count = 0;
            for (slot, (pos, row)) in ahead.iter_mut().zip(&mut rows) {
                *slot = (self.hasher.hash_one(row.key()).into(), pos);
                index.prefetch(slot.0);
                count += 1;
            }
            ahead[..count].iter().for_each(|(hash, pos)| index.insert(*hash, *pos));
            if count < REBUILD_AHEAD {
                return;
            }
        }
    }

    /// All rows, in the order in which they came.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &R> {
        self.rows.iter()
    }

    /// The same from behind a row on, with their positions.
    pub(crate) fn iter_behind(&self, row: Option<Pos>) -> impl Iterator<Item = (Pos, &R)> {
        self.rows.iter_behind(row)
    }

    /// The sum of hashes of all rows, each as `shown`: the same whatever their order.
    pub(crate) fn state_hash(&self, shown: impl Fn(&R) -> Option<R>) -> u64 {
        let rows = self.iter().filter_map(shown);
        rows.fold(0, |sum, row| sum.wrapping_add(xxhash_rust::xxh3::xxh3_64(row.as_bytes())))
    }

    pub(crate) fn len(&self) -> u64 {
        self.index.as_ref().map_or(0, Index::len)
    }

    /// How far it has grown.
    pub(crate) fn grown(&self) -> Grown {
        self.index.as_ref().map_or(Grown::default(), Index::grown).with(&self.rows)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.rows.has_room()
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.rows.bytes() + self.index.as_ref().map_or(0, Index::bytes)
    }

    /// Makes room ahead for so many rows.
    pub(crate) fn reserve(&mut self, rows: u64) {
        if rows > 0 {
            self.index.get_or_insert_with(|| Index::new(&self.spare)).reserve(rows);
        }
    }

    /// Asks the processor to fetch the index's slots for a key.
    pub(crate) fn prefetch_slot(&self, key: R::Key) {
        if let Some(index) = &self.index {
            index.prefetch(self.hash(key));
        }
    }

    /// The row that a key most likely means, without comparing keys.
    pub(crate) fn guess(&self, key: R::Key) -> Option<Pos> {
        self.index.as_ref()?.guess(self.hash(key))
    }

    /// Asks the processor to fetch the first cache line of a row.
    pub(crate) fn prefetch(&self, pos: Pos) {
        prefetch(&self.rows.words(pos)[0]);
    }
}
