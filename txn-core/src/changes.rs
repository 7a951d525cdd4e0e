//! The ids of changes (pay, cancel, refund, transfer, restock and so on), each with its first
//! outcome.

use model::record::{RowKey, RowKind};
use model::{Offset, OrderState, Outcome};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::orders::halves;
use crate::realm::Decision;
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
    /// A [`RowKind`]: what the id is unique in.
    pub scope_kind: u8,
    pub outcome: u8,
    pub state: u8,
    pub unused: u8,
    /// 1 + the line that a refusal is about, or 0.
    pub refused_line: u16,
    pub unused_end: u16,
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
    pub(crate) fn known(&self, key: RowKey) -> Option<&Change> {
        let key = (key.kind as u8, key.scope, halves(key.order), halves(key.id));
        self.find(key).map(|pos| self.get(pos))
    }
}

impl Change {
    /// What is remembered of a change, whose record is at `offset`.
    pub(crate) fn new(key: RowKey, digest: u64, offset: Offset, decided: &Decision) -> Change {
        Change {
            scope: key.scope,
            order: halves(key.order),
            id: halves(key.id),
            digest,
            amount: decided.amount,
            offset: offset.0,
            scope_kind: key.kind as u8,
            outcome: decided.outcome as u8,
            state: decided.state.map_or(0, |state| state as u8),
            refused_line: decided.line.map_or(0, |line| line + 1),
            ..Change::default()
        }
    }

    pub(crate) fn row(&self) -> Option<RowKey> {
        let whole = |id: [u64; 2]| u128::from(id[0]) << 64 | u128::from(id[1]);
        let kind = RowKind::from_byte(self.scope_kind)?;
        Some(RowKey { kind, scope: self.scope, order: whole(self.order), id: whole(self.id) })
    }

    /// Whether its bytes mean something.
    pub(crate) fn is_sound(&self) -> bool {
        let is_state = self.state == 0 || OrderState::from_byte(self.state).is_some();
        self.row().is_some() && Outcome::from_byte(self.outcome).is_some() && is_state
    }
}
