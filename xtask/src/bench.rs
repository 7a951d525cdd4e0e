//! `cargo xtask bench`: what the parts do beside the least that could be done for the same job,
//! the whole beside other systems, the generator beside others, or one revision beside another.
//! Rounds alternate between what is compared, because the machine's speed drifts within minutes;
//! what counts is the ratio.

mod bare;
mod bare_server;
mod cluster;
mod compare;
mod core;
mod crest;
mod encrypted;
mod feed;
mod generator;
mod jetstream;
mod load;
mod memory;
mod parts;
mod peers;
mod sink;
mod statistics;
mod table;

use std::fs::OpenOptions;
use std::io::Write as _;

use crate::run::{Failure, cargo, root, run};

pub(crate) use bare_server::{Http, serve_bare};
pub(crate) use load::drive_bare;

/// A drill's load unless it is told another.
const BATCH: u64 = 1_000;
const CONNECTIONS: usize = 8;

/// What is measured.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// Append the results to BENCHMARKS.md.
    #[arg(long)]
    write: bool,
    /// Only what has this in its name: apply, append, decode, drill, shards, feed, sink, jetstream; with
    /// --core: retained, shards, scarce; with --peers: drill, hyper, redis, postgres, disk.
    #[arg(long, value_name = "NAME", conflicts_with = "compare")]
    only: Option<String>,
    /// The drill beside a bare HTTP server, Redis, PostgreSQL and the disk, with the same orders.
    /// Installs what is missing.
    #[arg(long)]
    peers: bool,
    /// `crest load` beside wrk, h2load, oha and k6: what it costs, and what it says. Installs what
    /// is missing; what can't be installed is left out, with a word.
    #[arg(long, conflicts_with_all = ["peers", "compare", "only", "core"])]
    generator: bool,
    /// The core at the size that it is for: 20 million orders retained, a hot item, many shards,
    /// scarce stock. Takes 5 GiB of memory.
    #[arg(long, conflicts_with_all = ["peers", "compare"])]
    core: bool,
    /// What a shard keeps in memory of an account, an item, an order and so on.
    #[arg(long, conflicts_with_all = ["peers", "compare", "generator", "core", "only", "write"])]
    memory: bool,
    /// Say whether the drill got slower since a revision. The exit status is 1 if it did.
    #[arg(long, value_name = "REV", conflicts_with_all = ["peers", "write"])]
    compare: Option<String>,
    /// Rounds. With --peers at least 3 (the default), with --generator at least 5 (the default),
    /// with --compare at least 5 (default 8).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(3..=100))]
    rounds: Option<u8>,
}

pub(crate) fn bench(args: &Bench) -> Result<(), Failure> {
    if cfg!(debug_assertions) {
        // Figures of a debug build say nothing.
        let mut release = cargo(&["run", "--release", "--quiet", "--package", "xtask", "--"]);
        return run(release.args(std::env::args_os().skip(1)));
    }
    let rounds = args.rounds.map(usize::from);
    if rounds.is_some() && !args.peers && !args.generator && args.compare.is_none() {
        return Err("--rounds goes with --peers, --generator or --compare".into());
    }
    if let Some(revision) = &args.compare {
        return compare::compare(revision, rounds);
    }
    if args.memory {
        println!("{}", memory::measure()?);
        return Ok(());
    }
    let only = args.only.as_deref();
    let flags = match (args.peers, args.generator, args.core) {
        (true, ..) => " --peers",
        (_, true, _) => " --generator",
        (.., true) => " --core",
        _ => "",
    };
    let command = match only {
        Some(only) => format!("cargo xtask bench{flags} --only {only}"),
        None => format!("cargo xtask bench{flags}"),
    };
    let text = match (args.peers, args.generator, args.core) {
        (true, ..) => peers::measure(&command, rounds, only)?,
        (_, true, _) => generator::measure(&command, rounds)?,
        (.., true) => {
            let (rows, notes) = core::measure(only)?;
            table::table(&command, core::ROUNDS, &rows, &notes)?
        }
        _ => table::table(&command, parts::ROUNDS, &measure_parts(only)?, &[])?,
    };
    println!("{text}");
    if args.write {
        let mut file =
            OpenOptions::new().create(true).append(true).open(root().join("BENCHMARKS.md"))?;
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

fn measure_parts(only: Option<&str>) -> Result<Vec<table::Row>, Failure> {
    type Part = fn() -> Result<Vec<table::Row>, Failure>;
    let parts: [(&str, Part); 9] = [
        ("apply", parts::apply),
        ("append", parts::append),
        ("encrypted", encrypted::measure),
        ("decode", parts::decode_orders),
        ("drill", parts::drill),
        ("shards", parts::drill_shards),
        ("feed", feed::measure),
        ("sink", sink::measure),
        ("jetstream", jetstream::measure),
    ];
    let mut rows = Vec::new();
    for (name, part) in parts {
        if only.is_none_or(|only| name.contains(only)) {
            eprintln!("{name} …");
            rows.append(&mut part()?);
        }
    }
    Ok(rows)
}
