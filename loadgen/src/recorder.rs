//! Counts and histograms of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use model::Outcome;

/// Latencies above this count as this much.
const LATENCY_MAX: Duration = Duration::from_secs(600);
/// Kinds of failures that are told apart.
const REASONS_MAX: usize = 32;

/// What one thread, or all together, saw.
///
/// Most requests carry one thing, a batch many orders: what is counted is the things, here
/// called units.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// By kind of request, as the load names them.
    pub kinds: Vec<Kind>,
    /// How late requests were sent although they were due and a connection was free, in ns, one
    /// entry for each request.
    pub late: Histogram<u64>,
    /// Requests that were sent after they were due because every connection was busy.
    pub waited: u64,
    /// Orders by outcome.
    pub outcomes: [u64; Outcome::ALL.len() + 1],
    /// Second by second, by the time of the answer.
    pub seconds: Vec<Second>,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests that were sent again because nothing was known of the first.
    pub retries: u64,
    /// Orders that were answered as busy, each time.
    pub busy: u64,
    /// Why units failed.
    pub reasons: BTreeMap<String, u64>,
    /// Bytes of the answers' bodies.
    pub body_bytes: u64,
    /// Connections opened, also those after a break.
    pub connects: u64,
    /// Follow-ups that fell due after the end and were left out.
    pub left_out: u64,
}

/// One kind of request.
#[derive(Clone, Debug)]
pub struct Kind {
    /// As the load calls it.
    pub name: &'static str,
    /// Requests that were answered.
    pub requests: u64,
    /// Units that were due.
    pub offered: u64,
    /// Units that were done.
    pub accepted: u64,
    /// Units without an answer, or with one that can't be right.
    pub errors: u64,
    /// From the intended time to the answer, in ns, one entry for each unit. Three significant
    /// digits.
    pub latency: Histogram<u64>,
}

/// One second of a run.
#[derive(Clone, Debug)]
pub struct Second {
    /// Units done.
    pub accepted: u64,
    /// Units failed.
    pub errors: u64,
    /// Answers by latency: bucket *b* holds those of 2^(b/4) to 2^((b+1)/4) µs.
    buckets: [u32; Second::BUCKETS],
}

impl Default for Second {
    fn default() -> Second {
        Second { accepted: 0, errors: 0, buckets: [0; Second::BUCKETS] }
    }
}

impl Second {
    /// Four for every doubling, up to 2³⁰ µs.
    const BUCKETS: usize = 120;

    fn bucket(latency: Duration) -> usize {
        let micros = (latency.as_micros() as u64).max(1);
        let octave = micros.ilog2();
        // The two bits below the highest are close enough to quarters of an octave.
        let quarter = if octave >= 2 { micros >> (octave - 2) & 3 } else { 0 };
        (octave as usize * 4 + quarter as usize).min(Second::BUCKETS - 1)
    }

    /// The latency that a share of this second's answers did not pass, to a fifth; zero where
    /// there were none.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let total: u64 = self.buckets.iter().map(|&count| u64::from(count)).sum();
        let wanted = (total as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, &count) in self.buckets.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted {
                let (octave, quarter) = (at / 4, at as u64 % 4 + 1);
                return Duration::from_micros((1u64 << octave) * (4 + quarter) / 4);
            }
        }
        Duration::ZERO
    }
}

/// A histogram of nanoseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    let high = LATENCY_MAX.as_nanos() as u64;
    Histogram::new_with_bounds(1_000, high, 3).expect("the bounds are in order")
}

impl Recorder {
    /// For a load of these kinds.
    pub fn new(kinds: &[&'static str]) -> Recorder {
        let kind = |&name: &&'static str| Kind {
            name,
            requests: 0,
            offered: 0,
            accepted: 0,
            errors: 0,
            latency: histogram(),
        };
        Recorder {
            kinds: kinds.iter().map(kind).collect(),
            late: histogram(),
            waited: 0,
            outcomes: [0; Outcome::ALL.len() + 1],
            seconds: Vec::new(),
            statuses: BTreeMap::new(),
            retries: 0,
            busy: 0,
            reasons: BTreeMap::new(),
            body_bytes: 0,
            connects: 0,
            left_out: 0,
        }
    }

    /// `units` of a kind were answered, `accepted` of them as wished; `latency` since they were
    /// due, `elapsed` since the run began.
    pub fn answered(
        &mut self,
        kind: u8,
        units: u64,
        accepted: u64,
        latency: Duration,
        elapsed: Duration,
    ) {
        let of_kind = &mut self.kinds[usize::from(kind)];
        of_kind.requests += 1;
        of_kind.accepted += accepted;
        of_kind.latency.saturating_record_n(latency.as_nanos() as u64, units);
        if kind != 0 {
            return;
        }
        let second = self.second(elapsed);
        second.accepted += accepted;
        let bucket = &mut second.buckets[Second::bucket(latency)];
        *bucket = bucket.saturating_add(units as u32);
    }

