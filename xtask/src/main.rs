//! The developers' door: `cargo xtask test`, `lint`, `sim`, `fuzz`, `bench`, `instructions`, `tools`.
//! CI calls the same commands.

mod bench;
mod fuzz;
mod instructions;
#[cfg(test)]
mod layout;
mod lint;
mod run;
mod sim;
mod test;
mod tools;

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
    /// Searches for inputs that break the parsers or the core.
    Fuzz(fuzz::Fuzz),
    /// Measures the parts, the whole beside other systems (--peers), the load generator beside
    /// others (--generator), or one revision beside another (--compare).
    Bench(bench::Bench),
    /// Simulates worlds in which everything goes wrong: one of a seed, with its trace, or many.
    Sim(sim::Sim),
    /// Finds or installs what tests and benchmarks need, and says where it is.
    Tools,
    /// Counts what an order costs in instructions, stage by stage, beside instructions.toml.
    Instructions {
        /// Write the new figures to instructions.toml.
        #[arg(long)]
        accept: bool,
    },
    /// The bare server that the drill is measured against.
    #[command(hide = true)]
    ServeBare {
        threads: usize,
        batch: u64,
        /// HTTP/2 by prior knowledge, instead of HTTP/1.1.
        #[arg(long)]
        http2: bool,
    },
    /// The generator against the bare server.
    #[command(hide = true)]
    DriveBare { url: String, numbers: Vec<u64> },
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Test { long } => test::test(long),
        Command::Lint => lint::lint(),
        Command::Fuzz(args) => fuzz::fuzz(&args),
        Command::Instructions { accept } => instructions::instructions(accept),
        Command::Bench(args) => bench::bench(&args),
        Command::Sim(args) => sim::sim(&args),
        Command::Tools => tools::tools(),
        Command::ServeBare { threads, batch, http2 } => bench::serve_bare(
            threads,
            batch,
            if http2 { bench::Http::Two } else { bench::Http::One },
        ),
        Command::DriveBare { url, numbers } => bench::drive_bare(&url, &numbers),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
