//! What must hold over all shards, at any time.

use std::collections::BTreeMap;

use model::record::entry::Entry;
use model::{ItemId, Realm};

use crate::node::Node;

/// Units and money are where they are or under way, and what arrived is what was sent.
pub fn assert_adds_up(nodes: &[Node]) {
    for &realm in Realm::ALL {
        let mut units = BTreeMap::<ItemId, (u64, u64)>::new();
        let mut in_transit = BTreeMap::<&str, i128>::new();
        for node in nodes {
            for item in node.shard.items(realm) {
                let (found, stocked) = units.entry(item.item).or_default();
                *found += item.pool + item.available + item.reserved + item.sold;
                *stocked += item.stocked;
            }
            for (currency, balance) in node.shard.balances(realm) {
                assert!(balance.is_balanced() && balance.overdrawn == 0, "{currency} {balance:?}");
                *in_transit.entry(currency).or_default() += balance.in_transit;
            }
        }
        for_each_under_way(nodes, realm, |entry| match entry {
            Entry::Listing(listing) => {
                units.entry(ItemId(listing.item.get())).or_default().0 += listing.units.get();
            }
            Entry::Grant(grant) => {
                units.entry(ItemId(grant.item.get())).or_default().0 += grant.units.get();
            }
            Entry::Return(back) => {
                units.entry(ItemId(back.item.get())).or_default().0 += back.units.get();
            }
            Entry::Sweep(moved) | Entry::Transfer(moved) | Entry::Back(moved) => {
                *in_transit.entry("GBP").or_default() -= i128::from(moved.amount.get());
            }
            Entry::Owed(moved) => {
                *in_transit.entry("GBP").or_default() += i128::from(moved.amount.get());
            }
            _ => {}
        });
        for (item, (found, stocked)) in units {
            assert_eq!(found, stocked, "units of item {item}, {realm:?}");
        }
        for (currency, rest) in in_transit {
            assert_eq!(rest, 0, "{currency} is nowhere, {realm:?}");
        }
    }
}

/// Entries that were sent and not yet taken; and the hashes of those that were.
fn for_each_under_way(nodes: &[Node], realm: Realm, mut visit: impl FnMut(Entry<'_>)) {
    for sender in nodes {
        let from = sender.shard.seat().id;
        for receiver in nodes.iter().filter(|node| node.shard.seat().id != from) {
            let to = receiver.shard.seat().id;
            let taken = receiver.shard.stream(realm, from);
            let sent = sender.shard.stream(realm, to);
            assert!(sent.acked <= taken.next_in && taken.next_in <= sent.next_out);
            let hash = sender.shard.sent_hash(realm, to, taken.next_in);
            assert_eq!(hash, Some(taken.in_hash), "{from} to {to}");
            assert_eq!(sender.shard.sent_hash(realm, to, sent.next_out + 1), None);
            sender.shard.for_each_entry(realm, to, taken.next_in, &mut visit);
        }
    }
}

/// What must have come about when everybody was reached: nobody waits, nothing is under way, and
/// all know the same items.
pub fn assert_at_rest(nodes: &mut [Node]) {
    assert_adds_up(nodes);
    for node in nodes.iter_mut() {
        let id = node.shard.seat().id;
        assert_eq!(node.waiting(), 0, "orders wait at {id}");
        for &realm in Realm::ALL {
            assert!(node.shard.is_settled(realm), "{realm:?} is not settled at {id}");
        }
        assert_eq!(node.shard.recalled(), []);
        node.assert_replays();
    }
    for &realm in Realm::ALL {
        for_each_under_way(nodes, realm, |entry| panic!("{entry:?} is under way"));
        let listed = |node: &Node| {
            let items = node.shard.items(realm);
            let entry = items.map(|item| {
                let what = (item.price, item.opens, item.closes, item.limit, item.seller);
                (item.item, what)
            });
            entry.collect::<BTreeMap<_, _>>()
        };
        let first = listed(&nodes[0]);
        assert!(nodes.iter().all(|node| listed(node) == first), "catalogues differ");
    }
}

/// Units of an item over all shards: stocked, unspent, reserved, sold.
pub fn units_of(nodes: &[Node], realm: Realm, item: ItemId) -> (u64, u64, u64, u64) {
    let views = nodes.iter().flat_map(|node| node.shard.items(realm));
    views.filter(|view| view.item == item).fold((0, 0, 0, 0), |sum, view| {
        let unspent = view.pool + view.available;
        (sum.0 + view.stocked, sum.1 + unspent, sum.2 + view.reserved, sum.3 + view.sold)
    })
}
