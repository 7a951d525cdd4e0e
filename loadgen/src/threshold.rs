//! What a run must keep to pass: `p99 < 50ms`, `errors < 0.1%`, `pay p99 < 80ms`, `audit ok`.
//!
//! A threshold is text in a profile or on the command line. It is read once into exact numbers:
//! nanoseconds, millionths of the whole, thousandths of an answer per second. So `0.1%` of 1,000
//! is exactly one error, and what is printed reads back as the same threshold.
//!
//! A figure that was never measured passes nothing. An audit that couldn't be made, or a kind of
//! request that no one sent, gives [`Verdict::NotMeasured`]: it fails the run with its own words,
//! so that a threshold with a typing error in its kind isn't kept by accident.

mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use parse::ThresholdError;

/// A figure, how it must compare, and with what.
///
/// [`parse`](Threshold::parse) reads it and [`Display`](fmt::Display) writes its canonical text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Threshold {
    kind: Option<String>,
    rule: Rule,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    Latency(Quantile, Comparison, Duration),
    Errors(Comparison, Limit),
    Late(Comparison, Limit),
    /// Thousandths of an answer per second.
    Rate(Comparison, u64),
    AuditOk,
}

/// A place in the distribution of latencies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quantile {
    /// So much of the whole was as fast or faster.
    Percentile(Percent),
    /// The arithmetic mean.
    Mean,
    /// The slowest.
    Max,
}

/// A share in percent, exact to four decimals: 0 to 100.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Percent(u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comparison {
    Below,
    AtMost,
    Above,
    AtLeast,
    Exactly,
}

/// How many of all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Limit {
    Share(Percent),
    Count(u64),
}

/// What a run measured. `None`: it wasn't measured. `kind` is a kind of request, or `None` for all.
pub trait Figures {
    /// The latency at a quantile, from the intended time to the answer.
    fn latency(&self, kind: Option<&str>, quantile: Quantile) -> Option<Duration>;
    /// Requests without a final answer, and how many there were.
    fn errors(&self, kind: Option<&str>) -> Option<(u64, u64)>;
    /// Answers per second.
    fn rate(&self, kind: Option<&str>) -> Option<f64>;
    /// Requests sent later than they could have been, and how many there were.
    fn late(&self) -> Option<(u64, u64)>;
    /// Whether the audit found everything that was acknowledged.
    fn audit_ok(&self) -> Option<bool>;
}

/// A threshold beside what was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Checked {
    /// What was wanted; its canonical text when it is serialised.
    pub threshold: Threshold,
    /// The figure, or why there is none.
    pub found: String,
    /// Whether the threshold was kept.
    pub verdict: Verdict,
}

/// What came of a threshold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was kept.
    Met,
    /// It wasn't.
    Missed,
    /// There is no figure to hold it against, which fails a run as a miss does.
    NotMeasured,
}

impl Verdict {
    /// Whether a run may pass with it: only when the threshold was met.
    pub fn is_met(self) -> bool {
        self == Verdict::Met
    }
}

impl Threshold {
    /// The kind of request it is about, or `None` for all.
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// Whether it says how many requests may fail.
    pub fn wants_errors(&self) -> bool {
        matches!(self.rule, Rule::Errors(..))
    }

    /// Whether it asks for an audit.
    pub fn wants_audit(&self) -> bool {
        self.rule == Rule::AuditOk
    }

    /// Holds the threshold against a run.
    pub fn check(&self, figures: &dyn Figures) -> Checked {
        let kind = self.kind();
        let (found, verdict) = match self.rule {
            Rule::Latency(quantile, comparison, wanted) => match figures.latency(kind, quantile) {
                Some(found) => (Span(found).to_string(), comparison.verdict(found.cmp(&wanted))),
                None => (self.unmeasured("was answered"), Verdict::NotMeasured),
            },
            Rule::Errors(comparison, limit) => match figures.errors(kind) {
                Some((errors, of)) if of > 0 => limit.check(comparison, errors, of),
                _ => (self.unmeasured("was sent"), Verdict::NotMeasured),
            },
            Rule::Late(comparison, limit) => match figures.late() {
                Some((late, of)) if of > 0 => limit.check(comparison, late, of),
                _ => ("not measured: nothing was sent on a schedule".into(), Verdict::NotMeasured),
            },
            Rule::Rate(comparison, wanted) => match figures.rate(kind) {
                Some(found) => {
                    // The figure was counted and divided: a float holds it well enough.
                    let order = (found * 1000.0).total_cmp(&(wanted as f64));
                    (format!("{found:.3}/s"), comparison.verdict(order))
                }
                None => (self.unmeasured("was answered"), Verdict::NotMeasured),
            },
            Rule::AuditOk => match figures.audit_ok() {
                Some(true) => ("audit ok".into(), Verdict::Met),
                Some(false) => ("audit failed".into(), Verdict::Missed),
                None => ("not measured: no audit was made".into(), Verdict::NotMeasured),
            },
        };
        Checked { threshold: self.clone(), found, verdict }
    }

