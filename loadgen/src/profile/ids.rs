//! The ids of a run's orders.

use model::OrderId;

use super::random::mix;

/// What one run's order ids have in common, so that its orders are told from those of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunId(u64);

impl RunId {
    /// Bits that an order id has room for.
    const BITS: u32 = 34;

    /// From anything that differs between runs.
    pub fn new(entropy: u64) -> RunId {
        RunId(mix(entropy) >> (64 - RunId::BITS))
    }

    /// The id of order `n`: a UUID of version 7 (RFC 9562, 5.7) whose random bits are the run
    /// and the number. `unix_ms` is its time.
    pub fn order_id(self, unix_ms: u64, n: u64) -> OrderId {
        let random_a = u128::from(self.0 >> 22);
        let random_b = u128::from(self.0 & 0x3f_ffff) << 40 | u128::from(n & ORDERS_MAX);
        OrderId(u128::from(unix_ms) << 80 | 7 << 76 | random_a << 64 | 2 << 62 | random_b)
    }

    /// The number of the order with this id, if it is one of this run's.
    pub fn number_of(self, id: OrderId) -> Option<u64> {
        let random_a = (id.0 >> 64) as u64 & 0xfff;
        let tag = (id.0 >> 40) as u64 & 0x3f_ffff;
        let version = (id.0 >> 76) as u8 & 0xf;
        let ours = random_a << 22 | tag == self.0 && version == 7;
        ours.then_some(id.0 as u64 & ORDERS_MAX)
    }
}

/// The largest number of an order in a run: 40 bits of its id.
const ORDERS_MAX: u64 = (1 << 40) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_7_and_lead_back_to_their_number() {
        let run = RunId::new(42);
        let id = run.order_id(1_700_000_000_000, 123_456_789);
        let uuid = uuid::Uuid::from_u128(id.0);
        assert_eq!(uuid.get_version_num(), 7);
        assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
        assert_eq!(run.number_of(id), Some(123_456_789));
        assert_eq!(RunId::new(43).number_of(id), None);
    }
}
