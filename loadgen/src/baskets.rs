//! How many lines an order has and how many units a line: distributions fitted to purchases.
//!
//! A profile names them as a table of values and weights, `[[1, 0.0788], [2, 0.05], …]`, which
//! [`Discrete`] draws from. [`quantise`] makes such a table of what was counted: recorded
//! purchases have thousands of different values, most of them once, which no one wants to read
//! in a profile.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::alias::{Alias, AliasError};
use crate::profile::Random;

/// Values with the weights they are drawn by.
///
/// It is read from a list of pairs `[value, weight]`; the weights need no certain sum.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Vec<(u32, f64)>")]
pub struct Discrete {
    values: Vec<u32>,
    alias: Alias,
    mean: f64,
}

impl Discrete {
    /// `points` are values, each with its weight.
    pub fn new(points: &[(u32, f64)]) -> Result<Discrete, AliasError> {
        let (values, weights): (Vec<u32>, Vec<f64>) = points.iter().copied().unzip();
        let alias = Alias::new(&weights)?;
        let total: f64 = weights.iter().sum();
        let mean = points.iter().map(|&(value, weight)| f64::from(value) * (weight / total)).sum();
        Ok(Discrete { values, alias, mean })
    }

    /// One of the values.
    pub fn sample(&self, random: &mut Random) -> u32 {
        self.values[self.alias.sample(random)]
    }

    /// The mean of what is drawn.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The values, as they were given.
    pub fn values(&self) -> &[u32] {
        &self.values
    }
}

impl TryFrom<Vec<(u32, f64)>> for Discrete {
    type Error = AliasError;

    fn try_from(points: Vec<(u32, f64)>) -> Result<Discrete, AliasError> {
        Discrete::new(&points)
    }
}

/// At most `points_max` values (at least 1) that stand for all that were counted, ascending, with
/// weights that add up to 1.
///
/// Neighbours become one at their mean, rounded up or down to a whole number: first those that lie
/// closest as ratios and weigh least (J. H. Ward's criterion on logarithms, JASA 58(301), 1963).
/// So the many small baskets keep their own values, the few large ones share some, and the mean
/// stays where it was but for half a unit of the heaviest point. The largest values survive less
/// well: what depends on the very largest basket must name it. A value of 0 counts as 1 in the
/// ratios.
pub fn quantise(counts: &BTreeMap<u32, u64>, points_max: usize) -> Vec<(u32, f64)> {
    let mut groups: Vec<Group> = counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(&value, &count)| Group {
            weight: count as f64,
            sum: f64::from(value) * count as f64,
            log: f64::from(value.max(1)).ln(),
        })
        .collect();
    let total: f64 = groups.iter().map(|group| group.weight).sum();
    while groups.len() > points_max.max(1) {
        let costs = groups.windows(2).map(|pair| pair[0].cost(&pair[1]));
        let cheapest = costs.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at);
        let at = cheapest.expect("two groups are left");
        let next = groups.remove(at + 1);
        groups[at] = groups[at].with(&next);
    }
    // What rounding took from one mean it gives to the next, so that it doesn't add up.
    let mut owed = 0.0;
    let point = |group: Group| {
        let mean = group.sum / group.weight;
        let left = |value: f64| owed + (mean - value) * group.weight;
        let (below, above) = (mean.floor(), mean.ceil());
        let value = if left(below).abs() <= left(above).abs() { below } else { above };
        owed = left(value);
        (value as u32, group.weight / total)
    };
    groups.into_iter().map(point).collect()
}

/// Neighbouring values that are one point.
#[derive(Clone, Copy)]
struct Group {
    weight: f64,
    /// Of value × count.
    sum: f64,
    /// The mean logarithm.
    log: f64,
}

impl Group {
    /// By how much the squared distances within groups grow when these two become one.
    fn cost(&self, next: &Group) -> f64 {
        let distance = next.log - self.log;
        self.weight * next.weight / (self.weight + next.weight) * distance * distance
    }

    fn with(&self, next: &Group) -> Group {
        let weight = self.weight + next.weight;
        let log = (self.weight * self.log + next.weight * next.log) / weight;
        Group { weight, sum: self.sum + next.sum, log }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mean(counts: &BTreeMap<u32, u64>) -> f64 {
        let total: u64 = counts.values().sum();
        let sum: f64 = counts.iter().map(|(v, c)| f64::from(*v) * *c as f64).sum();
        sum / total as f64
    }

    #[test]
    fn a_table_is_read_and_drawn_from() {
        let table: Discrete = serde_json::from_str("[[1, 3.0], [5, 1.0]]").unwrap();
        assert_eq!(table.mean(), 2.0);
        let mut random = Random(9);
        let draws: Vec<u32> = (0..100_000).map(|_| table.sample(&mut random)).collect();
        assert!(draws.iter().all(|draw| table.values().contains(draw)));
        let ones = draws.iter().filter(|draw| **draw == 1).count();
        assert!((74_000..76_000).contains(&ones), "{ones}");

        let refused = serde_json::from_str::<Discrete>("[[1, -3.0]]").unwrap_err();
        assert!(refused.to_string().contains("weight -3 at place 0"), "{refused}");
    }

    #[test]
    fn few_values_stay_as_they_are() {
        let counts = BTreeMap::from([(1, 6), (2, 3), (40, 1)]);
        assert_eq!(quantise(&counts, 40), [(1, 0.6), (2, 0.3), (40, 0.1)]);
        assert_eq!(quantise(&BTreeMap::new(), 40), []);
    }

    #[test]
    fn a_long_tail_keeps_its_head_and_its_mean() {
        // Counts of 10⁶ ÷ value², as baskets are.
        let counts: BTreeMap<u32, u64> =
            (1..1000).map(|value| (value, 1_000_000 / u64::from(value).pow(2))).collect();
        let points = quantise(&counts, 40);
        assert_eq!(points.len(), 40);
        assert_eq!(points[..5].iter().map(|point| point.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        let fitted = Discrete::new(&points).unwrap().mean();
        assert!((fitted / mean(&counts) - 1.0).abs() < 0.005, "{fitted} of {}", mean(&counts));
    }

    proptest! {
        #[test]
        fn points_are_few_ascending_and_whole(
            counts in proptest::collection::btree_map(0u32..100_000, 1u64..1000, 1..150),
            points_max in 1usize..60,
        ) {
            let points = quantise(&counts, points_max);
            prop_assert!(points.len() <= points_max);
            prop_assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let weight: f64 = points.iter().map(|point| point.1).sum();
            prop_assert!((weight - 1.0).abs() < 1e-9);
            // The heaviest point weighs 1 at most.
            let fitted = Discrete::new(&points).unwrap().mean();
            prop_assert!((fitted - mean(&counts)).abs() <= 0.5 + 1e-6);
        }
    }
}
