//! `crest profile diff`: which functions and stages changed between two profiles.
//!
//! A share of samples is an estimate, and two profiles of the same program differ. A function is
//! named only when its shares differ by more than chance explains: a z-test of two proportions at
//! 99 % (NIST/SEMATECH e-Handbook of Statistical Methods, section 7.3.3). In a hundred functions
//! that did not change, one may still be named; the size of a change says more than its being
//! named. A longer profile tells smaller changes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::fold::{Share, Stacks};
use super::stages::{Stage, Stages};
use super::{read_json, svg};
use crate::{Failure, args};

/// |z| beyond which a change is no chance at 99 %, both sides.
const Z_99: f64 = 2.576;
/// Stages whose mean changed by less are not named, however sure it is.
const STAGE_CHANGE_MIN: f64 = 0.05;
/// Rows printed of each table; the JSON has all.
const ROWS: usize = 20;

/// A function whose share changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Change {
    name: String,
    /// Percent of the samples of the first and the second profile.
    before: f64,
    after: f64,
    /// Percentage points from the first to the second.
    points: f64,
    /// How many standard errors that is.
    z: f64,
}

/// A stage whose times changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct StageChange {
    stage: String,
    mean_us: [f64; 2],
    p99_us: [f64; 2],
}

/// Two profiles compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Comparison {
    samples: [u64; 2],
    /// By samples of their own, the largest change first.
    own: Vec<Change>,
    /// By samples in which they were on the stack.
    inclusive: Vec<Change>,
    /// Functions whose shares differ, by no more than chance.
    within_noise: usize,
    /// `None` when one of the profiles has no stages.
    stages: Option<Vec<StageChange>>,
}

/// One of the two profiles.
struct Side {
    stacks: Stacks,
    stages: Option<Stages>,
}

impl Side {
    /// From a profile's directory, or a file of folded stacks.
    fn read(path: &Path) -> Result<Side, Failure> {
        if !path.is_dir() {
            return Ok(Side { stacks: Stacks::read(path)?, stages: None });
        }
        let stages = path.join("stages.json");
        Ok(Side {
            stacks: Stacks::read(&path.join("stacks.folded"))?,
            stages: if stages.exists() { Some(read_json(&stages)?) } else { None },
        })
    }
}

