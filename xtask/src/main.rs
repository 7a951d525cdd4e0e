//! The developers' door: `cargo xtask test`, `lint`, `bench`, `instructions`. CI calls the same commands.

mod bench;
mod instructions;
mod lint;
mod run;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Crest's developer commands.
#[derive(Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that must hold: lints, unit and property tests, crash rounds, real servers.
    Test {
        /// Also the slow searches: more seeds, 500 crash rounds.
        #[arg(long)]
        long: bool,
    },
    /// Formatting, clippy with warnings denied, licences, bans and sources of dependencies.
    Lint,
    /// Measures applying, appending, decoding and the drill, beside peers in the same run.
    Bench {
        /// Append the results to BENCHMARKS.md.
        #[arg(long)]
        write: bool,
        /// Only what has this in its name: apply, append, decode, drill.
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
    },
    /// Counts what an order costs in instructions, stage by stage, beside instructions.toml.
    Instructions {
        /// Write the new figures to instructions.toml.
        #[arg(long)]
        accept: bool,
    },
    /// The bare server that the drill is measured against.
    #[command(hide = true)]
    ServeBare,
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Test { long } => test::test(long),
        Command::Lint => lint::lint(),
        Command::Instructions { accept } => instructions::instructions(accept),
        Command::ServeBare => bench::serve_bare(),
        Command::Bench { write, only } => bench::bench(write, only.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
