//! What must hold over all shards, at any time.

use std::collections::BTreeMap;

use model::record::entry::{Entry, EntryHeader, Moved};
use model::record::{Body, Kind, Record, Records};
use model::reply::{Query, View};
use model::{AccountKind, Currency, ItemId, Outcome, Party, Realm};
use zerocopy::FromBytes;

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
            Entry::Grant(grant) | Entry::Ration(grant) => {
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
        assert_statements(node);
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

/// From the newest record of each seller's account the links lead through all that moved its
/// money: they come to its sums.
fn assert_statements(node: &mut Node) {
    let bytes = node.records();
    let records: Vec<Record<'_>> = Records::new(&bytes).flatten().collect();
    for &realm in Realm::ALL {
        for party in (901..=903).map(Party) {
            for kind in [AccountKind::Settlement, AccountKind::Suspense] {
                let query = Query::Account(party, Currency::GBP, kind);
                let View::Account(account) = node.shard.query_in(realm, query) else { continue };
                let (mut debits, mut credits) = (0, 0);
                let mut next = account.statement.0;
                while next != 0 {
                    let record = &records[next as usize - 1];
                    let found = movement(record, &records, (party, kind), next);
                    assert!(found.link < next, "the statement of {party} goes forward");
                    (debits, credits) = (debits + found.debits, credits + found.credits);
                    next = found.link;
                }
                let sums = (account.debits_posted.0, account.credits_posted.0);
                assert_eq!((debits, credits), sums, "{kind:?} of {party}, {realm:?}");
            }
        }
    }
}

/// What a record did to an account, and the one before it on its statement.
#[derive(Default)]
struct Movement {
    link: u64,
    debits: u64,
    credits: u64,
}

fn movement(
    record: &Record<'_>,
    records: &[Record<'_>],
    (party, kind): (Party, AccountKind),
    offset: u64,
) -> Movement {
    let (amount, link) = (record.header.amount.get(), record.header.statement.get());
    let whole = Movement { link, debits: amount, credits: amount };
    // Both sides of one account: the first link leads on.
    let sides = |is_debit: bool, is_credit: bool, credit_link: u64| Movement {
        link: if is_debit { link } else { credit_link },
        debits: if is_debit { whole.debits } else { 0 },
        credits: if is_credit { whole.credits } else { 0 },
    };
    match record.body {
        Body::Transfer(body) => sides(
            (record.party(), body.debit_kind) == (party, kind as u8),
            (body.credit_party.get(), body.credit_kind) == (party.0, kind as u8),
            body.credit_statement.get(),
        ),
        Body::SettleHold(body) => {
            let is_it = |made: &&Record<'_>| {
                let names = (made.realm(), made.party(), made.header.id.get());
                made.header.kind == Kind::Hold as u8
                    && names == (record.realm(), record.party(), body.hold.get())
            };
            let made = records.iter().find(is_it).expect("what is captured was held");
            let Body::Hold(made) = made.body else { unreachable!("it holds") };
            sides(
                (record.party(), made.kind) == (party, kind as u8),
                (body.credit_party.get(), body.credit_kind) == (party.0, kind as u8),
                body.credit_statement.get(),
            )
        }
        Body::Sweep(body) => {
            assert_eq!(body.seller.get(), party.0);
            sides(body.owed != 0, body.owed == 0, link)
        }
        Body::Deliver { entries, .. } => {
            let mut sum = Movement { link: offset, ..Movement::default() };
            for (bytes, entry) in entries {
                let (Entry::Sweep(moved)
                | Entry::Owed(moved)
                | Entry::Transfer(moved)
                | Entry::Back(moved)) = entry
                else {
                    continue;
                };
                if booked_to(bytes, moved) != Some((party, kind)) {
                    continue;
                }
                match entry {
                    Entry::Owed(_) => sum.debits += moved.amount.get(),
                    _ => sum.credits += moved.amount.get(),
                }
                if sum.link == offset {
                    sum.link = moved.statement.get();
                }
            }
            sum
        }
        other => panic!("{other:?} moves no money of a seller's"),
    }
}

/// The account that money of a stream was booked to, if it was.
fn booked_to(bytes: &[u8], moved: &Moved) -> Option<(Party, AccountKind)> {
    let (header, _) = EntryHeader::ref_from_prefix(bytes).expect("an entry has a header");
    let kind = match Outcome::from_byte(header.outcome) {
        Some(Outcome::Ok) => AccountKind::from_byte(moved.kind)?,
        Some(Outcome::WrongState) => AccountKind::Suspense,
        _ => return None,
    };
    Some((Party(moved.party.get()), kind))
}

/// Units of an item over all shards: stocked, unspent, reserved, sold.
pub fn units_of(nodes: &[Node], realm: Realm, item: ItemId) -> (u64, u64, u64, u64) {
    let views = nodes.iter().flat_map(|node| node.shard.items(realm));
    views.filter(|view| view.item == item).fold((0, 0, 0, 0), |sum, view| {
        let unspent = view.pool + view.available;
        (sum.0 + view.stocked, sum.1 + unspent, sum.2 + view.reserved, sum.3 + view.sold)
    })
}
