//! The command line.

mod follow;

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use loadgen::{Arrivals, Protocol, Stage};
use node::ArchiveLocation;
use relay::Url;

pub(crate) use follow::{Sink, SinkCommand, SinkPostgres, Webhook, WebhookCommand, WebhookSend};

/// Where the admin port is unless a command line says otherwise.
pub(crate) const ADMIN: &str = "127.0.0.1:9090";

/// Crest: the transaction platform for the biggest hour of the year.
///
/// Places, pays, cancels and refunds orders over HTTP; makes every one of them durable before it
/// is acknowledged; and proves afterwards, from the log alone, that not a unit or a penny is
/// wrong.
#[derive(Parser)]
#[command(name = "crest", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the platform.
    ///
    /// Prints the address when it is ready, serves until SIGTERM or SIGINT, then answers what is
    /// open and stops. Exit status 0: stopped cleanly; 70: the log failed, and nothing after
    /// that was acknowledged; 2: it could not start.
    Serve(Serve),
    /// Load the platform, then prove its books.
    ///
    /// Without --target: starts the platform as a process of its own with a fresh data
    /// directory, opens accounts and lists items, places orders for a while, stops the platform,
    /// audits its log, and compares the log with every acknowledgement. Exit status 0: the
    /// verdict is pass; 1: fail; 3: invalid, the generator could not keep its schedule; 2: the
    /// drill could not run.
    Drill(Drill),
    /// Load any URL, and say how it held.
    ///
    /// Sends requests on schedule, or as fast as answers come, and reports rate, latency and
    /// errors. Latency counts from the time at which a request was due. Exit status 0: every
    /// request was answered with a status from 200 to 399, and every --threshold was met; 1: not
    /// so; 3: invalid, the generator could not keep its schedule; 2: it could not run.
    ///
    /// The URL, headers and the body may have parts that differ: {{ n }}, {{uuid}}, {{int:1:100}},
    /// {{zipf:1000}}, {{float:0:1}}, {{choice:a|b}}, {{hex:16}}, {{string:8}}, {{now_ms}},
    /// {{now_iso}}, {{csv:COLUMN}}, {{csv:COLUMN:json}}, {{csv:COLUMN:url}}.
    Load(Load),
    /// Take accounts and items from CSV or PostgreSQL into a running platform.
    ///
    /// Columns are found by the names in the first line. Accounts: party, currency, balance and
    /// overdraft (may be missing, or empty). Items: item, seller, currency, price, stock and
    /// opens_ms, closes_ms, limit (likewise). A row that is there with the same content stays as
    /// it is, so an import can begin again whatever ended it; from a file it goes on where it had
    /// come. At the end the platform is asked what it holds. Exit status 0: all rows are there,
    /// and the sums are equal; 1: a row was refused or can't be read, or sums differ; 2: it could
    /// not run.
    Import(Import),
    /// Write a running platform's accounts and items as CSV, or into PostgreSQL.
    ///
    /// What is written can be imported. Each page of 10,000 rows is of its own moment: for one
    /// state of everything, let nobody trade. Exit status 0: it is written, and what was read
    /// again is what the platform showed; 1: it isn't; 2: it could not run.
    Export(Export),
    /// Mirror what a shop asked its own system into a platform, and compare the answers by day.
    ///
    /// Exit status 0: the platform answered as the shop's own system did; 1: there are differences;
    /// 2: it could not run.
    Shadow(Shadow),
    /// Check a data directory that nobody serves.
    ///
    /// Executes the whole log again and compares every outcome; checks that debits equal credits,
    /// that no item was oversold, that no command is there twice. Changes nothing. Exit status
    /// 0: nothing is wrong; 1: something is; 2: it could not be read.
    Audit(Audit),
    /// Look after the old segments of a log, wherever they are.
    Archive(Archive),
    /// Send what happens to a URL, signed, until it is taken.
    ///
    /// One process reads the feed of a platform and posts events to one endpoint, each at least
    /// once. It keeps in a directory what wasn't taken yet, and may be killed at any time.
    Webhook(Webhook),
    /// Write what happens into PostgreSQL, as tables.
    Sink(Sink),
    /// Replace the data key of an encrypted data directory that nobody serves.
    ///
    /// The directory's own key, which everything is encrypted with, stays as it is and is kept
    /// under the new data key: so nothing else is written, and a copy of the directory from
    /// before still opens with the old one. Exit status 0: done; 2: nothing was changed.
    Rekey(Rekey),
    /// Say where a running platform's time goes: functions, lines, threads.
    ///
    /// Samples its stacks through perf, and writes a flame graph, folded stacks, the stages of
    /// that time and a description into a directory. `replay` executes a captured log again and
    /// times the core; `diff` compares two profiles. Exit status 0: done; 2: it could not.
    Profile(Profile),
}

