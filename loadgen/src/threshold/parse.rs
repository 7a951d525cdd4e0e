//! Reads a threshold's text: `[KIND] FIGURE COMPARISON VALUE`, or `audit ok`.

use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use super::{Comparison, Limit, Percent, Quantile, Rule, Threshold};

/// The longest name of a kind of request, in bytes.
const KIND_BYTES_MAX: usize = 64;

/// What every error ends with.
const EXAMPLES: &str = "write it like `p99 < 50ms`, `p99.9 <= 1.5s`, `mean < 2ms`, `max < 1s`, \
    `errors < 0.1%`, `errors == 0`, `late < 1%`, `rate > 500_000`, `audit ok`, \
    or for one kind of request `pay p99 < 80ms`";

/// Why a text is no threshold. The same text fails again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize)]
#[non_exhaustive]
pub enum ThresholdError {
    /// There is no comparison in it.
    #[error("threshold `{text}`: it has none of < <= > >= ==; {EXAMPLES}")]
    NoComparison {
        /// The whole text.
        text: String,
    },
    /// What is compared isn't a figure, or a kind and a figure.
    #[error(
        "threshold `{text}`: `{figure}` is no figure (there are p50, p99.9 and the like, mean, \
         max, errors, late, rate); {EXAMPLES}"
    )]
    Figure {
        /// The whole text.
        text: String,
        /// What stands before the comparison.
        figure: String,
    },
    /// A kind's name has something else than letters, digits, `_`, `-` and `.`, or is too long.
    #[error(
        "threshold `{text}`: `{kind}` is no kind of request (1 to {KIND_BYTES_MAX} of letters, \
         digits, `_`, `-` and `.`); {EXAMPLES}"
    )]
    Kind {
        /// The whole text.
        text: String,
        /// The name.
        kind: String,
    },
    /// The figure is of the whole run.
    #[error("threshold `{text}`: `{figure}` is of the whole run and takes no kind; {EXAMPLES}")]
    NoKindHere {
        /// The whole text.
        text: String,
        /// The figure.
        figure: String,
    },
    /// What follows the comparison isn't a value of this figure.
    #[error("threshold `{text}`: `{value}` is not {expected}; {EXAMPLES}")]
    Value {
        /// The whole text.
        text: String,
        /// What was written.
        value: String,
        /// What a value of this figure is.
        expected: &'static str,
    },
}

impl FromStr for Threshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Threshold, ThresholdError> {
        Threshold::parse(text)
    }
}

impl TryFrom<String> for Threshold {
    type Error = ThresholdError;

    fn try_from(text: String) -> Result<Threshold, ThresholdError> {
        Threshold::parse(&text)
    }
}

impl Threshold {
    /// Reads a threshold. Spaces around its parts don't matter.
    pub fn parse(text: &str) -> Result<Threshold, ThresholdError> {
        let own = || String::from(text.trim());
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["audit", "ok"] => return Ok(Threshold { kind: None, rule: Rule::AuditOk }),
            [_, "audit", "ok"] => {
                return Err(ThresholdError::NoKindHere { text: own(), figure: "audit".into() });
            }
            _ => {}
        }

        let Some(at) = text.find(['<', '>', '=']) else {
            return Err(ThresholdError::NoComparison { text: own() });
        };
        let (left, right) = text.split_at(at);
        let Some((comparison, value)) = comparison(right) else {
            return Err(ThresholdError::NoComparison { text: own() });
        };
        let words: Vec<&str> = left.split_whitespace().collect();
        let (kind, figure) = match words[..] {
            [figure] => (None, figure),
            [kind, figure] => (Some(kind), figure),
            _ => {
                let figure = left.trim().into();
                return Err(ThresholdError::Figure { text: own(), figure });
            }
        };
        if let Some(kind) = kind.filter(|kind| !is_kind(kind)) {
            return Err(ThresholdError::Kind { text: own(), kind: kind.into() });
        }