    /// `units` of a kind failed.
    pub fn failed(&mut self, kind: u8, units: u64, why: &str, elapsed: Duration) {
        self.kinds[usize::from(kind)].errors += units;
        self.second(elapsed).errors += units;
        if let Some(count) = self.reasons.get_mut(why) {
            *count += units;
        } else if self.reasons.len() < REASONS_MAX {
            self.reasons.insert(why.to_string(), units);
        } else {
            *self.reasons.entry("other reasons".to_string()).or_default() += units;
        }
    }

    fn second(&mut self, elapsed: Duration) -> &mut Second {
        let second = elapsed.as_secs() as usize;
        if self.seconds.len() <= second {
            self.seconds.resize_with(second + 1, Second::default);
        }
        &mut self.seconds[second]
    }

    /// Counts what became of orders, each by the byte of its outcome; how many were done. Those
    /// that are busy are counted apart: something is still to become of them.
    pub fn outcomes(&mut self, outcomes: &[u8]) -> u64 {
        let mut done = 0;
        for &outcome in outcomes {
            if outcome == Outcome::Busy as u8 {
                self.busy += 1;
                continue;
            }
            self.outcomes[usize::from(outcome).min(Outcome::ALL.len())] += 1;
            done += u64::from(outcome <= Outcome::AlreadyDone as u8);
        }
        done
    }

    /// Units that were due, of all kinds.
    pub fn offered(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.offered).sum()
    }

    /// Units that were done, of all kinds.
    pub fn accepted(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.accepted).sum()
    }

    /// Units that failed, of all kinds.
    pub fn errors(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.errors).sum()
    }

    /// Requests that were answered, of all kinds.
    pub fn requests(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.requests).sum()
    }

    /// The most frequent reason of failures.
    pub fn main_reason(&self) -> Option<&str> {
        self.reasons.iter().max_by_key(|(_, count)| **count).map(|(why, _)| why.as_str())
    }

    /// Orders by the reason for which they were refused.
    pub fn rejected(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        Outcome::ALL
            .iter()
            .map(|&outcome| (outcome, self.outcomes[outcome as usize]))
            .filter(|(outcome, count)| !outcome.is_done() && *count > 0)
    }

    /// Latencies of all kinds together.
    pub fn latency(&self) -> Histogram<u64> {
        let mut all = histogram();
        for kind in &self.kinds {
            all.add(&kind.latency).expect("all histograms have the same bounds");
        }
        all
    }

    /// Adds what another saw of the same run.
    pub fn merge(&mut self, other: &Recorder) {
        for (mine, other) in self.kinds.iter_mut().zip(&other.kinds) {
            mine.requests += other.requests;
            mine.offered += other.offered;
            mine.accepted += other.accepted;
            mine.errors += other.errors;
            mine.latency.add(&other.latency).expect("all histograms have the same bounds");
        }
        self.late.add(&other.late).expect("all histograms have the same bounds");
        for (mine, other) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine += other;
        }
        if self.seconds.len() < other.seconds.len() {
            self.seconds.resize_with(other.seconds.len(), Second::default);
        }
        for (mine, other) in self.seconds.iter_mut().zip(&other.seconds) {
            mine.accepted += other.accepted;
            mine.errors += other.errors;
            for (mine, other) in mine.buckets.iter_mut().zip(other.buckets) {
                *mine = mine.saturating_add(other);
            }
        }
        for (&status, count) in &other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (why, count) in &other.reasons {
            *self.reasons.entry(why.clone()).or_default() += count;
        }
        self.waited += other.waited;
        self.retries += other.retries;
        self.busy += other.busy;
        self.body_bytes += other.body_bytes;
        self.connects += other.connects;
        self.left_out += other.left_out;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_know_their_quantiles_to_a_fifth() {
        let mut recorder = Recorder::new(&["x"]);
        for micros in 1..=1000 {
            let latency = Duration::from_micros(micros);
            recorder.answered(0, 1, 1, latency, Duration::from_millis(2500));
        }
        for (quantile, micros) in [(0.5, 500.0), (0.99, 990.0), (0.1, 100.0)] {
            let found = recorder.seconds[2].quantile(quantile).as_micros() as f64;
            assert!((0.99..1.26).contains(&(found / micros)), "{quantile}: {found}");
        }
        assert_eq!(recorder.seconds[0].quantile(0.5), Duration::ZERO);
    }
}