#[derive(ClapArgs)]
pub(crate) struct Serve {
    /// Where everything is kept. Made if it isn't there.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Address to serve HTTP/1.1 and HTTP/2 (prior knowledge) on. Port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) http: SocketAddr,
    /// Address of the admin port: `/healthz`, `/readyz`, `/metrics` for Prometheus, `/stages`.
    /// Plain HTTP without a key, so not for the world. Port 0 takes a free one; `off`: none.
    #[arg(long, value_name = "ADDR", default_value = ADMIN, value_parser = admin)]
    pub(crate) admin: Admin,
    /// Certificate that is shown over TLS, with those of its issuers behind it, as PEM. It is read
    /// again when it changes. Default: one that is made for the data directory, for development.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// File with the key of drills: 16 bytes or more, without the white space around them. Requests
    /// that are marked with it are rehearsal. Default: the environment variable CREST_DRILL_KEY
    /// has the key itself; without either, what is marked is refused.
    #[arg(long, value_name = "FILE")]
    pub(crate) drill_key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) open: OpenWith,
    #[command(flatten)]
    pub(crate) log: LogAt,
    /// Threads that serve connections, each with its part of the shards. Default: one for each
    /// core.
    #[arg(long, value_name = "N")]
    pub(crate) reactors: Option<NonZeroUsize>,
    /// Shards of a new data directory, 1 to 256. Fixed from then on. More of them spread over
    /// more cores, and cost memory: some 25 MB each, and a row for every item. Default 16.
    #[arg(long, value_name = "N")]
    pub(crate) shards: Option<NonZeroU16>,
    /// Settlement step of a new data directory, in whole seconds, up to ten years. Fixed from
    /// then on. What a seller earns is pending until the step in which it was earned and the next
    /// one are over; then it is swept to the seller's settlement account. Default 1d.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) settle_step: Option<Duration>,
    /// Bytes of a log segment of a new data directory: a multiple of 4096, from 2 MiB + 12 KiB
    /// to 1 GiB. Smaller ones take less space ahead of time. Default 64 MiB.
    #[arg(long, value_name = "BYTES")]
    pub(crate) segment_bytes: Option<NonZeroU64>,
    /// Accounts to be ready for, so that no table grows under load.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) accounts: u64,
    /// Items to be ready for.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) items: u64,
    /// Bytes of log after which a shard is saved again, so that a restart needn't execute them.
    /// Default: 256 MiB, or as much as all snapshots take, whichever is more.
    #[arg(long, value_name = "BYTES")]
    pub(crate) snapshot_every: Option<NonZeroU64>,
    #[command(flatten)]
    pub(crate) archive: ArchiveAt,
    /// Memory for orders and ids of changes: beyond it the oldest orders that are over leave it,
    /// and are found in the log. Default: a sixteenth of the machine's, at least 256 MiB.
    #[arg(long, value_name = "BYTES")]
    pub(crate) orders_memory: Option<NonZeroU64>,
    /// Bytes of the disk below which new orders, accounts, items and the like are refused, until
    /// there is room again; 0: never. Default: four segments of the log.
    #[arg(long, value_name = "BYTES")]
    pub(crate) disk_reserve: Option<u64>,
    /// The most readers of the feed at once. Default 64.
    #[arg(long, value_name = "N")]
    pub(crate) feed_readers: Option<usize>,
    /// Orders in memory to be ready for: 11 to 21 bytes of index each, taken at the start.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) orders: u64,
}

