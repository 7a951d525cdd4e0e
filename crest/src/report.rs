//! Figures: for a person at a glance, and as JSON with fields that stay.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use loadgen::Recorder;
use loadgen::trace::Totals;
use serde::Serialize;

use crate::Failure;
use crate::machine::{self, Machine};

/// Whether a drill proved what it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Pass,
    Fail,
    /// The generator could not keep its schedule: the figures say nothing of the platform.
    Invalid,
}

/// Everything that a drill or an audit found. Fields are added, never renamed; what doesn't
/// apply is null.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) version: &'static str,
    pub(crate) machine: Machine,
    pub(crate) platform: Option<PlatformFigures>,
    pub(crate) duration_s: Option<f64>,
    pub(crate) offered: Option<u64>,
    pub(crate) accepted: Option<u64>,
    pub(crate) rejected: Option<BTreeMap<&'static str, u64>>,
    pub(crate) errors: Option<u64>,
    pub(crate) retries: Option<u64>,
    pub(crate) orders_per_s: Option<Rates>,
    pub(crate) latency_ms: Option<Latencies>,
    pub(crate) late_ms: Option<Latencies>,
    pub(crate) log: Option<LogFigures>,
    pub(crate) cpu_s: Option<CpuFigures>,
    pub(crate) audit: Option<AuditFigures>,
    pub(crate) read_back: Option<ReadBack>,
    pub(crate) trace: Option<Totals>,
    pub(crate) problems: Vec<String>,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct PlatformFigures {
    pub(crate) shards: u16,
    pub(crate) log: &'static str,
    pub(crate) sync: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Rates {
    pub(crate) mean: f64,
    pub(crate) peak_1s: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latencies {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct LogFigures {
    bytes: u64,
    frames: u64,
    syncs: u64,
    torn_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct CpuFigures {
    pub(crate) platform: Option<f64>,
    pub(crate) generator: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct AuditFigures {
    pub(crate) ok: bool,
    pub(crate) orders: u64,
    /// Null where no acknowledgements are known.
    pub(crate) lost: Option<u64>,
    pub(crate) duplicated: u64,
    pub(crate) oversold: u64,
    pub(crate) unbalanced: u64,
    pub(crate) units_sold: u64,
    pub(crate) units_refunded: u64,
    pub(crate) lines: u64,
    pub(crate) records: u64,
    pub(crate) revenue: BTreeMap<String, i128>,
    pub(crate) state_hash: String,
}

/// Orders that a drill of a foreign platform read again.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ReadBack {
    pub(crate) orders: u64,
    pub(crate) lost: u64,
}

impl Report {
    /// A report of nothing yet.
    pub(crate) fn new() -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            machine: Machine::read(),
            platform: None,
            duration_s: None,
            offered: None,
            accepted: None,
            rejected: None,
            errors: None,
            retries: None,
            orders_per_s: None,
            latency_ms: None,
            late_ms: None,
            log: None,
            cpu_s: None,
            audit: None,
            read_back: None,
            trace: None,
            problems: Vec::new(),
            verdict: Verdict::Pass,
        }
    }

    /// Something is wrong.
    pub(crate) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
        self.verdict = Verdict::Fail;
    }

    /// Takes in what a load run saw.
    pub(crate) fn add_load(&mut self, recorder: &Recorder, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        self.duration_s = Some(seconds);
        self.offered = Some(recorder.offered);
        self.accepted = Some(recorder.accepted());
        self.rejected = Some(recorder.rejected().map(|(o, count)| (o.word(), count)).collect());
        self.errors = Some(recorder.errors);
        self.retries = Some(recorder.retries);
        self.orders_per_s = Some(Rates {
            mean: recorder.accepted() as f64 / seconds,
            peak_1s: recorder.accepted_by_second.iter().copied().max().unwrap_or(0),
        });
        self.latency_ms = Some(Latencies::of(&recorder.latency));
        if !recorder.late.is_empty() {
            self.late_ms = Some(Latencies::of(&recorder.late));
        }
        if recorder.errors > 0 {
            let last = recorder.last_error.as_deref().unwrap_or("");
            self.problem(format!("{} orders without an answer: {last}", recorder.errors));
        }
    }

    /// Takes in what an audit found.
    pub(crate) fn add_audit(&mut self, audit: &node::Audit, lost: Option<u64>) {
        self.platform = Some(PlatformFigures { shards: audit.shards, log: "local", sync: true });
        self.log = Some(LogFigures {
            bytes: audit.log.bytes,
            frames: audit.log.frames,
            syncs: audit.log.syncs,
            torn_bytes: audit.log.torn_bytes,
        });
        self.audit = Some(AuditFigures {
            ok: audit.is_ok() && lost.unwrap_or(0) == 0,
            orders: audit.orders,
            lost,
            duplicated: audit.duplicated,
            oversold: audit.oversold,
            unbalanced: audit.unbalanced,
            units_sold: audit.units_sold,
            units_refunded: audit.units_refunded,
            lines: audit.lines,
            records: audit.records,
            revenue: audit.revenue.clone(),
            state_hash: format!("{:016x}", audit.state_hash),
        });
        for problem in &audit.problems {
            self.problem(format!("audit: {problem}"));
        }
    }

    /// Looks at what the data lies on: a sync to memory costs nothing and keeps nothing.
    pub(crate) fn add_disk(&mut self, data: &Path) {
        if let Some(platform) = &mut self.platform {
            platform.sync = !machine::is_in_memory(data);
        }
    }

    /// Writes the JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut text = sonic_rs::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()).into())
    }
}

