//! `cargo xtask fuzz`: searches for inputs that break the parsers or the core.
//!
//! The targets are a crate of their own, `fuzz/`, that libFuzzer runs. It makes up inputs by
//! changing those that reached code which none before them had reached; what is reached is counted
//! by instructions that the compiler adds, for which the stable one will do. A search begins with
//! seeds and with what earlier searches kept below `target/fuzz/corpus`. An input that broke
//! something is committed to `fuzz/regressions/TARGET/` with the fix, and is run before every
//! search.

mod seeds;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use clap::ValueEnum as _;

use crate::run::{Failure, cargo, output, root, run};
use crate::tools::CXX;

/// What the compiler adds: a counter for each edge, and calls that say what is compared.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";
/// An input that takes longer hangs. Inputs take a millisecond; a busy machine may stop for seconds.
const HANGS_AFTER_S: u64 = 60;

/// What is searched, and for how long.
#[derive(clap::Args)]
pub(crate) struct Fuzz {
    /// One target; unless it is given, all of them, one after the other.
    target: Option<Target>,
    /// How long each target is searched.
    #[arg(long, value_name = "M", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,
    /// Run this input alone.
    #[arg(long, value_name = "FILE", requires = "target", conflicts_with = "minutes")]
    input: Option<PathBuf>,
}

/// What is given inputs: each is a file of `fuzz/fuzz_targets`.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// Any bytes as records.
    Record,
    /// Any bytes as commands that a caller sends.
    Asked,
    /// Any bytes as frames.
    Frame,
    /// Any bytes as the body of a request.
    Json,
    /// Commands over few ids, given to a shard.
    Apply,
}

pub(crate) fn fuzz(args: &Fuzz) -> Result<(), Failure> {
    match (args.target, &args.input) {
        (Some(target), Some(input)) => {
            let input = input.canonicalize().map_err(|e| format!("{}: {e}", input.display()))?;
            run(&mut instrumented("build")?)?;
            if target == Target::Apply {
                target.print(&input)?;
            }
            target.replay(&input)
        }
        (target, _) => {
            let targets = target.as_ref().map_or(Target::value_variants(), std::slice::from_ref);
            search(targets, Duration::from_secs(60 * args.minutes))
        }
    }
}

/// Searches every target for so long.
pub(crate) fn search_all(each: Duration) -> Result<(), Failure> {
    search(Target::value_variants(), each)
}

fn search(targets: &[Target], each: Duration) -> Result<(), Failure> {
    run(&mut instrumented("build")?)?;
    for target in targets {
        for input in target.regressions()? {
            target.replay(&input)?;
        }
        target.search(each)?;
    }
    Ok(())
}

/// A cargo command on the crate of targets, with instrumentation.
pub(crate) fn instrumented(command: &str) -> Result<Command, Failure> {
    CXX.get()?;
    // What is searched is what is shipped: the same versions of everything.
    let (shipped, searched) = (root().join("Cargo.lock"), root().join("fuzz/Cargo.lock"));
    let modified = |file: &Path| fs::metadata(file).and_then(|of| of.modified()).ok();
    if modified(&searched) < modified(&shipped) {
        fs::copy(&shipped, &searched)?;
    }
    // Where a target is named, cargo leaves build scripts and macros without instrumentation.
    let mut cargo = cargo(&[command, "--release", "--target", &host()?]);
    cargo.args(["--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target/fuzz"]);
    cargo.env("RUSTFLAGS", INSTRUMENTATION);
    Ok(cargo)
}

fn host() -> Result<String, Failure> {
    let host = output(Command::new("rustc").args(["--print", "host-tuple"]).current_dir(root()))?;
    Ok(host.trim().to_string())
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Target::Record => "record",
            Target::Asked => "asked",
            Target::Frame => "frame",
            Target::Json => "json",
            Target::Apply => "apply",
        }
    }

    /// Its program, to be run in the workspace's root.
    fn program(self) -> Result<Command, Failure> {
        let folder = root().join("target/fuzz").join(host()?).join("release");
        let mut program = Command::new(folder.join(self.name()));
        program.arg(format!("-timeout={HANGS_AFTER_S}")).current_dir(root());
        Ok(program)
    }

    fn search(self, time: Duration) -> Result<(), Failure> {
        let name = self.name();
        let [corpus, seeds, found] =
            ["corpus", "seeds", "found"].map(|folder| format!("target/fuzz/{folder}/{name}"));
        for folder in [&corpus, &seeds, &found] {
            fs::create_dir_all(root().join(folder))?;
        }
        for (number, seed) in seeds::of(self).iter().enumerate() {
            fs::write(root().join(&seeds).join(number.to_string()), seed)?;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let found = format!("{found}/{now}");
        let log = root().join(format!("target/fuzz/{name}.log"));

        let mut search = self.program()?;
        search.args([corpus, seeds, format!("-max_total_time={}", time.as_secs())]);
        search.args([format!("-exact_artifact_path={found}"), "-print_funcs=0".to_string()]);
        let done = run(search.stderr(File::create(&log)?));
        let log = String::from_utf8_lossy(&fs::read(log)?).into_owned();
        // A line for each input that was kept, and one with the figures of all.
        let (kept, said): (Vec<_>, Vec<_>) = log.lines().partition(|line| line.starts_with('#'));
        if done.is_ok() {
            let figures = kept.into_iter().find(|line| line.contains("DONE"));
            eprintln!("{}", figures.unwrap_or("libFuzzer has given no figures"));
            return Ok(());
        }
        eprintln!("{}", said.join("\n"));
        let broken = root().join(&found).exists();
        done.map_err(|error| if broken { self.broken_by(Path::new(&found)) } else { error })
    }

    /// The inputs that broke it once.
    fn regressions(self) -> Result<Vec<PathBuf>, Failure> {
        let folder = root().join("fuzz/regressions").join(self.name());
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let inputs = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
        inputs.collect()
    }

    fn replay(self, input: &Path) -> Result<(), Failure> {
        let mut replay = self.program()?;
        run(replay.arg(input).env("RUST_BACKTRACE", "1")).map_err(|_| self.broken_by(input))
    }

    /// Prints what an input becomes, where its bytes say nothing to a reader.
    fn print(self, input: &Path) -> Result<(), Failure> {
        let text = root().join("target/fuzz/input.txt");
        run(self.program()?.arg(input).env("RUST_LIBFUZZER_DEBUG_PATH", &text))?;
        eprintln!("{}", fs::read_to_string(text)?);
        Ok(())
    }

    fn broken_by(self, input: &Path) -> Failure {
        let (name, input) = (self.name(), input.strip_prefix(root()).unwrap_or(input).display());
        format!(
            "an input broke {name}; again with\n  cargo xtask fuzz {name} --input {input}\nCommit \
             it to fuzz/regressions/{name}/ with the fix"
        )
        .into()
    }
}
