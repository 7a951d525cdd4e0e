//! Items: what they cost, who is paid, and where their units are.
//!
//! For each item, always: stocked = available + reserved + sold.

use foldhash::fast::FixedState;
use model::{AccountKind, Amount, Currency, ItemId, ItemView, Party};
use std::hash::BuildHasher;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arena::{Arena, Pos, SpareRegions};
use crate::index::{Grown, Hash32, Index, prefetch};
use crate::ledger::Ledger;

/// One item.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Item {
    pub id: u64,
    pub seller: u64,
    pub price: u64,
    pub stocked: u64,
    pub available: u64,
    pub reserved: u64,
    pub sold: u64,
    /// What it was created with, to tell a repeat from another request.
    pub first_stock: u64,
    pub currency: u16,
    pub unused: u16,
    /// Position of the seller's payable account, so that a sale needs no second look-up.
    pub payable: u32,
}

impl Item {
    /// Whether no unit came from nowhere or went there.
    pub(crate) fn is_balanced(&self) -> bool {
        let placed = u128::from(self.available) + u128::from(self.reserved) + u128::from(self.sold);
        placed == u128::from(self.stocked)
    }
}

/// All items of a shard.
pub(crate) struct Inventory {
    items: Arena,
    index: Index,
    hasher: FixedState,
}

impl Inventory {
    pub(crate) fn new(hasher: FixedState, spare: &SpareRegions) -> Inventory {
        Inventory { items: Arena::new(spare), index: Index::new(spare), hasher }
    }

    fn hash(&self, item: ItemId) -> Hash32 {
        self.hasher.hash_one(item.0).into()
    }

    pub(crate) fn find(&self, item: ItemId) -> Option<Pos> {
        self.index.find(self.hash(item), |pos| self.items.get::<Item>(pos).id == item.0)
    }

    pub(crate) fn get(&self, pos: Pos) -> &Item {
        self.items.get(pos)
    }

    pub(crate) fn get_mut(&mut self, pos: Pos) -> &mut Item {
        self.items.get_mut(pos)
    }

    /// Lists an item that isn't there yet.
    pub(crate) fn create(
        &mut self,
        ledger: &mut Ledger,
        item: ItemId,
        seller: Party,
        price: Amount,
        currency: Currency,
        stock: u64,
    ) {
        let payable = ledger.find_or_make((seller, currency, AccountKind::Payable));
        let pos = self.items.push(Item {
            id: item.0,
            seller: seller.0,
            price: price.0,
            stocked: stock,
            available: stock,
            first_stock: stock,
            currency: currency.numeric(),
            payable: payable.0,
            ..Item::default()
        });
        self.index.insert(self.hash(item), pos);
    }

    pub(crate) fn view(&self, item: ItemId) -> Option<ItemView> {
        let found = self.get(self.find(item)?);
        Some(ItemView {
            item,
            seller: Party(found.seller),
            price: Amount(found.price),
            currency: Currency::from_numeric(found.currency).expect("checked when created"),
            stocked: found.stocked,
            available: found.available,
            reserved: found.reserved,
            sold: found.sold,
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    pub(crate) fn state_hash(&self) -> u64 {
        self.iter().fold(0, |sum, item| {
            let item = Item { payable: 0, ..*item }; // A position says nothing about the state.
            sum.wrapping_add(xxhash_rust::xxh3::xxh3_64(item.as_bytes()))
        })
    }

    /// How far its tables have grown.
    pub(crate) fn grown(&self) -> Grown {
        self.index.grown().with(&self.items)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.items.has_room()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.items.bytes() + self.index.bytes()
    }

    pub(crate) fn len(&self) -> u64 {
        self.index.len()
    }

    pub(crate) fn reserve(&mut self, items: u64) {
        self.index.reserve(items);
    }

    pub(crate) fn prefetch_slot(&self, item: ItemId) {
        self.index.prefetch(self.hash(item));
    }

    pub(crate) fn prefetch_item(&self, item: ItemId) {
        if let Some(pos) = self.index.guess(self.hash(item)) {
            prefetch(&self.items.words(pos)[0]);
        }
    }
}
