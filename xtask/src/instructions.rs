//! `cargo xtask instructions`: what an order costs in instructions, held against what was
//! committed.
//!
//! Counts don't depend on what else the machine does, so a rise of a few per cent can be told
//! from noise, where a time can't. `instructions.toml` keeps a figure for every stage of
//! `crest/examples/instructions.rs`. One that rises by more than [`TOLERANCE_PERCENT`] fails,
//! unless the new figure is committed with the change that caused it. Many small rises add up
//! to a large one: they are all held against the same figure. Before a rise fails it is counted
//! once more, and the lower count stands: the allocator's addresses are the kernel's choice, and
//! now and then it has to go a longer way.
//!
//! Another compiler makes other code, and another valgrind shows it another processor. Where
//! they aren't those that the figures were made by, a rise is only a warning.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::run::{Failure, cargo, output, root, run, works};

/// How much a figure may change, either way, before it is to be accepted.
const TOLERANCE_PERCENT: f64 = 3.0;
/// Orders that each stage of the example handles.
const ORDERS: f64 = 1_000.0;

const FILE: &str = "instructions.toml";
const ACCEPT: &str = "cargo xtask instructions --accept";
const HEAD: &str = "\
# What an order costs in instructions, as callgrind counts them: the stages of
# crest/examples/instructions.rs, for an order in a batch of 1,000 and for one by itself.
# Written by `cargo xtask instructions --accept`; commit it with what changed a figure.
";

/// What `instructions.toml` holds.
#[derive(Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct Figures {
    /// Compiler, target and valgrind.
    made_by: String,
    instructions_per_order: BTreeMap<String, f64>,
}

pub(crate) fn instructions(accept: bool) -> Result<(), Failure> {
    if let Err(why) = valgrind() {
        if accept {
            return Err(why.into());
        }
        eprintln!("\nSKIPPED: INSTRUCTIONS PER ORDER WERE NOT COUNTED. {why}");
        return Ok(());
    }
    let runner = runner()?;
    let mut now = Figures { made_by: made_by()?, instructions_per_order: measure(&runner)? };
    let file = root().join(FILE);
    let committed = match std::fs::read_to_string(&file) {
        Ok(text) => Some(toml::from_str(&text).map_err(|error| format!("{FILE}: {error}"))?),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(format!("{FILE}: {error}").into()),
    };
    let committed: Figures = committed.unwrap_or_else(|| Figures {
        made_by: now.made_by.clone(),
        instructions_per_order: BTreeMap::new(),
    });
    let mut compared = Compared::new(&committed, &now);
    if !accept && !compared.wrong.is_empty() {
        println!("{}", compared.table);
        now.keep_lower(measure(&runner)?);
        compared = Compared::new(&committed, &now);
    }
    println!("{}", compared.table);
    if accept {
        std::fs::write(&file, now.text())?;
        println!("{FILE} is written; commit it with what changed the figures");
        return Ok(());
    }
    if !compared.fell.is_empty() {
        println!("less than before: {}. Keep it so: `{ACCEPT}`", compared.fell.join(", "));
    }
    if compared.wrong.is_empty() {
        return Ok(());
    }
    let wrong = compared.wrong.join("\n  ");
    if committed.made_by != now.made_by {
        eprintln!(
            "warning: the figures were made by {}, and these by {}, which may be why:\n  {wrong}",
            committed.made_by, now.made_by
        );
        return Ok(());
    }
    Err(format!(
        "instructions per order:\n  {wrong}\nIf that is what the change is worth, accept it: \
         `{ACCEPT}` writes {FILE}, to be committed with the change"
    )
    .into())
}

impl Figures {
    /// Of two counts of a stage, the lower one stands.
    fn keep_lower(&mut self, again: BTreeMap<String, f64>) {
        for (stage, figure) in again {
            let kept = self.instructions_per_order.entry(stage).or_insert(figure);
            *kept = kept.min(figure);
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{HEAD}made_by = \"{}\"\n\n[instructions_per_order]\n",
            self.made_by.escape_default()
        );
        for (stage, figure) in &self.instructions_per_order {
            let _ = writeln!(text, "{stage} = {figure:.1}");
        }
        text
    }
}

/// Figures beside those that were committed.
#[derive(Debug)]
struct Compared {
    table: String,
    /// A line for each stage that costs too much more, or is only on one side.
    wrong: Vec<String>,
    /// Stages that cost less, by more than the tolerance.
    fell: Vec<String>,
}

