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
const BUCKETS: usize = ((VALUE_BITS - OCTAVE_BITS + 1) << OCTAVE_BITS) as usize;

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
    /// Records a value so many times. Only ever called by one thread.
    #[inline]
    pub(crate) fn record(&self, value: u64, times: u64) {
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
    let octave = (value | 1 << OCTAVE_BITS).ilog2() - OCTAVE_BITS;
    let index = (octave as usize) << OCTAVE_BITS;
    // The value's first bit is worth another 16, which makes the octaves follow one another.
    (index + (value >> octave) as usize).min(BUCKETS - 1)
}

/// The least value of a bucket.
fn lowest(index: usize) -> u64 {
    match octave_of(index) {
        0 => index as u64,
        octave => ((index & ((1 << OCTAVE_BITS) - 1)) as u64 + (1 << OCTAVE_BITS)) << octave,
    }
}

fn octave_of(index: usize) -> u32 {
    (index >> OCTAVE_BITS).saturating_sub(1) as u32
}

/// How many values share the bucket whose least value is this.
pub(crate) fn width(lowest: u64) -> u64 {
    1 << octave_of(index(lowest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_one_another_without_a_gap() {
        for next in 1..BUCKETS {
            let last = lowest(next - 1);
            assert_eq!(last + width(last), lowest(next));
            assert_eq!(index(lowest(next)), next);
            assert_eq!(index(lowest(next) - 1), next - 1);
        }
        let last = lowest(BUCKETS - 1);
        assert_eq!(last + width(last), 1 << VALUE_BITS);
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn values_are_counted_and_summed() {
        let histogram = Histogram::default();
        histogram.record(3, 1);
        histogram.record(1_000, 5);
        assert_eq!(histogram.sum(), 5_003);
        assert_eq!(histogram.buckets(), [(3, 1), (992, 5)]);
    }
}