impl Latencies {
    /// Of a histogram in µs.
    fn of(histogram: &hdrhistogram::Histogram<u64>) -> Latencies {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Latencies {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1000.0,
        }
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latencies { p50, p90, p99, p999, max } = self;
        write!(
            f,
            "p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, text: String| writeln!(f, "  {name:<10} {text}");
        let verdict = match self.verdict {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Invalid => "INVALID",
        };
        row("verdict", verdict.to_string())?;
        if let (Some(accepted), Some(offered), Some(seconds)) =
            (self.accepted, self.offered, self.duration_s)
        {
            let mut text = format!(
                "{} accepted of {} offered in {seconds:.1} s",
                thousands(accepted),
                thousands(offered)
            );
            for (reason, count) in self.rejected.iter().flatten() {
                let _ = write!(text, ", {} {reason}", thousands(*count));
            }
            let _ = write!(text, ", {} errors", thousands(self.errors.unwrap_or(0)));
            if let Some(retries) = self.retries.filter(|&retries| retries > 0) {
                let _ = write!(text, ", {} requests sent again", thousands(retries));
            }
            row("orders", text)?;
        }
        if let Some(rates) = &self.orders_per_s {
            let (mean, peak) = (thousands(rates.mean as u64), thousands(rates.peak_1s));
            row("rate", format!("{mean} orders/s, {peak} in the best second"))?;
        }
        if let Some(latency) = &self.latency_ms {
            row("latency", format!("{latency}"))?;
        }
        if let Some(late) = self.late_ms.as_ref().filter(|_| self.verdict == Verdict::Invalid) {
            row("late", format!("{late} (the generator's own)"))?;
        }
        if let Some(cpu) = &self.cpu_s {
            let platform = cpu.platform.map_or(String::new(), |s| format!("platform {s:.1} s, "));
            row("cpu", format!("{platform}generator {:.1} s", cpu.generator))?;
        }
        if let Some(log) = &self.log {
            let text = format!(
                "{} bytes, {} frames, {} syncs",
                thousands(log.bytes),
                thousands(log.frames),
                thousands(log.syncs)
            );
            row("log", text)?;
            if log.torn_bytes > 0 {
                let torn = thousands(log.torn_bytes);
                row("", format!("{torn} bytes of a torn, unacknowledged tail"))?;
            }
        }
        if let Some(audit) = &self.audit {
            let lost =
                audit.lost.map_or(String::new(), |lost| format!("{} lost, ", thousands(lost)));
            let text = format!(
                "{}: {} records executed again, {lost}{} duplicated, {} oversold, {} unbalanced",
                if audit.ok { "ok" } else { "NOT OK" },
                thousands(audit.records),
                thousands(audit.duplicated),
                thousands(audit.oversold),
                thousands(audit.unbalanced)
            );
            row("audit", text)?;
            let mut text = format!(
                "{} orders, {} lines, {} units sold, {} refunded",
                thousands(audit.orders),
                thousands(audit.lines),
                thousands(audit.units_sold),
                thousands(audit.units_refunded)
            );
            for (currency, revenue) in &audit.revenue {
                let _ = write!(text, ", {currency} {}", money(currency, *revenue));
            }
            row("books", text)?;
        }
        if let Some(read) = &self.read_back {
            let (orders, lost) = (thousands(read.orders), thousands(read.lost));
            row("read back", format!("{orders} acknowledged orders, {lost} lost"))?;
        }
        if let Some(trace) = &self.trace {
            let text = format!(
                "{} rows: {} orders, {} lines, {} units sold, {} refunded, {} unmatched",
                thousands(trace.rows),
                thousands(trace.orders),
                thousands(trace.lines),
                thousands(trace.units_sold),
                thousands(trace.units_refunded),
                thousands(trace.units_unmatched)
            );
            row("trace", text)?;
            let skipped: Vec<String> =
                trace.skipped.iter().map(|(why, n)| format!("{} {why}", thousands(*n))).collect();
            row("skipped", skipped.join(", "))?;
        }
        if self.platform.as_ref().is_some_and(|platform| !platform.sync) {
            let text = "in memory: nothing was made durable, and syncing cost nothing; see --data";
            row("disk", text.to_string())?;
        }
        row("machine", self.machine.to_string())?;
        for problem in &self.problems {
            row("problem", problem.clone())?;
        }
        Ok(())
    }
}

/// Minor units as a person writes them: 123456 pence as 1,234.56.
fn money(currency: &str, minor: i128) -> String {
    let decimals = model::Currency::from_code(currency).map_or(0, model::Currency::decimals);
    let unit = 10u128.pow(decimals);
    let size = minor.unsigned_abs();
    let major = thousands(u64::try_from(size / unit).unwrap_or(u64::MAX));
    let sign = if minor < 0 { "-" } else { "" };
    match decimals {
        0 => format!("{sign}{major}"),
        _ => format!("{sign}{major}.{:0width$}", size % unit, width = decimals as usize),
    }
}

/// 1234567 as 1,234,567.
pub(crate) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_written_as_its_currency_has_it() {
        assert_eq!(money("GBP", 604_352_386), "6,043,523.86");
        assert_eq!(money("GBP", -5), "-0.05");
        assert_eq!(money("JPY", 1_234), "1,234");
        assert_eq!(money("KWD", 1_234), "1.234");
    }
}
