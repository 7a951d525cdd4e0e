//! A buyer's orders, newest first, from the index of the log.

use model::record::{Body, Record};
use model::reply::{Query, View};
use model::{Offset, OrderId, OrderView, Party, Realm, ShardId};

use crate::{GroupHandle, SubmitError};

/// The most orders of one page.
pub const ORDERS_MAX: usize = 100;

/// A page of a buyer's orders.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OrderPage {
    /// As they are now, those first that were placed last.
    pub orders: Vec<OrderView>,
    /// Where the next page begins, if there is one.
    pub next: Option<Offset>,
}

/// Reads up to `most` orders of a buyer, from the newest on, or from where a page ended.
pub async fn order_page(
    group: &GroupHandle,
    (shard, realm): (ShardId, Realm),
    buyer: Party,
    from: Option<Offset>,
    most: usize,
) -> Result<OrderPage, SubmitError> {
    let mut page = OrderPage::default();
    let placed = group.orders_of(shard, realm, buyer).await?;
    for at in placed.into_iter().filter(|at| from.is_none_or(|from| *at <= from)) {
        if page.orders.len() == most.min(ORDERS_MAX) {
            page.next = Some(at);
            break;
        }
        let (_, bytes) = group.record(shard, at).await?.ok_or(SubmitError::Unreadable)?;
        let Some(order) = placed_by(&bytes, realm, buyer) else { continue };
        match group.query(shard, realm, Query::Order(buyer, order)).await? {
            View::Order(order) => page.orders.push(order),
            _ => return Err(SubmitError::Unreadable),
        }
    }
    Ok(page)
}

/// The order that a record places, if it is the buyer's: others may have the same key.
fn placed_by(bytes: &[u8], realm: Realm, buyer: Party) -> Option<OrderId> {
    let (record, _) = Record::split(bytes).ok()?;
    let is_it = matches!(record.body, Body::Place { .. })
        && (record.party(), record.realm()) == (buyer, realm);
    record.order().filter(|_| is_it)
}
