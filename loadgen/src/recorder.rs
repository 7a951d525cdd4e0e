//! Counts and histograms of a run.

use std::time::Duration;

use hdrhistogram::Histogram;
use model::Outcome;

/// Latencies above this count as this much.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// What one thread, or all together, saw.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// From the intended send time to the answer, in µs, one entry for each order. Three
    /// significant digits.
    pub latency: Histogram<u64>,
    /// How late requests were sent although a connection was free, in µs, one for each request.
    pub late: Histogram<u64>,
    /// Orders by outcome.
    pub outcomes: [u64; Outcome::ALL.len() + 1],
    /// Orders accepted, by second of the run.
    pub accepted_by_second: Vec<u64>,
    /// Orders that were due.
    pub offered: u64,
    /// Orders without a final answer.
    pub errors: u64,
    /// Requests sent again because nothing was known of the first.
    pub retries: u64,
    /// What the last error was.
    pub last_error: Option<String>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        let histogram = || {
            let high = LATENCY_MAX.as_micros() as u64;
            Histogram::new_with_bounds(1, high, 3).expect("the bounds are in order")
        };
        Recorder {
            latency: histogram(),
            late: histogram(),
            outcomes: [0; Outcome::ALL.len() + 1],
            accepted_by_second: Vec::new(),
            offered: 0,
            errors: 0,
            retries: 0,
            last_error: None,
        }
    }
}

impl Recorder {
    /// The answers to a request: `outcomes` by byte, `latency` since it was due, `elapsed`
    /// since the run began.
    pub fn answered(&mut self, outcomes: &[u8], latency: Duration, elapsed: Duration) {
        self.latency.saturating_record_n(latency.as_micros() as u64, outcomes.len() as u64);
        let mut accepted = 0;
        for &outcome in outcomes {
            self.outcomes[usize::from(outcome).min(Outcome::ALL.len())] += 1;
            accepted += u64::from(outcome <= Outcome::AlreadyDone as u8);
        }
        let second = elapsed.as_secs() as usize;
        if self.accepted_by_second.len() <= second {
            self.accepted_by_second.resize(second + 1, 0);
        }
        self.accepted_by_second[second] += accepted;
    }

    /// A request was sent so much later than it could have been.
    pub fn sent(&mut self, late: Duration) {
        self.late.saturating_record(late.as_micros() as u64);
    }

    /// Orders that were placed, also those that had been when they were resent.
    pub fn accepted(&self) -> u64 {
        self.outcomes[Outcome::Ok as usize] + self.outcomes[Outcome::AlreadyDone as usize]
    }

    /// Orders by the reason for which they were refused.
    pub fn rejected(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        Outcome::ALL
            .iter()
            .map(|&outcome| (outcome, self.outcomes[outcome as usize]))
            .filter(|(outcome, count)| !outcome.is_done() && *count > 0)
    }

    /// Adds what another saw of the same run.
    pub fn merge(&mut self, other: &Recorder) {
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        self.late.add(&other.late).expect("all histograms have the same bounds");
        for (mine, other) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine += other;
        }
        if self.accepted_by_second.len() < other.accepted_by_second.len() {
            self.accepted_by_second.resize(other.accepted_by_second.len(), 0);
        }
        for (mine, other) in self.accepted_by_second.iter_mut().zip(&other.accepted_by_second) {
            *mine += other;
        }
        self.offered += other.offered;
        self.errors += other.errors;
        self.retries += other.retries;
        if self.last_error.is_none() {
            self.last_error.clone_from(&other.last_error);
        }
    }
}
