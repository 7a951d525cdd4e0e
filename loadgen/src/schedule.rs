//! When requests fall due, whatever the target does with them (open loop).
//!
//! A [`Schedule`] is a rate over time, in straight pieces: constant, ramps, steps, or the shape
//! of a recording. Arrival *k* is due where the rate's integral reaches *k* (even arrivals), or
//! where it reaches the sum of *k* exponential gaps of mean 1 (a Poisson process; P. Lewis, G.
//! Shedler, "Simulation of nonhomogeneous Poisson processes by thinning", Naval Research
//! Logistics 26(3), 1979, section 1: inversion of the integrated rate). The same seed gives the
//! same times.

use std::time::Duration;

use crate::profile::Random;

/// A straight piece of a rate.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Stage {
    /// Arrivals a second when it begins; not negative.
    pub from: f64,
    /// Arrivals a second when it ends; not negative.
    pub to: f64,
    /// How long it takes.
    pub time: Duration,
}

impl Stage {
    /// The same rate for a while.
    pub fn constant(rate: f64, time: Duration) -> Stage {
        Stage { from: rate, to: rate, time }
    }

    /// Arrivals in it.
    fn area(&self) -> f64 {
        (self.from + self.to) / 2.0 * self.time.as_secs_f64()
    }

    /// When `area` arrivals of it are over.
    fn time_of(&self, area: f64) -> f64 {
        let slope = (self.to - self.from) / self.time.as_secs_f64().max(f64::MIN_POSITIVE);
        // The root of from·t + slope·t²/2 = area, written so that nothing cancels out.
        let root = (self.from * self.from + 2.0 * slope * area).max(0.0).sqrt();
        if area > 0.0 { 2.0 * area / (self.from + root) } else { 0.0 }
    }
}

/// How arrivals lie around their rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// At equal distances.
    #[default]
    Even,
    /// Independent of one another, as those of many people are.
    Poisson,
}

impl std::str::FromStr for Arrivals {
    type Err = String;

    fn from_str(text: &str) -> Result<Arrivals, String> {
        match text {
            "even" => Ok(Arrivals::Even),
            "poisson" => Ok(Arrivals::Poisson),
            _ => Err(format!("{text:?} is neither even nor poisson")),
        }
    }
}

/// A rate over time.
#[derive(Clone, PartialEq, Debug)]
pub struct Schedule {
    /// Its pieces, one after the other.
    pub stages: Vec<Stage>,
    /// How arrivals lie around it.
    pub arrivals: Arrivals,
    /// Of the arrivals that chance decides.
    pub seed: u64,
}

impl Schedule {
    /// How long arrivals fall due.
    pub fn duration(&self) -> Duration {
        self.stages.iter().map(|stage| stage.time).sum()
    }

    /// Arrivals in the whole: exactly for even ones, in the mean for others.
    pub fn expected(&self) -> f64 {
        self.stages.iter().map(Stage::area).sum()
    }

    /// The highest rate, a second.
    pub fn peak(&self) -> f64 {
        self.stages.iter().flat_map(|stage| [stage.from, stage.to]).fold(0.0, f64::max)
    }

    /// The same shape with all rates times `factor`.
    pub fn scaled(&self, factor: f64) -> Schedule {
        let mut scaled = self.clone();
        for stage in &mut scaled.stages {
            stage.from *= factor;
            stage.to *= factor;
        }
        scaled
    }

    /// The same rates in a `factor`th of the time.
    pub fn compressed(&self, factor: f64) -> Schedule {
        let mut compressed = self.clone();
        for stage in &mut compressed.stages {
            stage.time = stage.time.div_f64(factor);
        }
        compressed
    }

    /// The times at which arrivals are due, from the start on, never decreasing.
    pub fn times(&self) -> Times {
        let random = Random(self.seed ^ 0x6172_7269_7661_6c73);
        Times {
            schedule: self.clone(),
            stage: 0,
            began: 0.0,
            before: 0.0,
            area: 0.0,
            random,
            first: true,
        }
    }
}

/// Iterates over the times of a schedule's arrivals.
#[derive(Clone, Debug)]
pub struct Times {
    schedule: Schedule,
    stage: usize,
    /// When this stage began, in seconds, and how many arrivals were before it.
    began: f64,
    before: f64,
    /// Where the next arrival is, in arrivals.
    area: f64,
    random: Random,
    first: bool,
}

impl Iterator for Times {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.area += match self.schedule.arrivals {
            Arrivals::Even if self.first => 0.0,
            Arrivals::Even => 1.0,
            Arrivals::Poisson => self.random.exponential(),
        };
        self.first = false;
        loop {
            let stage = self.schedule.stages.get(self.stage)?;
            let within = self.area - self.before;
            // A sum of many even steps may miss the end by a rounding.
            if within < stage.area() - 1e-9 {
                return Some(Duration::from_secs_f64(self.began + stage.time_of(within)));
            }
            self.before += stage.area();
            self.began += stage.time.as_secs_f64();
            self.stage += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(stages: &[(f64, f64, u64)], arrivals: Arrivals) -> Schedule {
        let stage = |&(from, to, seconds)| Stage { from, to, time: Duration::from_secs(seconds) };
        Schedule { stages: stages.iter().map(stage).collect(), arrivals, seed: 7 }
    }

    #[test]
    fn even_arrivals_are_evenly_apart() {
        let plan = schedule(&[(4.0, 4.0, 1), (0.0, 0.0, 2), (2.0, 2.0, 1)], Arrivals::Even);
        let times: Vec<_> = plan.times().map(|t| t.as_millis()).collect();
        assert_eq!(times, [0, 250, 500, 750, 3000, 3500]);
    }

    #[test]
    fn a_ramp_has_the_arrivals_of_its_area() {
        let plan = schedule(&[(0.0, 1000.0, 10), (1000.0, 0.0, 10)], Arrivals::Even);
        let times: Vec<_> = plan.times().collect();
        assert_eq!(times.len(), 10_000);
        // Half of a ramp's arrivals are in its last 1 − 1/√2 of the time.
        let half = times[2_500].as_secs_f64();
        assert!((half - 10.0 / 2f64.sqrt()).abs() < 1e-6, "{half}");
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn poisson_gaps_are_exponential() {
        let plan = schedule(&[(1000.0, 1000.0, 100)], Arrivals::Poisson);
        let times: Vec<_> = plan.times().collect();
        let expected = plan.expected();
        // Five standard deviations of a Poisson count.
        assert!((times.len() as f64 - expected).abs() < 5.0 * expected.sqrt(), "{}", times.len());
        let gaps = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1000.0);
        let over_one = gaps.filter(|&gap| gap > 1.0).count() as f64 / times.len() as f64;
        assert!((over_one - (-1f64).exp()).abs() < 0.01, "{over_one}");
        assert_eq!(times, plan.times().collect::<Vec<_>>());
    }

    #[test]
    fn shapes_can_be_scaled_and_compressed() {
        let plan = schedule(&[(10.0, 30.0, 10)], Arrivals::Even);
        assert_eq!(plan.expected(), 200.0);
        assert_eq!(plan.scaled(2.0).expected(), 400.0);
        let quick = plan.compressed(10.0);
        assert_eq!((quick.duration(), quick.peak()), (Duration::from_secs(1), 30.0));
    }
}
