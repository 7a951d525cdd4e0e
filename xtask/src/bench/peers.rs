//! `cargo xtask bench --peers`: the drill beside other systems that make the same orders durable,
//! beside the barest HTTP server, and beside the disk. All in one run, one after the other in
//! each round, with the same orders, on the same disk, their clients on the same cores.
//!
//! A peer gets the settings that are known to suit this work best and still keep its promise; they
//! are printed below the table. PostgreSQL takes orders one by one and stands beside Crest's
//! single orders; Redis and the bare server stand beside those and beside batches.

mod postgres;
mod redis;
mod resp;

use std::path::Path;
use std::time::{Duration, Instant};

use super::bare::BareFile;
use super::bare_server::{BareServer, Http};
use super::crest::{self, Drilled};
use super::load::{BUYER_BALANCE, Load, Population, SELLERS, Sustained, drive_apart};
use super::table::{Row, table, thousands, typical};
use super::{BATCH, CONNECTIONS};
use crate::run::{Failure, root};
use postgres::Postgres;
use redis::Redis;

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(5);
/// Of what steadies sooner: the bare server and the disk.
const ROUND_SHORT: Duration = Duration::from_secs(3);
/// Fewer than a drill's, so that every peer can be filled in time.
const BUYERS: u64 = 100_000;
const ITEMS: u64 = 10_000;
/// For PostgreSQL: how many rows orders fight for decides what it does.
const ITEMS_SOME: u64 = 1_000;
const ITEMS_HOT: u64 = 1;
/// Connections for single orders.
const SINGLES: usize = 512;
/// Orders that Redis is sent at once.
const PIPELINES: [usize; 2] = [16, 64];

pub(super) fn measure(
    command: &str,
    rounds: Option<usize>,
    only: Option<&str>,
) -> Result<String, Failure> {
    let began = Instant::now();
    let rounds = rounds.unwrap_or(ROUNDS);
    let folder = root().join("target/peers");
    std::fs::create_dir_all(&folder)?;
    let mut run = Run::start(&folder, only)?;
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds} …");
        run.round()?;
    }
    run.audit()?;
    let mut notes = run.notes();
    notes.push(format!("The whole took {:.0} s.", began.elapsed().as_secs_f64()));
    table(command, rounds, &run.rows(), &notes)
}

/// What one contestant sustained, round by round.
type Rounds = Vec<Sustained>;

/// Everything that is measured, and what it is measured on.
struct Run<'a> {
    folder: &'a Path,
    crest: std::path::PathBuf,
    threads: usize,
    wanted: [bool; 4],
    redis: Option<Redis>,
    postgres: Option<Contest>,
    batches: Vec<Drilled>,
    singles: Vec<Drilled>,
    /// With as few items as PostgreSQL has, and with one.
    singles_few: [Vec<Drilled>; 2],
    /// Batches and single orders, each on one thread and on all.
    bare: [[Rounds; 2]; 2],
    piped: [Rounds; 2],
    functions: [Rounds; 2],
    /// MB/s at the size of the frames of batches and of single orders.
    disk: [Vec<f64>; 2],
}

/// PostgreSQL, and how it is best asked for orders of some items and of one.
struct Contest {
    server: Postgres,
    loads: [(Population, postgres::Setup); 2],
}

const HYPER: usize = 0;
const REDIS: usize = 1;
const POSTGRES: usize = 2;
const DISK: usize = 3;

