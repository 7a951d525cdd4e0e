//! Draws from any discrete distribution in constant time: the alias method (M. Vose, "A linear
//! algorithm for generating random numbers with a given distribution", IEEE TSE 17(9), 1991).
//!
//! Every index has a column as wide as the average weight. An index that weighs less leaves room
//! in its column, which one that weighs more fills. A draw picks a column, then one of the two
//! that share it: 8 bytes are read, however many indices there are. An index of weight 0 is never
//! drawn, and rounding moves no probability by more than 2⁻³² of a column.

use crate::profile::Random;

/// The most weights of one distribution: indices are kept in 32 bits.
pub const WEIGHTS_MAX: usize = u32::MAX as usize;

/// Weights made ready to be drawn from.
#[derive(Clone, Debug)]
pub struct Alias {
    columns: Vec<Column>,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    /// In 2⁻³² of a column: below it the column's own index, else the alias.
    own: u32,
    alias: u32,
}

/// Why weights make no distribution. The same weights fail again.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AliasError {
    /// There are none, or none above 0.
    #[error("no weight is above 0")]
    NoWeight,
    /// There are too many.
    #[error("{found} weights are more than the limit of {WEIGHTS_MAX}")]
    TooMany {
        /// How many there are.
        found: usize,
    },
    /// A weight is negative or not a number, or all together are infinite.
    #[error("weight {weight} at place {index} (from 0) is not a share: 0 or more, and finite")]
    NotAShare {
        /// Its place, from 0.
        index: usize,
        /// The weight.
        weight: f64,
    },
}

impl Alias {
    /// Index *i* will be drawn in the proportion `weights[i]`; the weights need no certain sum.
    pub fn new(weights: &[f64]) -> Result<Alias, AliasError> {
        if weights.len() > WEIGHTS_MAX {
            return Err(AliasError::TooMany { found: weights.len() });
        }
        let mut total = 0.0;
        let mut heaviest = 0;
        for (index, &weight) in weights.iter().enumerate() {
            total += weight;
            if weight.is_nan() || weight < 0.0 || total == f64::INFINITY {
                return Err(AliasError::NotAShare { index, weight });
            }
            if weight > weights[heaviest] {
                heaviest = index;
            }
        }
        if total == 0.0 {
            return Err(AliasError::NoWeight);
        }
        Ok(Alias { columns: columns(weights, total, heaviest) })
    }

    /// An index below the number of weights.
    #[inline]
    pub fn sample(&self, random: &mut Random) -> usize {
        let bits = random.next_u64();
        let at = ((u128::from(bits) * self.columns.len() as u128) >> 64) as usize;
        let column = self.columns[at];
        // The high bits choose the column; the low ones are even within it.
        if (bits as u32) < column.own { at } else { column.alias as usize }
    }
}

fn columns(weights: &[f64], total: f64, heaviest: usize) -> Vec<Column> {
    // Shares of the average column; those below 1 are filled up by those above.
    let average = total / weights.len() as f64;
    let mut share: Vec<f64> = weights.iter().map(|weight| weight / average).collect();
    let (mut small, mut large): (Vec<u32>, Vec<u32>) =
        (0..weights.len() as u32).partition(|&index| share[index as usize] < 1.0);
    // A column that is its own alias is all its own, whatever `own` says.
    let mut columns: Vec<Column> =
        (0..weights.len() as u32).map(|alias| Column { own: 0, alias }).collect();
    while let (Some(&low), Some(&high)) = (small.last(), large.last()) {
        small.pop();
        let room = 1.0 - share[low as usize];
        columns[low as usize] = Column { own: part(share[low as usize]), alias: high };
        share[high as usize] -= room;
        if share[high as usize] < 1.0 {
            large.pop();
            small.push(high);
        }
    }
    // Rounding leaves some whose share is all but 1, or 0: who never is drawn must not be now.
    for low in small {
        let own = part(share[low as usize]);
        columns[low as usize] = Column { own, alias: heaviest as u32 };
    }
    columns
}

/// A share of a column in 2⁻³²; a cast stops at the largest.
fn part(share: f64) -> u32 {
    (share * 4_294_967_296.0) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How probable each index is by the columns themselves.
    fn probabilities(alias: &Alias) -> Vec<f64> {
        let width = 1.0 / alias.columns.len() as f64;
        let mut found = vec![0.0; alias.columns.len()];
        for (at, column) in alias.columns.iter().enumerate() {
            let own = f64::from(column.own) / 4_294_967_296.0;
            found[at] += own * width;
            found[column.alias as usize] += (1.0 - own) * width;
        }
        found
    }

    #[test]
    fn draws_follow_the_weights() {
        let alias = Alias::new(&[1.0, 0.0, 7.0, 2.0]).unwrap();
        let mut random = Random(1);
        let mut counts = [0u32; 4];
        for _ in 0..1_000_000 {
            counts[alias.sample(&mut random)] += 1;
        }
        assert_eq!(counts[1], 0);
        for (count, expected) in counts.iter().zip([100_000.0, 0.0, 700_000.0, 200_000.0]) {
            // Five standard deviations of the widest are 2,300.
            assert!((f64::from(*count) - expected).abs() < 2_500.0, "{counts:?}");
        }
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        let refused = |weights: &[f64]| Alias::new(weights).unwrap_err().to_string();
        assert_eq!(refused(&[]), "no weight is above 0");
        assert_eq!(refused(&[0.0, 0.0]), "no weight is above 0");
        assert!(refused(&[1.0, -2.0]).starts_with("weight -2 at place 1 (from 0)"));
        assert!(refused(&[f64::NAN]).starts_with("weight NaN at place 0"));
        assert!(refused(&[f64::MAX, f64::MAX]).contains("at place 1"));
    }

    proptest! {
        #[test]
        fn columns_hold_what_the_weights_say(
            weights in proptest::collection::vec(prop_oneof![Just(0.0), 0.0f64..1e9], 1..200),
        ) {
            let total: f64 = weights.iter().sum();
            prop_assume!(total > 0.0);
            let found = probabilities(&Alias::new(&weights).unwrap());
            for (found, weight) in found.iter().zip(&weights) {
                prop_assert!((found - weight / total).abs() < 1e-6);
                prop_assert!(*weight > 0.0 || *found == 0.0);
            }
        }
    }
}
