//! `cargo xtask bench --compare REV`: whether the drill got slower since a revision.
//!
//! Both are built with the same settings in the same target directory, the old one from a
//! checkout that is removed again. Then they drill in turn, each pair in the other order than the
//! one before, so that neither always has the warmer machine. A program that was built once is
//! kept below `target/compare`, under its commit and compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::crest::{self, Drilled};
use super::statistics::{PAIRS_MIN, Ratio};
use super::table::{commit, round};
use crate::run::{Failure, cargo, output, root, run};

/// Enough for a range of 95 % that leaves out what the noisiest rounds say.
const ROUNDS: usize = 8;
const ROUNDS_MIN: usize = 5;
/// Of one drill.
const DURATION: &str = "6s";

pub(super) fn compare(revision: &str, rounds: Option<usize>) -> Result<(), Failure> {
    let rounds = rounds.unwrap_or(ROUNDS);
    if rounds < ROUNDS_MIN {
        return Err(format!("{rounds} rounds say nothing: --rounds {ROUNDS_MIN} or more").into());
    }
    let folder = root().join("target/compare");
    std::fs::create_dir_all(&folder)?;
    let wanted = format!("{revision}^{{commit}}");
    let old_commit = git(&["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted])
        .map_err(|_| format!("{revision:?} is no revision of this repository"))?;
    // The old one first: what cargo leaves in target/release is then of the present one.
    let old = build_revision(&folder, &old_commit)?;
    let now = commit();
    let new = folder.join("crest-now");
    std::fs::copy(crest::build()?, &new)?;

    let mut pairs: Vec<(Drilled, Drilled)> = Vec::new();
    for number in 0..rounds {
        let drill = |crest: &Path| crest::drill(crest, &folder, &["--duration", DURATION]);
        let pair = if number % 2 == 0 {
            let old = drill(&old)?;
            (drill(&new)?, old)
        } else {
            (drill(&new)?, drill(&old)?)
        };
        eprintln!(
            "round {}: {} orders/s now, {} then",
            number + 1,
            round(pair.0.orders_per_s),
            round(pair.1.orders_per_s)
        );
        pairs.push(pair);
    }
    let of = |figure: fn(&Drilled) -> f64| {
        let pairs: Vec<_> = pairs.iter().map(|(new, old)| (figure(new), figure(old))).collect();
        Ratio::of(&pairs)
    };
    let rate = of(|drilled| drilled.orders_per_s);
    let cpu = of(|drilled| drilled.cpu_s_per_million);
    report(&now, revision, &old_commit, &pairs, &rate, &cpu);
    match rate.high < 1.0 {
        true => Err(format!("the drill got {}", rate.verdict("slower", "faster")).into()),
        false => Ok(()),
    }
}

fn report(
    now: &str,
    revision: &str,
    old_commit: &str,
    pairs: &[(Drilled, Drilled)],
    rate: &Ratio,
    cpu: &Ratio,
) {
    println!(
        "\ndrill: {now} beside {revision} ({}), {} pairs of {DURATION} each\n",
        &old_commit[..old_commit.len().min(7)],
        pairs.len()
    );
    println!("| round | now, orders/s | then, orders/s | ratio | now, CPU s per million | then |");
    println!("|---|---|---|---|---|---|");
    for (number, (new, old)) in pairs.iter().enumerate() {
        println!(
            "| {} | {} | {} | {:.3} | {:.3} | {:.3} |",
            number + 1,
            round(new.orders_per_s),
            round(old.orders_per_s),
            new.orders_per_s / old.orders_per_s,
            new.cpu_s_per_million,
            old.cpu_s_per_million
        );
    }
    println!("\nrate          {}", rate.verdict("slower", "faster"));
    println!("platform CPU  {}", cpu.verdict("less for an order", "more for an order"));
    let fewer = match pairs.len() < PAIRS_MIN {
        true => format!("; {PAIRS_MIN} rounds would make it 95 %"),
        false => String::new(),
    };
    println!(
        "\nRanges of {:.1} % confidence: Hodges-Lehmann estimate and Wilcoxon signed-rank range of \
         the pairs' log ratios{fewer}.",
        rate.confidence * 100.0
    );
}

/// The `crest` of a commit.
fn build_revision(folder: &Path, commit: &str) -> Result<PathBuf, Failure> {
    let compiler = output(Command::new("rustc").arg("--version").current_dir(root()))?;
    let compiler = compiler.split(' ').nth(1).ok_or("rustc does not say its version")?;
    let short = &commit[..commit.len().min(12)];
    let built = folder.join(format!("crest-{short}-{compiler}"));
    if built.exists() {
        return Ok(built);
    }
    let checkout = Checkout::of(folder.join(short), commit)?;
    let target = root().join("target");
    let mut build = cargo(&["build", "--release", "--quiet", "--locked", "--package", "crest"]);
    run(build.current_dir(&checkout.path).env("CARGO_TARGET_DIR", &target))?;
    // Whole under its name, or not at all.
    let partial = built.with_extension("partial");
    std::fs::copy(target.join("release/crest"), &partial)?;
    std::fs::rename(&partial, &built)?;
    Ok(built)
}

/// A git worktree, removed when dropped.
struct Checkout {
    path: PathBuf,
}

impl Checkout {
    fn of(path: PathBuf, commit: &str) -> Result<Checkout, Failure> {
        // One that an earlier run left behind is made anew: what it holds can't be known.
        let checkout = Checkout { path };
        checkout.remove();
        let mut add = Command::new("git");
        add.args(["worktree", "add", "--quiet", "--force", "--detach"]).arg(&checkout.path);
        run(add.arg(commit).current_dir(root()))?;
        Ok(checkout)
    }

    fn remove(&self) {
        if self.path.exists() {
            let mut remove = Command::new("git");
            remove.args(["worktree", "remove", "--force"]).arg(&self.path);
            // Without it, the next `git worktree add --force` says what is wrong.
            let _ = output(remove.current_dir(root()));
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        self.remove();
    }
}

fn git(args: &[&str]) -> Result<String, Failure> {
    Ok(output(Command::new("git").args(args).current_dir(root()))?.trim().to_string())
}
