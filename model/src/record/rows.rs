//! What names what a shard remembers: orders, and the ids of changes.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::*;

/// What an id is unique in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum RowKind {
    /// It is an order's own, unique for its buyer.
    Order = 0,
    /// Changes of a party's accounts.
    Account = 1,
    /// Changes of an item.
    Item = 2,
    /// Changes of an order.
    OrderChange = 3,
    /// Changes of a hold.
    HoldChange = 4,
}

impl RowKind {
    /// The kind that travels as `byte`.
    pub fn from_byte(byte: u8) -> Option<RowKind> {
        let all = [
            RowKind::Order,
            RowKind::Account,
            RowKind::Item,
            RowKind::OrderChange,
            RowKind::HoldChange,
        ];
        all.get(usize::from(byte)).copied()
    }
}

/// A name's kind, scope, order and id.
pub type RowParts = (u8, u64, u128, u128);

/// The name of an order, or of a change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RowKey {
    /// What the id is unique in:
    pub kind: RowKind,
    /// the buyer, the party or the item,
    pub scope: u64,
    /// and the order, or the hold, or nil.
    pub order: u128,
    /// The change's id; nil for an order.
    pub id: u128,
}

impl RowKey {
    /// An order's.
    pub fn of_order(buyer: Party, order: OrderId) -> RowKey {
        RowKey { kind: RowKind::Order, scope: buyer.0, order: order.0, id: 0 }
    }

    /// It as plain numbers.
    pub fn parts(&self) -> RowParts {
        (self.kind as u8, self.scope, self.order, self.id)
    }

    /// And back.
    pub fn from_parts((kind, scope, order, id): RowParts) -> Option<RowKey> {
        Some(RowKey { kind: RowKind::from_byte(kind)?, scope, order, id })
    }

    /// The id that it is about, which the caller chose.
    pub fn chosen(&self) -> u128 {
        if self.kind == RowKind::Order { self.order } else { self.id }
    }

    /// A hash whose upper half is the same for all orders of a buyer.
    pub fn hash(&self, seed: u64) -> u64 {
        let mut scope = [0; 9];
        scope[0] = self.kind as u8;
        scope[1..].copy_from_slice(&self.scope.to_le_bytes());
        let mut ids = [0; 32];
        ids[..16].copy_from_slice(&self.order.to_le_bytes());
        ids[16..].copy_from_slice(&self.id.to_le_bytes());
        let (scope, ids) = (xxh3_64_with_seed(&scope, seed), xxh3_64_with_seed(&ids, seed));
        scope & !u64::from(u32::MAX) | ids >> 32
    }
}

/// The time that an id carries, in ms since 1970, if it is of version 7 (RFC 9562, section 5.7).
pub fn time_of_id(id: u128) -> Option<u64> {
    let is_v7 = id >> 76 & 0xf == 7 && id >> 62 & 0b11 == 0b10;
    is_v7.then_some((id >> 80) as u64)
}

impl Record<'_> {
    /// What its id, which the caller chose, is remembered as.
    pub fn row(&self) -> Option<RowKey> {
        let (scope, id) = (self.header.scope.get(), self.header.id.get());
        let (kind, scope, order) = match self.body {
            Body::Place { .. } => return Some(RowKey::of_order(Party(scope), OrderId(id))),
            Body::Transfer(body) => (RowKind::Account, self.transfer_party(body).0, 0),
            Body::Hold(_) | Body::UpdateAccount(_) => (RowKind::Account, scope, 0),
            Body::Restock(_) | Body::UpdateItem(_) => (RowKind::Item, scope, 0),
            Body::SettleHold(body) => (RowKind::HoldChange, scope, body.hold.get()),
            Body::Pay(body) => (RowKind::OrderChange, scope, body.order.get()),
            Body::Cancel(body) => (RowKind::OrderChange, scope, body.order.get()),
            Body::Refund { refund, .. } => (RowKind::OrderChange, scope, refund.order.get()),
            Body::Receive(body) => (RowKind::OrderChange, scope, body.order.get()),
            _ => return None,
        };
        Some(RowKey { kind, scope, order, id })
    }
}
