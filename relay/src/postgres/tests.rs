//! What the sink makes of logs is what the core has in its books.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::frame::Frame;
use model::record::Body;
use model::reply::{List, Listed, Query, View};
use model::{AccountKind, LineKind, Realm};
use sim::Options;
use txn_core::{Shard, SpareRegions};

use super::book::{Book, Kept};
use super::order::Order;

/// Balances by party, kind and currency.
type Balances = BTreeMap<(u64, &'static str, &'static str), i128>;

fn accounts(shards: &[&Shard]) -> Balances {
    let mut balances = Balances::new();
    for (shard, kind) in
        shards.iter().flat_map(|shard| AccountKind::ALL.iter().map(move |kind| (shard, *kind)))
    {
        let mut behind = None;
        loop {
            let page = shard.list_in(Realm::Live, &List::Accounts(kind, behind, 1_000));
            let Listed::Accounts(found, next) = page else { panic!("{page:?}") };
            for view in found {
                let kind = match kind {
                    AccountKind::Funding => AccountKind::Payable,
                    _ => kind,
                };
                let key = (view.party.0, kind.word(), view.currency.code());
                let balance = i128::from(view.credits_posted.0) - i128::from(view.debits_posted.0);
                *balances.entry(key).or_default() += balance;
            }
            behind = next;
            if behind.is_none() {
                break;
            }
        }
    }
    balances.retain(|_, balance| *balance != 0);
    balances
}

fn booked(book: &Book) -> Balances {
    let mut balances = Balances::new();
    for entry in &book.entries {
        let key = (entry.party, entry.kind, entry.currency.code());
        *balances.entry(key).or_default() += i128::from(entry.amount);
    }
    balances.retain(|_, balance| *balance != 0);
    balances
}

/// Whether an order is what the core has of it, if it still has it.
fn is_as_known(order: &Order, shards: &[&Shard]) -> Result<(), String> {
    let query = Query::Order(model::Party(order.buyer), model::OrderId(order.id));
    let shard = &shards[(order.number >> 48) as usize];
    let View::Order(view) = shard.query_in(Realm::Live, query) else { return Ok(()) };
    let differs = |what: &str| Err(format!("{what}: {order:?}, and the core has {view:?}"));
    let head = (order.state, order.outcome, order.total, order.refunded, order.received);
    if head != (view.state, view.outcome, view.total.0, view.refunded.0, view.received) {
        return differs("another order");
    }
    let legs = order
        .payments
        .iter()
        .map(|leg| (leg.method, leg.state, leg.amount, leg.paid, leg.refunded, leg.suspended));
    let known = view.legs.iter().map(|leg| {
        (leg.method, leg.state, leg.amount.0, leg.paid.0, leg.refunded.0, leg.suspended.0)
    });
    if !view.legs.is_empty() && !legs.eq(known) {
        return differs("other legs");
    }
    let lines = order.lines.iter().map(|line| (line.kind == LineKind::Goods, line.refunded));
    let known = view.lines.iter().map(|line| (line.kind == LineKind::Goods, line.refunded.0));
    if !view.lines.is_empty() && !lines.eq(known) {
        return differs("other lines");
    }
    Ok(())
}

fn is_the_same(shards: &[&Shard], frames: &[Vec<u8>]) -> Result<(), String> {
    let frames: Vec<Bytes> = frames.iter().map(|frame| Bytes::copy_from_slice(frame)).collect();
    let mut book = Book::default();
    book.next = vec![1; shards.len()];
    // The logs of several nodes come one behind the other here.
    for frame in &frames {
        for record in Frame::split(frame).unwrap().0.records() {
            let record = record.unwrap();
            if let (Body::CreateItem(body), Realm::Live) = (record.body, record.realm()) {
                book.sellers.insert(record.party().0, body.seller.get());
            }
        }
    }
    // Nothing is wanted that isn't there.
    let wants = book.wants(&frames).map_err(|error| error.to_string())?;
    if !(wants.orders.is_empty() && wants.holds.is_empty() && wants.items.is_empty()) {
        return Err(format!("{wants:?}"));
    }
    book.take(&frames).map_err(|error| error.to_string())?;
    let (known, booked) = (accounts(shards), booked(&book));
    if known != booked {
        let both: Vec<_> = known
            .keys()
            .chain(booked.keys())
            .filter(|key| known.get(key) != booked.get(key))
            .map(|key| format!("{key:?}: {:?}, booked {:?}", known.get(key), booked.get(key)))
            .collect();
        return Err(format!("balances differ: {both:#?}"));
    }
    book.orders.values().try_for_each(|Kept { row, .. }| is_as_known(row, shards))
}

#[test]
fn entries_are_what_the_core_has_in_its_books() {
    let spare = SpareRegions::default();
    let mut orders = 0;
    for seed in 4_000..4_100 {
        let options = Options { inspect: Some(is_the_same), spare: spare.clone(), trace: false };
        orders += sim::run(seed, &options).unwrap_or_else(|wrong| panic!("{wrong}")).orders;
    }
    assert!(orders > 1_000, "{orders}");
}

#[test]
fn the_page_has_the_tables_as_they_are_made() {
    let page = include_str!("../../../docs/postgres.md");
    assert!(page.contains(include_str!("schema.sql")));
}
