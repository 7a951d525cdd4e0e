//! Histograms with one writer and any number of readers.
//!
//! Buckets are log-linear, as HDR histograms have them: 16 to an octave, so that a value is
//! known to 1 part in 32 whatever its size. The writer takes no lock and no locked instruction:
//! it loads and stores, because nobody else stores. A reader sees every count, though not all of
//! them as of the same instant.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets of an octave are 2 to the power of this.
const OCTAVE_BITS: u32 = 4;
/// Enough for 63 octaves. In the first four not every bucket holds an integer.
const BUCKETS: usize = 1024;
/// The first bits of a floating-point number are its octave, the next ones where it is in there.
const SHIFT: u32 = f64::MANTISSA_DIGITS - 1 - OCTAVE_BITS;
/// Those bits of 1.0.
const ONE: u64 = 1.0_f64.to_bits() >> SHIFT;

const _: () = assert!(63 << OCTAVE_BITS <= BUCKETS && BUCKETS.is_power_of_two());

/// The most by which the middle of a bucket differs from a value in it, as a share of the value.
/// Values from 1 to 31 are exact; 0 is taken for 1.
pub const RELATIVE_ERROR: f64 = 1.0 / 32.0;

pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }
}

/// Adds to a counter that nobody else writes.
#[inline]
pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
}

impl Histogram {
    /// Records a value. Only ever called by one thread.
    #[inline]
    pub(crate) fn record(&self, value: u64) {
        self.record_times(value, 1);
    }

    /// Records a value that was seen so many times.
    #[inline]
    pub(crate) fn record_times(&self, value: u64, times: u64) {
        add(&self.buckets[index(value)], times);
        add(&self.sum, value.wrapping_mul(times));
    }

    /// The sum of all values.
    pub(crate) fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    /// Buckets that hold something, each with its least value, in order.
    pub(crate) fn buckets(&self) -> Vec<(u64, u64)> {
        let counts = self.buckets.iter().enumerate();
        let counts = counts.map(|(index, count)| (lowest(index), count.load(Relaxed)));
        let mut counts: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
        counts.sort_unstable();
        counts
    }
}

/// The bits of a float are in the order of its size, which is cheaper than to look for the first
/// bit that is set. Cut to as many as there are buckets they still differ, and need no check.
#[inline]
fn index(value: u64) -> usize {
    // As a signed number, which processors convert at once. Nothing here takes three centuries.
    let value = value.max(1) as i64 as f64;
    (value.to_bits() >> SHIFT) as usize % BUCKETS
}

/// The least value of a bucket that holds an integer.
fn lowest(index: usize) -> u64 {
    let after_one = (index as u64).wrapping_sub(ONE) % BUCKETS as u64;
    f64::from_bits((ONE + after_one) << SHIFT).ceil() as u64
}

/// How many values share the bucket whose least value is this.
pub(crate) fn width(lowest: u64) -> u64 {
    1 << lowest.checked_ilog2().unwrap_or(0).saturating_sub(OCTAVE_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_lies_between_its_bounds() {
        // Up to where a float holds every integer: 104 days in nanoseconds.
        let near = (5..53).flat_map(|power| {
            let power = 1_u64 << power;
            [power - 1, power, power + 1, power + power / 16, power + power / 3]
        });
        for value in (1..10_000).chain(near) {
            let least = lowest(index(value));
            assert!((least..least + width(least)).contains(&value), "{value}");
            // The next one begins where this one ends.
            let next = least + width(least);
            assert_eq!(lowest(index(next)), next, "{value}");
            assert!(width(least) / 2 <= (least as f64 * RELATIVE_ERROR) as u64, "{value}");
        }
        assert_eq!(lowest(index(0)), 1);
    }

    #[test]
    fn values_are_counted_and_summed() {
        let histogram = Histogram::default();
        histogram.record(3);
        histogram.record_times(1_000, 5);
        assert_eq!(histogram.sum(), 5_003);
        assert_eq!(histogram.buckets(), [(3, 1), (992, 5)]);
    }
}
