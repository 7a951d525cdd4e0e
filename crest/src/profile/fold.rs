//! Folded stacks: one line for each distinct stack, its functions from the root inwards with `;`
//! between them, a blank, and how many samples had it. The form of Brendan Gregg's
//! stackcollapse scripts, which every flame graph tool reads.
//!
//! The root is the thread's name, so that the log's thread and the reactors are told apart. A
//! function's *self* share counts the samples in which it ran; its *inclusive* share those in
//! which it was anywhere on the stack, once each, however often it calls itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A function that hands more of its samples than this on to one callee is that callee's wrapper.
const HANDED_ON_MAX: f64 = 0.97;

/// How often each stack was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stacks(BTreeMap<String, u64>);

/// Why folded stacks can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FoldError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}, line {line}: {text:?} is not a stack, a blank and a count", path.display())]
    Line { path: PathBuf, line: usize, text: String },
}

/// How many samples a function was in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Samples in which it ran itself.
    pub(crate) own: u64,
    /// Samples in which it was on the stack.
    pub(crate) inclusive: u64,
}

/// One row of a table of shares.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) samples: u64,
    /// Of all samples, in percent.
    pub(crate) percent: f64,
}

impl Stacks {
    /// Adds samples of one stack. Functions are given from the root inwards.
    pub(crate) fn add<'a>(&mut self, stack: impl IntoIterator<Item = &'a str>, samples: u64) {
        let mut line = String::new();
        for (depth, function) in stack.into_iter().enumerate() {
            if depth > 0 {
                line.push(';');
            }
            // Types such as `[u8; 4]` hold the character that separates functions.
            line.extend(function.chars().map(|c| if c == ';' { ':' } else { c }));
        }
        if !line.is_empty() {
            *self.0.entry(line).or_default() += samples;
        }
    }

    /// Reads what [`Stacks::folded`] wrote, or another tool. `path` is for errors.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Stacks, FoldError> {
        let mut stacks = Stacks::default();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let counted = line.rsplit_once(' ').and_then(|(stack, count)| {
                (!stack.is_empty()).then_some((stack, count.parse::<u64>().ok()?))
            });
            let Some((stack, samples)) = counted else {
                let (path, text) = (path.to_path_buf(), line.chars().take(80).collect());
                return Err(FoldError::Line { path, line: number + 1, text });
            };
            stacks.add(stack.split(';'), samples);
        }
        Ok(stacks)
    }

    /// Reads a file of folded stacks.
    pub(crate) fn read(path: &Path) -> Result<Stacks, FoldError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| FoldError::Io { path: path.to_path_buf(), source })?;
        Stacks::parse(&text, path)
    }

    /// One line a stack, sorted.
    pub(crate) fn folded(&self) -> String {
        let mut text = String::new();
        for (stack, samples) in &self.0 {
            let _ = writeln!(text, "{stack} {samples}");
        }
        text
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (impl Iterator<Item = &str>, u64)> {
        self.0.iter().map(|(stack, &samples)| (stack.split(';'), samples))
    }

    /// All samples.
    pub(crate) fn samples(&self) -> u64 {
        self.0.values().sum()
    }

    /// Samples by function. Threads, which are the roots, are not among them.
    pub(crate) fn shares(&self) -> BTreeMap<String, Share> {
        let mut shares: BTreeMap<String, Share> = BTreeMap::new();
        for (stack, samples) in self.iter() {
            let mut stack: Vec<&str> = stack.skip(1).collect();
            let Some(leaf) = stack.last() else { continue };
            shares.entry((*leaf).to_string()).or_default().own += samples;
            stack.sort_unstable();
            stack.dedup();
            for function in stack {
                shares.entry(function.to_string()).or_default().inclusive += samples;
            }
        }
        shares
    }

    /// For each function, the samples that its largest callee took over.
    fn handed_on(&self) -> BTreeMap<&str, u64> {
        let mut calls: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (stack, samples) in self.0.iter().map(|(stack, samples)| (stack, *samples)) {
            let stack: Vec<&str> = stack.split(';').skip(1).collect();
            let mut pairs: Vec<(&str, &str)> =
                stack.windows(2).map(|pair| (pair[0], pair[1])).collect();
            pairs.retain(|(caller, callee)| caller != callee);
            pairs.sort_unstable();
            pairs.dedup();
            for pair in pairs {
                *calls.entry(pair).or_default() += samples;
            }
        }
        let mut most = BTreeMap::new();
        for ((caller, _), samples) in calls {
            let found: &mut u64 = most.entry(caller).or_default();
            *found = samples.max(*found);
        }
        most
    }

    /// Samples by thread, the busiest first.
    pub(crate) fn threads(&self) -> Vec<Row> {
        let mut threads: BTreeMap<&str, u64> = BTreeMap::new();
        for (mut stack, samples) in self.iter() {
            *threads.entry(stack.next().unwrap_or_default()).or_default() += samples;
        }
        rows(threads.into_iter().map(|(name, samples)| (name.to_string(), samples)), self.samples())
    }

    /// The functions with the most samples of their own, and those with the most below them.
    /// Those that hand nearly all of their samples on to one callee say nothing that the callee
    /// doesn't, and are not among the latter.
    pub(crate) fn top(&self, rows_max: usize) -> (Vec<Row>, Vec<Row>) {
        let (shares, all) = (self.shares(), self.samples());
        let top = |samples: &dyn Fn(&str, &Share) -> u64| {
            let named = shares.iter().map(|(name, share)| (name.clone(), samples(name, share)));
            let mut rows = rows(named.filter(|(_, samples)| *samples > 0), all);
            rows.truncate(rows_max);
            rows
        };
        let handed_on = self.handed_on();
        let inclusive = |name: &str, share: &Share| {
            let handed_on = handed_on.get(name).copied().unwrap_or(0);
            let says_more = (handed_on as f64) < HANDED_ON_MAX * share.inclusive as f64;
            if says_more { share.inclusive } else { 0 }
        };
        (top(&|_, share| share.own), top(&inclusive))
    }
}