impl Run<'_> {
    fn start<'a>(folder: &'a Path, only: Option<&str>) -> Result<Run<'a>, Failure> {
        let wanted = ["hyper", "redis", "postgres", "disk"]
            .map(|name| only.is_none_or(|only| name.contains(only)));
        if !wanted.contains(&true) {
            return Err("--only: hyper, redis, postgres or disk".into());
        }
        let redis = match wanted[REDIS] {
            true => Some(Redis::start(folder, Population::new(BUYERS, ITEMS))?),
            false => None,
        };
        let postgres = match wanted[POSTGRES] {
            true => Some(Contest::start(folder)?),
            false => None,
        };
        Ok(Run {
            folder,
            crest: crest::build()?,
            threads: std::thread::available_parallelism()?.get(),
            wanted,
            redis,
            postgres,
            batches: Vec::new(),
            singles: Vec::new(),
            singles_few: Default::default(),
            bare: Default::default(),
            piped: Default::default(),
            functions: Default::default(),
            disk: Default::default(),
        })
    }

    /// Everything once.
    fn round(&mut self) -> Result<(), Failure> {
        if self.wanted[HYPER] || self.wanted[REDIS] || self.wanted[DISK] {
            self.batches.push(self.drill(BATCH, CONNECTIONS, ITEMS)?);
            self.singles.push(self.drill(1, SINGLES, ITEMS)?);
        }
        if self.wanted[HYPER] {
            for (at, (batch, connections)) in
                [(BATCH, CONNECTIONS), (1, SINGLES)].into_iter().enumerate()
            {
                for (side, threads) in [1, self.threads].into_iter().enumerate() {
                    let server = BareServer::start(threads, batch, Http::One)?;
                    let load = Load {
                        buyers: BUYERS,
                        items: ITEMS,
                        batch,
                        connections,
                        duration: ROUND_SHORT,
                    };
                    self.bare[at][side].push(drive_apart(&server.url, &load)?);
                }
            }
        }
        if let Some(redis) = &mut self.redis {
            for (rounds, pipeline) in self.piped.iter_mut().zip(PIPELINES) {
                rounds.push(redis.measure(pipeline, ROUND)?);
            }
        }
        for (at, items) in [ITEMS_SOME, ITEMS_HOT].into_iter().enumerate() {
            if self.wanted[POSTGRES] {
                let drilled = self.drill(1, SINGLES, items)?;
                self.singles_few[at].push(drilled);
            }
            if let Some(contest) = &mut self.postgres {
                let (population, setup) = &contest.loads[at];
                self.functions[at].push(contest.server.measure(population, *setup, ROUND)?);
            }
        }
        if self.wanted[DISK] {
            for (at, drills) in [&self.batches, &self.singles].into_iter().enumerate() {
                let frame_bytes = frame_bytes(drills.last());
                self.disk[at].push(synced_mb_per_s(self.folder, frame_bytes)?);
            }
        }
        Ok(())
    }

    fn drill(&self, batch: u64, connections: usize, items: u64) -> Result<Drilled, Failure> {
        let numbers = [
            ("--batch", batch),
            ("--connections", connections as u64),
            ("--buyers", BUYERS),
            ("--items", items),
            ("--reactors", self.threads as u64),
        ];
        let numbers = numbers.map(|(name, number)| [name.to_string(), number.to_string()]);
        let duration = format!("{}s", ROUND.as_secs());
        let mut args = vec!["--duration", &duration];
        args.extend(numbers.iter().flatten().map(String::as_str));
        crest::drill(&self.crest, self.folder, &args)
    }

    fn audit(&self) -> Result<(), Failure> {
        self.redis.as_ref().map_or(Ok(()), Redis::audit)?;
        self.postgres.as_ref().map_or(Ok(()), |contest| contest.server.audit())
    }

    fn rows(&self) -> Vec<Row> {
        let batches = "drill: batches of 1,000 over 8 connections";
        let singles = "drill: single orders over 512 connections";
        let mut rows = Vec::new();
        if self.wanted[HYPER] {
            for (at, (what, ours)) in
                [(batches, &self.batches), (singles, &self.singles)].into_iter().enumerate()
            {
                for (side, threads) in [(1, self.threads), (0, 1)] {
                    let threads = match threads {
                        1 => "one thread".to_string(),
                        threads => format!("{threads} threads, as the platform"),
                    };
                    let name = format!("a bare hyper server, {threads}");
                    rows.push(row(what, ours, name, &self.bare[at][side]));
                }
            }
        }
        if self.wanted[REDIS] {
            for (what, ours) in [(singles, &self.singles), (batches, &self.batches)] {
                for (pipeline, peer) in PIPELINES.into_iter().zip(&self.piped) {
                    let name = format!("Redis, the order in Lua, pipelines of {pipeline}");
                    rows.push(row(what, ours, name, peer));
                }
            }
        }
        if self.wanted[POSTGRES] {
            for (at, items) in ["1,000 items", "one hot item"].into_iter().enumerate() {
                let what = format!("{singles}, {items}");
                let name = "PostgreSQL, the order in one function".to_string();
                rows.push(row(&what, &self.singles_few[at], name, &self.functions[at]));
            }
        }
        if self.wanted[DISK] {
            for (at, (what, drills)) in
                [("batches", &self.batches), ("single orders", &self.singles)]
                    .into_iter()
                    .enumerate()
            {
                let kib = frame_bytes(drills.last()) >> 10;
                let mut row = Row::new(
                    format!("log of the drill with {what}: synced as it came, {kib} KiB at once"),
                    "MB/s",
                    "pwrite + fdatasync of a preallocated file, as much at once, nothing else to do",
                );
                let written = |drilled: &Drilled| drilled.log_bytes / drilled.duration_s / 1e6;
                row.ours = drills.iter().map(written).collect();
                row.peer.clone_from(&self.disk[at]);
                rows.push(row);
            }
        }
        rows
    }

    fn notes(&self) -> Vec<String> {
        let cpu = |drills: &[Drilled]| {
            let spent = drills.iter().map(|drilled| drilled.cpu_s_per_million);
            super::statistics::Spread::of(spent).median
        };
        let mut notes = vec![format!(
            "Every contestant: {} buyers with {} pence each, {} items (PostgreSQL and the drill \
             beside it: {}, and 1) of {} sellers, orders of 1 to 4 lines of Zipf popularity, in \
             rounds of {} s (bare servers and disk: {} s), flat out. An order takes stock for each \
             line, debits its buyer, credits its sellers, is remembered by its id and can be read, \
             and is synced before it is answered. Clients share the cores. The books of all were \
             audited.",
            thousands(BUYERS),
            thousands(BUYER_BALANCE),
            thousands(ITEMS),
            thousands(ITEMS_SOME),
            thousands(SELLERS),
            ROUND.as_secs(),
            ROUND_SHORT.as_secs()
        )];
        if !self.batches.is_empty() {
            notes.push(format!(
                "Crest: `crest drill --max --buyers {BUYERS} --items {ITEMS} --reactors {}`, with \
                 `--batch 1000 --connections 8` and `--batch 1 --connections 512`; CPU of the \
                 platform: {:.2} s and {:.2} s for a million orders.",
                self.threads,
                cpu(&self.batches),
                cpu(&self.singles)
            ));
        }
        if self.wanted[HYPER] {
            notes.push(
                "Bare server: hyper on single-threaded runtimes that share a port, reading bodies \
                 and answering a constant as long as Crest's answer, driven by the drill's \
                 generator in a process of its own with as many threads."
                    .to_string(),
            );
        }
        notes.extend(self.redis.as_ref().map(Redis::note));
        notes.extend(self.postgres.as_ref().map(|contest| {
            let [some, hot] = &contest.loads;
            contest.server.note(&[("1,000 items", some.1), ("one hot item", hot.1)])
        }));
        notes
    }
}

