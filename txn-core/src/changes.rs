//! The ids of changes (pay, cancel, refund, transfer, restock and so on), each with its first
//! outcome.

use foldhash::fast::FixedState;
use model::record::Kind;
use std::hash::BuildHasher;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arena::{Arena, Pos, SpareRegions};
use crate::index::{Grown, Hash32, Index};

/// One change that was decided.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Change {
    /// The buyer, the debited party or the item.
    pub scope: u64,
    /// The order or the hold, or zero.
    pub order: [u64; 2],
    pub id: [u64; 2],
    pub digest: u64,
    pub amount: u64,
    pub offset: u64,
    /// Which of order, account and item the id is scoped to.
    pub scope_kind: u8,
    pub outcome: u8,
    pub state: u8,
    pub unused: u8,
    /// 1 + the line that a refusal is about, or 0.
    pub refused_line: u16,
    pub unused_end: u16,
}

/// What a change's id is unique in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChangeScope {
    pub kind: u8,
    pub scope: u64,
    pub order: u128,
}

impl ChangeScope {
    pub(crate) fn new(kind: Kind, scope: u64, order: u128) -> ChangeScope {
        let kind = match kind {
            // All changes of a party's accounts share their ids.
            Kind::Transfer | Kind::Hold | Kind::UpdateAccount => 1,
            Kind::Restock | Kind::UpdateItem => 2, // All changes of an item share their ids.
            Kind::SettleHold => 4,                 // All changes of a hold share their ids.
            _ => 3,                                // All changes of an order share their ids.
        };
        ChangeScope { kind, scope, order }
    }
}

/// All changes of a shard.
pub(crate) struct Changes {
    changes: Arena,
    index: Index,
    hasher: FixedState,
}

impl Changes {
    pub(crate) fn new(hasher: FixedState, spare: &SpareRegions) -> Changes {
        Changes { changes: Arena::new(spare), index: Index::new(spare), hasher }
    }

    fn hash(&self, scope: ChangeScope, id: u128) -> Hash32 {
        self.hasher.hash_one((scope.kind, scope.scope, scope.order, id)).into()
    }

    pub(crate) fn find(&self, scope: ChangeScope, id: u128) -> Option<&Change> {
        let (order, wanted) = (crate::orders::halves(scope.order), crate::orders::halves(id));
        let is_it = |pos: Pos| {
            let change: &Change = self.changes.get(pos);
            change.scope == scope.scope
                && change.order == order
                && change.id == wanted
                && change.scope_kind == scope.kind
        };
        self.index.find(self.hash(scope, id), is_it).map(|pos| self.changes.get(pos))
    }

    /// Remembers a change that isn't there yet; its key is filled in here.
    pub(crate) fn insert(&mut self, scope: ChangeScope, id: u128, change: Change) {
        let pos = self.changes.push(Change {
            scope: scope.scope,
            order: crate::orders::halves(scope.order),
            id: crate::orders::halves(id),
            scope_kind: scope.kind,
            ..change
        });
        self.index.insert(self.hash(scope, id), pos);
    }

    pub(crate) fn state_hash(&self) -> u64 {
        self.changes.iter::<Change>().fold(0, |sum, change| {
            let change = Change { offset: 0, ..*change };
            sum.wrapping_add(xxhash_rust::xxh3::xxh3_64(change.as_bytes()))
        })
    }

    /// How far its tables have grown.
    pub(crate) fn grown(&self) -> Grown {
        self.index.grown().with(&self.changes)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.changes.has_room()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.changes.bytes() + self.index.bytes()
    }
}
