//! What holds of the text of the code, and of what it is built from.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::fuzz::instrumented;
use crate::run::{Failure, cargo, root, run};
use crate::tools::CARGO_DENY;

pub(crate) fn lint() -> Result<(), Failure> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))?;
    run(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    run(instrumented("clippy")?.args(["--", "-D", "warnings"]))?;
    run(Command::new(CARGO_DENY.get()?)
        .args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"])
        .current_dir(root()))?;
    arrows()
}

/// The arrows between crates are those that ARCHITECTURE.md lists, no more and no fewer.
fn arrows() -> Result<(), Failure> {
    let listed = listed_arrows(&std::fs::read_to_string(root().join("ARCHITECTURE.md"))?);
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root()).no_deps().exec()?;
    let members: BTreeSet<&str> =
        metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let real: BTreeSet<&str> = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind == cargo_metadata::DependencyKind::Normal)
            .map(|dependency| dependency.name.as_str())
            .filter(|name| members.contains(name))
            .collect();
        let Some(listed) = listed.get(package.name.as_str()) else {
            wrong.push(format!("ARCHITECTURE.md does not list `{}`", package.name));
            continue;
        };
        for name in &real {
            if !listed.contains(*name) {
                wrong.push(format!(
                    "`{}` leans on `{name}`; ARCHITECTURE.md does not say so",
                    package.name
                ));
            }
        }
        for name in listed {
            if !real.contains(name.as_str()) {
                wrong.push(format!(
                    "ARCHITECTURE.md says that `{}` leans on `{name}`",
                    package.name
                ));
            }
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n").into()),
    }
}

/// The rows of the code map: `` | `crate/` | … | `other`, `another` | ``.
fn listed_arrows(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut arrows = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, leans_on] = cells[..] else { continue };
        let quoted = leans_on.split('`').skip(1).step_by(2).map(str::to_string);
        arrows.insert(name.trim_matches('`').trim_end_matches('/').to_string(), quoted.collect());
    }
    arrows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_lean_only_on_what_the_architecture_lists() {
        arrows().unwrap_or_else(|wrong| panic!("{wrong}"));
    }

    #[test]
    fn rows_are_read_as_arrows() {
        let text = "| folder | what | leans on |\n|---|---|---|\n| `a/` | x | `b`, `c-d` |\n| `b/` | y | – |\n";
        let arrows = listed_arrows(text);
        assert_eq!(arrows["a"], BTreeSet::from(["b".to_string(), "c-d".to_string()]));
        assert!(arrows["b"].is_empty());
    }
}
