//! How many units of an item a buyer has ordered, in orders of items that have a limit.

use model::{ItemId, Party};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::table::{Row, Table};

/// Units of an item that a buyer has ordered.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Bought {
    buyer: u64,
    item: u64,
    pub units: u64,
}

impl Row for Bought {
    type Key = (u64, u64);

    fn key(&self) -> (u64, u64) {
        (self.buyer, self.item)
    }
}

/// What buyers have ordered of items with a limit. What is cancelled or expires counts no longer;
/// what is refunded does.
pub(crate) type Limits = Table<Bought>;

impl Limits {
    /// Units that the buyer has ordered.
    pub(crate) fn bought(&self, buyer: Party, item: ItemId) -> u64 {
        self.find((buyer.0, item.0)).map_or(0, |pos| self.get(pos).units)
    }

    /// Counts units of an order.
    pub(crate) fn add(&mut self, buyer: Party, item: ItemId, units: u64) {
        match self.find((buyer.0, item.0)) {
            Some(pos) => self.get_mut(pos).units += units,
            None => {
                self.insert(Bought { buyer: buyer.0, item: item.0, units });
            }
        }
    }

    /// Takes units of an order back that were counted.
    pub(crate) fn remove(&mut self, buyer: Party, item: ItemId, units: u64) {
        let pos = self.find((buyer.0, item.0)).expect("what is taken back was counted");
        self.get_mut(pos).units -= units;
    }
}
