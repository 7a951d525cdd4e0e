//! Figures as a section of BENCHMARKS.md.

use std::fmt::Write as _;
use std::process::Command;

use hdrhistogram::Histogram;

use super::statistics::Spread;
use crate::run::{Failure, output, root};

/// What was measured, in one line of a table.
pub(super) struct Row {
    pub(super) what: String,
    pub(super) ours: Vec<f64>,
    pub(super) peer_name: String,
    pub(super) peer: Vec<f64>,
    pub(super) unit: &'static str,
    /// Latencies of ours, and of the peer where it has some.
    pub(super) latency: Option<[String; 2]>,
}

impl Row {
    pub(super) fn new(
        what: impl Into<String>,
        unit: &'static str,
        peer_name: impl Into<String>,
    ) -> Row {
        Row {
            what: what.into(),
            ours: Vec::new(),
            peer_name: peer_name.into(),
            peer: Vec::new(),
            unit,
            latency: None,
        }
    }
}

/// A section: what was run, the machine, the rows, and notes below them.
pub(super) fn table(
    command: &str,
    rounds: usize,
    rows: &[Row],
    notes: &[String],
) -> Result<String, Failure> {
    let mut text = heading(command, rounds);
    text.push_str("| what | Crest | peer | ratio |\n|---|---|---|---|\n");
    for row in rows {
        let [ours, peer] = [&row.ours, &row.peer].map(|side| Spread::of(side.iter().copied()));
        writeln!(
            text,
            "| {} | {} {} | {} {} ({}) | {:.2} |",
            row.what,
            bracketed(&ours),
            row.unit,
            bracketed(&peer),
            row.unit,
            row.peer_name,
            ours.median / peer.median
        )?;
        if let Some([ours, peer]) = &row.latency {
            writeln!(text, "| – its latency: p50, p99, p99.9 | {ours} | {peer} | |")?;
        }
    }
    for note in notes {
        writeln!(text, "\n{note}")?;
    }
    Ok(text)
}

/// How a section begins, whatever its tables look like.
pub(super) fn heading(command: &str, rounds: usize) -> String {
    format!(
        "\n## {}, {}\n\n`{command}` at {}. Medians of {rounds} alternating rounds, lowest and \
         highest in brackets.\n\n",
        jiff::Zoned::now().date(),
        machine(),
        commit()
    )
}

/// The commit that is checked out, and whether the files are others.
pub(super) fn commit() -> String {
    let git = |args: &[&str]| output(Command::new("git").args(args).current_dir(root()));
    let Ok(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "no repository".to_string();
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    let changed = changed.is_ok_and(|files| !files.trim().is_empty());
    format!("{}{}", commit.trim(), if changed { " with changes" } else { "" })
}

fn bracketed(spread: &Spread) -> String {
    format!("{} [{}–{}]", round(spread.median), round(spread.low), round(spread.high))
}

/// Three digits that mean something, with separators.
pub(super) fn round(value: f64) -> String {
    let value = value.round() as u64;
    let digits = value.to_string();
    let unit = 10u64.pow(digits.len().saturating_sub(3) as u32);
    thousands((value + unit / 2) / unit * unit)
}

/// 1234567 as 1,234,567.
pub(super) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// p50, p99 and p99.9 of a histogram in µs.
pub(super) fn quantiles(histogram: &Histogram<u64>) -> String {
    let at = |quantile| histogram.value_at_quantile(quantile);
    format!("{}, {}, {} µs", at(0.5), at(0.99), at(0.999))
}

/// The median over rounds of each round's p50, p99 and p99.9 in ms.
pub(super) fn typical(rounds: &[[f64; 3]]) -> String {
    let [p50, p99, p999] =
        [0, 1, 2].map(|at| Spread::of(rounds.iter().map(|round| round[at])).median);
    format!("{p50:.1}, {p99:.1}, {p999:.1} ms")
}

/// In µs, up to a minute.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
}

fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: String, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_string);
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_string())).unwrap_or_default()
    };
    let kib = field(read("/proc/meminfo"), "MemTotal");
    let kib: f64 = kib.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0.0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{}, {cores} cores, {:.0} GiB, Linux {}",
        field(read("/proc/cpuinfo"), "model name"),
        kib / (1 << 20) as f64,
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_separators() {
        assert_eq!(round(1_234_567.0), "1,230,000");
        assert_eq!(round(31.4), "31");
        assert_eq!(round(999.6), "1,000");
        assert_eq!(thousands(20_834_000), "20,834,000");
    }

    #[test]
    fn a_row_says_how_it_compares() {
        let mut row = Row::new("x", "orders/s", "y");
        (row.ours, row.peer) = (vec![10.0, 30.0, 20.0], vec![40.0, 40.0, 50.0]);
        let notes = ["Peer y: as it comes.".to_string()];
        let text = table("cargo xtask bench", 3, &[row], &notes).unwrap();
        assert!(text.contains("| x | 20 [10–30] orders/s | 40 [40–50] orders/s (y) | 0.50 |\n"));
        assert!(text.ends_with("\nPeer y: as it comes.\n"));
    }
}
