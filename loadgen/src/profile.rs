//! Which orders a drill places: a function of the seed and the order's number.

use model::{ItemId, OrderId, Party};

/// Lines per order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lines {
    /// 1 to 4, each as often.
    Mix,
    /// Always so many.
    Fixed(u16),
}

/// The population and the habits of a drill.
#[derive(Clone, Debug)]
pub struct Profile {
    buyers: u64,
    items: u64,
    lines: Lines,
    seed: u64,
    popularity: Zipf,
}

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

/// Money that each buyer starts with, in pence.
pub const BUYER_BALANCE: u64 = 10_000_000_000;
/// Units that each item starts with.
pub const ITEM_STOCK: u64 = 1_000_000_000;
/// Sellers, who share the items evenly.
pub const SELLERS: u64 = 1_000;
/// Sellers' parties follow the largest possible buyer.
const SELLER_FIRST: u64 = 1 << 40;

impl Profile {
    /// `buyers` parties from 1 on, `items` from 1 on with Zipf popularity (exponent 1).
    pub fn new(buyers: u64, items: u64, lines: Lines, seed: u64) -> Profile {
        Profile { buyers, items, lines, seed, popularity: Zipf::new(items as usize, seed) }
    }

    /// How many buyers there are.
    pub fn buyers(&self) -> u64 {
        self.buyers
    }

    /// How many items there are.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// The list price of an item, in pence: 1.00 to 100.99.
    pub fn price(&self, item: ItemId) -> u64 {
        100 + mix(item.0) % 10_000
    }

    /// Who sells an item.
    pub fn seller(&self, item: ItemId) -> Party {
        Party(SELLER_FIRST + item.0 % SELLERS)
    }

    /// Who places order `n`.
    pub fn buyer(&self, n: u64) -> Party {
        self.order(n).buyer
    }

    /// Order `n`.
    pub fn order(&self, n: u64) -> OrderSketch<'_> {
        let mut random = Random(mix(self.seed ^ mix(n)));
        let buyer = Party(1 + random.below(self.buyers));
        let lines = match self.lines {
            Lines::Mix => 1 + random.below(4) as u16,
            Lines::Fixed(lines) => lines,
        };
        OrderSketch { buyer, left: lines, random, profile: self }
    }
}

/// One order: its buyer, and its lines one after the other.
pub struct OrderSketch<'a> {
    /// Who places it.
    pub buyer: Party,
    left: u16,
    random: Random,
    profile: &'a Profile,
}

impl Iterator for OrderSketch<'_> {
    /// Item and quantity.
    type Item = (ItemId, u32);

    fn next(&mut self) -> Option<(ItemId, u32)> {
        self.left = self.left.checked_sub(1)?;
        let item = self.profile.popularity.sample(&mut self.random);
        Some((ItemId(1 + item as u64), 1 + self.random.below(3) as u32))
    }
}

/// SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators",
/// OOPSLA 2014): any number can be its state, so every order has a sequence of its own.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        finish(self.0)
    }

    /// A number below `bound` (at least 1). The bias is under `bound` in 2⁶⁴.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

fn mix(value: u64) -> u64 {
    Random(value).next_u64()
}

fn finish(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// A Zipf distribution over 0..n, drawn from in constant time by the alias method (M. Vose, "A
/// linear algorithm for generating random numbers with a given distribution", IEEE TSE 17(9),
/// 1991). Which item has which rank is shuffled, so that neighbours aren't equally popular.
#[derive(Clone, Debug)]
struct Zipf {
    columns: Vec<Column>,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    /// In 2⁻³² of a column: below it the column's own item, else its alias.
    own: u32,
    item: u32,
    alias: u32,
}

impl Zipf {
    fn new(items: usize, seed: u64) -> Zipf {
        let total: f64 = (1..=items).map(|rank| 1.0 / rank as f64).sum();
        let mut ranked: Vec<u32> = (0..items as u32).collect();
        let mut random = Random(mix(seed ^ 0x5a49_5046));
        for last in (1..items).rev() {
            ranked.swap(last, random.below(last as u64 + 1) as usize);
        }
        // Shares of the average column; those below 1 are filled up by those above.
        let mut share: Vec<f64> =
            (1..=items).map(|rank| items as f64 / rank as f64 / total).collect();
        let mut alias: Vec<usize> = (0..items).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..items).partition(|&rank| share[rank] < 1.0);
        let mut own = vec![1.0; items];
        while let (Some(&low), Some(&high)) = (small.last(), large.last()) {
            small.pop();
            own[low] = share[low];
            alias[low] = high;
            share[high] -= 1.0 - share[low];
            if share[high] < 1.0 {
                large.pop();
                small.push(high);
            }
        }
        let column = |rank: usize| Column {
            own: (own[rank] * f64::from(u32::MAX)) as u32,
            item: ranked[rank],
            alias: ranked[alias[rank]],
        };
        Zipf { columns: (0..items).map(column).collect() }
    }

    fn sample(&self, random: &mut Random) -> u32 {
        let bits = random.next_u64();
        let at = (u128::from(bits) * self.columns.len() as u128) >> 64;
        let column = &self.columns[at as usize];
        // The product's low bits are even over the column; the draw's own low bits will do.
        if bits as u32 <= column.own { column.item } else { column.alias }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_orders() {
        let order = |seed, n| {
            let profile = Profile::new(1000, 50, Lines::Mix, seed);
            let sketch = profile.order(n);
            (sketch.buyer, sketch.collect::<Vec<_>>())
        };
        assert_eq!(order(1, 7), order(1, 7));
        assert_ne!(order(1, 7), order(2, 7));
        assert_ne!(order(1, 7), order(1, 8));
    }

    #[test]
    fn popularity_follows_zipf() {
        const ITEMS: usize = 1000;
        const DRAWS: u64 = 1_000_000;
        let zipf = Zipf::new(ITEMS, 3);
        let mut counts = vec![0u64; ITEMS];
        let mut random = Random(4);
        for _ in 0..DRAWS {
            counts[zipf.sample(&mut random) as usize] += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let total: f64 = (1..=ITEMS).map(|rank| 1.0 / rank as f64).sum();
        for rank in [1, 2, 5, 20] {
            let expected = DRAWS as f64 / rank as f64 / total;
            let found = counts[rank - 1] as f64;
            assert!((found / expected - 1.0).abs() < 0.05, "{rank}: {found} of {expected}");
        }
        assert!(counts.iter().all(|&count| count > 0));
    }

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
