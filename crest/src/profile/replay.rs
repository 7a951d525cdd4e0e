//! `crest profile replay`: a captured log through the core again, timed frame by frame.
//!
//! A frame that is slow in every round is slow because of its work; one that is slow in one round
//! of several was held up by the machine. What made the work is often known from counts: a frame
//! with more orders, an index that split, a region that was taken. Otherwise the profile says:
//! after the timed rounds the frames run again under perf, which keeps only what ran below the
//! core's entry, [`CORE`].

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::ops::ControlFlow;
use std::process::ExitCode;

use hdrhistogram::Histogram;
use model::Outcome;
use model::frame::Frame;
use model::record::{Body, Kind};
use node::{RerunError, Step};
use serde::Serialize;
use txn_core::{Capacity, Grown};

use super::perf::{ProfileSummary, SAMPLES_PER_S, SampleError, Sampler};
use crate::machine::Machine;
use crate::report::thousands;
use crate::{Failure, args};

/// The function below which everything is the core's.
const CORE: &str = "Replay::execute";
/// Samples a second where only a few frames are sampled: a frame takes about a millisecond.
const SAMPLES_PER_S_WINDOW: u32 = 19_999;
/// A frame of an hour is told as one of an hour.
const LONGEST_NS: u64 = 3_600_000_000_000;
/// So many frames have a slowest hundredth.
const FRAMES_MIN: usize = 100;
/// Frames that are told.
const SLOWEST: usize = 10;

/// What a frame holds and what it cost.
#[derive(Clone, Debug, Default)]
struct Measured {
    shard: u16,
    first: u64,
    records: u64,
    orders: u64,
    lines: u64,
    refused: u64,
    grown: Grown,
    /// Nanoseconds, by round.
    took_ns: Vec<u64>,
    /// In how many rounds it was among the slowest hundredth.
    slow_rounds: usize,
}

/// The figures, as JSON.
#[derive(Serialize)]
struct Figures {
    command: String,
    version: &'static str,
    machine: Machine,
    rounds: usize,
    frames: usize,
    records: u64,
    orders: u64,
    lines: u64,
    frame_ns: Percentiles,
    /// A frame's time by its records, counted once a record.
    record_ns: Percentiles,
    slowest: Vec<Slow>,
    profile: Option<ProfileSummary>,
}

#[derive(Serialize)]
struct Percentiles {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// One of the slowest frames.
#[derive(Serialize)]
struct Slow {
    shard: u16,
    offset: u64,
    records: u64,
    orders: u64,
    lines: u64,
    /// The fastest and the slowest round.
    us: [f64; 2],
    slow_rounds: usize,
    verdict: &'static str,
    special: Vec<String>,
}

pub(super) fn replay(args: &args::ProfileReplay) -> Result<ExitCode, Failure> {
    let time = jiff::Timestamp::now();
    let rounds = args.rounds.get();
    let window = Window::of(args)?;
    let capacity = Capacity { accounts: args.accounts, items: args.items, orders: args.orders };
    let mut frames: Vec<Measured> = Vec::new();
    let mut sums = BTreeMap::new();
    for round in 0..rounds {
        let mut number = 0;
        each_frame(args, capacity, &window, |step, inside| {
            if !inside {
                step.run().map_err(RerunError::from)?;
                return Ok(());
            }
            if round == 0 {
                frames.push(Measured::of(&step.frame));
                add_commands(&step.frame, &mut sums);
            }
            let ran = step.run().map_err(RerunError::from)?;
            let frame: &mut Measured = &mut frames[number];
            frame.took_ns.push(ran.took.as_nanos() as u64);
            frame.grown = ran.grown;
            number += 1;
            Ok(())
        })?;
    }
    if frames.is_empty() {
        return Err(format!("no frame of {} holds {window}", args.data.display()).into());
    }
    mark_slow(&mut frames, rounds);
    let profile = match profile(args, capacity, &window) {
        Ok(profile) => Some(profile),
        Err(error) => match error.downcast::<SampleError>() {
            Ok(error) => {
                tracing::warn!("no flame graph: {error}");
                None
            }
            Err(error) => return Err(error),
        },
    };

    let figures = Figures::new(&frames, rounds, profile);
    tell!("crest profile replay of {}\n", args.data.display());
    tell!("{}", figures.table());
    if args.offset.is_some() {
        tell!("{}", commands(&sums));
    }
    let out = super::new_folder(args.out.as_deref(), "replay", time)?;
    super::write_json(&out.join("replay.json"), &figures)?;
    if let Some(profile) = &figures.profile {
        profile.draw(&out.join("flame.svg"))?;
        super::write(&out.join("stacks.folded"), &profile.stacks.folded())?;
        tell!("{}", super::tables(profile));
    }
    tell!("\n  files      {}\n", out.display());
    Ok(ExitCode::SUCCESS)
}

/// The frames that are measured.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Window {
    /// Of this shard; of all of them.
    shard: Option<u16>,
    /// Those that hold an offset from here,
    from: u64,
    /// to here.
    to: u64,
}