impl Compared {
    fn new(committed: &Figures, now: &Figures) -> Compared {
        let (before, after) = (&committed.instructions_per_order, &now.instructions_per_order);
        let mut compared = Compared {
            table: "instructions per order     committed         now    change\n".to_string(),
            wrong: Vec::new(),
            fell: Vec::new(),
        };
        let stages: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for stage in stages {
            compared.add(stage, before.get(stage).copied(), after.get(stage).copied());
        }
        compared
    }

    fn add(&mut self, stage: &str, before: Option<f64>, after: Option<f64>) {
        let figure = |figure: Option<f64>| match figure {
            Some(figure) => format!("{figure:.1}"),
            None => "–".to_string(),
        };
        let (before_text, after_text) = (figure(before), figure(after));
        let mut change_text = String::new();
        match (before, after) {
            (Some(before), Some(after)) => {
                let change = (after / before - 1.0) * 100.0;
                change_text = format!("{change:+.2} %");
                if change > TOLERANCE_PERCENT {
                    let rise = format!("{stage} rose from {before_text} to {after_text}");
                    self.wrong.push(format!(
                        "{rise} ({change_text}; {TOLERANCE_PERCENT} % are let pass)"
                    ));
                }
                if change < -TOLERANCE_PERCENT {
                    self.fell.push(format!("{stage} ({change_text})"));
                }
            }
            (None, _) => self.wrong.push(format!("{stage} has no committed figure")),
            (_, None) => self.wrong.push(format!("{stage} is in {FILE} and was not counted")),
        }
        let _ =
            writeln!(self.table, "{stage:<22} {before_text:>13} {after_text:>11} {change_text:>9}");
    }
}

/// Runs every stage under callgrind.
fn measure(runner: &Path) -> Result<BTreeMap<String, f64>, Failure> {
    run(&mut cargo(&[
        "build",
        "--release",
        "--quiet",
        "--locked",
        "--package",
        "crest",
        "--example",
        "instructions",
    ]))?;
    let home = root().join("target/instructions");
    match std::fs::remove_dir_all(&home) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let own = runner.parent().map(PathBuf::from);
    let paths = std::env::join_paths(own.into_iter().chain(std::env::split_paths(&paths)))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    eprintln!("counting instructions …");
    // Without `--bench` it runs the stages and counts nothing.
    let lines = output(
        Command::new(root().join("target/release/examples/instructions"))
            .args(["--bench", "--output-format=json", &format!("--parallel={cores}")])
            .env("PATH", paths)
            .env("GUNGRAUN_HOME", &home)
            .current_dir(root())
            .stderr(Stdio::inherit()),
    )?;
    lines.lines().map(counted).collect()
}

/// One stage's name and figure, from a line of gungraun's summary.
fn counted(line: &str) -> Result<(String, f64), Failure> {
    let summary: serde_json::Value = serde_json::from_str(line)?;
    let word = |name: &str| summary[name].as_str().ok_or(format!("a count without {name}: {line}"));
    let stage = format!("{}_{}", word("id")?, word("function_name")?);
    let count = &summary["profiles"][0]["data"]["total"]["metrics"]["Ir"]["values"]["new"];
    let count = count.as_f64().ok_or(format!("{stage} has no count of instructions"))?;
    // As precise as the file, so that what was accepted is what is compared.
    Ok((stage, (count / ORDERS * 10.0).round() / 10.0))
}

/// What figures depend on besides the code.
fn made_by() -> Result<String, Failure> {
    let rustc = output(Command::new("rustc").arg("-vV").current_dir(root()))?;
    let version = rustc.lines().next().unwrap_or_default();
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let valgrind = output(Command::new("valgrind").arg("--version"))?;
    Ok(format!("{version}, {host}, {}", valgrind.trim()))
}

/// Valgrind: the one that is installed, or the distribution's where it may be installed.
fn valgrind() -> Result<(), String> {
    let installed = || works(Command::new("valgrind").arg("--version"));
    if installed() {
        return Ok(());
    }
    let debian = works(Command::new("apt-get").arg("--version"));
    if debian && rustix::process::geteuid().is_root() {
        // A list of packages that is out of date is no reason to give up yet.
        let _ = run(Command::new("apt-get").args(["update", "--quiet"]));
        let mut install = Command::new("apt-get");
        install.args(["install", "--yes", "--no-install-recommends", "valgrind"]);
        if run(install.env("DEBIAN_FRONTEND", "noninteractive")).is_ok() && installed() {
            return Ok(());
        }
    }
    Err("Valgrind is missing: `apt-get install valgrind` as root on Debian, or the package of \
         that name elsewhere"
        .to_string())
}