#[derive(ClapArgs)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) bulk: Bulk,
    /// Accounts: a CSV file (.csv or .csv.gz), `-` for standard input; with --postgres a table or
    /// a query.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) accounts: Option<String>,
    /// Items, likewise.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) items: Option<String>,
    /// Select from this database, without TLS, such as postgres://user@host/database.
    #[arg(long, value_name = "URL")]
    pub(crate) postgres: Option<String>,
    /// Rows per request, 1 to 10000.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) batch: u64,
    /// Keep how far it has come in this folder. Default: beside each source, as NAME.progress;
    /// removed at the end. Only files have it.
    #[arg(long, value_name = "DIR")]
    pub(crate) progress: Option<PathBuf>,
    /// Write rows that can't be taken to accounts.rejected.csv and items.rejected.csv in this
    /// folder, with their lines and why, and go on. Put right, such a file can be imported.
    /// Default: the first one ends the import; rows before it were taken.
    #[arg(long, value_name = "DIR")]
    pub(crate) rejects: Option<PathBuf>,
    /// Read and check all rows, say what they come to, and send none.
    #[arg(long)]
    pub(crate) check: bool,
    /// Don't read anything again to compare sums: on a platform that trades they differ.
    #[arg(long)]
    pub(crate) no_verify: bool,
}

#[derive(ClapArgs)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) bulk: Bulk,
    /// Accounts: the CSV file to write (.csv or .csv.gz); with --postgres a table that is there.
    #[arg(long, value_name = "TO")]
    pub(crate) accounts: Option<String>,
    /// Items, likewise.
    #[arg(long, value_name = "TO")]
    pub(crate) items: Option<String>,
    /// Insert into this database, without TLS, in one transaction for each table.
    #[arg(long, value_name = "URL")]
    pub(crate) postgres: Option<String>,
    /// Don't read anything again to compare sums: on a platform that trades they differ.
    #[arg(long)]
    pub(crate) no_verify: bool,
}

#[derive(ClapArgs)]
pub(crate) struct Shadow {
    #[command(flatten)]
    pub(crate) bulk: Bulk,
    /// Requests and what the shop's own system made of them, one in a line: a file, or `-` for
    /// standard input. docs/shadow.md has the form.
    #[arg(value_name = "LINES")]
    pub(crate) lines: String,
    /// Write each difference to a file, as a line of JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) differences: Option<PathBuf>,
}

/// What those have in common who send much.
#[derive(ClapArgs)]
pub(crate) struct Bulk {
    /// The platform, such as http://127.0.0.1:8080.
    pub(crate) url: String,
    /// Requests at a time, each on a connection of its own. Default: twice as
    /// many as there are cores.
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<NonZeroUsize>,
    /// How long the platform may be away or busy.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub(crate) retry_for: Duration,
    /// Take everything for rehearsal, with the key in this file, which the platform has to have.
    #[arg(long, value_name = "FILE")]
    pub(crate) drill_key: Option<PathBuf>,
    /// Write the figures to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl Bulk {
    /// Finds out before it begins that the figures can't be written.
    pub(crate) fn check_json(&self) -> Result<(), String> {
        ReportFiles { json: self.json.clone(), junit: None }.check([])
    }

    pub(crate) fn write_json(&self, figures: &impl serde::Serialize) -> Result<(), crate::Failure> {
        let Some(path) = &self.json else { return Ok(()) };
        let text = sonic_rs::to_string_pretty(figures)?;
        std::fs::write(path, text + "\n").map_err(|e| format!("{}: {e}", path.display()).into())
    }
}

/// Where a report goes besides the terminal.
#[derive(ClapArgs)]
pub(crate) struct ReportFiles {
    /// Write the figures to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write what was to hold, and whether it did, to a file, as JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
}