impl Window {
    const WHOLE: Window = Window { shard: None, from: 1, to: u64::MAX };

    fn of(args: &args::ProfileReplay) -> Result<Window, Failure> {
        let (from, to) = match args.offset {
            Some(offset) => (offset, offset),
            None => (args.from.unwrap_or(1), args.to.unwrap_or(u64::MAX)),
        };
        if from > to {
            return Err(format!("--from {from} is behind --to {to}").into());
        }
        Ok(Window { shard: args.shard, from, to })
    }

    fn has_shard(&self, frame: &Frame<'_>) -> bool {
        self.shard.is_none_or(|shard| shard == frame.header.shard.get())
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.from, self.to)?;
        self.shard.map_or(Ok(()), |shard| write!(f, " of shard {shard}"))
    }
}

/// Runs through the log up to the end of the window, and tells frames with records whether they
/// are inside it.
fn each_frame(
    args: &args::ProfileReplay,
    capacity: Capacity,
    window: &Window,
    mut visit: impl FnMut(Step<'_>, bool) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let access = args.open.access()?;
    node::rerun(&args.data, &access, capacity, |step| {
        let (first, count) = (step.frame.header.first_offset.get(), step.frame.header.count.get());
        let wanted = window.has_shard(&step.frame);
        if wanted && first > window.to {
            return Ok(ControlFlow::Break(()));
        }
        let last = first + u64::from(count) - u64::from(count > 0);
        visit(step, wanted && count > 0 && last >= window.from)?;
        Ok::<_, Failure>(ControlFlow::Continue(()))
    })
}

/// Runs the window again, sampled. A few frames are sampled more often, and in as many rounds as
/// were timed.
fn profile(
    args: &args::ProfileReplay,
    capacity: Capacity,
    window: &Window,
) -> Result<ProfileSummary, Failure> {
    let whole = *window == Window::WHOLE;
    let (rounds, rate) =
        if whole { (1, SAMPLES_PER_S) } else { (args.rounds.get(), SAMPLES_PER_S_WINDOW) };
    let mut sampler = Sampler::ready(std::process::id(), rate)?;
    for _ in 0..rounds {
        let mut sampling = false;
        each_frame(args, capacity, window, |step, inside| {
            if inside && !sampling {
                sampler.resume()?;
                sampling = true;
            }
            step.run().map_err(RerunError::from)?;
            Ok(())
        })?;
        sampler.pause()?;
    }
    Ok(sampler.stop(|function| function.ends_with(CORE))?)
}

impl Measured {
    fn of(frame: &Frame<'_>) -> Measured {
        let (shard, first) = (frame.header.shard.get(), frame.header.first_offset.get());
        let mut measured = Measured { shard, first, ..Measured::default() };
        for record in frame.records().flatten() {
            measured.records += 1;
            measured.refused += u64::from(record.outcome() != Some(Outcome::Ok));
            if let Body::Place { lines, .. } = record.body {
                measured.orders += 1;
                measured.lines += lines.len() as u64;
            }
        }
        measured
    }

    fn slowest_ns(&self) -> u64 {
        self.took_ns.iter().copied().max().unwrap_or(0)
    }

    fn fastest_ns(&self) -> u64 {
        self.took_ns.iter().copied().min().unwrap_or(0)
    }

    /// What is special about it beside `typical`, as far as counts tell.
    fn special(&self, typical: &Typical) -> Vec<String> {
        let mut special = Vec::new();
        let Grown { regions, segments, directory_entries } = self.grown;
        let mut count = |n: u64, one: &str, more: &str| match n {
            0 => {}
            1 => special.push(format!("1 {one}")),
            n => special.push(format!("{} {more}", thousands(n))),
        };
        count(directory_entries, "entry of an index's directory", "entries added to directories");
        count(segments, "index segment split", "index segments split");
        count(regions, "region of 2 MiB taken", "regions of 2 MiB taken");
        if self.records > typical.records.saturating_mul(2) {
            let [records, median] = [self.records, typical.records].map(thousands);
            special.push(format!("{records} records, the median frame has {median}"));
        }
        let lines = self.lines as f64 / self.orders.max(1) as f64;
        if self.orders > 0 && lines > 2.0 * typical.lines_per_order {
            special.push(format!(
                "{lines:.1} lines an order, {:.1} over all",
                typical.lines_per_order
            ));
        }
        if self.orders * 2 < self.records {
            let other = self.records - self.orders;
            special.push(format!("{} records that place no order", thousands(other)));
        }
        if self.refused * 2 > self.records {
            special.push(format!("{} refusals", thousands(self.refused)));
        }
        special
    }
}

/// What the frames are like, to tell which are not.
struct Typical {
    records: u64,
    lines_per_order: f64,
}

/// Notes for each frame in how many rounds it was among the slowest hundredth.
fn mark_slow(frames: &mut [Measured], rounds: usize) {
    let slow = frames.len().div_ceil(100);
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..frames.len()).collect();
        order.sort_by_key(|&frame| std::cmp::Reverse(frames[frame].took_ns[round]));
        for frame in order.into_iter().take(slow) {
            frames[frame].slow_rounds += 1;
        }
    }
}