impl Contest {
    fn start(folder: &Path) -> Result<Contest, Failure> {
        // The one hot item is the first of the others: it has the same price and seller.
        let [some, hot] = [ITEMS_SOME, ITEMS_HOT].map(|items| Population::new(BUYERS, items));
        let mut server = Postgres::start(folder, &some)?;
        let some = (some.clone(), server.best_setup(&some)?);
        let hot = (hot.clone(), server.best_setup(&hot)?);
        Ok(Contest { server, loads: [some, hot] })
    }
}

fn row(what: &str, ours: &[Drilled], peer_name: String, peer: &[Sustained]) -> Row {
    let mut row = Row::new(what, "orders/s", peer_name);
    row.ours = ours.iter().map(|drilled| drilled.orders_per_s).collect();
    row.peer = peer.iter().map(|sustained| sustained.orders_per_s).collect();
    let ours: Vec<_> = ours.iter().map(|drilled| drilled.latency_ms).collect();
    let peer: Vec<_> = peer.iter().map(|sustained| sustained.latency_ms).collect();
    row.latency = Some([typical(&ours), typical(&peer)]);
    row
}

/// What the drill's log wrote at once on average, in whole blocks; setting up included.
fn frame_bytes(drilled: Option<&Drilled>) -> usize {
    const BLOCK: usize = 4096;
    let mean = drilled.map_or(0.0, |drilled| drilled.log_bytes / drilled.log_syncs.max(1.0));
    (mean as usize).max(1).next_multiple_of(BLOCK)
}

/// How much the disk takes when nothing else is to be done.
fn synced_mb_per_s(folder: &Path, frame_bytes: usize) -> Result<f64, Failure> {
    let dir = tempfile::Builder::new().prefix("disk-").tempdir_in(folder)?;
    let mut file = BareFile::create(&dir.path().join("file"), frame_bytes)?;
    let (start, mut written) = (Instant::now(), 0);
    while start.elapsed() < ROUND_SHORT {
        file.append(frame_bytes)?;
        written += frame_bytes;
    }
    Ok(written as f64 / start.elapsed().as_secs_f64() / 1e6)
}
