//! What rounds that scatter say: the middle of a few, and how far a ratio can be trusted.
//!
//! Two revisions are compared by the ratios of rounds that ran one after the other, because the
//! machine's speed drifts more than they differ. Nothing is assumed of how the logarithms of
//! those ratios scatter but that it is as often upward as downward: the estimate is the median of
//! all pairs' means (J. Hodges, E. Lehmann, "Estimates of location based on rank tests", Annals
//! of Mathematical Statistics 34, 1963), its range inverts Wilcoxon's signed-rank test (J. Tukey;
//! M. Hollander, D. Wolfe, E. Chicken, "Nonparametric Statistical Methods", 3rd ed., 2014,
//! section 3.3), with the test's exact distribution, for rounds are few. A bootstrap of so few
//! rounds would promise more than it holds.

/// Lowest, middle and highest of some rounds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Spread {
    pub(super) low: f64,
    pub(super) median: f64,
    pub(super) high: f64,
}

impl Spread {
    /// Of at least one value. The middle of an even number is the mean of the two.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1).expect("there is at least one round");
        let median = f64::midpoint(sorted[last / 2], sorted[last.div_ceil(2)]);
        Spread { low: sorted[0], median, high: sorted[last] }
    }
}

/// The ratio of two things that were measured in pairs, and the range that it lies in.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Ratio {
    pub(super) estimate: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    /// How probable it is that the range holds the ratio.
    pub(super) confidence: f64,
}

/// What a range has to hold at least, where there are rounds enough for it.
const CONFIDENCE: f64 = 0.95;
/// The fewest pairs whose whole range is that trustworthy: 1 − 2 / 2⁶ > 0.95.
pub(super) const PAIRS_MIN: usize = 6;

impl Ratio {
    /// New over old, from pairs of positive figures; at least one pair.
    pub(super) fn of(pairs: &[(f64, f64)]) -> Ratio {
        let logs: Vec<f64> = pairs.iter().map(|(new, old)| (new / old).ln()).collect();
        let mut means: Vec<f64> = (0..logs.len())
            .flat_map(|a| (0..=a).map(move |b| (a, b)))
            .map(|(a, b)| f64::midpoint(logs[a], logs[b]))
            .collect();
        means.sort_by(f64::total_cmp);
        let (cut, confidence) = cut(logs.len());
        Ratio {
            estimate: Spread::of(means.iter().copied()).median.exp(),
            low: means[cut].exp(),
            high: means[means.len() - 1 - cut].exp(),
            confidence,
        }
    }

    /// Whether it is above or below one beyond the noise.
    pub(super) fn differs(&self) -> bool {
        self.low > 1.0 || self.high < 1.0
    }

    /// In words: `less` and `more` are what a ratio below and above one is called.
    pub(super) fn verdict(&self, less: &str, more: &str) -> String {
        let percent = |ratio: f64| ((ratio - 1.0) * 100.0).abs();
        if !self.differs() {
            let noise = percent(self.low).max(percent(self.high));
            return format!("no difference that this run could show (±{noise:.1} %)");
        }
        let word = if self.estimate < 1.0 { less } else { more };
        let (a, b) = (percent(self.low), percent(self.high));
        let (near, far) = (a.min(b), a.max(b));
        format!("{word} by {:.1} % ({near:.1}–{far:.1} %)", percent(self.estimate))
    }
}

/// How many of the sorted means to leave out at either end, and how sure the rest is.
///
/// The signed-rank statistic of `n` pairs without a difference is a sum of 1 to `n`, each with
/// probability ½. The range from mean `cut` + 1 to the mean as far from the end misses the truth
/// with twice the probability that the sum is `cut` or less.
fn cut(n: usize) -> (usize, f64) {
    let sums = n * (n + 1) / 2;
    let mut chance = vec![0.0; sums + 1];
    chance[0] = 1.0;
    for rank in 1..=n {
        for sum in (0..=sums).rev() {
            let with = if sum >= rank { chance[sum - rank] } else { 0.0 };
            chance[sum] = f64::midpoint(chance[sum], with);
        }
    }
    let (mut cut, mut below) = (0, chance[0]);
    while 1.0 - 2.0 * (below + chance[cut + 1]) >= CONFIDENCE {
        cut += 1;
        below += chance[cut];
    }
    (cut, 1.0 - 2.0 * below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Spread { low: 1.0, median: 2.0, high: 3.0 });
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(spread(&[7.0]), Spread { low: 7.0, median: 7.0, high: 7.0 });
    }

    /// Against the table of the signed-rank statistic (Hollander, Wolfe and Chicken, table A.4):
    /// P(T ≤ 0) = 1/32 for 5 pairs, P(T ≤ 2) = 0.0234 for 7, P(T ≤ 8) = 0.0244 for 10.
    #[test]
    fn ranges_leave_out_what_the_tables_of_the_signed_rank_test_say() {
        let (none, confidence) = cut(5);
        assert_eq!((none, confidence), (0, 1.0 - 2.0 / 32.0));
        for (pairs, left_out, missed) in [(6, 0, 0.0156), (7, 2, 0.0234), (10, 8, 0.0244)] {
            let (cut, confidence) = cut(pairs);
            assert_eq!(cut, left_out, "{pairs} pairs");
            assert!((confidence - (1.0 - 2.0 * missed)).abs() < 2e-4, "{pairs}: {confidence}");
        }
        assert!(cut(PAIRS_MIN).1 >= CONFIDENCE && cut(PAIRS_MIN - 1).1 < CONFIDENCE);
    }

    #[test]
    fn a_difference_is_told_from_noise() {
        let noise = [0.99, 1.01, 1.0, 1.02, 0.98, 1.015, 0.985];
        let pairs = |ratio: f64| noise.map(|noise| (ratio * noise * 1000.0, 1000.0));
        let same = Ratio::of(&pairs(1.0));
        assert!(!same.differs(), "{same:?}");
        assert!(same.verdict("slower", "faster").starts_with("no difference"));
        let slower = Ratio::of(&pairs(0.9));
        assert!(slower.high < 1.0 && (slower.estimate - 0.9).abs() < 0.005, "{slower:?}");
        assert!(slower.verdict("slower", "faster").starts_with("slower by 10."));
        let faster = Ratio::of(&pairs(1.2));
        assert!(faster.verdict("slower", "faster").starts_with("faster by "), "{faster:?}");
    }

    /// The range holds the truth as often as it says: 2,000 runs of 7 skewed-by-drift pairs.
    #[test]
    fn the_range_holds_the_truth_as_often_as_it_says() {
        let mut state = 7u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut held = 0;
        for _ in 0..2_000 {
            let pairs: Vec<_> = (0..7)
                .map(|_| {
                    let drift = 1.0 + 4.0 * uniform();
                    let mut noise = || ((uniform() + uniform() + uniform()) * 0.1).exp();
                    (0.96 * drift * noise(), drift * noise())
                })
                .collect();
            let ratio = Ratio::of(&pairs);
            held += u32::from((ratio.low..=ratio.high).contains(&0.96));
        }
        let share = f64::from(held) / 2_000.0;
        assert!((0.935..=0.97).contains(&share), "{share}");
    }
}