/// What it means to be among the slowest in some of the rounds.
fn verdict(slow_rounds: usize, rounds: usize, frames: usize) -> &'static str {
    match slow_rounds {
        _ if frames < FRAMES_MIN => "too few frames to say which are slow",
        _ if rounds == 1 => "one round can't tell the work from the machine",
        n if n == rounds => "it is the work",
        0 | 1 => "it was the machine",
        _ => "more rounds would tell",
    }
}

impl Figures {
    fn new(frames: &[Measured], rounds: usize, profile: Option<ProfileSummary>) -> Figures {
        let sum = |field: fn(&Measured) -> u64| frames.iter().map(field).sum::<u64>();
        let (orders, lines) = (sum(|frame| frame.orders), sum(|frame| frame.lines));
        let mut records: Vec<u64> = frames.iter().map(|frame| frame.records).collect();
        records.sort_unstable();
        let typical = Typical {
            records: records[records.len() / 2],
            lines_per_order: lines as f64 / orders.max(1) as f64,
        };
        let new =
            || Histogram::<u64>::new_with_bounds(1, LONGEST_NS, 3).expect("these bounds are valid");
        let (mut frame_ns, mut record_ns) = (new(), new());
        for frame in frames {
            for &took in &frame.took_ns {
                frame_ns.saturating_record(took);
                record_ns.saturating_record_n(took / frame.records, frame.records);
            }
        }
        let mut slowest: Vec<&Measured> = frames.iter().collect();
        slowest.sort_by_key(|frame| std::cmp::Reverse(frame.slowest_ns()));
        let slowest = slowest.into_iter().take(SLOWEST).map(|frame| Slow {
            shard: frame.shard,
            offset: frame.first,
            records: frame.records,
            orders: frame.orders,
            lines: frame.lines,
            us: [frame.fastest_ns() as f64 / 1e3, frame.slowest_ns() as f64 / 1e3],
            slow_rounds: frame.slow_rounds,
            verdict: verdict(frame.slow_rounds, rounds, frames.len()),
            special: frame.special(&typical),
        });
        Figures {
            command: std::env::args().collect::<Vec<_>>().join(" "),
            version: env!("CARGO_PKG_VERSION"),
            machine: Machine::read(),
            rounds,
            frames: frames.len(),
            records: sum(|frame| frame.records),
            orders,
            lines,
            frame_ns: Percentiles::of(&frame_ns),
            record_ns: Percentiles::of(&record_ns),
            slowest: slowest.collect(),
            profile,
        }
    }

