//! Histograms with one writer and any number of readers.
//!
//! Buckets are log-linear, as HDR histograms have them: 16 to an octave, so that a value is
//! known to 1 part in 32 whatever its size. The writer takes no lock and no locked instruction:
//! it loads and stores, because nobody else stores. A reader sees every count, though not all of
//! them as of the same instant.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets of an octave are 2 to the power of this.
const OCTAVE_BITS: u32 = 4;
/// Values from 2 to the power of this on share the last bucket: 18 minutes in nanoseconds.
const VALUE_BITS: u32 = 40;
/// One for zero, then octave by octave. In the first ones not every bucket holds an integer.
const BUCKETS: usize = 1 + ((VALUE_BITS as usize) << OCTAVE_BITS);
/// The first bits of a floating-point number are its octave, the next ones where it is in there.
const SHIFT: u32 = f64::MANTISSA_DIGITS - 1 - OCTAVE_BITS;
/// Those bits of 1.0, less the bucket for zero.
const BEFORE_ONE: u64 = (1.0_f64.to_bits() >> SHIFT) - 1;

/// The most by which the middle of a bucket differs from a value in it, as a share of the value.
/// Values below 32 are exact.
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
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

#[inline]
fn index(value: u64) -> usize {
    // The bits of a float are in the order of its size: cheaper than to look for the first bit.
    // Past 2⁶³ the sign makes them large, which is right too.
    let bits = (value as i64 as f64).to_bits() >> SHIFT;
    (bits.saturating_sub(BEFORE_ONE) as usize).min(BUCKETS - 1)
}

/// The least value of a bucket that holds an integer.
fn lowest(index: usize) -> u64 {
    match index as u64 {
        0 => 0,
        index => f64::from_bits((index + BEFORE_ONE) << SHIFT).ceil() as u64,
    }
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
        let near = (5..VALUE_BITS).flat_map(|power| {
            let power = 1_u64 << power;
            [power - 1, power, power + 1, power + power / 16, power + power / 3]
        });
        for value in (0..10_000).chain(near) {
            let lowest = lowest(index(value));
            assert!((lowest..lowest + width(lowest)).contains(&value), "{value}");
            // The next one begins where this one ends.
            assert_eq!(index(lowest + width(lowest)), index(value) + gap(value), "{value}");
            assert!(width(lowest) as f64 / 2.0 <= (lowest.max(16) as f64) * RELATIVE_ERROR);
        }
        for large in [(1 << VALUE_BITS) - 1, 1 << VALUE_BITS, 1 << 63, u64::MAX] {
            assert_eq!(index(large), BUCKETS - 1);
        }
    }

    /// Buckets to the next integer, some of which hold none.
    fn gap(value: u64) -> usize {
        match value {
            0 => 1,
            1..16 => index(value + 1) - index(value),
            _ => 1,
        }
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
