//! What must hold over all shards together.
//!
//! Each shard's books balance by themselves, with what left for others and what came from them.
//! Over all shards, what one has sent and the other has not taken yet is under way, and nothing
//! else may be missing: not a unit, not a penny.

use std::collections::BTreeMap;

use model::record::entry::Entry;
use model::{Realm, ShardId};
use txn_core::Shard;

/// What is wrong over all shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imbalance {
    /// Streams whose ends don't fit: the shards are not from the same moment. Then nothing is
    /// said of units and money.
    pub inconsistent: Vec<String>,
    /// Units and money that don't add up.
    pub unbalanced: Vec<String>,
    /// Items of which more is reserved and sold than was ever stocked.
    pub oversold: Vec<String>,
}

/// Units of an item, summed over all shards.
#[derive(Clone, Copy, Default)]
struct Units {
    stocked: u128,
    placed: u128,
    out: u128,
}

impl Imbalance {
    /// Whether nothing is wrong.
    pub fn is_none(&self) -> bool {
        *self == Imbalance::default()
    }

    /// Looks at all shards of a data directory or cluster, in the order of their numbers.
    pub fn of(shards: &[&Shard], realm: Realm) -> Imbalance {
        let mut found = Imbalance::default();
        found.check_streams(shards, realm);
        if found.inconsistent.is_empty() {
            found.check_units(shards, realm);
            found.check_money(shards, realm);
        }
        found
    }

    fn check_streams(&mut self, shards: &[&Shard], realm: Realm) {
        for (from, to) in pairs(shards) {
            let sent = from.stream(realm, to.seat().id);
            let taken = to.stream(realm, from.seat().id);
            let (a, b) = (from.seat().id, to.seat().id);
            let of = word(realm);
            if taken.next_in > sent.next_out {
                self.inconsistent.push(format!(
                    "{of}: shard {b} has taken {} entries from shard {a}, whose log ends after \
                     {} were sent: the two are not from the same moment",
                    taken.next_in - 1,
                    sent.next_out - 1
                ));
            } else if sent.acked > taken.next_in {
                self.inconsistent.push(format!(
                    "{of}: shard {a} knows that shard {b} has taken {} of its entries, whose log \
                     ends after {}: the two are not from the same moment",
                    sent.acked - 1,
                    taken.next_in - 1
                ));
            } else if from.sent_hash(realm, b, taken.next_in) != Some(taken.in_hash) {
                self.unbalanced.push(format!(
                    "{of}: the {} entries that shard {b} has taken from shard {a} are not those \
                     that were sent",
                    taken.next_in - 1
                ));
            }
        }
    }

    fn check_units(&mut self, shards: &[&Shard], realm: Realm) {
        let mut items = BTreeMap::<u64, Units>::new();
        for shard in shards {
            for item in shard.items(realm) {
                let units = items.entry(item.item.0).or_default();
                units.stocked += u128::from(item.stocked);
                let out = u128::from(item.reserved) + u128::from(item.sold);
                units.placed += u128::from(item.pool) + u128::from(item.available) + out;
                units.out += out;
            }
        }
        for_each_under_way(shards, realm, |entry| {
            let (item, units) = match entry {
                Entry::Listing(listing) => (listing.item, listing.units),
                Entry::Grant(grant) | Entry::Ration(grant) => (grant.item, grant.units),
                Entry::Return(returned) => (returned.item, returned.units),
                _ => return,
            };
            items.entry(item.get()).or_default().placed += u128::from(units.get());
        });
        for (item, units) in items {
            if units.placed != units.stocked {
                self.unbalanced.push(format!(
                    "{}: item {item}: {} units were stocked, and {} are in pool and escrow, \
                     reserved, sold or under way",
                    word(realm),
                    units.stocked,
                    units.placed
                ));
            }
            if units.out > units.stocked {
                self.oversold.push(format!(
                    "{}: item {item}: {} units are reserved or sold, {} were stocked",
                    word(realm),
                    units.out,
                    units.stocked
                ));
            }
        }
    }

    fn check_money(&mut self, shards: &[&Shard], realm: Realm) {
        let mut sent = BTreeMap::<&str, i128>::new();
        for shard in shards {
            for (currency, balance) in shard.balances(realm) {
                let (id, of) = (shard.seat().id, word(realm));
                *sent.entry(currency).or_default() += balance.in_transit;
                if !balance.is_balanced() {
                    self.unbalanced.push(format!(
                        "{of}: shard {id}, {currency}: debits of {}, credits of {}, {} sent to \
                         other shards",
                        balance.debits, balance.credits, balance.in_transit
                    ));
                }
                if balance.overdrawn > 0 {
                    self.unbalanced.push(format!(
                        "{of}: shard {id}, {currency}: {} accounts overdrawn",
                        balance.overdrawn
                    ));
                }
            }
        }
        let mut under_way = BTreeMap::<&str, i128>::new();
        for_each_under_way(shards, realm, |entry| {
            let (moved, sign) = match entry {
                Entry::Owed(moved) => (moved, -1),
                Entry::Sweep(moved) | Entry::Transfer(moved) | Entry::Back(moved) => (moved, 1),
                _ => return,
            };
            let currency = model::Currency::from_numeric(moved.currency.get());
            let code = currency.map_or("XXX", |currency| currency.code());
            *under_way.entry(code).or_default() += sign * i128::from(moved.amount.get());
        });
        for (currency, sent) in sent {
            let under_way = under_way.get(currency).copied().unwrap_or_default();
            if sent != under_way {
                self.unbalanced.push(format!(
                    "{}: {currency}: shards have sent each other {sent} more than has arrived, \
                     and {under_way} are under way",
                    word(realm)
                ));
            }
        }
    }
}

fn word(realm: Realm) -> &'static str {
    realm.word()
}

/// Every shard with every other one.
fn pairs<'a>(shards: &'a [&'a Shard]) -> impl Iterator<Item = (&'a Shard, &'a Shard)> {
    let all = |from: &'a Shard| shards.iter().map(move |to| (from, *to));
    shards.iter().flat_map(move |from| all(from)).filter(|(a, b)| a.seat().id != b.seat().id)
}

/// Shows what was sent and is not taken yet.
fn for_each_under_way(shards: &[&Shard], realm: Realm, mut visit: impl FnMut(Entry<'_>)) {
    for (from, to) in pairs(shards) {
        let peer: ShardId = to.seat().id;
        let next = to.stream(realm, from.seat().id).next_in;
        from.for_each_entry(realm, peer, next, &mut visit);
    }
}
