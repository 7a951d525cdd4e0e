//! How many units of an item a buyer has ordered, in orders of items that have a limit.

use foldhash::fast::FixedState;
use model::{ItemId, Party};
use std::hash::BuildHasher;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arena::{Arena, Pos, SpareRegions};
use crate::index::{Grown, Hash32, Index};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
struct Bought {
    buyer: u64,
    item: u64,
    units: u64,
}

/// What buyers have ordered of items with a limit. What is cancelled or expires counts no longer;
/// what is refunded does.
pub(crate) struct Limits {
    rows: Arena,
    index: Index,
    hasher: FixedState,
}

impl Limits {
    pub(crate) fn new(hasher: FixedState, spare: &SpareRegions) -> Limits {
        Limits { rows: Arena::new(spare), index: Index::new(spare), hasher }
    }

    fn hash(&self, buyer: Party, item: ItemId) -> Hash32 {
        self.hasher.hash_one((buyer.0, item.0)).into()
    }

    fn find(&self, buyer: Party, item: ItemId) -> Option<Pos> {
        self.index.find(self.hash(buyer, item), |pos| {
            let row: &Bought = self.rows.get(pos);
            row.buyer == buyer.0 && row.item == item.0
        })
    }

    /// Units that the buyer has ordered.
    pub(crate) fn bought(&self, buyer: Party, item: ItemId) -> u64 {
        self.find(buyer, item).map_or(0, |pos| self.rows.get::<Bought>(pos).units)
    }

    /// Counts units of an order.
    pub(crate) fn add(&mut self, buyer: Party, item: ItemId, units: u64) {
        match self.find(buyer, item) {
            Some(pos) => self.rows.get_mut::<Bought>(pos).units += units,
            None => {
                let pos = self.rows.push(Bought { buyer: buyer.0, item: item.0, units });
                self.index.insert(self.hash(buyer, item), pos);
            }
        }
    }

    /// Takes units of an order back that were counted.
    pub(crate) fn remove(&mut self, buyer: Party, item: ItemId, units: u64) {
        let pos = self.find(buyer, item).expect("what is taken back was counted");
        self.rows.get_mut::<Bought>(pos).units -= units;
    }

    pub(crate) fn state_hash(&self) -> u64 {
        self.rows
            .iter::<Bought>()
            .filter(|row| row.units != 0)
            .fold(0, |sum, row| sum.wrapping_add(xxhash_rust::xxh3::xxh3_64(row.as_bytes())))
    }

    /// How far its tables have grown.
    pub(crate) fn grown(&self) -> Grown {
        self.index.grown().with(&self.rows)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.rows.has_room()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.rows.bytes() + self.index.bytes()
    }
}
