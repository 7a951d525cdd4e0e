//! `cargo xtask sim`: worlds of shards, logs and clients, with everything going wrong.

use clap::Args as ClapArgs;

use crate::run::{Failure, cargo, run};

#[derive(ClapArgs)]
#[group(id = "what", required = true, multiple = false)]
pub(crate) struct Sim {
    /// Replay one world, and tell what happens.
    #[arg(long, value_name = "N", group = "what")]
    seed: Option<u64>,
    /// Run so many worlds.
    #[arg(long, value_name = "N", group = "what")]
    runs: Option<u64>,
    /// Run worlds for so long.
    #[arg(long, value_name = "M", group = "what")]
    minutes: Option<u64>,
    /// Plant bugs, one after the other, and count the runs until each is found: the median of so
    /// many trials.
    #[arg(long, value_name = "TRIALS", group = "what", num_args = 0..=1, default_missing_value = "5")]
    bugs: Option<u64>,
    /// The first seed of --runs and --minutes.
    #[arg(long, value_name = "SEED", default_value = "1")]
    from: u64,
}

pub(crate) fn sim(args: &Sim) -> Result<(), Failure> {
    let wanted = [
        ("--seed", args.seed),
        ("--runs", args.runs),
        ("--minutes", args.minutes),
        ("--bugs", args.bugs),
    ];
    // The development profile: it is optimized, and a panic there names its seed.
    let mut sim = cargo(&["run", "--quiet", "--locked", "--package", "sim", "--bin", "sim", "--"]);
    for (name, value) in wanted {
        if let Some(value) = value {
            sim.arg(name).arg(value.to_string());
        }
    }
    if args.runs.or(args.minutes).is_some() {
        sim.arg("--from").arg(args.from.to_string());
    }
    if args.bugs.is_some() {
        // Planted bugs exist in this build alone, so it has a directory of its own.
        sim.env("RUSTFLAGS", "--cfg planted").env("CARGO_TARGET_DIR", "target/planted");
    }
    run(&mut sim)
}
