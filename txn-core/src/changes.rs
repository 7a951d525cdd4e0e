//! The ids of changes (pay, cancel, refund, transfer, restock and so on), each with its first
//! outcome.

use model::record::Kind;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::orders::halves;
use crate::table::{Row, Table};

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

impl Row for Change {
    type Key = (u8, u64, [u64; 2], [u64; 2]);

    fn key(&self) -> Self::Key {
        (self.scope_kind, self.scope, self.order, self.id)
    }
}

/// All changes of a shard.
pub(crate) type Changes = Table<Change>;

impl Changes {
    pub(crate) fn known(&self, scope: ChangeScope, id: u128) -> Option<&Change> {
        let key = (scope.kind, scope.scope, halves(scope.order), halves(id));
        self.find(key).map(|pos| self.get(pos))
    }

    /// Remembers a change that isn't there yet; its key is filled in here.
    pub(crate) fn remember(&mut self, scope: ChangeScope, id: u128, change: Change) {
        self.insert(Change {
            scope: scope.scope,
            order: halves(scope.order),
            id: halves(id),
            scope_kind: scope.kind,
            ..change
        });
    }
}
