//! What the stages took up to a moment, to be subtracted, added and read.
//!
//! Snapshots are taken while requests go on, so those under way may be in some figures of a
//! snapshot and not yet in others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Stage;
use super::histogram::width;

/// What the stages took, by stage and place, since the start or between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Snapshot {
    /// Sorted by stage, then by place.
    pub entries: Vec<StageTimes>,
}

/// What one stage took at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTimes {
    /// Which.
    pub stage: Stage,
    /// `reactor 0`: the one that was asked; `all` when places were merged.
    pub place: String,
    /// Writes that went through it and were answered.
    pub requests: u64,
    /// Their commands: a batch has many.
    pub orders: u64,
    /// Nanoseconds that they took, together.
    pub sum_ns: u64,
    /// Requests by the nanoseconds that they took: a bucket's least value, and how many. Sorted;
    /// 16 buckets to an octave, those without a request left out.
    pub buckets: Vec<(u64, u64)>,
}

impl StageTimes {
    /// The time that a share `q` of the requests (0 to 1) didn't exceed, in nanoseconds, to
    /// within [`RELATIVE_ERROR`](super::RELATIVE_ERROR). 0 without requests.
    pub fn quantile(&self, q: f64) -> u64 {
        let total: u64 = self.buckets.iter().map(|(_, count)| count).sum();
        let wanted = ((q.clamp(0.0, 1.0) * total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for &(lowest, count) in &self.buckets {
            seen += count;
            if seen >= wanted {
                return lowest + (width(lowest) - 1) / 2;
            }
        }
        0
    }

    /// The mean time of a request, in nanoseconds. 0 without requests.
    pub fn mean(&self) -> f64 {
        self.sum_ns as f64 / self.requests.max(1) as f64
    }

    fn empty(stage: Stage, place: String) -> StageTimes {
        StageTimes { stage, place, requests: 0, orders: 0, sum_ns: 0, buckets: Vec::new() }
    }

    fn combine(&mut self, other: &StageTimes, with: impl Fn(u64, u64) -> u64) {
        self.requests = with(self.requests, other.requests);
        self.orders = with(self.orders, other.orders);
        self.sum_ns = with(self.sum_ns, other.sum_ns);
        let mut buckets: BTreeMap<u64, u64> = self.buckets.drain(..).collect();
        for &(lowest, count) in &other.buckets {
            let found = buckets.entry(lowest).or_default();
            *found = with(*found, count);
        }
        self.buckets = buckets.into_iter().filter(|(_, count)| *count > 0).collect();
    }
}

impl Snapshot {
    /// What was added since an earlier snapshot of the same process.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let mut since = self.clone();
        for times in &mut since.entries {
            let key = (times.stage, &times.place);
            if let Some(before) = earlier.entries.iter().find(|e| (e.stage, &e.place) == key) {
                times.combine(before, u64::saturating_sub);
            }
        }
        since
    }

    /// Both together.
    pub fn merge(&self, other: &Snapshot) -> Snapshot {
        let both = self.entries.iter().chain(&other.entries);
        Snapshot::sum(both.map(|times| (times, times.place.as_str())))
    }

    /// One entry for each stage, over all its places.
    pub fn merged(&self) -> Snapshot {
        Snapshot::sum(self.entries.iter().map(|times| (times, "all")))
    }

    /// What a stage took over all places; `None` where it isn't in the snapshot.
    pub fn stage(&self, stage: Stage) -> Option<StageTimes> {
        self.merged().entries.into_iter().find(|times| times.stage == stage)
    }

    fn sum<'a>(parts: impl Iterator<Item = (&'a StageTimes, &'a str)>) -> Snapshot {
        let mut sums: BTreeMap<(Stage, &str), StageTimes> = BTreeMap::new();
        for (times, place) in parts {
            let sum = sums.entry((times.stage, place));
            sum.or_insert_with(|| StageTimes::empty(times.stage, place.to_string()))
                .combine(times, u64::saturating_add);
        }
        Snapshot { entries: sums.into_values().collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::histogram::{Histogram, RELATIVE_ERROR};
    use super::*;

    fn times(stage: Stage, place: &str, values: &[u64]) -> StageTimes {
        let histogram = Histogram::default();
        for &value in values {
            histogram.record(value);
        }
        StageTimes {
            stage,
            place: place.to_string(),
            requests: values.len() as u64,
            orders: 3 * values.len() as u64,
            sum_ns: histogram.sum(),
            buckets: histogram.buckets(),
        }
    }

    fn values() -> impl Strategy<Value = Vec<u64>> {
        // As many of each size of number.
        prop::collection::vec(
            (0_u32..50, any::<u64>()).prop_map(|(bits, n)| (n >> (63 - bits)).max(1)),
            1..99,
        )
    }

    fn snapshot(seen: [&[u64]; 3]) -> Snapshot {
        let mut entries = vec![
            times(Stage::Receive, "reactor 0", seen[0]),
            times(Stage::Receive, "reactor 1", seen[1]),
            times(Stage::Sync, "shard 0", seen[2]),
        ];
        entries.retain(|times| times.requests > 0);
        Snapshot { entries }
    }

    proptest! {
        #[test]
        fn quantiles_are_within_the_stated_error(mut values in values(), q in 0.0_f64..=1.0) {
            let times = times(Stage::Apply, "shard 0", &values);
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).max(1);
            let exact = values[rank - 1] as f64;
            let error = (times.quantile(q) as f64 - exact).abs();
            prop_assert!(error <= exact * RELATIVE_ERROR, "{error} of {exact}");
        }

        #[test]
        fn merging_and_subtracting_are_inverse(
            (a, b, c) in (values(), values(), values()),
            (d, e, f) in (values(), values(), values()),
        ) {
            let (one, two) = (snapshot([&a, &b, &c]), snapshot([&d, &e, &f]));
            let both = one.merge(&two);
            prop_assert_eq!(both.since(&one), two.clone());
            prop_assert_eq!(both.since(&two), one.clone());
            prop_assert_eq!(both.merged(), one.merged().merge(&two.merged()));
            let receive = both.stage(Stage::Receive).unwrap();
            prop_assert_eq!(receive.requests as usize, a.len() + b.len() + d.len() + e.len());
        }

        #[test]
        fn json_brings_it_back(a in values()) {
            let snapshot = snapshot([&a, &[], &a]);
            let text = sonic_rs::to_string(&snapshot).unwrap();
            prop_assert_eq!(sonic_rs::from_str::<Snapshot>(&text).unwrap(), snapshot);
        }
    }

    #[test]
    fn nothing_takes_no_time() {
        let times = times(Stage::Whole, "all", &[]);
        assert_eq!((times.quantile(0.99), times.mean()), (0, 0.0));
        assert_eq!(Snapshot::default().stage(Stage::Whole), None);
    }
}