pub(super) fn diff(args: &args::ProfileDiff) -> Result<ExitCode, Failure> {
    let (before, after) = (Side::read(&args.before)?, Side::read(&args.after)?);
    for (side, path) in [(&before, &args.before), (&after, &args.after)] {
        if side.stacks.samples() == 0 {
            return Err(format!("{} holds no samples", path.display()).into());
        }
    }
    let stages = before.stages.as_ref().zip(after.stages.as_ref());
    let comparison = compare(&before.stacks, &after.stacks, stages);
    tell!("{}", comparison.table());
    let svg = args.out.clone().unwrap_or_else(|| PathBuf::from("flame-diff.svg"));
    let title = format!("{} to {}", args.before.display(), args.after.display());
    let picture = svg::difference(&title, &before.stacks, &after.stacks);
    std::fs::write(&svg, picture).map_err(|error| format!("{}: {error}", svg.display()))?;
    tell!("\n  wrote {}\n", svg.display());
    if let Some(path) = &args.json {
        super::write_json(path, &comparison)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What changed from `before` to `after`.
fn compare(before: &Stacks, after: &Stacks, stages: Option<(&Stages, &Stages)>) -> Comparison {
    let samples = [before.samples(), after.samples()];
    let (shares_before, shares_after) = (before.shares(), after.shares());
    let mut names: Vec<&String> = shares_before.keys().chain(shares_after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let mut within_noise = 0;
    let (mut own, mut inclusive) = (Vec::new(), Vec::new());
    for name in names {
        let share = |shares: &std::collections::BTreeMap<String, Share>| {
            shares.get(name).copied().unwrap_or_default()
        };
        let (was, is) = (share(&shares_before), share(&shares_after));
        let mut named = false;
        for (counts, list) in
            [([was.own, is.own], &mut own), ([was.inclusive, is.inclusive], &mut inclusive)]
        {
            let change = change(name, counts, samples);
            if change.z.abs() > Z_99 {
                list.push(change);
                named = true;
            }
        }
        let differs = was.inclusive * samples[1] != is.inclusive * samples[0];
        within_noise += usize::from(differs && !named);
    }
    for list in [&mut own, &mut inclusive] {
        list.sort_by(|a, b| b.points.abs().total_cmp(&a.points.abs()));
    }
    let stages = stages.map(|(before, after)| changed_stages(before, after));
    Comparison { samples, own, inclusive, within_noise, stages }
}

/// The change of a share, with its z: the difference over the standard error that two equal
/// shares, estimated together, would have.
fn change(name: &str, counts: [u64; 2], samples: [u64; 2]) -> Change {
    let [n, m] = samples.map(|samples| samples.max(1) as f64);
    let [was, is] = [counts[0] as f64 / n, counts[1] as f64 / m];
    let pooled = (counts[0] + counts[1]) as f64 / (n + m);
    let error = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
    // Where fewer than five samples are to be expected on a side, the test says nothing.
    let enough = pooled * n.min(m) >= 5.0;
    let z = if enough && error > 0.0 { (is - was) / error } else { 0.0 };
    let points = (is - was) * 100.0;
    Change { name: name.to_string(), before: was * 100.0, after: is * 100.0, points, z }
}

/// Stages whose mean changed by more than 5 % and more than its error at 99 %, or whose p99 is in
/// a bucket that isn't next to where it was.
fn changed_stages(before: &Stages, after: &Stages) -> Vec<StageChange> {
    let was = before.by_stage();
    let pairs = after.by_stage().into_iter().filter_map(|is| {
        let was = was.iter().find(|was| was.stage == is.stage)?.clone();
        Some((was, is))
    });
    let mut changes: Vec<StageChange> =
        pairs.filter_map(|(was, is)| stage_change(&was, &is)).collect();
    let growth = |change: &StageChange| (change.mean_us[1] / change.mean_us[0]).ln().abs();
    changes.sort_by(|a, b| growth(b).total_cmp(&growth(a)));
    changes
}

fn stage_change(was: &Stage, is: &Stage) -> Option<StageChange> {
    let (mean_was, mean_is) = (was.mean_ns()?, is.mean_ns()?);
    let error = was.mean_error_ns().hypot(is.mean_error_ns());
    let larger = (mean_is - mean_was).abs();
    let mean_changed = larger > Z_99 * error && larger > STAGE_CHANGE_MIN * mean_was;
    let (p99_was, p99_is) = (was.p99_ns()?, is.p99_ns()?);
    let mut bounds: Vec<u64> =
        was.buckets.iter().chain(&is.buckets).map(|(upper, _)| *upper).collect();
    bounds.sort_unstable();
    bounds.dedup();
    let bucket = |ns: u64| bounds.partition_point(|upper| *upper < ns);
    let p99_changed = bucket(p99_was).abs_diff(bucket(p99_is)) > 1;
    let us = |ns: f64| ns / 1e3;
    (mean_changed || p99_changed).then(|| StageChange {
        stage: is.stage.clone(),
        mean_us: [us(mean_was), us(mean_is)],
        p99_us: [us(p99_was as f64), us(p99_is as f64)],
    })
}

impl Comparison {
    fn table(&self) -> String {
        let mut text = String::new();
        let [before, after] = self.samples;
        let _ = writeln!(text, "{before} samples before, {after} after");
        for (what, changes) in [("self", &self.own), ("inclusive", &self.inclusive)] {
            if changes.is_empty() {
                continue;
            }
            let _ = writeln!(text, "\n  {what:<9}  before   after  points");
            for change in changes.iter().take(ROWS) {
                let Change { name, before, after, points, .. } = change;
                let _ =
                    writeln!(text, "  {:9} {before:6.2}% {after:6.2}% {points:+7.2}  {name}", "");
            }
            if changes.len() > ROWS {
                let _ = writeln!(text, "  and {} more, in --json", changes.len() - ROWS);
            }
        }
        if self.own.is_empty() && self.inclusive.is_empty() {
            let _ = writeln!(text, "  no function's share changed by more than chance explains");
        }
        if self.within_noise > 0 {
            let functions =
                if self.within_noise == 1 { "function differs" } else { "functions differ" };
            let n = self.within_noise;
            let _ = writeln!(text, "\n  {n} {functions} within sampling noise (z-test, 99 %)");
        }
        match &self.stages {
            None => {}
            Some(stages) if stages.is_empty() => {
                let _ = writeln!(text, "\n  no stage's times changed");
            }
            Some(stages) => {
                let _ = writeln!(text, "\n  stage           mean µs             p99 µs");
                for StageChange { stage, mean_us: [m, n], p99_us: [p, q] } in stages {
                    let means = format!("{m:.1} to {n:.1}");
                    let _ = writeln!(text, "  {stage:<12} {means:>16} {p:>10.1} to {q:.1}");
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(before: &str, after: &str, expected: Expect) {
        let read = |text| Stacks::parse(text, Path::new("x.folded")).unwrap();
        expected.assert_eq(&compare(&read(before), &read(after), None).table());
    }

    #[test]
    fn a_profile_does_not_differ_from_itself() {
        let text = "t;main;a 700\nt;main;b 299\nt;main 1\n";
        check(
            text,
            text,
            expect![[r#"
            1000 samples before, 1000 after
              no function's share changed by more than chance explains
        "#]],
        );
    }

    #[test]
    fn what_grew_and_what_shrank_is_named_and_noise_is_not() {
        check(
            "t;main;a 700\nt;main;b 200\nt;main;c 100\n",
            "t;main;a 1400\nt;main;b 100\nt;main;new 280\nt;main;c 220\n",
            expect![[r#"
                1000 samples before, 2000 after

                  self       before   after  points
                             20.00%   5.00%  -15.00  b
                              0.00%  14.00%  +14.00  new

                  inclusive  before   after  points
                             20.00%   5.00%  -15.00  b
                              0.00%  14.00%  +14.00  new

                  1 function differs within sampling noise (z-test, 99 %)
            "#]],
        );
    }

    #[test]
    fn z_is_the_difference_in_standard_errors_of_equal_shares() {
        let found = change("x", [38, 52], [200, 200]);
        let expected = (0.26f64 - 0.19) / (0.225f64 * 0.775 * (2.0 / 200.0)).sqrt();
        assert!((found.z - expected).abs() < 1e-12);
        assert_eq!(change("x", [0, 0], [9, 9]).z, 0.0);
    }

    #[test]
    fn a_stage_is_named_when_its_mean_moved_for_sure() {
        let stage = |ns: u64| Stage {
            stage: "apply".to_string(),
            requests: 100,
            sum_ns: ns * 100,
            buckets: vec![(ns, 50), (ns + 1, 50)],
            ..Stage::default()
        };
        let stages = |ns| Stages { stages: vec![stage(ns)], ..Stages::default() };
        assert_eq!(changed_stages(&stages(1000), &stages(1000)), []);
        assert_eq!(changed_stages(&stages(1000), &stages(1001)), []);
        let changes = changed_stages(&stages(1000), &stages(2000));
        assert_eq!(changes[0].mean_us, [1.0, 2.0]);
    }
}