/// Rows of shares of `all`, the largest first, equal ones by name.
pub(crate) fn rows(named: impl Iterator<Item = (String, u64)>, all: u64) -> Vec<Row> {
    let percent = |samples: u64| samples as f64 * 100.0 / all.max(1) as f64;
    let mut rows: Vec<Row> =
        named.map(|(name, samples)| Row { name, samples, percent: percent(samples) }).collect();
    rows.sort_by(|a, b| b.samples.cmp(&a.samples).then_with(|| a.name.cmp(&b.name)));
    rows
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn parse(text: &str) -> Result<Stacks, FoldError> {
        Stacks::parse(text, Path::new("x.folded"))
    }

    fn check_top(text: &str, expected: Expect) {
        let stacks = parse(text).unwrap();
        let (own, inclusive) = stacks.top(3);
        let mut found = String::new();
        for (what, rows) in [("self", own), ("all", inclusive), ("thread", stacks.threads())] {
            for row in rows {
                writeln!(found, "{what} {} {:.1} {}", row.samples, row.percent, row.name).unwrap();
            }
        }
        expected.assert_eq(&found);
    }

    #[test]
    fn a_function_that_calls_itself_counts_once_a_sample() {
        check_top(
            "crest-0;std::x;main;walk;walk;walk 6\ncrest-0;main;walk;leaf 3\ncrest-log;write 1\n",
            expect![[r#"
                self 6 60.0 walk
                self 3 30.0 leaf
                self 1 10.0 write
                all 9 90.0 walk
                all 3 30.0 leaf
                all 1 10.0 write
                thread 9 90.0 crest-0
                thread 1 10.0 crest-log
            "#]],
        );
    }

    #[test]
    fn a_type_with_a_semicolon_stays_one_function() {
        let mut stacks = Stacks::default();
        stacks.add(["crest-0", "hash<[u8; 4]>"], 2);
        stacks.add(["crest-0", "hash<[u8; 4]>"], 1);
        expect!["crest-0;hash<[u8: 4]> 3\n"].assert_eq(&stacks.folded());
        assert_eq!(parse(&stacks.folded()).unwrap(), stacks);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let error = parse("t;a 1\nt;b many\n").unwrap_err().to_string();
        expect![[r#"x.folded, line 2: "t;b many" is not a stack, a blank and a count"#]]
            .assert_eq(&error);
    }
}
