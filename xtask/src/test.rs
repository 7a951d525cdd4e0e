//! `cargo xtask test`: the one test command.

use std::time::Duration;

use crate::fuzz::search_all;
use crate::instructions::instructions;
use crate::lint::lint;
use crate::run::{Failure, cargo, run};
use crate::tools::{NATS, POSTGRES, WEED, python_for_tests};

/// Rounds of load, `kill -9` and recovery, on each engine of the log.
const CRASH_ROUNDS_LONG: &str = "500";
/// How long each fuzz target is searched.
const SEARCH_S: u64 = 6;
const SEARCH_S_LONG: u64 = 300;

pub(crate) fn test(long: bool) -> Result<(), Failure> {
    lint()?;
    let mut tests = cargo(&["test", "--workspace", "--locked"]);
    match WEED.get() {
        Ok(weed) => drop(tests.env("CREST_WEED", weed)),
        Err(why) => eprintln!("without SeaweedFS the archive isn't tested on S3: {why}"),
    }
    match NATS.get() {
        Ok(nats) => drop(tests.env("CREST_NATS_SERVER", nats)),
        Err(why) => eprintln!("without nats-server the log isn't tested on JetStream: {why}"),
    }
    match python_for_tests() {
        Ok(python) => drop(tests.env("CREST_PYTHON", python)),
        Err(why) => eprintln!("without Python nobody else reads the log: {why}"),
    }
    match POSTGRES.get() {
        Ok(postgres) => drop(tests.env("CREST_POSTGRES", postgres.with_file_name(""))),
        Err(why) => eprintln!("without PostgreSQL import and export aren't tested with it: {why}"),
    }
    if long {
        // Every seeded search runs so many times as long.
        tests.env("CREST_SEEDS", "50").env("PROPTEST_CASES", "5000");
        tests.env("CREST_ROUNDS", CRASH_ROUNDS_LONG);
    }
    run(&mut tests)?;
    search_all(Duration::from_secs(if long { SEARCH_S_LONG } else { SEARCH_S }))?;
    // The main job as a stranger runs it, only shorter.
    run(&mut cargo(&[
        "run",
        "--release",
        "--locked",
        "--",
        "drill",
        "--duration",
        "5s",
        "--buyers",
        "100000",
    ]))?;
    // A rise that nobody asked for shows here before it shows in a rate.
    instructions(false)?;
    eprintln!("\nall tests passed");
    Ok(())
}