impl ReportFiles {
    /// Finds out before a run, not after it, that a file can't be written. `more` are others.
    pub(crate) fn check<'a>(
        &'a self,
        more: impl IntoIterator<Item = &'a PathBuf>,
    ) -> Result<(), String> {
        for path in self.json.iter().chain(&self.junit).chain(more) {
            let is_new = !path.exists();
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            file.map_err(|error| format!("{}: {error}", path.display()))?;
            if is_new {
                std::fs::remove_file(path).map_err(|e| format!("{}: {e}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Where the admin port is, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admin(pub(crate) Option<SocketAddr>);

#[derive(ClapArgs)]
pub(crate) struct Drill {
    /// What buyers do, and when: default, singles-day, flash-sale, soak, or a file (TOML).
    /// docs/profiles.md says what may be in it. What is said here goes before what it says.
    #[arg(long, value_name = "NAME|FILE", default_value = "default")]
    pub(crate) profile: String,
    /// How long orders fall due, in seconds, or as 90s, 5m, 1h. Default: as the profile says.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Orders per second, offered on schedule whatever the platform does (open loop). Latency
    /// counts from the time at which an order was due. With a profile that has a shape: its peak.
    #[arg(long, value_name = "ORDERS/S", conflicts_with = "max", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// As fast as answers come (closed loop). The default, unless the profile has a shape.
    #[arg(long)]
    pub(crate) max: bool,
    /// Let the profile's time pass so many times as fast; rates stay.
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(crate) compress: Option<f64>,
    /// How orders lie around the rate: even or poisson.
    #[arg(long, value_name = "HOW")]
    pub(crate) arrivals: Option<Arrivals>,
    /// Orders per request, 1 to 10000. 1 uses the path for single orders. Default 1000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) batch: Option<u64>,
    /// Open connections. Default 8.
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<NonZeroUsize>,
    /// Threads of the generator. Default 1.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// What to speak: HTTP's version 1.1, 2 or 3, or crest/1.
    #[arg(long, value_name = "VERSION", default_value = "1.1")]
    pub(crate) http: Http,
    /// Send commands as bytes (application/vnd.crest.v1), not as JSON. So does crest/1.
    #[arg(long, conflicts_with = "trace")]
    pub(crate) binary: bool,
    /// Load it over TLS. HTTP/3 and crest/1 always have it.
    #[arg(long, conflicts_with = "target")]
    pub(crate) tls: bool,
    /// Requests at a time on a connection, with HTTP/2, 3 and crest/1.
    #[arg(long, value_name = "N", default_value = "100")]
    pub(crate) streams: NonZeroUsize,
    /// Buyers, each with an account. Default 1000000.
    #[arg(long, value_name = "N")]
    pub(crate) buyers: Option<u64>,
    /// Items, of Zipf popularity. Default 100000.
    #[arg(long, value_name = "N")]
    pub(crate) items: Option<u64>,
    /// Lines per order, 1 to 2000. Default: 1 to 4, each as often.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=2000))]
    pub(crate) lines: Option<u16>,
    /// The same seed makes the same orders, at the same times. Default 1.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// What must hold for a pass, such as "p99 < 50ms", "errors < 0.1%", "rate > 500k", "pay p99
    /// < 80ms" or "audit ok". Can be given several times.
    #[arg(long, value_name = "WHAT", value_parser = loadgen::threshold::Threshold::parse)]
    pub(crate) threshold: Vec<loadgen::threshold::Threshold>,
    /// Drive a platform that runs already, such as http://127.0.0.1:8080. Acknowledged
    /// orders are read back at the end instead of an audit: all of them, or of very many as many
    /// as a minute allows, spread over the run.
    #[arg(long, value_name = "URL", conflicts_with_all = ["data", "data_key", "log"])]
    pub(crate) target: Option<String>,
    /// With --target: mark everything as rehearsal, with the key in this file, which the platform
    /// has to have (`serve --drill-key`). Trade isn't touched.
    #[arg(long, value_name = "FILE", requires = "target")]
    pub(crate) drill_key: Option<PathBuf>,
    /// With --target: the platform's admin port, such as 127.0.0.1:9090, to be asked where the
    /// time went.
    #[arg(long, value_name = "ADDR", requires = "target")]
    pub(crate) admin: Option<SocketAddr>,
    /// Keep the data here; must be new. Default: a temporary directory, removed after a pass.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) open: OpenWith,
    #[command(flatten)]
    pub(crate) log: LogAt,
    #[command(flatten)]
    pub(crate) files: ReportFiles,
    /// Replay recorded purchases (.csv or .csv.gz) instead of a profile.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["profile", "duration", "rate", "max", "batch", "buyers", "items", "lines"])]
    pub(crate) trace: Option<PathBuf>,
    /// With --trace: so many times as fast as it happened. Default: as fast as it goes.
    #[arg(long, value_name = "N", requires = "trace", value_parser = rate)]
    pub(crate) speed: Option<f64>,
    /// Write a flame graph of the platform under load to a file. Needs perf.
    #[arg(long, value_name = "FILE.svg", conflicts_with = "trace")]
    pub(crate) profile_out: Option<PathBuf>,
    /// Reactors of the platform that is started. Default: its own default.
    #[arg(long, value_name = "N", conflicts_with = "target")]
    pub(crate) reactors: Option<NonZeroUsize>,
    /// Shards of the data directory of the platform that is started, 1 to 256. Default 16.
    #[arg(long, value_name = "N", conflicts_with = "target")]
    pub(crate) shards: Option<NonZeroU16>,
}

#[derive(ClapArgs)]
pub(crate) struct Load {
    /// Such as http://127.0.0.1:8080/v1/items/{{zipf:1000}}.
    pub(crate) url: String,
    /// Method. Default: POST with a body, GET without.
    #[arg(long, short = 'X', value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// A header, "name: value". Can be given several times.
    #[arg(long, short = 'H', value_name = "HEADER")]
    pub(crate) header: Vec<String>,
    /// The body; @FILE takes it from a file.
    #[arg(long, short = 'd', value_name = "BODY|@FILE")]
    pub(crate) body: Option<String>,
    /// Rows for {{csv:COLUMN}} (.csv or .csv.gz); request n takes row n, and begins again.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Requests per second, sent on schedule whatever the server does (open loop).
    #[arg(long, short = 'r', value_name = "REQUESTS/S", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Rates over time: RATE:TIME or FROM..TO:TIME, one after the other, as in
    /// 0..1000:10s,1000:1m,5000:10s.
    #[arg(long, value_name = "STAGES", conflicts_with_all = ["rate", "duration"])]
    pub(crate) stages: Option<Stages>,
    /// A recorded shape: a file with lines of "seconds,rate".
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rate", "duration", "stages"])]
    pub(crate) shape: Option<PathBuf>,
    /// As fast as answers come (closed loop). The default where there is no rate.
    #[arg(long, conflicts_with_all = ["rate", "stages", "shape"])]
    pub(crate) max: bool,
    /// How requests lie around the rate: even or poisson.
    #[arg(long, value_name = "HOW", default_value = "even")]
    pub(crate) arrivals: Arrivals,
    /// What falls due within this time goes out together, late by no more than it. Less is more
    /// precise, more costs less CPU: at 20,000/s, 1ms costs about 0.6 times what 0.25ms does.
    #[arg(long, value_name = "TIME", default_value = "0.25ms", value_parser = duration)]
    pub(crate) grain: Duration,
    /// How long requests fall due. Default 10s.
    #[arg(long, short = 'z', value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Open connections.
    #[arg(long, short = 'c', value_name = "N", default_value = "64")]
    pub(crate) connections: NonZeroUsize,
    /// Threads that share them.
    #[arg(long, short = 't', value_name = "N", default_value = "1")]
    pub(crate) threads: NonZeroUsize,
    /// HTTP version to speak: 1.1, 2 or 3.
    #[arg(long, value_name = "VERSION", default_value = "1.1")]
    pub(crate) http: Http,
    /// Requests at a time on a connection, with HTTP/2 and 3.
    #[arg(long, short = 'm', value_name = "N", default_value = "100")]
    pub(crate) streams: NonZeroUsize,
    /// How long an answer is awaited.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Certificate authorities to trust (PEM), instead of the machine's.
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// Trust whoever answers.
    #[arg(long, short = 'k', conflicts_with = "cacert")]
    pub(crate) insecure: bool,
    /// What must hold, such as "p99 < 50ms" or "errors < 0.1%". Can be given several times.
    #[arg(long, value_name = "WHAT", value_parser = loadgen::threshold::Threshold::parse)]
    pub(crate) threshold: Vec<loadgen::threshold::Threshold>,
    /// The same seed makes the same requests, at the same times.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) files: ReportFiles,
    /// Write the latencies to a file that HdrHistogram's plotter reads.
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,
}

/// Rates over time.
#[derive(Clone, Debug)]
pub(crate) struct Stages(pub(crate) Vec<Stage>);

impl std::str::FromStr for Stages {
    type Err = String;

    fn from_str(text: &str) -> Result<Stages, String> {
        let stage = |text: &str| {
            let (rates, time) = text.split_once(':')?;
            let (from, to) = rates.split_once("..").unwrap_or((rates, rates));
            let rate_of = |text: &str| match text.trim() {
                "0" => Some(0.0),
                text => rate(text).ok(),
            };
            Some(Stage {
                from: rate_of(from)?,
                to: rate_of(to)?,
                time: duration(time.trim()).ok()?,
            })
        };
        let wrong = |text| format!("{text:?} is not RATE:TIME or FROM..TO:TIME, as 0..1000:10s");
        let stages = text.split(',').map(|text| stage(text).ok_or_else(|| wrong(text)));
        stages.collect::<Result<_, _>>().map(Stages)
    }
}

impl Drill {
    /// Whether the platform is loaded over TLS, or QUIC.
    pub(crate) fn is_secure(&self) -> bool {
        self.tls || matches!(self.http, Http::Three | Http::Crest1)
    }

    /// Whether commands are sent as bytes.
    pub(crate) fn is_binary(&self) -> bool {
        self.binary || self.http == Http::Crest1
    }
}

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Http {
    One,
    Two,
    Three,
    Crest1,
}

impl Http {
    /// With so many requests at a time on a connection, where there can be several.
    pub(crate) fn protocol(self, streams: usize) -> Protocol {
        match self {
            Http::One => Protocol::Http1,
            Http::Two => Protocol::Http2 { streams },
            Http::Three => Protocol::Http3 { streams },
            Http::Crest1 => Protocol::Crest1 { streams },
        }
    }
}

impl std::str::FromStr for Http {
    type Err = String;

    fn from_str(text: &str) -> Result<Http, String> {
        match text {
            "1" | "1.1" => Ok(Http::One),
            "2" => Ok(Http::Two),
            "3" => Ok(Http::Three),
            "crest/1" => Ok(Http::Crest1),
            _ => Err(format!("{text:?} is not 1.1, 2, 3 or crest/1")),
        }
    }
}

#[derive(ClapArgs)]
pub(crate) struct Audit {
    /// The data directory.
    #[arg(value_name = "DIR")]
    pub(crate) data: PathBuf,
    #[command(flatten)]
    pub(crate) archive: ArchiveAt,
    #[command(flatten)]
    pub(crate) open: OpenWith,
    /// Where to begin: at the first record, in the archive if need be, or at each shard's older or
    /// newer snapshot. What was traded is counted from there.
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = AuditFrom::Beginning)]
    pub(crate) from: AuditFrom,
    /// Write the figures to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Where an audit begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum AuditFrom {
    /// The first record.
    Beginning,
    /// Each shard's older snapshot.
    Oldest,
    /// Each shard's newest snapshot.
    Newest,
}

/// Where old segments are.
#[derive(ClapArgs)]
pub(crate) struct ArchiveAt {
    /// Where segments go that the log needs no longer: a directory, `s3://BUCKET/PATH` with the
    /// usual AWS_* variables (AWS_ENDPOINT for other stores), or `discard` to keep none. Every
    /// data directory needs a place of its own. Default: `archive` in the data directory.
    #[arg(long, value_name = "WHERE")]
    pub(crate) archive: Option<String>,
}

impl ArchiveAt {
    pub(crate) fn location(&self) -> ArchiveLocation {
        self.archive.as_deref().map(ArchiveLocation::parse).unwrap_or_default()
    }
}

#[derive(ClapArgs)]
pub(crate) struct Archive {
    #[command(subcommand)]
    pub(crate) command: ArchiveCommand,
}

#[derive(Subcommand)]
pub(crate) enum ArchiveCommand {
    /// Read all of an archive, and check that it is what was written and has no gap.
    ///
    /// The platform may serve meanwhile. Exit status 0: nothing is wrong; 1: something is; 2: it
    /// could not be read.
    Verify(ArchiveVerify),
}

#[derive(ClapArgs)]
pub(crate) struct ArchiveVerify {
    /// The data directory whose archive it is. If that is encrypted, the directory's key is in
    /// it; else only its place is needed.
    #[arg(value_name = "DIR")]
    pub(crate) data: PathBuf,
    #[command(flatten)]
    pub(crate) archive: ArchiveAt,
    #[command(flatten)]
    pub(crate) data_key: DataKeyAt,
}

/// The key of an encrypted data directory.
#[derive(ClapArgs)]
pub(crate) struct DataKeyAt {
    /// File with the data key: 32 bytes or more, without the white space around them. A data
    /// directory that is made with one is encrypted, its archive too, and can't be read without
    /// it. Default: the environment variable CREST_DATA_KEY has the key itself; without either,
    /// nothing is encrypted.
    #[arg(long, value_name = "FILE")]
    pub(crate) data_key: Option<PathBuf>,
}

/// What it takes to open a data directory.
#[derive(ClapArgs)]
pub(crate) struct OpenWith {
    #[command(flatten)]
    pub(crate) data_key: DataKeyAt,
    /// Servers of a log that is a JetStream stream: nats://USER:PASSWORD@HOST:PORT, several with
    /// commas between. Default: the environment variable CREST_NATS.
    #[arg(long, value_name = "URL")]
    pub(crate) nats: Option<String>,
    /// The same with a user of the system account, who is asked how the servers sync when the log
    /// is opened. Default: the environment variable CREST_NATS_SYSTEM.
    #[arg(long, value_name = "URL")]
    pub(crate) nats_system: Option<String>,
}

/// Where a new data directory's log is.
#[derive(ClapArgs)]
pub(crate) struct LogAt {
    /// Where the log of a new data directory is: in it, or on the NATS servers of --nats, as a
    /// stream. Snapshots and the index are in the directory either way.
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) log: Option<LogEngine>,
    /// With --log jetstream: the stream, which is made if it isn't there. Subjects begin with its
    /// name. Default `crest`.
    #[arg(long, value_name = "NAME")]
    pub(crate) nats_stream: Option<String>,
    /// With --log jetstream: refuse a stream that is a log already, instead of taking it over.
    #[arg(long, requires = "log")]
    pub(crate) new_stream: bool,
    /// With --log jetstream: how many servers keep the stream, 3 or 5. With 1, which is for trying
    /// out, what was acknowledged is gone with that server's disk. Default 3.
    #[arg(long, value_name = "N")]
    pub(crate) nats_replicas: Option<usize>,
}

/// A log's engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum LogEngine {
    /// A directory.
    Local,
    /// A stream on NATS servers.
    Jetstream,
}

#[derive(ClapArgs)]
pub(crate) struct Rekey {
    /// The data directory.
    #[arg(value_name = "DIR")]
    pub(crate) data: PathBuf,
    #[command(flatten)]
    pub(crate) data_key: DataKeyAt,
    /// File with the data key from now on.
    #[arg(long, value_name = "FILE")]
    pub(crate) new_data_key: PathBuf,
}

#[derive(ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Profile {
    #[command(subcommand)]
    pub(crate) command: Option<ProfileCommand>,
    #[command(flatten)]
    pub(crate) sample: ProfileSample,
}