        let value = value.trim();
        let wrong = |expected| ThresholdError::Value { text: own(), value: value.into(), expected };
        const DURATION: &str = "a duration in whole nanoseconds, with its unit ns, us, ms, s or m";
        const LIMIT: &str = "a share from 0% to 100% with up to four decimals, or a whole number";
        const RATE: &str = "a number of answers per second, as 500000, 500_000, 500k or 1.5M";
        let rule = match (figure, quantile(figure)) {
            (_, Some(quantile)) => {
                let wanted = duration(value).ok_or_else(|| wrong(DURATION))?;
                Rule::Latency(quantile, comparison, wanted)
            }
            ("errors", _) => Rule::Errors(comparison, limit(value).ok_or_else(|| wrong(LIMIT))?),
            ("late", _) if kind.is_some() => {
                return Err(ThresholdError::NoKindHere { text: own(), figure: figure.into() });
            }
            ("late", _) => Rule::Late(comparison, limit(value).ok_or_else(|| wrong(LIMIT))?),
            ("rate", _) => Rule::Rate(comparison, rate(value).ok_or_else(|| wrong(RATE))?),
            _ => return Err(ThresholdError::Figure { text: own(), figure: figure.into() }),
        };
        Ok(Threshold { kind: kind.map(String::from), rule })
    }
}

fn comparison(text: &str) -> Option<(Comparison, &str)> {
    // The longer ones first: `<` begins `<=`.
    [
        Comparison::AtMost,
        Comparison::AtLeast,
        Comparison::Exactly,
        Comparison::Below,
        Comparison::Above,
    ]
    .into_iter()
    .find_map(|comparison| Some((comparison, text.strip_prefix(comparison.symbol())?)))
}

fn is_kind(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (1..=KIND_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits)
}

fn quantile(text: &str) -> Option<Quantile> {
    match text {
        "mean" => Some(Quantile::Mean),
        "max" => Some(Quantile::Max),
        _ => percent(text.strip_prefix('p')?).map(Quantile::Percentile),
    }
}

fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let (decimals, times) = match unit.trim() {
        "ns" => (0, 1),
        "us" | "µs" | "μs" => (3, 1),
        "ms" => (6, 1),
        "s" => (9, 1),
        "m" | "min" => (9, 60),
        _ => return None,
    };
    decimal(number, decimals)?.checked_mul(times).map(Duration::from_nanos)
}

fn limit(text: &str) -> Option<Limit> {
    match text.strip_suffix('%') {
        Some(share) => percent(share.trim_end()).map(Limit::Share),
        None => decimal(&grouped(text)?, 0).map(Limit::Count),
    }
}

fn percent(text: &str) -> Option<Percent> {
    let parts = u32::try_from(decimal(text, Percent::DECIMALS)?).ok()?;
    (parts <= Percent::WHOLE).then_some(Percent(parts))
}

/// In thousandths.
fn rate(text: &str) -> Option<u64> {
    let text = text.strip_suffix("/s").unwrap_or(text).trim_end();
    let (number, decimals) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 6),
        b'M' => (&text[..text.len() - 1], 9),
        _ => (text, 3),
    };
    decimal(&grouped(number.trim_end())?, decimals)
}

/// Takes out `_` between digits and `,` before groups of three. `1,5` is refused: who writes it
/// means one and a half.
fn grouped(text: &str) -> Option<String> {
    let whole = text.split('.').next().unwrap_or_default();
    let mut groups = whole.split(',');
    let first = groups.next().unwrap_or_default();
    let comma = whole.contains(',');
    if comma && !(1..=3).contains(&first.len()) || groups.any(|group| group.len() != 3) {
        return None;
    }
    if text[whole.len()..].contains(',') {
        return None;
    }
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| {
        at.and_then(|at| bytes.get(at)).is_some_and(|byte| byte.is_ascii_digit())
    };
    let lonely = |at: usize| !digit(at.checked_sub(1)) || !digit(at.checked_add(1));
    if bytes.iter().enumerate().any(|(at, byte)| *byte == b'_' && lonely(at)) {
        return None;
    }
    Some(text.chars().filter(|c| !matches!(c, ',' | '_')).collect())
}

/// Digits, perhaps a point and at most `decimals` digits more, in units of 10⁻ᵈᵉᶜⁱᵐᵃˡˢ.
fn decimal(text: &str, decimals: u32) -> Option<u64> {
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (text, ""),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let missing = decimals.checked_sub(u32::try_from(fraction.len()).ok()?)?;
    let whole = whole.parse::<u64>().ok()?.checked_mul(10u64.pow(decimals))?;
    let fraction = match fraction {
        "" => 0,
        _ => fraction.parse::<u64>().ok()?.checked_mul(10u64.pow(missing))?,
    };
    whole.checked_add(fraction)
}
