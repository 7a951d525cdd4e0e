//! Chance, the same for the same seed.

use crate::alias::Alias;

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

    /// From 0 up to, but not including, 1: 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Exponentially distributed with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// A number below `bound` (at least 1). The bias is under `bound` in 2⁶⁴.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

pub(crate) fn mix(value: u64) -> u64 {
    Random(value).next_u64()
}

fn finish(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// A Zipf distribution (exponent 1) over 0..n. Which item has which rank is shuffled, so that
/// neighbours aren't equally popular.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    items: Alias,
}

impl Zipf {
    /// Over `items`, of which there is at least one.
    pub(crate) fn new(items: usize, seed: u64) -> Zipf {
        let mut weights: Vec<f64> = (1..=items).map(|rank| 1.0 / rank as f64).collect();
        let mut random = Random(mix(seed ^ 0x5a49_5046));
        for last in (1..items).rev() {
            weights.swap(last, random.below(last as u64 + 1) as usize);
        }
        Zipf { items: Alias::new(&weights).expect("there are items, fewer than 2³²") }
    }

    pub(crate) fn sample(&self, random: &mut Random) -> u32 {
        self.items.sample(random) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