#[derive(Subcommand)]
pub(crate) enum ProfileCommand {
    /// Execute a captured log again, and time the core frame by frame.
    ///
    /// The directory must not be served meanwhile; nothing in it is changed. Frames that are slow
    /// in every round are slow because of their work, those that are slow in one were held up by
    /// the machine. With perf, a flame graph of the core alone is written.
    Replay(ProfileReplay),
    /// Name the functions and stages that changed between two profiles.
    ///
    /// Only what differs by more than chance explains (a z-test at 99 %) is named.
    Diff(ProfileDiff),
}

#[derive(ClapArgs)]
pub(crate) struct ProfileSample {
    /// How long to sample, in seconds, or as 90s, 5m, 1h.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) seconds: Duration,
    /// The process. Default: the only crest serve of this machine.
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Its admin address, for the times of its stages. Default: what its command line names.
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin: Option<SocketAddr>,
    /// Write the files here. Default: profile-TIME in the current directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(ClapArgs)]
pub(crate) struct ProfileReplay {
    /// The data directory.
    #[arg(value_name = "DIR")]
    pub(crate) data: PathBuf,
    #[command(flatten)]
    pub(crate) open: OpenWith,
    /// How often everything is executed and timed.
    #[arg(long, value_name = "N", default_value = "3")]
    pub(crate) rounds: NonZeroUsize,
    /// Measure the frames of this shard alone. Offsets are those of a shard.
    #[arg(long, value_name = "N")]
    pub(crate) shard: Option<u16>,
    /// Measure from the frame that holds this offset on.
    #[arg(long, value_name = "OFFSET", requires = "shard")]
    pub(crate) from: Option<u64>,
    /// Measure up to the frame that holds this offset, and stop there.
    #[arg(long, value_name = "OFFSET", requires = "shard")]
    pub(crate) to: Option<u64>,
    /// Measure the one frame that holds this offset, and count its commands. More rounds give
    /// more samples of it.
    #[arg(long, value_name = "OFFSET", requires = "shard", conflicts_with_all = ["from", "to"])]
    pub(crate) offset: Option<u64>,
    /// What the platform was told to be ready for: with other numbers, tables grow at other
    /// moments.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) accounts: u64,
    /// Items that it was told to be ready for.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) items: u64,
    /// Orders that it was told to be ready for.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) orders: u64,
    /// Write the files here. Default: replay-TIME in the current directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(ClapArgs)]
pub(crate) struct ProfileDiff {
    /// The first profile: its directory, or a file of folded stacks.
    #[arg(value_name = "A")]
    pub(crate) before: PathBuf,
    /// The second.
    #[arg(value_name = "B")]
    pub(crate) after: PathBuf,
    /// Write the picture here. Default: flame-diff.svg in the current directory.
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) out: Option<PathBuf>,
    /// Write every change to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

fn admin(text: &str) -> Result<Admin, String> {
    match text {
        "off" => Ok(Admin(None)),
        _ => text.parse().map(|address| Admin(Some(address))).map_err(|_| {
            format!("{text:?} is neither an address such as 127.0.0.1:9090 nor `off`")
        }),
    }
}

/// A URL that can be asked over HTTP.
fn http(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("{error}"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err("it must begin with http:// or https://, and name a host".to_string()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match loadgen::profile::parse_time(text) {
        Some(time) if !time.is_zero() => Ok(time),
        _ => Err(format!("{text:?} is not a time such as 20, 250ms, 20s, 5m or 1h, up to 7 days")),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.replace(['_', ','], "").parse() {
        Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(rate),
        _ => Err(format!("{text:?} is not a number between 0 and 1,000,000,000")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(rate("583,000"), Ok(583_000.0));
        let stages: Stages = "0..1000:10s,500:1m".parse().unwrap();
        assert_eq!(stages.0.iter().map(|stage| stage.to).collect::<Vec<_>>(), [1000.0, 500.0]);
        assert!("1000".parse::<Stages>().is_err());
        assert_eq!(admin("off"), Ok(Admin(None)));
        assert_eq!(admin("[::1]:0"), Ok(Admin(Some("[::1]:0".parse().unwrap()))));
        assert!(admin("9090").is_err() && admin("").is_err());
        assert!(duration("-1").is_err() && duration("x").is_err() && rate("nan").is_err());
    }
}