/// gungraun-runner of exactly the library's version: the one that is installed, or one of our
/// own below `target`.
fn runner() -> Result<PathBuf, Failure> {
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root()).exec()?;
    let library = metadata.packages.iter().find(|package| package.name.as_str() == "gungraun");
    let version = library.ok_or("gungraun is not among the dependencies")?.version.to_string();
    let fits = |runner: &Path| {
        let said = output(Command::new(runner).arg("--version"));
        said.is_ok_and(|said| said.split_whitespace().next_back() == Some(&version))
    };
    let installed = PathBuf::from("gungraun-runner");
    if fits(&installed) {
        return Ok(installed);
    }
    let tools = root().join("target/tools");
    let own = tools.join("bin/gungraun-runner");
    if !fits(&own) {
        let mut install =
            cargo(&["install", "gungraun-runner", "--locked", "--force", "--version", &version]);
        run(install.arg("--root").arg(&tools))?;
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures<const N: usize>(stages: [(&str, f64); N]) -> Figures {
        Figures {
            made_by: "rustc 1.95.0 (59807616e 2026-04-14), valgrind-3.19.0".to_string(),
            instructions_per_order: stages.map(|(name, figure)| (name.to_string(), figure)).into(),
        }
    }

    #[test]
    fn a_rise_past_the_tolerance_is_wrong_and_named() {
        let before = figures([("batch_apply", 1000.0), ("one_apply", 2000.0)]);
        let within = figures([("batch_apply", 1029.9), ("one_apply", 1940.1)]);
        let compared = Compared::new(&before, &within);
        assert!(compared.wrong.is_empty() && compared.fell.is_empty(), "{compared:?}");
        let past = figures([("batch_apply", 1030.1), ("one_apply", 1939.0)]);
        let compared = Compared::new(&before, &past);
        let wrong = "batch_apply rose from 1000.0 to 1030.1 (+3.01 %; 3 % are let pass)";
        assert_eq!(compared.wrong, [wrong]);
        assert_eq!(compared.fell, ["one_apply (-3.05 %)"]);
    }

    #[test]
    fn of_two_counts_the_lower_one_stands() {
        let mut now = figures([("batch_apply", 1000.0), ("one_apply", 2100.0)]);
        now.keep_lower(
            figures([("batch_apply", 1050.0), ("one_apply", 2000.0)]).instructions_per_order,
        );
        assert_eq!(now, figures([("batch_apply", 1000.0), ("one_apply", 2000.0)]));
    }

    #[test]
    fn both_sides_have_the_same_stages() {
        let (one, other) = (figures([("batch_apply", 1.0)]), figures([("batch_append", 1.0)]));
        assert_eq!(
            Compared::new(&one, &other).wrong,
            [
                "batch_append has no committed figure",
                "batch_apply is in instructions.toml and was not counted",
            ]
        );
    }

    #[test]
    fn figures_are_read_as_they_are_written() {
        let figures = figures([("batch_apply", 2558.1), ("one_apply", 2637.6)]);
        let text = figures.text();
        assert!(text.ends_with("batch_apply = 2558.1\none_apply = 2637.6\n"), "{text}");
        assert_eq!(toml::from_str::<Figures>(&text).unwrap(), figures);
    }

    #[test]
    fn what_is_committed_can_be_read() {
        let text = std::fs::read_to_string(root().join(FILE)).unwrap();
        let figures: Figures = toml::from_str(&text).unwrap();
        assert!(figures.instructions_per_order.values().all(|&figure| figure > 0.0));
        assert_eq!(figures.text(), text);
    }

    #[test]
    fn counts_are_read_from_the_summary() {
        let line = r#"{"function_name":"apply","id":"batch","profiles":[{"data":{"total":{
            "metrics":{"Ir":{"values":{"new":2558081}}}}}}]}"#;
        assert_eq!(counted(line).unwrap(), ("batch_apply".to_string(), 2558.1));
        assert!(counted(&line.replace("Ir", "Dr")).is_err());
    }
}