    fn table(&self) -> String {
        let mut text = String::new();
        let [frames, records, orders, lines] =
            [self.frames as u64, self.records, self.orders, self.lines].map(thousands);
        let rounds = self.rounds;
        let _ = writeln!(
            text,
            "\n  {frames} frames, {records} records, {orders} orders of {lines} lines, \
             {rounds} rounds\n\n  core, µs        p50        p99      p99.9        max"
        );
        for (what, found) in [("a frame", &self.frame_ns), ("a record", &self.record_ns)] {
            let Percentiles { p50, p99, p999, max } = *found;
            let [p50, p99, p999, max] = [p50, p99, p999, max].map(|ns| ns as f64 / 1e3);
            let _ = writeln!(text, "  {what:<9} {p50:9.2} {p99:10.2} {p999:10.2} {max:10.2}");
        }
        let _ = writeln!(
            text,
            "\n  slowest: shard  offset  orders    lines       µs of {rounds} rounds"
        );
        for slow in &self.slowest {
            let [offset, orders, lines] = [slow.offset, slow.orders, slow.lines].map(thousands);
            let [fastest, slowest] = slow.us;
            let _ = writeln!(
                text,
                "  {:>14} {offset:>7} {orders:>7} {lines:>8} {fastest:10.1} to {slowest:.1}, \
                 slow in {} of {rounds}: {}",
                slow.shard, slow.slow_rounds, slow.verdict
            );
            if !slow.special.is_empty() {
                let _ = writeln!(text, "  {:22} {}", "", slow.special.join("; "));
            }
        }
        text
    }
}

impl Percentiles {
    fn of(found: &Histogram<u64>) -> Percentiles {
        let at = |quantile| found.value_at_quantile(quantile);
        Percentiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: found.max() }
    }
}

/// Counts a frame's commands by what they are and what became of them.
fn add_commands(frame: &Frame<'_>, sums: &mut BTreeMap<(String, &'static str), u64>) {
    for record in frame.records().flatten() {
        let kind = Kind::from_byte(record.header.kind);
        let kind = kind.map_or_else(|| "unknown".to_string(), |kind| format!("{kind:?}"));
        let outcome = record.outcome().map_or("undecided", Outcome::word);
        *sums.entry((kind, outcome)).or_default() += 1;
    }
}

fn commands(sums: &BTreeMap<(String, &'static str), u64>) -> String {
    let mut text = "\n  commands\n".to_string();
    for ((kind, outcome), count) in sums {
        let _ = writeln!(text, "  {:>10}  {kind}, {outcome}", thousands(*count));
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn frame(first: u64, took_ns: &[u64]) -> Measured {
        Measured {
            shard: 3,
            first,
            records: 10,
            orders: 10,
            lines: 20,
            took_ns: took_ns.to_vec(),
            ..Measured::default()
        }
    }

    #[test]
    fn slow_every_time_is_the_work_and_slow_once_is_the_machine() {
        let mut frames: Vec<Measured> = (0..200).map(|n| frame(n, &[100_000, 110_000])).collect();
        frames[7].took_ns = vec![900_000, 910_000];
        frames[7].grown.segments = 2;
        frames[8].took_ns = vec![3_000_000, 100_000];
        mark_slow(&mut frames, 2);
        let figures = Figures::new(&frames, 2, None);
        let table = figures.table();
        let told: Vec<&str> = table.lines().skip(7).take(4).map(str::trim).collect();
        expect![[r#"
            slowest: shard  offset  orders    lines       µs of 2 rounds
            3       8      10       20      100.0 to 3000.0, slow in 1 of 2: it was the machine
            3       7      10       20      900.0 to 910.0, slow in 2 of 2: it is the work
            2 index segments split"#]]
        .assert_eq(&told.join("\n"));
        // Within the three digits that are kept.
        assert_eq!((figures.frame_ns.p50 / 1_000, figures.record_ns.p50 / 10), (110, 1_100));
        assert_eq!(figures.frame_ns.max / 10_000, 300);
    }

    #[test]
    fn what_is_special_is_told_from_counts() {
        let typical = Typical { records: 10, lines_per_order: 2.0 };
        assert_eq!(frame(1, &[1]).special(&typical), Vec::<String>::new());
        let mut odd = frame(1, &[1]);
        (odd.records, odd.orders, odd.lines, odd.refused) = (100, 20, 100, 90);
        odd.grown = Grown { regions: 1, segments: 1, directory_entries: 64 };
        expect![[r#"
            64 entries added to directories
            1 index segment split
            1 region of 2 MiB taken
            100 records, the median frame has 10
            5.0 lines an order, 2.0 over all
            80 records that place no order
            90 refusals"#]]
        .assert_eq(&odd.special(&typical).join("\n"));
    }
}