    fn unmeasured(&self, was: &str) -> String {
        match &self.kind {
            Some(kind) => format!("not measured: no request of kind `{kind}` {was}"),
            None => format!("not measured: no request {was}"),
        }
    }
}

impl Limit {
    /// `of` is above 0.
    fn check(self, comparison: Comparison, found: u64, of: u64) -> (String, Verdict) {
        let order = match self {
            Limit::Count(count) => found.cmp(&count),
            // Multiplied out, so that the comparison is exact.
            Limit::Share(Percent(share)) => (u128::from(found) * u128::from(Percent::WHOLE))
                .cmp(&(u128::from(of) * u128::from(share))),
        };
        // A miss by very little must not read like the limit itself: small shares keep their
        // digits, and the counts stand beside them.
        let percent = 100.0 * found as f64 / of as f64;
        let digits = if found == 0 || percent >= 1.0 { 2 } else { 4 };
        (format!("{percent:.digits$}% ({found} of {of})"), comparison.verdict(order))
    }
}

impl Comparison {
    /// `order` is how what was found compares with what is wanted.
    fn verdict(self, order: std::cmp::Ordering) -> Verdict {
        let met = match self {
            Comparison::Below => order.is_lt(),
            Comparison::AtMost => order.is_le(),
            Comparison::Above => order.is_gt(),
            Comparison::AtLeast => order.is_ge(),
            Comparison::Exactly => order.is_eq(),
        };
        if met { Verdict::Met } else { Verdict::Missed }
    }

    fn symbol(self) -> &'static str {
        match self {
            Comparison::Below => "<",
            Comparison::AtMost => "<=",
            Comparison::Above => ">",
            Comparison::AtLeast => ">=",
            Comparison::Exactly => "==",
        }
    }
}

impl Percent {
    const DECIMALS: u32 = 4;
    /// 100 %.
    const WHOLE: u32 = 100 * 10u32.pow(Percent::DECIMALS);

    /// As a share of 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(Percent::WHOLE)
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(kind) = &self.kind {
            write!(f, "{kind} ")?;
        }
        match self.rule {
            Rule::Latency(quantile, comparison, wanted) => {
                write!(f, "{quantile} {} {}", comparison.symbol(), Span(wanted))
            }
            Rule::Errors(comparison, limit) => {
                write!(f, "errors {} {limit}", comparison.symbol())
            }
            Rule::Late(comparison, limit) => write!(f, "late {} {limit}", comparison.symbol()),
            Rule::Rate(comparison, wanted) => {
                write!(f, "rate {} {}", comparison.symbol(), Decimal(wanted.into(), 3))
            }
            Rule::AuditOk => write!(f, "audit ok"),
        }
    }
}

impl fmt::Display for Quantile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Quantile::Percentile(percent) => write!(f, "p{percent}"),
            Quantile::Mean => write!(f, "mean"),
            Quantile::Max => write!(f, "max"),
        }
    }
}

impl fmt::Display for Percent {
    /// Without the sign.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", Decimal(self.0.into(), Percent::DECIMALS))
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Limit::Share(percent) => write!(f, "{percent}%"),
            Limit::Count(count) => write!(f, "{count}"),
        }
    }
}

impl From<Threshold> for String {
    fn from(threshold: Threshold) -> String {
        threshold.to_string()
    }
}

/// A duration in its largest fitting unit, with all its digits.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ns = self.0.as_nanos();
        let (decimals, unit) = match ns {
            0 => (9, "s"),
            1..1_000 => (0, "ns"),
            1_000..1_000_000 => (3, "us"),
            1_000_000..1_000_000_000 => (6, "ms"),
            _ => (9, "s"),
        };
        write!(f, "{}{unit}", Decimal(ns, decimals))
    }
}

/// A number in units of 10⁻ᵈ, `d` being the second field, without zeros at its end.
struct Decimal(u128, u32);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let one = 10u128.pow(self.1);
        write!(f, "{}", self.0 / one)?;
        let (mut fraction, mut digits) = (self.0 % one, self.1 as usize);
        if fraction == 0 {
            return Ok(());
        }
        while fraction % 10 == 0 {
            fraction /= 10;
            digits -= 1;
        }
        write!(f, ".{fraction:0digits$}")
    }
}
