//! Runs worlds: one seed with its trace, or many.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[cfg(planted)]
use model::planted::{Bug, plant};
use sim::{Options, Ran, Violation};

const USAGE: &str =
    "sim --seed N [--bug B] | --runs N [--from SEED] | --minutes M [--from SEED] | --bugs TRIALS";
/// A planted bug that isn't found in so many runs isn't found.
#[cfg(planted)]
const HUNT_MAX: u64 = 3_000;

/// What all runs together did.
#[derive(Default)]
struct Total {
    runs: u64,
    events: u64,
    orders: u64,
    records: u64,
    sold: u64,
    snapshots: u64,
    trimmed: u64,
    lookups: u64,
    left_memory: u64,
    restored: u64,
    passed_over: u64,
    refused: u64,
    faults: BTreeMap<&'static str, u64>,
    failures: Vec<Violation>,
}

impl Total {
    fn add(&mut self, ran: Result<Ran, Box<Violation>>) {
        self.runs += 1;
        match ran {
            Ok(ran) => {
                self.events += ran.events;
                self.orders += ran.orders;
                self.records += ran.records;
                self.sold += ran.sold;
                self.snapshots += ran.snapshots;
                self.trimmed += ran.trimmed;
                self.lookups += ran.lookups;
                self.left_memory += ran.left_memory;
                self.restored += ran.restored;
                self.passed_over += ran.passed_over;
                self.refused += u64::from(ran.refused);
                for (kind, count) in ran.faults {
                    *self.faults.entry(kind).or_default() += count;
                }
            }
            Err(violation) => self.failures.push(*violation),
        }
    }
}

/// What is asked for.
enum Search {
    Runs(u64),
    Time(Duration),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    #[cfg(planted)]
    {
        let wanted = value("--bug");
        plant(Bug::ALL.into_iter().find(|bug| Some(*bug as u64) == wanted));
        if let Some(trials) = value("--bugs") {
            return hunt(trials.max(1));
        }
    }
    if let Some(seed) = value("--seed") {
        return replay(seed);
    }
    let search = match (value("--runs"), value("--minutes")) {
        (Some(runs), None) => Search::Runs(runs),
        (None, Some(minutes)) => Search::Time(Duration::from_secs(60 * minutes)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    search_from(value("--from").unwrap_or(1), &search)
}

fn replay(seed: u64) -> ExitCode {
    match sim::run(seed, &Options { trace: true, ..Options::default() }) {
        Ok(ran) => {
            println!("{ran:?}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
    }
}

/// How many runs it takes until each of the planted bugs is found: the median of some trials.
#[cfg(planted)]
fn hunt(trials: u64) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {})); // What is found is told in one line.
    let mut missed = 0;
    for bug in Bug::ALL {
        plant(Some(bug));
        let options = Options::default();
        let mut runs = Vec::new();
        let mut found = None;
        for trial in 0..trials {
            let first = 1_000_000 * (trial + 1);
            let seeds = first..first + HUNT_MAX;
            let failed = seeds.map(|seed| sim::run(seed, &options)).position(|ran| match ran {
                Ok(_) => false,
                Err(violation) => {
                    found = Some(violation);
                    true
                }
            });
            runs.push(failed.map_or(u64::MAX, |at| at as u64 + 1));
        }
        runs.sort_unstable();
        let (median, most) = (runs[runs.len() / 2], runs[runs.len() - 1]);
        match found.filter(|_| most < u64::MAX) {
            Some(violation) => {
                let what: String = violation.what.chars().take(100).collect();
                let seed = violation.seed;
                println!(
                    "{:<18} found in {trials} of {trials} trials, after {median} runs (median), \
                     {most} at most; seed {seed}: {what}",
                    format!("{bug:?}")
                );
            }
            None => {
                missed += 1;
                println!("{:<18} missed in {HUNT_MAX} runs", format!("{bug:?}"));
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn search_from(first: u64, search: &Search) -> ExitCode {
    let total = Mutex::new(Total::default());
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let started = Instant::now();
    let worker = || {
        let options = Options::default();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let over = match search {
                Search::Runs(runs) => seed - first >= *runs,
                Search::Time(time) => started.elapsed() >= *time,
            };
            if over {
                break;
            }
            let ran = sim::run(seed, &options);
            if let Err(violation) = &ran {
                println!("seed {seed}, {violation}");
            }
            let mut total = total.lock().expect("no run panics while it holds the lock");
            total.add(ran);
            if total.failures.len() >= 10 {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(worker)));
    });
    let total = total.into_inner().expect("no run panics while it holds the lock");
    let faults: Vec<String> =
        total.faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    println!(
        "{} runs in {:.1} s, {} events, {} orders, {} records, {} units sold, {} snapshots, {} \
         segments trimmed, {} look-ups, {} orders not in memory at the end; {} \
         shards restored from one, {} passed over; {}; {} refused to serve damage; {} failures",
        total.runs,
        started.elapsed().as_secs_f64(),
        total.events,
        total.orders,
        total.records,
        total.sold,
        total.snapshots,
        total.trimmed,
        total.lookups,
        total.left_memory,
        total.restored,
        total.passed_over,
        faults.join(", "),
        total.refused,
        total.failures.len()
    );
    if total.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
