//! Identifiers, and the rule that places a party on a shard.

use std::fmt;
use std::time::Duration;

/// Declares a number with a meaning of its own.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

/// Declares a 128-bit identifier chosen by a client, printed as a UUID (RFC 9562).
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_u128(self.0).as_hyphenated().fmt(f)
            }
        }
    };
}

number! {
    /// A buyer, a seller or an outside counterparty. Zero is the platform itself.
    Party(u64)
}
number! {
    /// A stock-keeping unit.
    ItemId(u64)
}
number! {
    /// A fixed virtual partition of the parties of a data directory, from 0.
    ShardId(u16)
}
number! {
    /// The number of a record in its shard's log, from 1 without a gap.
    Offset(u64)
}
number! {
    /// The generation of a log's owner. It grows with every start.
    Epoch(u64)
}
number! {
    /// Microseconds since 1970-01-01T00:00:00Z, without leap seconds.
    Time(u64)
}
uuid_id! {
    /// An order's id, unique for its buyer. Version 7 is recommended.
    OrderId
}
uuid_id! {
    /// The id of a change, unique within its order, account or item.
    ChangeId
}

/// The shard on which `party` lives, of `shards` (at least 1).
///
/// The high word of `xxh3_64(party as 8 little-endian bytes) * shards`: any language with XXH3
/// finds the same shard, and every shard gets an equal part of the hash's range.
pub fn shard_of(party: Party, shards: u16) -> ShardId {
    home_of(party.0, shards)
}

/// The shard that keeps an item's pool and its catalogue entry: the same rule.
pub fn item_home(item: ItemId, shards: u16) -> ShardId {
    home_of(item.0, shards)
}

/// The shard of whatever `key` names.
pub(crate) fn home_of(key: u64, shards: u16) -> ShardId {
    let hash = xxhash_rust::xxh3::xxh3_64(&key.to_le_bytes());
    ShardId(((u128::from(hash) * u128::from(shards)) >> 64) as u16)
}

impl Time {
    /// The latest moment that a caller may name: the end of the year 9999.
    pub const MAX: Time = Time(253_402_300_799_999_999);

    /// So much later, or the end of time.
    pub fn after(self, wait: Duration) -> Time {
        Time(self.0.saturating_add(wait.as_micros() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_the_parties_evenly() {
        assert_eq!(shard_of(Party(7), 1), ShardId(0));
        let mut parties = [0u32; 16];
        for party in 0..160_000 {
            parties[usize::from(shard_of(Party(party), 16).0)] += 1;
        }
        assert!(parties.iter().all(|n| (9_500..10_500).contains(n)), "{parties:?}");
    }

    #[test]
    fn a_party_never_moves() {
        // A change here would strand every party of every data directory.
        let shards: Vec<u16> = (0..8).map(|p| shard_of(Party(p), 256).0).collect();
        expect_test::expect!["[199, 47, 32, 77, 202, 142, 107, 129]"]
            .assert_eq(&format!("{shards:?}"));
    }
}
